//! A new configuration changes what it changes, and nothing else.

use std::{fs, time::Duration};

use fairlead_testkit::{Hang, McpClient, Script, ScriptedServer, StdioScript};
use serde_json::json;

use crate::support::{
    Gateway, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually, eventually_some, gate::Gate, processes, relaxed,
    rows,
};

async fn tool_names(client: &McpClient) -> Vec<String> {
    let tools = client.list("tools/list", "tools").await.unwrap();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

fn lingering(gate: &Gate) -> Script {
    Script::legacy().tools(1).tool(gate.tool("linger"))
}

#[tokio::test]
async fn an_untouched_server_keeps_its_process_and_its_calls_and_a_changed_one_finishes_them() {
    let gate = Gate::new();
    let (same, changed) = (StdioServer::new(lingering(&gate)), StdioServer::new(lingering(&gate)));
    let yaml = |level: &str| {
        format!(
            "servers:\n  same: {{ {} }}\n  changed: {{ {}, env: {{ LEVEL: \"{level}\" }} }}\n",
            same.yaml(),
            changed.yaml()
        )
    };
    let gateway = Gateway::start(&yaml("1")).await;
    rows::until_listed(&gateway, "same").await;
    rows::until_listed(&gateway, "changed").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = client.open_get(None).await.unwrap();
    let (kept, replaced) = (same.living(), changed.living());
    let calls: Vec<_> = ["same__linger", "changed__linger"]
        .map(|tool| {
            let client = client.clone();
            tokio::spawn(async move { client.call(tool, json!({})).await })
        })
        .into();
    for server in ["same", "changed"] {
        rows::until(&gateway, server, PATIENCE, "in flight", |row| row["calls"] == 1).await;
    }
    gateway.reload(&yaml("2")).await;
    gateway.logged("the configuration was applied").await;
    // A new call goes to the new process, while the old one still works on the old call.
    eventually_some(PATIENCE, "the changed server takes calls", async || {
        client.call("changed__tool_0", json!({})).await.ok()
    })
    .await;
    assert_eq!(same.living(), kept);
    eventually(PATIENCE, "the new process", || changed.pids().len() == 2).await;
    assert!(calls.iter().all(|call| !call.is_finished()), "they wait at the gate");
    gate.open();
    for call in calls {
        call.await.unwrap().expect("a call in flight finishes");
    }
    eventually(PATIENCE, "the old process is gone", || {
        let living = changed.living();
        living.len() == 1 && !living.contains(&replaced[0])
    })
    .await;
    assert_eq!(same.pids().len(), 1, "nothing was started for the untouched server");
    assert_eq!(same.received_method("initialize").len(), 1);
    client.call("same__tool_0", json!({})).await.expect("the session goes on");
    stream.next_method("notifications/tools/list_changed", PATIENCE).await.unwrap();
    // What comes after it comes on the same stream.
    gateway.reload(&yaml("3")).await;
    stream.next_method("notifications/tools/list_changed", PATIENCE).await.expect("the stream goes on");
}

#[tokio::test]
async fn an_untouched_remote_server_keeps_its_session_and_subscriptions() {
    const URI: &str = "test://resource/0";
    let server = ScriptedServer::start(Script::legacy().resources_and_prompts(1, 0)).await;
    let other = ScriptedServer::start(Script::legacy()).await;
    let with = format!("servers:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n", server.url(), other.url());
    let without = format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url());
    let gateway = Gateway::start(&with).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = client.open_get(None).await.unwrap();
    client.result("resources/subscribe", json!({"uri": URI})).await.unwrap();
    let opened = server.sessions_opened();
    gateway.reload(&without).await;
    eventually(PATIENCE, "the session of the removed server is ended", || other.sessions() == 0).await;
    server.notify("notifications/resources/updated", &json!({"uri": URI})).await;
    stream.next_method("notifications/resources/updated", PATIENCE).await.unwrap();
    client.call("a__tool_0", json!({})).await.unwrap();
    assert_eq!(server.sessions_opened(), opened);
}

