//! Faults that are injected on purpose: each kind is seen as the real thing would be, resilience reacts to it, and nothing
//! is injected where the configuration does not allow for it.

use std::time::{Duration, Instant};

use fairlead_testkit::{Answer, Finish, McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, StdioServer, eventually_some, get};

/// A server with a tool that may be repeated and one that may not.
fn script() -> Script {
    Script::modern()
        .tool(ToolScript::new("look").definition(json!({"annotations": {"readOnlyHint": true}})).finish(Finish::Echo))
        .tool(ToolScript::new("act").finish(Finish::Echo))
}

async fn gateway(server: &ScriptedServer, inject: &str, more: &str) -> Gateway {
    let faults = format!("faults: {{ enabled: true, inject: [{inject}] }}\n");
    Gateway::start(&format!("{faults}servers:\n  crm: {{ url: \"{}\", {more} }}\n", server.url())).await
}

async fn call(client: &McpClient, tool: &str) -> Answer {
    client.request("tools/call", json!({"name": tool, "arguments": {}})).await.unwrap()
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

async fn injected(gateway: &Gateway, kind: &str) -> u64 {
    let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
    let start = format!("fairlead_faults_injected_total{{mcp_server=\"crm\",kind=\"{kind}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&*start)?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn every_kind_is_seen_as_the_real_thing() {
    let server = ScriptedServer::start(script()).await;
    // What the client sees, and whether the server was called.
    for (fault, code, calls, kind) in [
        ("error: tool", "isError", 0, "error"),
        ("error: rpc -32000", "-32000", 0, "error"),
        ("error: http 503", "FL-1301", 0, "error"),
        ("disconnect: connect", "FL-1301", 0, "disconnect"),
        ("disconnect: before", "FL-1303", 1, "disconnect"),
        ("disconnect: middle", "FL-1303", 1, "disconnect"),
        ("garbage: true", "FL-1304", 1, "garbage"),
    ] {
        let gateway = gateway(&server, &format!("{{ name: f, tool: act, {fault} }}"), "").await;
        for legacy in [false, true] {
            let before = server.received_method("tools/call").len();
            let client = if legacy {
                gateway.legacy("/servers/crm/mcp", NEWEST_LEGACY).await
            } else {
                gateway.modern("/servers/crm/mcp")
            };
            let said = text(&call(&client, "act").await);
            assert!(said.contains(code) && said.contains("FL-1701") && said.contains("`f`"), "{fault}: {said}");
            assert_eq!(server.received_method("tools/call").len() - before, calls, "{fault}");
            // The tool beside it is not concerned.
            call(&client, "look").await.result().unwrap();
        }
        assert_eq!(injected(&gateway, kind).await, 2, "{fault}");
        gateway.logged("a fault is injected").await;
    }
}

#[tokio::test]
async fn what_is_slow_is_slow_and_deadlines_count_it() {
    let server = ScriptedServer::start(script()).await;
    let inject = "{ name: late, tool: act, latency: 300ms..400ms }, { name: slow, tool: look, slow_answer: 100B, slow_request: 1KiB }";
    let gateway = gateway(&server, inject, "").await;
    let client = gateway.modern("/servers/crm/mcp");
    for (tool, least) in [("act", 300), ("look", 500)] {
        let began = Instant::now();
        call(&client, tool).await.result().unwrap();
        assert!(began.elapsed() >= Duration::from_millis(least), "{tool}: {:?}", began.elapsed());
    }
    assert_eq!((injected(&gateway, "latency").await, injected(&gateway, "slow_answer").await), (1, 1));
    let gateway = Gateway::start(&format!(
        "faults: {{ enabled: true, inject: [{{ latency: 30s }}] }}\nservers:\n  crm: {{ url: \"{}\", timeout: {{ call: 300ms }} }}\n",
        server.url()
    ))
    .await;
    let said = text(&call(&gateway.modern("/servers/crm/mcp"), "act").await);
    assert!(said.contains("FL-1302"), "{said}");
}

#[tokio::test]
async fn a_retry_hides_half_of_the_calls_failing() {
    let server = ScriptedServer::start(script()).await;
    // With this seed no five tries in a row are hit.
    let inject = "{ percent: 50, seed: 21, disconnect: before }";
    let gateway = gateway(&server, inject, "retry: { attempts: 5, base: 1ms, max: 2ms, budget: 100 }").await;
    let client = gateway.modern("/mcp");
    client.result("tools/list", json!({})).await.unwrap();
    for _ in 0..30 {
        call(&client, "crm__look").await.result().unwrap();
    }
    let hidden = injected(&gateway, "disconnect").await;
    assert!(hidden >= 8, "{hidden} of 30 calls were hit");
    // What may not be repeated shows it, and says whether it was made.
    let mut failed = 0;
    for _ in 0..20 {
        let said = text(&call(&client, "crm__act").await);
        if said.contains("FL-1701") {
            assert!(said.contains("whether the call took effect is unknown"), "{said}");
            failed += 1;
        }
    }
    assert!((3..18).contains(&failed), "{failed} of 20");
}

#[tokio::test]
async fn a_breaker_opens_on_injected_faults() {
    let server = ScriptedServer::start(script()).await;
    let gateway = gateway(&server, "{ disconnect: connect }", "breaker: { open: 1h, max_open: 1h }").await;
    let client = gateway.modern("/servers/crm/mcp");
    eventually_some(PATIENCE, "the breaker opens", async || {
        text(&call(&client, "act").await).contains("FL-1312").then_some(())
    })
    .await;
    assert!(server.received_method("tools/call").is_empty());
}

#[tokio::test]
async fn one_instance_is_hit_and_the_other_takes_over() {
    let [one, two] = [ScriptedServer::start(script()).await, ScriptedServer::start(script()).await];
    let gateway = Gateway::start(&format!(
        "faults: {{ enabled: true, inject: [{{ instance: one, disconnect: connect }}] }}\nservers:\n  crm:\n    balance: round_robin\n    instances:\n      - {{ name: one, url: \"{}\" }}\n      - {{ name: two, url: \"{}\" }}\n",
        one.url(),
        two.url()
    ))
    .await;
    let client = gateway.modern("/servers/crm/mcp");
    for _ in 0..6 {
        call(&client, "act").await.result().unwrap();
    }
    assert!(injected(&gateway, "disconnect").await >= 1);
    assert_eq!((one.received_method("tools/call").len(), two.received_method("tools/call").len()), (0, 6));
}

#[tokio::test]
async fn processes_are_hit_too_and_go_on() {
    let server = StdioServer::new(script());
    let faults =
        "faults: { enabled: true, inject: [{ tool: act, disconnect: middle }, { tool: look, latency: 200ms }] }\n";
    let gateway = Gateway::start(&format!("{faults}servers:\n  crm: {{ {} }}\n", server.yaml())).await;
    let client = gateway.legacy("/servers/crm/mcp", NEWEST_LEGACY).await;
    let said = text(&call(&client, "act").await);
    assert!(said.contains("FL-1303") && said.contains("FL-1701"), "{said}");
    let began = Instant::now();
    call(&client, "look").await.result().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_client_that_asks_is_told() {
    let server = ScriptedServer::start(script()).await;
    let gateway = gateway(&server, "{ name: a-bit-late, latency: 5ms }", "").await;
    let client = gateway.modern("/servers/crm/mcp");
    let arguments = json!({"name": "act", "arguments": {}, "_meta": {"fairlead/info": true}});
    let answer = client.request("tools/call", arguments).await.unwrap().result().unwrap();
    assert_eq!(answer["_meta"]["fairlead/fault"], "a-bit-late", "{answer}");
}

#[tokio::test]
async fn commands_set_show_and_clear_and_faults_end() {
    let server = ScriptedServer::start(script()).await;
    let gateway = gateway(&server, "", "").await;
    let client = gateway.modern("/servers/crm/mcp");
    let set = ["faults", "set", "--name", "mine", "--server", "c*", "--tool", "act", "--for", "10m", "--error", "rpc"];
    let output = gateway.cli(&set).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("100 % server=c* tool=act: error rpc"));
    assert!(text(&call(&client, "act").await).contains("FL-1701"));
    call(&client, "look").await.result().unwrap();
    let explained = gateway.cli(&["explain", "crm__act"]).await;
    assert!(String::from_utf8_lossy(&explained.stdout).contains("the fault `mine` is injected on purpose"));
    let listed: Value = serde_json::from_slice(&gateway.cli(&["faults", "--json"]).await.stdout).unwrap();
    assert_eq!((&listed["enabled"], &listed["faults"][0]["hits"]), (&json!(true), &json!(1)), "{listed}");
    assert!(listed["faults"][0]["ends_in_ms"].as_u64().is_some_and(|left| left <= 600_000), "{listed}");

    for (wrong, part) in [
        (vec!["faults", "set", "--garbage", "--name", "mine"], "clear it first"),
        (vec!["faults", "set", "--garbage", "--for", "2h"], "max_for"),
        (vec!["faults", "set", "--latency", "soon"], "latency"),
        (vec!["faults", "set"], "does nothing"),
        (vec!["faults", "clear", "nobody"], "nobody"),
    ] {
        let output = gateway.cli(&wrong).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(part), "{wrong:?}: {said}");
    }
    assert!(gateway.cli(&["faults", "clear", "mine"]).await.status.success());
    call(&client, "act").await.result().unwrap();

    gateway.cli(&["faults", "set", "--garbage", "--for", "500ms"]).await;
    let answer = eventually_some(PATIENCE, "the fault ends", async || call(&client, "act").await.result().ok()).await;
    assert!(answer["content"].is_array());
    let listed: Value = serde_json::from_slice(&gateway.cli(&["faults", "--json"]).await.stdout).unwrap();
    assert_eq!(listed["faults"], json!([]));
}

#[tokio::test]
async fn without_leave_of_the_configuration_nothing_is_injected() {
    let server = ScriptedServer::start(script()).await;
    let servers = format!("servers:\n  crm: {{ url: \"{}\" }}\n", server.url());
    let gateway = Gateway::start(&format!("faults: {{ inject: [{{ garbage: true }}] }}\n{servers}")).await;
    let client = gateway.modern("/servers/crm/mcp");
    call(&client, "act").await.result().unwrap();
    let output = gateway.cli(&["faults", "set", "--garbage"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not enabled"));
    let posted = admin(&gateway, http::Method::POST, "/faults", r#"{"garbage": true}"#, &[]).await;
    assert_eq!(posted.0, 403, "{}", posted.1);
    call(&client, "act").await.result().unwrap();

    // A reload may allow it, and take what was set away again.
    gateway.reload(&format!("faults: {{ enabled: true }}\n{servers}")).await;
    assert!(gateway.cli(&["faults", "set", "--garbage"]).await.status.success());
    assert!(text(&call(&client, "act").await).contains("FL-1701"));
    gateway.reload(&servers).await;
    call(&client, "act").await.result().unwrap();
}

async fn admin(
    gateway: &Gateway,
    method: http::Method,
    path: &str,
    body: &str,
    headers: &[(&'static str, &str)],
) -> (u16, String) {
    let client = McpClient::new(&gateway.admin_url(path)).limit(PATIENCE);
    let answer = client.raw(method, body.to_owned(), headers).await.unwrap();
    (answer.status, text(&answer))
}

#[tokio::test]
async fn the_admin_listener_sets_and_clears_but_for_no_web_page() {
    let server = ScriptedServer::start(script()).await;
    let gateway = gateway(&server, "", "").await;
    let client = gateway.modern("/servers/crm/mcp");
    let fault = r#"{"name": "posted", "garbage": true, "for": "5m"}"#;
    for (headers, status) in [(vec![("origin", "http://localhost")], 403), (vec![("content-type", "text/plain")], 415)]
    {
        let (got, said) = admin(&gateway, http::Method::POST, "/faults", fault, &headers).await;
        assert_eq!(got, status, "{said}");
    }
    let (status, said) = admin(&gateway, http::Method::POST, "/faults", r#"{"garbage": true, "x": 1}"#, &[]).await;
    assert!(status == 400 && said.contains("unknown field"), "{said}");
    let (status, said) = admin(&gateway, http::Method::POST, "/faults", fault, &[]).await;
    assert_eq!(status, 201, "{said}");
    assert!(text(&call(&client, "act").await).contains("FL-1304"));
    let (_, listed) = get(&gateway.admin_url("/faults")).await;
    assert!(listed.contains("\"posted\""), "{listed}");
    let (status, said) = admin(&gateway, http::Method::DELETE, "/faults/posted", "", &[]).await;
    assert!(status == 200 && said.contains("\"cleared\": 1"), "{said}");
    call(&client, "act").await.result().unwrap();
}
