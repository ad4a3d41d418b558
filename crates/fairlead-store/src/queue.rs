//! Records of sessions and tasks on their way to the database.
//!
//! One slot per key: a newer record takes the place of an older one, so a session that changes often costs one
//! write per batch. The slots are bounded; what does not fit is dropped and counted, because the alternative is that
//! callers wait for a disk. Records that are taken stay visible to [`Queue::find`] until they are written, so a
//! session always reads what it wrote last.

use fairlead_core::ports::{SessionRecord, TaskRecord};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// How many records may wait, those being written included.
pub(crate) const MAX_WAITING: usize = 4096;

/// Bytes of what waits, about: results of tasks may be long, and a database that is stuck takes none.
pub(crate) const MAX_WAITING_BYTES: usize = 64 << 20;
/// What a record takes beside its texts, about.
const RECORD_COST: usize = 256;

/// What takes room in a queue.
pub(crate) trait Weigh {
    /// Its bytes, about.
    fn weight(&self) -> usize;
}

impl Weigh for Pending {
    fn weight(&self) -> usize {
        let SessionRecord { ended: _, log_level, subscriptions } = &self.record;
        let uris: usize = subscriptions.iter().map(String::len).sum();
        RECORD_COST + log_level.len() + uris
    }
}

impl Weigh for Option<TaskRecord> {
    fn weight(&self) -> usize {
        let texts = self.as_ref().map_or(0, |task| task.id.len() + task.owner.len() + task.body.len());
        RECORD_COST + texts
    }
}

/// A record and when it may be swept (Unix milliseconds).
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) record: SessionRecord,
    pub(crate) expires_ms: u64,
}

/// Session records on their way.
pub(crate) type SessionQueue = Queue<Pending>;

/// Everything taken in one go.
pub(crate) type Taken<T> = Arc<HashMap<String, T>>;

#[derive(Debug)]
struct Slots<T> {
    waiting: HashMap<String, T>,
    writing: Taken<T>,
    /// Bytes of both.
    bytes: usize,
    dropped: u64,
    closed: bool,
}

/// The queue between the data plane and a writer task.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    slots: Mutex<Slots<T>>,
    changed: Notify,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let slots = Slots { waiting: HashMap::new(), writing: Arc::default(), bytes: 0, dropped: 0, closed: false };
        Self { slots: Mutex::new(slots), changed: Notify::new() }
    }
}

impl<T: Clone + Weigh> Queue<T> {
    /// Queues a record without waiting; over the bound, or after the end, it is dropped and counted.
    pub(crate) fn push(&self, key: &str, pending: T) {
        let weight = pending.weight();
        let mut guard = self.slots();
        let slots = &mut *guard;
        if let Some(slot) = slots.waiting.get_mut(key) {
            let before = slot.weight();
            if weight > before && slots.bytes - before + weight > MAX_WAITING_BYTES {
                slots.dropped += 1;
                return;
            }
            *slot = pending;
            slots.bytes = slots.bytes - before + weight;
            return;
        }
        let is_full = slots.waiting.len() + slots.writing.len() >= MAX_WAITING;
        if slots.closed || is_full || slots.bytes + weight > MAX_WAITING_BYTES {
            slots.dropped += 1;
            return;
        }
        slots.bytes += weight;
        slots.waiting.insert(key.to_owned(), pending);
        drop(guard);
        self.changed.notify_one();
    }

    /// The newest record of `key` that is not yet in the database.
    pub(crate) fn find(&self, key: &str) -> Option<T> {
        let slots = self.slots();
        slots.waiting.get(key).or_else(|| slots.writing.get(key)).cloned()
    }

