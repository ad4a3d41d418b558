//! How long to wait before trying again: exponential, with full jitter, so that those who failed together do not come
//! back together.

use std::time::Duration;

/// Doublings after which only the ceiling counts.
const MAX_DOUBLINGS: u32 = 20;

/// A small generator of numbers that nobody need guess (SplitMix64). Seeded, so that what it decides can be repeated.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed throws the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; zero when that is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: as even as a remainder, without a division.
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

/// Waits between tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The most that is waited before the second try; it doubles with each further one.
    pub base: Duration,
    /// The most that is ever waited.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(100), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The most that is waited after `failed` tries.
    #[must_use]
    pub fn ceiling(&self, failed: u32) -> Duration {
        self.base.saturating_mul(1 << failed.saturating_sub(1).min(MAX_DOUBLINGS)).min(self.max)
    }

    /// How long to wait after `failed` tries: anything up to the ceiling, equally likely.
    #[must_use]
    pub fn wait(&self, failed: u32, dice: &mut Dice) -> Duration {
        let ceiling = u64::try_from(self.ceiling(failed).as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(dice.below(ceiling.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_the_cap() {
        let backoff = Backoff::default();
        let millis: Vec<u128> = (1..=12).map(|failed| backoff.ceiling(failed).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000]);
        assert_eq!(backoff.ceiling(u32::MAX), Duration::from_secs(30));
    }

    #[test]
    fn jitter_is_full() {
        let backoff = Backoff::default();
        let mut dice = Dice::new(7);
        let waits: Vec<Duration> = (0..4000).map(|_| backoff.wait(3, &mut dice)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(400)));
        for tenth in 0..10 {
            let within = |wait: &&Duration| (wait.as_millis() / 40).min(9) == tenth;
            let share = waits.iter().filter(within).count();
            assert!((280..=520).contains(&share), "{share} of 4000 in tenth {tenth}");
        }
        let zero = Backoff { base: Duration::ZERO, max: Duration::ZERO };
        assert_eq!(zero.wait(1, &mut dice), Duration::ZERO);
    }
}
