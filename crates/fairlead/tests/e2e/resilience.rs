//! Servers that fail are left alone, calls that may be are made again, and nothing waits for ever.

use std::time::{Duration, Instant};

use fairlead_testkit::{Answer, Finish, Garbage, McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, StdioServer, eventually, eventually_some, get, relaxed};

/// A tool that says that it may be called twice.
fn read(name: &str) -> ToolScript {
    ToolScript::new(name).definition(json!({"annotations": {"readOnlyHint": true}}))
}

async fn gateway(server: &ScriptedServer, more: &str) -> Gateway {
    Gateway::start(&format!("servers:\n  crm: {{ url: \"{}\", {more} }}\n", server.url())).await
}

async fn call(client: &McpClient, tool: &str) -> Answer {
    client.request("tools/call", json!({"name": tool, "arguments": {}})).await.unwrap()
}

/// The code at the end of an error's message.
fn code(answer: &Answer) -> String {
    let message = answer.error()["message"].as_str().unwrap_or_default().to_owned();
    let code = message.rsplit_once("(FL-").and_then(|(_, rest)| rest.strip_suffix(')'));
    code.map(str::to_owned).unwrap_or_else(|| panic!("no code: {:?}", String::from_utf8_lossy(&answer.body)))
}

async fn guard(gateway: &Gateway) -> Value {
    let output = gateway.cli(&["servers", "--json"]).await;
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    rows[0]["guard"].clone()
}

#[tokio::test]
async fn a_breaker_opens_fails_fast_and_closes() {
    let broken = Finish::Garbage(Garbage::Html500);
    let server = ScriptedServer::start(Script::modern().tool(ToolScript::new("act").finish(broken))).await;
    let gateway = gateway(&server, "breaker: { open: 3s, tools: false }").await;
    let client = gateway.modern("/servers/crm/mcp");
    for _ in 0..5 {
        assert_eq!(code(&call(&client, "act").await), "1301");
    }
    let refused = call(&client, "act").await;
    assert_eq!(code(&refused), "1312");
    assert!(["1", "2", "3"].contains(&refused.header("retry-after").unwrap_or("none")));
    assert!(refused.error()["data"]["retryAfterMs"].as_u64().is_some_and(|wait| wait <= 3000));
    assert_eq!(server.received_method("tools/call").len(), 5, "nothing was sent while it is open");
    let state = guard(&gateway).await;
    assert_eq!(state["breaker"]["opened"], 1, "{state}");
    assert!(state["held_back"].as_u64().is_some_and(|count| count >= 1), "{state}");
    let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
    assert!(
        metrics.contains("fairlead_breaker_state{mcp_server=\"crm\",tool_name=\"\",state=\"open\"} 1\n"),
        "{metrics}"
    );

    // After a while it tries again, and closes with the first answer.
    server.change(|script| script.scripted_tools[0].finish = Finish::Echo);
    eventually_some(PATIENCE, "the breaker lets a call through", async || call(&client, "act").await.result().ok())
        .await;
    assert_eq!(guard(&gateway).await["breaker"]["state"], "closed");
    for _ in 0..5 {
        call(&client, "act").await.result().unwrap();
    }
}

/// One that fails is left alone, and what it does says nothing of its sibling: neither of the server nor of its tool.
#[tokio::test]
async fn each_instance_has_breakers_of_its_own() {
    let broken = Finish::Garbage(Garbage::Html500);
    let bad = ScriptedServer::start(Script::modern().tool(read("act").finish(broken))).await;
    let good = ScriptedServer::start(Script::modern().tool(read("act"))).await;
    let places = format!("[{{ name: bad, url: \"{}\" }}, {{ name: good, url: \"{}\" }}]", bad.url(), good.url());
    let gateway = Gateway::start(&format!(
        "servers:\n  crm:\n    instances: {places}\n    balance: round_robin\n    ejection: {{ enabled: false }}\n    \
         breaker: {{ open: 1h }}\n    retry: {{ base: 1ms }}\n"
    ))
    .await;
    let client = gateway.modern("/servers/crm/mcp");
    eventually_some(PATIENCE, "the breaker of the bad one opens", async || {
        call(&client, "act").await;
        let is_open = guard(&gateway).await["instances"]["bad"]["breaker"]["state"] == "open";
        is_open.then_some(())
    })
    .await;
    let before = bad.received_method("tools/call").len();
    for _ in 0..10 {
        call(&client, "act").await.result().unwrap();
    }
    assert_eq!(bad.received_method("tools/call").len(), before, "the bad one is left alone");
    let state = guard(&gateway).await;
    assert_eq!((&state["breaker"]["state"], &state["tools"]), (&json!("closed"), &json!({})), "{state}");
    let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
    let shown = "fairlead_breaker_state{mcp_server=\"crm\",instance=\"bad\",tool_name=\"\",state=\"open\"} 1";
    assert!(metrics.contains(shown), "{metrics}");

    // Nobody is left when an operator takes the other away.
    assert!(gateway.cli(&["servers", "breaker", "crm/good", "open"]).await.status.success());
    assert_eq!(code(&call(&client, "act").await), "1312");
    assert!(!gateway.cli(&["servers", "breaker", "crm/none", "open"]).await.status.success());
    assert!(gateway.cli(&["servers", "breaker", "crm/good", "auto"]).await.status.success());
    call(&client, "act").await.result().unwrap();
}

