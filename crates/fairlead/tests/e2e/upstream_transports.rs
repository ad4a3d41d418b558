//! Servers over HTTP+SSE, WebSocket, TCP and Unix sockets: they work as any other, what breaks comes back, and what
//! should not be trusted is not.

use std::time::{Duration, Instant};

use fairlead_testkit::{
    Answer, Door, DoorScript, FaultProxy, Faults, Finish, Garbage, McpClient, Question, Reply, Script, ScriptedServer,
    StdioScript, Step, ToolScript, Via,
};
use serde_json::{Value, json};

use crate::support::{
    Gateway, MODERN, NEWEST_LEGACY, PATIENCE, SECOND,
    doors::{Doored, Way},
    eventually, eventually_some, relaxed, rows,
};

async fn one(server: &Doored, more: &str) -> Gateway {
    Gateway::start(&format!("servers:\n  a: {{ {}{more} }}\n", server.yaml())).await
}

async fn listed(server: &Doored, more: &str) -> Gateway {
    let gateway = one(server, more).await;
    rows::until_listed(&gateway, "a").await;
    gateway
}

async fn echo(client: &McpClient) -> anyhow::Result<Value> {
    client.call("a__tool_0", json!({"n": 1.50})).await
}

fn refusal(answer: &Answer) -> String {
    answer.error()["message"].as_str().unwrap_or_else(|| panic!("no error: {:?}", answer.body)).to_owned()
}

/// Calls until it works, as a person would.
async fn works_again(what: &str, client: &McpClient) {
    eventually_some(PATIENCE, &format!("{what}: a call works"), async || echo(client).await.ok()).await;
}

/// Why the gateway says it cannot reach the server.
async fn trouble(gateway: &Gateway) -> String {
    let row = rows::until(gateway, "a", PATIENCE, "in trouble", |row| row["error"].is_string()).await;
    row["error"].as_str().unwrap().to_owned()
}

fn script() -> Script {
    Script::legacy()
        .tool(ToolScript::new("works").progress(3, 20))
        .tool(ToolScript::new("waits").progress(1, 10).sleep(30_000))
        .tool(ToolScript::new("asks").ask(Question::Elicitation, Via::Call))
        .tool(ToolScript::new("dies").sleep(50).finish(Finish::Die))
        .tool(ToolScript::new("huge").finish(Finish::Garbage(Garbage::Huge(100_000))))
        .tool(ToolScript::new("babbles").step(Step::Raw { text: "{\"jsonrpc\": nonsense".to_owned() }))
        .resources_and_prompts(1, 1)
}

fn modern(script: Script) -> Script {
    Script { versions: Script::modern().versions, ..script }
}

#[tokio::test]
async fn every_way_carries_everything() {
    for way in Way::ALL {
        for is_modern in [false, true] {
            if is_modern && !way.has_modern() {
                continue;
            }
            let what = format!("{way:?}, modern {is_modern}");
            let script = if is_modern { modern(script()) } else { script() };
            let door = Doored::start(way, script).await;
            let gateway = listed(&door, "").await;
            let row = rows::row(&gateway, "a").await;
            assert_eq!(row["era"], if is_modern { "modern" } else { "legacy" }, "{what}: {row}");
            assert_eq!((row["tools"].as_u64(), row["prompts"].as_u64()), (Some(9), Some(1)), "{what}");
            let client = match is_modern {
                true => gateway.modern("/mcp"),
                false => gateway.legacy("/mcp", NEWEST_LEGACY).await,
            };
            let result = echo(&client).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
            assert_eq!(result["structuredContent"]["arguments"], json!({"n": 1.50}), "{what}");
            let read = client.result("resources/read", json!({"uri": "test://resource/0"})).await.unwrap();
            assert_eq!(read["contents"][0]["text"], "content of test://resource/0", "{what}");

            let params = json!({"name": "a__works", "arguments": {}, "_meta": {"progressToken": "mine"}});
            let answer = client.request("tools/call", params).await.unwrap();
            assert_eq!(answer.notifications("notifications/progress").len(), 3, "{what}: {answer:?}");

            let params = json!({"name": "a__waits", "arguments": {}, "_meta": {"progressToken": 7}});
            let mut waiting = client.start("tools/call", params).await.unwrap();
            waiting.next_method("notifications/progress", PATIENCE).await.unwrap();
            match (is_modern, waiting.id().cloned()) {
                (false, Some(id)) => _ = client.cancel(&id).await.unwrap(),
                _ => waiting.vanish(),
            }
            eventually(PATIENCE, "the server is told of the cancellation", || !door.server.cancelled().is_empty())
                .await;

            if is_modern {
                eventually(PATIENCE, "the gateway listens", || door.server.listeners() > 0).await;
            }
            door.server.change_list().await;
            let more = |row: &Value| row["tools"] == 10;
            rows::until(&gateway, "a", PATIENCE, &format!("{what}: one tool more"), more).await;
        }
    }
}

