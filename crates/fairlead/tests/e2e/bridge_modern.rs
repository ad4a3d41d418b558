//! Clients of 2026-07-28 in front of servers of earlier revisions: what such a server asks in mid-call comes as
//! `input_required`, the answers go back to it, and nobody else can bring them.

mod bounds;
mod forged;

use std::time::Duration;

use fairlead_testkit::{Answer, Finish, McpClient, Question, Reply, Script, ScriptedServer, Step, ToolScript, Via};
use serde_json::{Value, json};

use crate::support::{Gateway, MODERN, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually};

/// How a question comes: with the call's own stream, with the GET stream, over a pipe.
const WAYS: [&str; 3] = ["call", "get", "stdio"];

const KINDS: [(Question, &str); 4] = [
    (Question::Roots, "roots"),
    (Question::Elicitation, "form"),
    (Question::ElicitationUrl, "url"),
    (Question::Sampling, "sampling"),
];

/// A gateway before one legacy server called `a`.
struct Bridge {
    gateway: Gateway,
    http: Option<ScriptedServer>,
    stdio: Option<StdioServer>,
}

impl Bridge {
    /// `script` gets the stream on which questions go; `options` stand beside the server, `top` beside `servers`.
    async fn start(way: &str, script: impl Fn(Via) -> Script, options: &str, top: &str) -> Self {
        let script = script(if way == "get" { Via::Get } else { Via::Call });
        let (http, stdio) = match way {
            "stdio" => (None, Some(StdioServer::new(script))),
            _ => (Some(ScriptedServer::start(script).await), None),
        };
        let entry = match (&http, &stdio) {
            (Some(http), _) => format!("url: \"{}\"", http.url()),
            (_, Some(stdio)) => stdio.yaml(),
            _ => unreachable!("one of them is there"),
        };
        let gateway = Gateway::start(&format!("{top}\nservers:\n  a: {{ {entry}{options} }}\n")).await;
        Self { gateway, http, stdio }
    }

    /// Every message the server got.
    fn received(&self) -> Vec<Value> {
        match (&self.http, &self.stdio) {
            (Some(http), _) => http.received().iter().map(|received| received.json()).collect(),
            (_, Some(stdio)) => stdio.received(),
            _ => Vec::new(),
        }
    }

    fn received_method(&self, method: &str) -> Vec<Value> {
        self.received().into_iter().filter(|message| message["method"] == method).collect()
    }

    /// What it got as the answers to its questions.
    fn answered(&self) -> Vec<Value> {
        self.received()
            .into_iter()
            .filter(|message| message.get("method").is_none() && !message["id"].is_null())
            .collect()
    }

    /// A client that can be asked everything, and says who it is in every answer.
    fn person(&self, path: &str, name: &str) -> McpClient {
        person(&self.gateway.url(path), name)
    }
}

fn person(url: &str, name: &str) -> McpClient {
    let name = name.to_owned();
    everything(url).answering(move |method, params| Reply::Result(says(&name, method, params))).modern(MODERN)
}

fn everything(url: &str) -> McpClient {
    let capabilities = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}});
    McpClient::new(url).limit(PATIENCE).capabilities(capabilities)
}

/// A client that can only fill in forms and sample: no roots to be asked for first.
fn fills_in(url: &str) -> McpClient {
    let capabilities = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}});
    McpClient::new(url).limit(PATIENCE).capabilities(capabilities).modern(MODERN)
}

fn says(name: &str, method: &str, params: &Value) -> Value {
    match method {
        "roots/list" => json!({"roots": [{"uri": format!("file:///srv/{name}"), "name": name}]}),
        "sampling/createMessage" => {
            let text = format!("{name} heard {}", params["messages"][0]["content"]["text"]);
            json!({"role": "assistant", "model": name, "content": {"type": "text", "text": text}})
        }
        _ => {
            let mut heard = params.clone();
            // The one thing that differs: a modern URL elicitation has no id.
            heard.as_object_mut().unwrap().remove("elicitationId");
            json!({"action": "accept", "content": {"name": name, "heard": heard}, "own": 1.5})
        }
    }
}

