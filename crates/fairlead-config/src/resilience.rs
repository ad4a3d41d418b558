//! What the gateway does when a server fails: breakers, retries, hedges, fallbacks, dependencies. No part of
//! [`crate::Server`], like all rules: they change without connections being opened again.

use crate::leaf::{DurationText, WaitText};
use fairlead_core::{Backoff, BreakerSettings, ServerName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tries of one call at most, whatever is configured.
pub const MAX_ATTEMPTS: u32 = 5;

/// When calls to a server that fails are held back.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerFile {
    /// Failures in a row that open it.
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive: u32,
    /// How many of the last calls are looked at.
    #[schemars(range(min = 1, max = 64))]
    pub window: u32,
    /// Percent of failures among them that opens it.
    #[schemars(range(min = 1, max = 100))]
    pub percent: u32,
    /// How long it stays open at first; it doubles each time it opens again.
    pub open: DurationText,
    /// How long it stays open at most.
    pub max_open: DurationText,
    /// Calls let through, after that time, to see whether the server works.
    #[schemars(range(min = 1, max = 100))]
    pub trials: u32,
    /// How long one of them may take to end before it opens again.
    pub half_open: DurationText,
    /// Whether each tool has a breaker of its own too.
    pub tools: bool,
}

impl Default for BreakerFile {
    fn default() -> Self {
        let settings = BreakerSettings::default();
        Self {
            consecutive: settings.consecutive,
            window: settings.window,
            percent: settings.percent,
            open: DurationText(settings.open),
            max_open: DurationText(settings.max_open),
            trials: settings.trials,
            half_open: DurationText(settings.half_open),
            tools: true,
        }
    }
}

/// When calls to a server that fails are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerRule {
    /// When it opens and for how long.
    pub settings: BreakerSettings,
    /// Whether each tool has one of its own too.
    pub tools: bool,
}

impl From<BreakerFile> for BreakerRule {
    fn from(file: BreakerFile) -> Self {
        let settings = BreakerSettings {
            consecutive: file.consecutive,
            window: file.window,
            percent: file.percent,
            open: file.open.0,
            max_open: file.max_open.0.max(file.open.0),
            trials: file.trials,
            half_open: file.half_open.0,
        };
        Self { settings, tools: file.tools }
    }
}

/// How calls that failed are made again, where that is safe.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryFile {
    /// Tries of one call at most, the first included.
    #[schemars(range(min = 1, max = 5))]
    pub attempts: u32,
    /// The most that is waited before the second try; it doubles with each further one. What is waited is anything up to
    /// that, equally likely.
    pub base: WaitText,
    /// The most that is ever waited.
    pub max: WaitText,
    /// Percent of calls that may be made again, hedges included. Three in ten seconds may in any case.
    #[schemars(range(min = 0, max = 100))]
    pub budget: u32,
}

impl Default for RetryFile {
    fn default() -> Self {
        let backoff = Backoff::default();
        Self { attempts: 3, base: WaitText(backoff.base), max: WaitText(backoff.max), budget: 20 }
    }
}

/// How calls that failed are made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRule {
    /// Tries of one call at most, the first included.
    pub attempts: u32,
    /// What is waited in between.
    pub backoff: Backoff,
    /// Percent of calls that may be made again.
    pub budget: u32,
}

impl From<RetryFile> for RetryRule {
    fn from(file: RetryFile) -> Self {
        Self {
            attempts: file.attempts.clamp(1, MAX_ATTEMPTS),
            backoff: Backoff { base: file.base.0, max: file.max.0 },
            budget: file.budget,
        }
    }
}

impl Default for RetryRule {
    fn default() -> Self {
        RetryFile::default().into()
    }
}

/// What a call is answered with that failed: another `server`, or `text` and `structured`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FallbackFile {
    /// Another server, which is called instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The tool's name there. Default: the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// A text that is always the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Structured content that is always the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What a call is answered with that failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Fallback {
    /// What another server answers.
    Server {
        /// Which.
        server: ServerName,
        /// The tool's name there, where it is another.
        tool: Option<Box<str>>,
    },
    /// What is always the same.
    Static {
        /// A text.
        text: Option<Box<str>>,
        /// Structured content, a JSON object.
        structured: Option<Box<str>>,
    },
}
