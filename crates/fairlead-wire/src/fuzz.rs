//! Fuzz targets as plain functions: each takes any bytes and panics when an invariant is broken.
//!
//! The replay test runs them over the seed corpus with every test run; `cargo-fuzz` runs them for longer, by hand, with a
//! one-line target around the function. They are public for these two and for nothing else.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use crate::edit::{Edits, single_line};
use crate::frame::{Field, Frame, FrameError, Incoming, Limits};
use crate::header::{ParamHeaders, check_standard, decode_value, encode_value};
use crate::sse::{SseEvent, SseLimits, SseParser, write_event};
use crate::{CapabilitySet, list, name};

/// Reading messages: never panics, takes nothing that is not JSON, and spans lie on values.
pub fn frame(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let limits = Limits::default();
    let frames = match Incoming::parse(&bytes, &limits) {
        Ok(Incoming::One(frame)) => vec![frame],
        Ok(Incoming::Batch(frames)) => frames,
        Err(FrameError::NotJson { offset }) => {
            assert!(offset <= data.len());
            return;
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for frame in frames {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(frame.bytes()).is_ok());
        for field in FIELDS {
            if let Some(raw) = frame.raw(field) {
                assert!(serde_json::from_str::<serde::de::IgnoredAny>(raw).is_ok());
                assert_eq!(frame.slice(field).expect("invariant: there is a span"), raw);
                let _ = list::items(raw, "tools");
                let _ = CapabilitySet::parse(raw);
            }
            let _ = frame.str(field);
        }
        let _ = check_standard(&http::HeaderMap::new(), &frame);
    }
}

/// Editing messages: the result reads as the same kind of message, with the edits in it.
pub fn edit(data: &[u8]) {
    let limits = Limits::default();
    let Ok(frame) = Frame::parse(Bytes::copy_from_slice(data), &limits) else {
        return;
    };
    let mut edits = Edits::new();
    for (field, raw) in [(Field::Id, "\"fuzz\""), (Field::Name, "\"renamed\""), (Field::ProgressToken, "77")] {
        if let Some(span) = frame.span(field) {
            edits.replace(span, raw);
        }
    }
    for field in [Field::Cursor, Field::RequestState, Field::Uri, Field::MetaLogLevel, Field::ErrorData] {
        edits.remove_member(&frame, field);
    }
    if let Some(meta) = frame.span(Field::Meta) {
        edits.insert_first(meta, "fuzz/a", "1");
        edits.insert_first(meta, "fuzz/b", "{}");
    }
    let edited = single_line(&edits.apply(frame.bytes()));
    let again = match Frame::parse(edited, &limits) {
        Ok(again) => again,
        // What is inserted may go one level deeper than the message did.
        Err(FrameError::TooDeep) => return,
        Err(error) => panic!("an edited message does not read: {error}"),
    };
    assert_eq!(again.kind(), frame.kind());
    assert_eq!(again.method(), frame.method());
    assert!(again.span(Field::Cursor).is_none() && again.span(Field::Uri).is_none());
    if frame.span(Field::Name).is_some() {
        assert_eq!(again.raw(Field::Name), Some("\"renamed\""));
    }
}

/// Reading event streams: how the stream is cut makes no difference, and what is written reads back.
pub fn sse(data: &[u8]) {
    let limits = SseLimits { max_event: 256 };
    let whole = events(limits, data, data.len().max(1));
    for size in [1, 2, 7] {
        assert_eq!(events(limits, data, size), whole);
    }
    let mut out = BytesMut::new();
    write_event(&mut out, Some("1"), Some("message"), data);
    let read = events(SseLimits::default(), &out, out.len());
    assert_eq!(read.0.len(), 1);
    assert!(!read.1);
}

/// The events of a stream that comes in pieces of `size`, and whether it ended in an error.
fn events(limits: SseLimits, data: &[u8], size: usize) -> (Vec<SseEvent>, bool) {
    let mut parser = SseParser::new(limits);
    let mut events = Vec::new();
    for piece in data.chunks(size) {
        parser.push(Bytes::copy_from_slice(piece));
        loop {
            match parser.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(_) => return (events, true),
            }
        }
    }
    (events, false)
}

/// Header values and annotations: every text survives the way through a header.
pub fn header(data: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let _ = decode_value(&value);
    }
    let text = String::from_utf8_lossy(data);
    let encoded = encode_value(&text);
    assert!(encoded.as_bytes().iter().all(|byte| matches!(byte, b' '..=b'~')));
    assert_eq!(decode_value(&encoded).as_deref(), Ok(&*text));
    if let Ok(params) = ParamHeaders::from_schema(&text) {
        let headers = params.encode(Some(&text)).into_iter().collect();
        assert_eq!(params.check(&headers, Some(&text)), Ok(()));
    }
}

/// Names and URIs: exposed names have the allowed characters and length, and come apart again.
pub fn name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for max in [name::MIN_MAX, 48, 128] {
        let exposed = name::expose("server", &text, max);
        assert!(exposed.len() <= max);
        assert!(exposed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
        assert_eq!(name::split(&exposed).map(|(server, _)| server), Some("server"));
        assert!(name::tidy(&text, max).len() <= max);
    }
    let _ = name::split(&text);
    let _ = name::unprefix_uri(&text);
    assert_eq!(name::unprefix_uri(&name::prefix_uri("server", &text)), Some(("server", &*text)));
}

/// The members a reader may ask for.
const FIELDS: [Field; 12] = [
    Field::Id,
    Field::Method,
    Field::Params,
    Field::Result,
    Field::Error,
    Field::Name,
    Field::Uri,
    Field::Arguments,
    Field::Ref,
    Field::Meta,
    Field::ProgressToken,
    Field::ResultMeta,
];
