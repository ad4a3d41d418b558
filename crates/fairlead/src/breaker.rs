//! `fairlead servers breaker`, and what the control socket says of breakers and retries.

use crate::{
    cli,
    control::{self, PREFIX},
    failure::{Exit, Failure},
    listing, output, private,
    reach::Reach,
    runtime,
};
use fairlead_core::{BreakerReading, Force};
use fairlead_gateway::{Gateway, GuardReading, LearnedNeed, PostReading};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What keeps calls off a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GuardRow {
    /// The server's breaker.
    pub(crate) breaker: Option<BreakerRow>,
    /// Breakers of tools that failed.
    pub(crate) tools: BTreeMap<String, BreakerRow>,
    /// Those of its instances, where it has several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) instances: BTreeMap<String, PostRow>,
    /// Retries that could be made now, where they are configured.
    pub(crate) retries_left: Option<u64>,
    /// Calls that were held back.
    pub(crate) held_back: u64,
    /// Calls that were made again.
    pub(crate) retried: u64,
    /// Calls that were made a second time because the first took long.
    pub(crate) hedged: u64,
    /// Calls that were not made again because the budget was used up.
    pub(crate) over_budget: u64,
}

/// The breakers of one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PostRow {
    /// The instance's own.
    pub(crate) breaker: BreakerRow,
    /// Those of tools that failed there.
    pub(crate) tools: BTreeMap<String, BreakerRow>,
}

/// A server that a tool was seen to need.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NeedRow {
    pub(crate) tool: String,
    pub(crate) server: String,
    /// In so many of a hundred of its calls.
    pub(crate) percent: u32,
    /// Whether calls of the tool are held back while those to the server are.
    pub(crate) counts: bool,
}

impl From<&LearnedNeed> for NeedRow {
    fn from(need: &LearnedNeed) -> Self {
        let (tool, server) = (need.tool.to_string(), need.server.to_string());
        Self { tool, server, percent: need.percent, counts: need.counts }
    }
}

/// One breaker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BreakerRow {
    /// `closed`, `open`, `half_open`.
    pub(crate) state: String,
    /// Whether an operator set it.
    pub(crate) forced: bool,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Milliseconds for which calls are held back.
    pub(crate) retry_after_ms: Option<u64>,
    /// How often it opened.
    pub(crate) opened: u64,
}

impl From<&BreakerReading> for BreakerRow {
    fn from(reading: &BreakerReading) -> Self {
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self {
            state: reading.state.word().to_owned(),
            forced: reading.forced.is_some(),
            failures: reading.failures,
            retry_after_ms: reading.retry_after.map(millis),
            opened: reading.opened,
        }
    }
}

fn by_tool(tools: &[(Box<str>, BreakerReading)]) -> BTreeMap<String, BreakerRow> {
    tools.iter().map(|(name, breaker)| (name.to_string(), breaker.into())).collect()
}

impl From<&PostReading> for PostRow {
    fn from(reading: &PostReading) -> Self {
        Self { breaker: (&reading.breaker).into(), tools: by_tool(&reading.tools) }
    }
}

impl From<&GuardReading> for GuardRow {
    fn from(reading: &GuardReading) -> Self {
        Self {
            breaker: reading.breaker.as_ref().map(Into::into),
            tools: by_tool(&reading.tools),
            instances: reading.instances.iter().map(|one| (one.name.to_string(), one.into())).collect(),
            retries_left: reading.retries_left,
            held_back: reading.held_back,
            retried: reading.retried,
            hedged: reading.hedged,
            over_budget: reading.unaffordable,
        }
    }
}

impl GuardRow {
    /// What keeps calls away, in words; `None` when nothing does.
    pub(crate) fn trouble(&self) -> Option<String> {
        let breaker = self.breaker.as_ref().filter(|breaker| breaker.state != "closed");
        if let Some(breaker) = breaker {
            let forced = if breaker.forced { ", set by an operator" } else { "" };
            return Some(format!("its breaker is {}{forced}", breaker.state));
        }
        let is_not_closed = |breaker: &BreakerRow| breaker.state != "closed";
        let tools = self.tools.iter().filter(|(_, breaker)| is_not_closed(breaker)).map(|(name, _)| name.as_str());
        let instances = self
            .instances
            .iter()
            .filter(|(_, post)| is_not_closed(&post.breaker) || post.tools.values().any(is_not_closed));
        let open: Vec<&str> = tools.chain(instances.map(|(name, _)| name.as_str())).collect();
        (!open.is_empty()).then(|| format!("breakers are not closed of: {}", open.join(", ")))
    }
}

/// What the control socket answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    guard: Option<GuardRow>,
    problem: Option<String>,
}

/// Sets a breaker as the query says: `server`, `tool`, `to`.
pub(crate) fn set(gateway: &Gateway, query: Option<&str>) -> Done {
    let parameter = |name| control::parameter(query, name);
    let force = match parameter("to").as_deref() {
        Some("open") => Some(Force::Open),
        Some("close") => Some(Force::Closed),
        Some("auto") => None,
        _ => return Done { guard: None, problem: Some("`to` must be open, close or auto".to_owned()) },
    };
    let server = parameter("server").unwrap_or_default();
    match gateway.force_breaker(&server, parameter("tool").as_deref(), force) {
        Ok(reading) => Done { guard: Some((&reading).into()), problem: None },
        Err(problem) => Done { guard: None, problem: Some(problem.to_owned()) },
    }
}

/// `fairlead servers breaker`.
pub(crate) fn run(arguments: &cli::Breaker) -> Result<Exit, Failure> {
    let tool = arguments.tool.as_deref().map(|tool| format!("&tool={}", control::percent(tool))).unwrap_or_default();
    let (name, to) = (control::percent(&arguments.name), arguments.to.word());
    let path = format!("{PREFIX}breaker?server={name}{tool}&to={to}");
    let done = runtime::control(private::with_running(&arguments.listing.which, async |reach: &Reach| {
        listing::local(reach, "servers breaker")?;
        reach.order::<Done>(&path, listing::ANSWER).await
    }))?;
    if let Some(problem) = done.problem {
        return Err(Failure::usage(format!("server `{}`: {problem}", arguments.name)));
    }
    if arguments.listing.json {
        return output::json(&done.guard);
    }
    let instance = arguments.name.split_once('/').map(|(_, instance)| instance);
    let state = done.guard.as_ref().and_then(|guard| match (instance, &arguments.tool) {
        (Some(instance), tool) => {
            let post = guard.instances.get(instance)?;
            tool.as_ref().map_or(Some(&post.breaker), |tool| post.tools.get(tool))
        }
        (None, Some(tool)) => guard.tools.get(tool),
        (None, None) => guard.breaker.as_ref(),
    });
    output::print(&format!("{}\n", state.map_or("closed", |state| state.state.as_str())))
}
