//! What a server may not ask, and what becomes of a call whose questions fail.

use fairlead_testkit::{Finish, Reply, Round, Script, ToolScript};
use serde_json::{Value, json};

use super::{Bridged, FORM, Person, ROOTS, SAMPLING, URL, answers, asking, everything, one};
use crate::support::{LEGACY, NEWEST_LEGACY};

#[tokio::test]
async fn what_the_client_did_not_declare_is_refused_and_named() {
    let cases: [(&str, &str, Value, &str); 8] = [
        ("form", FORM, json!({}), "elicitation"),
        ("form", FORM, json!({"elicitation": {"url": {}}}), "elicitation"),
        ("url", URL, json!({"elicitation": {}}), "elicitation by URL"),
        ("voice", &FORM.replace(r#""form""#, r#""voice""#), everything(), "voice"),
        ("sampling", SAMPLING, json!({"elicitation": {}}), "sampling"),
        ("sampling", SAMPLING, json!({"sampling": {}}), "sampling with tools"),
        ("roots", ROOTS, json!({"sampling": {}}), "roots"),
        // One of several: none of them is asked.
        ("mixed", "", json!({"elicitation": {}}), "roots"),
    ];
    let mut script = Script::modern().tool(asking("mixed", &format!("{{\"f\":{FORM},\"r\":{ROOTS}}}")));
    for (name, question, ..) in cases.iter().take(7) {
        script.scripted_tools.retain(|tool| tool.name != *name);
        script = script.tool(asking(name, &one(question)));
    }
    let house = Bridged::new(script).await;
    for (name, _, capabilities, named) in cases {
        for revision in LEGACY {
            let ann = Person::new(&house.gateway.url("/mcp"), revision, capabilities.clone()).await;
            house.server.clear_received();
            let message = ann.refusal(&format!("a__{name}")).await;
            let label = format!("{revision} {name} {capabilities}: {message}");
            assert!(message.contains("FL-1306") && message.contains(named), "{label}");
            assert_eq!(ann.methods(), [""; 0], "{label}");
            assert_eq!(house.calls().len(), 1, "{label}");
        }
    }
    house.gateway.logged("a call ends without what its server asked for").await;
}

#[tokio::test]
async fn an_endless_server_is_stopped() {
    let script = Script::modern()
        .tool(asking("endless", &one(FORM)).endless())
        .tool(ToolScript::new("spin").round(Round::again("\"s\"")).endless());
    let house = Bridged::with(script, "", "bridge: { max_rounds: 3 }\n").await;
    for (tool, asked) in [("endless", 3), ("spin", 0)] {
        let ann = house.person(NEWEST_LEGACY).await;
        house.server.clear_received();
        let message = ann.refusal(&format!("a__{tool}")).await;
        assert!(message.contains("FL-1308"), "{tool}: {message}");
        assert_eq!(ann.asked().len(), asked, "{tool}");
        assert_eq!(house.calls().len(), 4, "{tool}: the call and one for each round");
    }
    house.gateway.logged("FL-1308").await;
}

#[tokio::test]
async fn a_failed_elicitation_is_a_cancelled_one_and_any_other_failed_question_ends_the_call() {
    let script = Script::modern()
        .tool(asking("form", &one(FORM)))
        .tool(asking("sampling", &format!("{{\"s\":{SAMPLING},\"f\":{FORM}}}")))
        .tool(asking("roots", &one(ROOTS)));
    let house = Bridged::new(script).await;
    let fails = |method: &str, _: &Value| match method {
        // Left open when the other one fails.
        "elicitation/create" => Reply::Error(-32000, "no window".into()),
        _ => Reply::Error(-32603, "no".into()),
    };
    let ann = Person::answering(&house.gateway.url("/mcp"), NEWEST_LEGACY, everything(), fails).await;
    let result = ann.client.call("a__form", json!({})).await.unwrap();
    assert_eq!(answers(&result)[0]["q"], json!({"action": "cancel"}));
    for (tool, method) in [("sampling", "sampling/createMessage"), ("roots", "roots/list")] {
        house.server.clear_received();
        let message = ann.refusal(&format!("a__{tool}")).await;
        assert!(message.contains("FL-1306") && message.contains(method) && message.contains("-32603"), "{message}");
        assert_eq!(house.calls().len(), 1, "{tool}: not made again");
    }
}

#[tokio::test]
async fn a_call_in_a_batch_cannot_ask_and_says_so() {
    let house = Bridged::new(Script::modern().tool(asking("form", &one(FORM)))).await;
    let ann = house.person("2025-03-26").await;
    let call =
        |id: u64, tool: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool}});
    let batch = json!([call(71, "a__form"), call(72, "a__tool_0")]).to_string();
    let answer = ann.client.post_raw(batch, &[]).await.unwrap();
    let answers: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
    let of = |id: u64| answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("{answers:?}"));
    let message = of(71)["error"]["message"].as_str().unwrap();
    assert!(message.contains("FL-1306") && message.contains("batch"), "{message}");
    assert!(of(72)["result"].is_object(), "{answers:?}");
    for call in house.server.received_method("tools/call") {
        let declared = &call.json()["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
        assert_eq!(*declared, json!({}), "nobody is there to be asked");
    }
    // Alone it can.
    ann.client.call("a__form", json!({})).await.unwrap();
}