/// A further try that is held back takes nothing back of the first.
#[tokio::test]
async fn a_call_that_may_have_been_made_is_not_called_unmade() {
    let server = ScriptedServer::start(Script::modern().tool(read("act").finish(Finish::Die))).await;
    let gateway = gateway(&server, "breaker: { consecutive: 1, open: 1h }, retry: { base: 1ms }").await;
    let client = gateway.modern("/servers/crm/mcp");
    let answer = call(&client, "act").await;
    assert_eq!(server.received_method("tools/call").len(), 1);
    assert_ne!(code(&answer), "1312");
    let message = answer.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("whether the call took effect is unknown"), "{message}");
    assert_eq!(code(&call(&client, "act").await), "1312", "this one was not");
}

#[tokio::test]
async fn a_failed_trial_opens_it_again_and_operators_decide() {
    let broken = Finish::Garbage(Garbage::Html500);
    let server = ScriptedServer::start(Script::legacy().tool(ToolScript::new("act").finish(broken))).await;
    let gateway = gateway(&server, "breaker: { open: 100ms, max_open: 1h, tools: false }").await;
    let client = gateway.legacy("/servers/crm/mcp", NEWEST_LEGACY).await;
    for _ in 0..5 {
        call(&client, "act").await;
    }
    eventually_some(PATIENCE, "a trial that fails", async || {
        call(&client, "act").await;
        guard(&gateway).await["breaker"]["opened"].as_u64().filter(|opened| *opened >= 2)
    })
    .await;

    server.change(|script| script.scripted_tools[0].finish = Finish::Echo);
    let output = gateway.cli(&["servers", "breaker", "crm", "open"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "open");
    assert_eq!(code(&call(&client, "act").await), "1312");
    let explained = gateway.cli(&["explain", "crm__act"]).await;
    assert!(String::from_utf8_lossy(&explained.stdout).contains("set by an operator"));
    gateway.cli(&["servers", "breaker", "crm", "auto"]).await;
    call(&client, "act").await.result().unwrap();
    let nobody = gateway.cli(&["servers", "breaker", "nobody", "open"]).await;
    assert_eq!(nobody.status.code(), Some(1));
}

#[tokio::test]
async fn tool_errors_and_errors_of_the_request_open_nothing() {
    let script = Script::modern()
        .tool(ToolScript::new("sorry").finish(Finish::ToolError { text: "no".to_owned() }))
        .tool(ToolScript::new("wrong").finish(Finish::Error { code: -32603, message: "no".to_owned() }));
    let server = ScriptedServer::start(script).await;
    let gateway = gateway(&server, "breaker: {}").await;
    let client = gateway.modern("/servers/crm/mcp");
    for tool in ["sorry", "wrong"] {
        for _ in 0..12 {
            call(&client, tool).await;
        }
    }
    assert_eq!(server.received_method("tools/call").len(), 24);
}

#[tokio::test]
async fn one_bad_tool_is_held_back_alone() {
    let script = Script::modern().tool(ToolScript::new("bad").finish(Finish::Garbage(Garbage::Html500)));
    let server = ScriptedServer::start(script.tool(ToolScript::new("good"))).await;
    let gateway = gateway(&server, "breaker: { open: 1h, max_open: 1h }").await;
    let client = gateway.modern("/servers/crm/mcp");
    for _ in 0..5 {
        assert_eq!(code(&call(&client, "bad").await), "1301");
        for _ in 0..3 {
            call(&client, "good").await.result().unwrap();
        }
    }
    assert_eq!(code(&call(&client, "bad").await), "1312");
    call(&client, "good").await.result().unwrap();
    let state = guard(&gateway).await;
    assert_eq!(state["tools"]["bad"]["state"], "open", "{state}");
    assert_eq!(state["breaker"]["state"], "closed", "{state}");
}

#[tokio::test]
async fn what_may_be_repeated_is_and_what_may_not_is_not() {
    // The same tool with and without a word about itself; the server counts.
    let twice = |tool: ToolScript| tool.first(Finish::Die).first(Finish::Die);
    let script = Script::modern()
        .tool(twice(read("look")))
        .tool(twice(ToolScript::new("act")))
        .tool(twice(ToolScript::new("sure")))
        .tool(twice(read("never")));
    let server = ScriptedServer::start(script).await;
    let rules = "tools: { rules: { sure: { repeatable: true }, never: { repeatable: false } } }";
    let gateway = gateway(&server, &format!("retry: {{ attempts: 4, base: 10ms, budget: 100 }}, {rules}")).await;
    let client = gateway.modern("/mcp");
    client.result("tools/list", json!({})).await.unwrap();
    let count = |name: &str| {
        let calls = server.received_method("tools/call");
        calls.iter().filter(|call| call.json()["params"]["name"] == name).count()
    };
    for (tool, calls) in [("look", 3), ("sure", 3)] {
        call(&client, &format!("crm__{tool}")).await.result().unwrap();
        assert_eq!(count(tool), calls, "{tool}");
    }
    for tool in ["act", "never"] {
        let answer = call(&client, &format!("crm__{tool}")).await;
        assert_eq!(code(&answer), "1303", "{tool}");
        assert!(answer.error()["message"].as_str().is_some_and(|text| text.contains("is unknown")), "{tool}");
        assert_eq!(count(tool), 1, "{tool}: an unsafe call has at most one effect");
    }
    let state = guard(&gateway).await;
    assert!(state["retried"].as_u64().is_some_and(|count| count >= 2), "{state}");
}

#[tokio::test]
async fn a_process_that_dies_is_asked_again() {
    let server = StdioServer::new(Script::legacy().tool(read("look").first(Finish::Garbage(Garbage::Truncated))));
    let yaml = format!("servers:\n  crm: {{ {}, retry: {{ base: 10ms }}, timeout: {{ idle: 1s }} }}\n", server.yaml());
    let gateway = Gateway::start(&yaml).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.result("tools/list", json!({})).await.unwrap();
    call(&client, "crm__look").await.result().unwrap();
    assert_eq!(server.received_method("tools/call").len(), 2);
}

#[tokio::test]
async fn too_many_is_respected() {
    let tool = read("look").first(Finish::Garbage(Garbage::TooMany(1)));
    let server = ScriptedServer::start(Script::modern().tool(tool)).await;
    let gateway = gateway(&server, "retry: { base: 1ms }").await;
    let client = gateway.modern("/mcp");
    client.result("tools/list", json!({})).await.unwrap();
    call(&client, "crm__look").await.result().unwrap();
    let at: Vec<Duration> = server.received_method("tools/call").iter().map(|call| call.at).collect();
    assert_eq!(at.len(), 2);
    assert!(at[1] - at[0] >= Duration::from_millis(950), "{at:?}");
}

#[tokio::test]
async fn when_everything_fails_the_server_is_not_stormed() {
    const OFFERED: usize = 200;
    let tool = read("look").finish(Finish::Garbage(Garbage::Html500));
    let server = ScriptedServer::start(Script::modern().tool(tool)).await;
    let gateway = gateway(&server, "retry: { attempts: 5, base: 1ms, max: 5ms }").await;
    let client = gateway.modern("/mcp");
    client.result("tools/list", json!({})).await.unwrap();
    for _ in 0..OFFERED / 20 {
        let calls = (0..20).map(|_| call(&client, "crm__look"));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(code(&answer), "1301");
        }
    }
    let made = server.received_method("tools/call").len();
    // Three in ten seconds may be made again in any case.
    let reserve = 3 * 4;
    assert!(made > OFFERED && made <= OFFERED * 12 / 10 + reserve, "{made} of {OFFERED}");
    let state = guard(&gateway).await;
    assert!(state["over_budget"].as_u64().is_some_and(|count| count > 0), "{state}");
}

