//! Several instances of one server: spread, loss and return, what stays together, drain, reload.

use std::{collections::BTreeSet, time::Duration};

use fairlead_testkit::{McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, StdioServer, eventually, eventually_some, get, rows};

/// Three of them, each with the same tools.
async fn three(script: fn() -> Script) -> [ScriptedServer; 3] {
    [
        ScriptedServer::start(script()).await,
        ScriptedServer::start(script()).await,
        ScriptedServer::start(script()).await,
    ]
}

fn yaml(servers: &[&ScriptedServer], rest: &str) -> String {
    let places: Vec<_> = servers.iter().map(|server| format!("{{ url: \"{}\" }}", server.url())).collect();
    format!("servers:\n  a: {{ instances: [{}]{rest} }}\n", places.join(", "))
}

/// A gateway that has found all of them.
async fn start(servers: &[&ScriptedServer], rest: &str) -> Gateway {
    let gateway = Gateway::start(&yaml(servers, rest)).await;
    all_ready(&gateway, servers.len()).await;
    gateway
}

async fn all_ready(gateway: &Gateway, count: usize) -> Value {
    rows::until(gateway, "a", PATIENCE, "every instance ready", |row| {
        let instances = row["instances"].as_array().cloned().unwrap_or_default();
        instances.len() == count && instances.iter().all(|one| one["state"] == "ready") && row["stale"] == false
    })
    .await
}

fn calls(server: &ScriptedServer) -> u64 {
    server.calls_finished()
}

async fn call(client: &McpClient, arguments: Value) -> anyhow::Result<Value> {
    client.call("a__tool_0", arguments).await
}

async fn calls_in_a_row(client: &McpClient, count: usize) {
    for n in 0..count {
        call(client, json!({"n": n})).await.unwrap_or_else(|error| panic!("call {n}: {error:#}"));
    }
}

