//! The state a client brings back with its answers: sealed, and worth something only with the request, the caller,
//! the path and the server it was made for.

use crate::{call::Call, resolve::Target};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt, time::Duration};

/// What the gateway's own states begin with: a server that becomes a modern one does not get to see them.
const PREFIX: &str = "fairlead-1.";
const PURPOSE: &str = "request state";
/// What the client adds to its request when it comes back: not part of what is asked for.
const ADDED: [&str; 3] = ["inputResponses", "requestState", "_meta"];
/// Bytes of a digest.
const DIGEST: usize = 32;
/// Bytes of the plain state.
const PLAIN: usize = 1 + 1 + 8 + 8 + 8 + 8 + DIGEST;

/// What a state stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A call that waits: which one of which run of the gateway, and the round of questions it is in.
    Parked { instance: u64, call: u64, round: u64 },
    /// No call: the answers are there before it is made.
    Again,
}

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) what: What,
    /// How often the client was asked already.
    pub(super) rounds: u8,
}

/// Why a state is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// It was made for something else, or not here.
    Foreign,
    /// It was good once.
    Expired,
}

/// Whether a text looks like a state of the gateway's.
pub(super) fn is_ours(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Seals a state for the call's next try.
pub(super) fn seal(call: &Call, target: &Target, state: State, ttl: Duration) -> String {
    let until = call.gateway.unix_ms().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let mut plain = Vec::with_capacity(PLAIN);
    let (kind, numbers) = match state.what {
        What::Parked { instance, call, round } => (1, [instance, call, round]),
        What::Again => (2, [0; 3]),
    };
    plain.extend([kind, state.rounds]);
    for number in numbers.into_iter().chain([until]) {
        plain.extend(number.to_be_bytes());
    }
    plain.extend(binding(call, target).unwrap_or_default());
    [PREFIX, &call.gateway.0.sealer.seal(PURPOSE, &plain)].concat()
}

/// Opens a state that came with a request.
pub(super) fn open(call: &Call, target: &Target, text: &str) -> Result<State, Bad> {
    let sealed = text.strip_prefix(PREFIX).ok_or(Bad::Foreign)?;
    let plain = call.gateway.0.sealer.open(PURPOSE, sealed).filter(|plain| plain.len() == PLAIN).ok_or(Bad::Foreign)?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&plain[2 + at * 8..10 + at * 8]);
        u64::from_be_bytes(bytes)
    };
    let what = match plain[0] {
        1 => What::Parked { instance: number(0), call: number(1), round: number(2) },
        2 => What::Again,
        _ => return Err(Bad::Foreign),
    };
    if binding(call, target).is_none_or(|binding| binding != plain[PLAIN - DIGEST..]) {
        return Err(Bad::Foreign);
    }
    if number(3) < call.gateway.unix_ms() {
        return Err(Bad::Expired);
    }
    Ok(State { what, rounds: plain[1] })
}

/// Everything a state is bound to, as one digest.
fn binding(call: &Call, target: &Target) -> Option<[u8; DIGEST]> {
    let params = call.frame.raw(fairlead_wire::Field::Params).unwrap_or("{}");
    let mut members: BTreeMap<String, Meaning> = serde_json::from_str(params).ok()?;
    members.retain(|key, _| !ADDED.contains(&key.as_str()));
    let mut digest = Sha256::new();
    for part in
        [call.caller.key().as_str(), &call.endpoint.path, target.upstream.handle.name().as_str(), call.frame.method()]
    {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    for (key, Meaning(value)) in members {
        digest.update(key.len().to_be_bytes());
        digest.update(key);
        digest.update(value);
    }
    Some(digest.finalize().into())
}

/// A digest of what a JSON value means: clients that write their request anew may order members differently.
struct Meaning([u8; DIGEST]);

impl Meaning {
    fn of(kind: u8, bytes: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update([kind]);
        digest.update(bytes);
        Self(digest.finalize().into())
    }
}

impl<'de> Deserialize<'de> for Meaning {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Meaning;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Meaning, E> {
                Ok(Meaning::of(b'b', &[u8::from(value)]))
            }
            fn visit_unit<E>(self) -> Result<Meaning, E> {
                Ok(Meaning::of(b'n', &[]))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Meaning, E> {
                Ok(Meaning::of(b'i', &i128::from(value).to_be_bytes()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Meaning, E> {
                Ok(Meaning::of(b'i', &i128::from(value).to_be_bytes()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Meaning, E> {
                Ok(Meaning::of(b'f', &value.to_be_bytes()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Meaning, E> {
                Ok(Meaning::of(b's', value.as_bytes()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Meaning, A::Error> {
                let mut digest = Sha256::new();
                digest.update(b"a");
                while let Some(Meaning(item)) = items.next_element()? {
                    digest.update(item);
                }
                Ok(Meaning(digest.finalize().into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Meaning, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((key, Meaning(value))) = entries.next_entry::<String, Meaning>()? {
                    members.insert(key, value);
                }
                let mut digest = Sha256::new();
                digest.update(b"o");
                for (key, value) in members {
                    digest.update(key.len().to_be_bytes());
                    digest.update(key);
                    digest.update(value);
                }
                Ok(Meaning(digest.finalize().into()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_mean_the_same_have_one_digest() {
        let digest = |text: &str| serde_json::from_str::<Meaning>(text).map(|Meaning(digest)| digest).expect("JSON");
        for (one, other) in [
            (r#"{"a":1,"b":[true,null]}"#, r#"{ "b" : [ true , null ], "a":1 }"#),
            (r#""\u00e4""#, "\"ä\""),
            ("1.50", "1.5"),
        ] {
            assert_eq!(digest(one), digest(other), "{one} {other}");
        }
        let different =
            ["{}", "[]", "null", "0", "false", "\"\"", "\"0\"", "[[]]", "[null]", "{\"a\":{}}", "1", "-1", "1.5"];
        for (at, one) in different.iter().enumerate() {
            for other in &different[at + 1..] {
                assert_ne!(digest(one), digest(other), "{one} {other}");
            }
        }
        assert_ne!(digest(r#"{"a":"b","c":"d"}"#), digest(r#"{"a":"d","c":"b"}"#));
    }
}
