//! The five servers of `examples/first-servers`, as the test tools install them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Where `cargo xtask tools` put other people's programs.
const TOOLS: &str = "FAIRLEAD_TOOLS";
/// The example whose configuration is used.
const EXAMPLE: &str = include_str!("../../../../../examples/first-servers/fairlead.yaml");

/// One program of each group that the usual tests need.
const USUAL: [&str; 7] = [
    "node22/bin/node",
    "servers-npm/node_modules/.bin/mcp-server-everything",
    "servers-py/bin/mcp-server-git",
    "client-py/bin/python",
    "client-ts1/node_modules/@modelcontextprotocol/sdk",
    "client-ts2/node_modules/@modelcontextprotocol/client",
    "inspector/node_modules/.bin/mcp-inspector",
];

/// Says that something is not tested. (`cargo xtask test` says which tools are missing, too: it shows nothing of tests that
/// pass.) In CI nothing is skipped.
fn skipped(why: &str) {
    let is_ci = std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    assert!(!is_ci, "{why}, and in CI nothing is skipped");
    eprintln!("SKIPPED: {why}");
}

/// The installed programs.
pub(crate) struct Shelf(PathBuf);

impl Shelf {
    /// `None`, with a word about it, where they are not installed; in CI they must be.
    pub(crate) fn find() -> Option<Self> {
        let Some(path) = std::env::var_os(TOOLS) else {
            skipped(&format!("{TOOLS} is not set; `cargo xtask tools --env` prints it"));
            return None;
        };
        let shelf = Self(path.into());
        USUAL.iter().all(|program| shelf.has(program)).then_some(shelf)
    }

    /// Whether it is there; when it is not, a word about it, and in CI a failure.
    pub(crate) fn has(&self, path: &str) -> bool {
        let is_there = self.0.join(path).exists();
        if !is_there {
            skipped(&format!("{path} is not installed; `cargo xtask tools --all` does it"));
        }
        is_there
    }

    /// A program or a directory of the shelf.
    pub(crate) fn path(&self, path: &str) -> String {
        let path = self.0.join(path);
        assert!(path.exists(), "{} is missing; `cargo xtask tools` installs it", path.display());
        path.to_str().unwrap().to_owned()
    }
}

/// What the servers work on.
pub(crate) struct World {
    dir: TempDir,
    config: String,
}

impl World {
    pub(crate) fn new(shelf: &Shelf) -> Self {
        let dir = tempfile::Builder::new().prefix("fairlead-real-").tempdir().unwrap();
        // The servers tell paths without symbolic links.
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("documents/notes")).unwrap();
        fs::write(root.join("documents/welcome.md"), "# Welcome\n").unwrap();
        fs::write(root.join("documents/notes/second.txt"), "first line\nsecond line: gr\u{fc}n\n").unwrap();
        repository(&root.join("repository"));
        let mut world = Self { dir, config: String::new() };
        world.config = world.installed(shelf);
        world
    }

    fn path(&self, path: &str) -> String {
        fs::canonicalize(self.dir.path()).unwrap().join(path).to_str().unwrap().to_owned()
    }

    /// The example with the installed programs in place of launchers, and with this world's paths.
    fn installed(&self, shelf: &Shelf) -> String {
        let servers = EXAMPLE.split_once("\nservers:").expect("invariant: the example has servers").1;
        let mut text = format!("servers:{servers}");
        for server in SERVERS {
            let launcher = if server.package.starts_with('@') { "npx" } else { "uvx" };
            let yes = if launcher == "npx" { "\"-y\", " } else { "" };
            let program = shelf.path(server.program);
            for end in [", ", "]"] {
                let from = format!("command: {launcher}\n    args: [{yes}\"{}\"{end}", server.package);
                if text.contains(&from) {
                    text = text
                        .replace(&from, &format!("command: {program}\n    args: [{}", end.trim_start_matches(", ")));
                }
            }
        }
        assert!(!text.contains("npx") && !text.contains("uvx"), "not every launcher was replaced:\n{text}");
        let mut replace = |from: &str, to: &str| {
            assert!(text.contains(from), "the example no longer says {from:?}");
            text = text.replace(from, to);
        };
        replace("cwd: .", &format!("cwd: {}", self.path("")));
        replace("\"../..\"", "\"repository\"");
        replace("${HOME}/.fairlead-memory.jsonl", &self.path("memory-gateway.jsonl"));
        text
    }

    /// The configuration of a gateway in front of these.
    pub(crate) fn gateway_config(&self, servers: &[&Server]) -> String {
        let is_wanted = |block: &&str| {
            let wanted = |server: &&Server| block.lines().any(|line| line == format!("  {}:", server.name));
            servers.iter().any(wanted)
        };
        let blocks: Vec<_> = self.config.split("\n\n").filter(is_wanted).collect();
        assert_eq!(blocks.len(), servers.len(), "a block of the example for each server:\n{}", self.config);
        // On a busy machine a server of these may take longer to start than anybody wants to wait for a list.
        format!("catalog: {{ first_wait: 60s }}\nservers:\n{}\n", blocks.join("\n\n").trim_start_matches("servers:\n"))
    }
}

