//! Servers from the configuration files of MCP clients, as a `servers:` block for ours.
//!
//! Nothing is guessed silently: a changed name, a left-out setting, a server that cannot be taken
//! over all show in the block as a comment or in the warnings. Values of headers and environment
//! variables are taken over as they are (the block is the user's own data); warnings never show them.

mod render;
mod server;

use crate::{
    Problem, Problems,
    check::nearest,
    load::read_bounded,
    reference::Env,
    syntax::{self, Syntax},
    tree::{Findings, Node, Place, Source, Value},
};
use fairlead_core::ServerName;
use server::{Dialect, Translated};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Largest client configuration file, in bytes. Some clients keep their history in it.
pub const MAX_IMPORT_FILE: u64 = 64 << 20;

/// A client whose configuration can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// What people type.
    pub id: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// Where its files are, the one that wins first. `./` is the project directory, `~/` the home
    /// directory, `$NAME/` the directory in that environment variable.
    pub paths: &'static [&'static str],
    /// Whether it replaces `${...}` in its files itself. If not, `${` is literal text in them.
    pub expands: bool,
}

/// Every known client.
pub const CLIENTS: &[Client] = &[
    Client { id: "claude-code", title: "Claude Code", paths: &["./.mcp.json", "~/.claude.json"], expands: true },
    Client {
        id: "claude-desktop",
        title: "Claude Desktop",
        paths: &[
            "~/.config/Claude/claude_desktop_config.json",
            "~/Library/Application Support/Claude/claude_desktop_config.json",
            "$APPDATA/Claude/claude_desktop_config.json",
        ],
        expands: false,
    },
    Client { id: "cursor", title: "Cursor", paths: &["./.cursor/mcp.json", "~/.cursor/mcp.json"], expands: true },
    Client {
        id: "vscode",
        title: "VS Code",
        paths: &[
            "./.vscode/mcp.json",
            "~/.config/Code/User/mcp.json",
            "~/Library/Application Support/Code/User/mcp.json",
            "$APPDATA/Code/User/mcp.json",
        ],
        expands: true,
    },
    Client {
        id: "codex",
        title: "Codex",
        paths: &["./.codex/config.toml", "$CODEX_HOME/config.toml", "~/.codex/config.toml"],
        expands: false,
    },
    Client {
        id: "gemini",
        title: "Gemini CLI",
        paths: &["./.gemini/settings.json", "~/.gemini/settings.json"],
        expands: true,
    },
    Client { id: "windsurf", title: "Windsurf", paths: &["~/.codeium/windsurf/mcp_config.json"], expands: true },
];

/// What was read from a client's configuration.
#[derive(Debug, Clone)]
pub struct Imported {
    /// A YAML text that begins with `servers:`, ready to be a configuration file or a part of one.
    pub servers: String,
    /// How many servers are in it.
    pub count: usize,
    /// What was altered, ignored or left out.
    pub warnings: Vec<Problem>,
    /// The files it was read from, the one that wins first.
    pub sources: Vec<PathBuf>,
}

/// The files of known clients that exist, in the order of [`CLIENTS`].
#[must_use]
pub fn detect(home: &Path, env: &dyn Fn(&str) -> Option<String>) -> Vec<(&'static Client, PathBuf)> {
    let found = |client: &'static Client| {
        locate(client, home, Path::new("."), env)
            .into_iter()
            .filter(|path| path.is_file())
            .map(move |path| (client, path))
    };
    CLIENTS.iter().flat_map(found).collect()
}

