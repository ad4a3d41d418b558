//! How many calls may be made a second time: a share of those that are made at all, so that retries cannot become a
//! storm when everything fails. After the budget of `tower`: every call pays in, every retry pays out, what is paid in
//! is worth something for a while only, and a small reserve lets the retries of quiet times through.
//!
//! Counting costs atomic additions; time is told by the caller, in milliseconds of its choice.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What a retry costs; a call pays the percentage of it.
const RETRY: i64 = 100;

/// The time what is paid in is worth something, in slots and milliseconds per slot.
const SLOTS: usize = 10;
const SLOT_MS: u64 = 1000;

/// Retries that are let through without a call in the last ten seconds.
pub const RESERVE: u32 = 3;

/// The budget of one server. Cheap to share.
#[derive(Debug)]
pub struct RetryBudget {
    percent: i64,
    slots: [Slot; SLOTS],
}

#[derive(Debug)]
struct Slot {
    /// Which slot of time it holds, plus one; zero before the first.
    number: AtomicU64,
    balance: AtomicI64,
}

impl RetryBudget {
    /// Retries may be `percent` of calls.
    #[must_use]
    pub fn new(percent: u32) -> Self {
        let slot = || Slot { number: AtomicU64::new(0), balance: AtomicI64::new(0) };
        Self { percent: i64::from(percent), slots: std::array::from_fn(|_| slot()) }
    }

    /// A call is made for the first time.
    pub fn deposit(&self, now_ms: u64) {
        self.slot(now_ms).balance.fetch_add(self.percent, Ordering::Relaxed);
    }

    /// A call is to be made once more: `false` when there is nothing left for it.
    #[must_use]
    pub fn withdraw(&self, now_ms: u64) -> bool {
        if self.percent == 0 {
            return false;
        }
        let slot = self.slot(now_ms);
        // Taken first and given back where it was too much: of two at once both see the other.
        slot.balance.fetch_sub(RETRY, Ordering::Relaxed);
        let is_covered = self.balance(now_ms) + i64::from(RESERVE) * RETRY >= 0;
        if !is_covered {
            slot.balance.fetch_add(RETRY, Ordering::Relaxed);
        }
        is_covered
    }

    /// Retries that could be made now.
    #[must_use]
    pub fn left(&self, now_ms: u64) -> u64 {
        if self.percent == 0 {
            return 0;
        }
        let left = self.balance(now_ms) + i64::from(RESERVE) * RETRY;
        u64::try_from(left / RETRY).unwrap_or(0)
    }

    fn balance(&self, now_ms: u64) -> i64 {
        let newest = now_ms / SLOT_MS + 1;
        let is_kept = |slot: &&Slot| {
            let number = slot.number.load(Ordering::Relaxed);
            number > 0 && number <= newest && number + SLOTS as u64 > newest
        };
        self.slots.iter().filter(is_kept).map(|slot| slot.balance.load(Ordering::Relaxed)).sum()
    }

    /// The slot of the present, emptied when it held an earlier time.
    fn slot(&self, now_ms: u64) -> &Slot {
        let number = now_ms / SLOT_MS + 1;
        let at = usize::try_from(number % SLOTS as u64).unwrap_or(0);
        let slot = &self.slots[at];
        let held = slot.number.load(Ordering::Relaxed);
        if held < number && slot.number.compare_exchange(held, number, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            slot.balance.store(0, Ordering::Relaxed);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Dice;

    #[test]
    fn a_share_of_calls_may_be_retried() {
        let budget = RetryBudget::new(20);
        for _ in 0..100 {
            budget.deposit(0);
        }
        let granted = (0..1000).filter(|_| budget.withdraw(0)).count();
        assert_eq!(granted, 20 + RESERVE as usize);
        assert_eq!(budget.left(0), 0);
    }

    #[test]
    fn what_was_paid_in_is_worth_something_for_a_while() {
        let budget = RetryBudget::new(50);
        for _ in 0..100 {
            budget.deposit(0);
        }
        assert_eq!(budget.left(9_999), 50 + u64::from(RESERVE));
        assert_eq!(budget.left(10_000), u64::from(RESERVE));
        assert!(budget.withdraw(60_000), "the reserve comes back");
    }

    #[test]
    fn nothing_is_nothing() {
        let budget = RetryBudget::new(0);
        budget.deposit(0);
        assert!(!budget.withdraw(0));
    }

    /// Under total failure, when every call is tried as often as it may be, what reaches the server stays under 1.2
    /// times what was offered (but for the reserve).
    #[test]
    fn there_is_no_retry_storm() {
        for seed in 0..50 {
            let mut dice = Dice::new(seed);
            let budget = RetryBudget::new(20);
            let (mut offered, mut made, mut now) = (0_u64, 0_u64, 0);
            let gap = 1 + dice.below(20);
            while offered < 5_000 {
                now += dice.below(gap + 1);
                offered += 1;
                made += 1;
                budget.deposit(now);
                for _ in 0..4 {
                    if !budget.withdraw(now) {
                        break;
                    }
                    made += 1;
                }
            }
            // The reserve is there again after each time without calls.
            let reserves = (now / ((SLOTS as u64 - 1) * SLOT_MS) + 1) * u64::from(RESERVE);
            let share = (made - reserves.min(made)) as f64 / offered as f64;
            assert!(share <= 1.2, "seed {seed}: {made} of {offered}");
        }
    }
}
