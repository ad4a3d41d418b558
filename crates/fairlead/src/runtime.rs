//! The runtimes: one for control, one per worker.

use crate::failure::Failure;
use fairlead_core::Code;
use std::{future::Future, time::Duration};

/// How long blocking work (a read from a terminal, say) may hold up the end of the program.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// Runs a command on the control runtime: one worker thread called `control`.
pub(crate) fn control<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Internal, "cannot start the runtime").because(&error))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(SHUTDOWN);
    outcome
}
