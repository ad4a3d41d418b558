//! Streamable HTTP as a scripted server speaks it: sessions, event streams, resumption, and the ways to be wrong.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming as IncomingBody};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    answer::{self, Ended, Exchange, HttpGarbage, Incoming, error_frame, find_tool},
    core::{Core, NEVER},
    received::Received,
    script::{Answers, Hang, Script, Step, Via, is_modern_version},
    session::{Outlet, Session},
    stream_log::{Ending, Next, StreamLog},
};

/// Bodies up to here are read.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An error breaks the connection.
type Answer = Result<Response<Body>, io::Error>;

pub(super) async fn handle(core: Arc<Core>, connection: u64, request: Request<IncomingBody>) -> Answer {
    if request.uri().path() == "/ws" {
        let no = || plain(StatusCode::UPGRADE_REQUIRED, "text/plain", "this is a WebSocket endpoint");
        return Ok(super::websocket::upgrade(&core, connection, request).unwrap_or_else(no));
    }
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|_| broken())?.to_bytes();
    core.recorder.add(Received {
        at: core.recorder.at(),
        connection,
        http_method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: parts.headers.clone(),
        body: body.clone(),
    });
    let script = core.script();
    if script.hang == Hang::Everything {
        tokio::time::sleep(NEVER).await;
        return Err(broken());
    }
    match (parts.uri.path(), &parts.method) {
        ("/sse", &Method::GET) => return Ok(super::sse::open(&core)),
        ("/sse", _) => return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "Method Not Allowed")),
        ("/messages", &Method::POST) => return Ok(message(&core, parts.uri.query(), &body).await),
        _ => {}
    }
    if parts.uri.path() != "/mcp" {
        return Ok(plain(StatusCode::NOT_FOUND, "text/plain", "the endpoint is /mcp"));
    }
    match parts.method {
        Method::POST => post(&core, &script, &parts.headers, &body).await,
        Method::GET => get(&core, &script, &parts.headers),
        Method::DELETE => Ok(delete(&core, &script, &parts.headers)),
        _ => Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "")),
    }
}

/// A message of a client whose answers come on its HTTP+SSE stream.
async fn message(core: &Core, query: Option<&str>, body: &Bytes) -> Response<Body> {
    let session = query.and_then(|query| query.strip_prefix("session="));
    match session.and_then(|session| core.conversation(session)) {
        Some(conversation) => {
            let answering = conversation.take(body);
            if let Some(answering) = answering.filter(|_| core.script().door.late_posts) {
                answering.await.ok();
            }
            plain(StatusCode::ACCEPTED, "text/plain", "Accepted")
        }
        None => plain(StatusCode::NOT_FOUND, "text/plain", "Could not find session"),
    }
}

async fn post(core: &Arc<Core>, script: &Script, headers: &HeaderMap, body: &Bytes) -> Answer {
    if body.trim_ascii_start().starts_with(b"[") {
        return batch(core, script, headers, body).await;
    }
    let Ok(incoming) = serde_json::from_slice::<Incoming>(body) else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "null", -32700, "the body is not JSON-RPC", None));
    };
    let id = incoming.id().to_owned();
    let params = incoming.params();
    let version = params["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
    let header_version = text(headers, "mcp-protocol-version");
    let modern = version.or(header_version).is_some_and(is_modern_version);
    if modern || !script.is_legacy() {
        return modern_post(core, script, headers, incoming, version).await;
    }
    if header_version.is_some_and(|version| !script.versions.iter().any(|known| known == version)) {
        return Ok(refuse(StatusCode::BAD_REQUEST, &id, -32000, "Bad Request: Unsupported protocol version", None));
    }
    let mut opened = None;
    let session = if incoming.method.as_deref() == Some("initialize") {
        let number = core.sessions_opened.load(Ordering::Relaxed) + 1;
        let side = Outlet::Stream(Arc::new(StreamLog::new("get".to_owned())));
        let session = Arc::new(Session::new(format!("session-{number}-{:x}", core.recorder.at().as_nanos()), side));
        if script.sessions {
            core.open_session(Arc::clone(&session));
            opened = Some(session.id.clone());
        }
        session
    } else if script.sessions {
        match find_session(core, script, headers, &id) {
            Ok(session) => session,
            Err(refusal) => return Ok(*refusal),
        }
    } else {
        Arc::new(Session::new(String::new(), Outlet::Stream(Arc::new(StreamLog::new("get".to_owned())))))
    };
    if incoming.method.is_none() {
        let answered = incoming.as_answer().is_some_and(|(id, answer)| session.answer(&id, answer));
        return Ok(accepted(answered));
    }
    if incoming.id.is_none() {
        note(core, &session, &incoming, &params);
        return Ok(accepted(true));
    }
    let mut response = exchange(core, script, session, incoming, false).await?;
    if let Some(session) = opened
        && let Ok(value) = session.parse()
    {
        response.headers_mut().insert("mcp-session-id", value);
    }
    Ok(response)
}

