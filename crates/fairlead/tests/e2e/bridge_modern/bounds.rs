//! Calls that wait are few, and not for ever.

use super::*;
use crate::support::relaxed;

/// Whether the server heard that its question is cancelled, and the call.
fn is_given_up(bridge: &Bridge) -> bool {
    let cancelled = bridge.received_method("notifications/cancelled").len() == 1;
    let answered = bridge.answered().iter().any(|answer| answer["result"] == json!({"action": "cancel"}));
    cancelled && answered
}

#[tokio::test]
async fn whoever_does_not_come_back_is_given_up() {
    let ways = WAYS.map(|way| async move {
        let bridge = Bridge::start(way, asks, "", "park: { ttl: 3s }").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let params = json!({"name": "a__form", "arguments": {"q": 1}});
        let (_, state) = asked(&client.request("tools/call", params.clone()).await.unwrap());
        eventually(PATIENCE, &format!("{way}: the end of the call at the server"), || is_given_up(&bridge)).await;
        let late = again("a__form", &state, json!({"elicitation-1": accepts("ann")}));
        let error = client.request("tools/call", late).await.unwrap().error();
        assert!(error.to_string().contains("FL-1309"), "{way}: {error}");
        // The link is free again, and the server as it was.
        let (_, state) = asked(&client.request("tools/call", params).await.unwrap());
        let params = again("a__form", &state, json!({"elicitation-1": accepts("ann")}));
        let result = client.request("tools/call", params).await.unwrap().result().unwrap();
        assert_eq!(answers(&result), [json!({"result": accepts("ann")})], "{way}");
    });
    futures_util::future::join_all(ways).await;
}

#[tokio::test]
async fn as_many_calls_wait_as_may_and_the_next_is_refused() {
    for way in WAYS {
        let bridge = Bridge::start(way, asks, "", "park: { max: 2 }").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let params = json!({"name": "a__form", "arguments": {"q": 1}});
        let (_, one) = asked(&client.request("tools/call", params.clone()).await.unwrap());
        let (_, two) = asked(&client.request("tools/call", params.clone()).await.unwrap());
        let error = client.request("tools/call", params.clone()).await.unwrap().error();
        assert!(error.to_string().contains("FL-1311"), "{way}: {error}");
        eventually(PATIENCE, "the server is told", || is_given_up(&bridge)).await;
        for state in [one, two] {
            let params = again("a__form", &state, json!({"elicitation-1": accepts("ann")}));
            let result = client.request("tools/call", params).await.unwrap().result().unwrap();
            assert_eq!(answers(&result), [json!({"result": accepts("ann")})], "{way}");
        }
        asked(&client.request("tools/call", params).await.unwrap());
    }
}

#[tokio::test]
async fn a_question_too_large_to_keep_is_refused() {
    let bridge = Bridge::start("call", asks, "", "park: { max_bytes: 64B }").await;
    let client = fills_in(&bridge.gateway.url("/mcp"));
    let error = client.request("tools/call", json!({"name": "a__form"})).await.unwrap().error();
    assert!(error.to_string().contains("FL-1311"), "{error}");
    eventually(PATIENCE, "the server is told", || is_given_up(&bridge)).await;
}

#[tokio::test]
async fn going_away_cancels_a_call_that_runs() {
    let script = |via| Script::legacy().tool(ToolScript::new("long").ask(Question::Elicitation, via).sleep(30_000));
    for way in WAYS {
        let bridge = Bridge::start(way, script, "", "listen: { address: \"127.0.0.1:0\", keep_alive: 100ms }").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let (_, state) =
            asked(&client.request("tools/call", json!({"name": "a__long", "arguments": {"q": 1}})).await.unwrap());
        // Asking ended the client's request; that is no cancellation.
        let params = again("a__long", &state, json!({"elicitation-1": accepts("ann")}));
        let stream = client.start("tools/call", params).await.unwrap();
        eventually(PATIENCE, "the answer at the server", || bridge.answered().len() == 1).await;
        assert!(bridge.received_method("notifications/cancelled").is_empty(), "{way}");
        stream.vanish();
        let cancelled = || bridge.received_method("notifications/cancelled").len() == 1;
        eventually(3 * SECOND, &format!("{way}: the cancellation"), cancelled).await;
    }
}

