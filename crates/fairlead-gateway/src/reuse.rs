//! reuse: between resolve and dispatch, what need not be asked of the server again.
//!
//! A call with the same key (`reuse/key.rs`) as one that was answered gets that answer while it is fresh, an old one while
//! one caller's call fetches a new one, and an old one instead of a failure where the configuration says so. Calls with
//! the same key that are under way together are one call of the server (`reuse/flight.rs`). What is kept is the
//! server's own answer; every client gets it in the words of its own revision, with its own id.
//!
//! Never kept: questions (`input_required`), tasks, answers to calls that were asked something, failures of the gateway or
//! the transport, and errors unless a rule has a `negative` time. A client that asks for progress is answered from what is
//! kept like any other - there is nothing to report - and shares a call under way only with clients that ask too; when
//! the server then does report, everybody calls for himself.
//!
//! A call for which nothing is configured passes by two comparisons.

mod batch;
mod flight;
mod key;
mod ledger;
mod plan;
mod refresh;
mod store;

pub(crate) use flight::Waiting;
pub(crate) use ledger::Outdated;
pub(crate) use plan::{Plan, find};
pub use store::Counts as CacheCounts;
pub(crate) use store::Store;

use crate::{
    answer,
    body::Body,
    call::Call,
    dispatch::{self, Begun},
    gateway::Gateway,
    park, record,
    resolve::Target,
    response::stream,
    voice::Voice,
};
use fairlead_config::Invalidates;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_observe::{CallStatus, ReuseOutcome};
use fairlead_upstream::Final;
use fairlead_wire::{Era, Field, Frame, Kind, Method};
use flight::{FlightKey, Heard, Joined, Lead, Shared};
use http::Response;
use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use store::{Age, Kept};
use tokio::time::{Instant, timeout_at};

/// What became of a call here: what `_meta` and metrics tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The server was called.
    Miss,
    /// It was answered from what is kept, which is this old.
    Hit(Duration),
    /// The same, although its time is over.
    Stale(Duration),
    /// It was answered with another call's answer.
    Coalesced,
}

impl State {
    /// How old an answer that was kept is.
    pub(crate) fn age(self) -> Option<Duration> {
        match self {
            Self::Hit(age) | Self::Stale(age) => Some(age),
            Self::Miss | Self::Coalesced => None,
        }
    }
}

/// A call's part in all this.
pub(crate) struct Part {
    plan: Box<Plan>,
    /// Set at most once; until then the server is being called.
    state: OnceLock<State>,
    /// While others wait for it.
    lead: Mutex<Option<Lead>>,
    /// Its client was asked something: the answer is nobody else's.
    asked: AtomicBool,
}

impl Part {
    fn new(plan: Box<Plan>) -> Box<Self> {
        Box::new(Self { plan, state: OnceLock::new(), lead: Mutex::default(), asked: AtomicBool::new(false) })
    }

    /// What became of the call.
    pub(crate) fn state(&self) -> State {
        self.state.get().copied().unwrap_or(State::Miss)
    }

    fn became(&self, state: State) {
        let _ = self.state.set(state);
    }

    fn take_lead(&self) -> Option<Lead> {
        self.lead.lock().expect("invariant: no panic under this lock").take()
    }

    fn lead(&self, lead: Lead) {
        *self.lead.lock().expect("invariant: no panic under this lock") = Some(lead);
    }
}

/// Answers a call that has a plan.
pub(crate) async fn answer(mut call: Box<Call>, target: Target, plan: Box<Plan>) -> Response<Body> {
    let store = Arc::clone(&call.gateway.0.reuse);
    let part = Part::new(plan);
    if let Some(kept) = look(&store, &call, &part.plan) {
        return give(call, &target, part, kept);
    }
    if part.plan.coalesces {
        let counts = |since| store.ledger.counts(&part.plan.subject, since);
        match store.flights.join(together(&call, &part.plan), part.plan.since, counts) {
            Joined::Waits(waiting) => {
                call.reuse = Some(part);
                return wait(call, target, waiting).await;
            }
            Joined::Leads(lead) => {
                // It may have been answered since the first look.
                if let Some(kept) = look(&store, &call, &part.plan) {
                    let (answer, link) = kept.0.answer();
                    lead.settle(Shared::answer(&answer, link));
                    return give(call, &target, part, kept);
                }
                match gather(&store, &call, &target, &part.plan, lead) {
                    Ok(waiting) => {
                        call.reuse = Some(part);
                        return wait(call, target, waiting).await;
                    }
                    Err(lead) => part.lead(lead),
                }
            }
        }
    }
    call.reuse = Some(part);
    count(&target, ReuseOutcome::Miss);
    answer::respond(call, target).await
}

