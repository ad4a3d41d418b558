//! What clients had told a server about their sessions with it, and every new link must be told again.
//!
//! It lives beside the owner, not in it: when a changed configuration puts another owner in its place,
//! that one shares what this one knew.

use crate::{
    catalog,
    handle::Memory,
    link::{Link, LinkKey},
};
use fairlead_wire::message;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::time::Instant;

/// Links whose log level is remembered at most.
const MAX_KEYS: usize = 10_000;
/// The log levels of the protocol, the most talkative first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Where a level stands, 0 the most talkative; unknown ones say least.
pub(crate) fn rank(level: &str) -> usize {
    LEVELS.iter().position(|known| *known == level).unwrap_or(LEVELS.len())
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    levels: HashMap<LinkKey, Box<str>>,
}

impl Remembered {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("invariant: no panic under this lock")
    }

    /// Notes what a client told. When there is too much of it, only what concerns links that are open stays.
    pub(crate) fn note(&self, memory: Memory, is_open: impl Fn(&LinkKey) -> bool) {
        let mut kept = self.kept();
        if kept.levels.len() >= MAX_KEYS {
            kept.levels.retain(|key, _| is_open(key));
        }
        match memory {
            Memory::LogLevel { key, level } => {
                kept.levels.insert(key, level);
            }
        }
    }

    /// The more talkative of `level` and what the server was told for any link.
    pub(crate) fn loudest(&self, level: &str) -> Box<str> {
        let kept = self.kept();
        let told = kept.levels.values().map(|told| &**told);
        told.chain([level]).min_by_key(|level| rank(level)).unwrap_or(level).into()
    }

    /// Tells a new link. `None` when there is nothing to tell.
    pub(crate) fn tell(&self, link: &Arc<Link>, deadline: Instant) -> Option<impl Future<Output = ()> + Send + use<>> {
        let level = self.kept().levels.get(link.key()).cloned()?;
        let link = Arc::clone(link);
        Some(async move {
            let params = format!("{{\"level\":{}}}", message::quote(&level));
            let _ = catalog::ask(&link, "logging/setLevel", Some(&params), deadline).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_wire::CapabilitySet;

    #[test]
    fn the_loudest_level_counts() {
        let remembered = Remembered::default();
        let key = LinkKey::legacy(CapabilitySet::BARE);
        assert_eq!(&*remembered.loudest("error"), "error");
        remembered.note(Memory::LogLevel { key: key.clone(), level: "info".into() }, |_| true);
        for (asked, told) in [("error", "info"), ("debug", "debug"), ("info", "info"), ("loud", "info")] {
            assert_eq!(&*remembered.loudest(asked), told);
        }
    }
}
