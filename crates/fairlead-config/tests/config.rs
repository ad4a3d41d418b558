//! What a configuration becomes: defaults, layers, references, paths, client formats, difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

use fairlead_config::{
    Config, Find, HttpKind, LogFormat, Mode, Problems, Server, Share, Start, Transport, diff, load, parse_str,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

fn env(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/users/ada".to_owned()),
        "CRM_KEY" => Some("s3cret".to_owned()),
        "PORT" => Some("9999".to_owned()),
        "YES" => Some("true".to_owned()),
        "NESTED" => Some("${HOME}".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn yaml(text: &str) -> Config {
    parse_str("fairlead.yaml", text, Path::new("/etc/fairlead"), &env).unwrap_or_else(|problems| panic!("{problems}"))
}

fn layers(files: &[(&str, &str)]) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = files
        .iter()
        .map(|(name, text)| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        })
        .collect();
    load(&paths, &env)
}

fn server<'c>(config: &'c Config, name: &str) -> &'c Server {
    config.servers.get(name).unwrap_or_else(|| panic!("no server `{name}`"))
}

fn stdio<'c>(config: &'c Config, name: &str) -> &'c fairlead_config::Stdio {
    let Transport::Stdio(stdio) = &server(config, name).transport else { panic!("`{name}` is not a process") };
    stdio
}

fn http<'c>(config: &'c Config, name: &str) -> &'c fairlead_config::Http {
    let Transport::Http(http) = &server(config, name).transport else { panic!("`{name}` is not reached over HTTP") };
    http
}

const SKETCH: &str = r#"
listen: { address: 127.0.0.1:8642 }
data_dir: .fairlead
servers:
  files:
    command: npx
    args: ["-y", "@modelcontextprotocol/server-filesystem", "/srv/docs"]
    env: { LOG_LEVEL: info }
    start: lazy
    share: auto
  crm:
    url: https://crm.example.com/mcp
    headers: { X-Api-Key: "${env:CRM_KEY}" }
    timeout: { call: 60s, idle: 30s, connect: 5s }
    tools: { allow: ["get_*", "search"], deny: ["delete_*"] }
toolsets:
  support: { include: ["crm__*", "files__read_*"], mode: full }
"#;

#[test]
fn golden_normalised() {
    let mut config = yaml(SKETCH);
    assert!(config.workers >= 1);
    config.workers = 2;
    insta::assert_snapshot!(format!("{config:#?}"));
}

#[test]
fn the_three_syntaxes_say_the_same() {
    let json = r#"{
        // a comment
        "listen": { "address": "127.0.0.1:8642" },
        "data_dir": ".fairlead",
        "servers": {
            "files": {
                "command": "npx",
                "args": ["-y", "@modelcontextprotocol/server-filesystem", "/srv/docs"],
                "env": { "LOG_LEVEL": "info" }, /* another */
                "start": "lazy", "share": "auto",
            },
            "crm": {
                "url": "https://crm.example.com/mcp",
                "headers": { "X-Api-Key": "${env:CRM_KEY}" },
                "timeout": { "call": "60s", "idle": "30s", "connect": "5s" },
                "tools": { "allow": ["get_*", "search"], "deny": ["delete_*"] },
            },
        },
        "toolsets": { "support": { "include": ["crm__*", "files__read_*"], "mode": "full" } },
    }"#;
    let toml = r#"
        data_dir = ".fairlead"
        listen.address = "127.0.0.1:8642"
        [servers.files]
        command = "npx"
        args = ["-y", "@modelcontextprotocol/server-filesystem", "/srv/docs"]
        env = { LOG_LEVEL = "info" }
        start = "lazy"
        share = "auto"
        [servers.crm]
        url = "https://crm.example.com/mcp"
        headers = { X-Api-Key = "${env:CRM_KEY}" }
        timeout = { call = "60s", idle = "30s", connect = "5s" }
        tools = { allow = ["get_*", "search"], deny = ["delete_*"] }
        [toolsets.support]
        include = ["crm__*", "files__read_*"]
        mode = "full"
    "#;
    let expected = yaml(SKETCH);
    for (name, text) in [("f.json", json), ("f.toml", toml)] {
        let config =
            parse_str(name, text, Path::new("/etc/fairlead"), &env).unwrap_or_else(|problems| panic!("{problems}"));
        let difference = diff(&expected, &config);
        assert!(difference.is_empty(), "{name}: {difference:?}");
        let order: Vec<&str> = config.servers.keys().map(|name| name.as_str()).collect();
        assert_eq!(order, ["files", "crm"], "{name}");
    }
}

