//! The accept loop of the bundled servers: Streamable HTTP at `/mcp`, everything else is 404.
//!
//! Sessions and connections belong to the future that serves them: dropping it ends both.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rmcp::{
    ServerHandler,
    transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService},
};
use tokio::{net::TcpListener, task::JoinSet};

use crate::polling::PollingSessions;

const PATH: &str = "/mcp";
/// Connections served at once; later ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 8_192;
/// Request bodies up to here are read; larger ones get 413.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Pause after a failed accept (the process is out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Binds `address` and serves until dropped; `connect` makes the handler of a session or of a stateless request.
pub(crate) async fn serve<S: ServerHandler>(
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
    connect: impl Fn() -> S + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr().context("the listener has no address")?;
    let config = StreamableHttpServerConfig::default()
        .with_allowed_origins(["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"])
        .enforce_origin_validation()
        .with_max_request_body_bytes(MAX_BODY_BYTES);
    let _sessions_end_with_us = config.cancellation_token.clone().drop_guard();
    let service = StreamableHttpService::new(move || Ok(connect()), Arc::new(PollingSessions::default()), config);
    let mut connections = JoinSet::new();
    ready(bound);
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        stream.set_nodelay(true).ok();
        let service = service.clone();
        connections.spawn(async move {
            let answer = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let service = service.clone();
                async move {
                    if request.uri().path() == PATH {
                        return Ok::<_, Infallible>(service.handle(request).await);
                    }
                    Ok(not_found())
                }
            });
            // A connection that breaks is the client's business; there is nobody here to tell.
            hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await
                .ok();
        });
    }
}

fn not_found() -> http::Response<BoxBody<Bytes, Infallible>> {
    let mut response = http::Response::new(Full::new(Bytes::from_static(b"the endpoint is /mcp\n")).boxed());
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}
