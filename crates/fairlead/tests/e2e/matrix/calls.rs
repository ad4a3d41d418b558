//! Calls, reads and what belongs to one call: progress, log messages, cancellation, resumption, tasks.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::{client::Client, feature::Outcome, house::Row};
use crate::support::{MODERN, PATIENCE, relaxed};

/// Within that everything arrives that is on its way.
const SOON: Duration = Duration::from_secs(6);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
/// The extension of 2026-07-28.
const TASKS: &str = "io.modelcontextprotocol/tasks";

pub(super) async fn tools(row: &Row) -> anyhow::Result<Outcome> {
    let listed = row.client.list("tools/list", "tools").await?;
    ensure!(listed.iter().any(|tool| tool["name"] == row.name("tool_0")), "`tool_0` is not listed");
    let result = row.call("tool_0", json!({"text": "row"})).await?;
    ensure!(result["content"][0]["text"].as_str().is_some_and(|text| text.contains("\"row\"")), "it says {result}");
    ensure!(row.is_modern() == (result["resultType"] == "complete"), "the type of the result: {result}");
    Ok(Outcome::Passes)
}

pub(super) async fn structured_content(row: &Row) -> anyhow::Result<Outcome> {
    let result = row.call("structured", json!({})).await?;
    ensure!(result["structuredContent"] == json!({"degrees": 1.5}), "it says {result}");
    if row.server_revision() == MODERN {
        let result = row.call("bare", json!({})).await?;
        let expected = if row.is_modern() { json!([1.5]) } else { json!({"result": [1.5]}) };
        ensure!(result["structuredContent"] == expected, "it says {result}");
    }
    Ok(Outcome::Passes)
}

/// An older client reads the same as text.
pub(super) async fn content_without_structure(row: &Row) -> anyhow::Result<()> {
    let result = row.call("structured", json!({})).await?;
    ensure!(result["content"][0]["text"] == "{\"degrees\":1.50}", "it says {result}");
    Ok(())
}

pub(super) async fn resources(row: &Row) -> anyhow::Result<Outcome> {
    let uri = row.uri(&row.own_resource());
    let listed = row.client.list("resources/list", "resources").await?;
    ensure!(listed.iter().any(|resource| resource["uri"] == uri), "`{uri}` is not listed");
    let templates = row.client.list("resources/templates/list", "resourceTemplates").await?;
    let template = row.uri("test://resource/{number}");
    ensure!(templates.iter().any(|listed| listed["uriTemplate"] == template), "`{template}` is not listed");
    let result = row.client.result("resources/read", json!({"uri": uri})).await?;
    let content = &result["contents"][0];
    ensure!(content["uri"] == uri, "the content is of {content}");
    ensure!(content["text"] == format!("content of {}", row.own_resource()), "the content is {content}");
    ensure!(row.is_modern() == result["ttlMs"].is_u64(), "how long it may be kept: {result}");
    Ok(Outcome::Passes)
}

pub(super) async fn resource_not_found(row: &Row) -> anyhow::Result<Outcome> {
    let answer = row.client.request("resources/read", json!({"uri": row.uri("test://resource/none")})).await?;
    let code = if row.is_modern() { -32602 } else { -32002 };
    ensure!(answer.answer["error"]["code"] == code, "the answer is {}", answer.answer);
    Ok(Outcome::Passes)
}

pub(super) async fn prompts(row: &Row) -> anyhow::Result<Outcome> {
    let name = row.name("prompt_0");
    let listed = row.client.list("prompts/list", "prompts").await?;
    ensure!(listed.iter().any(|prompt| prompt["name"] == name), "`{name}` is not listed");
    let params = json!({"name": name, "arguments": {"who": "row"}});
    let result = row.client.result("prompts/get", params).await?;
    ensure!(result["messages"][0]["content"]["text"] == "prompt_0 with {\"who\":\"row\"}", "it says {result}");
    Ok(Outcome::Passes)
}

