//! Development tasks, run as `cargo xtask TASK`: tidy checks, the stages of the tests, the cache of
//! test tools, conformance runs. It depends on little, so that it builds in seconds on a clean clone.

mod arguments;
mod conformance;
mod process;
mod stages;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{arguments::Arguments, workspace::Workspace};

const USAGE: &str = "usage: cargo xtask TASK

  test [--quick|--full] [--stage NAME]
      The stages a change must pass, with the time of each. --quick leaves out the tools and what
      needs them; --full adds what takes longer; --stage runs one.
  tidy
      The checks of style that a program can make.
  tools [--only GROUP] [--all] [--env]
      Installs the servers, clients and suites of the tests into the cache (.cache/tools, or
      FAIRLEAD_CACHE); with --all those that only `test --full` uses as well. --env prints the variables that tell where they are, on stdout.
  conformance --url URL --suite old|new-2025|new-2026 [--expected FILE]
      Runs one conformance suite, prints its results as JSON; fails on a failure that is not expected.
  conformance --url URL --through URL --suite SUITE [--expected FILE]
      Runs it directly and through the gateway and fails on what is lost.
  conformance --gate [--full] [--only CELL]
      Starts the feature server and a gateway in front of it and compares all suites, then has the
      suite look at the gateway as a client. --full adds the cells across eras (`SUITE-across`).
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = Arguments::from_environment();
    let Some(task) = arguments.word() else {
        eprint!("{USAGE}");
        bail!("no task given");
    };
    let workspace = Workspace::find()?;
    match task.as_str() {
        "test" => stages::run(&workspace, arguments),
        "tidy" => tidy::run(&workspace, arguments),
        "tools" => tools::run(&workspace, arguments),
        "conformance" => conformance::run(&workspace, arguments),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => {
            eprint!("{USAGE}");
            bail!("no such task: {other}")
        }
    }
}
