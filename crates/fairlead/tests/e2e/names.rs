//! Names and URIs: stable, collision-free, and the same everywhere they occur.

use fairlead_testkit::{McpClient, Script, ScriptedServer, Step, ToolScript, Via};
use serde_json::{Value, json};

use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually, relaxed};

/// Names of tools, and whether they can be exposed unchanged behind `web__` with 48 characters.
fn originals() -> Vec<(String, bool)> {
    let mut names: Vec<(String, bool)> = [
        ("search", true),
        ("get_Item-2", true),
        ("_x", true),
        ("a__b", true),
        ("a.b", false),
        ("a/b", false),
        ("a b", false),
        ("größe", false),
        ("工具", false),
        ("=?base64?YQ==?=", false),
        ("quote\"and\\slash", false),
    ]
    .map(|(name, plain)| (name.to_owned(), plain))
    .to_vec();
    names.push(("c".repeat(43), true));
    names.push(("c".repeat(44), false));
    names.push((format!("{}1", "d".repeat(60)), false));
    names.push((format!("{}2", "d".repeat(60)), false));
    names
}

fn script(script: Script) -> Script {
    originals().into_iter().fold(script.tools(0), |script, (name, _)| script.tool(ToolScript::new(&name)))
}

async fn names(client: &McpClient) -> Vec<String> {
    let tools = client.list("tools/list", "tools").await.unwrap();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_name_is_exposed_by_the_rule_and_leads_back_to_its_original() {
    let web = ScriptedServer::start(script(Script::legacy())).await;
    let now = ScriptedServer::start(script(Script::modern())).await;
    let child = StdioServer::new(script(Script::legacy()));
    let gateway = Gateway::start(&format!(
        "servers:\n  web: {{ url: \"{}\" }}\n  now: {{ url: \"{}\" }}\n  child: {{ {} }}\n",
        web.url(),
        now.url(),
        child.yaml()
    ))
    .await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        let all = names(&client).await;
        for server in ["web", "now", "child"] {
            let prefix = format!("{server}__");
            let exposed: Vec<_> = all.iter().filter(|name| name.starts_with(&prefix)).collect();
            let originals = originals();
            assert_eq!(exposed.len(), originals.len(), "{exposed:?}");
            let mut unique = exposed.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), originals.len());
            for ((original, plain), exposed) in originals.iter().zip(exposed) {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
                assert!(exposed.len() <= 48 && exposed.bytes().all(fits), "{exposed}");
                let unchanged = *plain && prefix.len() + original.len() <= 48;
                assert_eq!(*exposed == format!("{prefix}{original}"), unchanged, "{exposed} for {original}");
                if !unchanged {
                    let tail = exposed.rsplit('_').next().unwrap();
                    assert!(tail.len() == 8 && !original.ends_with(tail), "a hash at the end: {exposed}");
                }
                let result = client.call(exposed, json!({})).await.unwrap();
                assert_eq!(result["structuredContent"]["tool"], **original, "{exposed}");
            }
        }
    }
    // A modern server is told in the header too, where names that are no header are encoded.
    for call in now.received_method("tools/call") {
        let header = call.header("mcp-name").unwrap().to_owned();
        let name = call.json()["params"]["name"].as_str().unwrap().to_owned();
        let plain = name.is_ascii() && !name.starts_with("=?") && name.trim() == name;
        assert_eq!(header == name, plain, "{header} for {name}");
        assert!(plain || (header.starts_with("=?base64?") && header.ends_with("?=")), "{header} for {name}");
    }
}

#[tokio::test]
async fn names_do_not_depend_on_what_else_is_running() {
    let server = ScriptedServer::start(script(Script::legacy())).await;
    let other = ScriptedServer::start(script(Script::legacy())).await;
    let one = format!("  one: {{ url: \"{}\" }}\n", server.url());
    let two = format!("  a-two: {{ url: \"{}\" }}\n", other.url());
    let gateway = Gateway::start(&format!("servers:\n{one}")).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let before = names(&client).await;
    for yaml in [format!("servers:\n{two}{one}"), format!("servers:\n{one}{two}"), format!("servers:\n{one}")] {
        gateway.reload(&yaml).await;
        let ours: Vec<_> = names(&client).await.into_iter().filter(|name| name.starts_with("one__")).collect();
        assert_eq!(ours, before, "{yaml}");
    }
}