#[tokio::test]
async fn a_server_that_goes_on_without_an_answer_is_heard() {
    // It asks twice at once, wants neither, and says what it has to say meanwhile.
    let question = |id: &str| Step::Raw {
        text: json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": {"message": id}})
            .to_string(),
    };
    let script = move |_| {
        Script::legacy()
            .tool(ToolScript::new("quick").step(question("q")))
            .tool(ToolScript::new("slow").step(question("q")).progress(300, 1).sleep(50))
    };
    for way in ["call", "stdio"] {
        let bridge = Bridge::start(way, script, "", "park: { gather: 20ms }").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let result = client.result("tools/call", json!({"name": "a__quick"})).await.unwrap();
        assert_eq!(result["resultType"], "complete", "{way}: {result}");
        let params = json!({"name": "a__slow", "arguments": {"q": 1}, "_meta": {"progressToken": 1}});
        let (_, state) = asked(&client.request("tools/call", params).await.unwrap());
        // The answer is kept until somebody comes for it; of the progress, the latest.
        tokio::time::sleep(Duration::from_millis(800)).await;
        let mut params = again("a__slow", &state, json!({"elicitation-1": accepts("late")}));
        params["_meta"] = json!({"progressToken": 2});
        let answer = client.request("tools/call", params).await.unwrap();
        answer.result().unwrap();
        let last =
            answer.notifications("notifications/progress").last().map(|report| report["params"]["progress"].clone());
        assert_eq!(last, Some(json!(300)), "{way}");
    }
}

#[tokio::test]
async fn a_server_that_dies_while_the_client_thinks_is_an_error_for_the_client() {
    for way in ["call", "stdio"] {
        let mut bridge = Bridge::start(way, asks, "", "").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let (_, state) =
            asked(&client.request("tools/call", json!({"name": "a__form", "arguments": {"q": 1}})).await.unwrap());
        match (&mut bridge.http, &bridge.stdio) {
            (Some(http), _) => http.stop().await,
            (_, Some(stdio)) => {
                for pid in stdio.living() {
                    nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
                        nix::sys::signal::Signal::SIGKILL,
                    )
                    .unwrap();
                }
            }
            _ => {}
        }
        bridge.gateway.logged("lost the connection").await;
        let params = again("a__form", &state, json!({"elicitation-1": accepts("ann")}));
        let error = client.request("tools/call", params).await.unwrap().error();
        assert!(error.to_string().contains("FL-1303"), "{way}: {error}");
    }
}

#[tokio::test]
async fn retries_without_an_answer_give_a_call_no_more_time() {
    // It asks, does not wait, and says something all the time: what is said is no reason to wait longer.
    let question = json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {"message": "q"}});
    let script = move |_| {
        let asks = Step::Raw { text: question.to_string() };
        Script::legacy().tool(ToolScript::new("talks").step(asks).progress(3_000, 10))
    };
    for way in ["call", "stdio"] {
        let bridge = Bridge::start(way, &script, "", "park: { gather: 10ms, ttl: 2s }").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let params = json!({"name": "a__talks", "arguments": {"q": 1}, "_meta": {"progressToken": 1}});
        let (_, mut state) = asked(&client.request("tools/call", params).await.unwrap());
        let start = std::time::Instant::now();
        let error = loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let answer = client.request("tools/call", again("a__talks", &state, json!({}))).await.unwrap();
            if !answer.error().is_null() {
                break answer.error();
            }
            state = asked(&answer).1;
            assert!(start.elapsed() < relaxed(10 * SECOND), "{way}: it waits for ever");
        };
        assert!(error.to_string().contains("FL-1309"), "{way}: {error}");
        eventually(PATIENCE, &format!("{way}: the end of the call at the server"), || is_given_up(&bridge)).await;
    }
}

#[tokio::test]
async fn a_client_that_is_asked_too_often_is_asked_no_more() {
    let bridge = Bridge::start("call", asks, "", "").await;
    let client = fills_in(&bridge.gateway.url("/mcp"));
    let params = json!({"name": "a__form", "arguments": {"q": 1}});
    let (_, mut state) = asked(&client.request("tools/call", params).await.unwrap());
    let mut rounds = 1;
    let error = loop {
        let answer = client.request("tools/call", again("a__form", &state, json!({}))).await.unwrap();
        if !answer.error().is_null() {
            break answer.error();
        }
        state = asked(&answer).1;
        rounds += 1;
        assert!(rounds < 300, "it is asked without end");
    };
    assert!(error.to_string().contains("FL-1306"), "after {rounds} rounds: {error}");
    eventually(PATIENCE, "the server is told", || is_given_up(&bridge)).await;
}
