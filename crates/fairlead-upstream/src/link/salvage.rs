//! Whose answer a line was that is not a usable message: so that its caller learns of it at once
//! instead of waiting for what will not come.

/// The number in the `id` member of the object that `text` begins with. `text` may be cut off, and
/// after the id it may be anything. An id inside a member is none.
pub(super) fn id_of(text: &[u8]) -> Option<u64> {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                let start = at + 1;
                at = end_of_string(text, start)?;
                if depth == 1 && &text[start..at] == b"id" {
                    let value = after_spaces(text, at + 1);
                    if text.get(value) == Some(&b':') {
                        return number(&text[after_spaces(text, value + 1)..]);
                    }
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return None;
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The position of the quote that ends the string which begins at `at`.
fn end_of_string(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn after_spaces(text: &[u8], at: usize) -> usize {
    let spaces = text.get(at..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    (at + spaces).min(text.len())
}

/// The digits `text` begins with, when something follows that ends a number.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let ends = text.get(digits).is_some_and(|byte| byte.is_ascii_whitespace() || matches!(byte, b',' | b'}'));
    if !ends {
        return None;
    }
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_message_is_found_and_no_other() {
        for (text, id) in [
            (r#"{"jsonrpc":"2.0","id":101,"result":{"content":"#, Some(101)),
            (r#"{ "id" : 7 , "error": nonsense"#, Some(7)),
            (r#"{"result":{"id":5,"a":[{"id":6}]},"id":8}"#, Some(8)),
            (r#"{"result":{"id":5,"text":"cut o"#, None),
            (r#"{"text":"\"id\":9","id":10,"#, Some(10)),
            (r#"{"method":"id","id":11}"#, Some(11)),
            (r#"{"id":"12"}"#, None),
            (r#"{"id":12"#, None),
            (r#"{"id":1.5}"#, None),
            (r#"{"id":99999999999999999999}"#, None),
            (r#"{} {"id":3}"#, None),
            (r#"[{"id":4}]"#, None),
            ("]", None),
            (r#"{"id"#, None),
            (r#"{"id":"#, None),
            (r#"{"a\"#, None),
            ("", None),
        ] {
            assert_eq!(id_of(text.as_bytes()), id, "{text}");
        }
    }
}
