//! Sorting what a server says: which message belongs to which call, what the link answers itself,
//! what goes to the owner.
//!
//! The rule that matters: a question of a legacy server that names no call is only handed to a
//! caller when it can be nobody else's. With one call in flight on the link, and none that was
//! given up without an answer, it is that call's. Otherwise it is declined, and the owner remembers
//! that this server asks, so that from then on callers who can be asked get a link of their own.

use crate::{
    catalog::ListingKind,
    event::{End, LinkEvent},
    instance::Instance,
    link::LinkKey,
};
use bytes::Bytes;
use fairlead_core::{Code, ServerName};
use fairlead_wire::{Field, Frame, Limits, Method, list, message};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;

/// What a link knows of itself when a message comes in.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) link: u64,
    pub(crate) server: ServerName,
    pub(crate) instance: Arc<Instance>,
    pub(crate) key: LinkKey,
    pub(crate) events: mpsc::Sender<LinkEvent>,
    /// 0: nobody used the link yet; `u64::MAX`: several did; else the one client that did.
    pub(crate) sole_user: AtomicU64,
    /// Messages that came in besides plain answers: a sign of life.
    heard: AtomicU64,
    /// A task of a client lives, or lived, on the link.
    has_tasks: AtomicBool,
    /// Clients with other roots get another link, once the server asked for any.
    pub(crate) keeps_roots_apart: bool,
    /// The server was told the roots of one client, which are not part of the link's key: nobody else may use it.
    is_rooted: AtomicBool,
    closed: AtomicBool,
    /// There was no room for an update of a resource.
    missed: AtomicBool,
}

/// Questions of which it is remembered whose they were.
const MAX_ASKED: usize = 256;

/// Which calls the latest questions were put to, by their ids (raw): their withdrawal is for the same.
#[derive(Debug, Default)]
pub(crate) struct AskedOf(VecDeque<(Box<str>, u64)>);

impl AskedOf {
    pub(crate) fn note(&mut self, question: &Frame, call: u64) {
        let Some(id) = question.id() else { return };
        // Servers may use an id again once it is answered.
        self.0.retain(|(other, _)| **other != *id);
        if self.0.len() >= MAX_ASKED {
            self.0.pop_front();
        }
        self.0.push_back((id.into(), call));
    }

    /// The call whose question a `notifications/cancelled` withdraws.
    pub(crate) fn take(&mut self, notice: &Frame) -> Option<u64> {
        let id = notice.raw(Field::ParamRequestId)?;
        let at = self.0.iter().position(|(other, _)| **other == *id)?;
        self.0.remove(at).map(|(_, call)| call)
    }
}

/// What to do with a question.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Answer the server with this.
    Answer(Bytes),
    /// Ask the caller whose call it belongs to.
    Ask,
}

/// The task a question belongs to, where it says so.
pub(crate) fn task_of(frame: &Frame) -> Option<String> {
    list::string_member(frame.raw(Field::MetaRelatedTask)?, "taskId").map(std::borrow::Cow::into_owned)
}

/// The task a `tasks/result` waits for.
pub(crate) fn awaited_task(method: Method, request: &Bytes) -> Option<Box<str>> {
    if method != Method::TasksResult {
        return None;
    }
    let frame = Frame::parse(request.clone(), &Limits::default()).ok()?;
    frame.str(Field::TaskId).map(Into::into)
}

impl Inbound {
    pub(crate) fn new(
        link: u64,
        server: ServerName,
        instance: Arc<Instance>,
        key: LinkKey,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        Self {
            link,
            server,
            instance,
            key,
            events,
            sole_user: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            has_tasks: AtomicBool::new(false),
            keeps_roots_apart: false,
            is_rooted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            missed: AtomicBool::new(false),
        }
    }

    /// Notes that the server said something.
    pub(crate) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that differs when the server said something in between.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Notes that a task was made on the link.
    pub(crate) fn note_task(&self) {
        self.has_tasks.store(true, Ordering::Relaxed);
    }

    /// Whether a report of progress that came with `call` is of a task that another call made.
    pub(crate) fn is_of_a_task(&self, report: &Frame, call: u64) -> bool {
        self.has_tasks.load(Ordering::Relaxed)
            && report
                .raw(Field::ParamProgressToken)
                .and_then(|token| token.parse::<u64>().ok())
                .is_some_and(|token| token != call)
    }

    /// Whether what names no call may be taken for the one call in flight: with tasks of several clients on the
    /// link, which run without any, it could be one of theirs.
    pub(crate) fn may_guess(&self) -> bool {
        !self.has_tasks.load(Ordering::Relaxed) || self.sole_user.load(Ordering::Relaxed) != u64::MAX
    }

    /// Whether this is the first question for roots on a link that has none, which one client may answer if it alone
    /// uses the link now.
    pub(crate) fn is_for_first_roots(&self, frame: &Frame) -> bool {
        frame.method_class() == Method::RootsList
            && self.key.roots.is_none()
            && self.keeps_roots_apart
            && self.key.capabilities.has_roots()
    }