/// A repository whose commits are the same every time.
fn repository(path: &Path) {
    fs::create_dir_all(path).unwrap();
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(path).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for (role, date) in [("AUTHOR", "2026-01-02T03:04:05Z"), ("COMMITTER", "2026-01-02T03:04:05Z")] {
            command.env(format!("GIT_{role}_NAME"), "Ada").env(format!("GIT_{role}_EMAIL"), "ada@example.com");
            command.env(format!("GIT_{role}_DATE"), date);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "--quiet", "--initial-branch=main"]);
    for (file, text) in [("one.txt", "one\n"), ("two.txt", "two\n")] {
        fs::write(path.join(file), text).unwrap();
        git(&["add", file]);
        git(&["commit", "--quiet", "--message", file]);
    }
}

/// One thing a client is told to do.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Call(String, Value),
    Read(String),
    Prompt(String, Value),
}

/// One server.
pub(crate) struct Server {
    /// Its name in the example.
    pub(crate) name: &'static str,
    /// Its name in the package index.
    package: &'static str,
    /// Where it is on the shelf.
    program: &'static str,
    /// Whether it also speaks the modern era.
    pub(crate) modern: bool,
    operations: fn(&World) -> Vec<Operation>,
}

pub(crate) const SERVERS: [&Server; 5] = [
    &Server {
        name: "everything",
        package: "@modelcontextprotocol/server-everything",
        program: "servers-npm/node_modules/.bin/mcp-server-everything",
        modern: false,
        operations: everything,
    },
    &Server {
        name: "files",
        package: "@modelcontextprotocol/server-filesystem",
        program: "servers-npm/node_modules/.bin/mcp-server-filesystem",
        modern: false,
        operations: files,
    },
    &Server {
        name: "memory",
        package: "@modelcontextprotocol/server-memory",
        program: "servers-npm/node_modules/.bin/mcp-server-memory",
        modern: false,
        operations: memory,
    },
    &Server {
        name: "time",
        package: "mcp-server-time",
        program: "servers-py/bin/mcp-server-time",
        modern: true,
        operations: time,
    },
    &Server {
        name: "git",
        package: "mcp-server-git",
        program: "servers-py/bin/mcp-server-git",
        modern: true,
        operations: git,
    },
];

impl Server {
    /// The command line of a process of its own. Clients hand servers a small environment only, so what a server needs
    /// is part of the command line.
    pub(crate) fn command(&self, shelf: &Shelf, world: &World, who: &str) -> Vec<String> {
        let program = shelf.path(self.program);
        let (before, after) = match self.name {
            "files" => (None, vec![world.path("documents")]),
            "memory" => (Some(format!("MEMORY_FILE_PATH={}", world.path(&format!("memory-{who}.jsonl")))), vec![]),
            "time" => (None, vec!["--local-timezone".to_owned(), "UTC".to_owned()]),
            "git" => (None, vec!["--repository".to_owned(), world.path("repository")]),
            _ => (None, vec![]),
        };
        let mut command = vec!["/usr/bin/env".to_owned()];
        command.extend(before);
        command.push(program);
        command.extend(after);
        command
    }

