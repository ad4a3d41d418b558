//! The gateway as a server in the configuration files of MCP clients: written there, and taken out.
//!
//! A file is never written anew: one entry is spliced into its text, so comments, order and spelling
//! of everything else stay. What comes out is read again and compared; where it says anything else
//! than "as before, and this entry", nothing is written.

mod json;
mod lines;

use crate::{
    Problem, Problems,
    import::MAX_IMPORT_FILE,
    reference::Env,
    syntax::{self, Syntax},
    tree::{Findings, Node, Source, Value as Written},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Largest client configuration file that is changed, in bytes.
pub const MAX_FILE: u64 = MAX_IMPORT_FILE;

static TABLE: LazyLock<Table> =
    LazyLock::new(|| toml::from_str(include_str!("install/clients.toml")).expect("invariant: our own table is valid"));

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    client: Vec<Format>,
}

/// How one client writes its servers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// What people type.
    pub id: String,
    /// What the client is called.
    pub title: String,
    paths: Vec<String>,
    project: Option<String>,
    syntax: Language,
    at: Vec<String>,
    entry: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Language {
    Json,
    Toml,
    Yaml,
}

/// The gateway, as a client is to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name it gets among the client's servers.
    pub name: String,
    /// Its MCP endpoint.
    pub url: String,
    /// This program, for clients that only start programs.
    pub program: String,
    /// What the program is given to serve on stdin and stdout.
    pub arguments: Vec<String>,
}

/// Every client the gateway can be written into.
#[must_use]
pub fn clients() -> &'static [Format] {
    &TABLE.client
}

/// The client with this id.
#[must_use]
pub fn client(id: &str) -> Option<&'static Format> {
    clients().iter().find(|format| format.id == id)
}

