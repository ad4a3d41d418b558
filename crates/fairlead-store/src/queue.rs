//! Records of sessions and tasks on their way to the database.
//!
//! One slot per key: a newer record takes the place of an older one, so a session that changes often costs one
//! write per batch. The slots are bounded; what does not fit is dropped and counted, because the alternative is that
//! callers wait for a disk. Records that are taken stay visible to [`Queue::find`] until they are written, so a
//! session always reads what it wrote last.

use fairlead_core::ports::SessionRecord;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// How many records may wait, those being written included.
pub(crate) const MAX_WAITING: usize = 4096;

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
        let slots = Slots { waiting: HashMap::new(), writing: Arc::default(), dropped: 0, closed: false };
        Self { slots: Mutex::new(slots), changed: Notify::new() }
    }
}

impl<T: Clone> Queue<T> {
    /// Queues a record without waiting; over the bound, or after the end, it is dropped and counted.
    pub(crate) fn push(&self, key: &str, pending: T) {
        let mut slots = self.slots();
        if let Some(slot) = slots.waiting.get_mut(key) {
            *slot = pending;
            return;
        }
        if slots.closed || slots.waiting.len() + slots.writing.len() >= MAX_WAITING {
            slots.dropped += 1;
            return;
        }
        slots.waiting.insert(key.to_owned(), pending);
        drop(slots);
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
        self.slots().writing = Arc::default();
    }

    /// What was taken could not be written: it waits again, except where a newer record came meanwhile.
    pub(crate) fn put_back(&self) {
        let mut slots = self.slots();
        let taken = std::mem::take(&mut slots.writing);
        for (key, pending) in taken.iter() {
            if !slots.waiting.contains_key(key) {
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

        queue.push("a", pending("3"));
        queue.push("b", pending("1"));
        assert_eq!(level(&queue, "a").as_deref(), Some("3"));
        queue.put_back();
        assert_eq!(level(&queue, "a").as_deref(), Some("3"), "a failed write does not bring back the older record");
        assert_eq!(queue.waiting(), 2);

        queue.take();
        queue.written();
        assert_eq!(level(&queue, "a"), None);
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
}
