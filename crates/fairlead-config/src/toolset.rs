//! Toolsets: a named selection of the catalog, and how much of it a client is shown. What people write and what the
//! program uses stand together here, because nothing else needs either.

use crate::{
    Glob,
    batch::{CallMany, CallManyFile},
    build::Builder,
    check::shorten,
    leaf::{PatternText, globs},
    switch::OrOff,
    tool_shape::{ToolShape, ToolShapeFile},
};
use fairlead_core::ServerName;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens that a list of tools may take with `mode: budget`, where nothing else is said.
const BUDGET: usize = 8_000;

/// A named selection of the catalog.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolsetFile {
    /// Patterns on exposed names of which one must match; with neither these nor `include_tags`, everything is in it.
    /// Their order counts with `mode: budget`: tools of an earlier pattern are kept before those of a later one.
    pub include: Vec<PatternText>,
    /// Tools with one of these tags are in it too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include_tags: Vec<String>,
    /// Tools with one of these tags are not in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_tags: Vec<String>,
    /// How tools are shown, checked and answered in it, by patterns on exposed names. All that match count, the
    /// later before the earlier, and these before those of the server.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub tools: IndexMap<String, ToolShapeFile>,
    /// Patterns on exposed names of which none may match.
    pub exclude: Vec<PatternText>,
    /// What a client is shown: `full`, every tool that is selected; `search`, two tools that find and call the others;
    /// `budget`, every tool as far as `budget` reaches.
    pub mode: ModeFile,
    /// Tokens that the list of tools may take with `mode: budget`. Default: 8000.
    #[schemars(range(min = 100, max = 10_000_000))]
    pub budget: Option<usize>,
    /// What `find_tools` answers with `mode: search`.
    pub find: FindFile,
    /// Whether there is a tool `call_many` besides, which makes several calls at once; `off`, which is the default, or its
    /// bounds.
    pub call_many: OrOff<CallManyFile>,
}

/// What a client of a toolset is shown.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum ModeFile {
    #[default]
    Full,
    Search,
    Budget,
}

/// What `find_tools` answers.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FindFile {
    /// Tokens that an answer may take.
    #[schemars(range(min = 200, max = 100_000))]
    pub tokens: usize,
    /// Tools that are found at most, where the client does not ask for fewer or more.
    #[schemars(range(min = 1, max = 20))]
    pub tools: usize,
}

impl Default for FindFile {
    fn default() -> Self {
        Self { tokens: 2_000, tools: 5 }
    }
}

/// A named selection of the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Toolset {
    /// Its name, a segment of the path `/mcp/{toolset}`.
    pub name: String,
    /// Patterns on exposed names of which one must match; none means everything.
    pub include: Vec<Glob>,
    /// Tags of which a tool must have one, where no pattern matches it.
    pub include_tags: Vec<String>,
    /// Tags of which a tool must have none.
    pub exclude_tags: Vec<String>,
    /// Patterns on exposed names of which none may match.
    pub exclude: Vec<Glob>,
    /// How tools are shown, checked and answered, by patterns on exposed names, in the order they are written.
    pub tools: Vec<(Glob, ToolShape)>,
    /// What a client is shown of its tools.
    pub mode: Mode,
    /// The tool that makes several calls at once, where there is one.
    pub call_many: Option<CallMany>,
}

/// What a client of a toolset is shown of its tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All of them, as they are.
    Full,
    /// Two tools instead: one that finds, one that calls.
    Search(Find),
    /// As much of them as the budget allows.
    Budget {
        /// Tokens that the list may take.
        tokens: usize,
    },
}

/// Bounds of what a search answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Find {
    /// Tokens that an answer may take.
    pub tokens: usize,
    /// Tools that are found at most, where nothing else is asked for.
    pub tools: usize,
}

impl Toolset {
    /// Whether the item exposed as `exposed_name` belongs to the toolset.
    #[must_use]
    pub fn permits(&self, exposed_name: &str) -> bool {
        self.permits_tool(exposed_name, &[])
    }

    /// The same for a tool, which may have tags.
    #[must_use]
    pub fn permits_tool(&self, exposed_name: &str, tags: &[String]) -> bool {
        let has_one = |wanted: &[String]| tags.iter().any(|tag| wanted.contains(tag));
        let is_everything = self.include.is_empty() && self.include_tags.is_empty();
        let is_included =
            is_everything || self.include.iter().any(|glob| glob.matches(exposed_name)) || has_one(&self.include_tags);
        is_included && !has_one(&self.exclude_tags) && !self.exclude.iter().any(|glob| glob.matches(exposed_name))
    }

    /// Which pattern lets the item in: the lower, the more it is wanted.
    #[must_use]
    pub fn rank(&self, exposed_name: &str) -> usize {
        self.include.iter().position(|glob| glob.matches(exposed_name)).unwrap_or(self.include.len())
    }
}

impl Builder<'_> {
    pub(crate) fn toolset(&mut self, name: String, file: ToolsetFile) -> Toolset {
        if ServerName::parse(&name).is_err() {
            let message = format!("`{}` cannot be the name of a toolset", shorten(&name));
            let hint =
                format!("names of toolsets follow the rules for servers: write `{}`", ServerName::normalise(&name));
            self.key_error(&["toolsets", &name], message, hint);
        }
        for (key, mode, goes_with) in [("budget", "budget", ModeFile::Budget), ("find", "search", ModeFile::Search)] {
            if file.mode != goes_with && self.has(&["toolsets", &name, key]) {
                let message = format!("`{key}` has no effect here");
                self.key_warning(&["toolsets", &name, key], message, format!("it goes with `mode: {mode}`"));
            }
        }
        let mode = match file.mode {
            ModeFile::Full => Mode::Full,
            ModeFile::Search => Mode::Search(Find { tokens: file.find.tokens, tools: file.find.tools }),
            ModeFile::Budget => Mode::Budget { tokens: file.budget.unwrap_or(BUDGET) },
        };
        let mut tools = Vec::with_capacity(file.tools.len());
        for (pattern, shape) in file.tools {
            let at = ["toolsets", &*name, "tools", &*pattern];
            match Glob::new(&pattern) {
                Ok(glob) => tools.push((glob, self.shape(&at, shape))),
                Err(error) => self.key_error(&at, error.to_string(), ""),
            }
        }
        Toolset {
            name,
            include: globs(file.include),
            include_tags: file.include_tags,
            exclude_tags: file.exclude_tags,
            exclude: globs(file.exclude),
            tools,
            mode,
            call_many: file.call_many.on().map(Into::into),
        }
    }
}
