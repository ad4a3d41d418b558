//! Calls that go to other servers than their name says, and copies of calls.

use fairlead_testkit::{McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, eventually_some};

/// Three servers with the same tools: one of each era, and one that lacks a tool.
struct House {
    gateway: Gateway,
    servers: [ScriptedServer; 3],
}

fn reads(name: &str) -> ToolScript {
    ToolScript::new(name).definition(json!({"annotations": {"readOnlyHint": true}}))
}

fn script(script: Script) -> Script {
    script.tools(0).tool(reads("get")).tool(ToolScript::new("put"))
}

impl House {
    async fn new(top: &str) -> Self {
        let servers = [
            ScriptedServer::start(script(Script::legacy())).await,
            ScriptedServer::start(script(Script::modern())).await,
            ScriptedServer::start(script(Script::legacy()).tool(ToolScript::new("only_c"))).await,
        ];
        let [a, b, c] = servers.each_ref().map(ScriptedServer::url);
        let gateway = Gateway::start(&format!(
            "{top}\nservers:\n  a: {{ url: \"{a}\" }}\n  b: {{ url: \"{b}\" }}\n  c: {{ url: \"{c}\" }}\n"
        ))
        .await;
        Self { gateway, servers }
    }

    async fn clients(&self) -> [McpClient; 2] {
        let clients = [self.gateway.legacy("/mcp", NEWEST_LEGACY).await, self.gateway.modern("/mcp")];
        for client in &clients {
            client.list("tools/list", "tools").await.unwrap();
        }
        clients
    }

    /// Calls that each server got, by the argument `n`.
    fn got(&self) -> [Vec<Value>; 3] {
        self.servers.each_ref().map(|server| {
            server
                .received_method("tools/call")
                .iter()
                .map(|call| call.json()["params"]["arguments"]["n"].clone())
                .collect()
        })
    }

    fn counts(&self) -> [usize; 3] {
        self.got().map(|calls| calls.len())
    }
}

#[tokio::test]
async fn a_route_decides_by_tool_and_argument_and_what_is_down_is_passed_over() {
    let mut house = House::new(
        "routes:\n  - { tool: [a__get], arguments: { place.region: 'eu-*' }, to: [{ server: b }, { server: c, priority: 1 }] }\n  \
         - { tool: [a__put], caller: [nobody], to: [{ server: c }] }\n",
    )
    .await;
    let clients = house.clients().await;
    for client in &clients {
        for (n, name, region) in
            [(1, "a__get", "eu-1"), (2, "a__get", "us-1"), (3, "a__put", "eu-1"), (4, "c__get", "eu-1")]
        {
            client.call(name, json!({"n": n, "place": {"region": region}})).await.unwrap();
        }
    }
    assert_eq!(
        house.got(),
        [vec![2, 3, 2, 3], vec![1, 1], vec![4, 4]].map(|all| all.into_iter().map(Value::from).collect::<Vec<_>>())
    );
    house.servers[1].stop().await;
    for client in &clients {
        // Until the gateway has noticed, a call may fail.
        eventually_some(PATIENCE, "the next priority", async || {
            client.call("a__get", json!({"n": 5, "place": {"region": "eu-1"}})).await.ok()
        })
        .await;
    }
    assert_eq!(house.got()[2].iter().filter(|n| **n == 5).count(), 2);
    let output = house.gateway.cli(&["explain", "a__get"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("a route may send it to `b` (weight 1, priority 0), `c` (weight 1, priority 1)"), "{text}");
}

#[tokio::test]
async fn what_a_server_keeps_back_is_not_reached_through_a_route() {
    let servers = [
        ScriptedServer::start(script(Script::legacy())).await,
        ScriptedServer::start(script(Script::modern())).await,
        ScriptedServer::start(script(Script::legacy())).await,
    ];
    let [a, b, c] = servers.each_ref().map(ScriptedServer::url);
    let gateway = Gateway::start(&format!(
        "routes:\n  - {{ tool: [a__get], to: [{{ server: b }}, {{ server: c }}] }}\n  \
         - {{ tool: [a__put], to: [{{ server: b }}, {{ server: c, priority: 1 }}] }}\n\
         servers:\n  a: {{ url: \"{a}\" }}\n  b: {{ url: \"{b}\", tools: {{ deny: [get], rules: {{ put: {{ hide: true }} }} }} }}\n  \
         c: {{ url: \"{c}\", tools: {{ deny: [get] }} }}\n"
    ))
    .await;
    let house = House { gateway, servers };
    for client in &house.clients().await {
        client.call("a__get", json!({"n": 1})).await.unwrap();
        client.call("a__put", json!({"n": 2})).await.unwrap();
    }
    // Nobody of the first route may have it: it stays where its name says. The second goes to the one that may.
    assert_eq!(house.counts(), [2, 0, 2]);
}

#[tokio::test]
async fn calls_are_split_by_weight_and_equal_calls_go_the_same_way() {
    let house =
        House::new("routes:\n  - { tool: ['a__*'], to: [{ server: a, weight: 3 }, { server: b, weight: 1 }] }\n").await;
    let [legacy, modern] = house.clients().await;
    for n in 0..60 {
        legacy.call("a__put", json!({"n": n})).await.unwrap();
    }
    let once = house.got();
    assert!(once[0].len() > once[1].len() && once[1].len() > 3 && once[2].is_empty(), "{once:?}");
    for n in 0..60 {
        modern.call("a__put", json!({"n": n})).await.unwrap();
    }
    for (once, twice) in once.iter().zip(house.got()) {
        assert_eq!([once.clone(), once.clone()].concat(), twice);
    }
    // A server stands alone on its own path.
    house.gateway.modern("/servers/c/mcp").call("put", json!({"n": 1})).await.unwrap();
    assert_eq!(house.counts()[2], 1);
}

#[tokio::test]
async fn a_copy_goes_to_the_mirror_and_nothing_of_it_comes_back() {
    let house = House::new(
        "routes:\n  - { tool: [a__get, a__put], mirror: { server: b } }\n  - { tool: [c__put], mirror: { server: a, any_tool: true } }\n",
    )
    .await;
    for (at, client) in house.clients().await.into_iter().enumerate() {
        for name in ["a__get", "a__put", "c__put"] {
            let result = client.call(name, json!({"n": name})).await.unwrap();
            assert_eq!(result["structuredContent"]["arguments"]["n"], name);
        }
        eventually_some(PATIENCE, "the copies", async || {
            let got = house.got();
            (got[0].iter().filter(|n| **n == "c__put").count() > at && got[1].len() > at).then_some(())
        })
        .await;
    }
    // What may not be called twice is not copied unless that is asked for.
    assert_eq!(house.got()[1], [json!("a__get"), json!("a__get")]);
    assert_eq!(house.counts(), [6, 2, 2]);
}

#[tokio::test]
async fn a_tool_is_known_by_other_spellings_of_its_name() {
    let house = House::new("names: { any_server: true }\n").await;
    for client in house.clients().await {
        client.call("b.put", json!({"n": 1})).await.unwrap();
        client.call("only_c", json!({"n": 2})).await.unwrap();
        client.call("put", json!({"n": 3})).await.unwrap();
        assert!(client.call("d.put", json!({})).await.is_err());
        assert!(client.call("gone", json!({})).await.is_err());
    }
    assert_eq!(house.counts(), [2, 2, 2]);
    house.gateway.reload(&std::fs::read_to_string(house.gateway.config_path()).unwrap().replace("true", "false")).await;
    assert!(house.gateway.modern("/mcp").call("put", json!({})).await.is_err());
}
