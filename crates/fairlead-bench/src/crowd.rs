//! Many legacy sessions at once, held for minutes under load.
//!
//! Every session keeps its GET stream open on a connection of its own; its calls go over a few pooled connections, as those of a client behind a
//! proxy do. The clients are this process, the gateway another one, so neither's descriptors limit the other's, and the streams come from
//! several loopback addresses, so ports do not either. What a session costs is taken by slope, in two parts: its state alone, before any
//! stream is open, and its stream with the connection.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use http::HeaderValue;
use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::client::{Echo, Session};
use crate::histogram::Histogram;
use crate::load;
use crate::mcp::{Era, LEGACY_REVISION, Target};
use crate::process::{self, Child, Pid};
use crate::targets::{self, Kind};

/// Connections that all calls share.
const POOL: usize = 64;
/// Loopback addresses that streams come from.
const ADDRESSES: u8 = 8;
/// Descriptors that are left for everything but the streams.
const SPARE_DESCRIPTORS: u64 = 2000;
/// The smaller number of sessions and streams of a slope, one in this many.
const FEW: usize = 10;
/// Streams that are being opened at the same time.
const OPENING: usize = 64;
/// Longest time for opening all sessions, or all streams.
const OPEN_LIMIT: Duration = Duration::from_secs(180);
/// Longest wait for the head of a stream's answer.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Largest head of an answer.
const MAX_HEAD: usize = 8 << 10;
/// Requests of modern callers, each under another name, that must leave nothing behind.
const MODERN_CALLERS: usize = 20_000;
/// Bytes that each of them may seem to cost: what the memory of an idle process moves by itself.
const MODERN_NOISE: f64 = 64.0;
/// Most KiB that a session may cost with its stream and connection.
const MOST_KIB: f64 = 24.0;
/// Most KiB of it that may be the gateway's own state.
const MOST_STATE_KIB: f64 = 2.0;
/// Time for memory to settle before it is read.
const SETTLE: Duration = Duration::from_secs(3);
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Binary of the gateway
    #[arg(long)]
    fairlead: PathBuf,
    /// Sessions, each with an open stream; fewer when there are not enough descriptors
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Seconds to hold them under load
    #[arg(long, default_value_t = 300.0)]
    hold: f64,
    /// Calls each second, all sessions together
    #[arg(long, default_value_t = 1000)]
    rate: u32,
}

impl Args {
    /// Seconds to hold the sessions.
    pub(crate) fn hold(&self) -> f64 {
        self.hold
    }
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    sessions: usize,
    seconds: f64,
    calls: u64,
    errors: u64,
    first_error: Option<String>,
    streams_lost: usize,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    cpu_us_per_call: f64,
    state_kib_per_session: f64,
    kib_per_session_with_stream: f64,
    bytes_per_modern_caller: f64,
}

/// Opens the sessions, holds them, prints what it measured as JSON, and fails when a bound does not hold.
///
/// # Errors
/// When a process does not start, or a bound does not hold.
pub(crate) fn run(args: &Args, hold: Duration) -> anyhow::Result<()> {
    let sessions = args.sessions.min(descriptors()?);
    anyhow::ensure!(sessions >= FEW * 2 && args.rate > 0, "at least {} sessions and a rate are needed", FEW * 2);
    eprintln!("{sessions} sessions, {} calls a second for {} s", args.rate, hold.as_secs());
    let scratch = tempfile::tempdir().context("creating a directory for configurations and logs")?;
    let (_upstream, addr) = Child::start_self(&["upstream".to_owned()])?;
    let gateway = targets::start(&Kind::Fairlead(args.fairlead.clone()), addr, Era::Legacy, scratch.path())?;
    let pids = gateway.pids();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = crowd(&gateway.target, &pids, sessions, hold, args.rate);
    let report = runtime.block_on(LocalSet::new().run_until(work))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    report.verdict()
}

