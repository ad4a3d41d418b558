//! Other people's servers and clients: what an official client sees through the gateway is what it sees when it is
//! connected to the server itself.
//!
//! Five servers from the package indexes stand behind one gateway, with the configuration of `examples/first-servers`
//! and the installed programs in place of `npx` and `uvx`. Each official client describes everything it sees, once
//! connected to the server over stdio, once through `/servers/{server}/mcp`, once through `/mcp`, and once through
//! `fairlead stdio`, which bridges to the same gateway. Frameworks see less of MCP and are in `frameworks`.

mod clients;
mod documents;
mod frameworks;
mod questions;
mod rust_client;
mod servers;

use std::collections::BTreeMap;

use fairlead_testkit::{Script, ScriptedServer};
use serde_json::{Value, json};

use self::{
    clients::{Client, Declares, Mode, Target},
    documents::{View, assert_same, merged},
    servers::{Operation, SERVERS, Server, Shelf, World},
};
use crate::{
    support::{Gateway, program},
    tls::Files,
};

/// One server in each of two languages, where the servers are not the question.
const TWO: [&Server; 2] = [SERVERS[0], SERVERS[3]];

/// What a client reaches the gateway over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Http,
    Sse,
    WebSocket,
}

impl Over {
    /// The URL below `/servers/{server}`, or of everything.
    fn url(self, gateway: &Gateway, before: &str) -> String {
        match self {
            Self::Http => gateway.url(&format!("{before}/mcp")),
            Self::Sse => gateway.url(&format!("{before}/sse")),
            Self::WebSocket => gateway.url(&format!("{before}/ws")).replacen("http", "ws", 1),
        }
    }
}

/// Runs one client in each of its modes against the servers themselves and against the gateway.
async fn check(client: Client, modes: &[Mode], servers: &[&Server]) {
    check_over(Over::Http, client, modes, servers).await;
}

async fn check_over(over: Over, client: Client, modes: &[Mode], servers: &[&Server]) {
    let Some(shelf) = Shelf::find() else { return };
    let world = World::new(&shelf);
    let gateway = Gateway::start(&world.gateway_config(servers)).await;
    let case = Case { client, shelf: &shelf, world: &world };
    let legacy = case.direct(Mode::Legacy, servers).await;
    for &mode in modes {
        // Which era is found is the question here: one server of each is enough.
        let servers = if mode == Mode::Auto { &TWO } else { servers };
        // What a server of one era shows a client of the other there is nothing direct to compare with: then its
        // legacy view is what must come through.
        let own = if mode == Mode::Legacy { BTreeMap::new() } else { case.direct(mode, servers).await };
        let direct: Vec<&Value> =
            servers.iter().map(|server| own.get(server.name).unwrap_or_else(|| &legacy[server.name])).collect();
        let runs = servers.iter().map(|server| {
            let url = over.url(&gateway, &format!("/servers/{}", server.name));
            case.run(mode, url, server.operations(&world))
        });
        let through = futures_util::future::join_all(runs).await;
        for ((server, direct), through) in servers.iter().zip(&direct).zip(through) {
            let through = through.unwrap_or_else(|reason| panic!("{client:?} {mode:?} {}: {reason}", server.name));
            assert_same(&format!("{client:?} {mode:?} {}", server.name), View::Single, direct, &through);
        }
        if mode == Mode::Auto {
            continue;
        }
        let expected = merged(servers, &direct);
        let operations: Vec<_> = servers.iter().flat_map(|server| server.merged_operations(&world)).collect();
        let through = case.run(mode, over.url(&gateway, ""), operations.clone()).await.unwrap();
        assert_same(&format!("{client:?} {mode:?} /mcp"), View::Merged, &expected, &through);
        if client != Client::Inspector && over == Over::Http {
            let bridge = [program(), "stdio", "-c", gateway.config_path().to_str().unwrap()].map(str::to_owned);
            let through = client.run_stdio(&shelf, mode, &bridge, operations).await.unwrap();
            assert_same(&format!("{client:?} {mode:?} fairlead stdio"), View::Merged, &expected, &through);
        }
    }
}

