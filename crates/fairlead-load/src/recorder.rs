//! What is counted while a run goes on, in bounded memory.

use crate::{
    plan::{Pace, Plan},
    report::{PhaseReport, Point},
};
use hdrhistogram::Histogram;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Latencies from a microsecond to a day, within 0.1 %.
const LONGEST_US: u64 = 24 * 3600 * 1_000_000;
const DIGITS: u8 = 3;
/// Points of the course over time at most.
const MAX_POINTS: u32 = 600;
/// The shortest stretch of time that is one point.
const SHORTEST_POINT: Duration = Duration::from_millis(100);
/// Different errors that are told apart.
const MAX_ERRORS: usize = 32;
/// What all others are counted as.
const OTHERS: &str = "other errors";
/// From how late on a call counts as begun late, while the server has nothing to do with it.
const LATE: Duration = Duration::from_millis(5);
/// With fewer calls there is no one in a thousand.
const FOR_P999: u64 = 1000;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("invariant: these bounds are valid")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).clamp(1, LONGEST_US)
}

/// One finished call.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) phase: usize,
    /// From when it should have begun.
    pub(crate) latency: Duration,
    /// From when it was sent.
    pub(crate) service: Option<Duration>,
    pub(crate) error: Option<String>,
}

/// Counts of one phase.
#[derive(Debug)]
struct Counts {
    began: Option<Instant>,
    ended: Option<Instant>,
    calls: u64,
    /// Calls that ended well while the phase lasted.
    in_time: u64,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    service: Histogram<u64>,
    late: u64,
    missed: u64,
    waited: u64,
}

/// What happened in one stretch of time.
#[derive(Debug)]
struct Slot {
    index: u32,
    phase: usize,
    calls: u64,
    errors: u64,
    latency: Histogram<u64>,
}

/// Counts a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    width: Duration,
    phases: Vec<Counts>,
    names: Vec<String>,
    paces: Vec<Pace>,
    slot: Slot,
    points: Vec<Point>,
}

impl Recorder {
    pub(crate) fn new(plan: &Plan, began: Instant) -> Self {
        let counts = |_| Counts {
            began: None,
            ended: None,
            calls: 0,
            in_time: 0,
            errors: BTreeMap::new(),
            latency: histogram(),
            service: histogram(),
            late: 0,
            missed: 0,
            waited: 0,
        };
        Self {
            began,
            width: (plan.total() / MAX_POINTS).max(SHORTEST_POINT),
            phases: plan.phases.iter().map(counts).collect(),
            names: plan.phases.iter().map(|phase| phase.name.clone()).collect(),
            paces: plan.phases.iter().map(|phase| phase.pace).collect(),
            slot: Slot { index: 0, phase: 0, calls: 0, errors: 0, latency: histogram() },
            points: Vec::new(),
        }
    }

    pub(crate) fn phase_began(&mut self, phase: usize, now: Instant) {
        self.advance(now);
        self.slot.phase = phase;
        self.phases[phase].began = Some(now);
    }

    pub(crate) fn phase_ended(&mut self, phase: usize, now: Instant) {
        self.phases[phase].ended = Some(now);
    }

    /// A call is about to begin, so long after it should have.
    pub(crate) fn begins(&mut self, phase: usize, lag: Duration) {
        if lag > LATE {
            self.phases[phase].late += 1;
        }
    }

    /// Calls that were not made because the generator could not keep up.
    pub(crate) fn missed(&mut self, phase: usize, count: u64) {
        self.phases[phase].missed += count;
    }

    /// A call waits because as many are under way as may be.
    pub(crate) fn waits(&mut self, phase: usize) {
        self.phases[phase].waited += 1;
    }

    pub(crate) fn ended(&mut self, finished: Finished, now: Instant) {
        self.advance(now);
        let latency = micros(finished.latency);
        let phase = &mut self.phases[finished.phase];
        phase.calls += 1;
        self.slot.calls += 1;
        phase.latency.saturating_record(latency);
        self.slot.latency.saturating_record(latency);
        if let Some(service) = finished.service {
            phase.service.saturating_record(micros(service));
        }
        match finished.error {
            None => phase.in_time += u64::from(phase.ended.is_none()),
            Some(error) => {
                self.slot.errors += 1;
                let is_known = phase.errors.contains_key(&error) || phase.errors.len() < MAX_ERRORS;
                let label = if is_known { error } else { OTHERS.to_owned() };
                *phase.errors.entry(label).or_default() += 1;
            }
        }
    }