#[tokio::test]
async fn a_question_reaches_the_one_whose_call_it_is() {
    for way in Way::CONNECTIONS {
        let door = Doored::start(way, script()).await;
        let gateway = listed(&door, "").await;
        let mut asking = Vec::new();
        for name in ["ada", "bob"] {
            let client = McpClient::new(&gateway.url("/mcp"))
                .limit(PATIENCE)
                .capabilities(json!({"elicitation": {"form": {}}}))
                .answering(move |_, _| Reply::Result(json!({"action": "accept", "content": {"name": name}})));
            client.initialize(NEWEST_LEGACY).await.unwrap();
            asking.push((name, client));
        }
        // The first question is one of two calls': it may be declined, and is remembered. From then on each call has
        // a connection to itself.
        let ask = async |client: &McpClient| client.call("a__asks", json!({})).await;
        let _ = tokio::join!(ask(&asking[0].1), ask(&asking[1].1));
        for round in 0..3 {
            let (ada, bob) = tokio::join!(ask(&asking[0].1), ask(&asking[1].1));
            for ((name, _), result) in asking.iter().zip([ada, bob]) {
                let result = result.unwrap_or_else(|error| panic!("{way:?}, round {round}: {error:#}"));
                let said = &result["structuredContent"]["answers"][0]["result"]["content"]["name"];
                assert_eq!(said, name, "{way:?}, round {round}");
            }
        }
    }
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    for way in Way::ALL {
        for script in [script(), modern(script())] {
            if !way.has_modern() && script.versions == Script::modern().versions {
                continue;
            }
            let mut door = Doored::start(way, script).await;
            let gateway = listed(&door, "").await;
            let client = gateway.modern("/mcp");
            echo(&client).await.unwrap_or_else(|error| panic!("{way:?}: {error:#}"));
            door.server.stop().await;
            let answer = client.request("tools/call", json!({"name": "a__tool_0", "arguments": {}})).await.unwrap();
            let said = refusal(&answer);
            assert!(said.contains("FL-1301") || said.contains("FL-1303"), "{way:?}: {said}");
            door.server.resume().await.unwrap();
            works_again(&format!("{way:?}"), &client).await;
        }
    }
}

#[tokio::test]
async fn a_call_on_a_connection_that_breaks_is_made_once_and_its_outcome_is_unknown() {
    for way in Way::CONNECTIONS {
        let door = Doored::start(way, script()).await;
        let gateway = listed(&door, "").await;
        let client = gateway.modern("/mcp");
        let answer = client.request("tools/call", json!({"name": "a__dies", "arguments": {}})).await.unwrap();
        let said = refusal(&answer);
        assert!(said.contains("FL-1303") && said.contains("took effect is unknown"), "{way:?}: {said}");
        let calls = door.server.received_method("tools/call");
        assert_eq!(calls.len(), 1, "{way:?}");
        works_again(&format!("{way:?}"), &client).await;
    }
}

#[tokio::test]
async fn an_http_sse_server_is_found_out_once() {
    let mut door = Doored::start(Way::DetectedSse, script()).await;
    let mut gateway = listed(&door, "").await;
    assert!(gateway.log().contains("speaks HTTP+SSE"), "it is said");
    let refused = |door: &Doored| {
        door.server.received().iter().filter(|got| got.http_method == "POST" && got.path == "/sse").count()
    };
    assert_eq!(refused(&door), 2, "`server/discover` and `initialize`");
    door.server.restart().await.unwrap();
    let client = gateway.modern("/mcp");
    works_again("after the restart", &client).await;
    assert_eq!(refused(&door), 2, "it is not tried again");
    // Where nothing is forgotten but the session, no call is lost.
    door.server.forget_sessions();
    works_again("after the session was forgotten", &client).await;
    assert!(gateway.log().contains("forgot the session"));
    // Nor by the next run.
    gateway.stop().await;
    gateway.restart().await;
    works_again("after the gateway was restarted", &gateway.modern("/mcp")).await;
    assert_eq!(refused(&door), 2, "it is remembered");
}

