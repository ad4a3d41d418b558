//! Servers that answer with what is not MCP, cannot be started, or claim each other's names.

use std::time::Instant;

use fairlead_testkit::{Finish, Garbage, McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, SECOND, StdioServer, relaxed};

/// Every way to be wrong, with a name for tools.
fn kinds() -> Vec<(&'static str, Garbage)> {
    vec![
        ("wrong_id", Garbage::WrongId),
        ("null_id", Garbage::NullId),
        ("other_id_type", Garbage::OtherIdType),
        ("result_and_error", Garbage::ResultAndError),
        ("neither", Garbage::Neither),
        ("no_version", Garbage::NoVersion),
        ("not_json", Garbage::NotJson),
        ("truncated", Garbage::Truncated),
        ("html", Garbage::Html500),
        ("empty", Garbage::Empty),
        ("content_type", Garbage::WrongContentType),
        ("huge", Garbage::Huge(2_000_000)),
        ("twice", Garbage::Twice),
    ]
}

fn script(script: Script) -> Script {
    kinds()
        .into_iter()
        .fold(script, |script, (name, garbage)| script.tool(ToolScript::new(name).finish(Finish::Garbage(garbage))))
}

/// What is well is well for everybody else.
async fn fine(client: &McpClient, tool: &str) {
    let start = Instant::now();
    assert!(client.call(tool, json!({})).await.is_ok(), "{tool}");
    assert!(start.elapsed() < relaxed(3 * SECOND), "{tool}: {:?}", start.elapsed());
}

#[tokio::test]
async fn an_invalid_answer_is_an_error_of_that_call_and_of_nothing_else() {
    let web = ScriptedServer::start(script(Script::legacy())).await;
    let streams = ScriptedServer::start(script(Script::legacy().sse())).await;
    let now = ScriptedServer::start(script(Script::modern())).await;
    let child = StdioServer::new(script(Script::legacy()));
    let good = ScriptedServer::start(Script::legacy()).await;
    let options = "max_message: 1MiB, timeout: { idle: 1s }";
    let gateway = Gateway::start(&format!(
        "servers:\n  web: {{ url: \"{}\", {options} }}\n  streams: {{ url: \"{}\", {options} }}\n  now: {{ url: \"{}\", {options} }}\n  child: {{ {}, {options} }}\n  good: {{ url: \"{}\" }}\n",
        web.url(), streams.url(), now.url(), child.yaml(), good.url(),
    ))
    .await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        client.list("tools/list", "tools").await.unwrap();
        for server in ["web", "streams", "now", "child"] {
            for (name, garbage) in kinds() {
                let start = Instant::now();
                let what = format!("{server} {name}");
                let answer = client.request("tools/call", json!({"name": format!("{server}__{name}")})).await.unwrap();
                assert!(start.elapsed() < relaxed(4 * SECOND), "{what}: {:?}", start.elapsed());
                let response = answer.response().unwrap_or_else(|| panic!("{what}: no answer"));
                let answers = answer.messages().iter().filter(|message| message["method"].is_null()).count();
                assert_eq!(answers, 1, "{what}: {:?}", answer.messages());
                let lenient =
                    garbage == Garbage::WrongContentType && server != "child" && response["result"].is_object();
                if garbage == Garbage::Twice || lenient {
                    assert!(response["result"].is_object(), "{what}: {response}");
                    continue;
                }
                let message = response["error"]["message"].as_str().unwrap_or_else(|| panic!("{what}: {response}"));
                assert!(message.contains("FL-13") && message.contains(server), "{what}: {message}");
                assert!(!message.contains("127.0.0.1"), "{what}: no address of the server: {message}");
                fine(&client, &format!("{server}__tool_0")).await;
            }
            fine(&client, "good__tool_0").await;
        }
    }
    for label in ["FL-1304", "FL-1307"] {
        gateway.logged(label).await;
    }
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[tokio::test]
async fn a_server_whose_handshake_is_garbage_is_missing_with_a_reason() {
    is_missing_with_a_reason("initialize").await;
}

#[tokio::test]
async fn a_server_whose_lists_are_garbage_is_missing_with_a_reason() {
    is_missing_with_a_reason("tools/list").await;
}

/// Servers that answer this method with garbage, of every kind.
async fn is_missing_with_a_reason(method: &str) {
    for (name, garbage) in kinds().into_iter().filter(|(_, garbage)| *garbage != Garbage::Twice) {
        let bad = ScriptedServer::start(Script::legacy().garbage(method, garbage.clone())).await;
        let worse = StdioServer::new(Script::legacy().garbage(method, garbage));
        let good = ScriptedServer::start(Script::legacy()).await;
        let options = "max_message: 1MiB, timeout: { start: 1s }";
        let gateway = Gateway::start(&format!(
                "catalog: {{ first_wait: 2s }}\nservers:\n  bad: {{ url: \"{}\", {options} }}\n  worse: {{ {}, {options} }}\n  good: {{ url: \"{}\" }}\n",
                bad.url(), worse.yaml(), good.url(),
            ))
            .await;
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let start = Instant::now();
        let result = client.result("tools/list", json!({})).await.unwrap();
        assert!(start.elapsed() < relaxed(4 * SECOND), "{method} {name}: {:?}", start.elapsed());
        let names: Vec<_> = result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
        assert!(names.contains(&json!("good__tool_0")), "{method} {name}: {names:?}");
        let missing = &result["_meta"]["fairlead/servers"];
        // A right answer under a wrong type may be taken for what it is.
        let servers: &[&str] = if name == "content_type" { &["worse"] } else { &["bad", "worse"] };
        for server in servers {
            let reason = reason(missing, server).unwrap_or_else(|| panic!("{method} {name} {server}: {result}"));
            assert!(reason.len() > 10 && !reason.contains("127.0.0.1"), "{method} {name} {server}: {reason}");
            assert!(gateway.log().contains(&format!("server={server}")), "{}", gateway.log());
        }
        fine(&client, "good__tool_0").await;
    }
}

