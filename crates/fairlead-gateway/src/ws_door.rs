//! WebSocket (RFC 6455): one JSON-RPC message per text frame, both ways.
//!
//! The handshake is an HTTP request like any other, so its `Origin`, `Host` and head are checked as always. Then the
//! connection leaves HTTP and is served here, within the task of the connection it was, so that what counts, limits
//! and stops connections goes on doing so.
//!
//! Whether a client is there is asked with pings every `listen.ws_ping`. Two are given up at the next one: a client
//! of which nothing was heard since, and one that has not taken a byte of what is being written. In between, what a
//! client does not read waits in a bounded queue, and what waits for that queue are its own calls.

use crate::{
    body::Body,
    connections::{Answer, Connection},
    duplex::{self, End, INBOX, OUTBOX, Opened},
    pipeline::not_a_message,
    response::{empty, refusal_bytes, refuse},
};
use bytes::Bytes;
use fairlead_core::{Code, Refusal};
use fairlead_wire::{Incoming, Limits};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        error::ProtocolError,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// The subprotocol of MCP; echoed to a client that offers it.
const SUBPROTOCOL: &str = "mcp";
/// Bytes read at once; an idle connection keeps that.
const READ_BUFFER: usize = 8 << 10;
/// How long a client may take over the goodbye, and over reading what was said before.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long a client that sent too much may go on sending, so that it can read why it was closed.
const LINGER: Duration = Duration::from_secs(2);

/// A connection that is about to leave HTTP; travels with the response that says so.
#[derive(Clone)]
pub(crate) struct Upgrade {
    on: OnUpgrade,
    opened: Opened,
}

/// Answers the handshake.
pub(crate) fn handshake(opened: Opened, head: &Parts) -> Result<Response<Body>, Refusal> {
    if head.method != Method::GET {
        return Err(Refusal::new(Code::HttpMethod, "a WebSocket is opened with GET"));
    }
    crate::admit::gateway(&opened.gateway)?;
    crate::overload::connection(&opened.gateway)?;
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let is_upgrade = head.version == Version::HTTP_11
        && lists(&head.headers, header::CONNECTION, "upgrade")
        && lists(&head.headers, header::UPGRADE, "websocket")
        && head.headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let (true, Some(key), Some(on)) = (is_upgrade, key, head.extensions.get::<OnUpgrade>().cloned()) else {
        let refusal = Refusal::new(
            Code::UpgradeRequired,
            "this path is a WebSocket: an upgrade of HTTP/1.1 with `Sec-WebSocket-Version: 13` is expected",
        );
        opened.gateway.metrics().refused(refusal.code);
        let mut response = refuse(None, &refusal);
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Ok(response);
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key)).expect("invariant: base64 is a header value");
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    // These names, unlike the others, are told apart by case.
    if offers(&head.headers, SUBPROTOCOL) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    response.extensions_mut().insert(Upgrade { on, opened });
    Ok(response)
}

fn items(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().flat_map(|value| value.to_str().unwrap_or_default().split(',')).map(str::trim)
}

/// Whether a header that is a list has this item, in any case.
fn lists(headers: &HeaderMap, name: header::HeaderName, item: &str) -> bool {
    items(headers, name).any(|part| part.eq_ignore_ascii_case(item))
}

fn offers(headers: &HeaderMap, subprotocol: &str) -> bool {
    items(headers, header::SEC_WEBSOCKET_PROTOCOL).any(|part| part == subprotocol)
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    /// With a close frame of ours.
    Say(CloseCode, &'static str),
    /// The client said goodbye; that is returned.
    Return,
    /// There is nobody to say anything to.
    Gone,
}

const AWAY: Close = Close::Say(CloseCode::Away, "the gateway is shutting down");

impl From<End> for Close {
    fn from(end: End) -> Self {
        match end {
            End::Gone => Close::Gone,
            End::Idle => Close::Say(CloseCode::Normal, "idle"),
            End::Drained => AWAY,
        }
    }
}

/// What is known of the other side.
#[derive(Debug, Default)]
struct Signs {
    /// Something came.
    heard: AtomicBool,
    /// A byte of what we say was taken.
    wrote: AtomicBool,
    /// Something is being said.
    writing: AtomicBool,
    /// We do not listen: what came before is not through.
    deaf: AtomicBool,
}

/// Serves the connection until it ends.
pub(crate) async fn serve(upgrade: Upgrade, connection: Arc<Connection>) {
    let Upgrade { on, opened } = upgrade;
    // For as long as this lasts the connection is not an idle one of HTTP.
    connection.request();
    let _busy = Answer::new(Body::empty(), Arc::clone(&connection));
    let Ok(io) = on.await else { return };
    let listen = &opened.gateway.config().listen;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(listen.max_body))
        .max_frame_size(Some(listen.max_body));
    let signs = Arc::new(Signs::default());
    let io = Watched { io: TokioIo::new(io), signs: Arc::clone(&signs) };
    let ws = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut sink, mut source) = ws.split();
    let (inlet, inbox) = mpsc::channel(INBOX);
    let (out, mut outbox) = mpsc::channel(OUTBOX);
    let (pings, mut due) = mpsc::channel(1);
    // Those who wait for room hold no sender: the queue ends when the connection has nothing more to do.
    let complaints = out.downgrade();
    let mut talking = pin!(duplex::run(opened, inbox, out));
    let mut ended = None;
    let close = {
        let mut reading = pin!(read(&mut source, inlet, complaints, &signs));
        let mut writing = pin!(write(&mut sink, &mut outbox, &mut due, &signs));
        let mut watching = pin!(watch(pings, listen.ws_ping, &signs));
        loop {
            tokio::select! {
                end = &mut talking, if ended.is_none() => ended = Some(end),
                close = &mut writing => break ended.map_or(close, Close::from),
                close = &mut reading => break close,
                close = &mut watching => break close,
                () = connection.ended() => break AWAY,
            }
        }
    };
    tracing::debug!(?close, "a WebSocket ends");
    drop(outbox);
    if ended.is_none() {
        talking.await;
    }
    let Ok(ws) = source.reunite(sink) else { return };
    say_goodbye(ws, close).await;
}

