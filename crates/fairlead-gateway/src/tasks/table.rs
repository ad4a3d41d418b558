//! What is remembered of tasks: whose they are, what was last heard of them, and the results the gateway keeps itself.
//!
//! A server's task can be asked for without this table, by its id alone. What needs it is `tasks/list` of 2025-11-25,
//! which must show a client its own tasks and nobody else's, notifications, which name a task by the server's id, and
//! tasks that a server had already finished when it answered. So it may forget: it is bounded by number (`tasks.max`,
//! `tasks.max_per_caller`), by time (`tasks.ttl`) and by bytes, and the oldest go first. Changes are queued for the
//! store, and an owner's tasks are read back from it once, when the owner first asks.

use crate::tasks::object::{self, Status};
use bytes::Bytes;
use fairlead_core::{
    Clock,
    ports::{TaskRecord, TaskStore},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// How long an owner's first question may wait for the store.
const LOAD_TIME: Duration = Duration::from_millis(250);
/// Bytes of results kept by the gateway, all callers together.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// Longest result that is also stored; a longer one is lost with a restart.
const MAX_STORED_RESULT: usize = 64 << 10;
/// Longest `Task` object that is remembered; of a longer one only what identifies it.
const MAX_VIEW: usize = 8 << 10;

/// Bounds, from the configuration in force.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) max: usize,
    pub(crate) max_per_owner: usize,
    pub(crate) ttl_ms: u64,
}

impl Bounds {
    pub(crate) fn of(config: &fairlead_config::Tasks) -> Self {
        let ttl_ms = u64::try_from(config.ttl.as_millis()).unwrap_or(u64::MAX);
        Self { max: config.max, max_per_owner: config.max_per_caller, ttl_ms }
    }
}

/// An outcome that the gateway keeps.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The raw `result`.
    Result(Bytes),
    /// It was too long to survive a restart.
    Lost,
}

/// One remembered task.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The server's name.
    pub(crate) server: Box<str>,
    /// What the server calls it; empty where the gateway keeps it.
    pub(crate) own: Box<str>,
    /// The `Task` object of 2025-11-25 as the client was shown it last.
    pub(crate) view: Arc<str>,
    /// What came of it, where the gateway keeps that.
    pub(crate) outcome: Option<Outcome>,
    /// Its client cancelled it: whatever the server says, it stays so.
    pub(crate) cancelled: bool,
    /// The link it was made on. What is read back from the store has none: that link is gone, and what a server says
    /// over another one is of another task.
    pub(crate) link: Option<u64>,
    /// By which token the server says how far it is, and by which its client wants to hear that.
    pub(crate) progress: Option<(u64, Box<str>)>,
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    owner: Arc<str>,
    created_ms: u64,
    expires_ms: u64,
}

/// A server's name and what it calls a task.
type Own = (Box<str>, Box<str>);

#[derive(Debug, Default)]
struct State {
    tasks: HashMap<Arc<str>, Kept>,
    /// Ids by age.
    by_age: BTreeSet<(u64, Arc<str>)>,
    by_owner: HashMap<Arc<str>, BTreeSet<(u64, Arc<str>)>>,
    /// Ids by server and the server's id, which is the same for several tasks where it has several links.
    by_own: HashMap<Own, Vec<Arc<str>>>,
    /// Ids by link and the token of progress there.
    by_token: HashMap<(u64, u64), Arc<str>>,
    /// Owners whose stored tasks were read.
    recalled: HashSet<Arc<str>>,
    kept_bytes: usize,
}

/// See the module.
pub(crate) struct Table {
    state: Mutex<State>,
    store: Arc<dyn TaskStore>,
    clock: Clock,
}

/// How an entry is stored.
#[derive(Serialize)]
struct Body<'a> {
    server: &'a str,
    own: &'a str,
    view: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    lost: bool,
    cancelled: bool,
}

impl Entry {
    /// By what the server's words about it are found.
    fn named_by_server(&self) -> Option<Own> {
        let is_named = self.link.is_some() && !self.own.is_empty();
        is_named.then(|| (self.server.clone(), self.own.clone()))
    }

    /// By what the server's reports of its progress are found.
    fn token(&self) -> Option<(u64, u64)> {
        Some((self.link?, self.progress.as_ref()?.0))
    }

    fn kept_bytes(&self) -> usize {
        match &self.outcome {
            Some(Outcome::Result(raw)) => raw.len(),
            _ => 0,
        }
    }

