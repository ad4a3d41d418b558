//! Streamable HTTP towards a server, in both eras. Each request is a POST whose answer is JSON or
//! an event stream; a legacy session adds its id to every request and keeps one GET stream open for
//! what belongs to no request.

mod answer;
pub(crate) mod compression;
mod get_stream;

use crate::{
    event::LinkEvent,
    exchange::{Final, Item, Prepared},
    http_client::{Body, HttpClients, PoolError, Worker, why_unreachable},
    link::inbound::{Inbound, Verdict},
};
pub(crate) use answer::no_message;
use answer::{AnswerStream, State};
use bytes::{Bytes, BytesMut};
use compression::RequestCompression;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{Frame, Kind, Method, Revision, header};
use get_stream::{Calls, Side};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header as h};
use http_body_util::{BodyExt, Full};
use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};

/// How long the answer of a call that logs on the GET stream waits for what was logged before it: the
/// two streams have no common order.
const LATE_LOGS: Duration = Duration::from_millis(50);
/// Longest text of a failed answer that is read for the log.
pub(super) const MAX_ERROR_BODY: usize = 64 * 1024;
/// Shortest and longest wait before a broken GET stream is opened again.
const STREAM_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How long closing a session may take.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How long the rest of an answer that nobody needs is read, so that its connection can be used again.
pub(super) const REST_TIME: Duration = Duration::from_millis(500);

/// Headers of a POST there is room for without growing.
const POST_HEADERS: usize = 12;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_AND_SSE: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
pub(super) const SSE: HeaderValue = HeaderValue::from_static("text/event-stream");

/// The transport of one HTTP link.
pub(crate) struct HttpWire {
    shared: Arc<Shared>,
    stream: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    clients: HttpClients,
    headers: HeaderMap,
    revision: OnceLock<(Revision, HeaderValue)>,
    session: OnceLock<HeaderValue>,
    /// Headers of every POST, made when the revision (and with it the session) is settled.
    post_headers: OnceLock<HeaderMap>,
    inbound: Arc<Inbound>,
    max_message: usize,
    compression: Option<RequestCompression>,
    calls: Mutex<Calls>,
    /// A log level was set: log messages may come on the GET stream.
    logs: AtomicBool,
}

impl HttpWire {
    pub(crate) fn new(
        clients: HttpClients,
        headers: HeaderMap,
        inbound: Arc<Inbound>,
        max_message: usize,
        compression: Option<RequestCompression>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                clients,
                headers,
                revision: OnceLock::new(),
                session: OnceLock::new(),
                post_headers: OnceLock::new(),
                inbound,
                max_message,
                compression,
                calls: Mutex::default(),
                logs: AtomicBool::new(false),
            }),
            stream: Mutex::new(None),
        }
    }

    /// Fixes the revision the link speaks: from here on every request says so.
    pub(crate) fn settle_on(&self, revision: Revision) {
        let _ = self.shared.revision.set((revision, HeaderValue::from_static(revision.as_str())));
    }

    pub(crate) fn send(&self, worker: Worker, prepared: Prepared) -> HttpExchange {
        let shared = Arc::clone(&self.shared);
        let task = prepared.task;
        let mut request = shared.post(prepared.bytes);
        let headers = request.headers_mut();
        if let Some(method) = prepared.mcp_method {
            headers.insert(header::MCP_METHOD, method);
        }
        if let Some(name) = prepared.mcp_name {
            headers.insert(header::MCP_NAME, name);
        }
        for (name, value) in prepared.headers {
            headers.append(name, value);
        }
        if prepared.method == Method::SetLevel {
            shared.logs.store(true, Ordering::Relaxed);
        }
        let listens = shared.inbound.key.capabilities.asks_anything() || shared.logs.load(Ordering::Relaxed);
        let mut side = None;
        if prepared.method.may_ask() && listens {
            side = Side::enter(&shared, prepared.id, task.clone());
            if side.is_none() {
                let answer = AnswerStream::taken(prepared.id, prepared.method, shared, worker);
                return HttpExchange { answer, side, logged: false, held: None };
            }
        }
        let pool = match prepared.method {
            // What the gateway asks for itself must not wait behind calls: a busy server is not a dead one.
            Method::Listen | Method::Ping | Method::Discover | Method::Initialize => shared.clients.listening(worker),
            _ => shared.clients.of(worker),
        };
        let response = pool.request(request);
        let answer = AnswerStream::new(State::Head(response), prepared.id, prepared.method, task, shared, worker);
        HttpExchange { answer, side, logged: false, held: None }
    }

    /// Whether a call was given up that the server may still ask about.
    pub(crate) fn is_haunted(&self) -> bool {
        self.shared.calls.lock().expect("invariant: no panic under this lock").given_up
    }

    pub(crate) async fn push(&self, worker: Worker, message: Bytes) -> Result<(), UpstreamError> {
        self.shared.push(worker, message).await
    }

    /// Remembers the session id that came with the answer to `initialize`.
    pub(crate) fn has_session(&self) -> bool {
        self.shared.session.get().is_some()
    }

    /// Keeps a GET stream open for what the server says outside requests. 405 means there is none.
    pub(crate) fn open_stream(&self) {
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move { shared.listen().await });
        *self.stream.lock().expect("invariant: no panic under this lock") = Some(task);
    }

    /// Whether the server can say something outside requests: it has a GET stream, as far as is known.
    pub(crate) fn hears(&self) -> bool {
        let stream = self.stream.lock().expect("invariant: no panic under this lock");
        stream.as_ref().is_some_and(|stream| !stream.is_finished())
    }

    pub(crate) async fn close(&self) {
        if let Some(stream) = self.stream.lock().expect("invariant: no panic under this lock").take() {
            stream.abort();
        }
        if self.has_session() {
            let request = self.shared.request(http::Method::DELETE, Full::default());
            let sent = self.shared.clients.listening(Worker::CONTROL).request(request);
            if tokio::time::timeout(CLOSE_TIME, sent).await.is_err() {
                tracing::debug!(server = %self.shared.inbound.server, "the server did not confirm the end of its session");
            }
        }
    }
}

