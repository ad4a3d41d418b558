//! `call` and its exit codes.

use super::fixture::{Fixture, Ran, demo, finish};
use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Stdio,
    thread,
};

#[test]
fn exit_codes_of_a_call() {
    let servers = format!("{}  dead: {{ command: /does/not/exist }}\n", demo("feature", "feature", "call-codes"));
    let fixture = Fixture::new(&servers);
    let _up = fixture.up();
    fixture.servers();
    let call = |arguments: &[&str]| fixture.run(&[&["call"], arguments].concat());

    let ran = call(&["feature__echo", r#"{"message":"hello"}"#]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "hello\n", ""));

    let ran = call(&["feature__add", r#"{"a":1,"b":2}"#, "--json"]);
    assert_eq!(ran.code, 0);
    let result: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(result["content"][0]["type"], "text");

    let ran = call(&["feature__test_error_handling"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(!ran.stdout.is_empty(), "what the tool says is data");

    let ran = call(&["feature__no_such_tool"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("FL-1201") && ran.stderr.contains("hint: "), "{ran:?}");

    let ran = call(&["feature__echo", "[1]"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));

    let ran = call(&["dead__anything"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("FL-1301"), "{ran:?}");

    let ran = call(&["feature__sleep", r#"{"ms":5000}"#, "--timeout", "300ms"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("FL-1302"), "{ran:?}");

    let ran = call(&["feature__sleep", r#"{"ms":400}"#]);
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("progress: ") && !ran.stdout.contains("progress"), "{ran:?}");

    // A tool that wants an argument in a header gets it there.
    let ran = call(&["feature__test_header_mirroring", r#"{"region":"eu west 1"}"#]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("eu west 1"));
}

#[test]
fn arguments_come_from_a_file_or_from_stdin() {
    let fixture = Fixture::new(&demo("feature", "feature", "call-arguments"));
    let _up = fixture.up();
    fixture.servers();
    fixture.write("arguments.json", r#"{"message":"from a file"}"#);
    let ran = fixture.run(&["call", "feature__echo", "@arguments.json"]);
    assert_eq!(ran.stdout, "from a file\n", "{ran:?}");
    let mut command = fixture.command(&["call", "feature__echo", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(br#"{"message":"from stdin"}"#).expect("write");
    assert_eq!(finish(child).stdout, "from stdin\n");
}

#[test]
fn a_private_gateway_makes_the_call() {
    let fixture = Fixture::new(&demo("feature", "feature", "call-private"));
    let ran = fixture.run(&["call", "feature__echo", r#"{"message":"alone"}"#]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "alone\n"), "{ran:?}");
    assert_eq!(super::fixture::marked("call-private"), Vec::<u32>::new());
}

/// Answers one request with fixed bytes.
fn answer(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(bytes);
        }
    });
    url
}

#[test]
fn a_gateway_elsewhere_may_refuse_or_not_be_there() {
    let fixture = Fixture::new("");
    let call = |url: &str| -> Ran { fixture.run(&["call", "x", "--url", url]) };
    let ran = call(&answer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(ran.code, 3, "{ran:?}");
    let ran = call(&answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"));
    assert_eq!(ran.code, 4, "{ran:?}");
    // Bound and not listening, so that nobody else can.
    let held = tokio::net::TcpSocket::new_v4().expect("a socket");
    held.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let ran = call(&format!("http://{}", held.local_addr().expect("an address")));
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("hint: "), "{ran:?}");
    let ran = call("nonsense");
    assert_eq!(ran.code, 1, "{ran:?}");
}
