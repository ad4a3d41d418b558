//! Streams of legacy clients that can be picked up again.
//!
//! Every event of a session's streams has an id that names its stream and its place in it. What was
//! said is kept for a while, within bounds, so that a client whose connection broke comes back with a
//! GET and `Last-Event-ID` and gets the rest of that very stream, whichever request opened it
//! (revision 2025-11-25, "Resumability and Redelivery").
//!
//! A call whose stream has begun therefore does not belong to its connection: a task of the gateway
//! drives it ([`Opened::drive`]), the connection only listens ([`listener`]), and both meet in the
//! session's [`lines`]. A legacy client that goes away has not cancelled anything; the call runs on to
//! its end, its time limit, or the end of the session, whichever comes first.
//!
//! Nothing here is durable: after a restart an id is still known for one of ours, and the client is
//! told what became of its call instead of being left waiting. Calls answered as JSON, calls in a
//! batch and the modern era have no part in this.

mod event_id;
mod lines;
mod listener;

use crate::{
    body::Body,
    call::Call,
    gateway::Gateway,
    response::{call_refusal_bytes, stream},
    session::Session,
    voice::Gone,
};
use bytes::{Bytes, BytesMut};
use event_id::EventId;
use fairlead_core::{Code, Refusal};
use fairlead_upstream::{Exchange, Item};
use fairlead_wire::{Era, Revision, sse};
use futures_util::StreamExt;
use http::{HeaderMap, Response, header::HeaderName};
use lines::{Kind, Lines};
use listener::Listener;
use std::{
    fmt,
    future::{Future, poll_fn},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::task::JoinSet;

/// How long what nobody fetched is kept: a finished call's rest, and what is said to a session whose
/// GET stream broke.
const KEPT: Duration = Duration::from_secs(300);
/// Bytes kept by all sessions together.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// Calls that run on for clients that are not connected, all sessions together.
const MAX_DETACHED: usize = 1_000;
/// When clients of 2025-11-25 are asked to come back after a break.
const RETRY: Duration = Duration::from_secs(1);

/// How much is kept of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Events per stream; none switches keeping off.
    pub(crate) events: usize,
    /// Bytes, all streams of the session together.
    pub(crate) bytes: usize,
}

impl Bounds {
    fn of(config: &fairlead_config::Sessions) -> Self {
        Self { events: config.replay_events, bytes: config.replay_bytes }
    }

    fn keeps(self) -> bool {
        self.events > 0 && self.bytes > 0
    }
}

/// What the streams of all sessions share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    bytes: AtomicUsize,
    /// Sessions that have streams.
    sessions: AtomicUsize,
    detached: AtomicUsize,
    /// Calls whose stream has begun.
    drivers: Mutex<JoinSet<()>>,
}

impl Shared {
    fn drive(&self, call: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
        let mut drivers = self.drivers.lock().expect("invariant: no panic under this lock");
        while drivers.try_join_next().is_some() {}
        drivers.spawn(call)
    }

    /// Bytes kept now.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends every call.
    pub(crate) async fn stop(&self) {
        let mut drivers = std::mem::take(&mut *self.drivers.lock().expect("invariant: no panic under this lock"));
        drivers.shutdown().await;
    }

    /// Lets the call of a legacy client that went away end for nobody: that is no cancellation, and at a modern server
    /// closing it would be one. Up to a bound; what is beyond is given up.
    /// What it holds, and what it makes outdated, is kept until it ends.
    pub(crate) fn run_on(self: &Arc<Self>, mut exchange: Box<Exchange>, held: impl Send + 'static) {
        if exchange.link().peer().revision.era() == Era::Legacy || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let Some(detached) = self.detach() else { return };
        self.drive(async move {
            let (_detached, _held) = (detached, held);
            while let Ok(Item::Message(_)) = exchange.next().await {}
        });
    }

    /// Counts a call that runs on without a client; `None` when there are too many.
    fn detach(self: &Arc<Self>) -> Option<Detached> {
        if self.detached.fetch_add(1, Ordering::Relaxed) >= MAX_DETACHED {
            self.detached.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Detached(Arc::clone(self)))
    }
}

/// A call that runs on without a client, counted for as long as it does.
#[derive(Debug)]
struct Detached(Arc<Shared>);

