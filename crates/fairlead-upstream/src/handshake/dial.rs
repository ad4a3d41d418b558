//! Starting the transport of a link, and which of the two HTTP transports a server speaks.

use super::Opener;
use crate::{
    http_client::HttpClients,
    link::{
        Wire, connection,
        http::{HttpStatus, HttpWire, compression::RequestCompression, static_headers},
        inbound::Inbound,
        sse,
        stdio::StdioWire,
        websocket,
    },
};
use fairlead_coding::Coding;
use fairlead_config::{Http, HttpKind, Transport};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_process::ChildSpec;
use fairlead_wire::{Era, Revision};
use http::{HeaderMap, HeaderValue, header};
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};
use tokio::time::{Instant, timeout_at};

/// What is known of the HTTP transport of a server whose configuration does not say it. Found out by
/// the first link, forgotten when the server no longer speaks it.
#[derive(Debug)]
pub(super) struct Spoken(AtomicU8);

impl Spoken {
    const UNKNOWN: u8 = 0;
    const STREAMABLE: u8 = 1;
    const SSE: u8 = 2;

    /// What an earlier run left.
    pub(super) fn from_before(over_sse: bool) -> Self {
        Self(AtomicU8::new(if over_sse { Self::SSE } else { Self::UNKNOWN }))
    }

    fn is(&self, what: u8) -> bool {
        self.0.load(Ordering::Relaxed) == what
    }

    fn note(&self, what: u8) {
        self.0.store(what, Ordering::Relaxed);
    }
}

impl Opener {
    /// Starts the transport of a link: the process, the connection, or nothing yet over Streamable HTTP.
    pub(super) async fn start_wire(&self, inbound: &Arc<Inbound>, deadline: Instant) -> Result<Wire, UpstreamError> {
        let (connect, max_message) = (self.server.timeout.connect, self.server.max_message);
        let inbound = Arc::clone(inbound);
        match &self.server.transport {
            Transport::Stdio(stdio) => {
                let spec = ChildSpec {
                    command: stdio.command.clone(),
                    args: stdio.args.clone(),
                    env: stdio.env.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
                    cwd: stdio.cwd.clone(),
                    stop_grace: stdio.stop_grace,
                    guard: self.guard.clone(),
                };
                let Ok(Ok(slot)) = timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await else {
                    return Err(UpstreamError::new(
                        UpstreamErrorKind::AtCapacity,
                        Outcome::NotMade,
                        "its earlier processes have not ended yet (`max_sessions`)",
                    ));
                };
                StdioWire::start(&spec, inbound, max_message, slot).map(Wire::Stdio)
            }
            Transport::Http(http) if self.is_sse(http) => match self.dial_sse(http, inbound, deadline).await {
                Ok(wire) => Ok(wire),
                Err(sse::Refused::NotSpoken(error)) => {
                    if http.kind == HttpKind::Sse {
                        let hint = "without `transport: sse` its transport is detected";
                        let message = format!("{}; {hint}", error.message);
                        return Err(UpstreamError { message: message.into(), ..error });
                    }
                    // It spoke it before: the next try begins anew.
                    self.spoken.note(Spoken::UNKNOWN);
                    Err(error)
                }
                Err(sse::Refused::Failed(error)) => Err(error),
            },
            Transport::Http(http) => {
                let clients = self.clients.clone().expect("invariant: an HTTP server has HTTP clients");
                let headers = self.static_headers(http, &clients);
                let compression = RequestCompression::of(&self.server.compression);
                Ok(Wire::Http(HttpWire::new(clients, headers, inbound, max_message, compression)))
            }
            Transport::WebSocket(target) => {
                let wire = websocket::connect(target, &self.tls, connect, deadline, inbound, max_message);
                wire.await.map(Wire::Connection)
            }
            Transport::Tcp(address) => {
                connection::tcp(address, connect, inbound, max_message).await.map(Wire::Connection)
            }
            Transport::Unix(path) => connection::unix(path, connect, inbound, max_message).await.map(Wire::Connection),
        }
    }

    /// Whether the server is spoken to over HTTP+SSE, as far as is known.
    fn is_sse(&self, http: &Http) -> bool {
        http.kind == HttpKind::Sse || (http.kind == HttpKind::Detect && self.spoken.is(Spoken::SSE))
    }

    /// Whether it was found out that the server speaks HTTP+SSE.
    pub(crate) fn found_sse(&self) -> bool {
        matches!(&self.server.transport, Transport::Http(http) if http.kind == HttpKind::Detect)
            && self.spoken.is(Spoken::SSE)
    }

    /// The era that the transport leaves no choice of.
    pub(super) fn only_era(&self) -> Option<Era> {
        match &self.server.transport {
            Transport::Http(http) if self.is_sse(http) => Some(Era::Legacy),
            _ => None,
        }
    }

    /// Whether a server that refused Streamable HTTP in this way may be one of HTTP+SSE (specification
    /// 2025-11-25, backwards compatibility): it answers the POST with 400, 404 or 405, and it is
    /// not known to speak the other.
    pub(super) fn may_be_sse(&self, error: &UpstreamError, pinned: Option<Revision>) -> bool {
        let Transport::Http(http) = &self.server.transport else { return false };
        let status = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<HttpStatus>());
        http.kind == HttpKind::Detect
            && self.spoken.is(Spoken::UNKNOWN)
            && pinned.is_none_or(|revision| revision.era() == Era::Legacy)
            && status.is_some_and(|status| matches!(status.0, 400 | 404 | 405))
    }

    /// The server as one of HTTP+SSE, if it is one.
    pub(super) async fn try_sse(&self, inbound: Arc<Inbound>, deadline: Instant) -> Option<Wire> {
        let Transport::Http(http) = &self.server.transport else { return None };
        match self.dial_sse(http, inbound, deadline).await {
            Ok(wire) => {
                tracing::info!(server = %self.server.name, "the server speaks HTTP+SSE, not Streamable HTTP");
                Some(wire)
            }
            Err(refused) => {
                let error = UpstreamError::from(refused);
                tracing::debug!(server = %self.server.name, "it is no HTTP+SSE server either: {error}");
                None
            }
        }
    }

    async fn dial_sse(&self, http: &Http, inbound: Arc<Inbound>, deadline: Instant) -> Result<Wire, sse::Refused> {
        let clients = self.clients.as_ref().expect("invariant: an HTTP server has HTTP clients");
        let headers = self.static_headers(http, clients);
        let max_message = self.server.max_message;
        sse::connect(clients, http.url.uri(), &headers, deadline, inbound, max_message).await.map(Wire::Connection)
    }

    /// The headers of every request to it.
    fn static_headers(&self, http: &Http, clients: &HttpClients) -> HeaderMap {
        let mut headers = static_headers(exposed(&http.headers), Some(clients.host()));
        if self.server.compression.answers {
            headers.entry(header::ACCEPT_ENCODING).or_insert(HeaderValue::from_static(Coding::ACCEPT));
        }
        headers
    }

    /// Notes what a link was opened over.
    pub(super) fn opened_over(&self, wire: &Wire) {
        self.spoken.note(match wire {
            Wire::Http(_) => Spoken::STREAMABLE,
            _ => Spoken::SSE,
        });
    }
}

fn exposed(headers: &[(http::HeaderName, fairlead_config::Secret)]) -> impl Iterator<Item = (&http::HeaderName, &str)> {
    headers.iter().map(|(name, value)| (name, value.expose()))
}
