//! What goes to the client: whole messages, one per line, from many tasks in turn.

use bytes::{BufMut, Bytes, BytesMut};
use fairlead_wire::{edit, message};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
};

/// Messages that wait for a client that does not read. Then the gateway waits, too.
const QUEUE: usize = 256;
/// Messages written at once, in bytes, before the client is shown them.
const BATCH: usize = 64 << 10;

/// Where messages for the client go. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox(mpsc::Sender<Bytes>);

impl Outbox {
    /// An outbox and the task that writes what is put into it. The task ends when every clone is gone, or the client is.
    pub(super) fn new(output: impl AsyncWrite + Unpin + Send + 'static) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), tokio::spawn(write(output, receiver)))
    }

    /// Sends a message. A client that is gone gets nothing.
    pub(super) async fn send(&self, message: &Bytes) {
        let _ = self.0.send(edit::single_line(message)).await;
    }

    /// Answers a request (or, without an id, a text that was none) with an error.
    pub(super) async fn refuse(&self, id: Option<&str>, code: i64, text: &str) {
        self.send(&message::error(id, code, text, None)).await;
    }

    /// Returns when the client does not take messages any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut messages: mpsc::Receiver<Bytes>) {
    let mut batch = BytesMut::new();
    while let Some(message) = messages.recv().await {
        let mut next = Some(message);
        while let Some(message) = next {
            batch.put_slice(&message);
            batch.put_u8(b'\n');
            next = if batch.len() < BATCH { messages.try_recv().ok() } else { None };
        }
        if output.write_all(&batch).await.is_err() || output.flush().await.is_err() {
            return;
        }
        batch.clear();
    }
}
