//! What becomes of a tool's answer by the operator's rules: fields are selected, texts are redacted, and what is too long
//! is cut, in this order. Only the final result is touched; what a server says before it passes as it is. An answer
//! without such a rule is never read.
//!
//! Members that no rule concerns keep their bytes.

mod cut;
mod redact;
mod select;

use crate::{call::Call, results};
use bytes::Bytes;
use fairlead_config::Response;
use fairlead_upstream::Final;
use fairlead_wire::{Field, Frame, Kind, Limits, edit::Edits, list, message};
use redact::{Patterns, Redact};
use select::Selection;
use std::{borrow::Cow, fmt};

/// The compiled rules for the answers of a tool.
pub(crate) struct ResponseFilter {
    select: Option<Selection>,
    /// What takes things out of texts, one after the other.
    redactors: Vec<Box<dyn Redact>>,
    max_bytes: Option<usize>,
}

impl fmt::Debug for ResponseFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFilter").field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

/// What is left of a result.
struct Filtered {
    content: Vec<String>,
    structured: Option<String>,
    /// What was cut off.
    rest: Option<String>,
}

impl ResponseFilter {
    pub(crate) fn new(response: &Response) -> Self {
        let redactors: Vec<Box<dyn Redact>> = match Patterns::new(&response.redact) {
            Some(patterns) => vec![Box::new(patterns)],
            None => Vec::new(),
        };
        Self {
            select: (!response.select.is_empty()).then(|| Selection::new(&response.select)),
            redactors,
            max_bytes: response.max_bytes,
        }
    }

    fn redacted<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for redactor in &self.redactors {
            if let Cow::Owned(redacted) = redactor.redact(&text) {
                text = Cow::Owned(redacted);
            }
        }
        text
    }

    /// JSON text with every string in it redacted.
    fn redacted_json(&self, raw: &str) -> String {
        if self.redactors.is_empty() { raw.to_owned() } else { redact::strings(raw, |text| self.redacted(text)) }
    }

    /// A content block.
    fn block(&self, block: &str) -> String {
        let kind = list::string_member(block, "type");
        if kind.as_deref() != Some("text") {
            // Pictures and sounds are no texts; other blocks carry names, links and embedded texts.
            let is_binary = matches!(kind.as_deref(), Some("image" | "audio"));
            return if is_binary { block.to_owned() } else { self.redacted_json(block) };
        }
        let (Some(span), Some(text)) = (list::member_span(block, "text"), list::string_member(block, "text")) else {
            return block.to_owned();
        };
        let selected = self.select.as_ref().and_then(|select| select.of_text(&text));
        let before = selected.as_deref().unwrap_or(&text);
        let redacted = self.redacted(before);
        if selected.is_none() && matches!(redacted, Cow::Borrowed(_)) {
            return block.to_owned();
        }
        format!("{}{}{}", &block[..span.start as usize], message::quote(&redacted), &block[span.end as usize..])
    }

    fn filter(&self, result: &str) -> Filtered {
        let content = list::items(result, "content").unwrap_or_default();
        let content: Vec<_> = content.into_iter().map(|block| self.block(block)).collect();
        let structured = list::raw_member(result, "structuredContent").map(|raw| {
            let selected = self.select.as_ref().map(|select| select.of_json(raw));
            self.redacted_json(selected.as_deref().unwrap_or(raw))
        });
        let size = content.iter().map(String::len).sum::<usize>() + structured.as_ref().map_or(0, String::len);
        match self.max_bytes.filter(|max| size > *max) {
            None => Filtered { content, structured, rest: None },
            Some(max) => {
                let (content, rest) = cut::cut(content, structured.as_deref(), max);
                Filtered { content, structured: None, rest: Some(rest) }
            }
        }
    }

    /// An error, redacted.
    fn error(&self, frame: &Frame) -> Option<Bytes> {
        if self.redactors.is_empty() {
            return None;
        }
        let mut edits = Edits::new();
        edits.replace(frame.span(Field::Error)?, self.redacted_json(frame.raw(Field::Error)?));
        Some(edits.apply(frame.bytes()))
    }
}

/// The answer as the rules leave it; `None` where they leave all of it.
pub(crate) fn apply(call: &Call, filter: &ResponseFilter, answer: &Final) -> Option<Final> {
    let frame = &answer.frame;
    let bytes = match frame.kind() {
        Kind::Error => filter.error(frame)?,
        // A question or a task is not the result yet.
        Kind::Result if frame.str(Field::ResultType).is_none_or(|kind| kind == "complete") => {
            result(call, filter, frame)?
        }
        _ => return None,
    };
    match Frame::parse(bytes, &Limits::default()) {
        Ok(frame) => Some(Final { frame, status: answer.status }),
        Err(error) => {
            // What cannot be read any more must not get out unfiltered.
            tracing::error!(%error, "a filtered answer is no message");
            let id = frame.id().unwrap_or("null");
            let text = message::error(Some(id), -32603, "the answer could not be filtered", None);
            let frame = Frame::parse(text, &Limits::default()).ok()?;
            Some(Final { frame, status: answer.status })
        }
    }
}

