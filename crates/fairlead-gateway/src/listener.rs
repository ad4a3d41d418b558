//! Accepting connections: one listening socket per worker, so that a connection lives on one thread.

use crate::{gateway::Gateway, listen::Door};
use fairlead_upstream::Worker;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
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
    let open = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    let mut stopping = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = turned(&mut stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let config = gateway.config();
                // The limit is shared out evenly: the kernel spreads connections over the listeners.
                let limit = config.listen.max_connections.div_ceil(config.workers.max(1));
                if open.load(Ordering::Relaxed) >= limit {
                    tracing::warn!("as many connections as `listen.max_connections` allows; one was closed");
                    continue;
                }
                let _ = stream.set_nodelay(true);
                #[cfg(target_os = "linux")]
                let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &UNREAD_MS);
                let counted = Counted::new(&open);
                let serving = connection(gateway.clone(), worker, stream, stop.clone());
                connections.spawn(async move {
                    let _counted = counted;
                    serving.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an HTTP/2 client sends first (RFC 9113, section 3.4), as far as it differs from any request.
const HTTP2_PREFACE: &[u8; 4] = b"PRI ";

/// One connection of a network client: HTTP/1.1, or HTTP/2 when it begins with that protocol's preface.
///
/// The choice is made by a look at the first bytes. (A builder that serves both keeps the room of both:
/// measured, an idle connection then takes 28 KiB instead of 20.)
async fn connection(gateway: Gateway, worker: Worker, stream: TcpStream, mut stop: watch::Receiver<bool>) {
    let header_timeout = gateway.config().listen.header_timeout;
    let looked = tokio::select! {
        looked = tokio::time::timeout(header_timeout, is_http2(&stream)) => looked,
        // It has asked for nothing yet.
        () = turned(&mut stop) => return,
    };
    match looked {
        Ok(Ok(true)) => Box::pin(http2_connection(gateway, worker, stream, stop)).await,
        Ok(Ok(false)) => http1_connection(gateway, worker, Door::Public, stream, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended before it said anything"),
        Err(_) => tracing::debug!("closed a connection that said nothing in time"),
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

async fn http1_connection(
    gateway: Gateway,
    worker: Worker,
    door: Door,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut stop: watch::Receiver<bool>,
) {
    let config = gateway.config();
    let listen = &config.listen;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // (Its own limit of 100 headers is kept: setting it moves them to the heap.)
        // Hyper counts the wait for the next request's head too, so this is the idle time of a
        // connection; a first head that dawdles is cut by the shorter `header_timeout` below.
        .header_read_timeout(listen.idle_timeout)
        // What a client does not read waits in our own bounded queues. (`pipeline_flush` would lift this bound.)
        .max_buf_size(listen.max_header_bytes.max(8192));
    let began = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&began);
    let service = service_fn(move |request| {
        seen.store(true, Ordering::Relaxed);
        let gateway = gateway.clone();
        // Boxed, so that an idle connection does not carry the room of a request.
        Box::pin(async move { Ok::<_, Infallible>(gateway.handle(worker, door, request).await) })
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    {
        let mut first_head = pin!(tokio::time::sleep(listen.header_timeout));
        let mut stopped = pin!(turned(&mut stop));
        let mut waiting_for_first = true;
        loop {
            tokio::select! {
                biased;
                ended = serving.as_mut() => return note_end(ended),
                () = stopped.as_mut() => break,
                () = first_head.as_mut(), if waiting_for_first => {
                    waiting_for_first = false;
                    if !began.load(Ordering::Relaxed) {
                        tracing::debug!("closed a connection whose first request did not come in time");
                        return;
                    }
                }
            }
        }
    }
    serving.as_mut().graceful_shutdown();
    note_end(serving.await);
}

async fn http2_connection(gateway: Gateway, worker: Worker, stream: TcpStream, mut stop: watch::Receiver<bool>) {
    let config = gateway.config();
    let listen = &config.listen;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(listen.max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(listen.idle_timeout)
        .keep_alive_timeout(listen.header_timeout);
    let service = service_fn(move |request| {
        let gateway = gateway.clone();
        Box::pin(async move { Ok::<_, Infallible>(gateway.handle(worker, Door::Public, request).await) })
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = serving.as_mut() => return note_end(ended),
        () = turned(&mut stop) => {}
    }
    serving.as_mut().graceful_shutdown();
    note_end(serving.await);
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
