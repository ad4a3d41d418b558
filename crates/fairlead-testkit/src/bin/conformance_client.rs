//! The gateway as the client that the conformance suite looks at: `conformance-client PROGRAM DIRECTORY URL`.
//!
//! Starts PROGRAM as a gateway whose one server is URL, comes to it as a client of the revision the suite names, and
//! uses everything the server lists: calls every tool (or those the suite prescribes), reads every resource, gets every
//! prompt, and answers what is asked with the defaults of the form. What it meets is the suite's business to judge.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use fairlead_testkit::{McpClient, Reply};
use serde_json::{Value, json};

/// How long the gateway may take to be ready, or to end.
const LIMIT: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long any answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How soon a stream is picked up again that does not say.
const RETRY: Duration = Duration::from_millis(500);
/// The first revision without handshake.
const MODERN: &str = "2026-07-28";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [program, directory, url] = arguments.as_slice() else {
        bail!("usage: conformance-client PROGRAM DIRECTORY URL");
    };
    let revision = env::var("MCP_CONFORMANCE_PROTOCOL_VERSION").context("the suite names no revision")?;
    let context = env::var("MCP_CONFORMANCE_CONTEXT").ok();
    let context: Value = context.map_or(Ok(Value::Null), |text| serde_json::from_str(&text))?;
    let scenario = env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default().replace('/', "-");
    let directory = Path::new(directory).join(format!("{scenario}-{revision}-{}", std::process::id()));
    let gateway = Gateway::start(Path::new(program), directory, url).await?;
    use_everything(&gateway.endpoint().await?, &revision, &context).await
}

/// A running gateway; it is told to end when this is dropped.
struct Gateway {
    child: Child,
    directory: PathBuf,
}

impl Gateway {
    async fn start(program: &Path, directory: PathBuf, url: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let config = directory.join("fairlead.yaml");
        let yaml = format!(
            "listen: {{ address: \"127.0.0.1:0\" }}\nadmin: off\ndata_dir: data\nservers:\n  suite: {{ url: \"{url}\" }}\n"
        );
        fs::write(&config, yaml).with_context(|| config.display().to_string())?;
        let log = fs::File::create(directory.join("gateway.log"))?;
        let child = Command::new(program)
            .args(["up", "-c"])
            .arg(&config)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        Ok(Self { child, directory })
    }

