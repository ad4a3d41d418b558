//! The input schema of a tool, compiled once: JSON Schema 2020-12, or what its `$schema` names. References are resolved
//! within the schema alone, nothing is ever fetched, and patterns are matched in linear time.

use super::Fault;
use fairlead_wire::list;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use std::{fmt, sync::OnceLock};

/// Longest schema that is compiled, in bytes.
const MAX_SCHEMA: usize = 256 << 10;

/// What one pattern may take when compiled, in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// Faults that are told at once.
const MAX_FAULTS: usize = 5;

/// Deepest arguments whose faults are collected. Whether they fit is remembered per place and soon known; why not is
/// looked for anew in every alternative of every level, which doubles with each of them.
const MAX_DEPTH: u32 = 6;

/// Steps that collecting faults may take, about.
const MAX_STEPS: u64 = 1_000_000;

/// Longest text of a fault, in characters: it may list what is allowed.
const MAX_MESSAGE: usize = 500;

/// A schema, compiled when it is needed first.
pub(crate) struct InputSchema {
    tool: Box<str>,
    text: Box<str>,
    compiled: OnceLock<Option<Compiled>>,
}

struct Compiled {
    validator: Validator,
    alternatives: Alternatives,
}

/// What multiplies the work of collecting faults.
#[derive(Debug, Default, PartialEq, Eq)]
struct Alternatives {
    /// Alternatives that are written in the schema.
    written: u64,
    /// In how many ways references lead from one value to itself or to one inside it, at most.
    ways: u64,
}

impl fmt::Debug for InputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputSchema").field("tool", &self.tool).finish_non_exhaustive()
    }
}

impl InputSchema {
    pub(crate) fn new(tool: &str, text: &str) -> Self {
        Self { tool: tool.into(), text: text.into(), compiled: OnceLock::new() }
    }

    fn compiled(&self) -> Option<&Compiled> {
        let compile = || match compile(&self.text) {
            Ok(compiled) => Some(compiled),
            Err(reason) => {
                tracing::warn!(
                    tool = &*self.tool,
                    reason,
                    "the tool's input schema cannot be used; its arguments are not checked"
                );
                None
            }
        };
        self.compiled.get_or_init(compile).as_ref()
    }

    /// Checks arguments, which are JSON text. With a schema that cannot be used everything is fine.
    pub(super) fn check(&self, arguments: &str) -> Result<(), Vec<Fault>> {
        let Some(Compiled { validator, alternatives }) = self.compiled() else { return Ok(()) };
        if let Some(name) = doubled(arguments) {
            let message = "is given more than once".to_owned();
            return Err(vec![Fault { path: super::pointer(&name), message }]);
        }
        let Ok(value) = serde_json::from_str::<Value>(arguments) else {
            return Err(vec![Fault { path: String::new(), message: "cannot be read as JSON".to_owned() }]);
        };
        if validator.is_valid(&value) {
            return Ok(());
        }
        if let Some(message) = alternatives.too_much(&value) {
            return Err(vec![Fault { path: String::new(), message: message.to_owned() }]);
        }
        let faults = validator.iter_errors(&value).take(MAX_FAULTS);
        Err(faults
            .map(|error| Fault {
                path: error.instance_path().to_string(),
                // The value itself may be a secret, and its sender knows it.
                message: error.masked().to_string().chars().take(MAX_MESSAGE).collect(),
            })
            .collect())
    }
}

impl Alternatives {
    fn of(schema: &Value) -> Self {
        let mut found = Self { written: 1, ways: 1 };
        found.count(schema);
        found
    }

    /// Counts what is in `schema`; says whether there is a reference.
    fn count(&mut self, schema: &Value) -> bool {
        match schema {
            Value::Array(items) => items.iter().filter(|item| self.count(item)).count() > 0,
            Value::Object(members) => members.iter().fold(false, |is_reference, (key, value)| {
                let leads_on = match key.as_str() {
                    "$ref" | "$dynamicRef" | "$recursiveRef" => true,
                    "anyOf" | "oneOf" | "allOf" | "patternProperties" => self.count_alternatives(value),
                    _ => self.count(value),
                };
                leads_on || is_reference
            }),
            _ => false,
        }
    }

