//! Latencies in bounded memory.
//!
//! Buckets are linear up to 128 us and then 64 to each power of two, so a percentile is wrong by less than 2 % and a run of any
//! length needs the same 26 KiB.

use std::time::Duration;

const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;
/// 2^32 us is more than an hour, longer than any call is waited for.
const GROUPS: usize = 32 - SUB_BITS as usize + 1;

/// Counts of durations in microseconds.
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// An empty histogram.
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; SUB * GROUPS], count: 0, max: 0 }
    }

    /// Counts one duration.
    pub(crate) fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(us)] += 1;
        self.count += 1;
        self.max = self.max.max(us);
    }

    /// The value that `quantile` (0 to 1) of the durations do not exceed, in microseconds; 0 when nothing was counted.
    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        let wanted = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_bound(index).min(self.max);
            }
        }
        self.max
    }

    /// The longest duration in microseconds.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(us: u64) -> usize {
    let us = us.min(u64::from(u32::MAX));
    let group = (64 - us.leading_zeros()).saturating_sub(SUB_BITS) as usize;
    if group == 0 {
        return us as usize;
    }
    // The leading bit is implied by the group, so each group above the first fills only the upper half of its sub-buckets.
    group * SUB + (us >> group) as usize
}

fn upper_bound(index: usize) -> u64 {
    let (group, sub) = (index / SUB, (index % SUB) as u64);
    ((sub + 1) << group) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut histogram = Histogram::new();
        for us in 1..=100_000u64 {
            histogram.record(Duration::from_micros(us));
        }
        for (quantile, exact) in [(0.5, 50_000.0), (0.9, 90_000.0), (0.99, 99_000.0), (0.001, 100.0)] {
            let measured = histogram.quantile(quantile) as f64;
            assert!((measured / exact - 1.0).abs() < 0.02, "{quantile}: {measured}");
        }
        assert_eq!(histogram.max(), 100_000);
    }

    #[test]
    fn extremes_fit() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), 0);
        histogram.record(Duration::ZERO);
        assert_eq!(histogram.quantile(0.99), 0);
        histogram.record(Duration::from_secs(1 << 40));
        assert!(histogram.quantile(1.0) >= u64::from(u32::MAX));
    }
}