    /// Closes the stretches of time that are over.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        let index = u32::try_from(elapsed.as_nanos() / self.width.as_nanos()).unwrap_or(u32::MAX);
        // Calls that end after the last phase do so within their timeout; a machine that slept is cut short.
        while self.slot.index < index && self.points.len() < 4 * MAX_POINTS as usize {
            self.close_slot();
        }
    }

    fn close_slot(&mut self) {
        let slot = &mut self.slot;
        let quantile = |quantile| (slot.calls > 0).then(|| slot.latency.value_at_quantile(quantile));
        self.points.push(Point {
            at_ms: u64::try_from((self.width * slot.index).as_millis()).unwrap_or(u64::MAX),
            phase: slot.phase,
            calls: slot.calls,
            errors: slot.errors,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
        });
        slot.latency.reset();
        (slot.calls, slot.errors) = (0, 0);
        slot.index += 1;
    }

    /// Calls so far, how many of them failed, and their 99th percentile, in a phase.
    pub(crate) fn so_far(&self, phase: usize) -> (u64, u64, Option<Duration>) {
        let counts = &self.phases[phase];
        let p99 = (counts.calls > 0).then(|| Duration::from_micros(counts.latency.value_at_quantile(0.99)));
        (counts.calls, counts.errors.values().sum(), p99)
    }

    /// Width of a point, the phases that began, and the course.
    pub(crate) fn finish(mut self, now: Instant) -> (Duration, Vec<PhaseReport>, Vec<Point>) {
        self.advance(now);
        if self.slot.calls > 0 {
            self.close_slot();
        }
        let phases = self.phases.iter().zip(&self.names).zip(&self.paces);
        let reports = phases.filter_map(|((counts, name), pace)| counts.report(name, *pace, now, self.began));
        (self.width, reports.collect(), self.points)
    }
}

impl Counts {
    fn report(&self, name: &str, pace: Pace, now: Instant, run: Instant) -> Option<PhaseReport> {
        let began = self.began?;
        let seconds = self.ended.unwrap_or(now).saturating_duration_since(began).as_secs_f64();
        let (rate, concurrency) = match pace {
            Pace::Rate(rate) => (Some(rate), None),
            Pace::Concurrency(calls) => (None, Some(calls)),
        };
        let failed: u64 = self.errors.values().sum();
        let at = |quantile| self.latency.value_at_quantile(quantile);
        Some(PhaseReport {
            name: name.to_owned(),
            rate,
            concurrency,
            began_ms: u64::try_from(began.saturating_duration_since(run).as_millis()).unwrap_or(u64::MAX),
            seconds,
            calls: self.calls,
            failed,
            error_rate: if self.calls == 0 { 0.0 } else { failed as f64 / self.calls as f64 },
            throughput: if seconds > 0.0 { self.in_time as f64 / seconds } else { 0.0 },
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: (self.calls >= FOR_P999).then(|| at(0.999)),
            max_us: self.latency.max(),
            service_p50_us: self.service.value_at_quantile(0.5),
            service_p99_us: self.service.value_at_quantile(0.99),
            late: self.late,
            missed: self.missed,
            waited: self.waited,
            errors: self.errors.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Kind;

    const SECOND: Duration = Duration::from_secs(1);

    fn recorder(began: Instant) -> Recorder {
        let plan = Plan::new(Pace::Rate(10.0), &[Kind::Baseline, Kind::Spike], 60 * SECOND, SECOND, 10);
        Recorder::new(&plan.expect("a plan"), began)
    }

    fn ok(phase: usize, millis: u64) -> Finished {
        let latency = Duration::from_millis(millis);
        Finished { phase, latency, service: Some(latency / 2), error: None }
    }

    #[test]
    fn counts_quantiles_and_the_course() {
        let began = Instant::now();
        let mut recorder = recorder(began);
        recorder.phase_began(0, began);
        for millis in 1..=1000 {
            recorder.begins(0, Duration::from_millis(millis / 100));
            recorder.ended(ok(0, millis), began + Duration::from_millis(millis));
        }
        recorder.phase_ended(0, began + 2 * SECOND);
        recorder.ended(Finished { error: Some("timeout".to_owned()), ..ok(0, 9) }, began + 2 * SECOND);
        recorder.phase_began(1, began + 2 * SECOND);
        recorder.missed(1, 3);
        // The phase it began in counts, and it was too late for its throughput.
        recorder.ended(ok(0, 9), began + 3 * SECOND);
        let (width, phases, points) = recorder.finish(began + 4 * SECOND);
        let phase = &phases[0];
        assert_eq!((phases.len(), phase.calls, phase.failed, phase.errors["timeout"]), (2, 1002, 1, 1));
        assert!((phase.throughput - 500.0).abs() < 0.1, "{}", phase.throughput);
        assert!((499_000..502_000).contains(&phase.p50_us) && phase.service_p50_us < phase.p50_us);
        assert!(phase.p999_us.is_some() && phases[1].p999_us.is_none());
        assert_eq!((phase.late, phases[1].missed, phases[1].calls), (401, 3, 0));
        assert_eq!(width, Duration::from_millis(200));
        assert_eq!(points.iter().map(|point| point.calls).sum::<u64>(), 1002);
        assert_eq!((points[0].at_ms, points[1].at_ms, points[6].calls, points[6].p50_us), (0, 200, 0, None));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let began = Instant::now();
        let mut recorder = recorder(began);
        recorder.phase_began(0, began);
        for number in 0..100 {
            recorder.ended(Finished { error: Some(format!("error {number}")), ..ok(0, 1) }, began);
        }
        recorder.ended(ok(0, u64::MAX), began + Duration::from_secs(1_000_000_000));
        let (_, phases, points) = recorder.finish(began + Duration::from_secs(1_000_000_000));
        assert_eq!(phases[0].errors.len(), MAX_ERRORS + 1);
        assert_eq!(phases[0].errors[OTHERS], 100 - MAX_ERRORS as u64);
        assert!(points.len() <= 4 * MAX_POINTS as usize + 1);
    }
}
