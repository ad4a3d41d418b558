//! A client over any transport, for tests that must not care which.
//!
//! Whatever comes, on whichever stream, is one log in the order of its arrival: answers, questions, notifications. A
//! test says things and waits for what it expects in the log. Questions are answered on the way.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
};

use crate::{
    client::{AnswerStream, McpClient, Reply},
    script::is_modern_version,
    tls::Trust,
    web_socket::{Said, WebSocket},
};

/// How long anything takes at most.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a stream may be silent at most.
const SILENCE: Duration = Duration::from_secs(60);
/// Rounds of `input_required` that are answered before giving up.
const MAX_ROUNDS: usize = 10;

/// How a client reaches its server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Streamable HTTP.
    Http,
    /// HTTP+SSE.
    Sse,
    /// WebSocket.
    WebSocket,
}

type Answering = Arc<dyn Fn(&str, &Value) -> Reply + Send + Sync>;

/// What a client is before it is connected.
pub struct AnyClientOptions {
    /// How.
    pub way: Way,
    /// Where: the URL of the endpoint, of the stream, or of the WebSocket.
    pub url: String,
    /// The revision it speaks.
    pub version: String,
    /// What it declares.
    pub capabilities: Value,
    /// What it says to questions.
    pub answering: Answering,
    /// Whom it trusts, where it speaks TLS.
    pub trust: Option<Trust>,
}

/// See the module. Clones are the same client; the last one that is dropped goes away without a word.
#[derive(Clone)]
pub struct AnyClient {
    inner: Arc<Inner>,
    /// Everything that runs for the client ends with it.
    _tasks: Arc<Tasks>,
}

struct Inner {
    link: Link,
    version: String,
    capabilities: Value,
    answering: Answering,
    log: Mutex<Vec<Value>>,
    arrived: Notify,
    next_id: AtomicU64,
    tasks: std::sync::Weak<Tasks>,
}

enum Link {
    Http { client: McpClient, modern: Mutex<HashMap<String, AbortHandle>> },
    Sse { post: McpClient },
    WebSocket { out: mpsc::UnboundedSender<String> },
    Stdio { out: mpsc::UnboundedSender<String> },
}

#[derive(Default)]
struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.0.lock().expect("invariant: nobody panics while holding the tasks").spawn(work)
    }
}

fn new_client(url: &str, trust: &Option<Trust>) -> McpClient {
    let client = McpClient::new(url);
    match trust {
        Some(trust) => client.trusting(trust.clone()),
        None => client,
    }
}

impl AnyClient {
    /// Connects, and does the legacy handshake when the revision has one.
    ///
    /// # Errors
    /// No connection, a refused handshake, nothing in time.
    pub async fn connect(options: AnyClientOptions) -> anyhow::Result<Self> {
        let tasks = Arc::new(Tasks::default());
        let modern = is_modern_version(&options.version);
        let (link, incoming) = match options.way {
            Way::Http => {
                let client =
                    new_client(&options.url, &options.trust).limit(LIMIT).capabilities(options.capabilities.clone());
                let client = if modern {
                    client.modern(&options.version)
                } else {
                    client.initialize(&options.version).await?;
                    client
                };
                (Link::Http { client, modern: Mutex::default() }, Stream::None)
            }
            Way::Sse => {
                let mut stream = new_client(&options.url, &options.trust).limit(LIMIT).open_get(None).await?;
                let first = stream.next(LIMIT).await?.context("the stream ended at once")?;
                if first.event.as_deref() != Some("endpoint") {
                    bail!("status {}, and the first event is {first:?}", stream.status);
                }
                let url: http::Uri = options.url.parse().context("the URL is malformed")?;
                let authority = url.authority().context("the URL has no host")?;
                let scheme = url.scheme_str().unwrap_or("http");
                let post = format!("{scheme}://{authority}{}", String::from_utf8_lossy(&first.data));
                (Link::Sse { post: new_client(&post, &options.trust).limit(LIMIT) }, Stream::Events(Box::new(stream)))
            }
            Way::WebSocket => {
                let opened = WebSocket::open_trusting(
                    options.trust.as_ref(),
                    &options.url,
                    &[("sec-websocket-protocol", "mcp")],
                )
                .await?;
                let Ok(socket) = opened else { bail!("the WebSocket was refused") };
                let (out, lines) = mpsc::unbounded_channel();
                (Link::WebSocket { out }, Stream::WebSocket(Box::new(socket), lines))
            }
        };
        // Over Streamable HTTP it is done: it brings the session of every request.
        let handshake = !modern && options.way != Way::Http;
        Self::begin(options, link, incoming, tasks, handshake).await
    }

