//! How a tool is shown, what its arguments must be, and what becomes of its answers.
//!
//! The same keys stand in `servers.<name>.tools.rules.<pattern>` (patterns on the server's own names) and in
//! `toolsets.<name>.tools.<pattern>` (patterns on exposed names). [`ToolShapeFile`] is what people write of a toolset's
//! tools, [`ToolShape`] what the program uses of both.

use crate::leaf::SizeText;
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{borrow::Cow, fmt};

/// Stands for the tool's own name in `rename`.
const OWN_NAME: char = '*';

/// Paths of one `select` at most, and segments of one path.
const MAX_PATHS: usize = 256;
const MAX_SEGMENTS: usize = 32;

/// Patterns of one `redact` at most, and what they may take when compiled, in bytes.
const MAX_PATTERNS: usize = 64;
const MAX_COMPILED: usize = 1 << 20;

/// Smallest `max_bytes`: below, the note about what was cut is longer than what is left.
const MIN_CUT: usize = 1024;

/// What people write of the tools of a toolset that a pattern matches. What is left out stays as it is.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolShapeFile {
    /// The name it is shown under. `*` stands for the name it has without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rename: Option<String>,
    /// Its title, instead of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Its description, instead of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it is neither shown nor called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hide: Option<bool>,
    /// Arguments the gateway sets. They are not shown, and a call that gives one is refused.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub pin: IndexMap<String, JsonText>,
    /// Hints about what it does, in place of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<AnnotationsFile>,
    /// What toolsets can select it by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether arguments are checked against its input schema before it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<bool>,
    /// What becomes of its answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseFile>,
}

/// Hints about what a tool does, as the protocol calls them. What is left out stays as its server says.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnnotationsFile {
    /// A title for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// It changes nothing.
    #[serde(rename = "readOnlyHint", skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// It may destroy something.
    #[serde(rename = "destructiveHint", skip_serializing_if = "Option::is_none")]
    pub destructive: Option<bool>,
    /// Calling it twice does what calling it once does.
    #[serde(rename = "idempotentHint", skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// It reaches out into a world that nobody here controls.
    #[serde(rename = "openWorldHint", skip_serializing_if = "Option::is_none")]
    pub open_world: Option<bool>,
}

/// What becomes of a tool's answers.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResponseFile {
    /// Fields that are kept of structured content and of text that is JSON: JSON pointers (`/items/id`) or names
    /// with dots (`items.id`). Lists are walked through; `*` is any member. None keeps everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub select: Vec<String>,
    /// A longer answer is cut; the rest is kept for a while (`results`) and read as a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<SizeText>,
    /// Regular expressions; what they match in texts is replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
    /// What stands in the place of what was redacted. Default: `[redacted]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

/// Any JSON value.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonText(pub(crate) Value);

impl JsonSchema for JsonText {
    fn schema_name() -> Cow<'static, str> {
        "JsonText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["object", "array", "string", "number", "boolean", "null"] })
    }
}

/// What is said of how a tool is shown, checked and answered; what is empty or `None` is not said.
#[derive(Clone, Default, PartialEq)]
pub struct ToolShape {
    /// The name it is shown under; `*` stands for the one it has without this.
    pub rename: Option<String>,
    /// Its title.
    pub title: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// Whether it is neither shown nor called.
    pub hide: Option<bool>,
    /// Arguments the gateway sets, as JSON text.
    pub pin: IndexMap<String, String>,
    /// Members of `annotations`, as JSON text.
    pub annotations: IndexMap<&'static str, String>,
    /// What toolsets can select it by.
    pub tags: Vec<String>,
    /// Whether arguments are checked against its input schema.
    pub validate: Option<bool>,
    /// What becomes of its answers.
    pub response: Response,
}

/// What becomes of a tool's answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Response {
    /// Fields that are kept, each as its segments; none keeps everything.
    pub select: Vec<Vec<String>>,
    /// A longer answer is cut.
    pub max_bytes: Option<usize>,
    /// Regular expressions, and what replaces what they match.
    pub redact: Vec<(String, String)>,
}

impl Response {
    /// Whether answers stay as they come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ToolShape {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This with everything that `over` says. Pins, annotations, tags and what is redacted add up.
    #[must_use]
    pub fn overlaid(mut self, over: &Self) -> Self {
        let text = |mine: Option<String>, other: &Option<String>| other.clone().or(mine);
        self.rename = text(self.rename, &over.rename);
        self.title = text(self.title, &over.title);
        self.description = text(self.description, &over.description);
        self.hide = over.hide.or(self.hide);
        self.pin.extend(over.pin.clone());
        self.annotations.extend(over.annotations.clone());
        for tag in &over.tags {
            if !self.tags.contains(tag) {
                self.tags.push(tag.clone());
            }
        }
        self.validate = over.validate.or(self.validate);
        if !over.response.select.is_empty() {
            self.response.select.clone_from(&over.response.select);
        }
        self.response.max_bytes = over.response.max_bytes.or(self.response.max_bytes);
        for redacted in &over.response.redact {
            if !self.response.redact.contains(redacted) {
                self.response.redact.push(redacted.clone());
            }
        }
        self
    }