/// Acts on a notification.
fn note(core: &Core, session: &Session, incoming: &Incoming, params: &Value) {
    if incoming.method.as_deref() == Some("notifications/cancelled") {
        let id = params["requestId"].to_string();
        if !session.cancel(&id) {
            core.note_cancelled(&format!("not running: {id}"));
        }
    }
}

async fn modern_post(
    core: &Arc<Core>,
    script: &Script,
    headers: &HeaderMap,
    incoming: Incoming,
    version: Option<&str>,
) -> Answer {
    let id = incoming.id().to_owned();
    if !script.is_modern() {
        return Ok(refuse(StatusCode::BAD_REQUEST, &id, -32000, "Bad Request: Server not initialized", None));
    }
    let Some(version) = version else {
        let message = "request _meta is missing required fields";
        return Ok(refuse(StatusCode::BAD_REQUEST, &id, -32602, message, None));
    };
    if !script.versions.iter().any(|known| known == version) {
        let data = json!({"supported": script.versions, "requested": version});
        return Ok(refuse(StatusCode::BAD_REQUEST, &id, -32022, "unsupported protocol version", Some(data)));
    }
    if incoming.id.is_none() || incoming.method.is_none() {
        return Ok(accepted(true));
    }
    if incoming.method.as_deref() == Some("initialize") {
        return Ok(refuse(StatusCode::NOT_FOUND, &id, -32601, "there is no method `initialize`", None));
    }
    let params = incoming.params();
    let called = script.scripted_tools.iter().find(|tool| params["name"] == tool.name);
    if incoming.method.as_deref() == Some("tools/call")
        && let Some(header) = called.and_then(|tool| tool.needs_header.as_deref())
        && !headers.contains_key(header)
    {
        let message = format!("the header `{header}` is missing");
        return Ok(refuse(StatusCode::BAD_REQUEST, &id, -32020, &message, None));
    }
    let side = Outlet::Stream(Arc::new(StreamLog::new("none".to_owned())));
    exchange(core, script, Arc::new(Session::new(String::new(), side)), incoming, true).await
}

/// The session a request names.
fn find_session(
    core: &Core,
    script: &Script,
    headers: &HeaderMap,
    id: &str,
) -> Result<Arc<Session>, Box<Response<Body>>> {
    let Some(name) = text(headers, "mcp-session-id") else {
        let message = "Bad Request: Mcp-Session-Id header is required";
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, id, -32000, message, None)));
    };
    let forgotten = || match script.forgotten_is_400 {
        true => {
            let message = "Bad Request: No valid session ID provided";
            Box::new(refuse(StatusCode::BAD_REQUEST, "null", -32000, message, None))
        }
        false => Box::new(refuse(StatusCode::NOT_FOUND, id, -32001, "Session not found", None)),
    };
    let session = core.session(name).ok_or_else(forgotten)?;
    let requests = session.requests.fetch_add(1, Ordering::Relaxed);
    if script.forget_after.is_some_and(|limit| requests >= limit) {
        core.close_session(name);
        return Err(forgotten());
    }
    Ok(session)
}

/// Cancels a modern call when its response is dropped before its end.
struct CancelOnDrop {
    session: Arc<Session>,
    id: String,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        // A call that has ended is not there any more.
        self.session.cancel(&self.id);
    }
}

