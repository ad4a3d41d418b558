//! What typed models lose on the way through, and this crate must not: each message is parsed, gets a new id, another tool
//! name and another progress token, and must otherwise be the same byte for byte.

use bytes::Bytes;
use fairlead_wire::edit::Edits;
use fairlead_wire::{Field, Frame, Incoming, Limits};

/// Source spellings, chosen so that each occurs only where it is to be replaced.
const REWRITES: [(Field, &str, &str); 4] = [
    (Field::Id, "\"client-7\"", "4711"),
    (Field::Name, "\"crm__lookup\"", "\"lookup\""),
    (Field::ProgressToken, "\"client-token\"", "\"gw-1\""),
    (Field::ParamProgressToken, "\"server-token\"", "\"client-token\""),
];

/// The table of differences seen in typed implementations, one or more messages to a row.
const TABLE: &[(&str, &str)] = &[
    (
        "an extension's result with _meta and own members",
        r#"{"jsonrpc":"2.0","id":"client-7","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"skills":[{"id":"a"}],"own":null}}"#,
    ),
    (
        "the result that creates a task, with _meta",
        r#"{"jsonrpc":"2.0","id":"client-7","result":{"_meta":{"x/y":1},"task":{"taskId":"t1","status":"working","ttl":null,"pollInterval":500}}}"#,
    ),
    (
        "a flat task result",
        r#"{"jsonrpc":"2.0","id":"client-7","result":{"resultType":"task","taskId":"t1","status":"working","ttlMs":60000,"pollIntervalMs":10}}"#,
    ),
    (
        "a tool with task support and a vendor's member",
        r#"{"jsonrpc":"2.0","id":"client-7","result":{"tools":[{"name":"a","inputSchema":{"type":"object","zeta":1,"alpha":2},"execution":{"taskSupport":"optional"},"vendor":{"k":[1.0]}}],"nextCursor":""}}"#,
    ),
    (
        "unknown capabilities from the client",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"tasks":{"list":{}},"telepathy":{"range":1e3}},"clientInfo":{"name":"c","version":"0","own":true}}}"#,
    ),
    (
        "unknown capabilities from the server",
        r#"{"jsonrpc":"2.0","id":"client-7","result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"tasks":{"requests":{"tools":{"call":{}}}},"telepathy":{}},"serverInfo":{"name":"s","version":"0"}}}"#,
    ),
    (
        "a call with a task and a vendor's parameter",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"task":{"ttl":1000},"name":"crm__lookup","arguments":{"q":1},"vendor":[],"_meta":{"progressToken":"client-token","v":0}}}"#,
    ),
    (
        "a call without arguments",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"name":"crm__lookup"}}"#,
    ),
    (
        "a call with null arguments",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"name":"crm__lookup","arguments":null}}"#,
    ),
    (
        "a listen filter with task ids and a vendor's key",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"taskIds":["t1"],"vendor":1},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#,
    ),
    (
        "unknown members in a result and in a content block",
        r#"{"jsonrpc":"2.0","id":"client-7","result":{"content":[{"type":"text","text":"hi","own":{"a":[]}}],"extra":"e"}}"#,
    ),
    (
        "progress with an extra member",
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"server-token","progress":0.50,"total":1,"eta":"soon"}}"#,
    ),
    (
        "numbers as they are spelled",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"name":"crm__lookup","arguments":{"a":12345678901234567890123,"b":1.10,"c":1E2,"d":-0,"e":1e400,"f":0.1e-7}}}"#,
    ),
    (
        "the order of members",
        r#"{"params":{"_meta":{"z":1,"progressToken":"client-token","a":2},"arguments":{"z":1,"y":2,"a":3},"name":"crm__lookup"},"method":"tools/call","id":"client-7","jsonrpc":"2.0"}"#,
    ),
    (
        "white space and escapes",
        "{ \"jsonrpc\" : \"2.0\" ,\t\"id\" : \"client-7\" ,\r\n \"method\" : \"tools\\/call\" , \"params\" : { \"n\\u0061me\" : \"crm__lookup\" , \"arguments\" : { \"\\u00e4\" : \"\\/\\u0041\" } } } ",
    ),
    (
        "members given twice in what is forwarded",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"tools/call","params":{"name":"crm__lookup","arguments":{"a":1,"a":2}}}"#,
    ),
    (
        "an unknown method",
        r#"{"jsonrpc":"2.0","id":"client-7","method":"acme/do","params":{"name":"crm__lookup","x":{}}}"#,
    ),
    ("an unknown notification", r#"{"jsonrpc":"2.0","method":"notifications/acme","params":{"x":[null]}}"#),
    (
        "an unknown content type",
        r#"{"jsonrpc":"2.0","id":"client-7","result":{"content":[{"type":"hologram","frames":[1,2.0]}]}}"#,
    ),
    (
        "an error with data",
        r#"{"jsonrpc":"2.0","id":"client-7","error":{"code":-32042,"message":"go there","data":{"elicitations":[{"mode":"url"}]},"own":1}}"#,
    ),
];

fn rewrite(frame: &Frame) -> Bytes {
    let mut edits = Edits::new();
    for (field, _, new) in REWRITES {
        if let Some(span) = frame.span(field) {
            edits.replace(span, new);
        }
    }
    edits.apply(frame.bytes())
}

/// What the rewrites make of the text, by searching and not by parsing. The longest way round: each once, in one pass.
fn expected(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((at, (_, old, new))) =
        REWRITES.iter().filter_map(|rewrite| rest.find(rewrite.1).map(|at| (at, rewrite))).min_by_key(|(at, _)| *at)
    {
        out.push_str(&rest[..at]);
        out.push_str(new);
        rest = &rest[at + old.len()..];
    }
    out + rest
}

#[test]
fn everything_not_rewritten_stays_byte_for_byte() {
    for (what, text) in TABLE {
        let frame = Frame::parse(Bytes::from_static(text.as_bytes()), &Limits::default())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(rewrite(&frame), expected(text), "{what}");
    }
    let rewritten = TABLE.iter().filter(|(_, text)| expected(text) != *text).count();
    assert!(rewritten >= TABLE.len() - 1, "the table has messages that exercise nothing");
}

#[test]
fn a_batch_keeps_each_of_its_messages() {
    let batch = format!("[{}]", TABLE.iter().map(|(_, text)| *text).collect::<Vec<_>>().join(" ,\n"));
    let Ok(Incoming::Batch(frames)) = Incoming::parse(&Bytes::from(batch), &Limits::default()) else {
        panic!("not read as a batch");
    };
    assert_eq!(frames.len(), TABLE.len());
    for (frame, (what, text)) in frames.iter().zip(TABLE) {
        assert_eq!(rewrite(frame), expected(text.trim_end()), "{what}");
    }
}
