//! What a scripted server was sent, in the order it came.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use tokio::sync::watch;

/// Requests kept; later ones are counted but not kept.
const MAX_RECEIVED: usize = 100_000;

/// One HTTP request.
#[derive(Clone, Debug)]
pub struct Received {
    /// Time since the server was started.
    pub at: Duration,
    /// Number of the connection it came on, from 1.
    pub connection: u64,
    /// `POST`, `GET`, `DELETE`; of the handshake of a WebSocket `UPGRADE`, of its messages `FRAME`, of lines `LINE`.
    pub http_method: String,
    /// The path with the query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Received {
    /// The body as JSON; `null` when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The JSON-RPC method, when the body has one.
    pub fn method(&self) -> Option<String> {
        self.json()["method"].as_str().map(str::to_owned)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The record of a server.
pub(crate) struct Recorder {
    started: Instant,
    received: Mutex<Vec<Received>>,
    count: watch::Sender<usize>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), received: Mutex::default(), count: watch::Sender::new(0) }
    }

    pub(crate) fn at(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn add(&self, received: Received) {
        {
            let mut all = self.received.lock().expect("invariant: nobody panics while recording");
            if all.len() < MAX_RECEIVED {
                all.push(received);
            }
        }
        self.count.send_modify(|count| *count += 1);
    }

    pub(crate) fn all(&self) -> Vec<Received> {
        self.received.lock().expect("invariant: nobody panics while recording").clone()
    }

    pub(crate) fn clear(&self) {
        self.received.lock().expect("invariant: nobody panics while recording").clear();
    }

    /// Waits until `enough` holds, at most `limit`; says whether it did.
    pub(crate) async fn wait(&self, limit: Duration, enough: impl Fn(&[Received]) -> bool) -> bool {
        let mut count = self.count.subscribe();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            count.borrow_and_update();
            if enough(&self.received.lock().expect("invariant: nobody panics while recording")) {
                return true;
            }
            if tokio::time::timeout_at(deadline, count.changed()).await.is_err() {
                return false;
            }
        }
    }
}