/// Has a call be one of a batch, where it can be; the call then waits for its part.
fn gather(store: &Store, call: &Call, target: &Target, plan: &Plan, lead: Lead) -> Result<Waiting, Lead> {
    let Some(batch) = &plan.batch else { return Err(lead) };
    let Some(value) = batch::value(call, target, batch) else { return Err(lead) };
    // As one who waits, before the batch can be over.
    match store.flights.join(together(call, plan), plan.since, |_| true) {
        Joined::Waits(waiting) => {
            batch::join(call, target, plan, batch, value, lead);
            Ok(waiting)
        }
        Joined::Leads(_) => Err(lead),
    }
}

/// What is kept for a call and may be given now.
fn look(store: &Store, call: &Call, plan: &Plan) -> Option<(Arc<Kept>, Age)> {
    if !plan.keeps() {
        return None;
    }
    let (kept, age) = store.get(&plan.key).or_else(|| store.get(plan.shared.as_ref()?))?;
    // What may become a task is not fetched behind its client's back.
    (age == Age::Fresh || (age == Age::Stale && call.task.is_none())).then_some((kept, age))
}

/// By what calls under way are the same for everything they want to hear.
fn together(call: &Call, plan: &Plan) -> FlightKey {
    let level = call.frame.str(Field::MetaLogLevel).map(|level| level.into_owned().into_boxed_str());
    FlightKey { key: Arc::clone(plan.together()), progress: call.progress_token().is_some(), level }
}

fn count(target: &Target, outcome: ReuseOutcome) {
    target.upstream.metrics.reused(outcome);
}

/// Answers with what is kept.
fn give(mut call: Box<Call>, target: &Target, part: Box<Part>, (kept, age): (Arc<Kept>, Age)) -> Response<Body> {
    if age == Age::Stale {
        part.became(State::Stale(kept.age()));
        count(target, ReuseOutcome::Stale);
        refresh::start(&call, target, &part.plan, &kept);
    } else {
        part.became(State::Hit(kept.age()));
        count(target, ReuseOutcome::Hit);
    }
    call.reuse = Some(part);
    let (answer, link) = kept.answer();
    record::call(&call, target, record::status_of(&answer.frame));
    let (status, bytes) = park::answer(&call, target, &answer, link);
    park::whole(status, bytes, &[])
}

