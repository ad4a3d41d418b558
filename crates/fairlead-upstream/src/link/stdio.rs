//! A child process that speaks newline-delimited JSON-RPC on stdin and stdout.
//!
//! One task owns the process: it reads what comes, writes what goes out, and ends with the link.

use crate::{
    event::End,
    link::{
        duplex::{Duplex, Outgoing, Sorter},
        inbound::Inbound,
        keeper::Keeper,
    },
};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_process::{
    Child, ChildSpec,
    lines::{LineReader, log_stderr},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
};

/// Lines of a server's stderr that are logged per second.
const STDERR_LINES_PER_SECOND: u32 = 50;
/// How long writing the last lines may take.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long a process that closed its output may take to end by itself.
const EXIT_WAIT: Duration = Duration::from_secs(1);

/// The transport of one child process.
pub(crate) struct StdioWire {
    pub(crate) duplex: Duplex,
    process_id: u32,
    /// Aborted, it drops the child, which ends its whole tree.
    keeper: Keeper,
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
        let (duplex, sorter, to_write) = Duplex::new(inbound, "its process ended");
        let (stop, stopped) = oneshot::channel();
        let keeper = tokio::spawn(keep(child, sorter, to_write, stopped, max_message, slot));
        Ok(Self { duplex, process_id, keeper: Keeper::new(stop, keeper) })
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        Some(self.process_id)
    }

    /// Stops the process: end of input, then TERM, then KILL, each after the grace period.
    pub(crate) async fn close(&self) {
        self.duplex.last_words("the gateway stops the server");
        self.keeper.stop().await;
    }
}

impl fmt::Debug for StdioWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdioWire")
            .field("process_id", &self.process_id)
            .field("junk", &self.duplex.junk_messages())
            .finish_non_exhaustive()
    }
}

/// Owns the process: reads, writes, and stops it.
async fn keep(
    child: Child,
    sorter: Sorter,
    mut to_write: mpsc::Receiver<Outgoing>,
    mut stopped: oneshot::Receiver<()>,
    max_message: usize,
    _slot: OwnedSemaphorePermit,
) {
    let Child { mut stdin, stdout, stderr, mut process } = child;
    let server = sorter.inbound().server.clone();
    let stderr_log = log_stderr(stderr, server.as_str(), STDERR_LINES_PER_SECOND);
    let writing = async move {
        while let Some(line) = to_write.recv().await {
            if line.is_end() {
                break;
            }
            let written = async {
                stdin.write_all(&line.bytes).await?;
                stdin.write_all(b"\n").await?;
                stdin.flush().await
            };
            if written.await.is_err() {
                break;
            }
        }
        drop(stdin);
    };
    let reading = async {
        if let Err(error) = sorter.read_lines(LineReader::new(stdout, max_message)).await {
            tracing::debug!(%server, %error, "reading the server's output failed");
        }
    };
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
    sorter.ended(reason, End::Died);
}
