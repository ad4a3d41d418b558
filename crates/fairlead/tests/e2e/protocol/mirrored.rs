//! Arguments that a modern server wants mirrored into headers (`x-mcp-header`).

use fairlead_testkit::{Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, MODERN, NEWEST_LEGACY};

fn tool(name: &str, property: Value) -> ToolScript {
    let schema = json!({"type": "object", "properties": {"region": property, "text": {"type": "string"}}});
    ToolScript::new(name).definition(json!({"inputSchema": schema}))
}

async fn start() -> (ScriptedServer, Gateway) {
    let script = Script::modern()
        .tools(1)
        .tool(tool("good", json!({"type": "string", "x-mcp-header": "Region"})))
        .tool(tool("number", json!({"type": "number", "x-mcp-header": "Region"})))
        .tool(tool("empty", json!({"type": "string", "x-mcp-header": ""})))
        .tool(tool("no_token", json!({"type": "string", "x-mcp-header": "a b"})));
    let server = ScriptedServer::start(script).await;
    let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    (server, gateway)
}

#[tokio::test]
async fn a_tool_whose_annotation_is_wrong_is_not_listed_and_it_is_said() {
    let (_server, gateway) = start().await;
    for path in ["/mcp", "/servers/a/mcp"] {
        for client in [gateway.legacy(path, NEWEST_LEGACY).await, gateway.modern(path)] {
            let tools = client.list("tools/list", "tools").await.unwrap();
            let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
            let prefix = if path == "/mcp" { "a__" } else { "" };
            assert_eq!(names, [format!("{prefix}good"), format!("{prefix}tool_0")], "{path}");
        }
    }
    let log = gateway.log();
    assert!(log.contains("x-mcp-header") && log.contains("server=a"), "{log}");
}

#[tokio::test]
async fn a_legacy_clients_arguments_are_mirrored_for_it() {
    let (server, gateway) = start().await;
    for path in ["/mcp", "/servers/a/mcp"] {
        let name = if path == "/mcp" { "a__good" } else { "good" };
        let client = gateway.legacy(path, NEWEST_LEGACY).await;
        client.list("tools/list", "tools").await.unwrap();
        for (region, header) in [
            (json!("eu-west"), Some("eu-west")),
            (json!("größe"), Some("=?base64?Z3LDtsOfZQ==?=")),
            (Value::Null, None),
        ] {
            client.call(name, json!({"region": region, "text": "x"})).await.unwrap();
            let call = server.received_method("tools/call").pop().unwrap();
            assert_eq!(call.header("mcp-param-region"), header, "{path} {region}");
            assert_eq!(call.header("mcp-name"), Some("good"));
            assert_eq!(call.header("mcp-method"), Some("tools/call"));
            assert_eq!(call.header("mcp-protocol-version"), Some(MODERN));
        }
    }
}

#[tokio::test]
async fn a_modern_clients_headers_are_checked_and_passed_on() {
    let (server, gateway) = start().await;
    for path in ["/mcp", "/servers/a/mcp"] {
        let name = if path == "/mcp" { "a__good" } else { "good" };
        let client = gateway.modern(path);
        client.list("tools/list", "tools").await.unwrap();
        let call = |region: &str| {
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
                "name": name,
                "arguments": {"region": region},
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": MODERN,
                    "io.modelcontextprotocol/clientCapabilities": {},
                },
            }})
            .to_string()
        };
        let headers = |region: &'static str| {
            let mut headers = vec![("mcp-method", "tools/call"), ("mcp-name", name), ("mcp-param-unknown", "kept")];
            if !region.is_empty() {
                headers.push(("mcp-param-region", region));
            }
            headers
        };
        let answer = client.post_raw(call("eu-west"), &headers("eu-west")).await.unwrap();
        assert!(answer.result().is_ok(), "{}", answer.error());
        let received = server.received_method("tools/call").pop().unwrap();
        assert_eq!(received.header("mcp-param-region"), Some("eu-west"));
        assert_eq!(received.header("mcp-param-unknown"), Some("kept"), "unknown ones are forwarded");
        let before = server.received_method("tools/call").len();
        for region in ["us-east", ""] {
            let answer = client.post_raw(call("eu-west"), &headers(region)).await.unwrap();
            assert_eq!((answer.status, answer.error()["code"].clone()), (400, json!(-32020)), "{path} {region}");
        }
        assert_eq!(server.received_method("tools/call").len(), before, "what is refused is not sent");
    }
}

#[tokio::test]
async fn a_modern_clients_call_is_made_again_when_its_tool_wants_other_headers_by_now() {
    let mirrored = |header: &str| tool("moved", json!({"type": "string", "x-mcp-header": header}));
    let server = ScriptedServer::start(Script::modern().tool(mirrored("Old").needs_header("mcp-param-old"))).await;
    let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    let client = gateway.modern("/mcp");
    client.list("tools/list", "tools").await.unwrap();
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "a__moved",
        "arguments": {"region": "eu"},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    }})
    .to_string();
    let calling = async |name: &str, value: &str| {
        let headers =
            [("mcp-method", "tools/call"), ("mcp-name", "a__moved"), ("mcp-param-mine", "kept"), (name, value)];
        server.clear_received();
        let answer = client.post_raw(call.clone(), &headers).await.unwrap();
        (answer, server.received_method("tools/call"))
    };
    // It was right by the list it had: what that did not say is for the gateway to get right.
    server.change(|script| script.scripted_tools = vec![mirrored("New").needs_header("mcp-param-new")]);
    let (answer, received) = calling("mcp-param-old", "eu").await;
    answer.result().unwrap();
    let sent = received.iter().map(|call| ["old", "new", "mine"].map(|name| call.header(&format!("mcp-param-{name}"))));
    let expected = [[Some("eu"), None, Some("kept")], [Some("eu"), Some("eu"), Some("kept")]];
    assert_eq!(sent.collect::<Vec<_>>(), expected);
    // From then on it is held to the new list.
    let (answer, received) = calling("mcp-param-old", "eu").await;
    assert_eq!((answer.status, answer.error()["code"].clone(), received.len()), (400, json!(-32020), 0));
    // What contradicts its own arguments is not put right, ...
    server.change(|script| script.scripted_tools = vec![mirrored("Newer").needs_header("mcp-param-none")]);
    let headers = [("mcp-param-new", "eu"), ("mcp-param-newer", "us")];
    server.clear_received();
    let all = [&[("mcp-method", "tools/call"), ("mcp-name", "a__moved")][..], &headers].concat();
    let answer = client.post_raw(call.clone(), &all).await.unwrap();
    assert_eq!((answer.error()["code"].clone(), server.received_method("tools/call").len()), (json!(-32020), 1));
    // ... and a server that is never content is asked twice at most.
    let (answer, received) = calling("mcp-param-newer", "eu").await;
    assert_eq!((answer.error()["code"].clone(), received.len()), (json!(-32020), 2));
}
