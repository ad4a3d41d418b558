//! Broken servers break nothing.

use std::time::{Duration, Instant};

use fairlead_testkit::{Answer, Finish, Garbage, Hang, McpClient, Script, ScriptedServer, StdioScript, ToolScript};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
};

use crate::support::{
    Gateway, MODERN, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually, eventually_some, processes, relaxed,
    rows,
};

/// What a debug build on a busy machine may take longer.
const SLACK: u32 = if cfg!(debug_assertions) { 4 } else { 1 };
/// How long a prepared list may take on an open connection.
const LIST: Duration = if cfg!(debug_assertions) { Duration::from_millis(25) } else { Duration::from_millis(5) };
/// The default of `catalog.first_wait`.
const FIRST_WAIT: Duration = Duration::from_secs(3);
/// What a measured wait may be off.
const MARGIN: Duration = Duration::from_secs(1);

/// A port of loopback where nobody listens, and nobody else can as long as the socket is held.
fn refused_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// Servers that the list of an endpoint says are missing or stale, with the reason.
async fn troubles(client: &McpClient) -> Value {
    client.result("tools/list", json!({})).await.unwrap()["_meta"]["fairlead/servers"].clone()
}

fn reason<'a>(troubles: &'a Value, server: &str) -> &'a str {
    troubles[server]["reason"].as_str().unwrap_or_default()
}

fn names(list: &Value) -> Vec<String> {
    list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

/// The message of an answer that must be an error.
fn refusal(answer: &Answer) -> String {
    answer.error()["message"].as_str().unwrap_or_else(|| panic!("no error: {:?}", answer.body)).to_owned()
}

/// `tools/list` again and again over one connection: the median.
async fn median_list_time(gateway: &Gateway) -> Duration {
    const TIMES: usize = 20;
    let mut stream = BufReader::new(TcpStream::connect(gateway.address()).await.unwrap());
    stream.get_ref().set_nodelay(true).unwrap();
    let body = gateway.modern("/mcp").message("tools/list", json!({})).to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-protocol-version: {MODERN}\r\nmcp-method: tools/list\r\n\
         content-length: {}\r\n\r\n{body}",
        gateway.address(),
        body.len()
    );
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await.unwrap();
        times.push(start.elapsed());
        assert!(answer.starts_with(b"{\"jsonrpc\""), "{}", String::from_utf8_lossy(&answer));
    }
    times.sort_unstable();
    times[TIMES / 2]
}

