//! Pooled HTTP clients for the data plane: one hyper client per worker thread, so that a connection
//! is driven by the runtime that uses it and no call crosses threads.

use bytes::Bytes;
use fairlead_config::Connections;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use std::{fmt, sync::Arc, time::Duration};

/// Which worker runtime is asking. Workers are numbered from 0; the control runtime comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker(pub usize);

impl Worker {
    /// The control runtime, where owners live.
    pub const CONTROL: Self = Self(usize::MAX);
}

/// A hyper client with its connection pool.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

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
}

impl HttpClients {
    /// Clients for `workers` runtimes (the control runtime included).
    #[must_use]
    pub fn new(workers: usize, connect: Duration, pool: &Connections, tls: &ClientConfig) -> Self {
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
                    .build(connector)
            })
            .collect();
        Self { clients }
    }

    /// The client of a worker.
    pub(crate) fn of(&self, worker: Worker) -> &HttpClient {
        &self.clients[worker.0.min(self.clients.len() - 1)]
    }
}

impl fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpClients({})", self.clients.len())
    }
}