/// Reads the servers of `what`: a client's id, or the path of any file with `mcpServers`, `servers` or
/// `mcp_servers` in it. The project directory is the working directory.
///
/// # Errors
/// When there is no such client or file, or a file cannot be read.
pub fn read(what: &str, home: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Imported, Problems> {
    read_in(what, home, Path::new("."), env)
}

/// [`read`] with the project directory given.
///
/// # Errors
/// As [`read`].
pub fn read_in(
    what: &str,
    home: &Path,
    project: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Imported, Problems> {
    let (client, paths) = match CLIENTS.iter().find(|client| client.id == what) {
        Some(client) => {
            let mut looked: Vec<PathBuf> = locate(client, home, project, env);
            let found: Vec<PathBuf> = looked.iter().filter(|path| path.is_file()).cloned().collect();
            if found.is_empty() {
                looked.dedup();
                let places: Vec<String> = looked.iter().map(|path| format!("`{}`", path.display())).collect();
                let problem = Problem::error(format!("{} has no configuration file here", client.title));
                return Err(problem.with_hint(format!("looked for {}", places.join(", "))).into());
            }
            (Some(client), found)
        }
        None if Path::new(what).exists() => (owner(Path::new(what)), vec![PathBuf::from(what)]),
        None => {
            let ids: Vec<&str> = CLIENTS.iter().map(|client| client.id).collect();
            let hint = match nearest(what, &ids) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("clients: {}; or give the path of a file", ids.join(", ")),
            };
            return Err(Problem::error(format!("`{}` is neither a client nor a file", crate::check::shorten(what)))
                .with_hint(hint)
                .into());
        }
    };
    let mut importer =
        Importer { home, project, findings: Findings::new(), taken: HashSet::new(), servers: Vec::new() };
    let mut files = Vec::with_capacity(paths.len());
    for path in &paths {
        files.push(importer.file(path, client)?);
    }
    // What is meant for this project alone wins, in whatever file it stands.
    for scope in [Scope::Project, Scope::File] {
        for (root, dialect) in &files {
            importer.servers_of(root, scope, dialect);
        }
    }
    let count = importer.servers.iter().filter(|server| server.skipped.is_none()).count();
    if count == 0 && importer.servers.is_empty() {
        let place = Place { source: 0, start: 0, end: 0 };
        importer.findings.warning(place, "there are no servers in it", "");
    }
    let servers = render::block(&importer.servers);
    Ok(Imported { servers, count, warnings: importer.findings.into_problems(), sources: paths })
}

/// Where the files of `client` would be.
fn locate(client: &Client, home: &Path, project: &Path, env: Env<'_>) -> Vec<PathBuf> {
    let place = |path: &&str| match path.strip_prefix("./") {
        Some(rest) => Some(project.join(rest)),
        None => crate::install::place(path, home, env),
    };
    client.paths.iter().filter_map(place).collect()
}

/// The client a file belongs to, by its usual name.
fn owner(path: &Path) -> Option<&'static Client> {
    CLIENTS.iter().find(|client| {
        client.paths.iter().any(|usual| {
            let usual = usual.split_once('/').map_or(*usual, |(_, rest)| rest);
            // A bare `settings.json` or `mcp.json` says nothing; with its directory it does.
            let tail: PathBuf = Path::new(usual).iter().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
            path.ends_with(tail)
        })
    })
}

/// Whom a group of servers is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// One project, in a file that has several.
    Project,
    /// Whom the whole file is meant for.
    File,
}

struct Importer<'a> {
    home: &'a Path,
    project: &'a Path,
    findings: Findings,
    /// Names in use.
    taken: HashSet<String>,
    servers: Vec<Translated>,
}

