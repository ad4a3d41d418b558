//! Streams that break off, go on, or carry what belongs to no call.

use std::time::{Duration, Instant};

use fairlead_testkit::{Script, ScriptedServer, Step, ToolScript, Via};
use serde_json::{Value, json};

use super::{House, SERVERS, alone};
use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, relaxed};

#[tokio::test]
async fn a_server_that_hangs_up_in_mid_call_is_read_on_where_it_was_left() {
    let tool = ToolScript::new("polls")
        .progress(1, 10)
        .step(Step::HangUp { retry_ms: 50 })
        .sleep(200)
        .progress(2, 10)
        .step(Step::HangUp { retry_ms: 50 })
        .sleep(100);
    let server = ScriptedServer::start(Script::legacy().tool(tool)).await;
    let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    for path in ["/mcp", "/servers/a/mcp"] {
        let name = if path == "/mcp" { "a__polls" } else { "polls" };
        // As the server hangs up, so does the gateway where the client's revision has that.
        let old = gateway.legacy(path, "2025-06-18").await;
        for client in [gateway.legacy(path, NEWEST_LEGACY).await.resuming(), old, gateway.modern(path)] {
            let params = json!({"name": name, "arguments": {"x": 1}, "_meta": {"progressToken": "t"}});
            let answer = client.request("tools/call", params).await.unwrap();
            assert_eq!(answer.result().unwrap()["structuredContent"]["arguments"], json!({"x": 1}), "{path}");
            let progress = answer.notifications("notifications/progress");
            let seen: Vec<_> = progress.iter().map(|report| report["params"]["progress"].clone()).collect();
            assert_eq!(seen, [1, 2, 3], "{path}: each once and in order");
        }
    }
    assert_eq!(server.received_method("tools/call").len(), 6, "a call is resumed, not repeated");
}

#[tokio::test]
async fn unknown_notifications_of_a_call_reach_its_caller_and_nobody_else() {
    let notify = |via| Step::Notify { method: "notifications/acme".to_owned(), params: json!({"x": 1}), via };
    let script = Script::legacy().tool(ToolScript::new("tells").step(notify(Via::Call)).sleep(50));
    let server = ScriptedServer::start(script.clone()).await;
    let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    let other = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut deaf = other.open_get(None).await.unwrap();
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let answer = client.request("tools/call", json!({"name": "a__tells"})).await.unwrap();
    assert_eq!(answer.notifications("notifications/acme").len(), 1);
    deaf.silent_of("notifications/acme", Duration::from_millis(200)).await.unwrap();
}

#[tokio::test]
async fn what_a_server_says_outside_calls_reaches_its_only_client_and_never_one_of_several() {
    let say = |method: &str, params: Value| Step::Notify { method: method.to_owned(), params, via: Via::Get };
    let script = Script::legacy().tool(
        ToolScript::new("tells")
            .step(say("notifications/elicitation/complete", json!({"elicitationId": "sign-in-1"})))
            .step(say("notifications/message", json!({"level": "error", "data": "aside"}))),
    );
    for over_stdio in [false, true] {
        let http = ScriptedServer::start(script.clone()).await;
        let stdio = StdioServer::new(script.clone());
        let entry = if over_stdio { stdio.yaml() } else { format!("url: \"{}\"", http.url()) };
        let gateway = Gateway::start(&format!("servers:\n  a: {{ {entry} }}\n")).await;
        let only = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        only.list("tools/list", "tools").await.unwrap();
        let mut heard = only.open_get(None).await.unwrap();
        let answer = only.request("tools/call", json!({"name": "a__tells"})).await.unwrap();
        // During the call it may come with the call.
        if answer.notifications("notifications/elicitation/complete").is_empty() {
            heard.next_method("notifications/elicitation/complete", relaxed(2 * SECOND)).await.unwrap();
        }
        let second = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let mut also = second.open_get(None).await.unwrap();
        second.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap();
        only.request("tools/call", json!({"name": "a__tells"})).await.unwrap();
        let silence = also.silent_of("notifications/elicitation/complete", Duration::from_millis(200)).await;
        silence.unwrap_or_else(|error| panic!("stdio: {over_stdio}: {error:#}"));
    }
}

#[tokio::test]
async fn a_hundred_calls_at_once_come_back_to_their_callers() {
    let script = Script::legacy().tool(ToolScript::new("works").progress(2, 20));
    let house = House::new(script, |_, script| script).await;
    for server in SERVERS {
        let clients = house.clients(&alone(server)).await;
        let mut calls = Vec::new();
        for number in 0..100_u64 {
            let (who, client) = clients[number as usize % clients.len()].clone();
            let params = json!({"name": "works", "arguments": {"n": number}, "_meta": {"progressToken": number}});
            calls.push((who, number, tokio::spawn(async move { client.request("tools/call", params).await.unwrap() })));
        }
        for (who, number, call) in calls {
            let answer = call.await.unwrap();
            let result = answer.result().unwrap_or_else(|error| panic!("{server} {who}: {error:#}"));
            assert_eq!(result["structuredContent"]["arguments"]["n"], number, "{server} {who}");
            let progress = answer.notifications("notifications/progress");
            assert_eq!(progress.len(), 2, "{server} {who}");
            assert!(progress.iter().all(|report| report["params"]["progressToken"] == number), "{server} {who}");
        }
    }
}

