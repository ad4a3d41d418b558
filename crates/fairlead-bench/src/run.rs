//! The whole measurement: every target, every scenario, in rounds.
//!
//! All targets stand in front of the same upstream server and are measured in turn, A B C D A B C D; ratios are taken round by
//! round. Memory is measured afterwards on fresh processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::client;
use crate::load::{self, Kind as LoadKind, Report};
use crate::mcp::Era;
use crate::memory::{self, Memory};
use crate::process::{Child, Pid, find_program};
use crate::proxy::Model;
use crate::quiet;
use crate::report::{self, Machine};
use crate::targets::{self, Kind, Running};
use crate::upstream::COUNT_PATH;

/// Most paired runs.
const MAX_PAIRS: usize = 50;
/// Servers behind the merged list.
const LIST_SERVERS: usize = 5;
/// Tools of each of them.
const LIST_TOOLS_EACH: usize = 100;
/// Rounds of the memory measurement; a slope over thousands of sessions varies little.
const MEMORY_ROUNDS: usize = 3;

/// Options of a run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Release binary of the gateway; without it, only the references are measured
    #[arg(long)]
    fairlead: Option<PathBuf>,
    /// nginx binary; without it, the one on PATH, if any
    #[arg(long)]
    nginx: Option<PathBuf>,
    /// Runtime model of the minimal proxy; the gateway's own, so that the ratio compares work and not models
    #[arg(long, default_value = "per-core")]
    model: Model,
    /// Era of clients and server
    #[arg(long, default_value = "legacy")]
    era: Era,
    /// Paired runs of each scenario
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    duration: f64,
    /// Seconds to wait in each scenario for rounds in which nothing else ran on the machine
    #[arg(long, default_value_t = 180.0)]
    patience: f64,
    /// Directory for results.json and performance.md
    #[arg(long, default_value = "bench-results")]
    out: PathBuf,
    /// A smoke run of less than 20 seconds, whose figures mean nothing
    #[arg(long)]
    quick: bool,
}

/// How long and how often things are measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    pub(crate) pairs: usize,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    pub(crate) patience: Duration,
    pub(crate) few: usize,
    pub(crate) many: usize,
    pub(crate) settle: Duration,
    pub(crate) memory_rounds: usize,
    pub(crate) is_quick: bool,
}

/// One kind of load and what every target made of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Scenario {
    /// What is measured, in words.
    pub(crate) title: String,
    /// One row for each target.
    pub(crate) rows: Vec<Row>,
    /// Rounds discarded because something else ran.
    pub(crate) discarded: usize,
    /// Rounds kept although something else ran.
    pub(crate) disturbed: usize,
}

/// One target in one scenario.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// The name of the target.
    pub(crate) target: String,
    /// One report for each round that was kept.
    pub(crate) reports: Vec<Report>,
}

/// The memory of one target.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MemoryRow {
    /// The name of the target.
    pub(crate) target: String,
    /// One measurement for each round.
    pub(crate) rounds: Vec<Memory>,
    /// Why a round failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Everything a run measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) date: String,
    pub(crate) era: Era,
    pub(crate) proxy_model: &'static str,
    pub(crate) plan: Plan,
    pub(crate) scenarios: Vec<Scenario>,
    /// Messages that reached the servers while the merged list was loaded; `None` when it was not.
    pub(crate) upstream_messages_during_lists: Option<u64>,
    pub(crate) memory: Vec<MemoryRow>,
}

impl Results {
    /// What went wrong, in words.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for scenario in &self.scenarios {
            for row in &scenario.rows {
                let errors: u64 = row.reports.iter().map(|report| report.errors).sum();
                if let Some(report) = row.reports.iter().find(|report| report.errors > 0) {
                    failures.push(format!(
                        "{}, {}: {errors} errors, the first: {}",
                        scenario.title,
                        row.target,
                        report.first_error()
                    ));
                }
            }
        }
        for row in &self.memory {
            failures.extend(row.error.as_ref().map(|error| format!("memory, {}: {error}", row.target)));
        }
        if let Some(count @ 1..) = self.upstream_messages_during_lists {
            failures.push(format!("{count} messages reached the servers while lists were loaded; none should"));
        }
        failures
    }
}

