//! `stdio`: a client on standard streams.

use super::fixture::{Fixture, demo, eventually, marked, send};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// A client on the streams of `fairlead stdio`.
struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Client {
    fn new(fixture: &Fixture, arguments: &[&str]) -> Self {
        let mut command = fixture.command(&[&["stdio"], arguments].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("piped");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines }
    }

    fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    fn send_text(&mut self, text: &str) {
        writeln!(self.stdin.as_mut().expect("open"), "{text}").expect("it reads");
    }

    /// The next line; every line must be a message.
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(30)).expect("a line in time");
        let message: Value = serde_json::from_str(&line).expect("nothing but the protocol on stdout");
        assert_eq!(message["jsonrpc"], "2.0", "{message}");
        message
    }

    /// The next message but for changed lists: what becomes known of the servers while a client begins may be told it.
    fn heard(&self) -> Value {
        loop {
            let message = self.next();
            if !message["method"].as_str().is_some_and(|method| method.ends_with("/list_changed")) {
                return message;
            }
        }
    }

    /// The answer to `id`, and what came before it.
    fn answer(&self, id: &Value) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        for _ in 0..1000 {
            let message = self.next();
            if message["id"] == *id && message.get("method").is_none() {
                return (message, before);
            }
            before.push(message);
        }
        panic!("no answer to {id}");
    }

    fn ask(&mut self, id: impl Into<Value>, method: &str, params: &Value) -> Value {
        let id = id.into();
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        self.answer(&id).0
    }

    fn open(&mut self, capabilities: &Value) {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "1" } });
        let answer = self.ask(0, "initialize", &params);
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    }

    /// Closes stdin and waits for the end: the exit code, and what was not read but for changed lists.
    fn close(mut self) -> (i32, Vec<String>) {
        drop(self.stdin.take());
        let mut status = None;
        eventually("the bridge ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        (
            status.and_then(|status| status.code()).unwrap_or(-1),
            self.lines.iter().filter(|line| !line.contains("/list_changed")).collect(),
        )
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stops a gateway that a client started in the background.
struct Background<'a>(&'a Fixture);

impl Background<'_> {
    fn pid(&self) -> u32 {
        self.0.instance().and_then(|instance| instance["pid"].as_u64()).map_or(0, |pid| u32::try_from(pid).unwrap_or(0))
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let pid = self.pid();
        if pid > 0 {
            send(pid, Signal::SIGTERM);
            let until = Instant::now() + Duration::from_secs(10);
            while self.0.instance().is_some() && Instant::now() < until {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn modern(extra: Value) -> Value {
    let mut params = extra;
    params["_meta"] = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}, "io.modelcontextprotocol/clientInfo": { "name": "t", "version": "1" } });
    params
}

#[test]
fn a_legacy_client_through_a_running_gateway() {
    let fixture = Fixture::new(&demo("feature", "feature", "stdio-legacy"));
    let _up = fixture.up();
    fixture.servers();
    let mut client = Client::new(&fixture, &[]);
    client.open(&json!({}));
    let answer = client.ask("a", "tools/call", &json!({ "name": "feature__echo", "arguments": { "message": "x" } }));
    assert_eq!(answer["result"]["content"][0]["text"], "x");

    // Progress comes before its answer, with the client's own token.
    let params = json!({ "name": "feature__sleep", "arguments": { "ms": 300 }, "_meta": { "progressToken": "p" } });
    client.send(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params }));
    let (answer, before) = client.answer(&2.into());
    assert!(answer["result"].is_object(), "{answer}");
    assert!(before.iter().any(|message| message["params"]["progressToken"] == "p"), "{before:?}");

    // Junk is answered, and does no harm.
    client.send_text("{ this is not JSON");
    assert_eq!(client.heard()["error"]["code"], -32700);

    // What the server says unasked arrives on the standing stream.
    client.send(&json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": "feature__list_change", "arguments": {} } }));
    let (_, mut seen) = client.answer(&3.into());
    while !seen.iter().any(|message| message["method"] == "notifications/tools/list_changed") {
        seen.push(client.next());
    }

    // A cancelled call has no answer; the ones after it do.
    client.send(&json!({ "jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": { "name": "feature__sleep", "arguments": { "ms": 20000 } } }));
    eventually("the call is in flight", || fixture.servers()[0]["calls"].as_u64() > Some(0));
    client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 4 } }));
    eventually("the call is gone", || fixture.servers()[0]["calls"] == 0);
    assert_eq!(client.ask(5, "ping", &json!({}))["result"], json!({}));
    let (code, rest) = client.close();
    assert_eq!((code, rest), (0, Vec::new()));
}

