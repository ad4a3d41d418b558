//! Questions of 2026-07-28 in the words of revisions before 2025-11-25: forms have no mode and no titled choices of the
//! later kind, and a message for a model holds one piece of content. Everything else stays as it is written.
//!
//! A choice of several has no older form. It is passed on as it is: a client that does not know it says so, which the
//! server hears as a cancelled elicitation.

use fairlead_wire::{list, message};
use std::borrow::Cow;

/// The parameters of a form elicitation.
pub(super) fn form(params: &str) -> Cow<'_, str> {
    let params = match list::raw_member(params, "mode") {
        Some(_) => rebuilt(params, |key, value| (key != "mode").then_some(Cow::Borrowed(value))),
        None => Cow::Borrowed(params),
    };
    let titled = list::raw_member(&params, "requestedSchema")
        .and_then(|schema| Some((schema, list::raw_member(schema, "properties")?)))
        .filter(|(schema, _)| schema.contains("\"oneOf\""))
        .map(|(schema, properties)| {
            let properties = rebuilt(properties, |_, property| Some(choice(property)));
            with_member(schema, "properties", &properties)
        });
    match titled {
        Some(schema) => Cow::Owned(with_member(&params, "requestedSchema", &schema)),
        None => params,
    }
}

/// A choice of titled values as older revisions write it: `enum` and `enumNames`.
fn choice(property: &str) -> Cow<'_, str> {
    let Ok(options) = list::items(property, "oneOf") else { return Cow::Borrowed(property) };
    let consts: Option<Vec<_>> = options.iter().map(|option| list::raw_member(option, "const")).collect();
    let Some(consts) = consts else { return Cow::Borrowed(property) };
    let titles: Vec<_> =
        options.iter().zip(&consts).map(|(option, value)| list::raw_member(option, "title").unwrap_or(value)).collect();
    let named = format!("[{}],\"enumNames\":[{}]", consts.join(","), titles.join(","));
    let members = list::entries(property).unwrap_or_default();
    let members: Vec<_> = members
        .iter()
        .map(|(key, value)| match &**key {
            "oneOf" => format!("\"enum\":{named}"),
            key => format!("{}:{value}", message::quote(key)),
        })
        .collect();
    Cow::Owned(format!("{{{}}}", members.join(",")))
}

/// The parameters of a sampling request: a message with several pieces of content becomes as many messages.
pub(super) fn sampling(params: &str) -> Cow<'_, str> {
    let Ok(messages) = list::items(params, "messages") else { return Cow::Borrowed(params) };
    let pieces = |message: &str| {
        let is_many = list::raw_member(message, "content").is_some_and(|content| content.starts_with('['));
        if is_many { list::items(message, "content").ok().map(|pieces| pieces.len()) } else { None }
    };
    if messages.iter().all(|message| pieces(message).is_none()) {
        return Cow::Borrowed(params);
    }
    let mut split = Vec::with_capacity(messages.len());
    for message in messages {
        match pieces(message) {
            Some(1..) => {
                let pieces = list::items(message, "content").unwrap_or_default();
                split.extend(pieces.into_iter().map(|piece| with_member(message, "content", piece)));
            }
            Some(0) => split.push(with_member(message, "content", r#"{"type":"text","text":""}"#)),
            None => split.push(message.to_owned()),
        }
    }
    Cow::Owned(with_member(params, "messages", &format!("[{}]", split.join(","))))
}

/// The object with another value in one of its members.
fn with_member(object: &str, key: &str, raw: &str) -> String {
    match list::member_span(object, key) {
        Some(span) => [&object[..span.start as usize], raw, &object[span.end as usize..]].concat(),
        None => object.to_owned(),
    }
}

/// The object with each member as `change` gives it; `None` takes it out.
fn rebuilt<'a>(object: &'a str, change: impl Fn(&str, &'a str) -> Option<Cow<'a, str>>) -> Cow<'a, str> {
    let Ok(entries) = list::entries(object) else { return Cow::Borrowed(object) };
    let kept: Vec<_> = entries
        .iter()
        .filter_map(|(key, value)| Some(format!("{}:{}", message::quote(key), change(key, value)?)))
        .collect();
    Cow::Owned(format!("{{{}}}", kept.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_loses_its_mode_and_nothing_else() {
        for (params, older) in [
            (r#"{"mode":"form","message":"a"}"#, r#"{"message":"a"}"#),
            (
                r#"{"message":"a","x":1.10, "m\u006fde" : "form","y":[ 1E2 ]}"#,
                r#"{"message":"a","x":1.10,"y":[ 1E2 ]}"#,
            ),
            (r#"{"mode":"form"}"#, "{}"),
            (r#"{ "message" : "a" }"#, r#"{ "message" : "a" }"#),
            (r#"{"requestedSchema":{"properties":{"a":{"type":"string"}}, "x":1}}"#, ""),
            (r#"{"requestedSchema":{"properties":{"a":{"oneOf":[{"x":1}]}}}}"#, ""),
            (
                r#"{"z":1.10,"requestedSchema":{ "type":"object","properties":{"b":{"type":"integer","minimum":1E2},"a":{"type":"string","oneOf":[{"const":"f00","title":"Red"},{"const":"0f0"}],"x":null}},"required":["a"]}}"#,
                r#"{"z":1.10,"requestedSchema":{ "type":"object","properties":{"b":{"type":"integer","minimum":1E2},"a":{"type":"string","enum":["f00","0f0"],"enumNames":["Red","0f0"],"x":null}},"required":["a"]}}"#,
            ),
        ] {
            assert_eq!(form(params), if older.is_empty() { params } else { older });
        }
    }

    #[test]
    fn messages_hold_one_piece_of_content_each() {
        let text = |text: &str| format!(r#"{{"type":"text","text":"{text}","n":1.10}}"#);
        let (a, b) = (text("a"), text("b"));
        for (messages, older) in [
            (format!(r#"[{{"role":"user","content":{a}}}]"#), None),
            ("[]".to_owned(), None),
            (
                format!(r#"[{{"role":"user","content":[{a}, {b}],"x":1}},{{"role":"assistant","content":{a}}}]"#),
                Some(format!(
                    r#"[{{"role":"user","content":{a},"x":1}},{{"role":"user","content":{b},"x":1}},{{"role":"assistant","content":{a}}}]"#
                )),
            ),
            (
                r#"[{"role":"user","content":[]}]"#.to_owned(),
                Some(r#"[{"role":"user","content":{"type":"text","text":""}}]"#.to_owned()),
            ),
        ] {
            let params = |messages: &str| format!(r#"{{"maxTokens":1E2,"messages":{messages}, "y":0}}"#);
            assert_eq!(sampling(&params(&messages)), params(&older.unwrap_or_else(|| messages.clone())));
        }
        assert_eq!(sampling(r#"{"messages":5}"#), r#"{"messages":5}"#);
    }
}
