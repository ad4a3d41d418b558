//! The tools of the feature server.
#![expect(deprecated, reason = "logging, sampling and roots are deprecated by SEP-2577 and still have to be shown")]

use std::time::Duration;

use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, JsonObject,
        LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam, Resource, ResourceContents,
        SamplingCapability, SealOptions,
    },
    service::RequestContext,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Change, Feature, Ordering, WATCHED,
    ask::{Asked, Questions, ask, is_modern},
    catalog::{EXTRA_TOOL, PIXEL, SILENCE},
    tasks,
};
use crate::polling::CallStream;

/// Pause between the messages of the logging and progress tools.
const BEAT: Duration = Duration::from_millis(50);
/// How soon a client is asked to come back after the server hung up.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// How long a sealed state is accepted.
const STATE_TTL: Duration = Duration::from_secs(300);
/// Longest `sleep`, milliseconds.
const MAX_SLEEP_MS: u64 = 600_000;
/// Longest `slow_compute`, seconds.
const MAX_COMPUTE_SECONDS: f64 = 3_600.0;
/// Largest `big`, bytes.
const MAX_BIG_BYTES: usize = 16 * 1024 * 1024;

pub(super) async fn call(
    server: &Feature,
    request: CallToolRequestParams,
    context: RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let name = request.name.clone();
    let result = match name.as_ref() {
        "test_simple_text" => text("This is a simple text response for testing."),
        "test_image_content" => CallToolResult::success(vec![ContentBlock::image(PIXEL, "image/png")]),
        "test_audio_content" => CallToolResult::success(vec![ContentBlock::audio(SILENCE, "audio/wav")]),
        "test_embedded_resource" => CallToolResult::success(vec![ContentBlock::resource(ResourceContents::text(
            "This is an embedded resource content.",
            "test://embedded-resource",
        ))]),
        "test_multiple_content_types" => CallToolResult::success(vec![
            ContentBlock::text("Multiple content types test:"),
            ContentBlock::image(PIXEL, "image/png"),
            ContentBlock::resource(
                ResourceContents::text(r#"{"test":"data","value":123}"#, "test://mixed-content-resource")
                    .with_mime_type("application/json"),
            ),
        ]),
        "test_tool_with_logging" | "test_logging_tool" => {
            for message in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
                log(server, &context, LoggingLevel::Info, json!(message)).await;
                tokio::time::sleep(BEAT).await;
            }
            text("Three messages were logged.")
        }
        "test_tool_with_progress" => {
            for done in [0.0, 50.0, 100.0] {
                progress(&context, done, 100.0, &format!("Completed step {done} of 100")).await;
                tokio::time::sleep(BEAT).await;
            }
            text("Progress was reported three times.")
        }
        "test_error_handling" => {
            CallToolResult::error(vec![ContentBlock::text("This tool intentionally returns an error for testing")])
        }
        "json_schema_2020_12_tool" | "test_header_mirroring" => {
            text(&format!("Called with {}", Value::Object(request.arguments.unwrap_or_default())))
        }
        "test_reconnection" => {
            if let Some(stream) = context.extensions.get::<CallStream>() {
                let hung_up = stream.hang_up(RECONNECT_AFTER).await;
                hung_up.map_err(|error| ErrorData::internal_error(format!("cannot hang up: {error}"), None))?;
            }
            // The library forgets an answer that comes while nobody is connected: the client is given the time it
            // was asked to stay away.
            tokio::time::sleep(RECONNECT_AFTER * 2).await;
            text("Reconnection test completed successfully.")
        }
        "test_missing_capability" => {
            if context.client_capabilities().is_none_or(|declared| declared.sampling.is_none()) {
                let mut required = ClientCapabilities::default();
                required.sampling = Some(SamplingCapability::default());
                return Err(ErrorData::missing_required_client_capability(required));
            }
            text("The client declared sampling.")
        }
        "test_trigger_tool_change" => {
            server.shared.has_extra_tool.fetch_xor(true, Ordering::Relaxed);
            server.shared.changes.announce(Change::Tools).await;
            text("The list of tools changed.")
        }
        "test_trigger_prompt_change" => {
            server.shared.has_extra_prompt.fetch_xor(true, Ordering::Relaxed);
            server.shared.changes.announce(Change::Prompts).await;
            text("The list of prompts changed.")
        }
        "greet" => match arguments::<Greet>(request.arguments) {
            Ok(Greet { name }) => text(&format!("Hello, {}!", name.as_deref().unwrap_or("world"))),
            Err(refused) => refused,
        },
        "slow_compute" => match arguments::<Compute>(request.arguments) {
            Ok(Compute { seconds }) if (0.0..=MAX_COMPUTE_SECONDS).contains(&seconds) => {
                let duration = Duration::from_secs_f64(seconds);
                if tasks::accepts_tasks(&context) {
                    return tasks::slow_compute(server, duration);
                }
                tokio::select! {
                    () = context.ct.cancelled() => return cancelled(server),
                    () = tokio::time::sleep(duration) => tasks::computed(duration),
                }
            }
            Ok(_) => refusal("`seconds` must lie between 0 and 3600"),
            Err(refused) => refused,
        },
        "failing_job" => {
            tasks::require_tasks(&context)?;
            return tasks::failing_job(server);
        }
        "protocol_error_job" => {
            tasks::require_tasks(&context)?;
            return tasks::protocol_error_job(server);
        }
        "multi_input" => {
            tasks::require_tasks(&context)?;
            return tasks::multi_input(server);
        }
        "confirm_delete" => {
            tasks::require_tasks(&context)?;
            match arguments::<ConfirmDelete>(request.arguments) {
                Ok(ConfirmDelete { filename }) => {
                    return tasks::confirm_delete(server, filename.unwrap_or_else(|| "the file".to_owned()));
                }
                Err(refused) => refused,
            }
        }
        EXTRA_TOOL if server.shared.has_extra_tool.load(Ordering::Relaxed) => text("I was not here before."),
        "echo" => match arguments::<Echo>(request.arguments) {
            Ok(Echo { message }) => text(&message),
            Err(refused) => refused,
        },
        "add" => match arguments::<Add>(request.arguments) {
            Ok(Add { a, b }) => CallToolResult::structured(json!({"sum": sum(&a, &b)})),
            Err(refused) => refused,
        },
        "sleep" => match arguments::<Sleep>(request.arguments) {
            Ok(Sleep { ms }) if ms <= MAX_SLEEP_MS => return sleep(server, &context, ms).await,
            Ok(_) => refusal("`ms` must be at most 600000"),
            Err(refused) => refused,
        },
        "big" => match arguments::<Big>(request.arguments) {
            Ok(Big { bytes }) if bytes <= MAX_BIG_BYTES => text(&"0123456789abcdef".repeat(bytes / 16 + 1)[..bytes]),
            Ok(_) => refusal("`bytes` must be at most 16777216"),
            Err(refused) => refused,
        },
        "count_calls" => {
            let calls = server.shared.calls.lock().expect("invariant: nobody panics while counting").clone();
            let cancelled = server.shared.cancelled_calls.load(Ordering::Relaxed);
            CallToolResult::structured(json!({"calls": calls, "cancelled": cancelled}))
        }
        "list_change" => match arguments::<ListChange>(request.arguments) {
            Ok(ListChange { action }) => {
                let extra = &server.shared.has_extra_tool;
                match action {
                    Action::Add => extra.store(true, Ordering::Relaxed),
                    Action::Remove => extra.store(false, Ordering::Relaxed),
                    Action::Toggle => _ = extra.fetch_xor(true, Ordering::Relaxed),
                }
                server.shared.changes.announce(Change::Tools).await;
                CallToolResult::structured(json!({"extra_tool": extra.load(Ordering::Relaxed)}))
            }
            Err(refused) => refused,
        },
        "touch_resource" => match arguments::<Touch>(request.arguments) {
            Ok(Touch { uri }) => {
                server.shared.touches.fetch_add(1, Ordering::Relaxed);
                server.shared.changes.announce(Change::Resource(uri.unwrap_or_else(|| WATCHED.to_owned()))).await;
                server.shared.changes.announce(Change::Resources).await;
                text("The resource was touched.")
            }
            Err(refused) => refused,
        },
        "link" => CallToolResult::success(vec![ContentBlock::resource_link(
            Resource::new("test://static-text", "static-text").with_mime_type("text/plain"),
        )]),
        _ => return asking(server, request, &context).await,
    };
    Ok(result.into())
}

