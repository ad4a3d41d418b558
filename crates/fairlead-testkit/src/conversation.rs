//! One client of a scripted server that is not reached by Streamable HTTP: messages come in one by one and go out
//! through one channel, whatever carries them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::{
    answer::{self, Ended, Exchange, Incoming, error_frame},
    core::Core,
    script::{Script, is_modern_version},
    session::{Outlet, Session},
};

/// Messages waiting for a client that does not read.
pub(crate) const PENDING: usize = 1_024;

/// Ends the connection, or the process.
type Die = Box<dyn Fn() + Send + Sync>;

/// See the module.
pub(crate) struct Conversation {
    core: Arc<Core>,
    pub(crate) session: Arc<Session>,
    lines: mpsc::Sender<String>,
    exit_after: Option<u64>,
    die: Die,
}

impl Conversation {
    /// A conversation whose session is known under `name`. What is said goes to `lines`.
    pub(crate) fn begin(
        core: &Arc<Core>,
        name: &str,
        lines: mpsc::Sender<String>,
        exit_after: Option<u64>,
        die: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        let session = Arc::new(Session::new(unique(name), Outlet::Lines(lines.clone())));
        core.open_session(Arc::clone(&session));
        Arc::new(Self { core: Arc::clone(core), session, lines, exit_after, die: Box::new(die) })
    }

    /// Ends it for the server.
    pub(crate) fn end(&self) {
        self.core.close_session(&self.session.id);
    }

    /// Takes a message, or what should be one. For a request what is returned ends with its answering.
    pub(crate) fn take(self: &Arc<Self>, text: &[u8]) -> Option<oneshot::Receiver<()>> {
        let Ok(incoming) = serde_json::from_slice::<Incoming>(text) else {
            // A full channel means that the client does not read; it gets no error either.
            self.lines.try_send(error_frame("null", &(-32700, "the line is not JSON-RPC".to_owned(), None))).ok();
            return None;
        };
        let params = incoming.params();
        if incoming.method.is_none() {
            if let Some((id, answer)) = incoming.as_answer() {
                self.session.answer(&id, answer);
            }
            return None;
        }
        if incoming.id.is_none() {
            if incoming.method.as_deref() == Some("notifications/cancelled") {
                self.session.cancel(&params["requestId"].to_string());
            }
            return None;
        }
        let limit = self.exit_after;
        if limit.is_some_and(|limit| self.session.requests.fetch_add(1, Ordering::Relaxed) >= limit) {
            (self.die)();
            return None;
        }
        let script = self.core.script();
        let version = params["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
        let modern = version.is_some_and(is_modern_version) || !script.is_legacy();
        if let Some(refusal) = refuse(&script, modern, version, incoming.method.as_deref()) {
            self.lines.try_send(error_frame(incoming.id(), &refusal)).ok();
            return None;
        }
        let exchange = Exchange {
            core: Arc::clone(&self.core),
            session: Arc::clone(&self.session),
            outlet: Outlet::Lines(self.lines.clone()),
            modern,
            task: None,
        };
        let conversation = Arc::clone(self);
        let (lasts, ended) = oneshot::channel();
        self.core.spawn(async move {
            let _lasts: oneshot::Sender<()> = lasts;
            if answer::serve(&exchange, &incoming).await == Ended::Die {
                (conversation.die)();
            }
        });
        Some(ended)
    }
}

/// A name nobody guesses from another one.
fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What a server of one era says to a request of the other.
fn refuse(script: &Script, modern: bool, version: Option<&str>, method: Option<&str>) -> Option<answer::Refusal> {
    match (modern, version) {
        (true, _) if !script.is_modern() => Some((-32601, "Method not found".to_owned(), None)),
        (true, None) => Some((-32602, "request _meta is missing required fields".to_owned(), None)),
        (true, Some(version)) if !script.versions.iter().any(|known| known == version) => {
            let data = json!({"supported": script.versions, "requested": version});
            Some((-32022, "unsupported protocol version".to_owned(), Some(data)))
        }
        (true, Some(_)) if method == Some("initialize") => {
            Some((-32601, "there is no method `initialize`".to_owned(), None))
        }
        _ => None,
    }
}
