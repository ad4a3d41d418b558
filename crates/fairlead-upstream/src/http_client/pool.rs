//! The pool of connections to one server.
//!
//! There is one per worker, used by the worker that its connections are driven by; where a server may have only so
//! many connections in all, there is one for all workers, so that the bound is exact. Taking an idle connection is a
//! pop and giving it back a push, under a lock that is never held across an await.
//!
//! Who finds none idle waits in line, and a connection is opened for him if one may be. Whatever comes first, one
//! given back or one just opened, goes to whoever has waited longest.
//!
//! An HTTP/2 server gets one connection, which all calls share.

use super::{
    connect::{self, Body, ConnectError, Opened},
    counts::{Closed, Counts, PoolStats},
    reach::Reach,
    request::PoolError,
};
use fairlead_config::{Connections, Evict, Reuse};
use http::Uri;
use hyper::client::conn::{http1, http2};
use std::{
    collections::VecDeque,
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, timeout},
};

/// Shortest and longest rest before a connection is opened ahead again after an attempt that failed.
const WARM_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a connection may take to be ready again once its answer was read.
const SETTLE: Duration = Duration::from_millis(500);

/// What a pool holds itself to.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) connections: Connections,
    /// How long opening a connection may take.
    pub(super) connect: Duration,
    /// Whether compressed answers are decoded.
    pub(super) decodes: bool,
}

/// See the module.
pub(crate) struct Pool {
    rules: Rules,
    reach: Reach,
    pub(super) server: Uri,
    state: Mutex<State>,
    counts: Counts,
    /// Connections that are not ready yet. Under a lock of its own: they take the other one when they are dropped.
    settling: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    /// The least recently used first.
    idle: VecDeque<Conn>,
    shared: Option<Shared>,
    /// What the server agreed on the last time.
    speaks_http2: bool,
    open: usize,
    connecting: usize,
    waiting: VecDeque<oneshot::Sender<Result<Taken, ConnectError>>>,
    /// Attempts to connect.
    tasks: JoinSet<()>,
    /// When to open connections ahead again, and how long to rest if that fails.
    warm_after: Option<(Instant, Duration)>,
    /// For what is decided by chance.
    dice: u64,
}

/// A connection of HTTP/1.1.
pub(super) struct Conn {
    pub(super) sender: http1::SendRequest<Body>,
    pub(super) uses: u32,
    opened: Instant,
    expires: Option<Instant>,
    rested: Instant,
    /// How long it may rest: the server may keep it for less time than we would.
    pub(super) keep: Duration,
}

/// The connection of HTTP/2.
struct Shared {
    sender: http2::SendRequest<Body>,
    number: u64,
    used: Instant,
    expires: Option<Instant>,
}

/// The right to send a request.
pub(super) enum Taken {
    Own(Held),
    Shared {
        sender: http2::SendRequest<Body>,
        /// Which connection it is, for [`Pool::forget`].
        number: u64,
        /// Nobody used it before.
        fresh: bool,
    },
}

/// A connection taken for one call. It goes back to the pool when it is ready for another, and is closed if it is
/// dropped before.
pub(super) struct Held {
    pool: Arc<Pool>,
    conn: Option<Conn>,
}

impl Pool {
    pub(super) fn new(reach: Reach, server: Uri, rules: Rules) -> Arc<Self> {
        let state = State { dice: RandomState::new().hash_one(()) | 1, ..State::default() };
        Arc::new(Self {
            rules,
            reach,
            server,
            state: Mutex::new(state),
            counts: Counts::default(),
            settling: Mutex::default(),
        })
    }

    /// Whether compressed answers are decoded.
    pub(super) fn decodes(&self) -> bool {
        self.rules.decodes
    }