    /// Waits until there is something to write, or the queue is closed.
    pub(crate) async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let slots = self.slots();
                if !slots.waiting.is_empty() || slots.closed {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Takes all that waits. The records stay visible until [`Queue::written`] or [`Queue::put_back`].
    pub(crate) fn take(&self) -> Taken<T> {
        let mut slots = self.slots();
        slots.writing = Arc::new(std::mem::take(&mut slots.waiting));
        Arc::clone(&slots.writing)
    }

    /// What was taken is in the database.
    pub(crate) fn written(&self) {
        let mut slots = self.slots();
        let written = std::mem::take(&mut slots.writing);
        slots.bytes -= written.values().map(T::weight).sum::<usize>();
    }

    /// What was taken could not be written: it waits again, except where a newer record came meanwhile.
    pub(crate) fn put_back(&self) {
        let mut slots = self.slots();
        let taken = std::mem::take(&mut slots.writing);
        for (key, pending) in taken.iter() {
            if slots.waiting.contains_key(key) {
                slots.bytes -= pending.weight();
            } else {
                slots.waiting.insert(key.clone(), pending.clone());
            }
        }
    }

    /// No more records; the writer finishes.
    pub(crate) fn close(&self) {
        self.slots().closed = true;
        self.changed.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.slots().closed
    }

    pub(crate) fn waiting(&self) -> usize {
        self.slots().waiting.len()
    }

    /// How many records are not in the database yet, those being written included.
    pub(crate) fn unwritten(&self) -> usize {
        let slots = self.slots();
        slots.waiting.len() + slots.writing.len()
    }

    /// How many records were dropped since this was last asked.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.slots().dropped)
    }

    fn slots(&self) -> MutexGuard<'_, Slots<T>> {
        // Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(level: &str) -> Pending {
        Pending { record: SessionRecord { log_level: level.to_owned(), ..SessionRecord::default() }, expires_ms: 1 }
    }

    fn level(queue: &SessionQueue, key: &str) -> Option<String> {
        queue.find(key).map(|pending| pending.record.log_level)
    }

    #[test]
    fn newest_state_of_a_key_wins_wherever_the_older_one_is() {
        let queue = SessionQueue::default();
        queue.push("a", pending("1"));
        queue.push("a", pending("2"));
        assert_eq!(queue.waiting(), 1);
        let taken = queue.take();
        assert_eq!(taken["a"].record.log_level, "2");
        assert_eq!(level(&queue, "a").as_deref(), Some("2"), "visible while it is written");
        assert_eq!((queue.waiting(), queue.unwritten()), (0, 1), "and not yet written");

        queue.push("a", pending("3"));
        queue.push("b", pending("1"));
        assert_eq!(level(&queue, "a").as_deref(), Some("3"));
        queue.put_back();
        assert_eq!(level(&queue, "a").as_deref(), Some("3"), "a failed write does not bring back the older record");
        assert_eq!(queue.waiting(), 2);

        queue.take();
        queue.written();
        assert_eq!((level(&queue, "a"), queue.unwritten()), (None, 0));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let queue = SessionQueue::default();
        for number in 0..MAX_WAITING / 2 {
            queue.push(&number.to_string(), pending("1"));
        }
        queue.take();
        for number in 0..MAX_WAITING {
            queue.push(&format!("later {number}"), pending("1"));
        }
        assert_eq!(queue.waiting(), MAX_WAITING / 2, "records being written count");
        queue.push("later 0", pending("2"));
        assert_eq!(level(&queue, "later 0").as_deref(), Some("2"), "a full queue still takes newer states");
        assert_eq!(queue.take_dropped(), (MAX_WAITING / 2) as u64);
        assert_eq!(queue.take_dropped(), 0);

        queue.close();
        queue.push("after the end", pending("1"));
        assert_eq!(queue.take_dropped(), 1);
    }

    #[test]
    fn what_waits_is_bounded_by_bytes() {
        let long = |bytes: usize| {
            let record = TaskRecord {
                id: String::new(),
                owner: String::new(),
                body: "x".repeat(bytes - RECORD_COST),
                created_ms: 0,
                expires_ms: 1,
            };
            Some(record)
        };
        let queue: Queue<Option<TaskRecord>> = Queue::default();
        queue.push("a", long(MAX_WAITING_BYTES / 2));
        queue.take();
        queue.push("b", long(MAX_WAITING_BYTES / 2));
        queue.push("c", None);
        assert_eq!((queue.take_dropped(), queue.waiting()), (1, 1), "what is being written counts");
        queue.push("b", long(MAX_WAITING_BYTES / 2 + 1));
        assert_eq!(queue.take_dropped(), 1, "a newer record that does not fit either");
        queue.push("b", None);
        queue.push("a", None);
        queue.put_back();
        assert_eq!(queue.slots().bytes, 2 * RECORD_COST, "of what was taken the newer record counts");
        queue.take();
        queue.written();
        assert_eq!(queue.slots().bytes, 0);
    }
}
