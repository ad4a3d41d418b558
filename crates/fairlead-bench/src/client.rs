//! One MCP client on one keep-alive connection, which checks every answer it gets.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::mcp::{
    Era, LEGACY_REVISION, MAX_BODY, METHOD_HEADER, MODERN_REVISION, NAME_HEADER, SESSION_HEADER, Target, VERSION_HEADER,
};

/// Longest wait for one answer.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Most pages of one list.
const MAX_PAGES: usize = 1000;

/// A client with its connection and, in the legacy era, its session.
pub(crate) struct Session {
    sender: SendRequest<Full<Bytes>>,
    connection: AbortHandle,
    path: String,
    headers: HeaderMap,
    era: Era,
    next_id: u64,
    /// What a modern request says that its client is called.
    name: String,
}

/// What a call may differ in from a plain one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// Headers it has besides.
    pub(crate) headers: HeaderMap,
    /// No two calls send the same text.
    pub(crate) varies: bool,
    /// It is made through this tool, which takes the name and the arguments of the other.
    pub(crate) through: Option<&'static str>,
}

/// The text a call sends and what it expects back.
pub(crate) struct Echo {
    /// What else there is about it.
    pub(crate) manner: Manner,
    /// Name of the echo tool as the endpoint exposes it.
    pub(crate) tool: String,
    /// Text to send.
    pub(crate) text: String,
    /// Size of the answer to ask for; `None` expects the text itself.
    pub(crate) answer: Option<usize>,
}

#[derive(Deserialize)]
struct Message<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct CallResult<'a> {
    #[serde(borrow)]
    content: Vec<Content<'a>>,
    #[serde(rename = "isError", default)]
    is_error: bool,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ListResult<'a> {
    tools: Vec<IgnoredAny>,
    #[serde(borrow, rename = "nextCursor")]
    next_cursor: Option<&'a RawValue>,
}

/// Calls of which no two send the same text, so far.
static VARIED: AtomicU64 = AtomicU64::new(0);

impl Echo {
    fn next_text(&self) -> Cow<'_, str> {
        if !self.manner.varies {
            return Cow::Borrowed(&self.text);
        }
        // As long as the others.
        let number = format!("{:016}", VARIED.fetch_add(1, Ordering::Relaxed));
        let rest = self.text.get(number.len()..).unwrap_or_default();
        Cow::Owned(number + rest)
    }
}