    /// A connection: an idle one, or whatever comes first of one given back and a new one.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Taken, PoolError> {
        loop {
            let now = Instant::now();
            match self.take(now) {
                Some(Taken::Own(held)) if held.rested_for(now) > self.rules.connections.validate_after => {
                    // The scheduler asks the system for news before it comes back here, so that a connection whose
                    // server hung up meanwhile is known to be closed.
                    tokio::task::yield_now().await;
                    if held.is_ready() {
                        return Ok(Taken::Own(held));
                    }
                    held.close(Closed::Ended);
                }
                Some(taken) => return Ok(taken),
                None => return self.wait().await,
            }
        }
    }

    fn take(self: &Arc<Self>, now: Instant) -> Option<Taken> {
        self.take_from(&mut self.state(), now)
    }

    fn take_from(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Taken> {
        loop {
            let conn = match self.rules.connections.reuse {
                Reuse::Newest => state.idle.pop_back(),
                Reuse::Oldest => state.idle.pop_front(),
            };
            let Some(conn) = conn else { break };
            match conn.unfit(now) {
                Some(why) if why != Closed::Idle || !self.is_kept_ready(&conn) => self.closed(state, conn, why),
                _ => return Some(Taken::Own(Held { pool: Arc::clone(self), conn: Some(conn) })),
            }
        }
        self.shared(state, now)
    }

    fn shared(&self, state: &mut State, now: Instant) -> Option<Taken> {
        let shared = state.shared.as_mut()?;
        let why = if shared.sender.is_closed() {
            Closed::Ended
        } else if shared.expires.is_some_and(|at| at <= now) {
            Closed::Lifetime
        } else {
            shared.used = now;
            return Some(Taken::Shared { sender: shared.sender.clone(), number: shared.number, fresh: false });
        };
        // Its requests in flight are finished on it; it ends with the last.
        self.drop_shared(state, why);
        None
    }

    fn drop_shared(&self, state: &mut State, why: Closed) {
        if state.shared.take().is_some() {
            state.open = state.open.saturating_sub(1);
            self.counts.closed(why);
        }
    }

    /// The shared connection refused a request before it was sent: it is not used again.
    pub(super) fn forget(&self, number: u64) {
        let mut state = self.state();
        if state.shared.as_ref().is_some_and(|shared| shared.number == number) {
            self.drop_shared(&mut state, Closed::Ended);
        }
    }

    async fn wait(self: &Arc<Self>) -> Result<Taken, PoolError> {
        let limit = self.rules.connections.acquire_timeout;
        let receiver = {
            let mut state = self.state();
            // Another thread may have given one back since.
            if let Some(taken) = self.take_from(&mut state, Instant::now()) {
                return Ok(taken);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            self.open_for_waiting(&mut state);
            receiver
        };
        match timeout(limit, receiver).await {
            Ok(Ok(taken)) => taken.map_err(PoolError::Connect),
            Ok(Err(_)) => Err(PoolError::Gone),
            Err(_) => {
                self.counts.timed_out();
                Err(PoolError::AcquireTimeout(limit))
            }
        }
    }

    /// Opens connections for those who wait, as far as that is allowed.
    fn open_for_waiting(self: &Arc<Self>, state: &mut State) {
        while state.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            state.waiting.pop_front();
        }
        // One is enough for everybody where it can be shared.
        let wanted = if state.speaks_http2 { state.waiting.len().min(1) } else { state.waiting.len() };
        while state.connecting < wanted && self.may_open(state) {
            if !self.open(state) {
                return;
            }
        }
    }

    fn may_open(&self, state: &State) -> bool {
        self.rules.connections.max.is_none_or(|max| state.open + state.connecting < max)
    }

    /// Begins to open a connection; `false` when there is no runtime (any more) that could.
    fn open(self: &Arc<Self>, state: &mut State) -> bool {
        let Ok(runtime) = Handle::try_current() else { return false };
        while state.tasks.try_join_next().is_some() {}
        let connecting = connect::connect(self.reach.clone(), self.server.clone(), self.rules.connect);
        let pool = Arc::downgrade(self);
        state.connecting += 1;
        state.tasks.spawn_on(
            async move {
                let opened = connecting.await;
                if let Some(pool) = Weak::upgrade(&pool) {
                    pool.connected(opened);
                }
            },
            &runtime,
        );
        true
    }

    fn connected(self: &Arc<Self>, opened: Result<Opened, ConnectError>) {
        let mut state = self.state();
        state.connecting -= 1;
        match opened {
            Ok(Opened::Http1(sender)) => {
                let now = Instant::now();
                let expires = self.expiry(&mut state, now);
                let keep = self.rules.connections.idle_timeout;
                let was_shared = state.speaks_http2;
                self.noted(&mut state, false);
                if was_shared {
                    // One was to be enough for all who wait.
                    self.open_for_waiting(&mut state);
                }
                self.put(state, Conn { sender, uses: 0, opened: now, expires, rested: now, keep });
            }
            Ok(Opened::Http2(sender)) => self.share(&mut state, sender),
            Err(error) => self.failed(&mut state, &error),
        }
    }

    fn noted(&self, state: &mut State, speaks_http2: bool) {
        state.open += 1;
        state.warm_after = None;
        state.speaks_http2 = speaks_http2;
        self.counts.opened();
    }

    fn share(&self, state: &mut State, sender: http2::SendRequest<Body>) {
        let now = Instant::now();
        let lives = state.shared.as_ref().is_some_and(|shared| !shared.sender.is_closed());
        self.noted(state, true);
        if lives {
            // Several were opened before it was known that one is enough.
            state.open -= 1;
            self.counts.closed(Closed::Surplus);
        } else {
            self.drop_shared(state, Closed::Ended);
            let expires = self.expiry(state, now);
            let number = chance(&mut state.dice);
            state.shared = Some(Shared { sender, number, used: now, expires });
        }
        while let Some(waiting) = state.waiting.pop_front() {
            let Some(Shared { sender, number, .. }) = &state.shared else { return };
            let taken = Taken::Shared { sender: sender.clone(), number: *number, fresh: true };
            let _ = waiting.send(Ok(taken));
        }
    }

    fn failed(self: &Arc<Self>, state: &mut State, error: &ConnectError) {
        self.counts.failed();
        let rest = state.warm_after.map_or(WARM_RETRY.0, |(_, rest)| (rest * 2).min(WARM_RETRY.1));
        state.warm_after = Some((Instant::now() + rest, rest));
        // With nothing open and nothing else tried, there is nothing to wait for. Else the others may yet be lucky.
        let hopeless = state.open == 0 && state.connecting == 0;
        let told = if hopeless { usize::MAX } else { state.waiting.len().saturating_sub(state.connecting).min(1) };
        for waiting in std::iter::from_fn(|| state.waiting.pop_front()).take(told) {
            let _ = waiting.send(Err(error.clone()));
        }
        self.open_for_waiting(state);
    }

    /// When a connection has been used long enough.
    fn expiry(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let lifetime = self.rules.connections.max_lifetime?;
        let less = lifetime / 10 / 1000 * u32::try_from(chance(&mut state.dice) % 1000).unwrap_or(0);
        Some(now + lifetime - less)
    }

    /// Gives a connection that is ready to whoever waits longest, or lets it rest.
    fn put(self: &Arc<Self>, mut state: MutexGuard<'_, State>, mut conn: Conn) {
        let now = Instant::now();
        if conn.expires.is_some_and(|at| at <= now) {
            return self.closed(&mut state, conn, Closed::Lifetime);
        }
        while let Some(waiting) = state.waiting.pop_front() {
            let held = Held { pool: Arc::clone(self), conn: Some(conn) };
            match waiting.send(Ok(Taken::Own(held))) {
                Ok(()) => return,
                // He does not wait any more.
                Err(Ok(Taken::Own(mut held))) => match held.conn.take() {
                    Some(unused) => conn = unused,
                    None => return,
                },
                Err(_) => return,
            }
        }
        conn.rested = now;
        state.idle.push_back(conn);
        if state.idle.len() > self.rules.connections.max_idle {
            let surplus = self.surplus(&mut state);
            if let Some(conn) = state.idle.remove(surplus) {
                self.closed(&mut state, conn, Closed::Surplus);
            }
        }
    }

    /// Which of the idle connections is given up.
    fn surplus(&self, state: &mut State) -> usize {
        let place = |found: Option<(usize, &Conn)>| found.map_or(0, |(place, _)| place);
        match self.rules.connections.evict {
            Evict::Lru => 0,
            Evict::Fifo => place(state.idle.iter().enumerate().min_by_key(|(_, conn)| conn.opened)),
            Evict::Lfu => place(state.idle.iter().enumerate().min_by_key(|(_, conn)| conn.uses)),
            Evict::Random => {
                let at = chance(&mut state.dice) % state.idle.len().max(1) as u64;
                usize::try_from(at).unwrap_or(0)
            }
        }
    }

    /// Notes that a connection is closed: another may take its place.
    fn closed(self: &Arc<Self>, state: &mut State, conn: Conn, why: Closed) {
        drop(conn);
        state.open = state.open.saturating_sub(1);
        self.counts.closed(why);
        if !state.waiting.is_empty() {
            self.open_for_waiting(state);
        }
    }

    /// Whether a connection stays for the sake of `min_idle` although it rested long: [`Pool::tend`] counts them.
    fn is_kept_ready(&self, conn: &Conn) -> bool {
        let rules = &self.rules.connections;
        // Its server does not close it earlier.
        rules.min_idle > 0 && conn.keep == rules.idle_timeout
    }

    /// Closes what has rested or lived too long, and opens connections ahead. Called about once a second by the
    /// worker whose pool it is.
    pub(super) fn tend(self: &Arc<Self>) {
        let now = Instant::now();
        let min = self.rules.connections.min_idle;
        let mut state = self.state();
        while state.tasks.try_join_next().is_some() {}
        for _ in 0..state.idle.len() {
            // Each once, in the order they rest in; what stays is put back at the other end.
            let Some(conn) = state.idle.pop_front() else { break };
            match conn.unfit(now) {
                Some(Closed::Idle) if state.idle.len() < min && self.is_kept_ready(&conn) => {
                    state.idle.push_back(conn);
                }
                Some(why) => self.closed(&mut state, conn, why),
                None => state.idle.push_back(conn),
            }
        }
        self.tend_shared(&mut state, now);
        if min == 0 || state.warm_after.is_some_and(|(at, _)| at > now) {
            return;
        }
        let missing = if state.speaks_http2 {
            usize::from(state.shared.is_none() && state.connecting == 0)
        } else {
            min.saturating_sub(state.idle.len() + state.connecting)
        };
        for _ in 0..missing {
            if !self.may_open(&state) || !self.open(&mut state) {
                break;
            }
        }
    }

    fn tend_shared(&self, state: &mut State, now: Instant) {
        let Some(shared) = &state.shared else { return };
        let rules = &self.rules.connections;
        let why = if shared.sender.is_closed() {
            Closed::Ended
        } else if shared.expires.is_some_and(|at| at <= now) {
            Closed::Lifetime
        } else if rules.min_idle == 0 && now.saturating_duration_since(shared.used) > rules.idle_timeout {
            Closed::Idle
        } else {
            return;
        };
        self.drop_shared(state, why);
    }

    pub(super) fn add_to(&self, stats: &mut PoolStats) {
        let state = self.state();
        stats.open += state.open;
        stats.idle += state.idle.len();
        stats.connecting += state.connecting;
        stats.waiting += state.waiting.iter().filter(|waiting| !waiting.is_closed()).count();
        drop(state);
        self.counts.add_to(stats);
    }

    /// Has a task finish what would make a connection usable again. It ends with the pool.
    fn later(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut settling = self.settling.lock().expect("invariant: no panic under this lock");
        while settling.try_join_next().is_some() {}
        settling.spawn_on(work, &runtime);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under this lock")
    }
}

