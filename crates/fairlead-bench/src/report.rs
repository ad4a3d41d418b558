//! The record: tables for the terminal, and a section for the documentation.

use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::Table;
use serde::Serialize;

use crate::figures::{median, paired_ratio};
use crate::load::Report;
use crate::quiet::QUIET_CORES;
use crate::run::{Results, Row, Scenario};
use crate::targets::Kind;

/// What the figures were measured on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// The processor's own name.
    pub(crate) processor: String,
    /// Cores this process may use.
    pub(crate) cores: usize,
    /// Memory in GiB.
    pub(crate) memory_gib: u64,
    /// Release of the kernel.
    pub(crate) kernel: String,
}

impl Machine {
    /// This machine.
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|rest| rest.trim_matches([' ', '\t', ':']).to_owned())
        };
        let kib = value(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()))
            .unwrap_or_default();
        Self {
            processor: value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: crate::proxy::cores(),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// Today in UTC, as YYYY-MM-DD.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(seconds / 86_400)
}

/// The date that is `days` after 1970-01-01, in the proleptic Gregorian calendar.
fn date(days: u64) -> String {
    let is_leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

/// One measurement in a line.
pub(crate) fn line(report: &Report) -> String {
    if report.errors > 0 {
        return format!("{} errors, the first: {}", report.errors, report.first_error());
    }
    let cpu = report.cpu_us.first().map(|us| format!("{us:.1} us CPU, ")).unwrap_or_default();
    format!("{cpu}{:.0}/s, p50 {} us, {:.2} cores busy elsewhere", report.rps, report.p50_us, report.foreign_cores)
}

const HEADER: [&str; 7] = ["target", "CPU us", "to proxy", "to nginx", "per second", "p50 us", "p99 us"];

/// The tables a person reads in the terminal.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    for scenario in &results.scenarios {
        let mut table = Table::new();
        table.set_header(HEADER);
        for row in cells(scenario) {
            table.add_row(row);
        }
        text.push_str(&format!("{}\n{table}\n", heading(scenario)));
    }
    if let Some(count) = results.upstream_messages_during_lists {
        text.push_str(&format!("messages to the servers during all lists: {count}\n"));
    }
    let mut table = Table::new();
    table.set_header(["target", "KiB per idle session", "MiB with few", "MiB with many"]);
    for row in memory_cells(results) {
        table.add_row(row);
    }
    text.push_str(&format!("memory, {} to {} sessions\n{table}", results.plan.few, results.plan.many));
    text
}

/// A section for the page about performance.
pub(crate) fn markdown(results: &Results) -> String {
    let Machine { processor, cores, memory_gib, kernel } = &results.machine;
    let plan = &results.plan;
    let mut text = format!(
        "## Measured {}, {} era\n\n\
         Machine: {processor}, {cores} cores, {memory_gib} GiB, Linux {kernel}. Load, upstream server and target share it.\n\n\
         Method: closed loop over loopback, one keep-alive connection per session, every answer checked. CPU is the CPU time of\n\
         the target's processes per operation. All targets are measured in turn, {} rounds of {:.1} s after {:.1} s of warm-up;\n\
         figures are medians, ratios are medians of the ratios of each round. Rounds in which more than {QUIET_CORES} cores were\n\
         busy with something else are repeated as a whole, whatever they measured; each table says how many were, and how many\n\
         had to be kept. The minimal proxy is hyper with the body collected and nothing parsed ({}); nginx has one worker,\n\
         kept-alive upstream connections and no access log.\n",
        results.date,
        results.era.word(),
        plan.pairs,
        plan.duration.as_secs_f64(),
        plan.warmup.as_secs_f64(),
        results.proxy_model,
    );
    if plan.is_quick {
        text.push_str("\n**A smoke run: these figures mean nothing.**\n");
    }
    for scenario in &results.scenarios {
        text.push_str(&format!("\n### {}\n\n{}", heading(scenario), markdown_table(&HEADER, cells(scenario))));
    }
    if let Some(count) = results.upstream_messages_during_lists {
        text.push_str(&format!("\nMessages that reached the servers during all of these lists: {count}.\n"));
    }
    text.push_str(&format!(
        "\n### memory per idle session with its open connection\n\n\
         Resident memory between {} and {} sessions of a fresh process, each after one call; medians of {} rounds.\n\n{}",
        plan.few,
        plan.many,
        plan.memory_rounds,
        markdown_table(&["target", "KiB per session", "MiB with few", "MiB with many"], memory_cells(results))
    ));
    let failures = results.failures();
    if !failures.is_empty() {
        text.push_str("\n### failures\n\n");
        for failure in failures {
            text.push_str(&format!("* {failure}\n"));
        }
    }
    text
}

