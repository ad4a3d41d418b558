//! Calls, reads, prompts and completion, from every revision to every kind of server; handshakes; batches.

use fairlead_testkit::{Finish, McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use super::{House, SERVERS, alone, direct, plain};
use crate::support::{Gateway, LEGACY, MODERN, NEWEST_LEGACY};

fn script() -> Script {
    Script::legacy()
        .resources_and_prompts(3, 3)
        .tool(ToolScript::new("broken").finish(Finish::ToolError { text: "no such customer".to_owned() }))
        .tool(ToolScript::new("refused").finish(Finish::Error { code: -32050, message: "not today".to_owned() }))
}

/// What is asked under a server's own names, and how the name is written on `/mcp`.
fn requests(prefix: &str) -> Vec<(&'static str, Value)> {
    let name = |name: &str| format!("{prefix}{name}");
    vec![
        ("tools/call", json!({"name": name("tool_1"), "arguments": {"text": "a", "deep": [{"b": null}]}})),
        ("tools/call", json!({"name": name("tool_1")})),
        ("tools/call", json!({"name": name("broken"), "arguments": {}})),
        ("tools/call", json!({"name": name("refused"), "arguments": {}})),
        ("resources/read", json!({"uri": "test://resource/2"})),
        ("prompts/get", json!({"name": name("prompt_0"), "arguments": {"a": "b"}})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": name("prompt_0")}, "argument": {"name": "a", "value": "x"}}),
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/resource", "uri": "test://resource/{number}"}, "argument": {"name": "number", "value": "x"}}),
        ),
    ]
}

async fn outcome(client: &McpClient, method: &str, params: Value) -> (Value, Value) {
    let answer = client.request(method, params).await.unwrap();
    let response = answer.response().unwrap_or_else(|| panic!("{method}: no answer: {:?}", answer.body));
    (plain(response["result"].clone()), response["error"].clone())
}

#[tokio::test]
async fn everything_plain_works_between_any_client_and_any_server() {
    let house = House::new(script(), |_, script| script).await;
    let direct = direct(&house.web, false).await;
    let mut expected = Vec::new();
    for (method, params) in requests("") {
        expected.push(outcome(&direct, method, params).await);
    }
    for server in SERVERS {
        for (who, client) in house.clients(&alone(server)).await {
            for ((method, params), expected) in requests("").into_iter().zip(&expected) {
                assert_eq!(
                    outcome(&client, method, params.clone()).await,
                    *expected,
                    "{server}, {who}: {method} {params}"
                );
            }
        }
        for (who, client) in house.clients("/mcp").await {
            client.list("tools/list", "tools").await.unwrap();
            for ((method, params), expected) in requests(&format!("{server}__")).into_iter().zip(&expected) {
                assert_eq!(
                    outcome(&client, method, params.clone()).await,
                    *expected,
                    "{server}, {who}: {method} {params}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_as_the_clients_revision_has_it() {
    let house = House::new(script(), |_, script| script).await;
    for path in [alone("web"), alone("child"), alone("now"), "/mcp".to_owned()] {
        for (who, client) in house.clients(&path).await {
            let missing = if who.starts_with("modern") { -32602 } else { -32002 };
            for (method, params, code) in [
                ("tools/call", json!({"name": "nothing", "arguments": {}}), -32602),
                ("prompts/get", json!({"name": "nothing"}), -32602),
                ("resources/read", json!({"uri": "test://resource/99"}), missing),
                ("tools/call", json!({"arguments": {}}), -32602),
                ("no/such/method", json!({}), -32601),
            ] {
                let answer = client.request(method, params.clone()).await.unwrap();
                let error = answer.error();
                assert_eq!(error["code"], code, "{who}: {method} {params}: {error}");
                assert!(!error["message"].as_str().unwrap().is_empty(), "{who}: {method}");
                let status = if who.starts_with("modern") && code == -32601 { 404 } else { 200 };
                let fits = answer.status == status || (who.starts_with("modern") && answer.status == 400);
                assert!(fits, "{who}: {method} {params}: status {}", answer.status);
            }
        }
    }
}

#[tokio::test]
async fn a_handshake_shows_the_server_as_it_is_and_the_gateway_as_what_it_is() {
    let script = Script::legacy().resources_and_prompts(1, 1).unknown_members();
    let house =
        House::new(script, |name, script| Script { instructions: Some(format!("Ask {name}.\nThen wait.")), ..script })
            .await;
    for server in ["web", "child"] {
        for revision in LEGACY {
            let direct = McpClient::new(&house.web.url());
            let mut expected = direct.initialize(revision).await.unwrap();
            expected["serverInfo"]["name"] = json!(server);
            expected["instructions"] = json!(format!("Ask {server}.\nThen wait."));
            let client = house.gateway.legacy(&alone(server), revision).await;
            assert_eq!(client.initialized(), expected, "{server} {revision}");
        }
    }
    let expected = direct(&house.now, true).await.result("server/discover", json!({})).await.unwrap();
    let discovered = house.gateway.modern(&alone("now")).result("server/discover", json!({})).await.unwrap();
    assert_eq!(discovered, expected);

    let instructions =
        "## web\nAsk web.\nThen wait.\n\n## child\nAsk child.\nThen wait.\n\n## now\nAsk now.\nThen wait.";
    for revision in LEGACY {
        let all = house.gateway.legacy("/mcp", revision).await.initialized();
        assert_eq!((&all["protocolVersion"], &all["serverInfo"]["name"]), (&json!(revision), &json!("fairlead")));
        for capability in ["tools", "prompts", "resources", "completions", "logging"] {
            assert!(all["capabilities"][capability].is_object(), "{capability}: {all}");
        }
        assert_eq!(all["capabilities"]["resources"]["subscribe"], true);
        assert_eq!(all["instructions"], instructions, "{all}");
    }
    let discovered = house.gateway.modern("/mcp").result("server/discover", json!({})).await.unwrap();
    assert!(discovered["supportedVersions"].as_array().unwrap().contains(&json!(MODERN)), "{discovered}");
    assert_eq!(discovered["instructions"], instructions, "{discovered}");
    assert_eq!(discovered["resultType"], "complete");
    assert!(discovered["ttlMs"].is_u64() && discovered["cacheScope"] == "private", "{discovered}");
    assert_eq!(discovered["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "fairlead");
}

#[tokio::test]
async fn an_unknown_revision_is_negotiated_down_and_the_modern_one_never_named_in_a_handshake() {
    let house = House::new(Script::legacy(), |_, script| script).await;
    for asked in ["2099-01-01", MODERN, "1.0"] {
        for path in ["/mcp".to_owned(), alone("web"), alone("now")] {
            let client = McpClient::new(&house.gateway.url(&path));
            let result = client.initialize(asked).await.unwrap();
            assert_eq!(result["protocolVersion"], NEWEST_LEGACY, "{asked} on {path}");
        }
    }
    // With modern `_meta` it is served statelessly: there is no such method.
    let refused = house.gateway.modern("/mcp").request("initialize", json!({})).await.unwrap();
    assert_eq!((refused.status, refused.error()["code"].clone()), (404, json!(-32601)));
}

#[tokio::test]
async fn modern_answers_carry_what_their_revision_asks() {
    let house = House::new(script(), |_, script| script).await;
    for path in ["/mcp".to_owned(), alone("web"), alone("child"), alone("now")] {
        let client = house.gateway.modern(&path);
        let prefix = if path == "/mcp" { "child__" } else { "" };
        for (method, params, cacheable) in [
            ("server/discover", json!({}), true),
            ("tools/list", json!({}), true),
            ("prompts/list", json!({}), true),
            ("resources/list", json!({}), true),
            ("resources/templates/list", json!({}), true),
            ("resources/read", json!({"uri": "test://resource/0"}), true),
            ("tools/call", json!({"name": format!("{prefix}tool_0"), "arguments": {}}), false),
            ("prompts/get", json!({"name": format!("{prefix}prompt_0")}), false),
        ] {
            let result = client.result(method, params).await.unwrap();
            assert_eq!(result["resultType"], "complete", "{path} {method}: {result}");
            if cacheable {
                assert!(result["ttlMs"].is_u64() && result["cacheScope"].is_string(), "{path} {method}: {result}");
            }
        }
    }
}

#[tokio::test]
async fn legacy_answers_carry_nothing_of_the_modern_revision() {
    let house = House::new(script(), |_, script| script).await;
    for (who, client) in house.clients(&alone("now")).await.into_iter().filter(|(who, _)| !who.starts_with("modern")) {
        for (method, params) in
            requests("").into_iter().chain([("tools/list", json!({})), ("resources/list", json!({}))])
        {
            let response = client.request(method, params).await.unwrap().response().unwrap();
            for member in ["resultType", "ttlMs", "cacheScope"] {
                assert!(response["result"].get(member).is_none(), "{who} {method}: {response}");
            }
        }
    }
}

#[tokio::test]
async fn a_batch_is_answered_whole_by_the_revision_that_has_them() {
    let house = House::new(script(), |_, script| script).await;
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},
        {"jsonrpc":"2.0","method":"notifications/initialized"},
        {"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"tool_0","arguments":{"n":1E2}}},
        {"jsonrpc":"2.0","id":"c","method":"no/such/method"}]"#;
    for server in SERVERS {
        let client = house.gateway.legacy(&alone(server), "2025-03-26").await;
        let answer = client.post_raw(batch, &[]).await.unwrap();
        let answers = answer.messages()[0].clone();
        assert_eq!(answers.as_array().unwrap().len(), 3, "{server}: {answers}");
        let find = |id: Value| answers.as_array().unwrap().iter().find(|answer| answer["id"] == id).unwrap().clone();
        assert_eq!(find(json!(1))["result"], json!({}));
        assert_eq!(find(json!("b"))["result"]["structuredContent"]["tool"], "tool_0", "{server}: {answers}");
        assert_eq!(find(json!("c"))["error"]["code"], -32601);
        let none = r#"[{"jsonrpc":"2.0","method":"notifications/initialized"}]"#;
        let answer = client.post_raw(none, &[]).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (202, 0));
        for body in ["[]", r#"[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}]"#] {
            assert_eq!(client.post_raw(body, &[]).await.unwrap().status, 400, "{body}");
        }
        for revision in ["2025-06-18", "2025-11-25"] {
            let client = house.gateway.legacy(&alone(server), revision).await;
            let answer = client.post_raw(batch, &[]).await.unwrap();
            assert_eq!((answer.status, answer.error()["code"].clone()), (400, json!(-32600)), "{revision}");
        }
    }
}

#[tokio::test]
async fn a_server_of_both_eras_is_served_to_each_client_in_its_own() {
    let server = ScriptedServer::start(Script { versions: Script::dual().versions, ..script() }).await;
    let gateway = Gateway::start(&format!("servers: {{ both: {{ url: \"{}\" }} }}\n", server.url())).await;
    for path in ["/servers/both/mcp", "/mcp"] {
        let prefix = if path == "/mcp" { "both__" } else { "" };
        for client in [gateway.legacy(path, NEWEST_LEGACY).await, gateway.modern(path)] {
            let tools = client.list("tools/list", "tools").await.unwrap();
            assert_eq!(tools.len(), 5, "{path}");
            let result = client.call(&format!("{prefix}tool_0"), json!({"a": 1})).await.unwrap();
            assert_eq!(result["structuredContent"]["arguments"], json!({"a": 1}), "{path}");
        }
    }
}

#[tokio::test]
async fn a_server_pinned_to_one_era_serves_clients_of_both_over_it() {
    let server = ScriptedServer::start(Script { versions: Script::dual().versions, ..script() }).await;
    for (protocol, method) in [("2026-07-28", "server/discover"), ("2025-11-25", "initialize")] {
        let config = format!(
            "servers: {{ both: {{ url: \"{}\", protocol: \"{protocol}\", max_sessions: 4 }} }}\n",
            server.url()
        );
        let gateway = Gateway::start(&config).await;
        for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
            let result = client.call("both__tool_0", json!({"a": 1})).await.unwrap();
            assert_eq!(result["structuredContent"]["arguments"], json!({"a": 1}), "{protocol}");
        }
        assert!(!server.received_method(method).is_empty(), "{protocol}");
        let other = if method == "initialize" { "server/discover" } else { "initialize" };
        assert!(protocol != "2026-07-28" || server.received_method(other).is_empty(), "{protocol}");
    }
}

#[tokio::test]
async fn ping_is_answered_without_the_server() {
    let house = House::new(script(), |_, script| script).await;
    for path in ["/mcp".to_owned(), alone("web"), alone("child")] {
        let client = house.gateway.legacy(&path, NEWEST_LEGACY).await;
        assert_eq!(client.result("ping", json!({})).await.unwrap(), json!({}));
    }
    for server in SERVERS {
        assert!(house.received(server, "ping").is_empty(), "{server}");
    }
}