    fn to_body(&self) -> String {
        let (result, lost) = match &self.outcome {
            Some(Outcome::Result(raw)) if raw.len() <= MAX_STORED_RESULT => (std::str::from_utf8(raw).ok(), false),
            Some(_) => (None, true),
            None => (None, false),
        };
        let body =
            Body { server: &self.server, own: &self.own, view: &self.view, result, lost, cancelled: self.cancelled };
        serde_json::to_string(&body).expect("invariant: texts and flags have a JSON form")
    }

    fn from_body(body: &str) -> Option<Self> {
        // Owned: the texts in it have escapes.
        #[derive(Deserialize)]
        struct Owned {
            server: String,
            own: String,
            view: String,
            #[serde(default)]
            result: Option<String>,
            #[serde(default)]
            lost: bool,
            #[serde(default)]
            cancelled: bool,
        }
        let body: Owned = serde_json::from_str(body).ok()?;
        let outcome = body.result.map(|raw| Outcome::Result(raw.into())).or(body.lost.then_some(Outcome::Lost));
        Some(Self {
            server: body.server.into(),
            own: body.own.into(),
            view: body.view.into(),
            outcome,
            cancelled: body.cancelled,
            link: None,
            progress: None,
        })
    }
}

impl State {
    fn insert(&mut self, id: Arc<str>, kept: Kept) {
        self.remove(&id);
        let age = (kept.created_ms, Arc::clone(&id));
        self.by_age.insert(age.clone());
        self.by_owner.entry(Arc::clone(&kept.owner)).or_default().insert(age);
        if let Some(own) = kept.entry.named_by_server() {
            self.by_own.entry(own).or_default().push(Arc::clone(&id));
        }
        if let Some(token) = kept.entry.token() {
            self.by_token.insert(token, Arc::clone(&id));
        }
        self.kept_bytes += kept.entry.kept_bytes();
        self.tasks.insert(id, kept);
    }

    fn remove(&mut self, id: &str) -> Option<Kept> {
        let (id, kept) = self.tasks.remove_entry(id)?;
        let age = (kept.created_ms, Arc::clone(&id));
        self.by_age.remove(&age);
        if let Some(ages) = self.by_owner.get_mut(&kept.owner) {
            ages.remove(&age);
            if ages.is_empty() {
                self.by_owner.remove(&kept.owner);
            }
        }
        if let Some(own) = kept.entry.named_by_server()
            && let Some(ids) = self.by_own.get_mut(&own)
        {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_own.remove(&own);
            }
        }
        if let Some(token) = kept.entry.token() {
            self.by_token.remove(&token);
        }
        self.kept_bytes -= kept.entry.kept_bytes();
        Some(kept)
    }

    /// The ids that have to go so that everything fits.
    fn too_many(&self, owner: &str, bounds: Bounds) -> Option<Arc<str>> {
        let of_owner = self.by_owner.get(owner).filter(|ages| ages.len() > bounds.max_per_owner);
        if let Some((_, id)) = of_owner.and_then(BTreeSet::first) {
            return Some(Arc::clone(id));
        }
        if self.tasks.len() > bounds.max {
            return self.by_age.first().map(|(_, id)| Arc::clone(id));
        }
        if self.kept_bytes > MAX_KEPT_BYTES {
            let heavy = |id: &Arc<str>| self.tasks.get(id).is_some_and(|kept| kept.entry.kept_bytes() > 0);
            return self.by_age.iter().map(|(_, id)| id).find(|id| heavy(id)).cloned();
        }
        None
    }
}

