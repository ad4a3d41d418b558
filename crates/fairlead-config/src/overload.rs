//! Bulkheads and what gives way under load: what people write, and what the program uses.

use crate::leaf::{DurationText, SizeText, WaitText};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// How important a call is. Ordered: what is greater goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

impl Priority {
    /// All, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The priority as one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The priority a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.word() == word)
    }
}

/// A ready-made size of a bulkhead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum PresetFile {
    Critical,
    #[default]
    Standard,
    Batch,
}

/// A pool of calls with bounds of its own. What is left out is the preset's: `critical` 100 calls at once, 8 GiB; `standard`
/// 50, 4 GiB; `batch` 200, 16 GiB.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BulkheadFile {
    /// Where the bounds begin: 100 calls at once and 8 GiB; 50, 4 GiB; 200, 16 GiB.
    pub preset: PresetFile,
    /// Calls under way at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// Calls that wait for a place. Default: as many as may be under way.
    #[schemars(range(max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<usize>,
    /// How long a call waits for a place at most. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time: Option<WaitText>,
    /// Bytes of the requests that are under way or wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<SizeText>,
    /// Whether fewer calls are let through at once while the server shows that it has too much: it refuses, breaks
    /// off or does not answer in time.
    pub adaptive: bool,
}

/// What gives way when there is too much of everything.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OverloadFile {
    /// Calls under way at most, in the whole gateway: `low` may use 70 % of it, `normal` 85 %, `high` 95 %.
    #[schemars(range(min = 1, max = 10_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_calls: Option<usize>,
    /// Resident memory of the gateway from which on nothing is taken; the same parts of it for the priorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<SizeText>,
    /// How long a client that is sent away is told to stay away. Default: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<DurationText>,
    /// The highest priority a client can raise its calls to, with the header `x-fairlead-priority` or the member
    /// `fairlead/priority` of `_meta`. It can always lower them. Without it, it can raise none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raise_to: Option<Priority>,
    /// The bulkhead of each tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The bulkheads of priorities.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub priorities: IndexMap<String, String>,
}

/// The bounds of a bulkhead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bulkhead {
    /// Its name: pools of one name are one pool.
    pub name: Arc<str>,
    /// Calls under way at once.
    pub concurrency: usize,
    /// Calls that wait.
    pub queue: usize,
    /// How long they wait.
    pub queue_time: Duration,
    /// Bytes of their requests.
    pub memory: usize,
    /// Whether the concurrency is found by trying.
    pub adaptive: bool,
}

/// What gives way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overload {
    /// Calls under way.
    pub max_calls: Option<usize>,
    /// Resident bytes.
    pub memory: Option<usize>,
    /// What a client that is sent away is told.
    pub retry_after: Duration,
    /// What a client can raise its calls to.
    pub raise_to: Option<Priority>,
    /// The bulkhead of each tenant.
    pub tenant: Option<Bulkhead>,
    /// The bulkheads of priorities.
    pub priorities: Vec<(Priority, Bulkhead)>,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            max_calls: None,
            memory: None,
            retry_after: Duration::from_secs(1),
            raise_to: None,
            tenant: None,
            priorities: Vec::new(),
        }
    }
}

/// How long a call waits for a place where nothing else is said.
const QUEUE_TIME: Duration = Duration::from_secs(5);
const GIB: usize = 1 << 30;

impl Bulkhead {
    pub(crate) fn build(name: &str, file: &BulkheadFile) -> Self {
        let (concurrency, memory) = match file.preset {
            PresetFile::Critical => (100, 8 * GIB),
            PresetFile::Standard => (50, 4 * GIB),
            PresetFile::Batch => (200, 16 * GIB),
        };
        let concurrency = file.concurrency.unwrap_or(concurrency);
        Self {
            name: name.into(),
            concurrency,
            queue: file.queue.unwrap_or(concurrency),
            queue_time: file.queue_time.as_ref().map_or(QUEUE_TIME, |time| time.0),
            memory: file.memory.as_ref().map_or(memory, |memory| memory.0),
            adaptive: file.adaptive,
        }
    }

    /// The pool that `written` names: one of those described, or a preset's for `owner` alone.
    pub(crate) fn named(written: &str, owner: &str, described: &IndexMap<String, BulkheadFile>) -> Option<Self> {
        if let Some(file) = described.get(written) {
            return Some(Self::build(written, file));
        }
        let preset = match written {
            "critical" => PresetFile::Critical,
            "standard" => PresetFile::Standard,
            "batch" => PresetFile::Batch,
            _ => return None,
        };
        Some(Self::build(owner, &BulkheadFile { preset, ..BulkheadFile::default() }))
    }
}
