//! A sliding window: in no stretch of its length are there more calls than the limit.
//!
//! Calls are kept per slot, a sixtieth of the window. One leaves the window with the whole of its slot, so room comes
//! back up to a sixtieth late and never early: the bound is exact, and a key costs at most 61 small numbers.

use fairlead_config::Rate;
use std::{collections::VecDeque, time::Duration};

/// Slots of a window.
const SLOTS: u64 = 60;

/// What was let through, oldest first: slot number, calls.
#[derive(Debug, Default, Clone)]
pub(crate) struct Window {
    slots: VecDeque<(u64, u32)>,
    /// The length of a slot, as of the last look.
    length: u64,
}

fn slot_length(rate: &Rate) -> u64 {
    (u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX) / SLOTS).max(1)
}

impl Window {
    pub(crate) fn take(&mut self, rate: &Rate, cost: u32, permille: u32, now: u64) -> Result<(), Duration> {
        let length = slot_length(rate);
        let slot = now / length;
        if self.length != length {
            // Slots of another length say nothing under this one.
            self.slots.clear();
            self.length = length;
        }
        while self.slots.front().is_some_and(|(old, _)| old + SLOTS < slot) {
            self.slots.pop_front();
        }
        let allowed = (u64::from(rate.count) * u64::from(permille) / 1000).max(1);
        let cost = u64::from(cost).min(allowed);
        let used: u64 = self.slots.iter().map(|(_, count)| u64::from(*count)).sum();
        if used + cost > allowed {
            // The slot whose leaving makes room.
            let mut over = used + cost - allowed;
            let leaving = self.slots.iter().find(|(_, count)| {
                over = over.saturating_sub(u64::from(*count));
                over == 0
            });
            let leaves = leaving.map_or(slot, |(slot, _)| *slot).saturating_add(SLOTS + 1).saturating_mul(length);
            return Err(Duration::from_nanos(leaves.saturating_sub(now).max(1)));
        }
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        match self.slots.back_mut() {
            Some((last, count)) if *last == slot => *count = count.saturating_add(cost),
            _ => self.slots.push_back((slot, cost)),
        }
        Ok(())
    }

    /// Puts back what was taken a moment ago. A slot without calls goes: it would be remembered for nothing.
    pub(crate) fn give_back(&mut self, cost: u32) {
        let Some((_, count)) = self.slots.back_mut() else { return };
        *count = count.saturating_sub(cost);
        if *count == 0 {
            self.slots.pop_back();
        }
    }

    /// When nothing is left in the window.
    pub(crate) fn empty_at(&self) -> u64 {
        self.slots.back().map_or(0, |(slot, _)| slot.saturating_add(SLOTS + 1).saturating_mul(self.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::Shape;

    #[test]
    fn no_stretch_has_more_than_the_limit() {
        let rate = Rate { count: 5, per: Duration::from_secs(60), burst: 5, shape: Shape::Window };
        let mut window = Window::default();
        let mut passed: Vec<u64> = Vec::new();
        // A seeded walk of a few hours: try at every uneven step.
        let mut seed = 0x9e37_79b9_u64;
        let mut now = 0;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            now += (seed >> 33) % 3_000_000_000;
            if window.take(&rate, 1, 1000, now).is_ok() {
                passed.push(now);
            }
        }
        for stretch in passed.windows(6) {
            assert!(stretch[5] - stretch[0] >= 60_000_000_000, "{stretch:?}");
        }
        let ideal = usize::try_from(now / 12_000_000_000).unwrap();
        assert!(passed.len() * 100 > ideal * 90, "{} of {ideal}", passed.len());
    }

    #[test]
    fn says_when_there_is_room() {
        let rate = Rate { count: 2, per: Duration::from_secs(60), burst: 2, shape: Shape::Window };
        let (mut window, second) = (Window::default(), 1_000_000_000);
        window.take(&rate, 1, 1000, 0).unwrap();
        window.take(&rate, 1, 1000, 30 * second).unwrap();
        let wait = window.take(&rate, 1, 1000, 40 * second).unwrap_err();
        assert_eq!(wait, Duration::from_secs(21));
        window.take(&rate, 1, 1000, 61 * second).unwrap();
        assert!(window.take(&rate, 1, 1000, 61 * second).is_err());
        window.give_back(1);
        window.take(&rate, 1, 1000, 61 * second).unwrap();
    }

    #[test]
    fn what_was_given_back_is_not_remembered() {
        let rate = Rate { count: 2, per: Duration::from_secs(60), burst: 2, shape: Shape::Window };
        let mut window = Window::default();
        window.take(&rate, 1, 1000, 5).unwrap();
        assert!(window.empty_at() > 0);
        window.give_back(1);
        assert_eq!(window.empty_at(), 0);
    }
}
