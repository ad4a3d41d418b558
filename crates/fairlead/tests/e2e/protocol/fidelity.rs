//! What is only forwarded arrives byte for byte, in both directions: the same bytes are sent to the server directly and
//! through the gateway, and both ends are compared.

use bytes::Bytes;
use fairlead_testkit::{Finish, McpClient, Script, ScriptedServer, Step, ToolScript, Via};
use serde_json::{Value, json};

use super::direct;
use crate::support::{Gateway, MODERN, NEWEST_LEGACY};

pub(super) const ID: &str = "\"client-7\"";
pub(super) const TOKEN: &str = "\"client-token\"";
/// What every modern request carries.
pub(super) const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"telepathy":{"range":1e3}}"#;

/// Results that typed implementations lose something of, by the tool that gives them.
const RESULTS: [(&str, &str); 7] = [
    (
        "own_members",
        r#"{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"skills":[{"id":"a"}],"own":null}"#,
    ),
    (
        "creates_a_task",
        r#"{"_meta":{"x/y":1},"task":{"taskId":"t1","status":"working","ttl":null,"pollInterval":500}}"#,
    ),
    ("unknown_content", r#"{"content":[{"type":"hologram","frames":[1,2.0]}]}"#),
    ("unknown_in_block", r#"{"content":[{"type":"text","text":"hi","own":{"a":[]}}],"extra":"e"}"#),
    (
        "numbers",
        r#"{"content":[],"structuredContent":{"a":12345678901234567890123,"b":1.10,"c":1E2,"d":-0,"e":1e400,"f":0.1e-7}}"#,
    ),
    ("order", r#"{"zeta":1,"content":[],"alpha":{"z":1,"y":2,"a":3}}"#),
    ("twice_and_escapes", "{\"content\":[ ] ,\t\"a\":1,\"a\":2,\"\\u00e4\":\"\\/\\u0041\"}"),
];

/// Messages of a client, apart from those that only call the tools above. `META` stands for what the era asks.
const MESSAGES: [(&str, &str, &str); 8] = [
    (
        "a task and a vendor's parameter",
        "tools/call",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"task":{"ttl":1000},"name":"tool_0","arguments":{"q":1},"vendor":[],"_meta":{META"progressToken":"client-token","v":0}}}"#,
    ),
    (
        "no arguments",
        "tools/call",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"name":"tool_0","_meta":{META"a":1}}}"#,
    ),
    (
        "null arguments",
        "tools/call",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"name":"tool_0","arguments":null,"_meta":{META"a":1}}}"#,
    ),
    (
        "numbers",
        "tools/call",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"name":"tool_0","arguments":{"a":12345678901234567890123,"b":1.10,"c":1E2,"d":-0,"f":0.1e-7},"_meta":{META"a":1}}}"#,
    ),
    (
        "order",
        "tools/call",
        r#"{"params":{"_meta":{"z":1,META"progressToken":"client-token","a":2},"arguments":{"z":1,"y":2,"a":3},"name":"tool_0"},"method":"tools/call","id":"client-7","jsonrpc":"2.0"}"#,
    ),
    (
        "white space and escapes",
        "tools/call",
        "{ \"jsonrpc\" : \"2.0\" ,\t\"id\" : \"client-7\" ,\r\n \"method\" : \"tools\\/call\" , \"params\" : { \"n\\u0061me\" : \"tool_0\" , \"arguments\" : { \"\\u00e4\" : \"\\/\\u0041\" },\"_meta\":{META\"a\":1} } } ",
    ),
    (
        "progress and an unknown notification",
        "tools/call",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"name":"talks","_meta":{META"progressToken":"client-token"}}}"#,
    ),
    (
        "a method nobody knows",
        "acme/do",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"acme/do","params":{"name":"x","y":{},"_meta":{META"a":1}}}"#,
    ),
];

