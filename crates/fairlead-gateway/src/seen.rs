//! The headers every request is judged by, found in one walk over all it has: requests carry few, and each look-up in
//! the map would hash a name anew.

use crate::correlate::Along;
use fairlead_wire::header as mcp;
use http::{HeaderMap, HeaderValue, header};

/// A header that counts only where it is there once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Once<'a> {
    #[default]
    Absent,
    Present(&'a HeaderValue),
    Repeated,
}

impl<'a> Once<'a> {
    fn note(&mut self, value: &'a HeaderValue) {
        *self = match self {
            Once::Absent => Once::Present(value),
            Once::Present(_) | Once::Repeated => Once::Repeated,
        };
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Once::Absent)
    }
}

/// The headers of one request.
#[derive(Debug, Default)]
pub(crate) struct Seen<'a> {
    pub(crate) host: Once<'a>,
    pub(crate) origin: Once<'a>,
    pub(crate) accept: Once<'a>,
    /// `Mcp-Session-Id`.
    pub(crate) session: Once<'a>,
    /// `Content-Type`; of several the first.
    pub(crate) content_type: Option<&'a HeaderValue>,
    /// `Content-Encoding`; of several the first.
    pub(crate) content_encoding: Option<&'a HeaderValue>,
    /// `MCP-Protocol-Version`; of several the first.
    pub(crate) revision: Option<&'a HeaderValue>,
    /// `Fairlead-Timeout-Ms`; of several the first.
    pub(crate) timeout: Option<&'a HeaderValue>,
    /// Whether there is anything that may be a request id, a trace or a question about the request: names are not
    /// looked up one by one for the many requests that have none.
    pub(crate) may_correlate: bool,
    /// What goes along with the request.
    pub(crate) along: Option<Box<Along>>,
}

impl<'a> Seen<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            if name == header::HOST {
                seen.host.note(value);
            } else if name == header::CONTENT_TYPE {
                seen.content_type.get_or_insert(value);
            } else if name == header::CONTENT_ENCODING {
                seen.content_encoding.get_or_insert(value);
            } else if name == header::ACCEPT {
                seen.accept.note(value);
            } else if name == header::ORIGIN {
                seen.origin.note(value);
            } else if name == mcp::MCP_SESSION_ID {
                seen.session.note(value);
            } else if name == mcp::MCP_PROTOCOL_VERSION {
                seen.revision.get_or_insert(value);
            } else if name == crate::deadline::TIMEOUT {
                seen.timeout.get_or_insert(value);
            } else {
                seen.may_correlate |= matches!(name.as_str().as_bytes().first(), Some(b'x' | b't' | b'f'));
            }
        }
        seen
    }
}
