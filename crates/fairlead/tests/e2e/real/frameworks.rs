//! The clients of agent frameworks, each in an environment of its own: what one lists and is told through `/mcp` is
//! what it lists and is told by the servers themselves.
//!
//! Three of them in every run; all with `FAIRLEAD_FRAMEWORKS=all`, as the stage `frameworks` of `make verify` says.

use std::{
    net::TcpListener,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use fairlead_testkit::McpClient;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::servers::Shelf;
use crate::support::{Gateway, NEWEST_LEGACY, eventually_some, program, rows};

/// How long one client may take for everything, in seconds. Some are imported for a quarter of a minute.
const LIMIT: u64 = 150;
/// How long a server may take to start on a busy machine.
const START: Duration = Duration::from_secs(30);
/// All, not three.
const ALL: &str = "FAIRLEAD_FRAMEWORKS";

/// One framework.
struct Framework {
    /// Its name in the test client; `client-{name}` in the tools.
    name: &'static str,
    /// It puts prompts among the tools.
    prompts: bool,
}

impl Framework {
    /// What it calls a tool of this name.
    fn says(&self, name: &str) -> String {
        // One has no hyphens, and never two underscores in a row.
        if self.name == "crewai" { name.replace('-', "_").replace("__", "_") } else { name.to_owned() }
    }
}

const fn plain(name: &'static str) -> Framework {
    Framework { name, prompts: false }
}

/// Those of every run: quick to import, and of both generations of the Python SDK.
const FASTMCP: Framework = plain("fastmcp");
const LANGCHAIN: Framework = plain("langchain");
const OPENAI_AGENTS: Framework = plain("openai-agents");

/// The others.
const REST: [Framework; 6] = [
    plain("pydantic-ai"),
    plain("llamaindex"),
    Framework { name: "semantic-kernel", prompts: true },
    plain("haystack"),
    plain("autogen"),
    plain("crewai"),
];

/// A server over HTTP that a framework can be connected to directly.
struct HttpServer {
    name: &'static str,
    url: String,
    /// What is called.
    calls: Vec<(&'static str, Value)>,
    _process: Child,
}

impl HttpServer {
    async fn start(name: &'static str, mut command: Command, port: u16, calls: Vec<(&'static str, Value)>) -> Self {
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let _process = process.spawn().unwrap();
        eventually_some(START, &format!("the server `{name}` listens"), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self { name, url: format!("http://127.0.0.1:{port}/mcp"), calls, _process }
    }

    /// `server-everything`, on Node.
    async fn everything(shelf: &Shelf) -> Self {
        let port = free_port();
        let mut command = Command::new(shelf.path("servers-npm/node_modules/.bin/mcp-server-everything"));
        command.arg("streamableHttp").env("PORT", port.to_string());
        let calls = vec![("echo", json!({"message": "h\u{e9}llo \u{1f30d}"})), ("get-sum", json!({"a": 2, "b": 40}))];
        Self::start("everything", command, port, calls).await
    }

    /// The bundled one, on rmcp.
    async fn crm() -> Self {
        let port = free_port();
        let mut command = Command::new(program());
        command.args(["demo-server", "crm", "--http", &format!("127.0.0.1:{port}")]);
        Self::start("crm", command, port, vec![("list_deals", json!({}))]).await
    }

    fn prefixed(&self, name: &str) -> String {
        format!("{}__{name}", self.name)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Two servers and a gateway before them.
struct World {
    shelf: Shelf,
    servers: [HttpServer; 2],
    gateway: Gateway,
}

impl World {
    async fn new() -> Option<Self> {
        let shelf = Shelf::find()?;
        let servers = [HttpServer::everything(&shelf).await, HttpServer::crm().await];
        let lines = servers.iter().map(|server| format!("  {}: {{ url: \"{}\" }}\n", server.name, server.url));
        let gateway = Gateway::start(&format!("servers:\n{}", lines.collect::<String>())).await;
        for server in &servers {
            rows::until_listed(&gateway, server.name).await;
        }
        Some(Self { shelf, servers, gateway })
    }

    /// Runs one client against each server and against the gateway, in this order.
    async fn run(&self, framework: &Framework) -> Value {
        let adapt = |name: &str| framework.says(name);
        let mut targets: Vec<Value> = Vec::new();
        for server in &self.servers {
            let calls: Vec<_> = server.calls.iter().map(|(name, arguments)| json!([adapt(name), arguments])).collect();
            targets.push(json!({"url": server.url, "calls": calls}));
        }
        let calls = self.servers.iter().flat_map(|server| {
            server.calls.iter().map(|(name, arguments)| json!([adapt(&server.prefixed(name)), arguments]))
        });
        targets.push(json!({"url": self.gateway.url("/mcp"), "calls": calls.collect::<Vec<_>>()}));

        let mut command = Command::new(self.shelf.path(&format!("client-{}/bin/python", framework.name)));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/clients/framework_client.py");
        command.args(["-W", "ignore"]).arg(script).args(["--timeout", "60"]).arg(framework.name);
        command.args(targets.iter().map(Value::to_string));
        // What a framework writes for its user is not for the user who runs the tests.
        command.env("HOME", self.gateway.dir()).current_dir(self.gateway.dir());
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(LIMIT), output)
            .await
            .unwrap_or_else(|_| panic!("{} does not end", framework.name))
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}\n{said}", framework.name, output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until the gateway knows what `everything` shows to clients that sample. Semantic Kernel is one, and stops for
    /// ever when it is told of a changed list while it is listing: it lists again before it reads on.
    async fn wait_for_sampling(&self) {
        let client = McpClient::new(&self.gateway.url("/mcp")).capabilities(json!({"sampling": {}}));
        client.initialize(NEWEST_LEGACY).await.unwrap();
        eventually_some(START, "the tools for clients that sample", async || {
            let tools = client.list("tools/list", "tools").await.unwrap();
            tools.iter().find(|tool| tool["name"] == "everything__trigger-sampling-request").map(|_| ())
        })
        .await;
    }

    async fn check(&self, framework: &Framework) {
        if !self.shelf.has(&format!("client-{}/bin/python", framework.name)) {
            return;
        }
        if framework.prompts {
            self.wait_for_sampling().await;
        }
        let begin = Instant::now();
        let document = self.run(framework).await;
        let seen = document["seen"].as_array().unwrap();
        let [direct @ .., through] = seen.as_slice() else { panic!("{document}") };
        let mut tools = Vec::new();
        let mut results = Vec::new();
        for (server, direct) in self.servers.iter().zip(direct) {
            let own = direct["tools"].as_array().unwrap();
            assert!(own.len() >= server.calls.len(), "{}: {direct}", framework.name);
            tools.extend(own.iter().map(|tool| prefixed(framework, server, tool)));
            let told = direct["results"].as_array().unwrap();
            assert_eq!(told.len(), server.calls.len(), "{}", framework.name);
            assert!(told.iter().all(|result| !result.to_string().is_empty()), "{}: {direct}", framework.name);
            results.extend(told.iter().cloned());
        }
        tools.sort_by_key(|tool| tool["name"].as_str().unwrap().to_owned());
        let listed = through["tools"].as_array().unwrap();
        let names = |tools: &[Value]| tools.iter().map(|tool| tool["name"].to_string()).collect::<Vec<_>>();
        assert_eq!(names(listed), names(&tools), "{}: the names", framework.name);
        assert_eq!(*listed, tools, "{}: the tools", framework.name);
        assert_eq!(through["results"], Value::from(results), "{}: the results", framework.name);
        assert!(
            !framework.prompts || listed.iter().any(|tool| tool["name"] == "everything__simple-prompt"),
            "{}: prompts are among the tools",
            framework.name
        );
        let client = document["client"].as_object().unwrap().iter().filter(|(name, _)| *name != "name");
        let versions: Vec<_> = client.map(|(name, version)| format!("{name} {}", version.as_str().unwrap())).collect();
        let seconds = begin.elapsed().as_secs_f64();
        println!("{:<16} {:>3} tools  {seconds:>5.1} s  {}", framework.name, listed.len(), versions.join(", "));
    }
}

/// The tool as the gateway names it. One framework tells the name again inside the description.
fn prefixed(framework: &Framework, server: &HttpServer, tool: &Value) -> Value {
    let mut tool = tool.clone();
    let name = tool["name"].as_str().unwrap().to_owned();
    let exposed = framework.says(&server.prefixed(&name));
    if let Some(description) = tool["description"].as_str() {
        let told = description.replacen(&format!("Tool Name: {name}\n"), &format!("Tool Name: {exposed}\n"), 1);
        tool["description"] = told.into();
    }
    tool["name"] = exposed.into();
    tool
}

#[tokio::test]
async fn fastmcp_sees_the_same_through_the_gateway() {
    let Some(world) = World::new().await else { return };
    world.check(&FASTMCP).await;
}

#[tokio::test]
async fn langchain_sees_the_same_through_the_gateway() {
    let Some(world) = World::new().await else { return };
    world.check(&LANGCHAIN).await;
}

#[tokio::test]
async fn the_openai_agents_sdk_sees_the_same_through_the_gateway() {
    let Some(world) = World::new().await else { return };
    world.check(&OPENAI_AGENTS).await;
}

#[tokio::test]
async fn the_other_frameworks_see_the_same_through_the_gateway() {
    if std::env::var_os(ALL).is_none_or(|which| which != "all") {
        eprintln!("SKIPPED: {} more frameworks with {ALL}=all, as in `make verify`", REST.len());
        return;
    }
    let Some(world) = World::new().await else { return };
    for framework in &REST {
        world.check(framework).await;
    }
}
