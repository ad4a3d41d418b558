//! What the gateway does with the calls of a server: by tool, and for the server as a whole.
//!
//! These settings are no part of [`crate::Server`]: they change without the server's connections being
//! opened again. [`ToolRuleFile`] is what people write, [`ToolRule`] what the program uses.

use crate::{
    Glob,
    batch::{Batch, BatchFile},
    leaf::{DurationText, PatternText, RateText},
    limits::{Rate, ServerLimits},
    overload::{Bulkhead, Priority},
    resilience::{BreakerRule, Fallback, FallbackFile, RetryRule},
    reuse::{CacheRule, CacheRuleFile, Invalidates, InvalidatesFile, ServerCache},
    tool_shape::{AnnotationsFile, JsonText, ResponseFile, ToolShape, ToolShapeFile},
};
use fairlead_core::ServerName;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// What people write for the tools of one server that a pattern matches. What is left out stays as it is.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolRuleFile {
    /// How long its calls may take, instead of what the server's `timeout` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<ToolTimeoutFile>,
    /// Whether it may be called again when nobody knows whether the first call took effect. Default: what
    /// its annotations say (`readOnlyHint` or `idempotentHint`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeatable: Option<bool>,
    /// How often each of them may be called, all callers together: a rate, a class (`generation`: 10/min, `lookup`:
    /// 1000/min), or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<RateText>,
    /// What a call takes out of the quotas. Default: 1.
    #[schemars(range(max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// How its answers are kept and given again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheRuleFile>,
    /// Whether identical calls that are under way at the same time are one call of the server. Default: where its answers are
    /// kept, and where it may be repeated and the server has a `cache` section that does not say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coalesce: Option<bool>,
    /// Its calls are gathered, and made as one call of another tool of its server that does for many what this one does for one.
    /// Only where it may be repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchFile>,
    /// What of what is kept its calls make outdated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalidates: Option<InvalidatesFile>,
    /// How important its calls are. Default: normal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// A tool that may be repeated is called a second time when it has not answered after so long; the first answer
    /// counts, and the other call is cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<DurationText>,
    /// What its calls are answered with when they fail, instead of what the server's `fallback` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Vec<FallbackFile>>,
    /// The name it is shown under, with the server's prefix before it. `*` stands for its own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rename: Option<String>,
    /// Its title, instead of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Its description, instead of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it is neither shown nor called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hide: Option<bool>,
    /// Arguments the gateway sets. They are not shown, and a call that gives one is refused.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub pin: IndexMap<String, JsonText>,
    /// Hints about what it does, in place of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<AnnotationsFile>,
    /// What toolsets can select it by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether arguments are checked against its input schema before it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<bool>,
    /// What becomes of its answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseFile>,
}

impl ToolRuleFile {
    /// What is written of how the tool is shown, checked and answered. (The keys stand here once more: `flatten` would read
    /// them through a buffer, in which a number that came from a reference is a text for good.)
    pub(crate) fn take_shape(&mut self) -> ToolShapeFile {
        ToolShapeFile {
            rename: self.rename.take(),
            title: self.title.take(),
            description: self.description.take(),
            hide: self.hide.take(),
            pin: std::mem::take(&mut self.pin),
            annotations: self.annotations.take(),
            tags: std::mem::take(&mut self.tags),
            validate: self.validate.take(),
            response: self.response.take(),
        }
    }
}

/// How long calls of a tool may take.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolTimeoutFile {
    /// Silence during a call; any message, progress too, resets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<DurationText>,
    /// A whole call, whatever happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<DurationText>,
}

/// What the gateway does with the calls of one server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerRules {
    /// How often it may be called.
    pub limits: ServerLimits,
    /// The pool its calls pass.
    pub bulkhead: Option<Bulkhead>,
    /// By patterns on the server's own names, in the order they are written.
    pub tools: Vec<(Glob, ToolRule)>,
    /// What of its answers is given again.
    pub cache: Option<Arc<ServerCache>>,
    /// When calls to it are held back.
    pub breaker: Option<BreakerRule>,
    /// How calls that failed are made again.
    pub retry: Option<RetryRule>,
    /// What calls that failed are answered with, in the order they are tried.
    pub fallback: Option<Arc<[Fallback]>>,
    /// Servers it cannot work without.
    pub depends_on: Vec<ServerName>,
    /// Whether it is learned what its tools need.
    pub learns: bool,
    /// Whether it is told how much time there is for a call.
    pub forward_deadline: bool,
}

