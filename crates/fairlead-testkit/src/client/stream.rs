//! What comes back: a stream of frames, or all of them.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

use super::McpClient;

/// Bytes of one answer that are kept.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;
/// How long a stream may go on after the answer.
const AFTER_ANSWER: Duration = Duration::from_millis(250);

/// Drives one TCP connection; dropping it closes the socket.
pub(super) struct Connection(pub(super) JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// HTTP/1.1 on a connection.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
) -> anyhow::Result<(SendRequest<Full<Bytes>>, Connection)> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.context("no HTTP connection")?;
    let connection = tokio::spawn(async move {
        // Its end is seen where the answer is read.
        connection.await.ok();
    });
    Ok((sender, Connection(connection)))
}

/// One event of a stream, or the whole body of an answer that is none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Frame {
    /// `event:`.
    pub event: Option<String>,
    /// `id:`.
    pub id: Option<String>,
    /// `retry:`, milliseconds.
    pub retry: Option<u64>,
    /// The bytes of `data:`, lines joined with `\n`; of a body that is no stream, all of it.
    pub data: Bytes,
}

impl Frame {
    /// The data as JSON; `null` when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.data).unwrap_or_default()
    }
}

/// Everything that came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The HTTP headers.
    pub headers: HeaderMap,
    /// The frames in order.
    pub frames: Vec<Frame>,
    /// The body as it came.
    pub body: Bytes,
    /// The id of the request, when it had one.
    pub id: Option<Value>,
}

impl Answer {
    /// Every frame as JSON, apart from events without data.
    pub fn messages(&self) -> Vec<Value> {
        self.frames.iter().filter(|frame| !frame.data.is_empty()).map(Frame::json).collect()
    }

    /// The notifications of this method.
    pub fn notifications(&self, method: &str) -> Vec<Value> {
        let mut messages = self.messages();
        messages.retain(|message| message["method"] == method && message.get("id").is_none());
        messages
    }

    /// The answer to the request; without an id, the last message that is an answer.
    pub fn response(&self) -> Option<Value> {
        let answers = |message: &Value| {
            (message.get("result").is_some() || message.get("error").is_some())
                && self.id.as_ref().is_none_or(|id| message["id"] == *id || message["id"].is_null())
        };
        self.messages().into_iter().rev().find(answers)
    }

    /// The bytes of the frame [`Answer::response`] was read from.
    pub fn response_bytes(&self) -> Option<Bytes> {
        let response = self.response()?;
        self.frames.iter().rev().find(|frame| frame.json() == response).map(|frame| frame.data.clone())
    }

    /// The result.
    ///
    /// # Errors
    /// No answer, or one that is an error.
    pub fn result(&self) -> anyhow::Result<Value> {
        match self.response() {
            Some(response) if response.get("error").is_none() => Ok(response["result"].clone()),
            Some(response) => bail!("status {}, error {}", self.status, response["error"]),
            None => bail!("status {}, no answer in {:?}", self.status, String::from_utf8_lossy(&self.body)),
        }
    }

