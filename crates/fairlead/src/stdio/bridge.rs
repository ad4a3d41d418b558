//! The bridge: every line of the client is a POST, every answer and event is a line.
//!
//! It does not take part in the protocol beyond what its two transports differ in:
//!
//! * A legacy client has one session, the pipe. Over HTTP that is a session id, a stream for what
//!   the server says unasked, and a DELETE at the end. A session the gateway no longer knows is opened
//!   again with the client's own `initialize`; the request that found out was not executed and is sent again.
//! * A modern client has none. Over HTTP its requests say in headers what they are, and a tool may want
//!   arguments there, too, which on a pipe need not be: the definitions that pass by are remembered for it.
//! * Cancelling is a message on a pipe. Over HTTP it is one for legacy clients, and the end of the connection for modern ones.
//!
//! A request that broke after it was sent is not sent again: whether it took effect is unknown, and
//! the client is told so.

use super::{outbox::Outbox, session::Session};
use crate::{
    failure::chain,
    mcp,
    reach::{Reach, ReachError},
};
use bytes::Bytes;
use fairlead_core::Code;
use fairlead_process::lines::{Line, LineReader};
use fairlead_wire::{
    Field, Frame, FrameError, Incoming as Messages, Kind, Limits, Method,
    header::{self, HEADER_MISMATCH, LAST_EVENT_ID, ParamHeaders},
    list, message,
    sse::{SseLimits, SseParser},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{AbortHandle, JoinSet},
    time::{self, Instant},
};

/// Largest message in either direction.
const MAX_MESSAGE: usize = 64 << 20;
/// Requests in flight.
const MAX_CALLS: usize = 1024;
/// Tools whose argument headers are remembered.
const MAX_TOOLS: usize = 10_000;
/// How long a gateway that is not there (restarting, say) is waited for.
const RECONNECT: Duration = Duration::from_secs(10);
/// How often it is tried.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long the gateway may take to accept what has no answer.
const ACCEPT: Duration = Duration::from_secs(30);
/// How often a stream that broke off is resumed before its request counts as lost.
const RESUMES: usize = 20;
/// The pause before that, and before the standing stream is opened again, unless the server names one.
const RESUME_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause a server can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long requests in flight may still finish after the client closed its end.
const EOF_GRACE: Duration = Duration::from_secs(5);
/// How long ending the session may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// One client and the gateway that serves it.
struct Bridge {
    reach: Reach,
    out: Outbox,
    session: Mutex<Session>,
    /// One at a time may open a lost session again.
    renewing: tokio::sync::Mutex<()>,
    /// Tools that want arguments in headers.
    tools: Mutex<HashMap<String, ParamHeaders>>,
}

/// What became of a stream.
struct Pumped {
    /// The response that was waited for has come.
    answered: bool,
    /// Where to go on.
    last_event: Option<HeaderValue>,
    /// When, if the server said.
    retry: Duration,
}

