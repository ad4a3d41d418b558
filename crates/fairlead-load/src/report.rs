//! What a run came to: numbers, and what follows from them.

use serde::Serialize;
use std::{collections::BTreeMap, fmt, time::Duration};

/// From which error rate on a phase is one in which the target failed.
const FAILED_RATE: f64 = 0.01;
/// Below which part of the rate that was asked for it is one, too.
const FAILED_PACE: f64 = 0.9;
/// How much worse than at the base latency may be to have recovered.
const RECOVERED: u64 = 2;
/// Which part of calls may have begun late without a warning.
const LATE_RATE: f64 = 0.01;
/// Points that the sustained phase must have for its beginning to be compared with its end.
const FOR_DRIFT: usize = 9;

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseReport {
    /// What it is called.
    pub name: String,
    /// Calls that should have begun in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Calls at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// When it began, in milliseconds after the run did.
    pub began_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Calls that ended.
    pub calls: u64,
    /// Those that failed.
    pub failed: u64,
    /// Their part, 0 to 1.
    pub error_rate: f64,
    /// Calls in a second that ended well while the phase lasted.
    pub throughput: f64,
    /// Latency: median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile, where there were calls enough for one.
    pub p999_us: Option<u64>,
    /// The longest.
    pub max_us: u64,
    /// The same from when a call was sent: median.
    pub service_p50_us: u64,
    /// 99th percentile of that.
    pub service_p99_us: u64,
    /// Calls that the generator began late.
    pub late: u64,
    /// Calls that it did not make at all.
    pub missed: u64,
    /// Calls that waited because as many were under way as may be.
    pub waited: u64,
    /// Failures by what they were.
    pub errors: BTreeMap<String, u64>,
}

/// A stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// When it began, in milliseconds after the run did.
    pub at_ms: u64,
    /// The phase.
    pub phase: usize,
    /// Calls that ended in it.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// Latency of those calls: median.
    pub p50_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
}

/// What follows from the numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The highest throughput of a phase.
    pub max_throughput: f64,
    /// The first phase in which more than 1 % of the calls failed, or the rate was not kept up.
    pub failure_point: Option<String>,
    /// Seconds after the spike until latency was back at twice the baseline and nothing failed.
    pub recovery_seconds: Option<f64>,
    /// The median latency of the last third of the sustained phase, as a multiple of that of the first.
    pub drift: Option<f64>,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was called, in words.
    pub target: String,
    /// With what, in words.
    pub load: String,
    /// Whether somebody ended it before it was over.
    pub interrupted: bool,
    /// The phases that began.
    pub phases: Vec<PhaseReport>,
    /// How wide a point is, in milliseconds.
    pub point_ms: u64,
    /// The course.
    pub points: Vec<Point>,
    /// What follows.
    pub verdict: Verdict,
    /// What to know before believing any of it.
    pub warnings: Vec<String>,
}

/// What a run must not exceed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Thresholds {
    /// The part of failed calls in each phase, 0 to 1.
    pub error_rate: Option<f64>,
    /// The 99th percentile in each phase.
    pub p99: Option<Duration>,
}

