//! What is written of breakers, retries, fallbacks and dependencies, and whether it goes together.

use super::Builder;
use crate::{
    file::ServerFile,
    model::Server,
    resilience::{Fallback, FallbackFile},
    rules::ServerRules,
};
use fairlead_core::ServerName;
use indexmap::IndexMap;
use std::sync::Arc;

/// Takes out of what is written of a server what is done when it fails.
pub(super) fn of_server(builder: &mut Builder<'_>, name: &str, file: &mut ServerFile) -> ServerRules {
    let fallback = std::mem::take(&mut file.fallback);
    let depends_on = std::mem::take(&mut file.depends_on);
    let at = ["servers", name, "depends_on"];
    ServerRules {
        breaker: std::mem::take(&mut file.breaker).on().map(Into::into),
        retry: std::mem::take(&mut file.retry).on().map(Into::into),
        fallback: (!fallback.is_empty()).then(|| fallbacks(builder, &["servers", name, "fallback"], fallback)),
        depends_on: depends_on.iter().filter_map(|other| server_name(builder, &at, other)).collect(),
        learns: file.learn_dependencies,
        forward_deadline: file.forward_deadline,
        ..ServerRules::default()
    }
}

fn server_name(builder: &mut Builder<'_>, at: &[&str], written: &str) -> Option<ServerName> {
    ServerName::parse(written).map_err(|error| builder.error(at, format!("`{written}`: {error}"), "")).ok()
}

/// The steps of a fallback.
pub(super) fn fallbacks(builder: &mut Builder<'_>, at: &[&str], written: Vec<FallbackFile>) -> Arc<[Fallback]> {
    written.into_iter().filter_map(|step| fallback(builder, at, step)).collect()
}

fn fallback(builder: &mut Builder<'_>, at: &[&str], file: FallbackFile) -> Option<Fallback> {
    let is_static = file.text.is_some() || file.structured.is_some();
    match (file.server, is_static) {
        (Some(server), false) => {
            let server = server_name(builder, at, &server)?;
            Some(Fallback::Server { server, tool: file.tool.map(Into::into) })
        }
        (None, true) if file.tool.is_none() => Some(Fallback::Static {
            text: file.text.map(Into::into),
            structured: file.structured.map(|object| serde_json::Value::Object(object).to_string().into()),
        }),
        _ => {
            let hint = "write `server: NAME` with or without `tool`, or `text` and `structured`";
            builder.error(at, "a step of a fallback is exactly one thing", hint);
            None
        }
    }
}

/// Whether the servers that are named are there, and none needs itself.
pub(super) fn check(
    builder: &mut Builder<'_>,
    rules: &IndexMap<ServerName, Arc<ServerRules>>,
    servers: &IndexMap<ServerName, Arc<Server>>,
) {
    for (name, rule) in rules {
        let at = ["servers", name.as_str(), "depends_on"];
        for other in rule.depends_on.iter().filter(|other| !servers.contains_key(*other)) {
            builder.error(&at, format!("there is no server `{other}`"), "");
        }
        if needs(rules, name, name, &mut Vec::new()) {
            builder.error(&at, format!("`{name}` depends on itself"), "take one of the dependencies out");
        }
        let of_tools = rule.tools.iter().filter_map(|(_, tool)| tool.fallback.as_ref());
        for step in rule.fallback.iter().chain(of_tools).flat_map(|steps| steps.iter()) {
            let Fallback::Server { server, tool } = step else { continue };
            if !servers.contains_key(server) {
                builder.error(&["servers", name.as_str()], format!("`fallback`: there is no server `{server}`"), "");
            } else if server == name && tool.is_none() {
                builder.error(
                    &["servers", name.as_str()],
                    "`fallback` names the server itself",
                    "name another tool of it",
                );
            }
        }
    }
}

/// Whether `from` needs `wanted`, directly or not.
fn needs<'a>(
    rules: &'a IndexMap<ServerName, Arc<ServerRules>>,
    from: &ServerName,
    wanted: &ServerName,
    seen: &mut Vec<&'a ServerName>,
) -> bool {
    let Some(rule) = rules.get(from) else { return false };
    for other in &rule.depends_on {
        if other == wanted {
            return true;
        }
        if !seen.contains(&other) {
            seen.push(other);
            if needs(rules, other, wanted, seen) {
                return true;
            }
        }
    }
    false
}
