//! A server over WebSocket (RFC 6455): one JSON-RPC message per text frame, subprotocol `mcp`.
//!
//! The handshake is made with hyper, so that a refusal is an HTTP status with a reason, TLS is the
//! gateway's own, and a server that picks no subprotocol (many do not) is accepted. The framing is
//! tungstenite's.
//!
//! A connection on which nothing comes in is asked with a ping; without an answer it counts as dead.
//! What is sent waits in the queue of the [`Duplex`](super::duplex::Duplex) while the server does not
//! read, and callers wait for a place in it.

use super::{
    connection::{ConnectionWire, Ended, WRITE_TIME, broke, reached},
    duplex::{Outgoing, Sorter},
    http::static_headers,
    inbound::Inbound,
};
use bytes::Bytes;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header as h};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::ClientConfig;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        error::ProtocolError,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tower_service::Service;

/// The subprotocol that is offered.
const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("mcp");
/// After so long without anything from the server it is sent a ping; after as long again without
/// anything the connection counts as dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long the rest of a closing handshake is waited for.
const CLOSING: Duration = Duration::from_millis(200);
/// Memory for what was read from the socket and is no whole frame yet.
const READ_BUFFER: usize = 16 * 1024;

/// Connects to `target`.
pub(crate) async fn connect(
    target: &fairlead_config::WebSocket,
    tls: &ClientConfig,
    connect: Duration,
    deadline: Instant,
    inbound: Arc<Inbound>,
    max_message: usize,
) -> Result<ConnectionWire, UpstreamError> {
    let handshake = async {
        let stream = reached(timeout(connect, connector(tls, connect).call(http_uri(&target.url))).await)?;
        let key = generate_key();
        let request = request(target, &key);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(lost)?;
        let mut driving = pin!(connection.with_upgrades());
        let mut sending = pin!(sender.send_request(request));
        let mut is_driven = false;
        let mut response = tokio::select! {
            biased;
            response = &mut sending => response.map_err(lost)?,
            // The answer may have come together with the end of the HTTP connection.
            _ = &mut driving => {
                is_driven = true;
                sending.await.map_err(lost)?
            }
        };
        check(&response, &key)?;
        let upgrading = hyper::upgrade::on(&mut response);
        let upgraded = if is_driven { upgrading.await } else { tokio::join!(upgrading, driving).0 };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let upgraded = TokioIo::new(upgraded.map_err(lost)?);
        Ok::<_, UpstreamError>(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
    };
    let late = || {
        let what = "it does not answer the WebSocket handshake in time";
        UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, what)
    };
    let socket = timeout_at(deadline, handshake).await.map_err(|_| late())??;
    Ok(ConnectionWire::start(inbound, |sorter, to_send| carry(socket, sorter, to_send)))
}

/// HTTP/1.1 only: WebSocket over HTTP/2 is another protocol (RFC 8441).
fn connector(tls: &ClientConfig, connect: Duration) -> hyper_rustls::HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect));
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp)
}

/// The same address in the scheme the connector knows.
fn http_uri(url: &fairlead_config::Url) -> Uri {
    let mut parts = url.uri().clone().into_parts();
    parts.scheme = Some(if url.is_tls() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    Uri::from_parts(parts).expect("invariant: only the scheme of a whole URL was changed")
}

fn request(target: &fairlead_config::WebSocket, key: &str) -> Request<Empty<Bytes>> {
    let authority = target.url.uri().authority().map_or("", http::uri::Authority::as_str);
    let host = HeaderValue::from_str(authority).ok();
    let mut headers = static_headers(target.headers.iter().map(|(name, value)| (name, value.expose())), host.as_ref());
    headers.insert(h::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(h::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(h::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(h::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    if let Ok(key) = HeaderValue::from_str(key) {
        headers.insert(h::SEC_WEBSOCKET_KEY, key);
    }
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target.url.path_and_query().parse().unwrap_or_else(|_| Uri::from_static("/"));
    *request.headers_mut() = headers;
    request
}

/// Whether the server agreed to the handshake (RFC 6455, section 4.1).
fn check(response: &Response<Incoming>, key: &str) -> Result<(), UpstreamError> {
    let status = response.status();
    let unavailable = |what: String| Err(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, what));
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        return unavailable(format!("it refuses the gateway's credentials (HTTP {})", status.as_u16()));
    }
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return unavailable(format!("it answered the WebSocket handshake with HTTP {}", status.as_u16()));
    }
    let header = |name| response.headers().get(name).map(HeaderValue::as_bytes);
    let wrong = |what| Err(UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::NotMade, what));
    if !header(h::UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
        || header(h::SEC_WEBSOCKET_ACCEPT) != Some(derive_accept_key(key.as_bytes()).as_bytes())
    {
        return wrong("its answer to the WebSocket handshake is not valid");
    }
    if header(h::SEC_WEBSOCKET_PROTOCOL).is_some_and(|chosen| chosen != SUBPROTOCOL.as_bytes())
        || header(h::SEC_WEBSOCKET_EXTENSIONS).is_some()
    {
        return wrong("it chose a WebSocket subprotocol or extension that was not offered");
    }
    Ok(())
}

fn lost(error: hyper::Error) -> UpstreamError {
    let what = "the connection broke during the WebSocket handshake";
    UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, what).because(error)
}

/// When something came in last.
struct Heard {
    since: Instant,
    at_ms: AtomicU64,
}

impl Heard {
    fn note(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at_ms.store(now, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.at_ms.load(Ordering::Relaxed)))
    }
}

