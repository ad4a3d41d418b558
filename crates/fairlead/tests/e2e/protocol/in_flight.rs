//! What happens while a call is in flight: progress, log messages, cancellation, clients that go away.

use std::time::Duration;

use fairlead_testkit::{McpClient, Script, Step, ToolScript};
use serde_json::{Value, json};

use super::{House, SERVERS, alone};
use crate::support::{NEWEST_LEGACY, PATIENCE, SECOND, eventually, gate::Gate};

/// `waits` and `waits_aloud` end when the gate is open.
fn script(gate: &Gate) -> Script {
    let log = |level: &str| Step::Log { level: level.to_owned(), text: format!("this is {level}") };
    Script::legacy()
        .tool(ToolScript::new("works").progress(3, 30))
        .tool(ToolScript::new("logs").step(log("info")).step(log("error")).sleep(20))
        .tool(gate.tool("waits"))
        .tool(gate.before(ToolScript::new("waits_aloud").progress(10, 100)))
}

fn call(name: &str, who: &str, token: Value) -> Value {
    json!({"name": name, "arguments": {"who": who}, "_meta": {"progressToken": token}})
}

#[tokio::test]
async fn progress_comes_back_under_the_clients_own_token_and_only_to_it() {
    let gate = Gate::new();
    let house = House::new(script(&gate), |_, script| script).await;
    for server in SERVERS {
        let path = alone(server);
        // Everybody at once, with the same ids and partly the same tokens.
        let clients = house.clients(&path).await.into_iter().chain(house.clients(&path).await);
        let tokens = [json!("t"), json!(7), json!("t"), json!("t"), json!(7), json!("ä\""), json!("t"), json!(0)];
        let calls = clients.zip(&tokens).enumerate().map(|(number, ((who, client), token))| async move {
            let caller = format!("caller {number}");
            (
                who,
                token,
                caller.clone(),
                client.request("tools/call", call("works", &caller, token.clone())).await.unwrap(),
            )
        });
        for (who, token, caller, answer) in futures(calls).await {
            let progress = answer.notifications("notifications/progress");
            let seen: Vec<_> = progress.iter().map(|report| &report["params"]["progress"]).collect();
            assert_eq!(seen, [1, 2, 3], "{server}, {who}: {progress:?}");
            assert!(progress.iter().all(|report| report["params"]["progressToken"] == *token), "{who}: {progress:?}");
            let result = answer.result().unwrap();
            assert_eq!(result["structuredContent"]["arguments"]["who"], caller, "{server}, {who}");
        }
        let sent = house.received(server, "tools/call");
        let mut upstream: Vec<_> =
            sent.iter().map(|call| call["params"]["_meta"]["progressToken"].to_string()).collect();
        upstream.sort();
        upstream.dedup();
        assert!(server != "child" || upstream.len() == sent.len(), "tokens on one pipe are unique: {upstream:?}");
    }
}

/// Runs them side by side, in one task.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_call_without_a_token_gets_no_progress() {
    let gate = Gate::new();
    let house = House::new(script(&gate), |_, script| script).await;
    for server in SERVERS {
        for (who, client) in house.clients(&alone(server)).await {
            let answer = client.request("tools/call", json!({"name": "works", "arguments": {}})).await.unwrap();
            assert!(answer.notifications("notifications/progress").is_empty(), "{server}, {who}");
            assert!(answer.result().is_ok(), "{server}, {who}");
        }
    }
}

