//! How a scripted server answers one message, over whatever transport.
//!
//! Answers are built as text, so that a script can prescribe bytes and so that unknown members keep the spelling of
//! their numbers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    call,
    core::{Core, Listener, NEVER, tagged_notification},
    rounds::{self, Turn},
    script::{Finish, Garbage, Question, Script, ToolScript, Via, is_modern_version},
    session::{Outlet, Session},
};

const UPDATED: &str = "notifications/resources/updated";
/// How much later an answer comes than what was said before it.
const OVERTAKEN: Duration = Duration::from_millis(100);
/// The tasks extension.
const TASKS: &str = "io.modelcontextprotocol/tasks";
/// Members nobody knows; their numbers are spelled as no serializer would.
const UNKNOWN: &str = r#""x-vendor":{"big":12345678901234567890123,"price":1.10,"exp":1E2,"nothing":null}"#;

/// A message of a client.
#[derive(Deserialize)]
pub(crate) struct Incoming {
    #[serde(default)]
    pub(crate) id: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) method: Option<String>,
    #[serde(default)]
    pub(crate) params: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) result: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) error: Option<Box<RawValue>>,
}

impl Incoming {
    /// The parameters; `null` when there are none.
    pub(crate) fn params(&self) -> Value {
        self.params.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    /// The id as JSON text.
    pub(crate) fn id(&self) -> &str {
        self.id.as_ref().map_or("null", |id| id.get())
    }

    /// The answer this message is, as `{"result"}` or `{"error"}`.
    pub(crate) fn as_answer(&self) -> Option<(String, Value)> {
        let id = serde_json::from_str::<Value>(self.id()).ok()?.as_str()?.to_owned();
        let parse = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).unwrap_or_default();
        match (&self.result, &self.error) {
            (Some(result), _) => Some((id, json!({"result": parse(result)}))),
            (None, Some(error)) => Some((id, json!({"error": parse(error)}))),
            (None, None) => None,
        }
    }
}

/// How the answering ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// The answer, if there is one, was sent.
    Said,
    /// Nothing will be said any more, and the client is to notice only by waiting.
    Silent,
    /// The connection is to break.
    Die,
    /// Wrong in a way only HTTP can be.
    Http(HttpGarbage),
}

/// What is wrong with an HTTP response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HttpGarbage {
    Html500,
    Empty,
    PlainText,
    TooMany(u64),
}

/// A refusal: code, message, data.
pub(crate) type Refusal = (i64, String, Option<Value>);

/// How a request turned out before it became a frame.
pub(crate) enum Outcome {
    /// A result as JSON text.
    Result(String),
    Refused(Refusal),
    Garbage(Garbage, String),
    Silent,
    Die,
}

/// What a request is answered for.
#[derive(Clone)]
pub(crate) struct Exchange {
    pub(crate) core: Arc<Core>,
    pub(crate) session: Arc<Session>,
    pub(crate) outlet: Outlet,
    pub(crate) modern: bool,
    /// The task the call runs as.
    pub(crate) task: Option<String>,
}

/// Between two looks at whether a method is still held.
const LOOK: Duration = Duration::from_millis(5);

/// Answers one request into the exchange's outlet.
pub(crate) async fn serve(exchange: &Exchange, incoming: &Incoming) -> Ended {
    let script = exchange.core.script();
    let method = incoming.method.as_deref().unwrap_or_default();
    if script.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(script.delay_ms)).await;
    }
    while exchange.core.script().held.iter().any(|held| held == method) {
        tokio::time::sleep(LOOK).await;
    }
    if script.hang.covers(method) {
        tokio::time::sleep(NEVER).await;
        return Ended::Silent;
    }
    let params = incoming.params();
    let mut outcome = match script.results.get(method) {
        Some(result) => Outcome::Result(result.clone()),
        None => outcome(exchange, &script, method, &params, incoming).await,
    };
    if let (Some(garbage), Outcome::Result(result)) = (script.garbage.get(method), &outcome) {
        outcome = Outcome::Garbage(garbage.clone(), result.clone());
    }
    let id = incoming.id();
    match outcome {
        Outcome::Result(result) => exchange.outlet.send(envelope(&script, id, &result)).await,
        Outcome::Refused(refusal) => exchange.outlet.send(error_frame(id, &refusal)).await,
        Outcome::Garbage(garbage, result) => return garble(exchange, &script, &garbage, id, &result).await,
        Outcome::Silent => return Ended::Silent,
        Outcome::Die => return Ended::Die,
    }
    Ended::Said
}

