//! What servers say of tasks, as this client gets it: with its own ids, and across eras in its own words.

use crate::{
    call::Call,
    capabilities,
    gateway::Gateway,
    session::Session,
    shape,
    tasks::{
        Asked, RELATED,
        ask::parse,
        handle::{Handle, Home},
        object, owner,
        table::{Bounds, Entry, Outcome},
    },
};
use bytes::Bytes;
use fairlead_core::{Code, Refusal};
use fairlead_upstream::{Final, Link, ServerHandle};
use fairlead_wire::{CapabilitySet, Era, Field, Frame, Kind, Method, Span, edit::Edits, list, message};
use http::StatusCode;
use std::{sync::Arc, time::Duration};

/// The answer of a call that has to do with tasks.
pub(crate) fn answer(
    asked: &Asked,
    call: &Call,
    server: &fairlead_config::Server,
    answer: &Final,
    link: Era,
) -> (StatusCode, Bytes) {
    let frame = &answer.frame;
    let ordinary = |edits: Edits| shape::ordinary(call, server, answer, link, edits);
    if let Asked::Polled(polled) = asked {
        polled.done();
    }
    let (Kind::Result, Some(result)) = (frame.kind(), frame.raw(Field::Result)) else {
        return ordinary(Edits::new());
    };
    match asked {
        Asked::Makes { ttl_ms, link: over } => {
            let over = over.lock().expect("invariant: no panic under this lock").clone();
            made(call, server, answer, link, result, *ttl_ms, over.as_ref()).unwrap_or_else(|| ordinary(Edits::new()))
        }
        Asked::About { id, .. } if call.era == link => {
            let mut edits = Edits::new();
            name_task(frame, result, id, &mut edits);
            if link == Era::Legacy && call.frame.method_class() != Method::TasksResult {
                call.gateway.0.task_state.table.saw(id, &with_id(result, id));
            }
            ordinary(edits)
        }
        Asked::About { id, .. } if call.era == Era::Legacy => {
            let view = object::legacy(result, id);
            call.gateway.0.task_state.table.saw(id, &view);
            (StatusCode::OK, message::result(call.id(), &view))
        }
        Asked::About { .. } => ordinary(Edits::new()),
        Asked::Polled(_) => {
            let mut edits = Edits::new();
            if let (Some(span), Some(meta)) = (frame.span(Field::ResultMeta), frame.raw(Field::ResultMeta))
                && let Some(related) = list::member_span(meta, RELATED)
            {
                edits.remove_at(frame.bytes(), related.within(span));
            }
            ordinary(edits)
        }
    }
}

