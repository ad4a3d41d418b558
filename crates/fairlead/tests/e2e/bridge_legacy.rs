//! Clients of the session-based revisions in front of servers of 2026-07-28: what a server asks with `input_required` is
//! asked of the client on the stream of its call, and what it answers reaches the server in the same call made again.

mod across;
mod feature;
mod refusals;
mod rounds;

use std::sync::{Arc, Mutex};

use fairlead_testkit::{McpClient, Reply, Round, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, PATIENCE};

/// A server, a gateway before it, and what clients of it need.
struct Bridged {
    server: ScriptedServer,
    gateway: Gateway,
}

impl Bridged {
    async fn new(script: Script) -> Self {
        Self::with(script, "", "").await
    }

    /// The same with more keys of the server and more lines of the configuration.
    async fn with(script: Script, options: &str, yaml: &str) -> Self {
        let server = ScriptedServer::start(script).await;
        let yaml = format!("{yaml}servers:\n  a: {{ url: \"{}\"{options} }}\n", server.url());
        let gateway = Gateway::start(&yaml).await;
        Self { server, gateway }
    }

    /// A client of `/mcp` that can be asked everything.
    async fn person(&self, revision: &str) -> Person {
        Person::new(&self.gateway.url("/mcp"), revision, everything()).await
    }

    /// The calls the server got, oldest first, byte for byte.
    fn calls(&self) -> Vec<String> {
        let calls = self.server.received_method("tools/call");
        calls.iter().map(|call| String::from_utf8(call.body.to_vec()).unwrap()).collect()
    }
}

/// What a client that can be asked everything declares.
fn everything() -> Value {
    json!({
        "elicitation": {"form": {}, "url": {}},
        "sampling": {"tools": {}},
        "roots": {"listChanged": true},
        "tasks": {"list": {}},
    })
}

/// A client that answers, and remembers what it was asked.
struct Person {
    client: McpClient,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Person {
    async fn new(url: &str, revision: &str, capabilities: Value) -> Self {
        Self::answering(url, revision, capabilities, says).await
    }

    async fn answering(
        url: &str,
        revision: &str,
        capabilities: Value,
        says: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        let client = McpClient::new(url).limit(PATIENCE).capabilities(capabilities).answering(move |method, params| {
            record.lock().unwrap().push((method.to_owned(), params.clone()));
            says(method, params)
        });
        client.initialize(revision).await.unwrap();
        Self { client, asked }
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }

    fn methods(&self) -> Vec<String> {
        self.asked().into_iter().map(|(method, _)| method).collect()
    }

    /// The error of a call.
    async fn refusal(&self, tool: &str) -> String {
        let answer = self.client.request("tools/call", json!({"name": tool, "arguments": {}})).await.unwrap();
        assert_eq!(answer.status, 200, "{tool}");
        let error = answer.error();
        error["message"].as_str().unwrap_or_else(|| panic!("{tool}: no error in {:?}", answer.response())).to_owned()
    }
}

/// What a person says.
fn says(method: &str, _params: &Value) -> Reply {
    Reply::Result(match method {
        "roots/list" => json!({"roots": [{"uri": "file:///srv/ann", "name": "ann"}], "own": 1}),
        "sampling/createMessage" => {
            json!({"role": "assistant", "model": "ann", "content": {"type": "text", "text": "Paris"}})
        }
        _ => json!({"action": "accept", "content": {"name": "ann"}}),
    })
}

/// The answers a scripted tool got.
fn answers(result: &Value) -> Vec<Value> {
    result["structuredContent"]["answers"].as_array().cloned().unwrap_or_else(|| panic!("no answers: {result}"))
}

const FORM: &str = r#"{"method":"elicitation/create","params":{"mode":"form","message":"Who?","requestedSchema":{"type":"object","properties":{"name":{"type":"string"}}},"x-vendor":{"big":12345678901234567890123,"price":1.10,"nothing":null}}}"#;
const URL: &str =
    r#"{"method":"elicitation/create","params":{"mode":"url","message":"Sign in","url":"https://example.com/in"}}"#;
const SAMPLING: &str = r#"{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1E2,"tools":[{"name":"t","inputSchema":{}}]}}"#;
const ROOTS: &str = r#"{"method":"roots/list"}"#;
/// A state whose spelling no serializer would keep.
const STATE: &str = r#""s\u0074\u00e4te\/\"1.10\" é 🦀""#;

/// A tool that asks this in one round.
fn asking(name: &str, requests: &str) -> ToolScript {
    ToolScript::new(name).round(Round::new(requests, STATE))
}

/// `inputRequests` with one question.
fn one(question: &str) -> String {
    format!("{{\"q\":{question}}}")
}
