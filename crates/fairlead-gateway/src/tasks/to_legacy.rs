//! A modern client in front of a task of a legacy server.
//!
//! The extension's `tasks/get` brings everything at once, so it is put together from the server's `tasks/get`, its
//! `tasks/result` where there is an outcome, and the questions it asks. Those it only asks on the stream of a
//! `tasks/result`: so when a task wants input the gateway keeps such a request open, a *watch*, for as long as the task
//! lives. What is asked there is shown as `inputRequests`, and `tasks/update` answers it over the same link.

use crate::{
    answer,
    body::Body,
    call::Call,
    dispatch, record,
    resolve::Target,
    response::{json, modern_status},
    shape as answers,
    snapshot::Upstream,
    tasks::{
        ask::{Said, ask, request},
        handle::Handle,
        object::{self, Status},
        refused,
        shape::{meta_of, with_related},
        table::Bounds,
    },
};
use fairlead_core::{Code, Refusal, UpstreamError};
use fairlead_observe::CallStatus;
use fairlead_upstream::{Exchange, Final, Item, Link, Outbound, Purpose};
use fairlead_wire::{Era, Field, Frame, Kind, Method, edit::Edits, list, message};
use http::{Response, StatusCode};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// Tasks that are watched at the same time.
const MAX_WATCHES: usize = 1_000;
/// Questions of one task that wait for answers.
const MAX_OPEN: usize = 100;
/// Bytes of such questions, all tasks together.
const MAX_BYTES: usize = 16 << 20;
/// How long a `tasks/get` waits for the first question of a task that wants input.
const FIRST_QUESTION: Duration = Duration::from_secs(1);
/// How long a `tasks/get` waits for the outcome of a task that is over.
const OUTCOME: Duration = Duration::from_secs(10);
/// How long the outcome that a watch brought is kept after it came.
const KEPT: Duration = Duration::from_secs(60);

type Open = HashMap<Box<str>, (Arc<Watch>, AbortHandle)>;

/// Tasks whose questions the gateway listens to, by the clients' ids.
#[derive(Default)]
pub(crate) struct Watches {
    open: Mutex<Open>,
    running: Mutex<JoinSet<()>>,
    /// Bytes of the questions that wait.
    bytes: Arc<AtomicUsize>,
}

