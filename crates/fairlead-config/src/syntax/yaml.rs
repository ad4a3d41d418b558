//! YAML, read by `serde-saphyr` with its budgets against hostile documents. Truth values are only
//! `true` and `false`, so that `no` and `off` in a list of countries or flags stay what they are.

use super::Fault;
use crate::tree::{Entry, MAX_DEPTH, Map, Node, Place, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};
use std::fmt;

/// A value as serde sees it, with places still relative to the parser.
enum Raw {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Raw, E> {
        Ok(Raw::Text(String::from_utf8_lossy(value).into_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

pub(super) fn read(text: &str, source: usize) -> Result<Node, Vec<Fault>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH * 2, max_nodes: 200_000, max_documents: 1 },
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if blank {
        return Ok(Node::new(Value::Null, Place { source, start: 0, end: 0 }));
    }
    let raw: Spanned<Raw> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| vec![fault(text, &error)])?;
    let builder = Builder { text, source };
    builder.node(raw, 0)
}

struct Builder<'a> {
    text: &'a str,
    source: usize,
}

impl Builder<'_> {
    fn node(&self, raw: Spanned<Raw>, depth: usize) -> Result<Node, Vec<Fault>> {
        let place = self.place(&raw.referenced);
        if depth > MAX_DEPTH {
            return Err(vec![super::too_deep(place.start)]);
        }
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Bool(value) => Value::Bool(value),
            Raw::Number(normalised) => {
                // The spelling matters to a program that gets it as an argument: `1.10`, `007`.
                let defined = self.place(&raw.defined);
                let spelling = self.text.get(defined.start..defined.end).map(str::trim).unwrap_or_default();
                let plain =
                    !spelling.is_empty() && spelling.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b));
                Value::Number(if plain { spelling.to_owned() } else { normalised })
            }
            Raw::Text(text) => Value::Text(text),
            Raw::List(items) => {
                Value::List(items.into_iter().map(|item| self.node(item, depth + 1)).collect::<Result<Vec<_>, _>>()?)
            }
            Raw::Map(entries) => {
                let mut map = Map::new();
                for (key, item) in entries {
                    let entry = Entry { key: self.place(&key.referenced), node: self.node(item, depth + 1)? };
                    map.insert(key.value, entry);
                }
                Value::Map(map)
            }
        };
        Ok(Node::new(value, place))
    }

    fn place(&self, location: &Location) -> Place {
        let (start, end) = range(self.text, location);
        Place { source: self.source, start, end }
    }
}

fn range(text: &str, location: &Location) -> (usize, usize) {
    let span = location.span();
    let start = span.byte_offset().and_then(|at| usize::try_from(at).ok());
    let length = span.byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let start = start.unwrap_or_else(|| {
        let line = usize::try_from(location.line()).unwrap_or(1).max(1);
        let column = usize::try_from(location.column()).unwrap_or(1).max(1);
        super::offset(text, line, column)
    });
    (start, start.saturating_add(length).min(text.len()))
}

fn fault(text: &str, error: &serde_saphyr::Error) -> Fault {
    let (start, end) = error.location().map_or((0, 0), |location| range(text, &location));
    let line_start = text.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let line = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let indent_tab = line.len() - line.trim_start().len();
    let rendered = error.render();
    let mut message = rendered.lines().next().unwrap_or_default();
    // Our own report says where.
    if let Some((reason, _)) = message.split_once(" at line ") {
        message = reason;
    }
    if let Some(at) = line[..indent_tab].find('\t') {
        return Fault {
            start: line_start + at,
            end: line_start + at + 1,
            message: "a tab cannot be used for indentation in YAML".to_owned(),
            hint: "indent with spaces".to_owned(),
        };
    }
    if let Some(key) = message.strip_prefix("duplicate mapping key: ") {
        let key = key.split(", set ").next().unwrap_or(key);
        let message = format!("duplicate key `{}`", crate::check::shorten(key));
        return Fault { start, end, message, hint: "keep one of the two".to_owned() };
    }
    let (message, hint) = if message.contains("Documents") {
        ("a configuration is one YAML document".to_owned(), "remove the `---`, or write several files")
    } else if message.starts_with("budget breached") {
        ("the document is too large or nests too deeply".to_owned(), "")
    } else if message.contains("quoted scalar") {
        (message.to_owned(), "a closing quote is missing, here or further up")
    } else if line.contains("${") && line.contains(['{', '[']) {
        (message.to_owned(), "inside `{ }` and `[ ]`, put a text with `${...}` in quotes")
    } else if line.matches(": ").count() > 1 && !line.contains('{') {
        (message.to_owned(), "a value that contains `: ` must be in quotes")
    } else {
        (message.to_owned(), "")
    };
    Fault { start, end, message, hint: hint.to_owned() }
}
