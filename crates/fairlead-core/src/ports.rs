//! What the upper crates need from storage, in the house's own words. Adapters are wired in the binary.

use std::{future::Future, pin::Pin};

/// A boxed future, for ports that must be object safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One stored catalog: what a server listed to a given set of client capabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCatalog {
    /// The server's name.
    pub server: String,
    /// Digest of what identifies the server (command or URL); a changed one makes the record useless.
    pub identity: String,
    /// Canonical client capability set the lists were made for.
    pub capabilities: String,
    /// The catalog as JSON text; opaque to the store.
    pub body: String,
    /// When it was learned, milliseconds since the Unix epoch.
    pub learned_ms: u64,
}

/// Last-known-good catalogs, and what was learned about how servers behave.
pub trait CatalogStore: Send + Sync {
    /// Everything stored, at start.
    fn load_all(&self) -> BoxFuture<'_, Result<Vec<StoredCatalog>, StoreError>>;
    /// Replaces the record of (server, capabilities).
    fn save(&self, catalog: StoredCatalog) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Forgets a server that is no longer configured.
    fn forget<'a>(&'a self, server: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// The small record of a legacy session that a sealed id cannot carry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionRecord {
    /// The client ended the session: the id is dead although it still opens.
    pub ended: bool,
    /// Log level the client asked for, empty for none.
    pub log_level: String,
    /// Subscribed URIs as the client knows them.
    pub subscriptions: Vec<String>,
}

/// Session records by the session's short key. Writes are queued: the data plane never waits for them.
pub trait SessionStore: Send + Sync {
    /// The record of `key`, if any was ever written.
    fn load<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<SessionRecord>, StoreError>>;
    /// Queues a write; `expires_ms` (Unix) is when the sealed id dies and the record may be swept.
    fn save(&self, key: &str, record: &SessionRecord, expires_ms: u64);
}

/// What is remembered of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRecord {
    /// The id the client has.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// Everything else as JSON text; opaque to the store.
    pub body: String,
    /// When it began, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it may be forgotten (Unix milliseconds).
    pub expires_ms: u64,
}

/// Tasks by their ids. Writes are queued: the data plane never waits for them.
pub trait TaskStore: Send + Sync {
    /// The newest `max` tasks of an owner that have not expired, oldest first.
    fn tasks_of<'a>(&'a self, owner: &'a str, max: usize) -> BoxFuture<'a, Result<Vec<TaskRecord>, StoreError>>;
    /// Queues a write of the whole record.
    fn note(&self, record: TaskRecord);
    /// Queues the removal of a record.
    fn remove(&self, id: &str);
}

/// A failure of the store: what we were doing, with the engine's error as the source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} in the store")]
pub struct StoreError {
    /// The operation, as a verb phrase.
    pub doing: &'static str,
    /// The engine's error.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}