#[tokio::test]
async fn fifty_servers_of_which_fifteen_are_broken() {
    const REMOTE: usize = 30;
    const LOCAL: usize = 5;
    const EACH: usize = 3;
    let mut yaml = "servers:\n".to_owned();
    // The slow ones come first: they must not be in the way of the others.
    let mut slow = Vec::new();
    for n in 0..5 {
        let server = ScriptedServer::start(Script::legacy().delay_ms(20_000)).await;
        yaml += &format!("  slow{n}: {{ url: \"{}\" }}\n", server.url());
        slow.push(server);
    }
    let (mut dead, mut held) = (Vec::new(), Vec::new());
    for n in 0..5 {
        let (socket, port) = refused_port();
        held.push(socket);
        yaml += &format!("  refused{n}: {{ url: \"http://127.0.0.1:{port}/mcp\" }}\n");
        yaml += &format!("  missing{n}: {{ command: \"no-such-program-{n}\", args: [\"s3cret\"] }}\n");
        dead.extend([format!("refused{n}"), format!("missing{n}")]);
    }
    let mut remote = Vec::new();
    for n in 0..REMOTE {
        let script = if n % 2 == 0 { Script::legacy() } else { Script::modern() };
        let server = ScriptedServer::start(script.tools(EACH)).await;
        yaml += &format!("  remote{n}: {{ url: \"{}\" }}\n", server.url());
        remote.push(server);
    }
    let local: Vec<_> = (0..LOCAL).map(|_| StdioServer::new(Script::legacy().tools(EACH))).collect();
    for (n, server) in local.iter().enumerate() {
        yaml += &format!("  local{n}: {{ {} }}\n", server.yaml());
    }

    // Ready at once.
    let start = Instant::now();
    let mut gateway = Gateway::start(&yaml).await;
    let ready = start.elapsed();
    println!("ready after {ready:?}");
    assert!(ready < relaxed(SECOND * SLACK), "ready after {ready:?}");

    // Cold: as much as there is within the wait, and who is missing.
    let client = gateway.modern("/mcp");
    let start = Instant::now();
    let cold = client.result("tools/list", json!({})).await.unwrap();
    let took = start.elapsed();
    println!("a cold list after {took:?} with {} tools", names(&cold).len());
    assert!(took < relaxed(FIRST_WAIT + MARGIN), "a cold list took {took:?}");
    let missing = &cold["_meta"]["fairlead/servers"];
    for server in dead.iter().cloned().chain((0..5).map(|n| format!("slow{n}"))) {
        assert!(!reason(missing, &server).is_empty(), "no reason for {server} in {missing}");
    }
    let shown = missing.to_string();
    for secret in ["127.0.0.1", "no-such-program", "s3cret", "http"] {
        assert!(!shown.contains(secret), "`{secret}` is in the reasons: {shown}");
    }
    let complete = eventually_some(PATIENCE, "every healthy server is listed", async || {
        let list = client.result("tools/list", json!({})).await.unwrap();
        (names(&list).len() == (REMOTE + LOCAL) * EACH).then_some(list)
    })
    .await;
    assert_eq!(complete["_meta"]["fairlead/servers"].as_object().unwrap().len(), 15, "{complete}");

    // A dead one fails at once, a slow one in nobody's way.
    let waiting = tokio::spawn({
        let client = gateway.modern("/mcp");
        async move { client.request("tools/call", json!({"name": "slow0__tool_0", "arguments": {}})).await }
    });
    for server in &dead {
        let start = Instant::now();
        let answer = client.request("tools/call", json!({"name": format!("{server}__x"), "arguments": {}})).await;
        let said = refusal(&answer.unwrap());
        assert!(start.elapsed() < relaxed(SECOND), "{server} took {:?}", start.elapsed());
        assert!(said.contains("FL-1301") && said.contains("the call was not made"), "{said}");
    }
    for name in ["remote0__tool_0", "remote1__tool_1", "local0__tool_2"] {
        let start = Instant::now();
        client.call(name, json!({"n": 1})).await.unwrap();
        assert!(start.elapsed() < relaxed(SECOND), "{name} took {:?}", start.elapsed());
    }
    waiting.abort();

    // Warm: at once and complete, also with what is gone since.
    gateway.stop().await;
    drop(remote.split_off(REMOTE - 4));
    gateway.restart().await;
    let client = gateway.modern("/mcp");
    let start = Instant::now();
    let warm = client.result("tools/list", json!({})).await.unwrap();
    let first = start.elapsed();
    assert!(first < relaxed(FIRST_WAIT / 2), "the first warm list took {first:?}");
    assert_eq!(names(&warm).len(), (REMOTE + LOCAL) * EACH, "a warm list is complete");
    let median = median_list_time(&gateway).await;
    println!("the first warm list after {first:?}, then {median:?} (median)");
    assert!(median < relaxed(LIST), "{median:?}");
    let settled = eventually_some(PATIENCE, "only what is gone is stale", async || {
        let list = client.result("tools/list", json!({})).await.unwrap();
        let tools = list["tools"].as_array().unwrap();
        let stale: Vec<_> = tools.iter().filter(|tool| tool["_meta"]["fairlead/stale"] == true).collect();
        (stale.len() == 4 * EACH).then(|| list.clone())
    })
    .await;
    assert_eq!(names(&settled).len(), (REMOTE + LOCAL) * EACH);
    for n in REMOTE - 4..REMOTE {
        let why = reason(&settled["_meta"]["fairlead/servers"], &format!("remote{n}")).to_owned();
        assert!(why.contains("cannot be reached"), "{why}");
        let start = Instant::now();
        let answer = client.request("tools/call", json!({"name": format!("remote{n}__tool_0")})).await.unwrap();
        assert!(start.elapsed() < relaxed(SECOND));
        assert!(refusal(&answer).contains("FL-1301"));
    }
    let median = median_list_time(&gateway).await;
    assert!(median < relaxed(LIST), "{median:?}");
}

