//! Rounds of questions: which the client sees, and what the server gets back.

use std::time::Duration;

use fairlead_testkit::{Question, Reply, Round, Script, Step, ToolScript, Via};
use serde_json::{Value, json};

use super::{Bridged, FORM, Person, ROOTS, SAMPLING, STATE, URL, answers, asking, everything, one};
use crate::support::{Gateway, LEGACY, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually};

/// A tool for every kind of question, and one that asks them in turn.
fn asks() -> Script {
    let mut script = Script::modern();
    let mut all = ToolScript::new("all");
    for (question, name) in [
        (Question::Elicitation, "form"),
        (Question::ElicitationUrl, "url"),
        (Question::Sampling, "sampling"),
        (Question::Roots, "roots"),
    ] {
        script = script.tool(ToolScript::new(name).ask(question, Via::Call));
        all = all.ask(question, Via::Call);
    }
    script.tool(all)
}

#[tokio::test]
async fn every_kind_of_question_is_asked_and_its_answer_reaches_the_server() {
    for way in ["json", "events", "stdio"] {
        let (http, stdio);
        let gateway = match way {
            "stdio" => {
                stdio = StdioServer::new(asks());
                Gateway::start(&format!("servers:\n  a: {{ {} }}\n", stdio.yaml())).await
            }
            _ => {
                http = Bridged::new(if way == "json" { asks() } else { asks().sse() }).await;
                http.gateway
            }
        };
        for revision in LEGACY {
            for (path, prefix) in [("/mcp", "a__"), ("/servers/a/mcp", "")] {
                let ann = Person::new(&gateway.url(path), revision, everything()).await;
                for (name, method) in [
                    ("form", "elicitation/create"),
                    ("url", "elicitation/create"),
                    ("sampling", "sampling/createMessage"),
                    ("roots", "roots/list"),
                ] {
                    let label = format!("{way} {revision} {path} {name}");
                    let result = ann.client.call(&format!("{prefix}{name}"), json!({"text": "x"})).await;
                    let result = result.unwrap_or_else(|error| panic!("{label}: {error:#}"));
                    let Reply::Result(said) = super::says(method, &Value::Null) else { unreachable!() };
                    assert_eq!(answers(&result), [json!({"result": said})], "{label}");
                    assert_eq!(result["structuredContent"]["arguments"], json!({"text": "x"}), "{label}");
                    assert!(result.get("resultType").is_none(), "{label}: {result}");
                    let (asked, params) = ann.asked().pop().unwrap();
                    assert_eq!(asked, method, "{label}");
                    // The revisions before 2025-11-25 have forms without a mode.
                    let expects_mode = match name {
                        "form" if revision < NEWEST_LEGACY => None,
                        "form" => Some("form"),
                        "url" => Some("url"),
                        _ => None,
                    };
                    assert_eq!(params["mode"].as_str(), expects_mode, "{label}: {params}");
                }
                let before = ann.asked().len();
                let result = ann.client.call(&format!("{prefix}all"), json!({})).await.unwrap();
                assert_eq!(answers(&result).len(), 4, "{way} {revision} {path}");
                // Its roots are known: it would say when they change.
                assert_eq!(ann.asked().len() - before, 3, "{way} {revision} {path}");
            }
        }
    }
}

