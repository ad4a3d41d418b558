//! The open questions of one call: what a server asked, under which names its client is asked it, and how the
//! answers get back.

use crate::questions::may_be_asked;
use bytes::Bytes;
use fairlead_observe::{QuestionOutcome, ServerMetrics};
use fairlead_upstream::{Link, OpenQuestions, Worker};
use fairlead_wire::{CapabilitySet, Field, Frame, Method, Span, edit::Edits, list, message};
use std::collections::BTreeMap;

/// Questions of one call that may be open at the same time.
pub(super) const MAX_OPEN: usize = 100;

/// A question that waits for its answer.
struct Open {
    /// The name the client knows it by.
    key: String,
    /// The server's id of it, raw.
    id: Box<str>,
    method: Method,
    /// `{"method":...,"params":...}` for the client.
    request: Bytes,
}

/// How many questions of each kind a call had, so that no name is used twice in it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts([u32; 3]);

impl Counts {
    /// The name of the next question of this kind.
    fn next(&mut self, method: Method) -> String {
        let (kind, index) = match method {
            Method::ElicitationCreate => ("elicitation", 0),
            Method::CreateMessage => ("sampling", 1),
            _ => ("roots", 2),
        };
        self.0[index] += 1;
        format!("{kind}-{}", self.0[index])
    }
}

/// The open questions of one call.
pub(super) struct Asked {
    open: Vec<Open>,
    counts: Counts,
    /// While one is open, silence of the server is no failure.
    count: OpenQuestions,
}

impl Asked {
    pub(super) fn new(count: OpenQuestions, counts: Counts) -> Self {
        Self { open: Vec::new(), counts, count }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Bytes of what is kept.
    pub(super) fn bytes(&self) -> usize {
        self.open.iter().map(|open| open.request.len()).sum()
    }

    /// Takes up a question; `false` when this client is not to be asked it.
    pub(super) fn take(&mut self, capabilities: CapabilitySet, frame: &Frame) -> bool {
        let Some(id) = frame.id() else { return false };
        if self.open.len() >= MAX_OPEN || !may_be_asked(capabilities, frame) {
            return false;
        }
        self.count.asked();
        self.open.push(Open {
            key: self.counts.next(frame.method_class()),
            id: id.into(),
            method: frame.method_class(),
            request: request(frame.method(), frame.raw(Field::Params)).into(),
        });
        true
    }

    /// The server does not want to know any more.
    pub(super) fn withdraw(&mut self, id: &str) {
        let before = self.open.len();
        self.open.retain(|open| *open.id != *id);
        (self.open.len()..before).for_each(|_| self.count.settled());
    }

    /// The questions as the client is asked them: the members of `inputRequests`.
    pub(super) fn requests(&self) -> String {
        let members: Vec<_> = self
            .open
            .iter()
            .map(|open| format!("{}:{}", message::quote(&open.key), String::from_utf8_lossy(&open.request)))
            .collect();
        format!("{{{}}}", members.join(","))
    }

    /// Hands the server the answers there are; what is not answered stays open. Says whether there was any.
    pub(super) async fn answer(
        &mut self,
        link: &Link,
        worker: Worker,
        answers: &Answers<'_>,
        metrics: &ServerMetrics,
    ) -> bool {
        let mut any = false;
        let mut rest = Vec::new();
        for open in std::mem::take(&mut self.open) {
            let Some(answer) = answers.get(&open.key) else {
                rest.push(open);
                continue;
            };
            any = true;
            self.count.settled();
            metrics.question(QuestionOutcome::Answered);
            if let Err(error) = link.push(worker, message::result(&open.id, answer)).await {
                tracing::info!(server = link.server_name(), %error, "an answer did not reach the server that asked");
            }
        }
        self.open = rest;
        any
    }

    /// Tells the server that nobody answers what is open.
    pub(super) fn give_up(&mut self, link: &Link, metrics: &ServerMetrics, outcome: QuestionOutcome) {
        for open in self.open.drain(..) {
            self.count.settled();
            metrics.question(outcome);
            link.push_soon(match open.method {
                Method::ElicitationCreate => message::result(&open.id, "{\"action\":\"cancel\"}"),
                _ => message::error(Some(&open.id), -32603, "nobody answers", None),
            });
        }
    }
}

/// What a client brought: the members of `inputResponses`, raw.
pub(super) struct Answers<'a>(BTreeMap<String, &'a serde_json::value::RawValue>);

