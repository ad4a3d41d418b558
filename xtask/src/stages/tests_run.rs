//! Running the unit and integration tests and counting them: with `cargo nextest` where it is installed
//! (one process per test, a time limit for each), else with `cargo test`.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// How many tests passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

/// Runs all tests of the workspace. The outer error means that they could not be run, the inner one that
/// some failed.
pub(super) fn run(workspace: &Workspace, prepare: impl Fn(&mut Command)) -> Result<(Counts, Result<()>)> {
    let nextest = workspace
        .cargo(&["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut command = if nextest {
        workspace.cargo(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
    } else {
        eprintln!("cargo-nextest is not installed; using cargo test");
        workspace.cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"])
    };
    prepare(&mut command);
    // Colours would hide the summary from the reader below.
    command.env("CARGO_TERM_COLOR", "never");
    // Each runner writes its summary to one of the two; that one is read here and passed on.
    if nextest {
        command.stderr(Stdio::piped());
    } else {
        command.stdout(Stdio::piped());
    }
    let mut child = command.spawn().context("the tests cannot be started")?;
    let mut counts = Counts::default();
    if let Some(stream) = child.stderr.take() {
        for line in BufReader::new(stream).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            eprintln!("{line}");
            counts.add_nextest(&line);
        }
    } else if let Some(stream) = child.stdout.take() {
        for line in BufReader::new(stream).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            counts.add_cargo_test(&line);
        }
    }
    let status = child.wait()?;
    let result = (|| {
        if !status.success() {
            bail!("{status}");
        }
        if counts.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    })();
    Ok((counts, result))
}

impl Counts {
    /// `     Summary [   0.034s] 4 tests run: 3 passed (1 slow), 1 failed, 0 skipped`
    fn add_nextest(&mut self, line: &str) {
        let Some((_, summary)) = line.trim_start().strip_prefix("Summary [").and_then(|rest| rest.split_once("] "))
        else {
            return;
        };
        // `3/4 tests run` when the run was cut short.
        let run = summary.split([' ', '/']).next().and_then(|number| number.parse::<u64>().ok());
        let passed = number_before(summary, " passed");
        if let (Some(run), Some(passed)) = (run, passed) {
            self.passed += passed;
            self.failed += run.saturating_sub(passed);
        }
    }

    /// `test result: ok. 3 passed; 0 failed; 0 ignored; ...`
    fn add_cargo_test(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.passed += number_before(line, " passed").unwrap_or(0);
            self.failed += number_before(line, " failed").unwrap_or(0);
        }
    }
}

fn number_before(text: &str, word: &str) -> Option<u64> {
    let head = &text[..text.find(word)?];
    let digits = head.len() - head.trim_end_matches(|character: char| character.is_ascii_digit()).len();
    head[head.len() - digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_both_runners_are_counted() {
        let mut counts = Counts::default();
        counts.add_nextest("     Summary [   0.034s] 4 tests run: 3 passed (1 slow), 1 failed, 0 skipped");
        assert_eq!(counts, Counts { passed: 3, failed: 1 });
        counts.add_nextest("        PASS [   0.004s] xtask Summary");
        assert_eq!(counts, Counts { passed: 3, failed: 1 });
        let mut counts = Counts::default();
        counts.add_nextest("     Summary [   9.000s] 5 tests run: 2 passed, 1 failed, 2 timed out, 7 skipped");
        assert_eq!(counts, Counts { passed: 2, failed: 3 });
        let mut counts = Counts::default();
        counts.add_cargo_test(
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        counts.add_cargo_test("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(counts, Counts { passed: 14, failed: 1 });
    }
}
