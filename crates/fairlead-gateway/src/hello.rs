//! How a client learns what is here: `initialize` of the session-based revisions, `server/discover`
//! of 2026-07-28.

use crate::{
    answer, body::Body, call::Call, capabilities, gateway::Gateway, limits, response::json, session::SessionError,
    snapshot::Endpoint, tasks,
};
use fairlead_core::{Caller, Code, Refusal};
use fairlead_upstream::State;
use fairlead_wire::{CapabilitySet, Era, Field, Frame, Revision, Span, edit::Edits, header, list, message};
use http::{HeaderValue, Response, StatusCode};
use std::sync::Arc;

/// How long a modern client may keep the answer, in milliseconds.
const TTL_MS: u64 = 5_000;

/// Opens a session. Of one that its client `keeps` not, nothing is promised that needs it.
pub(crate) async fn initialize(
    gateway: &Gateway,
    endpoint: &Arc<Endpoint>,
    caller: &Caller,
    frame: &Frame,
    keeps: bool,
) -> Result<Response<Body>, Refusal> {
    let requested = frame
        .str(Field::ParamProtocolVersion)
        .ok_or_else(|| Refusal::new(Code::BadParams, "`params.protocolVersion` must be a string"))?;
    let revision = Revision::negotiate_legacy(&requested);
    let declared = frame.raw(Field::ParamCapabilities).map_or(CapabilitySet::BARE, CapabilitySet::parse);
    capabilities::wait_for_peers(endpoint, Era::Legacy, declared).await;
    if endpoint.is_single() {
        // The transparent view of a server that was never reached has nothing to show.
        let server = endpoint.servers.first().map(|server| server.handle.view());
        if let Some(view) = server.filter(|view| view.peer_for(Era::Legacy).is_none()) {
            let reason = match &view.state {
                State::Down { reason, .. } => reason.to_string(),
                _ => "it is still starting".to_owned(),
            };
            return Err(Refusal::new(Code::ServerUnavailable, format!("the server cannot be used: {reason}")));
        }
    }
    for server in &endpoint.servers {
        if server.handle.peek().catalog(Era::Legacy, declared).is_none() {
            server.handle.refresh(Era::Legacy, declared);
        }
    }
    let caller = limits::named(caller, frame);
    let session =
        gateway.sessions().open(revision, declared, &caller, &endpoint.path).map_err(|error| match error {
            SessionError::TooMany | SessionError::Unknown => {
                Refusal::new(Code::TooManySessions, "there are as many sessions as `sessions.max` allows")
            }
        })?;
    let has_tasks = keeps && tasks::knows_tasks(revision);
    let result = match capabilities::same_era_peer(endpoint, Era::Legacy) {
        Some(peer) => {
            let revision = format!("\"{}\"", revision.as_str());
            let capabilities = capabilities::transparent(endpoint, &peer, has_tasks);
            with_members(&peer.answer, [("protocolVersion", revision), ("capabilities", capabilities)])
        }
        None => own_result(endpoint, revision, has_tasks),
    };
    let id = frame.id().unwrap_or("null");
    let mut response = json(StatusCode::OK, message::result(id, &result));
    let value = HeaderValue::from_str(&session.id).expect("invariant: a sealed id is URL-safe text");
    response.headers_mut().insert(header::MCP_SESSION_ID, value);
    Ok(response)
}

/// The server's own answer with other values of some members, and every other byte as it came.
fn with_members<const N: usize>(answer: &str, members: [(&str, String); N]) -> String {
    let mut edits = Edits::new();
    for (key, value) in members {
        let whole = Span { start: 0, end: u32::try_from(answer.len()).unwrap_or(u32::MAX) };
        match list::member_span(answer, key) {
            Some(span) if answer[span.range()] == value => {}
            Some(span) => edits.replace(span, value),
            None => edits.insert_first(whole, key, &value),
        }
    }
    let edited = edits.apply(&bytes::Bytes::copy_from_slice(answer.as_bytes()));
    String::from_utf8(edited.to_vec()).expect("invariant: spliced from text")
}

fn own_result(endpoint: &Endpoint, revision: Revision, has_tasks: bool) -> String {
    let instructions = capabilities::instructions(endpoint, Era::Legacy)
        .map(|text| format!(",\"instructions\":{}", message::quote(&text)))
        .unwrap_or_default();
    format!(
        "{{\"protocolVersion\":\"{}\",\"capabilities\":{},\"serverInfo\":{}{instructions}}}",
        revision.as_str(),
        capabilities::for_session(endpoint, has_tasks),
        capabilities::server_info(endpoint, Era::Legacy),
    )
}

/// Answers `server/discover`.
pub(crate) async fn discover(call: &Call) -> Response<Body> {
    capabilities::wait_for_peers(&call.endpoint, call.era, call.capabilities).await;
    if let Some(peer) = capabilities::call_peer(call) {
        let capabilities = capabilities::transparent(&call.endpoint, &peer, true);
        return answer::own(call, &with_members(&peer.answer, [("capabilities", capabilities)]));
    }
    let versions: Vec<_> = Revision::ALL.iter().rev().map(|revision| format!("\"{}\"", revision.as_str())).collect();
    let instructions = capabilities::instructions(&call.endpoint, Era::Modern)
        .map(|text| format!("\"instructions\":{},", message::quote(&text)))
        .unwrap_or_default();
    let result = format!(
        "{{\"supportedVersions\":[{}],\"capabilities\":{},{instructions}\"resultType\":\"complete\",\"ttlMs\":{TTL_MS},\
         \"cacheScope\":\"private\",\"_meta\":{{\"io.modelcontextprotocol/serverInfo\":{}}}}}",
        versions.join(","),
        capabilities::merged(&call.endpoint, Era::Modern),
        capabilities::server_info(&call.endpoint, Era::Modern),
    );
    answer::own(call, &result)
}
