//! A server as the gateway sees it: a thin group over its instances, of which there is usually one.
//!
//! Every instance has an owner of its own, with its links, its era, its back-off and its catalog. The group decides
//! which of them a call goes to (`pick.rs`), and publishes one picture for all, so that lists do not depend on who
//! answers (`conductor.rs`). With a single instance that is not checked there is nothing to decide: everything is passed
//! on to it, and no task runs beside its owner.

mod conductor;
mod pick;
mod running;

pub use running::{Running, start};

use crate::{
    catalog::Catalog,
    event::ServerEvent,
    handle::{InstanceHandle, Lease, LeaseError, Memory, Want},
    http_client::{PoolStats, Worker},
    instance::{Instance, Out},
    link::{Link, LinkKey},
    owner::{Command, remembered::Remembered},
    roster::Roster,
    view::{ServerView, State},
    watch::{Watch, WatchError, Watches},
};
use arc_swap::ArcSwap;
use fairlead_config::{Labels, Server, Transport};
use fairlead_core::{Outcome, ServerName, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{CapabilitySet, Era, message};
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// A cheap handle on one server.
#[derive(Clone)]
pub struct ServerHandle(pub(crate) Arc<Group>);

/// The instances of one server, as one configuration has them.
pub(crate) struct Group {
    /// Tells groups of one server apart: after a reload another one has the instances that stay.
    id: u64,
    server: Arc<Server>,
    /// In the order of the configuration.
    members: Box<[Arc<Member>]>,
    watches: Arc<Watches>,
    remembered: Arc<Remembered>,
    several: Option<Several>,
}

/// What a server has that is more than one plain instance.
struct Several {
    roster: Roster,
    view: ArcSwap<ServerView>,
    changed: watch::Sender<u64>,
    events: broadcast::Sender<ServerEvent>,
    /// The member whose lists are shown.
    best: AtomicUsize,
    /// The member that tells of what is watched.
    lead: AtomicUsize,
}

/// An instance with its owner.
pub(crate) struct Member {
    pub(crate) own: InstanceHandle,
    /// The group it belongs to: that of the configuration in force.
    group: AtomicU64,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Member {
    fn instance(&self) -> &Arc<Instance> {
        &self.own.0.instance
    }

    fn take_task(&self) -> Option<JoinHandle<()>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_of(&self, group: u64) -> bool {
        self.group.load(Ordering::Acquire) == group
    }

    /// Whether its links can be used or opened, as far as is known.
    fn is_up(&self) -> bool {
        matches!(self.own.0.view.load().state, State::Ready | State::Idle)
    }
}

/// Where one instance stands, for tables and metrics.
#[derive(Debug, Clone)]
pub struct InstanceStatus {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its own picture.
    pub view: Arc<ServerView>,
    /// Its open links.
    pub links: usize,
    /// Its smoothed latency; zero while nothing was measured.
    pub latency: Duration,
    /// The part of its share it gets, 0 to 1: less while it comes back, nothing while it is out.
    pub share: f64,
    /// Calls that ended, and those of them that failed.
    pub counted: (u64, u64),
    /// Why it gets no calls.
    pub why_out: Option<String>,
}

impl ServerHandle {
    fn first(&self) -> &InstanceHandle {
        &self.0.members[0].own
    }

    /// The instance whose lists are shown.
    fn best(&self) -> &InstanceHandle {
        match &self.0.several {
            None => self.first(),
            Some(several) => &self.0.members[several.best.load(Ordering::Relaxed)].own,
        }
    }

    /// The server's name.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.0.server.name
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<Server> {
        &self.0.server
    }

    /// The picture published last.
    #[must_use]
    pub fn view(&self) -> Arc<ServerView> {
        match &self.0.several {
            None => self.first().view(),
            Some(several) => several.view.load_full(),
        }
    }

    /// The picture published last, without taking a reference count.
    #[must_use]
    pub fn peek(&self) -> arc_swap::Guard<Arc<ServerView>> {
        match &self.0.several {
            None => self.first().peek(),
            Some(several) => several.view.load(),
        }
    }

    /// Told the version of every new picture.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        match &self.0.several {
            None => self.first().changes(),
            Some(several) => several.changed.subscribe(),
        }
    }

    /// What the server says outside calls.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ServerEvent> {
        match &self.0.several {
            None => self.first().events(),
            Some(several) => several.events.subscribe(),
        }
    }

    /// Open links, and calls in flight on them.
    #[must_use]
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.0.members.iter().flat_map(|member| member.own.links()).collect()
    }

    /// The connections to a server reached over HTTP, of all instances.
    #[must_use]
    pub fn connections(&self) -> Option<PoolStats> {
        self.0.members.iter().filter_map(|member| member.own.connections()).reduce(|all, one| all.with(&one))
    }

    /// Has the connections of `worker` closed that rested or lived too long, and others opened ahead. To be called on
    /// the runtime of `worker`.
    pub fn tend_connections(&self, worker: Worker) {
        for member in &self.0.members {
            member.own.tend_connections(worker);
        }
    }

    /// Calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.members.iter().map(|member| member.own.in_flight()).sum()
    }

    /// Calls in flight at most, over all instances.
    #[must_use]
    pub fn max_calls(&self) -> usize {
        self.0.server.max_calls.saturating_mul(self.0.members.len())
    }

    /// Asks the owner to learn the catalog for `capabilities`, without waiting.
    pub fn refresh(&self, client: Era, capabilities: CapabilitySet) {
        self.best().refresh(client, capabilities);
    }

    /// Notes a log level that every new link must be told, and tells the links of other instances.
    pub fn remember(&self, memory: Memory) {
        let Memory::LogLevel { key, level } = &memory;
        if self.0.members.len() > 1 {
            let params = format!("{{\"level\":{}}}", message::quote(level));
            for link in self.links().iter().filter(|link| link.key() == key && !link.is_closed()) {
                link.ask_soon("logging/setLevel", &params);
            }
        }
        let is_open = |key: &LinkKey| self.0.members.iter().any(|member| member.own.0.pools.load().contains_key(key));
        self.0.remembered.note(memory, is_open);
    }

    /// The more talkative of `level` and what the server was told before: clients share what it says.
    #[must_use]
    pub fn loudest(&self, level: &str) -> Box<str> {
        self.0.remembered.loudest(level)
    }

    /// Until when somebody who needs to know the server in this way may wait: `wait` after it was
    /// asked for the first time. Whoever comes later gets what there is by then, and nobody waits for a
    /// server that listed nothing in an earlier run either.
    #[must_use]
    pub fn patience(&self, client: Era, capabilities: CapabilitySet, wait: Duration) -> Instant {
        self.first().patience(client, capabilities, wait)
    }

    /// The catalog callers of an era with `capabilities` see. One that was never learned is waited
    /// for, at most `wait` from the first time it was asked for; then the nearest one there is.
    pub async fn catalog(&self, client: Era, capabilities: CapabilitySet, wait: Duration) -> Option<Arc<Catalog>> {
        let deadline = self.patience(client, capabilities, wait);
        let mut changes = self.changes();
        let mut asked = false;
        loop {
            let view = self.view();
            if let Some(catalog) = view.catalog(client, capabilities) {
                if !catalog.confirmed && !asked && !matches!(view.state, State::Down { .. }) {
                    self.refresh(client, capabilities);
                }
                return Some(Arc::clone(catalog));
            }
            if !asked {
                asked = true;
                self.refresh(client, capabilities);
            }
            let nearest = view.nearest_catalog(client, capabilities).cloned();
            // What other clients were shown is better than to wait for a server that may not come.
            let starting = matches!(view.state, State::Starting) && nearest.is_some();
            if starting || matches!(view.state, State::Down { .. } | State::Stopped) {
                return nearest;
            }
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return self.peek().nearest_catalog(client, capabilities).cloned();
            }
        }
    }

    /// Takes a link for a call, on the instance the call goes to. The usual case neither waits nor passes the owner.
    ///
    /// # Errors
    /// [`LeaseError::NeedsRoots`] once per caller of a server that follows roots; otherwise why the
    /// server cannot be reached. A server that is known to be down fails at once.
    pub async fn lease(&self, want: &Want) -> Result<Lease, LeaseError> {
        match &self.0.several {
            None if want.avoid.excludes(self.0.members[0].instance()) => {
                let text = "it does not have the labels that a route asks for";
                Err(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, text).into())
            }
            None => self.first().lease(want).await,
            Some(several) => Box::pin(self.lease_of(several, want)).await,
        }
    }

    /// Watches a resource over a link the caller may use, and waits for what the server says to it. `enter` is called
    /// with the key under which updates will come before there can be any; what it returns is dropped when nothing
    /// is watched. One instance tells of everything that is watched; when it goes down, another one does.
    ///
    /// # Errors
    /// [`WatchError`]; then nothing is watched.
    pub async fn watch<T>(
        &self,
        want: &Want,
        uri: &str,
        enter: impl FnOnce(&LinkKey) -> T,
    ) -> Result<(Watch, T), WatchError> {
        let lead = self.0.several.as_ref().map_or(0, |several| several.lead.load(Ordering::Relaxed));
        self.0.members[lead].own.watch(&self.0.watches, want, uri, enter).await
    }

    /// Whether an instance with these labels can take calls, as far as is known.
    #[must_use]
    pub fn has_labelled(&self, labels: &Labels) -> bool {
        self.0.members.iter().any(|member| {
            let (instance, state) = (member.instance(), &member.own.0.view.load().state);
            let is_gone = matches!(state, State::Down { .. } | State::Stopped);
            instance.is_labelled(labels) && !instance.is_out() && !is_gone
        })
    }

    /// Whether the server is a child process of the gateway.
    #[must_use]
    pub fn is_process(&self) -> bool {
        matches!(self.0.server.transport, Transport::Stdio(_))
    }

    /// Whether there is another instance a call could go to than those it has tried.
    #[must_use]
    pub fn has_more(&self, want: &Want) -> bool {
        let has_more = |several: &Several| several.roster.has_more(&*self.0, &want.avoid);
        self.has_siblings() && self.0.several.as_ref().is_some_and(has_more)
    }

    /// Whether the server has several instances.
    #[must_use]
    pub fn has_siblings(&self) -> bool {
        self.0.members.len() > 1
    }

    /// The instances in the order of the configuration: one unless it names several.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.0.members.iter().map(|member| member.instance())
    }

    /// Where each instance stands.
    #[must_use]
    pub fn instance_status(&self) -> Vec<InstanceStatus> {
        let now = Instant::now();
        let status = |(place, member): (usize, &Arc<Member>)| {
            let instance = Arc::clone(member.instance());
            let (ended, failed, _) = instance.counted();
            let alone = || if member.is_up() && !instance.is_out() { 1.0 } else { 0.0 };
            let share = |several: &Several| several.roster.share(place, &*self.0);
            InstanceStatus {
                view: member.own.view(),
                links: member.own.links().len(),
                latency: instance.latency(now),
                share: self.0.several.as_ref().map_or_else(alone, share),
                counted: (ended, failed),
                why_out: instance.why_out(),
                instance,
            }
        };
        self.0.members.iter().enumerate().map(status).collect()
    }

    /// Takes an instance (or all of them) out of service, or brings it back: it gets no new calls, those in flight
    /// finish. How many there are of that name.
    pub fn drain(&self, instance: Option<&str>, is_out: bool) -> usize {
        let named = self.instances().filter(|one| instance.is_none_or(|name| one.name() == name));
        named.map(|one| one.set_out(Out::DRAINED, is_out)).count()
    }

    async fn tell(&self, place: usize, command: Command) {
        let _ = self.0.members[place].own.0.commands.send(command).await;
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerHandle({})", self.name())
    }
}
