//! One member more, or one less, in a JSON text with comments.

use crate::tree::{Map, Node, Place};
use serde_json::Value;

/// The members of the map at `path`, and how deep it is; `None` when a part of the path is missing.
struct Found<'a> {
    node: &'a Node,
    map: &'a Map,
    depth: usize,
}

/// The innermost map of `path` that is there.
fn innermost<'a>(root: &'a Node, path: &[&str]) -> Option<Found<'a>> {
    let mut node = root;
    for (depth, key) in path.iter().enumerate() {
        match node.as_map()?.get(*key) {
            Some(entry) => node = &entry.node,
            None => return Some(Found { node, map: node.as_map()?, depth }),
        }
    }
    Some(Found { node, map: node.as_map()?, depth: path.len() })
}

pub(super) fn put(text: &str, root: &Node, path: &[&str], name: &str, entry: &Value) -> Option<String> {
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        let whole = path.iter().rev().fold(member(name, entry), |inner, key| one(key, inner));
        return Some(format!("{}\n", pretty(&Value::Object(whole), "", "  ")));
    }
    let found = innermost(root, path)?;
    let (key, value) = match path.get(found.depth) {
        None => (name, entry.clone()),
        Some(first) => {
            let inner = path[found.depth + 1..].iter().rev().fold(member(name, entry), |inner, key| one(key, inner));
            (*first, Value::Object(inner))
        }
    };
    if let Some(old) = found.map.get(key) {
        let indent = indent_at(text, old.key.start);
        return Some(replaced(text, old.node.place, &pretty(&value, indent, step(text, indent))));
    }
    let close = found.node.place.end.checked_sub(1).filter(|at| text.as_bytes().get(*at) == Some(&b'}'))?;
    let outer = indent_at(text, found.node.place.start);
    let Some((_, last)) = found.map.last() else {
        let step = step(text, outer);
        let indent = format!("{outer}{step}");
        let inner = text[found.node.place.start + 1..close].trim_end();
        let new = format!("{inner}\n{indent}{}: {}\n{outer}", quoted(key), pretty(&value, &indent, step));
        return Some(format!("{}{new}{}", &text[..=found.node.place.start], &text[close..]));
    };
    let indent = indent_at(text, last.key.start).to_owned();
    let step = step(text, &indent).to_owned();
    let gap = &text[last.node.place.end..close];
    let has_comma = comma(gap);
    let kept = gap.trim_end();
    let separator = if has_comma { "" } else { "," };
    let trailing = if has_comma { "," } else { "" };
    // In a map on one line the entry stands on that line.
    let lines = text[found.node.place.start..close].contains('\n');
    let (before, after) =
        if lines { (format!("\n{indent}"), format!("\n{outer}")) } else { (" ".to_owned(), " ".to_owned()) };
    Some(format!(
        "{}{separator}{kept}{before}{}: {}{trailing}{after}{}",
        &text[..last.node.place.end],
        quoted(key),
        pretty(&value, &indent, &step),
        &text[close..]
    ))
}

pub(super) fn take(text: &str, root: &Node, path: &[&str], name: &str) -> Option<String> {
    let found = innermost(root, path).filter(|found| found.depth == path.len())?;
    let index = found.map.get_index_of(name)?;
    let (_, entry) = found.map.get_index(index)?;
    let end = match found.map.get_index(index + 1) {
        // Up to the next member, which takes its place.
        Some((_, next)) => return Some(format!("{}{}", &text[..entry.key.start], &text[next.key.start..])),
        None => entry.node.place.end,
    };
    let start = match index.checked_sub(1).and_then(|before| found.map.get_index(before)) {
        Some((_, before)) => before.node.place.end,
        None => {
            // The only one: from the brace on, comments stay.
            let kept = text[found.node.place.start + 1..entry.key.start].trim_end();
            let rest = &text[end..];
            let rest =
                if comma(&text[end..found.node.place.end - 1]) { rest.trim_start().strip_prefix(',')? } else { rest };
            return Some(format!("{}{kept}{rest}", &text[..=found.node.place.start]));
        }
    };
    // The last one: one comma goes with it; what was said beside the one before stays.
    let gap = &text[start..entry.key.start];
    let close = found.node.place.end.checked_sub(1)?;
    if let Some(own) = comma_at(&text[end..close]) {
        return Some(format!("{}{}{}", &text[..start], gap.trim_end(), &text[end + own + 1..]));
    }
    let cut = comma_at(gap)?;
    let beside = format!("{}{}", &gap[..cut], &gap[cut + 1..]);
    Some(format!("{}{}{}", &text[..start], beside.trim_end(), &text[end..]))
}

fn member(name: &str, entry: &Value) -> serde_json::Map<String, Value> {
    one(name, entry.as_object().cloned().unwrap_or_default())
}

fn one(key: &str, inner: serde_json::Map<String, Value>) -> serde_json::Map<String, Value> {
    serde_json::Map::from_iter([(key.to_owned(), Value::Object(inner))])
}

fn replaced(text: &str, place: Place, new: &str) -> String {
    format!("{}{new}{}", &text[..place.start], &text[place.end..])
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The white space at the beginning of the line of `at`.
fn indent_at(text: &str, at: usize) -> &str {
    let line = &text[text[..at].rfind('\n').map_or(0, |newline| newline + 1)..];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// One level of indentation of this text.
fn step<'a>(text: &'a str, indent: &'a str) -> &'a str {
    if indent.starts_with('\t') || text.contains("\n\t") {
        return "\t";
    }
    let first = text.lines().map(|line| line.len() - line.trim_start_matches(' ').len()).find(|spaces| *spaces > 0);
    if first == Some(4) { "    " } else { "  " }
}

/// A value over several lines, those after the first indented by `indent` at least.
fn pretty(value: &Value, indent: &str, step: &str) -> String {
    let Some(map) = value.as_object().filter(|map| !map.is_empty()) else { return value.to_string() };
    let inner = format!("{indent}{step}");
    let members: Vec<_> =
        map.iter().map(|(key, value)| format!("{inner}{}: {}", quoted(key), pretty(value, &inner, step))).collect();
    format!("{{\n{}\n{indent}}}", members.join(",\n"))
}

fn comma(gap: &str) -> bool {
    comma_at(gap).is_some()
}

/// Where the comma between two members is, comments passed over.
fn comma_at(gap: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(rest) = gap.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("//") {
            at += rest.find('\n')?;
        } else if rest.starts_with("/*") {
            at += rest.find("*/")? + 2;
        } else if rest.starts_with(',') {
            return Some(at);
        } else {
            at += rest.chars().next()?.len_utf8();
        }
    }
    None
}
