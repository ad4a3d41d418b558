//! shape: what the server said, as this client gets it: its own id and progress token, and across
//! eras the few members that differ between them. Everything else stays as it came.

use crate::{
    bridge,
    call::Call,
    capabilities, correlate, older,
    resolve::same_era,
    response::{LEGACY_RESOURCE_NOT_FOUND, call_refusal_bytes, modern_status},
    response_filter, reuse,
    session::Session,
    tasks,
};
use bytes::Bytes;
use fairlead_config::ResourceUris;
use fairlead_core::{Code, Refusal};
use fairlead_upstream::Final;
use fairlead_wire::{Era, Field, Frame, Kind, Method, Span, edit::Edits, list, message, name};
use http::StatusCode;

/// The invalid-params code, which modern servers use for a resource that is not there.
const INVALID_PARAMS: i64 = -32602;

/// "URL elicitation required" of 2025-11-25, which must not be sent in the modern era.
const LEGACY_URL_REQUIRED: i64 = -32042;
const INTERNAL_ERROR: i64 = -32603;

/// What the operator's rules leave of an answer; `None` where there are none for it.
pub(crate) fn filtered(call: &Call, answer: &Final) -> Option<Final> {
    let filter = call.treatment.as_ref()?.response.as_ref()?;
    response_filter::apply(call, filter, answer)
}

/// The answer of a call.
pub(crate) fn answer(call: &Call, server: &fairlead_config::Server, answer: &Final, link: Era) -> (StatusCode, Bytes) {
    let filtered = filtered(call, answer);
    let answer = filtered.as_ref().unwrap_or(answer);
    match &call.task {
        None => ordinary(call, server, answer, link, Edits::new()),
        Some(asked) => tasks::shape_answer(asked, call, server, answer, link),
    }
}

/// The same for a call that has nothing to do with tasks, or whose edits because of them are made.
pub(crate) fn ordinary(
    call: &Call,
    server: &fairlead_config::Server,
    answer: &Final,
    link: Era,
    mut edits: Edits,
) -> (StatusCode, Bytes) {
    let frame = &answer.frame;
    let status = match call.era {
        Era::Legacy => StatusCode::OK,
        Era::Modern if same_era(call, link) => answer
            .status
            .and_then(|status| StatusCode::from_u16(status).ok())
            .unwrap_or_else(|| frame.error_code().map_or(StatusCode::OK, modern_status)),
        Era::Modern => frame.error_code().map_or(StatusCode::OK, modern_status),
    };
    let Some(id) = frame.id_bytes().and_then(|_| frame.span(Field::Id)) else {
        // An error that the server could not tie to the request, although the stream does.
        let error = frame.raw(Field::Error).unwrap_or("{}");
        let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{error}}}", call.id());
        return (status, text.into());
    };
    if call.era == Era::Legacy
        && link == Era::Modern
        && let Some(refusal) = bridge::refused(server.name.as_str(), frame)
    {
        return (status, call_refusal_bytes(Era::Legacy, Some(call.id()), &refusal));
    }
    if call.era == Era::Legacy
        && link == Era::Modern
        && frame.str(Field::ResultType).is_some_and(|kind| kind != "complete")
    {
        // The call is not done: the server wants something of its client that does not cross eras.
        let refusal = Refusal::new(
            Code::QuestionDeclined,
            format!(
                "server `{}` asks for something that a client of this protocol revision cannot be asked through the gateway",
                server.name
            ),
        );
        return (status, call_refusal_bytes(Era::Legacy, Some(call.id()), &refusal));
    }
    // What the gateway adds to the result's `_meta`: in one piece, as there may be none yet.
    let mut meta = Vec::new();
    if !same_era(call, link) {
        cross(call, frame, &mut edits, &mut meta);
    }
    if call.reuse.is_some()
        && let (Some(span), Some(ttl)) = (frame.span(Field::ResultTtlMs), frame.raw(Field::ResultTtlMs))
        && let Some(left) = reuse::left_of(call, ttl)
    {
        edits.replace(span, left);
    }
    if server.resources == ResourceUris::Prefix && !call.endpoint.is_single() {
        prefix_uris(frame, Field::Result, server.name.as_str(), &mut edits);
    }
    if let Some(info) = &call.info {
        meta.extend(correlate::members(info, call, server.name.as_str()));
    }
    add_meta(frame, &meta, &mut edits);
    let bytes = edits.apply_with(frame.bytes(), id, call.id_bytes());
    match &call.session {
        Some(session) if older::may_need(session.revision, link, frame) => {
            // What comes of a task is what its call would have been answered with.
            let method = match call.frame.method_class() {
                Method::TasksResult => Method::ToolsCall,
                method => method,
            };
            (status, older::answer(session.revision, link, method, bytes))
        }
        _ => (status, bytes),
    }
}

