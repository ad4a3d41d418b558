//! The tools of the feature server that continue as tasks (SEP-2663).

use std::time::Duration;

use rmcp::{
    ErrorData, RoleServer,
    model::{CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateTaskResult, InputRequest},
    service::RequestContext,
    task_manager::{TaskContext, TaskExit, TaskFuture, TaskOptions},
};
use serde_json::{Value, json};

use super::{
    Feature,
    ask::{Questions, text_form},
};

/// How long a task of this server can be asked for.
const TASK_TTL_MS: u64 = 60_000;
const POLL_MS: u64 = 200;
/// Tasks that may run at once in one process.
const MAX_TASKS: usize = 1_000;
/// How long `failing_job` and `protocol_error_job` take before they fail.
const FAILURE_DELAY: Duration = Duration::from_millis(500);

/// Whether this request may be answered with a task.
pub(super) fn accepts_tasks(context: &RequestContext<RoleServer>) -> bool {
    context.client_capabilities().is_some_and(|declared| declared.supports_tasks())
}

/// Fails with `-32021` when the request did not declare the tasks extension.
pub(super) fn require_tasks(context: &RequestContext<RoleServer>) -> Result<(), ErrorData> {
    if accepts_tasks(context) {
        return Ok(());
    }
    Err(ErrorData::missing_required_client_capability(ClientCapabilities::builder().enable_tasks().build()))
}

/// Starts `work` as a task.
pub(super) fn start<F>(server: &Feature, work: F) -> Result<CallToolResponse, ErrorData>
where
    F: FnOnce(TaskContext) -> TaskFuture,
{
    let tasks = &server.shared.tasks;
    if tasks.running_task_count() >= MAX_TASKS {
        return Err(ErrorData::internal_error(format!("{MAX_TASKS} tasks are running already"), None));
    }
    let options = TaskOptions::new().with_ttl_ms(TASK_TTL_MS).with_poll_interval_ms(POLL_MS);
    Ok(CreateTaskResult::new(tasks.spawn(options, work)).into())
}

/// `slow_compute` with a client that can follow a task.
pub(super) fn slow_compute(server: &Feature, duration: Duration) -> Result<CallToolResponse, ErrorData> {
    start(server, move |task| {
        Box::pin(async move {
            tokio::select! {
                () = task.cancelled() => Err(TaskExit::Cancelled),
                () = tokio::time::sleep(duration) => Ok(computed(duration)),
            }
        })
    })
}

/// The answer of `slow_compute`.
pub(super) fn computed(duration: Duration) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(format!("Computed for {} seconds.", duration.as_secs_f64()))])
}

pub(super) fn failing_job(server: &Feature) -> Result<CallToolResponse, ErrorData> {
    start(server, |_| {
        Box::pin(async {
            tokio::time::sleep(FAILURE_DELAY).await;
            Ok(CallToolResult::error(vec![ContentBlock::text("The job failed, as it always does.")]))
        })
    })
}

pub(super) fn protocol_error_job(server: &Feature) -> Result<CallToolResponse, ErrorData> {
    start(server, |_| {
        Box::pin(async {
            tokio::time::sleep(FAILURE_DELAY).await;
            Err(ErrorData::internal_error("the job broke down, as it always does", None).into())
        })
    })
}

pub(super) fn confirm_delete(server: &Feature, filename: String) -> Result<CallToolResponse, ErrorData> {
    start(server, move |task| {
        Box::pin(async move {
            let form = json!({
                "mode": "form",
                "message": format!("Delete {filename}?"),
                "requestedSchema": {
                    "type": "object",
                    "properties": {"confirm": {"type": "boolean"}},
                    "required": ["confirm"],
                },
            });
            let answer = task.request_input("confirm", elicitation("confirm", form)?).await?;
            let confirmed = answer["action"] == "accept" && answer["content"]["confirm"] == true;
            let verdict = if confirmed { "deleted" } else { "kept" };
            Ok(CallToolResult::success(vec![ContentBlock::text(format!("{filename} was {verdict}."))]))
        })
    })
}

pub(super) fn multi_input(server: &Feature) -> Result<CallToolResponse, ErrorData> {
    start(server, |task| {
        Box::pin(async move {
            let first = task.request_input("first", elicitation("first", text_form("First value?", "value"))?);
            let second = task.request_input("second", elicitation("second", text_form("Second value?", "value"))?);
            let (first, second) = tokio::try_join!(first, second)?;
            let (first, second) = (&first["content"]["value"], &second["content"]["value"]);
            Ok(CallToolResult::success(vec![ContentBlock::text(format!("Got {first} and {second}."))]))
        })
    })
}

/// The second round of `test_tool_with_task`.
pub(super) fn greet_as_task(server: &Feature, name: String) -> Result<CallToolResponse, ErrorData> {
    start(server, move |_| {
        Box::pin(async move { Ok(CallToolResult::success(vec![ContentBlock::text(format!("Hello, {name}!"))])) })
    })
}

fn elicitation(key: &str, params: Value) -> Result<InputRequest, TaskExit> {
    Questions::one(key, "elicitation/create", params)
        .into_request(key)
        .ok_or_else(|| TaskExit::Error(ErrorData::internal_error("a question was not built", None)))
}
