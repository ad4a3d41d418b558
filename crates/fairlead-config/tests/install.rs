//! The gateway in clients' files: what is put in can be taken out, and nothing else is touched.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use fairlead_config::install::{Entry, client, clients};
use std::path::Path;

fn us() -> Entry {
    Entry {
        name: "fairlead".to_owned(),
        url: "http://127.0.0.1:8642/mcp".to_owned(),
        program: "/usr/bin/fairlead".to_owned(),
        arguments: vec!["stdio".to_owned(), "-c".to_owned(), "/srv/a \"b\".yaml".to_owned()],
    }
}

#[test]
fn a_new_file_is_what_the_client_expects() {
    let all: Vec<_> =
        clients().iter().map(|client| format!("{}\n{}", client.title, client.install("", &us()).unwrap())).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn comments_order_and_spelling_stay() {
    for (id, before, after) in [
        (
            "zed",
            "// mine\n{\n    \"b\": 1.10, // one\n    \"context_servers\": {\n        \"x\": {\"url\": \"u\"}, // last\n    },\n    \"a\": 1e2,\n}\n",
            "// mine\n{\n    \"b\": 1.10, // one\n    \"context_servers\": {\n        \"x\": {\"url\": \"u\"}, // last\n        \"fairlead\": {\n            \"url\": \"http://127.0.0.1:8642/mcp\"\n        },\n    },\n    \"a\": 1e2,\n}\n",
        ),
        (
            "cursor",
            "{\n\t\"mcpServers\": {\n\t\t\"x\": {} // the last\n\t}\n}",
            "{\n\t\"mcpServers\": {\n\t\t\"x\": {}, // the last\n\t\t\"fairlead\": {\n\t\t\t\"url\": \"http://127.0.0.1:8642/mcp\"\n\t\t}\n\t}\n}",
        ),
        (
            "cursor",
            "{\n  \"other\": [1,2]\n}\n",
            "{\n  \"other\": [1,2],\n  \"mcpServers\": {\n    \"fairlead\": {\n      \"url\": \"http://127.0.0.1:8642/mcp\"\n    }\n  }\n}\n",
        ),
        (
            "codex",
            "model = \"m\" # best\n\n[mcp_servers.x]\ncommand = \"c\"\n",
            "model = \"m\" # best\n\n[mcp_servers.x]\ncommand = \"c\"\n\n[mcp_servers.fairlead]\nurl = \"http://127.0.0.1:8642/mcp\"\n",
        ),
        (
            "goose",
            "GOOSE_MODEL: m # best\nextensions:\n  developer:\n    enabled: true # yes\n    name: developer\nlast: 1.10\n",
            "GOOSE_MODEL: m # best\nextensions:\n  fairlead:\n    enabled: true\n    name: \"fairlead\"\n    timeout: 300\n    type: \"streamable_http\"\n    uri: \"http://127.0.0.1:8642/mcp\"\n  developer:\n    enabled: true # yes\n    name: developer\nlast: 1.10\n",
        ),
    ] {
        let client = client(id).unwrap();
        let installed = client.install(before, &us()).unwrap();
        assert_eq!(installed, after, "{id}");
        assert_eq!(client.install(&installed, &us()).unwrap(), after, "{id}: once more changes nothing");
        let moved = Entry { url: "http://127.0.0.1:9999/mcp".to_owned(), ..us() };
        assert_eq!(client.install(&installed, &moved).unwrap(), after.replace("8642", "9999"), "{id}: in its place");
        let removed = client.remove(&installed, "fairlead").unwrap().unwrap();
        assert_eq!(client.remove(&removed, "fairlead").unwrap(), None);
        if !before.contains("other") {
            assert_eq!(removed, before, "{id}: as it was");
        }
    }
}

#[test]
fn whatever_stands_around_it_survives() {
    let files = [
        ("cursor", "{}"),
        ("cursor", "{ }\n"),
        ("cursor", "\u{feff}{\"mcpServers\":{}}"),
        ("cursor", "{\"mcpServers\":{\"a\":{}}}"),
        ("cursor", "{\"mcpServers\":{ /* none, yet */ }, \"z\": null}"),
        ("cursor", "{\"mcpServers\":{\"a\":{},/* , */\"b\":{} /* , */,}}"),
        ("cursor", "{\n  // \"mcpServers\": {}\n}\n"),
        ("codex", ""),
        ("codex", "# nothing\n"),
        ("codex", "[a]\nx = 1"),
        (
            "codex",
            "[mcp_servers]\n[mcp_servers.fairlead]\nurl='x'\n[mcp_servers.fairlead.env]\nA='1'\n\n# of b\n[b]\nx=1\n",
        ),
        ("goose", "extensions: {} # none\nb: 1\n"),
        ("goose", "extensions:\nb: 1\n"),
        ("goose", "a: 1"),
        ("goose", "extensions:\n    fairlead:\n        uri: x\n    b:\n        uri: y\n"),
    ];
    for (id, before) in files {
        let client = client(id).unwrap();
        let installed = client.install(before, &us()).unwrap_or_else(|problem| panic!("{before:?}: {problem}"));
        for comment in
            ["none", "/* , */", "// \"mcp", "# nothing", "# of b"].iter().filter(|part| before.contains(**part))
        {
            assert!(installed.contains(comment), "{installed}");
        }
        let removed = client.remove(&installed, "fairlead").unwrap().unwrap();
        assert!(!removed.contains("8642"), "{removed}");
        assert!(client.install(&removed, &us()).unwrap().contains("8642"), "{removed}");
    }
}

#[test]
fn what_cannot_be_changed_safely_is_refused() {
    for (id, text, reason) in [
        ("cursor", "{\"mcpServers\": [", "is not what Cursor can read (line 1"),
        ("cursor", "{\"mcpServers\": []}", "cannot be changed safely"),
        ("codex", "mcp_servers = { x = { url = \"u\" } }\n", "cannot be changed safely"),
        ("goose", "extensions: {a: {uri: x}}\n", "cannot be changed safely"),
        ("goose", "extensions: [\n", "is not what Goose can read"),
    ] {
        let problem = client(id).unwrap().install(text, &us()).unwrap_err().0.remove(0);
        assert!(problem.message.contains(reason) && problem.hint.is_some(), "{text}: {problem}");
    }
}

#[test]
fn a_clients_file_is_where_it_keeps_it() {
    let home = tempfile::tempdir().unwrap();
    let nothing = |_: &str| None;
    let codex = client("codex").unwrap();
    assert_eq!(codex.file(None, home.path(), &nothing).unwrap(), home.path().join(".codex/config.toml"));
    let elsewhere = |name: &str| (name == "CODEX_HOME").then(|| "/else".to_owned());
    std::fs::create_dir(home.path().join(".codex")).unwrap();
    assert_eq!(codex.file(None, home.path(), &elsewhere).unwrap(), home.path().join(".codex/config.toml"));
    assert_eq!(codex.file(Some(Path::new("/p")), home.path(), &nothing).unwrap(), Path::new("/p/.codex/config.toml"));
    assert!(client("goose").unwrap().file(Some(Path::new("/p")), home.path(), &nothing).is_err());
    let ids: std::collections::HashSet<_> = clients().iter().map(|client| &client.id).collect();
    assert_eq!(ids.len(), clients().len());
    for client in fairlead_config::import::CLIENTS {
        assert!(ids.contains(&client.id.to_owned()), "{} can be read but not written", client.id);
    }
}
