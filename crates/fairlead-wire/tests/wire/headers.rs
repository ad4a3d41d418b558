//! Tables for headers.

use bytes::Bytes;
use fairlead_wire::header::{
    BadAnnotation, HeaderError, MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, ParamHeaders, check_standard, decode_value,
    encode_value, standard_name,
};
use fairlead_wire::{Frame, Limits};
use http::{HeaderMap, HeaderName, HeaderValue};

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn headers(text: &str) -> HeaderMap {
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(name, value)| (HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

#[test]
fn values_travel_encoded_where_they_must() {
    for (value, header) in [
        ("us-west1", "us-west1"),
        ("", ""),
        ("a b", "a b"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("=?BASE64?x?=", "=?BASE64?x?="),
        ("=?base64?x", "=?base64?x"),
        ("=?base64?=", "=?base64?="),
    ] {
        let encoded = encode_value(value);
        assert_eq!(encoded, header, "{value}");
        assert_eq!(decode_value(&encoded).unwrap(), value);
    }
    for bad in ["=?base64?%%%?=", "=?base64?YQ?=", "=?base64?YR==?=", "=?base64?/w==?=", "=?base64?Y Q==?="] {
        assert_eq!(decode_value(&HeaderValue::from_str(bad).unwrap()), Err(HeaderError::Undecodable), "{bad}");
    }
    assert_eq!(decode_value(&HeaderValue::from_bytes(b"caf\xe9").unwrap()), Err(HeaderError::Undecodable));
}

#[test]
fn standard_headers_must_agree_with_the_body() {
    let good = "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call\nMcp-Name: look\n";
    let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"look",{META}}}}}"#);
    let list = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{META}}}}}"#);
    let read = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"uri":"file:///ä",{META}}}}}"#);
    let task = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{{"taskId":"t-1",{META}}}}}"#);
    let nameless = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{META}}}}}"#);
    let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let notice = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let mismatch = |name| Err(HeaderError::Mismatch(name));
    for (body, lines, expected) in [
        (&*call, good, Ok(())),
        (&call, "mcp-protocol-version: 2026-07-28\nmcp-method: tools/call\nmcp-name: =?base64?bG9vaw==?=", Ok(())),
        (&call, "Mcp-Method: tools/call\nMcp-Name: look", Err(HeaderError::Missing(MCP_PROTOCOL_VERSION))),
        (&call, "MCP-Protocol-Version: 2026-07-28\nMcp-Name: look", Err(HeaderError::Missing(MCP_METHOD))),
        (&call, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call", Err(HeaderError::Missing(MCP_NAME))),
        (&call, &good.replace("2026-07-28", "2025-11-25"), mismatch(MCP_PROTOCOL_VERSION)),
        (&call, &good.replace("tools/call", "tools/list"), mismatch(MCP_METHOD)),
        (&call, &good.replace("tools/call", "Tools/Call"), mismatch(MCP_METHOD)),
        (&call, &good.replace(": look", ": other"), mismatch(MCP_NAME)),
        (&call, &good.replace(": look", ": Look"), mismatch(MCP_NAME)),
        (&call, &good.replace(": look", ": =?base64?!?="), Err(HeaderError::BadValue(MCP_NAME))),
        (&call, &format!("{good}Mcp-Name: look"), Err(HeaderError::Duplicate(MCP_NAME))),
        (&call, &format!("{good}Mcp-Method: tools/call"), Err(HeaderError::Duplicate(MCP_METHOD))),
        (&call, &format!("{good}Mcp-Protocol-Version: 2026-07-28"), Err(HeaderError::Duplicate(MCP_PROTOCOL_VERSION))),
        (&list, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list", Ok(())),
        (&list, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list\nMcp-Name: ignored", Ok(())),
        (
            &read,
            "MCP-Protocol-Version: 2026-07-28\nMcp-Method: resources/read\nMcp-Name: =?base64?ZmlsZTovLy/DpA==?=",
            Ok(()),
        ),
        (&read, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: resources/read\nMcp-Name: file:///", mismatch(MCP_NAME)),
        (&task, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tasks/get\nMcp-Name: t-1", Ok(())),
        (&task, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tasks/get", Err(HeaderError::Missing(MCP_NAME))),
        (&nameless, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/call", Ok(())),
        (&nameless, good, mismatch(MCP_NAME)),
        (bare, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list", mismatch(MCP_PROTOCOL_VERSION)),
        (notice, "", Ok(())),
        (notice, "MCP-Protocol-Version: 2026-07-28\nMcp-Method: notifications/cancelled", Ok(())),
        (notice, "Mcp-Method: notifications/progress", mismatch(MCP_METHOD)),
    ] {
        let frame = Frame::parse(Bytes::copy_from_slice(body.as_bytes()), &Limits::default()).unwrap();
        assert_eq!(check_standard(&headers(lines), &frame), expected, "{body}\n{lines}");
    }
    let frame = Frame::parse(Bytes::from(read), &Limits::default()).unwrap();
    assert_eq!(standard_name(&frame).unwrap(), "file:///ä");
    assert_eq!(
        HeaderError::Mismatch(MCP_NAME).to_string(),
        "Header mismatch: the mcp-name header does not match the body"
    );
}

#[test]
fn annotations_are_read_and_bad_ones_refused() {
    let ok = |schema: &str| ParamHeaders::from_schema(schema).map(|params| !params.is_empty());
    for (schema, expected) in [
        (r#"{"type":"object","properties":{"a":{"type":"string"}}}"#, Ok(false)),
        ("not json with x-mcp-header", Ok(false)),
        (r#"["x-mcp-header"]"#, Ok(false)),
        (r#"{"properties":{"x-mcp-header":{"type":"string"}}}"#, Ok(false)),
        (
            r#"{"properties":{"a":{"type":"string","default":{"x-mcp-header":"A"},"enum":[{"x-mcp-header":"A"}]}}}"#,
            Ok(false),
        ),
        (r#"{"properties":{"a":{"type":"string","x-mcp-header":"Region"}}}"#, Ok(true)),
        (r#"{"properties":{"a":{"type":"string","x\u002dmcp-header":"Region"}}}"#, Ok(true)),
        (
            r#"{"properties":{"o":{"type":"object","properties":{"a":{"type":"integer","x-mcp-header":"Deep"}}}}}"#,
            Ok(true),
        ),
        (r#"{"properties":{"a":{"type":"boolean","x-mcp-header":""}}}"#, Err(BadAnnotation::NotAToken)),
        (r#"{"properties":{"a":{"type":"string","x-mcp-header":"a b"}}}"#, Err(BadAnnotation::NotAToken)),
        (r#"{"properties":{"a":{"type":"string","x-mcp-header":"a\r\nb"}}}"#, Err(BadAnnotation::NotAToken)),
        (r#"{"properties":{"a":{"type":"string","x-mcp-header":"ä"}}}"#, Err(BadAnnotation::NotAToken)),
        (r#"{"properties":{"a":{"type":"string","x-mcp-header":5}}}"#, Err(BadAnnotation::NotAString)),
        (r#"{"properties":{"a":{"type":"number","x-mcp-header":"N"}}}"#, Err(BadAnnotation::NotPrimitive("N".into()))),
        (r#"{"properties":{"a":{"x-mcp-header":"N"}}}"#, Err(BadAnnotation::NotPrimitive("N".into()))),
        (
            r#"{"properties":{"a":{"type":["string"],"x-mcp-header":"N"}}}"#,
            Err(BadAnnotation::NotPrimitive("N".into())),
        ),
        (
            r#"{"properties":{"a":{"type":"string","x-mcp-header":"N"},"b":{"type":"string","x-mcp-header":"n"}}}"#,
            Err(BadAnnotation::Duplicate("n".into())),
        ),
        (r#"{"x-mcp-header":"N","type":"string"}"#, Err(BadAnnotation::Unreachable)),
        (r#"{"properties":{"a":{"items":{"type":"string","x-mcp-header":"N"}}}}"#, Err(BadAnnotation::Unreachable)),
        (r#"{"oneOf":[{"properties":{"a":{"type":"string","x-mcp-header":"N"}}}]}"#, Err(BadAnnotation::Unreachable)),
        (r#"{"if":{"properties":{"a":{"type":"string","x-mcp-header":"N"}}}}"#, Err(BadAnnotation::Unreachable)),
        (r#"{"$defs":{"d":{"type":"string","x-mcp-header":"N"}}}"#, Err(BadAnnotation::Unreachable)),
        (r#"{"patternProperties":{"^a":{"type":"string","x-mcp-header":"N"}}}"#, Err(BadAnnotation::Unreachable)),
        (r#"{"additionalProperties":{"type":"string","x-mcp-header":"N"}}"#, Err(BadAnnotation::Unreachable)),
    ] {
        assert_eq!(ok(schema), expected, "{schema}");
    }
    let many = |count: usize| {
        let properties: Vec<_> =
            (0..count).map(|n| format!(r#""p{n}":{{"type":"string","x-mcp-header":"H{n}"}}"#)).collect();
        ok(&format!(r#"{{"properties":{{{}}}}}"#, properties.join(",")))
    };
    assert_eq!((many(64), many(65)), (Ok(true), Err(BadAnnotation::TooMany)));
    let bottomless = format!("{{\"x-mcp-header\":{}", "{\"items\":".repeat(100_000));
    assert_eq!(ok(&bottomless), Ok(false));
}

const SCHEMA: &str = r#"{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"Count"},
    "b":{"type":"boolean","x-mcp-header":"Flag"},"o":{"type":"object","properties":{"in":{"type":"object","properties":{
    "x":{"type":"string","x-mcp-header":"Deep"}}}}}}}"#;

#[test]
fn arguments_are_mirrored_and_checked() {
    let params = ParamHeaders::from_schema(SCHEMA).unwrap();
    for (arguments, lines) in [
        ("{}", ""),
        ("null", ""),
        ("[1]", ""),
        (r#"{"other":"x"}"#, ""),
        (r#"{"region":null,"n":null}"#, ""),
        (r#"{"region":"us-west1","n":42,"b":true}"#, "flag: true\ncount: 42\nregion: us-west1"),
        (r#"{"n":-7,"b":false,"region":"ä"}"#, "flag: false\ncount: -7\nregion: =?base64?w6Q=?="),
        (r#"{"n":42.0}"#, "count: 42"),
        (r#"{"n":4.2e1}"#, "count: 42"),
        (r#"{"n":1.5}"#, "count: 1.5"),
        (r#"{"o":{"in":{"x":"y"}}}"#, "deep: y"),
        (r#"{"o":{"in":"x"},"x":"no"}"#, ""),
        (r#"{"o":{"in":{"x":"y"}},"o":{}}"#, ""),
        (r#"{"r\u0065gion":"\u0061"}"#, "region: a"),
        (r#"{"region":{"deep":1}}"#, ""),
    ] {
        let encoded = params.encode(Some(arguments));
        let shown: Vec<_> = encoded
            .iter()
            .map(|(name, value)| {
                format!("{}: {}", name.as_str().strip_prefix("mcp-param-").unwrap(), value.to_str().unwrap())
            })
            .collect();
        let mut shown_sorted = shown.clone();
        shown_sorted.sort();
        let mut expected: Vec<_> = lines.lines().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(shown_sorted, expected, "{arguments}");
        assert_eq!(params.check(&encoded.into_iter().collect(), Some(arguments)), Ok(()), "{arguments}");
    }
    assert!(params.encode(None).is_empty());
    assert_eq!(params.check(&HeaderMap::new(), None), Ok(()));
}

#[test]
fn mirrored_arguments_must_agree() {
    let params = ParamHeaders::from_schema(SCHEMA).unwrap();
    let count = || HeaderName::from_static("mcp-param-count");
    let region = || HeaderName::from_static("mcp-param-region");
    let flag = || HeaderName::from_static("mcp-param-flag");
    for (arguments, lines, expected) in [
        (r#"{"n":42}"#, "Mcp-Param-Count: 42", Ok(())),
        (r#"{"n":42}"#, "Mcp-Param-Count: 42.0", Ok(())),
        (r#"{"n":42.0}"#, "Mcp-Param-Count: 42", Ok(())),
        (r#"{"n":42}"#, "Mcp-Param-Count: 4.2e1", Ok(())),
        (r#"{"n":42}"#, "Mcp-Param-Count: 43", Err(HeaderError::Mismatch(count()))),
        (r#"{"n":42}"#, "Mcp-Param-Count: +42", Err(HeaderError::Mismatch(count()))),
        (r#"{"n":42}"#, "Mcp-Param-Count: 042", Err(HeaderError::Mismatch(count()))),
        (r#"{"n":42}"#, "Mcp-Param-Count: 0x2a", Err(HeaderError::Mismatch(count()))),
        (r#"{"n":9007199254740993}"#, "Mcp-Param-Count: 9007199254740992", Err(HeaderError::Mismatch(count()))),
        (r#"{"n":9007199254740993}"#, "Mcp-Param-Count: 9007199254740993", Ok(())),
        (r#"{"n":1e999}"#, "Mcp-Param-Count: 2e999", Err(HeaderError::Mismatch(count()))),
        (r#"{"n":"42"}"#, "Mcp-Param-Count: 42", Ok(())),
        (r#"{"n":42}"#, "", Err(HeaderError::Missing(count()))),
        ("{}", "Mcp-Param-Count: 42", Err(HeaderError::Mismatch(count()))),
        (r#"{"n":null}"#, "Mcp-Param-Count: null", Err(HeaderError::Mismatch(count()))),
        (r#"{"n":42}"#, "Mcp-Param-Count: 42\nMcp-Param-Count: 42", Err(HeaderError::Duplicate(count()))),
        (r#"{"b":true}"#, "Mcp-Param-Flag: True", Err(HeaderError::Mismatch(flag()))),
        (r#"{"region":"a"}"#, "Mcp-Param-Region: A", Err(HeaderError::Mismatch(region()))),
        (r#"{"region":"a"}"#, "Mcp-Param-Region: =?base64?YQ==?=\nMcp-Param-Unknown: x", Ok(())),
        (r#"{"region":"a"}"#, "Mcp-Param-Region: =?base64?YQ?=", Err(HeaderError::BadValue(region()))),
        (r#"{"region":"\ud800"}"#, "Mcp-Param-Region: x", Err(HeaderError::Mismatch(region()))),
    ] {
        assert_eq!(params.check(&headers(lines), Some(arguments)), expected, "{arguments} {lines}");
    }
}