/// Adds members to the `_meta` of a result that is an object.
fn add_meta(frame: &Frame, members: &[(&str, String)], edits: &mut Edits) {
    let is_object = frame.raw(Field::Result).is_some_and(|raw| raw.starts_with('{'));
    let Some(result) = frame.span(Field::Result).filter(|_| is_object && !members.is_empty()) else { return };
    match frame.span(Field::ResultMeta) {
        Some(meta) => members.iter().for_each(|(key, value)| edits.insert_first(meta, key, value)),
        None => {
            let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            edits.insert_first(result, "_meta", &format!("{{{}}}", members.join(",")));
        }
    }
}

/// The members in which answers of the two eras differ.
fn cross(call: &Call, frame: &Frame, edits: &mut Edits, meta: &mut Vec<(&'static str, String)>) {
    let is_read = call.frame.method_class() == Method::ResourcesRead;
    match (frame.kind(), call.era) {
        (Kind::Error, Era::Modern) if frame.error_code() == Some(LEGACY_RESOURCE_NOT_FOUND) => {
            replace_code(frame, INVALID_PARAMS, edits);
        }
        (Kind::Error, Era::Modern) if frame.error_code() == Some(LEGACY_URL_REQUIRED) => {
            replace_code(frame, INTERNAL_ERROR, edits);
        }
        (Kind::Error, Era::Legacy) if is_read && frame.error_code() == Some(INVALID_PARAMS) => {
            replace_code(frame, LEGACY_RESOURCE_NOT_FOUND, edits);
        }
        (Kind::Result, Era::Legacy) => {
            for field in [Field::ResultType, Field::ResultTtlMs, Field::ResultCacheScope] {
                edits.remove_member(frame, field);
            }
        }
        (Kind::Result, Era::Modern) => {
            let Some(result) = frame.span(Field::Result) else { return };
            if frame.span(Field::ResultType).is_none() {
                edits.insert_first(result, "resultType", "\"complete\"");
            }
            if is_read {
                if frame.span(Field::ResultTtlMs).is_none() {
                    edits.insert_first(result, "ttlMs", "0");
                }
                if frame.span(Field::ResultCacheScope).is_none() {
                    edits.insert_first(result, "cacheScope", "\"private\"");
                }
            }
            if frame.span(Field::ResultMeta).is_none() {
                let info = capabilities::server_info(&call.endpoint, call.era);
                meta.push(("io.modelcontextprotocol/serverInfo", info.to_string()));
            }
        }
        _ => {}
    }
}

fn replace_code(frame: &Frame, code: i64, edits: &mut Edits) {
    if let Some(span) = frame.span(Field::ErrorCode) {
        edits.replace(span, code.to_string());
    }
}

/// A notification of the call; `None` when this client is not to get it.
pub(crate) fn notification(call: &Call, server: &fairlead_config::Server, frame: &Frame) -> Option<Bytes> {
    let mut edits = Edits::new();
    match frame.method_class() {
        Method::Progress => {
            if call.task.is_some()
                && let Some(told) = tasks::progress_within(call, frame)
            {
                return Some(told);
            }
            let token = call.progress_token()?;
            edits.replace(frame.span(Field::ParamProgressToken)?, Bytes::copy_from_slice(token.as_bytes()));
        }
        Method::TaskStatus | Method::TaskNotification => {
            return tasks::notification(call, server.name.as_str(), frame);
        }
        Method::LogMessage => {
            let wanted = match &call.session {
                // Until it asks for a level, a server may say what it likes.
                Some(session) => session.log_level().unwrap_or_else(|| LEVELS[0].to_owned()),
                // In the modern era silence is what a request gets that does not ask.
                None => call.frame.str(Field::MetaLogLevel)?.into_owned(),
            };
            if !is_at_least(&frame.str(Field::Level)?, &wanted) {
                return None;
            }
        }
        Method::Cancelled => {
            // Of a modern server it can only mean a subscription; questions are dealt with where they are known.
            if call.frame.method_class() != Method::Listen {
                return None;
            }
            for field in [Field::ParamRequestId, Field::MetaSubscriptionId] {
                if let Some(span) = frame.span(field) {
                    edits.replace(span, Bytes::copy_from_slice(call.id().as_bytes()));
                }
            }
        }
        _ => {
            // On a listen stream every message carries the id of the request it belongs to.
            if let Some(span) = frame.span(Field::MetaSubscriptionId) {
                edits.replace(span, Bytes::copy_from_slice(call.id().as_bytes()));
            }
        }
    }
    if server.resources == ResourceUris::Prefix && !call.endpoint.is_single() {
        prefix_uris(frame, Field::Params, server.name.as_str(), &mut edits);
    }
    Some(edits.apply(frame.bytes()))
}

/// Whether a session wants a message that belongs to no call: a log message only from its level on.
pub(crate) fn is_wanted(session: &Session, frame: &Frame) -> bool {
    frame.method_class() != Method::LogMessage
        || session
            .log_level()
            .is_none_or(|wanted| frame.str(Field::Level).is_some_and(|level| is_at_least(&level, &wanted)))
}

/// The protocol's levels, most talkative first (RFC 5424).
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Where a level stands; unknown ones are taken for the most important.
pub(crate) fn rank(level: &str) -> usize {
    LEVELS.iter().position(|other| *other == level).unwrap_or(LEVELS.len())
}

pub(crate) fn is_level(level: &str) -> bool {
    LEVELS.contains(&level)
}

fn is_at_least(level: &str, wanted: &str) -> bool {
    rank(level) >= rank(wanted)
}

/// Objects that are looked into for URIs, at most.
const MAX_OBJECTS: usize = 10_000;
/// Members that hold a resource's URI, wherever they stand.
const URI_MEMBERS: [&str; 3] = ["uri", "uriTemplate", "resourceUri"];

/// Rewrites every resource URI below `field` to its exposed form.
fn prefix_uris(frame: &Frame, field: Field, server: &str, edits: &mut Edits) {
    let (Some(span), Some(text)) = (frame.span(field), frame.raw(field)) else { return };
    // Tool results carry URIs in `content`, reads in `contents`, notifications at the top.
    let mut work = vec![(span.start, text)];
    let mut looked_at = 0;
    while let Some((at, text)) = work.pop() {
        looked_at += 1;
        if looked_at > MAX_OBJECTS {
            return;
        }
        for member in URI_MEMBERS {
            if let (Some(uri), Some(span)) = (list::string_member(text, member), list::member_span(text, member)) {
                let span = Span { start: at + span.start, end: at + span.end };
                edits.replace(span, message::quote(&name::prefix_uri(server, &uri)));
            }
        }
        for member in ["resource", "_meta", "ui", "result"] {
            if let Some(inner) = list::member_span(text, member)
                && text[inner.range()].starts_with('{')
            {
                work.push((at + inner.start, &text[inner.range()]));
            }
        }
        for member in ["content", "contents", "messages"] {
            let Ok(items) = list::items(text, member) else { continue };
            for item in items.into_iter().filter(|item| item.starts_with('{')) {
                let offset = u32::try_from(item.as_ptr() as usize - text.as_ptr() as usize).unwrap_or(0);
                work.push((at + offset, item));
            }
        }
        if let Some(content) = list::member_span(text, "content")
            && text[content.range()].starts_with('{')
        {
            work.push((at + content.start, &text[content.range()]));
        }
    }
}