#[tokio::test]
async fn the_longest_name_is_configured_and_prefixes_can_be_switched_off() {
    let server = ScriptedServer::start(script(Script::legacy().resources_and_prompts(0, 2))).await;
    let yaml = |max: usize, prefix: bool| {
        format!("names: {{ max: {max} }}\nservers:\n  web: {{ url: \"{}\", prefix: {prefix} }}\n", server.url())
    };
    let gateway = Gateway::start(&yaml(128, true)).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    assert!(names(&client).await.contains(&format!("web__{}1", "d".repeat(60))));
    let wide = Gateway::start(&yaml(36, true)).await;
    let client = wide.legacy("/mcp", NEWEST_LEGACY).await;
    assert!(names(&client).await.iter().all(|name| name.len() <= 36));
    let bare = Gateway::start(&yaml(48, false)).await;
    let client = bare.legacy("/mcp", NEWEST_LEGACY).await;
    let expected: Vec<_> = originals().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names(&client).await, expected);
    for name in &expected {
        let result = client.call(name, json!({})).await.unwrap();
        assert_eq!(result["structuredContent"]["tool"], **name);
    }
    let prompts = client.list("prompts/list", "prompts").await.unwrap();
    assert_eq!(prompts[1]["name"], "prompt_1");
    assert!(client.result("prompts/get", json!({"name": "prompt_1"})).await.is_ok());
}

#[tokio::test]
async fn a_toolset_shows_and_serves_what_it_selects() {
    let crm = ScriptedServer::start(Script::legacy().tools(12).resources_and_prompts(0, 2)).await;
    let files = ScriptedServer::start(Script::modern().tools(3)).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  crm: {{ url: \"{}\" }}\n  files: {{ url: \"{}\" }}\ntoolsets:\n  support: {{ include: [\"crm__tool_1*\", \"files__*\"], exclude: [\"files__tool_2\"] }}\n  rest: {{ exclude: [\"crm__*\"] }}\n",
        crm.url(),
        files.url()
    ))
    .await;
    for (path, expected) in [
        ("/mcp/support", vec!["crm__tool_1", "crm__tool_10", "crm__tool_11", "files__tool_0", "files__tool_1"]),
        ("/mcp/rest", vec!["files__tool_0", "files__tool_1", "files__tool_2"]),
    ] {
        for client in [gateway.legacy(path, NEWEST_LEGACY).await, gateway.modern(path)] {
            assert_eq!(names(&client).await, expected, "{path}");
            for name in &expected {
                assert!(client.call(name, json!({})).await.is_ok(), "{path} {name}");
            }
            // What is there but not selected looks like what is not there.
            let hidden = client.request("tools/call", json!({"name": "crm__tool_0"})).await.unwrap().error();
            let absent = client.request("tools/call", json!({"name": "crm__tool_x"})).await.unwrap().error();
            assert_eq!(hidden["code"], -32602, "{hidden}");
            assert_eq!(hidden.to_string().replace("tool_0", "tool_x"), absent.to_string());
            for (method, params) in [
                ("prompts/get", json!({"name": "crm__prompt_0"})),
                (
                    "completion/complete",
                    json!({"ref": {"type": "ref/prompt", "name": "crm__prompt_0"}, "argument": {"name": "a", "value": ""}}),
                ),
            ] {
                assert_eq!(client.request(method, params).await.unwrap().error()["code"], -32602, "{path} {method}");
            }
            assert!(client.list("prompts/list", "prompts").await.unwrap().is_empty(), "{path}");
        }
    }
    assert_eq!(crm.received_method("prompts/get").len(), 0);
}

