//! Where a call's messages go when its client hears them as a stream.

use crate::{
    answer::{comment, event},
    replay::Place,
};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;

/// The client cannot be told anything any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// The gateway's end of a call's stream. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    out: Out,
}

#[derive(Debug, Clone)]
enum Out {
    /// Whoever reads the response.
    Reader(mpsc::Sender<Bytes>),
    /// A stream that outlives its connection.
    Kept(Place),
}

impl Voice {
    /// A voice that is heard at the other end of `out`, as long as somebody reads there.
    pub(crate) fn new(out: mpsc::Sender<Bytes>) -> Self {
        Self { out: Out::Reader(out) }
    }

    /// A voice that is heard by whoever listens, and kept for who comes back.
    pub(crate) fn kept(place: Place) -> Self {
        Self { out: Out::Kept(place) }
    }

    /// Says a message. Waits while the client reads slowly.
    pub(crate) async fn say(&self, message: &[u8]) -> Result<(), Gone> {
        match &self.out {
            Out::Reader(out) => out.send(event(message)).await.map_err(|_| Gone),
            Out::Kept(place) => place.say(message).await,
        }
    }

    /// Says nothing, so that the stream is not taken for dead. (Who listens to a stream that is kept
    /// sees to that himself.)
    pub(crate) async fn keep_alive(&self) -> Result<(), Gone> {
        match &self.out {
            Out::Reader(out) => out.send(comment()).await.map_err(|_| Gone),
            Out::Kept(_) => Ok(()),
        }
    }

    /// Ends the connection where the stream goes on without one: the client is to come back for the
    /// rest.
    pub(crate) fn hang_up(&self, retry: Duration) {
        if let Out::Kept(place) = &self.out {
            place.hang_up(retry);
        }
    }
}
