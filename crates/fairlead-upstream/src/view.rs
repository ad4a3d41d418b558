//! What an owner publishes: an immutable picture of its server that readers hold as long as they like.

use crate::{catalog::Catalog, link::Peer};
use fairlead_wire::{CapabilitySet, Era};
use std::{collections::HashMap, sync::Arc, time::Instant};

/// Where a server stands.
#[derive(Debug, Clone)]
pub enum State {
    /// The first link is being opened; nothing is known yet beyond what was stored.
    Starting,
    /// At least one link is open.
    Ready,
    /// No link is open because nobody needed one; the next call opens it.
    Idle,
    /// The last attempt to open a link failed. Calls fail at once until `retry_at`.
    Down {
        /// What failed, without addresses, commands or secrets.
        reason: Arc<str>,
        /// When the owner (or the next call after it) tries again.
        retry_at: Instant,
        /// Failures in a row.
        failures: u32,
    },
    /// The owner has been told to stop.
    Stopped,
}

impl State {
    /// One word for tables and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Idle => "idle",
            State::Down { .. } => "down",
            State::Stopped => "stopped",
        }
    }
}

/// What a legacy server was seen to ask of its client. Remembered with its catalog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Asks {
    /// It asks for roots: callers that declare roots get a link per distinct set of them.
    pub roots: bool,
    /// It asks in ways that name no call (stdio, GET stream): callers that can be asked get a link
    /// of their own for the length of a call.
    pub untied: bool,
}

/// For whom a catalog was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CatalogKey {
    /// The era it was listed in.
    pub era: Era,
    /// What the client declared; empty for a modern server, whose lists may not depend on the connection.
    pub capabilities: CapabilitySet,
}

impl CatalogKey {
    /// The one catalog of a modern server.
    pub const MODERN: Self = Self { era: Era::Modern, capabilities: CapabilitySet::BARE };

    /// The key as text, for the store.
    #[must_use]
    pub fn to_text(self) -> String {
        match self.era {
            Era::Modern => "modern".to_owned(),
            Era::Legacy => self.capabilities.key(),
        }
    }

    /// The key of a stored text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        if text == "modern" {
            return Some(Self::MODERN);
        }
        Some(Self { era: Era::Legacy, capabilities: CapabilitySet::from_key(text)? })
    }
}

/// The published picture of one server.
#[derive(Debug, Clone)]
pub struct ServerView {
    /// Where the server stands.
    pub state: State,
    /// What the server said of itself to modern clients, if it speaks 2026-07-28. From the store
    /// until confirmed.
    pub modern: Option<Arc<Peer>>,
    /// What it said to clients of the session-based revisions, if it was asked.
    pub legacy: Option<Arc<Peer>>,
    /// A modern server refused the legacy handshake, or the configuration rules it out: its legacy
    /// clients are served over the modern link.
    pub legacy_refused: bool,
    /// Catalogs by what a client has to be for them.
    pub catalogs: Arc<HashMap<CatalogKey, Arc<Catalog>>>,
    /// What the server was seen to ask.
    pub asks: Asks,
    /// Whether the catalogs were confirmed by the running server (not only read from the store),
    /// and it has not failed since.
    pub fresh: bool,
    /// Why the lists could not be had over an open link the last time; `None` once they could.
    pub unlisted: Option<Arc<str>>,
    /// Grows with every publication.
    pub version: u64,
    /// Grows when a catalog, the peer, or the freshness changes: what prepared lists depend on.
    pub catalog_version: u64,
}

impl ServerView {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Starting,
            modern: None,
            legacy: None,
            legacy_refused: false,
            catalogs: Arc::default(),
            asks: Asks::default(),
            fresh: false,
            unlisted: None,
            version: 0,
            catalog_version: 0,
        }
    }

    /// The era in which a client of era `client` is served: its own where the server speaks it.
    /// `None` while nothing is known of the server. What a modern server lists in
    /// `supportedVersions` does not settle it: servers that serve both eras list the modern
    /// revision alone there, so they are asked with `initialize`.
    #[must_use]
    pub fn era_for(&self, client: Era) -> Option<Era> {
        match (&self.modern, &self.legacy) {
            (Some(_), _) => Some(if self.legacy_refused { Era::Modern } else { client }),
            (None, Some(_)) => Some(Era::Legacy),
            (None, None) => None,
        }
    }

    /// Whether links of an era can be open to the server, as far as is known.
    #[must_use]
    pub fn serves_in(&self, era: Era) -> bool {
        match era {
            Era::Modern => self.modern.is_some() || !self.is_known(),
            Era::Legacy => !self.legacy_refused,
        }
    }

    /// What the server says of itself to a client of era `client`. `None` also while a server that
    /// speaks both eras was not asked in this one yet.
    #[must_use]
    pub fn peer_for(&self, client: Era) -> Option<&Arc<Peer>> {
        match self.era_for(client)? {
            Era::Modern => self.modern.as_ref(),
            Era::Legacy => self.legacy.as_ref(),
        }
    }

    /// Whether anything is known of the server.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.modern.is_some() || self.legacy.is_some()
    }

    /// Whether the server was heard of in either era, for tables: the newer one.
    #[must_use]
    pub fn any_peer(&self) -> Option<&Arc<Peer>> {
        self.modern.as_ref().or(self.legacy.as_ref())
    }

    /// What the catalog for such a client is kept under.
    #[must_use]
    pub fn catalog_key(&self, client: Era, capabilities: CapabilitySet) -> CatalogKey {
        match self.era_for(client) {
            Some(Era::Modern) => CatalogKey::MODERN,
            // A legacy server is told what the client declared, with its session or with the request.
            _ => CatalogKey { era: Era::Legacy, capabilities },
        }
    }

    /// The catalog such a client sees, if it was ever learned.
    #[must_use]
    pub fn catalog(&self, client: Era, capabilities: CapabilitySet) -> Option<&Arc<Catalog>> {
        self.catalogs.get(&self.catalog_key(client, capabilities))
    }

    /// That catalog, or any other of the server when that one was never learned.
    #[must_use]
    pub fn nearest_catalog(&self, client: Era, capabilities: CapabilitySet) -> Option<&Arc<Catalog>> {
        self.catalog(client, capabilities)
            .or_else(|| self.catalogs.get(&CatalogKey { era: Era::Legacy, capabilities: CapabilitySet::BARE }))
            .or_else(|| self.catalogs.get(&CatalogKey::MODERN))
            .or_else(|| self.catalogs.iter().min_by_key(|(key, _)| key.capabilities).map(|(_, catalog)| catalog))
    }

    /// Why the server's part of a list is missing or stale; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.state {
            State::Down { reason, .. } => Some(reason.to_string()),
            State::Starting if !self.fresh => Some("still starting".to_owned()),
            State::Stopped => Some("stopped".to_owned()),
            _ if self.fresh => None,
            _ => Some(match &self.unlisted {
                Some(reason) => format!("it cannot be listed: {reason}"),
                None => "it is being listed".to_owned(),
            }),
        }
    }
}
