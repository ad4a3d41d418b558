//! Accepting connections: one listening socket per worker, so that a connection lives on one thread.

use crate::{
    body::Body,
    connections::{Answer, Connection, Connections, Entered, LOOK},
    gateway::Gateway,
    listen::{self, Door},
    tls, ws_door,
};
use fairlead_upstream::Worker;
use http::{Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;
/// How long a client may leave unread what was sent to it, in milliseconds: one that stops reading would keep its
/// call, and what the call holds of its server, for as long as it keeps the connection.
#[cfg(target_os = "linux")]
const UNREAD_MS: u32 = 120_000;
/// How long to wait for the rest of a preface that came in parts.
const PEEK_AGAIN: Duration = Duration::from_millis(5);
/// How long accepting rests when the system refuses another connection.
const REST: Duration = Duration::from_millis(50);

/// Binds `address` once per worker with `SO_REUSEPORT`; port 0 is chosen once for all.
///
/// # Errors
/// When the address cannot be listened on.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = bind_one(address)?;
    let actual = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..workers.max(1) {
        listeners.push(bind_one(actual)?);
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, socket};
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    match address {
        SocketAddr::V4(address) => bind(descriptor, &SockaddrIn::from(address))?,
        SocketAddr::V6(address) => bind(descriptor, &SockaddrIn6::from(address))?,
    }
    listen(&socket, nix::sys::socket::Backlog::new(BACKLOG)?)?;
    Ok(std::net::TcpListener::from(socket))
}

/// Whether somebody listens on `address` already: with `SO_REUSEPORT` a second gateway of the same
/// user could bind it too, and the two would share clients at random.
#[must_use]
pub fn is_taken(address: SocketAddr) -> bool {
    address.port() != 0
        && std::net::TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// Serves a worker's listener until `stop` turns true; then open connections finish what they do.
pub async fn serve_tcp(gateway: Gateway, worker: Worker, listener: std::net::TcpListener, stop: watch::Receiver<bool>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listening socket cannot be used");
            return;
        }
    };
    let connections = Arc::new(Connections::default());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut serving = JoinSet::new();
    let mut shaking: Option<Shaking> = None;
    let mut stopping = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = turned(&mut stopping) => break,
            Some(_) = serving.join_next(), if !serving.is_empty() => continue,
            _ = look.tick() => {
                let listen = &gateway.config().listen;
                connections.look(listen.header_timeout, listen.idle_timeout);
                gateway.tend_connections(worker);
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                let config = gateway.config();
                // The limit is shared out evenly: the kernel spreads connections over the listeners.
                let limit = config.listen.max_connections.div_ceil(config.workers.max(1));
                let Some(entered) = connections.enter(limit) else {
                    tracing::warn!("as many connections as `listen.max_connections` allows; one was closed");
                    continue;
                };
                let _ = stream.set_nodelay(true);
                #[cfg(target_os = "linux")]
                let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &UNREAD_MS);
                let door = Door::Public(peer.ip().to_canonical());
                shaking = gateway.0.tls.ready().map(|tls| Shaking::renew(shaking.take(), tls, config.workers));
                match &shaking {
                    Some(shaking) => {
                        serving.spawn(secure_connection(
                            gateway.clone(),
                            worker,
                            stream,
                            door,
                            entered,
                            shaking.clone(),
                        ));
                    }
                    None => {
                        serving.spawn(connection(gateway.clone(), worker, stream, door, entered));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
    drop(listener);
    connections.stop();
    while serving.join_next().await.is_some() {}
}

/// What an HTTP/2 client sends first (RFC 9113, section 3.4), as far as it differs from any request.
const HTTP2_PREFACE: &[u8; 4] = b"PRI ";

/// One connection of a network client: HTTP/1.1, or HTTP/2 when it begins with that protocol's preface.
///
/// The choice is made by a look at the first bytes. (A builder that serves both keeps the room of both:
/// measured, an idle connection then takes 28 KiB instead of 20.)
async fn connection(gateway: Gateway, worker: Worker, stream: TcpStream, door: Door, entered: Entered) {
    let connection = Arc::clone(&entered.connection);
    let http2 = tokio::select! {
        http2 = is_http2(&stream) => http2,
        () = connection.ended() => return tracing::debug!("closed a connection that said nothing in time"),
    };
    match http2 {
        Ok(true) => Box::pin(http2_connection(gateway, worker, stream, door, connection)).await,
        Ok(false) => http1_connection(gateway, worker, stream, door, connection).await,
        Err(error) => tracing::debug!(%error, "a connection ended before it said anything"),
    }
}

/// What the handshakes of one worker share.
#[derive(Clone)]
struct Shaking {
    tls: Arc<tls::Ready>,
    /// How many may be under way here.
    places: usize,
    slots: Arc<Semaphore>,
}

impl Shaking {
    /// Those of `tls`, in the places that there were if there are as many still.
    fn renew(before: Option<Self>, tls: Arc<tls::Ready>, workers: usize) -> Self {
        let places = tls.max_handshakes().div_ceil(workers.max(1));
        match before.filter(|before| before.places == places) {
            Some(before) => Self { tls, ..before },
            None => Self { tls, places, slots: Arc::new(Semaphore::new(places)) },
        }
    }
}

/// One connection of a network client that speaks TLS: HTTP/2 where both agreed on it, else HTTP/1.1.
async fn secure_connection(
    gateway: Gateway,
    worker: Worker,
    stream: TcpStream,
    door: Door,
    entered: Entered,
    shaking: Shaking,
) {
    let connection = Arc::clone(&entered.connection);
    let shaken = {
        let shaken = Box::pin(gateway.0.tls.shake(&shaking.tls, stream, &shaking.slots));
        tokio::select! {
            shaken = shaken => shaken,
            () = connection.ended() => return tracing::debug!("closed a connection that said nothing in time"),
        }
    };
    drop(shaking);
    match shaken {
        Some(secured) if secured.is_http2 => {
            Box::pin(http2_connection(gateway, worker, secured.stream, door, connection)).await;
        }
        Some(secured) => Box::pin(http1_connection(gateway, worker, secured.stream, door, connection)).await,
        None => {}
    }
}

async fn is_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0_u8; HTTP2_PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 || first[..seen] != HTTP2_PREFACE[..seen] {
            return Ok(false);
        }
        if seen == first.len() {
            return Ok(true);
        }
        // The rest of the four bytes is on its way; readiness does not tell more from the same.
        tokio::time::sleep(PEEK_AGAIN).await;
    }
}

