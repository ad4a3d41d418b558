//! A connection that carries messages both ways: HTTP+SSE of 2024-11-05, and WebSocket.
//!
//! There is one pipeline, and it answers each message with an HTTP response, whole or as a stream. Here such
//! responses become messages on the one way out, whoever they belong to: answers, what is said during a call, what a
//! server says unasked. Nothing is decided here that policy or audit would have to see.
//!
//! What a connection adds to a message is what an HTTP client would have sent in headers, which is its session: the
//! one that `initialize` opened on it. It begins and ends with the connection, and its calls with it, since nobody is
//! left who could hear of them. A modern client has none; `notifications/cancelled` is what the closed stream is over
//! HTTP.

use crate::{
    admit, answer,
    body::Body,
    gateway::Gateway,
    listener::turned,
    pipeline,
    replay::Held,
    response::{refusal_bytes, refuse},
    seen::Seen,
};
use bytes::Bytes;
use fairlead_core::{Caller, Code, Refusal};
use fairlead_upstream::Worker;
use fairlead_wire::{
    Field, Frame, Incoming, Kind, Method, header,
    sse::{SseLimits, SseParser},
};
use futures_util::{
    StreamExt,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::FuturesUnordered,
};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

/// Messages that came in and wait for their turn; then the client waits.
pub(crate) const INBOX: usize = 4;
/// Messages that wait for a client that reads slowly; then what they belong to waits.
pub(crate) const OUTBOX: usize = 8;
/// Messages that are looked at at the same time, beside the calls in flight: refusals, mostly, that wait for the
/// client to read them.
const MORE_OPEN: usize = 64;
/// How long the end of a connection may take: calls are cancelled, subscriptions given up.
const GOODBYE: Duration = Duration::from_secs(5);
/// No event is longer than the longest message there can be.
const LIMITS: SseLimits = SseLimits { max_event: u32::MAX as usize };

/// Who opened a connection, and where.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) gateway: Gateway,
    pub(crate) worker: Worker,
    /// Its stream is counted already.
    pub(crate) counted: bool,
    /// The path of the endpoint. What it serves is looked up anew for each message.
    pub(crate) path: Box<str>,
    pub(crate) caller: Caller,
}

/// Why a connection has nothing more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its client went away.
    Gone,
    /// Nothing was open on it for `listen.idle_timeout`.
    Idle,
    /// The gateway is shutting down, and its calls are done.
    Drained,
}

/// Serves a connection until its client goes away, which either end of the two channels tells.
pub(crate) async fn run(opened: Opened, mut inbox: mpsc::Receiver<Incoming>, out: mpsc::Sender<Bytes>) -> End {
    let mut drain = opened.gateway.drain_begins();
    let idle_timeout = opened.gateway.config().listen.idle_timeout;
    let duplex = Arc::new(Duplex { opened, out, state: Mutex::default() });
    let mut open: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut unasked: Option<BoxFuture<'static, ()>> = None;
    let mut opening: Option<BoxFuture<'static, Option<BoxFuture<'static, ()>>>> = None;
    let mut idle_at = Instant::now() + idle_timeout;
    let mut draining = false;
    let end = loop {
        if draining && open.is_empty() && opening.is_none() {
            break End::Drained;
        }
        let room = 2 * duplex.opened.gateway.config().sessions.max_calls + MORE_OPEN;
        let is_idle = open.is_empty() && opening.is_none() && !duplex.has_session();
        tokio::select! {
            // In this order: what came before is begun before the next is looked at, so that a cancellation finds its
            // call; and a client that went away is noticed before its calls are.
            biased;
            () = duplex.out.closed() => break End::Gone,
            Some(()) = open.next(), if !open.is_empty() => idle_at = Instant::now() + idle_timeout,
            _ = heard(&mut unasked), if unasked.is_some() => unasked = None,
            listening = heard(&mut opening), if opening.is_some() => {
                (opening, unasked) = (None, listening.flatten());
                idle_at = Instant::now() + idle_timeout;
            }
            // What follows belongs to the session that is being opened.
            message = inbox.recv(), if open.len() < room && opening.is_none() => {
                idle_at = Instant::now() + idle_timeout;
                match message {
                    None => break End::Gone,
                    Some(Incoming::One(frame)) if opens(&frame) => {
                        let duplex = Arc::clone(&duplex);
                        opening = Some(Box::pin(async move { duplex.initialize(frame).await }));
                    }
                    Some(message) => open.extend(duplex.take(message)),
                }
            }
            () = turned(&mut drain), if !draining => draining = true,
            () = sleep_until(idle_at), if is_idle => break End::Idle,
        }
    };
    drop((unasked, opening));
    // Modern calls end here and are cancelled by that; those of the session are told to end.
    duplex.cancel_modern(None);
    let ending = async {
        tokio::join!(duplex.end_session(), async { while open.next().await.is_some() {} });
    };
    if timeout(GOODBYE, ending).await.is_err() {
        tracing::debug!("a server is slow to hear that a client went away");
    }
    end
}