/// A server with a tool for every kind of question, one that asks everything in turn, and one that asks late.
fn asks(via: Via) -> Script {
    let mut script = Script::legacy();
    let mut all = ToolScript::new("all");
    for (question, name) in KINDS {
        script = script.tool(ToolScript::new(name).ask(question, via));
        all = all.ask(question, via);
    }
    script
        .tool(all)
        .tool(ToolScript::new("twice").ask(Question::Elicitation, via).ask(Question::Elicitation, via))
        .tool(ToolScript::new("later").sleep(250).ask(Question::Elicitation, via))
        .tool(
            ToolScript::new("both")
                .step(Step::AskTogether { questions: vec![Question::Elicitation, Question::Sampling], via }),
        )
}

/// The answers a tool got, from its result.
fn answers(result: &Value) -> Vec<Value> {
    result["structuredContent"]["answers"].as_array().cloned().unwrap_or_else(|| panic!("no answers: {result}"))
}

/// What a client is asked: names, requests, state.
fn asked(answer: &Answer) -> (Value, String) {
    let result = answer.result().unwrap();
    assert_eq!(result["resultType"], "input_required", "{result}");
    (result["inputRequests"].clone(), result["requestState"].as_str().unwrap().to_owned())
}

/// The request with answers.
fn again(tool: &str, state: &str, responses: Value) -> Value {
    json!({"name": tool, "arguments": {"q": 1}, "requestState": state, "inputResponses": responses})
}

fn accepts(name: &str) -> Value {
    json!({"action": "accept", "content": {"name": name}})
}

#[tokio::test]
async fn every_question_reaches_the_caller_and_its_answer_the_server() {
    let reference = ScriptedServer::start(asks(Via::Call)).await;
    let expected = everything(&reference.url()).answering(|method, params| Reply::Result(says("ann", method, params)));
    expected.initialize(NEWEST_LEGACY).await.unwrap();
    for way in WAYS {
        let bridge = Bridge::start(way, asks, "", "").await;
        for path in ["/servers/a/mcp", "/mcp"] {
            let prefix = if path == "/mcp" { "a__" } else { "" };
            let ann = bridge.person(path, "ann");
            let mut tools: Vec<_> = KINDS.iter().map(|(_, name)| *name).collect();
            tools.extend(["all", "both", "twice"]);
            for tool in tools {
                let result = ann.call(&format!("{prefix}{tool}"), json!({"q": 1.5})).await;
                let result = result.unwrap_or_else(|error| panic!("{way} {path} {tool}: {error:#}"));
                let same = expected.call(tool, json!({"q": 1.5})).await.unwrap();
                assert_eq!(answers(&result), answers(&same), "{way} {path} {tool}");
                assert_eq!(result["resultType"], "complete", "{way} {path} {tool}");
            }
        }
    }
}

#[tokio::test]
async fn the_client_is_told_what_the_server_asks_as_it_came() {
    for way in WAYS {
        let bridge = Bridge::start(way, asks, "", "").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        for (question, tool, key) in [
            (Question::Elicitation, "form", "elicitation-1"),
            (Question::ElicitationUrl, "url", "elicitation-1"),
            (Question::Sampling, "sampling", "sampling-1"),
        ] {
            let answer = client.request("tools/call", json!({"name": format!("a__{tool}")})).await.unwrap();
            assert_eq!(answer.header("content-type"), Some("application/json"), "{way} {tool}");
            let (requests, state) = asked(&answer);
            let direct = ScriptedServer::start(asks(Via::Call)).await;
            let legacy = everything(&direct.url());
            legacy.initialize(NEWEST_LEGACY).await.unwrap();
            let mut stream = legacy.start("tools/call", json!({"name": tool})).await.unwrap();
            let mut params = stream.next(PATIENCE).await.unwrap().unwrap().json()["params"].clone();
            params.as_object_mut().unwrap().remove("elicitationId");
            let method = if question == Question::Sampling { "sampling/createMessage" } else { "elicitation/create" };
            assert_eq!(requests, json!({key: {"method": method, "params": params}}), "{way}");
            assert!(!state.contains("scripted") && state.len() < 300, "{state}");
        }
    }
}

