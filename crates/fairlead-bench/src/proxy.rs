//! The minimal hyper proxy: the yardstick for what HTTP alone costs.
//!
//! It does what every proxy on hyper must do and nothing else: accept, collect the body, send it over a pooled connection,
//! collect the answer, send it back; `TCP_NODELAY` on both sides. No parsing, no routing, no limits worth a lookup.
//!
//! It exists in two runtime models, with the same code inside, so that a paired measurement compares the models alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;

use crate::mcp::MAX_BODY;
use crate::process;

/// Connections one listener serves at a time; more wait in the backlog.
const MAX_CONNECTIONS: usize = 16_384;
/// Connections the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;
/// Idle connections kept to the upstream server by each pool.
const MAX_IDLE_UPSTREAM: usize = 64;
/// How long an upstream connection may be idle.
const IDLE_LIMIT: Duration = Duration::from_secs(90);

/// How a proxy uses the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Model {
    /// A current-thread runtime on each core, with its own `SO_REUSEPORT` listener and its own pool.
    PerCore,
    /// One multi-thread runtime with one listener and one pool.
    Shared,
}

impl Model {
    /// The word of the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::PerCore => "per-core",
            Self::Shared => "shared",
        }
    }
}

/// What to serve.
pub(crate) struct Options {
    /// Where to listen.
    pub(crate) addr: SocketAddr,
    /// The server behind.
    pub(crate) upstream: SocketAddr,
    /// How to use the cores.
    pub(crate) model: Model,
    /// Worker threads, or runtimes.
    pub(crate) threads: usize,
}

/// The number of cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Serves until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn serve_forever(options: &Options) -> anyhow::Result<()> {
    match options.model {
        Model::Shared => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(options.threads).enable_all().build()?;
            runtime.block_on(async {
                let listener = listen(options.addr)?;
                process::announce(listener.local_addr()?);
                // The accept loop is a task, because the thread in block_on is not one of the workers.
                tokio::spawn(accept(listener, options.upstream)).await?
            })
        }
        Model::PerCore => {
            let first = bound(options.addr)?;
            let addr = first.local_addr()?;
            let mut sockets = vec![first];
            for _ in 1..options.threads {
                sockets.push(bound(addr)?);
            }
            let threads: Vec<_> = sockets
                .into_iter()
                .map(|socket| {
                    let upstream = options.upstream;
                    std::thread::spawn(move || -> anyhow::Result<()> {
                        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                        runtime.block_on(async move { accept(TcpListener::from_std(socket)?, upstream).await })
                    })
                })
                .collect();
            process::announce(addr);
            for thread in threads {
                thread.join().map_err(|_| anyhow::anyhow!("a runtime panicked"))??;
            }
            Ok(())
        }
    }
}

fn listen(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = socket(addr)?;
    socket.listen(BACKLOG).with_context(|| format!("listening on {addr}"))
}

/// A listening socket that is not yet bound to a runtime.
fn bound(addr: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    // A tokio listener can only be made inside a runtime; this one lives just long enough for the system calls.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async { Ok(listen(addr)?.into_std()?) })
}

fn socket(addr: SocketAddr) -> anyhow::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(addr).with_context(|| format!("binding {addr}"))?;
    Ok(socket)
}

struct Pool {
    client: Client<HttpConnector, Full<Bytes>>,
    upstream: Authority,
}

async fn accept(listener: TcpListener, upstream: SocketAddr) -> anyhow::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(MAX_IDLE_UPSTREAM)
        .pool_timer(TokioTimer::new())
        .build(connector);
    let pool = Arc::new(Pool { client, upstream: upstream.to_string().parse()? });
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let server = auto::Builder::new(TokioExecutor::new());
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely; accepting again at once would spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        let (pool, server) = (Arc::clone(&pool), server.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| forward(Arc::clone(&pool), request));
            // A client that goes away is no event for a yardstick.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}

async fn forward(pool: Arc<Pool>, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(pool.upstream.clone());
    uri.path_and_query = Some(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    parts.uri = Uri::from_parts(uri)?;
    parts.version = http::Version::HTTP_11;
    parts.headers.remove(HOST);
    remove_framing(&mut parts.headers);
    let request = Request::from_parts(parts, Full::new(body.to_bytes()));
    let Ok(response) = pool.client.request(request).await else {
        return Ok(refusal(StatusCode::BAD_GATEWAY));
    };
    let (mut parts, body) = response.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return Ok(refusal(StatusCode::BAD_GATEWAY));
    };
    remove_framing(&mut parts.headers);
    Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
}

/// Removes the headers that belong to one connection.
fn remove_framing(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