/// The tools that ask their client something.
async fn asking(
    server: &Feature,
    request: CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let name = request.name.as_ref();
    let round = open_state(server, &request)?;
    let prompt = |key: &str| request.arguments.as_ref().and_then(|given| given.get(key)).and_then(Value::as_str);
    let questions = match name {
        "test_sampling" => sampling("answer", prompt("prompt").unwrap_or("Hello"), 100),
        "test_elicitation" => Questions::one(
            "answer",
            "elicitation/create",
            json!({
                "mode": "form",
                "message": prompt("message").unwrap_or("Please answer"),
                "requestedSchema": {
                    "type": "object",
                    "properties": {
                        "username": {"type": "string", "description": "User's response"},
                        "email": {"type": "string", "description": "User's email address"},
                    },
                    "required": ["username", "email"],
                },
            }),
        ),
        "test_elicitation_sep1034_defaults" => Questions::one("answer", "elicitation/create", defaults_form()),
        "test_elicitation_sep1330_enums" => Questions::one("answer", "elicitation/create", enums_form()),
        "ask_url" => Questions::one(
            "answer",
            "elicitation/create",
            json!({
                "mode": "url",
                "message": "Please sign in.",
                "url": "https://example.com/sign-in",
                "elicitationId": "sign-in-1",
            }),
        ),
        "test_streaming_elicitation" => {
            progress(context, 1.0, 2.0, "About to ask").await;
            Questions::text("answer", "What is your name?", "name")
        }
        "whoami_roots" => Questions::one("client_roots", "roots/list", json!({})),
        "test_input_required_result_elicitation" | "test_tool_with_task" => {
            if name == "test_tool_with_task" {
                tasks::require_tasks(context)?;
            }
            Questions::text("user_name", "What is your name?", "name")
        }
        "test_input_required_result_sampling" => sampling("capital_question", "What is the capital of France?", 100),
        "test_input_required_result_list_roots" => Questions::one("client_roots", "roots/list", json!({})),
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            confirmation("confirm")
        }
        "test_input_required_result_multiple_inputs" => Questions::text("user_name", "What is your name?", "name")
            .and("greeting", "sampling/createMessage", sampling_params("Generate a greeting", 50))
            .and("client_roots", "roots/list", json!({})),
        "test_input_required_result_multi_round" => return multi_round(server, &request, context, round).await,
        "test_input_required_result_capabilities" => Questions::text("user_name", "What is your name?", "name")
            .and("greeting", "sampling/createMessage", sampling_params("Generate a greeting", 50))
            .only_declared(context),
        other => return Err(ErrorData::invalid_params(format!("there is no tool `{other}`"), None)),
    };
    let state = KEEPS_STATE.contains(&name).then(|| seal_state(server, name, 1));
    // A first request that brings answers but no state has not been asked by this tool.
    let given = request.input_responses.as_ref().filter(|_| state.is_none() || round.is_some());
    let answers = match ask(context, questions, given, state).await? {
        Asked::Pending(result) => return Ok(result.into()),
        Asked::Answered(answers) => answers,
    };
    if name == "test_tool_with_task" {
        let name = answers["user_name"]["content"]["name"].as_str().unwrap_or("nobody").to_owned();
        return tasks::greet_as_task(server, name);
    }
    let said = |key: &str| answers.get(key).unwrap_or(&Value::Null);
    let outcome = match name {
        "test_sampling" => format!("LLM response: {}", sampled(said("answer"))),
        "test_input_required_result_sampling" => sampled(said("capital_question")),
        "test_input_required_result_elicitation" => {
            format!("Hello, {}!", said("user_name")["content"]["name"].as_str().unwrap_or("stranger"))
        }
        "test_input_required_result_request_state" => "state-ok: the state came back as it was sealed".to_owned(),
        "whoami_roots" | "test_input_required_result_list_roots" => {
            let roots = said("client_roots")["roots"].as_array().cloned().unwrap_or_default();
            let uris: Vec<_> = roots.iter().filter_map(|root| root["uri"].as_str()).collect();
            format!("Roots: {}", uris.join(", "))
        }
        "test_elicitation" | "test_elicitation_sep1034_defaults" | "test_elicitation_sep1330_enums" | "ask_url" => {
            let answer = said("answer");
            format!("User answered: action={}, content={}", answer["action"].as_str().unwrap_or("?"), answer["content"])
        }
        _ => format!("Answered: {}", json!(answers)),
    };
    Ok(text(&outcome).into())
}

