//! A child process that speaks newline-delimited JSON-RPC on stdin and stdout.
//!
//! One reader task sorts what comes in, one writer task sends what goes out; both end with the
//! link. A line that is not JSON-RPC is counted and logged, never fatal: real servers print such
//! lines. An answer nobody waits for is dropped.

use crate::{
    event::End,
    exchange::{Final, Item, Prepared},
    link::{
        inbound::{Inbound, Verdict, awaited_task, task_of},
        salvage,
    },
};
use bytes::Bytes;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_process::{
    Child, ChildSpec,
    lines::{Line, LineReader, log_stderr},
};
use fairlead_wire::{Field, Frame, Kind, Limits, Method, edit::single_line, message};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::JoinHandle,
};

/// Messages (progress, log, questions) kept for a caller that reads slowly; more are dropped.
const CALL_QUEUE: usize = 64;
/// Lines waiting to be written to the child.
const WRITE_QUEUE: usize = 256;
/// Calls that were given up without an answer and are still remembered.
const MAX_GHOSTS: usize = 1024;

/// Lines of a server's stderr that are logged per second.
const STDERR_LINES_PER_SECOND: u32 = 50;
/// A line that ends the writing: what was queued before it is still written.
const END_OF_INPUT: Bytes = Bytes::new();
/// How long writing the last lines may take.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// After so many lines that are no messages reading rests for a moment: a flood of them must not take
/// the thread that all servers share.
const JUNK_BURST: u64 = 256;
const JUNK_REST: Duration = Duration::from_millis(10);
/// How long a process that closed its output may take to end by itself.
const EXIT_WAIT: Duration = Duration::from_secs(1);

/// Calls in flight on a process.
#[derive(Debug, Default)]
struct Pending {
    calls: HashMap<u64, InFlight>,
    /// Given up by their caller, not answered yet: while there are any, an untied question could
    /// belong to one of them.
    ghosts: Vec<u64>,
    /// Calls whose answer came and cannot be used, until their callers have taken note.
    broken: HashMap<u64, UpstreamErrorKind>,
}

/// A call in flight.
#[derive(Debug)]
struct InFlight {
    items: mpsc::Sender<Item>,
    /// Whether the server may ask something because of it.
    may_ask: bool,
    /// The task whose result it waits for.
    task: Option<Box<str>>,
}

/// The transport of one child process.
pub(crate) struct StdioWire {
    pending: Arc<Mutex<Pending>>,
    writer: mpsc::Sender<Bytes>,
    process_id: u32,
    /// Lines on stdout that were not JSON-RPC.
    junk: Arc<AtomicU64>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl StdioWire {
    /// Starts the process and its tasks.
    /// `slot` is given back when the process has ended.
    pub(crate) fn start(
        spec: &ChildSpec,
        inbound: Arc<Inbound>,
        max_message: usize,
        slot: OwnedSemaphorePermit,
    ) -> Result<Self, UpstreamError> {
        let child = fairlead_process::spawn(spec).map_err(|error| {
            // The system's own words name the command, which is nothing for callers.
            let what = match error.kind() {
                std::io::ErrorKind::NotFound => "its command or working directory does not exist",
                std::io::ErrorKind::PermissionDenied => "its command is not an executable file",
                _ => "its process cannot be started",
            };
            UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, what).because(error)
        })?;
        let process_id = child.pid();
        let pending = Arc::new(Mutex::new(Pending::default()));
        let junk = Arc::new(AtomicU64::new(0));
        let (writer, to_write) = mpsc::channel(WRITE_QUEUE);
        let (stop, stopped) = oneshot::channel();
        let reader = Reader { pending: Arc::clone(&pending), inbound, writer: writer.clone(), junk: Arc::clone(&junk) };
        let keeper = tokio::spawn(keep(child, reader, to_write, stopped, max_message, slot));
        Ok(Self { pending, writer, process_id, junk, stop: Mutex::new(Some(stop)), keeper: Mutex::new(Some(keeper)) })
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        Some(self.process_id)
    }

    pub(crate) fn junk_lines(&self) -> u64 {
        self.junk.load(Ordering::Relaxed)
    }

    pub(crate) fn is_haunted(&self) -> bool {
        !self.pending.lock().expect("invariant: no panic under this lock").ghosts.is_empty()
    }

    pub(crate) async fn send(&self, prepared: Prepared) -> Result<StdioExchange, UpstreamError> {
        let (items, receiver) = mpsc::channel(CALL_QUEUE);
        let task = awaited_task(prepared.method, &prepared.bytes);
        let call = InFlight { items, may_ask: prepared.method.may_ask(), task };
        self.pending.lock().expect("invariant: no panic under this lock").calls.insert(prepared.id, call);
        let exchange = StdioExchange {
            id: prepared.id,
            receiver,
            pending: Arc::clone(&self.pending),
            finished: false,
            method: prepared.method,
        };
        self.writer.send(single_line(&prepared.bytes)).await.map_err(|_| lost(Outcome::NotMade))?;
        Ok(exchange)
    }