async fn instance(gateway: &Gateway, server: &ScriptedServer) -> Value {
    let name = server.address().to_string();
    let row = rows::row(gateway, "a").await;
    let instances = row["instances"].as_array().unwrap();
    instances.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no `{name}` in {row:#}")).clone()
}

#[tokio::test]
async fn calls_are_spread_and_lists_are_the_same() {
    for script in [Script::legacy as fn() -> Script, Script::modern] {
        let servers = three(script).await;
        let [a, b, c] = &servers;
        let gateway = start(&[a, b, c], ", balance: round_robin").await;
        for client in [gateway.modern("/mcp"), gateway.legacy("/mcp", NEWEST_LEGACY).await] {
            let before: Vec<_> = servers.iter().map(calls).collect();
            calls_in_a_row(&client, 12).await;
            for (server, before) in servers.iter().zip(before) {
                assert_eq!(calls(server) - before, 4, "{:?}", servers.iter().map(calls).collect::<Vec<_>>());
            }
            let first = client.result("tools/list", json!({})).await.unwrap();
            assert_eq!(first["tools"].as_array().unwrap().len(), 3);
            for _ in 0..3 {
                assert_eq!(client.result("tools/list", json!({})).await.unwrap(), first);
            }
        }
        let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
        let counted =
            format!("fairlead_instance_calls_total{{mcp_server=\"a\",instance=\"{}\",result=\"ok\"}} 8", a.address());
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

#[tokio::test]
async fn every_strategy_reaches_every_instance() {
    for strategy in ["weighted_round_robin", "least_connections", "peak_ewma", "random", "resource", "composite"] {
        let servers = three(Script::modern).await;
        let [a, b, c] = &servers;
        let gateway = start(&[a, b, c], &format!(", balance: {strategy}")).await;
        calls_in_a_row(&gateway.modern("/mcp"), 60).await;
        let got: Vec<_> = servers.iter().map(calls).collect();
        assert!(got.iter().all(|got| *got > 0) && got.iter().sum::<u64>() == 60, "{strategy}: {got:?}");
    }
}

#[tokio::test]
async fn one_that_dies_costs_no_call_and_comes_back_slowly() {
    for script in [Script::legacy as fn() -> Script, Script::modern] {
        let mut servers = three(script).await;
        let gateway = start(&servers.each_ref(), ", balance: { strategy: round_robin, slow_start: 300s }").await;
        let client = gateway.modern("/mcp");
        calls_in_a_row(&client, 6).await;
        servers[1].stop().await;
        let dead = calls(&servers[1]);
        // Nothing reaches it, so every call may go elsewhere.
        calls_in_a_row(&client, 30).await;
        assert_eq!(calls(&servers[1]), dead);
        let row = rows::row(&gateway, "a").await;
        assert_eq!(row["state"], "ready", "{row:#}");
        let list = client.result("tools/list", json!({})).await.unwrap();
        assert!(list["tools"][0]["_meta"].get("fairlead/stale").is_none(), "{list}");

        servers[1].resume().await.unwrap();
        eventually_some(PATIENCE, "the instance is back", async || {
            let one = instance(&gateway, &servers[1]).await;
            (one["state"] == "ready" && one["share"].as_f64() > Some(0.0)).then_some(())
        })
        .await;
        let one = instance(&gateway, &servers[1]).await;
        assert!(one["share"].as_f64().unwrap() < 0.5, "it begins with a small share: {one}");
        let before: Vec<_> = servers.iter().map(calls).collect();
        calls_in_a_row(&client, 90).await;
        let got: Vec<_> = servers.iter().zip(before).map(|(server, before)| calls(server) - before).collect();
        assert!(got[1] < 20 && got[0] > 20 && got[2] > 20, "{got:?}");
    }
}

#[tokio::test]
async fn arguments_and_sessions_stay_on_their_instance() {
    let servers = three(Script::modern).await;
    let sticky = ", balance: { strategy: sticky, by: argument, argument: path }";
    let gateway = start(&servers.each_ref(), sticky).await;
    let client = gateway.modern("/mcp");
    let mut homes = BTreeSet::new();
    for path in 0..12 {
        let before: Vec<_> = servers.iter().map(calls).collect();
        for n in 0..4 {
            call(&client, json!({"n": n, "path": path})).await.unwrap();
        }
        let got: Vec<_> = servers.iter().zip(before).map(|(server, before)| calls(server) - before).collect();
        let home = got.iter().position(|got| *got == 4);
        homes.insert(home.unwrap_or_else(|| panic!("`{path}` went to several: {got:?}")));
    }
    assert!(homes.len() > 1, "all went to one");

    let servers = three(Script::legacy).await;
    let gateway = start(&servers.each_ref(), ", balance: sticky").await;
    for _ in 0..4 {
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let before: Vec<_> = servers.iter().map(calls).collect();
        calls_in_a_row(&client, 5).await;
        let got: Vec<_> = servers.iter().zip(before).map(|(server, before)| calls(server) - before).collect();
        assert!(got.contains(&5), "{got:?}");
    }
}

#[tokio::test]
async fn sessions_kept_apart_live_on_one_instance() {
    let servers = three(Script::legacy).await;
    let gateway = start(&servers.each_ref(), ", share: per_session, balance: round_robin").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    calls_in_a_row(&client, 9).await;
    let got: Vec<_> = servers.iter().map(calls).collect();
    assert!(got.contains(&9), "{got:?}");
}

#[tokio::test]
async fn a_drained_instance_finishes_and_gets_nothing_new() {
    let script = || Script::modern().tool(ToolScript::new("slow").sleep(1_500));
    let servers = three(script).await;
    let gateway = start(&servers.each_ref(), ", balance: round_robin").await;
    let client = gateway.modern("/mcp");
    let running: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call("a__slow", json!({})).await })
        })
        .collect();
    eventually(PATIENCE, "a call on each", || {
        servers.iter().all(|server| server.received_method("tools/call").len() == 1)
    })
    .await;
    let name = format!("a/{}", servers[0].address());
    let said = gateway.cli(&["servers", "drain", &name]).await;
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && text.contains("1 instance drained"), "{said:?}");
    calls_in_a_row(&client, 10).await;
    for call in running {
        call.await.unwrap().expect("what was in flight finishes");
    }
    assert_eq!(calls(&servers[0]), 1);
    let one = instance(&gateway, &servers[0]).await;
    assert_eq!((&one["out"], &one["share"]), (&json!("drained"), &json!(0.0)), "{one}");
    let table = gateway.cli(&["servers"]).await;
    assert!(String::from_utf8_lossy(&table.stdout).contains("drained"), "{table:?}");
    let why = gateway.cli(&["explain", "a__tool_0"]).await;
    assert!(String::from_utf8_lossy(&why.stdout).contains("gets no calls: drained"), "{why:?}");

    assert!(gateway.cli(&["servers", "undrain", &name]).await.status.success());
    // Its share grows from a little on.
    eventually_some(PATIENCE, "it gets calls again", async || {
        calls_in_a_row(&client, 10).await;
        (calls(&servers[0]) > 1).then_some(())
    })
    .await;
    let unknown = gateway.cli(&["servers", "drain", "a/nowhere"]).await;
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");

    // All of them: the calls fail at once and say why.
    assert!(gateway.cli(&["servers", "drain", "a"]).await.status.success());
    let answer = client.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap();
    assert!(answer.error()["message"].as_str().unwrap().contains("was not made"), "{:?}", answer.body);
}