#[test]
fn without_files_there_are_defaults() {
    let config = load(&[], &env).unwrap();
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:8642");
    assert_eq!(config.admin.address.unwrap().to_string(), "127.0.0.1:8643");
    assert_eq!(config.data_dir, Path::new("/users/ada/.local/state/fairlead"));
    assert!(config.servers.is_empty() && config.sources.is_empty() && config.warnings.is_empty());
    let xdg = |name: &str| (name == "XDG_STATE_HOME").then(|| "/state".to_owned());
    assert_eq!(load(&[], &xdg).unwrap().data_dir, Path::new("/state/fairlead"));
    assert_eq!(load(&[], &|_| None).unwrap().data_dir, Path::new(".fairlead"));
}

#[test]
fn later_layers_win() {
    let config = layers(&[
        (
            "base.yaml",
            "drain: 1s\nlog: { level: warn, format: json }\nservers:\n  a: { command: cat, args: [x, y], env: { A: '1', B: '2' }, start: eager }\n  b: { command: cat }\n  c: { command: cat }\n",
        ),
        (
            "over.toml",
            "drain = '2s'\n[log]\nlevel = 'debug'\n[servers.a]\nargs = ['z']\n[servers.a.env]\nB = '3'\nC = '4'\n[servers.d]\nurl = 'http://d/mcp'\n",
        ),
        ("last.json", r#"{ "servers": { "a": { "env": { "A": null }, "start": null }, "b": null, "c": { "command": null, "url": "http://c/mcp" } } }"#),
    ])
    .unwrap();
    assert_eq!(config.drain, Duration::from_secs(2));
    assert_eq!((config.log.level.as_str(), config.log.format), ("debug", LogFormat::Json));
    let names: Vec<&str> = config.servers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["a", "c", "d"]);
    assert_eq!(stdio(&config, "a").args, ["z"]);
    let env: Vec<(&str, &str)> =
        stdio(&config, "a").env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(env, [("B", "3"), ("C", "4")]);
    assert_eq!(server(&config, "a").start, Start::Lazy);
    assert_eq!(http(&config, "c").url.as_str(), "http://c/mcp");
    assert_eq!(config.sources.len(), 3);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn a_problem_stands_in_the_layer_that_wrote_it() {
    let problems = layers(&[
        ("base.yaml", "servers:\n  a:\n    command: cat\n    env: { X: \"${env:UNSET}\", Y: \"${env:UNSET}\" }\n"),
        ("over.yaml", "servers:\n  a:\n    env: { X: set }\n    url: http://a/mcp\n"),
    ])
    .unwrap_err();
    let shown: Vec<String> = problems
        .iter()
        .map(|problem| {
            let file = problem.file.as_ref().unwrap().file_name().unwrap().to_string_lossy().into_owned();
            format!("{file}:{}:{}: {}", problem.line, problem.column, problem.message)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "base.yaml:4:34: the environment variable `UNSET` is not set",
            "over.yaml:4:5: the server has both `command` and `url`",
        ]
    );
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(at("config.ini"), "").unwrap();
    fs::create_dir(at("dir.yaml")).unwrap();
    fs::write(at("huge.yaml"), "#".repeat(usize::try_from(fairlead_config::MAX_FILE).unwrap() + 1)).unwrap();
    let paths = ["missing.yaml", "binary.yaml", "config.ini", "dir.yaml", "huge.yaml"].map(at);
    let problems = load(&paths, &env).unwrap_err();
    let shown = problems.to_string().replace(&directory.path().display().to_string(), "DIR");
    insta::assert_snapshot!(shown, @r"
    DIR/missing.yaml: cannot read the file: No such file or directory (os error 2)
      hint: check the path after `-c`
    DIR/binary.yaml: the file is not UTF-8 text (at byte 0)
    DIR/config.ini: the extension does not say what this file is
      hint: use `.yaml`, `.yml`, `.json`, `.jsonc` or `.toml`
    DIR/dir.yaml: cannot read the file: it is not a regular file
    DIR/huge.yaml: cannot read the file: it is larger than 4194304 bytes
    ");
}

#[test]
fn a_number_by_reference_is_a_number_also_where_a_word_could_stand() {
    let config = yaml(
        "admin: { address: \"127.0.0.1:${PORT}\" }\nlimits: { max_keys: \"${PORT}\" }\nservers:\n  a:\n    url: http://localhost:1/mcp\n    breaker: { consecutive: \"${env:FIVE:-5}\" }\n    retry: { attempts: \"${env:TWO:-2}\" }\n    tools: { rules: { \"*\": { cost: \"${env:FIVE:-5}\" } } }\n",
    );
    assert_eq!((config.admin.address.unwrap().port(), config.limits.max_keys), (9999, 9999));
    let rules = config.rules.values().next().unwrap();
    assert_eq!(rules.breaker.as_ref().unwrap().settings.consecutive, 5);
    assert_eq!(rules.retry.as_ref().unwrap().attempts, 2);
    assert_eq!(rules.tool("x").cost, Some(5));
}

#[test]
fn references() {
    fn arg(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("token.txt"), "from ${HOME} file\n").unwrap();
        let text = format!("servers:\n  a: {{ command: cat, args: [{}] }}\n", serde_json::to_string(text).unwrap());
        let config = parse_str("f.yaml", &text, directory.path(), &env).unwrap_or_else(|problems| panic!("{problems}"));
        stdio(&config, "a").args[0].clone()
    }
    for (written, expected) in [
        ("${env:HOME}", "/users/ada"),
        ("${HOME}/x", "/users/ada/x"),
        ("a${HOME}b${HOME}c", "a/users/adab/users/adac"),
        ("${env:UNSET:-fall back}", "fall back"),
        ("${UNSET:-x:-y}", "x:-y"),
        ("${UNSET:-}", ""),
        ("${EMPTY:-default}", "default"),
        ("${env:EMPTY}", ""),
        ("${file:token.txt}", "from ${HOME} file"),
        ("${NESTED}", "${HOME}"),
        ("$${HOME}", "${HOME}"),
        ("$$${HOME}", "$${HOME}"),
        ("$HOME $ {x}", "$HOME $ {x}"),
        ("$${", "${"),
    ] {
        assert_eq!(arg(written), expected, "{written}");
    }
    let config = yaml(
        "listen: { address: \"127.0.0.1:${PORT}\", max_connections: \"${PORT}\" }\nservers:\n  a: { command: cat, disabled: \"${YES}\" }\n",
    );
    assert_eq!((config.listen.address.port(), config.listen.max_connections), (9999, 9999));
    assert!(server(&config, "a").disabled);
}

#[test]
fn scalars_reach_a_program_as_they_are_spelled() {
    let config = yaml(
        "servers:\n  a:\n    command: cat\n    args: [-p, 8080, 1.10, 007, 0x1F, true, no, ~, \"null\", 1e3]\n    env: { PORT: 8080, V: 1.10, DEBUG: true, ON: on }\n".replace(", ~", "").as_str(),
    );
    assert_eq!(stdio(&config, "a").args, ["-p", "8080", "1.10", "007", "0x1F", "true", "no", "null", "1e3"]);
    let env: Vec<&str> = stdio(&config, "a").env.iter().map(|(_, value)| value.expose()).collect();
    assert_eq!(env, ["8080", "1.10", "true", "on"]);
}

#[test]
fn aliases_and_merge_keys_work() {
    let config = yaml(
        "servers:\n  a: &a { command: cat, args: &args [x], start: eager }\n  b: { <<: *a, command: dog }\n  c: { command: cow, args: *args }\n",
    );
    assert_eq!(
        (stdio(&config, "b").command.as_str(), stdio(&config, "b").args.as_slice()),
        ("dog", &["x".to_owned()][..])
    );
    assert_eq!(server(&config, "b").start, Start::Eager);
    assert_eq!(stdio(&config, "c").args, ["x"]);
}

#[test]
fn relative_paths_are_relative_to_their_file() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "one/base.yaml",
            "servers:\n  a: { command: ./bin/a, cwd: run, args: [./untouched] }\n  b: { command: ../b }\n  c: { command: c, cwd: /abs }\n",
        ),
        ("two/over.yaml", "servers:\n  c: { command: sub/c, envFile: c.env, env: { B: mine } }\n"),
        ("two/c.env", "# comment\nexport A=\"one two\"\nB=theirs\nC='${HOME}'\n\nD=\n"),
    ] {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = directory.path().display().to_string();
    let config = load(&[directory.path().join("one/base.yaml"), directory.path().join("two/over.yaml")], &env).unwrap();
    assert_eq!(config.data_dir, directory.path().join("one/.fairlead"));
    assert_eq!(stdio(&config, "a").command, format!("{root}/one/./bin/a"));
    assert_eq!(stdio(&config, "a").cwd, Some(directory.path().join("one/run")));
    assert_eq!(stdio(&config, "a").args, ["./untouched"]);
    assert_eq!(stdio(&config, "b").command, format!("{root}/one/../b"));
    assert_eq!(stdio(&config, "c").command, "sub/c");
    assert_eq!(stdio(&config, "c").cwd, Some(PathBuf::from("/abs")));
    let env: Vec<(&str, &str)> =
        stdio(&config, "c").env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(env, [("A", "one two"), ("B", "mine"), ("C", "${HOME}"), ("D", "")]);
}