impl ServerRules {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The rule for one tool: of all that match, the last that says something of a key decides it.
    #[must_use]
    pub fn tool(&self, name: &str) -> ToolRule {
        let matching = self.tools.iter().filter(|(pattern, _)| pattern.matches(name));
        matching.fold(ToolRule::default(), |rule, (_, over)| rule.overlaid(over))
    }
}

/// What is said of a tool; `None` is not said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolRule {
    /// Silence during a call.
    pub idle_timeout: Option<Duration>,
    /// A whole call.
    pub call_timeout: Option<Duration>,
    /// Whether it may be called again when the outcome of the first call is not known.
    pub repeatable: Option<bool>,
    /// How often it may be called; `Some(None)` as often as one likes.
    pub limit: Option<Option<Rate>>,
    /// What a call takes out of the quotas.
    pub cost: Option<u32>,
    /// How its answers are kept.
    pub cache: Option<Arc<CacheRule>>,
    /// Whether identical calls that are under way at the same time are one.
    pub coalesce: Option<bool>,
    /// How its calls are gathered.
    pub batch: Option<Arc<Batch>>,
    /// What its calls make outdated.
    pub invalidates: Option<Arc<Invalidates>>,
    /// How important its calls are.
    pub priority: Option<Priority>,
    /// After how long without an answer it is called a second time.
    pub hedge: Option<Duration>,
    /// What its calls are answered with when they fail.
    pub fallback: Option<Arc<[Fallback]>>,
    /// How it is shown, checked and answered.
    pub shape: ToolShape,
}

impl ToolRule {
    /// This rule with everything that `over` says.
    fn overlaid(self, over: &Self) -> Self {
        Self {
            idle_timeout: over.idle_timeout.or(self.idle_timeout),
            call_timeout: over.call_timeout.or(self.call_timeout),
            repeatable: over.repeatable.or(self.repeatable),
            limit: over.limit.or(self.limit),
            cost: over.cost.or(self.cost),
            cache: over.cache.clone().or(self.cache),
            coalesce: over.coalesce.or(self.coalesce),
            batch: over.batch.clone().or(self.batch),
            invalidates: over.invalidates.clone().or(self.invalidates),
            priority: over.priority.or(self.priority),
            hedge: over.hedge.or(self.hedge),
            fallback: over.fallback.clone().or(self.fallback),
            shape: self.shape.overlaid(&over.shape),
        }
    }
}

impl ToolRuleFile {
    /// The rule, with what was made of the keys that need more than their own text.
    pub(crate) fn build(self, shape: ToolShape, fallback: Option<Arc<[Fallback]>>) -> ToolRule {
        let timeout = self.timeout.unwrap_or_default();
        ToolRule {
            idle_timeout: timeout.idle.map(|written| written.0),
            call_timeout: timeout.call.map(|written| written.0),
            repeatable: self.repeatable,
            limit: self.limit.map(|RateText(rate)| rate),
            cost: self.cost,
            cache: self.cache.map(Into::into),
            coalesce: self.coalesce,
            batch: self.batch.map(|file| Arc::new(file.into())),
            invalidates: self.invalidates.map(Into::into),
            priority: self.priority,
            hedge: self.hedge.map(|written| written.0),
            fallback,
            shape,
        }
    }
}

/// Which tools of a server are exposed, and what is done with their calls.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolsFile {
    /// Patterns of which one must match; none means everything.
    pub allow: Vec<PatternText>,
    /// Patterns of which none may match.
    pub deny: Vec<PatternText>,
    /// What is done with calls of tools, by patterns on the server's own names. All that match count, the
    /// later before the earlier.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub rules: IndexMap<String, ToolRuleFile>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_rules_that_match_the_last_decides_each_key() {
        let said = |pattern: &str, idle: Option<u64>, repeatable| {
            let rule = ToolRule { idle_timeout: idle.map(Duration::from_secs), repeatable, ..ToolRule::default() };
            (Glob::new(pattern).expect("a pattern"), rule)
        };
        let rules = ServerRules {
            limits: ServerLimits::default(),
            bulkhead: None,
            tools: vec![said("*", Some(1), None), said("get_*", Some(2), Some(true)), said("get_x", None, Some(false))],
            ..ServerRules::default()
        };
        let got = |name: &str| {
            let rule = rules.tool(name);
            (rule.idle_timeout.map(|idle| idle.as_secs()), rule.repeatable)
        };
        assert_eq!(got("put"), (Some(1), None));
        assert_eq!(got("get_y"), (Some(2), Some(true)));
        assert_eq!(got("get_x"), (Some(2), Some(false)));
        assert!(ServerRules::default().is_empty() && !rules.is_empty());
    }
}
