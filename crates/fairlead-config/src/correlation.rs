//! The id of a request: which header carries it, and whether one is made.

use crate::build::OWN_HEADERS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The header that carries a request's id, unless another is named.
const USUAL: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// Headers that say something else, besides those of the protocol.
const MEANT_OTHERWISE: [&str; 10] = [
    "authorization",
    "cache-control",
    "cookie",
    "fairlead-info",
    "host",
    "origin",
    "retry-after",
    "set-cookie",
    "traceparent",
    "tracestate",
];

/// The id of a request, in logs here and elsewhere.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CorrelationFile {
    /// The header that carries the id of a request. One that a client sends is kept, returned with the answer and sent on to servers
    /// that are reached over HTTP.
    pub request_id: String,
    /// Whether a request that has none is given one.
    pub make: bool,
}

impl Default for CorrelationFile {
    fn default() -> Self {
        Self { request_id: USUAL.as_str().to_owned(), make: false }
    }
}

/// The id of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correlation {
    /// The header that carries it.
    pub request_id: http::HeaderName,
    /// Whether a request that has none is given one.
    pub make: bool,
}

impl Default for Correlation {
    fn default() -> Self {
        Self { request_id: USUAL, make: false }
    }
}

impl CorrelationFile {
    /// What the program uses of it; `None` when the header's name is none, or is one that means something else.
    pub(crate) fn build(&self) -> Option<Correlation> {
        let request_id = http::HeaderName::try_from(&*self.request_id).ok()?;
        let name = request_id.as_str();
        let is_taken = OWN_HEADERS.contains(&name) || MEANT_OTHERWISE.contains(&name) || name.starts_with("mcp-param-");
        (!is_taken).then_some(Correlation { request_id, make: self.make })
    }
}

impl Correlation {
    /// Whether the usual header carries the id.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        self.request_id == USUAL
    }
}