/// Serves until the client closes its end, does not read any more, or `stop` is ready.
pub(super) async fn run(
    reach: Reach,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    stop: impl Future<Output = ()>,
) {
    let (out, writer) = Outbox::new(output);
    let bridge = Arc::new(Bridge {
        reach,
        out,
        session: Mutex::default(),
        renewing: tokio::sync::Mutex::default(),
        tools: Mutex::default(),
    });
    let mut lines = LineReader::new(input, MAX_MESSAGE);
    // Requests whose answer the client waits for; and streams that only end when it goes.
    let (mut calls, mut streams) = (JoinSet::new(), JoinSet::new());
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    tokio::pin!(stop);
    loop {
        let line = tokio::select! {
            () = &mut stop => break,
            () = bridge.out.closed() => break,
            Some(_) = calls.join_next() => continue,
            Some(_) = streams.join_next() => continue,
            line = lines.next_line() => line,
        };
        let text = match line {
            Ok(Some(Line::Text(text))) => text,
            Ok(Some(Line::TooLong { .. })) => {
                let text = format!("the message is longer than {MAX_MESSAGE} bytes");
                bridge.out.refuse(None, Code::BodyTooLarge.info().rpc, &text).await;
                continue;
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "cannot read from the client");
                break;
            }
        };
        let frame = match Frame::parse(text.clone(), &Limits::default()) {
            Ok(frame) => frame,
            // Revision 2025-03-26 has batches. What is in one is for the gateway to judge.
            Err(FrameError::Batch) => {
                let bridge = Arc::clone(&bridge);
                calls.spawn(async move { bridge.batch(text).await });
                continue;
            }
            Err(error) => {
                bridge.out.refuse(None, error.rpc_code(), &error.to_string()).await;
                continue;
            }
        };
        match (frame.kind(), frame.method_class()) {
            // Everything after it depends on what it gives.
            (Kind::Request, Method::Initialize) if !frame.is_modern() => bridge.initialize(&frame).await,
            (Kind::Request, method) => {
                let id = frame.id().unwrap_or_default().to_owned();
                if calls.len() >= MAX_CALLS {
                    let info = Code::TooManyCalls.info();
                    bridge.out.refuse(Some(&id), info.rpc, &said(Code::TooManyCalls, info.title)).await;
                    continue;
                }
                if running.len() >= MAX_CALLS {
                    running.retain(|_, call| !call.is_finished());
                }
                let kept = if method == Method::Listen { &mut streams } else { &mut calls };
                let bridge = Arc::clone(&bridge);
                running.insert(id, kept.spawn(async move { bridge.request(&frame).await }));
            }
            (Kind::Notification, Method::Cancelled) => {
                let call = frame.raw(Field::ParamRequestId).and_then(|id| running.remove(id));
                if !frame.is_modern() && bridge.has_session() {
                    bridge.tell(&frame).await;
                }
                // No answer is due any more; for a modern request this is what cancels it.
                if let Some(call) = call {
                    call.abort();
                }
            }
            (Kind::Notification, Method::Initialized) => {
                bridge.session().initialized = Some(frame.bytes().clone());
                bridge.tell(&frame).await;
                let bridge = Arc::clone(&bridge);
                streams.spawn(async move { bridge.listen().await });
            }
            (Kind::Notification | Kind::Result | Kind::Error, _) => bridge.tell(&frame).await,
        }
    }
    let _ = time::timeout(EOF_GRACE, async { while calls.join_next().await.is_some() {} }).await;
    calls.shutdown().await;
    streams.shutdown().await;
    bridge.goodbye().await;
    drop(bridge);
    // Every message is in the outbox, and nobody else holds it.
    let _ = time::timeout(GOODBYE, writer).await;
}

impl Bridge {
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_session(&self) -> bool {
        self.session().initialize.is_some()
    }

    fn tools(&self) -> MutexGuard<'_, HashMap<String, ParamHeaders>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a message's headers must say of it.
    fn headers(&self, frame: Option<&Frame>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let modern = frame.and_then(|frame| Some((frame, frame.str(Field::MetaProtocolVersion)?)));
        let Some((frame, revision)) = modern else {
            self.session().decorate(&mut headers);
            return headers;
        };
        let mut insert = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        insert(header::MCP_PROTOCOL_VERSION, &revision);
        insert(header::MCP_METHOD, frame.method());
        if let Some(name) = header::standard_name(frame) {
            headers.insert(header::MCP_NAME, header::encode_value(&name));
            if frame.method_class() == Method::ToolsCall
                && let Some(wanted) = self.tools().get(&*name)
            {
                headers.extend(wanted.encode(frame.raw(Field::Arguments)));
            }
        }
        headers
    }

