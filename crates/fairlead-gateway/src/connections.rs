//! Looking after the open connections of one worker: one look a second at all of them, instead of a
//! timer that every request would have to set and clear.
//!
//! A connection ends when its first request does not come in time, when it was idle for long (a
//! request head that dawdles counts as idle), and when the worker stops.

use crate::{body::Body, ws_door::Upgrade};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use std::{
    collections::HashMap,
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

/// How often connections are looked at, which is also how exact their times are.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// The open connections of a worker.
#[derive(Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    /// Looks so far: the clock of everything here.
    looks: Arc<AtomicU64>,
}

/// One connection.
pub(crate) struct Connection {
    looks: Arc<AtomicU64>,
    /// When it last had something to do.
    since: AtomicU64,
    /// Requests whose answers are not sent in full yet.
    busy: AtomicUsize,
    served: AtomicBool,
    end: AtomicBool,
    wake: AtomicWaker,
    /// What it becomes when it leaves HTTP.
    upgrade: Mutex<Option<Box<Upgrade>>>,
}

/// A connection's place in the table, for as long as it lives.
pub(crate) struct Entered {
    connections: Arc<Connections>,
    key: u64,
    pub(crate) connection: Arc<Connection>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.key);
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().expect("invariant: no panic under this lock")
    }

    /// Enters a connection, unless there are `limit` already.
    pub(crate) fn enter(self: &Arc<Self>, limit: usize) -> Option<Entered> {
        let mut open = self.lock();
        if open.len() >= limit {
            return None;
        }
        let connection = Arc::new(Connection {
            looks: Arc::clone(&self.looks),
            since: AtomicU64::new(self.looks.load(Ordering::Relaxed)),
            busy: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            end: AtomicBool::new(false),
            wake: AtomicWaker::new(),
            upgrade: Mutex::default(),
        });
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(key, Arc::clone(&connection));
        Some(Entered { connections: Arc::clone(self), key, connection })
    }

    /// Ends what was idle for too long; called every [`LOOK`].
    pub(crate) fn look(&self, header_timeout: Duration, idle_timeout: Duration) {
        let now = self.looks.fetch_add(1, Ordering::Relaxed) + 1;
        for connection in self.lock().values() {
            if connection.is_busy() {
                continue;
            }
            let allowed = if connection.served.load(Ordering::Relaxed) { idle_timeout } else { header_timeout };
            let idle = LOOK * u32::try_from(now - connection.since.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
            if idle > allowed {
                connection.end();
            }
        }
    }

    /// Ends all: those that are busy once they have answered.
    pub(crate) fn stop(&self) {
        for connection in self.lock().values() {
            connection.end();
        }
    }
}

impl Connection {
    /// A request came in.
    pub(crate) fn request(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.served.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Waits until the connection is to end.
    pub(crate) async fn ended(&self) {
        poll_fn(|context| {
            self.wake.register(context.waker());
            if self.end.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Keeps what the connection becomes until HTTP is done with it.
    pub(crate) fn upgrade(&self, upgrade: Upgrade) {
        *self.upgrade.lock().expect("invariant: no panic under this lock") = Some(Box::new(upgrade));
    }

    /// What the connection becomes now that HTTP is done with it, if anything.
    pub(crate) fn take_upgrade(&self) -> Option<Box<Upgrade>> {
        self.upgrade.lock().expect("invariant: no panic under this lock").take()
    }

    fn end(&self) {
        self.end.store(true, Ordering::Release);
        self.wake.wake();
    }

    fn answered(&self) {
        self.since.store(self.looks.load(Ordering::Relaxed), Ordering::Relaxed);
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer on its way: when it is sent, or given up, the request is over.
pub(crate) struct Answer {
    body: Body,
    connection: Arc<Connection>,
}

impl Answer {
    pub(crate) fn new(body: Body, connection: Arc<Connection>) -> Self {
        Self { body, connection }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.answered();
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_told_to_end(connection: &Connection) -> bool {
        tokio::time::timeout(Duration::ZERO, connection.ended()).await.is_ok()
    }

    #[tokio::test]
    async fn what_is_idle_too_long_ends_and_what_is_busy_does_not() {
        let connections = Arc::new(Connections::default());
        let (head, idle) = (Duration::from_secs(2), Duration::from_secs(4));
        let silent = connections.enter(9).expect("room");
        let busy = connections.enter(9).expect("room");
        busy.connection.request();
        let used = connections.enter(9).expect("room");
        used.connection.request();
        drop(Answer::new(Body::empty(), Arc::clone(&used.connection)));
        let mut ended = Vec::new();
        for second in 1..=8 {
            connections.look(head, idle);
            for (name, entered) in [("silent", &silent), ("busy", &busy), ("used", &used)] {
                if is_told_to_end(&entered.connection).await && !ended.iter().any(|(other, _)| *other == name) {
                    ended.push((name, second));
                }
            }
        }
        assert_eq!(ended, [("silent", 3), ("used", 5)]);
        connections.stop();
        assert!(is_told_to_end(&busy.connection).await && busy.connection.is_busy());
        drop((silent, used));
        assert!(connections.enter(2).is_some() && connections.enter(1).is_none());
    }
}
