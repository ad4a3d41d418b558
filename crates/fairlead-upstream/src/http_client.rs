//! Pooled HTTP clients for the data plane: one hyper client per worker thread, so that a connection
//! is driven by the runtime that uses it and no call crosses threads.

mod reach;

use bytes::Bytes;
use fairlead_config::Connections;
use http::{
    HeaderValue, Uri,
    uri::{PathAndQuery, Scheme},
};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use reach::Reach;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use std::{fmt, path::Path, sync::Arc, time::Duration};

/// Which worker runtime is asking. Workers are numbered from 0; the control runtime comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker(pub usize);

impl Worker {
    /// The control runtime, where owners live.
    pub const CONTROL: Self = Self(usize::MAX);
}

/// A hyper client with its connection pool.
pub(crate) type HttpClient = Client<Reach, Full<Bytes>>;

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

/// One client per worker.
#[derive(Clone)]
pub struct HttpClients {
    clients: Arc<[HttpClient]>,
    address: Uri,
    host: Option<HeaderValue>,
}

impl HttpClients {
    /// Clients of the server at `server`, which may listen on a Unix `socket`, for `workers` runtimes
    /// (the control runtime included).
    #[must_use]
    pub fn new(
        workers: usize,
        server: &Uri,
        socket: Option<&Path>,
        connect: Duration,
        pool: &Connections,
        tls: &ClientConfig,
    ) -> Self {
        let clients = (0..workers.max(1))
            .map(|_| {
                let mut tcp = HttpConnector::new();
                tcp.enforce_http(false);
                tcp.set_nodelay(true);
                tcp.set_connect_timeout(Some(connect));
                tcp.set_keepalive(Some(Duration::from_secs(60)));
                let connector = hyper_rustls::HttpsConnectorBuilder::new()
                    .with_tls_config(tls.clone())
                    .https_or_http()
                    .enable_http1()
                    .enable_http2()
                    .wrap_connector(tcp);
                Client::builder(TokioExecutor::new())
                    .pool_timer(TokioTimer::new())
                    .timer(TokioTimer::new())
                    .pool_idle_timeout(pool.idle_timeout)
                    .pool_max_idle_per_host(pool.max_idle)
                    .build(match socket {
                        Some(path) => Reach::Socket { path: path.into(), connect },
                        None => Reach::Net { connector, server: server.clone() },
                    })
            })
            .collect();
        let (address, host) = match short_address(server) {
            Some((address, host)) => (address, Some(host)),
            None => (server.clone(), None),
        };
        Self { clients, address, host }
    }

    /// What requests are addressed to.
    pub(crate) fn address(&self) -> &Uri {
        &self.address
    }

    /// The same server's address of another path.
    pub(crate) fn at(&self, path: PathAndQuery) -> Uri {
        let mut parts = self.address.clone().into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("invariant: only the path of a whole address was changed")
    }

    /// What their `Host` header says, where the client does not make it from the address.
    pub(crate) fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// The client of a worker.
    pub(crate) fn of(&self, worker: Worker) -> &HttpClient {
        &self.clients[worker.0.min(self.clients.len() - 1)]
    }
}

/// The one-letter form of a plain HTTP address, and the `Host` header it stands for (RFC 9110,
/// section 7.2: the port is left out where it is the scheme's own).
fn short_address(server: &Uri) -> Option<(Uri, HeaderValue)> {
    if server.scheme() != Some(&Scheme::HTTP) {
        return None;
    }
    let name = server.host()?;
    let host = match server.port_u16() {
        Some(port) if port != 80 => HeaderValue::from_str(&format!("{name}:{port}")),
        _ => HeaderValue::from_str(name),
    };
    let path = server.path_and_query().map_or("/", PathAndQuery::as_str);
    let address = Uri::builder().scheme(Scheme::HTTP).authority("s").path_and_query(path).build();
    Some((address.ok()?, host.ok()?))
}

impl fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpClients({})", self.clients.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_addresses_are_short_and_name_their_host() {
        for (server, expected) in [
            ("http://127.0.0.1:9000/mcp?x=1", Some(("http://s/mcp?x=1", "127.0.0.1:9000"))),
            ("http://crm.example.com:80/mcp", Some(("http://s/mcp", "crm.example.com"))),
            ("http://[::1]:8080/mcp", Some(("http://s/mcp", "[::1]:8080"))),
            ("https://crm.example.com/mcp", None),
        ] {
            let short = short_address(&server.parse().expect("a URI"));
            let short = short.map(|(address, host)| (address.to_string(), host.to_str().expect("text").to_owned()));
            assert_eq!(short, expected.map(|(address, host)| (address.to_owned(), host.to_owned())), "{server}");
        }
    }
}
