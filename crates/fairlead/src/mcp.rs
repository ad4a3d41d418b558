//! A small client, for the commands that call or list.
//!
//! It speaks the current protocol revision, which is stateless: a request is one POST, and no session is left behind by
//! a command that is interrupted. A load test can have it open a session of the revisions before.

use crate::{
    failure::{Exit, Failure, chain},
    reach::{self, Reach, ReachError},
};
use bytes::Bytes;
use fairlead_core::Code;
use fairlead_wire::{
    Field, Frame, Kind, Limits, Method, Revision, header as mcp_header,
    header::ParamHeaders,
    list, message,
    sse::{SseLimits, SseParser},
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most pages of a list, against a server that never ends one.
const MAX_PAGES: usize = 1000;
/// The revision a session is opened with.
const LEGACY: Revision = Revision::LATEST_LEGACY;

/// What a request gives: the raw result, or the error the protocol carries.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Raw JSON of the result.
    Result(String),
    /// Code and message of the error.
    Error(i64, String),
}

/// Why there is no answer that is MCP.
#[derive(Debug)]
pub(crate) struct NoAnswer {
    /// The same few words for everything of the kind.
    pub(crate) words: String,
    /// For a command that ends with it.
    pub(crate) failure: Failure,
}

impl NoAnswer {
    fn new(words: impl Into<String>, failure: Failure) -> Self {
        Self { words: words.into(), failure }
    }

    fn unreached(error: &ReachError) -> Self {
        let words = match error {
            ReachError::Connect(_) => "no connection",
            ReachError::Lost(_) => "connection broke",
        };
        Self::new(words, error.failure())
    }
}

impl From<NoAnswer> for Failure {
    fn from(none: NoAnswer) -> Self {
        none.failure
    }
}

/// A client of one gateway.
pub(crate) struct Client {
    reach: Reach,
    next_id: AtomicU64,
    /// Further headers of every request.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The session it has opened, with its id where the server has such.
    session: Option<Option<HeaderValue>>,
}

impl Client {
    pub(crate) fn new(reach: Reach) -> Self {
        Self { reach, next_id: AtomicU64::new(1), headers: Vec::new(), session: None }
    }

    /// The same with further headers in every request.
    pub(crate) fn with_headers(mut self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        self.headers = headers;
        self
    }

    /// Opens a session of a revision that has them.
    ///
    /// # Errors
    /// When there is no answer, or the server speaks no such revision.
    pub(crate) async fn open_session(mut self) -> Result<Self, Failure> {
        let params = format!(
            r#"{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"fairlead-cli","version":"{}"}}}}"#,
            LEGACY.as_str(),
            env!("CARGO_PKG_VERSION"),
        );
        let body = message::request("0", Method::Initialize.as_str(), Some(&params));
        let response = self.send(http::Method::POST, body).await.map_err(|error| error.failure())?;
        let session = response.headers().get(mcp_header::MCP_SESSION_ID).cloned();
        match read(response, &mut |_| {}).await? {
            Answer::Result(_) => self.session = Some(session),
            Answer::Error(code, text) => return Err(refused(code, &text)),
        }
        let body = message::notification(Method::Initialized.as_str(), None);
        let accepted = self.send(http::Method::POST, body).await.map_err(|error| error.failure())?;
        let _ = reach::collect(accepted.into_body()).await;
        Ok(self)
    }

    /// Ends the session, if there is one. A server that is gone has none.
    pub(crate) async fn close_session(&self) {
        if let Some(Some(_)) = &self.session
            && let Ok(response) = self.send(http::Method::DELETE, Bytes::new()).await
        {
            let _ = reach::collect(response.into_body()).await;
        }
    }

    async fn send(&self, method: http::Method, body: Bytes) -> Result<Response<Incoming>, ReachError> {
        let mut request = self.reach.mcp(method, body);
        let sent = request.headers_mut();
        if let Some(session) = &self.session {
            sent.insert(mcp_header::MCP_PROTOCOL_VERSION, HeaderValue::from_static(LEGACY.as_str()));
            if let Some(id) = session {
                sent.insert(mcp_header::MCP_SESSION_ID, id.clone());
            }
        }
        sent.extend(self.headers.iter().cloned());
        self.reach.send(request).await
    }

