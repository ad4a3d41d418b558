//! Why something is or is not there: the decision about a name, step by step.

use crate::{
    faults,
    gateway::Gateway,
    guard,
    merged::{Merged, Route},
    overload,
    search::trim::Level,
    shaping,
    snapshot::{Endpoint, Upstream, View},
};
use bytes::Bytes;
use fairlead_upstream::{ListingKind, ServerHandle};
use fairlead_wire::{CapabilitySet, Era, name};
use std::sync::Arc;

/// One step of an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which part of the gateway speaks.
    pub phase: &'static str,
    /// Whether it lets the name through; `None` when it only informs.
    pub ok: Option<bool>,
    /// What it says.
    pub text: String,
}

/// A listed item of a server as `/mcp` shows it.
#[derive(Debug, Clone)]
pub struct Exposed {
    /// Under which name or URI.
    pub name: String,
    /// The server's own.
    pub original: String,
    /// The item as it came.
    pub raw: Bytes,
    /// Why it is not shown, if it is not.
    pub reason_hidden: Option<String>,
}

fn step(phase: &'static str, ok: Option<bool>, text: impl Into<String>) -> Step {
    Step { phase, ok, text: text.into() }
}

impl Gateway {
    /// Everything a server lists, and how `/mcp` shows it to a client that declares nothing.
    #[must_use]
    pub fn exposed(&self, server: &ServerHandle, kind: ListingKind) -> Vec<Exposed> {
        let snapshot = self.snapshot();
        let endpoint = snapshot.all();
        let merged = endpoint.merged(Era::Modern, CapabilitySet::BARE, self.epoch());
        let Some((index, upstream)) =
            endpoint.servers.iter().enumerate().find(|(_, upstream)| upstream.handle.name() == server.name())
        else {
            return Vec::new();
        };
        let view = upstream.handle.view();
        let Some(catalog) = view.nearest_catalog(Era::Modern, CapabilitySet::BARE) else { return Vec::new() };
        catalog
            .listing(kind)
            .entries
            .iter()
            .map(|entry| {
                let exposed = exposed_name(endpoint, upstream, kind, &entry.key);
                let reason_hidden = hidden(endpoint, &merged, upstream, index, kind, &exposed, &entry.key);
                Exposed { name: exposed, original: entry.key.to_string(), raw: entry.raw.clone(), reason_hidden }
            })
            .collect()
    }

    /// Why `name` is or is not available on `/mcp`.
    #[must_use]
    pub fn explain(&self, name: &str) -> Vec<Step> {
        let snapshot = self.snapshot();
        let endpoint = snapshot.all();
        let merged = endpoint.merged(Era::Modern, CapabilitySet::BARE, self.epoch());
        let mut steps = Vec::new();
        let route = merged.tool(name).or_else(|| merged.prompt(name)).cloned().or_else(|| merged.resource(name));
        let server = match &route {
            Some(route) => {
                steps.push(step(
                    "resolve",
                    Some(true),
                    format!("`{name}` is `{}` of the server below", route.original),
                ));
                Some(&endpoint.servers[route.server])
            }
            None => {
                let server = name::split(name).and_then(|(server, _)| {
                    endpoint.servers.iter().find(|upstream| upstream.handle.name().as_str() == server)
                });
                match server {
                    Some(_) => {
                        steps.push(step("resolve", Some(false), format!("the server has nothing exposed as `{name}`")))
                    }
                    None => steps.push(step(
                        "resolve",
                        Some(false),
                        format!("no server is called so; the servers are: {}", names(&endpoint.servers)),
                    )),
                }
                server
            }
        };
        let Some(upstream) = server else {
            self.explain_disabled(name, &mut steps);
            return steps;
        };
        for text in endpoint.overload.iter().flat_map(|overload| overload.explain()) {
            steps.push(step("admit", None, text));
        }
        for text in endpoint.limits.explain() {
            steps.push(step("admit", None, text));
        }
        explain_server(upstream, &mut steps);
        guard::explain(upstream, route.as_ref().map(|route| &*route.original), &mut steps);
        faults::explain(upstream, route.as_ref().map(|route| &*route.original), &mut steps);
        crate::dependencies::explain(self, upstream, route.as_ref().map(|route| &*route.original), &mut steps);
        for rule in &snapshot.config.routes {
            if route.is_some() && rule.tool.iter().any(|glob| glob.matches(name)) {
                let to = rule
                    .to
                    .iter()
                    .map(|to| format!("`{}` (weight {}, priority {})", to.server, to.weight, to.priority));
                let to: Vec<_> = to.collect();
                steps.push(step("route", None, format!("a route may send it to {}", to.join(", "))));
            }
        }
        if route.is_none() {
            explain_hidden(endpoint, &merged, upstream, name, &mut steps);
        }
        let tags = match &route {
            Some(Route { entry: Some((_, ListingKind::Tools)), original, .. }) => {
                shaping::standing(endpoint, upstream, ListingKind::Tools, original).tags().to_vec()
            }
            _ => Vec::new(),
        };
        for (toolset, config) in &snapshot.config.toolsets {
            let text = if config.permits_tool(name, &tags) {
                let path = format!("/mcp/{toolset}");
                self.in_toolset(toolset, name, snapshot.endpoint(&path))
            } else {
                format!("`{toolset}` leaves it out")
            };
            steps.push(step("toolset", None, text));
        }
        steps
    }

