//! Putting a gateway together: data directory, store, sockets, runtimes, data plane; and taking it apart.
//!
//! What can fail is done first and in an order in which a failure leaves nothing behind: the lock,
//! the sockets, the store. Servers are started last, and nothing waits for them.

use crate::{
    admin::{self, Admin, Watched},
    control,
    failure::{Failure, chain},
    instance,
    linger::Attached,
    serve,
};
use fairlead_config::{Config, Transport};
use fairlead_core::{Clock, Code};
use fairlead_gateway::{Gateway, KEY_LEN, Options, listener};
use fairlead_observe::Metrics;
use fairlead_store::{DataDir, DataDirError, Instance, Store};
use fairlead_upstream::{Environment, GuardBinary, Worker, http_client};
use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time,
};

/// Servers that may be starting at the same time. Starting a process takes a core for a moment.
const STARTS: usize = 8;
/// The key that seals session ids and cursors.
const SEAL_KEY: &str = "seal";
/// How long the workers may take to end once they were told.
const WORKERS_GRACE: Duration = Duration::from_secs(3);
/// The same when calls are cut off.
const WORKERS_CUT: Duration = Duration::from_millis(200);
/// What closing the servers may take beyond the longest grace of one of them.
const SERVERS_GRACE: Duration = Duration::from_secs(5);
/// How often processes that lost their guard are looked for.
const REAP_EVERY: Duration = Duration::from_secs(30);

/// Which sockets a gateway opens besides the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doors {
    /// Those of the configuration; one that is taken is an error.
    All,
    /// Those of the configuration that are free.
    WhereFree,
    /// None.
    ControlOnly,
}