#[tokio::test]
async fn questions_of_a_round_are_asked_at_once_and_everything_returns_byte_for_byte() {
    let requests = format!("{{\"né\\u0065\":{FORM},\"s\":{SAMPLING},\"r\":{ROOTS}}}");
    // To the server a state of the client's own is that of its first round.
    let tool = ToolScript::new("all").round(Round::again("\"mine\"")).round(Round::new(&requests, STATE));
    let house = Bridged::new(Script::modern().tool(tool)).await;
    let ann = house.person(NEWEST_LEGACY).await;
    let call = json!({"name": "a__all", "arguments": {"n": 1}, "requestState": "mine", "x-own": 5});
    let mut stream = ann.client.start("tools/call", call).await.unwrap();
    assert!(stream.is_stream());
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(stream.next(PATIENCE).await.unwrap().unwrap());
    }
    let ids: Vec<_> = asked.iter().map(|frame| frame.json()["id"].clone()).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    let form = String::from_utf8_lossy(&asked[0].data).into_owned();
    assert!(form.contains(&FORM[FORM.find("\"params\"").unwrap()..FORM.len() - 1]), "{form}");
    let sampling = String::from_utf8_lossy(&asked[1].data).into_owned();
    assert!(sampling.contains(r#""maxTokens":1E2,"tools":"#), "{sampling}");
    // Answered last to first; nothing happens before the last answer.
    let texts = [
        r#"{"action":"accept","content":{"name":"ann"},"x":12345678901234567890123}"#,
        r#"{"role":"assistant","model":"m","content":{"type":"text","text":"\u0041"},"y":1.10}"#,
        r#"{"roots":[],"z":null}"#,
    ];
    for (id, text) in ids.iter().zip(texts).rev() {
        assert_eq!(house.calls().len(), 1);
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{text}}}"#);
        assert_eq!(ann.client.post_raw(answer, &[]).await.unwrap().status, 202);
    }
    let answer = stream.finish().await.unwrap();
    let keys: Vec<_> = answers(&answer.result().unwrap())[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["née", "r", "s"]);
    let calls = house.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    let id = |call: &str| serde_json::from_str::<Value>(call).unwrap()["id"].clone();
    assert_ne!(id(&calls[0]), id(&calls[1]));
    // The client's own members stay what they are in the first call; the state is the server's from then on.
    assert!(calls[0].contains(r#""requestState":"mine""#), "{}", calls[0]);
    assert!(!calls[0].contains("inputResponses"), "{}", calls[0]);
    assert!(calls[1].contains(&format!("\"requestState\":{STATE}")), "{}", calls[1]);
    assert!(!calls[1].contains("mine"), "{}", calls[1]);
    for text in texts {
        assert!(calls[1].contains(text), "{text} in {}", calls[1]);
    }
    for call in calls {
        assert!(call.contains(r#""x-own":5"#) && call.contains(r#""n":1"#), "{call}");
        let call: Value = serde_json::from_str(&call).unwrap();
        let declared = &call["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
        let expected = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}});
        assert_eq!(*declared, expected, "what can be bridged, and no tasks");
    }
}

#[tokio::test]
async fn a_state_that_is_absent_stays_absent_and_one_without_questions_comes_back_at_once() {
    let script = Script::modern()
        .tool(ToolScript::new("stateless").round(Round::stateless(&one(FORM))))
        .tool(ToolScript::new("again").round(Round::again(STATE)).round(Round::new(&one(FORM), "\"2\"")));
    let house = Bridged::new(script).await;
    let ann = house.person(NEWEST_LEGACY).await;
    ann.client.call("a__stateless", json!({})).await.unwrap();
    let calls = house.calls();
    assert!(calls.len() == 2 && !calls[1].contains("requestState"), "{calls:?}");
    house.server.clear_received();
    ann.client.call("a__again", json!({})).await.unwrap();
    let calls = house.calls();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(calls[1].contains(STATE) && !calls[1].contains("inputResponses"), "{}", calls[1]);
    assert!(calls[2].contains(r#""requestState":"2""#), "{}", calls[2]);
    assert_eq!(ann.methods(), ["elicitation/create", "elicitation/create"]);
}

#[tokio::test]
async fn prompts_and_resources_ask_too() {
    let script = Script::modern()
        .resources_and_prompts(1, 1)
        .rounds("prompts/get", vec![Round::new(&one(FORM), STATE)])
        .rounds("resources/read", vec![Round::new(&one(SAMPLING), STATE), Round::new(&one(ROOTS), "\"2\"")]);
    let house = Bridged::new(script).await;
    for revision in LEGACY {
        let ann = house.person(revision).await;
        let prompt = ann.client.result("prompts/get", json!({"name": "a__prompt_0"})).await.unwrap();
        assert!(prompt["messages"].is_array(), "{prompt}");
        let read = ann.client.result("resources/read", json!({"uri": "test://resource/0"})).await.unwrap();
        assert_eq!(read["contents"][0]["text"], "content of test://resource/0");
        assert_eq!(ann.methods(), ["elicitation/create", "sampling/createMessage", "roots/list"], "{revision}");
    }
}

#[tokio::test]
async fn progress_rises_over_all_rounds_of_a_call() {
    let tool = ToolScript::new("long")
        .progress(3, 5)
        .ask(Question::Elicitation, Via::Call)
        .progress(5, 5)
        .ask(Question::Sampling, Via::Call)
        .progress(2, 5);
    let house = Bridged::new(Script::modern().tool(tool)).await;
    for revision in LEGACY {
        let ann = house.person(revision).await;
        let call = json!({"name": "a__long", "_meta": {"progressToken": "tok"}});
        let answer = ann.client.request("tools/call", call).await.unwrap();
        assert_eq!(answers(&answer.result().unwrap()).len(), 2);
        let told: Vec<_> = answer.notifications("notifications/progress");
        let values: Vec<_> = told.iter().map(|told| told["params"]["progress"].as_f64().unwrap()).collect();
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0], "{revision}");
        assert!(told.iter().all(|told| told["params"]["progressToken"] == "tok"), "{told:?}");
    }
}

#[tokio::test]
async fn a_url_gets_the_id_its_client_needs() {
    let complete =
        Step::Notify { method: "notifications/elicitation/complete".into(), params: json!({}), via: Via::Call };
    let tool = |name: &str, url: &str| asking(name, &one(url)).step(complete.clone());
    let named = URL.replace(r#""mode":"url""#, r#""mode":"url","elicitationId":"mine""#);
    let house = Bridged::new(Script::modern().tool(tool("bare", URL)).tool(asking("named", &one(&named)))).await;
    let ann = house.person(NEWEST_LEGACY).await;
    let answer = ann.client.request("tools/call", json!({"name": "a__bare"})).await.unwrap();
    answer.result().unwrap();
    let minted = ann.asked()[0].1["elicitationId"].clone();
    assert!(minted.as_str().is_some_and(|id| id.len() >= 16), "{minted}");
    let completed = answer.notifications("notifications/elicitation/complete");
    assert_eq!(completed.len(), 1);
    assert_eq!(completed[0]["params"]["elicitationId"], minted, "the server's notice names what the client knows");
    ann.client.call("a__bare", json!({})).await.unwrap();
    assert_ne!(ann.asked()[1].1["elicitationId"], minted, "one id per question");
    ann.client.call("a__named", json!({})).await.unwrap();
    assert_eq!(ann.asked()[2].1["elicitationId"], "mine");
}

#[tokio::test]
async fn roots_are_asked_again_after_they_changed_or_when_nobody_would_say_so() {
    let house = Bridged::new(Script::modern().tool(asking("roots", &one(ROOTS)))).await;
    let ann = house.person(NEWEST_LEGACY).await;
    for _ in 0..2 {
        ann.client.call("a__roots", json!({})).await.unwrap();
        assert_eq!(ann.asked().len(), 1, "her roots are known");
    }
    ann.client.notify("notifications/roots/list_changed", json!({})).await.unwrap();
    ann.client.call("a__roots", json!({})).await.unwrap();
    assert_eq!(ann.asked().len(), 2);
    let bob = Person::new(&house.gateway.url("/mcp"), NEWEST_LEGACY, json!({"roots": {}})).await;
    for times in 1..3 {
        bob.client.call("a__roots", json!({})).await.unwrap();
        assert_eq!(bob.asked().len(), times, "he never says when they change");
    }
}

#[tokio::test]
async fn a_cancelled_call_takes_its_questions_back_and_is_not_made_again() {
    let requests = format!("{{\"f\":{FORM},\"s\":{SAMPLING}}}");
    let house = Bridged::new(Script::modern().tool(asking("form", &requests))).await;
    let ann = house.person(NEWEST_LEGACY).await;
    let mut stream = ann.client.start("tools/call", json!({"name": "a__form"})).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(stream.next(PATIENCE).await.unwrap().unwrap().json()["id"].clone());
    }
    let answer = |id: &Value| json!({"jsonrpc": "2.0", "id": id, "result": {"action": "decline"}});
    ann.client.post(&answer(&ids[0])).await.unwrap().finish().await.unwrap();
    let id = stream.id().unwrap().clone();
    ann.client.cancel(&id).await.unwrap();
    let withdrawn = stream.next(PATIENCE).await.unwrap().unwrap().json();
    assert_eq!(withdrawn["method"], "notifications/cancelled", "{withdrawn}");
    assert_eq!(withdrawn["params"]["requestId"], ids[1], "only what is still open");
    assert!(stream.next(PATIENCE).await.unwrap().is_none(), "the stream ends");
    // Too late: nobody asks any more.
    ann.client.post(&answer(&ids[1])).await.unwrap().finish().await.unwrap();
    house.gateway.logged("dropped an answer to a question that nobody asked").await;
    assert_eq!(house.calls().len(), 1);
}

#[tokio::test]
async fn a_call_that_is_cancelled_in_a_later_round_is_cancelled_at_the_server() {
    for talks in [false, true] {
        let mut tool = asking("slow", &one(FORM));
        if talks {
            tool = tool.progress(1, 1);
        }
        let house = Bridged::new(Script::modern().tool(tool.sleep(60_000))).await;
        let ann = house.person(NEWEST_LEGACY).await;
        let call = json!({"name": "a__slow", "_meta": {"progressToken": 1}});
        let stream = ann.client.start("tools/call", call).await.unwrap();
        let id = stream.id().unwrap().clone();
        let client = ann.client.clone();
        let running = tokio::spawn(stream.finish());
        let twice = |received: &[fairlead_testkit::Received]| {
            received.iter().filter(|got| got.method().as_deref() == Some("tools/call")).count() == 2
        };
        assert!(house.server.wait_received(PATIENCE, twice).await);
        client.cancel(&id).await.unwrap();
        eventually(PATIENCE, "the end at the server", || !house.server.cancelled().is_empty()).await;
        let answer = running.await.unwrap().unwrap();
        assert!(answer.response().is_none(), "talks: {talks}: a cancelled call has no answer");
    }
}

#[tokio::test]
async fn a_person_may_think_longer_than_a_server_may_be_silent() {
    let options = ", timeout: { idle: 1s, call: 60s }";
    let yaml = "listen: { address: \"127.0.0.1:0\", keep_alive: 100ms }\n";
    let house = Bridged::with(Script::modern().tool(asking("form", &one(FORM))), options, yaml).await;
    let ann = house.person(NEWEST_LEGACY).await;
    let mut stream = ann.client.start("tools/call", json!({"name": "a__form"})).await.unwrap();
    let asked = stream.next(PATIENCE).await.unwrap().unwrap().json();
    // Three times the server's silence.
    stream.silent(Duration::from_secs(3)).await.expect("nothing happens meanwhile");
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}});
    ann.client.post(&answer).await.unwrap().finish().await.unwrap();
    let answer = stream.finish().await.unwrap();
    answer.result().unwrap();
    let comments = String::from_utf8_lossy(&answer.body).matches(": keep-alive").count();
    assert!(comments >= 3, "{comments} signs of life");
}

