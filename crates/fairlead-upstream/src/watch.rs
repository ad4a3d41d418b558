//! Watched resources: who waits for updates of what, counted per server, so that the server hears of
//! each resource once however many clients watch it.
//!
//! The table says what is *wanted*. What the server was told is known by the *carrier* of a key alone:
//! the one task that keeps the subscriptions of that key on one link ([`crate::owner`] starts it). A
//! carrier looks at the table, tells the server the difference, and writes the server's verdict back
//! for those who wait for it. When its link ends the next carrier begins with nothing told, so nothing
//! has to be remembered for it.
//!
//! The table outlives the owner: when a changed configuration puts another owner in its place, that
//! one is handed the same table, and watches that clients hold stay good.

use crate::{
    handle::{InstanceHandle, LeaseError, Want},
    link::LinkKey,
    owner::Command,
};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{Era, Frame};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};

/// Resources watched over one link at most, whoever watches them.
const MAX_WATCHED: usize = 10_000;
/// Keys with watched resources at most: one per kind of client, or per client where the
/// configuration keeps them apart.
const MAX_KEYS: usize = 10_000;

/// Why a resource is not watched.
#[derive(Debug)]
pub enum WatchError {
    /// The server follows roots, and this caller's are not known yet.
    NeedsRoots,
    /// There is no way to the server now.
    Upstream(UpstreamError),
    /// The server does not want to: with its own error where it gave one (a modern server may simply
    /// not acknowledge the resource).
    Refused(Option<Frame>),
    /// As many resources are watched as may be.
    TooMany,
}

/// What became of a wish: the server's answer where it gave one.
pub(crate) type Verdict = Result<Option<Frame>, WatchError>;

/// The watched resources of one server.
#[derive(Debug, Default)]
pub(crate) struct Watches(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    keys: HashMap<LinkKey, Keyed>,
    /// Numbers carriers.
    next: u64,
}

/// What is watched over links of one key.
#[derive(Debug, Default)]
struct Keyed {
    uris: HashMap<Arc<str>, Entry>,
    /// Those who wait until the server knows that nobody watches a resource any more.
    leaving: Vec<(Arc<str>, oneshot::Sender<()>)>,
    wake: Arc<Notify>,
    carrier: Option<u64>,
    /// Clients were told that they are subscribed.
    was_held: bool,
}

#[derive(Debug)]
struct Entry {
    count: usize,
    standing: Standing,
    waiting: Vec<oneshot::Sender<Verdict>>,
    /// Shared with those who watch it since the server accepted it last.
    lost: Arc<AtomicBool>,
}

impl Entry {
    /// The server sends updates: those who wait for it are told, one of them with its answer. False when nobody did.
    fn hold(&mut self, mut answer: Option<Frame>) -> bool {
        self.standing = Standing::Held;
        let mut heard = false;
        for waiting in self.waiting.drain(..) {
            heard |= waiting.send(Ok(answer.take())).is_ok();
        }
        heard
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Asked,
    Held,
    Refused,
}

/// A resource that is watched for as long as this is held. Clients that watch the same one share what
/// the server was told.
pub struct Watch {
    watches: Arc<Watches>,
    key: LinkKey,
    uri: Arc<str>,
    answer: Option<Frame>,
    released: bool,
    lost: Arc<AtomicBool>,
}

impl Watch {
    /// What updates of it come under.
    #[must_use]
    pub fn key(&self) -> &LinkKey {
        &self.key
    }

    /// The URI as the server knows it.
    #[must_use]
    pub fn uri(&self) -> &Arc<str> {
        &self.uri
    }

    /// Whether the server took back that it sends updates of it: nothing comes any more, and only another watch asks
    /// it again.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// The server's own answer, for the one whose wish it was told; taken once.
    pub fn take_answer(&mut self) -> Option<Frame> {
        self.answer.take()
    }

