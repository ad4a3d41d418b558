//! A token bucket, kept as one number: the time at which it will be full again (GCRA).
//!
//! `governor` has the same arithmetic. It is not used because a call asks several limits at once and must be charged
//! by all or none, which takes giving back, and because a rate here can be tightened and reloaded under a count
//! that goes on.

use fairlead_config::Rate;
use std::time::Duration;

/// Nanoseconds between two calls at the rate; rounded up, so that never more than the rate comes through.
fn interval(rate: &Rate, permille: u32) -> u64 {
    let per = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX);
    let whole = u128::from(per) * 1000;
    let parts = u128::from(rate.count.max(1)) * u128::from(permille.max(1));
    u64::try_from(whole.div_ceil(parts)).unwrap_or(u64::MAX)
}

/// The time a full bucket stands for.
fn room(rate: &Rate) -> u64 {
    interval(rate, 1000).saturating_mul(u64::from(rate.burst.max(1)))
}

/// The time that a cost takes out of it: of a tightened rate each call takes more, out of the same bucket.
fn taken(rate: &Rate, cost: u32, permille: u32) -> u64 {
    interval(rate, permille).saturating_mul(u64::from(cost.min(rate.burst.max(1)))).min(room(rate))
}

/// Takes `cost` out of the bucket that is full at `full_at`, or says how long it takes until it is there. A cost that
/// is larger than the bucket takes all of it.
pub(crate) fn take(full_at: &mut u64, rate: &Rate, cost: u32, permille: u32, now: u64) -> Result<(), Duration> {
    let room = room(rate);
    let after = (*full_at).max(now).saturating_add(taken(rate, cost, permille));
    if after - now > room {
        return Err(Duration::from_nanos(after - now - room));
    }
    *full_at = after;
    Ok(())
}

/// Puts back what was taken a moment ago.
pub(crate) fn give_back(full_at: &mut u64, rate: &Rate, cost: u32, permille: u32) {
    *full_at = full_at.saturating_sub(taken(rate, cost, permille));
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::Shape;

    fn rate(count: u32, seconds: u64, burst: u32) -> Rate {
        Rate { count, per: Duration::from_secs(seconds), burst, shape: Shape::Bucket }
    }

    #[test]
    fn a_burst_passes_and_refills_at_the_rate() {
        let rate = rate(60, 60, 3);
        let (mut state, second) = (0, 1_000_000_000);
        let mut at = |now: u64| take(&mut state, &rate, 1, 1000, now);
        for _ in 0..3 {
            assert_eq!(at(10 * second), Ok(()));
        }
        assert_eq!(at(10 * second), Err(Duration::from_secs(1)));
        assert_eq!(at(10 * second + second / 2), Err(Duration::from_millis(500)));
        assert_eq!(at(11 * second), Ok(()));
        assert!(at(11 * second).is_err());
        for _ in 0..3 {
            assert_eq!(at(60 * second), Ok(()), "never fuller than the burst");
        }
        assert!(at(60 * second).is_err());
    }

    #[test]
    fn cost_and_tightening_scale_and_giving_back_is_exact() {
        let rate = rate(10, 10, 10);
        let mut state = 0;
        take(&mut state, &rate, 7, 1000, 0).unwrap();
        assert!(take(&mut state, &rate, 4, 1000, 0).is_err());
        give_back(&mut state, &rate, 7, 1000);
        assert_eq!(state, 0);
        take(&mut state, &rate, 99, 1000, 0).unwrap();
        assert!(take(&mut state, &rate, 1, 1000, 0).is_err(), "a cost over the burst takes all");
        let mut state = 0;
        for _ in 0..5 {
            take(&mut state, &rate, 1, 500, 0).unwrap();
        }
        assert_eq!(take(&mut state, &rate, 1, 500, 0), Err(Duration::from_secs(2)), "half the rate");
        // One that was emptied at the whole rate is not filled by tightening it, and what was taken then is no more
        // when it is loosened.
        let mut state = 0;
        take(&mut state, &rate, 10, 1000, 0).unwrap();
        assert!(take(&mut state, &rate, 1, 500, 0).is_err());
        assert_eq!(take(&mut state, &rate, 1, 500, 2_000_000_000), Ok(()));
        assert_eq!(take(&mut state, &rate, 1, 1000, 2_000_000_000), Err(Duration::from_secs(1)));
        // Whatever the rate is tightened to, a full bucket lets one call through.
        assert_eq!(take(&mut 0, &rate, 10, 100, 0), Ok(()));
    }
}