#[tokio::test]
async fn a_transport_that_is_not_spoken_has_a_clear_reason() {
    let streamable = ScriptedServer::start(script()).await;
    let unsaid =
        Doored::start(Way::Sse, script().door(DoorScript { no_endpoint: true, ..DoorScript::default() })).await;
    let elsewhere = streamable.url().replace("/mcp", "/nowhere");
    let http = streamable.address();
    for (yaml, reasons) in [
        (
            format!("url: \"{}\", transport: sse", streamable.url()),
            &["does not speak HTTP+SSE", "HTTP 400", "without `transport: sse`"][..],
        ),
        (unsaid.yaml(), &["does not speak HTTP+SSE", "names no `endpoint`"]),
        (format!("url: \"{elsewhere}\""), &["HTTP 404"]),
        (format!("url: \"{}\", transport: streamable-http", streamable.sse_url()), &["HTTP 405"]),
        (format!("url: \"ws://{http}/mcp\""), &["the WebSocket handshake with HTTP 400"]),
        (format!("url: \"wss://{http}/ws\""), &["no TLS can be agreed on"]),
        ("tcp: \"127.0.0.1:1\"".to_owned(), &["cannot be reached"]),
        ("unix: /nowhere/x.sock".to_owned(), &["cannot be reached"]),
    ] {
        let gateway = Gateway::start(&format!("servers:\n  a: {{ {yaml} }}\n")).await;
        let said = trouble(&gateway).await;
        for reason in reasons {
            assert!(said.contains(reason), "{yaml}: {said}");
        }
        let shown = gateway.cli(&["servers"]).await;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("down"), "{yaml}: {shown}");
    }
}

