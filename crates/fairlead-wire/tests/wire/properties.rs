//! Properties over random messages: reading agrees with `serde_json`, and edits change only what they say.

use bytes::Bytes;
use fairlead_wire::edit::{Edits, single_line};
use fairlead_wire::sse::{SseEvent, SseLimits, SseParser, write_event};
use fairlead_wire::{Field, Frame, Incoming, Limits, fuzz};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Any JSON, without numbers that lose digits in a `Value`.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}|[\\x00-\\x7f]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            members(inner).prop_map(Value::Object),
        ]
    })
}

/// Members with keys that nothing routes by, though some look like it one level up or down.
fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let key =
        prop_oneof!["x[a-z\"\\\\ä🦀 ]{0,6}", Just("Method".to_owned()), Just("NAME".to_owned()), Just("".to_owned())];
    prop::collection::hash_map(key, value, 0..4).prop_map(|map| map.into_iter().collect())
}

/// A call, as a value whose members come in a random order.
fn call() -> impl Strategy<Value = Value> {
    let id = prop_oneof![any::<i64>().prop_map(Value::from), ".{0,10}".prop_map(Value::from)];
    let optional = || prop::option::of(".{0,12}".prop_map(Value::from));
    let params = (members(any_json()), optional(), optional(), prop::option::of(any_json()), optional());
    let meta = prop::option::of((members(any_json()), optional(), optional()));
    (id, "[a-z/]{1,12}|tools/call", members(any_json()), params, meta).prop_map(
        |(id, method, unknown, params, meta)| {
            let put = |map: &mut Map<String, Value>, key: &str, value: Option<Value>| {
                value.map(|value| map.insert(key.to_owned(), value));
            };
            let (mut inner, name, uri, arguments, cursor) = params;
            put(&mut inner, "name", name);
            put(&mut inner, "uri", uri);
            put(&mut inner, "arguments", arguments);
            put(&mut inner, "cursor", cursor);
            if let Some((mut meta, token, version)) = meta {
                put(&mut meta, "progressToken", token);
                put(&mut meta, "io.modelcontextprotocol/protocolVersion", version);
                inner.insert("_meta".to_owned(), Value::Object(meta));
            }
            let mut envelope = unknown;
            envelope.extend([
                ("jsonrpc".to_owned(), json!("2.0")),
                ("id".to_owned(), id),
                ("method".to_owned(), json!(method)),
                ("params".to_owned(), Value::Object(inner)),
            ]);
            Value::Object(envelope)
        },
    )
}

/// Decides spellings: white space, escapes and the order of members.
struct Whim(u64);

impl Whim {
    /// xorshift; the seed comes from proptest, so a failure repeats.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn space(&mut self, out: &mut String) {
        while self.below(4) == 0 {
            out.push([' ', '\n', '\r', '\t'][self.below(4) as usize]);
        }
    }

    fn string(&mut self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            let must = matches!(character, '"' | '\\' | '\0'..='\x1f');
            if must || self.below(6) == 0 {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                out.push(character);
            }
        }
        out.push('"');
    }

    fn value(&mut self, value: &Value, out: &mut String) {
        self.space(out);
        match value {
            Value::String(text) => self.string(text, out),
            Value::Array(items) => {
                out.push('[');
                for (position, item) in items.iter().enumerate() {
                    out.push_str(if position > 0 { "," } else { "" });
                    self.value(item, out);
                }
                self.space(out);
                out.push(']');
            }
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                for position in (1..entries.len()).rev() {
                    entries.swap(position, self.below(position as u64 + 1) as usize);
                }
                out.push('{');
                for (position, (key, value)) in entries.into_iter().enumerate() {
                    out.push_str(if position > 0 { "," } else { "" });
                    self.space(out);
                    self.string(key, out);
                    self.space(out);
                    out.push(':');
                    self.value(value, out);
                }
                self.space(out);
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
        self.space(out);
    }
}

fn spelled(value: &Value, seed: u64) -> String {
    let mut out = String::new();
    Whim(seed | 1).value(value, &mut out);
    out
}

fn read(text: &str) -> Frame {
    Frame::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::default())
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

const POINTERS: [(Field, &str); 9] = [
    (Field::Id, "/id"),
    (Field::Method, "/method"),
    (Field::Params, "/params"),
    (Field::Name, "/params/name"),
    (Field::Uri, "/params/uri"),
    (Field::Arguments, "/params/arguments"),
    (Field::Cursor, "/params/cursor"),
    (Field::Meta, "/params/_meta"),
    (Field::ProgressToken, "/params/_meta/progressToken"),
];

