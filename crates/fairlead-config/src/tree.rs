//! A configuration as a tree in which every key and value knows where it stands. All three
//! syntaxes become this tree; layers are merged and references resolved in it; it is what
//! [`crate::check`] checks and what [`crate::file::ConfigFile`] is read from.

use crate::problem::{Excerpt, Problem, Severity};
use fairlead_core::Code;
use indexmap::IndexMap;
use std::path::PathBuf;

/// Deepest nesting of lists and maps.
pub(crate) const MAX_DEPTH: usize = 32;

/// Most problems that are reported: finding the line of each costs a walk through its file, and nobody
/// reads more.
const MAX_PROBLEMS: usize = 200;

/// Longest source line shown with a problem, in characters.
const MAX_EXCERPT: usize = 240;

/// Where something stands: a range of bytes in one of the [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) source: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A value and its place.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
    /// Whether a reference brought in any of the text. Such text is never shown, and may stand for
    /// a number or a truth value.
    pub(crate) referenced: bool,
}

/// A value as it was written.
#[derive(Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// The spelling of the source.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Map),
    /// Something whose mistake has been reported: whoever comes next passes over it.
    Wrong,
}

pub(crate) type Map = IndexMap<String, Entry>;

/// A value in a map, with the place of its key.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: Place,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn new(value: Value, place: Place) -> Self {
        Self { value, place, referenced: false }
    }

    pub(crate) fn as_map(&self) -> Option<&Map> {
        if let Value::Map(map) = &self.value { Some(map) } else { None }
    }

    pub(crate) fn as_map_mut(&mut self) -> Option<&mut Map> {
        if let Value::Map(map) = &mut self.value { Some(map) } else { None }
    }

    /// Text, a number, or a truth value as text.
    pub(crate) fn as_scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text),
            Value::Bool(true) => Some("true"),
            Value::Bool(false) => Some("false"),
            Value::Null | Value::List(_) | Value::Map(_) | Value::Wrong => None,
        }
    }

    /// What the value is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null | Value::Wrong => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The node at `path` (map keys, or list positions as decimal numbers).
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| match &node.value {
            Value::Map(map) => map.get(*step).map(|entry| &entry.node),
            Value::List(list) => step.parse::<usize>().ok().and_then(|index| list.get(index)),
            _ => None,
        })
    }

    /// The place of the value at `path`, or of the nearest thing above it that exists.
    pub(crate) fn place_of(&self, path: &[&str]) -> Place {
        let mut place = self.place;
        let mut node = self;
        for step in path {
            match &node.value {
                Value::Map(map) => {
                    let Some(entry) = map.get(*step) else { break };
                    node = &entry.node;
                    // A map or list is best found by its key.
                    place = if matches!(node.value, Value::Map(_) | Value::List(_)) { entry.key } else { node.place };
                }
                Value::List(list) => {
                    let Some(item) = step.parse::<usize>().ok().and_then(|index| list.get(index)) else { break };
                    node = item;
                    place = node.place;
                }
                _ => break,
            }
        }
        place
    }

    /// The place of the key at `path`, or of the nearest thing above it that exists.
    pub(crate) fn key_place_of(&self, path: &[&str]) -> Place {
        if let Some((last, above)) = path.split_last()
            && let Some(entry) = self.at(above).and_then(Self::as_map).and_then(|map| map.get(*last))
        {
            return entry.key;
        }
        self.place_of(path)
    }
}

/// Lays `over` on `base`: maps are merged deeply, everything else replaces, null removes.
pub(crate) fn merge(base: &mut Node, over: Node, findings: &mut Findings) {
    merge_at(base, over, 0, findings);
}

fn merge_at(base: &mut Node, over: Node, depth: usize, findings: &mut Findings) {
    match (&mut base.value, over.value) {
        (Value::Map(below), Value::Map(above)) => {
            for (key, mut entry) in above {
                if matches!(entry.node.value, Value::Null) {
                    if below.shift_remove(&key).is_none() {
                        removes_nothing(&key, &entry, depth, findings);
                    }
                } else if let Some(existing) = below.get_mut(&key) {
                    existing.key = entry.key;
                    merge_at(&mut existing.node, entry.node, depth + 1, findings);
                } else {
                    drop_nulls(&mut entry.node, depth + 1, findings);
                    below.insert(key, entry);
                }
            }
            base.place = over.place;
        }
        (_, value) => {
            *base = Node { value, place: over.place, referenced: over.referenced };
            drop_nulls(base, depth, findings);
        }
    }
}

