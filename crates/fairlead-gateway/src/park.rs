//! park: a client of the revision of 2026-07-28 in front of a server of an earlier one that asks in mid-call.
//!
//! Such a client is never sent a request. So the call is *parked*: the client gets `input_required` with what the
//! server asks and a sealed state, the exchange with the server lives on, and when the client makes its request again
//! with answers and state, the answers go to the server and the call goes on for the new request. Whoever does not
//! come back lets the call expire: the server hears that its questions are cancelled, and the call too.
//!
//! Two things need no parked call, as there is nothing to keep: roots that a server wants to know before it is called,
//! and an error that says which URLs must be opened first. The client is asked, and the call is made (again) with what
//! it brings.

mod asked;
mod state;
mod table;

pub(crate) use table::Parking;

use crate::{
    answer::{self, event},
    body::Body,
    call::Call,
    capabilities,
    dispatch::Begun,
    overload, record,
    resolve::Target,
    response::{call_refusal_bytes, json, modern_status, stream},
    roots, shape, tasks,
    voice::Voice,
};
use asked::{Answers, Counts};
use bytes::Bytes;
use fairlead_config::Park;
use fairlead_core::{Code, Refusal, UpstreamError};
use fairlead_observe::{CallStatus, QuestionOutcome};
use fairlead_upstream::{Exchange, Final, Item, Link, Roots};
use fairlead_wire::{Era, Field, Frame, Kind, Method, list, message};
use http::{Response, StatusCode};
use state::{Bad, State, What};
use std::{sync::Arc, time::Duration};
use table::Parked;
use tokio::time::Instant;

/// How often a client is asked in one call.
const MAX_ROUNDS: u8 = 100;
/// How often it is asked before the call is made: each time the call is made anew.
const MAX_AGAIN: u8 = 16;
/// Messages that come while questions are gathered; further ones are dropped.
const MAX_SAID: usize = 32;
/// URLs that one error may want opened.
const MAX_URLS: usize = 16;
/// The name of the question for roots before the call.
const ROOTS_KEY: &str = "roots-1";
/// "URL elicitation required" of 2025-11-25.
pub(crate) const URL_REQUIRED: i64 = -32042;
const INTERNAL_ERROR: i64 = -32603;
/// "Missing required client capability" of 2026-07-28.
const MISSING_CAPABILITY: i64 = -32021;

/// What a client brought with it when it made its request again.
#[derive(Debug)]
pub(crate) struct Brought {
    /// Its roots.
    pub(crate) roots: Option<Arc<Roots>>,
    /// How often it was asked in this call.
    rounds: u8,
    /// What it was asked so far.
    counts: Counts,
    /// How long its server has worked on it so far, and since when it is asked; `None`: it was not made yet.
    worked: Option<Worked>,
}

/// The time of a call that is asked: what its server takes counts against the call's time, what its client takes
/// against `park.max_age`.
#[derive(Debug, Clone, Copy)]
struct Worked {
    spent: Duration,
    begun: Instant,
}

/// Whether a message of the server is a question that has the call parked.
pub(crate) fn is_question(call: &Call, exchange: &Exchange, frame: &Frame) -> bool {
    call.era == Era::Modern && frame.kind() == Kind::Request && is_legacy(exchange.link())
}

/// Whether a notification of a legacy server means nothing to a modern client: there the questions it is about have
/// neither a life nor an id of their own.
pub(crate) fn is_of_questions(call: &Call, exchange: &Exchange, frame: &Frame) -> bool {
    call.era == Era::Modern
        && matches!(frame.method_class(), Method::ElicitationComplete | Method::Cancelled)
        && is_legacy(exchange.link())
}

fn is_legacy(link: &Link) -> bool {
    link.key().era == Era::Legacy
}

/// Tells a server that a question is not answered.
pub(crate) fn decline(link: &Link, question: &Frame) {
    let text = format!("the caller cannot be asked that ({})", Code::QuestionDeclined.label());
    let id = question.id().unwrap_or("null");
    link.push_soon(message::error(Some(id), Code::QuestionDeclined.info().rpc, &text, None));
}

/// Where a call stands after its server asked.
pub(crate) enum Standing {
    /// This is the answer to the client's request.
    Answered(StatusCode, Bytes),
    /// There is nothing to ask the client.
    GoesOn(Box<Exchange>),
}

