//! Server-sent events, both ways (WHATWG HTML, "Server-sent events"), as MCP's HTTP transports use them.
//!
//! The parser differs from a browser's in one point: an event without data is returned when it carries an id or a retry time,
//! because MCP 2025-11-25 primes a stream with exactly that. An event that the end of the stream cuts off is never returned.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bounds of the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseLimits {
    /// Bytes one event may hold in memory: its data, id, name and a line that has not ended yet.
    pub max_event: usize,
}

impl Default for SseLimits {
    fn default() -> Self {
        Self { max_event: 16 * 1024 * 1024 }
    }
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The last `id` line of this event.
    pub id: Option<String>,
    /// The last `event` line.
    pub event: Option<String>,
    /// The `data` lines joined by newlines.
    pub data: Bytes,
    /// The last `retry` line that was a number, in milliseconds.
    pub retry: Option<u64>,
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event is larger than [`SseLimits::max_event`]. The parser stays in this state.
    #[error("an event is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

/// Incremental parser. Push a chunk, then take events until there is none; what was pushed and not yet read is kept whole, so
/// a caller that pushes without taking holds it all.
#[derive(Debug)]
pub struct SseParser {
    limits: SseLimits,
    /// What was pushed and not yet read.
    chunk: Bytes,
    /// A line that began in an earlier chunk.
    line: BytesMut,
    /// The last line ended in CR: a LF that follows belongs to it.
    after_cr: bool,
    /// No line has been read yet, so a byte order mark may come.
    at_start: bool,
    data: Data,
    id: Option<String>,
    event: Option<String>,
    retry: Option<u64>,
    /// The error, once there was one.
    failed: Option<SseError>,
}

#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    /// One line: a view of the chunk it came in, when it came in one.
    One(Bytes),
    Many(BytesMut),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::None => 0,
            Data::One(bytes) => bytes.len(),
            Data::Many(bytes) => bytes.len(),
        }
    }

    fn add(&mut self, line: Bytes) {
        *self = match std::mem::take(self) {
            Data::None => Data::One(line),
            Data::One(first) => {
                let mut joined = BytesMut::with_capacity(first.len() + 1 + line.len());
                joined.extend_from_slice(&first);
                joined.put_u8(b'\n');
                joined.extend_from_slice(&line);
                Data::Many(joined)
            }
            Data::Many(mut joined) => {
                joined.put_u8(b'\n');
                joined.extend_from_slice(&line);
                Data::Many(joined)
            }
        };
    }
}

impl SseParser {
    /// A parser at the start of a stream.
    #[must_use]
    pub fn new(limits: SseLimits) -> Self {
        Self {
            limits,
            chunk: Bytes::new(),
            line: BytesMut::new(),
            after_cr: false,
            at_start: true,
            data: Data::None,
            id: None,
            event: None,
            retry: None,
            failed: None,
        }
    }

