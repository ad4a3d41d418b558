//! What a client's revision has no words for, in words it has. Nothing is dropped: a content type
//! that came later becomes text, a structured value that older schemas do not allow is wrapped.

use bytes::Bytes;
use fairlead_wire::{Era, Field, Frame, Kind, Limits, Method, Revision, Span, edit::Edits, list, message};
use std::{borrow::Cow, ops::Range};

/// "URL elicitation required", which only 2025-11-25 has.
const URL_ELICITATION_REQUIRED: i64 = -32042;
/// What earlier revisions get in its place.
const INTERNAL_ERROR: i64 = -32603;
/// The member under which a structured value that is no object travels to a client that expects one.
const WRAPPED: &str = "result";

/// Whether an answer may hold something the client's revision does not know. Says no at a glance for
/// the usual case, a client of the newest two legacy revisions before a legacy server.
pub(crate) fn may_need(client: Revision, link: Era, frame: &Frame) -> bool {
    link == Era::Modern
        || client < Revision::V2025_06_18
        || (client < Revision::V2025_11_25 && frame.error_code() == Some(URL_ELICITATION_REQUIRED))
}

/// The answer to a request of `method` as a legacy client of revision `client` understands it; it came
/// from a server spoken to in the era `link`.
pub(crate) fn answer(client: Revision, link: Era, method: Method, bytes: Bytes) -> Bytes {
    if !is_affected(client, link, &bytes) {
        return bytes;
    }
    let Ok(frame) = Frame::parse(bytes.clone(), &Limits::default()) else { return bytes };
    let mut edits = Edits::new();
    match frame.kind() {
        Kind::Error if client < Revision::V2025_11_25 && frame.error_code() == Some(URL_ELICITATION_REQUIRED) => {
            if let Some(span) = frame.span(Field::ErrorCode) {
                edits.replace(span, INTERNAL_ERROR.to_string());
            }
        }
        Kind::Result if matches!(method, Method::ToolsCall | Method::PromptsGet) => {
            let (Some(span), Some(result)) = (frame.span(Field::Result), frame.raw(Field::Result)) else {
                return bytes;
            };
            if link == Era::Modern {
                wrap_structured(span.start, result, &mut edits);
            }
            if client < Revision::V2025_06_18 {
                rewrite_contents(client, span.start, result, &mut edits);
            }
        }
        _ => {}
    }
    if edits.is_empty() { bytes } else { edits.apply(&bytes) }
}

/// A quick look for the words that matter, before anything is read.
fn is_affected(client: Revision, link: Era, bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let later: &[&str] = match client {
        Revision::V2024_11_05 => &["\"resource_link\"", "\"audio\"", "-32042"],
        Revision::V2025_03_26 => &["\"resource_link\"", "-32042"],
        Revision::V2025_06_18 => &["-32042"],
        _ => &[],
    };
    (link == Era::Modern && text.contains("\"structuredContent\"")) || later.iter().any(|word| text.contains(word))
}

/// Before 2026-07-28 `structuredContent` is an object.
fn wrap_structured(at: u32, result: &str, edits: &mut Edits) {
    let Some(span) = list::member_span(result, "structuredContent") else { return };
    let value = &result[span.range()];
    if !value.starts_with('{') {
        edits.replace(shifted(span, at), format!("{{\"{WRAPPED}\":{value}}}"));
    }
}

fn shifted(span: Span, at: u32) -> Span {
    Span { start: at + span.start, end: at + span.end }
}

/// Content blocks of a tool's result, or of a prompt's messages.
fn rewrite_contents(client: Revision, at: u32, result: &str, edits: &mut Edits) {
    let mut block = |item: &str, offset: u32| {
        if let Some(text) = in_older_words(client, item) {
            let end = offset + u32::try_from(item.len()).unwrap_or(u32::MAX);
            edits.replace(
                Span { start: offset, end },
                format!("{{\"type\":\"text\",\"text\":{}}}", message::quote(&text)),
            );
        }
    };
    for (item, range) in elements(result, "content") {
        block(item, at + offset(&range));
    }
    for (prompt_message, range) in elements(result, "messages") {
        if let Some(span) = list::member_span(prompt_message, "content") {
            block(&prompt_message[span.range()], at + offset(&range) + span.start);
        }
    }
}

fn offset(range: &Range<usize>) -> u32 {
    u32::try_from(range.start).unwrap_or(u32::MAX)
}

/// The elements of an array member, with their places.
fn elements<'a>(text: &'a str, member: &str) -> impl Iterator<Item = (&'a str, Range<usize>)> {
    let start = text.as_ptr() as usize;
    list::items(text, member).unwrap_or_default().into_iter().map(move |item| {
        let from = item.as_ptr() as usize - start;
        (item, from..from + item.len())
    })
}

