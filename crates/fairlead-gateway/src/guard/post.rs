//! The breakers at one place, a server or one of its instances: one for everything, and one for each tool that failed
//! there.

use super::gate::{Gate, Permit};
use arc_swap::ArcSwap;
use fairlead_config::BreakerRule;
use fairlead_core::{BreakerReading, BreakerState, Force, ServerName, Verdict, breaker::Refused};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Tools of one place with a breaker of their own. A tool gets one with its first failure.
const MAX_TOOLS: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(super) struct Post {
    /// Of the instance; empty for the server.
    name: Box<str>,
    rule: BreakerRule,
    gate: Arc<Gate>,
    tools: ArcSwap<HashMap<Box<str>, Arc<Gate>>>,
}

/// A picture of the breakers at one place.
#[derive(Debug, Clone)]
pub struct PostReading {
    /// The instance; empty for the server.
    pub name: Box<str>,
    /// The breaker for everything.
    pub breaker: BreakerReading,
    /// Tools that failed there, by name, with their breakers.
    pub tools: Vec<(Box<str>, BreakerReading)>,
}

/// What is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    All,
    Tool,
}

impl What {
    pub(super) fn of_server(self) -> &'static str {
        match self {
            Self::All => "calls to it",
            Self::Tool => "calls of this tool",
        }
    }

    pub(super) fn of_instance(self) -> &'static str {
        match self {
            Self::All => "calls to this instance",
            Self::Tool => "calls of this tool to this instance",
        }
    }
}

/// Leave for one call at a place. Dropped untold, nobody knows how it ended.
#[derive(Debug)]
pub(super) struct Passed {
    post: Arc<Post>,
    all: Permit,
    of_tool: Option<Permit>,
}

impl Post {
    pub(super) fn new(name: &str, rule: BreakerRule) -> Arc<Self> {
        Arc::new(Self { name: name.into(), rule, gate: Gate::new(rule.settings), tools: ArcSwap::default() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Asks for one call.
    pub(super) fn admit(self: &Arc<Self>, tool: Option<&str>) -> Result<Passed, (What, Refused)> {
        let of_tool = match tool.and_then(|tool| self.tools.load().get(tool).cloned()) {
            Some(gate) => Some(gate.admit().map_err(|refused| (What::Tool, refused))?),
            None => None,
        };
        let all = self.gate.admit().map_err(|refused| (What::All, refused))?;
        Ok(Passed { post: Arc::clone(self), all, of_tool })
    }

    /// Whether a call of a tool, or of something else, would be one of the few that are let through to see.
    pub(super) fn is_trying(&self, tool: Option<&str>) -> bool {
        let tries = |tool: &str| self.tools.load().get(tool).is_some_and(|gate| gate.is_trying());
        self.gate.is_trying() || tool.is_some_and(tries)
    }

    /// Whether every call is let through.
    pub(super) fn is_well(&self) -> bool {
        self.gate.would_admit().is_ok() && !self.gate.is_trying()
    }

    /// Whether everything is held back, and for how long, where that is known.
    pub(super) fn is_open(&self) -> Option<Option<Duration>> {
        let reading = self.gate.read();
        (reading.state == BreakerState::Open).then_some(reading.retry_after)
    }

    pub(super) fn read(&self) -> PostReading {
        let tools = self.tools.load();
        let mut tools: Vec<_> = tools.iter().map(|(name, gate)| (name.clone(), gate.read())).collect();
        tools.sort_by(|one, other| one.0.cmp(&other.0));
        PostReading { name: self.name.clone(), breaker: self.gate.read(), tools }
    }

    /// Holds a breaker open or closed, or lets it work again, and with the one for everything all. `false` when there is
    /// no room for that of the tool.
    pub(super) fn force(&self, tool: Option<&str>, force: Option<Force>) -> bool {
        match tool.map(|tool| self.of_tool(tool)) {
            None => self.gate.force(force),
            Some(Some(gate)) => gate.force(force),
            Some(None) => return false,
        }
        if force.is_none() && tool.is_none() {
            for gate in self.tools.load().values() {
                gate.force(None);
            }
        }
        true
    }

    /// The breaker of a tool, made when it is needed for the first time, while there is room.
    fn of_tool(&self, tool: &str) -> Option<Arc<Gate>> {
        if let Some(gate) = self.tools.load().get(tool) {
            return Some(Arc::clone(gate));
        }
        self.tools.rcu(|tools| {
            if tools.len() >= MAX_TOOLS || tools.contains_key(tool) {
                return Arc::clone(tools);
            }
            let mut grown = HashMap::clone(tools);
            grown.insert(tool.into(), Gate::new(self.rule.settings));
            Arc::new(grown)
        });
        self.tools.load().get(tool).cloned()
    }

    /// What keeps calls off the instance.
    pub(super) fn door(self: &Arc<Self>) -> Door {
        Door(Arc::clone(self))
    }

    fn say(&self, server: &ServerName, tool: Option<&str>, reading: &BreakerReading) {
        let (instance, state) = (&self.name, reading.state.word());
        match reading.retry_after {
            Some(wait) => {
                tracing::warn!(%server, %instance, tool, state, for_ms = wait.as_millis(), "calls are held back")
            }
            None => tracing::info!(%server, %instance, tool, state, "calls are made again"),
        }
    }
}

impl Passed {
    /// Whether it was given there.
    pub(super) fn is_of(&self, post: &Arc<Post>) -> bool {
        Arc::ptr_eq(&self.post, post)
    }

    /// What became of the call.
    pub(super) fn tell(self, server: &ServerName, tool: Option<&str>, verdict: Verdict, of_tool_alone: bool) {
        let post = self.post;
        let permit = match (self.of_tool, tool) {
            (Some(permit), _) => Some(permit),
            // The first failure of a tool makes its breaker.
            (None, Some(tool)) if matches!(verdict, Verdict::Bad | Verdict::Busy(_)) => {
                post.of_tool(tool).and_then(|gate| gate.admit().ok())
            }
            (None, _) => None,
        };
        if let Some(changed) = permit.and_then(|permit| permit.report(verdict)) {
            post.say(server, tool, &changed);
        }
        if of_tool_alone {
            return;
        }
        if let Some(changed) = self.all.report(verdict) {
            post.say(server, None, &changed);
        }
    }
}

/// What the instance knows of its breaker.
pub(super) struct Door(Arc<Post>);

impl fairlead_upstream::Gate for Door {
    fn admits(&self) -> bool {
        self.0.gate.would_admit().is_ok()
    }

    fn healed(&self) {
        self.0.gate.heal();
    }

    fn opens_in(&self) -> Option<Duration> {
        self.0.gate.would_admit().err().and_then(|Refused(wait)| wait)
    }
}
