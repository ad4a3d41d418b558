//! A pool of calls with bounds of its own: how many are under way, how many wait and for how long, how many bytes their
//! requests hold. A pool that is full delays nobody but its own.
//!
//! Whoever waits is let in by priority, and in the order of coming within one. When the queue is full a
//! call that is more important takes the place of the last of the least important. A place is given from hand to hand: who
//! leaves counts the next one in before it wakes up, so nobody who comes in between can take it.

use fairlead_config::{Bulkhead as Bounds, Priority};
use fairlead_policy::{AdaptiveLimit, Signal};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// The part of its concurrency that an adaptive pool never goes below: a twentieth.
const LEAST_PART: usize = 20;

/// One pool.
pub(crate) struct Bulkhead {
    name: Arc<str>,
    began: Instant,
    state: Mutex<State>,
    refused: AtomicU64,
}

struct State {
    bounds: Bounds,
    adaptive: Option<AdaptiveLimit>,
    running: usize,
    /// Bytes of requests, waiting ones too.
    held: usize,
    next: u64,
    /// By priority, lowest first.
    waiting: [VecDeque<Waiter>; 4],
}

struct Waiter {
    id: u64,
    go: oneshot::Sender<()>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many wait as may.
    Queue,
    /// The requests hold as many bytes as they may.
    Memory,
    /// It waited as long as it may.
    Late,
    /// There is no time left for it.
    NoTime,
    /// Something more important took its place in the queue.
    Displaced,
}

impl Full {
    /// What is said of it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Full::Queue => "as many calls wait for a place as may",
            Full::Memory => "the requests under way hold as many bytes as they may",
            Full::Late => "no place became free in time",
            Full::NoTime => "the time for the call was over before a place became free",
            Full::Displaced => "more important calls took the places in its queue",
        }
    }
}

/// What a pool is doing.
#[derive(Debug, Clone)]
pub struct BulkheadCounts {
    /// Its name.
    pub name: String,
    /// Calls under way.
    pub running: usize,
    /// Calls that wait.
    pub waiting: usize,
    /// Calls that may be under way now.
    pub limit: usize,
    /// Bytes of their requests.
    pub held: usize,
    /// Calls refused so far.
    pub refused: u64,
}

