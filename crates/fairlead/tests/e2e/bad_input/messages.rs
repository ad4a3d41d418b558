//! Bodies that are not messages, messages that are not valid, methods nobody has.

use http::Method;
use serde_json::{Value, json};

use super::{Bystander, helpful};
use crate::support::{MODERN, PATIENCE, eventually};

/// Body, HTTP status, JSON-RPC code, our code.
fn bodies() -> Vec<(Vec<u8>, u16, i64, &'static str)> {
    let text = |text: &str, code: i64, label| (text.as_bytes().to_vec(), 400, code, label);
    let deep = |open: &str, close: &str| {
        let nested = open.repeat(50_000) + "1" + &close.repeat(50_000);
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a__tool_0","arguments":{{"x":{nested}}}}}}}"#
        )
    };
    vec![
        text("", -32700, "FL-1001"),
        text("{", -32700, "FL-1001"),
        text("nul", -32700, "FL-1001"),
        text(r#"{"jsonrpc":"2.0","id":1,"method":"ping"} x"#, -32700, "FL-1001"),
        text(r#"{"jsonrpc":"2.0","id":1,"method":"ping",}"#, -32700, "FL-1001"),
        text(r#"{"jsonrpc":"2.0","id":01,"method":"ping"}"#, -32700, "FL-1001"),
        text("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"pi\nng\"}", -32700, "FL-1001"),
        text("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", -32700, "FL-1001"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"p\xff\"}".to_vec(), 400, -32700, "FL-1001"),
        text("42", -32600, "FL-1002"),
        text("null", -32600, "FL-1002"),
        text(r#""ping""#, -32600, "FL-1002"),
        text("{}", -32600, "FL-1002"),
        text(r#"{"id":1,"method":"ping"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":7}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":1}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, -32600, "FL-1002"),
        text(r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}"#, -32600, "FL-1002"),
        text(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a__tool_0","name":"a__tool_1"}}"#,
            -32600,
            "FL-1002",
        ),
        text(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"},"params":{"name":"y"}}"#,
            -32600,
            "FL-1002",
        ),
        text(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\u0061me":"x","name":"y"}}"#,
            -32600,
            "FL-1002",
        ),
        (
            format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(100_000)).into_bytes(),
            400,
            -32600,
            "FL-1002",
        ),
        (deep("[", "]").into_bytes(), 400, -32600, "FL-1005"),
        (deep("{\"a\":", "}").into_bytes(), 400, -32600, "FL-1005"),
        ("[".repeat(100_000).into_bytes(), 400, -32600, "FL-1005"),
    ]
}

#[tokio::test]
async fn what_is_no_message_is_refused_with_the_protocols_error() {
    let by = Bystander::new("").await;
    let legacy = by.gateway.legacy("/mcp", "2025-06-18").await;
    let modern = by.gateway.modern("/mcp");
    for (body, status, code, label) in bodies() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
        for client in [&legacy, &modern] {
            let headers: &[(&str, &str)] = if client.session().is_some() {
                &[]
            } else {
                &[("mcp-method", "ping"), ("mcp-protocol-version", MODERN)]
            };
            let answer = client.post_raw(body.clone(), headers).await.unwrap();
            let error = answer.error();
            assert_eq!((answer.status, &error["code"]), (status, &json!(code)), "{shown}: {error}");
            assert!(helpful(&error, label), "{shown}: {error}");
            let message = answer.messages()[0].clone();
            assert_eq!((&message["jsonrpc"], &message["id"]), (&json!("2.0"), &Value::Null), "{shown}: {message}");
        }
        by.notices_nothing().await;
    }
    eventually(PATIENCE, "the causes in the log", || {
        let log = by.gateway.log();
        ["FL-1001", "FL-1002", "FL-1005"].iter().all(|label| log.contains(label))
    })
    .await;
}

#[tokio::test]
async fn parameters_of_the_wrong_type_are_named() {
    let by = Bystander::new("").await;
    for path in ["/mcp", "/servers/a/mcp"] {
        let legacy = by.gateway.legacy(path, "2025-11-25").await;
        for (method, params, named) in [
            ("tools/call", json!({"name": 7, "arguments": {}}), "name"),
            ("tools/call", json!({}), "name"),
            ("prompts/get", json!({"name": ["a"]}), "name"),
            ("resources/read", json!({"uri": {"a": 1}}), "uri"),
            ("resources/subscribe", json!({}), "uri"),
            ("resources/unsubscribe", json!({"uri": null}), "uri"),
            ("logging/setLevel", json!({"level": ["error"]}), "level"),
            ("completion/complete", json!({"argument": {"name": "a", "value": "b"}}), "ref"),
        ] {
            let answer = legacy.request(method, params.clone()).await.unwrap();
            let error = answer.error();
            // On its own path a server may be the one that refuses.
            let ours = path == "/mcp"
                || matches!(method, "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel");
            if ours {
                assert_eq!(error["code"], -32602, "{path} {method} {params}: {answer:?}");
                assert!(error["message"].as_str().unwrap().contains(named), "{path} {method} {params}: {error}");
            }
        }
        let fresh = fairlead_testkit::McpClient::new(&by.gateway.url(path));
        for params in [json!({}), json!({"protocolVersion": 7}), json!([])] {
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
            let answer = fresh.post_raw(body.to_string(), &[]).await.unwrap();
            assert_eq!(answer.status, 400, "{params}: {}", answer.error());
            assert!(answer.header("mcp-session-id").is_none());
        }
    }
    by.notices_nothing().await;
}

#[tokio::test]
async fn modern_requests_without_their_metadata_are_told_what_is_missing() {
    let by = Bystander::new("").await;
    let client = by.gateway.modern("/mcp");
    let version = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
    let capabilities = r#""io.modelcontextprotocol/clientCapabilities":{}"#;
    for (meta, code, named) in [
        (version.to_owned(), -32602, "clientCapabilities"),
        (capabilities.to_owned(), -32602, "protocolVersion"),
        (format!(r#"{version},"io.modelcontextprotocol/clientCapabilities":[]"#), -32602, "clientCapabilities"),
        (format!(r#""io.modelcontextprotocol/protocolVersion":20260728,{capabilities}"#), -32602, "protocolVersion"),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"i","method":"tools/list","params":{{"_meta":{{{meta}}}}}}}"#);
        let answer = client.post_raw(body, &[("mcp-method", "tools/list")]).await.unwrap();
        let error = answer.error();
        assert_eq!((answer.status, &error["code"]), (400, &json!(code)), "{meta}: {error}");
        assert!(error["message"].as_str().unwrap().contains(named), "{meta}: {error}");
        assert_eq!(answer.messages()[0]["id"], "i");
    }
    let future = format!(r#""io.modelcontextprotocol/protocolVersion":"2031-01-01",{capabilities}"#);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{{future}}}}}}}"#);
    let headers = [("mcp-method", "tools/list"), ("mcp-protocol-version", "2031-01-01")];
    let answer = client.post_raw(body, &headers).await.unwrap();
    let error = answer.error();
    assert_eq!((answer.status, &error["code"]), (400, &json!(-32022)), "{error}");
    assert_eq!(error["data"]["requested"], "2031-01-01");
    assert!(error["data"]["supported"].as_array().unwrap().contains(&json!(MODERN)), "{error}");
    by.notices_nothing().await;
}

#[tokio::test]
async fn unknown_methods_and_paths_are_refused_and_unknown_notifications_swallowed() {
    let by = Bystander::new("").await;
    let legacy = by.gateway.legacy("/mcp", "2025-11-25").await;
    let modern = by.gateway.modern("/mcp");
    for method in ["no/such/method", "tools/List", "server/discover", "tasks/list", "x", "rpc.discover"] {
        let answer = legacy.request(method, json!({})).await.unwrap();
        assert_eq!((answer.status, answer.error()["code"].clone()), (200, json!(-32601)), "{method}");
        assert!(helpful(&answer.error(), "FL-1106"), "{}", answer.error());
    }
    for method in ["no/such/method", "initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/list"] {
        let answer = modern.request(method, json!({})).await.unwrap();
        assert_eq!((answer.status, answer.error()["code"].clone()), (404, json!(-32601)), "{method}");
        assert!(helpful(&answer.error(), "FL-1106"), "{}", answer.error());
    }
    let answer = legacy.notify("notifications/acme", json!({"x": 1})).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (202, 0));
    for path in ["/", "/mcp/nothing", "/servers/nothing/mcp", "/servers/a", "/MCP", "/mcp/../mcp", "/%6dcp"] {
        let client = fairlead_testkit::McpClient::new(&by.gateway.url(path));
        let answer = client.request("ping", json!({})).await.unwrap();
        assert_eq!(answer.status, 404, "{path}");
        assert!(helpful(&answer.error(), "FL-1010"), "{path}: {}", answer.error());
    }
    for method in [Method::PUT, Method::PATCH, Method::OPTIONS, Method::HEAD] {
        let answer = legacy.raw(method.clone(), "{}", &[]).await.unwrap();
        assert_eq!(answer.status, 405, "{method}");
    }
    by.notices_nothing().await;
}

#[tokio::test]
async fn answers_and_cancellations_nobody_waits_for_change_nothing() {
    let by = Bystander::new("").await;
    let client = by.gateway.legacy("/mcp", "2025-11-25").await;
    for message in [
        json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
        json!({"jsonrpc": "2.0", "id": "x", "error": {"code": 1, "message": "no"}}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled"}),
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}),
        json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    ] {
        let answer = client.post(&message).await.unwrap().finish().await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (202, 0), "{message}");
    }
    by.notices_nothing().await;
}