fn envelope(script: &Script, id: &str, result: &str) -> String {
    let unknown = if script.unknown_members { format!(",{UNKNOWN}") } else { String::new() };
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}{unknown}}}"#)
}

/// An error as a frame; `id` is JSON text.
pub(crate) fn error_frame(id: &str, (code, message, data): &Refusal) -> String {
    let mut error = json!({"code": code, "message": message});
    if let Some(data) = data {
        error["data"] = data.clone();
    }
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

async fn garble(exchange: &Exchange, script: &Script, garbage: &Garbage, id: &str, result: &str) -> Ended {
    let right = envelope(script, id, result);
    let over_http = matches!(exchange.outlet, Outlet::Stream(_));
    let wrong = match garbage {
        Garbage::WrongId => envelope(script, "987654321", result),
        Garbage::NullId => envelope(script, "null", result),
        Garbage::OtherIdType => match serde_json::from_str::<Value>(id) {
            Ok(Value::String(text)) if text.parse::<i64>().is_ok() => envelope(script, &text, result),
            Ok(Value::String(_)) => envelope(script, "1", result),
            _ => envelope(script, &format!("\"{id}\""), result),
        },
        Garbage::ResultAndError => {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result},"error":{{"code":-32603,"message":"both"}}}}"#)
        }
        Garbage::Neither => format!(r#"{{"jsonrpc":"2.0","id":{id}}}"#),
        Garbage::NoVersion => format!(r#"{{"id":{id},"result":{result}}}"#),
        Garbage::NotJson => "this is not JSON".to_owned(),
        Garbage::Truncated => {
            let end = (0..=right.len() / 2).rev().find(|end| right.is_char_boundary(*end)).unwrap_or(0);
            right[..end].to_owned()
        }
        Garbage::Html500 if over_http => return Ended::Http(HttpGarbage::Html500),
        Garbage::TooMany(seconds) if over_http => return Ended::Http(HttpGarbage::TooMany(*seconds)),
        Garbage::Html500 | Garbage::TooMany(_) => {
            "<html>\n<body>\n500 Internal Server Error\n</body>\n</html>".to_owned()
        }
        Garbage::Empty if over_http => return Ended::Http(HttpGarbage::Empty),
        Garbage::Empty => String::new(),
        Garbage::WrongContentType if over_http => {
            exchange.outlet.send(right).await;
            return Ended::Http(HttpGarbage::PlainText);
        }
        Garbage::WrongContentType => format!("{right} trailing text"),
        Garbage::Huge(bytes) => envelope(script, id, &format!("\"{}\"", "x".repeat(*bytes))),
        Garbage::Twice => {
            exchange.outlet.send(right.clone()).await;
            right
        }
    };
    exchange.outlet.send(wrong).await;
    Ended::Said
}

