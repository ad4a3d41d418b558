//! The official conformance suites: run one against a URL, or directly and through the gateway, and say
//! what is lost in between; or have one look at the gateway as a client. What is expected to fail stands in one file that only shrinks: an entry that
//! no longer fails is a failure too.

mod client;
mod expected;
mod gate;
mod requirements;
mod results;
mod suite;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use self::{
    expected::Expected,
    gate::{Processes, Upstream},
    results::Results,
    suite::Suite,
};
use crate::{arguments::Arguments, tools::Cache, workspace::Workspace};

/// The expected failures of the feature server and of the gateway in front of it.
const EXPECTED: &str = "tests/tools/conformance/expected.txt";

/// How many scenarios pass in a cell through the gateway, of those that its revision requires (of `old`, of all).
const LEAST: [(&str, usize); 5] =
    [("old", 32), ("new-2025", 30), ("new-2025-across", 30), ("new-2026", 37), ("new-2026-across", 30)];

/// How much the gate runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    /// Each suite with a server of its own era behind the gateway, and the client side.
    Usual,
    /// Also each era's requirements with a server of the other era behind the gateway.
    Full,
}

/// `cargo xtask conformance`.
pub(crate) fn run(workspace: &Workspace, mut arguments: Arguments) -> Result<()> {
    let cache = Cache::of(workspace);
    if arguments.flag("--gate") {
        let depth = if arguments.flag("--full") { Depth::Full } else { Depth::Usual };
        let only = arguments.option("--only")?;
        arguments.end()?;
        return gate(workspace, depth, only.as_deref());
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
    eprintln!("{}", summary(&cache, suite.name(), suite, &direct, &through)?.0);
    report(suite, complaints)
}

/// Whether the suites are installed.
pub(crate) fn available(cache: &Cache) -> Result<()> {
    Suite::ALL.into_iter().try_for_each(|suite| suite.available(cache))
}

/// Starts the feature server and a gateway in front of it and runs every cell (or the one called `only`).
pub(crate) fn gate(workspace: &Workspace, depth: Depth, only: Option<&str>) -> Result<()> {
    let cache = Cache::of(workspace);
    let expected = Expected::load_own(&workspace.path(EXPECTED))?;
    let mut failed = Vec::new();
    let mut known = Vec::new();
    let mut wanted = |name: &str| {
        known.push(name.to_owned());
        only.is_none_or(|only| only == name)
    };
    for suite in Suite::ALL {
        let cells: Vec<(Upstream, String)> = Upstream::ALL
            .into_iter()
            .filter(|upstream| upstream.depth() <= depth || only.is_some())
            .filter_map(|upstream| Some((upstream, cell_name(suite, upstream)?)))
            .filter(|(_, name)| wanted(name))
            .collect();
        let mut direct = None;
        for (upstream, name) in cells {
            // Each cell gets fresh processes: a run leaves watched resources and closed sessions behind.
            let mut processes = Processes::start(workspace, &name, upstream.revision(suite))?;
            let direct = match &mut direct {
                Some(direct) => direct,
                none => none.insert(suite.run(&cache, &processes.direct_url())?),
            };
            let through = suite.run(&cache, &processes.through_url())?;
            processes.still_alive()?;
            let (line, too_few) = summary(&cache, &name, suite, direct, &through)?;
            eprintln!("{line}");
            // What the server itself fails is said once.
            let mut complaints = match upstream {
                Upstream::Same => expected.judge_direct(suite.name(), direct),
                Upstream::Across => Vec::new(),
            };
            complaints.extend(expected.judge_lost(&name, direct, &through));
            complaints.extend(too_few);
            note(&mut failed, &name, complaints);
        }
    }
    for revision in client::REVISIONS {
        let name = client::name(revision);
        if wanted(&name) {
            let results = client::run(workspace, &cache, revision)?;
            eprintln!("{name:<18} the gateway as the client {}/{}", results.passed(), results.scenarios());
            let mut complaints = expected.judge_direct(&name, &results);
            let unchecked = results.iter().filter(|(_, checks)| checks.is_empty());
            complaints.extend(unchecked.map(|(scenario, _)| format!("{scenario} checked nothing")));
            note(&mut failed, &name, complaints);
        }
    }
    if let Some(only) = only.filter(|only| !known.iter().any(|name| name == only)) {
        bail!("there is no `{only}`; there are {}", known.join(", "));
    }
    if failed.is_empty() { Ok(()) } else { bail!("conformance: {}", failed.join(", ")) }
}

/// The name of a cell; `None` where there is no such cell.
fn cell_name(suite: Suite, upstream: Upstream) -> Option<String> {
    match upstream {
        Upstream::Same => Some(suite.name().to_owned()),
        Upstream::Across => suite.revision().map(|_| format!("{}-across", suite.name())),
    }
}

fn note(failed: &mut Vec<String>, name: &str, complaints: Vec<String>) {
    for complaint in &complaints {
        eprintln!("{name}: {complaint}");
    }
    if !complaints.is_empty() {
        failed.push(name.to_owned());
    }
}

/// One line about a cell: what is required of its revision, and everything that ran; and a complaint when fewer of what is
/// required passed through the gateway than did before, as when they did not run.
fn summary(
    cache: &Cache,
    name: &str,
    suite: Suite,
    direct: &Results,
    through: &Results,
) -> Result<(String, Option<String>)> {
    let all = format!(
        "all scenarios: directly {}/{}, through the gateway {}/{}",
        direct.passed(),
        direct.scenarios(),
        through.passed(),
        through.scenarios()
    );
    let least = LEAST.iter().find(|(cell, _)| *cell == name).map_or(0, |(_, least)| *least);
    let too_few = |passed: usize| {
        (passed < least).then(|| format!("only {passed} scenarios pass through the gateway, and {least} did"))
    };
    let Some(revision) = suite.revision() else { return Ok((format!("{name:<18} {all}"), too_few(through.passed()))) };
    let required = requirements::required(cache, revision, "server")?;
    let of = |results: &Results| required.iter().filter(|name| results.get(name).is_some_and(results::passes)).count();
    let passed = of(through);
    let line = format!(
        "{name:<18} required: directly {}/{count}, through the gateway {passed}/{count}; {all}",
        of(direct),
        count = required.len()
    );
    Ok((line, too_few(passed)))
}

fn report(suite: Suite, complaints: Vec<String>) -> Result<()> {
    for complaint in &complaints {
        eprintln!("{}: {complaint}", suite.name());
    }
    if complaints.is_empty() { Ok(()) } else { bail!("{}: {} to put right", suite.name(), complaints.len()) }
}
