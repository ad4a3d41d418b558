//! Streams of legacy clients that break off and are picked up again: nothing lost, nothing twice, nobody else's.

use std::time::Duration;

use fairlead_testkit::{
    AnswerStream, Frame, McpClient, Question, Reply, Script, ScriptedServer, Step, ToolScript, Via,
};
use http::Method;
use serde_json::{Value, json};

use crate::support::{
    Gateway, LEGACY, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually, eventually_some, get, relaxed, rows,
};

/// Progress a `works` reports.
const STEPS: u64 = 6;

fn script() -> Script {
    let big = "x".repeat(200_000);
    let log = |text: &str| Step::Log { level: "info".to_owned(), text: text.to_owned() };
    let mut talks = ToolScript::new("talks").progress(1, 1);
    for _ in 0..10 {
        talks = talks.step(log(&"y".repeat(50_000)));
    }
    Script::legacy()
        .resources_and_prompts(6, 0)
        .tool(ToolScript::new("works").progress(STEPS, 60))
        .tool(ToolScript::new("waits").progress(1, 1).sleep(30_000))
        .tool(ToolScript::new("asks").progress(1, 1).sleep(200).ask(Question::Elicitation, Via::Call))
        .tool(ToolScript::new("many").progress(40, 5))
        .tool(ToolScript::new("large").progress(1, 1).sleep(200).result(&format!(r#"{{"content":[],"x":"{big}"}}"#)))
        .tool(talks)
}

async fn start(options: &str) -> (ScriptedServer, Gateway) {
    let server = ScriptedServer::start(script()).await;
    let gateway = Gateway::start(&format!("{options}\nservers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    (server, gateway)
}

/// Begins a call whose progress has the token `token`.
async fn call(client: &McpClient, tool: &str, token: &str) -> AnswerStream {
    let params =
        json!({"name": format!("a__{tool}"), "arguments": {"token": token}, "_meta": {"progressToken": token}});
    client.start("tools/call", params).await.unwrap()
}

/// Reads until a frame holds a message.
async fn message(stream: &mut AnswerStream, frames: &mut Vec<Frame>) -> Value {
    loop {
        let frame = stream.next_event(PATIENCE).await.unwrap().expect("the stream goes on");
        frames.push(frame.clone());
        if !frame.data.is_empty() {
            return frame.json();
        }
    }
}

/// Reads to the end of the stream; frames without data are left out.
async fn rest(mut stream: AnswerStream) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = stream.next(PATIENCE).await.unwrap() {
        frames.push(frame);
    }
    frames
}

fn last_id(frames: &[Frame]) -> String {
    frames.iter().rev().find_map(|frame| frame.id.clone()).expect("events have ids")
}

/// The progress that was reported to `token`.
fn progress(frames: &[Frame], token: &str) -> Vec<u64> {
    let own = |message: &Value| message["params"]["progressToken"] == token;
    let reports = frames.iter().map(Frame::json).filter(own);
    reports.map(|report| report["params"]["progress"].as_u64().unwrap()).collect()
}

/// Waits until that many calls are in flight.
async fn in_flight(gateway: &Gateway, calls: usize) {
    let line = format!("fairlead_calls_in_flight {calls}\n");
    let reached = async || get(&gateway.admin_url("/metrics")).await.1.contains(&line).then_some(());
    eventually_some(PATIENCE, &line, reached).await;
}

#[tokio::test]
async fn a_call_is_picked_up_where_it_broke_off_and_every_message_comes_once() {
    let (server, gateway) = start("").await;
    for revision in LEGACY {
        let client = gateway.legacy("/mcp", revision).await;
        let mut stream = call(&client, "works", "t").await;
        let id = stream.id().cloned().unwrap();
        let mut seen = Vec::new();
        assert_eq!(message(&mut stream, &mut seen).await["params"]["progress"], 1);
        // The newest revision begins with an event that has an id and no data, and no other one does.
        let primes = revision == NEWEST_LEGACY;
        assert_eq!(seen[0].data.is_empty(), primes, "{revision}: {seen:?}");
        assert_eq!(seen[0].retry.is_some(), primes, "{revision}: {seen:?}");
        assert_eq!(seen.len(), 1 + usize::from(primes), "{revision}: {seen:?}");
        let place = last_id(&seen);
        stream.vanish();
        let again = rest(client.open_get(Some(&place)).await.unwrap()).await;
        seen.extend(again.clone());
        assert_eq!(progress(&seen, "t"), (1..=STEPS).collect::<Vec<_>>(), "{revision}");
        let answers: Vec<_> = seen.iter().map(Frame::json).filter(|message| message.get("result").is_some()).collect();
        assert_eq!(answers.len(), 1, "{revision}");
        assert_eq!(
            (&answers[0]["id"], &answers[0]["result"]["structuredContent"]["arguments"]["token"]),
            (&id, &json!("t"))
        );
        let mut ids: Vec<_> = seen.iter().map(|frame| frame.id.clone().expect("every event has an id")).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), seen.len(), "{revision}: ids are unique");
        // What was lost on the way can be asked for again, also after the end, and after it there is nothing.
        let once_more = rest(client.open_get(Some(&place)).await.unwrap()).await;
        assert_eq!(once_more, again, "{revision}");
        assert_eq!(rest(client.open_get(Some(&last_id(&again))).await.unwrap()).await, [], "{revision}");
    }
    assert_eq!(server.received_method("tools/call").len(), LEGACY.len(), "nothing is called twice");
    assert_eq!(server.cancelled(), Vec::<String>::new(), "a legacy client that goes away has not cancelled");
}

#[tokio::test]
async fn ids_of_another_session_and_forged_ones_are_refused() {
    let (_server, gateway) = start("").await;
    let (ann, bob) = (gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.legacy("/mcp", NEWEST_LEGACY).await);
    let (mut called, mut stood) = (Vec::new(), Vec::new());
    let mut stream = call(&ann, "works", "t").await;
    message(&mut stream, &mut called).await;
    let mut standing = ann.open_get(None).await.unwrap();
    stood.push(standing.next_event(PATIENCE).await.unwrap().unwrap());
    let (of_call, of_get) = (last_id(&called), last_id(&stood));
    let name = of_call.rsplit_once('.').unwrap().0;
    let flipped = format!("{}A{}", &of_call[..10], &of_call[11..]);
    let flipped = if flipped == of_call { format!("{}B{}", &of_call[..10], &of_call[11..]) } else { flipped };
    let long = format!("{}.1", "A".repeat(5_000));
    let cases = [
        (&bob, of_call.as_str()),
        (&bob, of_get.as_str()),
        (&ann, "1"),
        (&ann, "x.y"),
        (&ann, "../../etc.1"),
        (&ann, &flipped),
        (&ann, &format!("{name}.4711")),
        (&ann, &format!("{name}.-1")),
        (&ann, name),
        (&ann, &long),
    ];
    for (client, id) in cases {
        let answer = client.open_get(Some(id)).await.unwrap();
        assert_eq!(answer.status, 400, "{id}");
        let error = answer.finish().await.unwrap().error();
        assert!(error["message"].as_str().unwrap().contains("FL-1112"), "{id}: {error}");
    }
    let two =
        [("accept", "text/event-stream"), ("last-event-id", of_call.as_str()), ("last-event-id", of_get.as_str())];
    assert_eq!(ann.raw(Method::GET, "", &two).await.unwrap().status, 400);
    gateway.logged("FL-1112").await;
    // Nothing of that disturbed the streams they named.
    let frames = rest(stream).await;
    assert_eq!(progress(&frames, "t"), (2..=STEPS).collect::<Vec<_>>());
}

#[tokio::test]
async fn streams_of_one_session_do_not_mix() {
    let (server, gateway) = start("").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.list("tools/list", "tools").await.unwrap();
    let mut places = Vec::new();
    for token in ["one", "two", "three"] {
        let mut stream = call(&client, "works", token).await;
        let mut seen = Vec::new();
        assert_eq!(message(&mut stream, &mut seen).await["params"]["progressToken"], token);
        places.push((token, last_id(&seen)));
    }
    let mut standing = client.open_get(None).await.unwrap();
    let mut stood = vec![standing.next_event(PATIENCE).await.unwrap().unwrap()];
    standing.vanish();
    server.change_list().await;
    for (token, place) in &places {
        let frames = rest(client.open_get(Some(place)).await.unwrap()).await;
        assert_eq!(progress(&frames, token), (2..=STEPS).collect::<Vec<_>>(), "{token}");
        assert_eq!(frames.len() as u64, STEPS, "{token}: {frames:?}");
        assert_eq!(frames.last().unwrap().json()["result"]["structuredContent"]["arguments"]["token"], *token);
    }
    // What belongs to no call waits on the GET stream, and comes once.
    let mut standing = client.open_get(Some(&last_id(&stood))).await.unwrap();
    assert_eq!(message(&mut standing, &mut stood).await["method"], "notifications/tools/list_changed");
    assert!(standing.next(Duration::from_millis(300)).await.is_err(), "nothing else is said");
}

#[tokio::test]
async fn a_question_that_was_asked_meanwhile_is_asked_when_the_client_is_back() {
    let (server, gateway) = start("").await;
    for revision in LEGACY {
        let client = McpClient::new(&gateway.url("/mcp"))
            .limit(PATIENCE)
            .capabilities(json!({"elicitation": {}}))
            .answering(|_, _| Reply::Result(json!({"action": "accept", "content": {"name": "Ada"}})));
        client.initialize(revision).await.unwrap();
        let mut stream = call(&client, "asks", "t").await;
        let mut seen = Vec::new();
        message(&mut stream, &mut seen).await;
        stream.vanish();
        // Long enough for the question to be asked of nobody.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut stream = client.open_get(Some(&last_id(&seen))).await.unwrap();
        let question = stream.next_method("elicitation/create", PATIENCE).await.unwrap();
        assert!(question["id"].is_number(), "{question}");
        let answer = rest(stream).await.last().unwrap().json();
        let heard = &answer["result"]["structuredContent"]["answers"][0]["result"]["content"]["name"];
        assert_eq!(*heard, "Ada", "{revision}: {answer}");
    }
    assert_eq!(server.received_method("tools/call").len(), LEGACY.len());
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_left_out_and_a_lost_answer_is_said() {
    let (server, gateway) = start("sessions: { replay_events: 8, replay_bytes: 100KiB }").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for (number, tool) in ["many", "large"].iter().enumerate() {
        let mut stream = call(&client, tool, "t").await;
        let id = stream.id().cloned().unwrap();
        let mut seen = Vec::new();
        message(&mut stream, &mut seen).await;
        stream.vanish();
        eventually(PATIENCE, "the call goes on to its end", || server.calls_finished() > number as u64).await;
        in_flight(&gateway, 0).await;
        let frames = rest(client.open_get(Some(&last_id(&seen))).await.unwrap()).await;
        let answer = frames.last().unwrap().json();
        assert_eq!(answer["id"], id, "{tool}: {answer}");
        if *tool == "many" {
            assert_eq!(progress(&frames, "t"), (34..=40).collect::<Vec<_>>(), "the newest are kept");
            assert!(answer["result"].is_object(), "{answer}");
        } else {
            assert_eq!(frames.len(), 1, "{tool}");
            assert!(answer["error"]["message"].as_str().unwrap().contains("FL-1112"), "{answer}");
        }
    }
    // Somebody who listens gets it all the same.
    let frames = rest(call(&client, "large", "t").await).await;
    assert_eq!(frames.last().unwrap().json()["result"]["x"].as_str().unwrap().len(), 200_000);
}

#[tokio::test]
async fn the_end_of_a_session_ends_its_calls_that_nobody_listens_to() {
    for stdio in [false, true] {
        let server = ScriptedServer::start(script()).await;
        let child = StdioServer::new(script());
        let entry = if stdio { child.yaml() } else { format!("url: \"{}\"", server.url()) };
        let gateway = Gateway::start(&format!("servers:\n  a: {{ {entry} }}\n")).await;
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let mut places = Vec::new();
        for token in ["one", "two"] {
            let mut stream = call(&client, "waits", token).await;
            let mut seen = Vec::new();
            message(&mut stream, &mut seen).await;
            places.push(last_id(&seen));
            stream.vanish();
        }
        let listening = client.open_get(Some(&places[0])).await.unwrap();
        in_flight(&gateway, 2).await;
        assert_eq!(client.delete().await.unwrap().status, 200);
        let ended = tokio::time::timeout(relaxed(2 * SECOND), rest(listening)).await.expect("its streams end");
        assert_eq!(ended, [], "stdio: {stdio}");
        in_flight(&gateway, 0).await;
        let cancelled = || {
            if stdio { child.received_method("notifications/cancelled").len() } else { server.cancelled().len() }
        };
        eventually(PATIENCE, "the server is told", || cancelled() == 2).await;
        assert_eq!(client.open_get(Some(&places[1])).await.unwrap().status, 404);
    }
}

#[tokio::test]
async fn a_client_can_cancel_a_call_it_does_not_listen_to() {
    let (server, gateway) = start("").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = call(&client, "waits", "t").await;
    let (id, mut seen) = (stream.id().cloned().unwrap(), Vec::new());
    message(&mut stream, &mut seen).await;
    stream.vanish();
    client.cancel(&id).await.unwrap();
    eventually(PATIENCE, "the server is told", || server.cancelled().len() == 1).await;
    let frames = rest(client.open_get(Some(&last_id(&seen))).await.unwrap()).await;
    assert_eq!(frames, [], "a cancelled call has no answer");
}

#[tokio::test]
async fn whoever_comes_back_takes_the_place_of_who_was_there() {
    let (server, gateway) = start("").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.list("tools/list", "tools").await.unwrap();
    let mut first = call(&client, "works", "t").await;
    let mut seen = Vec::new();
    message(&mut first, &mut seen).await;
    // The gateway does not know yet that the first connection is of no use.
    let second = client.open_get(Some(&last_id(&seen))).await.unwrap();
    let (left, taken) = (rest(first).await, rest(second).await);
    assert!(left.iter().all(|frame| frame.json().get("result").is_none()), "{left:?}");
    assert_eq!(progress(&taken, "t"), (2..=STEPS).collect::<Vec<_>>());
    assert!(taken.last().unwrap().json()["result"].is_object());

    let mut first = client.open_get(None).await.unwrap();
    let opened = first.next_event(PATIENCE).await.unwrap().unwrap();
    let mut second = client.open_get(opened.id.as_deref()).await.unwrap();
    assert_eq!(rest(first).await, []);
    server.change_list().await;
    second.next_method("notifications/tools/list_changed", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_get_stream_comes_back_with_what_was_said_meanwhile() {
    let (server, gateway) = start("").await;
    rows::until_listed(&gateway, "a").await;
    let update = async |number: usize| {
        server.notify("notifications/resources/updated", &json!({"uri": format!("test://resource/{number}")})).await;
    };
    let witness = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut witnessed = witness.open_get(None).await.unwrap();
    for revision in LEGACY {
        let client = gateway.legacy("/mcp", revision).await;
        for number in 0..6 {
            for client in [&client, &witness] {
                let uri = json!({"uri": format!("test://resource/{number}")});
                client.result("resources/subscribe", uri).await.unwrap();
            }
        }
        let (mut standing, mut seen) = (client.open_get(None).await.unwrap(), Vec::new());
        update(0).await;
        assert_eq!(message(&mut standing, &mut seen).await["params"]["uri"], "test://resource/0");
        assert_eq!(seen[0].data.is_empty(), revision == NEWEST_LEGACY, "{revision}: {seen:?}");
        standing.vanish();
        for number in 1..5 {
            update(number).await;
        }
        for number in 0..5 {
            let told = witnessed.next_method("notifications/resources/updated", PATIENCE).await.unwrap();
            assert_eq!(told["params"]["uri"], format!("test://resource/{number}"));
        }
        let (mut standing, mut missed) = (client.open_get(Some(&last_id(&seen))).await.unwrap(), Vec::new());
        // From what it missed on it is what it was.
        update(5).await;
        for number in 1..6 {
            let told = message(&mut standing, &mut missed).await;
            assert_eq!(told["params"]["uri"], format!("test://resource/{number}"), "{revision}: each once, in order");
        }
        witnessed.next_method("notifications/resources/updated", PATIENCE).await.unwrap();
        assert!(standing.next(Duration::from_millis(200)).await.is_err(), "{revision}: nothing else is said");
        client.delete().await.unwrap();
    }
}

#[tokio::test]
async fn after_a_restart_streams_are_new_and_lost_calls_are_said() {
    let (server, mut gateway) = start("").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.list("tools/list", "tools").await.unwrap();
    let mut standing = client.open_get(None).await.unwrap();
    let stood = standing.next_event(PATIENCE).await.unwrap().unwrap();
    let mut stream = call(&client, "waits", "t").await;
    let (id, mut seen) = (stream.id().cloned().unwrap(), Vec::new());
    message(&mut stream, &mut seen).await;
    gateway.kill().await;
    gateway.restart().await;
    let back = McpClient::new(&gateway.url("/mcp")).limit(PATIENCE);
    back.set_session(client.session().as_deref());
    let frames = rest(back.open_get(Some(&last_id(&seen))).await.unwrap()).await;
    let answer = frames.last().unwrap().json();
    assert_eq!((frames.len(), &answer["id"]), (1, &id), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("FL-1112"), "{answer}");
    let mut standing = back.open_get(stood.id.as_deref()).await.unwrap();
    assert_eq!(standing.status, 200);
    assert!(back.call("a__tool_0", json!({})).await.is_ok(), "the session goes on");
    server.change_list().await;
    standing.next_method("notifications/tools/list_changed", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn without_keeping_there_are_no_ids_and_a_call_ends_with_its_connection() {
    let (server, gateway) = start("sessions: { replay_events: 0 }").await;
    for revision in LEGACY {
        let client = gateway.legacy("/mcp", revision).await;
        client.list("tools/list", "tools").await.unwrap();
        let mut stream = call(&client, "waits", "t").await;
        let mut seen = Vec::new();
        message(&mut stream, &mut seen).await;
        assert!(seen.len() == 1 && seen[0].id.is_none(), "{revision}: {seen:?}");
        in_flight(&gateway, 1).await;
        stream.vanish();
        in_flight(&gateway, 0).await;
        // An id of somewhere else is none of its business.
        let mut standing = client.open_get(Some("somebody.1")).await.unwrap();
        let opened = || server.received().iter().any(|request| request.http_method == "GET");
        eventually(PATIENCE, "the gateway's own GET stream", opened).await;
        server.change_list().await;
        let mut seen = Vec::new();
        assert_eq!(message(&mut standing, &mut seen).await["method"], "notifications/tools/list_changed");
        assert!(seen.len() == 1 && seen[0].id.is_none(), "{revision}: {seen:?}");
        client.delete().await.unwrap();
    }
}

#[tokio::test]
async fn two_hundred_streams_nobody_comes_back_for_stay_within_bounds() {
    const STREAMS: usize = 200;
    const PER_SESSION: usize = 64 << 10;
    let (server, gateway) = start("sessions: { replay_bytes: 64KiB, idle: 1s }").await;
    let abandon = async || {
        let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let mut stream = call(&client, "talks", "t").await;
        message(&mut stream, &mut Vec::new()).await;
        stream.vanish();
    };
    abandon().await;
    in_flight(&gateway, 0).await;
    let before = gateway.resident_bytes();
    for _ in 0..STREAMS / 20 {
        futures_util::future::join_all((0..20).map(|_| abandon())).await;
    }
    eventually(PATIENCE, "every call goes on to its end", || server.calls_finished() as usize == STREAMS + 1).await;
    in_flight(&gateway, 0).await;
    let after = gateway.resident_bytes();
    println!("resident: {before} before, {after} after");
    // Each said half a megabyte that nobody heard.
    let metrics = get(&gateway.admin_url("/metrics")).await.1;
    let kept = metrics.lines().find_map(|line| line.strip_prefix("fairlead_replay_bytes ")).unwrap();
    let kept = kept.parse::<usize>().unwrap();
    assert!((1..=(STREAMS + 1) * PER_SESSION).contains(&kept), "{kept} bytes are kept");
    // What the allocator does not give back at once counts too: no more than all may keep, and some slack.
    assert!(after < before + (80 << 20), "{after} bytes after, {before} before");
    let forgotten =
        async || get(&gateway.admin_url("/metrics")).await.1.contains("fairlead_sessions 0\n").then_some(());
    eventually_some(Duration::from_secs(40), "sessions nobody uses are forgotten, with what they kept", forgotten)
        .await;
    assert!(get(&gateway.admin_url("/metrics")).await.1.contains("fairlead_replay_bytes 0\n"));
}

#[tokio::test]
async fn a_gateway_that_stops_does_not_wait_for_ever_for_a_call_nobody_listens_to() {
    let (_server, mut gateway) = start("drain: 1s").await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = call(&client, "waits", "t").await;
    message(&mut stream, &mut Vec::new()).await;
    stream.vanish();
    let start = std::time::Instant::now();
    gateway.stop().await;
    assert!(start.elapsed() < relaxed(5 * SECOND), "{:?}", start.elapsed());
}