impl Table {
    pub(crate) fn new(store: Arc<dyn TaskStore>, clock: Clock) -> Self {
        Self { state: Mutex::default(), store, clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under this lock")
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    fn save(&self, id: &str, kept: &Kept) {
        self.store.note(TaskRecord {
            id: id.to_owned(),
            owner: kept.owner.to_string(),
            body: kept.entry.to_body(),
            created_ms: kept.created_ms,
            expires_ms: kept.expires_ms,
        });
    }

    /// Remembers a new task, for `ttl_ms` at most.
    pub(crate) fn note(&self, id: &str, owner: &str, mut entry: Entry, ttl_ms: Option<u64>, bounds: Bounds) {
        let created_ms = self.now_ms();
        let expires_ms = created_ms.saturating_add(ttl_ms.unwrap_or(u64::MAX).min(bounds.ttl_ms));
        entry.view = short(id, &entry.view);
        let kept = Kept { entry, owner: owner.into(), created_ms, expires_ms };
        self.save(id, &kept);
        let mut state = self.state();
        state.insert(id.into(), kept);
        while let Some(id) = state.too_many(owner, bounds) {
            state.remove(&id);
            self.store.remove(&id);
        }
    }

    /// A task that is remembered.
    pub(crate) fn get(&self, id: &str) -> Option<Entry> {
        let now = self.now_ms();
        self.state().tasks.get(id).filter(|kept| kept.expires_ms > now).map(|kept| kept.entry.clone())
    }

    /// The client's id of a task that was made on a link, with its owner.
    pub(crate) fn of_link(&self, server: &str, own: &str, link: u64) -> Option<(Arc<str>, Arc<str>)> {
        self.sole(server, own, |kept| kept.entry.link == Some(link))
    }

    /// The task that reports its progress by a token on a link: its client's id, its owner, what is known of it.
    pub(crate) fn of_token(&self, link: u64, token: u64) -> Option<(Arc<str>, Arc<str>, Entry)> {
        let state = self.state();
        let id = state.by_token.get(&(link, token))?;
        let kept = state.tasks.get(id)?;
        Some((Arc::clone(id), Arc::clone(&kept.owner), kept.entry.clone()))
    }

    /// The client's id of an owner's task. `None` also where it has two of that name.
    pub(crate) fn of_owner(&self, server: &str, own: &str, owner: &str) -> Option<Arc<str>> {
        self.sole(server, own, |kept| &*kept.owner == owner).map(|(id, _)| id)
    }

    /// The one of a server's tasks of a name that `is_meant`, with its owner.
    fn sole(&self, server: &str, own: &str, is_meant: impl Fn(&Kept) -> bool) -> Option<(Arc<str>, Arc<str>)> {
        let state = self.state();
        let ids = state.by_own.get(&(server.into(), own.into()))?;
        let mut meant =
            ids.iter().filter_map(|id| state.tasks.get(id).filter(|kept| is_meant(kept)).map(|kept| (id, kept)));
        match (meant.next(), meant.next()) {
            (Some((id, kept)), None) => Some((Arc::clone(id), Arc::clone(&kept.owner))),
            _ => None,
        }
    }

    /// Notes what a task was seen to be. The store hears of it when the status is another.
    pub(crate) fn saw(&self, id: &str, view: &str) {
        self.change(id, |entry| entry.view = short(id, view));
    }

    /// Notes that its client cancelled a task, and returns what it is from then on.
    pub(crate) fn cancelled(&self, id: &str, view: &str) -> String {
        let view = object::with_status(view, Status::Cancelled);
        self.change(id, |entry| {
            entry.view = short(id, &view);
            entry.cancelled = true;
        });
        view
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Entry)) {
        let mut state = self.state();
        let Some(kept) = state.tasks.get_mut(id) else { return };
        let before = Status::of(&kept.entry.view);
        change(&mut kept.entry);
        if Status::of(&kept.entry.view) != before {
            self.save(id, kept);
        }
    }

    /// A page of an owner's tasks, oldest first: those after `after`, and where the next page begins.
    pub(crate) fn page(
        &self,
        owner: &str,
        after: Option<&Place>,
        size: usize,
    ) -> (Vec<(Arc<str>, Entry)>, Option<Place>) {
        let now = self.now_ms();
        let state = self.state();
        let Some(ages) = state.by_owner.get(owner) else { return (Vec::new(), None) };
        let start = match after {
            None => Bound::Unbounded,
            Some(place) => {
                let same = ages.iter().find(|(created, id)| *created == place.0 && id.ends_with(&*place.1));
                same.cloned().map_or_else(|| Bound::Excluded((place.0, "\u{10ffff}".into())), Bound::Excluded)
            }
        };
        let mut living = ages
            .range((start, Bound::Unbounded))
            .filter_map(|age| state.tasks.get(&age.1).filter(|kept| kept.expires_ms > now).map(|kept| (age, kept)));
        let mut page = Vec::new();
        let mut last = None;
        for (age, kept) in living.by_ref().take(size) {
            page.push((Arc::clone(&age.1), kept.entry.clone()));
            last = Some(Place(age.0, tail(&age.1).into()));
        }
        let next = living.next().is_some().then_some(last).flatten();
        (page, next)
    }

    /// Reads an owner's stored tasks, once. Waits a moment at most; what is late is there the next time.
    pub(crate) async fn recall(&self, owner: &str, bounds: Bounds) {
        if self.state().recalled.contains(owner) {
            return;
        }
        let stored = match tokio::time::timeout(LOAD_TIME, self.store.tasks_of(owner, bounds.max_per_owner)).await {
            Ok(Ok(stored)) => stored,
            Ok(Err(error)) => return tracing::warn!(%error, "the stored tasks of a caller cannot be read"),
            Err(_) => return tracing::warn!("the store is too slow to tell of a caller's tasks"),
        };
        let mut state = self.state();
        if state.recalled.len() >= bounds.max {
            state.recalled.clear();
        }
        state.recalled.insert(owner.into());
        for record in stored {
            let room = state.tasks.len() < bounds.max
                && state.by_owner.get(owner).is_none_or(|ages| ages.len() < bounds.max_per_owner);
            if !room || state.tasks.contains_key(&*record.id) {
                continue;
            }
            let Some(entry) = Entry::from_body(&record.body) else { continue };
            let kept =
                Kept { entry, owner: owner.into(), created_ms: record.created_ms, expires_ms: record.expires_ms };
            state.insert(record.id.into(), kept);
        }
    }

    /// Forgets what is over.
    pub(crate) fn sweep(&self) {
        let now = self.now_ms();
        let mut state = self.state();
        let over: Vec<_> =
            state.tasks.iter().filter(|(_, kept)| kept.expires_ms <= now).map(|(id, _)| Arc::clone(id)).collect();
        for id in over {
            // The store sweeps for itself.
            state.remove(&id);
        }
    }

    /// How many tasks are remembered.
    pub(crate) fn len(&self) -> usize {
        self.state().tasks.len()
    }
}

/// Where a page ended: when its last task began, and the end of that task's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(u64, Box<str>);

impl Place {
    pub(crate) fn to_text(&self) -> String {
        format!("t.{:x}.{}", self.0, self.1)
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (created, tail) = text.strip_prefix("t.")?.split_once('.')?;
        Some(Self(u64::from_str_radix(created, 16).ok()?, tail.into()))
    }
}

/// Enough of an id to tell it from others, not enough to use it.
fn tail(id: &str) -> &str {
    id.get(id.len().saturating_sub(12)..).unwrap_or(id)
}

/// The object, or what identifies it where it is long.
fn short(id: &str, view: &str) -> Arc<str> {
    if view.len() <= MAX_VIEW { view.into() } else { format!("{{{}}}", object::bare(view, id)).into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_core::ports::{BoxFuture, StoreError};

    #[derive(Default)]
    struct Memory(Mutex<HashMap<String, TaskRecord>>);

    impl TaskStore for Memory {
        fn tasks_of<'a>(&'a self, owner: &'a str, max: usize) -> BoxFuture<'a, Result<Vec<TaskRecord>, StoreError>> {
            let mut found: Vec<_> =
                self.0.lock().unwrap().values().filter(|record| record.owner == owner).cloned().collect();
            found.sort_by_key(|record| record.created_ms);
            found.drain(..found.len().saturating_sub(max));
            Box::pin(async { Ok(found) })
        }
        fn note(&self, record: TaskRecord) {
            self.0.lock().unwrap().insert(record.id.clone(), record);
        }
        fn remove(&self, id: &str) {
            self.0.lock().unwrap().remove(id);
        }
    }

    const BOUNDS: Bounds = Bounds { max: 5, max_per_owner: 3, ttl_ms: 1_000 };

    fn entry(own: &str) -> Entry {
        let view = format!("{{\"taskId\":\"w\",\"status\":\"working\",\"own\":\"{own}\"}}").into();
        Entry {
            server: "s".into(),
            own: own.into(),
            view,
            outcome: None,
            cancelled: false,
            link: Some(1),
            progress: None,
        }
    }

    fn ids(table: &Table, owner: &str) -> Vec<String> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let (page, next) = table.page(owner, after.as_ref(), 2);
            all.extend(page.into_iter().map(|(id, _)| id.to_string()));
            let Some(next) = next else { return all };
            after = Place::from_text(&next.to_text());
            assert_eq!(after.as_ref(), Some(&next));
        }
    }

