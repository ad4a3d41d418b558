//! Selecting fields: what is kept is copied as it is written.

use fairlead_wire::{list, message};
use serde_json::value::RawValue;

/// Any member of an object, any element of a list.
const ANY: &str = "*";

/// The paths that are kept, as a tree.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Everything below is kept.
    whole: bool,
    below: Vec<(Box<str>, Selection)>,
}

impl Selection {
    pub(super) fn new(paths: &[Vec<String>]) -> Self {
        let mut root = Self::default();
        for path in paths {
            let mut node = &mut root;
            for segment in path {
                let at = match node.below.iter().position(|(name, _)| **name == **segment) {
                    Some(at) => at,
                    None => {
                        node.below.push((segment.as_str().into(), Self::default()));
                        node.below.len() - 1
                    }
                };
                node = &mut node.below[at].1;
            }
            node.whole = true;
        }
        root
    }

    /// What is kept of a text, when it is JSON with something in it to choose from.
    pub(super) fn of_text(&self, text: &str) -> Option<String> {
        let text = text.trim();
        if !text.starts_with(['{', '[']) || serde_json::from_str::<&RawValue>(text).is_err() {
            return None;
        }
        Some(self.of_json(text))
    }

    /// What is kept of a JSON value. Of an object or a list at least the braces are.
    pub(super) fn of_json(&self, raw: &str) -> String {
        let raw = raw.trim();
        let mut out = String::new();
        if !self.copy(raw, &mut out) {
            out.push_str(match raw.as_bytes().first() {
                Some(b'{') => "{}",
                Some(b'[') => "[]",
                _ => "null",
            });
        }
        out
    }

    /// Copies what is kept of `raw`; says whether that is anything.
    fn copy(&self, raw: &str, out: &mut String) -> bool {
        if self.whole {
            out.push_str(raw);
            return true;
        }
        match raw.as_bytes().first() {
            Some(b'{') => self.copy_object(raw, out),
            Some(b'[') => self.copy_list(raw, out),
            _ => false,
        }
    }

    fn copy_object(&self, raw: &str, out: &mut String) -> bool {
        let start = out.len();
        out.push('{');
        for (key, value) in list::entries(raw).unwrap_or_default() {
            let Some(below) = self.named(&key).or_else(|| self.named(ANY)) else { continue };
            let before = out.len();
            if before > start + 1 {
                out.push(',');
            }
            out.push_str(&message::quote(&key));
            out.push(':');
            if !below.copy(value, out) {
                out.truncate(before);
            }
        }
        Self::close(start, '}', out)
    }

    fn copy_list(&self, raw: &str, out: &mut String) -> bool {
        let start = out.len();
        out.push('[');
        for (at, value) in serde_json::from_str::<Vec<&RawValue>>(raw).unwrap_or_default().into_iter().enumerate() {
            let before = out.len();
            if before > start + 1 {
                out.push(',');
            }
            // A place in the list, any of its elements, or what is the same of them all.
            let below = self.named(&at.to_string()).or_else(|| self.named(ANY)).unwrap_or(self);
            if !below.copy(value.get(), out) {
                out.truncate(before);
            }
        }
        Self::close(start, ']', out)
    }

    fn close(start: usize, brace: char, out: &mut String) -> bool {
        let is_empty = out.len() == start + 1;
        if is_empty {
            out.truncate(start);
        } else {
            out.push(brace);
        }
        !is_empty
    }

    fn named(&self, name: &str) -> Option<&Self> {
        self.below.iter().find(|(key, _)| **key == *name).map(|(_, below)| below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_select() {
        let json = r#"{"a":{"b":1.10,"c":[{"d":1,"e":2},{"e":3},{"d":4}]},"x":[1,2],"\u0079":"z","n":null}"#;
        for (paths, expected) in [
            (&["a.b"][..], r#"{"a":{"b":1.10}}"#),
            (&["a.c.d"], r#"{"a":{"c":[{"d":1},{"d":4}]}}"#),
            (&["a.c.1"], r#"{"a":{"c":[{"e":3}]}}"#),
            (&["a.*.e", "n"], r#"{"a":{"c":[{"e":2},{"e":3}]},"n":null}"#),
            (&["x", "y"], r#"{"x":[1,2],"y":"z"}"#),
            (&["a.b.c"], "{}"),
            (&["none"], "{}"),
            (&["*"], r#"{"a":{"b":1.10,"c":[{"d":1,"e":2},{"e":3},{"d":4}]},"x":[1,2],"y":"z","n":null}"#),
            (&["a", "a.b"], r#"{"a":{"b":1.10,"c":[{"d":1,"e":2},{"e":3},{"d":4}]}}"#),
        ] {
            let paths: Vec<Vec<String>> =
                paths.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect();
            assert_eq!(Selection::new(&paths).of_json(json), expected, "{paths:?}");
        }
        let one = Selection::new(&[vec!["a".to_owned()]]);
        assert_eq!(one.of_json(r#" [{"a":1},{"b":2}] "#), r#"[{"a":1}]"#);
        assert_eq!(one.of_json("[1]"), "[]");
        assert_eq!(one.of_json("1"), "null");
        for text in ["plain", "{broken", "7", ""] {
            assert_eq!(one.of_text(text), None, "{text}");
        }
    }
}