impl Drop for HttpWire {
    fn drop(&mut self) {
        if let Ok(mut stream) = self.stream.lock()
            && let Some(stream) = stream.take()
        {
            stream.abort();
        }
    }
}

impl fmt::Debug for HttpWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpWire").field("session", &self.has_session()).finish_non_exhaustive()
    }
}

impl Shared {
    fn request(&self, method: http::Method, body: Full<Bytes>) -> Request<Full<Bytes>> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.clients.address().clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        if let Some((_, revision)) = self.revision.get() {
            headers.insert(header::MCP_PROTOCOL_VERSION, revision.clone());
        }
        if let Some(session) = self.session.get() {
            headers.insert(header::MCP_SESSION_ID, session.clone());
        }
        request
    }

    /// A POST. Once the link is settled its headers are a copy of one prepared map.
    fn post(&self, body: Bytes) -> Request<Full<Bytes>> {
        let headers = match self.revision.get() {
            Some(_) => self.post_headers.get_or_init(|| self.headers_of_a_post()).clone(),
            None => self.headers_of_a_post(),
        };
        let plain = self.compression.map(|compression| (compression, body.clone()));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.clients.address().clone();
        *request.headers_mut() = headers;
        if let Some((compression, plain)) = plain {
            compression.apply(&mut request, &plain);
        }
        request
    }

    fn headers_of_a_post(&self) -> HeaderMap {
        let mut request = self.request(http::Method::POST, Full::default());
        request.headers_mut().insert(h::CONTENT_TYPE, JSON);
        request.headers_mut().insert(h::ACCEPT, JSON_AND_SSE);
        // With room for what the client adds (host, length) and the headers of an era.
        let mut headers = HeaderMap::with_capacity(POST_HEADERS);
        headers.extend(std::mem::take(request.headers_mut()));
        headers
    }

    async fn push(&self, worker: Worker, message: Bytes) -> Result<(), UpstreamError> {
        let request = self.post(message);
        // An answer to the server's question must not wait for the connection of the call that it was asked in.
        let response = self.clients.listening(worker).request(request).await.map_err(transport_error)?;
        let status = response.status();
        // Read to the end so that the connection can be used again, unless the server keeps it open.
        let _ = tokio::time::timeout(REST_TIME, collect(response.into_body(), MAX_ERROR_BODY)).await;
        if status.is_success() {
            return Ok(());
        }
        Err(UpstreamError::new(
            UpstreamErrorKind::Garbage,
            Outcome::Unknown,
            format!("it answered a notification with HTTP {}", status.as_u16()),
        ))
    }

    /// Answers a question of a call's own stream where the link itself can; `true` when the caller
    /// must be asked.
    fn must_ask(&self, frame: &Frame, call: u64) -> bool {
        let is_alone = self.inbound.is_for_first_roots(frame) && self.takes_root(Some(call));
        match self.inbound.question(frame, true, is_alone) {
            Verdict::Ask => true,
            Verdict::Answer(answer) => {
                self.reply(answer);
                false
            }
        }
    }

    fn reply(&self, answer: Bytes) {
        self.inbound.tell(LinkEvent::Push { link: self.inbound.link, message: answer });
    }
}

