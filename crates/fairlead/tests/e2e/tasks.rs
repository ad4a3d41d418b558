//! Tasks of both revisions through the gateway, between clients and servers of both eras: what a client sees does not
//! depend on which kind of server is behind, its ids are its own, and they outlive the gateway.

use std::time::Duration;

use fairlead_testkit::{McpClient, Question, Reply, Script, ScriptedServer, ToolScript, Via};
use serde_json::{Value, json};

use crate::support::{Gateway, MODERN, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually, eventually_some};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";
const RELATED: &str = "io.modelcontextprotocol/related-task";

/// A server whose tools run as tasks: slowly, asking, failing in both ways.
fn script(base: Script) -> Script {
    let only_task = json!({"execution": {"taskSupport": "required"}});
    let tool = |name: &str| ToolScript::new(name).as_task();
    base.tasks()
        .tools(1)
        .tool(tool("slow").sleep(300))
        .tool(tool("long").sleep(60_000))
        .tool(tool("tells").progress(20, 100))
        .tool(tool("asks").ask(Question::Elicitation, Via::Call).ask(Question::Sampling, Via::Call))
        .tool(
            tool("breaks")
                .sleep(100)
                .finish(fairlead_testkit::Finish::Error { code: -32077, message: "no".to_owned() }),
        )
        .tool(tool("fails").finish(fairlead_testkit::Finish::ToolError { text: "alas".to_owned() }))
        .tool(tool("only").sleep(200).definition(only_task.clone()))
        .tool(tool("only_asks").ask(Question::Elicitation, Via::Call).definition(only_task.clone()))
        .tool(tool("only_long").sleep(60_000).definition(only_task.clone()))
        .tool(
            tool("only_breaks")
                .finish(fairlead_testkit::Finish::Error { code: -32077, message: "no".to_owned() })
                .definition(only_task.clone()),
        )
        .tool(
            tool("only_fails")
                .finish(fairlead_testkit::Finish::ToolError { text: "alas".to_owned() })
                .definition(only_task),
        )
}

/// One gateway before one server, with the names of tools on two of its endpoints.
struct World {
    server: ScriptedServer,
    gateway: Gateway,
}

const PATHS: [(&str, &str); 2] = [("/mcp", "a__"), ("/servers/a/mcp", "")];

async fn world(base: Script, options: &str) -> World {
    let server = ScriptedServer::start(script(base)).await;
    let gateway = Gateway::start(&format!("{options}\nservers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    World { server, gateway }
}

fn bases() -> [(&'static str, Script); 2] {
    [("legacy", Script::legacy()), ("modern", Script::modern())]
}

/// A client that answers what it is asked.
fn person(url: &str) -> McpClient {
    McpClient::new(url)
        .limit(PATIENCE)
        .capabilities(json!({"elicitation": {"form": {}}, "sampling": {}, "extensions": {EXTENSION: {}}}))
        .answering(|method, params| Reply::Result(says(method, params)))
}

fn says(method: &str, params: &Value) -> Value {
    let related = &params["_meta"][RELATED];
    let meta = if related.is_null() { json!({}) } else { json!({RELATED: related}) };
    match method {
        "elicitation/create" => json!({"action": "accept", "content": {"name": "ann"}, "_meta": meta}),
        _ => json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "Paris"}, "_meta": meta}),
    }
}

async fn legacy(gateway: &Gateway, path: &str) -> McpClient {
    let client = person(&gateway.url(path));
    client.initialize(NEWEST_LEGACY).await.unwrap();
    client
}

fn modern(gateway: &Gateway, path: &str) -> McpClient {
    person(&gateway.url(path)).modern(MODERN)
}

/// Begins a task as a legacy client does.
async fn begin(client: &McpClient, name: &str) -> Value {
    let params = json!({"name": name, "arguments": {"q": 1.5}, "task": {"ttl": 50_000}});
    let result = client.result("tools/call", params).await.unwrap();
    let task = result["task"].clone();
    assert!(task["taskId"].as_str().is_some_and(|id| id.len() > 60), "a sealed id: {result}");
    assert!(task["createdAt"].is_string() && task["lastUpdatedAt"].is_string(), "{result}");
    assert!(task["ttl"].is_number(), "{result}");
    assert!(!result.to_string().contains("task-"), "the server's own id is nobody's business: {result}");
    task
}

async fn get(client: &McpClient, id: &Value) -> Value {
    let task = client.result("tasks/get", json!({"taskId": id})).await.unwrap();
    assert_eq!(task["taskId"], *id, "the client's own id, and the same every time");
    task
}

