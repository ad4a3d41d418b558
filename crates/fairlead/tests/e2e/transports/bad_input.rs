//! What must not go wrong on connections that carry messages both ways, whatever the client does.

use std::time::Duration;

use fairlead_testkit::{AnyClient, McpClient, Said, Script, ScriptedServer, ToolScript, WebSocket};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{SSE, WS_LEGACY, WS_MODERN};
use crate::support::{Gateway, MODERN, PATIENCE, SECOND, eventually, eventually_some, get};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

/// A gateway before one legacy server, with more lines under `listen`.
async fn gateway(script: Script, listen: &str) -> (ScriptedServer, Gateway) {
    let server = ScriptedServer::start(script).await;
    let yaml =
        format!("listen: {{ address: \"127.0.0.1:0\"{listen} }}\nservers:\n  web: {{ url: \"{}\" }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    (server, gateway)
}

async fn next(socket: &mut WebSocket) -> Said {
    tokio::time::timeout(PATIENCE, socket.next()).await.expect("a word from the gateway")
}

async fn text(socket: &mut WebSocket) -> Value {
    match next(socket).await {
        Said::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("no text: {other:?}"),
    }
}

/// The next message that is no notification: a session may be told at any time that a list changed.
async fn answer(socket: &mut WebSocket) -> Value {
    loop {
        let message = text(socket).await;
        if message.get("method").is_none() {
            return message;
        }
    }
}

async fn open(gateway: &Gateway) -> WebSocket {
    WebSocket::open(&gateway.url("/ws"), &[]).await.unwrap().unwrap_or_else(|status| panic!("refused: {status}"))
}

#[tokio::test]
async fn the_handshake_of_a_web_socket_is_checked_as_every_request() {
    let (_server, gateway) = gateway(Script::legacy(), "").await;
    let url = gateway.url("/ws");
    for (why, headers, status) in [
        ("a foreign origin", vec![("origin", "https://evil.example.com")], 403),
        ("no origin at all", vec![("origin", "null")], 403),
        ("a foreign host", vec![("host", "evil.example.com")], 403),
        ("another version of the protocol", vec![("sec-websocket-version", "8")], 426),
    ] {
        let refused = WebSocket::open(&url, &headers).await.unwrap().map(|_| "open");
        assert_eq!(refused, Err(status), "{why}");
    }
    let (status, body) = get(&url).await;
    assert_eq!(status, 426, "{body}");
    assert!(body.contains("FL-1011"), "{body}");
    for path in ["/mcp/ws", "/mcp/none/ws", "/servers/none/ws", "/servers/web/mcp/ws", "/ws/", "/servers/web/ws/x"] {
        let refused = WebSocket::open(&gateway.url(path), &[]).await.unwrap().map(|_| "open");
        assert_eq!(refused, Err(404), "{path}");
    }
    for (offered, agreed) in [("mcp", Some("mcp")), ("other, mcp", Some("mcp"))] {
        let socket = WebSocket::open(&url, &[("sec-websocket-protocol", offered)]).await.unwrap();
        assert_eq!(socket.map(|socket| socket.subprotocol.clone()), Ok(agreed.map(str::to_owned)), "{offered}");
    }
    let origin = [("origin", "http://localhost:3000")];
    assert!(WebSocket::open(&url, &origin).await.unwrap().is_ok_and(|socket| socket.subprotocol.is_none()));
}

#[tokio::test]
async fn what_is_no_message_is_answered_and_what_is_no_text_closes_the_web_socket() {
    let (_server, gateway) = gateway(Script::legacy(), ", max_body: 64KiB").await;
    let mut socket = open(&gateway).await;
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    for (sent, code) in [
        ("", -32700),
        ("{", -32700),
        ("nonsense", -32700),
        ("[]", -32600),
        ("7", -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (deep.as_str(), -32600),
    ] {
        socket.send(sent).await.unwrap();
        let answer = text(&mut socket).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(code)), "{sent:.40}: {answer}");
    }
    // What nobody waits for is passed over: an answer to no question, a notification without a session.
    socket.send(r#"{"jsonrpc":"2.0","id":5,"result":{}}"#).await.unwrap();
    socket.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await.unwrap();
    // A request needs a session, and an `initialize` opens it here and now.
    let list = r#"{"jsonrpc":"2.0","id":"l","method":"tools/list"}"#;
    socket.send(list).await.unwrap();
    let refused = text(&mut socket).await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("l"), &json!(-32600)), "{refused}");
    socket.send(INITIALIZE).await.unwrap();
    assert_eq!(answer(&mut socket).await["result"]["protocolVersion"], "2025-11-25");
    socket.send(list).await.unwrap();
    assert!(answer(&mut socket).await["result"]["tools"].is_array());
    // A batch is what its session's revision says.
    socket.send(&format!("[{list}]")).await.unwrap();
    assert_eq!(answer(&mut socket).await["error"]["code"], -32600);

    socket.send_binary(b"{}").await.unwrap();
    assert_eq!(next(&mut socket).await, Said::Close(1003, "messages are text frames".to_owned()));

    let mut socket = open(&gateway).await;
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#, "x".repeat(1 << 20));
    // The gateway may close before everything is sent.
    let _ = socket.send(&large).await;
    match next(&mut socket).await {
        Said::Close(1009, reason) => assert!(reason.contains("FL-1003"), "{reason}"),
        other => panic!("{other:?}"),
    }
    is_zero(&gateway, "fairlead_sessions").await;
}

