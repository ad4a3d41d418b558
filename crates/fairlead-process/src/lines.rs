//! What a child writes, cut into bounded lines.
//!
//! Two readers with opposite duties. [`LineReader`] (stdout) must lose nothing that is within bounds and must say when
//! something was not. [`log_stderr`] must never fall behind, because a child whose stderr is full stops: it cuts, counts
//! and drops. Neither holds more than its bound, whatever the child does.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

/// Room made in the buffer before each read.
const READ_SIZE: usize = 8 * 1024;

/// How much of an over-long line is handed out with [`Line::TooLong`]: enough to find the id of a message.
pub const TOO_LONG_HEAD: usize = 1024;

/// The longest line of stderr that is logged, in bytes before escaping; the rest of it is dropped.
pub const STDERR_LINE_MAX: usize = 4 * 1024;

/// The period over which lines of stderr are counted against their limit.
const STDERR_PERIOD: Duration = Duration::from_secs(1);

/// One line of stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A line within the bound, without its end (`\n` or `\r\n`), never blank. Whether it is a message or junk is for the
    /// reader to decide; it need not be UTF-8.
    Text(Bytes),
    /// A line that passed the bound. It is reported at once, the rest of it is dropped up to the next line.
    TooLong {
        /// The first [`TOO_LONG_HEAD`] bytes of it.
        head: Bytes,
    },
}

/// Reads lines of at most `max_message` bytes. Memory is bounded by that plus one read.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    max_message: usize,
    buffer: BytesMut,
    /// The beginning of `buffer` that is known to hold no line end.
    scanned: usize,
    /// Dropping the rest of an over-long line.
    skipping: bool,
    ended: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// A reader of lines of at most `max_message` bytes, line end not counted.
    pub fn new(reader: R, max_message: usize) -> Self {
        Self { reader, max_message, buffer: BytesMut::new(), scanned: 0, skipping: false, ended: false }
    }

    /// The next line that is not blank; `None` when the stream has ended. A last line without a line end counts.
    /// Cancel safe.
    ///
    /// # Errors
    /// What reading the stream gives.
    pub async fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            self.buffer.reserve(READ_SIZE);
            self.ended = self.reader.read_buf(&mut self.buffer).await? == 0;
        }
    }

    fn take_line(&mut self) -> Option<Line> {
        loop {
            let line = match memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
                Some(at) => {
                    let mut line = self.buffer.split_to(self.scanned + at + 1);
                    line.truncate(line.len() - 1);
                    line
                }
                None if self.ended && !self.buffer.is_empty() => self.buffer.split(),
                // One byte more than the bound may be the `\r` of the line end.
                None if self.skipping || self.buffer.len() > self.max_message.saturating_add(1) => {
                    let head = self.buffer.split();
                    self.scanned = 0;
                    if std::mem::replace(&mut self.skipping, true) {
                        return None;
                    }
                    return Some(too_long(&head));
                }
                None => {
                    self.scanned = self.buffer.len();
                    return None;
                }
            };
            self.scanned = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let text = line.freeze();
            let text = if text.last() == Some(&b'\r') { text.slice(..text.len() - 1) } else { text };
            if text.len() > self.max_message {
                return Some(too_long(&text));
            }
            if !text.iter().all(u8::is_ascii_whitespace) {
                return Some(Line::Text(text));
            }
        }
    }
}

/// The head is copied, so that it does not keep the long line in memory.
fn too_long(line: &[u8]) -> Line {
    Line::TooLong { head: Bytes::copy_from_slice(&line[..line.len().min(TOO_LONG_HEAD)]) }
}

