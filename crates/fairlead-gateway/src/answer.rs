//! The answer to a call: JSON when the server answers without saying anything before, an event
//! stream as soon as there is more to tell (progress, log, a question) or nothing to tell for long.
//!
//! The stream is driven by its own body: when the client goes away the body is dropped, and with it
//! the exchange. For a modern client that is a cancellation, which the server is told; for a legacy
//! client it is not, and the server finishes for nobody.

use crate::{
    body::{Body, Chunks},
    call::Call,
    dispatch::{self, Begun},
    questions::{Asked, Questions},
    record,
    resolve::Target,
    response::{call_refusal_bytes, json, modern_status, refuse_call, stream},
    roots, shape,
};
use bytes::{Bytes, BytesMut};
use fairlead_core::UpstreamError;
use fairlead_observe::{CallStatus, QuestionOutcome};
use fairlead_upstream::{Exchange, Final, Item};
use fairlead_wire::{Era, Frame, Kind, Method, message, sse};
use futures_util::Stream;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{sync::mpsc, time::Instant};

/// Events that wait for a client that reads slowly; then the server waits too.
const STREAM_QUEUE: usize = 32;

/// Questions of one call that may be open at the same time.
const MAX_ASKED: usize = 100;

/// One message as an event.
pub(crate) fn event(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 24);
    sse::write_event(&mut out, None, Some("message"), message);
    out.freeze()
}

/// A comment that keeps a stream alive.
pub(crate) fn comment() -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    sse::write_comment(&mut out, "keep-alive");
    out.freeze()
}

/// The body of a stream whole, for a batch; `None` for an empty one. Only the answer itself is taken
/// from an event stream: what came before it has no place in a batch's array.
pub(crate) async fn whole(response: Response<Body>) -> Option<Bytes> {
    let is_stream = response
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let bytes = response.into_body().collect().await.ok()?.to_bytes();
    if !is_stream {
        return (!bytes.is_empty()).then_some(bytes);
    }
    let mut parser = sse::SseParser::new(sse::SseLimits::default());
    parser.push(bytes);
    let mut last = None;
    while let Ok(Some(event)) = parser.next() {
        if !event.data.is_empty() {
            last = Some(event.data);
        }
    }
    last
}

/// Makes the call and answers it.
pub(crate) async fn respond(call: Box<Call>, target: Target) -> Response<Body> {
    let keep_alive = call.endpoint.config.listen.keep_alive;
    let begun = {
        let begin = dispatch::begin(&call, &target, call.started + keep_alive);
        match &call.control {
            None => begin.await,
            Some(control) => {
                tokio::select! {
                    biased;
                    begun = begin => begun,
                    () = control.cancelled() => {
                        // The exchange was dropped with `begin`; a stream that ends without an
                        // answer is what a cancelled request looks like.
                        record::call(&call, &target, CallStatus::Cancelled);
                        return stream(Body::empty());
                    }
                }
            }
        }
    };
    match begun {
        Begun::Answered { answer, link } => {
            record::call(&call, &target, record::status_of(&answer.frame));
            let (status, bytes) = shape::answer(&call, target.upstream.handle.config(), &answer, link);
            json(status, bytes)
        }
        Begun::Failed(error) => {
            record::failure(&call, &target, &error);
            refuse_call(call.era, Some(call.id()), &error.to_refusal(target.upstream.handle.name().as_str()))
        }
        Begun::Spoke { exchange, frame } => streamed(call, target, Some(exchange), Some(frame)),
        Begun::Quiet { exchange } => streamed(call, target, Some(exchange), None),
        Begun::NeedsRoots => streamed(call, target, None, None),
    }
}

fn streamed(call: Box<Call>, target: Target, exchange: Option<Box<Exchange>>, first: Option<Frame>) -> Response<Body> {
    let (out, receiver) = mpsc::channel(STREAM_QUEUE);
    let telling = async move {
        let mut telling = Telling { call, target, out, asked: Vec::new() };
        telling.run(exchange, first).await;
    };
    stream(Body::stream(driven(telling, receiver)))
}

/// Chunks that come out of `receiver` while `work` runs.
pub(crate) fn driven(work: impl Future<Output = ()> + Send + 'static, receiver: mpsc::Receiver<Bytes>) -> Chunks {
    Box::pin(Driven { work: Some(Box::pin(work)), receiver })
}

struct Driven {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    receiver: mpsc::Receiver<Bytes>,
}

impl Stream for Driven {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Poll::Ready(chunk) = self.receiver.poll_recv(context) {
                return Poll::Ready(chunk);
            }
            let Some(work) = &mut self.work else { return Poll::Ready(None) };
            match work.as_mut().poll(context) {
                // The sender went with the work: the receiver now drains to its end.
                Poll::Ready(()) => self.work = None,
                Poll::Pending => return self.receiver.poll_recv(context),
            }
        }
    }
}

/// An exchange whose caller listens on a stream.
struct Telling {
    call: Box<Call>,
    target: Target,
    out: mpsc::Sender<Bytes>,
    asked: Vec<Asked>,
}

/// Cancels the exchange of a modern client when it goes away.
struct Held {
    exchange: Box<Exchange>,
    cancel_when_dropped: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.cancel_when_dropped {
            self.exchange.cancel("the client closed the stream");
        }
    }
}

