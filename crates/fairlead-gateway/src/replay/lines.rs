//! What the streams of one session have said, who listens to them, and what is let go of first.
//!
//! A stream is a queue with a place in it: what a listener has not been handed yet waits there, what it
//! has been handed stays for the case that it was lost on the way. So nothing is queued twice, the same
//! message never goes to two listeners, and coming back means moving the place.
//!
//! Bounds: while somebody listens, the speaker of a call waits for him (as the server then does), and
//! what belongs to no call is dropped when too much waits. What was handed out, and all that is said
//! while nobody listens, is let go of oldest first: by events of one stream, by bytes of the session,
//! and by bytes of all sessions: when those are too many, of sessions that have more than their share.

use super::{Bounds, Detached, MAX_KEPT_BYTES, Shared, event, event_id, gone};
use bytes::{Bytes, BytesMut};
use fairlead_wire::sse;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    task::{Poll, Waker},
    time::Duration,
};
use tokio::{task::AbortHandle, time::Instant};

/// Messages of a call that wait for a client that reads slowly; then the server waits too.
const STREAM_QUEUE: u64 = 32;
/// Bytes waiting per stream at most, beside the limit of messages: whoever does not read must not
/// cost what a server says.
const MAX_WAITING_BYTES: usize = 4 << 20;
/// GET streams of one session that are kept; the newest gets what is said.
const MAX_STREAMS_PER_SESSION: usize = 4;
/// Streams of finished calls of one session that are kept.
const MAX_FINISHED: usize = 64;
/// What a stream and an event take beside what was said, about.
const LINE_COST: usize = 512;
const EVENT_COST: usize = 64;

/// What a stream is for.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// A call, by the client's id of it, raw.
    Call { request: Box<str> },
    /// What belongs to no call.
    Standing {
        /// Messages that may wait for a client that reads slowly.
        queue: usize,
    },
}

/// A listener that was attached.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) generation: u64,
    /// Events it asked for that are not kept.
    pub(super) lost: u64,
    /// The id of the event it goes on after; `None` when ids are of no use.
    pub(super) last: Option<String>,
}

/// All streams of a session, oldest first.
pub(super) struct Lines {
    lines: Vec<Line>,
    bytes: usize,
    bounds: Bounds,
    next_number: u64,
    shared: Arc<Shared>,
}

struct Line {
    key: u64,
    name: Box<str>,
    kind: Kind,
    /// The end of what was said: older events were let go of.
    events: VecDeque<Bytes>,
    /// The number of the next event; the first is 1.
    next: u64,
    /// The highest number that was handed to a listener.
    heard: u64,
    listener: Option<Listening>,
    /// The client is to come back after that long.
    hang_up: Option<Duration>,
    /// The speaker waits for room.
    speaker: Option<Waker>,
    over: Option<Over>,
    /// Since when nobody listens, or nothing more comes.
    since: Instant,
    task: Option<AbortHandle>,
    detached: Option<Detached>,
}

struct Listening {
    generation: u64,
    /// The number of the last event it was handed.
    place: u64,
    waiting_bytes: usize,
    /// The answer was let go of before it came.
    is_too_late: bool,
    is_leaving: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
struct Over {
    /// The last event is the call's answer.
    answered: bool,
}

impl Line {
    /// The number of the oldest event that is kept.
    fn first(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    /// How many events its listener has not been handed.
    fn waiting(&self) -> u64 {
        self.listener.as_ref().map_or(0, |listener| self.next - 1 - listener.place)
    }

    /// Whether its oldest event may be let go of.
    fn may_forget(&self) -> bool {
        !self.events.is_empty() && self.listener.as_ref().is_none_or(|listener| listener.place >= self.first())
    }

    fn is_call(&self) -> bool {
        matches!(self.kind, Kind::Call { .. })
    }

    fn wake_listener(&mut self) {
        if let Some(waker) = self.listener.as_mut().and_then(|listener| listener.waker.take()) {
            waker.wake();
        }
    }

    fn wake_speaker(&mut self) {
        if let Some(waker) = self.speaker.take() {
            waker.wake();
        }
    }
}

impl Lines {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.sessions.fetch_add(1, Ordering::Relaxed);
        Self { lines: Vec::new(), bytes: 0, bounds: Bounds { events: 0, bytes: 0 }, next_number: 1, shared }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn line(&mut self, key: u64) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.key == key)
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Opens a stream that nobody listens to yet, within `bounds` from now on.
    pub(super) fn open(&mut self, kind: Kind, name: Box<str>, bounds: Bounds) -> u64 {
        self.bounds = bounds;
        match kind {
            Kind::Call { .. } => self.make_room(MAX_FINISHED, |line| line.over.is_some() && line.listener.is_none()),
            Kind::Standing { .. } => self.make_room(MAX_STREAMS_PER_SESSION, |line| !line.is_call()),
        }
        let key = self.number();
        self.lines.push(Line {
            key,
            name,
            kind,
            events: VecDeque::new(),
            next: 1,
            heard: 0,
            listener: None,
            hang_up: None,
            speaker: None,
            over: None,
            since: Instant::now(),
            task: None,
            detached: None,
        });
        self.add(LINE_COST);
        self.trim();
        key
    }

