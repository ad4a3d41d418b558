//! One gateway per data directory, and what is in the way of starting one.

use super::fixture::Fixture;
use std::{net::TcpListener, os::unix::fs::PermissionsExt};

#[test]
fn a_second_instance_is_refused_and_the_first_one_unharmed() {
    let fixture = Fixture::new("  a: { command: cat }\n");
    let up = fixture.up();
    let ran = fixture.run(&["up"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains(&format!("another instance (process {})", up.pid())), "{}", ran.stderr);
    assert!(ran.stderr.contains("(FL-1402)\nhint: "), "{}", ran.stderr);
    assert_eq!(fixture.instance().expect("still there")["pid"], up.pid());
    assert_eq!(fixture.run(&["servers"]).code, 0);
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let fixture = Fixture::new("");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    for (key, text) in [
        ("listen", format!("listen: {{ address: \"{address}\" }}\nadmin: off\n")),
        ("admin", format!("listen: {{ address: 127.0.0.1:0 }}\nadmin: {{ address: \"{address}\" }}\n")),
    ] {
        fixture.write("fairlead.yaml", &text);
        let ran = fixture.run(&["up"]);
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains(&format!("cannot listen on {address}")), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("(FL-1405)\nhint: ") && ran.stderr.contains(&format!("`{key}.address`")),
            "{}",
            ran.stderr
        );
        assert_eq!(fixture.instance(), None);
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let fixture = Fixture::new("");
    fixture.write("file", "");
    fixture.write("fairlead.yaml", "data_dir: file/below\nlisten: { address: 127.0.0.1:0 }\nadmin: off\n");
    let ran = fixture.run(&["up"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("(FL-1403)\nhint: "), "{}", ran.stderr);
}

#[test]
fn the_control_socket_is_private_and_works_where_its_path_would_be_too_long() {
    let fixture = Fixture::new("  a: { command: cat }\n");
    let deep = format!("{}/{}", "x".repeat(80), "y".repeat(80));
    fixture.write(
        "fairlead.yaml",
        &format!(
            "data_dir: {deep}\nlisten: {{ address: 127.0.0.1:0 }}\nadmin: off\nservers: {{ a: {{ command: cat }} }}\n"
        ),
    );
    let child = fixture.command(&["up"]).stderr(std::process::Stdio::null()).spawn().expect("it starts");
    let mut socket = None;
    super::fixture::eventually("it is ready", || {
        let text = std::fs::read(fixture.path().join(&deep).join("instance.json")).unwrap_or_default();
        let instance: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        socket = instance["socket"].as_str().map(std::path::PathBuf::from);
        socket.is_some()
    });
    let socket = socket.expect("just seen");
    assert_eq!(std::fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    assert!(socket.as_os_str().len() <= 107);
    let ran = fixture.run(&["servers"]);
    super::fixture::send(child.id(), nix::sys::signal::Signal::SIGTERM);
    let ended = super::fixture::finish(child);
    assert_eq!((ran.code, ended.code), (0, 0), "{ran:?}");
    assert!(!ran.stderr.contains("starting one"), "{ran:?}");
    assert!(!socket.exists());
}
