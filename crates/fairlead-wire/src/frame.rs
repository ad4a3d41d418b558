//! One JSON-RPC message: the bytes as they came, and where the routed members are.
//!
//! Parsing validates the whole text as JSON and the envelope as JSON-RPC 2.0 with MCP's narrowing (ids are strings or integers,
//! never null for a request). Members the gateway routes by are *recorded* as spans; all others are skipped. A recorded member
//! that occurs twice is refused, also when one spelling is escaped: two readers of one message must not be able to disagree
//! about where it goes. Duplicates inside what is only forwarded (arguments, results' content) are not looked for.
//!
//! Rules: JSON-RPC 2.0 sections 4 and 5; MCP "Base protocol, messages"; batches exist in revision 2025-03-26 only.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::method::Method;
use crate::scan::{Key, ScanError, Scanner, Shape, span};

/// Bounds of what is read as one message. The length of the text is bounded by the transport; here only by `u32` positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Containers open at once, the envelope included; at most 1024 whatever is set here.
    pub max_depth: usize,
    /// Bytes of the raw id, quotes included.
    pub max_id: usize,
    /// Messages in one batch.
    pub max_batch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_depth: 128, max_id: 256, max_batch: 100 }
    }
}

/// A byte range of a frame; `end` is exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// No value is empty, so an empty span can stand for "not there".
    const ABSENT: Span = Span { start: 0, end: 0 };

    /// The range for indexing.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    /// A place inside `outer`, as a place in what `outer` is in.
    #[must_use]
    pub fn within(self, outer: Span) -> Span {
        Span { start: outer.start + self.start, end: outer.start + self.end }
    }
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// A method and an id.
    Request,
    /// A method without an id.
    Notification,
    /// A response that carries `result`.
    Result,
    /// A response that carries `error`.
    Error,
}

/// The members whose places are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Field {
    /// `jsonrpc`
    JsonRpc,
    /// `id`
    Id,
    /// `method`
    Method,
    /// `params`
    Params,
    /// `result`
    Result,
    /// `error`
    Error,
    /// `error.code`
    ErrorCode,
    /// `error.message`
    ErrorMessage,
    /// `error.data`
    ErrorData,
    /// `params.name`
    Name,
    /// `params.uri`
    Uri,
    /// `params.cursor`
    Cursor,
    /// `params.taskId`
    TaskId,
    /// `params.requestState`
    RequestState,
    /// `params.inputResponses`
    InputResponses,
    /// `params.arguments`
    Arguments,
    /// `params.task`, with which a request of 2025-11-25 asks to be run as a task
    Task,
    /// `params.ref`
    Ref,
    /// `params.ref.name`
    RefName,
    /// `params.ref.uri`
    RefUri,
    /// `params.level`
    Level,
    /// `params.progressToken`, in `notifications/progress`
    ParamProgressToken,
    /// `params.requestId`, in `notifications/cancelled`
    ParamRequestId,
    /// `params.protocolVersion`, in `initialize`
    ParamProtocolVersion,
    /// `params.capabilities`, in `initialize`
    ParamCapabilities,
    /// `params.clientInfo`, in `initialize`
    ParamClientInfo,
    /// `params.notifications`, the filter of `subscriptions/listen`
    ParamNotifications,
    /// `params._meta`
    Meta,
    /// `params._meta.progressToken`
    ProgressToken,
    /// `params._meta["io.modelcontextprotocol/protocolVersion"]`
    MetaProtocolVersion,
    /// `params._meta["io.modelcontextprotocol/clientCapabilities"]`
    MetaClientCapabilities,
    /// `params._meta["io.modelcontextprotocol/clientInfo"]`
    MetaClientInfo,
    /// `params._meta["io.modelcontextprotocol/logLevel"]`
    MetaLogLevel,
    /// `params._meta["io.modelcontextprotocol/subscriptionId"]`
    MetaSubscriptionId,
    /// `params._meta["io.modelcontextprotocol/related-task"]`
    MetaRelatedTask,
    /// `params._meta["fairlead/timeoutMs"]`, until when whoever calls waits
    MetaTimeout,
    /// `params._meta["fairlead/info"]`
    MetaInfo,
    /// `result.resultType`
    ResultType,
    /// `result._meta`
    ResultMeta,
    /// `result.nextCursor`
    NextCursor,
    /// `result.ttlMs`
    ResultTtlMs,
    /// `result.cacheScope`
    ResultCacheScope,
    /// `result.isError` of a tool's answer.
    ResultIsError,
}

