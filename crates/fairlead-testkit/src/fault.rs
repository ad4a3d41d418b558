//! A TCP proxy that misbehaves on demand.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Bytes moved at once.
const CHUNK: usize = 16 * 1024;
/// Pause after a failed accept or bind.
const PAUSE: Duration = Duration::from_millis(20);
/// How long [`FaultProxy::set`] waits until the proxy follows.
const FOLLOW_LIMIT: Duration = Duration::from_secs(5);

/// What goes wrong. The default is a proxy that only forwards. All of it applies to open connections too.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Faults {
    /// Every chunk is that much late, in both directions.
    pub latency: Duration,
    /// A connection is cut after that many bytes from the upstream.
    pub cut_after: Option<u64>,
    /// A connection is cut after that many bytes from the client.
    pub cut_request_after: Option<u64>,
    /// Connections are accepted and read, and nothing comes back.
    pub black_hole: bool,
    /// Nobody listens: new connections are refused, open ones are cut.
    pub refuse: bool,
    /// Bytes per second from the upstream.
    pub bytes_per_second: Option<u64>,
}

/// What the accept loop reports.
#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    accepted: AtomicU64,
    bytes_from_client: AtomicU64,
    bytes_from_upstream: AtomicU64,
}

struct Counted(Arc<Counts>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The orders of a proxy: what is wrong, and how often connections were to be cut.
#[derive(Clone, Debug, Default)]
struct Orders {
    number: u64,
    cuts: u64,
    faults: Faults,
}

/// See the module. Dropping it cuts everything.
pub struct FaultProxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    followed: watch::Receiver<u64>,
    counts: Arc<Counts>,
    running: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on port 0 of 127.0.0.1 and forwards to `upstream`.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(upstream: SocketAddr) -> Self {
        Self::try_start(upstream).await.expect("invariant: loopback has a free port")
    }

    /// Listens on port 0 of 127.0.0.1 and forwards to `upstream`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn try_start(upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
        let address = listener.local_addr().context("the listener has no address")?;
        let (orders, given) = watch::channel(Orders::default());
        let (follow, followed) = watch::channel(0);
        let counts = Arc::new(Counts::default());
        let running = tokio::spawn(run(listener, address, upstream, given, follow, Arc::clone(&counts)));
        Ok(Self { address, orders, followed, counts, running })
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL through the proxy.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Changes what is wrong, and waits until it is.
    pub async fn set(&self, faults: Faults) {
        self.orders.send_modify(|orders| {
            orders.number += 1;
            orders.faults = faults;
        });
        self.follow().await;
    }

    /// Forwards again as if nothing had been wrong. Connections that were cut stay so.
    pub async fn heal(&self) {
        self.set(Faults::default()).await;
    }

    /// Cuts every open connection, once.
    pub async fn cut_all(&self) {
        self.orders.send_modify(|orders| {
            orders.number += 1;
            orders.cuts += 1;
        });
        self.follow().await;
    }

    async fn follow(&self) {
        let number = self.orders.borrow().number;
        let mut followed = self.followed.clone();
        // A proxy that cannot follow (its port was taken) shows in the test that needs it.
        tokio::time::timeout(FOLLOW_LIMIT, followed.wait_for(|followed| *followed >= number)).await.ok();
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// Connections that were ever accepted.
    pub fn connections_accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Bytes moved so far: from clients, from the upstream.
    pub fn bytes(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.counts.bytes_from_client), load(&self.counts.bytes_from_upstream))
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn run(
    listener: TcpListener,
    address: SocketAddr,
    upstream: SocketAddr,
    mut orders: watch::Receiver<Orders>,
    follow: watch::Sender<u64>,
    counts: Arc<Counts>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut cuts = 0;
    loop {
        while connections.try_join_next().is_some() {}
        let current = orders.borrow_and_update().clone();
        if current.cuts > cuts || current.faults.refuse {
            cuts = current.cuts;
            connections.shutdown().await;
        }
        match (&listener, current.faults.refuse) {
            (Some(_), true) => listener = None,
            (None, false) => match TcpListener::bind(address).await {
                Ok(bound) => listener = Some(bound),
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            _ => {}
        }
        follow.send_replace(current.number);
        let Some(listener) = &listener else {
            if orders.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    counts.accepted.fetch_add(1, Ordering::Relaxed);
                    counts.open.fetch_add(1, Ordering::Relaxed);
                    let counted = Counted(Arc::clone(&counts));
                    connections.spawn(forward(client, upstream, orders.clone(), counted));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
}

/// The way of a chunk.
#[derive(Clone, Copy)]
enum Direction {
    FromClient,
    FromUpstream,
}

async fn forward(client: TcpStream, upstream: SocketAddr, orders: watch::Receiver<Orders>, counted: Counted) {
    let Ok(upstream) = TcpStream::connect(upstream).await else { return };
    client.set_nodelay(true).ok();
    upstream.set_nodelay(true).ok();
    let (client_read, client_write) = client.into_split();
    let (upstream_read, upstream_write) = upstream.into_split();
    let counts = &counted.0;
    // A direction that ends well leaves the other one running; a cut ends both.
    let request = pump(client_read, upstream_write, orders.clone(), counts, Direction::FromClient);
    let response = pump(upstream_read, client_write, orders, counts, Direction::FromUpstream);
    tokio::try_join!(request, response).ok();
}

/// The connection is to be cut.
struct Cut;

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut orders: watch::Receiver<Orders>,
    counts: &Counts,
    direction: Direction,
) -> Result<(), Cut> {
    let mut chunk = vec![0; CHUNK];
    let mut moved = 0_u64;
    loop {
        let read = from.read(&mut chunk).await.map_err(|_| Cut)?;
        if read == 0 {
            to.shutdown().await.ok();
            return Ok(());
        }
        // What a black hole swallowed arrives when it heals, as lost packets do.
        orders.wait_for(|orders| !orders.faults.black_hole).await.map_err(|_| Cut)?;
        let faults = orders.borrow().faults.clone();
        tokio::time::sleep(faults.latency).await;
        let (limit, count) = match direction {
            Direction::FromClient => (faults.cut_request_after, &counts.bytes_from_client),
            Direction::FromUpstream => (faults.cut_after, &counts.bytes_from_upstream),
        };
        let allowed = limit.map_or(read, |limit| read.min(limit.saturating_sub(moved) as usize));
        let pace = match direction {
            Direction::FromClient => None,
            Direction::FromUpstream => faults.bytes_per_second,
        };
        write_paced(&mut to, &chunk[..allowed], pace).await?;
        moved += allowed as u64;
        count.fetch_add(allowed as u64, Ordering::Relaxed);
        if limit.is_some_and(|limit| moved >= limit) {
            return Err(Cut);
        }
    }
}

async fn write_paced(to: &mut OwnedWriteHalf, data: &[u8], bytes_per_second: Option<u64>) -> Result<(), Cut> {
    /// Pieces per second of a throttled stream.
    const PIECES: u64 = 20;
    let Some(rate) = bytes_per_second else { return to.write_all(data).await.map_err(|_| Cut) };
    let piece = usize::try_from(rate / PIECES).unwrap_or(CHUNK).max(1);
    for part in data.chunks(piece) {
        to.write_all(part).await.map_err(|_| Cut)?;
        tokio::time::sleep(Duration::from_micros(1_000_000 * part.len() as u64 / rate.max(1))).await;
    }
    Ok(())
}