/// Looks at a task until it has a status.
async fn until(client: &McpClient, id: &Value, status: &str) -> Value {
    eventually_some(PATIENCE, &format!("the status {status}"), async || {
        let task = get(client, id).await;
        (task["status"] == status).then_some(task)
    })
    .await
}

/// The error of a request.
async fn refused(client: &McpClient, method: &str, params: Value) -> Value {
    let answer = client.request(method, params).await.unwrap();
    let error = answer.error();
    assert!(error["code"].is_i64(), "{method} was not refused: {:?}", answer.messages());
    error
}

fn is_unknown(error: &Value) -> bool {
    error["code"] == -32602 && error["message"].as_str().is_some_and(|text| text.contains("FL-1203"))
}

#[tokio::test]
async fn a_legacy_client_runs_calls_as_tasks_whatever_the_server_speaks() {
    for (era, base) in bases() {
        let world = world(base, "").await;
        for (path, prefix) in PATHS {
            let at = format!("{era} {path}");
            let client = legacy(&world.gateway, path).await;
            let declared = &client.initialized()["capabilities"]["tasks"];
            assert!(declared["requests"]["tools"]["call"].is_object(), "{at}: {}", client.initialized());
            assert!(declared["list"].is_object() && declared["cancel"].is_object(), "{at}");
            let older = world.gateway.legacy(path, "2025-06-18").await;
            assert!(older.initialized()["capabilities"]["tasks"].is_null(), "{at}: not part of that revision");
            assert_eq!(refused(&older, "tasks/list", json!({})).await["code"], -32601, "{at}");
            let tools = client.list("tools/list", "tools").await.unwrap();
            let slow = tools.iter().find(|tool| tool["name"] == format!("{prefix}slow")).unwrap();
            assert_eq!(slow["execution"]["taskSupport"], "optional", "{at}");

            let task = begin(&client, &format!("{prefix}slow")).await;
            assert_eq!(task["status"], "working", "{at}");
            let id = &task["taskId"];
            assert_eq!(get(&client, id).await["status"], "working", "{at}");
            let listed = client.list("tasks/list", "tasks").await.unwrap();
            assert_eq!(listed.len(), 1, "{at}: {listed:?}");
            assert_eq!(listed[0]["taskId"], *id, "{at}");
            let result = client.result("tasks/result", json!({"taskId": id})).await.unwrap();
            assert_eq!(result["structuredContent"]["arguments"], json!({"q": 1.5}), "{at}: {result}");
            assert_eq!(result["_meta"][RELATED], json!({"taskId": id}), "{at}: {result}");
            assert!(result["resultType"].is_null(), "{at}: {result}");
            assert_eq!(get(&client, id).await["status"], "completed", "{at}");
            let again = client.result("tasks/result", json!({"taskId": id})).await.unwrap();
            assert_eq!(again, result, "{at}");
            let error = refused(&client, "tasks/cancel", json!({"taskId": id})).await;
            assert_eq!(error["code"], -32602, "{at}: what is over cannot be cancelled");

            let long = begin(&client, &format!("{prefix}long")).await;
            let waiting = client.start("tasks/result", json!({"taskId": long["taskId"]}));
            let cancelled = client.result("tasks/cancel", json!({"taskId": long["taskId"]})).await.unwrap();
            assert_eq!((&cancelled["status"], &cancelled["taskId"]), (&json!("cancelled"), &long["taskId"]), "{at}");
            assert_eq!(get(&client, &long["taskId"]).await["status"], "cancelled", "{at}");
            assert!(waiting.await.unwrap().finish().await.unwrap().error()["code"].is_i64(), "{at}");

            let broken = begin(&client, &format!("{prefix}breaks")).await;
            until(&client, &broken["taskId"], "failed").await;
            let error = refused(&client, "tasks/result", json!({"taskId": broken["taskId"]})).await;
            assert_eq!(error, json!({"code": -32077, "message": "no"}), "{at}");
            let listed = client.list("tasks/list", "tasks").await.unwrap();
            let statuses: Vec<_> = listed.iter().map(|task| task["status"].as_str().unwrap()).collect();
            assert_eq!(statuses, ["completed", "cancelled", "failed"], "{at}");
        }
    }
}

