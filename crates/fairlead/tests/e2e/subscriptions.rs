//! Resources that clients watch and lists that change, in all four cells: a client of either era before a server of
//! either era. What a server hears is counted, what a client hears comes once.

use std::time::{Duration, Instant};

use fairlead_testkit::{AnswerStream, McpClient, Script, ScriptedServer};
use serde_json::{Value, json};

use crate::support::{
    Gateway, NEWEST_LEGACY, PATIENCE, SECOND, StdioServer, eventually, eventually_some, relaxed, rows,
};

const UPDATED: &str = "notifications/resources/updated";
const TOOLS_CHANGED: &str = "notifications/tools/list_changed";
/// How long is listened for what must not come.
const QUIET: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Era {
    Legacy,
    Modern,
}
const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// A gateway before one server.
struct House {
    era: Era,
    server: ScriptedServer,
    gateway: Gateway,
}

impl House {
    async fn new(era: Era) -> Self {
        Self::with(era, |script| script, "").await
    }

    /// The same with another script, and further members of the server's configuration.
    async fn with(era: Era, finish: impl Fn(Script) -> Script, options: &str) -> Self {
        let script = if era == Era::Legacy { Script::legacy() } else { Script::modern() };
        let server = ScriptedServer::start(finish(script.resources_and_prompts(5, 0))).await;
        let gateway = Gateway::start(&format!("servers:\n  a: {{ url: \"{}\", {options} }}\n", server.url())).await;
        rows::until_listed(&gateway, "a").await;
        Self { era, server, gateway }
    }

    /// URIs the server was asked for and not released from, as often as it was.
    fn watched(&self) -> Vec<String> {
        let mut uris = Vec::new();
        match self.era {
            Era::Legacy => {
                for request in self.server.received() {
                    let request = request.json();
                    let uri = request["params"]["uri"].as_str().unwrap_or_default().to_owned();
                    match request["method"].as_str() {
                        Some("resources/subscribe") => uris.push(uri),
                        Some("resources/unsubscribe") => {
                            let at = uris.iter().position(|other| *other == uri).expect("it was subscribed to");
                            uris.remove(at);
                        }
                        _ => {}
                    }
                }
            }
            Era::Modern => {
                for filter in self.server.filters() {
                    let wanted = filter["resourceSubscriptions"].as_array().cloned().unwrap_or_default();
                    uris.extend(wanted.iter().map(|uri| uri.as_str().unwrap().to_owned()));
                }
            }
        }
        uris.sort();
        uris
    }

    async fn watches(&self, numbers: &[usize]) {
        let mut expected: Vec<_> = numbers.iter().map(|number| uri(*number)).collect();
        expected.sort();
        let what = format!("the {:?} server is asked for {numbers:?}", self.era);
        eventually(PATIENCE, &what, || self.watched() == expected).await;
    }

    /// Waits until the gateway hears what the server says on its own.
    async fn is_heard(&self) {
        match self.era {
            Era::Legacy => {
                let opened = || self.server.received().iter().any(|request| request.http_method == "GET");
                eventually(PATIENCE, "the gateway's own GET stream", opened).await;
            }
            Era::Modern => eventually(PATIENCE, "the gateway's own listener", || self.server.listeners() > 0).await,
        }
    }

    async fn update(&self, number: usize, own: u64) {
        self.server.notify(UPDATED, &json!({"uri": uri(number), "own": own})).await;
    }

    async fn watcher(&self, era: Era, path: &str, number: usize) -> Watcher {
        Watcher::new(&self.gateway, era, path, &uri(number)).await
    }
}

fn uri(number: usize) -> String {
    format!("test://resource/{number}")
}

const PATHS: [&str; 2] = ["/mcp", "/servers/a/mcp"];

/// A client that watches one resource.
struct Watcher {
    era: Era,
    client: McpClient,
    stream: AnswerStream,
    uri: String,
}

impl Watcher {
    async fn new(gateway: &Gateway, era: Era, path: &str, uri: &str) -> Self {
        let client = match era {
            Era::Legacy => gateway.legacy(path, NEWEST_LEGACY).await,
            Era::Modern => gateway.modern(path),
        };
        Self::with(client, era, uri).await
    }

