//! Which link carries what clients watch: one at a time for each key, and another one when it ends.

use super::Owner;
use crate::{
    event::ServerEvent,
    link::{Link, LinkKey},
    owner::{watch_legacy, watch_modern},
    view::State,
    watch::Watches,
};
use fairlead_wire::Era;
use std::{sync::Arc, time::Duration};
use tokio::{task::AbortHandle, time::Instant};

/// How long after the end of a link another one is looked for: several may end together.
const RECARRY: Duration = Duration::from_millis(20);

/// The task that keeps what is watched through one key, and the link it does so on.
pub(super) struct Carrier {
    link: u64,
    number: u64,
    task: AbortHandle,
}

/// The key of the links that can carry what is watched through `key`: a modern link is everybody's.
fn link_key(key: &LinkKey) -> LinkKey {
    match key.era {
        Era::Modern => LinkKey::modern(),
        Era::Legacy => key.clone(),
    }
}

impl Owner {
    /// Sees to it that what is watched through `key` has a link.
    pub(super) fn carry(&mut self, key: &LinkKey) {
        let open = self.pool(&link_key(key)).map(|pool| pool.links.load_full()).unwrap_or_default();
        let mut open = open.iter().filter(|link| link.is_open());
        if let Some(carrier) = self.carriers.get(key) {
            let is_at_work = self.shared.watches.load().is_carrier(key, carrier.number);
            if is_at_work && open.any(|link| link.id == carrier.link) {
                return;
            }
        }
        if let Some(before) = self.carriers.remove(key) {
            before.task.abort();
        }
        let pool = self.pool(&link_key(key));
        let link = pool.and_then(|pool| pool.links.load().iter().find(|link| link.is_open()).cloned());
        match link {
            Some(link) => self.carry_on(key, &link),
            None => self.reopen(key),
        }
    }

    fn carry_on(&mut self, key: &LinkKey, link: &Arc<Link>) {
        let lists = *key == LinkKey::modern() && watch_modern::worth_it(link);
        if !lists && !self.shared.watches.load().is_wanted(key) {
            return;
        }
        let carriage = self.shared.watches.load_full().carry(key);
        let number = carriage.number();
        let (id, patience) = (link.id, self.shared.server.timeout.start);
        let link = Arc::clone(link);
        let era = key.era;
        let task = self.tasks.spawn(async move {
            match era {
                Era::Modern => watch_modern::keep(link, carriage, lists).await,
                Era::Legacy => watch_legacy::keep(link, carriage, patience).await,
            }
            super::Done::Other
        });
        self.carriers.insert(key.clone(), Carrier { link: id, number, task });
    }

    /// Opens a link for what is watched, where that is possible now; else it is tried again later.
    fn reopen(&mut self, key: &LinkKey) {
        let key = link_key(key);
        if !self.shared.watches.load().is_wanted(&key) && key.era == Era::Legacy {
            return;
        }
        let view = self.shared.view.load_full();
        let down = matches!(&view.state, State::Down { retry_at, .. } if Instant::now().into_std() < *retry_at);
        let full = self.links().len() + self.opening.len() >= self.shared.server.max_sessions;
        if down || full || !view.is_known() || matches!(view.state, State::Stopped) || self.retry.is_some() {
            return;
        }
        let era = key.era;
        self.open(key, false, Some(era));
    }

    /// Looks after everything that is watched and has no link, and ends what no link can carry any more.
    pub(super) fn carry_all(&mut self) {
        for key in self.shared.watches.load().keys() {
            let served = self.shared.view.load().serves_in(key.era);
            if served {
                self.carry(&key);
            } else {
                let _ = self.shared.events.send(ServerEvent::Unwatchable { key });
            }
        }
    }

    /// A new link may carry what its key had on another.
    pub(super) fn link_opened(&mut self, link: &Arc<Link>) {
        if link.key().era == Era::Modern {
            self.carry(&LinkKey::modern());
        }
        self.carry_all();
    }

    /// A link is gone, and with it what it carried. Another one takes over, at once or after `wait`.
    pub(super) fn link_gone(&mut self, id: u64) {
        let lost: Vec<_> =
            self.carriers.iter().filter(|(_, carrier)| carrier.link == id).map(|(key, _)| key.clone()).collect();
        for key in &lost {
            if let Some(carrier) = self.carriers.remove(key) {
                carrier.task.abort();
            }
        }
        if !lost.is_empty() {
            self.recarry_at.get_or_insert(Instant::now() + RECARRY);
        }
    }

    /// Whether a link carries something somebody watches.
    pub(super) fn carries(&self, id: u64) -> bool {
        self.carriers.iter().any(|(key, carrier)| carrier.link == id && self.shared.watches.load().is_wanted(key))
    }

    /// The key for which what comes over this link is passed on; without one it would be told twice, or to nobody.
    pub(super) fn heard_as(&self, id: u64, key: Option<LinkKey>) -> Option<LinkKey> {
        let is_at_work = |key: &LinkKey, carrier: &Carrier| {
            carrier.link == id && self.shared.watches.load().is_carrier(key, carrier.number)
        };
        match key {
            Some(key) => self.carriers.get(&key).is_some_and(|carrier| is_at_work(&key, carrier)).then_some(key),
            // A link has one key of its own, and there may be others that only keep clients apart.
            None => {
                let own =
                    self.carriers.iter().find(|(key, carrier)| is_at_work(key, carrier) && link_key(key) == **key);
                own.map(|(key, _)| key.clone())
            }
        }
    }

    /// Updates for which there was no room are made good.
    pub(super) fn make_good(&self, link: &Link) {
        if !link.inbound.take_missed() {
            return;
        }
        tracing::warn!(server = %self.name(), "the server says more than can be passed on; clients are told to look at everything");
        for (key, _) in self.carriers.iter().filter(|(_, carrier)| carrier.link == link.id) {
            let _ = self.shared.events.send(ServerEvent::Rewatched { key: key.clone() });
        }
    }

    /// Another table: that of the server, or one of its own in which nobody watches anything.
    pub(super) fn watch(&mut self, watches: Arc<Watches>) {
        self.stop_carrying();
        self.shared.watches.store(watches);
        // List changes are heard of in any case.
        if self.links().iter().any(|link| link.key().era == Era::Modern && !link.is_closed()) {
            self.carry(&LinkKey::modern());
        }
        self.carry_all();
    }

    pub(super) fn stop_carrying(&mut self) {
        for (_, carrier) in self.carriers.drain() {
            carrier.task.abort();
        }
    }
}
