//! inspect: the arguments of a call, where the operator has something to say of them. Arguments that are pinned are set,
//! and a call that gives one is refused rather than overwritten: who asks for another value must not be told about this
//! one as if it were that. Then arguments are checked against the tool's own schema, if that is wished.
//!
//! Nothing is read of a call whose tool has no such rule.

mod schema;

pub(crate) use schema::InputSchema;

use crate::{
    body::Body,
    call::Call,
    record,
    resolve::Target,
    response::{json, own_result, refuse_call, text_content},
    shaping::Treatment,
};
use fairlead_core::{Code, Refusal};
use fairlead_observe::CallStatus;
use fairlead_wire::{Field, Revision, list, message};
use http::{Response, StatusCode};
use std::fmt::Write;

/// One thing that is wrong with the arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where, as a JSON pointer into the arguments.
    path: String,
    /// What is wrong and what is allowed; without the value itself.
    message: String,
}

/// Sets what is pinned, and checks the rest.
pub(crate) fn check(call: &Call, target: &mut Target, treatment: &Treatment) -> Result<(), Vec<Fault>> {
    if treatment.pins.is_empty() && treatment.schema.is_none() {
        return Ok(());
    }
    let given = call.frame.raw(Field::Arguments).filter(|given| *given != "null");
    let effective = pinned(given, &treatment.pins)?;
    if !treatment.pins.is_empty() {
        match (call.frame.span(Field::Arguments), call.frame.span(Field::Params)) {
            (Some(span), _) => {
                for (name, value) in &treatment.pins {
                    target.edits.insert_first(span, name, value);
                }
            }
            (None, Some(params)) => target.edits.insert_first(params, "arguments", &effective),
            // A call without parameters names no tool.
            (None, None) => {}
        }
    }
    if let Some(schema) = &treatment.schema {
        schema.check(&effective)?;
    }
    if !treatment.pins.is_empty() {
        target.arguments = Some(effective.into());
    }
    Ok(())
}

/// The arguments with what is pinned.
fn pinned(given: Option<&str>, pins: &[(Box<str>, Box<str>)]) -> Result<String, Vec<Fault>> {
    let given = given.unwrap_or("{}");
    if pins.is_empty() {
        return Ok(given.to_owned());
    }
    let Ok(entries) = list::entries(given) else {
        return Err(vec![Fault { path: String::new(), message: "the arguments must be an object".to_owned() }]);
    };
    let is_pinned = |name: &str| pins.iter().any(|(pinned, _)| **pinned == *name);
    let refused: Vec<_> = entries
        .iter()
        .filter(|(name, _)| is_pinned(name))
        .map(|(name, _)| Fault { path: pointer(name), message: "is set by the gateway and cannot be given".to_owned() })
        .collect();
    if !refused.is_empty() {
        return Err(refused);
    }
    let mut text = String::from("{");
    for (name, value) in pins {
        let comma = if text.len() > 1 { "," } else { "" };
        _ = write!(text, "{comma}{}:{value}", message::quote(name));
    }
    let rest = given.trim_start().strip_prefix('{').unwrap_or("}");
    if !entries.is_empty() {
        text.push(',');
    }
    text.push_str(rest);
    Ok(text)
}

/// The JSON pointer to a member.
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Answers a call whose arguments are not valid. From 2025-11-25 on that is a result of the tool, which models see and
/// can mend; before, it is a protocol error (SEP-1303).
pub(crate) fn refuse(call: &Call, target: &Target, faults: &[Fault]) -> Response<Body> {
    let code = Code::InvalidInput;
    call.gateway.metrics().refused(code);
    record::call(call, target, CallStatus::Refused(code));
    let problems: Vec<_> = faults
        .iter()
        .map(|fault| {
            format!("{{\"path\":{},\"message\":{}}}", message::quote(&fault.path), message::quote(&fault.message))
        })
        .collect();
    let problems = format!("{{\"problems\":[{}]}}", problems.join(","));
    let mut text = String::from("Invalid arguments:");
    for fault in faults {
        let place = if fault.path.is_empty() { "arguments" } else { &fault.path };
        _ = write!(text, "\n- {place}: {}", fault.message);
    }
    let revision = call.session.as_ref().map_or(Revision::V2026_07_28, |session| session.revision);
    if revision < Revision::V2025_11_25 {
        let refusal = Refusal::new(code, text).with_data(problems);
        return refuse_call(call.era, Some(call.id()), &refusal);
    }
    let content = format!("{},\"isError\":true", text_content(&format!("{text}\n({})", code.label())));
    let result = own_result(call.era, &content, &[("fairlead/invalid", &problems)]);
    json(StatusCode::OK, message::result(call.id(), &result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_added_and_cannot_be_given() {
        let pins: [(Box<str>, Box<str>); 2] = [("tenant".into(), "\"a\"".into()), ("n".into(), "1".into())];
        for (given, expected) in [
            (None, r#"{"tenant":"a","n":1}"#),
            (Some("{ }"), r#"{"tenant":"a","n":1 }"#),
            (Some(r#" {"id":1.10}"#), r#"{"tenant":"a","n":1,"id":1.10}"#),
        ] {
            assert_eq!(pinned(given, &pins).as_deref(), Ok(expected), "{given:?}");
        }
        for (given, path) in [
            (r#"{"tenant":"b"}"#, "/tenant"),
            (r#"{"id":1,"\u0074enant":null}"#, "/tenant"),
            (r#"{"id":1,"n":2,"n":3}"#, "/n"),
            ("[]", ""),
            ("\"x\"", ""),
        ] {
            let faults = pinned(Some(given), &pins).expect_err(given);
            assert_eq!(faults[0].path, path, "{given}");
        }
        assert_eq!(pinned(Some("[1]"), &[]).as_deref(), Ok("[1]"));
    }
}
