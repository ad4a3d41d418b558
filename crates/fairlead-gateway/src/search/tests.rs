//! The two tools, without a gateway around them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

mod recall;

use super::*;
use fairlead_core::tokens;

fn frame(params: &str) -> Frame {
    let text = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#);
    Frame::parse(text.into(), &Limits::default()).unwrap()
}

#[test]
fn the_inner_call_takes_the_place_of_the_outer() {
    for (params, inner) in [
        (
            r#"{"name":"call_tool","arguments":{"name":"a__b","arguments":{"n": 1.10,"x":[ ]}},"_meta":{"progressToken":"p"}}"#,
            r#"{"name":"a__b","arguments":{"n": 1.10,"x":[ ]},"_meta":{"progressToken":"p"}}"#,
        ),
        (
            r#"{"arguments":{"arguments":{},"name":"\u0061"},"name":"call_tool","task":{}}"#,
            r#"{"arguments":{},"name":"\u0061","task":{}}"#,
        ),
        (r#"{"name":"call_tool","arguments":{"name":"a"}}"#, r#"{"name":"a"}"#),
        (
            r#"{"name":"call_tool","arguments":{"name":"a","arguments":null},"requestState":"s"}"#,
            r#"{"name":"a","requestState":"s"}"#,
        ),
        // Its own name again is an ordinary name further on, so there is no recursion.
        (
            r#"{"name":"call_tool","arguments":{"name":"call_tool","arguments":{"name":"a"}}}"#,
            r#"{"name":"call_tool","arguments":{"name":"a"}}"#,
        ),
    ] {
        let found = super::inner(&frame(params)).unwrap_or_else(|_| panic!("{params}"));
        assert_eq!(found.raw(Field::Params), Some(inner), "{params}");
        assert_eq!(found.id(), Some("7"));
    }
    for params in [
        r#"{"name":"call_tool"}"#,
        r#"{"name":"call_tool","arguments":[]}"#,
        r#"{"name":"call_tool","arguments":{}}"#,
        r#"{"name":"call_tool","arguments":{"name":7}}"#,
        r#"{"name":"call_tool","arguments":{"name":"a","arguments":"{}"}}"#,
    ] {
        assert!(matches!(super::inner(&frame(params)), Err(Wrong::Arguments(_))), "{params}");
    }
}

fn catalog(count: usize) -> Arc<Catalog> {
    let long = "It goes on to say what else there is to know about it, in sentence after sentence. ".repeat(8);
    let items: Vec<Bytes> = (0..count)
        .map(|at| {
            format!(
                r#"{{"name":"crm__open_ticket_{at}","description":"Opens a ticket. {long}","inputSchema":{{"type":"object","properties":{{"customer":{{"type":"string","description":"{long}"}},"nested":{{"type":"object","properties":{{"a":{{"type":"string","description":"{long}"}}}}}}}},"required":["customer"]}}}}"#
            )
            .into()
        })
        .collect();
    Kept::default().catalog(&items, &[(count, "crm".into())])
}

#[tokio::test]
async fn an_answer_keeps_to_its_tokens() {
    let catalog = catalog(30);
    let index = catalog.index().await;
    let asked = |query: &str, limit| found::Asked { query: query.to_owned(), limit, ..found::Asked::default() };
    for tokens in [200, 300, 500, 1_000, 2_000, 5_000, 100_000] {
        for limit in [None, Some(1), Some(20), Some(1_000_000)] {
            let find = Find { tokens, tools: 5 };
            let text = found::search(&catalog, &index, find, &asked("open a ticket", limit));
            assert!(tokens::estimate(&text) <= tokens, "{tokens} {limit:?}: {} {text}", tokens::estimate(&text));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let found = value["tools"].as_array().unwrap();
            assert!(!found.is_empty() && found.len() <= limit.unwrap_or(5).min(20), "{text}");
            if tokens >= 500 && limit.is_none() {
                assert_eq!(found.len(), 5);
            }
            let is_shortened = !found[0]["shortened"].is_null();
            assert!(is_shortened || tokens >= 1_000, "{tokens} {limit:?}: {text}");
            assert!(!is_shortened || tokens < 100_000, "{tokens} {limit:?}: {text}");
        }
    }
    let nothing = found::search(&catalog, &index, Find { tokens: 200, tools: 5 }, &asked("zebra", None));
    assert!(nothing.contains("nothing matches") && nothing.contains("crm"), "{nothing}");
}

#[tokio::test]
async fn exact_definitions_are_exact() {
    let catalog = catalog(3);
    let asked = found::Asked {
        names: vec!["crm__open_ticket_1".into(), "gone".into(), "crm__open_ticket_2".into()],
        ..found::Asked::default()
    };
    let text = found::describe(&catalog, Find { tokens: 200, tools: 5 }, &asked);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&catalog.tools[1].raw).unwrap();
    assert_eq!(value["tools"][0], listed);
    assert_eq!(value["unknown"][0], "gone");
}

#[test]
fn the_two_tools_are_tools() {
    let (catalog, tools) = Finder { find: Find { tokens: 2_000, tools: 5 }, kept: Kept::default() }
        .catalog(&[Bytes::from_static(b"{\"name\":\"a__b\"}")], &[(1, "a".into())]);
    assert_eq!(catalog.tools.len(), 1);
    let tools: Vec<serde_json::Value> = tools.iter().map(|tool| serde_json::from_slice(tool).unwrap()).collect();
    assert_eq!((&tools[0]["name"], &tools[1]["name"]), (&"find_tools".into(), &"call_tool".into()));
    assert!(tools[0]["description"].as_str().unwrap().contains("among 1 tools: a (1)."));
    let shown: usize = tools.iter().map(|tool| tokens::estimate(&tool.to_string())).sum();
    assert!(shown < 500, "{shown}");
}
