//! Client configuration files and the block they become. Every block is itself a valid configuration.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

use fairlead_config::{
    Config, Problems, Transport,
    import::{self, CLIENTS, Imported},
    parse_str,
};
use std::{fs, path::Path};

fn env(_: &str) -> Option<String> {
    None
}

struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn with(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.replace("{HOME}", &directory.path().display().to_string())).unwrap();
        }
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn read(&self, what: &str) -> Result<Imported, Problems> {
        import::read_in(what, &self.path().join("home"), &self.path().join("project"), &env)
    }

    /// The block, the warnings and the sources, with the directory's name taken out.
    fn shown(&self, what: &str) -> String {
        let imported = self.read(what).unwrap_or_else(|problems| panic!("{problems}"));
        accepted(&imported);
        let sources: Vec<String> = imported.sources.iter().map(|path| path.display().to_string()).collect();
        let text = format!("{}---\n{}\n---\n{}", imported.servers, Problems(imported.warnings), sources.join("\n"));
        text.replace(&self.path().display().to_string(), "DIR")
    }
}

/// The block is a valid configuration with as many servers as were counted.
fn accepted(imported: &Imported) -> Config {
    let set = |_: &str| Some("set".to_owned());
    let directory = tempfile::tempdir().unwrap();
    // An `envFile` is read when the configuration is loaded; here only the block is of interest.
    let block: String =
        imported.servers.lines().filter(|line| !line.contains("envFile:")).map(|line| format!("{line}\n")).collect();
    let config = parse_str("fairlead.yaml", &block, directory.path(), &set)
        .unwrap_or_else(|problems| panic!("{problems}\n{block}"));
    assert_eq!(config.servers.len(), imported.count);
    config
}

#[test]
fn claude_code() {
    let home = Home::with(&[
        (
            "home/.claude.json",
            r#"{
                "numStartups": 12,
                "mcpServers": {
                    "github": { "type": "http", "url": "https://api.example.com/mcp", "headers": { "Authorization": "Bearer ${GH_TOKEN}" } },
                    "files": { "type": "stdio", "command": "npx", "args": ["-y", "server-filesystem", "/srv"], "env": {} },
                    "legacy": { "type": "sse", "url": "https://old.example.com/sse" }
                },
                "projects": {
                    "{HOME}/project": { "mcpServers": { "local": { "command": "uvx", "args": ["mcp-server-git"] } } },
                    "/elsewhere": { "mcpServers": { "other": { "command": "cat" } } }
                }
            }"#,
        ),
        (
            "project/.mcp.json",
            r#"{ "mcpServers": { "files": { "command": "${BIN:-npx}", "args": ["project"] }, "docs": { "command": "./docs", "env": { "KEY": "${DOCS_KEY:-none}" } }, "local": { "command": "shadowed" } } }"#,
        ),
    ]);
    insta::assert_snapshot!(home.shown("claude-code"), @r#"
    servers:
      local:
        command: uvx
        args: ["mcp-server-git"]
      files:
        command: "${env:BIN:-npx}"
        args: ["project"]
      docs:
        command: DIR/project/docs
        env:
          KEY: "${env:DOCS_KEY:-none}"
      github:
        url: https://api.example.com/mcp
        headers:
          Authorization: "Bearer ${env:GH_TOKEN}"
      legacy:
        url: https://old.example.com/sse
        transport: sse
    ---
    DIR/project/.mcp.json:1:151: warning: the server `local` is configured more than once
      hint: the one that the client prefers is taken
    DIR/home/.claude.json:5:21: warning: the server `files` is configured more than once
      hint: the one that the client prefers is taken
    ---
    DIR/project/.mcp.json
    DIR/home/.claude.json
    "#);
}

