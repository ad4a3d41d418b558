//! The calls that wait: each in a task of its own that goes on hearing its server, until the client comes back for it,
//! its time is over, or the gateway stops.
//!
//! A task and not a shelf: a server that gives its question up, dies, or answers without waiting frees its link at
//! once, and what it says meanwhile neither stops it nor piles up without bound.

use super::{
    Worked,
    asked::{Asked, Counts},
};
use crate::{gateway::Inner, tasks::Behind};
use aws_lc_rs::rand;
use fairlead_core::UpstreamError;
use fairlead_observe::{QuestionOutcome, ServerMetrics};
use fairlead_upstream::{Exchange, Final, Item, Link};
use fairlead_wire::{Field, Frame, Kind, Method};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// Messages kept for one waiting call.
const MAX_HEARD: usize = 256;

/// A call to a legacy server of a client that cannot be asked in mid-call: the exchange, and what is to be known of it.
/// Dropped, it gives its questions up and cancels the exchange.
pub(super) struct Parked {
    /// `None` once it has ended.
    exchange: Option<Box<Exchange>>,
    pub(super) link: Arc<Link>,
    pub(super) asked: Asked,
    /// What the server said meanwhile, in order.
    pub(super) heard: VecDeque<Frame>,
    /// How it ended meanwhile.
    pub(super) end: Option<Result<Final, UpstreamError>>,
    /// The task it waits for the result of, where its client knows of none. Given up with it.
    pub(super) task: Option<Behind>,
    pub(super) metrics: Arc<ServerMetrics>,
    /// How often the client was asked.
    pub(super) rounds: u8,
    /// Until when it waits.
    pub(super) until: Instant,
    /// What of its time is over.
    pub(super) worked: Worked,
    charged: Charge,
    why: &'static str,
}

impl Parked {
    pub(super) fn new(
        exchange: Box<Exchange>,
        metrics: Arc<ServerMetrics>,
        rounds: u8,
        counts: Counts,
        worked: Worked,
    ) -> Box<Self> {
        Box::new(Self {
            link: Arc::clone(exchange.link()),
            asked: Asked::new(exchange.questions().clone(), counts),
            exchange: Some(exchange),
            heard: VecDeque::new(),
            end: None,
            task: None,
            metrics,
            rounds,
            until: Instant::now(),
            worked,
            charged: Charge::default(),
            why: "the client closed the stream",
        })
    }

    pub(super) fn exchange(&mut self) -> Option<&mut Exchange> {
        self.exchange.as_deref_mut()
    }

    /// The exchange, for somebody else to drive.
    pub(super) fn release(mut self: Box<Self>) -> Option<Box<Exchange>> {
        self.charged.clear();
        self.exchange.take()
    }

    /// The server has answered, or failed: nothing is left to cancel.
    pub(super) fn ended(&mut self) {
        self.exchange = None;
    }

    /// Takes what the server says while nobody listens to it.
    fn hear(&mut self, item: Result<Item, UpstreamError>) {
        match item {
            Ok(Item::Message(frame)) => self.keep(frame),
            Ok(Item::Final(answer)) => {
                // An answer is kept before anything else is.
                self.charged.force(answer.frame.bytes().len());
                self.end = Some(Ok(answer));
                self.ended();
            }
            Err(error) => {
                self.end = Some(Err(error));
                self.ended();
            }
        }
    }

    fn keep(&mut self, frame: Frame) {
        match frame.method_class() {
            Method::Cancelled => {
                if let Some(id) = frame.raw(Field::ParamRequestId) {
                    self.asked.withdraw(id);
                }
                return;
            }
            // Only the latest is of interest.
            Method::Progress => self.heard.retain(|heard| heard.method_class() != Method::Progress),
            _ => {}
        }
        if self.heard.len() < MAX_HEARD && self.charged.add(frame.bytes().len()) {
            self.heard.push_back(frame);
        } else if frame.kind() == Kind::Request {
            self.metrics.question(QuestionOutcome::Declined);
            super::decline(&self.link, &frame);
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            self.asked.give_up(&self.link, &self.metrics, QuestionOutcome::Cancelled);
            exchange.cancel(self.why);
        }
    }
}

/// Bytes that one call has of what all together may keep.
#[derive(Default)]
struct Charge {
    pool: Option<(Arc<AtomicUsize>, usize)>,
    used: usize,
}

impl Charge {
    fn open(&mut self, pool: &Arc<AtomicUsize>, max: usize) {
        self.clear();
        self.pool = Some((Arc::clone(pool), max));
    }

