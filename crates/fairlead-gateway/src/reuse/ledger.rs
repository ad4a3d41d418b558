//! What was outdated when: whether something that was fetched at one moment still counts.
//!
//! Every invalidation gets the next number, and is remembered by what it was about. What was fetched carries the number of
//! the moment its call *began*: it counts as long as nothing that concerns it has a higher one. So an answer that was
//! under way while its subject changed is never kept, whatever came first, and dropping a thousand answers costs one entry.
//! The usual case - nothing happened since the last look - is one comparison.

use fairlead_config::Glob;
use fairlead_wire::Method;
use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Invalidations that are remembered one by one. When there are more, everything that is kept is dropped.
const MAX_MARKS: usize = 10_000;

/// What an answer is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The server's name.
    pub(crate) server: Arc<str>,
    pub(crate) method: Method,
    /// The server's own name of the tool or prompt, or the URI.
    pub(crate) name: Box<str>,
    /// What the configuration calls it.
    pub(crate) tags: Arc<[Box<str>]>,
}

/// What is outdated.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outdated<'a> {
    Everything,
    /// All answers of one server.
    Server(&'a str),
    /// Those to one method.
    Method(&'a str, Method),
    /// Those of one tool or prompt, or about one URI.
    Name(&'a str, Method, &'a str),
    /// Those whose names match.
    Pattern(&'a str, Method, &'a Glob),
    /// Those that carry a tag.
    Tag(&'a str),
}

#[derive(Default)]
struct Marks {
    everything: u64,
    servers: HashMap<Box<str>, u64>,
    methods: HashMap<(Box<str>, Method), u64>,
    names: HashMap<(Box<str>, Method, Box<str>), u64>,
    patterns: HashMap<(Box<str>, Method, Glob), u64>,
    tags: HashMap<Box<str>, u64>,
}

impl Marks {
    fn len(&self) -> usize {
        self.servers.len() + self.methods.len() + self.names.len() + self.patterns.len() + self.tags.len()
    }

    /// The number of the last thing that concerns `subject`.
    fn last(&self, subject: &Subject) -> u64 {
        let (server, method) = (&*subject.server, subject.method);
        let known = |found: Option<&u64>| found.copied().unwrap_or(0);
        let mut last = self.everything.max(known(self.servers.get(server)));
        if !self.methods.is_empty() {
            last = last.max(known(self.methods.get(&(server.into(), method))));
        }
        if !self.names.is_empty() {
            last = last.max(known(self.names.get(&(server.into(), method, subject.name.clone()))));
        }
        for ((of, to, pattern), number) in &self.patterns {
            if **of == *server && *to == method && *number > last && pattern.matches(&subject.name) {
                last = *number;
            }
        }
        subject.tags.iter().fold(last, |last, tag| last.max(known(self.tags.get(tag))))
    }
}

/// The numbers.
#[derive(Default)]
pub(crate) struct Ledger {
    last: AtomicU64,
    marks: RwLock<Marks>,
}

impl Ledger {
    /// The number of this moment.
    pub(crate) fn now(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Whether what was fetched at `since` still counts.
    pub(crate) fn counts(&self, subject: &Subject, since: u64) -> bool {
        since >= self.now() || self.marks.read().expect("invariant: no panic under this lock").last(subject) <= since
    }

    /// Everything `what` says that was fetched before now, or is being fetched, does not count any more.
    pub(crate) fn outdate(&self, what: Outdated<'_>) {
        let mut marks = self.marks.write().expect("invariant: no panic under this lock");
        let number = self.last.load(Ordering::Relaxed) + 1;
        match what {
            Outdated::Everything => marks.everything = number,
            Outdated::Server(server) => drop(marks.servers.insert(server.into(), number)),
            Outdated::Method(server, method) => drop(marks.methods.insert((server.into(), method), number)),
            Outdated::Name(server, method, name) => {
                marks.names.insert((server.into(), method, name.into()), number);
            }
            Outdated::Pattern(server, method, pattern) => {
                marks.patterns.insert((server.into(), method, pattern.clone()), number);
            }
            Outdated::Tag(tag) => drop(marks.tags.insert(tag.into(), number)),
        }
        if marks.len() > MAX_MARKS {
            *marks = Marks { everything: number, ..Marks::default() };
        }
        // Last: whoever sees the number finds what it stands for.
        self.last.store(number, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(server: &str, method: Method, name: &str, tags: &[&str]) -> Subject {
        let tags = tags.iter().map(|tag| Box::from(*tag)).collect();
        Subject { server: server.into(), method, name: name.into(), tags }
    }

    #[test]
    fn what_was_fetched_before_does_not_count_and_what_comes_after_does() {
        let tool = subject("a", Method::ToolsCall, "get_x", &["t"]);
        let get = Glob::new("get_*").expect("a pattern");
        let put = Glob::new("put_*").expect("a pattern");
        for (what, concerns) in [
            (Outdated::Everything, true),
            (Outdated::Server("a"), true),
            (Outdated::Server("b"), false),
            (Outdated::Method("a", Method::ToolsCall), true),
            (Outdated::Method("a", Method::ResourcesRead), false),
            (Outdated::Name("a", Method::ToolsCall, "get_x"), true),
            (Outdated::Name("a", Method::ToolsCall, "get_y"), false),
            (Outdated::Name("b", Method::ToolsCall, "get_x"), false),
            (Outdated::Pattern("a", Method::ToolsCall, &get), true),
            (Outdated::Pattern("a", Method::ToolsCall, &put), false),
            (Outdated::Tag("t"), true),
            (Outdated::Tag("u"), false),
        ] {
            let ledger = Ledger::default();
            let before = ledger.now();
            assert!(ledger.counts(&tool, before));
            ledger.outdate(what);
            assert_eq!(ledger.counts(&tool, before), !concerns, "{what:?}");
            assert!(ledger.counts(&tool, ledger.now()), "{what:?}");
        }
    }

    #[test]
    fn too_many_marks_drop_everything_and_nothing_is_forgotten() {
        let ledger = Ledger::default();
        let other = subject("a", Method::ResourcesRead, "other", &[]);
        ledger.outdate(Outdated::Name("a", Method::ResourcesRead, "first"));
        let since = ledger.now();
        for number in 0..MAX_MARKS {
            assert!(number == MAX_MARKS - 1 || ledger.counts(&other, since));
            ledger.outdate(Outdated::Name("a", Method::ResourcesRead, &number.to_string()));
        }
        assert!(!ledger.counts(&other, since));
        assert!(ledger.counts(&other, ledger.now()));
    }
}