    /// Sends one request. `members` are further members of `params` as raw JSON (`"name":"x"`), `name` what `Mcp-Name`
    /// must say, `told` is given the notifications that come before the answer.
    ///
    /// # Errors
    /// When there is no answer that is MCP.
    pub(crate) async fn request(
        &self,
        method: &str,
        members: &[String],
        name: Option<&str>,
        headers: Vec<(HeaderName, HeaderValue)>,
        told: &mut (dyn FnMut(&Frame) + Send),
    ) -> Result<Answer, Failure> {
        Ok(self.ask(method, members, name, headers, told).await?)
    }

    /// The same for whoever counts failures.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub(crate) async fn ask(
        &self,
        method: &str,
        members: &[String],
        name: Option<&str>,
        headers: Vec<(HeaderName, HeaderValue)>,
        told: &mut (dyn FnMut(&Frame) + Send),
    ) -> Result<Answer, NoAnswer> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let response = if self.session.is_some() {
            let params = (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")));
            self.send(http::Method::POST, message::request(&id, method, params.as_deref())).await
        } else {
            let request = self.modern(&id, method, members, name, headers)?;
            self.reach.send(request).await
        };
        read(response.map_err(|error| NoAnswer::unreached(&error))?, told).await
    }

    /// A request of the current revision, which says everything that is to be known of it.
    fn modern(
        &self,
        id: &str,
        method: &str,
        members: &[String],
        name: Option<&str>,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Request<Full<Bytes>>, NoAnswer> {
        let mut params = vec![format!(
            r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"fairlead-cli","version":"{}"}},"progressToken":1}}"#,
            Revision::LATEST.as_str(),
            env!("CARGO_PKG_VERSION"),
        )];
        params.extend_from_slice(members);
        let body = message::request(id, method, Some(&format!("{{{}}}", params.join(","))));
        let mut request = self.reach.mcp(http::Method::POST, body);
        let sent = request.headers_mut();
        sent.insert(mcp_header::MCP_PROTOCOL_VERSION, HeaderValue::from_static(Revision::LATEST.as_str()));
        let unusable = |error| NoAnswer::new("bad method", Failure::usage("bad method").because(&error));
        sent.insert(mcp_header::MCP_METHOD, HeaderValue::from_str(method).map_err(unusable)?);
        if let Some(name) = name {
            sent.insert(mcp_header::MCP_NAME, mcp_header::encode_value(name));
        }
        sent.extend(headers);
        sent.extend(self.headers.iter().cloned());
        Ok(request)
    }

    /// A list over all its pages: the raw items. `member` is the list's name in the result.
    ///
    /// # Errors
    /// When a page cannot be had.
    pub(crate) async fn list(&self, method: &str, member: &str) -> Result<Vec<String>, Failure> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let members: Vec<String> =
                cursor.iter().map(|cursor| format!(r#""cursor":{}"#, message::quote(cursor))).collect();
            let result = match self.request(method, &members, None, Vec::new(), &mut |_| {}).await? {
                Answer::Result(result) => result,
                Answer::Error(code, text) => return Err(refused(code, &text)),
            };
            let page = list::items(&result, member).map_err(|error| {
                Failure::unreachable(format!("the answer to {method} cannot be read")).because(&error)
            })?;
            items.extend(page.into_iter().map(str::to_owned));
            match list::string_member(&result, "nextCursor") {
                Some(next) => cursor = Some(next.into_owned()),
                None => return Ok(items),
            }
        }
        Err(Failure::unreachable(format!("the answer to {method} has more than {MAX_PAGES} pages")))
    }
}

