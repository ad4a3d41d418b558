//! Toolsets that save context: tools that are searched for and called through one, lists that keep to a budget.

use fairlead_testkit::{McpClient, Question, Reply, Script, ScriptedServer, ToolScript, Via};
use serde_json::{Value, json};

use crate::support::{Gateway, MODERN, NEWEST_LEGACY, PATIENCE, eventually_some, get};

const TOOLSETS: &str = "toolsets:\n  find: { include: ['web__*', 'now__*'], exclude: ['*__secret'], mode: search }\n  \
                        small: { mode: budget, budget: 600 }\n  tiny: { include: ['now__*', '*'], mode: budget, budget: 250 }\n";

fn tool(name: &str, what: &str) -> ToolScript {
    let long = "There is more to be said about it, and it is said here at some length. ".repeat(6);
    ToolScript::new(name).definition(json!({
        "description": format!("{what} {long}"),
        "inputSchema": {"type": "object", "properties": {
            "customer": {"type": "string", "description": format!("The customer's number. {long}")},
        }},
    }))
}

fn script(script: Script) -> Script {
    script
        .tools(0)
        .tool(tool("open_ticket", "Opens a support ticket for a customer."))
        .tool(tool("list_invoices", "Lists the invoices of a customer."))
        .tool(tool("works", "Works for a while.").progress(3, 10))
        .tool(tool("waits", "Waits for long.").sleep(60_000))
        .tool(tool("asks", "Asks the user for a name.").ask(Question::Elicitation, Via::Call))
        .tool(tool("secret", "Reads the secret of a customer."))
}

struct House {
    gateway: Gateway,
    web: ScriptedServer,
    now: ScriptedServer,
}

