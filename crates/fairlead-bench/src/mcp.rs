//! The little of MCP that the bench speaks: names of headers, eras, addresses.

use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::Context as _;
use serde::Serialize;

/// Revision spoken in the legacy era.
pub(crate) const LEGACY_REVISION: &str = "2025-11-25";
/// Revision spoken in the modern era.
pub(crate) const MODERN_REVISION: &str = "2026-07-28";
/// Header naming the revision of a request.
pub(crate) const VERSION_HEADER: &str = "mcp-protocol-version";
/// Header naming the session of a legacy request.
pub(crate) const SESSION_HEADER: &str = "mcp-session-id";
/// Header repeating a modern request's method.
pub(crate) const METHOD_HEADER: &str = "mcp-method";
/// Header repeating a modern request's tool name.
pub(crate) const NAME_HEADER: &str = "mcp-name";
/// Largest body that any part of the bench reads.
pub(crate) const MAX_BODY: usize = 16 << 20;

/// Protocol era: sessions (up to 2025-11-25) or stateless requests (from 2026-07-28).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Era {
    /// Up to 2025-11-25.
    Legacy,
    /// From 2026-07-28.
    Modern,
}

impl Era {
    /// The word of the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// An MCP endpoint on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Address to connect to.
    pub(crate) addr: SocketAddr,
    /// Path of the endpoint, with its leading slash.
    pub(crate) path: String,
}

impl Target {
    /// The endpoint `path` at `addr`.
    pub(crate) fn new(addr: SocketAddr, path: &str) -> Self {
        Self { addr, path: path.to_owned() }
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    /// Reads `http://IP:PORT/PATH`; an address that is not loopback is refused, because load is only for this machine.
    fn from_str(url: &str) -> anyhow::Result<Self> {
        let rest = url.strip_prefix("http://").context("the URL must begin with http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let addr: SocketAddr = authority.parse().context("the URL must name an IP address and a port")?;
        anyhow::ensure!(addr.ip().is_loopback(), "the bench only talks to loopback addresses");
        Ok(Self { addr, path: format!("/{path}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let target: Target = "http://127.0.0.1:80/a/b".parse().unwrap();
        assert_eq!((target.addr.port(), target.path.as_str()), (80, "/a/b"));
        assert_eq!("http://[::1]:80".parse::<Target>().unwrap().path, "/");
        for bad in ["https://127.0.0.1:80/", "http://localhost:80/", "http://10.0.0.1:80/mcp", "http://127.0.0.1/mcp"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
