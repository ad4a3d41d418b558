//! The official conformance suites: run one against a URL, or directly and through the gateway, and say
//! what is lost in between. What is expected to fail stands in one file that only shrinks: an entry that
//! no longer fails is a failure too.

mod expected;
mod gate;
mod results;
mod suite;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use self::{expected::Expected, results::Results, suite::Suite};
use crate::{arguments::Arguments, tools::Cache, workspace::Workspace};

/// The expected failures of the feature server and of the gateway in front of it.
const EXPECTED: &str = "tests/tools/conformance/expected.txt";

/// `cargo xtask conformance`.
pub(crate) fn run(workspace: &Workspace, mut arguments: Arguments) -> Result<()> {
    let cache = Cache::of(workspace);
    if arguments.flag("--gate") {
        let only = arguments.option("--only")?.map(|name| Suite::parse(&name)).transpose()?;
        arguments.end()?;
        return gate(workspace, only);
    }
    let url = arguments.option("--url")?.context("--url URL (or --gate) is needed")?;
    let suite = Suite::parse(&arguments.option("--suite")?.context("--suite old|new-2025|new-2026 is needed")?)?;
    let through = arguments.option("--through")?;
    let expected = match arguments.option("--expected")? {
        Some(file) => Expected::load(&PathBuf::from(file))?,
        None => Expected::default(),
    };
    arguments.end()?;
    let direct = suite.run(&cache, &url)?;
    let Some(through) = through else {
        println!("{}", direct.to_json(suite.name(), &url));
        return report(suite, expected.judge_direct(suite.name(), &direct));
    };
    let through = suite.run(&cache, &through)?;
    let mut complaints = expected.judge_direct(suite.name(), &direct);
    complaints.extend(expected.judge_lost(suite.name(), &direct, &through));
    summarise(suite, &direct, &through);
    report(suite, complaints)
}

/// Whether the suites are installed.
pub(crate) fn available(cache: &Cache) -> Result<()> {
    Suite::ALL.into_iter().try_for_each(|suite| suite.available(cache))
}

/// Starts the feature server and a gateway in front of it and compares all suites (or one).
pub(crate) fn gate(workspace: &Workspace, only: Option<Suite>) -> Result<()> {
    let cache = Cache::of(workspace);
    let expected = Expected::load(&workspace.path(EXPECTED))?;
    let mut failed = Vec::new();
    for suite in Suite::ALL.into_iter().filter(|suite| only.is_none_or(|only| only == *suite)) {
        // Each suite gets fresh processes: one leaves watched resources and closed sessions behind.
        let mut processes = gate::Processes::start(workspace, suite.name())?;
        let direct = suite.run(&cache, &processes.direct_url())?;
        let through = suite.run(&cache, &processes.through_url())?;
        processes.still_alive()?;
        summarise(suite, &direct, &through);
        let mut complaints = expected.judge_direct(suite.name(), &direct);
        complaints.extend(expected.judge_lost(suite.name(), &direct, &through));
        if let Err(error) = report(suite, complaints) {
            eprintln!("{error:#}");
            failed.push(suite.name());
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("conformance: {}", failed.join(", ")) }
}

fn summarise(suite: Suite, direct: &Results, through: &Results) {
    eprintln!(
        "{:<9} direct {}/{} scenarios, through the gateway {}/{}",
        suite.name(),
        direct.passed(),
        direct.scenarios(),
        through.passed(),
        through.scenarios(),
    );
}

fn report(suite: Suite, complaints: Vec<String>) -> Result<()> {
    for complaint in &complaints {
        eprintln!("{}: {complaint}", suite.name());
    }
    if complaints.is_empty() { Ok(()) } else { bail!("{}: {} to put right", suite.name(), complaints.len()) }
}
