//! One open connection context to a server: a child process, a legacy HTTP session, a connection, or the
//! single link through which a modern server is called. A link is what can be shared between callers, so
//! its key holds everything that must not be: see [`LinkKey`].

pub(crate) mod connection;
pub(crate) mod duplex;
pub(crate) mod http;
pub(crate) mod inbound;
mod keeper;
mod salvage;
pub(crate) mod sse;
mod sse_endpoint;
pub(crate) mod stdio;
pub(crate) mod tasks;
pub(crate) mod websocket;

use crate::{exchange::Prepared, http_client::Worker, instance::Instance};
use bytes::Bytes;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{CapabilitySet, Era, Revision, list, message};
use inbound::Inbound;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// What keeps callers apart beyond capabilities and roots. Opaque here; made from the configuration's
/// `share` and the caller by the gateway. `None` shares the link with everybody of the same key.
pub type ShareKey = Option<Arc<str>>;

/// A client's roots, for servers that follow them.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Digest of the set.
    pub digest: u64,
    /// The client's `roots/list` result as it came (raw JSON object).
    pub result: Bytes,
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.result == other.result
    }
}
impl Eq for Roots {}
impl std::hash::Hash for Roots {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// Who may use a link together: equal keys share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkKey {
    /// The era spoken. A server that speaks both has links of both: each client is served in its own.
    pub era: Era,
    /// What the server was told the client can do (empty for a modern server: it is told per request).
    pub capabilities: CapabilitySet,
    /// What the configuration keeps apart.
    pub share: ShareKey,
    /// The roots the server is told, where it follows them.
    pub roots: Option<Arc<Roots>>,
}

impl LinkKey {
    /// The key of the one link a modern server needs: nothing of its callers is part of it.
    #[must_use]
    pub fn modern() -> Self {
        Self { era: Era::Modern, capabilities: CapabilitySet::BARE, share: None, roots: None }
    }

    /// The key of a legacy link that belongs to nobody in particular.
    #[must_use]
    pub fn legacy(capabilities: CapabilitySet) -> Self {
        Self { era: Era::Legacy, capabilities, share: None, roots: None }
    }
}

/// What a server said of itself when the link was opened.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Peer {
    /// The revision in use on the link.
    #[serde(with = "revision_text")]
    pub revision: Revision,
    /// Raw JSON of the capabilities object.
    pub capabilities: Box<str>,
    /// Raw JSON of the `serverInfo` object, where there was one.
    pub server_info: Option<Box<str>>,
    /// The server's instructions.
    pub instructions: Option<Box<str>>,
    /// Raw JSON of the whole answer (`initialize` or `server/discover` result).
    pub answer: Box<str>,
}

impl Peer {
    /// Whether the server says of every kind of list it has that it announces changes.
    #[must_use]
    pub fn announces_changes(&self) -> bool {
        ["tools", "prompts", "resources"]
            .iter()
            .filter_map(|kind| list::raw_member(&self.capabilities, kind))
            .all(|kind| list::raw_member(kind, "listChanged") == Some("true"))
    }
}