const FIELDS: usize = Field::ResultIsError as usize + 1;

/// An object of the envelope whose members are recorded.
#[derive(Clone, Copy)]
enum Section {
    Envelope,
    Params,
    Meta,
    Ref,
    Result,
    Error,
}

impl Section {
    /// What a key of this object is recorded as, and the section its value opens when it is an object.
    fn lookup(self, key: &[u8]) -> Option<(Field, Option<Section>)> {
        use Field as F;
        let field = match self {
            Section::Envelope => match key {
                b"jsonrpc" => F::JsonRpc,
                b"id" => F::Id,
                b"method" => F::Method,
                b"params" => return Some((F::Params, Some(Section::Params))),
                b"result" => return Some((F::Result, Some(Section::Result))),
                b"error" => return Some((F::Error, Some(Section::Error))),
                _ => return None,
            },
            Section::Params => match key {
                b"name" => F::Name,
                b"arguments" => F::Arguments,
                b"_meta" => return Some((F::Meta, Some(Section::Meta))),
                b"uri" => F::Uri,
                b"cursor" => F::Cursor,
                b"taskId" => F::TaskId,
                b"task" => F::Task,
                b"requestState" => F::RequestState,
                b"inputResponses" => F::InputResponses,
                b"ref" => return Some((F::Ref, Some(Section::Ref))),
                b"level" => F::Level,
                b"progressToken" => F::ParamProgressToken,
                b"requestId" => F::ParamRequestId,
                b"protocolVersion" => F::ParamProtocolVersion,
                b"capabilities" => F::ParamCapabilities,
                b"clientInfo" => F::ParamClientInfo,
                b"notifications" => F::ParamNotifications,
                _ => return None,
            },
            Section::Meta => match key {
                b"progressToken" => F::ProgressToken,
                b"io.modelcontextprotocol/protocolVersion" => F::MetaProtocolVersion,
                b"io.modelcontextprotocol/clientCapabilities" => F::MetaClientCapabilities,
                b"io.modelcontextprotocol/clientInfo" => F::MetaClientInfo,
                b"io.modelcontextprotocol/logLevel" => F::MetaLogLevel,
                b"io.modelcontextprotocol/subscriptionId" => F::MetaSubscriptionId,
                b"io.modelcontextprotocol/related-task" => F::MetaRelatedTask,
                b"fairlead/timeoutMs" => F::MetaTimeout,
                b"fairlead/info" => F::MetaInfo,
                _ => return None,
            },
            Section::Ref => match key {
                b"name" => F::RefName,
                b"uri" => F::RefUri,
                _ => return None,
            },
            Section::Result => match key {
                b"resultType" => F::ResultType,
                b"_meta" => F::ResultMeta,
                b"nextCursor" => F::NextCursor,
                b"ttlMs" => F::ResultTtlMs,
                b"cacheScope" => F::ResultCacheScope,
                b"isError" => F::ResultIsError,
                _ => return None,
            },
            Section::Error => match key {
                b"code" => F::ErrorCode,
                b"message" => F::ErrorMessage,
                b"data" => F::ErrorData,
                _ => return None,
            },
        };
        Some((field, None))
    }
}

/// Why a text is not a message we take. `Display` is a sentence for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not UTF-8.
    #[error("the message is not valid UTF-8")]
    NotUtf8,
    /// Not JSON.
    #[error("the message is not valid JSON (byte {offset})")]
    NotJson {
        /// Byte at which reading stopped.
        offset: usize,
    },
    /// JSON, but neither an object nor a batch.
    #[error("a JSON-RPC message must be a JSON object")]
    NotAnObject,
    /// An object, but not an envelope.
    #[error("not a JSON-RPC 2.0 message: {0}")]
    NotJsonRpc(&'static str),
    /// A routed member occurs twice; carries its name, shortened.
    #[error("the member {0:?} occurs more than once")]
    DuplicateMember(String),
    /// More open containers than [`Limits::max_depth`].
    #[error("the message is nested too deeply")]
    TooDeep,
    /// Longer than positions can say (4 GiB).
    #[error("the message is too long")]
    TooLong,
    /// The id is missing where one is due, null, of another type, or longer than [`Limits::max_id`].
    #[error("the id must be a string or an integer of bounded length, and not null")]
    BadId,
    /// A batch where one message is expected.
    #[error("batches are not accepted here: send one message at a time")]
    Batch,
    /// `[]`.
    #[error("the batch is empty")]
    EmptyBatch,
    /// More messages than [`Limits::max_batch`].
    #[error("the batch has too many messages")]
    BatchTooLong,
}

