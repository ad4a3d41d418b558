//! Sessions of legacy clients: sealed, bound, and as durable as the data directory.

use std::time::{Duration, Instant};

use fairlead_testkit::{McpClient, Reply, Script, ScriptedServer, Step, ToolScript};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Gateway, LEGACY, NEWEST_LEGACY, PATIENCE, SECOND, eventually, eventually_some, get, relaxed};

fn script() -> Script {
    let log = |level: &str| Step::Log { level: level.to_owned(), text: level.to_owned() };
    Script::legacy()
        .resources_and_prompts(2, 0)
        .tool(ToolScript::new("logs").step(log("info")).step(log("error")))
        .tool(ToolScript::new("waits").sleep(20_000))
        .tool(ToolScript::new("draws").needs("sampling"))
}

async fn start(options: &str) -> (ScriptedServer, Gateway) {
    let server = ScriptedServer::start(script()).await;
    let yaml = format!(
        "{options}\nservers:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\ntoolsets: {{ few: {{ include: [\"a__*\"] }} }}\n",
        server.url(),
        server.url()
    );
    (server, Gateway::start(&yaml).await)
}

/// A client of the same path that has somebody's session id and nothing else.
fn with_session(gateway: &Gateway, path: &str, session: Option<&str>) -> McpClient {
    let client = McpClient::new(&gateway.url(path)).limit(PATIENCE);
    client.set_session(session);
    client
}

async fn status(client: &McpClient) -> (u16, Value) {
    let answer = client.request("ping", json!({})).await.unwrap();
    (answer.status, answer.error())
}