    /// What a client does with the server when it is alone.
    pub(crate) fn operations(&self, world: &World) -> Vec<Operation> {
        let mut operations = (self.operations)(world);
        if self.name == "everything" {
            // What the server does not have is its own to refuse.
            operations.push(Operation::Call("no-such-tool".to_owned(), json!({})));
            operations.push(Operation::Read("demo://nothing/here".to_owned()));
            operations.push(Operation::Prompt("no-such-prompt".to_owned(), json!({})));
        }
        operations
    }

    /// The same among others: names are prefixed.
    pub(crate) fn merged_operations(&self, world: &World) -> Vec<Operation> {
        let prefixed = |name: String| format!("{}__{name}", self.name);
        let operations = (self.operations)(world).into_iter();
        operations
            .map(|operation| match operation {
                Operation::Call(name, arguments) => Operation::Call(prefixed(name), arguments),
                Operation::Prompt(name, arguments) => Operation::Prompt(prefixed(name), arguments),
                Operation::Read(uri) => Operation::Read(uri),
            })
            .collect()
    }
}

fn call(name: &str, arguments: Value) -> Operation {
    Operation::Call(name.to_owned(), arguments)
}

fn everything(_: &World) -> Vec<Operation> {
    vec![
        call("echo", json!({"message": "h\u{e9}llo \u{1f30d}"})),
        call("get-sum", json!({"a": 2, "b": 40})),
        call("get-sum", json!({"a": "two"})),
        call("get-tiny-image", json!({})),
        call("get-annotated-message", json!({"messageType": "error", "includeImage": true})),
        call("get-resource-links", json!({"count": 2})),
        call("get-structured-content", json!({"location": "Chicago"})),
        call("trigger-long-running-operation", json!({"duration": 0.3, "steps": 3})),
        Operation::Read("demo://resource/static/document/features.md".to_owned()),
        Operation::Prompt("simple-prompt".to_owned(), json!({})),
        Operation::Prompt("args-prompt".to_owned(), json!({"city": "Riga", "state": "LV"})),
    ]
}

fn files(world: &World) -> Vec<Operation> {
    let path = |path: &str| world.path(&format!("documents/{path}"));
    vec![
        call("list_allowed_directories", json!({})),
        call("write_file", json!({"path": path("notes/third.txt"), "content": "third"})),
        call("list_directory", json!({"path": path("notes")})),
        call("read_text_file", json!({"path": path("notes/second.txt"), "tail": 1})),
        call("read_text_file", json!({"path": "/etc/hostname"})),
    ]
}

fn memory(_: &World) -> Vec<Operation> {
    // Ends as it began, so that it can be done again.
    vec![
        call("read_graph", json!({})),
        call(
            "create_entities",
            json!({"entities": [{"name": "Ada", "entityType": "person", "observations": ["writes programs"]}]}),
        ),
        call("search_nodes", json!({"query": "programs"})),
        Operation::Read("memory://knowledge-graph".to_owned()),
        call("delete_entities", json!({"entityNames": ["Ada"]})),
        call("search_nodes", json!({"query": "programs"})),
    ]
}

fn time(_: &World) -> Vec<Operation> {
    let from_to = |from: &str, to: &str| json!({"source_timezone": from, "time": "12:30", "target_timezone": to});
    vec![
        call("convert_time", from_to("UTC", "Asia/Tokyo")),
        call("convert_time", from_to("Nowhere/Town", "Asia/Tokyo")),
    ]
}

fn git(world: &World) -> Vec<Operation> {
    let repository = world.path("repository");
    vec![
        call("git_log", json!({"repo_path": repository, "max_count": 1})),
        call("git_show", json!({"repo_path": repository, "revision": "HEAD"})),
        call("git_status", json!({"repo_path": world.path("documents")})),
    ]
}