/// The tools that give a modern client a state to echo.
const KEEPS_STATE: &[&str] = &[
    "test_input_required_result_request_state",
    "test_input_required_result_tampered_state",
    "test_input_required_result_multiple_inputs",
];

async fn multi_round(
    server: &Feature,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
    round: Option<u64>,
) -> Result<CallToolResponse, ErrorData> {
    let name = request.name.as_ref();
    let first = || Questions::text("step1", "Step 1: What is your name?", "name");
    let second = || Questions::text("step2", "Step 2: What is your favorite color?", "color");
    let given = request.input_responses.as_ref();
    if !is_modern(context) {
        for questions in [first(), second()] {
            ask(context, questions, None, None).await?;
        }
        return Ok(text("Both steps were answered.").into());
    }
    let asked = match round {
        None => ask(context, first(), None, Some(seal_state(server, name, 1))).await?,
        Some(1) => match ask(context, first(), given, Some(seal_state(server, name, 1))).await? {
            Asked::Answered(_) => ask(context, second(), None, Some(seal_state(server, name, 2))).await?,
            pending @ Asked::Pending(_) => pending,
        },
        Some(_) => ask(context, second(), given, Some(seal_state(server, name, 2))).await?,
    };
    Ok(match asked {
        Asked::Pending(result) => result.into(),
        Asked::Answered(_) => text("Both steps were answered.").into(),
    })
}