    /// Starts a program and connects to its standard streams; it is killed when the client is dropped. The way and the
    /// URL of the options do not matter.
    ///
    /// # Errors
    /// A program that cannot be started, a refused handshake, nothing in time.
    pub async fn over_stdio(mut command: Command, options: AnyClientOptions) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().context("the program cannot be started")?;
        let (out, lines) = mpsc::unbounded_channel();
        let handshake = !is_modern_version(&options.version);
        Self::begin(options, Link::Stdio { out }, Stream::Lines(Box::new(child), lines), Arc::default(), handshake)
            .await
    }

    async fn begin(
        options: AnyClientOptions,
        link: Link,
        incoming: Stream,
        tasks: Arc<Tasks>,
        handshake: bool,
    ) -> anyhow::Result<Self> {
        let inner = Arc::new(Inner {
            link,
            version: options.version,
            capabilities: options.capabilities,
            answering: options.answering,
            log: Mutex::default(),
            arrived: Notify::new(),
            next_id: AtomicU64::new(1_000),
            tasks: Arc::downgrade(&tasks),
        });
        let reading = Arc::clone(&inner);
        match incoming {
            Stream::None => {}
            Stream::Events(stream) => _ = tasks.spawn(async move { reading.read(*stream).await }),
            Stream::WebSocket(socket, lines) => _ = tasks.spawn(reading.converse(*socket, lines)),
            Stream::Lines(child, lines) => _ = tasks.spawn(reading.pipe(*child, lines)),
        }
        let client = Self { inner, _tasks: tasks };
        if handshake {
            client.handshake().await?;
        }
        Ok(client)
    }

    async fn handshake(&self) -> anyhow::Result<()> {
        let params = json!({
            "protocolVersion": self.inner.version,
            "capabilities": self.inner.capabilities,
            "clientInfo": {"name": "testkit", "version": "1"},
        });
        let result = self.result("initialize", params).await?;
        if result["protocolVersion"] != *self.inner.version {
            bail!("{} was asked for and answered with {}", self.inner.version, result["protocolVersion"]);
        }
        self.notify("notifications/initialized", json!({})).await
    }

    /// Whether it speaks the modern era.
    pub fn is_modern(&self) -> bool {
        is_modern_version(&self.inner.version)
    }

    /// Sends any message; what comes back goes to the log.
    ///
    /// # Errors
    /// A connection that breaks; over HTTP+SSE anything but 202.
    pub async fn send(&self, message: &Value) -> anyhow::Result<()> {
        self.inner.send(message).await
    }

    /// Sends a request and returns its id.
    ///
    /// # Errors
    /// As [`AnyClient::send`].
    pub async fn start(&self, method: &str, mut params: Value) -> anyhow::Result<Value> {
        let id = json!(self.inner.next_id.fetch_add(1, Ordering::Relaxed));
        if self.is_modern() {
            let meta = &mut params["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = json!(self.inner.version);
            meta["io.modelcontextprotocol/clientCapabilities"] = self.inner.capabilities.clone();
        }
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await?;
        Ok(id)
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// As [`AnyClient::send`].
    pub async fn notify(&self, method: &str, params: Value) -> anyhow::Result<()> {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await
    }

    /// Cancels a request the way its era and transport have for it.
    ///
    /// # Errors
    /// As [`AnyClient::send`].
    pub async fn cancel(&self, id: &Value) -> anyhow::Result<()> {
        if let Link::Http { modern, .. } = &self.inner.link
            && self.is_modern()
        {
            if let Some(call) = lock(modern).remove(&id.to_string()) {
                call.abort();
            }
            return Ok(());
        }
        self.notify("notifications/cancelled", json!({"requestId": id, "reason": "testkit"})).await
    }

    /// The answer to the request with this id.
    ///
    /// # Errors
    /// None in time.
    pub async fn answer(&self, id: &Value) -> anyhow::Result<Value> {
        self.hear(LIMIT, |message| message["id"] == *id && message["method"].is_null()).await
    }

    /// Sends a request and waits for its answer: the whole message.
    ///
    /// # Errors
    /// As [`AnyClient::send`], and no answer in time.
    pub async fn request(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let id = self.start(method, params).await?;
        self.answer(&id).await.with_context(|| format!("`{method}`"))
    }

    /// The result of a request.
    ///
    /// # Errors
    /// Anything but a result.
    pub async fn result(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let answer = self.request(method, params).await?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => bail!("`{method}` ended with {answer}"),
        }
    }

    /// Calls a tool; `input_required` is answered as the options say.
    ///
    /// # Errors
    /// Anything but a result.
    pub async fn call(&self, name: &str, arguments: Value) -> anyhow::Result<Value> {
        let mut params = json!({"name": name, "arguments": arguments});
        for _ in 0..MAX_ROUNDS {
            let result = self.result("tools/call", params.clone()).await?;
            if result["resultType"] != "input_required" {
                return Ok(result);
            }
            let mut responses = json!({});
            for (key, question) in result["inputRequests"].as_object().into_iter().flatten() {
                let method = question["method"].as_str().unwrap_or_default();
                if let Reply::Result(answer) = (self.inner.answering)(method, &question["params"]) {
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

    /// Opens whatever tells the client of changed lists, unless the transport does so anyway.
    ///
    /// # Errors
    /// A refusal.
    pub async fn listen(&self) -> anyhow::Result<()> {
        if self.is_modern() {
            self.start("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})).await?;
            let acknowledged = |message: &Value| message["method"] == "notifications/subscriptions/acknowledged";
            self.hear(LIMIT, acknowledged).await?;
        } else if let Link::Http { client, .. } = &self.inner.link {
            let stream = client.open_get(None).await?;
            if stream.status != 200 {
                bail!("the GET stream was refused with status {}", stream.status);
            }
            let inner = Arc::clone(&self.inner);
            self.inner.spawn(async move { inner.read(stream).await });
        }
        Ok(())
    }

    /// Everything that came so far.
    pub fn log(&self) -> Vec<Value> {
        lock(&self.inner.log).clone()
    }

    /// Forgets what came so far.
    pub fn clear(&self) {
        lock(&self.inner.log).clear();
    }

    /// The first message in the log, now or later, of which this is true.
    ///
    /// # Errors
    /// None within `limit`.
    pub async fn hear(&self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let hearing = async {
            loop {
                let arrived = self.inner.arrived.notified();
                if let Some(message) = lock(&self.inner.log).iter().find(|message| wanted(message)) {
                    return message.clone();
                }
                arrived.await;
            }
        };
        match tokio::time::timeout(limit, hearing).await {
            Ok(message) => Ok(message),
            Err(_) => bail!("not within {limit:?}; what came is {:.2000}", json!(self.log()).to_string()),
        }
    }
}

enum Stream {
    None,
    Events(Box<AnswerStream>),
    WebSocket(Box<WebSocket>, mpsc::UnboundedReceiver<String>),
    Lines(Box<Child>, mpsc::UnboundedReceiver<String>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("invariant: nobody panics while holding it")
}

impl Inner {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        self.tasks.upgrade().map(|tasks| tasks.spawn(work))
    }

    /// Sends a request, or anything else.
    async fn send(self: &Arc<Self>, message: &Value) -> anyhow::Result<()> {
        let Link::Http { client, modern } = &self.link else { return self.say(message).await };
        if message["method"].is_null() || message.get("id").is_none() {
            return self.say(message).await;
        }
        let (inner, client, sent) = (Arc::clone(self), client.clone(), message.clone());
        let posting = self.spawn(async move {
            if let Ok(stream) = client.post(&sent).await {
                inner.read(stream).await;
            }
        });
        if let Some(posting) = posting {
            lock(modern).insert(message["id"].to_string(), posting);
        }
        Ok(())
    }

    /// Sends what is not answered where it is sent.
    async fn say(&self, message: &Value) -> anyhow::Result<()> {
        match &self.link {
            Link::WebSocket { out } => out.send(message.to_string()).context("the WebSocket is gone"),
            Link::Stdio { out } => out.send(message.to_string()).context("the program is gone"),
            Link::Sse { post } => {
                let answer = post.post(message).await?.finish().await?;
                if answer.status != 202 {
                    bail!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
                }
                Ok(())
            }
            Link::Http { client, .. } => client.post(message).await.map(drop),
        }
    }

    /// Reads a stream of events, or the one message of an answer.
    async fn read(self: &Arc<Self>, mut stream: AnswerStream) {
        while let Ok(Some(frame)) = stream.next(SILENCE).await {
            if !frame.data.is_empty() {
                self.arrive(frame.json()).await;
            }
        }
    }

    /// One message per line, both ways.
    async fn pipe(self: Arc<Self>, mut child: Child, mut lines: mpsc::UnboundedReceiver<String>) {
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { return };
        let writing = async {
            while let Some(line) = lines.recv().await {
                if input.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        let reading = async {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                self.arrive(serde_json::from_str(&line).unwrap_or_default()).await;
            }
        };
        tokio::select! {
            () = writing => {}
            () = reading => {}
        }
    }

    async fn converse(self: Arc<Self>, mut socket: WebSocket, mut lines: mpsc::UnboundedReceiver<String>) {
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) if socket.send(&line).await.is_ok() => {}
                    _ => return,
                },
                said = socket.next() => match said {
                    Said::Text(text) => self.arrive(serde_json::from_str(&text).unwrap_or_default()).await,
                    Said::Close(code, reason) => {
                        self.arrive(json!({"closed": code, "reason": reason})).await;
                        return;
                    }
                    Said::Gone => return,
                },
            }
        }
    }

    async fn arrive(self: &Arc<Self>, message: Value) {
        let question = (message["method"].is_string() && message.get("id").is_some()).then(|| message.clone());
        lock(&self.log).push(message);
        self.arrived.notify_waiters();
        let Some(question) = question else { return };
        let method = question["method"].as_str().unwrap_or_default();
        let mut reply = json!({"jsonrpc": "2.0", "id": question["id"]});
        match (self.answering)(method, &question["params"]) {
            Reply::Result(result) => reply["result"] = result,
            Reply::Error(code, text) => reply["error"] = json!({"code": code, "message": text}),
            Reply::Silence => return,
        }
        // A test that waits for the effect sees when it does not come.
        self.say(&reply).await.ok();
    }
}
