//! The testkit against itself: what a script says is what a client sees.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fairlead_testkit::{
    FaultProxy, Faults, Finish, Garbage, Hang, McpClient, Question, Reply, Script, ScriptedServer, StdioScript, Step,
    ToolScript, Via,
};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

async fn legacy(server: &ScriptedServer) -> McpClient {
    let client = McpClient::new(&server.url());
    client.initialize("2025-11-25").await.unwrap();
    client
}

/// Waits until `holds`, at most five seconds.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn pages_with_an_empty_one_in_the_middle_list_everything_once() {
    let server = ScriptedServer::start(Script::legacy().tools(25).pages(10, true)).await;
    let client = legacy(&server).await;
    let tools = client.list("tools/list", "tools").await.unwrap();
    let names: BTreeSet<_> = tools.iter().map(|tool| tool["name"].to_string()).collect();
    assert_eq!((tools.len(), names.len()), (25, 25));
    assert_eq!(server.received_method("tools/list").len(), 4);
    let refused = client.request("tools/list", json!({"cursor": "mine"})).await.unwrap();
    assert_eq!(refused.error()["code"], -32602);
}

#[tokio::test]
async fn every_legacy_revision_is_negotiated_and_unknown_ones_are_not() {
    let server = ScriptedServer::start(Script::legacy()).await;
    for version in ["2025-11-25", "2025-06-18", "2025-03-26"] {
        let result = McpClient::new(&server.url()).initialize(version).await.unwrap();
        assert_eq!(result["protocolVersion"], version);
    }
    let result = McpClient::new(&server.url()).initialize("2099-01-01").await.unwrap();
    assert_eq!(result["protocolVersion"], "2025-11-25");
    assert_eq!(server.sessions(), 4);
}

#[tokio::test]
async fn a_batch_is_answered_by_the_one_revision_that_has_batches() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let client = McpClient::new(&server.url());
    client.initialize("2025-03-26").await.unwrap();
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":"b","method":"tools/list"}]"#;
    let answer = client.post_raw(batch, &[]).await.unwrap();
    assert_eq!(answer.messages()[0][1]["id"], "b");
    client.initialize("2025-06-18").await.unwrap();
    assert_eq!(client.post_raw(batch, &[]).await.unwrap().status, 400);
}

#[tokio::test]
async fn sessions_are_required_forgotten_and_deleted() {
    let server = ScriptedServer::start(Script::legacy().forget_after(3)).await;
    let client = legacy(&server).await;
    client.call("tool_0", json!({})).await.unwrap();
    client.call("tool_0", json!({})).await.unwrap();
    assert_eq!(client.request("ping", json!({})).await.unwrap().status, 404);
    client.set_session(None);
    assert_eq!(client.request("ping", json!({})).await.unwrap().status, 400);
    let other = legacy(&server).await;
    assert_eq!(other.delete().await.unwrap().status, 200);
    assert_eq!(other.request("ping", json!({})).await.unwrap().status, 404);
    assert_eq!(server.sessions(), 0);
}

#[tokio::test]
async fn arguments_and_results_keep_their_bytes() {
    let exact = r#"{"content":[],"price":1.10,"big":12345678901234567890123}"#;
    let script = Script::legacy().tool(ToolScript::new("exact").result(exact)).unknown_members();
    let server = ScriptedServer::start(script).await;
    let client = legacy(&server).await;
    let answer = client.request("tools/call", json!({"name": "exact"})).await.unwrap();
    let bytes = answer.response_bytes().unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains(exact));
    let call = r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"tool_0","arguments":{"n":1E2}}}"#;
    let answer = client.post_raw(call, &[]).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.body).contains(r#""arguments":{"n":1E2}"#));
    assert!(String::from_utf8_lossy(&answer.body).contains("x-vendor"));
}

