//! The core tasks of revision 2025-11-25: a table of calls that go on after they were answered.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::sync::watch;

/// Tasks kept; the oldest are forgotten.
const MAX_TASKS: usize = 1_000;
/// A moment; nobody measures with it.
const MOMENT: &str = "2026-01-01T00:00:00Z";

struct Task {
    status: &'static str,
    ttl: Value,
    /// The raw result, once there is one.
    result: Option<String>,
}

/// See the module.
pub(crate) struct Tasks {
    table: Mutex<BTreeMap<u64, Task>>,
    next: AtomicU64,
    changed: watch::Sender<()>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { table: Mutex::default(), next: AtomicU64::new(1), changed: watch::Sender::new(()) }
    }
}

impl Tasks {
    fn edit<T>(&self, edit: impl FnOnce(&mut BTreeMap<u64, Task>) -> T) -> T {
        let value = edit(&mut self.table.lock().expect("invariant: nobody panics while holding the tasks"));
        self.changed.send_replace(());
        value
    }

    /// Begins a task and returns its id.
    pub(crate) fn begin(&self, ttl: Value) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.edit(|table| {
            if table.len() >= MAX_TASKS {
                table.pop_first();
            }
            table.insert(number, Task { status: "working", ttl, result: None });
        });
        format!("task-{number}")
    }

    /// Ends a task that still runs.
    pub(crate) fn end(&self, id: &str, status: &'static str, result: Option<String>) -> bool {
        self.edit(|table| match number(id).and_then(|number| table.get_mut(&number)) {
            Some(task) if task.status == "working" => {
                (task.status, task.result) = (status, result);
                true
            }
            _ => false,
        })
    }

    /// The `Task` object.
    pub(crate) fn describe(&self, id: &str) -> Option<Value> {
        let table = self.table.lock().expect("invariant: nobody panics while holding the tasks");
        number(id).and_then(|number| table.get(&number)).map(|task| task.describe(id))
    }

    /// All tasks, oldest first.
    pub(crate) fn list(&self) -> Value {
        let table = self.table.lock().expect("invariant: nobody panics while holding the tasks");
        let tasks: Vec<_> = table.iter().map(|(number, task)| task.describe(&format!("task-{number}"))).collect();
        json!({"tasks": tasks})
    }

    /// Waits for the end of a task; the raw result, or `None` when it has none or does not exist.
    pub(crate) async fn result(&self, id: &str) -> Option<String> {
        let number = number(id)?;
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            {
                let table = self.table.lock().expect("invariant: nobody panics while holding the tasks");
                let task = table.get(&number)?;
                if task.status != "working" {
                    return task.result.clone();
                }
            }
            changed.changed().await.ok()?;
        }
    }
}

impl Task {
    fn describe(&self, id: &str) -> Value {
        json!({
            "taskId": id,
            "status": self.status,
            "createdAt": MOMENT,
            "lastUpdatedAt": MOMENT,
            "ttl": self.ttl,
            "pollInterval": 50,
        })
    }
}

fn number(id: &str) -> Option<u64> {
    id.strip_prefix("task-")?.parse().ok()
}