/// What was exceeded.
#[derive(Debug, Clone, PartialEq)]
pub struct Breach(pub String);

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Report {
    /// Of what was measured.
    #[must_use]
    pub fn new(
        target: String,
        load: String,
        interrupted: bool,
        phases: Vec<PhaseReport>,
        point: Duration,
        points: Vec<Point>,
    ) -> Self {
        let verdict = Verdict {
            max_throughput: phases.iter().map(|phase| phase.throughput).fold(0.0, f64::max),
            failure_point: phases.iter().find(|phase| failed(phase)).map(|phase| phase.name.clone()),
            recovery_seconds: recovery(&phases, &points),
            drift: drift(&phases, &points),
        };
        let warnings = warnings(&phases);
        let point_ms = u64::try_from(point.as_millis()).unwrap_or(u64::MAX);
        Self { target, load, interrupted, phases, point_ms, points, verdict, warnings }
    }

    /// What exceeds the thresholds. A run without a single call exceeds them all.
    #[must_use]
    pub fn breaches(&self, thresholds: &Thresholds) -> Vec<Breach> {
        let mut breaches = Vec::new();
        if *thresholds != Thresholds::default() && self.phases.iter().all(|phase| phase.calls == 0) {
            breaches.push(Breach("not a single call ended".to_owned()));
        }
        for phase in &self.phases {
            if let Some(most) = thresholds.error_rate.filter(|most| phase.error_rate > *most) {
                let (rate, most) = (phase.error_rate * 100.0, most * 100.0);
                breaches.push(Breach(format!("{}: {rate:.3} % of the calls failed, more than {most} %", phase.name)));
            }
            if let Some(most) = thresholds.p99.filter(|most| Duration::from_micros(phase.p99_us) > *most) {
                let (p99, most) = (crate::text::time(phase.p99_us), crate::text::time(micros(most)));
                breaches.push(Breach(format!("{}: p99 is {p99}, more than {most}", phase.name)));
            }
        }
        breaches
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn failed(phase: &PhaseReport) -> bool {
    let is_slow = phase.rate.is_some_and(|rate| phase.calls > 0 && phase.throughput < rate * FAILED_PACE);
    phase.error_rate > FAILED_RATE || is_slow
}

/// How long after the spike things are as they were.
fn recovery(phases: &[PhaseReport], points: &[Point]) -> Option<f64> {
    let at = phases.iter().position(|phase| phase.name == "recovery")?;
    let calm = phases.iter().find(|phase| phase.name == "baseline" && phase.calls > 0)?.p99_us;
    let began = phases[at].began_ms;
    let after = points.iter().filter(|point| point.phase == at && point.at_ms >= began);
    let well = |point: &&Point| point.errors == 0 && point.p99_us.is_some_and(|p99| p99 <= calm * RECOVERED);
    after.clone().find(well).map(|point| (point.at_ms - began) as f64 / 1000.0)
}

/// Whether the end of the sustained phase is slower than its beginning.
fn drift(phases: &[PhaseReport], points: &[Point]) -> Option<f64> {
    let at = phases.iter().position(|phase| phase.name == "sustained")?;
    let course: Vec<u64> = points.iter().filter(|point| point.phase == at).filter_map(|point| point.p50_us).collect();
    if course.len() < FOR_DRIFT {
        return None;
    }
    let third = course.len() / 3;
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    Some(median(&course[course.len() - third..]) as f64 / median(&course[..third]).max(1) as f64)
}

type Count<'a> = &'a dyn Fn(&PhaseReport) -> u64;

/// What speaks against the numbers: each once, with the phases it was in.
fn warnings(phases: &[PhaseReport]) -> Vec<String> {
    let late = |phase: &PhaseReport| if phase.late as f64 > phase.calls as f64 * LATE_RATE { phase.late } else { 0 };
    let kinds: [(&str, Count<'_>, &str); 3] = [
        (
            "calls began more than 5 ms late",
            &late,
            "the generator was the bottleneck, or its machine; their latency counts that",
        ),
        (
            "calls were not made",
            &|phase| phase.missed,
            "the generator was too far behind; the load was less than asked for",
        ),
        (
            "calls waited because as many were under way as may be (`--max-in-flight`)",
            &|phase| phase.waited,
            "their latency counts that",
        ),
    ];
    let mut warnings = Vec::new();
    for (what, count, so) in kinds {
        let in_phases: Vec<String> = phases
            .iter()
            .filter(|phase| count(phase) > 0)
            .map(|phase| format!("{} ({} of {})", phase.name, count(phase), phase.calls + phase.missed))
            .collect();
        if !in_phases.is_empty() {
            warnings.push(format!("{what}: {}; {so}", in_phases.join(", ")));
        }
    }
    let empty = phases.iter().filter(|phase| phase.calls == 0);
    warnings.extend(empty.map(|phase| format!("no call ended in {}", phase.name)));
    warnings
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn phase(name: &str, began_ms: u64, calls: u64, failed: u64, p99_us: u64) -> PhaseReport {
        let mut errors = BTreeMap::new();
        if failed > 0 {
            errors.insert("FL-1302".to_owned(), failed);
        }
        PhaseReport {
            name: name.to_owned(),
            rate: Some(calls as f64 / 10.0),
            concurrency: None,
            began_ms,
            seconds: 10.0,
            calls,
            failed,
            error_rate: if calls == 0 { 0.0 } else { failed as f64 / calls as f64 },
            throughput: (calls - failed) as f64 / 10.0,
            p50_us: p99_us / 4,
            p90_us: p99_us / 2,
            p99_us,
            p999_us: (calls >= 1000).then_some(p99_us * 2),
            max_us: p99_us * 3,
            service_p50_us: p99_us / 5,
            service_p99_us: p99_us / 2,
            late: 0,
            missed: 0,
            waited: 0,
            errors,
        }
    }

    pub(crate) fn report() -> Report {
        let mut spike = phase("spike", 20_000, 2_000, 400, 900_000);
        (spike.late, spike.missed, spike.waited) = (50, 7, 300);
        let phases = vec![
            phase("baseline", 0, 200, 0, 4_000),
            phase("ramp x2", 10_000, 400, 1, 5_000),
            spike,
            phase("recovery", 30_000, 200, 0, 8_000),
            phase("sustained", 40_000, 1_000, 2, 4_500),
        ];
        let point = |second: u64| {
            let phase = usize::try_from(second / 10).unwrap_or(0).min(4);
            let is_bad = phase == 2 || (30..33).contains(&second);
            Point {
                at_ms: second * 1000,
                phase,
                calls: if is_bad { 200 } else { 20 + second },
                errors: if is_bad { 40 } else { 0 },
                p50_us: (second != 5).then_some(if is_bad { 300_000 } else { 1_000 + second * 10 }),
                p99_us: (second != 5).then_some(if is_bad { 900_000 } else { 4_000 }),
            }
        };
        let points = (0..60).map(point).collect();
        let load = "tool `crm__search` at 20/s, modern clients".to_owned();
        Report::new("http://127.0.0.1:8642/mcp".to_owned(), load, false, phases, Duration::from_secs(1), points)
    }

    #[test]
    fn what_follows_from_the_numbers() {
        let Report { verdict, warnings, .. } = report();
        assert_eq!(verdict.failure_point.as_deref(), Some("spike"));
        assert_eq!(verdict.recovery_seconds, Some(3.0));
        assert!((verdict.max_throughput - 160.0).abs() < 0.01, "{}", verdict.max_throughput);
        assert!(verdict.drift.is_some_and(|drift| (1.0..1.3).contains(&drift)), "{:?}", verdict.drift);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        let slow = PhaseReport { throughput: 10.0, ..phase("baseline", 0, 200, 0, 4_000) };
        assert!(failed(&slow) && !failed(&PhaseReport { rate: None, ..slow }));
    }

    #[test]
    fn thresholds_count_in_every_phase() {
        let report = report();
        let of = |error_rate, p99| report.breaches(&Thresholds { error_rate, p99 });
        assert!(of(None, None).is_empty());
        assert!(of(Some(0.2), Some(Duration::from_secs(1))).is_empty());
        let breaches = of(Some(0.1), Some(Duration::from_millis(500)));
        let shown: Vec<_> = breaches.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["spike: 20.000 % of the calls failed, more than 10 %", "spike: p99 is 900 ms, more than 500 ms"]
        );
        let nothing = Report { phases: vec![phase("baseline", 0, 0, 0, 0)], ..report.clone() };
        assert_eq!(nothing.breaches(&Thresholds { error_rate: Some(1.0), p99: None }).len(), 1);
    }
}
