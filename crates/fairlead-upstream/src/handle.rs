//! The side of an owner that calls see: the published view, and leases on links.

use crate::{
    catalog,
    event::ServerEvent,
    exchange::{Exchange, Outbound, Starting},
    http_client::{HttpClients, PoolStats, Worker},
    instance::{Instance, Out},
    link::{Link, LinkKey, Roots, ShareKey},
    owner::{
        Command,
        remembered::{self, Remembered},
    },
    view::{CatalogKey, ServerView, State},
    watch::Watches,
};
use arc_swap::ArcSwap;
use fairlead_config::{Labels, Server, Share, Transport};
use fairlead_core::{Outcome, ServerName, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{CapabilitySet, Era, list, message};
use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

/// How long a call waits for a link of its own when all that may be open are taken.
const LINK_WAIT: Duration = Duration::from_secs(5);

/// Catalogs whose first asking is remembered.
const MAX_ASKED: usize = 64;

/// What owner and handles share.
pub(crate) struct Shared {
    pub(crate) server: Arc<Server>,
    pub(crate) view: ArcSwap<ServerView>,
    pub(crate) pools: ArcSwap<Pools>,
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<ServerEvent>,
    pub(crate) instance: Arc<Instance>,
    /// What new links must be told.
    pub(crate) remembered: Arc<Remembered>,
    /// The resources clients watch, of which this instance tells: those of the whole server, or none.
    pub(crate) watches: ArcSwap<Watches>,
    /// An earlier run tried the server, and it never listed anything.
    pub(crate) tried: bool,
    /// The pools of connections, for a server reached over HTTP.
    pub(crate) clients: Option<HttpClients>,
    /// When each catalog was first asked for: only then it is waited for.
    pub(crate) first_asked: Mutex<HashMap<CatalogKey, Instant>>,
}

/// The open links, by what they may be shared by.
pub(crate) type Pools = HashMap<LinkKey, Arc<Pool>, BuildHasherDefault<KeyHasher>>;

/// FNV-1a: keys are few and made by the gateway, so nothing is gained by a hash that resists attackers.
#[derive(Clone)]
pub(crate) struct KeyHasher(u64);

impl Default for KeyHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The open links of one key.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) links: ArcSwap<Vec<Arc<Link>>>,
    /// Somebody gave a link back, or one was opened.
    pub(crate) freed: Notify,
}

/// A cheap handle on one instance of a server.
#[derive(Clone)]
pub(crate) struct InstanceHandle(pub(crate) Arc<Shared>);

/// What a call needs from a server.
#[derive(Debug, Clone)]
pub struct Want {
    /// The client's era: it is served in it where the server speaks it.
    pub era: Era,
    /// What the caller declared, with its session or with the request: what a legacy server is told.
    pub capabilities: CapabilitySet,
    /// What the configuration keeps apart.
    pub share: ShareKey,
    /// The caller's roots, once known.
    pub roots: Option<Arc<Roots>>,
    /// A number for the client; the same client gets the same link again where it can.
    pub user: u64,
    /// What the link is for.
    pub purpose: Purpose,
    /// When to give up.
    pub deadline: Instant,
    /// Instances that a further try would rather not meet.
    pub avoid: Avoid,
    /// What keeps calls that belong together on one instance, where the server's `balance` is `sticky`.
    pub affinity: Option<u64>,
}

/// Instances that a call has tried, and those it is not for. Empty costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Avoid {
    tried: Vec<u64>,
    labels: Option<Arc<Labels>>,
}

impl Avoid {
    /// Nothing tried yet, of a call for instances with labels.
    #[must_use]
    pub fn other_than(labels: Option<Arc<Labels>>) -> Self {
        Self { tried: Vec::new(), labels }
    }

    /// Whether the call must not go to the instance at all.
    #[must_use]
    pub fn excludes(&self, instance: &Instance) -> bool {
        self.labels.as_ref().is_some_and(|labels| labels.required && !instance.is_labelled(labels))
    }

