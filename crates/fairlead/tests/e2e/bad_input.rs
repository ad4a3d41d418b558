//! Bad input: the caller gets the protocol's error, the log the cause, and nobody else notices.

mod configuration;
mod connections;
mod headers;
mod messages;
mod upstreams;

use std::time::Instant;

use fairlead_testkit::{McpClient, Script, ScriptedServer};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, SECOND, relaxed};

/// A gateway before one well-behaved server, with a client that was there first.
pub(crate) struct Bystander {
    pub(crate) gateway: Gateway,
    client: McpClient,
    _server: ScriptedServer,
}

impl Bystander {
    pub(crate) async fn new(options: &str) -> Self {
        let server = ScriptedServer::start(Script::legacy().resources_and_prompts(1, 1)).await;
        let gateway = Gateway::start(&format!("{options}\nservers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        client.list("tools/list", "tools").await.unwrap();
        Self { gateway, client, _server: server }
    }

    /// The client that was there first notices nothing.
    pub(crate) async fn notices_nothing(&self) {
        let start = Instant::now();
        let result = self.client.call("a__tool_0", json!({"still": "here"})).await.unwrap();
        assert_eq!(result["structuredContent"]["arguments"]["still"], "here");
        assert!(start.elapsed() < relaxed(2 * SECOND), "{:?}", start.elapsed());
    }
}

/// The error says something, under this code of ours.
pub(crate) fn helpful(error: &Value, label: &str) -> bool {
    error["message"].as_str().is_some_and(|message| message.len() > 15 && message.contains(label))
}
