//! One gateway before a server of every revision, and the clients that come to it.

use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use fairlead_testkit::{McpClient, Question, Reply, Script, ScriptedServer, Step, ToolScript, Via};
use serde_json::{Value, json};

use super::{REVISIONS, client::Client};
use crate::support::{Gateway, MODERN, PATIENCE};

/// Resources of a server: one for each row.
const RESOURCES: usize = 64;

/// The gateway and what is behind it.
pub(super) struct House {
    pub(super) gateway: Gateway,
    /// One of each revision.
    pub(super) servers: Vec<ScriptedServer>,
    /// One more of each, that follows its clients' roots: a modern client is asked for them with every call.
    _rooted: Vec<ScriptedServer>,
}

impl House {
    pub(super) async fn open() -> Self {
        let (mut servers, mut rooted) = (Vec::new(), Vec::new());
        let mut yaml = "servers:\n".to_owned();
        for revision in REVISIONS {
            let asks = ToolScript::new("roots").ask(Question::Roots, Via::Call);
            let follower = Script::speaking(revision).resources_and_prompts(0, 1).tool(asks);
            servers.push(ScriptedServer::start(script(revision)).await);
            rooted.push(ScriptedServer::start(follower).await);
            for (name, server) in [(server_name(revision), servers.last()), (rooted_name(revision), rooted.last())] {
                let url = server.map(ScriptedServer::url).unwrap_or_default();
                yaml.push_str(&format!("  {name}: {{ url: \"{url}\", resources: prefix, max_sessions: 256 }}\n"));
            }
        }
        let house = Self { gateway: Gateway::start(&yaml).await, servers, _rooted: rooted };
        // The first question for roots on a link that several clients use is declined, and remembered.
        for revision in REVISIONS {
            let url = house.gateway.url(&format!("/servers/{}/mcp", rooted_name(revision)));
            let nowhere = |_: &str, _: &Value| Reply::Result(json!({"roots": []}));
            let first = McpClient::new(&url).limit(PATIENCE).capabilities(json!({"roots": {}})).answering(nowhere);
            first.initialize("2025-11-25").await.unwrap();
            first.call("roots", json!({})).await.unwrap();
            first.delete().await.unwrap();
        }
        house
    }
}

fn rooted_name(revision: &str) -> String {
    format!("r{}", revision.replace('-', ""))
}

fn server_name(revision: &str) -> String {
    format!("v{}", revision.replace('-', ""))
}