fn levels(answer: &fairlead_testkit::Answer) -> Vec<String> {
    let logged = answer.notifications("notifications/message");
    logged.iter().map(|message| message["params"]["level"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn log_messages_of_a_call_reach_its_caller_at_the_level_it_asked_for() {
    let gate = Gate::new();
    let house = House::new(script(&gate), |_, script| script).await;
    for server in ["web", "child"] {
        for path in [alone(server), "/mcp".to_owned()] {
            let name = if path == "/mcp" { format!("{server}__logs") } else { "logs".to_owned() };
            let client = house.gateway.legacy(&path, NEWEST_LEGACY).await;
            client.list("tools/list", "tools").await.unwrap();
            let answer = client.request("tools/call", call(&name, "a", json!(1))).await.unwrap();
            assert_eq!(levels(&answer), ["info", "error"], "{path}");
            for (level, expected) in [("error", vec!["error"]), ("debug", vec!["info", "error"]), ("emergency", vec![])]
            {
                assert_eq!(client.result("logging/setLevel", json!({"level": level})).await.unwrap(), json!({}));
                let answer = client.request("tools/call", call(&name, "a", json!(1))).await.unwrap();
                assert_eq!(levels(&answer), expected, "{path} at {level}");
            }
            for level in [json!("loud"), json!(7), Value::Null] {
                let refused = client.request("logging/setLevel", json!({"level": level})).await.unwrap();
                assert_eq!(refused.error()["code"], -32602, "{level}");
            }
        }
        let told = house.received(server, "logging/setLevel");
        assert!(told.iter().any(|told| told["params"]["level"] == "debug"), "{server}: {told:?}");
    }
}

#[tokio::test]
async fn a_modern_client_gets_log_messages_only_when_its_request_asks_for_them() {
    let gate = Gate::new();
    let house = House::new(script(&gate), |_, script| script).await;
    for server in SERVERS {
        let client = house.gateway.modern(&alone(server));
        let answer = client.request("tools/call", call("logs", "a", json!(1))).await.unwrap();
        assert_eq!(levels(&answer), Vec::<String>::new(), "{server}");
        assert!(answer.result().is_ok());
    }
    let client = house.gateway.modern(&alone("now"));
    let mut asking = call("logs", "a", json!(1));
    asking["_meta"]["io.modelcontextprotocol/logLevel"] = json!("error");
    let answer = client.request("tools/call", asking).await.unwrap();
    assert_eq!(levels(&answer), ["error"]);
}

/// The ids (JSON text) under which a server was told that calls are cancelled.
fn cancelled(house: &House, server: &str) -> Vec<String> {
    match server {
        "web" => house.web.cancelled(),
        "now" => house.now.cancelled(),
        _ => {
            let notices = house.child.received_method("notifications/cancelled");
            notices.iter().map(|notice| notice["params"]["requestId"].to_string()).collect()
        }
    }
}

/// The id under which a server knows the call of `who`.
fn id_of(house: &House, server: &str, who: &str) -> Option<String> {
    let calls = house.received(server, "tools/call");
    calls.iter().find(|call| call["params"]["arguments"]["who"] == who).map(|call| call["id"].to_string())
}

async fn started(house: &House, server: &str, who: &str) -> String {
    eventually(PATIENCE, &format!("the call of {who} at {server}"), || id_of(house, server, who).is_some()).await;
    id_of(house, server, who).unwrap()
}

#[tokio::test]
async fn a_cancellation_reaches_the_right_request_on_the_right_server_and_only_it() {
    for tool in ["waits", "waits_aloud"] {
        for server in SERVERS {
            let gate = Gate::new();
            let house = House::new(script(&gate), |_, script| script).await;
            let client = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
            client.list("tools/list", "tools").await.unwrap();
            let other = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
            let send = |client: &McpClient, on: &str, who: &str, id: u64| {
                let mut message = client.message("tools/call", call(&format!("{on}__{tool}"), who, json!(id)));
                message["id"] = json!(id);
                let client = client.clone();
                tokio::spawn(async move { client.post(&message).await?.finish().await })
            };
            let elsewhere = if server == "web" { "child" } else { "web" };
            let victim = send(&client, server, "victim", 500);
            let others = [
                send(&client, server, "same client", 501),
                send(&other, server, "same id", 500),
                send(&client, elsewhere, "elsewhere", 502),
            ];
            let id = started(&house, server, "victim").await;
            for (on, who) in [(server, "same client"), (server, "same id"), (elsewhere, "elsewhere")] {
                started(&house, on, who).await;
            }
            // Ids that are not in flight, or another client's, or the same digits as text, change nothing.
            for unknown in [json!(999), json!("500"), Value::Null] {
                client.cancel(&unknown).await.unwrap();
            }
            assert_eq!(client.cancel(&json!(500)).await.unwrap().status, 202);
            let what = format!("{tool}: the cancellation at {server}");
            eventually(2 * SECOND, &what, || cancelled(&house, server).contains(&id)).await;
            let answer = victim.await.unwrap().unwrap();
            assert!(answer.response().is_none(), "{server}: a cancelled call is not answered: {:?}", answer.response());
            gate.open();
            for other in others {
                let answer = other.await.unwrap().unwrap();
                assert!(answer.result().is_ok(), "{tool} {server}: {:?}", answer.error());
            }
            assert_eq!(cancelled(&house, server), [id], "{tool} {server}");
            assert_eq!(cancelled(&house, elsewhere), Vec::<String>::new(), "{tool} {server}");
        }
    }
}

#[tokio::test]
async fn a_modern_client_cancels_by_going_away_and_a_legacy_one_does_not() {
    for tool in ["waits", "waits_aloud"] {
        let gate = Gate::new();
        let house = House::new(script(&gate), |_, script| script).await;
        for server in SERVERS {
            for (modern, who) in [(true, "modern"), (false, "legacy")] {
                let path = alone(server);
                let client =
                    if modern { house.gateway.modern(&path) } else { house.gateway.legacy(&path, NEWEST_LEGACY).await };
                let params = call(tool, who, json!(1));
                let task = tokio::spawn(async move { client.request("tools/call", params).await });
                let id = started(&house, server, who).await;
                tokio::time::sleep(Duration::from_millis(150)).await;
                task.abort();
                let what = format!("{tool}: the cancellation of {who} at {server}");
                if modern {
                    eventually(2 * SECOND, &what, || cancelled(&house, server).contains(&id)).await;
                } else {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    assert!(!cancelled(&house, server).contains(&id), "{what}");
                }
            }
        }
    }
}