/// A block of a type the revision does not have, as text.
fn in_older_words(client: Revision, block: &str) -> Option<String> {
    let text = |key| list::string_member(block, key);
    match &*text("type")? {
        "resource_link" if client < Revision::V2025_06_18 => {
            let uri = text("uri")?;
            let name = text("title").or_else(|| text("name")).unwrap_or(Cow::Borrowed("resource"));
            let about = text("description").map(|about| format!(": {about}")).unwrap_or_default();
            Some(format!("{name} <{uri}>{about}"))
        }
        "audio" if client < Revision::V2025_03_26 => {
            let kind = text("mimeType").unwrap_or(Cow::Borrowed("audio"));
            let size = text("data").map_or(0, |data| data.len() / 4 * 3);
            Some(format!("[{kind}, about {size} bytes, which this revision of the protocol cannot carry]"))
        }
        _ => None,
    }
}

/// A tool of a modern server as legacy clients see it: what its output schema promises is the wrapped
/// value. A schema that refers into itself is only said to be an object, because its references would
/// lead elsewhere once it is wrapped.
pub(crate) fn tool(raw: &Bytes) -> Option<Bytes> {
    let text = std::str::from_utf8(raw).ok()?;
    let span = list::member_span(text, "outputSchema")?;
    let schema = &text[span.range()];
    if list::string_member(schema, "type").is_some_and(|kind| kind == "object") {
        return None;
    }
    let refers = schema.contains("\"$ref\"") || schema.contains("\"$dynamicRef\"");
    let wrapped = if refers || !schema.starts_with('{') {
        "{\"type\":\"object\"}".to_owned()
    } else {
        format!("{{\"type\":\"object\",\"properties\":{{\"{WRAPPED}\":{schema}}},\"required\":[\"{WRAPPED}\"]}}")
    };
    let mut edits = Edits::new();
    edits.replace(span, wrapped);
    Some(edits.apply(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(client: Revision, result: &str) -> String {
        let bytes = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#));
        let answer = answer(client, Era::Modern, Method::ToolsCall, bytes);
        let text = String::from_utf8(answer.to_vec()).unwrap();
        text.strip_prefix(r#"{"jsonrpc":"2.0","id":1,"result":"#).unwrap().strip_suffix('}').unwrap().to_owned()
    }

    #[test]
    fn later_content_is_told_in_older_words_and_nothing_else_changes() {
        let link = r#"{"type":"resource_link","uri":"a:b","name":"n","description":"d","x":1}"#;
        let audio = r#"{"type":"audio","mimeType":"audio/wav","data":"AAAAAAAA"}"#;
        let text = r#"{"type":"text","text":"resource_link","v":1.10}"#;
        let all = format!(r#"{{"content":[{text}, {link},{audio}],"zz":1E2}}"#);
        let linked = r#"{"type":"text","text":"n <a:b>: d"}"#;
        let heard =
            r#"{"type":"text","text":"[audio/wav, about 6 bytes, which this revision of the protocol cannot carry]"}"#;
        for (client, expected) in [
            (Revision::V2025_11_25, all.clone()),
            (Revision::V2025_06_18, all.clone()),
            (Revision::V2025_03_26, format!(r#"{{"content":[{text}, {linked},{audio}],"zz":1E2}}"#)),
            (Revision::V2024_11_05, format!(r#"{{"content":[{text}, {linked},{heard}],"zz":1E2}}"#)),
        ] {
            assert_eq!(told(client, &all), expected, "{client}");
        }
        let prompt = format!(r#"{{"messages":[{{"role":"user","content":{link}}}]}}"#);
        assert_eq!(
            told(Revision::V2025_03_26, &prompt),
            format!(r#"{{"messages":[{{"role":"user","content":{linked}}}]}}"#)
        );
    }

    #[test]
    fn a_structured_value_that_is_no_object_is_wrapped() {
        for (given, expected) in [
            (r#"{"structuredContent":[1,2]}"#, r#"{"structuredContent":{"result":[1,2]}}"#),
            (r#"{"structuredContent":1.10}"#, r#"{"structuredContent":{"result":1.10}}"#),
            (r#"{"structuredContent":{"a":1}}"#, r#"{"structuredContent":{"a":1}}"#),
        ] {
            assert_eq!(told(Revision::V2025_11_25, given), expected);
        }
    }

    #[test]
    fn an_output_schema_promises_what_is_sent() {
        for (schema, expected) in [
            (r#"{"type":"object","properties":{}}"#, None),
            (
                r#"{"type":"array","items":{}}"#,
                Some(r#"{"type":"object","properties":{"result":{"type":"array","items":{}}},"required":["result"]}"#),
            ),
            (r##"{"$ref":"#/$defs/a","$defs":{"a":{}}}"##, Some(r#"{"type":"object"}"#)),
            ("true", Some(r#"{"type":"object"}"#)),
        ] {
            let raw = Bytes::from(format!(r#"{{"name":"t","outputSchema":{schema}}}"#));
            let told = tool(&raw).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            let expected = expected.map(|schema| format!(r#"{{"name":"t","outputSchema":{schema}}}"#));
            assert_eq!(told, expected, "{schema}");
        }
    }

    #[test]
    fn an_error_that_came_later_is_told_as_an_older_one() {
        let bytes = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"m"}}"#);
        for (client, code) in [(Revision::V2025_11_25, "-32042"), (Revision::V2025_06_18, "-32603")] {
            let told = answer(client, Era::Legacy, Method::ToolsCall, bytes.clone());
            assert!(std::str::from_utf8(&told).unwrap().contains(code), "{client}");
        }
    }
}
