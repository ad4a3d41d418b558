//! What the protocol has, through the gateway: what comes out is what a direct connection would have shown.

mod calls;
mod changes;
mod fidelity;
mod generated;
mod in_flight;
mod lists;
mod mirrored;
mod streams;

use fairlead_testkit::{McpClient, Script, ScriptedServer};
use serde_json::Value;

use crate::support::{Gateway, LEGACY, PATIENCE, StdioServer};

/// A gateway before one server of each kind: `web` (legacy, Streamable HTTP), `child` (legacy, stdio), `now` (modern).
pub(crate) struct House {
    pub(crate) web: ScriptedServer,
    pub(crate) child: StdioServer,
    pub(crate) now: ScriptedServer,
    pub(crate) gateway: Gateway,
}

/// The servers of a [`House`] in configuration order.
pub(crate) const SERVERS: [&str; 3] = ["web", "child", "now"];

impl House {
    /// The same script for all three, apart from their eras; `finish` changes it for one server by name.
    pub(crate) async fn new(script: Script, finish: impl Fn(&str, Script) -> Script) -> Self {
        let legacy = |name| finish(name, Script { versions: Script::legacy().versions, ..script.clone() }.name(name));
        let modern = |name| finish(name, Script { versions: Script::modern().versions, ..script.clone() }.name(name));
        let web = ScriptedServer::start(legacy("web")).await;
        let child = StdioServer::new(legacy("child"));
        let now = ScriptedServer::start(modern("now")).await;
        let yaml = format!(
            "servers:\n  web: {{ url: \"{}\" }}\n  child: {{ {}, start: eager }}\n  now: {{ url: \"{}\" }}\n",
            web.url(),
            child.yaml(),
            now.url(),
        );
        let gateway = Gateway::start(&yaml).await;
        Self { web, child, now, gateway }
    }

    /// Requests with this method that a server got.
    pub(crate) fn received(&self, server: &str, method: &str) -> Vec<Value> {
        let http = |server: &ScriptedServer| server.received_method(method).iter().map(|got| got.json()).collect();
        match server {
            "web" => http(&self.web),
            "now" => http(&self.now),
            _ => self.child.received_method(method),
        }
    }

    /// A client of each revision for one path, with its label.
    pub(crate) async fn clients(&self, path: &str) -> Vec<(String, McpClient)> {
        let mut clients = Vec::new();
        for revision in LEGACY {
            clients.push((format!("{revision} on {path}"), self.gateway.legacy(path, revision).await));
        }
        clients.push((format!("modern on {path}"), self.gateway.modern(path)));
        clients
    }
}

/// The path of one server alone.
pub(crate) fn alone(server: &str) -> String {
    format!("/servers/{server}/mcp")
}

/// A client of a server itself, of the server's own era.
pub(crate) async fn direct(server: &ScriptedServer, modern: bool) -> McpClient {
    let client = McpClient::new(&server.url()).limit(PATIENCE);
    if modern {
        return client.modern(crate::support::MODERN);
    }
    client.initialize(crate::support::NEWEST_LEGACY).await.unwrap();
    client
}

/// A result without the members in which the eras differ by definition.
pub(crate) fn plain(mut result: Value) -> Value {
    if let Some(members) = result.as_object_mut() {
        for member in ["resultType", "ttlMs", "cacheScope", "_meta"] {
            members.remove(member);
        }
    }
    result
}
