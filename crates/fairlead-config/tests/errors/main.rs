//! Everything a person can get wrong, and what they are told: place, reason, hint.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

mod syntax;
mod tool_shape;

use fairlead_config::{Severity, parse_str, report};
use insta::assert_snapshot;
use std::path::Path;

fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some("hunter2-from-env".to_owned()),
        "BROKEN" => Some("hunter2\nline".to_owned()),
        "NUMBER" => Some("17".to_owned()),
        "WORD" => Some("seventeen".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn problems(name: &str, text: &str) -> String {
    match parse_str(name, text, Path::new("/etc/fairlead"), &env) {
        Ok(config) => format!("accepted\n{}", fairlead_config::Problems(config.warnings)),
        Err(problems) => {
            assert!(problems.has_errors(), "refused without an error: {problems}");
            let shown = problems.to_string();
            let pretty = report(&problems, false);
            for text in [&shown, &pretty, &format!("{problems:?}")] {
                assert!(!text.contains("hunter2"), "a secret is shown:\n{text}");
            }
            for problem in &problems {
                assert!(
                    pretty.contains(problem.hint.as_deref().unwrap_or_default().split(' ').next().unwrap_or_default())
                );
            }
            shown
        }
    }
}

#[test]
fn unknown_keys() {
    assert_snapshot!(problems("f.yaml", r"
lisen: {}
listen: { adress: 127.0.0.1:1, maxBody: 1MiB, bananas: 1 }
server: {}
"), @r"
    f.yaml:2:1: unknown key `lisen`
      hint: did you mean `listen`?
    f.yaml:3:11: unknown key `adress` in `listen`
      hint: did you mean `address`?
    f.yaml:3:32: unknown key `maxBody` in `listen`
      hint: did you mean `max_body`?
    f.yaml:3:47: unknown key `bananas` in `listen`
      hint: valid keys here: `address`, `body_timeout`, `compression`, `header_timeout`, `hosts`, `idle_timeout`, `keep_alive`, `max_body`, `max_connections`, `max_header_bytes`, `origins`, `tls` or `ws_ping`
    f.yaml:4:1: unknown key `server`
      hint: did you mean `servers`?
    ");
}

#[test]
fn key_of_another_section() {
    assert_snapshot!(problems("f.yaml", r"
max_body: 1MiB
url: http://x/mcp
"), @r"
    f.yaml:2:1: unknown key `max_body`
      hint: `max_body` belongs under `listen`
    f.yaml:3:1: unknown key `url`
      hint: `url` belongs under `servers.<name>`
    ");
}

#[test]
fn later_versions() {
    assert_snapshot!(problems("f.yaml", r"
audit: off
servers:
  a: { command: cat, graphql: [], sql: postgres }
"), @r"
    f.yaml:2:1: `audit` is not available in this version
      hint: remove it; `fairlead schema` lists what there is
    f.yaml:4:22: `graphql` is not available in this version
      hint: remove it; `fairlead schema` lists what there is
    f.yaml:4:35: `sql` is not available in this version
      hint: remove it; `fairlead schema` lists what there is
    ");
}

#[test]
fn wrong_kinds() {
    assert_snapshot!(problems("f.yaml", r#"
listen: 8642
names: { max: forty }
servers:
  a: { command: [cat], args: -v, env: [A], disabled: "yes", prefix: off }
  b: cat
toolsets: []
"#), @r#"
    f.yaml:2:9: `listen`: expected a map, found a number
    f.yaml:3:15: `names.max`: expected a whole number, found text
      hint: write a number without quotes
    f.yaml:5:17: `servers.a.command`: expected text, found a list
    f.yaml:5:30: `servers.a.args`: expected a list, found text
      hint: write a list, for example `["one", "two"]`
    f.yaml:5:39: `servers.a.env`: expected a map, found a list
      hint: write `key: value` lines instead of `- item` lines
    f.yaml:5:54: `servers.a.disabled`: expected true or false, found text
      hint: write `true` or `false`, without quotes
    f.yaml:5:69: `servers.a.prefix`: expected true or false, found text
      hint: write `true` or `false`, without quotes
    f.yaml:6:6: `servers.b`: expected a map, found text
    f.yaml:7:11: `toolsets`: expected a map, found a list
      hint: write `key: value` lines instead of `- item` lines
    "#);
}

#[test]
fn durations() {
    assert_snapshot!(problems("f.yaml", r"
drain: 30
sessions: { idle: 30 minutes, max_age: 1w }
listen: { body_timeout: 0s, idle_timeout: 1.5m, keep_alive: 400d }
"), @r"
    f.yaml:2:8: `drain`: expected a duration, found a number
      hint: add a unit: `ms`, `s`, `m`, `h` or `d`, for example `30s`
    f.yaml:3:19: `sessions.idle`: the unit of the duration is not known (`30 minutes`)
      hint: write a whole number and one of `ms`, `s`, `m`, `h`, `d`, for example `30s` or `500ms`
    f.yaml:3:40: `sessions.max_age`: the unit of the duration is not known (`1w`)
      hint: write a whole number and one of `ms`, `s`, `m`, `h`, `d`, for example `30s` or `500ms`
    f.yaml:4:25: `listen.body_timeout`: the duration cannot be zero (`0s`)
    f.yaml:4:43: `listen.idle_timeout`: the unit of the duration is not known (`1.5m`)
      hint: write a whole number and one of `ms`, `s`, `m`, `h`, `d`, for example `30s` or `500ms`
    f.yaml:4:61: `listen.keep_alive`: the duration is longer than `365d` (`400d`)
    ");
}

#[test]
fn sizes() {
    assert_snapshot!(problems("f.yaml", r"
listen: { max_body: 100, max_header_bytes: 1KiB }
catalog: { max_bytes: 5 MB }
servers:
  a: { command: cat, max_message: 2GiB }
"), @r"
    f.yaml:2:21: `listen.max_body`: expected a size, found a number
      hint: add a unit: `B`, `KB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`, for example `16MiB`
    f.yaml:2:44: `listen.max_header_bytes` must be from `8KiB` to `1MiB`
    f.yaml:3:23: `catalog.max_bytes`: the unit of the size is not known (`5 MB`)
      hint: write a whole number and one of `B`, `KB`, `MB`, `GB` (powers of 1000), `KiB`, `MiB`, `GiB` (powers of 1024), for example `16MiB`
    f.yaml:5:35: `max_message` must be at most `1GiB`
    ");
}

#[test]
fn numbers() {
    assert_snapshot!(problems("f.yaml", r"
workers: 0
names: { max: 200 }
sessions: { max: -1, max_calls: 1.5 }
catalog: { page_size: 99999999999999999999999 }
"), @r"
    f.yaml:2:10: `workers`: must be a whole number from 1 to 1024, not `0`
    f.yaml:3:15: `names.max`: must be a whole number from 16 to 128, not `200`
    f.yaml:4:18: `sessions.max`: must be a whole number from 1 to 100000000, not `-1`
    f.yaml:4:33: `sessions.max_calls`: must be a whole number from 1 to 1000000, not `1.5`
    f.yaml:5:23: `catalog.page_size`: must be a whole number from 1 to 100000, not `99999999999999999999999`
    ");
}

#[test]
fn words() {
    assert_snapshot!(problems("f.yaml", r"
log: { level: loud, format: jsn }
servers:
  a: { command: cat, start: Lazy, share: per-user, resources: 3, protocol: 2025-06-19 }
"), @r"
    f.yaml:2:15: `log.level` is not a level
      hint: write `error`, `warn`, `info`, `debug`, `trace` or `off`, also per module: `info,fairlead_upstream=debug`
    f.yaml:2:29: `log.format`: `jsn` is not one of the known words
      hint: did you mean `json`?
    f.yaml:4:29: `servers.a.start`: `Lazy` is not one of the known words
      hint: did you mean `lazy`?
    f.yaml:4:42: `servers.a.share`: `per-user` is not one of the known words
      hint: did you mean `per_user`?
    f.yaml:4:63: `servers.a.resources`: `3` is not one of the known words
      hint: write `keep` or `prefix`
    f.yaml:4:76: `servers.a.protocol`: `2025-06-19` is not one of the known words
      hint: did you mean `2025-06-18`?
    ");
}

#[test]
fn addresses() {
    assert_snapshot!(problems("f.yaml", r"
listen: { address: 8642 }
admin: { address: example.com:80 }
"), @r"
    f.yaml:2:20: `listen.address`: expected text, found a number
      hint: write an IP address and a port, for example `127.0.0.1:8642`
    f.yaml:3:19: `admin.address`: this is not an address to listen on (`example.com:80`)
      hint: write an IP address and a port, for example `127.0.0.1:8642` or `[::]:8642`
    ");
}

#[test]
fn same_address() {
    assert_snapshot!(problems("f.yaml", r"
listen: { address: localhost:9000 }
admin: { address: 127.0.0.1:9000 }
"), @r"
    f.yaml:3:19: both listeners have the same address
      hint: give `listen` and `admin` different ports, or write `admin: off`
    ");
}

#[test]
fn admin_words() {
    assert_snapshot!(problems("f.yaml", "admin: none\n"), @r"
    f.yaml:1:8: `admin`: `none` is not one of the known words
      hint: write `off`
    ");
}

#[test]
fn hosts_and_origins() {
    assert_snapshot!(problems("f.yaml", "listen: { hosts: [https://a.example], origins: [a.example, \"https://b.example/\", \"*\"] }\n"), @r"
    f.yaml:1:19: this is not a host name
      hint: write it as clients send it, for example `mcp.example.com`
    f.yaml:1:49: this is not an origin
      hint: write scheme, host and port only, for example `https://app.example.com`
    f.yaml:1:60: this is not an origin
      hint: write scheme, host and port only, for example `https://app.example.com`
    f.yaml:1:82: this is not an origin
      hint: write scheme, host and port only, for example `https://app.example.com`
    ");
}

#[test]
fn server_names() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  My Server: { command: cat }
  a__b: { command: cat }
  mcp: { command: cat }
  abcdefghijklmnopqrstuvwxyz: { command: cat }
"), @r"
    f.yaml:3:3: `My Server`: a server name is lower case letters and digits, with single `_` or `-` between them, and starts with a letter
      hint: write `my_server`
    f.yaml:4:3: `a__b`: a server name is lower case letters and digits, with single `_` or `-` between them, and starts with a letter
      hint: write `a_b`
    f.yaml:5:3: `mcp`: `mcp` is a path of the gateway itself
      hint: write `mcp_server`
    f.yaml:6:3: `abcdefghijklmnopqrstuvwxyz`: a server name has at most 24 characters
      hint: write `abcdefghijklmnopqrstuvwx`
    ");
}

#[test]
fn toolset_names() {
    assert_snapshot!(problems("f.yaml", r"
toolsets:
  Sales: {}
  sse: {}
"), @r"
    f.yaml:3:3: `Sales` cannot be the name of a toolset
      hint: names of toolsets follow the rules for servers: write `sales`
    f.yaml:4:3: `sse` cannot be the name of a toolset
      hint: names of toolsets follow the rules for servers: write `sse_server`
    ");
}

#[test]
fn patterns() {
    assert_snapshot!(problems("f.yaml", r#"
servers:
  a: { command: cat, tools: { allow: ["{a,b}"], deny: [""] } }
"#), @r"
    f.yaml:3:39: `servers.a.tools.allow`: patterns know only `*` and `?` (`{a,b}`)
      hint: `*` stands for any text, `?` for one character, for example `get_*`
    f.yaml:3:56: `servers.a.tools.deny`: a pattern cannot be empty (``)
      hint: `*` stands for any text, `?` for one character, for example `get_*`
    ");
}

#[test]
fn both_transports() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a:
    command: cat
    url: http://x/mcp
"), @r"
    f.yaml:5:5: the server has both `command` and `url`
      hint: remove one of the two; in a later layer, `command: null` removes the one below
    ");
}

#[test]
fn no_transport() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a: { start: eager }
"), @r"
    f.yaml:3:3: the server `a` has none of `command`, `url`, `tcp` and `unix`
      hint: write `command: ...` for a child process, `url: ...` for an HTTP or WebSocket endpoint, `tcp: host:port` or `unix: /path`
    ");
}

#[test]
fn two_urls() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a: { url: http://x/mcp, serverUrl: http://y/mcp }
"), @r"
    f.yaml:3:27: the server has both `url` and `serverUrl`
      hint: they mean the same: keep one of the two
    ");
}

#[test]
fn types() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a: { type: sse, command: cat }
  b: { type: http, command: cat }
  c: { type: stdio, url: http://x/mcp }
  d: { type: ws, url: http://x/mcp }
  e: { type: http, url: ws://x/mcp }
  f: { type: stdio, tcp: x:1 }
  g: { type: grpc, url: http://x/mcp }
  h: { type: sse, url: http://x/sse, transport: streamable-http }
"), @r"
    f.yaml:3:14: the `type` is of an HTTP server, but there is a `command`
      hint: remove `type`
    f.yaml:4:14: the `type` is of an HTTP server, but there is a `command`
      hint: remove `type`
    f.yaml:5:14: the `type` is of a child process, but there is a `url`
      hint: remove `type`
    f.yaml:6:14: the `type` is of a WebSocket server, but there is a `url`
      hint: remove `type`
    f.yaml:7:14: the `type` is of an HTTP server, but there is a `ws:// URL`
      hint: remove `type`
    f.yaml:8:14: the `type` is of a child process, but there is a `tcp`
      hint: remove `type`
    f.yaml:9:14: `servers.g.type`: `grpc` is not one of the known words
      hint: write `stdio`, `http`, `sse` or `ws`, or leave it out
    f.yaml:10:49: the `type` says `sse`
      hint: keep one of the two
    ");
}

#[test]
fn ways_to_a_server() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a: { tcp: 10.0.0.9 }
  b: { tcp: tcp://10.0.0.9:7000 }
  c: { tcp: x:1, unix: /run/x.sock }
  d: { command: cat, unix: /run/x.sock }
  e: { unix: /run/x.sock, transport: sse }
  f: { url: ws://x/mcp, transport: sse }
  g: { url: https://x/mcp, unix: /run/x.sock }
  h: { url: ftp://x/mcp }
  i: { url: tcp://x:1 }
  j: { url: http://x/mcp, transport: stdio }
  k: { tcp: x:1, headers: { A: hunter2 }, args: [x] }
  l: { url: wss://hunter2@x/mcp }
  m: { unix: '' }
  n: { url: ws://x/mcp, tcp: x:1 }
"), @r#"
    f.yaml:3:13: `servers.a.tcp`: this is not an address to connect to (`10.0.0.9`)
      hint: write a host and a port, for example `10.0.0.9:7000` or `[::1]:7000`
    f.yaml:4:13: `servers.b.tcp`: this is not an address to connect to (`tcp://10.0.0.9:7000`)
      hint: write the host and the port alone, for example `10.0.0.9:7000`
    f.yaml:5:18: the server has both `tcp` and `unix`
      hint: remove one of the two; in a later layer, `tcp: null` removes the one below
    f.yaml:6:22: the server has both `command` and `unix`
      hint: remove one of the two; in a later layer, `command: null` removes the one below
    f.yaml:7:27: `transport` is for servers reached over HTTP, and this one has a `unix`
      hint: remove `transport`
    f.yaml:8:25: `transport` is for servers reached over HTTP, and this one has a WebSocket URL
      hint: remove `transport`
    f.yaml:9:28: on a Unix socket a server is reached by `http://` only
      hint: write `url: http://localhost/...`, or remove `unix`
    f.yaml:10:13: `servers.h.url`: the URL must begin with `http://`, `https://`, `ws://` or `wss://`
      hint: write it in full, for example `https://crm.example.com/mcp`
    f.yaml:11:13: `servers.i.url`: the URL must begin with `http://`, `https://`, `ws://` or `wss://`
      hint: write `tcp: host:port` for a server on a TCP port
    f.yaml:12:38: `servers.j.transport`: `stdio` is not one of the known words
      hint: write `streamable-http` or `sse`
    f.yaml:13:18: warning: `headers` has no effect on a server with a `tcp`
      hint: remove it
    f.yaml:13:43: warning: `args` has no effect on a server with a `tcp`
      hint: remove it
    f.yaml:14:13: `servers.l.url`: user names and passwords do not belong into a URL
      hint: send credentials in `headers`, for example `Authorization: "Basic ${env:CREDENTIALS}"`
    f.yaml:15:14: this is not a path
    f.yaml:16:25: the server has both `url` and `tcp`
      hint: remove one of the two; in a later layer, `url: null` removes the one below
    "#);
}

#[test]
fn urls() {
    assert_snapshot!(problems("f.yaml", r#"
servers:
  a: { url: x }
  b: { url: "ftp://x/" }
  c: { url: "http://user:hunter2@x/" }
  d: { url: "http://x:99999/" }
  e: { url: "http://x/#y" }
  f: { url: "http:///mcp" }
"#), @r#"
    f.yaml:3:13: `servers.a.url`: the URL must begin with `http://`, `https://`, `ws://` or `wss://`
      hint: write it in full, for example `https://crm.example.com/mcp`
    f.yaml:4:13: `servers.b.url`: the URL must begin with `http://`, `https://`, `ws://` or `wss://`
      hint: write it in full, for example `https://crm.example.com/mcp`
    f.yaml:5:13: `servers.c.url`: user names and passwords do not belong into a URL
      hint: send credentials in `headers`, for example `Authorization: "Basic ${env:CREDENTIALS}"`
    f.yaml:6:13: `servers.d.url`: the URL's port is not a number from 1 to 65535
      hint: write it in full, for example `https://crm.example.com/mcp`
    f.yaml:7:13: `servers.e.url`: a fragment (`#...`) has no meaning here
      hint: remove it, or write `%23` if the path contains a `#`
    f.yaml:8:13: `servers.f.url`: this is not a URL
      hint: write it in full, for example `https://crm.example.com/mcp`
    "#);
}

#[test]
fn headers() {
    assert_snapshot!(problems("f.yaml", r#"
servers:
  a:
    url: http://x/mcp
    headers:
      Bad Name: hunter2
      Mcp-Session-Id: hunter2
      X-A: hunter2
      x-a: hunter2
      X-B: "${env:BROKEN}"
      X-C: [hunter2]
"#), @r"
    f.yaml:6:7: this is not the name of a header
    f.yaml:7:7: the header `mcp-session-id` is set by the gateway itself
      hint: remove it
    f.yaml:9:7: the header `x-a` is written twice
      hint: upper and lower case do not matter in header names
    f.yaml:10:12: the value contains a character that no header may contain
      hint: a line break at its end is the usual cause
    f.yaml:11:12: `servers.a.headers.X-C`: expected text, found a list
    ");
}

#[test]
fn environment() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a:
    command: cat
    env: { A=B: hunter2, C: { D: hunter2 } }
    envFile: missing.env
"), @r"
    f.yaml:5:12: this is not the name of an environment variable
    f.yaml:5:29: `servers.a.env.C`: expected text, found a map
    f.yaml:6:14: cannot read the file `/etc/fairlead/missing.env`: No such file or directory (os error 2)
      hint: the path is relative to this configuration file
    ");
}

#[test]
fn without_effect() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a: { command: cat, headers: { A: b } }
  b: { url: http://x/mcp, args: [a], env: { A: b }, cwd: /tmp }
"), @r"
    accepted
    f.yaml:3:22: warning: `headers` has no effect on a server with a `command`
      hint: remove it
    f.yaml:4:27: warning: `args` has no effect on a server with a `url`
      hint: remove it
    f.yaml:4:38: warning: `env` has no effect on a server with a `url`
      hint: remove it
    f.yaml:4:53: warning: `cwd` has no effect on a server with a `url`
      hint: remove it
    ");
}

#[test]
fn no_value() {
    assert_snapshot!(problems("f.yaml", r"
servers:
  a:
    command: cat
    args:
  b:
toolsets:
"), @r"
    accepted
    f.yaml:5:5: warning: `args` has no value and so no effect
      hint: write a value, or check the indentation of what follows
    f.yaml:6:3: warning: `b` has no value and so no effect
      hint: write a value, or check the indentation of what follows
    ");
}

#[test]
fn commands() {
    assert_snapshot!(problems("f.yaml", r#"
servers:
  a: { command: "" }
  b: { command: npx -y server }
  c: { command: ~/bin/server }
data_dir: ~/data
"#), @r"
    f.yaml:3:17: the command is empty
    f.yaml:4:17: the command contains a space
      hint: write the program alone, and its arguments as `args: [...]`
    f.yaml:5:17: `~` is not expanded here
      hint: write `${HOME}/bin/server`
    f.yaml:6:11: `~` is not expanded here
      hint: write `${HOME}/data`
    ");
}

#[test]
fn references() {
    assert_snapshot!(problems("f.yaml", r#"
servers:
  a:
    url: http://x/mcp
    headers: { A: "${env:MISSING}", B: "${MISSING}", C: "${input:api-key}", D: "${vault:x}", E: "${file:nope.txt}", F: "${env:not a name}", G: "${env:OPEN" }
"#), @r"
    f.yaml:5:19: the environment variable `MISSING` is not set
      hint: set it, or write `${env:MISSING:-default}`
    f.yaml:5:40: the environment variable `MISSING` is not set
      hint: set it, or write `${env:MISSING:-default}`
    f.yaml:5:57: `${input:api-key}` asks a person, and nobody is there to answer
      hint: set an environment variable and write `${env:API_KEY}`, or `${file:path}`
    f.yaml:5:80: `${vault:...}` is not a reference
      hint: write `${env:NAME}`, `${env:NAME:-default}`, `${file:path}`, or `$${` for a literal `${`
    f.yaml:5:97: cannot read the file `/etc/fairlead/nope.txt`: No such file or directory (os error 2)
      hint: the path is relative to this configuration file
    f.yaml:5:120: the reference does not name an environment variable
      hint: write `${env:NAME}`, or `$${` for a literal `${`
    f.yaml:5:144: the reference has no closing `}`
      hint: write `$${` for a literal `${`
    ");
}

#[test]
fn references_of_the_wrong_kind() {
    assert_snapshot!(problems("f.yaml", r#"
workers: "${env:WORD}"
names: { max: "${env:NUMBER}" }
drain: "${env:SECRET}"
log: { format: "${env:SECRET}" }
servers:
  a: { url: "${env:SECRET}" }
"#), @r"
    f.yaml:2:10: `workers`: must be a whole number from 1 to 1024
    f.yaml:4:8: `drain`: this is not a duration
      hint: write a whole number and one of `ms`, `s`, `m`, `h`, `d`, for example `30s` or `500ms`
    f.yaml:5:16: `log.format`: expected one word, found something else
      hint: write `text` or `json`
    f.yaml:7:13: `servers.a.url`: the URL must begin with `http://`, `https://`, `ws://` or `wss://`
      hint: write it in full, for example `https://crm.example.com/mcp`
    ");
}

#[test]
fn client_settings() {
    assert_snapshot!(problems("f.json", r#"{ "inputs": [], "mcpServers": { "GitHub Copilot": { "command": "cat", "autoApprove": ["x"], "disabledTools": ["y"] } } }"#), @r"
    accepted
    f.json:1:3: warning: `inputs` is ignored
      hint: write `${env:NAME}` where an input was used
    f.json:1:33: warning: the server `GitHub Copilot` is called `github_copilot` here
      hint: server names are lower case letters and digits with single `_` or `-`
    f.json:1:71: warning: `autoApprove` of server `github_copilot` is ignored
      hint: it is a setting of the client, not of the server
    f.json:1:93: warning: `disabledTools` of server `github_copilot` is ignored
      hint: to hide tools, write `tools: { deny: [...] }`
    ");
}

#[test]
fn both_names_for_servers() {
    assert_snapshot!(problems("f.json", r#"{ "servers": { "a": { "command": "cat" } }, "mcpServers": { "a": { "command": "dog" }, "A": { "command": "cow" } } }"#), @r"
    f.json:1:61: the server `a` stands under `servers` and under `mcpServers`
      hint: keep one of the two
    f.json:1:88: warning: the server `A` is called `a` here
      hint: server names are lower case letters and digits with single `_` or `-`
    f.json:1:88: two servers are called `a` here
      hint: rename one of them
    ");
}

#[test]
fn too_deep() {
    assert_snapshot!(problems("f.json", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["), @"f.json:1:34: nested deeper than 32 levels");
}

#[test]
fn report_shows_the_line_and_masks_secrets() {
    let text = "servers:\n  crm:\n    url: http://x/mcp\n    headers: { Authorization: \"Bearer hunter2\", \"Bad Name\": hunter2, X: \"${env:MISSING}\" }\n  a: { command: cat }\n  b:\n";
    let problems = parse_str("fairlead.yaml", text, Path::new("/etc/fairlead"), &env).unwrap_err();
    assert!(problems.iter().any(|problem| problem.severity == Severity::Warning));
    let plain = report(&problems, false);
    assert_snapshot!(plain, @r#"
    FL-1401

      × this is not the name of a header
       ╭─[fairlead.yaml:4:49]
     4 │     headers: { Authorization: ****************, "Bad Name": *******, X: "${env:MISSING}" }
       ·                                                 ──────────
       ╰────
    FL-1401

      × the environment variable `MISSING` is not set
       ╭─[fairlead.yaml:4:73]
     4 │     headers: { Authorization: ****************, "Bad Name": *******, X: "${env:MISSING}" }
       ·                                                                         ────────────────
       ╰────
      help: set it, or write `${env:MISSING:-default}`
    FL-1401

      ⚠ `b` has no value and so no effect
       ╭─[fairlead.yaml:6:3]
     6 │   b:
       ·   ─
       ╰────
      help: write a value, or check the indentation of what follows
    "#);
    let colored = report(&problems, true);
    assert!(colored.contains('\u{1b}') && !plain.contains('\u{1b}'));
    assert!(!colored.contains("hunter2"));
}

#[test]
fn many_problems_are_counted_instead_of_listed() {
    let warnings: String = (0..300).map(|n| format!("  s{n}: {{ command: cat, trust: true }}\n")).collect();
    let text = format!("servers:\n{warnings}oops: 1\n");
    let problems = parse_str("f.yaml", &text, Path::new("/"), &env).unwrap_err();
    assert_eq!(problems.0.len(), 202, "{problems}");
    assert!(problems.errors().any(|problem| problem.message.contains("oops")), "{problems}");
    assert!(problems.to_string().ends_with("warning: there are 100 more problems"));
}
