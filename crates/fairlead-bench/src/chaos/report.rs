//! What became of the calls, phase by phase, and whether that is good enough.

use std::time::Duration;

use serde::Serialize;

use super::load::{Record, Tool};
use super::server::Fault;
use crate::histogram::Histogram;

/// How long after a fault the callers may notice it.
pub(super) const RECOVERY: Duration = Duration::from_secs(5);
/// Most percent of calls that may fail.
const MOST_ERRORS: f64 = 0.1;
/// How many times the calm 99th percentile a phase may have.
const MOST_TIMES: f64 = 3.0;
/// Errors that are shown of each phase.
const SHOWN: usize = 4;
/// Slow calls that are shown of each phase.
const SLOWEST: usize = 10;

/// A part of the run, in which the same things are wrong.
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) faults: Vec<Fault>,
    pub(super) from: Duration,
    pub(super) to: Duration,
    /// Calls that went to the instance of each server that fails at some time.
    pub(super) calls: Vec<u64>,
}

impl Phase {
    /// Whether it is about this server: about all, where nothing is wrong.
    fn concerns(&self, server: Fault) -> bool {
        self.faults.is_empty() || self.faults.contains(&server)
    }
}

/// Calls of one kind.
#[derive(Debug, Serialize)]
struct Figures {
    calls: u64,
    errors: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

/// What is shown of a phase.
#[derive(Debug, Serialize)]
struct Row {
    phase: String,
    seconds: f64,
    /// Of the servers that have a fault (of all, where none has): calls that may be repeated.
    reads: Figures,
    /// And those that may not.
    writes: Figures,
    /// Calls of every kind, of all servers, from so long after the change on as callers may notice it.
    settled: u64,
    settled_errors: u64,
    /// The second with the most errors, counted from the beginning of the phase, and how many percent failed.
    worst_second: u64,
    worst_percent: f64,
    /// Calls that were sent to the instances that fail, or will.
    sent_to_faulty: u64,
    errors: Vec<String>,
    /// The reads that took longest: when they were made, and their milliseconds.
    slowest: Vec<(f64, f64)>,
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    rate: u32,
    phases: Vec<Row>,
    writes_done: usize,
    writes_done_twice: usize,
}

impl Report {
    pub(super) fn of(
        seed: u64,
        rate: u32,
        phases: &[Phase],
        records: &[Record],
        writes_done: usize,
        writes_done_twice: usize,
    ) -> Self {
        let phases = phases.iter().map(|phase| Row::of(phase, records)).collect();
        Self { seed, rate, phases, writes_done, writes_done_twice }
    }

    pub(super) fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header([
            "phase",
            "reads",
            "errors",
            "p50 ms",
            "p99 ms",
            "max ms",
            "writes",
            "errors",
            "after 5 s",
            "errors",
            "worst second",
            "at the faulty",
        ]);
        let ms = |us: u64| format!("{:.1}", us as f64 / 1000.0);
        for row in &self.phases {
            table.add_row([
                row.phase.clone(),
                row.reads.calls.to_string(),
                row.reads.errors.to_string(),
                ms(row.reads.p50_us),
                ms(row.reads.p99_us),
                ms(row.reads.max_us),
                row.writes.calls.to_string(),
                row.writes.errors.to_string(),
                row.settled.to_string(),
                row.settled_errors.to_string(),
                format!("{}: {:.1} %", row.worst_second, row.worst_percent),
                row.sent_to_faulty.to_string(),
            ]);
        }
        println!("{table}");
        println!("writes: {} done, {} of them twice", self.writes_done, self.writes_done_twice);
        for row in &self.phases {
            for error in &row.errors {
                println!("{}: {error}", row.phase);
            }
        }
    }

    /// When the slowest reads were made, in seconds, and how many milliseconds they took.
    pub(super) fn print_slow(&self) {
        for row in &self.phases {
            eprintln!("{}: {:?}", row.phase, row.slowest);
        }
    }

    /// Whether every bound holds.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        let calm = self.phases.first().map_or(0, |row| row.reads.p99_us);
        let mut failures = Vec::new();
        if self.writes_done_twice > 0 {
            failures.push(format!("{} writes were done twice", self.writes_done_twice));
        }
        for row in &self.phases {
            if percent(row.reads.errors, row.reads.calls) >= MOST_ERRORS {
                failures.push(format!("{}: {} of {} reads failed", row.phase, row.reads.errors, row.reads.calls));
            }
            if row.reads.p99_us as f64 >= calm as f64 * MOST_TIMES {
                failures.push(format!("{}: p99 of {} us, calm it is {calm} us", row.phase, row.reads.p99_us));
            }
            if percent(row.settled_errors, row.settled) >= MOST_ERRORS {
                let text = format!("{} of {} calls failed later than 5 s", row.settled_errors, row.settled);
                failures.push(format!("{}: {text}", row.phase));
            }
        }
        anyhow::ensure!(failures.is_empty(), "seed {}: {}", self.seed, failures.join("; "));
        Ok(())
    }
}

