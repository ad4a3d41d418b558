//! Streamable HTTP towards a server, in both eras. Each request is a POST whose answer is JSON or
//! an event stream; a legacy session adds its id to every request and keeps one GET stream open for
//! what belongs to no request.

use crate::{
    event::{End, LinkEvent},
    exchange::{Final, Item, Prepared},
    http_client::{HttpClients, Worker},
    link::inbound::{AskedOf, Inbound, Verdict, awaited_task, task_of},
};
use bytes::{Bytes, BytesMut};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{
    Field, Frame, FrameError, Kind, Limits, Method, Revision, header,
    message::{self, Decimal},
    sse::{SseError, SseLimits, SseParser},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header as h};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::ResponseFuture;
use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, Sleep},
};

/// Messages of the GET stream that wait for a caller who reads slowly.
const SIDE_QUEUE: usize = 32;
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
    calls: Mutex<Calls>,
    /// A log level was set: log messages may come on the GET stream.
    logs: AtomicBool,
}

/// Calls a question or a log message on the GET stream may belong to. Kept only where the caller can
/// be asked or wants to hear.
#[derive(Default)]
struct Calls {
    open: HashMap<u64, (mpsc::Sender<Frame>, Option<Box<str>>)>,
    /// One was given up without an answer: from then on no question can be told to be another's.
    given_up: bool,
    asked: AskedOf,
}

