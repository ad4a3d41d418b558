//! The answer to a call: JSON when the server answers without saying anything before, an event
//! stream as soon as there is more to tell (progress, log, a question) or nothing to tell for long.
//!
//! The stream is driven by its own body: when the client goes away the body is dropped, and with it
//! the exchange. For a modern client that is a cancellation, which the server is told. For a legacy
//! client it is not: the stream is driven by the gateway, and its client can come back for the rest
//! (`replay.rs`). Where streams are not kept the server finishes for nobody.

use crate::{
    body::{Body, Chunks},
    bridge::{self, Bridge},
    call::Call,
    dispatch::{self, Begun},
    fallback,
    list_notices::ListNotices,
    park::{self, Standing},
    questions::{Asked, Questions, may_be_asked},
    record, replay,
    resolve::Target,
    response::{call_refusal_bytes, json, modern_status, refuse, refuse_call, stream},
    reuse, roots,
    session::{self, CallControl},
    shape, tasks,
    voice::Voice,
};
use bytes::{Bytes, BytesMut};
use fairlead_core::{Refusal, UpstreamError};
use fairlead_observe::{CallStatus, QuestionOutcome};
use fairlead_upstream::{Exchange, Final, Item};
use fairlead_wire::{Era, Field, Frame, Kind, Method, edit::Edits, message, sse};
use futures_util::Stream;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use std::{
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
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

/// Whether a response is an event stream.
pub(crate) fn is_stream(response: &Response<Body>) -> bool {
    response
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// The body of a stream whole, for a batch; `None` for an empty one. Only the answer itself is taken
/// from an event stream: what came before it has no place in a batch's array.
pub(crate) async fn whole(response: Response<Body>) -> Option<Bytes> {
    let is_stream = is_stream(&response);
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
    go_on(call, target, begun, Vec::new()).await
}

/// Answers a call that has begun, after what was `said` already.
pub(crate) async fn go_on(call: Box<Call>, target: Target, begun: Begun, mut said: Vec<Bytes>) -> Response<Body> {
    if let Begun::Spoke { frame, .. } = &begun {
        reuse::heard(&call, frame);
    }
    match begun {
        Begun::Answered { answer, link } if bridge::wants_input(&call, &answer.frame, link) => {
            streamed(call, target, Begun::Answered { answer, link }, said)
        }
        Begun::Answered { answer, link } => {
            reuse::settle(&call, &answer, link);
            record::call(&call, &target, record::status_of(&answer.frame));
            let (status, bytes) = park::answer(&call, &target, &answer, link);
            park::whole(status, bytes, &said)
        }
        Begun::Failed(error) => {
            // Boxed: only what failed comes here.
            if let Some((mut instead, begun)) = Box::pin(fallback::instead(&call, &target, &error)).await {
                let mut call = call;
                call.treatment = instead.treatment.take().or(call.treatment.take());
                return Box::pin(go_on(call, instead, begun, said)).await;
            }
            record::failure(&call, &target, &error);
            if let Some((kept, link)) = reuse::failed(&call, &target, &error) {
                let (status, bytes) = park::answer(&call, &target, &kept, link);
                return park::whole(status, bytes, &said);
            }
            refuse_call(call.era, Some(call.id()), &error.to_refusal(target.upstream.handle.name().as_str()))
        }
        Begun::Refused(refusal) => {
            reuse::refused(&call);
            record::call(&call, &target, CallStatus::Refused(refusal.code));
            refuse(Some(call.id()), &refusal)
        }
        Begun::Spoke { exchange, frame } if park::is_question(&call, &exchange, &frame) => {
            match Box::pin(park::ask(&call, &target, exchange, frame, None, &mut said)).await {
                Standing::Answered(status, bytes) => park::whole(status, bytes, &said),
                Standing::GoesOn(exchange) => streamed(call, target, Begun::Quiet { exchange }, said),
            }
        }
        Begun::NeedsRoots if call.era == Era::Modern => park::needs_roots(&call, &target),
        Begun::Spoke { .. } | Begun::Quiet { .. } | Begun::Waits(_) | Begun::NeedsRoots => {
            streamed(call, target, begun, said)
        }
    }
}

/// The next change of a list that a subscription may be told.
async fn listed(notices: &mut Option<Box<ListNotices>>) -> Frame {
    match notices {
        Some(notices) => notices.next().await,
        None => pending().await,
    }
}

fn streamed(call: Box<Call>, target: Target, begun: Begun, said: Vec<Bytes>) -> Response<Body> {
    let replays = Arc::clone(&call.gateway.0.replays);
    let first = First { begun: Some(begun), era: call.era, control: call.control.clone(), replays };
    if let Some(opened) = replay::open_call(&call) {
        let voice = Voice::kept(opened.place());
        let mut telling = Telling { call, target, voice, asked: Vec::new(), bridge: None, has_told: false };
        return opened.drive(async move { telling.start(first, said).await });
    }
    let (out, receiver) = mpsc::channel(STREAM_QUEUE);
    let telling = async move {
        let mut telling =
            Telling { call, target, voice: Voice::new(out), asked: Vec::new(), bridge: None, has_told: false };
        telling.start(first, said).await;
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

/// A call whose caller listens on a stream.
struct Telling {
    call: Box<Call>,
    target: Target,
    voice: Voice,
    asked: Vec<Asked>,
    /// What only a call across the eras has.
    bridge: Option<Box<Bridge>>,
    /// Something of the call was passed on: from then on it is not made again.
    has_told: bool,
}

/// An exchange whose server is told when nobody waits for it any more: when its client cancels the call, and
/// in the modern era also when the client goes away.
struct Held {
    /// `None` only while somebody else has it who cancels it in the same cases.
    exchange: Option<Box<Exchange>>,
    era: Era,
    control: Option<Arc<CallControl>>,
    replays: Arc<replay::Shared>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        if self.control.as_ref().is_some_and(|control| control.is_cancelled()) {
            exchange.cancel("the client cancelled the request");
        } else if self.era == Era::Modern {
            exchange.cancel("the client closed the stream");
        } else {
            self.replays.run_on(exchange, ());
        }
    }
}

impl Held {
    fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("invariant: given back before it is looked at again")
    }
}

/// What a stream begins with. Its client may be gone before the stream is read for the first time: then the server is
/// told as if it had been.
struct First {
    begun: Option<Begun>,
    era: Era,
    control: Option<Arc<CallControl>>,
    replays: Arc<replay::Shared>,
}

impl First {
    fn take(&mut self) -> Option<Begun> {
        self.begun.take()
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if let Some(Begun::Spoke { exchange, .. } | Begun::Quiet { exchange }) = self.begun.take() {
            let replays = Arc::clone(&self.replays);
            drop(Held { exchange: Some(exchange), era: self.era, control: self.control.take(), replays });
        }
    }
}

impl Telling {
    /// Says what was said before there was a stream, then goes on.
    async fn start(&mut self, first: First, said: Vec<Bytes>) {
        self.has_told |= !said.is_empty();
        for message in said {
            let _ = self.voice.say(&message).await;
        }
        self.run(first).await;
    }

    async fn run(&mut self, first: First) {
        let cancelled = session::cancelled(self.call.control.clone());
        tokio::select! {
            () = self.drive(first) => {}
            () = cancelled => {
                if let Some(bridge) = &mut self.bridge {
                    bridge.withdraw(&self.voice, "the call was cancelled").await;
                }
                record::call(&self.call, &self.target, CallStatus::Cancelled);
            }
        }
    }

    /// From what has begun to the answer. A call across the eras may take several exchanges.
    async fn drive(&mut self, mut first: First) {
        // From here on whoever has the exchange keeps it in a guard of his own; nothing waits in between.
        let Some(mut begun) = first.take() else { return };
        let mut may_need_roots = true;
        loop {
            begun = match begun {
                Begun::Spoke { exchange, frame } => match self.hear(exchange, Some(frame)).await {
                    Some(next) => next,
                    None => return,
                },
                Begun::Quiet { exchange } => match self.hear(exchange, None).await {
                    Some(next) => next,
                    None => return,
                },
                Begun::Waits(waiting) => match reuse::wait_on(&self.call, &self.target, &self.voice, waiting).await {
                    Some(next) => next,
                    None => return,
                },
                Begun::Answered { answer, link } if bridge::wants_input(&self.call, &answer.frame, link) => {
                    reuse::asked(&self.call);
                    let bridge = self.bridge.get_or_insert_default();
                    let round = bridge.round(&self.call, &self.target, &self.voice, &answer.frame);
                    match Box::pin(round).await {
                        Ok(next) => next,
                        Err(refusal) => return self.refuse(&refusal).await,
                    }
                }
                Begun::Answered { answer, link } => return self.finish(&answer, link).await,
                Begun::Failed(error) => match Box::pin(self.after(&error)).await {
                    Some(next) => next,
                    None => return self.fail(&error).await,
                },
                Begun::Refused(refusal) => {
                    reuse::refused(&self.call);
                    return self.refuse(&refusal).await;
                }
                Begun::NeedsRoots if may_need_roots => {
                    may_need_roots = false;
                    roots::ask(&self.call, &self.voice).await;
                    let quiet = Instant::now() + self.call.endpoint.config.listen.keep_alive;
                    dispatch::begin_entered(&self.call, &self.target, quiet).await
                }
                Begun::NeedsRoots => {
                    let error = UpstreamError::new(
                        fairlead_core::UpstreamErrorKind::Unavailable,
                        fairlead_core::Outcome::NotMade,
                        "it follows roots, and the client changed its own in between",
                    );
                    return self.fail(&error).await;
                }
            };
        }
    }

    /// Passes on what one exchange brings, until its answer. `None` when nobody is to hear that any more.
    async fn hear(&mut self, exchange: Box<Exchange>, first: Option<Frame>) -> Option<Begun> {
        let (control, replays) = (self.call.control.clone(), Arc::clone(&self.call.gateway.0.replays));
        let mut held = Held { exchange: Some(exchange), era: self.call.era, control, replays };
        if let Some(frame) = first {
            self.tell(held.exchange(), frame).await;
        }
        let keep_alive = self.call.endpoint.config.listen.keep_alive;
        let is_listening = self.call.frame.method_class() == Method::Listen;
        // Boxed: only a subscription has them.
        let mut notices = is_listening.then(|| Box::new(ListNotices::new(&self.target.upstream.handle)));
        let mut drain = self.call.gateway.drain_begins();
        loop {
            if let Some(retry) = held.exchange().take_hang_up() {
                self.voice.hang_up(retry);
            }
            let quiet = Instant::now() + keep_alive;
            tokio::select! {
                next = held.exchange().next_before(quiet) => match next {
                    Ok(Some(Item::Message(frame))) if park::is_question(&self.call, held.exchange(), &frame) => {
                        reuse::asked(&self.call);
                        // Boxed: only a call that bridges two eras comes here.
                        let exchange = held.exchange.take()?;
                        held.exchange = Some(Box::pin(self.park(exchange, frame)).await?);
                    }
                    Ok(Some(Item::Message(frame))) => {
                        let frame = match &mut notices {
                            Some(notices) => notices.hold(frame),
                            None => Some(frame),
                        };
                        if let Some(frame) = frame {
                            self.tell(held.exchange(), frame).await;
                        }
                    }
                    Ok(Some(Item::Final(answer))) => {
                        let link = held.exchange().link().peer().revision.era();
                        return Some(Begun::Answered { answer, link });
                    }
                    Ok(None) if Instant::now() < quiet => {}
                    Ok(None) => {
                        if self.voice.keep_alive().await.is_err() {
                            return None;
                        }
                    }
                    Err(error) => return Some(Begun::Failed(error)),
                },
                frame = listed(&mut notices), if is_listening => self.tell(held.exchange(), frame).await,
                () = crate::listener::turned(&mut drain), if is_listening => {
                    // It would go on for hours; its graceful end is its result.
                    held.exchange().cancel("the gateway is shutting down");
                    record::call(&self.call, &self.target, CallStatus::Ok);
                    let _ = self.voice.say(&crate::listening::end(&self.call)).await;
                    return None;
                }
            }
        }
    }

    /// Has the call wait for its client; the exchange comes back when it is not asked after all.
    async fn park(&self, exchange: Box<Exchange>, question: Frame) -> Option<Box<Exchange>> {
        let nothing = &mut Vec::new();
        match park::ask(&self.call, &self.target, exchange, question, Some(&self.voice), nothing).await {
            Standing::GoesOn(exchange) => Some(exchange),
            Standing::Answered(_, bytes) => {
                let _ = self.voice.say(&bytes).await;
                None
            }
        }
    }

    /// Passes on a message of the call.
    async fn tell(&mut self, exchange: &Exchange, frame: Frame) {
        self.has_told = true;
        let config = self.target.upstream.handle.config();
        reuse::heard(&self.call, &frame);
        if frame.kind() != Kind::Request {
            if park::is_of_questions(&self.call, exchange, &frame) {
                return;
            }
            if frame.method_class() == Method::Cancelled && exchange.link().peer().revision.era() == Era::Legacy {
                if let Some(notice) = self.withdraw(exchange, &frame) {
                    let _ = self.voice.say(&notice).await;
                }
                return;
            }
            let mut frame = frame;
            if self.call.era == Era::Legacy && exchange.link().peer().revision.era() == Era::Modern {
                match self.bridge.get_or_insert_default().notification(&self.call, frame) {
                    Some(bridged) => frame = bridged,
                    None => return,
                }
            }
            if let Some(message) = shape::notification(&self.call, config, &frame) {
                let _ = self.voice.say(&message).await;
            }
            return;
        }
        let frame = tasks::question(&self.call, frame);
        // A question is only ever handed up when the client declared that it can be asked something.
        self.asked.retain(Asked::is_open);
        let may_ask = self.call.era == Era::Legacy
            && !self.call.in_batch
            && self.asked.len() < MAX_ASKED
            && (frame.method_class() == Method::Other || may_be_asked(self.call.capabilities, &frame));
        let asked = may_ask
            .then(|| Questions::ask(&self.call.gateway, self.call.user, exchange.link(), exchange.questions(), &frame));
        match asked.flatten() {
            Some((asked, question)) => {
                let link = exchange.link();
                if link.key().era == Era::Legacy {
                    self.call.gateway.0.completions.asked(link.server_name(), self.call.user, &frame);
                }
                self.asked.push(asked);
                let _ = self.voice.say(&question).await;
            }
            None => {
                self.target.upstream.metrics.question(QuestionOutcome::Declined);
                tracing::info!(
                    server = exchange.link().server_name(),
                    method = frame.method(),
                    "declined a question of the server: its caller cannot be asked that"
                );
                park::decline(exchange.link(), &frame);
            }
        }
    }

    /// The server does not want to know any more: its notice under the id by which the client knows the question.
    /// `None` when that is not open (any more), or was never this client's.
    fn withdraw(&mut self, exchange: &Exchange, notice: &Frame) -> Option<Bytes> {
        let id = notice.raw(Field::ParamRequestId)?;
        let at = self.asked.iter().position(|asked| asked.is_of(exchange.link(), id))?;
        let asked = self.asked.swap_remove(at);
        asked.withdraw();
        let mut edits = Edits::new();
        edits.replace(notice.span(Field::ParamRequestId)?, asked.id().to_string());
        Some(edits.apply(notice.bytes()))
    }

    /// What follows a failure: another try, as long as the client heard nothing of the first, or what stands in for the
    /// answer.
    async fn after(&mut self, error: &UpstreamError) -> Option<Begun> {
        if !self.has_told
            && self.bridge.is_none()
            && let Some(again) = dispatch::again(&self.call, &self.target, error).await
        {
            return Some(again);
        }
        let (mut instead, begun) = fallback::instead(&self.call, &self.target, error).await?;
        self.call.treatment = instead.treatment.take().or(self.call.treatment.take());
        self.target = instead;
        Some(begun)
    }

    async fn finish(&self, answer: &Final, link: Era) {
        reuse::settle(&self.call, answer, link);
        record::call(&self.call, &self.target, record::status_of(&answer.frame));
        let (_, bytes) = park::answer(&self.call, &self.target, answer, link);
        let _ = self.voice.say(&bytes).await;
    }

    async fn refuse(&self, refusal: &Refusal) {
        record::call(&self.call, &self.target, CallStatus::Refused(refusal.code));
        let _ = self.voice.say(&call_refusal_bytes(self.call.era, Some(self.call.id()), refusal)).await;
    }

    async fn fail(&self, error: &UpstreamError) {
        record::failure(&self.call, &self.target, error);
        if let Some((kept, link)) = reuse::failed(&self.call, &self.target, error) {
            let (_, bytes) = park::answer(&self.call, &self.target, &kept, link);
            let _ = self.voice.say(&bytes).await;
            return;
        }
        let refusal = error.to_refusal(self.target.upstream.handle.name().as_str());
        let _ = self.voice.say(&call_refusal_bytes(self.call.era, Some(self.call.id()), &refusal)).await;
    }
}

/// An answer of the gateway's own.
pub(crate) fn own(call: &Call, result: &str) -> Response<Body> {
    record::own(call);
    json(StatusCode::OK, message::result(call.id(), result))
}

/// The answer of `server` to a request that is not a call of a tool, passed on.
pub(crate) fn passed_on(call: &Call, server: &fairlead_config::Server, frame: &Frame) -> Response<Body> {
    let status = match call.era {
        Era::Modern => frame.error_code().map_or(StatusCode::OK, modern_status),
        Era::Legacy => StatusCode::OK,
    };
    let answer = Final { frame: frame.clone(), status: None };
    debug_assert_ne!(call.frame.method_class(), Method::ToolsCall);
    json(status, shape::answer(call, server, &answer, call.era).1)
}
