//! The task that keeps a process or a connection, and the way to tell it to stop.

use std::sync::Mutex;
use tokio::{sync::oneshot, task::JoinHandle};

/// The owner of the task: it stops it, or aborts it when dropped.
pub(super) struct Keeper {
    stop: Mutex<Option<oneshot::Sender<()>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// `task` ends soon after something is sent on `stop`.
    pub(super) fn new(stop: oneshot::Sender<()>, task: JoinHandle<()>) -> Self {
        Self { stop: Mutex::new(Some(stop)), task: Mutex::new(Some(task)) }
    }

    /// Tells the task to stop and waits for its end.
    pub(super) async fn stop(&self) {
        let stop = self.stop.lock().expect("invariant: no panic under this lock").take();
        if let Some(stop) = stop {
            let _ = stop.send(());
        }
        let task = self.task.lock().expect("invariant: no panic under this lock").take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Ok(mut task) = self.task.lock()
            && let Some(task) = task.take()
        {
            task.abort();
        }
    }
}