    pub(crate) async fn push(&self, message: Bytes) -> Result<(), UpstreamError> {
        self.writer.send(single_line(&message)).await.map_err(|_| lost(Outcome::NotMade))
    }

    /// Stops the process: end of input, then TERM, then KILL, each after the grace period.
    ///
    /// What is still in flight is cancelled first: a server that works on a request (or keeps a
    /// subscription open) may otherwise not notice that its input has ended.
    pub(crate) async fn close(&self) {
        let in_flight: Vec<u64> = {
            let pending = self.pending.lock().expect("invariant: no panic under this lock");
            pending.calls.keys().chain(&pending.ghosts).copied().collect()
        };
        for id in in_flight {
            let params = format!("{{\"requestId\":{id},\"reason\":\"the gateway stops the server\"}}");
            let _ = self.writer.try_send(message::notification("notifications/cancelled", Some(&params)));
        }
        let _ = self.writer.try_send(END_OF_INPUT);
        let stop = self.stop.lock().expect("invariant: no panic under this lock").take();
        if let Some(stop) = stop {
            let _ = stop.send(());
        }
        let keeper = self.keeper.lock().expect("invariant: no panic under this lock").take();
        if let Some(keeper) = keeper {
            let _ = keeper.await;
        }
    }
}

impl Drop for StdioWire {
    fn drop(&mut self) {
        // Without a close the keeper is aborted: dropping the child ends its whole tree.
        if let Ok(mut keeper) = self.keeper.lock()
            && let Some(keeper) = keeper.take()
        {
            keeper.abort();
        }
    }
}

impl fmt::Debug for StdioWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdioWire")
            .field("process_id", &self.process_id)
            .field("junk", &self.junk_lines())
            .finish_non_exhaustive()
    }
}

fn lost(outcome: Outcome) -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::Lost, outcome, "its process ended")
}

/// Owns the process: reads, writes, and stops it.
async fn keep(
    child: Child,
    reader: Reader,
    mut to_write: mpsc::Receiver<Bytes>,
    mut stopped: oneshot::Receiver<()>,
    max_message: usize,
    _slot: OwnedSemaphorePermit,
) {
    let inbound = Arc::clone(&reader.inbound);
    let pending = Arc::clone(&reader.pending);
    let Child { mut stdin, stdout, stderr, mut process } = child;
    let server = inbound.server.clone();
    let stderr_log = log_stderr(stderr, server.as_str(), STDERR_LINES_PER_SECOND);
    let writing = async move {
        while let Some(line) = to_write.recv().await {
            if line.is_empty() {
                break;
            }
            let written = async {
                stdin.write_all(&line).await?;
                stdin.write_all(b"\n").await?;
                stdin.flush().await
            };
            if written.await.is_err() {
                break;
            }
        }
        drop(stdin);
    };
    let reading = reader.run(LineReader::new(stdout, max_message));
    let graceful = {
        let writing = std::pin::pin!(writing);
        let reading = std::pin::pin!(reading);
        let stderr_log = std::pin::pin!(stderr_log);
        let (mut writing, mut reading, mut stderr_log) = (writing, reading, stderr_log);
        let mut write_done = false;
        let mut stderr_done = false;
        loop {
            tokio::select! {
                _ = &mut stopped => {
                    if !write_done {
                        let _ = tokio::time::timeout(LAST_WORDS, &mut writing).await;
                    }
                    break true;
                }
                () = &mut reading => break false,
                () = &mut writing, if !write_done => write_done = true,
                () = &mut stderr_log, if !stderr_done => stderr_done = true,
            }
        }
        // Leaving the block drops the writer, which closes the child's stdin.
    };
    // A process that closed its output is of no more use, whether it still runs or not.
    let reason = if graceful {
        process.stop().await;
        "its process was stopped".to_owned()
    } else {
        match tokio::time::timeout(EXIT_WAIT, process.wait()).await {
            Ok(status) => format!("its process ended ({status})"),
            Err(_) => {
                process.kill_now();
                let _ = tokio::time::timeout(EXIT_WAIT, process.wait()).await;
                "its process closed its output".to_owned()
            }
        }
    };
    {
        let mut pending = pending.lock().expect("invariant: no panic under this lock");
        pending.calls.clear();
        pending.ghosts.clear();
    }
    inbound.closed(reason, End::Died);
}

