//! Arguments that a tool's schema wants mirrored into `Mcp-Param-*` headers (`x-mcp-header`).
//!
//! Rules: revision 2026-07-28, "Streamable HTTP", "Custom Headers from Tool Parameters". An annotation must be a unique token
//! on a string, integer or boolean property that is reached from the root through `properties` alone, at any depth. One that is
//! not makes the whole tool invalid for HTTP. The value is read at exactly that path; absent and `null` have no header.
//!
//! Cost: a schema is read once when a tool is listed; a check reads the arguments once, whatever the number of annotations.

use std::borrow::Cow;
use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{HeaderError, MCP_PARAM_PREFIX, decode_value, encode_value, single};
use crate::frame::{decode_string, key_text};
use crate::scan::{ScanError, Scanner, Shape, Value};

/// Annotations one tool may have.
pub const MAX_PARAM_HEADERS: usize = 64;

/// How deep schemas and arguments are followed; deeper ones are as if malformed.
const MAX_DEPTH: usize = 128;

const ANNOTATION: &str = "x-mcp-header";

/// The largest integer every reader holds exactly, 2^53 - 1.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// Why a tool's annotations are invalid; an HTTP client must not list such a tool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnnotation {
    /// The annotation is not a string.
    #[error("an x-mcp-header annotation is not a string")]
    NotAString,
    /// The annotation is empty or has a character that a header's name cannot have.
    #[error("an x-mcp-header annotation is not a header name")]
    NotAToken,
    /// Two annotations are the same when case is ignored.
    #[error("the x-mcp-header annotation {0:?} occurs twice")]
    Duplicate(String),
    /// The property is not of type string, integer or boolean.
    #[error("the x-mcp-header annotation {0:?} is on a property that is not a string, an integer or a boolean")]
    NotPrimitive(String),
    /// The annotation stands where no chain of `properties` leads.
    #[error("an x-mcp-header annotation stands outside a chain of properties from the schema's root")]
    Unreachable,
    /// More than [`MAX_PARAM_HEADERS`].
    #[error("there are more than {MAX_PARAM_HEADERS} x-mcp-header annotations")]
    TooMany,
}

/// The mirrored arguments of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamHeaders {
    /// Sorted by path, so that one walk over the arguments finds them all.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    path: Vec<String>,
    header: String,
}

impl Entry {
    /// The key at a depth of the path.
    fn step(&self, depth: usize) -> Option<&str> {
        self.path.get(depth).map(String::as_str)
    }

    fn name(&self) -> HeaderName {
        HeaderName::try_from([MCP_PARAM_PREFIX, &self.header].concat()).expect("invariant: the annotation is a token")
    }
}

impl ParamHeaders {
    /// Reads the annotations of an input schema. A schema that is not JSON, or not an object, has none.
    ///
    /// # Errors
    /// The first [`BadAnnotation`].
    pub fn from_schema(input_schema_raw: &str) -> Result<ParamHeaders, BadAnnotation> {
        let bytes = input_schema_raw.as_bytes();
        // Nearly no schema has any. An escape may hide the word, so its absence must be sure.
        let hidden = memchr::memmem::find(bytes, b"\\u").is_some();
        if !hidden && memchr::memmem::find(bytes, ANNOTATION.as_bytes()).is_none() {
            return Ok(ParamHeaders::default());
        }
        let Some(scanner) = scanner(input_schema_raw) else {
            return Ok(ParamHeaders::default());
        };
        let mut reader = SchemaReader { text: input_schema_raw, scanner, path: Vec::new(), entries: Vec::new() };
        match reader.schema(Place::Root) {
            Ok(()) => {}
            Err(Stop::Bad(error)) => return Err(error),
            Err(Stop::Malformed) => return Ok(ParamHeaders::default()),
        }
        let mut entries = reader.entries;
        let mut seen = BTreeSet::new();
        if let Some(twice) = entries.iter().find(|entry| !seen.insert(entry.header.as_str())) {
            return Err(BadAnnotation::Duplicate(twice.header.clone()));
        }
        entries.sort();
        Ok(ParamHeaders { entries })
    }

