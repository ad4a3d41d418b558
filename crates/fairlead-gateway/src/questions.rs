//! Questions of servers on their way to clients and back: who was asked, and where the answer goes.

use bytes::Bytes;
use fairlead_observe::{Metrics, QuestionOutcome};
use fairlead_upstream::{Link, OpenQuestions};
use fairlead_wire::{CapabilitySet, Field, Frame, Method, edit::Edits, list, message};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Questions open at the same time, all clients together.
const MAX_OPEN: usize = 10_000;
/// How long a question may stay open at most.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Whether a client with these capabilities may be asked this (a server MUST NOT ask what was not declared).
pub(crate) fn may_be_asked(capabilities: CapabilitySet, question: &Frame) -> bool {
    let params = question.raw(Field::Params).unwrap_or("{}");
    let is_url = || list::string_member(params, "mode").as_deref() == Some("url");
    match question.method_class() {
        Method::ElicitationCreate if is_url() => capabilities.has_url_elicitation(),
        Method::ElicitationCreate => capabilities.has_form_elicitation(),
        Method::CreateMessage => {
            capabilities.has_sampling()
                && (capabilities.has_sampling_tools() || list::raw_member(params, "tools").is_none())
        }
        Method::RootsList => capabilities.has_roots(),
        _ => false,
    }
}

/// All open questions.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Open {
    user: u64,
    since: Instant,
    asker: Asker,
}

#[derive(Debug)]
enum Asker {
    /// A server, over a link, under its own id.
    Server { link: Arc<Link>, id: Box<str>, count: OpenQuestions },
    /// The gateway itself.
    Own(oneshot::Sender<Frame>),
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// To the server that asked.
    ToServer { link: Arc<Link>, message: Bytes },
    /// It was the gateway's own question.
    Done,
}

/// A question that was asked; when dropped unanswered, the server is told that nobody answers.
#[derive(Debug)]
pub(crate) struct Asked {
    questions: std::sync::Weak<crate::gateway::Inner>,
    id: u64,
}

impl Asked {
    /// The id the client knows it by.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it still waits for its answer.
    pub(crate) fn is_open(&self) -> bool {
        self.questions.upgrade().is_some_and(|inner| inner.questions.lock().contains_key(&self.id))
    }

    /// Whether a server asked it over this link under this id (raw), and still waits for the answer.
    pub(crate) fn is_of(&self, link: &Arc<Link>, raw: &str) -> bool {
        let Some(inner) = self.questions.upgrade() else { return false };
        let open = inner.questions.lock();
        let asker = open.get(&self.id).map(|open| &open.asker);
        matches!(asker, Some(Asker::Server { link: of, id, .. }) if Arc::ptr_eq(of, link) && **id == *raw)
    }

    /// The server does not want to know any more: an answer that still comes is nobody's, and the server is told
    /// nothing.
    pub(crate) fn withdraw(&self) {
        let Some(inner) = self.questions.upgrade() else { return };
        let open = inner.questions.lock().remove(&self.id);
        if let Some(Open { asker: Asker::Server { count, .. }, .. }) = open {
            count.settled();
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(inner) = self.questions.upgrade() else { return };
        let open = inner.questions.lock().remove(&self.id);
        if let Some(open) = open {
            open.asker.give_up(&inner.metrics, QuestionOutcome::Cancelled, "the caller went away");
        }
    }
}

impl Asker {
    /// Tells whoever asked that there will be no answer.
    fn give_up(self, metrics: &Metrics, outcome: QuestionOutcome, reason: &str) {
        if let Asker::Server { link, id, count } = self {
            metrics.server(link.server_name()).question(outcome);
            count.settled();
            link.push_soon(message::error(Some(&id), -32603, reason, None));
        }
    }
}

impl Questions {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().expect("invariant: no panic under this lock")
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn enter(&self, user: u64, asker: Asker) -> Option<u64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.lock();
        if open.len() >= MAX_OPEN {
            return None;
        }
        open.insert(id, Open { user, since: Instant::now(), asker });
        Some(id)
    }

    /// Enters a server's question for the client `user`. Returns the message under our own id.
    /// `None` when there are too many open questions.
    pub(crate) fn ask(
        gateway: &crate::gateway::Gateway,
        user: u64,
        link: &Arc<Link>,
        count: &OpenQuestions,
        frame: &Frame,
    ) -> Option<(Asked, Bytes)> {
        let asker = Asker::Server { link: Arc::clone(link), id: frame.id()?.into(), count: count.clone() };
        let id = gateway.0.questions.enter(user, asker)?;
        count.asked();
        let mut edits = Edits::new();
        edits.replace(frame.span(Field::Id)?, id.to_string());
        Some((Asked { questions: Arc::downgrade(&gateway.0), id }, edits.apply(frame.bytes())))
    }

    /// Enters a question of the gateway's own.
    pub(crate) fn ask_own(
        gateway: &crate::gateway::Gateway,
        user: u64,
        method: &str,
        params: Option<&str>,
    ) -> Option<(Asked, Bytes, oneshot::Receiver<Frame>)> {
        let (sender, receiver) = oneshot::channel();
        let id = gateway.0.questions.enter(user, Asker::Own(sender))?;
        let asked = Asked { questions: Arc::downgrade(&gateway.0), id };
        Some((asked, message::request(&id.to_string(), method, params), receiver))
    }

    /// Takes a client's answer. `None` when nobody asked this client that.
    pub(crate) fn answer(&self, user: u64, frame: &Frame) -> Option<Delivery> {
        let id = frame.id()?.parse().ok()?;
        let mut open = self.lock();
        if open.get(&id)?.user != user {
            return None;
        }
        let question = open.remove(&id)?;
        drop(open);
        match question.asker {
            Asker::Server { link, id, count } => {
                count.settled();
                let mut edits = Edits::new();
                edits.replace(frame.span(Field::Id)?, id.into_string());
                Some(Delivery::ToServer { link, message: edits.apply(frame.bytes()) })
            }
            Asker::Own(sender) => {
                let _ = sender.send(frame.clone());
                Some(Delivery::Done)
            }
        }
    }

    /// Gives up questions that are far too old.
    pub(crate) fn sweep(&self, metrics: &Metrics) {
        let old: Vec<_> = self.lock().extract_if(|_, open| open.since.elapsed() >= MAX_AGE).collect();
        for (_, open) in old {
            open.asker.give_up(metrics, QuestionOutcome::TimedOut, "the caller did not answer");
        }
    }
}