/// A state that only this process accepts, only for `tool`, only for a while.
fn seal_state(server: &Feature, tool: &str, round: u64) -> String {
    let options = SealOptions::new().associated_data(tool.as_bytes()).ttl(STATE_TTL);
    server.shared.seal.seal_with(&round.to_le_bytes(), &options)
}

/// The round a state was sealed for; `None` without a state.
fn open_state(server: &Feature, request: &CallToolRequestParams) -> Result<Option<u64>, ErrorData> {
    let Some(state) = &request.request_state else { return Ok(None) };
    let payload = server.shared.seal.open_with(state, request.name.as_bytes());
    let round = payload.ok().and_then(|payload| payload.try_into().ok()).map(u64::from_le_bytes);
    round.map(Some).ok_or_else(|| ErrorData::invalid_params("`requestState` is not one this server sealed", None))
}

async fn sleep(server: &Feature, context: &RequestContext<RoleServer>, ms: u64) -> Result<CallToolResponse, ErrorData> {
    for tenth in 1..=10_u8 {
        tokio::select! {
            () = context.ct.cancelled() => return cancelled(server),
            () = tokio::time::sleep(Duration::from_micros(ms * 100)) => {}
        }
        progress(context, f64::from(tenth), 10.0, &format!("{tenth}/10")).await;
    }
    Ok(text(&format!("Slept {ms} ms.")).into())
}

fn cancelled(server: &Feature) -> Result<CallToolResponse, ErrorData> {
    server.shared.cancelled_calls.fetch_add(1, Ordering::Relaxed);
    Err(ErrorData::internal_error("the call was cancelled", None))
}

/// Sends a log message to a legacy session whose level allows it, or to a modern request that asked for it.
async fn log(server: &Feature, context: &RequestContext<RoleServer>, level: LoggingLevel, data: Value) {
    let least = match is_modern(context) {
        true => context.meta.log_level(),
        false => Some(*server.level.lock().expect("invariant: nobody panics while setting a level")),
    };
    if least.is_some_and(|least| level as u8 >= least as u8) {
        let message = LoggingMessageNotificationParam::new(level, data).with_logger("fairlead-feature");
        // A client that is gone is noticed by the call itself.
        context.peer.notify_logging_message(message).await.ok();
    }
}

/// Reports progress when the request asked for it.
async fn progress(context: &RequestContext<RoleServer>, done: f64, total: f64, message: &str) {
    if let Some(token) = context.meta.get_progress_token() {
        let report = ProgressNotificationParam::new(token, done).with_total(total).with_message(message);
        context.peer.notify_progress(report).await.ok();
    }
}