#[tokio::test]
async fn a_removed_server_vanishes_and_an_added_one_appears() {
    let gate = Gate::new();
    let (stays, goes) = (StdioServer::new(lingering(&gate)), StdioServer::new(lingering(&gate)));
    let yaml = |names: &[(&str, &StdioServer)]| {
        let lines: String = names.iter().map(|(name, server)| format!("  {name}: {{ {} }}\n", server.yaml())).collect();
        format!("servers:\n{lines}")
    };
    let gateway = Gateway::start(&yaml(&[("stays", &stays), ("goes", &goes)])).await;
    rows::until_listed(&gateway, "stays").await;
    rows::until_listed(&gateway, "goes").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let single = gateway.legacy("/servers/goes/mcp", NEWEST_LEGACY).await;
    let mut stream = client.open_get(None).await.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call("goes__linger", json!({})).await }
    });
    rows::until(&gateway, "goes", PATIENCE, "in flight", |row| row["calls"] == 1).await;

    gateway.reload(&yaml(&[("stays", &stays)])).await;
    stream.next_method("notifications/tools/list_changed", relaxed(SECOND * 2)).await.unwrap();
    assert_eq!(tool_names(&client).await, ["stays__linger", "stays__tool_0"]);
    let answer = client.request("tools/call", json!({"name": "goes__tool_0"})).await.unwrap();
    assert!(answer.error()["message"].as_str().unwrap_or_default().contains("FL-1201"), "{:?}", answer.body);
    let gone = single.request("tools/list", json!({})).await.unwrap();
    assert_eq!(gone.status, 404, "{:?}", gone.body);
    gate.open();
    call.await.unwrap().expect("a call in flight finishes, also on a server that is removed");
    eventually(PATIENCE, "its process is gone", || goes.living().is_empty()).await;

    gateway.reload(&yaml(&[("stays", &stays), ("new", &goes)])).await;
    stream.next_method("notifications/tools/list_changed", relaxed(SECOND * 2)).await.unwrap();
    eventually_some(PATIENCE, "the tools of the new server", async || {
        tool_names(&client).await.contains(&"new__tool_0".to_owned()).then_some(())
    })
    .await;
    client.call("new__tool_0", json!({})).await.unwrap();
    assert_eq!(stays.pids().len(), 1);
}

#[tokio::test]
async fn a_configuration_that_is_not_valid_changes_nothing() {
    let gate = Gate::new();
    let server = StdioServer::new(lingering(&gate));
    let good = format!("servers:\n  a: {{ {} }}\n", server.yaml());
    let gateway = Gateway::start(&good).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for (what, bad, said) in [
        ("not YAML", "servers: [".to_owned(), "fairlead.yaml:"),
        ("a tab", "servers:\n\ta: {}\n".to_owned(), "tab"),
        ("an unknown key", good.replace("servers:", "serverz:"), "serverz"),
        ("a wrong unit", format!("drain: 10 parsecs\n{good}"), "parsecs"),
        ("a server without a way to it", "servers:\n  a: {}\n".to_owned(), "command"),
        ("an unset variable", "servers:\n  a: { url: \"${env:NO_SUCH_VARIABLE}\" }\n".to_owned(), "NO_SUCH_VARIABLE"),
    ] {
        let before = gateway.log().len();
        gateway.reload(&bad).await;
        eventually(PATIENCE, &format!("{what}: refused"), || gateway.log()[before..].contains("nothing was changed"))
            .await;
        let log = gateway.log()[before..].to_owned();
        assert!(log.contains(said) && log.contains("FL-1401"), "{what}: {log}");
        client.call("a__tool_0", json!({})).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    }
    assert_eq!(server.pids().len(), 1);
    // And the next good one is taken.
    gateway.reload(&format!("{good}toolsets:\n  few: {{ include: [\"a__tool_*\"] }}\n")).await;
    gateway.logged("the configuration was applied").await;
    let few = gateway.legacy("/mcp/few", NEWEST_LEGACY).await;
    assert_eq!(tool_names(&few).await, ["a__tool_0"]);
    assert_eq!(server.pids().len(), 1);
}

#[tokio::test]
async fn a_changed_file_is_applied_without_a_signal() {
    let gate = Gate::new();
    let server = ScriptedServer::start(lingering(&gate)).await;
    let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = client.open_get(None).await.unwrap();
    let text = fs::read_to_string(gateway.config_path()).unwrap();
    // In place, and as editors do it.
    fs::write(gateway.config_path(), format!("{text}  b: {{ url: \"{}\" }}\n", server.url())).unwrap();
    stream.next_method("notifications/tools/list_changed", relaxed(Duration::from_secs(5))).await.unwrap();
    eventually_some(PATIENCE, "the added server", async || {
        tool_names(&client).await.contains(&"b__tool_0".to_owned()).then_some(())
    })
    .await;
    let beside = gateway.dir().join("fairlead.yaml.new");
    fs::write(&beside, &text).unwrap();
    fs::rename(&beside, gateway.config_path()).unwrap();
    eventually_some(PATIENCE, "the server is removed again", async || {
        (!tool_names(&client).await.contains(&"b__tool_0".to_owned())).then_some(())
    })
    .await;
    let applied = || gateway.log().matches("the configuration was applied").count();
    eventually(PATIENCE, "both changes were applied", || applied() >= 2).await;
    assert_eq!(applied(), 2, "each change was applied once");
}

#[tokio::test]
async fn a_toolset_comes_and_goes_live_and_says_nothing_of_a_restart() {
    let gate = Gate::new();
    let server = ScriptedServer::start(lingering(&gate)).await;
    let plain = format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url());
    let gateway = Gateway::start(&plain).await;
    rows::until_listed(&gateway, "a").await;
    let missing = McpClient::new(&gateway.url("/mcp/few")).initialize(NEWEST_LEGACY).await.unwrap_err();
    assert!(format!("{missing:#}").contains("FL-1010"), "{missing:#}");
    gateway
        .reload(&format!(
            "{plain}toolsets:\n  few: {{ include: [\"a__tool_*\"] }}\nnames: {{ max: 40 }}\nsessions: {{ max_calls: 3 }}\n"
        ))
        .await;
    gateway.logged("the configuration was applied").await;
    let client = gateway.legacy("/mcp/few", NEWEST_LEGACY).await;
    assert_eq!(tool_names(&client).await, ["a__tool_0"]);
    assert!(!gateway.log().contains("take effect at the next start"), "all of it took effect");
    gateway.reload(&plain).await;
    eventually_some(PATIENCE, "the toolset is gone", async || {
        let answer = client.request("tools/list", json!({})).await.unwrap();
        (answer.status == 404).then_some(())
    })
    .await;
    gateway.reload(&format!("{plain}workers: 3\n")).await;
    gateway.logged("take effect at the next start").await;
}