    async fn with(client: McpClient, era: Era, uri: &str) -> Self {
        let stream = match era {
            Era::Legacy => {
                let stream = client.open_get(None).await.unwrap();
                let answer = client.result("resources/subscribe", json!({"uri": uri})).await.unwrap();
                assert_eq!(answer, json!({}));
                stream
            }
            Era::Modern => {
                let (stream, accepted) = listen(&client, json!({"resourceSubscriptions": [uri]})).await;
                assert_eq!(accepted, json!({"resourceSubscriptions": [uri]}));
                stream
            }
        };
        Self { era, client, stream, uri: uri.to_owned() }
    }

    async fn hears(&mut self, own: u64, whose: &str) {
        let told = self.stream.next_method(UPDATED, PATIENCE).await;
        let told = told.unwrap_or_else(|error| panic!("{whose}: {error:#}"));
        assert_eq!(
            (&told["params"]["uri"], &told["params"]["own"]),
            (&json!(self.uri), &json!(own)),
            "{whose}: {told}"
        );
        self.check_tag(&told, whose);
    }

    fn check_tag(&self, told: &Value, whose: &str) {
        let tag = told["params"]["_meta"].get("io.modelcontextprotocol/subscriptionId");
        let expected = (self.era == Era::Modern).then(|| self.stream.id().unwrap());
        assert_eq!(tag, expected, "{whose}: {told}");
    }

    async fn hears_nothing(&mut self, whose: &str) {
        self.stream.silent_of(UPDATED, QUIET).await.unwrap_or_else(|error| panic!("{whose}: {error:#}"));
    }

    async fn leave(self) {
        match self.era {
            Era::Legacy => {
                let answer = self.client.result("resources/unsubscribe", json!({"uri": self.uri})).await.unwrap();
                assert_eq!(answer, json!({}));
            }
            Era::Modern => self.stream.vanish(),
        }
    }
}

/// A listen stream, and what was acknowledged: the first message.
async fn listen(client: &McpClient, filter: Value) -> (AnswerStream, Value) {
    let mut stream = client.start("subscriptions/listen", json!({"notifications": filter})).await.unwrap();
    let first = stream.next(PATIENCE).await.unwrap().unwrap().json();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    assert_eq!(Some(&first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]), stream.id(), "{first}");
    (stream, first["params"]["notifications"].clone())
}

#[tokio::test]
async fn an_update_reaches_whoever_asked_for_it_in_every_cell() {
    for server in ERAS {
        let house = House::new(server).await;
        for (era, path) in ERAS.iter().flat_map(|era| PATHS.map(|path| (*era, path))) {
            let whose = format!("{era:?} client, {server:?} server, {path}");
            let mut watcher = house.watcher(era, path, 1).await;
            let mut other = house.watcher(era, path, 2).await;
            house.watches(&[1, 2]).await;
            house.is_heard().await;
            house.update(1, 1).await;
            house.update(3, 2).await;
            house.update(1, 3).await;
            watcher.hears(1, &whose).await;
            watcher.hears(3, &whose).await;
            watcher.hears_nothing(&whose).await;
            other.hears_nothing(&whose).await;
            watcher.leave().await;
            house.watches(&[2]).await;
            house.update(2, 4).await;
            other.hears(4, &whose).await;
            other.leave().await;
            house.watches(&[]).await;
        }
    }
}

#[tokio::test]
async fn a_server_hears_of_a_resource_once_however_many_watch_it() {
    for server in ERAS {
        let house = House::new(server).await;
        let mut watchers = Vec::new();
        for era in [Era::Legacy, Era::Modern, Era::Legacy, Era::Modern] {
            watchers.push(house.watcher(era, "/mcp", 1).await);
        }
        house.watches(&[1]).await;
        if server == Era::Modern {
            eventually(PATIENCE, "one stream for everybody", || house.server.listeners() == 1).await;
        }
        let mut own = 0;
        while !watchers.is_empty() {
            own += 1;
            let whose = format!("{} watchers of a {server:?} server", watchers.len());
            house.watches(&[1]).await;
            house.update(1, own).await;
            for watcher in &mut watchers {
                watcher.hears(own, &whose).await;
            }
            for watcher in &mut watchers {
                watcher.hears_nothing(&whose).await;
            }
            watchers.remove(0).leave().await;
        }
        house.watches(&[]).await;
        let asked = house.server.received_method("resources/subscribe").len();
        let listened = house.server.received_method("subscriptions/listen");
        let named = listened.iter().filter(|listen| listen.json().to_string().contains("test://")).count();
        let expected = if server == Era::Legacy { (1, 0) } else { (0, 1) };
        assert_eq!((asked, named), expected, "{server:?}");
    }
}

