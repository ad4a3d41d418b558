//! bridge: a client of a session in front of a server of 2026-07-28.
//!
//! The client's call is one exchange that stays open until its answer, and in between it can be asked things with
//! requests of their own. The server's is a row of exchanges, each complete in itself: one that lacks something ends with
//! `input_required`, and the next repeats the request with the answers. So each such end becomes a *round*: what is asked
//! for is put to the client on the stream of its call, all at once and under ids of the gateway's; what it answers goes
//! into the same request under a new id, with the server's `requestState` byte for byte.
//!
//! What is asked is never guessed and never waters down what the client said that it can do: a question the client did
//! not declare ends the call with an error (FL-1306), and so does an answer that is an error, except that a failed
//! elicitation counts as a cancelled one, which is the same thing to a person. How often a call may be repeated and how
//! long it may take are bounded; while a person thinks only the call's deadline counts.
//!
//! Parameters of questions and answers are passed on as they are written: they are spliced, not built anew.

mod older;
mod question;
mod request;

pub(crate) use request::{add_meta, list_anew};

use crate::{
    call::Call,
    dispatch::{self, Begun},
    questions::{Asked, Questions},
    resolve::Target,
    voice::Voice,
};
use bytes::Bytes;
use fairlead_core::{Code, Refusal};
use fairlead_observe::QuestionOutcome;
use fairlead_wire::{Era, Field, Frame, FrameError, Kind, Limits, Method, edit::Edits, header, list, message};
use question::{Question, Source};
use std::fmt::Write;
use tokio::{sync::oneshot, time::Instant};

/// Questions of one round at most.
const MAX_ASKED: usize = 100;
/// Longest list of capabilities that is named to a client, in characters.
const MAX_NAMED: usize = 100;

/// Whether the answer is a modern server's demand for what only the client can say.
pub(crate) fn wants_input(call: &Call, frame: &Frame, link: Era) -> bool {
    link == Era::Modern
        && call.era == Era::Legacy
        && matches!(call.frame.method_class(), Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead)
        && frame.str(Field::ResultType).is_some_and(|kind| kind == "input_required")
}

/// What a legacy client is told in place of an answer that only makes sense within the modern era.
pub(crate) fn refused(server: &str, frame: &Frame) -> Option<Refusal> {
    let garbage = |what: &str| Some(Refusal::new(Code::ServerGarbage, format!("server `{server}`: {what}")));
    match frame.error_code() {
        Some(header::MISSING_CAPABILITY) => {
            let missing = frame
                .raw(Field::ErrorData)
                .and_then(|data| list::raw_member(data, "requiredCapabilities"))
                .map_or_else(|| "one it does not name".to_owned(), named_capabilities);
            tracing::info!(server, missing, "a server needs a capability that the client did not declare");
            let text = format!("server `{server}` needs a capability that the client did not declare: {missing}");
            Some(Refusal::new(Code::QuestionDeclined, text))
        }
        Some(header::HEADER_MISMATCH) => garbage("it does not accept the headers that its own list of tools asks for"),
        Some(header::UNSUPPORTED_VERSION) => garbage("it no longer speaks the revision it was found with"),
        _ => None,
    }
}

/// The members of a capabilities object, as people write them: `elicitation.url, sampling`.
fn named_capabilities(required: &str) -> String {
    let mut named = String::new();
    for (capability, parts) in list::entries(required).unwrap_or_default() {
        let parts = list::entries(parts).unwrap_or_default();
        let comma = if named.is_empty() { "" } else { ", " };
        match parts.first() {
            Some((part, _)) => _ = write!(named, "{comma}{capability}.{part}"),
            None => _ = write!(named, "{comma}{capability}"),
        }
    }
    named.chars().take(MAX_NAMED).collect()
}

/// What a call carries over its rounds.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    rounds: usize,
    /// Questions the client has not answered yet.
    open: Vec<Asked>,
    /// Ids of URL elicitations that the gateway made up, because the client's revision needs one.
    minted: Vec<String>,
    /// The furthest progress the client was told.
    progress: Option<f64>,
}