#[tokio::test]
async fn what_is_asked_together_is_answered_together_or_one_by_one() {
    for way in WAYS {
        let bridge = Bridge::start(way, asks, "", "").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let call = |params| client.request("tools/call", params);
        let (requests, state) = asked(&call(json!({"name": "a__both", "arguments": {"q": 1}})).await.unwrap());
        assert_eq!(requests.as_object().unwrap().len(), 2, "{way}: {requests}");
        // Nothing is brought: the same questions, another state.
        let (same, state_2) = asked(&call(again("a__both", &state, json!({}))).await.unwrap());
        assert_eq!(same, requests, "{way}");
        assert_ne!(state, state_2);
        // One of two, and one that nobody asked for: the other is asked again.
        let some = json!({"elicitation-1": accepts("ann"), "unasked-7": {"action": "accept"}});
        let (rest, state_3) = asked(&call(again("a__both", &state_2, some)).await.unwrap());
        assert_eq!(rest, json!({"sampling-1": requests["sampling-1"]}), "{way}");
        let said = json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "Paris"}});
        let result = call(again("a__both", &state_3, json!({"sampling-1": said}))).await.unwrap().result().unwrap();
        assert_eq!(answers(&result), [json!({"result": accepts("ann")}), json!({"result": said})], "{way}");
    }
}

#[tokio::test]
async fn a_second_question_is_a_second_round_with_a_name_and_a_state_of_its_own() {
    for way in WAYS {
        let bridge = Bridge::start(way, asks, "", "").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let call = |params| client.request("tools/call", params);
        let (first, state) = asked(&call(json!({"name": "a__twice", "arguments": {"q": 1}})).await.unwrap());
        assert!(first.get("elicitation-1").is_some(), "{first}");
        let (second, state_2) =
            asked(&call(again("a__twice", &state, json!({"elicitation-1": accepts("one")}))).await.unwrap());
        assert!(second.get("elicitation-2").is_some() && second.as_object().unwrap().len() == 1, "{second}");
        let replayed = call(again("a__twice", &state, json!({"elicitation-1": accepts("one")}))).await.unwrap();
        assert!(replayed.error().to_string().contains("FL-1309"), "{way}: {}", replayed.error());
        let declines = json!({"elicitation-2": {"action": "decline", "x": 1}});
        let result = call(again("a__twice", &state_2, declines)).await.unwrap().result().unwrap();
        let expected = [json!({"result": accepts("one")}), json!({"result": {"action": "decline", "x": 1}})];
        assert_eq!(answers(&result), expected, "{way}");
    }
}

#[tokio::test]
async fn a_question_never_reaches_another_caller() {
    for way in WAYS {
        let bridge = Bridge::start(way, asks, "", "").await;
        // The first to be asked shows that the server asks.
        bridge.person("/mcp", "first").call("a__form", json!({})).await.unwrap();
        let names: Vec<_> = (0..6).map(|number| format!("person{number}")).collect();
        for round in 0..2 {
            let calls = names.iter().map(|name| {
                let client = bridge.person("/mcp", name);
                async move { client.call("a__later", json!({})).await.unwrap() }
            });
            for (result, name) in futures_util::future::join_all(calls).await.iter().zip(&names) {
                assert_eq!(answers(result)[0]["result"]["content"]["name"], **name, "{way}, round {round}: {result}");
            }
        }
    }
}

