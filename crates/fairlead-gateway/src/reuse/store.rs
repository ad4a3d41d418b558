//! Answers that are kept: the server's own bytes, bounded by bytes all together.
//!
//! What stays is decided by how often it is asked for (TinyLFU), and what is too old goes by itself. Whether an entry may
//! be given is decided here by its own times and by the ledger, never by whether it is still there.

use super::{
    batch::Batches,
    flight::Flights,
    key::Key,
    ledger::{Ledger, Outdated, Subject},
};
use fairlead_config::Cache as Bounds;
use fairlead_upstream::Final;
use fairlead_wire::{Era, Frame, Method};
use moka::{Expiry, notification::RemovalCause, sync::Cache};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// What an entry takes besides its key and its message: the cache's own tables.
const OVERHEAD: usize = 256;

/// One answer that is kept.
pub(crate) struct Kept {
    frame: Frame,
    status: Option<u16>,
    link: Era,
    subject: Subject,
    times: Times,
    at: Instant,
    size: u32,
    /// The ledger's number up to which it is known to count.
    since: AtomicU64,
    refreshing: AtomicBool,
}

/// How long an answer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Times {
    /// It is given.
    pub(crate) fresh: Duration,
    /// After that it is given while it is fetched anew.
    pub(crate) stale: Duration,
    /// After that it is given in place of a failure.
    pub(crate) on_error: Duration,
}

/// How old an answer is by its own times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Fresh,
    /// It may be given while it is fetched anew.
    Stale,
    /// It may be given in place of a failure.
    Last,
}

impl Kept {
    /// The answer, as it came.
    pub(crate) fn answer(&self) -> (Final, Era) {
        (Final { frame: self.frame.clone(), status: self.status }, self.link)
    }

    /// How long ago it came.
    pub(crate) fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// True for the one who is to fetch it anew; [`Kept::refreshed`] ends that.
    pub(crate) fn begin_refresh(&self) -> bool {
        !self.refreshing.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn refreshed(&self) {
        self.refreshing.store(false, Ordering::Release);
    }
}

impl Times {
    /// What an answer of this age is.
    fn judge(self, age: Duration) -> Option<Age> {
        let Self { fresh, stale, on_error } = self;
        match age {
            age if age < fresh => Some(Age::Fresh),
            age if age < fresh + stale => Some(Age::Stale),
            age if age < fresh + stale.max(on_error) => Some(Age::Last),
            _ => None,
        }
    }
}

/// Everything that is kept, and what is being fetched.
pub(crate) struct Store {
    entries: Cache<Arc<Key>, Arc<Kept>>,
    pub(crate) flights: Arc<Flights>,
    /// Calls that are being gathered.
    pub(crate) batches: Batches,
    pub(crate) ledger: Ledger,
    evictions: Arc<AtomicU64>,
}

/// Entries go when their times are over.
struct Lifetime;

impl Expiry<Arc<Key>, Arc<Kept>> for Lifetime {
    fn expire_after_create(&self, _: &Arc<Key>, kept: &Arc<Kept>, _: std::time::Instant) -> Option<Duration> {
        Some(kept.times.fresh + kept.times.stale.max(kept.times.on_error))
    }

    fn expire_after_update(
        &self,
        key: &Arc<Key>,
        kept: &Arc<Kept>,
        at: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, kept, at)
    }
}