impl Bridge {
    /// Puts what the server wants to the client, and repeats the call with what it says.
    pub(crate) async fn round(
        &mut self,
        call: &Call,
        target: &Target,
        voice: &Voice,
        answer: &Frame,
    ) -> Result<Begun, Refusal> {
        let server = target.upstream.handle.name().as_str();
        let outcome = self.ask(call, target, voice, answer).await;
        self.withdraw(voice, "the call has ended").await;
        let again = outcome.inspect_err(|refusal| {
            call.gateway.metrics().refused(refusal.code);
            let (method, name) = (call.frame.method(), target.name.as_deref());
            tracing::warn!(
                server,
                method,
                name,
                code = refusal.code.label(),
                "a call ends without what its server asked for: {}",
                refusal.message
            );
        })?;
        let keep_alive = call.endpoint.config.listen.keep_alive;
        Ok(dispatch::begin(call, &again, Instant::now() + keep_alive).await)
    }

    /// One round: from the server's demand to the request that meets it.
    async fn ask(&mut self, call: &Call, target: &Target, voice: &Voice, answer: &Frame) -> Result<Target, Refusal> {
        let server = target.upstream.handle.name().as_str();
        self.rounds += 1;
        let max = call.endpoint.config.bridge.max_rounds;
        if self.rounds > max {
            let text = format!("server `{server}` asked {max} times and did not finish the call");
            return Err(Refusal::new(Code::TooManyRounds, text));
        }
        let demand = Demand::read(answer).ok_or_else(|| {
            Refusal::new(Code::ServerGarbage, format!("server `{server}`: it asks for something without saying what"))
        })?;
        let responses = match demand.questions {
            None => None,
            Some(questions) => {
                let until = call.started + target.timeouts().1;
                Some(self.put(call, target, voice, questions, until).await?)
            }
        };
        Ok(request::with_answers(call, target, responses.as_deref(), demand.state))
    }

    /// Asks the questions of a round all at once, and waits until `until`; returns the answers as the `inputResponses`
    /// object.
    pub(crate) async fn put(
        &mut self,
        call: &Call,
        target: &Target,
        voice: &Voice,
        questions: &str,
        until: Instant,
    ) -> Result<String, Refusal> {
        let server = target.upstream.handle.name().as_str();
        let declined = |text: String| Refusal::new(Code::QuestionDeclined, text);
        let entries = list::entries(questions).map_err(|_| {
            Refusal::new(Code::ServerGarbage, format!("server `{server}`: its questions are not an object"))
        })?;
        if entries.len() > MAX_ASKED {
            return Err(declined(format!("server `{server}` asks more than {MAX_ASKED} things at once")));
        }
        let asks = Source { server, call };
        let prepared = entries
            .iter()
            .map(|(key, raw)| Question::read(&asks, key, raw))
            .collect::<Result<Vec<_>, _>>()
            .inspect_err(|_| target.upstream.metrics.question(QuestionOutcome::Declined))?;
        let changes = call.session.as_ref().map_or(0, |session| session.roots_changes());
        let mut waiting = Vec::with_capacity(prepared.len());
        for question in &prepared {
            if let Some(known) = question.known_answer(call) {
                waiting.push(Waiting::Known(known));
                continue;
            }
            let (asked, text, answer) =
                Questions::ask_own(&call.gateway, call.user, question.method.as_str(), question.params.as_deref())
                    .ok_or_else(|| declined("there are as many open questions as there may be".to_owned()))?;
            self.open.push(asked);
            if let Some(minted) = &question.minted {
                self.minted.push(minted.clone());
            }
            if voice.say(&text).await.is_err() {
                return Err(declined("the client went away before it was asked".to_owned()));
            }
            waiting.push(Waiting::Asked(answer));
        }
        let answers =
            futures_util::future::try_join_all(prepared.iter().zip(waiting).map(async |(question, waiting)| {
                match waiting {
                    Waiting::Known(answer) => Ok(answer),
                    Waiting::Asked(answer) => {
                        let answer = answer.await.ok();
                        let outcome =
                            if answer.is_some() { QuestionOutcome::Answered } else { QuestionOutcome::TimedOut };
                        target.upstream.metrics.question(outcome);
                        let answer = question.answer(server, answer.as_ref())?;
                        question.keep(call, &answer, changes);
                        Ok(answer)
                    }
                }
            }));
        let answers = patiently(call, target, voice, until, answers).await?;
        let mut responses = String::from("{");
        for (question, answer) in prepared.iter().zip(&answers) {
            let comma = if responses.len() > 1 { "," } else { "" };
            let answer = std::str::from_utf8(answer).unwrap_or("null");
            _ = write!(responses, "{comma}{}:{answer}", message::quote(question.key));
        }
        responses.push('}');
        Ok(responses)
    }

