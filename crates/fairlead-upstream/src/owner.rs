//! The owner of one server: opens and closes its links, learns its catalog, heals it, publishes the view.
//!
//! The owner never stands on the path of a call. It wakes for commands (a call needs a link that is
//! not there), for events of links (closed, a list changed, the server asked something), for tasks
//! of its own that finished, and for the next time something is due.

mod backoff;
mod carriers;
mod lists;
pub(crate) mod remembered;
mod watch_legacy;
mod watch_modern;

use crate::{
    catalog::{self, Catalog, ListingKind},
    event::{End, LinkEvent, ServerEvent},
    handle::{Pool, Pools, ServerHandle, Shared},
    handshake::Opener,
    http_client::{HttpClients, Worker},
    link::{Link, LinkKey, inbound::Inbound},
    view::{CatalogKey, ServerView, State},
};
use arc_swap::ArcSwap;
use backoff::Backoff;
use fairlead_config::{Server, Start, Transport};
use fairlead_core::{
    Clock, Outcome, UpstreamError, UpstreamErrorKind,
    ports::{CatalogStore, StoredCatalog},
};
use fairlead_process::GuardBinary;
use fairlead_wire::{CapabilitySet, Era, Revision};
use remembered::Remembered;
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Semaphore, broadcast, mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// Commands waiting for the owner.
const COMMAND_QUEUE: usize = 256;
/// Events of links waiting for the owner.
const EVENT_QUEUE: usize = 1024;
/// Events for the gateway that a slow listener may lag behind.
const BROADCAST: usize = 1024;
/// Several list changes in a row are answered by one listing.
const SETTLE: Duration = Duration::from_millis(30);
/// Between two listings at least: a server may say that its lists changed each time it is asked for them.
const RELIST_GAP: Duration = Duration::from_millis(250);
/// A link that lived at least this long did not fail to start.
const STEADY: Duration = Duration::from_secs(10);
/// How long a server may take over a question that is answered at once.
const ALIVE_WAIT: Duration = Duration::from_secs(5);
/// How long a server that is starting may keep one of the places at the start; a slow one then goes on
/// without, so that it keeps nobody else from starting.
const TURN: Duration = Duration::from_secs(1);
/// What stands for the capability set in the record of a server that never listed anything.
const TRIED: &str = "tried";
/// How often idle links are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What every owner needs from the house.
#[derive(Clone)]
pub struct Environment {
    /// Wall time, for when a catalog was learned.
    pub clock: Clock,
    /// Where catalogs are kept.
    pub store: Arc<dyn CatalogStore>,
    /// How to start the guard of a child process.
    pub guard: GuardBinary,
    /// Worker runtimes, the control runtime not counted.
    pub workers: usize,
    /// Servers that may be starting at the same time; calls do not wait for it.
    pub starts: Arc<Semaphore>,
    /// How TLS towards servers is checked ([`crate::http_client::tls_config`]).
    pub tls: Arc<rustls::ClientConfig>,
    /// Counts every change of any server that prepared lists depend on.
    pub epoch: Arc<std::sync::atomic::AtomicU64>,
    /// Bounds of catalogs.
    pub catalog: fairlead_config::Catalog,
}

/// What handles ask of the owner.
#[derive(Debug)]
pub(crate) enum Command {
    Open { key: LinkKey, extra: bool, reply: oneshot::Sender<Result<(), UpstreamError>> },
    FindOut { reply: oneshot::Sender<Result<(), UpstreamError>> },
    Learn { client: Era, capabilities: CapabilitySet },
    Carry { key: LinkKey },
    Stop { done: oneshot::Sender<()> },
}

/// An owner that runs. Dropping it aborts the owner and with it everything it holds.
#[derive(Debug)]
pub struct Running {
    handle: ServerHandle,
    task: JoinHandle<()>,
}

