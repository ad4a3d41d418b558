//! Runs one bundled server: `serve NAME [--http ADDR]`, on stdin and stdout when no address is given.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context("usage: serve NAME [--http ADDR]")?;
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => fairlead_demo::serve_stdio(&name).await,
        (Some("--http"), Some(address)) => {
            let address: SocketAddr = address.parse().context("the address must be IP:PORT")?;
            fairlead_demo::serve_http(&name, address, |bound| eprintln!("http://{bound}/mcp")).await
        }
        _ => bail!("usage: serve NAME [--http ADDR]"),
    }
}
