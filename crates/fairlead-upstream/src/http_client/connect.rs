//! Opening a connection: transport, TLS, and the handshake of the HTTP version that was agreed on.

use super::reach::Reach;
use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::{
    client::legacy::connect::Connection,
    rt::{TokioExecutor, TokioTimer},
};
use std::{error::Error, fmt, future::poll_fn, sync::Arc, time::Duration};
use tower_service::Service;

pub(super) type Body = Full<Bytes>;

/// A connection that was just opened.
pub(super) enum Opened {
    /// One request at a time.
    Http1(http1::SendRequest<Body>),
    /// Many.
    Http2(http2::SendRequest<Body>),
}

/// Why none could be. Shared by the calls that waited for it.
#[derive(Debug, Clone)]
pub(crate) struct ConnectError(Arc<dyn Error + Send + Sync>);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no connection")
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

impl From<Box<dyn Error + Send + Sync>> for ConnectError {
    fn from(cause: Box<dyn Error + Send + Sync>) -> Self {
        Self(cause.into())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it took longer than {0:?}")]
struct TooSlow(Duration);

/// How often an HTTP/2 connection with requests under way is asked for a sign of life, and how long that may take: all
/// calls share it, so one that fell silent must not outlive them.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WAIT: Duration = Duration::from_secs(10);

/// Connects within `limit`. The connection is driven by a task of the runtime this runs on, which ends when nobody
/// holds its sender (and no answer of it) any more.
pub(super) async fn connect(reach: Reach, server: Uri, limit: Duration) -> Result<Opened, ConnectError> {
    match tokio::time::timeout(limit, open(reach, server)).await {
        Ok(opened) => opened.map_err(ConnectError::from),
        Err(_) => Err(ConnectError(Arc::new(TooSlow(limit)))),
    }
}

async fn open(mut reach: Reach, server: Uri) -> Result<Opened, Box<dyn Error + Send + Sync>> {
    poll_fn(|context| reach.poll_ready(context)).await?;
    let io = reach.call(server).await?;
    if io.connected().is_negotiated_h2() {
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT)
            .handshake(io)
            .await?;
        tokio::spawn(async move { note_end(connection.await) });
        sender.ready().await?;
        return Ok(Opened::Http2(sender));
    }
    let (mut sender, connection) = http1::Builder::new().handshake(io).await?;
    tokio::spawn(async move { note_end(connection.await) });
    sender.ready().await?;
    Ok(Opened::Http1(sender))
}

fn note_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to a server ended with an error");
    }
}
