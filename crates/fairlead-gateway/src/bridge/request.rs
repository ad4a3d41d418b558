//! What a request of a legacy client says to a modern server beyond the client's own words: who speaks, what it can do,
//! and in a later round what it answered.

use crate::{call::Call, deadline, resolve::Target};
use fairlead_wire::{Era, Field, Frame, Revision, Span, edit::Edits, message};
use std::{sync::Arc, time::Duration};

/// How long a call waits for the tools to be listed anew.
const LIST_TIME: Duration = Duration::from_secs(5);

/// Adds what every request to a modern server carries, for a client that does not send it.
pub(crate) fn add_meta(call: &Call, frame: &Frame, left: Option<u64>, edits: &mut Edits) {
    let version = format!("\"{}\"", Revision::V2026_07_28.as_str());
    // A call in a batch has no stream to be asked on.
    let declared = call.capabilities.for_modern_server();
    let declared = if call.in_batch { declared.without_questions() } else { declared };
    let follows_tasks = call.task.is_some() || frame.method_class().is_about_a_task();
    let declared = if follows_tasks { declared.with_task_extension() } else { declared };
    let level = call.session.as_ref().and_then(|session| session.log_level()).map(|level| message::quote(&level));
    let members = [
        (Field::MetaProtocolVersion, "io.modelcontextprotocol/protocolVersion", Some(version)),
        (Field::MetaClientCapabilities, "io.modelcontextprotocol/clientCapabilities", Some(declared.to_json())),
        (Field::MetaClientInfo, "io.modelcontextprotocol/clientInfo", Some(crate::merged::own_info())),
        (Field::MetaLogLevel, "io.modelcontextprotocol/logLevel", level),
        (Field::MetaTimeout, deadline::META_TIMEOUT, left.map(|left| left.to_string())),
    ];
    let members = members.into_iter().filter_map(|(field, key, value)| Some((field, key, value?)));
    if let Some(meta) = frame.span(Field::Meta) {
        for (field, key, value) in members {
            match frame.span(field) {
                Some(span) => edits.replace(span, value),
                None => edits.insert_first(meta, key, &value),
            }
        }
        return;
    }
    let all: Vec<_> = members.map(|(_, key, value)| format!("\"{key}\":{value}")).collect();
    let meta = format!("{{{}}}", all.join(","));
    match frame.span(Field::Params) {
        Some(params) => edits.insert_first(params, "_meta", &meta),
        None => {
            let bytes = frame.bytes();
            let start = bytes.iter().position(|byte| *byte == b'{').unwrap_or(0);
            let whole =
                Span { start: u32::try_from(start).unwrap_or(0), end: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
            edits.insert_first(whole, "params", &format!("{{\"_meta\":{meta}}}"));
        }
    }
}

/// The client's request once more, with what it answered and what the server gave along. Both are raw JSON; what is
/// absent is absent, also where the client's own message had such a member.
pub(super) fn with_answers(call: &Call, target: &Target, responses: Option<&str>, state: Option<&str>) -> Target {
    // Only the modern era knows what these answers are.
    let mut again = target.clone();
    again.era = Some(Era::Modern);
    // No exchange is open while somebody thinks, so a reload may have replaced the server's owner meanwhile.
    let snapshot = call.gateway.snapshot();
    if let Some(current) = snapshot.servers.iter().find(|server| server.handle.name() == target.upstream.handle.name())
    {
        again.upstream = current.clone();
    }
    // Without parameters nothing was named, so nothing was asked about: the server hears the same again.
    let Some(params) = call.frame.span(Field::Params) else { return again };
    for (field, key, value) in
        [(Field::InputResponses, "inputResponses", responses), (Field::RequestState, "requestState", state)]
    {
        match (call.frame.span(field), value) {
            (Some(span), Some(value)) => again.edits.replace(span, value.to_owned()),
            (Some(_), None) => again.edits.remove_member(&call.frame, field),
            (None, Some(value)) => again.edits.insert_first(params, key, value),
            (None, None) => {}
        }
    }
    again
}

/// Lists the server's tools anew, because it wants other headers than when they were listed. `false` when that takes too
/// long.
pub(crate) async fn list_anew(call: &Call, target: &Target) -> bool {
    let handle = &target.upstream.handle;
    let known = || handle.peek().nearest_catalog(call.era, call.capabilities).cloned();
    let mut changes = handle.changes();
    let before = known();
    tracing::info!(server = %handle.name(), name = target.name.as_deref(), "a tool wants other headers than it was listed with; listing anew");
    handle.refresh(call.era, call.capabilities);
    let listed = async {
        while known().as_ref().map(Arc::as_ptr) == before.as_ref().map(Arc::as_ptr) {
            if changes.changed().await.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(LIST_TIME, listed).await.unwrap_or(false)
}
