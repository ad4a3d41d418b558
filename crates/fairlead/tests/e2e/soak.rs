//! Everything at once, for a while, and afterwards nothing is left.
//!
//! Clients of both eras call, ask, subscribe, begin tasks, resume streams, vanish in mid-call and never come back for
//! what they began, before servers of both eras over HTTP and pipes, some of which are killed all the time, while the
//! configuration is reloaded. Calls fail only where a server was killed; afterwards whatever the gateway counts is back
//! to zero or to its bound, and its memory to what it was early in the run.
//!
//! A few seconds in every run; `FAIRLEAD_SOAK` says for how many seconds (`make verify`: ten minutes, on the release
//! build). What is counted, table and bounds are in `gauges`, what clients do is in `clients`, the servers in `house`.

mod clients;
mod gauges;
mod house;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use self::{
    clients::{Behaviour, ClientEra, Job},
    gauges::{Gauges, Watcher},
    house::{Era, House},
};
use crate::support::SECOND;

/// How long the load is put on, in seconds.
const SOAK: &str = "FAIRLEAD_SOAK";
/// What it is in a run of all tests.
const SHORT: u64 = 5;
/// Clients at the same time.
const WORKERS: usize = 16;
/// Between two jobs of a worker.
const PAUSE: Duration = Duration::from_millis(20);
/// How long everything may take to be settled at the end. The longest thing that is begun lasts a quarter of it.
const SETTLE: Duration = Duration::from_secs(45);
/// How often the progress of a long run is told.
const TELL: Duration = Duration::from_secs(15);
/// Failures that are shown.
const SHOWN: usize = 20;

/// What became of the jobs of one kind in one cell.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// As it should.
    done: u64,
    /// Refused, declined or lost since a bound was reached or nobody could be told apart.
    busy: u64,
    /// Failed at a server that is killed all the time.
    killed: u64,
    /// Failed.
    failed: u64,
}

/// Who talks to whom.
type Cell = (ClientEra, Era);

/// What became of all jobs.
#[derive(Default)]
struct Report {
    tallies: Mutex<BTreeMap<(Behaviour, Cell), Tally>>,
    failures: Mutex<Vec<String>>,
    jobs: AtomicU64,
}

impl Report {
    fn note(&self, job: &Job, outcome: anyhow::Result<()>) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        let mut tallies = self.tallies.lock().unwrap();
        let tally = tallies.entry((job.behaviour, (job.client, job.server.era))).or_default();
        let Err(error) = outcome else {
            tally.done += 1;
            return;
        };
        let text = format!("{error:#}");
        // Too many processes or parked calls: bounds are there to be reached.
        if [clients::BUSY, clients::DECLINED, "FL-1311", "FL-1313"].iter().any(|code| text.contains(code)) {
            tally.busy += 1;
        } else if job.server.mortal && !text.contains("cannot connect") {
            tally.killed += 1;
        } else {
            tally.failed += 1;
            let mut failures = self.failures.lock().unwrap();
            if failures.len() < SHOWN {
                println!("FAILED: {job}: {text}");
                failures.push(format!("{job}: {text}"));
            }
        }
    }

    /// Rows of jobs, columns of cells: done, and what was not.
    fn print(&self) {
        let tallies = self.tallies.lock().unwrap();
        let cells: Vec<Cell> =
            ClientEra::ALL.iter().flat_map(|client| Era::ALL.map(|server| (*client, server))).collect();
        print!("{:<22}", "client -> server");
        for (client, server) in &cells {
            print!("{:>26}", format!("{client:?} -> {server:?}").to_lowercase());
        }
        println!();
        for behaviour in Behaviour::ALL {
            print!("{:<22}", format!("{behaviour:?}"));
            for cell in &cells {
                let tally = tallies.get(&(behaviour, *cell)).copied().unwrap_or_default();
                let rest = [("busy", tally.busy), ("killed", tally.killed), ("FAILED", tally.failed)];
                let rest: String =
                    rest.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!(" {n} {what}")).collect();
                print!("{:>26}", format!("{}{rest}", tally.done));
            }
            println!();
        }
    }

    fn failed(&self) -> u64 {
        self.tallies.lock().unwrap().values().map(|tally| tally.failed).sum()
    }
}

