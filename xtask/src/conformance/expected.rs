//! The file of expected failures. A line is `direct SUITE SCENARIO[:CHECK]` (the server itself fails it) or
//! `lost SUITE SCENARIO[:CHECK]` (it passes directly and fails through the gateway), then `# reason`.
//! A scenario without a check stands for all its checks. Entries that did not fail are failures: the file
//! only shrinks.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, bail};

use super::results::{Checks, Results, Status};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Direct,
    Lost,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    suite: String,
    scenario: String,
    check: Option<String>,
    line: usize,
}

/// How many entries there are. The file only shrinks, and this with it.
const ENTRIES: usize = 23;

/// What is expected to fail.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    entries: Vec<Entry>,
}

impl Expected {
    /// Reads `file`.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    /// Reads the file of this project, whose length is known.
    pub(crate) fn load_own(file: &Path) -> Result<Self> {
        let expected = Self::load(file)?;
        match expected.entries.len() {
            ENTRIES => Ok(expected),
            more if more > ENTRIES => {
                bail!("{more} failures are expected, and it was {ENTRIES}: the file only shrinks")
            }
            fewer => bail!("{fewer} failures are expected: lower `ENTRIES` in `xtask/src/conformance/expected.rs`"),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let (entry, reason) = line.split_once('#').unwrap_or((line, ""));
            let words: Vec<&str> = entry.split_whitespace().collect();
            let (kind, suite, what) = match words[..] {
                [] => continue,
                ["direct", suite, what] => (Kind::Direct, suite, what),
                ["lost", suite, what] => (Kind::Lost, suite, what),
                _ => bail!("line {number}: not `direct|lost SUITE SCENARIO[:CHECK] # reason`"),
            };
            if reason.trim().is_empty() {
                bail!("line {number}: an expected failure has a reason (`# ...`)");
            }
            let (scenario, check) = match what.split_once(':') {
                Some((scenario, check)) => (scenario, Some(check.to_owned())),
                None => (what, None),
            };
            entries.push(Entry { kind, suite: suite.to_owned(), scenario: scenario.to_owned(), check, line: number });
        }
        Ok(Self { entries })
    }

    /// Complaints about a run against the server itself.
    pub(crate) fn judge_direct(&self, suite: &str, direct: &Results) -> Vec<String> {
        let failures = direct.iter().flat_map(|(scenario, checks)| {
            checks
                .iter()
                .filter(|(_, (status, _))| *status == Status::Failure)
                .map(move |(id, (_, message))| (scenario, id.as_str(), message.clone()))
        });
        self.judge(Kind::Direct, suite, failures, "fails directly")
    }

    /// Complaints about what passes directly and not through the gateway.
    pub(crate) fn judge_lost(&self, suite: &str, direct: &Results, through: &Results) -> Vec<String> {
        let nothing = Checks::new();
        let lost = direct.iter().flat_map(|(scenario, checks)| {
            let through = through.get(scenario).unwrap_or(&nothing);
            checks.iter().filter_map(move |(id, (status, _))| {
                if *status != Status::Success {
                    return None;
                }
                match through.get(id) {
                    Some((Status::Success, _)) => None,
                    Some((status, message)) => Some((scenario, id.as_str(), format!("{status:?}: {message}"))),
                    None => Some((scenario, id.as_str(), "the check did not run".to_owned())),
                }
            })
        });
        let mut complaints = self.judge(Kind::Lost, suite, lost, "is lost through the gateway");
        complaints.extend(self.gained_failures(suite, direct, through));
        complaints
    }

    /// A check that only runs through the gateway, and fails there, is a loss as well.
    fn gained_failures(&self, suite: &str, direct: &Results, through: &Results) -> Vec<String> {
        let nothing = Checks::new();
        let mut complaints = Vec::new();
        for (scenario, checks) in through.iter() {
            let before = direct.get(scenario).unwrap_or(&nothing);
            for (id, (status, message)) in checks {
                let expected = self.entries.iter().any(|entry| entry.covers(Kind::Lost, suite, scenario, id));
                if *status == Status::Failure && !before.contains_key(id) && !expected {
                    complaints.push(format!("{scenario}:{id} fails only through the gateway: {message}"));
                }
            }
        }
        complaints
    }

