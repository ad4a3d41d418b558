//! Whether a call may be answered from what is kept or shared, and how: what the configuration says and the server hints.

use super::{key::Key, ledger::Subject, store::Times};
use crate::{call::Call, park, resolve::Target, tasks};
use fairlead_config::{Batch, CacheRule, CacheScope, ServerCache};
use fairlead_wire::{Era, Field, Frame, Kind, Method};
use std::{sync::Arc, time::Duration};

/// What is to be done with a call.
#[derive(Clone)]
pub(crate) struct Plan {
    /// The caller's own.
    pub(crate) key: Arc<Key>,
    /// Everybody's; `None` where answers are the caller's alone.
    pub(crate) shared: Option<Arc<Key>>,
    pub(crate) subject: Subject,
    /// The operator's word.
    rule: Option<Arc<CacheRule>>,
    /// Longest time the server's own word is followed; `None` where it is not.
    hints: Option<Duration>,
    /// Identical calls under way are one.
    pub(crate) coalesces: bool,
    /// How calls are gathered.
    pub(crate) batch: Option<Arc<Batch>>,
    /// The ledger's number when the call began.
    pub(crate) since: u64,
}

/// Who may have an answer, and how long it is kept.
pub(crate) struct Keep {
    pub(crate) key: Arc<Key>,
    pub(crate) times: Times,
}

/// The plan of a call; `None` where nothing is configured for it.
pub(crate) fn find(call: &Call, target: &Target) -> Option<Box<Plan>> {
    let server = target.upstream.rules.cache();
    let batch = batch(call, target);
    let (rule, hints, coalesces) = match call.frame.method_class() {
        Method::ToolsCall => of_tool(call, target, server, batch.is_some())?,
        Method::ResourcesRead => {
            let server = server?;
            let hints = server.hints.then_some(server.max_ttl);
            (server.resources.clone(), hints, server.coalesce)
        }
        Method::PromptsGet => server.map(|server| (server.prompts.clone(), None, server.coalesce))?,
        Method::Complete => server.map(|server| (server.completions.clone(), None, server.coalesce))?,
        _ => return None,
    };
    let hints = hints.filter(|_| rule.as_ref().is_none_or(|rule| rule.ttl.is_none()));
    if (rule.is_none() && hints.is_none() && !coalesces) || !is_comparable(call, target) {
        return None;
    }
    let name: Arc<str> = Arc::from(target.upstream.handle.name().as_str());
    let vary = rule.as_ref().and_then(|rule| rule.vary.as_deref());
    let key = Arc::new(Key::of(call, target, Arc::clone(&name), vary)?);
    let scope = rule.as_ref().and_then(|rule| rule.scope);
    let may_share = scope == Some(CacheScope::Shared) || (scope.is_none() && honours(target, call));
    let subject = Subject {
        server: name,
        method: key.method,
        name: subject_name(call, target),
        tags: rule.as_ref().map(|rule| Arc::clone(&rule.tags)).unwrap_or_default(),
    };
    Some(Box::new(Plan {
        shared: may_share.then(|| Arc::new(key.shared())),
        key,
        subject,
        rule,
        hints,
        coalesces,
        batch,
        since: call.gateway.0.reuse.ledger.now(),
    }))
}

/// How the calls of a tool that may be repeated are gathered.
fn batch(call: &Call, target: &Target) -> Option<Arc<Batch>> {
    let batch = target.rule.as_deref()?.batch.as_ref()?;
    (call.frame.method_class() == Method::ToolsCall && target.is_repeatable(call)).then(|| Arc::clone(batch))
}

type OfMethod = (Option<Arc<CacheRule>>, Option<Duration>, bool);

fn of_tool(call: &Call, target: &Target, server: Option<&ServerCache>, batched: bool) -> Option<OfMethod> {
    let said = target.rule.as_deref();
    let rule = said.and_then(|rule| rule.cache.clone()).filter(|rule| !is_off(rule));
    let coalesces = batched
        || match said.and_then(|rule| rule.coalesce) {
            Some(said) => said,
            None => rule.is_some() || (server.is_some_and(|server| server.coalesce) && target.is_repeatable(call)),
        };
    (rule.is_some() || coalesces).then_some((rule, None, coalesces))
}

