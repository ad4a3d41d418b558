//! What real servers ask their clients: elicitation, sampling and roots, answered by official clients and by several
//! callers at once.

use std::{fs, time::Duration};

use fairlead_testkit::{McpClient, Reply};
use serde_json::{Value, json};

use super::{
    clients::{Client, Declares, Mode, Target},
    documents::{View, assert_same, merged},
    servers::{Operation, SERVERS, Shelf, World},
};
use crate::support::{Gateway, NEWEST_LEGACY, eventually_some};

/// What `server-everything` shows a client that can be asked, and one that cannot.
const TOOLS: (usize, usize) = (17, 13);
/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

fn asking() -> Vec<Operation> {
    [
        ("trigger-sampling-request", json!({"prompt": "why", "maxTokens": 7})),
        ("trigger-elicitation-request", json!({})),
        ("trigger-url-elicitation", json!({"url": "https://example.com/finish", "elicitationId": "one"})),
        ("get-roots-list", json!({})),
    ]
    .into_iter()
    .map(|(name, arguments)| Operation::Call(name.to_owned(), arguments))
    .collect()
}

/// Questions in the order of their text, each once: roots may be asked for again, and not all questions belong to an
/// operation. Log lines outside of calls come when they come.
fn settle(document: &mut Value) {
    let mut questions = document["questions"].as_array().cloned().unwrap_or_default();
    questions.sort_by_key(Value::to_string);
    questions.dedup();
    document["questions"] = questions.into();
    document.as_object_mut().unwrap().remove("logs");
}

/// A client that can be asked sees and answers the same questions through both endpoints.
async fn check(client: Client) {
    let Some(shelf) = Shelf::find() else { return };
    let world = World::new(&shelf);
    let gateway = Gateway::start(&world.gateway_config(&SERVERS)).await;
    let server = SERVERS[0];
    let command = server.command(&shelf, &world, "direct");
    let run = async |target: Target<'_>, operations: Vec<Operation>| {
        let mut seen = client.run_as(&shelf, Mode::Legacy, Declares::Everything, target, operations).await.unwrap();
        settle(&mut seen);
        seen
    };
    let direct = run(Target::Stdio(&command), asking()).await;
    assert_eq!(direct["tools"].as_array().unwrap().len(), TOOLS.0);
    assert_eq!(direct["questions"].as_array().unwrap().len(), 4, "{}", direct["questions"]);
    let through = run(Target::Url(&gateway.url("/servers/everything/mcp")), asking()).await;
    assert_same(&format!("{client:?}"), View::Single, &direct, &through);

    let prefixed = asking().into_iter().map(|operation| match operation {
        Operation::Call(name, arguments) => Operation::Call(format!("everything__{name}"), arguments),
        other => other,
    });
    let through = run(Target::Url(&gateway.url("/mcp")), prefixed.collect()).await;
    let expected = merged(&SERVERS[..1], &[&direct]);
    assert_eq!(through["questions"], direct["questions"]);
    assert_eq!(through["results"], expected["results"]);
    let names = |document: &Value| -> Vec<String> {
        let tools = document["tools"].as_array().unwrap().iter();
        tools
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .filter(|name| name.starts_with("everything__"))
            .collect()
    };
    assert_eq!(names(&through), names(&expected));
}

#[tokio::test]
async fn the_python_client_answers_the_same_questions() {
    check(Client::Python).await;
}

#[tokio::test]
async fn the_typescript_client_1_answers_the_same_questions() {
    check(Client::TypeScript1).await;
}

#[tokio::test]
async fn the_typescript_client_2_answers_the_same_questions() {
    check(Client::TypeScript2).await;
}

/// The text of every result, by tool.
fn texts(document: &Value) -> Vec<(Value, Value)> {
    let results = document["results"].as_array().unwrap().iter();
    results.map(|entry| (entry["name"].clone(), entry["result"]["content"].clone())).collect()
}