/// The server asked: waits for what else it asks, and has the call wait for the answers. What it says meanwhile goes
/// to `voice`.
pub(crate) async fn ask(
    call: &Call,
    target: &Target,
    exchange: Box<Exchange>,
    question: Frame,
    voice: Option<&Voice>,
    said: &mut Vec<Bytes>,
) -> Standing {
    let (rounds, counts, worked) = match &call.brought {
        Some(brought) => (brought.rounds, brought.counts, brought.worked),
        None => (0, Counts::default(), None),
    };
    let worked = worked.unwrap_or_else(|| Worked { spent: Duration::ZERO, begun: Instant::now() });
    let mut parked = Parked::new(exchange, Arc::clone(&target.upstream.metrics), rounds, counts, worked);
    take(call, &mut parked, &question);
    gather(call, target, parked, voice, said).await
}

/// Whether this request may be answered with questions: three may.
fn can_ask(call: &Call) -> bool {
    matches!(call.frame.method_class(), Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead)
}

fn take(call: &Call, parked: &mut Parked, question: &Frame) {
    let question = &tasks::unmarked(question);
    let may_ask = can_ask(call) && parked.rounds < MAX_ROUNDS;
    if !may_ask || !parked.asked.take(call.capabilities, question) {
        parked.metrics.question(QuestionOutcome::Declined);
        tracing::info!(
            server = parked.link.server_name(),
            method = question.method(),
            "declined a question of the server: its caller cannot be asked that"
        );
        decline(&parked.link, question);
    }
}

/// Takes one message of the server.
async fn hear(
    call: &Call,
    target: &Target,
    parked: &mut Parked,
    frame: &Frame,
    voice: Option<&Voice>,
    said: &mut Vec<Bytes>,
) {
    match (frame.kind(), frame.method_class()) {
        (Kind::Request, _) => take(call, parked, frame),
        (_, Method::Cancelled) => {
            if let Some(id) = frame.raw(Field::ParamRequestId) {
                parked.asked.withdraw(id);
            }
        }
        (_, Method::ElicitationComplete) => {}
        _ => {
            let Some(message) = shape::notification(call, target.upstream.handle.config(), frame) else { return };
            match voice {
                Some(voice) => {
                    let _ = voice.say(&message).await;
                }
                None if said.len() < MAX_SAID => said.push(message),
                None => {}
            }
        }
    }
}

async fn gather(
    call: &Call,
    target: &Target,
    mut parked: Box<Parked>,
    voice: Option<&Voice>,
    said: &mut Vec<Bytes>,
) -> Standing {
    let until = Instant::now() + config(call).gather;
    while !parked.asked.is_empty() {
        let Some(exchange) = parked.exchange() else { break };
        match exchange.next_before(until).await {
            Ok(None) => break,
            Ok(Some(Item::Message(frame))) => hear(call, target, &mut parked, &frame, voice, said).await,
            Ok(Some(Item::Final(answer))) => {
                // It did not wait for an answer.
                parked.ended();
                return finished(call, target, &answer);
            }
            Err(error) => {
                parked.ended();
                return failed(call, target, &error);
            }
        }
    }
    if parked.asked.is_empty() {
        return match parked.release() {
            Some(exchange) => Standing::GoesOn(exchange),
            None => refused(call, target, &lost()),
        };
    }
    let ttl = config(call).ttl;
    park(call, target, parked, Instant::now() + ttl)
}

/// Leaves the call to wait, and asks the client.
fn park(call: &Call, target: &Target, mut parked: Box<Parked>, until: Instant) -> Standing {
    let config = config(call);
    parked.rounds = parked.rounds.saturating_add(1);
    parked.worked.spent += call.started.elapsed();
    let until = until.min(parked.worked.begun + config.max_age);
    parked.until = until;
    let rounds = parked.rounds;
    let requests = parked.asked.requests();
    if let Some(exchange) = parked.exchange() {
        exchange.occupy(call.user);
    }
    // Whoever has the exchange answers for the task behind it.
    parked.task = tasks::hand_over(call);
    match call.gateway.0.parking.park(&call.gateway.0, config, parked) {
        Ok(place) => {
            let instance = call.gateway.0.parking.instance;
            let what = What::Parked { instance, call: place.call, round: place.round };
            record::call(call, target, CallStatus::Ok);
            let ttl = until.saturating_duration_since(Instant::now());
            let state = state::seal(call, target, State { what, rounds }, ttl);
            Standing::Answered(StatusCode::OK, input_required(call, &requests, &state))
        }
        Err(mut parked) => {
            parked.asked.give_up(&parked.link, &parked.metrics, QuestionOutcome::Declined);
            refused(
                call,
                target,
                &Refusal::new(
                    Code::TooManyParked,
                    "the server asks something, and as many calls wait for an answer as may; the call was cancelled",
                ),
            )
        }
    }
}

