//! Ids of events: the sealed name of a stream, a dot, and a number in it.
//!
//! The name says which session it belongs to and, for a call, which request it answers, so that an id
//! can be told from one of another session, and a client can be told that its call is gone, also by a
//! gateway that remembers neither. Clients must take ids as opaque; the number is not a secret.

use crate::{seal::Sealer, session::Session};

const PURPOSE: &str = "event";
/// Longest request id that is put into a name.
const MAX_REQUEST: usize = 64;
/// Longest id that is looked at.
const MAX_ID: usize = 400;

/// An id in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventId<'a> {
    pub(super) stream: &'a str,
    pub(super) sequence: u64,
}

impl<'a> EventId<'a> {
    /// Reads an id. `None` for what never was one.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_ID {
            return None;
        }
        let (stream, sequence) = text.rsplit_once('.')?;
        let is_number = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
        if stream.is_empty() || !is_number {
            return None;
        }
        Some(Self { stream, sequence: sequence.parse().ok()? })
    }
}

/// The id of the event `sequence` of `stream`.
pub(super) fn write(stream: &str, sequence: u64) -> String {
    format!("{stream}.{sequence}")
}

/// What a name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The id of the request whose call it is, raw; `None` for a GET stream, empty for an id that was
    /// too long.
    pub(super) request: Option<String>,
}

/// A new name for a stream of `session`.
pub(super) fn seal(sealer: &Sealer, session: &Session, request: Option<&str>) -> Box<str> {
    let kind = match request {
        None => "g\n",
        Some(request) if request.len() > MAX_REQUEST => "c\n",
        Some(request) => &format!("c\n{request}"),
    };
    sealer.seal(PURPOSE, format!("{}\n{kind}", session.tag()).as_bytes()).into()
}

/// Reads a name of a stream of `session`; `None` for any other.
pub(super) fn open(sealer: &Sealer, session: &Session, name: &str) -> Option<Name> {
    let plain = String::from_utf8(sealer.open(PURPOSE, name)?).ok()?;
    let mut parts = plain.splitn(3, '\n');
    if parts.next() != Some(session.tag()) {
        return None;
    }
    match (parts.next()?, parts.next()?) {
        ("g", _) => Some(Name { request: None }),
        ("c", request) => Some(Name { request: Some(request.to_owned()) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_are_read() {
        let id = |stream, sequence| Some(EventId { stream, sequence });
        for (text, expected) in [
            ("abc.0", id("abc", 0)),
            ("a-_b.17", id("a-_b", 17)),
            ("a.b.3", id("a.b", 3)),
            ("", None),
            ("abc", None),
            (".1", None),
            ("abc.", None),
            ("abc.-1", None),
            ("abc.+1", None),
            ("abc.1x", None),
            ("abc.99999999999999999999", None),
        ] {
            assert_eq!(EventId::parse(text), expected, "{text}");
        }
        assert_eq!(EventId::parse(&format!("{}.1", "a".repeat(MAX_ID))), None);
        assert_eq!(EventId::parse(&write("abc", 7)), id("abc", 7));
    }
}
