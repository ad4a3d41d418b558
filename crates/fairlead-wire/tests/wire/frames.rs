//! Tables for reading messages.

use bytes::Bytes;
use fairlead_wire::{Field, Frame, FrameError, Incoming, Kind, Limits, Method};

fn parse(text: &str) -> Result<Frame, FrameError> {
    Frame::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::default())
}

#[test]
fn messages_are_told_apart() {
    for (text, kind, id, method) in [
        (r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, Kind::Request, Some("7"), "ping"),
        (r#" {"method":"ping","id":"a\"b","jsonrpc":"2.0"} "#, Kind::Request, Some(r#""a\"b""#), "ping"),
        (r#"{"jsonrpc":"\u0032.0","id":-1,"m\u0065thod":"p\u0069ng"}"#, Kind::Request, Some("-1"), "ping"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"acme/\u0064o"}"#, Kind::Request, Some("1"), "acme/do"),
        (
            r#"{"jsonrpc":"2.0","id":12345678901234567890123,"method":"x"}"#,
            Kind::Request,
            Some("12345678901234567890123"),
            "x",
        ),
        (r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, Kind::Notification, None, "notifications/x"),
        (r#"{"jsonrpc":"2.0","method":"x","params":null}"#, Kind::Notification, None, "x"),
        (r#"{"jsonrpc":"2.0","id":0,"result":{}}"#, Kind::Result, Some("0"), ""),
        (r#"{"jsonrpc":"2.0","id":"","result":null}"#, Kind::Result, Some("\"\""), ""),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":""}}"#, Kind::Error, Some("1"), ""),
        (r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":""}}"#, Kind::Error, None, ""),
        (r#"{"jsonrpc":"2.0","error":{"code":-1,"message":""}}"#, Kind::Error, None, ""),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","unknown":{"id":2,"method":3}}"#, Kind::Request, Some("1"), "x"),
    ] {
        let frame = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((frame.kind(), frame.id(), frame.method()), (kind, id, method), "{text}");
        assert_eq!(frame.method_class(), Method::of(method));
        assert_eq!(frame.bytes(), text);
        assert_eq!(frame.error_code(), (kind == Kind::Error).then_some(-1));
    }
}

#[test]
fn every_member_is_found_where_it_is() {
    use Field as F;
    let request = r#"{"jsonrpc":"2.0","id":"i","method":"m","params":{"name":"n","uri":"u","cursor":"c","taskId":"t","requestState":"s",
        "inputResponses":{"k":1},"arguments":{"name":"no","_meta":{"progressToken":0}},"ref":{"type":"ref/prompt","name":"rn","uri":"ru"},
        "level":"debug","progressToken":1,"requestId":2,"protocolVersion":"pv","capabilities":{},"clientInfo":{"name":"ci"},
        "notifications":{"a":true},"_meta":{"progressToken":3,"io.modelcontextprotocol/protocolVersion":"2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":{"roots":{}},"io.modelcontextprotocol/clientInfo":{"name":"mi"},
        "io.modelcontextprotocol/logLevel":"info","io.modelcontextprotocol/subscriptionId":5,"vendor/x":[]}}}"#;
    let frame = parse(request).unwrap();
    assert!(frame.is_modern());
    for (field, raw) in [
        (F::JsonRpc, r#""2.0""#),
        (F::Id, r#""i""#),
        (F::Method, r#""m""#),
        (F::Name, r#""n""#),
        (F::Uri, r#""u""#),
        (F::Cursor, r#""c""#),
        (F::TaskId, r#""t""#),
        (F::RequestState, r#""s""#),
        (F::InputResponses, r#"{"k":1}"#),
        (F::Arguments, r#"{"name":"no","_meta":{"progressToken":0}}"#),
        (F::Ref, r#"{"type":"ref/prompt","name":"rn","uri":"ru"}"#),
        (F::RefName, r#""rn""#),
        (F::RefUri, r#""ru""#),
        (F::Level, r#""debug""#),
        (F::ParamProgressToken, "1"),
        (F::ParamRequestId, "2"),
        (F::ParamProtocolVersion, r#""pv""#),
        (F::ParamCapabilities, "{}"),
        (F::ParamClientInfo, r#"{"name":"ci"}"#),
        (F::ParamNotifications, r#"{"a":true}"#),
        (F::ProgressToken, "3"),
        (F::MetaProtocolVersion, r#""2026-07-28""#),
        (F::MetaClientCapabilities, r#"{"roots":{}}"#),
        (F::MetaClientInfo, r#"{"name":"mi"}"#),
        (F::MetaLogLevel, r#""info""#),
        (F::MetaSubscriptionId, "5"),
    ] {
        assert_eq!(frame.raw(field), Some(raw), "{field:?}");
        assert_eq!(frame.slice(field).unwrap(), raw);
        assert_eq!(&request[frame.span(field).unwrap().range()], raw);
        assert_eq!(frame.str(field).is_some(), raw.starts_with('"'));
    }
    assert!(
        frame.raw(F::Params).unwrap().starts_with(r#"{"name":"n""#) && frame.raw(F::Params).unwrap().ends_with("[]}}")
    );
    assert!(frame.raw(F::Meta).unwrap().ends_with(r#""vendor/x":[]}"#));
    for absent in [F::Result, F::Error, F::ErrorCode, F::ResultMeta, F::NextCursor] {
        assert_eq!((frame.span(absent), frame.raw(absent), frame.str(absent)), (None, None, None));
    }

    let result = r#"{"result":{"resultType":"complete","_meta":{"a":1},"nextCursor":"","ttlMs":5,"cacheScope":"private","content":[{"_meta":{}}]},
        "id":1,"jsonrpc":"2.0"}"#;
    let frame = parse(result).unwrap();
    assert!(!frame.is_modern());
    for (field, raw) in [
        (F::ResultType, r#""complete""#),
        (F::ResultMeta, r#"{"a":1}"#),
        (F::NextCursor, r#""""#),
        (F::ResultTtlMs, "5"),
        (F::ResultCacheScope, r#""private""#),
    ] {
        assert_eq!(frame.raw(field), Some(raw), "{field:?}");
    }

    let error =
        parse(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"m\u00e4","data":{"code":1}}}"#).unwrap();
    assert_eq!(error.error_code(), Some(-32602));
    assert_eq!(error.str(F::ErrorMessage).unwrap(), "mä");
    assert_eq!(error.raw(F::ErrorData), Some(r#"{"code":1}"#));
}

#[test]
fn strings_decode_and_other_values_do_not() {
    let with = |raw: &str| parse(&format!(r#"{{"jsonrpc":"2.0","method":"m","params":{{"name":{raw}}}}}"#)).unwrap();
    for (raw, text) in [
        (r#""""#, Some("")),
        (r#""plain ä🦀""#, Some("plain ä🦀")),
        (r#""\u0041\ud83e\udd80\n\/""#, Some("A🦀\n/")),
        (r#""\ud800""#, None),
        ("1", None),
        ("null", None),
        ("{}", None),
    ] {
        assert_eq!(with(raw).str(Field::Name).as_deref(), text, "{raw}");
    }
}

#[test]
fn what_is_not_a_message_is_refused_with_a_reason() {
    let deep = |open: &str, depth: usize| open.repeat(depth);
    for (text, expected, code) in [
        ("", "the message is not valid JSON (byte 0)", -32700),
        ("{", "the message is not valid JSON (byte 1)", -32700),
        (r#"{"jsonrpc":"2.0",}"#, "the message is not valid JSON (byte 17)", -32700),
        (r#"{"jsonrpc":"2.0","method":"x"}}"#, "the message is not valid JSON (byte 30)", -32700),
        ("[1,]", "the message is not valid JSON (byte 3)", -32700),
        ("42", "a JSON-RPC message must be a JSON object", -32600),
        ("\"{}\"", "a JSON-RPC message must be a JSON object", -32600),
        ("[]", "batches are not accepted here: send one message at a time", -32600),
        ("{}", "not a JSON-RPC 2.0 message: the member \"jsonrpc\" is missing", -32600),
        (r#"{"jsonrpc":"1.0"}"#, "not a JSON-RPC 2.0 message: the member \"jsonrpc\" must be \"2.0\"", -32600),
        (r#"{"jsonrpc":2.0}"#, "not a JSON-RPC 2.0 message: the member \"jsonrpc\" must be \"2.0\"", -32600),
        (
            r#"{"jsonrpc":"2.0","id":1}"#,
            "not a JSON-RPC 2.0 message: there is neither a method, nor a result, nor an error",
            -32600,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, "not a JSON-RPC 2.0 message: the method must be a string", -32600),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#,
            "not a JSON-RPC 2.0 message: the method must be a string",
            -32600,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, "not a JSON-RPC 2.0 message: the method must not be empty", -32600),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[]}"#,
            "not a JSON-RPC 2.0 message: params must be an object",
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#,
            "not a JSON-RPC 2.0 message: a message with a method cannot have a result or an error",
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
            "not a JSON-RPC 2.0 message: a response cannot have both a result and an error",
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":"no"}"#,
            "not a JSON-RPC 2.0 message: an error must be an object with an integer code",
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":""}}"#,
            "not a JSON-RPC 2.0 message: an error must be an object with an integer code",
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#,
            "not a JSON-RPC 2.0 message: an error must have a message that is a string",
            -32600,
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.to_string(), error.rpc_code()), (expected.to_owned(), code), "{text}");
    }
    for id in ["null", "1.0", "1e2", "true", "{}", "[1]", &format!("\"{}\"", "x".repeat(255)), &"1".repeat(257)] {
        let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x"}}"#);
        assert_eq!(parse(&request).unwrap_err(), FrameError::BadId, "{id}");
        let result = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        assert_eq!(parse(&result).unwrap_err(), FrameError::BadId, "{id}");
    }
    assert_eq!(parse(r#"{"jsonrpc":"2.0","result":{}}"#).unwrap_err(), FrameError::BadId);
    assert!(parse(&format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"x"}}"#, "x".repeat(254))).is_ok());
    assert_eq!(
        Frame::parse(Bytes::from_static(b"{\"a\":\"\xff\"}"), &Limits::default()).unwrap_err(),
        FrameError::NotUtf8
    );
    assert_eq!(parse(&deep("[", 200_000)).unwrap_err(), FrameError::TooDeep);
    assert_eq!(parse(&deep("{\"params\":", 200_000)).unwrap_err(), FrameError::TooDeep);
}

#[test]
fn depth_is_bounded_at_the_limit() {
    for (depth, ok) in [(126, true), (127, false)] {
        let text =
            format!(r#"{{"jsonrpc":"2.0","method":"x","params":{{"a":{}{}}}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(parse(&text).err(), (!ok).then_some(FrameError::TooDeep), "{depth}");
    }
}

#[test]
fn a_routed_member_that_occurs_twice_is_refused() {
    for (text, member) in [
        (r#"{"jsonrpc":"2.0","jsonrpc":"2.0","method":"x"}"#, "jsonrpc"),
        (r#"{"jsonrpc":"2.0","method":"x","m\u0065thod":"y"}"#, "method"),
        (r#"{"jsonrpc":"2.0","method":"x","params":{},"params":{}}"#, "params"),
        (r#"{"jsonrpc":"2.0","method":"x","v":1,"\u0076":2}"#, "v"),
        (r#"{"jsonrpc":"2.0","method":"x","params":{"name":"a","n\u0061me":"b"}}"#, "name"),
        (r#"{"jsonrpc":"2.0","method":"x","params":{"_meta":{},"_meta":{}}}"#, "_meta"),
        (r#"{"jsonrpc":"2.0","method":"x","params":{"_meta":{"progressToken":1,"progressToken":1}}}"#, "progressToken"),
        (r#"{"jsonrpc":"2.0","method":"x","params":{"arguments":{},"arguments":null}}"#, "arguments"),
        (r#"{"jsonrpc":"2.0","method":"x","params":{"ref":{"name":"a","name":"b"}}}"#, "name"),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"nextCursor":"a","nextCursor":"b"}}"#, "nextCursor"),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"code":2,"message":""}}"#, "code"),
    ] {
        assert_eq!(parse(text).unwrap_err(), FrameError::DuplicateMember(member.to_owned()), "{text}");
    }
    // The key in the error is shortened.
    let key = "k".repeat(5000);
    let error = parse(&format!(r#"{{"jsonrpc":"2.0","method":"x","{key}":1,"{key}":2}}"#)).unwrap_err();
    assert_eq!(error, FrameError::DuplicateMember("k".repeat(64)));
    // Not routed, not ours to judge.
    for text in [
        r#"{"jsonrpc":"2.0","method":"x","params":{"v":1,"v":2,"arguments":{"a":1,"a":2}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"content":[]}}"#,
    ] {
        assert!(parse(text).is_ok(), "{text}");
    }
}

#[test]
fn batches_are_read_in_order_and_bounded() {
    let incoming = |text: &str, limits: &Limits| Incoming::parse(&Bytes::copy_from_slice(text.as_bytes()), limits);
    let limits = Limits { max_batch: 3, ..Limits::default() };
    let one = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert!(matches!(incoming(one, &limits), Ok(Incoming::One(frame)) if frame.id() == Some("1")));
    let batch = format!(
        " [ {one} ,{{\"jsonrpc\":\"2.0\",\"method\":\"n\"}}\n, {{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{{}}}} ] "
    );
    let Ok(Incoming::Batch(frames)) = incoming(&batch, &limits) else { panic!("not a batch") };
    assert_eq!(frames.iter().map(Frame::kind).collect::<Vec<_>>(), [Kind::Request, Kind::Notification, Kind::Result]);
    assert_eq!(frames[0].bytes(), one);
    for (text, error) in [
        ("[]", FrameError::EmptyBatch),
        (&format!("[{one},{one},{one},{one}]"), FrameError::BatchTooLong),
        (&format!("[{one},[{one}]]"), FrameError::Batch),
        (&format!("[{one},1]"), FrameError::NotAnObject),
        (&format!("[{one}"), FrameError::NotJson { offset: 1 + one.len() }),
        (&format!("[{one}]]"), FrameError::NotJson { offset: 2 + one.len() }),
    ] {
        assert_eq!(incoming(text, &limits).unwrap_err(), error, "{text}");
    }
}

#[test]
fn debug_output_has_no_content() {
    let frame =
        parse(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"password":"hunter2"}}}"#)
            .unwrap();
    let shown = format!("{frame:?}");
    assert!(shown.contains("tools/call") && !shown.contains("hunter2"), "{shown}");
}