async fn outcome(exchange: &Exchange, script: &Script, method: &str, params: &Value, incoming: &Incoming) -> Outcome {
    if exchange.modern
        && let Some(rounds) = script.rounds.get(method)
        && let Turn::Answer(outcome) = rounds::turn(rounds, false, incoming)
    {
        return outcome;
    }
    let result = match method {
        "initialize" => {
            let version = script.negotiate(params["protocolVersion"].as_str().unwrap_or_default());
            let mut result = json!({
                "protocolVersion": version,
                "capabilities": capabilities(script, false),
                "serverInfo": {"name": script.name, "version": "1"},
            });
            if let Some(instructions) = &script.instructions {
                result["instructions"] = json!(instructions);
            }
            let declared = params["capabilities"].clone();
            *exchange.session.capabilities.lock().expect("invariant: nobody panics while holding them") = declared;
            *exchange.session.version.lock().expect("invariant: nobody panics while holding a version") = version;
            result
        }
        "server/discover" => {
            let mut result = json!({
                "supportedVersions": script.versions.iter().filter(|v| is_modern_version(v)).collect::<Vec<_>>(),
                "capabilities": capabilities(script, true),
                "ttlMs": 1_000,
                "cacheScope": "public",
            });
            if let Some(instructions) = &script.instructions {
                result["instructions"] = json!(instructions);
            }
            result
        }
        "resources/subscribe" if script.unwatchable.iter().any(|refused| params["uri"] == *refused) => {
            return Outcome::Refused((-32002, "there is no such resource".to_owned(), None));
        }
        "resources/subscribe" if script.updates_at_once && !exchange.modern => {
            exchange.core.notify(UPDATED, &json!({"uri": params["uri"], "own": 1})).await;
            // The notification overtakes the answer, whatever carries them.
            tokio::time::sleep(OVERTAKEN).await;
            json!({})
        }
        "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" if !exchange.modern => json!({}),
        "tools/list" => return list(exchange, script, "tools", tools(exchange, script), params),
        "resources/list" => {
            let item = |n| json!({"uri": format!("test://resource/{n}"), "name": format!("resource_{n}")}).to_string();
            return list(exchange, script, "resources", (0..script.resources).map(item).collect(), params);
        }
        "resources/templates/list" => {
            let template = json!({"uriTemplate": "test://resource/{number}", "name": "resource"}).to_string();
            let templates = if script.resources > 0 { vec![template] } else { Vec::new() };
            return list(exchange, script, "resourceTemplates", templates, params);
        }
        "prompts/list" => {
            let item = |n| json!({"name": format!("prompt_{n}"), "description": "A prompt"}).to_string();
            return list(exchange, script, "prompts", (0..script.prompts).map(item).collect(), params);
        }
        "resources/read" => {
            let uri = params["uri"].as_str().unwrap_or_default();
            let number = uri.strip_prefix("test://resource/").and_then(|number| number.parse::<usize>().ok());
            if number.is_none_or(|number| number >= script.resources) {
                let code = if exchange.modern { -32602 } else { -32002 };
                return Outcome::Refused((code, "there is no such resource".to_owned(), Some(json!({"uri": uri}))));
            }
            json!({"contents": [{"uri": uri, "mimeType": "text/plain", "text": format!("content of {uri}")}]})
        }
        "prompts/get" => {
            let name = params["name"].as_str().unwrap_or_default();
            let number = name.strip_prefix("prompt_").and_then(|number| number.parse::<usize>().ok());
            if number.is_none_or(|number| number >= script.prompts) {
                return Outcome::Refused((-32602, format!("there is no prompt `{name}`"), None));
            }
            let text = format!("{name} with {}", params["arguments"]);
            json!({"messages": [{"role": "user", "content": {"type": "text", "text": text}}]})
        }
        "completion/complete" => {
            let value = params["argument"]["value"].as_str().unwrap_or_default();
            json!({"completion": {"values": [format!("{value}1"), format!("{value}2")], "hasMore": false}})
        }
        "tools/call" => return call_tool(exchange, script, params, incoming).await,
        "tasks/get" | "tasks/cancel" | "tasks/list" | "tasks/result" if script.tasks && !exchange.modern => {
            return task(exchange, method, params).await;
        }
        "tasks/get" | "tasks/cancel" | "tasks/update" if script.tasks && exchange.modern => {
            return modern_task(exchange, script, method, params);
        }
        "subscriptions/listen" if exchange.modern => return listen(exchange, params, incoming.id()).await,
        other => return Outcome::Refused((-32601, format!("there is no method `{other}`"), None)),
    };
    let mut result = result;
    if let Some(question) = script.asks.get(method).filter(|_| !exchange.modern) {
        result["_meta"] = json!({"answer": call::ask_legacy(exchange, *question, Via::Call).await});
    }
    let cacheable = matches!(method, "resources/read");
    Outcome::Result(dress(exchange, script, result.to_string(), cacheable))
}

