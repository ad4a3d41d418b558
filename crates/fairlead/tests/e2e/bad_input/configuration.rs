//! Configurations that are wrong, and a second instance on one data directory.

use std::fs;

use crate::support::{Gateway, cli};

use super::Bystander;

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_its_place_and_a_hint() {
    for (what, text, place, said) in [
        ("a tab", "servers:\n\ta: { url: \"http://127.0.0.1:1/mcp\" }\n", "fairlead.yaml:2:1", "indentation"),
        ("a wrong unit", "drain: 10 seconds\nservers: {}\n", "fairlead.yaml:1:8", "`30s`"),
        (
            "no unit",
            "servers:\n  a: { url: \"http://127.0.0.1:1/mcp\", timeout: { call: 60 } }\n",
            "fairlead.yaml:2:",
            "expected a duration",
        ),
        (
            "an unknown key",
            "servers:\n  a: { urll: \"http://127.0.0.1:1/mcp\" }\n",
            "fairlead.yaml:2:8",
            "did you mean `url`",
        ),
        (
            "a wrong name",
            "servers:\n  Bad__Name: { url: \"http://127.0.0.1:1/mcp\" }\n",
            "fairlead.yaml:2:3",
            "lower case letters",
        ),
        (
            "a doubled server",
            "servers:\n  a: { command: x }\n  a: { command: y }\n",
            "fairlead.yaml:3:3",
            "duplicate key",
        ),
        ("a reserved name", "servers:\n  mcp: { command: x }\n", "fairlead.yaml:2:3", "a path of the gateway itself"),
        (
            "a reserved name of a toolset",
            "servers:\n  a: { command: x }\ntoolsets:\n  sse: { include: [\"*\"] }\n",
            "fairlead.yaml:4:3",
            "cannot be the name of a toolset",
        ),
        ("no transport", "servers:\n  a: { start: eager }\n", "fairlead.yaml:2:", "has none of `command`"),
    ] {
        assert!(!text.contains(said), "{what}: that the input is shown says nothing");
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("fairlead.yaml"), text).unwrap();
        for command in [["check", "-c", "fairlead.yaml"], ["up", "-c", "fairlead.yaml"]] {
            let output = cli(dir.path(), &command).await;
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{what} {command:?}: {told}");
            assert!(told.contains(place), "{what} {command:?}: {told}");
            assert!(told.to_lowercase().contains(said), "{what} {command:?}: {told}");
            assert!(output.stdout.is_empty(), "{what} {command:?}");
        }
        assert!(!dir.path().join(".fairlead/instance.json").exists(), "{what}");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = cli(dir.path(), &["check", "-c", "missing.yaml"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.yaml"), "{output:?}");
}

#[tokio::test]
async fn a_second_instance_on_one_data_directory_is_refused_and_the_first_goes_on() {
    let by = Bystander::new("").await;
    let output = by.gateway.cli(&["up"]).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("FL-1402") && told.contains(&by.gateway.pid().to_string()), "{told}");
    by.notices_nothing().await;
    assert!(by.gateway.cli(&["servers"]).await.status.success());
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused_with_a_hint() {
    let by = Bystander::new("").await;
    let dir = tempfile::tempdir().unwrap();
    let yaml =
        format!("data_dir: other\nadmin: off\nlisten: {{ address: \"{}\" }}\nservers: {{}}\n", by.gateway.address());
    fs::write(dir.path().join("fairlead.yaml"), yaml).unwrap();
    let output = cli(dir.path(), &["up", "-c", "fairlead.yaml"]).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("FL-1405") && told.contains("hint:"), "{told}");
    by.notices_nothing().await;
}

#[tokio::test]
async fn a_store_that_is_garbage_does_not_keep_the_gateway_from_starting_or_says_why() {
    let mut gateway = Gateway::start("servers: {}\n").await;
    gateway.stop().await;
    let mut spoiled = 0;
    for entry in fs::read_dir(gateway.data_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".db") || name.ends_with(".sqlite") || name.ends_with(".sqlite3") {
            fs::write(entry.path(), b"this is not a database, it only looks like one from afar").unwrap();
            spoiled += 1;
        }
    }
    assert!(spoiled > 0, "the store is a file of the data directory");
    let output = gateway.cli(&["check"]).await;
    assert!(output.status.success(), "{output:?}");
    gateway.restart().await;
    assert!(gateway.legacy("/mcp", crate::support::NEWEST_LEGACY).await.session().is_some());
}
