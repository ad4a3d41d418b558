//! Accepting connections: one listening socket per worker, so that a connection lives on one thread.

use crate::{gateway::Gateway, listen::Door};
use fairlead_upstream::Worker;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
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
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;
/// How long a client may leave unread what was sent to it, in milliseconds: one that stops reading would keep its
/// call, and what the call holds of its server, for as long as it keeps the connection.
#[cfg(target_os = "linux")]
const UNREAD_MS: u32 = 120_000;
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
                let serving = connection(gateway.clone(), worker, Door::Public, stream, stop.clone());
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

/// Serves a Unix socket, whose permissions are its access control.
pub async fn serve_unix(gateway: Gateway, worker: Worker, listener: UnixListener, stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut stopping = stop.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(gateway.clone(), worker, Door::Control, stream, stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(REST).await;
                }
            },
            () = turned(&mut stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
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

async fn connection(
    gateway: Gateway,
    worker: Worker,
    door: Door,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut stop: watch::Receiver<bool>,
) {
    let config = gateway.config();
    let listen = &config.listen;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // (Its own limit of 100 headers is kept: setting it moves them to the heap.)
        // Hyper counts the wait for the next request's head too, so this is the idle time of a
        // connection; a first head that dawdles is cut by the shorter `header_timeout` below.
        .header_read_timeout(listen.idle_timeout)
        // What a client does not read waits in our own bounded queues. (`pipeline_flush` would lift this bound.)
        .max_buf_size(listen.max_header_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(listen.max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(listen.idle_timeout)
        .keep_alive_timeout(listen.header_timeout);
    let began = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&began);
    let service = service_fn(move |request| {
        seen.store(true, Ordering::Relaxed);
        let gateway = gateway.clone();
        // Boxed, so that an idle connection does not carry the room of a request.
        Box::pin(async move { Ok::<_, Infallible>(gateway.handle(worker, door, request).await) })
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut first_head = pin!(tokio::time::sleep(listen.header_timeout));
    let mut waiting_for_first = true;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended with an error");
                }
                return;
            }
            () = first_head.as_mut(), if waiting_for_first => {
                waiting_for_first = false;
                if !began.load(Ordering::Relaxed) {
                    tracing::debug!("closed a connection whose first request did not come in time");
                    return;
                }
            }
            () = turned(&mut stop) => break,
        }
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

/// Waits until the flag is true. (The guard that `wait_for` returns cannot be held across an await.)
pub(crate) async fn turned(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|on| *on).await;
}