/// One open `tasks/result` and what came on it.
struct Watch {
    state: Mutex<State>,
    changed: Notify,
    /// Bytes of the questions of all watches.
    bytes: Arc<AtomicUsize>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Ok(state) = self.state.get_mut() {
            let left = state.questions.iter().map(|question| question.request.len()).sum();
            self.bytes.fetch_sub(left, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    questions: Vec<Question>,
    asked: u64,
    /// The response, or `None` inside when there was none.
    ended: Option<(Option<Frame>, Instant)>,
}

/// A question that was not answered yet.
struct Question {
    /// What the client calls it, unique over the task's life.
    key: String,
    /// The server's id of it, raw.
    id: Box<str>,
    /// `{"method", "params"}`.
    request: String,
}

impl Watches {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("invariant: no panic under this lock")
    }

    fn find(&self, id: &str) -> Option<Arc<Watch>> {
        self.open().get(id).map(|(watch, _)| Arc::clone(watch))
    }

    /// Ends watches that have nothing more to say.
    pub(crate) fn sweep(&self) {
        self.open()
            .retain(|_, (watch, _)| watch.state().ended.as_ref().is_none_or(|(_, since)| since.elapsed() < KEPT));
        let mut running = self.running.lock().expect("invariant: no panic under this lock");
        while running.try_join_next().is_some() {}
    }

    /// Ends all of them.
    pub(crate) fn stop(&self) {
        self.running.lock().expect("invariant: no panic under this lock").abort_all();
        self.open().clear();
    }

    fn end(&self, id: &str) {
        if let Some((_, task)) = self.open().remove(id) {
            task.abort();
        }
    }

    fn start(&self, call: &Call, upstream: &Upstream, id: &str, handle: &Handle) -> Option<Arc<Watch>> {
        let mut open = self.open();
        if let Some((watch, _)) = open.get(id) {
            return Some(Arc::clone(watch));
        }
        if open.len() >= MAX_WATCHES {
            tracing::warn!(server = %upstream.handle.name(), "too many tasks want input at once; one is not listened to");
            return None;
        }
        let watch = Arc::new(Watch::new(&self.bytes));
        let target = Target::plain(upstream);
        let life = Duration::from_millis(Bounds::of(&call.endpoint.config.tasks).ttl_ms);
        let mut want = dispatch::want(call, &target, Purpose::Call);
        want.deadline = Instant::now() + upstream.handle.config().timeout.call;
        handle.choose(&mut want);
        let outbound = Outbound {
            frame: request(handle, Method::TasksResult, "")?,
            edits: Edits::new(),
            mcp_name: None,
            headers: Vec::new(),
            deadline: Instant::now() + life,
            is_impatient: false,
            idle: life,
            witness: None,
            injection: None,
        };
        let (server, worker, watching) = (upstream.handle.clone(), call.worker, Arc::clone(&watch));
        let mut running = self.running.lock().expect("invariant: no panic under this lock");
        while running.try_join_next().is_some() {}
        let task = running.spawn(async move {
            let exchange = match server.lease(&want).await {
                Ok(lease) => lease.start(worker, outbound).begun().await.ok(),
                Err(_) => None,
            };
            let outcome = match exchange {
                Some(exchange) => watching.listen(exchange).await,
                None => None,
            };
            watching.state().ended = Some((outcome, Instant::now()));
            watching.changed.notify_waiters();
        });
        open.insert(id.into(), (Arc::clone(&watch), task));
        Some(watch)
    }
}

impl Watch {
    fn new(bytes: &Arc<AtomicUsize>) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), bytes: Arc::clone(bytes) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under this lock")
    }

    async fn listen(&self, mut exchange: Box<Exchange>) -> Option<Frame> {
        self.state().link = Some(Arc::clone(exchange.link()));
        loop {
            match exchange.next().await {
                Ok(Item::Final(answer)) => return Some(answer.frame),
                Ok(Item::Message(frame)) if frame.kind() == Kind::Request => {
                    if !self.asks(&frame) {
                        let id = frame.id().unwrap_or("null");
                        let text = "too many questions of this task are open";
                        exchange.link().push_soon(message::error(Some(id), -32603, text, None));
                    }
                }
                Ok(Item::Message(_)) => {}
                Err(_) => return None,
            }
        }
    }

    fn asks(&self, frame: &Frame) -> bool {
        let mut state = self.state();
        let Some(id) = frame.id().filter(|_| state.questions.len() < MAX_OPEN) else { return false };
        let params = match (frame.raw(Field::Params), frame.raw(Field::Meta)) {
            (Some(params), Some(_)) => format!(",\"params\":{}", without_mark(params)),
            (Some(params), None) => format!(",\"params\":{params}"),
            (None, _) => String::new(),
        };
        let request = format!("{{\"method\":{}{params}}}", message::quote(frame.method()));
        if self.bytes.fetch_add(request.len(), Ordering::Relaxed) + request.len() > MAX_BYTES {
            self.bytes.fetch_sub(request.len(), Ordering::Relaxed);
            return false;
        }
        state.asked += 1;
        let question = Question { key: format!("question_{}", state.asked), id: id.into(), request };
        state.questions.push(question);
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// The open questions as an `inputRequests` object.
    fn questions(&self) -> Option<String> {
        let state = self.state();
        let all: Vec<_> =
            state.questions.iter().map(|question| format!("\"{}\":{}", question.key, question.request)).collect();
        (!all.is_empty()).then(|| format!("{{{}}}", all.join(",")))
    }

    fn outcome(&self) -> Option<Option<Frame>> {
        self.state().ended.as_ref().map(|(frame, _)| frame.clone())
    }

    /// Waits until `what` brings something.
    async fn until<T>(&self, limit: Duration, what: impl Fn(&Self) -> Option<T>) -> Option<T> {
        let waiting = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(found) = what(self) {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.ok()
    }
}

/// Parameters without the server's name for the task.
fn without_mark(params: &str) -> String {
    super::to_modern::strip(params)
}

/// Answers a modern client's request about a legacy server's task.
pub(super) async fn answer(call: &Call, upstream: &Upstream, id: &str, handle: &Handle) -> Response<Body> {
    let about = About { call, upstream, id, handle, target: Target::plain(upstream) };
    let answered = match call.frame.method_class() {
        Method::TasksGet => about.get().await,
        Method::TasksUpdate => about.update().await,
        _ => about.cancel().await,
    };
    answered.unwrap_or_else(|error| {
        record::failure(call, &about.target, &error);
        refused(call, &error.to_refusal(upstream.handle.name().as_str()))
    })
}

/// The members of the task as the extension shows it; or the server's error.
pub(super) async fn members(
    call: &Call,
    upstream: &Upstream,
    id: &str,
    handle: &Handle,
) -> Result<Result<String, Frame>, UpstreamError> {
    let about = About { call, upstream, id, handle, target: Target::plain(upstream) };
    Ok(about.detail().await?.map(|(_, members)| members))
}

struct About<'a> {
    call: &'a Call,
    upstream: &'a Upstream,
    id: &'a str,
    handle: &'a Handle,
    target: Target,
}