#[tokio::test]
async fn slow_servers_do_not_keep_the_others_from_starting() {
    // More than may be starting at the same time.
    let mut slow = Vec::new();
    let mut yaml = "servers:\n".to_owned();
    for n in 0..20 {
        slow.push(ScriptedServer::start(Script::legacy().hang(Hang::Everything)).await);
        yaml += &format!("  slow{n}: {{ url: \"{}\" }}\n", slow[n].url());
    }
    let good = ScriptedServer::start(Script::legacy()).await;
    yaml += &format!("  good: {{ url: \"{}\" }}\n", good.url());
    let gateway = Gateway::start(&yaml).await;
    let client = gateway.modern("/mcp");
    let start = Instant::now();
    let list = client.result("tools/list", json!({})).await.unwrap();
    assert!(start.elapsed() < relaxed(FIRST_WAIT + MARGIN));
    assert_eq!(names(&list), ["good__tool_0", "good__tool_1", "good__tool_2"]);
}

#[tokio::test]
async fn a_first_list_waits_as_long_as_it_is_told() {
    let slow = ScriptedServer::start(Script::legacy().hang(Hang::Everything)).await;
    for (wait, least, most) in [("0s", 0, 500), ("700ms", 650, 1_700)] {
        let yaml = format!("catalog: {{ first_wait: {wait} }}\nservers:\n  slow: {{ url: \"{}\" }}\n", slow.url());
        let gateway = Gateway::start(&yaml).await;
        let start = Instant::now();
        let list = gateway.modern("/mcp").result("tools/list", json!({})).await.unwrap();
        let (took, most) = (start.elapsed(), relaxed(Duration::from_millis(most)));
        assert!((Duration::from_millis(least)..most).contains(&took), "`first_wait: {wait}` took {took:?}");
        assert!(names(&list).is_empty());
        assert_eq!(reason(&list["_meta"]["fairlead/servers"], "slow"), "still starting");
    }
}