/// Numbers that look like chance and are the same every time.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len())]
    }
}

/// One worker: job after job, until the end.
async fn work(house: Arc<House>, report: Arc<Report>, seed: u64, until: Instant) {
    let mut dice = Dice(seed);
    while Instant::now() < until {
        let job = Job::choose(&mut dice, &house.places);
        let outcome = job.run(&house.gateway).await;
        report.note(&job, outcome);
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_clients_and_servers_do_nothing_is_left_behind() {
    let seconds = std::env::var(SOAK).ok().map_or(SHORT, |value| value.parse().expect("FAIRLEAD_SOAK is in seconds"));
    let length = Duration::from_secs(seconds);
    let mut house = House::build().await;
    let mortals = house.take_mortals();
    let house = Arc::new(house);
    let report = Arc::new(Report::default());
    let over = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let until = begin + length;
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(work(Arc::clone(&house), Arc::clone(&report), worker as u64, until));
    }
    let chaos = tokio::spawn(house::disturb(Arc::clone(&house), mortals, until, Arc::clone(&over)));

    let mut watcher = Watcher::new();
    let mut told = Instant::now();
    // Memory is compared with what it was when everything had been done often enough.
    let mut early = None;
    while !workers.is_empty() {
        let now = watcher.look(&house.gateway).await;
        if early.is_none() && begin.elapsed() >= length / 4 {
            early = Some(now.resident);
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            let jobs = report.jobs.load(Ordering::Relaxed);
            println!("{:>4} s  {jobs} jobs, {} failed; {now}", begin.elapsed().as_secs(), report.failed());
        }
        while let Some(ended) = workers.try_join_next() {
            ended.unwrap();
        }
        let late = begin.elapsed().saturating_sub(length);
        assert!(late < SETTLE, "{} workers do not end", workers.len());
        tokio::time::sleep(SECOND / 2).await;
    }
    over.store(true, Ordering::Relaxed);
    let (disturbed, mortals) = chaos.await.unwrap();
    let loaded = begin.elapsed();

    let bounds = house.bounds(early.unwrap_or_default());
    let settling = Instant::now();
    let mut last = watcher.look(&house.gateway).await;
    while last.beyond(&bounds).is_some() && settling.elapsed() < SETTLE {
        tokio::time::sleep(SECOND / 4).await;
        last = watcher.look(&house.gateway).await;
    }

    let jobs = report.jobs.load(Ordering::Relaxed);
    println!(
        "{jobs} jobs in {:.1} s; {disturbed}; settled after {:.1} s",
        loaded.as_secs_f64(),
        settling.elapsed().as_secs_f64()
    );
    report.print();
    watcher.print(&last, &bounds);
    let left = last.beyond(&bounds);
    if left.is_some() {
        println!("{}", house.describe().await);
    }
    let failures = report.failures.lock().unwrap().join("\n");
    assert_eq!(report.failed(), 0, "jobs failed whose server was not killed (left behind: {left:?}):\n{failures}");
    assert_eq!(left, None, "left behind");
    house.assert_quiet(&mortals).await;
    let tallies = report.tallies.lock().unwrap();
    if seconds >= 30 {
        for behaviour in Behaviour::ALL {
            let done: u64 = tallies.iter().filter(|((of, _), _)| *of == behaviour).map(|(_, tally)| tally.done).sum();
            assert!(done > 0, "nobody ever did {behaviour:?}");
        }
    }
}

/// The largest of what was seen and what is seen now.
fn highest(peak: Gauges, now: &Gauges) -> Gauges {
    peak.zip(now, u64::max)
}
