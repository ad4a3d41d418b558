//! A server that fails on demand: killed, hung, slow, in error half of the time, or up and down all the time.
//!
//! It speaks both eras and has two tools: `read`, which may be repeated, and `write`, which may not and of which every effect is counted by
//! its argument. What it was asked it does, whether anybody still waits for the answer or not: as a process does that was stopped and goes on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::dice::Dice;
use crate::mcp::{LEGACY_REVISION, MAX_BODY, MODERN_REVISION, SESSION_HEADER, VERSION_HEADER};

/// The time that work takes, in milliseconds: from and to.
const WORK_MS: (u64, u64) = (5, 15);
/// What the slow one takes more.
const SLOWNESS: Duration = Duration::from_millis(400);
/// How long the flapping one stays up, and down, in milliseconds: from and to.
const FLAP_MS: (u64, u64) = (300, 900);
/// Pause before the port is taken again, when somebody else has it.
const REBIND_PAUSE: Duration = Duration::from_millis(5);

/// What is wrong with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fault {
    /// Nobody listens, and connections are gone.
    Killed,
    /// Everything is taken and nothing answered; what was asked is done when it is over.
    Hung,
    /// Everything takes much longer.
    Slow,
    /// Half of what is asked ends with HTTP 500, before or after it was done.
    Faulty,
    /// Killed and started again, all the time.
    Flapping,
}

impl Fault {
    /// In the order in which they come.
    pub(super) const ALL: [Self; 5] = [Self::Killed, Self::Hung, Self::Slow, Self::Faulty, Self::Flapping];

    /// Its name, and that of the server one of whose instances has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Hung => "hung",
            Self::Slow => "slow",
            Self::Faulty => "faulty",
            Self::Flapping => "flapping",
        }
    }
}

/// How often each thing was done that must not be done twice.
#[derive(Debug, Default)]
pub(super) struct Effects(Mutex<HashMap<String, u32>>);

impl Effects {
    fn note(&self, what: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what.to_owned()).or_default() += 1;
    }

    /// What was done, and what was done more than once.
    pub(super) fn count(&self) -> (usize, usize) {
        let effects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (effects.len(), effects.values().filter(|times| **times > 1).count())
    }
}

/// One instance of a server.
pub(super) struct Instance {
    pub(super) address: SocketAddr,
    fault: watch::Sender<Option<Fault>>,
    state: Arc<State>,
    running: AbortHandle,
}

struct State {
    effects: Arc<Effects>,
    dice: Mutex<Dice>,
    fault: watch::Receiver<Option<Fault>>,
    /// Sessions it gave out, of which those below the second number died with the process.
    sessions: AtomicU64,
    forgotten: AtomicU64,
    calls: AtomicU64,
}

impl Instance {
    /// Listens on a free port of loopback. To be called within the runtime that serves it.
    ///
    /// # Errors
    /// When no port can be had.
    pub(super) async fn start(effects: Arc<Effects>, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listening on loopback")?;
        let address = listener.local_addr()?;
        let (fault, given) = watch::channel(None);
        let state = Arc::new(State {
            effects,
            dice: Mutex::new(Dice::new(seed)),
            fault: given,
            sessions: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        });
        let running = tokio::spawn(run(Arc::clone(&state), listener, address)).abort_handle();
        Ok(Self { address, fault, state, running })
    }

    /// Lets something go wrong, or go well again.
    pub(super) fn set(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault);
    }

    /// Calls of tools it was sent.
    pub(super) fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Listens while the instance is up; when it goes down, the listener and all connections go.
async fn run(state: Arc<State>, listener: TcpListener, address: SocketAddr) {
    let mut given = state.fault.clone();
    let mut flap = Dice::new(u64::from(address.port()));
    let mut serving = JoinSet::new();
    serving.spawn(serve(Arc::clone(&state), listener));
    loop {
        let fault = *given.borrow_and_update();
        let goes_down = match fault {
            Some(Fault::Killed) => true,
            Some(Fault::Flapping) => !serving.is_empty(),
            _ => false,
        };
        if goes_down {
            serving.shutdown().await;
            // A process that is started again knows nothing of its sessions.
            state.forgotten.store(state.sessions.load(Ordering::Relaxed), Ordering::Relaxed);
        } else if serving.is_empty()
            && let Some(listener) = bind(address).await
        {
            serving.spawn(serve(Arc::clone(&state), listener));
        }
        let flaps = fault == Some(Fault::Flapping);
        let stays = Duration::from_millis(flap.between(FLAP_MS));
        tokio::select! {
            changed = given.changed() => if changed.is_err() { return },
            () = sleep(stays), if flaps => {}
        }
    }
}

/// Takes the port again; it was ours a moment ago.
async fn bind(address: SocketAddr) -> Option<TcpListener> {
    for _ in 0..1000 {
        if let Ok(listener) = TcpListener::bind(address).await {
            return Some(listener);
        }
        sleep(REBIND_PAUSE).await;
    }
    None
}

