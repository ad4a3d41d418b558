//! Subscriptions of a legacy server: told one by one over one link.

use crate::{
    catalog,
    event::LinkEvent,
    link::Link,
    watch::{Carriage, WatchError},
};
use fairlead_core::{UpstreamError, UpstreamErrorKind};
use fairlead_wire::{Frame, Kind, message};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Requests about subscriptions that are under way at the same time.
const AT_ONCE: usize = 16;
/// How long a server that failed to answer is left alone.
const REST: Duration = Duration::from_secs(1);

/// What one request brought.
struct Told {
    uri: Arc<str>,
    on: bool,
    answer: Result<Frame, UpstreamError>,
}

/// Keeps the server told of what is watched, until nobody watches anything or another carrier takes over.
pub(super) async fn keep(link: Arc<Link>, carriage: Carriage, patience: Duration) {
    let mut told: HashSet<Arc<str>> = HashSet::new();
    let mut busy: HashSet<Arc<str>> = HashSet::new();
    let mut asking: FuturesUnordered<BoxFuture<'static, Told>> = FuturesUnordered::new();
    let mut again = carriage.is_again();
    loop {
        let Some(todo) = carriage.todo(&told, &busy, AT_ONCE - busy.len()) else { return };
        for (uris, on) in [(todo.subscribe, true), (todo.unsubscribe, false)] {
            for uri in uris {
                busy.insert(Arc::clone(&uri));
                asking.push(tell(Arc::clone(&link), uri, on, Instant::now() + patience).boxed());
            }
        }
        if asking.is_empty() {
            if std::mem::take(&mut again) && !told.is_empty() {
                link.inbound.tell(LinkEvent::Rewatched { link: link.id, key: Some(carriage.key().clone()) });
            }
            if told.is_empty() && carriage.ends_unless_wanted() {
                return;
            }
        }
        let done = tokio::select! {
            Some(done) = asking.next(), if !asking.is_empty() => done,
            () = carriage.changed() => continue,
        };
        busy.remove(&done.uri);
        match done.answer {
            Ok(frame) if !done.on => {
                // One that it did not know, or would not give up, is of no more interest either.
                tracing::trace!(server = link.server_name(), ok = frame.kind() == Kind::Result, "unsubscribed");
                told.remove(&done.uri);
                carriage.left(&done.uri);
            }
            Ok(frame) if frame.kind() == Kind::Result => {
                told.insert(Arc::clone(&done.uri));
                carriage.accepted(&done.uri, Some(frame));
            }
            Ok(frame) => {
                if carriage.refused(&done.uri, || WatchError::Refused(Some(frame.clone()))) {
                    tracing::warn!(
                        server = link.server_name(),
                        "the server no longer sends updates of a resource that clients are subscribed to"
                    );
                    link.inbound.updated(LinkEvent::Refused { link: link.id, key: Some(carriage.key().clone()) });
                }
            }
            Err(error) if error.kind == UpstreamErrorKind::Timeout && done.on => {
                let error = || UpstreamError::new(error.kind, error.outcome, error.message.clone());
                tracing::debug!(server = link.server_name(), "the server does not answer to a subscription");
                // What clients are subscribed to is asked for again: a slow server has refused nothing.
                carriage.declined(&done.uri, || WatchError::Upstream(error()));
            }
            Err(error) => {
                tracing::debug!(server = link.server_name(), %error, "the server was not told of a subscription");
                told.remove(&done.uri);
                carriage.left(&done.uri);
                // Usually the link is gone and this task with it; else it is tried again.
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn tell(link: Arc<Link>, uri: Arc<str>, on: bool, deadline: Instant) -> Told {
    let method = if on { "resources/subscribe" } else { "resources/unsubscribe" };
    let params = format!("{{\"uri\":{}}}", message::quote(&uri));
    let answer = catalog::ask(&link, method, Some(&params), deadline).await;
    Told { uri, on, answer }
}