impl Format {
    /// The client's file: of the project in the directory `project`, else the user's own. It need not
    /// exist.
    ///
    /// # Errors
    /// When the client has no files for projects, or no place is known for it here.
    pub fn file(
        &self,
        project: Option<&Path>,
        home: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<PathBuf, Problems> {
        if let Some(directory) = project {
            let Some(file) = &self.project else {
                return Err(Problem::error(format!("{} has no configuration file for a project", self.title))
                    .with_hint("leave `--project` out to change the user's own")
                    .into());
            };
            return Ok(directory.join(file));
        }
        let places: Vec<_> = self.paths.iter().filter_map(|path| place(path, home, env)).collect();
        let found = places.iter().find(|path| path.is_file()).or_else(|| {
            // One whose directory is there is this system's.
            places.iter().find(|path| path.parent().is_some_and(Path::is_dir))
        });
        found.or(places.first()).cloned().ok_or_else(|| {
            Problem::error(format!("it is not known where {} keeps its configuration here", self.title)).into()
        })
    }

    /// `text` with the gateway in it, as a new entry or in place of one of its name.
    ///
    /// # Errors
    /// When the text is not what the client's files are, or the entry cannot be put in without changing
    /// anything else.
    pub fn install(&self, text: &str, gateway: &Entry) -> Result<String, Problems> {
        let entry = Value::Object(self.filled(gateway));
        let root = self.read(text)?;
        let mut expected = plain(&root);
        set(&mut expected, &self.at, &gateway.name, Some(entry.clone()))
            .ok_or_else(|| self.in_the_way(&gateway.name))?;
        let path: Vec<&str> = self.at.iter().map(String::as_str).collect();
        let edited = match self.syntax {
            Language::Json => json::put(text, &root, &path, &gateway.name, &entry),
            Language::Toml => lines::put_toml(text, &path, &gateway.name, &entry),
            Language::Yaml => lines::put_yaml(text, &root, &path, &gateway.name, &entry),
        };
        self.checked(edited, &expected, &gateway.name)
    }

    /// `text` without the gateway; `None` when it is not in it.
    ///
    /// # Errors
    /// As [`Format::install`].
    pub fn remove(&self, text: &str, name: &str) -> Result<Option<String>, Problems> {
        let root = self.read(text)?;
        let mut path: Vec<&str> = self.at.iter().map(String::as_str).collect();
        path.push(name);
        if root.at(&path).is_none() {
            return Ok(None);
        }
        path.pop();
        let mut expected = plain(&root);
        set(&mut expected, &self.at, name, None).ok_or_else(|| self.in_the_way(name))?;
        let edited = match self.syntax {
            Language::Json => json::take(text, &root, &path, name),
            Language::Toml => lines::take_toml(text, &path, name),
            Language::Yaml => lines::take_yaml(text, &root, &path, name),
        };
        self.checked(edited, &expected, name).map(Some)
    }

    /// The entry alone, in the client's own syntax, for people who write it themselves.
    #[must_use]
    pub fn shown(&self, gateway: &Entry) -> String {
        self.install("", gateway).unwrap_or_default()
    }

    fn filled(&self, gateway: &Entry) -> Map<String, Value> {
        let fill = |value: &Value| match value.as_str() {
            Some("{arguments}") => gateway.arguments.iter().map(|argument| Value::from(argument.as_str())).collect(),
            Some(text) => Value::from(
                text.replace("{url}", &gateway.url)
                    .replace("{program}", &gateway.program)
                    .replace("{name}", &gateway.name),
            ),
            None => value.clone(),
        };
        self.entry.iter().map(|(key, value)| (key.clone(), fill(value))).collect()
    }

    fn read(&self, text: &str) -> Result<Node, Problems> {
        let mut findings = Findings::new();
        let name = PathBuf::from(&self.title);
        findings.sources.0.push(Source { name, base: PathBuf::new(), text: text.to_owned(), masked: Vec::new() });
        let syntax = match self.syntax {
            Language::Json => Syntax::Json,
            Language::Toml => Syntax::Toml,
            Language::Yaml => Syntax::Yaml,
        };
        syntax::read(syntax, 0, &mut findings).ok_or_else(|| {
            let reason = findings.into_problems().into_iter().next();
            let reason =
                reason.map_or_else(String::new, |problem| format!(" (line {}: {})", problem.line, problem.message));
            Problem::error(format!("the file is not what {} can read{reason}", self.title))
                .with_hint("repair it first; nothing was changed")
                .into()
        })
    }

    fn checked(&self, edited: Option<String>, expected: &Value, name: &str) -> Result<String, Problems> {
        let edited = edited.ok_or_else(|| self.in_the_way(name))?;
        let says = plain(&self.read(&edited).map_err(|_| self.in_the_way(name))?);
        if without_empty(says) == without_empty(expected.clone()) { Ok(edited) } else { Err(self.in_the_way(name)) }
    }

    fn in_the_way(&self, name: &str) -> Problems {
        Problem::error(format!("`{}` of the file is written in a way that cannot be changed safely", self.at.join(".")))
            .with_hint(format!("add or remove the entry `{name}` by hand; `--print` shows it"))
            .into()
    }
}

/// A place in the table of clients as a path.
pub(crate) fn place(path: &str, home: &Path, env: Env<'_>) -> Option<PathBuf> {
    if let Some(rest) = path.strip_prefix("~/.config/")
        && let Some(config) = env("XDG_CONFIG_HOME").map(PathBuf::from).filter(|config| config.is_absolute())
    {
        return Some(config.join(rest));
    }
    if let Some(rest) = path.strip_prefix("~/") {
        return Some(home.join(rest));
    }
    let (variable, rest) = path.strip_prefix('$')?.split_once('/')?;
    Some(PathBuf::from(env(variable)?).join(rest))
}

/// What a tree says, places left out.
fn plain(node: &Node) -> Value {
    match &node.value {
        Written::Null | Written::Wrong => Value::Null,
        Written::Bool(yes) => Value::Bool(*yes),
        Written::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str())),
        Written::Text(text) => Value::from(text.as_str()),
        Written::List(items) => items.iter().map(plain).collect(),
        Written::Map(map) => map.iter().map(|(key, entry)| (key.clone(), plain(&entry.node))).collect(),
    }
}

/// Sets or removes the entry in what a file says. `None` when something else is in its way.
fn set(root: &mut Value, at: &[String], name: &str, entry: Option<Value>) -> Option<()> {
    let mut here = root;
    for key in at {
        if here.is_null() {
            *here = Value::Object(Map::new());
        }
        here = here.as_object_mut()?.entry(key.clone()).or_insert(Value::Null);
    }
    if here.is_null() {
        *here = Value::Object(Map::new());
    }
    let servers = here.as_object_mut()?;
    match entry {
        Some(entry) => servers.insert(name.to_owned(), entry),
        None => servers.remove(name),
    };
    Some(())
}

/// An empty map of servers says the same as none.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(key, value)| (key, without_empty(value)));
            Value::Object(
                kept.filter(|(_, value)| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()))
                    .collect(),
            )
        }
        other => other,
    }
}
