//! The gateway itself: what lives as long as the process, and how configuration comes in.

use crate::{
    body::Body,
    dependencies::Learned,
    guard::{self, Guard, Guards},
    listen::{self, Door},
    pipeline,
    questions::Questions,
    relay,
    reuse::{CacheCounts, Outdated},
    rules::Rules,
    seal::{KEY_LEN, Sealer},
    session::Sessions,
    snapshot::{Snapshot, Upstream},
    watching,
};
use arc_swap::ArcSwap;
use fairlead_config::{Config, Diff, Glob};
use fairlead_core::{
    Clock, ServerName,
    ports::{SessionStore, StoredCatalog, TaskStore},
};
use fairlead_observe::{Metrics, ServerMetrics};
use fairlead_upstream::{Environment, Running, ServerHandle, State, Worker};
use fairlead_wire::Method;
use hyper::body::Incoming;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// How often sessions that are not used are forgotten.
const SWEEP: Duration = Duration::from_secs(15);

/// How often what sessions are subscribed to and a server was not told of is tried again.
const MEND: Duration = Duration::from_secs(1);

/// What a gateway is made of.
pub struct Options {
    /// The configuration to begin with.
    pub config: Arc<Config>,
    /// What owners of servers need.
    pub environment: Environment,
    /// Where the small records of sessions are kept.
    pub sessions: Arc<dyn SessionStore>,
    /// Where what is remembered of tasks is kept.
    pub tasks: Arc<dyn TaskStore>,
    /// Seals what the gateway hands out. Replicas and restarts share it.
    pub seal_key: [u8; KEY_LEN],
    /// Where calls are counted.
    pub metrics: Metrics,
    /// Wall time.
    pub clock: Clock,
}

/// The data plane. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) sessions: Sessions,
    pub(crate) questions: Questions,
    /// Elicitations by URL, and who was shown them.
    pub(crate) completions: crate::completions::Completions,
    pub(crate) parking: crate::park::Parking,
    /// What was cut off answers.
    pub(crate) results: crate::results::Results,
    /// Seals the handles that are given to clients, each for its own purpose.
    pub(crate) sealer: Sealer,
    pub(crate) listeners: crate::listening::Listeners,
    /// Open streams of HTTP+SSE clients.
    pub(crate) inlets: crate::sse_door::Inlets,
    /// What serves them.
    connections: Mutex<JoinSet<()>>,
    pub(crate) watching: crate::watching::Watching,
    /// What is kept and shared of answers.
    pub(crate) reuse: Arc<crate::reuse::Store>,
    /// What is known of tasks (the protocol's).
    pub(crate) task_state: crate::tasks::Tasks,
    /// Pools of calls, and what is under way.
    pub(crate) overload: crate::overload::State,
    /// What was counted under the limits.
    pub(crate) limits: crate::limits::State,
    /// What was compressed for clients.
    pub(crate) compression: crate::compress::State,
    /// TLS on the listener, where it is spoken.
    pub(crate) tls: crate::tls::Tls,
    /// Streams that outlive their connections.
    pub(crate) replays: Arc<crate::replay::Shared>,
    environment: Environment,
    /// What keeps calls off servers that fail.
    guards: Guards,
    /// Which servers need which.
    pub(crate) learned: Arc<Learned>,
    /// Faults that are injected on purpose.
    pub(crate) faults: Arc<crate::faults::Faults>,
    pub(crate) metrics: Metrics,
    gateway_metrics: Arc<ServerMetrics>,
    calls: AtomicUsize,
    streams: AtomicUsize,
    draining: AtomicBool,
    drain: watch::Sender<bool>,
    /// Servers by name, with the task that relays what they say.
    running: Mutex<HashMap<ServerName, (Running, AbortHandle)>>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

