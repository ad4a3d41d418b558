//! What becomes of a tool's answer by the operator's rules: fields are selected, texts are redacted, and what is too long
//! is cut, in this order. Only the final result is touched; what a server says before it passes as it is. An answer
//! without such a rule is never read, and one that cannot be read in spite of a rule does not get out.
//!
//! Values that no rule concerns keep their bytes. Redaction reaches all strings of a result, in members and blocks that
//! nobody knows too; only binary data, and the names that the protocol gives to members and kinds, are left alone.

mod cut;
mod redact;
mod select;

use crate::{call::Call, results};
use bytes::Bytes;
use fairlead_config::Response;
use fairlead_upstream::Final;
use fairlead_wire::{Field, Frame, Kind, Limits, edit::Edits, list, message};
use redact::{Patterns, Place, Redact};
use select::Selection;
use std::{borrow::Cow, fmt, ops::Range};

/// The names of members that are the protocol's own: without them nobody could read what is left.
const NAMES: &[&str] = &[
    "_meta",
    "annotations",
    "blob",
    "content",
    "data",
    "description",
    "icons",
    "isError",
    "mimeType",
    "name",
    "resource",
    "resultType",
    "size",
    "structuredContent",
    "text",
    "title",
    "type",
    "uri",
];

/// Up to this length it is looked first whether anything is to be redacted: mostly there is not, and then the answer
/// stays as it is. Longer ones may be pictures, which are not looked at.
const QUICK_LOOK: usize = 64 * 1024;

/// What `resultType` of a final result says, as JSON.
const COMPLETE: &str = "\"complete\"";

/// The members of a result: decoded name, raw value.
type Entries<'a> = [(Cow<'a, str>, &'a str)];

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
        if self.redactors.is_empty() { raw.to_owned() } else { redact::strings(raw, |text, _| self.redacted(text)) }
    }

    /// The same for a stretch of a content block, whose members keep the names that the protocol gives them.
    fn redacted_stretch(&self, raw: &str) -> String {
        redact::strings(raw, |text, place| match place {
            Place::Key if NAMES.contains(&text) => Cow::Borrowed(text),
            _ => self.redacted(text),
        })
    }

    /// A content block.
    fn block(&self, block: &str) -> String {
        let selected = self.selected(block);
        let block = selected.as_deref().unwrap_or(block);
        if self.redactors.is_empty() {
            return block.to_owned();
        }
        let (mut out, mut from) = (String::with_capacity(block.len()), 0);
        for span in untouched(block) {
            out.push_str(&self.redacted_stretch(&block[from..span.start]));
            out.push_str(&block[span.clone()]);
            from = span.end;
        }
        out.push_str(&self.redacted_stretch(&block[from..]));
        out
    }

    /// A text block with what is selected of its text, where that is JSON.
    fn selected(&self, block: &str) -> Option<String> {
        let select = self.select.as_ref()?;
        if list::string_member(block, "type")? != "text" {
            return None;
        }
        let span = list::member_span(block, "text")?.range();
        let text = message::quote(&select.of_text(&list::string_member(block, "text")?)?);
        Some(format!("{}{text}{}", &block[..span.start], &block[span.end..]))
    }

    /// Whether a result certainly stays as it is.
    fn leaves(&self, result: &str) -> bool {
        let is_touched = |text: &str| matches!(self.redacted(text), Cow::Owned(_));
        self.select.is_none()
            && result.starts_with('{')
            && self.max_bytes.is_none_or(|max| result.len() <= max)
            && (self.redactors.is_empty() || (result.len() <= QUICK_LOOK && !redact::any(result, is_touched)))
    }

    /// What is left of a result, which is an object with these members.
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

    /// The members of a result, with what is left of them; `rest` is where what was cut off can be read, as JSON. Members
    /// whose names cannot be decoded are not among `entries` and so do not get out.
    fn members(&self, entries: &Entries<'_>, filtered: &Filtered, rest: Option<&str>) -> Vec<String> {
        let content = || format!("[{}]", filtered.content.join(","));
        let has = |wanted: &str| entries.iter().any(|(key, _)| key == wanted);
        let mut members = Vec::with_capacity(entries.len() + 2);
        for (key, value) in entries {
            let value = match &**key {
                "content" => content(),
                "structuredContent" => match &filtered.structured {
                    Some(structured) => structured.clone(),
                    None => continue,
                },
                "_meta" => match (self.redacted_json(value), rest) {
                    (meta, Some(rest)) => with_member(&meta, "fairlead/rest", rest).into_owned(),
                    (meta, None) => meta,
                },
                // Clients go by it.
                "resultType" if *value == COMPLETE => COMPLETE.to_owned(),
                _ => self.redacted_json(value),
            };
            let is_ours = NAMES.contains(&&**key);
            let key = if is_ours { Cow::Borrowed(&**key) } else { self.redacted(key) };
            members.push(format!("{}:{value}", message::quote(&key)));
        }
        if !has("content") && !filtered.content.is_empty() {
            members.push(format!("\"content\":{}", content()));
        }
        if let Some(rest) = rest.filter(|_| !has("_meta")) {
            members.push(format!("\"_meta\":{{\"fairlead/rest\":{rest}}}"));
        }
        members
    }

    /// An error, redacted; `None` where it cannot be read.
    fn error(&self, frame: &Frame) -> Option<Bytes> {
        let mut edits = Edits::new();
        edits.replace(frame.span(Field::Error)?, self.redacted_json(frame.raw(Field::Error)?));
        Some(edits.apply(frame.bytes()))
    }
}