fn config(call: &Call) -> &Park {
    &call.endpoint.config.park
}

/// An answer that asks the client.
fn input_required(call: &Call, requests: &str, state: &str) -> Bytes {
    let info = capabilities::server_info(&call.endpoint, call.era);
    let result = format!(
        "{{\"resultType\":\"input_required\",\"inputRequests\":{requests},\"requestState\":{},\
         \"_meta\":{{\"io.modelcontextprotocol/serverInfo\":{info}}}}}",
        message::quote(state)
    );
    message::result(call.id(), &result)
}

fn finished(call: &Call, target: &Target, answer: &Final) -> Standing {
    record::call(call, target, record::status_of(&answer.frame));
    let (status, bytes) = self::answer(call, target, answer, Era::Legacy);
    Standing::Answered(status, bytes)
}

fn failed(call: &Call, target: &Target, error: &UpstreamError) -> Standing {
    record::failure(call, target, error);
    let refusal = error.to_refusal(target.upstream.handle.name().as_str());
    Standing::Answered(status(&refusal), call_refusal_bytes(call.era, Some(call.id()), &refusal))
}

fn refused(call: &Call, target: &Target, refusal: &Refusal) -> Standing {
    let (status, bytes) = refusing(call, target, refusal);
    Standing::Answered(status, bytes)
}

fn refusing(call: &Call, target: &Target, refusal: &Refusal) -> (StatusCode, Bytes) {
    record::call(call, target, CallStatus::Refused(refusal.code));
    call.gateway.metrics().refused(refusal.code);
    (status(refusal), call_refusal_bytes(call.era, Some(call.id()), refusal))
}

fn status(refusal: &Refusal) -> StatusCode {
    modern_status(refusal.code.info().rpc)
}

/// A whole answer, after what was said before it.
pub(crate) fn whole(status: StatusCode, bytes: Bytes, said: &[Bytes]) -> Response<Body> {
    if said.is_empty() {
        return json(status, bytes);
    }
    let events: Vec<_> = said.iter().chain([&bytes]).map(|message| event(message)).collect();
    stream(Body::whole(events.concat()))
}

/// Whether the state in a request is for the gateway and not for the server. A modern server's state is its own, even
/// if it begins like ours; and it is for a modern server, should that one have changed.
pub(crate) fn is_retry(call: &Call, target: &mut Target) -> bool {
    if call.era != Era::Modern || call.frame.span(Field::RequestState).is_none() {
        return false;
    }
    let text = call.frame.str(Field::RequestState).unwrap_or_default();
    let is_ours = match target.upstream.handle.peek().era_for(call.era) {
        Some(Era::Modern) => state::is_ours(&text) && state::open(call, target, &text) != Err(Bad::Foreign),
        Some(Era::Legacy) => true,
        None => state::is_ours(&text),
    };
    if !is_ours {
        target.era = Some(Era::Modern);
    }
    is_ours
}

