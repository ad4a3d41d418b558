//! Tables for splices.

use bytes::Bytes;
use fairlead_wire::edit::{Edits, single_line};
use fairlead_wire::{Field, Frame, Limits, Span};

fn frame(params: &str) -> Frame {
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{params}}}"#);
    Frame::parse(Bytes::from(text), &Limits::default()).unwrap()
}

/// Params before and after edits.
fn check(params: &str, make: impl Fn(&Frame, &mut Edits), expected: &str) {
    let frame = frame(params);
    let mut edits = Edits::new();
    make(&frame, &mut edits);
    let edited = edits.apply(frame.bytes());
    let text = String::from_utf8(edited.to_vec()).unwrap();
    assert_eq!(text, format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{expected}}}"#), "{params}");
    Frame::parse(edited, &Limits::default()).unwrap();
}

#[test]
fn members_are_removed_with_one_comma() {
    use Field::{Cursor, Name, Uri};
    for (params, fields, expected) in [
        (r#"{"name":"a"}"#, &[Name][..], "{}"),
        (r#"{ "name" : "a" }"#, &[Name], "{  }"),
        (r#"{"name":"a","b":1}"#, &[Name], r#"{"b":1}"#),
        (r#"{"b":1,"name":"a"}"#, &[Name], r#"{"b":1}"#),
        (r#"{"b":1 , "name" : "a" }"#, &[Name], r#"{"b":1  }"#),
        (r#"{"b":1,"name":"a","c":2}"#, &[Name], r#"{"b":1,"c":2}"#),
        ("{\n \"b\":1,\n \"name\":\"a\",\n \"c\":2\n}", &[Name], "{\n \"b\":1,\n \n \"c\":2\n}"),
        (r#"{"n\u0061me":"a","b":1}"#, &[Name], r#"{"b":1}"#),
        (r#"{"\\\"":0,"name":"a"}"#, &[Name], r#"{"\\\"":0}"#),
        (r#"{"name":"a","cursor":"c"}"#, &[Name, Cursor], "{}"),
        (r#"{"x":0,"name":"a","cursor":"c"}"#, &[Cursor, Name], r#"{"x":0}"#),
        (r#"{"name":"a","cursor":"c","x":0}"#, &[Name, Cursor], r#"{"x":0}"#),
        (r#"{"name":"a","x":0,"cursor":"c"}"#, &[Name, Cursor], r#"{"x":0}"#),
        (r#"{"name":"a" , "cursor":"c" , "uri":"u"}"#, &[Uri, Name, Cursor], "{}"),
        (r#"{"w":0,"name":"a","x":0,"cursor":"c","y":0,"uri":"u"}"#, &[Uri, Name, Cursor], r#"{"w":0,"x":0,"y":0}"#),
        (r#"{"name":"a"}"#, &[Name, Name], "{}"),
        (r#"{"name":"a"}"#, &[Cursor], r#"{"name":"a"}"#),
    ] {
        check(params, |frame, edits| fields.iter().for_each(|field| edits.remove_member(frame, *field)), expected);
    }
}

#[test]
fn members_are_inserted_first_and_in_order() {
    for (params, expected) in [
        ("{}", r#"{"a":1,"b\"":{}}"#),
        ("{ }", r#"{"a":1,"b\"":{} }"#),
        (r#"{"x":0}"#, r#"{"a":1,"b\"":{},"x":0}"#),
        (r#"{ "x":0}"#, r#"{"a":1,"b\"":{}, "x":0}"#),
        ("null", r#"{"a":1,"b\"":{}}"#),
    ] {
        let insert = |frame: &Frame, edits: &mut Edits| {
            let params = frame.span(Field::Params).unwrap();
            edits.insert_first(params, "a", "1");
            edits.insert_first(params, "b\"", "{}");
        };
        check(params, insert, expected);
    }
}

#[test]
fn edits_that_meet_are_settled() {
    let params = |frame: &Frame| frame.span(Field::Params).unwrap();
    let name = |frame: &Frame| frame.span(Field::Name).unwrap();
    // Insert, and remove all there is.
    check(
        r#"{ "name":"a" }"#,
        |frame, edits| {
            edits.remove_member(frame, Field::Name);
            edits.insert_first(params(frame), "n", "1");
        },
        r#"{"n":1  }"#,
    );
    // Insert, and remove the first of two.
    check(
        r#"{"name":"a","b":1}"#,
        |frame, edits| {
            edits.insert_first(params(frame), "n", "1");
            edits.remove_member(frame, Field::Name);
        },
        r#"{"n":1,"b":1}"#,
    );
    // Insert, and replace the first value.
    check(
        r#"{"name":"a"}"#,
        |frame, edits| {
            edits.replace(name(frame), "\"b\"");
            edits.insert_first(params(frame), "n", "1");
        },
        r#"{"n":1,"name":"b"}"#,
    );
    // Replace twice: the later.
    check(
        r#"{"name":"a"}"#,
        |frame, edits| {
            edits.replace(name(frame), "\"b\"");
            edits.replace(name(frame), "\"c\"");
        },
        r#"{"name":"c"}"#,
    );
    // Inside what is removed or replaced: dropped, in whatever order.
    check(
        r#"{"_meta":{"progressToken":1,"x":2},"name":"a"}"#,
        |frame, edits| {
            edits.replace(frame.span(Field::ProgressToken).unwrap(), "9");
            edits.insert_first(frame.span(Field::Meta).unwrap(), "n", "1");
            edits.remove_member(frame, Field::Meta);
            edits.remove_member(frame, Field::ProgressToken);
        },
        r#"{"name":"a"}"#,
    );
    check(
        r#"{"x":0,"_meta":{"progressToken":1},"name":"a"}"#,
        |frame, edits| {
            edits.replace(frame.span(Field::ProgressToken).unwrap(), "9");
            edits.remove_member(frame, Field::Meta);
            edits.remove_member(frame, Field::Name);
        },
        r#"{"x":0}"#,
    );
    check(
        r#"{"_meta":{"progressToken":1},"name":"a"}"#,
        |frame, edits| {
            edits.insert_first(frame.span(Field::Meta).unwrap(), "n", "1");
            edits.replace(frame.span(Field::ProgressToken).unwrap(), "9");
            edits.replace(frame.span(Field::Meta).unwrap(), "{}");
        },
        r#"{"_meta":{},"name":"a"}"#,
    );
    // Several at once, given from back to front.
    check(
        r#"{"name":"a","cursor":"c","_meta":{"progressToken":1},"taskId":"t"}"#,
        |frame, edits| {
            edits.replace(frame.span(Field::TaskId).unwrap(), "\"T\"");
            edits.replace(frame.span(Field::ProgressToken).unwrap(), "\"p\"");
            edits.insert_first(frame.span(Field::Meta).unwrap(), "n", "1");
            edits.remove_member(frame, Field::Cursor);
            edits.replace(name(frame), "\"A\"");
        },
        r#"{"name":"A","_meta":{"n":1,"progressToken":"p"},"taskId":"T"}"#,
    );
}

#[test]
fn nothing_to_do_copies_nothing() {
    let frame = frame(r#"{"name":"a"}"#);
    let mut edits = Edits::new();
    edits.remove_member(&frame, Field::Cursor);
    assert!(edits.is_empty());
    assert_eq!(edits.apply(frame.bytes()).as_ptr(), frame.bytes().as_ptr());
}

#[test]
fn spans_of_another_source_do_no_harm() {
    let mut edits = Edits::new();
    for (start, end) in [(0, 1), (3, 90), (90, 99), (5, 2), (u32::MAX, u32::MAX)] {
        edits.replace(Span { start, end }, "1");
        edits.insert_first(Span { start, end }, "k", "1");
    }
    for source in ["", "{}", "null", "{\"a\":1}"] {
        let source = Bytes::from_static(source.as_bytes());
        let _ = edits.apply(&source);
        for (start, end) in [(1, 90), (90, 99), (1, 0), (u32::MAX, u32::MAX)] {
            assert_eq!(Edits::new().apply_with(&source, Span { start, end }, b"1"), source);
        }
    }
}

#[test]
fn line_breaks_become_spaces() {
    for (text, line) in [("{}", "{}"), ("{\n\"a\":\r\n1}\n", "{ \"a\":  1} "), (r#"{"a":"\n"}"#, r#"{"a":"\n"}"#)] {
        let source = Bytes::from_static(text.as_bytes());
        let single = single_line(&source);
        assert_eq!(single, line);
        assert_eq!(single.as_ptr() == source.as_ptr(), text == line);
    }
}