#[tokio::test]
async fn older_clients_are_asked_in_their_own_words() {
    let form = r#"{"method":"elicitation/create","params":{"mode":"form","message":"?","x":1.10,"requestedSchema":{"type":"object","properties":{"c":{"type":"string","oneOf":[{"const":"r","title":"Red"},{"const":"g","title":"Green"}]}}}}}"#;
    let sampling = r#"{"method":"sampling/createMessage","params":{"maxTokens":9,"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}}"#;
    let house =
        Bridged::new(Script::modern().tool(asking("both", &format!("{{\"f\":{form},\"s\":{sampling}}}")))).await;
    for revision in LEGACY {
        let ann = house.person(revision).await;
        ann.client.call("a__both", json!({})).await.unwrap();
        let asked = ann.asked();
        let form = &asked.iter().find(|(method, _)| method == "elicitation/create").unwrap().1;
        let sampling = &asked.iter().find(|(method, _)| method == "sampling/createMessage").unwrap().1;
        let choice = &form["requestedSchema"]["properties"]["c"];
        assert_eq!(form["x"], 1.1, "{revision}");
        if revision == NEWEST_LEGACY {
            assert_eq!(form["mode"], "form");
            assert_eq!(choice["oneOf"][0]["title"], "Red");
            assert_eq!(sampling["messages"][0]["content"].as_array().unwrap().len(), 2);
        } else {
            assert!(form.get("mode").is_none() && choice.get("oneOf").is_none(), "{revision}: {form}");
            assert_eq!((&choice["enum"], &choice["enumNames"]), (&json!(["r", "g"]), &json!(["Red", "Green"])));
            let texts: Vec<_> =
                sampling["messages"].as_array().unwrap().iter().map(|said| &said["content"]["text"]).collect();
            assert_eq!(texts, ["a", "b"], "{revision}");
        }
    }
}