    /// Removes the oldest of the lines `counted`, so that there is one less than `max`. Of those, lines
    /// nobody listens to go first.
    fn make_room(&mut self, max: usize, counted: impl Fn(&Line) -> bool) {
        while self.lines.iter().filter(|line| counted(line)).count() >= max {
            let unheard = self.lines.iter().position(|line| counted(line) && line.listener.is_none());
            let Some(index) = unheard.or_else(|| self.lines.iter().position(&counted)) else { return };
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        let mut line = self.lines.remove(index);
        let bytes = line.events.iter().map(cost).sum::<usize>() + LINE_COST;
        self.release(bytes);
        line.wake_listener();
        line.wake_speaker();
    }

    /// Notes who drives a call.
    pub(super) fn driven_by(&mut self, key: u64, task: AbortHandle) {
        if let Some(line) = self.line(key).filter(|line| line.over.is_none()) {
            line.task = Some(task);
        }
    }

    /// The stream called `name`, which must have said `sequence`; `Err` when it has not.
    pub(super) fn find(&self, name: &str, sequence: u64) -> Option<Result<(u64, Kind), ()>> {
        let line = self.lines.iter().find(|line| *line.name == *name)?;
        Some(if sequence < line.next { Ok((line.key, line.kind.clone())) } else { Err(()) })
    }

    /// Lets somebody listen to a stream after its event `after`; whoever listened before is done.
    pub(super) fn attach(&mut self, key: u64, after: u64) -> Option<Attached> {
        let generation = self.number();
        let keeps = self.bounds.keeps();
        let line = self.line(key)?;
        line.wake_listener();
        let lost = line.first().saturating_sub(after + 1);
        let place = after.max(line.first() - 1);
        let skipped = usize::try_from(place + 1 - line.first()).unwrap_or(usize::MAX);
        let waiting_bytes = line.events.iter().skip(skipped).map(Bytes::len).sum();
        let answered = line.over.is_some_and(|over| over.answered);
        let is_too_late = answered && after < line.next - 1 && line.events.is_empty();
        line.listener =
            Some(Listening { generation, place, waiting_bytes, is_too_late, is_leaving: false, waker: None });
        line.detached = None;
        line.hang_up = None;
        let last = keeps.then(|| event_id::write(&line.name, after));
        Some(Attached { generation, lost, last })
    }

    /// The listener is gone. A call runs on if there is room for it.
    pub(super) fn detach(&mut self, key: u64, generation: u64) {
        let keeps = self.bounds.keeps();
        let shared = Arc::clone(&self.shared);
        let Some(line) = self.line(key) else { return };
        if line.listener.as_ref().is_none_or(|listener| listener.generation != generation) {
            return;
        }
        line.listener = None;
        line.since = Instant::now();
        line.wake_speaker();
        if !keeps {
            return self.give_up(key);
        }
        if line.is_call() && line.over.is_none() {
            line.detached = shared.detach();
            if line.detached.is_none() {
                tracing::warn!("as many calls run on without their clients as may; one is given up");
                return self.give_up(key);
            }
        }
        self.trim();
    }

    /// Forgets a stream; the call behind it ends, and its server is not told.
    pub(super) fn give_up(&mut self, key: u64) {
        if let Some(index) = self.lines.iter().position(|line| line.key == key) {
            if let Some(task) = self.lines[index].task.take() {
                task.abort();
            }
            self.remove(index);
        }
    }

    /// Whether there is room to say something now; `waker` is called when there is. `None` when the
    /// stream is gone.
    pub(super) fn has_room(&mut self, key: u64, waker: &Waker) -> Option<bool> {
        let line = self.line(key)?;
        let waiting = line.waiting();
        let bytes = line.listener.as_ref().map_or(0, |listener| listener.waiting_bytes);
        let has_room = waiting == 0 || (waiting < STREAM_QUEUE && bytes < MAX_WAITING_BYTES);
        line.speaker = (!has_room).then(|| waker.clone());
        Some(has_room)
    }

    /// Says a message of a call.
    pub(super) fn say(&mut self, key: u64, message: &[u8]) {
        if let Some(index) = self.lines.iter().position(|line| line.key == key) {
            self.push(index, message);
        }
    }

    /// Says a message that belongs to no call. `false` when there is no stream for it, or no room.
    pub(super) fn say_aside(&mut self, message: &[u8]) -> bool {
        let standing = |line: &Line| match line.kind {
            Kind::Standing { queue } if line.over.is_none() => Some(queue),
            _ => None,
        };
        let heard = self.lines.iter().rposition(|line| standing(line).is_some() && line.listener.is_some());
        let Some(index) = heard.or_else(|| self.lines.iter().rposition(|line| standing(line).is_some())) else {
            return false;
        };
        let line = &self.lines[index];
        if let (Some(listener), Some(queue)) = (&line.listener, standing(line)) {
            let waiting = line.waiting();
            let fits =
                waiting < queue as u64 && (waiting == 0 || listener.waiting_bytes + message.len() <= MAX_WAITING_BYTES);
            if !fits {
                return false;
            }
        }
        self.push(index, message);
        true
    }

    fn push(&mut self, index: usize, message: &[u8]) {
        let keeps = self.bounds.keeps();
        let line = &mut self.lines[index];
        let id = keeps.then(|| event_id::write(&line.name, line.next));
        let chunk = event(id.as_deref(), message);
        let cost = cost(&chunk);
        if let Some(listener) = &mut line.listener {
            listener.waiting_bytes += chunk.len();
        }
        line.events.push_back(chunk);
        line.next += 1;
        line.wake_listener();
        self.add(cost);
        self.trim();
    }

    /// What a listener gets next; `waker` is called when there is something.
    pub(super) fn next(&mut self, key: u64, generation: u64, waker: &Waker) -> Poll<Option<Bytes>> {
        let Some(line) = self.line(key) else { return Poll::Ready(None) };
        let (first, next) = (line.first(), line.next);
        let Some(listener) = &mut line.listener else { return Poll::Ready(None) };
        if listener.generation != generation || listener.is_leaving {
            return Poll::Ready(None);
        }
        let index = usize::try_from(listener.place + 1 - first).unwrap_or(usize::MAX);
        if let Some(chunk) = line.events.get(index).cloned() {
            listener.place += 1;
            listener.waiting_bytes -= chunk.len();
            line.heard = line.heard.max(listener.place);
            line.wake_speaker();
            if self.lines.iter().any(|line| line.events.len() > self.bounds.events) || self.is_over() {
                self.trim();
            }
            return Poll::Ready(Some(chunk));
        }
        if let Some(retry) = line.hang_up.take() {
            listener.is_leaving = true;
            let id = event_id::write(&line.name, listener.place);
            let mut out = BytesMut::with_capacity(id.len() + 48);
            sse::write_retry(&mut out, Some(&id), u64::try_from(retry.as_millis()).unwrap_or(u64::MAX));
            return Poll::Ready(Some(out.freeze()));
        }
        if line.over.is_some() {
            if let Kind::Call { request } = &line.kind
                && std::mem::take(&mut listener.is_too_late)
            {
                return Poll::Ready(Some(gone(request, &event_id::write(&line.name, next - 1))));
            }
            return Poll::Ready(None);
        }
        listener.waker = Some(waker.clone());
        Poll::Pending
    }

    /// Makes the listener leave when it has heard everything.
    pub(super) fn hang_up(&mut self, key: u64, retry: Duration) {
        if let Some(line) = self.line(key).filter(|line| line.listener.is_some()) {
            line.hang_up = Some(retry);
            line.wake_listener();
        }
    }

    /// Nothing more comes on a call's stream.
    pub(super) fn over(&mut self, key: u64, answered: bool) {
        if let Some(line) = self.line(key) {
            line.over = Some(Over { answered });
            line.since = Instant::now();
            line.task = None;
            line.detached = None;
            line.hang_up = None;
            line.wake_listener();
        }
    }

    /// Whether somebody listens to what belongs to no call.
    pub(super) fn is_heard(&self) -> bool {
        self.lines.iter().any(|line| !line.is_call() && line.listener.is_some())
    }

    /// Ends every stream. (Calls are told that they are cancelled, and end by themselves.)
    pub(super) fn close(&mut self) {
        while let Some(last) = self.lines.len().checked_sub(1) {
            self.remove(last);
        }
    }

    /// Forgets streams that nobody came back to for `kept`; `true` when none is left.
    pub(super) fn expire(&mut self, kept: Duration) -> bool {
        let mut index = 0;
        while let Some(line) = self.lines.get(index) {
            let is_done = line.over.is_some() || !line.is_call();
            if is_done && line.listener.is_none() && line.since.elapsed() >= kept {
                self.remove(index);
            } else {
                index += 1;
            }
        }
        self.trim();
        self.lines.is_empty()
    }

    fn is_over(&self) -> bool {
        if self.bytes > self.bounds.bytes {
            return true;
        }
        // Whoever has no more than its share pays for nobody. (Those who have more do so with their next event, or when
        // it is looked for what is too old.)
        let share = || MAX_KEPT_BYTES / self.shared.sessions.load(Ordering::Relaxed).max(1);
        self.shared.bytes.load(Ordering::Relaxed) > MAX_KEPT_BYTES && self.bytes > share()
    }

    /// Lets go of what is too much and may go.
    fn trim(&mut self) {
        let max = self.bounds.events;
        for index in 0..self.lines.len() {
            while self.lines[index].events.len() > max && self.lines[index].may_forget() {
                self.forget(index);
            }
        }
        while self.is_over() {
            // What a connection was handed already goes before what nobody has heard.
            let heard = self.lines.iter().position(|line| line.may_forget() && line.first() <= line.heard);
            let Some(index) = heard.or_else(|| self.lines.iter().position(Line::may_forget)) else { return };
            self.forget(index);
        }
    }

    fn forget(&mut self, index: usize) {
        if let Some(chunk) = self.lines[index].events.pop_front() {
            self.release(cost(&chunk));
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

fn cost(chunk: &Bytes) -> usize {
    chunk.len() + EVENT_COST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_keep_costs_nobody_his_share() {
        const KEPT: Bounds = Bounds { events: 1_000, bytes: MAX_KEPT_BYTES };
        let shared = Arc::new(Shared::default());
        let open = || {
            let mut lines = Lines::new(Arc::clone(&shared));
            lines.open(Kind::Standing { queue: 8 }, "a".into(), KEPT);
            lines
        };
        let kept = |lines: &Lines| lines.lines[0].events.len();
        let (mut greedy, mut modest) = (open(), open());
        let message = vec![b'x'; 1 << 20];
        for _ in 0..MAX_KEPT_BYTES / message.len() {
            assert!(greedy.say_aside(&message));
        }
        assert_eq!(kept(&greedy), MAX_KEPT_BYTES / message.len() - 1);
        for _ in 0..4 {
            assert!(modest.say_aside(&message));
        }
        assert_eq!(kept(&modest), 4, "it has less than its share");
        greedy.expire(Duration::MAX);
        assert!(shared.bytes.load(Ordering::Relaxed) <= MAX_KEPT_BYTES);
        assert_eq!(kept(&modest), 4);
        drop(modest);
        assert_eq!(shared.sessions.load(Ordering::Relaxed), 1);
    }
}