    /// Whether the hints here say that calling the tool twice does no harm, or that it does.
    #[must_use]
    pub fn repeatable(&self) -> Option<bool> {
        let hint = |name: &str| self.annotations.get(name).map(|value| value == "true");
        match (hint("readOnlyHint"), hint("idempotentHint")) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        }
    }

    /// What a tool called `own` is called by this.
    #[must_use]
    pub fn renamed<'a>(&self, own: &'a str) -> Cow<'a, str> {
        match &self.rename {
            None => Cow::Borrowed(own),
            Some(name) => Cow::Owned(name.replace(OWN_NAME, own)),
        }
    }
}

impl fmt::Debug for ToolShape {
    /// Pinned values are not shown: references may have put secrets into them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolShape")
            .field("rename", &self.rename)
            .field("title", &self.title)
            .field("description", &self.description)
            .field("hide", &self.hide)
            .field("pin", &self.pin.keys().collect::<Vec<_>>())
            .field("annotations", &self.annotations)
            .field("tags", &self.tags)
            .field("validate", &self.validate)
            .field("response", &self.response)
            .finish()
    }
}

/// What is wrong with what is written, where below it, and what to write.
pub(crate) struct Fault {
    pub(crate) at: Vec<String>,
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

impl ToolShapeFile {
    /// What the program uses of it. `pattern` is what it is written for.
    pub(crate) fn build(self, pattern: &str, faults: &mut Vec<Fault>) -> ToolShape {
        let mut fault = |at: &[&str], message: String, hint| {
            faults.push(Fault { at: at.iter().map(|key| (*key).to_owned()).collect(), message, hint });
        };
        if let Some(name) = &self.rename {
            if name.is_empty() {
                fault(&["rename"], "a name cannot be empty".to_owned(), "");
            } else if pattern.contains(['*', '?']) && !name.contains(OWN_NAME) {
                fault(
                    &["rename"],
                    format!("`{pattern}` may match several tools, which cannot all have one name"),
                    "write `*` where the tool's own name belongs, for example `crm_*`",
                );
            }
        }
        if self.pin.keys().any(|name| name.contains('"')) {
            fault(&["pin"], "the name of an argument that is pinned cannot have a quote in it".to_owned(), "");
        }
        let response = self.response.unwrap_or_default();
        let mark = response.mark.unwrap_or_else(|| "[redacted]".to_owned());
        if response.select.len() > MAX_PATHS {
            fault(&["response", "select"], format!("there are more than {MAX_PATHS} paths"), "");
        }
        if response.redact.len() > MAX_PATTERNS {
            fault(&["response", "redact"], format!("there are more than {MAX_PATTERNS} patterns"), "");
        }
        for (place, path) in response.select.iter().enumerate() {
            if segments(path).is_none() {
                fault(
                    &["response", "select", &place.to_string()],
                    "this is not a path".to_owned(),
                    "write a JSON pointer (`/items/id`) or names with dots (`items.id`)",
                );
            }
        }
        for (place, pattern) in response.redact.iter().enumerate() {
            if let Err(error) = regex(pattern) {
                fault(&["response", "redact", &place.to_string()], error, "");
            }
        }
        let max_bytes = response.max_bytes.map(|size| size.0);
        if max_bytes.is_some_and(|size| size < MIN_CUT) {
            fault(&["response", "max_bytes"], "`max_bytes` must be at least `1KiB`".to_owned(), "");
        }
        ToolShape {
            rename: self.rename,
            title: self.title,
            description: self.description,
            hide: self.hide,
            pin: self.pin.into_iter().map(|(name, value)| (name, whole(value.0).to_string())).collect(),
            annotations: self.annotations.map(AnnotationsFile::members).unwrap_or_default(),
            tags: self.tags,
            validate: self.validate,
            response: Response {
                select: response.select.iter().filter_map(|path| segments(path)).collect(),
                max_bytes,
                redact: response.redact.into_iter().map(|pattern| (pattern, mark.clone())).collect(),
            },
        }
    }
}

impl AnnotationsFile {
    fn members(self) -> IndexMap<&'static str, String> {
        let flag = |value: Option<bool>| value.map(|value| value.to_string());
        [
            ("title", self.title.map(|title| Value::String(title).to_string())),
            ("readOnlyHint", flag(self.read_only)),
            ("destructiveHint", flag(self.destructive)),
            ("idempotentHint", flag(self.idempotent)),
            ("openWorldHint", flag(self.open_world)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// Numbers without a fraction as they were written: the file's reader has negative ones as floating-point numbers.
fn whole(value: Value) -> Value {
    /// Beyond it not every whole number has a floating-point form.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) if float.fract() == 0.0 && float.abs() <= EXACT => Value::from(float as i64),
            _ => Value::Number(number),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(whole).collect()),
        Value::Object(members) => Value::Object(members.into_iter().map(|(key, value)| (key, whole(value))).collect()),
        other => other,
    }
}

/// A path as its segments: a JSON pointer (RFC 6901), or names with dots.
fn segments(path: &str) -> Option<Vec<String>> {
    let segments: Vec<String> = match path.strip_prefix('/') {
        Some(pointer) => pointer.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect(),
        None => path.split('.').map(str::to_owned).collect(),
    };
    let good = segments.len() <= MAX_SEGMENTS && segments.iter().all(|segment| !segment.is_empty());
    good.then_some(segments)
}

/// A regular expression of an operator, within bounds.
///
/// # Errors
/// Says what is wrong with it.
pub fn regex(pattern: &str) -> Result<regex::Regex, String> {
    let regex = regex::RegexBuilder::new(pattern).size_limit(MAX_COMPILED).build();
    let regex = regex.map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("this is not a regular expression: {last}")
    })?;
    if regex.is_match("") {
        return Err("the expression matches the empty text, so it would match everywhere".to_owned());
    }
    Ok(regex)
}

