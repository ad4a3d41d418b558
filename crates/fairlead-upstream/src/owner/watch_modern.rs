//! The listen stream of a modern server: how list changes reach the owner.

use crate::{
    catalog::{ListingKind, own_meta},
    event::LinkEvent,
    exchange::{Exchange, Item, Outbound},
    http_client::Worker,
    link::{Link, inbound::Inbound},
};
use fairlead_wire::Method;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// A listen stream is renewed after this long at the latest.
const LISTEN: Duration = Duration::from_secs(24 * 3600);
/// Shortest and longest wait before a broken one is opened again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Whether the server says that its lists change.
pub(super) fn worth_it(link: &Link) -> bool {
    link.peer().capabilities.contains("listChanged")
}

/// Listens until the link is gone.
pub(super) async fn watch(link: Weak<Link>, inbound: Arc<Inbound>) {
    let mut wait = RETRY.0;
    let mut first = true;
    loop {
        let Some(strong) = link.upgrade() else { return };
        if strong.is_closed() {
            return;
        }
        let params = format!(
            "{{\"notifications\":{{\"toolsListChanged\":true,\"promptsListChanged\":true,\"resourcesListChanged\":true}},\"_meta\":{}}}",
            own_meta()
        );
        let outbound = Outbound::own(Method::Listen.as_str(), Some(&params), Instant::now() + LISTEN);
        if let Ok(mut exchange) = Exchange::start(Arc::clone(&strong), None, Worker::CONTROL, outbound).begun().await {
            drop(strong);
            if !first {
                // What changed while nobody listened is not known.
                for kind in ListingKind::ALL {
                    inbound.tell(LinkEvent::ListChanged { kind });
                }
            }
            while let Ok(Item::Message(frame)) = exchange.next().await {
                wait = RETRY.0;
                inbound.notification(frame);
            }
        }
        first = false;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}
