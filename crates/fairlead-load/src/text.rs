//! The report as text.

use crate::report::{PhaseReport, Report};
use std::fmt::Write as _;

/// A time in the unit that reads best.
pub(crate) fn time(us: u64) -> String {
    let (value, unit) = match us {
        0..1_000 => return format!("{us} us"),
        1_000..1_000_000 => (us as f64 / 1e3, "ms"),
        _ => (us as f64 / 1e6, "s"),
    };
    format!("{} {unit}", number(value))
}

/// Three significant digits, without zeros that say nothing.
pub(crate) fn number(value: f64) -> String {
    let text = match value.abs() {
        v if v >= 100.0 => return format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A part as percent.
pub(crate) fn percent(part: f64) -> String {
    format!("{} %", number(part * 100.0))
}

/// What a phase was to be.
pub(crate) fn pace(phase: &PhaseReport) -> String {
    match (phase.rate, phase.concurrency) {
        (Some(rate), _) => format!("{}/s", number(rate)),
        (None, Some(calls)) => format!("{calls} at once"),
        (None, None) => String::new(),
    }
}

/// The columns of a phase, and their headings.
pub(crate) const HEADINGS: [&str; 10] =
    ["phase", "load", "calls", "ok/s", "errors", "p50", "p90", "p99", "p99.9", "max"];

pub(crate) fn cells(phase: &PhaseReport) -> [String; 10] {
    [
        phase.name.clone(),
        pace(phase),
        phase.calls.to_string(),
        number(phase.throughput),
        percent(phase.error_rate),
        time(phase.p50_us),
        time(phase.p90_us),
        time(phase.p99_us),
        phase.p999_us.map_or_else(|| "-".to_owned(), time),
        time(phase.max_us),
    ]
}

/// What follows from the numbers, as sentences.
pub(crate) fn verdict(report: &Report) -> Vec<String> {
    let verdict = &report.verdict;
    let mut lines = vec![format!("highest throughput: {} calls/s that ended well", number(verdict.max_throughput))];
    lines.push(match &verdict.failure_point {
        Some(phase) => {
            format!("failure point: `{phase}` (more than 1 % of the calls failed, or less than 90 % of the rate)")
        }
        None => "failure point: not reached".to_owned(),
    });
    let had_spike = report.phases.iter().any(|phase| phase.name == "recovery");
    match verdict.recovery_seconds {
        Some(seconds) => lines.push(format!("recovered {} s after the spike", number(seconds))),
        None if had_spike => lines.push("not seen to recover after the spike".to_owned()),
        None => {}
    }
    if let Some(drift) = verdict.drift {
        lines.push(format!("sustained: the last third's median latency is {} times the first's", number(drift)));
    }
    lines
}

impl Report {
    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.target, self.load);
        if self.interrupted {
            text.push_str("interrupted: this is the report so far\n");
        }
        text.push('\n');
        let rows: Vec<[String; 10]> =
            std::iter::once(HEADINGS.map(str::to_owned)).chain(self.phases.iter().map(cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        for row in &rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                // Words to the left, numbers to the right.
                let _ = if column < 2 { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let errors = self.phases.iter().flat_map(|phase| phase.errors.iter().map(move |error| (phase, error)));
        for (at, (phase, (error, count))) in errors.enumerate() {
            text.push_str(if at == 0 { "\nerrors\n" } else { "" });
            let _ = writeln!(text, "  {:<12}  {count:>8}  {error}", phase.name);
        }
        text.push('\n');
        for line in verdict(self) {
            let _ = writeln!(text, "{line}");
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (us, text) in [
            (0, "0 us"),
            (999, "999 us"),
            (1_000, "1 ms"),
            (1_234, "1.23 ms"),
            (12_300, "12.3 ms"),
            (2_500_000, "2.5 s"),
        ] {
            assert_eq!(time(us), text);
        }
        assert_eq!((percent(0.0), percent(0.00123), percent(1.0)), ("0 %".into(), "0.123 %".into(), "100 %".into()));
    }

    #[test]
    fn golden() {
        insta::assert_snapshot!(crate::report::tests::report().text());
    }
}
