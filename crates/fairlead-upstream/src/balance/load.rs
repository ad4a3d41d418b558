//! How slow an instance is: a moving average of its latencies that jumps to every peak and decays from there
//! ("peak EWMA", as Finagle and tower have it).

use std::time::Duration;
use tokio::time::Instant;

/// After this long a latency counts for a third.
const DECAY: Duration = Duration::from_secs(10);
/// A failure counts as a call that took at least so long, and so many times what calls take: an instance that fails
/// at once must not look fast.
const FAILURE: Duration = Duration::from_millis(100);
const FAILURE_FACTOR: f64 = 5.0;
/// Failures in a row that count more each: beyond it an instance would be left alone long after it is well.
const FAILURES: u32 = 5;
/// Weight of the latest call in what calls take.
const USUAL_STEP: f64 = 0.1;
/// More than this is not believed.
const LONGEST: f64 = 3600.0;

/// See the module. Seconds in floating point.
#[derive(Debug, Clone)]
pub(crate) struct PeakEwma {
    seconds: f64,
    at: Instant,
    /// What calls take that are answered, without peaks.
    usual: f64,
    /// Failures since the last answer.
    failures: u32,
}

impl PeakEwma {
    pub(crate) fn new(now: Instant) -> Self {
        Self { seconds: 0.0, at: now, usual: 0.0, failures: 0 }
    }

    /// Notes how long a call took.
    pub(crate) fn observe(&mut self, now: Instant, latency: Duration) {
        let latency = latency.as_secs_f64();
        self.usual += if self.usual == 0.0 { latency } else { USUAL_STEP * (latency - self.usual) };
        self.failures = 0;
        self.take(now, latency);
    }

    fn take(&mut self, now: Instant, latency: f64) {
        if latency > self.seconds {
            self.seconds = latency;
        } else {
            let keep = self.keep(now);
            self.seconds = self.seconds * keep + latency * (1.0 - keep);
        }
        self.at = self.at.max(now);
    }

    /// Notes that a call failed after `latency`.
    pub(crate) fn failed(&mut self, now: Instant, latency: Duration) {
        self.failures = (self.failures + 1).min(FAILURES);
        let penalty = self.usual * FAILURE_FACTOR * f64::from(self.failures);
        self.take(now, latency.as_secs_f64().max(FAILURE.as_secs_f64()).max(penalty).min(LONGEST));
    }

    /// The latency as of `now`: what was not seen for long fades.
    pub(crate) fn read(&self, now: Instant) -> Duration {
        Duration::from_secs_f64(self.seconds * self.keep(now))
    }

    fn keep(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        (-elapsed / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn peaks_count_at_once_and_fade() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let mut ewma = PeakEwma::new(start);
        assert_eq!(ewma.read(start), Duration::ZERO);
        ewma.observe(at(10), ms(5));
        assert_eq!(ewma.read(at(10)), ms(5));
        ewma.observe(at(20), ms(500));
        assert_eq!(ewma.read(at(20)), ms(500), "a peak counts whole");
        ewma.observe(at(20), ms(5));
        assert_eq!(ewma.read(at(20)), ms(500), "no time has passed that could have taught otherwise");
        ewma.observe(at(10_020), ms(5));
        let after = ewma.read(at(10_020)).as_secs_f64();
        assert!((0.18..0.20).contains(&after), "{after}: a third of the peak, and two thirds of what is new");
        assert!(ewma.read(at(200_000)) < ms(1), "what is not heard of fades, so that it is tried again");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_at_once_does_not_look_fast() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.observe(now, Duration::from_millis(50));
        ewma.failed(now, Duration::ZERO);
        assert_eq!(ewma.read(now), Duration::from_millis(250));
        for _ in 0..1000 {
            ewma.failed(now, Duration::ZERO);
        }
        assert_eq!(ewma.read(now), Duration::from_millis(1250), "it is to be forgotten again");
    }
}
