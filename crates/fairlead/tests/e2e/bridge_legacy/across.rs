//! What else crosses from a client of a session to a modern server: log levels, completion, ping, progress,
//! cancellation, errors, headers.

use fairlead_testkit::{Received, Script, Step, ToolScript};
use serde_json::{Value, json};

use super::{Bridged, Person, everything};
use crate::support::{LEGACY, NEWEST_LEGACY, PATIENCE, eventually};

fn level_of(call: &Received) -> Value {
    call.json()["params"]["_meta"]["io.modelcontextprotocol/logLevel"].clone()
}

#[tokio::test]
async fn the_log_level_of_a_session_goes_with_its_calls() {
    let log = |level: &str| Step::Log { level: level.into(), text: level.into() };
    let talks = ToolScript::new("talks").step(log("debug")).step(log("info")).step(log("error"));
    let house = Bridged::new(Script::modern().tool(talks)).await;
    for path in ["/mcp", "/servers/a/mcp"] {
        let name = if path == "/mcp" { "a__talks" } else { "talks" };
        for revision in LEGACY {
            let ann = Person::new(&house.gateway.url(path), revision, everything()).await;
            assert_eq!(ann.client.initialized()["capabilities"]["logging"], json!({}), "{path} {revision}");
            house.server.clear_received();
            ann.client.call(name, json!({})).await.unwrap();
            assert_eq!(level_of(&house.server.received_method("tools/call")[0]), Value::Null, "none was set");
            for (level, heard) in [("info", 2), ("error", 1), ("debug", 3)] {
                house.server.clear_received();
                ann.client.result("logging/setLevel", json!({"level": level})).await.unwrap();
                let answer = ann.client.request("tools/call", json!({"name": name})).await.unwrap();
                assert_eq!(answer.notifications("notifications/message").len(), heard, "{path} {revision} {level}");
                assert_eq!(level_of(&house.server.received_method("tools/call")[0]), level);
                assert!(house.server.received_method("logging/setLevel").is_empty(), "it has no such method");
            }
            let wrong = ann.client.request("logging/setLevel", json!({"level": "loud"})).await.unwrap();
            assert_eq!(wrong.error()["code"], -32602);
        }
    }
}

#[tokio::test]
async fn completion_with_context_ping_progress_and_cancellation_cross() {
    let script = Script::modern()
        .resources_and_prompts(1, 1)
        .tool(ToolScript::new("long").progress(3, 5))
        .tool(ToolScript::new("slow").sleep(60_000));
    let house = Bridged::new(script).await;
    for revision in LEGACY {
        let ann = house.person(revision).await;
        assert_eq!(ann.client.initialized()["capabilities"]["completions"], json!({}), "{revision}");
        house.server.clear_received();
        let context = r#"{"arguments":{"a":"1.10"},"x":1E2}"#;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"c","method":"completion/complete","params":{{"ref":{{"type":"ref/prompt","name":"a__prompt_0"}},"argument":{{"name":"n","value":"v"}},"context":{context}}}}}"#
        );
        let answer = ann.client.post_raw(body, &[]).await.unwrap();
        assert_eq!(answer.frames[0].json()["result"]["completion"]["values"], json!(["v1", "v2"]), "{revision}");
        let sent = house.server.received_method("completion/complete").pop().unwrap();
        let sent = String::from_utf8_lossy(&sent.body).into_owned();
        assert!(sent.contains(&format!("\"context\":{context}")), "{sent}");
        assert_eq!(ann.client.result("ping", json!({})).await.unwrap(), json!({}), "{revision}");
        assert!(house.server.received_method("ping").is_empty());
        let call = json!({"name": "a__long", "_meta": {"progressToken": 5}});
        let answer = ann.client.request("tools/call", call).await.unwrap();
        let told = answer.notifications("notifications/progress");
        assert_eq!(told.len(), 3, "{revision}");
        assert!(told.iter().all(|told| told["params"]["progressToken"] == 5), "{told:?}");
        let before = house.server.cancelled().len();
        // Nothing is heard of the call, so not even headers come before its end.
        let client = ann.client.clone();
        let message = client.message("tools/call", json!({"name": "a__slow"}));
        let id = message["id"].clone();
        let running = tokio::spawn(async move { client.post(&message).await.unwrap().finish().await });
        let arrived = |received: &[Received]| received.iter().any(|got| got.json()["params"]["name"] == "slow");
        assert!(house.server.wait_received(PATIENCE, arrived).await);
        ann.client.cancel(&id).await.unwrap();
        eventually(PATIENCE, "the end at the server", || house.server.cancelled().len() > before).await;
        assert!(running.await.unwrap().unwrap().response().is_none());
    }
}

/// A tool whose argument goes into a header.
fn mirrored(header: &str) -> ToolScript {
    ToolScript::new("t").definition(json!({
        "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": header}}},
    }))
}

#[tokio::test]
async fn a_tool_that_wants_other_headers_is_listed_and_called_once_more() {
    let house = Bridged::new(Script::modern().tool(mirrored("Old"))).await;
    for (path, name) in [("/mcp", "a__t"), ("/servers/a/mcp", "t")] {
        house.server.change(|script| script.scripted_tools = vec![mirrored("Old")]);
        house.server.change_list().await;
        let ann = Person::new(&house.gateway.url(path), NEWEST_LEGACY, everything()).await;
        let arguments = json!({"region": "eu"});
        let header = |header: &'static str| {
            move |received: &[Received]| received.iter().any(|got| got.header(header) == Some("eu"))
        };
        // Until the gateway knows the tool as it was.
        crate::support::eventually_some(PATIENCE, "the old header", async || {
            ann.client.call(name, arguments.clone()).await.unwrap();
            header("mcp-param-old")(&house.server.received()).then_some(())
        })
        .await;
        house.server.change(|script| script.scripted_tools = vec![mirrored("New").needs_header("mcp-param-new")]);
        house.server.clear_received();
        ann.client.call(name, arguments.clone()).await.unwrap();
        let calls = house.server.received_method("tools/call");
        assert_eq!(calls.len(), 2, "{path}: refused, listed anew, called once more");
        assert_eq!(calls[1].header("mcp-param-new"), Some("eu"), "{path}");
        // One that is never content is given up after that.
        house.server.change(|script| script.scripted_tools = vec![mirrored("New").needs_header("mcp-param-none")]);
        house.server.clear_received();
        let answer = ann.client.request("tools/call", json!({"name": name, "arguments": arguments})).await.unwrap();
        let error = answer.error();
        assert!(error["message"].as_str().unwrap().contains("FL-1304"), "{path}: {error}");
        assert_eq!(house.server.received_method("tools/call").len(), 2, "{path}");
        house.server.clear_received();
    }
}
