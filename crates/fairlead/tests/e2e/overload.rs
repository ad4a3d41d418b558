//! Overload: a full pool delays nobody but its own, what is important goes first, and short of memory the least
//! important is sent away.

use std::time::Duration;

use fairlead_testkit::{Answer, McpClient, Script, ScriptedServer};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Gateway, PATIENCE, eventually_some, gate::Gate, get, rows};

fn lingering(gate: &Gate) -> Script {
    Script::legacy().tool(gate.tool("linger"))
}

async fn request(client: &McpClient, tool: &str, priority: Option<&str>) -> Answer {
    let mut params = json!({"name": tool, "arguments": {}});
    if let Some(priority) = priority {
        params["_meta"] = json!({"fairlead/priority": priority});
    }
    client.request("tools/call", params).await.unwrap()
}

fn begin(client: &McpClient, tool: &'static str, priority: Option<&'static str>) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { request(&client, tool, priority).await })
}

/// Waits until a metric has a value.
async fn metric(gateway: &Gateway, line: &str) {
    eventually_some(PATIENCE, line, async || {
        get(&gateway.admin_url("/metrics")).await.1.lines().any(|present| present == line).then_some(())
    })
    .await;
}

#[track_caller]
fn is_refused(answer: &Answer, status: u16, code: &str) -> Value {
    assert_eq!(answer.status, status, "{:?}", answer.body);
    assert!(answer.header("retry-after").is_some());
    let error = answer.error();
    assert!(error["message"].as_str().unwrap().contains(code), "{error}");
    assert!(error["data"]["retryAfterMs"].is_u64(), "{error}");
    error
}

#[tokio::test]
async fn one_full_pool_never_delays_another() {
    let gate = Gate::new();
    let (slow, quick) = (ScriptedServer::start(lingering(&gate)).await, ScriptedServer::start(Script::legacy()).await);
    let gateway = Gateway::start(&format!(
        "bulkheads: {{ narrow: {{ concurrency: 2, queue: 1, queue_time: 3s }} }}\nservers:\n  \
         slow: {{ url: \"{}\", bulkhead: narrow }}\n  quick: {{ url: \"{}\", bulkhead: standard }}\n",
        slow.url(),
        quick.url()
    ))
    .await;
    rows::until_listed(&gateway, "slow").await;
    rows::until_listed(&gateway, "quick").await;
    let client = gateway.modern("/mcp");
    let running = [begin(&client, "slow__linger", None), begin(&client, "slow__linger", None)];
    metric(&gateway, "fairlead_bulkhead_running{bulkhead=\"narrow\"} 2").await;
    let queued = begin(&client, "slow__tool_0", None);
    metric(&gateway, "fairlead_bulkhead_waiting{bulkhead=\"narrow\"} 1").await;
    // The queue is full: at once. What waits in it: after its time, while those under way go on.
    let error = is_refused(&request(&client, "slow__tool_0", None).await, 503, "FL-1314");
    assert_eq!(error["data"]["bulkhead"], "narrow");
    for number in 0..20 {
        let answer = request(&client, "quick__tool_0", None).await;
        assert_eq!(answer.status, 200, "{number}: {:?}", answer.body);
    }
    is_refused(&queued.await.unwrap(), 503, "FL-1314");
    assert!(running.iter().all(|call| !call.is_finished()), "the others were not delayed by those under way");
    gate.open();
    for call in running {
        assert_eq!(call.await.unwrap().status, 200);
    }
    metric(&gateway, "fairlead_bulkhead_running{bulkhead=\"narrow\"} 0").await;
    assert_eq!(request(&client, "slow__tool_0", None).await.status, 200);
}

#[tokio::test]
async fn a_pool_that_a_call_is_in_twice_is_entered_once_and_waited_for_no_longer_than_the_call_has() {
    let gate = Gate::new();
    let server = ScriptedServer::start(lingering(&gate)).await;
    let gateway = Gateway::start(&format!(
        "overload: {{ tenant: one, priorities: {{ normal: one }} }}\nbulkheads: {{ one: {{ concurrency: 1, queue: 4, \
         queue_time: 60s }} }}\nservers:\n  a: {{ url: \"{}\", bulkhead: one }}\n",
        server.url()
    ))
    .await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.modern("/mcp");
    assert_eq!(request(&client, "a__tool_0", None).await.status, 200);
    let first = begin(&client, "a__linger", None);
    eventually_some(PATIENCE, "the call", async || (server.received_method("tools/call").len() == 2).then_some(()))
        .await;
    let hasty = gateway.modern("/mcp").header("fairlead-timeout-ms", "200");
    let answer = request(&hasty, "a__tool_0", None).await;
    assert!(answer.error()["message"].as_str().unwrap_or_default().contains("FL-1313"), "{:?}", answer.error());
    assert!(!first.is_finished(), "it did not wait for the other");
    gate.open();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(server.received_method("tools/call").len(), 2);
}

