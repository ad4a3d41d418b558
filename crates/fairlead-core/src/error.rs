//! What can go wrong on a call: what the gateway refuses, and what failed upstream.

use crate::code::Code;
use std::{borrow::Cow, time::Duration};

/// A denied outcome: the gateway itself says no. The sentence is safe to show to any caller.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} ({})", code.label())]
pub struct Refusal {
    /// Which refusal.
    pub code: Code,
    /// What happened and what to do, for the caller.
    pub message: Cow<'static, str>,
    /// Raw JSON for the error's `data`, where the protocol defines one.
    pub data: Option<Box<str>>,
    /// When asking again may help, where that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal with a sentence for the caller.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None, retry_after: None }
    }

    /// Adds the protocol's `data` member (raw JSON).
    #[must_use]
    pub fn with_data(mut self, raw_json: impl Into<Box<str>>) -> Self {
        self.data = Some(raw_json.into());
        self
    }

    /// Says when asking again may help.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

/// Who caused a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The one who called us.
    Caller,
    /// The gateway.
    Gateway,
    /// The server behind the gateway.
    Upstream,
}

/// Whether a failed call took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing reached the server: the call may be made again.
    NotMade,
    /// The server may have acted. Repeated only if the call is marked safe.
    Unknown,
}

/// What failed between the gateway and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamErrorKind {
    /// No connection, or no process.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// The connection or process ended in mid-call.
    Lost,
    /// What came is not a valid answer.
    Garbage,
    /// The cap on sessions or processes is reached.
    AtCapacity,
    /// None of the connections there may be became free in time.
    NoConnection,
    /// A message over the limit.
    TooLarge,
    /// The server no longer knows the session (legacy HTTP 404).
    SessionLost,
    /// What the request is about went with the connection it was made on.
    Gone,
    /// A breaker holds calls back.
    HeldBack,
    /// The time for the call was over before it could be made.
    NoTime,
}

/// A failure of the exchange with a server. `Display` says what we were doing; the cause is `source`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct UpstreamError {
    /// What failed.
    pub kind: UpstreamErrorKind,
    /// Whether the call may have taken effect.
    pub outcome: Outcome,
    /// What happened, without secrets, addresses or commands: it may be shown to the caller.
    pub message: Cow<'static, str>,
    /// The HTTP status of an answer that is no message.
    pub status: Option<u16>,
    /// When the server, or what holds calls to it back, wants the next try.
    pub retry_after: Option<Duration>,
    /// What to tell the log.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl UpstreamError {
    /// A failure with what to tell the caller.
    #[must_use]
    pub fn new(kind: UpstreamErrorKind, outcome: Outcome, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, outcome, message: message.into(), status: None, retry_after: None, cause: None }
    }

    /// Adds the HTTP status of the answer, and the `Retry-After` that came with it.
    #[must_use]
    pub fn with_status(mut self, status: u16, retry_after: Option<Duration>) -> Self {
        (self.status, self.retry_after) = (Some(status), retry_after);
        self
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Who caused it.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self.kind {
            UpstreamErrorKind::AtCapacity | UpstreamErrorKind::NoConnection => Blame::Gateway,
            UpstreamErrorKind::NoTime => Blame::Caller,
            _ => Blame::Upstream,
        }
    }

    /// The code the caller sees.
    #[must_use]
    pub fn code(&self) -> Code {
        match self.kind {
            UpstreamErrorKind::Unavailable => Code::ServerUnavailable,
            UpstreamErrorKind::Timeout => Code::ServerTimeout,
            UpstreamErrorKind::Lost | UpstreamErrorKind::SessionLost => Code::ServerLost,
            UpstreamErrorKind::Garbage => Code::ServerGarbage,
            UpstreamErrorKind::AtCapacity => Code::ServerAtCapacity,
            UpstreamErrorKind::NoConnection => Code::NoConnection,
            UpstreamErrorKind::TooLarge => Code::ServerMessageTooLarge,
            UpstreamErrorKind::Gone => Code::UnknownTask,
            UpstreamErrorKind::HeldBack => Code::ServerHeldBack,
            UpstreamErrorKind::NoTime => Code::NoTimeLeft,
        }
    }

    /// The refusal a caller gets for it. `server` is a name the caller may see.
    #[must_use]
    pub fn to_refusal(&self, server: &str) -> Refusal {
        let outcome = match self.outcome {
            Outcome::NotMade => "the call was not made",
            Outcome::Unknown => "whether the call took effect is unknown",
        };
        let refusal = Refusal::new(self.code(), format!("server `{server}`: {}; {outcome}", self.message));
        match self.retry_after {
            Some(wait) if self.kind == UpstreamErrorKind::HeldBack => {
                refusal.retry_after(wait).with_data(format!("{{\"retryAfterMs\":{}}}", wait.as_millis()))
            }
            _ => refusal,
        }
    }
}
