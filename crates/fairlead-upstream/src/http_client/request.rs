//! A request over a pooled connection, and the answer that holds the connection until it was read.

use super::{
    connect::{self, ConnectError},
    counts::Closed,
    pool::{Held, Pool, Taken},
};
use bytes::Bytes;
use fairlead_coding::{Coding, DecodeError, Decoder};
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::timeout;

/// What is read of an answer's rest for the sake of its connection, and for how long.
const REST: (usize, Duration) = (64 * 1024, Duration::from_millis(500));
/// How much earlier than its server would a connection is given up, so that no request crosses its end.
const KEEP_MARGIN: Duration = Duration::from_secs(1);

/// The answer to a request, once its head is there.
pub(crate) type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, PoolError>> + Send + Sync>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// No connection could be opened.
    #[error("cannot connect")]
    Connect(#[source] ConnectError),
    /// All connections there may be were in use for that long.
    #[error("no connection was free within {0:?}")]
    AcquireTimeout(Duration),
    /// The connection ended before anything was sent over it.
    #[error("the connection ended before the request was sent")]
    NotSent(#[source] hyper::Error),
    /// The connection broke when the request was, or may have been, on its way.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// The pool is being taken down.
    #[error("the pool is closed")]
    Gone,
}

impl PoolError {
    /// Whether there was no connection at all.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_))
    }
}

impl Pool {
    /// Sends a request, addressed to a path of the server, over a connection of the pool.
    pub(crate) fn request(self: &Arc<Self>, request: Request<connect::Body>) -> ResponseFuture {
        Box::pin(send(Arc::clone(self), request))
    }
}

/// Tries again only what certainly was not sent, which only happens on a connection that rested: each time there is
/// one less of those.
async fn send(pool: Arc<Pool>, mut request: Request<connect::Body>) -> Result<Response<Body>, PoolError> {
    loop {
        let (mut error, first) = match pool.acquire().await? {
            Taken::Own(mut held) => {
                let conn = held.conn();
                let first = conn.uses == 0;
                conn.uses = conn.uses.saturating_add(1);
                relative(&mut request, &pool.server);
                match conn.sender.try_send_request(request).await {
                    Ok(response) => return Ok(decoding(&pool, answer(held, first, response))),
                    Err(error) => {
                        held.close(Closed::Ended);
                        (error, first)
                    }
                }
            }
            Taken::Shared { mut sender, number, fresh } => {
                absolute(&mut request, &pool.server);
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        return Ok(decoding(&pool, response.map(|incoming| Body::new(incoming, None))));
                    }
                    Err(error) => {
                        // One stream that failed says nothing of the others.
                        if error.message().is_some() || sender.is_closed() {
                            pool.forget(number);
                        }
                        (error, fresh)
                    }
                }
            }
        };
        request = match error.take_message() {
            Some(unsent) if !first => unsent,
            Some(_) => return Err(PoolError::NotSent(error.into_error())),
            None => return Err(PoolError::Broken(error.into_error())),
        };
    }
}

fn answer(mut held: Held, first: bool, response: Response<Incoming>) -> Response<Body> {
    if first && let Some(keep) = kept_for(response.headers()) {
        let conn = held.conn();
        conn.keep = conn.keep.min(keep);
    }
    // A short answer is complete by now: its connection is free for the next call.
    let held = if held.is_ready() { None } else { Some(held) };
    response.map(|incoming| Body::new(incoming, held))
}

/// Has the answer decoded where the server was told that it may compress it.
fn decoding(pool: &Pool, mut response: Response<Body>) -> Response<Body> {
    if !pool.decodes() {
        return response;
    }
    let said = response.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    if let Some(decoder) = said.and_then(Coding::from_name).and_then(|coding| Decoder::new(coding).ok()) {
        response.body_mut().decoder = Some(Box::new(decoder));
    }
    response
}

/// How long a connection may rest, by a server that says how long it keeps one (`Keep-Alive: timeout=5`).
fn kept_for(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = said.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())?;
    let kept = Duration::from_secs(seconds);
    Some(kept.checked_sub(KEEP_MARGIN).unwrap_or_default().max(kept / 2))
}

/// HTTP/2 names the server in the address of the request, not in a header.
fn absolute(request: &mut Request<connect::Body>, server: &Uri) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = server.scheme().cloned();
    parts.authority = server.authority().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    let named = |host: &http::HeaderValue| server.authority().is_some_and(|a| a.as_str().as_bytes() == host.as_bytes());
    if request.headers().get(header::HOST).is_some_and(named) {
        request.headers_mut().remove(header::HOST);
    }
}

