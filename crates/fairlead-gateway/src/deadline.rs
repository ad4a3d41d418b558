//! How much time there is for a call: what the client says, and what the server is told.
//!
//! The protocol has no word for it, so this one is the gateway's own: the header `Fairlead-Timeout-Ms`, or the member
//! `fairlead/timeoutMs` of `params._meta`, milliseconds from when the message is received. A client can only shorten what
//! the configuration allows. A gateway in front of a gateway says it and understands it.

use crate::seen::Seen;
use fairlead_wire::{Field, Frame, edit::Edits};
use http::{HeaderName, HeaderValue};
use std::time::Duration;
use tokio::time::Instant;

/// The header.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("fairlead-timeout-ms");

/// The member of `_meta`.
pub(crate) const META_TIMEOUT: &str = "fairlead/timeoutMs";

/// Longer times are as good as none.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Until when the client waits, where it says so.
pub(crate) fn of(seen: &Seen<'_>, frame: &Frame, started: Instant) -> Option<Instant> {
    let header = seen.timeout.and_then(|value| value.to_str().ok()).and_then(millis);
    let meta = frame.raw(Field::MetaTimeout).and_then(millis);
    let shortest = [header, meta].into_iter().flatten().min()?;
    Some(started + shortest)
}

fn millis(text: &str) -> Option<Duration> {
    let time = Duration::from_millis(text.trim().parse().ok()?);
    (time <= LONGEST).then_some(time)
}

/// What a server is told of a deadline.
pub(crate) fn left(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Says it in the header.
pub(crate) fn header(left: u64) -> (HeaderName, HeaderValue) {
    (TIMEOUT, HeaderValue::from(left))
}

/// Says it in `_meta`.
pub(crate) fn meta(frame: &Frame, left: u64, edits: &mut Edits) {
    if let Some(span) = frame.span(Field::MetaTimeout) {
        edits.replace(span, left.to_string());
    } else if let Some(meta) = frame.span(Field::Meta) {
        edits.insert_first(meta, META_TIMEOUT, &left.to_string());
    } else if let Some(params) = frame.span(Field::Params) {
        edits.insert_first(params, "_meta", &format!("{{\"{META_TIMEOUT}\":{left}}}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::Limits;
    use http::HeaderMap;

    fn said(header: Option<&str>, meta: &str) -> Option<u128> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(TIMEOUT, HeaderValue::from_str(header).expect("a header"));
        }
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x"{meta}}}}}"#);
        let frame = Frame::parse(text.into(), &Limits::default()).expect("a message");
        let started = Instant::now();
        of(&Seen::of(&headers), &frame, started).map(|until| (until - started).as_millis())
    }

    #[test]
    fn the_shorter_one_counts_and_nonsense_does_not() {
        assert_eq!(said(None, ""), None);
        assert_eq!(said(Some("1500"), ""), Some(1500));
        assert_eq!(said(None, r#","_meta":{"fairlead/timeoutMs":200}"#), Some(200));
        assert_eq!(said(Some("1500"), r#","_meta":{"fairlead/timeoutMs":200}"#), Some(200));
        for nonsense in ["", "-1", "1.5", "soon", "99999999999999999999"] {
            assert_eq!(said(Some(nonsense), ""), None, "{nonsense}");
        }
        assert_eq!(said(None, r#","_meta":{"fairlead/timeoutMs":"200"}"#), None);
    }
}