    /// Gives the watch back and waits until the server knows, at most until `deadline`. A drop does the
    /// same without waiting.
    pub async fn release(mut self, deadline: Instant) {
        self.released = true;
        let (sender, told) = oneshot::channel();
        self.watches.release(&self.key, &self.uri, Some(sender));
        let _ = timeout_at(deadline, told).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.released {
            self.watches.release(&self.key, &self.uri, None);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("key", &self.key).finish_non_exhaustive()
    }
}

impl InstanceHandle {
    /// Watches a resource of the table `watches`, which is the instance's, over a link the caller may use, and waits for what the server says to it. `enter` is called
    /// with the key under which updates will come before there can be any; what it returns is dropped when nothing
    /// is watched.
    ///
    /// # Errors
    /// [`WatchError`]; then nothing is watched.
    pub(crate) async fn watch<T>(
        &self,
        watches: &Arc<Watches>,
        want: &Want,
        uri: &str,
        enter: impl FnOnce(&LinkKey) -> T,
    ) -> Result<(Watch, T), WatchError> {
        let until = want.deadline.min(Instant::now() + self.0.server.timeout.start);
        // The lease opens a link where there is none, and keeps it until it is seen to be in use.
        let lease = match self.lease(want).await {
            Err(LeaseError::Upstream(error)) if error.kind == UpstreamErrorKind::AtCapacity => {
                self.lease_of_others(want).ok_or(LeaseError::Upstream(error))
            }
            lease => lease,
        };
        let lease = lease.map_err(|error| match error {
            LeaseError::NeedsRoots => WatchError::NeedsRoots,
            LeaseError::Upstream(error) => WatchError::Upstream(error),
        })?;
        let mut key = lease.link().key().clone();
        if key.era == Era::Modern {
            // The link is everybody's; a stream of updates need not be.
            key.share.clone_from(&want.share);
        }
        let entered = enter(&key);
        let (mut watch, verdict) = watches.add(key.clone(), uri)?;
        let late = |what| WatchError::Upstream(UpstreamError::new(UpstreamErrorKind::Timeout, Outcome::Unknown, what));
        if !watches.is_carried(&key) {
            let sent = timeout_at(until, self.0.commands.send(Command::Carry { key })).await;
            if !matches!(sent, Ok(Ok(()))) {
                return Err(late("the gateway is stopping it, or it is too busy"));
            }
        }
        drop(lease);
        let Some(verdict) = verdict else { return Ok((watch, entered)) };
        match timeout_at(until, verdict).await {
            Ok(Ok(Ok(answer))) => {
                watch.answer = answer;
                Ok((watch, entered))
            }
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) | Err(_) => Err(late("the server does not say whether it sends updates of the resource")),
        }
    }
}

impl Watches {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("invariant: no panic under this lock")
    }

    /// Enters a wish. The receiver is there when the server has yet to say something to it.
    fn add(
        self: &Arc<Self>,
        key: LinkKey,
        uri: &str,
    ) -> Result<(Watch, Option<oneshot::Receiver<Verdict>>), WatchError> {
        let mut table = self.table();
        if table.keys.len() >= MAX_KEYS && !table.keys.contains_key(&key) {
            return Err(WatchError::TooMany);
        }
        let keyed = table.keys.entry(key.clone()).or_default();
        if keyed.uris.len() >= MAX_WATCHED && !keyed.uris.contains_key(uri) {
            return Err(WatchError::TooMany);
        }
        let uri = keyed.uris.get_key_value(uri).map_or_else(|| Arc::from(uri), |(known, _)| Arc::clone(known));
        let entry = keyed.uris.entry(Arc::clone(&uri)).or_insert_with(|| Entry {
            count: 0,
            standing: Standing::Asked,
            waiting: Vec::new(),
            lost: Arc::default(),
        });
        entry.count += 1;
        let lost = Arc::clone(&entry.lost);
        let verdict = (entry.standing != Standing::Held).then(|| {
            // What was refused before is asked once more.
            entry.standing = Standing::Asked;
            let (sender, verdict) = oneshot::channel();
            entry.waiting.push(sender);
            verdict
        });
        if verdict.is_some() {
            keyed.wake.notify_one();
        }
        Ok((Watch { watches: Arc::clone(self), key, uri, answer: None, released: false, lost }, verdict))
    }

