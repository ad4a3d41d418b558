//! Tasks: calls that go on after they were answered, in both forms the protocol has for them.
//!
//! In 2025-11-25 they are part of the core: the client asks for a task with `params.task`, follows it with `tasks/get`,
//! waits for what comes of it with `tasks/result`, on whose stream it is also asked things, and may list and cancel. From
//! 2026-07-28 on they are an extension (SEP-2663): the client says with a request that it can follow a task, the server
//! decides, and `tasks/get` brings everything, questions and outcome included; `tasks/update` brings answers.
//!
//! | client | server | how |
//! |---|---|---|
//! | of one era | the same | forwarded; only ids are changed, wherever they stand ([`shape`]) |
//! | legacy | modern | the request declares the extension; `tasks/result` looks and asks until there is an outcome ([`to_modern`]). A server that answers at once leaves its result with the gateway ([`table`]) |
//! | modern, with the extension | legacy | a tool that only runs as a task is called as one; what the server asks during `tasks/result` becomes `inputRequests` ([`to_legacy`]) |
//! | modern, without it | legacy | the gateway makes the task and waits for it; to the client it is a plain call ([`polled`]) |
//!
//! What clients hold are ids of the gateway's own making ([`handle`]).

mod ask;
mod follow;
mod forgo;
mod handle;
mod listing;
mod object;
mod polled;
mod shape;
mod table;
mod to_legacy;
mod to_modern;

pub(crate) use follow::{follow, followed, listens, needs_extension};
pub(crate) use forgo::{forgo, undeclare};
pub(crate) use listing::list;
pub(crate) use polled::{Behind, begin as begin_polled};
pub(crate) use shape::{
    answer as shape_answer, client_answer, notification, progress_within, question, status, unmarked,
};
pub(crate) use table::Table;
pub(crate) use to_legacy::Watches;

use crate::{
    answer,
    body::Body,
    call::Call,
    record,
    resolve::Target,
    response::{json, refuse_call},
    session::Session,
    snapshot::{Endpoint, Upstream},
};
use fairlead_core::{Caller, Clock, Code, Refusal, ports::TaskStore};
use fairlead_upstream::{Link, Peer, Purpose, ServerView, Want};
use fairlead_wire::{Era, Field, Method, Revision, list as json_list, message};
use handle::{Handle, Home};
use http::{Response, StatusCode};
use object::Status;
use std::sync::{Arc, Mutex};
use table::{Bounds, Outcome};

/// The extension's name.
pub(crate) const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// The `_meta` member that names the task a message belongs to, in 2025-11-25.
const RELATED: &str = "io.modelcontextprotocol/related-task";
/// What a legacy client is told of tasks where the gateway makes them of a modern server's.
const CAPABILITY: &str = r#"{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}"#;

/// Everything the gateway knows of tasks.
pub(crate) struct Tasks {
    pub(crate) table: Table,
    pub(crate) watches: Watches,
}

impl Tasks {
    pub(crate) fn new(store: Arc<dyn TaskStore>, clock: Clock) -> Self {
        Self { table: Table::new(store, clock), watches: Watches::default() }
    }

    /// Forgets what is over.
    pub(crate) fn sweep(&self) {
        self.table.sweep();
        self.watches.sweep();
    }
}

/// What a call has to do with tasks. Most calls have nothing, and carry no more than the room for a pointer.
pub(crate) enum Asked {
    /// It may make one.
    Makes {
        /// How long the client wants it to be kept.
        ttl_ms: Option<u64>,
        /// What the call went over last: it may be sent a second time over another link.
        link: Mutex<Option<Arc<Link>>>,
    },
    /// It is about one.
    About {
        /// The id the client has.
        id: Box<str>,
        handle: Handle,
    },
    /// It makes one that its client knows nothing of.
    Polled(polled::Polled),
}

impl Asked {
    /// Notes the link of an exchange.
    pub(crate) fn goes_over(&self, link: &Arc<Link>) {
        match self {
            Self::Makes { link: noted, .. } => {
                *noted.lock().expect("invariant: no panic under this lock") = Some(Arc::clone(link));
            }
            Self::Polled(polled) => polled.goes_over(link),
            Self::About { .. } => {}
        }
    }

    /// Whether the server is asked for a task with `params.task`.
    pub(crate) fn makes(&self) -> bool {
        matches!(self, Self::Makes { .. } | Self::Polled(_))
    }

