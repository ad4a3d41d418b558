//! Resources that clients watch: who hears of an update, under which URI, in the words of its era.
//!
//! A client of either era holds a [`Held`] per resource: a legacy session because it subscribed, a
//! modern listener for as long as its stream is open. What is held is watched at the server, once for all
//! who share the link ([`Watch`]); an update comes in under the key of that link and goes to those who
//! hold the resource through the very same key, and to nobody else.
//!
//! Nothing is lost in silence: where updates may have been missed, each client is told that what it
//! watches may have changed, and reads it again.

use crate::{
    call::Call,
    dispatch,
    gateway::{Gateway, Inner},
    resolve::Target,
    session::Session,
};
use bytes::Bytes;
use fairlead_config::ResourceUris;
use fairlead_core::ServerName;
use fairlead_upstream::{LinkKey, Purpose, ServerHandle, Watch, WatchError};
use fairlead_wire::{CapabilitySet, Era, Field, Frame, Method, edit::Edits, message, name};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

/// Longer URIs are only told to those who watch the very same one.
const MAX_WHOLE_URI: usize = 8 << 10;
/// Separators after which an update is not looked up any further: servers name what they tell of.
const MAX_PARTS: usize = 64;
/// Bytes that may wait for a listener that reads slowly, beside the limit of messages: each has a copy of its own, and a
/// server says how long they are.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// Everybody who watches something.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    by_server: Mutex<HashMap<ServerName, Watchers>>,
    next: AtomicU64,
    /// Sessions may miss something they are subscribed to.
    mend: AtomicBool,
}

/// Who watches what of one server, by the URI as the server knows it.
type Watchers = HashMap<Arc<str>, Vec<Watcher>>;

#[derive(Debug, Clone)]
struct Watcher {
    id: u64,
    key: LinkKey,
    /// The server's name where the client knows its URIs under a prefix.
    prefix: Option<ServerName>,
    hearer: Hearer,
}

/// Who is told.
#[derive(Debug, Clone)]
pub(crate) enum Hearer {
    /// A legacy session, on its GET stream.
    Session(Weak<Session>),
    /// A modern listener.
    Listener(Arc<Outlet>),
}

impl Hearer {
    /// Tells two hearers apart, while they live.
    fn address(&self) -> usize {
        match self {
            Hearer::Session(session) => session.as_ptr() as usize,
            Hearer::Listener(outlet) => Arc::as_ptr(outlet) as usize,
        }
    }
}

/// The gateway's end of a listen stream.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// The id of the listen request, raw.
    pub(crate) id: Box<str>,
    out: mpsc::Sender<Bytes>,
    /// Bytes that wait in `out`.
    waiting: AtomicUsize,
    /// There was no room for something.
    lagged: AtomicBool,
    /// Something that is held is worth nothing any more.
    pub(crate) lost: Notify,
}

impl Outlet {
    /// The end of a stream that reads from the receiver of `out`.
    pub(crate) fn new(id: &str, out: mpsc::Sender<Bytes>) -> Self {
        Self { id: id.into(), out, waiting: AtomicUsize::new(0), lagged: AtomicBool::new(false), lost: Notify::new() }
    }

    /// Queues a message, and says whether there was room for it. What there was none for is made good once the client
    /// reads again.
    pub(crate) fn say(&self, message: Bytes) -> bool {
        let bytes = message.len();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        // One message always fits, however long it is.
        let fits = before == 0 || before + bytes <= MAX_WAITING_BYTES;
        let said = fits && self.out.try_send(message).is_ok();
        if !said {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        if !said && !self.out.is_closed() && !self.lagged.swap(true, Ordering::Relaxed) {
            tracing::warn!("a listener reads too slowly; it is told again when it has caught up");
        }
        said
    }

    /// A message was taken out of the queue.
    pub(crate) fn taken(&self, message: &Bytes) {
        self.waiting.fetch_sub(message.len(), Ordering::Relaxed);
    }

    /// Whether something was dropped since this was asked last.
    pub(crate) fn take_lagged(&self) -> bool {
        self.lagged.load(Ordering::Relaxed) && self.lagged.swap(false, Ordering::Relaxed)
    }
}

/// A resource that a client watches. Dropping it ends that.
pub(crate) struct Held {
    gateway: Weak<Inner>,
    server: ServerName,
    /// The URI as the server knows it.
    uri: Arc<str>,
    id: u64,
    /// `None` while the server has yet to accept it.
    watch: Option<Watch>,
}

impl Held {
    /// The server's own answer to a legacy subscription, for the one whose wish it was told.
    pub(crate) fn take_answer(&mut self) -> Option<Frame> {
        self.watch.as_mut().and_then(Watch::take_answer)
    }

    /// The key of the link it is watched through.
    pub(crate) fn key(&self) -> Option<&LinkKey> {
        self.watch.as_ref().map(Watch::key)
    }