/// A client of 2026-07-28 in front of a server that asks as in the revisions before: the same questions, but that a URL
/// elicitation has no id, and the same results.
async fn check_modern(client: Client) {
    let Some(shelf) = Shelf::find() else { return };
    let world = World::new(&shelf);
    let gateway = Gateway::start(&world.gateway_config(&SERVERS[..1])).await;
    let command = SERVERS[0].command(&shelf, &world, "direct");
    let direct = client.run_as(&shelf, Mode::Legacy, Declares::Everything, Target::Stdio(&command), asking()).await;
    let mut direct = direct.unwrap();
    settle(&mut direct);
    for question in direct["questions"].as_array_mut().unwrap() {
        question["params"].as_object_mut().unwrap().remove("elicitationId");
    }
    let url = gateway.url("/servers/everything/mcp");
    // The server asks for roots some time after it was connected, and the first such question may have to be declined:
    // from then on it is known to follow them. So the first run is for learning.
    let _ = client.run_as(&shelf, Mode::Modern, Declares::Everything, Target::Url(&url), asking()).await;
    let through = client.run_as(&shelf, Mode::Modern, Declares::Everything, Target::Url(&url), asking()).await;
    let mut through = through.unwrap_or_else(|reason| panic!("{client:?}: {reason}"));
    settle(&mut through);
    assert_eq!(through["questions"], direct["questions"], "{client:?}");
    assert_eq!(texts(&through), texts(&direct), "{client:?}");
    assert_eq!(through["tools"].as_array().unwrap().len(), TOOLS.0, "{client:?}");
}

#[tokio::test]
async fn the_modern_python_client_answers_a_legacy_server() {
    check_modern(Client::Python).await;
}

#[tokio::test]
async fn the_modern_typescript_client_2_answers_a_legacy_server() {
    check_modern(Client::TypeScript2).await;
}

/// A client that answers every form with its own name, has its own root, and is sampled with its own name.
fn named(gateway: &Gateway, path: &str, name: &str) -> McpClient {
    let own = name.to_owned();
    McpClient::new(&gateway.url(path))
        .limit(LIMIT)
        .capabilities(json!({"elicitation": {"form": {}}, "sampling": {}, "roots": {}}))
        .answering(move |method, _| match method {
            "elicitation/create" => Reply::Result(json!({"action": "accept", "content": {"name": own, "check": true}})),
            "sampling/createMessage" => Reply::Result(json!({
                "role": "assistant", "model": "test", "stopReason": "endTurn",
                "content": {"type": "text", "text": format!("sampled by {own}")},
            })),
            "roots/list" => Reply::Result(json!({"roots": [{"uri": format!("file:///srv/{own}"), "name": own}]})),
            other => Reply::Error(-32601, format!("{other} is not known")),
        })
}

#[tokio::test]
async fn many_callers_of_one_real_server_answer_only_their_own_questions() {
    const CALLERS: usize = 6;
    let Some(shelf) = Shelf::find() else { return };
    let world = World::new(&shelf);
    let gateway = Gateway::start(&world.gateway_config(&SERVERS)).await;
    // A server that asks on a connection where nothing says for whom is found out by its first questions.
    let first = named(&gateway, "/mcp", "first");
    first.initialize(NEWEST_LEGACY).await.unwrap();
    for tool in ["trigger-elicitation-request", "trigger-sampling-request", "get-roots-list"] {
        let result = first.call(&format!("everything__{tool}"), arguments(tool)).await.unwrap();
        assert!(result.to_string().contains("first"), "{tool}: {result}");
    }
    let callers = (0..CALLERS).map(|number| {
        let name = format!("caller-{number}");
        let gateway = &gateway;
        async move {
            let client = named(gateway, "/mcp", &name);
            client.initialize(NEWEST_LEGACY).await.unwrap();
            for tool in ["trigger-elicitation-request", "trigger-sampling-request", "get-roots-list"] {
                let result = client.call(&format!("everything__{tool}"), arguments(tool)).await.unwrap();
                let text = result.to_string();
                assert!(text.contains(&name), "{name}: {tool}: {text}");
                assert_ne!(result["isError"], true, "{name}: {tool}: {text}");
            }
        }
    });
    futures_util::future::join_all(callers).await;
}