async fn http1_connection<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    gateway: Gateway,
    worker: Worker,
    stream: S,
    door: Door,
    connection: Arc<Connection>,
) {
    let max_header_bytes = gateway.config().listen.max_header_bytes;
    let mut builder = http1::Builder::new();
    // (Its own limit of 100 headers is kept: setting it moves them to the heap.)
    // What a client does not read waits in our own bounded queues. (`pipeline_flush` would lift this bound.)
    builder.max_buf_size(max_header_bytes.max(8192));
    let service = Service { gateway, worker, door, connection: Arc::clone(&connection) };
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        biased;
        ended = serving.as_mut() => note_end(ended),
        () = connection.ended() => if connection.is_busy() {
            serving.as_mut().graceful_shutdown();
            note_end(serving.await);
        },
    }
    if let Some(upgrade) = connection.take_upgrade() {
        Box::pin(ws_door::serve(*upgrade, connection)).await;
    }
}

async fn http2_connection<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    gateway: Gateway,
    worker: Worker,
    stream: S,
    door: Door,
    connection: Arc<Connection>,
) {
    let config = gateway.config();
    let listen = &config.listen;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(listen.max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(listen.idle_timeout)
        .keep_alive_timeout(listen.header_timeout);
    let service = Service { gateway, worker, door, connection: Arc::clone(&connection) };
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = serving.as_mut() => return note_end(ended),
        () = connection.ended() => {}
    }
    serving.as_mut().graceful_shutdown();
    note_end(serving.await);
}

/// The data plane as hyper calls it.
struct Service {
    gateway: Gateway,
    worker: Worker,
    door: Door,
    connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.connection.request();
        let answering = Answering(Some(Arc::clone(&self.connection)));
        let (gateway, worker, door) = (self.gateway.clone(), self.worker, self.door);
        // Boxed, so that an idle connection does not carry the room of a request.
        Box::pin(async move {
            let mut response = listen::serve(&gateway, worker, door, request).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS
                && let Some(upgrade) = response.extensions_mut().remove()
                && let Some(connection) = &answering.0
            {
                connection.upgrade(upgrade);
            }
            Ok(response.map(|body| answering.with(body)))
        })
    }
}

/// A request that is not answered yet; dropped when its client goes away before.
struct Answering(Option<Arc<Connection>>);

impl Answering {
    fn with(mut self, body: Body) -> Answer {
        Answer::new(body, self.0.take().expect("invariant: answered once"))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Answer::new(Body::empty(), connection));
        }
    }
}

fn note_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Waits until the flag is true. (The guard that `wait_for` returns cannot be held across an await.)
pub(crate) async fn turned(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|on| *on).await;
}
