//! Reload: on a signal, and when a file of the configuration changes.
//!
//! The certificate of the listener and its key belong to the configuration here, as what they hold is read with it.
//!
//! Directories are watched, not files: editors replace files, and a mounted configuration is a link
//! that is swapped. What counts is the content, so an event that changed none is no reload, and our
//! own reading cannot cause another one. A configuration that is not valid changes nothing.

use crate::{
    configuration::{self, Origin},
    failure::chain,
    wiring::House,
};
use fairlead_config::{Config, LogFormat, Severity};
use fairlead_observe::logging::{LOG_VARIABLE, LogControl};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind};
use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time};

/// Changes that come within this time of each other are one.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How long a burst of changes may put a reload off.
const MAX_DEBOUNCE: Duration = Duration::from_secs(2);

/// Watches the files of a configuration.
pub(crate) struct Watch {
    /// Those of the configuration itself.
    files: Vec<PathBuf>,
    /// Those the configuration in force refers to.
    referred: Vec<PathBuf>,
    seen: u64,
    events: mpsc::Receiver<()>,
    /// Watching ends when it is dropped.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Watch {
    /// Begins to watch. Where the system cannot, that is logged: a signal still reloads.
    pub(crate) fn new(files: &[PathBuf]) -> Self {
        // One waiting event says as much as many.
        let (sender, events) = mpsc::channel(1);
        let started = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let silent = |kind: &EventKind| {
                // Reading, ours too.
                matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(notify::event::AccessMode::Write)))
            };
            if event.is_ok_and(|event| silent(&event.kind)) {
                return;
            }
            let _ = sender.try_send(());
        });
        let watcher = started.inspect_err(cannot_watch).ok();
        let mut watch =
            Self { files: files.to_vec(), referred: Vec::new(), seen: 0, events, watcher, watched: BTreeSet::new() };
        watch.look_at(files);
        watch.refresh();
        watch
    }

    /// Watches what `config` refers to as well, instead of what another one did.
    pub(crate) fn follow(&mut self, config: &Config) {
        let referred: Vec<PathBuf> = config.listen.tls.iter().flat_map(|tls| tls.files.clone()).collect();
        if referred != self.referred {
            self.look_at(&referred);
            // What they hold has just been read.
            self.referred = referred;
            self.refresh();
        }
    }

    fn look_at(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        for directory in directories(files) {
            if self.watched.contains(&directory) {
                continue;
            }
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.watched.insert(directory),
                Err(error) => cannot_watch(&error),
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().chain(&self.referred)
    }

    /// Returns when the content of a file differs from what was seen last. Never returns without a watcher.
    pub(crate) async fn changed(&mut self) {
        loop {
            if self.events.recv().await.is_none() {
                return std::future::pending().await;
            }
            let until = time::Instant::now() + MAX_DEBOUNCE;
            while time::Instant::now() < until
                && matches!(time::timeout(DEBOUNCE, self.events.recv()).await, Ok(Some(())))
            {}
            if self.any_is_empty() {
                // Whoever writes a file in place empties it first: what comes next is waited for, before it is taken
                // for a configuration without servers.
                let _ = time::timeout(MAX_DEBOUNCE, self.events.recv()).await;
                time::sleep(DEBOUNCE).await;
            }
            if self.refresh() {
                return;
            }
        }
    }

    fn any_is_empty(&self) -> bool {
        self.all().any(|file| std::fs::metadata(file).is_ok_and(|file| file.len() == 0))
    }

    /// Takes the present content as seen; says whether it differs from before.
    pub(crate) fn refresh(&mut self) -> bool {
        let now = fingerprint(self.all());
        std::mem::replace(&mut self.seen, now) != now
    }
}

fn cannot_watch(error: &notify::Error) {
    tracing::warn!(%error, "cannot watch the configuration; SIGHUP still reloads it");
}

/// The directories the files stand in, and those their links lead to.
fn directories(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    files
        .iter()
        .flat_map(|file| [std::path::absolute(file).ok(), file.canonicalize().ok()])
        .flatten()
        .filter_map(|file| parent(&file))
        .collect()
}

/// A number that differs when the content of a file does. A file that cannot be read has a content of its own.
fn fingerprint<'a>(files: impl Iterator<Item = &'a PathBuf>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// Loads the configuration again and applies what differs.
pub(crate) async fn reload(house: &House, origin: &Origin, log: &LogControl) {
    let from = origin.clone();
    let loaded = tokio::task::spawn_blocking(move || from.load()).await;
    let config = match loaded {
        Ok(Ok(config)) => config,
        Ok(Err(problems)) => {
            if house.gateway.config().log.format == LogFormat::Text {
                eprint!("{}", configuration::render(&problems));
            } else {
                for problem in problems.iter().filter(|problem| problem.severity == Severity::Error) {
                    tracing::error!(%problem, "a problem of the configuration");
                }
            }
            tracing::error!(code = "FL-1401", "the new configuration is not valid: nothing was changed");
            return;
        }
        Err(error) => {
            tracing::error!(%error, "the configuration was not read: nothing was changed");
            return;
        }
    };
    for warning in &config.warnings {
        tracing::warn!(%warning, "a warning about the configuration");
    }
    // What the environment says wins, now as at the start.
    if configuration::environment(LOG_VARIABLE).is_none_or(|level| level.is_empty())
        && config.log.level != house.gateway.config().log.level
        && let Err(error) = log.set_level(&config.log.level)
    {
        tracing::warn!(error = chain(&error), "the log level stays as it was");
    }
    let spoke_tls = house.gateway.config().listen.tls.is_some();
    let applied = house.gateway.apply(Arc::new(config)).await;
    if spoke_tls != house.gateway.config().listen.tls.is_some() && house.publish().is_err() {
        tracing::warn!("commands do not learn that the URL of the gateway is another one now");
    }
    let names =
        |names: &[fairlead_core::ServerName]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    tracing::info!(
        added = names(&applied.added),
        removed = names(&applied.removed),
        changed = names(&applied.changed),
        unchanged = applied.unchanged,
        "the configuration was applied"
    );
    if !applied.needs_restart.is_empty() {
        tracing::warn!(keys = applied.needs_restart.join(", "), "these settings take effect at the next start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_of_content_is_seen_and_nothing_else_is() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("fairlead.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&file));
        let quiet = Duration::from_millis(800);

        std::fs::read(&file).unwrap();
        std::fs::write(temp.path().join("other.yaml"), "x").unwrap();
        std::fs::write(&file, "a").unwrap();
        assert!(time::timeout(quiet, watch.changed()).await.is_err(), "the content is the same");

        // The way editors write.
        std::fs::write(temp.path().join("new"), "b").unwrap();
        std::fs::rename(temp.path().join("new"), &file).unwrap();
        time::timeout(Duration::from_secs(5), watch.changed()).await.expect("the file was replaced");
        assert!(time::timeout(quiet, watch.changed()).await.is_err(), "it was replaced once");

        // The way programs write that do not replace: empty first.
        std::fs::write(&file, "").unwrap();
        let writing = async {
            time::sleep(Duration::from_millis(600)).await;
            std::fs::write(&file, "c").unwrap();
        };
        let seen = async {
            time::timeout(Duration::from_secs(5), watch.changed()).await.expect("it was written");
            std::fs::read_to_string(&file).unwrap()
        };
        assert_eq!(tokio::join!(writing, seen).1, "c", "it is not taken while it is empty");
        std::fs::write(&file, "").unwrap();
        time::timeout(Duration::from_secs(5), watch.changed()).await.expect("one that stays empty counts");
    }
}