    /// The labels of instances that the call should go to, where it may go to others too.
    pub(crate) fn preferred(&self) -> Option<&Labels> {
        self.labels.as_deref().filter(|labels| !labels.required)
    }

    /// One more; false when it was there already.
    pub fn add(&mut self, instance: &Instance) -> bool {
        self.add_id(instance.id())
    }

    /// One more, by its number.
    pub fn add_id(&mut self, id: u64) -> bool {
        let is_new = !self.tried.contains(&id);
        if is_new {
            self.tried.push(id);
        }
        is_new
    }

    /// All of another one too.
    pub fn add_all(&mut self, other: &Self) {
        for id in &other.tried {
            self.add_id(*id);
        }
    }

    /// How many.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "what is asked is whether it grew")]
    pub fn len(&self) -> usize {
        self.tried.len()
    }

    /// Whether it was tried.
    #[must_use]
    pub fn has(&self, instance: &Instance) -> bool {
        self.tried.contains(&instance.id())
    }
}

/// What a link is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A request the server may ask about in mid-call.
    Call,
    /// What changes or reads the state of the session itself: subscriptions, log level.
    Session,
    /// A request about something that was made on this link. When it is gone, any other of the key will do over HTTP:
    /// the server says whether it still knows. A process or a connection takes with it what was made on it: another may
    /// call something else the same.
    Link(u64),
}

/// Why there is no lease.
#[derive(Debug)]
pub enum LeaseError {
    /// The server follows roots, and this caller's are not known yet: ask it, then want again.
    NeedsRoots,
    /// There is no way to the server now.
    Upstream(UpstreamError),
}

impl From<UpstreamError> for LeaseError {
    fn from(error: UpstreamError) -> Self {
        LeaseError::Upstream(error)
    }
}

/// A link, and the pool it goes back to when it was taken for one call alone.
type Picked = (Arc<Link>, Option<Arc<Pool>>);

/// The right to use a link, given back when dropped.
pub struct Lease {
    link: Arc<Link>,
    pool: Option<Arc<Pool>>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Lease {
    /// The link.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The instance of the server that the call goes to.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.shared.instance
    }

    /// The era spoken on the link.
    #[must_use]
    pub fn era(&self) -> Era {
        self.link.peer().revision.era()
    }

    /// Sees to it that a legacy server logs from `level` on, for a request that says so by itself. The link is told
    /// once for every level that is more talkative than those before; a server that does not answer in time is
    /// called all the same.
    pub async fn log_from(&self, level: &str, until: Instant) {
        let peer = self.link.peer();
        if peer.revision.era() != Era::Legacy || list::raw_member(&peer.capabilities, "logging").is_none() {
            return;
        }
        let loudest = self.shared.remembered.loudest(level);
        if !self.link.learns_level(remembered::rank(&loudest)) {
            return;
        }
        let pools = self.shared.pools.load();
        let memory = Memory::LogLevel { key: self.link.key().clone(), level: loudest.clone() };
        self.shared.remembered.note(memory, |key| pools.contains_key(key));
        drop(pools);
        let params = format!("{{\"level\":{}}}", message::quote(&loudest));
        if let Err(error) = catalog::ask(&self.link, "logging/setLevel", Some(&params), until).await {
            tracing::debug!(server = %self.shared.server.name, %error, "the server was not told the log level");
        }
    }

    /// Sends a request over the link. The lease lasts as long as the exchange.
    pub fn start(self, worker: Worker, outbound: Outbound) -> Starting {
        Exchange::start(Arc::clone(&self.link), Some(self), worker, outbound)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.instance.leave();
        if let Some(pool) = &self.pool {
            self.link.vacate();
            pool.freed.notify_one();
        }
    }
}

impl InstanceHandle {
    /// The server's name.
    pub(crate) fn name(&self) -> &ServerName {
        &self.0.server.name
    }

    /// The picture published last.
    pub(crate) fn view(&self) -> Arc<ServerView> {
        self.0.view.load_full()
    }

    /// The picture published last, without taking a reference count.
    pub(crate) fn peek(&self) -> arc_swap::Guard<Arc<ServerView>> {
        self.0.view.load()
    }