#[tokio::test]
async fn a_servers_filter_holds_in_lists_and_calls_on_every_path() {
    let server = ScriptedServer::start(Script::legacy().tools(12)).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  a: {{ url: \"{}\", tools: {{ allow: [\"tool_1*\"], deny: [\"tool_11\"] }} }}\n",
        server.url()
    ))
    .await;
    for (path, prefix) in [("/mcp", "a__"), ("/servers/a/mcp", "")] {
        for client in [gateway.legacy(path, NEWEST_LEGACY).await, gateway.modern(path)] {
            assert_eq!(names(&client).await, [format!("{prefix}tool_1"), format!("{prefix}tool_10")], "{path}");
            assert!(client.call(&format!("{prefix}tool_10"), json!({})).await.is_ok());
            for name in ["tool_0", "tool_11"] {
                let refused = client.request("tools/call", json!({"name": format!("{prefix}{name}")})).await.unwrap();
                assert_eq!(refused.error()["code"], -32602, "{path} {name}");
            }
        }
    }
    let called = server.received_method("tools/call");
    assert!(called.iter().all(|call| call.json()["params"]["name"] == "tool_10"), "{called:?}");
}

#[tokio::test]
async fn a_server_that_lists_a_name_twice_has_it_once() {
    let twice = r#"{"tools":[{"name":"a","inputSchema":{"type":"object"},"n":1},{"name":"a","inputSchema":{"type":"object"},"n":2},{"name":"b","inputSchema":{"type":"object"}}]}"#;
    let server = ScriptedServer::start(Script::legacy().result("tools/list", twice)).await;
    let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url())).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    assert_eq!(names(&client).await, ["a__a", "a__b"]);
}

/// A server whose answers carry URIs wherever the protocol has them.
fn full_of_uris() -> Script {
    let uri = "test://resource/0";
    let everywhere = json!({
        "content": [
            {"type": "resource_link", "uri": uri, "name": "link"},
            {"type": "resource", "resource": {"uri": uri, "text": "embedded", "_meta": {"ui": {"resourceUri": uri}}}},
            {"type": "text", "text": format!("not rewritten: {uri}")},
        ],
        "structuredContent": {"uri": uri},
    });
    let ui = json!({"_meta": {"ui": {"resourceUri": "ui://widget"}, "own": 1}});
    Script::legacy()
        .tools(0)
        .resources_and_prompts(2, 1)
        .tool(ToolScript::new("links").definition(ui).result(&everywhere.to_string()))
        .tool(ToolScript::new("updates").step(Step::Notify {
            method: "notifications/resources/updated".to_owned(),
            params: json!({"uri": uri}),
            via: Via::Get,
        }))
        .result(
            "prompts/get",
            &json!({"messages": [
                {"role": "user", "content": {"type": "resource", "resource": {"uri": uri, "text": "x"}}},
                {"role": "user", "content": {"type": "resource_link", "uri": uri, "name": "y"}},
            ]})
            .to_string(),
        )
}

#[tokio::test]
async fn where_uris_clash_the_first_server_keeps_them_and_it_is_said() {
    let one = ScriptedServer::start(Script::legacy().resources_and_prompts(1, 0)).await;
    let two = ScriptedServer::start(Script::modern().resources_and_prompts(3, 0)).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  one: {{ url: \"{}\" }}\n  two: {{ url: \"{}\" }}\n",
        one.url(),
        two.url()
    ))
    .await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        let result = client.result("resources/list", json!({})).await.unwrap();
        let uris: Vec<_> = result["resources"].as_array().unwrap().iter().map(|item| item["uri"].clone()).collect();
        assert_eq!(uris, ["test://resource/0", "test://resource/1", "test://resource/2"]);
        let missing = result["_meta"]["fairlead/servers"].to_string();
        assert!(missing.contains("two") && missing.contains("resources: prefix"), "{missing}");
        let before = (one.received_method("resources/read").len(), two.received_method("resources/read").len());
        client.result("resources/read", json!({"uri": "test://resource/0"})).await.unwrap();
        client.result("resources/read", json!({"uri": "test://resource/2"})).await.unwrap();
        let after = (one.received_method("resources/read").len(), two.received_method("resources/read").len());
        assert_eq!(after, (before.0 + 1, before.1 + 1));
    }
}

