//! Bounds: what is over a limit is refused with its name, and whoever does not read waits alone.

use std::time::{Duration, Instant};

use fairlead_testkit::{
    Answer, AnyClient, AnyClientOptions, Finish, Garbage, McpClient, Reply, Script, ScriptedServer, Step, ToolScript,
    Way,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Gateway, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually_some, gate::Gate, relaxed, rows,
};

/// What a client that does not read may cost.
const ALLOWED: u64 = 36 * 1024 * 1024;

fn message(answer: &Answer) -> String {
    answer.error()["message"].as_str().unwrap_or_default().to_owned()
}

fn lingering(gate: &Gate) -> Script {
    Script::legacy().tool(gate.tool("linger"))
}

async fn one(limits: &str, of_server: &str, server: &ScriptedServer) -> Gateway {
    let gateway =
        Gateway::start(&format!("{limits}\nservers:\n  a: {{ url: \"{}\"{of_server} }}\n", server.url())).await;
    rows::until_listed(&gateway, "a").await;
    gateway
}

/// Begins a call that waits at the gate, and waits until the gateway has `in_flight` of them.
async fn begin(
    gateway: &Gateway,
    client: &McpClient,
    in_flight: u64,
) -> tokio::task::JoinHandle<anyhow::Result<serde_json::Value>> {
    let client = client.clone();
    let call = tokio::spawn(async move { client.call("a__linger", json!({})).await });
    rows::until(gateway, "a", PATIENCE, "in flight", |row| row["calls"] == in_flight).await;
    call
}

#[tokio::test]
async fn calls_of_a_session_are_bounded() {
    let gate = Gate::new();
    let server = ScriptedServer::start(lingering(&gate)).await;
    let gateway = one("sessions: { max_calls: 2 }", "", &server).await;
    let (greedy, other) = (gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.legacy("/mcp", NEWEST_LEGACY).await);
    let calls = [begin(&gateway, &greedy, 1).await, begin(&gateway, &greedy, 2).await];
    let answer = greedy.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap();
    assert_eq!(answer.status, 429, "{:?}", answer.body);
    assert!(message(&answer).contains("FL-1109") && message(&answer).contains("max_calls"), "{}", message(&answer));
    other.call("a__tool_0", json!({})).await.expect("others are not concerned");
    gate.open();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    greedy.call("a__tool_0", json!({})).await.unwrap();
}

#[tokio::test]
async fn calls_to_a_server_are_bounded() {
    let gate = Gate::new();
    let server = ScriptedServer::start(lingering(&gate)).await;
    let free = ScriptedServer::start(Script::legacy()).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  a: {{ url: \"{}\", max_calls: 2 }}\n  b: {{ url: \"{}\" }}\n",
        server.url(),
        free.url()
    ))
    .await;
    rows::until_listed(&gateway, "a").await;
    rows::until_listed(&gateway, "b").await;
    let client = gateway.modern("/mcp");
    let calls = [begin(&gateway, &client, 1).await, begin(&gateway, &client, 2).await];
    let start = Instant::now();
    let answer = client.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap();
    assert!(message(&answer).contains("FL-1305") && message(&answer).contains("was not made"), "{}", message(&answer));
    assert!(start.elapsed() < relaxed(SECOND));
    client.call("b__tool_0", json!({})).await.unwrap();
    gate.open();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    client.call("a__tool_0", json!({})).await.unwrap();
}