    /// Whether no argument is mirrored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Checks that each mirrored argument and its header say the same. Headers of other names are not looked at.
    ///
    /// # Errors
    /// The first disagreement; a header without a value in the arguments is one too.
    pub fn check(&self, headers: &HeaderMap, arguments_raw: Option<&str>) -> Result<(), HeaderError> {
        for (entry, value) in self.entries.iter().zip(self.values(arguments_raw)) {
            let name = entry.name();
            let header = single(headers, &name)?;
            let value = value.filter(|raw| *raw != "null");
            let (header, value) = match (header, value) {
                (None, None) => continue,
                // No header can carry it; the server's own validation will refuse the argument.
                (None, Some(raw)) if plain(raw).is_none() => continue,
                (None, Some(_)) => return Err(HeaderError::Missing(name)),
                (Some(_), None) => return Err(HeaderError::Mismatch(name)),
                (Some(header), Some(value)) => (header, value),
            };
            match decode_value(header) {
                Err(_) => return Err(HeaderError::BadValue(name)),
                Ok(text) if agrees(&text, value) => {}
                Ok(_) => return Err(HeaderError::Mismatch(name)),
            }
        }
        Ok(())
    }

    /// The headers a call with these arguments carries.
    #[must_use]
    pub fn encode(&self, arguments_raw: Option<&str>) -> Vec<(HeaderName, HeaderValue)> {
        let values = self.values(arguments_raw);
        let pairs = self.entries.iter().zip(values);
        pairs.filter_map(|(entry, value)| Some((entry.name(), encode_value(&plain(value?)?)))).collect()
    }

    /// The raw argument of each entry. Arguments that are not an object have none.
    fn values<'a>(&self, arguments_raw: Option<&'a str>) -> Vec<Option<&'a str>> {
        let mut values = vec![None; self.entries.len()];
        if let Some(text) = arguments_raw
            && let Some(scanner) = scanner(text)
            && !self.entries.is_empty()
        {
            let mut reader = ArgumentReader { text, scanner, entries: &self.entries, values: &mut values };
            if reader.object(0..self.entries.len(), 0).is_err() {
                values.fill(None);
            }
        }
        values
    }
}

/// A scanner at the opening of an object.
fn scanner(text: &str) -> Option<Scanner<'_>> {
    u32::try_from(text.len()).ok()?;
    let mut scanner = Scanner::new(text.as_bytes(), MAX_DEPTH);
    scanner.skip_space();
    (scanner.peek() == Some(b'{')).then_some(scanner)
}

/// A value as text for a header; `None` for what has no header.
fn plain(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first()? {
        b'"' => decode_string(raw),
        b'{' | b'[' | b'n' => None,
        b't' | b'f' => Some(Cow::Borrowed(raw)),
        _ => Some(match number(raw) {
            // `42.0` and `4.2e1` are the integer 42.
            Some(number) if raw.contains(['.', 'e', 'E']) && number.fract() == 0.0 && is_safe(number) => {
                Cow::Owned((number as i64).to_string())
            }
            _ => Cow::Borrowed(raw),
        }),
    }
}

/// Whether a decoded header and a raw argument say the same; numbers by value.
fn agrees(header: &str, raw: &str) -> bool {
    match raw.as_bytes().first() {
        Some(b'"') => decode_string(raw).as_deref() == Some(header),
        Some(b'-' | b'0'..=b'9') => {
            let same = |(header, body): (f64, f64)| header == body && is_safe(body);
            header == raw || number(header).zip(number(raw)).is_some_and(same)
        }
        Some(b't' | b'f') => header == raw,
        _ => false,
    }
}

fn is_safe(number: f64) -> bool {
    number.abs() <= MAX_SAFE_INTEGER
}

/// A number in JSON's spelling, which leaves out what else Rust reads as one.
fn number(text: &str) -> Option<f64> {
    u32::try_from(text.len()).ok()?;
    let mut scanner = Scanner::new(text.as_bytes(), 0);
    let value = scanner.value().ok()?;
    let is_number = matches!(value.shape, Shape::Integer | Shape::Number) && value.span.range() == (0..text.len());
    if is_number { text.parse().ok() } else { None }
}

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The root, which is no property.
    Root,
    /// Reached through `properties` alone.
    Chain,
    /// Anywhere else.
    Outside,
}

enum Stop {
    Bad(BadAnnotation),
    Malformed,
}

impl From<ScanError> for Stop {
    fn from(_: ScanError) -> Self {
        Stop::Malformed
    }
}

struct SchemaReader<'a> {
    text: &'a str,
    scanner: Scanner<'a>,
    path: Vec<String>,
    entries: Vec<Entry>,
}

