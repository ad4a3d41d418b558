//! Answers that are kept and given again, and identical calls that are one: what the server hears is counted.

use std::time::Duration;

use fairlead_testkit::{Finish, McpClient, Question, Script, ScriptedServer, ToolScript, Via};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, eventually, eventually_some, get, relaxed, rows};

/// What a read and a call are called on the wire.
const READ: &str = "resources/read";
const CALL: &str = "tools/call";

/// A gateway before one server, `a`.
struct House {
    server: ScriptedServer,
    gateway: Gateway,
}

impl House {
    /// `options` are further members of the server's configuration.
    async fn new(script: Script, options: &str) -> Self {
        let server = ScriptedServer::start(script).await;
        let gateway = Gateway::start(&Self::yaml(&server, options)).await;
        rows::until_listed(&gateway, "a").await;
        Self { server, gateway }
    }

    fn yaml(server: &ScriptedServer, options: &str) -> String {
        format!("servers:\n  a: {{ url: \"{}\", {options} }}\n", server.url())
    }

    /// How often the server heard a method.
    fn heard(&self, method: &str) -> usize {
        self.server.received_method(method).len()
    }

    /// Waits until that many calls are under way at the gateway.
    async fn under_way(&self, calls: usize) {
        let line = format!("fairlead_calls_in_flight {calls}");
        eventually_some(PATIENCE, &line, async || {
            let (_, metrics) = get(&self.gateway.admin_url("/metrics")).await;
            metrics.lines().any(|said| said == line).then_some(())
        })
        .await;
    }

    fn release(&self) {
        self.server.change(|script| script.held.clear());
    }

    /// Does something until it `holds`, a few times: the news that the server was listed for the first time, or for clients of
    /// other capabilities, drops what is kept, and may come in between.
    async fn soon<T: std::fmt::Debug + PartialEq>(&self, expected: T, what: &str, mut attempt: impl AsyncFnMut() -> T) {
        const ATTEMPTS: usize = 5;
        for left in (0..ATTEMPTS).rev() {
            let got = attempt().await;
            if left == 0 || got == expected {
                assert_eq!(got, expected, "{what}");
                return;
            }
            self.gateway.cli(&["cache", "purge"]).await;
        }
    }

    /// Calls a tool `times` times, one after another, and says how often the server heard of it.
    async fn calls(&self, client: &McpClient, tool: &str, arguments: Value, times: usize) -> usize {
        let before = self.heard(CALL);
        for _ in 0..times {
            let answer = client.request(CALL, json!({"name": tool, "arguments": arguments})).await.unwrap();
            let response = answer.response().unwrap();
            assert_eq!(Some(&response["id"]), answer.id.as_ref(), "{response}");
        }
        self.heard(CALL) - before
    }

    async fn read(&self, client: &McpClient, uri: &str) -> Value {
        client.result(READ, json!({"uri": uri})).await.unwrap()
    }

