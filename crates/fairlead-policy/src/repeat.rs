//! Runaway loops: the same caller, the same tool, the same arguments, again and again.
//!
//! A table of fixed size without locks: a call's hash chooses a slot, the slot counts within the current window. Two
//! calls that share a slot push each other out, so a loop can go unnoticed for a while beside another; an innocent
//! call is only taken for another one if 40 bits of a keyed hash agree. It costs a hash of the arguments and one atomic
//! exchange, and 32 KiB.

use foldhash::fast::RandomState;
use std::{
    hash::{BuildHasher, Hasher},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const SLOTS: usize = 4096;
const COUNT_BITS: u32 = 20;
const WINDOW_BITS: u32 = 16;
const TAG_BITS: u32 = 64 - COUNT_BITS - WINDOW_BITS;

/// The largest number of calls that can be counted.
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

/// A call, as far as it must be told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallHash(u64);

/// Counts identical calls.
pub struct Repeats {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::default() }
    }
}

impl Repeats {
    /// The hash of a call: whose it is, the tool, the bytes of its arguments.
    #[must_use]
    pub fn hash(&self, caller: u64, client: &[u8], tool: &[u8], arguments: &[u8]) -> CallHash {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(caller);
        for part in [client, tool, arguments] {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        CallHash(hasher.finish())
    }

    /// Counts a call; when it is one more than `max` within the window, says when the next window begins.
    ///
    /// # Errors
    /// The time until the call is let through again.
    pub fn count(&self, call: CallHash, max: u32, window: Duration, since: Duration) -> Result<(), Duration> {
        let length = window.as_nanos().max(1);
        let current = u64::try_from(since.as_nanos() / length).unwrap_or(0) & ((1 << WINDOW_BITS) - 1);
        let tag = call.0 >> (64 - TAG_BITS);
        let place = (tag << WINDOW_BITS | current) << COUNT_BITS;
        let slot = &self.slots[usize::try_from(call.0 & (SLOTS as u64 - 1)).unwrap_or(0)];
        let counted = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let count = if old & !MAX_COUNT == place { (old & MAX_COUNT) + 1 } else { 1 };
            Some(place | count.min(MAX_COUNT))
        });
        let before = counted.unwrap_or_default();
        let count = if before & !MAX_COUNT == place { (before & MAX_COUNT) + 1 } else { 1 };
        if count <= u64::from(max) {
            return Ok(());
        }
        let left = length - since.as_nanos() % length;
        Err(Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX)))
    }
}

impl std::fmt::Debug for Repeats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repeats").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn only_what_is_identical_is_counted_together() {
        let repeats = Repeats::default();
        let call = repeats.hash(1, b"", b"get", b"{\"id\":1}");
        let at = Duration::from_secs(90);
        for _ in 0..100 {
            repeats.count(call, 100, MINUTE, at).unwrap();
        }
        assert_eq!(repeats.count(call, 100, MINUTE, at), Err(Duration::from_secs(30)));
        for other in [
            repeats.hash(2, b"", b"get", b"{\"id\":1}"),
            repeats.hash(1, b"x", b"get", b"{\"id\":1}"),
            repeats.hash(1, b"", b"put", b"{\"id\":1}"),
            repeats.hash(1, b"", b"get", b"{\"id\":2}"),
            repeats.hash(1, b"", b"get{\"id\":1}", b""),
        ] {
            assert_ne!(other, call);
            repeats.count(other, 1, MINUTE, at).unwrap();
        }
        repeats.count(call, 100, MINUTE, Duration::from_secs(120)).expect("the next window");
    }
}
