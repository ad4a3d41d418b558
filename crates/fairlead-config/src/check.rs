//! The tree against the schema. A walk of our own rather than a validator crate, because what a
//! person needs is the place in the file, the nearest valid key, and *all* mistakes at once. It
//! knows exactly the parts of JSON Schema that [`crate::file`] produces.

use crate::{
    decode::whole,
    leaf,
    tree::{Entry, Findings, Node, Value},
};
use serde_json::Value as Json;

/// Keys and words that the documentation of later versions uses, and which this version does not
/// have: `audit:` deserves a better answer than the nearest valid key.
const NOT_YET_TOP: &[&str] = &[
    "audit",
    "auth",
    "console",
    "fleet",
    "inspect",
    "policies",
    "policy",
    "registry",
    "roles",
    "secrets",
    "store",
    "telemetry",
    "tenants",
    "tls",
    "tracing",
    "workflows",
];
const NOT_YET_SERVER: &[&str] = &["auth", "graphql", "grpc", "oauth", "openapi", "pool", "sql", "tls"];

/// Checks `root` against `schema`. Everything that does not fit goes into `findings` and is marked as
/// [`Value::Wrong`], so that the rest can be read and looked at further.
pub(crate) fn check(root: &mut Node, schema: &Json, findings: &mut Findings) {
    let mut checker = Checker { schema, findings, path: Vec::new() };
    checker.node(root, schema);
}

struct Checker<'a> {
    schema: &'a Json,
    findings: &'a mut Findings,
    path: Vec<String>,
}

impl<'a> Checker<'a> {
    fn node(&mut self, node: &mut Node, schema: &'a Json) {
        if matches!(node.value, Value::Wrong) {
            return;
        }
        let schema = self.resolve(schema);
        // Anything at all: a value that is passed on as it is.
        if schema.as_bool() == Some(true) {
            return;
        }
        if let Some(branches) = schema.get("anyOf").and_then(Json::as_array) {
            let branches: Vec<&Json> = branches.iter().map(|branch| self.resolve(branch)).collect();
            // The branch of the right kind gives the better explanation of what is wrong inside.
            match branches.iter().find(|branch| accepts_kind(branch, node)) {
                Some(branch) => self.node(node, branch),
                None => self.wrong_kind(node, &branches),
            }
            return;
        }
        if let Some(words) = schema.get("enum").and_then(Json::as_array) {
            return self.word(node, words);
        }
        if !accepts_kind(schema, node) {
            return self.wrong_kind(node, &[schema]);
        }
        match &mut node.value {
            Value::Map(map) => {
                for (key, entry) in map {
                    self.path.push(key.clone());
                    self.entry(key, entry, schema);
                    self.path.pop();
                }
            }
            Value::List(items) => {
                if let Some(schema) = schema.get("items") {
                    for item in items {
                        self.node(item, schema);
                    }
                }
            }
            Value::Text(_) if has_type(schema, "string") => self.text(node, schema),
            Value::Number(_) | Value::Text(_) if has_type(schema, "integer") => self.integer(node, schema),
            _ => {}
        }
    }

    fn wrong(&mut self, node: &mut Node, message: String, hint: impl Into<String>) {
        self.findings.error(node.place, message, hint);
        node.value = Value::Wrong;
    }

    fn text(&mut self, node: &mut Node, schema: &Json) {
        let Some(kind) = schema.get(leaf::KIND).and_then(Json::as_str) else { return };
        let Value::Text(text) = &node.value else { return };
        if let Err(misfit) = leaf::check(kind, text) {
            // People put keys into URLs.
            let hidden = node.referenced || kind == "url";
            let shown = if hidden { String::new() } else { format!(" (`{}`)", shorten(text)) };
            let message = format!("{}: {}{shown}", self.what(), misfit.message);
            self.wrong(node, message, misfit.hint);
        }
    }

    fn entry(&mut self, key: &str, entry: &mut Entry, schema: &'a Json) {
        if let Some(inner) = schema.get("properties").and_then(|properties| properties.get(key)) {
            return self.node(&mut entry.node, inner);
        }
        match schema.get("additionalProperties") {
            Some(Json::Bool(false)) => {
                self.unknown_key(key, entry, schema);
                entry.node.value = Value::Wrong;
            }
            Some(inner) => self.node(&mut entry.node, inner),
            None => {}
        }
    }

