//! Content codings: answers compressed for clients that accept it, compressed requests, and the same towards servers.

use bytes::Bytes;
use fairlead_coding::{Coding, Decoder};
use fairlead_testkit::{FaultProxy, McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, get, rows};

/// Something long that compresses well.
fn long() -> String {
    (0..2_000).map(|at| format!("word {at} ")).collect()
}

fn decoded(coding: Coding, body: &Bytes) -> Value {
    let mut decoder = Decoder::new(coding).unwrap();
    decoder.push(body.clone());
    let mut whole = Vec::new();
    while let Some(part) = decoder.next().unwrap() {
        whole.extend_from_slice(&part);
    }
    decoder.finish().unwrap();
    serde_json::from_slice(&whole).unwrap()
}

async fn server() -> ScriptedServer {
    let result = json!({"content": [{"type": "text", "text": long()}]}).to_string();
    let told = json!({"content": [{"type": "text", "text": "told"}]}).to_string();
    let script = Script::modern()
        .tools(60)
        .tool(ToolScript::new("long").result(&result))
        .tool(ToolScript::new("talks").progress(3, 5).result(&told));
    ScriptedServer::start(script).await
}

async fn gateway(yaml: &str) -> Gateway {
    let gateway = Gateway::start(yaml).await;
    rows::until_listed(&gateway, "a").await;
    gateway
}

const LISTEN: &str = "listen: { address: \"127.0.0.1:0\", max_body: 100KB, compression: { answers: true } }\n";

/// The headers that go with a message of a modern client.
fn named(message: &Value) -> Vec<(&'static str, String)> {
    let mut headers = vec![("mcp-method", message["method"].as_str().unwrap().to_owned())];
    if let Some(name) = message["params"]["name"].as_str() {
        headers.push(("mcp-name", name.to_owned()));
    }
    headers
}

async fn ask(client: &McpClient, method: &str, params: Value, more: &[(&str, &str)]) -> fairlead_testkit::Answer {
    let message = client.message(method, params);
    let named = named(&message);
    let mut headers: Vec<(&str, &str)> = named.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.extend(more);
    client.post_raw(message.to_string(), &headers).await.unwrap()
}

