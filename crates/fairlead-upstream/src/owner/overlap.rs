//! What two listen streams bring while both are read: each update is passed on once.
//!
//! The streams have no common order, and the new one begins somewhere in the middle of what the one before brings. So an
//! update is known by what it says (all of it but the name of its stream), not by its place. Where updates say the same it
//! can be unclear whether one that only the new stream brought was heard before: then the client is told once more when the
//! stream before is closed, as a change that nobody hears of is worse than one that is heard of twice. That is only so of a
//! server whose updates of a resource all say the same: where they are seen to differ ([`Told`]) it is clear.

use fairlead_wire::{Field, Frame};
use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// Updates that are remembered of one overlap.
const MAX_NOTED: usize = 10_000;

/// Whether an update is to be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    New,
    Known,
}

/// What was heard since another stream was asked for.
#[derive(Default)]
pub(super) struct Overlap {
    resources: HashMap<Arc<str>, Heard>,
    noted: usize,
}

#[derive(Default)]
struct Heard {
    /// Passed on from the stream before, and not yet heard on the new one.
    before: Vec<Noted>,
    /// The other way round.
    fresh: Vec<u64>,
    /// Said by the new stream, and held back for one of the stream before that may have been another.
    doubtful: Option<(u64, Frame)>,
}

struct Noted {
    content: u64,
    /// It came when the new stream may not have begun.
    early: bool,
}

impl Overlap {
    /// The new stream is acknowledged: what the stream before brings from now on the new one brings too.
    pub(super) fn acknowledged(&mut self) {
        for noted in self.resources.values_mut().flat_map(|heard| &mut heard.before) {
            noted.early = true;
        }
    }

    /// The stream before brings an update.
    pub(super) fn before(&mut self, uri: Arc<str>, frame: &Frame) -> Said {
        let content = content(frame);
        let has_room = self.has_room();
        let heard = self.resources.entry(uri).or_default();
        if let Some(at) = heard.fresh.iter().position(|other| *other == content) {
            heard.fresh.swap_remove(at);
            return Said::Known;
        }
        heard.doubtful.take_if(|(other, _)| *other == content);
        if has_room {
            heard.before.push(Noted { content, early: false });
        }
        Said::New
    }

    /// The new stream does.
    pub(super) fn fresh(&mut self, uri: Arc<str>, frame: &Frame) -> Said {
        let content = content(frame);
        let has_room = self.has_room();
        let heard = self.resources.entry(uri).or_default();
        // One that came late is surely the same.
        let found = heard.before.iter().rposition(|noted| noted.content == content && !noted.early);
        let found = found.or_else(|| heard.before.iter().rposition(|noted| noted.content == content));
        match found {
            Some(at) => {
                if heard.before.swap_remove(at).early {
                    heard.doubtful = Some((content, frame.clone()));
                }
                Said::Known
            }
            None => {
                if has_room {
                    heard.fresh.push(content);
                }
                Said::New
            }
        }
    }

    /// The stream before is closed: what is to be said once more, and what the new one may still bring of what was heard.
    pub(super) fn replaced(self, told: &Told) -> (Vec<Frame>, Owed) {
        let (mut doubtful, mut owed) = (Vec::new(), Owed::default());
        for (uri, heard) in self.resources {
            if told.differs(&uri) {
                owed.add(uri, heard.before.iter().map(|noted| noted.content), false);
            } else {
                doubtful.extend(heard.doubtful.map(|(_, frame)| frame));
            }
        }
        (doubtful, owed)
    }

    /// There is no new stream: what it brought the stream before brings as well.
    pub(super) fn given_up(self, owed: &mut Owed) {
        for (uri, heard) in self.resources {
            owed.add(uri, heard.fresh.into_iter(), true);
        }
    }

    fn has_room(&mut self) -> bool {
        self.noted += 1;
        self.noted <= MAX_NOTED
    }
}