    /// The JSON-RPC error; `null` when there is none.
    pub fn error(&self) -> Value {
        self.response().map(|response| response["error"].clone()).unwrap_or_default()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An answer that is being read. Dropping it closes the connection, as a client that vanishes does.
pub struct AnswerStream {
    /// The HTTP status.
    pub status: u16,
    /// The HTTP headers.
    pub headers: HeaderMap,
    client: McpClient,
    id: Option<Value>,
    body: Incoming,
    is_stream: bool,
    unread: BytesMut,
    all: BytesMut,
    frames: Vec<Frame>,
    ended: bool,
    _connection: Connection,
}

impl AnswerStream {
    pub(super) fn new(
        client: McpClient,
        response: Response<Incoming>,
        connection: Connection,
        id: Option<Value>,
    ) -> Self {
        let (parts, body) = response.into_parts();
        let content_type = parts.headers.get(http::header::CONTENT_TYPE);
        let is_stream =
            content_type.is_some_and(|content_type| content_type.as_bytes().starts_with(b"text/event-stream"));
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            client,
            id,
            body,
            is_stream,
            unread: BytesMut::new(),
            all: BytesMut::new(),
            frames: Vec::new(),
            ended: false,
            _connection: connection,
        }
    }

    /// The id of the request, when it had one.
    pub fn id(&self) -> Option<&Value> {
        self.id.as_ref()
    }

    /// Whether the answer is an event stream.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// The next frame with data within `limit`; `None` at the end. Questions of the server are returned, not answered.
    ///
    /// # Errors
    /// A connection that breaks, nothing in time.
    pub async fn next(&mut self, limit: Duration) -> anyhow::Result<Option<Frame>> {
        let waiting = async {
            loop {
                match self.next_frame().await? {
                    // What primes a stream is no message.
                    Some(frame) if self.is_stream && frame.data.is_empty() => {}
                    next => return Ok(next),
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.with_context(|| format!("nothing within {limit:?}"))?
    }

    /// The same with frames that have no data.
    ///
    /// # Errors
    /// As [`AnswerStream::next`].
    pub async fn next_event(&mut self, limit: Duration) -> anyhow::Result<Option<Frame>> {
        tokio::time::timeout(limit, self.next_frame()).await.with_context(|| format!("nothing within {limit:?}"))?
    }

    /// The next frame with this method, others are passed over (questions are answered on the way).
    ///
    /// # Errors
    /// A connection that breaks or ends, nothing in time.
    pub async fn next_method(&mut self, method: &str, limit: Duration) -> anyhow::Result<Value> {
        let waiting = async {
            let mut last = Value::Null;
            loop {
                let Some(frame) = self.next_frame().await? else {
                    bail!("the stream ended before `{method}`, with {last}");
                };
                let message = frame.json();
                self.reply(&message).await?;
                if message["method"] == method {
                    return Ok(message);
                }
                last = message;
            }
        };
        tokio::time::timeout(limit, waiting).await.with_context(|| format!("no `{method}` within {limit:?}"))?
    }

    /// Listens for `limit`, and fails when a frame with data comes, or the stream ends or breaks.
    ///
    /// # Errors
    /// Anything but silence.
    pub async fn silent(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.listen_for_nothing(limit, |_| true).await
    }

    /// The same, where only frames with this method are meant (questions are answered on the way).
    ///
    /// # Errors
    /// As [`AnswerStream::silent`].
    pub async fn silent_of(&mut self, method: &str, limit: Duration) -> anyhow::Result<()> {
        self.listen_for_nothing(limit, |message| message["method"] == method).await
    }

    async fn listen_for_nothing(&mut self, limit: Duration, meant: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let listening = async {
            loop {
                let Some(frame) = self.next_frame().await? else { bail!("the stream ended") };
                let message = frame.json();
                if !frame.data.is_empty() && meant(&message) {
                    bail!("heard {message}");
                }
                self.reply(&message).await?;
            }
        };
        match tokio::time::timeout(limit, listening).await {
            Ok(ended) => ended.map(|never: Infallible| match never {}),
            Err(_) => Ok(()),
        }
    }

    /// Waits for a comment beyond those that have come.
    ///
    /// # Errors
    /// A connection that breaks or ends, nothing in time.
    pub async fn next_comment(&mut self, limit: Duration) -> anyhow::Result<()> {
        let comments = |all: &[u8]| all.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b":")).count();
        let before = comments(&self.all);
        let waiting = async {
            while comments(&self.all) == before {
                if !self.read_more().await? {
                    bail!("the stream ended before a comment");
                }
            }
            Ok(())
        };
        tokio::time::timeout(limit, waiting).await.with_context(|| format!("no comment within {limit:?}"))?
    }

    /// Reads to the end, answering what the server asks; a stream ends with the answer to its request.
    ///
    /// # Errors
    /// A connection that breaks, no end in time.
    pub async fn finish(mut self) -> anyhow::Result<Answer> {
        let limit = self.client.inner.limit;
        let reading = async {
            let mut answered = false;
            loop {
                let next = self.next_frame();
                // Servers end a stream after the answer; one that does not is not waited for.
                let next = if answered { tokio::time::timeout(AFTER_ANSWER, next).await } else { Ok(next.await) };
                let Ok(next) = next else { return Ok(()) };
                let Some(frame) = next? else {
                    if answered || !self.come_back().await? {
                        return Ok::<_, anyhow::Error>(());
                    }
                    continue;
                };
                let message = frame.json();
                self.reply(&message).await?;
                answered |= message["method"].is_null() && self.id.as_ref().is_some_and(|id| message["id"] == *id);
            }
        };
        tokio::time::timeout(limit, reading).await.with_context(|| format!("no end within {limit:?}"))??;
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            frames: self.frames,
            body: self.all.freeze(),
            id: self.id,
        })
    }

