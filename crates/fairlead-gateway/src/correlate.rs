//! What goes along with a request besides the request: its id, the trace it belongs to, and whether its client wants to
//! know what became of it on its way.
//!
//! A request id is taken over from its header, made where the configuration asks for that, returned with the answer and
//! sent to servers that are reached over HTTP. Of a client's other headers only the trace context goes further: whoever
//! reads `x-user-id` or `x-tenant-id` behind the gateway reads what the gateway says, or nothing.

use crate::{call::Call, seen::Seen};
use aws_lc_rs::rand;
use fairlead_config::Correlation;
use fairlead_wire::{Field, Frame};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering},
};

/// Longest request id that is taken over, in bytes.
const MAX_ID: usize = 128;
/// Bytes of an id of our own.
const OWN_ID: usize = 16;
/// Longest trace header that is passed on, in bytes.
const MAX_TRACE: usize = 512;

/// The trace context of the W3C.
const TRACE: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];
/// By which a client asks what became of its request.
const INFO: HeaderName = HeaderName::from_static("fairlead-info");

/// What goes along with one request. Most have nothing.
#[derive(Debug, Clone)]
pub(crate) struct Along {
    /// Its id.
    pub(crate) request_id: Option<HeaderValue>,
    /// What servers are told of it.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    wants_info: bool,
}

impl Along {
    /// `None` where there is nothing.
    pub(crate) fn of(headers: &HeaderMap, seen: &Seen<'_>, config: &Correlation) -> Option<Box<Self>> {
        if !seen.may_correlate && !config.make && config.is_usual() {
            return None;
        }
        let name = &config.request_id;
        let given = headers.get(name).filter(|id| is_id(id)).cloned();
        let request_id = given.or_else(|| config.make.then(own_id));
        let mut passed: Vec<(HeaderName, HeaderValue)> = Vec::new();
        if let Some(id) = &request_id {
            passed.push((name.clone(), id.clone()));
        }
        for name in &TRACE {
            if let Some(value) = headers.get(name).filter(|value| value.len() <= MAX_TRACE) {
                passed.push((name.clone(), value.clone()));
            }
        }
        let wants_info = headers.get(INFO).is_some_and(|value| value == "1" || value == "true");
        let is_something = wants_info || !passed.is_empty();
        is_something.then(|| Box::new(Self { request_id, headers: passed, wants_info }))
    }
}

/// Whether a header's value can be an id: it is written to logs and sent on.
fn is_id(value: &HeaderValue) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=MAX_ID).contains(&value.len()) && value.as_bytes().iter().all(fits)
}

fn own_id() -> HeaderValue {
    let mut random = [0_u8; OWN_ID];
    rand::fill(&mut random).expect("invariant: the system has random numbers");
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&text).expect("invariant: hexadecimal digits")
}

/// What is noted of a call whose client wants to know.
#[derive(Debug, Default)]
pub(crate) struct Info {
    attempts: AtomicU32,
    /// The first fault that was injected.
    fault: OnceLock<Arc<str>>,
}

impl Info {
    /// `None` where nobody asked.
    pub(crate) fn of(frame: &Frame, along: Option<&Along>) -> Option<Box<Self>> {
        let is_asked = along.is_some_and(|along| along.wants_info) || frame.raw(Field::MetaInfo) == Some("true");
        is_asked.then(Box::default)
    }

    /// A fault was injected into a try of the call.
    pub(crate) fn injected(&self, fault: &Arc<str>) {
        self.fault.get_or_init(|| Arc::clone(fault));
    }

    /// The call is sent to a server.
    pub(crate) fn sent(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the client wanted to know, as members of the `_meta` of its result.
pub(crate) fn members(info: &Info, call: &Call, server: &str) -> impl Iterator<Item = (&'static str, String)> {
    let fault = info.fault.get().map(|name| ("fairlead/fault", fairlead_wire::message::quote(name)));
    [
        ("fairlead/server", fairlead_wire::message::quote(server)),
        ("fairlead/latency_ms", call.started.elapsed().as_millis().to_string()),
        ("fairlead/attempts", info.attempts.load(Ordering::Relaxed).to_string()),
    ]
    .into_iter()
    .chain(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn along(headers: &[(&'static str, &str)], config: &Correlation) -> Option<Box<Along>> {
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value")))
            .collect();
        Along::of(&map, &Seen::of(&map), config)
    }

    #[test]
    fn ids_are_taken_over_or_made_and_only_the_trace_goes_along() {
        let usual = Correlation::default();
        assert!(along(&[("host", "a"), ("user-agent", "b")], &usual).is_none());
        assert!(along(&[("x-user-id", "me"), ("x-tenant-id", "us"), ("x-other", "1")], &usual).is_none());
        let found =
            along(&[("x-request-id", "a-1"), ("traceparent", "00-1"), ("x-user-id", "me")], &usual).expect("some");
        let names: Vec<_> = found.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-request-id", "traceparent"]);
        for bad in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert!(along(&[("x-request-id", bad)], &usual).is_none(), "{bad}");
        }
        let making = Correlation { make: true, ..Correlation::default() };
        let made = |headers| along(headers, &making).and_then(|along| along.request_id).expect("an id");
        assert_eq!(made(&[]).len(), 2 * OWN_ID);
        assert_ne!(made(&[]), made(&[]));
        assert_eq!(made(&[("x-request-id", "given")]), "given");
        assert_eq!(made(&[("x-request-id", "not good")]).len(), 2 * OWN_ID);
        let other = Correlation { request_id: HeaderName::from_static("correlation-id"), ..Correlation::default() };
        assert_eq!(along(&[("correlation-id", "a")], &other).expect("some").headers[0].0, "correlation-id");
        assert!(along(&[("x-request-id", "a")], &other).is_none());
    }
}
