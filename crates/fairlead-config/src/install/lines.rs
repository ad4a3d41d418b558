//! One table more, or one less, in texts whose structure is their lines: TOML and YAML.

use crate::tree::Node;
use serde_json::Value;
use std::ops::Range;

/// A TOML table of the entry after everything else, or in the place of the one that is there.
pub(super) fn put_toml(text: &str, path: &[&str], name: &str, entry: &Value) -> Option<String> {
    let header = toml_header(path, name);
    let mut block = format!("[{header}]\n");
    for (key, value) in entry.as_object()? {
        block.push_str(&format!("{} = {}\n", toml_key(key), toml_value(value)?));
    }
    if let Some(range) = toml_tables(text, &header) {
        return Some(format!("{}{block}{}", &text[..range.start], &text[range.end..]));
    }
    let gap = match text {
        "" => "",
        text if text.ends_with("\n\n") => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    Some(format!("{text}{gap}{block}"))
}

pub(super) fn take_toml(text: &str, path: &[&str], name: &str) -> Option<String> {
    let range = toml_tables(text, &toml_header(path, name))?;
    let before = text[..range.start].trim_end_matches('\n');
    let gap = if before.is_empty() { "" } else { "\n" };
    let rest = &text[range.end..];
    let gap = if rest.is_empty() { gap } else { &*format!("{gap}\n") };
    Some(format!("{before}{gap}{rest}"))
}

fn toml_header(path: &[&str], name: &str) -> String {
    path.iter().chain([&name]).map(|key| toml_key(key)).collect::<Vec<_>>().join(".")
}

fn toml_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare { key.to_owned() } else { Value::from(key).to_string() }
}

fn toml_value(value: &Value) -> Option<String> {
    match value {
        // Every JSON text is a TOML basic string.
        Value::String(_) | Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(toml_value).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Value::Null | Value::Object(_) => None,
    }
}

/// The lines of the table `header` and of its sub-tables, without what stands before the next table as
/// its comment.
fn toml_tables(text: &str, header: &str) -> Option<Range<usize>> {
    let is_ours = |line: &str| {
        let name = line.trim().strip_prefix('[').and_then(|line| line.split(']').next()).unwrap_or_default().trim();
        name == header || name.strip_prefix(header).is_some_and(|rest| rest.starts_with('.'))
    };
    let (mut start, mut end, mut at) = (None, text.len(), 0);
    for line in text.split_inclusive('\n') {
        let is_table = line.trim_start().starts_with('[');
        if is_table && is_ours(line) {
            start.get_or_insert(at);
        } else if is_table && start.is_some() {
            end = at;
            break;
        }
        at += line.len();
    }
    let start = start?;
    // Blank lines and comments before the next table are that table's.
    let lines: Vec<_> = text[start..end].split_inclusive('\n').collect();
    let kept = lines.iter().rposition(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))?;
    Some(start..start + lines[..=kept].iter().map(|line| line.len()).sum::<usize>())
}

pub(super) fn put_yaml(text: &str, root: &Node, path: &[&str], name: &str, entry: &Value) -> Option<String> {
    let [key] = path else { return None };
    let Some(container) = root.as_map()?.get(*key) else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Some(format!("{text}{gap}{key}:\n{}", yaml_block(name, entry, "  ")?));
    };
    let line_end = text[container.key.end..].find('\n').map_or(text.len(), |at| container.key.end + at + 1);
    let Some(servers) = container.node.as_map().filter(|servers| !servers.is_empty()) else {
        // `extensions:` or `extensions: {}`: a comment beside it is kept.
        let beside = text[container.key.end..line_end].trim_end();
        let beside = beside.strip_prefix(':')?.replacen("{}", "", 1);
        let head = &text[..container.key.end];
        return Some(format!("{head}:{}\n{}{}", beside.trim_end(), yaml_block(name, entry, "  ")?, &text[line_end..]));
    };
    if let Some(old) = servers.get(name) {
        let range = yaml_lines(text, old.key.start);
        let indent = &text[range.start..old.key.start];
        return Some(format!("{}{}{}", &text[..range.start], yaml_block(name, entry, indent)?, &text[range.end..]));
    }
    let (_, first) = servers.first()?;
    let start = line_start(text, first.key.start);
    let indent = text[start..first.key.start].to_owned();
    // A map between braces has no lines of its own.
    if start < line_end || !indent.bytes().all(|byte| byte == b' ') {
        return None;
    }
    Some(format!("{}{}{}", &text[..start], yaml_block(name, entry, &indent)?, &text[start..]))
}

pub(super) fn take_yaml(text: &str, root: &Node, path: &[&str], name: &str) -> Option<String> {
    let servers = root.at(path)?.as_map()?;
    let range = yaml_lines(text, servers.get(name)?.key.start);
    Some(format!("{}{}", &text[..range.start], &text[range.end..]))
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// The lines of the entry whose key is at `key`: up to the next line that is not deeper.
fn yaml_lines(text: &str, key: usize) -> Range<usize> {
    let start = line_start(text, key);
    let depth = key - start;
    let mut end = start;
    for (index, line) in text[start..].split_inclusive('\n').enumerate() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if index > 0 && !line.trim().is_empty() && indent <= depth {
            break;
        }
        end += line.len();
    }
    start..end
}

fn yaml_block(name: &str, entry: &Value, indent: &str) -> Option<String> {
    let mut block = format!("{indent}{}:\n", toml_key(name));
    for (key, value) in entry.as_object()? {
        // JSON scalars and lists are YAML ones.
        block.push_str(&format!("{indent}  {key}: {value}\n"));
    }
    Some(block)
}
