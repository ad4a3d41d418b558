//! What the gateway says it can do on an endpoint: what at least one of its servers can, as far as
//! it crosses to this client's era.

use crate::{call::Call, merged::own_info, skills, snapshot::Endpoint, tasks};
use fairlead_upstream::{Peer, State};
use fairlead_wire::{CapabilitySet, Era, list, message};
use std::{collections::BTreeMap, sync::Arc};

/// MCP Apps (SEP-1865).
const APPS: &str = "io.modelcontextprotocol/ui";
/// Longest merged instructions, in bytes.
const MAX_INSTRUCTIONS: usize = 16 * 1024;

/// What a server says of itself, as far as it is known.
pub(crate) fn peers(endpoint: &Endpoint, era: Era) -> Vec<(String, Option<Arc<Peer>>)> {
    endpoint
        .servers
        .iter()
        .map(|server| (server.handle.name().to_string(), server.handle.peek().peer_for(era).cloned()))
        .collect()
}

/// The capabilities object for a client of `era`.
pub(crate) fn merged(endpoint: &Endpoint, era: Era) -> String {
    let mut members: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut subscribe = false;
    let mut unknown = false;
    for (_, peer) in peers(endpoint, era) {
        let Some(peer) = peer else {
            unknown = true;
            continue;
        };
        for (name, value) in [
            ("tools", "{\"listChanged\":true}"),
            ("prompts", "{\"listChanged\":true}"),
            ("resources", ""),
            ("completions", "{}"),
        ] {
            if list::raw_member(&peer.capabilities, name).is_some() {
                members.insert(name, value.to_owned());
            }
        }
        if let Some(resources) = list::raw_member(&peer.capabilities, "resources") {
            subscribe |= list::raw_member(resources, "subscribe") == Some("true");
        }
        // The level of a session goes with every request to a modern server, that of a request to a legacy one before it.
        if list::raw_member(&peer.capabilities, "logging").is_some() {
            members.insert("logging", "{}".to_owned());
        }
    }
    if endpoint.finder.is_some() {
        // The two tools that find and call the others are the gateway's own.
        members.insert("tools", "{\"listChanged\":true}".to_owned());
    }
    if unknown {
        // A server that was never reached may turn out to have any of these.
        for name in ["tools", "prompts", "resources"] {
            members.entry(name).or_insert_with(|| "{\"listChanged\":true}".to_owned());
        }
    }
    if let Some(resources) = members.get_mut("resources") {
        *resources = if subscribe {
            "{\"subscribe\":true,\"listChanged\":true}".to_owned()
        } else {
            "{\"listChanged\":true}".to_owned()
        };
    }
    if cuts(endpoint) {
        members.entry("resources").or_insert_with(|| "{}".to_owned());
    }
    if let Some(extensions) = extensions(endpoint, era) {
        members.insert("extensions", extensions);
    }
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// Extensions that the gateway carries over several servers. Others are only passed on where a server
/// stands alone: their methods name no server.
fn extensions(endpoint: &Endpoint, era: Era) -> Option<String> {
    let mut members = Vec::new();
    if let Some(settings) = skills::merged_capability(endpoint, era) {
        members.push(format!("\"{}\":{settings}", skills::EXTENSION));
    }
    let has_apps = peers(endpoint, era).into_iter().filter_map(|(_, peer)| peer).any(|peer| {
        list::raw_member(&peer.capabilities, "extensions").is_some_and(|all| list::raw_member(all, APPS).is_some())
    });
    if has_apps {
        members.push(format!("\"{APPS}\":{{}}"));
    }
    if let Some(settings) = tasks::capability(endpoint, era).filter(|_| era == Era::Modern) {
        members.push(format!("\"{}\":{settings}", tasks::EXTENSION));
    }
    (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
}

/// Whether the gateway has the rest of answers that it cut: clients read nothing of whom that does not promise resources.
fn cuts(endpoint: &Endpoint) -> bool {
    endpoint.shaping.as_ref().is_some_and(|shaping| shaping.cuts)
}

/// Capabilities of one server for a client of its own era: its own, less tasks where the client has none.
pub(crate) fn transparent(endpoint: &Endpoint, peer: &Peer, has_tasks: bool) -> String {
    let own = if has_tasks { peer.capabilities.to_string() } else { without(&peer.capabilities, "tasks") };
    if !cuts(endpoint) || list::raw_member(&own, "resources").is_some() {
        return own;
    }
    if own == "{}" { "{\"resources\":{}}".to_owned() } else { format!("{{\"resources\":{{}},{}", &own[1..]) }
}

/// The capabilities object for a session.
pub(crate) fn for_session(endpoint: &Endpoint, has_tasks: bool) -> String {
    let merged = merged(endpoint, Era::Legacy);
    match tasks::capability(endpoint, Era::Legacy).filter(|_| has_tasks) {
        Some(settings) if merged.len() > 2 => format!("{{\"tasks\":{settings},{}", &merged[1..]),
        Some(settings) => format!("{{\"tasks\":{settings}}}"),
        None => merged,
    }
}

/// A JSON object without one of its members.
pub(crate) fn without(object: &str, key: &str) -> String {
    let Ok(mut members) = serde_json::from_str::<BTreeMap<String, &serde_json::value::RawValue>>(object) else {
        return object.to_owned();
    };
    if members.remove(key).is_none() {
        return object.to_owned();
    }
    let members: Vec<_> =
        members.iter().map(|(key, value)| format!("{}:{}", message::quote(key), value.get())).collect();
    format!("{{{}}}", members.join(","))
}

/// The servers' instructions under their names.
pub(crate) fn instructions(endpoint: &Endpoint, era: Era) -> Option<String> {
    let mut text = String::new();
    for (server, peer) in peers(endpoint, era) {
        let Some(instructions) = peer.as_ref().and_then(|peer| peer.instructions.as_deref()) else { continue };
        if text.len() + instructions.len() + server.len() + 8 > MAX_INSTRUCTIONS {
            tracing::warn!(server, "the instructions of a server are left out: together they are too long");
            continue;
        }
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        if endpoint.is_single() {
            text.push_str(instructions);
        } else {
            text.push_str("## ");
            text.push_str(&server);
            text.push('\n');
            text.push_str(instructions);
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Who the endpoint says it is: the server itself in the transparent view, else the gateway.
pub(crate) fn server_info(endpoint: &Endpoint, era: Era) -> String {
    let own = endpoint
        .is_single()
        .then(|| endpoint.servers.first()?.handle.peek().peer_for(era)?.server_info.clone())
        .flatten()
        .map(String::from);
    own.unwrap_or_else(own_info)
}

/// Waits until every server of the endpoint was heard of once in the client's era, at most
/// `catalog.first_wait`; the one server of a transparent endpoint for as long as it may take to start,
/// because without it there is nothing to answer.
pub(crate) async fn wait_for_peers(endpoint: &Endpoint, era: Era, capabilities: CapabilitySet) {
    let first_wait = endpoint.config.catalog.first_wait;
    let waits = endpoint.servers.iter().map(|server| async move {
        let mut changes = server.handle.changes();
        let mut asked = false;
        let until = if endpoint.is_single() {
            tokio::time::Instant::now() + server.handle.config().timeout.start
        } else {
            server.handle.patience(era, capabilities, first_wait)
        };
        loop {
            {
                let view = server.handle.peek();
                if view.peer_for(era).is_some() || matches!(view.state, State::Down { .. } | State::Stopped) {
                    return;
                }
                if view.is_known() && !asked {
                    // It speaks both eras and was not asked in this one yet.
                    asked = true;
                    server.handle.refresh(era, capabilities);
                }
            }
            if !matches!(tokio::time::timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    futures_util::future::join_all(waits).await;
}

/// The one server of a transparent endpoint, when the client is of its era.
pub(crate) fn same_era_peer(endpoint: &Endpoint, era: Era) -> Option<Arc<Peer>> {
    if !endpoint.is_single() {
        return None;
    }
    endpoint.servers.first()?.handle.peek().peer_for(era).cloned().filter(|peer| peer.revision.era() == era)
}

/// Whether the client is of the era of the call's only server.
pub(crate) fn call_peer(call: &Call) -> Option<Arc<Peer>> {
    same_era_peer(&call.endpoint, call.era)
}