/// What [`absolute`] did is undone for a connection of HTTP/1.1.
fn relative(request: &mut Request<connect::Body>, server: &Uri) {
    if request.uri().authority().is_none() {
        return;
    }
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    let host = server.authority().and_then(|named| http::HeaderValue::from_str(named.as_str()).ok());
    if let (false, Some(host)) = (request.headers().contains_key(header::HOST), host) {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// The body of an answer. Its connection goes back to the pool when it was read to the end, and is closed when it is
/// dropped before.
pub(crate) struct Body {
    incoming: Incoming,
    held: Option<Held>,
    decoder: Option<Box<Decoder>>,
}

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection broke.
    #[error("the connection broke")]
    Connection(#[source] hyper::Error),
    /// It cannot be decoded.
    #[error(transparent)]
    Coding(DecodeError),
}

impl Body {
    fn new(incoming: Incoming, held: Option<Held>) -> Self {
        Self { incoming, held, decoder: None }
    }

    /// Nothing more of it is needed: what is left (the end, as a rule) is read for the sake of the connection, for a
    /// moment and in the background.
    pub(crate) fn finish(mut self) {
        let Some(held) = self.held.take() else { return };
        let mut incoming = self.incoming;
        let mut left = REST.0;
        loop {
            match incoming.frame().now_or_never() {
                Some(None) => return held.settle(),
                Some(Some(Err(_))) => return held.close(Closed::Ended),
                Some(Some(Ok(frame))) => left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len)),
                None => break,
            }
        }
        held.settle_after(async move {
            let rest = async {
                while let Some(Ok(frame)) = incoming.frame().await {
                    left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                    if left == 0 {
                        return false;
                    }
                }
                true
            };
            timeout(REST.1, rest).await.unwrap_or(false)
        });
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.decoder.is_some() {
            return self.poll_decoded(context);
        }
        self.poll_received(context).map_err(BodyError::Connection)
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.decoder.is_some() { SizeHint::default() } else { self.incoming.size_hint() }
    }
}

impl Body {
    /// Decodes what is there before it takes more: whoever reads decides how much that may be.
    fn poll_decoded(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Poll::Ready(None) };
            match decoder.next() {
                Ok(Some(part)) => return Poll::Ready(Some(Ok(Frame::data(part)))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Coding(error)))),
            }
            let ended = decoder.finish();
            match ready!(self.poll_received(context)) {
                Some(Ok(frame)) => {
                    if let (Ok(data), Some(decoder)) = (frame.into_data(), &mut self.decoder) {
                        decoder.push(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Connection(error)))),
                None => return Poll::Ready(ended.err().map(|error| Err(BodyError::Coding(error)))),
            }
        }
    }

    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        match (&frame, &self.held) {
            (None, Some(_)) => {
                if let Some(held) = self.held.take() {
                    held.settle();
                }
            }
            (Some(Err(_)), Some(_)) => {
                if let Some(held) = self.held.take() {
                    held.close(Closed::Ended);
                }
            }
            _ => {}
        }
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_how_long_it_keeps_connections() {
        let table = [
            (Some("timeout=5"), Some(4_000)),
            (Some("timeout=5, max=100"), Some(4_000)),
            (Some("max=100, timeout=65"), Some(64_000)),
            (Some("timeout=1"), Some(500)),
            (Some("timeout=0"), Some(0)),
            (Some("timeout=soon"), None),
            (None, None),
        ];
        for (said, expected) in table {
            let mut headers = HeaderMap::new();
            if let Some(said) = said {
                headers.insert("keep-alive", said.parse().expect("a value"));
            }
            assert_eq!(kept_for(&headers), expected.map(Duration::from_millis), "{said:?}");
        }
    }

    #[test]
    fn over_http2_the_address_names_the_server() {
        let server: Uri = "https://crm.example.com:8443/mcp".parse().expect("a URI");
        for (host, kept) in [("crm.example.com:8443", false), ("other.example.com", true)] {
            let mut request = Request::new(connect::Body::default());
            *request.uri_mut() = "/mcp?x=1".parse().expect("a path");
            request.headers_mut().insert(header::HOST, host.parse().expect("a value"));
            absolute(&mut request, &server);
            assert_eq!(request.uri().to_string(), "https://crm.example.com:8443/mcp?x=1");
            assert_eq!(request.headers().contains_key(header::HOST), kept, "{host}");
            // A request that was not sent is addressed once more.
            absolute(&mut request, &server);
            assert_eq!(request.uri().path(), "/mcp");
        }
    }
}