    /// How a toolset that has the item shows it.
    fn in_toolset(&self, toolset: &str, name: &str, endpoint: Option<&Arc<Endpoint>>) -> String {
        let merged = endpoint.map(|endpoint| endpoint.merged(Era::Modern, CapabilitySet::BARE, self.epoch()));
        let is_tool = merged.as_ref().is_some_and(|merged| merged.tool(name).is_some());
        match merged.filter(|_| is_tool) {
            Some(merged) if merged.found.is_some() => {
                format!("`{toolset}` has it: `find_tools` finds it, `call_tool` calls it")
            }
            Some(merged) => match &merged.fit {
                Some(fit) if fit.dropped.iter().any(|dropped| dropped == name) => format!(
                    "`{toolset}` has it, but does not list it: its tools are over the budget of {} tokens ({} left out)",
                    fit.tokens,
                    fit.dropped.len()
                ),
                Some(fit) if fit.level > Level::Whole => {
                    format!("`{toolset}` has it, without {} to keep to {} tokens", fit.level.word(), fit.tokens)
                }
                _ => format!("`{toolset}` has it"),
            },
            None => format!("`{toolset}` has it"),
        }
    }

    fn explain_disabled(&self, exposed: &str, steps: &mut Vec<Step>) {
        let config = self.config();
        let disabled =
            name::split(exposed).and_then(|(server, _)| config.servers.get(server)).filter(|server| server.disabled);
        if let Some(server) = disabled {
            steps.push(step("config", Some(false), format!("server `{}` is configured but disabled", server.name)));
        }
    }
}

fn names(servers: &[Upstream]) -> String {
    let names: Vec<_> = servers.iter().map(|server| server.handle.name().to_string()).collect();
    if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
}

fn exposed_name(endpoint: &Arc<Endpoint>, upstream: &Upstream, kind: ListingKind, key: &str) -> String {
    shaping::standing(endpoint, upstream, kind, key).exposed
}

fn hidden(
    endpoint: &Endpoint,
    merged: &Merged,
    upstream: &Upstream,
    index: usize,
    kind: ListingKind,
    exposed: &str,
    key: &str,
) -> Option<String> {
    let config = upstream.handle.config();
    if kind == ListingKind::Tools && !config.tools.permits(key) {
        return Some("left out by `tools` of the server".to_owned());
    }
    if shaping::standing(endpoint, upstream, kind, key).is_hidden() {
        return Some("hidden by a rule of the server".to_owned());
    }
    let route = match kind {
        ListingKind::Tools => merged.tool(exposed).cloned(),
        ListingKind::Prompts => merged.prompt(exposed).cloned(),
        ListingKind::Resources => merged.resource(exposed),
        ListingKind::Templates => merged.template(exposed).cloned(),
    };
    match route {
        Some(route) if route.server == index => None,
        Some(_) => Some("an earlier server has the same name or URI".to_owned()),
        None => Some("not exposed".to_owned()),
    }
}

fn explain_server(upstream: &Upstream, steps: &mut Vec<Step>) {
    let view = upstream.handle.view();
    let name = upstream.handle.name();
    let state = view.state.word();
    let ok = match view.trouble() {
        None => Some(true),
        Some(_) => Some(false),
    };
    let trouble = view.trouble().map(|reason| format!(": {reason}")).unwrap_or_default();
    steps.push(step("server", ok, format!("`{name}` is {state}{trouble}")));
    match view.nearest_catalog(Era::Modern, CapabilitySet::BARE) {
        Some(catalog) => {
            let tools = catalog.listing(ListingKind::Tools).entries.len();
            let fresh =
                if view.fresh { "confirmed by the running server" } else { "the last good one, not confirmed since" };
            steps.push(step("catalog", Some(true), format!("{tools} tools listed, {fresh}")));
            for (kind, reason) in &catalog.failed {
                steps.push(step("catalog", Some(false), format!("{}: {reason}", kind.member())));
            }
        }
        None => steps.push(step("catalog", Some(false), "nothing was ever listed")),
    }
    if upstream.handle.has_siblings() {
        for one in upstream.handle.instance_status() {
            let name = one.instance.name();
            let trouble = one.view.trouble().filter(|_| one.view.state.word() == "down");
            let text = match one.why_out.or(trouble) {
                None => format!("`{name}` is {}, {} calls in flight", one.view.state.word(), one.instance.in_flight()),
                Some(why) => format!("`{name}` gets no calls: {why}"),
            };
            steps.push(step("instance", Some(one.share > 0.0), text));
        }
    }
    let in_flight = upstream.handle.in_flight();
    let limit = upstream.handle.max_calls();
    steps.push(step("limits", Some(in_flight < limit), format!("{in_flight} of {limit} calls in flight")));
    if let Some(pool) = &upstream.bulkhead {
        steps.push(step("limits", None, overload::described(&pool.counts())));
    }
    for text in upstream.limits.iter().flat_map(|limits| limits.explain()) {
        steps.push(step("limits", None, text));
    }
}

fn explain_hidden(
    endpoint: &Arc<Endpoint>,
    merged: &Merged,
    upstream: &Upstream,
    exposed: &str,
    steps: &mut Vec<Step>,
) {
    let index = endpoint.servers.iter().position(|other| other.handle.name() == upstream.handle.name()).unwrap_or(0);
    let view = upstream.handle.view();
    let Some(catalog) = view.nearest_catalog(Era::Modern, CapabilitySet::BARE) else { return };
    for kind in ListingKind::ALL {
        for entry in &catalog.listing(kind).entries {
            let shown = exposed_name(endpoint, upstream, kind, &entry.key);
            if shown == exposed || *entry.key == *exposed {
                let reason = hidden(endpoint, merged, upstream, index, kind, &shown, &entry.key)
                    .unwrap_or_else(|| format!("it is exposed as `{shown}`"));
                steps.push(step("filter", Some(false), reason));
                return;
            }
        }
    }
    steps.push(step("catalog", Some(false), "the server lists nothing of that name"));
    debug_assert!(matches!(endpoint.view, View::All));
}
