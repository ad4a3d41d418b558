//! The port: who counts, what is asked of it, what it says.

use fairlead_config::{Quota, Rate};
use fairlead_core::ports::BoxFuture;
use std::{sync::Arc, time::Duration};

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Everybody together.
    Global,
    /// One tenant.
    Tenant,
    /// One caller.
    Caller,
    /// One server.
    Server,
    /// One tool of a server.
    Tool,
}

impl Level {
    /// The level as one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Tenant => "tenant",
            Self::Caller => "caller",
            Self::Server => "server",
            Self::Tool => "tool",
        }
    }
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Calls, over a moving time.
    Rate(Rate),
    /// Units, over a day or month of the calendar (UTC).
    Quota(Quota),
}

/// One configured limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name, which is what callers are told and counters are kept under: `caller`, `server:files`.
    pub name: Arc<str>,
    /// Whose it is.
    pub level: Level,
    /// What it counts.
    pub measure: Measure,
}

/// The time of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since a beginning that is the same for all questions; never goes back.
    pub since: Duration,
    /// Wall time, milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// May this be counted?
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Under which limit.
    pub limit: &'a Limit,
    /// For whom: what counts together has one key.
    pub key: &'a str,
    /// How much.
    pub cost: u32,
    /// The part of a rate that is to be had now, in thousandths.
    pub permille: u32,
}

/// A no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Which of the questions was denied.
    pub index: usize,
    /// When the same question may be answered otherwise.
    pub retry_after: Duration,
}

/// What comes of asking.
pub enum Verdict<'a> {
    /// It was decided here.
    Now(Result<(), Denied>),
    /// Somebody else has to be asked.
    Later(BoxFuture<'a, Result<(), Denied>>),
}

impl std::fmt::Debug for Verdict<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Now(result) => f.debug_tuple("Now").field(result).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// Who counts.
///
/// All of `asks` are counted or none: what is denied by one limit is not charged to the others. Exact: however many
/// ask at the same time, never more is let through than the limit allows.
pub trait Limiter: Send + Sync {
    /// Counts, or says which limit is in the way.
    fn take<'a>(&'a self, asks: &'a [Ask<'a>], at: Moment) -> Verdict<'a>;
    /// Forgets what was counted under limits whose name begins so, for example after a person said so.
    fn forget(&self, prefix: &str);
    /// How many keys are counted for.
    fn keys(&self) -> usize;
}
