//! What was lost comes back by itself, and only what is safe is repeated.

use std::{
    fs,
    time::{Duration, Instant},
};

use fairlead_testkit::{
    Answer, FaultProxy, Faults, Finish, Hang, McpClient, Received, Script, ScriptedServer, StdioScript, Step,
    ToolScript,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::support::{
    Gateway, MODERN, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually, eventually_some, processes, relaxed,
    rows,
};

async fn one(server: &ScriptedServer) -> Gateway {
    let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    rows::until_listed(&gateway, "a").await;
    gateway
}

fn echo(client: &McpClient) -> impl Future<Output = anyhow::Result<Value>> {
    let client = client.clone();
    async move { client.call("a__tool_0", json!({"n": 1})).await }
}

fn refusal(answer: &Answer) -> String {
    answer.error()["message"].as_str().unwrap_or_else(|| panic!("no error: {:?}", answer.body)).to_owned()
}

async fn tool_names(client: &McpClient) -> Vec<String> {
    let list = client.result("tools/list", json!({})).await.unwrap();
    list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

fn kill_all(pids: &[u32]) {
    for pid in pids {
        kill(Pid::from_raw(i32::try_from(*pid).unwrap()), Signal::SIGKILL).ok();
    }
}

#[tokio::test]
async fn a_forgotten_session_costs_nobody_a_call() {
    for (what, script) in [
        ("404", Script::legacy()),
        ("404, answers in streams", Script::legacy().sse()),
        ("400 as server-everything says it", Script::legacy().forgotten_is_400()),
        ("404 without a GET stream", Script { get_stream: false, ..Script::legacy() }),
        ("400 without a GET stream", Script { get_stream: false, ..Script::legacy().forgotten_is_400() }),
    ] {
        let server = ScriptedServer::start(script).await;
        let gateway = one(&server).await;
        let modern = gateway.modern("/mcp");
        let legacy = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        echo(&modern).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        for times in 1..=5 {
            server.forget_sessions();
            for client in [&modern, &legacy] {
                echo(client).await.unwrap_or_else(|error| panic!("{what}, {times}: {error:#}"));
            }
        }
        assert_eq!(server.calls_finished(), 11, "{what}: every call was made once");
        assert!(gateway.log().contains("forgot the session"), "{what}");
    }
}

#[tokio::test]
async fn a_forgetful_server_costs_nobody_a_call() {
    const CALLS: u64 = 30;
    // A session is worth: `initialized`, the GET stream, the list, and a few calls.
    let server = ScriptedServer::start(Script::legacy().forget_after(6)).await;
    let gateway = one(&server).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for n in 0..CALLS {
        echo(&client).await.unwrap_or_else(|error| panic!("call {n}: {error:#}"));
    }
    assert_eq!(server.calls_finished(), CALLS);
    assert!(server.sessions_opened() >= CALLS / 6, "{}", server.sessions_opened());
}

#[tokio::test]
async fn a_server_that_forgets_at_once_is_not_asked_in_a_loop() {
    // Not even the stream is opened in the session that was just given.
    let server = ScriptedServer::start(Script::legacy().forget_after(1)).await;
    let _gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    eventually(PATIENCE, "a second session", || server.sessions_opened() >= 2).await;
    let before = server.sessions_opened();
    tokio::time::sleep(SECOND * 4).await;
    let opened = server.sessions_opened() - before;
    assert!(opened <= 8, "{opened} sessions in four seconds");
}

#[tokio::test]
async fn a_restarted_server_is_found_again_with_what_changed_meanwhile() {
    for (what, script) in [
        ("legacy", Script::legacy()),
        ("legacy without a GET stream", Script { get_stream: false, ..Script::legacy() }),
        ("modern", Script::modern()),
    ] {
        let mut server = ScriptedServer::start(script).await;
        let gateway = one(&server).await;
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let mut stream = client.open_get(None).await.unwrap();
        echo(&client).await.unwrap();

        server.stop().await;
        // A connection may look alive until it was used once more.
        eventually_some(PATIENCE, &format!("{what}: a call that was not made"), async || {
            let start = Instant::now();
            let said = refusal(&client.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap());
            assert!(start.elapsed() < relaxed(SECOND), "{what}: {:?}", start.elapsed());
            if said.contains("FL-1303") {
                return None;
            }
            assert!(said.contains("FL-1301") && said.contains("was not made"), "{what}: {said}");
            Some(())
        })
        .await;
        rows::until(&gateway, "a", PATIENCE, "down and stale", |row| row["state"] == "down" && row["stale"] == true)
            .await;
        let list = client.result("tools/list", json!({})).await.unwrap();
        assert_eq!(list["tools"][0]["_meta"]["fairlead/stale"], true, "{what}: {list}");

        server.change(|script| script.tools = 4);
        server.resume().await.unwrap();
        eventually_some(PATIENCE, &format!("{what}: called again"), async || echo(&client).await.ok()).await;
        eventually_some(PATIENCE, &format!("{what}: four tools"), async || {
            (tool_names(&client).await.len() == 4).then_some(())
        })
        .await;
        stream
            .next_method("notifications/tools/list_changed", PATIENCE)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error:#}"));
        rows::until(&gateway, "a", PATIENCE, "ready and fresh", |row| row["state"] == "ready" && row["stale"] == false)
            .await;
    }
}

#[tokio::test]
async fn a_restart_that_nobody_saw_changes_the_lists_all_the_same() {
    for (what, script) in [
        ("legacy", Script::legacy()),
        ("legacy without a GET stream", Script { get_stream: false, ..Script::legacy() }),
        ("modern", Script::modern()),
    ] {
        let mut server = ScriptedServer::start(script).await;
        let gateway = one(&server).await;
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        server.change(|script| script.tools = 5);
        server.restart().await.unwrap();
        eventually_some(PATIENCE, &format!("{what}: called again"), async || echo(&client).await.ok()).await;
        eventually_some(PATIENCE, &format!("{what}: five tools"), async || {
            (tool_names(&client).await.len() == 5).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_killed_child_comes_back() {
    let server = StdioServer::new(Script::legacy());
    let gateway = Gateway::start(&format!("servers:\n  a: {{ {} }}\n", server.yaml())).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let before = server.living();
    kill_all(&before);
    eventually_some(PATIENCE, "called again", async || echo(&client).await.ok()).await;
    let after = server.living();
    assert_eq!(after.len(), 1, "one process again");
    assert_ne!(before, after);
    assert_eq!(processes::marked(gateway.mark()).iter().filter(|other| before.contains(&other.pid)).count(), 0);

    // The guard of it, too: it takes its server with it.
    let guards = rows::processes(&gateway, "a").await;
    kill_all(&guards.iter().map(|pid| u32::try_from(*pid).unwrap()).collect::<Vec<_>>());
    eventually(PATIENCE, "the server of a killed guard is gone", || !server.living().contains(&after[0])).await;
    eventually_some(PATIENCE, "called again", async || echo(&client).await.ok()).await;
    assert_eq!(server.living().len(), 1);
}

#[tokio::test]
async fn a_child_that_does_not_stay_is_started_ever_more_rarely() {
    const WATCHED: Duration = Duration::from_secs(9);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let greeting = r#"{"jsonrpc":"2.0","id":2,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"x","version":"1"}}}"#;
    let at_once = format!("echo x >> {}; exit 1", file("at_once"));
    let greets = format!("echo x >> {}; read first; echo '{greeting}'; read second; exit 0", file("greets"));
    fs::write(file("at_once.sh"), at_once).unwrap();
    fs::write(file("greets.sh"), greets).unwrap();
    let gateway = Gateway::start(&format!(
        "servers:\n  at_once: {{ command: sh, args: [\"{}\"] }}\n  \
         greets: {{ command: sh, args: [\"{}\"], protocol: \"2025-11-25\" }}\n",
        file("at_once.sh"),
        file("greets.sh")
    ))
    .await;
    let starts = |name: &str| fs::read_to_string(file(name)).unwrap_or_default().lines().count();
    let client = gateway.modern("/mcp");
    let watch = Instant::now();
    while watch.elapsed() < WATCHED {
        // Who calls does not make it start more often.
        for server in ["at_once", "greets"] {
            let start = Instant::now();
            let answer = client.request("tools/call", json!({"name": format!("{server}__x")})).await.unwrap();
            assert!(!answer.error().is_null());
            assert!(start.elapsed() < relaxed(SECOND), "{server} took {:?}", start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // After 0, 0.5, 1, 2, 4 seconds; where the era is not known, each try may start it twice.
    for (server, most) in [("at_once", 12), ("greets", 8)] {
        let starts = starts(server);
        assert!((3..=most).contains(&starts), "`{server}` was started {starts} times in {WATCHED:?}");
    }
    assert!(processes::marked(gateway.mark()).len() <= 3, "{:?}", processes::marked(gateway.mark()));
}

#[tokio::test]
async fn a_hung_child_is_replaced_and_goes_down_with_the_gateway() {
    let server = StdioServer::new(
        Script::legacy()
            .hang(Hang::Methods(vec!["tools/call".into(), "ping".into()]))
            .stdio(StdioScript { stubborn: true, ..Default::default() }),
    );
    let yaml = format!(
        "servers:\n  a: {{ {}, stop_grace: 500ms, timeout: {{ idle: 1s, start: 3s }}, max_sessions: 1 }}\n",
        server.yaml()
    );
    let mut gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "a").await;
    let first = server.living();
    let client = gateway.modern("/mcp");
    let start = Instant::now();
    let said = refusal(&client.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap());
    assert!(start.elapsed() < relaxed(SECOND * 3), "{:?}", start.elapsed());
    assert!(said.contains("FL-1302") && said.contains("unknown"), "{said}");
    eventually(PATIENCE * 2, "the hung process is gone", || !server.living().contains(&first[0])).await;
    server.rewrite(Script::legacy().stdio(StdioScript { stubborn: true, ..Default::default() }));
    eventually_some(PATIENCE, "another one takes its place", async || echo(&client).await.ok()).await;
    assert_eq!((server.pids().len(), server.living().len()), (2, 1));
    let start = Instant::now();
    gateway.stop().await;
    assert!(start.elapsed() < relaxed(SECOND * 5), "{:?}", start.elapsed());
    assert!(server.living().is_empty());
    assert!(processes::marked(gateway.mark()).is_empty());
}

#[tokio::test]
async fn a_network_that_swallows_everything_is_noticed_and_forgiven() {
    for (what, script) in [("legacy", Script::legacy()), ("modern", Script::modern())] {
        let server = ScriptedServer::start(script).await;
        let proxy = FaultProxy::start(server.address()).await;
        let gateway = Gateway::start(&format!(
            "servers:\n  a: {{ url: \"{}\", timeout: {{ idle: 1s, start: 2s }} }}\n",
            proxy.url("/mcp")
        ))
        .await;
        rows::until_listed(&gateway, "a").await;
        let client = gateway.modern("/mcp");
        echo(&client).await.unwrap();
        proxy.set(Faults { black_hole: true, ..Faults::default() }).await;
        let start = Instant::now();
        let said = refusal(&client.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap());
        assert!(said.contains("FL-1302") && said.contains("unknown"), "{what}: {said}");
        assert!(start.elapsed() < relaxed(SECOND * 3), "{what}: {:?}", start.elapsed());
        rows::until(&gateway, "a", PATIENCE, "down", |row| row["state"] == "down").await;
        let start = Instant::now();
        let said = refusal(&client.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap());
        assert!(start.elapsed() < relaxed(SECOND * 3), "{what}: {said} after {:?}", start.elapsed());
        proxy.heal().await;
        proxy.cut_all().await;
        eventually_some(PATIENCE, &format!("{what}: called again"), async || echo(&client).await.ok()).await;
    }
}

/// Tools that break the connection: one that may be repeated, one that may not.
fn breaking() -> Script {
    Script::legacy()
        .tool(ToolScript::new("write").finish(Finish::Die))
        .tool(ToolScript::new("read").definition(json!({"annotations": {"readOnlyHint": true}})).finish(Finish::Die))
        .tool(ToolScript::new("put").definition(json!({"annotations": {"idempotentHint": true}})).finish(Finish::Die))
}

#[tokio::test]
async fn an_unsafe_call_on_a_broken_connection_is_made_once_and_its_outcome_is_unknown() {
    for (what, script) in [
        ("legacy", breaking()),
        ("legacy, streams", breaking().sse()),
        ("modern", Script { versions: vec![MODERN.into()], ..breaking() }),
    ] {
        for (tool, made) in [("write", 1), ("read", 2), ("put", 2)] {
            let server = ScriptedServer::start(script.clone()).await;
            let gateway = one(&server).await;
            let client = gateway.modern("/mcp");
            let answer = client.request("tools/call", json!({"name": format!("a__{tool}")})).await.unwrap();
            let said = refusal(&answer);
            assert!(said.contains("FL-1303") && said.contains("took effect is unknown"), "{what}, {tool}: {said}");
            assert_eq!(server.received_method("tools/call").len(), made, "{what}, {tool}");
            eventually_some(PATIENCE, &format!("{what}, {tool}: called again"), async || echo(&client).await.ok())
                .await;
        }
    }
}

#[tokio::test]
async fn an_unsafe_call_on_a_process_that_dies_is_made_once_and_its_outcome_is_unknown() {
    for (tool, made) in [("write", 1), ("read", 2)] {
        let server = StdioServer::new(breaking());
        let gateway = Gateway::start(&format!("servers:\n  a: {{ {} }}\n", server.yaml())).await;
        rows::until_listed(&gateway, "a").await;
        let client = gateway.modern("/mcp");
        let answer = client.request("tools/call", json!({"name": format!("a__{tool}")})).await.unwrap();
        let said = refusal(&answer);
        assert!(said.contains("FL-1303") && said.contains("took effect is unknown"), "{tool}: {said}");
        assert_eq!(server.received_method("tools/call").len(), made, "{tool}");
        eventually_some(PATIENCE, "called again", async || echo(&client).await.ok()).await;
    }
}

/// The same tools on a server that is well again when it is asked a second time.
fn breaking_late() -> Script {
    let mut script = breaking();
    for tool in &mut script.scripted_tools {
        tool.steps.push(Step::Sleep { ms: 500 });
    }
    script
}

#[tokio::test]
async fn a_safe_call_survives_a_connection_that_breaks_once() {
    let server = ScriptedServer::start(breaking_late()).await;
    let gateway = one(&server).await;
    let client = gateway.modern("/mcp");
    for (tool, made) in [("read", 2), ("put", 2), ("write", 1)] {
        server.change(|script| *script = breaking_late());
        server.clear_received();
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.request("tools/call", json!({"name": format!("a__{tool}")})).await }
        });
        let is_call = |one: &Received| one.method().as_deref() == Some("tools/call");
        assert!(server.wait_received(PATIENCE, |all| all.iter().any(is_call)).await);
        server.change(|script| script.scripted_tools = ["write", "read", "put"].map(ToolScript::new).to_vec());
        let answer = asking.await.unwrap().unwrap();
        assert_eq!(answer.result().is_ok(), made == 2, "{tool}: {:?}", answer.body);
        assert_eq!(server.received_method("tools/call").len(), made, "{tool}");
    }
}

#[tokio::test]
async fn a_safe_call_survives_a_process_that_dies_once() {
    for (tool, made) in [("read", 2), ("write", 1)] {
        let server = StdioServer::new(breaking_late());
        let gateway = Gateway::start(&format!("servers:\n  a: {{ {} }}\n", server.yaml())).await;
        rows::until_listed(&gateway, "a").await;
        let asking = tokio::spawn({
            let client = gateway.modern("/mcp");
            async move { client.request("tools/call", json!({"name": format!("a__{tool}")})).await }
        });
        eventually(PATIENCE, "the call", || server.received_method("tools/call").len() == 1).await;
        server.rewrite(Script::legacy().tool(ToolScript::new("write")).tool(ToolScript::new("read")));
        let answer = asking.await.unwrap().unwrap();
        assert_eq!(answer.result().is_ok(), made == 2, "{tool}: {:?}", answer.body);
        assert_eq!(server.received_method("tools/call").len(), made, "{tool}");
    }
}

#[tokio::test]
async fn subscriptions_and_the_log_level_are_told_to_a_new_session() {
    const URI: &str = "test://resource/0";
    let server = ScriptedServer::start(Script::legacy().resources_and_prompts(2, 0)).await;
    let gateway = one(&server).await;
    for path in ["/servers/a/mcp", "/mcp"] {
        let client = gateway.legacy(path, NEWEST_LEGACY).await;
        let mut stream = client.open_get(None).await.unwrap();
        client.result("logging/setLevel", json!({"level": "debug"})).await.unwrap();
        client.result("resources/subscribe", json!({"uri": URI})).await.unwrap();
        server.clear_received();
        server.forget_sessions();
        client.result("resources/read", json!({"uri": URI})).await.unwrap();
        let told = server
            .wait_received(PATIENCE, |all| {
                let sent = |method: &str| all.iter().any(|one| one.method().as_deref() == Some(method));
                sent("logging/setLevel") && sent("resources/subscribe")
            })
            .await;
        assert!(told, "{path}: {:?}", server.received().iter().map(|one| one.method()).collect::<Vec<_>>());
        let level = &server.received_method("logging/setLevel")[0].json()["params"]["level"];
        assert_eq!(level, "debug");
        eventually_some(PATIENCE, &format!("{path}: an update"), async || {
            server.notify("notifications/resources/updated", &json!({"uri": URI})).await;
            stream.next_method("notifications/resources/updated", SECOND).await.ok()
        })
        .await;
        client.result("resources/unsubscribe", json!({"uri": URI})).await.unwrap();
        client.delete().await.unwrap();
    }
}

#[tokio::test]
async fn subscriptions_and_the_log_level_are_told_to_a_new_process() {
    let server = StdioServer::new(Script::legacy().resources_and_prompts(2, 0));
    let gateway = Gateway::start(&format!("servers:\n  a: {{ {} }}\n", server.yaml())).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.result("logging/setLevel", json!({"level": "info"})).await.unwrap();
    client.result("resources/subscribe", json!({"uri": "test://resource/1"})).await.unwrap();
    let before = server.living();
    kill_all(&before);
    eventually(PATIENCE, "the new process is told", || {
        server.received_method("logging/setLevel").len() == 2
            && server.received_method("resources/subscribe").len() == 2
    })
    .await;
    assert_eq!(server.received_method("resources/subscribe")[1]["params"]["uri"], "test://resource/1");
}

#[tokio::test]
async fn a_client_that_wants_less_of_the_log_silences_nobody_else() {
    let talks = ToolScript::new("talk").step(Step::Log { level: "debug".into(), text: "a detail".into() });
    let server = ScriptedServer::start(Script::legacy().tool(talks)).await;
    let gateway = one(&server).await;
    let (curious, calm) = (gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.legacy("/mcp", NEWEST_LEGACY).await);
    curious.result("logging/setLevel", json!({"level": "debug"})).await.unwrap();
    calm.result("logging/setLevel", json!({"level": "error"})).await.unwrap();
    let told = server.received_method("logging/setLevel");
    let levels: Vec<_> = told.iter().map(|one| one.json()["params"]["level"].as_str().unwrap().to_owned()).collect();
    assert_eq!(levels.last().unwrap(), "debug", "{levels:?}");
    for (client, heard) in [(&curious, 1), (&calm, 0)] {
        let answer = client.request("tools/call", json!({"name": "a__talk"})).await.unwrap();
        assert_eq!(answer.notifications("notifications/message").len(), heard);
    }
}

#[tokio::test]
async fn a_subscription_survives_the_gateway() {
    const URI: &str = "test://resource/0";
    let server = ScriptedServer::start(Script::legacy().resources_and_prompts(1, 0)).await;
    let mut gateway = one(&server).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.result("resources/subscribe", json!({"uri": URI})).await.unwrap();
    gateway.stored().await;
    gateway.kill().await;
    gateway.restart().await;
    rows::until_listed(&gateway, "a").await;
    server.clear_received();
    let again = McpClient::new(&gateway.url("/mcp")).limit(PATIENCE);
    again.set_session(client.session().as_deref());
    let mut stream = again.open_get(None).await.unwrap();
    assert_eq!(stream.status, 200, "the session survives");
    let told = server
        .wait_received(PATIENCE, |all| all.iter().any(|one| one.method().as_deref() == Some("resources/subscribe")))
        .await;
    assert!(told, "the new session with the server is told what the old one was");
    eventually_some(PATIENCE, "an update", async || {
        server.notify("notifications/resources/updated", &json!({"uri": URI})).await;
        stream.next_method("notifications/resources/updated", SECOND).await.ok()
    })
    .await;
}