pub(super) async fn completion(row: &Row, with_context: bool) -> anyhow::Result<Outcome> {
    if !row.capabilities["completions"].is_object() {
        return Ok(Outcome::NotAdvertised);
    }
    let value = format!("row{}-", row.number);
    let mut params = json!({
        "ref": {"type": "ref/prompt", "name": row.name("prompt_0")},
        "argument": {"name": "who", "value": value},
    });
    let context = json!({"arguments": {"where": value}});
    if with_context {
        params["context"] = context.clone();
    }
    let result = row.client.result("completion/complete", params).await?;
    ensure!(result["completion"]["values"][0] == format!("{value}1"), "it says {result}");
    if with_context {
        let arrived = row.upstream().received_method("completion/complete");
        let mut arrived = arrived.iter().map(fairlead_testkit::Received::json);
        let arrived = arrived.rfind(|got| got["params"]["argument"]["value"] == value);
        ensure!(arrived.is_some_and(|got| got["params"]["context"] == context), "the context did not arrive");
    }
    Ok(Outcome::Passes)
}

pub(super) async fn log_level(row: &Row) -> anyhow::Result<Outcome> {
    if !row.capabilities["logging"].is_object() {
        return Ok(Outcome::NotAdvertised);
    }
    let mut call = json!({"name": row.name("logs"), "arguments": {}});
    if row.is_modern() {
        call["_meta"] = json!({"io.modelcontextprotocol/logLevel": "warning"});
    } else {
        row.client.result("logging/setLevel", json!({"level": "warning"})).await?;
    }
    let answer = row.client.request("tools/call", call).await?;
    answer.result()?;
    let told = answer.told("notifications/message");
    let levels: Vec<&Value> = told.iter().map(|told| &told["level"]).collect();
    ensure!(levels == ["error"], "of debug and error, at the level warning, came {levels:?}");
    Ok(Outcome::Passes)
}

pub(super) async fn progress(row: &Row) -> anyhow::Result<Outcome> {
    let token = format!("row {}", row.number);
    let call = json!({"name": row.name("long"), "arguments": {}, "_meta": {"progressToken": token}});
    let answer = row.client.request("tools/call", call).await?;
    answer.result()?;
    let told = answer.told("notifications/progress");
    let steps: Vec<_> = told.iter().map(|told| told["progress"].as_f64().unwrap_or_default()).collect();
    ensure!(steps == [1.0, 2.0, 3.0], "progress is {steps:?}");
    ensure!(told.iter().all(|told| told["progressToken"] == token), "progress of another: {told:?}");
    Ok(Outcome::Passes)
}

/// Of two calls one is cancelled: the server's run of it ends, the other goes on, and no other server hears of it.
pub(super) async fn cancellation(row: &Row) -> anyhow::Result<Outcome> {
    let (doomed, spared) = (format!("doomed {}.", row.number), format!("spared {}.", row.number));
    let begin = async |tool: &str, text: &str| {
        row.client.begin("tools/call", json!({"name": row.name(tool), "arguments": {"text": text}})).await
    };
    let (running, other) = (begin("slow", &doomed).await?, begin("soon", &spared).await?);
    let arrived = row.upstream().wait_received(relaxed(SOON), |received| {
        let contains = |text: &str| {
            received.iter().any(|got| got.body.windows(text.len()).any(|window| window == text.as_bytes()))
        };
        contains(&doomed) && contains(&spared)
    });
    ensure!(arrived.await, "the calls did not arrive");
    row.client.cancel(running).await?;
    let cancelled = |text: &str| {
        let at = |server: &fairlead_testkit::ScriptedServer| {
            server.cancelled_calls().iter().any(|params| params["arguments"]["text"] == text)
        };
        row.house.servers.iter().map(at).collect::<Vec<_>>()
    };
    let start = Instant::now();
    while !cancelled(&doomed)[row.server] {
        ensure!(start.elapsed() < relaxed(SOON), "the cancelled call goes on at the server");
        tokio::time::sleep(POLL).await;
    }
    let result = row.client.finish(other).await.context("the other call")?.result()?;
    ensure!(result["structuredContent"]["arguments"]["text"] == spared, "the other call says {result}");
    ensure!(!cancelled(&spared).contains(&true), "the other call was cancelled");
    Ok(Outcome::Passes)
}