    /// Asks for the connection that the task was made on.
    pub(crate) fn choose(&self, want: &mut Want) {
        match self {
            Self::About { handle, .. } => handle.choose(want),
            Self::Polled(polled) => polled.choose(want),
            Self::Makes { .. } => {}
        }
    }
}

impl Handle {
    fn choose(&self, want: &mut Want) {
        want.capabilities = self.capabilities;
        want.purpose = Purpose::Link(self.link);
    }
}

/// Whether a call may make a task.
pub(crate) fn concerns(call: &Call, target: &Target) -> bool {
    call.frame.method_class() == Method::ToolsCall
        && match &call.session {
            Some(session) => call.frame.span(Field::Task).is_some() && has_any(session) && !is_filtered(call),
            None => target.needs_task || call.capabilities.has_task_extension(),
        }
}

/// Whether rules concern its answer, which then must come at its end.
fn is_filtered(call: &Call) -> bool {
    call.treatment.as_ref().is_some_and(|treatment| treatment.response.is_some())
}

/// Notes with the call what may come of it.
pub(crate) fn prepare(call: &mut Call, target: &mut Target) {
    let link = Mutex::default();
    let asked = match call.era {
        Era::Legacy => {
            let ttl = call.frame.raw(Field::Task).and_then(|task| json_list::raw_member(task, "ttl"));
            let ttl = ttl.and_then(|ttl| ttl.parse::<f64>().ok()).filter(|ttl| ttl.is_finite());
            // A number of milliseconds is small enough to be cut.
            Asked::Makes { ttl_ms: ttl.map(|ttl| ttl.max(0.0) as u64), link }
        }
        Era::Modern if target.needs_task => {
            let ttl_ms = Bounds::of(&call.endpoint.config.tasks).ttl_ms;
            if let (Some(params), None) = (call.frame.span(Field::Params), call.frame.span(Field::Task)) {
                target.edits.insert_first(params, "task", &format!("{{\"ttl\":{ttl_ms}}}"));
            }
            if call.capabilities.has_task_extension() {
                Asked::Makes { ttl_ms: Some(ttl_ms), link }
            } else {
                Asked::Polled(polled::Polled::default())
            }
        }
        Era::Modern => Asked::Makes { ttl_ms: None, link },
    };
    call.task = Some(Box::new(asked));
}

/// Whether a client has core tasks: in its revision, and in a session that is its own. One that never says which
/// session is its own cannot be told from others, and has none.
pub(crate) fn has_any(session: &Session) -> bool {
    knows_tasks(session.revision) && !session.is_fleeting()
}

/// Whether clients of a revision have core tasks.
pub(crate) fn knows_tasks(revision: Revision) -> bool {
    revision == Revision::V2025_11_25
}

/// Whether this server can make tasks out of calls, in its own era's way.
pub(crate) fn has_tasks(peer: &Peer) -> bool {
    let member = |object: &str, key: &str| json_list::raw_member(object, key).map(str::to_owned);
    match peer.revision.era() {
        Era::Modern => member(&peer.capabilities, "extensions").is_some_and(|all| member(&all, EXTENSION).is_some()),
        Era::Legacy => ["tasks", "requests", "tools", "call"]
            .iter()
            .try_fold(peer.capabilities.to_string(), |object, key| member(&object, key))
            .is_some(),
    }
}

/// Whether legacy clients are served by a modern server that makes tasks.
pub(crate) fn crosses(view: &ServerView) -> bool {
    view.era_for(Era::Legacy) == Some(Era::Modern) && view.peer_for(Era::Legacy).is_some_and(|peer| has_tasks(peer))
}

/// What a client of an endpoint is told of tasks in `capabilities.tasks`, or under the extension's name.
pub(crate) fn capability(endpoint: &Endpoint, era: Era) -> Option<&'static str> {
    let some =
        endpoint.servers.iter().any(|server| server.handle.peek().peer_for(era).is_some_and(|peer| has_tasks(peer)));
    some.then_some(match era {
        Era::Legacy => CAPABILITY,
        Era::Modern => "{}",
    })
}

/// Whether an endpoint may have tasks to list: while a server is not known yet, it may be one that has.
pub(crate) fn may_list(endpoint: &Endpoint) -> bool {
    capability(endpoint, Era::Legacy).is_some()
        || endpoint.servers.iter().any(|server| server.handle.peek().peer_for(Era::Legacy).is_none())
}

/// The call ends with a question, and another one goes on with it: the task behind it goes along.
pub(crate) fn hand_over(call: &Call) -> Option<Behind> {
    match call.task.as_deref() {
        Some(Asked::Polled(polled)) => polled.take(),
        _ => None,
    }
}

