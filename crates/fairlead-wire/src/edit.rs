//! Splices: replace, insert or remove a few members and copy every other byte as it came.
//!
//! Edits are collected against spans of one source and applied in one go, so spans never shift under anybody. The rules
//! when edits meet: an edit inside a range that another edit replaces or removes is dropped; replacing one span twice keeps
//! the later text; commas are settled when everything is known, so any set of members may be removed and any may be inserted.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::frame::{Field, Frame, Span};

/// A set of edits of one source.
#[derive(Default, Clone, Debug)]
pub struct Edits {
    /// Sorted by [`Edit::key`]; holds no two replacements of one span and no two insertions into one object.
    edits: Vec<Edit>,
}

#[derive(Clone, Debug)]
enum Edit {
    /// Puts `text` in the place of `span`.
    Replace { span: Span, text: Bytes },
    /// Puts `members` (joined by commas) first in the object at `object`.
    Insert { object: Span, members: String },
    /// Takes out the member from its key to its value.
    Remove { member: Span },
}

impl Edit {
    /// Where the edit takes hold; an insertion comes before a removal of the member that follows it.
    fn key(&self) -> (u32, u8) {
        match self {
            Edit::Insert { object, .. } => (object.start.saturating_add(1), 0),
            Edit::Remove { member } => (member.start, 1),
            Edit::Replace { span, .. } => (span.start, 2),
        }
    }

    fn span(&self) -> Span {
        match self {
            Edit::Replace { span, .. } => *span,
            Edit::Insert { object, .. } => *object,
            Edit::Remove { member } => *member,
        }
    }

    /// Bytes put in, at most.
    fn length(&self) -> usize {
        match self {
            Edit::Replace { text, .. } => text.len(),
            // Braces or a comma may come with it.
            Edit::Insert { members, .. } => members.len() + 2,
            Edit::Remove { .. } => 0,
        }
    }
}

impl Edits {
    /// No edits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the value at `span` by raw JSON. A later replacement of the same span wins.
    pub fn replace(&mut self, span: Span, raw: impl Into<Bytes>) {
        let edit = Edit::Replace { span, text: raw.into() };
        match self.same(&edit) {
            Some(at) => self.edits[at] = edit,
            None => self.push(edit),
        }
    }

    /// Puts a member first in the object at `object`; several insertions into one object keep their order. `raw` is JSON.
    /// An `object` that is really `null` becomes an object; any other value is left as it is.
    pub fn insert_first(&mut self, object: Span, key: &str, raw: &str) {
        let key = crate::message::quote(key);
        let edit = Edit::Insert { object, members: [&key, ":", raw].concat() };
        match self.same(&edit).map(|at| &mut self.edits[at]) {
            Some(Edit::Insert { members, .. }) => members.extend([",", &key, ":", raw]),
            _ => self.push(edit),
        }
    }

    /// Removes a recorded member with its key and one comma. Nothing happens when the frame does not have it.
    pub fn remove_member(&mut self, frame: &Frame, f: Field) {
        if let Some(value) = frame.span(f) {
            self.remove_at(frame.bytes(), value);
        }
    }

    /// Removes the member whose value is at `value` in `source`, with its key and one comma. The key must have no quote in it.
    pub fn remove_at(&mut self, source: &[u8], value: Span) {
        if let Some(start) = key_start(source, value.start as usize) {
            self.push(Edit::Remove { member: Span { start: start as u32, end: value.end } });
        }
    }

    /// Whether applying changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Writes down what is changed, by places relative to `base`: equal changes of equal texts are equal bytes. Edits of which
    /// `skip` holds, by their span and the text put in, are left out.
    pub fn describe(&self, base: u32, out: &mut Vec<u8>, skip: impl Fn(Span, &[u8]) -> bool) {
        for edit in &self.edits {
            let (kind, text) = match edit {
                Edit::Replace { text, .. } => (b'=', &text[..]),
                Edit::Insert { members, .. } => (b'+', members.as_bytes()),
                Edit::Remove { .. } => (b'-', &b""[..]),
            };
            let span = edit.span();
            if skip(span, text) {
                continue;
            }
            out.push(kind);
            out.extend_from_slice(&span.start.wrapping_sub(base).to_be_bytes());
            out.extend_from_slice(&span.end.wrapping_sub(base).to_be_bytes());
            out.extend_from_slice(&(text.len() as u64).to_be_bytes());
            out.extend_from_slice(text);
        }
    }

