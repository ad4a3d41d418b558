//! Text that comes from anywhere, made harmless for a line and for a terminal.

use std::fmt::Write;

/// How much of one value is written, in bytes.
pub(super) const MAX_VALUE_BYTES: usize = 8 * 1024;

/// Whether a character could end the line, drive a terminal, or turn the text around it.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The beginning of `text` that is written, and whether something is left out.
fn cut(text: &str) -> (&str, bool) {
    match text.len() > MAX_VALUE_BYTES {
        true => (&text[..text.floor_char_boundary(MAX_VALUE_BYTES)], true),
        false => (text, false),
    }
}

/// Appends `text` with harmful characters as `\u{..}`.
pub(super) fn plain(out: &mut String, text: &str) {
    let (text, is_cut) = cut(text);
    for character in text.chars() {
        match is_harmful(character) {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    if is_cut {
        out.push('…');
    }
}

/// Appends the value of a field: bare if it is one word, else in quotes.
pub(super) fn value(out: &mut String, text: &str) {
    let is_word = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '=' | '\\'));
    if is_word {
        return plain(out, text);
    }
    let (text, is_cut) = cut(text);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            harmful if is_harmful(harmful) => out.extend(harmful.escape_default()),
            harmless => out.push(harmless),
        }
    }
    out.push_str(if is_cut { "…\"" } else { "\"" });
}

/// Appends a JSON string.
pub(super) fn json(out: &mut String, text: &str) {
    let (text, is_cut) = cut(text);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            // None of them needs a surrogate pair.
            harmful if is_harmful(harmful) => {
                write!(out, "\\u{:04x}", u32::from(harmful)).expect("invariant: writing to a String does not fail");
            }
            harmless => out.push(harmless),
        }
    }
    out.push_str(if is_cut { "…\"" } else { "\"" });
}
