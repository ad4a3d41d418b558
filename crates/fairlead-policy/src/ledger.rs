//! Counting in this process.
//!
//! What was counted is kept per limit and key, in shards that are locked for the length of one addition. The number of
//! callers' and tools' keys is bounded: a new one takes the place of the one among a few that is nearest to having
//! forgotten everything anyway. (A key that is evicted early begins anew, so somebody who can invent keys can have
//! others' evicted; what holds against that are limits without invented keys: `server`, `tenant` and `global`. They
//! are kept apart and never evicted: there are only as many as are configured.) Nothing survives the process: a
//! restart begins anew, quotas too.

use crate::{
    bucket, calendar,
    limiter::{Ask, Denied, Level, Limiter, Measure, Moment, Verdict},
    window::Window,
};
use fairlead_config::{Period, Shape};
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Locks that the keys are spread over.
const SHARDS: usize = 16;
/// Keys looked at for one that can make room.
const LOOKED_AT: usize = 8;

/// The in-process [`Limiter`].
pub struct Ledger {
    shards: [Mutex<Shard>; SHARDS],
    max_keys: AtomicUsize,
    hasher: RandomState,
}

type Counts = IndexMap<(Arc<str>, Box<str>), Count, RandomState>;

#[derive(Default)]
struct Shard {
    /// Counts under keys that the configuration bounds; never evicted.
    kept: Counts,
    /// Counts under keys that somebody may have invented.
    counts: Counts,
    cursor: usize,
}

#[derive(Debug)]
enum Count {
    Bucket(u64),
    Window(Box<Window>),
    Quota { per: Period, period: u64, used: u64 },
}

impl Ledger {
    /// Nothing counted yet, and at most `max_keys` callers and tools to be.
    #[must_use]
    pub fn new(max_keys: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            max_keys: AtomicUsize::new(max_keys),
            hasher: RandomState::default(),
        }
    }

    /// Changes the bound; what is over it goes as new keys come.
    pub fn set_max_keys(&self, max_keys: usize) {
        self.max_keys.store(max_keys, Ordering::Relaxed);
    }

    fn shard(&self, ask: &Ask<'_>) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one((&*ask.limit.name, ask.key));
        let index = usize::try_from(hash >> 60).unwrap_or(0) % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_one(&self, ask: &Ask<'_>, at: Moment) -> Result<(), Duration> {
        let max = (self.max_keys.load(Ordering::Relaxed) / SHARDS).max(1);
        self.shard(ask).count(ask, at, max).take(ask, at)
    }

    fn give_back_one(&self, ask: &Ask<'_>) {
        let mut shard = self.shard(ask);
        let key = Key(&ask.limit.name, ask.key);
        let Some(count) = shard.counts_of(ask.limit.level).get_mut(&key) else { return };
        match (count, &ask.limit.measure) {
            (Count::Bucket(full_at), Measure::Rate(rate)) => {
                bucket::give_back(full_at, rate, ask.cost, ask.permille);
            }
            (Count::Window(window), Measure::Rate(_)) => window.give_back(ask.cost),
            (Count::Quota { per, used, .. }, Measure::Quota(quota)) if *per == quota.per => {
                *used = used.saturating_sub(u64::from(ask.cost));
            }
            _ => {}
        }
    }
}

/// Whether the keys of a level are known from the configuration, so that no caller can make more of them.
fn is_configured(level: Level) -> bool {
    match level {
        Level::Global | Level::Tenant | Level::Server => true,
        Level::Caller | Level::Tool => false,
    }
}

/// A key that is only looked up with.
struct Key<'a>(&'a str, &'a str);

impl std::hash::Hash for Key<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.0, self.1).hash(state);
    }
}

impl indexmap::Equivalent<(Arc<str>, Box<str>)> for Key<'_> {
    fn equivalent(&self, other: &(Arc<str>, Box<str>)) -> bool {
        *self.0 == *other.0 && *self.1 == *other.1
    }
}

impl Shard {
    fn counts_of(&mut self, level: Level) -> &mut Counts {
        if is_configured(level) { &mut self.kept } else { &mut self.counts }
    }

