//! The listen stream of a modern server: how its list changes reach the owner, and updates of the
//! resources that clients watch.
//!
//! There is one stream per key, with the union of what everybody wants. The filter of a stream cannot
//! be changed, so another set means another stream: it is opened first, the one before is read on until
//! the new one is acknowledged and for a moment longer, and what both bring is passed on once.

use super::overlap::{Overlap, Owed, Said, Told};
use crate::{
    catalog::own_meta,
    event::{End, LinkEvent},
    exchange::{Exchange, Item, Outbound},
    http_client::Worker,
    link::{Link, inbound::Inbound},
    watch::{Carriage, WatchError},
};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{Field, Frame, Kind, Method, list, message};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// A listen stream is renewed after this long.
const LISTEN: Duration = Duration::from_secs(24 * 3600);
/// Longer than a stream is kept.
const NEVER: Duration = Duration::from_secs(48 * 3600);
/// Shortest and longest wait before a broken one is opened again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How long wishes that come together may gather before another stream is opened for them.
const GATHER: Duration = Duration::from_millis(5);
/// How long a server may take to acknowledge a stream.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);
/// How long the stream before is read on beside the new one: the two have no common order.
const OVERLAP: Duration = Duration::from_millis(100);

/// Whether the server says that its lists change.
pub(super) fn worth_it(link: &Link) -> bool {
    link.peer().capabilities.contains("listChanged")
}

/// Listens until the link is gone or another carrier takes over; without `lists` only while something is watched.
pub(super) async fn keep(link: Arc<Link>, carriage: Carriage, lists: bool) {
    let again = carriage.is_again();
    let inbound = Arc::clone(&link.inbound);
    let (told, owed) = (Told::default(), Owed::default());
    let mut listening =
        Listening { inbound, link, carriage, lists, current: None, was_accepted: false, again, told, owed };
    listening.run().await;
}

struct Listening {
    link: Arc<Link>,
    inbound: Arc<Inbound>,
    carriage: Carriage,
    lists: bool,
    current: Option<Stream>,
    /// The server acknowledged a stream on this link.
    was_accepted: bool,
    /// What changed while nobody listened is not known.
    again: bool,
    told: Told,
    /// What `current` is still to bring, and was heard on another stream.
    owed: Owed,
}

struct Stream {
    exchange: Box<Exchange>,
    accepted: BTreeSet<Arc<str>>,
    opened: Instant,
}

/// Why there is no new stream.
enum Failed {
    /// The server answered instead of listening.
    Answered(Frame),
    Broke(UpstreamError),
}

impl Listening {
    async fn run(&mut self) {
        let mut wait = RETRY.0;
        let mut retry_at = Instant::now();
        loop {
            let Some(wanted) = self.carriage.wanted() else { return };
            if !self.lists && wanted.is_empty() && self.carriage.ends_unless_wanted() {
                return self.close("nobody listens any more");
            }
            let due = match &self.current {
                Some(current) => current.accepted != wanted || current.opened.elapsed() >= LISTEN,
                None => true,
            };
            if due && Instant::now() >= retry_at {
                match self.turn_over(wanted, wait).await {
                    Ok(()) => {
                        wait = RETRY.0;
                        continue;
                    }
                    Err(failed) => {
                        self.note(failed);
                        retry_at = Instant::now() + wait;
                        wait = (wait * 2).min(RETRY.1);
                        continue;
                    }
                }
            }
            if let Some(current) = self.current.as_ref().filter(|_| !due) {
                self.carriage.is_settled(&current.accepted);
            }
            let renew = self.current.as_ref().map_or(retry_at, |current| current.opened + LISTEN);
            let at = if due { retry_at } else { renew };
            tokio::select! {
                item = next(&mut self.current) => match item {
                    Ok(Item::Message(frame)) => {
                        if self.is_news(&frame) {
                            self.hear(frame);
                        }
                    }
                    Ok(Item::Final(_)) | Err(_) => {
                        tracing::debug!(server = self.link.server_name(), "the server ended its listen stream");
                        self.current = None;
                        self.owed.clear();
                        self.again = true;
                        retry_at = Instant::now() + wait;
                        wait = (wait * 2).min(RETRY.1);
                    }
                },
                () = self.carriage.changed() => tokio::time::sleep(GATHER).await,
                () = sleep_until(at) => {}
            }
        }
    }

    fn close(&mut self, reason: &str) {
        if let Some(mut current) = self.current.take() {
            current.exchange.cancel(reason);
        }
        self.carriage.all_left();
    }

