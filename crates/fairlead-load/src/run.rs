//! A run: makes calls when they are due, counts what becomes of them.

use crate::{
    pacer,
    plan::{Pace, Phase, Plan},
    recorder::{Finished, Recorder},
    report::Report,
};
use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout, timeout_at},
};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(500);
/// How long calls may go on when somebody ends the run.
const GRACE: Duration = Duration::from_secs(1);
/// Calls that wait or are under way at most; further ones are missed.
const MAX_OUTSTANDING: usize = 100_000;
/// What a caller that just failed waits before its next call, so that a server that refuses is not hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What is called.
pub trait Target: Send + Sync + 'static {
    /// Makes one call. `ordinal` counts the calls of the run.
    ///
    /// # Errors
    /// What went wrong, as a few words: failures of the same words are counted together.
    fn call(&self, ordinal: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The phase.
    pub phase: String,
    /// Which one of how many.
    pub position: (usize, usize),
    /// How long the whole run goes on.
    pub left: Duration,
    /// Calls of the phase so far.
    pub calls: u64,
    /// Those that failed.
    pub failed: u64,
    /// 99th percentile of their latency.
    pub p99: Option<Duration>,
}

/// What all tasks of a run share.
struct Shared<T> {
    target: T,
    recorder: Mutex<Recorder>,
    ordinal: AtomicU64,
    in_flight: Semaphore,
    timeout: Duration,
    is_over: AtomicBool,
}

impl<T: Target> Shared<T> {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> u64 {
        self.ordinal.fetch_add(1, Ordering::Relaxed)
    }

    /// One call that should begin at `intended`.
    async fn due(&self, phase: usize, intended: Instant) {
        let mut sent = None;
        let made = async {
            if self.in_flight.available_permits() == 0 {
                self.recorder().waits(phase);
            }
            let Ok(_place) = self.in_flight.acquire().await else { return Err("interrupted".to_owned()) };
            sent = Some(Instant::now());
            self.target.call(self.next()).await
        };
        let outcome = timeout_at((intended + self.timeout).into(), made).await;
        let now = Instant::now();
        let error = outcome.unwrap_or_else(|_| Err("timeout".to_owned())).err();
        let service = sent.map(|sent| now - sent);
        self.recorder().ended(Finished { phase, latency: now - intended, service, error }, now);
    }

