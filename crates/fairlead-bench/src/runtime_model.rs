//! The paired measurement behind the choice of the gateway's runtime model.
//!
//! Both models of the minimal proxy stand in front of one upstream server; they are measured in turn, A B A B, and compared
//! pair by pair.

use std::time::Duration;

use comfy_table::Table;

use crate::figures::{median, paired_ratio};
use crate::load::{self, Kind, Report};
use crate::mcp::{Era, Target};
use crate::process::Child;
use crate::proxy::Model;
use crate::quiet;

const MODELS: [Model; 2] = [Model::PerCore, Model::Shared];
const MAX_PAIRS: usize = 50;

/// What to measure.
pub(crate) struct Options {
    /// Paired runs.
    pub(crate) pairs: usize,
    /// The measured window of each run.
    pub(crate) duration: Duration,
    /// How long to wait for undisturbed pairs at each number of sessions.
    pub(crate) patience: Duration,
    /// Numbers of sessions.
    pub(crate) sessions: Vec<usize>,
}

/// Measures and prints a table.
///
/// # Errors
/// When a process cannot be started, or any call fails.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!((1..=MAX_PAIRS).contains(&options.pairs), "between 1 and {MAX_PAIRS} pairs are possible");
    let (upstream, upstream_addr) = Child::start_self(&["upstream".to_owned()])?;
    let mut proxies = Vec::new();
    for model in MODELS {
        proxies.push(Child::start_self(&[
            "proxy".to_owned(),
            format!("--upstream={upstream_addr}"),
            format!("--model={}", model.word()),
        ])?);
    }
    let mut table = Table::new();
    table.set_header(["sessions", "model", "CPU us/call", "each run", "calls/s", "p50 us", "p99 us", "busy elsewhere"]);
    for &sessions in &options.sessions {
        let mut is_reversed = false;
        let rounds = quiet::rounds(options.pairs, options.patience, || {
            let mut reports = Vec::new();
            // Who goes first changes each time, so that being second is neither's advantage.
            let order = if is_reversed { [1, 0] } else { [0, 1] };
            is_reversed = !is_reversed;
            for index in order {
                let (model, (child, addr)) = (MODELS[index], &proxies[index]);
                let report = load::run(&load::Options {
                    target: Target::new(*addr, "/mcp"),
                    sessions,
                    warmup: Duration::from_millis(500),
                    duration: options.duration,
                    payload: 100,
                    answer: None,
                    era: Era::Legacy,
                    kind: Kind::Call,
                    tool: "echo".to_owned(),
                    manner: crate::client::Manner::default(),
                    expect_tools: None,
                    cpu_of: vec![vec![child.pid()], vec![upstream.pid()]],
                })?;
                anyhow::ensure!(report.errors == 0, "{} calls failed: {}", report.errors, report.first_error());
                eprintln!(
                    "{sessions} sessions, {}: {:.1} us CPU per call, {:.0} calls/s, {:.2} cores busy elsewhere",
                    model.word(),
                    report.cpu_us[0],
                    report.rps,
                    report.foreign_cores
                );
                reports.push(report);
            }
            if order[0] == 1 {
                reports.reverse();
            }
            Ok(reports)
        })?;
        eprintln!(
            "{sessions} sessions: {} pairs discarded, {} kept although disturbed",
            rounds.discarded, rounds.disturbed
        );
        let reports = [0, 1].map(|index| rounds.kept.iter().map(|pair| pair[index].clone()).collect::<Vec<Report>>());
        let cpu = |index: usize| reports[index].iter().map(|report| report.cpu_us.first().copied()).collect::<Vec<_>>();
        for (index, model) in MODELS.iter().enumerate() {
            let middle = |figure: fn(&Report) -> f64| {
                median(reports[index].iter().map(figure)).map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
            };
            let runs: Vec<String> = cpu(index).iter().flatten().map(|us| format!("{us:.1}")).collect();
            table.add_row([
                sessions.to_string(),
                model.word().to_owned(),
                median(cpu(index).into_iter().flatten()).map_or_else(|| "-".to_owned(), |us| format!("{us:.1}")),
                runs.join(" "),
                middle(|report| report.rps),
                middle(|report| report.p50_us as f64),
                middle(|report| report.p99_us as f64),
                format!("{:.2}", reports[index].iter().map(|report| report.foreign_cores).fold(0.0, f64::max)),
            ]);
        }
        if let Some(ratio) = paired_ratio(&cpu(1), &cpu(0)) {
            table.add_row([sessions.to_string(), "shared / per-core".to_owned(), format!("{ratio:.2}")]);
        }
    }
    println!("{table}");
    Ok(())
}