impl<'a> Answers<'a> {
    /// `None` when it is not an object of objects.
    pub(super) fn read(responses: Option<&'a str>) -> Option<Self> {
        let Some(text) = responses else { return Some(Self(BTreeMap::new())) };
        let answers: BTreeMap<String, &serde_json::value::RawValue> = serde_json::from_str(text).ok()?;
        answers.values().all(|answer| answer.get().starts_with('{')).then_some(Self(answers))
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).map(|answer| answer.get())
    }

    /// Whether somebody said no.
    pub(super) fn refuse(&self) -> bool {
        self.0
            .values()
            .any(|answer| list::string_member(answer.get(), "action").is_some_and(|action| action != "accept"))
    }
}

fn is_url(params: &str) -> bool {
    list::string_member(params, "mode").as_deref() == Some("url")
}

/// A question as a member of `inputRequests`. Its parameters stay as they came, but for the id of a URL elicitation,
/// which the revision of 2026-07-28 does not have.
pub(super) fn request(method: &str, params: Option<&str>) -> String {
    let method = message::quote(method);
    match params {
        None => format!("{{\"method\":{method}}}"),
        Some(params) => format!("{{\"method\":{method},\"params\":{}}}", without_id(params)),
    }
}

fn without_id(params: &str) -> String {
    let span: Option<Span> = is_url(params).then(|| list::member_span(params, "elicitationId")).flatten();
    let Some(span) = span else { return params.to_owned() };
    let mut edits = Edits::new();
    edits.remove_at(params.as_bytes(), span);
    String::from_utf8_lossy(&edits.apply(&Bytes::copy_from_slice(params.as_bytes()))).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::Limits;

    fn frame(text: &str) -> Frame {
        Frame::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).expect("a message")
    }

    #[test]
    fn only_what_was_declared_is_asked() {
        let form = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"?"}}"#;
        let url = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"mode":"url"}}"#;
        let plain = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#;
        let tools = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"tools":[]}}"#;
        let roots = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
        let other = r#"{"jsonrpc":"2.0","id":1,"method":"acme/ask"}"#;
        for (declared, asked) in [
            ("ef", vec![form]),
            ("eu", vec![url]),
            ("s", vec![plain]),
            ("s-st", vec![plain, tools]),
            ("r", vec![roots]),
            ("bare", vec![]),
        ] {
            let set = CapabilitySet::from_key(declared).expect("a set");
            for question in [form, url, plain, tools, roots, other] {
                assert_eq!(may_be_asked(set, &frame(question)), asked.contains(&question), "{declared} {question}");
            }
        }
    }

    #[test]
    fn a_question_keeps_its_bytes_but_for_the_id() {
        for (params, expected) in [
            (r#"{"mode":"url", "elicitationId":"x" ,"own":1.50}"#, r#"{"mode":"url", "own":1.50}"#),
            (r#"{"elicitationId":"x","mode":"url"}"#, r#"{"mode":"url"}"#),
            (r#"{"mode":"form","elicitationId":"x","e":1E2}"#, r#"{"mode":"form","elicitationId":"x","e":1E2}"#),
        ] {
            let written = request("elicitation/create", Some(params));
            assert_eq!(written, format!(r#"{{"method":"elicitation/create","params":{expected}}}"#));
        }
        assert_eq!(request("roots/list", None), r#"{"method":"roots/list"}"#);
    }

    #[test]
    fn names_are_stable_and_never_used_twice() {
        let mut asked = Asked::new(OpenQuestions::default(), Counts::default());
        let set = CapabilitySet::from_key("ef-s").expect("a set");
        for id in ["1", "\"two\"", "3"] {
            assert!(asked.take(
                set,
                &frame(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"elicitation/create","params":{{}}}}"#))
            ));
        }
        asked.withdraw("\"two\"");
        assert!(asked.take(set, &frame(r#"{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage","params":{}}"#)));
        assert!(asked.take(set, &frame(r#"{"jsonrpc":"2.0","id":10,"method":"elicitation/create","params":{}}"#)));
        let keys: Vec<_> = asked.open.iter().map(|open| open.key.as_str()).collect();
        assert_eq!(keys, ["elicitation-1", "elicitation-3", "sampling-1", "elicitation-4"]);
    }

    #[test]
    fn answers_are_objects() {
        for (text, good) in [
            (None, true),
            (Some("{}"), true),
            (Some(r#"{"a":{"action":"accept"}}"#), true),
            (Some("[]"), false),
            (Some("null"), false),
            (Some(r#"{"a":1}"#), false),
            (Some(r#"{"a":"{"}"#), false),
        ] {
            assert_eq!(Answers::read(text).is_some(), good, "{text:?}");
        }
    }
}