    /// Opens a stream for `wanted` and puts it in the place of the one there is. `wait` is what the next try would wait:
    /// a server that was too slow gets more time.
    async fn turn_over(&mut self, wanted: BTreeSet<Arc<str>>, wait: Duration) -> Result<(), Failed> {
        let mut overlap = Overlap::default();
        let was_cut = match self.replace(wanted, wait, &mut overlap).await {
            Ok(was_cut) => was_cut,
            Err(failed) => {
                if self.current.is_some() {
                    overlap.given_up(&mut self.owed);
                }
                return Err(failed);
            }
        };
        let (doubtful, owed) = overlap.replaced(&self.told);
        self.owed = owed;
        if was_cut {
            for frame in doubtful {
                self.hear(frame);
            }
        }
        self.carriage.all_left();
        if std::mem::take(&mut self.again) {
            self.catch_up();
        }
        Ok(())
    }

    /// Reads both streams until the new one has taken the place of the other. True when that was closed, and did not end.
    async fn replace(
        &mut self,
        wanted: BTreeSet<Arc<str>>,
        wait: Duration,
        overlap: &mut Overlap,
    ) -> Result<bool, Failed> {
        let mut fresh = self.open(&wanted).await.map_err(Failed::Broke)?;
        let mut accepted: Option<BTreeSet<Arc<str>>> = None;
        let mut until = Instant::now() + ACKNOWLEDGE.max(wait);
        while accepted.is_none() || self.current.is_some() {
            tokio::select! {
                biased;
                () = sleep_until(until) => break,
                // Before the other, so that an acknowledgement is not read after what the stream before brought since.
                item = fresh.next() => match item {
                    Ok(Item::Message(frame)) if frame.method_class() == Method::SubscriptionAcknowledged => {
                        if accepted.is_none() {
                            accepted = Some(self.acknowledged(&wanted, &frame));
                            overlap.acknowledged();
                            self.was_accepted = true;
                            until = Instant::now() + OVERLAP;
                        }
                    }
                    Ok(Item::Message(frame)) => {
                        if updated(&frame).is_none_or(|uri| overlap.fresh(uri, &frame) == Said::New) {
                            self.hear(frame);
                        }
                    }
                    Ok(Item::Final(answer)) => return Err(self.refused(&wanted, answer.frame)),
                    Err(error) => return Err(Failed::Broke(error)),
                },
                item = next(&mut self.current) => match item {
                    Ok(Item::Message(frame)) => {
                        if self.is_news(&frame)
                            && updated(&frame).is_none_or(|uri| overlap.before(uri, &frame) == Said::New)
                        {
                            self.hear(frame);
                        }
                    }
                    Ok(Item::Final(_)) | Err(_) => {
                        self.current = None;
                        self.owed.clear();
                        // It may have had more to say than was heard of it, and what the new one said twice was held
                        // back.
                        self.again = true;
                    }
                },
            }
        }
        let accepted = match accepted {
            Some(accepted) => accepted,
            None if self.not_acknowledged(&wanted) => {
                fresh.cancel("it is not acknowledged");
                return Err(Failed::Broke(unacknowledged()));
            }
            // One that never says so may yet tell that its lists change.
            None => BTreeSet::new(),
        };
        let before = self.current.take();
        let was_cut = before.is_some();
        if let Some(mut before) = before {
            before.exchange.cancel("another stream took its place");
        }
        self.told.keep(&accepted);
        self.current = Some(Stream { exchange: fresh, accepted, opened: Instant::now() });
        Ok(was_cut)
    }