/// Reads an answer, whether it is JSON or a stream.
async fn read(response: Response<Incoming>, told: &mut (dyn FnMut(&Frame) + Send)) -> Result<Answer, NoAnswer> {
    let status = response.status();
    let words = format!("HTTP {}", status.as_u16());
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        let body = reach::collect(response.into_body()).await.unwrap_or_default();
        return Err(NoAnswer::new(words, not_authorised(status, &body)));
    }
    let streamed = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let broke = |failure| NoAnswer::new("answer broke off", failure);
    let frame = if streamed {
        read_stream(response.into_body(), told).await.map_err(broke)?
    } else {
        let body = reach::collect(response.into_body()).await.map_err(broke)?;
        Frame::parse(body, &Limits::default()).map_err(|error| {
            let text = format!("what answers with HTTP {status} is not an MCP endpoint");
            NoAnswer::new(words, Failure::unreachable(text).because(&error))
        })?
    };
    match frame.kind() {
        Kind::Result => Ok(Answer::Result(frame.raw(Field::Result).unwrap_or("{}").to_owned())),
        Kind::Error => {
            let text = frame.str(Field::ErrorMessage).map(std::borrow::Cow::into_owned).unwrap_or_default();
            Ok(Answer::Error(frame.error_code().unwrap_or_default(), text))
        }
        Kind::Request | Kind::Notification => {
            Err(NoAnswer::new("no response", Failure::unreachable("the answer is not a response")))
        }
    }
}

/// What an error of the protocol means for the exit code: the gateway's own codes for servers it cannot reach are
/// "unreachable", everything else is a failed call.
pub(crate) fn refused(code: i64, text: &str) -> Failure {
    let unreachable = [
        Code::ServerUnavailable,
        Code::ServerTimeout,
        Code::ServerLost,
        Code::ServerGarbage,
        Code::ServerAtCapacity,
        Code::ServerMessageTooLarge,
        Code::Draining,
    ];
    let exit = if unreachable.iter().any(|known| known.info().rpc == code) { Exit::Unreachable } else { Exit::Failed };
    let coded = text.contains("FL-");
    let text = crate::output::one_line(text, 2000);
    let failure = if coded { Failure::coded(text) } else { Failure::coded(format!("{text} (JSON-RPC error {code})")) };
    failure.exit(exit)
}

fn not_authorised(status: StatusCode, body: &[u8]) -> Failure {
    let said = Frame::parse(Bytes::copy_from_slice(body), &Limits::default())
        .ok()
        .and_then(|frame| frame.str(Field::ErrorMessage).map(|text| crate::output::one_line(&text, 500)));
    let message = said.map_or_else(String::new, |said| format!(": {said}"));
    Failure::coded(format!("the gateway refused the request (HTTP {status}){message}"))
        .exit(Exit::NotAuthorised)
        .hint("the caller lacks a credential or a right for it")
}

/// Reads a stream up to the response.
async fn read_stream(mut body: Incoming, told: &mut (dyn FnMut(&Frame) + Send)) -> Result<Frame, Failure> {
    let mut parser = SseParser::new(SseLimits { max_event: reach::MAX_ANSWER });
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::unreachable("the answer broke off").because(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        parser.push(data);
        loop {
            let event = match parser.next() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => return Err(Failure::unreachable("the answer cannot be read").because(&error)),
            };
            if event.data.is_empty() {
                continue;
            }
            let message = Frame::parse(event.data, &Limits::default())
                .map_err(|error| Failure::unreachable("the answer is not MCP").because(&error))?;
            match message.kind() {
                Kind::Notification => told(&message),
                Kind::Result | Kind::Error => return Ok(message),
                // The revision has no requests from servers.
                Kind::Request => {}
            }
        }
    }
    Err(Failure::unreachable("the answer ended without a result"))
}

/// The headers in which a tool wants some of its arguments, from its raw definition.
///
/// # Errors
/// When its annotations are malformed, in which case a client must not call it.
pub(crate) fn param_headers(tool: &str, arguments: &str) -> Result<Vec<(HeaderName, HeaderValue)>, Failure> {
    let Some(schema) = list::raw_member(tool, "inputSchema") else { return Ok(Vec::new()) };
    if !schema.contains("x-mcp-header") {
        return Ok(Vec::new());
    }
    ParamHeaders::from_schema(schema)
        .map(|headers| headers.encode(Some(arguments)))
        .map_err(|error| Failure::usage(format!("the tool declares unusable argument headers: {}", chain(&error))))
}
