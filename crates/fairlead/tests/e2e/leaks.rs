//! Nothing stays: no process, no memory, no session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fairlead_testkit::{
    Finish, Hang, McpClient, Question, Reply, Script, ScriptedServer, StdioScript, ToolScript, Via,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    Gateway, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually, eventually_some, gate::Gate, processes, relaxed,
    rows, scripted_program,
};

/// A server with a tool that takes a minute.
fn lingering() -> Script {
    Script::legacy().tool(ToolScript::new("linger").sleep(60_000))
}

/// Rude clients, `wave` at a time: each begins a call, and vanishes when its server has it. `heard` says how many calls
/// the servers had so far. Returns how many had room, of each tool.
async fn vanish_all<const TOOLS: usize>(
    gateway: &Gateway,
    tools: &[&'static str; TOOLS],
    count: usize,
    wave: usize,
    heard: impl Fn() -> usize,
) -> [usize; TOOLS] {
    let (mut number, mut began) = (0, [0; TOOLS]);
    while number < count {
        let wave = wave.min(count - number);
        let clients = futures_util::future::join_all((0..wave).map(|_| gateway.legacy("/mcp", NEWEST_LEGACY))).await;
        let before = heard();
        let start = |(n, client): (usize, McpClient)| {
            let tool = (number + n) % TOOLS;
            let params = json!({"name": tools[tool], "arguments": {}});
            (tool, tokio::spawn(async move { client.request("tools/call", params).await }))
        };
        let calls: Vec<_> = clients.into_iter().enumerate().map(start).collect();
        eventually(PATIENCE, "each call is at its server, or refused", || {
            let refused = calls.iter().filter(|(_, call)| call.is_finished()).count();
            heard() - before + refused >= wave
        })
        .await;
        for (tool, call) in calls {
            if !call.is_finished() {
                began[tool] += 1;
                call.abort();
                continue;
            }
            let said = call.await.unwrap().unwrap().error().to_string();
            assert!(said.contains("FL-1305"), "{}: {said}", tools[tool]);
        }
        number += wave;
    }
    began
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rude_clients_and_a_killed_gateway_leave_nothing() {
    const VANISH: usize = 300;
    const NEVER_CLOSED: usize = 200;
    const IDLE: Duration = Duration::from_secs(30);
    /// `max_sessions` of each server.
    const CAP: usize = 3;
    let family = StdioServer::new(lingering().stdio(StdioScript { grandchildren: 2, ..Default::default() }));
    let stubborn =
        StdioServer::new(lingering().stdio(StdioScript { stubborn: true, grandchildren: 1, ..Default::default() }));
    let shell = StdioServer::new(lingering());
    let remote = ScriptedServer::start(lingering()).await;
    let command = |server: &StdioServer| {
        let script = server.yaml().rsplit_once("args: [").unwrap().1.trim_end_matches(']').trim_matches('"').to_owned();
        format!("{} {script}", scripted_program().display())
    };
    let capped = format!("max_sessions: {CAP}");
    let yaml = format!(
        "servers:\n  family: {{ {}, {capped} }}\n  stubborn: {{ {}, {capped} }}\n  \
         shell: {{ command: sh, args: [\"-c\", \"{}; true\"], {capped}, share: per_session }}\n  \
         remote: {{ url: \"{}\", {capped} }}\n",
        family.yaml(),
        stubborn.yaml(),
        command(&shell),
        remote.url()
    );
    let mut gateway = Gateway::start(&yaml).await;
    for server in ["family", "stubborn", "shell", "remote"] {
        rows::until_listed(&gateway, server).await;
    }
    let tools = ["family__linger", "stubborn__linger", "shell__linger", "remote__linger"];

    // Never more processes than configured, however short the moment.
    let watching = Arc::new(AtomicBool::new(true));
    let (mark, watched) = (gateway.mark().to_owned(), Arc::clone(&watching));
    let commands = [&family, &stubborn, &shell].map(command);
    let watcher = std::thread::spawn(move || {
        let mut most = [0; 3];
        while watched.load(Ordering::Relaxed) {
            let all = processes::marked(&mark);
            for (most, command) in most.iter_mut().zip(&commands) {
                *most = all.iter().filter(|process| process.command == *command).count().max(*most);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        most
    });

    // The level to return to: everything was used once.
    let heard = || {
        let local = [&family, &stubborn, &shell].map(|server| server.received_method("tools/call").len());
        local.iter().sum::<usize>() + remote.received_method("tools/call").len()
    };
    vanish_all(&gateway, &tools, 40, 20, heard).await;
    tokio::time::sleep(SECOND * 2).await;
    let level = gateway.resident_bytes();
    let files = processes::open_files(gateway.pid()).unwrap();

    let began = vanish_all(&gateway, &tools, VANISH, 60, heard).await;
    // Where each session has a process of its own there is room for few.
    let shared = [began[0], began[1], began[3]];
    assert_eq!(shared, [VANISH / tools.len(); 3], "calls the servers had: {began:?} of {tools:?}");
    let mut never_closed = JoinSet::new();
    for n in 0..NEVER_CLOSED {
        let client = McpClient::new(&gateway.url("/mcp")).limit(PATIENCE);
        never_closed.spawn(async move {
            client.initialize(NEWEST_LEGACY).await.unwrap();
            // Half of them also leave a stream behind.
            let stream = if n % 2 == 0 { Some(client.open_get(None).await.unwrap()) } else { None };
            client.result("tools/list", json!({})).await.unwrap();
            stream
        });
    }
    let streams: Vec<_> = never_closed.join_all().await;
    let peak = gateway.resident_bytes();
    drop(streams);

    // Others are served as ever.
    let client = gateway.modern("/mcp");
    for server in ["family", "stubborn", "remote"] {
        let start = Instant::now();
        client.call(&format!("{server}__tool_0"), json!({})).await.unwrap();
        assert!(start.elapsed() < relaxed(SECOND * 2), "{server}: {:?}", start.elapsed());
    }

    let idle = Instant::now();
    let allowed = (level / 10).max(16 * 1024 * 1024);
    tokio::time::sleep(IDLE).await;
    let after = gateway.resident_bytes();
    println!("resident: {level} before, {peak} at the peak, {after} after {:?}", idle.elapsed());
    assert!(after <= level + allowed, "{after} bytes after, {level} before");
    let files_after = processes::open_files(gateway.pid()).unwrap();
    assert!(files_after <= files + 16, "{files_after} open files after, {files} before");

    watching.store(false, Ordering::Relaxed);
    let most = watcher.join().unwrap();
    println!("at most {most:?} processes of each server");
    assert!(most.iter().all(|most| (1..=CAP).contains(most)), "{most:?} processes");
    assert_eq!(most[2], CAP, "sessions of their own reach the cap");
    for (what, server, each) in [("family", &family, 3), ("stubborn", &stubborn, 2), ("shell", &shell, 1)] {
        assert!(server.living().len() <= CAP * each, "{what}: {:?}", server.living());
        assert!(!server.living().is_empty(), "{what} runs");
    }

    // And when it is killed, everything goes.
    assert!(processes::marked(gateway.mark()).len() > 6);
    gateway.kill().await;
    let start = Instant::now();
    eventually(SECOND * 5, "no process survives", || processes::marked(gateway.mark()).is_empty()).await;
    println!("everything was gone after {:?}", start.elapsed());
    for server in [&family, &stubborn, &shell] {
        assert!(server.living().is_empty());
    }
}

#[tokio::test]
async fn processes_never_exceed_the_cap_even_while_stubborn_ones_are_stopped() {
    const CAP: usize = 2;
    let server = StdioServer::new(Script::legacy().stdio(StdioScript { stubborn: true, ..Default::default() }));
    let yaml =
        format!("servers:\n  a: {{ {}, share: per_session, max_sessions: {CAP}, stop_grace: 300ms }}\n", server.yaml());
    let gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "a").await;
    // Each session wants a process of its own, one after the other: an idle one makes room.
    let mut most = 0;
    for _ in 0..5 {
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let calling = tokio::spawn(async move { client.call("a__tool_0", json!({})).await });
        while !calling.is_finished() {
            most = most.max(server.living().len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        calling.await.unwrap().unwrap();
        most = most.max(server.living().len());
    }
    assert!(most <= CAP, "{most} processes");
    assert!(server.pids().len() > CAP, "the cap was in the way");
}

#[tokio::test]
async fn a_call_over_the_cap_is_refused_and_told_why() {
    let (gates, script) = ([Gate::new(), Gate::new()], |gate: &Gate| Script::legacy().tool(gate.tool("linger")));
    let local = StdioServer::new(script(&gates[0]));
    let remote = ScriptedServer::start(script(&gates[1])).await;
    for (server, gate) in [local.yaml(), format!("url: \"{}\"", remote.url())].iter().zip(&gates) {
        let yaml = format!("servers:\n  a: {{ {server}, share: per_session, max_sessions: 2 }}\n");
        let gateway = Gateway::start(&yaml).await;
        rows::until_listed(&gateway, "a").await;
        let mut busy = Vec::new();
        for _ in 0..2 {
            let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
            busy.push(tokio::spawn(async move { client.call("a__linger", json!({})).await }));
        }
        rows::until(&gateway, "a", PATIENCE, "two calls", |row| row["calls"] == 2 && row["links"] == 2).await;
        let third = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let start = Instant::now();
        let answer = third.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap();
        let said = answer.error()["message"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains("FL-1305") && said.contains("max_sessions"), "{said}");
        assert!(start.elapsed() < relaxed(SECOND), "{:?}", start.elapsed());
        gate.open();
        for call in busy {
            call.await.unwrap().unwrap();
        }
        third.call("a__tool_0", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn a_drain_lets_calls_finish_and_leaves_nothing() {
    let gate = Gate::new();
    let script = Script::legacy().tool(gate.tool("linger"));
    let local = StdioServer::new(script.clone());
    let remote = ScriptedServer::start(script.sse()).await;
    let yaml = format!("servers:\n  local: {{ {} }}\n  remote: {{ url: \"{}\" }}\n", local.yaml(), remote.url());
    let mut gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "local").await;
    rows::until_listed(&gateway, "remote").await;
    let waiting = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = waiting.open_get(None).await.unwrap();
    let mut calls = Vec::new();
    for tool in ["local__linger", "remote__linger"] {
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        calls.push(tokio::spawn(async move { client.call(tool, json!({})).await }));
    }
    rows::until(&gateway, "local", PATIENCE, "in flight", |row| row["calls"] == 1).await;
    rows::until(&gateway, "remote", PATIENCE, "in flight", |row| row["calls"] == 1).await;
    gateway.signal(Signal::SIGTERM);
    // An open stream ends, so that its client looks for another gateway; new calls are refused.
    let ended = async { while stream.next(PATIENCE).await.unwrap().is_some() {} };
    tokio::time::timeout(relaxed(SECOND), ended).await.expect("the stream ends");
    if let Ok(answer) = gateway.modern("/mcp").request("tools/call", json!({"name": "local__tool_0"})).await {
        assert!(answer.error()["message"].as_str().unwrap_or_default().contains("FL-1111"), "{:?}", answer.body);
        assert_eq!(answer.status, 503);
    }
    gate.open();
    for call in calls {
        call.await.unwrap().expect("a call in flight finishes");
    }
    assert_eq!(gateway.ended(PATIENCE).await, Some(0));
    assert!(processes::marked(gateway.mark()).is_empty());
    assert!(local.living().is_empty());
    assert_eq!(remote.sessions(), 0, "sessions with servers are ended");
}

#[tokio::test]
async fn a_drain_is_over_in_time_whatever_the_calls_do() {
    let server =
        StdioServer::new(Script::legacy().tool(ToolScript::new("hang").finish(Finish::Hang)).stdio(StdioScript {
            stubborn: true,
            grandchildren: 1,
            ..Default::default()
        }));
    let yaml = |drain: &str| format!("drain: {drain}\nservers:\n  a: {{ {}, stop_grace: 300ms }}\n", server.yaml());
    for (drain, signals) in [("1s", 1), ("10m", 2)] {
        let mut gateway = Gateway::start(&yaml(drain)).await;
        rows::until_listed(&gateway, "a").await;
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let call = tokio::spawn(async move { client.request("tools/call", json!({"name": "a__hang"})).await });
        rows::until(&gateway, "a", PATIENCE, "in flight", |row| row["calls"] == 1).await;
        let start = Instant::now();
        for n in 0..signals {
            if n > 0 {
                gateway.logged("stopping").await;
            }
            gateway.signal(Signal::SIGTERM);
        }
        gateway.ended(PATIENCE).await;
        println!("`drain: {drain}`, {signals} signals: ended after {:?}", start.elapsed());
        assert!(start.elapsed() < relaxed(SECOND * 5), "`drain: {drain}`, {signals} signals: {:?}", start.elapsed());
        assert!(processes::marked(gateway.mark()).is_empty());
        call.abort();
    }
}

#[tokio::test]
async fn vanished_callers_of_a_server_that_asks_block_nobody() {
    // Its questions name no call, so whoever can be asked has a process alone for the length of a call.
    let script = lingering().tool(ToolScript::new("ask").ask(Question::Elicitation, Via::Call));
    let server = StdioServer::new(script);
    let gateway = Gateway::start(&format!("servers:\n  a: {{ {}, max_sessions: 2 }}\n", server.yaml())).await;
    rows::until_listed(&gateway, "a").await;
    let connect = async || {
        let client = McpClient::new(&gateway.url("/mcp"))
            .limit(PATIENCE)
            .capabilities(json!({"elicitation": {}}))
            .answering(|_, _| Reply::Result(json!({"action": "accept", "content": {"name": "Ada"}})));
        client.initialize(NEWEST_LEGACY).await.unwrap();
        client
    };
    let patient = connect().await;
    patient.call("a__ask", json!({})).await.expect("the first question reaches its only caller");
    for round in 0..3 {
        for _ in 0..2 {
            let client = connect().await;
            let before = server.received_method("tools/call").len();
            let call = tokio::spawn(async move { client.call("a__linger", json!({})).await });
            eventually(PATIENCE, "the call", || server.received_method("tools/call").len() > before).await;
            call.abort();
        }
        rows::until(&gateway, "a", PATIENCE, "nobody calls", |row| row["calls"] == 0).await;
        let start = Instant::now();
        patient.call("a__ask", json!({})).await.unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        assert!(start.elapsed() < relaxed(SECOND * 8), "round {round}: {:?}", start.elapsed());
        assert!(server.living().len() <= 2);
    }
}

#[tokio::test]
async fn a_gateway_can_be_stopped_while_servers_are_starting() {
    let hung = StdioServer::new(Script::legacy().hang(Hang::Everything).stdio(StdioScript {
        stubborn: true,
        grandchildren: 1,
        ..Default::default()
    }));
    let silent = ScriptedServer::start(Script::legacy().hang(Hang::Everything)).await;
    let yaml = format!(
        "servers:\n  hung: {{ {}, stop_grace: 300ms }}\n  silent: {{ url: \"{}\" }}\n  \
         dead: {{ command: no-such-program }}\n",
        hung.yaml(),
        silent.url()
    );
    let mut gateway = Gateway::start(&yaml).await;
    eventually(PATIENCE, "the process and its child", || hung.living().len() == 2).await;
    let start = Instant::now();
    assert_eq!(gateway.stop().await, Some(0));
    assert!(start.elapsed() < relaxed(SECOND * 4), "{:?}", start.elapsed());
    eventually(SECOND * 4, "nothing is left", || processes::marked(gateway.mark()).is_empty()).await;
    assert!(hung.living().is_empty());
}

#[tokio::test]
async fn an_idle_process_is_stopped_and_started_by_the_next_call() {
    stops_and_starts(Script::legacy()).await;
}

#[tokio::test]
async fn a_listen_stream_keeps_no_idle_process() {
    stops_and_starts(Script::modern()).await;
}

async fn stops_and_starts(script: Script) {
    let (lazy, eager) = (StdioServer::new(script.clone()), StdioServer::new(script));
    let yaml = format!(
        "servers:\n  lazy: {{ {}, idle_stop: 1s }}\n  eager: {{ {}, idle_stop: 1s, start: eager }}\n",
        lazy.yaml(),
        eager.yaml()
    );
    let gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "lazy").await;
    let kept = rows::until_listed(&gateway, "eager").await["processes"].clone();
    for round in 1..=2 {
        eventually(PATIENCE, "the lazy one is stopped", || lazy.living().is_empty()).await;
        let row = rows::until(&gateway, "lazy", SECOND, "idle", |row| row["state"] == "idle").await;
        assert_eq!(row["stale"], false, "what it lists is as good as before");
        let client = gateway.modern("/mcp");
        let list = client.result("tools/list", json!({})).await.unwrap();
        assert_eq!(list["tools"].as_array().unwrap().len(), 6);
        assert!(list["_meta"]["fairlead/servers"].is_null(), "{list}");
        assert!(lazy.living().is_empty(), "a list starts nothing");
        client.call("lazy__tool_0", json!({})).await.unwrap();
        assert_eq!(lazy.living().len(), 1);
        assert_eq!(lazy.pids().len(), 1 + round);
    }
    assert_eq!(rows::row(&gateway, "eager").await["processes"], kept);
}

#[tokio::test]
async fn clients_that_vanish_free_what_they_held() {
    let server = ScriptedServer::start(lingering()).await;
    let yaml =
        format!("sessions: {{ max_streams: 3 }}\nservers:\n  a: {{ url: \"{}\", max_calls: 5 }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "a").await;
    for _ in 0..5 {
        let began = vanish_all(&gateway, &["a__linger"], 5, 5, || server.received_method("tools/call").len()).await;
        assert_eq!(began, [5]);
        rows::until(&gateway, "a", PATIENCE, "no call in flight", |row| row["calls"] == 0).await;
    }
    // The connections to the server that carried their calls are closed: one stream and what is kept idle stay.
    eventually(PATIENCE, "few connections to the server", || server.connections() <= 4).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for _ in 0..5 {
        let mut streams = Vec::new();
        for _ in 0..3 {
            let opened = eventually_some(PATIENCE, "a stream is free", async || {
                client.open_get(None).await.ok().filter(|stream| stream.status == 200)
            })
            .await;
            streams.push(opened);
        }
    }
}
