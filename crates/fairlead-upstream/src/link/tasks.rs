//! The tasks that live on a link: as long as one runs, the link is not the one that makes room for another.
//!
//! A process or a session takes its tasks with it. So the link notes which began on it and hears, from whatever
//! the server says of them, when they are over. A client that never asks leaves a task running as far as anybody
//! knows: until the time is over that it was to be kept for.

use fairlead_wire::{Field, Frame, Kind, list};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Tasks of one link that are known at the same time; further ones run unnoted.
const MAX_TASKS: usize = 10_000;
/// How long the outcome of a task that is over is waited for: its client has just been told that there is one.
const FETCH: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// Until when each is taken to run, by the server's id of it.
    running: Mutex<HashMap<Arc<str>, Instant>>,
    /// There was one: what most links never have costs them one look.
    any: AtomicBool,
}

impl Tasks {
    fn running(&self) -> MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.running.lock().expect("invariant: no panic under this lock")
    }

    /// A task began, and is kept for `time`.
    pub(crate) fn begin(&self, own: &str, time: Duration) {
        let now = Instant::now();
        let mut running = self.running();
        if running.len() >= MAX_TASKS {
            running.retain(|_, until| *until > now);
        }
        if running.len() < MAX_TASKS {
            // A time too long to be added up is as good as for ever.
            let until = now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)));
            running.insert(own.into(), until);
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// A task is over, and its outcome is with its client.
    pub(crate) fn end(&self, own: &str) {
        self.running().remove(own);
    }

    /// The server said how a task is: its `tasks/get`, `tasks/cancel`, or the notification.
    pub(crate) fn heard(&self, frame: &Frame) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let object = match frame.kind() {
            Kind::Result => frame.raw(Field::Result),
            Kind::Notification => frame.raw(Field::Params),
            Kind::Error | Kind::Request => None,
        };
        let Some(object) = object else { return };
        let status = list::string_member(object, "status");
        let Some(own) = list::string_member(object, "taskId") else { return };
        match status.as_deref() {
            Some("completed" | "failed") => {
                let until = Instant::now() + FETCH;
                if let Some(before) = self.running().get_mut(&*own) {
                    *before = until.min(*before);
                }
            }
            Some("cancelled") => self.end(&own),
            _ => {}
        }
    }

    /// How many run.
    pub(crate) fn len(&self) -> usize {
        if !self.any.load(Ordering::Relaxed) {
            return 0;
        }
        let now = Instant::now();
        let mut running = self.running();
        running.retain(|_, until| *until > now);
        running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::Limits;

    fn frame(text: &str) -> Frame {
        Frame::parse(bytes::Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).unwrap()
    }

    fn status(own: &str, status: &str) -> Frame {
        frame(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"taskId":"{own}","status":"{status}"}}}}"#))
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_runs_until_it_is_known_to_be_over_or_its_time_is() {
        let tasks = Tasks::default();
        for own in ["a", "b", "c", "d"] {
            tasks.begin(own, Duration::from_secs(60));
        }
        tasks.begin("for ever", Duration::from_millis(u64::MAX));
        tasks.heard(&status("a", "working"));
        tasks.heard(&status("unknown", "completed"));
        assert_eq!(tasks.len(), 5);
        tasks.heard(&status("b", "cancelled"));
        tasks.end("c");
        assert_eq!(tasks.len(), 3);
        let notice =
            r#"{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"d","status":"failed"}}"#;
        tasks.heard(&frame(notice));
        assert_eq!(tasks.len(), 3, "its outcome may still be fetched");
        tokio::time::advance(FETCH).await;
        assert_eq!(tasks.len(), 2);
        // Heard of late, it lives no longer for it.
        tokio::time::advance(Duration::from_secs(45)).await;
        tasks.heard(&status("a", "completed"));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(tasks.len(), 1);
    }
}
