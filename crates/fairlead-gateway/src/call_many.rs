//! `call_many`: a tool of the gateway's own, where a toolset has it: several calls in one, made side by side, with one
//! answer that has a part for each.
//!
//! Every member goes the way of a call of its own from the first phase on, as its client's: names, limits, pools, rules, what is
//! kept of answers. What a client may not call alone it may not call here. Nobody can be asked anything in the
//! middle of it, so a server is told that its client cannot be asked. It cannot be part of itself or of a batch.

use crate::{
    admit,
    answer::{self, driven, event},
    body::Body,
    call::Call,
    pipeline, record,
    response::{json, own_result, refusal_bytes, stream, text_content},
    session::CallControl,
};
use bytes::Bytes;
use fairlead_config::CallMany;
use fairlead_core::Refusal;
use fairlead_wire::{CapabilitySet, Era, Field, Frame, Limits, Method, edit::Edits, list, message};
use futures_util::{StreamExt, stream as streams};
use http::{Response, StatusCode};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// The tool's name.
pub(crate) const NAME: &str = "call_many";
/// Bytes of all parts together; what comes after that is left out, and says so.
const MAX_ANSWER: usize = 16 << 20;

/// Its definition.
pub(crate) fn definition(bounds: CallMany) -> Bytes {
    let max = bounds.max;
    format!(
        "{{\"name\":\"{NAME}\",\"title\":\"Call several tools\",\"description\":\"Makes several calls of tools at once and answers \
         with the result of each, in their order. Use it for calls that do not depend on one another. One that fails does not \
         keep the others from being made.\",\
         \"inputSchema\":{{\"type\":\"object\",\"properties\":{{\"calls\":{{\"type\":\"array\",\"minItems\":1,\"maxItems\":{max},\
         \"items\":{{\"type\":\"object\",\"properties\":{{\"name\":{{\"type\":\"string\"}},\"arguments\":{{\"type\":\"object\"}}}},\
         \"required\":[\"name\"]}}}}}},\"required\":[\"calls\"]}},\
         \"outputSchema\":{{\"type\":\"object\",\"properties\":{{\"results\":{{\"type\":\"array\",\"items\":{{\"type\":\"object\",\
         \"properties\":{{\"name\":{{\"type\":\"string\"}},\"result\":{{\"type\":\"object\"}},\"error\":{{\"type\":\"object\"}}}}}}}}}},\
         \"required\":[\"results\"]}}}}"
    )
    .into()
}

/// Whether a call is one of this tool.
pub(crate) fn is_asked(call: &Call) -> bool {
    call.frame.method_class() == Method::ToolsCall && call.frame.str(Field::Name).as_deref() == Some(NAME)
}

type Work = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

/// Makes the calls and answers. A client that listens to nothing for long is sent a stream.
pub(crate) async fn answer(call: Box<Call>) -> Response<Body> {
    let members = match members(&call) {
        Ok(members) => members,
        Err(why) => {
            record::own(&call);
            let refused = format!("{},\"isError\":true", text_content(&why));
            return json(StatusCode::OK, message::result(call.id(), &own_result(call.era, &refused, &[])));
        }
    };
    let keep_alive = call.endpoint.config.listen.keep_alive;
    let mut work: Work = Box::pin(all(call, members));
    match timeout_at(Instant::now() + keep_alive, &mut work).await {
        Ok(Some(bytes)) => json(StatusCode::OK, bytes),
        Ok(None) => stream(Body::empty()),
        Err(_) => {
            let (out, receiver) = mpsc::channel(1);
            let telling = async move {
                // As often as there was silence for so long; nobody listens any more when it cannot be said.
                while out.send(answer::comment()).await.is_ok() {
                    if let Ok(whole) = timeout_at(Instant::now() + keep_alive, &mut work).await {
                        if let Some(bytes) = whole {
                            let _ = out.send(event(&bytes)).await;
                        }
                        return;
                    }
                }
            };
            stream(Body::stream(driven(telling, receiver)))
        }
    }
}

/// One of the calls: what it is for, and the request, or why there is none.
struct Member {
    name: Box<str>,
    request: Result<Frame, &'static str>,
}