#[test]
fn a_modern_client_and_its_headers() {
    let fixture = Fixture::new(&demo("feature", "feature", "stdio-modern"));
    let _up = fixture.up();
    fixture.servers();
    let mut client = Client::new(&fixture, &[]);
    let answer = client.ask(1, "server/discover", &modern(json!({})));
    assert!(answer["result"]["supportedVersions"].is_array(), "{answer}");
    let call = json!({ "name": "feature__test_header_mirroring", "arguments": { "region": "eu" } });
    // Before and after the definitions passed by.
    for id in [2, 4] {
        let answer = client.ask(id, "tools/call", &modern(call.clone()));
        assert!(answer["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("eu")), "{answer}");
        client.ask(id + 1, "tools/list", &modern(json!({})));
    }
    let answer = client.ask("no", "tools/call", &modern(json!({ "name": "feature__nothing" })));
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("FL-1201")), "{answer}");

    client.send(&json!({ "jsonrpc": "2.0", "id": 6, "method": "tools/call",
        "params": modern(json!({ "name": "feature__sleep", "arguments": { "ms": 20000 } })) }));
    eventually("the call is in flight", || fixture.servers()[0]["calls"].as_u64() > Some(0));
    client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 6 } }));
    eventually("the call is gone", || fixture.servers()[0]["calls"] == 0);
    assert_eq!(client.close(), (0, Vec::new()));
}

#[test]
fn a_question_of_the_server_is_answered_by_the_client() {
    let fixture = Fixture::new(
        &demo("feature", "feature", "stdio-question").replace("    start", "    protocol: \"2025-11-25\"\n    start"),
    );
    let _up = fixture.up();
    fixture.servers();
    let mut client = Client::new(&fixture, &[]);
    client.open(&json!({ "elicitation": {} }));
    // A question on a shared pipe names no call, so the first one is declined and remembered; from then on the caller
    // has the server to itself for the length of a call.
    let mut asked = None;
    for id in 1..=5 {
        client.send(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": { "name": "feature__test_elicitation", "arguments": { "message": "who?" } } }));
        let message = client.heard();
        if message["method"] == "elicitation/create" {
            asked = Some((id, message));
            break;
        }
        assert!(message["error"]["message"].as_str().is_some_and(|text| text.contains("FL-1306")), "{message}");
    }
    let (id, question) = asked.expect("it is asked in the end");
    client.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "accept", "content": { "username": "u", "email": "u@example.org" } } }));
    let (answer, _) = client.answer(&id.into());
    assert!(answer["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("accept")), "{answer}");
}

#[test]
fn clients_share_a_gateway_that_the_first_one_starts() {
    let mark = "stdio-shared";
    let fixture = Fixture::new(&demo("feature", "feature", mark));
    let background = Background(&fixture);
    let mut one = Client::new(&fixture, &[]);
    let mut two = Client::new(&fixture, &[]);
    one.open(&json!({}));
    two.open(&json!({}));
    let count = json!({ "name": "feature__count_calls", "arguments": {} });
    let first = one.ask(1, "tools/call", &count)["result"]["content"][0]["text"].clone();
    let second = two.ask(1, "tools/call", &count)["result"]["content"][0]["text"].clone();
    assert_ne!(first, second, "both reach the same server, which counts on");
    let pid = background.pid();
    assert_eq!(one.close().0, 0);
    assert_eq!(background.pid(), pid, "the others are still served");
    assert!(two.ask(2, "tools/call", &count)["result"].is_object());
    assert_eq!(two.close().0, 0);
    drop(background);
    eventually("nothing is left", || marked(mark).is_empty());
}

#[test]
fn a_private_gateway_ends_with_its_client() {
    let mark = "stdio-private";
    let fixture = Fixture::new(&demo("crm", "crm", mark));
    let mut client = Client::new(&fixture, &["--private"]);
    client.open(&json!({}));
    let answer = client.ask(1, "tools/list", &json!({}));
    assert!(answer["result"]["tools"].as_array().is_some_and(|tools| !tools.is_empty()), "{answer}");
    assert_eq!(fixture.instance(), None);
    assert_eq!(client.close().0, 0);
    assert_eq!(marked(mark), Vec::<u32>::new());
}

#[test]
fn a_gateway_that_restarts_is_not_noticed() {
    let fixture = Fixture::new(&demo("feature", "feature", "stdio-restart"));
    let mut up = fixture.up();
    fixture.servers();
    let mut client = Client::new(&fixture, &[]);
    client.open(&json!({}));
    let echo = json!({ "name": "feature__echo", "arguments": { "message": "again" } });
    assert!(client.ask(1, "tools/call", &echo)["result"].is_object());
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait(), Some(0));
    // Asked while there is no gateway: it waits for the next one.
    client.send(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": echo }));
    let mut up = fixture.up();
    let (answer, _) = client.answer(&2.into());
    assert_eq!(answer["result"]["content"][0]["text"], "again", "{answer}");

    // One that has lost its keys knows no session: the bridge opens another one.
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait(), Some(0));
    std::fs::remove_file(fixture.data_dir().join("seal.key")).expect("the key");
    let _up = fixture.up();
    let answer = client.ask(3, "tools/call", &echo);
    assert_eq!(answer["result"]["content"][0]["text"], "again", "{answer}");
    assert_eq!(client.close().0, 0);
}