#[tokio::test]
async fn what_a_task_asks_is_asked_while_its_result_is_waited_for() {
    for (era, base) in bases() {
        let world = world(base, "").await;
        for (path, prefix) in PATHS {
            let at = format!("{era} {path}");
            let client = legacy(&world.gateway, path).await;
            let task = begin(&client, &format!("{prefix}asks")).await;
            until(&client, &task["taskId"], "input_required").await;
            let answer = client.request("tasks/result", json!({"taskId": task["taskId"]})).await.unwrap();
            let questions: Vec<_> =
                answer.messages().into_iter().filter(|message| message["method"].is_string()).collect();
            let methods: Vec<_> = questions.iter().map(|question| question["method"].as_str().unwrap()).collect();
            assert_eq!(methods, ["elicitation/create", "sampling/createMessage"], "{at}");
            for question in &questions {
                assert_eq!(question["params"]["_meta"][RELATED]["taskId"], task["taskId"], "{at}: {question}");
            }
            let answers = &answer.result().unwrap()["structuredContent"]["answers"];
            assert_eq!(answers[0]["result"]["content"]["name"], "ann", "{at}: {answers}");
            assert_eq!(answers[1]["result"]["content"]["text"], "Paris", "{at}: {answers}");
            let told = answers.to_string();
            assert!(!told.contains(task["taskId"].as_str().unwrap()), "{at}: the client's id is nothing to the server");
            if era == "legacy" {
                assert!(told.contains("task-"), "{at}: {told}");
            }
        }
    }
}

#[tokio::test]
async fn a_modern_server_that_answers_at_once_leaves_a_task_that_is_over() {
    let mut world = world(Script::modern(), "").await;
    let client = legacy(&world.gateway, "/mcp").await;
    let task = begin(&client, "a__tool_0").await;
    assert_eq!(task["status"], "completed");
    let id = &task["taskId"];
    let look = async |client: &McpClient| {
        assert_eq!(get(client, id).await, task);
        let result = client.result("tasks/result", json!({"taskId": id})).await.unwrap();
        assert_eq!(result["structuredContent"]["arguments"], json!({"q": 1.5}), "{result}");
        assert_eq!(result["_meta"][RELATED], json!({"taskId": id}), "{result}");
        assert_eq!(client.list("tasks/list", "tasks").await.unwrap(), std::slice::from_ref(&task));
        assert_eq!(refused(client, "tasks/cancel", json!({"taskId": id})).await["code"], -32602);
    };
    look(&client).await;
    // Without asking for a task there is none, whatever the client can do.
    let plain = client.result("tools/call", json!({"name": "a__slow"})).await.unwrap();
    assert!(plain["content"].is_array() && plain["task"].is_null(), "{plain}");
    assert_eq!(client.list("tasks/list", "tasks").await.unwrap().len(), 1);
    let session = client.session().unwrap();
    assert_eq!(world.gateway.stop().await, Some(0));
    world.gateway.restart().await;
    let client = person(&world.gateway.url("/mcp"));
    client.set_session(Some(&session));
    look(&client).await;
}

