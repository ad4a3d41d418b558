//! The official clients as programs that print what they saw (`tests/tools/clients`), and the Rust one in this process.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;

use super::{
    rust_client,
    servers::{Operation, Shelf},
};

/// How long one run may take, in seconds.
const LIMIT: u64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Python,
    TypeScript1,
    TypeScript2,
    Inspector,
    Rust,
}

/// How the client finds the revision to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Auto,
    Legacy,
    Modern,
}

/// What the client declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declares {
    Nothing,
    Everything,
}

impl Client {
    /// Connects to a URL without declaring anything.
    pub(crate) async fn run(
        self,
        shelf: &Shelf,
        mode: Mode,
        url: &str,
        operations: Vec<Operation>,
    ) -> Result<Value, String> {
        self.run_as(shelf, mode, Declares::Nothing, Target::Url(url), operations).await
    }

    /// Connects to a process of its own without declaring anything.
    pub(crate) async fn run_stdio(
        self,
        shelf: &Shelf,
        mode: Mode,
        command: &[String],
        operations: Vec<Operation>,
    ) -> Result<Value, String> {
        self.run_as(shelf, mode, Declares::Nothing, Target::Stdio(command), operations).await
    }

    /// Connects, does what it is told, and says what it saw; or why it did not come so far.
    pub(crate) async fn run_as(
        self,
        shelf: &Shelf,
        mode: Mode,
        declares: Declares,
        target: Target<'_>,
        mut operations: Vec<Operation>,
    ) -> Result<Value, String> {
        if self == Self::Rust {
            return rust_client::observe(mode, target, operations).await;
        }
        if self == Self::Inspector {
            // It starts a process per operation: one call of each server is enough.
            let mut seen = Vec::new();
            operations.retain(|operation| {
                let Operation::Call(name, _) = operation else { return false };
                let server = name.split_once("__").map_or("", |(server, _)| server).to_owned();
                let first = !seen.contains(&server);
                seen.push(server);
                first
            });
        }
        let mut command = self.program(shelf, target);
        command.args(["--timeout", &LIMIT.to_string()]);
        command.args(["--mode", ["auto", "legacy", "modern"][mode as usize]]);
        command.args(["--capabilities", ["none", "full"][declares as usize]]);
        for operation in &operations {
            match operation {
                Operation::Call(name, arguments) => command.args(["--call", name, &arguments.to_string()]),
                Operation::Prompt(name, arguments) => command.args(["--prompt", name, &arguments.to_string()]),
                Operation::Read(uri) => command.args(["--read", uri]),
            };
        }
        match target {
            Target::Url(url) => command.arg(url),
            Target::Secured { url, authority } => {
                command.env("SSL_CERT_FILE", authority).env("NODE_EXTRA_CA_CERTS", authority).arg(url)
            }
            Target::Stdio(server) => command.arg("--server-stdio").args(server),
        };
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(LIMIT + 10), output)
            .await
            .map_err(|_| "the client does not end".to_owned())?
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    fn program(self, shelf: &Shelf, target: Target<'_>) -> tokio::process::Command {
        // The WebSocket of this client is the one of its runtime, which has one from version 22 on.
        let needs_web_socket = matches!(target, Target::Url(url) if url.starts_with("ws:"));
        let (program, script) = match self {
            Self::TypeScript1 if needs_web_socket => (shelf.path("node22/bin/node"), "ts1_client.mjs"),
            Self::Python => (shelf.path("client-py/bin/python"), "py_client.py"),
            Self::TypeScript1 => ("node".to_owned(), "ts1_client.mjs"),
            Self::TypeScript2 => ("node".to_owned(), "ts2_client.mjs"),
            Self::Inspector => (shelf.path("node22/bin/node"), "inspector_client.mjs"),
            Self::Rust => unreachable!("it runs in this process"),
        };
        let mut command = tokio::process::Command::new(program);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/clients").join(script));
        command.env("PYTHONWARNINGS", "ignore");
        command
    }
}

/// What a client connects to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    Url(&'a str),
    /// A URL of a server that shows a certificate of this authority, PEM.
    Secured {
        url: &'a str,
        authority: &'a Path,
    },
    Stdio(&'a [String]),
}