impl House {
    async fn new() -> Self {
        let web = ScriptedServer::start(script(Script::legacy())).await;
        let now = ScriptedServer::start(script(Script::modern())).await;
        let gateway = Gateway::start(&format!(
            "servers:\n  web: {{ url: \"{}\" }}\n  now: {{ url: \"{}\" }}\n{TOOLSETS}",
            web.url(),
            now.url()
        ))
        .await;
        Self { gateway, web, now }
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

    fn server(&self, name: &str) -> &ScriptedServer {
        if name == "web" { &self.web } else { &self.now }
    }
}

async fn names(client: &McpClient) -> Vec<String> {
    let tools = client.list("tools/list", "tools").await.unwrap();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

async fn find(client: &McpClient, arguments: Value) -> Value {
    let result = client.call("find_tools", arguments).await.unwrap();
    assert!(result["isError"].is_null(), "{result}");
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
}

fn inner(name: &str, arguments: &Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

#[tokio::test]
async fn tools_are_found_and_called_in_both_eras() {
    let house = House::new().await;
    for client in house.clients("/mcp/find").await {
        assert_eq!(names(&client).await, ["find_tools", "call_tool"]);
        let found = find(&client, json!({"query": "create a ticket", "limit": 2})).await;
        let tools = found["tools"].as_array().unwrap();
        assert_eq!((&tools[0]["name"], &tools[1]["name"]), (&json!("web__open_ticket"), &json!("now__open_ticket")));
        assert_eq!(tools[0]["inputSchema"]["properties"]["customer"]["type"], "string");
        let found = find(&client, json!({"query": "invoices", "server": "now"})).await;
        assert_eq!(
            (&found["tools"][0]["name"], found["tools"].as_array().unwrap().len()),
            (&json!("now__list_invoices"), 1)
        );
        // What the toolset leaves out is not found, by whatever name.
        let found = find(&client, json!({"query": "secret", "names": ["web__secret", "now__works"]})).await;
        assert_eq!((&found["tools"][0]["name"], &found["unknown"][0]), (&json!("now__works"), &json!("web__secret")));
        for server in ["web", "now"] {
            let arguments = json!({"customer": "7", "n": 1.5});
            let result = client.call("call_tool", inner(&format!("{server}__open_ticket"), &arguments)).await.unwrap();
            assert_eq!(result["structuredContent"]["tool"], "open_ticket", "{result}");
            assert_eq!(result["structuredContent"]["arguments"], arguments);
            let sent = house.server(server).received_method("tools/call").pop().unwrap().json();
            assert_eq!((&sent["params"]["name"], &sent["params"]["arguments"]), (&json!("open_ticket"), &arguments));
            // What was found can also be called by its name.
            assert!(client.call(&format!("{server}__works"), json!({})).await.is_ok());
        }
    }
    let call = house.now.received_method("tools/call").pop().unwrap();
    assert_eq!(call.header("mcp-name"), Some("works"));
}

#[tokio::test]
async fn what_goes_wrong_goes_wrong_as_with_a_direct_call() {
    let house = House::new().await;
    for client in house.clients("/mcp/find").await {
        for name in ["web__secret", "web__gone", "call_tool", "other__x"] {
            let answer = client.request("tools/call", inner("call_tool", &inner(name, &json!({})))).await.unwrap();
            let direct = client.request("tools/call", inner(name, &json!({}))).await.unwrap();
            assert_eq!(answer.error()["code"], -32602, "{name}: {:?}", answer.response());
            if name != "call_tool" {
                assert_eq!(answer.error(), direct.error());
            }
        }
        for (tool, arguments) in [
            ("call_tool", json!({})),
            ("call_tool", json!({"name": 7})),
            ("call_tool", json!({"name": "web__works", "arguments": []})),
            ("find_tools", json!({})),
            ("find_tools", json!({"query": ["x"]})),
        ] {
            let result = client.call(tool, arguments.clone()).await.unwrap();
            assert_eq!(result["isError"], true, "{tool} {arguments}: {result}");
        }
    }
    assert_eq!(house.web.received_method("tools/call").len() + house.now.received_method("tools/call").len(), 0);
    // Elsewhere the two names mean nothing.
    assert!(house.gateway.modern("/mcp").call("find_tools", json!({"query": "x"})).await.is_err());
}

#[tokio::test]
async fn progress_questions_and_cancellation_pass_through() {
    let house = House::new().await;
    for client in house.clients("/mcp/find").await {
        for server in ["web", "now"] {
            let mut params = inner("call_tool", &inner(&format!("{server}__works"), &json!({})));
            params["_meta"] = json!({"progressToken": "mine"});
            let answer = client.request("tools/call", params).await.unwrap();
            let progress = answer.notifications("notifications/progress");
            assert_eq!(progress.len(), 3, "{server}: {progress:?}");
            assert!(progress.iter().all(|report| report["params"]["progressToken"] == "mine"));
            answer.result().unwrap();
        }
        // A modern client comes back with its answer to what a legacy server asked.
        let result = client.call("call_tool", inner("web__asks", &json!({}))).await.unwrap();
        assert!(result.to_string().contains("ann"), "{result}");
    }
    let [legacy, _] = house.clients("/mcp/find").await;
    let mut message = legacy.message("tools/call", inner("call_tool", &inner("web__waits", &json!({"who": "me"}))));
    message["id"] = json!(500);
    let sender = legacy.clone();
    let waiting = tokio::spawn(async move { sender.post(&message).await?.finish().await });
    let arrived = async || {
        house
            .web
            .received_method("tools/call")
            .iter()
            .find(|call| call.json()["params"]["arguments"]["who"] == "me")
            .map(drop)
    };
    eventually_some(PATIENCE, "the call", arrived).await;
    assert_eq!(legacy.cancel(&json!(500)).await.unwrap().status, 202);
    eventually_some(PATIENCE, "the cancellation", async || house.web.cancelled().pop()).await;
    assert!(waiting.await.unwrap().unwrap().response().is_none());
}

#[tokio::test]
async fn a_new_tool_is_found_when_its_server_says_so() {
    let house = House::new().await;
    for client in house.clients("/mcp/find").await {
        assert_eq!(find(&client, json!({"query": "teleport"})).await["tools"], json!([]));
    }
    house.now.change(|script| *script = std::mem::take(script).tool(tool("teleport", "Teleports a customer.")));
    let [legacy, modern] = house.clients("/mcp/find").await;
    for client in [legacy, modern] {
        let found = eventually_some(PATIENCE, "the new tool", async || {
            house.now.change_list().await;
            find(&client, json!({"query": "teleport"})).await["tools"].as_array()?.first().cloned()
        });
        assert_eq!(found.await["name"], "now__teleport");
        let tools = client.list("tools/list", "tools").await.unwrap();
        let description = tools[0]["description"].as_str().unwrap();
        // Every change of the scripted list adds a tool of its own.
        assert!(description.contains("web (5), now (") && !description.contains("now (5)"), "{description}");
    }
}

#[tokio::test]
async fn a_list_keeps_to_its_budget_and_says_what_it_left_out() {
    let house = House::new().await;
    for client in house.clients("/mcp/small").await {
        let result = client.result("tools/list", json!({})).await.unwrap();
        let budget = &result["_meta"]["fairlead/budget"];
        assert_eq!((&budget["tokens"], &budget["dropped"]), (&json!(600), &json!(0)), "{result}");
        assert!(budget["used"].as_u64().unwrap() <= 600 && result["tools"].as_array().unwrap().len() == 12, "{budget}");
        assert_eq!(result["tools"][0]["inputSchema"]["properties"]["customer"]["type"], "string");
    }
    for client in house.clients("/mcp/tiny").await {
        let result = client.result("tools/list", json!({})).await.unwrap();
        let tools = result["tools"].as_array().unwrap();
        let budget = &result["_meta"]["fairlead/budget"];
        let dropped = budget["dropped_names"].as_array().unwrap();
        assert_eq!((tools.len() + dropped.len(), &budget["dropped"]), (12, &json!(dropped.len())), "{result}");
        // The first pattern's tools are kept before others.
        assert!(
            !dropped.is_empty() && dropped.iter().all(|name| name.as_str().unwrap().starts_with("web__")),
            "{result}"
        );
        // Not listed, but of the toolset.
        assert!(client.call(dropped[0].as_str().unwrap(), json!({})).await.is_ok());
    }
    let output = house.gateway.cli(&["explain", "web__secret"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for said in ["`find` leaves it out", "`small` has it, without", "`tiny` has it, but does not list it"] {
        assert!(text.contains(said), "{text}");
    }
    let output = house.gateway.cli(&["explain", "now__works"]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("`find_tools` finds it"), "{output:?}");
}

#[tokio::test]
async fn what_a_listing_costs_is_shown() {
    let house = House::new().await;
    house.gateway.modern("/mcp").list("tools/list", "tools").await.unwrap();
    let output = house.gateway.cli(&["servers", "--json"]).await;
    let servers: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (bytes, tokens) = (servers[0]["bytes"].as_u64().unwrap(), servers[0]["tokens"].as_u64().unwrap());
    assert!(bytes > 5_000 && (bytes / 8..bytes / 3).contains(&tokens), "{servers}");
    let output = house.gateway.cli(&["tools", "--json"]).await;
    let tools: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of_web = tools.as_array().unwrap().iter().filter(|tool| tool["server"] == "web");
    assert_eq!(of_web.map(|tool| tool["tokens"].as_u64().unwrap()).sum::<u64>(), tokens, "{tools}");
    let (_, metrics) = get(&house.gateway.admin_url("/metrics")).await;
    assert!(
        metrics.contains(&format!("fairlead_listing_tokens{{mcp_server=\"web\",list=\"tools\"}} {tokens}")),
        "{metrics}"
    );
}
