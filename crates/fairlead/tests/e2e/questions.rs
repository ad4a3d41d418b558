//! What servers ask reaches the client whose call it belongs to, and nobody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fairlead_testkit::{McpClient, Question, Reply, Script, ScriptedServer, Step, ToolScript, Via};
use serde_json::{Value, json};

use crate::{
    protocol::direct,
    support::{Gateway, LEGACY, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually},
};

/// A client that can be asked everything, says who it is in every answer, and counts what it was asked.
#[derive(Clone)]
struct Person {
    client: McpClient,
    asked: Arc<AtomicUsize>,
}

impl Person {
    fn new(url: &str, name: &str) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, name) = (Arc::clone(&asked), name.to_owned());
        let client = McpClient::new(url)
            .limit(PATIENCE)
            .capabilities(json!({
                "elicitation": {"form": {}, "url": {}},
                "sampling": {},
                "roots": {"listChanged": true},
            }))
            .answering(move |method, params| {
                if method != "roots/list" {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Reply::Result(says(&name, method, params))
            });
        Self { client, asked }
    }

    async fn legacy(gateway: &Gateway, path: &str, name: &str) -> Self {
        let person = Self::new(&gateway.url(path), name);
        person.client.initialize(NEWEST_LEGACY).await.unwrap();
        person
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// What a person says.
fn says(name: &str, method: &str, params: &Value) -> Value {
    match method {
        "roots/list" => json!({"roots": [{"uri": format!("file:///srv/{name}"), "name": name}]}),
        "sampling/createMessage" => {
            let text = format!("{name} heard {}", params["messages"][0]["content"]["text"]);
            json!({"role": "assistant", "model": name, "content": {"type": "text", "text": text}})
        }
        _ => json!({"action": "accept", "content": {"name": name, "heard": params}, "own": 1.5}),
    }
}

const KINDS: [(Question, &str, &str); 4] = [
    (Question::Elicitation, "elicitation/create", "form"),
    (Question::ElicitationUrl, "elicitation/create", "url"),
    (Question::Sampling, "sampling/createMessage", "sampling"),
    (Question::Roots, "roots/list", "roots"),
];

/// A server with a tool for every kind of question, and one that asks everything in turn.
fn asks(via: Via) -> Script {
    let mut script = Script::legacy().tool(ToolScript::new("plain"));
    let mut all = ToolScript::new("all");
    for (question, _, name) in KINDS {
        script = script.tool(ToolScript::new(name).ask(question, via));
        all = all.ask(question, via);
    }
    // Long enough that two callers are in flight together when the question comes.
    script.tool(all).tool(ToolScript::new("later").sleep(250).ask(Question::Elicitation, via))
}

/// The answers a tool got, from its result.
fn answers(result: &Value) -> Vec<Value> {
    result["structuredContent"]["answers"].as_array().cloned().unwrap_or_else(|| panic!("no answers: {result}"))
}

/// A gateway before one server that asks in one of the ways there are.
struct Asking {
    gateway: Gateway,
    http: Option<ScriptedServer>,
    _stdio: Option<StdioServer>,
}

/// How a question comes: with the call's own stream, with the GET stream, over a pipe.
const WAYS: [&str; 3] = ["call", "get", "stdio"];

async fn asking(way: &str, options: &str) -> Asking {
    if way == "stdio" {
        let server = StdioServer::new(asks(Via::Call));
        let yaml = format!("servers:\n  a: {{ {}{options} }}\n", server.yaml());
        return Asking { gateway: Gateway::start(&yaml).await, http: None, _stdio: Some(server) };
    }
    let server = ScriptedServer::start(asks(if way == "get" { Via::Get } else { Via::Call })).await;
    let yaml = format!("servers:\n  a: {{ url: \"{}\"{options} }}\n", server.url());
    Asking { gateway: Gateway::start(&yaml).await, http: Some(server), _stdio: None }
}

#[tokio::test]
async fn every_question_reaches_the_caller_and_its_answer_the_server() {
    let reference = ScriptedServer::start(asks(Via::Call)).await;
    let expected = Person::new(&reference.url(), "ann");
    expected.client.initialize(NEWEST_LEGACY).await.unwrap();
    for way in WAYS {
        let asking = asking(way, "").await;
        for path in ["/servers/a/mcp", "/mcp"] {
            let prefix = if path == "/mcp" { "a__" } else { "" };
            let ann = Person::legacy(&asking.gateway, path, "ann").await;
            ann.client.list("tools/list", "tools").await.unwrap();
            for (_, _, name) in KINDS {
                let result = ann.client.call(&format!("{prefix}{name}"), json!({})).await;
                let result = result.unwrap_or_else(|error| panic!("{way} {path} {name}: {error:#}"));
                let same = expected.client.call(name, json!({})).await.unwrap();
                assert_eq!(answers(&result), answers(&same), "{way} {path} {name}");
            }
            let result = ann.client.call(&format!("{prefix}all"), json!({})).await.unwrap();
            let same = expected.client.call("all", json!({})).await.unwrap();
            assert_eq!(answers(&result), answers(&same), "{way} {path}");
        }
    }
}

#[tokio::test]
async fn every_legacy_revision_can_be_asked() {
    for way in WAYS {
        let asking = asking(way, "").await;
        for revision in LEGACY {
            let ann = Person::new(&asking.gateway.url("/mcp"), "ann");
            ann.client.initialize(revision).await.unwrap();
            let result = ann.client.call("a__sampling", json!({})).await.unwrap();
            assert_eq!(answers(&result)[0]["result"]["model"], "ann", "{way} {revision}");
        }
    }
}

/// Both call at once; returns what each got, `None` where the question was declined.
async fn both(one: &Person, other: &Person) -> [Option<Value>; 2] {
    let call = |person: &Person| {
        let client = person.client.clone();
        async move { client.call("a__later", json!({})).await.unwrap() }
    };
    let (one, other) = tokio::join!(call(one), call(other));
    [one, other].map(|result| answers(&result)[0].get("result").map(|answer| answer["content"]["name"].clone()))
}

#[tokio::test]
async fn a_question_never_reaches_another_caller() {
    for way in WAYS {
        let mut asking = asking(way, "").await;
        let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
        let bob = Person::legacy(&asking.gateway, "/mcp", "bob").await;
        let first = both(&ann, &bob).await;
        for (answer, name) in first.iter().zip(["ann", "bob"]) {
            // Over the call's own stream nothing is ambiguous; elsewhere the first time may be.
            assert!(*answer == Some(json!(name)) || (answer.is_none() && way != "call"), "{way}, {name}: {first:?}");
        }
        for round in 0..3 {
            assert_eq!(both(&ann, &bob).await, [Some(json!("ann")), Some(json!("bob"))], "{way}, round {round}");
        }
        // It is remembered: also after a restart nobody's question is ambiguous.
        asking.gateway.stop().await;
        asking.gateway.restart().await;
        let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
        let bob = Person::legacy(&asking.gateway, "/mcp", "bob").await;
        assert_eq!(both(&ann, &bob).await, [Some(json!("ann")), Some(json!("bob"))], "{way}, after a restart");
    }
}

#[tokio::test]
async fn an_ambiguous_question_is_declined_and_the_server_remembered_as_one_that_asks() {
    let asking = asking("stdio", "").await;
    let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
    let bob = Person::legacy(&asking.gateway, "/mcp", "bob").await;
    for client in [&ann, &bob] {
        client.client.list("tools/list", "tools").await.unwrap();
    }
    assert_eq!(both(&ann, &bob).await, [None, None]);
    assert_eq!((ann.asked(), bob.asked()), (0, 0));
    asking.gateway.logged("the server asks its client; remembered").await;
    assert_eq!(both(&ann, &bob).await, [Some(json!("ann")), Some(json!("bob"))]);
    assert_eq!((ann.asked(), bob.asked()), (1, 1));
}

#[tokio::test]
async fn twenty_callers_at_once_are_each_asked_their_own_question() {
    for way in WAYS {
        let asking = asking(way, ", max_sessions: 8").await;
        let first = Person::legacy(&asking.gateway, "/mcp", "first").await;
        first.client.call("a__elicitation".replace("elicitation", "form").as_str(), json!({})).await.unwrap();
        let mut people = Vec::new();
        for number in 0..20 {
            let name = format!("person{number}");
            people.push((Person::legacy(&asking.gateway, "/mcp", &name).await, name));
        }
        let calls: Vec<_> = people
            .iter()
            .map(|(person, _)| {
                let client = person.client.clone();
                tokio::spawn(async move { client.request("tools/call", json!({"name": "a__later"})).await.unwrap() })
            })
            .collect();
        for (call, (person, name)) in calls.into_iter().zip(&people) {
            let answer = call.await.unwrap();
            let result = answer.result().unwrap_or_else(|error| panic!("{way} {name}: {error:#}"));
            assert_eq!(answers(&result)[0]["result"]["content"]["name"], **name, "{way}: {result}");
            assert_eq!(person.asked(), 1, "{way} {name}");
        }
    }
}

#[tokio::test]
async fn a_client_that_cannot_be_asked_is_not_and_the_server_is_told_so() {
    for way in WAYS {
        let asking = asking(way, "").await;
        // Somebody who can be asked is there too, and is not asked instead.
        let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
        ann.client.list("tools/list", "tools").await.unwrap();
        let _listening = ann.client.open_get(None).await.unwrap();
        for client in [asking.gateway.legacy("/mcp", NEWEST_LEGACY).await, asking.gateway.modern("/mcp")] {
            for (_, _, name) in KINDS {
                let answer = client.request("tools/call", json!({"name": format!("a__{name}")})).await.unwrap();
                let asked = answer.messages().iter().any(|message| message["method"].is_string());
                assert!(!asked, "{way} {name}: {:?}", answer.messages());
                let answers = answers(&answer.result().unwrap());
                assert!(answers[0]["error"]["code"].is_i64(), "{way} {name}: {answers:?}");
            }
        }
        assert_eq!(ann.asked(), 0, "{way}");
    }
}

#[tokio::test]
async fn a_server_that_follows_roots_sees_those_of_its_caller() {
    for way in WAYS {
        let asking = asking(way, "").await;
        let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
        let bob = Person::legacy(&asking.gateway, "/mcp", "bob").await;
        for _ in 0..2 {
            for (person, name) in [(&ann, "ann"), (&bob, "bob")] {
                let result = person.client.call("a__roots", json!({})).await.unwrap();
                let roots = &answers(&result)[0]["result"]["roots"];
                assert_eq!(roots[0]["uri"], format!("file:///srv/{name}"), "{way}: {result}");
            }
        }
        let call = |person: &Person| {
            let client = person.client.clone();
            async move {
                answers(&client.call("a__roots", json!({})).await.unwrap())[0]["result"]["roots"][0]["name"].clone()
            }
        };
        let both = tokio::join!(call(&ann), call(&bob));
        assert_eq!(both, (json!("ann"), json!("bob")), "{way}");
    }
}

#[tokio::test]
async fn the_very_first_question_for_roots_is_answered_by_the_only_caller_and_the_link_is_nobody_elses_then() {
    for way in WAYS {
        let asking = asking(way, "").await;
        let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
        let bob = Person::legacy(&asking.gateway, "/mcp", "bob").await;
        for person in [&ann, &bob] {
            person.client.call("a__plain", json!({})).await.unwrap();
        }
        // Both used the session it is asked on.
        for (person, name) in [(&bob, "bob"), (&ann, "ann"), (&bob, "bob")] {
            let result = person.client.call("a__roots", json!({})).await.unwrap();
            let roots = &answers(&result)[0]["result"]["roots"];
            assert_eq!(roots[0]["uri"], format!("file:///srv/{name}"), "{way}: {result}");
        }
    }
}

#[tokio::test]
async fn the_end_of_an_elicitation_by_url_is_told_after_its_call_to_whom_it_was_shown() {
    const COMPLETE: &str = "notifications/elicitation/complete";
    let asking = asking("call", "").await;
    let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
    let bob = Person::legacy(&asking.gateway, "/mcp", "bob").await;
    let mut streams = Vec::new();
    for person in [&ann, &bob] {
        person.client.call("a__plain", json!({})).await.unwrap();
        streams.push(person.client.open_get(None).await.unwrap());
    }
    ann.client.call("a__url", json!({})).await.unwrap();
    let server = asking.http.as_ref().unwrap();
    server.notify(COMPLETE, &json!({"elicitationId": "never-shown"})).await;
    server.notify(COMPLETE, &json!({"elicitationId": "sign-in-1"})).await;
    let told = streams[0].next_method(COMPLETE, PATIENCE).await.unwrap();
    assert_eq!(told["params"]["elicitationId"], "sign-in-1");
    streams[1].silent_of(COMPLETE, Duration::from_millis(200)).await.unwrap();
}

#[tokio::test]
async fn changed_roots_are_asked_for_again() {
    let server = StdioServer::new(asks(Via::Call));
    let gateway = Gateway::start(&format!("servers:\n  a: {{ {} }}\n", server.yaml())).await;
    let home = Arc::new(AtomicUsize::new(1));
    let now = Arc::clone(&home);
    let client = McpClient::new(&gateway.url("/mcp"))
        .limit(PATIENCE)
        .capabilities(json!({"roots": {"listChanged": true}}))
        .answering(move |_, _| {
            Reply::Result(json!({"roots": [{"uri": format!("file:///srv/{}", now.load(Ordering::Relaxed))}]}))
        });
    client.initialize(NEWEST_LEGACY).await.unwrap();
    for number in 1..4 {
        home.store(number, Ordering::Relaxed);
        if number > 1 {
            client.notify("notifications/roots/list_changed", json!({})).await.unwrap();
        }
        let result = client.call("a__roots", json!({})).await.unwrap();
        let uri = &answers(&result)[0]["result"]["roots"][0]["uri"];
        assert_eq!(*uri, format!("file:///srv/{number}"));
    }
}

#[tokio::test]
async fn nobody_can_answer_for_somebody_else() {
    for way in WAYS {
        let asking = asking(way, "").await;
        let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
        let eve = Person::legacy(&asking.gateway, "/mcp", "eve").await;
        let mut stream = ann.client.start("tools/call", json!({"name": "a__form"})).await.unwrap();
        let question = stream.next(PATIENCE).await.unwrap().unwrap().json();
        assert_eq!(question["method"], "elicitation/create", "{way}: {question}");
        let forged =
            |id: Value| json!({"jsonrpc": "2.0", "id": id, "result": says("eve", "elicitation/create", &json!({}))});
        let mut ids = vec![question["id"].clone(), json!(question["id"].to_string())];
        ids.extend((0..5).map(|id| json!(id)));
        for id in ids {
            let answer = eve.client.post(&forged(id)).await.unwrap().finish().await.unwrap();
            assert_eq!(answer.status, 202, "{way}");
        }
        assert!(stream.next(Duration::from_millis(200)).await.is_err(), "{way}: the call still waits");
        let answer =
            json!({"jsonrpc": "2.0", "id": question["id"], "result": says("ann", "elicitation/create", &json!({}))});
        assert_eq!(ann.client.post(&answer).await.unwrap().finish().await.unwrap().status, 202);
        // A second answer is one too many.
        ann.client.post(&answer).await.unwrap().finish().await.unwrap();
        let result = stream.finish().await.unwrap().result().unwrap();
        assert_eq!(answers(&result)[0]["result"]["content"]["name"], "ann", "{way}");
    }
}

#[tokio::test]
async fn a_refusal_to_answer_and_the_end_of_a_session_are_errors_for_the_server() {
    for way in WAYS {
        let asking = asking(way, "").await;
        let refuses = McpClient::new(&asking.gateway.url("/mcp"))
            .limit(PATIENCE)
            .capabilities(json!({"elicitation": {}}))
            .answering(|_, _| Reply::Error(-32050, "none of your business".to_owned()));
        refuses.initialize(NEWEST_LEGACY).await.unwrap();
        let result = refuses.call("a__form", json!({})).await.unwrap();
        let error = json!({"code": -32050, "message": "none of your business"});
        assert_eq!(answers(&result)[0]["error"], error, "{way}");

        let silent =
            McpClient::new(&asking.gateway.url("/mcp")).limit(PATIENCE).capabilities(json!({"elicitation": {}}));
        silent.initialize(NEWEST_LEGACY).await.unwrap();
        let mut stream = silent.start("tools/call", json!({"name": "a__form"})).await.unwrap();
        stream.next(PATIENCE).await.unwrap();
        let Some(server) = &asking.http else { continue };
        let finished = server.calls_finished();
        // A caller that goes away may come back to answer; one whose session has ended does not.
        stream.vanish();
        assert_eq!(silent.delete().await.unwrap().status, 200);
        let what = format!("{way}: the server hears that nobody answers");
        let heard = || server.calls_finished() > finished || !server.cancelled().is_empty();
        eventually(3 * SECOND, &what, heard).await;
    }
}

#[tokio::test]
async fn a_modern_server_asks_a_modern_client_with_the_state_it_wants_back() {
    let server = ScriptedServer::start(Script { versions: Script::modern().versions, ..asks(Via::Call) }).await;
    let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    for path in ["/servers/a/mcp", "/mcp"] {
        let prefix = if path == "/mcp" { "a__" } else { "" };
        let ann = Person::new(&gateway.url(path), "ann").client.modern(crate::support::MODERN);
        let reference = Person::new(&server.url(), "ann").client.modern(crate::support::MODERN);
        server.clear_received();
        let result = ann.call(&format!("{prefix}all"), json!({"q": 1})).await.unwrap();
        let through: Vec<_> =
            server.received_method("tools/call").iter().map(|got| got.json()["params"].clone()).collect();
        server.clear_received();
        let same = reference.call("all", json!({"q": 1})).await.unwrap();
        let straight: Vec<_> =
            server.received_method("tools/call").iter().map(|got| got.json()["params"].clone()).collect();
        assert_eq!(result, same, "{path}");
        assert_eq!(straight.len(), KINDS.len() + 1);
        assert_eq!(through, straight, "{path}: the same requests with the same capabilities, answers and state");
    }
}

#[tokio::test]
async fn request_state_keeps_its_bytes() {
    let state = "\\u00e4\\/ {\\\"a\\\": 1.10}=?base64?\\ud83e\\udd80";
    let result = format!(
        r#"{{"resultType":"input_required","requestState":"{state}","inputRequests":{{"k":{{"method":"elicitation/create","params":{{"own":1E2}}}}}}}}"#
    );
    let server = ScriptedServer::start(Script::modern().tool(ToolScript::new("t").result(&result))).await;
    let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    let client = gateway.modern("/mcp");
    let answer = client.request("tools/call", json!({"name": "a__t"})).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.body).contains(&result), "{:?}", answer.body);
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{{"name":"a__t","requestState":"{state}","inputResponses":{{"k":{{"b":1.10}}}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    );
    client.post_raw(body.clone(), &[("mcp-method", "tools/call"), ("mcp-name", "a__t")]).await.unwrap();
    let sent = server.received_method("tools/call");
    let sent = String::from_utf8_lossy(&sent.last().unwrap().body).into_owned();
    let kept = &body[body.find(r#""requestState""#).unwrap()..];
    assert!(sent.contains(kept), "{sent}");
}

#[tokio::test]
async fn declared_capabilities_decide_the_list_of_tools() {
    let script = Script::legacy()
        .tools(1)
        .tool(ToolScript::new("draw").needs("sampling"))
        .tool(ToolScript::new("fill_in").needs("elicitation"));
    for over_stdio in [false, true] {
        let http = ScriptedServer::start(script.clone()).await;
        let stdio = StdioServer::new(script.clone());
        let entry = if over_stdio { stdio.yaml() } else { format!("url: \"{}\"", http.url()) };
        let gateway = Gateway::start(&format!("servers:\n  a: {{ {entry} }}\n")).await;
        for path in ["/mcp", "/servers/a/mcp"] {
            let prefix = if path == "/mcp" { "a__" } else { "" };
            for (capabilities, expected) in [
                (json!({}), vec!["tool_0"]),
                (json!({"sampling": {}}), vec!["draw", "tool_0"]),
                (json!({"elicitation": {}}), vec!["fill_in", "tool_0"]),
                (json!({"sampling": {}, "elicitation": {}}), vec!["draw", "fill_in", "tool_0"]),
                (json!({}), vec!["tool_0"]),
            ] {
                let client = McpClient::new(&gateway.url(path)).limit(PATIENCE).capabilities(capabilities.clone());
                client.initialize(NEWEST_LEGACY).await.unwrap();
                let tools = client.list("tools/list", "tools").await.unwrap();
                let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
                let expected: Vec<_> = expected.iter().map(|name| format!("{prefix}{name}")).collect();
                assert_eq!(names, expected, "{path}, {capabilities}, stdio: {over_stdio}");
            }
            // A modern client that declares nothing sees what such a client sees.
            let tools = gateway.modern(path).list("tools/list", "tools").await.unwrap();
            assert_eq!(tools.len(), 1, "{path}");
        }
    }
}

#[tokio::test]
async fn a_question_outside_any_call_is_declined() {
    let script = Script::legacy().tool(ToolScript::new("fine").step(Step::Raw {
        text: json!({"jsonrpc": "2.0", "id": "x", "method": "acme/ask", "params": {}}).to_string(),
    }));
    let server = StdioServer::new(script.list_change_every_ms(100_000));
    let gateway = Gateway::start(&format!("servers:\n  a: {{ {} }}\n", server.yaml())).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    assert!(client.call("a__fine", json!({})).await.is_ok());
    let declined = || server.received().iter().any(|message| message["id"] == "x" && message["error"].is_object());
    eventually(PATIENCE, "the server is told that nobody answers", declined).await;
}

#[tokio::test]
async fn a_servers_ping_is_answered_by_the_gateway() {
    for via in [Via::Call, Via::Get] {
        let script = Script::legacy().tool(ToolScript::new("pings").ask(Question::Ping, via));
        let server = ScriptedServer::start(script).await;
        let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
        for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
            let answer = client.request("tools/call", json!({"name": "a__pings"})).await.unwrap();
            assert_eq!(answers(&answer.result().unwrap()), [json!({"result": {}})]);
            assert!(answer.messages().iter().all(|message| message["method"] != "ping"));
        }
    }
    // A direct client is asked by the same server: the script does ask.
    let script = Script::legacy().tool(ToolScript::new("pings").ask(Question::Ping, Via::Call));
    let server = ScriptedServer::start(script).await;
    let client = direct(&server, false).await;
    let mut stream = client.start("tools/call", json!({"name": "pings"})).await.unwrap();
    assert_eq!(stream.next(PATIENCE).await.unwrap().unwrap().json()["method"], "ping");
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_its_caller_is_asked_ends_at_the_server() {
    for way in WAYS {
        let asking = asking(way, "").await;
        let ann = Person::legacy(&asking.gateway, "/mcp", "ann").await;
        ann.client.list("tools/list", "tools").await.unwrap();
        let mut stream = ann.client.start("tools/call", json!({"name": "a__form"})).await.unwrap();
        let question = stream.next(PATIENCE).await.unwrap().unwrap().json();
        assert_eq!(question["method"], "elicitation/create", "{way}");
        let call = stream.id().unwrap().clone();
        ann.client.cancel(&call).await.unwrap();
        while let Some(frame) = stream.next(PATIENCE).await.unwrap() {
            assert_ne!(frame.json()["id"], call, "{way}: a cancelled call is not answered");
        }
        if let Some(server) = &asking.http {
            eventually(2 * SECOND, "the cancellation", || server.cancelled().len() == 1).await;
        }
        // Too late, and no harm.
        let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
        assert_eq!(ann.client.post(&answer).await.unwrap().finish().await.unwrap().status, 202, "{way}");
        if way != "call" {
            // Until this is known of the server, a question that the cancelled call could have caused is declined.
            asking.gateway.logged("the server asks its client; remembered").await;
        }
        let result = ann.client.call("a__form", json!({})).await.unwrap();
        assert_eq!(answers(&result)[0]["result"]["content"]["name"], "ann", "{way}: {result}");
    }
}

#[tokio::test]
async fn a_question_that_is_withdrawn_is_withdrawn_under_the_id_the_client_knows() {
    let question = json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {"message": "q"}});
    let cancels = |id: &Value, via| Step::Notify {
        method: "notifications/cancelled".to_owned(),
        params: json!({"requestId": id, "reason": "never mind"}),
        via,
    };
    for way in WAYS {
        let via = if way == "get" { Via::Get } else { Via::Call };
        // The first notice is of no question of this client's: 1 is what the gateway would call one of them.
        let tool = ToolScript::new("withdraws")
            .step(cancels(&json!(1), via))
            .step(Step::Raw { text: question.to_string() })
            .sleep(300)
            .step(cancels(&json!(1), via))
            .step(cancels(&json!("q"), via))
            .sleep(300);
        let script = Script::legacy().tool(tool);
        let (http, stdio, entry);
        if way == "stdio" {
            let server = StdioServer::new(script);
            (entry, http, stdio) = (server.yaml(), None, Some(server));
        } else {
            let server = ScriptedServer::start(script).await;
            (entry, http, stdio) = (format!("url: \"{}\"", server.url()), Some(server), None);
        }
        let gateway = Gateway::start(&format!("servers:\n  a: {{ {entry} }}\n")).await;
        let client = McpClient::new(&gateway.url("/mcp")).limit(PATIENCE);
        let client = client.capabilities(json!({"elicitation": {}}));
        client.initialize(NEWEST_LEGACY).await.unwrap();
        client.list("tools/list", "tools").await.unwrap();
        if let Some(server) = &http {
            let opened = || server.received().iter().any(|request| request.http_method == "GET");
            eventually(PATIENCE, "the gateway's own GET stream", opened).await;
        }
        let mut stream = client.start("tools/call", json!({"name": "a__withdraws", "arguments": {}})).await.unwrap();
        let mut heard = Vec::new();
        while let Some(frame) = stream.next(PATIENCE).await.unwrap() {
            heard.push(frame.json());
            if heard.last().unwrap().get("result").is_some() {
                break;
            }
        }
        let methods: Vec<_> = heard.iter().map(|message| message["method"].as_str().unwrap_or("answer")).collect();
        assert_eq!(methods, ["elicitation/create", "notifications/cancelled", "answer"], "{way}: {heard:?}");
        assert_eq!(heard[1]["params"], json!({"requestId": heard[0]["id"], "reason": "never mind"}), "{way}");
        assert!(heard[0]["id"].is_number(), "{way}: {heard:?}");
        drop(stdio);
    }
}