impl FrameError {
    /// The JSON-RPC code: `-32700` when the text is not JSON, else `-32600`.
    #[must_use]
    pub fn rpc_code(&self) -> i64 {
        match self {
            FrameError::NotUtf8 | FrameError::NotJson { .. } => -32700,
            _ => -32600,
        }
    }
}

impl From<ScanError> for FrameError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Syntax(offset) => FrameError::NotJson { offset },
            ScanError::TooDeep => FrameError::TooDeep,
        }
    }
}

/// Everything known about a message besides its bytes. One allocation, shared by clones.
struct Index {
    spans: [Span; FIELDS],
    kind: Kind,
    method: Method,
    error_code: i64,
    /// The method's text when it was spelled with escapes.
    unescaped_method: Option<Box<str>>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            spans: [Span::ABSENT; FIELDS],
            kind: Kind::Request,
            method: Method::Other,
            error_code: 0,
            unescaped_method: None,
        }
    }
}

/// One JSON-RPC message. Cloning counts references and copies nothing.
#[derive(Clone)]
pub struct Frame {
    bytes: Bytes,
    index: Arc<Index>,
}

impl fmt::Debug for Frame {
    /// Without the content: frames carry arguments and results.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Frame")
            .field("kind", &self.kind())
            .field("method", &self.method())
            .field("length", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Frame {
    /// Reads one message.
    ///
    /// # Errors
    /// Any [`FrameError`]; a batch is [`FrameError::Batch`].
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Frame, FrameError> {
        check_text(&bytes)?;
        Self::parse_text(bytes, limits)
    }

    /// Reads text that is known to be UTF-8 and short enough.
    fn parse_text(bytes: Bytes, limits: &Limits) -> Result<Frame, FrameError> {
        let mut scanner = Scanner::new(&bytes, limits.max_depth);
        scanner.skip_space();
        if scanner.peek() != Some(b'{') {
            let value = scanner.value()?;
            scanner.finish()?;
            return Err(if value.shape == Shape::Array { FrameError::Batch } else { FrameError::NotAnObject });
        }
        // Made where it stays: it is large to move.
        let mut index = Arc::new(Index::default());
        let filled = Arc::get_mut(&mut index).expect("invariant: nobody else has it yet");
        let mut reader = Reader { bytes: &bytes, scanner, index: filled, unknown: BTreeSet::new() };
        reader.object(Section::Envelope)?;
        reader.scanner.finish()?;
        reader.judge(limits)?;
        Ok(Frame { bytes, index })
    }

    /// The same message in bytes of its own: it holds on to nothing of what was read with it.
    #[must_use]
    pub fn compact(&self) -> Frame {
        Frame { bytes: Bytes::copy_from_slice(&self.bytes), index: Arc::clone(&self.index) }
    }

    /// Bytes it takes in memory, its text included.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.bytes.len() + size_of::<Index>() + size_of::<Self>()
    }

    /// What the message is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.index.kind
    }

    /// The text as it came.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where a member's value is; strings with their quotes.
    #[must_use]
    pub fn span(&self, f: Field) -> Option<Span> {
        let span = self.index.spans[f as usize];
        (span != Span::ABSENT).then_some(span)
    }

    /// A member's raw JSON. Costs a look over that text (it is proved to be UTF-8 again); use [`Frame::slice`] for large ones.
    #[must_use]
    pub fn raw(&self, f: Field) -> Option<&str> {
        std::str::from_utf8(self.raw_bytes(f)?).ok()
    }

    /// A member's raw JSON as bytes: costs nothing.
    #[must_use]
    pub fn raw_bytes(&self, f: Field) -> Option<&[u8]> {
        self.span(f).map(|span| &self.bytes[span.range()])
    }

    /// A member's raw JSON as a view of the frame.
    #[must_use]
    pub fn slice(&self, f: Field) -> Option<Bytes> {
        self.span(f).map(|span| self.bytes.slice(span.range()))
    }