impl Importer<'_> {
    /// Reads a file and how its client understands it.
    fn file(&mut self, path: &Path, client: Option<&'static Client>) -> Result<(Node, Dialect), Problems> {
        let problem = |message: String| Problems::from(Problem::error(message).in_file(path));
        let bytes =
            read_bounded(path, MAX_IMPORT_FILE).map_err(|error| problem(format!("cannot read the file: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| problem("the file is not UTF-8 text".to_owned()))?;
        // Clients without an extension of their own write JSON.
        let syntax = Syntax::of(path).unwrap_or(Syntax::Json);
        let base =
            std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
        let workspace = workspace(path, &base, self.home);
        let source = self.findings.sources.0.len();
        self.findings.sources.0.push(Source { name: path.to_owned(), base, text, masked: Vec::new() });
        let Some(root) = syntax::read(syntax, source, &mut self.findings) else {
            let findings = std::mem::replace(&mut self.findings, Findings::new());
            return Err(Problems(findings.into_problems()));
        };
        let gemini = client.is_some_and(|client| client.id == "gemini");
        let dialect = Dialect {
            expands: client.is_none_or(|client| client.expands),
            shell_variables: gemini,
            timeout_in_ms: gemini,
            home: self.home.to_owned(),
            workspace,
        };
        Ok((root, dialect))
    }

    fn servers_of(&mut self, root: &Node, scope: Scope, dialect: &Dialect) {
        let masked = |findings: &mut Findings, ranges: Vec<(usize, usize)>| {
            findings.sources.0[root.place.source].masked.extend(ranges);
        };
        for group in self.groups(root, scope) {
            masked(&mut self.findings, server::secrets(group));
            for (name, entry) in group.as_map().into_iter().flatten() {
                self.server(name, entry.key, &entry.node, dialect);
            }
        }
        for list in lists(root, scope) {
            masked(&mut self.findings, list.iter().flat_map(server::secrets_of_server).collect());
            for item in list {
                let name = item.at(&["name"]).and_then(Node::as_scalar).unwrap_or("server");
                self.server(name, item.place, item, dialect);
            }
        }
    }

    /// The maps of servers in a file, the one that wins first.
    fn groups<'n>(&self, root: &'n Node, scope: Scope) -> Vec<&'n Node> {
        let project =
            std::path::absolute(self.project).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let project = project.trim_end_matches(['/', '.']);
        let paths: &[&[&str]] = match scope {
            // Claude Code keeps what is meant for one project under the project's path.
            Scope::Project => &[&["projects", project, "mcpServers"]],
            Scope::File => &[
                &["mcpServers"],
                &["servers"],
                &["mcp_servers"],
                &["mcp", "servers"],
                &["amp.mcpServers"],
                &["context_servers"],
            ],
        };
        paths.iter().filter_map(|path| root.at(path)).filter(|node| node.as_map().is_some()).collect()
    }

    fn server(&mut self, name: &str, place: Place, node: &Node, dialect: &Dialect) {
        let shown = crate::check::shorten(name);
        if self.servers.iter().any(|server| server.original == name) {
            let hint = "the one that the client prefers is taken";
            self.findings.warning(place, format!("the server `{shown}` is configured more than once"), hint);
            return;
        }
        let form = match ServerName::parse(name) {
            Ok(name) => name,
            Err(_) => ServerName::normalise(name),
        };
        let unique = self.unique(form.as_str());
        if unique != name {
            let hint = "server names are lower case letters and digits with single `_` or `-`";
            self.findings.warning(place, format!("the server `{shown}` is called `{unique}` here"), hint);
        }
        let translated = server::translate(name, unique, node, dialect, &mut self.findings);
        self.servers.push(translated);
    }

    /// `name`, or the first of `name_2`, `name_3`, ... that is free, within the length of a name.
    fn unique(&mut self, name: &str) -> String {
        let mut candidate = name.to_owned();
        let mut number = 2_u32;
        while !self.taken.insert(candidate.clone()) {
            let suffix = format!("_{number}");
            let room = fairlead_core::server_name::MAX_LEN - suffix.len();
            let stem = name.get(..room.min(name.len())).unwrap_or(name).trim_end_matches(['_', '-']);
            candidate = format!("{stem}{suffix}");
            number += 1;
        }
        candidate
    }
}

/// Lists of servers that carry their names inside.
fn lists(root: &Node, scope: Scope) -> Vec<&[Node]> {
    let keys: &[&str] = match scope {
        Scope::Project => &[],
        Scope::File => &["mcpServers", "mcp_servers"],
    };
    keys.iter()
        .filter_map(|key| match &root.at(&[key])?.value {
            Value::List(items) => Some(items.as_slice()),
            _ => None,
        })
        .collect()
}

/// The project a file configures: the directory of `.mcp.json`, the parent of `.vscode` and the like,
/// unless that is the home directory.
fn workspace(path: &Path, base: &Path, home: &Path) -> Option<PathBuf> {
    let directory = base.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let project = if path.file_name().is_some_and(|name| name == ".mcp.json") {
        base
    } else if matches!(directory, ".vscode" | ".cursor" | ".codex" | ".gemini") {
        base.parent()?
    } else {
        return None;
    };
    (project != home).then(|| project.to_owned())
}