/// Reads stderr to its end and logs each line under the target `fairlead::server` with the field `server`.
///
/// A line is cut after [`STDERR_LINE_MAX`] bytes and its control characters are escaped. At most `lines_per_second` lines
/// are logged in a second; of the others only their number is. Ends with the stream; cancel it by dropping.
pub async fn log_stderr(stderr: impl AsyncRead + Unpin, server: &str, lines_per_second: u32) {
    pump(stderr, lines_per_second, |event| match event {
        StderrEvent::Line(line) => tracing::info!(target: "fairlead::server", server, "{line}"),
        StderrEvent::Suppressed(count) => {
            tracing::warn!(target: "fairlead::server", server, count, "more lines on stderr than are logged, they were dropped");
        }
    })
    .await;
}

#[derive(Debug, PartialEq, Eq)]
enum StderrEvent {
    Line(String),
    Suppressed(u64),
}

async fn pump(mut stderr: impl AsyncRead + Unpin, lines_per_second: u32, mut emit: impl FnMut(StderrEvent)) {
    let mut chunk = vec![0; READ_SIZE];
    let mut line = Vec::new();
    let mut budget = LineBudget::new(lines_per_second);
    loop {
        let read = if budget.suppressed > 0 {
            match tokio::time::timeout_at(budget.period_end, stderr.read(&mut chunk)).await {
                Ok(read) => read,
                Err(_) => {
                    budget.renew(&mut emit);
                    continue;
                }
            }
        } else {
            stderr.read(&mut chunk).await
        };
        let mut rest = match read {
            Ok(length) if length > 0 => &chunk[..length],
            _ => break,
        };
        while let Some(at) = memchr::memchr(b'\n', rest) {
            append(&mut line, &rest[..at]);
            budget.spend(&line, &mut emit);
            line.clear();
            rest = &rest[at + 1..];
        }
        append(&mut line, rest);
    }
    budget.spend(&line, &mut emit);
    budget.renew(&mut emit);
}

/// One byte more than the bound is kept, to know that the line was cut.
fn append(line: &mut Vec<u8>, part: &[u8]) {
    let room = (STDERR_LINE_MAX + 1).saturating_sub(line.len());
    line.extend_from_slice(&part[..part.len().min(room)]);
}

struct LineBudget {
    lines_per_second: u32,
    left: u32,
    suppressed: u64,
    period_end: Instant,
}

impl LineBudget {
    fn new(lines_per_second: u32) -> Self {
        Self { lines_per_second, left: lines_per_second, suppressed: 0, period_end: Instant::now() + STDERR_PERIOD }
    }

    fn spend(&mut self, line: &[u8], emit: &mut impl FnMut(StderrEvent)) {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return;
        }
        if Instant::now() >= self.period_end {
            self.renew(emit);
        }
        if self.left == 0 {
            self.suppressed += 1;
            return;
        }
        self.left -= 1;
        emit(StderrEvent::Line(printable(line)));
    }

    fn renew(&mut self, emit: &mut impl FnMut(StderrEvent)) {
        self.left = self.lines_per_second;
        self.period_end = Instant::now() + STDERR_PERIOD;
        match std::mem::take(&mut self.suppressed) {
            0 => {}
            count => emit(StderrEvent::Suppressed(count)),
        }
    }
}

