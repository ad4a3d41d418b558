//! Bundled servers for the demo, the examples and the tests, built on an implementation of MCP that is not ours.
//!
//! They exist so that a newcomer sees something work without installing anything, and so that the tests have a server
//! whose reading of the protocol does not come from this project. `feature` shows every feature of the protocol in
//! both eras and is the fixture of the official conformance suite; `crm` is a small business server with realistic
//! records. Nothing here is on the path of forwarded traffic, and nothing here keeps state beyond its process.

mod crm;
mod feature;
mod http;
mod polling;

use std::net::SocketAddr;

use anyhow::{Context as _, bail};

/// The servers that [`serve_stdio`] and [`serve_http`] know.
pub const NAMES: &[&str] = &["feature", "crm"];

/// Serves `name` on stdin and stdout until the client closes stdin.
///
/// # Errors
/// An unknown name, or a client that does not open with a request of either era.
pub async fn serve_stdio(name: &str) -> anyhow::Result<()> {
    async fn run<S: rmcp::ServerHandler>(server: S) -> anyhow::Result<()> {
        let service = rmcp::serve_server(server, rmcp::transport::io::stdio_pipes())
            .await
            .context("the client opened the connection in an unknown way")?;
        service.waiting().await.context("the server's loop stopped early")?;
        Ok(())
    }
    match name {
        "feature" => run(feature::Shared::new()?.connect()).await,
        "crm" => run(crm::Crm::new()).await,
        other => unknown(other),
    }
}

/// Serves `name` over Streamable HTTP at `http://{address}/mcp` until the returned future is dropped.
///
/// `ready` is called once with the bound address, so that port 0 can be asked for. Only loopback `Host` and `Origin`
/// values are accepted.
///
/// # Errors
/// An unknown name, or an address that cannot be bound.
pub async fn serve_http(name: &str, address: SocketAddr, ready: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    match name {
        "feature" => {
            let shared = feature::Shared::new()?;
            http::serve(address, ready, move || shared.connect()).await
        }
        "crm" => {
            let crm = crm::Crm::new();
            http::serve(address, ready, move || crm.clone()).await
        }
        other => unknown(other),
    }
}

fn unknown(name: &str) -> anyhow::Result<()> {
    bail!("there is no bundled server `{name}`; known are {}", NAMES.join(", "))
}