#[tokio::test]
async fn a_slow_call_is_hedged_and_the_loser_cancelled() {
    for modern in [true, false] {
        let script = if modern { Script::modern() } else { Script::legacy() };
        let script = script.tool(read("look").first(Finish::Hang)).tool(ToolScript::new("act").first(Finish::Hang));
        let server = ScriptedServer::start(script).await;
        let rules = "tools: { rules: { \"*\": { hedge: 50ms } } }";
        let gateway = gateway(&server, &format!("retry: {{}}, timeout: {{ idle: 2s }}, {rules}")).await;
        let client = if modern { gateway.modern("/mcp") } else { gateway.legacy("/mcp", NEWEST_LEGACY).await };
        client.result("tools/list", json!({})).await.unwrap();
        call(&client, "crm__look").await.result().unwrap();
        assert_eq!(server.received_method("tools/call").len(), 2, "modern: {modern}");
        eventually(PATIENCE, "the loser is cancelled", || server.cancelled_calls().len() == 1).await;
        // What may not be repeated is not.
        assert_eq!(code(&call(&client, "crm__act").await), "1302");
        assert_eq!(server.received_method("tools/call").len(), 3, "modern: {modern}");
        let state = guard(&gateway).await;
        assert_eq!(state["hedged"], 1, "{state}");
    }
}

