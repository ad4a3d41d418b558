//! What the operator says of single tools: how they are shown, what their arguments must be, what becomes of their
//! answers; and what goes along with a request.

use fairlead_testkit::{Finish, McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, rows};

/// Tools that answer what they were asked.
fn shop() -> Vec<ToolScript> {
    let schema = json!({
        "type": "object",
        "properties": {"tenant": {"type": "string"}, "id": {"type": "integer", "minimum": 1}},
        "required": ["tenant", "id"],
        "additionalProperties": false,
    });
    let find =
        json!({"description": "Finds.", "inputSchema": schema, "annotations": {"readOnlyHint": false, "x": 1.5}});
    vec![
        ToolScript::new("find").definition(find),
        ToolScript::new("drop").definition(json!({"description": "Drops."})),
        ToolScript::new("look").definition(json!({"title": "Look"})),
    ]
}

fn with(script: Script, tools: Vec<ToolScript>) -> Script {
    tools.into_iter().fold(script.tools(0), Script::tool)
}

/// A gateway in front of a server of each era with the same tools, `old` and `new`, and the same rules.
async fn house(tools: &dyn Fn() -> Vec<ToolScript>, rules: &str, rest: &str) -> (Gateway, [ScriptedServer; 2]) {
    let servers = [
        ScriptedServer::start(with(Script::legacy(), tools())).await,
        ScriptedServer::start(with(Script::modern(), tools())).await,
    ];
    let server = |name: &str, url: &str| {
        let indented = rules.replace('\n', "\n        ");
        format!("  {name}:\n    url: \"{url}\"\n    tools:\n      rules:\n        {indented}\n")
    };
    let (old, new) = (server("old", &servers[0].url()), server("new", &servers[1].url()));
    let gateway = Gateway::start(&format!("servers:\n{old}{new}{rest}")).await;
    for name in ["old", "new"] {
        rows::until_listed(&gateway, name).await;
    }
    (gateway, servers)
}

/// Clients of a path, one of each era.
async fn clients(gateway: &Gateway, path: &str) -> [McpClient; 2] {
    [gateway.legacy(path, NEWEST_LEGACY).await, gateway.modern(path)]
}

/// What a tool of these servers was called with.
fn arguments_of_last(server: &ScriptedServer) -> Value {
    let calls = server.received_method("tools/call");
    calls.last().map_or(Value::Null, |call| call.json()["params"].clone())
}