/// Updates that were passed on from another stream, and that the one that is read now has not brought yet.
#[derive(Default)]
pub(super) struct Owed(HashMap<Arc<str>, Vec<Debt>>);

struct Debt {
    content: u64,
    /// It is certain to come. Otherwise it comes before anything new, or not at all.
    sure: bool,
}

impl Owed {
    fn add(&mut self, uri: Arc<str>, contents: impl Iterator<Item = u64>, sure: bool) {
        let mut debts = contents.map(|content| Debt { content, sure }).peekable();
        if debts.peek().is_some() {
            self.0.entry(uri).or_default().extend(debts);
        }
    }

    /// The stream brings an update: whether that was passed on already.
    pub(super) fn take(&mut self, uri: &Arc<str>, frame: &Frame) -> Said {
        let Some(debts) = self.0.get_mut(uri) else { return Said::New };
        let content = content(frame);
        let found = debts.iter().position(|debt| debt.content == content);
        match found {
            Some(at) => _ = debts.swap_remove(at),
            None => debts.retain(|debt| debt.sure),
        }
        if debts.is_empty() {
            self.0.remove(uri);
        }
        if found.is_some() { Said::Known } else { Said::New }
    }

    /// The stream ended.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether a server's updates of a resource differ from each other, by those that were passed on: each with what it said
/// last, and whether that was something else than before.
#[derive(Default)]
pub(super) struct Told(HashMap<Arc<str>, (u64, bool)>);

impl Told {
    /// An update is passed on.
    pub(super) fn note(&mut self, uri: &Arc<str>, frame: &Frame) {
        let content = content(frame);
        match self.0.get_mut(uri) {
            Some((last, differs)) => *differs = std::mem::replace(last, content) != content,
            None => _ = self.0.insert(Arc::clone(uri), (content, false)),
        }
    }

    /// Forgets what is not watched any more.
    pub(super) fn keep(&mut self, watched: &BTreeSet<Arc<str>>) {
        self.0.retain(|uri, _| watched.contains(uri));
    }

