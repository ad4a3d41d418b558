//! Many calls in one: calls of a tool that are gathered into one call of another (`batch` of a rule), and `call_many`, a tool
//! of the gateway's own. What people write and what the program uses stand together here.

use crate::leaf::DurationText;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `call_many`: a tool that makes several calls at once and answers with the result of each.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CallManyFile {
    /// Calls in one at most.
    #[schemars(range(min = 1, max = 1_000))]
    pub max: usize,
    /// How many of them are under way at the same time.
    #[schemars(range(min = 1, max = 100))]
    pub parallel: usize,
}

impl Default for CallManyFile {
    fn default() -> Self {
        Self { max: 50, parallel: 8 }
    }
}

/// `call_many` of a toolset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallMany {
    /// Calls in one at most.
    pub max: usize,
    /// How many of them are under way at the same time.
    pub parallel: usize,
}

impl From<CallManyFile> for CallMany {
    fn from(file: CallManyFile) -> Self {
        Self { max: file.max.max(1), parallel: file.parallel.max(1) }
    }
}

/// Calls of a tool that are gathered into one call of another tool of its server.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchFile {
    /// The server's own name of the tool that takes many.
    pub with: String,
    /// Its argument that takes the list.
    pub argument: String,
    /// The one argument of this tool whose values make the list. Calls with other arguments beside it are made alone. Default:
    /// all arguments of a call together are one element of the list, as an object.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// How patient its callers are: `interactive` (50 calls, 100 ms) or `bulk` (100 calls, 10 s).
    #[serde(default)]
    pub kind: BatchKindFile,
    /// Different calls in one batch at most; with so many it is made at once. Identical ones count once. Default: what `kind` says.
    #[schemars(range(min = 2, max = 1_000))]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max: Option<usize>,
    /// How long the first call waits for others. Default: what `kind` says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wait: Option<DurationText>,
    /// The member of the structured result (or of the JSON in its first text) that holds the parts; a path with
    /// points. Default: the result itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub items: Option<String>,
    /// The member of a part that repeats the value it is for. Default: parts are in the order of the values, or an object
    /// has them by value.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// The member of a part that says that it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// How patient callers are.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum BatchKindFile {
    #[default]
    Interactive,
    Bulk,
}

/// Calls of a tool that are gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The tool that takes many.
    pub with: Box<str>,
    /// Its argument that takes the list.
    pub argument: Box<str>,
    /// The argument whose values make the list; `None`: all of them together.
    pub from: Option<Box<str>>,
    /// Different calls in one batch at most.
    pub max: usize,
    /// How long the first waits for others.
    pub wait: Duration,
    /// What holds the parts.
    pub items: Option<Box<str>>,
    /// What says of a part which value it is for.
    pub key: Option<Box<str>>,
    /// What says of a part that it failed.
    pub error: Option<Box<str>>,
}

impl From<BatchFile> for Batch {
    fn from(file: BatchFile) -> Self {
        let (max, wait) = match file.kind {
            BatchKindFile::Interactive => (50, Duration::from_millis(100)),
            BatchKindFile::Bulk => (100, Duration::from_secs(10)),
        };
        Self {
            with: file.with.into(),
            argument: file.argument.into(),
            from: file.from.map(Into::into),
            max: file.max.unwrap_or(max).max(2),
            wait: file.wait.map_or(wait, |written| written.0),
            items: file.items.map(Into::into),
            key: file.key.map(Into::into),
            error: file.error.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_counts_before_the_kind() {
        let of = |kind, max, wait: Option<u64>| {
            let file = BatchFile {
                with: "many".into(),
                argument: "ids".into(),
                from: None,
                kind,
                max,
                wait: wait.map(|ms| DurationText(Duration::from_millis(ms))),
                items: None,
                key: None,
                error: None,
            };
            let batch = Batch::from(file);
            (batch.max, batch.wait.as_millis())
        };
        assert_eq!(of(BatchKindFile::Interactive, None, None), (50, 100));
        assert_eq!(of(BatchKindFile::Bulk, None, None), (100, 10_000));
        assert_eq!(of(BatchKindFile::Bulk, Some(7), None), (7, 10_000));
        assert_eq!(of(BatchKindFile::Interactive, None, Some(5)), (50, 5));
    }
}
