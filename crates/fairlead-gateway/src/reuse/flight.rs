//! Calls that are under way: who asks the same meanwhile waits for the same answer.
//!
//! One call *leads* and goes its usual way, the others wait. A waiting call that goes away is nobody's concern. A leader that
//! goes away - cancelled, or its client is gone - hands over: one of those who wait makes the call anew, which only
//! happens to calls that may be repeated. A leader whose server asks something, or reports to those who asked for reports,
//! cannot share: then everybody calls for himself.

use super::key::Key;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_upstream::Final;
use fairlead_wire::{Era, Frame};
use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::Notify;

/// Parts of the table, so that workers rarely wait for each other.
const SHARDS: usize = 16;

/// What calls that share have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub(crate) key: Arc<Key>,
    /// Whether they want to hear of progress.
    pub(crate) progress: bool,
    /// From which level on they want to hear what the server logs.
    pub(crate) level: Option<Box<str>>,
}

impl FlightKey {
    /// Whether what comes before the answer is of interest.
    fn listens(&self) -> bool {
        self.progress || self.level.is_some()
    }
}

/// What became of a call that others wait for.
#[derive(Debug)]
pub(crate) enum Shared {
    /// The server answered.
    Answered { frame: Frame, status: Option<u16>, link: Era },
    /// It failed.
    Failed { kind: UpstreamErrorKind, outcome: Outcome, message: Cow<'static, str> },
}

impl Shared {
    pub(crate) fn answer(answer: &Final, link: Era) -> Self {
        Self::Answered { frame: answer.frame.clone(), status: answer.status, link }
    }

    pub(crate) fn failure(error: &UpstreamError) -> Self {
        Self::Failed { kind: error.kind, outcome: error.outcome, message: error.message.clone() }
    }
}

enum Step {
    Going,
    /// The leader is gone.
    Vacant,
    Done(Arc<Shared>),
    /// It cannot be shared.
    Alone,
}

struct State {
    step: Step,
    waiting: usize,
}

struct Flight {
    /// The ledger's number when its call began.
    since: u64,
    state: Mutex<State>,
    changed: Notify,
}

impl Flight {
    fn new(since: u64) -> Arc<Self> {
        let state = Mutex::new(State { step: Step::Going, waiting: 0 });
        Arc::new(Self { since, state, changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under this lock")
    }
}

type Table = HashMap<FlightKey, Arc<Flight>>;

/// All of them.
pub(crate) struct Flights {
    shards: [Mutex<Table>; SHARDS],
    hasher: RandomState,
}

impl Default for Flights {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

/// What a call is to do.
pub(crate) enum Joined {
    Leads(Lead),
    Waits(Waiting),
}

impl Flights {
    fn table(&self, key: &FlightKey) -> MutexGuard<'_, Table> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[at].lock().expect("invariant: no panic under this lock")
    }

    /// Joins the calls that have this key; `counts` says whether an answer that was asked for at a moment would do. One that
    /// would not is left to those who wait for it.
    pub(crate) fn join(self: &Arc<Self>, key: FlightKey, now: u64, counts: impl FnOnce(u64) -> bool) -> Joined {
        let mut table = self.table(&key);
        if let Some(flight) = table.get(&key) {
            let mut state = flight.state();
            if counts(flight.since) && matches!(state.step, Step::Going | Step::Vacant) {
                state.waiting += 1;
                drop(state);
                let flight = Arc::clone(flight);
                drop(table);
                return Joined::Waits(Waiting { flights: Arc::clone(self), key, flight });
            }
        }
        let flight = Flight::new(now);
        table.insert(key.clone(), Arc::clone(&flight));
        drop(table);
        Joined::Leads(Lead { flights: Arc::clone(self), key, flight, over: false })
    }

    fn remove(table: &mut Table, key: &FlightKey, flight: &Arc<Flight>) {
        if table.get(key).is_some_and(|other| Arc::ptr_eq(other, flight)) {
            table.remove(key);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("invariant: no panic under this lock").len()).sum()
    }
}

/// The part of the call that is made.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    key: FlightKey,
    flight: Arc<Flight>,
    over: bool,
}

impl Lead {
    /// This is what became of it.
    pub(crate) fn settle(self, shared: Shared) {
        self.end(Step::Done(Arc::new(shared)));
    }

    /// It cannot be shared.
    pub(crate) fn part(self) {
        self.end(Step::Alone);
    }

    /// Whether those who wait want to hear what the server says before it answers.
    pub(crate) fn listens(&self) -> bool {
        self.key.listens()
    }

    /// Whether anybody waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.flight.state().waiting > 0
    }

    /// Waits until nobody waits. Somebody may come after that.
    pub(crate) async fn abandoned(&self) {
        loop {
            let mut changed = pin!(self.flight.changed.notified());
            changed.as_mut().enable();
            if !self.is_wanted() {
                return;
            }
            changed.await;
        }
    }