    /// Told the version of every new picture.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// What the server says outside calls.
    pub(crate) fn events(&self) -> broadcast::Receiver<ServerEvent> {
        self.0.events.subscribe()
    }

    /// Open links, and calls in flight on them.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.0.pools.load().values().flat_map(|pool| pool.links.load().iter().cloned().collect::<Vec<_>>()).collect()
    }

    /// The connections to a server reached over HTTP.
    pub(crate) fn connections(&self) -> Option<PoolStats> {
        self.0.clients.as_ref().map(HttpClients::stats)
    }

    /// Has the connections of `worker` closed that rested or lived too long, and others opened ahead. To be called on
    /// its runtime, about once a second.
    pub(crate) fn tend_connections(&self, worker: Worker) {
        if let Some(clients) = &self.0.clients {
            clients.tend(worker);
        }
    }

    /// Calls in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.instance.in_flight()
    }

    /// Asks the owner to learn the catalog for `capabilities`, without waiting.
    pub(crate) fn refresh(&self, client: Era, capabilities: CapabilitySet) {
        let _ = self.0.commands.try_send(Command::Learn { client, capabilities });
    }

    /// Until when somebody who needs to know the server in this way may wait: `wait` after it was
    /// asked for the first time. Whoever comes later gets what there is by then, and nobody waits for a
    /// server that listed nothing in an earlier run either.
    pub(crate) fn patience(&self, client: Era, capabilities: CapabilitySet, wait: Duration) -> Instant {
        let view = self.peek();
        if self.0.tried && view.catalogs.is_empty() {
            return Instant::now();
        }
        let key = view.catalog_key(client, capabilities);
        let mut first = self.0.first_asked.lock().expect("invariant: no panic under this lock");
        if first.len() >= MAX_ASKED {
            first.clear();
        }
        *first.entry(key).or_insert_with(Instant::now) + wait
    }

    /// Takes a link for a call. The usual case neither waits nor passes the owner.
    ///
    /// # Errors
    /// [`LeaseError::NeedsRoots`] once per caller of a server that follows roots; otherwise why the
    /// server cannot be reached. A server that is known to be down fails at once.
    pub(crate) async fn lease(&self, want: &Want) -> Result<Lease, LeaseError> {
        let shared = &self.0;
        // What was begun there is finished there.
        if shared.instance.is_out_for(Out::DRAINED) && !matches!(want.purpose, Purpose::Link(_)) {
            let text = "it is drained (`fairlead servers undrain` brings it back)";
            return Err(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, text).into());
        }
        if shared.instance.enter() >= shared.server.max_calls {
            shared.instance.leave();
            return Err(
                at_capacity(format!("it has {} calls in flight, which is its limit", shared.server.max_calls)).into()
            );
        }
        // From here on the count is given back by this guard or by the lease.
        let counted = Counted(Some(Arc::clone(shared)));
        if let Some((link, pool)) = self.pick_now(want)? {
            return Ok(Lease { link, pool, shared: counted.keep() });
        }
        // Boxed: most calls never come here, and need not carry its room.
        Box::pin(self.wait_for_lease(want, counted)).await
    }

    /// The link the caller may use, if it is open and free.
    fn pick_now(&self, want: &Want) -> Result<Option<Picked>, LeaseError> {
        let view = self.0.view.load();
        if let Purpose::Link(id) = want.purpose {
            if let Some(link) = self.made_on(&view, id, want) {
                return Ok(Some((link, None)));
            }
            if !matches!(self.0.server.transport, Transport::Http(_)) {
                let text = "the task went with the connection it was made on";
                return Err(UpstreamError::new(UpstreamErrorKind::Gone, Outcome::NotMade, text).into());
            }
        }
        let Some(key) = self.key_for(&view, want)? else { return Ok(None) };
        let exclusive = self.is_exclusive(&view, want);
        let pools = self.0.pools.load();
        let Some(pool) = pools.get(&key) else { return Ok(None) };
        Ok(pick(pool, exclusive, want.user).map(|link| (link, exclusive.then(|| Arc::clone(pool)))))
    }

    /// The very link that is wanted, while it is open. The roots it was opened with need not be known any more.
    fn made_on(&self, view: &ServerView, id: u64, want: &Want) -> Option<Arc<Link>> {
        let era = view.era_for(want.era)?;
        let may_use = |key: &LinkKey| {
            key.era == era && (era == Era::Modern || (key.capabilities == want.capabilities && key.share == want.share))
        };
        let pools = self.0.pools.load();
        let open = pools.iter().filter(|(key, _)| may_use(key)).find_map(|(_, pool)| {
            let links = pool.links.load();
            links.iter().find(|link| link.id == id && !link.is_closed()).cloned()
        })?;
        open.used_by(want.user);
        Some(open)
    }

    /// A link that is open and that `want` may listen on, whatever its other users can be asked: where no other can be
    /// opened. A subscription needs nothing of a link but that it is not kept from the caller.
    pub(crate) fn lease_of_others(&self, want: &Want) -> Option<Lease> {
        let view = self.0.view.load();
        let key = self.key_for(&view, want).ok().flatten()?;
        let may_use = |other: &LinkKey| other.era == key.era && other.share == key.share && other.roots == key.roots;
        let pools = self.0.pools.load();
        // One that listeners use already, as every key is told of a resource for itself.
        let mut open: Vec<_> = pools.iter().filter(|(other, _)| may_use(other)).collect();
        let watches = self.0.watches.load();
        open.sort_by_key(|(other, _)| !watches.is_carried(other));
        let link = open.iter().find_map(|(_, pool)| {
            pool.links.load().iter().find(|link| link.is_open() && !link.is_haunted()).cloned()
        })?;
        self.0.instance.enter();
        // Not noted as a use: a listener is asked nothing, and nothing outside its subscription is told to it.
        Some(Lease { link, pool: None, shared: Arc::clone(&self.0) })
    }

    async fn wait_for_lease(&self, want: &Want, counted: Counted) -> Result<Lease, LeaseError> {
        let shared = &self.0;
        let opening_until = want.deadline.min(Instant::now() + shared.server.timeout.start);
        let mut last_try = false;
        let mut full = None;
        loop {
            let view = shared.view.load();
            let Some(key) = self.key_for(&view, want)? else {
                drop(view);
                self.find_out(opening_until).await?;
                continue;
            };
            let exclusive = self.is_exclusive(&view, want);
            let pool = shared.pools.load().get(&key).cloned();
            if let Some(pool) = &pool
                && let Some(link) = pick(pool, exclusive, want.user)
            {
                let shared = counted.keep();
                return Ok(Lease { link, pool: exclusive.then(|| Arc::clone(pool)), shared });
            }
            if let State::Down { reason, retry_at, .. } = &view.state
                && Instant::now().into_std() < *retry_at
            {
                return Err(
                    UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, reason.to_string()).into()
                );
            }
            drop(view);
            if last_try {
                let why = full.unwrap_or_else(|| at_capacity("every session it may have is in use".to_owned()));
                return Err(why.into());
            }
            let era = key.era;
            match self.open(key, exclusive, opening_until).await {
                Ok(()) => {}
                // It refused this era, and is reached in the other.
                Err(_) if self.peek().era_for(want.era).is_some_and(|served| served != era) => {}
                Err(error) if error.kind == UpstreamErrorKind::AtCapacity && exclusive && pool.is_some() => {
                    let pool = pool.expect("invariant: checked in the guard");
                    let until = want.deadline.min(Instant::now() + LINK_WAIT);
                    last_try = timeout_at(until, pool.freed.notified()).await.is_err();
                    full = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
            if Instant::now() >= want.deadline {
                return Err(UpstreamError::new(
                    UpstreamErrorKind::Timeout,
                    Outcome::NotMade,
                    "no session with it became free in time",
                )
                .into());
            }
        }
    }

    /// The key of the link the caller may use; `None` while the server's era is not known.
    fn key_for(&self, view: &ServerView, want: &Want) -> Result<Option<LinkKey>, LeaseError> {
        match view.era_for(want.era) {
            None => return Ok(None),
            Some(Era::Modern) => return Ok(Some(LinkKey::modern())),
            Some(Era::Legacy) => {}
        }
        let follows_roots = view.asks.roots && want.capabilities.has_roots() && self.0.server.share != Share::Shared;
        if follows_roots && want.roots.is_none() {
            return Err(LeaseError::NeedsRoots);
        }
        Ok(Some(LinkKey {
            era: Era::Legacy,
            capabilities: want.capabilities,
            share: want.share.clone(),
            roots: if follows_roots { want.roots.clone() } else { None },
        }))
    }

    /// Whether the call needs a link to itself: the server asks in ways that name no call, and this
    /// caller can be asked.
    fn is_exclusive(&self, view: &ServerView, want: &Want) -> bool {
        want.purpose == Purpose::Call
            && self.0.server.share != Share::Shared
            && view.asks.untied
            && view.era_for(want.era) == Some(Era::Legacy)
            && (want.capabilities.has_sampling()
                || want.capabilities.has_elicitation()
                || want.capabilities.has_roots())
    }

    async fn open(&self, key: LinkKey, extra: bool, until: Instant) -> Result<(), UpstreamError> {
        self.ask_owner(until, |reply| Command::Open { key, extra, reply }).await
    }

    /// Waits until the owner has found out what the server is, or failed to.
    async fn find_out(&self, until: Instant) -> Result<(), UpstreamError> {
        if let State::Down { reason, retry_at, .. } = &self.peek().state
            && Instant::now().into_std() < *retry_at
        {
            return Err(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, reason.to_string()));
        }
        self.ask_owner(until, |reply| Command::FindOut { reply }).await
    }

    async fn ask_owner(
        &self,
        until: Instant,
        command: impl FnOnce(oneshot::Sender<Result<(), UpstreamError>>) -> Command,
    ) -> Result<(), UpstreamError> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let stopped =
            || UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, "the gateway is stopping it");
        let late = || UpstreamError::new(UpstreamErrorKind::Timeout, Outcome::NotMade, "it is still starting");
        match timeout_at(until, self.0.commands.send(command)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(stopped()),
            Err(_) => return Err(late()),
        }
        match timeout_at(until, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(late()),
        }
    }
}

