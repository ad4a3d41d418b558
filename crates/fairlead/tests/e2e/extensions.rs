//! What not every client or server knows: apps, skills, and content that came with later revisions.

use fairlead_testkit::{McpClient, Script, ScriptedServer};
use serde_json::{Value, json};

use crate::support::{Gateway, LEGACY, NEWEST_LEGACY};

fn tool(name: &str, meta: &Value) -> Value {
    json!({"name": name, "inputSchema": {"type": "object"}, "_meta": meta})
}

/// A server with a clock that has an app: one tool for everybody, one for the app alone.
fn clock(script: Script, uri: &str) -> Script {
    let tools = json!({"tools": [
        tool("show", &json!({"ui": {"resourceUri": uri, "visibility": ["model", "app"]}})),
        tool("tick", &json!({"ui": {"visibility": ["app"]}})),
        tool("plain", &json!({})),
    ], "resultType": "complete", "ttlMs": 1, "cacheScope": "private"});
    let read = json!({"contents": [{"uri": uri, "mimeType": "text/html;profile=mcp-app", "text": "<p>", "_meta": {"ui": {"csp": {}}}}],
        "resultType": "complete", "ttlMs": 1, "cacheScope": "private"});
    let capabilities = json!({"tools": {"listChanged": true}, "resources": {},
        "extensions": {"io.modelcontextprotocol/ui": {}}});
    let mut script = script
        .result("tools/list", &tools.to_string())
        .result("tools/call", r#"{"content":[],"resultType":"complete"}"#)
        .result("resources/read", &read.to_string());
    script.capabilities = Some(capabilities);
    script
}

async fn names(client: &McpClient) -> Vec<String> {
    let tools = client.list("tools/list", "tools").await.unwrap();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_app_stays_with_its_own_server() {
    let one = ScriptedServer::start(clock(Script::modern(), "ui://clock/face")).await;
    let two = ScriptedServer::start(clock(Script::legacy(), "ui://clock/face")).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  one: {{ url: \"{}\" }}\n  two: {{ url: \"{}\", resources: prefix }}\n",
        one.url(),
        two.url()
    ))
    .await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        assert_eq!(names(&client).await, ["one__show", "one__plain", "two__show", "two__plain"]);
        let tools = client.list("tools/list", "tools").await.unwrap();
        let uri = |at: usize| tools[at]["_meta"]["ui"]["resourceUri"].as_str().unwrap().to_owned();
        assert_eq!([uri(0), uri(2)], ["ui://clock/face", "fairlead+two:ui://clock/face"]);
        for (at, server) in [(0, &one), (2, &two)] {
            let before = server.received_method("resources/read").len();
            let read = client.result("resources/read", json!({"uri": uri(at)})).await.unwrap();
            assert_eq!(read["contents"][0]["uri"], *uri(at), "{read}");
            assert_eq!(server.received_method("resources/read").len(), before + 1);
        }
        // What is for apps alone is nobody's here: which app calls cannot be told.
        for name in ["tick", "one__tick"] {
            assert!(client.call(name, json!({})).await.is_err(), "{name}");
        }
        // A name that two servers with apps have is ambiguous.
        assert!(client.call("plain", json!({})).await.is_err());
    }
    // In the transparent view everything is there.
    for client in [gateway.legacy("/servers/one/mcp", NEWEST_LEGACY).await, gateway.modern("/servers/one/mcp")] {
        assert_eq!(names(&client).await, ["show", "tick", "plain"]);
        assert!(client.call("tick", json!({})).await.is_ok());
    }
    assert!(one.received_method("tools/call").len() == 2 && two.received_method("tools/call").is_empty());
}

#[tokio::test]
async fn an_app_calls_its_servers_tools_by_their_own_names() {
    let one = ScriptedServer::start(clock(Script::modern(), "ui://clock/face")).await;
    let other = ScriptedServer::start(Script::legacy()).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  other: {{ url: \"{}\" }}\n  one: {{ url: \"{}\" }}\n",
        other.url(),
        one.url()
    ))
    .await;
    let client = gateway.modern("/mcp");
    assert!(client.call("plain", json!({})).await.is_ok());
    assert_eq!(one.received_method("tools/call").len(), 1);
    // A server without apps lends nothing.
    assert!(client.call("tool_0", json!({})).await.is_err());
}

fn skill(uri: &str) -> Value {
    let name = uri.trim_end_matches("/SKILL.md").rsplit('/').next().unwrap();
    json!({"uri": uri, "frontmatter": {"name": name, "description": "d", "vendor": 1},
        "resources": [{"uri": uri, "digest": "sha256:00", "size": 1}]})
}

fn skilled(script: Script, uris: &[&str], directories: bool) -> Script {
    let complete = |mut result: Value| {
        result["resultType"] = "complete".into();
        result["ttlMs"] = 1.into();
        result["cacheScope"] = "public".into();
        result.to_string()
    };
    let skills: Vec<_> = uris.iter().map(|uri| skill(uri)).collect();
    let file = uris[0].replace("SKILL.md", "a.md");
    let mut script = script
        .result("skills/list", &complete(json!({"skills": skills})))
        .result("skills/get", &complete(json!({"skill": skill(uris[0])})))
        .result("resources/directory/read", &complete(json!({"resources": [{"uri": file, "name": "a.md"}]})))
        .result("resources/read", &complete(json!({"contents": [{"uri": file, "text": "x"}]})));
    script.capabilities = Some(json!({"resources": {}, "tools": {},
        "extensions": {"io.modelcontextprotocol/skills": if directories { json!({"directoryRead": true}) } else { json!({}) }}}));
    script
}

#[tokio::test]
async fn skills_of_all_servers_are_one_list_and_each_is_read_from_its_own() {
    let one = ScriptedServer::start(skilled(Script::modern(), &["skill://acme/refunds/SKILL.md"], false)).await;
    let two = ScriptedServer::start(skilled(
        Script::dual(),
        &["skill://git/SKILL.md", "skill://acme/refunds/SKILL.md"],
        true,
    ))
    .await;
    let apart = ScriptedServer::start(skilled(Script::modern(), &["skill://git/SKILL.md"], true)).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  one: {{ url: \"{}\" }}\n  two: {{ url: \"{}\" }}\n  apart: {{ url: \"{}\", resources: prefix }}\n",
        one.url(),
        two.url(),
        apart.url()
    ))
    .await;
    let client = gateway.modern("/mcp");
    let discovered = client.result("server/discover", json!({})).await.unwrap();
    let settings = &discovered["capabilities"]["extensions"]["io.modelcontextprotocol/skills"];
    assert_eq!(*settings, json!({"directoryRead": true}), "{discovered}");
    let listed = client.result("skills/list", json!({})).await.unwrap();
    let uris: Vec<_> =
        listed["skills"].as_array().unwrap().iter().map(|skill| skill["uri"].as_str().unwrap()).collect();
    assert_eq!(
        uris,
        ["skill://acme/refunds/SKILL.md", "skill://git/SKILL.md", "fairlead+apart:skill://git/SKILL.md"],
        "{listed}"
    );
    assert_eq!(listed["skills"][0]["frontmatter"]["vendor"], 1);
    assert_eq!(listed["skills"][2]["resources"][0]["uri"], "fairlead+apart:skill://git/SKILL.md");
    let reason = listed["_meta"]["fairlead/servers"]["two"]["reason"].as_str().unwrap();
    assert!(reason.contains("skill://acme/refunds/SKILL.md") && reason.contains("resources: prefix"), "{reason}");
    for (uri, server) in [
        ("skill://acme/refunds/SKILL.md", &one),
        ("skill://git/SKILL.md", &two),
        ("fairlead+apart:skill://git/SKILL.md", &apart),
    ] {
        let got = client.result("skills/get", json!({"uri": uri})).await.unwrap();
        assert_eq!(got["skill"]["uri"], uri, "{got}");
        let file = uri.replace("SKILL.md", "a.md");
        let directory =
            client.result("resources/directory/read", json!({"uri": uri.trim_end_matches("/SKILL.md")})).await;
        assert_eq!(directory.unwrap()["resources"][0]["uri"], *file);
        let read = client.result("resources/read", json!({"uri": file})).await.unwrap();
        assert_eq!(read["contents"][0]["uri"], *file);
        for method in ["skills/get", "resources/directory/read", "resources/read"] {
            assert_eq!(server.received_method(method).len(), 1, "{method} {uri}");
        }
    }
    let unknown = client.result("resources/read", json!({"uri": "skill://nobody/a.md"})).await;
    assert!(unknown.is_err());
}

#[tokio::test]
async fn a_toolset_limits_skills_too_and_a_server_that_is_down_hides_nobody_elses() {
    let mut down = ScriptedServer::start(skilled(Script::modern(), &["skill://gone/SKILL.md"], true)).await;
    let one = ScriptedServer::start(skilled(Script::modern(), &["skill://one/SKILL.md"], true)).await;
    let two = ScriptedServer::start(skilled(Script::modern(), &["skill://two/SKILL.md"], true)).await;
    let gateway = Gateway::start(&format!(
        "servers:\n  down: {{ url: \"{}\" }}\n  one: {{ url: \"{}\" }}\n  two: {{ url: \"{}\" }}\n\
         toolsets: {{ few: {{ include: [\"skill://two/*\"] }} }}\n",
        down.url(),
        one.url(),
        two.url()
    ))
    .await;
    let few = gateway.modern("/mcp/few");
    let listed = few.result("skills/list", json!({})).await.unwrap();
    assert_eq!(listed["skills"].as_array().unwrap().len(), 1, "{listed}");
    assert!(few.result("resources/read", json!({"uri": "skill://two/a.md"})).await.is_ok());
    for uri in ["skill://one/SKILL.md", "skill://one", "fairlead+one:skill://one/SKILL.md"] {
        for method in ["skills/get", "resources/directory/read", "resources/read"] {
            assert!(few.result(method, json!({"uri": uri})).await.is_err(), "{method} {uri}");
        }
    }
    assert_eq!(one.received_method("skills/get").len() + one.received_method("resources/read").len(), 0);
    // A URI that no skill can have costs nobody anything, and guessing does not make every server list.
    let all = gateway.modern("/mcp");
    let before = one.received_method("skills/list").len();
    let deep = "/".repeat(1 << 20);
    for guess in ["skill://x/1", "skill://x/2", "skill://x/3", deep.as_str()] {
        assert!(all.result("resources/read", json!({"uri": guess})).await.is_err());
    }
    assert!(one.received_method("skills/list").len() <= before + 1);
    down.stop().await;
    assert!(all.result("skills/get", json!({"uri": "skill://two/SKILL.md"})).await.is_ok());
}

#[tokio::test]
async fn older_clients_are_told_in_their_own_words() {
    let result = json!({"content": [
        {"type": "resource_link", "uri": "a:b", "name": "n"},
        {"type": "text", "text": "t"},
    ], "structuredContent": [1, 2], "resultType": "complete"});
    let tools = json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}, "outputSchema": {"type": "array"}}],
        "resultType": "complete", "ttlMs": 1, "cacheScope": "private"});
    let server = ScriptedServer::start(
        Script::modern().result("tools/call", &result.to_string()).result("tools/list", &tools.to_string()),
    )
    .await;
    let gateway = Gateway::start(&format!("servers:\n  one: {{ url: \"{}\" }}\n", server.url())).await;
    for revision in LEGACY {
        let client = gateway.legacy("/mcp", revision).await;
        let listed = client.list("tools/list", "tools").await.unwrap();
        assert_eq!(listed[0]["outputSchema"]["properties"]["result"], json!({"type": "array"}), "{revision}");
        let result = client.call("one__t", json!({})).await.unwrap();
        assert_eq!(result["structuredContent"], json!({"result": [1, 2]}), "{revision}");
        let kind = if revision == "2025-03-26" { "text" } else { "resource_link" };
        assert_eq!(result["content"][0]["type"], kind, "{revision}");
        assert!(result.get("resultType").is_none());
    }
    let modern = gateway.modern("/mcp");
    let listed = modern.list("tools/list", "tools").await.unwrap();
    assert_eq!(listed[0]["outputSchema"], json!({"type": "array"}));
    let unchanged = modern.call("one__t", json!({})).await.unwrap();
    assert_eq!(unchanged["structuredContent"], json!([1, 2]));
    assert_eq!(unchanged["content"][0]["type"], "resource_link");
}
