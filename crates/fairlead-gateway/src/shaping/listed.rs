//! A listed tool in the operator's words: what is said differently is spliced in, every other byte stays as the server
//! sent it.

use bytes::Bytes;
use fairlead_config::ToolShape;
use fairlead_wire::{Span, edit::Edits, list, message};

/// The tool as it is shown.
pub(crate) fn edited(tool: &Bytes, shape: &ToolShape) -> Bytes {
    let Ok(text) = std::str::from_utf8(tool) else { return tool.clone() };
    let whole = Span { start: 0, end: u32::try_from(text.len()).unwrap_or(u32::MAX) };
    let mut edits = Edits::new();
    for (key, value) in [("title", &shape.title), ("description", &shape.description)] {
        if let Some(value) = value {
            put(text, whole, key, &message::quote(value), &mut edits);
        }
    }
    if !shape.annotations.is_empty() {
        annotate(text, whole, shape, &mut edits);
    }
    if !shape.pin.is_empty()
        && let Some(schema) = list::member_span(text, "inputSchema")
    {
        take_pinned_out(text, schema, shape, &mut edits);
    }
    if !shape.response.is_empty()
        && let Some(span) = list::member_span(text, "outputSchema")
    {
        // What is filtered need not fit it any more, and clients refuse what does not.
        edits.remove_at(text.as_bytes(), span);
    }
    edits.apply(tool)
}

/// Sets a member of the object at `object`.
fn put(text: &str, object: Span, key: &str, value: &str, edits: &mut Edits) {
    match within(text, object, key) {
        Some(span) => edits.replace(span, value.to_owned()),
        None => edits.insert_first(object, key, value),
    }
}

/// Where a member of the object at `object` is.
fn within(text: &str, object: Span, key: &str) -> Option<Span> {
    let span = list::member_span(&text[object.range()], key)?;
    Some(Span { start: object.start + span.start, end: object.start + span.end })
}

fn annotate(text: &str, whole: Span, shape: &ToolShape, edits: &mut Edits) {
    let known = within(text, whole, "annotations").filter(|span| text[span.range()].starts_with('{'));
    match known {
        Some(annotations) => {
            for (key, value) in &shape.annotations {
                put(text, annotations, key, value, edits);
            }
        }
        None => {
            let members: Vec<_> = shape.annotations.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            put(text, whole, "annotations", &format!("{{{}}}", members.join(",")), edits);
        }
    }
}

/// Pinned arguments are none of the client's.
fn take_pinned_out(text: &str, schema: Span, shape: &ToolShape, edits: &mut Edits) {
    if let Some(properties) = within(text, schema, "properties") {
        let inner = &text[properties.range()];
        for (name, value) in list::entries(inner).unwrap_or_default() {
            if shape.pin.contains_key(&*name) {
                let start = properties.start + offset(inner, value);
                let end = start + u32::try_from(value.len()).unwrap_or(0);
                edits.remove_at(text.as_bytes(), Span { start, end });
            }
        }
    }
    let inner = &text[schema.range()];
    let (Some(required), Ok(names)) = (within(text, schema, "required"), list::items(inner, "required")) else {
        return;
    };
    let is_pinned =
        |name: &str| serde_json::from_str::<String>(name).is_ok_and(|name| shape.pin.contains_key(name.as_str()));
    let kept: Vec<_> = names.iter().copied().filter(|name| !is_pinned(name)).collect();
    if kept.is_empty() {
        edits.remove_at(text.as_bytes(), required);
    } else if kept.len() < names.len() {
        edits.replace(required, format!("[{}]", kept.join(",")));
    }
}

/// Where `part`, which is cut out of `text`, begins in it.
fn offset(text: &str, part: &str) -> u32 {
    u32::try_from(part.as_ptr() as usize - text.as_ptr() as usize).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::Response;

    const TOOL: &str = r#"{ "name":"get", "description" : "Gets \u00e4.","x": 1.10,"inputSchema":{"type":"object","properties":{ "tenant" : {"type":"string"}, "id":{"type":"integer"} },"required":["id", "tenant"]},"outputSchema":{"type":"object"},"annotations":{"readOnlyHint":false,"own":1} }"#;

    fn shape(change: impl FnOnce(&mut ToolShape)) -> ToolShape {
        let mut shape = ToolShape::default();
        change(&mut shape);
        shape
    }

    #[test]
    fn only_what_is_said_differently_changes() {
        let pins = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        for (shape, from, to) in [
            (shape(|_| ()), "", ""),
            (
                shape(|shape| shape.description = Some("New \"words\"".to_owned())),
                r#""Gets \u00e4.""#,
                r#""New \"words\"""#,
            ),
            (shape(|shape| shape.title = Some("T".to_owned())), r#"{ "name""#, r#"{"title":"T", "name""#),
            (
                shape(|shape| {
                    shape.annotations.insert("readOnlyHint", "true".to_owned());
                }),
                r#""readOnlyHint":false"#,
                r#""readOnlyHint":true"#,
            ),
            (
                shape(|shape| {
                    shape.annotations.insert("idempotentHint", "true".to_owned());
                }),
                r#"{"readOnlyHint""#,
                r#"{"idempotentHint":true,"readOnlyHint""#,
            ),
            (
                shape(|shape| shape.response = Response { max_bytes: Some(1), ..Response::default() }),
                r#""outputSchema":{"type":"object"},"#,
                "",
            ),
        ] {
            let before = Bytes::from_static(TOOL.as_bytes());
            assert_eq!(edited(&before, &shape), TOOL.replacen(from, to, 1), "{shape:?}");
        }
        for (names, properties, required) in [
            (&["tenant"][..], r#"{  "id":{"type":"integer"} }"#, r#","required":["id"]"#),
            (&["tenant", "id"], "{  }", ""),
            (
                &["other"],
                r#"{ "tenant" : {"type":"string"}, "id":{"type":"integer"} }"#,
                r#","required":["id", "tenant"]"#,
            ),
        ] {
            let shown = edited(&Bytes::from_static(TOOL.as_bytes()), &shape(|shape| shape.pin = pins(names)));
            let expected = format!(r#""inputSchema":{{"type":"object","properties":{properties}{required}}},"output"#);
            assert!(shown.windows(expected.len()).any(|part| part == expected.as_bytes()), "{names:?}: {shown:?}");
        }
    }

    #[test]
    fn annotations_are_added_where_there_are_none() {
        let tool = Bytes::from_static(br#"{"name":"a","annotations":null}"#);
        let shape = shape(|shape| {
            shape.annotations.insert("title", "\"T\"".to_owned());
        });
        assert_eq!(edited(&tool, &shape), r#"{"name":"a","annotations":{"title":"T"}}"#);
        assert_eq!(edited(&Bytes::from_static(b"{}"), &shape), r#"{"annotations":{"title":"T"}}"#);
    }
}
