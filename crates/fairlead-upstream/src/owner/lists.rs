//! The owner's lists: what is learned, when it is listed anew, what is kept for the next start.

use super::{Done, Owner, TRIED, catalog_key_of, opening::chain};
use crate::{
    catalog::{self, Bounds, Catalog, ListingKind, StoredBody},
    event::ServerEvent,
    link::{Link, LinkKey},
    view::{Asks, CatalogKey, ServerView, State},
};
use fairlead_config::Server;
use fairlead_core::{UpstreamError, ports::StoredCatalog};
use fairlead_wire::{CapabilitySet, Era};
use std::{collections::HashMap, future::Future, sync::Arc};
use tokio::time::Instant;

/// Puts the stored catalogs into the first view; returns the key to open first, and whether the server spoke HTTP+SSE.
pub(super) fn restore(server: &Server, stored: Vec<StoredCatalog>, view: &mut ServerView) -> (LinkKey, bool) {
    let identity = server.identity();
    let mut catalogs = HashMap::new();
    let (mut latest, mut latest_legacy) = (0, 0);
    let mut legacy = CapabilitySet::BARE;
    let mut over_sse = false;
    for record in stored.into_iter().filter(|record| record.identity == identity) {
        let Some(key) = CatalogKey::from_text(&record.capabilities) else { continue };
        match serde_json::from_str::<StoredBody>(&record.body) {
            Ok(body) => {
                catalogs.insert(key, Arc::new(body.catalog(record.learned_ms)));
                if record.learned_ms >= latest {
                    latest = record.learned_ms;
                    view.asks = body.asks;
                    over_sse = body.over_sse;
                }
                match key.era {
                    Era::Modern => view.modern = Some(Arc::new(body.peer)),
                    Era::Legacy if record.learned_ms >= latest_legacy => {
                        latest_legacy = record.learned_ms;
                        legacy = key.capabilities;
                        view.legacy = Some(Arc::new(body.peer));
                    }
                    Era::Legacy => {}
                }
            }
            Err(error) => tracing::warn!(server = %server.name, %error, "a stored catalog cannot be read"),
        }
    }
    view.catalogs = Arc::new(catalogs);
    let first = if view.modern.is_some() { LinkKey::modern() } else { LinkKey::legacy(legacy) };
    (first, over_sse)
}

impl Owner {
    pub(super) fn remember_asks(&mut self, change: impl FnOnce(&mut Asks)) {
        let mut asks = self.shared.view.load().asks;
        let before = asks;
        change(&mut asks);
        if asks == before {
            return;
        }
        tracing::info!(server = %self.name(), roots = asks.roots, untied = asks.untied, "the server asks its client; remembered");
        self.publish(|view| view.asks = asks);
        let catalogs: Vec<_> =
            self.shared.view.load().catalogs.iter().map(|(key, catalog)| (*key, Arc::clone(catalog))).collect();
        for (catalog_key, catalog) in catalogs {
            self.save(catalog_key, &catalog);
        }
    }

    /// Lists what changed, for every capability set whose link is open; the other catalogs are due
    /// when somebody asks for them.
    pub(super) fn relist(&mut self) {
        let kinds = std::mem::take(&mut self.dirty);
        if kinds.is_empty() {
            return;
        }
        self.relisted = Some(Instant::now());
        let mut open: HashMap<CatalogKey, Arc<Link>> = HashMap::new();
        for link in self.links().into_iter().filter(|link| !link.is_closed()) {
            open.entry(catalog_key_of(&link)).or_insert(link);
        }
        let view = self.shared.view.load_full();
        if view.catalogs.keys().any(|key| !open.contains_key(key)) {
            self.publish(|view| {
                view.catalogs = Arc::new(
                    view.catalogs
                        .iter()
                        .map(|(key, catalog)| {
                            let current = if open.contains_key(key) {
                                Arc::clone(catalog)
                            } else {
                                Arc::new(catalog.unconfirmed())
                            };
                            (*key, current)
                        })
                        .collect(),
                );
            });
        }
        for (catalog_key, link) in open {
            if self.learning.contains(&catalog_key) {
                // A listing is under way; what changed meanwhile is looked at after it.
                let later = self.relearn.entry(catalog_key).or_default();
                later.extend(kinds.iter().filter(|kind| !later.contains(kind)).copied().collect::<Vec<_>>());
            } else {
                self.learn_over(&link, catalog_key, &kinds);
            }
        }
    }

    pub(super) fn learn(&mut self, client: Era, capabilities: CapabilitySet, kinds: &[ListingKind]) {
        let view = self.shared.view.load_full();
        if !view.is_known() {
            if self.retry.is_none() {
                self.find_out(false);
            }
            return;
        }
        let catalog_key = view.catalog_key(client, capabilities);
        if self.learning.contains(&catalog_key) {
            return;
        }
        if !view.catalogs.contains_key(&catalog_key)
            && view.catalogs.len() >= self.environment.catalog.max_capability_sets
        {
            tracing::debug!(server = %self.name(), "as many capability sets as `catalog.max_capability_sets` allows; the nearest catalog serves");
            return;
        }
        let link = self.links().into_iter().find(|link| !link.is_closed() && catalog_key_of(link) == catalog_key);
        match link {
            Some(link) => self.learn_over(&link, catalog_key, kinds),
            None => {
                let down = matches!(&view.state, State::Down { retry_at, .. } if Instant::now().into_std() < *retry_at);
                let full = self.links().len() + self.opening.len() >= self.shared.server.max_sessions;
                if !down && !full {
                    let key = match catalog_key.era {
                        Era::Modern => LinkKey::modern(),
                        Era::Legacy => LinkKey::legacy(catalog_key.capabilities),
                    };
                    let hint = Some(key.era);
                    self.open(key, false, hint);
                }
            }
        }
    }