impl Telling {
    async fn run(&mut self, exchange: Option<Box<Exchange>>, first: Option<Frame>) {
        let control = self.call.control.clone();
        let cancelled = async {
            match control {
                Some(control) => control.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let mut cancelled = std::pin::pin!(cancelled);
        let exchange = match exchange {
            Some(exchange) => exchange,
            None => {
                let begun = async {
                    roots::ask(&self.call, &self.out).await;
                    self.begin_again().await
                };
                tokio::select! {
                    begun = begun => match begun {
                        Some(exchange) => exchange,
                        None => return,
                    },
                    () = &mut cancelled => {
                        record::call(&self.call, &self.target, CallStatus::Cancelled);
                        return;
                    }
                }
            }
        };
        let mut held = Held { exchange, cancel_when_dropped: self.call.era == Era::Modern };
        if let Some(frame) = first {
            self.tell(&held.exchange, frame).await;
        }
        let keep_alive = self.call.endpoint.config.listen.keep_alive;
        let mut quiet = Instant::now() + keep_alive;
        let is_listening = self.call.frame.method_class() == Method::Listen;
        let mut drain = self.call.gateway.drain_begins();
        loop {
            tokio::select! {
                next = held.exchange.next() => match next {
                    Ok(Item::Message(frame)) => self.tell(&held.exchange, frame).await,
                    Ok(Item::Final(answer)) => {
                        let link = held.exchange.link().peer().revision.era();
                        self.finish(&answer, link).await;
                        return;
                    }
                    Err(error) => {
                        self.fail(&error).await;
                        return;
                    }
                },
                () = &mut cancelled => {
                    held.exchange.cancel("the client cancelled the request");
                    record::call(&self.call, &self.target, CallStatus::Cancelled);
                    return;
                }
                () = crate::listener::turned(&mut drain), if is_listening => {
                    // It would go on for hours; its graceful end is its result.
                    held.exchange.cancel("the gateway is shutting down");
                    record::call(&self.call, &self.target, CallStatus::Ok);
                    let _ = self.out.send(event(&crate::listening::end(&self.call))).await;
                    return;
                }
                () = tokio::time::sleep_until(quiet) => {
                    if self.out.send(comment()).await.is_err() {
                        return;
                    }
                }
            }
            quiet = Instant::now() + keep_alive;
        }
    }

    /// Makes the call once the roots are known.
    async fn begin_again(&mut self) -> Option<Box<Exchange>> {
        let quiet = Instant::now() + self.call.endpoint.config.listen.keep_alive;
        match dispatch::begin(&self.call, &self.target, quiet).await {
            Begun::Answered { answer, link } => {
                self.finish(&answer, link).await;
                None
            }
            Begun::Spoke { exchange, frame } => {
                self.tell(&exchange, frame).await;
                Some(exchange)
            }
            Begun::Quiet { exchange } => Some(exchange),
            Begun::Failed(error) => {
                self.fail(&error).await;
                None
            }
            Begun::NeedsRoots => {
                let error = UpstreamError::new(
                    fairlead_core::UpstreamErrorKind::Unavailable,
                    fairlead_core::Outcome::NotMade,
                    "it follows roots, and the client changed its own in between",
                );
                self.fail(&error).await;
                None
            }
        }
    }

    /// Passes on a message of the call.
    async fn tell(&mut self, exchange: &Exchange, frame: Frame) {
        let config = self.target.upstream.handle.config();
        if frame.kind() != Kind::Request {
            if let Some(message) = shape::notification(&self.call, config, &frame) {
                let _ = self.out.send(event(&message)).await;
            }
            return;
        }
        // A question is only ever handed up when the client declared that it can be asked.
        self.asked.retain(Asked::is_open);
        let may_ask = self.call.era == Era::Legacy && self.asked.len() < MAX_ASKED;
        let asked = may_ask
            .then(|| Questions::ask(&self.call.gateway, self.call.user, exchange.link(), exchange.questions(), &frame));
        match asked.flatten() {
            Some((asked, question)) => {
                self.asked.push(asked);
                let _ = self.out.send(event(&question)).await;
            }
            None => {
                self.target.upstream.metrics.question(QuestionOutcome::Declined);
                let id = frame.id().unwrap_or("null");
                exchange.link().push_soon(message::error(Some(id), -32603, "the caller cannot be asked now", None));
            }
        }
    }

    async fn finish(&self, answer: &Final, link: Era) {
        record::call(&self.call, &self.target, record::status_of(&answer.frame));
        let (_, bytes) = shape::answer(&self.call, self.target.upstream.handle.config(), answer, link);
        let _ = self.out.send(event(&bytes)).await;
    }

    async fn fail(&self, error: &UpstreamError) {
        record::failure(&self.call, &self.target, error);
        let refusal = error.to_refusal(self.target.upstream.handle.name().as_str());
        let _ = self.out.send(event(&call_refusal_bytes(self.call.era, Some(self.call.id()), &refusal))).await;
    }
}

/// An answer of the gateway's own.
pub(crate) fn own(call: &Call, result: &str) -> Response<Body> {
    record::own(call);
    json(StatusCode::OK, message::result(call.id(), result))
}

/// A server's answer to a request that is not a call of a tool, passed on.
pub(crate) fn passed_on(call: &Call, frame: &Frame) -> Response<Body> {
    let status = match call.era {
        Era::Modern => frame.error_code().map_or(StatusCode::OK, modern_status),
        Era::Legacy => StatusCode::OK,
    };
    let answer = Final { frame: frame.clone(), status: None };
    debug_assert_ne!(call.frame.method_class(), Method::ToolsCall);
    let server = call.endpoint.servers.first().map(|server| server.handle.config().clone());
    match server {
        Some(server) => json(status, shape::answer(call, &server, &answer, call.era).1),
        None => json(status, frame.bytes().clone()),
    }
}