impl Store {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        let evictions = Arc::new(AtomicU64::new(0));
        let evicted = Arc::clone(&evictions);
        let entries = Cache::builder()
            .max_capacity(bounds.max_bytes as u64)
            .weigher(|_, kept: &Arc<Kept>| kept.size)
            .expire_after(Lifetime)
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    evicted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self { entries, flights: Arc::default(), batches: Batches::default(), ledger: Ledger::default(), evictions }
    }

    /// What is kept under `key` and still counts.
    pub(crate) fn get(&self, key: &Key) -> Option<(Arc<Kept>, Age)> {
        let kept = self.entries.get(key)?;
        let now = self.ledger.now();
        let since = kept.since.load(Ordering::Acquire);
        if since < now {
            if !self.ledger.counts(&kept.subject, since) {
                self.entries.invalidate(key);
                return None;
            }
            // What was looked up once need not be again until something else happens.
            kept.since.fetch_max(now, Ordering::AcqRel);
        }
        let age = kept.times.judge(kept.age())?;
        Some((kept, age))
    }

    /// Keeps an answer that was asked for at `since`, unless it is outdated already.
    pub(crate) fn put(&self, key: Arc<Key>, subject: Subject, answer: &Final, link: Era, times: Times, since: u64) {
        if !self.ledger.counts(&subject, since) {
            return;
        }
        let frame = answer.frame.compact();
        let size = key.size() + frame.footprint() + subject.name.len() + size_of::<Kept>() + OVERHEAD;
        let kept = Kept {
            frame,
            status: answer.status,
            link,
            subject,
            times,
            at: Instant::now(),
            size: u32::try_from(size).unwrap_or(u32::MAX),
            since: AtomicU64::new(since),
            refreshing: AtomicBool::new(false),
        };
        self.entries.insert(key, Arc::new(kept));
    }

    /// Drops what is outdated, at once for whoever asks; the room is given back too. Not for the path of a call.
    pub(crate) fn purge(&self, what: Outdated<'_>) -> usize {
        self.ledger.outdate(what);
        let mut dropped = 0;
        for (key, kept) in &self.entries {
            if !self.ledger.counts(&kept.subject, kept.since.load(Ordering::Acquire)) {
                self.entries.invalidate(&*key);
                dropped += 1;
            }
        }
        dropped
    }

    /// What is in it.
    pub(crate) fn counts(&self) -> Counts {
        self.entries.run_pending_tasks();
        Counts {
            entries: self.entries.entry_count(),
            bytes: self.entries.weighted_size(),
            evictions: self.evictions.load(Ordering::Relaxed),
        }
    }

    /// A resource changed.
    pub(crate) fn updated(&self, server: &str, uri: &str) {
        self.ledger.outdate(Outdated::Name(server, Method::ResourcesRead, uri));
    }
}

/// What is kept of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers.
    pub entries: u64,
    /// What they take.
    pub bytes: u64,
    /// Answers that had to make room, so far.
    pub evictions: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::Limits;

    const SECOND: Duration = Duration::from_secs(1);

    fn store(max_bytes: usize) -> Store {
        Store::new(&Bounds { max_bytes, max_answer: 1 << 20, ttl: SECOND })
    }

    fn subject() -> Subject {
        Subject { server: "a".into(), method: Method::ToolsCall, name: "get".into(), tags: Arc::default() }
    }

    fn answer(length: usize) -> Final {
        let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"x\":\"{}\"}}}}", "x".repeat(length));
        Final { frame: Frame::parse(text.into(), &Limits::default()).expect("a message"), status: None }
    }

    #[test]
    fn an_answer_grows_old_step_by_step() {
        let times = Times { fresh: 10 * SECOND, stale: 5 * SECOND, on_error: 8 * SECOND };
        for (age, expected) in [
            (0, Some(Age::Fresh)),
            (9, Some(Age::Fresh)),
            (10, Some(Age::Stale)),
            (14, Some(Age::Stale)),
            (15, Some(Age::Last)),
            (17, Some(Age::Last)),
            (18, None),
        ] {
            assert_eq!(times.judge(age * SECOND), expected, "{age} s");
        }
    }

    #[test]
    fn what_changed_while_it_was_fetched_is_not_kept() {
        let store = store(1 << 20);
        let key = Arc::new(Key::plain("x"));
        let put = |since| {
            let times = Times { fresh: 60 * SECOND, ..Times::default() };
            store.put(Arc::clone(&key), subject(), &answer(10), Era::Legacy, times, since);
        };
        let since = store.ledger.now();
        store.ledger.outdate(Outdated::Server("a"));
        put(since);
        assert!(store.get(&key).is_none());
        put(store.ledger.now());
        assert!(store.get(&key).is_some());
        store.ledger.outdate(Outdated::Server("other"));
        assert!(store.get(&key).is_some());
        assert_eq!(store.purge(Outdated::Tag("none")), 0);
        assert_eq!(store.purge(Outdated::Server("a")), 1);
        assert!(store.get(&key).is_none());
    }

    #[test]
    fn the_bound_is_of_bytes_and_what_makes_room_is_counted() {
        let store = store(100_000);
        let times = Times { fresh: SECOND * 60, ..Times::default() };
        for number in 0..200 {
            let key = Arc::new(Key::plain(&number.to_string()));
            store.put(key, subject(), &answer(5_000), Era::Legacy, times, 0);
        }
        let counts = store.counts();
        assert!(counts.bytes <= 100_000 && counts.entries < 20, "{counts:?}");
        assert!(counts.evictions >= 180, "{counts:?}");
    }
}