#[tokio::test]
async fn answers_are_compressed_for_clients_that_accept_it_and_for_nobody_else() {
    let server = server().await;
    let gateway = gateway(&format!("{LISTEN}servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    let client = gateway.modern("/mcp");
    let said = |answer: &fairlead_testkit::Answer, name: &str| {
        answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    for (method, params) in [
        ("tools/list", json!({})),
        ("tools/list", json!({})),
        ("tools/call", json!({"name": "a__long", "arguments": {}})),
    ] {
        let plain = ask(&client, method, params.clone(), &[]).await;
        assert_eq!(said(&plain, "content-encoding"), None);
        assert_eq!(said(&plain, "vary").as_deref(), Some("accept-encoding"));
        let expected: Value = serde_json::from_slice(&plain.body).unwrap();
        for coding in Coding::ALL {
            let answer = ask(&client, method, params.clone(), &[("accept-encoding", coding.name())]).await;
            assert_eq!(said(&answer, "content-encoding").as_deref(), Some(coding.name()), "{method}");
            assert!(
                answer.body.len() * 2 < plain.body.len(),
                "{method}: {} of {}",
                answer.body.len(),
                plain.body.len()
            );
            assert_eq!(decoded(coding, &answer.body)["result"], expected["result"], "{method} {coding:?}");
        }
        let weighed = ask(&client, method, params, &[("accept-encoding", "gzip;q=0.5, br;q=0.9, zstd;q=0")]).await;
        assert_eq!(said(&weighed, "content-encoding").as_deref(), Some("br"));
    }
    let (_, metrics) = get(&gateway.admin_url("/metrics")).await;
    for counted in ["gzip\"} 3", "br\"} 6", "zstd\"} 3"] {
        assert!(metrics.contains(&format!("fairlead_compressed_answers_total{{coding=\"{counted}")), "{metrics}");
    }
    // A short answer, and one that is a stream, go as they are.
    let accepts = [("accept-encoding", "gzip, br, zstd")];
    let short = ask(&client, "tools/call", json!({"name": "a__tool_0", "arguments": {}}), &accepts).await;
    assert_eq!((short.status, said(&short, "content-encoding")), (200, None));
    let params = json!({"name": "a__talks", "arguments": {}, "_meta": {"progressToken": 1}});
    let stream = ask(&client, "tools/call", params, &accepts).await;
    assert_eq!(said(&stream, "content-encoding"), None);
    assert!(stream.messages().len() > 1, "{:?}", stream.body);
}

#[tokio::test]
async fn compressed_requests_are_taken_within_their_bound() {
    let server = server().await;
    let gateway = gateway(&format!("{LISTEN}servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    let client = gateway.modern("/mcp");
    let call = |text: &str| client.message("tools/call", json!({"name": "a__tool_0", "arguments": {"text": text}}));
    let post = async |body: Vec<u8>, coding: &str| {
        let headers = [("mcp-method", "tools/call"), ("mcp-name", "a__tool_0"), ("content-encoding", coding)];
        client.post_raw(body, &headers).await.unwrap()
    };
    let fits = call(&long()).to_string();
    let bomb = call(&" ".repeat(8 << 20)).to_string();
    for coding in Coding::ALL {
        let answer = post(coding.compress(fits.as_bytes()).unwrap(), coding.name()).await;
        assert_eq!(answer.status, 200, "{coding:?}: {:?}", answer.body);
        assert!(answer.frames[0].json()["result"].is_object(), "{coding:?}: {:?}", answer.body);
        let bomb = coding.compress(bomb.as_bytes()).unwrap();
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        let refused = post(bomb, coding.name()).await;
        assert_eq!(refused.status, 413, "{coding:?}: {:?}", refused.body);
        let cut = coding.compress(fits.as_bytes()).unwrap();
        assert_eq!(post(cut[..cut.len() / 2].to_vec(), coding.name()).await.status, 400, "{coding:?}");
    }
    assert_eq!(post(fits.clone().into_bytes(), "deflate").await.status, 406);
    assert_eq!(server.received_method("tools/call").len(), Coding::ALL.len());
}

/// The server here is another gateway, which knows both.
#[tokio::test]
async fn towards_servers_both_ways_where_that_is_configured() {
    let server = server().await;
    let behind = gateway(&format!("{LISTEN}servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    let address = behind.address().parse().unwrap();
    let arguments = json!({"text": long()});
    let mut moved = Vec::new();
    for compression in ["{}", "{ answers: true, requests: zstd }"] {
        let proxy = FaultProxy::start(address).await;
        let url = proxy.url("/mcp");
        let front = gateway(&format!("servers:\n  a: {{ url: \"{url}\", compression: {compression} }}\n")).await;
        let before = proxy.bytes();
        let client = front.modern("/mcp");
        let result = client.call("a__a__long", arguments.clone()).await.unwrap();
        assert_eq!(result["content"][0]["text"], long());
        let after = proxy.bytes();
        moved.push((after.0 - before.0, after.1 - before.1));
    }
    let (plain, compressed) = (moved[0], moved[1]);
    assert!(plain.0 > 10_000 && plain.1 > 10_000, "{plain:?}");
    assert!(compressed.0 * 2 < plain.0 && compressed.1 * 2 < plain.1, "{compressed:?} of {plain:?}");
}

#[tokio::test]
async fn an_answer_that_expands_beyond_the_bound_fails_its_own_call() {
    let server = server().await;
    let behind = gateway(&format!("{LISTEN}servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    let front = gateway(&format!(
        "servers:\n  a: {{ url: \"{}\", max_message: 15KB, compression: {{ answers: true }} }}\n",
        behind.url("/servers/a/mcp")
    ))
    .await;
    let client = front.modern("/mcp");
    let refused = client.request("tools/call", json!({"name": "a__long", "arguments": {}})).await.unwrap();
    let message = refused.error()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("FL-1307"), "{:?}", refused.body);
    client.call("a__tool_0", json!({})).await.expect("the next call is well");
}