impl Report {
    fn verdict(&self) -> anyhow::Result<()> {
        let first = self.first_error.as_deref().unwrap_or_default();
        anyhow::ensure!(self.errors == 0, "{} of {} calls failed, the first: {first}", self.errors, self.calls);
        anyhow::ensure!(self.streams_lost == 0, "{} streams ended by themselves", self.streams_lost);
        let (whole, state) = (self.kib_per_session_with_stream, self.state_kib_per_session);
        anyhow::ensure!(whole <= MOST_KIB, "{whole:.1} KiB per session with its connection, more than {MOST_KIB}");
        anyhow::ensure!(state <= MOST_STATE_KIB, "{state:.2} KiB of state per session, more than {MOST_STATE_KIB}");
        let modern = self.bytes_per_modern_caller;
        anyhow::ensure!(modern <= MODERN_NOISE, "{modern:.0} bytes stay behind of each modern caller");
        Ok(())
    }
}

/// Sessions that the descriptors of this process allow.
fn descriptors() -> anyhow::Result<usize> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of open files")?;
    Ok(usize::try_from(soft.saturating_sub(SPARE_DESCRIPTORS)).unwrap_or(usize::MAX))
}

async fn crowd(target: &Target, pids: &[Pid], sessions: usize, hold: Duration, rate: u32) -> anyhow::Result<Report> {
    let bytes_per_modern_caller = modern_callers(target, pids).await?;
    let mut pool = Vec::with_capacity(POOL);
    for _ in 0..POOL {
        pool.push(Session::connect(target, Era::Legacy).await?);
    }
    let (few, echo) = (sessions / FEW, echo());
    let mut ids = Vec::with_capacity(sessions);
    let state = [
        filled(pids, open_sessions(&mut pool, &mut ids, few, &echo)).await?,
        filled(pids, open_sessions(&mut pool, &mut ids, sessions, &echo)).await?,
    ];
    eprintln!("{} sessions are open", ids.len());
    let mut streams = JoinSet::new();
    let open = [
        filled(pids, open_streams(&mut streams, target, &ids[..few], 0)).await?,
        filled(pids, open_streams(&mut streams, target, &ids[few..], few)).await?,
    ];
    eprintln!("{} streams are open", streams.len());
    let slope =
        |[few_bytes, many_bytes]: [u64; 2]| (many_bytes as f64 - few_bytes as f64) / (sessions - few) as f64 / 1024.0;
    let state_kib_per_session = slope(state);

    let cpu = process::cpu_time(pids)?;
    let begin = Instant::now();
    let tally = Rc::new(RefCell::new(Tally::default()));
    let ids: Rc<[HeaderValue]> = ids.into();
    let mut callers = JoinSet::new();
    for (lane, connection) in pool.into_iter().enumerate() {
        callers.spawn_local(call_in_time(connection, lane, Rc::clone(&ids), Rc::clone(&tally), begin, hold, rate));
    }
    let mut show = interval(SHOW_EVERY);
    show.tick().await;
    loop {
        tokio::select! {
            done = callers.join_next() => match done {
                Some(done) => done.context("a caller panicked")?,
                None => break,
            },
            _ = show.tick() => {
                let tally = tally.borrow();
                eprintln!("{} s: {} calls, {} errors", begin.elapsed().as_secs(), tally.calls, tally.errors);
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = process::cpu_time(pids)? - cpu;
    let streams_lost = std::iter::from_fn(|| streams.try_join_next()).count();
    let tally = tally.borrow();
    Ok(Report {
        sessions,
        seconds,
        calls: tally.calls,
        errors: tally.errors,
        first_error: tally.first_error.clone(),
        streams_lost,
        p50_us: tally.latencies.quantile(0.5),
        p99_us: tally.latencies.quantile(0.99),
        max_us: tally.latencies.max(),
        cpu_us_per_call: cpu.as_secs_f64() * 1e6 / (tally.calls.max(1)) as f64,
        state_kib_per_session,
        kib_per_session_with_stream: state_kib_per_session + slope(open),
        bytes_per_modern_caller,
    })
}

fn echo() -> Echo {
    Echo { tool: "echo".to_owned(), text: "x".repeat(100), answer: None, manner: crate::client::Manner::default() }
}

/// Resident memory after `filling`, when it has settled.
async fn filled(pids: &[Pid], filling: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<u64> {
    timeout(OPEN_LIMIT, filling).await.context("not opened in time")??;
    sleep(SETTLE).await;
    process::resident_bytes(pids)
}

/// Opens sessions over the pool until there are `count`, each with one call.
async fn open_sessions(
    pool: &mut [Session],
    ids: &mut Vec<HeaderValue>,
    count: usize,
    echo: &Echo,
) -> anyhow::Result<()> {
    while ids.len() < count {
        let lanes = pool.len().min(count - ids.len());
        let opening = pool[..lanes].iter_mut().map(async |connection| {
            connection.initialize().await?;
            connection.call(echo).await?;
            connection.session().context("the gateway gave no session")
        });
        for id in futures_util::future::join_all(opening).await {
            ids.push(id?);
        }
    }
    Ok(())
}

/// Opens a GET stream for each of `ids`. A task of `streams` ends when its stream does.
async fn open_streams(
    streams: &mut JoinSet<()>,
    target: &Target,
    ids: &[HeaderValue],
    from: usize,
) -> anyhow::Result<()> {
    for (chunk, ids) in ids.chunks(OPENING).enumerate() {
        let opening = ids.iter().enumerate().map(|(at, id)| open_stream(target, id, from + chunk * OPENING + at));
        for stream in futures_util::future::join_all(opening).await {
            streams.spawn_local(read_to_its_end(stream?));
        }
    }
    Ok(())
}

async fn open_stream(target: &Target, id: &HeaderValue, number: usize) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let last = u8::try_from(number % usize::from(ADDRESSES)).expect("invariant: less than ADDRESSES") + 1;
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0))?;
    let mut stream = socket.connect(target.addr).await.context("connecting for a stream")?;
    let id = id.to_str().context("a session id that is no text")?;
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nmcp-session-id: {id}\r\n\
         mcp-protocol-version: {LEGACY_REVISION}\r\n\r\n",
        target.path, target.addr
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let reading = async {
        let mut bytes = [0; 1024];
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let count = stream.read(&mut bytes).await?;
            anyhow::ensure!(count > 0 && head.len() < MAX_HEAD, "a stream ended at its head");
            head.extend_from_slice(&bytes[..count]);
        }
        Ok(())
    };
    timeout(HEAD_LIMIT, reading).await.context("a stream was not answered in time")??;
    let head = String::from_utf8_lossy(&head);
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "a stream was refused: {head}");
    Ok(stream)
}

