//! What a client declared that it can do, in canonical form.
//!
//! Servers show different things to clients of different capabilities, so the set keys catalogs and sessions. It must
//! therefore be small, comparable, and blind to spelling: two declarations that mean the same are one set, and what no
//! server's behaviour can depend on through us (unknown capabilities and extensions) is left out.

use std::fmt;

use crate::list::members;
use crate::scan::Shape;

/// A canonical set of client capabilities.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CapabilitySet(u32);

const ROOTS: u32 = 1;
const ROOTS_LIST_CHANGED: u32 = 1 << 1;
const SAMPLING: u32 = 1 << 2;
const SAMPLING_TOOLS: u32 = 1 << 3;
const SAMPLING_CONTEXT: u32 = 1 << 4;
const ELICITATION_FORM: u32 = 1 << 5;
const ELICITATION_URL: u32 = 1 << 6;
const TASKS: u32 = 1 << 7;
const TASKS_LIST: u32 = 1 << 8;
const TASKS_CANCEL: u32 = 1 << 9;
const TASKS_SAMPLING: u32 = 1 << 10;
const TASKS_ELICITATION: u32 = 1 << 11;
const EXT_UI: u32 = 1 << 12;
const EXT_TASKS: u32 = 1 << 13;
const EXT_SKILLS: u32 = 1 << 14;

/// Every bit with its place in [`CapabilitySet::key`] and what it implies. The texts are stored; they never change.
const KEYS: [(u32, &str, u32); 15] = [
    (ROOTS, "r", 0),
    (ROOTS_LIST_CHANGED, "rl", ROOTS),
    (SAMPLING, "s", 0),
    (SAMPLING_TOOLS, "st", SAMPLING),
    (SAMPLING_CONTEXT, "sc", SAMPLING),
    (ELICITATION_FORM, "ef", 0),
    (ELICITATION_URL, "eu", 0),
    (TASKS, "t", 0),
    (TASKS_LIST, "tl", TASKS),
    (TASKS_CANCEL, "tc", TASKS),
    (TASKS_SAMPLING, "ts", TASKS),
    (TASKS_ELICITATION, "te", TASKS),
    (EXT_UI, "xu", 0),
    (EXT_TASKS, "xt", 0),
    (EXT_SKILLS, "xs", 0),
];

const BARE_KEY: &str = "bare";

impl CapabilitySet {
    /// A client that declared nothing.
    pub const BARE: CapabilitySet = CapabilitySet(0);

    /// Reads a `capabilities` object; what is unknown, of the wrong type or not JSON counts as not declared.
    #[must_use]
    pub fn parse(raw_json: &str) -> CapabilitySet {
        let mut set = 0;
        let whole = each_object(raw_json, |key, value| match key {
            "roots" => {
                set |= ROOTS;
                // The one capability that is a flag and not an object.
                let _ = members(value, |key, value_of| {
                    if key == "listChanged" && &value[value_of.span.range()] == "true" {
                        set |= ROOTS_LIST_CHANGED;
                    }
                });
            }
            "sampling" => {
                set |= SAMPLING;
                each_object(value, |key, _| match key {
                    "tools" => set |= SAMPLING_TOOLS,
                    "context" => set |= SAMPLING_CONTEXT,
                    _ => {}
                });
            }
            "elicitation" => {
                // An empty object has meant forms since before there were modes.
                let mut empty = true;
                let _ = members(value, |_, _| empty = false);
                if empty {
                    set |= ELICITATION_FORM;
                }
                each_object(value, |key, _| match key {
                    "form" => set |= ELICITATION_FORM,
                    "url" => set |= ELICITATION_URL,
                    _ => {}
                });
            }
            "tasks" => {
                set |= TASKS;
                each_object(value, |key, value| match key {
                    "list" => set |= TASKS_LIST,
                    "cancel" => set |= TASKS_CANCEL,
                    "requests" => {
                        each_object(value, |key, value| {
                            each_object(value, |request, _| match (key, request) {
                                ("sampling", "createMessage") => set |= TASKS_SAMPLING,
                                ("elicitation", "create") => set |= TASKS_ELICITATION,
                                _ => {}
                            });
                        });
                    }
                    _ => {}
                });
            }
            "extensions" => {
                each_object(value, |key, _| match key {
                    "io.modelcontextprotocol/ui" => set |= EXT_UI,
                    "io.modelcontextprotocol/tasks" => set |= EXT_TASKS,
                    "io.modelcontextprotocol/skills" => set |= EXT_SKILLS,
                    _ => {}
                });
            }
            _ => {}
        });
        if whole { CapabilitySet(set) } else { Self::BARE }
    }