impl Bulkhead {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        let name = Arc::clone(&bounds.name);
        let state = State {
            adaptive: None,
            bounds: bounds.clone(),
            running: 0,
            held: 0,
            next: 0,
            waiting: std::array::from_fn(|_| VecDeque::new()),
        };
        let bulkhead = Self { name, began: Instant::now(), state: Mutex::new(state), refused: AtomicU64::new(0) };
        bulkhead.configure(&bounds);
        Arc::new(bulkhead)
    }

    /// Changes the bounds under the calls there are.
    pub(crate) fn configure(&self, bounds: &Bounds) {
        let mut state = self.state();
        if state.bounds != *bounds || state.adaptive.is_some() != bounds.adaptive {
            let min = bounds.concurrency.div_ceil(LEAST_PART);
            let limit = || AdaptiveLimit::new(fairlead_policy::Bounds { min, max: bounds.concurrency });
            state.adaptive = bounds.adaptive.then(limit);
            state.bounds = bounds.clone();
        }
        self.let_in(state);
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, or waits for one, at most until there is no time left for the call.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        priority: Priority,
        bytes: usize,
        until: Instant,
    ) -> Result<Place, Full> {
        let (mut queued, wait) = match self.try_enter(priority, bytes) {
            Ok(Ok(place)) => return Ok(place),
            Ok(Err(queued)) => queued,
            Err(full) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(full);
            }
        };
        let late = Instant::now() + wait;
        let outcome = match tokio::time::timeout_at(late.min(until), &mut queued.come).await {
            Ok(Ok(())) => Ok(queued.taken()),
            Ok(Err(_)) => Err(Full::Displaced),
            Err(_) if until < late => Err(Full::NoTime),
            Err(_) => Err(Full::Late),
        };
        if outcome.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn try_enter(
        self: &Arc<Self>,
        priority: Priority,
        bytes: usize,
    ) -> Result<Result<Place, (Queued, Duration)>, Full> {
        let mut state = self.state();
        let is_empty = state.running == 0 && state.waiting.iter().all(VecDeque::is_empty);
        // One request is always taken: what is too large for the pool is too large for `listen.max_body` first.
        if !is_empty && state.held.saturating_add(bytes) > state.bounds.memory {
            return Err(Full::Memory);
        }
        if state.running < state.limit() && state.waiting[priority as usize..].iter().all(VecDeque::is_empty) {
            state.running += 1;
            state.held += bytes;
            return Ok(Ok(Place { bulkhead: Arc::clone(self), bytes, signal: AtomicU8::new(NOTHING) }));
        }
        let mut displaced = None;
        if state.waiting.iter().map(VecDeque::len).sum::<usize>() >= state.bounds.queue {
            let lower = state.waiting[..priority as usize].iter_mut().find(|waiting| !waiting.is_empty());
            displaced = Some(lower.and_then(VecDeque::pop_back).ok_or(Full::Queue)?);
        }
        let (go, come) = oneshot::channel();
        let id = state.next;
        state.next += 1;
        state.waiting[priority as usize].push_back(Waiter { id, go });
        state.held += bytes;
        let wait = state.bounds.queue_time;
        drop(state);
        // Woken up by what it waits for being gone.
        drop(displaced);
        Ok(Err((Queued { bulkhead: Arc::clone(self), id, priority, bytes, come, done: false }, wait)))
    }

    fn leave(&self, bytes: usize, signal: Signal) {
        let mut state = self.state();
        let (running, since) = (state.running, self.began.elapsed());
        if let Some(adaptive) = &mut state.adaptive {
            adaptive.note(signal, running, since);
        }
        state.running -= 1;
        state.held -= bytes;
        self.let_in(state);
    }

    /// Counts in whoever there is room for, the most important first.
    fn let_in<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        loop {
            let mut counted_in = Vec::new();
            while state.running < state.limit() {
                let Some(waiter) = state.waiting.iter_mut().rev().find_map(VecDeque::pop_front) else { break };
                state.running += 1;
                counted_in.push(waiter);
            }
            drop(state);
            // One that is just going away does not hear it any more: its place is still to be had.
            let gone = counted_in.into_iter().filter_map(|waiter| waiter.go.send(()).err()).count();
            if gone == 0 {
                return;
            }
            state = self.state();
            state.running -= gone;
        }
    }

    pub(crate) fn counts(&self) -> BulkheadCounts {
        let state = self.state();
        BulkheadCounts {
            name: self.name.to_string(),
            running: state.running,
            waiting: state.waiting.iter().map(VecDeque::len).sum(),
            limit: state.limit(),
            held: state.held,
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

impl State {
    fn limit(&self) -> usize {
        self.adaptive.as_ref().map_or(self.bounds.concurrency, AdaptiveLimit::current)
    }
}

/// A place in the queue, given up when dropped.
struct Queued {
    bulkhead: Arc<Bulkhead>,
    id: u64,
    priority: Priority,
    bytes: usize,
    come: oneshot::Receiver<()>,
    done: bool,
}

impl Queued {
    /// The place that was waited for.
    fn taken(mut self) -> Place {
        self.done = true;
        Place { bulkhead: Arc::clone(&self.bulkhead), bytes: self.bytes, signal: AtomicU8::new(NOTHING) }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.bulkhead.state();
        let waiting = &mut state.waiting[self.priority as usize];
        if let Some(at) = waiting.iter().position(|waiter| waiter.id == self.id) {
            waiting.remove(at);
            state.held -= self.bytes;
            return;
        }
        drop(state);
        // Counted in at this very moment, or displaced. From here on nothing can be heard that was not said before.
        self.come.close();
        if self.come.try_recv().is_ok() {
            self.bulkhead.leave(self.bytes, Signal::Nothing);
        } else {
            self.bulkhead.state().held -= self.bytes;
        }
    }
}

/// The places of one call, one in each pool of the servers it is made to.
#[derive(Default)]
pub(crate) struct Places(Mutex<Vec<Place>>);

impl Places {
    fn all(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, bulkhead: &Arc<Bulkhead>) -> bool {
        self.all().iter().any(|place| place.is_in(bulkhead))
    }

    /// Hands them over: the call goes on without its client.
    pub(crate) fn take(&self) -> Self {
        Self(Mutex::new(std::mem::take(&mut *self.all())))
    }

    pub(crate) fn add(&self, place: Place) {
        self.all().push(place);
    }

    /// Notes how the call ended at the server whose pool that is.
    pub(crate) fn note(&self, bulkhead: &Arc<Bulkhead>, signal: Signal) {
        self.all().iter().filter(|place| place.is_in(bulkhead)).for_each(|place| place.note(signal));
    }
}

const NOTHING: u8 = 0;
const ANSWERED: u8 = 1;
const OVERLOADED: u8 = 2;

/// A place in a pool, given back when dropped.
pub(crate) struct Place {
    bulkhead: Arc<Bulkhead>,
    bytes: usize,
    signal: AtomicU8,
}

impl Place {
    /// Whether it is one of `bulkhead`.
    pub(crate) fn is_in(&self, bulkhead: &Arc<Bulkhead>) -> bool {
        Arc::ptr_eq(&self.bulkhead, bulkhead)
    }

    /// Notes how the call ended.
    pub(crate) fn note(&self, signal: Signal) {
        let value = match signal {
            Signal::Nothing => NOTHING,
            Signal::Answered => ANSWERED,
            Signal::Overloaded => OVERLOADED,
        };
        self.signal.store(value, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let signal = match self.signal.load(Ordering::Relaxed) {
            ANSWERED => Signal::Answered,
            OVERLOADED => Signal::Overloaded,
            _ => Signal::Nothing,
        };
        self.bulkhead.leave(self.bytes, signal);
    }
}

#[cfg(test)]
mod tests;