mod revision_text {
    use fairlead_wire::Revision;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(revision: &Revision, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(revision.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Revision, D::Error> {
        let text = String::deserialize(deserializer)?;
        Revision::parse(&text).ok_or_else(|| D::Error::custom("unknown protocol revision"))
    }
}

/// How the bytes travel.
#[derive(Debug)]
pub(crate) enum Wire {
    Http(http::HttpWire),
    Stdio(stdio::StdioWire),
    Connection(connection::ConnectionWire),
}

impl Wire {
    /// The channel of a transport that is one, in both directions and for all calls.
    pub(crate) fn duplex(&self) -> Option<&duplex::Duplex> {
        match self {
            Wire::Http(_) => None,
            Wire::Stdio(wire) => Some(&wire.duplex),
            Wire::Connection(wire) => Some(&wire.duplex),
        }
    }

    /// Sends a message that has no answer.
    pub(crate) async fn push(&self, worker: Worker, message: Bytes) -> Result<(), UpstreamError> {
        match self {
            Wire::Http(wire) => wire.push(worker, message).await,
            Wire::Stdio(wire) => wire.duplex.push(message).await,
            Wire::Connection(wire) => wire.duplex.push(message).await,
        }
    }

    /// Ends it. Bounded in time.
    pub(crate) async fn close(&self) {
        match self {
            Wire::Http(wire) => wire.close().await,
            Wire::Stdio(wire) => wire.close().await,
            Wire::Connection(wire) => wire.close().await,
        }
    }
}

/// An open link.
pub struct Link {
    pub(crate) id: u64,
    pub(crate) key: LinkKey,
    pub(crate) peer: Arc<Peer>,
    pub(crate) wire: Wire,
    pub(crate) inbound: Arc<Inbound>,
    next_id: AtomicU64,
    in_flight: AtomicUsize,
    busy: AtomicBool,
    last_user: AtomicU64,
    /// The most talkative log level that requests had the server told, as a rank.
    level: AtomicUsize,
    opened: Instant,
    last_used_ms: AtomicU64,
    /// Until when something lives on it, in milliseconds after it was opened.
    kept_until_ms: AtomicU64,
    /// The tasks that run on it.
    pub(crate) tasks: tasks::Tasks,
}

/// How long a server may take to accept a message that has no answer.
const PUSH_TIME: Duration = Duration::from_secs(10);
/// Link ids of calls start here: below are those of the handshake.
const FIRST_CALL_ID: u64 = 100;
/// A link used by more than one client.
const MANY: u64 = u64::MAX;

impl Link {
    pub(crate) fn new(key: LinkKey, peer: Arc<Peer>, wire: Wire, inbound: Arc<Inbound>) -> Self {
        Self {
            id: inbound.link,
            key,
            peer,
            wire,
            inbound,
            next_id: AtomicU64::new(FIRST_CALL_ID),
            in_flight: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            last_user: AtomicU64::new(0),
            level: AtomicUsize::new(usize::MAX),
            opened: Instant::now(),
            last_used_ms: AtomicU64::new(0),
            kept_until_ms: AtomicU64::new(0),
            tasks: tasks::Tasks::default(),
        }
    }

    /// What the server said of itself.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// What the link may be shared by.
    #[must_use]
    pub fn key(&self) -> &LinkKey {
        &self.key
    }

    /// A number that tells the link from the others of its server.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Notes that a task of a client lives on the link: for so long it is not closed because nobody uses it, and
    /// what the server asks in its name is not taken for a question of another call. Until the server is heard to say
    /// that the task is over, the link does not make room for another one either. `own`: what the server calls it.
    pub fn keep_for(&self, own: &str, time: Duration) {
        self.inbound.note_task();
        self.tasks.begin(own, time);
        let until = u64::try_from((self.opened.elapsed() + time).as_millis()).unwrap_or(u64::MAX);
        self.kept_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// Notes that a task is over, or given up.
    pub fn task_ended(&self, own: &str) {
        self.tasks.end(own);
    }

    /// Whether something lives on it.
    pub(crate) fn is_kept(&self) -> bool {
        self.opened.elapsed().as_millis() < u128::from(self.kept_until_ms.load(Ordering::Relaxed))
    }

    /// The name of the server the link leads to.
    #[must_use]
    pub fn server_name(&self) -> &str {
        self.inbound.server.as_str()
    }

    /// The instance of the server the link leads to.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.inbound.instance
    }

    /// Exchanges in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether the transport is known to be gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inbound.is_closed()
    }

    /// Whether calls may be put on it: its transport is there, and it did not become one client's own.
    pub(crate) fn is_open(&self) -> bool {
        !self.inbound.is_closed() && !self.inbound.is_rooted()
    }

    /// Process id of the server where it is a child process.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        match &self.wire {
            Wire::Stdio(wire) => wire.process_id(),
            Wire::Http(_) | Wire::Connection(_) => None,
        }
    }

    pub(crate) fn take_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.touch();
    }

    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used_ms.store(now, Ordering::Relaxed);
    }

    pub(crate) fn idle_for(&self) -> std::time::Duration {
        let last = std::time::Duration::from_millis(self.last_used_ms.load(Ordering::Relaxed));
        self.opened.elapsed().saturating_sub(last)
    }

    pub(crate) fn age(&self) -> std::time::Duration {
        self.opened.elapsed()
    }

    /// Takes the link for one call alone. `false` when somebody has it.
    pub(crate) fn try_occupy(&self, user: u64) -> bool {
        let taken = self.busy.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if taken {
            self.used_by(user);
        }
        taken
    }

    /// Notes that the server is told a log level; `false` when it was told one at least as talkative before.
    pub(crate) fn learns_level(&self, rank: usize) -> bool {
        self.level.fetch_min(rank, Ordering::Relaxed) > rank
    }

    pub(crate) fn vacate(&self) {
        self.busy.store(false, Ordering::Release);
    }

    pub(crate) fn is_occupied(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub(crate) fn last_user(&self) -> u64 {
        self.last_user.load(Ordering::Relaxed)
    }

    pub(crate) fn used_by(&self, user: u64) {
        self.last_user.store(user, Ordering::Relaxed);
        let sole = &self.inbound.sole_user;
        let mut known = sole.load(Ordering::Relaxed);
        if known == 0 {
            // Of two first users at once, one must see the other.
            known = sole
                .compare_exchange(0, user, Ordering::Relaxed, Ordering::Relaxed)
                .map_or_else(|other| other, |_| user);
        }
        if known != user && known != MANY {
            // In order with the look whether the link became one client's own.
            sole.store(MANY, Ordering::SeqCst);
        }
    }

    /// Hands a request to the one channel of a process or connection.
    pub(crate) async fn send_over(
        &self,
        duplex: &duplex::Duplex,
        prepared: Prepared,
        deadline: Instant,
    ) -> Result<duplex::DuplexExchange, UpstreamError> {
        let sent = timeout_at(deadline, duplex.send(prepared)).await.unwrap_or_else(|_| {
            Err(UpstreamError::new(UpstreamErrorKind::Timeout, Outcome::NotMade, "the server does not take requests"))
        });
        if sent.is_err() {
            // Its output may still be open: nothing else would notice.
            self.inbound.tell(crate::event::LinkEvent::Suspect { link: self.id });
        }
        sent
    }

    /// Sends a message that has no answer: a notification, or our answer to the server's question.
    ///
    /// # Errors
    /// When the server cannot be reached or does not accept it.
    pub async fn push(&self, worker: Worker, message: Bytes) -> Result<(), UpstreamError> {
        let pushed = self.wire.push(worker, message);
        tokio::time::timeout(PUSH_TIME, pushed).await.unwrap_or_else(|_| {
            Err(UpstreamError::new(
                UpstreamErrorKind::Timeout,
                Outcome::Unknown,
                "the server does not take a message in time",
            ))
        })
    }

    /// Hands a message to the owner to send when it can: for those who cannot wait.
    pub fn push_soon(&self, message: Bytes) {
        self.inbound.tell(crate::event::LinkEvent::Push { link: self.id, message });
    }

    /// The same for a request whose answer is of no interest.
    pub fn ask_soon(&self, method: &str, params: &str) {
        self.push_soon(message::request(&self.take_id().to_string(), method, Some(params)));
    }

    /// Ends the link: DELETE for a legacy HTTP session, stop for a process. Bounded in time.
    pub(crate) async fn close(&self) {
        self.inbound.mark_closed();
        self.wire.close().await;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Link {
    /// Whether what the server says outside calls arrives.
    pub(crate) fn hears(&self) -> bool {
        match &self.wire {
            Wire::Http(wire) => self.key.era == Era::Modern || wire.hears(),
            Wire::Stdio(_) | Wire::Connection(_) => true,
        }
    }

    /// Whether calls were given up on this link that the server may still be working on: a question
    /// that names no call could belong to one of them.
    pub(crate) fn is_haunted(&self) -> bool {
        match &self.wire {
            Wire::Http(wire) => wire.is_haunted(),
            Wire::Stdio(wire) => wire.duplex.is_haunted(),
            Wire::Connection(wire) => wire.duplex.is_haunted(),
        }
    }
}