#[tokio::test]
async fn an_answer_over_the_limit_fails_its_own_call_and_at_once() {
    let script = Script::legacy()
        .tool(ToolScript::new("huge").finish(Finish::Garbage(Garbage::Huge(3 << 20))))
        .tool(ToolScript::new("large").result(&format!(r#"{{"content":[],"filling":"{}"}}"#, "x".repeat(30_000))));
    let remote = ScriptedServer::start(script.clone()).await;
    let streaming = ScriptedServer::start(script.clone().sse()).await;
    let local = StdioServer::new(script);
    let gateway = Gateway::start(&format!(
        "servers:\n  remote: {{ url: \"{}\", max_message: 64KiB }}\n  \
         streaming: {{ url: \"{}\", max_message: 64KiB }}\n  local: {{ {}, max_message: 64KiB }}\n",
        remote.url(),
        streaming.url(),
        local.yaml()
    ))
    .await;
    let client = gateway.modern("/mcp");
    for server in ["remote", "streaming", "local"] {
        rows::until_listed(&gateway, server).await;
        let start = Instant::now();
        let answer = client.request("tools/call", json!({"name": format!("{server}__huge")})).await.unwrap();
        assert!(message(&answer).contains("FL-1307"), "{server}: {}", message(&answer));
        assert!(start.elapsed() < relaxed(SECOND * 2), "{server}: {:?}", start.elapsed());
        let large = client.call(&format!("{server}__large"), json!({})).await.unwrap();
        assert_eq!(large["filling"].as_str().unwrap().len(), 30_000);
    }
    assert_eq!(local.pids().len(), 1, "the process goes on");
    gateway.logged("FL-1307").await;
}

#[tokio::test]
async fn sessions_and_streams_are_bounded() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let gateway = one("sessions: { max: 2, max_streams: 1 }", "", &server).await;
    let first = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let second = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let error = McpClient::new(&gateway.url("/mcp")).initialize(NEWEST_LEGACY).await.unwrap_err();
    assert!(format!("{error:#}").contains("FL-1110") && format!("{error:#}").contains("sessions.max"), "{error:#}");
    let stream = first.open_get(None).await.unwrap();
    assert_eq!(stream.status, 200);
    let refused = second.open_get(None).await.unwrap().finish().await.unwrap();
    assert_eq!(refused.status, 503, "{:?}", refused.body);
    assert!(String::from_utf8_lossy(&refused.body).contains("max_streams"), "{:?}", refused.body);
    // What is given back is free again.
    drop(stream);
    eventually_some(PATIENCE, "a free stream", async || {
        second.open_get(None).await.ok().filter(|stream| stream.status == 200)
    })
    .await;
    first.delete().await.unwrap();
    gateway.legacy("/mcp", NEWEST_LEGACY).await;
    // Whoever has no session is not concerned.
    gateway.modern("/mcp").call("a__tool_0", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_stream_without_a_session_counts_and_one_with_a_session_counts_once() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let gateway = one("sessions: { max_streams: 1 }", "", &server).await;
    let connecting = || async {
        let options = AnyClientOptions {
            way: Way::Sse,
            url: gateway.url("/sse"),
            version: "2024-11-05".to_owned(),
            capabilities: json!({}),
            answering: std::sync::Arc::new(|_, _| Reply::Error(-32601, "never declared".to_owned())),
            trust: None,
        };
        AnyClient::connect(options).await
    };
    // The stream of the connection is the one of its session.
    let client = connecting().await.unwrap();
    assert!(connecting().await.is_err(), "there is one stream");
    drop(client);
    let open = async || {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let request = format!("GET /sse HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", gateway.address());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        (stream, String::from_utf8_lossy(&start).into_owned())
    };
    let is_open = async || Some(open().await).filter(|(_, status)| status == "HTTP/1.1 200");
    let (first, _) = eventually_some(PATIENCE, "a free stream", is_open).await;
    assert_eq!(open().await.1, "HTTP/1.1 503");
    drop(first);
    eventually_some(PATIENCE, "a free stream", is_open).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let gateway = one("workers: 1\nlisten: { address: \"127.0.0.1:0\", max_connections: 4 }", "", &server).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let request = format!("GET /health/live HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.address());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut fifth = TcpStream::connect(gateway.address()).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, fifth.read(&mut [0; 16])).await.expect("it is closed at once");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    gateway.logged("max_connections").await;
    held.pop();
    eventually_some(PATIENCE, "a free connection", async || {
        gateway.modern("/mcp").call("a__tool_0", json!({})).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_stream_costs_a_bounded_queue() {
    const MESSAGES: usize = 1_000;
    let server = ScriptedServer::start(Script::legacy().resources_and_prompts(2, 0)).await;
    let gateway = one("", "", &server).await;
    let deaf = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let listening = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let uri = |n: usize| json!({"uri": format!("test://resource/{n}")});
    deaf.result("resources/subscribe", uri(0)).await.unwrap();
    listening.result("resources/subscribe", uri(1)).await.unwrap();
    let _never_read = deaf.open_get(None).await.unwrap();
    let mut stream = listening.open_get(None).await.unwrap();
    let before = gateway.resident_bytes();
    let filling = "x".repeat(256 * 1024);
    for _ in 0..MESSAGES {
        let params = json!({"uri": "test://resource/0", "_meta": {"filling": filling}});
        server.notify("notifications/resources/updated", &params).await;
    }
    // It comes on the same stream, after all of the others.
    eventually_some(PATIENCE, "the other client is told", async || {
        server.notify("notifications/resources/updated", &uri(1)).await;
        stream.next_method("notifications/resources/updated", SECOND).await.ok()
    })
    .await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    println!("{MESSAGES} messages of 256 KiB that nobody read cost {grown} bytes");
    assert!(grown < ALLOWED, "{grown} bytes");
    deaf.call("a__tool_0", json!({})).await.expect("its calls work all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_call_holds_up_nobody_else() {
    const MESSAGES: usize = 800;
    let filling = "x".repeat(64 * 1024);
    let mut flood = ToolScript::new("flood");
    for _ in 0..MESSAGES {
        flood = flood.step(Step::Log { level: "info".into(), text: filling.clone() });
    }
    let script = Script::legacy().tool(flood);
    let remote = ScriptedServer::start(script.clone()).await;
    let local = StdioServer::new(script);
    let gateway = Gateway::start(&format!(
        "servers:\n  remote: {{ url: \"{}\" }}\n  local: {{ {} }}\n",
        remote.url(),
        local.yaml()
    ))
    .await;
    for server in ["remote", "local"] {
        rows::until_listed(&gateway, server).await;
        let deaf = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        deaf.result("logging/setLevel", json!({"level": "debug"})).await.unwrap();
        let before = gateway.resident_bytes();
        let never_read = deaf.start("tools/call", json!({"name": format!("{server}__flood")})).await.unwrap();
        let client = gateway.modern("/mcp");
        let until = Instant::now() + SECOND * 3;
        while Instant::now() < until {
            let start = Instant::now();
            client.call(&format!("{server}__tool_0"), json!({})).await.unwrap();
            assert!(start.elapsed() < relaxed(SECOND * 2), "{server}: {:?}", start.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let grown = gateway.resident_bytes().saturating_sub(before);
        println!("{server}: a flood that nobody reads cost {grown} bytes");
        assert!(grown < ALLOWED, "{server}: {grown} bytes");
        drop(never_read);
        rows::until(&gateway, server, PATIENCE, "nothing in flight", |row| row["calls"] == 0).await;
    }
}
