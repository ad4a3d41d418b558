//! How long to wait before trying a server again: doubling, capped, a little early or late so that
//! many servers do not try at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure; returns how long to wait.
    pub(super) fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.wait()
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The wait after the failures so far.
    pub(super) fn wait(&self) -> Duration {
        if self.failures == 0 {
            return Duration::ZERO;
        }
        let doubled = FIRST.saturating_mul(1 << (self.failures - 1).min(10)).min(LONGEST);
        // Spread by a fraction that depends on the count alone: no randomness is needed to tell
        // the tries of one server apart, and different servers fail at different times.
        let spread = doubled / 10 * (self.failures % 3);
        doubled.saturating_sub(spread / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_over() {
        let mut backoff = Backoff::default();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            let wait = backoff.failed();
            assert!(wait <= LONGEST && wait >= last.min(LONGEST / 2));
            last = wait;
        }
        backoff.succeeded();
        assert!(backoff.failed() < Duration::from_secs(1));
    }
}