impl Drop for Detached {
    fn drop(&mut self) {
        self.0.detached.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The streams of one session.
pub(crate) struct Replay {
    lines: Mutex<Lines>,
}

impl Replay {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { lines: Mutex::new(Lines::new(Arc::clone(shared))) }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().expect("invariant: no panic under this lock")
    }

    /// Says something outside any call, on the newest GET stream somebody reads, else on the newest
    /// there was. `false` when there is none, or it is full.
    pub(crate) fn say_aside(&self, message: &Bytes) -> bool {
        self.lock().say_aside(message)
    }

    /// Whether a GET stream is open.
    pub(crate) fn is_heard(&self) -> bool {
        self.lock().is_heard()
    }

    /// Ends every stream and forgets what was kept.
    pub(crate) fn close(&self) {
        self.lock().close();
    }

    /// Forgets what was kept too long; `true` when nothing is left.
    pub(crate) fn expire(&self) -> bool {
        self.lock().expire(KEPT)
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

/// The gateway's end of a call's stream that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    replay: Arc<Replay>,
    key: u64,
}

impl Place {
    /// Says a message. Waits while a client reads slowly, and not at all while there is none. One
    /// waits at a time.
    pub(crate) async fn say(&self, message: &[u8]) -> Result<(), Gone> {
        poll_fn(|context| {
            let mut lines = self.replay.lock();
            match lines.has_room(self.key, context.waker()) {
                Some(true) => {
                    lines.say(self.key, message);
                    Poll::Ready(Ok(()))
                }
                Some(false) => Poll::Pending,
                None => Poll::Ready(Err(Gone)),
            }
        })
        .await
    }

    /// Ends the connection, not the stream: the client is to come back for the rest.
    pub(crate) fn hang_up(&self, retry: Duration) {
        self.replay.lock().hang_up(self.key, retry);
    }
}

/// The stream of a call, open and not driven yet.
pub(crate) struct Opened {
    gateway: Gateway,
    place: Place,
    listener: Listener,
    control: Option<Arc<crate::session::CallControl>>,
}

/// Notes the end of a call's stream, however it comes.
struct Driving {
    place: Place,
    control: Option<Arc<crate::session::CallControl>>,
}

impl Drop for Driving {
    fn drop(&mut self) {
        let is_cancelled = self.control.as_ref().is_some_and(|control| control.is_cancelled());
        self.place.replay.lock().over(self.place.key, !is_cancelled);
    }
}

impl Opened {
    pub(crate) fn place(&self) -> Place {
        self.place.clone()
    }

    /// Lets the gateway drive `call` from here on, and listens to it.
    pub(crate) fn drive(self, call: impl Future<Output = ()> + Send + 'static) -> Response<Body> {
        let Self { gateway, place, listener, control } = self;
        let driving = Driving { place: place.clone(), control };
        let task = gateway.0.replays.drive(async move {
            let _driving = driving;
            call.await;
        });
        place.replay.lock().driven_by(place.key, task);
        stream(Body::stream(Box::pin(listener)))
    }
}

/// Whether the stream of `call` can be picked up again.
pub(crate) fn is_kept(call: &Call) -> bool {
    call.era == Era::Legacy
        && call.resumable
        && call.session.as_ref().is_some_and(|session| !session.is_fleeting())
        && Bounds::of(&call.endpoint.config.sessions).keeps()
}

/// Whether a server that hangs up on the stream of `call` makes the gateway hang up as well: the
/// revision lets a server do that, and then its client has to come back.
pub(crate) fn hangs_up(call: &Call) -> bool {
    call.session.as_ref().is_some_and(|session| primes(session)) && is_kept(call)
}

/// Whether the session's revision opens a stream with an event of no data. Older clients take that
/// for a broken message.
fn primes(session: &Session) -> bool {
    session.revision >= Revision::V2025_11_25
}

/// Opens the stream of a call. `None` when it is not one that is kept.
pub(crate) fn open_call(call: &Call) -> Option<Opened> {
    if !is_kept(call) {
        return None;
    }
    let session = call.session.as_ref()?;
    let gateway = &call.gateway;
    let replay = session.replay_or_new(&gateway.0.replays)?;
    let id = event_id::seal(&gateway.0.sealer, session, Some(call.id()));
    let key =
        replay.lock().open(Kind::Call { request: call.id().into() }, id, Bounds::of(&call.endpoint.config.sessions));
    let place = Place { replay, key };
    let listener = attach(gateway, session, &place, 0, None)?;
    Some(Opened { gateway: gateway.clone(), place, listener, control: call.control.clone() })
}

/// How somebody listens to what belongs to no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// With a GET, which may break and be made again.
    Http,
    /// On a connection that carries everything; the session ends with it, so nobody comes back.
    Connection {
        /// The connection is counted as a stream itself.
        counted: bool,
    },
}

/// A GET of a session: its stream for what belongs to no call, or the rest of a stream that broke off.
pub(crate) fn get(
    gateway: &Gateway,
    session: &Arc<Session>,
    headers: &HeaderMap,
    held: Held,
) -> Result<Response<Body>, Refusal> {
    const LAST: HeaderName = fairlead_wire::header::LAST_EVENT_ID;
    let mut sent = headers.get_all(LAST).iter();
    match (sent.next(), sent.next()) {
        _ if held != Held::Http => standing(gateway, session, held),
        (Some(id), None) if !id.is_empty() && Bounds::of(&gateway.config().sessions).keeps() => {
            let id = id.to_str().map_err(|_| not_ours())?;
            resume(gateway, session, id)
        }
        (_, Some(_)) => Err(Refusal::new(Code::BadEventId, "one `Last-Event-ID` is expected")),
        _ => standing(gateway, session, held),
    }
}

fn not_ours() -> Refusal {
    Refusal::new(Code::BadEventId, "`Last-Event-ID` is none that was given out in this session")
}

/// A new GET stream.
fn standing(gateway: &Gateway, session: &Arc<Session>, held: Held) -> Result<Response<Body>, Refusal> {
    let bounds = match held {
        Held::Http => Bounds::of(&gateway.config().sessions),
        Held::Connection { .. } => Bounds { events: 0, bytes: 0 },
    };
    let ended = || Refusal::new(Code::SessionUnknown, "the session has ended; send `initialize` again");
    let replay = session.replay_or_new(&gateway.0.replays).ok_or_else(ended)?;
    session.starts_afresh();
    let id = event_id::seal(&gateway.0.sealer, session, None);
    let queue = gateway.config().sessions.stream_queue;
    let key = replay.lock().open(Kind::Standing { queue }, id, bounds);
    let place = Place { replay, key };
    listen(gateway, session, &place, 0, held).inspect_err(|_| place.replay.lock().give_up(place.key))
}

/// Goes on with a stream after the event `id`.
fn resume(gateway: &Gateway, session: &Arc<Session>, id: &str) -> Result<Response<Body>, Refusal> {
    let EventId { stream: name, sequence } = EventId::parse(id).ok_or_else(not_ours)?;
    if let Some(replay) = session.replay() {
        let found = replay.lock().find(name, sequence);
        match found {
            Some(Ok((key, Kind::Standing { .. }))) => {
                return listen(gateway, session, &Place { replay, key }, sequence, Held::Http);
            }
            Some(Ok((key, Kind::Call { .. }))) => {
                let place = Place { replay, key };
                let listener = attach(gateway, session, &place, sequence, Some(first_byte())).ok_or_else(not_ours)?;
                return Ok(stream(Body::stream(Box::pin(listener))));
            }
            Some(Err(())) => return Err(not_ours()),
            None => {}
        }
    }
    // Ours all the same: from before a restart, or kept no longer.
    let opened = event_id::open(&gateway.0.sealer, session, name).ok_or_else(not_ours)?;
    match opened.request {
        None => {
            tracing::info!("a client came back for a GET stream that is not kept; it gets a new one");
            standing(gateway, session, Held::Http)
        }
        Some(request) => {
            tracing::info!("a client came back for the stream of a call that is not kept");
            Ok(stream(Body::whole(gone(&request, id))))
        }
    }
}

/// What the client of a call is told when the answer is not there any more, as an event with `id`.
fn gone(request: &str, id: &str) -> Bytes {
    let refusal = Refusal::new(
        Code::BadEventId,
        "what became of the call is not kept any more; whether it took effect is unknown",
    );
    event(Some(id), &call_refusal_bytes(Era::Legacy, Some(request), &refusal))
}

/// One message as an event.
fn event(id: Option<&str>, message: &[u8]) -> Bytes {
    // Exactly what is needed: it may be kept.
    let mut out = BytesMut::with_capacity(message.len() + id.map_or(0, str::len) + 48);
    sse::write_event(&mut out, id, Some("message"), message);
    out.freeze()
}

/// Headers and a first byte go out at once: some clients wait for them.
fn first_byte() -> Bytes {
    crate::answer::comment()
}

/// Listens to a stream after its event `after`, in the place of whoever listened before. What comes
/// first is the event that primes the client, or `opening` where the revision has none.
fn attach(
    gateway: &Gateway,
    session: &Arc<Session>,
    place: &Place,
    after: u64,
    opening: Option<Bytes>,
) -> Option<Listener> {
    let attached = place.replay.lock().attach(place.key, after)?;
    if attached.lost > 0 {
        tracing::info!(events = attached.lost, "a client came back for a stream of which the beginning is not kept");
    }
    let opening = match &attached.last {
        Some(last) if primes(session) => {
            let mut out = BytesMut::with_capacity(last.len() + 32);
            sse::write_retry(&mut out, Some(last), u64::try_from(RETRY.as_millis()).unwrap_or(u64::MAX));
            Some(out.freeze())
        }
        _ => opening,
    };
    Some(Listener::new(gateway, session, place, attached.generation, opening))
}

/// No more streams may be open.
pub(crate) fn too_many() -> Refusal {
    Refusal::new(Code::TooManySessions, "there are as many open streams as `sessions.max_streams` allows")
}

/// Listens to a GET stream, until a drain begins.
fn listen(
    gateway: &Gateway,
    session: &Arc<Session>,
    place: &Place,
    after: u64,
    held: Held,
) -> Result<Response<Body>, Refusal> {
    let counted = match held {
        Held::Connection { counted: true } => None,
        _ => Some(gateway.open_stream().ok_or_else(too_many)?),
    };
    let listener = attach(gateway, session, place, after, Some(first_byte())).ok_or_else(not_ours)?;
    gateway.sessions().listen(session);
    let mut drain = gateway.drain_begins();
    let until = async move {
        let _counted = counted;
        crate::listener::turned(&mut drain).await;
    };
    Ok(stream(Body::stream(Box::pin(listener.take_until(Box::pin(until))))))
}
