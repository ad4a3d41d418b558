//! `import`.

use super::fixture::Fixture;

const CLAUDE: &str = r#"{ "mcpServers": {
  "My Files": { "command": "npx", "args": ["-y", "server-files", "/srv"], "env": { "TOKEN": "t0p" }, "autoApprove": ["x"] },
  "crm": { "type": "http", "url": "https://crm.example/mcp" }
} }"#;

#[test]
fn a_file_becomes_a_configuration_that_is_valid() {
    let fixture = Fixture::new("");
    fixture.write("client.json", CLAUDE);
    let ran = fixture.run(&["import", "client.json", "--write", "imported.yaml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stderr.contains("2 servers from client.json"), "{ran:?}");
    assert!(!ran.stderr.contains("t0p"), "{ran:?}");
    let ran = fixture.run(&["check", "-c", "imported.yaml"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("2 servers"));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(fixture.path().join("imported.yaml")).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "it may hold credentials");

    let ran = fixture.run(&["import", "client.json", "--write", "imported.yaml"]);
    assert_eq!(ran.code, 1, "nothing is overwritten");
    assert!(ran.stderr.contains("hint: "), "{ran:?}");
}

#[test]
fn a_client_is_found_in_the_home_directory() {
    let fixture = Fixture::new("");
    fixture.write("home/.cursor/mcp.json", CLAUDE);
    let ran = fixture.run(&["import", "cursor", "--print"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("my_files:") && ran.stdout.contains("crm:"), "{ran:?}");

    let ran = fixture.run(&["import", "nobody"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.contains("claude-desktop") && ran.stderr.contains("(here: cursor)"), "{}", ran.stderr);
}