#[tokio::test]
async fn a_reload_keeps_the_instances_that_stay() {
    for script in [Script::legacy as fn() -> Script, Script::modern] {
        let servers = three(script).await;
        let [a, b, c] = &servers;
        let gateway = start(&[a, b], ", balance: round_robin").await;
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        calls_in_a_row(&client, 4).await;
        // An owner lists its server when it begins.
        let opened = |server: &ScriptedServer| (server.sessions_opened(), server.received_method("tools/list").len());
        let before = (opened(a), opened(b));
        gateway.reload(&yaml(&[a, b, c], ", balance: round_robin")).await;
        all_ready(&gateway, 3).await;
        assert_eq!((opened(a), opened(b)), before, "what stays is not opened anew");
        // Its share grows from a little on.
        eventually_some(PATIENCE, "the new one gets calls", async || {
            calls_in_a_row(&client, 10).await;
            (calls(c) > 0).then_some(())
        })
        .await;

        gateway.reload(&yaml(&[b, c], ", balance: round_robin")).await;
        all_ready(&gateway, 2).await;
        let left = calls(a);
        calls_in_a_row(&client, 20).await;
        assert_eq!(calls(a), left, "what is gone gets nothing");
        assert_eq!(opened(b), before.1);
        // Down to a plain server, over the same connections.
        gateway.reload(&format!("servers:\n  a: {{ url: \"{}\" }}\n", b.url())).await;
        calls_in_a_row(&client, 4).await;
        assert_eq!(opened(b), before.1);
    }
}

#[tokio::test]
async fn what_is_watched_moves_to_another_instance() {
    let script = || Script { resources: 1, ..Script::legacy() };
    let mut servers = three(script).await;
    let gateway = start(&servers.each_ref(), "").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.result("resources/subscribe", json!({"uri": "test://resource/0"})).await.unwrap();
    let subscribed = |server: &ScriptedServer| server.received_method("resources/subscribe").len();
    assert_eq!(servers.iter().map(subscribed).sum::<usize>(), 1, "one of them tells");
    let teller = servers.iter().position(|server| subscribed(server) == 1).unwrap();
    servers[teller].stop().await;
    eventually(PATIENCE, "another one is asked to tell", || {
        servers.iter().enumerate().any(|(place, server)| place != teller && subscribed(server) == 1)
    })
    .await;
}