    /// Gives the parser the next bytes of the stream, cut anywhere.
    pub fn push(&mut self, bytes: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = bytes;
        } else if !bytes.is_empty() {
            self.chunk = Bytes::from([&self.chunk[..], &bytes[..]].concat());
        }
    }

    /// The next whole event, or `None` until more is pushed.
    ///
    /// # Errors
    /// [`SseError::TooLarge`], from then on for every call.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends and goes on would surprise")]
    pub fn next(&mut self) -> Result<Option<SseEvent>, SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while let Some(line) = self.take_line()? {
            if line.is_empty() {
                if let Some(event) = self.dispatch() {
                    return Ok(Some(event));
                }
            } else {
                self.field(line)?;
            }
        }
        Ok(None)
    }

    /// The next line without its end; `None` when it has not ended yet.
    fn take_line(&mut self) -> Result<Option<Bytes>, SseError> {
        if self.after_cr && !self.chunk.is_empty() {
            self.after_cr = false;
            if self.chunk[0] == b'\n' {
                self.chunk.advance(1);
            }
        }
        let Some(end) = memchr::memchr2(b'\n', b'\r', &self.chunk) else {
            self.check(self.line.len() + self.chunk.len())?;
            self.line.extend_from_slice(&self.chunk);
            self.chunk.clear();
            return Ok(None);
        };
        self.check(self.line.len() + end)?;
        self.after_cr = self.chunk[end] == b'\r';
        let rest = self.chunk.split_to(end);
        self.chunk.advance(1);
        let mut line = if self.line.is_empty() {
            rest
        } else {
            self.line.extend_from_slice(&rest);
            self.line.split().freeze()
        };
        if self.at_start {
            self.at_start = false;
            if line.starts_with(b"\xEF\xBB\xBF") {
                line.advance(3);
            }
        }
        Ok(Some(line))
    }

    fn field(&mut self, mut line: Bytes) -> Result<(), SseError> {
        let colon = memchr::memchr(b':', &line);
        let name = line.split_to(colon.unwrap_or(line.len()));
        if colon.is_some() {
            line.advance(1);
            if line.first() == Some(&b' ') {
                line.advance(1);
            }
        }
        match &name[..] {
            b"data" => {
                self.check(line.len() + 1)?;
                self.data.add(line);
            }
            b"event" => self.event = Some(text(&line)),
            // A NUL in an id makes the whole line void, by the standard.
            b"id" if memchr::memchr(0, &line).is_none() => self.id = Some(text(&line)),
            // A number too large for the type is as if it were not there.
            b"retry" if line.iter().all(u8::is_ascii_digit) => self.retry = text(&line).parse().ok().or(self.retry),
            // Comments (an empty name) and unknown fields.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        let data = std::mem::take(&mut self.data);
        let event = SseEvent {
            id: self.id.take(),
            event: self.event.take(),
            retry: self.retry.take(),
            data: match data {
                Data::None => Bytes::new(),
                Data::One(ref line) => line.clone(),
                Data::Many(ref lines) => lines.clone().freeze(),
            },
        };
        let meant = !matches!(data, Data::None) || event.id.is_some() || event.retry.is_some();
        meant.then_some(event)
    }

    /// Whether `more` bytes fit beside what the event holds already.
    fn check(&mut self, more: usize) -> Result<(), SseError> {
        let named = self.id.as_ref().map_or(0, String::len) + self.event.as_ref().map_or(0, String::len);
        if self.data.len() + named + more > self.limits.max_event {
            let error = SseError::TooLarge { limit: self.limits.max_event };
            self.failed = Some(error);
            return Err(error);
        }
        Ok(())
    }
}

/// The stream is UTF-8; what is not is replaced, as the standard's decoder does.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes one event. Line breaks in `data` become several data lines; in the id and the name they are left out.
pub fn write_event(out: &mut BytesMut, id: Option<&str>, event: Option<&str>, data: &[u8]) {
    out.reserve(data.len() + id.map_or(0, str::len) + event.map_or(0, str::len) + 32);
    write_field(out, b"id: ", id);
    write_field(out, b"event: ", event);
    let mut rest = data;
    while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
        write_data(out, &rest[..end]);
        let both = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(both)..];
    }
    write_data(out, rest);
    out.put_u8(b'\n');
}

/// Writes a comment, which keeps a quiet connection open.
pub fn write_comment(out: &mut BytesMut, text: &str) {
    write_field(out, b": ", Some(text));
    out.put_u8(b'\n');
}

/// Writes the event that primes a stream: an id, when to come back after a break, and no data.
pub fn write_retry(out: &mut BytesMut, id: Option<&str>, retry_ms: u64) {
    write_field(out, b"id: ", id);
    write_field(out, b"retry: ", Some(&retry_ms.to_string()));
    write_data(out, b"");
    out.put_u8(b'\n');
}

fn write_field(out: &mut BytesMut, name: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(name);
        out.extend_from_slice(one_line(value).as_bytes());
        out.put_u8(b'\n');
    }
}

fn write_data(out: &mut BytesMut, line: &[u8]) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line);
    out.put_u8(b'\n');
}