fn heading(scenario: &Scenario) -> String {
    let mut heading = scenario.title.clone();
    if scenario.discarded > 0 {
        heading.push_str(&format!(" ({} rounds repeated)", scenario.discarded));
    }
    if scenario.disturbed > 0 {
        heading.push_str(&format!(" (DISTURBED: something else ran in {} of the rounds)", scenario.disturbed));
    }
    heading
}

fn markdown_table<const N: usize>(header: &[&str; N], rows: Vec<[String; N]>) -> String {
    let mut text = format!("| {} |\n|---|{}\n", header.join(" | "), "---:|".repeat(N - 1));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

fn cells(scenario: &Scenario) -> Vec<[String; 7]> {
    // The name does not depend on the rest of the kind.
    let proxy = row_of(scenario, Kind::Proxy(crate::proxy::Model::Shared).name());
    let nginx = row_of(scenario, Kind::Nginx(Default::default()).name());
    scenario
        .rows
        .iter()
        .map(|row| {
            if row.reports.iter().any(|report| report.errors > 0) {
                let mut cells = std::array::from_fn(|_| "failed".to_owned());
                cells[0].clone_from(&row.target);
                return cells;
            }
            let middle = |figure: fn(&Report) -> f64| shown(median(row.reports.iter().map(figure)), 0);
            let ratio = |other: Option<&Row>| {
                shown(
                    other
                        .filter(|other| other.target != row.target)
                        .and_then(|other| paired_ratio(&cpu(row), &cpu(other))),
                    2,
                )
            };
            [
                row.target.clone(),
                shown(median(cpu(row).into_iter().flatten()), 1),
                ratio(proxy),
                ratio(nginx),
                middle(|report| report.rps),
                middle(|report| report.p50_us as f64),
                middle(|report| report.p99_us as f64),
            ]
        })
        .collect()
}

fn memory_cells(results: &Results) -> Vec<[String; 4]> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    results
        .memory
        .iter()
        .map(|row| {
            [
                row.target.clone(),
                match row.error {
                    Some(_) => "failed".to_owned(),
                    None => shown(median(row.rounds.iter().map(|memory| memory.kib_per_session())), 1),
                },
                shown(median(row.rounds.iter().map(|memory| mib(memory.few_bytes))), 1),
                shown(median(row.rounds.iter().map(|memory| mib(memory.many_bytes))), 1),
            ]
        })
        .collect()
}

fn row_of<'a>(scenario: &'a Scenario, name: &str) -> Option<&'a Row> {
    scenario.rows.iter().find(|row| row.target == name)
}

fn cpu(row: &Row) -> Vec<Option<f64>> {
    row.reports.iter().map(|report| report.cpu_us.first().copied()).collect()
}

fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_777, "2026-11-20"),
            (20_818, "2026-12-31"),
            (20_819, "2027-01-01"),
        ] {
            assert_eq!(date(days), expected);
        }
    }

    fn scenario(rows: &[(&str, &[f64])]) -> Scenario {
        let rows = rows
            .iter()
            .map(|(target, cpu)| Row {
                target: (*target).to_owned(),
                reports: cpu
                    .iter()
                    .map(|us| {
                        let mut report = Report::failed(&anyhow::anyhow!("unused"));
                        (report.errors, report.error) = (0, None);
                        report.cpu_us = if *us > 0.0 { vec![*us] } else { vec![] };
                        report
                    })
                    .collect(),
            })
            .collect();
        Scenario { title: "call".to_owned(), rows, discarded: 2, disturbed: 0 }
    }

    #[test]
    fn ratios_are_to_the_references_of_the_same_round() {
        let scenario = scenario(&[
            ("direct", &[0.0, 0.0]),
            ("minimal proxy", &[10.0, 30.0]),
            ("nginx", &[5.0, 5.0]),
            ("fairlead", &[12.0, 36.0]),
        ]);
        let cells = cells(&scenario);
        assert_eq!(cells[0][1..4], ["-", "-", "-"]);
        assert_eq!(cells[1][1..4], ["20.0", "-", "4.00"]);
        assert_eq!(cells[3][1..4], ["24.0", "1.20", "4.80"]);
        assert_eq!(heading(&scenario), "call (2 rounds repeated)");
    }

    #[test]
    fn a_failure_is_never_a_figure() {
        let mut scenario = scenario(&[("fairlead", &[12.0, 36.0])]);
        scenario.rows[0].reports[1].errors = 1;
        assert_eq!(cells(&scenario)[0][1], "failed");
    }
}
