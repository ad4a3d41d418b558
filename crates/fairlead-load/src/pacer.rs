//! When calls should begin, at a given rate. A thread of its own: the timers of the runtime count whole milliseconds, and
//! that would be most of the latency of a fast server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::{self, error::TrySendError};

/// The longest it sleeps at once, so that it ends soon after nobody listens any more.
const NAP: Duration = Duration::from_millis(20);
/// Beginnings that wait to be taken at most; further ones are missed.
const MAX_BEHIND: usize = 10_000;

/// Sends the moment at which each call should begin, when it comes. Counts in `missed` what could not be taken.
pub(crate) fn start(
    began: Instant,
    rate: f64,
    duration: Duration,
    missed: Arc<AtomicU64>,
) -> std::io::Result<mpsc::Receiver<Instant>> {
    let (sender, receiver) = mpsc::channel(MAX_BEHIND);
    thread::Builder::new().name("pacer".to_owned()).spawn(move || {
        for intended in moments(began, rate, duration) {
            if !sleep_until(intended, &sender) {
                return;
            }
            match sender.try_send(intended) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    missed.fetch_add(1, Ordering::Relaxed);
                }
                Err(TrySendError::Closed(_)) => return,
            }
        }
        sleep_until(began + duration, &sender);
    })?;
    Ok(receiver)
}

/// The moments within the duration.
fn moments(began: Instant, rate: f64, duration: Duration) -> impl Iterator<Item = Instant> {
    // Multiplied and not added up, so that the rate holds over any length.
    (0_u64..)
        .map(move |ordinal| Duration::from_secs_f64(ordinal as f64 / rate))
        .take_while(move |after| *after < duration)
        .map(move |after| began + after)
}

/// False when nobody listens any more.
fn sleep_until(until: Instant, sender: &mpsc::Sender<Instant>) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        if sender.is_closed() {
            return false;
        }
        thread::sleep(left.min(NAP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds() {
        let began = Instant::now();
        for (rate, seconds, count) in [(10.0, 1, 10), (0.5, 4, 2), (3.0, 10, 30), (1000.0, 2, 2000)] {
            let all: Vec<_> = moments(began, rate, Duration::from_secs(seconds)).collect();
            assert_eq!(all.len(), count, "{rate}");
            assert_eq!(all[0], began);
        }
    }

    #[tokio::test]
    async fn every_moment_is_sent_and_none_too_early() {
        let missed = Arc::default();
        let began = Instant::now();
        let mut moments = start(began, 200.0, Duration::from_millis(100), Arc::clone(&missed)).expect("a thread");
        let mut count = 0;
        while let Some(intended) = moments.recv().await {
            assert!(Instant::now() >= intended);
            count += 1;
        }
        assert_eq!((count, missed.load(Ordering::Relaxed)), (20, 0));
        assert!(began.elapsed() >= Duration::from_millis(100), "the phase lasts as long as it should");
    }
}
