//! The stages of the tests, in an order where what is cheap and fails often comes first. Every stage runs
//! even when one before it failed, so that one run tells everything; the time of each is printed.

mod tests_run;

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use self::tests_run::Counts;
use crate::{
    arguments::Arguments,
    conformance, tidy,
    tools::{self, Cache, Need, TOOLS_VARIABLE},
    workspace::Workspace,
};

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    Quick,
    Usual,
    Full,
}

/// One stage.
struct Stage {
    name: &'static str,
    /// The least depth it belongs to.
    from: Depth,
    run: fn(&Context) -> Result<()>,
}

struct Context<'a> {
    workspace: &'a Workspace,
    cache: Cache,
    depth: Depth,
    counts: Cell<Option<Counts>>,
}

/// Tells the tests to use the clients of all frameworks, not of three.
const FRAMEWORKS_VARIABLE: &str = "FAIRLEAD_FRAMEWORKS";
/// The program that the end-to-end tests drive instead of the one they were built with.
const PROGRAM_VARIABLE: &str = "FAIRLEAD_PROGRAM";
/// How long the sessions of that stage are held, in seconds; the bench knows how long otherwise.
const SESSIONS_VARIABLE: &str = "FAIRLEAD_SESSIONS_HOLD";
/// Further arguments of the chaos run (`--seed 7 --json`).
const CHAOS_VARIABLE: &str = "FAIRLEAD_CHAOS";
/// How long the soak puts its load on, in seconds.
const SOAK_VARIABLE: &str = "FAIRLEAD_SOAK";
/// How long it does when nobody says.
const SOAK_SECONDS: &str = "600";

const STAGES: &[Stage] = &[
    Stage { name: "fmt", from: Depth::Quick, run: fmt },
    Stage { name: "tidy", from: Depth::Quick, run: tidy },
    Stage { name: "tools", from: Depth::Usual, run: tools },
    Stage { name: "clippy", from: Depth::Quick, run: clippy },
    Stage { name: "build", from: Depth::Quick, run: build },
    Stage { name: "tests", from: Depth::Quick, run: tests },
    Stage { name: "doctests", from: Depth::Usual, run: doctests },
    Stage { name: "conformance", from: Depth::Usual, run: conformance },
    Stage { name: "frameworks", from: Depth::Full, run: frameworks },
    Stage { name: "docs", from: Depth::Full, run: docs },
    Stage { name: "release", from: Depth::Full, run: release },
    Stage { name: "sessions", from: Depth::Full, run: sessions },
    Stage { name: "chaos", from: Depth::Full, run: chaos },
    Stage { name: "soak", from: Depth::Full, run: soak },
];

/// `cargo xtask test`.
pub(crate) fn run(workspace: &Workspace, mut arguments: Arguments) -> Result<()> {
    let depth = match (arguments.flag("--quick"), arguments.flag("--full")) {
        (false, false) => Depth::Usual,
        (true, false) => Depth::Quick,
        (false, true) => Depth::Full,
        (true, true) => bail!("--quick or --full, not both"),
    };
    let only = arguments.option("--stage")?;
    arguments.end()?;
    let stages: Vec<&Stage> = STAGES
        .iter()
        .filter(|stage| match &only {
            Some(name) => stage.name == name,
            None => stage.from <= depth,
        })
        .collect();
    if stages.is_empty() {
        let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        bail!("no such stage; there are: {}", names.join(", "));
    }
    let context = Context { workspace, cache: Cache::of(workspace), depth, counts: Cell::new(None) };
    let begin = Instant::now();
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for stage in stages {
        eprintln!("== {}", stage.name);
        let begin = Instant::now();
        let result = (stage.run)(&context);
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        lines.push(line(stage.name, begin.elapsed(), verdict));
        if let Err(error) = result {
            eprintln!("{}: {error:#}", stage.name);
            failed.push(stage.name);
        }
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    println!("Total {} s", begin.elapsed().as_secs());
    if let Some(counts) = context.counts.get() {
        println!("{} passed, {} failed", counts.passed, counts.failed);
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn line(name: &str, time: Duration, verdict: &str) -> String {
    format!("{name:<12} {:>7.1} s  {verdict}", time.as_secs_f64())
}

impl Context<'_> {
    /// Runs a cargo command that must succeed.
    fn cargo(&self, arguments: &[&str]) -> Result<()> {
        self.check(&mut self.workspace.cargo(arguments))
    }

    /// The end-to-end tests whose names begin so, run by `cargo test`: they show how it goes, and bound themselves.
    fn end_to_end(&self, tests: &str) -> std::process::Command {
        let target = ["test", "--locked", "--quiet", "-p", "fairlead", "--test", "e2e"];
        self.workspace.cargo(&[&target[..], &[tests, "--", "--nocapture"]].concat())
    }

    fn check(&self, command: &mut std::process::Command) -> Result<()> {
        let status = command.status()?;
        if status.success() { Ok(()) } else { bail!("{:?}: {status}", command.get_program()) }
    }
}

fn fmt(context: &Context) -> Result<()> {
    context.cargo(&["fmt", "--all", "--check"])
}

fn tidy(context: &Context) -> Result<()> {
    tidy::run(context.workspace, Arguments::none())
}

fn tools(context: &Context) -> Result<()> {
    tools::install(&context.cache, None, Need::Usual)
}

fn clippy(context: &Context) -> Result<()> {
    context.cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "--deny", "warnings"])
}

