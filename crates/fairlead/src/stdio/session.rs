//! The legacy session of a bridge: what travels in its headers, and how to get another one.

use bytes::Bytes;
use fairlead_wire::{Field, Frame, Limits, header::MCP_PROTOCOL_VERSION, header::MCP_SESSION_ID, list};
use http::{HeaderMap, HeaderValue};

/// What the client said to open its session, and what it got.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    /// The id the gateway gave, if it gives any.
    pub(super) id: Option<HeaderValue>,
    /// The revision that was agreed on.
    revision: Option<HeaderValue>,
    /// The client's `initialize`, as it came.
    pub(super) initialize: Option<Bytes>,
    /// The client's `notifications/initialized`, as it came.
    pub(super) initialized: Option<Bytes>,
    /// Counts sessions, so that two who find one lost open one new one.
    pub(super) generation: u64,
}

impl Session {
    /// As before the client's first message; only the count goes on.
    pub(super) fn forget(&mut self) {
        *self = Self { generation: self.generation, ..Self::default() };
    }

    /// Takes over what an answered `initialize` says.
    pub(super) fn opened(&mut self, request: Bytes, headers: &HeaderMap, answer: &Bytes) {
        self.id = headers.get(MCP_SESSION_ID).cloned();
        self.revision = Frame::parse(answer.clone(), &Limits::default()).ok().and_then(|frame| {
            let revision = list::string_member(frame.raw(Field::Result)?, "protocolVersion")?;
            HeaderValue::from_str(&revision).ok()
        });
        self.initialize = Some(request);
        self.generation += 1;
    }

    /// Adds the session's headers.
    pub(super) fn decorate(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(MCP_SESSION_ID, id.clone());
        }
        if let Some(revision) = &self.revision {
            headers.insert(MCP_PROTOCOL_VERSION, revision.clone());
        }
    }
}