async fn exchange(
    core: &Arc<Core>,
    script: &Script,
    session: Arc<Session>,
    incoming: Incoming,
    modern: bool,
) -> Answer {
    let log = session.open_stream();
    let outlet = Outlet::Stream(Arc::clone(&log));
    let exchange = Exchange { core: Arc::clone(core), session: Arc::clone(&session), outlet, modern, task: None };
    let talks = talks(&exchange, script, &incoming);
    let streamed = script.answers == Answers::Sse || talks;
    let hangs_up = talks && hangs_up(&exchange, script, &incoming);
    let guard = modern.then(|| CancelOnDrop { session: Arc::clone(&session), id: incoming.id().to_owned() });
    let (sender, ended) = oneshot::channel();
    let writer = Arc::clone(&log);
    core.spawn(async move {
        let ended = answer::serve(&exchange, &incoming).await;
        writer.end(if ended == Ended::Die { Ending::Broken } else { Ending::Clean });
        // Nobody waits for it when the answer is streamed.
        sender.send(ended).ok();
    });
    if streamed {
        let start = hangs_up.then_some(format!("id: {}:0\ndata: \n\n", log.name));
        return Ok(event_stream(log, 0, !modern, start, None, guard));
    }
    // A server that was stopped meanwhile breaks the connection.
    let ended = ended.await.map_err(|_| broken())?;
    drop(guard);
    match ended {
        Ended::Said => {}
        Ended::Silent => {
            tokio::time::sleep(NEVER).await;
            return Err(broken());
        }
        Ended::Die => return Err(broken()),
        Ended::Http(HttpGarbage::Html500) => {
            let page = "<html><body>500 Internal Server Error</body></html>";
            return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "text/html", page));
        }
        Ended::Http(HttpGarbage::TooMany(seconds)) => {
            let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "text/plain", "too many requests");
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
            return Ok(response);
        }
        Ended::Http(HttpGarbage::Empty) => return Ok(plain(StatusCode::OK, "application/json", "")),
        Ended::Http(HttpGarbage::PlainText) => {
            let (frame, _) = log.outcome().await;
            return Ok(plain(StatusCode::OK, "text/plain", frame.unwrap_or_default()));
        }
    }
    let (frame, _) = log.outcome().await;
    let frame = frame.unwrap_or_default();
    Ok(plain(status(&frame, modern), "application/json", frame))
}

/// The status a modern error has; legacy answers are always 200.
fn status(frame: &[u8], modern: bool) -> StatusCode {
    let code = match modern {
        true => serde_json::from_slice::<Value>(frame).ok().and_then(|frame| frame["error"]["code"].as_i64()),
        false => None,
    };
    match code {
        Some(-32601) => StatusCode::NOT_FOUND,
        Some(-32602 | -32020 | -32021 | -32022) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// Whether anything but the answer will be said on the stream of the call.
fn talks(exchange: &Exchange, script: &Script, incoming: &Incoming) -> bool {
    match incoming.method.as_deref() {
        Some("subscriptions/listen") => exchange.modern,
        Some("tasks/result") => !exchange.modern,
        Some("tools/call") => steps(exchange, script, incoming).iter().any(|step| match step {
            Step::Sleep { .. } | Step::Gate { .. } => false,
            Step::Ask { via, .. } | Step::AskTogether { via, .. } => *via == Via::Call && !exchange.modern,
            Step::Notify { via, .. } => *via == Via::Call,
            Step::Progress { .. } | Step::Log { .. } | Step::Raw { .. } | Step::HangUp { .. } => true,
        }),
        Some(method) => !exchange.modern && script.asks.contains_key(method),
        None => false,
    }
}

fn hangs_up(exchange: &Exchange, script: &Script, incoming: &Incoming) -> bool {
    steps(exchange, script, incoming).iter().any(|step| matches!(step, Step::HangUp { .. }))
}

fn steps(exchange: &Exchange, script: &Script, incoming: &Incoming) -> Vec<Step> {
    let params = incoming.params();
    let tool = params["name"].as_str().and_then(|name| find_tool(exchange, script, name));
    tool.map_or_else(Vec::new, |tool| tool.steps)
}

/// A batch of revision 2025-03-26: answered as one array.
async fn batch(core: &Arc<Core>, script: &Script, headers: &HeaderMap, body: &Bytes) -> Answer {
    let Ok(members) = serde_json::from_slice::<Vec<Incoming>>(body) else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "null", -32700, "the batch is not JSON-RPC", None));
    };
    let session = match find_session(core, script, headers, "null") {
        Ok(session) => session,
        Err(refusal) => return Ok(*refusal),
    };
    let version = session.version.lock().expect("invariant: nobody panics while holding a version").clone();
    if version != "2025-03-26" {
        return Ok(refuse(StatusCode::BAD_REQUEST, "null", -32600, "batches are not supported", None));
    }
    let mut answers = Vec::new();
    for incoming in members {
        if incoming.method.is_none() {
            if let Some((id, answer)) = incoming.as_answer() {
                session.answer(&id, answer);
            }
        } else if incoming.id.is_none() {
            note(core, &session, &incoming, &incoming.params());
        } else {
            let log = session.open_stream();
            let outlet = Outlet::Stream(Arc::clone(&log));
            let exchange =
                Exchange { core: Arc::clone(core), session: Arc::clone(&session), outlet, modern: false, task: None };
            let ended = answer::serve(&exchange, &incoming).await;
            if ended != Ended::Said {
                return Err(broken());
            }
            log.end(Ending::Clean);
            let (frame, _) = log.outcome().await;
            answers.push(String::from_utf8_lossy(&frame.unwrap_or_default()).into_owned());
        }
    }
    if answers.is_empty() {
        return Ok(accepted(true));
    }
    Ok(plain(StatusCode::OK, "application/json", format!("[{}]", answers.join(","))))
}

