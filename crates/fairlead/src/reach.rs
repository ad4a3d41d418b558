//! The way to a gateway: the control socket of a local one, or the URL of any.
//!
//! Requests over the socket have a connection each: commands make few, and a broken one then takes
//! nothing along. Whether a failure happened before anything was sent is kept apart, because only
//! then a request may be made again.

use crate::failure::{Failure, chain};
use bytes::Bytes;
use fairlead_core::Code;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Largest answer a command reads as a whole.
pub(crate) const MAX_ANSWER: usize = 256 << 20;
/// How long a connection to a URL may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The path of the MCP endpoint on a control socket, and on a URL that has no path.
const MCP_PATH: &str = "/mcp";

/// A gateway that can be asked. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reach(Arc<Way>);

enum Way {
    Socket(PathBuf),
    Url { endpoint: Uri, client: Client<HttpsConnector<HttpConnector>, Full<Bytes>> },
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    /// There was no connection: nothing was sent.
    #[error("cannot connect to the gateway")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke.
    #[error("the connection to the gateway broke")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ReachError {
    /// The same for a command that ends with it.
    pub(crate) fn failure(&self) -> Failure {
        Failure::unreachable(chain(self)).hint("`fairlead servers` shows whether a gateway runs and what it sees")
    }
}

impl Reach {
    /// The gateway behind a control socket.
    pub(crate) fn socket(path: &Path) -> Self {
        Self(Arc::new(Way::Socket(path.to_owned())))
    }

    /// The gateway (or any MCP server) at a URL; one without a path means `/mcp`.
    ///
    /// # Errors
    /// When it is not an `http` or `https` URL, or TLS cannot be set up.
    pub(crate) fn url(text: &str) -> Result<Self, Failure> {
        let unusable = || Failure::usage("the URL of the gateway cannot be used");
        let hint = "write it like http://127.0.0.1:8642/mcp";
        let url = fairlead_config::Url::parse(text).map_err(|error| unusable().because(&error).hint(hint))?;
        if url.is_websocket() {
            return Err(unusable().hint(hint));
        }
        let endpoint = if url.path_and_query() == "/" {
            let mut parts = url.uri().clone().into_parts();
            parts.path_and_query = Some(PathAndQuery::from_static(MCP_PATH));
            Uri::from_parts(parts).map_err(|error| Failure::usage("the URL cannot be used").because(&error))?
        } else {
            url.uri().clone()
        };
        let tls = fairlead_upstream::http_client::tls_config(url.is_tls())
            .map_err(|error| Failure::new(Code::Internal, "cannot set up TLS").because(&error))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config((*tls).clone())
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self(Arc::new(Way::Url { endpoint, client })))
    }

    /// Whether this is the control socket of a gateway on this machine.
    pub(crate) fn is_local(&self) -> bool {
        matches!(*self.0, Way::Socket(_))
    }

    /// A request to the MCP endpoint.
    pub(crate) fn mcp(&self, method: http::Method, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = match &*self.0 {
            Way::Socket(_) => Uri::from_static(MCP_PATH),
            Way::Url { endpoint, .. } => endpoint.clone(),
        };
        let accept = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(header::ACCEPT, accept);
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }

    /// Sends a request; the answer's body is still to come.
    ///
    /// # Errors
    /// [`ReachError`].
    pub(crate) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ReachError> {
        match &*self.0 {
            Way::Socket(path) => {
                let stream =
                    tokio::net::UnixStream::connect(path).await.map_err(|error| ReachError::Connect(error.into()))?;
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| ReachError::Connect(error.into()))?;
                // Ends with the answer's body or its drop, whichever comes first.
                tokio::spawn(connection);
                request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
                sender.send_request(request).await.map_err(|error| ReachError::Lost(error.into()))
            }
            Way::Url { client, .. } => client.request(request).await.map_err(|error| {
                if error.is_connect() { ReachError::Connect(error.into()) } else { ReachError::Lost(error.into()) }
            }),
        }
    }

    /// Asks the control API of a local gateway; the answer is JSON.
    ///
    /// # Errors
    /// When there is no answer within `within`, or it is not what was asked for.
    pub(crate) async fn control<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        within: Duration,
    ) -> Result<T, Failure> {
        self.ask(http::Method::GET, path, within).await
    }

    /// The same for what changes something.
    ///
    /// # Errors
    /// As [`Reach::control`].
    pub(crate) async fn order<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        within: Duration,
    ) -> Result<T, Failure> {
        self.ask(http::Method::POST, path, within).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        within: Duration,
    ) -> Result<T, Failure> {
        let uri: Uri =
            path.parse().map_err(|error: http::uri::InvalidUri| Failure::usage("bad name").because(&error))?;
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let exchange = async {
            let response = self.send(request).await.map_err(|error| error.failure())?;
            let status = response.status();
            let body = collect(response.into_body()).await?;
            if status.is_success() {
                serde_json::from_slice(&body).map_err(|error| {
                    Failure::new(Code::Internal, "the running gateway answers in an unknown form")
                        .because(&error)
                        .hint("it may be of another version: restart it")
                })
            } else {
                Err(Failure::new(Code::Internal, format!("the running gateway answered HTTP {status}"))
                    .hint("it may be of another version: restart it"))
            }
        };
        tokio::time::timeout(within, exchange).await.map_err(|_| {
            Failure::unreachable(format!("the running gateway did not answer within {} s", within.as_secs()))
        })?
    }
}

/// A whole body, bounded by [`MAX_ANSWER`].
///
/// # Errors
/// When it breaks off or is larger.
pub(crate) async fn collect(body: Incoming) -> Result<Bytes, Failure> {
    Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::unreachable("the answer of the gateway broke off").because(error.as_ref()))
}