#[tokio::test]
async fn a_change_on_all_of_them_is_not_told_by_each() {
    let servers = three(Script::legacy).await;
    let gateway = start(&servers.each_ref(), "").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = client.open_get(None).await.unwrap();
    client.result("tools/list", json!({})).await.unwrap();
    futures_util::future::join_all(servers.iter().map(ScriptedServer::change_list)).await;
    let list = eventually_some(PATIENCE, "the new tool", async || {
        let list = client.result("tools/list", json!({})).await.unwrap();
        list.to_string().contains("extra_tool").then_some(list)
    })
    .await;
    assert_eq!(list["tools"].as_array().unwrap().len(), 4);
    all_ready(&gateway, 3).await;
    let changed = "notifications/tools/list_changed";
    stream.next_method(changed, PATIENCE).await.unwrap();
    // A list may be learned in two steps; each instance by itself would tell of both.
    let mut told = 1;
    while told < 3 && stream.next_method(changed, Duration::from_secs(1)).await.is_ok() {
        told += 1;
    }
    assert!(told < 3, "told as often as there are instances");
}

#[tokio::test]
async fn an_instance_that_fails_loses_its_calls() {
    let servers = three(Script::modern).await;
    let rest = ", balance: round_robin, ejection: { min_calls: 5, window: 2s, time: 60s }";
    let gateway = start(&servers.each_ref(), rest).await;
    let client = gateway.modern("/mcp");
    servers[2].change(|script| {
        script.garbage.insert("tools/call".to_owned(), fairlead_testkit::Garbage::Html500);
    });
    let out = eventually_some(PATIENCE, "it is ejected", async || {
        for n in 0..9 {
            // Some of these fail: nobody knows whether they took effect.
            let _ = call(&client, json!({"n": n})).await;
        }
        let one = instance(&gateway, &servers[2]).await;
        one["out"].as_str().map(str::to_owned)
    })
    .await;
    assert!(out.starts_with("ejected: ") && out.contains("failed"), "{out}");
    calls_in_a_row(&client, 12).await;
}

#[tokio::test]
async fn processes_of_one_command_share_the_calls() {
    let server = StdioServer::new(Script::legacy());
    let yaml = format!("servers:\n  a: {{ {}, replicas: 2, balance: round_robin, start: eager }}\n", server.yaml());
    let gateway = Gateway::start(&yaml).await;
    let row = all_ready(&gateway, 2).await;
    assert_eq!(row["processes"].as_array().unwrap().len(), 2, "{row:#}");
    calls_in_a_row(&gateway.modern("/mcp"), 8).await;
    let row = rows::row(&gateway, "a").await;
    let ended: Vec<_> = row["instances"].as_array().unwrap().iter().map(|one| one["ended"].as_u64()).collect();
    assert_eq!(ended, [Some(4), Some(4)]);
}

#[tokio::test]
async fn a_check_that_fails_takes_an_instance_out_until_it_passes() {
    let servers = three(Script::modern).await;
    let directory = tempfile::tempdir().unwrap();
    let name = servers[0].address().to_string();
    // The check of one instance fails while a file is there.
    let flag = directory.path().join(&name);
    std::fs::write(&flag, "").unwrap();
    // Without a slow start: it may have served before its first check, and its turns must not depend on chance.
    let check = format!(
        ", balance: {{ strategy: round_robin, slow_start: 0s }}, health: {{ readiness: {{ command: [sh, -c, 'test ! -e {}/$FAIRLEAD_INSTANCE'], interval: 200ms, unhealthy_after: 1, healthy_after: 1 }} }}",
        directory.path().display()
    );
    let gateway = start(&servers.each_ref(), &check).await;
    let client = gateway.modern("/mcp");
    eventually_some(PATIENCE, "it is out", async || {
        let one = instance(&gateway, &servers[0]).await;
        one["out"].as_str().filter(|why| why.starts_with("not ready: the readiness check fails")).map(drop)
    })
    .await;
    let before = calls(&servers[0]);
    calls_in_a_row(&client, 12).await;
    assert_eq!(calls(&servers[0]), before);
    std::fs::remove_file(&flag).unwrap();
    eventually_some(PATIENCE, "it is back", async || {
        instance(&gateway, &servers[0]).await["out"].is_null().then_some(())
    })
    .await;
    calls_in_a_row(&client, 60).await;
    assert!(calls(&servers[0]) > before);
}