/// A gateway that runs, with everything around it.
pub(crate) struct House {
    pub(crate) gateway: Gateway,
    /// Where the data plane listens; `None` when it does not.
    pub(crate) mcp: Option<SocketAddr>,
    /// Where the admin listener listens.
    pub(crate) admin: Option<SocketAddr>,
    /// The control socket.
    pub(crate) socket: PathBuf,
    /// Clients that keep a gateway in the background alive.
    pub(crate) attached: Attached,
    data: DataDir,
    store: Store,
    watched: Arc<Watched>,
    stop: watch::Sender<bool>,
    workers: Vec<thread::JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl House {
    /// Opens everything. Must be called on the control runtime.
    ///
    /// # Errors
    /// What is in the way: another instance, a taken address, an unusable directory.
    pub(crate) async fn open(config: Arc<Config>, doors: Doors) -> Result<Self, Failure> {
        let data = DataDir::lock(&config.data_dir).map_err(|error| locked(&error))?;
        let public = listeners(&config, doors)?;
        let admin = admin_listener(&config, doors)?;
        let store = Store::open(data.path())
            .await
            .map_err(|error| Failure::new(Code::DataDir, "cannot open the store").because(&error))?;
        let key = data
            .secret_key(SEAL_KEY, KEY_LEN)
            .map_err(|error| Failure::new(Code::DataDir, "cannot use the key of the data directory").because(&error))?;
        let (socket, control) = instance::bind(data.path())
            .map_err(|error| Failure::new(Code::DataDir, "cannot open the control socket").because(&error))?;

        let metrics = Metrics::new();
        let gateway = Gateway::start(Options {
            environment: environment(&config, &store)?,
            config: Arc::clone(&config),
            sessions: Arc::new(store.clone()),
            tasks: Arc::new(store.clone()),
            seal_key: key.try_into().map_err(|_| Failure::new(Code::Internal, "the key has the wrong length"))?,
            metrics: metrics.clone(),
            clock: Clock::system(),
        })
        .await;
        let watched = Arc::new(Watched::default());
        watched.set(Some((gateway.clone(), store.clone())));
        metrics.register(Arc::<Watched>::clone(&watched));

        let (stop, stopping) = watch::channel(false);
        let mcp = public.first().and_then(|listener| listener.local_addr().ok());
        let attached = Attached::default();
        let mut house = Self {
            gateway: gateway.clone(),
            mcp,
            admin: admin.as_ref().map(|(address, _)| *address),
            socket,
            attached: attached.clone(),
            data,
            store,
            watched,
            stop,
            workers: Vec::with_capacity(public.len()),
            tasks: Vec::new(),
        };
        for (number, listener) in public.into_iter().enumerate() {
            let worker = worker(number, gateway.clone(), listener, stopping.clone())
                .map_err(|error| Failure::new(Code::Internal, "cannot start a worker thread").because(&error))?;
            house.workers.push(worker);
        }
        let commands = gateway.clone();
        house.tasks.push(tokio::spawn(serve::serve(
            control,
            control::MAX_CONNECTIONS,
            move |request| control::handle(commands.clone(), attached.clone(), request),
            stopping.clone(),
        )));
        if let Some((address, listener)) = admin {
            let admin = Admin { gateway, metrics, address };
            house.tasks.push(tokio::spawn(serve::serve(
                listener,
                admin::MAX_CONNECTIONS,
                move |request| admin.clone().handle(request),
                stopping.clone(),
            )));
        }
        house.tasks.push(tokio::spawn(reap(stopping)));
        house.publish()?;
        Ok(house)
    }

    /// Tells commands where this gateway is.
    pub(crate) fn publish(&self) -> Result<(), Failure> {
        let config = self.gateway.config();
        let instance = Instance {
            pid: std::process::id(),
            socket: self.socket.clone(),
            mcp_url: self.mcp.map_or_else(String::new, |address| config.listen.origin(address) + "/mcp"),
            admin_url: self.admin.map_or_else(String::new, |address| format!("http://{address}")),
            started_ms: Clock::system().unix_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.data
            .write_instance(&instance)
            .map_err(|error| Failure::new(Code::DataDir, "cannot write to the data directory").because(&error))
    }

    /// Ends everything: calls in flight may finish within `drain` or until `hurry` is ready, then
    /// connections are closed, servers stopped and what is queued for the store written.
    pub(crate) async fn close(mut self, drain: Duration, hurry: impl Future<Output = ()>) {
        self.gateway.start_drain();
        let finished = tokio::select! {
            finished = self.gateway.drained(drain) => {
                if !finished {
                    tracing::warn!(seconds = drain.as_secs(), "calls are cut off: they did not finish within `drain`");
                }
                finished
            }
            () = hurry => {
                tracing::warn!("calls in flight are cut off");
                false
            }
        };
        self.stop.send_replace(true);
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                if worker.join().is_err() {
                    tracing::error!("a worker thread had panicked");
                }
            }
        });
        // A worker ends when its connections do; those of calls that are cut off would keep it.
        let grace = if finished { WORKERS_GRACE } else { WORKERS_CUT };
        if time::timeout(grace, joined).await.is_err() && finished {
            tracing::warn!("a worker thread did not end in time");
        }
        let config = self.gateway.config();
        let grace = config.servers.values().filter_map(|server| match &server.transport {
            Transport::Stdio(stdio) => Some(stdio.stop_grace),
            Transport::Http(_) | Transport::WebSocket(_) | Transport::Tcp(_) | Transport::Unix(_) => None,
        });
        // The grace is given twice: for the end of input, and for the signal.
        let limit = grace.max().unwrap_or_default() * 2 + SERVERS_GRACE;
        if time::timeout(limit, self.gateway.stop()).await.is_err() {
            tracing::warn!("a server did not stop in time; its guard ends it");
        }
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
        self.store.close().await;
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // The gateway holds the metrics that hold this.
        self.watched.set(None);
        self.stop.send_replace(true);
        // Ours by the lock; one that stays is removed by the next instance.
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn locked(error: &DataDirError) -> Failure {
    let code = if matches!(error, DataDirError::Locked { .. }) { Code::DataDirLocked } else { Code::DataDir };
    let failure = Failure::new(code, chain(error));
    match error {
        DataDirError::Locked { .. } => failure
            .hint("stop it first, or give this one its own `data_dir`; `fairlead servers` asks the one that runs"),
        _ => failure.hint("set `data_dir` to a directory this user can write to"),
    }
}

fn environment(config: &Config, store: &Store) -> Result<Environment, Failure> {
    let uses_tls = config.servers.values().any(|server| server.transports().any(Transport::uses_tls));
    // A reload may add the first server that needs the roots, so they are read even when none does yet; a machine
    // without any is a problem only for those that need them.
    let tls = http_client::tls_config(true)
        .or_else(|error| if uses_tls { Err(error) } else { http_client::tls_config(false) })
        .map_err(|error| Failure::new(Code::Internal, "cannot read the root certificates").because(&error))?;
    Ok(Environment {
        clock: Clock::system(),
        store: Arc::new(store.clone()),
        guard: GuardBinary::current()
            .map_err(|error| Failure::new(Code::Internal, "the program cannot find itself").because(&error))?,
        workers: config.workers,
        starts: Arc::new(Semaphore::new(STARTS)),
        tls,
        epoch: Arc::new(AtomicU64::new(0)),
        catalog: config.catalog.clone(),
    })
}

fn listeners(config: &Config, doors: Doors) -> Result<Vec<TcpListener>, Failure> {
    if doors == Doors::ControlOnly {
        return Ok(Vec::new());
    }
    let address = config.listen.address;
    let bound = if listener::is_taken(address) {
        Err(io::ErrorKind::AddrInUse.into())
    } else {
        listener::bind(address, config.workers)
    };
    match bound {
        Ok(listeners) => Ok(listeners),
        Err(error) if doors == Doors::WhereFree => {
            tracing::warn!(%address, %error, "cannot listen; serving standard streams only");
            Ok(Vec::new())
        }
        Err(error) => Err(cannot_listen(address, "listen.address", &error)),
    }
}

fn admin_listener(config: &Config, doors: Doors) -> Result<Option<(SocketAddr, tokio::net::TcpListener)>, Failure> {
    let Some(address) = config.admin.address.filter(|_| doors != Doors::ControlOnly) else { return Ok(None) };
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok((listener.local_addr()?, tokio::net::TcpListener::from_std(listener)?))
    });
    match bound {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if doors == Doors::WhereFree => {
            tracing::warn!(%address, %error, "cannot listen for operators");
            Ok(None)
        }
        Err(error) => Err(cannot_listen(address, "admin.address", &error)),
    }
}

