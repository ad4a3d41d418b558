//! Dependencies between servers that are learned from the calls one makes on behalf of another.

use fairlead_testkit::{Answer, McpClient, Script, ScriptedServer, ToolScript};
use serde_json::json;

use crate::support::{Gateway, PATIENCE, eventually, get, rows};

fn message(answer: &Answer) -> String {
    answer.error()["message"].as_str().unwrap_or_default().to_owned()
}

/// The test plays the process behind `above`: it calls `base` through the gateway with what it was sent.
#[tokio::test]
async fn what_a_tool_needs_is_learned_from_the_calls_made_on_its_behalf() {
    let script = Script::modern().tool(ToolScript::new("act")).tool(ToolScript::new("other"));
    let above = ScriptedServer::start(script.held("tools/call")).await;
    let base = ScriptedServer::start(Script::modern().tool(ToolScript::new("act"))).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  base: {{ url: \"{}\", breaker: {{}} }}\n  above: {{ url: \"{}\", learn_dependencies: true }}\n",
        base.url(),
        above.url()
    ))
    .await;
    let client = gateway.modern("/mcp").header("tracestate", "vendor=1");
    let call = async |client: &McpClient, tool: &str| {
        client.request("tools/call", json!({"name": tool, "arguments": {}})).await.unwrap()
    };
    let calls = async || {
        let six = [(); 6].map(|()| call(&client, "above__act"));
        futures_util::future::join_all(six).await
    };
    let behind = async || {
        eventually(PATIENCE, "six calls", || above.received_method("tools/call").len() == 6).await;
        for received in above.received_method("tools/call") {
            let state = received.header("tracestate").expect("a trace state").to_owned();
            assert!(state.starts_with("fairlead=") && state.ends_with(",vendor=1"), "{state}");
            assert!(received.header("traceparent").is_some_and(|parent| parent.len() == 55));
            assert_eq!(received.json()["params"]["_meta"]["tracestate"], state);
            // Who only calls at the same time teaches nothing.
            call(&client, "base__act").await.result().unwrap();
            let nested = gateway.modern("/mcp").header("tracestate", &state);
            call(&nested, "base__act").await.result().unwrap();
        }
        above.change(|script| script.held.clear());
    };
    let (answers, ()) = tokio::join!(calls(), behind());
    assert!(answers.into_iter().all(|answer| answer.result().is_ok()));
    let row =
        rows::until(&gateway, "above", PATIENCE, "it is learned", |row| row["learned"][0]["counts"] == true).await;
    assert_eq!(row["learned"], json!([{"tool": "act", "server": "base", "percent": 100, "counts": true}]));
    assert!(
        base.received_method("tools/call").iter().all(|one| one.header("traceparent").is_none()),
        "it learns nothing"
    );

    gateway.cli(&["servers", "breaker", "base", "open"]).await;
    let refused = message(&call(&client, "above__act").await);
    assert!(refused.contains("FL-1312") && refused.contains("depends on `base`"), "{refused}");
    call(&client, "above__other").await.result().unwrap();
    gateway.cli(&["servers", "breaker", "base", "auto"]).await;
    call(&client, "above__act").await.result().unwrap();
    let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
    assert!(
        metrics.contains("fairlead_learned_dependency_percent{mcp_server=\"above\",tool_name=\"act\",needs=\"base\"}")
    );
    let explained = gateway.cli(&["explain", "above__act"]).await;
    assert!(String::from_utf8_lossy(&explained.stdout).contains("`base` was called in"));
}
