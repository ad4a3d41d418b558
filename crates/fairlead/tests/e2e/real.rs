//! Other people's servers and clients: what an official client sees through the gateway is what it sees when it is
//! connected to the server itself.
//!
//! Five servers from the package indexes stand behind one gateway, with the configuration of `examples/first-servers`
//! and the installed programs in place of `npx` and `uvx`. Each official client describes everything it sees, once
//! connected to the server over stdio, once through `/servers/{server}/mcp`, once through `/mcp`, and once through
//! `fairlead stdio`, which bridges to the same gateway.

mod clients;
mod documents;
mod questions;
mod rust_client;
mod servers;

use serde_json::Value;

use self::{
    clients::{Client, Mode},
    documents::{View, assert_same, merged},
    servers::{SERVERS, Server, Shelf, World},
};
use crate::support::{Gateway, program};

/// Runs one client in each of its modes against the servers themselves and against the gateway.
async fn check(client: Client, modes: &[Mode], servers: &[&Server]) {
    let Some(shelf) = Shelf::find() else { return };
    let world = World::new(&shelf);
    let gateway = Gateway::start(&world.gateway_config(servers)).await;
    let legacy = direct(&shelf, &world, client, Mode::Legacy, servers).await;
    for &mode in modes {
        // What a server of one era shows a client of the other there is nothing direct to compare with: then its
        // legacy view is what must come through.
        let direct =
            if mode == Mode::Legacy { legacy.clone() } else { direct(&shelf, &world, client, mode, servers).await };
        let direct: Vec<&Value> =
            direct.iter().zip(&legacy).map(|(own, legacy)| own.as_ref().or(legacy.as_ref()).unwrap()).collect();
        let runs = servers.iter().map(|server| {
            let url = gateway.url(&format!("/servers/{}/mcp", server.name));
            let operations = server.operations(&world);
            let shelf = &shelf;
            async move { client.run(shelf, mode, &url, operations).await }
        });
        let through = futures_util::future::join_all(runs).await;
        for ((server, direct), through) in servers.iter().zip(&direct).zip(through) {
            let through = through.unwrap_or_else(|reason| panic!("{client:?} {mode:?} {}: {reason}", server.name));
            assert_same(&format!("{client:?} {mode:?} {}", server.name), View::Single, direct, &through);
        }
        let expected = merged(servers, &direct);
        let operations: Vec<_> = servers.iter().flat_map(|server| server.merged_operations(&world)).collect();
        let through = client.run(&shelf, mode, &gateway.url("/mcp"), operations.clone()).await.unwrap();
        assert_same(&format!("{client:?} {mode:?} /mcp"), View::Merged, &expected, &through);
        let bridge = [program(), "stdio", "-c", gateway.config_path().to_str().unwrap()].map(str::to_owned);
        let through = client.run_stdio(&shelf, mode, &bridge, operations).await.unwrap();
        assert_same(&format!("{client:?} {mode:?} fairlead stdio"), View::Merged, &expected, &through);
    }
}

/// What the client sees of each server over stdio; `None` where they have no revision in common.
async fn direct(shelf: &Shelf, world: &World, client: Client, mode: Mode, servers: &[&Server]) -> Vec<Option<Value>> {
    let runs = servers.iter().map(|server| async {
        let command = server.command(shelf, world, "direct");
        let seen = client.run_stdio(shelf, mode, &command, server.operations(world)).await;
        match seen {
            Ok(seen) => Some(seen),
            Err(_) if mode == Mode::Modern && !server.modern => None,
            Err(reason) => panic!("{client:?} {mode:?} {} over stdio: {reason}", server.name),
        }
    });
    futures_util::future::join_all(runs).await
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
async fn the_inspector_sees_the_same_through_the_gateway() {
    // It starts a process per operation: one server of each language.
    check(Client::Inspector, &[Mode::Legacy], &[SERVERS[0], SERVERS[3]]).await;
}

#[tokio::test]
async fn the_rust_client_sees_the_same_through_the_gateway() {
    check(Client::Rust, &[Mode::Legacy, Mode::Modern, Mode::Auto], &SERVERS).await;
}
