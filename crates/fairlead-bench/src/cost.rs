//! What each feature costs a small call that it is configured for, beside the same call with nothing configured.
//!
//! CPU time: a gateway with the feature and one without stand in front of the same server and are measured in turn; the
//! cost is the median of the differences of each round. Instructions (`--instructions`): each gateway runs under callgrind
//! for N and for 2N calls, and the difference, divided by N, is what one takes, on a busy machine too.
//!
//! A mirrored call is made twice and has no place here. Answers from the cache are measured against forwarded ones, and
//! against a `ping`, which costs what HTTP and reading a message cost.

mod features;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::Table;
use tokio::task::LocalSet;

use crate::client::Echo;
use crate::figures::median;
use crate::load::{self, Kind, Report};
use crate::mcp::Era;
use crate::process::{Child, Pid, find_program};
use crate::quiet;
use crate::report::{self, Machine};
use crate::targets::{self, Running};
use features::{Door, Feature, HIT};

/// The most that a feature may cost, in microseconds of CPU time.
const MOST_US: f64 = 5.0;
/// The most that an answer from the cache may cost, as a part of a forwarded call: all of it, and what is beyond HTTP.
const MOST_HIT: f64 = 0.5;
const MOST_HIT_WORK: f64 = 0.2;
/// Bytes of text in a call.
const PAYLOAD: usize = 100;

/// Options of the measurement.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Release binary of the gateway
    #[arg(long)]
    fairlead: PathBuf,
    /// Rounds for each feature
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1.0)]
    duration: f64,
    /// Sessions
    #[arg(long, default_value_t = 16)]
    sessions: usize,
    /// Seconds to wait for each feature for rounds in which nothing else ran on the machine
    #[arg(long, default_value_t = 60.0)]
    patience: f64,
    /// Only features whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Count instructions too, of so many calls (needs valgrind)
    #[arg(long, num_args = 0..=1, default_missing_value = "2000")]
    instructions: Option<usize>,
    /// Leave CPU time out
    #[arg(long, requires = "instructions")]
    no_time: bool,
    /// Where to write the record
    #[arg(long, default_value = "bench-results/cost.md")]
    out: PathBuf,
    /// A smoke run, whose figures mean nothing and fail nothing
    #[arg(long)]
    quick: bool,
}

/// What was measured of one feature.
#[derive(Debug, Default)]
struct Cost {
    /// CPU time of a call with it, and what it adds to one without, in microseconds.
    us: Option<(f64, f64)>,
    /// Instructions likewise.
    instructions: Option<(u64, i64)>,
    /// Rounds that something else disturbed.
    disturbed: usize,
    /// What went wrong.
    problem: Option<String>,
}

/// The measurement: where things are.
struct Bench<'a> {
    args: &'a Args,
    binary: PathBuf,
    upstream: (Child, SocketAddr),
    scratch: tempfile::TempDir,
    valgrind: Option<PathBuf>,
    plan: (usize, Duration, Duration, Duration),
}

/// Measures every feature, prints the table and writes the record.
///
/// # Errors
/// When something does not start, a call fails, or a feature costs more than it may.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let bench = Bench::new(args)?;
    let mut rows = Vec::new();
    let plain = [Feature::plain(Door::Server), Feature::plain(Door::All)];
    let counted = [bench.counted(&plain[0], Kind::Call)?, bench.counted(&plain[1], Kind::Call)?];
    let is_wanted = |feature: &Feature| args.only.as_ref().is_none_or(|only| feature.name.contains(only.as_str()));
    for feature in features::features().into_iter().chain([HIT]).filter(is_wanted) {
        let at = usize::from(feature.door == Door::All);
        let mut cost = bench.timed(&feature, &plain[at]).unwrap_or_else(|error| failed(&error));
        match (bench.counted(&feature, Kind::Call), counted[at]) {
            (Ok(Some(with)), Some(without)) => {
                cost.instructions = Some((with, with.cast_signed() - without.cast_signed()));
            }
            (Err(error), _) => cost.problem = Some(format!("{error:#}")),
            _ => {}
        }
        eprintln!("{}: {cost:?}", feature.name);
        rows.push((feature.name, cost));
    }
    let hit = if args.no_time || args.only.is_some() { None } else { Some(bench.hits()?) };
    let (mut text, failures) = written(&rows, hit.as_ref(), args.quick);
    if let (Some(forwarded), None) = (counted[0], &args.only)
        && let Some(hit) = bench.counted(&HIT, Kind::Call)?
        && let Some(ping) = bench.counted(&plain[0], Kind::Ping)?
    {
        let line = format!(
            "\nIn instructions: a forwarded call {forwarded}, an answer from the cache {hit}, a `ping` {ping}.\n"
        );
        text.push_str(&line);
    }
    println!("{text}");
    if let Some(dir) = args.out.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    std::fs::write(&args.out, &text).with_context(|| format!("writing {}", args.out.display()))?;
    eprintln!("written: {}", args.out.display());
    anyhow::ensure!(failures.is_empty(), "not everything is as it should be:\n{}", failures.join("\n"));
    Ok(())
}