    fn release(&self, key: &LinkKey, uri: &Arc<str>, told: Option<oneshot::Sender<()>>) {
        let mut table = self.table();
        let Some(keyed) = table.keys.get_mut(key) else { return };
        let Some(entry) = keyed.uris.get_mut(uri) else { return };
        entry.count -= 1;
        if entry.count > 0 {
            return;
        }
        keyed.uris.remove(uri);
        if keyed.carrier.is_none() {
            if keyed.uris.is_empty() {
                table.keys.remove(key);
            }
            return;
        }
        keyed.leaving.extend(told.map(|told| (Arc::clone(uri), told)));
        keyed.wake.notify_one();
    }

    pub(crate) fn is_carried(&self, key: &LinkKey) -> bool {
        self.table().keys.get(key).is_some_and(|keyed| keyed.carrier.is_some())
    }

    /// Keys of which somebody watches something.
    pub(crate) fn keys(&self) -> Vec<LinkKey> {
        self.table().keys.iter().filter(|(_, keyed)| !keyed.uris.is_empty()).map(|(key, _)| key.clone()).collect()
    }

    /// Whether this is the carrier of a key.
    pub(crate) fn is_carrier(&self, key: &LinkKey, number: u64) -> bool {
        self.table().keys.get(key).is_some_and(|keyed| keyed.carrier == Some(number))
    }

    /// Whether somebody watches something over links of this key.
    pub(crate) fn is_wanted(&self, key: &LinkKey) -> bool {
        self.table().keys.get(key).is_some_and(|keyed| !keyed.uris.is_empty())
    }

    /// Makes the caller the carrier of a key; one before it finds that out and ends.
    pub(crate) fn carry(self: &Arc<Self>, key: &LinkKey) -> Carriage {
        let mut table = self.table();
        table.next += 1;
        let number = table.next;
        let keyed = table.keys.entry(key.clone()).or_default();
        keyed.carrier = Some(number);
        // The one before looks once more, and finds itself replaced.
        std::mem::take(&mut keyed.wake).notify_one();
        Carriage {
            watches: Arc::clone(self),
            key: key.clone(),
            number,
            wake: Arc::clone(&keyed.wake),
            again: keyed.was_held,
        }
    }
}

/// The right to tell a server about the resources of one key.
#[derive(Debug)]
pub(crate) struct Carriage {
    watches: Arc<Watches>,
    key: LinkKey,
    number: u64,
    wake: Arc<Notify>,
    again: bool,
}

/// What a carrier has to tell a legacy server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    pub(crate) subscribe: Vec<Arc<str>>,
    pub(crate) unsubscribe: Vec<Arc<str>>,
}

impl Carriage {
    /// The key.
    pub(crate) fn key(&self) -> &LinkKey {
        &self.key
    }

    /// Whether clients were already told that they are subscribed: then what changed since the carrier before ended
    /// is not known.
    pub(crate) fn is_again(&self) -> bool {
        self.again
    }