async fn read_to_its_end(mut stream: TcpStream) {
    let mut bytes = [0; 512];
    while matches!(stream.read(&mut bytes).await, Ok(count) if count > 0) {}
}

struct Tally {
    calls: u64,
    errors: u64,
    first_error: Option<String>,
    latencies: Histogram,
}

impl Default for Tally {
    fn default() -> Self {
        Self { calls: 0, errors: 0, first_error: None, latencies: Histogram::new() }
    }
}

/// Calls on one connection at its share of the rate, each time for another session. A late call counts from when it was due.
async fn call_in_time(
    mut connection: Session,
    lane: usize,
    ids: Rc<[HeaderValue]>,
    tally: Rc<RefCell<Tally>>,
    begin: Instant,
    hold: Duration,
    rate: u32,
) {
    let every = Duration::from_secs(1) * u32::try_from(POOL).expect("invariant: a small number") / rate;
    let mut ticks = tokio::time::interval_at(begin + every.mul_f64(lane as f64 / POOL as f64), every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let echo = echo();
    let mut at = lane;
    loop {
        let due = ticks.tick().await;
        if due >= begin + hold {
            return;
        }
        connection.resume(ids[at % ids.len()].clone());
        at += POOL;
        let called = connection.call(&echo).await;
        let mut tally = tally.borrow_mut();
        tally.calls += 1;
        tally.latencies.record(due.elapsed());
        if let Err(error) = called {
            tally.errors += 1;
            tally.first_error.get_or_insert(format!("{error:#}"));
        }
    }
}

/// Bytes that stay behind of each of many modern callers, every one of another name.
async fn modern_callers(target: &Target, pids: &[Pid]) -> anyhow::Result<f64> {
    let mut connection = load::open(target, Era::Modern).await?;
    let echo = echo();
    let mut bytes = [0; 2];
    for at in 0..MODERN_CALLERS * 2 {
        if at == MODERN_CALLERS {
            // The first half is what every process needs once.
            sleep(SETTLE).await;
            bytes[0] = process::resident_bytes(pids)?;
        }
        connection.call_as(&format!("caller-{at}"), &echo).await?;
    }
    sleep(SETTLE).await;
    bytes[1] = process::resident_bytes(pids)?;
    Ok((bytes[1] as f64 - bytes[0] as f64) / MODERN_CALLERS as f64)
}