#[tokio::test]
async fn demands_that_make_no_sense_are_the_servers_fault() {
    let result = |json: &str| ToolScript::new("t").result(json);
    let cases = [
        result(r#"{"resultType":"input_required"}"#),
        result(r#"{"resultType":"input_required","inputRequests":[]}"#),
        result(r#"{"resultType":"input_required","inputRequests":{"q":5}}"#),
        result(r#"{"resultType":"input_required","inputRequests":{"q":{"method":"tools/call","params":{}}}}"#),
        result(r#"{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create"}}}"#),
        result(r#"{"resultType":"input_required","inputRequests":{"q":{"method":"roots/list","params":[]}}}"#),
        result(r#"{"resultType":"input_required","requestState":5}"#),
    ];
    let house = Bridged::new(Script::modern()).await;
    let ann = house.person(NEWEST_LEGACY).await;
    for tool in cases {
        let name = format!("{:?}", tool.finish);
        house.server.change(|script| script.scripted_tools = vec![tool]);
        let message = ann.client.request("tools/call", json!({"name": "a__tool_0"})).await.unwrap();
        assert!(message.error().is_null(), "{name}: another tool is well");
        let path = house.gateway.url("/servers/a/mcp");
        let bob = Person::new(&path, NEWEST_LEGACY, everything()).await;
        let message = bob.refusal("t").await;
        assert!(message.contains("FL-1304"), "{name}: {message}");
        assert_eq!(bob.methods(), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn more_questions_than_anybody_answers_are_refused() {
    let many: Vec<_> = (0..101).map(|n| format!("\"q{n}\":{ROOTS}")).collect();
    let house = Bridged::new(Script::modern().tool(asking("many", &format!("{{{}}}", many.join(","))))).await;
    let ann = house.person(NEWEST_LEGACY).await;
    let message = ann.refusal("a__many").await;
    assert!(message.contains("FL-1306") && message.contains("100"), "{message}");
    assert_eq!(ann.methods(), [""; 0]);
}

#[tokio::test]
async fn another_client_cannot_answer() {
    let house = Bridged::new(Script::modern().tool(asking("form", &one(FORM)))).await;
    let ann = house.person(NEWEST_LEGACY).await;
    let eve = house.person(NEWEST_LEGACY).await;
    let mut stream = ann.client.start("tools/call", json!({"name": "a__form"})).await.unwrap();
    let asked = stream.next(crate::support::PATIENCE).await.unwrap().unwrap().json();
    let says = |name: &str| json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"name": name}}});
    eve.client.post(&says("eve")).await.unwrap().finish().await.unwrap();
    house.gateway.logged("dropped an answer to a question that nobody asked").await;
    ann.client.post(&says("ann")).await.unwrap().finish().await.unwrap();
    let result = stream.finish().await.unwrap().result().unwrap();
    assert_eq!(answers(&result)[0]["q"]["content"]["name"], "ann");
}

#[tokio::test]
async fn errors_of_the_modern_era_are_told_in_terms_of_the_older_ones() {
    let error = |code: i64| ToolScript::new("t").finish(Finish::Error { code, message: "upstream's words".into() });
    let house = Bridged::new(Script::modern()).await;
    for (code, expected) in [(-32021, "FL-1306"), (-32022, "FL-1304"), (-32602, "upstream's words")] {
        house.server.change(|script| script.scripted_tools = vec![error(code)]);
        let ann = Person::new(&house.gateway.url("/servers/a/mcp"), NEWEST_LEGACY, everything()).await;
        let message = ann.refusal("t").await;
        assert!(message.contains(expected), "{code}: {message}");
    }
}
