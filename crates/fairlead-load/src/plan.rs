//! What is to be done: phases, each with a pace and a duration.

use std::{fmt, time::Duration};

/// Calls per second at most.
pub const MAX_RATE: f64 = 100_000.0;
/// Calls at once at most.
pub const MAX_CONCURRENCY: usize = 10_000;
/// All phases together at most.
pub const MAX_TOTAL: Duration = Duration::from_secs(24 * 3600);

/// The steps of the ramp, as multiples of the base.
const RAMP: [u32; 3] = [2, 5, 10];
/// How much the spike is.
const SPIKE: u32 = 10;
/// How many times as long as the others the sustained phase is.
const SUSTAINED: u32 = 3;

/// What a run is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The base, to compare the others with.
    Baseline,
    /// 2, 5 and 10 times the base.
    Ramp,
    /// 10 times the base at once, for half the duration, and then the base again.
    Spike,
    /// The base, for three times the duration.
    Sustained,
}

impl Kind {
    /// All, in their order.
    pub const ALL: [Self; 4] = [Self::Baseline, Self::Ramp, Self::Spike, Self::Sustained];

    /// The kind as one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Ramp => "ramp",
            Self::Spike => "spike",
            Self::Sustained => "sustained",
        }
    }

    /// The kind a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// How calls follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many begin in a second, whatever became of those before.
    Rate(f64),
    /// So many are under way at any time: one that ends is followed by the next.
    Concurrency(usize),
}

impl Pace {
    fn times(self, factor: u32) -> Self {
        match self {
            Self::Rate(rate) => Self::Rate(rate * f64::from(factor)),
            Self::Concurrency(calls) => Self::Concurrency(calls.saturating_mul(factor as usize)),
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "{}/s", crate::text::number(*rate)),
            Self::Concurrency(calls) => write!(f, "{calls} at once"),
        }
    }
}

/// One stretch of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// What it is called.
    pub name: String,
    /// How calls follow each other.
    pub pace: Pace,
    /// How long.
    pub duration: Duration,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// One after the other.
    pub phases: Vec<Phase>,
    /// How long a call may take. At a given rate this counts from when it should have begun.
    pub timeout: Duration,
    /// Calls under way at most at a given rate; further ones wait, and their time counts.
    pub max_in_flight: usize,
}

/// Why there is no such run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError(String);

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// The run of `kinds` around a base.
    ///
    /// # Errors
    /// When it is empty, or more than there may be.
    pub fn new(
        base: Pace,
        kinds: &[Kind],
        duration: Duration,
        timeout: Duration,
        max_in_flight: usize,
    ) -> Result<Self, PlanError> {
        let phase =
            |name: &str, factor: u32, duration| Phase { name: name.to_owned(), pace: base.times(factor), duration };
        let mut phases = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kinds.contains(kind)) {
            match kind {
                Kind::Baseline => phases.push(phase("baseline", 1, duration)),
                Kind::Ramp => {
                    phases.extend(RAMP.iter().map(|factor| phase(&format!("ramp x{factor}"), *factor, duration)));
                }
                Kind::Spike => {
                    phases.push(phase("spike", SPIKE, duration / 2));
                    phases.push(phase("recovery", 1, duration / 2));
                }
                Kind::Sustained => phases.push(phase("sustained", 1, duration.saturating_mul(SUSTAINED))),
            }
        }
        let plan = Self { phases, timeout, max_in_flight };
        plan.check().map(|()| plan)
    }

    fn check(&self) -> Result<(), PlanError> {
        let refuse = |text: String| Err(PlanError(text));
        if self.phases.is_empty() {
            return refuse("there is no phase".to_owned());
        }
        for phase in &self.phases {
            match phase.pace {
                Pace::Rate(rate) if !(rate > 0.0 && rate <= MAX_RATE) => {
                    return refuse(format!("`{}` is {}: at most {MAX_RATE}/s are possible", phase.name, phase.pace));
                }
                Pace::Concurrency(calls) if !(1..=MAX_CONCURRENCY).contains(&calls) => {
                    return refuse(format!("`{}` is {}: 1 to {MAX_CONCURRENCY} are possible", phase.name, phase.pace));
                }
                _ => {}
            }
        }
        if !(1..=MAX_CONCURRENCY).contains(&self.max_in_flight) {
            return refuse(format!("1 to {MAX_CONCURRENCY} calls can be under way"));
        }
        if self.total() > MAX_TOTAL {
            return refuse("all phases together take longer than a day".to_owned());
        }
        Ok(())
    }

    /// How long all of it takes.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.phases.iter().fold(Duration::ZERO, |sum, phase| sum.saturating_add(phase.duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn phases_follow_the_base() {
        let plan = Plan::new(
            Pace::Rate(20.0),
            &[Kind::Sustained, Kind::Spike, Kind::Ramp, Kind::Baseline],
            10 * SECOND,
            SECOND,
            5,
        );
        let shown: Vec<_> = plan
            .expect("a plan")
            .phases
            .iter()
            .map(|phase| format!("{} {} {:?}", phase.name, phase.pace, phase.duration))
            .collect();
        assert_eq!(
            shown,
            [
                "baseline 20/s 10s",
                "ramp x2 40/s 10s",
                "ramp x5 100/s 10s",
                "ramp x10 200/s 10s",
                "spike 200/s 5s",
                "recovery 20/s 5s",
                "sustained 20/s 30s"
            ]
        );
        let plan = Plan::new(Pace::Concurrency(3), &[Kind::Spike], SECOND, SECOND, 5).expect("a plan");
        assert_eq!(plan.phases[0].pace, Pace::Concurrency(30));
        assert_eq!(plan.total(), SECOND);
    }

    #[test]
    fn what_is_too_much_is_refused() {
        for (pace, kinds, duration, part) in [
            (Pace::Rate(1.0), &[][..], SECOND, "no phase"),
            (Pace::Rate(0.0), &[Kind::Baseline][..], SECOND, "0/s"),
            (Pace::Rate(f64::NAN), &[Kind::Baseline][..], SECOND, "at most"),
            (Pace::Rate(20_000.0), &[Kind::Ramp][..], SECOND, "ramp x10"),
            (Pace::Concurrency(0), &[Kind::Baseline][..], SECOND, "0 at once"),
            (Pace::Concurrency(2_000), &[Kind::Spike][..], SECOND, "20000 at once"),
            (Pace::Rate(1.0), &[Kind::Sustained][..], MAX_TOTAL, "a day"),
        ] {
            let error = Plan::new(pace, kinds, duration, SECOND, 1).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