    fn add(&mut self, bytes: usize) -> bool {
        let Some((pool, max)) = &self.pool else { return true };
        let fits = pool.fetch_add(bytes, Ordering::Relaxed) + bytes <= *max;
        if fits {
            self.used += bytes;
        } else {
            pool.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// The same when it must be. It is one message, bounded by its server's `max_message`, and the call's last.
    fn force(&mut self, bytes: usize) {
        if let Some((pool, _)) = &self.pool {
            pool.fetch_add(bytes, Ordering::Relaxed);
            self.used += bytes;
        }
    }

    fn clear(&mut self) {
        if let Some((pool, _)) = &self.pool {
            pool.fetch_sub(self.used, Ordering::Relaxed);
        }
        (self.pool, self.used) = (None, 0);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Every call that waits.
pub(crate) struct Parking {
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    bytes: Arc<AtomicUsize>,
    /// Tells this run of the gateway from others.
    pub(super) instance: u64,
}

struct Entry {
    /// Of the state that may claim it.
    round: u64,
    claim: oneshot::Sender<oneshot::Sender<Box<Parked>>>,
    task: Abort,
}

/// Ends a task when dropped.
struct Abort(Option<AbortHandle>);

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The place of a call that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) call: u64,
    pub(super) round: u64,
}

impl Parking {
    pub(crate) fn new() -> Self {
        Self { entries: Mutex::default(), next: AtomicU64::new(1), bytes: Arc::default(), instance: random() }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().expect("invariant: no panic under this lock")
    }

    /// How many calls wait.
    pub(crate) fn len(&self) -> usize {
        self.entries().len()
    }

    /// Gives every call up.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.entries());
        drop(all);
    }

    /// Has the call wait until its client comes back. `Err` when there is no room for it.
    pub(super) fn park(
        &self,
        gateway: &Arc<Inner>,
        config: &fairlead_config::Park,
        mut parked: Box<Parked>,
    ) -> Result<Place, Box<Parked>> {
        parked.charged.open(&self.bytes, config.max_bytes);
        if !parked.charged.add(parked.asked.bytes()) {
            return Err(parked);
        }
        let place = Place { call: self.next.fetch_add(1, Ordering::Relaxed), round: random() };
        let until = parked.until;
        let (claim, claimed) = oneshot::channel();
        let mut entries = self.entries();
        if entries.len() >= config.max {
            return Err(parked);
        }
        parked.why = "nobody came back with an answer";
        if let Some(exchange) = &mut parked.exchange {
            exchange.put_off(until + config.ttl);
        }
        let task = tokio::spawn(keep(Arc::downgrade(gateway), place.call, parked, claimed, until)).abort_handle();
        entries.insert(place.call, Entry { round: place.round, claim, task: Abort(Some(task)) });
        Ok(place)
    }

    /// Takes a call that waits, once per round of questions. `None` when it does not wait (any more) or the state is
    /// of another round.
    pub(super) async fn claim(&self, call: u64, round: u64) -> Option<Box<Parked>> {
        let answer = {
            let mut entries = self.entries();
            if entries.get(&call)?.round != round {
                return None;
            }
            let mut entry = entries.remove(&call)?;
            // From here on the task ends by handing the call over.
            entry.task.0 = None;
            let (to, answer) = oneshot::channel();
            entry.claim.send(to).ok()?;
            answer
        };
        answer.await.ok()
    }
}

async fn keep(
    gateway: Weak<Inner>,
    id: u64,
    mut parked: Box<Parked>,
    mut claimed: oneshot::Receiver<oneshot::Sender<Box<Parked>>>,
    until: Instant,
) {
    let mut waits = true;
    loop {
        tokio::select! {
            biased;
            to = &mut claimed => {
                if let Ok(to) = to {
                    parked.charged.clear();
                    parked.why = "the client closed the stream";
                    // Whoever claimed it may be gone: then it is dropped with the message, and so given up.
                    let _ = to.send(parked);
                }
                return;
            }
            () = sleep_until(until), if waits => {
                let Some(gateway) = gateway.upgrade() else { return };
                let entry = gateway.parking.entries().remove(&id);
                let Some(mut entry) = entry else {
                    // It was claimed at the very moment.
                    waits = false;
                    continue;
                };
                entry.task.0 = None;
                tracing::info!(server = parked.link.server_name(), "gave up a call: its client did not come back with the answers");
                parked.asked.give_up(&parked.link, &parked.metrics, QuestionOutcome::TimedOut);
                return;
            }
            item = next(&mut parked.exchange), if parked.exchange.is_some() => parked.hear(item),
        }
    }
}

async fn next(exchange: &mut Option<Box<Exchange>>) -> Result<Item, UpstreamError> {
    match exchange {
        Some(exchange) => exchange.next().await,
        None => std::future::pending().await,
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("invariant: the system has random numbers");
    u64::from_be_bytes(bytes)
}
