//! `${...}` in texts: `${env:NAME}`, `${env:NAME:-default}`, `${NAME}`, `${NAME:-default}`,
//! `${file:path}`, and `$${` for a literal `${`. Resolved after the layers are merged, so that a
//! value which a later layer replaces need not be resolvable. What comes in is never scanned again.

use crate::tree::{Findings, Node, Place, Value};
use std::path::Path;

/// Largest file a `${file:...}` or an `envFile` may name, in bytes.
pub(crate) const MAX_REFERENCED_FILE: u64 = 1 << 20;

/// Longest text after references are resolved, in bytes.
const MAX_EXPANDED: usize = 4 << 20;

/// A lookup of environment variables.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Resolves every reference below `node`.
pub(crate) fn resolve(node: &mut Node, env: Env<'_>, findings: &mut Findings) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => {
            let base = findings.sources.0.get(node.place.source).map(|source| source.base.clone());
            match expand(text, &base.unwrap_or_default(), env) {
                Ok((expanded, referenced)) => {
                    *text = expanded;
                    node.referenced = referenced;
                }
                Err(faults) => {
                    for (message, hint) in faults {
                        findings.error(node.place, message, hint);
                    }
                    node.value = Value::Wrong;
                }
            }
        }
        Value::List(items) => {
            for item in items {
                resolve(item, env, findings);
            }
        }
        Value::Map(map) => {
            for entry in map.values_mut() {
                resolve(&mut entry.node, env, findings);
            }
        }
        _ => {}
    }
}

type Faults = Vec<(String, String)>;

/// The text with its references resolved, and whether there was one.
fn expand(text: &str, base: &Path, env: Env<'_>) -> Result<(String, bool), Faults> {
    let mut out = String::with_capacity(text.len());
    let mut faults = Faults::new();
    let mut referenced = false;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if at > 0 && rest.as_bytes()[at - 1] == b'$' {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let Some(end) = inner.find('}') else {
            faults.push(("the reference has no closing `}`".to_owned(), "write `$${` for a literal `${`".to_owned()));
            return Err(faults);
        };
        referenced = true;
        match lookup(&inner[..end], base, env) {
            Ok(value) if out.len() + value.len() <= MAX_EXPANDED => out.push_str(&value),
            Ok(_) => faults
                .push((format!("the text is longer than {MAX_EXPANDED} bytes with its references"), String::new())),
            Err(fault) => faults.push(fault),
        }
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    if faults.is_empty() { Ok((out, referenced)) } else { Err(faults) }
}

fn lookup(reference: &str, base: &Path, env: Env<'_>) -> Result<String, (String, String)> {
    let (kind, argument) = match reference.split_once(':') {
        // `${NAME:-default}`
        Some((_, rest)) if rest.starts_with('-') => ("env", reference),
        Some((kind, argument)) => (kind, argument),
        None => ("env", reference),
    };
    match kind {
        "env" => {
            let (name, default) = match argument.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (argument, None),
            };
            if !is_variable(name) {
                let message = "the reference does not name an environment variable";
                return Err((message.to_owned(), "write `${env:NAME}`, or `$${` for a literal `${`".to_owned()));
            }
            match (env(name), default) {
                (Some(value), None) => Ok(value),
                (Some(value), Some(_)) if !value.is_empty() => Ok(value),
                (_, Some(default)) => Ok(default.to_owned()),
                (None, None) => Err((
                    format!("the environment variable `{name}` is not set"),
                    format!("set it, or write `${{env:{name}:-default}}`"),
                )),
            }
        }
        "file" => read(&base.join(argument)).map(|text| text.trim_end_matches(['\r', '\n']).to_owned()),
        "input" => Err((
            format!("`${{input:{argument}}}` asks a person, and nobody is there to answer"),
            format!("set an environment variable and write `${{env:{}}}`, or `${{file:path}}`", variable_for(argument)),
        )),
        _ => Err((
            format!("`${{{}:...}}` is not a reference", crate::check::shorten(kind)),
            "write `${env:NAME}`, `${env:NAME:-default}`, `${file:path}`, or `$${` for a literal `${`".to_owned(),
        )),
    }
}

pub(crate) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A variable name that resembles the id of an input.
pub(crate) fn variable_for(input: &str) -> String {
    let name: String =
        input.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    if is_variable(&name) { name } else { format!("INPUT_{name}") }
}

/// Reads a small text file.
fn read(path: &Path) -> Result<String, (String, String)> {
    let unreadable = |error: std::io::Error| {
        (
            format!("cannot read the file `{}`: {error}", path.display()),
            "the path is relative to this configuration file".to_owned(),
        )
    };
    let bytes = crate::load::read_bounded(path, MAX_REFERENCED_FILE).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|_| (format!("the file `{}` is not UTF-8 text", path.display()), String::new()))
}

/// Reads an `envFile`: `NAME=value` lines, `#` comments, an optional `export`, optional quotes.
/// Nothing in it is a reference. Problems name the line but never show it.
pub(crate) fn read_env_file(path: &Path, place: Place, findings: &mut Findings) -> Vec<(String, String)> {
    let text = match read(path) {
        Ok(text) => text,
        Err((message, hint)) => {
            findings.error(place, message, hint);
            return Vec::new();
        }
    };
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        match line.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some((name, value)) if is_variable(name) => {
                let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
                variables.push((name.to_owned(), quoted.unwrap_or(value).to_owned()));
            }
            _ => findings.error(
                place,
                format!("line {} of `{}` is not `NAME=value`", index + 1, path.display()),
                "one variable per line; `#` begins a comment",
            ),
        }
    }
    variables
}
