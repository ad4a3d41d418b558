//! Where a call's messages go when its client hears them as a stream.

use crate::answer::{comment, event};
use bytes::Bytes;
use tokio::sync::mpsc;

/// The client cannot be told anything any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// The gateway's end of a call's stream. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    out: mpsc::Sender<Bytes>,
}

impl Voice {
    /// A voice that is heard at the other end of `out`, as long as somebody reads there.
    pub(crate) fn new(out: mpsc::Sender<Bytes>) -> Self {
        Self { out }
    }

    /// Says a message. Waits while the client reads slowly.
    pub(crate) async fn say(&self, message: &[u8]) -> Result<(), Gone> {
        self.out.send(event(message)).await.map_err(|_| Gone)
    }

    /// Says nothing, so that the stream is not taken for dead.
    pub(crate) async fn keep_alive(&self) -> Result<(), Gone> {
        self.out.send(comment()).await.map_err(|_| Gone)
    }
}