/// A server with a tool for everything its revision has.
fn script(revision: &str) -> Script {
    let modern = revision == MODERN;
    let kind = if modern { r#""resultType":"complete","# } else { "" };
    let structured = format!(
        r#"{{{kind}"content":[{{"type":"text","text":"{{\"degrees\":1.50}}"}}],"structuredContent":{{"degrees":1.50}}}}"#
    );
    let bare = format!(r#"{{{kind}"content":[{{"type":"text","text":"[1.50]"}}],"structuredContent":[1.50]}}"#);
    let log = |level: &str| Step::Log { level: level.to_owned(), text: level.to_owned() };
    let mut url = ToolScript::new("url").ask(Question::ElicitationUrl, Via::Call);
    if !modern {
        let params = json!({"elicitationId": "sign-in-1"});
        let method = "notifications/elicitation/complete".to_owned();
        url = url.step(Step::Notify { method, params, via: Via::Call });
    }
    let mut script = Script::speaking(revision)
        .name(&server_name(revision))
        .resources_and_prompts(RESOURCES, 1)
        .tool(ToolScript::new("structured").result(&structured))
        .tool(ToolScript::new("form").ask(Question::Elicitation, Via::Call))
        .tool(url)
        .tool(ToolScript::new("sampling").ask(Question::Sampling, Via::Call))
        .tool(ToolScript::new("sampling_tools").ask(Question::SamplingTools, Via::Call))
        .tool(ToolScript::new("logs").step(log("debug")).step(log("error")))
        .tool(ToolScript::new("long").progress(3, 5))
        .tool(ToolScript::new("longer").progress(5, 40))
        .tool(ToolScript::new("slow").sleep(60_000))
        .tool(ToolScript::new("soon").sleep(300));
    if modern {
        script = script.tool(ToolScript::new("bare").result(&bare));
    } else {
        script = script.tool(ToolScript::new("pings").ask(Question::Ping, Via::Call));
    }
    if revision < "2025-11-25" {
        return script;
    }
    // A server of a session says of a tool that it runs as a task, a modern one just runs it as one.
    let definition = json!({"execution": {"taskSupport": "required"}});
    for (name, ms) in [("task_soon", 300), ("task_slow", 60_000)] {
        let tool = ToolScript::new(name).sleep(ms);
        script = script.tool(if modern { tool.as_task() } else { tool.definition(definition.clone()) });
    }
    script.tasks()
}

/// One client of one endpoint, which is there for one server.
pub(super) struct Row {
    pub(super) house: Arc<House>,
    /// Differs from that of every other row.
    pub(super) number: usize,
    /// The client's revision.
    pub(super) revision: &'static str,
    /// The server's place.
    pub(super) server: usize,
    /// Whether the endpoint is that of all servers.
    pub(super) merged: bool,
    pub(super) client: Client,
    /// The same before the server that follows roots.
    pub(super) rooted: Client,
    /// What the endpoint says it can do.
    pub(super) capabilities: Value,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    roots: Arc<Mutex<String>>,
}

impl Row {
    pub(super) async fn enter(
        house: Arc<House>,
        number: usize,
        revision: &'static str,
        server: usize,
        merged: bool,
    ) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let roots = Arc::new(Mutex::new(format!("file:///row/{number}")));
        let path = |name: String| if merged { "/mcp".to_owned() } else { format!("/servers/{name}/mcp") };
        let come = async |name: String| {
            let (record, now) = (Arc::clone(&asked), Arc::clone(&roots));
            let answering = move |method: &str, params: &Value| {
                record.lock().unwrap().push((method.to_owned(), params.clone()));
                Reply::Result(says(number, &now.lock().unwrap(), method, params))
            };
            let path = path(name);
            let come = Client::come(&house.gateway, &path, revision, declared(revision), Arc::new(answering));
            come.await.unwrap()
        };
        let (client, capabilities) = come(server_name(REVISIONS[server])).await;
        let rooted = match merged {
            true => client.clone(),
            false => come(rooted_name(REVISIONS[server])).await.0,
        };
        Self { house, number, revision, server, merged, client, rooted, capabilities, asked, roots }
    }

    /// Whether the client is of the modern era.
    pub(super) fn is_modern(&self) -> bool {
        self.revision == MODERN
    }

    /// The server.
    pub(super) fn upstream(&self) -> &ScriptedServer {
        &self.house.servers[self.server]
    }

    /// The server's revision.
    pub(super) fn server_revision(&self) -> &'static str {
        REVISIONS[self.server]
    }

    /// The name a tool or prompt of the server has at the endpoint.
    pub(super) fn name(&self, own: &str) -> String {
        match self.merged {
            true => format!("{}__{own}", server_name(self.server_revision())),
            false => own.to_owned(),
        }
    }

    /// The URI a resource of the server has at the endpoint.
    pub(super) fn uri(&self, own: &str) -> String {
        match self.merged {
            true => format!("fairlead+{}:{own}", server_name(self.server_revision())),
            false => own.to_owned(),
        }
    }

    /// The resource that only this row looks at, as the server calls it.
    pub(super) fn own_resource(&self) -> String {
        format!("test://resource/{}", self.number)
    }

    /// Calls a tool of the server.
    pub(super) async fn call(&self, own: &str, arguments: Value) -> anyhow::Result<Value> {
        self.client.call(&self.name(own), arguments).await.with_context(|| format!("calling `{own}`"))
    }

    /// Calls the tool that asks for roots.
    pub(super) async fn call_rooted(&self) -> anyhow::Result<Value> {
        self.rooted.call(&self.rooted("roots"), json!({})).await
    }

    /// The name a tool or prompt of the server that follows roots has at the endpoint.
    pub(super) fn rooted(&self, own: &str) -> String {
        match self.merged {
            true => format!("{}__{own}", rooted_name(self.server_revision())),
            false => own.to_owned(),
        }
    }

    /// What the client was asked so far.
    pub(super) fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }

    /// The client's root.
    pub(super) fn root(&self) -> String {
        self.roots.lock().unwrap().clone()
    }

    /// Gives the client another root.
    pub(super) fn set_root(&self, root: &str) {
        root.clone_into(&mut self.roots.lock().unwrap());
    }
}

/// What a client of a revision can declare.
fn declared(revision: &str) -> Value {
    let mut declared = json!({"roots": {"listChanged": true}, "sampling": {}});
    if revision >= "2025-06-18" {
        declared["elicitation"] = json!({});
    }
    if revision >= "2025-11-25" {
        declared["elicitation"] = json!({"form": {}, "url": {}});
        declared["sampling"] = json!({"tools": {}});
    }
    if revision == MODERN {
        declared["roots"] = json!({});
        declared["extensions"] = json!({"io.modelcontextprotocol/tasks": {}});
    }
    declared
}

/// What the client of a row says to a question.
fn says(number: usize, root: &str, method: &str, params: &Value) -> Value {
    match method {
        "roots/list" => json!({"roots": [{"uri": root, "name": "row"}]}),
        "sampling/createMessage" if params["tools"].is_array() => json!({
            "role": "assistant",
            "model": format!("row {number}"),
            "content": {"type": "tool_use", "id": "1", "name": params["tools"][0]["name"], "input": {}},
            "stopReason": "toolUse",
        }),
        "sampling/createMessage" => json!({
            "role": "assistant",
            "model": format!("row {number}"),
            "content": {"type": "text", "text": "Paris"},
        }),
        _ if params["mode"] == "url" => json!({"action": "accept"}),
        _ => json!({"action": "accept", "content": {"name": format!("row {number}")}}),
    }
}