    fn count_alternatives(&mut self, list: &Value) -> bool {
        let alternatives: Vec<&Value> = match list {
            Value::Array(items) => items.iter().collect(),
            Value::Object(members) => members.values().collect(),
            _ => Vec::new(),
        };
        self.written += alternatives.len() as u64;
        let leading_on = alternatives.into_iter().filter(|alternative| self.count(alternative)).count() as u64;
        // An alternative without references ends where it is written: it is no further way.
        self.ways = self.ways.saturating_mul(leading_on.max(1));
        leading_on > 0
    }

    /// What is said of arguments whose faults would take too long to collect.
    fn too_much(&self, arguments: &Value) -> Option<&'static str> {
        let (values, depth) = extent(arguments);
        if depth > MAX_DEPTH {
            return Some("does not fit the schema; nested too deeply to say where");
        }
        let steps = values.saturating_mul(self.written).saturating_mul(self.ways.saturating_pow(depth));
        (steps > MAX_STEPS).then_some("does not fit the schema; there are too many alternatives to say where")
    }
}

/// How many values there are, and how deeply they are nested. (Parsing bounds the depth.)
fn extent(value: &Value) -> (u64, u32) {
    let add = |(values, depth): (u64, u32), inner: &Value| {
        let (more, deep) = extent(inner);
        (values + more, depth.max(deep + 1))
    };
    match value {
        Value::Array(items) => items.iter().fold((1, 1), add),
        Value::Object(members) => members.values().fold((1, 1), add),
        _ => (1, 0),
    }
}

/// An argument that is there twice: the server might take the other one.
fn doubled(arguments: &str) -> Option<String> {
    let entries = list::entries(arguments).ok()?;
    let mut seen = std::collections::HashSet::with_capacity(entries.len());
    entries.iter().find(|(name, _)| !seen.insert(&**name)).map(|(name, _)| name.to_string())
}

