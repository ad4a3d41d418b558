//! How links end: lost, of no more use, or no longer answering; and the look at all of them now and then.

use super::{Done, Owner};
use crate::{
    catalog::{self, ListingKind},
    event::End,
    handle::Pools,
    http_client::Worker,
    link::Link,
    view::State,
};
use fairlead_config::{Start, Transport};
use fairlead_wire::Era;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// A link that lived at least this long did not fail to start.
const STEADY: Duration = Duration::from_secs(10);
/// How long a server may take over a question that is answered at once.
const ALIVE_WAIT: Duration = Duration::from_secs(5);

impl Owner {
    /// A call on the link failed in a way that leaves open whether the server is still there: ask it
    /// something that is answered at once. One that does not answer is closed and opened anew.
    pub(super) fn suspect(&mut self, id: u64) {
        let Some(link) = self.links().into_iter().find(|link| link.id == id) else { return };
        if !self.suspects.insert(id) {
            return;
        }
        let deadline = Instant::now() + ALIVE_WAIT;
        let heard = link.inbound.heard();
        self.tasks.spawn(async move {
            let asked = match link.key().era {
                Era::Legacy => catalog::ask(&link, "ping", None, deadline).await,
                Era::Modern => {
                    let params = format!("{{\"_meta\":{}}}", catalog::own_meta());
                    catalog::ask(&link, "server/discover", Some(&params), deadline).await
                }
            };
            // Any answer is a sign of life, an error too; and so is what it says to other callers meanwhile, as a
            // server that does one thing at a time cannot answer.
            let alive = asked.is_ok() || link.is_closed() || link.inbound.heard() != heard;
            Done::Asked { link: id, alive }
        });
    }

    /// A link is gone without our doing.
    pub(super) fn closed(&mut self, id: u64, reason: &str, end: End) {
        let Some(link) = self.forget(id) else { return };
        tracing::warn!(server = %self.name(), "lost the connection to the server: {reason}");
        // One early end may be chance, several in a row are a server that cannot stay up.
        let mut wait = Duration::ZERO;
        if link.age() < STEADY {
            wait = self.backoff.wait();
            self.backoff.failed();
        } else {
            self.backoff.succeeded();
        }
        if self.links().is_empty() {
            let retry_at = Instant::now() + wait;
            // Where only a session was forgotten, our own trying waits, but a call opens another one at once.
            let may_call = wait.is_zero() || end == End::Forgotten;
            self.retry = Some(retry_at);
            let reason: Arc<str> = reason.into();
            let failures = self.backoff.failures();
            self.publish(|view| {
                view.state = if may_call {
                    State::Starting
                } else {
                    State::Down { reason, retry_at: retry_at.into_std(), failures }
                };
                view.catalogs = Arc::new(
                    view.catalogs.iter().map(|(key, catalog)| (*key, Arc::new(catalog.unconfirmed()))).collect(),
                );
                view.fresh = false;
                view.catalog_version += 1;
            });
        }
    }

    /// Takes a link out of its pool.
    pub(super) fn forget(&mut self, id: u64) -> Option<Arc<Link>> {
        let mut pools = Pools::clone(&self.shared.pools.load());
        let mut found = None;
        pools.retain(|_, pool| {
            let links = pool.links.load();
            if let Some(link) = links.iter().find(|link| link.id == id) {
                found = Some(Arc::clone(link));
                let rest: Vec<_> = links.iter().filter(|link| link.id != id).cloned().collect();
                let keep = !rest.is_empty();
                pool.links.store(Arc::new(rest));
                return keep;
            }
            true
        });
        self.shared.pools.store(Arc::new(pools));
        self.link_gone(id);
        found
    }

    /// Every link ends, as if the server had gone: it is opened anew at once, a process started again.
    pub(super) fn reopen_all(&mut self, reason: &str) {
        for link in self.links() {
            self.closed(link.id, reason, End::Died);
            self.tasks.spawn(async move {
                link.close().await;
                Done::Other
            });
        }
    }

    /// Closes a link in the background.
    pub(super) fn close(&mut self, link: &Arc<Link>) {
        self.forget(link.id);
        let link = Arc::clone(link);
        self.tasks.spawn(async move {
            link.close().await;
            Done::Other
        });
    }

    /// Looks after what is idle and what is due.
    pub(super) fn look(&mut self) {
        let server = Arc::clone(&self.shared.server);
        if let Some(clients) = &self.shared.clients {
            clients.tend(Worker::CONTROL);
        }
        if self.links().iter().any(|link| !link.is_closed() && link.age() >= STEADY) {
            self.backoff.succeeded();
        }
        for link in self.links() {
            if link.is_closed() {
                self.closed(link.id, "the connection broke", End::Died);
                continue;
            }
            let free = link.in_flight() == 0 && !link.is_occupied();
            let haunted = free && link.tasks.len() == 0 && link.is_haunted() && link.idle_for() > server.timeout.idle;
            // A subscription is a use: what it brings comes over the link.
            let subscribed = self.carries(link.id);
            self.make_good(&link);
            let unused = free && !subscribed && !link.is_kept() && link.idle_for() > server.idle_stop;
            let spare = match server.transport {
                Transport::Stdio(_) => server.start == Start::Lazy || *link.key() != self.primary,
                _ => *link.key() != self.primary,
            };
            // The call is over whose client's roots the server was told.
            let rooted = free && link.tasks.len() == 0 && link.inbound.is_rooted();
            if haunted || rooted || (unused && spare) {
                tracing::debug!(server = %server.name, link = link.id, "closing a link that nobody uses");
                self.close(&link);
            }
        }
        self.carry_all();
        if self.links().is_empty() && self.opening.is_empty() && matches!(self.shared.view.load().state, State::Ready) {
            self.publish(|view| view.state = State::Idle);
        }
        if let Some(noting) = self.tried().filter(|_| !std::mem::replace(&mut self.noted, true)) {
            self.tasks.spawn(async move {
                noting.await;
                Done::Other
            });
        }
        if Instant::now() >= self.refresh_at {
            self.refresh_at = Instant::now() + self.environment.catalog.refresh;
            let announces = |link: &Arc<Link>| link.peer().announces_changes() && link.hears();
            if !self.links().iter().all(announces) {
                self.dirty = ListingKind::ALL.to_vec();
                self.relist();
            }
        }
    }
}
