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

/// The published picture of one server.
#[derive(Debug, Clone)]
pub struct ServerView {
    /// Where the server stands.
    pub state: State,
    /// Who answered: era, revision, capabilities, instructions. From the store until confirmed.
    pub peer: Option<Arc<Peer>>,
    /// Catalogs by the client capability set they were listed for. A modern server has one, under
    /// [`CapabilitySet::BARE`]: its lists may not depend on the connection.
    pub catalogs: Arc<HashMap<CapabilitySet, Arc<Catalog>>>,
    /// What the server was seen to ask.
    pub asks: Asks,
    /// Whether the catalogs were confirmed by the running server (not only read from the store),
    /// and it has not failed since.
    pub fresh: bool,
    /// Grows with every publication.
    pub version: u64,
    /// Grows when a catalog, the peer, or the freshness changes: what prepared lists depend on.
    pub catalog_version: u64,
}

impl ServerView {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Starting,
            peer: None,
            catalogs: Arc::default(),
            asks: Asks::default(),
            fresh: false,
            version: 0,
            catalog_version: 0,
        }
    }

    /// The era, once known.
    #[must_use]
    pub fn era(&self) -> Option<Era> {
        self.peer.as_ref().map(|peer| peer.revision.era())
    }

    /// The capability set a catalog for a caller with `capabilities` is kept under.
    #[must_use]
    pub fn catalog_key(&self, capabilities: CapabilitySet) -> CapabilitySet {
        match self.era() {
            Some(Era::Modern) => CapabilitySet::BARE,
            _ => capabilities,
        }
    }

    /// The catalog a caller with `capabilities` sees, if it was ever learned.
    #[must_use]
    pub fn catalog(&self, capabilities: CapabilitySet) -> Option<&Arc<Catalog>> {
        self.catalogs.get(&self.catalog_key(capabilities))
    }

    /// That catalog, or any other of the server when that one was never learned.
    #[must_use]
    pub fn nearest_catalog(&self, capabilities: CapabilitySet) -> Option<&Arc<Catalog>> {
        self.catalog(capabilities)
            .or_else(|| self.catalogs.get(&CapabilitySet::BARE))
            .or_else(|| self.catalogs.iter().min_by_key(|(key, _)| **key).map(|(_, catalog)| catalog))
    }

    /// Why the server's part of a list is missing or stale; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.state {
            State::Down { reason, .. } => Some(reason.to_string()),
            State::Starting if !self.fresh => Some("still starting".to_owned()),
            State::Stopped => Some("stopped".to_owned()),
            _ => None,
        }
    }
}