fn is_off(rule: &CacheRule) -> bool {
    rule.ttl == Some(Duration::ZERO) && rule.negative.is_zero()
}

/// Whether the server's word on who may have an answer counts: only resources carry one.
fn honours(target: &Target, call: &Call) -> bool {
    call.frame.method_class() == Method::ResourcesRead && target.upstream.rules.cache().is_some_and(|cache| cache.hints)
}

/// Whether a call is one of those that can be answered alike: not one that becomes a task or goes on with an earlier one.
fn is_comparable(call: &Call, target: &Target) -> bool {
    let goes_on = [Field::Task, Field::RequestState, Field::InputResponses];
    !goes_on.iter().any(|field| call.frame.span(*field).is_some())
        && !target.needs_task
        && !matches!(call.task.as_deref(), Some(tasks::Asked::Polled(_)))
}

fn subject_name(call: &Call, target: &Target) -> Box<str> {
    if let Some(name) = &target.name {
        return name.clone();
    }
    let said = call.frame.str(Field::RefName).or_else(|| call.frame.str(Field::RefUri));
    said.map(|name| name.into_owned().into_boxed_str()).unwrap_or_default()
}

impl Plan {
    /// Whether anything may be kept.
    pub(crate) fn keeps(&self) -> bool {
        self.rule.is_some() || self.hints.is_some()
    }

    /// The key by which calls under way are the same.
    pub(crate) fn together(&self) -> &Arc<Key> {
        match (&self.shared, self.scope()) {
            (Some(shared), Some(CacheScope::Shared)) => shared,
            _ => &self.key,
        }
    }

    fn scope(&self) -> Option<CacheScope> {
        self.rule.as_ref().and_then(|rule| rule.scope)
    }

    /// How an answer of the server is kept, if it is. `ttl` is for rules that say no time.
    pub(crate) fn keep(&self, frame: &Frame, link: Era, ttl: Duration) -> Option<Keep> {
        if self.key.era != Some(link) || !is_complete(frame) {
            return None;
        }
        let hint = self.hints.filter(|_| link == Era::Modern).and_then(|most| hinted(frame).map(|ttl| ttl.min(most)));
        let is_error = frame.kind() == Kind::Error || frame.raw(Field::ResultIsError) == Some("true");
        let times = match (&self.rule, hint) {
            (Some(rule), _) if is_error => Times { fresh: rule.negative, ..Times::default() },
            (None, _) if is_error => Times::default(),
            (Some(rule), hint) => {
                let fresh = rule.ttl.or(hint).unwrap_or(ttl);
                Times { fresh, stale: rule.stale, on_error: rule.stale_if_error }
            }
            (None, hint) => Times { fresh: hint?, ..Times::default() },
        };
        if times.fresh.is_zero() {
            return None;
        }
        let is_public = match self.scope() {
            Some(scope) => scope == CacheScope::Shared,
            None => !is_error && link == Era::Modern && frame.str(Field::ResultCacheScope).as_deref() == Some("public"),
        };
        let key = self.shared.as_ref().filter(|_| is_public).unwrap_or(&self.key);
        Some(Keep { key: Arc::clone(key), times })
    }
}

/// Whether a result is one: not a question (which an error of 2025-11-25 is, too), not a task.
pub(crate) fn is_complete(frame: &Frame) -> bool {
    frame.error_code() != Some(park::URL_REQUIRED) && frame.str(Field::ResultType).is_none_or(|kind| kind == "complete")
}

/// How long the server says its answer is good.
fn hinted(frame: &Frame) -> Option<Duration> {
    let ms: f64 = frame.raw(Field::ResultTtlMs)?.parse().ok()?;
    // Also for what is no number or too large for a duration.
    Duration::try_from_secs_f64(ms / 1000.0).ok().filter(|ttl| !ttl.is_zero())
}
