//! What is said of single tools: what it becomes, and what is refused, with its place.

use fairlead_config::parse_str;
use std::path::Path;

fn load(rules: &str, rest: &str) -> Result<fairlead_config::Config, Vec<(usize, String)>> {
    let text =
        format!("servers:\n  a:\n    url: http://127.0.0.1:1/mcp\n    tools:\n      rules:\n        {rules}\n{rest}");
    let loaded = parse_str("t.yaml", &text, Path::new("/c"), &|name| (name == "KEY").then(|| "hunter2".to_owned()));
    loaded.map_err(|problems| problems.iter().map(|problem| (problem.line, problem.message.clone())).collect())
}

#[test]
fn faults_are_found_where_they_stand() {
    for (rules, rest, line, says) in [
        ("get_*: { rename: fixed }", "", 6, "cannot all have one name"),
        ("get: { rename: \"\" }", "", 6, "cannot be empty"),
        ("get: { response: { select: [a, b..c] } }", "", 6, "not a path"),
        ("get: { response: { redact: ['('] } }", "", 6, "not a regular expression"),
        ("get: { response: { redact: ['a*'] } }", "", 6, "empty text"),
        ("get: { response: { max_bytes: 10B } }", "", 6, "at least `1KiB`"),
        ("get: { pin: { 'a\"b': 1 } }", "", 6, "cannot have a quote"),
        ("get: { annotations: { readonly: true } }", "", 6, "unknown key"),
        ("\"[x]\": { hide: true }", "", 6, "patterns know only"),
        ("get: {}", "toolsets: { t: { tools: { \"a*\": { rename: x } } } }", 7, "cannot all have one name"),
        ("get: {}", "correlation: { request_id: \"a b\" }", 7, "cannot carry"),
        ("get: {}", "correlation: { request_id: mcp-session-id }", 7, "cannot carry"),
    ] {
        let problems = load(rules, rest).expect_err(rules);
        let found = problems.iter().any(|(at, message)| *at == line && message.contains(says));
        assert!(found, "{rules} {rest}: {problems:?}");
    }
}

#[test]
fn what_is_said_is_read_and_what_is_pinned_is_not_shown() {
    let rules = "get: { rename: fetch, pin: { s: \"${env:KEY}\", n: -3, f: 1.5, o: { l: [1, null, true] } }, tags: [a], validate: true }";
    let rest = "toolsets: { t: { include_tags: [a], tools: { \"a__*\": { title: T, response: { select: [/x~1y/z], redact: [b+], mark: '#' } } } } }";
    let config = load(rules, rest).expect("valid");
    let shape = config.rules["a"].tool("get").shape;
    let pins: Vec<_> = shape.pin.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(pins, ["s=\"hunter2\"", "n=-3", "f=1.5", r#"o={"l":[1,null,true]}"#]);
    assert!(!format!("{config:?}").contains("hunter2"));
    let toolset = &config.toolsets["t"];
    let said = &toolset.tools[0].1;
    assert_eq!(said.response.select, [["x/y", "z"]]);
    assert_eq!(said.response.redact, [("b+".to_owned(), "#".to_owned())]);
    let tagged = ["a".to_owned()];
    assert!(toolset.permits_tool("a__fetch", &tagged) && !toolset.permits_tool("a__other", &[]));
    assert!(!toolset.permits("a__prompt"), "only tools have tags");
}