    fn count(&mut self, ask: &Ask<'_>, at: Moment, max: usize) -> &mut Count {
        let level = ask.limit.level;
        let index = match self.counts_of(level).get_index_of(&Key(&ask.limit.name, ask.key)) {
            Some(index) => index,
            None => {
                while !is_configured(level) && self.counts.len() >= max {
                    self.evict(at);
                }
                let key = (Arc::clone(&ask.limit.name), ask.key.into());
                self.counts_of(level).insert_full(key, Count::new(&ask.limit.measure)).0
            }
        };
        let count = &mut self.counts_of(level)[index];
        if !count.fits(&ask.limit.measure) {
            *count = Count::new(&ask.limit.measure);
        }
        count
    }

    /// Drops, of a few keys, the one that is forgotten soonest.
    fn evict(&mut self, at: Moment) {
        let len = self.counts.len();
        let looked_at = (0..LOOKED_AT.min(len)).map(|step| (self.cursor + step) % len);
        let soonest = looked_at.min_by_key(|index| self.counts[*index].remembers_for(at));
        self.cursor = self.cursor.wrapping_add(LOOKED_AT) % len.max(1);
        if let Some(index) = soonest {
            self.counts.swap_remove_index(index);
        }
    }
}

impl Count {
    fn new(measure: &Measure) -> Self {
        match measure {
            Measure::Rate(rate) if rate.shape == Shape::Window => Self::Window(Box::default()),
            Measure::Rate(_) => Self::Bucket(0),
            Measure::Quota(quota) => Self::Quota { per: quota.per, period: 0, used: 0 },
        }
    }

    /// Whether this goes on under `measure`. The numbers of days and months cannot be compared, so a quota of another
    /// period begins anew.
    fn fits(&self, measure: &Measure) -> bool {
        match (self, measure) {
            (Self::Quota { per, .. }, Measure::Quota(quota)) => *per == quota.per,
            _ => std::mem::discriminant(self) == std::mem::discriminant(&Self::new(measure)),
        }
    }

    fn take(&mut self, ask: &Ask<'_>, at: Moment) -> Result<(), Duration> {
        let now = nanos(at);
        match (self, &ask.limit.measure) {
            (Self::Bucket(full_at), Measure::Rate(rate)) => bucket::take(full_at, rate, ask.cost, ask.permille, now),
            (Self::Window(window), Measure::Rate(rate)) => window.take(rate, ask.cost, ask.permille, now),
            (Self::Quota { period, used, .. }, Measure::Quota(quota)) => {
                let (current, ends_ms) = calendar::period(quota.per, at.unix_ms);
                // A wall clock that is set back does not give anything back.
                if current > *period {
                    (*period, *used) = (current, 0);
                }
                let after = used.saturating_add(u64::from(ask.cost));
                if after > quota.units {
                    return Err(Duration::from_millis(ends_ms.saturating_sub(at.unix_ms).max(1)));
                }
                *used = after;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// For how long this differs from a count that was never used. (Quotas, which go on for days, are dropped last.)
    fn remembers_for(&self, at: Moment) -> u64 {
        match self {
            Self::Bucket(full_at) => full_at.saturating_sub(nanos(at)),
            Self::Window(window) => window.empty_at().saturating_sub(nanos(at)),
            Self::Quota { .. } => u64::MAX,
        }
    }
}

fn nanos(at: Moment) -> u64 {
    u64::try_from(at.since.as_nanos()).unwrap_or(u64::MAX)
}

impl Limiter for Ledger {
    fn take<'a>(&'a self, asks: &'a [Ask<'a>], at: Moment) -> Verdict<'a> {
        for (index, ask) in asks.iter().enumerate() {
            if let Err(retry_after) = self.take_one(ask, at) {
                asks[..index].iter().for_each(|taken| self.give_back_one(taken));
                return Verdict::Now(Err(Denied { index, retry_after }));
            }
        }
        Verdict::Now(Ok(()))
    }

    fn forget(&self, prefix: &str) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.kept.retain(|(limit, _), _| !limit.starts_with(prefix));
            shard.counts.retain(|(limit, _), _| !limit.starts_with(prefix));
        }
    }

    fn keys(&self) -> usize {
        let keys = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.kept.len() + shard.counts.len()
        };
        self.shards.iter().map(keys).sum()
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("keys", &self.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