struct Case<'a> {
    client: Client,
    shelf: &'a Shelf,
    world: &'a World,
}

impl Case<'_> {
    async fn run(&self, mode: Mode, url: String, operations: Vec<Operation>) -> Result<Value, String> {
        self.client.run(self.shelf, mode, &url, operations).await
    }

    /// What the client sees of each server over stdio, by the server's name; those that have no revision in common
    /// with it are left out.
    async fn direct(&self, mode: Mode, servers: &[&Server]) -> BTreeMap<&'static str, Value> {
        let common = servers.iter().filter(|server| mode != Mode::Modern || server.modern);
        let runs = common.map(|server| async {
            let command = server.command(self.shelf, self.world, "direct");
            let seen = self.client.run_stdio(self.shelf, mode, &command, server.operations(self.world)).await;
            let seen = seen.unwrap_or_else(|reason| {
                panic!("{:?} {mode:?} {} over stdio: {reason}", self.client, server.name);
            });
            (server.name, seen)
        });
        futures_util::future::join_all(runs).await.into_iter().collect()
    }
}

#[tokio::test]
async fn the_python_client_sees_the_same_through_the_gateway() {
    check(Client::Python, &[Mode::Legacy, Mode::Modern, Mode::Auto], &SERVERS).await;
}

#[tokio::test]
async fn the_typescript_client_1_sees_the_same_through_the_gateway() {
    check(Client::TypeScript1, &[Mode::Legacy], &SERVERS).await;
}

#[tokio::test]
async fn the_typescript_client_2_sees_the_same_through_the_gateway() {
    check(Client::TypeScript2, &[Mode::Legacy, Mode::Modern, Mode::Auto], &SERVERS).await;
}

#[tokio::test]
async fn the_python_client_sees_the_same_over_http_sse() {
    check_over(Over::Sse, Client::Python, &[Mode::Legacy], &TWO).await;
}

#[tokio::test]
async fn the_typescript_client_1_sees_the_same_over_http_sse() {
    check_over(Over::Sse, Client::TypeScript1, &[Mode::Legacy], &TWO).await;
}

#[tokio::test]
async fn the_typescript_client_1_sees_the_same_over_web_socket() {
    check_over(Over::WebSocket, Client::TypeScript1, &[Mode::Legacy], &TWO).await;
}

#[tokio::test]
async fn the_inspector_sees_the_same_through_the_gateway() {
    // It starts a process per operation.
    check(Client::Inspector, &[Mode::Legacy], &SERVERS[..1]).await;
}

#[tokio::test]
async fn the_rust_client_sees_the_same_through_the_gateway() {
    check(Client::Rust, &[Mode::Legacy, Mode::Modern, Mode::Auto], &SERVERS).await;
}

#[tokio::test]
async fn official_clients_speak_tls_with_an_authority_of_ones_own() {
    let Some(shelf) = Shelf::find() else { return };
    let (files, server) = (Files::new(), ScriptedServer::start(Script::legacy().tools(1)).await);
    let servers = format!("servers:\n  a: {{ url: \"{}\" }}\n", server.url());
    let (plain, secured) = (Gateway::start(&servers).await, Gateway::start(&files.yaml("", &servers)).await);
    let (url, authority) = (secured.url("/mcp"), files.authority_path());
    for (client, mode) in
        [(Client::Python, Mode::Modern), (Client::TypeScript1, Mode::Legacy), (Client::TypeScript2, Mode::Auto)]
    {
        let operations = || vec![Operation::Call("a__tool_0".to_owned(), json!({"n": 1}))];
        let expected = client.run(&shelf, mode, &plain.url("/mcp"), operations()).await.unwrap();
        let target = Target::Secured { url: &url, authority: &authority };
        let seen = client.run_as(&shelf, mode, Declares::Nothing, target, operations()).await;
        assert_eq!(seen.unwrap_or_else(|error| panic!("{client:?}: {error}")), expected, "{client:?}");
        let distrusting = client.run(&shelf, mode, &url, operations()).await;
        assert!(distrusting.is_err(), "{client:?} checks certificates");
    }
}