/// Serves connections; dropping this closes them.
async fn serve(state: Arc<State>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    sleep(REBIND_PAUSE).await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&state), request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, anyhow::Error> {
    let (parts, body) = request.into_parts();
    match parts.method {
        Method::POST => {}
        Method::DELETE => return Ok(empty(StatusCode::OK)),
        _ => return Ok(empty(StatusCode::METHOD_NOT_ALLOWED)),
    }
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    // A task of its own: what was begun is finished, whether the caller waits or not.
    let work = tokio::spawn(async move { state.work(&parts.headers, &body).await });
    Ok(work.await.unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR)))
}

impl State {
    async fn work(&self, headers: &HeaderMap, body: &[u8]) -> Response<Full<Bytes>> {
        let Ok(message) = serde_json::from_slice::<Value>(body) else { return empty(StatusCode::BAD_REQUEST) };
        let (method, id) = (message["method"].as_str().unwrap_or_default(), &message["id"]);
        let is_call = method == "tools/call";
        self.calls.fetch_add(u64::from(is_call), Ordering::Relaxed);
        let mut fault = self.fault.clone();
        if *fault.borrow() == Some(Fault::Hung) {
            let _ = fault.wait_for(|fault| *fault != Some(Fault::Hung)).await;
        }
        let (work, says_no, is_late) = {
            let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
            let says_no = *fault.borrow() == Some(Fault::Faulty) && dice.below(2) == 0;
            (Duration::from_millis(dice.between(WORK_MS)), says_no, dice.below(2) == 0)
        };
        if says_no && !is_late {
            return empty(StatusCode::INTERNAL_SERVER_ERROR);
        }
        if is_call {
            let params = &message["params"];
            if params["name"] == "write" {
                self.effects.note(params["arguments"]["text"].as_str().unwrap_or_default());
            }
            let slowness = if *fault.borrow() == Some(Fault::Slow) { SLOWNESS } else { Duration::ZERO };
            sleep(work + slowness).await;
        }
        if says_no {
            return empty(StatusCode::INTERNAL_SERVER_ERROR);
        }
        if id.is_null() {
            return empty(StatusCode::ACCEPTED);
        }
        let is_modern = headers.get(VERSION_HEADER).is_some_and(|version| version == MODERN_REVISION);
        if is_modern {
            modern(method, id, &message["params"])
        } else {
            self.legacy(headers, method, id, &message["params"])
        }
    }

    fn legacy(&self, headers: &HeaderMap, method: &str, id: &Value, params: &Value) -> Response<Full<Bytes>> {
        if method == "initialize" {
            let session = self.sessions.fetch_add(1, Ordering::Relaxed);
            let mut response = success(
                id,
                &json!({"protocolVersion": LEGACY_REVISION, "capabilities": {"tools": {}}, "serverInfo": {"name": "chaos", "version": "1"}}),
            );
            if let Ok(value) = HeaderValue::try_from(session.to_string()) {
                response.headers_mut().insert(SESSION_HEADER, value);
            }
            return response;
        }
        let session = headers.get(SESSION_HEADER).and_then(|session| session.to_str().ok()?.parse::<u64>().ok());
        let known = self.forgotten.load(Ordering::Relaxed)..self.sessions.load(Ordering::Relaxed);
        if !session.is_some_and(|session| known.contains(&session)) {
            return error(StatusCode::NOT_FOUND, id, -32001, "the session is unknown");
        }
        match method {
            "tools/call" => success(id, &said(params)),
            "tools/list" => success(id, &json!({"tools": tools()})),
            "ping" => success(id, &json!({})),
            _ => error(StatusCode::OK, id, -32601, "the method is unknown"),
        }
    }
}

fn modern(method: &str, id: &Value, params: &Value) -> Response<Full<Bytes>> {
    let mut result = match method {
        "tools/call" => said(params),
        "tools/list" => json!({"tools": tools(), "ttlMs": 3_600_000, "cacheScope": "public"}),
        "server/discover" => json!({
            "supportedVersions": [MODERN_REVISION], "capabilities": {"tools": {}}, "ttlMs": 3_600_000, "cacheScope": "public",
        }),
        _ => return error(StatusCode::NOT_FOUND, id, -32601, "the method is unknown"),
    };
    result["resultType"] = json!("complete");
    result["_meta"] = json!({"io.modelcontextprotocol/serverInfo": {"name": "chaos", "version": "1"}});
    success(id, &result)
}

fn said(params: &Value) -> Value {
    json!({"content": [{"type": "text", "text": params["arguments"]["text"]}], "isError": false})
}

fn tools() -> Value {
    let schema = json!({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]});
    json!([
        {"name": "read", "description": "Reads something.", "inputSchema": schema, "annotations": {"readOnlyHint": true}},
        {"name": "write", "description": "Does something once.", "inputSchema": schema},
    ])
}

fn success(id: &Value, result: &Value) -> Response<Full<Bytes>> {
    body(StatusCode::OK, &json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn error(status: StatusCode, id: &Value, code: i32, message: &str) -> Response<Full<Bytes>> {
    body(status, &json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}))
}

fn body(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