#[tokio::test]
async fn what_is_important_goes_first_as_far_as_the_client_may_say_so() {
    let gate = Gate::new();
    let server = ScriptedServer::start(lingering(&gate)).await;
    let gateway = Gateway::start(&format!(
        "overload: {{ max_calls: 10000, raise_to: high }}\nbulkheads: {{ one: {{ concurrency: 1, queue: 8, queue_time: \
         20s }} }}\nservers:\n  a: {{ url: \"{}\", bulkhead: one, tools: {{ rules: {{ tool_2: {{ priority: critical }} }} }} }}\n",
        server.url()
    ))
    .await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.modern("/mcp");
    let first = begin(&client, "a__linger", None);
    metric(&gateway, "fairlead_bulkhead_running{bulkhead=\"one\"} 1").await;
    let mut waiting = Vec::new();
    // The third says more than it may; the last is what the configuration says.
    for (tool, priority) in [("a__tool_0", Some("low")), ("a__tool_1", Some("critical")), ("a__tool_2", None)] {
        waiting.push(begin(&client, tool, priority));
        metric(&gateway, &format!("fairlead_bulkhead_waiting{{bulkhead=\"one\"}} {}", waiting.len())).await;
    }
    gate.open();
    assert_eq!(first.await.unwrap().status, 200);
    for call in waiting {
        assert_eq!(call.await.unwrap().status, 200);
    }
    let order: Vec<String> = server
        .received_method("tools/call")
        .iter()
        .map(|call| call.json()["params"]["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(order, ["linger", "tool_2", "tool_1", "tool_0"]);
}

#[tokio::test]
async fn load_and_memory_shed_the_least_important_first() {
    let gate = Gate::new();
    let server = ScriptedServer::start(lingering(&gate)).await;
    let yaml = |overload: &str| {
        format!("overload: {{ {overload}, retry_after: 7s }}\nservers:\n  a: {{ url: \"{}\" }}\n", server.url())
    };
    let gateway = Gateway::start(&yaml("max_calls: 10")).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.modern("/mcp");
    let calls: Vec<_> = (0..7).map(|_| begin(&client, "a__linger", None)).collect();
    eventually_some(PATIENCE, "seven calls", async || (server.received_method("tools/call").len() == 7).then_some(()))
        .await;
    let answer = request(&client, "a__tool_0", Some("low")).await;
    is_refused(&answer, 503, "FL-1504");
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert_eq!(request(&client, "a__tool_0", None).await.status, 200);
    gate.open();
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(request(&client, "a__tool_0", Some("low")).await.status, 200);
    // Of a bound a quarter above what is used, `low` has no part left and `normal` has.
    let reload = async |bound: u64| {
        gateway.reload(&yaml(&format!("memory: {bound}B"))).await;
        // A look is good for a tenth of a second.
        tokio::time::sleep(Duration::from_millis(150)).await;
    };
    reload(gateway.resident_bytes() * 100 / 78).await;
    is_refused(&request(&client, "a__tool_0", Some("low")).await, 503, "FL-1505");
    assert_eq!(request(&client, "a__tool_0", None).await.status, 200);
    reload(gateway.resident_bytes() / 2).await;
    is_refused(&request(&client, "a__tool_0", None).await, 503, "FL-1505");
    let key = [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")];
    let asked = McpClient::new(&gateway.url("/ws"));
    let headers: Vec<_> = key.into_iter().chain([("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")]).collect();
    let answer = asked.raw(http::Method::GET, "", &headers).await.unwrap();
    is_refused(&answer, 503, "FL-1505");
    metric(&gateway, "fairlead_shed_total{priority=\"low\",reason=\"load\"} 1").await;
}