    /// A member's decoded string; `None` when it is absent, not a string, or escapes half a surrogate pair.
    #[must_use]
    pub fn str(&self, f: Field) -> Option<Cow<'_, str>> {
        decode_string(self.raw(f)?)
    }

    /// The raw id (`7`, `"a"`); `None` for notifications and for errors whose id is null or absent.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.raw(Field::Id).filter(|raw| *raw != "null")
    }

    /// The same as bytes: costs nothing.
    #[must_use]
    pub fn id_bytes(&self) -> Option<&[u8]> {
        self.raw_bytes(Field::Id).filter(|raw| *raw != b"null")
    }

    /// The same as a view of the frame.
    #[must_use]
    pub fn id_slice(&self) -> Option<Bytes> {
        self.id_bytes().and_then(|_| self.slice(Field::Id))
    }

    /// The method; empty for responses.
    #[must_use]
    pub fn method(&self) -> &str {
        if let Some(text) = &self.index.unescaped_method {
            return text;
        }
        match self.index.method {
            Method::Other => self.raw(Field::Method).and_then(unquoted).unwrap_or_default(),
            known => known.as_str(),
        }
    }

    /// The method as a value to match on; [`Method::Other`] for unknown ones and for responses.
    #[must_use]
    pub fn method_class(&self) -> Method {
        self.index.method
    }

    /// `error.code` of an error response.
    #[must_use]
    pub fn error_code(&self) -> Option<i64> {
        (self.index.kind == Kind::Error).then_some(self.index.error_code)
    }

    /// Whether the message announces a revision in its own `_meta`, as every modern request does.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        self.span(Field::MetaProtocolVersion).is_some()
    }
}

/// What a body or line holds: one message, or a batch of them.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// One message.
    One(Frame),
    /// A batch, in order; never empty.
    Batch(Vec<Frame>),
}

impl Incoming {
    /// Reads one message or a batch. One bad message refuses the whole batch.
    ///
    /// # Errors
    /// Any [`FrameError`] except [`FrameError::Batch`], which only a batch within a batch gives.
    pub fn parse(bytes: &Bytes, limits: &Limits) -> Result<Incoming, FrameError> {
        check_text(bytes)?;
        let mut scanner = Scanner::new(bytes, limits.max_depth);
        scanner.skip_space();
        if scanner.peek() != Some(b'[') {
            return Frame::parse_text(bytes.clone(), limits).map(Incoming::One);
        }
        let mut spans = Vec::new();
        let mut first = true;
        scanner.open()?;
        while scanner.next_element(&mut first)? {
            if spans.len() >= limits.max_batch {
                return Err(FrameError::BatchTooLong);
            }
            spans.push(scanner.value()?.span);
        }
        scanner.finish()?;
        if spans.is_empty() {
            return Err(FrameError::EmptyBatch);
        }
        let frames = spans.into_iter().map(|span| Frame::parse_text(bytes.slice(span.range()), limits));
        frames.collect::<Result<_, _>>().map(Incoming::Batch)
    }
}

fn check_text(bytes: &[u8]) -> Result<(), FrameError> {
    if u32::try_from(bytes.len()).is_err() {
        return Err(FrameError::TooLong);
    }
    if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() { Ok(()) } else { Err(FrameError::NotUtf8) }
}

/// The state of one parse.
struct Reader<'a> {
    bytes: &'a [u8],
    scanner: Scanner<'a>,
    index: &'a mut Index,
    /// Keys of the envelope that mean nothing to us; empty in practice.
    unknown: BTreeSet<Cow<'a, str>>,
}

impl<'a> Reader<'a> {
    /// Reads the object under the cursor; sections nest at most three deep.
    fn object(&mut self, section: Section) -> Result<(), FrameError> {
        self.scanner.open()?;
        let mut first = true;
        while let Some(key) = self.scanner.next_key(&mut first)? {
            let found = if key.escaped {
                // An escaped key means the same to every reader; it must not slip past the check for duplicates.
                key_text(self.bytes, key).and_then(|text| section.lookup(text.as_bytes()))
            } else {
                section.lookup(&self.bytes[key.span.start as usize + 1..key.span.end as usize - 1])
            };
            let Some((field, nested)) = found else {
                self.scanner.value()?;
                if matches!(section, Section::Envelope) {
                    self.unknown_member(key)?;
                }
                continue;
            };
            if self.index.spans[field as usize] != Span::ABSENT {
                return Err(duplicate(self.bytes, key));
            }
            let start = self.scanner.position();
            match nested {
                Some(section) if self.scanner.peek() == Some(b'{') => self.object(section)?,
                _ => {
                    self.scanner.value()?;
                }
            }
            self.index.spans[field as usize] = span(start, self.scanner.position());
        }
        Ok(())
    }

