//! A cursor over JSON text that finds where values are and keeps nothing.
//!
//! Why not a deserializer: what the gateway needs of a message is *where* a few members are, and everything else must stay
//! the bytes it came as. A deserializer gives values without positions for containers, so `params` would be read twice and
//! its depth checked a third time. This cursor validates the same grammar (RFC 8259) in one pass, counts depth exactly, uses
//! no recursion and allocates nothing. Its agreement with `serde_json` is a property test.
//!
//! It does not decode: escapes are checked for form, as `serde_json` does for text it skips, and decoded only by whoever asks.

use crate::frame::Span;

/// How deep any caller may allow values to nest; the size of the cursor's own stack, in bits.
pub(crate) const DEPTH_CEILING: usize = 1024;

const STACK_WORDS: usize = DEPTH_CEILING / 64;

/// Why the text was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanError {
    /// The text is not JSON at this byte.
    Syntax(usize),
    /// More open containers than allowed.
    TooDeep,
}

/// What a value turned out to be, from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Array,
    String,
    /// A number without fraction and exponent.
    Integer,
    Number,
    Bool,
    Null,
}

/// A skipped value: where it is and what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) span: Span,
    pub(crate) shape: Shape,
}

/// A member's key: the span includes the quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) span: Span,
    pub(crate) escaped: bool,
}

/// The cursor. Positions are `u32`: the caller has checked that the text is not longer.
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    max_depth: usize,
}

impl<'a> Scanner<'a> {
    /// A cursor at the start of `bytes`; `max_depth` is cut to [`DEPTH_CEILING`].
    pub(crate) fn new(bytes: &'a [u8], max_depth: usize) -> Self {
        debug_assert!(u32::try_from(bytes.len()).is_ok());
        Self { bytes, at: 0, depth: 0, max_depth: max_depth.min(DEPTH_CEILING) }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn syntax<T>(&self) -> Result<T, ScanError> {
        Err(ScanError::Syntax(self.at))
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(crate) fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Only white space may remain.
    pub(crate) fn finish(&mut self) -> Result<(), ScanError> {
        self.skip_space();
        if self.at == self.bytes.len() { Ok(()) } else { self.syntax() }
    }

    /// Enters a container whose opening byte is under the cursor.
    pub(crate) fn open(&mut self) -> Result<(), ScanError> {
        if self.depth >= self.max_depth {
            return Err(ScanError::TooDeep);
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// The next key of an open object with the cursor left at its value, or `None` with the object closed.
    #[inline]
    pub(crate) fn next_key(&mut self, first: &mut bool) -> Result<Option<Key>, ScanError> {
        self.skip_space();
        if self.peek() == Some(b'}') && *first {
            return Ok(self.close());
        }
        if !*first {
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return Ok(self.close()),
                _ => return self.syntax(),
            }
            self.skip_space();
        }
        *first = false;
        self.key().map(Some)
    }

    /// Whether an open array has another element, with the cursor left at it; `false` closes the array.
    pub(crate) fn next_element(&mut self, first: &mut bool) -> Result<bool, ScanError> {
        self.skip_space();
        if self.peek() == Some(b']') {
            self.close::<()>();
            return Ok(false);
        }
        if !*first {
            if self.peek() != Some(b',') {
                return self.syntax();
            }
            self.at += 1;
            self.skip_space();
            if self.peek() == Some(b']') {
                return self.syntax();
            }
        }
        *first = false;
        Ok(true)
    }

    fn close<T>(&mut self) -> Option<T> {
        self.at += 1;
        self.depth -= 1;
        None
    }

    /// A key, its colon and the white space before the value.
    fn key(&mut self) -> Result<Key, ScanError> {
        if self.peek() != Some(b'"') {
            return self.syntax();
        }
        let start = self.at;
        let escaped = self.string()?;
        let span = span(start, self.at);
        self.skip_space();
        if self.peek() != Some(b':') {
            return self.syntax();
        }
        self.at += 1;
        self.skip_space();
        Ok(Key { span, escaped })
    }

    /// Skips the value under the cursor.
    pub(crate) fn value(&mut self) -> Result<Value, ScanError> {
        let start = self.at;
        let shape = match self.peek() {
            Some(b'{') => {
                self.container()?;
                Shape::Object
            }
            Some(b'[') => {
                self.container()?;
                Shape::Array
            }
            _ => self.scalar()?,
        };
        Ok(Value { span: span(start, self.at), shape })
    }

    fn scalar(&mut self) -> Result<Shape, ScanError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| Shape::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true", Shape::Bool),
            Some(b'f') => self.literal(b"false", Shape::Bool),
            Some(b'n') => self.literal(b"null", Shape::Null),
            _ => self.syntax(),
        }
    }

    /// Skips a whole container without recursion: a bit per open container says whether it is an object.
    fn container(&mut self) -> Result<(), ScanError> {
        let mut stack = [0u64; STACK_WORDS];
        let base = self.depth;
        loop {
            // The cursor is at the first byte of a value.
            if let Some(open @ (b'{' | b'[')) = self.peek() {
                self.open()?;
                let level = self.depth - base - 1;
                let bit = 1u64 << (level % 64);
                if open == b'{' {
                    stack[level / 64] |= bit;
                } else {
                    stack[level / 64] &= !bit;
                }
                self.skip_space();
                let empty = if open == b'{' { b'}' } else { b']' };
                if self.peek() != Some(empty) {
                    if open == b'{' {
                        self.key()?;
                    }
                    continue;
                }
                self.at += 1;
                self.depth -= 1;
            } else {
                self.scalar()?;
            }
            // A value has ended: close what closes, then go to the next value.
            loop {
                if self.depth == base {
                    return Ok(());
                }
                let level = self.depth - base - 1;
                let object = stack[level / 64] & (1u64 << (level % 64)) != 0;
                self.skip_space();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.skip_space();
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ => return self.syntax(),
                }
                self.at += 1;
                self.depth -= 1;
            }
        }
    }

