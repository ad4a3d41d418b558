//! What was cut off answers, kept for a while so that whoever asked can read the rest as a resource:
//! `fairlead://result/<handle>`, and on from `fairlead://result/<handle>/<offset>`.
//!
//! A handle is sealed, and worth something only to the caller (and, while callers cannot be told apart, to the session)
//! whose call it came from. The store is bounded; the oldest make room.

use crate::{
    body::Body,
    call::Call,
    record,
    response::{json, own_result, refuse_call},
};
use aws_lc_rs::rand;
use fairlead_config::Results as Bounds;
use fairlead_core::{Code, Refusal};
use fairlead_wire::{Era, Field, message};
use http::{Response, StatusCode};
use std::{
    collections::{HashMap, VecDeque},
    fmt::Write,
    sync::{Arc, Mutex},
};
use tokio::time::Instant;

/// What URIs of kept results begin with.
const PREFIX: &str = "fairlead://result/";
const PURPOSE: &str = "result";

type Id = [u8; 16];

/// The store.
#[derive(Default)]
pub(crate) struct Results(Mutex<State>);

#[derive(Default)]
struct State {
    kept: HashMap<Id, Kept>,
    /// Oldest first; those that expired may still be there.
    ages: VecDeque<Id>,
    bytes: usize,
}

struct Kept {
    owner: Box<str>,
    text: Arc<str>,
    /// Bytes of one answer.
    chunk: usize,
    until: Instant,
}

impl State {
    fn remove_oldest(&mut self) {
        if let Some(kept) = self.ages.pop_front().and_then(|id| self.kept.remove(&id)) {
            self.bytes -= kept.text.len();
        }
    }

    /// Keeps a text; `false` when it is larger than everything may be together.
    fn keep(&mut self, id: Id, kept: Kept, bounds: Bounds) -> bool {
        if kept.text.len() > bounds.max_bytes {
            return false;
        }
        while self.kept.len() >= bounds.max || self.bytes + kept.text.len() > bounds.max_bytes {
            self.remove_oldest();
        }
        self.bytes += kept.text.len();
        self.ages.push_back(id);
        self.kept.insert(id, kept);
        true
    }

    fn get(&self, id: &Id, owner: &str, now: Instant) -> Option<(Arc<str>, usize)> {
        let kept = self.kept.get(id).filter(|kept| *kept.owner == *owner && kept.until > now)?;
        Some((Arc::clone(&kept.text), kept.chunk))
    }

    /// Forgets what expired. All are kept equally long, unless a reload made that shorter.
    fn sweep(&mut self, now: Instant) {
        while self.ages.front().and_then(|id| self.kept.get(id)).is_some_and(|kept| kept.until <= now) {
            self.remove_oldest();
        }
    }
}

impl Results {
    /// Forgets what expired.
    pub(crate) fn sweep(&self) {
        self.0.lock().expect("invariant: no panic under this lock").sweep(Instant::now());
    }
}

/// What was cut off an answer.
pub(crate) struct Rest {
    bytes: usize,
    /// `None` where it is more than is kept.
    uri: Option<String>,
}

impl Rest {
    pub(crate) fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// A text block that says what happened.
    pub(crate) fn note(&self) -> String {
        let mut text = format!("[The gateway cut this answer: {} more bytes", self.bytes);
        match &self.uri {
            Some(uri) => _ = write!(text, ", to be read as the resource {uri}]"),
            None => text.push_str(", which are not kept because they are too many]"),
        }
        format!("{{\"type\":\"text\",\"text\":{}}}", message::quote(&text))
    }

    /// The rest as a link.
    pub(crate) fn link(&self) -> Option<String> {
        let uri = message::quote(self.uri.as_deref()?);
        let size = self.bytes;
        Some(format!(
            "{{\"type\":\"resource_link\",\"uri\":{uri},\"name\":\"rest of the answer\",\"mimeType\":\"text/plain\",\"size\":{size}}}"
        ))
    }
}

/// Whose results a call may read.
fn owner(call: &Call) -> String {
    let session = call.session.as_ref().filter(|session| !session.is_fleeting());
    let session = session.map_or("", |session| &*session.id);
    format!("{}\n{session}", call.caller.key().as_str())
}

/// Keeps what was cut off an answer; it is read `chunk` bytes at a time.
pub(crate) fn keep(call: &Call, text: String, chunk: usize) -> Rest {
    let bounds = call.endpoint.config.results;
    let bytes = text.len();
    let mut id = Id::default();
    rand::fill(&mut id).expect("invariant: the system has random numbers");
    let until = Instant::now() + bounds.ttl;
    let kept = Kept { owner: owner(call).into(), text: text.into(), chunk, until };
    let inner = &call.gateway.0;
    let is_kept = inner.results.0.lock().expect("invariant: no panic under this lock").keep(id, kept, bounds);
    let uri = is_kept.then(|| format!("{PREFIX}{}", inner.sealer.seal(PURPOSE, &id)));
    Rest { bytes, uri }
}