    /// A `capabilities` object that declares exactly this set.
    #[must_use]
    pub fn to_json(self) -> String {
        let mut object = Object::default();
        if self.has(ROOTS) {
            object.member("roots", if self.has(ROOTS_LIST_CHANGED) { r#"{"listChanged":true}"# } else { "{}" });
        }
        if self.has(SAMPLING) {
            object.member("sampling", &self.object(&[(SAMPLING_TOOLS, "tools"), (SAMPLING_CONTEXT, "context")]));
        }
        if self.has_elicitation() {
            object.member("elicitation", &self.object(&[(ELICITATION_FORM, "form"), (ELICITATION_URL, "url")]));
        }
        if self.has(TASKS) {
            let mut requests = Object::default();
            if self.has(TASKS_SAMPLING) {
                requests.member("sampling", r#"{"createMessage":{}}"#);
            }
            if self.has(TASKS_ELICITATION) {
                requests.member("elicitation", r#"{"create":{}}"#);
            }
            let mut tasks = Object::default();
            if self.has(TASKS_LIST) {
                tasks.member("list", "{}");
            }
            if self.has(TASKS_CANCEL) {
                tasks.member("cancel", "{}");
            }
            if !requests.0.is_empty() {
                tasks.member("requests", &requests.close());
            }
            object.member("tasks", &tasks.close());
        }
        let mut extensions = Object::default();
        if self.has(EXT_UI) {
            // MCP Apps requires the client to name the content types it renders; there is one.
            extensions.member("io.modelcontextprotocol/ui", r#"{"mimeTypes":["text/html;profile=mcp-app"]}"#);
        }
        if self.has(EXT_TASKS) {
            extensions.member("io.modelcontextprotocol/tasks", "{}");
        }
        if self.has(EXT_SKILLS) {
            extensions.member("io.modelcontextprotocol/skills", "{}");
        }
        if !extensions.0.is_empty() {
            object.member("extensions", &extensions.close());
        }
        object.close()
    }

    /// Short stable text for keys of stored things: `bare`, or marks joined by `-`.
    #[must_use]
    pub fn key(self) -> String {
        if self == Self::BARE {
            return BARE_KEY.to_owned();
        }
        let marks: Vec<_> = KEYS.iter().filter(|(bit, ..)| self.has(*bit)).map(|(_, mark, _)| *mark).collect();
        marks.join("-")
    }

    /// The set with this [`key`](Self::key); `None` when a mark is unknown.
    #[must_use]
    pub fn from_key(key: &str) -> Option<CapabilitySet> {
        if key == BARE_KEY {
            return Some(Self::BARE);
        }
        key.split('-').try_fold(Self::BARE, |set, part| {
            let (bit, _, implied) = KEYS.iter().find(|(_, mark, _)| *mark == part)?;
            Some(CapabilitySet(set.0 | bit | implied))
        })
    }

    /// The same without what lets a server ask its client something: roots, sampling, elicitation, also as tasks.
    #[must_use]
    pub fn without_questions(self) -> CapabilitySet {
        let questions = ROOTS
            | ROOTS_LIST_CHANGED
            | SAMPLING
            | SAMPLING_TOOLS
            | SAMPLING_CONTEXT
            | ELICITATION_FORM
            | ELICITATION_URL
            | TASKS_SAMPLING
            | TASKS_ELICITATION;
        CapabilitySet(self.0 & !questions)
    }

    /// Whether the client can follow tasks of the extension (SEP-2663).
    #[must_use]
    pub fn has_task_extension(self) -> bool {
        self.has(EXT_TASKS)
    }

    /// The same with the tasks extension.
    #[must_use]
    pub fn with_task_extension(self) -> CapabilitySet {
        CapabilitySet(self.0 | EXT_TASKS)
    }

    /// The same without the tasks extension.
    #[must_use]
    pub fn without_task_extension(self) -> CapabilitySet {
        CapabilitySet(self.0 & !EXT_TASKS)
    }

    /// What of it a client of a session can do in the revision of 2026-07-28: the same, without tasks (another feature
    /// there) and without the announcement of changed roots (which it does not have).
    #[must_use]
    pub fn for_modern_server(self) -> CapabilitySet {
        let legacy_only =
            ROOTS_LIST_CHANGED | TASKS | TASKS_LIST | TASKS_CANCEL | TASKS_SAMPLING | TASKS_ELICITATION | EXT_TASKS;
        CapabilitySet(self.0 & !legacy_only)
    }

    /// Whether the client says when its roots change.
    #[must_use]
    pub fn announces_roots(self) -> bool {
        self.has(ROOTS_LIST_CHANGED)
    }

    /// Whether `sampling/createMessage` may offer the model tools.
    #[must_use]
    pub fn has_sampling_tools(self) -> bool {
        self.has(SAMPLING_TOOLS)
    }

    /// Whether `roots/list` may be asked.
    #[must_use]
    pub fn has_roots(self) -> bool {
        self.has(ROOTS)
    }

    /// Whether `sampling/createMessage` may be asked.
    #[must_use]
    pub fn has_sampling(self) -> bool {
        self.has(SAMPLING)
    }

    /// Whether `elicitation/create` may be asked, in whatever mode.
    #[must_use]
    pub fn has_elicitation(self) -> bool {
        self.has(ELICITATION_FORM) || self.has(ELICITATION_URL)
    }

    /// Whether forms may be elicited.
    #[must_use]
    pub fn has_form_elicitation(self) -> bool {
        self.has(ELICITATION_FORM)
    }

    /// Whether the client opens URLs for a server.
    #[must_use]
    pub fn has_url_elicitation(self) -> bool {
        self.has(ELICITATION_URL)
    }

    /// Whether a server may ask this client anything.
    #[must_use]
    pub fn asks_anything(self) -> bool {
        self.has_roots() || self.has_sampling() || self.has_elicitation()
    }

    fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// An object with an empty object for each named bit that is set.
    fn object(self, parts: &[(u32, &str)]) -> String {
        let mut object = Object::default();
        for (bit, key) in parts {
            if self.has(*bit) {
                object.member(key, "{}");
            }
        }
        object.close()
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "CapabilitySet({})", self.key())
    }
}

/// An object's members under construction, without braces. Keys need no escapes.
#[derive(Default)]
struct Object(String);

impl Object {
    fn member(&mut self, key: &str, raw: &str) {
        let comma = if self.0.is_empty() { "" } else { "," };
        self.0.extend([comma, "\"", key, "\":", raw]);
    }

    fn close(&self) -> String {
        ["{", &self.0, "}"].concat()
    }
}

/// Calls `visit` with each member whose value is an object, and says whether the text was one whole object.
fn each_object(raw: &str, mut visit: impl FnMut(&str, &str)) -> bool {
    members(raw, |key, value| {
        if value.shape == Shape::Object {
            visit(&key, &raw[value.span.range()]);
        }
    })
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_read_by_meaning() {
        for (declared, key) in [
            ("{}", "bare"),
            ("", "bare"),
            ("null", "bare"),
            ("[]", "bare"),
            (r#"{"roots":{}"#, "bare"),
            (r#"{"roots":{}}"#, "r"),
            (r#"{"roots":{"listChanged":false}}"#, "r"),
            (r#"{"roots":{"listChanged":"true"}}"#, "r"),
            (r#"{"roots":{"listChanged":true}}"#, "r-rl"),
            (r#"{"roots":null,"sampling":true,"elicitation":[]}"#, "bare"),
            (r#"{"sampling":{"vendor":{}}}"#, "s"),
            (r#"{"sampling":{"tools":{},"context":{}}}"#, "s-st-sc"),
            (r#"{"elicitation":{}}"#, "ef"),
            (r#"{"elicitation":{"form":{}}}"#, "ef"),
            (r#"{"elicitation":{"url":{}}}"#, "eu"),
            (r#"{"elicitation":{"form":{"x":1},"url":{}}}"#, "ef-eu"),
            (r#"{"elicitation":{"voice":{}}}"#, "bare"),
            (r#"{"tasks":{}}"#, "t"),
            (
                r#"{"tasks":{"list":{},"cancel":{},"requests":{"sampling":{"createMessage":{}},"elicitation":{"create":{}}}}}"#,
                "t-tl-tc-ts-te",
            ),
            (r#"{"tasks":{"requests":{"elicitation":{"createMessage":{}}}}}"#, "t"),
            (r#"{"extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["a"]},"com.example/x":{}}}"#, "xu"),
            (r#"{"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/skills":{}}}"#, "xt-xs"),
            (r#"{"experimental":{"a":{}},"r\u006fots":{}}"#, "r"),
        ] {
            let set = CapabilitySet::parse(declared);
            assert_eq!(set.key(), key, "{declared}");
            assert_eq!(CapabilitySet::from_key(key), Some(set), "{key}");
        }
        for key in ["", "x", "r--s", "R", "bare-r", "r-"] {
            assert_eq!(CapabilitySet::from_key(key), None, "{key}");
        }
    }

    #[test]
    fn every_set_survives_json_and_key() {
        let mut seen = std::collections::BTreeSet::new();
        for bits in 0..1u32 << KEYS.len() {
            let implied = KEYS.iter().filter(|(bit, ..)| bits & bit != 0).fold(0, |all, (_, _, implied)| all | implied);
            let set = CapabilitySet(bits | implied);
            if !seen.insert(set) {
                continue;
            }
            let json = set.to_json();
            assert_eq!(CapabilitySet::parse(&json), set, "{json}");
            assert_eq!(CapabilitySet::from_key(&set.key()), Some(set));
            let quiet = set.without_questions();
            assert!(!quiet.asks_anything());
            assert_eq!(quiet == set, !set.asks_anything() && bits & (TASKS_SAMPLING | TASKS_ELICITATION) == 0);
        }
    }

    #[test]
    fn a_full_client_is_declared_in_full() {
        let full = CapabilitySet::from_key("r-rl-s-st-sc-ef-eu-t-tl-tc-ts-te-xu-xt-xs").unwrap();
        let declared = concat!(
            r#"{"roots":{"listChanged":true},"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}},"#,
            r#""tasks":{"list":{},"cancel":{},"requests":{"sampling":{"createMessage":{}},"elicitation":{"create":{}}}},"#,
            r#""extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]},"#,
            r#""io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/skills":{}}}"#,
        );
        assert_eq!(full.to_json(), declared);
        assert_eq!(CapabilitySet::BARE.to_json(), "{}");
        assert_eq!(full.without_questions().key(), "t-tl-tc-xu-xt-xs");
        let without = full.without_task_extension();
        assert!(full.has_task_extension() && !without.has_task_extension());
        assert_eq!(without.with_task_extension(), full);
        assert_eq!(full.for_modern_server().key(), "r-s-st-sc-ef-eu-xu-xs");
        assert!(full.announces_roots() && !full.for_modern_server().announces_roots());
        assert!(full.has_sampling_tools() && !CapabilitySet::parse(r#"{"sampling":{}}"#).has_sampling_tools());
        assert_eq!(format!("{:?}", CapabilitySet::BARE), "CapabilitySet(bare)");
    }
}