#[tokio::test]
async fn a_modern_client_follows_tasks_whatever_the_server_speaks() {
    for (era, base) in bases() {
        let world = world(base, "").await;
        for (path, prefix) in PATHS {
            let at = format!("{era} {path}");
            let client = modern(&world.gateway, path);
            let discovered = client.result("server/discover", json!({})).await.unwrap();
            assert!(discovered["capabilities"]["extensions"][EXTENSION].is_object(), "{at}: {discovered}");
            let begin = async |name: &str| {
                let params = json!({"name": format!("{prefix}{name}"), "arguments": {"q": 1.5}});
                let task = client.result("tools/call", params).await.unwrap();
                assert_eq!(task["resultType"], "task", "{at}: {task}");
                assert!(task["taskId"].as_str().is_some_and(|id| id.len() > 60), "{at}: {task}");
                assert!(task["ttlMs"].is_number() && task["pollIntervalMs"] == 50, "{at}: {task}");
                assert!(task["ttl"].is_null() && task["task"].is_null(), "{at}: {task}");
                assert!(!task.to_string().contains("task-"), "{at}: {task}");
                task
            };
            let task = begin("only").await;
            assert_eq!(task["status"], "working", "{at}");
            let id = &task["taskId"];
            assert_eq!(get(&client, id).await["resultType"], "complete", "{at}");
            let over = until(&client, id, "completed").await;
            assert_eq!(over["result"]["structuredContent"]["arguments"], json!({"q": 1.5}), "{at}: {over}");
            assert_eq!(over["result"]["resultType"], "complete", "{at}: {over}");

            let asking = begin("only_asks").await;
            let asked = until(&client, &asking["taskId"], "input_required").await;
            let requests = asked["inputRequests"].as_object().unwrap();
            let (key, request) = requests.iter().next().unwrap();
            assert_eq!((requests.len(), &request["method"]), (1, &json!("elicitation/create")), "{at}: {asked}");
            assert_eq!(request["params"]["message"], "What is your name?", "{at}: {asked}");
            let unasked = json!({"taskId": asking["taskId"], "inputResponses": {"nothing": {}}});
            assert_eq!(client.result("tasks/update", unasked).await.unwrap()["resultType"], "complete", "{at}");
            let response = json!({key: {"action": "accept", "content": {"name": "ann"}}});
            let update = json!({"taskId": asking["taskId"], "inputResponses": response});
            let acknowledged = client.result("tasks/update", update).await.unwrap();
            assert_eq!(acknowledged["resultType"], "complete", "{at}");
            let over = until(&client, &asking["taskId"], "completed").await;
            let answer = &over["result"]["structuredContent"]["answers"][0]["result"];
            assert_eq!(answer["content"]["name"], "ann", "{at}: {over}");

            let long = begin("only_long").await;
            let acknowledged = client.result("tasks/cancel", json!({"taskId": long["taskId"]})).await.unwrap();
            assert_eq!(acknowledged["resultType"], "complete", "{at}");
            assert!(acknowledged["taskId"].is_null(), "{at}: {acknowledged}");
            until(&client, &long["taskId"], "cancelled").await;

            let broken = begin("only_breaks").await;
            let over = until(&client, &broken["taskId"], "failed").await;
            assert_eq!(over["error"], json!({"code": -32077, "message": "no"}), "{at}");
            let failed = begin("only_fails").await;
            let over = until(&client, &failed["taskId"], "completed").await;
            assert_eq!(over["result"]["isError"], true, "{at}: a tool's own error is no failure of the task");

            // What it did not ask for with this very request it does not get.
            let plain = McpClient::new(&world.gateway.url(path)).limit(PATIENCE).modern(MODERN);
            let result = plain.call(&format!("{prefix}only"), json!({"q": 2})).await.unwrap();
            assert_eq!(result["structuredContent"]["arguments"], json!({"q": 2}), "{at}: {result}");
            assert!(!result.to_string().contains("task-"), "{at}: {result}");
            let answering = person(&world.gateway.url(path)).capabilities(json!({"elicitation": {}})).modern(MODERN);
            let result = answering.call(&format!("{prefix}only_asks"), json!({})).await.unwrap();
            let answers = &result["structuredContent"]["answers"];
            assert_eq!(answers[0]["result"]["content"]["name"], "ann", "{at}: {result}");
            assert!(!result["_meta"].to_string().contains("task-"), "{at}: {result}");
            for method in ["tasks/list", "tasks/result"] {
                assert_eq!(refused(&plain, method, json!({"taskId": id})).await["code"], -32601, "{at} {method}");
            }
        }
    }
}

#[tokio::test]
async fn a_plain_call_that_is_given_up_cancels_the_task_behind_it() {
    let world = world(Script::legacy(), "listen: { address: \"127.0.0.1:0\", keep_alive: 100ms }").await;
    let plain = McpClient::new(&world.gateway.url("/mcp")).limit(PATIENCE).modern(MODERN);
    let mut stream = plain.start("tools/call", json!({"name": "a__only_long"})).await.unwrap();
    stream.silent(SECOND).await.expect("nothing is said but comments");
    stream.vanish();
    eventually(PATIENCE, "the task is cancelled", || !world.server.received_method("tasks/cancel").is_empty()).await;
}

#[tokio::test]
async fn a_plain_call_that_is_given_up_before_anything_was_heard_cancels_the_task_behind_it() {
    let world = world(Script::legacy(), "").await;
    let plain = McpClient::new(&world.gateway.url("/mcp")).limit(PATIENCE).modern(MODERN);
    let call = tokio::spawn(async move { plain.call("a__only_long", json!({})).await });
    eventually(PATIENCE, "its result is waited for", || !world.server.received_method("tasks/result").is_empty()).await;
    call.abort();
    eventually(PATIENCE, "the task is cancelled", || !world.server.received_method("tasks/cancel").is_empty()).await;
}

#[tokio::test]
async fn a_plain_call_that_waits_for_an_answer_in_vain_cancels_the_task_behind_it() {
    let world = world(Script::legacy(), "park: { ttl: 3s, gather: 100ms }").await;
    let client = McpClient::new(&world.gateway.url("/mcp")).limit(PATIENCE);
    let client = client.capabilities(json!({"elicitation": {}})).modern(MODERN);
    let asked = client.result("tools/call", json!({"name": "a__only_asks"})).await.unwrap();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    assert!(world.server.received_method("tasks/cancel").is_empty(), "it waits");
    eventually(PATIENCE, "the task is cancelled", || !world.server.received_method("tasks/cancel").is_empty()).await;
}

