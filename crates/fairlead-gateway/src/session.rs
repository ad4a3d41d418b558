//! Sessions of legacy clients.
//!
//! A session id is a sealed text that carries everything the session was opened with: revision,
//! capabilities, principal, path, time. What is kept in memory is only what belongs to now: calls in
//! flight, open streams, the client's roots. So a restart loses no session, and a client that comes
//! back later than the memory of it finds its session as it was.

use crate::{
    replay::{Replay, Shared},
    seal::Sealer,
    watching::Held,
};
use bytes::Bytes;
use fairlead_core::{
    Caller, Clock,
    ports::{SessionRecord, SessionStore},
};
use fairlead_upstream::Roots;
use fairlead_wire::{CapabilitySet, Revision};
use futures_util::task::AtomicWaker;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    future::poll_fn,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

const PURPOSE: &str = "session";
/// Parts of the table, so that workers rarely wait for each other.
const SHARDS: usize = 64;
/// How long a look into the store may take when a session is not in memory.
const LOAD_TIME: Duration = Duration::from_millis(250);
/// Subscriptions of one session at most.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 1_000;

/// A legacy client's session.
pub(crate) struct Session {
    /// The sealed id.
    pub(crate) id: Box<str>,
    /// A number for this process, for what is keyed by client.
    pub(crate) user: u64,
    pub(crate) revision: Revision,
    pub(crate) capabilities: CapabilitySet,
    pub(crate) caller: Caller,
    /// The path it was opened on; it is of no use on another.
    pub(crate) path: Box<str>,
    expires_ms: u64,
    last_used_ms: AtomicU64,
    ended: AtomicBool,
    has_replay: AtomicBool,
    /// It was opened from its id and has not been used since.
    recalled: AtomicBool,
    /// Something said outside its calls was dropped since it opened a stream.
    behind: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the client's id (raw JSON).
    calls: Vec<(Bytes, Arc<CallControl>)>,
    /// Its streams; there are none until one was opened.
    replay: Option<Arc<Replay>>,
    roots: Option<Arc<Roots>>,
    /// How often the client said that its roots changed.
    roots_changes: u32,
    record: SessionRecord,
    /// What it watches, by the URI the client knows.
    held: BTreeMap<Box<str>, Held>,
}

/// How a call in flight is told that its caller cancelled it.
#[derive(Debug, Default)]
pub(crate) struct CallControl {
    cancelled: AtomicBool,
    wake: AtomicWaker,
}