impl Session {
    /// Opens the connection. Must be called where tasks that are not `Send` can be spawned.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) async fn connect(target: &Target, era: Era) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.addr).await.with_context(|| format!("connecting to {}", target.addr))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; dropping the session aborts it.
        let connection = tokio::task::spawn_local(connection).abort_handle();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::try_from(target.addr.to_string())?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        Ok(Self { sender, connection, path: target.path.clone(), headers, era, next_id: 0, name: "bench".to_owned() })
    }

    /// Does what a client does before its first call: `initialize` and `notifications/initialized`, or `server/discover`.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn handshake(&mut self) -> anyhow::Result<()> {
        match self.era {
            Era::Legacy => self.initialize().await,
            Era::Modern => {
                self.headers.insert(VERSION_HEADER, HeaderValue::from_static(MODERN_REVISION));
                let (id, body) = self.request("server/discover", "");
                let answer = self.post("server/discover", None, body).await?;
                result(&answer.body, answer.is_stream, id)?;
                Ok(())
            }
        }
    }

    /// Opens a new session on the connection, as a new client would.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn initialize(&mut self) -> anyhow::Result<()> {
        self.headers.remove(SESSION_HEADER);
        self.headers.remove(VERSION_HEADER);
        let (id, body) = self.request(
            "initialize",
            &format!(
                r#""protocolVersion":"{LEGACY_REVISION}","capabilities":{{}},"clientInfo":{{"name":"bench","version":"1"}}"#
            ),
        );
        let answer = self.post("initialize", None, body).await?;
        result(&answer.body, answer.is_stream, id)?;
        if let Some(session) = answer.session {
            self.headers.insert(SESSION_HEADER, session);
        }
        self.headers.insert(VERSION_HEADER, HeaderValue::from_static(LEGACY_REVISION));
        let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let answer = self.post("notifications/initialized", None, body.to_owned()).await?;
        anyhow::ensure!(answer.status == StatusCode::ACCEPTED, "a notification was answered with {}", answer.status);
        Ok(())
    }

    /// Whether the connection can be used again.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// The legacy session the connection speaks for.
    pub(crate) fn session(&self) -> Option<HeaderValue> {
        self.headers.get(SESSION_HEADER).cloned()
    }

    /// Goes on in another legacy session.
    pub(crate) fn resume(&mut self, session: HeaderValue) {
        self.headers.insert(SESSION_HEADER, session);
    }

    /// A call of a modern client of that name.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub(crate) async fn call_as(&mut self, name: &str, echo: &Echo) -> anyhow::Result<()> {
        name.clone_into(&mut self.name);
        self.call(echo).await
    }

    /// Ends the legacy session, when the server gave one; the connection stays.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn terminate(&mut self) -> anyhow::Result<()> {
        if !self.headers.contains_key(SESSION_HEADER) {
            return Ok(());
        }
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = self.path.parse()?;
        *request.headers_mut() = self.headers.clone();
        tokio::time::timeout(CALL_LIMIT, exchange(&mut self.sender, request)).await.context("no answer in time")??;
        self.headers.remove(SESSION_HEADER);
        Ok(())
    }

    /// Calls the echo tool and checks what comes back.
    ///
    /// # Errors
    /// When the answer is not the one asked for.
    pub(crate) async fn call(&mut self, echo: &Echo) -> anyhow::Result<()> {
        let answer_bytes = echo.answer.map(|size| format!(r#","answer_bytes":{size}"#)).unwrap_or_default();
        let text = echo.next_text();
        let arguments = format!(r#"{{"text":"{text}"{answer_bytes}}}"#);
        let (tool, params) = match echo.manner.through {
            None => (echo.tool.as_str(), format!(r#""name":"{}","arguments":{arguments}"#, echo.tool)),
            Some(outer) => {
                let inner = format!(r#"{{"name":"{}","arguments":{arguments}}}"#, echo.tool);
                (outer, format!(r#""name":"{outer}","arguments":{inner}"#))
            }
        };
        let (id, body) = self.request("tools/call", &params);
        let answer = self.post_with("tools/call", Some(tool), body, &echo.manner.headers).await?;
        let result: CallResult<'_> = serde_json::from_str(result(&answer.body, answer.is_stream, id)?)?;
        anyhow::ensure!(!result.is_error, "the tool reports an error");
        let came = result.content.first().map(|content| content.text.as_ref()).unwrap_or_default();
        match echo.answer {
            None => anyhow::ensure!(came == text, "the text came back altered"),
            Some(size) => anyhow::ensure!(came.len() == size, "{} bytes came back instead of {size}", came.len()),
        }
        Ok(())
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn ping(&mut self) -> anyhow::Result<()> {
        let (id, body) = self.request("ping", "");
        let answer = self.post("ping", None, body).await?;
        result(&answer.body, answer.is_stream, id).map(drop)
    }

    /// Lists all tools, every page, and returns how many there are.
    ///
    /// # Errors
    /// When an answer is not a list, or the list does not end.
    pub(crate) async fn list(&mut self) -> anyhow::Result<usize> {
        let mut count = 0;
        let mut cursor = String::new();
        for _ in 0..MAX_PAGES {
            let (id, body) = self.request("tools/list", &cursor);
            let answer = self.post("tools/list", None, body).await?;
            let page: ListResult<'_> = serde_json::from_str(result(&answer.body, answer.is_stream, id)?)?;
            count += page.tools.len();
            match page.next_cursor.filter(|cursor| cursor.get() != "null") {
                Some(next) => cursor = format!(r#""cursor":{}"#, next.get()),
                None => return Ok(count),
            }
        }
        anyhow::bail!("the list has more than {MAX_PAGES} pages")
    }

    /// The next id and the bytes of a request; `members` are those of `params`, without braces.
    fn request(&mut self, method: &str, members: &str) -> (u64, String) {
        self.next_id += 1;
        let id = self.next_id;
        let meta = match self.era {
            Era::Legacy => String::new(),
            Era::Modern => format!(
                r#"{}"_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN_REVISION}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"{}","version":"1"}}}}"#,
                if members.is_empty() { "" } else { "," },
                self.name
            ),
        };
        (id, format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{members}{meta}}}}}"#))
    }

    async fn post(&mut self, method: &str, name: Option<&str>, body: String) -> anyhow::Result<Answer> {
        self.post_with(method, name, body, &HeaderMap::new()).await
    }

    async fn post_with(
        &mut self,
        method: &str,
        name: Option<&str>,
        body: String,
        more: &HeaderMap,
    ) -> anyhow::Result<Answer> {
        let mut headers = self.headers.clone();
        headers.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        if self.era == Era::Modern {
            headers.insert(HeaderName::from_static(METHOD_HEADER), HeaderValue::from_str(method)?);
            if let Some(name) = name {
                headers.insert(HeaderName::from_static(NAME_HEADER), HeaderValue::from_str(name)?);
            }
        }
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.parse()?;
        *request.headers_mut() = headers;
        tokio::time::timeout(CALL_LIMIT, exchange(&mut self.sender, request)).await.context("no answer in time")?
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The body that a GET of `path` answers, over a connection of its own.
///
/// # Errors
/// When nobody listens, or the answer is not a success.
pub(crate) async fn get(addr: std::net::SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let work = async {
        let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(addr).await?)).await?;
        let request = Request::get(path).header(HOST, addr.to_string()).body(Full::default())?;
        let answer = async move { exchange(&mut sender, request).await };
        // The connection ends when the sender is dropped, which the answer does.
        let (answer, _) = tokio::join!(answer, connection);
        Ok(answer?.body)
    };
    tokio::time::timeout(CALL_LIMIT, work).await.context("no answer in time")?
}

struct Answer {
    status: StatusCode,
    session: Option<HeaderValue>,
    is_stream: bool,
    body: Bytes,
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let session = response.headers().get(SESSION_HEADER).cloned();
    let is_stream =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let body = Limited::new(response.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!(error).context("reading the answer"))?
        .to_bytes();
    anyhow::ensure!(status.is_success(), "HTTP {status}: {}", excerpt(&body));
    Ok(Answer { status, session, is_stream, body })
}

/// The result of the response with `id`, as JSON text.
fn result(body: &[u8], is_stream: bool, id: u64) -> anyhow::Result<&str> {
    let body = std::str::from_utf8(body).context("the answer is not UTF-8")?;
    if !is_stream {
        return response(body, id)?.context("the answer is not a response");
    }
    for line in body.lines() {
        let Some(data) = line.strip_prefix("data:").map(str::trim).filter(|data| !data.is_empty()) else { continue };
        if let Some(result) = response(data, id)? {
            return Ok(result);
        }
    }
    anyhow::bail!("the stream ended without a response")
}

/// The result in one message; `None` when it is a notification.
fn response(message: &str, id: u64) -> anyhow::Result<Option<&str>> {
    let parsed: Message<'_> =
        serde_json::from_str(message).with_context(|| format!("not a response: {}", excerpt(message.as_bytes())))?;
    if parsed.method.is_some() {
        return Ok(None);
    }
    if let Some(error) = parsed.error {
        anyhow::bail!("the server answered with an error: {}", excerpt(error.get().as_bytes()));
    }
    anyhow::ensure!(parsed.id == Some(id), "the answer has the id {:?} instead of {id}", parsed.id);
    parsed.result.map(|result| Some(result.get())).context("the answer has no result")
}

fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let check = |body: &str, is_stream| result(body.as_bytes(), is_stream, 7).map(str::to_owned).ok();
        let good = r#"{"jsonrpc":"2.0","id":7,"result":{"a":1}}"#;
        assert_eq!(check(good, false).as_deref(), Some(r#"{"a":1}"#));
        let stream = format!(
            ": hello\n\nid: 1\ndata: \n\nevent: message\ndata: {{\"method\":\"notifications/progress\"}}\n\ndata: {good}\n\n"
        );
        assert_eq!(check(&stream, true).as_deref(), Some(r#"{"a":1}"#));
        for bad in [
            r#"{"jsonrpc":"2.0","id":8,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":"7","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
            r#"{"method":"notifications/progress"}"#,
            "",
        ] {
            assert_eq!(check(bad, false), None, "{bad}");
        }
        assert_eq!(check(": nothing\n\n", true), None);
    }
}