#[tokio::test]
async fn nobody_ends_the_subscription_of_somebody_else() {
    for server in ERAS {
        let house = House::new(server).await;
        let mut watchers = [house.watcher(Era::Legacy, "/mcp", 1).await, house.watcher(Era::Modern, "/mcp", 1).await];
        house.watches(&[1]).await;
        house.is_heard().await;
        let stream = watchers[1].stream.id().unwrap().clone();
        let eve = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
        // Never subscribed: whatever it is told, it has nothing to unsubscribe.
        eve.request("resources/unsubscribe", json!({"uri": uri(1)})).await.unwrap();
        eve.cancel(&stream).await.unwrap();
        house.gateway.modern("/mcp").cancel(&stream).await.unwrap();
        eve.delete().await.unwrap();
        house.watches(&[1]).await;
        house.update(1, 1).await;
        for watcher in &mut watchers {
            watcher.hears(1, &format!("{server:?} server")).await;
        }
    }
}

#[tokio::test]
async fn an_update_that_comes_with_the_acceptance_is_heard() {
    for server in ERAS {
        for era in ERAS {
            let house = House::with(server, Script::updates_at_once, "").await;
            if server == Era::Legacy {
                house.is_heard().await;
            }
            let mut watcher = house.watcher(era, "/mcp", 1).await;
            watcher.hears(1, &format!("{era:?} client, {server:?} server")).await;
        }
    }
}

#[tokio::test]
async fn watches_outlive_the_server() {
    for server in ERAS {
        let mut house = House::new(server).await;
        let mut watchers = Vec::new();
        for era in ERAS {
            watchers.push(house.watcher(era, "/mcp", 1).await);
        }
        house.watches(&[1]).await;
        house.server.stop().await;
        house.server.clear_received();
        house.server.resume().await.unwrap();
        house.watches(&[1]).await;
        house.is_heard().await;
        for watcher in &mut watchers {
            // What happened meanwhile is not known: it is told to look.
            let told = watcher.stream.next_method(UPDATED, PATIENCE).await.unwrap();
            assert_eq!((&told["params"]["uri"], told["params"].get("own")), (&json!(uri(1)), None), "{told}");
            watcher.check_tag(&told, "after the restart");
            // Each stream that broke tells it to look; the old one may have been opened again before the new.
            while let Ok(told) = watcher.stream.next_method(UPDATED, QUIET).await {
                assert!(told["params"].get("own").is_none(), "{told}");
            }
        }
        house.update(1, 7).await;
        for watcher in &mut watchers {
            watcher.hears(7, &format!("{:?} client, restarted {server:?} server", watcher.era)).await;
            watcher.hears_nothing("once").await;
        }
    }
}

#[tokio::test]
async fn a_session_watches_again_after_the_gateway_was_killed() {
    for server in ERAS {
        let mut house = House::new(server).await;
        let watcher = house.watcher(Era::Legacy, "/mcp", 1).await;
        house.watches(&[1]).await;
        let id = watcher.client.session().unwrap();
        house.gateway.stored().await;
        house.gateway.kill().await;
        eventually(PATIENCE, "the end of its streams", || house.server.listeners() == 0).await;
        house.server.clear_received();
        house.gateway.restart().await;
        let client = McpClient::new(&house.gateway.url("/mcp")).limit(PATIENCE);
        client.set_session(Some(&id));
        let stream = client.open_get(None).await.unwrap();
        assert_eq!(stream.status, 200);
        house.watches(&[1]).await;
        house.is_heard().await;
        house.update(1, 5).await;
        let mut watcher = Watcher { era: Era::Legacy, client, stream, uri: uri(1) };
        watcher.hears(5, &format!("{server:?} server")).await;
        watcher.hears_nothing("once").await;
        // The end of the session is the end of what it watches.
        assert_eq!(watcher.client.delete().await.unwrap().status, 200);
        house.watches(&[]).await;
    }
}