    fn unknown_key(&mut self, key: &str, entry: &Entry, schema: &Json) {
        let section = &self.path[..self.path.len() - 1];
        let not_yet: &[&str] = match section {
            [] => NOT_YET_TOP,
            [first, _] if first == "servers" => NOT_YET_SERVER,
            _ => &[],
        };
        if not_yet.contains(&key) {
            let hint = "remove it; `fairlead schema` lists what there is";
            return self.findings.error(entry.key, format!("`{key}` is not available in this version"), hint);
        }
        let valid: Vec<&str> = schema
            .get("properties")
            .and_then(Json::as_object)
            .map_or_else(Vec::new, |all| all.keys().map(String::as_str).collect());
        let mut hint = match nearest(key, &valid) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match self.elsewhere(key) {
                Some(section) => format!("`{key}` belongs under `{section}`"),
                None => format!("valid keys here: {}", listed(&valid)),
            },
        };
        if key == "<<" {
            hint = "merge keys take an alias: `<<: *name`".to_owned();
        }
        let place = if section.is_empty() { String::new() } else { format!(" in `{}`", section.join(".")) };
        self.findings.error(entry.key, format!("unknown key `{}`{place}", shorten(key)), hint);
    }

    /// The section in which a key that is unknown here is known.
    fn elsewhere(&self, key: &str) -> Option<String> {
        let sections = self.schema.get("properties")?.as_object()?;
        for (name, section) in sections {
            let mut schema = self.resolve(section);
            let mut label = name.clone();
            if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
                schema = self.resolve(inner);
                label = format!("{name}.<name>");
            }
            if name != "mcpServers" && schema.get("properties").is_some_and(|keys| keys.get(key).is_some()) {
                return Some(label);
            }
        }
        None
    }

    fn word(&mut self, node: &mut Node, words: &[Json]) {
        let fits = words.iter().any(|word| match (word, &node.value) {
            (Json::String(word), Value::Text(text)) => word == text,
            (Json::Bool(word), Value::Bool(value)) => word == value,
            (Json::Null, Value::Null) => true,
            _ => false,
        });
        if fits {
            return;
        }
        let valid: Vec<&str> = words.iter().filter_map(Json::as_str).collect();
        let what = self.what();
        let Some(text) = node.as_scalar().filter(|_| !node.referenced) else {
            let found = if node.referenced { "something else" } else { node.kind() };
            let message = format!("{what}: expected one word, found {found}");
            return self.wrong(node, message, format!("write {}", listed(&valid)));
        };
        let key = self.path.last().map(String::as_str).unwrap_or_default();
        let message = format!("{what}: `{}` is not one of the known words", shorten(text));
        let hint = match nearest(text, &valid) {
            Some(near) => format!("did you mean `{near}`?"),
            // The other spellings are those of client configuration files.
            None if key == "type" => "write `stdio`, `http`, `sse` or `ws`, or leave it out".to_owned(),
            None => format!("write {}", listed(&valid)),
        };
        self.wrong(node, message, hint);
    }

    fn integer(&mut self, node: &mut Node, schema: &Json) {
        let min = schema.get("minimum").and_then(Json::as_u64).unwrap_or(0);
        let max = schema.get("maximum").and_then(Json::as_u64).unwrap_or(u64::MAX);
        let text = node.as_scalar().unwrap_or_default();
        if whole(text).is_some_and(|number| (min..=max).contains(&number)) {
            return;
        }
        let shown = if node.referenced { String::new() } else { format!(", not `{}`", shorten(text)) };
        let message = format!("{}: must be a whole number from {min} to {max}{shown}", self.what());
        self.wrong(node, message, "");
    }

    fn wrong_kind(&mut self, node: &mut Node, schemas: &[&Json]) {
        let mut wanted: Vec<&str> = Vec::new();
        let mut hint = "";
        for schema in schemas {
            if let Some(words) = schema.get("enum").and_then(Json::as_array) {
                wanted.extend(words.iter().filter_map(Json::as_str));
            }
            let text = match schema.get(leaf::KIND).and_then(Json::as_str) {
                Some("duration" | "wait") => "a duration",
                Some("size") => "a size",
                Some("rate") => "a rate",
                Some("quota") => "a quota",
                _ => "text",
            };
            // Where other scalars are taken for text, text is what is meant.
            let kinds: &[(&str, &str)] = if has_type(schema, "string") {
                &[("string", text)]
            } else {
                &[("object", "a map"), ("array", "a list"), ("integer", "a whole number"), ("boolean", "true or false")]
            };
            wanted.extend(kinds.iter().filter(|(kind, _)| has_type(schema, kind)).map(|(_, name)| *name));
            hint = kind_hint(schema, node).unwrap_or(hint);
        }
        wanted.dedup();
        let what = self.what();
        let message = format!("{what}: expected {}, found {}", wanted.join(" or "), node.kind());
        self.wrong(node, message, hint);
    }

    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let mut schema = schema;
        // Definitions refer to definitions at most a few times; the bound is against a cycle.
        for _ in 0..8 {
            let Some(name) = schema.get("$ref").and_then(Json::as_str).and_then(|at| at.strip_prefix("#/$defs/"))
            else {
                break;
            };
            match self.schema.get("$defs").and_then(|all| all.get(name)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// The key path for messages.
    fn what(&self) -> String {
        if self.path.is_empty() {
            "the configuration".to_owned()
        } else {
            format!("`{}`", shorten(&self.path.join(".")))
        }
    }
}

/// What to write where `schema` wants one kind of value and `node` is another.
fn kind_hint(schema: &Json, node: &Node) -> Option<&'static str> {
    Some(match (&node.value, schema.get(leaf::KIND).and_then(Json::as_str)) {
        (Value::Number(_), Some("duration" | "wait")) => "add a unit: `ms`, `s`, `m`, `h` or `d`, for example `30s`",
        (Value::Number(_), Some("size")) => {
            "add a unit: `B`, `KB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`, for example `16MiB`"
        }
        (Value::Number(_), Some("address")) => "write an IP address and a port, for example `127.0.0.1:8642`",
        (Value::Number(_) | Value::Bool(_), _) if has_type(schema, "string") => "put it in quotes",
        (Value::Text(_), _) if has_type(schema, "array") => "write a list, for example `[\"one\", \"two\"]`",
        (Value::Text(_), _) if has_type(schema, "boolean") => "write `true` or `false`, without quotes",
        (Value::Text(_), _) if has_type(schema, "integer") => "write a number without quotes",
        (Value::List(_), _) if has_type(schema, "object") => "write `key: value` lines instead of `- item` lines",
        _ => return None,
    })
}