    fn unknown_member(&mut self, key: Key) -> Result<(), FrameError> {
        if let Some(text) = key_text(self.bytes, key)
            && !self.unknown.insert(text)
        {
            return Err(duplicate(self.bytes, key));
        }
        Ok(())
    }

    fn raw(&self, field: Field) -> Option<&'a [u8]> {
        let span = self.index.spans[field as usize];
        (span != Span::ABSENT).then(|| &self.bytes[span.range()])
    }

    /// Decides what the message is, by JSON-RPC's rules.
    fn judge(self, limits: &Limits) -> Result<(), FrameError> {
        match self.raw(Field::JsonRpc) {
            Some(br#""2.0""#) => {}
            Some(raw) if decode_bytes(raw).as_deref() == Some("2.0") => {}
            Some(_) => return Err(FrameError::NotJsonRpc("the member \"jsonrpc\" must be \"2.0\"")),
            None => return Err(FrameError::NotJsonRpc("the member \"jsonrpc\" is missing")),
        }
        let id = self.raw(Field::Id);
        let has_id = match id {
            None => false,
            Some(b"null") => false,
            Some(raw) if is_id(raw) && raw.len() <= limits.max_id => true,
            Some(_) => return Err(FrameError::BadId),
        };
        let (result, error) = (self.raw(Field::Result), self.raw(Field::Error));
        if let Some(raw) = self.raw(Field::Method) {
            if result.is_some() || error.is_some() {
                return Err(FrameError::NotJsonRpc("a message with a method cannot have a result or an error"));
            }
            let kind = match (id, has_id) {
                (None, _) => Kind::Notification,
                (_, true) => Kind::Request,
                (_, false) => return Err(FrameError::BadId),
            };
            if !matches!(self.raw(Field::Params), None | Some([b'{', ..] | b"null")) {
                return Err(FrameError::NotJsonRpc("params must be an object"));
            }
            let text = decode_bytes(raw).ok_or(FrameError::NotJsonRpc("the method must be a string"))?;
            if text.is_empty() {
                return Err(FrameError::NotJsonRpc("the method must not be empty"));
            }
            self.index.kind = kind;
            self.index.method = Method::of(&text);
            if self.index.method == Method::Other
                && let Cow::Owned(text) = text
            {
                self.index.unescaped_method = Some(text.into_boxed_str());
            }
            return Ok(());
        }
        match (result, error) {
            (Some(_), Some(_)) => Err(FrameError::NotJsonRpc("a response cannot have both a result and an error")),
            (None, None) => Err(FrameError::NotJsonRpc("there is neither a method, nor a result, nor an error")),
            (Some(_), None) if has_id => {
                self.index.kind = Kind::Result;
                Ok(())
            }
            (Some(_), None) => Err(FrameError::BadId),
            (None, Some(_)) => {
                let code = self.raw(Field::ErrorCode).and_then(|raw| std::str::from_utf8(raw).ok());
                let code = code
                    .and_then(|raw| raw.parse().ok())
                    .ok_or(FrameError::NotJsonRpc("an error must be an object with an integer code"))?;
                if !matches!(self.raw(Field::ErrorMessage), Some([b'"', ..])) {
                    return Err(FrameError::NotJsonRpc("an error must have a message that is a string"));
                }
                self.index.kind = Kind::Error;
                self.index.error_code = code;
                Ok(())
            }
        }
    }
}

/// A string, or a number without fraction and exponent. `raw` is valid JSON.
fn is_id(raw: &[u8]) -> bool {
    match raw.first() {
        Some(b'"') => true,
        Some(b'-' | b'0'..=b'9') => !raw.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')),
        _ => false,
    }
}

/// A key's text; `None` when it cannot be decoded and therefore equals no name we know.
pub(crate) fn key_text(bytes: &[u8], key: Key) -> Option<Cow<'_, str>> {
    decode_bytes(&bytes[key.span.range()])
}

fn duplicate(bytes: &[u8], key: Key) -> FrameError {
    /// Characters of a key that an error repeats.
    const SHOWN: usize = 64;
    let text = key_text(bytes, key).unwrap_or_default();
    FrameError::DuplicateMember(text.chars().take(SHOWN).collect())
}

fn decode_bytes(raw: &[u8]) -> Option<Cow<'_, str>> {
    decode_string(std::str::from_utf8(raw).ok()?)
}

/// The inside of a quoted text, escapes and all.
fn unquoted(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"')
}

/// Decodes a valid JSON string; borrowed when it has no escapes.
pub(crate) fn decode_string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = unquoted(raw)?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
}