#[test]
fn client_files_are_accepted() {
    let text = r#"{
        "mcpServers": {
            "everything": { "type": "stdio", "command": "npx", "args": ["-y", "x"], "disabled": true },
            "wind": { "serverUrl": "https://w.example/mcp" },
            "gem": { "httpUrl": "https://g.example/mcp", "type": "streamable-http" },
            "roo": { "url": "https://r.example/mcp", "type": "streamableHttp", "headers": { "Authorization": "Bearer ${CRM_KEY}" } },
            "Claude Style": { "command": "cat", "alwaysAllow": ["a"] }
        }
    }"#;
    let config = parse_str(".mcp.json", text, Path::new("/etc/fairlead"), &env).unwrap();
    let names: Vec<&str> = config.servers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["everything", "wind", "gem", "roo", "claude_style"]);
    assert!(server(&config, "everything").disabled);
    assert_eq!(http(&config, "wind").url.host(), "w.example");
    assert_eq!(http(&config, "gem").url.port(), 443);
    assert_eq!(http(&config, "roo").headers[0].0, "authorization");
    assert_eq!(http(&config, "roo").headers[0].1.expose(), "Bearer s3cret");
    let warnings: Vec<&str> = config.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        warnings,
        [
            "the server `Claude Style` is called `claude_style` here",
            "`alwaysAllow` of server `claude_style` is ignored"
        ]
    );
}