#[tokio::test]
async fn another_set_of_resources_leaves_no_gap_and_says_nothing_twice() {
    for server in ERAS {
        let house = House::new(server).await;
        for era in ERAS {
            let mut watcher = house.watcher(era, "/mcp", 0).await;
            house.watches(&[0]).await;
            house.is_heard().await;
            let updating = async {
                for own in 0..60 {
                    house.update(0, own).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let changing = async {
                for round in 0..3 {
                    let one = house.watcher(Era::Modern, "/mcp", 1 + round).await;
                    let two = house.watcher(Era::Legacy, "/mcp", 4).await;
                    one.leave().await;
                    two.leave().await;
                }
            };
            tokio::join!(updating, changing);
            for own in 0..60 {
                watcher.hears(own, &format!("{era:?} client, {server:?} server")).await;
            }
            watcher.hears_nothing("nothing twice").await;
            watcher.leave().await;
            house.watches(&[]).await;
        }
    }
}

#[tokio::test]
async fn what_a_server_does_not_accept_is_not_acknowledged() {
    for server in ERAS {
        let house = House::with(server, |script| script.unwatchable(&uri(2)), "").await;
        let mut before = house.watcher(Era::Modern, "/mcp", 1).await;
        let legacy = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
        let answer = legacy.request("resources/subscribe", json!({"uri": uri(2)})).await.unwrap();
        let expected = if server == Era::Legacy { -32002 } else { -32602 };
        assert_eq!(answer.error()["code"], expected, "{server:?}: {}", answer.error());
        let answer = legacy.request("resources/subscribe", json!({"uri": "foreign://nobody"})).await.unwrap();
        assert_eq!(answer.error()["code"], -32002, "{}", answer.error());
        let modern = house.gateway.modern("/mcp");
        let wanted = json!({"resourceSubscriptions": [uri(2), uri(3), "foreign://nobody", uri(3), 7], "own": ["x"]});
        let (_stream, accepted) = listen(&modern, wanted).await;
        assert_eq!(accepted, json!({"resourceSubscriptions": [uri(3)]}), "{server:?}");
        house.update(1, 1).await;
        before.hears(1, "nobody else is troubled").await;
        // A legacy server was asked for what it refuses, each time anew.
        house.watches(if server == Era::Legacy { &[1, 2, 2, 3] } else { &[1, 3] }).await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_not_acknowledged_and_hears_of_it_when_it_is_back() {
    for server in ERAS {
        let mut house = House::new(server).await;
        let session = house.watcher(Era::Legacy, "/mcp", 1).await;
        let id = session.client.session().unwrap();
        house.gateway.stored().await;
        house.server.stop().await;
        house.gateway.kill().await;
        house.server.clear_received();
        house.gateway.restart().await;
        let client = McpClient::new(&house.gateway.url("/mcp")).limit(PATIENCE);
        client.set_session(Some(&id));
        let stream = client.open_get(None).await.unwrap();
        let (_none, accepted) = listen(&house.gateway.modern("/mcp"), json!({"resourceSubscriptions": [uri(1)]})).await;
        assert_eq!(accepted, json!({}), "{server:?}");
        house.server.resume().await.unwrap();
        house.watches(&[1]).await;
        house.is_heard().await;
        house.update(1, 3).await;
        let mut watcher = Watcher { era: Era::Legacy, client, stream, uri: uri(1) };
        watcher.hears(3, &format!("{server:?} server")).await;
    }
}

#[tokio::test]
async fn prefixed_resources_are_told_under_the_name_the_client_knows() {
    for server in ERAS {
        let house = House::with(server, |script| script, "resources: prefix").await;
        for era in ERAS {
            let exposed = format!("fairlead+a:{}", uri(1));
            let mut watcher = Watcher::new(&house.gateway, era, "/mcp", &exposed).await;
            house.watches(&[1]).await;
            house.is_heard().await;
            house.update(1, 1).await;
            watcher.hears(1, &format!("{era:?} client, {server:?} server")).await;
            // A part of what is watched is told as what it is.
            house.server.notify(UPDATED, &json!({"uri": format!("{}/part", uri(1)), "own": 2})).await;
            if server == Era::Legacy {
                watcher.uri = format!("{exposed}/part");
                watcher.hears(2, "a part").await;
                watcher.uri = exposed;
            }
            watcher.leave().await;
            house.watches(&[]).await;
        }
    }
}

#[tokio::test]
async fn clients_that_share_no_link_hear_everything_once() {
    let house = House::new(Era::Legacy).await;
    let mut watchers = vec![house.watcher(Era::Legacy, "/mcp", 1).await, house.watcher(Era::Modern, "/mcp", 1).await];
    for capability in ["sampling", "elicitation"] {
        let client = McpClient::new(&house.gateway.url("/mcp")).limit(PATIENCE).capabilities(json!({capability: {}}));
        client.initialize(NEWEST_LEGACY).await.unwrap();
        watchers.push(Watcher::with(client, Era::Legacy, &uri(1)).await);
    }
    // Three sessions with the server, each told once; the server says everything on all of them.
    house.watches(&[1, 1, 1]).await;
    let streams = || house.server.received().iter().filter(|request| request.http_method == "GET").count() >= 3;
    eventually(PATIENCE, "the GET streams of three sessions", streams).await;
    house.update(1, 1).await;
    for watcher in &mut watchers {
        watcher.hears(1, "its own link").await;
    }
    for watcher in &mut watchers {
        watcher.hears_nothing("not the others'").await;
    }
}

#[tokio::test]
async fn a_child_process_of_either_era_is_watched() {
    for server in ERAS {
        let script = if server == Era::Legacy { Script::legacy() } else { Script::modern() };
        let child = StdioServer::new(script.resources_and_prompts(2, 0).update_every_ms(300));
        let gateway = Gateway::start(&format!("servers: {{ a: {{ {}, start: eager }} }}\n", child.yaml())).await;
        rows::until_listed(&gateway, "a").await;
        for (era, path) in ERAS.iter().flat_map(|era| PATHS.map(|path| (*era, path))) {
            let whose = format!("{era:?} client, {server:?} child, {path}");
            let mut watcher = Watcher::new(&gateway, era, path, &uri(0)).await;
            let mut other = Watcher::new(&gateway, era, path, &uri(1)).await;
            let mut last = 0;
            for _ in 0..5 {
                let told = watcher.stream.next_method(UPDATED, PATIENCE).await;
                let told = told.unwrap_or_else(|error| panic!("{whose}: {error:#}"));
                assert_eq!(told["params"]["uri"], uri(0), "{whose}");
                watcher.check_tag(&told, &whose);
                let number = told["params"]["number"].as_u64().unwrap_or_default();
                assert!(number > last, "{whose}: each once and in order, not {number} after {last}");
                last = number;
            }
            other.hears_nothing(&whose).await;
            watcher.leave().await;
            other.leave().await;
        }
    }
}

#[tokio::test]
async fn a_reload_of_the_server_keeps_what_is_watched() {
    for server in ERAS {
        let house = House::new(server).await;
        let mut watchers = Vec::new();
        for era in ERAS {
            watchers.push(house.watcher(era, "/mcp", 1).await);
        }
        let yaml = format!("servers:\n  a: {{ url: \"{}\", max_calls: 77 }}\n", house.server.url());
        house.server.clear_received();
        house.gateway.reload(&yaml).await;
        let settled = || house.watched().contains(&uri(1)) && house.server.listeners() <= 1;
        eventually(PATIENCE, "the new owner watches", settled).await;
        let mut own = 100;
        for watcher in &mut watchers {
            // Until the new owner has its streams, only the old ones would tell.
            eventually_some(PATIENCE, "an update after the reload", async || {
                own += 1;
                house.update(1, own).await;
                loop {
                    let told = watcher.stream.next_method(UPDATED, QUIET).await.ok()?;
                    if told["params"]["own"] == own {
                        return Some(());
                    }
                }
            })
            .await;
        }
        for watcher in &mut watchers {
            while watcher.stream.next_method(UPDATED, 2 * QUIET).await.is_ok() {}
        }
        house.update(1, 7).await;
        for watcher in &mut watchers {
            watcher.hears(7, &format!("{server:?} server")).await;
            watcher.hears_nothing("once").await;
        }
    }
}

#[tokio::test]
async fn a_changed_list_is_told_once_within_a_second_and_only_where_it_is_shown() {
    const CHANGES: usize = 5;
    for server in ERAS {
        let house = House::new(server).await;
        let script = Script::legacy();
        let stranger = ScriptedServer::start(script).await;
        let yaml = format!(
            "servers:\n  a: {{ url: \"{}\" }}\n  b: {{ url: \"{}\" }}\n\
             toolsets:\n  mine: {{ include: [\"a__*\"] }}\n  other: {{ include: [\"b__*\"] }}\n",
            house.server.url(),
            stranger.url(),
        );
        house.gateway.reload(&yaml).await;
        rows::until_listed(&house.gateway, "a").await;
        rows::until_listed(&house.gateway, "b").await;
        house.is_heard().await;
        let mut heard = Vec::new();
        for (path, concerned) in [
            ("/mcp", true),
            ("/mcp/mine", true),
            ("/servers/a/mcp", true),
            ("/mcp/other", false),
            ("/servers/b/mcp", false),
        ] {
            for era in ERAS {
                let (client, mut stream) = match era {
                    Era::Legacy => {
                        let client = house.gateway.legacy(path, NEWEST_LEGACY).await;
                        let stream = client.open_get(None).await.unwrap();
                        (client, stream)
                    }
                    Era::Modern => {
                        let client = house.gateway.modern(path);
                        let stream = listen(&client, json!({"toolsListChanged": true})).await.0;
                        (client, stream)
                    }
                };
                client.list("tools/list", "tools").await.unwrap();
                // What became known while the test began may be told too.
                while stream.next_method(TOOLS_CHANGED, QUIET).await.is_ok() {}
                heard.push((format!("{era:?} client of {path}, {server:?} server"), stream, client, concerned));
            }
        }
        house.server.change_list().await;
        let deadline = Instant::now() + relaxed(SECOND);
        for (whose, stream, ..) in heard.iter_mut().filter(|(.., concerned)| *concerned) {
            let left = deadline.saturating_duration_since(Instant::now());
            stream.next_method(TOOLS_CHANGED, left).await.unwrap_or_else(|error| panic!("{whose}: {error:#}"));
        }
        for (whose, stream, ..) in &mut heard {
            let silence = stream.silent_of(TOOLS_CHANGED, Duration::from_millis(100)).await;
            silence.unwrap_or_else(|error| panic!("{whose}: {error:#}"));
        }
        // Many changes in a row are at most as many notices, and the last one is not missed.
        for _ in 0..CHANGES {
            house.server.change_list().await;
        }
        for (whose, stream, ..) in heard.iter_mut().filter(|(.., concerned)| *concerned) {
            let mut notices = 0;
            while stream.next_method(TOOLS_CHANGED, 2 * QUIET).await.is_ok() {
                notices += 1;
            }
            assert!((1..=CHANGES).contains(&notices), "{whose}: {notices} notices");
        }
        for (whose, _, client, concerned) in &heard {
            let tools = client.list("tools/list", "tools").await.unwrap();
            let has_extra = tools.iter().any(|tool| tool["name"].as_str().unwrap().ends_with("extra_tool"));
            assert!(!has_extra, "{whose}, {concerned}: the last of six changes takes it away");
        }
    }
}

#[tokio::test]
async fn a_server_that_comes_back_in_the_other_era_is_watched_in_that() {
    for server in ERAS {
        let mut house = House::new(server).await;
        let mut watchers =
            vec![house.watcher(Era::Legacy, "/mcp", 1).await, house.watcher(Era::Modern, "/mcp", 1).await];
        house.watches(&[1]).await;
        house.server.stop().await;
        house.server.clear_received();
        let other = if server == Era::Legacy { Script::modern() } else { Script::legacy() };
        house.server.change(|script| script.versions = other.versions);
        house.era = if server == Era::Legacy { Era::Modern } else { Era::Legacy };
        house.server.resume().await.unwrap();
        house.watches(&[1]).await;
        house.is_heard().await;
        for watcher in &mut watchers {
            // Each is moved over on its own, so the first to be told may be told alone.
            let whose = format!("{:?} client, once {server:?} server", watcher.era);
            eventually_some(PATIENCE, &whose, async || {
                house.update(1, 1).await;
                watcher.stream.next_method(UPDATED, QUIET).await.ok().filter(|told| told["params"]["own"] == 1)
            })
            .await;
        }
        for watcher in watchers {
            watcher.leave().await;
        }
        house.watches(&[]).await;
    }
}

#[tokio::test]
async fn what_the_configuration_keeps_apart_is_watched_apart() {
    for server in ERAS {
        let house = House::with(server, |script| script, "share: per_session").await;
        let mut watchers = Vec::new();
        for _ in 0..2 {
            watchers.push(house.watcher(Era::Legacy, "/mcp", 1).await);
        }
        house.watches(&[1, 1]).await;
        house.is_heard().await;
        if server == Era::Legacy {
            let streams = || house.server.received().iter().filter(|request| request.http_method == "GET").count() >= 2;
            eventually(PATIENCE, "a GET stream for each session", streams).await;
        }
        house.update(1, 1).await;
        for watcher in &mut watchers {
            watcher.hears(1, &format!("{server:?} server")).await;
        }
        for watcher in &mut watchers {
            watcher.hears_nothing("once").await;
        }
        for watcher in watchers {
            watcher.leave().await;
        }
        house.watches(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_did_not_read_is_told_again_when_it_does() {
    const MESSAGES: u64 = 400;
    let server = ScriptedServer::start(Script::legacy().resources_and_prompts(3, 0)).await;
    let yaml = format!("sessions: {{ stream_queue: 4 }}\nservers: {{ a: {{ url: \"{}\" }} }}\n", server.url());
    let gateway = Gateway::start(&yaml).await;
    rows::until_listed(&gateway, "a").await;
    let client = gateway.modern("/mcp");
    let (mut stream, _) = listen(&client, json!({"resourceSubscriptions": [uri(1), uri(2)]})).await;
    let mut reader = Watcher::new(&gateway, Era::Modern, "/mcp", &uri(2)).await;
    let filling = "x".repeat(64 * 1024);
    for own in 0..MESSAGES {
        server.notify(UPDATED, &json!({"uri": uri(1), "own": own, "filling": filling})).await;
    }
    server.notify(UPDATED, &json!({"uri": uri(2), "own": 1})).await;
    // It comes over the same link after all of the others.
    reader.hears(1, "a client that reads").await;
    gateway.logged("a listener reads too slowly").await;
    // What was dropped is made good by telling that everything may have changed.
    let mut told_again = Vec::new();
    while told_again.len() < 2 {
        let told = stream.next_method(UPDATED, PATIENCE).await.unwrap();
        if told["params"].get("own").is_none() {
            told_again.push(told["params"]["uri"].clone());
        }
    }
    assert_eq!(told_again, [json!(uri(1)), json!(uri(2))]);
}

#[tokio::test]
async fn a_stream_that_is_not_acknowledged_ends_no_other() {
    let house = House::with(Era::Modern, |script| Script { unacknowledged: Some(uri(2)), ..script }, "").await;
    let mut watchers = [house.watcher(Era::Legacy, "/mcp", 1).await, house.watcher(Era::Modern, "/mcp", 1).await];
    let late = house.gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let answer = late.request("resources/subscribe", json!({"uri": uri(2)})).await.unwrap();
    assert!(answer.error()["code"].is_i64(), "{}", answer.error());
    house.update(1, 1).await;
    for watcher in &mut watchers {
        watcher.hears(1, "the stream of before").await;
    }
    house.server.change(|script| script.unacknowledged = None);
    let mut late = house.watcher(Era::Legacy, "/mcp", 2).await;
    house.update(2, 2).await;
    late.hears(2, "whoever asks again").await;
    house.update(1, 3).await;
    for watcher in &mut watchers {
        watcher.hears(3, "the stream after").await;
    }
}

#[tokio::test]
async fn what_a_server_takes_back_is_asked_for_anew_and_then_over() {
    for server in ERAS {
        let mut house = House::new(server).await;
        let mut listener = house.watcher(Era::Modern, "/mcp", 1).await;
        let session = house.watcher(Era::Legacy, "/mcp", 1).await;
        let other = house.watcher(Era::Modern, "/mcp", 2).await;
        house.server.change(|script| script.unwatchable.push(uri(1)));
        if server == Era::Legacy {
            house.server.restart().await.unwrap();
        } else {
            // Another set of resources is another stream.
            drop(house.watcher(Era::Modern, "/mcp", 3).await);
        }
        // It was told that it listens to this, so its stream ends when it does not.
        let end = loop {
            let said = listener.stream.next(PATIENCE).await.unwrap().expect("it says that it ends").json();
            if said.get("method").is_none() {
                break said;
            }
        };
        assert_eq!(end["result"]["resultType"], "complete", "{server:?}: {end}");
        house.server.change(|script| script.unwatchable.clear());
        let mut again = house.watcher(Era::Modern, "/mcp", 1).await;
        house.is_heard().await;
        house.update(1, 1).await;
        again.hears(1, &format!("{server:?}")).await;
        drop((session, other));
    }
}
