//! A client that says exactly what it is told to, and can be rude.
//!
//! Every request has a TCP connection of its own, so that dropping what it returned is what a vanished client looks
//! like. Nothing is checked and nothing is repaired: what came back is there byte for byte.

mod stream;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::tls::Trust;

pub use self::stream::{Answer, AnswerStream, Frame};

/// How long anything takes at most, unless [`McpClient::limit`] says otherwise.
const LIMIT: Duration = Duration::from_secs(30);
/// Rounds of `input_required` that are answered before giving up.
const MAX_ROUNDS: usize = 10;

/// What a client says to a question of the server.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A result.
    Result(Value),
    /// A JSON-RPC error.
    Error(i64, String),
    /// Nothing, ever.
    Silence,
}

type Answering = Arc<dyn Fn(&str, &Value) -> Reply + Send + Sync>;

/// See the module. Clones are the same client: one session, one sequence of ids.
#[derive(Clone)]
pub struct McpClient {
    inner: Arc<Inner>,
}

struct Inner {
    url: Uri,
    headers: HeaderMap,
    limit: Duration,
    resuming: bool,
    trust: Option<Trust>,
    answering: Option<Answering>,
    capabilities: Value,
    state: Mutex<State>,
    next_id: AtomicU64,
}

#[derive(Clone, Default)]
struct State {
    version: Option<String>,
    session: Option<String>,
    initialized: Value,
}

impl McpClient {
    /// A client of the endpoint at `url` (`https://` needs [`McpClient::trusting`]).
    ///
    /// # Panics
    /// When `url` is not a URL.
    pub fn new(url: &str) -> Self {
        let url = url.parse().expect("invariant: tests name endpoints that are URLs");
        Self {
            inner: Arc::new(Inner {
                url,
                headers: HeaderMap::new(),
                limit: LIMIT,
                resuming: false,
                trust: None,
                answering: None,
                capabilities: json!({}),
                state: Mutex::default(),
                next_id: AtomicU64::new(1),
            }),
        }
    }

    fn with(self, change: impl FnOnce(&mut Inner)) -> Self {
        let state = self.state();
        let mut inner = Inner {
            url: self.inner.url.clone(),
            headers: self.inner.headers.clone(),
            limit: self.inner.limit,
            resuming: self.inner.resuming,
            trust: self.inner.trust.clone(),
            answering: self.inner.answering.clone(),
            capabilities: self.inner.capabilities.clone(),
            state: Mutex::new(state),
            next_id: AtomicU64::new(self.inner.next_id.load(Ordering::Relaxed)),
        };
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }

    /// Sends a header with every request.
    ///
    /// # Panics
    /// When the header is malformed; malformed ones need a raw socket.
    pub fn header(self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("invariant: tests name valid headers");
        let value: HeaderValue = value.parse().expect("invariant: tests give valid header values");
        self.with(|inner| _ = inner.headers.append(name, value))
    }

    /// Waits at most that long for anything.
    pub fn limit(self, limit: Duration) -> Self {
        self.with(|inner| inner.limit = limit)
    }

    /// Comes back for the rest of an answer whose stream ended before it, as a client of 2025-11-25 must.
    pub fn resuming(self) -> Self {
        self.with(|inner| inner.resuming = true)
    }

    /// Trusts servers that show a certificate of this authority.
    pub fn trusting(self, trust: Trust) -> Self {
        self.with(|inner| inner.trust = Some(trust))
    }

    /// Declares capabilities: in `initialize`, and with every modern request.
    pub fn capabilities(self, capabilities: Value) -> Self {
        self.with(|inner| inner.capabilities = capabilities)
    }

