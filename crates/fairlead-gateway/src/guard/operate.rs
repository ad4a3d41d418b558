//! What operators see of guards, and what they can do about them.

use super::{Guard, GuardReading};
use crate::{explain::Step, gateway::Gateway, snapshot::Upstream};
use fairlead_core::{BreakerReading, BreakerState, Force};
use std::sync::Arc;

impl Gateway {
    /// What keeps calls off a server, where anything is configured.
    #[must_use]
    pub fn guard(&self, server: &str) -> Option<GuardReading> {
        Some(self.guard_of(server)??.read())
    }

    /// Holds a breaker open or closed, or lets it work again: of a server or, as `server/instance`, of an instance, as
    /// a whole or of one tool (by the server's own name).
    ///
    /// # Errors
    /// When there is no such server or it has no breaker.
    pub fn force_breaker(
        &self,
        server: &str,
        tool: Option<&str>,
        force: Option<Force>,
    ) -> Result<GuardReading, &'static str> {
        let (server, instance) = server.split_once('/').map_or((server, None), |(server, name)| (server, Some(name)));
        let guard = self.guard_of(server).ok_or("there is no such server")?;
        let none = "it has no breaker: write `breaker: {}` into its configuration";
        let guard = guard.ok_or(none)?;
        if !guard.force(instance, tool, force) {
            return Err(if instance.is_some() { "it has no breaker for such an instance" } else { none });
        }
        tracing::warn!(server, instance, tool, ?force, "an operator set a breaker");
        Ok(guard.read())
    }

    fn guard_of(&self, server: &str) -> Option<Option<Arc<Guard>>> {
        let snapshot = self.snapshot();
        let upstream = snapshot.servers.iter().find(|upstream| upstream.handle.name().as_str() == server)?;
        Some(upstream.rules.guard.clone())
    }
}

/// Why calls of a tool are or are not held back.
pub(crate) fn explain(upstream: &Upstream, tool: Option<&str>, steps: &mut Vec<Step>) {
    let Some(guard) = &upstream.rules.guard else { return };
    let reading = guard.read();
    if let Some(breaker) = &reading.breaker {
        steps.push(of_breaker("of the server", breaker));
    }
    let of_tool = reading.tools.iter().find(|(name, _)| Some(&**name) == tool);
    if let Some((_, breaker)) = of_tool {
        steps.push(of_breaker("of the tool", breaker));
    }
    for one in &reading.instances {
        let whose = format!("of the instance `{}`", one.name);
        steps.push(of_breaker(&whose, &one.breaker));
        if let Some((_, breaker)) = one.tools.iter().find(|(name, _)| Some(&**name) == tool) {
            steps.push(of_breaker(&format!("of the tool at `{}`", one.name), breaker));
        }
    }
    for (name, needed) in &upstream.rules.needs {
        let ok = needed.is_open().is_none();
        let text = if ok { "calls to it are made" } else { "calls to it are held back" };
        steps.push(Step { phase: "depends_on", ok: Some(ok), text: format!("`{name}`: {text}") });
    }
    if let Some(left) = reading.retries_left {
        let text = format!("{left} calls could be made again now; {} were", reading.retried + reading.hedged);
        steps.push(Step { phase: "retry", ok: None, text });
    }
}

fn of_breaker(whose: &str, breaker: &BreakerReading) -> Step {
    let state = breaker.state.word();
    let forced = if breaker.forced.is_some() { ", set by an operator" } else { "" };
    let wait = breaker.retry_after.map(|wait| format!(", for {} ms more", wait.as_millis())).unwrap_or_default();
    Step {
        phase: "breaker",
        ok: Some(breaker.state != BreakerState::Open),
        text: format!("{whose}: {state}{forced}{wait}; {} failures in a row", breaker.failures),
    }
}