/// The client made its request again, with answers.
pub(crate) async fn retry(mut call: Box<Call>, target: Target) -> Response<Body> {
    // A second handle on the bytes: the answers are read from them while the call changes.
    let frame = call.frame.clone();
    let state = match state::open(&call, &target, &frame.str(Field::RequestState).unwrap_or_default()) {
        Ok(state) => state,
        Err(Bad::Foreign) => return refuse(&call, &target, &bad("`requestState` was not issued for this request")),
        Err(Bad::Expired) => {
            return refuse(&call, &target, &bad("`requestState` has expired; make the request without it"));
        }
    };
    let Some(answers) = Answers::read(frame.raw(Field::InputResponses)) else {
        let refusal = Refusal::new(Code::BadParams, "`params.inputResponses` must be an object of objects");
        return refuse(&call, &target, &refusal);
    };
    match state.what {
        What::Again => {
            if answers.refuse() {
                return declined(&call, &target, "a URL to be opened first, and that was declined");
            }
            let roots = answers.get(ROOTS_KEY).map(|result| roots::roots(Bytes::copy_from_slice(result.as_bytes())));
            let counts = Counts::default();
            call.brought = Some(Box::new(Brought { roots, rounds: state.rounds, counts, worked: None }));
            answer::respond(call, target).await
        }
        What::Parked { instance, .. } if instance != call.gateway.0.parking.instance => refuse(&call, &target, &lost()),
        What::Parked { .. } if let Err(refusal) = overload::enter_server(&call, &target).await => {
            refuse(&call, &target, &refusal)
        }
        What::Parked { call: id, round, .. } => match call.gateway.0.parking.claim(id, round).await {
            Some(parked) => resume(call, target, parked, &answers).await,
            None => refuse(&call, &target, &bad("what `requestState` stands for was answered already, or given up")),
        },
    }
}

/// Goes on with a call that waited.
async fn resume(mut call: Box<Call>, target: Target, mut parked: Box<Parked>, answers: &Answers<'_>) -> Response<Body> {
    let link = Arc::clone(&parked.link);
    let metrics = Arc::clone(&parked.metrics);
    let timeout = target.timeouts().1;
    let worked = parked.worked;
    let counts = parked.asked.counts();
    call.brought = Some(Box::new(Brought { roots: None, rounds: parked.rounds, counts, worked: Some(worked) }));
    if let Some(behind) = parked.task.take() {
        tasks::take_up(&mut call, behind);
    }
    let mut said = Vec::new();
    // What the server merely says (it reports, it logs) gives nobody more time.
    let mut is_new = parked.heard.iter().any(|frame| frame.kind() == Kind::Request);
    if let Some(exchange) = parked.exchange() {
        exchange.put_off(Instant::now() + timeout.saturating_sub(worked.spent));
        is_new |= parked.asked.answer(&link, call.worker, answers, &metrics).await;
    }
    for frame in std::mem::take(&mut parked.heard) {
        hear(&call, &target, &mut parked, &frame, None, &mut said).await;
    }
    let standing = match parked.end.take() {
        Some(Ok(answer)) => finished(&call, &target, &answer),
        Some(Err(error)) => failed(&call, &target, &error),
        None if parked.asked.is_empty() => return listen(call, target, parked, said).await,
        // Dropped, the call is given up.
        None if parked.rounds >= MAX_ROUNDS => refused(&call, &target, &too_often()),
        None if worked.begun.elapsed() >= config(&call).max_age => refused(&call, &target, &too_long()),
        None if is_new => gather(&call, &target, parked, None, &mut said).await,
        // The same questions, and no longer than before.
        None => {
            let until = parked.until;
            park(&call, &target, parked, until)
        }
    };
    match standing {
        Standing::Answered(status, bytes) => whole(status, bytes, &said),
        Standing::GoesOn(exchange) => answer::go_on(call, target, Begun::Quiet { exchange }, said).await,
    }
}

/// As at the beginning of a call, but the exchange is there already.
async fn listen(call: Box<Call>, target: Target, mut parked: Box<Parked>, said: Vec<Bytes>) -> Response<Body> {
    let quiet = Instant::now() + call.endpoint.config.listen.keep_alive;
    let heard = match parked.exchange() {
        Some(exchange) => exchange.next_before(quiet).await,
        None => Ok(None),
    };
    let begun = match (heard, parked.release()) {
        (Ok(Some(Item::Final(answer))), _) => Begun::Answered { answer, link: Era::Legacy },
        (Ok(Some(Item::Message(frame))), Some(exchange)) => Begun::Spoke { exchange, frame },
        (Ok(None), Some(exchange)) => Begun::Quiet { exchange },
        (Err(error), _) => Begun::Failed(error),
        (Ok(_), None) => return refuse(&call, &target, &lost()),
    };
    answer::go_on(call, target, begun, said).await
}

/// The server wants to know the client's roots before it is called: the client is asked.
pub(crate) fn needs_roots(call: &Call, target: &Target) -> Response<Body> {
    let requests = format!("{{\"{ROOTS_KEY}\":{}}}", asked::request(Method::RootsList.as_str(), None));
    match asks_again(call, target, &requests) {
        Some(bytes) => {
            record::call(call, target, CallStatus::Ok);
            json(StatusCode::OK, bytes)
        }
        None => declined(call, target, "the client's roots, which did not come"),
    }
}

