//! Connections of the data plane to servers reached over HTTP: one pool per worker thread, so that a connection
//! is driven by the runtime that uses it and no call crosses threads.
//!
//! `pool` keeps the connections, `connect` opens them by way of `reach`, `request` sends over them.

mod connect;
mod counts;
mod pool;
mod reach;
mod request;

pub use counts::PoolStats;
pub(crate) use request::{Body, PoolError, ResponseFuture};

use fairlead_config::Connections;
use http::{
    HeaderValue, Uri,
    uri::{PathAndQuery, Scheme},
};
use pool::{Pool, Rules};
use reach::Reach;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use std::{error::Error, fmt, io, path::Path, sync::Arc, time::Duration};

/// Which worker runtime is asking. Workers are numbered from 0; the control runtime comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker(pub usize);

impl Worker {
    /// The control runtime, where owners live.
    pub const CONTROL: Self = Self(usize::MAX);
}

/// How upstream TLS is checked: by the platform's roots when some server is reached by `https`,
/// and without any roots (so that a handshake would fail) when none is. Reading the roots costs
/// tens of milliseconds, so it is done once and only when needed.
///
/// # Errors
/// When the platform's root certificates cannot be loaded.
pub fn tls_config(any_https: bool) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = if any_https {
        builder.with_platform_verifier()?.with_no_client_auth()
    } else {
        builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    };
    Ok(Arc::new(config))
}

/// Why there is no connection, in the words of an operator: a certificate that is not accepted is no wire that broke.
pub(crate) fn why_unreachable(error: &(dyn Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_)) => return "its certificate is not accepted",
            Some(_) => return "no TLS can be agreed on with it",
            None => {}
        }
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    "it cannot be reached"
}

/// The pools of one server.
#[derive(Clone)]
pub struct HttpClients {
    /// One per worker.
    pools: Arc<[Arc<Pool>]>,
    /// The one for calls where the connections of all workers together are bounded.
    bounded: Option<Arc<Pool>>,
    address: Uri,
    host: HeaderValue,
}

impl HttpClients {
    /// Pools of the server at `server`, which may listen on a Unix `socket`, for `workers` runtimes
    /// (the control runtime included).
    #[must_use]
    pub fn new(
        workers: usize,
        server: &Uri,
        socket: Option<&Path>,
        connect: Duration,
        connections: &Connections,
        decodes: bool,
        tls: &ClientConfig,
    ) -> Self {
        let pool = |connections: Connections| {
            Pool::new(Reach::new(socket, connect, tls), server.clone(), Rules { connections, connect, decodes })
        };
        let of_worker = |number: usize| {
            // What is opened ahead is for calls, and those of the control runtime are few.
            let ahead = if connections.max.is_none() && number + 1 < workers { connections.min_idle } else { 0 };
            pool(Connections { min_idle: ahead, max: None, ..connections.clone() })
        };
        let pools = (0..workers.max(1)).map(of_worker).collect();
        let bounded = connections.max.is_some().then(|| pool(connections.clone()));
        Self { pools, bounded, address: path_of(server), host: host_of(server) }
    }

    /// What requests are addressed to.
    pub(crate) fn address(&self) -> &Uri {
        &self.address
    }

    /// The same server's address of another path.
    pub(crate) fn at(&self, path: PathAndQuery) -> Uri {
        Uri::from(path)
    }

    /// What their `Host` header says.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The pool for the calls of a worker.
    pub(crate) fn of(&self, worker: Worker) -> &Arc<Pool> {
        self.bounded.as_ref().unwrap_or_else(|| self.listening(worker))
    }

    /// The pool for what a worker keeps open to listen on: that must not keep calls from their connections.
    pub(crate) fn listening(&self, worker: Worker) -> &Arc<Pool> {
        &self.pools[worker.0.min(self.pools.len() - 1)]
    }

    /// Closes what has rested or lived too long, and opens connections ahead. To be called on the runtime of `worker`.
    pub(crate) fn tend(&self, worker: Worker) {
        self.listening(worker).tend();
        if let Some(bounded) = &self.bounded {
            bounded.tend();
        }
    }

    /// What all of them hold.
    pub(crate) fn stats(&self) -> PoolStats {
        let mut stats = PoolStats::default();
        for pool in self.pools.iter().chain(&self.bounded) {
            pool.add_to(&mut stats);
        }
        stats
    }
}

/// What a request line names: the server is known by its connection.
fn path_of(server: &Uri) -> Uri {
    server.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// The `Host` header (RFC 9110, section 7.2: the port is left out where it is the scheme's own).
fn host_of(server: &Uri) -> HeaderValue {
    let name = server.host().unwrap_or_default();
    let own = if server.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = match server.port_u16() {
        Some(port) if port != own => HeaderValue::from_str(&format!("{name}:{port}")),
        _ => HeaderValue::from_str(name),
    };
    host.unwrap_or(HeaderValue::from_static(""))
}

impl fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpClients({})", self.pools.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_a_path_and_their_host() {
        for (server, path, host) in [
            ("http://127.0.0.1:9000/mcp?x=1", "/mcp?x=1", "127.0.0.1:9000"),
            ("http://crm.example.com:80/mcp", "/mcp", "crm.example.com"),
            ("http://crm.example.com", "/", "crm.example.com"),
            ("http://[::1]:8080/mcp", "/mcp", "[::1]:8080"),
            ("https://crm.example.com/mcp", "/mcp", "crm.example.com"),
            ("https://crm.example.com:80/mcp", "/mcp", "crm.example.com:80"),
        ] {
            let uri = server.parse().expect("a URI");
            assert_eq!(path_of(&uri).to_string(), path, "{server}");
            assert_eq!(host_of(&uri), host, "{server}");
        }
    }
}