#[tokio::test]
async fn the_clients_own_deadline_shortens_and_never_lengthens() {
    let server = ScriptedServer::start(Script::modern().tool(ToolScript::new("act").finish(Finish::Hang))).await;
    let gateway = gateway(&server, "timeout: { call: 3s }, forward_deadline: true, breaker: { consecutive: 2 }").await;
    let client = gateway.modern("/mcp");
    client.result("tools/list", json!({})).await.unwrap();
    let begun = Instant::now();
    let hasty = client.clone().header("fairlead-timeout-ms", "700");
    for _ in 0..3 {
        assert_eq!(code(&call(&hasty, "crm__act").await), "1302", "impatience opens no breaker");
    }
    let params = json!({"name": "crm__act", "arguments": {}, "_meta": {"fairlead/timeoutMs": 600}});
    assert_eq!(code(&client.request("tools/call", params).await.unwrap()), "1302");
    assert!(begun.elapsed() < relaxed(Duration::from_secs(3) * 4), "{:?}", begun.elapsed());
    eventually(PATIENCE, "the server is told", || server.cancelled_calls().len() == 4).await;
    assert_eq!(code(&call(&client.clone().header("fairlead-timeout-ms", "0"), "crm__act").await), "1313");
    let calls = server.received_method("tools/call");
    assert_eq!(calls.len(), 4, "what has no time left is not sent");
    let told: u64 = calls[0].header("fairlead-timeout-ms").unwrap().parse().unwrap();
    assert!((1..=700).contains(&told), "{told}");
    assert!(calls[3].json()["params"]["_meta"]["fairlead/timeoutMs"].as_u64().is_some_and(|told| told <= 600));
    // Longer than the configuration allows is not allowed.
    let patient = client.clone().header("fairlead-timeout-ms", "3600000");
    assert_eq!(code(&call(&patient, "crm__act").await), "1302");
}

#[tokio::test]
async fn other_servers_and_fixed_answers_stand_in() {
    let broken = || Finish::Garbage(Garbage::Html500);
    let script = Script::legacy().tool(read("find").finish(broken())).tool(read("rate").finish(broken()));
    let first = ScriptedServer::start(script.tool(ToolScript::new("act").finish(broken()))).await;
    let second = ScriptedServer::start(Script::modern().tool(read("search"))).await;
    let yaml = format!(
        "servers:\n  crm:\n    url: \"{}\"\n    fallback: [{{ text: \"try later\", structured: {{ known: false }} }}]\n    tools:\n      rules:\n        find:\n          fallback: [{{ server: spare, tool: search }}]\n  spare: {{ url: \"{}\" }}\n",
        first.url(),
        second.url()
    );
    let gateway = Gateway::start(&yaml).await;
    let clients = [gateway.modern("/mcp"), gateway.legacy("/mcp", NEWEST_LEGACY).await];
    for client in clients {
        client.result("tools/list", json!({})).await.unwrap();
        let found = call(&client, "crm__find").await.result().unwrap();
        assert_eq!(found["structuredContent"]["tool"], "search", "{found}");
        assert_eq!(found["_meta"]["fairlead/fallback"]["instead_of"], "crm", "{found}");
        let rate = call(&client, "crm__rate").await.result().unwrap();
        assert_eq!(rate["structuredContent"], json!({"known": false}), "{rate}");
        assert_eq!(rate["content"][0]["text"], "try later", "{rate}");
        assert_eq!(rate["_meta"]["fairlead/fallback"]["because"], "FL-1301", "{rate}");
        // Nobody is told that all is well while that is not known.
        assert_eq!(code(&call(&client, "crm__act").await), "1301");
    }
    assert_eq!(second.received_method("tools/call").len(), 2);
}

