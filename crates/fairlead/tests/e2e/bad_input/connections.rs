//! Connections that are too much: huge bodies, slow heads, slow bodies, bytes that are not HTTP.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::Bystander;
use crate::support::{PATIENCE, SECOND, relaxed};

const MIB: u64 = 1024 * 1024;

/// Reads until the connection ends, at most `limit`; `None` when it does not.
async fn read_all(stream: &mut TcpStream, limit: Duration) -> Option<String> {
    let mut bytes = Vec::new();
    let read = async {
        let mut chunk = [0; 4096];
        while let Ok(count) = stream.read(&mut chunk).await {
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..count]);
        }
    };
    tokio::time::timeout(limit, read).await.ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn head(gateway: &crate::support::Gateway, framing: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{framing}\r\n\r\n",
        gateway.address()
    )
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_without_being_kept() {
    let by = Bystander::new("").await;
    let before = by.gateway.resident_bytes();
    // Announced: refused at once. The connection may be closed while we still write.
    let mut stream = TcpStream::connect(by.gateway.address()).await.unwrap();
    stream.write_all(head(&by.gateway, "Content-Length: 104857600").as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("FL-1003"), "{answer}");
    // Not announced: refused as soon as it is too much.
    let mut stream = TcpStream::connect(by.gateway.address()).await.unwrap();
    stream.write_all(head(&by.gateway, "Transfer-Encoding: chunked").as_bytes()).await.unwrap();
    let megabyte = vec![b' '; MIB as usize];
    let mut sent = 0;
    for _ in 0..100 {
        let chunk = async {
            stream.write_all(b"100000\r\n").await?;
            stream.write_all(&megabyte).await?;
            stream.write_all(b"\r\n").await
        };
        match tokio::time::timeout(PATIENCE, chunk).await {
            Ok(Ok(())) => sent += 1,
            _ => break,
        }
    }
    assert!(sent < 60, "{sent} MiB were taken although 16 are the limit");
    let grown = by.gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB more than before", grown / MIB);
    by.gateway.logged("FL-1003").await;
    by.notices_nothing().await;
}

#[tokio::test]
async fn slow_heads_are_cut_and_slow_bodies_refused() {
    let by = Bystander::new("listen: { address: \"127.0.0.1:0\", header_timeout: 1s, body_timeout: 1s }").await;
    let start = Instant::now();
    let slow = |framing: &'static str, body: &'static str| {
        let address = by.gateway.address();
        let text = if framing.is_empty() {
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".to_owned()
        } else {
            head(&by.gateway, framing) + body
        };
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            let (mut read, mut write) = stream.split();
            let dribble = async {
                // More bytes keep coming, one at a time.
                for _ in 0..100 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if write.write_all(b"a").await.is_err() {
                        break;
                    }
                }
                false
            };
            let mut answer = Vec::new();
            let ended = async {
                let mut chunk = [0; 4096];
                while let Ok(count) = read.read(&mut chunk).await {
                    if count == 0 {
                        break;
                    }
                    answer.extend_from_slice(&chunk[..count]);
                    if answer.windows(7).any(|window| window == b"FL-1004") {
                        break;
                    }
                }
                true
            };
            let ended = tokio::select! {
                ended = ended => ended,
                ended = dribble => ended,
            };
            (ended, String::from_utf8_lossy(&answer).into_owned())
        })
    };
    let heads: Vec<_> = (0..100).map(|_| slow("", "")).collect();
    let bodies: Vec<_> = (0..20).map(|_| slow("Content-Length: 100000", "{\"jsonrpc\":")).collect();
    by.notices_nothing().await;
    for head in heads {
        let (ended, answer) = head.await.unwrap();
        assert!(ended && (answer.is_empty() || answer.starts_with("HTTP/1.1 408")), "{ended} {answer}");
    }
    for body in bodies {
        let (ended, answer) = body.await.unwrap();
        assert!(ended && answer.starts_with("HTTP/1.1 408") && answer.contains("FL-1004"), "{ended} {answer}");
    }
    assert!(start.elapsed() < relaxed(6 * SECOND), "{:?}", start.elapsed());
    by.notices_nothing().await;
    by.gateway.logged("FL-1004").await;
}

#[tokio::test]
async fn bytes_that_are_not_http_end_their_connection_and_nothing_else() {
    let by = Bystander::new("").await;
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"\0\0\0\0\0\0\0\0\r\n\r\n".to_vec(),
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n".to_vec(),
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef".to_vec(),
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n".to_vec(),
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nBad Header: 1\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage that is no frame at all".to_vec(),
    ] {
        let mut stream = TcpStream::connect(by.gateway.address()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.ok();
        let answer = read_all(&mut stream, 5 * SECOND).await;
        let answer = answer.unwrap_or_else(|| panic!("the connection stays open after {bytes:?}"));
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        by.notices_nothing().await;
    }
    assert!(!by.gateway.log().contains("panicked"), "{}", by.gateway.log());
}

#[tokio::test]
async fn clients_that_break_off_in_the_middle_of_a_body_leave_nothing() {
    let by = Bystander::new("").await;
    for _ in 0..50 {
        let mut stream = TcpStream::connect(by.gateway.address()).await.unwrap();
        let text = head(&by.gateway, "Content-Length: 1000") + "{\"jsonrpc\":\"2.0\"";
        stream.write_all(text.as_bytes()).await.unwrap();
    }
    by.notices_nothing().await;
    let (_, metrics) = crate::support::get(&by.gateway.admin_url("/metrics")).await;
    assert!(metrics.contains("fairlead_calls_in_flight 0"), "{metrics}");
    let modern = by.gateway.modern("/mcp");
    assert!(modern.call("a__tool_0", json!({})).await.is_ok());
}