fn members(call: &Call) -> Result<Vec<Member>, String> {
    const SHAPE: &str = "`calls` must be a list of objects with `name` and `arguments`";
    if call.in_batch {
        return Err(format!("`{NAME}` cannot be part of another `{NAME}` or of a batch"));
    }
    let max = call.endpoint.call_many.map_or(0, |bounds| bounds.max);
    let calls = call.frame.raw(Field::Arguments).and_then(|arguments| list::items(arguments, "calls").ok());
    let calls = calls.ok_or(SHAPE)?;
    if calls.is_empty() || calls.len() > max {
        return Err(format!("`calls` must have 1 to {max} calls"));
    }
    // Each is a request of its own, with all that stands beside the arguments.
    let beside = call.frame.bytes().len() - call.frame.raw(Field::Arguments).map_or(0, str::len);
    let most = call.endpoint.config.listen.max_body;
    if beside.saturating_mul(calls.len()) > most {
        return Err(format!("what stands beside `arguments` is too large for so many calls: {most} bytes in all"));
    }
    calls.into_iter().map(|raw| member(call, raw).ok_or_else(|| SHAPE.to_owned())).collect()
}

/// `None` when it is no object with a name.
fn member(call: &Call, raw: &str) -> Option<Member> {
    let name = list::string_member(raw, "name")?;
    let request = if name == NAME {
        Err("`call_many` cannot be part of itself")
    } else {
        request(call, list::raw_member(raw, "name")?, list::raw_member(raw, "arguments"))
    };
    Some(Member { name: name.into(), request })
}

/// The request of the client with another name and other arguments, of a client that cannot be asked anything.
fn request(call: &Call, name: &str, arguments: Option<&str>) -> Result<Frame, &'static str> {
    const WRONG: &str = "`arguments` must be an object";
    let frame = &call.frame;
    let mut edits = Edits::new();
    let (named, given) = (frame.span(Field::Name).ok_or(WRONG)?, frame.span(Field::Arguments).ok_or(WRONG)?);
    edits.replace(named, Bytes::copy_from_slice(name.as_bytes()));
    match arguments {
        Some(raw) if raw.starts_with('{') => edits.replace(given, Bytes::copy_from_slice(raw.as_bytes())),
        None | Some("null") => edits.replace(given, "{}"),
        Some(_) => return Err(WRONG),
    }
    if let Some(span) = frame.span(Field::MetaClientCapabilities) {
        edits.replace(span, "{}");
    }
    // What belongs to the call as a whole.
    for field in [Field::ProgressToken, Field::Task, Field::RequestState, Field::InputResponses] {
        edits.remove_member(frame, field);
    }
    Frame::parse(edits.apply(frame.bytes()), &Limits::default()).map_err(|_| WRONG)
}

/// Makes the calls; `None` when they were cancelled.
async fn all(call: Box<Call>, members: Vec<Member>) -> Option<Bytes> {
    let parallel = call.endpoint.call_many.map_or(1, |bounds| bounds.parallel);
    // A call that ends because it was cancelled must know that it was.
    let controls: Vec<Arc<CallControl>> = members.iter().map(|_| Arc::default()).collect();
    let names: Vec<Box<str>> = members.iter().map(|member| member.name.clone()).collect();
    let parts = {
        let room = Arc::new(AtomicUsize::new(MAX_ANSWER));
        let running = members.into_iter().zip(&controls).map(|(member, control)| one(&call, member, control, &room));
        let running: Vec<Running> = running.collect();
        let running = streams::iter(running).buffered(parallel).collect::<Vec<_>>();
        tokio::select! {
            biased;
            parts = running => parts,
            // Said before they are dropped: then their servers are told.
            () = async {
                crate::session::cancelled(call.control.clone()).await;
                controls.iter().for_each(|control| control.cancel());
            } => return None,
        }
    };
    record::own(&call);
    let is_error = parts.iter().all(|part| part.is_error);
    Some(told(&call, &structured(&names, parts), is_error))
}

/// What became of one call.
struct Part {
    /// `"result":{...}` or `"error":{...}`.
    member: String,
    is_error: bool,
}

impl Part {
    fn error(text: &str) -> Self {
        let member = format!("\"error\":{{\"code\":-32602,\"message\":{}}}", message::quote(text));
        Self { member, is_error: true }
    }

    fn refused(refusal: &Refusal) -> Self {
        let bytes = refusal_bytes(None, refusal);
        Frame::parse(bytes, &Limits::default()).map_or_else(|_| Self::error(&refusal.message), |frame| part(&frame))
    }
}