impl<'a> SchemaReader<'a> {
    fn raw(&self, value: Value) -> &'a str {
        &self.text[value.span.range()]
    }

    /// Reads the schema under the cursor. Recursion is bounded by the scanner's depth.
    fn schema(&mut self, place: Place) -> Result<(), Stop> {
        match self.scanner.peek() {
            Some(b'{') => {}
            Some(b'[') => return self.schemas_in_array(),
            _ => return Ok(self.scanner.value().map(|_| ())?),
        }
        let (mut annotation, mut kind) = (None, None);
        self.scanner.open()?;
        let mut first = true;
        while let Some(key) = self.scanner.next_key(&mut first)? {
            let key = key_text(self.text.as_bytes(), key).unwrap_or_default();
            match &*key {
                ANNOTATION => annotation = Some(self.scanner.value()?),
                "type" => kind = Some(self.scanner.value()?),
                "properties" => {
                    let inner = if place == Place::Outside { Place::Outside } else { Place::Chain };
                    self.schemas_by_name(inner)?;
                }
                "$defs" | "definitions" | "dependentSchemas" | "patternProperties" => {
                    self.schemas_by_name(Place::Outside)?;
                }
                // Data, not schemas.
                "default" | "const" | "enum" | "examples" => {
                    self.scanner.value()?;
                }
                _ => self.schema(Place::Outside)?,
            }
        }
        match annotation {
            Some(annotation) if place == Place::Chain => self.annotate(annotation, kind),
            Some(_) => Err(Stop::Bad(BadAnnotation::Unreachable)),
            None => Ok(()),
        }
    }

    fn schemas_in_array(&mut self) -> Result<(), Stop> {
        self.scanner.open()?;
        let mut first = true;
        while self.scanner.next_element(&mut first)? {
            self.schema(Place::Outside)?;
        }
        Ok(())
    }

    /// Reads an object whose keys are names and whose values are schemas.
    fn schemas_by_name(&mut self, place: Place) -> Result<(), Stop> {
        if self.scanner.peek() != Some(b'{') {
            return self.schema(Place::Outside);
        }
        self.scanner.open()?;
        let mut first = true;
        while let Some(key) = self.scanner.next_key(&mut first)? {
            let name = key_text(self.text.as_bytes(), key);
            // A name that cannot be decoded names no argument.
            let place = if name.is_some() { place } else { Place::Outside };
            self.path.push(name.unwrap_or_default().into_owned());
            self.schema(place)?;
            self.path.pop();
        }
        Ok(())
    }

    fn annotate(&mut self, annotation: Value, kind: Option<Value>) -> Result<(), Stop> {
        let header = decode_string(self.raw(annotation)).ok_or(Stop::Bad(BadAnnotation::NotAString))?;
        if header.is_empty() || !header.bytes().all(is_token_byte) {
            return Err(Stop::Bad(BadAnnotation::NotAToken));
        }
        let kind = kind.and_then(|kind| decode_string(self.raw(kind)));
        if !matches!(kind.as_deref(), Some("string" | "integer" | "boolean")) {
            return Err(Stop::Bad(BadAnnotation::NotPrimitive(header.into_owned())));
        }
        if self.entries.len() == MAX_PARAM_HEADERS {
            return Err(Stop::Bad(BadAnnotation::TooMany));
        }
        self.entries.push(Entry { path: self.path.clone(), header: header.to_ascii_lowercase() });
        Ok(())
    }
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

struct ArgumentReader<'a, 'v> {
    text: &'a str,
    scanner: Scanner<'a>,
    entries: &'v [Entry],
    values: &'v mut [Option<&'a str>],
}

impl ArgumentReader<'_, '_> {
    /// Reads the object under the cursor; the entries in `range` share the first `depth` steps of their paths.
    fn object(&mut self, range: std::ops::Range<usize>, depth: usize) -> Result<(), ScanError> {
        self.scanner.open()?;
        let mut first = true;
        while let Some(key) = self.scanner.next_key(&mut first)? {
            let key = key_text(self.text.as_bytes(), key);
            let matching = &self.entries[range.clone()];
            let from = range.start + matching.partition_point(|entry| entry.step(depth) < key.as_deref());
            let to = range.start + matching.partition_point(|entry| entry.step(depth) <= key.as_deref());
            let Some(key_range) = (key.is_some() && from < to).then_some(from..to) else {
                self.scanner.value()?;
                continue;
            };
            // The last of two members of one name counts, also when it has less in it.
            self.values[key_range.clone()].fill(None);
            let start = self.scanner.position();
            let deeper = key_range.clone().any(|at| self.entries[at].path.len() > depth + 1);
            if deeper && self.scanner.peek() == Some(b'{') {
                self.object(key_range.clone(), depth + 1)?;
            } else {
                self.scanner.value()?;
            }
            let raw = &self.text[start..self.scanner.position()];
            for at in key_range {
                if self.entries[at].path.len() == depth + 1 {
                    self.values[at] = Some(raw);
                }
            }
        }
        Ok(())
    }
}