#[tokio::test]
async fn a_session_is_sealed_and_bound_to_its_path() {
    let (_server, gateway) = start("").await;
    for path in ["/mcp", "/mcp/few", "/servers/a/mcp"] {
        for revision in LEGACY {
            let client = gateway.legacy(path, revision).await;
            let id = client.session().unwrap();
            assert!(id.len() >= 40 && id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{id}");
            assert_eq!(with_session(&gateway, path, Some(&id)).result("ping", json!({})).await.unwrap(), json!({}));
            for other in ["/mcp", "/mcp/few", "/servers/a/mcp", "/servers/b/mcp"].iter().filter(|other| **other != path)
            {
                let (status, error) = status(&with_session(&gateway, other, Some(&id))).await;
                assert_eq!(status, 404, "{path} on {other}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn unknown_and_forged_sessions_look_alike_and_a_missing_one_is_another_mistake() {
    let (_server, gateway) = start("").await;
    let (_other_server, other) = start("").await;
    let id = gateway.legacy("/mcp", NEWEST_LEGACY).await.session().unwrap();
    let foreign = other.legacy("/mcp", NEWEST_LEGACY).await.session().unwrap();
    let flip = |at: usize| {
        let mut bytes = id.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let forged = [
        flip(0),
        flip(id.len() / 2),
        flip(id.len() - 2),
        id[..id.len() - 1].to_owned(),
        format!("{id}A"),
        id.to_uppercase(),
        foreign,
        "session-1".to_owned(),
        "A".repeat(5_000),
        "../../etc/passwd".to_owned(),
    ];
    let mut messages = Vec::new();
    for forged in forged {
        let client = with_session(&gateway, "/mcp", Some(&forged));
        let (status, error) = status(&client).await;
        assert_eq!(status, 404, "{forged}: {error}");
        assert!(!error.to_string().contains(&forged[..forged.len().min(20)]), "the id is not repeated: {error}");
        messages.push(error["message"].as_str().unwrap().to_owned());
        assert_eq!(client.open_get(None).await.unwrap().status, 404);
        assert_eq!(client.delete().await.unwrap().status, 404);
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
    let code = messages[0].rsplit_once("(FL-").unwrap().1.trim_end_matches(')');
    gateway.logged(&format!("FL-{code}")).await;
    let (missing, error) = status(&with_session(&gateway, "/mcp", None)).await;
    assert_eq!(missing, 400, "{error}");
    assert!(error["message"].as_str().unwrap().contains("initialize"), "{error}");
    for method in [Method::GET, Method::DELETE] {
        let client = with_session(&gateway, "/mcp", None);
        let answer = client.raw(method, "", &[("accept", "text/event-stream")]).await.unwrap();
        assert_eq!(answer.status, 400);
    }
    // Two ids at once are nobody's.
    let client = with_session(&gateway, "/mcp", None);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let answer = client.post_raw(ping, &[("mcp-session-id", &id), ("mcp-session-id", &id)]).await.unwrap();
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn the_version_header_may_be_missing_but_not_wrong() {
    let (_server, gateway) = start("").await;
    for revision in LEGACY {
        let client = gateway.legacy("/mcp", revision).await;
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        for (version, status) in [("", 200), (revision, 200), ("1999-01-01", 400), ("latest", 400), ("2025-11-26", 400)]
        {
            let answer = client.post_raw(ping, &[("mcp-protocol-version", version)]).await.unwrap();
            assert_eq!(answer.status, status, "{revision}, {version}: {}", answer.error());
            if status == 400 {
                let supported = answer.error()["data"]["supported"].to_string();
                assert!(LEGACY.iter().all(|revision| supported.contains(revision)), "{}", answer.error());
            }
        }
        // The session goes on.
        assert!(client.result("tools/list", json!({})).await.is_ok());
    }
}

#[tokio::test]
async fn a_missing_initialized_wedges_nothing() {
    let (_server, gateway) = start("").await;
    let client = McpClient::new(&gateway.url("/mcp")).limit(PATIENCE);
    client.initialize_only(NEWEST_LEGACY).await.unwrap();
    assert!(client.call("a__tool_0", json!({})).await.is_ok());
}

#[tokio::test]
async fn delete_ends_a_session_for_good_also_after_a_restart() {
    let (_server, mut gateway) = start("").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let other = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let (ended, kept) = (client.session().unwrap(), other.session().unwrap());
    let mut stream = client.open_get(None).await.unwrap();
    let waiting = client.clone();
    let call = tokio::spawn(async move { waiting.request("tools/call", json!({"name": "a__waits"})).await });
    let in_flight =
        async || get(&gateway.admin_url("/metrics")).await.1.contains("fairlead_calls_in_flight 1").then_some(());
    eventually_some(PATIENCE, "the call in flight", in_flight).await;
    let answer = client.delete().await.unwrap();
    assert!([200, 204].contains(&answer.status), "{}", answer.status);
    // What it had open ends with it.
    let ended_stream = async { while let Ok(Some(_)) = stream.next(PATIENCE).await {} };
    tokio::time::timeout(relaxed(3 * SECOND), ended_stream).await.expect("the GET stream ends");
    tokio::time::timeout(relaxed(3 * SECOND), call).await.expect("the call ends").unwrap().ok();
    for _ in 0..2 {
        let client = with_session(&gateway, "/mcp", Some(&ended));
        assert_eq!(status(&client).await.0, 404);
        assert_eq!(client.open_get(None).await.unwrap().status, 404);
        assert_eq!(client.delete().await.unwrap().status, 404);
        assert_eq!(status(&with_session(&gateway, "/mcp", Some(&kept))).await.0, 200);
        gateway.stop().await;
        gateway.restart().await;
    }
}

#[tokio::test]
async fn a_session_survives_a_kill_with_what_it_had_asked_for() {
    let (server, mut gateway) = start("").await;
    let client = McpClient::new(&gateway.url("/mcp"))
        .limit(PATIENCE)
        .capabilities(json!({"sampling": {}}))
        .answering(|_, _| Reply::Result(json!({})));
    client.initialize(NEWEST_LEGACY).await.unwrap();
    client.result("logging/setLevel", json!({"level": "error"})).await.unwrap();
    client.list("resources/list", "resources").await.unwrap();
    client.result("resources/subscribe", json!({"uri": "test://resource/1"})).await.unwrap();
    let before = client.list("tools/list", "tools").await.unwrap();
    assert!(before.iter().any(|tool| tool["name"] == "a__draws"), "{before:?}");
    let id = client.session().unwrap();
    gateway.stored().await;
    gateway.kill().await;
    server.clear_received();
    gateway.restart().await;
    let client = with_session(&gateway, "/mcp", Some(&id));
    let after = client.list("tools/list", "tools").await.unwrap();
    // Those of before the crash may still be marked as such.
    let names = |tools: &[Value]| tools.iter().map(|tool| tool["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before), "the same capabilities show the same tools");
    let answer = client.request("tools/call", json!({"name": "a__logs", "arguments": {}})).await.unwrap();
    let levels: Vec<_> = answer
        .notifications("notifications/message")
        .iter()
        .map(|message| message["params"]["level"].clone())
        .collect();
    assert_eq!(levels, ["error"]);
    let mut stream = client.open_get(None).await.unwrap();
    let subscribed = || server.received_method("resources/subscribe").len() == 1;
    eventually(PATIENCE, "the subscription is made again on the new session with the server", subscribed).await;
    server.notify("notifications/resources/updated", &json!({"uri": "test://resource/1"})).await;
    let told = stream.next_method("notifications/resources/updated", relaxed(2 * SECOND)).await.unwrap();
    assert_eq!(told["params"]["uri"], "test://resource/1");
}

#[tokio::test]
async fn an_idle_session_leaves_the_memory_and_not_the_client() {
    let (_server, gateway) = start("sessions: { idle: 1s }").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(gateway.legacy("/mcp", NEWEST_LEGACY).await);
    }
    let listening = clients[0].open_get(None).await.unwrap();
    let metrics = async || get(&gateway.admin_url("/metrics")).await.1;
    assert!(metrics().await.contains("fairlead_sessions 20\n"), "{}", metrics().await);
    let swept = async || metrics().await.contains("fairlead_sessions 1\n").then_some(());
    eventually_some(Duration::from_secs(40), "only the session with a stream is in memory", swept).await;
    for client in &clients {
        assert!(client.call("a__tool_0", json!({})).await.is_ok());
    }
    drop(listening);
}

#[tokio::test]
async fn a_session_ends_with_its_age() {
    let (_server, gateway) = start("sessions: { max_age: 2s }").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let start = Instant::now();
    assert_eq!(status(&client).await.0, 200);
    let expired = async || (status(&client).await.0 == 404).then_some(());
    eventually_some(PATIENCE, "the end of the session", expired).await;
    assert!(start.elapsed() > SECOND, "{:?}", start.elapsed());
    client.initialize(NEWEST_LEGACY).await.unwrap();
    assert_eq!(status(&client).await.0, 200);
}

#[tokio::test]
async fn modern_clients_have_no_sessions_streams_or_deletes() {
    let (_server, gateway) = start("").await;
    for path in ["/mcp", "/servers/a/mcp"] {
        let client = gateway.modern(path);
        let answer = client.request("tools/list", json!({})).await.unwrap();
        assert!(answer.header("mcp-session-id").is_none());
        assert_eq!(client.open_get(None).await.unwrap().status, 405, "{path}");
        assert_eq!(client.delete().await.unwrap().status, 405, "{path}");
        // A stale session id is none of its business.
        let stale = gateway.modern(path);
        stale.set_session(Some("stale"));
        assert!(stale.result("tools/list", json!({})).await.is_ok(), "{path}");
    }
}

#[tokio::test]
async fn the_key_and_the_socket_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_server, gateway) = start("").await;
    for entry in std::fs::read_dir(gateway.data_dir()).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
    }
    let mode = std::fs::metadata(gateway.data_dir()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
}

#[tokio::test]
async fn sessions_with_servers_are_shared_as_configured() {
    for (share, expected) in [("auto", 1), ("shared", 1), ("per_tenant", 1), ("per_user", 1), ("per_session", 4)] {
        let server = ScriptedServer::start(script()).await;
        let yaml = format!("servers:\n  a: {{ url: \"{}\", share: {share} }}\n", server.url());
        let gateway = Gateway::start(&yaml).await;
        for _ in 0..4 {
            let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
            for _ in 0..2 {
                assert!(client.call("a__tool_0", json!({})).await.is_ok(), "{share}");
            }
        }
        let calls = server.received_method("tools/call");
        let mut used: Vec<_> =
            calls.iter().filter_map(|call| call.header("mcp-session-id").map(str::to_owned)).collect();
        used.sort();
        used.dedup();
        assert_eq!(used.len(), expected, "{share}");
    }
    let server = ScriptedServer::start(script()).await;
    let yaml = format!("servers:\n  a: {{ url: \"{}\", share: per_session, max_sessions: 2 }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    let busy = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    // The gateway's own session, which learned the lists, makes room.
    busy.list("tools/list", "tools").await.unwrap();
    let mut calls = Vec::new();
    for _ in 0..2 {
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        calls.push(tokio::spawn(async move { client.request("tools/call", json!({"name": "a__waits"})).await }));
    }
    eventually(PATIENCE, "two calls in flight", || server.received_method("tools/call").len() == 2).await;
    let refused = busy.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap().error();
    assert!(refused["message"].as_str().unwrap().contains("FL-1305"), "{refused}");
    for call in calls {
        call.abort();
    }
}

#[tokio::test]
async fn http_2_carries_sessions_and_streams_on_one_connection() {
    use http_body_util::{BodyExt as _, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (_server, gateway) = start("").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<bytes::Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let calls = (0..20_u64).map(|number| {
        let mut sender = sender.clone();
        let call = json!({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "a__logs", "arguments": {"n": number}}});
        let request = http::Request::post(gateway.url("/mcp"))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-session-id", client.session().unwrap())
            .body(Full::from(call.to_string()))
            .unwrap();
        tokio::spawn(async move {
            let response = sender.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (number, status, String::from_utf8_lossy(&body).into_owned())
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let (number, status, body) = tokio::time::timeout(PATIENCE, call).await.unwrap().unwrap();
        assert_eq!(status, 200, "{body}");
        assert!(body.contains(&format!("\"n\":{number}}}")) && body.contains("notifications/message"), "{body}");
    }
    connection.abort();
}
