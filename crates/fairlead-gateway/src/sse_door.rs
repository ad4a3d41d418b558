//! HTTP+SSE, the transport of 2024-11-05: a GET whose stream carries everything the client is told, and POSTs that
//! carry what the client says and are answered with 202.
//!
//! The first event of the stream, `endpoint`, names the path to post to, with a token: sealed, of one stream, and of
//! no use to another caller or on another path. The session that the client opens lives as long as its stream.

use crate::{
    answer::{comment, driven, event},
    body::Body,
    duplex::{self, INBOX, OUTBOX, Opened},
    gateway::Gateway,
    listen,
    pipeline::not_a_message,
    replay::too_many,
    response::stream,
    snapshot::Endpoint,
};
use bytes::{Bytes, BytesMut};
use fairlead_core::{Caller, Code, Refusal};
use fairlead_wire::{Incoming, Limits, sse};
use http::{HeaderMap, Response, Uri, header};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::mpsc;

const PURPOSE: &str = "sse";
/// The query parameter that carries the token.
const TOKEN: &str = "sessionId";
/// How long a message may wait until those before it were looked at.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

/// The open streams, by the token that their clients post with.
#[derive(Default)]
pub(crate) struct Inlets(Mutex<HashMap<Box<str>, Inlet>>);

#[derive(Clone)]
struct Inlet {
    path: Box<str>,
    caller: Caller,
    inbox: mpsc::Sender<Incoming>,
}

impl Inlets {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Inlet>> {
        self.0.lock().expect("invariant: no panic under this lock")
    }
}

/// A stream's place in the table, for as long as it lives.
struct Entered {
    gateway: Gateway,
    token: Box<str>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.gateway.0.inlets.lock().remove(&self.token);
    }
}

/// A GET: opens the stream.
pub(crate) fn open(opened: Opened, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
    if headers.contains_key(header::ACCEPT) && !listen::accepts_events(headers) {
        return Err(Refusal::new(Code::MediaType, "`Accept` must list text/event-stream"));
    }
    let gateway = opened.gateway.clone();
    crate::admit::gateway(&gateway)?;
    crate::overload::connection(&gateway)?;
    let counted = gateway.open_stream().ok_or_else(too_many)?;
    let opened = Opened { counted: true, ..opened };
    let keep_alive = gateway.config().listen.keep_alive;
    let post = opened
        .path
        .strip_suffix("/mcp")
        .map_or_else(|| format!("{}/messages", opened.path), |alone| format!("{alone}/messages"));
    // Sealed twice it is another text: the nonce makes a token one of its kind.
    let token: Box<str> = gateway.0.sealer.seal(PURPOSE, opened.path.as_bytes()).into();
    let endpoint = format!("{post}?{TOKEN}={token}");
    let (inbox, received) = mpsc::channel(INBOX);
    let (out, mut outbox) = mpsc::channel::<Bytes>(OUTBOX);
    let inlet = Inlet { path: opened.path.clone(), caller: opened.caller.clone(), inbox };
    gateway.0.inlets.lock().insert(token.clone(), inlet);
    let entered = Entered { gateway: gateway.clone(), token };
    gateway.serve_beside(async move {
        let (_entered, _counted) = (entered, counted);
        let end = duplex::run(opened, received, out).await;
        tracing::debug!(?end, "an HTTP+SSE stream ended");
    });
    let (chunks, receiver) = mpsc::channel(1);
    let telling = async move {
        let mut first = BytesMut::new();
        sse::write_event(&mut first, None, Some("endpoint"), endpoint.as_bytes());
        if chunks.send(first.freeze()).await.is_err() {
            return;
        }
        loop {
            let chunk = tokio::select! {
                message = outbox.recv() => match message {
                    Some(message) => event(&message),
                    None => return,
                },
                () = tokio::time::sleep(keep_alive) => comment(),
            };
            if chunks.send(chunk).await.is_err() {
                return;
            }
        }
    };
    Ok(stream(Body::stream(driven(telling, receiver))))
}

/// Whether a POST belongs to an open stream of this caller on this path; found out before its body is read.
pub(crate) fn find(gateway: &Gateway, endpoint: &Endpoint, caller: &Caller, uri: &Uri) -> Result<Found, Refusal> {
    let mut given =
        uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix(TOKEN)?.strip_prefix('='));
    let (Some(token), None) = (given.next(), given.next()) else {
        return Err(Refusal::new(
            Code::SessionMissing,
            "open the stream with GET first, and post to the path that its `endpoint` event names",
        ));
    };
    let unknown =
        || Refusal::new(Code::SessionUnknown, "no stream is open that this path belongs to; open one with GET");
    gateway.0.sealer.open(PURPOSE, token).ok_or_else(unknown)?;
    let inlet = gateway.0.inlets.lock().get(token).cloned();
    let inlet = inlet.filter(|inlet| *inlet.path == *endpoint.path && inlet.caller == *caller).ok_or_else(unknown)?;
    Ok(Found(inlet))
}

/// An open stream.
pub(crate) struct Found(Inlet);

impl Found {
    /// Takes what was posted; the answer comes on the stream.
    pub(crate) async fn take(self, bytes: &Bytes) -> Result<Response<Body>, Refusal> {
        let message = Incoming::parse(bytes, &Limits::default()).map_err(|error| not_a_message(&error))?;
        match self.0.inbox.send_timeout(message, ACCEPT_WITHIN).await {
            Ok(()) => Ok(listen::accepted()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Refusal::new(
                Code::TooManyCalls,
                "the stream's earlier messages are not through; does its client read what it is told?",
            )),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => {
                Err(Refusal::new(Code::SessionUnknown, "the stream has ended; open another one with GET"))
            }
        }
    }
}
