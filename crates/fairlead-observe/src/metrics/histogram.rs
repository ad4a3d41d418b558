//! Durations in buckets of atomics.
//!
//! The number of observations is not kept beside the buckets but summed from them when read: it costs nothing on the
//! way in and cannot disagree with them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds in seconds; the last bucket is open.
const BOUNDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const BUCKETS: usize = BOUNDS.len() + 1;
const NANOS_PER_SECOND: f64 = 1e9;

/// The same in nanoseconds, so that an observation compares integers.
static BOUNDS_NANOS: [u64; BOUNDS.len()] = {
    let mut nanos = [0; BOUNDS.len()];
    let mut index = 0;
    while index < BOUNDS.len() {
        // Half a nanosecond, since the products are not exact.
        nanos[index] = (BOUNDS[index] * NANOS_PER_SECOND + 0.5) as u64;
        index += 1;
    }
    nanos
};

/// Where a duration belongs; found once and used for every histogram that gets it.
#[derive(Clone, Copy)]
pub(super) struct Observation {
    bucket: usize,
    pub(super) nanos: u64,
}

impl Observation {
    pub(super) fn of(duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self { bucket: BOUNDS_NANOS.partition_point(|bound| *bound < nanos), nanos }
    }
}

/// Counts by bucket, without the sum of the durations.
pub(super) struct Buckets([AtomicU64; BUCKETS]);

impl Buckets {
    pub(super) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }

    pub(super) fn add(&self, observation: Observation) {
        self.0[observation.bucket].fetch_add(1, Ordering::Relaxed);
    }
}

/// A histogram as it is written.
pub(super) struct Reading {
    counts: [u64; BUCKETS],
    sum_nanos: u64,
}

impl Reading {
    pub(super) fn new(sum_nanos: &AtomicU64) -> Self {
        Self { counts: [0; BUCKETS], sum_nanos: sum_nanos.load(Ordering::Relaxed) }
    }

    /// Adds the counts of `buckets` and says how many they were.
    pub(super) fn add(&mut self, buckets: &Buckets) -> u64 {
        let mut added = 0;
        for (total, count) in self.counts.iter_mut().zip(&buckets.0) {
            let count = count.load(Ordering::Relaxed);
            *total += count;
            added += count;
        }
        added
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Seconds.
    pub(super) fn sum(&self) -> f64 {
        self.sum_nanos as f64 / NANOS_PER_SECOND
    }

    /// Upper bounds in seconds with the counts of each bucket alone.
    pub(super) fn buckets(&self) -> [(f64, u64); BUCKETS] {
        std::array::from_fn(|index| (BOUNDS.get(index).copied().unwrap_or(f64::INFINITY), self.counts[index]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_is_not_below_it() {
        for (nanos, bound) in [
            (0, 0.0005),
            (500_000, 0.0005),
            (500_001, 0.001),
            (2_500_000, 0.0025),
            (99_999_999, 0.1),
            (60_000_000_000, 60.0),
            (60_000_000_001, f64::INFINITY),
            (u64::MAX, f64::INFINITY),
        ] {
            let buckets = Buckets::new();
            buckets.add(Observation::of(Duration::from_nanos(nanos)));
            let mut reading = Reading::new(&AtomicU64::new(0));
            assert_eq!(reading.add(&buckets), 1);
            let hit: Vec<_> = reading.buckets().into_iter().filter(|(_, count)| *count == 1).collect();
            assert_eq!(hit, [(bound, 1)], "{nanos} ns");
        }
        assert_eq!(Observation::of(Duration::MAX).nanos, u64::MAX);
    }
}