#[tokio::test]
async fn an_endpoint_elsewhere_is_not_used() {
    let other = ScriptedServer::start(Script::legacy()).await;
    let other_origin = format!("http://{}/messages", other.address());
    for endpoint in [other_origin.clone(), other_origin.replace("http:", ""), "file:///etc/passwd".to_owned()] {
        let script = script().door(DoorScript { endpoint: Some(endpoint.clone()), ..DoorScript::default() });
        let door = Doored::start(Way::Sse, script).await;
        let gateway = one(&door, ", headers: { X-Api-Key: hunter2 }").await;
        let said = trouble(&gateway).await;
        assert!(said.contains("of another origin than its URL"), "{endpoint}: {said}");
        assert!(!gateway.log().contains("hunter2"));
    }
    assert_eq!(other.connections_accepted(), 0, "nothing was sent there");
    // A whole URL of the same origin is fine.
    let door = Doored::start(Way::Sse, script()).await;
    let at = door.server.address();
    door.server.change(|script| script.door.endpoint = Some(format!("http://{at}/messages?session=none")));
    let gateway = one(&door, "").await;
    eventually(PATIENCE, "a message is posted there", || {
        door.server.received().iter().any(|got| got.path == "/messages?session=none")
    })
    .await;
    drop(gateway);
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_call_at_once() {
    for way in Way::CONNECTIONS {
        let door = Doored::start(way, script()).await;
        let gateway = listed(&door, ", max_message: 16KiB").await;
        let client = gateway.modern("/mcp");
        let before = Instant::now();
        let answer = client.request("tools/call", json!({"name": "a__huge", "arguments": {}})).await.unwrap();
        let said = refusal(&answer);
        assert!(said.contains("larger than `max_message`"), "{way:?}: {said}");
        assert!(before.elapsed() < relaxed(Duration::from_secs(5)), "{way:?}");
        works_again(&format!("{way:?}"), &client).await;
    }
}

#[tokio::test]
async fn what_is_no_message_is_counted_and_nothing_else() {
    let noise = ["GET / HTTP/1.1", "\u{1}\u{2}[[[[", "{\"id\":"].map(str::to_owned).to_vec();
    for way in [Way::WebSocket, Way::Tcp, Way::Unix] {
        let noisy = StdioScript { noise: noise.clone(), ..StdioScript::default() };
        let door = Doored::start(way, script().stdio(noisy)).await;
        let gateway = listed(&door, "").await;
        let client = gateway.modern("/mcp");
        for _ in 0..20 {
            echo(&client).await.unwrap_or_else(|error| panic!("{way:?}: {error:#}"));
        }
        let result = client.call("a__babbles", json!({})).await;
        assert!(result.is_ok(), "{way:?}: {result:?}");
        assert!(gateway.log().contains("not JSON-RPC"), "{way:?}");
    }
}

#[tokio::test]
async fn binary_frames_are_no_messages() {
    let binary = DoorScript { binary: true, ..DoorScript::default() };
    let door = Doored::start(Way::WebSocket, script().door(binary)).await;
    let gateway = one(&door, "").await;
    let said = trouble(&gateway).await;
    assert!(said.contains("not JSON-RPC"), "{said}");
    assert!(gateway.log().contains("a binary frame"));
    door.server.change(|script| script.door = DoorScript { no_subprotocol: true, ..DoorScript::default() });
    rows::until_listed(&gateway, "a").await;
}

#[tokio::test]
async fn a_server_that_never_reads_holds_up_nobody() {
    for way in [Way::WebSocket, Way::Tcp, Way::Unix] {
        let deaf = DoorScript { deaf: true, ..DoorScript::default() };
        let door = Doored::start(way, script().door(deaf)).await;
        let well = ScriptedServer::start(Script::legacy()).await;
        let gateway = Gateway::start(&format!(
            "servers:\n  a: {{ {}, timeout: {{ start: 1s }} }}\n  b: {{ url: \"{}\" }}\n",
            door.yaml(),
            well.url()
        ))
        .await;
        rows::until_listed(&gateway, "b").await;
        let said = trouble(&gateway).await;
        assert!(said.contains("in time"), "{way:?}: {said}");
        let client = gateway.modern("/mcp");
        client.call("b__tool_0", json!({})).await.unwrap();
        // It comes to its senses.
        door.server.change(|script| script.door = DoorScript::default());
        rows::until_listed(&gateway, "a").await;
        works_again(&format!("{way:?}"), &client).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_half_open_is_found_out_and_replaced() {
    for modern_era in [false, true] {
        let script = if modern_era { modern(script()) } else { script() };
        let server = ScriptedServer::start_at(Door::Tcp, script).await;
        let proxy = FaultProxy::start(server.address()).await;
        let yaml = format!("servers:\n  a: {{ tcp: \"{}\", timeout: {{ idle: 1s }} }}\n", proxy.address());
        let gateway = Gateway::start(&yaml).await;
        rows::until_listed(&gateway, "a").await;
        let client = gateway.modern("/mcp").limit(SECOND * 20);
        echo(&client).await.unwrap();
        let connections = server.connections_accepted();
        proxy.set(Faults { black_hole: true, ..Faults::default() }).await;
        let answer = client.request("tools/call", json!({"name": "a__tool_0", "arguments": {}})).await.unwrap();
        let said = refusal(&answer);
        assert!(said.contains("FL-1302") && said.contains("unknown"), "{said}");
        // The old connection stays in the hole; new ones get through.
        gateway.logged("it does not answer").await;
        proxy.heal().await;
        works_again("after the hole", &client).await;
        assert!(server.connections_accepted() > connections);
    }
}

#[tokio::test]
async fn credentials_are_sent_and_not_shown() {
    let door = Doored::start(Way::WebSocket, script()).await;
    let url = format!("{}?key=hunter2", door.server.ws_url());
    let yaml = format!("servers:\n  a: {{ url: \"{url}\", headers: {{ Authorization: \"Bearer hunter2\" }} }}\n");
    let gateway = Gateway::start(&format!("log: {{ level: trace }}\n{yaml}")).await;
    rows::until_listed(&gateway, "a").await;
    let mut handshakes = door.server.received();
    handshakes.retain(|request| request.http_method == "UPGRADE");
    assert!(!handshakes.is_empty(), "they are sent");
    for sent in handshakes {
        assert_eq!((sent.header("authorization"), &*sent.path), (Some("Bearer hunter2"), "/ws?key=hunter2"));
    }
    assert!(!gateway.log().contains("hunter2"), "a secret is in the log");
    let shown = gateway.cli(&["servers", "--json"]).await;
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("hunter2"));
}

#[tokio::test]
async fn revisions_are_negotiated_on_every_connection() {
    for way in Way::CONNECTIONS {
        for revision in ["2025-03-26", "2024-11-05"] {
            let door = Doored::start(way, Script::speaking(revision)).await;
            let gateway = listed(&door, "").await;
            let row = rows::row(&gateway, "a").await;
            assert_eq!((&row["revision"], &row["era"]), (&json!(revision), &json!("legacy")), "{way:?}");
        }
        let door = Doored::start(way, Script::dual()).await;
        let gateway = listed(&door, "").await;
        let revision = &rows::row(&gateway, "a").await["revision"];
        assert_eq!(revision, if way.has_modern() { MODERN } else { NEWEST_LEGACY }, "{way:?}");
    }
}

#[tokio::test]
async fn a_post_that_is_answered_late_holds_nothing_up() {
    let script = script().door(DoorScript { late_posts: true, ..DoorScript::default() });
    let door = Doored::start(Way::Sse, script).await;
    let gateway = listed(&door, "").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let begin = async || {
        let params = json!({"name": "a__waits", "arguments": {}, "_meta": {"progressToken": 1}});
        let mut waiting = client.start("tools/call", params).await.unwrap();
        waiting.next_method("notifications/progress", PATIENCE).await.unwrap();
        waiting
    };
    let waits = begin().await;
    let start = Instant::now();
    for _ in 0..6 {
        let cancelled = begin().await;
        client.cancel(cancelled.id().unwrap()).await.unwrap();
    }
    eventually(PATIENCE, "the server is told of each cancellation", || door.server.cancelled().len() == 6).await;
    echo(&client).await.unwrap();
    // A second for each cancellation, if it waited for the POST of the call that goes on.
    assert!(start.elapsed() < relaxed(4 * SECOND), "{:?}", start.elapsed());
    drop(waits);
}
