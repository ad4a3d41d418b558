//! What the configuration says of the calls of one server, found by the tool's name.

use crate::{faults::Faults, guard::Guard};
use arc_swap::ArcSwap;
use fairlead_config::{Config, Fallback, ServerCache, ServerRules, ToolRule, ToolShape};
use fairlead_core::ServerName;
use std::{collections::HashMap, fmt, sync::Arc};

/// Names of tools whose rule is remembered, per server. Clients may call what they like, so the room is bounded.
const MAX_REMEMBERED: usize = 4096;

/// The compiled rules of a server. Without any, nothing is looked up.
pub(crate) struct Rules {
    config: Arc<ServerRules>,
    tools: ArcSwap<HashMap<Box<str>, Arc<ToolRule>>>,
    /// What keeps calls off the server when it fails, and counts those that are made again.
    pub(crate) guard: Option<Arc<Guard>>,
    /// Servers it cannot work without, directly or not, that have a breaker.
    pub(crate) needs: Box<[(ServerName, Arc<Guard>)]>,
    /// What is injected on purpose, where anything may be.
    pub(crate) faults: Option<Arc<Faults>>,
}

impl Rules {
    /// The rules of `server`. `guard` finds the guard of any server.
    pub(crate) fn new(server: &ServerName, config: &Config, guard: impl Fn(&ServerName) -> Option<Arc<Guard>>) -> Self {
        let mut needs = Vec::new();
        add_needs(server, config, &mut needs);
        Self {
            config: config.rules.get(server).cloned().unwrap_or_default(),
            tools: ArcSwap::default(),
            guard: guard(server),
            needs: needs.into_iter().filter_map(|name| guard(name).map(|guard| (name.clone(), guard))).collect(),
            faults: None,
        }
    }

    /// The same where faults may be injected.
    pub(crate) fn with_faults(mut self, faults: Option<&Arc<Faults>>) -> Self {
        self.faults = faults.cloned();
        self
    }

    /// What its calls that failed are answered with, where nothing else is said of the tool.
    pub(crate) fn fallback(&self) -> Option<&Arc<[Fallback]>> {
        self.config.fallback.as_ref()
    }

    /// Whether it is learned what its tools need.
    pub(crate) fn learns(&self) -> bool {
        self.config.learns
    }

    /// Whether the server is told how much time there is for a call.
    pub(crate) fn forwards_deadline(&self) -> bool {
        self.config.forward_deadline
    }

    /// What is said of its answers being given again.
    pub(crate) fn cache(&self) -> Option<&ServerCache> {
        self.config.cache.as_deref()
    }

    /// What is said of how tools are shown, checked or answered, rule by rule.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = &ToolShape> {
        self.config.tools.iter().map(|(_, rule)| &rule.shape)
    }

    /// How a tool is shown, checked and answered. Not remembered: this is asked once for each tool of a list.
    pub(crate) fn shape(&self, name: &str) -> ToolShape {
        self.config.tool(name).shape
    }

    /// The rule for a tool, by the server's own name for it; `None` where no tool has one.
    pub(crate) fn tool(&self, name: &str) -> Option<Arc<ToolRule>> {
        if self.config.tools.is_empty() {
            return None;
        }
        if let Some(rule) = self.tools.load().get(name) {
            return Some(Arc::clone(rule));
        }
        let rule = Arc::new(self.config.tool(name));
        self.tools.rcu(|known| {
            let mut known = if known.len() < MAX_REMEMBERED { HashMap::clone(known) } else { HashMap::new() };
            known.insert(name.into(), Arc::clone(&rule));
            known
        });
        Some(rule)
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.config, f)
    }
}

/// Adds what `server` depends on, and what that depends on.
fn add_needs<'a>(server: &ServerName, config: &'a Config, needs: &mut Vec<&'a ServerName>) {
    let Some(rules) = config.rules.get(server) else { return };
    for other in &rules.depends_on {
        if !needs.contains(&other) {
            needs.push(other);
            add_needs(other, config, needs);
        }
    }
}