#[tokio::test]
async fn clients_that_cannot_be_told_apart_have_no_tasks() {
    for (era, base) in bases() {
        let world = world(base, "").await;
        let fleeting = || {
            let client = McpClient::new(&world.gateway.url("/mcp")).limit(PATIENCE);
            client.header("user-agent", "Claude-User").header("mcp-protocol-version", NEWEST_LEGACY)
        };
        let [ann, eve] = [fleeting(), fleeting()];
        let opened = ann.initialize_only(NEWEST_LEGACY).await.unwrap();
        assert!(opened["capabilities"]["tasks"].is_null(), "{era}: {opened}");
        ann.set_session(None);
        world.server.clear_received();
        let call = json!({"name": "a__slow", "arguments": {"q": 1.5}, "task": {"ttl": 50_000}});
        let plain = ann.result("tools/call", call).await.unwrap();
        assert!(plain["content"].is_array() && plain["task"].is_null(), "{era}: {plain}");
        let call = world.server.received_method("tools/call")[0].json();
        assert!(call["params"]["task"].is_null(), "{era}: {call}");
        let other = legacy(&world.gateway, "/mcp").await;
        let task = begin(&other, "a__long").await;
        assert_eq!(refused(&eve, "tasks/list", json!({})).await["code"], -32601, "{era}");
        for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
            let error = refused(&eve, method, json!({"taskId": task["taskId"]})).await;
            assert_eq!(error["code"], -32601, "{era} {method}");
        }
    }
}

#[tokio::test]
async fn a_client_without_tasks_has_a_server_make_none() {
    let world = world(Script::legacy(), "").await;
    let older = world.gateway.legacy("/mcp", "2025-06-18").await;
    let modern = McpClient::new(&world.gateway.url("/mcp")).limit(PATIENCE).modern(MODERN);
    for client in [older, modern] {
        world.server.clear_received();
        let call = json!({"name": "a__slow", "arguments": {"q": 1.5}, "task": {"ttl": 50_000}});
        let plain = client.result("tools/call", call).await.unwrap();
        assert!(plain["content"].is_array() && plain["task"].is_null(), "{plain}");
        let call = world.server.received_method("tools/call")[0].json();
        assert!(call["params"]["task"].is_null() && call["params"]["arguments"] == json!({"q": 1.5}), "{call}");
    }
}

#[tokio::test]
async fn what_a_task_asks_late_can_be_answered() {
    let late = ToolScript::new("late").as_task().sleep(1_500).ask(Question::Elicitation, Via::Call);
    let server = ScriptedServer::start(script(Script::modern()).tool(late)).await;
    let yaml = format!("servers:\n  a: {{ url: \"{}\", timeout: {{ call: 1s }} }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    let client = legacy(&gateway, "/mcp").await;
    let task = begin(&client, "a__late").await;
    let result = client.result("tasks/result", json!({"taskId": task["taskId"]})).await.unwrap();
    assert_eq!(result["structuredContent"]["answers"][0]["result"]["content"]["name"], "ann", "{result}");
}

#[tokio::test]
async fn two_processes_that_call_their_tasks_the_same_are_kept_apart() {
    let server = StdioServer::new(script(Script::legacy()));
    let gateway = Gateway::start(&format!("servers:\n  a: {{ {} }}\n", server.yaml())).await;
    // What they can do differs, so each has a process; both have a `task-1`.
    let [ann, bob] = [legacy(&gateway, "/mcp").await, gateway.legacy("/mcp", NEWEST_LEGACY).await];
    let [mut hers, mut his] = [ann.open_get(None).await.unwrap(), bob.open_get(None).await.unwrap()];
    let quick = begin(&ann, "a__slow").await;
    let long = begin(&bob, "a__long").await;
    let status = hers.next_method("notifications/tasks/status", PATIENCE).await.unwrap();
    assert_eq!((&status["params"]["taskId"], &status["params"]["status"]), (&quick["taskId"], &json!("completed")));
    his.silent_of("notifications/tasks/status", Duration::from_millis(300)).await.unwrap();
    assert_eq!(get(&bob, &long["taskId"]).await["status"], "working");

    // Another process calls another task the same.
    for pid in server.living() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    }
    eventually(PATIENCE, "the processes are gone", || server.living().is_empty()).await;
    let other = eventually_some(PATIENCE, "a task in a new process", async || {
        let params = json!({"name": "a__long", "task": {"ttl": 50_000}});
        Some(bob.result("tools/call", params).await.ok()?["task"].clone())
    })
    .await;
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        let error = refused(&bob, method, json!({"taskId": long["taskId"]})).await;
        assert!(is_unknown(&error), "{method}: {error}");
    }
    assert_eq!(get(&bob, &other["taskId"]).await["status"], "working", "nobody cancelled it");
}