    /// Waits until something in the table changed.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// The number of the carrier: it differs when another one took over.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn with<T>(&self, read: impl FnOnce(&mut Keyed) -> T) -> Option<T> {
        let mut table = self.watches.table();
        let keyed = table.keys.get_mut(&self.key)?;
        (keyed.carrier == Some(self.number)).then(|| read(keyed))
    }

    /// The resources to be watched, without those the server refused. `None`: another carrier took over.
    pub(crate) fn wanted(&self) -> Option<BTreeSet<Arc<str>>> {
        self.with(|keyed| {
            let wanted = keyed.uris.iter().filter(|(_, entry)| entry.standing != Standing::Refused);
            wanted.map(|(uri, _)| Arc::clone(uri)).collect()
        })
    }

    /// What a server that was told `told`, and is being told about `busy`, has to be told next, at most `room` things.
    /// `None`: another carrier took over.
    pub(crate) fn todo(&self, told: &HashSet<Arc<str>>, busy: &HashSet<Arc<str>>, room: usize) -> Option<Todo> {
        self.with(|keyed| {
            // Given back and wanted again before the server was told of it: it still sends updates.
            let still = keyed.uris.iter_mut().filter(|(uri, _)| told.contains(*uri) && !busy.contains(*uri));
            for entry in still.map(|(_, entry)| entry).filter(|entry| entry.standing == Standing::Asked) {
                keyed.was_held |= entry.hold(None);
            }
            let uris = &keyed.uris;
            let subscribe: Vec<_> = uris
                .iter()
                .filter(|(uri, entry)| {
                    entry.standing != Standing::Refused && !told.contains(*uri) && !busy.contains(*uri)
                })
                .map(|(uri, _)| Arc::clone(uri))
                .take(room)
                .collect();
            let left = room - subscribe.len();
            let gone = |uri: &&Arc<str>| !uris.contains_key(*uri) && !busy.contains(*uri);
            let unsubscribe: Vec<_> = told.iter().filter(gone).take(left).cloned().collect();
            // Whoever waits for the end of what is not there, or is wanted again, need not wait.
            keyed
                .leaving
                .retain(|(uri, _)| (told.contains(uri) || busy.contains(uri)) && !keyed.uris.contains_key(uri));
            Todo { subscribe, unsubscribe }
        })
    }

    /// Those who wait for the end of a resource are told that it has come.
    pub(crate) fn left(&self, uri: &Arc<str>) {
        self.with(|keyed| keyed.leaving.retain(|(other, _)| other != uri));
    }

    /// Nobody is left who waits for the end of anything.
    pub(crate) fn all_left(&self) {
        self.with(|keyed| keyed.leaving.clear());
    }

    /// The server accepted a resource.
    pub(crate) fn accepted(&self, uri: &Arc<str>, answer: Option<Frame>) {
        self.with(|keyed| {
            keyed.was_held |= keyed.uris.get_mut(uri).is_some_and(|entry| entry.hold(answer));
        });
    }

    /// What is wanted is what the server sends updates of.
    pub(crate) fn is_settled(&self, accepted: &BTreeSet<Arc<str>>) {
        self.with(|keyed| {
            keyed.leaving.clear();
            for (_, entry) in keyed.uris.iter_mut().filter(|(uri, _)| accepted.contains(*uri)) {
                if entry.standing == Standing::Asked {
                    keyed.was_held |= entry.hold(None);
                }
            }
        });
    }

    /// The server did not accept a resource. True when clients had been told that they are subscribed to it.
    pub(crate) fn refused(&self, uri: &Arc<str>, error: impl Fn() -> WatchError) -> bool {
        self.with(|keyed| {
            let Some(entry) = keyed.uris.get_mut(uri) else { return false };
            let was_held = entry.standing == Standing::Held;
            entry.standing = Standing::Refused;
            if was_held {
                // Whoever asks after this is not concerned.
                std::mem::take(&mut entry.lost).store(true, Ordering::Release);
            }
            for waiting in entry.waiting.drain(..) {
                let _ = waiting.send(Err(error()));
            }
            was_held
        })
        .unwrap_or_default()
    }

    /// The server did not even look at a resource: those who wait for it are told, and where clients had been told that
    /// they are subscribed it stays wanted.
    pub(crate) fn declined(&self, uri: &Arc<str>, error: impl Fn() -> WatchError) {
        let is_new = self.with(|keyed| keyed.uris.get(uri).is_some_and(|entry| entry.standing == Standing::Asked));
        if is_new == Some(true) {
            self.refused(uri, error);
        }
    }

    /// Ends the carriage if nothing is watched any more; the next wish asks for another carrier.
    pub(crate) fn ends_unless_wanted(&self) -> bool {
        self.with(|keyed| {
            let ends = keyed.uris.is_empty();
            if ends {
                keyed.carrier = None;
                keyed.leaving.clear();
            }
            ends
        })
        .unwrap_or(true)
    }
}

