//! Taking things out of texts.

use fairlead_wire::message;
use regex::{NoExpand, Regex};
use std::borrow::Cow;

/// What takes things out of a text. One kind is built in; what knows more about texts gets in by this door.
pub(super) trait Redact: Send + Sync {
    /// The text without what must not be seen; borrowed when there was nothing.
    fn redact<'a>(&self, text: &'a str) -> Cow<'a, str>;
}

/// Regular expressions whose matches are replaced by a mark.
#[derive(Debug)]
pub(super) struct Patterns(Vec<(Regex, String)>);

impl Patterns {
    /// `None` when there are none.
    pub(super) fn new(patterns: &[(String, String)]) -> Option<Self> {
        let compiled: Vec<_> = patterns
            .iter()
            .map(|(pattern, mark)| {
                let regex = fairlead_config::tool_shape::regex(pattern);
                (regex.expect("invariant: checked with the configuration"), mark.clone())
            })
            .collect();
        (!compiled.is_empty()).then_some(Self(compiled))
    }
}

impl Redact for Patterns {
    fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for (pattern, mark) in &self.0 {
            if let Cow::Owned(redacted) = pattern.replace_all(&text, NoExpand(mark)) {
                text = Cow::Owned(redacted);
            }
        }
        text
    }
}

/// JSON text with every string in it, keys too, as `change` leaves it. Strings that stay keep their spelling. Base64 in
/// `blob` members is no text.
pub(super) fn strings<'a>(raw: &'a str, mut change: impl FnMut(&str) -> Cow<'_, str>) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest: &'a str = raw;
    let mut is_blob = false;
    while let Some(open) = rest.find('"') {
        let Some(length) = string_length(&rest[open..]) else { break };
        let string = &rest[open..open + length];
        let behind = rest[open + length..].trim_start();
        let is_key = behind.starts_with(':');
        out.push_str(&rest[..open]);
        let decoded = serde_json::from_str::<Cow<'_, str>>(string).unwrap_or_default();
        match change(&decoded) {
            Cow::Owned(changed) if !is_blob || is_key => out.push_str(&message::quote(&changed)),
            _ => out.push_str(string),
        }
        is_blob = is_key && decoded == "blob";
        rest = &rest[open + length..];
    }
    out.push_str(rest);
    out
}

/// Bytes of the JSON string that `text` begins with, quotes included.
fn string_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_found_and_their_neighbours_left() {
        let change =
            |raw: &str| {
                strings(raw, |text| {
                    if text.contains("sec") { Cow::Owned(text.replace("sec", "\"")) } else { Cow::Borrowed("") }
                })
            };
        for (raw, expected) in [
            (r#"{"a" : "\u00e4", "b":[1.10, "x\"sec\\"]}"#, r#"{"a" : "\u00e4", "b":[1.10, "x\"\"\\"]}"#),
            (r#"{"sec":"\\","c":"\u0073ec"}"#, r#"{"\"":"\\","c":"\""}"#),
            (r#"{"blob":"sec","text":"sec"}"#, r#"{"blob":"sec","text":"\""}"#),
            ("[]", "[]"),
            ("\"sec\"", "\"\\\"\""),
        ] {
            assert_eq!(change(raw), expected, "{raw}");
        }
    }
}