/// Adds what the era asks of every result, and unknown members when the script says so.
pub(crate) fn dress(exchange: &Exchange, script: &Script, result: String, cacheable: bool) -> String {
    let mut members = String::new();
    if exchange.modern {
        members.push_str(r#""resultType":"complete""#);
        if cacheable {
            members.push_str(r#","ttlMs":0,"cacheScope":"private""#);
        }
    }
    let result = insert(&result, &members);
    if script.unknown_members { insert(&result, UNKNOWN) } else { result }
}

/// Puts members in front of those of a JSON object.
fn insert(object: &str, members: &str) -> String {
    match object.trim_start().strip_prefix('{') {
        Some(rest) if !members.is_empty() => {
            let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
            format!("{{{members}{comma}{rest}")
        }
        _ => object.to_owned(),
    }
}

fn capabilities(script: &Script, modern: bool) -> Value {
    if let Some(capabilities) = &script.capabilities {
        return capabilities.clone();
    }
    let mut capabilities = json!({"tools": {"listChanged": true}, "logging": {}});
    if script.resources > 0 {
        capabilities["resources"] = json!({"subscribe": true, "listChanged": true});
        capabilities["completions"] = json!({});
    }
    if script.prompts > 0 {
        capabilities["prompts"] = json!({"listChanged": true});
        capabilities["completions"] = json!({});
    }
    if script.tasks && modern {
        capabilities["extensions"][TASKS] = json!({});
    }
    if script.tasks && !modern {
        capabilities["tasks"] = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
    }
    if script.unknown_members {
        capabilities["x-vendor/capability"] = json!({"depth": 3});
    }
    capabilities
}

fn tools(exchange: &Exchange, script: &Script) -> Vec<String> {
    let changes = exchange.core.list_changes.load(Ordering::Relaxed);
    let declared = exchange.session.capabilities.lock().expect("invariant: nobody panics while holding them").clone();
    let shown = |tool: &&ToolScript| tool.needs.as_ref().is_none_or(|needed| declared.get(needed).is_some());
    let mut tools: Vec<String> =
        script.scripted_tools.iter().filter(shown).map(|tool| tool_item(script, tool, exchange.modern)).collect();
    let generated = |n| tool_item(script, &ToolScript::new(&format!("{}{n}", script.tool_prefix)), exchange.modern);
    tools.extend((0..script.tools).map(generated));
    if changes % 2 == 1 {
        tools.push(tool_item(script, &ToolScript::new("extra_tool"), exchange.modern));
    }
    tools
}

fn tool_item(script: &Script, tool: &ToolScript, modern: bool) -> String {
    let mut item = json!({"name": tool.name, "description": format!("Scripted tool {}", tool.name)});
    item["inputSchema"] = json!({"type": "object", "properties": {"text": {"type": "string"}}});
    if script.tasks && !modern {
        item["execution"] = json!({"taskSupport": "optional"});
    }
    if let (Some(item), Some(definition)) = (item.as_object_mut(), tool.definition.as_object()) {
        item.extend(definition.clone());
    }
    item.to_string()
}

/// One page of a list.
fn list(exchange: &Exchange, script: &Script, member: &str, items: Vec<String>, params: &Value) -> Outcome {
    let page = match &params["cursor"] {
        Value::Null => 0,
        Value::String(cursor) if cursor.is_empty() && script.empty_cursor => 1,
        cursor => match cursor.as_str().and_then(|cursor| cursor.strip_prefix("page-")?.parse::<usize>().ok()) {
            Some(page) if page > 0 => page,
            _ => return Outcome::Refused((-32602, "that cursor is not one of mine".to_owned(), None)),
        },
    };
    let size = if script.page == 0 { items.len() } else { script.page };
    let empty = script.empty_page && page == 1;
    let skipped = if script.empty_page && page > 1 { page - 1 } else { page };
    let start = skipped.saturating_mul(size).min(items.len());
    let end = if empty { start } else { start.saturating_add(size).min(items.len()) };
    let mut listed: Vec<String> = items[start..end].to_vec();
    if script.unknown_members {
        listed = listed.iter().map(|item| insert(item, UNKNOWN)).collect();
    }
    let more = end < items.len() || (script.empty_page && page == 0 && script.page > 0);
    let cursor = match (more, page) {
        (false, _) => String::new(),
        (true, 0) if script.empty_cursor => r#","nextCursor":"""#.to_owned(),
        (true, _) => format!(r#","nextCursor":"page-{}""#, page + 1),
    };
    let result = format!(r#"{{"{member}":[{}]{cursor}}}"#, listed.join(","));
    Outcome::Result(dress(exchange, script, result, true))
}

/// The tool of that name.
pub(crate) fn find_tool(exchange: &Exchange, script: &Script, name: &str) -> Option<ToolScript> {
    let generated = |name: &str| {
        let number = name.strip_prefix(&script.tool_prefix)?.parse::<usize>().ok()?;
        (number < script.tools).then_some(())
    };
    let extra = || name == "extra_tool" && exchange.core.list_changes.load(Ordering::Relaxed) % 2 == 1;
    let scripted = script.scripted_tools.iter().find(|tool| tool.name == name).cloned();
    scripted.or_else(|| (generated(name).is_some() || extra()).then(|| ToolScript::new(name)))
}

async fn call_tool(exchange: &Exchange, script: &Script, params: &Value, incoming: &Incoming) -> Outcome {
    let name = params["name"].as_str().unwrap_or_default();
    let Some(tool) = find_tool(exchange, script, name) else {
        return Outcome::Refused((-32602, format!("there is no tool `{name}`"), None));
    };
    if script.tasks && !exchange.modern && params["task"].is_object() {
        let id = exchange.core.tasks.begin(params["task"]["ttl"].clone());
        let described = exchange.core.tasks.describe(&id, false).unwrap_or_default();
        start_task(exchange, tool, incoming, id);
        return Outcome::Result(dress(exchange, script, json!({"task": described}).to_string(), false));
    }
    if !exchange.modern && tool.definition["execution"]["taskSupport"] == "required" {
        return Outcome::Refused((-32601, format!("`{name}` only runs as a task"), None));
    }
    let follows = &params["_meta"]["io.modelcontextprotocol/clientCapabilities"]["extensions"][TASKS];
    if script.tasks && exchange.modern && tool.as_task && follows.is_object() {
        let id = exchange.core.tasks.begin(json!(60_000));
        let described = exchange.core.tasks.describe(&id, true).unwrap_or_default().to_string();
        start_task(exchange, tool, incoming, id);
        return Outcome::Result(insert(&described, r#""resultType":"task""#));
    }
    call::run(exchange, script, &tool, incoming, params).await
}

/// Runs a call as a core task; what it says goes to the stream of unrelated messages.
fn start_task(exchange: &Exchange, tool: ToolScript, incoming: &Incoming, id: String) {
    let outlet = exchange.session.side.clone();
    let exchange = Exchange { outlet, task: Some(id.clone()), ..exchange.clone() };
    let incoming = Incoming {
        // Not the request's: that one is over, and its end would be the task's.
        id: RawValue::from_string(Value::from(id.as_str()).to_string()).ok(),
        method: incoming.method.clone(),
        params: incoming.params.clone(),
        result: None,
        error: None,
    };
    let core = Arc::clone(&exchange.core);
    core.spawn(async move {
        let script = exchange.core.script();
        let params = incoming.params();
        let (status, outcome) = match call::run(&exchange, &script, &tool, &incoming, &params).await {
            Outcome::Result(result) => ("completed", Some(Ok(result))),
            Outcome::Silent => return,
            Outcome::Refused(refusal) => ("failed", Some(Err(refusal))),
            Outcome::Garbage(..) | Outcome::Die => ("failed", None),
        };
        if exchange.modern {
            if exchange.core.tasks.end(&id, status, outcome) {
                let detail = exchange.core.tasks.detail(&id).unwrap_or_default();
                let detail = serde_json::from_str(&detail).unwrap_or_default();
                exchange.core.notify("notifications/tasks", &detail).await;
            }
            return;
        }
        let tag = format!(r#""_meta":{{"io.modelcontextprotocol/related-task":{{"taskId":"{id}"}}}}"#);
        let outcome = outcome.map(|outcome| outcome.map(|result| insert(&result, &tag)));
        if exchange.core.tasks.end(&id, status, outcome) {
            let described = exchange.core.tasks.describe(&id, false).unwrap_or_default();
            exchange.outlet.send(crate::core::notification("notifications/tasks/status", &described)).await;
        }
    });
}

async fn task(exchange: &Exchange, method: &str, params: &Value) -> Outcome {
    let tasks = &exchange.core.tasks;
    if method == "tasks/list" {
        return Outcome::Result(tasks.list().to_string());
    }
    let id = params["taskId"].as_str().unwrap_or_default();
    let unknown = || Outcome::Refused((-32602, "there is no such task".to_owned(), None));
    if tasks.describe(id, false).is_none() {
        return unknown();
    }
    match method {
        "tasks/result" => match tasks.result(id, &exchange.outlet).await {
            Some(Ok(result)) => Outcome::Result(result),
            Some(Err(refusal)) => Outcome::Refused(refusal),
            None => unknown(),
        },
        "tasks/cancel" if !tasks.end(id, "cancelled", None) => {
            Outcome::Refused((-32602, "the task has ended".to_owned(), None))
        }
        _ => tasks.describe(id, false).map_or_else(unknown, |described| Outcome::Result(described.to_string())),
    }
}

/// The methods of the tasks extension.
fn modern_task(exchange: &Exchange, script: &Script, method: &str, params: &Value) -> Outcome {
    let tasks = &exchange.core.tasks;
    let id = params["taskId"].as_str().unwrap_or_default();
    let Some(detail) = tasks.detail(id) else {
        return Outcome::Refused((-32602, "there is no such task".to_owned(), None));
    };
    let result = match method {
        "tasks/update" => {
            tasks.answer(id, &params["inputResponses"]);
            "{}".to_owned()
        }
        "tasks/cancel" => {
            tasks.end(id, "cancelled", None);
            "{}".to_owned()
        }
        _ => detail,
    };
    Outcome::Result(dress(exchange, script, result, false))
}

/// Keeps a `subscriptions/listen` open until the client ends it.
async fn listen(exchange: &Exchange, params: &Value, id: &str) -> Outcome {
    let mut filter = params["notifications"].clone();
    let is_named = |named: &String| {
        filter["resourceSubscriptions"].as_array().is_some_and(|uris| uris.iter().any(|uri| uri == named))
    };
    let is_silent = exchange.core.script().unacknowledged.as_ref().is_some_and(is_named);
    if let Some(uris) = filter.get_mut("resourceSubscriptions").and_then(Value::as_array_mut) {
        let script = exchange.core.script();
        uris.retain(|uri| !script.unwatchable.iter().any(|refused| uri == refused));
    }
    let acknowledged = json!({"notifications": filter});
    let frame = tagged_notification("notifications/subscriptions/acknowledged", &acknowledged, id);
    let mut cancelled = exchange.session.begin_call(id);
    if !is_silent {
        exchange.outlet.send(frame).await;
    }
    {
        let mut listeners = exchange.core.listeners.lock().expect("invariant: nobody panics while holding them");
        listeners.push(Listener { id: id.to_owned(), filter, outlet: exchange.outlet.clone() });
    }
    if exchange.core.script().updates_at_once {
        for uri in acknowledged["notifications"]["resourceSubscriptions"].as_array().into_iter().flatten() {
            exchange.outlet.send(tagged_notification(UPDATED, &json!({"uri": uri, "own": 1}), id)).await;
        }
    }
    let ended = tokio::time::timeout(NEVER, cancelled.wait_for(|cancelled| *cancelled)).await;
    let mut listeners = exchange.core.listeners.lock().expect("invariant: nobody panics while holding them");
    listeners.retain(|listener| listener.id != id || !same(&listener.outlet, &exchange.outlet));
    if ended.is_ok() {
        exchange.core.note_cancelled(id);
    }
    Outcome::Silent
}

fn same(one: &Outlet, other: &Outlet) -> bool {
    match (one, other) {
        (Outlet::Stream(one), Outlet::Stream(other)) => Arc::ptr_eq(one, other),
        (Outlet::Lines(one), Outlet::Lines(other)) => one.same_channel(other),
        _ => false,
    }
}

/// How the end of a call becomes an outcome; `echo` is the result of [`Finish::Echo`].
pub(crate) fn finish(exchange: &Exchange, script: &Script, finish: &Finish, echo: String) -> Outcome {
    let dressed = |result: String| dress(exchange, script, result, false);
    match finish {
        Finish::Echo => Outcome::Result(dressed(echo)),
        Finish::Result { json } => Outcome::Result(json.clone()),
        Finish::Error { code, message } => Outcome::Refused((*code, message.clone(), None)),
        Finish::UrlRequired { times } => {
            if exchange.core.urls_required.fetch_add(1, Ordering::Relaxed) >= *times {
                return Outcome::Result(dressed(echo));
            }
            let data = json!({"elicitations": [Question::ElicitationUrl.params()]});
            Outcome::Refused((-32042, "a URL must be opened first".to_owned(), Some(data)))
        }
        Finish::ToolError { text } => {
            Outcome::Result(dressed(json!({"content": [{"type": "text", "text": text}], "isError": true}).to_string()))
        }
        Finish::Hang => Outcome::Silent,
        Finish::Die => Outcome::Die,
        Finish::Garbage(garbage) => Outcome::Garbage(garbage.clone(), dressed(echo)),
    }
}
