//! Content codings towards clients: answers compressed for those who accept it, where that is configured, and
//! compressed requests expanded within the bound of every request.
//!
//! An answer that is a stream is never compressed: it must reach its client as it comes.

use crate::body::Body;
use bytes::{Bytes, BytesMut};
use fairlead_coding::{Coding, Decoder, Prepared};
use fairlead_core::{Code, Refusal};
use http::{HeaderMap, HeaderValue, Response, header};
use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use tokio::sync::Semaphore;

/// Bytes from which an answer may be worth compressing at all: one that is shorter is not looked at any further.
pub(crate) const WORTH_A_LOOK: usize = 256;
/// Bytes from which compressing is left to a thread of its own: a worker has other calls.
const OFFLOAD: usize = 64 * 1024;
/// Bytes expanded before other calls have their turn.
const TURN: usize = 512 * 1024;

/// Travels with the answer to a list: what stands in its middle is compressed once for all.
#[derive(Clone)]
pub(crate) struct ListBody {
    /// What was compressed of it.
    pub(crate) prepared: Arc<Prepared>,
    /// Where the middle begins; it ends before the last byte.
    pub(crate) from: usize,
}

/// What was compressed, and how much may be at a time.
pub(crate) struct State {
    /// Long answers that are compressed beside the workers: one per processor. A long answer that finds none free goes as it
    /// is, because then there are no processors to save bytes with.
    slots: Arc<Semaphore>,
    counts: [Count; Coding::ALL.len()],
}

/// Of one coding.
#[derive(Default)]
struct Count {
    answers: AtomicU64,
    plain: AtomicU64,
    sent: AtomicU64,
}

/// What was compressed for clients so far, in one coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// The name of the coding.
    pub coding: &'static str,
    /// Answers.
    pub answers: u64,
    /// Their bytes before.
    pub plain: u64,
    /// Their bytes after.
    pub sent: u64,
}

impl Default for State {
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self { slots: Arc::new(Semaphore::new(processors)), counts: Default::default() }
    }
}

impl State {
    fn count(&self, coding: Coding, plain: usize, sent: usize) {
        let count = Coding::ALL.iter().position(|one| *one == coding).and_then(|at| self.counts.get(at));
        if let Some(count) = count {
            count.answers.fetch_add(1, Ordering::Relaxed);
            count.plain.fetch_add(plain as u64, Ordering::Relaxed);
            count.sent.fetch_add(sent as u64, Ordering::Relaxed);
        }
    }

    /// What was compressed so far.
    pub(crate) fn counts(&self) -> impl Iterator<Item = Compressed> {
        Coding::ALL.into_iter().zip(&self.counts).map(|(coding, count)| Compressed {
            coding: coding.name(),
            answers: count.answers.load(Ordering::Relaxed),
            plain: count.plain.load(Ordering::Relaxed),
            sent: count.sent.load(Ordering::Relaxed),
        })
    }
}

/// Compresses an answer of at least `min` bytes for a client that accepts it.
pub(crate) async fn answer(
    state: &State,
    mut response: Response<Body>,
    request: &HeaderMap,
    min: usize,
) -> Response<Body> {
    if response.body().whole_len() < min || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_name(header::ACCEPT_ENCODING));
    let accepted = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let Some(coding) = fairlead_coding::best(accepted) else { return response };
    let list = response.extensions_mut().remove::<ListBody>();
    let Some(plain) = response.body_mut().take_whole() else { return response };
    match compressed(state, coding, &plain, list).await.filter(|compressed| compressed.len() < plain.len()) {
        Some(compressed) => {
            state.count(coding, plain.len(), compressed.len());
            *response.body_mut() = Body::whole(compressed);
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
        None => *response.body_mut() = Body::whole(plain),
    }
    response
}

/// `None` when it cannot be, nobody has time for it, or the gateway ends.
async fn compressed(state: &State, coding: Coding, plain: &Bytes, list: Option<ListBody>) -> Option<Vec<u8>> {
    let plain = plain.clone();
    let is_long = plain.len() > OFFLOAD;
    let work = move || {
        if let Some(ListBody { prepared, from }) = list {
            let end = plain.len().saturating_sub(1);
            let (before, middle, after) = (plain.get(..from)?, plain.get(from..end)?, plain.get(end..)?);
            if let Some(body) = prepared.body(coding, before, middle, after) {
                return Some(body);
            }
        }
        coding.compress(&plain).ok()
    };
    if !is_long {
        return work();
    }
    let slot = Arc::clone(&state.slots).try_acquire_owned().ok()?;
    let work = move || {
        let _slot = slot;
        work()
    };
    tokio::task::spawn_blocking(work).await.ok().flatten()
}

