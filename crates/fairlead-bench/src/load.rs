//! The closed-loop load generator.
//!
//! Every session sends, waits for the answer, checks it, and sends again. The load begins before the measured window and
//! ends after it, so the window sees a steady state: calls are counted when they complete inside it, and the CPU clocks of
//! the processes under test are read at its two ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tokio::task::{JoinSet, LocalSet};

use crate::client::{Echo, Manner, Session};
use crate::histogram::Histogram;
use crate::mcp::{Era, MAX_BODY, Target};
use crate::process::{self, Pid};

/// Most sessions of one load.
const MAX_SESSIONS: usize = 10_000;
/// Failures in a row after which a session gives up.
const MAX_FAILURES_IN_A_ROW: u32 = 20;
/// Pause after a failure, so that a refusing server is not hammered.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Longest time for all handshakes, and for the last calls to end.
const EDGE_LIMIT: Duration = Duration::from_secs(60);

/// What one operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A call of the echo tool.
    Call,
    /// A sign of life, which a gateway gives by itself (legacy era).
    Ping,
    /// A complete list of tools.
    List,
    /// A legacy session opened and closed: `initialize`, `notifications/initialized`, DELETE. Without the last, a long
    /// load would end at the limit of sessions that every careful server has.
    Initialize,
}

/// A load and what it measures.
pub(crate) struct Options {
    /// The endpoint.
    pub(crate) target: Target,
    /// Sessions, each with one connection and one request in flight.
    pub(crate) sessions: usize,
    /// Load before the measured window.
    pub(crate) warmup: Duration,
    /// The measured window.
    pub(crate) duration: Duration,
    /// Bytes of text sent in a call.
    pub(crate) payload: usize,
    /// Bytes of text in an answer; `None` for what was sent.
    pub(crate) answer: Option<usize>,
    /// Era of the clients.
    pub(crate) era: Era,
    /// What one operation is.
    pub(crate) kind: Kind,
    /// Name of the echo tool.
    pub(crate) tool: String,
    /// What calls differ in from plain ones.
    pub(crate) manner: Manner,
    /// Tools a complete list must have.
    pub(crate) expect_tools: Option<usize>,
    /// Groups of processes; the CPU time of each group per operation is measured.
    pub(crate) cpu_of: Vec<Vec<Pid>>,
}

/// What a load measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Operations that completed well, inside the window.
    pub(crate) calls: u64,
    /// Operations that failed, at any time.
    pub(crate) errors: u64,
    /// The first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Operations per second.
    pub(crate) rps: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: u64,
    /// 90th percentile in microseconds.
    pub(crate) p90_us: u64,
    /// 99th percentile in microseconds.
    pub(crate) p99_us: u64,
    /// Longest latency in microseconds.
    pub(crate) max_us: u64,
    /// CPU time per operation of each group of processes, in microseconds.
    pub(crate) cpu_us: Vec<f64>,
    /// Cores that were busy with anything but the load and the measured processes, on average over the window.
    pub(crate) foreign_cores: f64,
}

impl Report {
    /// The report of a load that could not run.
    pub(crate) fn failed(error: &anyhow::Error) -> Self {
        Self {
            calls: 0,
            errors: 1,
            error: Some(format!("{error:#}")),
            rps: 0.0,
            p50_us: 0,
            p90_us: 0,
            p99_us: 0,
            max_us: 0,
            cpu_us: Vec::new(),
            foreign_cores: 0.0,
        }
    }

    /// The first failure in words.
    pub(crate) fn first_error(&self) -> &str {
        self.error.as_deref().unwrap_or("none")
    }
}

struct Counters {
    is_measuring: bool,
    is_stopping: bool,
    calls: u64,
    errors: u64,
    first_error: Option<String>,
    latencies: Histogram,
}

impl Counters {
    fn fail(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
    }
}

/// Runs the load on a runtime of its own, on this thread.
///
/// # Errors
/// When the sessions cannot be opened, or a measured process ends. Calls that fail are counted, not returned.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(run_here(options)))
}

