//! What the configuration says of single tools.

use fairlead_testkit::{Finish, Script, ScriptedServer, ToolScript};
use serde_json::json;

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, StdioServer, eventually, eventually_some, rows};

/// A server whose tools break the connection, with `rules` for them.
fn breaking() -> Script {
    Script::legacy()
        .tool(ToolScript::new("write").finish(Finish::Die))
        .tool(ToolScript::new("read").definition(json!({"annotations": {"readOnlyHint": true}})).finish(Finish::Die))
        .tool(ToolScript::new("wait").sleep(30_000))
}

#[tokio::test]
async fn a_rule_overrules_what_a_tool_says_of_itself_and_is_in_force_without_a_new_connection() {
    let server = ScriptedServer::start(breaking()).await;
    let yaml =
        |rules: &str| format!("servers:\n  a: {{ url: \"{}\", tools: {{ rules: {{ {rules} }} }} }}\n", server.url());
    let gateway = Gateway::start(&yaml("")).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.modern("/mcp");
    for (rules, write, read) in [
        ("", 1, 2),
        ("write: { repeatable: true }", 2, 2),
        ("\"*\": { repeatable: false }", 1, 1),
        ("\"*\": { repeatable: false }, \"re*\": { repeatable: true }", 1, 2),
    ] {
        let sessions = server.sessions_opened();
        gateway.reload(&yaml(rules)).await;
        if !rules.is_empty() {
            gateway.logged("the configuration was applied").await;
        }
        assert_eq!(server.sessions_opened(), sessions, "{rules}: no connection was opened for a rule");
        for (tool, times) in [("write", write), ("read", read)] {
            eventually_some(PATIENCE, "the server is there", async || client.call("a__tool_0", json!({})).await.ok())
                .await;
            let called = || server.received_method("tools/call").len();
            let before = called();
            client.request("tools/call", json!({"name": format!("a__{tool}")})).await.unwrap();
            assert_eq!(called() - before, times, "{tool} with {{{rules}}}");
        }
    }
}

#[tokio::test]
async fn a_tool_has_its_own_time_and_the_server_is_told_when_it_is_over() {
    let server = ScriptedServer::start(breaking()).await;
    let child = StdioServer::new(breaking());
    let rules = "tools: { rules: { wait: { timeout: { call: 300ms } } } }";
    let yaml =
        format!("servers:\n  a: {{ url: \"{}\", {rules} }}\n  b: {{ {}, {rules} }}\n", server.url(), child.yaml());
    let gateway = Gateway::start(&yaml).await;
    for name in ["a", "b"] {
        rows::until_listed(&gateway, name).await;
        let legacy = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        for (at, client) in [gateway.modern("/mcp"), legacy].into_iter().enumerate() {
            let answer = client.request("tools/call", json!({"name": format!("{name}__wait")})).await.unwrap();
            let said = answer.error()["message"].as_str().unwrap_or_default().to_owned();
            assert!(said.contains("FL-1302"), "{said}");
            let told = || match name {
                "a" => server.cancelled().len(),
                _ => child.received_method("notifications/cancelled").len(),
            };
            eventually(PATIENCE, "the server is told", || told() == at + 1).await;
            client.call(&format!("{name}__tool_0"), json!({})).await.expect("others have the server's time");
        }
    }
}