#[tokio::test]
async fn a_quiet_call_is_kept_alive_with_comments() {
    let server = ScriptedServer::start(Script::legacy().tool(ToolScript::new("quiet").sleep(2_500))).await;
    let yaml = format!(
        "listen: {{ address: \"127.0.0.1:0\", keep_alive: 500ms }}\nservers: {{ a: {{ url: \"{}\" }} }}\n",
        server.url()
    );
    let gateway = Gateway::start(&yaml).await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        let start = Instant::now();
        let stream = client.start("tools/call", json!({"name": "a__quiet"})).await.unwrap();
        assert!(start.elapsed() < relaxed(2 * SECOND), "the head comes before the answer");
        let answer = stream.finish().await.unwrap();
        assert!(answer.result().is_ok());
        let comments = String::from_utf8_lossy(&answer.body).lines().filter(|line| line.starts_with(':')).count();
        assert!(comments >= 2, "{comments} comments");
        assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    }
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = client.open_get(None).await.unwrap();
    assert_eq!((stream.status, stream.is_stream()), (200, true));
    for _ in 0..2 {
        stream.next_comment(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn batches_may_hold_calls_that_talk() {
    let house = House::new(Script::legacy().tool(ToolScript::new("works").progress(2, 10)), |_, script| script).await;
    for server in SERVERS {
        let client = house.gateway.legacy(&alone(server), "2025-03-26").await;
        let call = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "works", "arguments": {"id": id}, "_meta": {"progressToken": id}}});
        let batch: Vec<_> = (1..=10).map(call).collect();
        let answer = client.post_raw(Value::from(batch).to_string(), &[]).await.unwrap();
        let answers = answer.messages()[0].clone();
        let mut ids: Vec<_> = answers
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| {
                assert_eq!(
                    answer["result"]["structuredContent"]["arguments"]["id"], answer["id"],
                    "{server}: {answer}"
                );
                answer["id"].as_u64().unwrap()
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=10).collect::<Vec<_>>(), "{server}");
    }
}

#[tokio::test]
async fn large_messages_pass_whole() {
    let house = House::new(Script::legacy(), |name, script| if name == "now" { script.sse() } else { script }).await;
    let text: String = (0..600_000).map(|number| format!("{number:x}ä")).collect();
    assert!(text.len() > 3_000_000);
    for server in SERVERS {
        for (who, client) in house.clients(&alone(server)).await {
            let result = client.call("tool_0", json!({"text": text})).await.unwrap();
            assert!(result["structuredContent"]["arguments"]["text"] == *text, "{server} {who}");
        }
    }
}

#[tokio::test]
async fn messages_of_many_lines_arrive_on_every_transport() {
    let result = "{\n  \"content\": [],\r\n\t\"structuredContent\": {\n    \"a\": \"x\\ny\"\n  }\n}";
    let lines = |script: Script| {
        let result = if script.versions == Script::modern().versions {
            result.replacen('{', "{\n \"resultType\": \"complete\",", 1)
        } else {
            result.to_owned()
        };
        script
            .tool(ToolScript::new("pretty").result(&result))
            .tool(ToolScript::new("talks").progress(1, 1).result(&result))
    };
    // On a pipe a server cannot do that; what a client sends has to become one line there.
    let house = House::new(Script::legacy(), |name, script| if name == "child" { script } else { lines(script) }).await;
    for server in SERVERS {
        for (who, client) in house.clients(&alone(server)).await {
            let tools: &[&str] = if server == "child" { &["tool_0"] } else { &["pretty", "talks"] };
            for tool in tools {
                let message = client.message(
                    "tools/call",
                    json!({"name": tool, "arguments": {"a": "x\ny"}, "_meta": {"progressToken": 1}}),
                );
                let pretty = serde_json::to_string_pretty(&message).unwrap().replace('\n', "\r\n");
                let headers = [("mcp-method", "tools/call"), ("mcp-name", *tool)];
                let modern = who.starts_with("modern");
                let answer = client.post_raw(pretty, if modern { &headers } else { &[] }).await.unwrap();
                let result = answer.result().unwrap_or_else(|error| panic!("{server} {who} {tool}: {error:#}"));
                let found = if server == "child" {
                    &result["structuredContent"]["arguments"]["a"]
                } else {
                    &result["structuredContent"]["a"]
                };
                assert_eq!(*found, "x\ny", "{server} {who} {tool}");
            }
        }
    }
}
