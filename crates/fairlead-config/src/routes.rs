//! Routing rules: which server a call goes to, where its name alone does not decide it. What people write and what the
//! program uses stand together here, because nothing else needs either.

use crate::{
    Glob,
    build::Builder,
    check::shorten,
    leaf::{PatternText, globs},
};
use fairlead_core::ServerName;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which calls go elsewhere, and where. The first rule that matches decides.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteFile {
    /// Patterns on exposed names of tools and prompts, of which one must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool: Vec<PatternText>,
    /// Patterns on URIs of resources, of which one must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uri: Vec<PatternText>,
    /// Patterns on arguments of the call by name, all of which must match. A number or a boolean matches as it is written,
    /// `a.b` is the member `b` of the argument `a`.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub arguments: IndexMap<String, PatternText>,
    /// Patterns on callers, of which one must match. Without authentication everybody is `anonymous`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caller: Vec<PatternText>,
    /// The servers that calls go to: each must have the tool, prompt or resource under the same name of its own.
    pub to: Vec<DestinationFile>,
    /// By what a call is one server's or another's where several have a weight.
    pub split: SplitFile,
    /// A server that gets a copy of calls; what it answers is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorFile>,
}

/// A server that calls go to.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DestinationFile {
    /// The name of the server, one of those under `servers`.
    pub server: String,
    /// Its share of the calls, in proportion to the others of its priority; 0 is none.
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
    /// Servers of a higher number are only used when none of a lower one can be.
    #[schemars(range(max = 100))]
    pub priority: u32,
    /// Labels that an instance of the server must have, all of them.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub labels: IndexMap<String, String>,
    /// What becomes of calls when no instance with these labels can be used: `require`, they go elsewhere or fail; `prefer`, other
    /// instances get them.
    pub labels_mode: LabelsModeFile,
}

/// What labels count for.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum LabelsModeFile {
    #[default]
    Require,
    Prefer,
}

impl Default for DestinationFile {
    fn default() -> Self {
        let (labels, labels_mode) = (IndexMap::new(), LabelsModeFile::Require);
        Self { server: String::new(), weight: 1, priority: 0, labels, labels_mode }
    }
}

/// By what calls are split: `call`, each by its name and arguments; `caller`, all of one caller's session alike.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum SplitFile {
    #[default]
    Call,
    Caller,
}

/// A server that gets a copy of calls.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorFile {
    /// The name of the server, one of those under `servers`.
    pub server: String,
    /// Of a hundred calls, how many are copied.
    #[schemars(range(max = 100))]
    pub percent: u32,
    /// Whether calls of tools are copied that are not known to be repeatable.
    pub any_tool: bool,
    /// Copies in flight at most; calls beyond are not copied.
    #[schemars(range(min = 1, max = 10_000))]
    pub max: usize,
}

impl Default for MirrorFile {
    fn default() -> Self {
        Self { server: String::new(), percent: 100, any_tool: false, max: 16 }
    }
}

/// Which calls go elsewhere, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Patterns on exposed names; none means every tool and prompt, where there is none on URIs either.
    pub tool: Vec<Glob>,
    /// Patterns on URIs.
    pub uri: Vec<Glob>,
    /// Patterns on arguments by path.
    pub arguments: Vec<(Vec<String>, Glob)>,
    /// Patterns on callers.
    pub caller: Vec<Glob>,
    /// Where to.
    pub to: Vec<Destination>,
    /// Whether all calls of a caller go the same way.
    pub by_caller: bool,
    /// Who gets a copy.
    pub mirror: Option<Mirror>,
}

/// A server that calls go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The name of the server, one of those under `servers`.
    pub server: ServerName,
    /// Its share.
    pub weight: u32,
    /// The lower, the sooner.
    pub priority: u32,
    /// Which of its instances, if not all.
    pub labels: Option<Arc<Labels>>,
}

/// Instances by what they are labelled with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    /// What an instance must be labelled with: keys and values.
    pub all: Vec<(String, String)>,
    /// Whether no other will do.
    pub required: bool,
}

/// A server that gets a copy of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The name of the server, one of those under `servers`.
    pub server: ServerName,
    /// Of a hundred calls.
    pub percent: u32,
    /// Also of tools that may not be called twice.
    pub any_tool: bool,
    /// Copies in flight at most.
    pub max: usize,
}

impl Builder<'_> {
    /// `knows` says which servers there are.
    pub(crate) fn routes(&mut self, files: Vec<RouteFile>, knows: impl Fn(&ServerName) -> bool) -> Vec<Route> {
        let mut routes = Vec::with_capacity(files.len());
        for (at, file) in files.into_iter().enumerate() {
            let place = ["routes".to_owned(), at.to_string()];
            let path: Vec<&str> = place.iter().map(String::as_str).collect();
            if file.to.is_empty() && file.mirror.is_none() {
                self.error(&path, "this route leads nowhere", "write `to: [{ server: NAME }]`");
            }
            let server = |builder: &mut Self, name: &str| match ServerName::parse(name) {
                Ok(name) if knows(&name) => Some(name),
                _ => {
                    let message = format!("no server is called `{}`", shorten(name));
                    builder.error(&path, message, "a route names servers of `servers`");
                    None
                }
            };
            let mut to = Vec::new();
            for file in file.to {
                if let Some(server) = server(self, &file.server) {
                    let required = file.labels_mode == LabelsModeFile::Require;
                    let labels = Labels { all: file.labels.into_iter().collect(), required };
                    let labels = (!labels.all.is_empty()).then(|| Arc::new(labels));
                    to.push(Destination { server, weight: file.weight, priority: file.priority, labels });
                }
            }
            let mirror = file.mirror.and_then(|file| {
                let server = server(self, &file.server)?;
                Some(Mirror { server, percent: file.percent, any_tool: file.any_tool, max: file.max })
            });
            let path = |path: String| path.split('.').map(str::to_owned).collect();
            routes.push(Route {
                tool: globs(file.tool),
                uri: globs(file.uri),
                arguments: file.arguments.into_iter().map(|(name, glob)| (path(name), glob.0)).collect(),
                caller: globs(file.caller),
                to,
                by_caller: file.split == SplitFile::Caller,
                mirror,
            });
        }
        routes
    }
}
