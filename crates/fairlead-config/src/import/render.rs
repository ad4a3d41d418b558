//! The `servers:` block.

use super::server::Translated;
use std::fmt::Write;

/// Renders servers in order. Those left out show as comments.
pub(super) fn block(servers: &[Translated]) -> String {
    let mut out = String::new();
    let taken = servers.iter().any(|server| server.skipped.is_none());
    out.push_str(if taken { "servers:\n" } else { "servers: {}\n" });
    for server in servers {
        match &server.skipped {
            Some(reason) => line(&mut out, 2, &format!("# {} is left out: {reason}", comment(&server.original))),
            None => entry(&mut out, server),
        }
    }
    out
}

fn entry(out: &mut String, server: &Translated) {
    let renamed =
        if server.name == server.original { String::new() } else { format!("  # was: {}", comment(&server.original)) };
    line(out, 2, &format!("{}:{renamed}", server.name));
    for note in &server.notes {
        line(out, 4, &format!("# {}", comment(note)));
    }
    for (key, value) in [("command", &server.command), ("url", &server.url)] {
        if let Some(value) = value {
            line(out, 4, &format!("{key}: {}", scalar(value)));
        }
    }
    if let Some(transport) = server.transport {
        line(out, 4, &format!("transport: {transport}"));
    }
    list(out, 4, "args", &server.args);
    pairs(out, "env", &server.env);
    pairs(out, "headers", &server.headers);
    for (key, value) in [("envFile", &server.env_file), ("cwd", &server.cwd)] {
        if let Some(value) = value {
            line(out, 4, &format!("{key}: {}", scalar(value)));
        }
    }
    if !server.timeout.is_empty() {
        let inner: Vec<String> = server.timeout.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        line(out, 4, &format!("timeout: {{ {} }}", inner.join(", ")));
    }
    if !server.allow.is_empty() || !server.deny.is_empty() {
        line(out, 4, "tools:");
        list(out, 6, "allow", &server.allow);
        list(out, 6, "deny", &server.deny);
    }
    if server.disabled {
        line(out, 4, "disabled: true");
    }
}

fn line(out: &mut String, indent: usize, text: &str) {
    writeln!(out, "{:indent$}{text}", "").expect("invariant: writing to a string cannot fail");
}

fn list(out: &mut String, indent: usize, key: &str, items: &[String]) {
    if !items.is_empty() {
        let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
        line(out, indent, &format!("{key}: [{}]", items.join(", ")));
    }
}

fn pairs(out: &mut String, key: &str, pairs: &[(String, String)]) {
    if !pairs.is_empty() {
        line(out, 4, &format!("{key}:"));
        for (name, value) in pairs {
            line(out, 6, &format!("{}: {}", scalar(name), scalar(value)));
        }
    }
}

/// A text as YAML: plain where it cannot be taken for anything else, else in double quotes.
fn scalar(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        || (["http://", "https://", "ws://", "wss://"].iter().any(|scheme| text.starts_with(scheme))
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:?=&%".contains(c))
            && !text.ends_with(':'));
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n" | "nan" | "inf"
    );
    if begins && plain && !word { text.to_owned() } else { quoted(text) }
}

/// JSON's escapes are among those of YAML's double quotes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Controls, line separators and the byte order mark are not printable in YAML.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("invariant: writing to a string cannot fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A text on one line of a comment.
fn comment(text: &str) -> String {
    crate::check::shorten(text).replace(['\u{2028}', '\u{2029}', '\u{85}'], " ")
}
