//! What a scripted server knows of one client: a legacy session, the process's one client over stdio, or nobody.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::stream_log::StreamLog;

/// Streams of one session that can be resumed; the oldest are forgotten.
const MAX_STREAMS: usize = 256;

/// Where frames go.
#[derive(Clone)]
pub(crate) enum Outlet {
    Stream(Arc<StreamLog>),
    /// Lines of stdout.
    Lines(mpsc::Sender<String>),
}

impl Outlet {
    pub(crate) async fn send(&self, frame: String) {
        match self {
            Self::Stream(log) => log.push(frame),
            // When stdout is gone the process is about to end.
            Self::Lines(lines) => _ = lines.send(frame).await,
        }
    }
}

/// See the module.
pub(crate) struct Session {
    pub(crate) id: String,
    /// Negotiated by `initialize`; empty before, and for modern requests.
    pub(crate) version: Mutex<String>,
    /// Declared in `initialize`.
    pub(crate) capabilities: Mutex<Value>,
    pub(crate) requests: AtomicU64,
    /// Where unrelated messages go.
    pub(crate) side: Outlet,
    /// How far the GET stream was read.
    pub(crate) side_position: AtomicUsize,
    streams: Mutex<Vec<Arc<StreamLog>>>,
    next_stream: AtomicU64,
    next_question: AtomicU64,
    questions: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    calls: Mutex<HashMap<String, watch::Sender<bool>>>,
}

impl Session {
    pub(crate) fn new(id: String, side: Outlet) -> Self {
        Self {
            id,
            version: Mutex::default(),
            capabilities: Mutex::default(),
            requests: AtomicU64::new(0),
            side,
            side_position: AtomicUsize::new(0),
            streams: Mutex::default(),
            next_stream: AtomicU64::new(1),
            next_question: AtomicU64::new(1),
            questions: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// A stream for one request, found again by name.
    pub(crate) fn open_stream(&self) -> Arc<StreamLog> {
        let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let log = Arc::new(StreamLog::new(format!("s{number}")));
        let mut streams = self.streams.lock().expect("invariant: nobody panics while holding the streams");
        if streams.len() >= MAX_STREAMS {
            streams.remove(0);
        }
        streams.push(Arc::clone(&log));
        log
    }

    pub(crate) fn stream(&self, name: &str) -> Option<Arc<StreamLog>> {
        let streams = self.streams.lock().expect("invariant: nobody panics while holding the streams");
        streams.iter().find(|stream| stream.name == name).cloned()
    }

    /// Registers a question; the receiver gets the whole answer message.
    pub(crate) fn ask(&self) -> (String, oneshot::Receiver<Value>) {
        let id = format!("question-{}", self.next_question.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        self.questions.lock().expect("invariant: nobody panics while holding the questions").insert(id.clone(), sender);
        (id, receiver)
    }

    /// Hands an answer to whoever asked; says whether somebody did.
    pub(crate) fn answer(&self, id: &str, answer: Value) -> bool {
        let asker = self.questions.lock().expect("invariant: nobody panics while holding the questions").remove(id);
        asker.is_some_and(|asker| asker.send(answer).is_ok())
    }

    /// Registers a call under its id (as JSON text); the receiver turns true when it is cancelled.
    pub(crate) fn begin_call(&self, id: &str) -> watch::Receiver<bool> {
        let (sender, receiver) = watch::channel(false);
        self.calls.lock().expect("invariant: nobody panics while holding the calls").insert(id.to_owned(), sender);
        receiver
    }

    pub(crate) fn end_call(&self, id: &str) {
        self.calls.lock().expect("invariant: nobody panics while holding the calls").remove(id);
    }

    /// Cancels a call; says whether it was running.
    pub(crate) fn cancel(&self, id: &str) -> bool {
        let call = self.calls.lock().expect("invariant: nobody panics while holding the calls").remove(id);
        call.is_some_and(|call| call.send(true).is_ok())
    }
}