fn drop_nulls(node: &mut Node, depth: usize, findings: &mut Findings) {
    let Some(map) = node.as_map_mut() else { return };
    map.retain(|key, entry| {
        let empty = matches!(entry.node.value, Value::Null);
        if empty {
            removes_nothing(key, entry, depth, findings);
        }
        !empty
    });
    for entry in map.values_mut() {
        drop_nulls(&mut entry.node, depth + 1, findings);
    }
}

/// A key without a value below the top is rather a slip than a wish. At the top it is a section of
/// which everything is commented out.
fn removes_nothing(key: &str, entry: &Entry, depth: usize, findings: &mut Findings) {
    if depth > 0 {
        let message = format!("`{}` has no value and so no effect", crate::check::shorten(key));
        findings.warning(entry.key, message, "write a value, or check the indentation of what follows");
    }
}

/// One layer's text.
pub(crate) struct Source {
    /// As it is shown.
    pub(crate) name: PathBuf,
    /// What relative paths in it are relative to.
    pub(crate) base: PathBuf,
    pub(crate) text: String,
    /// Byte ranges that are not shown.
    pub(crate) masked: Vec<(usize, usize)>,
}

/// All layers' texts.
#[derive(Default)]
pub(crate) struct Sources(pub(crate) Vec<Source>);

impl Sources {
    /// Fills in file, line, column and the source line of `problem`.
    pub(crate) fn locate(&self, mut problem: Problem, place: Place) -> Problem {
        let Some(source) = self.0.get(place.source) else { return problem };
        let text = &source.text;
        let start = floor(text, place.start);
        let end = floor(text, place.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        problem.file = Some(source.name.clone());
        problem.line = text[..start].matches('\n').count() + 1;
        problem.column = text[line_start..start].chars().count() + 1;
        let mut line = String::new();
        for (offset, character) in text[line_start..line_end].trim_end_matches('\r').char_indices() {
            let at = line_start + offset;
            let hidden = source.masked.iter().any(|&(from, to)| (from..to).contains(&at));
            line.push(match character {
                _ if hidden => '*',
                '\t' => ' ',
                control if control.is_control() => '\u{fffd}',
                shown => shown,
            });
        }
        if line.chars().count() <= MAX_EXCERPT {
            problem.excerpt = Some(Excerpt { line, length: text[start..end.min(line_end)].chars().count().max(1) });
        }
        problem
    }
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Collects problems while there is still something left to look at.
pub(crate) struct Findings {
    pub(crate) sources: Sources,
    pub(crate) problems: Vec<(Place, Problem)>,
    /// How many problems were not kept.
    dropped: usize,
}

impl Findings {
    pub(crate) fn new() -> Self {
        Self { sources: Sources::default(), problems: Vec::new(), dropped: 0 }
    }

    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(place, Problem::error(message), hint.into());
    }

    pub(crate) fn coded_error(
        &mut self,
        code: Code,
        place: Place,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(place, Problem { code: code.label().into(), ..Problem::error(message) }, hint.into());
    }

    pub(crate) fn warning(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(place, Problem::warning(message), hint.into());
    }

    /// `hint` may be empty: some messages say everything.
    fn add(&mut self, place: Place, problem: Problem, hint: String) {
        // An error always gets in as long as there is none, or the configuration would be used.
        if self.problems.len() >= MAX_PROBLEMS && (problem.severity == Severity::Warning || self.has_errors()) {
            self.dropped += 1;
            return;
        }
        let problem = if hint.is_empty() { problem } else { problem.with_hint(hint) };
        let problem = self.sources.locate(problem, place);
        self.problems.push((place, problem));
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.problems.iter().any(|(_, problem)| problem.severity == Severity::Error)
    }

    /// The problems by layer and place.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|(place, _)| (place.source, place.start));
        let mut problems: Vec<Problem> = self.problems.into_iter().map(|(_, problem)| problem).collect();
        problems.dedup();
        if self.dropped > 0 {
            problems.push(Problem::warning(format!("there are {} more problems", self.dropped)));
        }
        problems
    }
}
