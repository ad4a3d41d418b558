//! Reload by signal and by file change.

use super::fixture::{Fixture, Up, demo, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

fn pids(fixture: &Fixture) -> Vec<(String, Value)> {
    fixture
        .servers()
        .iter()
        .map(|row| (row["name"].as_str().unwrap_or_default().to_owned(), row["processes"].clone()))
        .collect()
}

fn applied(up: &Up) -> usize {
    up.log().matches("the configuration was applied").count()
}

#[test]
fn untouched_servers_keep_their_process() {
    let crm = demo("crm", "crm", "reload");
    let fixture = Fixture::new(&crm);
    let up = fixture.up();
    let before = pids(&fixture);
    assert_eq!(before.len(), 1);
    assert_ne!(before[0].1, Value::Array(Vec::new()), "it has a process");

    // A file change is enough.
    let both = format!("{crm}{}", demo("feature", "feature", "reload"));
    fixture.configure(&both);
    eventually("the new configuration is in force", || applied(&up) == 1);
    let after = pids(&fixture);
    assert_eq!(after.len(), 2);
    assert_eq!(after[0], before[0], "the process is the same");
    assert!(up.log().contains("added=feature"), "{}", up.log());

    // A bad one is reported and changes nothing.
    fixture.write("fairlead.yaml", "servers: { crm: { comand: x } }\n");
    eventually("the problem is reported", || up.log().contains("nothing was changed"));
    assert!(up.log().contains("comand") && up.log().contains("FL-1401"), "{}", up.log());
    fixture.configure(&both);
    eventually("the old configuration is back", || applied(&up) == 2);
    assert_eq!(pids(&fixture), after);

    // A signal reloads even when nothing is different.
    fixture.configure(&crm);
    eventually("the feature server is gone", || applied(&up) == 3);
    up.signal(Signal::SIGHUP);
    eventually("it was applied again", || applied(&up) == 4);
    assert_eq!(pids(&fixture), before);
    assert!(up.log().contains("removed=feature"), "{}", up.log());
}