/// The answer to a call that may have become a task; `None` when nothing about it is special.
fn made(
    call: &Call,
    server: &fairlead_config::Server,
    answer: &Final,
    link: Era,
    result: &str,
    ttl_ms: Option<u64>,
    over: Option<&Arc<Link>>,
) -> Option<(StatusCode, Bytes)> {
    let frame = &answer.frame;
    let kind = frame.str(Field::ResultType);
    let task = match link {
        Era::Legacy => list::raw_member(result, "task").filter(|task| task.starts_with('{')),
        Era::Modern => (kind.as_deref() == Some("task")).then_some(result),
    };
    let bounds = Bounds::of(&call.endpoint.config.tasks);
    let handle = |home, own: &str| Handle {
        home,
        server: server.name.as_str().into(),
        own: own.into(),
        capabilities: over.map_or(CapabilitySet::BARE, |link| link.key().capabilities),
        link: over.map_or(0, |link| link.id()),
    };
    let note = |id: &str, own: &str, view: &str, outcome| {
        if call.era == Era::Legacy
            && let Some(owner) = owner(call)
        {
            let entry = Entry {
                server: server.name.as_str().into(),
                own: own.into(),
                view: view.into(),
                outcome,
                cancelled: false,
                link: over.map(|link| link.id()),
                progress: progress_of(call, frame, link),
            };
            call.gateway.0.task_state.table.note(id, &owner, entry, ttl_ms, bounds);
        }
    };
    let Some(task) = task else {
        let is_whole = matches!(kind.as_deref(), None | Some("complete"));
        if call.era == Era::Legacy && link == Era::Modern && is_whole {
            return finished_at_once(call, server, answer, ttl_ms, bounds, &handle(Home::Gateway, ""), note);
        }
        return None;
    };
    let own = list::string_member(task, "taskId");
    let id = own.as_deref().and_then(|own| handle(Home::Server(link), own).seal(call));
    let (Some(own), Some(id)) = (own, id) else {
        let text = format!("server `{}`: it made a task without a usable id", server.name);
        let refusal = Refusal::new(Code::ServerGarbage, text);
        return Some((StatusCode::OK, crate::response::refusal_bytes(Some(call.id()), &refusal)));
    };
    if let Some(over) = over {
        over.keep_for(&own, Duration::from_millis(ttl_ms.unwrap_or(u64::MAX).min(bounds.ttl_ms)));
    }
    match (call.era, link) {
        (client, link) if client == link => {
            let mut edits = Edits::new();
            match link {
                Era::Modern => name_task(frame, result, &id, &mut edits),
                Era::Legacy => {
                    if let (Some(outer), Some(inner)) =
                        (member(frame, Field::Result, "task"), list::member_span(task, "taskId"))
                    {
                        edits.replace(shifted(inner, outer.start), message::quote(&id));
                    }
                    name_related(frame, Field::ResultMeta, &id, &mut edits);
                }
            }
            note(&id, &own, &with_id(task, &id), None);
            Some(shape::ordinary(call, server, answer, link, edits))
        }
        (Era::Legacy, _) => {
            let view = object::legacy(task, &id);
            note(&id, &own, &view, None);
            let meta = frame.raw(Field::ResultMeta).map(|meta| format!(",\"_meta\":{meta}")).unwrap_or_default();
            Some((StatusCode::OK, message::result(call.id(), &format!("{{\"task\":{view}{meta}}}"))))
        }
        (Era::Modern, _) => {
            let members = object::modern(task, &id, object::Status::of(task));
            let result = format!("{{\"resultType\":\"task\",{members}{}}}", meta_of(call, frame));
            Some((StatusCode::OK, message::result(call.id(), &result)))
        }
    }
}

/// By which tokens a task will say how far it is: in 2025-11-25 those of the call that made it stay good.
fn progress_of(call: &Call, answer: &Frame, link: Era) -> Option<(u64, Box<str>)> {
    let token = call.progress_token().filter(|_| link == Era::Legacy)?;
    Some((answer.id()?.parse().ok()?, token.into()))
}

/// `_meta` of a modern answer: the server's, else the gateway's own. With its comma.
pub(super) fn meta_of(call: &Call, frame: &Frame) -> String {
    match frame.raw(Field::ResultMeta) {
        Some(meta) => format!(",\"_meta\":{}", capabilities::without(meta, RELATED)),
        None => {
            let info = capabilities::server_info(&call.endpoint, call.era);
            format!(",\"_meta\":{{\"io.modelcontextprotocol/serverInfo\":{info}}}")
        }
    }
}

/// A modern server answered a call that was to be a task: the gateway keeps the answer, and shows a task that is over.
fn finished_at_once(
    call: &Call,
    server: &fairlead_config::Server,
    answer: &Final,
    ttl_ms: Option<u64>,
    bounds: Bounds,
    handle: &Handle,
    note: impl Fn(&str, &str, &str, Option<Outcome>),
) -> Option<(StatusCode, Bytes)> {
    let (status, bytes) = shape::ordinary(call, server, answer, Era::Modern, Edits::new());
    let shaped = parse(bytes)?;
    let result = shaped.slice(Field::Result)?;
    let id = handle.seal(call)?;
    let now = object::moment(call.gateway.0.task_state.table.now_ms());
    let failed = shaped.raw(Field::ResultIsError) == Some("true");
    let word = if failed { object::Status::Failed } else { object::Status::Completed }.word();
    let ttl = ttl_ms.unwrap_or(u64::MAX).min(bounds.ttl_ms);
    let view = format!(
        "{{\"taskId\":{},\"status\":\"{word}\",\"createdAt\":\"{now}\",\"lastUpdatedAt\":\"{now}\",\"ttl\":{ttl}}}",
        message::quote(&id)
    );
    note(&id, "", &view, Some(Outcome::Result(result)));
    Some((status, message::result(call.id(), &format!("{{\"task\":{view}}}"))))
}

