//! MCP's HTTP headers: their names, how values travel in them, and the checks of body against header.
//!
//! Rules: revision 2026-07-28, "Streamable HTTP", sections "Standard Request Headers", "Value Encoding" and "Server
//! Validation". Somebody before us may have decided by the header what we would decide by the body, so the two must agree.
//! Arguments mirrored into headers are in [`ParamHeaders`]. Errors name the header and never repeat a value.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::frame::{Field, Frame, Kind};
use crate::method::Method;

mod param;

pub use param::{BadAnnotation, MAX_PARAM_HEADERS, ParamHeaders};

/// `Mcp-Session-Id`, legacy era.
pub const MCP_SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version`, from 2025-06-18 on.
pub const MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Method`, modern era.
pub const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name`, modern era.
pub const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");
/// `Last-Event-ID`, legacy era.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// What the headers of mirrored arguments begin with, in lower case.
pub const MCP_PARAM_PREFIX: &str = "mcp-param-";
/// The JSON-RPC code of every [`HeaderError`]; HTTP status 400.
pub const HEADER_MISMATCH: i64 = -32020;
/// The JSON-RPC code of a request that needs a capability its client did not declare; `data.requiredCapabilities` has it.
pub const MISSING_CAPABILITY: i64 = -32021;
/// The JSON-RPC code of a revision that is not spoken.
pub const UNSUPPORTED_VERSION: i64 = -32022;

const ENCODED_PREFIX: &str = "=?base64?";
const ENCODED_SUFFIX: &str = "?=";

/// How headers and body disagree. The caller is told with code [`HEADER_MISMATCH`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A header that must be there is not.
    #[error("Header mismatch: the {0} header is missing")]
    Missing(HeaderName),
    /// A header that may occur once occurs several times.
    #[error("Header mismatch: the {0} header occurs more than once")]
    Duplicate(HeaderName),
    /// A header says something else than the body, or says something where the body says nothing.
    #[error("Header mismatch: the {0} header does not match the body")]
    Mismatch(HeaderName),
    /// Characters that no header value may have, or broken base64.
    #[error("Header mismatch: the {0} header is not validly encoded")]
    BadValue(HeaderName),
    /// A single value that cannot be decoded, outside any header.
    #[error("the header value is not validly encoded")]
    Undecodable,
}

/// A value as it travels in a header: as it is when it is printable ASCII without outer white space, else
/// `=?base64?...?=` over its UTF-8. Values that look encoded are encoded too.
#[must_use]
pub fn encode_value(value: &str) -> HeaderValue {
    let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let padded = value.starts_with(' ') || value.ends_with(' ');
    if printable && !padded && encoded_part(value).is_none() {
        return HeaderValue::from_str(value).expect("invariant: printable ASCII is a header value");
    }
    let encoded = [ENCODED_PREFIX, &STANDARD.encode(value), ENCODED_SUFFIX].concat();
    HeaderValue::try_from(encoded).expect("invariant: base64 is a header value")
}

/// The value that [`encode_value`] made the header from.
///
/// # Errors
/// [`HeaderError::Undecodable`] when there are other characters than visible ASCII, space and tab, or the marked part is not
/// base64 of UTF-8.
pub fn decode_value(value: &HeaderValue) -> Result<Cow<'_, str>, HeaderError> {
    let text = value.to_str().map_err(|_| HeaderError::Undecodable)?;
    let Some(encoded) = encoded_part(text) else {
        return Ok(Cow::Borrowed(text));
    };
    let bytes = STANDARD.decode(encoded).map_err(|_| HeaderError::Undecodable)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| HeaderError::Undecodable)
}

fn encoded_part(text: &str) -> Option<&str> {
    text.strip_prefix(ENCODED_PREFIX)?.strip_suffix(ENCODED_SUFFIX)
}

/// What `Mcp-Name` must carry for this message, if its method has a name and the body gives it.
#[must_use]
pub fn standard_name(frame: &Frame) -> Option<Cow<'_, str>> {
    frame.str(name_field(frame.method_class())?)
}

fn name_field(method: Method) -> Option<Field> {
    match method {
        Method::ToolsCall | Method::PromptsGet => Some(Field::Name),
        Method::ResourcesRead => Some(Field::Uri),
        // The tasks extension's addition.
        Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => Some(Field::TaskId),
        _ => None,
    }
}

/// Checks the standard headers of a modern message against its body: the revision equals `_meta`'s, `Mcp-Method` the method,
/// `Mcp-Name` the name where the method has one. A request must have them; a notification, for which the revision defines
/// none, may.
///
/// # Errors
/// The first disagreement.
pub fn check_standard(headers: &HeaderMap, frame: &Frame) -> Result<(), HeaderError> {
    let required = frame.kind() == Kind::Request;
    let version = single(headers, &MCP_PROTOCOL_VERSION)?;
    let method = single(headers, &MCP_METHOD)?;
    let name = single(headers, &MCP_NAME)?;

    match version {
        None if required => return Err(HeaderError::Missing(MCP_PROTOCOL_VERSION)),
        Some(value) => {
            let said = frame.str(Field::MetaProtocolVersion);
            let agrees = said.as_deref().map_or(!required, |said| value.as_bytes() == said.as_bytes());
            if !agrees {
                return Err(HeaderError::Mismatch(MCP_PROTOCOL_VERSION));
            }
        }
        None => {}
    }
    match method {
        None if required => return Err(HeaderError::Missing(MCP_METHOD)),
        Some(value) if value.as_bytes() != frame.method().as_bytes() => {
            return Err(HeaderError::Mismatch(MCP_METHOD));
        }
        _ => {}
    }
    if name_field(frame.method_class()).is_none() {
        return Ok(());
    }
    match (name, standard_name(frame)) {
        (None, Some(_)) if required => Err(HeaderError::Missing(MCP_NAME)),
        (None, _) => Ok(()),
        (Some(value), said) => {
            let value = decode_value(value).map_err(|_| HeaderError::BadValue(MCP_NAME))?;
            if said.as_deref() == Some(&*value) { Ok(()) } else { Err(HeaderError::Mismatch(MCP_NAME)) }
        }
    }
}

/// The value of a header that may occur once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, HeaderError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(HeaderError::Duplicate(name.clone())),
    }
}
