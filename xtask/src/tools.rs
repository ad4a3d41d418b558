//! The cache of test tools: MCP servers, clients and conformance suites that are not ours, from their
//! package indexes, at the versions of the lock files under `tests/tools/`. Nothing is installed for the
//! whole machine and nothing needs root.
//!
//! The cache holds one directory per group, `<cache>/<group>`; a file in it names the fingerprint of the
//! lock file it was made from, so a second run does nothing and a changed lock installs anew. What cannot
//! be had is a printed skip for a person and a failure in CI.

mod group;
mod install;

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};

pub(crate) use self::group::Need;
pub(crate) use self::group::{CONFORMANCE_NEW, CONFORMANCE_OLD, NODE22};
use self::group::{GROUPS, Group};
use crate::{arguments::Arguments, workspace::Workspace};

/// Where the cache is, if not in the checkout.
const CACHE_VARIABLE: &str = "FAIRLEAD_CACHE";
/// What tells the tests where the cache is. Unset, they skip what needs it.
pub(crate) const TOOLS_VARIABLE: &str = "FAIRLEAD_TOOLS";

/// The cache of one checkout.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
    locks: PathBuf,
}

/// What came of installing a group.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was there.
    UpToDate,
    /// It was installed.
    Installed,
    /// It cannot be had here.
    Missing(anyhow::Error),
}

impl Cache {
    /// The cache of `workspace`, or the one the environment names.
    pub(crate) fn of(workspace: &Workspace) -> Self {
        let root = match std::env::var_os(CACHE_VARIABLE) {
            Some(directory) => workspace.root().join(directory),
            None => workspace.path(".cache/tools"),
        };
        Self { root, locks: workspace.path("tests/tools") }
    }

    /// The directory that the tests are told.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of `group`.
    pub(crate) fn group(&self, group: &Group) -> PathBuf {
        self.root.join(group.name)
    }

    /// A file inside the cache.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }
}

/// Whether this run is a machine's: there, what is skipped for a person is a failure.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// `cargo xtask tools`.
pub(crate) fn run(workspace: &Workspace, mut arguments: Arguments) -> Result<()> {
    let only = arguments.option("--only")?;
    let show = arguments.flag("--env");
    let all = arguments.flag("--all");
    arguments.end()?;
    let cache = Cache::of(workspace);
    let need = if all { Need::Full } else { Need::Usual };
    install(&cache, only.as_deref(), need)?;
    if show {
        print!("{}", environment(&cache));
    }
    Ok(())
}

/// Installs every group that a run of this kind needs (or `only` one). Fails in CI when one cannot be had.
pub(crate) fn install(cache: &Cache, only: Option<&str>, need: Need) -> Result<()> {
    let is_chosen = |group: &&Group| match only {
        Some(name) => name == group.name,
        None => group.need == Need::Usual || need == Need::Full,
    };
    let chosen: Vec<&Group> = GROUPS.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
        bail!("no such group; there are: {}", names.join(", "));
    }
    std::fs::create_dir_all(&cache.root).with_context(|| cache.root.display().to_string())?;
    // Two runs on one cache take turns.
    let lock = File::create(cache.path(".lock")).context("the cache cannot be locked")?;
    lock.lock().context("the cache cannot be locked")?;
    let mut missing = Vec::new();
    for group in chosen {
        let begin = Instant::now();
        match install::ensure(cache, group) {
            Outcome::UpToDate => eprintln!("{:<22} up to date", group.name),
            Outcome::Installed => eprintln!("{:<22} installed in {:.1} s", group.name, begin.elapsed().as_secs_f64()),
            Outcome::Missing(error) => {
                eprintln!("{:<22} SKIPPED: {error:#}", group.name);
                missing.push(group.name);
            }
        }
    }
    if !missing.is_empty() && in_ci() {
        bail!("in CI every tool must be there; missing: {}", missing.join(", "));
    }
    Ok(())
}

/// The groups of the usual run that are not installed.
pub(crate) fn missing(cache: &Cache) -> Vec<&'static str> {
    let usual = GROUPS.iter().filter(|group| group.need == Need::Usual);
    usual.filter(|group| !install::is_installed(cache, group)).map(|group| group.name).collect()
}

/// `NAME=path` lines for what is installed.
fn environment(cache: &Cache) -> String {
    let mut lines = format!("{TOOLS_VARIABLE}={}\n", cache.root.display());
    for group in GROUPS.iter().filter(|group| install::is_installed(cache, group)) {
        for (variable, path) in group.provides {
            lines.push_str(&format!("{variable}={}\n", cache.group(group).join(path).display()));
        }
    }
    lines
}