#[tokio::test]
async fn many_reloads_leave_nothing_behind() {
    const TIMES: usize = 30;
    let local = StdioServer::new(Script::legacy());
    let hung = StdioServer::new(
        Script::legacy().hang(Hang::Everything).stdio(StdioScript { stubborn: true, ..Default::default() }),
    );
    let remote = ScriptedServer::start(Script::legacy()).await;
    let yaml = |n: usize| {
        format!(
            "servers:\n  local: {{ {}, env: {{ N: \"{n}\" }} }}\n  \
             hung: {{ {}, env: {{ N: \"{n}\" }}, stop_grace: 200ms }}\n  \
             remote: {{ url: \"{}\", headers: {{ X-N: \"{n}\" }} }}\n",
            local.yaml(),
            hung.yaml(),
            remote.url()
        )
    };
    let gateway = Gateway::start(&yaml(0)).await;
    let settle = async || {
        rows::until_listed(&gateway, "local").await;
        rows::until_listed(&gateway, "remote").await;
        eventually(PATIENCE, "one process, one session", || {
            local.living().len() == 1 && hung.living().len() == 1 && remote.sessions() == 1
        })
        .await;
    };
    settle().await;
    gateway.reload(&yaml(1)).await;
    settle().await;
    let files = processes::open_files(gateway.pid()).unwrap();
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for n in 2..TIMES {
        gateway.reload(&yaml(n)).await;
        for tool in ["local__tool_0", "remote__tool_0"] {
            client.call(tool, json!({"n": n})).await.unwrap_or_else(|error| panic!("reload {n}, {tool}: {error:#}"));
        }
    }
    settle().await;
    eventually(PATIENCE, "as many open files as before", || processes::open_files(gateway.pid()).unwrap() <= files + 4)
        .await;
}

#[tokio::test]
async fn a_server_is_switched_off_and_on_again() {
    let gate = Gate::new();
    let (switched, other) = (StdioServer::new(lingering(&gate)), StdioServer::new(lingering(&gate)));
    let yaml = |off: bool| {
        format!("servers:\n  switched: {{ {}, disabled: {off} }}\n  other: {{ {} }}\n", switched.yaml(), other.yaml())
    };
    let gateway = Gateway::start(&yaml(true)).await;
    rows::until_listed(&gateway, "other").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    assert!(switched.pids().is_empty());
    for round in 1..=2 {
        gateway.reload(&yaml(false)).await;
        eventually_some(PATIENCE, "it is there", async || {
            tool_names(&client).await.contains(&"switched__tool_0".to_owned()).then_some(())
        })
        .await;
        client.call("switched__tool_0", json!({})).await.unwrap();
        gateway.reload(&yaml(true)).await;
        eventually(PATIENCE, "its process is gone", || switched.living().is_empty()).await;
        assert_eq!(tool_names(&client).await, ["other__linger", "other__tool_0"]);
        assert_eq!(switched.pids().len(), round);
    }
    assert_eq!(other.pids().len(), 1);
    let explained = gateway.cli(&["explain", "switched__tool_0"]).await;
    assert!(String::from_utf8_lossy(&explained.stdout).contains("disabled"), "{explained:?}");
}

#[tokio::test]
async fn a_changed_server_keeps_the_subscriptions_and_the_log_level_of_its_clients() {
    const URI: &str = "test://resource/0";
    let server = ScriptedServer::start(Script::legacy().resources_and_prompts(1, 0)).await;
    let yaml = |key: &str| format!("servers:\n  a: {{ url: \"{}\", headers: {{ X-Key: \"{key}\" }} }}\n", server.url());
    let gateway = Gateway::start(&yaml("one")).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = client.open_get(None).await.unwrap();
    client.result("resources/subscribe", json!({"uri": URI})).await.unwrap();
    client.result("logging/setLevel", json!({"level": "debug"})).await.unwrap();
    server.clear_received();
    gateway.reload(&yaml("two")).await;
    let told = server
        .wait_received(PATIENCE, |all| {
            ["resources/subscribe", "logging/setLevel"].iter().all(|method| {
                all.iter().any(|one| one.method().as_deref() == Some(method) && one.header("x-key") == Some("two"))
            })
        })
        .await;
    assert!(told, "{:?}", server.received().iter().map(|one| one.method()).collect::<Vec<_>>());
    eventually_some(PATIENCE, "an update", async || {
        server.notify("notifications/resources/updated", &json!({"uri": URI})).await;
        stream.next_method("notifications/resources/updated", SECOND).await.ok()
    })
    .await;
}
