//! The bundled feature server, whose reading of the protocol is not ours, spoken to in 2026-07-28 only.

use fairlead_testkit::Reply;
use serde_json::{Value, json};

use super::{Person, everything};
use crate::support::{Gateway, LEGACY, NEWEST_LEGACY, program};

async fn feature() -> Gateway {
    let yaml = format!(
        "servers:\n  f: {{ command: \"{}\", args: [demo-server, feature], protocol: \"2026-07-28\" }}\n",
        program()
    );
    Gateway::start(&yaml).await
}

fn text(result: &Value) -> String {
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {result}")).to_owned()
}

fn says(method: &str, params: &Value) -> Reply {
    match method {
        "elicitation/create" => {
            let content = match params["requestedSchema"]["properties"].as_object() {
                Some(fields) => fields.keys().map(|key| (key.clone(), json!("ann"))).collect::<Value>(),
                None => return Reply::Result(json!({"action": "accept"})),
            };
            Reply::Result(json!({"action": "accept", "content": content}))
        }
        _ => super::says(method, params),
    }
}

#[tokio::test]
async fn every_asking_tool_of_the_feature_server_gets_its_answers() {
    let gateway = feature().await;
    for revision in LEGACY {
        for (path, prefix) in [("/mcp", "f__"), ("/servers/f/mcp", "")] {
            let ann = Person::answering(&gateway.url(path), revision, everything(), says).await;
            for (tool, part) in [
                ("test_elicitation", "action=accept"),
                ("test_sampling", "LLM response: Paris"),
                ("ask_url", "action=accept"),
                ("whoami_roots", "file:///srv/ann"),
                ("test_streaming_elicitation", "Answered"),
                ("test_input_required_result_elicitation", "Hello, ann!"),
                ("test_input_required_result_sampling", "Paris"),
                ("test_input_required_result_request_state", "state-ok"),
                ("test_input_required_result_multiple_inputs", "greeting"),
                ("test_input_required_result_multi_round", "Both steps were answered."),
                ("test_input_required_result_capabilities", "Answered"),
            ] {
                let result = ann.client.call(&format!("{prefix}{tool}"), json!({})).await;
                let result = result.unwrap_or_else(|error| panic!("{revision} {path} {tool}: {error:#}"));
                assert!(text(&result).contains(part), "{revision} {path} {tool}: {result}");
            }
            assert!(ann.asked().len() >= 11, "{:?}", ann.methods());
        }
    }
}

#[tokio::test]
async fn a_capability_the_server_misses_is_named() {
    let gateway = feature().await;
    for (tool, named) in [("test_elicitation", "elicitation"), ("test_sampling", "sampling"), ("whoami_roots", "roots")]
    {
        let ann = Person::answering(&gateway.url("/mcp"), NEWEST_LEGACY, json!({}), says).await;
        let message = ann.refusal(&format!("f__{tool}")).await;
        assert!(message.contains("FL-1306") && message.contains(named), "{tool}: {message}");
        assert!(ann.asked().is_empty(), "{tool}");
    }
}