    /// Whether its server is gone, speaks another era now or took it back, so that no update comes through it any more.
    pub(crate) fn is_lost(&self, gateway: &Gateway) -> bool {
        if self.is_refused() {
            return true;
        }
        let snapshot = gateway.snapshot();
        let server = snapshot.servers.iter().find(|server| *server.handle.name() == self.server);
        let Some(key) = self.key() else { return true };
        server.is_none_or(|server| !server.handle.peek().serves_in(key.era))
    }

    /// Whether its server took it back.
    fn is_refused(&self) -> bool {
        self.watch.as_ref().is_none_or(Watch::is_lost)
    }

    /// Gives it back. Of a legacy server, where it is one request, the end is waited for.
    pub(crate) async fn release(mut self, deadline: Instant) {
        self.leave();
        if let Some(watch) = self.watch.take()
            && watch.key().era == Era::Legacy
        {
            watch.release(deadline).await;
        }
    }

    fn leave(&self) {
        let Some(gateway) = self.gateway.upgrade() else { return };
        let mut servers = gateway.watching.servers();
        let Some(watchers) = servers.get_mut(&self.server) else { return };
        if let Some(of_uri) = watchers.get_mut(&self.uri) {
            of_uri.retain(|watcher| watcher.id != self.id);
            if of_uri.is_empty() {
                watchers.remove(&self.uri);
            }
        }
        if watchers.is_empty() {
            servers.remove(&self.server);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Watches a resource for a client; `exposed` is the URI it knows.
pub(crate) async fn hold(call: &Call, target: &Target, exposed: &str, hearer: Hearer) -> Result<Held, WatchError> {
    let handle = &target.upstream.handle;
    let mut want = dispatch::want(call, target, Purpose::Session);
    if call.era == Era::Modern {
        // Nobody is asked while a client only listens: what it can be asked does not matter.
        (want.capabilities, want.roots) = (CapabilitySet::BARE, None);
    }
    let uri = target.name.as_deref().unwrap_or(exposed);
    let is_prefixed = handle.config().resources == ResourceUris::Prefix && !call.endpoint.is_single();
    let prefix = is_prefixed.then(|| handle.name().clone());
    // Entered before the server is asked: it may tell of an update as soon as it has accepted.
    let enter = |key: &LinkKey| enter(&call.gateway, handle.name(), key, uri, prefix, hearer);
    let (watch, mut held) = handle.watch(&want, uri, enter).await?;
    held.watch = Some(watch);
    // Taken back already: it was not there yet to be told.
    if held.is_refused() { Err(WatchError::Refused(None)) } else { Ok(held) }
}

/// Enters a client among those who watch a resource, until what is returned is dropped.
fn enter(
    gateway: &Gateway,
    server: &ServerName,
    key: &LinkKey,
    uri: &str,
    prefix: Option<ServerName>,
    hearer: Hearer,
) -> Held {
    let watching = &gateway.0.watching;
    let id = watching.next.fetch_add(1, Ordering::Relaxed);
    let mut servers = watching.servers();
    let watchers = servers.entry(server.clone()).or_default();
    let uri = watchers.get_key_value(uri).map_or_else(|| Arc::from(uri), |(known, _)| Arc::clone(known));
    watchers.entry(Arc::clone(&uri)).or_default().push(Watcher { id, key: key.clone(), prefix, hearer });
    drop(servers);
    Held { gateway: Arc::downgrade(&gateway.0), server: server.clone(), uri, id, watch: None }
}

impl Watching {
    fn servers(&self) -> MutexGuard<'_, HashMap<ServerName, Watchers>> {
        self.by_server.lock().expect("invariant: no panic under this lock")
    }

    /// How many resources are watched, each once per client.
    pub(crate) fn len(&self) -> usize {
        self.servers().values().flat_map(HashMap::values).map(Vec::len).sum()
    }

    /// Notes that a session misses something it is subscribed to.
    pub(crate) fn wants_mending(&self) {
        self.mend.store(true, Ordering::Relaxed);
    }

    /// Whether some session does, since this was asked last.
    pub(crate) fn take_mending(&self) -> bool {
        self.mend.swap(false, Ordering::Relaxed)
    }

    /// Those who watch `uri` or what it is a part of, each once: a server may tell of a part of what is
    /// subscribed to.
    fn concerned(&self, server: &ServerName, key: &LinkKey, uri: &str) -> Vec<Watcher> {
        let servers = self.servers();
        let Some(watchers) = servers.get(server) else { return Vec::new() };
        let mut known = HashSet::new();
        wholes(uri)
            .filter_map(|whole| watchers.get(whole))
            .flatten()
            .filter(|watcher| watcher.key == *key && known.insert(watcher.hearer.address()))
            .cloned()
            .collect()
    }

    /// Everybody who watches something of a server, with what it is; of one key, or of all.
    fn all(&self, server: &ServerName, key: Option<&LinkKey>) -> Vec<(Arc<str>, Watcher)> {
        let servers = self.servers();
        let Some(watchers) = servers.get(server) else { return Vec::new() };
        let of_key = |watcher: &&Watcher| key.is_none_or(|key| watcher.key == *key);
        watchers
            .iter()
            .flat_map(|(uri, of_uri)| of_uri.iter().filter(of_key).map(|watcher| (Arc::clone(uri), watcher.clone())))
            .collect()
    }
}

/// A URI, and what it is a part of: everything before a separator, with it and without. Both bounds keep what a server
/// says from costing the square of its length.
fn wholes(uri: &str) -> impl Iterator<Item = &str> {
    let divided = if uri.len() <= MAX_WHOLE_URI { uri } else { "" };
    let parts = divided.char_indices().filter(|(_, character)| matches!(character, '/' | '?' | '#')).take(MAX_PARTS);
    let before = parts.flat_map(move |(at, _)| [&uri[..at], &uri[..=at]]);
    std::iter::once(uri).chain(before.filter(move |whole| *whole != uri))
}

/// A resource changed: those who watch it through links of this key are told.
pub(crate) fn updated(gateway: &Gateway, handle: &ServerHandle, key: &LinkKey, uri: &str, frame: &Frame) {
    for watcher in gateway.0.watching.concerned(handle.name(), key, uri) {
        watcher.tell(uri, frame);
    }
}

/// What is watched may have changed unseen: whoever watches something is told to look at it.
pub(crate) fn anything_updated(gateway: &Gateway, handle: &ServerHandle, key: Option<&LinkKey>) {
    for (uri, watcher) in gateway.0.watching.all(handle.name(), key) {
        let params = format!("{{\"uri\":{}}}", message::quote(&uri));
        let notice = message::notification(Method::ResourceUpdated.as_str(), Some(&params));
        if let Ok(frame) = Frame::parse(notice, &fairlead_wire::Limits::default()) {
            watcher.tell(&uri, &frame);
        }
    }
}

/// Nothing comes through this key any more, or through none of a server that is gone: whoever watches
/// through it has to ask anew.
pub(crate) fn unwatchable(gateway: &Gateway, server: &ServerName, key: Option<&LinkKey>) {
    for (_, watcher) in gateway.0.watching.all(server, key) {
        match &watcher.hearer {
            Hearer::Session(session) => {
                if let Some(session) = session.upgrade() {
                    drop(session.let_go_if(|held| held.id == watcher.id));
                    gateway.0.watching.wants_mending();
                }
            }
            Hearer::Listener(outlet) => outlet.lost.notify_one(),
        }
    }
}

/// The server may have taken back something that is watched through this key, or through any: watches such a thing has to
/// ask anew.
pub(crate) fn refused(gateway: &Gateway, server: &ServerName, key: Option<&LinkKey>) {
    for (_, watcher) in gateway.0.watching.all(server, key) {
        match &watcher.hearer {
            Hearer::Session(session) => {
                let Some(session) = session.upgrade() else { continue };
                if !session.let_go_if(|held| held.id == watcher.id && held.is_refused()).is_empty() {
                    gateway.0.watching.wants_mending();
                }
            }
            // It knows what it holds, and whether that is good.
            Hearer::Listener(outlet) => outlet.lost.notify_one(),
        }
    }
}

/// The roots of a session changed: what it watches through a link with other roots is watched anew.
pub(crate) fn roots_changed(gateway: &Gateway, session: &Session) {
    let roots = session.roots();
    let is_stale = |held: &Held| {
        let of_link = held.key().and_then(|key| key.roots.as_ref());
        of_link.is_some_and(|of_link| roots.as_ref() != Some(of_link))
    };
    if !session.let_go_if(is_stale).is_empty() {
        gateway.0.watching.wants_mending();
    }
}

impl Watcher {
    fn tell(&self, uri: &str, frame: &Frame) {
        let exposed = match &self.prefix {
            Some(server) => name::prefix_uri(server.as_str(), uri),
            None => uri.to_owned(),
        };
        match &self.hearer {
            Hearer::Session(session) => {
                let Some(session) = session.upgrade() else { return };
                // Until its new roots are known, what the old ones show is none of its business.
                if self.key.roots.as_ref().is_some_and(|roots| session.roots().as_ref() != Some(roots)) {
                    return;
                }
                if !session.say(&for_session(frame, &exposed)) && session.falls_behind() {
                    tracing::info!("updates of resources are dropped: a session has no stream, or does not read it");
                }
            }
            Hearer::Listener(outlet) => {
                if let Some(message) = for_listener(frame, &exposed, &outlet.id) {
                    outlet.say(message);
                }
            }
        }
    }
}

fn rename(frame: &Frame, exposed: &str) -> Edits {
    let mut edits = Edits::new();
    if let Some(span) = frame.span(Field::Uri)
        && frame.str(Field::Uri).as_deref() != Some(exposed)
    {
        edits.replace(span, message::quote(exposed));
    }
    edits
}

/// An update as a session hears it: the subscription of a modern server is the gateway's own affair.
fn for_session(frame: &Frame, exposed: &str) -> Bytes {
    let mut edits = rename(frame, exposed);
    edits.remove_member(frame, Field::MetaSubscriptionId);
    edits.apply(frame.bytes())
}

/// An update as a listener hears it: under the id of its own request.
fn for_listener(frame: &Frame, exposed: &str, id: &str) -> Option<Bytes> {
    let mut edits = rename(frame, exposed);
    match (frame.span(Field::MetaSubscriptionId), frame.span(Field::Meta)) {
        (Some(span), _) => edits.replace(span, Bytes::copy_from_slice(id.as_bytes())),
        (None, Some(meta)) => edits.insert_first(meta, SUBSCRIPTION_ID, id),
        (None, None) => edits.insert_first(frame.span(Field::Params)?, "_meta", &tag(id)),
    }
    Some(edits.apply(frame.bytes()))
}

/// What names the subscription a message belongs to.
const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// The `_meta` of a message of a subscription; `id` is raw JSON.
pub(crate) fn tag(id: &str) -> String {
    format!("{{\"{SUBSCRIPTION_ID}\":{id}}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::Limits;

    #[test]
    fn a_part_belongs_to_its_wholes() {
        let of = |uri| wholes(uri).collect::<Vec<_>>();
        assert_eq!(
            of("a://b/c?d"),
            ["a://b/c?d", "a:", "a:/", "a:/", "a://", "a://b", "a://b/", "a://b/c", "a://b/c?"]
        );
        assert_eq!(of("a://b/"), ["a://b/", "a:", "a:/", "a:/", "a://", "a://b"]);
        assert!(!of("a://bc/d").contains(&"a://b"));
    }

    #[test]
    fn what_a_server_says_does_not_cost_the_square_of_its_length() {
        let (deep, long) = ("/".repeat(MAX_WHOLE_URI), "/".repeat(MAX_WHOLE_URI + 1));
        assert_eq!(wholes(&deep).count(), 2 * MAX_PARTS + 1);
        assert_eq!(wholes(&long).collect::<Vec<_>>(), [&long]);
    }

    #[test]
    fn what_waits_for_a_listener_is_bounded_by_bytes() {
        let (out, mut said) = mpsc::channel(100);
        let outlet = Outlet::new("1", out);
        let long = Bytes::from(vec![b'x'; MAX_WAITING_BYTES + 1]);
        outlet.say(long.clone());
        assert!(!outlet.take_lagged(), "one message always fits");
        outlet.say(Bytes::from_static(b"y"));
        assert!(outlet.take_lagged(), "there is no room beside it");
        outlet.taken(&said.try_recv().unwrap());
        for _ in 0..4 {
            outlet.say(long.slice(..MAX_WAITING_BYTES / 4));
        }
        assert!(!outlet.take_lagged());
        outlet.say(Bytes::from_static(b"y"));
        assert!(outlet.take_lagged());
        let mut left = 0;
        while let Ok(message) = said.try_recv() {
            outlet.taken(&message);
            left += 1;
        }
        assert_eq!((left, outlet.waiting.into_inner()), (4, 0));
    }

    #[test]
    fn an_update_is_said_in_the_words_of_its_hearer() {
        let update = |params: &str| {
            let text = message::notification("notifications/resources/updated", Some(params));
            Frame::parse(text, &Limits::default()).unwrap()
        };
        let head = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":";
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        for (params, session, listener) in [
            (
                r#"{"uri":"a:1","own":1.10}"#,
                r#"{"uri":"b:1","own":1.10}"#,
                r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":"x"},"uri":"b:1","own":1.10}"#,
            ),
            (
                r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":7,"k":1},"uri":"a:1"}"#,
                r#"{"_meta":{"k":1},"uri":"b:1"}"#,
                r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":"x","k":1},"uri":"b:1"}"#,
            ),
            (
                r#"{"_meta":{"k":1},"uri":"b:1"}"#,
                r#"{"_meta":{"k":1},"uri":"b:1"}"#,
                r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":"x","k":1},"uri":"b:1"}"#,
            ),
        ] {
            let frame = update(params);
            assert_eq!(text(for_session(&frame, "b:1")), format!("{head}{session}}}"));
            assert_eq!(text(for_listener(&frame, "b:1", "\"x\"").unwrap()), format!("{head}{listener}}}"));
        }
    }
}