impl Drop for Carriage {
    fn drop(&mut self) {
        let mut table = self.watches.table();
        let Some(keyed) = table.keys.get_mut(&self.key) else { return };
        if keyed.carrier.is_some_and(|number| number != self.number) {
            return;
        }
        keyed.carrier = None;
        keyed.leaving.clear();
        if keyed.uris.is_empty() {
            table.keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::CapabilitySet;

    fn set(uris: &[&str]) -> HashSet<Arc<str>> {
        uris.iter().map(|uri| Arc::from(*uri)).collect()
    }

    fn todo(carriage: &Carriage, told: &[&str]) -> (usize, usize) {
        let todo = carriage.todo(&set(told), &HashSet::new(), 10).unwrap();
        (todo.subscribe.len(), todo.unsubscribe.len())
    }

    #[test]
    fn two_watches_of_one_resource_are_one_subscription() {
        let watches = Arc::new(Watches::default());
        let key = LinkKey::legacy(CapabilitySet::BARE);
        let (one, first) = watches.add(key.clone(), "a:1").unwrap();
        assert!(first.is_some() && !watches.is_carried(&key));
        let carriage = watches.carry(&key);
        assert!(!carriage.is_again());
        assert_eq!(todo(&carriage, &[]), (1, 0));
        carriage.accepted(&Arc::from("a:1"), None);
        let (two, second) = watches.add(key.clone(), "a:1").unwrap();
        assert!(second.is_none(), "it is held already");
        assert_eq!(todo(&carriage, &["a:1"]), (0, 0));
        drop(one);
        assert_eq!(todo(&carriage, &["a:1"]), (0, 0));
        drop(two);
        // Wanted again before the server was told of the end.
        let (two, verdict) = watches.add(key, "a:1").unwrap();
        assert_eq!(todo(&carriage, &["a:1"]), (0, 0));
        assert!(verdict.unwrap().try_recv().unwrap().is_ok());
        drop(two);
        assert_eq!(todo(&carriage, &["a:1"]), (0, 1));
        drop(carriage);
        assert!(watches.table().keys.is_empty());
    }

    #[test]
    fn the_next_carrier_begins_anew_and_the_one_before_ends() {
        let watches = Arc::new(Watches::default());
        let key = LinkKey::modern();
        let (_watch, verdict) = watches.add(key.clone(), "a:1").unwrap();
        let before = watches.carry(&key);
        before.accepted(&Arc::from("a:1"), None);
        assert!(verdict.unwrap().try_recv().unwrap().is_ok());
        let next = watches.carry(&key);
        assert!(next.is_again() && next.wanted().is_some() && before.wanted().is_none());
        drop(before);
        assert_eq!(next.wanted().unwrap().len(), 1);
        assert!(watches.is_carried(&key), "the end of the one before takes nothing from the next");
    }

    #[test]
    fn what_is_refused_is_not_asked_again_by_itself() {
        let watches = Arc::new(Watches::default());
        let key = LinkKey::modern();
        let (one, verdict) = watches.add(key.clone(), "a:1").unwrap();
        let carriage = watches.carry(&key);
        assert!(!carriage.refused(&Arc::from("a:1"), || WatchError::Refused(None)));
        assert!(matches!(verdict.unwrap().try_recv(), Ok(Err(WatchError::Refused(None)))));
        assert!(carriage.wanted().unwrap().is_empty());
        let (_two, verdict) = watches.add(key, "a:1").unwrap();
        assert!(verdict.is_some());
        assert_eq!(carriage.wanted().unwrap().len(), 1, "somebody asked again");
        drop(one);
        assert_eq!(carriage.wanted().unwrap().len(), 1);
    }
}
