//! Messages of our own making. Raw arguments are JSON that the caller vouches for; they are copied as they are.

use bytes::Bytes;

const HEAD: &str = r#"{"jsonrpc":"2.0""#;

/// Concatenates with one allocation.
fn build(parts: &[&str]) -> Bytes {
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    Bytes::from(out)
}

/// A request; without `params` when there are none.
#[must_use]
pub fn request(id_raw: &str, method: &str, params_raw: Option<&str>) -> Bytes {
    let method = quote(method);
    match params_raw {
        Some(params) => build(&[HEAD, r#","id":"#, id_raw, r#","method":"#, &method, r#","params":"#, params, "}"]),
        None => build(&[HEAD, r#","id":"#, id_raw, r#","method":"#, &method, "}"]),
    }
}

/// A notification; without `params` when there are none.
#[must_use]
pub fn notification(method: &str, params_raw: Option<&str>) -> Bytes {
    let method = quote(method);
    match params_raw {
        Some(params) => build(&[HEAD, r#","method":"#, &method, r#","params":"#, params, "}"]),
        None => build(&[HEAD, r#","method":"#, &method, "}"]),
    }
}

/// A response with a result.
#[must_use]
pub fn result(id_raw: &str, result_raw: &str) -> Bytes {
    build(&[HEAD, r#","id":"#, id_raw, r#","result":"#, result_raw, "}"])
}

/// A response with an error; the id is `null` when the request's could not be read.
#[must_use]
pub fn error(id_raw: Option<&str>, code: i64, message: &str, data_raw: Option<&str>) -> Bytes {
    let (id, code, message) = (id_raw.unwrap_or("null"), code.to_string(), quote(message));
    let head = [HEAD, r#","id":"#, id, r#","error":{"code":"#, &code, r#","message":"#, &message];
    match data_raw {
        Some(data) => build(&[&head[..], &[r#","data":"#, data, "}}"]].concat()),
        None => build(&[&head[..], &["}}"]].concat()),
    }
}

/// A number of ours as JSON text, held in place: an id is written and compared with every call.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    digits: [u8; Decimal::MAX],
    start: usize,
}

impl Decimal {
    /// Digits of the largest number.
    const MAX: usize = 20;

    /// The text of `number`.
    #[must_use]
    pub fn of(mut number: u64) -> Self {
        let mut digits = [b'0'; Self::MAX];
        let mut start = Self::MAX;
        loop {
            start -= 1;
            digits[start] += (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, start };
            }
        }
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// The text as a JSON string, quotes included.
#[must_use]
pub fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("invariant: a string always has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, Kind, Limits};

    #[test]
    fn messages_are_spelled_plainly() {
        for (built, text) in [
            (request("7", "ping", None), r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#),
            (request("\"a\"", "x/y", Some("{}")), r#"{"jsonrpc":"2.0","id":"a","method":"x/y","params":{}}"#),
            (notification("n", None), r#"{"jsonrpc":"2.0","method":"n"}"#),
            (notification("n\"", Some("{}")), r#"{"jsonrpc":"2.0","method":"n\"","params":{}}"#),
            (result("1", "{}"), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
            (
                error(None, -32700, "a\nb", None),
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"a\nb"}}"#,
            ),
            (
                error(Some("3"), 1, "m", Some("[1]")),
                r#"{"jsonrpc":"2.0","id":3,"error":{"code":1,"message":"m","data":[1]}}"#,
            ),
        ] {
            assert_eq!(built, text);
            let frame = Frame::parse(built, &Limits::default()).unwrap();
            assert_eq!(frame.kind() == Kind::Error, text.contains("error"));
        }
    }

    #[test]
    fn numbers_are_spelled_as_everywhere() {
        for number in [0, 1, 9, 10, 100, 12_345, 10_000_000_000_000_000_000, u64::MAX] {
            assert_eq!(Decimal::of(number).as_bytes(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn quote_survives_reading() {
        for text in ["", "a", "\"\\\n\u{1}\u{7f}", "ä🦀\u{2028}"] {
            assert_eq!(serde_json::from_str::<String>(&quote(text)).unwrap(), text);
        }
    }
}
