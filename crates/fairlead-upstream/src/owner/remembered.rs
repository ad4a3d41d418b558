//! What clients had told a server about their sessions with it, and every new link must be told again.
//!
//! It lives beside the owner, not in it: when a changed configuration puts another owner in its place,
//! that one begins with what this one knew.

use crate::{
    catalog,
    handle::Memory,
    link::{Link, LinkKey},
};
use fairlead_wire::message;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::time::Instant;

/// Links whose log level or subscriptions are remembered at most.
const MAX_KEYS: usize = 10_000;
/// Subscriptions remembered per key.
const MAX_SUBSCRIPTIONS: usize = 10_000;
/// The log levels of the protocol, the most talkative first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Where a level stands, 0 the most talkative; unknown ones say least.
pub(crate) fn rank(level: &str) -> usize {
    LEVELS.iter().position(|known| *known == level).unwrap_or(LEVELS.len())
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Kept>);

#[derive(Debug, Default, Clone)]
struct Kept {
    levels: HashMap<LinkKey, Box<str>>,
    subscriptions: HashMap<LinkKey, HashSet<Arc<str>>>,
}

impl Remembered {
    /// The same for the owner that comes next.
    pub(crate) fn handed_on(&self) -> Self {
        Self(Mutex::new(self.kept().clone()))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("invariant: no panic under this lock")
    }

    /// Notes what a client told. When there is too much of it, only what concerns links that are open stays.
    pub(crate) fn note(&self, memory: Memory, is_open: impl Fn(&LinkKey) -> bool) {
        let mut kept = self.kept();
        if kept.levels.len() + kept.subscriptions.len() >= MAX_KEYS {
            kept.levels.retain(|key, _| is_open(key));
            kept.subscriptions.retain(|key, _| is_open(key));
        }
        match memory {
            Memory::LogLevel { key, level } => {
                kept.levels.insert(key, level);
            }
            Memory::Subscribed { key, uri } => {
                let uris = kept.subscriptions.entry(key).or_default();
                if uris.len() < MAX_SUBSCRIPTIONS {
                    uris.insert(uri);
                }
            }
            Memory::Unsubscribed { key, uri } => {
                let is_last = kept.subscriptions.get_mut(&key).is_some_and(|uris| {
                    uris.remove(&uri);
                    uris.is_empty()
                });
                if is_last {
                    kept.subscriptions.remove(&key);
                }
            }
        }
    }

    /// The more talkative of `level` and what the server was told for any link.
    pub(crate) fn loudest(&self, level: &str) -> Box<str> {
        let kept = self.kept();
        let told = kept.levels.values().map(|told| &**told);
        told.chain([level]).min_by_key(|level| rank(level)).unwrap_or(level).into()
    }

    /// Whether somebody waits for updates over links of this key.
    pub(crate) fn has_subscriptions(&self, key: &LinkKey) -> bool {
        self.kept().subscriptions.contains_key(key)
    }

    /// Tells a new link. `None` when there is nothing to tell.
    pub(crate) fn tell(&self, link: &Arc<Link>, deadline: Instant) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (level, uris) = {
            let kept = self.kept();
            let uris: Vec<_> = kept.subscriptions.get(link.key()).into_iter().flatten().cloned().collect();
            (kept.levels.get(link.key()).cloned(), uris)
        };
        if level.is_none() && uris.is_empty() {
            return None;
        }
        let link = Arc::clone(link);
        Some(async move {
            if let Some(level) = level {
                let params = format!("{{\"level\":{}}}", message::quote(&level));
                let _ = catalog::ask(&link, "logging/setLevel", Some(&params), deadline).await;
            }
            for uri in uris {
                let params = format!("{{\"uri\":{}}}", message::quote(&uri));
                if catalog::ask(&link, "resources/subscribe", Some(&params), deadline).await.is_err() {
                    break;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::CapabilitySet;

    #[test]
    fn the_loudest_level_counts_and_the_next_owner_knows_it() {
        let remembered = Remembered::default();
        let key = LinkKey::legacy(CapabilitySet::BARE);
        assert_eq!(&*remembered.loudest("error"), "error");
        remembered.note(Memory::LogLevel { key: key.clone(), level: "info".into() }, |_| true);
        let next = remembered.handed_on();
        for (asked, told) in [("error", "info"), ("debug", "debug"), ("info", "info"), ("loud", "info")] {
            assert_eq!(&*next.loudest(asked), told);
        }
    }

    #[test]
    fn what_is_unsubscribed_leaves_nothing() {
        let remembered = Remembered::default();
        let key = LinkKey::legacy(CapabilitySet::BARE);
        remembered.note(Memory::Subscribed { key: key.clone(), uri: "a:b".into() }, |_| true);
        remembered.note(Memory::Unsubscribed { key, uri: "a:b".into() }, |_| true);
        assert!(remembered.kept().subscriptions.is_empty());
    }
}
