//! Limits: exactly what is allowed comes through, whoever asks how often at once, and a refusal says which limit and
//! when, on every transport.

use fairlead_testkit::{Answer, AnyClient, AnyClientOptions, McpClient, Reply, Script, ScriptedServer, Way};
use serde_json::{Value, json};

use crate::support::{Gateway, MODERN, NEWEST_LEGACY, get, rows};

async fn limited(limits: &str, of_server: &str, server: &ScriptedServer) -> Gateway {
    let gateway = Gateway::start(&yaml(limits, of_server, server)).await;
    rows::until_listed(&gateway, "a").await;
    gateway
}

fn yaml(limits: &str, of_server: &str, server: &ScriptedServer) -> String {
    format!("limits: {limits}\nservers:\n  a: {{ url: \"{}\"{of_server} }}\n", server.url())
}

async fn call(client: &McpClient, tool: &str, arguments: Value) -> Answer {
    client.request("tools/call", json!({"name": format!("a__{tool}"), "arguments": arguments})).await.unwrap()
}

#[track_caller]
fn is_refused(answer: &Answer, code: &str, limit: &str) {
    assert_eq!(answer.status, 429, "{:?}", answer.body);
    let after: u64 = answer.header("retry-after").expect("it says when").parse().unwrap();
    let error = answer.error();
    assert!(error["message"].as_str().unwrap().contains(code), "{error}");
    assert_eq!(error["data"]["limit"], limit, "{error}");
    let after_ms = error["data"]["retryAfterMs"].as_u64().unwrap();
    assert_eq!(after_ms.div_ceil(1000), after, "{error}");
}

#[tokio::test]
async fn exactly_the_allowed_number_comes_through_and_only_the_caller_pays() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let gateway = limited("{ caller: 20/h, identical: off }", "", &server).await;
    let client = gateway.modern("/mcp");
    let calls = (0..60).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "tool_0", json!({"n": number})).await })
    });
    let mut passed = 0;
    for asked in calls.collect::<Vec<_>>() {
        let answer = asked.await.unwrap();
        if answer.status == 200 {
            passed += 1;
        } else {
            is_refused(&answer, "FL-1501", "caller");
        }
    }
    assert_eq!(passed, 20);
    assert_eq!(server.received_method("tools/call").len(), 20);
    let mut other = client.message("tools/call", json!({"name": "a__tool_0", "arguments": {}}));
    other["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"] = json!("another");
    assert_eq!(client.post(&other).await.unwrap().finish().await.unwrap().status, 200);
    let session = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    is_refused(&call(&session, "tool_0", json!({})).await, "FL-1501", "caller");
    let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
    let line = "fairlead_limit_refusals_total{limit=\"caller\",level=\"caller\"} 41";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn servers_tools_and_quotas_have_limits_that_a_reload_changes_and_does_not_forget() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let rules = ", limits: { rate: 8/h }, tools: { rules: { tool_1: { limit: 2/h }, tool_2: { cost: 40 } } }";
    let limits = "{ quotas: { tenant: 100/day } }";
    let gateway = limited(limits, rules, &server).await;
    let client = gateway.modern("/mcp");
    for _ in 0..2 {
        assert_eq!(call(&client, "tool_1", json!({})).await.status, 200);
    }
    is_refused(&call(&client, "tool_1", json!({})).await, "FL-1501", "tool:a");
    for _ in 0..2 {
        assert_eq!(call(&client, "tool_2", json!({})).await.status, 200);
    }
    // 82 of 100 are used, and another 40 are not there.
    is_refused(&call(&client, "tool_2", json!({})).await, "FL-1502", "quota:tenant");
    let sessions = server.sessions_opened();
    for rate in ["8/h", "10/h"] {
        let rules = rules.replace("8/h", rate);
        gateway.reload(&yaml(limits, &rules, &server)).await;
        let mut passed = 0;
        loop {
            let answer = call(&client, "tool_0", json!({"rate": rate})).await;
            if answer.status != 200 {
                is_refused(&answer, "FL-1501", "server:a");
                break;
            }
            passed += 1;
        }
        // Four were made before. What is empty stays so: the wider rate fills it faster.
        assert_eq!(passed, if rate == "8/h" { 4 } else { 0 }, "{rate}");
    }
    assert_eq!(server.sessions_opened(), sessions, "no connection was opened for a limit");
    let explained = gateway.cli(&["explain", "a__tool_1"]).await;
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    for part in ["`server:a`: 10/h", "`quota:tenant`: 100/day", "identical calls of one caller: 3000/min"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[tokio::test]
async fn a_caller_that_runs_in_circles_is_stopped_and_others_are_not() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let gateway = limited("{ identical: 5/h }", "", &server).await;
    let (looping, other) = (gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.legacy("/mcp", NEWEST_LEGACY).await);
    for client in [&looping, &gateway.modern("/mcp")] {
        for _ in 0..5 {
            assert_eq!(call(client, "tool_0", json!({"page": 1})).await.status, 200);
        }
        is_refused(&call(client, "tool_0", json!({"page": 1})).await, "FL-1503", "identical");
        assert_eq!(call(client, "tool_0", json!({"page": 2})).await.status, 200);
        assert_eq!(call(client, "tool_1", json!({"page": 1})).await.status, 200);
    }
    assert_eq!(call(&other, "tool_0", json!({"page": 1})).await.status, 200);
}

#[tokio::test]
async fn a_refusal_is_told_where_there_are_no_headers() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let gateway = limited("{ global: 1/h }", "", &server).await;
    call(&gateway.modern("/mcp"), "tool_0", json!({})).await;
    for (way, path, version) in
        [(Way::WebSocket, "/ws", NEWEST_LEGACY), (Way::WebSocket, "/ws", MODERN), (Way::Sse, "/sse", "2024-11-05")]
    {
        let scheme = if way == Way::WebSocket { "ws" } else { "http" };
        let client = AnyClient::connect(AnyClientOptions {
            way,
            url: format!("{scheme}://{}{path}", gateway.address()),
            version: version.to_owned(),
            capabilities: json!({}),
            answering: std::sync::Arc::new(|_, _| Reply::Error(-32601, "never declared".to_owned())),
            trust: None,
        })
        .await
        .unwrap();
        let answer = client.request("tools/call", json!({"name": "a__tool_0", "arguments": {}})).await.unwrap();
        let error = &answer["error"];
        assert_eq!(error["code"], -31429, "{way:?}: {answer}");
        assert_eq!(error["data"]["level"], "global", "{way:?}: {answer}");
        assert!(error["data"]["retryAfterMs"].as_u64().unwrap() > 1000, "{way:?}: {answer}");
    }
}
