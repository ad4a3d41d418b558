//! A minimal MCP server: as fast as hyper allows, so that the process under test is what is measured.
//!
//! It speaks both eras on any path, keeps no table of sessions (an id is a number below the count of ids given out), and
//! lists its tools from bytes prepared at the start. `GET /bench/requests` tells how many messages it has received, which
//! is how a run proves that a list was answered without asking it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::mcp::{Era, LEGACY_REVISION, MAX_BODY, MODERN_REVISION, SESSION_HEADER, VERSION_HEADER};
use crate::process;

/// Connections served at a time; more wait in the backlog.
const MAX_CONNECTIONS: usize = 16_384;
/// Most tools that can be asked for.
const MAX_TOOLS: usize = 10_000;
/// Path that tells the number of messages received.
pub(crate) const COUNT_PATH: &str = "/bench/requests";

/// What to serve.
pub(crate) struct Options {
    /// Where to listen.
    pub(crate) addr: SocketAddr,
    /// Number of tools, of which the first is `echo`.
    pub(crate) tools: usize,
    /// The one era to serve; `None` for both.
    pub(crate) era: Option<Era>,
}

/// Serves on one thread until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn serve_forever(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(options.addr).await.with_context(|| format!("listening on {}", options.addr))?;
        process::announce(listener.local_addr()?);
        accept(listener, Server::new(options)?).await
    })
}

/// Accepts and serves connections until it fails.
pub(crate) async fn accept(listener: TcpListener, server: Server) -> anyhow::Result<()> {
    let server = Arc::new(server);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely; accepting again at once would spin.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let service = service_fn(|request| server.answer(request));
            // A client that goes away is no event for a server in a bench.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct CallParams<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Option<EchoArguments<'a>>,
}

#[derive(Deserialize)]
struct EchoArguments<'a> {
    #[serde(borrow)]
    text: &'a RawValue,
    answer_bytes: Option<usize>,
}

/// The state of the server.
pub(crate) struct Server {
    era: Option<Era>,
    legacy_tools: String,
    modern_tools: String,
    sessions: AtomicU64,
    messages: AtomicU64,
}

