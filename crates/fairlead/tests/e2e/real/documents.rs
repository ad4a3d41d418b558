//! Comparing what a client saw directly with what it saw through the gateway.
//!
//! The differences that are meant are named here, one by one; everything else must be equal.

use serde_json::{Map, Value, json};

use super::servers::Server;
use crate::support::MODERN;

/// Through which endpoint the client looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// `/servers/{server}/mcp`.
    Single,
    /// `/mcp`.
    Merged,
}

/// The lists of a document.
const LISTS: [&str; 4] = ["tools", "resources", "templates", "prompts"];

/// What the documents of these servers become behind `/mcp`.
pub(crate) fn merged(servers: &[&Server], documents: &[&Value]) -> Value {
    let mut whole = Map::new();
    for list in LISTS {
        let entries = servers.iter().zip(documents).flat_map(|(server, document)| {
            let entries = document[list].as_array().cloned().unwrap_or_default();
            entries.into_iter().map(move |mut entry| {
                if matches!(list, "tools" | "prompts") {
                    entry["name"] = prefixed(server.name, &entry["name"]);
                }
                entry
            })
        });
        whole.insert(list.to_owned(), entries.collect());
    }
    let results = servers.iter().zip(documents).flat_map(|(server, document)| {
        let results = document["results"].as_array().cloned().unwrap_or_default();
        // What nobody has is refused by the gateway, in its own words.
        let known = results.into_iter().filter(|result| !is_unknown(&result["name"]));
        known.map(move |mut result| {
            if result["operation"] != "read" {
                result["name"] = prefixed(server.name, &result["name"]);
            }
            result
        })
    });
    whole.insert("results".to_owned(), results.collect());
    whole.into()
}

fn prefixed(server: &str, name: &Value) -> Value {
    format!("{server}__{}", name.as_str().unwrap()).into()
}

fn is_unknown(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.starts_with("no-such-") || name == "demo://nothing/here")
}

/// Fails with every difference that is not meant.
pub(crate) fn assert_same(what: &str, view: View, direct: &Value, through: &Value) {
    let (mut expected, mut seen) = (direct.clone(), through.clone());
    let is_modern = |document: &Value| document["protocol_version"] == MODERN;
    let crosses = view == View::Single && is_modern(direct) != is_modern(through);
    // Whether the client is told things in the modern way.
    let modern = is_modern(through);
    for document in [&mut expected, &mut seen] {
        let members = document.as_object_mut().unwrap();
        if view == View::Merged {
            // The gateway speaks for itself here.
            for own in
                ["protocol_version", "server_info", "capabilities", "instructions", "client", "logs", "questions"]
            {
                members.remove(own);
            }
        }
        if crosses {
            // What needs the other era's messages is not offered.
            members.remove("protocol_version");
            members.remove("capabilities");
        }
        if let Some(capabilities) = members.get_mut("capabilities").and_then(Value::as_object_mut) {
            // Tasks of 2025-11-25 belong to a session, and sessions with servers are shared.
            capabilities.remove("tasks");
        }
        for result in members["results"].as_array_mut().unwrap() {
            settle(result, modern || crosses);
        }
        if modern {
            for tool in members["tools"].as_array_mut().unwrap() {
                // Not part of the modern era: some clients drop it when they read.
                tool.as_object_mut().unwrap().remove("execution");
            }
        }
    }
    progress(&mut expected, &mut seen);
    let mut differences = Vec::new();
    compare(&expected, &seen, String::new(), &mut differences);
    assert!(differences.is_empty(), "{what}: {} differences\n{}", differences.len(), differences.join("\n"));
}

/// Takes away what only results of the modern era have to carry.
fn settle(result: &mut Value, modern: bool) {
    let Some(result) = result.get_mut("result").and_then(Value::as_object_mut) else { return };
    if !modern {
        return;
    }
    for member in ["resultType", "ttlMs", "cacheScope"] {
        result.remove(member);
    }
    if let Some(meta) = result.get_mut("_meta").and_then(Value::as_object_mut) {
        meta.remove("io.modelcontextprotocol/serverInfo");
        if meta.is_empty() {
            result.remove("_meta");
        }
    }
}

/// Clients drop progress that comes together with the answer: one side may have seen more of the same.
fn progress(expected: &mut Value, seen: &mut Value) {
    let (expected, seen) = (expected["results"].as_array_mut().unwrap(), seen["results"].as_array_mut().unwrap());
    for (expected, seen) in expected.iter_mut().zip(seen) {
        let (Some(steps), Some(through)) = (expected["progress"].as_array(), seen["progress"].as_array()) else {
            continue;
        };
        if !steps.is_empty() && !through.is_empty() {
            let common = steps.len().min(through.len());
            let (steps, through) = (json!(steps[..common]), json!(through[..common]));
            expected["progress"] = steps;
            seen["progress"] = through;
        }
    }
}

fn compare(expected: &Value, seen: &Value, path: String, differences: &mut Vec<String>) {
    match (expected, seen) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                compare(value, b.get(key).unwrap_or(&Value::Null), format!("{path}/{key}"), differences);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                compare(&Value::Null, value, format!("{path}/{key}"), differences);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (expected, seen)) in a.iter().zip(b).enumerate() {
                compare(expected, seen, format!("{path}/{at}"), differences);
            }
        }
        _ if expected == seen => {}
        _ => differences.push(format!("{path}: direct {}, through the gateway {}", short(expected), short(seen))),
    }
}

fn short(value: &Value) -> String {
    const SHOWN: usize = 300;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