    /// From now on the link is the one client's whose roots the server is told. To be called under the lock under which
    /// calls are entered: whoever comes later finds it taken.
    pub(crate) fn take_root(&self) {
        self.is_rooted.store(true, Ordering::SeqCst);
    }

    /// Whether the link is one client's, and no others' any more.
    pub(crate) fn is_rooted(&self) -> bool {
        self.is_rooted.load(Ordering::SeqCst)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Tells the owner that the transport ended; said once.
    pub(crate) fn closed(&self, reason: impl Into<String>, end: End) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.tell(LinkEvent::Closed { link: self.link, reason: reason.into(), end });
        }
    }

    /// Queues an event for the owner. The queue is bounded; what does not fit is made good by the
    /// owner's periodic look at its links.
    pub(crate) fn tell(&self, event: LinkEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!(server = %self.server, "the owner's queue is full; an event was dropped");
        }
    }

    /// The same for an update of a resource; that one was dropped is remembered.
    pub(crate) fn updated(&self, event: LinkEvent) {
        if self.events.try_send(event).is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    /// What the server said on its own for a while was not heard.
    pub(crate) fn lost_track(&self) {
        for kind in ListingKind::ALL {
            self.tell(LinkEvent::ListChanged { kind });
        }
        self.tell(LinkEvent::Rewatched { link: self.link, key: None });
    }

    /// Whether an update was dropped since this was asked last.
    pub(crate) fn take_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed) && self.missed.swap(false, Ordering::Relaxed)
    }

    /// Decides about a request of the server. `tied`: the transport itself names the call (an SSE
    /// stream of a POST). `sole`: exactly one call can have caused it, and is alone on the link.
    pub(crate) fn question(&self, frame: &Frame, tied: bool, sole: bool) -> Verdict {
        let id = frame.id().unwrap_or("null");
        let mut answerable = true;
        match frame.method_class() {
            Method::Ping => return Verdict::Answer(message::result(id, "{}")),
            Method::RootsList => {
                if let Some(roots) = &self.key.roots {
                    let result = std::str::from_utf8(&roots.result).unwrap_or("{\"roots\":[]}");
                    return Verdict::Answer(message::result(id, result));
                }
                if self.key.capabilities.has_roots() {
                    self.tell(LinkEvent::AsksRoots);
                }
                // What one client answers stays with the link: the others that used it must not use it again.
                // Taken before it is looked who used it: whoever comes between the two sees that it is taken.
                let was_taken = self.is_rooted();
                let takes = self.is_for_first_roots(frame) && (tied || sole);
                if takes {
                    self.take_root();
                }
                answerable = self.sole_user.load(Ordering::SeqCst) != u64::MAX || (sole && was_taken);
                if takes && !answerable {
                    self.is_rooted.store(was_taken, Ordering::SeqCst);
                }
            }
            Method::CreateMessage | Method::ElicitationCreate if !tied && self.key.capabilities.asks_anything() => {
                self.tell(LinkEvent::AsksUntied);
            }
            _ => {}
        }
        if answerable && (tied || sole) && self.key.capabilities.asks_anything() {
            return Verdict::Ask;
        }
        self.tell(LinkEvent::Declined);
        tracing::info!(
            server = %self.server,
            method = frame.method(),
            "declined a question of the server: it names no call, or its caller cannot be asked"
        );
        let info = Code::QuestionDeclined.info();
        Verdict::Answer(message::error(
            Some(id),
            info.rpc,
            &format!("the gateway cannot tell whom to ask ({})", Code::QuestionDeclined.label()),
            None,
        ))
    }

    /// Sorts a notification that belongs to no call.
    pub(crate) fn notification(&self, frame: Frame) {
        let list = |kind| LinkEvent::ListChanged { kind };
        match frame.method_class() {
            Method::ToolsListChanged => self.tell(list(ListingKind::Tools)),
            Method::PromptsListChanged => self.tell(list(ListingKind::Prompts)),
            Method::ResourcesListChanged => {
                self.tell(list(ListingKind::Resources));
                self.tell(list(ListingKind::Templates));
            }
            Method::ResourceUpdated => {
                if let Some(uri) = frame.str(Field::Uri).map(|uri| Arc::<str>::from(&*uri)) {
                    self.updated(LinkEvent::ResourceUpdated { link: self.link, key: None, uri, frame });
                }
            }
            Method::TaskStatus => self.tell(LinkEvent::TaskStatus { link: self.link, frame }),
            // Of a call that was answered: with a task, if there is any, which goes on.
            Method::Progress if self.has_tasks.load(Ordering::Relaxed) => {
                self.tell(LinkEvent::TaskStatus { link: self.link, frame });
            }
            Method::ElicitationComplete => {
                let user = match self.sole_user.load(Ordering::Relaxed) {
                    0 | u64::MAX => None,
                    user => Some(user),
                };
                self.tell(LinkEvent::ElicitationComplete { user, frame });
            }
            Method::LogMessage | Method::Other => match self.sole_user.load(Ordering::Relaxed) {
                0 | u64::MAX => {
                    tracing::trace!(server = %self.server, method = frame.method(), "dropped: belongs to no call");
                }
                user => self.tell(LinkEvent::Untied { user, frame }),
            },
            _ => {}
        }
    }
}
