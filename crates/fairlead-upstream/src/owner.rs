//! The owner of one server: opens and closes its links, learns its catalog, heals it, publishes the view.
//!
//! The owner never stands on the path of a call. It wakes for commands (a call needs a link that is
//! not there), for events of links (closed, a list changed, the server asked something), for tasks
//! of its own that finished, and for the next time something is due.

mod backoff;
mod carriers;
mod closing;
mod lists;
mod look_again;
mod opening;
mod overlap;
pub(crate) mod remembered;
mod watch_legacy;
mod watch_modern;

use crate::{
    catalog::{Catalog, ListingKind},
    event::{End, LinkEvent, ServerEvent},
    handle::{InstanceHandle, Pool, Shared},
    handshake::Opener,
    http_client::{HttpClients, Worker},
    instance::Instance,
    link::{Link, LinkKey},
    view::{Asks, CatalogKey, ServerView, State},
    watch::Watches,
};
use arc_swap::ArcSwap;
use backoff::Backoff;
use fairlead_config::{Server, Transport};
use fairlead_core::{
    Clock, UpstreamError,
    ports::{CatalogStore, StoredCatalog},
};
use fairlead_process::GuardBinary;
use fairlead_wire::{CapabilitySet, Era, Revision};
use opening::Waiting;
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
    Open {
        key: LinkKey,
        extra: bool,
        reply: oneshot::Sender<Result<(), UpstreamError>>,
    },
    FindOut {
        reply: oneshot::Sender<Result<(), UpstreamError>>,
    },
    Learn {
        client: Era,
        capabilities: CapabilitySet,
    },
    Carry {
        key: LinkKey,
    },
    /// From now on it is this one that tells of what is watched, or it is not any more.
    Watch {
        watches: Arc<Watches>,
    },
    /// Close every link and open them anew: what is checked of it fails.
    Reopen {
        reason: Arc<str>,
    },
    /// Another instance was seen to ask its client for something.
    Asks {
        asks: Asks,
    },
    Stop {
        done: oneshot::Sender<()>,
    },
}

/// What an owner begins with, beside its server.
pub(crate) struct Beginning {
    /// Records of earlier runs.
    pub(crate) stored: Vec<StoredCatalog>,
    /// What clients had told the server.
    pub(crate) remembered: Arc<Remembered>,
    /// What it tells of.
    pub(crate) watches: Arc<Watches>,
    /// What is known of the place it looks after.
    pub(crate) instance: Arc<Instance>,
}

/// Starts the owner of one instance on the current runtime.
pub(crate) fn start(
    server: Arc<Server>,
    beginning: Beginning,
    environment: &Environment,
) -> (Arc<Shared>, JoinHandle<()>) {
    let Beginning { stored, remembered, watches, instance } = beginning;
    let clients = match &server.transport {
        Transport::Http(http) => Some(HttpClients::new(
            environment.workers + 1,
            http.url.uri(),
            http.socket.as_deref(),
            server.timeout.connect,
            &server.connections,
            server.compression.answers,
            &environment.tls,
        )),
        Transport::Stdio(_) | Transport::WebSocket(_) | Transport::Tcp(_) | Transport::Unix(_) => None,
    };
    let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
    let (event_sender, event_queue) = mpsc::channel(EVENT_QUEUE);
    let (changed, _) = watch::channel(0);
    let (events, _) = broadcast::channel(BROADCAST);
    let mut view = ServerView::new();
    view.legacy_refused = is_pinned_modern(&server);
    let identity = server.identity();
    let first_link = first_link(&identity);
    let tried = stored.iter().any(|record| record.identity == identity && record.capabilities == TRIED);
    let (primary, over_sse) = lists::restore(&server, stored, &mut view);
    let shared = Arc::new(Shared {
        server: Arc::clone(&server),
        view: ArcSwap::from_pointee(view),
        pools: ArcSwap::default(),
        changed,
        commands,
        events,
        instance,
        remembered,
        watches: ArcSwap::new(watches),
        tried,
        clients: clients.clone(),
        first_asked: std::sync::Mutex::default(),
    });
    let owner = Owner {
        opener: Arc::new(Opener::new(server, clients, over_sse, environment)),
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
        look_again: look_again::LookAgain::default(),
        recarry_at: None,
        backoff: Backoff::default(),
        retry: None,
        primary,
        dirty: Vec::new(),
        relist_at: None,
        relisted: None,
        refresh_at: Instant::now() + environment.catalog.refresh,
        next_link: first_link,
        noted: false,
    };
    let task = tokio::spawn(owner.run());
    (shared, task)
}

/// Bits of a link's number that say which instance it leads to, also after a restart of the gateway.
const TAG_BITS: u32 = 16;
/// Bits below them, at random, with room for more after it.
const NUMBER_BITS: u32 = 63 - TAG_BITS;

/// What the numbers of all links to the instance of this identity have in common.
pub(crate) fn link_tag(identity: &str) -> u64 {
    crate::balance::affinity(identity.as_bytes()) >> (u64::BITS - TAG_BITS)
}

/// The same, read from a link's number.
pub(crate) fn tag_of(link: u64) -> u64 {
    link >> NUMBER_BITS
}

fn first_link(identity: &str) -> u64 {
    let number = RandomState::new().hash_one(()) >> (u64::BITS - NUMBER_BITS + 1);
    (link_tag(identity) << NUMBER_BITS) | number
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
    /// Whose watchers are to look at everything again.
    look_again: look_again::LookAgain,
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
            let due = [Some(look), self.retry, self.relist_at, self.recarry_at, self.look_again.due()]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(look);
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
            for key in self.look_again.take_due(now) {
                let _ = self.shared.events.send(ServerEvent::Rewatched { key });
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
            Command::Watch { watches } => self.watch(watches),
            Command::Reopen { reason } => self.reopen_all(&reason),
            Command::Asks { asks } => self.remember_asks(|known| {
                known.roots |= asks.roots;
                known.untied |= asks.untied;
            }),
            Command::Stop { .. } => unreachable!("handled in the loop"),
        }
    }

    fn pool(&self, key: &LinkKey) -> Option<Arc<Pool>> {
        self.shared.pools.load().get(key).cloned()
    }

    fn links(&self) -> Vec<Arc<Link>> {
        InstanceHandle(Arc::clone(&self.shared)).links()
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
                    self.look_again.add(key);
                }
            }
            LinkEvent::Refused { link, key } => {
                if let Some(key) = self.heard_as(link, key) {
                    let _ = self.shared.events.send(ServerEvent::Refused { key });
                }
            }
            LinkEvent::ElicitationComplete { user, frame } => {
                let _ = self.shared.events.send(ServerEvent::ElicitationComplete { user, frame });
            }
            LinkEvent::Untied { user, frame } => {
                let _ = self.shared.events.send(ServerEvent::Untied { user, frame });
            }
            LinkEvent::TaskStatus { link, frame } => {
                if let Some(link) = self.links().iter().find(|open| open.id == link) {
                    link.tasks.heard(&frame);
                }
                let _ = self.shared.events.send(ServerEvent::TaskStatus { link, frame });
            }
            LinkEvent::Declined => {
                let _ = self.shared.events.send(ServerEvent::QuestionDeclined);
            }
            LinkEvent::AsksRoots => {
                self.remember_asks(|asks| asks.roots = true);
                // What is watched over a link that became one client's own is watched over another one.
                self.carry_all();
            }
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