/// Measures everything, prints tables and writes the record.
///
/// # Errors
/// When a target does not start, or, after everything was written, when any call failed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!((1..=MAX_PAIRS).contains(&args.pairs), "between 1 and {MAX_PAIRS} pairs are possible");
    let plan = plan(args)?;
    let scratch = tempfile::tempdir().context("creating a directory for configurations and logs")?;
    let kinds = kinds(args)?;
    let (upstream, upstream_addr) = start_upstream(args.era, 1)?;

    let mut scenarios = Vec::new();
    {
        let mut running = Vec::new();
        for kind in &kinds {
            running.push((kind.name(), targets::start(kind, upstream_addr, args.era, scratch.path())?));
        }
        for load in loads(args.era) {
            scenarios.push(measure(&load, &running, &[upstream.pid()], args.era, &plan)?);
        }
    }
    let mut upstream_messages_during_lists = None;
    if let Some(binary) = &args.fairlead {
        let (scenario, messages) = measure_lists(binary, args.era, &plan, scratch.path())?;
        scenarios.push(scenario);
        upstream_messages_during_lists = Some(messages);
    }
    let memory = kinds
        .iter()
        .filter(|kind| **kind != Kind::Direct)
        .map(|kind| measure_memory(kind, args.era, &plan, scratch.path()))
        .collect::<anyhow::Result<_>>()?;

    let results = Results {
        machine: Machine::here(),
        date: report::today(),
        era: args.era,
        proxy_model: args.model.word(),
        plan,
        scenarios,
        upstream_messages_during_lists,
        memory,
    };
    println!("{}", report::tables(&results));
    std::fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    for (name, text) in
        [("results.json", serde_json::to_string_pretty(&results)?), ("performance.md", report::markdown(&results))]
    {
        let path = args.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("written: {}", path.display());
    }
    let failures = results.failures();
    anyhow::ensure!(failures.is_empty(), "not everything worked:\n{}", failures.join("\n"));
    Ok(())
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    if args.quick {
        return Ok(Plan {
            pairs: 1,
            warmup: Duration::from_millis(50),
            duration: Duration::from_millis(250),
            patience: Duration::ZERO,
            few: 50,
            many: 150,
            settle: Duration::from_millis(200),
            memory_rounds: 1,
            is_quick: true,
        });
    }
    Ok(Plan {
        pairs: args.pairs,
        warmup: Duration::from_millis(500),
        duration: crate::seconds(args.duration)?,
        patience: crate::long_seconds(args.patience)?,
        few: 1000,
        many: 5000,
        settle: Duration::from_secs(2),
        memory_rounds: MEMORY_ROUNDS,
        is_quick: false,
    })
}

fn kinds(args: &Args) -> anyhow::Result<Vec<Kind>> {
    let mut kinds = vec![Kind::Direct, Kind::Proxy(args.model)];
    match args.nginx.clone().or_else(|| find_program("nginx")) {
        // nginx resolves nothing against the directory of the caller.
        Some(binary) => kinds.push(Kind::Nginx(binary.canonicalize().context("finding nginx")?)),
        None => eprintln!("nginx is not on PATH and is left out; `fetch-nginx DIR` gets it without root"),
    }
    match &args.fairlead {
        Some(binary) => kinds.push(Kind::Fairlead(binary.canonicalize().context("finding the gateway")?)),
        None => eprintln!("no --fairlead is given: only the references are measured"),
    }
    Ok(kinds)
}

fn start_upstream(era: Era, tools: usize) -> anyhow::Result<(Child, std::net::SocketAddr)> {
    Child::start_self(&["upstream".to_owned(), format!("--era={}", era.word()), format!("--tools={tools}")])
}

/// The load of one scenario.
struct Load {
    title: String,
    sessions: usize,
    payload: usize,
    kind: LoadKind,
}

fn loads(era: Era) -> Vec<Load> {
    let mut loads: Vec<Load> = [1, 16, 64]
        .into_iter()
        .map(|sessions| Load {
            title: format!("call of 100 B, {sessions} {}", if sessions == 1 { "session" } else { "sessions" }),
            sessions,
            payload: 100,
            kind: LoadKind::Call,
        })
        .collect();
    for (size, payload) in [("100 KB", 100_000), ("1 MB", 1_000_000)] {
        let title = format!("call of {size} and as much back, 16 sessions");
        loads.push(Load { title, sessions: 16, payload, kind: LoadKind::Call });
    }
    if era == Era::Legacy {
        let title = "session opened and closed (initialize, initialized, DELETE), 16 connections".to_owned();
        loads.push(Load { title, sessions: 16, payload: 0, kind: LoadKind::Initialize });
    }
    loads
}

