//! Many calls in one: calls of a tool that are gathered into one of another, and `call_many`.

use fairlead_testkit::{McpClient, Question, Reply, Script, ScriptedServer, ToolScript, Via};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Gateway, MODERN, NEWEST_LEGACY, PATIENCE, eventually, eventually_some, get, rows};

const CALL: &str = "tools/call";

fn reading(name: &str) -> ToolScript {
    ToolScript::new(name).definition(json!({"annotations": {"readOnlyHint": true}}))
}

fn script(script: Script) -> Script {
    script
        .tools(0)
        .tool(reading("get"))
        .tool(reading("many"))
        .tool(reading("long").sleep(60_000))
        .tool(reading("bad").result(r#"{"content":[{"type":"text","text":"one of them is wrong"}],"isError":true}"#))
        .tool(ToolScript::new("put"))
        .tool(reading("asks").ask(Question::Elicitation, Via::Call))
}

/// Rules that gather; the time is never over in a test.
fn rule(with: &str, max: usize, more: &str) -> String {
    format!("batch: {{ with: {with}, max: {max}, wait: 5m, {more} }}")
}

struct House {
    server: ScriptedServer,
    gateway: Gateway,
}

impl House {
    async fn new(of: Script, rules: &str, more: &str) -> Self {
        let server = ScriptedServer::start(script(of)).await;
        let gateway = Gateway::start(&format!(
            "servers:\n  a: {{ url: \"{}\", tools: {{ rules: {{ {rules} }} }} }}\n{more}",
            server.url()
        ))
        .await;
        rows::until_listed(&gateway, "a").await;
        Self { server, gateway }
    }

    /// The names of the tools that the server was called for, and their arguments.
    fn heard(&self) -> Vec<(String, Value)> {
        let calls = self.server.received_method(CALL).into_iter();
        calls
            .map(|call| {
                let params = &call.json()["params"];
                (params["name"].as_str().unwrap().to_owned(), params["arguments"].clone())
            })
            .collect()
    }

    fn count(&self, tool: &str) -> usize {
        self.heard().iter().filter(|(name, _)| name == tool).count()
    }

    async fn outcome(&self, outcome: &str) -> u64 {
        let (_, metrics) = get(&self.gateway.admin_url("/metrics")).await;
        let line = format!("fairlead_cache_requests_total{{mcp_server=\"a\",outcome=\"{outcome}\"}} ");
        metrics.lines().find_map(|said| said.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    async fn under_way(&self, calls: usize) {
        let line = format!("fairlead_calls_in_flight {calls}");
        eventually_some(PATIENCE, &line, async || {
            let (_, metrics) = get(&self.gateway.admin_url("/metrics")).await;
            metrics.lines().any(|said| said == line).then_some(())
        })
        .await;
    }

    async fn clients(&self, path: &str) -> [McpClient; 2] {
        let person = || {
            McpClient::new(&self.gateway.url(path))
                .limit(PATIENCE)
                .capabilities(json!({"elicitation": {"form": {}}}))
                .answering(|_, _| Reply::Result(json!({"action": "accept", "content": {"name": "ann"}})))
        };
        let legacy = person();
        legacy.initialize(NEWEST_LEGACY).await.unwrap();
        [legacy, person().modern(MODERN)]
    }
}

#[tokio::test]
async fn calls_are_gathered_and_everybody_gets_his_own_part() {
    const VALUES: usize = 10;
    let rules = format!("get: {{ {} }}", rule("many", VALUES, "argument: ids, from: id, items: arguments.ids"));
    for era in [Script::legacy(), Script::modern()] {
        let house = House::new(era.held(CALL), &rules, "").await;
        let [legacy, modern] = house.clients("/mcp").await;
        for client in [legacy, modern] {
            let before = house.heard().len();
            let (batches, batched) = (house.outcome("batch").await, house.outcome("batched").await);
            // Each value three times: identical calls are one.
            let calls = join_all((0..3 * VALUES).map(|at| {
                let client = &client;
                async move {
                    let params = json!({"name": "a__get", "arguments": {"id": format!("c{}", at % VALUES)},
                                        "_meta": {"progressToken": at}});
                    let answer = client.request(CALL, params).await.unwrap();
                    assert_eq!(Some(&answer.response().unwrap()["id"]), answer.id.as_ref());
                    (at, answer.result().unwrap().clone())
                }
            }));
            let released = async {
                eventually(PATIENCE, "the batch", || house.heard().len() > before).await;
                // The batch is a call, too.
                house.under_way(3 * VALUES + 1).await;
                house.server.change(|script| script.held.clear());
            };
            let (results, ()) = tokio::join!(calls, released);
            for (at, result) in results {
                assert_eq!(result["content"][0]["text"], format!("c{}", at % VALUES), "{result}");
            }
            let heard = house.heard();
            assert_eq!(heard.len(), before + 1, "{heard:?}");
            let (tool, arguments) = &heard[before];
            let mut ids: Vec<_> =
                arguments["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
            ids.sort();
            assert_eq!((tool.as_str(), ids), ("many", (0..VALUES).map(|at| format!("c{at}")).collect::<Vec<_>>()));
            assert_eq!(house.outcome("batch").await - batches, 1);
            assert_eq!(house.outcome("batched").await - batched, 3 * VALUES as u64);
            house.server.change(|script| script.held.push(CALL.to_owned()));
        }
    }
}

#[tokio::test]
async fn one_that_fails_fails_alone_and_what_cannot_be_gathered_is_made_as_it_is() {
    let whole = rule("many", 3, "argument: calls, items: arguments.calls, key: id, error: fails");
    let house = House::new(
        Script::dual(),
        &format!(
            "get: {{ {whole} }}, put: {{ {} }}, asks: {{ repeatable: true, {} }}",
            rule("many", 2, "argument: ids"),
            rule("bad", 2, "argument: all")
        ),
        "",
    )
    .await;
    for client in house.clients("/mcp").await {
        house.server.clear_received();
        let call = async |tool: &str, arguments: Value| client.call(tool, arguments).await.unwrap();
        let (one, two, three) = tokio::join!(
            call("a__get", json!({"id": 1, "n": "x"})),
            call("a__get", json!({"id": 2, "fails": "there is no 2"})),
            call("a__get", json!({"id": 3})),
        );
        assert_eq!(one["structuredContent"], json!({"id": 1, "n": "x"}), "{one}");
        assert_eq!((&two["isError"], &two["content"][0]["text"]), (&json!(true), &json!("there is no 2")), "{two}");
        assert_eq!(three["structuredContent"], json!({"id": 3}), "{three}");
        assert_eq!((house.count("many"), house.count("get")), (1, 0));
        // What may not be repeated is not gathered, whatever the rule says.
        let (one, two) = tokio::join!(call("a__put", json!({"id": 1})), call("a__put", json!({"id": 2})));
        assert_eq!(one["structuredContent"]["arguments"], json!({"id": 1}));
        assert_eq!(two["structuredContent"]["arguments"], json!({"id": 2}));
        assert_eq!((house.count("many"), house.count("put")), (1, 2));
        // The batch is refused as a whole: each is made for itself, with its own questions.
        let (one, two) = tokio::join!(call("a__asks", json!({"id": 1})), call("a__asks", json!({"id": 2})));
        assert!(one.to_string().contains("ann") && one.to_string().contains("\"id\":1"), "{one}");
        assert!(two.to_string().contains("ann") && two.to_string().contains("\"id\":2"), "{two}");
        assert_eq!(house.count("bad"), 1);
    }
}

#[tokio::test]
async fn when_all_have_gone_the_batch_is_cancelled() {
    let rules = format!("get: {{ {} }}", rule("long", 2, "argument: ids, from: id"));
    let house = House::new(Script::legacy(), &rules, "").await;
    let client = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let calls: Vec<_> = (0..2)
        .map(|at| {
            let mut message = client.message(CALL, json!({"name": "a__get", "arguments": {"id": at}}));
            message["id"] = json!(500 + at);
            let sender = client.clone();
            tokio::spawn(async move { sender.post(&message).await?.finish().await })
        })
        .collect();
    eventually(PATIENCE, "the batch", || house.count("long") == 1).await;
    client.cancel(&json!(500)).await.unwrap();
    client.cancel(&json!(501)).await.unwrap();
    eventually_some(PATIENCE, "the cancellation", async || house.server.cancelled().pop()).await;
    for call in calls {
        assert!(call.await.unwrap().unwrap().response().is_none());
    }
    house.under_way(0).await;
}

const TOOLSETS: &str = "toolsets:\n  full: { call_many: { max: 5, parallel: 2 } }\n  found: { mode: search, call_many: {} }\n  \
                        small: { mode: budget, call_many: {} }\n  without: {}\n";

async fn names(client: &McpClient) -> Vec<String> {
    let tools = client.list("tools/list", "tools").await.unwrap();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

fn calls(calls: &[(&str, Value)]) -> Value {
    let calls: Vec<_> = calls.iter().map(|(name, arguments)| json!({"name": name, "arguments": arguments})).collect();
    json!({ "calls": calls })
}

#[tokio::test]
async fn several_calls_have_one_answer_with_a_part_for_each() {
    for era in [Script::legacy(), Script::modern()] {
        let house = House::new(era, "long: { limit: 1/h }, put: { limit: 3/h }", TOOLSETS).await;
        for client in house.clients("/mcp/full").await {
            assert!(names(&client).await.contains(&"call_many".to_owned()));
            let arguments = calls(&[
                ("a__get", json!({"at": 0})),
                ("a__bad", json!({})),
                ("a__gone", json!({})),
                ("call_many", calls(&[("a__get", json!({}))])),
                ("a__get", json!({"at": 4})),
            ]);
            let answer = client.call("call_many", arguments).await.unwrap();
            let results = answer["structuredContent"]["results"].as_array().unwrap();
            let told: Vec<_> = results.iter().map(|one| one["name"].as_str().unwrap()).collect();
            assert_eq!(told, ["a__get", "a__bad", "a__gone", "call_many", "a__get"]);
            for at in [0, 4] {
                assert_eq!(results[at]["result"]["structuredContent"]["arguments"], json!({"at": at}), "{answer}");
            }
            assert_eq!(results[1]["result"]["isError"], true);
            assert!(results[2]["error"]["message"].as_str().unwrap().contains("FL-1201"), "{answer}");
            assert!(results[3]["error"]["message"].as_str().unwrap().contains("part of itself"), "{answer}");
            assert!(answer["isError"].is_null(), "not all have failed");
            let text: Value = serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap();
            assert_eq!(text, answer["structuredContent"]);

            // A server that asks is told that nobody can be asked; what is no list is refused.
            let answer = client.call("call_many", calls(&[("a__asks", json!({}))])).await.unwrap();
            assert!(!answer.to_string().contains("accept"), "{answer}");
            for wrong in
                [json!({}), json!({"calls": []}), json!({"calls": [{"x": 1}]}), calls(&vec![("a__get", json!({})); 6])]
            {
                let refused = client.call("call_many", wrong.clone()).await.unwrap();
                assert_eq!(refused["isError"], true, "{wrong}");
            }
        }
        // Limits are those of each call.
        let client = house.gateway.modern("/mcp/full");
        let answer = client.call("call_many", calls(&vec![("a__put", json!({})); 5])).await.unwrap();
        let results = answer["structuredContent"]["results"].as_array().unwrap();
        let made = results.iter().filter(|one| one["result"].is_object()).count();
        assert_eq!((made, house.count("put")), (3, 3), "{answer}");
        assert!(results.iter().filter(|one| one["error"].is_object()).all(|one| one.to_string().contains("FL-150")));
    }
}

#[tokio::test]
async fn it_is_where_a_toolset_has_it_and_nowhere_else() {
    let house = House::new(Script::dual(), "", TOOLSETS).await;
    for path in ["/mcp/full", "/mcp/found", "/mcp/small", "/mcp/without", "/mcp"] {
        for client in house.clients(path).await {
            let has = !matches!(path, "/mcp/without" | "/mcp");
            assert_eq!(names(&client).await.contains(&"call_many".to_owned()), has, "{path}");
            let members = calls(&[("a__get", json!({"x": 1}))]);
            let answer = client.request(CALL, json!({"name": "call_many", "arguments": members})).await.unwrap();
            let answer = answer.response().unwrap().clone();
            let got = &answer["result"]["structuredContent"]["results"][0]["result"]["structuredContent"]["arguments"];
            if has {
                assert_eq!(got, &json!({"x": 1}), "{path}: {answer}");
            } else {
                assert!(answer["error"].is_object(), "{path}: {answer}");
            }
        }
    }
    // Where tools are searched for, the two tools of that are calls like others.
    let client = house.gateway.modern("/mcp/found");
    let wrapped = json!({"name": "a__get", "arguments": {"y": 2}});
    let answer = client.call("call_many", calls(&[("find_tools", json!({"query": "get"})), ("call_tool", wrapped)]));
    let answer = answer.await.unwrap();
    let results = &answer["structuredContent"]["results"];
    assert!(results[0]["result"].to_string().contains("a__get"), "{answer}");
    assert_eq!(results[1]["result"]["structuredContent"]["arguments"], json!({"y": 2}), "{answer}");
}

#[tokio::test]
async fn no_more_are_under_way_than_may_be_and_cancelling_ends_them_all() {
    let house = House::new(Script::legacy(), "", TOOLSETS).await;
    let client = house.gateway.legacy("/mcp/full", NEWEST_LEGACY).await;
    let arguments = calls(&vec![("a__long", json!({})); 5]);
    let mut message = client.message(CALL, json!({"name": "call_many", "arguments": arguments}));
    message["id"] = json!(700);
    let sender = client.clone();
    let waiting = tokio::spawn(async move { sender.post(&message).await?.finish().await });
    eventually(PATIENCE, "two calls", || house.count("long") == 2).await;
    client.cancel(&json!(700)).await.unwrap();
    eventually(PATIENCE, "both cancellations", || house.server.cancelled().len() == 2).await;
    assert!(waiting.await.unwrap().unwrap().response().is_none());
    house.under_way(0).await;
    assert_eq!(house.count("long"), 2, "the others were not made");
}
