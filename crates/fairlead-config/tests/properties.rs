//! What holds for every input: no panic, no secret shown, places inside the text, values unchanged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

use fairlead_config::{Glob, Transport, parse_str, report};
use proptest::prelude::*;
use std::path::Path;

fn env(name: &str) -> Option<String> {
    (name == "SECRET").then(|| "hunter2hunter2".to_owned())
}

/// Texts that look enough like configurations to get past the first character.
fn sketchy() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "servers",
        "listen",
        "env",
        "headers",
        "command",
        "url",
        "a",
        "b",
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"",
        "'",
        "\t",
        "#",
        "//",
        "/*",
        "*/",
        "&x ",
        "*x",
        "<<",
        "null",
        "true",
        "off",
        "30s",
        "1MiB",
        "0x",
        "-1",
        "1e999",
        "${env:SECRET}",
        "${file:x}",
        "${input:x}",
        "${",
        "}",
        "$${",
        "=",
        "\n[servers.a]\n",
        "\\u0000",
        "\u{feff}",
        "ü",
        "|\n",
        ">",
        "!!binary",
        "---\n",
        "...",
        "mcpServers",
        "toolsets",
        "include",
        "\r\n",
        "https://x/y?z",
        "\u{0}",
    ]);
    prop::collection::vec(words, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_a_configuration_or_problems(text in prop_oneof![sketchy(), any::<String>()], name in prop::sample::select(vec!["f.yaml", "f.json", "f.toml"])) {
        match parse_str(name, &text, Path::new("/nonexistent"), &env) {
            Ok(config) => {
                let shown = format!("{config:?}");
                prop_assert!(!shown.contains("hunter2"));
            }
            Err(problems) => {
                prop_assert!(problems.has_errors());
                let lines = text.split('\n').count();
                for problem in &problems {
                    prop_assert!((1..=lines).contains(&problem.line), "{problem} in {lines} lines");
                    prop_assert!(problem.column >= 1);
                }
                let shown = format!("{problems}{}{}", report(&problems, false), report(&problems, true));
                prop_assert!(!shown.contains("hunter2"));
            }
        }
    }

    #[test]
    fn arguments_survive_all_three_syntaxes(args in prop::collection::vec(any::<String>(), 0..6)) {
        let args: Vec<String> = args.into_iter().map(|arg| arg.replace('\0', "")).collect();
        let escaped: Vec<String> = args.iter().map(|arg| arg.replace("${", "$${")).collect();
        let json = serde_json::to_string(&escaped).unwrap();
        let toml_args: Vec<String> = escaped.iter().map(|arg| {
            let body: String = arg.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\U{:08x}", u32::from(c)) }).collect();
            format!("\"{body}\"")
        }).collect();
        for (name, text) in [
            ("f.json", format!(r#"{{ "servers": {{ "a": {{ "command": "x", "args": {json} }} }} }}"#)),
            ("f.toml", format!("[servers.a]\ncommand = 'x'\nargs = [{}]\n", toml_args.join(", "))),
            ("f.yaml", format!("servers:\n  a:\n    command: x\n    args: [{}]\n", toml_args.join(", "))),
        ] {
            let config = parse_str(name, &text, Path::new("/"), &|_| None).map_err(|problems| TestCaseError::fail(format!("{problems}\n{text}")))?;
            let Transport::Stdio(stdio) = &config.servers["a"].transport else { panic!("not a process") };
            prop_assert_eq!(&stdio.args, &args, "{}", name);
        }
    }

    #[test]
    fn patterns_match_as_the_plain_definition_says(pattern in "[ab*?]{1,8}", name in "[ab]{0,8}") {
        fn plain(pattern: &[u8], name: &[u8]) -> bool {
            match (pattern.first(), name.first()) {
                (None, None) => true,
                (Some(b'*'), _) => plain(&pattern[1..], name) || (!name.is_empty() && plain(pattern, &name[1..])),
                (Some(b'?'), Some(_)) => plain(&pattern[1..], &name[1..]),
                (Some(a), Some(b)) if a == b => plain(&pattern[1..], &name[1..]),
                _ => false,
            }
        }
        prop_assert_eq!(Glob::new(&pattern).unwrap().matches(&name), plain(pattern.as_bytes(), name.as_bytes()));
    }
}