impl HttpWire {
    pub(crate) fn new(clients: HttpClients, headers: HeaderMap, inbound: Arc<Inbound>, max_message: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                clients,
                headers,
                revision: OnceLock::new(),
                session: OnceLock::new(),
                post_headers: OnceLock::new(),
                inbound,
                max_message,
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
        let task = awaited_task(prepared.method, &prepared.bytes);
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
        let side = (prepared.method.may_ask() && listens).then(|| Side::enter(&shared, prepared.id, task.clone()));
        let response = shared.clients.of(worker).request(request);
        let answer = AnswerStream {
            state: State::Head(response),
            id: prepared.id,
            method: prepared.method,
            task,
            shared,
            worker,
            last_event: None,
            retry: STREAM_RETRY.0,
            resumes: 0,
            tells_hang_ups: false,
            hung_up: None,
        };
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
            let sent = self.shared.clients.of(Worker::CONTROL).request(request);
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
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.clients.address().clone();
        *request.headers_mut() = headers;
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
        let response = self.clients.of(worker).request(request).await.map_err(transport_error)?;
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
    fn must_ask(&self, frame: &Frame) -> bool {
        match self.inbound.question(frame, true, false) {
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

    /// What comes on the GET stream names no call. With one call open, and none given up, it is that
    /// call's.
    fn sole_call(&self) -> Option<(u64, mpsc::Sender<Frame>)> {
        let calls = self.calls.lock().expect("invariant: no panic under this lock");
        if calls.open.len() == 1 && !calls.given_up {
            calls.open.iter().next().map(|(id, (call, _))| (*id, call.clone()))
        } else {
            None
        }
    }

    /// The call a question belongs to: of a task the one that waits for its result, else the only one there is.
    fn asker(&self, frame: &Frame) -> Option<(u64, mpsc::Sender<Frame>)> {
        match task_of(frame) {
            Some(task) => {
                let calls = self.calls.lock().expect("invariant: no panic under this lock");
                let waits = |awaited: &Option<Box<str>>| awaited.as_deref() == Some(&*task);
                let call = calls.open.iter().find(|(_, (_, awaited))| waits(awaited));
                call.map(|(id, (call, _))| (*id, call.clone()))
            }
            None => self.sole_call().filter(|_| self.inbound.may_guess()),
        }
    }

    fn untied_question(&self, frame: &Frame) {
        let sole = self.asker(frame);
        match self.inbound.question(frame, false, sole.is_some()) {
            Verdict::Answer(answer) => self.reply(answer),
            Verdict::Ask => {
                let asked = sole.filter(|(_, call)| call.try_send(frame.clone()).is_ok());
                if let Some((call, _)) = asked {
                    self.note_asked(frame, call);
                } else {
                    let id = frame.id().unwrap_or("null");
                    self.reply(message::error(Some(id), -32603, "the caller does not read", None));
                }
            }
        }
    }

    fn note_asked(&self, frame: &Frame, call: u64) {
        self.calls.lock().expect("invariant: no panic under this lock").asked.note(frame, call);
    }

    /// The server withdraws a question: whoever was asked it hears of that.
    fn withdrawn(&self, notice: Frame) {
        let call = {
            let mut calls = self.calls.lock().expect("invariant: no panic under this lock");
            calls.asked.take(&notice).and_then(|call| calls.open.get(&call).map(|(call, _)| call.clone()))
        };
        if let Some(call) = call {
            let _ = call.try_send(notice);
        }
    }

    async fn listen(&self) {
        let worker = Worker::CONTROL;
        // What the server asked for, and what is waited as long as it does not keep a stream open.
        let (mut asked, mut wait) = (STREAM_RETRY.0, STREAM_RETRY.0);
        let mut last_id: Option<HeaderValue> = None;
        let mut was_open = false;
        loop {
            let mut request = self.request(http::Method::GET, Full::default());
            request.headers_mut().insert(h::ACCEPT, SSE);
            if let Some(id) = &last_id {
                request.headers_mut().insert(header::LAST_EVENT_ID, id.clone());
            }
            match self.clients.of(worker).request(request).await {
                Ok(response) if response.status().is_success() && is_sse(&response) => {
                    if std::mem::replace(&mut was_open, true) && last_id.is_none() {
                        // Without a place to go on from, what the server said meanwhile is lost.
                        self.inbound.lost_track();
                    }
                    let opened = Instant::now();
                    let mut body = response.into_body();
                    let mut parser = SseParser::new(SseLimits { max_event: self.max_message });
                    while let Some(Ok(chunk)) = body.frame().await {
                        let Ok(data) = chunk.into_data() else { continue };
                        parser.push(data);
                        loop {
                            match parser.next() {
                                Ok(Some(event)) => {
                                    if let Some(retry) = event.retry {
                                        asked = Duration::from_millis(retry).clamp(STREAM_RETRY.0, STREAM_RETRY.1);
                                    }
                                    wait = asked;
                                    if let Some(id) = event.id.as_deref().and_then(|id| HeaderValue::from_str(id).ok())
                                    {
                                        last_id = Some(id);
                                    }
                                    if !event.data.is_empty() {
                                        self.unrelated(event.data);
                                    }
                                }
                                Ok(None) => break,
                                Err(error) => {
                                    tracing::warn!(server = %self.inbound.server, %error, "the server's event stream is not valid");
                                    parser = SseParser::new(SseLimits { max_event: self.max_message });
                                    break;
                                }
                            }
                        }
                    }
                    // One that is closed at once each time is no reason to hurry.
                    if opened.elapsed() >= STREAM_RETRY.1 {
                        wait = asked;
                    }
                }
                // The stream before may not be over for the server yet, or it wants to be left alone.
                Ok(response) if was_open && is_for_now(response.status()) => {}
                // Of a stream that never was it only says that there is none: some frameworks answer so. One that
                // was there and is no longer had a session that is gone, whatever the server calls that.
                Ok(response) if was_open && response.status().is_client_error() => {
                    self.inbound.closed("the server forgot the session", End::Forgotten);
                    return;
                }
                Ok(response) if response.status().is_client_error() => return,
                Ok(_) => {}
                Err(error) => {
                    if error.is_connect() {
                        self.inbound.closed("the connection to the server broke", End::Died);
                        return;
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(STREAM_RETRY.1);
        }
    }

    /// Sorts a message of the GET stream.
    fn unrelated(&self, data: Bytes) {
        match Frame::parse(data, &Limits::default()) {
            Ok(frame) => match frame.kind() {
                Kind::Notification if frame.method_class() == Method::LogMessage => {
                    let told = self.sole_call().is_some_and(|(_, call)| call.try_send(frame.clone()).is_ok());
                    if !told {
                        self.inbound.notification(frame);
                    }
                }
                Kind::Notification if frame.method_class() == Method::Cancelled => self.withdrawn(frame),
                Kind::Notification => self.inbound.notification(frame),
                Kind::Request => self.untied_question(&frame),
                Kind::Result | Kind::Error => {}
            },
            Err(error) => {
                tracing::warn!(server = %self.inbound.server, %error, "not a message on the server's event stream")
            }
        }
    }
}

/// Whether a refusal says that it may be otherwise soon.
fn is_for_now(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS)
}

pub(super) fn is_sse<B>(response: &Response<B>) -> bool {
    response
        .headers()
        .get(h::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().trim_ascii_start().first_chunk())
        .is_some_and(|start: &[u8; 17]| start.eq_ignore_ascii_case(b"text/event-stream"))
}

pub(super) fn transport_error(error: hyper_util::client::legacy::Error) -> UpstreamError {
    if error.is_connect() {
        UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, "it cannot be reached").because(error)
    } else {
        UpstreamError::new(UpstreamErrorKind::Lost, Outcome::Unknown, "the connection broke before it answered")
            .because(error)
    }
}

/// The status of an answer that refused a request, as the cause of an error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("HTTP status {0}")]
pub(crate) struct HttpStatus(pub(crate) u16);

/// Reads a body up to `limit`. `None` when it is larger or breaks off.
pub(super) async fn collect(mut body: Incoming, limit: usize) -> Option<Bytes> {
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

enum State {
    Head(ResponseFuture),
    Json {
        body: Incoming,
        buffer: BytesMut,
        first: Option<Bytes>,
        status: StatusCode,
    },
    Stream {
        body: Incoming,
        parser: SseParser,
    },
    /// The server closed the stream before the answer, which 2025-11-25 lets it do: ask again with
    /// the last event id after the wait it asked for.
    Resume {
        wait: Pin<Box<Sleep>>,
    },
    Done,
}

/// How often a stream that the server closes early is picked up again.
const MAX_RESUMES: u32 = 100;

/// The answer to a POST as it comes in.
struct AnswerStream {
    state: State,
    id: u64,
    method: Method,
    /// The task whose result it waits for.
    task: Option<Box<str>>,
    shared: Arc<Shared>,
    worker: Worker,
    last_event: Option<HeaderValue>,
    retry: Duration,
    resumes: u32,
    tells_hang_ups: bool,
    /// The server hung up and wants to be asked again after that long.
    hung_up: Option<Duration>,
}

impl AnswerStream {
    /// The next message; `None` when the server hung up. Cancel safe: all progress is kept in `self`.
    async fn next(&mut self) -> Result<Option<Item>, UpstreamError> {
        loop {
            match &mut self.state {
                State::Head(response) => {
                    let response = response.await.map_err(|error| {
                        self.shared.inbound.tell(LinkEvent::Suspect { link: self.shared.inbound.link });
                        // The request itself was taken before its stream was picked up again.
                        if self.resumes > 0 { broken().because(error) } else { transport_error(error) }
                    })?;
                    self.head(response)?;
                }
                State::Json { body, buffer, first, status } => {
                    while let Some(frame) = body.frame().await {
                        let data = frame.map_err(|error| broken().because(error))?.into_data().unwrap_or_default();
                        let so_far = buffer.len() + first.as_ref().map_or(0, Bytes::len);
                        if so_far + data.len() > self.shared.max_message {
                            return Err(too_large(self.shared.max_message));
                        }
                        // One chunk, the usual case, is used as it is.
                        match (first.take(), buffer.is_empty()) {
                            (None, true) => *first = Some(data),
                            (Some(earlier), _) => {
                                let announced = usize::try_from(body.size_hint().lower()).unwrap_or(0);
                                buffer.reserve(so_far + data.len() + announced.min(self.shared.max_message));
                                buffer.extend_from_slice(&earlier);
                                buffer.extend_from_slice(&data);
                            }
                            (None, false) => buffer.extend_from_slice(&data),
                        }
                    }
                    let bytes = first.take().unwrap_or_else(|| std::mem::take(buffer).freeze());
                    let status = *status;
                    self.state = State::Done;
                    return self.json(bytes, status).map(Some);
                }
                State::Stream { body, parser } => {
                    match parser.next() {
                        Ok(Some(event)) => {
                            if let Some(retry) = event.retry {
                                self.retry = Duration::from_millis(retry).min(STREAM_RETRY.1);
                            }
                            if let Some(id) = event.id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
                                self.last_event = Some(id);
                            }
                            if event.data.is_empty() {
                                continue;
                            }
                            if let Some(item) = self.event(event.data)? {
                                return Ok(Some(item));
                            }
                            continue;
                        }
                        Ok(None) => {}
                        Err(error @ SseError::TooLarge { .. }) => {
                            return Err(too_large(self.shared.max_message).because(error));
                        }
                    }
                    match body.frame().await {
                        Some(Ok(frame)) => {
                            if let Ok(data) = frame.into_data() {
                                parser.push(data);
                            }
                        }
                        Some(Err(error)) => self.resume_or(broken().because(error))?,
                        None => {
                            self.resume_or(broken())?;
                            if self.tells_hang_ups {
                                self.hung_up = Some(self.retry);
                                return Ok(None);
                            }
                        }
                    }
                }
                State::Resume { wait } => {
                    wait.await;
                    let mut request = self.shared.request(http::Method::GET, Full::default());
                    request.headers_mut().insert(h::ACCEPT, SSE);
                    if let Some(id) = &self.last_event {
                        request.headers_mut().insert(header::LAST_EVENT_ID, id.clone());
                    }
                    self.state = State::Head(self.shared.clients.of(self.worker).request(request));
                }
                State::Done => return Err(broken()),
            }
        }
    }

    /// Picks a legacy stream up again where the server gave us a place to do so.
    fn resume_or(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        let legacy = self.shared.revision.get().is_some_and(|(revision, _)| *revision < Revision::V2026_07_28);
        if !legacy || self.last_event.is_none() || self.resumes >= MAX_RESUMES {
            return Err(error);
        }
        self.resumes += 1;
        self.state = State::Resume { wait: Box::pin(tokio::time::sleep(self.retry)) };
        Ok(())
    }

    fn head(&mut self, response: Response<Incoming>) -> Result<(), UpstreamError> {
        let status = response.status();
        if status.is_success()
            && self.method == Method::Initialize
            && let Some(session) = response.headers().get(header::MCP_SESSION_ID)
        {
            let mut session = session.clone();
            session.set_sensitive(true);
            let _ = self.shared.session.set(session);
        }
        if status == StatusCode::NOT_FOUND && self.shared.session.get().is_some() {
            return Err(self.session_lost());
        }
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(UpstreamError::new(
                UpstreamErrorKind::Unavailable,
                self.refused_outcome(),
                format!("it refuses the gateway's credentials (HTTP {})", status.as_u16()),
            ));
        }
        if status.is_success() && is_sse(&response) {
            self.state = State::Stream {
                body: response.into_body(),
                parser: SseParser::new(SseLimits { max_event: self.shared.max_message }),
            };
        } else {
            self.state = State::Json { body: response.into_body(), buffer: BytesMut::new(), first: None, status };
        }
        Ok(())
    }

    fn session_lost(&self) -> UpstreamError {
        self.shared.inbound.closed("the server forgot the session", End::Forgotten);
        UpstreamError::new(UpstreamErrorKind::SessionLost, self.refused_outcome(), "it forgot the session")
    }

    /// What a refusal says of the call: one that meets the request itself, that nothing was done; one
    /// that meets a stream picked up again comes after the request was taken.
    fn refused_outcome(&self) -> Outcome {
        if self.resumes > 0 { Outcome::Unknown } else { Outcome::NotMade }
    }

    fn json(&self, bytes: Bytes, status: StatusCode) -> Result<Item, UpstreamError> {
        match Frame::parse(bytes.clone(), &Limits::default()) {
            Ok(frame) if matches!(frame.kind(), Kind::Result | Kind::Error) => {
                if self.is_lost_session(&frame, status) {
                    return Err(self.session_lost());
                }
                self.check_id(&frame)?;
                Ok(Item::Final(Final { frame, status: Some(status.as_u16()) }))
            }
            Ok(_) => Err(garbage("it answered with a request")),
            Err(error) if !status.is_success() => {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
                tracing::debug!(server = %self.shared.inbound.server, status = status.as_u16(), %error, body = text, "the server answered with an error");
                let kind =
                    if status.is_server_error() { UpstreamErrorKind::Unavailable } else { UpstreamErrorKind::Garbage };
                let message = format!("it answered with HTTP {}", status.as_u16());
                Err(UpstreamError::new(kind, Outcome::Unknown, message).because(HttpStatus(status.as_u16())))
            }
            Err(FrameError::Batch) => Err(garbage("it answered with a batch")),
            Err(error) => Err(garbage("its answer is not JSON-RPC").because(error)),
        }
    }

    /// A real server answers 400 where the specification asks for 404 when it does not know a session.
    fn is_lost_session(&self, frame: &Frame, status: StatusCode) -> bool {
        status == StatusCode::BAD_REQUEST
            && self.shared.session.get().is_some()
            && frame.kind() == Kind::Error
            && frame.id().is_none()
            && frame.str(Field::ErrorMessage).is_some_and(|text| text.to_ascii_lowercase().contains("session"))
    }

    fn check_id(&self, frame: &Frame) -> Result<(), UpstreamError> {
        match frame.id_bytes() {
            Some(id) if id == Decimal::of(self.id).as_bytes() => Ok(()),
            // An error that could not be tied to a request still is the answer to this POST.
            None if frame.kind() == Kind::Error => Ok(()),
            _ => Err(garbage("its answer has another id than the request")),
        }
    }

    /// Sorts a message of the answer's stream; `None` when the link dealt with it.
    fn event(&mut self, data: Bytes) -> Result<Option<Item>, UpstreamError> {
        let frame = Frame::parse(data, &Limits::default())
            .map_err(|error| garbage("a message of its event stream is not JSON-RPC").because(error))?;
        self.shared.inbound.hear();
        match frame.kind() {
            Kind::Result | Kind::Error => {
                self.check_id(&frame)?;
                self.state = State::Done;
                Ok(Some(Item::Final(Final { frame, status: None })))
            }
            Kind::Request => {
                if self.shared.must_ask(&frame) {
                    self.shared.note_asked(&frame, self.id);
                    return Ok(Some(Item::Message(frame)));
                }
                Ok(None)
            }
            Kind::Notification => match frame.method_class() {
                Method::ToolsListChanged
                | Method::PromptsListChanged
                | Method::ResourcesListChanged
                | Method::ResourceUpdated
                    if self.method != Method::Listen =>
                {
                    self.shared.inbound.notification(frame);
                    Ok(None)
                }
                // Servers say it on whatever stream is open; whose task it is, is not for this call to know.
                Method::TaskStatus
                    if self.task.is_none() || frame.str(Field::TaskId).as_deref() != self.task.as_deref() =>
                {
                    self.shared.inbound.notification(frame);
                    Ok(None)
                }
                _ => Ok(Some(Item::Message(frame))),
            },
        }
    }
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

/// A call's place among those that messages on the GET stream may belong to.
struct Side {
    messages: mpsc::Receiver<Frame>,
    shared: Arc<Shared>,
    id: u64,
    answered: bool,
}

impl Side {
    fn enter(shared: &Arc<Shared>, id: u64, task: Option<Box<str>>) -> Self {
        let (sender, messages) = mpsc::channel(SIDE_QUEUE);
        // One that waits for a task may give up: what the task asks names the task.
        let answered = task.is_some();
        shared.calls.lock().expect("invariant: no panic under this lock").open.insert(id, (sender, task));
        Self { messages, shared: Arc::clone(shared), id, answered }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let Ok(mut calls) = self.shared.calls.lock() else { return };
        calls.open.remove(&self.id);
        if !self.answered {
            calls.given_up = true;
        }
    }
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
        self.answer.tells_hang_ups = true;
    }

    pub(crate) fn take_hang_up(&mut self) -> Option<Duration> {
        self.answer.hung_up.take()
    }

    /// Gives the exchange up: a modern server takes the closed stream as the cancellation.
    pub(crate) fn abandon(&mut self) {
        self.answer.state = State::Done;
    }
}

impl fmt::Debug for HttpExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpExchange").field("id", &self.answer.id).finish_non_exhaustive()
    }
}

fn broken() -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::Lost, Outcome::Unknown, "the connection broke before the answer was complete")
}

fn garbage(what: &'static str) -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::Unknown, what)
}

fn too_large(limit: usize) -> UpstreamError {
    UpstreamError::new(
        UpstreamErrorKind::TooLarge,
        Outcome::Unknown,
        format!("its answer is larger than {limit} bytes"),
    )
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