    fn differs(&self, uri: &str) -> bool {
        self.0.get(uri).is_some_and(|(_, differs)| *differs)
    }
}

/// What an update says, whatever stream it came on.
fn content(frame: &Frame) -> u64 {
    let bytes = frame.bytes();
    let mut hasher = DefaultHasher::new();
    match frame.span(Field::MetaSubscriptionId) {
        Some(span) => (&bytes[..span.start as usize], &bytes[span.end as usize..]).hash(&mut hasher),
        None => (&bytes[..], &b""[..]).hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

    use super::*;
    use fairlead_wire::Limits;

    /// Plays updates: `b1` is update 1 on the stream before, `f1` on the new one, `a` the acknowledgement.
    fn play(script: &str) -> (String, usize) {
        let mut overlap = Overlap::default();
        let mut told = String::new();
        let mut known = Told::default();
        let uri: Arc<str> = "x:1".into();
        for step in script.split(' ') {
            let (stream, number) = step.split_at(1);
            let id = if stream == "b" { 1 } else { 2 };
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}},"own":"{number}","uri":"x:1"}}}}"#
            );
            let frame = Frame::parse(text.into(), &Limits::default()).unwrap();
            let said = match stream {
                "b" => overlap.before("x:1".into(), &frame),
                "f" => overlap.fresh("x:1".into(), &frame),
                _ => {
                    overlap.acknowledged();
                    continue;
                }
            };
            if said == Said::New {
                told.push_str(number);
                known.note(&uri, &frame);
            }
        }
        (told, overlap.replaced(&known).0.len())
    }

    #[test]
    fn each_update_is_told_once_wherever_it_comes_first() {
        for (script, told, once_more) in [
            ("a b1 f1 f2 b2", "12", 0),
            // One that only the stream before brought, and it falls behind and is cut.
            ("b1 a b2 f2 f3", "123", 0),
            ("b1 a f2 f3", "123", 0),
            ("b1 a f2 b2 f3 b3", "123", 0),
            // One that is known by what it says is not doubtful, when another was seen to say something else.
            ("b1 b2 a f2", "12", 0),
            ("b1 a f1 f2 b2", "12", 0),
            ("b1 a f1", "1", 1),
            // All say the same. Nobody can know whether the last was the first.
            ("bx a fx", "x", 1),
            ("bx a fx bx", "xx", 0),
            ("a bx fx bx fx", "xx", 0),
            ("a fx bx fx bx", "xx", 0),
        ] {
            let (heard, doubtful) = play(script);
            assert_eq!((&*heard, doubtful), (told, once_more), "{script}");
        }
    }

    fn update(number: u64) -> Frame {
        let text = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"x:1","own":"{number}"}}}}"#
        );
        Frame::parse(text.into(), &Limits::default()).unwrap()
    }

    #[test]
    fn what_the_new_stream_brings_after_the_end_of_the_other_is_not_told_again() {
        let uri: Arc<str> = "x:1".into();
        for (differ, expected) in [(true, "kkn"), (false, "nnn")] {
            let (mut overlap, mut told) = (Overlap::default(), Told::default());
            overlap.acknowledged();
            for number in [1, 2] {
                assert_eq!(overlap.before(Arc::clone(&uri), &update(number)), Said::New);
                // Where they all say the same, one more is better than one less.
                told.note(&uri, &update(if differ { number } else { 1 }));
            }
            let (_, mut owed) = overlap.replaced(&told);
            let mut said = String::new();
            for number in [1, 2, 3] {
                said.push(if owed.take(&uri, &update(number)) == Said::Known { 'k' } else { 'n' });
            }
            assert_eq!(said, expected);
            assert!(owed.0.is_empty());
        }
    }

    #[test]
    fn what_is_owed_is_forgotten_with_the_first_that_is_new_unless_it_is_certain() {
        let uri: Arc<str> = "x:1".into();
        for sure in [true, false] {
            let mut owed = Owed::default();
            owed.add(Arc::clone(&uri), [content(&update(2))].into_iter(), sure);
            assert_eq!(owed.take(&uri, &update(1)), Said::New);
            assert_eq!(owed.take(&uri, &update(2)), if sure { Said::Known } else { Said::New });
        }
    }

    #[test]
    fn what_a_stream_brought_that_is_given_up_the_one_before_does_not_tell_again() {
        let uri: Arc<str> = "x:1".into();
        let (mut overlap, mut owed) = (Overlap::default(), Owed::default());
        assert_eq!(overlap.fresh(Arc::clone(&uri), &update(2)), Said::New);
        overlap.given_up(&mut owed);
        let said = [1, 2, 2].map(|number| owed.take(&uri, &update(number)));
        assert_eq!(said, [Said::New, Said::Known, Said::New]);
    }

    #[test]
    fn what_is_not_watched_any_more_is_forgotten() {
        let mut told = Told::default();
        let frame = Frame::parse(r#"{"jsonrpc":"2.0","method":"x"}"#.into(), &Limits::default()).unwrap();
        told.note(&"x:1".into(), &frame);
        told.note(&"x:2".into(), &frame);
        told.keep(&BTreeSet::from(["x:2".into()]));
        assert_eq!(told.0.keys().collect::<Vec<_>>(), [&"x:2".into()]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let script: Vec<String> = (0..=MAX_NOTED).map(|number| format!("b{number}")).collect();
        let mut overlap = Overlap::default();
        for number in &script {
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"x:1","own":"{number}"}}}}"#
            );
            let frame = Frame::parse(text.into(), &Limits::default()).unwrap();
            assert_eq!(overlap.before("x:1".into(), &frame), Said::New);
        }
        assert_eq!(overlap.resources["x:1"].before.len(), MAX_NOTED);
    }
}
