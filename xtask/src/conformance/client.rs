//! The client side of the suite, with the gateway as the client: `conformance-client` starts a gateway whose one
//! server is the suite's, and uses everything through it. What concerns authorization is left out.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    gate, requirements,
    results::Results,
    suite::{Scratch, Suite, node},
};
use crate::{process, tools::Cache, workspace::Workspace};

/// The revisions whose requirements are checked.
pub(super) const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];
/// Scenarios that came after the requirements were frozen, and are checked too.
const LATER: [&str; 1] = ["json-schema-2020-12-preservation"];
/// Scenarios that need OAuth towards servers.
const AUTHORIZATION: &str = "auth/";
/// How long one scenario may take.
const SCENARIO_LIMIT: Duration = Duration::from_secs(90);

/// The name in the file of expected failures.
pub(super) fn name(revision: &str) -> String {
    format!("client-{}", revision.split('-').next().unwrap_or(revision))
}

/// Runs every scenario that `revision` requires of clients.
pub(super) fn run(workspace: &Workspace, cache: &Cache, revision: &str) -> Result<Results> {
    let driver = workspace.target_directory().join("debug/conformance-client");
    if !driver.is_file() {
        bail!("{} is not there; `cargo build -p fairlead-testkit --bins` builds it", driver.display());
    }
    let directory = workspace.target_directory().join("conformance").join(name(revision));
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let gateway = gate::binary(workspace)?;
    let command = words(&[&driver, &gateway, &directory])?;
    let mut scenarios = requirements::required(cache, revision, "client")?;
    scenarios.retain(|scenario| !scenario.starts_with(AUTHORIZATION));
    scenarios.extend(LATER.map(str::to_owned));
    let mut results = Results::default();
    for scenario in scenarios {
        let ran = one(cache, revision, &command, &scenario).with_context(|| scenario.clone())?;
        results.merge(ran);
    }
    Ok(results)
}

/// The suite cuts the command at its spaces.
fn words(words: &[&PathBuf]) -> Result<String> {
    let texts: Vec<String> = words.iter().map(|word| word.display().to_string()).collect();
    match texts.iter().find(|text| text.contains(' ')) {
        Some(text) => bail!("the suite cannot start what has a space in its path: {text}"),
        None => Ok(texts.join(" ")),
    }
}

fn one(cache: &Cache, revision: &str, command: &str, scenario: &str) -> Result<Results> {
    let scratch = Scratch::new(cache, &format!("client-{scenario}"))?;
    let log = scratch.path.join("log.txt");
    // The exit status only repeats that a check failed; the results say which.
    process::run_to_end(
        scenario,
        Command::new(node(cache))
            .arg(Suite::New2026.program(cache))
            .args(["client", "--command", command, "--scenario", scenario, "--spec-version", revision])
            .args(["--output-dir", "results"])
            .current_dir(&scratch.path),
        &log,
        SCENARIO_LIMIT,
    )?;
    let mut results = Results::read(&scratch.path.join("results")).with_context(|| said(&log))?;
    if results.scenarios() == 0 {
        bail!("it did not run:\n{}", said(&log));
    }
    // A client that gave up in the middle may have passed every check before.
    let stderr = scratch.path.join("results");
    if let Some(error) = driver_error(&stderr)? {
        let check = serde_json::json!([{"id": "driver", "status": "FAILURE", "errorMessage": error}]);
        results.add(scenario, &check);
    }
    Ok(results)
}

fn said(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

/// What `conformance-client` wrote before it gave up.
fn driver_error(results: &Path) -> Result<Option<String>> {
    for entry in std::fs::read_dir(results)? {
        let text = std::fs::read_to_string(entry?.path().join("stderr.txt")).unwrap_or_default();
        if text.starts_with("Error:") {
            return Ok(Some(text));
        }
    }
    Ok(None)
}