#[tokio::test]
async fn a_reload_while_somebody_thinks_does_not_lose_the_call() {
    let house = Bridged::new(Script::modern().tool(asking("form", &one(FORM)))).await;
    let ann = house.person(NEWEST_LEGACY).await;
    let mut stream = ann.client.start("tools/call", json!({"name": "a__form"})).await.unwrap();
    let asked = stream.next(PATIENCE).await.unwrap().unwrap().json();
    // The server is another one now: its owner is started anew.
    house.gateway.reload(&format!("servers:\n  a: {{ url: \"{}\", max_calls: 7 }}\n", house.server.url())).await;
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}});
    ann.client.post(&answer).await.unwrap().finish().await.unwrap();
    let result = stream.finish().await.unwrap().result().unwrap();
    assert_eq!(answers(&result)[0]["q"], json!({"action": "decline"}));
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_is_asked_leaves_nothing_behind() {
    let house = Bridged::new(Script::modern().tool(asking("form", &one(FORM)))).await;
    let ann = house.person(NEWEST_LEGACY).await;
    let mut stream = ann.client.start("tools/call", json!({"name": "a__form"})).await.unwrap();
    stream.next(PATIENCE).await.unwrap().unwrap();
    stream.vanish();
    // Whether the call is given up at once or kept for a client that comes back, it ends with its session.
    ann.client.delete().await.unwrap();
    crate::support::eventually_some(PATIENCE, "no call in flight", async || {
        let (_, metrics) = crate::support::get(&house.gateway.admin_url("/metrics")).await;
        let calls = metrics.lines().find(|line| line.starts_with("fairlead_calls_in_flight"))?;
        calls.ends_with(" 0").then_some(())
    })
    .await;
    assert_eq!(house.calls().len(), 1);
}