/// Runs the load inside a [`LocalSet`].
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_here(options: &Options) -> anyhow::Result<Report> {
    anyhow::ensure!(
        (1..=MAX_SESSIONS).contains(&options.sessions),
        "between 1 and {MAX_SESSIONS} sessions are possible"
    );
    anyhow::ensure!(options.payload <= MAX_BODY / 2, "a payload of at most {} bytes is possible", MAX_BODY / 2);
    let echo = Rc::new(Echo {
        tool: options.tool.clone(),
        text: "x".repeat(options.payload),
        answer: options.answer,
        manner: options.manner.clone(),
    });
    let counters = Rc::new(RefCell::new(Counters {
        is_measuring: false,
        is_stopping: false,
        calls: 0,
        errors: 0,
        first_error: None,
        latencies: Histogram::new(),
    }));

    let mut sessions = Vec::with_capacity(options.sessions);
    let opening = async {
        for _ in 0..options.sessions {
            sessions.push(open(&options.target, options.era).await?);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(EDGE_LIMIT, opening).await.context("the sessions could not be opened in time")??;

    let mut tasks = JoinSet::new();
    for session in sessions {
        let worker = Worker {
            target: options.target.clone(),
            era: options.era,
            kind: options.kind,
            expect_tools: options.expect_tools,
            echo: Rc::clone(&echo),
            counters: Rc::clone(&counters),
        };
        tasks.spawn_local(worker.run(session));
    }

    tokio::time::sleep(options.warmup).await;
    let me = [Pid::this()];
    let (cpu_before, mine_before) = (read_cpu(&options.cpu_of)?, process::cpu_time(&me)?);
    let machine_before = process::machine_cpu_time()?;
    let began = Instant::now();
    counters.borrow_mut().is_measuring = true;
    tokio::time::sleep(options.duration).await;
    counters.borrow_mut().is_measuring = false;
    let elapsed = began.elapsed();
    let machine_after = process::machine_cpu_time()?;
    let (cpu_after, mine_after) = (read_cpu(&options.cpu_of)?, process::cpu_time(&me)?);

    counters.borrow_mut().is_stopping = true;
    let finish = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(EDGE_LIMIT, finish).await.context("the last calls did not end in time")?;

    let counters = counters.borrow();
    let calls = counters.calls;
    let spent: Vec<f64> =
        cpu_before.iter().zip(&cpu_after).map(|(before, after)| after.saturating_sub(*before).as_secs_f64()).collect();
    let known = spent.iter().sum::<f64>() + (mine_after - mine_before).as_secs_f64();
    let busy = machine_after.saturating_sub(machine_before).as_secs_f64();
    Ok(Report {
        calls,
        errors: counters.errors,
        error: counters.first_error.clone(),
        rps: calls as f64 / elapsed.as_secs_f64(),
        p50_us: counters.latencies.quantile(0.5),
        p90_us: counters.latencies.quantile(0.9),
        p99_us: counters.latencies.quantile(0.99),
        max_us: counters.latencies.max(),
        cpu_us: spent.iter().map(|seconds| seconds * 1e6 / calls.max(1) as f64).collect(),
        foreign_cores: ((busy - known) / elapsed.as_secs_f64()).max(0.0),
    })
}

/// A connected client that has done its handshake.
///
/// # Errors
/// When nobody listens or the server refuses.
pub(crate) async fn open(target: &Target, era: Era) -> anyhow::Result<Session> {
    let mut session = Session::connect(target, era).await?;
    session.handshake().await.context("the handshake failed")?;
    Ok(session)
}

fn read_cpu(groups: &[Vec<Pid>]) -> anyhow::Result<Vec<Duration>> {
    groups.iter().map(|pids| process::cpu_time(pids)).collect()
}

struct Worker {
    target: Target,
    era: Era,
    kind: Kind,
    expect_tools: Option<usize>,
    echo: Rc<Echo>,
    counters: Rc<RefCell<Counters>>,
}

impl Worker {
    async fn run(self, first: Session) {
        let mut session = Some(first);
        let mut failures = 0;
        while failures < MAX_FAILURES_IN_A_ROW && !self.counters.borrow().is_stopping {
            let began = Instant::now();
            let outcome = match &mut session {
                Some(open) => self.operate(open).await,
                None => match open(&self.target, self.era).await {
                    Ok(opened) => {
                        session = Some(opened);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match outcome {
                Ok(()) => {
                    failures = 0;
                    let mut counters = self.counters.borrow_mut();
                    if counters.is_measuring {
                        counters.calls += 1;
                        counters.latencies.record(began.elapsed());
                    }
                }
                Err(error) => {
                    failures += 1;
                    session = None;
                    self.counters.borrow_mut().fail(&error);
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn operate(&self, session: &mut Session) -> anyhow::Result<()> {
        match self.kind {
            Kind::Call => session.call(&self.echo).await,
            Kind::Ping => session.ping().await,
            Kind::Initialize => {
                session.initialize().await?;
                session.terminate().await
            }
            Kind::List => {
                let count = session.list().await?;
                match self.expect_tools {
                    Some(expected) => {
                        anyhow::ensure!(count == expected, "the list has {count} tools instead of {expected}")
                    }
                    None => anyhow::ensure!(count > 0, "the list is empty"),
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::upstream::{Options as UpstreamOptions, Server, accept};

    fn options(target: Target, era: Era, kind: Kind) -> Options {
        Options {
            target,
            sessions: 4,
            warmup: Duration::from_millis(20),
            duration: Duration::from_millis(400),
            payload: 100,
            answer: None,
            era,
            kind,
            tool: "echo".to_owned(),
            manner: Manner::default(),
            expect_tools: None,
            cpu_of: vec![vec![Pid::this()]],
        }
    }

    /// Runs a load against a server in this process.
    fn measure(served: Option<Era>, change: impl FnOnce(&mut Options), era: Era, kind: Kind) -> anyhow::Result<Report> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let server = Server::new(&UpstreamOptions { addr, tools: 30, era: served }).unwrap();
            let serving = tokio::spawn(accept(listener, server));
            let mut options = options(Target::new(addr, "/mcp"), era, kind);
            change(&mut options);
            let report = run_here(&options).await;
            serving.abort();
            report
        }))
    }

    #[test]
    fn every_kind_in_both_eras() {
        let cases = [
            (Era::Legacy, Kind::Call),
            (Era::Legacy, Kind::Ping),
            (Era::Legacy, Kind::List),
            (Era::Legacy, Kind::Initialize),
            (Era::Modern, Kind::Call),
            (Era::Modern, Kind::List),
        ];
        for (era, kind) in cases {
            let report = measure(None, |options| options.expect_tools = Some(30), era, kind).unwrap();
            assert_eq!((report.errors, report.first_error()), (0, "none"), "{era:?} {kind:?}");
            assert!(report.calls > 0 && report.cpu_us[0] > 0.0 && report.p50_us <= report.p99_us, "{report:?}");
        }
    }

    #[test]
    fn sizes_are_what_was_asked_for() {
        let report = measure(
            Some(Era::Legacy),
            |options| {
                options.payload = 100_000;
                options.answer = Some(5);
            },
            Era::Legacy,
            Kind::Call,
        );
        assert_eq!(report.unwrap().errors, 0);
    }

    #[test]
    fn a_wrong_answer_is_an_error() {
        let report = measure(None, |options| options.tool = "absent".to_owned(), Era::Legacy, Kind::Call).unwrap();
        assert_eq!(report.calls, 0);
        assert!(report.errors > 0 && report.first_error().contains("-32602"), "{report:?}");
        let report = measure(None, |options| options.expect_tools = Some(31), Era::Legacy, Kind::List).unwrap();
        assert!(report.calls == 0 && report.first_error().contains("30 tools instead of 31"), "{report:?}");
    }

    #[test]
    fn a_server_of_the_other_era_is_an_error() {
        for (served, era) in [(Era::Legacy, Era::Modern), (Era::Modern, Era::Legacy)] {
            let error = measure(Some(served), |_| {}, era, Kind::Call).unwrap_err();
            assert!(format!("{error:#}").contains("HTTP 400"), "{error:#}");
        }
    }
}
