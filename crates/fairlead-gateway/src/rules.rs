//! What the configuration says of the calls of one server, found by the tool's name.

use arc_swap::ArcSwap;
use fairlead_config::{ServerCache, ServerRules, ToolRule};
use std::{collections::HashMap, fmt, sync::Arc};

/// Names of tools whose rule is remembered, per server. Clients may call what they like, so the room is bounded.
const MAX_REMEMBERED: usize = 4096;

/// The compiled rules of a server. Without any, nothing is looked up.
pub(crate) struct Rules {
    config: Arc<ServerRules>,
    tools: ArcSwap<HashMap<Box<str>, Arc<ToolRule>>>,
}

impl Rules {
    pub(crate) fn new(config: Option<&Arc<ServerRules>>) -> Self {
        Self { config: config.cloned().unwrap_or_default(), tools: ArcSwap::default() }
    }

    /// What is said of its answers being given again.
    pub(crate) fn cache(&self) -> Option<&ServerCache> {
        self.config.cache.as_deref()
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