/// Whether a message opens a session.
fn opens(frame: &Frame) -> bool {
    frame.kind() == Kind::Request && frame.method_class() == Method::Initialize && !frame.is_modern()
}

/// What comes of a future, if there is one.
async fn heard<T>(future: &mut Option<BoxFuture<'static, T>>) -> Option<T> {
    match future {
        Some(future) => Some(future.await),
        None => None,
    }
}

struct Duplex {
    opened: Opened,
    out: mpsc::Sender<Bytes>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What an HTTP client of this session would send; empty before `initialize`.
    headers: HeaderMap,
    /// Modern requests in flight, by the client's id.
    modern: Vec<(Box<str>, AbortHandle)>,
}

/// A modern request in flight; taken out when it is done.
struct Entered {
    duplex: Arc<Duplex>,
    handle: AbortHandle,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // The same request: its handle has the flag that ours has.
        self.handle.abort();
        self.duplex.state().modern.retain(|(_, handle)| !handle.is_aborted());
    }
}

impl Duplex {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under this lock")
    }

    fn has_session(&self) -> bool {
        !self.state().headers.is_empty()
    }

    /// Opens the session, in place of one that was open. Returns what listens to what belongs to no call.
    async fn initialize(self: &Arc<Self>, frame: Frame) -> Option<BoxFuture<'static, ()>> {
        self.end_session().await;
        let id: Box<str> = frame.id().unwrap_or("null").into();
        let response = self.pass(Incoming::One(frame)).await;
        let Some(session) = response.headers().get(header::MCP_SESSION_ID).cloned() else {
            self.pump(response).await;
            return None;
        };
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(header::MCP_SESSION_ID, session);
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        self.state().headers = headers.clone();
        let Opened { gateway, worker, path, caller, counted } = &self.opened;
        let held = Held::Connection { counted: *counted };
        let snapshot = gateway.snapshot();
        let listening = match snapshot.endpoint(path) {
            Some(endpoint) => {
                pipeline::get(gateway, *worker, endpoint, caller.clone(), &headers, &Seen::of(&headers), held).await
            }
            None => Err(no_endpoint()),
        };
        match listening {
            Ok(stream) => {
                self.pump(response).await;
                let duplex = Arc::clone(self);
                Some(Box::pin(async move { duplex.pump(stream).await }))
            }
            // A session that could not be told anything would be one that fails in silence.
            Err(refusal) => {
                gateway.metrics().refused(refusal.code);
                self.end_session().await;
                self.pump(refuse(Some(&id), &refusal)).await;
                None
            }
        }
    }

    /// Ends the session, if there is one: its calls are cancelled, its subscriptions given up.
    async fn end_session(&self) {
        let headers = std::mem::take(&mut self.state().headers);
        if headers.is_empty() {
            return;
        }
        let Opened { gateway, path, caller, .. } = &self.opened;
        let snapshot = gateway.snapshot();
        // One whose endpoint is gone cannot be found any more, and is forgotten like every session that is not used.
        if let Some(endpoint) = snapshot.endpoint(path)
            && let Err(refusal) = pipeline::delete(gateway, endpoint, caller, &Seen::of(&headers)).await
        {
            tracing::debug!(reason = &*refusal.message, "the session of a connection had ended before it");
        }
    }

    /// What is to be done for a message, if anything has to be waited for.
    fn take(self: &Arc<Self>, message: Incoming) -> Option<BoxFuture<'static, ()>> {
        let frame = match &message {
            Incoming::One(frame) => frame,
            Incoming::Batch(_) => return Some(self.ask(message)),
        };
        match (frame.kind(), frame.method_class()) {
            (Kind::Request, _) if frame.is_modern() => self.ask_modern(message),
            (Kind::Request, _) => Some(self.ask(message)),
            (Kind::Notification, Method::Cancelled) => {
                let id = frame.raw(Field::ParamRequestId)?;
                if self.cancel_modern(Some(id)) || !self.has_session() {
                    return None;
                }
                Some(self.tell(message))
            }
            _ => Some(self.tell(message)),
        }
    }

    /// A message that is answered.
    fn ask(self: &Arc<Self>, message: Incoming) -> BoxFuture<'static, ()> {
        let duplex = Arc::clone(self);
        Box::pin(async move { duplex.pump(duplex.pass(message).await).await })
    }

    /// A message that is not. What is wrong with it there is nobody to tell.
    fn tell(self: &Arc<Self>, message: Incoming) -> BoxFuture<'static, ()> {
        let duplex = Arc::clone(self);
        Box::pin(async move { drop(duplex.pass(message).await) })
    }

    /// A modern request. To drop what it waits for is to cancel it.
    fn ask_modern(self: &Arc<Self>, message: Incoming) -> Option<BoxFuture<'static, ()>> {
        let Incoming::One(frame) = &message else { return None };
        let id: Box<str> = frame.id().unwrap_or("null").into();
        let max = self.opened.gateway.config().sessions.max_calls;
        let (handle, registration) = AbortHandle::new_pair();
        {
            let mut state = self.state();
            if state.modern.len() >= max {
                drop(state);
                let refusal = admit::too_many_calls("connection", max);
                self.opened.gateway.metrics().refused(refusal.code);
                let (duplex, answer) = (Arc::clone(self), refusal_bytes(Some(&id), &refusal));
                return Some(Box::pin(async move { duplex.say(answer).await }));
            }
            state.modern.push((id, handle.clone()));
        }
        let entered = Entered { duplex: Arc::clone(self), handle };
        let asking = Abortable::new(self.ask(message), registration);
        Some(Box::pin(async move {
            let _entered = entered;
            // Cancelled: nothing is due any more.
            let _ = asking.await;
        }))
    }

    /// Cancels the modern request with this id, or all. `false` when there is none.
    fn cancel_modern(&self, id: Option<&str>) -> bool {
        let state = self.state();
        let mut cancelled = state.modern.iter().filter(|(other, _)| id.is_none_or(|id| **other == *id)).peekable();
        let any = cancelled.peek().is_some();
        cancelled.for_each(|(_, handle)| handle.abort());
        any
    }

    /// A message on its way through the pipeline.
    async fn pass(&self, message: Incoming) -> Response<Body> {
        let Opened { gateway, worker, path, caller, .. } = &self.opened;
        let headers = self.state().headers.clone();
        let snapshot = gateway.snapshot();
        let passed = match snapshot.endpoint(path) {
            Some(endpoint) => pipeline::message(gateway, *worker, endpoint, caller.clone(), &headers, message).await,
            None => Err(no_endpoint()),
        };
        passed.unwrap_or_else(|refusal| {
            gateway.metrics().refused(refusal.code);
            refuse(None, &refusal)
        })
    }

    /// Says what a response says, as messages. To the end, even if nobody hears it any more: what ends a call is its
    /// cancellation.
    async fn pump(&self, response: Response<Body>) {
        let is_stream = answer::is_stream(&response);
        let mut body = response.into_body();
        if !is_stream {
            let Ok(whole) = body.collect().await;
            return self.say(whole.to_bytes()).await;
        }
        let mut parser = SseParser::new(LIMITS);
        while let Some(Ok(chunk)) = body.frame().await {
            let Ok(data) = chunk.into_data() else { continue };
            parser.push(data);
            while let Ok(Some(event)) = parser.next() {
                self.say(event.data).await;
            }
        }
    }

    async fn say(&self, message: Bytes) {
        if !message.is_empty() {
            let _ = self.out.send(message).await;
        }
    }
}

fn no_endpoint() -> Refusal {
    Refusal::new(Code::UnknownPath, "what this connection was opened for is no longer configured")
}