fn get(core: &Arc<Core>, script: &Script, headers: &HeaderMap) -> Answer {
    if !script.get_stream || !script.is_legacy() || !script.sessions {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "Method Not Allowed"));
    }
    let session = match find_session(core, script, headers, "null") {
        Ok(session) => session,
        Err(refusal) => return Ok(*refusal),
    };
    let resumed = text(headers, "last-event-id").and_then(|id| {
        let (stream, position) = id.split_once(':')?;
        Some((stream.to_owned(), position.parse::<usize>().ok()?))
    });
    match resumed {
        Some((name, position)) if name != "get" => match session.stream(&name) {
            Some(log) => Ok(event_stream(log, position, true, None, None, None)),
            None => Ok(plain(StatusCode::BAD_REQUEST, "text/plain", "there is no such stream")),
        },
        resumed => {
            let position = resumed.map_or_else(|| session.side_position.load(Ordering::Relaxed), |(_, at)| at);
            match &session.side {
                Outlet::Stream(log) => {
                    let log = Arc::clone(log);
                    Ok(event_stream(log, position, true, None, Some(Arc::clone(&session)), None))
                }
                Outlet::Lines(_) => Err(broken()),
            }
        }
    }
}

fn delete(core: &Core, script: &Script, headers: &HeaderMap) -> Response<Body> {
    if !script.is_legacy() || !script.sessions {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "");
    }
    match text(headers, "mcp-session-id") {
        Some(id) if core.close_session(id) => plain(StatusCode::OK, "text/plain", ""),
        Some(_) => plain(StatusCode::NOT_FOUND, "text/plain", "Session not found"),
        None => plain(StatusCode::BAD_REQUEST, "text/plain", "Mcp-Session-Id is required"),
    }
}

/// What a reader of a stream carries from frame to frame.
struct Reader {
    log: Arc<StreamLog>,
    position: usize,
    with_ids: bool,
    start: Option<String>,
    /// The session whose unrelated messages are read.
    side_of: Option<Arc<Session>>,
    done: bool,
    _guard: Option<CancelOnDrop>,
}

fn event_stream(
    log: Arc<StreamLog>,
    position: usize,
    with_ids: bool,
    start: Option<String>,
    side_of: Option<Arc<Session>>,
    guard: Option<CancelOnDrop>,
) -> Response<Body> {
    let reader = Reader { log, position, with_ids, start, side_of, done: false, _guard: guard };
    let frames = stream::unfold(reader, async |mut reader| {
        if reader.done {
            return None;
        }
        if let Some(start) = reader.start.take() {
            return Some((Ok(Frame::data(Bytes::from(start))), reader));
        }
        let event = match reader.log.next(reader.position).await {
            Next::Frame(data) => {
                reader.position += 1;
                if let Some(session) = &reader.side_of {
                    session.side_position.fetch_max(reader.position, Ordering::Relaxed);
                }
                event(&reader, &data)
            }
            Next::HangUp { retry_ms } => {
                reader.done = true;
                format!("id: {}:{}\nretry: {retry_ms}\ndata: \n\n", reader.log.name, reader.position)
            }
            Next::End(Ending::Clean) => return None,
            Next::End(Ending::Broken) => {
                reader.done = true;
                return Some((Err(broken()), reader));
            }
        };
        Some((Ok(Frame::data(Bytes::from(event))), reader))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    response
}

fn event(reader: &Reader, data: &[u8]) -> String {
    let mut event = String::from("event: message\n");
    if reader.with_ids {
        event.push_str(&format!("id: {}:{}\n", reader.log.name, reader.position));
    }
    for line in String::from_utf8_lossy(data).split('\n') {
        event.push_str(&format!("data: {line}\n"));
    }
    event.push('\n');
    event
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn accepted(was_expected: bool) -> Response<Body> {
    let status = if was_expected { StatusCode::ACCEPTED } else { StatusCode::BAD_REQUEST };
    plain(status, "text/plain", "")
}

fn refuse(status: StatusCode, id: &str, code: i64, message: &str, data: Option<Value>) -> Response<Body> {
    plain(status, "application/json", error_frame(id, &(code, message.to_owned(), data)))
}

fn plain(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// The error that makes the HTTP engine drop a connection.
fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the script says so")
}