impl Row {
    fn of(phase: &Phase, records: &[Record]) -> Self {
        let began = |record: &&Record| (phase.from..phase.to).contains(&record.due);
        let concerns = |record: &&Record| phase.concerns(record.server);
        let mine: Vec<_> = records.iter().filter(began).filter(concerns).collect();
        let ended: Vec<_> = records.iter().filter(|record| (phase.from..phase.to).contains(&record.ended)).collect();
        let settled: Vec<_> = ended.iter().filter(|record| record.ended >= phase.from + RECOVERY).collect();
        let (worst_second, worst_percent) = worst(phase, &ended);
        let sent = Fault::ALL.iter().zip(&phase.calls).filter(|(fault, _)| phase.concerns(**fault));
        let errors = ended.iter().filter_map(|record| {
            let at = record.ended.saturating_sub(phase.from).as_secs_f64();
            let error = record.error.as_deref()?;
            Some(format!("{at:.1} s, {} of {}: {error}", tool(record.tool), record.server.word()))
        });
        let since = |at: Duration| (at.saturating_sub(phase.from).as_secs_f64() * 1e3).round() / 1e3;
        let took = |record: &Record| (record.ended.saturating_sub(record.due).as_secs_f64() * 1e4).round() / 10.0;
        let reads = mine.iter().filter(|record| record.tool == Tool::Read);
        let mut slowest: Vec<_> = reads.map(|record| (since(record.due), took(record))).collect();
        slowest.sort_by(|one, other| other.1.total_cmp(&one.1));
        slowest.truncate(SLOWEST);
        Self {
            phase: phase.name.clone(),
            seconds: (phase.to - phase.from).as_secs_f64(),
            reads: Figures::of(mine.iter().filter(|record| record.tool == Tool::Read)),
            writes: Figures::of(mine.iter().filter(|record| record.tool == Tool::Write)),
            settled: settled.len() as u64,
            settled_errors: settled.iter().filter(|record| record.error.is_some()).count() as u64,
            worst_second,
            worst_percent,
            sent_to_faulty: sent.map(|(_, calls)| calls).sum(),
            errors: errors.take(SHOWN).collect(),
            slowest,
        }
    }
}

impl Figures {
    fn of<'a>(records: impl Iterator<Item = &'a &'a Record>) -> Self {
        let mut latencies = Histogram::new();
        let (mut calls, mut errors) = (0, 0);
        for record in records {
            calls += 1;
            errors += u64::from(record.error.is_some());
            latencies.record(record.ended.saturating_sub(record.due));
        }
        let (p50_us, p99_us, max_us) = (latencies.quantile(0.5), latencies.quantile(0.99), latencies.max());
        Self { calls, errors, p50_us, p99_us, max_us }
    }
}

/// One line on how a phase went.
pub(super) fn line(phase: &Phase, records: &[Record]) -> String {
    let row = Row::of(phase, records);
    format!(
        "{:<12} {:>6} reads, {} errors, p99 {:.1} ms; {:>5} writes, {} errors; {} errors of {} after 5 s",
        row.phase,
        row.reads.calls,
        row.reads.errors,
        row.reads.p99_us as f64 / 1000.0,
        row.writes.calls,
        row.writes.errors,
        row.settled_errors,
        row.settled,
    )
}

fn tool(tool: Tool) -> &'static str {
    match tool {
        Tool::Read => "read",
        Tool::Write => "write",
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// The second of a phase with the largest share of errors, and that share in percent.
fn worst(phase: &Phase, ended: &[&Record]) -> (u64, f64) {
    let seconds = (phase.to - phase.from).as_secs();
    let share = |second: u64| {
        let within = |record: &&&Record| record.ended.saturating_sub(phase.from).as_secs() == second;
        let all = ended.iter().filter(within).count() as u64;
        let failed = ended.iter().filter(within).filter(|record| record.error.is_some()).count() as u64;
        (second, percent(failed, all))
    };
    (0..=seconds).map(share).fold((0, 0.0), |worst, one| if one.1 > worst.1 { one } else { worst })
}
