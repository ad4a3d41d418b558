//! Putting answers together.

use crate::{body::Body, merged::own_info};
use bytes::Bytes;
use fairlead_core::{Code, Refusal};
use fairlead_wire::{Era, message};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::time::Duration;

/// "Resource not found" of the revisions before 2026-07-28 (SEP-2164 retired it).
pub(crate) const LEGACY_RESOURCE_NOT_FOUND: i64 = -32002;

/// JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const SSE: HeaderValue = HeaderValue::from_static("text/event-stream");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_BUFFERING: HeaderValue = HeaderValue::from_static("no");

/// A JSON body with a status.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() = status;
    response
}

/// Headers of a request whose room its answer takes over, at most.
const MAX_ROOM: usize = 32;

/// The last touch of every answer: a body that is not a stream is JSON. `room` is the map the request's
/// headers came in, used again for the answer's: hyper then reads the next request into it too, and a
/// connection needs one map instead of two for every request.
pub(crate) fn finished(mut response: Response<Body>, mut room: HeaderMap) -> Response<Body> {
    if room.capacity() > MAX_ROOM {
        room = HeaderMap::new();
    }
    room.clear();
    if response.body().is_whole() {
        room.insert(header::CONTENT_TYPE, JSON);
    }
    if !response.headers().is_empty() {
        room.extend(std::mem::take(response.headers_mut()));
    }
    *response.headers_mut() = room;
    response
}

/// A status without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An event stream.
pub(crate) fn stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, SSE);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert("x-accel-buffering", NO_BUFFERING);
    response
}

/// A result that the gateway makes itself, of `members` (JSON text without braces) and members of its `_meta`: complete, and
/// in the modern era with who made it.
pub(crate) fn own_result(era: Era, members: &str, meta: &[(&str, &str)]) -> String {
    let info = own_info();
    let (kind, info) = match era {
        Era::Legacy => ("", None),
        Era::Modern => ("\"resultType\":\"complete\",", Some(("io.modelcontextprotocol/serverInfo", &*info))),
    };
    let meta: Vec<_> = info.iter().chain(meta).map(|(key, value)| format!("\"{key}\":{value}")).collect();
    let meta = if meta.is_empty() { String::new() } else { format!(",\"_meta\":{{{}}}", meta.join(",")) };
    format!("{{{kind}{members}{meta}}}")
}

/// The content of a result: one text.
pub(crate) fn text_content(text: &str) -> String {
    format!("\"content\":[{{\"type\":\"text\",\"text\":{}}}]", message::quote(text))
}

/// A refusal as JSON-RPC text.
pub(crate) fn refusal_bytes(id: Option<&str>, refusal: &Refusal) -> Bytes {
    error_bytes(id, refusal.code.info().rpc, refusal)
}

fn error_bytes(id: Option<&str>, rpc: i64, refusal: &Refusal) -> Bytes {
    let text = format!("{} ({})", refusal.message, refusal.code.label());
    // Not louder: what a client does wrong it can do as often as it likes.
    tracing::debug!(code = refusal.code.label(), "refused: {}", refusal.message);
    message::error(id, rpc, &text, refusal.data.as_deref())
}

/// A refusal of the whole request: its HTTP status counts.
pub(crate) fn refuse(id: Option<&str>, refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.code.info().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, refusal_bytes(id, refusal));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let after = refusal.retry_after.map_or(HeaderValue::from_static("1"), retry_after);
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    response
}

/// A refusal of one call. Some SDKs end a session over any HTTP error in mid-session, so what went
/// wrong with a call travels as JSON-RPC over 200; what the revision of 2026-07-28 gives a status of
/// its own keeps it.
pub(crate) fn refuse_call(era: Era, id: Option<&str>, refusal: &Refusal) -> Response<Body> {
    let status = match era {
        Era::Legacy => StatusCode::OK,
        Era::Modern => modern_status(refusal.code.info().rpc),
    };
    let mut response = json(status, call_refusal_bytes(era, id, refusal));
    if let Some(wait) = refusal.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after(wait));
    }
    response
}

/// Whole seconds, rounded up: who comes back then is not refused once more.
fn retry_after(wait: Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX))
}

/// A refusal of one call as JSON-RPC text, with the code the client's revision has for it.
pub(crate) fn call_refusal_bytes(era: Era, id: Option<&str>, refusal: &Refusal) -> Bytes {
    if era == Era::Legacy && matches!(refusal.code, Code::UnknownResource | Code::ResultGone) {
        return error_bytes(id, LEGACY_RESOURCE_NOT_FOUND, refusal);
    }
    refusal_bytes(id, refusal)
}

/// The HTTP status the revision of 2026-07-28 gives an error.
pub(crate) fn modern_status(rpc: i64) -> StatusCode {
    match rpc {
        -32022..=-32020 | -32700 | -32600 => StatusCode::BAD_REQUEST,
        -32601 => StatusCode::NOT_FOUND,
        _ => StatusCode::OK,
    }
}
