//! Results of one run. The suite writes a directory `server-<scenario>-<time>` per scenario (without `server-` when it
//! looks at a client) with a `checks.json` in it: a list of checks with an `id` and a `status`.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How a check ended, best first: of several checks with one id the worst counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    /// Told something, judged nothing.
    Info,
    /// As required.
    Success,
    /// Not applicable to this server.
    Skipped,
    /// As required, against a recommendation.
    Warning,
    /// Not as required.
    Failure,
}

impl Status {
    fn parse(word: &str) -> Self {
        match word {
            "INFO" => Self::Info,
            "SUCCESS" => Self::Success,
            "SKIPPED" => Self::Skipped,
            "WARNING" => Self::Warning,
            // A word we do not know is not a success.
            _ => Self::Failure,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Success => "success",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// The checks of one scenario by id.
pub(crate) type Checks = BTreeMap<String, (Status, String)>;

/// Scenarios by name.
#[derive(Debug, Default)]
pub(crate) struct Results {
    scenarios: BTreeMap<String, Checks>,
}

impl Results {
    /// Reads what a run left in `directory`.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let mut results = Self::default();
        for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(scenario) = scenario_of(&name) else { continue };
            let path = entry.path().join("checks.json");
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let checks: Value = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
            results.add(scenario, &checks);
        }
        Ok(results)
    }

    /// Takes over the scenarios of `other`.
    pub(crate) fn merge(&mut self, other: Self) {
        self.scenarios.extend(other.scenarios);
    }

    /// Adds one scenario from its `checks.json`.
    pub(crate) fn add(&mut self, scenario: &str, checks: &Value) {
        let known = self.scenarios.entry(scenario.to_owned()).or_default();
        for check in checks.as_array().into_iter().flatten() {
            let id = check["id"].as_str().unwrap_or("unnamed").to_owned();
            let status = Status::parse(check["status"].as_str().unwrap_or_default());
            let message = check["errorMessage"].as_str().unwrap_or_default().to_owned();
            match known.get_mut(&id) {
                Some(worst) if worst.0 >= status => {}
                Some(worst) => *worst = (status, message),
                None => {
                    known.insert(id, (status, message));
                }
            }
        }
    }

    /// Name and checks of each scenario.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Checks)> {
        self.scenarios.iter().map(|(name, checks)| (name.as_str(), checks))
    }

    /// The checks of `scenario`.
    pub(crate) fn get(&self, scenario: &str) -> Option<&Checks> {
        self.scenarios.get(scenario)
    }

    /// How many scenarios ran.
    pub(crate) fn scenarios(&self) -> usize {
        self.scenarios.len()
    }

    /// How many scenarios have no failed check, and at least one check.
    pub(crate) fn passed(&self) -> usize {
        self.scenarios.values().filter(|checks| passes(checks)).count()
    }

    /// The results as one JSON document with stable order.
    pub(crate) fn to_json(&self, suite: &str, url: &str) -> String {
        let scenarios: Vec<Value> = self
            .iter()
            .map(|(name, checks)| {
                let list: Vec<Value> = checks
                    .iter()
                    .map(|(id, (status, message))| json!({"id": id, "message": message, "status": status.word()}))
                    .collect();
                json!({"checks": list, "name": name, "passed": passes(checks)})
            })
            .collect();
        let document = json!({"passed": self.passed(), "scenarios": scenarios, "suite": suite, "total": self.scenarios(), "url": url});
        format!("{document:#}")
    }
}

/// Whether a scenario with these checks passed.
pub(crate) fn passes(checks: &Checks) -> bool {
    !checks.is_empty() && checks.values().all(|(status, _)| *status != Status::Failure)
}

/// `server-tools-list-2026-11-20T09-38-40-426Z` is the scenario `tools-list`, of a client without the first word.
fn scenario_of(directory: &str) -> Option<&str> {
    const TIME: usize = "-2026-11-20T09-38-40-426Z".len();
    let rest = directory.strip_prefix("server-").unwrap_or(directory);
    let cut = rest.len().checked_sub(TIME)?;
    (rest.is_char_boundary(cut) && rest.ends_with('Z')).then(|| &rest[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_names_its_scenario() {
        assert_eq!(scenario_of("server-tools-list-2026-11-20T09-38-40-426Z"), Some("tools-list"));
        assert_eq!(scenario_of("server-server-initialize-2026-11-20T09-38-40-426Z"), Some("server-initialize"));
        assert_eq!(scenario_of("server-x"), None);
        assert_eq!(scenario_of("log.txt"), None);
    }

    #[test]
    fn the_worst_of_equal_checks_counts_and_unknown_words_fail() {
        let mut results = Results::default();
        results.add(
            "a",
            &json!([{"id": "x", "status": "FAILURE", "errorMessage": "why"}, {"id": "x", "status": "SUCCESS"}]),
        );
        results.add("b", &json!([{"id": "x", "status": "SUCCESS"}, {"id": "y", "status": "WARNING"}]));
        results.add("c", &json!([{"id": "x", "status": "MAYBE"}]));
        results.add("d", &json!([]));
        assert_eq!((results.passed(), results.scenarios()), (1, 4));
        assert_eq!(results.get("a").unwrap()["x"], (Status::Failure, "why".to_owned()));
        let document: Value = serde_json::from_str(&results.to_json("old", "http://127.0.0.1/")).unwrap();
        assert_eq!(document["scenarios"][1]["passed"], json!(true));
    }

    #[test]
    fn results_are_read_from_disk() {
        let directory = tempfile::tempdir().unwrap();
        let scenario = directory.path().join("server-ping-2026-11-20T09-38-40-426Z");
        std::fs::create_dir(&scenario).unwrap();
        std::fs::write(scenario.join("checks.json"), r#"[{"id":"ping","status":"SUCCESS"}]"#).unwrap();
        let results = Results::read(directory.path()).unwrap();
        assert_eq!((results.passed(), results.scenarios()), (1, 1));
        std::fs::write(scenario.join("checks.json"), "[").unwrap();
        assert!(Results::read(directory.path()).is_err());
    }
}
