//! Who gives way first: how much of a bound each priority may use.

use fairlead_config::Priority;

/// The part of a bound that each priority may use, in hundredths, lowest first: what is used beyond it is kept for those
/// that are more important.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares(pub [u8; 4]);

impl Default for Shares {
    fn default() -> Self {
        Self([70, 85, 95, 100])
    }
}

impl Shares {
    /// Whether there is room for one more when `used` of `bound` are used.
    #[must_use]
    pub fn admits(&self, priority: Priority, used: u64, bound: u64) -> bool {
        let share = u128::from(self.0[priority as usize]);
        u128::from(used) * 100 < u128::from(bound) * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_gives_way_first() {
        let shares = Shares::default();
        let admitted = |used| Priority::ALL.map(|priority| shares.admits(priority, used, 100));
        assert_eq!(admitted(69), [true; 4]);
        assert_eq!(admitted(70), [false, true, true, true]);
        assert_eq!(admitted(85), [false, false, true, true]);
        assert_eq!(admitted(95), [false, false, false, true]);
        assert_eq!(admitted(100), [false; 4]);
    }
}
