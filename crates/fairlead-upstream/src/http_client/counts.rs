//! What a pool counts: nothing of it on the way of a call that finds an idle connection.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// It rested longer than `idle_timeout`, or than the server keeps one.
    Idle,
    /// It had been used for `max_lifetime`.
    Lifetime,
    /// More than `max_idle` were idle.
    Surplus,
    /// Its server closed it, or it broke.
    Ended,
    /// Its call was given up before the answer was complete.
    Abandoned,
}

impl Closed {
    const WORDS: [&'static str; 5] = ["idle", "lifetime", "surplus", "ended", "abandoned"];
}

/// The counters of one pool.
#[derive(Debug, Default)]
pub(super) struct Counts {
    opened: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    closed: [AtomicU64; Closed::WORDS.len()],
}

impl Counts {
    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn timed_out(&self) {
        self.timed_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self, why: Closed) {
        self.closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, stats: &mut PoolStats) {
        stats.opened += self.opened.load(Ordering::Relaxed);
        stats.failed += self.failed.load(Ordering::Relaxed);
        stats.timed_out += self.timed_out.load(Ordering::Relaxed);
        for (sum, count) in stats.closed.iter_mut().zip(&self.closed) {
            *sum += count.load(Ordering::Relaxed);
        }
    }
}

/// The pools of one server, all workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections that are open.
    pub open: usize,
    /// Those of them that nobody uses.
    pub idle: usize,
    /// Connections being opened.
    pub connecting: usize,
    /// Calls that wait for a connection.
    pub waiting: usize,
    /// Connections ever opened.
    pub opened: u64,
    /// Attempts to open one that failed.
    pub failed: u64,
    /// Calls that waited longer than `acquire_timeout`.
    pub timed_out: u64,
    closed: [u64; Closed::WORDS.len()],
}

impl PoolStats {
    /// The same with those of another instance.
    #[must_use]
    pub(crate) fn with(mut self, other: &Self) -> Self {
        self.open += other.open;
        self.idle += other.idle;
        self.connecting += other.connecting;
        self.waiting += other.waiting;
        self.opened += other.opened;
        self.failed += other.failed;
        self.timed_out += other.timed_out;
        for (closed, more) in self.closed.iter_mut().zip(other.closed) {
            *closed += more;
        }
        self
    }

    /// Connections that a call uses.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.open.saturating_sub(self.idle)
    }

    /// Connections ever closed, by the reason.
    pub fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Closed::WORDS.into_iter().zip(self.closed)
    }
}