    pub(super) fn learn_over(&mut self, link: &Arc<Link>, catalog_key: CatalogKey, kinds: &[ListingKind]) {
        if !self.learning.insert(catalog_key) {
            return;
        }
        let link = Arc::clone(link);
        let kinds = kinds.to_vec();
        let before = self.shared.view.load().catalogs.get(&catalog_key).cloned();
        // A part can only be listed anew when the rest is there.
        let kinds = if before.is_some() { kinds } else { ListingKind::ALL.to_vec() };
        let bounds =
            Bounds { max_items: self.environment.catalog.max_items, max_bytes: self.environment.catalog.max_bytes };
        let now_ms = self.environment.clock.unix_ms();
        let deadline = Instant::now() + self.shared.server.timeout.start;
        self.tasks.spawn(async move {
            let result = catalog::learn(&link, &kinds, before.as_deref(), bounds, now_ms, deadline).await;
            Done::Learned { catalog_key, kinds, result }
        });
    }

    pub(super) fn learned(
        &mut self,
        catalog_key: CatalogKey,
        kinds: &[ListingKind],
        result: Result<Catalog, UpstreamError>,
    ) {
        self.learning.remove(&catalog_key);
        match result {
            Ok(catalog) => {
                let catalog = Arc::new(catalog);
                let view = self.shared.view.load_full();
                let is_new = !view.catalogs.contains_key(&catalog_key);
                // What clients were shown so far. The first catalog of its kind is no news if it says what the one
                // they saw in its place said: there are clients that stop for ever when they hear of a change while
                // they are listing.
                let before = view.nearest_catalog(catalog_key.era, catalog_key.capabilities);
                let changed: Vec<_> = kinds
                    .iter()
                    .copied()
                    .filter(|&kind| before.is_none_or(|before| !before.lists_same(&catalog, kind)))
                    .collect();
                let max_sets = self.environment.catalog.max_capability_sets.max(1);
                self.publish(|view| {
                    let mut catalogs = HashMap::clone(&view.catalogs);
                    if !catalogs.contains_key(&catalog_key) && catalogs.len() >= max_sets {
                        // A call opened a link for one set more: the one learned longest ago makes room.
                        let oldest = catalogs.iter().min_by_key(|(_, catalog)| catalog.learned_ms).map(|(key, _)| *key);
                        oldest.map(|key| catalogs.remove(&key));
                    }
                    catalogs.insert(catalog_key, Arc::clone(&catalog));
                    view.catalogs = Arc::new(catalogs);
                    if !changed.is_empty() || is_new || !view.fresh {
                        view.catalog_version += 1;
                    }
                    view.fresh = true;
                    view.unlisted = None;
                });
                let earlier = view.catalogs.get(&catalog_key);
                for kind in changed {
                    let replaces = earlier.is_some_and(|earlier| !earlier.lists_same(&catalog, kind));
                    let _ = self.shared.events.send(ServerEvent::ListChanged { kind, era: catalog_key.era, replaces });
                }
                self.save(catalog_key, &catalog);
            }
            Err(error) => {
                tracing::warn!(server = %self.name(), "cannot list what the server has: {error}");
                self.publish(|view| {
                    view.unlisted = Some(error.to_string().into());
                    view.catalog_version += 1;
                });
                if !self.shared.view.load().fresh && self.retry.is_none() {
                    // Nothing is sure: keep trying, as a server that cannot list is of little use.
                    self.dirty = ListingKind::ALL.to_vec();
                    self.relist_at = Some(Instant::now() + self.backoff.failed());
                }
            }
        }
        if let Some(kinds) = self.relearn.remove(&catalog_key)
            && let Some(link) =
                self.links().into_iter().find(|link| !link.is_closed() && catalog_key_of(link) == catalog_key)
        {
            self.learn_over(&link, catalog_key, &kinds);
        }
    }

    pub(super) fn save(&mut self, catalog_key: CatalogKey, catalog: &Catalog) {
        let view = self.shared.view.load_full();
        let peer = match catalog_key.era {
            Era::Modern => &view.modern,
            Era::Legacy => &view.legacy,
        };
        let Some(peer) = peer else { return };
        let body = StoredBody::new(peer, view.asks, self.opener.found_sse(), catalog);
        let Ok(body) = serde_json::to_string(&body) else { return };
        let record = StoredCatalog {
            server: self.name().to_string(),
            identity: self.shared.server.identity(),
            capabilities: catalog_key.to_text(),
            body,
            learned_ms: catalog.learned_ms,
        };
        let store = Arc::clone(&self.environment.store);
        self.tasks.spawn(async move {
            if let Err(error) = store.save(record).await {
                tracing::warn!(%error, cause = chain(error.cause.as_ref()), "a catalog was not stored");
            }
            Done::Other
        });
    }

    /// Notes for the next run that the server was tried and never listed anything.
    pub(super) fn tried(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let learned = !self.shared.view.load().catalogs.is_empty();
        if learned || self.shared.tried {
            return None;
        }
        let record = StoredCatalog {
            server: self.name().to_string(),
            identity: self.shared.server.identity(),
            capabilities: TRIED.to_owned(),
            body: "{}".to_owned(),
            learned_ms: self.environment.clock.unix_ms(),
        };
        let store = Arc::clone(&self.environment.store);
        Some(async move {
            // Without it the next start waits for the server once more.
            let _ = store.save(record).await;
        })
    }
}