fn one_line(value: &str) -> Cow<'_, str> {
    const BREAKS: [char; 3] = ['\n', '\r', '\0'];
    if value.contains(BREAKS) { Cow::Owned(value.replace(BREAKS, "")) } else { Cow::Borrowed(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `id|event|data|retry` of each event, from the stream cut into pieces of every size.
    fn check(stream: &str, expected: &[&str]) {
        for size in 1..=stream.len().max(1) {
            let mut parser = SseParser::new(SseLimits::default());
            let mut events = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                parser.push(Bytes::copy_from_slice(piece));
                while let Some(event) = parser.next().unwrap() {
                    let data = String::from_utf8(event.data.to_vec()).unwrap();
                    let [id, name] = [event.id, event.event].map(|text| text.unwrap_or("-".into()));
                    events.push(format!("{id}|{name}|{data}|{}", event.retry.map_or("-".into(), |ms| ms.to_string())));
                }
            }
            assert_eq!(events, expected, "{stream:?} in pieces of {size}");
        }
    }

    #[test]
    fn streams_read_the_same_however_they_are_cut() {
        for (stream, expected) in [
            ("", &[][..]),
            ("data: a\n\n", &["-|-|a|-"]),
            ("data:a\r\n\r\n", &["-|-|a|-"]),
            ("data:  a \r\r", &["-|-| a |-"]),
            ("\u{feff}data: a\n\ndata: \u{feff}b\n\n", &["-|-|a|-", "-|-|\u{feff}b|-"]),
            ("data: a\ndata: b\rdata\r\ndata:\n\n", &["-|-|a\nb\n\n|-"]),
            ("data:\n\n", &["-|-||-"]),
            ("data\n\n", &["-|-||-"]),
            (": hello\n\n:\n\ndata: x\n: in between\n\n", &["-|-|x|-"]),
            ("id: 7\nevent: message\nretry: 250\ndata: {}\n\n", &["7|message|{}|250"]),
            ("id: 1\nretry: 500\ndata: \n\n", &["1|-||500"]),
            ("id: 1\n\n", &["1|-||-"]),
            ("retry: 9\n\n", &["-|-||9"]),
            ("retry: 9\nretry: x\nretry: \nretry: 99999999999999999999\n\n", &["-|-||9"]),
            ("event: nothing\n\ndata: x\n\n", &["-|-|x|-"]),
            ("id: a\u{0}b\ndata: x\n\n", &["-|-|x|-"]),
            ("id\ndata: x\n\n", &["|-|x|-"]),
            ("unknown: y\nDATA: z\n data: w\ndata: x\n\n", &["-|-|x|-"]),
            ("data: whole\n\ndata: cut off\n", &["-|-|whole|-"]),
            ("event: endpoint\ndata: /messages?x=1:2\n\n", &["-|endpoint|/messages?x=1:2|-"]),
        ] {
            check(stream, expected);
        }
    }

    #[test]
    fn one_data_line_in_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"event: message\ndata: {\"a\":1}\n\n");
        let mut parser = SseParser::new(SseLimits::default());
        parser.push(chunk.clone());
        let event = parser.next().unwrap().unwrap();
        let chunk_range = chunk.as_ptr_range();
        assert!(chunk_range.contains(&event.data.as_ptr()));
    }

    #[test]
    fn an_event_is_bounded_and_the_parser_stays_failed() {
        for stream in [
            "data: 0123456789\n\n",
            "data: 01234\ndata: 01234\n\n",
            ": a comment that does not end",
            "data: 012345678",
            "id: 0123456\ndata: 0\n\n",
        ] {
            let mut parser = SseParser::new(SseLimits { max_event: 12 });
            parser.push(Bytes::copy_from_slice(stream.as_bytes()));
            assert_eq!(parser.next(), Err(SseError::TooLarge { limit: 12 }), "{stream:?}");
            parser.push(Bytes::from_static(b"\n\ndata: a\n\n"));
            assert_eq!(parser.next(), Err(SseError::TooLarge { limit: 12 }), "{stream:?}");
        }
        let mut parser = SseParser::new(SseLimits { max_event: 12 });
        for _ in 0..100 {
            parser.push(Bytes::from_static(b"data: 012345\n\n"));
            assert_eq!(parser.next().unwrap().unwrap().data, "012345");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut out = BytesMut::new();
        write_comment(&mut out, "keep\nalive");
        write_retry(&mut out, Some("s-1"), 500);
        write_retry(&mut out, None, 10);
        write_event(&mut out, None, None, b"{}");
        write_event(&mut out, Some("a\r\nb\0"), Some("mes\nsage"), b"{\n\"a\":\r\n1}\r");
        insta::assert_snapshot!(String::from_utf8(out.to_vec()).unwrap(), @r#"
        : keepalive

        id: s-1
        retry: 500
        data: 

        retry: 10
        data: 

        data: {}

        id: ab
        event: message
        data: {
        data: "a":
        data: 1}
        data: 
        "#);
        let stream = String::from_utf8(out.to_vec()).unwrap();
        check(&stream, &["s-1|-||500", "-|-||10", "-|-|{}|-", "ab|message|{\n\"a\":\n1}\n|-"]);
    }
}