fn script(modern: bool) -> Script {
    let mut script = if modern { Script::modern() } else { Script::legacy() };
    for (name, result) in RESULTS {
        // A modern result says what it is.
        let result = if modern { result.replacen('{', r#"{"resultType":"complete","#, 1) } else { result.to_owned() };
        script = script.tool(ToolScript::new(name).result(&result));
    }
    let vendor =
        json!({"execution": {"taskSupport": "optional"}, "vendor": {"k": [1.5]}, "annotations": {"own": true}});
    let talks = ToolScript::new("talks")
        .progress(2, 10)
        .step(Step::Notify { method: "notifications/acme".to_owned(), params: json!({"x": [null]}), via: Via::Call })
        .finish(Finish::Error { code: -32042, message: "go there".to_owned() });
    let done = r#"{"resultType":"complete","_meta":{"a/b":1},"own":[1.0],"content":null}"#;
    script.tool(ToolScript::new("vendor").definition(vendor)).tool(talks).result("acme/do", done).unknown_members()
}

/// The client's message with the server's view of id and token.
pub(super) fn as_sent(client: &str, received: &Bytes) -> String {
    let seen: Value = serde_json::from_slice(received).unwrap();
    let token = &seen["params"]["_meta"]["progressToken"];
    client.replace(ID, &seen["id"].to_string()).replace(TOKEN, &token.to_string()).trim_end().to_owned()
}

pub(super) async fn send(client: &McpClient, modern: bool, method: &str, name: &str, body: &str) -> Vec<String> {
    let headers = [("mcp-method", method), ("mcp-name", name)];
    let answer = client.post_raw(body.to_owned(), if modern { &headers } else { &[] }).await.unwrap();
    // An event without data is no message.
    let messages = answer.frames.iter().filter(|frame| !frame.data.is_empty());
    messages.map(|frame| String::from_utf8_lossy(&frame.data).into_owned()).collect()
}

#[tokio::test]
async fn forwarded_messages_keep_their_bytes_both_ways() {
    for modern in [false, true] {
        let server = ScriptedServer::start(script(modern)).await;
        let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
        let direct = direct(&server, modern).await;
        let path = "/servers/a/mcp";
        let through = if modern { gateway.modern(path) } else { gateway.legacy(path, NEWEST_LEGACY).await };
        let calls = RESULTS.map(|(name, _)| {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{{"name":"{name}","_meta":{{META"a":1}}}}}}"#
            );
            (name, "tools/call", body)
        });
        let messages = MESSAGES.map(|(what, method, body)| (what, method, body.to_owned()));
        for (what, method, body) in messages.into_iter().chain(calls) {
            let meta = if modern { format!("{META},") } else { String::new() };
            let body = body.replace("META", &meta);
            let name = serde_json::from_str::<Value>(&body).unwrap()["params"]["name"].as_str().unwrap().to_owned();
            let name = if method == "tools/call" { name } else { String::new() };
            let expected = send(&direct, modern, method, &name, &body).await;
            let came = send(&through, modern, method, &name, &body).await;
            assert_eq!(came, expected, "{what}, modern: {modern}");
            let received = server.received_method(method);
            let received = &received.last().unwrap().body;
            let received = (String::from_utf8_lossy(received).trim_end().to_owned(), as_sent(&body, received));
            assert_eq!(received.0, received.1, "{what}, modern: {modern}");
        }
        let listed = direct.result("tools/list", json!({})).await.unwrap();
        assert_eq!(through.result("tools/list", json!({})).await.unwrap(), listed, "modern: {modern}");
    }
}