#[tokio::test]
async fn questions_are_asked_on_the_call_and_on_the_get_stream() {
    let script = Script::legacy()
        .tool(ToolScript::new("ask").ask(Question::Elicitation, Via::Call).ask(Question::Roots, Via::Call))
        .tool(ToolScript::new("ask_aside").ask(Question::Sampling, Via::Get));
    let server = ScriptedServer::start(script).await;
    let client = McpClient::new(&server.url()).answering(|method, _| match method {
        "roots/list" => Reply::Error(-32601, "no roots".to_owned()),
        _ => Reply::Result(json!({"said": method})),
    });
    client.initialize("2025-11-25").await.unwrap();
    let result = client.call("ask", json!({})).await.unwrap();
    let answers = &result["structuredContent"]["answers"];
    assert_eq!(answers[0]["result"]["said"], "elicitation/create");
    assert_eq!(answers[1]["error"]["code"], -32601);
    let mut aside = client.open_get(None).await.unwrap();
    let (result, asked) =
        tokio::join!(client.call("ask_aside", json!({})), aside.next_method("sampling/createMessage", 5 * SECOND));
    asked.unwrap();
    assert_eq!(result.unwrap()["structuredContent"]["answers"][0]["result"]["said"], "sampling/createMessage");
}

#[tokio::test]
async fn a_modern_server_asks_with_input_required_and_refuses_the_other_era() {
    let tool = ToolScript::new("ask").ask(Question::Elicitation, Via::Call).sleep(1).ask(Question::Roots, Via::Call);
    let server = ScriptedServer::start(Script::modern().tool(tool)).await;
    let client = McpClient::new(&server.url())
        .answering(|method, _| Reply::Result(json!({"said": method})))
        .modern("2026-07-28");
    let discovered = client.result("server/discover", json!({})).await.unwrap();
    assert_eq!(discovered["supportedVersions"], json!(["2026-07-28"]));
    let result = client.call("ask", json!({})).await.unwrap();
    assert_eq!(result["structuredContent"]["answers"][1]["result"]["said"], "roots/list");
    assert_eq!(server.received_method("tools/call").len(), 3);
    let call = &server.received_method("tools/call")[0];
    assert_eq!((call.header("mcp-method"), call.header("mcp-name")), (Some("tools/call"), Some("ask")));
    assert!(McpClient::new(&server.url()).initialize("2025-11-25").await.is_err());
    let missing = client.request("no/such/method", json!({})).await.unwrap();
    assert_eq!((missing.status, missing.error()["code"].clone()), (404, json!(-32601)));
    let unknown = McpClient::new(&server.url()).modern("2027-01-01").request("tools/list", json!({})).await.unwrap();
    assert_eq!((unknown.status, unknown.error()["code"].clone()), (400, json!(-32022)));
}