fn text_of(result: &Value) -> String {
    result["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

const OVERRIDES: &str = r#"find: { rename: search, title: Search, description: "Looks \"things\" up.", pin: { tenant: acme, "n": -2 }, annotations: { readOnlyHint: true } }
drop: { hide: true }
"*": { tags: [shop] }
"#;

const TOOLSETS: &str = r#"toolsets:
  desk:
    include: ["old__*"]
    tools:
      "old__search": { rename: lookup, description: "For the desk.", pin: { id: 7 } }
      "old__look": { tags: [seen] }
  tagged: { include_tags: [shop], exclude: ["new__*"] }
  none: { include_tags: [nothing] }
"#;

#[tokio::test]
async fn tools_are_shown_as_the_operator_says() {
    let (gateway, _servers) = house(&shop, OVERRIDES, TOOLSETS).await;
    let find = |name: &str, description: &str, arguments: &[&str]| {
        let mut properties = json!({"tenant": {"type": "string"}, "id": {"type": "integer", "minimum": 1}});
        properties.as_object_mut().expect("an object").retain(|key, _| arguments.contains(&key.as_str()));
        let mut tool = json!({
            "name": name, "title": "Search", "description": description,
            "inputSchema": {"type": "object", "properties": properties, "required": arguments, "additionalProperties": false},
            "annotations": {"readOnlyHint": true, "x": 1.5},
        });
        if arguments.is_empty() {
            tool["inputSchema"].as_object_mut().expect("an object").remove("required");
        }
        tool
    };
    let any = json!({"type": "object", "properties": {"text": {"type": "string"}}});
    let look =
        |name: &str| json!({"name": name, "title": "Look", "description": "Scripted tool look", "inputSchema": any});
    let here = "Looks \"things\" up.";
    for (path, expected) in [
        (
            "/mcp",
            json!([
                find("old__search", here, &["id"]),
                look("old__look"),
                find("new__search", here, &["id"]),
                look("new__look")
            ]),
        ),
        ("/mcp/desk", json!([find("lookup", "For the desk.", &[]), look("old__look")])),
        ("/mcp/tagged", json!([find("old__search", here, &["id"]), look("old__look")])),
        ("/mcp/none", json!([])),
        // The transparent view renames nothing; what is policy holds.
        (
            "/servers/new/mcp",
            json!([
                {
                    "name": "find", "description": "Finds.",
                    "inputSchema": {
                        "type": "object", "properties": {"id": {"type": "integer", "minimum": 1}},
                        "required": ["id"], "additionalProperties": false,
                    },
                    "annotations": {"readOnlyHint": false, "x": 1.5},
                },
                look("look")
            ]),
        ),
    ] {
        for client in clients(&gateway, path).await {
            let tools = Value::from(client.list("tools/list", "tools").await.unwrap());
            assert_eq!(tools, expected, "{path}");
        }
    }
}

#[tokio::test]
async fn calls_reach_the_tool_under_its_own_name_with_what_is_pinned() {
    let (gateway, [old, new]) = house(&shop, OVERRIDES, TOOLSETS).await;
    for (path, name, server, id) in [
        ("/mcp", "old__search", &old, 3),
        ("/mcp", "new__search", &new, 3),
        ("/mcp/desk", "lookup", &old, 7),
        ("/servers/old/mcp", "find", &old, 3),
        ("/servers/new/mcp", "find", &new, 3),
    ] {
        for client in clients(&gateway, path).await {
            let given = if path == "/mcp/desk" { json!({}) } else { json!({"id": id}) };
            let result = client.call(name, given).await.unwrap();
            assert!(result["isError"] != true, "{path} {name}: {result}");
            let called = arguments_of_last(server);
            assert_eq!(called["name"], "find", "{path}");
            assert_eq!(called["arguments"], json!({"tenant": "acme", "n": -2, "id": id}), "{path}");

            // What is pinned is not the client's to say.
            let before = server.received_method("tools/call").len();
            let refused = client.call(name, json!({"id": 3, "tenant": "other"})).await.unwrap();
            assert_eq!(refused["isError"], true, "{refused}");
            assert!(text_of(&refused).contains("/tenant") && text_of(&refused).contains("FL-1601"), "{refused}");
            assert!(!refused.to_string().contains("acme"), "{refused}");
            assert_eq!(server.received_method("tools/call").len(), before, "{path}");
        }
    }
    // Without arguments they are made.
    let client = gateway.modern("/mcp/desk");
    client.result("tools/call", json!({"name": "lookup"})).await.unwrap();
    assert_eq!(arguments_of_last(&old)["arguments"], json!({"tenant": "acme", "n": -2, "id": 7}));
}

#[tokio::test]
async fn hidden_tools_and_old_names_are_not_there() {
    let (gateway, [old, new]) = house(&shop, OVERRIDES, TOOLSETS).await;
    for (path, names) in [
        ("/mcp", &["old__drop", "new__drop", "old__find", "new__find"][..]),
        ("/mcp/desk", &["old__search", "old__find", "old__drop"]),
        ("/mcp/tagged", &["old__drop", "new__search"]),
        ("/servers/old/mcp", &["drop"]),
        ("/servers/new/mcp", &["drop"]),
    ] {
        for client in clients(&gateway, path).await {
            for name in names {
                let answer = client.request("tools/call", json!({"name": name, "arguments": {}})).await.unwrap();
                assert_eq!(answer.error()["code"], -32602, "{path} {name}");
            }
        }
    }
    assert!(old.received_method("tools/call").is_empty() && new.received_method("tools/call").is_empty());
}

#[tokio::test]
async fn a_chosen_name_is_kept_from_other_tools_and_brought_into_the_rules() {
    let tools = || ["a", "b", "c"].map(ToolScript::new).to_vec();
    let rules = "b: { rename: a }\nc: { rename: \"what a.name/*\" }\n";
    let (gateway, [old, _new]) = house(&tools, rules, "").await;
    let client = gateway.modern("/mcp");
    let listed = client.list("tools/list", "tools").await.unwrap();
    let names: Vec<_> = listed.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names[0], "old__a");
    assert!(names[1].starts_with("old__what_a_name_c_") && names.len() == 4, "{names:?}");
    client.call("old__a", json!({})).await.unwrap();
    assert_eq!(arguments_of_last(&old)["name"], "b");
    client.call(names[1], json!({})).await.unwrap();
    assert_eq!(arguments_of_last(&old)["name"], "c");
    // The one that lost its name is named among what is missing.
    let page = client.result("tools/list", json!({})).await.unwrap();
    let missing = page["_meta"]["fairlead/servers"]["old"]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(missing.contains("`old__a` is not exposed"), "{missing}");
}

#[tokio::test]
async fn arguments_are_checked_against_the_tools_schema_where_that_is_wished() {
    let (gateway, servers) = house(&shop, "find: { validate: true, pin: { tenant: acme } }\n", "").await;
    for (path, name, server) in [
        ("/mcp", "old__find", &servers[0]),
        ("/mcp", "new__find", &servers[1]),
        ("/servers/new/mcp", "find", &servers[1]),
    ] {
        let old = gateway.legacy(path, "2025-06-18").await;
        for client in clients(&gateway, path).await.into_iter().chain([old]) {
            let is_older = client.version().as_deref() == Some("2025-06-18");
            client.call(name, json!({"id": 1})).await.unwrap();
            let before = server.received_method("tools/call").len();
            for (arguments, place, says) in [
                (json!({"id": 0}), "/id", "minimum of 1"),
                (json!({"id": "hunter2"}), "/id", "integer"),
                (json!({}), "arguments", "\"id\" is a required property"),
                (json!({"id": 1, "colour": 2}), "arguments", "colour"),
            ] {
                let params = json!({"name": name, "arguments": arguments});
                let answer = client.request("tools/call", params).await.unwrap();
                let text = if is_older {
                    assert_eq!(answer.error()["code"], -32602);
                    assert!(answer.error()["data"]["problems"][0]["message"].is_string());
                    answer.error()["message"].as_str().unwrap_or_default().to_owned()
                } else {
                    let result = answer.result().unwrap();
                    assert_eq!(result["isError"], true, "{result}");
                    assert!(result["_meta"]["fairlead/invalid"]["problems"][0]["path"].is_string(), "{result}");
                    text_of(&result)
                };
                assert!(text.contains(place) && text.contains(says) && text.contains("FL-1601"), "{text}");
                assert!(!text.contains("hunter2") && !text.contains("acme"), "{text}");
            }
            assert_eq!(server.received_method("tools/call").len(), before, "the server heard of none");
            // Other tools take what they get.
            let other = name.replace("find", "look");
            client.call(&other, json!({"anything": [1]})).await.unwrap();
        }
    }
}

#[tokio::test]
async fn pinned_arguments_travel_in_headers_where_their_tool_wants_that() {
    let schema = json!({
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "id": {"type": "string", "x-mcp-header": "Id"}},
    });
    let tools = || {
        let definition = json!({"inputSchema": schema});
        vec![ToolScript::new("route").definition(definition).needs_header("mcp-param-region")]
    };
    let (gateway, [_, new]) = house(&tools, "route: { pin: { region: eu } }\n", "").await;
    let [legacy, modern] = clients(&gateway, "/mcp").await;
    let modern = modern.header("mcp-param-id", "a");
    for client in [legacy, modern] {
        client.call("new__route", json!({"id": "a"})).await.unwrap();
        let calls = new.received_method("tools/call");
        let call = calls.last().expect("a call");
        assert_eq!(call.header("mcp-param-region"), Some("eu"));
        assert_eq!(call.header("mcp-param-id"), Some("a"));
    }
}