/// The reason in `_meta["fairlead/servers"]`, whatever it stands in.
fn reason(missing: &Value, server: &str) -> Option<String> {
    match missing {
        Value::Object(servers) => servers.get(server).map(ToString::to_string),
        Value::Array(servers) => {
            servers.iter().find(|entry| entry.to_string().contains(server)).map(ToString::to_string)
        }
        _ => None,
    }
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_said_everywhere_and_hurts_nobody() {
    let good = ScriptedServer::start(Script::legacy()).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  gone: {{ command: /no/such/program-at-all, args: [\"--token=s3cr3t\"] }}\n  good: {{ url: \"{}\" }}\n",
        good.url()
    ))
    .await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        let start = Instant::now();
        let result = client.result("tools/list", json!({})).await.unwrap();
        assert!(start.elapsed() < relaxed(2 * SECOND), "{:?}", start.elapsed());
        let reason = reason(&result["_meta"]["fairlead/servers"], "gone").unwrap_or_else(|| panic!("{result}"));
        assert!(reason.contains("does not exist"), "{reason}");
        assert!(!reason.contains("s3cr3t") && !reason.contains("program-at-all"), "no commands: {reason}");
        let start = Instant::now();
        let answer = client.request("tools/call", json!({"name": "gone__anything"})).await.unwrap();
        assert!(start.elapsed() < relaxed(SECOND), "{:?}", start.elapsed());
        assert!(answer.error()["message"].as_str().unwrap().contains("FL-1301"), "{}", answer.error());
        fine(&client, "good__tool_0").await;
    }
    let alone = McpClient::new(&gateway.url("/servers/gone/mcp")).initialize(NEWEST_LEGACY).await;
    assert!(format!("{:#}", alone.unwrap_err()).contains("FL-1301"));
    let log = gateway.log();
    assert!(log.contains("server=gone") && log.contains("/no/such/program-at-all"), "the log has the cause: {log}");
    assert!(!log.contains("s3cr3t"), "{log}");
    let explained = gateway.cli(&["explain", "gone__anything"]).await;
    assert!(String::from_utf8_lossy(&explained.stdout).contains("does not exist"), "{explained:?}");
    let servers = gateway.cli(&["servers", "--json"]).await;
    assert!(String::from_utf8_lossy(&servers.stdout).contains("does not exist"), "{servers:?}");
}

#[tokio::test]
async fn two_servers_that_claim_one_name_are_told_apart_and_the_clash_is_visible() {
    let one = ScriptedServer::start(Script::legacy().tools(2).resources_and_prompts(0, 1)).await;
    let two = ScriptedServer::start(Script::legacy().tools(3).resources_and_prompts(0, 1)).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  one: {{ url: \"{}\", prefix: false }}\n  two: {{ url: \"{}\", prefix: false }}\n",
        one.url(),
        two.url()
    ))
    .await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let result = client.result("tools/list", json!({})).await.unwrap();
    let names: Vec<_> = result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert_eq!(names, ["tool_0", "tool_1", "tool_2"]);
    let missing = &result["_meta"]["fairlead/servers"];
    let reason = reason(missing, "two").unwrap_or_else(|| panic!("{result}"));
    assert!(reason.contains("tool_0") && reason.contains("prefix"), "{reason}");
    // The first in the configuration keeps the name, the other's own names still work.
    client.call("tool_0", json!({})).await.unwrap();
    assert_eq!((one.received_method("tools/call").len(), two.received_method("tools/call").len()), (1, 0));
    client.call("tool_2", json!({})).await.unwrap();
    assert_eq!(two.received_method("tools/call").len(), 1);
    gateway.logged("FL-1404").await;
    let explained = gateway.cli(&["explain", "tool_0"]).await;
    assert!(String::from_utf8_lossy(&explained.stdout).contains("one"), "{explained:?}");
    let tools = gateway.cli(&["tools", "--json"]).await;
    assert!(String::from_utf8_lossy(&tools.stdout).contains("earlier server"), "{tools:?}");
    // On its own path every server has all of its names.
    let alone = gateway.legacy("/servers/two/mcp", NEWEST_LEGACY).await;
    assert_eq!(alone.list("tools/list", "tools").await.unwrap().len(), 3);
}