fn build(context: &Context) -> Result<()> {
    // Apart from the run, so that its time says how long the tests themselves take.
    context.cargo(&["test", "--workspace", "--locked", "--no-run", "--quiet"])?;
    // What the tests start: binaries of packages that no integration test belongs to.
    context.cargo(&["build", "--workspace", "--bins", "--locked", "--quiet"])
}

fn tests(context: &Context) -> Result<()> {
    let tools = (context.depth > Depth::Quick).then(|| context.cache.root());
    // A test that passes shows nothing, its own words about what it skips included.
    let missing = tools::missing(&context.cache);
    if tools.is_none() {
        eprintln!("SKIPPED: what needs installed servers and clients; `make test` has it");
    } else if !missing.is_empty() {
        eprintln!("SKIPPED: what needs these, which are not installed: {}", missing.join(", "));
    }
    let (counts, result) = tests_run::run(context.workspace, |command| {
        match tools {
            Some(directory) => command.env(TOOLS_VARIABLE, directory),
            None => command.env_remove(TOOLS_VARIABLE),
        };
        if context.depth == Depth::Full {
            command.env("PROPTEST_CASES", "4096");
        }
    })?;
    context.counts.set(Some(counts));
    result
}

fn doctests(context: &Context) -> Result<()> {
    context.cargo(&["test", "--workspace", "--doc", "--locked", "--quiet"])
}

fn conformance(context: &Context) -> Result<()> {
    match conformance::available(&context.cache) {
        Ok(()) => {
            let depth = if context.depth == Depth::Full { conformance::Depth::Full } else { conformance::Depth::Usual };
            conformance::gate(context.workspace, depth, None)
        }
        Err(error) if tools::in_ci() => Err(error),
        Err(error) => {
            eprintln!("SKIPPED: {error:#}");
            Ok(())
        }
    }
}

/// The clients of agent frameworks, all of them, one after the other. The usual tests have three.
fn frameworks(context: &Context) -> Result<()> {
    tools::install(&context.cache, None, Need::Full)?;
    let mut command = context.end_to_end("real::frameworks::");
    // One at a time: what takes long is importing them, which is work.
    command.args(["--test-threads", "1"]).env(TOOLS_VARIABLE, context.cache.root()).env(FRAMEWORKS_VARIABLE, "all");
    context.check(&mut command)
}

/// Thousands of sessions held for minutes; the bench knows the bounds.
fn sessions(context: &Context) -> Result<()> {
    release(context)?;
    let directory = context.workspace.target_directory().join("release");
    let mut command = std::process::Command::new(directory.join("fairlead-bench"));
    command.arg("sessions").arg("--fairlead").arg(directory.join("fairlead"));
    if let Some(seconds) = std::env::var_os(SESSIONS_VARIABLE) {
        command.arg("--hold").arg(seconds);
    }
    context.check(&mut command)
}

/// Servers that fail under load; the bench knows the bounds. `FAIRLEAD_CHAOS` may have further arguments.
fn chaos(context: &Context) -> Result<()> {
    release(context)?;
    let directory = context.workspace.target_directory().join("release");
    let mut command = std::process::Command::new(directory.join("fairlead-bench"));
    command.arg("chaos").arg("--fairlead").arg(directory.join("fairlead"));
    command.args(std::env::var(CHAOS_VARIABLE).unwrap_or_default().split_whitespace());
    context.check(&mut command)
}

/// Ten minutes of everything at once against the release build, or as long as `FAIRLEAD_SOAK` says.
fn soak(context: &Context) -> Result<()> {
    context.cargo(&["build", "--release", "--locked", "--quiet", "-p", "fairlead"])?;
    let program = context.workspace.target_directory().join("release/fairlead");
    let mut command = context.end_to_end("soak::");
    command.env(PROGRAM_VARIABLE, program);
    if std::env::var_os(SOAK_VARIABLE).is_none() {
        command.env(SOAK_VARIABLE, SOAK_SECONDS);
    }
    context.check(&mut command)
}

fn docs(context: &Context) -> Result<()> {
    let mut command = context.workspace.cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
    context.check(command.env("RUSTDOCFLAGS", "--deny warnings"))
}

fn release(context: &Context) -> Result<()> {
    context.cargo(&["build", "--release", "--locked", "--quiet", "-p", "fairlead", "-p", "fairlead-bench"])
}