#[test]
fn claude_desktop() {
    let home = Home::with(&[(
        "home/.config/Claude/claude_desktop_config.json",
        r#"{
            "globalShortcut": "",
            "mcpServers": {
                "filesystem": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/Users/ada/Desktop"] },
                "Remote CRM": { "command": "npx", "args": ["-y", "mcp-remote", "https://crm.example.com/mcp", "--header", "Authorization:${AUTH}"], "env": { "AUTH": "Bearer T" } },
                "remote-crm": { "command": "cat" },
                "gw": { "command": "/usr/local/bin/fairlead", "args": ["stdio"] }
            }
        }"#,
    )]);
    insta::assert_snapshot!(home.shown("claude-desktop"), @r#"
    servers:
      filesystem:
        command: npx
        args: ["-y", "@modelcontextprotocol/server-filesystem", "/Users/ada/Desktop"]
      remote_crm:  # was: Remote CRM
        command: npx
        args: ["-y", "mcp-remote", "https://crm.example.com/mcp", "--header", "Authorization:$${AUTH}"]
        env:
          AUTH: "Bearer T"
      remote-crm:
        command: cat
      # gw is left out: it is the gateway itself
    ---
    DIR/home/.config/Claude/claude_desktop_config.json:5:17: warning: the server `Remote CRM` is called `remote_crm` here
      hint: server names are lower case letters and digits with single `_` or `-`
    DIR/home/.config/Claude/claude_desktop_config.json:7:23: warning: the server `gw` is left out: it is the gateway itself
    ---
    DIR/home/.config/Claude/claude_desktop_config.json
    "#);
}

