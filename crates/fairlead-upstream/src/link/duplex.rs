//! JSON-RPC in both directions over one ordered channel of messages, whatever carries them: the
//! streams of a process, a socket, a WebSocket, or the event stream and the POSTs of HTTP+SSE.
//!
//! [`Duplex`] is the side of the calls: it keeps who waits for which answer and queues what goes out.
//! [`Sorter`] is the side of the carrier, one task per connection that hands it every message that
//! came in. What is no message is counted and logged, never fatal: real servers write such lines. An
//! answer nobody waits for is dropped.
//!
//! A message that names no call may only be handed to a caller when it can be nobody else's. Calls that
//! were given up without an answer count as well (*ghosts*): the server may still be working on them.

use crate::{
    event::{End, LinkEvent},
    exchange::{Final, Item, Prepared},
    link::{
        inbound::{AskedOf, Inbound, Verdict, task_of},
        salvage,
    },
};
use bytes::Bytes;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_process::lines::{Line, LineReader};
use fairlead_wire::{Field, Frame, Kind, Limits, Method, edit::single_line, message};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncRead, sync::mpsc};

/// Messages (progress, log, questions) kept for a caller that reads slowly; more are dropped.
const CALL_QUEUE: usize = 64;
/// Messages waiting to be sent.
const WRITE_QUEUE: usize = 256;
/// Calls that were given up without an answer and are still remembered.
const MAX_GHOSTS: usize = 1024;
/// After so many messages that are none reading rests for a moment: a flood of them must not take
/// the thread that all servers share.
const JUNK_BURST: u64 = 256;
const JUNK_REST: Duration = Duration::from_millis(10);

/// A message on its way out: one line of JSON, without its end.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) bytes: Bytes,
    /// The call it is the request of.
    pub(crate) call: Option<u64>,
}

impl Outgoing {
    /// What ends the sending: what was queued before it is still sent.
    const END: Self = Self { bytes: Bytes::new(), call: None };