/// The answer of a server as this client gets it. The error of 2025-11-25 that says which URLs must be opened first is
/// a question in the revision of 2026-07-28.
pub(crate) fn answer(call: &Call, target: &Target, answer: &Final, link: Era) -> (StatusCode, Bytes) {
    if call.era == Era::Modern && link == Era::Legacy && answer.frame.error_code() == Some(URL_REQUIRED) {
        let filtered = shape::filtered(call, answer);
        return urls(call, target, &filtered.as_ref().unwrap_or(answer).frame);
    }
    if call.era == Era::Legacy && link == Era::Legacy && answer.frame.kind() == Kind::Error {
        let server = target.upstream.handle.name().as_str();
        call.gateway.0.completions.answered(server, call.user, &answer.frame);
    }
    shape::answer(call, target.upstream.handle.config(), answer, link)
}

fn urls(call: &Call, target: &Target, error: &Frame) -> (StatusCode, Bytes) {
    let data = error.raw(Field::ErrorData).unwrap_or("{}");
    let text = error.str(Field::ErrorMessage).unwrap_or_default();
    if !call.capabilities.has_url_elicitation() {
        let data = "{\"requiredCapabilities\":{\"elicitation\":{\"url\":{}}}}";
        let bytes = message::error(Some(call.id()), MISSING_CAPABILITY, &text, Some(data));
        return (modern_status(MISSING_CAPABILITY), bytes);
    }
    let mut requests = Vec::new();
    for url in list::items(data, "elicitations").unwrap_or_default().into_iter().take(MAX_URLS) {
        let request = asked::request(Method::ElicitationCreate.as_str(), Some(url));
        requests.push(format!("\"elicitation-{}\":{request}", requests.len() + 1));
    }
    if call.brought.as_ref().is_some_and(|brought| brought.roots.is_some()) {
        // They are not kept anywhere.
        requests.push(format!("\"{ROOTS_KEY}\":{}", asked::request(Method::RootsList.as_str(), None)));
    }
    let asked = (can_ask(call) && !requests.is_empty())
        .then(|| asks_again(call, target, &format!("{{{}}}", requests.join(","))))
        .flatten();
    match asked {
        Some(bytes) => (StatusCode::OK, bytes),
        None => (StatusCode::OK, message::error(Some(call.id()), INTERNAL_ERROR, &text, None)),
    }
}

/// Asks the client without a call that waits. `None` when it was asked too often.
fn asks_again(call: &Call, target: &Target, requests: &str) -> Option<Bytes> {
    let rounds = call.brought.as_ref().map_or(0, |brought| brought.rounds).saturating_add(1);
    if rounds > MAX_AGAIN {
        return None;
    }
    let state = state::seal(call, target, State { what: What::Again, rounds }, config(call).ttl);
    Some(input_required(call, requests, &state))
}

fn bad(text: &'static str) -> Refusal {
    Refusal::new(Code::BadRequestState, text)
}

fn too_often() -> Refusal {
    Refusal::new(Code::QuestionDeclined, "the client was asked often enough in one call, and left something unanswered")
}

fn too_long() -> Refusal {
    let text = "the client was asked for as long as one call may be (`park.max_age`), and left something unanswered";
    Refusal::new(Code::QuestionDeclined, text)
}

fn lost() -> Refusal {
    Refusal::new(Code::ParkedCallLost, "the call that waited for the answer is gone; whether it took effect is unknown")
}

fn refuse(call: &Call, target: &Target, refusal: &Refusal) -> Response<Body> {
    let (status, bytes) = refusing(call, target, refusal);
    json(status, bytes)
}

/// Over HTTP 200: the status that goes with the code would say that there is no such method.
fn declined(call: &Call, target: &Target, what: &str) -> Response<Body> {
    let text = format!("server `{}` needs {what}", target.upstream.handle.name());
    let refusal = Refusal::new(Code::QuestionDeclined, text);
    record::call(call, target, CallStatus::Refused(refusal.code));
    json(StatusCode::OK, call_refusal_bytes(call.era, Some(call.id()), &refusal))
}
