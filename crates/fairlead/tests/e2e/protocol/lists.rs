//! Lists: complete whatever the pages, and the same as a direct client sees.

use std::{collections::BTreeMap, time::Instant};

use fairlead_testkit::{McpClient, Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use super::{House, SERVERS, alone, direct};
use crate::support::{Gateway, NEWEST_LEGACY, SECOND, relaxed};

const LISTS: [(&str, &str); 4] = [
    ("tools/list", "tools"),
    ("resources/list", "resources"),
    ("resources/templates/list", "resourceTemplates"),
    ("prompts/list", "prompts"),
];

async fn everything(client: &McpClient) -> BTreeMap<&'static str, Vec<Value>> {
    let mut all = BTreeMap::new();
    for (method, member) in LISTS {
        all.insert(member, client.list(method, member).await.unwrap());
    }
    all
}

fn unprefixed(server: &str, mut all: BTreeMap<&'static str, Vec<Value>>) -> BTreeMap<&'static str, Vec<Value>> {
    let prefix = format!("{server}__");
    for member in ["tools", "prompts"] {
        let items = all.get_mut(member).unwrap();
        items.retain(|item| item["name"].as_str().unwrap().starts_with(&prefix));
        for item in items {
            item["name"] = json!(item["name"].as_str().unwrap().strip_prefix(&prefix));
        }
    }
    all
}

#[tokio::test]
async fn lists_are_complete_whatever_the_pages() {
    for (what, script) in [
        ("one page", Script::legacy()),
        ("pages of ten", Script::legacy().pages(10, false)),
        ("an empty page in the middle", Script::legacy().pages(10, true)),
        ("an empty string as a cursor", Script::legacy().pages(10, false).empty_cursor()),
        ("streams", Script::legacy().pages(7, true).sse()),
        ("unknown members", Script::legacy().pages(10, false).unknown_members()),
    ] {
        let icons = json!([{"src": "https://example.com/a.svg", "mimeType": "image/svg+xml", "sizes": ["any"]}]);
        let drawn = ToolScript::new("drawn").definition(json!({"icons": icons, "title": "With a picture"}));
        let script = script.tools(24).tool(drawn).resources_and_prompts(23, 21);
        let house = House::new(script, |_, script| script).await;
        let expected = everything(&direct(&house.web, false).await).await;
        assert_eq!(expected["tools"].len(), 25, "{what}");
        assert!(expected["tools"].iter().any(|tool| tool["icons"] == icons), "{what}");
        for server in SERVERS {
            for (who, client) in house.clients(&alone(server)).await {
                assert_eq!(everything(&client).await, expected, "{what}, {server}, {who}");
            }
        }
        for (who, client) in house.clients("/mcp").await {
            let all = everything(&client).await;
            assert_eq!(all["tools"].len(), 75, "{what}, {who}");
            assert_eq!(all["prompts"].len(), 63, "{what}, {who}");
            for server in SERVERS {
                // All three have the same resources: the first in the configuration keeps them.
                assert_eq!(unprefixed(server, all.clone()), expected, "{what}, {server} of {who}");
            }
        }
    }
}

#[tokio::test]
async fn own_pages_are_as_long_as_configured_and_their_cursors_are_good_for_one_list() {
    let server = ScriptedServer::start(Script::legacy().tools(25).resources_and_prompts(25, 0)).await;
    let yaml = format!("catalog: {{ page_size: 10 }}\nservers: {{ a: {{ url: \"{}\" }} }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    for client in [gateway.legacy("/mcp", NEWEST_LEGACY).await, gateway.modern("/mcp")] {
        let first = client.result("tools/list", json!({})).await.unwrap();
        assert_eq!(first["tools"].as_array().unwrap().len(), 10);
        assert_eq!(client.list("tools/list", "tools").await.unwrap().len(), 25);
        for (method, cursor) in [
            ("resources/list", first["nextCursor"].clone()),
            ("tools/list", json!("page-1")),
            ("tools/list", json!("")),
            ("tools/list", json!("%%%")),
        ] {
            let refused = client.request(method, json!({"cursor": cursor})).await.unwrap();
            assert_eq!(refused.error()["code"], -32602, "{method} {cursor}");
            assert!(refused.error()["message"].as_str().unwrap().contains("FL-1108"), "{:?}", refused.error());
        }
    }
}

#[tokio::test]
async fn a_list_that_never_ends_is_given_up() {
    // Every page names itself as the next.
    let endless = r#"{"tools":[{"name":"again","inputSchema":{"type":"object"}}],"nextCursor":"again"}"#;
    let bad = ScriptedServer::start(Script::legacy().result("tools/list", endless)).await;
    let good = ScriptedServer::start(Script::legacy()).await;
    let yaml = format!("servers: {{ bad: {{ url: \"{}\" }}, good: {{ url: \"{}\" }} }}\n", bad.url(), good.url());
    let gateway = Gateway::start(&yaml).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let result = client.result("tools/list", json!({})).await.unwrap();
    let names: Vec<_> = result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert!(names.contains(&json!("good__tool_0")), "{names:?}");
    assert!(result["_meta"]["fairlead/servers"].to_string().contains("bad"), "{result}");
    let asked = bad.received_method("tools/list").len();
    assert!(asked < 1_000, "{asked} pages were asked for");
}

#[tokio::test]
async fn a_known_list_costs_the_server_nothing() {
    let house = House::new(Script::legacy().tools(50), |_, script| script).await;
    let client = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.list("tools/list", "tools").await.unwrap();
    let before: Vec<_> = SERVERS.map(|server| house.received(server, "tools/list").len()).into();
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.list("tools/list", "tools").await.unwrap().len(), 150);
    }
    assert!(start.elapsed() < relaxed(2 * SECOND), "{:?}", start.elapsed());
    let after: Vec<_> = SERVERS.map(|server| house.received(server, "tools/list").len()).into();
    assert_eq!(before, after);
}