/// Carries messages as frames.
async fn carry<S>(socket: WebSocketStream<S>, sorter: Arc<Sorter>, mut to_send: mpsc::Receiver<Outgoing>) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let heard = Heard { since: Instant::now(), at_ms: AtomicU64::new(0) };
    let writing = async {
        let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                outgoing = to_send.recv() => match outgoing {
                    Some(outgoing) if !outgoing.is_end() => {
                        let call = outgoing.call;
                        match Utf8Bytes::try_from(outgoing.bytes) {
                            Ok(text) => Message::Text(text),
                            Err(_) => {
                                let what = "the request is not UTF-8";
                                let error = UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::NotMade, what);
                                call.into_iter().for_each(|call| sorter.fail(call, error_again(&error)));
                                continue;
                            }
                        }
                    }
                    _ => {
                        let farewell = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
                        let _ = timeout(CLOSING, sink.send(Message::Close(Some(farewell)))).await;
                        return Ended::died("the gateway closed the connection");
                    }
                },
                _ = beat.tick() => match heard.silence() {
                    silence if silence >= 2 * HEARTBEAT => return Ended::died("it does not answer pings"),
                    silence if silence >= HEARTBEAT => Message::Ping(Bytes::new()),
                    _ => continue,
                },
            };
            match timeout(WRITE_TIME, sink.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return failed(&error),
                Err(_) => return Ended::died("it does not read what it is sent"),
            }
        }
    };
    let reading = async {
        loop {
            sorter.rest().await;
            let message = stream.next().await;
            heard.note();
            match message {
                Some(Ok(Message::Text(text))) => sorter.take(text.into()),
                Some(Ok(Message::Binary(bytes))) => sorter.junk(&bytes, "a binary frame"),
                Some(Ok(Message::Close(farewell))) => {
                    // Reading on sends our part of the closing handshake.
                    let _ = timeout(CLOSING, stream.next()).await;
                    return closed(farewell.as_ref());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => {
                    if matches!(error, Error::Capacity(_)) {
                        let what = "a message of the server is larger than `max_message`";
                        sorter.fail_all(UpstreamErrorKind::TooLarge, what);
                    }
                    return failed(&error);
                }
                None => return Ended::died("the server closed the connection"),
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

fn error_again(error: &UpstreamError) -> UpstreamError {
    UpstreamError::new(error.kind, error.outcome, error.message.clone())
}

fn failed(error: &Error) -> Ended {
    match error {
        Error::Io(error) => broke(error),
        Error::ConnectionClosed | Error::AlreadyClosed => Ended::died("the server closed the connection"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ended::died("the server broke the connection"),
        Error::Capacity(_) => Ended::died("it sent a message that is larger than `max_message`"),
        Error::Utf8(_) => Ended::died("it sent a text frame that is not UTF-8"),
        _ => Ended::died("it does not keep to the WebSocket protocol"),
    }
}

/// What a close code says (RFC 6455, section 7.4.1). The server's own words are not repeated: they may
/// hold anything.
fn closed(farewell: Option<&CloseFrame>) -> Ended {
    let Some(farewell) = farewell else { return Ended::died("the server closed the connection") };
    let why = match farewell.code {
        CloseCode::Normal => "the server closed the connection",
        CloseCode::Away => "the server is going away",
        CloseCode::Protocol => "the server says the gateway broke the WebSocket protocol",
        CloseCode::Unsupported | CloseCode::Invalid => "the server cannot take what the gateway sends",
        CloseCode::Policy => "the server's policy refuses the connection",
        CloseCode::Size => "the server says a message is too large for it",
        CloseCode::Error => "the server failed",
        CloseCode::Restart => "the server restarts",
        CloseCode::Again => "the server is overloaded",
        _ => "the server closed the connection for a reason of its own",
    };
    Ended::died(format!("{why} (close code {})", u16::from(farewell.code)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::LinkEvent, link::LinkKey};
    use fairlead_core::ServerName;
    use fairlead_wire::CapabilitySet;

    /// A carrier against a peer that is up to the test, and the end it comes to.
    async fn carried(peer: impl AsyncFnOnce(tokio::io::DuplexStream)) -> String {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (events, mut told) = mpsc::channel(16);
        let name = ServerName::parse("s").unwrap();
        let inbound = Arc::new(Inbound::new(
            1,
            name,
            crate::instance::Instance::new(1, "a", 1, Default::default()),
            LinkKey::legacy(CapabilitySet::BARE),
            events,
        ));
        let config = WebSocketConfig::default().max_message_size(Some(1000)).max_frame_size(Some(1000));
        let socket = WebSocketStream::from_raw_socket(ours, Role::Client, Some(config)).await;
        let _wire = ConnectionWire::start(inbound, |sorter, to_send| carry(socket, sorter, to_send));
        let ended = async {
            match told.recv().await {
                Some(LinkEvent::Closed { reason, .. }) => reason,
                other => panic!("{other:?}"),
            }
        };
        tokio::join!(timeout(Duration::from_secs(300), ended), peer(theirs)).0.expect("it ends")
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_given_up_after_two_heartbeats() {
        let before = Instant::now();
        let reason = carried(async |peer| {
            // Half open: it is there, reads nothing and says nothing.
            tokio::time::sleep(Duration::from_secs(200)).await;
            drop(peer);
        })
        .await;
        assert_eq!(reason, "it does not answer pings");
        assert!(before.elapsed() >= 2 * HEARTBEAT);
    }

    #[tokio::test(start_paused = true)]
    async fn pongs_keep_it_alive_and_close_codes_have_words() {
        for (code, words) in [
            (CloseCode::Normal, "the server closed the connection (close code 1000)"),
            (CloseCode::Away, "the server is going away (close code 1001)"),
            (CloseCode::Policy, "the server's policy refuses the connection (close code 1008)"),
            (CloseCode::Library(4001), "the server closed the connection for a reason of its own (close code 4001)"),
        ] {
            let reason = carried(async |peer| {
                let mut peer = WebSocketStream::from_raw_socket(peer, Role::Server, None).await;
                let mut pings = 0;
                // Reading answers pings.
                while pings < 5 {
                    pings += u32::from(matches!(peer.next().await, Some(Ok(Message::Ping(_)))));
                }
                let reason = Utf8Bytes::from_static("hunter2");
                peer.send(Message::Close(Some(CloseFrame { code, reason }))).await.unwrap();
                while peer.next().await.is_some() {}
            })
            .await;
            assert_eq!(reason, words);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_no_server_should_send() {
        for (frame, words) in [
            (&b"\x82\x01x\x88\x02\x03\xe8"[..], "the server closed the connection (close code 1000)"),
            (b"\x81\x02\xff\xfe", "it sent a text frame that is not UTF-8"),
            (b"\x81\x7e\x10\x00", "it sent a message that is larger than `max_message`"),
            (b"\x83\x00", "it does not keep to the WebSocket protocol"),
            (b"\x81\x81\0\0\0\0x", "it does not keep to the WebSocket protocol"),
            (b"", "the server broke the connection"),
        ] {
            let reason = carried(async |mut peer| {
                tokio::io::AsyncWriteExt::write_all(&mut peer, frame).await.unwrap();
                let mut rest = Vec::new();
                if !frame.is_empty() {
                    let _ = tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut rest).await;
                }
            })
            .await;
            assert_eq!(reason, words, "{frame:?}");
        }
    }
}