impl Server {
    /// A server with its lists prepared.
    ///
    /// # Errors
    /// When more than 10,000 tools are asked for.
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        anyhow::ensure!((1..=MAX_TOOLS).contains(&options.tools), "between 1 and {MAX_TOOLS} tools can be served");
        let tools = tools(options.tools);
        Ok(Self {
            era: options.era,
            legacy_tools: format!(r#"{{"tools":{tools}}}"#),
            modern_tools: modern_result(&format!(r#""tools":{tools},"ttlMs":3600000,"cacheScope":"public""#)),
            sessions: AtomicU64::new(0),
            messages: AtomicU64::new(0),
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        match parts.method {
            Method::POST => {}
            Method::GET if parts.uri.path() == COUNT_PATH => {
                return Ok(json(StatusCode::OK, self.messages.load(Ordering::Relaxed).to_string()));
            }
            Method::DELETE if self.era != Some(Era::Modern) => return Ok(empty(StatusCode::OK)),
            _ => return Ok(empty(StatusCode::METHOD_NOT_ALLOWED)),
        }
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return Ok(empty(StatusCode::PAYLOAD_TOO_LARGE));
        };
        self.messages.fetch_add(1, Ordering::Relaxed);
        Ok(self.reply(&parts.headers, &body.to_bytes()))
    }

    fn reply(&self, headers: &HeaderMap, body: &[u8]) -> Response<Full<Bytes>> {
        let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
            return json(StatusCode::BAD_REQUEST, error("null", -32700, "the body is not a JSON-RPC message"));
        };
        let Some(method) = message.method.as_deref() else { return empty(StatusCode::ACCEPTED) };
        let Some(id) = message.id.map(RawValue::get) else { return empty(StatusCode::ACCEPTED) };
        let era = match headers.get(VERSION_HEADER) {
            Some(version) if version.as_bytes() == MODERN_REVISION.as_bytes() => Era::Modern,
            _ => Era::Legacy,
        };
        if self.era.is_some_and(|only| only != era) {
            return json(StatusCode::BAD_REQUEST, error(id, -32000, "this server does not speak that revision"));
        }
        match era {
            Era::Legacy => self.reply_legacy(headers, method, id, message.params),
            Era::Modern => self.reply_modern(method, id, message.params),
        }
    }

    fn reply_legacy(
        &self,
        headers: &HeaderMap,
        method: &str,
        id: &str,
        params: Option<&RawValue>,
    ) -> Response<Full<Bytes>> {
        if method == "initialize" {
            let session = self.sessions.fetch_add(1, Ordering::Relaxed);
            let result = format!(
                r#"{{"protocolVersion":"{LEGACY_REVISION}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"bench","version":"1"}}}}"#
            );
            let mut response = json(StatusCode::OK, success(id, &result));
            let value = HeaderValue::try_from(format!("bench-{session}"))
                .expect("invariant: digits and letters are a header value");
            response.headers_mut().insert(SESSION_HEADER, value);
            return response;
        }
        match headers.get(SESSION_HEADER).map(|value| value.to_str().unwrap_or_default()) {
            None => return json(StatusCode::BAD_REQUEST, error(id, -32000, "a session id is required")),
            Some(session) if !self.gave_out(session) => {
                return json(StatusCode::NOT_FOUND, error(id, -32001, "the session is unknown"));
            }
            Some(_) => {}
        }
        match method {
            "tools/call" => call(id, params, Era::Legacy),
            "tools/list" => json(StatusCode::OK, success(id, &self.legacy_tools)),
            "ping" => json(StatusCode::OK, success(id, "{}")),
            _ => json(StatusCode::OK, error(id, -32601, "the method is unknown")),
        }
    }

    fn reply_modern(&self, method: &str, id: &str, params: Option<&RawValue>) -> Response<Full<Bytes>> {
        match method {
            "tools/call" => call(id, params, Era::Modern),
            "tools/list" => json(StatusCode::OK, success(id, &self.modern_tools)),
            "server/discover" => {
                let result = modern_result(&format!(
                    r#""supportedVersions":["{MODERN_REVISION}"],"capabilities":{{"tools":{{}}}},"ttlMs":3600000,"cacheScope":"public""#
                ));
                json(StatusCode::OK, success(id, &result))
            }
            _ => json(StatusCode::NOT_FOUND, error(id, -32601, "the method is unknown")),
        }
    }

    fn gave_out(&self, session: &str) -> bool {
        session
            .strip_prefix("bench-")
            .and_then(|number| number.parse::<u64>().ok())
            .is_some_and(|number| number < self.sessions.load(Ordering::Relaxed))
    }
}

fn call(id: &str, params: Option<&RawValue>, era: Era) -> Response<Full<Bytes>> {
    let Some(params) = params.and_then(|params| serde_json::from_str::<CallParams<'_>>(params.get()).ok()) else {
        return json(StatusCode::OK, error(id, -32602, "the arguments must have a text"));
    };
    let Some(arguments) = params.arguments.filter(|_| params.name == "echo") else {
        return json(StatusCode::OK, error(id, -32602, "only the tool echo can be called, with a text"));
    };
    let text: Cow<'_, str> = match arguments.answer_bytes {
        None => arguments.text.get().into(),
        Some(size) if size <= MAX_BODY => format!("\"{}\"", "y".repeat(size)).into(),
        Some(_) => return json(StatusCode::OK, error(id, -32602, "the answer would be too large")),
    };
    let result = match era {
        Era::Legacy => format!(r#"{{"content":[{{"type":"text","text":{text}}}],"isError":false}}"#),
        Era::Modern => modern_result(&format!(r#""content":[{{"type":"text","text":{text}}}],"isError":false"#)),
    };
    json(StatusCode::OK, success(id, &result))
}

fn modern_result(members: &str) -> String {
    format!(
        r#"{{"resultType":"complete",{members},"_meta":{{"io.modelcontextprotocol/serverInfo":{{"name":"bench","version":"1"}}}}}}"#
    )
}

/// `echo` and then tools of the size that real servers have (about 500 bytes each).
fn tools(count: usize) -> String {
    let mut list = String::from(
        r#"[{"name":"echo","description":"Returns the text it is given.","inputSchema":{"type":"object","properties":{"text":{"type":"string"},"answer_bytes":{"type":"integer","minimum":0}},"required":["text"]}}"#,
    );
    for number in 1..count {
        list.push_str(&format!(
            r#",{{"name":"tool_{number:04}","title":"Record lookup {number}","description":"Looks up the records of kind {number} that match the given filter and returns them newest first, with the total number of matches.","inputSchema":{{"type":"object","properties":{{"filter":{{"type":"string","description":"Words that must occur in the record"}},"since":{{"type":"string","format":"date-time","description":"Earliest change to return"}},"limit":{{"type":"integer","minimum":1,"maximum":100,"default":20}}}},"required":["filter"]}},"annotations":{{"readOnlyHint":true}}}}"#
        ));
    }
    list.push(']');
    list
}

fn success(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

fn error(id: &str, code: i32, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