    #[tokio::test]
    async fn the_oldest_make_room_and_time_ends_all() {
        let (store, clock) = (Arc::new(Memory::default()), Clock::manual(1_000));
        let table = Table::new(Arc::<Memory>::clone(&store), clock.clone());
        for number in 0..4 {
            table.note(&format!("ann-{number}"), "ann", entry(&number.to_string()), None, BOUNDS);
        }
        assert_eq!(ids(&table, "ann"), ["ann-1", "ann-2", "ann-3"], "one more than a caller may have");
        assert_eq!(table.of_link("s", "0", 1), None);
        assert_eq!(&*table.of_link("s", "2", 1).unwrap().0, "ann-2");
        clock.advance(Duration::from_millis(1));
        for number in 0..3 {
            table.note(&format!("bob-{number}"), "bob", entry("x"), Some(10), BOUNDS);
        }
        assert_eq!(table.len(), 5);
        assert_eq!(ids(&table, "ann"), ["ann-2", "ann-3"]);
        assert_eq!(ids(&table, "bob"), ["bob-0", "bob-1", "bob-2"]);
        assert_eq!(ids(&table, "eve"), [""; 0]);
        assert_eq!(store.0.lock().unwrap().len(), 5, "what is forgotten is forgotten by the store too");
        clock.advance(Duration::from_millis(10));
        assert!(table.get("bob-0").is_none() && ids(&table, "bob").is_empty(), "a shorter time to live counts");
        assert!(table.get("ann-2").is_some());
        clock.advance(Duration::from_millis(1_000));
        table.sweep();
        let state = table.state();
        assert!(state.tasks.is_empty() && state.by_age.is_empty());
        assert!(state.by_own.is_empty() && state.by_owner.is_empty());
    }

