//! What is kept of answers and given again: the gateway's bounds, what holds for a server, and the rules for
//! what one of its tools answers.
//!
//! `...File` is what people write, the other types what the program uses. A duration of zero switches off what it is
//! the time of, so that a rule can take back what a wider one said.

use crate::{
    Glob,
    leaf::{DurationText, PatternText, SizeText, WaitText, globs},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Bounds of what is kept of answers, all servers together.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheFile {
    /// Bytes kept at most, with what it takes to find them. What is asked for often stays.
    pub max_bytes: SizeText,
    /// Larger answers are not kept.
    pub max_answer: SizeText,
    /// How long an answer is kept where a rule says no time.
    pub ttl: DurationText,
}

impl Default for CacheFile {
    fn default() -> Self {
        Self {
            max_bytes: SizeText(100_000_000),
            max_answer: SizeText(1 << 20),
            ttl: DurationText(Duration::from_secs(300)),
        }
    }
}

/// What of a server's answers is given again. Without this section only what rules of tools say.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerCacheFile {
    /// Whether resources are kept for as long, and for whom, as the server says with them (`ttlMs`, `cacheScope` of revision 2026-07-28).
    pub hints: HintsFile,
    /// Longest time a hint is followed.
    pub max_ttl: DurationText,
    /// Whether identical reads, and calls of tools that may be repeated, that are under way at the same time are one call of the server.
    pub coalesce: bool,
    /// What is kept of resources; overrules hints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<CacheRuleFile>,
    /// What is kept of prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<CacheRuleFile>,
    /// What is kept of completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completions: Option<CacheRuleFile>,
}

impl Default for ServerCacheFile {
    fn default() -> Self {
        Self {
            hints: HintsFile::Honour,
            max_ttl: DurationText(Duration::from_secs(3600)),
            coalesce: true,
            resources: None,
            prompts: None,
            completions: None,
        }
    }
}

/// What a server's hints count for.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum HintsFile {
    Honour,
    Ignore,
}

/// For whom an answer is kept.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum ScopeFile {
    Private,
    Shared,
}

/// How answers are kept.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheRuleFile {
    /// How long an answer is given again. Default: `cache.ttl`. `0s` keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<WaitText>,
    /// Who gets it: the caller it was made for (`private`, the default), or everybody (`shared`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeFile>,
    /// How long after its time it is still given while a new one is fetched. Default `0s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<WaitText>,
    /// How long after its time it is given when the server fails. Default `0s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<WaitText>,
    /// How long an error of the server, or of the tool, is given again. Default `0s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative: Option<WaitText>,
    /// Names under which what is kept can be dropped together, across servers.
    pub tags: Vec<String>,
    /// The arguments that make a difference; others are not looked at. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vary: Option<Vec<String>>,
}

/// What a call of a tool makes outdated, when it ends.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InvalidatesFile {
    /// Patterns on tools of the same server.
    pub tools: Vec<PatternText>,
    /// Patterns on URIs of resources of the same server, as the server knows them.
    pub resources: Vec<PatternText>,
    /// Tags, whatever server they are of.
    pub tags: Vec<String>,
}

/// Bounds of what is kept of answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Bytes at most.
    pub max_bytes: usize,
    /// Bytes of one answer at most.
    pub max_answer: usize,
    /// How long an answer is kept where a rule says no time.
    pub ttl: Duration,
}

/// What of a server's answers is given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCache {
    /// Whether the server's own hints count.
    pub hints: bool,
    /// Longest time a hint is followed.
    pub max_ttl: Duration,
    /// Whether identical reads that are under way at the same time are one.
    pub coalesce: bool,
    /// What is kept of `resources/read`.
    pub resources: Option<Arc<CacheRule>>,
    /// What is kept of `prompts/get`.
    pub prompts: Option<Arc<CacheRule>>,
    /// What is kept of `completion/complete`.
    pub completions: Option<Arc<CacheRule>>,
}

/// Who gets an answer that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheScope {
    /// The caller it was made for.
    Private,
    /// Everybody.
    Shared,
}

/// How answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRule {
    /// How long an answer is fresh; `None` is as long as [`Cache::ttl`] says.
    pub ttl: Option<Duration>,
    /// Who gets it; `None` is not said.
    pub scope: Option<CacheScope>,
    /// How long after that it is given while it is fetched anew.
    pub stale: Duration,
    /// How long after that it is given in place of a failure.
    pub stale_if_error: Duration,
    /// How long errors of the server are kept.
    pub negative: Duration,
    /// What it can be dropped by.
    pub tags: Arc<[Box<str>]>,
    /// The arguments that make a difference; `None` is all.
    pub vary: Option<Box<[Box<str>]>>,
}

/// What a call makes outdated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalidates {
    /// Tools of the same server.
    pub tools: Vec<Glob>,
    /// Resources of the same server.
    pub resources: Vec<Glob>,
    /// Tags.
    pub tags: Vec<Box<str>>,
}

impl From<&CacheFile> for Cache {
    fn from(file: &CacheFile) -> Self {
        Self { max_bytes: file.max_bytes.0, max_answer: file.max_answer.0, ttl: file.ttl.0 }
    }
}

impl From<CacheRuleFile> for Arc<CacheRule> {
    fn from(file: CacheRuleFile) -> Self {
        let time = |written: Option<WaitText>| written.map_or(Duration::ZERO, |written| written.0);
        Arc::new(CacheRule {
            ttl: file.ttl.map(|written| written.0),
            scope: file.scope.map(|scope| match scope {
                ScopeFile::Private => CacheScope::Private,
                ScopeFile::Shared => CacheScope::Shared,
            }),
            stale: time(file.stale),
            stale_if_error: time(file.stale_if_error),
            negative: time(file.negative),
            tags: file.tags.into_iter().map(String::into_boxed_str).collect(),
            vary: file.vary.map(|names| names.into_iter().map(String::into_boxed_str).collect()),
        })
    }
}

impl From<ServerCacheFile> for ServerCache {
    fn from(file: ServerCacheFile) -> Self {
        Self {
            hints: file.hints == HintsFile::Honour,
            max_ttl: file.max_ttl.0,
            coalesce: file.coalesce,
            resources: file.resources.map(Into::into),
            prompts: file.prompts.map(Into::into),
            completions: file.completions.map(Into::into),
        }
    }
}

impl From<InvalidatesFile> for Arc<Invalidates> {
    fn from(file: InvalidatesFile) -> Self {
        Arc::new(Invalidates {
            tools: globs(file.tools),
            resources: globs(file.resources),
            tags: file.tags.into_iter().map(String::into_boxed_str).collect(),
        })
    }
}