fn cannot_listen(address: SocketAddr, key: &str, error: &io::Error) -> Failure {
    let failure = Failure::new(Code::CannotListen, format!("cannot listen on {address}")).because(error);
    match error.kind() {
        io::ErrorKind::AddrInUse => failure
            .hint(format!("another program (another gateway?) listens there: stop it, or set `{key}` to another port")),
        io::ErrorKind::AddrNotAvailable => {
            failure.hint(format!("this machine has no such address: set `{key}` to one it has"))
        }
        io::ErrorKind::PermissionDenied => failure.hint(format!("ports below 1024 need a privilege: set `{key}`")),
        _ => failure.hint(format!("set `{key}` to an address and port of this machine")),
    }
}

/// A worker: one thread, one runtime, one listening socket.
fn worker(
    number: usize,
    gateway: Gateway,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        runtime.block_on(listener::serve_tcp(gateway, Worker(number), listener, stop));
        runtime.shutdown_background();
    })
}

/// Looks for processes whose guard was killed, for as long as the gateway runs.
async fn reap(mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = serve::stopped(&mut stop) => return,
            () = time::sleep(REAP_EVERY) => {}
        }
        match tokio::task::spawn_blocking(fairlead_process::reap_orphans).await {
            Ok(0) | Err(_) => {}
            Ok(found) => tracing::warn!(found, "ended processes that had lost their guard"),
        }
    }
}