#[test]
fn cursor() {
    let home = Home::with(&[
        (
            "home/.cursor/mcp.json",
            r#"{ "mcpServers": { "web": { "url": "https://web.example.com/mcp", "headers": { "X-Key": "${env:WEB_KEY}" }, "auth": { "CLIENT_ID": "x" } } } }"#,
        ),
        (
            "project/.cursor/mcp.json",
            r#"{ "mcpServers": { "tools": { "command": "node", "args": ["${workspaceFolder}/server.js", "${userHome}/data"], "envFile": "${workspaceFolder}/.env" } } }"#,
        ),
    ]);
    insta::assert_snapshot!(home.shown("cursor"), @r#"
    servers:
      tools:
        command: node
        args: ["DIR/project/server.js", "DIR/home/data"]
        envFile: DIR/project/.env
      web:
        url: https://web.example.com/mcp
        headers:
          X-Key: "${env:WEB_KEY}"
    ---
    DIR/home/.cursor/mcp.json:1:108: warning: `auth` of server `web` is ignored
      hint: signing in to a server is not available in this version: write `headers`
    ---
    DIR/project/.cursor/mcp.json
    DIR/home/.cursor/mcp.json
    "#);
}

#[test]
fn vscode() {
    let home = Home::with(&[(
        "project/.vscode/mcp.json",
        r#"{
            // comments are usual here
            "inputs": [{ "type": "promptString", "id": "perplexity-key", "description": "API key", "password": true }],
            "servers": {
                "Perplexity": {
                    "type": "stdio", "command": "npx", "args": ["-y", "server-perplexity-ask"],
                    "env": { "PERPLEXITY_API_KEY": "${input:perplexity-key}", "UNSET": null, "PORT": 8080 },
                },
                "fetch": { "command": "uvx", "args": ["mcp-server-fetch"], "cwd": "${workspaceFolder}/x", "dev": { "watch": "src/**" } },
                "remote": { "type": "http", "url": "https://api.example.com/mcp", "headers": { "Authorization": "Bearer ${input:tok}" } },
                "gateway": { "type": "http", "url": "http://localhost:8642/mcp" },
            },
        }"#,
    )]);
    insta::assert_snapshot!(home.shown("vscode"), @r#"
    servers:
      perplexity:  # was: Perplexity
        # set PERPLEXITY_KEY: it replaces ${input:perplexity-key}
        command: npx
        args: ["-y", "server-perplexity-ask"]
        env:
          PERPLEXITY_API_KEY: "${env:PERPLEXITY_KEY}"
          PORT: "8080"
      fetch:
        command: uvx
        args: ["mcp-server-fetch"]
        cwd: DIR/project/x
      remote:
        # set TOK: it replaces ${input:tok}
        url: https://api.example.com/mcp
        headers:
          Authorization: "Bearer ${env:TOK}"
      # gateway is left out: it is the gateway itself
    ---
    DIR/project/.vscode/mcp.json:5:17: warning: the server `Perplexity` is called `perplexity` here
      hint: server names are lower case letters and digits with single `_` or `-`
    DIR/project/.vscode/mcp.json:7:52: warning: `${input:perplexity-key}` asks a person, and nobody is there to answer
      hint: set the environment variable `PERPLEXITY_KEY`: the value is now `${env:PERPLEXITY_KEY}`
    DIR/project/.vscode/mcp.json:9:107: warning: `dev` of server `fetch` is ignored
      hint: it is a setting of the client, or not known
    DIR/project/.vscode/mcp.json:10:113: warning: `${input:tok}` asks a person, and nobody is there to answer
      hint: set the environment variable `TOK`: the value is now `${env:TOK}`
    DIR/project/.vscode/mcp.json:11:28: warning: the server `gateway` is left out: it is the gateway itself
    ---
    DIR/project/.vscode/mcp.json
    "#);
}

#[test]
fn codex() {
    let home = Home::with(&[(
        "home/.codex/config.toml",
        r#"
model = "x"
[mcp_servers.zeta]
command = "npx"
args = ["-y", "server", "${literal}"]
env_vars = ["PATH_EXTRA"]
startup_timeout_sec = 20.0
tool_timeout_sec = 90
enabled_tools = ["search", "get_*"]
disabled_tools = ["delete"]
[mcp_servers.zeta.env]
API_KEY = "value: with # odd \"characters\""
[mcp_servers.alpha]
url = "https://alpha.example.com/mcp"
bearer_token_env_var = "ALPHA_TOKEN"
http_headers = { X-Region = "eu" }
env_http_headers = { X-Key = "ALPHA_KEY" }
enabled = false
"#,
    )]);
    insta::assert_snapshot!(home.shown("codex"), @r#"
    servers:
      zeta:
        command: npx
        args: ["-y", "server", "$${literal}"]
        env:
          PATH_EXTRA: "${env:PATH_EXTRA}"
          API_KEY: "value: with # odd \"characters\""
        timeout: { start: 20s, call: 90s }
        tools:
          allow: ["search", "get_*"]
          deny: ["delete"]
      alpha:
        url: https://alpha.example.com/mcp
        headers:
          Authorization: "Bearer ${env:ALPHA_TOKEN}"
          X-Region: eu
          X-Key: "${env:ALPHA_KEY}"
        disabled: true
    ---

    ---
    DIR/home/.codex/config.toml
    "#);
}

#[test]
fn gemini() {
    let home = Home::with(&[(
        "home/.gemini/settings.json",
        r#"{
            "theme": "dark",
            "mcpServers": {
                "py": { "command": "python", "args": ["-m", "server"], "cwd": "./tools", "env": { "KEY": "$MY_KEY", "RAW": "a$b c" }, "timeout": 15000, "trust": true, "includeTools": ["safe", "run(rm)"], "excludeTools": ["rm"] },
                "old": { "httpUrl": "https://g.example.com/mcp", "timeout": 1500 },
                "new": { "url": "https://g.example.com/mcp", "type": "http", "headers": { "A": "b" }, "oauth": { "enabled": true } }
            }
        }"#,
    )]);
    insta::assert_snapshot!(home.shown("gemini"), @r#"
    servers:
      py:
        command: python
        args: ["-m", "server"]
        env:
          KEY: "${MY_KEY}"
          RAW: "a${b} c"
        cwd: "./tools"
        timeout: { call: 15s }
        tools:
          allow: ["safe"]
          deny: ["rm"]
      old:
        url: https://g.example.com/mcp
        timeout: { call: 1500ms }
      new:
        url: https://g.example.com/mcp
        headers:
          A: b
    ---
    DIR/home/.gemini/settings.json:4:79: warning: `cwd` of server `py` is a relative path
      hint: here it is relative to the configuration file it stands in
    DIR/home/.gemini/settings.json:4:153: warning: `trust` of server `py` is ignored
      hint: it is a setting of the client, or not known
    DIR/home/.gemini/settings.json:4:184: warning: an entry of `includeTools` of server `py` is ignored
      hint: only names of tools and patterns with `*` and `?` are taken over
    DIR/home/.gemini/settings.json:6:103: warning: `oauth` of server `new` is ignored
      hint: signing in to a server is not available in this version: write `headers`
    ---
    DIR/home/.gemini/settings.json
    "#);
}

#[test]
fn windsurf() {
    let home = Home::with(&[(
        "home/.codeium/windsurf/mcp_config.json",
        r#"{ "mcpServers": { "figma": { "serverUrl": "https://f.example.com/mcp", "headers": { "API_KEY": "${env:FIGMA}" } }, "off": { "command": "npx", "disabled": true, "disabledTools": ["a", "b"] } } }"#,
    )]);
    insta::assert_snapshot!(home.shown("windsurf"), @r#"
    servers:
      figma:
        url: https://f.example.com/mcp
        headers:
          API_KEY: "${env:FIGMA}"
      off:
        command: npx
        tools:
          deny: ["a", "b"]
        disabled: true
    ---

    ---
    DIR/home/.codeium/windsurf/mcp_config.json
    "#);
}

#[test]
fn other_files() {
    let home = Home::with(&[
        (
            "continue.yaml",
            "name: x\nmcpServers:\n  - name: Search Server\n    type: streamable-http\n    url: https://s.example.com/mcp\n  - command: cat\n",
        ),
        (
            "vibe.toml",
            "[[mcp_servers]]\nname = \"one\"\ncommand = \"cat\"\n[[mcp_servers]]\nname = \"one\"\ncommand = \"dog\"\n",
        ),
        (
            "mcp.json",
            r#"{ "mcpServers": { "a": { "url": "ftp://x/mc" }, "b": { "command": 3, "args": "x" }, "c": 7, "d": {}, "e": { "command": "x", "url": "http://y/" }, "f": { "url": "ws://x/mcp", "type": "ws" } } }"#,
        ),
        ("nothing.json", "{}"),
        ("broken.json", r#"{ "mcpServers": { "a": { "env": { "K": "hunter2" "L": 1 } } } }"#),
    ]);
    let shown = |name: &str| home.shown(home.path().join(name).to_str().unwrap());
    insta::assert_snapshot!(shown("continue.yaml"), @r"
    servers:
      search_server:  # was: Search Server
        url: https://s.example.com/mcp
      server:
        command: cat
    ---
    DIR/continue.yaml:3:5: warning: the server `Search Server` is called `search_server` here
      hint: server names are lower case letters and digits with single `_` or `-`
    ---
    DIR/continue.yaml
    ");
    insta::assert_snapshot!(shown("vibe.toml"), @r"
    servers:
      one:
        command: cat
    ---
    DIR/vibe.toml:4:1: warning: the server `one` is configured more than once
      hint: the one that the client prefers is taken
    ---
    DIR/vibe.toml
    ");
    insta::assert_snapshot!(shown("mcp.json"), @r#"
    servers:
      # a is left out: its URL is none of `http://`, `https://`, `ws://` and `wss://`
      b:
        command: "3"
      # c is left out: it is not a map of settings
      # d is left out: it has neither a command nor a URL
      # e is left out: it has both a command and a URL
      f:
        url: ws://x/mcp
    ---
    DIR/mcp.json:1:24: warning: the server `a` is left out: its URL is none of `http://`, `https://`, `ws://` and `wss://`
    DIR/mcp.json:1:78: warning: `args` of server `b` is ignored: expected a list, found text
    DIR/mcp.json:1:90: warning: the server `c` is left out: it is not a map of settings
    DIR/mcp.json:1:98: warning: the server `d` is left out: it has neither a command nor a URL
    DIR/mcp.json:1:107: warning: the server `e` is left out: it has both a command and a URL
    ---
    DIR/mcp.json
    "#);
    insta::assert_snapshot!(shown("nothing.json"), @r"
    servers: {}
    ---
    DIR/nothing.json:1:1: warning: there are no servers in it
    ---
    DIR/nothing.json
    ");
    let refused = home.read(home.path().join("broken.json").to_str().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("broken.json:1:") && !refused.contains("hunter2"), "{refused}");
}

#[test]
fn what_is_not_there() {
    let home = Home::with(&[]);
    let refused =
        |what: &str| home.read(what).unwrap_err().to_string().replace(&home.path().display().to_string(), "DIR");
    insta::assert_snapshot!(refused("cursr"), @r"
    `cursr` is neither a client nor a file
      hint: did you mean `cursor`?
    ");
    insta::assert_snapshot!(refused("missing.json"), @r"
    `missing.json` is neither a client nor a file
      hint: clients: claude-code, claude-desktop, cursor, vscode, codex, gemini, windsurf; or give the path of a file
    ");
    insta::assert_snapshot!(refused("cursor"), @r"
    Cursor has no configuration file here
      hint: looked for `DIR/project/.cursor/mcp.json`, `DIR/home/.cursor/mcp.json`
    ");
}

#[test]
fn detects_what_exists_and_follows_the_environment() {
    let home = Home::with(&[
        ("home/.cursor/mcp.json", "{}"),
        ("xdg/Claude/claude_desktop_config.json", "{}"),
        ("codex/config.toml", ""),
    ]);
    let root = home.path().to_owned();
    let env = move |name: &str| match name {
        "XDG_CONFIG_HOME" => Some(root.join("xdg").display().to_string()),
        "CODEX_HOME" => Some(root.join("codex").display().to_string()),
        _ => None,
    };
    let found: Vec<&str> =
        import::detect(&home.path().join("home"), &env).into_iter().map(|(client, _)| client.id).collect();
    assert_eq!(found, ["claude-desktop", "cursor", "codex"]);
    let ids: std::collections::HashSet<&str> = CLIENTS.iter().map(|client| client.id).collect();
    assert_eq!(ids.len(), CLIENTS.len());
}

#[test]
fn values_arrive_unchanged() {
    let odd = [
        "",
        " ",
        "no",
        "123",
        "1.10",
        "a: b",
        "#x",
        "'",
        "\"",
        "\\",
        "tab\t",
        "line\nbreak",
        "ünï",
        "${X}",
        "$${X}",
        "$",
        "-",
        "~",
        "{a}",
        "[b]",
        "*",
        "&",
        "!",
        "%",
        "@",
        "`",
        "null",
        "a #b",
        "\u{85}",
        "\u{2028}",
    ];
    let args = serde_json::to_string(&odd).unwrap();
    let home = Home::with(&[(
        "home/.config/Claude/claude_desktop_config.json",
        &format!(
            r#"{{ "mcpServers": {{ "a": {{ "command": "x", "args": {args}, "env": {{ "weird name: #": "v" }} }} }} }}"#
        ),
    )]);
    let config = accepted(&home.read("claude-desktop").unwrap());
    let Transport::Stdio(stdio) = &config.servers["a"].transport else { panic!("not a process") };
    assert_eq!(stdio.args, odd);
    assert_eq!(stdio.env[0].0, "weird name: #");
}