/// The store of what was cut off answers.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResultsFile {
    /// Answers kept at most. The oldest make room.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: usize,
    /// Bytes kept at most, all together.
    pub max_bytes: SizeText,
    /// How long one is kept.
    pub ttl: crate::leaf::DurationText,
}

impl Default for ResultsFile {
    fn default() -> Self {
        let ttl = crate::leaf::DurationText(std::time::Duration::from_secs(600));
        Self { max: 1000, max_bytes: SizeText(64 << 20), ttl }
    }
}

/// The store of what was cut off answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Results {
    /// Answers kept at most.
    pub max: usize,
    /// Bytes kept at most, all together.
    pub max_bytes: usize,
    /// How long one is kept.
    pub ttl: std::time::Duration,
}

impl From<ResultsFile> for Results {
    fn from(file: ResultsFile) -> Self {
        Self { max: file.max, max_bytes: file.max_bytes.0, ttl: file.ttl.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_pointers_or_names_with_dots() {
        for (path, expected) in [
            ("/items/id", Some(vec!["items", "id"])),
            ("items.id", Some(vec!["items", "id"])),
            ("/a~1b/~0", Some(vec!["a/b", "~"])),
            ("/a.b", Some(vec!["a.b"])),
            ("*", Some(vec!["*"])),
            ("", None),
            ("/", None),
            ("a..b", None),
        ] {
            let expected = expected.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(segments(path), expected, "{path}");
        }
        assert_eq!(segments(&"a.".repeat(40)), None);
    }

    #[test]
    fn what_is_said_later_counts_and_some_of_it_adds_up() {
        let said = |rename: Option<&str>, pin: &str, tag: &str, redact: &str| ToolShape {
            rename: rename.map(str::to_owned),
            pin: [(pin.to_owned(), "1".to_owned())].into_iter().collect(),
            tags: vec![tag.to_owned()],
            response: Response { redact: vec![(redact.to_owned(), "x".to_owned())], ..Response::default() },
            ..ToolShape::default()
        };
        let both = said(Some("a"), "p", "t", "r").overlaid(&said(None, "q", "t", "s"));
        assert_eq!(both.rename.as_deref(), Some("a"));
        assert_eq!(both.pin.keys().collect::<Vec<_>>(), ["p", "q"]);
        assert_eq!(both.tags, ["t"]);
        assert_eq!(both.response.redact.len(), 2);
        assert_eq!(said(Some("crm_*_v1"), "p", "t", "r").renamed("get"), "crm_get_v1");
    }

    #[test]
    fn pinned_numbers_stay_whole() {
        let value: Value = serde_json::json!({"a": -5.0, "b": [1.5, 3.0], "c": "x"});
        assert_eq!(whole(value).to_string(), r#"{"a":-5,"b":[1.5,3],"c":"x"}"#);
    }

    #[test]
    fn expressions_that_match_nothing_at_all_are_refused() {
        assert!(regex("[0-9]{3}").is_ok());
        for bad in ["a*", "(", "(?:a{1000}){1000}"] {
            assert!(regex(bad).is_err(), "{bad}");
        }
    }
}
