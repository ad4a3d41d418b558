//! A small client of the current protocol revision, for the commands that call or list.
//!
//! The revision is stateless, so a request is one POST: no session is left behind by a command
//! that is interrupted.

use crate::{
    failure::{Exit, Failure, chain},
    reach::{self, Reach},
};
use bytes::Bytes;
use fairlead_core::Code;
use fairlead_wire::{
    Field, Frame, Kind, Limits, Revision, header as mcp_header,
    header::ParamHeaders,
    list, message,
    sse::{SseLimits, SseParser},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Most pages of a list, against a server that never ends one.
const MAX_PAGES: usize = 1000;
/// The id of a request that is alone on its stream.
const ID: &str = "1";

/// What a request gives: the raw result, or the error the protocol carries.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Raw JSON of the result.
    Result(String),
    /// Code and message of the error.
    Error(i64, String),
}

/// A client of one gateway.
pub(crate) struct Client {
    reach: Reach,
}

impl Client {
    pub(crate) fn new(reach: Reach) -> Self {
        Self { reach }
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
        let mut params = vec![format!(
            r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"fairlead-cli","version":"{}"}},"progressToken":1}}"#,
            Revision::LATEST.as_str(),
            env!("CARGO_PKG_VERSION"),
        )];
        params.extend_from_slice(members);
        let body = message::request(ID, method, Some(&format!("{{{}}}", params.join(","))));
        let mut request = self.reach.mcp(http::Method::POST, body);
        let sent = request.headers_mut();
        sent.insert(mcp_header::MCP_PROTOCOL_VERSION, HeaderValue::from_static(Revision::LATEST.as_str()));
        sent.insert(
            mcp_header::MCP_METHOD,
            HeaderValue::from_str(method).map_err(|error| Failure::usage("bad method").because(&error))?,
        );
        if let Some(name) = name {
            sent.insert(mcp_header::MCP_NAME, mcp_header::encode_value(name));
        }
        sent.extend(headers);
        let response = self.reach.send(request).await.map_err(|error| error.failure())?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(not_authorised(status, &reach::collect(response.into_body()).await.unwrap_or_default()));
        }
        let streamed = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        let frame = if streamed {
            read_stream(response.into_body(), told).await?
        } else {
            let body = reach::collect(response.into_body()).await?;
            Frame::parse(body, &Limits::default()).map_err(|error| {
                Failure::unreachable(format!("what answers with HTTP {status} is not an MCP endpoint")).because(&error)
            })?
        };
        match frame.kind() {
            Kind::Result => Ok(Answer::Result(frame.raw(Field::Result).unwrap_or("{}").to_owned())),
            Kind::Error => {
                let text = frame.str(Field::ErrorMessage).map(std::borrow::Cow::into_owned).unwrap_or_default();
                Ok(Answer::Error(frame.error_code().unwrap_or_default(), text))
            }
            Kind::Request | Kind::Notification => Err(Failure::unreachable("the answer is not a response")),
        }
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
