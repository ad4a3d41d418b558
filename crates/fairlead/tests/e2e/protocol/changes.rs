//! What changes outside calls: lists, resources; and who is told.

use std::time::{Duration, Instant};

use fairlead_testkit::{AnswerStream, McpClient, Script, ScriptedServer};
use serde_json::{Value, json};

use super::{House, alone};
use crate::support::{Gateway, NEWEST_LEGACY, PATIENCE, SECOND, eventually, relaxed};

const TOOLS_CHANGED: &str = "notifications/tools/list_changed";
const UPDATED: &str = "notifications/resources/updated";

/// A legacy GET stream that is open: its first byte has come.
async fn listening(client: &McpClient) -> AnswerStream {
    let stream = client.open_get(None).await.unwrap();
    assert_eq!((stream.status, stream.is_stream()), (200, true));
    stream
}

/// A modern listener that was acknowledged.
async fn listener(client: &McpClient, filter: Value) -> AnswerStream {
    let mut stream = client.start("subscriptions/listen", json!({"notifications": filter})).await.unwrap();
    let first = stream.next(PATIENCE).await.unwrap().unwrap().json();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    let id = &first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
    assert_eq!(Some(id), stream.id(), "{first}");
    stream
}

#[tokio::test]
async fn a_changed_list_is_told_within_a_second_to_clients_of_both_eras() {
    let house = House::new(Script::legacy(), |_, script| script).await;
    for server in ["web", "now"] {
        let mut heard = Vec::new();
        for path in ["/mcp".to_owned(), alone(server)] {
            let legacy = house.gateway.legacy(&path, NEWEST_LEGACY).await;
            let modern = house.gateway.modern(&path);
            for client in [&legacy, &modern] {
                client.list("tools/list", "tools").await.unwrap();
            }
            heard.push((format!("legacy on {path}"), listening(&legacy).await, legacy));
            let stream = listener(&modern, json!({"toolsListChanged": true})).await;
            heard.push((format!("modern on {path}"), stream, modern));
        }
        let source = if server == "web" { &house.web } else { &house.now };
        if server == "web" {
            let opened = || source.received().iter().any(|request| request.http_method == "GET");
            eventually(PATIENCE, "the gateway's own GET stream", opened).await;
        } else {
            eventually(PATIENCE, "the gateway's own listener", || source.listeners() > 0).await;
        }
        source.change_list().await;
        let deadline = Instant::now() + relaxed(SECOND);
        for (who, mut stream, client) in heard {
            // What became known while the test began may be told too.
            loop {
                let told = stream.next_method(TOOLS_CHANGED, deadline.saturating_duration_since(Instant::now())).await;
                let told = told.unwrap_or_else(|error| panic!("{server}, {who}: {error:#}"));
                if who.starts_with("modern") {
                    let id = &told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
                    assert_eq!(Some(id), stream.id(), "{server}, {who}: {told}");
                }
                let tools = client.list("tools/list", "tools").await.unwrap();
                let ours = if who.ends_with("/mcp") { format!("{server}__extra_tool") } else { String::new() };
                if tools.iter().any(|tool| tool["name"] == ours || tool["name"] == "extra_tool") {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_changed_list_of_each_kind_is_told_and_listed_anew() {
    let house = House::new(Script::legacy().resources_and_prompts(1, 1), |_, script| script).await;
    // Resources of the same name are shown once: each server in its turn gets more than there were.
    for (server, source, more) in [("web", &house.web, 10), ("now", &house.now, 100)] {
        let grow = |script: &mut Script| {
            (script.tools, script.prompts, script.resources) =
                (script.tools + 1, script.prompts + 1, script.resources + more);
        };
        for kind in ["tools", "resources", "prompts"] {
            let (notice, list) = (format!("notifications/{kind}/list_changed"), format!("{kind}/list"));
            let mut heard = Vec::new();
            for path in ["/mcp".to_owned(), alone(server)] {
                let legacy = house.gateway.legacy(&path, NEWEST_LEGACY).await;
                let stream = listening(&legacy).await;
                heard.push((format!("{kind} of {server}, legacy on {path}"), legacy, stream));
                let modern = house.gateway.modern(&path);
                let stream = listener(&modern, json!({format!("{kind}ListChanged"): true})).await;
                heard.push((format!("{kind} of {server}, modern on {path}"), modern, stream));
            }
            if server == "web" {
                let opened = || source.received().iter().any(|request| request.http_method == "GET");
                eventually(PATIENCE, "the gateway's own GET stream", opened).await;
            } else {
                eventually(PATIENCE, "the gateway's own listener", || source.listeners() > 0).await;
            }
            let mut before = Vec::new();
            for (_, client, _) in &heard {
                before.push(client.list(&list, kind).await.unwrap().len());
            }
            source.change(grow);
            source.notify(&notice, &json!({})).await;
            for ((who, client, mut stream), before) in heard.into_iter().zip(before) {
                // What became known while the test began may be told too.
                loop {
                    let told = stream.next_method(&notice, PATIENCE).await;
                    told.unwrap_or_else(|error| panic!("{who}: {error:#}"));
                    if client.list(&list, kind).await.unwrap().len() > before {
                        break;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_changed_list_of_a_child_process_is_told() {
    let house = House::new(Script::legacy(), |name, script| match name {
        "child" => script.list_change_every_ms(700),
        _ => script,
    })
    .await;
    for path in ["/mcp".to_owned(), alone("child")] {
        let legacy = house.gateway.legacy(&path, NEWEST_LEGACY).await;
        let modern = house.gateway.modern(&path);
        let mut streams = [listening(&legacy).await, listener(&modern, json!({"toolsListChanged": true})).await];
        for stream in &mut streams {
            stream.next_method(TOOLS_CHANGED, relaxed(3 * SECOND)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_listener_hears_only_what_it_asked_for() {
    let house = House::new(Script::legacy().resources_and_prompts(1, 1), |_, script| script).await;
    for path in ["/mcp".to_owned(), alone("now"), alone("web")] {
        let client = house.gateway.modern(&path);
        let mut deaf = listener(&client, json!({"promptsListChanged": true})).await;
        let mut hears = listener(&client, json!({"toolsListChanged": true})).await;
        let source = if path == alone("now") { &house.now } else { &house.web };
        source.change_list().await;
        hears.next_method(TOOLS_CHANGED, relaxed(2 * SECOND)).await.unwrap();
        let silence = deaf.silent_of(TOOLS_CHANGED, Duration::from_millis(300)).await;
        silence.unwrap_or_else(|error| panic!("{path}: {error:#}"));
    }
}

#[tokio::test]
async fn a_legacy_subscriber_is_told_of_its_resource_and_nobody_else() {
    let house = House::new(Script::legacy().resources_and_prompts(3, 0), |_, script| script).await;
    for path in ["/mcp".to_owned(), alone("web")] {
        let subscriber = house.gateway.legacy(&path, NEWEST_LEGACY).await;
        let second = house.gateway.legacy(&path, NEWEST_LEGACY).await;
        let other = house.gateway.legacy(&path, NEWEST_LEGACY).await;
        for client in [&subscriber, &second, &other] {
            client.list("resources/list", "resources").await.unwrap();
        }
        let mut heard = [listening(&subscriber).await, listening(&second).await, listening(&other).await];
        let subscribed = json!({"uri": "test://resource/1"});
        for client in [&subscriber, &second] {
            assert_eq!(client.result("resources/subscribe", subscribed.clone()).await.unwrap(), json!({}));
        }
        house.web.notify(UPDATED, &json!({"uri": "test://resource/0"})).await;
        house.web.notify(UPDATED, &json!({"uri": "test://resource/1", "own": 1})).await;
        for stream in &mut heard[..2] {
            let told = stream.next_method(UPDATED, relaxed(SECOND)).await.unwrap();
            assert_eq!(told["params"], json!({"uri": "test://resource/1", "own": 1}), "{path}");
        }
        // One leaves: the other is still told, and the server still subscribed to.
        assert_eq!(second.result("resources/unsubscribe", subscribed.clone()).await.unwrap(), json!({}));
        assert!(house.received("web", "resources/unsubscribe").is_empty(), "{path}");
        house.web.notify(UPDATED, &json!({"uri": "test://resource/1", "own": 2})).await;
        let told = heard[0].next_method(UPDATED, relaxed(SECOND)).await.unwrap();
        assert_eq!(told["params"]["own"], 2, "{path}");
        assert_eq!(subscriber.result("resources/unsubscribe", subscribed.clone()).await.unwrap(), json!({}));
        assert_eq!(house.received("web", "resources/unsubscribe").len(), 1, "{path}");
        house.web.notify(UPDATED, &json!({"uri": "test://resource/1", "own": 3})).await;
        for stream in &mut heard {
            let silence = stream.silent_of(UPDATED, Duration::from_millis(200)).await;
            silence.unwrap_or_else(|error| panic!("{path}: {error:#}"));
        }
        house.web.clear_received();
    }
}

#[tokio::test]
async fn a_modern_listener_is_told_of_its_resources_under_its_own_id() {
    let house = House::new(Script::legacy().resources_and_prompts(3, 0), |name, script| match name {
        "now" => script,
        _ => Script { resources: 0, ..script },
    })
    .await;
    for path in ["/mcp".to_owned(), alone("now")] {
        let client = house.gateway.modern(&path);
        client.list("resources/list", "resources").await.unwrap();
        let wanted = json!({"resourceSubscriptions": ["test://resource/1"]});
        let mut hears = listener(&client, wanted).await;
        let mut deaf = listener(&client, json!({"resourceSubscriptions": ["test://resource/2"]})).await;
        let is_watched = |uri: &str| house.now.filters().iter().any(|filter| filter.to_string().contains(uri));
        let watched = || is_watched("test://resource/1") && is_watched("test://resource/2");
        eventually(PATIENCE, "both resources at the server", watched).await;
        house.now.notify(UPDATED, &json!({"uri": "test://resource/1"})).await;
        let told = hears.next_method(UPDATED, relaxed(SECOND)).await.unwrap();
        assert_eq!(told["params"]["uri"], "test://resource/1");
        assert_eq!(Some(&told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]), hears.id(), "{path}");
        let silence = deaf.silent(Duration::from_millis(200)).await;
        silence.unwrap_or_else(|error| panic!("{path}: {error:#}"));
        house.now.clear_received();
        // The end of the stream is the end of the subscription.
        hears.vanish();
        let is_over = || !is_watched("test://resource/1") && is_watched("test://resource/2");
        eventually(2 * SECOND, "the end of the subscription at the server", is_over).await;
    }
}

#[tokio::test]
async fn what_cannot_cross_eras_is_not_advertised() {
    let house = House::new(Script::legacy().resources_and_prompts(1, 1), |_, script| script).await;
    let legacy = house.gateway.legacy(&alone("now"), NEWEST_LEGACY).await.initialized();
    assert_eq!(legacy["capabilities"]["resources"]["subscribe"], true, "{legacy}");
    // The level of a session goes with each request to a modern server.
    assert_eq!(legacy["capabilities"]["logging"], json!({}), "{legacy}");
    for server in ["web", "child"] {
        let modern = house.gateway.modern(&alone(server)).result("server/discover", json!({})).await.unwrap();
        assert_eq!(modern["capabilities"]["resources"]["subscribe"], true, "{modern}");
        assert_eq!(modern["capabilities"]["logging"], json!({}), "{modern}: that of a request is told to the server");
    }
}

#[tokio::test]
async fn a_server_without_a_stream_of_its_own_is_listed_again_in_time() {
    let server = ScriptedServer::start(Script { get_stream: false, ..Script::legacy() }).await;
    let yaml = format!("catalog: {{ refresh: 1s }}\nservers: {{ a: {{ url: \"{}\" }} }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.list("tools/list", "tools").await.unwrap();
    let mut stream = listening(&client).await;
    server.change_list().await;
    // What became known while the test began may be told too.
    let mut tools = 3;
    while tools == 3 {
        stream.next_method(TOOLS_CHANGED, relaxed(10 * SECOND)).await.unwrap();
        tools = client.list("tools/list", "tools").await.unwrap().len();
    }
    assert_eq!(tools, 4);
}

#[tokio::test]
async fn a_message_goes_to_one_stream_of_a_session() {
    let server = ScriptedServer::start(Script::legacy()).await;
    let gateway = Gateway::start(&format!("servers: {{ a: {{ url: \"{}\" }} }}\n", server.url())).await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    client.list("tools/list", "tools").await.unwrap();
    let quiet = Duration::from_millis(300);
    let mut older = listening(&client).await;
    // What became known while the test began may be told too, on the one stream or the other.
    while older.next_method(TOOLS_CHANGED, quiet).await.is_ok() {}
    let mut newer = listening(&client).await;
    while newer.next_method(TOOLS_CHANGED, quiet).await.is_ok() {}
    let opened = || server.received().iter().any(|request| request.http_method == "GET");
    eventually(PATIENCE, "the gateway's own GET stream", opened).await;
    server.change_list().await;
    newer.next_method(TOOLS_CHANGED, relaxed(SECOND)).await.unwrap();
    older.silent_of(TOOLS_CHANGED, quiet).await.expect("told once");
    newer.vanish();
    let mut told = false;
    for _ in 0..10 {
        // The first one may still go to the stream that is just ending.
        server.change_list().await;
        told = older.next_method(TOOLS_CHANGED, quiet).await.is_ok();
        if told {
            break;
        }
    }
    assert!(told, "the older stream takes over");
}
