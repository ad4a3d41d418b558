//! States that were not issued for what they are used for.

use super::*;

/// Waits for the answer to be a refusal of the state.
async fn refused(client: &McpClient, params: Value, what: &str) {
    let answer = client.request("tools/call", params).await.unwrap();
    let error = answer.error();
    assert!(error["code"] == -32602 && error["message"].as_str().unwrap().contains("FL-1309"), "{what}: {error}");
}

#[tokio::test]
async fn a_state_is_only_good_for_the_request_it_was_issued_for() {
    for way in ["call", "stdio"] {
        let bridge = Bridge::start(way, asks, "", "").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let single = fills_in(&bridge.gateway.url("/servers/a/mcp"));
        let params = json!({"name": "a__form", "arguments": {"q": 1}});
        let (_, state) = asked(&client.request("tools/call", params).await.unwrap());
        let answer = json!({"elicitation-1": accepts("eve")});
        for forged in ["", "x", "fairlead-1.", "fairlead-1.AAAA", &state[1..], &state[..state.len() - 1]] {
            refused(&client, again("a__form", forged, answer.clone()), forged).await;
        }
        for at in (0..state.len()).step_by(7) {
            let mut bytes = state.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).unwrap();
            refused(&client, again("a__form", &forged, answer.clone()), &forged).await;
        }
        refused(&client, again("a__url", &state, answer.clone()), "another tool").await;
        refused(&single, again("form", &state, answer.clone()), "another path").await;
        let mut other = again("a__form", &state, answer.clone());
        other["arguments"] = json!({"q": 2});
        refused(&client, other, "other arguments").await;
        let mut other = again("a__form", &state, answer.clone());
        other["own"] = json!(1);
        refused(&client, other, "one member more").await;
        let mut other = again("a__form", &state, answer.clone());
        other["requestState"] = json!(7);
        refused(&client, other, "not a string").await;
        for responses in [json!([]), json!({"elicitation-1": 7}), json!("x")] {
            let answer = client.request("tools/call", again("a__form", &state, responses)).await.unwrap();
            assert_eq!(answer.error()["code"], -32602, "{}", answer.error());
        }
        assert!(bridge.answered().is_empty(), "{way}: the server heard none of it: {:?}", bridge.answered());
        // It is still good, with members in another order, and once.
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"z","method":"tools/call","params":{{"inputResponses":{answer}, "arguments" : {{ "q":1 }},"requestState":"{state}","name":"a__form","_meta":{{"progressToken":4,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{"elicitation":{{"form":{{}},"url":{{}}}},"sampling":{{}}}}}}}}}}"#
        );
        let good = client.post_raw(body, &[("mcp-method", "tools/call"), ("mcp-name", "a__form")]).await.unwrap();
        let result = good.result().unwrap();
        assert_eq!(answers(&result), [json!({"result": accepts("eve")})], "{way}");
        refused(&client, again("a__form", &state, answer.clone()), "a second time").await;
        assert_eq!(bridge.received_method("tools/call").len(), 1, "{way}: the call was made once");
        bridge.gateway.logged("FL-1309").await;
    }
}

#[tokio::test]
async fn of_two_that_bring_one_state_at_once_one_is_heard() {
    let bridge = Bridge::start("call", asks, "", "").await;
    let client = fills_in(&bridge.gateway.url("/mcp"));
    let params = json!({"name": "a__form", "arguments": {"q": 1}});
    let (_, state) = asked(&client.request("tools/call", params).await.unwrap());
    let tries = (0..8).map(|number| {
        let params = again("a__form", &state, json!({"elicitation-1": accepts(&number.to_string())}));
        client.request("tools/call", params)
    });
    let results = futures_util::future::join_all(tries).await;
    let good = results.iter().filter(|result| result.as_ref().unwrap().error().is_null()).count();
    assert_eq!((good, bridge.answered().len()), (1, 1));
}

#[tokio::test]
async fn a_call_that_waited_when_the_gateway_was_restarted_is_lost_and_the_client_told_so() {
    for way in ["call", "stdio"] {
        let mut bridge = Bridge::start(way, asks, "", "").await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        let params = json!({"name": "a__form", "arguments": {"q": 1}});
        let (_, state) = asked(&client.request("tools/call", params).await.unwrap());
        assert_eq!(bridge.gateway.stop().await, Some(0), "a call that waits holds up no stop");
        bridge.gateway.restart().await;
        let client = fills_in(&bridge.gateway.url("/mcp"));
        client.list("tools/list", "tools").await.unwrap();
        let params = again("a__form", &state, json!({"elicitation-1": accepts("ann")}));
        let error = client.request("tools/call", params).await.unwrap().error();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("FL-1310") && message.contains("unknown"), "{way}: {error}");
        assert_eq!(bridge.received_method("tools/call").len(), 1, "{way}: it was not made again");
    }
}