    /// A caller that makes one call after the other.
    async fn again_and_again(&self, phase: usize, until: Instant) {
        while Instant::now() < until && !self.is_over.load(Ordering::Relaxed) {
            let began = Instant::now();
            let outcome = timeout(self.timeout, self.target.call(self.next())).await;
            let now = Instant::now();
            let error = outcome.unwrap_or_else(|_| Err("timeout".to_owned())).err();
            let failed = error.is_some();
            let latency = now - began;
            self.recorder().ended(Finished { phase, latency, service: Some(latency), error }, now);
            if failed {
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Runs a plan against a target, until it is over or `stop` is. `what` says what is called, and with what.
///
/// # Errors
/// When the system has no thread to spare.
pub async fn run<T: Target>(
    plan: &Plan,
    target: T,
    what: (String, String),
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(&Progress),
) -> io::Result<Report> {
    let began = Instant::now();
    let shared = Arc::new(Shared {
        target,
        recorder: Mutex::new(Recorder::new(plan, began)),
        ordinal: AtomicU64::new(0),
        in_flight: Semaphore::new(plan.max_in_flight),
        timeout: plan.timeout,
        is_over: AtomicBool::new(false),
    });
    let current = AtomicU64::new(0);
    let mut calls = JoinSet::new();
    let mut interrupted = false;
    {
        let driving = drive(plan, &shared, &mut calls, &current);
        tokio::pin!(driving, stop);
        let mut telling = tokio::time::interval(TELL);
        loop {
            tokio::select! {
                done = &mut driving => {
                    done?;
                    break;
                }
                () = &mut stop => {
                    interrupted = true;
                    break;
                }
                _ = telling.tick() => tell(&progress(plan, &shared, &current, began)),
            }
        }
    }
    shared.is_over.store(true, Ordering::Relaxed);
    // Each has its own limit.
    let rest = async { while calls.join_next().await.is_some() {} };
    if interrupted {
        let _ = timeout(GRACE, rest).await;
        calls.shutdown().await;
    } else {
        rest.await;
    }
    let placeholder = Recorder::new(plan, began);
    let recorder = std::mem::replace(&mut *shared.recorder(), placeholder);
    let (point, phases, points) = recorder.finish(Instant::now());
    Ok(Report::new(what.0, what.1, interrupted, phases, point, points))
}

fn progress<T: Target>(plan: &Plan, shared: &Shared<T>, current: &AtomicU64, began: Instant) -> Progress {
    let at = usize::try_from(current.load(Ordering::Relaxed)).unwrap_or(0).min(plan.phases.len() - 1);
    let (calls, failed, p99) = shared.recorder().so_far(at);
    Progress {
        phase: plan.phases[at].name.clone(),
        position: (at + 1, plan.phases.len()),
        left: plan.total().saturating_sub(began.elapsed()),
        calls,
        failed,
        p99,
    }
}

/// One phase after the other.
async fn drive<T: Target>(
    plan: &Plan,
    shared: &Arc<Shared<T>>,
    calls: &mut JoinSet<()>,
    current: &AtomicU64,
) -> io::Result<()> {
    for (at, phase) in plan.phases.iter().enumerate() {
        current.store(at as u64, Ordering::Relaxed);
        let began = Instant::now();
        shared.recorder().phase_began(at, began);
        match phase.pace {
            Pace::Rate(rate) => open(shared, calls, at, phase, rate, began).await?,
            Pace::Concurrency(callers) => closed(shared, calls, at, phase, callers, began).await,
        }
        shared.recorder().phase_ended(at, Instant::now());
    }
    Ok(())
}

/// Calls begin when they are due, whatever became of those before.
async fn open<T: Target>(
    shared: &Arc<Shared<T>>,
    calls: &mut JoinSet<()>,
    at: usize,
    phase: &Phase,
    rate: f64,
    began: Instant,
) -> io::Result<()> {
    let missed = Arc::new(AtomicU64::new(0));
    let mut due = pacer::start(began, rate, phase.duration, Arc::clone(&missed))?;
    while let Some(intended) = due.recv().await {
        while calls.try_join_next().is_some() {}
        if calls.len() >= MAX_OUTSTANDING {
            missed.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        shared.recorder().begins(at, intended.elapsed());
        let shared = Arc::clone(shared);
        calls.spawn(async move { shared.due(at, intended).await });
    }
    shared.recorder().missed(at, missed.load(Ordering::Relaxed));
    Ok(())
}

/// So many callers, each making one call after the other.
async fn closed<T: Target>(
    shared: &Arc<Shared<T>>,
    calls: &mut JoinSet<()>,
    at: usize,
    phase: &Phase,
    callers: usize,
    began: Instant,
) {
    let until = began + phase.duration;
    for _ in 0..callers {
        let shared = Arc::clone(shared);
        calls.spawn(async move { shared.again_and_again(at, until).await });
    }
    tokio::time::sleep_until(until.into()).await;
    while calls.try_join_next().is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Kind;
    use std::future::pending;

    /// Fails every tenth call; the first one takes long.
    struct Tenth(Duration);

    impl Target for Tenth {
        async fn call(&self, ordinal: u64) -> Result<(), String> {
            if ordinal == 0 {
                sleep(self.0).await;
            }
            if ordinal % 10 == 3 { Err("no".to_owned()) } else { Ok(()) }
        }
    }

    struct Hangs;

    impl Target for Hangs {
        async fn call(&self, _: u64) -> Result<(), String> {
            pending().await
        }
    }

    fn plan(pace: Pace, kinds: &[Kind], millis: u64, timeout_ms: u64, max_in_flight: usize) -> Plan {
        let (duration, timeout) = (Duration::from_millis(millis), Duration::from_millis(timeout_ms));
        Plan::new(pace, kinds, duration, timeout, max_in_flight).expect("a plan")
    }

    fn what() -> (String, String) {
        ("here".to_owned(), "nothing".to_owned())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn as_many_calls_as_are_due_and_errors_are_counted() {
        let plan = plan(Pace::Rate(100.0), &[Kind::Baseline, Kind::Spike], 200, 60_000, 1000);
        let mut told = 0;
        let report = run(&plan, Tenth(Duration::ZERO), what(), pending(), |_| told += 1).await.expect("a report");
        let counts: Vec<_> = report.phases.iter().map(|phase| (&*phase.name, phase.calls)).collect();
        assert_eq!(counts, [("baseline", 20), ("spike", 100), ("recovery", 10)]);
        let failed: u64 = report.phases.iter().map(|phase| phase.errors.get("no").copied().unwrap_or(0)).sum();
        assert_eq!((failed, report.interrupted), (13, false));
        assert!(told >= 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn calls_behind_a_slow_one_are_charged_for_waiting() {
        // One place: 29 calls wait for the first to end.
        let plan = plan(Pace::Rate(100.0), &[Kind::Baseline], 300, 60_000, 1);
        let report = run(&plan, Tenth(Duration::from_millis(600)), what(), pending(), |_| {}).await.expect("a report");
        let phase = &report.phases[0];
        assert_eq!(phase.calls, 30);
        assert!(phase.p50_us >= 300_000, "all of them should have begun 300 ms before they did: {phase:?}");
        assert!(phase.service_p50_us < phase.p50_us, "{phase:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_caller_gives_up_counted_from_when_it_should_have_begun() {
        let plan = plan(Pace::Rate(100.0), &[Kind::Baseline], 100, 400, 1);
        let report = run(&plan, Hangs, what(), pending(), |_| {}).await.expect("a report");
        assert_eq!(report.phases[0].errors["timeout"], 10);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn callers_make_one_call_after_the_other() {
        let plan = plan(Pace::Concurrency(3), &[Kind::Baseline], 100, 60_000, 1);
        let report = run(&plan, Tenth(Duration::ZERO), what(), pending(), |_| {}).await.expect("a report");
        let phase = &report.phases[0];
        assert!(phase.calls > 3 && phase.concurrency == Some(3), "{phase:?}");
        assert_eq!((phase.late, phase.missed, phase.waited), (0, 0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_run_that_is_stopped_reports_what_there_is() {
        let plan = plan(Pace::Rate(100.0), &Kind::ALL, 60_000, 60_000, 10);
        let stop = sleep(Duration::from_millis(200));
        let report = run(&plan, Tenth(Duration::ZERO), what(), stop, |_| {}).await.expect("a report");
        assert!(report.interrupted && report.phases.len() == 1 && report.phases[0].calls > 0, "{report:?}");
    }
}