/// In the place of a request's id among the calls of a session: no client can name it.
const NO_ID: &[u8] = b"";

type Running = Pin<Box<dyn Future<Output = Part> + Send>>;

/// One call, which begins when it is polled.
fn one(call: &Call, member: Member, control: &Arc<CallControl>, room: &Arc<AtomicUsize>) -> Running {
    let frame = match member.request {
        Ok(frame) => frame,
        Err(why) => return Box::pin(std::future::ready(Part::error(why))),
    };
    let mut inner = call.aside();
    inner.frame = frame;
    // Headers that repeat arguments are made of the member's own.
    inner.param_headers = None;
    inner.control = Some(Arc::clone(control));
    inner.until = call.until;
    inner.version = None;
    inner.capabilities = match inner.era {
        Era::Modern => CapabilitySet::BARE,
        Era::Legacy => inner.capabilities.without_questions(),
    };
    let room = Arc::clone(room);
    Box::pin(async move {
        if room.load(Ordering::Relaxed) == 0 {
            return Part::error("the results before are too large already, so this call was not made");
        }
        // Its time begins now.
        inner.started = Instant::now();
        if let (Some(session), Some(control)) = (&inner.session, &inner.control) {
            let max = inner.endpoint.config.sessions.max_calls;
            if !session.enter_with(control, Bytes::from_static(NO_ID), max) {
                return Part::refused(&admit::too_many_calls("session", max));
            }
        }
        let whole = answer::whole(pipeline::forward_part(inner).await).await;
        let frame = whole.and_then(|bytes| Frame::parse(bytes, &Limits::default()).ok());
        let part = frame.map_or_else(|| Part::error("the call was not answered"), |frame| part(&frame));
        let takes = |room: usize| room.checked_sub(part.member.len());
        if room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, takes).is_ok() {
            return part;
        }
        room.store(0, Ordering::Relaxed);
        Part::error("the call was made; its result is too large beside the others: call this tool by itself")
    })
}

fn part(frame: &Frame) -> Part {
    if frame.str(Field::ResultType).as_deref() == Some("input_required") {
        return Part::error("the server asks something of its client; call this tool by itself");
    }
    match (frame.raw(Field::Result), frame.raw(Field::Error)) {
        (Some(result), _) => {
            let is_error = frame.raw(Field::ResultIsError) == Some("true");
            Part { member: format!("\"result\":{result}"), is_error }
        }
        (None, error) => Part { member: format!("\"error\":{}", error.unwrap_or("{}")), is_error: true },
    }
}

/// All parts.
fn structured(names: &[Box<str>], parts: Vec<Part>) -> String {
    let mut out = String::from("{\"results\":[");
    for (index, (name, part)) in names.iter().zip(parts).enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str("{\"name\":");
        out.push_str(&message::quote(name));
        out.push(',');
        out.push_str(&part.member);
        out.push('}');
    }
    out.push_str("]}");
    out
}

/// The answer to the client.
fn told(call: &Call, structured: &str, is_error: bool) -> Bytes {
    let is_error = if is_error { ",\"isError\":true" } else { "" };
    let members = format!("{},\"structuredContent\":{structured}{is_error}", text_content(structured));
    message::result(call.id(), &own_result(call.era, &members, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_their_order() {
        let names = ["a", "b \"quoted\"", "c"].map(Into::into);
        let parts = vec![
            Part { member: "\"result\":{\"x\":1}".to_owned(), is_error: false },
            Part { member: "\"result\":{}".to_owned(), is_error: false },
            Part::error("no such tool"),
        ];
        let told: serde_json::Value = serde_json::from_str(&structured(&names, parts)).expect("JSON");
        assert_eq!(told["results"][0], serde_json::json!({"name": "a", "result": {"x": 1}}));
        assert_eq!(told["results"][1]["name"], "b \"quoted\"");
        assert_eq!(told["results"][2]["error"]["message"], "no such tool");
    }

    #[test]
    fn the_definition_is_a_tool() {
        let definition = definition(CallMany { max: 7, parallel: 2 });
        let tool: serde_json::Value = serde_json::from_slice(&definition).expect("JSON");
        assert_eq!(tool["name"], NAME);
        assert_eq!(tool["inputSchema"]["properties"]["calls"]["maxItems"], 7);
        assert_eq!(tool["outputSchema"]["required"][0], "results");
    }
}