fn arguments(tool: &str) -> Value {
    if tool == "trigger-sampling-request" { json!({"prompt": "who", "maxTokens": 9}) } else { json!({}) }
}

#[tokio::test]
async fn what_the_server_lists_depends_on_what_the_client_declares() {
    let Some(shelf) = Shelf::find() else { return };
    let world = World::new(&shelf);
    let gateway = Gateway::start(&world.gateway_config(&SERVERS)).await;
    for path in ["/servers/everything/mcp", "/mcp"] {
        let count = async |client: McpClient| {
            client.initialize(NEWEST_LEGACY).await.unwrap();
            let tools = client.list("tools/list", "tools").await.unwrap();
            let ours = tools.iter().filter(|tool| {
                let name = tool["name"].as_str().unwrap();
                path != "/mcp" || name.starts_with("everything__")
            });
            ours.count()
        };
        // In turns: neither sees what the other may.
        for _ in 0..2 {
            let full = named(&gateway, path, "full").capabilities(json!({
                "elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {},
            }));
            assert_eq!(count(full).await, TOOLS.0, "{path}");
            assert_eq!(count(McpClient::new(&gateway.url(path)).limit(LIMIT)).await, TOOLS.1, "{path}");
        }
    }
}

#[tokio::test]
async fn a_server_that_follows_roots_serves_each_caller_its_own_directories() {
    let Some(shelf) = Shelf::find() else { return };
    let world = World::new(&shelf);
    let gateway = Gateway::start(&world.gateway_config(&SERVERS)).await;
    let roots = ["alpha", "beta"].map(|name| {
        let path = fs::canonicalize(gateway.dir()).unwrap().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("own.txt"), format!("only for {name}")).unwrap();
        (name, path.to_str().unwrap().to_owned())
    });
    let of = |path: &str| {
        let uri = format!("file://{path}");
        McpClient::new(&gateway.url("/mcp"))
            .limit(LIMIT)
            .capabilities(json!({"roots": {"listChanged": true}}))
            .answering(move |method, _| match method {
                "roots/list" => Reply::Result(json!({"roots": [{"uri": uri, "name": "own"}]})),
                other => Reply::Error(-32601, format!("{other} is not known")),
            })
    };
    let clients = [of(&roots[0].1), of(&roots[1].1)];
    for client in &clients {
        client.initialize(NEWEST_LEGACY).await.unwrap();
    }
    let read = async |client: &McpClient, directory: &str| {
        let path = format!("{directory}/own.txt");
        client.call("files__read_text_file", json!({"path": path})).await.unwrap()
    };
    // Several times and in turns: it must hold from the first call on, whoever comes first.
    for round in 0..3 {
        for (at, client) in clients.iter().enumerate() {
            let (own, other) = (&roots[at], &roots[1 - at]);
            // Nothing says when a server has taken in the roots it asked for.
            eventually_some(LIMIT, "a file below the caller's own root", || async {
                let result = read(client, &own.1).await;
                result.to_string().contains(&format!("only for {}", own.0)).then_some(())
            })
            .await;
            let result = read(client, &other.1).await;
            assert_eq!(result["isError"], true, "round {round}, the other's: {result}");
            assert!(!result.to_string().contains("only for"), "round {round}: {result}");
        }
    }
    // A caller without roots is served what the configuration says.
    let plain = McpClient::new(&gateway.url("/mcp")).limit(LIMIT);
    plain.initialize(NEWEST_LEGACY).await.unwrap();
    let allowed = plain.call("files__list_allowed_directories", json!({})).await.unwrap().to_string();
    assert!(allowed.contains("documents") && !allowed.contains("alpha") && !allowed.contains("beta"), "{allowed}");
}