#[tokio::test]
async fn batches_are_answered_on_connections_of_their_revision() {
    let (_server, gateway) = gateway(Script::legacy(), "").await;
    for client in [&SSE, &WS_LEGACY] {
        let connected = client.connect(&gateway, "/servers/web/mcp", "2025-03-26").await;
        let one = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "tool_0", "arguments": {"id": id}}});
        connected.send(&json!([one(1), {"jsonrpc": "2.0", "method": "notifications/nothing"}, one(2)])).await.unwrap();
        let answers = connected.hear(PATIENCE, Value::is_array).await.unwrap();
        assert_eq!(answers.as_array().map(Vec::len), Some(2), "{answers}");
        for answer in answers.as_array().unwrap() {
            assert_eq!(answer["result"]["structuredContent"]["arguments"]["id"], answer["id"], "{answers}");
        }
    }
}

#[tokio::test]
async fn a_web_socket_that_never_reads_is_closed_and_what_it_holds_is_bounded() {
    let big = format!(r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#, "x".repeat(1 << 20));
    let script = Script::legacy().tool(ToolScript::new("big").result(&big));
    let (_server, gateway) = gateway(script, ", ws_ping: 1s").await;
    let before = gateway.resident_bytes();
    // A socket of our own: nothing is ever read from it, pings and close frames included.
    let mut raw = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    let upgrade = format!(
        "GET /servers/web/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        gateway.address()
    );
    raw.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = [0_u8; 12];
    raw.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "big", "arguments": {},
        "_meta": {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}}})
    .to_string();
    let mut frame = vec![0x81, 0xfe];
    frame.extend(u16::try_from(call.len()).unwrap().to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(call.as_bytes());
    for _ in 0..300 {
        // In the end nothing more is taken: it waits for its client as its client does for it.
        if !matches!(tokio::time::timeout(SECOND, raw.write_all(&frame)).await, Ok(Ok(()))) {
            break;
        }
    }
    gateway.logged("does not read what it is told").await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "grown by {grown} bytes");
    is_zero(&gateway, "fairlead_calls_in_flight").await;
}