    /// Reads on where the stream ended, if this is a client that does so; `false` when there is nothing to read.
    async fn come_back(&mut self) -> anyhow::Result<bool> {
        let last = self.frames.iter().rev().find_map(|frame| frame.id.clone());
        let (true, true, Some(last)) = (self.client.inner.resuming, self.is_stream && self.id.is_some(), last) else {
            return Ok(false);
        };
        let retry = self.frames.iter().rev().find_map(|frame| frame.retry).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(retry)).await;
        let rest = self.client.open_get(Some(&last)).await?;
        if !rest.is_stream {
            return Ok(false);
        }
        let Self { body, _connection, .. } = rest;
        (self.body, self._connection, self.ended) = (body, _connection, false);
        self.unread.clear();
        Ok(true)
    }

    /// Goes away without a word.
    pub fn vanish(self) {}

    async fn reply(&self, message: &Value) -> anyhow::Result<()> {
        if message["method"].is_string() && message.get("id").is_some() {
            self.client.reply(message).await?;
        }
        Ok(())
    }

    async fn next_frame(&mut self) -> anyhow::Result<Option<Frame>> {
        loop {
            if self.is_stream
                && let Some(frame) = take_event(&mut self.unread)
            {
                self.frames.push(frame.clone());
                return Ok(Some(frame));
            }
            if self.ended {
                return Ok(None);
            }
            if !self.read_more().await? && !self.is_stream && !self.unread.is_empty() {
                let frame = Frame { data: self.unread.split().freeze(), ..Frame::default() };
                self.frames.push(frame.clone());
                return Ok(Some(frame));
            }
        }
    }

    /// Reads what comes next; `false` at the end.
    async fn read_more(&mut self) -> anyhow::Result<bool> {
        let Some(frame) = self.body.frame().await else {
            self.ended = true;
            return Ok(false);
        };
        if let Ok(data) = frame.context("the answer broke off")?.into_data() {
            if self.all.len() + data.len() > MAX_ANSWER_BYTES {
                bail!("the answer has more than {MAX_ANSWER_BYTES} bytes");
            }
            self.all.extend_from_slice(&data);
            self.unread.extend_from_slice(&data);
        }
        Ok(true)
    }
}

/// Takes the first complete event that has a field; comments are passed over.
fn take_event(unread: &mut BytesMut) -> Option<Frame> {
    loop {
        let end = find_blank_line(unread)?;
        let event = unread.split_to(end);
        let mut frame = Frame::default();
        let mut data = BytesMut::new();
        let (mut fields, mut lines) = (0, 0);
        for line in event.as_ref().split(|byte: &u8| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b":") {
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let value = line.get(colon + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let text = || String::from_utf8_lossy(value).into_owned();
            fields += 1;
            match &line[..colon] {
                b"event" => frame.event = Some(text()),
                b"id" => frame.id = Some(text()),
                b"retry" => frame.retry = text().parse().ok(),
                b"data" => {
                    if lines > 0 {
                        data.extend_from_slice(b"\n");
                    }
                    data.extend_from_slice(value);
                    lines += 1;
                }
                _ => {}
            }
        }
        if fields > 0 {
            frame.data = data.freeze();
            return Some(frame);
        }
    }
}

/// The position after the first blank line.
fn find_blank_line(unread: &[u8]) -> Option<usize> {
    let mut line_start = 0;
    for (position, byte) in unread.iter().enumerate() {
        if *byte == b'\n' {
            let line = &unread[line_start..position];
            if line.is_empty() || line == b"\r" {
                return Some(position + 1);
            }
            line_start = position + 1;
        }
    }
    None
}
