//! The body of a response that listens to a stream: what was said after the client's last event, then
//! what is said from now on. Dropping it ends nothing but the listening.

use super::{Place, Replay};
use crate::{gateway::Gateway, session::Session};
use bytes::Bytes;
use futures_util::Stream;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// See the module.
pub(super) struct Listener {
    gateway: Gateway,
    session: Arc<Session>,
    replay: Arc<Replay>,
    key: u64,
    /// Which listener of the stream this is: a later one takes its place.
    generation: u64,
    opening: Option<Bytes>,
    every: Duration,
    quiet: Pin<Box<Sleep>>,
}

impl Listener {
    pub(super) fn new(
        gateway: &Gateway,
        session: &Arc<Session>,
        place: &Place,
        generation: u64,
        opening: Option<Bytes>,
    ) -> Self {
        let every = gateway.config().listen.keep_alive;
        Self {
            gateway: gateway.clone(),
            session: Arc::clone(session),
            replay: Arc::clone(&place.replay),
            key: place.key,
            generation,
            opening,
            every,
            quiet: Box::pin(sleep(every)),
        }
    }

    fn spoke(&mut self) {
        let next = Instant::now() + self.every;
        self.quiet.as_mut().reset(next);
    }
}

impl Stream for Listener {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(opening));
        }
        let next = self.replay.lock().next(self.key, self.generation, context.waker());
        if let Poll::Ready(next) = next {
            if next.is_some() {
                self.spoke();
            }
            return Poll::Ready(next);
        }
        if self.quiet.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.spoke();
        // Registers the timer anew.
        let _ = self.quiet.as_mut().poll(context);
        Poll::Ready(Some(crate::answer::comment()))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.gateway.sessions().touch(&self.session);
        self.replay.lock().detach(self.key, self.generation);
    }
}