    #[test]
    fn a_servers_name_for_a_task_is_good_on_its_link_alone() {
        let table = Table::new(Arc::<Memory>::default(), Clock::manual(1_000));
        let made = |id: &str, owner: &str, link| {
            table.note(id, owner, Entry { link: Some(link), ..entry("1") }, None, BOUNDS);
        };
        made("a", "ann", 7);
        made("b", "bob", 8);
        let of_link = |link| table.of_link("s", "1", link).map(|(id, owner)| (id.to_string(), owner.to_string()));
        assert_eq!(of_link(7), Some(("a".into(), "ann".into())));
        assert_eq!(of_link(8), Some(("b".into(), "bob".into())));
        assert_eq!(of_link(9), None);
        assert_eq!(table.of_owner("s", "1", "ann").as_deref(), Some("a"));
        assert_eq!(table.of_owner("s", "1", "eve"), None);
        made("c", "ann", 9);
        assert_eq!(table.of_owner("s", "1", "ann"), None, "it could be either");
        assert_eq!(of_link(9), Some(("c".into(), "ann".into())));
    }

    #[tokio::test]
    async fn an_owner_finds_its_tasks_again_after_a_restart() {
        let (store, clock) = (Arc::new(Memory::default()), Clock::manual(1_000));
        let table = Table::new(Arc::<Memory>::clone(&store), clock.clone());
        let kept = |size: usize| Entry {
            own: "".into(),
            outcome: Some(Outcome::Result(format!("\"{}\"", "x".repeat(size)).into())),
            ..entry("")
        };
        table.note("a", "ann", entry("1"), None, BOUNDS);
        table.note("b", "ann", kept(10), None, BOUNDS);
        table.note("c", "ann", kept(MAX_STORED_RESULT), None, BOUNDS);
        table.cancelled("a", &entry("1").view);
        let table = Table::new(store, clock);
        assert!(table.get("a").is_none());
        table.recall("eve", BOUNDS).await;
        assert!(table.get("a").is_none(), "read by owner");
        table.recall("ann", BOUNDS).await;
        let found = table.get("a").unwrap();
        assert!(found.cancelled && Status::of(&found.view) == Status::Cancelled);
        assert_eq!(table.of_link("s", "1", 1), None, "the link is gone, and another may have a task of that name");
        assert!(matches!(table.get("b").unwrap().outcome, Some(Outcome::Result(raw)) if raw.len() == 12));
        assert!(matches!(table.get("c").unwrap().outcome, Some(Outcome::Lost)));
        assert_eq!(ids(&table, "ann"), ["a", "b", "c"]);
    }
}