#[tokio::test]
async fn a_listener_hears_what_it_asked_for_and_leaves() {
    let server = ScriptedServer::start(Script::dual()).await;
    let modern = McpClient::new(&server.url()).modern("2026-07-28");
    let mut listening =
        modern.start("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})).await.unwrap();
    let id = listening.id().unwrap().clone();
    listening.next_method("notifications/subscriptions/acknowledged", SECOND).await.unwrap();
    eventually("the listener is there", || server.listeners() == 1).await;
    let filter = json!({"notifications": {"promptsListChanged": true}});
    let mut other = modern.start("subscriptions/listen", filter).await.unwrap();
    other.next_method("notifications/subscriptions/acknowledged", SECOND).await.unwrap();
    eventually("the other listener is there", || server.listeners() == 2).await;
    let old = legacy(&server).await;
    let mut aside = old.open_get(None).await.unwrap();
    server.change_list().await;
    server.notify("notifications/prompts/list_changed", &json!({})).await;
    let heard = other.next(SECOND).await.unwrap().unwrap().json();
    assert_eq!(heard["method"], "notifications/prompts/list_changed");
    other.vanish();
    let heard = listening.next(SECOND).await.unwrap().unwrap().json();
    assert_eq!(heard["method"], "notifications/tools/list_changed");
    assert_eq!(heard["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
    aside.next_method("notifications/tools/list_changed", SECOND).await.unwrap();
    assert_eq!(old.list("tools/list", "tools").await.unwrap().len(), 4);
    listening.vanish();
    eventually("the listener is gone", || server.listeners() == 0).await;
}

#[tokio::test]
async fn a_vanished_client_cancels_in_the_modern_era_only() {
    let server = ScriptedServer::start(Script::dual().tool(ToolScript::new("long").progress(20, 50))).await;
    let params = json!({"name": "long", "_meta": {"progressToken": "t"}});
    let modern = McpClient::new(&server.url()).modern("2026-07-28");
    let mut call = modern.start("tools/call", params.clone()).await.unwrap();
    call.next_method("notifications/progress", SECOND).await.unwrap();
    call.vanish();
    eventually("the modern call is cancelled", || server.cancelled().len() == 1).await;
    let old = legacy(&server).await;
    let mut call = old.start("tools/call", params.clone()).await.unwrap();
    call.next_method("notifications/progress", SECOND).await.unwrap();
    call.vanish();
    eventually("the legacy call goes on", || server.calls_finished() == 1).await;
    let call = old.start("tools/call", params).await.unwrap();
    old.cancel(call.id().unwrap()).await.unwrap();
    eventually("the cancelled call ends", || server.cancelled().len() == 2).await;
    assert!(call.finish().await.unwrap().response().is_none());
}

#[tokio::test]
async fn a_stream_that_hung_up_is_resumed() {
    let tool = ToolScript::new("poll").step(Step::HangUp { retry_ms: 10 }).sleep(50);
    let server = ScriptedServer::start(Script::legacy().tool(tool)).await;
    let client = legacy(&server).await;
    let answer = client.request("tools/call", json!({"name": "poll"})).await.unwrap();
    assert!(answer.response().is_none());
    let last = answer.frames.last().unwrap();
    assert_eq!(last.retry, Some(10));
    let mut resumed = client.open_get(last.id.as_deref()).await.unwrap();
    let frame = resumed.next(SECOND).await.unwrap().unwrap();
    assert_eq!(frame.json()["result"]["structuredContent"]["tool"], "poll");
}

#[tokio::test]
async fn garbage_is_what_the_script_says() {
    let cases = [
        (Garbage::WrongId, r#""id":987654321"#),
        (Garbage::NullId, r#""id":null"#),
        (Garbage::ResultAndError, r#""error":{"#),
        (Garbage::NotJson, "this is not JSON"),
        (Garbage::Html500, "<html>"),
    ];
    for (garbage, expected) in cases {
        let server = ScriptedServer::start(Script::legacy().garbage("tools/call", garbage.clone())).await;
        let client = legacy(&server).await;
        let answer = client.request("tools/call", json!({"name": "tool_0"})).await.unwrap();
        assert!(String::from_utf8_lossy(&answer.body).contains(expected), "{garbage:?}: {:?}", answer.body);
        assert_eq!(answer.status == 500, garbage == Garbage::Html500);
    }
}

#[tokio::test]
async fn death_silence_and_restarts_look_like_that() {
    let script = Script::legacy()
        .tool(ToolScript::new("die").progress(1, 1).finish(Finish::Die))
        .tool(ToolScript::new("die_at_once").finish(Finish::Die));
    let mut server = ScriptedServer::start(script).await;
    let client = legacy(&server).await;
    for name in ["die", "die_at_once"] {
        let params = json!({"name": name, "_meta": {"progressToken": 1}});
        assert!(client.request("tools/call", params).await.is_err(), "{name} must break the connection");
    }
    server.change(|script| script.hang = Hang::AfterInitialize);
    let hasty = legacy(&server).await;
    let begun = Instant::now();
    let hasty = hasty.limit(Duration::from_millis(200));
    assert!(hasty.request("ping", json!({})).await.is_err());
    assert!(begun.elapsed() < 5 * SECOND);
    server.change(|script| script.hang = Hang::Nothing);
    server.restart().await.unwrap();
    assert_eq!(client.request("ping", json!({})).await.unwrap().status, 404);
    server.stop().await;
    assert!(client.request("ping", json!({})).await.is_err());
    assert_eq!((server.sessions(), server.connections()), (0, 0));
}

#[tokio::test]
async fn core_tasks_run_and_deliver() {
    let server = ScriptedServer::start(Script::legacy().tasks().tool(ToolScript::new("slow").sleep(30))).await;
    let client = legacy(&server).await;
    let created = client.result("tools/call", json!({"name": "slow", "task": {"ttl": 1000}})).await.unwrap();
    let id = &created["task"]["taskId"];
    assert_eq!(created["task"]["status"], "working");
    let result = client.result("tasks/result", json!({"taskId": id})).await.unwrap();
    assert_eq!(result["structuredContent"]["tool"], "slow");
    assert_eq!(client.result("tasks/get", json!({"taskId": id})).await.unwrap()["status"], "completed");
    assert_eq!(client.result("tasks/list", json!({})).await.unwrap()["tasks"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_list_changes_by_itself() {
    let server = ScriptedServer::start(Script::legacy().list_change_every_ms(20)).await;
    let client = legacy(&server).await;
    let mut aside = client.open_get(None).await.unwrap();
    for _ in 0..3 {
        aside.next_method("notifications/tools/list_changed", SECOND).await.unwrap();
    }
}

#[tokio::test]
async fn the_proxy_delays_cuts_swallows_and_refuses() {
    let big = format!(r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#, "x".repeat(50_000));
    let server = ScriptedServer::start(Script::legacy().tool(ToolScript::new("big").result(&big))).await;
    let proxy = FaultProxy::start(server.address()).await;
    let client = McpClient::new(&proxy.url("/mcp")).limit(2 * SECOND);
    client.initialize("2025-11-25").await.unwrap();
    client.call("big", json!({})).await.unwrap();

    proxy.set(Faults { latency: Duration::from_millis(60), ..Faults::default() }).await;
    let begun = Instant::now();
    client.request("ping", json!({})).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(120));

    proxy.set(Faults { cut_after: Some(10_000), ..Faults::default() }).await;
    let begun = Instant::now();
    assert!(client.call("big", json!({})).await.is_err());
    assert!(begun.elapsed() < SECOND, "a cut is noticed at once");
    client.request("ping", json!({})).await.unwrap();

    proxy.set(Faults { black_hole: true, ..Faults::default() }).await;
    let (held, ()) = tokio::join!(client.request("ping", json!({})), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.heal().await;
    });
    held.unwrap();

    proxy.set(Faults { bytes_per_second: Some(100_000), ..Faults::default() }).await;
    let begun = Instant::now();
    client.call("big", json!({})).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(400));

    proxy.set(Faults { refuse: true, ..Faults::default() }).await;
    let begun = Instant::now();
    assert!(client.request("ping", json!({})).await.is_err());
    assert!(begun.elapsed() < SECOND, "a refusal is immediate");
    proxy.heal().await;
    client.request("ping", json!({})).await.unwrap();
}

#[tokio::test]
async fn many_clients_vanish_and_nothing_stays_open() {
    let server = ScriptedServer::start(Script::legacy().tool(ToolScript::new("long").progress(100, 20))).await;
    let client = legacy(&server).await;
    let gone = Arc::new(AtomicUsize::new(0));
    let calls = (0..50).map(|_| {
        let (client, gone) = (client.clone(), Arc::clone(&gone));
        async move {
            let call = client.start("tools/call", json!({"name": "long", "_meta": {"progressToken": 1}})).await;
            call.unwrap().vanish();
            gone.fetch_add(1, Ordering::Relaxed);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(gone.load(Ordering::Relaxed), 50);
    eventually("every connection is closed", || server.connections() == 0).await;
}

/// The scripted server as a child; killed when dropped.
struct Scripted {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    directory: tempfile::TempDir,
}

impl Scripted {
    fn start(script: impl FnOnce(&tempfile::TempDir) -> Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script.json");
        std::fs::write(&path, script(&directory).to_json()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_scripted"))
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout, directory }
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn hear_json(&mut self) -> Value {
        serde_json::from_str(&self.hear()).unwrap()
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.say(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}));
        self.hear_json()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits for the end of a process, at most five seconds.
fn ended(child: &mut Child) -> bool {
    (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        child.try_wait().unwrap().is_some()
    })
}

#[test]
fn over_stdio_it_asks_records_and_ends_with_stdin() {
    let mut server = Scripted::start(|directory| {
        Script::dual()
            .tool(ToolScript::new("ask").progress(1, 1).ask(Question::Elicitation, Via::Get))
            .stdio(StdioScript { record: Some(directory.path().join("record")), ..StdioScript::default() })
    });
    assert_eq!(
        server.ask("initialize", json!({"protocolVersion": "2025-11-25"}))["result"]["serverInfo"]["name"],
        "scripted"
    );
    let progress = server.ask("tools/call", json!({"name": "ask", "_meta": {"progressToken": 7}}));
    assert_eq!(progress["params"]["progressToken"], 7);
    let question = server.hear_json();
    assert_eq!(question["method"], "elicitation/create");
    server.say(&json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}));
    assert_eq!(server.hear_json()["result"]["structuredContent"]["answers"][0]["result"]["action"], "decline");
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    assert_eq!(server.ask("server/discover", json!({"_meta": meta}))["result"]["resultType"], "complete");
    server.stdin.take();
    assert!(ended(&mut server.child));
    let record = std::fs::read_to_string(server.directory.path().join("record")).unwrap();
    assert_eq!(record.lines().count(), 4);
}

#[test]
fn over_stdio_it_writes_garbage_and_dies() {
    let mut server = Scripted::start(|_| {
        Script::legacy().tool(ToolScript::new("die").finish(Finish::Die)).stdio(StdioScript {
            noise: vec!["Server starting...".to_owned(), "{\"half\":".to_owned()],
            stderr_lines: 3,
            ..StdioScript::default()
        })
    });
    server.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}));
    assert_eq!(server.hear(), "Server starting...");
    assert_eq!(server.hear(), "{\"half\":");
    assert_eq!(server.hear_json()["result"], json!({}));
    server.say(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "die"}}));
    assert!(ended(&mut server.child));
    let mut early =
        Scripted::start(|_| Script::legacy().stdio(StdioScript { exit_at_start: Some(3), ..StdioScript::default() }));
    assert!(ended(&mut early.child));
    assert_eq!(early.child.wait().unwrap().code(), Some(3));
}

#[test]
fn a_stubborn_server_survives_sigterm_and_a_closed_stdin() {
    let mut server = Scripted::start(|directory| {
        Script::legacy().stdio(StdioScript {
            pids: Some(directory.path().join("pids")),
            stubborn: true,
            grandchildren: 2,
            ..StdioScript::default()
        })
    });
    server.ask("ping", json!({}));
    let pids = std::fs::read_to_string(server.directory.path().join("pids")).unwrap();
    let pids: Vec<&str> = pids.lines().collect();
    assert_eq!(pids.len(), 3);
    assert_eq!(pids[0], server.child.id().to_string());
    server.stdin.take();
    // A grandchild handles SIGTERM a moment after it was started.
    std::thread::sleep(Duration::from_millis(300));
    for pid in &pids {
        assert!(Command::new("kill").args(["-TERM", pid]).status().unwrap().success());
    }
    std::thread::sleep(Duration::from_millis(300));
    // A process that ended but was not waited for is a zombie.
    let alive = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    let survivors = pids.iter().filter(|pid| alive(pid)).count();
    for pid in &pids {
        Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status().ok();
    }
    assert_eq!(survivors, 3);
}