fn failed(error: &anyhow::Error) -> Cost {
    Cost { problem: Some(format!("{error:#}")), ..Cost::default() }
}

impl<'a> Bench<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Self> {
        let valgrind = args.instructions.and_then(|_| find_program("valgrind"));
        if args.instructions.is_some() && valgrind.is_none() {
            println!("no valgrind on PATH: instructions are not counted");
        }
        let plan = if args.quick {
            (1, Duration::from_millis(50), Duration::from_millis(200), Duration::ZERO)
        } else {
            let warmup = Duration::from_millis(300);
            (args.pairs, warmup, crate::seconds(args.duration)?, crate::long_seconds(args.patience)?)
        };
        Ok(Self {
            args,
            binary: args.fairlead.canonicalize().context("finding the gateway")?,
            upstream: Child::start_self(&["upstream".to_owned(), "--era=legacy".to_owned()])?,
            scratch: tempfile::tempdir().context("creating a directory for configurations and logs")?,
            valgrind,
            plan,
        })
    }

    fn start(&self, feature: &Feature, valgrind: Option<&Path>) -> anyhow::Result<Running> {
        let mut text = feature.configuration(self.upstream.1);
        if valgrind.is_some() {
            text.push_str("workers: 1\n");
        }
        targets::start_configured(&self.binary, valgrind, &text, feature.path(), Era::Legacy, None, self.scratch.path())
            .with_context(|| format!("the gateway with `{}`", feature.name))
    }

    fn load(&self, feature: &Feature, running: &Running, kind: Kind, varies: bool) -> Report {
        let (_, warmup, duration, _) = self.plan;
        let mut manner = feature.manner();
        manner.varies |= varies;
        let report = load::run(&load::Options {
            target: running.target.clone(),
            sessions: self.args.sessions,
            warmup,
            duration,
            payload: PAYLOAD,
            answer: None,
            era: Era::Legacy,
            kind,
            tool: feature.tool().to_owned(),
            manner,
            expect_tools: None,
            cpu_of: vec![running.pids(), vec![self.upstream.0.pid()], vec![Pid::this()]],
        });
        report.unwrap_or_else(|error| Report::failed(&error))
    }

    /// CPU time of its calls beside that of plain ones.
    fn timed(&self, feature: &Feature, plain: &Feature) -> anyhow::Result<Cost> {
        if self.args.no_time {
            return Ok(Cost::default());
        }
        let (with, without) = (self.start(feature, None)?, self.start(plain, None)?);
        let (pairs, _, _, patience) = self.plan;
        let varies = feature.manner().varies;
        let rounds = quiet::rounds(pairs, patience, || {
            Ok(vec![self.load(plain, &without, Kind::Call, varies), self.load(feature, &with, Kind::Call, varies)])
        })?;
        let all = || rounds.kept.iter().flatten();
        if let Some(bad) = all().find(|report| report.errors > 0) {
            anyhow::bail!("{} errors, the first: {}", bad.errors, bad.first_error());
        }
        let with = median(rounds.kept.iter().map(|round| round[1].cpu_us[0])).context("no round was measured")?;
        let added = median(rounds.kept.iter().map(|round| round[1].cpu_us[0] - round[0].cpu_us[0]));
        Ok(Cost { us: added.map(|added| (with, added)), disturbed: rounds.disturbed, ..Cost::default() })
    }

    /// Instructions of one of its calls, or of a `ping`; `None` where they are not counted.
    fn counted(&self, feature: &Feature, kind: Kind) -> anyhow::Result<Option<u64>> {
        let (Some(valgrind), Some(calls)) = (&self.valgrind, self.args.instructions) else { return Ok(None) };
        let count = |calls: usize| {
            let running = self.start(feature, Some(valgrind))?;
            make_calls(feature, &running, kind, calls)?;
            running.stop_counted()
        };
        let (once, twice) = (count(calls)?, count(2 * calls)?);
        Ok(Some(twice.saturating_sub(once) / calls as u64))
    }

    /// CPU time of a forwarded call, an answer from the cache, and a `ping`: medians, and the part of the forwarded call
    /// that an answer from the cache is, without and with what a `ping` costs taken off both.
    fn hits(&self) -> anyhow::Result<Hits> {
        let plain = Feature::plain(Door::Server);
        let (forwarding, keeping) = (self.start(&plain, None)?, self.start(&HIT, None)?);
        let (pairs, _, _, patience) = self.plan;
        let rounds = quiet::rounds(pairs, patience, || {
            Ok(vec![
                self.load(&plain, &forwarding, Kind::Call, false),
                self.load(&HIT, &keeping, Kind::Call, false),
                self.load(&plain, &forwarding, Kind::Ping, false),
            ])
        })?;
        if let Some(bad) = rounds.kept.iter().flatten().find(|report| report.errors > 0) {
            anyhow::bail!("{} errors, the first: {}", bad.errors, bad.first_error());
        }
        let of = |figure: &dyn Fn([f64; 3]) -> f64| {
            let figures = rounds.kept.iter().map(|round| figure([0, 1, 2].map(|at: usize| round[at].cpu_us[0])));
            median(figures).context("no round was measured")
        };
        Ok(Hits {
            us: [of(&|us| us[0])?, of(&|us| us[1])?, of(&|us| us[2])?],
            whole: of(&|us| us[1] / us[0])?,
            work: of(&|us| (us[1] - us[2]) / (us[0] - us[2]))?,
        })
    }
}

