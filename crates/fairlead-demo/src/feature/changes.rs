//! Who hears of a change: legacy sessions on their stream, modern clients through `subscriptions/listen`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use rmcp::{Peer, RoleServer, model::ResourceUpdatedNotificationParam, service::SubscriptionContext};
use tokio::sync::broadcast;

/// Changes a slow modern listener may lag behind before it loses the oldest.
const PENDING_CHANGES: usize = 64;
/// Legacy sessions that are told of changes; further ones are served but hear nothing.
const MAX_SESSIONS: usize = 8_192;
/// Resource subscriptions of one legacy session.
pub(super) const MAX_SUBSCRIPTIONS: usize = 256;

/// Something a client may have asked to hear of.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Tools,
    Prompts,
    Resources,
    Resource(String),
}

/// Resource URIs a legacy session subscribed to.
pub(super) type Subscriptions = Arc<Mutex<BTreeSet<String>>>;

/// The listeners of all sessions.
pub(super) struct Changes {
    modern: broadcast::Sender<Change>,
    legacy: Mutex<Vec<(Peer<RoleServer>, Subscriptions)>>,
}

impl Changes {
    pub(super) fn new() -> Self {
        Self { modern: broadcast::Sender::new(PENDING_CHANGES), legacy: Mutex::default() }
    }

    /// Tells `peer` of changes for as long as its session lives.
    pub(super) fn enroll(&self, peer: Peer<RoleServer>, subscriptions: Subscriptions) {
        let mut legacy = self.legacy.lock().expect("invariant: nobody panics while holding the list of sessions");
        legacy.retain(|(peer, _)| !peer.is_transport_closed());
        if legacy.len() < MAX_SESSIONS {
            legacy.push((peer, subscriptions));
        }
    }

    /// Tells everybody who asked.
    pub(super) async fn announce(&self, change: Change) {
        // Nobody listening is not a failure.
        self.modern.send(change.clone()).ok();
        let sessions: Vec<_> = {
            let mut legacy = self.legacy.lock().expect("invariant: nobody panics while holding the list of sessions");
            legacy.retain(|(peer, _)| !peer.is_transport_closed());
            legacy.clone()
        };
        for (peer, subscriptions) in sessions {
            let told = match &change {
                Change::Tools => peer.notify_tool_list_changed().await,
                Change::Prompts => peer.notify_prompt_list_changed().await,
                Change::Resources => peer.notify_resource_list_changed().await,
                Change::Resource(uri) => {
                    let wanted = subscriptions.lock().expect("invariant: nobody panics while holding it").contains(uri);
                    if !wanted {
                        continue;
                    }
                    peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri.clone())).await
                }
            };
            // A session that has just ended is dropped from the list the next time.
            told.ok();
        }
    }

    /// Serves one `subscriptions/listen` until the client ends it.
    pub(super) async fn listen(&self, context: SubscriptionContext) {
        let mut changes = self.modern.subscribe();
        loop {
            let change = tokio::select! {
                () = context.cancelled() => return,
                change = changes.recv() => change,
            };
            let sink = context.sink();
            let told = match change {
                Ok(Change::Tools) if context.accepted().tools_list_changed == Some(true) => {
                    sink.notify_tool_list_changed().await
                }
                Ok(Change::Prompts) if context.accepted().prompts_list_changed == Some(true) => {
                    sink.notify_prompt_list_changed().await
                }
                Ok(Change::Resources) if context.accepted().resources_list_changed == Some(true) => {
                    sink.notify_resource_list_changed().await
                }
                Ok(Change::Resource(uri))
                    if context.accepted().resource_subscriptions.as_ref().is_some_and(|uris| uris.contains(&uri)) =>
                {
                    sink.notify_resource_updated(uri).await
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => Ok(()),
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if told.is_err() {
                return;
            }
        }
    }
}