/// The call goes on with what another one began.
pub(crate) fn take_up(call: &mut Call, behind: Behind) {
    call.task = Some(Box::new(Asked::Polled(polled::Polled::of(behind))));
}

/// Whose tasks a call is about.
fn owner(call: &Call) -> Option<String> {
    owner_of(&call.caller, &call.endpoint.path, call.session.as_deref())
}

/// Callers that cannot be told apart are told apart by their sessions; those without one own nothing.
fn owner_of(caller: &Caller, path: &str, session: Option<&Session>) -> Option<String> {
    let session = if *caller == Caller::anonymous() {
        let id = &session.filter(|session| !session.is_fleeting())?.id;
        id.get(id.len().saturating_sub(22)..)?
    } else {
        ""
    };
    Some(format!("{}\n{path}\n{session}", caller.key().as_str()))
}

/// Answers a request about one task.
pub(crate) async fn answer(mut call: Box<Call>) -> Response<Body> {
    if call.era == Era::Modern && !call.capabilities.has_task_extension() {
        return needs_extension(&call, call.frame.method());
    }
    let (id, handle) = match Handle::of_request(&call) {
        Ok(found) => found,
        Err(refusal) => return refused(&call, &refusal),
    };
    let known = call.endpoint.servers.iter().find(|server| server.handle.name().as_str() == &*handle.server);
    let Some(upstream) = known.cloned() else { return refused(&call, &handle::unknown()) };
    let method = call.frame.method_class();
    match (call.era, handle.home) {
        (Era::Legacy, Home::Gateway) => kept(&call, &id).await,
        (Era::Modern, Home::Gateway) => refused(&call, &handle::unknown()),
        (Era::Legacy, Home::Server(Era::Modern)) if method == Method::TasksResult => {
            to_modern::result(call, upstream, id, handle).await
        }
        (Era::Legacy, Home::Server(Era::Modern)) if method == Method::TasksCancel => {
            to_modern::cancel(&call, &upstream, &id, &handle).await
        }
        (Era::Modern, Home::Server(Era::Legacy)) => to_legacy::answer(&call, &upstream, &id, &handle).await,
        _ => {
            if let Some(entry) = call.gateway.0.task_state.table.get(&id).filter(|entry| entry.cancelled)
                && method == Method::TasksGet
            {
                // To a client of 2025-11-25 what it cancelled is over, whatever becomes of it.
                return answer::own(&call, &entry.view);
            }
            let target = about(&call, &upstream, &handle);
            call.task = Some(Box::new(Asked::About { id, handle }));
            answer::respond(call, target).await
        }
    }
}

/// The client's own request with the server's id.
fn about(call: &Call, upstream: &Upstream, handle: &Handle) -> Target {
    let mut target = Target::plain(upstream);
    target.name = Some(handle.own.clone());
    if let Some(span) = call.frame.span(Field::TaskId) {
        target.edits.replace(span, message::quote(&handle.own));
    }
    target
}

fn refused(call: &Call, refusal: &Refusal) -> Response<Body> {
    call.gateway.metrics().refused(refusal.code);
    refuse_call(call.era, Some(call.id()), refusal)
}

/// A task that was over before it began: its server had answered at once.
async fn kept(call: &Call, id: &str) -> Response<Body> {
    let table = &call.gateway.0.task_state.table;
    if table.get(id).is_none() {
        let Some(owner) = owner(call) else { return refused(call, &handle::unknown()) };
        table.recall(&owner, Bounds::of(&call.endpoint.config.tasks)).await;
    }
    let Some(entry) = table.get(id) else { return refused(call, &handle::unknown()) };
    match call.frame.method_class() {
        Method::TasksGet => answer::own(call, &entry.view),
        Method::TasksCancel => refused(call, &already(Status::of(&entry.view))),
        _ => match entry.outcome {
            Some(Outcome::Result(raw)) => {
                record::own(call);
                let raw = String::from_utf8_lossy(&raw);
                json(StatusCode::OK, message::result(call.id(), &shape::with_related(&raw, id)))
            }
            _ => refused(
                call,
                &Refusal::new(Code::UnknownTask, "the task's result was not kept: the gateway was restarted"),
            ),
        },
    }
}

/// Says that a task is over and cannot be cancelled.
fn already(status: Status) -> Refusal {
    Refusal::new(Code::BadParams, format!("the task cannot be cancelled: it is already {}", status.word()))
}