#[tokio::test]
async fn an_id_is_of_no_use_to_anybody_else() {
    for (era, base) in bases() {
        let world = world(base, "").await;
        let ann = legacy(&world.gateway, "/mcp").await;
        let eve = legacy(&world.gateway, "/mcp").await;
        let task = begin(&ann, "a__long").await;
        let id = task["taskId"].as_str().unwrap().to_owned();
        assert!(eve.list("tasks/list", "tasks").await.unwrap().is_empty(), "{era}: another session's tasks");
        assert_eq!(ann.list("tasks/list", "tasks").await.unwrap().len(), 1, "{era}");
        let mut other = id.clone().into_bytes();
        other[30] = if other[30] == b'A' { b'B' } else { b'A' };
        let mut forged = vec![String::from_utf8(other).unwrap(), "task-1".to_owned(), String::new()];
        forged.extend([id[1..].to_owned(), format!("{id}A"), "A".repeat(10_000), ann.session().unwrap()]);
        world.server.clear_received();
        for forged in forged {
            for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
                let error = refused(&ann, method, json!({"taskId": forged})).await;
                assert!(is_unknown(&error), "{era} {method} {forged}: {error}");
            }
            let modern = modern(&world.gateway, "/mcp");
            for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
                let params = json!({"taskId": forged, "inputResponses": {}});
                assert!(is_unknown(&refused(&modern, method, params).await), "{era} {method} {forged}");
            }
        }
        world.gateway.logged("FL-1203").await;
        let elsewhere = legacy(&world.gateway, "/servers/a/mcp").await;
        let error = refused(&elsewhere, "tasks/get", json!({"taskId": id})).await;
        assert!(is_unknown(&error), "{era}: another path: {error}");
        for params in [json!({}), json!({"taskId": 7})] {
            let error = refused(&ann, "tasks/get", params).await;
            assert!(error["code"] == -32602 && !is_unknown(&error), "{era}: {error}");
        }
        assert!(world.server.received_method("tasks/get").is_empty(), "{era}: no server is asked about any of them");
        let bad = refused(&ann, "tasks/list", json!({"cursor": "page-2"})).await;
        assert_eq!(bad["code"], -32602, "{era}");
    }
}

#[tokio::test]
async fn a_cursor_of_somebody_else_shows_nothing_of_theirs() {
    /// One more than a page has.
    const TASKS: usize = 51;
    let world = world(Script::legacy(), "").await;
    let [ann, eve] = [legacy(&world.gateway, "/mcp").await, legacy(&world.gateway, "/mcp").await];
    let mut hers = Vec::new();
    for _ in 0..TASKS {
        hers.push(begin(&ann, "a__fails").await["taskId"].clone());
    }
    let own = begin(&eve, "a__fails").await["taskId"].clone();
    let first = ann.result("tasks/list", json!({})).await.unwrap();
    assert!(first["nextCursor"].is_string(), "{first}");
    let answer = eve.request("tasks/list", json!({"cursor": first["nextCursor"]})).await.unwrap();
    let seen = answer.response().unwrap().to_string();
    assert!(hers.iter().all(|id| !seen.contains(id.as_str().unwrap())), "{seen}");
    let listed = eve.list("tasks/list", "tasks").await.unwrap();
    assert_eq!(listed.iter().map(|task| &task["taskId"]).collect::<Vec<_>>(), [&own]);
}

