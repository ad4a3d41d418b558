//! The answer to a POST: JSON or an event stream, which a legacy server may break off and have picked up again.

use super::{HttpStatus, SSE, STREAM_RETRY, Shared, is_sse, transport_error};
use crate::{
    balance::report,
    event::{End, LinkEvent},
    exchange::{Final, Item},
    http_client::{Body, PoolError, ResponseFuture, Worker},
};
use bytes::{Bytes, BytesMut};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{
    Field, Frame, FrameError, Kind, Limits, Method, Revision, header,
    message::Decimal,
    sse::{SseError, SseLimits, SseParser},
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header as h};
use http_body_util::{BodyExt, Full};
use hyper::body::Body as _;
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::time::Sleep;

/// How far the answer has come.
pub(super) enum State {
    Head(ResponseFuture),
    Json {
        body: Body,
        buffer: BytesMut,
        first: Option<Bytes>,
        status: StatusCode,
    },
    Stream {
        body: Body,
        parser: SseParser,
    },
    /// The server closed the stream before the answer, which 2025-11-25 lets it do: ask again with
    /// the last event id after the wait it asked for.
    Resume {
        wait: Pin<Box<Sleep>>,
    },
    /// Nothing was sent: the link became another client's own.
    Taken,
    Done,
}

/// How often a stream that the server closes early is picked up again.
const MAX_RESUMES: u32 = 100;

/// The answer to a POST as it comes in.
pub(super) struct AnswerStream {
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
    /// When it wants the next try, of an answer that says that it is too much now.
    retry_after: Option<Duration>,
}

impl AnswerStream {
    /// Of a request that was just sent. `task`: the one whose result it waits for.
    pub(super) fn new(
        state: State,
        id: u64,
        method: Method,
        task: Option<Box<str>>,
        shared: Arc<Shared>,
        worker: Worker,
    ) -> Self {
        Self {
            state,
            id,
            method,
            task,
            shared,
            worker,
            last_event: None,
            retry: STREAM_RETRY.0,
            resumes: 0,
            tells_hang_ups: false,
            hung_up: None,
            retry_after: None,
        }
    }

    /// Of a request that was not sent: the link became another client's own.
    pub(super) fn taken(id: u64, method: Method, shared: Arc<Shared>, worker: Worker) -> Self {
        Self::new(State::Taken, id, method, None, shared, worker)
    }

    /// The id of the request.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// What `Retry-After` said where it is too much for the server.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// From now on [`AnswerStream::next`] says that the server hung up.
    pub(super) fn tell_hang_ups(&mut self) {
        self.tells_hang_ups = true;
    }

    /// After how long the server that hung up wants to be asked again.
    pub(super) fn take_hang_up(&mut self) -> Option<Duration> {
        self.hung_up.take()
    }

    /// Closes it.
    pub(super) fn abandon(&mut self) {
        self.state = State::Done;
    }

    /// The next message; `None` when the server hung up. Cancel safe: all progress is kept in `self`.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, UpstreamError> {
        loop {
            match &mut self.state {
                State::Head(response) => {
                    let response = response.await.map_err(|error| {
                        // That all connections are in use says nothing of the server.
                        if !matches!(error, PoolError::AcquireTimeout(_)) {
                            self.shared.inbound.tell(LinkEvent::Suspect { link: self.shared.inbound.link });
                        }
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
                State::Taken => {
                    self.state = State::Done;
                    let text = "its session became another client's own";
                    return Err(UpstreamError::new(UpstreamErrorKind::Lost, Outcome::NotMade, text));
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

    fn head(&mut self, response: Response<Body>) -> Result<(), UpstreamError> {
        let status = response.status();
        let instance = &self.shared.inbound.instance;
        if instance.listens()
            && let Some(load) = response.headers().get(report::HEADER).and_then(|value| value.to_str().ok())
            && let Some(pressure) = report::Pressure::of_header(load)
        {
            instance.press(pressure);
        }
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
            return Err(no_message(status, self.refused_outcome(), None));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            self.retry_after = retry_after(response.headers());
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
                Err(no_message(status, self.refused_outcome(), self.retry_after))
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
                if let State::Stream { body, .. } = std::mem::replace(&mut self.state, State::Done) {
                    body.finish();
                }
                Ok(Some(Item::Final(Final { frame, status: None })))
            }
            Kind::Request => {
                if self.shared.must_ask(&frame, self.id) {
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
                Method::Progress if self.task.is_none() && self.shared.inbound.is_of_a_task(&frame, self.id) => {
                    self.shared.inbound.notification(frame);
                    Ok(None)
                }
                _ => Ok(Some(Item::Message(frame))),
            },
        }
    }
}

/// Of an answer with a status that says that there is no message. `refused`: what it says of the call where it was
/// turned away.
pub(crate) fn no_message(status: StatusCode, refused: Outcome, retry_after: Option<Duration>) -> UpstreamError {
    use UpstreamErrorKind::{Garbage, Unavailable};
    let code = status.as_u16();
    let (kind, outcome, message) = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let text = format!("it refuses the gateway's credentials (HTTP {code})");
            return UpstreamError::new(Unavailable, refused, text).with_status(code, None);
        }
        // A request over a limit was turned away.
        StatusCode::TOO_MANY_REQUESTS => (Garbage, refused, format!("it answered with HTTP {code}")),
        _ if status.is_server_error() => (Unavailable, Outcome::Unknown, format!("it answered with HTTP {code}")),
        _ => (Garbage, Outcome::Unknown, format!("it answered with HTTP {code}")),
    };
    UpstreamError::new(kind, outcome, message).with_status(code, retry_after).because(HttpStatus(code))
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

/// Longest time a server can ask to be left alone for.
const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);

/// What `Retry-After` says in seconds. (A date is not read: it needs the clocks of both to agree.)
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(h::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_REST))
}