/// Whether a read is about a kept result.
pub(crate) fn is_asked_for(call: &Call) -> bool {
    call.frame.str(Field::Uri).is_some_and(|uri| uri.starts_with(PREFIX))
}

/// Answers the read of a kept result.
pub(crate) fn read(call: &Call) -> Response<Body> {
    let uri = call.frame.str(Field::Uri).unwrap_or_default();
    match find(call, &uri) {
        Some(found) => {
            record::own(call);
            json(StatusCode::OK, message::result(call.id(), &found.result(&uri, call.era)))
        }
        None => {
            let refusal =
                Refusal::new(Code::ResultGone, "there is no such kept result of this caller, or not any more");
            call.gateway.metrics().refused(refusal.code);
            refuse_call(call.era, Some(call.id()), &refusal)
        }
    }
}

fn find(call: &Call, uri: &str) -> Option<Found> {
    let rest = uri.strip_prefix(PREFIX)?;
    let (handle, from) = match rest.split_once('/') {
        Some((handle, from)) => (handle, from.parse().ok()?),
        None => (rest, 0),
    };
    let inner = &call.gateway.0;
    let id: Id = inner.sealer.open(PURPOSE, handle)?.try_into().ok()?;
    let state = inner.results.0.lock().expect("invariant: no panic under this lock");
    let (text, chunk) = state.get(&id, &owner(call), Instant::now())?;
    drop(state);
    let next = part_end(&text, from, chunk)?;
    Some(Found { part: text[from..next].into(), next: (next < text.len()).then(|| format!("{PREFIX}{handle}/{next}")) })
}

/// Where the part that begins at `from` ends; `None` where none begins.
fn part_end(text: &str, from: usize, chunk: usize) -> Option<usize> {
    if from >= text.len() || !text.is_char_boundary(from) {
        return None;
    }
    let mut end = from.saturating_add(chunk.max(4)).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Some(end)
}

/// A part of a kept result, and where it goes on.
struct Found {
    part: Box<str>,
    next: Option<String>,
}

impl Found {
    fn result(&self, uri: &str, era: Era) -> String {
        let (uri, text) = (message::quote(uri), message::quote(&self.part));
        let contents = format!("\"contents\":[{{\"uri\":{uri},\"mimeType\":\"text/plain\",\"text\":{text}}}]");
        let members = match era {
            Era::Legacy => contents,
            Era::Modern => format!("{contents},\"ttlMs\":0,\"cacheScope\":\"private\""),
        };
        let next = self.next.as_deref().map(message::quote);
        let meta: Vec<_> = next.iter().map(|next| ("fairlead/next", &**next)).collect();
        own_result(era, &members, &meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BOUNDS: Bounds = Bounds { max: 3, max_bytes: 100, ttl: Duration::from_secs(60) };

    fn kept(owner: &str, bytes: usize) -> Kept {
        Kept { owner: owner.into(), text: "x".repeat(bytes).into(), chunk: 10, until: Instant::now() + BOUNDS.ttl }
    }

    #[test]
    fn the_store_is_bounded_and_forgets() {
        let mut state = State::default();
        for number in 0..5 {
            assert!(state.keep([number; 16], kept("a", 10), BOUNDS));
        }
        let now = Instant::now();
        let known: Vec<_> = (0..5).filter(|number| state.get(&[*number; 16], "a", now).is_some()).collect();
        assert_eq!(known, [2, 3, 4]);
        assert!(state.get(&[4; 16], "b", now).is_none(), "somebody else's");
        assert!(state.keep([5; 16], kept("a", 95), BOUNDS));
        assert_eq!((state.kept.len(), state.bytes), (1, 95));
        assert!(!state.keep([6; 16], kept("a", 101), BOUNDS), "more than all may have together");
        assert!(state.get(&[5; 16], "a", now).is_some());
        let later = Instant::now() + BOUNDS.ttl;
        assert!(state.get(&[5; 16], "a", later).is_none());
        state.sweep(later);
        assert_eq!((state.kept.len(), state.ages.len(), state.bytes), (0, 0, 0));
    }

    #[test]
    fn parts_put_together_are_the_whole() {
        let text = "aäb🦀c".repeat(20);
        for chunk in [1, 4, 5, 7, 1000] {
            let (mut from, mut all) = (0, String::new());
            while let Some(end) = part_end(&text, from, chunk) {
                assert!(end > from);
                all.push_str(&text[from..end]);
                from = end;
            }
            assert_eq!(all, text, "{chunk}");
        }
        assert_eq!(part_end("ä", 1, 4), None);
        assert_eq!(part_end("a", 7, 4), None);
    }
}