#[tokio::test]
async fn each_kind_of_broken_server_leaves_the_others_alone_and_says_why() {
    let noisy =
        StdioServer::new(Script::legacy().stdio(StdioScript {
            noise: vec!["starting up...".into(), "{\"not\":\"rpc\"}".into()],
            ..Default::default()
        }));
    let babbling = StdioServer::new(Script::legacy().garbage("initialize", Garbage::NotJson));
    let hung = StdioServer::new(Script::legacy().hang(Hang::AfterInitialize));
    let dying = StdioServer::new(Script::legacy().tool(ToolScript::new("die").sleep(50).finish(Finish::Die)));
    let exits = StdioServer::new(Script::legacy().stdio(StdioScript { exit_at_start: Some(3), ..Default::default() }));
    let html = ScriptedServer::start(Script::legacy().garbage("initialize", Garbage::Html500)).await;
    let unlistable = ScriptedServer::start(Script::legacy().garbage("tools/list", Garbage::ResultAndError)).await;
    let good = ScriptedServer::start(Script::legacy()).await;
    let quick = "timeout: { start: 2s }";
    let yaml = format!(
        "servers:\n  noisy: {{ {}, {quick} }}\n  babbling: {{ {}, {quick} }}\n  hung: {{ {}, {quick} }}\n  \
         dying: {{ {} }}\n  exits: {{ {} }}\n  html: {{ url: \"{}\" }}\n  unlistable: {{ url: \"{}\" }}\n  \
         good: {{ url: \"{}\" }}\n",
        noisy.yaml(),
        babbling.yaml(),
        hung.yaml(),
        dying.yaml(),
        exits.yaml(),
        html.url(),
        unlistable.url(),
        good.url()
    );
    let gateway = Gateway::start(&yaml).await;
    let client = gateway.modern("/mcp");
    let expected = [
        ("babbling", "did not answer `initialize`"),
        ("hung", "cannot be listed"),
        ("exits", "ended"),
        ("html", "HTTP 500"),
        ("unlistable", "tools"),
    ];
    let troubles = eventually_some(PATIENCE, "every broken server is named with its reason", async || {
        let troubles = troubles(&client).await;
        expected.iter().all(|(server, why)| reason(&troubles, server).contains(why)).then_some(troubles)
    });
    let troubles = match tokio::time::timeout(PATIENCE, troubles).await {
        Ok(troubles) => troubles,
        Err(_) => panic!("the reasons are {:#}", self::troubles(&client).await),
    };
    assert_eq!(troubles.as_object().unwrap().len(), expected.len(), "{troubles:#}");
    for (server, why) in expected {
        let row = rows::row(&gateway, server).await;
        assert!(row["error"].as_str().unwrap_or_default().contains(why), "{row:#}");
        let explained = gateway.cli(&["explain", &format!("{server}__tool_0")]).await;
        let said = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(said.contains(why), "`{why}` is not in what `explain {server}__tool_0` says:\n{said}");
    }

    // The others do not notice.
    for name in ["good__tool_0", "noisy__tool_1", "dying__tool_2"] {
        let start = Instant::now();
        client.call(name, json!({})).await.unwrap();
        assert!(start.elapsed() < relaxed(SECOND), "{name} took {:?}", start.elapsed());
    }
    gateway.logged("writes what is not JSON-RPC").await;

    // One that dies takes its own calls with it, and comes back.
    let dies = tokio::spawn({
        let client = gateway.modern("/mcp");
        async move { client.request("tools/call", json!({"name": "dying__die", "arguments": {}})).await }
    });
    client.call("good__tool_1", json!({})).await.unwrap();
    let said = refusal(&dies.await.unwrap().unwrap());
    assert!(said.contains("FL-1303") && said.contains("whether the call took effect is unknown"), "{said}");
    eventually_some(PATIENCE, "the server that died is back", async || {
        client.call("dying__tool_0", json!({})).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_call_to_a_server_that_is_down_fails_at_once_on_every_path() {
    let (_held, refused) = refused_port();
    let yaml = format!(
        "servers:\n  refused: {{ url: \"http://127.0.0.1:{refused}/mcp\" }}\n  missing: {{ command: no-such-program }}\n  \
         exits: {{ command: sh, args: [\"-c\", \"exit 7\"] }}\n"
    );
    let gateway = Gateway::start(&yaml).await;
    for server in ["refused", "missing", "exits"] {
        rows::until(&gateway, server, PATIENCE, "down", |row| row["state"] == "down").await;
        for (path, name) in
            [("/mcp".to_owned(), format!("{server}__x")), (format!("/servers/{server}/mcp"), "x".to_owned())]
        {
            let start = Instant::now();
            let answer = gateway.modern(&path).request("tools/call", json!({"name": name})).await.unwrap();
            assert!(start.elapsed() < relaxed(SECOND), "{server} {path} took {:?}", start.elapsed());
            let said = refusal(&answer);
            assert!(said.contains("FL-1301") && said.contains(server), "{path}: {said}");
        }
        // A legacy client of the transparent view learns it when it connects.
        let start = Instant::now();
        let legacy = McpClient::new(&gateway.url(&format!("/servers/{server}/mcp")));
        let error = legacy.initialize(NEWEST_LEGACY).await.unwrap_err();
        assert!(start.elapsed() < relaxed(SECOND), "{server}");
        assert!(format!("{error:#}").contains("FL-1301"), "{error:#}");
    }
    // And a legacy client of all of them connects all the same.
    let start = Instant::now();
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    assert!(client.list("tools/list", "tools").await.unwrap().is_empty());
    assert!(start.elapsed() < relaxed(SECOND * 2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_answer_that_is_no_message_fails_its_own_call_and_at_once() {
    let kinds = [
        ("both", Garbage::ResultAndError),
        ("neither", Garbage::Neither),
        ("no_version", Garbage::NoVersion),
        ("truncated", Garbage::Truncated),
    ];
    let mut script = Script::legacy().tool(ToolScript::new("linger").sleep(1_500));
    for (name, garbage) in kinds.clone() {
        script = script.tool(ToolScript::new(name).finish(Finish::Garbage(garbage)));
    }
    let remote = ScriptedServer::start(script.clone()).await;
    let local = StdioServer::new(script);
    let yaml = format!("servers:\n  remote: {{ url: \"{}\" }}\n  local: {{ {} }}\n", remote.url(), local.yaml());
    let gateway = Gateway::start(&yaml).await;
    let client = gateway.modern("/mcp");
    for server in ["remote", "local"] {
        rows::until_listed(&gateway, server).await;
        let beside = tokio::spawn({
            let (client, name) = (client.clone(), format!("{server}__linger"));
            async move { client.call(&name, json!({})).await }
        });
        for (name, _) in &kinds {
            let start = Instant::now();
            let answer = client.request("tools/call", json!({"name": format!("{server}__{name}")})).await.unwrap();
            let said = refusal(&answer);
            assert!(said.contains("FL-1304"), "{server}, {name}: {said}");
            assert!(start.elapsed() < relaxed(SECOND), "{server}, {name}: {:?}", start.elapsed());
        }
        beside.await.unwrap().expect("a call beside them is not concerned");
    }
    assert_eq!(local.pids().len(), 1);
}

#[tokio::test]
async fn a_server_that_floods_its_output_drowns_nobody() {
    const WATCHED: Duration = Duration::from_secs(4);
    let good = StdioServer::new(Script::legacy());
    let yaml = format!(
        "servers:\n  lines: {{ command: \"yes\" }}\n  complaints: {{ command: sh, args: [\"-c\", \"yes >&2\"] }}\n  \
         endless: {{ command: cat, args: [/dev/zero], max_message: 1MiB }}\n  good: {{ {} }}\n",
        good.yaml()
    );
    let mut gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "good").await;
    let before = gateway.resident_bytes();
    let client = gateway.modern("/mcp");
    let watch = Instant::now();
    let mut slowest = Duration::ZERO;
    while watch.elapsed() < WATCHED {
        let start = Instant::now();
        client.call("good__tool_0", json!({})).await.unwrap();
        slowest = slowest.max(start.elapsed());
    }
    let (grown, logged) = (gateway.resident_bytes().saturating_sub(before), gateway.log().len());
    println!("beside three floods the slowest call took {slowest:?}; {grown} bytes more, {logged} bytes of log");
    assert!(slowest < relaxed(SECOND), "{slowest:?}");
    assert!(grown < 32 << 20, "{grown} bytes");
    assert!(logged < 256 << 10, "{logged} bytes of log");
    gateway.stop().await;
    eventually(SECOND * 5, "nothing is left", || processes::marked(gateway.mark()).is_empty()).await;
}

#[tokio::test]
async fn a_catalog_of_other_clients_serves_while_the_server_is_starting() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let yaml = format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url());
    let mut gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "a").await;
    gateway.stop().await;
    server.change(|script| script.delay_ms = 20_000);
    gateway.restart().await;
    for capabilities in [json!({}), json!({"sampling": {}, "roots": {"listChanged": true}, "elicitation": {}})] {
        let client = McpClient::new(&gateway.url("/mcp")).capabilities(capabilities.clone());
        client.initialize(NEWEST_LEGACY).await.unwrap();
        let start = Instant::now();
        let list = client.result("tools/list", json!({})).await.unwrap();
        assert!(start.elapsed() < relaxed(SECOND), "{capabilities}: {:?}", start.elapsed());
        assert_eq!(names(&list).len(), 3);
        assert!(list["tools"].as_array().unwrap().iter().all(|tool| tool["_meta"]["fairlead/stale"] == true), "{list}");
        assert_eq!(reason(&list["_meta"]["fairlead/servers"], "a"), "still starting");
    }
}