    /// The source with all edits made: the same bytes, not copied, when there are none; else one allocation.
    /// Spans that do not lie in `source` are ignored.
    #[must_use]
    pub fn apply(&self, source: &Bytes) -> Bytes {
        if self.edits.is_empty() {
            return source.clone();
        }
        let added: usize = self.edits.iter().map(Edit::length).sum();
        let mut out = Vec::with_capacity(source.len() + added);
        let mut at = 0;
        for (position, edit) in self.edits.iter().enumerate() {
            let (start, end) = (edit.span().start as usize, edit.span().end as usize);
            if start > end || end > source.len() {
                continue;
            }
            match edit {
                Edit::Replace { text, .. } if start >= at => {
                    out.extend_from_slice(&source[at..start]);
                    out.extend_from_slice(text);
                    at = end;
                }
                Edit::Insert { members, .. } => match source.get(start) {
                    Some(b'{') if start + 1 >= at => {
                        out.extend_from_slice(&source[at..=start]);
                        out.extend_from_slice(members.as_bytes());
                        if !self.empties(position + 1, source, start + 1) {
                            out.push(b',');
                        }
                        at = start + 1;
                    }
                    Some(b'n') if start >= at => {
                        out.extend_from_slice(&source[at..start]);
                        out.push(b'{');
                        out.extend_from_slice(members.as_bytes());
                        out.push(b'}');
                        at = end;
                    }
                    _ => {}
                },
                Edit::Remove { .. } if start >= at => {
                    let (from, to) = cut(source, start, self.run_end(position, source));
                    // The comma before the run may not be copied yet; it is never inside an earlier edit.
                    out.extend_from_slice(&source[at..from.max(at)]);
                    at = to;
                }
                _ => {}
            }
        }
        out.extend_from_slice(&source[at..]);
        Bytes::from(out)
    }

    /// The same with one more value replaced: most messages need nothing but another id, and take a short way.
    #[must_use]
    pub fn apply_with(mut self, source: &Bytes, span: Span, raw: &[u8]) -> Bytes {
        if self.edits.is_empty() && source.get(span.range()).is_some() {
            let (before, behind) = (&source[..span.start as usize], &source[span.end as usize..]);
            return Bytes::from([before, raw, behind].concat());
        }
        self.replace(span, Bytes::copy_from_slice(raw));
        self.apply(source)
    }

    /// Where an edit of the same kind at the same place is. Edits are in order of their keys.
    fn same(&self, edit: &Edit) -> Option<usize> {
        let key = edit.key();
        let from = self.edits.partition_point(|other| other.key() < key);
        let at_key = self.edits[from..].iter().take_while(|other| other.key() == key);
        at_key.enumerate().find(|(_, other)| other.span() == edit.span()).map(|(at, _)| from + at)
    }

    fn push(&mut self, edit: Edit) {
        let order = |other: &Edit| match other.key().cmp(&edit.key()) {
            // Of two that start together the wider one is first, so that the inner one is dropped.
            Ordering::Equal => edit.span().end.cmp(&other.span().end),
            unequal => unequal,
        };
        let place = self.edits.partition_point(|other| order(other) != Ordering::Greater);
        self.edits.insert(place, edit);
    }

    /// Where the run of removed members that begins with edit `position` ends: members with one comma between them are one run.
    fn run_end(&self, position: usize, source: &[u8]) -> usize {
        let mut end = self.edits[position].span().end as usize;
        for edit in &self.edits[position + 1..] {
            let span = edit.span();
            if (span.start as usize) < end {
                continue;
            }
            let joined = matches!(edit, Edit::Remove { .. })
                && span.end as usize <= source.len()
                && skip_space(source, end) < source.len()
                && source[skip_space(source, end)] == b','
                && skip_space(source, skip_space(source, end) + 1) == span.start as usize;
            if !joined {
                break;
            }
            end = span.end as usize;
        }
        end
    }

    /// Whether the object whose inside starts at `inside` has no members once the edits from `next` on are made.
    fn empties(&self, next: usize, source: &[u8], inside: usize) -> bool {
        let first = skip_space(source, inside);
        if source.get(first) == Some(&b'}') {
            return true;
        }
        let starts_here = |edit: &Edit| matches!(edit, Edit::Remove { member } if member.start as usize == first);
        self.edits[next..].iter().position(starts_here).is_some_and(|offset| {
            let end = self.run_end(next + offset, source);
            source.get(skip_space(source, end)) == Some(&b'}')
        })
    }
}

/// The run with the comma that goes with it: the one behind, else the one before, else none.
fn cut(source: &[u8], start: usize, end: usize) -> (usize, usize) {
    let behind = skip_space(source, end);
    if source.get(behind) == Some(&b',') {
        return (start, behind + 1);
    }
    match skip_space_back(source, start) {
        Some(before) if source[before] == b',' => (before, end),
        _ => (start, end),
    }
}

/// Where the key of the value at `value` begins, walking back over the colon and the key's quotes.
fn key_start(source: &[u8], value: usize) -> Option<usize> {
    let colon = skip_space_back(source, value).filter(|at| source[*at] == b':')?;
    let close = skip_space_back(source, colon).filter(|at| source[*at] == b'"')?;
    // No recorded key has a quote in it, however it is spelled, so the next quote back is the opening one.
    memchr::memrchr(b'"', &source[..close])
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The first position from `at` on that is not white space.
fn skip_space(source: &[u8], at: usize) -> usize {
    at + source.get(at..).unwrap_or_default().iter().take_while(|byte| is_space(**byte)).count()
}

/// The last position before `at` that is not white space.
fn skip_space_back(source: &[u8], at: usize) -> Option<usize> {
    source.get(..at)?.iter().rposition(|byte| !is_space(*byte))
}

/// The same JSON on one line, for transports that end messages by a newline: raw line breaks, which JSON allows only as white
/// space, become spaces. Not copied when there are none.
#[must_use]
pub fn single_line(bytes: &Bytes) -> Bytes {
    let Some(first) = memchr::memchr2(b'\n', b'\r', bytes) else {
        return bytes.clone();
    };
    let mut out = bytes.to_vec();
    for byte in &mut out[first..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Bytes::from(out)
}
