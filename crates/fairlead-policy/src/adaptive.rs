//! How many calls may be under way at once, found by trying: additive increase, multiplicative decrease.
//!
//! A gradient of latencies would be finer, but says nothing here: tools of one server take milliseconds or minutes, and a
//! change of what is called would look like a change of the server. What counts is what a server that has too much
//! does: it refuses, breaks off, or does not answer in time. One such sign takes a tenth, at most once per
//! pause, since the calls that fail together were sent together. An answer adds a little, and only while the
//! limit is what holds calls back: one that is never reached says nothing about itself.

use std::time::Duration;

/// Between two cuts.
const PAUSE: Duration = Duration::from_millis(500);
/// What is left after a cut.
const KEPT: f64 = 0.9;

/// Where the limit may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Never less.
    pub min: usize,
    /// Never more; where it begins.
    pub max: usize,
}

/// How a call ended, as far as it tells of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It was answered, whatever the answer.
    Answered,
    /// As a server does that has too much: refused, broken off, not in time.
    Overloaded,
    /// It says nothing: cancelled, refused by the gateway.
    Nothing,
}

/// The limit.
#[derive(Debug, Clone)]
pub struct AdaptiveLimit {
    bounds: Bounds,
    limit: f64,
    cut_at: Option<Duration>,
}

impl AdaptiveLimit {
    /// Begins at the most.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let bounds = Bounds { min: bounds.min.max(1), max: bounds.max.max(bounds.min).max(1) };
        Self { bounds, limit: as_f64(bounds.max), cut_at: None }
    }

    /// Calls that may be under way.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "kept within the bounds, which are small and positive"
    )]
    pub fn current(&self) -> usize {
        (self.limit as usize).clamp(self.bounds.min, self.bounds.max)
    }

    /// Notes the end of a call when `running` were under way, itself included.
    pub fn note(&mut self, signal: Signal, running: usize, since: Duration) {
        match signal {
            Signal::Nothing => {}
            Signal::Overloaded => {
                if self.cut_at.is_none_or(|at| since.saturating_sub(at) >= PAUSE) {
                    self.limit = (self.limit * KEPT).max(as_f64(self.bounds.min));
                    self.cut_at = Some(since);
                }
            }
            Signal::Answered => {
                if running >= self.current() {
                    // One more after as many answers as there are calls at a time.
                    self.limit = (self.limit + 1.0 / self.limit).min(as_f64(self.bounds.max));
                }
            }
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of calls are small")]
fn as_f64(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { min: 2, max: 100 };

    #[test]
    fn a_wave_of_failures_is_one_cut() {
        let mut limit = AdaptiveLimit::new(BOUNDS);
        for ms in 0..400 {
            limit.note(Signal::Overloaded, 100, Duration::from_millis(ms));
        }
        assert_eq!(limit.current(), 90);
        for wave in 1..200 {
            limit.note(Signal::Overloaded, 100, Duration::from_secs(wave));
        }
        assert_eq!(limit.current(), 2);
    }

    #[test]
    fn grows_only_while_it_is_what_holds_calls_back() {
        let mut limit = AdaptiveLimit::new(BOUNDS);
        for wave in 0..200 {
            limit.note(Signal::Overloaded, 100, Duration::from_secs(wave));
        }
        for _ in 0..1000 {
            limit.note(Signal::Answered, 1, Duration::ZERO);
            limit.note(Signal::Nothing, 100, Duration::ZERO);
        }
        assert_eq!(limit.current(), 2);
        let mut answers = 0;
        while limit.current() < 100 {
            limit.note(Signal::Answered, limit.current(), Duration::ZERO);
            answers += 1;
            assert!(answers < 20_000);
        }
        assert!(answers > 1000, "{answers}");
    }

    /// A server that can do 40 at once: the limit settles around that, and stays there.
    #[test]
    fn settles_at_what_the_server_can_do() {
        let mut limit = AdaptiveLimit::new(BOUNDS);
        let (mut sum, mut rounds) = (0, 0);
        for round in 0..2000_u64 {
            let running = limit.current();
            let signal = if running > 40 { Signal::Overloaded } else { Signal::Answered };
            for _ in 0..running {
                limit.note(signal, running, Duration::from_secs(round));
            }
            if round > 200 {
                (sum, rounds) = (sum + running, rounds + 1);
            }
        }
        let mean = sum / rounds;
        assert!((34..=42).contains(&mean), "{mean}");
    }
}