/// An answer with something in it to take out, in text and in structure.
const ANSWER: &str = r#"{"content":[{"type":"text","text":"{\"user\":{\"mail\":\"ann@example.com\",\"age\":1.10},\"noise\":1}"},{"type":"text","text":"Mail ann@example.com!"}],"structuredContent":{"user":{"mail":"ann@example.com","age":1.10},"noise":1},"resultType":"complete"}"#;

#[tokio::test]
async fn answers_are_selected_and_redacted_also_at_the_end_of_a_stream() {
    let tools = || {
        vec![
            ToolScript::new("ask").definition(json!({"outputSchema": {"type": "object"}})).result(ANSWER),
            ToolScript::new("tell").progress(2, 1).result(ANSWER),
            ToolScript::new("plain").result(ANSWER),
        ]
    };
    let filter = "{ response: { select: [user], redact: ['\\w+@[\\w.]+'], mark: '(mail)' } }";
    let rules = format!("ask: {filter}\ntell: {filter}\n");
    let (gateway, _servers) = house(&tools, &rules, "").await;
    for (path, prefix) in [("/mcp", "old__"), ("/mcp", "new__"), ("/servers/old/mcp", ""), ("/servers/new/mcp", "")] {
        for client in clients(&gateway, path).await {
            for name in ["ask", "tell"] {
                let params = json!({"name": format!("{prefix}{name}"), "arguments": {}, "_meta": {"progressToken": 1}});
                let answer = client.request("tools/call", params).await.unwrap();
                if name == "tell" {
                    let told = answer.notifications("notifications/progress").len();
                    assert_eq!(told, 2, "{path} {name}");
                }
                let result = answer.result().unwrap();
                assert_eq!(text_of(&result), r#"{"user":{"mail":"(mail)","age":1.10}}"#, "{path} {name}");
                assert_eq!(result["content"][1]["text"], "Mail (mail)!");
                assert_eq!(result["structuredContent"], json!({"user": {"mail": "(mail)", "age": 1.1}}));
            }
            let plain = client.call(&format!("{prefix}plain"), json!({})).await.unwrap();
            assert_eq!(plain["structuredContent"]["user"]["mail"], "ann@example.com");
            let listed = client.list("tools/list", "tools").await.unwrap();
            assert!(listed.iter().all(|tool| tool["outputSchema"].is_null()), "what is filtered need not fit it");
        }
    }
}

#[tokio::test]
async fn a_url_to_be_opened_is_redacted_like_any_answer() {
    let tools = || vec![ToolScript::new("open").finish(Finish::UrlRequired { times: 100 })];
    let rules = "open: { response: { redact: ['a URL must'], mark: '(taken out)' } }\n";
    let (gateway, _servers) = house(&tools, rules, "").await;
    for client in clients(&gateway, "/mcp").await {
        let answer = client.request("tools/call", json!({"name": "old__open", "arguments": {}})).await.unwrap();
        let raw = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(raw.contains("(taken out) be opened first") && !raw.contains("a URL must"), "{raw}");
    }
}

#[tokio::test]
async fn a_long_answer_is_cut_and_the_rest_can_be_read_by_its_caller() {
    let long: String = (0..3000).map(|number| format!("line {number} ä\n")).collect();
    let result = json!({"content": [{"type": "text", "text": long}], "structuredContent": {"long": long}, "resultType": "complete"});
    let tools = || vec![ToolScript::new("read").result(&result.to_string())];
    let (gateway, _servers) =
        house(&tools, "read: { response: { max_bytes: 16KiB } }\n", "results: { max: 100 }\n").await;
    let promised = gateway.legacy("/mcp", NEWEST_LEGACY).await.initialized()["capabilities"]["resources"].clone();
    assert!(promised.is_object(), "resources are promised");
    for name in ["old", "new"] {
        let path = format!("/servers/{name}/mcp");
        let legacy = gateway.legacy(&path, NEWEST_LEGACY).await.initialized()["capabilities"].clone();
        let modern = gateway.modern(&path).result("server/discover", json!({})).await.unwrap()["capabilities"].clone();
        assert!(legacy["resources"].is_object() && modern["resources"].is_object(), "{name}: {legacy} {modern}");
    }
    for (path, name) in [("/mcp", "old__read"), ("/mcp", "new__read"), ("/servers/old/mcp", "read")] {
        for (client, stranger) in clients(&gateway, path).await.into_iter().zip(clients(&gateway, path).await) {
            let answer = client.call(name, json!({})).await.unwrap();
            assert!(answer["structuredContent"].is_null());
            assert!(answer.to_string().len() < 18 << 10, "{}", answer.to_string().len());
            let mut text = text_of(&answer);
            assert!(
                answer["content"][1]["text"].as_str().unwrap_or_default().contains("fairlead://result/"),
                "{answer}"
            );
            assert_eq!(answer["content"][2]["type"], "resource_link");
            let first = answer["_meta"]["fairlead/rest"].as_str().unwrap_or_default().to_owned();
            let mut uri = Some(first.clone());
            while let Some(next) = uri {
                let part = client.result("resources/read", json!({"uri": next})).await.unwrap();
                let piece = part["contents"][0]["text"].as_str().unwrap_or_default();
                assert!(piece.len() <= 16 << 10 && part["contents"][0]["uri"] == *next, "{}", piece.len());
                text.push_str(piece);
                uri = part["_meta"]["fairlead/next"].as_str().map(str::to_owned);
            }
            assert!(text == long, "{} of {} bytes", text.len(), long.len());
            let is_legacy = client.session().is_some();
            let gone = if is_legacy { -32002 } else { -32602 };
            let forged = format!("{}x", &first[..first.len() - 1]);
            for (client, uri) in [(&client, forged.as_str()), (&client, "fairlead://result/"), (&stranger, &first)] {
                let answer = client.request("resources/read", json!({"uri": uri})).await.unwrap();
                // Modern clients without credentials are one caller: the handle is all there is.
                if std::ptr::eq(client, &stranger) && !is_legacy {
                    assert!(answer.result().is_ok());
                    continue;
                }
                assert_eq!(answer.error()["code"], gone, "{uri}");
                assert!(answer.error()["message"].as_str().unwrap_or_default().contains("FL-1602"));
            }
        }
    }
}

#[tokio::test]
async fn a_request_id_and_a_trace_go_along_and_identities_do_not() {
    let (gateway, [old, new]) = house(&shop, "none: {}\n", "").await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (name, server) in [("old__look", &old), ("new__look", &new)] {
        for client in clients(&gateway, "/mcp").await {
            let client = client
                .header("x-request-id", "req-17")
                .header("traceparent", trace)
                .header("x-user-id", "root")
                .header("x-tenant-id", "all");
            let answer = client.request("tools/call", json!({"name": name, "arguments": {}})).await.unwrap();
            assert_eq!(answer.header("x-request-id"), Some("req-17"));
            let calls = server.received_method("tools/call");
            let call = calls.last().expect("a call");
            assert_eq!(call.header("x-request-id"), Some("req-17"));
            assert_eq!(call.header("traceparent"), Some(trace));
            assert_eq!((call.header("x-user-id"), call.header("x-tenant-id")), (None, None));
        }
    }
    let plain = gateway.modern("/mcp").request("tools/list", json!({})).await.unwrap();
    assert_eq!(plain.header("x-request-id"), None, "made only where that is configured");
    let url = old.url();
    let making =
        format!("correlation: {{ request_id: x-correlation-id, make: true }}\nservers:\n  old: {{ url: \"{url}\" }}\n");
    gateway.reload(&making).await;
    let answer = gateway.modern("/mcp").request("tools/call", json!({"name": "old__look"})).await.unwrap();
    let made = answer.header("x-correlation-id").unwrap_or_default().to_owned();
    assert_eq!(made.len(), 32, "{made}");
    let calls = old.received_method("tools/call");
    assert_eq!(calls.last().and_then(|call| call.header("x-correlation-id")), Some(&*made));
}

#[tokio::test]
async fn a_client_that_asks_is_told_what_became_of_its_call() {
    let (gateway, _servers) = house(&shop, "none: {}\n", "").await;
    for (name, server) in [("old__look", "old"), ("new__look", "new")] {
        for client in clients(&gateway, "/mcp").await {
            let plain = client.call(name, json!({})).await.unwrap();
            assert!(!plain["_meta"].to_string().contains("fairlead/"), "{plain}");
            let params = json!({"name": name, "arguments": {}, "_meta": {"fairlead/info": true}});
            let asked = client.request("tools/call", params).await.unwrap();
            let raw = String::from_utf8_lossy(&asked.body).into_owned();
            assert_eq!(raw.matches("\"_meta\"").count(), 1, "{raw}");
            let asked = asked.result().unwrap();
            let by_header = client.header("fairlead-info", "1").call(name, json!({})).await.unwrap();
            for told in [asked, by_header] {
                let meta = &told["_meta"];
                assert_eq!(meta["fairlead/server"], server, "{told}");
                assert_eq!(meta["fairlead/attempts"], 1);
                assert!(meta["fairlead/latency_ms"].is_u64());
            }
        }
    }
}
