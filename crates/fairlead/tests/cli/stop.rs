//! Stopping: what finishes, what is cut off, and that nothing is left.

use super::fixture::{Fixture, demo, eventually, finish, marked};
use nix::sys::signal::Signal;
use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

const SLEEP: &str = "feature__sleep";

fn call(fixture: &Fixture, ms: u32) -> std::process::Child {
    let arguments = format!(r#"{{"ms":{ms}}}"#);
    let mut command = fixture.command(&["call", SLEEP, &arguments]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    eventually("the call is in flight", || fixture.servers().iter().any(|row| row["calls"].as_u64() > Some(0)));
    child
}

#[test]
fn a_call_in_flight_finishes_and_no_process_is_left() {
    let mark = "stop-drain";
    let fixture = Fixture::new(&demo("feature", "feature", mark));
    let mut up = fixture.up();
    fixture.servers();
    assert!(!marked(mark).is_empty());
    let call = call(&fixture, 5000);
    up.signal(Signal::SIGTERM);
    let ran = finish(call);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(up.wait(), Some(0), "{}", up.log());
    assert_eq!(marked(mark), Vec::<u32>::new());
    assert_eq!(fixture.instance(), None);
    assert!(!fixture.data_dir().join("control.sock").exists());
    // The directory is free again.
    drop(fixture.up());
}

#[test]
fn a_second_signal_does_not_wait() {
    let mark = "stop-hurry";
    let fixture = Fixture::new(&demo("feature", "feature", mark));
    let mut up = fixture.up();
    fixture.servers();
    let call = call(&fixture, 20_000);
    let begun = Instant::now();
    up.signal(Signal::SIGINT);
    eventually("it drains", || up.log().contains("stopping"));
    thread::sleep(Duration::from_millis(200));
    up.signal(Signal::SIGINT);
    assert_eq!(up.wait(), Some(0), "{}", up.log());
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!(finish(call).code, 4, "the client is told");
    assert_eq!(marked(mark), Vec::<u32>::new());
}

#[test]
fn kill_leaves_no_process_and_the_next_one_starts() {
    let mark = "stop-kill";
    let fixture = Fixture::new(&format!("{}{}", demo("a", "crm", mark), demo("b", "feature", mark)));
    let mut up = fixture.up();
    fixture.servers();
    assert!(marked(mark).len() >= 2);
    up.signal(Signal::SIGKILL);
    assert_eq!(up.wait(), None);
    eventually("every process is gone", || marked(mark).is_empty());
    let up = fixture.up();
    assert_eq!(fixture.servers().len(), 2, "{}", up.log());
}
