//! The small differences between our `servers` and the objects of client configuration files, ironed
//! out in the tree, layer by layer, before anything is merged: `mcpServers` becomes `servers`,
//! foreign names are brought into form, settings of the client itself are dropped with a warning.

use crate::tree::{Entry, Findings, Node, Value};
use fairlead_core::ServerName;

/// Settings of a client's own, which mean nothing to a gateway.
pub(crate) const CLIENT_ONLY: &[&str] = &[
    "alwaysAllow",
    "autoApprove",
    "autoapprove",
    "description",
    "dev",
    "disabledTools",
    "enabledTools",
    "gallery",
    "icon",
    "metadata",
    "note",
    "trust",
    "version",
];

/// Top-level keys of client configuration files that describe their user interface.
const CLIENT_ONLY_TOP: &[&str] = &["inputs"];

pub(crate) fn normalise(root: &mut Node, findings: &mut Findings) {
    let Some(map) = root.as_map_mut() else { return };
    for key in CLIENT_ONLY_TOP {
        if let Some(entry) = map.shift_remove(*key) {
            findings.warning(entry.key, format!("`{key}` is ignored"), "write `${env:NAME}` where an input was used");
        }
    }
    if let Some(theirs) = map.get_mut("mcpServers") {
        bring_into_form(theirs, findings);
    }
    if let Some(position) = map.get_index_of("mcpServers") {
        if map.contains_key("servers") {
            let (_, theirs) = map.shift_remove_index(position).expect("invariant: the index was just found");
            join(map.get_mut("servers").expect("invariant: just seen"), theirs, findings);
        } else {
            // In place: the order of keys is part of what people see.
            let (_, theirs) = map.shift_remove_index(position).expect("invariant: the index was just found");
            map.shift_insert(position, "servers".to_owned(), theirs);
        }
    }
    let Some(servers) = map.get_mut("servers").and_then(|entry| entry.node.as_map_mut()) else { return };
    for (name, server) in servers {
        let Some(keys) = server.node.as_map_mut() else { continue };
        keys.retain(|key, entry| {
            let ignored = CLIENT_ONLY.contains(&key.as_str());
            if ignored {
                let hint = match key.as_str() {
                    "disabledTools" => "to hide tools, write `tools: { deny: [...] }`",
                    "enabledTools" => "to select tools, write `tools: { allow: [...] }`",
                    _ => "it is a setting of the client, not of the server",
                };
                findings.warning(entry.key, format!("`{key}` of server `{name}` is ignored"), hint);
            }
            !ignored
        });
    }
}

/// Gives servers under `mcpServers` names that are names here too.
fn bring_into_form(theirs: &mut Entry, findings: &mut Findings) {
    let Some(servers) = theirs.node.as_map_mut() else { return };
    let mut renamed = crate::tree::Map::new();
    for (name, server) in std::mem::take(servers) {
        let mut form = name.clone();
        if ServerName::parse(&name).is_err() {
            form = ServerName::normalise(&name).to_string();
            let message = format!("the server `{}` is called `{form}` here", crate::check::shorten(&name));
            findings.warning(
                server.key,
                message,
                "server names are lower case letters and digits with single `_` or `-`",
            );
        }
        if renamed.contains_key(&form) {
            findings.error(server.key, format!("two servers are called `{form}` here"), "rename one of them");
        } else {
            renamed.insert(form, server);
        }
    }
    *servers = renamed;
}

/// Adds the servers of `mcpServers` to those of `servers` in the same file.
fn join(ours: &mut Entry, theirs: Entry, findings: &mut Findings) {
    match (&mut ours.node.value, theirs.node.value) {
        (Value::Map(ours), Value::Map(theirs)) => {
            for (name, server) in theirs {
                if ours.contains_key(&name) {
                    let message = format!("the server `{name}` stands under `servers` and under `mcpServers`");
                    findings.error(server.key, message, "keep one of the two");
                } else {
                    ours.insert(name, server);
                }
            }
        }
        (_, Value::Null | Value::Map(_)) => {}
        (_, _) => findings.error(theirs.key, "`mcpServers`: expected a map", ""),
    }
}

/// Byte ranges of header and environment values, and of URLs with a password or a query. They are
/// masked wherever a source line is shown.
pub(crate) fn secrets(root: &Node) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    let Some(map) = root.as_map() else { return ranges };
    for servers in ["servers", "mcpServers"].iter().filter_map(|key| map.get(*key)?.node.as_map()) {
        for server in servers.values().filter_map(|entry| entry.node.as_map()) {
            for values in ["env", "headers"].iter().filter_map(|key| server.get(*key)) {
                mask(&values.node, &mut ranges);
            }
            for url in ["url", "serverUrl", "httpUrl"].iter().filter_map(|key| server.get(*key)) {
                if url.node.as_scalar().is_some_and(|text| text.contains(['@', '?'])) {
                    mask(&url.node, &mut ranges);
                }
            }
        }
    }
    ranges
}

fn mask(node: &Node, ranges: &mut Vec<(usize, usize)>) {
    match &node.value {
        Value::Map(map) => map.values().for_each(|entry| mask(&entry.node, ranges)),
        Value::List(items) => items.iter().for_each(|item| mask(item, ranges)),
        // A text that is nothing but a reference shows no secret, and hiding it would hide the mistake.
        Value::Text(text)
            if text.starts_with("${") && text.find('}') == Some(text.len() - 1) && !text.contains(":-") => {}
        _ => ranges.push((node.place.start, node.place.end)),
    }
}