/// Text that can do nothing to a terminal or to the shape of a log: control characters (also the ones beyond ASCII and the
/// line and paragraph separators) are escaped, what is not UTF-8 is replaced.
fn printable(line: &[u8]) -> String {
    let cut = line.len() > STDERR_LINE_MAX;
    let text = String::from_utf8_lossy(&line[..line.len().min(STDERR_LINE_MAX)]);
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => printable.push(' '),
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                printable.extend(character.escape_unicode());
            }
            control if control.is_control() => printable.extend(control.escape_default()),
            plain => printable.push(plain),
        }
    }
    if cut {
        printable.push_str(" [cut]");
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    /// Feeds `input` in pieces of `piece` bytes and writes the lines down.
    fn check(input: &[u8], max_message: usize, expected: &[&str]) {
        for piece in [1, 3, 7, input.len().max(1)] {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let lines = runtime.block_on(async {
                let (mut writer, reader) = tokio::io::duplex(piece);
                let mut reader = LineReader::new(reader, max_message);
                let write = async {
                    writer.write_all(input).await.unwrap();
                    drop(writer);
                };
                let read = async {
                    let mut lines = Vec::new();
                    while let Some(line) = reader.next_line().await.unwrap() {
                        lines.push(match line {
                            Line::Text(text) => String::from_utf8_lossy(&text).into_owned(),
                            Line::TooLong { head } => format!("TOO LONG {}", head.len().min(4)),
                        });
                    }
                    lines
                };
                tokio::join!(write, read).1
            });
            assert_eq!(lines, expected, "{:?} in pieces of {piece}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn lines_are_cut_at_line_ends_and_bounded() {
        check(b"", 8, &[]);
        check(b"one\ntwo\r\n\n  \r\nthree", 8, &["one", "two", "three"]);
        check(b"12345678\n123456789\n1\n", 8, &["12345678", "TOO LONG 4", "1"]);
        check(b"12345678\r\n", 8, &["12345678"]);
        check(b"1234567890123456789012345678901234567890\nnext\n", 8, &["TOO LONG 4", "next"]);
        check(b"a\n12345678901234567890", 8, &["a", "TOO LONG 4"]);
        check(b"\xff\xfe{junk\n{}\n", 64, &["\u{fffd}\u{fffd}{junk", "{}"]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_reported_at_once_and_takes_no_memory() {
        let (mut writer, reader) = tokio::io::duplex(4096);
        let mut reader = LineReader::new(reader, 10_000);
        let flood = async {
            for _ in 0..1000 {
                writer.write_all(&[b'x'; 4096]).await.unwrap();
            }
            writer.write_all(b"\nafter\n").await.unwrap();
        };
        let read = async {
            assert_eq!(
                reader.next_line().await.unwrap(),
                Some(Line::TooLong { head: Bytes::from(vec![b'x'; TOO_LONG_HEAD]) })
            );
            assert_eq!(reader.next_line().await.unwrap(), Some(Line::Text(Bytes::from_static(b"after"))));
            assert!(reader.buffer.capacity() <= 64 * 1024, "{}", reader.buffer.capacity());
        };
        tokio::join!(flood, read);
    }

    async fn pumped(input: &[u8], lines_per_second: u32) -> Vec<StderrEvent> {
        let mut events = Vec::new();
        pump(input, lines_per_second, |event| events.push(event)).await;
        events
    }

    #[tokio::test(start_paused = true)]
    async fn stderr_is_cut_escaped_and_counted() {
        let line = |text: &str| StderrEvent::Line(text.to_owned());
        assert_eq!(pumped(b"plain\n\nlast", 10).await, [line("plain"), line("last")]);
        assert_eq!(pumped(b"\x1b[31mred\x07\tx\r\n", 10).await, [line("\\u{1b}[31mred\\u{7} x")]);
        assert_eq!(pumped("a\u{202e}b\u{9b}c".as_bytes(), 10).await, [line("a\\u{202e}b\\u{9b}c")]);
        let long = vec![b'y'; 3 * STDERR_LINE_MAX];
        assert_eq!(pumped(&long, 10).await, [line(&format!("{} [cut]", "y".repeat(STDERR_LINE_MAX)))]);
        let flood = b"x\n".repeat(100_000);
        assert_eq!(pumped(&flood, 2).await, [line("x"), line("x"), StderrEvent::Suppressed(99_998)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_count_is_logged_when_the_second_is_over_and_lines_go_on() {
        let (mut writer, reader) = tokio::io::duplex(1024);
        let mut events = Vec::new();
        let write = async {
            writer.write_all(b"1\n2\n3\n").await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            writer.write_all(b"4\n").await.unwrap();
            drop(writer);
        };
        tokio::join!(write, pump(reader, 1, |event| events.push(event)));
        assert_eq!(
            events,
            [StderrEvent::Line("1".to_owned()), StderrEvent::Suppressed(2), StderrEvent::Line("4".to_owned())]
        );
    }
}