/// The parts of a content block in which nothing is redacted, in order: the word for its kind, which was read, and
/// pictures, sounds and embedded blobs, which are no texts.
fn untouched(block: &str) -> Vec<Range<usize>> {
    let kind = list::string_member(block, "type");
    let binary = match kind.as_deref() {
        Some("image" | "audio") => string_span(block, "data"),
        Some("resource") => list::member_span(block, "resource").and_then(|resource| {
            let (start, resource) = (resource.range().start, &block[resource.range()]);
            let blob = string_span(resource, "blob")?;
            Some(start + blob.start..start + blob.end)
        }),
        _ => None,
    };
    let is_known = matches!(kind.as_deref(), Some("text" | "image" | "audio" | "resource" | "resource_link"));
    let kind = is_known.then(|| string_span(block, "type")).flatten();
    let mut spans: Vec<_> = kind.into_iter().chain(binary).collect();
    spans.sort_by_key(|span| span.start);
    spans
}

/// Where a member's value is, when that is a string.
fn string_span(object: &str, name: &str) -> Option<Range<usize>> {
    let span = list::member_span(object, name)?.range();
    object[span.clone()].starts_with('"').then_some(span)
}

/// The answer as the rules leave it; `None` where they leave all of it.
pub(crate) fn apply(call: &Call, filter: &ResponseFilter, answer: &Final) -> Option<Final> {
    let frame = &answer.frame;
    let filtered = match frame.kind() {
        Kind::Error if filter.redactors.is_empty() => return None,
        Kind::Error => filter.error(frame),
        // A question or a task is not the result yet.
        Kind::Result if frame.str(Field::ResultType).is_none_or(|kind| kind == "complete") => {
            if frame.raw(Field::Result).is_some_and(|result| filter.leaves(result)) {
                return None;
            }
            result(call, filter, frame)
        }
        _ => return None,
    };
    if filtered.is_none() {
        tracing::error!("an answer that rules are for cannot be read; it is kept back");
    }
    let parsed = filtered.and_then(|bytes| {
        let parsed = Frame::parse(bytes, &Limits::default());
        parsed.inspect_err(|error| tracing::error!(%error, "a filtered answer is no message")).ok()
    });
    // What cannot be read must not get out unfiltered.
    let frame = parsed.unwrap_or_else(|| unfilterable(frame));
    Some(Final { frame, status: answer.status })
}

/// What is said in place of an answer that the rules cannot be applied to.
fn unfilterable(answer: &Frame) -> Frame {
    let text = message::error(answer.id(), -32603, "the answer could not be filtered", None);
    Frame::parse(text, &Limits::default()).expect("invariant: an error with an id that was read is a message")
}