    async fn open(&self, wanted: &BTreeSet<Arc<str>>) -> Result<Box<Exchange>, UpstreamError> {
        let mut filter = Vec::new();
        if self.lists {
            let kinds = ["toolsListChanged", "promptsListChanged", "resourcesListChanged"];
            filter.extend(kinds.iter().map(|kind| format!("\"{kind}\":true")));
        }
        if !wanted.is_empty() {
            let uris: Vec<_> = wanted.iter().map(|uri| message::quote(uri)).collect();
            filter.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        let params = format!("{{\"notifications\":{{{}}},\"_meta\":{}}}", filter.join(","), own_meta());
        let mut outbound = Outbound::own(Method::Listen.as_str(), Some(&params), Instant::now() + NEVER);
        outbound.idle = NEVER;
        let starting = Exchange::start(Arc::clone(&self.link), None, Worker::CONTROL, outbound);
        let mut exchange = starting.begun().await?;
        // A link that only listens is idle; whether somebody watches something is known elsewhere.
        exchange.stand_by();
        Ok(exchange)
    }

    /// What of `wanted` the server accepts. Those who wait for it are told.
    fn acknowledged(&self, wanted: &BTreeSet<Arc<str>>, frame: &Frame) -> BTreeSet<Arc<str>> {
        let filter = frame.raw(Field::ParamNotifications).unwrap_or("{}");
        let uris = list::items(filter, "resourceSubscriptions").unwrap_or_default();
        let uris: BTreeSet<String> = uris.into_iter().filter_map(|raw| serde_json::from_str(raw).ok()).collect();
        let accepted: BTreeSet<_> = wanted.iter().filter(|uri| uris.contains(&***uri)).cloned().collect();
        for uri in &accepted {
            self.carriage.accepted(uri, None);
        }
        self.reject(wanted, &accepted);
        accepted
    }

    fn reject(&self, wanted: &BTreeSet<Arc<str>>, accepted: &BTreeSet<Arc<str>>) {
        for uri in wanted.difference(accepted) {
            if self.carriage.refused(uri, || WatchError::Refused(None)) {
                tracing::warn!(
                    server = self.link.server_name(),
                    "the server no longer sends updates of a resource that clients are subscribed to"
                );
                let key = Some(self.carriage.key().clone());
                self.inbound.updated(LinkEvent::Refused { link: self.link.id, key });
            }
        }
    }

    /// The server did not acknowledge a stream in time. What is new is given up; what it accepted before it has not
    /// taken back, so the stream before stays. True when it is to be asked again.
    fn not_acknowledged(&self, wanted: &BTreeSet<Arc<str>>) -> bool {
        tracing::warn!(server = self.link.server_name(), "the server does not acknowledge that it is listened to");
        for uri in wanted {
            self.carriage.declined(uri, || WatchError::Upstream(unacknowledged()));
        }
        self.was_accepted || self.current.is_some() || self.carriage.wanted().is_none_or(|wanted| !wanted.is_empty())
    }

    /// The server ended the stream at once. What it accepted before stays wanted, what is new is not.
    fn refused(&self, wanted: &BTreeSet<Arc<str>>, answer: Frame) -> Failed {
        let before = self.current.as_ref().map(|current| &current.accepted);
        let error = (answer.kind() == Kind::Error).then(|| answer.clone());
        for uri in wanted.iter().filter(|uri| before.is_none_or(|before| !before.contains(*uri))) {
            self.carriage.declined(uri, || WatchError::Refused(error.clone()));
        }
        if before.is_none() && self.was_accepted {
            // It has listened before. What it is now is found out by connecting anew.
            self.inbound.closed("it no longer lets itself be listened to", End::Forgotten);
        }
        Failed::Answered(answer)
    }

    fn note(&self, failed: Failed) {
        match failed {
            Failed::Answered(answer) => tracing::debug!(
                server = self.link.server_name(),
                code = answer.error_code(),
                "the server does not want to be listened to in this way"
            ),
            Failed::Broke(error) => {
                tracing::debug!(server = self.link.server_name(), %error, "the server cannot be listened to now");
            }
        }
    }

    fn catch_up(&self) {
        if self.lists {
            return self.inbound.lost_track();
        }
        let key = Some(self.carriage.key().clone());
        self.inbound.tell(LinkEvent::Rewatched { link: self.link.id, key });
    }

    /// Whether what `current` brings was not heard on another stream before.
    fn is_news(&mut self, frame: &Frame) -> bool {
        updated(frame).is_none_or(|uri| self.owed.take(&uri, frame) == Said::New)
    }

    fn hear(&mut self, frame: Frame) {
        match updated(&frame) {
            Some(uri) => {
                self.told.note(&uri, &frame);
                let key = Some(self.carriage.key().clone());
                self.inbound.updated(LinkEvent::ResourceUpdated { link: self.link.id, key, uri, frame });
            }
            None if self.lists => self.inbound.notification(frame),
            None => {}
        }
    }
}

fn unacknowledged() -> UpstreamError {
    let what = "the server does not acknowledge that it is listened to";
    UpstreamError::new(UpstreamErrorKind::Timeout, Outcome::Unknown, what)
}

/// The resource a notification is about.
fn updated(frame: &Frame) -> Option<Arc<str>> {
    let uri = (frame.method_class() == Method::ResourceUpdated).then(|| frame.str(Field::Uri)).flatten()?;
    Some(Arc::from(&*uri))
}

/// What the stream brings next; for ever nothing where there is none.
async fn next(stream: &mut Option<Stream>) -> Result<Item, UpstreamError> {
    match stream {
        Some(stream) => stream.exchange.next().await,
        None => std::future::pending().await,
    }
}