fn events(stream: &[u8], mut sizes: impl Iterator<Item = usize>) -> Vec<SseEvent> {
    let mut parser = SseParser::new(SseLimits::default());
    let mut events = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
        rest = more;
        parser.push(Bytes::copy_from_slice(piece));
        while let Some(event) = parser.next().unwrap() {
            events.push(event);
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn reading_agrees_with_serde_json(call in call(), seed in any::<u64>()) {
        let text = spelled(&call, seed);
        let frame = read(&text);
        for (field, pointer) in POINTERS {
            let expected = call.pointer(pointer);
            let raw = frame.raw(field).map(|raw| serde_json::from_str::<Value>(raw).unwrap());
            prop_assert_eq!(raw.as_ref(), expected, "{}", pointer);
            let text = expected.and_then(Value::as_str);
            let decoded = frame.str(field);
            prop_assert_eq!(decoded.as_deref(), text, "{}", pointer);
        }
        prop_assert_eq!(frame.method(), call["method"].as_str().unwrap());
        let version = call.pointer("/params/_meta/io.modelcontextprotocol~1protocolVersion");
        prop_assert_eq!(frame.is_modern(), version.is_some());
    }

    #[test]
    fn edits_change_what_they_say_and_nothing_else(call in call(), seed in any::<u64>(), which in any::<u8>()) {
        let text = spelled(&call, seed);
        let frame = read(&text);
        let mut expected = call.clone();
        let mut edits = Edits::new();
        for (bit, field, pointer, new) in [
            (1, Field::Id, "/id", json!(77)),
            (2, Field::Name, "/params/name", json!("other")),
            (4, Field::ProgressToken, "/params/_meta/progressToken", json!({"a": [1]})),
        ] {
            if which & bit != 0 && let Some(span) = frame.span(field) {
                edits.replace(span, new.to_string());
                *expected.pointer_mut(pointer).unwrap() = new;
            }
        }
        for (bit, field, object, key) in [
            (8, Field::Cursor, "/params", "cursor"),
            (16, Field::Uri, "/params", "uri"),
            (32, Field::Arguments, "/params", "arguments"),
            (64, Field::ProgressToken, "/params/_meta", "progressToken"),
        ] {
            if which & bit != 0 {
                edits.remove_member(&frame, field);
                expected.pointer_mut(object).map(|object| object.as_object_mut().unwrap().remove(key));
            }
        }
        if which & 128 != 0 {
            for (field, object) in [(Field::Params, "/params"), (Field::Meta, "/params/_meta")] {
                if let Some(span) = frame.span(field) {
                    edits.insert_first(span, "new\"1", "[null]");
                    edits.insert_first(span, "new2", "\"\"");
                    let object = expected.pointer_mut(object).unwrap().as_object_mut().unwrap();
                    object.insert("new\"1".to_owned(), json!([null]));
                    object.insert("new2".to_owned(), json!(""));
                }
            }
        }
        let edited = edits.apply(frame.bytes());
        let got: Value = serde_json::from_slice(&edited).unwrap();
        prop_assert_eq!(got, expected);
        let line = single_line(&edited);
        prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        prop_assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), serde_json::from_slice::<Value>(&edited).unwrap());
    }

    #[test]
    fn replacing_leaves_every_other_byte(call in call(), seed in any::<u64>()) {
        let text = spelled(&call, seed);
        let frame = read(&text);
        let mut spans: Vec<_> = [Field::Id, Field::Name, Field::Cursor, Field::ProgressToken]
            .into_iter().filter_map(|field| frame.span(field)).collect();
        let mut edits = Edits::new();
        for span in &spans {
            edits.replace(*span, "\"<new>\"");
        }
        spans.sort_by_key(|span| std::cmp::Reverse(span.start));
        let mut expected = text.clone();
        for span in spans {
            let mut one = text.clone();
            one.replace_range(span.range(), "\"<newer>\"");
            prop_assert_eq!(Edits::new().apply_with(frame.bytes(), span, b"\"<newer>\""), one);
            let most = edits.clone().apply_with(frame.bytes(), span, b"\"<newer>\"");
            prop_assert_eq!(std::str::from_utf8(&most).unwrap().replace("<newer>", "<new>"), edits.apply(frame.bytes()));
            expected.replace_range(span.range(), "\"<new>\"");
        }
        prop_assert_eq!(edits.apply(frame.bytes()), expected);
    }

    #[test]
    fn a_batch_reads_as_its_messages(calls in prop::collection::vec(call(), 1..4), seed in any::<u64>()) {
        let text = spelled(&Value::from(calls.clone()), seed);
        let Ok(Incoming::Batch(frames)) = Incoming::parse(&Bytes::from(text), &Limits::default()) else {
            return Err(TestCaseError::fail("not a batch"));
        };
        let read: Vec<Value> = frames.iter().map(|frame| serde_json::from_slice(frame.bytes()).unwrap()).collect();
        prop_assert_eq!(read, calls);
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..200), call in call(), at in any::<prop::sample::Index>()) {
        for target in [fuzz::frame, fuzz::edit, fuzz::sse, fuzz::header, fuzz::name] {
            target(&data);
        }
        let mut text = spelled(&call, 1).into_bytes();
        let at = at.index(text.len());
        text.splice(at..=at, data.iter().copied().take(2));
        fuzz::frame(&text);
        fuzz::edit(&text);
    }

    #[test]
    fn however_a_stream_is_cut_the_events_are_the_same(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "data: a", "data:", "data", "id: 7", "event: message", "retry: 5", ": comment", "ä", ":", "x", "\n", "\r", "\r\n", "\n\n", "\u{feff}",
        ]), 0..40),
        sizes in prop::collection::vec(1usize..9, 1..20),
    ) {
        let stream = pieces.concat();
        let whole = events(stream.as_bytes(), std::iter::repeat(usize::MAX));
        prop_assert_eq!(events(stream.as_bytes(), sizes.into_iter().cycle()), whole);
    }

    #[test]
    fn written_events_read_back(
        written in prop::collection::vec((prop::option::of("[a-z0-9:]{1,8}"), prop::option::of("[a-z]{1,8}"), any_json()), 1..5),
        sizes in prop::collection::vec(1usize..50, 1..20), seed in any::<u64>(),
    ) {
        let mut out = bytes::BytesMut::new();
        for (id, event, data) in &written {
            write_event(&mut out, id.as_deref(), event.as_deref(), spelled(data, seed).as_bytes());
        }
        let read = events(&out, sizes.into_iter().cycle());
        prop_assert_eq!(read.len(), written.len());
        for (event, (id, name, data)) in read.into_iter().zip(written) {
            prop_assert_eq!(serde_json::from_slice::<Value>(&event.data).unwrap(), data);
            prop_assert_eq!((event.id, event.event, event.retry), (id, name, None));
        }
    }
}