#[tokio::test]
async fn prompts_and_resources_ask_too() {
    let script = |_| {
        Script::legacy()
            .resources_and_prompts(1, 1)
            .asks("prompts/get", Question::Elicitation)
            .asks("resources/read", Question::Sampling)
    };
    for way in ["call", "stdio"] {
        let bridge = Bridge::start(way, script, "", "").await;
        let client = fills_in(&bridge.gateway.url("/servers/a/mcp"));
        for (method, params, key, answer) in [
            ("prompts/get", json!({"name": "prompt_0"}), "elicitation-1", accepts("ann")),
            ("resources/read", json!({"uri": "test://resource/0"}), "sampling-1", json!({"role": "assistant"})),
        ] {
            let (_, state) = asked(&client.request(method, params.clone()).await.unwrap());
            let mut params = params;
            params["requestState"] = json!(state);
            params["inputResponses"] = json!({key: answer});
            let result = client.request(method, params).await.unwrap().result().unwrap();
            assert_eq!(result["_meta"]["answer"], json!({"result": answer}), "{way} {method}");
        }
    }
}

#[tokio::test]
async fn only_what_was_declared_is_asked() {
    for way in WAYS {
        let bridge = Bridge::start(way, asks, "", "").await;
        for (declared, may) in [
            (json!({"elicitation": {}}), vec!["form"]),
            (json!({"elicitation": {"url": {}}}), vec!["url"]),
            (json!({"sampling": {}}), vec!["sampling"]),
            (json!({}), vec![]),
        ] {
            let client = McpClient::new(&bridge.gateway.url("/mcp")).limit(PATIENCE).capabilities(declared.clone());
            let client = client.modern(MODERN);
            for (_, tool) in KINDS {
                let result = client.request("tools/call", json!({"name": format!("a__{tool}")})).await.unwrap();
                let result = result.result().unwrap();
                if may.contains(&tool) {
                    assert_eq!(result["resultType"], "input_required", "{way} {declared} {tool}: {result}");
                } else {
                    assert!(answers(&result)[0]["error"]["code"].is_i64(), "{way} {declared} {tool}: {result}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_legacy_server_is_told_what_the_modern_client_declared_and_lists_for_it() {
    let script = |_| Script::legacy().tools(1).tool(ToolScript::new("draw").needs("sampling"));
    for way in ["call", "stdio"] {
        let bridge = Bridge::start(way, script, "", "").await;
        for (declared, tools) in [(json!({}), 1), (json!({"sampling": {}}), 2), (json!({}), 1)] {
            let client = McpClient::new(&bridge.gateway.url("/mcp")).limit(PATIENCE).capabilities(declared.clone());
            let listed = client.modern(MODERN).list("tools/list", "tools").await.unwrap();
            assert_eq!(listed.len(), tools, "{way} {declared}: {listed:?}");
        }
        let told = bridge.received_method("initialize");
        assert!(told.iter().any(|message| message["params"]["capabilities"] == json!({"sampling": {}})), "{told:?}");
    }
}

#[tokio::test]
async fn progress_and_log_go_on_after_the_question_for_the_request_that_is_open() {
    let talks = |via| {
        let log = |text: &str| Step::Log { level: "info".to_owned(), text: text.to_owned() };
        Script::legacy().tool(
            ToolScript::new("talks")
                .progress(2, 10)
                .step(log("before"))
                .ask(Question::Elicitation, via)
                .progress(2, 10)
                .step(log("after")),
        )
    };
    for way in ["call", "stdio"] {
        let bridge = Bridge::start(way, talks, "", "").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let meta = |token: &str| json!({"progressToken": token, "io.modelcontextprotocol/logLevel": "info"});
        let params = json!({"name": "a__talks", "arguments": {"q": 1}, "_meta": meta("one")});
        let answer = client.request("tools/call", params).await.unwrap();
        let (_, state) = asked(&answer);
        let reports = |answer: &Answer| {
            let reports = answer.notifications("notifications/progress");
            reports
                .iter()
                .map(|report| (report["params"]["progressToken"].clone(), report["params"]["progress"].clone()))
                .collect::<Vec<_>>()
        };
        let logs = |answer: &Answer| {
            let logs = answer.notifications("notifications/message");
            logs.iter().map(|log| log["params"]["data"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(reports(&answer), [(json!("one"), json!(1)), (json!("one"), json!(2))], "{way}");
        assert_eq!(logs(&answer), [json!("before")], "{way}");
        let mut params = again("a__talks", &state, json!({"elicitation-1": accepts("ann")}));
        params["_meta"] = meta("two");
        let answer = client.request("tools/call", params).await.unwrap();
        assert_eq!(reports(&answer), [(json!("two"), json!(3)), (json!("two"), json!(4))], "{way}");
        assert_eq!(logs(&answer), [json!("after")], "{way}");
        assert_eq!(answers(&answer.result().unwrap()), [json!({"result": accepts("ann")})], "{way}");
    }
}

#[tokio::test]
async fn a_request_that_opts_in_hears_what_the_server_logs_and_no_other() {
    let logs = |_| {
        let log = |level: &str| Step::Log { level: level.to_owned(), text: level.to_owned() };
        Script::legacy().tool(ToolScript::new("logs").step(log("debug")).step(log("warning")))
    };
    for way in ["call", "stdio"] {
        let bridge = Bridge::start(way, logs, "", "").await;
        let client = bridge.gateway.modern("/servers/a/mcp");
        let discovered = client.result("server/discover", json!({})).await.unwrap();
        assert!(discovered["capabilities"]["logging"].is_object(), "{discovered}");
        for (level, heard, told) in [
            (None, 0, vec![]),
            (Some("error"), 0, vec!["error"]),
            (Some("warning"), 1, vec!["error", "warning"]),
            (Some("debug"), 2, vec!["error", "warning", "debug"]),
            (Some("error"), 0, vec!["error", "warning", "debug"]),
            (None, 0, vec!["error", "warning", "debug"]),
        ] {
            let mut params = json!({"name": "logs"});
            if let Some(level) = level {
                params["_meta"] = json!({"io.modelcontextprotocol/logLevel": level});
            }
            let answer = client.request("tools/call", params).await.unwrap();
            assert_eq!(answer.notifications("notifications/message").len(), heard, "{way} {level:?}");
            let levels: Vec<_> = bridge
                .received_method("logging/setLevel")
                .iter()
                .map(|message| message["params"]["level"].clone())
                .collect();
            assert_eq!(levels, told, "{way} {level:?}: the loudest, once");
        }
    }
}

#[tokio::test]
async fn urls_that_must_be_opened_first_are_a_question_and_then_the_call_is_made() {
    let script = |_| Script::legacy().tool(ToolScript::new("pay").finish(Finish::UrlRequired { times: 2 }));
    let bridge = Bridge::start("call", script, "", "").await;
    let client = fills_in(&bridge.gateway.url("/mcp"));
    let call = |params| client.request("tools/call", params);
    let (requests, state) = asked(&call(json!({"name": "a__pay", "arguments": {"q": 1}})).await.unwrap());
    let expected = json!({"elicitation-1": {"method": "elicitation/create", "params": {
        "mode": "url", "message": "Please sign in.", "url": "https://example.com/sign-in"}}});
    assert_eq!(requests, expected);
    // Declined: that is it.
    let declined = call(again("a__pay", &state, json!({"elicitation-1": {"action": "decline"}}))).await.unwrap();
    assert!(declined.status == 200 && declined.error().to_string().contains("FL-1306"), "{}", declined.error());
    let opened = json!({"elicitation-1": {"action": "accept"}});
    let (_, state) = asked(&call(again("a__pay", &state, opened.clone())).await.unwrap());
    let result = call(again("a__pay", &state, opened)).await.unwrap().result().unwrap();
    assert_eq!(result["structuredContent"]["arguments"], json!({"q": 1}));
    for message in bridge.received_method("tools/call") {
        let params = &message["params"];
        assert!(params.get("requestState").is_none() && params.get("inputResponses").is_none(), "{params}");
    }
}

#[tokio::test]
async fn a_client_that_opens_no_urls_is_told_which_capability_is_missing() {
    let script = |_| Script::legacy().tool(ToolScript::new("pay").finish(Finish::UrlRequired { times: 100 }));
    let bridge = Bridge::start("call", script, "", "").await;
    let answer = bridge.gateway.modern("/mcp").request("tools/call", json!({"name": "a__pay"})).await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.error()["code"], -32021);
    assert_eq!(answer.error()["data"], json!({"requiredCapabilities": {"elicitation": {"url": {}}}}));
    // One that opens them is asked so often and no more.
    let client = fills_in(&bridge.gateway.url("/mcp"));
    let mut params = json!({"name": "a__pay", "arguments": {"q": 1}});
    let mut rounds = 0;
    let error = loop {
        let answer = client.request("tools/call", params).await.unwrap();
        if !answer.error().is_null() {
            break answer.error();
        }
        rounds += 1;
        assert!(rounds < 100, "it is asked without end");
        params = again("a__pay", &asked(&answer).1, json!({"elicitation-1": {"action": "accept"}}));
    };
    assert!((2..50).contains(&rounds), "{rounds}");
    assert_eq!(error["code"], -32603, "{error}");
}

#[tokio::test]
async fn the_end_of_a_url_elicitation_is_not_told() {
    let script = |via| {
        Script::legacy().tool(
            ToolScript::new("url")
                .ask(Question::ElicitationUrl, via)
                .step(Step::Notify {
                    method: "notifications/elicitation/complete".to_owned(),
                    params: json!({"elicitationId": "sign-in-1"}),
                    via,
                })
                .sleep(50),
        )
    };
    for way in WAYS {
        let bridge = Bridge::start(way, script, "", "").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let (_, state) =
            asked(&client.request("tools/call", json!({"name": "a__url", "arguments": {"q": 1}})).await.unwrap());
        let params = again("a__url", &state, json!({"elicitation-1": {"action": "accept"}}));
        let answer = client.request("tools/call", params).await.unwrap();
        assert_eq!(answer.messages().len(), 1, "{way}: {:?}", answer.messages());
        answer.result().unwrap();
    }
}

#[tokio::test]
async fn a_modern_servers_state_is_its_own_even_if_it_looks_like_ours() {
    let result = r#"{"resultType":"input_required","requestState":"fairlead-1.AAAA","inputRequests":{}}"#;
    let server = ScriptedServer::start(Script::modern().tool(ToolScript::new("t").result(result))).await;
    let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    let client = fills_in(&gateway.url("/mcp"));
    let (_, state) = asked(&client.request("tools/call", json!({"name": "a__t"})).await.unwrap());
    client.request("tools/call", again("a__t", &state, json!({"k": {"b": 1}}))).await.unwrap().result().unwrap();
    let got = server.received_method("tools/call");
    let params = &got.last().unwrap().json()["params"];
    assert_eq!(params["requestState"], "fairlead-1.AAAA");
    assert_eq!(params["inputResponses"], json!({"k": {"b": 1}}));
}

#[tokio::test]
async fn a_call_is_asked_no_longer_than_it_may_be() {
    let bridge = Bridge::start("call", asks, "", "park: { ttl: 600s, max_age: 1s }").await;
    let ann = fills_in(&bridge.gateway.url("/servers/a/mcp"));
    let asked = ann.result("tools/call", json!({"name": "form"})).await.unwrap();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    bridge.gateway.logged("its client did not come back with the answers").await;
}

#[tokio::test]
async fn answers_give_a_slow_server_no_more_time_than_the_call_has() {
    let slow = |via| {
        let tool = ToolScript::new("slow").ask(Question::Elicitation, via).sleep(1_500);
        Script::legacy().tool(tool.ask(Question::Elicitation, via).sleep(1_500))
    };
    let bridge = Bridge::start("call", slow, ", timeout: { call: 2s }", "").await;
    let ann = bridge.person("/servers/a/mcp", "ann");
    let late = ann.call("slow", json!({})).await.unwrap_err().to_string();
    assert!(late.contains("FL-1302"), "{late}");
}
