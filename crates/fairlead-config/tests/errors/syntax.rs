//! Texts that are not even a tree of keys, and what people are told: place, reason, hint.

use crate::{env, problems};
use fairlead_config::{parse_str, report};
use insta::assert_snapshot;
use std::path::Path;

#[test]
fn empty() {
    assert_snapshot!(problems("f.yaml", ""), @"accepted");
}

#[test]
fn only_comments() {
    assert_snapshot!(problems("f.yaml", r"
# nothing

  # here
"), @"accepted");
}

#[test]
fn empty_json() {
    assert_snapshot!(problems("f.json", " // nothing\n"), @"accepted");
}

#[test]
fn empty_toml() {
    assert_snapshot!(problems("f.toml", "# nothing\n"), @"accepted");
}

#[test]
fn not_a_map() {
    assert_snapshot!(problems("f.yaml", r"
- a
- b
"), @r"
    f.yaml:2:1: a configuration is a map of keys, not a list
      hint: begin with a key, for example `servers:`
    ");
}

#[test]
fn not_a_map_json() {
    assert_snapshot!(problems("f.json", "[1]"), @r"
    f.json:1:1: a configuration is a map of keys, not a list
      hint: begin with a key, for example `servers:`
    ");
}

#[test]
fn tab() {
    assert_snapshot!(problems("f.yaml", "listen:\n\taddress: 127.0.0.1:1\n"), @r"
    f.yaml:2:1: a tab cannot be used for indentation in YAML
      hint: indent with spaces
    ");
}

#[test]
fn tab_deeper() {
    assert_snapshot!(problems("f.yaml", "servers:\n  a:\n  \tcommand: cat\n"), @r"
    f.yaml:3:3: a tab cannot be used for indentation in YAML
      hint: indent with spaces
    ");
}

#[test]
fn duplicate_key() {
    assert_snapshot!(problems("f.yaml", r"
names:
  max: 20
  max: 30
"), @r"
    f.yaml:4:3: duplicate key `max`
      hint: keep one of the two
    ");
}

#[test]
fn duplicate_server() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a: { command: cat }
  b: { command: cat }
  a: { command: dog }
"), @r"
    f.yaml:5:3: duplicate key `a`
      hint: keep one of the two
    ");
}

#[test]
fn duplicate_json() {
    assert_snapshot!(problems("f.json", r#"{"names": {"max": 20, "max": 30}, "drain": "1s", "drain": "2s"}"#), @r"
    f.json:1:23: duplicate key `max`
      hint: keep one of the two
    f.json:1:50: duplicate key `drain`
      hint: keep one of the two
    ");
}

#[test]
fn duplicate_toml() {
    assert_snapshot!(problems("f.toml", r"
drain = '1s'
drain = '2s'
[names]
max = 20
max = 30
"), @r"
    f.toml:3:1: duplicate key
      hint: keep one of the two
    f.toml:6:1: duplicate key
      hint: keep one of the two
    ");
}

#[test]
fn several_documents() {
    assert_snapshot!(problems("f.yaml", r"
drain: 1s
---
drain: 2s
"), @r"
    f.yaml:3:1: a configuration is one YAML document
      hint: remove the `---`, or write several files
    ");
}

#[test]
fn unclosed_quote() {
    assert_snapshot!(problems("f.yaml", r#"
servers:
  a:
    command: "cat
    url: x
"#), @r"
    f.yaml:5:5: invalid indentation in multiline quoted scalar
      hint: a closing quote is missing, here or further up
    ");
}

#[test]
fn colon_in_value() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a:
    command: cat: dog
"), @r"
    f.yaml:4:17: mapping values are not allowed in this context
      hint: a value that contains `: ` must be in quotes
    ");
}

#[test]
fn reference_in_flow() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a: { command: ${CMD} }
"), @r"
    f.yaml:3:18: while parsing a flow mapping, did not find expected ',' or '}'
      hint: inside `{ }` and `[ ]`, put a text with `${...}` in quotes
    ");
}

#[test]
fn json_comma() {
    assert_snapshot!(problems("f.json", r#"
{
  "drain": "1s"
  "workers": 2
}
"#), @r"
    f.json:4:3: a `,` or `}` was expected here
      hint: a comma is missing before it
    ");
}

#[test]
fn json_quotes() {
    assert_snapshot!(problems("f.json", "{ 'drain': '1s' }"), @"f.json:1:3: a key in double quotes was expected here");
}

#[test]
fn json_bare_word() {
    assert_snapshot!(problems("f.json", r#"{ "drain": 1s }"#), @r"
    f.json:1:12: this is not a number
      hint: quote it if it is text
    ");
}

#[test]
fn json_unfinished() {
    assert_snapshot!(problems("f.json", r#"{ "servers": { "a": { "command": "cat"#), @r#"
    f.json:1:34: the text does not end on its line
      hint: a closing `"` is missing
    "#);
}

#[test]
fn json_trailing() {
    assert_snapshot!(problems("f.json", "{} {}"), @"f.json:1:4: there is something after the end of the JSON value");
}

#[test]
fn json_escape() {
    assert_snapshot!(problems("f.json", r#"{ "data_dir": "C:\data" }"#), @r"
    f.json:1:15: the text contains a broken escape or a control character
      hint: write `\\` for a backslash, `\t` for a tab
    ");
}

#[test]
fn toml_value() {
    assert_snapshot!(problems("f.toml", r"
drain = 1s
workers =
"), @r"
    f.toml:2:9: string values must be quoted, expected literal string
    f.toml:3:10: string values must be quoted, expected literal string
    ");
}

#[test]
fn toml_date() {
    assert_snapshot!(problems("f.toml", "drain = 2026-07-28\n"), @r"
    f.toml:1:9: nothing in a configuration is a date
      hint: quote it if it is text
    ");
}

#[test]
fn a_syntax_error_beside_a_secret_shows_no_line() {
    for (name, text) in [
        ("f.yaml", "servers:\n  a:\n    env:\n      KEY: \"hunter2\n    x: y\n"),
        ("f.yaml", "servers:\n  a:\n    headers: { A: hunter2, B: }}\n"),
        ("f.json", "{ \"servers\": { \"a\": { \"env\": { \"K\": \"hunter2\" \"L\": 1 } } } }"),
        ("f.json", "{ \"mcpServers\": {\n \"a\": {\n  \"headers\": {\n   \"K\": \"hunter2\"\n   \"L\": 1 } } } }"),
        ("f.toml", "[servers.a.env]\nKEY = \"hunter2\n"),
    ] {
        let problems = parse_str(name, text, Path::new("/"), &env).unwrap_err();
        let shown = format!("{problems}\n{}", report(&problems, false));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(problems.0[0].line > 0, "{shown}");
    }
}
