//! The published schema: complete, and never of another opinion than the program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

use fairlead_config::{ConfigFile, parse_str, schema};
use serde_json::Value;
use std::path::Path;

/// Calls `visit` with every property of the schema and where it is.
fn properties(schema: &Value, at: &str, visit: &mut dyn FnMut(&str, &Value)) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(inner)) = members.get("properties") {
                for (name, property) in inner {
                    visit(&format!("{at}.{name}"), property);
                }
            }
            for (name, member) in members.iter().filter(|(name, _)| *name != "default") {
                properties(member, &format!("{at}.{name}"), visit);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| properties(item, at, visit)),
        _ => {}
    }
}

#[test]
fn golden() {
    let mut schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    schema.sort_all_objects();
    insta::assert_json_snapshot!(schema);
}

#[test]
fn every_key_is_described_and_unknown_keys_are_refused() {
    let schema = schema();
    let mut count = 0;
    properties(&schema, "", &mut |at, property| {
        count += 1;
        let described = property.get("description").and_then(Value::as_str).is_some_and(|text| text.len() > 10);
        assert!(described || property.get("$ref").is_some(), "{at} has no description");
    });
    assert!(count > 60, "{count}");
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        if definition.get("properties").is_some() {
            assert_eq!(definition["additionalProperties"], false, "{name}");
        }
    }
}

/// Text without marks, links and breaks.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("](") {
        out.push_str(&rest[..at]);
        rest = rest[at..].split_once(')').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    let words: Vec<String> = out
        .split(|c: char| c.is_whitespace() || "`[]".contains(c))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join(" ")
}

/// Every key has a row in the documentation that says of it what the schema says, with its default.
#[test]
fn every_key_is_documented() {
    let page = include_str!("../../../docs/configuration.md");
    let rows: Vec<(&str, String)> =
        page.lines().filter_map(|line| Some((line.strip_prefix("| `")?.split_once("` |")?.0, plain(line)))).collect();
    let schema = schema();
    let mut missing = Vec::new();
    properties(&schema, "", &mut |at, property| {
        let key = at.rsplit('.').next().unwrap_or_default();
        let described = property["description"].as_str().unwrap_or_default();
        let first = plain(described.split(". ").next().unwrap_or_default());
        let first: String = first.trim_end_matches('.').chars().take(60).collect();
        let default = match &property["default"] {
            Value::String(text) => Some(plain(text)),
            number @ Value::Number(_) => Some(number.to_string()),
            _ => None,
        };
        let says = |row: &str| row.contains(&first) && default.as_ref().is_none_or(|default| row.contains(default));
        if !rows.iter().any(|(name, row)| *name == key && says(row)) {
            missing.push(format!("{at}: {described} (default {})", property["default"]));
        }
    });
    assert!(missing.is_empty(), "not in docs/configuration.md:\n{}", missing.join("\n"));
}

/// The defaults that the schema prints are those that the program uses.
#[test]
fn written_defaults_change_nothing() {
    let mut file = serde_json::to_value(ConfigFile::default()).unwrap();
    file["servers"] = serde_json::json!({ "a": { "command": "cat" } });
    let schema = schema();
    let properties = schema["$defs"]["ServerFile"]["properties"].as_object().unwrap();
    for (key, property) in properties {
        if let Some(default) = property.get("default").filter(|default| !default.is_null()) {
            file["servers"]["a"][key] = default.clone();
        }
    }
    for key in ["url", "serverUrl", "httpUrl", "headers", "connections"] {
        file["servers"]["a"].as_object_mut().unwrap().remove(key);
    }
    let parse = |text: &str| {
        parse_str("f.json", text, Path::new("/"), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
    };
    let (written, short) = (parse(&file.to_string()), parse(r#"{ "servers": { "a": { "command": "cat" } } }"#));
    assert!(fairlead_config::diff(&written, &short).is_empty());
    assert_eq!(file["listen"]["max_body"], "16MiB");
    assert_eq!(file["sessions"]["max_age"], "7d");
}

#[test]
fn every_revision_can_be_pinned() {
    let schema = schema();
    let written = schema["$defs"]["ProtocolFile"]["enum"].as_array().unwrap();
    assert_eq!(written.len(), fairlead_wire::Revision::ALL.len());
    for revision in fairlead_wire::Revision::ALL {
        let text = format!("servers:\n  a: {{ command: cat, protocol: {} }}\n", revision.as_str());
        let config = parse_str("f.yaml", &text, Path::new("/"), &|_| None).unwrap();
        assert_eq!(config.servers["a"].protocol.as_deref(), Some(revision.as_str()));
    }
}