impl About<'_> {
    fn watches(&self) -> &Watches {
        &self.call.gateway.0.task_state.watches
    }

    async fn ask(&self, method: Method) -> Result<Said, UpstreamError> {
        ask(self.call, self.upstream, self.handle, method, "").await
    }

    /// A server's error, passed on.
    fn passed_on(&self, frame: Frame) -> Response<Body> {
        record::call(self.call, &self.target, record::status_of(&frame));
        let status = frame.error_code().map_or(StatusCode::OK, modern_status);
        let answer = Final { frame, status: None };
        let config = self.upstream.handle.config();
        json(status, answers::ordinary(self.call, config, &answer, Era::Legacy, Edits::new()).1)
    }

    async fn get(&self) -> Result<Response<Body>, UpstreamError> {
        let (said, members) = match self.detail().await? {
            Ok(detail) => detail,
            Err(frame) => return Ok(self.passed_on(frame)),
        };
        record::call(self.call, &self.target, CallStatus::Ok);
        let result = format!("{{\"resultType\":\"complete\",{members}{}}}", meta_of(self.call, &said));
        Ok(json(StatusCode::OK, message::result(self.call.id(), &result)))
    }

    /// The members of the task as the extension shows it, with the server's own response; or its error.
    async fn detail(&self) -> Result<Result<(Frame, String), Frame>, UpstreamError> {
        let said = self.ask(Method::TasksGet).await?;
        let Some(task) = said.result() else { return Ok(Err(said.frame)) };
        let status = Status::of(task);
        let mut watch = self.watches().find(self.id);
        if status == Status::InputRequired && watch.is_none() {
            watch = self.watches().start(self.call, self.upstream, self.id, self.handle);
            if let Some(watch) = &watch {
                let _ = watch
                    .until(FIRST_QUESTION, |watch| watch.questions().or(watch.outcome().map(|_| String::new())))
                    .await;
            }
        }
        let (status, more) = match status {
            Status::Completed | Status::Failed => match self.outcome(watch.as_deref()).await? {
                Some(outcome) => outcome,
                // It is there, and late. Whoever is told of an end does not ask again.
                None => (Status::Working, String::new()),
            },
            Status::Working | Status::InputRequired => match watch.and_then(|watch| watch.questions()) {
                Some(questions) => (Status::InputRequired, format!(",\"inputRequests\":{questions}")),
                None => (Status::Working, String::new()),
            },
            Status::Cancelled => {
                self.watches().end(self.id);
                (Status::Cancelled, String::new())
            }
        };
        let members = format!("{}{more}", object::modern(task, self.id, status));
        Ok(Ok((said.frame, members)))
    }

    /// What came of a task that is over: its status in the extension's sense, and the member that says it. `None` while
    /// the server does not say.
    async fn outcome(&self, watch: Option<&Watch>) -> Result<Option<(Status, String)>, UpstreamError> {
        let watched = match watch {
            Some(watch) => watch.until(OUTCOME, Watch::outcome).await.flatten(),
            None => None,
        };
        let frame = match watched {
            Some(frame) => frame,
            None => {
                let asking = tokio::time::timeout(OUTCOME, self.ask(Method::TasksResult)).await;
                match asking {
                    Ok(said) => said?.frame,
                    Err(_) => return Ok(None),
                }
            }
        };
        if let Some(error) = frame.raw(Field::Error) {
            return Ok(Some((Status::Failed, format!(",\"error\":{error}"))));
        }
        let Some(result) = frame.raw(Field::Result) else { return Ok(None) };
        let mut result = with_related(result, self.id);
        if list::raw_member(&result, "resultType").is_none() {
            result.replace_range(..1, "{\"resultType\":\"complete\",");
        }
        Ok(Some((Status::Completed, format!(",\"result\":{result}"))))
    }

    async fn update(&self) -> Result<Response<Body>, UpstreamError> {
        let Some(responses) = self.call.frame.raw(Field::InputResponses).filter(|raw| raw.starts_with('{')) else {
            return Ok(refused(self.call, &Refusal::new(Code::BadParams, "`params.inputResponses` must be an object")));
        };
        let Some(watch) = self.watches().find(self.id) else {
            // Nothing was asked as far as the gateway knows; that the task exists is for the server to say.
            let said = self.ask(Method::TasksGet).await?;
            return Ok(if said.result().is_some() { self.acknowledged() } else { self.passed_on(said.frame) });
        };
        for (key, response) in list::entries(responses).unwrap_or_default() {
            let (question, link) = {
                let mut state = watch.state();
                let at = state.questions.iter().position(|question| question.key == key);
                // What was never asked, or is answered already, is ignored.
                let (Some(at), Some(link)) = (at, state.link.clone()) else { continue };
                let question = state.questions.remove(at);
                watch.bytes.fetch_sub(question.request.len(), Ordering::Relaxed);
                (question, link)
            };
            let marked =
                if response.starts_with('{') { with_related(response, &self.handle.own) } else { response.to_owned() };
            link.push(self.call.worker, message::result(&question.id, &marked)).await?;
        }
        Ok(self.acknowledged())
    }

    async fn cancel(&self) -> Result<Response<Body>, UpstreamError> {
        let said = self.ask(Method::TasksCancel).await?;
        if said.result().is_none() {
            // One that is over cannot be cancelled, and that is no error in the extension.
            let task = self.ask(Method::TasksGet).await?;
            if task.result().is_none() {
                return Ok(self.passed_on(said.frame));
            }
        }
        self.watches().end(self.id);
        Ok(self.acknowledged())
    }

    fn acknowledged(&self) -> Response<Body> {
        let info = crate::capabilities::server_info(&self.call.endpoint, Era::Modern);
        let meta = format!("{{\"io.modelcontextprotocol/serverInfo\":{info}}}");
        answer::own(self.call, &format!("{{\"resultType\":\"complete\",\"_meta\":{meta}}}"))
    }
}