/// The next number of a sequence that looks random (xorshift).
fn chance(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice
}

impl Conn {
    /// Why it must not be used, if so.
    fn unfit(&self, now: Instant) -> Option<Closed> {
        if !self.sender.is_ready() {
            Some(Closed::Ended)
        } else if self.expires.is_some_and(|at| at <= now) {
            Some(Closed::Lifetime)
        } else if now.saturating_duration_since(self.rested) > self.keep {
            Some(Closed::Idle)
        } else {
            None
        }
    }
}

impl Held {
    pub(super) fn conn(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("invariant: taken out only when it is given up")
    }

    fn rested_for(&self, now: Instant) -> Duration {
        self.conn.as_ref().map_or(Duration::ZERO, |conn| now.saturating_duration_since(conn.rested))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.sender.is_ready())
    }

    /// Notes that it cannot be used any more.
    pub(super) fn close(mut self, why: Closed) {
        self.end(why);
    }

    fn end(&mut self, why: Closed) {
        if let Some(conn) = self.conn.take() {
            let mut state = self.pool.state();
            self.pool.closed(&mut state, conn, why);
        }
    }

    /// Gives it back once its answer was read to the end.
    pub(super) fn settle(mut self) {
        if self.is_ready() {
            return;
        }
        if self.conn().sender.is_closed() {
            return self.end(Closed::Ended);
        }
        // Its task still has to notice that the answer is over.
        let pool = Arc::clone(&self.pool);
        pool.later(async move {
            if !matches!(timeout(SETTLE, self.conn().sender.ready()).await, Ok(Ok(()))) {
                self.end(Closed::Ended);
            }
        });
    }

    /// Has `rest` read what is left of its answer, then gives it back.
    pub(super) fn settle_after(self, rest: impl Future<Output = bool> + Send + 'static) {
        let pool = Arc::clone(&self.pool);
        pool.later(async move {
            if rest.await {
                self.settle();
            }
        });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_ready() {
            return self.end(Closed::Abandoned);
        }
        if let Some(conn) = self.conn.take() {
            let state = self.pool.state();
            self.pool.put(state, conn);
        }
    }
}

#[cfg(test)]
mod tests;
