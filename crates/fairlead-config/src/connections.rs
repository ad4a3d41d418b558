//! The connection pool of a server reached over HTTP: what people write, and what the program uses.

use crate::leaf::{DurationText, WaitText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The connection pool of a server with a `url`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionsFile {
    /// Idle connections opened ahead, so that calls after a rest need not wait for one: per worker, or in all where
    /// `max` is set.
    #[schemars(range(min = 0, max = 10_000))]
    pub min_idle: usize,
    /// Idle connections kept at most, per worker. Fewer than calls come at once means connecting anew all the time.
    #[schemars(range(min = 0, max = 100_000))]
    pub max_idle: usize,
    /// Connections for calls at most, of all workers together; further calls wait `acquire_timeout` for one. What a
    /// session or a subscription listens on is not counted. Default: no bound.
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
    /// How long an idle connection is kept.
    pub idle_timeout: DurationText,
    /// How long a connection is used, less up to a tenth so that not all end together. It never ends within a call.
    /// Default: as long as it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<DurationText>,
    /// How long a call waits for a connection.
    pub acquire_timeout: DurationText,
    /// A connection that rested longer is looked at before it is used, so that one the server closed is not.
    pub validate_after: WaitText,
    /// Which idle connection is used next: `newest`, so that few are kept in use, or `oldest`, so that all are.
    pub reuse: ReuseFile,
    /// Which one is closed when more than `max_idle` are idle: the least recently used (`lru`), the least often used
    /// (`lfu`), the one opened first (`fifo`), or any (`random`).
    pub evict: EvictFile,
}

/// Which idle connection is used next.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum ReuseFile {
    Newest,
    Oldest,
}

/// Which idle connection is closed when there are too many.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum EvictFile {
    Lru,
    Lfu,
    Fifo,
    Random,
}

impl Default for ConnectionsFile {
    fn default() -> Self {
        Self {
            min_idle: 0,
            max_idle: 256,
            max: None,
            idle_timeout: DurationText(Duration::from_secs(60)),
            max_lifetime: None,
            acquire_timeout: DurationText(Duration::from_secs(30)),
            validate_after: WaitText(Duration::from_millis(100)),
            reuse: ReuseFile::Newest,
            evict: EvictFile::Lru,
        }
    }
}

/// The connection pool of an HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connections {
    /// Idle connections opened ahead.
    pub min_idle: usize,
    /// Idle connections kept at most.
    pub max_idle: usize,
    /// Connections for calls at most, of all workers together.
    pub max: Option<usize>,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// How long a connection is used.
    pub max_lifetime: Option<Duration>,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// A connection that rested longer is looked at before it is used.
    pub validate_after: Duration,
    /// Which idle connection is used next.
    pub reuse: Reuse,
    /// Which idle connection is closed when there are too many.
    pub evict: Evict,
}

/// Which idle connection is used next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// The one that was used last.
    Newest,
    /// The one that rested longest.
    Oldest,
}

/// Which idle connection is closed when there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evict {
    /// The least recently used.
    Lru,
    /// The least often used.
    Lfu,
    /// The one opened first.
    Fifo,
    /// Any.
    Random,
}

impl Connections {
    /// What a file says.
    pub(crate) fn of(file: &ConnectionsFile) -> Self {
        Self {
            min_idle: file.min_idle,
            max_idle: file.max_idle,
            max: file.max,
            idle_timeout: file.idle_timeout.0,
            max_lifetime: file.max_lifetime.as_ref().map(|text| text.0),
            acquire_timeout: file.acquire_timeout.0,
            validate_after: file.validate_after.0,
            reuse: match file.reuse {
                ReuseFile::Newest => Reuse::Newest,
                ReuseFile::Oldest => Reuse::Oldest,
            },
            evict: match file.evict {
                EvictFile::Lru => Evict::Lru,
                EvictFile::Lfu => Evict::Lfu,
                EvictFile::Fifo => Evict::Fifo,
                EvictFile::Random => Evict::Random,
            },
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::of(&ConnectionsFile::default())
    }
}