#[test]
fn a_batch_is_one_line_in_and_its_answers_come_out() {
    let fixture = Fixture::new(&demo("crm", "crm", "stdio-batch"));
    let _up = fixture.up();
    fixture.servers();
    let mut client = Client::new(&fixture, &[]);
    let params =
        json!({ "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    assert_eq!(client.ask(0, "initialize", &params)["result"]["protocolVersion"], "2025-03-26");
    client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    client.send(&json!([{ "jsonrpc": "2.0", "id": 1, "method": "ping" }, { "jsonrpc": "2.0", "id": 2, "method": "tools/list" }]));
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let line = client.lines.recv_timeout(Duration::from_secs(30)).expect("a line in time");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        let answers = answer.as_array().cloned().unwrap_or_else(|| vec![answer]);
        ids.extend(answers.iter().filter_map(|answer| answer["id"].as_u64()));
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    assert_eq!(client.close().0, 0);
}

#[test]
fn a_gateway_in_the_background_does_without_a_port_that_is_taken() {
    let fixture = Fixture::new("");
    let taken =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr().map(|at| (listener, at)));
    let (_taken, address) = taken.expect("a port");
    fixture.write(
        "fairlead.yaml",
        &format!("listen: {{ address: \"{address}\" }}\nadmin: off\nservers:\n{}", demo("crm", "crm", "stdio-taken")),
    );
    let _background = Background(&fixture);
    let mut client = Client::new(&fixture, &[]);
    client.open(&json!({}));
    assert!(client.ask(1, "tools/list", &json!({}))["result"].is_object());
    assert_eq!(fixture.instance().expect("it runs")["mcp_url"], "");
    assert_eq!(client.close().0, 0);
}

#[test]
fn a_gateway_that_cannot_start_is_explained() {
    let fixture = Fixture::new("");
    fixture.write("file", "");
    fixture.write("fairlead.yaml", "data_dir: data\nadmin: off\nlisten: { address: 127.0.0.1:0 }\n");
    fixture.write("data/fairlead.db/in-the-way", "");
    let ran = fixture.run(&["stdio"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""), "{ran:?}");
    assert!(ran.stderr.contains("FL-1403") && ran.stderr.contains("background.log"), "{ran:?}");
}

#[test]
fn a_gateway_by_url() {
    let fixture = Fixture::new(&demo("feature", "feature", "stdio-url"));
    let _up = fixture.up();
    fixture.servers();
    let url = fixture.instance().expect("it runs")["mcp_url"].as_str().expect("a URL").to_owned();
    let mut client = Client::new(&fixture, &["--url", &url]);
    client.open(&json!({}));
    let answer = client.ask(1, "tools/call", &json!({ "name": "feature__echo", "arguments": { "message": "far" } }));
    assert_eq!(answer["result"]["content"][0]["text"], "far");
    assert_eq!(client.close(), (0, Vec::new()));
}
