//! The three runs: the tagged suite, and the newer one with the frozen requirements of each era.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::results::Results;
use crate::{
    process,
    tools::{CONFORMANCE_NEW, CONFORMANCE_OLD, Cache, NODE22},
};

/// How long one suite may take. A scenario that hangs is given up by the suite after 30 s.
const SUITE_LIMIT: Duration = Duration::from_secs(300);

/// A suite with the requirements it is run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// 0.1.16, all server scenarios, legacy era.
    Old,
    /// 0.2, the requirements of 2025-11-25.
    New2025,
    /// 0.2, the requirements of 2026-07-28.
    New2026,
}

impl Suite {
    /// Every suite.
    pub(crate) const ALL: [Self; 3] = [Self::Old, Self::New2025, Self::New2026];

    /// The name on the command line and in the file of expected failures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New2025 => "new-2025",
            Self::New2026 => "new-2026",
        }
    }

    /// The suite called `name`.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|suite| suite.name() == name)
            .with_context(|| format!("no such suite: {name} (there are old, new-2025, new-2026)"))
    }

    /// The revision whose requirements it is run with.
    pub(crate) fn revision(self) -> Option<&'static str> {
        match self {
            Self::Old => None,
            Self::New2025 => Some("2025-11-25"),
            Self::New2026 => Some("2026-07-28"),
        }
    }

    fn group(self) -> &'static str {
        match self {
            Self::Old => CONFORMANCE_OLD,
            Self::New2025 | Self::New2026 => CONFORMANCE_NEW,
        }
    }

    fn selection(self) -> [&'static str; 2] {
        self.revision().map_or(["--suite", "all"], |revision| ["--requirements", revision])
    }

    /// How many scenarios the locked version has: fewer means that it stopped in the middle.
    fn scenarios(self) -> usize {
        match self {
            Self::Old => 32,
            Self::New2025 => 33,
            Self::New2026 => 50,
        }
    }

    pub(super) fn program(self, cache: &Cache) -> PathBuf {
        cache.path(&format!("{}/node_modules/.bin/conformance", self.group()))
    }

    /// Fails when what the suite needs is not installed.
    pub(crate) fn available(self, cache: &Cache) -> Result<()> {
        for needed in [node(cache), self.program(cache)] {
            if !needed.exists() {
                bail!("{} is not there; `cargo xtask tools` installs it", needed.display());
            }
        }
        Ok(())
    }

    /// Runs the suite against `url`. Fails when it cannot run, not when scenarios fail.
    pub(crate) fn run(self, cache: &Cache, url: &str) -> Result<Results> {
        self.available(cache)?;
        let scratch = Scratch::new(cache, self.name())?;
        let log = scratch.path.join("log.txt");
        // The exit status only repeats that a scenario failed; the results say which.
        process::run_to_end(
            self.name(),
            Command::new(node(cache))
                .arg(self.program(cache))
                .args(["server", "--url", url, "--output-dir", "results"])
                .args(self.selection())
                .current_dir(&scratch.path),
            &log,
            SUITE_LIMIT,
        )?;
        let results = Results::read(&scratch.path.join("results"))
            .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        if results.scenarios() < self.scenarios() {
            let output = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("{} ran {} of {} scenarios:\n{output}", self.name(), results.scenarios(), self.scenarios());
        }
        Ok(results)
    }
}

/// The Node.js that runs the suites.
pub(super) fn node(cache: &Cache) -> PathBuf {
    cache.path(&format!("{NODE22}/bin/node"))
}

/// A directory for one run, removed afterwards.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
}

impl Scratch {
    pub(super) fn new(cache: &Cache, name: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = cache.path(&format!("run/{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind costs a few kilobytes of the cache.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
