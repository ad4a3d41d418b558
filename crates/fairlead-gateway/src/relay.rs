//! relay: the one seam where what servers say outside calls enters, and where clients' answers to
//! their questions leave. Whom a message may reach is decided here and nowhere else.

use crate::{gateway::Gateway, questions::Delivery, reuse::Outdated, session::Session, shape, tasks, watching};
use fairlead_observe::QuestionOutcome;
use fairlead_upstream::{ListingKind, ServerEvent, ServerHandle, Worker};
use fairlead_wire::{Era, Frame, Method, message};
use std::{collections::HashMap, time::Duration};
use tokio::sync::broadcast::error::RecvError;

/// Changes that come together are told together.
const GATHER: Duration = Duration::from_millis(10);

/// A client answered a question.
pub(crate) async fn client_answered(gateway: &Gateway, worker: Worker, session: &Session, frame: &Frame) {
    match gateway.0.questions.answer(session.user, frame) {
        Some(Delivery::ToServer { link, message }) => {
            gateway.metrics().server(link.server_name()).question(QuestionOutcome::Answered);
            let message = tasks::client_answer(gateway, session, message);
            if let Err(error) = link.push(worker, message).await {
                tracing::info!(server = link.server_name(), %error, "an answer did not reach the server that asked");
            }
        }
        Some(Delivery::Done) => {}
        None => tracing::debug!("dropped an answer to a question that nobody asked this client"),
    }
}

/// Relays what one server says outside calls, for as long as the server is configured.
pub(crate) async fn server_events(gateway: Gateway, handle: ServerHandle) {
    let mut events = handle.events();
    loop {
        let mut changed = Changed::default();
        match events.recv().await {
            Ok(event) => one(&gateway, &handle, event, &mut changed),
            // What was missed is not known: everybody looks at everything anew. A log line is lost.
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(server = %handle.name(), missed, "the server says more than can be passed on; clients are told to look at everything");
                changed = Changed::everything();
                gateway.0.reuse.ledger.outdate(Outdated::Server(handle.name().as_str()));
                watching::anything_updated(&gateway, &handle, None);
                watching::refused(&gateway, handle.name(), None);
            }
            Err(RecvError::Closed) => return,
        }
        if changed.is_empty() {
            continue;
        }
        tokio::time::sleep(GATHER).await;
        while let Ok(event) = events.try_recv() {
            one(&gateway, &handle, event, &mut changed);
        }
        tell_lists(&gateway, Some(&handle), &changed);
    }
}

/// Which lists changed, for clients served in which era.
#[derive(Default)]
struct Changed(Vec<(&'static str, Era)>);

impl Changed {
    fn everything() -> Self {
        Self(ALL_CHANGED.iter().flat_map(|notice| [(*notice, Era::Legacy), (*notice, Era::Modern)]).collect())
    }

    fn add(&mut self, notice: &'static str, era: Era) {
        if !self.0.contains(&(notice, era)) {
            self.0.push((notice, era));
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The notices for clients that are served in `era`.
    fn of(&self, era: Era) -> Vec<&'static str> {
        self.0.iter().filter(|(_, other)| *other == era).map(|(notice, _)| *notice).collect()
    }
}

const ALL_CHANGED: [&str; 3] =
    ["notifications/tools/list_changed", "notifications/resources/list_changed", "notifications/prompts/list_changed"];

/// The notification for a list.
fn notice(kind: ListingKind) -> &'static str {
    match kind {
        ListingKind::Tools => ALL_CHANGED[0],
        ListingKind::Resources | ListingKind::Templates => ALL_CHANGED[1],
        ListingKind::Prompts => ALL_CHANGED[2],
    }
}

fn one(gateway: &Gateway, handle: &ServerHandle, event: ServerEvent, changed: &mut Changed) {
    match event {
        ServerEvent::ListChanged { kind, era, replaces } => {
            if replaces {
                outdate(gateway, handle, kind);
            }
            changed.add(notice(kind), era);
        }
        ServerEvent::ResourceUpdated { key, uri, frame } => {
            // Before anybody hears of it: who then reads is not to get the old one.
            gateway.0.reuse.updated(handle.name().as_str(), &uri);
            watching::updated(gateway, handle, &key, &uri, &frame);
        }
        ServerEvent::Rewatched { key } => {
            outdate(gateway, handle, ListingKind::Resources);
            watching::anything_updated(gateway, handle, Some(&key));
            watching::refused(gateway, handle.name(), Some(&key));
        }
        ServerEvent::Refused { key } => watching::refused(gateway, handle.name(), Some(&key)),
        ServerEvent::Unwatchable { key } => watching::unwatchable(gateway, handle.name(), Some(&key)),
        ServerEvent::TaskStatus { link, frame } => tasks::status(gateway, handle, link, &frame),
        ServerEvent::QuestionDeclined => {
            gateway.metrics().server(handle.name().as_str()).question(QuestionOutcome::Declined);
        }
        ServerEvent::ElicitationComplete { user, frame } => {
            let shown = gateway.0.completions.take(handle.name().as_str(), &frame);
            let listener = user.or(shown).and_then(|user| gateway.sessions().listener(user));
            if let Some(session) = listener.filter(|session| shape::is_wanted(session, &frame)) {
                session.say(frame.bytes());
            }
        }
        ServerEvent::Untied { user, frame } => {
            let listener = gateway.sessions().listener(user);
            if let Some(session) = listener.filter(|session| shape::is_wanted(session, &frame)) {
                session.say(frame.bytes());
            }
        }
    }
}

/// What is kept of answers goes with the list it belongs to.
fn outdate(gateway: &Gateway, handle: &ServerHandle, kind: ListingKind) {
    let server = handle.name().as_str();
    let methods: &[Method] = match kind {
        ListingKind::Tools => &[Method::ToolsCall],
        ListingKind::Resources | ListingKind::Templates => &[Method::ResourcesRead],
        ListingKind::Prompts => &[Method::PromptsGet],
    };
    // A completion is about a prompt or a template.
    let completions = (kind != ListingKind::Tools).then_some(Method::Complete);
    for method in methods.iter().copied().chain(completions) {
        gateway.0.reuse.ledger.outdate(Outdated::Method(server, method));
    }
}

/// Every list may have changed: after a reload.
pub(crate) fn all_lists_changed(gateway: &Gateway) {
    tell_lists(gateway, None, &Changed::everything());
}

fn tell_lists(gateway: &Gateway, handle: Option<&ServerHandle>, changed: &Changed) {
    // What clients of an era see is the catalog of the era they are served in.
    let seen_by = |client: Era| changed.of(handle.and_then(|handle| handle.peek().era_for(client)).unwrap_or(client));
    let snapshot = gateway.snapshot();
    // What sessions are subscribed to and nobody had may be there now.
    gateway.0.watching.wants_mending();
    let mut known: HashMap<Box<str>, bool> = HashMap::new();
    let mut concerns = |path: &str| {
        if let Some(concerned) = known.get(path) {
            return *concerned;
        }
        let concerned =
            snapshot.endpoint(path).is_some_and(|endpoint| handle.is_none_or(|handle| endpoint.shows(handle)));
        known.insert(path.into(), concerned);
        concerned
    };
    for session in gateway.sessions().listeners() {
        if concerns(&session.path) {
            for method in seen_by(Era::Legacy) {
                session.say(&message::notification(method, None));
            }
        }
    }
    gateway.0.listeners.lists_changed(&mut concerns, &seen_by(Era::Modern));
}
