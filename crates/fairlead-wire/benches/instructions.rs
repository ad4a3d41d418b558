//! Instructions per operation of what every message passes: reading envelopes, splicing edits, SSE, header checks.
//!
//! Instructions are counted and not timed, so the figures are the same on a busy machine. Each case runs N and 2N times
//! under `valgrind --tool=callgrind`; the difference, divided by N, is what one takes, without start and set-up. Without
//! valgrind nothing is measured, and a line says so. Run by `make bench-wire`.

use std::{
    env,
    hint::black_box,
    process::{Command, ExitCode, Stdio},
};

use bytes::{Bytes, BytesMut};
use fairlead_wire::{
    Field, Frame, Incoming, Limits,
    edit::Edits,
    header,
    sse::{self, SseLimits, SseParser},
};
use http::{HeaderMap, HeaderValue};

/// How often a case runs; those of large messages less often.
const TIMES: usize = 2000;
const TIMES_LARGE: usize = 50;
/// Bytes of text in small, large and very large messages.
const SIZES: [(&str, usize); 3] = [("100 B", 100), ("100 KB", 100_000), ("1 MB", 1_000_000)];

struct Case {
    name: String,
    times: usize,
    run: Box<dyn Fn()>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let cases = cases();
    // Under callgrind: one case, so many times.
    if let Some(at) = arguments.iter().position(|argument| argument == "--case") {
        let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<usize>().ok());
        if let (Some(case), Some(times)) = (number(at + 1).and_then(|at| cases.get(at)), number(at + 2)) {
            (0..times).for_each(|_| (case.run)());
            return ExitCode::SUCCESS;
        }
        return ExitCode::FAILURE;
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("no valgrind on PATH: instructions are not counted");
        return ExitCode::SUCCESS;
    }
    println!("| what | instructions |\n|---|---:|");
    for (index, case) in cases.iter().enumerate() {
        match (count(index, case.times), count(index, 2 * case.times)) {
            (Some(once), Some(twice)) => {
                println!("| {} | {} |", case.name, grouped(twice.saturating_sub(once) / case.times as u64));
            }
            _ => {
                eprintln!("error: callgrind counted nothing of `{}`", case.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Instructions of this program that runs a case so often.
fn count(case: usize, times: usize) -> Option<u64> {
    let program = env::current_exe().ok()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--case", &case.to_string(), &times.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = said.lines().find_map(|line| line.split_once("Collected :"))?.1;
    collected.trim().parse().ok()
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn request(text: usize) -> Bytes {
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":4711,"method":"tools/call","params":{{"name":"crm__search","arguments":{{"text":"{}"}},"_meta":{{"progressToken":7}}}}}}"#,
        "x".repeat(text)
    ))
}

fn modern(text: usize) -> Bytes {
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":4711,"method":"tools/call","params":{{"name":"search","arguments":{{"text":"{}"}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"bench","version":"1"}}}}}}}}"#,
        "x".repeat(text)
    ))
}

fn answer(text: usize) -> Bytes {
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":4711,"result":{{"content":[{{"type":"text","text":"{}"}}],"isError":false}}}}"#,
        "x".repeat(text)
    ))
}

fn parse(bytes: &Bytes) -> Frame {
    Frame::parse(bytes.clone(), &Limits::default()).expect("it is a message")
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, size: usize, run: Box<dyn Fn()>| {
        let times = if size >= 100_000 { TIMES_LARGE } else { TIMES };
        cases.push(Case { name, times, run });
    };
    for (label, size) in SIZES {
        let bytes = request(size);
        add(format!("request of {label} read"), size, Box::new(move || drop(black_box(parse(black_box(&bytes))))));
        let bytes = answer(size);
        add(format!("answer of {label} read"), size, Box::new(move || drop(black_box(parse(black_box(&bytes))))));
    }
    let bytes = modern(100);
    add("modern request of 100 B read".into(), 0, Box::new(move || drop(black_box(parse(black_box(&bytes))))));
    let batch = Bytes::from([b"[", &*request(100), b",", &*request(100), b"]"].concat());
    let incoming = move || drop(black_box(Incoming::parse(black_box(&batch), &Limits::default())));
    add("array of two requests read".into(), 0, Box::new(incoming));
    for (label, size) in SIZES {
        let frame = parse(&request(size));
        let splice = move || {
            let mut edits = Edits::new();
            edits.replace(frame.span(Field::Name).expect("it has a name"), "\"search\"");
            edits.replace(frame.span(Field::ProgressToken).expect("it has a token"), "1");
            let id = frame.span(Field::Id).expect("it has an id");
            drop(black_box(edits.apply_with(black_box(frame.bytes()), id, b"12")));
        };
        add(format!("name, token and id of a request of {label} replaced"), size, Box::new(splice));
    }
    for (label, size) in SIZES {
        let data = answer(size);
        let write = move || {
            let mut out = BytesMut::new();
            sse::write_event(&mut out, Some("17"), None, black_box(&data));
            drop(black_box(out));
        };
        add(format!("SSE event of {label} written"), size, Box::new(write));
        let mut out = BytesMut::new();
        sse::write_event(&mut out, Some("17"), Some("message"), &answer(size));
        let stream = out.freeze();
        let read = move || {
            let mut parser = SseParser::new(SseLimits::default());
            parser.push(black_box(&stream).clone());
            drop(black_box(parser.next()));
        };
        add(format!("SSE event of {label} read"), size, Box::new(read));
    }
    let frame = parse(&modern(100));
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "127.0.0.1:8642"),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "search"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    assert!(header::check_standard(&headers, &frame).is_ok(), "what is measured works");
    let check = move || drop(black_box(header::check_standard(black_box(&headers), black_box(&frame))));
    add("headers of a modern request checked".into(), 0, Box::new(check));
    let encode = || {
        let value = header::encode_value(black_box("search"));
        drop(black_box(header::decode_value(black_box(&value))));
    };
    add("header value written and read".into(), 0, Box::new(encode));
    cases
}