/// Puts the client's id in the place of the server's: in the result, and where the result says what it belongs to.
fn name_task(frame: &Frame, result: &str, id: &str, edits: &mut Edits) {
    if list::string_member(result, "taskId").is_some()
        && let Some(span) = member(frame, Field::Result, "taskId")
    {
        edits.replace(span, message::quote(id));
    }
    name_related(frame, Field::ResultMeta, id, edits);
}

/// Puts the client's id into `_meta["io.modelcontextprotocol/related-task"].taskId`.
fn name_related(frame: &Frame, meta: Field, id: &str, edits: &mut Edits) {
    if let (Some(related), Some(raw)) = (member(frame, meta, RELATED), frame.raw(meta))
        && let Some(inner) = list::raw_member(raw, RELATED).and_then(|related| list::member_span(related, "taskId"))
    {
        edits.replace(shifted(inner, related.start), message::quote(id));
    }
}

/// Where a member of a recorded object is.
fn member(frame: &Frame, object: Field, key: &str) -> Option<Span> {
    let inner = list::member_span(frame.raw(object)?, key)?;
    Some(shifted(inner, frame.span(object)?.start))
}

fn shifted(span: Span, by: u32) -> Span {
    Span { start: span.start + by, end: span.end + by }
}

/// A `Task` object with another id.
pub(super) fn with_id(task: &str, id: &str) -> String {
    match list::member_span(task, "taskId") {
        Some(span) => {
            let (before, after) = (&task[..span.range().start], &task[span.range().end..]);
            format!("{before}{}{after}", message::quote(id))
        }
        None => task.to_owned(),
    }
}

/// A result that says which task it is of, as the answer to `tasks/result` must.
pub(super) fn with_related(result: &str, id: &str) -> String {
    let bytes = Bytes::copy_from_slice(result.as_bytes());
    let related = format!("{{\"taskId\":{}}}", message::quote(id));
    let mut edits = Edits::new();
    let whole = Span { start: 0, end: u32::try_from(result.len()).unwrap_or(u32::MAX) };
    match list::member_span(result, "_meta") {
        Some(meta) => match list::member_span(&result[meta.range()], RELATED) {
            Some(old) => edits.replace(shifted(old, meta.start), related),
            None => edits.insert_first(meta, RELATED, &related),
        },
        None => edits.insert_first(whole, "_meta", &format!("{{\"{RELATED}\":{related}}}")),
    }
    String::from_utf8_lossy(&edits.apply(&bytes)).into_owned()
}

/// A notification about a task that came with a call, or on a listen stream. Only one about a task of this very
/// caller is passed on: a server may say it on any stream of a session that several clients share.
pub(crate) fn notification(call: &Call, server: &str, frame: &Frame) -> Option<Bytes> {
    let own = frame.str(Field::TaskId)?;
    let id: Arc<str> = match call.task.as_deref() {
        Some(Asked::About { id, handle }) if *handle.own == *own => (&**id).into(),
        _ => call.gateway.0.task_state.table.of_owner(server, &own, &owner(call)?)?,
    };
    Some(renamed(frame, &id))
}

fn renamed(frame: &Frame, id: &str) -> Bytes {
    let mut edits = Edits::new();
    if let Some(span) = frame.span(Field::TaskId) {
        edits.replace(span, message::quote(id));
    }
    name_related(frame, Field::Meta, id, &mut edits);
    edits.apply(frame.bytes())
}

/// A server's question or notification during a call, with the client's id of the task it belongs to.
pub(crate) fn question(call: &Call, frame: Frame) -> Frame {
    let Some(Asked::About { id, .. }) = call.task.as_deref() else { return frame };
    if frame.span(Field::MetaRelatedTask).is_none() {
        return frame;
    }
    let mut edits = Edits::new();
    name_related(&frame, Field::Meta, id, &mut edits);
    parse(edits.apply(frame.bytes())).unwrap_or(frame)
}

