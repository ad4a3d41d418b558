//! Active checks of one instance: what their results come to. Who makes them is [`probe`].

pub(crate) mod probe;

use fairlead_config::Check;

/// Where a check stands after what came of it so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    healthy: Option<bool>,
    /// Results in a row that say the other thing.
    against: u32,
}

impl Standing {
    /// Whether it passed, as far as is known; `None` before the first result.
    #[cfg(test)]
    pub(crate) fn healthy(self) -> Option<bool> {
        self.healthy
    }

    /// One that passed.
    pub(crate) fn passed() -> Self {
        Self { healthy: Some(true), against: 0 }
    }

    /// Takes a result; what it changes, if anything. The first decides alone.
    pub(crate) fn take(&mut self, check: &Check, passed: bool) -> Option<bool> {
        let Some(healthy) = self.healthy else {
            self.healthy = Some(passed);
            return Some(passed);
        };
        if healthy == passed {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = if passed { check.healthy_after } else { check.unhealthy_after };
        if self.against < enough {
            return None;
        }
        *self = Self { healthy: Some(passed), against: 0 };
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::Probe;
    use std::time::Duration;

    #[test]
    fn three_failures_and_two_passes() {
        let check = Check {
            probe: Probe::Ping,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let mut standing = Standing::default();
        let mut seen = Vec::new();
        for passed in [true, false, false, true, false, false, false, false, true, false, true, true, true] {
            seen.push(standing.take(&check, passed));
        }
        let (up, down) = (Some(true), Some(false));
        assert_eq!(seen, [up, None, None, None, None, None, down, None, None, None, None, up, None]);
        let mut standing = Standing::default();
        assert_eq!(standing.take(&check, false), Some(false), "the first result decides");
        assert_eq!(standing.healthy(), Some(false));
    }
}
