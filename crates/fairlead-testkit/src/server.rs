//! A scripted server on a port (or Unix socket) of its own.

mod http;
mod lines;
mod sse;
mod websocket;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    core::Core,
    received::Received,
    script::Script,
    tls::{Identity, acceptor},
};

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long a restart waits for its port.
const BIND_LIMIT: Duration = Duration::from_secs(5);

/// What a scripted server listens on, and what it expects there.
#[derive(Clone, Debug)]
pub enum Door {
    /// HTTP on a TCP port: Streamable HTTP on `/mcp`, HTTP+SSE on `/sse`, WebSocket on `/ws`.
    Http,
    /// Lines on a TCP port.
    Tcp,
    /// Lines on this Unix socket.
    Unix(PathBuf),
    /// HTTP on this Unix socket.
    HttpUnix(PathBuf),
    /// HTTP over TLS on a TCP port.
    Https(Identity),
}

impl Door {
    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        match self {
            Self::Http | Self::Tcp => TcpListener::bind(address).await.map(Listener::Tcp),
            Self::Https(identity) => {
                let listener = TcpListener::bind(address).await?;
                Ok(Listener::Tls(listener, acceptor(identity)))
            }
            Self::Unix(path) | Self::HttpUnix(path) => {
                std::fs::remove_file(path).ok();
                UnixListener::bind(path).map(Listener::Unix)
            }
        }
    }

    fn takes_lines(&self) -> bool {
        matches!(self, Self::Tcp | Self::Unix(_))
    }
}

enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, TlsAcceptor),
    Unix(UnixListener),
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true).ok();
                Ok(Box::new(stream))
            }
            // One at a time: what shakes hands slowly here is the gateway, and that is a finding.
            Self::Tls(listener, acceptor) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true).ok();
                let shaking = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream));
                Ok(Box::new(shaking.await.map_err(io::Error::other)??))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// Connections of a server, shared with its accept loop.
#[derive(Default)]
struct Connections {
    open: AtomicUsize,
    accepted: AtomicU64,
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<Connections>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A server that does what its [`Script`] says. Dropping it ends everything it runs.
pub struct ScriptedServer {
    core: Arc<Core>,
    door: Door,
    address: SocketAddr,
    connections: Arc<Connections>,
    running: Option<JoinHandle<()>>,
}

impl ScriptedServer {
    /// Starts on port 0 of 127.0.0.1.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(script: Script) -> Self {
        Self::try_start(script).await.expect("invariant: loopback has a free port")
    }