/// What answers from the cache cost.
#[derive(Debug)]
struct Hits {
    /// Forwarded, from the cache, a `ping`.
    us: [f64; 3],
    whole: f64,
    work: f64,
}

/// So many calls or pings, one after the other.
fn make_calls(feature: &Feature, running: &Running, kind: Kind, calls: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let echo =
        Echo { tool: feature.tool().to_owned(), text: "x".repeat(PAYLOAD), answer: None, manner: feature.manner() };
    runtime.block_on(LocalSet::new().run_until(async {
        let mut session = load::open(&running.target, Era::Legacy).await?;
        for _ in 0..calls {
            match kind {
                Kind::Ping => session.ping().await?,
                _ => session.call(&echo).await?,
            }
        }
        Ok(())
    }))
}

/// The record, and what is wrong with it.
fn written(rows: &[(&str, Cost)], hits: Option<&Hits>, is_quick: bool) -> (String, Vec<String>) {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["configured", "CPU us per call", "added us", "instructions per call", "added"]);
    let mut failures = Vec::new();
    for (name, cost) in rows {
        let us = cost.us.map(|(with, added)| (format!("{with:.1}"), format!("{added:+.1}"))).unwrap_or_default();
        let counted = cost.instructions.map(|(with, added)| (with.to_string(), format!("{added:+}")));
        let counted = counted.unwrap_or_default();
        table.add_row([(*name).to_owned(), us.0, us.1, counted.0, counted.1]);
        if let Some(problem) = &cost.problem {
            failures.push(format!("{name}: {problem}"));
        }
        if let Some((_, added)) = cost.us.filter(|(_, added)| *added > MOST_US && !is_quick) {
            failures.push(format!("{name}: adds {added:.1} us to a call; {MOST_US} are allowed"));
        }
    }
    let Machine { processor, cores, memory_gib, kernel } = Machine::here();
    let disturbed: usize = rows.iter().map(|(_, cost)| cost.disturbed).sum();
    let mut text = format!(
        "Machine: {processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}. Date: {}. Rounds that something else \
         disturbed: {disturbed}.\n\n{table}\n",
        report::today()
    );
    if let Some(Hits { us: [forwarded, hit, ping], whole, work }) = hits {
        text.push_str(&format!(
            "\nA forwarded call {forwarded:.1} us, an answer from the cache {hit:.1} us, a `ping` {ping:.1} us of CPU: the \
             answer from the cache is {whole:.2} of a forwarded call (bound {MOST_HIT}), and {work:.2} of what that costs \
             beyond a `ping` (bound {MOST_HIT_WORK}).\n"
        ));
        if (*whole > MOST_HIT || *work > MOST_HIT_WORK) && !is_quick {
            failures.push(format!("an answer from the cache costs {whole:.2} and {work:.2} of a forwarded call"));
        }
    }
    if is_quick {
        text.push_str("\n**A smoke run: these figures mean nothing.**\n");
    }
    (text, failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_too_much_fails() {
        let cost = |added| Cost { us: Some((20.0 + added, added)), ..Cost::default() };
        let rows = [("breaker", cost(1.0)), ("retry", cost(7.0))];
        let hits = Hits { us: [20.0, 9.0, 8.0], whole: 0.45, work: 0.08 };
        let (text, failures) = written(&rows, Some(&hits), false);
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(failures[0].starts_with("retry") && text.contains("| breaker"), "{text}");
        let slow = Hits { us: [20.0, 14.0, 8.0], whole: 0.7, work: 0.5 };
        assert_eq!(written(&rows[..1], Some(&slow), false).1.len(), 1);
        assert!(written(&rows, Some(&slow), true).1.is_empty(), "a smoke run says nothing");
    }
}