type Socket = WebSocketStream<Watched>;

async fn say_goodbye(mut ws: Socket, close: Close) {
    let frame = match close {
        Close::Gone => return,
        Close::Return => None,
        Close::Say(code, reason) => Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }),
    };
    let goodbye = async {
        // Whether it is heard is the client's affair.
        let _ = ws.close(frame).await;
        while let Some(Ok(_)) = ws.next().await {}
    };
    if timeout(GOODBYE, goodbye).await.is_err() {
        return;
    }
    if matches!(close, Close::Say(CloseCode::Size, _)) {
        // The rest of a message that was too large. Closing with it unread would take our last word along.
        let mut rest = [0_u8; 4096];
        let io = ws.get_mut();
        let reading = async { while matches!(io.read(&mut rest).await, Ok(read) if read > 0) {} };
        let _ = timeout(LINGER, reading).await;
    }
}

/// Reads messages until there are no more, or one that cannot be.
async fn read(
    source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    inlet: mpsc::Sender<Incoming>,
    complaints: mpsc::WeakSender<Bytes>,
    signs: &Signs,
) -> Close {
    loop {
        let next = source.next().await;
        signs.heard.store(true, Ordering::Relaxed);
        let text = match next {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Binary(_))) => {
                return Close::Say(CloseCode::Unsupported, "messages are text frames");
            }
            Some(Ok(Message::Close(_))) => return Close::Return,
            Some(Err(Error::Capacity(_))) => {
                return Close::Say(CloseCode::Size, "the message is larger than listen.max_body (FL-1003)");
            }
            Some(Err(Error::Utf8(_))) => return Close::Say(CloseCode::Invalid, "text frames are UTF-8"),
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => return Close::Gone,
            Some(Err(Error::Protocol(error))) => {
                tracing::debug!(%error, "a client does not speak WebSocket");
                return Close::Say(CloseCode::Protocol, "this is not WebSocket");
            }
            Some(Err(_)) | None => return Close::Gone,
        };
        signs.deaf.store(true, Ordering::Relaxed);
        let taken = match Incoming::parse(&Bytes::from(text), &Limits::default()) {
            Ok(message) => inlet.send(message).await.is_ok(),
            Err(error) => {
                let answer = refusal_bytes(None, &not_a_message(&error));
                match complaints.upgrade() {
                    Some(out) => out.send(answer).await.is_ok(),
                    None => false,
                }
            }
        };
        signs.deaf.store(false, Ordering::Relaxed);
        if !taken {
            // Nothing more is done here; what ended it says how this ends.
            std::future::pending::<()>().await;
        }
    }
}

/// Writes messages until there can be no more.
async fn write(
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
    outbox: &mut mpsc::Receiver<Bytes>,
    due: &mut mpsc::Receiver<()>,
    signs: &Signs,
) -> Close {
    loop {
        let message = tokio::select! {
            biased;
            Some(()) = due.recv() => Message::Ping(Bytes::new()),
            message = outbox.recv() => match message.map(Utf8Bytes::try_from) {
                Some(Ok(text)) => Message::Text(text),
                Some(Err(_)) => return Close::Say(CloseCode::Error, "an answer was not text"),
                None => return Close::Gone,
            },
        };
        signs.writing.store(true, Ordering::Relaxed);
        if sink.send(message).await.is_err() {
            return Close::Gone;
        }
        signs.writing.store(false, Ordering::Relaxed);
    }
}

/// Asks the client whether it is there, until it seems not to be.
async fn watch(pings: mpsc::Sender<()>, every: Duration, signs: &Signs) -> Close {
    let mut asked = false;
    loop {
        sleep(every).await;
        let (heard, wrote) = (signs.heard.swap(false, Ordering::Relaxed), signs.wrote.swap(false, Ordering::Relaxed));
        if signs.writing.load(Ordering::Relaxed) {
            if !wrote {
                tracing::info!("a WebSocket client does not read what it is told; its connection is closed");
                return Close::Gone;
            }
        } else if asked && !heard && !signs.deaf.load(Ordering::Relaxed) {
            tracing::debug!("a WebSocket client did not answer a ping; its connection is closed");
            return Close::Gone;
        }
        asked = pings.try_send(()).is_ok();
    }
}

/// The connection below, with a note when bytes of ours are taken.
struct Watched {
    io: TokioIo<Upgraded>,
    signs: Arc<Signs>,
}

impl Watched {
    fn note(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(bytes)) if *bytes > 0) {
            self.signs.wrote.store(true, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