    fn judge<'a>(
        &self,
        kind: Kind,
        suite: &str,
        failures: impl Iterator<Item = (&'a str, &'a str, String)>,
        verdict: &str,
    ) -> Vec<String> {
        let mut used = BTreeSet::new();
        let mut complaints = Vec::new();
        for (scenario, check, message) in failures {
            let mut covered = false;
            for entry in self.entries.iter().filter(|entry| entry.covers(kind, suite, scenario, check)) {
                used.insert(entry.line);
                covered = true;
            }
            if !covered {
                complaints.push(format!("{scenario}:{check} {verdict}: {message}"));
            }
        }
        for entry in &self.entries {
            if entry.kind == kind && entry.suite == suite && !used.contains(&entry.line) {
                complaints.push(format!("{} no longer fails: remove line {}", entry.scenario, entry.line));
            }
        }
        complaints
    }
}

impl Entry {
    fn covers(&self, kind: Kind, suite: &str, scenario: &str, check: &str) -> bool {
        self.kind == kind
            && self.suite == suite
            && self.scenario == scenario
            && self.check.as_deref().is_none_or(|expected| expected == check)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn results(scenarios: Value) -> Results {
        let mut results = Results::default();
        for (name, checks) in scenarios.as_object().unwrap() {
            let list: Vec<Value> =
                checks.as_object().unwrap().iter().map(|(id, status)| json!({"id": id, "status": status})).collect();
            results.add(name, &Value::Array(list));
        }
        results
    }

    #[test]
    fn nothing_that_passes_directly_may_be_lost() {
        let direct =
            results(json!({"ping": {"a": "SUCCESS"}, "sse": {"b": "FAILURE", "c": "SUCCESS", "d": "SUCCESS"}}));
        let none = Expected::default();
        assert_eq!(none.judge_lost("old", &direct, &direct), Vec::<String>::new());
        for through in [
            json!({"sse": {"b": "FAILURE", "c": "SUCCESS", "d": "SUCCESS"}}),
            json!({"ping": {"a": "FAILURE"}, "sse": {"b": "SUCCESS", "c": "SUCCESS", "d": "SUCCESS"}}),
            json!({"ping": {"a": "SUCCESS"}, "sse": {"b": "FAILURE", "c": "WARNING", "d": "SUCCESS"}}),
            json!({"ping": {"a": "SUCCESS"}, "sse": {"b": "FAILURE", "d": "SUCCESS"}}),
            json!({"ping": {"a": "SUCCESS", "new": "FAILURE"}, "sse": {"b": "FAILURE", "c": "SUCCESS", "d": "SUCCESS"}}),
        ] {
            assert_eq!(none.judge_lost("old", &direct, &results(through.clone())).len(), 1, "{through}");
        }
    }

    #[test]
    fn expected_failures_are_accepted_and_stale_entries_are_not() {
        let direct = results(json!({"ping": {"a": "SUCCESS"}, "sse": {"b": "FAILURE", "c": "FAILURE"}}));
        let expected =
            Expected::parse("# head\n\ndirect old sse # its server has no streams\nlost old ping:a # why\n").unwrap();
        assert_eq!(expected.judge_direct("old", &direct), Vec::<String>::new());
        assert_eq!(expected.judge_lost("old", &direct, &direct).len(), 1, "the entry for ping is stale");
        assert_eq!(expected.judge_direct("new-2025", &direct).len(), 2, "entries are for one suite");
        let one_check = Expected::parse("direct old sse:b # why\n").unwrap();
        assert_eq!(one_check.judge_direct("old", &direct).len(), 1);
        let well = results(json!({"sse": {"b": "SUCCESS"}}));
        assert!(one_check.judge_direct("old", &well)[0].contains("remove line 1"));
    }

    #[test]
    fn the_file_cannot_grow() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = |count: usize| "lost old ping # why\n".repeat(count);
        for (count, is_fine) in [(ENTRIES - 1, false), (ENTRIES, true), (ENTRIES + 1, false)] {
            std::fs::write(file.path(), lines(count)).unwrap();
            assert_eq!(Expected::load_own(file.path()).is_ok(), is_fine, "{count}");
        }
    }

    #[test]
    fn an_entry_needs_a_reason_and_the_right_words() {
        assert!(Expected::parse("direct old sse\n").is_err());
        assert!(Expected::parse("maybe old sse # why\n").is_err());
        assert!(Expected::parse("direct old # why\n").is_err());
    }
}