#[test]
fn words_and_switches() {
    let config = yaml(
        "admin: off\nservers:\n  a: { command: cat, share: per_tenant, prefix: false }\n  b: { command: cat, share: per_user }\n  c: { command: cat, share: per_session, protocol: 2025-06-18 }\n",
    );
    assert_eq!(config.admin.address, None);
    let share = |name| server(&config, name).share;
    assert_eq!((share("a"), share("b"), share("c")), (Share::PerTenant, Share::PerUser, Share::PerSession));
    assert!(!server(&config, "a").prefix);
    assert_eq!(server(&config, "c").protocol.as_deref(), Some("2025-06-18"));
    assert_eq!(yaml("admin: false").admin.address, None);
    assert_eq!(yaml("admin: { address: '[::1]:1' }").admin.address.unwrap().to_string(), "[::1]:1");
}

#[test]
fn filters_and_toolsets() {
    let config = yaml(
        "servers:\n  a: { command: cat, tools: { allow: ['get_*', search], deny: ['*_secret'] } }\n  b: { command: cat }\n  c: { command: cat, tools: { allow: ['*'] } }\ntoolsets:\n  t: { include: ['a__*'], exclude: ['*__search'] }\n  all: {}\n",
    );
    let filter = &server(&config, "a").tools;
    assert!(filter.permits("get_user") && filter.permits("search"));
    assert!(!filter.permits("get_secret") && !filter.permits("delete"));
    assert!(!filter.is_open() && server(&config, "b").tools.is_open() && server(&config, "c").tools.is_open());
    let toolset = &config.toolsets["t"];
    assert_eq!((toolset.mode, toolset.rank("a__get"), toolset.rank("b__get")), (Mode::Full, 0, 1));
    assert!(toolset.permits("a__get") && !toolset.permits("a__search") && !toolset.permits("b__get"));
    assert!(config.toolsets["all"].permits("anything"));
}

