//! How links come to be: for a call, to find out what the server is, or in place of one that ended.

use super::{Done, Owner, is_pinned_modern};
use crate::{
    catalog::ListingKind,
    event::ServerEvent,
    handle::Pools,
    link::{Link, LinkKey, inbound::Inbound},
    view::{CatalogKey, State},
};
use fairlead_config::Share;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::Era;
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// How long a server that is starting may keep one of the places at the start; a slow one then goes on
/// without, so that it keeps nobody else from starting.
const TURN: Duration = Duration::from_secs(1);

/// Those who wait for a link that is being opened.
pub(super) struct Waiting {
    pub(super) replies: Vec<oneshot::Sender<Result<(), UpstreamError>>>,
}

impl Owner {
    /// A call wants a link.
    pub(super) fn open_for(&mut self, key: LinkKey, extra: bool, reply: oneshot::Sender<Result<(), UpstreamError>>) {
        let open = self.pool(&key).is_some_and(|pool| pool.links.load().iter().any(|link| link.is_open()));
        if open && !extra {
            let _ = reply.send(Ok(()));
            return;
        }
        if let Some(waiting) = self.opening.get_mut(&key) {
            waiting.replies.push(reply);
            return;
        }
        let cap = self.shared.server.max_sessions;
        if self.links().len() + self.opening.len() >= cap && !self.close_an_idle_link(&key) {
            let _ =
                reply.send(Err(UpstreamError::new(UpstreamErrorKind::AtCapacity, Outcome::NotMade, self.full(cap))));
            return;
        }
        self.open(key.clone(), false, Some(key.era));
        if let Some(waiting) = self.opening.get_mut(&key) {
            waiting.replies.push(reply);
        }
    }

    /// Why there is no room for another link.
    fn full(&self, cap: usize) -> String {
        let with_tasks = self.links().iter().filter(|link| link.tasks.len() > 0).count();
        let tasks = match with_tasks {
            0 => String::new(),
            1 => ", and tasks run on one of them".to_owned(),
            many => format!(", and tasks run on {many} of them"),
        };
        format!("it has {cap} sessions, which is its limit (`max_sessions`){tasks}")
    }

    /// Makes room for `key` by closing the link that was idle longest.
    fn close_an_idle_link(&mut self, key: &LinkKey) -> bool {
        let idle = self
            .links()
            .into_iter()
            // Of its own key only one that no call is given: a question there could be of a call given up.
            .filter(|link| link.key() != key || link.is_haunted() || link.inbound.is_rooted())
            .filter(|link| link.in_flight() == 0 && !link.is_occupied() && !self.carries(link.id))
            // A process or a session takes its tasks with it.
            .filter(|link| link.tasks.len() == 0)
            .max_by_key(|link| (!link.is_kept(), link.idle_for()));
        match idle {
            Some(link) => {
                self.close(&link);
                true
            }
            None => false,
        }
    }

    /// Opens the first link, whatever the server turns out to speak.
    pub(super) fn find_out(&mut self, queued: bool) {
        if self.opening.contains_key(&self.primary) {
            return;
        }
        self.finding_out = true;
        // What it spoke last is asked first; a server that only spoke legacy is asked anew every
        // other time after that failed.
        let view = self.shared.view.load();
        let is_legacy = view.modern.is_none() && view.legacy.is_some() && self.backoff.failures().is_multiple_of(2);
        let hint = is_legacy.then_some(Era::Legacy);
        drop(view);
        self.open(self.primary.clone(), queued, hint);
    }

    pub(super) fn open(&mut self, key: LinkKey, queued: bool, hint: Option<Era>) {
        if self.opening.contains_key(&key) {
            return;
        }
        self.opening.insert(key.clone(), Waiting { replies: Vec::new() });
        let instance = Arc::clone(&self.shared.instance);
        let mut inbound =
            Inbound::new(self.next_link, self.name().clone(), instance, key.clone(), self.event_sender.clone());
        inbound.keeps_roots_apart = self.shared.server.share != Share::Shared;
        self.next_link += 1;
        let opener = Arc::clone(&self.opener);
        let starts = queued.then(|| Arc::clone(&self.environment.starts));
        self.tasks.spawn(async move {
            // At start-up servers queue for their turn; a call never does.
            let turn = match starts {
                Some(starts) => starts.acquire_owned().await.ok(),
                None => None,
            };
            let mut opening = std::pin::pin!(opener.open(inbound, hint));
            let result = match tokio::time::timeout(TURN, opening.as_mut()).await {
                Ok(result) => result,
                Err(_) => {
                    drop(turn);
                    opening.await
                }
            };
            Done::Opened { key, result }
        });
    }