/// The result as the rules leave it; `None` where it is not an object.
fn result(call: &Call, filter: &ResponseFilter, frame: &Frame) -> Option<Bytes> {
    let (span, raw) = (frame.span(Field::Result)?, frame.raw(Field::Result)?);
    let entries = list::entries(raw).ok()?;
    let mut filtered = filter.filter(raw);
    let rest = filtered.rest.take().map(|rest| results::keep(call, rest, filter.max_bytes.unwrap_or(usize::MAX)));
    if let Some(rest) = &rest {
        filtered.content.push(rest.note());
        filtered.content.extend(rest.link());
    }
    let uri = rest.as_ref().and_then(results::Rest::uri).map(message::quote);
    let members = filter.members(&entries, &filtered, uri.as_deref());
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

    /// A quick look never passes what a long one would change.
    #[test]
    fn what_is_left_alone_is_what_nothing_is_done_to() {
        let (redacting, cutting) = (filter(&[], &["^secret$", "b.b"], Some(200)), filter(&[], &[], Some(60)));
        for (result, leaves) in [
            (r#"{"content":[{"type":"text","text":"a secret"}]}"#, true),
            (r#"{"content":[{"type":"text","text":"secret"}]}"#, false),
            (r#"{"content":[{"type":"text","text":"\u0073ecret"}]}"#, false),
            (r#"{"content":[],"structuredContent":{"bob":1}}"#, false),
            (r#"{"content":[{"type":"text","text":"\ud800"}]}"#, false),
            (r#"["content"]"#, false),
        ] {
            assert_eq!(redacting.leaves(result), leaves, "{result}");
            if leaves {
                assert_eq!(whole(&redacting, result), result);
            }
        }
        assert!(cutting.leaves(r#"{"content":[{"type":"text","text":"a"}]}"#));
        assert!(!cutting.leaves(&format!(r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#, "a".repeat(60))));
        assert!(!filter(&[&["a"]], &[], None).leaves("{}"), "what is selected has to be read");
    }

    /// The whole result, as a client gets it.
    fn whole(filter: &ResponseFilter, result: &str) -> String {
        let entries = list::entries(result).expect("an object");
        format!("{{{}}}", filter.members(&entries, &filter.filter(result), None).join(","))
    }

    #[test]
    fn redaction_reaches_all_but_binary_data() {
        let filter = filter(&[], &["secret", "text", "complete"], None);
        for (result, expected) in [
            (r#"{"resultType":{"a":"secret"}}"#, r#"{"resultType":{"a":"[x]"}}"#),
            (r#"{"_meta":{"a":"secret","secret":1}}"#, r#"{"_meta":{"a":"[x]","[x]":1}}"#),
            (r#"{"x-secret":["secret",{"y":"a secret"}],"n":1.10}"#, r#"{"x-[x]":["[x]",{"y":"a [x]"}],"n":1.10}"#),
            (
                r#"{"content":[],"isError":true,"resultType":"complete"}"#,
                r#"{"content":[],"isError":true,"resultType":"complete"}"#,
            ),
            (
                r#"{"content":[{"type":"text","text":"secret","_meta":{"k":"secret"},"x":"secret"}]}"#,
                r#"{"content":[{"type":"text","text":"[x]","_meta":{"k":"[x]"},"x":"[x]"}]}"#,
            ),
            (
                r#"{"content":[{"text":5,"type":"text","x":"secret"},"secret",{"type":"secret","data":"secret"}]}"#,
                r#"{"content":[{"text":5,"type":"text","x":"[x]"},"[x]",{"type":"[x]","data":"[x]"}]}"#,
            ),
            (
                r#"{"content":[{"data":"secret","type":"image","_meta":{"data":"secret"}},{"type":"audio","data":["secret"]}]}"#,
                r#"{"content":[{"data":"secret","type":"image","_meta":{"data":"[x]"}},{"type":"audio","data":["[x]"]}]}"#,
            ),
            (
                r#"{"content":[{"type":"resource","blob":"secret","resource":{"blob":"secret","uri":"a:secret","_meta":{"blob":"secret"}}}]}"#,
                r#"{"content":[{"type":"resource","blob":"[x]","resource":{"blob":"secret","uri":"a:[x]","_meta":{"blob":"[x]"}}}]}"#,
            ),
            (
                r#"{"structuredContent":{"blob":"secret","data":"secret"}}"#,
                r#"{"structuredContent":{"blob":"[x]","data":"[x]"}}"#,
            ),
        ] {
            assert_eq!(whole(&filter, result), expected, "{result}");
        }
    }

    #[test]
    fn strings_that_are_no_text_are_redacted() {
        let filter = filter(&[], &["secret"], None);
        for (result, expected) in [
            (
                r#"{"content":[{"type":"text","text":"secret\ud83d"}]}"#,
                "{\"content\":[{\"type\":\"text\",\"text\":\"[x]\u{fffd}\"}]}",
            ),
            (r#"{"structuredContent":{"a":"\ud83dsecret"}}"#, "{\"structuredContent\":{\"a\":\"\u{fffd}[x]\"}}"),
            (r#"{"_meta":{"secret\udc00":"a"}}"#, "{\"_meta\":{\"[x]\u{fffd}\":\"a\"}}"),
            // A member whose name cannot be read is left out.
            (r#"{"secret\udc00":"secret","a":1}"#, r#"{"a":1}"#),
        ] {
            assert_eq!(whole(&filter, result), expected, "{result}");
        }
    }

    #[test]
    fn what_cannot_be_filtered_becomes_an_error() {
        let answer = br#"{"jsonrpc":"2.0","id":7,"result":["secret"]}"#;
        let frame = Frame::parse(Bytes::from_static(answer), &Limits::default()).expect("a frame");
        assert!(list::entries(frame.raw(Field::Result).expect("a result")).is_err());
        let error = unfilterable(&frame);
        assert_eq!(error.kind(), Kind::Error);
        assert_eq!((error.id(), error.error_code()), (Some("7"), Some(-32603)));
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
