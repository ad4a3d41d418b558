//! The servers of the table: one of each transport and era.

use fairlead_testkit::{Script, ScriptedServer};
use serde_json::Value;

use crate::support::{
    Gateway, PATIENCE, StdioServer,
    doors::{Doored, Way},
    eventually,
};

/// A gateway before all of them.
pub(super) struct House {
    pub(super) upstreams: Vec<Upstream>,
    pub(super) gateway: Gateway,
}

/// One server.
pub(super) struct Upstream {
    /// Its name in the configuration.
    pub(super) name: &'static str,
    pub(super) modern: bool,
    server: Server,
}

enum Server {
    Http(ScriptedServer),
    Stdio(StdioServer),
    Door(Doored),
}

/// How often a server changes its list that cannot be told to.
const CHANGES_MS: u64 = 700;

/// The table: a name, and what starts the server that has it.
async fn upstreams(script: &Script) -> Vec<Upstream> {
    let legacy = |name: &str| script.clone().name(name);
    let modern = |name: &str| Script { versions: Script::modern().versions, ..script.clone() }.name(name);
    vec![
        Upstream { name: "http_legacy", modern: false, server: Server::http(legacy("http_legacy")).await },
        Upstream { name: "http_modern", modern: true, server: Server::http(modern("http_modern")).await },
        Upstream { name: "stdio_legacy", modern: false, server: Server::stdio(legacy("stdio_legacy")) },
        Upstream { name: "stdio_modern", modern: true, server: Server::stdio(modern("stdio_modern")) },
        Upstream { name: "sse_legacy", modern: false, server: Server::door(Way::Sse, legacy("sse_legacy")).await },
        Upstream { name: "ws_legacy", modern: false, server: Server::door(Way::WebSocket, legacy("ws_legacy")).await },
        Upstream { name: "ws_modern", modern: true, server: Server::door(Way::WebSocket, modern("ws_modern")).await },
        Upstream { name: "tcp_legacy", modern: false, server: Server::door(Way::Tcp, legacy("tcp_legacy")).await },
        Upstream { name: "tcp_modern", modern: true, server: Server::door(Way::Tcp, modern("tcp_modern")).await },
        Upstream { name: "unix_legacy", modern: false, server: Server::door(Way::Unix, legacy("unix_legacy")).await },
        Upstream { name: "unix_http", modern: true, server: Server::door(Way::HttpUnix, modern("unix_http")).await },
    ]
}

impl Server {
    async fn http(script: Script) -> Self {
        Self::Http(ScriptedServer::start(script).await)
    }

    async fn door(way: Way, script: Script) -> Self {
        Self::Door(Doored::start(way, script).await)
    }

    fn stdio(script: Script) -> Self {
        Self::Stdio(StdioServer::new(script.list_change_every_ms(CHANGES_MS)))
    }

    /// What the configuration says of it.
    fn yaml(&self) -> String {
        match self {
            Self::Http(server) => format!("url: \"{}\"", server.url()),
            Self::Stdio(server) => format!("{}, start: eager", server.yaml()),
            Self::Door(door) => door.yaml(),
        }
    }

    /// The scripted server, where it is in this process.
    fn scripted(&self) -> Option<&ScriptedServer> {
        match self {
            Self::Http(server) => Some(server),
            Self::Door(door) => Some(&door.server),
            Self::Stdio(_) => None,
        }
    }
}

impl House {
    pub(super) async fn new(script: Script) -> Self {
        let upstreams = upstreams(&script).await;
        let mut yaml = "servers:\n".to_owned();
        for upstream in &upstreams {
            yaml += &format!("  {}: {{ {} }}\n", upstream.name, upstream.server.yaml());
        }
        yaml += "toolsets:\n  few: { include: [\"http_modern__tool_*\"] }\n";
        Self { upstreams, gateway: Gateway::start(&yaml).await }
    }
}

impl Upstream {
    fn received(&self, method: &str) -> Vec<Value> {
        match &self.server {
            Server::Stdio(server) => server.received_method(method),
            Server::Http(server) | Server::Door(Doored { server, .. }) => {
                server.received_method(method).iter().map(|got| got.json()).collect()
            }
        }
    }

    /// The id (JSON text) under which the server knows the call of this cell.
    pub(super) fn id_of_call(&self, cell: &str) -> Option<String> {
        let calls = self.received("tools/call");
        calls.iter().find(|call| call["params"]["arguments"]["cell"] == cell).map(|call| call["id"].to_string())
    }

    /// The ids of the calls that it was told are cancelled.
    pub(super) fn cancelled(&self) -> Vec<String> {
        match &self.server {
            Server::Http(server) | Server::Door(Doored { server, .. }) => server.cancelled(),
            Server::Stdio(_) => {
                let notices = self.received("notifications/cancelled");
                notices.iter().map(|notice| notice["params"]["requestId"].to_string()).collect()
            }
        }
    }

    /// Waits until the gateway would hear of a change.
    pub(super) async fn listened_to(&self) {
        let Some(server) = self.server.scripted() else { return };
        let modern = self.modern;
        if !modern && matches!(self.server, Server::Door(_)) {
            // What a connection brings is heard from its beginning.
            return;
        }
        eventually(PATIENCE, "the gateway listens to its server", || {
            if modern {
                server.listeners() > 0
            } else {
                server.received().iter().any(|request| request.http_method == "GET")
            }
        })
        .await;
    }

    /// Changes the list of tools, unless the server does so all the time.
    pub(super) async fn change_list(&self) {
        if let Some(server) = self.server.scripted() {
            server.change_list().await;
        }
    }
}
