//! The pools of connections to servers reached over HTTP.

use std::{collections::BTreeSet, time::Duration};

use fairlead_testkit::{FaultProxy, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, SECOND, eventually, get, rows};

/// One worker, so that there is one pool for calls.
async fn gateway(url: &str, connections: &str) -> Gateway {
    let gateway =
        Gateway::start(&format!("workers: 1\nservers:\n  a: {{ url: \"{url}\", connections: {{ {connections} }} }}\n"))
            .await;
    rows::until_listed(&gateway, "a").await;
    gateway
}

async fn pool(gateway: &Gateway) -> Value {
    rows::row(gateway, "a").await["connections"].clone()
}

/// The connections of the server that calls came on.
fn used(server: &ScriptedServer) -> BTreeSet<u64> {
    server.received_method("tools/call").iter().map(|request| request.connection).collect()
}

#[tokio::test]
async fn calls_in_a_row_come_on_one_connection_however_they_are_answered() {
    for script in [Script::legacy(), Script::legacy().sse(), Script::modern(), Script::modern().sse()] {
        let what = format!("{:?}, {:?}", script.versions, script.answers);
        let server = ScriptedServer::start(script).await;
        let gateway = gateway(&server.url(), "").await;
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        for _ in 0..20 {
            client.call("a__tool_0", json!({})).await.unwrap();
        }
        // One call may begin before the end of the answer before it was read.
        assert!(used(&server).len() <= 3, "{what}: {:?}", used(&server));
        let pool = pool(&gateway).await;
        assert!(pool["opened"].as_u64().unwrap() >= 1 && pool["idle"].as_u64().unwrap() >= 1, "{pool}");
        let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
        assert!(metrics.contains("fairlead_connections{mcp_server=\"a\",state=\"idle\"}"), "{metrics}");
        assert!(metrics.contains("fairlead_connections_opened_total{mcp_server=\"a\"}"), "{metrics}");
    }
}

#[tokio::test]
async fn connections_are_opened_ahead_of_calls() {
    let server = ScriptedServer::start(Script::modern()).await;
    let gateway = gateway(&server.url(), "min_idle: 4").await;
    // Four for each worker, and nobody else says how many of those there are.
    eventually(PATIENCE, "four connections", || server.connections() >= 4).await;
    let mut known = 0;
    while known != server.connections_accepted() {
        known = server.connections_accepted();
        tokio::time::sleep(SECOND).await;
    }
    let client = gateway.modern("/mcp");
    let calls = (0..4).map(|_| client.call("a__tool_0", json!({})));
    for outcome in futures_util::future::join_all(calls).await {
        outcome.unwrap();
    }
    assert!(used(&server).iter().all(|connection| *connection <= known), "{:?} of {known}", used(&server));
    // Those that break are opened again.
    rows::until(&gateway, "a", PATIENCE, "idle again", |row| row["connections"]["idle"].as_u64() >= Some(4)).await;
}

#[tokio::test]
async fn a_call_that_gets_no_connection_in_time_is_told_so_and_nobody_else() {
    let script = Script::modern().tool(ToolScript::new("slow").sleep(3_000));
    let (server, other) = (ScriptedServer::start(script).await, ScriptedServer::start(Script::modern()).await);
    let gateway = Gateway::start(&format!(
        "servers:\n  a: {{ url: \"{}\", connections: {{ max: 1, acquire_timeout: 200ms }} }}\n  b: {{ url: \"{}\" }}\n",
        server.url(),
        other.url()
    ))
    .await;
    rows::until_listed(&gateway, "a").await;
    rows::until_listed(&gateway, "b").await;
    let client = gateway.modern("/mcp");
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call("a__slow", json!({})).await }
    });
    eventually(PATIENCE, "the slow call is made", || !server.received_method("tools/call").is_empty()).await;
    let refused = client.request("tools/call", json!({"name": "a__tool_0", "arguments": {}})).await.unwrap();
    let message = refused.error()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("FL-1315") && message.contains("the call was not made"), "{:?}", refused.body);
    client.call("b__tool_0", json!({})).await.expect("another server is not affected");
    slow.await.unwrap().expect("the call that has the connection goes on");
    client.call("a__tool_0", json!({})).await.expect("the connection is free again");
    assert_eq!(server.received_method("tools/call").len(), 2, "what was refused never reached the server");
    let pool = pool(&gateway).await;
    assert!(pool["timed_out"].as_u64() >= Some(1), "{pool}");
    assert_eq!(rows::row(&gateway, "a").await["state"], "ready");
}

#[tokio::test]
async fn a_bounded_server_never_sees_more_connections_for_calls_of_all_workers() {
    let script = Script::modern().tool(ToolScript::new("slow").sleep(20));
    let server = ScriptedServer::start(script).await;
    let gateway = Gateway::start(&format!(
        "workers: 4\nservers:\n  a: {{ url: \"{}\", connections: {{ max: 3 }} }}\n",
        server.url()
    ))
    .await;
    rows::until_listed(&gateway, "a").await;
    let clients: Vec<_> = (0..24).map(|_| gateway.modern("/mcp")).collect();
    let calls = clients.iter().map(|client| client.call("a__slow", json!({})));
    for outcome in futures_util::future::join_all(calls).await {
        outcome.expect("waits for its turn");
    }
    assert!(used(&server).len() <= 3, "{:?}", used(&server));
}

#[tokio::test]
async fn a_lifetime_costs_no_call() {
    let script = Script::modern().tool(ToolScript::new("slow").sleep(800));
    let server = ScriptedServer::start(script).await;
    let gateway = gateway(&server.url(), "max_lifetime: 200ms").await;
    let client = gateway.modern("/mcp");
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call("a__slow", json!({})).await }
    });
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        client.call("a__tool_0", json!({})).await.unwrap();
    }
    slow.await.unwrap().expect("a connection does not end within a call");
    let pool = pool(&gateway).await;
    assert!(pool["closed"]["lifetime"].as_u64() >= Some(2), "{pool}");
    assert!(used(&server).len() >= 3, "{:?}", used(&server));
}

#[tokio::test]
async fn a_server_that_closes_idle_connections_costs_no_call() {
    let server = ScriptedServer::start(Script::modern()).await;
    let proxy = FaultProxy::start(server.address()).await;
    let gateway = gateway(&proxy.url("/mcp"), "").await;
    let client = gateway.modern("/mcp");
    for round in 0..20 {
        client.call("a__tool_0", json!({})).await.unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        // Also after a rest that is long enough for a look at the connection.
        if round % 5 == 4 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        proxy.cut_all().await;
    }
    let pool = pool(&gateway).await;
    assert!(pool["closed"]["ended"].as_u64() >= Some(15), "{pool}");
    assert!(used(&server).len() >= 20, "{:?}", used(&server));
}