    fn end(mut self, step: Step) {
        self.over = true;
        let mut table = self.flights.table(&self.key);
        Flights::remove(&mut table, &self.key, &self.flight);
        self.flight.state().step = step;
        drop(table);
        self.flight.changed.notify_waiters();
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut table = self.flights.table(&self.key);
        let mut state = self.flight.state();
        state.step = Step::Vacant;
        if state.waiting == 0 {
            Flights::remove(&mut table, &self.key, &self.flight);
        }
        drop(state);
        drop(table);
        self.flight.changed.notify_waiters();
    }
}

/// The part of a call that waits for another.
pub(crate) struct Waiting {
    flights: Arc<Flights>,
    key: FlightKey,
    flight: Arc<Flight>,
}

/// What a waiting call hears.
pub(crate) enum Heard {
    Done(Arc<Shared>),
    /// The leader is gone: this call is the leader now.
    Leads(Lead),
    /// It has to call for itself.
    Alone,
}

impl Waiting {
    /// Waits. Cancel safe.
    pub(crate) async fn next(&self) -> Heard {
        loop {
            let mut changed = pin!(self.flight.changed.notified());
            // From here on nothing is missed.
            changed.as_mut().enable();
            {
                let mut state = self.flight.state();
                match &state.step {
                    Step::Going => {}
                    Step::Done(shared) => return Heard::Done(Arc::clone(shared)),
                    Step::Alone => return Heard::Alone,
                    Step::Vacant => {
                        state.step = Step::Going;
                        drop(state);
                        let (flights, flight) = (Arc::clone(&self.flights), Arc::clone(&self.flight));
                        return Heard::Leads(Lead { flights, key: self.key.clone(), flight, over: false });
                    }
                }
            }
            changed.await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut table = self.flights.table(&self.key);
        let mut state = self.flight.state();
        state.waiting -= 1;
        if state.waiting == 0 && matches!(state.step, Step::Vacant) {
            Flights::remove(&mut table, &self.key, &self.flight);
        }
        let is_last = state.waiting == 0;
        drop(state);
        drop(table);
        if is_last {
            self.flight.changed.notify_waiters();
        }
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::Limits;
    use futures_util::FutureExt;

    fn key(what: &str) -> FlightKey {
        FlightKey { key: Arc::new(Key::plain(what)), progress: false, level: None }
    }

    fn leads(joined: Joined) -> Lead {
        match joined {
            Joined::Leads(lead) => lead,
            Joined::Waits(_) => panic!("it waits"),
        }
    }

    fn waits(joined: Joined) -> Waiting {
        match joined {
            Joined::Waits(waiting) => waiting,
            Joined::Leads(_) => panic!("it leads"),
        }
    }

    fn answered() -> Shared {
        let bytes = bytes::Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}");
        let frame = Frame::parse(bytes, &Limits::default()).expect("a message");
        Shared::Answered { frame, status: None, link: Era::Legacy }
    }

    #[test]
    fn all_who_wait_get_the_one_answer_and_nothing_is_left() {
        let flights = Arc::new(Flights::default());
        let join = || flights.join(key("x"), 0, |_| true);
        let lead = leads(join());
        let waiting = [waits(join()), waits(join())];
        drop(leads(flights.join(key("y"), 0, |_| true)));
        assert!(waiting[0].next().now_or_never().is_none());
        lead.settle(answered());
        for waiting in waiting {
            assert!(matches!(waiting.next().now_or_never(), Some(Heard::Done(_))));
        }
        assert_eq!(flights.len(), 0);
        // Who comes later begins anew.
        leads(join());
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_leader_that_leaves_hands_over_to_one_and_the_last_who_waits_closes_the_door() {
        let flights = Arc::new(Flights::default());
        let join = || flights.join(key("x"), 0, |_| true);
        let lead = leads(join());
        let (one, other, gone) = (waits(join()), waits(join()), waits(join()));
        drop(gone);
        drop(lead);
        let Some(Heard::Leads(lead)) = one.next().now_or_never() else { panic!("nobody leads") };
        drop(one);
        assert!(other.next().now_or_never().is_none(), "one leads, not two");
        // Who comes now waits for the new leader.
        let third = waits(join());
        drop(lead);
        drop(third);
        assert_eq!(flights.len(), 1);
        drop(other);
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_leader_can_tell_that_nobody_waits() {
        let flights = Arc::new(Flights::default());
        let lead = leads(flights.join(key("x"), 0, |_| true));
        let waiting = waits(flights.join(key("x"), 0, |_| true));
        assert!(lead.is_wanted());
        let mut gone = Box::pin(lead.abandoned());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(waiting);
        assert!(gone.as_mut().now_or_never().is_some());
        drop(gone);
        assert!(!lead.is_wanted());
    }

    #[test]
    fn what_cannot_be_shared_is_called_for_alone() {
        let flights = Arc::new(Flights::default());
        let join = || flights.join(key("x"), 0, |_| true);
        let lead = leads(join());
        let waiting = waits(join());
        lead.part();
        assert!(matches!(waiting.next().now_or_never(), Some(Heard::Alone)));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn nobody_waits_for_what_is_outdated_already() {
        let flights = Arc::new(Flights::default());
        let old = leads(flights.join(key("x"), 1, |_| true));
        let waiting = waits(flights.join(key("x"), 1, |since| since >= 1));
        let new = leads(flights.join(key("x"), 2, |since| since >= 2));
        old.settle(answered());
        assert!(matches!(waiting.next().now_or_never(), Some(Heard::Done(_))));
        assert_eq!(flights.len(), 1, "the new one is still under way");
        let waiting = waits(flights.join(key("x"), 2, |since| since >= 2));
        new.settle(answered());
        assert!(matches!(waiting.next().now_or_never(), Some(Heard::Done(_))));
    }
}