pub(super) fn is_sse<B>(response: &Response<B>) -> bool {
    response
        .headers()
        .get(h::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().trim_ascii_start().first_chunk())
        .is_some_and(|start: &[u8; 17]| start.eq_ignore_ascii_case(b"text/event-stream"))
}

pub(super) fn transport_error(error: PoolError) -> UpstreamError {
    use UpstreamErrorKind::{Lost, NoConnection, Unavailable};
    let (kind, outcome, what) = match &error {
        PoolError::Connect(_) | PoolError::Gone => (Unavailable, Outcome::NotMade, why_unreachable(&error)),
        PoolError::AcquireTimeout(_) => {
            (NoConnection, Outcome::NotMade, "all connections it may have are in use (`connections.max`)")
        }
        PoolError::NotSent(_) => (Lost, Outcome::NotMade, "the connection broke before the call was sent"),
        PoolError::Broken(_) => (Lost, Outcome::Unknown, "the connection broke before it answered"),
    };
    UpstreamError::new(kind, outcome, what).because(error)
}

/// The status of an answer that refused a request, as the cause of an error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("HTTP status {0}")]
pub(crate) struct HttpStatus(pub(crate) u16);

/// Reads a body up to `limit`. `None` when it is larger or breaks off.
pub(super) async fn collect(mut body: Body, limit: usize) -> Option<Bytes> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = frame.ok()?.into_data().unwrap_or_default();
        if buffer.len() + data.len() > limit {
            return None;
        }
        buffer.extend_from_slice(&data);
    }
    Some(buffer.freeze())
}

/// One POST in flight.
pub(crate) struct HttpExchange {
    answer: AnswerStream,
    /// Questions of the GET stream that can only be this call's.
    side: Option<Side>,
    /// A log message of the call came on the GET stream.
    logged: bool,
    /// The answer, and until when more of the call is waited for.
    held: Option<(Final, Instant)>,
}

impl HttpExchange {
    /// The next message; `None` when the server hung up. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Item>, UpstreamError> {
        let Some(side) = &mut self.side else { return self.answer.next().await };
        if self.held.is_none() {
            tokio::select! {
                biased;
                item = self.answer.next() => match item {
                    Ok(Some(Item::Final(answer))) => {
                        side.answered = true;
                        // What the server logged before it answered may come after the answer.
                        let wait = if self.logged { LATE_LOGS } else { Duration::ZERO };
                        self.held = Some((answer, Instant::now() + wait));
                    }
                    item => return item,
                },
                Some(message) = side.messages.recv() => {
                    self.logged |= message.kind() == Kind::Notification;
                    return Ok(Some(Item::Message(message)));
                }
            }
        }
        if let Some((_, until)) = &self.held
            && let Ok(Some(message)) = tokio::time::timeout_at(*until, side.messages.recv()).await
        {
            return Ok(Some(Item::Message(message)));
        }
        let (answer, _) = self.held.take().expect("invariant: held above");
        Ok(Some(Item::Final(answer)))
    }

    pub(crate) fn tell_hang_ups(&mut self) {
        self.answer.tell_hang_ups();
    }

    pub(crate) fn take_hang_up(&mut self) -> Option<Duration> {
        self.answer.take_hang_up()
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.answer.retry_after()
    }

    /// Gives the exchange up: a modern server takes the closed stream as the cancellation.
    pub(crate) fn abandon(&mut self) {
        self.answer.abandon();
    }
}

impl fmt::Debug for HttpExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpExchange").field("id", &self.answer.id()).finish_non_exhaustive()
    }
}

/// Turns configured headers into ones that are never printed.
pub(crate) fn static_headers<'a>(
    configured: impl IntoIterator<Item = (&'a HeaderName, &'a str)>,
    host: Option<&HeaderValue>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in configured {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
    }
    let agent = concat!("fairlead/", env!("CARGO_PKG_VERSION"));
    if let Some(host) = host {
        headers.entry(h::HOST).or_insert_with(|| host.clone());
    }
    headers.entry(h::USER_AGENT).or_insert(HeaderValue::from_static(agent));
    headers
}
