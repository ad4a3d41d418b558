//! Text to tree: one reader per syntax, chosen by the file's extension.

mod json;
mod toml;
mod yaml;

use crate::tree::{Findings, Node, Place, Value};
use std::path::Path;

/// A syntax in which a configuration can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Yaml,
    /// With comments and trailing commas.
    Json,
    Toml,
}

impl Syntax {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" | "jsonc" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }
}

/// What a syntax reader found wrong: byte range, reason, hint.
pub(crate) struct Fault {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Reads source number `source` of `findings`. `None` when it has no usable tree; the reasons are
/// then in `findings`.
pub(crate) fn read(syntax: Syntax, source: usize, findings: &mut Findings) -> Option<Node> {
    let text = findings.sources.0[source].text.as_str();
    let result = match syntax {
        Syntax::Yaml => yaml::read(text, source),
        Syntax::Json => json::read(text, source),
        Syntax::Toml => toml::read(text, source),
    };
    match result {
        Ok(node) => match node.value {
            Value::Map(_) => Some(node),
            // An empty or commented-out file is a layer that says nothing.
            Value::Null => Some(Node::new(Value::Map(crate::tree::Map::new()), node.place)),
            _ => {
                let message = format!("a configuration is a map of keys, not {}", node.kind());
                findings.error(node.place, message, "begin with a key, for example `servers:`");
                None
            }
        },
        Err(faults) => {
            for fault in faults {
                let place = Place { source, start: fault.start, end: fault.end };
                findings.error(place, fault.message, fault.hint);
                if let Some((_, problem)) = findings.problems.last_mut() {
                    let line = problem.line;
                    // Without a tree nobody knows which texts are secrets.
                    if may_hold_secret(&findings.sources.0[source].text, line) {
                        problem.excerpt = None;
                    }
                }
            }
            None
        }
    }
}

/// Whether the line (from 1) mentions, or is indented below a line that mentions, `env` or `headers`.
fn may_hold_secret(text: &str, line: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().take(line).collect();
    let Some(mut level) = lines.last().map(|line| indent(line) + 1) else { return false };
    for line in lines.iter().rev().filter(|line| !line.trim().is_empty()) {
        if indent(line) < level {
            level = indent(line);
            let lower = line.to_ascii_lowercase();
            if lower.contains("env") || lower.contains("headers") {
                return true;
            }
        }
    }
    // TOML has tables instead of indentation.
    lines.iter().rev().find(|line| line.trim_start().starts_with('[')).is_some_and(|table| {
        let lower = table.to_ascii_lowercase();
        lower.contains("env") || lower.contains("headers")
    })
}

fn too_deep(at: usize) -> Fault {
    Fault {
        start: at,
        end: at,
        message: format!("nested deeper than {} levels", crate::tree::MAX_DEPTH),
        hint: String::new(),
    }
}

/// The byte offset of a line and column, both from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = text.get(start..).unwrap_or_default();
    start + rest.char_indices().nth(column - 1).map_or(rest.len(), |(at, _)| at)
}
