//! `tasks/result` and `tasks/cancel` of a legacy client for a task of a modern server, which has neither in that form.
//!
//! A result is waited for by looking at the task as often as the server asks for, and what the task wants to know
//! meanwhile is asked on the stream of the request, as 2025-11-25 has it. A client that gives up waiting ends
//! nothing: it may come back. One that cancels is told at once that the task is cancelled, because to its revision a
//! cancelled task stays so; the server decides for itself when it stops.

use crate::{
    answer::driven,
    body::Body,
    bridge::Bridge,
    call::Call,
    record,
    resolve::Target,
    response::{call_refusal_bytes, json, stream},
    session, shape,
    snapshot::Upstream,
    tasks::{
        RELATED, already,
        ask::{Said, ask, parse},
        handle::Handle,
        object::{self, Status},
        refused, shape as task_shape,
    },
    voice::Voice,
};
use bytes::Bytes;
use fairlead_core::{Code, Refusal, UpstreamError};
use fairlead_observe::CallStatus;
use fairlead_upstream::Final;
use fairlead_wire::{Era, Frame, Kind, Method, Span, edit::Edits, list, message};
use http::{Response, StatusCode};
use std::{collections::HashSet, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Events that wait for a client that reads slowly.
const STREAM_QUEUE: usize = 32;
/// Questions of one task that are asked during one request.
const MAX_ANSWERED: usize = 1_000;

/// Answers `tasks/result`.
pub(super) async fn result(call: Box<Call>, upstream: Upstream, id: Box<str>, handle: Handle) -> Response<Body> {
    let target = Target::plain(&upstream);
    let waiting = Waiting { call, target, upstream, id, handle };
    match waiting.look().await {
        Seen::Over(bytes) => json(StatusCode::OK, bytes),
        Seen::Going(task) => {
            let (out, receiver) = mpsc::channel(STREAM_QUEUE);
            let telling = async move { waiting.tell(Voice::new(out), task).await };
            stream(Body::stream(driven(telling, receiver)))
        }
    }
}

/// A request that waits for what comes of a task.
struct Waiting {
    call: Box<Call>,
    target: Target,
    upstream: Upstream,
    id: Box<str>,
    handle: Handle,
}

/// What a look at a task showed.
enum Seen {
    /// The answer for the client.
    Over(Bytes),
    /// The raw task.
    Going(String),
}

impl Waiting {
    /// Until when the task is waited for.
    fn deadline(&self) -> Instant {
        self.call.started + self.call.endpoint.config.tasks.ttl
    }

    async fn look(&self) -> Seen {
        match ask(&self.call, &self.upstream, &self.handle, Method::TasksGet, "").await {
            Ok(said) => self.read(said),
            Err(error) => Seen::Over(self.failed(&error)),
        }
    }

    fn read(&self, said: Said) -> Seen {
        let Some(task) = said.result() else { return Seen::Over(self.shaped(said.frame)) };
        self.call.gateway.0.task_state.table.saw(&self.id, &object::legacy(task, &self.id));
        match Status::of(task) {
            Status::Working | Status::InputRequired => Seen::Going(task.to_owned()),
            Status::Completed => {
                let result = list::raw_member(task, "result").unwrap_or("{}");
                let whole = message::result("0", &task_shape::with_related(result, &self.id));
                Seen::Over(parse(whole).map_or_else(|| self.garbage(), |frame| self.shaped(frame)))
            }
            Status::Failed => {
                record::call(&self.call, &self.target, CallStatus::RpcError);
                let error = list::raw_member(task, "error").unwrap_or(r#"{"code":-32603,"message":"the task failed"}"#);
                Seen::Over(format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{error}}}", self.call.id()).into())
            }
            Status::Cancelled => {
                record::call(&self.call, &self.target, CallStatus::Cancelled);
                Seen::Over(message::error(Some(self.call.id()), -32603, "the task was cancelled", None))
            }
        }
    }

    /// A response of the server's, as one to this request.
    fn shaped(&self, frame: Frame) -> Bytes {
        record::call(&self.call, &self.target, record::status_of(&frame));
        let answer = Final { frame, status: None };
        let config = self.upstream.handle.config();
        shape::ordinary(&self.call, config, &answer, Era::Modern, Edits::new()).1
    }

    fn failed(&self, error: &UpstreamError) -> Bytes {
        record::failure(&self.call, &self.target, error);
        self.refusal(&error.to_refusal(self.upstream.handle.name().as_str()))
    }

    fn garbage(&self) -> Bytes {
        let text = format!("server `{}`: the result of its task is not usable", self.upstream.handle.name());
        self.refusal(&Refusal::new(Code::ServerGarbage, text))
    }

    fn refusal(&self, refusal: &Refusal) -> Bytes {
        self.call.gateway.metrics().refused(refusal.code);
        call_refusal_bytes(Era::Legacy, Some(self.call.id()), refusal)
    }

    async fn tell(self, voice: Voice, task: String) {
        let mut bridge = Bridge::default();
        let ended = {
            let cancelled = session::cancelled(self.call.control.clone());
            tokio::select! {
                bytes = self.follow(&voice, &mut bridge, task) => bytes,
                () = cancelled => {
                    record::call(&self.call, &self.target, CallStatus::Cancelled);
                    None
                }
            }
        };
        bridge.withdraw(&voice, "nobody waits for the task's result any more").await;
        if let Some(bytes) = ended {
            let _ = voice.say(&bytes).await;
        }
    }

    /// Looks and asks until there is an outcome; `None` when the client went away.
    async fn follow(&self, voice: &Voice, bridge: &mut Bridge, mut task: String) -> Option<Bytes> {
        let config = &self.call.endpoint.config;
        let deadline = self.deadline();
        let mut answered = HashSet::new();
        let mut quiet = Instant::now() + config.listen.keep_alive;
        loop {
            if Status::of(&task) == Status::InputRequired
                && let Some(questions) = self.new_questions(&task, &mut answered)
            {
                if let Err(refusal) = self.put(voice, bridge, &questions).await {
                    return Some(self.refusal(&refusal));
                }
                quiet = Instant::now() + config.listen.keep_alive;
            }
            let again = Instant::now() + Duration::from_millis(object::poll_ms(&task));
            while Instant::now() < again {
                tokio::time::sleep_until(again.min(quiet)).await;
                if Instant::now() >= quiet {
                    voice.keep_alive().await.ok()?;
                    quiet = Instant::now() + config.listen.keep_alive;
                }
            }
            if Instant::now() >= deadline {
                let text = "the task is not over yet; ask for its result again";
                return Some(self.refusal(&Refusal::new(Code::ServerTimeout, text)));
            }
            match self.look().await {
                Seen::Over(bytes) => return Some(bytes),
                Seen::Going(next) => task = next,
            }
        }
    }

    /// The questions that were not answered yet, as an `inputRequests` object that names the task in each.
    fn new_questions(&self, task: &str, answered: &mut HashSet<String>) -> Option<String> {
        let questions = list::raw_member(task, "inputRequests")?;
        let mut new = Vec::new();
        for (key, raw) in list::entries(questions).ok()? {
            if answered.len() >= MAX_ANSWERED || !answered.insert(key.to_string()) {
                continue;
            }
            new.push(format!("{}:{}", message::quote(&key), with_related_params(raw, &self.id)));
        }
        (!new.is_empty()).then(|| format!("{{{}}}", new.join(",")))
    }

    /// Asks the client, and brings its answers to the server.
    async fn put(&self, voice: &Voice, bridge: &mut Bridge, questions: &str) -> Result<(), Refusal> {
        // The request may be as old as the task; the time to answer begins with the question.
        let until = (Instant::now() + self.upstream.handle.config().timeout.call).min(self.deadline());
        let responses = bridge.put(&self.call, &self.target, voice, questions, until).await?;
        let more = format!(",\"inputResponses\":{}", without_related(&responses));
        match ask(&self.call, &self.upstream, &self.handle, Method::TasksUpdate, &more).await {
            Ok(said) if said.frame.kind() == Kind::Error => {
                let text =
                    format!("server `{}`: it does not take the answers to its questions", self.upstream.handle.name());
                Err(Refusal::new(Code::ServerGarbage, text))
            }
            Ok(_) => Ok(()),
            Err(error) => {
                record::failure(&self.call, &self.target, &error);
                Err(error.to_refusal(self.upstream.handle.name().as_str()))
            }
        }
    }
}

/// A question (`{"method", "params"}`) whose parameters say which task it belongs to.
fn with_related_params(question: &str, id: &str) -> String {
    let params = list::member_span(question, "params");
    match params {
        Some(span) if question[span.range()].starts_with('{') => {
            let (before, after) = (&question[..span.range().start], &question[span.range().end..]);
            format!("{before}{}{after}", task_shape::with_related(&question[span.range()], id))
        }
        _ => {
            let whole = Span { start: 0, end: u32::try_from(question.len()).unwrap_or(u32::MAX) };
            let mut edits = Edits::new();
            edits.insert_first(whole, "params", &task_shape::with_related("{}", id));
            String::from_utf8_lossy(&edits.apply(&Bytes::copy_from_slice(question.as_bytes()))).into_owned()
        }
    }
}

/// Answers without the mark of the task, which is the client's id for it and nothing to a server.
fn without_related(responses: &str) -> String {
    let members: Vec<_> = list::entries(responses)
        .unwrap_or_default()
        .into_iter()
        .map(|(key, raw)| format!("{}:{}", message::quote(&key), strip(raw)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// An object without the mark of a task in its `_meta`.
pub(super) fn strip(object: &str) -> String {
    let Some(span) = list::member_span(object, "_meta").filter(|_| object.contains(RELATED)) else {
        return object.to_owned();
    };
    let (before, after) = (&object[..span.range().start], &object[span.range().end..]);
    format!("{before}{}{after}", crate::capabilities::without(&object[span.range()], RELATED))
}

/// Answers `tasks/cancel`.
pub(super) async fn cancel(call: &Call, upstream: &Upstream, id: &str, handle: &Handle) -> Response<Body> {
    let table = &call.gateway.0.task_state.table;
    if table.get(id).is_some_and(|entry| entry.cancelled) {
        return refused(call, &already(Status::Cancelled));
    }
    let seen = ask(call, upstream, handle, Method::TasksGet, "").await;
    let target = Target::plain(upstream);
    let failed = |error: &UpstreamError| {
        record::failure(call, &target, error);
        refused(call, &error.to_refusal(upstream.handle.name().as_str()))
    };
    let said = match seen {
        Ok(said) => said,
        Err(error) => return failed(&error),
    };
    let passed_on = |frame: Frame| {
        record::call(call, &target, CallStatus::RpcError);
        let answer = Final { frame, status: None };
        json(StatusCode::OK, shape::ordinary(call, upstream.handle.config(), &answer, Era::Modern, Edits::new()).1)
    };
    let Some(task) = said.result() else { return passed_on(said.frame) };
    let view = object::legacy(task, id);
    let status = Status::of(task);
    if status.is_final() {
        table.saw(id, &view);
        return refused(call, &already(status));
    }
    match ask(call, upstream, handle, Method::TasksCancel, "").await {
        Ok(said) if said.frame.kind() == Kind::Error => passed_on(said.frame),
        Ok(_) => {
            record::call(call, &target, CallStatus::Ok);
            json(StatusCode::OK, message::result(call.id(), &table.cancelled(id, &view)))
        }
        Err(error) => failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_name_their_task_and_answers_do_not() {
        let related = r#""_meta":{"io.modelcontextprotocol/related-task":{"taskId":"w"}}"#;
        for (question, expected) in [
            (r#"{"method":"m","params":{"a":1.10}}"#, format!(r#"{{"method":"m","params":{{{related},"a":1.10}}}}"#)),
            (r#"{"method":"roots/list"}"#, format!(r#"{{"params":{{{related}}},"method":"roots/list"}}"#)),
        ] {
            assert_eq!(with_related_params(question, "w"), expected);
        }
        let answers = format!(r#"{{"a":{{"x":1E2,{related}}},"b":{{"y":[]}}}}"#);
        assert_eq!(without_related(&answers), r#"{"a":{"x":1E2,"_meta":{}},"b":{"y":[]}}"#);
    }
}
