//! `install`.

use super::fixture::Fixture;

const CODEX: &str = "model = \"m\" # best\n\n[mcp_servers.x]\ncommand = \"c\"\n";

/// A configuration that says where it listens, which nobody does here.
fn listening() -> Fixture {
    let fixture = Fixture::new("");
    fixture.write("fairlead.yaml", "listen: { address: 127.0.0.1:8765 }\nservers: {}\n");
    fixture
}

fn text(fixture: &Fixture, path: &str) -> Option<String> {
    std::fs::read_to_string(fixture.path().join(path)).ok()
}

#[test]
fn what_is_installed_can_be_undone_to_the_byte() {
    let fixture = listening();
    fixture.write("home/.codex/config.toml", CODEX);
    let file = "home/.codex/config.toml";
    let install = |rest: &[&str]| {
        let ran = fixture.run(&[&["install", "codex", "-c", "fairlead.yaml"], rest].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran
    };
    let shown = install(&["--print"]);
    assert!(shown.stdout.contains("url = \"http://127.0.0.1:8765/mcp\"") && shown.stderr.contains("config.toml"));
    assert_eq!(text(&fixture, file).as_deref(), Some(CODEX), "printing changes nothing");

    install(&[]);
    let installed = text(&fixture, file).expect("it is there");
    assert!(installed.starts_with(CODEX) && installed.contains("[mcp_servers.fairlead]"), "{installed}");
    assert_eq!(text(&fixture, "home/.codex/config.toml.before-fairlead").as_deref(), Some(CODEX));
    assert!(install(&[]).stderr.contains("has it already"));
    install(&["--undo"]);
    assert_eq!(text(&fixture, file).as_deref(), Some(CODEX));
    assert_eq!(text(&fixture, "home/.codex/config.toml.before-fairlead"), None);

    // What was changed since stays.
    install(&["--toolset", "support"]);
    let changed = format!("{}\n[later]\nx = 1\n", text(&fixture, file).expect("it is there"));
    assert!(changed.contains("8765/mcp/support"));
    fixture.write(file, &changed);
    install(&["--undo"]);
    let undone = text(&fixture, file).expect("it is there");
    assert!(undone.contains("[later]") && !undone.contains("fairlead") && undone.starts_with(CODEX), "{undone}");
}

#[test]
fn a_client_without_a_file_gets_one_and_loses_it() {
    let fixture = listening();
    for client in ["claude-desktop", "goose"] {
        let ran = fixture.run(&["install", client, "-c", "fairlead.yaml", "--file", "new/file"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let written = text(&fixture, "new/file").expect("it is there");
        assert!(written.contains("fairlead.yaml") || written.contains("8765"), "{written}");
        let ran = fixture.run(&["install", client, "--undo", "--file", "new/file"]);
        assert_eq!((ran.code, text(&fixture, "new/file")), (0, None), "{ran:?}");
    }
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_written() {
    let fixture = listening();
    fixture.write("broken.json", "{\"mcpServers\": [");
    for (arguments, reason) in [
        (&["install", "nobody"][..], "known are claude-code"),
        (&["install", "cursor", "-c", "fairlead.yaml", "--file", "broken.json"][..], "is not what Cursor can read"),
        (&["install", "goose", "-c", "fairlead.yaml", "--project"][..], "no configuration file for a project"),
    ] {
        let ran = fixture.run(arguments);
        assert!(ran.code == 1 && ran.stderr.contains(reason), "{ran:?}");
    }
    assert_eq!(text(&fixture, "broken.json").as_deref(), Some("{\"mcpServers\": ["));
}
