//! A server that has as many sessions as it may (`max_sessions`): what shares one needs no room, and what lives on one
//! does not make room for others.

use fairlead_testkit::{McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, StdioServer, eventually, rows};

const URI: &str = "test://resource/1";
const UPDATED: &str = "notifications/resources/updated";

/// A legacy client that can be asked, and so has a session of another kind than who cannot.
async fn person(gateway: &Gateway) -> McpClient {
    let client = McpClient::new(&gateway.url("/servers/a/mcp"))
        .limit(PATIENCE)
        .capabilities(json!({"elicitation": {"form": {}}, "sampling": {}}));
    client.initialize(NEWEST_LEGACY).await.unwrap();
    client
}

#[tokio::test]
async fn a_listener_shares_the_session_of_a_call_where_there_is_no_room_for_its_own() {
    let script = Script::legacy().sse().resources_and_prompts(3, 0).tool(ToolScript::new("long").progress(600, 100));
    let server = ScriptedServer::start(script).await;
    let yaml = format!("servers:\n  a: {{ url: \"{}\", max_sessions: 1 }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "a").await;
    let caller = person(&gateway).await;
    let params = json!({"name": "long", "_meta": {"progressToken": "p"}});
    let mut call = caller.start("tools/call", params).await.unwrap();
    call.next_method("notifications/progress", PATIENCE).await.unwrap();

    let filter = json!({"notifications": {"resourceSubscriptions": [URI]}});
    let mut streams = Vec::new();
    for path in ["/mcp", "/servers/a/mcp"] {
        let mut stream = gateway.modern(path).start("subscriptions/listen", filter.clone()).await.unwrap();
        let accepted = stream.next_method("notifications/subscriptions/acknowledged", PATIENCE).await.unwrap();
        assert_eq!(accepted["params"]["notifications"]["resourceSubscriptions"], json!([URI]), "{path}: {accepted}");
        streams.push(stream);
    }
    assert_eq!(server.received_method("resources/subscribe").len(), 1, "both listen through the same session");
    server.notify(UPDATED, &json!({"uri": URI})).await;
    for stream in &mut streams {
        let updated = stream.next_method(UPDATED, PATIENCE).await.unwrap();
        assert_eq!(updated["params"]["uri"], URI);
    }
    // The call is none the worse for it.
    call.next_method("notifications/progress", PATIENCE).await.unwrap();
    drop(streams);
    let left = || server.received_method("resources/unsubscribe").len() == 1;
    eventually(PATIENCE, "the server hears that nobody listens any more", left).await;
}

async fn status(client: &McpClient, task: &Value) -> Value {
    client.result("tasks/get", json!({"taskId": task})).await.unwrap()["status"].clone()
}

#[tokio::test]
async fn a_process_on_which_a_task_runs_makes_no_room_until_the_task_is_over() {
    let server =
        StdioServer::new(Script::legacy().tasks().tool(ToolScript::new("long").as_task().sleep(60_000)).tools(1));
    let options = "share: per_session, max_sessions: 1, stop_grace: 300ms";
    let gateway = Gateway::start(&format!("servers:\n  a: {{ {}, {options} }}\n", server.yaml())).await;
    rows::until_listed(&gateway, "a").await;
    let (ann, bob) = (person(&gateway).await, person(&gateway).await);
    let begun = ann.result("tools/call", json!({"name": "long", "task": {"ttl": 60_000}})).await.unwrap();
    let task = begun["task"]["taskId"].clone();
    assert!(task.is_string(), "{begun}");

    let refused = bob.call("tool_0", json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("FL-1305") && refused.contains("tasks run on one of them"), "{refused}");
    assert_eq!(status(&ann, &task).await, "working", "the task goes on");

    ann.result("tasks/cancel", json!({"taskId": task})).await.unwrap();
    let called = bob.call("tool_0", json!({})).await.unwrap();
    assert!(called["structuredContent"].is_object(), "{called}");
}