fn measure(
    load: &Load,
    running: &[(&'static str, Running)],
    upstream: &[Pid],
    era: Era,
    plan: &Plan,
) -> anyhow::Result<Scenario> {
    let rounds = quiet::rounds(plan.pairs, plan.patience, || {
        let mut reports = Vec::new();
        for (name, running) in running {
            let pids = running.pids();
            let mut cpu_of = vec![upstream.to_vec()];
            if !pids.is_empty() {
                cpu_of.insert(0, pids);
            }
            let mut report = load::run(&load::Options {
                target: running.target.clone(),
                sessions: load.sessions,
                warmup: plan.warmup,
                duration: plan.duration,
                payload: load.payload,
                answer: None,
                era,
                kind: load.kind,
                tool: "echo".to_owned(),
                manner: crate::client::Manner::default(),
                expect_tools: None,
                cpu_of,
            })
            .unwrap_or_else(|error| Report::failed(&error));
            // What is left is the cost of the target, and nothing for the server itself.
            report.cpu_us.pop();
            eprintln!("{}: {name}: {}", load.title, report::line(&report));
            reports.push(report);
        }
        Ok(reports)
    })?;
    let rows = running
        .iter()
        .enumerate()
        .map(|(index, (name, _))| Row {
            target: (*name).to_owned(),
            reports: rounds.kept.iter().map(|round| round[index].clone()).collect(),
        })
        .collect();
    Ok(Scenario { title: load.title.clone(), rows, discarded: rounds.discarded, disturbed: rounds.disturbed })
}

/// The merged list of several servers through the gateway, and the messages the servers got meanwhile.
fn measure_lists(binary: &Path, era: Era, plan: &Plan, scratch: &Path) -> anyhow::Result<(Scenario, u64)> {
    let tools = LIST_SERVERS * LIST_TOOLS_EACH;
    let (upstream, addr) = start_upstream(era, LIST_TOOLS_EACH)?;
    let running = targets::start_fairlead_with_servers(binary, addr, LIST_SERVERS, tools, era, scratch)?;
    let title = format!("tools/list of {tools} tools from {LIST_SERVERS} servers, 16 sessions");
    let mut messages = 0;
    let rounds = quiet::rounds(plan.pairs, plan.patience, || {
        let before = received(addr)?;
        let report = load::run(&load::Options {
            target: running.target.clone(),
            sessions: 16,
            warmup: plan.warmup,
            duration: plan.duration,
            payload: 0,
            answer: None,
            era,
            kind: LoadKind::List,
            tool: "echo".to_owned(),
            manner: crate::client::Manner::default(),
            expect_tools: Some(tools),
            cpu_of: vec![running.pids(), vec![upstream.pid()]],
        });
        let mut report = report.unwrap_or_else(|error| Report::failed(&error));
        report.cpu_us.pop();
        messages += received(addr)?.saturating_sub(before);
        eprintln!("{title}: fairlead: {}", report::line(&report));
        Ok(vec![report])
    })?;
    let reports = rounds.kept.into_iter().flatten().collect();
    let rows = vec![Row { target: "fairlead".to_owned(), reports }];
    Ok((Scenario { title, rows, discarded: rounds.discarded, disturbed: rounds.disturbed }, messages))
}

/// Messages that the upstream server has received.
fn received(addr: std::net::SocketAddr) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(client::get(addr, COUNT_PATH))?;
    std::str::from_utf8(&body)?.trim().parse().context("reading the number of messages")
}

fn measure_memory(kind: &Kind, era: Era, plan: &Plan, scratch: &Path) -> anyhow::Result<MemoryRow> {
    let mut row = MemoryRow { target: kind.name().to_owned(), rounds: Vec::new(), error: None };
    for _ in 0..plan.memory_rounds {
        // A fresh server too: what it holds for the last round must not slow it down.
        let (_upstream, addr) = start_upstream(era, 1)?;
        let running = targets::start(kind, addr, era, scratch)?;
        match memory::measure(&running, era, plan.few, plan.many, plan.settle) {
            Ok(memory) => {
                eprintln!("memory: {}: {:.1} KiB per idle session", kind.name(), memory.kib_per_session());
                row.rounds.push(memory);
            }
            Err(error) => {
                row.error = Some(format!("{error:#}"));
                break;
            }
        }
    }
    Ok(row)
}