#[test]
fn difference() {
    let base =
        "servers:\n  a: { command: cat }\n  b: { url: http://b/mcp, headers: { K: one } }\n  c: { command: cat }\n";
    let old = yaml(base);
    assert!(diff(&old, &yaml(base)).is_empty());
    let new = yaml(
        "listen: { max_connections: 7 }\nlog: { level: debug }\nservers:\n  b: { url: http://b/mcp, headers: { K: two } }\n  a: { command: cat }\n  d: { command: cat }\n",
    );
    insta::assert_snapshot!(format!("{:?}", diff(&old, &new)), @r#"Diff { added: ["d"], removed: ["c"], changed: ["b"], unchanged: ["a"], listen_changed: true, other: ["log", "servers"] }"#);
    for (text, expected) in [
        ("data_dir: elsewhere", "data_dir"),
        ("drain: 1s", "drain"),
        ("admin: off", "admin"),
        ("workers: 63", "workers"),
        ("toolsets: { t: {} }", "toolsets"),
        ("names: { max: 50 }", "names"),
        ("catalog: { page_size: 5 }", "catalog"),
        ("sessions: { max: 5 }", "sessions"),
    ] {
        let difference = diff(&old, &yaml(&format!("{text}\n{base}")));
        assert_eq!(difference.other, [expected]);
        assert!(!difference.listen_changed && difference.changed.is_empty());
    }
}

#[test]
fn identity_is_of_what_the_server_is() {
    let identity = |text: &str| server(&yaml(&format!("servers:\n  a: {{ {text} }}\n")), "a").identity();
    // Stored beside catalogs: a change of these values throws away what was learnt.
    assert_eq!(identity("command: cat"), "24d8e98cd88e88d4");
    assert_eq!(identity("url: http://x/mcp"), "b224f601d369ce52");
    for (one, other) in [
        ("command: cat, env: { A: b }, start: eager", "command: cat"),
        ("url: http://x/mcp, headers: { A: b }, max_calls: 3", "url: http://x/mcp"),
    ] {
        assert_eq!(identity(one), identity(other));
    }
    let different = [
        "command: cat",
        "command: cat, args: [x]",
        "command: cat, args: [x, y]",
        "command: cat, args: [xy]",
        "command: cat, cwd: /x",
        "command: catx",
        "url: http://x/mcp",
        "url: http://x/mcp?a",
    ];
    let distinct: std::collections::HashSet<String> = different.iter().map(|text| identity(text)).collect();
    assert_eq!(distinct.len(), different.len());
}

#[test]
fn secrets_are_not_shown() {
    let config = yaml(
        "servers:\n  a: { command: cat, args: [\"--key=${CRM_KEY}\"], env: { K: \"${CRM_KEY}\" } }\n  b: { url: \"http://b/mcp?key=${CRM_KEY}\", headers: { K: \"${CRM_KEY}\" } }\n",
    );
    assert_eq!(http(&config, "b").url.path_and_query(), "/mcp?key=s3cret");
    let shown = format!("{config:?} {config:#?} {}", http(&config, "b").url);
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(stdio(&config, "a").env[0].1.to_string(), "***");
}

#[test]
fn every_way_to_a_server() {
    let config = yaml(
        "servers:\n  p: { command: cat }\n  h: { url: http://x/mcp }\n  s: { url: http://x/sse, transport: sse }\n  \
         t: { url: http://x/sse, type: sse }\n  n: { url: http://x/mcp, transport: streamable-http }\n  \
         w: { url: wss://x/mcp, headers: { A: b } }\n  v: { url: ws://x/mcp, type: ws }\n  \
         c: { tcp: '[::1]:7000' }\n  u: { unix: run/x.sock }\n  k: { url: http://localhost/mcp, unix: /run/k.sock }\n",
    );
    let words: Vec<_> = config.servers.values().map(|server| server.transport.word()).collect();
    assert_eq!(words, ["stdio", "http", "sse", "sse", "http", "websocket", "websocket", "tcp", "unix", "http"]);
    let kinds = ["h", "s", "t", "n", "k"].map(|name| http(&config, name).kind);
    assert_eq!(kinds, [HttpKind::Detect, HttpKind::Sse, HttpKind::Sse, HttpKind::Streamable, HttpKind::Detect]);
    assert_eq!(http(&config, "k").socket.as_deref(), Some(Path::new("/run/k.sock")));
    let Transport::WebSocket(socket) = &server(&config, "w").transport else { panic!("no WebSocket") };
    assert_eq!((socket.url.is_tls(), socket.url.port(), socket.headers.len()), (true, 443, 1));
    let Transport::Tcp(address) = &server(&config, "c").transport else { panic!("no TCP") };
    assert_eq!((&*address.host, address.port, address.to_string().as_str()), ("::1", 7000, "[::1]:7000"));
    let Transport::Unix(path) = &server(&config, "u").transport else { panic!("no Unix socket") };
    assert!(path.ends_with("run/x.sock") && path.is_absolute());
    let identities: std::collections::HashSet<_> = config.servers.values().map(|server| server.identity()).collect();
    assert_eq!(identities.len(), 8, "each is another server, but for the transport of one URL");
}

#[test]
fn toolsets_have_modes() {
    let config = yaml(
        "servers:\n  a: { command: cat }\ntoolsets:\n  s: { mode: search }\n  f: { mode: search, find: { tokens: 500, tools: 3 } }\n  b: { mode: budget }\n  c: { mode: budget, budget: 1000 }\n  w: { budget: 1000 }\n",
    );
    let modes: Vec<_> = config.toolsets.values().map(|toolset| toolset.mode).collect();
    let found = |tokens, tools| Mode::Search(Find { tokens, tools });
    let fits = |tokens| Mode::Budget { tokens };
    assert_eq!(modes, [found(2000, 5), found(500, 3), fits(8000), fits(1000), Mode::Full]);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}

#[test]
fn routes_name_servers_that_there_are() {
    let servers = "servers:\n  a: { command: cat }\n  b: { command: cat }\n";
    let config = yaml(&format!(
        "{servers}routes:\n  - {{ tool: ['a__*'], arguments: {{ x.y: 'eu-*' }}, to: [{{ server: b, weight: 3 }}, {{ server: a, priority: 1 }}], split: caller, mirror: {{ server: a }} }}\n"
    ));
    let route = &config.routes[0];
    assert_eq!((route.to.len(), route.to[0].weight, route.to[1].priority, route.by_caller), (2, 3, 1, true));
    assert_eq!(route.arguments[0].0, ["x", "y"]);
    let mirror = route.mirror.as_ref().unwrap();
    assert_eq!((mirror.percent, mirror.any_tool, mirror.max), (100, false, 16));
    for bad in ["{ to: [{ server: c }] }", "{ tool: ['*'] }", "{ mirror: { server: 'A b' } }"] {
        let text = format!("{servers}routes:\n  - {bad}\n");
        assert!(parse_str("f.yaml", &text, Path::new("/"), &env).is_err(), "{bad}");
    }
}
