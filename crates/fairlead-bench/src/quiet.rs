//! Keeping other work on the machine out of the figures.
//!
//! A core that is busy with something else does not just slow a proxy down: its work queues up and is done in larger
//! batches, so that its CPU time **per call falls**, by half at one session. A disturbed window is therefore not a pessimistic one but a
//! wrong one. Rounds are kept or discarded by what else ran during them and never by what they measured, all measurements of
//! a round together, so that discarding cannot favour anybody.

use std::time::{Duration, Instant};

use crate::load::Report;
use crate::process;

/// Cores that may be busy with something else, on average over a window.
pub(crate) const QUIET_CORES: f64 = 0.05;
/// How long to look before a round begins.
const GLANCE: Duration = Duration::from_millis(400);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(600);

/// The rounds that were kept and what was discarded.
pub(crate) struct Rounds {
    /// One report per target in each round.
    pub(crate) kept: Vec<Vec<Report>>,
    /// Rounds discarded because something else ran.
    pub(crate) discarded: usize,
    /// Rounds in `kept` that were disturbed all the same, because the time for waiting was over.
    pub(crate) disturbed: usize,
}

/// Repeats `round` until `wanted` undisturbed rounds are there, or `patience` is over and disturbed ones have to do.
///
/// # Errors
/// When a round fails.
pub(crate) fn rounds(
    wanted: usize,
    patience: Duration,
    round: impl FnMut() -> anyhow::Result<Vec<Report>>,
) -> anyhow::Result<Rounds> {
    rounds_after(wanted, patience, wait_until_idle, round)
}

/// [`rounds`] with another way to wait before each round.
fn rounds_after(
    wanted: usize,
    patience: Duration,
    mut wait: impl FnMut(Instant) -> anyhow::Result<()>,
    mut round: impl FnMut() -> anyhow::Result<Vec<Report>>,
) -> anyhow::Result<Rounds> {
    let deadline = Instant::now() + patience;
    let mut rounds = Rounds { kept: Vec::new(), discarded: 0, disturbed: 0 };
    while rounds.kept.len() < wanted {
        wait(deadline)?;
        let reports = round()?;
        let is_quiet = reports.iter().all(|report| report.foreign_cores <= QUIET_CORES);
        if is_quiet {
            rounds.kept.push(reports);
        } else if Instant::now() < deadline {
            rounds.discarded += 1;
        } else {
            rounds.kept.push(reports);
            rounds.disturbed += 1;
        }
    }
    Ok(rounds)
}

/// Waits until the machine does nothing, at most until `deadline`. Nothing of ours runs at this point.
fn wait_until_idle(deadline: Instant) -> anyhow::Result<()> {
    while Instant::now() < deadline {
        let (before, began) = (process::machine_cpu_time()?, Instant::now());
        std::thread::sleep(GLANCE);
        let busy = process::machine_cpu_time()?.saturating_sub(before);
        if busy.as_secs_f64() / began.elapsed().as_secs_f64() <= QUIET_CORES {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(foreign_cores: f64) -> Report {
        Report {
            calls: 1,
            errors: 0,
            error: None,
            rps: 1.0,
            p50_us: 1,
            p90_us: 1,
            p99_us: 1,
            max_us: 1,
            cpu_us: vec![1.0],
            foreign_cores,
        }
    }

    #[test]
    fn a_disturbed_round_is_repeated_as_a_whole() {
        let mut foreign = [[0.0, 0.9], [0.9, 0.0], [0.0, 0.01], [0.02, 0.0]].into_iter();
        let next = || Ok(foreign.next().unwrap().map(report).to_vec());
        let rounds = rounds_after(2, Duration::from_secs(600), |_| Ok(()), next).unwrap();
        assert_eq!((rounds.kept.len(), rounds.disturbed), (2, 0));
        assert_eq!(rounds.discarded, 2);
        assert_eq!(rounds.kept[0][1].foreign_cores, 0.01);
    }

    #[test]
    fn patience_ends() {
        let rounds = super::rounds(3, Duration::ZERO, || Ok(vec![report(1.0)])).unwrap();
        assert_eq!((rounds.kept.len(), rounds.disturbed, rounds.discarded), (3, 3, 0));
    }
}