#[tokio::test]
async fn listed_items_keep_their_bytes_under_another_name() {
    let item = r#"{"zeta":1,"name":"look up","inputSchema":{"type":"object","z":1.10,"a":1E2},"execution":{"taskSupport":"optional"},"vendor":{"k":[1.0]}}"#;
    let script = Script::legacy().result("tools/list", &format!(r#"{{"tools":[{item}]}}"#));
    let server = ScriptedServer::start(script).await;
    let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    for (path, modern) in [("/mcp", false), ("/mcp", true), ("/servers/a/mcp", false), ("/servers/a/mcp", true)] {
        let client = if modern { gateway.modern(path) } else { gateway.legacy(path, NEWEST_LEGACY).await };
        let answer = client.request("tools/list", json!({})).await.unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let name = answer.result().unwrap()["tools"][0]["name"].as_str().unwrap().to_owned();
        assert!(text.contains(&item.replace("look up", &name)), "{path}, modern: {modern}: {text}");
        assert_eq!(name == "look up", path != "/mcp", "{name}");
    }
}

#[tokio::test]
async fn ids_come_back_as_they_were_written() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    let client = gateway.legacy("/servers/a/mcp", NEWEST_LEGACY).await;
    for id in ["1", "\"1\"", "0", "-3", "9007199254740993", "123456789012345678901234567890", "\"\"", "\"\\u00e4/\\/\""]
    {
        for (method, params) in [("ping", "{}"), ("tools/list", "{}"), ("tools/call", r#"{"name":"tool_0"}"#)] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
            let answer = client.post_raw(body, &[]).await.unwrap();
            let text = String::from_utf8_lossy(&answer.frames[0].data).into_owned();
            assert!(text.contains(&format!(r#""id":{id},"#)), "{method}: {text}");
        }
    }
}

#[tokio::test]
async fn a_listen_filter_arrives_with_what_only_the_server_knows() {
    let server = ScriptedServer::start(Script::modern()).await;
    let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    let client = gateway.modern("/servers/a/mcp");
    let filter = json!({"toolsListChanged": true, "vendor": {"own": [1.0]}});
    let mut stream = client.start("subscriptions/listen", json!({"notifications": filter})).await.unwrap();
    let first = stream.next(5 * crate::support::SECOND).await.unwrap().unwrap().json();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], filter);
    let listens = server.received_method("subscriptions/listen");
    let listen = listens.iter().find(|listen| listen.json()["params"]["notifications"]["vendor"].is_object()).unwrap();
    assert_eq!(listen.json()["params"]["notifications"], filter);
    assert_eq!(listen.header("mcp-protocol-version"), Some(MODERN));
}

#[tokio::test]
async fn arguments_and_results_keep_their_bytes_under_another_name_and_across_eras() {
    let arguments =
        r#"{"z":1.10,"a":12345678901234567890123,"e":1E2,"twice":1,"twice":2,"\u00e4":"\/\u0041","n":null,"d":-0}"#;
    let content =
        r#""structuredContent":{"z":1.10,"big":12345678901234567890123,"\u00e4":"\/"},"own":[1.0],"content":[]"#;
    for upstream_modern in [false, true] {
        let kind = if upstream_modern { r#""resultType":"complete","# } else { "" };
        let script = if upstream_modern { Script::modern() } else { Script::legacy() };
        let script = script.tool(ToolScript::new("t").result(&format!("{{{kind}{content}}}")));
        let server = ScriptedServer::start(script).await;
        let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
        for (path, name) in [("/mcp", "a__t"), ("/servers/a/mcp", "t")] {
            for modern in [false, true] {
                let what = format!("{path}, modern client: {modern}, modern server: {upstream_modern}");
                let client = if modern { gateway.modern(path) } else { gateway.legacy(path, NEWEST_LEGACY).await };
                client.list("tools/list", "tools").await.unwrap();
                let meta = if modern { format!("{META},") } else { String::new() };
                let body = format!(
                    r#"{{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{{"own":1.0,"arguments":{arguments},"name":"{name}","_meta":{{{meta}"a/b":1.50}}}}}}"#
                );
                let came = send(&client, modern, "tools/call", name, &body).await;
                assert_eq!(came.len(), 1, "{what}: {came:?}");
                assert!(came[0].contains(content), "{what}: {}", came[0]);
                let received = server.received_method("tools/call");
                let sent = String::from_utf8_lossy(&received.last().unwrap().body).into_owned();
                assert!(sent.contains(&format!(r#""own":1.0,"arguments":{arguments},"name":"t""#)), "{what}: {sent}");
                assert!(sent.contains(r#""a/b":1.50"#), "{what}: {sent}");
                assert_eq!(sent.contains("clientCapabilities"), upstream_modern, "{what}: {sent}");
            }
        }
    }
}