fn text(text: &str) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

fn refusal(reason: &str) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(reason)])
}

/// Reads the arguments; what does not fit is a tool error that the model sees (SEP-1303).
fn arguments<T: DeserializeOwned>(given: Option<JsonObject>) -> Result<T, CallToolResult> {
    serde_json::from_value(Value::Object(given.unwrap_or_default()))
        .map_err(|error| refusal(&format!("invalid arguments: {error}")))
}

/// The sum, an integer when both are.
fn sum(a: &serde_json::Number, b: &serde_json::Number) -> Value {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) if a.checked_add(b).is_some() => json!(a + b),
        _ => json!(a.as_f64().unwrap_or(f64::NAN) + b.as_f64().unwrap_or(f64::NAN)),
    }
}

fn sampled(answer: &Value) -> String {
    let content = &answer["content"];
    let block = content.as_array().and_then(|blocks| blocks.first()).unwrap_or(content);
    block["text"].as_str().unwrap_or("no text").to_owned()
}

fn sampling(key: &str, prompt: &str, max_tokens: u32) -> Questions {
    Questions::one(key, "sampling/createMessage", sampling_params(prompt, max_tokens))
}

fn sampling_params(prompt: &str, max_tokens: u32) -> Value {
    json!({
        "messages": [{"role": "user", "content": {"type": "text", "text": prompt}}],
        "maxTokens": max_tokens,
    })
}

fn confirmation(key: &str) -> Questions {
    Questions::one(
        key,
        "elicitation/create",
        json!({
            "mode": "form",
            "message": "Please confirm",
            "requestedSchema": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
        }),
    )
}

fn defaults_form() -> Value {
    json!({
        "mode": "form",
        "message": "Please review the defaults",
        "requestedSchema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "User name", "default": "John Doe"},
                "age": {"type": "integer", "description": "User age", "default": 30},
                "score": {"type": "number", "description": "User score", "default": 95.5},
                "status": {
                    "type": "string",
                    "description": "User status",
                    "enum": ["active", "inactive", "pending"],
                    "default": "active",
                },
                "verified": {"type": "boolean", "description": "Verification status", "default": true},
            },
            "required": [],
        },
    })
}

fn enums_form() -> Value {
    let options = json!(["option1", "option2", "option3"]);
    let titled = json!([
        {"const": "value1", "title": "First Option"},
        {"const": "value2", "title": "Second Option"},
        {"const": "value3", "title": "Third Option"},
    ]);
    json!({
        "mode": "form",
        "message": "Please choose",
        "requestedSchema": {
            "type": "object",
            "properties": {
                "untitledSingle": {"type": "string", "description": "One of three", "enum": options},
                "titledSingle": {"type": "string", "description": "One of three, with titles", "oneOf": titled},
                "legacyEnum": {
                    "type": "string",
                    "description": "One of three, titled in the older way",
                    "enum": ["opt1", "opt2", "opt3"],
                    "enumNames": ["Option One", "Option Two", "Option Three"],
                },
                "untitledMulti": {
                    "type": "array",
                    "description": "Up to three",
                    "minItems": 1,
                    "maxItems": 3,
                    "items": {"type": "string", "enum": options},
                },
                "titledMulti": {
                    "type": "array",
                    "description": "Up to three, with titles",
                    "minItems": 1,
                    "maxItems": 3,
                    "items": {"anyOf": titled},
                },
            },
            "required": [],
        },
    })
}

#[derive(Deserialize)]
struct Greet {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Compute {
    #[serde(default)]
    seconds: f64,
}

#[derive(Deserialize)]
struct ConfirmDelete {
    filename: Option<String>,
}

#[derive(Deserialize)]
struct Echo {
    message: String,
}

#[derive(Deserialize)]
struct Add {
    a: serde_json::Number,
    b: serde_json::Number,
}

#[derive(Deserialize)]
struct Sleep {
    ms: u64,
}

#[derive(Deserialize)]
struct Big {
    bytes: usize,
}

#[derive(Deserialize)]
struct ListChange {
    #[serde(default)]
    action: Action,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Add,
    Remove,
    #[default]
    Toggle,
}

#[derive(Deserialize)]
struct Touch {
    uri: Option<String>,
}