    fn literal(&mut self, text: &[u8], shape: Shape) -> Result<Shape, ScanError> {
        if self.bytes[self.at..].starts_with(text) {
            self.at += text.len();
            Ok(shape)
        } else {
            self.syntax()
        }
    }

    fn number(&mut self) -> Result<Shape, ScanError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return self.syntax(),
        }
        let mut shape = Shape::Integer;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            shape = Shape::Number;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
            shape = Shape::Number;
        }
        // What may follow a number is the business of whoever reads on: `01` is a `0` and then an error.
        Ok(shape)
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.syntax() } else { Ok(()) }
    }

    /// Skips a string and says whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, ScanError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain_length(&self.bytes[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            let hex = self.bytes.get(self.at + 1..self.at + 5);
                            if !hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
                                return self.syntax();
                            }
                            self.at += 5;
                        }
                        _ => return self.syntax(),
                    }
                }
                _ => return self.syntax(),
            }
        }
    }
}

/// Length of the leading run without quote, backslash and control characters. Names and short texts end within
/// a few words; in a long text the end is looked for first, and control characters before it in one go.
#[inline]
fn plain_length(bytes: &[u8]) -> usize {
    const SHORT: usize = 16;
    let short = plain_words(&bytes[..bytes.len().min(SHORT)]);
    if short < SHORT {
        return short;
    }
    let rest = &bytes[SHORT..];
    let run = memchr::memchr2(b'"', b'\\', rest).map_or(rest, |end| &rest[..end]);
    let least = run.iter().fold(u8::MAX, |least, byte| least.min(*byte));
    SHORT + if least < 0x20 { run.iter().take_while(|byte| **byte >= 0x20).count() } else { run.len() }
}

