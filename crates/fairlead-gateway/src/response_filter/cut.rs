//! Cutting an answer that is too long: what is shown, and the rest as text.

use fairlead_wire::{list, message};
use std::fmt::Write;

/// Bytes a text block has beside its text, about.
const BLOCK: usize = 32;

/// Splits content blocks at `max` bytes. Texts are cut at a character; other blocks are shown whole or not at all.
/// Without any content the structure itself is the text.
pub(super) fn cut(blocks: Vec<String>, structured: Option<&str>, max: usize) -> (Vec<String>, String) {
    let blocks = match structured {
        Some(structured) if blocks.is_empty() => vec![text_block(structured)],
        _ => blocks,
    };
    let (mut shown, mut rest, mut room) = (Vec::new(), String::new(), max);
    for block in blocks {
        if rest.is_empty() && block.len() <= room {
            room -= block.len();
            shown.push(block);
            continue;
        }
        if !rest.is_empty() {
            rest.push('\n');
        }
        match list::string_member(&block, "text").filter(|_| is_text(&block)) {
            Some(text) if rest.is_empty() => {
                let (head, tail) = split(&text, room.saturating_sub(BLOCK));
                if !head.is_empty() {
                    shown.push(text_block(head));
                }
                rest.push_str(tail);
            }
            Some(text) => rest.push_str(&text),
            None => _ = write!(rest, "{block}"),
        }
        room = 0;
    }
    (shown, rest)
}

fn is_text(block: &str) -> bool {
    list::string_member(block, "type").as_deref() == Some("text")
}

fn text_block(text: &str) -> String {
    format!("{{\"type\":\"text\",\"text\":{}}}", message::quote(text))
}

/// The longest beginning that takes at most `room` bytes as JSON, and what follows.
fn split(text: &str, room: usize) -> (&str, &str) {
    let mut taken = 0;
    for (at, character) in text.char_indices() {
        taken += match character {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            '\0'..='\u{1f}' => 6,
            other => other.len_utf8(),
        };
        if taken > room {
            return text.split_at(at);
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_no_character_is_torn() {
        let text = "ä\"\n\u{1}x".repeat(100);
        for max in [1, 40, 41, 42, 43, 100, 500, 900] {
            let (shown, rest) = cut(vec![text_block(&text)], None, max);
            let head = shown.first().map(|block| list::string_member(block, "text").expect("a text").into_owned());
            assert_eq!(head.unwrap_or_default() + &rest, text, "{max}");
            assert!(shown.iter().map(String::len).sum::<usize>() <= max, "{max}");
        }
    }

    #[test]
    fn blocks_that_cannot_be_cut_are_shown_whole_or_not_at_all() {
        let image = r#"{"type":"image","data":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}"#.to_owned();
        let (shown, rest) = cut(vec![text_block("a"), image.clone(), text_block("b")], None, 60);
        assert_eq!(shown, [text_block("a")]);
        assert_eq!(rest, format!("{image}\nb"));
        let (shown, rest) = cut(Vec::new(), Some(r#"{"a":"bbbbbbbbbbbbbbbbbbbbbbbbb"}"#), 40);
        assert_eq!(shown, [text_block(r#"{"a":""#)].map(|_| shown[0].clone()));
        assert!(shown[0].len() <= 40 && rest.ends_with("b\"}"));
    }
}
