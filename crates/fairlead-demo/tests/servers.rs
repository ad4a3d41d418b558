//! The bundled servers as a client sees them, in both eras.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use std::time::Duration;

use fairlead_testkit::{McpClient, Reply};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

const SECOND: Duration = Duration::from_secs(1);

/// A bundled server on a port of its own; dropping it ends the server.
struct Served {
    url: String,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(name: &'static str) -> Self {
        let (sender, ready) = oneshot::channel();
        let task = tokio::spawn(async move {
            let address = "127.0.0.1:0".parse().unwrap();
            fairlead_demo::serve_http(name, address, |bound| sender.send(bound).unwrap()).await.unwrap();
        });
        Self { url: format!("http://{}/mcp", ready.await.unwrap()), task }
    }

    async fn legacy(&self) -> McpClient {
        let client = self.answering();
        client.initialize("2025-11-25").await.unwrap();
        client
    }

    fn modern(&self) -> McpClient {
        self.answering().modern("2026-07-28")
    }

    fn answering(&self) -> McpClient {
        McpClient::new(&self.url)
            .capabilities(json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}))
            .answering(|method, _| {
                Reply::Result(match method {
                    "roots/list" => json!({"roots": [{"uri": "file:///srv/docs"}]}),
                    "sampling/createMessage" => {
                        json!({"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "m"})
                    }
                    _ => json!({"action": "accept", "content": {"name": "Ada", "username": "ada", "email": "a@b.c"}}),
                })
            })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn both_eras_see_the_same_tools_and_results() {
    for name in fairlead_demo::NAMES {
        let server = Served::start(name).await;
        let (legacy, modern) = (server.legacy().await, server.modern());
        let tools = legacy.list("tools/list", "tools").await.unwrap();
        assert!(tools.len() >= 7);
        assert_eq!(tools, modern.list("tools/list", "tools").await.unwrap());
    }
    let server = Served::start("feature").await;
    for client in [server.legacy().await, server.modern()] {
        let sum = client.call("add", json!({"a": 2, "b": 40})).await.unwrap();
        assert_eq!(sum["structuredContent"]["sum"], 42);
        assert_eq!(text(&client.call("echo", json!({"message": "hi"})).await.unwrap()), "hi");
        let refused = client.call("echo", json!({})).await.unwrap();
        assert!(refused["isError"] == true && text(&refused).contains("message"));
        assert_eq!(text(&client.call("big", json!({"bytes": 100_001})).await.unwrap()).len(), 100_001);
    }
}

#[tokio::test]
async fn both_eras_are_asked_in_their_own_way() {
    let server = Served::start("feature").await;
    for client in [server.legacy().await, server.modern()] {
        let roots = client.call("whoami_roots", json!({})).await.unwrap();
        assert_eq!(text(&roots), "Roots: file:///srv/docs");
        let hello = client.call("test_input_required_result_elicitation", json!({})).await.unwrap();
        assert_eq!(text(&hello), "Hello, Ada!");
        let answer = client.call("test_sampling", json!({"prompt": "?"})).await.unwrap();
        assert_eq!(text(&answer), "LLM response: Paris");
        assert!(text(&client.call("ask_url", json!({})).await.unwrap()).contains("action=accept"));
        let steps = client.call("test_input_required_result_multi_round", json!({})).await.unwrap();
        assert_eq!(text(&steps), "Both steps were answered.");
    }
    let bare = McpClient::new(&server.url).modern("2026-07-28");
    let refused = bare.request("tools/call", json!({"name": "whoami_roots"})).await.unwrap();
    assert_eq!((refused.status, &refused.error()["code"]), (400, &json!(-32021)));
}

#[tokio::test]
async fn a_state_that_was_not_sealed_here_is_refused() {
    let server = Served::start("feature").await;
    let client = server.modern();
    let name = "test_input_required_result_request_state";
    let asked = client.result("tools/call", json!({"name": name})).await.unwrap();
    let state = asked["requestState"].as_str().unwrap();
    let answers = json!({"confirm": {"action": "accept", "content": {"ok": true}}});
    let other_tool = json!({
        "name": "test_input_required_result_tampered_state", "requestState": state, "inputResponses": answers,
    });
    assert_eq!(client.request("tools/call", other_tool).await.unwrap().error()["code"], -32602);
    let right = json!({"name": name, "requestState": state, "inputResponses": answers});
    assert!(text(&client.result("tools/call", right).await.unwrap()).contains("state-ok"));
}

#[tokio::test]
async fn changes_reach_whoever_asked_for_them() {
    let server = Served::start("feature").await;
    let (legacy, modern) = (server.legacy().await, server.modern());
    let mut aside = legacy.open_get(None).await.unwrap();
    legacy.result("resources/subscribe", json!({"uri": "test://watched-resource"})).await.unwrap();
    let filter = json!({"toolsListChanged": true, "resourceSubscriptions": ["test://watched-resource"]});
    let mut listening = modern.start("subscriptions/listen", json!({"notifications": filter})).await.unwrap();
    listening.next_method("notifications/subscriptions/acknowledged", 5 * SECOND).await.unwrap();
    let before = legacy.list("tools/list", "tools").await.unwrap().len();
    modern.call("list_change", json!({"action": "add"})).await.unwrap();
    modern.call("touch_resource", json!({})).await.unwrap();
    for stream in [&mut aside, &mut listening] {
        stream.next_method("notifications/tools/list_changed", 5 * SECOND).await.unwrap();
        let updated = stream.next_method("notifications/resources/updated", 5 * SECOND).await.unwrap();
        assert_eq!(updated["params"]["uri"], "test://watched-resource");
    }
    assert_eq!(legacy.list("tools/list", "tools").await.unwrap().len(), before + 1);
}

#[tokio::test]
async fn a_cancelled_sleep_stops() {
    let server = Served::start("feature").await;
    let (legacy, modern) = (server.legacy().await, server.modern());
    let params = json!({"name": "sleep", "arguments": {"ms": 60_000}});
    let call = legacy.start("tools/call", params.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    legacy.cancel(call.id().unwrap()).await.unwrap();
    let params = json!({"name": "sleep", "arguments": {"ms": 2_000}, "_meta": {"progressToken": "p"}});
    let mut call = modern.start("tools/call", params).await.unwrap();
    call.next_method("notifications/progress", 5 * SECOND).await.unwrap();
    call.vanish();
    let mut counted = Value::Null;
    for _ in 0..50 {
        counted = modern.call("count_calls", json!({})).await.unwrap()["structuredContent"].clone();
        if counted["cancelled"] == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(counted["cancelled"], 2);
    assert_eq!(counted["calls"]["sleep"], 2);
}

#[tokio::test]
async fn a_reconnecting_client_gets_its_answer() {
    let server = Served::start("feature").await;
    let client = server.legacy().await;
    let answer = client.request("tools/call", json!({"name": "test_reconnection"})).await.unwrap();
    assert!(answer.response().is_none(), "the server hangs up before it answers");
    let last = answer.frames.iter().rev().find_map(|frame| frame.id.clone()).unwrap();
    let mut resumed = client.open_get(Some(&last)).await.unwrap();
    loop {
        let frame = resumed.next(5 * SECOND).await.unwrap().unwrap();
        if frame.json().get("result").is_some() {
            break;
        }
    }
}

#[tokio::test]
async fn the_crm_answers_changes_and_refuses() {
    let server = Served::start("crm").await;
    let client = server.legacy().await;
    let found = client.call("search_customers", json!({"segment": "enterprise", "limit": 3})).await.unwrap();
    assert_eq!(found["structuredContent"]["customers"].as_array().unwrap().len(), 3);
    let new = json!({"customer_id": "C-0001", "subject": "Printer on fire", "priority": "urgent"});
    let id = client.call("create_ticket", new).await.unwrap()["structuredContent"]["ticket"]["id"].clone();
    let customer = client.call("get_customer", json!({"id": "C-0001"})).await.unwrap();
    let tickets = customer["structuredContent"]["tickets"].as_array().unwrap();
    assert!(tickets.iter().any(|ticket| ticket["id"] == id));
    let refused = client.call("delete_contact", json!({"contact_id": "P-9999"})).await.unwrap();
    assert_eq!(refused["isError"], true);
    let report = json!({"name": "pipeline_report", "_meta": {"progressToken": 1}});
    let report = client.request("tools/call", report).await.unwrap();
    assert_eq!(report.notifications("notifications/progress").len(), 6);
    let read = client.result("resources/read", json!({"uri": "crm://customers/C-0002"})).await.unwrap();
    assert!(read["contents"][0]["text"].as_str().unwrap().contains("C-0002"));
    let missing = client.request("resources/read", json!({"uri": "crm://customers/C-9999"})).await.unwrap();
    assert_eq!(missing.error()["code"], -32002);
    let reference = json!({"type": "ref/prompt", "name": "account_brief"});
    let argument = json!({"name": "customer_id", "value": "C-000"});
    let completed =
        client.result("completion/complete", json!({"ref": reference, "argument": argument})).await.unwrap();
    assert_eq!(completed["completion"]["values"].as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn foreign_hosts_and_origins_and_unknown_names_are_refused() {
    let server = Served::start("feature").await;
    let client = McpClient::new(&server.url);
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let opening = client.message("initialize", params).to_string();
    let own = server.url.trim_end_matches("/mcp").to_owned();
    for (headers, status) in [
        ([("origin", own.as_str())], 200),
        ([("origin", "http://evil.example")], 403),
        ([("host", "evil.example")], 403),
    ] {
        let answer = client.post_raw(opening.clone(), &headers).await.unwrap();
        assert_eq!(answer.status, status, "{headers:?}");
    }
    let address = "127.0.0.1:0".parse().unwrap();
    let refused = fairlead_demo::serve_http("nobody", address, |_| ()).await.unwrap_err();
    assert!(refused.to_string().contains("feature"));
}
