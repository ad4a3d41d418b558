//! A configuration changes while calls go on without a pause: none of them fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fairlead_testkit::{McpClient, Script, ScriptedServer, ToolScript};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, StdioServer, eventually, eventually_some, rows};

/// Clients that call without a pause.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    callers: JoinSet<Vec<String>>,
}

impl Load {
    fn new() -> Self {
        Self { stop: Arc::default(), done: Arc::default(), callers: JoinSet::new() }
    }

    /// Has a client call a tool, one call after the other, until all are stopped.
    fn add(&mut self, client: McpClient, tool: &str) {
        let (stop, done, tool) = (Arc::clone(&self.stop), Arc::clone(&self.done), tool.to_owned());
        self.callers.spawn(async move {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = client.call(&tool, json!({})).await {
                    failures.push(format!("{tool}: {error:#}"));
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
    }

    /// Waits until that many more calls were made.
    async fn more(&self, calls: usize) {
        let wanted = self.done.load(Ordering::Relaxed) + calls;
        eventually(PATIENCE, "more calls", || self.done.load(Ordering::Relaxed) >= wanted).await;
    }

    /// Ends all; what failed.
    async fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(caller) = self.callers.join_next().await {
            failures.extend(caller.unwrap());
        }
        failures
    }
}

#[tokio::test]
async fn a_reload_that_changes_adds_and_removes_servers_fails_no_call() {
    let script = || Script::dual().tool(ToolScript::new("slow").sleep(400));
    let (same, changed) = (ScriptedServer::start(script()).await, ScriptedServer::start(script()).await);
    let (gone, added) = (ScriptedServer::start(script()).await, ScriptedServer::start(script()).await);
    let process = StdioServer::new(Script::legacy());
    let two = [ScriptedServer::start(script()).await, ScriptedServer::start(script()).await];
    let yaml = |round: usize, third: &str, url: &str| {
        format!(
            "servers:\n  same: {{ url: \"{}\" }}\n  changed: {{ url: \"{}\", max_calls: {} }}\n  process: {{ {}, env: {{ ROUND: \"{round}\" }} }}\n  several: {{ instances: [{{ url: \"{}\" }}, {{ url: \"{}\" }}], max_calls: {} }}\n  {third}: {{ url: \"{url}\" }}\n",
            same.url(),
            changed.url(),
            500 + round,
            process.yaml(),
            two[0].url(),
            two[1].url(),
            500 + round,
        )
    };
    let gateway = Gateway::start(&yaml(0, "gone", &gone.url())).await;
    for server in ["same", "changed", "process", "several", "gone"] {
        rows::until_listed(&gateway, server).await;
    }
    let mut load = Load::new();
    for tool in ["same__tool_0", "changed__tool_0", "changed__slow", "process__tool_0", "several__tool_0"] {
        load.add(gateway.legacy("/mcp", NEWEST_LEGACY).await, tool);
        load.add(gateway.modern("/mcp"), tool);
    }
    load.more(20).await;
    // What is under way when its server is removed is finished.
    let last = tokio::spawn({
        let client = gateway.modern("/mcp");
        async move { client.call("gone__slow", json!({})).await }
    });
    eventually(PATIENCE, "the last call is made", || !gone.received_method("tools/call").is_empty()).await;
    for round in 1..=3 {
        gateway.reload(&yaml(round, "added", &added.url())).await;
        load.more(20).await;
    }
    last.await.unwrap().expect("a call under way is finished although its server is removed");
    let client = gateway.modern("/mcp");
    eventually_some(PATIENCE, "the new server is called", async || client.call("added__tool_0", json!({})).await.ok())
        .await;
    let failures = load.stop().await;
    assert!(failures.is_empty(), "{} calls failed, the first with: {}", failures.len(), failures[0]);
    eventually(PATIENCE, "the removed server is left alone", || gone.connections() == 0).await;
}

#[tokio::test]
async fn a_server_is_drained_to_another_address_and_no_call_fails() {
    let script = || Script::dual().tool(ToolScript::new("slow").sleep(400));
    let (old, new) = (ScriptedServer::start(script()).await, ScriptedServer::start(script()).await);
    let yaml = |url: &str| format!("servers:\n  a: {{ url: \"{url}\" }}\n");
    let gateway = Gateway::start(&yaml(&old.url())).await;
    rows::until_listed(&gateway, "a").await;
    let mut load = Load::new();
    for tool in ["a__tool_0", "a__slow"] {
        for _ in 0..3 {
            load.add(gateway.legacy("/mcp", NEWEST_LEGACY).await, tool);
            load.add(gateway.modern("/mcp"), tool);
        }
    }
    load.more(40).await;
    gateway.reload(&yaml(&new.url())).await;
    eventually(PATIENCE, "calls come to the new address", || !new.received_method("tools/call").is_empty()).await;
    // What the old one has to do it finishes, and is then left alone.
    eventually(PATIENCE, "the old address is left alone", || old.connections() == 0).await;
    let before = old.received_method("tools/call").len();
    load.more(40).await;
    assert_eq!(old.received_method("tools/call").len(), before, "a call came to the old address");
    let failures = load.stop().await;
    assert!(failures.is_empty(), "{} calls failed, the first with: {}", failures.len(), failures[0]);
    tokio::time::timeout(Duration::from_secs(10), gateway.modern("/mcp").call("a__tool_0", json!({})))
        .await
        .expect("in time")
        .expect("the server serves on");
}
