//! `check`, `schema`, and the command line itself.

use super::fixture::{Fixture, demo};

#[test]
fn a_valid_configuration_is_confirmed() {
    let fixture = Fixture::new("  files: { command: cat }\n");
    let ran = fixture.run(&["check"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (0, "ok: fairlead.yaml with 1 server and 0 toolsets\n", "")
    );
}

#[test]
fn every_problem_has_a_place_a_reason_and_a_hint() {
    let fixture = Fixture::new("");
    fixture.write(
        "broken.yaml",
        "servers:\n  a:\n    comand: cat\n    timeout: { call: 60 }\n  b: { url: \"ftp://x\" }\n",
    );
    let ran = fixture.run(&["check", "-c", "broken.yaml"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stdout, "");
    insta::assert_snapshot!(ran.stderr);
}

#[test]
fn layers_and_missing_files() {
    let fixture = Fixture::new("  a: { command: cat }\n");
    fixture.write("more.yaml", "servers:\n  b: { command: cat }\n");
    let ran = fixture.run(&["check", "-c", "fairlead.yaml", "-c", "more.yaml"]);
    assert!(ran.stdout.contains("2 servers"), "{ran:?}");
    let ran = fixture.run(&["check", "-c", "nowhere.yaml"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("nowhere.yaml") && ran.stderr.contains("FL-1401"), "{ran:?}");
}

#[test]
fn secrets_are_not_shown() {
    let fixture = Fixture::new("");
    fixture.write("secret.yaml", "servers:\n  a: { url: \"http://x/mcp\", headers: { X-Key: [hush-hush] } }\n");
    let ran = fixture.run(&["check", "-c", "secret.yaml"]);
    assert_eq!(ran.code, 1);
    assert!(!ran.stderr.contains("hush"), "{}", ran.stderr);
}

#[test]
fn the_schema_is_json_and_the_demo_needs_no_file() {
    let fixture = Fixture::new("");
    let ran = fixture.run(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(schema["title"], "Fairlead configuration");
    std::fs::remove_file(fixture.path().join("fairlead.yaml")).expect("remove");
    let ran = fixture.run(&["check"]);
    assert!(ran.stdout.contains("demo") && ran.stdout.contains("2 servers"), "{ran:?}");
}

#[test]
fn wrong_usage_is_exit_code_1_and_help_is_data() {
    let fixture = Fixture::new(&demo("a", "crm", "none"));
    for wrong in [&["no-such-command"][..], &["call"], &["up", "--nonsense"], &["call", "x", "--timeout", "5"], &[]] {
        let ran = fixture.run(wrong);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{wrong:?}");
        assert!(!ran.stderr.is_empty());
    }
    let ran = fixture.run(&["--help"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("Exit codes") && ran.stderr.is_empty(), "{ran:?}");
    assert!(!ran.stdout.contains("__guard") && !ran.stdout.contains("background"));
    let ran = fixture.run(&["demo-server", "nobody"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("hint: the bundled servers are feature and crm"), "{ran:?}");
    let ran = fixture.run(&["demo-server", "crm", "--http", "0.0.0.0:0"]);
    assert_eq!(ran.code, 1);
}
