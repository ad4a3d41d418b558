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

/// Where a string stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the name of a member.
    Key,
    /// It is a value.
    Value,
}

/// JSON text, or a stretch of it between two strings, with every string in it, keys too, as `change` leaves it. Strings
/// that stay keep their spelling, but for those that are no text (half a surrogate pair): who reads one may read it
/// otherwise than it was looked at, so it is written as it was looked at.
pub(super) fn strings<'a>(raw: &'a str, mut change: impl FnMut(&str, Place) -> Cow<'_, str>) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest: &'a str = raw;
    while let Some(open) = rest.find('"') {
        let Some(length) = string_length(&rest[open..]) else { break };
        let string = &rest[open..open + length];
        let is_key = rest[open + length..].trim_start().starts_with(':');
        let place = if is_key { Place::Key } else { Place::Value };
        out.push_str(&rest[..open]);
        let (decoded, is_text) = decode(string);
        match change(&decoded, place) {
            Cow::Borrowed(_) if is_text => out.push_str(string),
            changed => out.push_str(&message::quote(&changed)),
        }
        rest = &rest[open + length..];
    }
    out.push_str(rest);
    out
}

/// Whether any string in JSON text, keys too, is one that `is_touched`, or no text.
pub(super) fn any(raw: &str, is_touched: impl Fn(&str) -> bool) -> bool {
    let mut rest = raw;
    while let Some(open) = rest.find('"') {
        let Some(length) = string_length(&rest[open..]) else { return true };
        let (decoded, is_text) = decode(&rest[open..open + length]);
        if !is_text || is_touched(&decoded) {
            return true;
        }
        rest = &rest[open + length..];
    }
    false
}

/// What a JSON string says, and whether it says all of that; where it does not, U+FFFD stands.
fn decode(string: &str) -> (Cow<'_, str>, bool) {
    let inside = string.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if let Some(inside) = inside.filter(|inside| !inside.contains('\\')) {
        return (Cow::Borrowed(inside), true);
    }
    match serde_json::from_str(string) {
        Ok(decoded) => (Cow::Owned(decoded), true),
        Err(_) => (Cow::Owned(decode_lossily(string)), false),
    }
}

fn decode_lossily(string: &str) -> String {
    let mut units = Vec::with_capacity(string.len());
    let inside = string.get(1..string.len().saturating_sub(1)).unwrap_or_default();
    let mut rest = inside.chars();
    while let Some(character) = rest.next() {
        let character = match character {
            '\\' => match rest.next() {
                Some('u') => {
                    units.push(hex_unit(&mut rest));
                    continue;
                }
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                other => other.unwrap_or(char::REPLACEMENT_CHARACTER),
            },
            other => other,
        };
        units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16_lossy(&units)
}

/// The UTF-16 unit of the four digits that come next, which may be half of a character.
fn hex_unit(rest: &mut std::str::Chars<'_>) -> u16 {
    let unit = rest.as_str().get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    match unit {
        Some(unit) => {
            *rest = rest.as_str()[4..].chars();
            unit
        }
        None => 0xFFFD,
    }
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
                strings(raw, |text, _| {
                    if text.contains("sec") { Cow::Owned(text.replace("sec", "\"")) } else { Cow::Borrowed("") }
                })
            };
        for (raw, expected) in [
            (r#"{"a" : "\u00e4", "b":[1.10, "x\"sec\\"]}"#, r#"{"a" : "\u00e4", "b":[1.10, "x\"\"\\"]}"#),
            (r#"{"sec":"\\","c":"\u0073ec"}"#, r#"{"\"":"\\","c":"\""}"#),
            ("[]", "[]"),
            ("\"sec\"", "\"\\\"\""),
        ] {
            assert_eq!(change(raw), expected, "{raw}");
        }
    }

    #[test]
    fn strings_that_are_no_text_are_looked_at_all_the_same() {
        let change = |raw: &str| {
            strings(raw, |text, place| match place {
                Place::Value => Cow::Owned(text.replace("sec", "*")),
                Place::Key => Cow::Owned(text.to_owned()),
            })
        };
        for (raw, expected) in [
            (r#"["sec\ud83d"]"#, "[\"*\u{fffd}\"]"),
            (r#"["\ud83d\u0073ec\n\"\\"]"#, "[\"\u{fffd}*\\n\\\"\\\\\"]"),
            (r#"["\ude00\ud83d\ude00"]"#, "[\"\u{fffd}\u{1f600}\"]"),
            (r#"{"sec\ud83d":"none\udc00"}"#, "{\"sec\u{fffd}\":\"none\u{fffd}\"}"),
        ] {
            assert_eq!(change(raw), expected, "{raw}");
        }
        let unmatched = strings(r#"["a\ud83d","\u0061"]"#, |text, _| Cow::Borrowed(text));
        assert_eq!(unmatched, "[\"a\u{fffd}\",\"\\u0061\"]");
    }
}