impl CallControl {
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake.wake();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Waits for the cancellation; for ever if there is none. One waits at a time.
    pub(crate) async fn cancelled(&self) {
        poll_fn(|context| {
            self.wake.register(context.waker());
            if self.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Waits until the call is cancelled; for ever where nobody can do that.
pub(crate) async fn cancelled(control: Option<Arc<CallControl>>) {
    match control {
        Some(control) => control.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Why a session cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionError {
    /// Unknown, forged, ended, expired, or of another path or principal: all look the same.
    Unknown,
    /// There are as many as there may be.
    TooMany,
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under this lock")
    }

    /// Enters a call, so that a cancellation finds it. `None` when the session has too many.
    pub(crate) fn enter(&self, id: Bytes, max: usize) -> Option<Arc<CallControl>> {
        let control = Arc::new(CallControl::default());
        self.enter_with(&control, id, max).then_some(control)
    }

    /// The same with a control that is there already.
    pub(crate) fn enter_with(&self, control: &Arc<CallControl>, id: Bytes, max: usize) -> bool {
        let mut state = self.state();
        if state.calls.len() >= max {
            return false;
        }
        state.calls.push((id, Arc::clone(control)));
        true
    }

    /// Takes a finished call out.
    pub(crate) fn leave(&self, control: &Arc<CallControl>) {
        let mut state = self.state();
        if let Some(at) = state.calls.iter().position(|(_, other)| Arc::ptr_eq(other, control)) {
            state.calls.swap_remove(at);
        }
    }

    /// Cancels the call with the client's id `id` (raw JSON). Unknown ids are no error.
    pub(crate) fn cancel(&self, id: &str) {
        let found = self.state().calls.iter().find(|(other, _)| *other == id).map(|(_, control)| Arc::clone(control));
        if let Some(control) = found {
            control.cancel();
        }
    }

    /// Whether it lives for one request alone.
    pub(crate) fn is_fleeting(&self) -> bool {
        self.id.is_empty()
    }

    pub(crate) fn calls(&self) -> usize {
        self.state().calls.len()
    }

    /// The end of the id: enough to tell sessions apart, not enough to use one.
    pub(crate) fn tag(&self) -> &str {
        tag(&self.id)
    }

    /// Its streams, if there were any.
    pub(crate) fn replay(&self) -> Option<Arc<Replay>> {
        self.state().replay.clone()
    }

    /// Its streams, from now on if there were none. `None` when the session has ended.
    pub(crate) fn replay_or_new(&self, shared: &Arc<Shared>) -> Option<Arc<Replay>> {
        let mut state = self.state();
        if state.record.ended {
            return None;
        }
        self.has_replay.store(true, Ordering::Relaxed);
        Some(Arc::clone(state.replay.get_or_insert_with(|| Arc::new(Replay::new(shared)))))
    }

    /// Says something outside any call. `false` when there is no stream for it, or it is full.
    pub(crate) fn say(&self, message: &Bytes) -> bool {
        self.replay().is_some_and(|replay| replay.say_aside(message))
    }

    /// Notes that a stream was opened for what belongs to no call.
    pub(crate) fn starts_afresh(&self) {
        self.behind.store(false, Ordering::Relaxed);
    }

    /// Notes that something was dropped. True the first time since a stream was opened.
    pub(crate) fn falls_behind(&self) -> bool {
        !self.behind.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn has_stream(&self) -> bool {
        self.replay().is_some_and(|replay| replay.is_heard())
    }

    /// Forgets what its streams kept too long.
    fn expire_replay(&self) {
        let mut state = self.state();
        // Under the lock: a stream that is just being opened would be lost.
        if state.replay.as_ref().is_some_and(|replay| Arc::strong_count(replay) == 1 && replay.expire()) {
            state.replay = None;
            self.has_replay.store(false, Ordering::Relaxed);
        } else if let Some(replay) = &state.replay {
            replay.expire();
        }
    }

    /// Ends its streams, and cancels its calls.
    fn close(&self) {
        let mut state = self.state();
        if let Some(replay) = state.replay.take() {
            replay.close();
        }
        for (_, control) in state.calls.drain(..) {
            control.cancel();
        }
    }

    pub(crate) fn roots(&self) -> Option<Arc<Roots>> {
        self.state().roots.clone()
    }

    pub(crate) fn set_roots(&self, roots: Arc<Roots>) {
        self.state().roots = Some(roots);
    }

    /// The client's roots are others now, whatever it said before.
    pub(crate) fn roots_changed(&self) {
        let mut state = self.state();
        state.roots = None;
        state.roots_changes = state.roots_changes.wrapping_add(1);
    }

    /// A number that differs once the client said that its roots changed.
    pub(crate) fn roots_changes(&self) -> u32 {
        self.state().roots_changes
    }

    /// Keeps what the client listed, unless it said since `changes` that its roots changed.
    pub(crate) fn keep_roots(&self, roots: Arc<Roots>, changes: u32) {
        let mut state = self.state();
        if state.roots_changes == changes {
            state.roots = Some(roots);
        }
    }

    pub(crate) fn log_level(&self) -> Option<String> {
        let state = self.state();
        (!state.record.log_level.is_empty()).then(|| state.record.log_level.clone())
    }

    /// Whether this is the first use since the session was opened from its id; true once.
    pub(crate) fn take_recalled(&self) -> bool {
        self.recalled.load(Ordering::Relaxed) && self.recalled.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn has_subscriptions(&self) -> bool {
        !self.state().record.subscriptions.is_empty()
    }

    /// Keeps what the client watches; what it had under this URI is given back.
    pub(crate) fn hold(&self, exposed: &str, held: Held) {
        let mut state = self.state();
        // Of one that has ended meanwhile nobody would ever give it back.
        let before =
            if self.ended.load(Ordering::Relaxed) { Some(held) } else { state.held.insert(exposed.into(), held) };
        drop(state);
        drop(before);
    }

    /// Whether the client may subscribe to a resource, or already did.
    pub(crate) fn has_room_for(&self, exposed: &str) -> bool {
        let state = self.state();
        let subscriptions = &state.record.subscriptions;
        subscriptions.len() < MAX_SUBSCRIPTIONS || subscriptions.iter().any(|other| other == exposed)
    }

    /// Whether the client watches a resource.
    pub(crate) fn holds(&self, exposed: &str) -> bool {
        self.state().held.contains_key(exposed)
    }

    /// What the client watches under this URI, to be given back.
    pub(crate) fn let_go(&self, exposed: &str) -> Option<Held> {
        self.state().held.remove(exposed)
    }

    /// Everything of what the client watches that fits, to be given back.
    pub(crate) fn let_go_if(&self, fits: impl Fn(&Held) -> bool) -> Vec<Held> {
        self.state().held.extract_if(.., |_, held| fits(held)).map(|(_, held)| held).collect()
    }

    /// What the client subscribed to and does not watch, because a server was away.
    pub(crate) fn missed(&self) -> Vec<String> {
        let state = self.state();
        state.record.subscriptions.iter().filter(|uri| !state.held.contains_key(uri.as_str())).cloned().collect()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user", &self.user).field("revision", &self.revision).finish_non_exhaustive()
    }
}

type Shard = Mutex<Table>;
type Table = HashMap<Box<str>, Arc<Session>, BuildHasherDefault<TagHasher>>;

/// The end of a sealed id is the cipher's tag, which is as good as random, and only ids that were
/// opened are ever entered: its last eight bytes are the hash.
#[derive(Default)]
struct TagHasher(u64);

impl Hasher for TagHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk::<8>() {
            self.0 = u64::from_le_bytes(*last);
        }
    }

    fn finish(&self) -> u64 {
        // Base64 leaves the top bits of each byte alike; the table looks at the top bits.
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// All sessions in memory.
pub(crate) struct Sessions {
    shards: Box<[Shard]>,
    sealer: Sealer,
    store: Arc<dyn SessionStore>,
    clock: Clock,
    count: AtomicUsize,
    next_user: AtomicU64,
    max: AtomicUsize,
    max_age_ms: AtomicU64,
    /// Sessions with an open GET stream or subscriptions, by user number: who can be told something.
    listening: Mutex<HashMap<u64, Arc<Session>>>,
}

impl Sessions {
    pub(crate) fn new(
        sealer: Sealer,
        store: Arc<dyn SessionStore>,
        clock: Clock,
        options: &fairlead_config::Sessions,
    ) -> Self {
        let sessions = Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            sealer,
            store,
            clock,
            count: AtomicUsize::new(0),
            next_user: AtomicU64::new(1),
            max: AtomicUsize::new(0),
            max_age_ms: AtomicU64::new(0),
            listening: Mutex::default(),
        };
        sessions.configure(options);
        sessions
    }

    pub(crate) fn configure(&self, options: &fairlead_config::Sessions) {
        self.max.store(options.max, Ordering::Relaxed);
        self.max_age_ms.store(u64::try_from(options.max_age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn shard(&self, id: &str) -> MutexGuard<'_, Table> {
        // The end of the text is the cipher's tag: as good as random.
        let last = id
            .as_bytes()
            .iter()
            .rev()
            .take(4)
            .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        self.shards[last % SHARDS].lock().expect("invariant: no panic under this lock")
    }

    /// A number for a client that has no session.
    pub(crate) fn take_user(&self) -> u64 {
        self.next_user.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens a session.
    pub(crate) fn open(
        &self,
        revision: Revision,
        capabilities: CapabilitySet,
        caller: &Caller,
        path: &str,
    ) -> Result<Arc<Session>, SessionError> {
        if self.count.load(Ordering::Relaxed) >= self.max.load(Ordering::Relaxed) {
            return Err(SessionError::TooMany);
        }
        let now = self.clock.unix_ms();
        let plain = Plain { revision, capabilities, issued_ms: now, caller: caller.key().as_str(), path };
        let id = self.sealer.seal(PURPOSE, &plain.to_bytes());
        let session =
            Arc::new(self.make(&id, revision, capabilities, caller.clone(), path, now, SessionRecord::default()));
        self.insert(Arc::clone(&session));
        Ok(session)
    }

    /// A session for one request of a client that never sends an id back: nothing of it is kept.
    pub(crate) fn fleeting(&self, revision: Revision, caller: &Caller, path: &str) -> Arc<Session> {
        let (now, record) = (self.clock.unix_ms(), SessionRecord::default());
        Arc::new(self.make("", revision, CapabilitySet::BARE, caller.clone(), path, now, record))
    }

    fn insert(&self, session: Arc<Session>) -> Arc<Session> {
        let mut shard = self.shard(&session.id);
        if let Some(other) = shard.get(&session.id) {
            return Arc::clone(other);
        }
        shard.insert(session.id.clone(), Arc::clone(&session));
        self.count.fetch_add(1, Ordering::Relaxed);
        session
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a session, from two places")]
    fn make(
        &self,
        id: &str,
        revision: Revision,
        capabilities: CapabilitySet,
        caller: Caller,
        path: &str,
        issued_ms: u64,
        record: SessionRecord,
    ) -> Session {
        Session {
            id: id.into(),
            user: self.take_user(),
            revision,
            capabilities,
            caller,
            path: path.into(),
            expires_ms: issued_ms.saturating_add(self.max_age_ms.load(Ordering::Relaxed)),
            last_used_ms: AtomicU64::new(self.clock.unix_ms()),
            ended: AtomicBool::new(false),
            has_replay: AtomicBool::new(false),
            recalled: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            state: Mutex::new(State { record, ..State::default() }),
        }
    }

    /// Finds the session a request names. One that is not in memory is opened from its id.
    pub(crate) async fn find(&self, id: &str, caller: &Caller, path: &str) -> Result<Arc<Session>, SessionError> {
        let known = self.shard(id).get(id).cloned();
        let session = match known {
            Some(session) => session,
            None => Box::pin(self.recall(id)).await?,
        };
        let now = self.clock.unix_ms();
        if session.ended.load(Ordering::Relaxed)
            || now >= session.expires_ms
            || *session.path != *path
            || session.caller != *caller
        {
            return Err(SessionError::Unknown);
        }
        session.last_used_ms.store(now, Ordering::Relaxed);
        Ok(session)
    }

    async fn recall(&self, id: &str) -> Result<Arc<Session>, SessionError> {
        let plain = self.sealer.open(PURPOSE, id).ok_or(SessionError::Unknown)?;
        let plain = Plain::from_bytes(&plain).ok_or(SessionError::Unknown)?;
        if plain.caller != Caller::anonymous().key().as_str() {
            return Err(SessionError::Unknown);
        }
        if self.count.load(Ordering::Relaxed) >= self.max.load(Ordering::Relaxed) {
            return Err(SessionError::TooMany);
        }
        // The one place where a request waits for the store: a session that this process has not
        // seen may have been ended, and only the store knows.
        let record = match tokio::time::timeout(LOAD_TIME, self.store.load(tag(id))).await {
            Ok(Ok(record)) => record.unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a session's record cannot be read; it is taken for untouched");
                SessionRecord::default()
            }
            Err(_) => {
                tracing::warn!("the store is too slow to tell of a session; it is taken for untouched");
                SessionRecord::default()
            }
        };
        if record.ended {
            return Err(SessionError::Unknown);
        }
        let session =
            self.make(id, plain.revision, plain.capabilities, Caller::anonymous(), plain.path, plain.issued_ms, record);
        session.recalled.store(true, Ordering::Relaxed);
        let session = self.insert(Arc::new(session));
        if session.has_subscriptions() {
            self.listen(&session);
        }
        Ok(session)
    }

    /// Ends a session for good: its id is dead although it still opens.
    pub(crate) fn end(&self, session: &Session) {
        session.ended.store(true, Ordering::Relaxed);
        let mut state = session.state();
        state.record = SessionRecord { ended: true, ..SessionRecord::default() };
        self.store.save(session.tag(), &state.record, session.expires_ms);
        drop(state);
        self.drop_from_memory(session);
        session.close();
    }

    /// Notes that a session was in use until now.
    pub(crate) fn touch(&self, session: &Session) {
        session.last_used_ms.store(self.clock.unix_ms(), Ordering::Relaxed);
    }

    /// Forgets what streams kept too long.
    pub(crate) fn expire_replays(&self) {
        for shard in &self.shards {
            let with_replay: Vec<_> = shard
                .lock()
                .expect("invariant: no panic under this lock")
                .values()
                .filter(|session| session.has_replay.load(Ordering::Relaxed))
                .cloned()
                .collect();
            for session in with_replay {
                session.expire_replay();
            }
        }
    }

    fn drop_from_memory(&self, session: &Session) {
        if self.shard(&session.id).remove(&session.id).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        self.listening.lock().expect("invariant: no panic under this lock").remove(&session.user);
        // What nobody can be told of any more is watched no longer. A session that comes back watches anew.
        let held = std::mem::take(&mut session.state().held);
        drop(held);
    }

    /// Notes that the session can be told things.
    pub(crate) fn listen(&self, session: &Arc<Session>) {
        let mut listening = self.listening.lock().expect("invariant: no panic under this lock");
        // One that has ended meanwhile would never be taken out again.
        if !session.ended.load(Ordering::Relaxed) {
            listening.insert(session.user, Arc::clone(session));
        }
    }

    /// Sessions that can be told things.
    pub(crate) fn listeners(&self) -> Vec<Arc<Session>> {
        self.listening.lock().expect("invariant: no panic under this lock").values().cloned().collect()
    }

    /// The session of a user number, if it can be told things.
    pub(crate) fn listener(&self, user: u64) -> Option<Arc<Session>> {
        self.listening.lock().expect("invariant: no panic under this lock").get(&user).cloned()
    }

    /// Changes a session's record and queues it for the store.
    pub(crate) fn change_record(&self, session: &Session, change: impl FnOnce(&mut SessionRecord)) {
        let mut state = session.state();
        // What a request changes that outlives its session must not take the place of the tombstone.
        if state.record.ended || session.is_fleeting() {
            return;
        }
        change(&mut state.record);
        // Queued under the lock, so that the store sees changes in their order.
        self.store.save(session.tag(), &state.record, session.expires_ms);
    }

    /// Forgets sessions that were not used for `idle`: the id stays good, only the memory is freed.
    pub(crate) fn sweep(&self, idle: Duration) {
        let now = self.clock.unix_ms();
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        for shard in &self.shards {
            let unused: Vec<_> = shard
                .lock()
                .expect("invariant: no panic under this lock")
                .values()
                .filter(|session| {
                    let since = now.saturating_sub(session.last_used_ms.load(Ordering::Relaxed));
                    now >= session.expires_ms || (since >= idle && session.calls() == 0 && !session.has_stream())
                })
                .cloned()
                .collect();
            for session in unused {
                self.drop_from_memory(&session);
                if now >= session.expires_ms {
                    // It cannot come back: what it still has open ends with it.
                    session.close();
                }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

fn tag(id: &str) -> &str {
    id.get(id.len().saturating_sub(22)..).unwrap_or(id)
}

/// What is sealed into an id.
struct Plain<'a> {
    revision: Revision,
    capabilities: CapabilitySet,
    issued_ms: u64,
    caller: &'a str,
    path: &'a str,
}

impl<'a> Plain<'a> {
    fn to_bytes(&self) -> Vec<u8> {
        let text = format!(
            "1\n{}\n{}\n{:x}\n{}\n{}",
            self.revision.as_str(),
            self.capabilities.key(),
            self.issued_ms,
            self.caller,
            self.path
        );
        text.into_bytes()
    }

    fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(bytes).ok()?.splitn(6, '\n');
        if parts.next() != Some("1") {
            return None;
        }
        Some(Self {
            revision: Revision::parse(parts.next()?)?,
            capabilities: CapabilitySet::from_key(parts.next()?)?,
            issued_ms: u64::from_str_radix(parts.next()?, 16).ok()?,
            caller: parts.next()?,
            path: parts.next()?,
        })
    }
}