fn result(call: &Call, filter: &ResponseFilter, frame: &Frame) -> Option<Bytes> {
    let (span, raw) = (frame.span(Field::Result)?, frame.raw(Field::Result)?);
    let mut filtered = filter.filter(raw);
    let rest = filtered.rest.take().map(|rest| results::keep(call, rest, filter.max_bytes.unwrap_or(usize::MAX)));
    if let Some(rest) = &rest {
        filtered.content.push(rest.note());
        filtered.content.extend(rest.link());
    }
    let uri = rest.as_ref().and_then(results::Rest::uri).map(message::quote);
    let content = format!("[{}]", filtered.content.join(","));
    let entries = list::entries(raw).ok()?;
    let has = |wanted: &str| entries.iter().any(|(key, _)| key == wanted);
    let mut members = Vec::with_capacity(entries.len() + 2);
    for (key, value) in &entries {
        let value = match (&**key, &uri) {
            ("content", _) => Cow::Borrowed(content.as_str()),
            ("structuredContent", _) => match &filtered.structured {
                Some(structured) => Cow::Borrowed(structured.as_str()),
                None => continue,
            },
            ("_meta", Some(uri)) => with_member(value, "fairlead/rest", uri),
            _ => Cow::Borrowed(*value),
        };
        members.push(format!("{}:{value}", message::quote(key)));
    }
    if rest.is_some() && !has("content") {
        members.push(format!("\"content\":{content}"));
    }
    if let Some(uri) = &uri
        && !has("_meta")
    {
        members.push(format!("\"_meta\":{{\"fairlead/rest\":{uri}}}"));
    }
    let mut edits = Edits::new();
    edits.replace(span, format!("{{{}}}", members.join(",")));
    Some(edits.apply(frame.bytes()))
}

/// The object with one member more.
fn with_member<'a>(object: &'a str, key: &str, value: &str) -> Cow<'a, str> {
    let Some(inside) = object.strip_prefix('{') else { return Cow::Borrowed(object) };
    let comma = if inside.trim_start().starts_with('}') { "" } else { "," };
    Cow::Owned(format!("{{{}:{value}{comma}{inside}", message::quote(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(select: &[&[&str]], redact: &[&str], max_bytes: Option<usize>) -> ResponseFilter {
        ResponseFilter::new(&Response {
            select: select.iter().map(|path| path.iter().map(|part| (*part).to_owned()).collect()).collect(),
            max_bytes,
            redact: redact.iter().map(|pattern| ((*pattern).to_owned(), "[x]".to_owned())).collect(),
        })
    }

    #[test]
    fn fields_are_selected_in_structure_and_in_text_that_is_json() {
        let filter = filter(&[&["items", "id"]], &[], None);
        let result = r#"{"content":[{"type":"text","text":"{\"items\":[{\"id\":1.10,\"x\":2}],\"n\":1}","a":1},{"type":"text","text":"plain"},{"type":"image","data":"aa"}],"structuredContent":{"items":[{"id":1.10,"x":2}],"n":1}}"#;
        let filtered = filter.filter(result);
        assert_eq!(
            filtered.content,
            [
                r#"{"type":"text","text":"{\"items\":[{\"id\":1.10}]}","a":1}"#,
                r#"{"type":"text","text":"plain"}"#,
                r#"{"type":"image","data":"aa"}"#
            ]
        );
        assert_eq!(filtered.structured.as_deref(), Some(r#"{"items":[{"id":1.10}]}"#));
    }

    #[test]
    fn texts_are_redacted_wherever_they_stand() {
        let filter = filter(&[], &[r"\d{3}-\d{2}", "se.ret"], None);
        let result = r#"{"content":[{"type":"text","text":"no 123-45\n\u0073ecret"},{"type":"resource","resource":{"uri":"a:secret","text":"123-45"}},{"type":"image","data":"123-45"}],"structuredContent":{"secret":["123-45",12345],"k":"none"}}"#;
        let filtered = filter.filter(result);
        assert_eq!(
            filtered.content,
            [
                r#"{"type":"text","text":"no [x]\n[x]"}"#,
                r#"{"type":"resource","resource":{"uri":"a:[x]","text":"[x]"}}"#,
                r#"{"type":"image","data":"123-45"}"#
            ]
        );
        assert_eq!(filtered.structured.as_deref(), Some(r#"{"[x]":["[x]",12345],"k":"none"}"#));
    }

    #[test]
    fn what_is_long_is_cut_after_it_was_selected_and_redacted() {
        let filter = filter(&[&["keep"]], &["secret"], Some(60));
        let long = "a".repeat(500);
        let result = format!(r#"{{"content":[],"structuredContent":{{"keep":"secret{long}","drop":"{long}"}}}}"#);
        let filtered = filter.filter(&result);
        assert!(filtered.structured.is_none());
        let rest = filtered.rest.expect("a rest");
        let shown: usize = filtered.content.iter().map(String::len).sum();
        assert!(shown <= 60 && shown + rest.len() > 500, "{shown} {}", rest.len());
        assert!(!rest.contains("secret") && !filtered.content.concat().contains("secret"));
        let short = r#"{"content":[{"type":"text","text":"x"}],"structuredContent":{"keep":1}}"#;
        assert!(filter.filter(short).rest.is_none());
    }
}