    /// Takes back what the client was asked and has not answered.
    pub(crate) async fn withdraw(&mut self, voice: &Voice, reason: &str) {
        for asked in self.open.drain(..).filter(Asked::is_open) {
            let params = format!("{{\"requestId\":{},\"reason\":{}}}", asked.id(), message::quote(reason));
            let _ = voice.say(&message::notification("notifications/cancelled", Some(&params))).await;
        }
    }

    /// A notification of the call, as the client's one exchange needs it; `None` when it is to be dropped.
    pub(crate) fn notification(&mut self, call: &Call, frame: Frame) -> Option<Frame> {
        match frame.method_class() {
            Method::Progress => {
                let reported = frame.raw(Field::Params).and_then(|params| list::raw_member(params, "progress"));
                let reported = reported.and_then(|number| number.parse::<f64>().ok());
                // Each round counts anew, and to the client it is one request whose progress only rises.
                if self.rounds > 0 && self.progress.zip(reported).is_some_and(|(before, now)| now <= before) {
                    return None;
                }
                self.progress = reported.or(self.progress);
                Some(frame)
            }
            Method::ElicitationComplete => {
                if !call.capabilities.has_url_elicitation() {
                    return None;
                }
                let known = frame.raw(Field::Params).and_then(|params| list::raw_member(params, "elicitationId"));
                match (known, self.minted.as_slice()) {
                    (None, [minted]) => with_elicitation_id(&frame, minted).ok(),
                    _ => Some(frame),
                }
            }
            _ => Some(frame),
        }
    }
}

/// The notification with the id under which the client knows the elicitation.
fn with_elicitation_id(frame: &Frame, id: &str) -> Result<Frame, FrameError> {
    let bytes = match frame.span(Field::Params) {
        Some(params) => {
            let mut edits = Edits::new();
            edits.insert_first(params, "elicitationId", &message::quote(id));
            edits.apply(frame.bytes())
        }
        None => message::notification(frame.method(), Some(&format!("{{\"elicitationId\":{}}}", message::quote(id)))),
    };
    Frame::parse(bytes, &Limits::default())
}

/// Where an answer comes from.
enum Waiting {
    /// The client said it before.
    Known(Bytes),
    /// The client was asked.
    Asked(oneshot::Receiver<Frame>),
}

/// What an `input_required` result says.
struct Demand<'a> {
    /// Raw `inputRequests`.
    questions: Option<&'a str>,
    /// Raw `requestState`, with its quotes.
    state: Option<&'a str>,
}

impl<'a> Demand<'a> {
    fn read(frame: &'a Frame) -> Option<Self> {
        let result = frame.raw(Field::Result).filter(|_| frame.kind() == Kind::Result)?;
        let questions = list::raw_member(result, "inputRequests");
        let state = list::raw_member(result, "requestState");
        let is_whole = questions.or(state).is_some() && state.is_none_or(|state| state.starts_with('"'));
        is_whole.then_some(Self { questions, state })
    }
}

/// Waits for people: the stream is kept alive, and only the deadline counts.
async fn patiently<T>(
    call: &Call,
    target: &Target,
    voice: &Voice,
    until: Instant,
    answers: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let handle = &target.upstream.handle;
    let keep_alive = call.endpoint.config.listen.keep_alive;
    let mut answers = std::pin::pin!(answers);
    loop {
        tokio::select! {
            answers = &mut answers => return answers,
            () = tokio::time::sleep_until(until) => {
                target.upstream.metrics.question(QuestionOutcome::TimedOut);
                return Err(Refusal::new(
                    Code::QuestionDeclined,
                    format!("what server `{}` asked was not answered within the time of the call", handle.name()),
                ));
            }
            () = tokio::time::sleep(keep_alive) => {
                if voice.keep_alive().await.is_err() {
                    return Err(Refusal::new(Code::QuestionDeclined, "the client went away before it answered"));
                }
            }
        }
    }
}