    /// How often something was done with calls, by the metrics.
    async fn outcome(&self, outcome: &str) -> u64 {
        let (_, metrics) = get(&self.gateway.admin_url("/metrics")).await;
        let line = format!("fairlead_cache_requests_total{{mcp_server=\"a\",outcome=\"{outcome}\"}} ");
        metrics.lines().find_map(|said| said.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }
}

fn reading(name: &str) -> ToolScript {
    ToolScript::new(name).definition(json!({"annotations": {"readOnlyHint": true}}))
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_thousand_identical_calls_are_one_call_of_the_server_in_both_eras() {
    const CALLS: usize = 1000;
    const SESSIONS: usize = 20;
    // A modern client that reads, and legacy clients that call a tool.
    let script = Script::dual().resources_and_prompts(2, 0).tool(reading("get")).held(READ).held(CALL);
    let house = House::new(script, "cache: { hints: ignore }, tools: { rules: { get: { cache: { ttl: 0s } } } }").await;
    // All of them wait until the last one has come.
    let long = relaxed(Duration::from_secs(60));
    let modern = house.gateway.modern("/mcp").limit(long);
    let reads = join_all((0..CALLS).map(|_| modern.request(READ, json!({"uri": "test://resource/1"}))));
    let released = async {
        house.under_way(CALLS).await;
        house.release();
    };
    let (answers, ()) = tokio::join!(reads, released);
    assert_eq!(house.heard(READ), 1);
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(Some(&answer.response().unwrap()["id"]), answer.id.as_ref());
        assert_eq!(answer.result().unwrap()["contents"][0]["text"], "content of test://resource/1");
    }
    assert_eq!(house.outcome("coalesced").await, CALLS as u64 - 1);

    house.server.change(|script| script.held.push(CALL.to_owned()));
    let sessions = join_all((0..SESSIONS).map(|_| house.gateway.legacy("/mcp", NEWEST_LEGACY))).await;
    let sessions: Vec<_> = sessions.into_iter().map(|session| session.limit(long)).collect();
    let calls = join_all((0..CALLS).map(|at| sessions[at % SESSIONS].call("a__get", json!({"id": 7}))));
    let released = async {
        house.under_way(CALLS).await;
        house.release();
    };
    let (results, ()) = tokio::join!(calls, released);
    assert_eq!(house.heard(CALL), 1);
    for result in results {
        assert_eq!(result.unwrap()["structuredContent"]["arguments"], json!({"id": 7}));
    }
}

#[tokio::test]
async fn what_is_kept_is_what_the_rules_say() {
    let failing = r#"{"content":[{"type":"text","text":"no"}],"isError":true}"#;
    let script = Script::dual()
        .tool(ToolScript::new("kept"))
        .tool(ToolScript::new("plain"))
        .tool(ToolScript::new("off"))
        .tool(ToolScript::new("some"))
        .tool(ToolScript::new("fails").result(failing))
        .tool(ToolScript::new("denied").result(failing));
    let rules = "\"*\": { cache: { ttl: 1h } }, plain: { cache: { ttl: 0s } }, off: { cache: { ttl: 0s }, coalesce: false }, \
        some: { cache: { ttl: 1h, vary: [id] } }, denied: { cache: { negative: 1h } }";
    let house = House::new(script, &format!("tools: {{ rules: {{ {rules} }} }}")).await;
    let legacy = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for client in [house.gateway.modern("/mcp"), legacy] {
        for (tool, arguments, heard) in [
            ("a__kept", json!({"id": 1}), 1),
            ("a__kept", json!({"id": 1}), 0),
            ("a__kept", json!({"id": 2}), 1),
            ("a__kept", json!({}), 1),
            ("a__plain", json!({"id": 1}), 3),
            ("a__off", json!({"id": 1}), 3),
            // Only `id` makes a difference.
            ("a__some", json!({"id": 1, "trace": "x"}), 1),
            ("a__some", json!({"id": 1, "trace": "y"}), 0),
            ("a__some", json!({"id": 2, "trace": "y"}), 1),
            // An error is no answer, unless a rule says so.
            ("a__fails", json!({}), 3),
            ("a__denied", json!({}), 1),
        ] {
            let what = format!("{tool} {arguments}");
            // What was kept by an earlier line and dropped since is fetched once.
            if heard == 0 {
                house.calls(&client, tool, arguments.clone(), 1).await;
            }
            house.soon(heard, &what, async || house.calls(&client, tool, arguments.clone(), 3).await).await;
        }
    }
    // The view of one server is the same server.
    let single = house.gateway.modern("/servers/a/mcp");
    assert_eq!(house.calls(&single, "kept", json!({"id": 1}), 2).await, 0);
    assert!(house.outcome("hit").await > 10);
    let (_, metrics) = get(&house.gateway.admin_url("/metrics")).await;
    let bytes = metrics.lines().find_map(|line| line.strip_prefix("fairlead_cache_bytes "));
    assert!(bytes.unwrap().parse::<u64>().unwrap() > 1_000, "{metrics}");
}

#[tokio::test]
async fn what_is_private_stays_with_its_session() {
    let script = Script::legacy().tool(ToolScript::new("mine")).tool(ToolScript::new("ours"));
    let rules = "mine: { cache: { ttl: 1h } }, ours: { cache: { ttl: 1h, scope: shared } }";
    let house = House::new(script, &format!("share: per_session, tools: {{ rules: {{ {rules} }} }}")).await;
    let one = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let other = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for (client, tool, heard) in [
        (&one, "a__mine", 1),
        (&other, "a__mine", 1),
        (&one, "a__mine", 0),
        (&one, "a__ours", 1),
        (&other, "a__ours", 0),
    ] {
        assert_eq!(house.calls(client, tool, json!({}), 2).await, heard, "{tool}");
    }
}

#[tokio::test]
async fn the_server_says_how_long_a_resource_is_good_and_the_operator_overrules_it() {
    let resource = |ttl: u64, scope: &str| {
        format!(
            r#"{{"resultType":"complete","ttlMs":{ttl},"cacheScope":"{scope}","contents":[{{"uri":"test://resource/0","text":"x"}}]}}"#
        )
    };
    for (options, ttl, heard) in [
        ("cache: {}", 3_600_000, 1),
        ("cache: {}", 0, 3),
        ("cache: { hints: ignore }", 3_600_000, 3),
        ("cache: { resources: { ttl: 0s } }", 3_600_000, 3),
        ("cache: { resources: { ttl: 1h } }", 0, 1),
        // Nothing is configured.
        ("", 3_600_000, 3),
    ] {
        let script = Script::modern().resources_and_prompts(1, 0).result(READ, &resource(ttl, "public"));
        let house = House::new(script, options).await;
        let client = house.gateway.modern("/mcp");
        let mut last = Value::Null;
        house
            .soon(heard, &format!("{options} {ttl}"), async || {
                let before = house.heard(READ);
                for _ in 0..3 {
                    last = house.read(&client, "test://resource/0").await;
                }
                house.heard(READ) - before
            })
            .await;
        if heard == 1 && ttl > 0 {
            let left = last["ttlMs"].as_u64().unwrap();
            assert!(left <= ttl && left > ttl - 60_000, "{last}");
        }
        // A client of an earlier revision never hears of it, whatever is kept.
        let legacy = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let result = house.read(&legacy, "test://resource/0").await;
        assert!(result.get("ttlMs").is_none() && result["contents"][0]["text"] == "x", "{result}");
    }
}

#[tokio::test]
async fn writes_events_and_commands_make_outdated_what_they_concern() {
    let script = Script::legacy()
        .resources_and_prompts(2, 0)
        .tool(ToolScript::new("get"))
        .tool(ToolScript::new("list"))
        .tool(ToolScript::new("put"));
    let rules = "get: { cache: { ttl: 1h, tags: [one] } }, list: { cache: { ttl: 1h, tags: [many] } }, \
        put: { invalidates: { tools: [\"ge*\"], tags: [unknown], resources: [\"test://*/1\"] } }";
    let options = format!("cache: {{ resources: {{ ttl: 1h }} }}, tools: {{ rules: {{ {rules} }} }}");
    let house = House::new(script, &options).await;
    let client = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let (get, list) = (("a__get", CALL), ("a__list", CALL));
    let (zero, one) = (("test://resource/0", READ), ("test://resource/1", READ));
    let all = [get, list, zero, one];
    // Which of them the server hears of again.
    let fetched = async || {
        let mut fetched = Vec::new();
        for (name, method) in all {
            let before = house.heard(method);
            let params = if method == CALL { json!({"name": name}) } else { json!({"uri": name}) };
            client.result(method, params).await.unwrap();
            if house.heard(method) > before {
                fetched.push(name);
            }
        }
        fetched
    };
    assert_eq!(fetched().await, all.map(|(name, _)| name));
    assert!(fetched().await.is_empty());
    client.call("a__put", json!({})).await.unwrap();
    assert_eq!(fetched().await, [get.0, one.0]);
    for (arguments, again) in [
        (&["--tag", "many"][..], vec![list.0]),
        (&["--server", "a", "--tool", "l*"], vec![list.0]),
        (&["--server", "b"], vec![]),
        (&["--server", "a"], all.map(|(name, _)| name).to_vec()),
        (&[], all.map(|(name, _)| name).to_vec()),
    ] {
        let output = house.gateway.cli(&[&["cache", "purge"], arguments].concat()).await;
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("{} answers dropped\n", again.len()), "{arguments:?}");
        assert_eq!(fetched().await, again, "{arguments:?}");
    }
    // Somebody watches one resource; then its list of tools changes.
    client.result("resources/subscribe", json!({"uri": zero.0})).await.unwrap();
    house.server.notify("notifications/resources/updated", &json!({"uri": zero.0})).await;
    eventually_some(PATIENCE, "the updated resource is read again", async || {
        let again = fetched().await;
        assert!(again.is_empty() || again == [zero.0], "{again:?}");
        (!again.is_empty()).then_some(())
    })
    .await;
    house.server.change_list().await;
    let mut again = Vec::new();
    eventually_some(PATIENCE, "the tools are called again", async || {
        again.extend(fetched().await);
        (again.len() >= 2).then_some(())
    })
    .await;
    again.sort_unstable();
    assert_eq!(again, [get.0, list.0]);
}

