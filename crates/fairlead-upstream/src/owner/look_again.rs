//! Keys whose watchers are to look at everything again, because nobody told of changes for a while. Several streams of
//! a server usually break together, and each is made good by itself: watchers are told once.

use crate::link::LinkKey;
use std::time::Duration;
use tokio::time::Instant;

/// How long the streams that broke with the first one may take to be opened again.
const TOGETHER: Duration = Duration::from_millis(150);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LookAgain {
    keys: Vec<LinkKey>,
    due: Option<Instant>,
}

impl LookAgain {
    /// The watchers of a key are to be told.
    pub(super) fn add(&mut self, key: LinkKey) {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
        self.due.get_or_insert_with(|| Instant::now() + TOGETHER);
    }

    /// When they are.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Those who are to be told now. What breaks later is told again.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<LinkKey> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        std::mem::take(&mut self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::CapabilitySet;

    #[tokio::test(start_paused = true)]
    async fn what_breaks_together_is_told_once_and_what_breaks_later_again() {
        let mut look = LookAgain::default();
        let (one, other) = (LinkKey::modern(), LinkKey::legacy(CapabilitySet::BARE));
        look.add(one.clone());
        tokio::time::advance(TOGETHER / 2).await;
        look.add(one.clone());
        look.add(other.clone());
        assert!(look.take_due(Instant::now()).is_empty());
        tokio::time::advance(TOGETHER / 2).await;
        assert_eq!(look.take_due(Instant::now()), [one.clone(), other]);
        assert!(look.due().is_none() && look.take_due(Instant::now()).is_empty());
        look.add(one.clone());
        tokio::time::advance(TOGETHER).await;
        assert_eq!(look.take_due(Instant::now()), [one]);
    }
}
