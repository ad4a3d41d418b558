//! One body of tests over every transport towards clients and every one towards servers: what a client may expect does
//! not depend on either.
//!
//! A new transport is a row: [`CLIENTS`] for those of clients, [`upstreams`] for those of servers.

mod bad_input;
mod upstreams;

use std::time::Duration;

use fairlead_testkit::{AnyClient, AnyClientOptions, Question, Reply, Script, ToolScript, Via, Way};
use serde_json::{Value, json};

use self::upstreams::{House, Upstream};
use crate::support::{Gateway, MODERN, PATIENCE, SECOND, eventually, program, relaxed};

/// A transport towards clients, and the revisions it is tried with.
struct Client {
    way: Way,
    /// The last part of its path; Streamable HTTP has none of its own.
    door: &'static str,
    versions: &'static [&'static str],
    /// Through `fairlead stdio`, which has that transport towards the gateway.
    over_stdio: bool,
}

const HTTP_LEGACY: Client = Client { way: Way::Http, door: "", versions: &["2025-11-25"], over_stdio: false };
const HTTP_MODERN: Client = Client { way: Way::Http, door: "", versions: &[MODERN], over_stdio: false };
const SSE: Client = Client { way: Way::Sse, door: "sse", versions: &["2024-11-05", "2025-11-25"], over_stdio: false };
const WS_LEGACY: Client = Client { way: Way::WebSocket, door: "ws", versions: &["2025-06-18"], over_stdio: false };
const STDIO_MODERN: Client = Client { over_stdio: true, ..HTTP_MODERN };
const WS_MODERN: Client = Client { way: Way::WebSocket, door: "ws", versions: &[MODERN], over_stdio: false };

impl Client {
    /// The URL on which this transport serves what Streamable HTTP serves on `path`.
    fn url(&self, gateway: &Gateway, path: &str) -> String {
        if self.door.is_empty() {
            return gateway.url(path);
        }
        let before =
            if path == "/mcp" || path.starts_with("/servers/") { path.strip_suffix("/mcp").unwrap() } else { path };
        gateway.url(&format!("{before}/{}", self.door))
    }

    async fn connect(&self, gateway: &Gateway, path: &str, version: &str) -> AnyClient {
        let options = AnyClientOptions {
            way: self.way,
            url: self.url(gateway, path),
            version: version.to_owned(),
            capabilities: json!({"elicitation": {"form": {}, "url": {}}}),
            answering: std::sync::Arc::new(|method, _| match method {
                "elicitation/create" => Reply::Result(json!({"action": "accept", "content": {"name": "Ada"}})),
                "ping" => Reply::Result(json!({})),
                _ => Reply::Error(-32601, "never declared".to_owned()),
            }),
            trust: None,
        };
        let connecting = if self.over_stdio {
            let mut command = tokio::process::Command::new(program());
            command.args(["stdio", "--url", &options.url]);
            AnyClient::over_stdio(command, options).await
        } else {
            AnyClient::connect(options).await
        };
        connecting.unwrap_or_else(|error| panic!("{:?} {version} on {path}: {error:#}", self.way))
    }
}

fn script() -> Script {
    Script::legacy()
        .tool(ToolScript::new("works").progress(3, 20))
        .tool(ToolScript::new("waits").sleep(20_000))
        .tool(ToolScript::new("slow").sleep(200))
        .tool(ToolScript::new("asks").ask(Question::Elicitation, Via::Call))
        .tool(ToolScript::new("fails").finish(fairlead_testkit::Finish::ToolError { text: "no luck".to_owned() }))
        .tool(
            ToolScript::new("breaks")
                .finish(fairlead_testkit::Finish::Error { code: -32050, message: "odd".to_owned() }),
        )
        .resources_and_prompts(2, 1)
}

/// Every feature, for one client before one server.
async fn body(cell: &str, client: &AnyClient, server: &Upstream) {
    hello(cell, client).await;
    calls(cell, client).await;
    let result = client.call("asks", json!({})).await.unwrap_or_else(|error| panic!("{cell}: {error:#}"));
    assert_eq!(result["structuredContent"]["answers"][0]["result"]["content"]["name"], "Ada", "{cell}: {result}");
    // After the question: a call that was given up could be the one that a later question belongs to.
    in_flight(cell, client, server).await;
    changes(cell, client, server).await;
}

async fn hello(cell: &str, client: &AnyClient) {
    if client.is_modern() {
        let discovered = client.result("server/discover", json!({})).await.unwrap();
        assert!(discovered["supportedVersions"].as_array().unwrap().contains(&json!(MODERN)), "{cell}: {discovered}");
    } else {
        assert_eq!(client.result("ping", json!({})).await.unwrap(), json!({}), "{cell}");
    }
    for (method, member, count) in
        [("tools/list", "tools", 9), ("resources/list", "resources", 2), ("prompts/list", "prompts", 1)]
    {
        let result = client.result(method, json!({})).await.unwrap();
        // A changed list may have brought one more.
        assert!(result[member].as_array().is_some_and(|items| items.len() >= count), "{cell}: {result}");
    }
    let read = client.result("resources/read", json!({"uri": "test://resource/1"})).await.unwrap();
    assert_eq!(read["contents"][0]["uri"], "test://resource/1", "{cell}: {read}");
}