struct Reader {
    pending: Arc<Mutex<Pending>>,
    inbound: Arc<Inbound>,
    writer: mpsc::Sender<Bytes>,
    junk: Arc<AtomicU64>,
}

impl Reader {
    async fn run(self, mut lines: LineReader<tokio::process::ChildStdout>) {
        let limits = Limits::default();
        let mut junk_before = 0;
        loop {
            // Many short lines come with one read: each of them counts as work.
            tokio::task::coop::consume_budget().await;
            let junk = self.junk.load(Ordering::Relaxed);
            if junk >= junk_before + JUNK_BURST {
                junk_before = junk;
                tokio::time::sleep(JUNK_REST).await;
            }
            match lines.next_line().await {
                Ok(Some(Line::Text(line))) => match Frame::parse(line.clone(), &limits) {
                    Ok(frame) => self.sort(frame),
                    Err(error) => {
                        self.fail(&line, UpstreamErrorKind::Garbage);
                        self.note_junk(&error.to_string());
                    }
                },
                Ok(Some(Line::TooLong { head })) => {
                    self.fail(&head, UpstreamErrorKind::TooLarge);
                    self.note_junk("a line is over `max_message`");
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(server = %self.inbound.server, %error, "reading the server's output failed");
                    return;
                }
            }
        }
    }

    /// Ends the call that a line which is no message was the answer to, where that can be told.
    fn fail(&self, line: &[u8], kind: UpstreamErrorKind) {
        let Some(id) = salvage::id_of(line) else { return };
        let mut pending = self.pending.lock().expect("invariant: no panic under this lock");
        if pending.calls.remove(&id).is_some() {
            pending.broken.insert(id, kind);
        }
        pending.ghosts.retain(|ghost| *ghost != id);
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
    fn sole(&self) -> Option<mpsc::Sender<Item>> {
        let pending = self.pending.lock().expect("invariant: no panic under this lock");
        let mut may_ask = pending.calls.values().filter(|call| call.may_ask);
        match (may_ask.next(), may_ask.next()) {
            (Some(call), None) if pending.ghosts.is_empty() => Some(call.items.clone()),
            _ => None,
        }
    }

    /// The call a question belongs to: of a task the one that waits for its result, else the only one there is.
    fn asker(&self, frame: &Frame) -> Option<mpsc::Sender<Item>> {
        match task_of(frame) {
            Some(task) => {
                let pending = self.pending.lock().expect("invariant: no panic under this lock");
                let waits = |call: &&InFlight| call.task.as_deref() == Some(&*task);
                pending.calls.values().find(waits).map(|call| call.items.clone())
            }
            None => self.sole().filter(|_| self.inbound.may_guess()),
        }
    }

    fn question(&self, frame: &Frame) {
        let sole = self.asker(frame);
        match self.inbound.question(frame, false, sole.is_some()) {
            Verdict::Answer(answer) => self.reply(answer),
            Verdict::Ask => {
                let asked =
                    sole.is_some_and(|call| call.capacity() > 1 && call.try_send(Item::Message(frame.clone())).is_ok());
                if !asked {
                    let id = frame.id().unwrap_or("null");
                    self.reply(message::error(Some(id), -32603, "the caller does not read", None));
                }
            }
        }
    }

    fn reply(&self, answer: Bytes) {
        if self.writer.try_send(single_line(&answer)).is_err() {
            tracing::debug!(server = %self.inbound.server, "the server does not read; an answer to its question was dropped");
        }
    }

    fn notification(&self, frame: Frame) {
        let call = match frame.method_class() {
            Method::Progress => {
                let token = frame.raw(Field::ParamProgressToken).and_then(|token| token.parse::<u64>().ok());
                let pending = self.pending.lock().expect("invariant: no panic under this lock");
                match token.and_then(|token| pending.calls.get(&token)) {
                    Some(call) => Some(call.items.clone()),
                    None => return,
                }
            }
            Method::LogMessage => self.sole(),
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
}

/// One call on a process.
#[derive(Debug)]
pub(crate) struct StdioExchange {
    id: u64,
    receiver: mpsc::Receiver<Item>,
    pending: Arc<Mutex<Pending>>,
    finished: bool,
    method: Method,
}

impl StdioExchange {
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
                Err(match pending.broken.remove(&self.id) {
                    Some(kind @ UpstreamErrorKind::TooLarge) => {
                        UpstreamError::new(kind, Outcome::Unknown, "its answer is larger than `max_message`")
                    }
                    Some(kind) => UpstreamError::new(kind, Outcome::Unknown, "its answer is not JSON-RPC"),
                    None => lost(Outcome::Unknown),
                })
            }
        }
    }
}

impl Drop for StdioExchange {
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