    /// The endpoint of the one server, once the gateway is ready.
    async fn endpoint(&self) -> anyhow::Result<String> {
        let path = self.directory.join("data/instance.json");
        let start = Instant::now();
        loop {
            let instance = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            if let Some(url) = instance.as_ref().and_then(|instance| instance["mcp_url"].as_str()) {
                let base = url.strip_suffix("/mcp").context("the endpoint of all servers ends otherwise")?;
                return Ok(format!("{base}/servers/suite/mcp"));
            }
            if start.elapsed() > LIMIT {
                bail!("the gateway is not ready after {LIMIT:?}, see {}", self.directory.display());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let start = Instant::now();
        // The standard library has no signals. One that has ended already is what is wanted.
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().ok();
        while start.elapsed() < LIMIT {
            if let Ok(Some(_)) | Err(_) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn use_everything(endpoint: &str, revision: &str, context: &Value) -> anyhow::Result<()> {
    let client = McpClient::new(endpoint)
        .limit(ANSWER_LIMIT)
        .capabilities(json!({"elicitation": {"form": {}}, "sampling": {}, "roots": {}}))
        .answering(|method, params| Reply::Result(answer(method, params)));
    let (client, said) = if revision >= MODERN {
        let client = client.modern(revision);
        let said = client.result("server/discover", json!({})).await.context("server/discover")?;
        (client, said)
    } else {
        let said = client.initialize(revision).await.context("initialize")?;
        (client, said)
    };
    let capabilities = &said["capabilities"];
    // Also of a server that does not say that it has any.
    let tools = match client.list("tools/list", "tools").await {
        Ok(tools) => tools,
        Err(_) if capabilities["tools"].is_null() => Vec::new(),
        Err(error) => return Err(error.context("tools/list")),
    };
    for (name, arguments) in calls(&tools, context) {
        let schema = tools.iter().find(|tool| tool["name"] == name).map(|tool| &tool["inputSchema"]);
        let headers = schema.map(|schema| mirrored(schema, &arguments)).unwrap_or_default();
        let caller = headers.iter().fold(client.clone(), |caller, (name, value)| caller.header(name, value));
        let called = match revision < MODERN {
            true => call_to_the_end(&caller, &name, arguments).await,
            false => caller.call(&name, arguments).await,
        };
        // Some servers of the suite list what they do not serve.
        note(&name, called);
    }
    if !capabilities["resources"].is_null() {
        for resource in client.list("resources/list", "resources").await? {
            let uri = &resource["uri"];
            note("resources/read", client.result("resources/read", json!({"uri": uri})).await);
        }
    }
    if !capabilities["prompts"].is_null() {
        for prompt in client.list("prompts/list", "prompts").await? {
            let name = &prompt["name"];
            note("prompts/get", client.result("prompts/get", json!({"name": name})).await);
        }
    }
    if revision < MODERN {
        client.delete().await?;
    }
    Ok(())
}

/// Calls a tool of a session; a stream that ends before the answer is picked up again when and where it says.
async fn call_to_the_end(client: &McpClient, name: &str, arguments: Value) -> anyhow::Result<Value> {
    let mut stream = client.start("tools/call", json!({"name": name, "arguments": arguments})).await?;
    let id = stream.id().cloned().context("a request has an id")?;
    let (mut retry, mut last) = (RETRY, None);
    loop {
        let Some(frame) = stream.next_event(ANSWER_LIMIT).await? else {
            let last: &String = last.as_ref().context("the stream ended without an answer")?;
            tokio::time::sleep(retry).await;
            stream = client.open_get(Some(last)).await?;
            continue;
        };
        retry = frame.retry.map_or(retry, Duration::from_millis);
        last = frame.id.clone().or(last);
        let message = frame.json();
        if let (Some(method), Some(question)) = (message["method"].as_str(), message.get("id")) {
            let result = answer(method, &message["params"]);
            client.post(&json!({"jsonrpc": "2.0", "id": question, "result": result})).await?;
        } else if message["id"] == id {
            return message.get("result").cloned().with_context(|| message.to_string());
        }
    }
}

/// Says what did not succeed, for whoever looks into a failed scenario.
fn note(what: &str, outcome: anyhow::Result<Value>) {
    if let Err(error) = outcome {
        eprintln!("{what}: {error}");
    }
}

/// The headers of 2026-07-28 that repeat arguments: `Mcp-Param-{name}` for each property that asks for it.
fn mirrored(schema: &Value, arguments: &Value) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let text = match &arguments[key] {
            Value::String(text) => text.clone(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            _ => continue,
        };
        if let Some(name) = property["x-mcp-header"].as_str() {
            headers.push((format!("Mcp-Param-{name}"), header_value(&text)));
        }
    }
    headers
}

/// What cannot be a header as it is, and what would be taken for such, is written in base64.
fn header_value(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim() == text;
    if is_plain && !text.starts_with("=?base64?") { text.to_owned() } else { format!("=?base64?{}?=", base64(text)) }
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            encoded.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    encoded
}

/// The calls that the suite prescribes, or one of every tool.
fn calls(tools: &[Value], context: &Value) -> Vec<(String, Value)> {
    let name = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
    if let Some(prescribed) = context["toolCalls"].as_array() {
        return prescribed.iter().map(|call| (name(call), call["arguments"].clone())).collect();
    }
    tools.iter().map(|tool| (name(tool), arguments(&tool["inputSchema"], tools))).collect()
}

/// A value for every argument that has to be there; one that is called a schema gets that of the first tool.
fn arguments(schema: &Value, tools: &[Value]) -> Value {
    let mut arguments = json!({});
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        arguments[key] = match schema["properties"][key]["type"].as_str() {
            Some("number" | "integer") => json!(5),
            Some("boolean") => json!(true),
            Some("object") if key == "schema" => tools[0]["inputSchema"].clone(),
            Some("object") => json!({}),
            Some("array") => json!([]),
            _ => json!("text"),
        };
    }
    arguments
}

/// What a person who agrees with everything says.
fn answer(method: &str, params: &Value) -> Value {
    match method {
        "roots/list" => json!({"roots": []}),
        "sampling/createMessage" => {
            json!({"role": "assistant", "model": "none", "content": {"type": "text", "text": "text"}})
        }
        _ => {
            let mut content = json!({});
            for (key, property) in params["requestedSchema"]["properties"].as_object().into_iter().flatten() {
                match &property["default"] {
                    Value::Null if property["type"] == "boolean" => content[key] = json!(true),
                    Value::Null => {}
                    default => content[key] = default.clone(),
                }
            }
            json!({"action": "accept", "content": content})
        }
    }
}