/// Waits for another's answer, at first without saying anything.
async fn wait(call: Box<Call>, target: Target, waiting: Waiting) -> Response<Body> {
    let keep_alive = call.endpoint.config.listen.keep_alive;
    let quiet = call.started + keep_alive;
    let control = call.control.clone();
    let begun = {
        let heard = async { timeout_at(quiet.min(deadline(&call, &target)), waiting.next()).await };
        let cancelled = async {
            match &control {
                Some(control) => control.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            heard = heard => heard,
            () = cancelled => {
                record::call(&call, &target, CallStatus::Cancelled);
                return stream(Body::empty());
            }
        }
    };
    match begun {
        Ok(Heard::Done(shared)) => {
            coalesced(&call, &target);
            answer::go_on(call, target, begun_with(&shared), Vec::new()).await
        }
        Ok(heard) => {
            call_oneself(&call, &target, heard);
            answer::respond(call, target).await
        }
        Err(_) if Instant::now() >= deadline(&call, &target) => {
            let late = too_late(&call);
            answer::go_on(call, target, Begun::Failed(late), Vec::new()).await
        }
        Err(_) => answer::go_on(call, target, Begun::Waits(Box::new(waiting)), Vec::new()).await,
    }
}

/// The same on the stream that the client listens to by now. `None` when it has gone.
pub(crate) async fn wait_on(call: &Call, target: &Target, voice: &Voice, waiting: Box<Waiting>) -> Option<Begun> {
    let keep_alive = call.endpoint.config.listen.keep_alive;
    let deadline = deadline(call, target);
    loop {
        match timeout_at((Instant::now() + keep_alive).min(deadline), waiting.next()).await {
            Ok(Heard::Done(shared)) => {
                coalesced(call, target);
                return Some(begun_with(&shared));
            }
            Ok(heard) => {
                call_oneself(call, target, heard);
                return Some(dispatch::begin(call, target, Instant::now() + keep_alive).await);
            }
            Err(_) if Instant::now() >= deadline => return Some(Begun::Failed(too_late(call))),
            Err(_) => voice.keep_alive().await.ok()?,
        }
    }
}

fn deadline(call: &Call, target: &Target) -> Instant {
    call.deadline(target.timeouts().1)
}

fn too_late(call: &Call) -> UpstreamError {
    if let Some(part) = &call.reuse {
        // Whatever came of the other call, this one says nothing of the server.
        part.became(State::Coalesced);
    }
    UpstreamError::new(
        UpstreamErrorKind::Timeout,
        Outcome::Unknown,
        "an identical call was under way, and it was not answered within the call's deadline",
    )
}

fn coalesced(call: &Call, target: &Target) {
    let is_batched = call.reuse.as_ref().is_some_and(|part| part.plan.batch.is_some());
    count(target, if is_batched { ReuseOutcome::Batched } else { ReuseOutcome::Coalesced });
    if let Some(part) = &call.reuse {
        part.became(State::Coalesced);
    }
}

fn call_oneself(call: &Call, target: &Target, heard: Heard) {
    count(target, ReuseOutcome::Miss);
    if let (Heard::Leads(lead), Some(part)) = (heard, &call.reuse) {
        part.lead(lead);
    }
}

fn begun_with(shared: &Shared) -> Begun {
    match shared {
        Shared::Answered { frame, status, link } => {
            Begun::Answered { answer: Final { frame: frame.clone(), status: *status }, link: *link }
        }
        Shared::Failed { kind, outcome, message } => {
            Begun::Failed(UpstreamError::new(*kind, *outcome, message.clone()))
        }
    }
}

/// The server answered: what is to be kept is kept, and whoever waits gets it.
pub(crate) fn settle(call: &Call, answer: &Final, link: Era) {
    let Some(part) = &call.reuse else { return };
    if part.state() != State::Miss {
        return;
    }
    let lead = part.take_lead();
    if part.asked.load(Ordering::Relaxed) || !plan::is_complete(&answer.frame) {
        if let Some(lead) = lead {
            lead.part();
        }
        return;
    }
    // What stood in for the server's answer is nothing to keep.
    if !call.fell_back.load(Ordering::Relaxed) {
        keep(call, &part.plan, answer, link, part.plan.since);
    }
    // Last: who comes now finds it.
    if let Some(lead) = lead {
        lead.settle(Shared::answer(answer, link));
    }
}

fn keep(call: &Call, plan: &Plan, answer: &Final, link: Era, since: u64) {
    let config = &call.endpoint.config.cache;
    if answer.frame.bytes().len() > config.max_answer {
        return;
    }
    if let Some(keep) = plan.keep(&answer.frame, link, config.ttl) {
        call.gateway.0.reuse.put(keep.key, plan.subject.clone(), answer, link, keep.times, since);
    }
}

/// The server failed: whoever waits hears of it. What is kept may be given instead.
pub(crate) fn failed(call: &Call, target: &Target, error: &UpstreamError) -> Option<(Final, Era)> {
    let part = call.reuse.as_ref()?;
    if let Some(lead) = part.take_lead() {
        // A caller that was in a hurry has failed alone: dropped, the lead goes to whoever waits.
        if error.kind != UpstreamErrorKind::NoTime && call.until.is_none_or(|until| Instant::now() < until) {
            lead.settle(Shared::failure(error));
        }
    }
    stale(call, target)
}

/// What is kept for a call that cannot be had from its server, where the configuration lets it be given for so long.
pub(crate) fn stale(call: &Call, target: &Target) -> Option<(Final, Era)> {
    let part = call.reuse.as_ref()?;
    let plan = &part.plan;
    if !plan.keeps() {
        return None;
    }
    let store = &call.gateway.0.reuse;
    let (kept, _) = store.get(&plan.key).or_else(|| store.get(plan.shared.as_ref()?))?;
    count(target, ReuseOutcome::StaleOnError);
    part.became(State::Stale(kept.age()));
    Some(kept.answer())
}

/// Whether the call is answered with what is kept, or with what another brought.
pub(crate) fn is_given(call: &Call) -> bool {
    call.reuse.as_ref().is_some_and(|part| part.state() != State::Miss)
}

/// The gateway does not make the call: whoever waits finds out for himself.
pub(crate) fn refused(call: &Call) {
    if let Some(lead) = call.reuse.as_ref().and_then(|part| part.take_lead()) {
        lead.part();
    }
}

/// The server says something before it answers.
pub(crate) fn heard(call: &Call, frame: &Frame) {
    let Some(part) = &call.reuse else { return };
    if frame.kind() == Kind::Request {
        return asked(call);
    }
    let mut lead = part.lead.lock().expect("invariant: no panic under this lock");
    let is_for_all = lead.as_ref().is_some_and(Lead::listens);
    if is_for_all && let Some(lead) = lead.take() {
        lead.part();
    }
}

/// The server asks the client something: the answer is this client's alone.
pub(crate) fn asked(call: &Call) {
    let Some(part) = &call.reuse else { return };
    part.asked.store(true, Ordering::Relaxed);
    if let Some(lead) = part.take_lead() {
        lead.part();
    }
}

/// A call ended, whatever became of it: what the configuration says it makes outdated is.
pub(crate) fn ended(call: &Call, target: &Target) {
    if let Some(writes) = target.rule.as_ref().and_then(|rule| rule.invalidates.as_ref()) {
        outdate(&call.gateway.0.reuse, target.upstream.handle.name().as_str(), writes);
    }
}

/// What a call that was sent makes outdated, should nobody hear how it ended.
#[derive(Clone)]
pub(crate) struct Outdates {
    server: Arc<str>,
    writes: Arc<Invalidates>,
}

impl Outdates {
    /// Nobody hears any more how the call ends.
    pub(crate) fn apply(&self, gateway: &Gateway) {
        outdate(&gateway.0.reuse, &self.server, &self.writes);
    }
}

/// The call is sent to a server.
pub(crate) fn sent(call: &Call, target: &Target) {
    if let Some(writes) = target.rule.as_ref().and_then(|rule| rule.invalidates.as_ref()) {
        let server = target.upstream.handle.name().as_str().into();
        let _ = call.outdates.set(Outdates { server, writes: Arc::clone(writes) });
    }
}

fn outdate(store: &Store, server: &str, writes: &Invalidates) {
    for tool in &writes.tools {
        store.ledger.outdate(Outdated::Pattern(server, Method::ToolsCall, tool));
    }
    for uri in &writes.resources {
        store.ledger.outdate(Outdated::Pattern(server, Method::ResourcesRead, uri));
    }
    for tag in &writes.tags {
        store.ledger.outdate(Outdated::Tag(tag));
    }
}

/// How much less time than the server said an answer that was kept is good for its client.
pub(crate) fn left_of(call: &Call, ttl: &str) -> Option<String> {
    let age = call.reuse.as_ref()?.state().age()?;
    let ttl: f64 = ttl.parse().ok()?;
    let left = ttl - age.as_millis() as f64;
    Some(if left > 0.0 { format!("{left:.0}") } else { "0".to_owned() })
}