#[tokio::test]
async fn an_old_answer_is_given_while_one_call_fetches_a_new_one() {
    let script = Script::dual().tool(ToolScript::new("get"));
    let house = House::new(script, "tools: { rules: { get: { cache: { ttl: 1ms, stale: 1h } } } }").await;
    let client = house.gateway.modern("/mcp");
    // Until one is kept and its time is over.
    eventually_some(PATIENCE, "an old answer", async || {
        house.calls(&client, "a__get", json!({}), 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        (house.outcome("stale").await >= 3).then_some(())
    })
    .await;
    house.server.change(|script| script.held.push(CALL.to_owned()));
    // The one that fetches is under way for as long as it is held; those before it have ended.
    eventually_some(PATIENCE, "a new answer is fetched", async || {
        house.calls(&client, "a__get", json!({}), 1).await;
        (house.heard(CALL) as u64 == house.server.calls_finished() + 1).then_some(())
    })
    .await;
    let before = (house.heard(CALL), house.outcome("stale").await);
    assert_eq!(house.calls(&client, "a__get", json!({}), 20).await, 0, "one fetches for all");
    assert_eq!(house.outcome("stale").await, before.1 + 20);
    house.release();
    eventually_some(PATIENCE, "the next new answer", async || {
        house.calls(&client, "a__get", json!({}), 1).await;
        (house.heard(CALL) > before.0 + 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_old_answer_is_better_than_a_failure_where_the_rule_says_so() {
    let script = Script::dual().tool(ToolScript::new("get")).tool(ToolScript::new("other"));
    let rules = "get: { cache: { ttl: 1ms, stale_if_error: 1h } }, other: { cache: { ttl: 1ms } }";
    let mut house = House::new(script, &format!("tools: {{ rules: {{ {rules} }} }}")).await;
    let legacy = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    for client in [house.gateway.modern("/mcp"), legacy.clone()] {
        for tool in ["a__get", "a__other"] {
            house.calls(&client, tool, json!({"id": 1}), 1).await;
        }
    }
    house.server.stop().await;
    for client in [house.gateway.modern("/mcp"), legacy] {
        let answer = client.call("a__get", json!({"id": 1})).await.unwrap();
        assert!(text(&answer).contains("get"), "{answer}");
        let answer = client.request(CALL, json!({"name": "a__other", "arguments": {"id": 1}})).await.unwrap();
        assert!(answer.result().map_or(true, |result| result["isError"] == true), "{answer:?}");
    }
    assert_eq!(house.outcome("stale_on_error").await, 2);
}

#[tokio::test]
async fn whoever_leaves_takes_nobody_along() {
    let script = Script::legacy().tool(reading("get")).held(CALL);
    let house = House::new(script, "cache: {}").await;
    let client = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let message =
        |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": CALL, "params": {"name": "a__get", "arguments": {}}});
    let call = |id: u64| {
        let (client, message) = (client.clone(), message(id));
        tokio::spawn(async move { client.post(&message).await.unwrap().finish().await.unwrap() })
    };
    // The first leads, the others wait.
    let leader = call(1001);
    house.under_way(1).await;
    eventually(PATIENCE, "the call of the leader", || house.heard(CALL) == 1).await;
    let waiting: Vec<_> = (1002..1008).map(call).collect();
    house.under_way(7).await;
    client.cancel(&json!(1004)).await.unwrap();
    house.under_way(6).await;
    assert_eq!(house.heard(CALL), 1);
    client.cancel(&json!(1001)).await.unwrap();
    eventually(PATIENCE, "another one calls", || house.heard(CALL) == 2).await;
    house.release();
    assert!(leader.await.unwrap().response().is_none());
    for (at, waiting) in waiting.into_iter().enumerate() {
        let answer = waiting.await.unwrap();
        match at {
            2 => assert!(answer.response().is_none()),
            _ => assert_eq!(answer.response().unwrap()["result"]["structuredContent"]["tool"], "get"),
        }
    }
    assert_eq!(house.heard(CALL), 2);
}

#[tokio::test]
async fn a_call_that_asks_or_reports_is_shared_with_nobody() {
    let asks = reading("asks").ask(Question::Elicitation, Via::Call);
    let script = Script::legacy().tool(asks).tool(reading("reports").progress(3, 10)).held(CALL);
    let house = House::new(script, "cache: {}, tools: { rules: { \"*\": { cache: { ttl: 1h } } } }").await;
    let asking = |answer: &'static str| {
        McpClient::new(&house.gateway.url("/mcp")).limit(PATIENCE).capabilities(json!({"elicitation": {}})).answering(
            move |_, _| fairlead_testkit::Reply::Result(json!({"action": "accept", "content": {"name": answer}})),
        )
    };
    let clients: Vec<_> = ["ann", "bob", "cid"].map(asking).into_iter().collect();
    for client in &clients {
        client.initialize(NEWEST_LEGACY).await.unwrap();
    }
    let calls = join_all(clients.iter().map(|client| client.call("a__asks", json!({}))));
    let released = async {
        house.under_way(3).await;
        house.release();
    };
    let (results, ()) = tokio::join!(calls, released);
    for (result, name) in results.into_iter().zip(["ann", "bob", "cid"]) {
        let result = result.unwrap();
        assert!(text(&result).contains(name), "{name}: {result}");
    }
    assert_eq!(house.heard(CALL), 3, "each asks its own client, and nothing of it is kept");

    house.server.change(|script| script.held.push(CALL.to_owned()));
    let params = |token: u64| json!({"name": "a__reports", "arguments": {}, "_meta": {"progressToken": token}});
    let calls = join_all(clients.iter().zip(1..).map(|(client, token)| client.request(CALL, params(token))));
    let released = async {
        house.under_way(3).await;
        house.release();
    };
    let (answers, ()) = tokio::join!(calls, released);
    for (answer, token) in answers.into_iter().zip(1..) {
        let answer = answer.unwrap();
        let reports = answer.notifications("notifications/progress");
        assert_eq!(reports.len(), 3, "{answer:?}");
        assert!(reports.iter().all(|report| report["params"]["progressToken"] == token), "{reports:?}");
        assert!(answer.result().is_ok());
    }
    assert_eq!(house.heard(CALL), 6);
    // What was reported once is kept, and there is nothing to report of it.
    let answer = clients[0].request(CALL, params(9)).await.unwrap();
    assert!(answer.result().is_ok() && answer.notifications("notifications/progress").is_empty());
    assert_eq!(house.heard(CALL), 6);
}

#[tokio::test]
async fn a_failure_is_shared_by_those_who_wait() {
    let script = Script::dual().tool(ToolScript::new("dies").finish(Finish::Die)).held(CALL);
    let house = House::new(script, "tools: { rules: { dies: { coalesce: true, repeatable: false } } }").await;
    let client = house.gateway.modern("/mcp");
    let calls = join_all((0..20).map(|_| client.request(CALL, json!({"name": "a__dies", "arguments": {}}))));
    let released = async {
        house.under_way(20).await;
        house.release();
    };
    let (answers, ()) = tokio::join!(calls, released);
    for answer in answers {
        assert!(answer.unwrap().result().map_or(true, |result| result["isError"] == true));
    }
    assert_eq!(house.heard(CALL), 1);
}