/// Waits until a gauge is zero.
async fn is_zero(gateway: &Gateway, gauge: &str) {
    let line = format!("{gauge} 0");
    eventually_some(PATIENCE, &format!("`{line}`"), async || {
        let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
        metrics.lines().any(|other| other == line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_web_socket_that_answers_no_ping_is_closed_and_one_that_does_stays() {
    let (_server, gateway) = gateway(Script::legacy(), ", ws_ping: 3s").await;
    let mut deaf = open(&gateway).await;
    let mut alive = open(&gateway).await;
    deaf.send(INITIALIZE).await.unwrap();
    alive.send(INITIALIZE).await.unwrap();
    answer(&mut deaf).await;
    answer(&mut alive).await;
    // Reading is what answers pings; that a list changed may be told meanwhile.
    let quiet = async { while let Said::Text(_) = alive.next().await {} };
    let quiet = tokio::time::timeout(7 * SECOND, quiet).await;
    assert!(quiet.is_err(), "a client that answers pings was closed");
    alive.send(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#).await.unwrap();
    assert_eq!(answer(&mut alive).await, json!({"jsonrpc": "2.0", "id": 2, "result": {}}));
    gateway.logged("did not answer a ping").await;
    let gone = async { while let Said::Text(_) = deaf.next().await {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the end of the connection");
}

#[tokio::test]
async fn a_token_is_of_use_on_its_own_stream_alone() {
    let (server, gateway) = gateway(Script::legacy(), ", max_body: 64KiB").await;
    let mut streams = Vec::new();
    for path in ["/sse", "/sse", "/servers/web/sse"] {
        let client = McpClient::new(&gateway.url(path)).limit(PATIENCE);
        let mut stream = client.open_get(None).await.unwrap();
        let first = stream.next(PATIENCE).await.unwrap().unwrap();
        assert_eq!(first.event.as_deref(), Some("endpoint"));
        let post = String::from_utf8(first.data.to_vec()).unwrap();
        assert!(post.starts_with(&path.replace("sse", "messages?sessionId=")), "{post}");
        streams.push((stream, post));
    }
    let post = |path: String| {
        let client = McpClient::new(&gateway.url(&path)).limit(PATIENCE);
        async move { client.post_raw(INITIALIZE, &[]).await.unwrap().status }
    };
    let token = |at: usize| streams[at].1.split_once('=').unwrap().1.to_owned();
    let mut forged = token(0).into_bytes();
    forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for (why, path, status) in [
        ("no token", "/messages".to_owned(), 400),
        ("another name", format!("/messages?session={}", token(0)), 400),
        ("two tokens", format!("/messages?sessionId={0}&sessionId={0}", token(0)), 400),
        ("an empty token", "/messages?sessionId=".to_owned(), 404),
        ("junk", "/messages?sessionId=abc".to_owned(), 404),
        ("a changed token", format!("/messages?sessionId={forged}"), 404),
        ("the token of another path", format!("/messages?sessionId={}", token(2)), 404),
        ("on another path", format!("/servers/web/messages?sessionId={}", token(0)), 404),
        ("its own", format!("/messages?sessionId={}", token(0)), 202),
    ] {
        assert_eq!(post(path).await, status, "{why}");
    }
    let answer = streams[0].0.next(PATIENCE).await.unwrap().unwrap();
    assert_eq!((answer.event.as_deref(), &answer.json()["id"]), (Some("message"), &json!(1)));
    let nothing = streams[1].0.next(Duration::from_millis(300)).await;
    assert!(nothing.is_err(), "what one stream is told another hears: {nothing:?}");

    // What is wrong with a message is said where it is posted.
    let url = gateway.url(&streams[1].1);
    let client = McpClient::new(&url).limit(PATIENCE);
    let large = "x".repeat(1 << 17);
    for (why, body, headers, status) in [
        ("not JSON", "{", vec![], 400),
        ("not JSON-RPC", "{}", vec![], 400),
        ("too large", large.as_str(), vec![], 413),
        ("another type", INITIALIZE, vec![("content-type", "text/plain")], 406),
        ("a foreign origin", INITIALIZE, vec![("origin", "https://evil.example.com")], 403),
    ] {
        assert_eq!(client.post_raw(body.to_owned(), &headers).await.unwrap().status, status, "{why}");
    }
    for (method, path) in
        [(http::Method::POST, "/sse"), (http::Method::GET, "/messages"), (http::Method::DELETE, "/sse")]
    {
        let client = McpClient::new(&gateway.url(path)).limit(PATIENCE);
        let status = client.raw(method.clone(), "{}", &[]).await.unwrap().status;
        assert_eq!(status, 405, "{method} {path}");
    }
    // With the stream goes what could be posted to it.
    let (stream, gone) = streams.remove(0);
    stream.vanish();
    eventually_some(PATIENCE, "the token of a stream that is gone is unknown", async || {
        (post(gone.clone()).await == 404).then_some(())
    })
    .await;
    drop(server);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_session_and_its_calls() {
    let script =
        Script::legacy().tool(ToolScript::new("waits").sleep(60_000)).tool(ToolScript::new("aloud").progress(600, 100));
    let (server, gateway) = gateway(script, "").await;
    for (client, version) in [(&SSE, "2024-11-05"), (&WS_LEGACY, "2025-11-25"), (&WS_MODERN, MODERN)] {
        for tool in ["waits", "aloud"] {
            server.clear_received();
            let before = server.cancelled().len();
            let connected: AnyClient = client.connect(&gateway, "/mcp", version).await;
            connected.result("tools/list", json!({})).await.unwrap();
            let params = json!({"name": format!("web__{tool}"), "arguments": {}, "_meta": {"progressToken": 1}});
            connected.start("tools/call", params).await.unwrap();
            eventually(PATIENCE, "the call", || !server.received_method("tools/call").is_empty()).await;
            if tool == "aloud" {
                connected.hear(PATIENCE, |message| message["method"] == "notifications/progress").await.unwrap();
            }
            drop(connected);
            let what = format!("{version} {tool}: the cancellation of a call nobody waits for");
            eventually(PATIENCE, &what, || server.cancelled().len() > before).await;
        }
    }
    for gauge in ["fairlead_sessions", "fairlead_streams", "fairlead_calls_in_flight"] {
        is_zero(&gateway, gauge).await;
    }
}

#[tokio::test]
async fn a_drain_lets_calls_finish_and_then_says_goodbye() {
    let script = Script::legacy().tool(ToolScript::new("slow").sleep(1_500));
    let (server, mut gateway) = gateway(script, "").await;
    let idle = WS_MODERN.connect(&gateway, "/mcp", MODERN).await;
    let mut calling = Vec::new();
    for (client, version) in [(&SSE, "2024-11-05"), (&WS_LEGACY, "2025-11-25"), (&WS_MODERN, MODERN)] {
        let client = client.connect(&gateway, "/servers/web/mcp", version).await;
        let id = client.start("tools/call", json!({"name": "slow", "arguments": {}})).await.unwrap();
        calling.push((client, id));
    }
    eventually(PATIENCE, "the calls", || server.received_method("tools/call").len() == 3).await;
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    let closed = |message: &Value| message["closed"] == 1001;
    idle.hear(PATIENCE, closed).await.unwrap();
    for (client, id) in &calling {
        let answer = client.answer(id).await.unwrap();
        assert_eq!(answer["result"]["structuredContent"]["tool"], "slow", "{answer}");
    }
    for (client, _) in &calling[1..] {
        client.hear(PATIENCE, closed).await.unwrap();
    }
    assert_eq!(gateway.ended(PATIENCE).await, Some(0));
}