impl Running {
    /// The handle for calls.
    #[must_use]
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Closes every link, gracefully and within bounds, and ends the owner.
    pub async fn stop(mut self) {
        let (done, stopped) = oneshot::channel();
        if self.handle.0.commands.send(Command::Stop { done }).await.is_ok() {
            let _ = stopped.await;
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the owner of `server` on the current runtime. `stored` are its records of earlier runs;
/// `before` is the owner it takes over from, whose clients' subscriptions and log levels it keeps.
#[must_use]
pub fn start(
    server: Arc<Server>,
    stored: Vec<StoredCatalog>,
    before: Option<&ServerHandle>,
    environment: &Environment,
) -> Running {
    let clients = match &server.transport {
        Transport::Http(http) => Some(HttpClients::new(
            environment.workers + 1,
            http.url.uri(),
            http.socket.as_deref(),
            server.timeout.connect,
            &server.connections,
            &environment.tls,
        )),
        Transport::Stdio(_) | Transport::WebSocket(_) | Transport::Tcp(_) | Transport::Unix(_) => None,
    };
    let remembered = before.map_or_else(Remembered::default, |before| before.0.remembered.handed_on());
    let watches = before.map_or_else(Arc::default, |before| Arc::clone(&before.0.watches));
    let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
    let (event_sender, event_queue) = mpsc::channel(EVENT_QUEUE);
    let (changed, _) = watch::channel(0);
    let (events, _) = broadcast::channel(BROADCAST);
    let mut view = ServerView::new();
    view.legacy_refused = is_pinned_modern(&server);
    let identity = server.identity();
    let tried = stored.iter().any(|record| record.identity == identity && record.capabilities == TRIED);
    let primary = lists::restore(&server, stored, &mut view);
    let shared = Arc::new(Shared {
        server: Arc::clone(&server),
        view: ArcSwap::from_pointee(view),
        pools: ArcSwap::default(),
        changed,
        commands,
        events,
        in_flight: std::sync::atomic::AtomicUsize::new(0),
        remembered,
        watches,
        tried,
        first_asked: std::sync::Mutex::default(),
    });
    let owner = Owner {
        opener: Arc::new(Opener::new(server, clients, environment)),
        environment: environment.clone(),
        shared: Arc::clone(&shared),
        command_queue,
        event_sender,
        event_queue,
        tasks: JoinSet::new(),
        opening: HashMap::new(),
        learning: HashSet::new(),
        relearn: HashMap::new(),
        suspects: HashSet::new(),
        finding_out: false,
        carriers: HashMap::new(),
        recarry_at: None,
        backoff: Backoff::default(),
        retry: None,
        primary,
        dirty: Vec::new(),
        relist_at: None,
        relisted: None,
        refresh_at: Instant::now() + environment.catalog.refresh,
        next_link: first_link(),
        noted: false,
    };
    let task = tokio::spawn(owner.run());
    Running { handle: ServerHandle(shared), task }
}

/// A number at random, with room for more after it.
fn first_link() -> u64 {
    RandomState::new().hash_one(()) >> 1
}

struct Waiting {
    replies: Vec<oneshot::Sender<Result<(), UpstreamError>>>,
}

enum Done {
    Opened {
        key: LinkKey,
        result: Result<Link, UpstreamError>,
    },
    Learned {
        catalog_key: CatalogKey,
        kinds: Vec<ListingKind>,
        result: Result<Catalog, UpstreamError>,
    },
    /// A suspect link was asked whether it is well.
    Asked {
        link: u64,
        alive: bool,
    },
    Other,
}

struct Owner {
    opener: Arc<Opener>,
    environment: Environment,
    shared: Arc<Shared>,
    command_queue: mpsc::Receiver<Command>,
    event_sender: mpsc::Sender<LinkEvent>,
    event_queue: mpsc::Receiver<LinkEvent>,
    tasks: JoinSet<Done>,
    opening: HashMap<LinkKey, Waiting>,
    learning: HashSet<CatalogKey>,
    /// Lists that changed while their catalog was being learned.
    relearn: HashMap<CatalogKey, Vec<ListingKind>>,
    /// Links that were asked whether they are well.
    suspects: HashSet<u64>,
    /// The era of the server is being found out, by opening the primary link.
    finding_out: bool,
    /// What keeps the server told of what is watched, by key.
    carriers: HashMap<LinkKey, carriers::Carrier>,
    /// When to look for links for what is watched.
    recarry_at: Option<Instant>,
    backoff: Backoff,
    /// When to try the primary link again by ourselves.
    retry: Option<Instant>,
    primary: LinkKey,
    dirty: Vec<ListingKind>,
    relist_at: Option<Instant>,
    /// When lists were asked for last because something changed.
    relisted: Option<Instant>,
    refresh_at: Instant,
    /// What the next link is called. No two of a server are called the same, not even after a restart of the gateway:
    /// what clients keep of a link must not lead to another one.
    next_link: u64,
    /// It was noted that the server never listed anything.
    noted: bool,
}

impl Owner {
    async fn run(mut self) {
        self.find_out(true);
        let mut look = Instant::now() + LOOK;
        loop {
            let due =
                [Some(look), self.retry, self.relist_at, self.recarry_at].into_iter().flatten().min().unwrap_or(look);
            tokio::select! {
                command = self.command_queue.recv() => match command {
                    Some(Command::Stop { done }) => {
                        self.stop().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.command(command),
                    None => return self.stop().await,
                },
                Some(event) = self.event_queue.recv() => self.event(event),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.done(done),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => tracing::error!(server = %self.name(), %error, "a task of the owner failed"),
                },
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            if self.retry.is_some_and(|at| at <= now) {
                self.retry = None;
                self.find_out(false);
            }
            if self.relist_at.is_some_and(|at| at <= now) {
                self.relist_at = None;
                self.relist();
            }
            if self.recarry_at.is_some_and(|at| at <= now) {
                self.recarry_at = None;
                self.carry_all();
            }
            if look <= now {
                look = now + LOOK;
                self.look();
            }
        }
    }

    fn name(&self) -> &fairlead_core::ServerName {
        &self.shared.server.name
    }

    fn publish(&self, change: impl FnOnce(&mut ServerView)) {
        let mut view = ServerView::clone(&self.shared.view.load());
        let (before, trouble) = (view.catalog_version, view.trouble());
        change(&mut view);
        // Lists say what is wrong with whom, so another trouble is another list.
        if view.trouble() != trouble {
            view.catalog_version += 1;
        }
        view.version += 1;
        let (version, lists_differ) = (view.version, view.catalog_version != before);
        // Counted before and after: whoever has seen this picture finds what was made of the one before outdated,
        // and so does whoever made something of the one before after the first count.
        let outdate = || {
            if lists_differ {
                self.environment.epoch.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            }
        };
        outdate();
        self.shared.view.store(Arc::new(view));
        outdate();
        self.shared.changed.send_replace(version);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { key, extra, reply } => self.open_for(key, extra, reply),
            Command::FindOut { reply } => {
                if self.shared.view.load().is_known() && !self.finding_out {
                    let _ = reply.send(Ok(()));
                    return;
                }
                self.find_out(false);
                if let Some(waiting) = self.opening.get_mut(&self.primary) {
                    waiting.replies.push(reply);
                }
            }
            Command::Learn { client, capabilities } => self.learn(client, capabilities, &ListingKind::ALL),
            Command::Carry { key } => self.carry(&key),
            Command::Stop { .. } => unreachable!("handled in the loop"),
        }
    }

    fn pool(&self, key: &LinkKey) -> Option<Arc<Pool>> {
        self.shared.pools.load().get(key).cloned()
    }

    fn links(&self) -> Vec<Arc<Link>> {
        ServerHandle(Arc::clone(&self.shared)).links()
    }

    /// A call wants a link.
    fn open_for(&mut self, key: LinkKey, extra: bool, reply: oneshot::Sender<Result<(), UpstreamError>>) {
        let open = self.pool(&key).is_some_and(|pool| pool.links.load().iter().any(|link| !link.is_closed()));
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
            let _ = reply.send(Err(UpstreamError::new(
                UpstreamErrorKind::AtCapacity,
                Outcome::NotMade,
                format!("it has {cap} sessions, which is its limit (`max_sessions`)"),
            )));
            return;
        }
        self.open(key.clone(), false, Some(key.era));
        if let Some(waiting) = self.opening.get_mut(&key) {
            waiting.replies.push(reply);
        }
    }

    /// Makes room for `key` by closing the link that was idle longest.
    fn close_an_idle_link(&mut self, key: &LinkKey) -> bool {
        let idle = self
            .links()
            .into_iter()
            // Of its own key only one that no call is given: a question there could be of a call given up.
            .filter(|link| link.key() != key || link.is_haunted())
            .filter(|link| link.in_flight() == 0 && !link.is_occupied() && !self.carries(link.id))
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
    fn find_out(&mut self, queued: bool) {
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

    fn open(&mut self, key: LinkKey, queued: bool, hint: Option<Era>) {
        if self.opening.contains_key(&key) {
            return;
        }
        self.opening.insert(key.clone(), Waiting { replies: Vec::new() });
        let inbound = Inbound::new(self.next_link, self.name().clone(), key.clone(), self.event_sender.clone());
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

    fn done(&mut self, done: Done) {
        match done {
            Done::Opened { key, result: Ok(link) } => {
                // What the server asked during the handshake decides who may use the link.
                while let Ok(event) = self.event_queue.try_recv() {
                    self.event(event);
                }
                self.opened(&key, link);
            }
            Done::Opened { key, result: Err(error) } => self.failed(&key, error),
            Done::Learned { catalog_key, kinds, result } => self.learned(catalog_key, &kinds, result),
            Done::Asked { link, alive } => {
                self.suspects.remove(&link);
                if !alive && let Some(link) = self.links().into_iter().find(|open| open.id == link) {
                    self.closed(link.id, "it does not answer", End::Died);
                    self.tasks.spawn(async move {
                        link.close().await;
                        Done::Other
                    });
                }
            }
            Done::Other => {}
        }
    }

    /// A call on the link failed in a way that leaves open whether the server is still there: ask it
    /// something that is answered at once. One that does not answer is closed and opened anew.
    fn suspect(&mut self, id: u64) {
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

    fn opened(&mut self, wanted: &LinkKey, link: Link) {
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

    fn failed(&mut self, key: &LinkKey, error: UpstreamError) {
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
        if self.shared.watches.is_wanted(key) {
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
            let _ = self.shared.events.send(ServerEvent::ListChanged { kind, era: Era::Modern });
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

    fn event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Closed { link, reason, end } => self.closed(link, &reason, end),
            LinkEvent::Suspect { link } => self.suspect(link),
            LinkEvent::ListChanged { kind } => {
                if !self.dirty.contains(&kind) {
                    self.dirty.push(kind);
                }
                let earliest = self.relisted.map_or_else(Instant::now, |at| at + RELIST_GAP);
                self.relist_at.get_or_insert(earliest.max(Instant::now() + SETTLE));
            }
            LinkEvent::ResourceUpdated { link, key, uri, frame } => {
                if let Some(key) = self.heard_as(link, key) {
                    let _ = self.shared.events.send(ServerEvent::ResourceUpdated { key, uri, frame });
                }
            }
            LinkEvent::Rewatched { link, key } => {
                if let Some(key) = self.heard_as(link, key) {
                    let _ = self.shared.events.send(ServerEvent::Rewatched { key });
                }
            }
            LinkEvent::Refused { link, key } => {
                if let Some(key) = self.heard_as(link, key) {
                    let _ = self.shared.events.send(ServerEvent::Refused { key });
                }
            }
            LinkEvent::Untied { user, frame } => {
                let _ = self.shared.events.send(ServerEvent::Untied { user, frame });
            }
            LinkEvent::TaskStatus { link, frame } => {
                let _ = self.shared.events.send(ServerEvent::TaskStatus { link, frame });
            }
            LinkEvent::Declined => {
                let _ = self.shared.events.send(ServerEvent::QuestionDeclined);
            }
            LinkEvent::AsksRoots => self.remember_asks(|asks| asks.roots = true),
            LinkEvent::AsksUntied => self.remember_asks(|asks| asks.untied = true),
            LinkEvent::Push { link, message } => {
                if let Some(link) = self.links().into_iter().find(|open| open.id == link) {
                    self.tasks.spawn(async move {
                        let _ = link.push(Worker::CONTROL, message).await;
                        Done::Other
                    });
                }
            }
        }
    }

    /// A link is gone without our doing.
    fn closed(&mut self, id: u64, reason: &str, end: End) {
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
    fn forget(&mut self, id: u64) -> Option<Arc<Link>> {
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

    /// Closes a link in the background.
    fn close(&mut self, link: &Arc<Link>) {
        self.forget(link.id);
        let link = Arc::clone(link);
        self.tasks.spawn(async move {
            link.close().await;
            Done::Other
        });
    }

    /// Looks after what is idle and what is due.
    fn look(&mut self) {
        let server = Arc::clone(&self.shared.server);
        if self.links().iter().any(|link| !link.is_closed() && link.age() >= STEADY) {
            self.backoff.succeeded();
        }
        for link in self.links() {
            if link.is_closed() {
                self.closed(link.id, "the connection broke", End::Died);
                continue;
            }
            let free = link.in_flight() == 0 && !link.is_occupied();
            let haunted = free && link.is_haunted() && link.idle_for() > server.timeout.idle;
            // A subscription is a use: what it brings comes over the link.
            let subscribed = self.carries(link.id);
            self.make_good(&link);
            let unused = free && !subscribed && !link.is_kept() && link.idle_for() > server.idle_stop;
            let spare = match server.transport {
                Transport::Stdio(_) => server.start == Start::Lazy || *link.key() != self.primary,
                _ => *link.key() != self.primary,
            };
            if haunted || (unused && spare) {
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

    async fn stop(&mut self) {
        self.publish(|view| view.state = State::Stopped);
        if let Some(noting) = self.tried() {
            noting.await;
        }
        self.stop_carrying();
        let links = self.links();
        self.shared.pools.store(Arc::default());
        self.opening.clear();
        let mut closing = JoinSet::new();
        for link in links {
            closing.spawn(async move { link.close().await });
        }
        while closing.join_next().await.is_some() {}
        self.tasks.shutdown().await;
    }
}

/// Whether the configuration says that the server is only spoken to in the modern era.
fn is_pinned_modern(server: &Server) -> bool {
    server.protocol.as_deref().and_then(Revision::parse).map(Revision::era) == Some(Era::Modern)
}

/// The catalog that is listed over a link.
fn catalog_key_of(link: &Link) -> CatalogKey {
    CatalogKey { era: link.key().era, capabilities: link.key().capabilities }
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