#[tokio::test]
async fn what_stands_in_is_treated_as_the_other_servers_tool_and_is_not_kept() {
    let mut first = ScriptedServer::start(Script::modern().tool(ToolScript::new("find"))).await;
    let spare = ScriptedServer::start(Script::modern().tool(ToolScript::new("find"))).await;
    let yaml = format!(
        "servers:\n  crm:\n    url: \"{}\"\n    fallback: [{{ server: spare }}]\n    tools: {{ rules: {{ find: {{ cache: {{ ttl: 1h }}, pin: {{ tenant: acme }} }} }} }}\n  spare:\n    url: \"{}\"\n    tools: {{ rules: {{ find: {{ pin: {{ region: eu }} }} }} }}\n",
        first.url(),
        spare.url()
    );
    let gateway = Gateway::start(&yaml).await;
    let client = gateway.modern("/mcp");
    client.result("tools/list", json!({})).await.unwrap();
    first.stop().await;
    for times in 1..=2 {
        let found = call(&client, "crm__find").await.result().unwrap();
        assert_eq!(found["_meta"]["fairlead/fallback"]["instead_of"], "crm", "{found}");
        let asked = spare.received_method("tools/call");
        assert_eq!(asked.len(), times, "what another server said is not kept for the first");
        let arguments = asked.last().unwrap().json()["params"]["arguments"].clone();
        assert_eq!((&arguments["tenant"], &arguments["region"]), (&json!("acme"), &json!("eu")), "{arguments}");
    }
}

#[tokio::test]
async fn what_a_server_depends_on_is_down_so_it_is_not_called() {
    let broken = Finish::Garbage(Garbage::Html500);
    let base = ScriptedServer::start(Script::modern().tool(ToolScript::new("act").finish(broken))).await;
    let above = ScriptedServer::start(Script::modern().tool(ToolScript::new("act"))).await;
    let yaml = format!(
        "servers:\n  base: {{ url: \"{}\", breaker: {{ open: 1h, max_open: 1h }} }}\n  above: {{ url: \"{}\", breaker: {{}}, depends_on: [base] }}\n",
        base.url(),
        above.url()
    );
    let gateway = Gateway::start(&yaml).await;
    let client = gateway.modern("/mcp");
    client.result("tools/list", json!({})).await.unwrap();
    call(&client, "above__act").await.result().unwrap();
    for _ in 0..5 {
        call(&client, "base__act").await;
    }
    let refused = call(&client, "above__act").await;
    assert_eq!(code(&refused), "1312");
    assert!(refused.error()["message"].as_str().is_some_and(|text| text.contains("`base`")));
    gateway.cli(&["servers", "breaker", "base", "close"]).await;
    call(&client, "above__act").await.result().unwrap();
}

#[tokio::test]
async fn a_reload_keeps_what_breakers_know() {
    let broken = Finish::Garbage(Garbage::Html500);
    let server = ScriptedServer::start(Script::modern().tool(ToolScript::new("act").finish(broken))).await;
    let yaml = |more: &str| {
        format!("servers:\n  crm: {{ url: \"{}\", breaker: {{ open: 1h, max_open: 1h }}, {more} }}\n", server.url())
    };
    let gateway = Gateway::start(&yaml("")).await;
    let client = gateway.modern("/mcp");
    client.result("tools/list", json!({})).await.unwrap();
    for _ in 0..5 {
        call(&client, "crm__act").await;
    }
    gateway.reload(&yaml("max_calls: 77")).await;
    assert_eq!(code(&call(&client, "crm__act").await), "1312");
}