/// The same, eight bytes at a time.
#[inline]
fn plain_words(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, _) = bytes.as_chunks::<8>();
    let mut length = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let slash = word ^ (ONES * b'\\' as u64);
        // The lowest mark is exact; a borrow can only add marks above it.
        let marks = ((quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash)
            | (word.wrapping_sub(ONES * 0x20) & !word))
            & HIGHS;
        if marks != 0 {
            return length + marks.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    length + bytes[length..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count()
}

/// A span from positions that the length check has made fit.
pub(crate) fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn scan(text: &[u8], max_depth: usize) -> Result<Value, ScanError> {
        let mut scanner = Scanner::new(text, max_depth);
        scanner.skip_space();
        let value = scanner.value()?;
        scanner.finish()?;
        assert_eq!(scanner.depth, 0);
        Ok(value)
    }

    fn agree(text: &str) {
        let ours = scan(text.as_bytes(), DEPTH_CEILING);
        let theirs = serde_json::from_str::<IgnoredAny>(text);
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{text:?}: {ours:?}, {theirs:?}");
    }

    #[test]
    fn the_grammar_is_that_of_serde_json() {
        for text in [
            "",
            " ",
            "null",
            "nul",
            "nullx",
            "true",
            "false",
            "tru",
            "0",
            "-0",
            "-",
            "01",
            "00",
            "1.",
            ".5",
            "1.5",
            "-1.5e+7",
            "1e",
            "1e+",
            "1E-2",
            "1e5.5",
            "0x1",
            "+1",
            "NaN",
            "1 2",
            "1a",
            "\"\"",
            "\"",
            "\"a",
            "\"\\",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\ud800\"",
            "\"\\u00e4\"",
            "\"\u{1}\"",
            "\"\t\"",
            "\"1234567\u{1f}\"",
            "\"12345678\u{7f}ä€🦀\"",
            "[]",
            "[ ]",
            "[,]",
            "[1,]",
            "[1 2]",
            "[1,2]",
            "[",
            "]",
            "[}",
            "{]",
            "{}",
            "{ }",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1}",
            "{\"a\" : 1 , \"b\":[{}]}",
            "{a:1}",
            "{1:1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":{\"b\":[[],{}]}}",
            "{\"a\":1}}",
            "[[[]]",
            "\u{feff}1",
            "// c\n1",
            "[1]/",
            "'a'",
            "{\"a\"::1}",
        ] {
            agree(text);
        }
    }

    #[test]
    fn depth_is_counted_exactly() {
        for depth in [1, 2, 63, 64, 65, 128, 1024] {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                let text = open.repeat(depth) + "1" + &close.repeat(depth);
                assert!(scan(text.as_bytes(), depth).is_ok(), "{depth}");
                assert_eq!(scan(text.as_bytes(), depth - 1).unwrap_err(), ScanError::TooDeep);
            }
        }
        let text = "[".repeat(100_000);
        assert_eq!(scan(text.as_bytes(), usize::MAX).unwrap_err(), ScanError::TooDeep);
        // Wide is not deep.
        let text = "[".to_owned() + &"[],{},".repeat(10_000) + "0]";
        assert!(scan(text.as_bytes(), 2).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn soups_of_json_pieces_are_judged_as_serde_json_does(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "1", "-0.5e3", "null", "true", " ", "\n", "\"", "\\", "\\u0041", "ä",
            ]), 0..14),
        ) {
            agree(&pieces.concat());
        }

        #[test]
        fn a_changed_character_is_judged_as_serde_json_does(
            value in crate::scan::tests::json(), at in any::<prop::sample::Index>(), new in "[\\x00-\\x7f]|ä",
        ) {
            let text = value.to_string();
            agree(&text);
            let mut characters: Vec<char> = text.chars().collect();
            let at = at.index(characters.len());
            characters.splice(at..=at, new.chars());
            agree(&characters.into_iter().collect::<String>());
        }

        #[test]
        fn plain_runs_end_where_they_should(text in proptest::collection::vec(plain_mostly(), 0..150)) {
            let expected = text.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
            prop_assert_eq!(plain_length(&text), expected.unwrap_or(text.len()));
        }
    }

    fn plain_mostly() -> impl Strategy<Value = u8> {
        prop_oneof![60 => Just(b'a'), 60 => 0x80_u8.., 1 => any::<u8>()]
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::{Value, json};
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(".*", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
