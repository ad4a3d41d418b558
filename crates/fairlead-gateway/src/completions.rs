//! Who was shown which elicitation by URL, so that the notice of its end (`notifications/elicitation/complete` of
//! 2025-11-25) reaches its client after the stream of the call that it came with has ended, as it usually does: a
//! person takes longer than a call.
//!
//! The notice names nothing but the server's id of the elicitation. Where two clients were shown the same id it is
//! nobody's, and so is one that nobody was shown.

use crate::park::URL_REQUIRED;
use fairlead_wire::{Field, Frame, Kind, Method, list};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// Elicitations that are remembered.
const MAX_SHOWN: usize = 10_000;
/// How long each is.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Longest id that is remembered, in bytes.
const MAX_ID: usize = 1024;
/// Elicitations that one error may want opened.
const MAX_OF_ERROR: usize = 16;

/// A server's name and its id of an elicitation.
type Id = (Box<str>, Box<str>);

/// Who was shown an elicitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    To(u64),
    ToSeveral,
}

#[derive(Debug, Default)]
struct State {
    shown: HashMap<Id, Shown>,
    /// The same by age.
    by_age: VecDeque<(Instant, Id)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Completions(Mutex<State>);

impl Completions {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("invariant: no panic under this lock")
    }

    /// A server's question is put to a client.
    pub(crate) fn asked(&self, server: &str, user: u64, question: &Frame) {
        if question.method_class() != Method::ElicitationCreate {
            return;
        }
        if let Some(id) = question.raw(Field::Params).and_then(|params| list::string_member(params, "elicitationId")) {
            self.note(server, user, &id);
        }
    }

    /// A server's answer says which URLs its client has to open first.
    pub(crate) fn answered(&self, server: &str, user: u64, answer: &Frame) {
        if answer.kind() != Kind::Error || answer.error_code() != Some(URL_REQUIRED) {
            return;
        }
        let data = answer.raw(Field::ErrorData).unwrap_or("{}");
        for url in list::items(data, "elicitations").unwrap_or_default().into_iter().take(MAX_OF_ERROR) {
            if let Some(id) = list::string_member(url, "elicitationId") {
                self.note(server, user, &id);
            }
        }
    }

    fn note(&self, server: &str, user: u64, id: &str) {
        if id.len() > MAX_ID {
            return;
        }
        let key: Id = (server.into(), id.into());
        let mut state = self.state();
        state.forget_old();
        if let Some(known) = state.shown.get_mut(&key) {
            if *known != Shown::To(user) {
                *known = Shown::ToSeveral;
            }
            return;
        }
        state.by_age.push_back((Instant::now(), key.clone()));
        state.shown.insert(key, Shown::To(user));
    }

    /// The client that a notice is for; it is told once.
    pub(crate) fn take(&self, server: &str, notice: &Frame) -> Option<u64> {
        let id = notice.raw(Field::Params).and_then(|params| list::string_member(params, "elicitationId"))?;
        let key: Id = (server.into(), id.as_ref().into());
        let mut state = self.state();
        state.forget_old();
        match state.shown.get(&key)? {
            Shown::To(user) => {
                let user = *user;
                state.shown.remove(&key);
                state.by_age.retain(|(_, other)| *other != key);
                Some(user)
            }
            Shown::ToSeveral => None,
        }
    }
}

impl State {
    fn forget_old(&mut self) {
        while let Some((since, _)) = self.by_age.front()
            && (self.by_age.len() >= MAX_SHOWN || since.elapsed() >= MAX_AGE)
        {
            if let Some((_, key)) = self.by_age.pop_front() {
                self.shown.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::Limits;

    fn frame(text: &str) -> Frame {
        Frame::parse(bytes::Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).unwrap()
    }

    fn question(id: &str) -> Frame {
        let params = format!(r#"{{"mode":"url","elicitationId":"{id}"}}"#);
        frame(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{params}}}"#))
    }

    fn notice(id: &str) -> Frame {
        let method = "notifications/elicitation/complete";
        frame(&format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"elicitationId":"{id}"}}}}"#))
    }

    #[test]
    fn a_notice_is_for_the_one_who_was_shown_it_and_once() {
        let completions = Completions::default();
        completions.asked("a", 7, &question("x"));
        completions.asked("a", 7, &question("x"));
        completions.asked("a", 7, &question("y"));
        completions.asked("a", 8, &question("y"));
        let error = r#"{"code":-32042,"message":"m","data":{"elicitations":[{"elicitationId":"z","url":"u"}]}}"#;
        completions.answered("a", 9, &frame(&format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#)));
        assert_eq!(completions.take("b", &notice("x")), None, "another server's");
        for (id, user) in [("x", Some(7)), ("x", None), ("y", None), ("z", Some(9)), ("unknown", None)] {
            assert_eq!(completions.take("a", &notice(id)), user, "{id}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let completions = Completions::default();
        for number in 0..=MAX_SHOWN {
            completions.asked("a", 1, &question(&number.to_string()));
        }
        assert!(completions.state().shown.len() <= MAX_SHOWN);
        assert_eq!(completions.take("a", &notice("0")), None);
        assert_eq!(completions.take("a", &notice(&MAX_SHOWN.to_string())), Some(1));
    }
}
