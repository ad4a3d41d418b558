//! Versions of tools, and routes to instances with labels.

use fairlead_testkit::{McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, eventually_some, rows};

fn script(script: Script, tools: &[&str]) -> Script {
    tools.iter().fold(script.tools(0), |script, name| {
        script.tool(ToolScript::new(name).definition(json!({"annotations": {"readOnlyHint": true}})))
    })
}

/// Who answered: the server's tool of the name, by what it echoes.
fn tool(result: &Value) -> &str {
    result["structuredContent"]["tool"].as_str().unwrap_or_default()
}

const VERSIONS: &str = "versions:\n  a__search:\n    default: '2'\n    versions:\n      '1': { deprecated: use 2 }\n      \
                        '2': { tool: search_v2 }\n      '3.0-beta': { server: b, tool: find }\n      gone: { tool: secret }\n";

struct House {
    gateway: Gateway,
    servers: [ScriptedServer; 2],
}

impl House {
    async fn new() -> Self {
        let servers = [
            ScriptedServer::start(script(Script::legacy(), &["search", "search_v2", "secret", "plain"])).await,
            ScriptedServer::start(script(Script::modern(), &["find"])).await,
        ];
        let [a, b] = servers.each_ref().map(ScriptedServer::url);
        let gateway = Gateway::start(&format!(
            "{VERSIONS}servers:\n  a: {{ url: \"{a}\", tools: {{ deny: [secret], rules: {{ search_v2: {{ hide: true, pin: {{ by: gateway }} }} }} }} }}\n  \
             b: {{ url: \"{b}\" }}\ntoolsets: {{ some: {{ include: ['a__search'] }} }}\n"
        ))
        .await;
        for server in ["a", "b"] {
            rows::until_listed(&gateway, server).await;
        }
        Self { gateway, servers }
    }

    async fn clients(&self, path: &str) -> [McpClient; 2] {
        [self.gateway.legacy(path, NEWEST_LEGACY).await, self.gateway.modern(path)]
    }
}

#[tokio::test]
async fn a_version_is_asked_for_by_name_by_meta_and_by_header() {
    let house = House::new().await;
    for path in ["/mcp", "/mcp/some"] {
        for client in house.clients(path).await {
            for (name, expected) in [
                ("a__search", "search_v2"),
                ("a__search@1", "search"),
                ("a__search@2", "search_v2"),
                ("a__search@3.0-beta", "find"),
            ] {
                let result = client.call(name, json!({"q": 1})).await.unwrap();
                assert_eq!(tool(&result), expected, "{name}: {result}");
                // Pins are those of the tool that is called.
                let pinned = (expected == "search_v2").then_some("gateway");
                assert_eq!(result["structuredContent"]["arguments"]["by"].as_str(), pinned, "{result}");
            }
            let params = json!({"name": "a__search", "arguments": {}, "_meta": {"fairlead/version": "3.0-beta"}});
            assert_eq!(tool(&client.result("tools/call", params).await.unwrap()), "find");
        }
        let asks = McpClient::new(&house.gateway.url(path)).limit(PATIENCE).header("fairlead-tool-version", "1");
        asks.initialize(NEWEST_LEGACY).await.unwrap();
        assert_eq!(tool(&asks.call("a__search", json!({})).await.unwrap()), "search");
    }
    assert!(house.servers[1].received_method("tools/call").len() >= 4);
}

#[tokio::test]
async fn unknown_versions_are_refused_and_lists_say_which_there_are() {
    let house = House::new().await;
    for client in house.clients("/mcp").await {
        // What the server leaves out is no version either, and only tools that have versions have an `@`.
        for name in ["a__search@7", "a__search@gone", "a__search@", "a__plain@1", "a__search_v2", "a__search_v2@1"] {
            let answer = client.request("tools/call", json!({"name": name, "arguments": {}})).await.unwrap();
            let message = answer.error()["message"].as_str().unwrap_or_default().to_owned();
            assert!(message.contains("FL-1201"), "{name}: {message}");
        }
        let tools = client.list("tools/list", "tools").await.unwrap();
        let named = |name: &str| tools.iter().find(|tool| tool["name"] == name);
        let versions = &named("a__search").unwrap()["_meta"]["fairlead/versions"];
        let all = json!({"1": {"deprecated": "use 2"}, "2": {}, "3.0-beta": {}, "gone": {}});
        assert_eq!(versions, &json!({"default": "2", "versions": all}));
        assert!(named("a__plain").unwrap()["_meta"]["fairlead/versions"].is_null());
        assert!(named("a__search_v2").is_none());
    }
}

#[tokio::test]
async fn a_route_goes_to_the_instances_of_a_region_and_to_others_only_where_it_may() {
    let mut servers = [
        ScriptedServer::start(script(Script::modern(), &["get"])).await,
        ScriptedServer::start(script(Script::modern(), &["get"])).await,
        ScriptedServer::start(script(Script::modern(), &["get"])).await,
    ];
    let [one, two, three] = servers.each_ref().map(ScriptedServer::url);
    let gateway = Gateway::start(&format!(
        "routes:\n  - {{ arguments: {{ region: eu }}, to: [{{ server: a, labels: {{ region: eu }} }}] }}\n  \
         - {{ arguments: {{ region: us }}, to: [{{ server: a, labels: {{ region: us }}, labels_mode: prefer }}] }}\n  \
         - {{ arguments: {{ region: mars }}, to: [{{ server: a, labels: {{ region: mars }} }}, {{ server: b, priority: 1 }}] }}\n\
         servers:\n  a:\n    balance: round_robin\n    instances:\n      - {{ url: \"{one}\", labels: {{ region: eu, zone: x }} }}\n      \
         - {{ url: \"{two}\", labels: {{ region: us }} }}\n  b: {{ url: \"{three}\" }}\n"
    ))
    .await;
    rows::until(&gateway, "a", PATIENCE, "every instance ready", |row| {
        let instances = row["instances"].as_array().cloned().unwrap_or_default();
        instances.len() == 2 && instances.iter().all(|one| one["state"] == "ready")
    })
    .await;
    rows::until_listed(&gateway, "b").await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        servers.iter().for_each(ScriptedServer::clear_received);
        for n in 0..4 {
            for region in ["eu", "us", "mars"] {
                client.call("a__get", json!({"region": region, "n": n})).await.unwrap();
            }
        }
        for (server, region) in servers.iter().zip(["eu", "us", "mars"]) {
            let calls = server.received_method("tools/call");
            assert_eq!(calls.len(), 4, "{region}");
            assert!(calls.iter().all(|call| call.json()["params"]["arguments"]["region"] == region));
        }
    }
    // Those that prefer a region find another when it is gone; those that require it do not.
    let client = gateway.modern("/mcp");
    let [eu, us, _] = &mut servers;
    us.stop().await;
    eventually_some(PATIENCE, "the other region", async || {
        client.call("a__get", json!({"region": "us", "n": 9})).await.ok()
    })
    .await;
    us.resume().await.unwrap();
    rows::until(&gateway, "a", PATIENCE, "both are back", |row| {
        row["instances"].as_array().is_some_and(|all| all.iter().all(|one| one["state"] == "ready"))
    })
    .await;
    us.clear_received();
    eu.stop().await;
    for n in 0..3 {
        let refused = client.request("tools/call", json!({"name": "a__get", "arguments": {"region": "eu", "n": n}}));
        assert!(refused.await.unwrap().response().unwrap()["error"].is_object());
    }
    assert_eq!(us.received_method("tools/call").len(), 0, "no call leaves its region");
}