#[tokio::test]
async fn what_nobody_answers_ends_with_the_time_of_the_call() {
    let options = ", timeout: { call: 1s }";
    let house = Bridged::with(Script::modern().tool(asking("form", &one(FORM))), options, "").await;
    let silent = |_: &str, _: &Value| Reply::Silence;
    let ann = Person::answering(&house.gateway.url("/mcp"), NEWEST_LEGACY, everything(), silent).await;
    let answer = ann.client.clone().limit(5 * SECOND).request("tools/call", json!({"name": "a__form"})).await.unwrap();
    let error = answer.error();
    assert!(error["message"].as_str().unwrap().contains("FL-1306"), "{error}");
    assert_eq!(answer.notifications("notifications/cancelled").len(), 1, "the question is taken back");
    assert_eq!(house.calls().len(), 1);
}

#[tokio::test]
async fn twenty_callers_at_once_are_each_asked_their_own_questions() {
    let tool =
        ToolScript::new("who").sleep(20).ask(Question::Elicitation, Via::Call).ask(Question::Sampling, Via::Call);
    let house = Bridged::new(Script::modern().tool(tool)).await;
    let callers = (0..20).map(|number| {
        let url = house.gateway.url("/mcp");
        async move {
            let says = move |method: &str, _: &Value| {
                Reply::Result(match method {
                    "sampling/createMessage" => json!({"role": "assistant", "model": number, "content": {}}),
                    _ => json!({"action": "accept", "content": {"name": number}}),
                })
            };
            let revision = LEGACY[number % LEGACY.len()];
            let person = Person::answering(&url, revision, everything(), says).await;
            for _ in 0..5 {
                let answers = answers(&person.client.call("a__who", json!({})).await.unwrap());
                assert_eq!(answers[0]["result"]["content"]["name"], number);
                assert_eq!(answers[1]["result"]["model"], number);
            }
            assert_eq!(person.asked().len(), 10);
        }
    });
    futures_util::future::join_all(callers).await;
    assert_eq!(house.calls().len(), 20 * 5 * 3);
}
