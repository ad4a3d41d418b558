//! What a server says on its own, outside any call, after the owner has sorted it.

use crate::{catalog::ListingKind, link::LinkKey};
use fairlead_wire::{Era, Frame};
use std::sync::Arc;

/// Something the gateway may have to tell its clients.
#[derive(Debug, Clone)]
pub enum ServerEvent {
    /// A listing changed and the new one is published.
    ListChanged {
        /// Which one.
        kind: ListingKind,
        /// For clients served in which era.
        era: Era,
        /// Whether it differs from an earlier list of this very kind, so that what was answered before may be outdated. The
        /// first list that is ever learned is news to clients, and outdates nothing.
        replaces: bool,
    },
    /// `notifications/resources/updated`, for whoever subscribed through `key`.
    ResourceUpdated {
        /// The link key it came in on.
        key: LinkKey,
        /// The URI as the server knows it.
        uri: Arc<str>,
        /// The notification as it came.
        frame: Frame,
    },
    /// What is watched through `key` may have changed unseen: the server was away, or said more than there was room for.
    Rewatched {
        /// The key of the link.
        key: LinkKey,
    },
    /// Nothing can be watched through `key` any more: the server speaks another era now. Whoever does has to ask anew.
    Unwatchable {
        /// The key of the link.
        key: LinkKey,
    },
    /// Something that is watched through `key` is not any more, because the server does not want to: what is
    /// [`Watch::is_lost`](crate::Watch::is_lost) has to be asked for anew.
    Refused {
        /// The key of the link.
        key: LinkKey,
    },
    /// A server said how a task of 2025-11-25 is, or how far: its progress goes on under the token of the call that
    /// made it.
    TaskStatus {
        /// The link it came over: what a server calls a task is its own only there.
        link: u64,
        /// The notification as it came.
        frame: Frame,
    },
    /// A question was declined: it named no call, or its caller could not be asked.
    QuestionDeclined,
    /// An elicitation by URL is over, said outside any call.
    ElicitationComplete {
        /// The one user of the link, where it has only one.
        user: Option<u64>,
        /// The notification as it came.
        frame: Frame,
    },
    /// A message of a link that only one client has ever used (log messages and the like).
    /// On a link that was shared nothing outside a call is forwarded: it could be somebody else's.
    Untied {
        /// The one user of the link.
        user: u64,
        /// The notification as it came.
        frame: Frame,
    },
}

/// How a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The process or the connection is gone.
    Died,
    /// The server is well but no longer knows the session: a new one is opened without delay.
    Forgotten,
}

/// What links tell their owner.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The link is gone.
    Closed { link: u64, reason: String, end: End },
    /// A call got no answer, or no connection: the server may be gone or hung.
    Suspect { link: u64 },
    /// The server says a list changed.
    ListChanged { kind: ListingKind },
    /// A subscribed resource changed; without a key it came as what the link itself carries.
    ResourceUpdated { link: u64, key: Option<LinkKey>, uri: Arc<str>, frame: Frame },
    /// Resources are watched again after a time when nobody told of their changes.
    Rewatched { link: u64, key: Option<LinkKey> },
    /// The server took back that it sends updates of something.
    Refused { link: u64, key: Option<LinkKey> },
    /// A notification outside any call, on a link with exactly one user.
    Untied { user: u64, frame: Frame },
    /// An elicitation is over, said outside any call.
    ElicitationComplete { user: Option<u64>, frame: Frame },
    /// A server said how a task is, or how far.
    TaskStatus { link: u64, frame: Frame },
    /// A question of the server was declined.
    Declined,
    /// The server asked for roots.
    AsksRoots,
    /// A message to send that nobody waits for (a cancellation, an answer to a ping).
    Push { link: u64, message: bytes::Bytes },
    /// The server asked something in a way that names no call.
    AsksUntied,
}
