//! One-level reading of an object's raw text: members and elements as slices, without a tree.
//!
//! Where a key occurs twice the **last** one counts, as for nearly every JSON reader behind and before us. Objects nested
//! deeper than [`Limits::max_depth`]'s default are refused like malformed ones.

use std::borrow::Cow;

use crate::frame::{Limits, Span, decode_string, key_text};
use crate::scan::{ScanError, Scanner, Shape, Value};

/// Why a list cannot be read from a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The text is not JSON, is nested too deeply, or is longer than 4 GiB.
    #[error("the result is not valid JSON")]
    NotJson,
    /// The text is not an object.
    #[error("the result is not an object")]
    NotAnObject,
    /// There is no such member.
    #[error("the result has no list under the expected name")]
    Missing,
    /// The member is not an array.
    #[error("the result's list is not an array")]
    NotAnArray,
}

impl From<ScanError> for ListError {
    fn from(_: ScanError) -> Self {
        ListError::NotJson
    }
}

fn scanner(text: &str) -> Result<Scanner<'_>, ListError> {
    u32::try_from(text.len()).map_err(|_| ListError::NotJson)?;
    let mut scanner = Scanner::new(text.as_bytes(), Limits::default().max_depth);
    scanner.skip_space();
    Ok(scanner)
}

/// Calls `visit` with each member's decoded key and its value.
pub(crate) fn members<'a>(text: &'a str, mut visit: impl FnMut(Cow<'a, str>, Value)) -> Result<(), ListError> {
    let mut scanner = scanner(text)?;
    if scanner.peek() != Some(b'{') {
        scanner.value()?;
        return Err(ListError::NotAnObject);
    }
    scanner.open()?;
    let mut first = true;
    while let Some(key) = scanner.next_key(&mut first)? {
        let value = scanner.value()?;
        // A key that cannot be decoded equals no name.
        if let Some(key) = key_text(text.as_bytes(), key) {
            visit(key, value);
        }
    }
    Ok(scanner.finish()?)
}

fn member(text: &str, name: &str) -> Result<Option<Value>, ListError> {
    let mut found = None;
    members(text, |key, value| {
        if key == name {
            found = Some(value);
        }
    })?;
    Ok(found)
}

/// The raw text of each element of `result[member]`, in order.
///
/// # Errors
/// [`ListError`] when the text is not an object with an array of that name.
pub fn items<'a>(result_raw: &'a str, member: &str) -> Result<Vec<&'a str>, ListError> {
    let value = self::member(result_raw, member)?.ok_or(ListError::Missing)?;
    if value.shape != Shape::Array {
        return Err(ListError::NotAnArray);
    }
    let array = &result_raw[value.span.range()];
    let mut scanner = scanner(array)?;
    let (mut items, mut first) = (Vec::new(), true);
    scanner.open()?;
    while scanner.next_element(&mut first)? {
        items.push(&array[scanner.value()?.span.range()]);
    }
    Ok(items)
}

/// Every member of an object in order, as its decoded key and its raw text. Where a key occurs twice both are there.
///
/// # Errors
/// [`ListError`] when the text is not an object.
pub fn entries(object_raw: &str) -> Result<Vec<(Cow<'_, str>, &str)>, ListError> {
    let mut entries = Vec::new();
    members(object_raw, |key, value| entries.push((key, &object_raw[value.span.range()])))?;
    Ok(entries)
}

/// A member's decoded string; `None` when the text is not an object, has no such member, or the member is not a string.
#[must_use]
pub fn string_member<'a>(object_raw: &'a str, key: &str) -> Option<Cow<'a, str>> {
    decode_string(raw_member(object_raw, key)?)
}

/// A member's raw text; `None` when the text is not an object or has no such member.
#[must_use]
pub fn raw_member<'a>(object_raw: &'a str, key: &str) -> Option<&'a str> {
    member_span(object_raw, key).map(|span| &object_raw[span.range()])
}

/// Where a member's value is in `object_raw`; `None` when the text is not an object or has no such member.
#[must_use]
pub fn member_span(object_raw: &str, key: &str) -> Option<Span> {
    member(object_raw, key).ok().flatten().map(|value| value.span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_the_raw_elements() {
        let page = r#" {"a":[1],"tools" : [ {"name":"x","n":1.10} , "s,]" ,[ ] ,null],"nextCursor":""} "#;
        assert_eq!(items(page, "tools").unwrap(), [r#"{"name":"x","n":1.10}"#, r#""s,]""#, "[ ]", "null"]);
        for (text, expected) in [
            (r#"{"tools":[]}"#, Ok(vec![])),
            (r#"{"\u0074ools":[1]}"#, Ok(vec!["1"])),
            (r#"{"tools":[1],"tools":[2]}"#, Ok(vec!["2"])),
            (r#"{"tools":{}}"#, Err(ListError::NotAnArray)),
            (r#"{"tool":[]}"#, Err(ListError::Missing)),
            ("[]", Err(ListError::NotAnObject)),
            (r#"{"tools":[1,]}"#, Err(ListError::NotJson)),
            (r#"{"tools":[1]} x"#, Err(ListError::NotJson)),
            ("", Err(ListError::NotJson)),
        ] {
            assert_eq!(items(text, "tools"), expected, "{text}");
        }
    }

    #[test]
    fn members_are_found_one_level_deep() {
        let tool = r#"{ "inner":{"name":"no"}, "name" : "a\u00e4\"b", "n": 1E2, "x":null }"#;
        assert_eq!(string_member(tool, "name").unwrap(), "aä\"b");
        assert_eq!(raw_member(tool, "n"), Some("1E2"));
        assert_eq!(raw_member(tool, "x"), Some("null"));
        assert_eq!(raw_member(tool, "y"), None);
        assert_eq!(string_member(tool, "n"), None);
        let keys: Vec<_> = entries(tool).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["inner", "name", "n", "x"]);
        assert_eq!(entries(r#"{"\u0061":1E2,"a":[]}"#).unwrap(), [("a".into(), "1E2"), ("a".into(), "[]")]);
        assert_eq!(entries("[]"), Err(ListError::NotAnObject));
        let span = member_span(tool, "inner").unwrap();
        assert_eq!(&tool[span.range()], r#"{"name":"no"}"#);
        for bad in ["", "[]", "{", r#"{"name":"#, r#"{"name":"x"}}"#] {
            assert_eq!(raw_member(bad, "name"), None, "{bad}");
        }
        assert_eq!(raw_member(&"[".repeat(100_000), "name"), None);
    }
}
