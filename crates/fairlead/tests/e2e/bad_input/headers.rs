//! Wrong, missing, doubled and hostile headers.

use fairlead_testkit::McpClient;
use serde_json::{Value, json};

use super::{Bystander, helpful};
use crate::support::{MODERN, PATIENCE, eventually_some};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

fn modern_call(name: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": name,
        "arguments": {},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    }})
    .to_string()
}

#[tokio::test]
async fn modern_headers_must_say_what_the_body_says() {
    let by = Bystander::new("").await;
    let client = McpClient::new(&by.gateway.url("/mcp"));
    let right = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "a__tool_0")];
    let with = |changes: &[(&'static str, &'static str)]| {
        let mut headers: Vec<(&str, &str)> = right.to_vec();
        for (name, _) in changes {
            headers.retain(|(other, _)| other != name);
        }
        headers.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        headers
    };
    for changes in [
        vec![],
        // The encoded form of the same name.
        vec![("mcp-name", "=?base64?YV9fdG9vbF8w?=")],
    ] {
        let answer = client.post_raw(modern_call("a__tool_0"), &with(&changes)).await.unwrap();
        assert!(answer.result().is_ok(), "{changes:?}: {}", answer.error());
    }
    for changes in [
        vec![("mcp-protocol-version", "")],
        vec![("mcp-protocol-version", "2025-11-25")],
        vec![("mcp-method", "")],
        vec![("mcp-method", "tools/list")],
        vec![("mcp-method", "TOOLS/CALL")],
        vec![("mcp-name", "")],
        vec![("mcp-name", "a__tool_1")],
        vec![("mcp-name", "=?base64?YV9fdG9vbF8x?=")],
        vec![("mcp-name", "=?base64?%%%?=")],
        vec![("mcp-method", "tools/call"), ("mcp-method", "tools/call")],
        vec![("mcp-name", "a__tool_0"), ("mcp-name", "a__tool_0")],
        vec![("mcp-protocol-version", MODERN), ("mcp-protocol-version", MODERN)],
    ] {
        let answer = client.post_raw(modern_call("a__tool_0"), &with(&changes)).await.unwrap();
        let error = answer.error();
        assert_eq!((answer.status, &error["code"]), (400, &json!(-32020)), "{changes:?}: {error}");
        assert!(helpful(&error, "FL-1102"), "{changes:?}: {error}");
    }
    by.gateway.logged("FL-1102").await;
    by.notices_nothing().await;
}

#[tokio::test]
async fn bodies_are_json_and_answers_may_be_streams() {
    let by = Bystander::new("").await;
    let client = by.gateway.legacy("/mcp", "2025-11-25").await;
    let both = "application/json, text/event-stream";
    for (content, accept, fits) in [
        ("application/json", both, true),
        ("application/json; charset=utf-8", "text/event-stream;q=0.5 , application/json", true),
        ("APPLICATION/JSON", "*/*", true),
        ("application/json", "", true),
        ("text/plain", both, false),
        ("", both, false),
        ("application/json-patch+json", both, false),
        ("application/x-www-form-urlencoded", both, false),
        ("application/json", "application/json", false),
        ("application/json", "text/event-stream", false),
        ("application/json", "text/html", false),
    ] {
        let answer = client.post_raw(PING, &[("content-type", content), ("accept", accept)]).await.unwrap();
        let what = format!("{content} {accept}: {} {}", answer.status, answer.error());
        assert_eq!(answer.status == 200, fits, "{what}");
        if !fits {
            assert!([406, 415].contains(&answer.status) && helpful(&answer.error(), "FL-1008"), "{what}");
        }
    }
    by.notices_nothing().await;
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_turned_away() {
    let by = Bystander::new(
        "listen: { address: \"127.0.0.1:0\", hosts: [gateway.example.com], origins: [\"https://app.example.com\"] }",
    )
    .await;
    let client = by.gateway.legacy("/mcp", "2025-11-25").await;
    let own = by.gateway.address();
    for (host, origin, served) in [
        (own.as_str(), "", true),
        ("localhost", "", true),
        ("localhost:99", "http://localhost:3000", true),
        ("[::1]:8642", "http://[::1]", true),
        ("gateway.example.com", "https://app.example.com", true),
        ("evil.example.com", "", false),
        ("127.0.0.1.evil.example.com", "", false),
        ("localhost.evil.example.com", "", false),
        (own.as_str(), "https://evil.example.com", false),
        (own.as_str(), "null", false),
        (own.as_str(), "https://app.example.com.evil.example.com", false),
        (own.as_str(), "http://app.example.com", false),
        ("evil.example.com", "http://evil.example.com", false),
    ] {
        let mut headers = vec![("host", host)];
        if !origin.is_empty() {
            headers.push(("origin", origin));
        }
        for path in ["/mcp", "/health/ready"] {
            let what = format!("{path} {host} {origin}");
            let answer = if path == "/mcp" {
                client.post_raw(PING, &headers).await.unwrap()
            } else {
                let probe = McpClient::new(&by.gateway.url(path));
                probe.raw(http::Method::GET, "", &headers).await.unwrap()
            };
            assert_eq!(answer.status, if served { 200 } else { 403 }, "{what}");
            if !served {
                assert!(helpful(&answer.error(), "FL-1006"), "{what}: {}", answer.error());
            }
        }
    }
    let twice = [("host", own.as_str()), ("host", "evil.example.com")];
    let refused = client.post_raw(PING, &twice).await.unwrap();
    assert!([400, 403].contains(&refused.status), "{}", refused.status);
    by.gateway.logged("FL-1006").await;
    by.notices_nothing().await;
}

#[tokio::test]
async fn too_many_and_too_long_headers_are_refused() {
    let by = Bystander::new("").await;
    let client = by.gateway.legacy("/mcp", "2025-11-25").await;
    let long = "x".repeat(200_000);
    let many: Vec<_> = (0..300).map(|number| format!("x-header-{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "1")).collect();
    for headers in [vec![("x-long", long.as_str())], many] {
        // A server that stops reading may be noticed as a broken connection, not each time.
        let answer = eventually_some(PATIENCE, "an answer", async || client.post_raw(PING, &headers).await.ok()).await;
        assert_eq!(answer.status, 431);
        by.notices_nothing().await;
    }
    by.gateway.logged("a connection ended with an error").await;
}

#[tokio::test]
async fn nothing_secret_comes_back() {
    let by = Bystander::new("").await;
    let client = by.gateway.legacy("/mcp", "2025-11-25").await.header("authorization", "Bearer s3cr3t-token");
    for (method, params) in [
        ("no/such/method", json!({"password": "s3cr3t-argument"})),
        ("tools/call", json!({"name": "nothing", "arguments": {"password": "s3cr3t-argument"}})),
        ("tools/call", json!({"name": "a__tool_0", "arguments": {"password": "s3cr3t-argument"}})),
    ] {
        let answer = client.request(method, params).await.unwrap();
        assert!(!answer.error().to_string().contains("s3cr3t"), "{}", answer.error());
    }
    let broken: Value = json!({"jsonrpc": "2.0", "id": 1, "method": 7, "params": {"password": "s3cr3t-argument"}});
    let answer = client.post_raw(broken.to_string(), &[]).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer.body).contains("s3cr3t"));
    assert!(!by.gateway.log().contains("s3cr3t"), "{}", by.gateway.log());
}