impl fmt::Debug for InstanceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceHandle({})", self.name())
    }
}

/// Session state that a new link must be told again.
#[derive(Debug, Clone)]
pub enum Memory {
    /// The most talkative log level any client of the key asked for.
    LogLevel {
        /// Which links.
        key: LinkKey,
        /// The level's name.
        level: Box<str>,
    },
}

/// Gives the count of calls in flight back unless it was handed to a lease.
struct Counted(Option<Arc<Shared>>);

impl Counted {
    fn keep(mut self) -> Arc<Shared> {
        self.0.take().expect("invariant: kept once")
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.instance.leave();
        }
    }
}

fn at_capacity(message: String) -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::AtCapacity, Outcome::NotMade, message)
}

fn pick(pool: &Pool, exclusive: bool, user: u64) -> Option<Arc<Link>> {
    let links = pool.links.load();
    if !exclusive {
        // One that somebody has to himself is only taken when there is no other.
        let open = || links.iter().filter(|link| link.is_open());
        let link = open().find(|link| !link.is_occupied()).or_else(|| open().next())?;
        link.used_by(user);
        return Some(Arc::clone(link));
    }
    // Whoever had it before may have given its call up on it just now: that shows once it is taken.
    let take = |link: &&Arc<Link>| {
        if !link.is_open() || link.is_haunted() || !link.try_occupy(user) {
            return false;
        }
        let haunted = link.is_haunted();
        if haunted {
            link.vacate();
        }
        !haunted
    };
    // The link the client had last keeps what the server remembers of it.
    let mine = links.iter().filter(|link| link.last_user() == user);
    let others = links.iter().filter(|link| link.last_user() != user);
    mine.chain(others).find(take).cloned()
}
