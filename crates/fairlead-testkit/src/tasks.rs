//! Tasks of both kinds, the core ones of revision 2025-11-25 and the extension of 2026-07-28: a table of calls that go on
//! after they were answered.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::{answer::Refusal, session::Outlet};

/// Tasks kept; the oldest are forgotten.
const MAX_TASKS: usize = 1_000;
/// A moment; nobody measures with it.
const MOMENT: &str = "2026-01-01T00:00:00Z";

struct Task {
    status: &'static str,
    ttl: Value,
    /// What came of it: the raw result, or an error.
    outcome: Option<Result<String, Refusal>>,
    questions: Vec<Question>,
    asked: usize,
}

/// A question that was not answered yet.
struct Question {
    key: String,
    /// The request as a legacy client gets it; taken when it is sent.
    frame: Option<String>,
    /// `{"method", "params"}`.
    request: Value,
    /// Where a modern client's answer goes.
    answer: Option<oneshot::Sender<Value>>,
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

    fn edit_one<T>(&self, id: &str, edit: impl FnOnce(&mut Task) -> T) -> Option<T> {
        self.edit(|table| number(id).and_then(|number| table.get_mut(&number)).map(edit))
    }

    /// Begins a task and returns its id.
    pub(crate) fn begin(&self, ttl: Value) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.edit(|table| {
            if table.len() >= MAX_TASKS {
                table.pop_first();
            }
            let task = Task { status: "working", ttl, outcome: None, questions: Vec::new(), asked: 0 };
            table.insert(number, task);
        });
        format!("task-{number}")
    }

    /// Ends a task that is not over.
    pub(crate) fn end(&self, id: &str, status: &'static str, outcome: Option<Result<String, Refusal>>) -> bool {
        let ended = self.edit_one(id, |task| {
            let goes_on = matches!(task.status, "working" | "input_required");
            if goes_on {
                (task.status, task.outcome) = (status, outcome);
                task.questions.clear();
            }
            goes_on
        });
        ended.unwrap_or(false)
    }

    /// Notes that a task wants input. `frame` is the request for a legacy client; the receiver gets the answer of a
    /// modern one.
    pub(crate) fn ask(&self, id: &str, frame: Option<String>, request: Value) -> Option<oneshot::Receiver<Value>> {
        let (sender, receiver) = oneshot::channel();
        self.edit_one(id, |task| {
            task.status = "input_required";
            task.asked += 1;
            let key = format!("ask_{}", task.asked);
            task.questions.push(Question { key, frame, request, answer: Some(sender) });
        })
        .map(|()| receiver)
    }

    /// Notes that a task got what it asked for.
    pub(crate) fn go_on(&self, id: &str) {
        self.edit_one(id, |task| {
            task.questions.clear();
            if task.status == "input_required" {
                task.status = "working";
            }
        });
    }

    /// Hands over what a modern client answered.
    pub(crate) fn answer(&self, id: &str, responses: &Value) {
        self.edit_one(id, |task| {
            for question in &mut task.questions {
                if let Some(response) = responses.get(&question.key)
                    && let Some(answer) = question.answer.take()
                {
                    answer.send(json!({"result": response})).ok();
                }
            }
        });
    }

    /// The `Task` object.
    pub(crate) fn describe(&self, id: &str, modern: bool) -> Option<Value> {
        let table = self.table.lock().expect("invariant: nobody panics while holding the tasks");
        number(id).and_then(|number| table.get(&number)).map(|task| task.describe(id, modern))
    }

    /// The task with everything `tasks/get` of the extension brings; JSON text, since results keep their bytes.
    pub(crate) fn detail(&self, id: &str) -> Option<String> {
        let described = self.describe(id, true)?.to_string();
        let table = self.table.lock().expect("invariant: nobody panics while holding the tasks");
        let task = number(id).and_then(|number| table.get(&number))?;
        let more = match &task.outcome {
            Some(Ok(result)) => format!(r#","result":{result}"#),
            Some(Err((code, message, _))) => format!(r#","error":{}"#, json!({"code": code, "message": message})),
            None if task.questions.is_empty() => String::new(),
            None => {
                let requests: BTreeMap<_, _> =
                    task.questions.iter().map(|question| (&question.key, &question.request)).collect();
                format!(r#","inputRequests":{}"#, json!(requests))
            }
        };
        Some(format!("{}{more}}}", described.strip_suffix('}')?))
    }

    /// All tasks, oldest first.
    pub(crate) fn list(&self) -> Value {
        let table = self.table.lock().expect("invariant: nobody panics while holding the tasks");
        let tasks: Vec<_> =
            table.iter().map(|(number, task)| task.describe(&format!("task-{number}"), false)).collect();
        json!({"tasks": tasks})
    }

    /// Waits for the end of a task, and sends what it asks meanwhile. `None` when it does not exist.
    pub(crate) async fn result(&self, id: &str, outlet: &Outlet) -> Option<Result<String, Refusal>> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let frames: Vec<String> = {
                let mut table = self.table.lock().expect("invariant: nobody panics while holding the tasks");
                let task = table.get_mut(&number(id)?)?;
                if !matches!(task.status, "working" | "input_required") {
                    let none = || Err((-32603, "the task has no result".to_owned(), None));
                    return Some(task.outcome.clone().unwrap_or_else(none));
                }
                task.questions.iter_mut().filter_map(|question| question.frame.take()).collect()
            };
            for frame in frames {
                outlet.send(frame).await;
            }
            changed.changed().await.ok()?;
        }
    }
}

impl Task {
    fn describe(&self, id: &str, modern: bool) -> Value {
        let (ttl, poll) = if modern { ("ttlMs", "pollIntervalMs") } else { ("ttl", "pollInterval") };
        json!({
            "taskId": id,
            "status": self.status,
            "createdAt": MOMENT,
            "lastUpdatedAt": MOMENT,
            ttl: self.ttl,
            poll: 50,
        })
    }
}

fn number(id: &str) -> Option<u64> {
    id.strip_prefix("task-")?.parse().ok()
}