fn compile(text: &str) -> Result<Compiled, String> {
    if text.len() > MAX_SCHEMA {
        return Err(format!("it has {} bytes, more than {MAX_SCHEMA}", text.len()));
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let validator = jsonschema::options()
        .offline()
        // A note of what is meant, by the standard; servers disagree about what fits.
        .should_validate_formats(false)
        .with_pattern_options(PatternOptions::regex().size_limit(MAX_PATTERN))
        .build(&schema)
        .map_err(|error| error.to_string().chars().take(MAX_MESSAGE).collect::<String>())?;
    Ok(Compiled { validator, alternatives: Alternatives::of(&schema) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(schema: &str, arguments: &str) -> Vec<(String, String)> {
        let checked = InputSchema::new("t", schema).check(arguments);
        checked.err().unwrap_or_default().into_iter().map(|fault| (fault.path, fault.message)).collect()
    }

    #[test]
    fn faults_say_where_and_what_is_allowed() {
        let schema = r#"{"type":"object","properties":{"id":{"type":"integer","minimum":1},"kind":{"enum":["a","b"]},"deep":{"type":"array","items":{"type":"string","maxLength":3}}},"required":["id"],"additionalProperties":false}"#;
        for (arguments, path, says) in [
            (r#"{"id":1,"kind":"a","deep":["abc"]}"#, None, ""),
            ("{}", Some(""), "\"id\" is a required property"),
            (r#"{"id":"secret"}"#, Some("/id"), "integer"),
            (r#"{"id":0}"#, Some("/id"), "minimum of 1"),
            (r#"{"id":1,"kind":"c"}"#, Some("/kind"), r#""a" or "b""#),
            (r#"{"id":1,"deep":["a","secret"]}"#, Some("/deep/1"), "3 characters"),
            (r#"{"id":1,"x":1}"#, Some(""), "'x'"),
            (r#"{"id":1,"\u0069d":2}"#, Some("/id"), "more than once"),
            ("[]", Some(""), "object"),
        ] {
            let found = faults(schema, arguments);
            assert_eq!(found.first().map(|(path, _)| path.as_str()), path, "{arguments}: {found:?}");
            assert!(found.iter().all(|(_, message)| message.contains(says)), "{arguments}: {found:?}");
            assert!(found.iter().all(|(_, message)| !message.contains("secret")), "{found:?}");
        }
        assert_eq!(faults(schema, r#"{"id":"a","kind":1,"deep":[1,2,3,4,5,6]}"#).len(), MAX_FAULTS);
    }

    #[test]
    fn the_dialect_is_2020_12_unless_the_schema_names_another() {
        let tuple =
            |schema: &str| format!(r#"{{{schema}"properties":{{"t":{{"prefixItems":[{{"type":"string"}}]}}}}}}"#);
        assert_eq!(faults(&tuple(""), r#"{"t":[1]}"#).len(), 1);
        let draft_07 = tuple(r#""$schema":"http://json-schema.org/draft-07/schema#","#);
        assert_eq!(faults(&draft_07, r#"{"t":[1]}"#), []);
        let items =
            r#"{"$schema":"http://json-schema.org/draft-07/schema#","properties":{"t":{"items":[{"type":"string"}]}}}"#;
        assert_eq!(faults(items, r#"{"t":[1]}"#).len(), 1);
    }

    #[test]
    fn references_stay_inside_the_schema() {
        let inside = r##"{"$defs":{"n":{"type":"integer"}},"properties":{"a":{"$ref":"#/$defs/n"}}}"##;
        assert_eq!(faults(inside, r#"{"a":"x"}"#).len(), 1);
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("schema.json");
        std::fs::write(&file, r#"{"type":"integer"}"#).expect("written");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("an address");
        for reference in [format!("file://{}", file.display()), format!("http://{address}/schema.json")] {
            let schema = format!(r#"{{"properties":{{"a":{{"$ref":"{reference}"}}}}}}"#);
            assert!(compile(&schema).is_err(), "{reference}");
            // What cannot be compiled refuses nothing.
            assert_eq!(faults(&schema, r#"{"a":"x"}"#), []);
        }
        assert!(listener.accept().is_err(), "somebody connected");
    }

    #[test]
    fn faults_in_nested_alternatives_are_not_looked_for_without_end() {
        let node = r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"required":["a"]}"##;
        let schema = format!(
            r##"{{"$defs":{{"n":{{"oneOf":[{{"type":"integer"}},{node},{node}]}}}},"properties":{{"a":{{"$ref":"#/$defs/n"}}}}}}"##
        );
        let nested = |levels: usize| format!(r#"{}"x"{}"#, r#"{"a":"#.repeat(levels), "}".repeat(levels));
        let began = std::time::Instant::now();
        for (levels, says) in [(2, "oneOf"), (30, "nested too deeply to say where")] {
            let found = faults(&schema, &nested(levels));
            assert_eq!(found.len(), 1, "{levels}: {found:?}");
            assert!(found[0].1.contains(says), "{levels}: {found:?}");
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn references_through_alternatives_multiply() {
        for (schema, written, ways) in [
            ("{}", 1, 1),
            (r#"{"anyOf":[{"type":"null"},{"type":"string"}]}"#, 3, 1),
            (r##"{"properties":{"a":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}}}"##, 3, 1),
            (
                r##"{"oneOf":[{"$ref":"#/a"},{"items":{"$ref":"#/b"}}],"a":{"allOf":[{"$ref":"#/b"},{"$ref":"#/b"}]}}"##,
                5,
                4,
            ),
        ] {
            let schema: Value = serde_json::from_str(schema).expect("JSON");
            assert_eq!(Alternatives::of(&schema), Alternatives { written, ways }, "{schema}");
        }
        let many = Alternatives { written: 40, ways: 1 << 20 };
        assert!(many.too_much(&serde_json::json!({"a": 1})).is_some_and(|text| text.contains("too many alternatives")));
    }

    #[test]
    fn schemas_that_cost_too_much_are_left_out() {
        let long = format!(r#"{{"description":"{}"}}"#, "x".repeat(MAX_SCHEMA));
        for schema in [&long, r#"{"type":5}"#, r#"{"pattern":"("}"#, r#"{"pattern":"(?:a{1000}){1000}"}"#, "[", "5"] {
            assert!(compile(schema).is_err(), "{:.40}", schema);
        }
        // Recursion without end is a loop of its own size.
        let endless = r##"{"properties":{"a":{"$ref":"#"}},"additionalProperties":false}"##;
        assert_eq!(faults(endless, r#"{"a":{"a":{"b":1}}}"#).len(), 1);
        let pattern = InputSchema::new("t", r#"{"properties":{"a":{"pattern":"^(a+)+$"}}}"#);
        let hostile = format!(r#"{{"a":"{}!"}}"#, "a".repeat(50_000));
        assert!(pattern.check(&hostile).is_err());
    }
}