    pub(super) fn opened(&mut self, wanted: &LinkKey, link: Link) {
        let link = Arc::new(link);
        link.touch();
        self.retry = None;
        let key = link.key().clone();
        let mut pools = Pools::clone(&self.shared.pools.load());
        let pool = Arc::clone(pools.entry(key.clone()).or_default());
        let mut links = Vec::clone(&pool.links.load());
        links.retain(|link| !link.is_closed());
        links.push(Arc::clone(&link));
        pool.links.store(Arc::new(links));
        self.shared.pools.store(Arc::new(pools));
        if *wanted == self.primary {
            self.finding_out = false;
            self.primary = key.clone();
        }
        tracing::info!(
            server = %self.name(),
            revision = link.peer().revision.as_str(),
            process = link.process_id(),
            "connected to the server"
        );
        self.publish(|view| {
            view.state = State::Ready;
            let peer = match key.era {
                Era::Modern => {
                    // A server that was started anew may have learned the older revisions.
                    view.legacy_refused = is_pinned_modern(&self.shared.server);
                    &mut view.modern
                }
                Era::Legacy => {
                    view.legacy_refused = false;
                    &mut view.legacy
                }
            };
            if peer.as_ref().is_none_or(|peer| peer.answer != link.peer().answer) {
                view.catalog_version += 1;
            }
            *peer = Some(Arc::clone(link.peer()));
            if key.era == Era::Legacy && *wanted == LinkKey::modern() {
                // The server went back to the session-based revisions.
                view.modern = None;
            }
        });
        pool.freed.notify_one();
        if let Some(waiting) = self.opening.remove(wanted) {
            for reply in waiting.replies {
                let _ = reply.send(Ok(()));
            }
        }
        self.restore_session(&link);
        self.link_opened(&link);
        let catalog_key = CatalogKey { era: key.era, capabilities: key.capabilities };
        let known = self.shared.view.load().catalogs.get(&catalog_key).is_some_and(|catalog| catalog.confirmed);
        if !known {
            self.learn_over(&link, catalog_key, &ListingKind::ALL);
        } else if !self.shared.view.load().fresh {
            self.publish(|view| {
                view.fresh = true;
                view.catalog_version += 1;
            });
        }
    }

    /// Tells a new legacy link what its clients had told the one before.
    fn restore_session(&mut self, link: &Arc<Link>) {
        if link.peer().revision.era() != Era::Legacy {
            return;
        }
        let deadline = Instant::now() + self.shared.server.timeout.start;
        if let Some(telling) = self.shared.remembered.tell(link, deadline) {
            self.tasks.spawn(async move {
                telling.await;
                Done::Other
            });
        }
    }

    pub(super) fn failed(&mut self, key: &LinkKey, error: UpstreamError) {
        if key.era == Era::Legacy && self.is_refusal(&error) {
            return self.refused(key, &error);
        }
        let wait = self.backoff.failed();
        let cause = error.cause.as_ref().map(|cause| chain(cause.as_ref()));
        tracing::warn!(server = %self.name(), cause, retry_in = ?wait, "cannot connect to the server: {error}");
        let retry_at = Instant::now() + wait;
        if *key == self.primary {
            self.finding_out = false;
        }
        if self.links().iter().all(|link| link.is_closed()) {
            self.retry = Some(retry_at);
            let reason: Arc<str> = error.to_string().into();
            let failures = self.backoff.failures();
            self.publish(|view| {
                view.state = State::Down { reason, retry_at: retry_at.into_std(), failures };
                if view.fresh || view.catalog_version == 0 {
                    view.fresh = false;
                    view.catalog_version += 1;
                }
            });
        }
        if self.shared.watches.load().is_wanted(key) {
            self.recarry_at.get_or_insert(retry_at);
        }
        self.answer_waiting(key, &error);
    }

    /// Whether a modern server is there and will not speak as in the session-based revisions.
    fn is_refusal(&self, error: &UpstreamError) -> bool {
        let is_open = |link: &Arc<Link>| link.key().era == Era::Modern && !link.is_closed();
        match error.kind {
            UpstreamErrorKind::Garbage | UpstreamErrorKind::Timeout => self.shared.view.load().modern.is_some(),
            UpstreamErrorKind::Lost => self.links().iter().any(is_open),
            _ => false,
        }
    }

    fn refused(&mut self, key: &LinkKey, error: &UpstreamError) {
        tracing::info!(server = %self.name(), "the server refuses the session-based revisions ({error}); its legacy clients use the modern link");
        self.publish(|view| {
            view.legacy = None;
            view.legacy_refused = true;
            view.catalog_version += 1;
        });
        // Its legacy clients see other lists from now on than while it was thought to speak both.
        for kind in ListingKind::ALL {
            let _ = self.shared.events.send(ServerEvent::ListChanged { kind, era: Era::Modern, replaces: true });
        }
        self.answer_waiting(key, error);
        // What they watched through links of their own era is watched through the modern one from now on.
        self.recarry_at = Some(Instant::now());
    }

    fn answer_waiting(&mut self, key: &LinkKey, error: &UpstreamError) {
        if let Some(waiting) = self.opening.remove(key) {
            for reply in waiting.replies {
                let _ = reply.send(Err(UpstreamError::new(error.kind, error.outcome, error.message.clone())));
            }
        }
    }
}

/// An error with its causes, for the log.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