fn has_type(schema: &Json, name: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(kind)) => kind == name,
        Some(Json::Array(kinds)) => kinds.iter().any(|kind| kind == name),
        _ => false,
    }
}

fn accepts_kind(schema: &Json, node: &Node) -> bool {
    if let Some(words) = schema.get("enum").and_then(Json::as_array) {
        return words.iter().any(|word| match node.value {
            Value::Text(_) => word.is_string(),
            Value::Bool(_) => word.is_boolean(),
            Value::Null => word.is_null(),
            _ => false,
        });
    }
    match &node.value {
        Value::Null => has_type(schema, "null"),
        Value::Wrong => true,
        Value::Bool(_) => has_type(schema, "boolean"),
        Value::Number(_) => has_type(schema, "number") || has_type(schema, "integer"),
        Value::Text(text) => {
            has_type(schema, "string")
                // What a reference brings in is text; the file says nothing about its kind.
                || (node.referenced && has_type(schema, "integer"))
                || (node.referenced && has_type(schema, "boolean") && matches!(text.as_str(), "true" | "false"))
        }
        Value::List(_) => has_type(schema, "array"),
        Value::Map(_) => has_type(schema, "object"),
    }
}

/// The most similar of `valid`, if it is similar enough to be what was meant.
pub(crate) fn nearest<'v>(word: &str, valid: &[&'v str]) -> Option<&'v str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-'], "");
    let written = plain(word);
    // Longer words than any key are not typing mistakes, and distance costs length times length.
    if written.len() > 40 {
        return None;
    }
    valid
        .iter()
        .map(|candidate| (distance(&written, &plain(candidate)), *candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= (written.len().min(candidate.len()) / 3).max(1))
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two texts.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, &a) in from.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, &b) in to.iter().enumerate() {
            let mut cost = (last[column] + usize::from(a != b)).min(last[column + 1] + 1).min(next[column] + 1);
            if row > 0 && column > 0 && a == to[column - 1] && from[row - 1] == b {
                cost = cost.min(before[column - 1] + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut last, next);
    }
    last[to.len()]
}

fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().filter(|word| **word != "$schema").map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "none".to_owned(),
    }
}

/// At most 60 characters of a text, for messages.
pub(crate) fn shorten(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(61).collect();
    if clean.chars().count() > 60 { clean.chars().take(59).chain(['…']).collect() } else { clean }
}