async fn calls(cell: &str, client: &AnyClient) {
    // Text that any of the framings could trip over, and more than any buffer on the way holds.
    let odd = "line\nbreak\r\n\r\ndata: event\u{2028}: ä🦀\u{0}";
    let big = "0123456789abcdef".repeat(1 << 16);
    for text in [odd, &big] {
        let result = client.call("tool_0", json!({"text": text})).await.unwrap();
        assert!(result["structuredContent"]["arguments"]["text"] == text, "{cell}: {:.200}", result.to_string());
    }
    let failed = client.call("fails", json!({})).await.unwrap();
    assert_eq!((&failed["isError"], &failed["content"][0]["text"]), (&json!(true), &json!("no luck")), "{cell}");
    let broken = client.request("tools/call", json!({"name": "breaks", "arguments": {}})).await.unwrap();
    assert_eq!((&broken["error"]["code"], &broken["error"]["message"]), (&json!(-32050), &json!("odd")), "{cell}");
    let unknown = client.request("no/such/method", json!({})).await.unwrap();
    assert_eq!(unknown["error"]["code"], -32601, "{cell}: {unknown}");
}

async fn in_flight(cell: &str, client: &AnyClient, server: &Upstream) {
    let params = json!({"name": "works", "arguments": {}, "_meta": {"progressToken": "mine"}});
    client.clear();
    client.result("tools/call", params).await.unwrap();
    let log = client.log();
    let progress: Vec<_> = log.iter().filter(|message| message["method"] == "notifications/progress").collect();
    let seen: Vec<_> = progress.iter().map(|report| &report["params"]["progress"]).collect();
    assert_eq!(seen, [1, 2, 3], "{cell}: {log:?}");
    assert!(progress.iter().all(|report| report["params"]["progressToken"] == "mine"), "{cell}: {log:?}");

    // Many at once, the slow ones first; everybody gets their own.
    let mut started = Vec::new();
    for number in 0..12 {
        let tool = if number % 3 == 0 { "slow" } else { "tool_1" };
        let params = json!({"name": tool, "arguments": {"number": number}});
        started.push((number, client.start("tools/call", params).await.unwrap()));
    }
    for (number, id) in started {
        let answer = client.answer(&id).await.unwrap();
        assert_eq!(answer["result"]["structuredContent"]["arguments"]["number"], number, "{cell}: {answer}");
    }

    let params = json!({"name": "waits", "arguments": {"cell": cell}});
    let id = client.start("tools/call", params).await.unwrap();
    eventually(PATIENCE, &format!("{cell}: the call that is cancelled"), || server.id_of_call(cell).is_some()).await;
    let known_as = server.id_of_call(cell).unwrap();
    client.cancel(&id).await.unwrap();
    let what = format!("{cell}: the cancellation");
    eventually(2 * SECOND, &what, || server.cancelled().contains(&known_as)).await;
    let result = client.call("tool_2", json!({"still": "here"})).await.unwrap();
    assert_eq!(result["structuredContent"]["arguments"]["still"], "here", "{cell}");
    let answered = client.hear(Duration::ZERO, |message| message["id"] == id && message["method"].is_null()).await;
    assert!(answered.is_err(), "{cell}: a cancelled call is not answered: {answered:?}");
}

async fn changes(cell: &str, client: &AnyClient, server: &Upstream) {
    client.listen().await.unwrap_or_else(|error| panic!("{cell}: {error:#}"));
    server.listened_to().await;
    client.clear();
    server.change_list().await;
    let changed = |message: &Value| message["method"] == "notifications/tools/list_changed";
    client.hear(relaxed(3 * SECOND), changed).await.unwrap_or_else(|error| panic!("{cell}: {error:#}"));
}

/// Runs the body for one client transport before every server transport.
async fn check(client: &Client) {
    let house = House::new(script()).await;
    let cells = house.upstreams.iter().map(|server| {
        let house = &house;
        async move {
            for version in client.versions {
                let path = format!("/servers/{}/mcp", server.name);
                let by = if client.over_stdio { "stdio".to_owned() } else { format!("{:?}", client.way) };
                let cell = format!("{by} {version} to {}", server.name);
                let connected = client.connect(&house.gateway, &path, version).await;
                let testing = tokio::time::timeout(4 * PATIENCE, body(&cell, &connected, server));
                testing.await.unwrap_or_else(|_| panic!("{cell}: not over within {:?}", 4 * PATIENCE));
            }
        }
    });
    futures_util::future::join_all(cells).await;
    // The other two views: names of all servers, and a selection of them.
    for (path, tool, count) in [("/mcp", "http_legacy__tool_0", 2), ("/mcp/few", "http_modern__tool_0", 1)] {
        let client = client.connect(&house.gateway, path, client.versions[0]).await;
        let listed = client.result("tools/list", json!({})).await.unwrap();
        let found = listed["tools"].as_array().unwrap().iter().filter(|tool| {
            tool["name"].as_str().is_some_and(|name| name.starts_with("http_") && name.ends_with("__tool_0"))
        });
        assert_eq!(found.count(), count, "{path}: {listed}");
        let result = client.call(tool, json!({"path": path})).await.unwrap();
        assert_eq!(result["structuredContent"]["arguments"]["path"], path);
    }
}

#[tokio::test]
async fn streamable_http_legacy_serves_everything() {
    check(&HTTP_LEGACY).await;
}

#[tokio::test]
async fn streamable_http_modern_serves_everything() {
    check(&HTTP_MODERN).await;
}

#[tokio::test]
async fn http_sse_serves_everything() {
    check(&SSE).await;
}

#[tokio::test]
async fn web_socket_legacy_serves_everything() {
    check(&WS_LEGACY).await;
}

#[tokio::test]
async fn stdio_modern_serves_everything() {
    check(&STDIO_MODERN).await;
}

#[tokio::test]
async fn web_socket_modern_serves_everything() {
    check(&WS_MODERN).await;
}