    /// Answers what the server asks: its requests in the legacy era, `input_required` in the modern one. The closure
    /// gets the method and the parameters.
    pub fn answering(self, answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.answering = Some(Arc::new(answer)))
    }

    fn state(&self) -> State {
        self.inner.state.lock().expect("invariant: nobody panics while holding the state").clone()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.inner.state.lock().expect("invariant: nobody panics while holding the state"));
    }

    /// The session id, once there is one.
    pub fn session(&self) -> Option<String> {
        self.state().session
    }

    /// Uses this session id from now on, whoever it belongs to; `None` sends none.
    pub fn set_session(&self, session: Option<&str>) {
        self.set(|state| state.session = session.map(str::to_owned));
    }

    /// The revision that was negotiated or chosen.
    pub fn version(&self) -> Option<String> {
        self.state().version
    }

    /// The result of `initialize`, once there is one.
    pub fn initialized(&self) -> Value {
        self.state().initialized
    }

    /// The id the next request gets.
    fn id(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The legacy handshake: `initialize` and `notifications/initialized`; returns the result of the first.
    ///
    /// # Errors
    /// Anything but a result.
    pub async fn initialize(&self, version: &str) -> anyhow::Result<Value> {
        let result = self.initialize_only(version).await?;
        let answer = self.notify("notifications/initialized", json!({})).await?;
        if answer.status != 202 {
            bail!("`notifications/initialized` was answered with status {}", answer.status);
        }
        Ok(result)
    }

    /// `initialize` without the notification that should follow.
    ///
    /// # Errors
    /// Anything but a result.
    pub async fn initialize_only(&self, version: &str) -> anyhow::Result<Value> {
        self.set(|state| *state = State::default());
        let params = json!({
            "protocolVersion": version,
            "capabilities": self.inner.capabilities,
            "clientInfo": {"name": "testkit", "version": "1"},
        });
        let answer = self.request("initialize", params).await?;
        let session = answer.headers.get("mcp-session-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let result = answer.result()?;
        let version = result["protocolVersion"].as_str().map(str::to_owned);
        self.set(|state| *state = State { version, session, initialized: result.clone() });
        Ok(result)
    }

    /// Speaks the modern era from now on: every request carries what `version` (2026-07-28) asks.
    pub fn modern(self, version: &str) -> Self {
        self.set(|state| *state = State { version: Some(version.to_owned()), ..State::default() });
        self
    }

    fn is_modern(&self) -> bool {
        self.state().version.is_some_and(|version| crate::script::is_modern_version(&version))
    }

    /// The message [`McpClient::request`] would send, with the next id.
    pub fn message(&self, method: &str, mut params: Value) -> Value {
        if self.is_modern() {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": self.state().version,
                "io.modelcontextprotocol/clientCapabilities": self.inner.capabilities,
                "io.modelcontextprotocol/clientInfo": {"name": "testkit", "version": "1"},
            });
            if let (Some(given), Value::Object(meta)) = (params.as_object_mut(), meta) {
                let target = given.entry("_meta").or_insert_with(|| json!({}));
                for (key, value) in meta {
                    if target.get(&key).is_none() {
                        target[key] = value;
                    }
                }
            }
        }
        json!({"jsonrpc": "2.0", "id": self.id(), "method": method, "params": params})
    }

    /// Sends a request, answers what the server asks meanwhile, and returns everything that came.
    ///
    /// # Errors
    /// A connection that breaks, or nothing in time.
    pub async fn request(&self, method: &str, params: Value) -> anyhow::Result<Answer> {
        self.start(method, params).await?.finish().await
    }

    /// Sends a request and returns as soon as the headers of the answer are there.
    ///
    /// # Errors
    /// A connection that breaks, or no headers in time.
    pub async fn start(&self, method: &str, params: Value) -> anyhow::Result<AnswerStream> {
        self.post(&self.message(method, params)).await
    }

    /// The result of a request.
    ///
    /// # Errors
    /// Anything but a result.
    pub async fn result(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.request(method, params).await?.result()
    }

    /// Calls a tool; in the modern era `input_required` is answered as [`McpClient::answering`] says.
    ///
    /// # Errors
    /// Anything but a result.
    pub async fn call(&self, name: &str, arguments: Value) -> anyhow::Result<Value> {
        let mut params = json!({"name": name, "arguments": arguments});
        for _ in 0..MAX_ROUNDS {
            let result = self.result("tools/call", params.clone()).await?;
            let Some(answering) = self.inner.answering.as_ref().filter(|_| result["resultType"] == "input_required")
            else {
                return Ok(result);
            };
            let mut responses = json!({});
            for (key, question) in result["inputRequests"].as_object().into_iter().flatten() {
                let method = question["method"].as_str().unwrap_or_default();
                if let Reply::Result(answer) = answering(method, &question["params"]) {
                    responses[key] = answer;
                }
            }
            params["inputResponses"] = responses;
            if !result["requestState"].is_null() {
                params["requestState"] = result["requestState"].clone();
            }
        }
        bail!("the server still asks after {MAX_ROUNDS} rounds")
    }

    /// Every item of a list (`tools/list` gives the member `tools`), page by page.
    ///
    /// # Errors
    /// Anything but results, a cursor that comes twice.
    pub async fn list(&self, method: &str, member: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut seen = BTreeSet::new();
        let mut params = json!({});
        loop {
            let result = self.result(method, params.clone()).await?;
            items.extend(result[member].as_array().cloned().unwrap_or_default());
            let Some(cursor) = result["nextCursor"].as_str() else { return Ok(items) };
            if !seen.insert(cursor.to_owned()) {
                bail!("the cursor `{cursor}` came twice");
            }
            params["cursor"] = json!(cursor);
        }
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// A connection that breaks, or nothing in time.
    pub async fn notify(&self, method: &str, params: Value) -> anyhow::Result<Answer> {
        self.post(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await?.finish().await
    }

    /// Cancels a request of this client by id, as a legacy client does.
    ///
    /// # Errors
    /// A connection that breaks, or nothing in time.
    pub async fn cancel(&self, id: &Value) -> anyhow::Result<Answer> {
        self.notify("notifications/cancelled", json!({"requestId": id, "reason": "testkit"})).await
    }

    /// Opens the GET stream of the session, resuming after `last_event_id`.
    ///
    /// # Errors
    /// A connection that breaks, or no headers in time.
    pub async fn open_get(&self, last_event_id: Option<&str>) -> anyhow::Result<AnswerStream> {
        let mut headers = self.standard_headers(None);
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_event_id {
            headers.insert("last-event-id", id.parse().context("the event id cannot be a header")?);
        }
        self.send(Method::GET, headers, Bytes::new(), None).await
    }

    /// Ends the session with DELETE.
    ///
    /// # Errors
    /// A connection that breaks, or nothing in time.
    pub async fn delete(&self) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, self.standard_headers(None), Bytes::new(), None).await?.finish().await
    }

    /// Posts any message with the headers that belong to it.
    ///
    /// # Errors
    /// A connection that breaks, or no headers in time.
    pub async fn post(&self, message: &Value) -> anyhow::Result<AnswerStream> {
        let body = Bytes::from(message.to_string());
        let id = message.get("id").filter(|_| message.get("method").is_some()).cloned();
        self.send(Method::POST, self.standard_headers(Some(message)), body, id).await
    }

    /// Posts any bytes with the headers of a request of this client and these; an empty value removes a header.
    ///
    /// # Errors
    /// A malformed header, a connection that breaks, nothing in time.
    pub async fn post_raw(&self, body: impl Into<Bytes>, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.raw(Method::POST, body, headers).await
    }

    /// Sends any bytes with any method; headers as in [`McpClient::post_raw`].
    ///
    /// # Errors
    /// A malformed header, a connection that breaks, nothing in time.
    pub async fn raw(
        &self,
        method: Method,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let mut all = self.standard_headers(None);
        let mut own = BTreeSet::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().context("the header has no valid name")?;
            if own.insert(name.as_str().to_owned()) {
                all.remove(&name);
            }
            if !value.is_empty() {
                all.append(name, value.parse().context("the header has no valid value")?);
            }
        }
        self.send(method, all, body.into(), None).await?.finish().await
    }

    /// The headers this client sends, those of a modern message included.
    fn standard_headers(&self, message: Option<&Value>) -> HeaderMap {
        let state = self.state();
        let mut headers = self.inner.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let mut set = |name: &'static str, value: Option<&str>| {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        };
        set("mcp-session-id", state.session.as_deref());
        set("mcp-protocol-version", state.version.as_deref());
        if let Some(message) = message.filter(|_| self.is_modern()) {
            set("mcp-method", message["method"].as_str());
            let params = &message["params"];
            let name = match message["method"].as_str() {
                Some("tools/call" | "prompts/get") => params["name"].as_str(),
                Some("resources/read") => params["uri"].as_str(),
                Some("tasks/get" | "tasks/update" | "tasks/cancel") => params["taskId"].as_str(),
                _ => None,
            };
            set("mcp-name", name);
        }
        headers
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        id: Option<Value>,
    ) -> anyhow::Result<AnswerStream> {
        let limit = self.inner.limit;
        let sending = async {
            let host = self.inner.url.host().context("the URL has no host")?;
            let port = self.inner.url.port_u16().unwrap_or(80);
            let stream = TcpStream::connect((host, port)).await.context("cannot connect")?;
            stream.set_nodelay(true).ok();
            let (mut sender, connection) = match &self.inner.trust {
                Some(trust) => stream::open(trust.secure(stream, host).await?).await?,
                None => stream::open(stream).await?,
            };
            let path = self.inner.url.path_and_query().map_or("/", |path| path.as_str());
            let mut request =
                Request::builder().method(method).uri(path).header(header::HOST, format!("{host}:{port}"));
            if let Some(own) = request.headers_mut() {
                for name in headers.keys() {
                    own.remove(name);
                }
                own.extend(headers);
            }
            let request = request.body(Full::new(body)).context("the request is malformed")?;
            let response = sender.send_request(request).await.context("no answer")?;
            Ok::<_, anyhow::Error>(AnswerStream::new(self.clone(), response, connection, id))
        };
        tokio::time::timeout(limit, sending).await.with_context(|| format!("no answer within {limit:?}"))?
    }

    /// Answers a request of the server, if this client answers at all.
    async fn reply(&self, question: &Value) -> anyhow::Result<()> {
        let Some(answering) = &self.inner.answering else { return Ok(()) };
        let method = question["method"].as_str().unwrap_or_default();
        let mut message = json!({"jsonrpc": "2.0", "id": question["id"]});
        match answering(method, &question["params"]) {
            Reply::Result(result) => message["result"] = result,
            Reply::Error(code, text) => message["error"] = json!({"code": code, "message": text}),
            Reply::Silence => return Ok(()),
        }
        // The recursion through `post` needs a box; an answer is never answered itself.
        let posted = Box::pin(self.post(&message)).await?;
        if posted.status >= 300 {
            bail!("the answer to `{method}` was refused with status {}", posted.status);
        }
        Ok(())
    }
}