#[tokio::test]
async fn tasks_outlive_the_gateway() {
    for (era, base) in bases() {
        let mut world = world(base, "").await;
        let client = legacy(&world.gateway, "/mcp").await;
        let follower = modern(&world.gateway, "/mcp");
        let begun = follower.result("tools/call", json!({"name": "a__only"})).await.unwrap();
        let over = begin(&client, "a__fails").await;
        until(&client, &over["taskId"], if era == "legacy" { "completed" } else { "failed" }).await;
        let task = begin(&client, "a__long").await;
        let session = client.session().unwrap();
        assert_eq!(world.gateway.stop().await, Some(0));
        world.gateway.restart().await;
        let client = person(&world.gateway.url("/mcp"));
        client.set_session(Some(&session));
        assert_eq!(get(&client, &task["taskId"]).await["status"], "working", "{era}");
        let listed = client.list("tasks/list", "tasks").await.unwrap();
        let ids: Vec<_> = listed.iter().map(|task| &task["taskId"]).collect();
        assert_eq!(ids, [&over["taskId"], &task["taskId"]], "{era}");
        let cancelled = client.result("tasks/cancel", json!({"taskId": task["taskId"]})).await.unwrap();
        assert_eq!(cancelled["status"], "cancelled", "{era}");
        let follower = modern(&world.gateway, "/mcp");
        let over = until(&follower, &begun["taskId"], "completed").await;
        assert_eq!(over["result"]["structuredContent"]["tool"], "only", "{era}: {over}");
        // What is only remembered takes a moment to be written; the id alone finds the task all the same.
        let last = begin(&client, "a__long").await;
        world.gateway.kill().await;
        world.gateway.restart().await;
        let client = person(&world.gateway.url("/mcp"));
        client.set_session(Some(&session));
        assert_eq!(get(&client, &last["taskId"]).await["status"], "working", "{era}");
    }
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    for (era, base) in bases() {
        let world = world(base, "tasks: { max: 4, max_per_caller: 3, ttl: 2s }").await;
        let [ann, bob] = [legacy(&world.gateway, "/mcp").await, legacy(&world.gateway, "/mcp").await];
        let mut tasks = Vec::new();
        for _ in 0..4 {
            tasks.push(begin(&ann, "a__long").await["taskId"].clone());
        }
        let ids = async |client: &McpClient| -> Vec<Value> {
            client.list("tasks/list", "tasks").await.unwrap().iter().map(|task| task["taskId"].clone()).collect()
        };
        assert_eq!(ids(&ann).await, tasks[1..], "{era}: the oldest makes room");
        assert_eq!(get(&ann, &tasks[0]).await["status"], "working", "{era}: and can still be asked for");
        for _ in 0..2 {
            begin(&bob, "a__long").await;
        }
        assert_eq!(ids(&ann).await, tasks[2..], "{era}");
        assert_eq!(ids(&bob).await.len(), 2, "{era}");
        eventually_some(PATIENCE, "the end of their time", async || ids(&ann).await.is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn a_client_hears_how_its_own_tasks_are() {
    let world = world(Script::legacy(), "").await;
    let [ann, eve] = [legacy(&world.gateway, "/mcp").await, legacy(&world.gateway, "/mcp").await];
    let [mut hers, mut theirs] = [ann.open_get(None).await.unwrap(), eve.open_get(None).await.unwrap()];
    let task = begin(&ann, "a__slow").await;
    let status = hers.next_method("notifications/tasks/status", PATIENCE).await.unwrap();
    assert_eq!((&status["params"]["taskId"], &status["params"]["status"]), (&task["taskId"], &json!("completed")));
    theirs.silent_of("notifications/tasks/status", Duration::from_millis(300)).await.unwrap();
}

#[tokio::test]
async fn a_client_hears_how_far_its_own_tasks_are_under_the_token_of_its_call() {
    let server = ScriptedServer::start(script(Script::legacy())).await;
    for how in [server.url(), server.ws_url()] {
        let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{how}\" }}\n")).await;
        let [ann, eve] = [legacy(&gateway, "/mcp").await, legacy(&gateway, "/mcp").await];
        let [mut hers, mut theirs] = [ann.open_get(None).await.unwrap(), eve.open_get(None).await.unwrap()];
        let call = |token: Value| {
            let meta = json!({"progressToken": token});
            json!({"name": "a__tells", "arguments": {}, "task": {"ttl": 50_000}, "_meta": meta})
        };
        // Both at once, so that what is told to the wrong one would be seen.
        let (made, other) =
            tokio::join!(ann.result("tools/call", call(json!("mine"))), eve.result("tools/call", call(json!(7))));
        let (made, _) = (made.unwrap(), other.unwrap());
        let (mut heard, mut is_over) = (Vec::new(), false);
        while !is_over {
            let frame = hers.next(PATIENCE).await.unwrap().expect("the stream goes on").json();
            match frame["method"].as_str() {
                Some("notifications/progress") => {
                    assert_eq!(frame["params"]["progressToken"], "mine", "{how}: {frame}");
                    heard.push(frame["params"]["progress"].as_u64().unwrap());
                }
                Some("notifications/tasks/status") => {
                    assert_eq!(frame["params"]["taskId"], made["task"]["taskId"], "{how}: {frame}");
                    is_over = frame["params"]["status"] == "completed";
                }
                _ => {}
            }
        }
        // What comes before the gateway has passed on that there is a task may be lost.
        assert!(!heard.is_empty() && heard.is_sorted_by(|before, after| before < after), "{how}: {heard:?}");
        let report = theirs.next_method("notifications/progress", PATIENCE).await.unwrap();
        assert_eq!(report["params"]["progressToken"], 7, "{how}: {report}");
    }
}

#[tokio::test]
async fn a_modern_listener_hears_how_its_tasks_are() {
    for (era, base) in bases() {
        let world = world(base, "").await;
        for (path, prefix) in PATHS {
            let at = format!("{era} {path}");
            let client = modern(&world.gateway, path);
            let task = client.result("tools/call", json!({"name": format!("{prefix}only")})).await.unwrap();
            let filter = json!({"notifications": {"taskIds": [task["taskId"], "task-1"], "toolsListChanged": true}});
            let mut stream = client.start("subscriptions/listen", filter.clone()).await.unwrap();
            let id = stream.id().unwrap().clone();
            let first = stream.next_method("notifications/subscriptions/acknowledged", PATIENCE).await.unwrap();
            let accepted = &first["params"]["notifications"];
            assert_eq!(*accepted, json!({"taskIds": [task["taskId"]], "toolsListChanged": true}), "{at}");
            let told = stream.next_method("notifications/tasks", PATIENCE).await.unwrap();
            let told = &told["params"];
            assert_eq!((&told["taskId"], &told["status"]), (&task["taskId"], &json!("completed")), "{at}: {told}");
            assert_eq!(told["result"]["structuredContent"]["tool"], "only", "{at}: {told}");
            assert_eq!(told["_meta"]["io.modelcontextprotocol/subscriptionId"], id, "{at}: {told}");
            let plain = McpClient::new(&world.gateway.url(path)).limit(PATIENCE).modern(MODERN);
            let error = refused(&plain, "subscriptions/listen", filter).await;
            assert_eq!(error["code"], -32021, "{at}: {error}");
            assert!(error["data"]["requiredCapabilities"]["extensions"][EXTENSION].is_object(), "{at}: {error}");
        }
    }
}

#[tokio::test]
async fn over_a_pipe_a_tasks_question_goes_to_whoever_waits_for_it() {
    let server = StdioServer::new(script(Script::legacy()));
    let gateway = Gateway::start(&format!("servers:\n  a: {{ {} }}\n", server.yaml())).await;
    let [ann, bob] = [legacy(&gateway, "/mcp").await, legacy(&gateway, "/mcp").await];
    let task = begin(&ann, "a__asks").await;
    until(&ann, &task["taskId"], "input_required").await;
    let busy = bob.start("tools/call", json!({"name": "a__long"})).await;
    let result = ann.result("tasks/result", json!({"taskId": task["taskId"]})).await.unwrap();
    assert_eq!(result["structuredContent"]["answers"][0]["result"]["content"]["name"], "ann", "{result}");
    drop(busy);
}

#[tokio::test]
async fn unknown_members_of_tasks_are_kept() {
    for (era, base) in bases() {
        let world = world(base.unknown_members(), "").await;
        let client = legacy(&world.gateway, "/mcp").await;
        let params = json!({"name": "a__slow", "task": {"ttl": 50_000}});
        let answer = client.request("tools/call", params).await.unwrap();
        let id = answer.result().unwrap()["task"]["taskId"].clone();
        let answer = client.request("tasks/result", json!({"taskId": id})).await.unwrap();
        let text = String::from_utf8_lossy(&answer.response_bytes().unwrap()).into_owned();
        assert!(text.contains(r#""big":12345678901234567890123,"price":1.10,"exp":1E2"#), "{era}: {text}");
    }
}

#[tokio::test]
async fn the_tasks_of_a_server_on_another_implementation_are_followed_in_both_eras() {
    let server =
        format!("command: \"{}\", args: [demo-server, feature], protocol: \"{MODERN}\"", crate::support::program());
    let gateway = Gateway::start(&format!("servers:\n  f: {{ {server} }}\n")).await;
    let (old, new) = (legacy(&gateway, "/mcp").await, modern(&gateway, "/mcp"));
    let call = json!({"name": "f__confirm_delete", "arguments": {"filename": "a.txt"}, "task": {}});
    let task = old.result("tools/call", call).await.unwrap()["task"].clone();
    let result = old.result("tasks/result", json!({"taskId": task["taskId"]})).await.unwrap();
    assert!(result["content"][0]["text"].as_str().unwrap().contains("a.txt was"), "{result}");
    let task = new.result("tools/call", json!({"name": "f__confirm_delete"})).await.unwrap();
    assert_eq!(task["resultType"], "task", "{task}");
    let asked = until(&new, &task["taskId"], "input_required").await;
    assert!(asked["inputRequests"]["confirm"].is_object(), "{asked}");
    let response = json!({"confirm": {"action": "accept", "content": {"confirm": true}}});
    let update = json!({"taskId": task["taskId"], "inputResponses": response});
    new.result("tasks/update", update).await.unwrap();
    let over = until(&new, &task["taskId"], "completed").await;
    assert!(over["result"]["content"][0]["text"].as_str().unwrap().contains("was deleted"), "{over}");
}