    /// Sends something. A gateway that is not there is waited for; what was sent is never sent twice.
    async fn send(
        &self,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, ReachError> {
        let until = Instant::now() + RECONNECT;
        loop {
            let mut request = self.reach.mcp(method.clone(), body.clone());
            request.headers_mut().extend(headers.clone());
            match self.reach.send(request).await {
                Err(ReachError::Connect(_)) if Instant::now() < until => time::sleep(RECONNECT_PAUSE).await,
                answer => return answer,
            }
        }
    }

    async fn post(&self, frame: &Frame) -> Result<Response<Incoming>, ReachError> {
        self.send(http::Method::POST, self.headers(Some(frame)), frame.bytes().clone()).await
    }

    /// Opens the session.
    async fn initialize(&self, frame: &Frame) {
        self.session().forget();
        let id = frame.id().unwrap_or_default();
        let response = match self.post(frame).await {
            Ok(response) => response,
            Err(error) => return self.lost(id, &error).await,
        };
        let headers = response.headers().clone();
        match self.answer(response).await {
            Ok(answer) => {
                if answer.kind() == Kind::Result {
                    self.session().opened(frame.bytes().clone(), &headers, answer.bytes());
                }
                self.hand_over(id, &answer).await;
            }
            Err(text) => self.out.refuse(Some(id), Code::ServerGarbage.info().rpc, &text).await,
        }
    }

    /// Opens again a session that the gateway no longer knows, unless somebody else just did.
    async fn renew(&self, generation: u64) -> bool {
        let _one = self.renewing.lock().await;
        let (initialize, initialized) = {
            let session = self.session();
            if session.generation != generation {
                return true;
            }
            let Some(initialize) = session.initialize.clone() else { return false };
            (initialize, session.initialized.clone())
        };
        let Ok(response) = self.send(http::Method::POST, HeaderMap::new(), initialize.clone()).await else {
            return false;
        };
        let headers = response.headers().clone();
        let answer = match self.answer(response).await {
            Ok(answer) if answer.kind() == Kind::Result => answer,
            _ => return false,
        };
        self.session().opened(initialize, &headers, answer.bytes());
        if let Some(initialized) = initialized {
            let headers = self.headers(None);
            let _ = self.send(http::Method::POST, headers, initialized).await;
        }
        tracing::warn!("the gateway had forgotten the session: it was opened again");
        true
    }

    /// The one response to a request that has no stream of its own kind: `initialize`.
    async fn answer(&self, response: Response<Incoming>) -> Result<Frame, String> {
        let status = response.status();
        let parse = |bytes| {
            Frame::parse(bytes, &Limits::default())
                .map_err(|_| format!("the gateway answered HTTP {status} without MCP"))
        };
        if !is_stream(&response) {
            return parse(whole(response.into_body()).await?);
        }
        let mut body = response.into_body();
        let mut parser = SseParser::new(SseLimits { max_event: MAX_MESSAGE });
        while let Some(Ok(chunk)) = body.frame().await {
            let Ok(data) = chunk.into_data() else { continue };
            parser.push(data);
            while let Some(event) = parser.next().map_err(|error| chain(&error))? {
                if event.data.is_empty() {
                    continue;
                }
                let frame = parse(event.data)?;
                if matches!(frame.kind(), Kind::Result | Kind::Error) {
                    return Ok(frame);
                }
                self.out.send(frame.bytes()).await;
            }
        }
        Err("the connection to the gateway broke".to_owned())
    }

    /// Sends a request and hands over everything that comes back.
    async fn request(&self, frame: &Frame) {
        let id = frame.id().unwrap_or_default();
        let generation = self.session().generation;
        let mut again = true;
        loop {
            let response = match self.post(frame).await {
                Ok(response) => response,
                Err(error) => return self.lost(id, &error).await,
            };
            if is_stream(&response) {
                return self.stream(id, response.into_body(), frame.is_modern()).await;
            }
            let status = response.status();
            let body = match whole(response.into_body()).await {
                Ok(body) => body,
                Err(text) => return self.out.refuse(Some(id), Code::ServerLost.info().rpc, &text).await,
            };
            if std::mem::take(&mut again) {
                let forgotten = status == StatusCode::NOT_FOUND && !frame.is_modern() && self.has_session();
                if forgotten && self.renew(generation).await {
                    continue;
                }
                if self.wants_headers(frame, &body) && self.learn().await {
                    continue;
                }
            }
            let Ok(answer) = Frame::parse(body, &Limits::default()) else {
                let text = said(Code::ServerGarbage, &format!("the gateway answered HTTP {status} without MCP"));
                return self.out.refuse(Some(id), Code::ServerGarbage.info().rpc, &text).await;
            };
            if frame.is_modern() && frame.method_class() == Method::ToolsList {
                self.remember(answer.raw(Field::Result).unwrap_or_default());
            }
            return self.hand_over(id, &answer).await;
        }
    }

    /// Whether a call was refused because arguments belong into headers.
    fn wants_headers(&self, frame: &Frame, body: &Bytes) -> bool {
        frame.is_modern()
            && frame.method_class() == Method::ToolsCall
            && Frame::parse(body.clone(), &Limits::default())
                .is_ok_and(|answer| answer.error_code() == Some(HEADER_MISMATCH))
    }

    /// Asks for the definitions the client has not asked for.
    async fn learn(&self) -> bool {
        let tools = mcp::Client::new(self.reach.clone()).list(Method::ToolsList.as_str(), "tools").await;
        let Ok(tools) = tools else { return false };
        for tool in &tools {
            self.remember_tool(tool);
        }
        true
    }

    /// Remembers which of the listed tools want arguments in headers.
    fn remember(&self, result: &str) {
        // Without the annotation's name anywhere there is nothing to look for.
        if result.contains("x-mcp-header") {
            for tool in list::items(result, "tools").unwrap_or_default() {
                self.remember_tool(tool);
            }
        }
    }

    fn remember_tool(&self, tool: &str) {
        let Some(name) = list::string_member(tool, "name") else { return };
        let wanted = list::raw_member(tool, "inputSchema")
            .filter(|schema| schema.contains("x-mcp-header"))
            .and_then(|schema| ParamHeaders::from_schema(schema).ok())
            .filter(|wanted| !wanted.is_empty());
        let mut tools = self.tools();
        match wanted {
            Some(wanted) if tools.len() < MAX_TOOLS => {
                tools.insert(name.into_owned(), wanted);
            }
            _ => {
                tools.remove(&*name);
            }
        }
    }

    /// Gives the client an answer to the request `id`.
    async fn hand_over(&self, id: &str, answer: &Frame) {
        if answer.kind() == Kind::Error && answer.id().is_none() {
            // An error before the gateway had read the id. The client knows only ids.
            let text = answer.str(Field::ErrorMessage).unwrap_or_default();
            let code = answer.error_code().unwrap_or_else(|| Code::Internal.info().rpc);
            let data = answer.raw(Field::ErrorData);
            self.out.send(&message::error(Some(id), code, &text, data)).await;
        } else {
            self.out.send(answer.bytes()).await;
        }
    }

    /// Hands over a stream up to the answer, resuming it where it can be.
    async fn stream(&self, id: &str, body: Incoming, modern: bool) {
        let mut pumped = self.pump(body, Some(id)).await;
        for _ in 0..RESUMES {
            if pumped.answered {
                return;
            }
            // Modern streams cannot be resumed, nor can those without ids.
            let Some(last) = pumped.last_event.take().filter(|_| !modern) else { break };
            time::sleep(pumped.retry).await;
            let mut headers = self.headers(None);
            headers.insert(LAST_EVENT_ID, last.clone());
            match self.send(http::Method::GET, headers, Bytes::new()).await {
                Ok(response) if is_stream(&response) => {
                    pumped = self.pump(response.into_body(), Some(id)).await;
                    pumped.last_event.get_or_insert(last);
                }
                _ => break,
            }
        }
        if !pumped.answered {
            let text = "the connection to the gateway broke; whether the call took effect is unknown";
            self.out.refuse(Some(id), Code::ServerLost.info().rpc, &said(Code::ServerLost, text)).await;
        }
    }

    /// Hands over the events of one stream; ends with it, or with the answer to `id`.
    async fn pump(&self, mut body: Incoming, id: Option<&str>) -> Pumped {
        let mut pumped = Pumped { answered: false, last_event: None, retry: RESUME_PAUSE };
        let mut parser = SseParser::new(SseLimits { max_event: MAX_MESSAGE });
        while let Some(Ok(chunk)) = body.frame().await {
            let Ok(data) = chunk.into_data() else { continue };
            parser.push(data);
            loop {
                let event = match parser.next() {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "a stream of the gateway cannot be read");
                        return pumped;
                    }
                };
                if let Some(last) = event.id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
                    pumped.last_event = Some(last);
                }
                if let Some(retry) = event.retry {
                    pumped.retry = Duration::from_millis(retry).min(MAX_PAUSE);
                }
                if event.data.is_empty() {
                    continue;
                }
                let Ok(frame) = Frame::parse(event.data, &Limits::default()) else {
                    tracing::warn!("an event of the gateway is not a message: it is left out");
                    continue;
                };
                self.out.send(frame.bytes()).await;
                if id.is_some() && matches!(frame.kind(), Kind::Result | Kind::Error) && frame.id() == id {
                    pumped.answered = true;
                    return pumped;
                }
            }
        }
        pumped
    }

    /// Sends what has no answer.
    async fn tell(&self, frame: &Frame) {
        let what = if frame.method().is_empty() { "an answer" } else { frame.method() };
        match time::timeout(ACCEPT, self.post(frame)).await {
            Ok(Ok(response)) if response.status().is_success() => {}
            Ok(Ok(response)) => {
                tracing::warn!(message = what, status = %response.status(), "the gateway did not take a message");
            }
            Ok(Err(error)) => tracing::warn!(message = what, error = chain(&error), "a message was not sent"),
            Err(_) => tracing::warn!(message = what, "the gateway did not take a message in time"),
        }
    }

    /// Sends a batch and hands over what comes back.
    async fn batch(&self, text: Bytes) {
        let response = match self.send(http::Method::POST, self.headers(None), text).await {
            Ok(response) => response,
            Err(error) => return self.lost_unnamed(&error).await,
        };
        if is_stream(&response) {
            self.pump(response.into_body(), None).await;
            return;
        }
        let Ok(body) = whole(response.into_body()).await else { return };
        // Nothing is due for a batch of notifications.
        if Messages::parse(&body, &Limits::default()).is_ok() {
            self.out.send(&body).await;
        }
    }

    /// The standing stream of a legacy session: what the server says unasked. Runs until it is aborted.
    async fn listen(&self) {
        let mut last_event = None;
        loop {
            let generation = self.session().generation;
            let mut headers = self.headers(None);
            if let Some(last) = last_event.clone() {
                headers.insert(LAST_EVENT_ID, last);
            }
            let mut pause = RESUME_PAUSE;
            match self.send(http::Method::GET, headers, Bytes::new()).await {
                Ok(response) if is_stream(&response) => {
                    let pumped = self.pump(response.into_body(), None).await;
                    last_event = pumped.last_event.or(last_event);
                    pause = pumped.retry;
                }
                // Not every server has one.
                Ok(response) if response.status() == StatusCode::METHOD_NOT_ALLOWED => return,
                Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                    last_event = None;
                    if !self.renew(generation).await {
                        return;
                    }
                }
                Ok(_) | Err(_) => {}
            }
            time::sleep(pause).await;
        }
    }

    /// Ends the session, if there is one.
    async fn goodbye(&self) {
        if self.session().id.is_none() {
            return;
        }
        let mut request = self.reach.mcp(http::Method::DELETE, Bytes::new());
        request.headers_mut().extend(self.headers(None));
        // A session that cannot be ended expires.
        let _ = time::timeout(GOODBYE, self.reach.send(request)).await;
    }

    /// Tells the client that its request has no answer.
    async fn lost(&self, id: &str, error: &ReachError) {
        let (code, text) = reason(error);
        self.out.refuse(Some(id), code.info().rpc, &said(code, text)).await;
    }

    async fn lost_unnamed(&self, error: &ReachError) {
        let (code, text) = reason(error);
        self.out.refuse(None, code.info().rpc, &said(code, text)).await;
    }
}

fn reason(error: &ReachError) -> (Code, &'static str) {
    tracing::warn!(error = chain(error), "a request got no answer");
    match error {
        ReachError::Connect(_) => (Code::ServerUnavailable, "the gateway cannot be reached; the call was not made"),
        ReachError::Lost(_) => {
            (Code::ServerLost, "the connection to the gateway broke; whether the call took effect is unknown")
        }
    }
}

/// A sentence with its code, as the gateway's own refusals have it.
fn said(code: Code, text: &str) -> String {
    format!("{text} ({})", code.label())
}

fn is_stream(response: &Response<Incoming>) -> bool {
    response.status().is_success()
        && response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

async fn whole(body: Incoming) -> Result<Bytes, String> {
    let collected = Limited::new(body, MAX_MESSAGE).collect().await;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| format!("the gateway's answer broke off: {error}"))
}