    /// Starts on port 0 of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn try_start(script: Script) -> anyhow::Result<Self> {
        Self::try_start_at(Door::Http, script).await
    }

    /// Starts behind another door than HTTP on a port.
    ///
    /// # Panics
    /// When it cannot be listened there.
    pub async fn start_at(door: Door, script: Script) -> Self {
        Self::try_start_at(door, script).await.expect("invariant: a test names a place it can listen on")
    }

    async fn try_start_at(door: Door, script: Script) -> anyhow::Result<Self> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = door.listen(anywhere).await.context("cannot listen")?;
        let address = match &listener {
            Listener::Tcp(listener) | Listener::Tls(listener, _) => {
                listener.local_addr().context("the listener has no address")?
            }
            Listener::Unix(_) => anywhere,
        };
        let core = Arc::new(Core::new(script));
        let mut server = Self { core, door, address, connections: Arc::default(), running: None };
        server.run(listener);
        Ok(server)
    }

    fn run(&mut self, listener: Listener) {
        let core = Arc::clone(&self.core);
        let connections = Arc::clone(&self.connections);
        let takes_lines = self.door.takes_lines();
        self.running = Some(tokio::spawn(async move {
            tokio::join!(accept(listener, &core, &connections, takes_lines), core.keep_changing());
        }));
    }

    /// The MCP endpoint.
    pub fn url(&self) -> String {
        format!("{}://{}/mcp", self.scheme(), self.address)
    }

    /// The endpoint of the HTTP+SSE transport.
    pub fn sse_url(&self) -> String {
        format!("{}://{}/sse", self.scheme(), self.address)
    }

    /// The WebSocket endpoint.
    pub fn ws_url(&self) -> String {
        format!("{}://{}/ws", self.scheme().replace("http", "ws"), self.address)
    }

    fn scheme(&self) -> &'static str {
        if matches!(self.door, Door::Https(_)) { "https" } else { "http" }
    }

    /// The Unix socket it listens on, where it does.
    pub fn socket(&self) -> Option<&Path> {
        match &self.door {
            Door::Unix(path) | Door::HttpUnix(path) => Some(path),
            Door::Http | Door::Tcp | Door::Https(_) => None,
        }
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far, oldest first.
    pub fn received(&self) -> Vec<Received> {
        self.core.recorder.all()
    }

    /// The requests so far that carried this JSON-RPC method.
    pub fn received_method(&self, method: &str) -> Vec<Received> {
        let mut received = self.received();
        received.retain(|received| received.method().as_deref() == Some(method));
        received
    }

    /// Forgets what was received.
    pub fn clear_received(&self) {
        self.core.recorder.clear();
    }

    /// Waits until `enough` holds of what was received, at most `limit`; says whether it did.
    pub async fn wait_received(&self, limit: Duration, enough: impl Fn(&[Received]) -> bool) -> bool {
        self.core.recorder.wait(limit, enough).await
    }

    /// Legacy sessions that are open.
    pub fn sessions(&self) -> usize {
        self.core.sessions.lock().expect("invariant: nobody panics while holding the sessions").len()
    }

    /// Legacy sessions that were ever opened.
    pub fn sessions_opened(&self) -> u64 {
        self.core.sessions_opened.load(Ordering::Relaxed)
    }

    /// TCP connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.open.load(Ordering::Relaxed)
    }

    /// TCP connections that were ever accepted.
    pub fn connections_accepted(&self) -> u64 {
        self.connections.accepted.load(Ordering::Relaxed)
    }

    /// Open `subscriptions/listen` requests.
    pub fn listeners(&self) -> usize {
        self.core.listeners.lock().expect("invariant: nobody panics while holding the listeners").len()
    }

    /// The filters of the open `subscriptions/listen` requests, as acknowledged.
    pub fn filters(&self) -> Vec<Value> {
        let listeners = self.core.listeners.lock().expect("invariant: nobody panics while holding the listeners");
        listeners.iter().map(|listener| listener.filter.clone()).collect()
    }

    /// Ids (JSON text) of the calls that were cancelled: by a notification, or in the modern era by closing the stream.
    pub fn cancelled(&self) -> Vec<String> {
        self.core.cancelled()
    }

    /// The parameters of the calls that were cancelled while they ran.
    pub fn cancelled_calls(&self) -> Vec<Value> {
        self.core.cancelled_calls()
    }

    /// Calls that ran to their end.
    pub fn calls_finished(&self) -> u64 {
        self.core.calls_finished.load(Ordering::Relaxed)
    }

    /// Changes the script for what comes from now on.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        self.core.change(change);
    }

    /// Forgets every session: their next request gets 404.
    pub fn forget_sessions(&self) {
        self.core.forget_sessions();
    }

    /// Adds or removes the tool `extra_tool` and tells everybody.
    pub async fn change_list(&self) {
        self.core.change_list().await;
    }

    /// Sends a notification to every session's GET stream and to every listener that asked for it.
    pub async fn notify(&self, method: &str, params: &Value) {
        self.core.notify(method, params).await;
    }

    /// Stops listening, breaks every connection and forgets every session.
    pub async fn stop(&mut self) {
        self.core.forget_everything();
        if let Some(running) = self.running.take() {
            running.abort();
            // It was aborted: the only possible outcome is that it is gone.
            running.await.ok();
        }
    }

    /// Listens again on the same port, after [`ScriptedServer::stop`].
    ///
    /// # Errors
    /// When somebody else took the port.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + BIND_LIMIT;
        loop {
            match self.door.listen(self.address).await {
                Ok(listener) => {
                    self.run(listener);
                    return Ok(());
                }
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    return Err(error).context("the port of the scripted server was taken");
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Stops and starts again on the same port, as a new process would.
    ///
    /// # Errors
    /// When somebody else took the port.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await;
        self.resume().await
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.core.forget_everything();
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

async fn accept(listener: Listener, core: &Arc<Core>, connections: &Arc<Connections>, takes_lines: bool) {
    let mut serving = JoinSet::new();
    loop {
        while serving.try_join_next().is_some() {}
        match listener.accept().await {
            Ok(stream) => {
                let number = connections.accepted.fetch_add(1, Ordering::Relaxed) + 1;
                connections.open.fetch_add(1, Ordering::Relaxed);
                let counted = Counted(Arc::clone(connections));
                serving.spawn(serve(stream, Arc::clone(core), number, counted, takes_lines));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve(stream: Box<dyn Stream>, core: Arc<Core>, number: u64, _counted: Counted, takes_lines: bool) {
    if takes_lines {
        return lines::serve(stream, core, number).await;
    }
    let service = hyper::service::service_fn(move |request| http::handle(Arc::clone(&core), number, request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Connections end in every possible way here; that is what the server is for.
    connection.with_upgrades().await.ok();
}
