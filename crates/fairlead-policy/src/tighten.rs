//! A rate that shrinks while what it protects is failing.
//!
//! Every failure takes a fifth of what is left of the rate, down to a floor; every answer gives a hundredth of the
//! whole back. What fails is the exchange: an error that a tool reports is an answer. There is no time in it: at the
//! floor calls still come through, and they are what finds out.

use std::sync::atomic::{AtomicU32, Ordering};

/// The whole rate, in thousandths.
const WHOLE: u32 = 1000;
/// What an answer gives back.
const STEP: u32 = 10;

/// The part of a rate that is to be had.
#[derive(Debug)]
pub struct Tightening {
    permille: AtomicU32,
    floor: AtomicU32,
}

impl Tightening {
    /// The whole rate, and never less than `floor` thousandths of it.
    #[must_use]
    pub fn new(floor: u32) -> Self {
        Self { permille: AtomicU32::new(WHOLE), floor: AtomicU32::new(floor.clamp(1, WHOLE)) }
    }

    /// The part that is to be had now, in thousandths.
    #[must_use]
    pub fn permille(&self) -> u32 {
        self.permille.load(Ordering::Relaxed)
    }

    /// Notes how an exchange ended.
    pub fn note(&self, failed: bool) {
        let floor = self.floor.load(Ordering::Relaxed);
        if !failed && self.permille() == WHOLE {
            return;
        }
        let _ = self.permille.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            Some(if failed { (now * 4 / 5).max(floor) } else { (now + STEP).min(WHOLE) })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinks_fast_to_the_floor_and_grows_back() {
        let rate = Tightening::new(250);
        rate.note(false);
        assert_eq!(rate.permille(), 1000);
        rate.note(true);
        assert_eq!(rate.permille(), 800);
        for _ in 0..50 {
            rate.note(true);
        }
        assert_eq!(rate.permille(), 250);
        for _ in 0..75 {
            rate.note(false);
        }
        assert_eq!(rate.permille(), 1000);
    }
}