#[tokio::test]
async fn prefixed_uris_are_prefixed_wherever_they_occur() {
    let first = ScriptedServer::start(Script::legacy().resources_and_prompts(2, 0)).await;
    let web = ScriptedServer::start(full_of_uris()).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  first: {{ url: \"{}\" }}\n  web: {{ url: \"{}\", resources: prefix }}\n",
        first.url(),
        web.url()
    ))
    .await;
    let exposed = "fairlead+web:test://resource/0";
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        let listed = client.list("resources/list", "resources").await.unwrap();
        let uris: Vec<_> = listed.iter().map(|item| item["uri"].as_str().unwrap()).collect();
        assert_eq!(uris, ["test://resource/0", "test://resource/1", exposed, "fairlead+web:test://resource/1"]);
        let templates = client.list("resources/templates/list", "resourceTemplates").await.unwrap();
        assert_eq!(templates[1]["uriTemplate"], "fairlead+web:test://resource/{number}");
        let tools = client.list("tools/list", "tools").await.unwrap();
        let links = tools.iter().find(|tool| tool["name"] == "web__links").unwrap();
        assert_eq!(links["_meta"]["ui"]["resourceUri"], "fairlead+web:ui://widget", "{links}");
        assert_eq!(links["_meta"]["own"], 1);

        let read = client.result("resources/read", json!({"uri": exposed})).await.unwrap();
        assert_eq!(read["contents"][0]["uri"], exposed);
        assert_eq!(
            read["contents"][0]["text"], "content of test://resource/0",
            "the server was asked under its own URI"
        );
        // Unlisted, by its template.
        let read = client.request("resources/read", json!({"uri": "fairlead+web:test://resource/7"})).await.unwrap();
        assert!(
            read.error()["message"].as_str().unwrap().contains("no such resource"),
            "the server was asked: {}",
            read.error()
        );

        let result = client.call("web__links", json!({})).await.unwrap();
        assert_eq!(result["content"][0]["uri"], exposed, "{result}");
        assert_eq!(result["content"][1]["resource"]["uri"], exposed, "{result}");
        assert_eq!(result["content"][1]["resource"]["_meta"]["ui"]["resourceUri"], exposed, "{result}");
        assert_eq!(result["content"][2]["text"], "not rewritten: test://resource/0", "{result}");
        let prompt = client.result("prompts/get", json!({"name": "web__prompt_0"})).await.unwrap();
        assert_eq!(prompt["messages"][0]["content"]["resource"]["uri"], exposed, "{prompt}");
        assert_eq!(prompt["messages"][1]["content"]["uri"], exposed, "{prompt}");
        let complete = json!({
            "ref": {"type": "ref/resource", "uri": "fairlead+web:test://resource/{number}"},
            "argument": {"name": "number", "value": "4"},
        });
        assert_eq!(client.result("completion/complete", complete).await.unwrap()["completion"]["values"][0], "41");
        let asked = web.received_method("completion/complete");
        assert_eq!(asked.last().unwrap().json()["params"]["ref"]["uri"], "test://resource/{number}");
    }
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let mut stream = client.open_get(None).await.unwrap();
    client.result("resources/subscribe", json!({"uri": exposed})).await.unwrap();
    let subscribed = web.received_method("resources/subscribe");
    assert_eq!(subscribed.last().unwrap().json()["params"]["uri"], "test://resource/0");
    client.call("web__updates", json!({})).await.unwrap();
    let told = stream.next_method("notifications/resources/updated", relaxed(2 * SECOND)).await.unwrap();
    assert_eq!(told["params"]["uri"], exposed);
    client.result("resources/unsubscribe", json!({"uri": exposed})).await.unwrap();
    let left = || web.received_method("resources/unsubscribe").len() == 1;
    eventually(PATIENCE, "the end of the subscription", left).await;

    // Nothing is renamed where the server stands alone.
    let alone = gateway.legacy("/servers/web/mcp", NEWEST_LEGACY).await;
    let listed = alone.list("resources/list", "resources").await.unwrap();
    assert_eq!(listed[0]["uri"], "test://resource/0");
    assert_eq!(alone.call("links", json!({})).await.unwrap()["content"][0]["uri"], "test://resource/0");
    let tools: Vec<Value> = alone.list("tools/list", "tools").await.unwrap();
    assert_eq!(tools[0]["_meta"]["ui"]["resourceUri"], "ui://widget");
}