    pub(crate) fn is_end(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Calls in flight on a connection.
#[derive(Debug, Default)]
struct Pending {
    calls: HashMap<u64, InFlight>,
    /// Given up by their caller, not answered yet: while there are any, an untied question could
    /// belong to one of them.
    ghosts: Vec<u64>,
    /// Calls that ended without an answer that can be used, until their callers have taken note.
    broken: HashMap<u64, UpstreamError>,
    asked: AskedOf,
}

/// A call in flight.
#[derive(Debug)]
struct InFlight {
    items: mpsc::Sender<Item>,
    /// Whether the server may ask something because of it.
    may_ask: bool,
    /// A subscription, which the server may end by cancelling it.
    is_listen: bool,
    /// The task whose result it waits for.
    task: Option<Box<str>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Duplex {
    pending: Arc<Mutex<Pending>>,
    writer: mpsc::Sender<Outgoing>,
    /// What came in and was not JSON-RPC.
    junk: Arc<AtomicU64>,
    inbound: Arc<Inbound>,
    /// What to say of calls that were in flight when the connection ended.
    lost: &'static str,
}

impl Duplex {
    /// A channel for the link of `inbound`. The carrier gets the sorter and what is to be sent.
    pub(crate) fn new(inbound: Arc<Inbound>, lost: &'static str) -> (Self, Sorter, mpsc::Receiver<Outgoing>) {
        let pending = Arc::new(Mutex::new(Pending::default()));
        let junk = Arc::new(AtomicU64::new(0));
        let (writer, to_write) = mpsc::channel(WRITE_QUEUE);
        let sorter = Sorter {
            pending: Arc::clone(&pending),
            inbound: Arc::clone(&inbound),
            writer: writer.clone(),
            junk: Arc::clone(&junk),
            rested: AtomicU64::new(0),
            limits: Limits::default(),
        };
        (Self { pending, writer, junk, inbound, lost }, sorter, to_write)
    }

    pub(crate) fn junk_messages(&self) -> u64 {
        self.junk.load(Ordering::Relaxed)
    }

    pub(crate) fn is_haunted(&self) -> bool {
        !self.pending.lock().expect("invariant: no panic under this lock").ghosts.is_empty()
    }

    pub(crate) async fn send(&self, prepared: Prepared) -> Result<DuplexExchange, UpstreamError> {
        let (items, receiver) = mpsc::channel(CALL_QUEUE);
        let method = prepared.method;
        let task = prepared.task;
        let call = InFlight { items, may_ask: method.may_ask(), is_listen: method == Method::Listen, task };
        {
            let mut pending = self.pending.lock().expect("invariant: no panic under this lock");
            if self.inbound.is_rooted() && call.may_ask && call.task.is_none() {
                let text = "its connection became another client's own";
                return Err(UpstreamError::new(UpstreamErrorKind::Lost, Outcome::NotMade, text));
            }
            pending.calls.insert(prepared.id, call);
        }
        let exchange = DuplexExchange {
            id: prepared.id,
            receiver,
            pending: Arc::clone(&self.pending),
            finished: false,
            method,
            lost: self.lost,
        };
        let outgoing = Outgoing { bytes: single_line(&prepared.bytes), call: Some(prepared.id) };
        self.writer.send(outgoing).await.map_err(|_| self.lost(Outcome::NotMade))?;
        Ok(exchange)
    }

    pub(crate) async fn push(&self, message: Bytes) -> Result<(), UpstreamError> {
        let outgoing = Outgoing { bytes: single_line(&message), call: None };
        self.writer.send(outgoing).await.map_err(|_| self.lost(Outcome::NotMade))
    }

    /// Queues what is said last: that what is in flight is cancelled, as a server that works on a
    /// request (or keeps a subscription open) may otherwise not notice that its client left.
    pub(crate) fn last_words(&self, reason: &str) {
        let in_flight: Vec<u64> = {
            let pending = self.pending.lock().expect("invariant: no panic under this lock");
            pending.calls.keys().chain(&pending.ghosts).copied().collect()
        };
        for id in in_flight {
            let params = format!("{{\"requestId\":{id},\"reason\":{}}}", message::quote(reason));
            let bytes = message::notification("notifications/cancelled", Some(&params));
            let _ = self.writer.try_send(Outgoing { bytes, call: None });
        }
        let _ = self.writer.try_send(Outgoing::END);
    }

    fn lost(&self, outcome: Outcome) -> UpstreamError {
        UpstreamError::new(UpstreamErrorKind::Lost, outcome, self.lost)
    }
}

/// Takes what comes in on a connection. See the module.
pub(crate) struct Sorter {
    pending: Arc<Mutex<Pending>>,
    inbound: Arc<Inbound>,
    writer: mpsc::Sender<Outgoing>,
    junk: Arc<AtomicU64>,
    /// How much junk there was when reading rested last.
    rested: AtomicU64,
    limits: Limits,
}

impl Sorter {
    pub(crate) fn inbound(&self) -> &Arc<Inbound> {
        &self.inbound
    }

    /// Reads lines until the stream ends; `Err` when it broke.
    pub(crate) async fn read_lines(&self, mut lines: LineReader<impl AsyncRead + Unpin>) -> std::io::Result<()> {
        loop {
            self.rest().await;
            match lines.next_line().await? {
                Some(Line::Text(line)) => self.take(line),
                Some(Line::TooLong { head }) => self.too_large(&head, "a line is over `max_message`"),
                None => return Ok(()),
            }
        }
    }

    /// To be waited for between messages: many short ones may come with one read, and each of them
    /// counts as work.
    pub(crate) async fn rest(&self) {
        tokio::task::coop::consume_budget().await;
        let junk = self.junk.load(Ordering::Relaxed);
        if junk >= self.rested.load(Ordering::Relaxed) + JUNK_BURST {
            self.rested.store(junk, Ordering::Relaxed);
            tokio::time::sleep(JUNK_REST).await;
        }
    }

    /// Sorts a message, or what should be one.
    pub(crate) fn take(&self, message: Bytes) {
        match Frame::parse(message.clone(), &self.limits) {
            Ok(frame) => self.sort(frame),
            Err(error) => self.junk(&message, &error.to_string()),
        }
    }

    /// Notes something that is no message. Where it can be told whose answer it was, that call ends.
    pub(crate) fn junk(&self, text: &[u8], what: &str) {
        let error = || UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::Unknown, "its answer is not JSON-RPC");
        if let Some(id) = salvage::id_of(text) {
            self.fail(id, error());
        }
        self.note_junk(what);
    }

    /// Notes a message over the limit, of which `head` is the beginning.
    pub(crate) fn too_large(&self, head: &[u8], what: &str) {
        if let Some(id) = salvage::id_of(head) {
            let message = "its answer is larger than `max_message`";
            self.fail(id, UpstreamError::new(UpstreamErrorKind::TooLarge, Outcome::Unknown, message));
        }
        self.note_junk(what);
    }

    /// Ends a call without an answer.
    pub(crate) fn fail(&self, id: u64, error: UpstreamError) {
        let mut pending = self.pending.lock().expect("invariant: no panic under this lock");
        if pending.calls.remove(&id).is_some() {
            pending.broken.insert(id, error);
        }
        pending.ghosts.retain(|ghost| *ghost != id);
    }

    /// Ends every call in flight with the same error: the connection is of no more use because of it.
    pub(crate) fn fail_all(&self, kind: UpstreamErrorKind, message: &'static str) {
        let mut pending = self.pending.lock().expect("invariant: no panic under this lock");
        let ids: Vec<u64> = pending.calls.drain().map(|(id, _)| id).collect();
        for id in ids {
            pending.broken.insert(id, UpstreamError::new(kind, Outcome::Unknown, message));
        }
    }

    /// The connection is gone: calls in flight end, and the owner is told.
    pub(crate) fn ended(&self, reason: impl Into<String>, end: End) {
        {
            let mut pending = self.pending.lock().expect("invariant: no panic under this lock");
            pending.calls.clear();
            pending.ghosts.clear();
        }
        self.inbound.closed(reason, end);
    }

    fn note_junk(&self, what: &str) {
        let count = self.junk.fetch_add(1, Ordering::Relaxed) + 1;
        // The first few are worth a line each, then every power of two.
        if count <= 3 || count.is_power_of_two() {
            tracing::warn!(server = %self.inbound.server, count, "the server writes what is not JSON-RPC to its output: {what}");
        }
    }

    fn sort(&self, frame: Frame) {
        self.inbound.hear();
        match frame.kind() {
            Kind::Result | Kind::Error => self.answer(frame),
            Kind::Request => self.question(&frame),
            Kind::Notification => self.notification(frame),
        }
    }

    fn answer(&self, frame: Frame) {
        let Some(id) = frame.id().and_then(|id| id.parse::<u64>().ok()) else {
            self.note_junk("an answer without one of our ids");
            return;
        };
        let call = {
            let mut pending = self.pending.lock().expect("invariant: no panic under this lock");
            let call = pending.calls.remove(&id);
            if call.is_none() {
                pending.ghosts.retain(|ghost| *ghost != id);
            }
            call
        };
        if let Some(call) = call {
            // One place in the queue is always kept for the answer.
            let _ = call.items.try_send(Item::Final(Final { frame, status: None }));
        }
    }

    /// The one call that can have caused a message, if there is exactly one.
    fn sole(&self) -> Option<(u64, mpsc::Sender<Item>)> {
        let pending = self.pending.lock().expect("invariant: no panic under this lock");
        let mut may_ask = pending.calls.iter().filter(|(_, call)| call.may_ask);
        match (may_ask.next(), may_ask.next()) {
            (Some((id, call)), None) if pending.ghosts.is_empty() => Some((*id, call.items.clone())),
            _ => None,
        }
    }

    /// The call a question belongs to: of a task the one that waits for its result, else the only one there is.
    fn asker(&self, frame: &Frame) -> Option<(u64, mpsc::Sender<Item>)> {
        match task_of(frame) {
            Some(task) => {
                let pending = self.pending.lock().expect("invariant: no panic under this lock");
                let waits = |(_, call): &(&u64, &InFlight)| call.task.as_deref() == Some(&*task);
                pending.calls.iter().find(waits).map(|(id, call)| (*id, call.items.clone()))
            }
            None => self.sole().filter(|_| self.inbound.may_guess()),
        }
    }

    /// Makes the connection the own of the one client that has a call on it, if there is no other that could notice.
    fn take_root(&self) {
        let pending = self.pending.lock().expect("invariant: no panic under this lock");
        let asking = pending.calls.values().filter(|call| call.may_ask).count();
        if asking == 1 && pending.ghosts.is_empty() && self.inbound.may_guess() {
            self.inbound.take_root();
        }
    }

    fn question(&self, frame: &Frame) {
        let sole = self.asker(frame);
        if sole.is_some() && self.inbound.is_for_first_roots(frame) {
            self.take_root();
        }
        match self.inbound.question(frame, false, sole.is_some()) {
            Verdict::Answer(answer) => self.reply(answer),
            Verdict::Ask => {
                let asked =
                    sole.filter(|(_, call)| call.capacity() > 1 && call.try_send(Item::Message(frame.clone())).is_ok());
                if let Some((call, _)) = asked {
                    self.pending.lock().expect("invariant: no panic under this lock").asked.note(frame, call);
                } else {
                    let id = frame.id().unwrap_or("null");
                    self.reply(message::error(Some(id), -32603, "the caller does not read", None));
                }
            }
        }
    }

    fn reply(&self, answer: Bytes) {
        let outgoing = Outgoing { bytes: single_line(&answer), call: None };
        if self.writer.try_send(outgoing).is_err() {
            tracing::debug!(server = %self.inbound.server, "the server does not read; an answer to its question was dropped");
        }
    }

    fn notification(&self, frame: Frame) {
        let call = match frame.method_class() {
            Method::Progress => {
                let token = frame.raw(Field::ParamProgressToken).and_then(|token| token.parse::<u64>().ok());
                let pending = self.pending.lock().expect("invariant: no panic under this lock");
                token.and_then(|token| pending.calls.get(&token)).map(|call| call.items.clone())
            }
            Method::LogMessage => self.sole().map(|(_, call)| call),
            Method::Cancelled => match self.cancelled(&frame) {
                Some(call) => Some(call),
                None => return,
            },
            _ => match frame.raw(Field::MetaSubscriptionId) {
                // What comes on a listen stream names the request that opened it.
                Some(subscription) => {
                    let pending = self.pending.lock().expect("invariant: no panic under this lock");
                    match subscription.parse::<u64>().ok().and_then(|id| pending.calls.get(&id)) {
                        Some(call) => Some(call.items.clone()),
                        None => return,
                    }
                }
                None => None,
            },
        };
        match call {
            Some(call) if call.capacity() > 1 => {
                let _ = call.try_send(Item::Message(frame));
            }
            Some(_) => {
                tracing::debug!(server = %self.inbound.server, "a caller reads too slowly; a notification was dropped")
            }
            None => self.inbound.notification(frame),
        }
    }

    /// The server ends one of our subscriptions (it may do so with a result as well), or withdraws a question: then the
    /// call is returned that it was put to.
    fn cancelled(&self, frame: &Frame) -> Option<mpsc::Sender<Item>> {
        let id = frame.raw(Field::ParamRequestId)?.parse::<u64>().ok();
        let listen = {
            let mut pending = self.pending.lock().expect("invariant: no panic under this lock");
            let listen = id.filter(|id| pending.calls.get(id).is_some_and(|call| call.is_listen));
            if listen.is_none() {
                let call = pending.asked.take(frame)?;
                return pending.calls.get(&call).map(|call| call.items.clone());
            }
            listen
        };
        let message = "the server ended the subscription";
        self.fail(listen?, UpstreamError::new(UpstreamErrorKind::Lost, Outcome::Unknown, message));
        None
    }

    /// Whether a call still waits for its answer.
    pub(crate) fn is_waiting(&self, call: u64) -> bool {
        self.pending.lock().expect("invariant: no panic under this lock").calls.contains_key(&call)
    }

    /// Tells the owner that the server may be gone or hung.
    pub(crate) fn suspect(&self) {
        self.inbound.tell(LinkEvent::Suspect { link: self.inbound.link });
    }
}

/// One call on a connection.
#[derive(Debug)]
pub(crate) struct DuplexExchange {
    id: u64,
    receiver: mpsc::Receiver<Item>,
    pending: Arc<Mutex<Pending>>,
    finished: bool,
    method: Method,
    lost: &'static str,
}

impl DuplexExchange {
    pub(crate) async fn next(&mut self) -> Result<Item, UpstreamError> {
        match self.receiver.recv().await {
            Some(item) => {
                if matches!(item, Item::Final(_)) {
                    self.finished = true;
                }
                Ok(item)
            }
            None => {
                self.finished = true;
                let mut pending = self.pending.lock().expect("invariant: no panic under this lock");
                let broken = pending.broken.remove(&self.id);
                Err(broken.unwrap_or_else(|| UpstreamError::new(UpstreamErrorKind::Lost, Outcome::Unknown, self.lost)))
            }
        }
    }
}

impl Drop for DuplexExchange {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let Ok(mut pending) = self.pending.lock() else { return };
        pending.broken.remove(&self.id);
        if pending.calls.remove(&self.id).is_some() && self.method.may_ask() {
            if pending.ghosts.len() >= MAX_GHOSTS {
                pending.ghosts.remove(0);
            }
            pending.ghosts.push(self.id);
        }
    }
}