/// How many times as large a request may become.
const MAX_RATIO: usize = 100;
/// What any request may become, however small it came.
const PLAIN_ROOM: usize = 64 << 10;

/// Expands a request of a content coding, to `limit` bytes at most.
pub(crate) async fn expand(coding: &HeaderValue, body: Bytes, limit: usize) -> Result<Bytes, Refusal> {
    let name = coding.to_str().unwrap_or_default();
    if name.trim().is_empty() || name.trim().eq_ignore_ascii_case("identity") {
        return Ok(body);
    }
    let Some(coding) = Coding::from_name(name) else {
        let known = Coding::ACCEPT;
        return Err(Refusal::new(Code::MediaType, format!("`Content-Encoding` must be one of {known}, or none")));
    };
    // What grows beyond all measure is there to do harm: many of them at once would, each within its own bound.
    let (limit, by_ratio) = match body.len().saturating_mul(MAX_RATIO).max(PLAIN_ROOM) {
        most if most < limit => (most, true),
        _ => (limit, false),
    };
    let malformed = |error: fairlead_coding::DecodeError| Refusal::new(Code::NotJson, error.to_string());
    let mut decoder = Decoder::new(coding).map_err(malformed)?;
    decoder.push(body);
    let (mut whole, mut turn) = (BytesMut::new(), TURN);
    while let Some(part) = decoder.next().map_err(malformed)? {
        if whole.len() + part.len() > limit {
            let what = if by_ratio {
                format!(
                    "the body becomes more than {MAX_RATIO} times as large when it is expanded; send it less compressed"
                )
            } else {
                format!("the body is larger than {limit} bytes when it is expanded (`listen.max_body`)")
            };
            return Err(Refusal::new(Code::BodyTooLarge, what));
        }
        whole.extend_from_slice(&part);
        if whole.len() > turn {
            turn += TURN;
            tokio::task::yield_now().await;
        }
    }
    decoder.finish().map_err(malformed)?;
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn expanded(coding: &str, body: Vec<u8>, limit: usize) -> Result<Bytes, Refusal> {
        let coding = HeaderValue::from_str(coding).unwrap();
        futures_util::future::FutureExt::now_or_never(expand(&coding, body.into(), limit)).unwrap_or_else(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            panic!("it waits: {runtime:?}")
        })
    }

    #[test]
    fn requests_are_expanded_within_their_bound() {
        let body = b"{\"jsonrpc\":\"2.0\"}".to_vec();
        assert_eq!(expanded("identity", body.clone(), 100).unwrap(), body);
        for coding in Coding::ALL {
            let sent = coding.compress(&body).unwrap();
            assert_eq!(expanded(coding.name(), sent.clone(), 100).unwrap(), body);
            assert_eq!(expanded(coding.name(), sent.clone(), 5).unwrap_err().code, Code::BodyTooLarge);
            assert_eq!(expanded(coding.name(), sent[..sent.len() - 2].to_vec(), 100).unwrap_err().code, Code::NotJson);
            let bomb = coding.compress(&vec![b' '; 32 << 20]).unwrap();
            assert_eq!(expanded(coding.name(), bomb, 100_000).unwrap_err().code, Code::BodyTooLarge);
        }
        assert_eq!(expanded("gzip", body.clone(), 100).unwrap_err().code, Code::NotJson);
        assert_eq!(expanded("deflate", body.clone(), 100).unwrap_err().code, Code::MediaType);
        assert_eq!(expanded("gzip, br", body, 100).unwrap_err().code, Code::MediaType);
    }

    #[tokio::test]
    async fn answers_are_compressed_for_those_who_accept_it() {
        let long: String = (0..400).map(|at| format!("\"word {at}\",")).collect();
        for (size, accept, expected) in [
            (1024, Some("gzip"), Some("gzip")),
            (1024, Some("br;q=1, gzip;q=0.5"), Some("br")),
            (1024, Some("gzip;q=0"), None),
            (1024, None, None),
            (1 << 20, Some("gzip"), None),
        ] {
            let mut request = HeaderMap::new();
            if let Some(accept) = accept {
                request.insert(header::ACCEPT_ENCODING, accept.parse().unwrap());
            }
            let state = State::default();
            let response = answer(&state, Response::new(Body::whole(long.clone())), &request, size).await;
            let counted: Vec<_> = state.counts().filter(|count| count.answers > 0).map(|count| count.coding).collect();
            assert_eq!(counted, expected.into_iter().collect::<Vec<_>>());
            let said = response.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(said.as_deref(), expected, "{accept:?}");
            assert_eq!(response.headers().contains_key(header::VARY), size == 1024, "{accept:?}");
            assert_eq!(response.body().whole_len() < long.len(), expected.is_some());
        }
    }
}
