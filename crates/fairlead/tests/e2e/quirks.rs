//! What real clients do that the specification does not expect: a test for each row of the table.

use std::time::Duration;

use fairlead_testkit::{McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, eventually_some, get, rows};

const TYPES: [(&str, &str); 2] =
    [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];

async fn behind(script: Script) -> (ScriptedServer, Gateway) {
    let server = ScriptedServer::start(script).await;
    let yaml = format!("sessions: {{ idle: 1s }}\nservers:\n  web: {{ url: \"{}\" }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    (server, gateway)
}

async fn post(gateway: &Gateway, headers: &[(&str, &str)], message: Value) -> (u16, Value) {
    let client = McpClient::new(&gateway.url("/mcp"));
    let answer = client.post_raw(message.to_string(), headers).await.unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

#[test]
fn every_quirk_has_its_test() {
    let tests = include_str!("quirks.rs");
    for quirk in fairlead_gateway::QUIRKS {
        assert!(tests.contains(&format!("\nasync fn {}() {{", quirk.name)), "no test of {}", quirk.name);
    }
}

#[tokio::test]
async fn no_session_id() {
    let (server, gateway) = behind(Script::legacy().resources_and_prompts(1, 0)).await;
    let agent = ("user-agent", "Claude-User");
    let known = [TYPES[0], TYPES[1], agent];
    let (status, opened) = post(
        &gateway,
        &known,
        request(
            "initialize",
            json!({"protocolVersion": NEWEST_LEGACY, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}),
        ),
    )
    .await;
    assert_eq!((status, &opened["result"]["protocolVersion"]), (200, &json!(NEWEST_LEGACY)));
    for (method, params, member) in [
        ("tools/list", json!({}), "tools"),
        ("tools/call", json!({"name": "web__tool_0", "arguments": {}}), "content"),
        ("resources/read", json!({"uri": "test://resource/0"}), "contents"),
    ] {
        let (status, answer) = post(&gateway, &known, request(method, params.clone())).await;
        assert!(status == 200 && answer["result"][member].is_array(), "{method}: {answer}");
        // Nobody else is spared the session.
        let (status, _) = post(&gateway, &TYPES, request(method, params)).await;
        assert_eq!(status, 400, "{method}");
    }
    let (_, refused) =
        post(&gateway, &known, request("resources/subscribe", json!({"uri": "test://resource/0"}))).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("FL-1104"), "{refused}");
    assert!(server.received_method("resources/subscribe").is_empty());
}

#[tokio::test]
async fn no_version_header() {
    let (_server, gateway) = behind(Script::legacy()).await;
    let client = gateway.legacy("/mcp", "2025-06-18").await;
    let session = client.session().unwrap();
    let headers = [TYPES[0], TYPES[1], ("mcp-session-id", session.as_str())];
    let (status, answer) = post(&gateway, &headers, request("tools/list", json!({}))).await;
    assert!(status == 200 && answer["result"]["tools"].is_array(), "{answer}");
}

#[tokio::test]
async fn modern_initialize() {
    let (_server, gateway) = behind(Script::dual()).await;
    let params =
        json!({"protocolVersion": "2026-07-28", "capabilities": {}, "clientInfo": {"name": "rmcp", "version": "3"}});
    let (status, answer) = post(&gateway, &TYPES, request("initialize", params)).await;
    assert_eq!((status, &answer["result"]["protocolVersion"]), (200, &json!(NEWEST_LEGACY)), "{answer}");
}

#[tokio::test]
async fn accept_order() {
    let (_server, gateway) = behind(Script::legacy()).await;
    for accept in ["text/event-stream, application/json", "*/*", "application/json;q=0.5,text/event-stream"] {
        let params =
            json!({"protocolVersion": NEWEST_LEGACY, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
        let (status, _) = post(&gateway, &[TYPES[0], ("accept", accept)], request("initialize", params)).await;
        assert_eq!(status, 200, "{accept}");
    }
}

#[tokio::test]
async fn no_initialized() {
    let (_server, gateway) = behind(Script::legacy()).await;
    let client = McpClient::new(&gateway.url("/mcp"));
    client.initialize_only(NEWEST_LEGACY).await.unwrap();
    assert!(client.call("web__tool_0", json!({})).await.is_ok());
}

#[tokio::test]
async fn no_delete() {
    let (_server, gateway) = behind(Script::legacy()).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let sessions = async || {
        let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("fairlead_sessions "));
        line.map(|count| count.trim().to_owned())
    };
    assert_eq!(sessions().await.as_deref(), Some("1"));
    // Sessions are looked at every quarter of a minute.
    eventually_some(Duration::from_secs(18), "the session leaves the memory", async || {
        (sessions().await.as_deref() == Some("0")).then_some(())
    })
    .await;
    assert!(client.call("web__tool_0", json!({})).await.is_ok(), "it comes back when it is used");
}

#[tokio::test]
async fn session_per_call() {
    let (server, gateway) = behind(Script::legacy()).await;
    for _ in 0..20 {
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        client.call("web__tool_0", json!({})).await.unwrap();
        client.delete().await.unwrap();
    }
    assert_eq!(server.received_method("tools/call").len(), 20);
    // One to learn what there is, one for clients of these capabilities at most.
    assert!(server.received_method("initialize").len() <= 2, "{}", server.received_method("initialize").len());
}

#[tokio::test]
async fn hyphens_rewritten() {
    let tools = ["get-env", "a-b", "a_b", "x-y_z", "x_y-z"];
    let script = tools.iter().fold(Script::legacy().tools(0), |script, name| script.tool(ToolScript::new(name)));
    let (_server, gateway) = behind(script).await;
    // What the server calls its tools is known once it has listed them.
    rows::until_listed(&gateway, "web").await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        for (called, meant) in [("web__get_env", "get-env"), ("web__a_b", "a_b"), ("web__a-b", "a-b")] {
            let result = client.call(called, json!({})).await.unwrap();
            assert_eq!(result["structuredContent"]["tool"], meant, "{called}");
        }
        // Of two that it could be none is guessed.
        assert!(client.call("web__x_y_z", json!({})).await.is_err());
    }
}

#[tokio::test]
async fn long_names() {
    let (_server, gateway) = behind(Script::legacy().tools(0).tool(ToolScript::new(&"n".repeat(100)))).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for tool in client.list("tools/list", "tools").await.unwrap() {
        let name = format!("mcp__fairlead__{}", tool["name"].as_str().unwrap());
        assert!(name.len() <= 64, "{name}");
    }
}

#[tokio::test]
async fn stale_lists() {
    let (_server, gateway) = behind(Script::legacy().tools(1).list_change_every_ms(50)).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    assert!(client.call("web__tool_0", json!({})).await.is_ok());
    let refused = client.call("web__gone", json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("web__gone"), "{refused}");
    assert!(client.call("web__tool_0", json!({})).await.is_ok(), "nothing else suffers");
}

#[tokio::test]
async fn no_arguments() {
    let (server, gateway) = behind(Script::legacy()).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.result("tools/call", json!({"name": "web__tool_0"})).await.unwrap();
    let calls = server.received_method("tools/call");
    let params: Value = calls[0].json()["params"].clone();
    assert!(params.get("arguments").is_none(), "{params}");
}

#[tokio::test]
async fn early_ping() {
    let (server, gateway) = behind(Script::legacy().hang(fairlead_testkit::Hang::Everything)).await;
    let client = McpClient::new(&gateway.url("/mcp"));
    client.initialize_only(NEWEST_LEGACY).await.unwrap();
    assert_eq!(client.result("ping", json!({})).await.unwrap(), json!({}));
    assert!(server.received_method("ping").is_empty());
}