/// What a reload did.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Servers that are new.
    pub added: Vec<ServerName>,
    /// Servers that are gone.
    pub removed: Vec<ServerName>,
    /// Servers that were started anew because their configuration differs.
    pub changed: Vec<ServerName>,
    /// Servers that kept connections and sessions.
    pub unchanged: usize,
    /// Keys that only take effect at the next start.
    pub needs_restart: Vec<&'static str>,
}

/// What is going on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Legacy sessions in memory.
    pub sessions: usize,
    /// Open event streams outside calls.
    pub streams: usize,
    /// Calls in flight.
    pub calls: usize,
    /// Calls that wait for an answer of their modern client.
    pub parked: usize,
    /// Bytes of streams kept for clients that come back.
    pub replay_bytes: usize,
    /// Questions of servers that wait for an answer.
    pub questions: usize,
    /// Resources that clients watch, each once per client.
    pub subscriptions: usize,
    /// Tasks that are remembered.
    pub tasks: usize,
    /// Callers and other keys that limits are counted for.
    pub limit_keys: usize,
}

impl Gateway {
    /// Starts the owners of the configured servers on the current runtime and returns at once.
    pub async fn start(options: Options) -> Self {
        let Options { config, environment, sessions, tasks, seal_key, metrics, clock } = options;
        let stored = match environment.store.load_all().await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, "stored catalogs cannot be read; servers are listed anew");
                Vec::new()
            }
        };
        let gateway_metrics = metrics.server("gateway");
        let (drain, _) = watch::channel(false);
        let inner = Inner {
            snapshot: ArcSwap::from_pointee(Snapshot::new(Arc::clone(&config), Vec::new(), &gateway_metrics, None)),
            task_state: crate::tasks::Tasks::new(tasks, clock.clone()),
            sessions: Sessions::new(Sealer::new(&seal_key), sessions, clock, &config.sessions),
            questions: Questions::default(),
            completions: Default::default(),
            parking: crate::park::Parking::new(),
            results: crate::results::Results::default(),
            sealer: Sealer::new(&seal_key),
            listeners: crate::listening::Listeners::default(),
            inlets: crate::sse_door::Inlets::default(),
            connections: Mutex::default(),
            watching: crate::watching::Watching::default(),
            overload: crate::overload::State::new(),
            limits: crate::limits::State::new(&config.limits),
            compression: crate::compress::State::default(),
            reuse: Arc::new(crate::reuse::Store::new(&config.cache)),
            tls: crate::tls::Tls::default(),
            replays: Arc::default(),
            environment,
            guards: Guards::default(),
            learned: Arc::default(),
            faults: Arc::default(),
            metrics,
            gateway_metrics,
            calls: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            drain,
            running: Mutex::default(),
            tasks: tokio::sync::Mutex::new(JoinSet::new()),
        };
        let gateway = Self(Arc::new(inner));
        let mut by_server: HashMap<String, Vec<StoredCatalog>> = HashMap::new();
        for record in stored {
            by_server.entry(record.server.clone()).or_default().push(record);
        }
        for server in config.servers.values().filter(|server| !server.disabled) {
            let records = by_server.remove(server.name.as_str()).unwrap_or_default();
            gateway.start_server(Arc::clone(server), records, None).await;
        }
        for name in by_server.keys().filter(|name| !config.servers.contains_key(name.as_str())) {
            if let Err(error) = gateway.0.environment.store.forget(name).await {
                tracing::warn!(%error, "the stored catalog of a server that is gone was not removed");
            }
        }
        gateway.publish(config);
        let sweeper = gateway.clone();
        gateway.0.tasks.lock().await.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let idle = sweeper.config().sessions.idle;
                sweeper.0.sessions.expire_replays();
                sweeper.0.sessions.sweep(idle);
                sweeper.0.questions.sweep(&sweeper.0.metrics);
                sweeper.0.task_state.sweep();
                sweeper.0.results.sweep();
            }
        });
        let mender = gateway.clone();
        gateway.0.tasks.lock().await.spawn(async move {
            loop {
                tokio::time::sleep(MEND).await;
                if mender.0.watching.take_mending() {
                    pipeline::mend(&mender, Worker::CONTROL).await;
                }
            }
        });
        gateway
    }

    async fn start_server(
        &self,
        server: Arc<fairlead_config::Server>,
        stored: Vec<StoredCatalog>,
        before: Option<&ServerHandle>,
    ) {
        let running = fairlead_upstream::start(Arc::clone(&server), stored, before, &self.0.environment);
        let relaying = relay::server_events(self.clone(), running.handle().clone());
        let task = self.0.tasks.lock().await.spawn(relaying);
        self.0
            .running
            .lock()
            .expect("invariant: no panic under this lock")
            .insert(server.name.clone(), (running, task));
    }

    fn publish(&self, config: Arc<Config>) {
        let guards: HashMap<&ServerName, Arc<Guard>> = config
            .rules
            .iter()
            .filter_map(|(name, rules)| Some((name, self.0.guards.of(name, rules.breaker, rules.retry)?)))
            .collect();
        self.0.guards.keep(|name| guards.contains_key(name));
        let settle = |running: &Running| guard::settle(guards.get(running.handle().name()), running.handle());
        let servers = {
            let running = self.0.running.lock().expect("invariant: no panic under this lock");
            config
                .servers
                .keys()
                .filter_map(|name| running.get(name))
                .inspect(|(running, _)| settle(running))
                .map(|(running, _)| Upstream {
                    handle: running.handle().clone(),
                    metrics: self.0.metrics.server(running.handle().name().as_str()),
                    bulkhead: config
                        .rules
                        .get(running.handle().name())
                        .and_then(|rules| rules.bulkhead.as_ref())
                        .map(|bounds| self.0.overload.bulkhead(bounds)),
                    rules: Arc::new(
                        Rules::new(running.handle().name(), &config, |name| guards.get(name).cloned())
                            .with_faults(config.faults.enabled.then_some(&self.0.faults)),
                    ),
                    limits: self.0.limits.of_server(
                        &config.limits,
                        running.handle().name(),
                        config.rules.get(running.handle().name()),
                    ),
                })
                .collect()
        };
        self.0.learned.configure(&config);
        self.0.sessions.configure(&config.sessions);
        self.0.limits.configure(&config.limits);
        self.0.faults.configure(&config.faults);
        self.0.tls.configure(config.listen.tls.as_ref());
        let overload = crate::overload::Overload::new(&self.0.overload, &config.overload);
        self.0.snapshot.store(Arc::new(Snapshot::new(config, servers, &self.0.gateway_metrics, overload)));
    }

    /// Applies a new configuration by what differs: servers that stay the same keep their
    /// connections and sessions, calls in flight finish on what they began with.
    pub async fn apply(&self, config: Arc<Config>) -> Applied {
        let before = self.config();
        let diff = fairlead_config::diff(&before, &config);
        let mut applied = Applied { unchanged: diff.unchanged.len(), ..Applied::default() };
        // What is not listed here was read into the snapshot.
        applied.needs_restart.extend(diff.other.iter().filter(|key| matches!(**key, "admin" | "data_dir" | "workers")));
        let bounds = |of: &fairlead_config::Catalog| (of.max_items, of.max_bytes, of.max_capability_sets, of.refresh);
        if bounds(&before.catalog) != bounds(&config.catalog) {
            applied.needs_restart.push("catalog");
        }
        if before.cache.max_bytes != config.cache.max_bytes {
            applied.needs_restart.push("cache.max_bytes");
        }
        if before.log.format != config.log.format {
            applied.needs_restart.push("log.format");
        }
        if self.config().listen.address != config.listen.address {
            applied.needs_restart.push("listen.address");
        }
        let mut stopping: Vec<(Running, AbortHandle)> = Vec::new();
        for name in diff.removed.iter().chain(&diff.changed) {
            let old = self.0.running.lock().expect("invariant: no panic under this lock").remove(name);
            stopping.extend(old);
        }
        for name in diff.added.iter().chain(&diff.changed) {
            if let Some(server) = config.servers.get(name).filter(|server| !server.disabled) {
                let before = stopping.iter().map(|(running, _)| running.handle()).find(|handle| handle.name() == name);
                self.start_server(Arc::clone(server), self.stored(name).await, before).await;
            }
        }
        for name in &diff.removed {
            if let Err(error) = self.0.environment.store.forget(name.as_str()).await {
                tracing::warn!(%error, "the stored catalog of a removed server was not removed");
            }
        }
        self.publish(Arc::clone(&config));
        let is_ruled_anew = |name: &&ServerName| before.rules.get(*name) != config.rules.get(*name);
        let ruled_anew = before.servers.keys().filter(is_ruled_anew);
        for name in diff.removed.iter().chain(&diff.changed).chain(ruled_anew) {
            self.0.reuse.purge(Outdated::Server(name.as_str()));
        }
        let is_off = |name: &&ServerName| config.servers.get(*name).is_none_or(|server| server.disabled);
        for name in diff.removed.iter().chain(diff.changed.iter().filter(is_off)) {
            watching::unwatchable(self, name, None);
        }
        // Calls in flight hold leases of the old owners; they get the drain time to finish.
        let drain = config.drain;
        let mut tasks = self.0.tasks.lock().await;
        // Those of earlier reloads that are through are not kept.
        while tasks.try_join_next().is_some() {}
        for (running, relaying) in stopping {
            tasks.spawn(async move {
                let until = tokio::time::Instant::now() + drain;
                while running.in_flight() > 0 && tokio::time::Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                relaying.abort();
                running.stop().await;
            });
        }
        drop(tasks);
        // A certificate that was renewed concerns no list.
        if !(Diff { listen_changed: false, ..diff.clone() }).is_empty() {
            self.0.environment.epoch.fetch_add(1, Ordering::Release);
            relay::all_lists_changed(self);
        }
        applied.added = diff.added;
        applied.removed = diff.removed;
        applied.changed = diff.changed;
        applied
    }

    async fn stored(&self, name: &ServerName) -> Vec<StoredCatalog> {
        let all = self.0.environment.store.load_all().await.unwrap_or_default();
        all.into_iter().filter(|record| record.server == name.as_str()).collect()
    }

    /// Answers one HTTP request: the data plane's single door.
    pub async fn handle(&self, worker: Worker, door: Door, request: http::Request<Incoming>) -> http::Response<Body> {
        listen::serve(self, worker, door, request).await
    }

    /// Has the connections of `worker` to servers looked after, on its runtime.
    pub(crate) fn tend_connections(&self, worker: Worker) {
        for server in self.0.snapshot.load().servers.iter() {
            server.handle.tend_connections(worker);
        }
    }

    /// Handles on the configured servers, in configuration order.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerHandle> {
        self.0.snapshot.load().servers.iter().map(|server| server.handle.clone()).collect()
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0.snapshot.load().config)
    }

    /// What is going on.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.0.sessions.len(),
            streams: self.0.streams.load(Ordering::Relaxed),
            calls: self.0.calls.load(Ordering::Relaxed),
            parked: self.0.parking.len(),
            replay_bytes: self.0.replays.kept_bytes(),
            questions: self.0.questions.len(),
            subscriptions: self.0.watching.len(),
            tasks: self.0.task_state.table.len(),
            limit_keys: self.0.limits.keys(),
        }
    }

    /// What the pools of calls are doing.
    #[must_use]
    pub fn bulkheads(&self) -> Vec<crate::BulkheadCounts> {
        self.0.overload.bulkheads()
    }

    /// Answers compressed for clients so far, by coding.
    #[must_use]
    pub fn compressed(&self) -> Vec<crate::Compressed> {
        self.0.compression.counts().collect()
    }

    /// Calls shed so far: their priority, the reason, how many.
    #[must_use]
    pub fn shed(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.0.overload.shed()
    }

    /// Calls refused so far by each limit: its name, its level, how many.
    #[must_use]
    pub fn limit_refusals(&self) -> Vec<(String, &'static str, u64)> {
        self.0.limits.refusals()
    }

    /// How TLS handshakes with clients got on; `None` where the listener is plain.
    #[must_use]
    pub fn tls_counts(&self) -> Option<crate::TlsCounts> {
        self.0.tls.counts()
    }

    /// What is kept of answers.
    #[must_use]
    pub fn cache_counts(&self) -> CacheCounts {
        self.0.reuse.counts()
    }

    /// Drops what is kept of answers: all of it, or what a server, a tool of it (a pattern on its own names) or a tag says. Returns
    /// how many answers that were.
    pub fn purge_cache(&self, server: Option<&str>, tool: Option<&Glob>, tag: Option<&str>) -> usize {
        let reuse = &self.0.reuse;
        match (server, tool, tag) {
            (_, _, Some(tag)) => reuse.purge(Outdated::Tag(tag)),
            (Some(server), Some(tool), None) => reuse.purge(Outdated::Pattern(server, Method::ToolsCall, tool)),
            (Some(server), None, None) => reuse.purge(Outdated::Server(server)),
            (None, ..) => reuse.purge(Outdated::Everything),
        }
    }

    /// Whether requests are answered: from the start until a drain begins. Servers that are down do
    /// not make the gateway unready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.0.draining.load(Ordering::Relaxed)
    }

    /// Whether every server has been tried once.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.0.snapshot.load().servers.iter().all(|server| !matches!(server.handle.peek().state, State::Starting))
    }

    /// Stops taking new calls; open streams outside calls end.
    pub fn start_drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.drain.send_replace(true);
    }

    /// Waits until no call is in flight; `false` when some still are after `within`.
    pub async fn drained(&self, within: Duration) -> bool {
        let until = tokio::time::Instant::now() + within;
        while self.0.calls.load(Ordering::Relaxed) > 0 {
            if tokio::time::Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Closes every server and ends every task.
    pub async fn stop(&self) {
        self.start_drain();
        self.0.parking.clear();
        self.0.replays.stop().await;
        let running: Vec<_> = self.0.running.lock().expect("invariant: no panic under this lock").drain().collect();
        let mut stopping = JoinSet::new();
        for (_, (running, relaying)) in running {
            relaying.abort();
            stopping.spawn(running.stop());
        }
        while stopping.join_next().await.is_some() {}
        let mut connections =
            std::mem::take(&mut *self.0.connections.lock().expect("invariant: no panic under this lock"));
        connections.shutdown().await;
        self.0.task_state.watches.stop();
        self.0.tasks.lock().await.shutdown().await;
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot.load_full()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.0.environment.epoch.load(Ordering::Acquire)
    }

    /// Wall time in milliseconds.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.0.environment.clock.unix_ms()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    pub(crate) fn call_began(&self) {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn call_ended(&self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// Runs what serves a connection beside the request that opened it, on the runtime of that request.
    pub(crate) fn serve_beside(&self, serving: impl Future<Output = ()> + Send + 'static) {
        let mut connections = self.0.connections.lock().expect("invariant: no panic under this lock");
        while connections.try_join_next().is_some() {}
        connections.spawn(serving);
    }

    /// Told when a drain begins.
    pub(crate) fn drain_begins(&self) -> watch::Receiver<bool> {
        self.0.drain.subscribe()
    }

    /// Counts a stream of a modern listener; `None` at the limit.
    pub(crate) fn open_stream(&self) -> Option<StreamCount> {
        let max = self.config().sessions.max_streams;
        if self.0.streams.fetch_add(1, Ordering::Relaxed) >= max {
            self.0.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(StreamCount(self.clone()))
    }
}

/// One open stream, counted for as long as it lives.
pub(crate) struct StreamCount(Gateway);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").finish_non_exhaustive()
    }
}
