//! When a gateway that nobody started by hand may end.
//!
//! `fairlead stdio` starts a gateway in the background when none runs. Every such client holds one
//! request open on the control socket for as long as it lives; the kernel closes it however the
//! client ends. The gateway ends once no such request is open, nothing is in flight, and that has
//! been so for a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{self, Instant};

/// How long nobody must have been served.
pub(crate) const LINGER: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Counts the clients that are attached.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attached(Arc<AtomicUsize>);

/// One attached client, until dropped.
#[derive(Debug)]
pub(crate) struct Hold(Attached);

impl Attached {
    /// One more.
    pub(crate) fn hold(&self) -> Hold {
        self.0.fetch_add(1, Ordering::Relaxed);
        Hold(self.clone())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns when nobody was attached and `busy` said no for [`LINGER`].
    pub(crate) async fn abandoned(self, busy: impl Fn() -> bool) {
        let mut since = Instant::now();
        loop {
            time::sleep(LOOK).await;
            if self.count() > 0 || busy() {
                since = Instant::now();
            } else if since.elapsed() >= LINGER {
                return;
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gateway_ends_when_nobody_was_served_for_a_while() {
        let attached = Attached::default();
        let busy = Arc::new(AtomicUsize::new(0));
        let ended = {
            let busy = Arc::clone(&busy);
            tokio::spawn(attached.clone().abandoned(move || busy.load(Ordering::Relaxed) > 0))
        };
        let hold = attached.hold();
        let other = attached.hold();
        time::sleep(LINGER * 3).await;
        assert!(!ended.is_finished(), "two clients are attached");
        drop(hold);
        time::sleep(LINGER * 3).await;
        assert!(!ended.is_finished(), "one client is attached");
        busy.store(1, Ordering::Relaxed);
        drop(other);
        time::sleep(LINGER * 3).await;
        assert!(!ended.is_finished(), "something is in flight");
        busy.store(0, Ordering::Relaxed);
        time::sleep(LINGER / 2).await;
        assert!(!ended.is_finished(), "it was served just now");
        time::sleep(LINGER).await;
        assert!(ended.is_finished());
    }
}