/// A question without the server's name for the task it belongs to, for a client that knows of none.
pub(crate) fn unmarked(question: &Frame) -> Frame {
    let (Some(span), Some(meta)) = (question.span(Field::Meta), question.raw(Field::Meta)) else {
        return question.clone();
    };
    if question.span(Field::MetaRelatedTask).is_none() {
        return question.clone();
    }
    let mut edits = Edits::new();
    edits.replace(span, capabilities::without(meta, RELATED));
    parse(edits.apply(question.bytes())).unwrap_or_else(|| question.clone())
}

/// A client's answer to a question of a task, with the server's id of the task in it.
pub(crate) fn client_answer(gateway: &Gateway, session: &Session, message: Bytes) -> Bytes {
    if memchr::memmem::find(&message, RELATED.as_bytes()).is_none() {
        return message;
    }
    let Some(frame) = parse(message.clone()) else { return message };
    let related = frame.raw(Field::ResultMeta).and_then(|meta| list::raw_member(meta, RELATED));
    let handle = related
        .and_then(|related| list::string_member(related, "taskId"))
        .and_then(|id| Handle::open(&gateway.0.sealer, &id, session.caller.key().as_str(), &session.path));
    let Some(handle) = handle else { return message };
    let mut edits = Edits::new();
    name_related(&frame, Field::ResultMeta, &handle.own, &mut edits);
    edits.apply(&message)
}

/// How far a task is, said while its result is waited for; `None` when it is of the call itself.
pub(crate) fn progress_within(call: &Call, frame: &Frame) -> Option<Bytes> {
    let Asked::About { id, .. } = call.task.as_deref()? else { return None };
    let (token, wanted) = call.gateway.0.task_state.table.get(id)?.progress?;
    (frame.raw(Field::ParamProgressToken)?.parse() == Ok(token)).then(|| reported(frame, id, &wanted))
}

/// A report of progress with the token and the id that the client has.
fn reported(frame: &Frame, id: &str, token: &str) -> Bytes {
    let mut edits = Edits::new();
    if let Some(span) = frame.span(Field::ParamProgressToken) {
        edits.replace(span, Bytes::copy_from_slice(token.as_bytes()));
    }
    name_related(frame, Field::Meta, id, &mut edits);
    edits.apply(frame.bytes())
}

/// A server says outside any call how far a task is. Told to the sessions whose task it is.
fn progress(gateway: &Gateway, link: u64, frame: &Frame) {
    let token = frame.raw(Field::ParamProgressToken).and_then(|token| token.parse().ok());
    let found = token.and_then(|token| gateway.0.task_state.table.of_token(link, token));
    let Some((id, owned_by, entry)) = found else { return };
    if let Some((_, wanted)) = entry.progress.as_ref().filter(|_| !entry.cancelled) {
        tell(gateway, &owned_by, &reported(frame, &id, wanted));
    }
}

/// Tells something to the sessions of an owner.
fn tell(gateway: &Gateway, owned_by: &str, told: &Bytes) {
    for session in gateway.sessions().listeners() {
        if super::owner_of(&session.caller, &session.path, Some(&session)).as_deref() == Some(owned_by) {
            session.say(told);
        }
    }
}

/// A server says outside any call how a task is, or how far. Told to the sessions whose task it is.
pub(crate) fn status(gateway: &Gateway, handle: &ServerHandle, link: u64, frame: &Frame) {
    if frame.method_class() == Method::Progress {
        return progress(gateway, link, frame);
    }
    let table = &gateway.0.task_state.table;
    let Some(own) = frame.str(Field::TaskId) else { return };
    let Some((id, owned_by)) = table.of_link(handle.name().as_str(), &own, link) else { return };
    let Some(entry) = table.get(&id).filter(|entry| !entry.cancelled) else { return };
    drop(entry);
    let told = renamed(frame, &id);
    if let Some(params) = frame.raw(Field::Params) {
        table.saw(&id, &with_id(params, &id));
    }
    tell(gateway, &owned_by, &told);
}
