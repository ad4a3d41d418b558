//! The feature server and a gateway in front of it, on free loopback ports, from the built binary.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{Depth, suite::Suite};
use crate::{
    process::{self, Running},
    workspace::Workspace,
};

/// How long either may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The name the feature server has behind the gateway.
const SERVER: &str = "feature";
/// Environment variable with the path of the binary to test, if it is not the debug build.
const BINARY_VARIABLE: &str = "FAIRLEAD_BINARY";

/// In which era the gateway talks to the feature server, which speaks both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upstream {
    /// In that of the suite.
    Same,
    /// In the other one.
    Across,
}

impl Upstream {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Same, Self::Across];

    /// The least depth it belongs to.
    pub(super) fn depth(self) -> Depth {
        match self {
            Self::Same => Depth::Usual,
            Self::Across => Depth::Full,
        }
    }

    /// The revision the gateway is told to speak, where it is told.
    pub(super) fn revision(self, suite: Suite) -> Option<&'static str> {
        match (self, suite) {
            (Self::Same, _) | (Self::Across, Suite::Old) => None,
            (Self::Across, Suite::New2025) => Suite::New2026.revision(),
            (Self::Across, Suite::New2026) => Suite::New2025.revision(),
        }
    }
}

/// Both processes; they end when this is dropped, the gateway first.
pub(super) struct Processes {
    gateway: Running,
    server: Running,
    gateway_address: SocketAddr,
    server_address: SocketAddr,
    directory: PathBuf,
}

impl Processes {
    /// Starts both and waits until they are ready.
    /// `name` is the directory of this run under `target/conformance`, emptied before and kept afterwards.
    /// With a `revision` the gateway speaks that one to the server instead of detecting one.
    pub(super) fn start(workspace: &Workspace, name: &str, revision: Option<&str>) -> Result<Self> {
        let binary = binary(workspace)?;
        let (server_address, gateway_address) = (process::free_address()?, process::free_address()?);
        let directory = workspace.target_directory().join("conformance").join(name);
        if directory.exists() {
            std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let config = directory.join("fairlead.yaml");
        std::fs::write(&config, configuration(gateway_address, server_address, revision))?;

        let mut server = Running::start(
            "the feature server",
            Command::new(&binary).args(["demo-server", "feature", "--http", &server_address.to_string()]),
            &directory.join("server.log"),
        )?;
        server.wait_until(READY_LIMIT, || process::accepts(server_address))?;
        let mut gateway = Running::start(
            "the gateway",
            Command::new(&binary).arg("up").arg("-c").arg(&config).current_dir(&directory),
            &directory.join("gateway.log"),
        )?;
        gateway
            .wait_until(READY_LIMIT, || is_ready(gateway_address))
            .with_context(|| format!("see {}", directory.join("gateway.log").display()))?;
        Ok(Self { gateway, server, gateway_address, server_address, directory })
    }

    /// The server itself.
    pub(super) fn direct_url(&self) -> String {
        format!("http://{}/mcp", self.server_address)
    }

    /// The server behind the gateway, its own names unchanged.
    pub(super) fn through_url(&self) -> String {
        format!("http://{}/servers/{SERVER}/mcp", self.gateway_address)
    }

    /// Fails if one of them ended during the run.
    pub(super) fn still_alive(&mut self) -> Result<()> {
        let logs = self.directory.display().to_string();
        self.server.alive().and_then(|()| self.gateway.alive()).with_context(|| format!("logs in {logs}"))
    }
}

/// The binary under test.
pub(super) fn binary(workspace: &Workspace) -> Result<PathBuf> {
    let binary = std::env::var_os(BINARY_VARIABLE)
        .map_or_else(|| workspace.target_directory().join("debug/fairlead"), PathBuf::from);
    if !binary.is_file() {
        bail!("{} is not there; `cargo build -p fairlead` builds it", binary.display());
    }
    Ok(binary)
}

fn configuration(gateway: SocketAddr, server: SocketAddr, revision: Option<&str>) -> String {
    let protocol = revision.map(|revision| format!("    protocol: \"{revision}\"\n")).unwrap_or_default();
    format!(
        "listen: {{ address: {gateway} }}\nadmin: off\ndata_dir: data\nservers:\n  {SERVER}:\n    url: http://{server}/mcp\n{protocol}"
    )
}

/// Whether `/health/ready` answers 200.
fn is_ready(address: SocketAddr) -> bool {
    const LIMIT: Duration = Duration::from_secs(2);
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer.to_vec())
    };
    ask().is_ok_and(|answer| answer.ends_with(b" 200"))
}