/// The client's ping is answered, and so is that of a server in mid-call.
pub(super) async fn ping(row: &Row) -> anyhow::Result<Outcome> {
    ensure!(row.client.result("ping", json!({})).await? == json!({}), "something came with it");
    if row.server_revision() != MODERN {
        let result = row.call("pings", json!({})).await?;
        let heard = &result["structuredContent"]["answers"][0];
        ensure!(heard["result"].is_object(), "the server heard {heard}");
    }
    Ok(Outcome::Passes)
}

/// A stream that breaks after its first event is read to its end with `Last-Event-ID`.
pub(super) async fn resume(row: &Row) -> anyhow::Result<Outcome> {
    let call = json!({"name": row.name("longer"), "arguments": {}, "_meta": {"progressToken": "resume"}});
    let Client::Http(client) = &row.client else { bail!("it has no Streamable HTTP") };
    let mut stream = client.start("tools/call", call).await?;
    let id = stream.id().cloned().unwrap_or_default();
    let mut last = None;
    let mut told = 0;
    while told == 0 {
        let Some(frame) = stream.next(PATIENCE).await? else { bail!("the stream ended by itself") };
        told += usize::from(frame.json()["method"] == "notifications/progress");
        last = frame.id;
    }
    stream.vanish();
    // A stream whose events have no ids does not say that it can be resumed.
    let Some(last) = last else { return Ok(Outcome::NotAdvertised) };
    let mut resumed = client.open_get(Some(&last)).await?;
    ensure!(resumed.status == 200, "the resumption is answered with status {}", resumed.status);
    loop {
        let Some(frame) = resumed.next(PATIENCE).await? else { bail!("the resumed stream ended without the answer") };
        let message = frame.json();
        told += usize::from(message["method"] == "notifications/progress");
        if message["id"] == id && message["result"].is_object() {
            ensure!(told == 5, "of 5 reports {told} came");
            return Ok(Outcome::Passes);
        }
    }
}

/// A call runs as a task, is seen to end, gives its result, and another is cancelled.
pub(super) async fn tasks(row: &Row) -> anyhow::Result<Outcome> {
    let advertised = match row.is_modern() {
        true => &row.capabilities["extensions"][TASKS],
        false => &row.capabilities["tasks"]["requests"]["tools"]["call"],
    };
    if !advertised.is_object() {
        return Ok(Outcome::NotAdvertised);
    }
    let text = format!("task of row {}", row.number);
    let task = begin(row, "task_soon", &text).await?;
    let ended = async {
        loop {
            let now = row.client.result("tasks/get", json!({"taskId": task})).await?;
            match now["status"].as_str() {
                Some("working" | "submitted") => tokio::time::sleep(POLL).await,
                _ => return Ok::<_, anyhow::Error>(now),
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.context("the end of the task")??;
    ensure!(ended["status"] == "completed", "the task ended so: {ended}");
    let result = match row.is_modern() {
        true => ended["result"].clone(),
        false => row.client.result("tasks/result", json!({"taskId": task})).await?,
    };
    ensure!(result["structuredContent"]["arguments"]["text"] == text, "its result is {result}");
    let task = begin(row, "task_slow", &format!("cancelled {text}")).await?;
    row.client.result("tasks/cancel", json!({"taskId": task})).await?;
    let now = row.client.result("tasks/get", json!({"taskId": task})).await?;
    ensure!(now["status"] == "cancelled", "the task that was cancelled is {now}");
    Ok(Outcome::Passes)
}

/// The id of the task that runs this call.
async fn begin(row: &Row, tool: &str, text: &str) -> anyhow::Result<String> {
    let mut call = json!({"name": row.name(tool), "arguments": {"text": text}});
    if !row.is_modern() {
        call["task"] = json!({"ttl": 60_000});
    }
    let result = row.client.result("tools/call", call).await?;
    let task = if row.is_modern() { &result["taskId"] } else { &result["task"]["taskId"] };
    task.as_str().map(str::to_owned).with_context(|| format!("no task was made: {result}"))
}

/// A client without tasks is not told of any and gets results.
pub(super) async fn no_tasks(row: &Row) -> anyhow::Result<()> {
    ensure!(row.capabilities.get("tasks").is_none(), "tasks are advertised to a client that cannot know them");
    let result = row.call("tool_0", json!({"text": "row"})).await?;
    ensure!(result["content"].is_array(), "it says {result}");
    Ok(())
}
