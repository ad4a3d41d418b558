//! One server of a client's file, in our words.

use crate::{
    check::shorten,
    decode::whole,
    reference::{is_variable, variable_for},
    tree::{Findings, Map, Node, Place, Value},
};
use std::path::PathBuf;

/// How the client reads its own file.
pub(super) struct Dialect {
    /// It replaces `${...}` itself.
    pub(super) expands: bool,
    /// It replaces `$NAME` too.
    pub(super) shell_variables: bool,
    /// Its `timeout` is a number of milliseconds for a call.
    pub(super) timeout_in_ms: bool,
    /// The user's home directory.
    pub(super) home: PathBuf,
    /// The directory the file configures, if it is a project's file. Relative paths start there.
    pub(super) workspace: Option<PathBuf>,
}

/// A server ready to be rendered.
#[derive(Default)]
pub(super) struct Translated {
    /// Its name in the client's file.
    pub(super) original: String,
    /// Its name here.
    pub(super) name: String,
    /// Why it is not taken over.
    pub(super) skipped: Option<String>,
    pub(super) command: Option<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) env_file: Option<String>,
    pub(super) cwd: Option<String>,
    pub(super) url: Option<String>,
    /// Set where it does not follow from the rest.
    pub(super) transport: Option<&'static str>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Vec<(&'static str, String)>,
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    pub(super) disabled: bool,
    /// What a reader of the block has to know.
    pub(super) notes: Vec<String>,
}

/// Byte ranges of header and environment values in a map of servers.
pub(super) fn secrets(servers: &Node) -> Vec<(usize, usize)> {
    servers.as_map().into_iter().flat_map(Map::values).flat_map(|entry| secrets_of_server(&entry.node)).collect()
}

pub(super) fn secrets_of_server(server: &Node) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    for key in ["env", "headers", "http_headers"] {
        if let Some(values) = server.at(&[key]).and_then(Node::as_map) {
            ranges.extend(values.values().map(|entry| (entry.node.place.start, entry.node.place.end)));
        }
    }
    ranges
}

pub(super) fn translate(
    original: &str,
    name: String,
    node: &Node,
    dialect: &Dialect,
    findings: &mut Findings,
) -> Translated {
    let server = Translated { original: original.to_owned(), name, ..Translated::default() };
    let mut translation = Translation { server, dialect, findings, transport: None };
    let Some(map) = node.as_map() else {
        translation.skip(node.place, "it is not a map of settings");
        return translation.server;
    };
    for (key, entry) in map {
        translation.setting(key, entry.key, &entry.node);
    }
    translation.finish(node.place);
    translation.server
}

struct Translation<'a> {
    server: Translated,
    dialect: &'a Dialect,
    findings: &'a mut Findings,
    transport: Option<String>,
}

impl Translation<'_> {
    fn setting(&mut self, key: &str, key_place: Place, node: &Node) {
        match key {
            // An entry of a list carries its name inside.
            "name" => {}
            "command" => {
                let command = self.text(key, node);
                let relative = command.as_ref().is_some_and(|text| text.starts_with('.') && text.contains('/'));
                self.server.command =
                    if relative { command.map(|text| self.located(key, node.place, text)) } else { command };
            }
            "args" => self.server.args = self.texts(key, node),
            "env" => {
                for (variable, value) in self.pairs(key, node) {
                    self.variable(variable, value, true);
                }
            }
            "env_vars" => {
                for variable in self.texts(key, node).into_iter().filter(|variable| is_variable(variable)) {
                    let reference = format!("${{env:{variable}}}");
                    self.variable(variable, reference, false);
                }
            }
            "envFile" => self.server.env_file = self.path(key, node),
            "cwd" => self.server.cwd = self.path(key, node),
            "url" | "serverUrl" | "httpUrl" | "uri" => {
                if self.server.url.is_some() {
                    self.ignored(key, key_place, "the server has a URL already");
                } else {
                    self.server.url = self.text(key, node);
                }
            }
            "headers" | "http_headers" => {
                for (header, value) in self.pairs(key, node) {
                    self.header(key_place, header, value);
                }
            }
            "env_http_headers" => {
                for (header, variable) in self.pairs(key, node) {
                    self.header(key_place, header, format!("${{env:{variable}}}"));
                }
            }
            "bearer_token_env_var" => {
                if let Some(variable) = self.text(key, node) {
                    self.header(key_place, "Authorization".to_owned(), format!("Bearer ${{env:{variable}}}"));
                }
            }
            "type" | "transport" => self.transport = node.as_scalar().map(str::to_owned),
            "disabled" => self.server.disabled |= matches!(node.value, Value::Bool(true)),
            "enabled" => self.server.disabled |= matches!(node.value, Value::Bool(false)),
            "enabled_tools" | "includeTools" => self.server.allow = self.names(key, node),
            "disabled_tools" | "excludeTools" | "disabledTools" => self.server.deny = self.names(key, node),
            "startup_timeout_sec" => self.timeout("start", key, node, 1000),
            "startup_timeout_ms" => self.timeout("start", key, node, 1),
            "tool_timeout_sec" => self.timeout("call", key, node, 1000),
            "timeout" if self.dialect.timeout_in_ms => self.timeout("call", key, node, 1),
            "timeout" => {
                self.ignored(key, key_place, "its unit differs between clients: write `timeout: { call: 60s }`")
            }
            "auth" | "oauth" | "scopes" | "authProviderType" | "headersHelper" => {
                self.ignored(
                    key,
                    key_place,
                    "signing in to a server is not available in this version: write `headers`",
                );
            }
            _ => self.ignored(key, key_place, "it is a setting of the client, or not known"),
        }
    }

    /// Sets a variable. A value that is written wins over one that is handed through.
    fn variable(&mut self, name: String, value: String, wins: bool) {
        match self.server.env.iter_mut().find(|(other, _)| *other == name) {
            Some((_, existing)) if wins => *existing = value,
            Some(_) => {}
            None => self.server.env.push((name, value)),
        }
    }

    fn header(&mut self, place: Place, name: String, value: String) {
        if self.server.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            self.ignored(&name, place, "the header is set already");
        } else {
            self.server.headers.push((name, value));
        }
    }

    fn path(&mut self, key: &str, node: &Node) -> Option<String> {
        let text = self.text(key, node)?;
        let absolute = text.starts_with('/') || text.starts_with("${");
        Some(if absolute { text } else { self.located(key, node.place, text) })
    }

    /// A relative path made absolute, as far as it is known what it is relative to.
    fn located(&mut self, key: &str, place: Place, text: String) -> String {
        if let Some(workspace) = &self.dialect.workspace {
            let text = text.strip_prefix("./").unwrap_or(&text);
            return workspace.join(text).to_string_lossy().into_owned();
        }
        let message = format!("`{key}` of server `{}` is a relative path", self.server.name);
        self.findings.warning(place, message, "here it is relative to the configuration file it stands in");
        text
    }

    fn finish(&mut self, place: Place) {
        let server = &self.server;
        let reason = match (&server.command, &server.url, self.transport.as_deref()) {
            (None, None, _) => Some("it has neither a command nor a URL".to_owned()),
            (Some(_), Some(_), _) => Some("it has both a command and a URL".to_owned()),
            (None, Some(url), _) if is_gateway_url(url) => Some("it is the gateway itself".to_owned()),
            (None, Some(url), _)
                if !["http://", "https://", "ws://", "wss://", "${"].iter().any(|start| url.starts_with(start)) =>
            {
                Some("its URL is none of `http://`, `https://`, `ws://` and `wss://`".to_owned())
            }
            (Some(command), None, _) if is_gateway_command(command, &server.args) => {
                Some("it is the gateway itself".to_owned())
            }
            _ => None,
        };
        if let Some(reason) = reason {
            return self.skip(place, &reason);
        }
        let is_websocket = server.url.as_ref().is_some_and(|url| url.starts_with("ws"));
        if self.transport.as_deref() == Some("sse") && server.url.is_some() && !is_websocket {
            self.server.transport = Some("sse");
        }
    }

    fn skip(&mut self, place: Place, reason: &str) {
        let message = format!("the server `{}` is left out: {reason}", shorten(&self.server.original));
        self.findings.warning(place, message, "");
        self.server.skipped = Some(reason.to_owned());
    }

    fn ignored(&mut self, key: &str, place: Place, why: &str) {
        let message = format!("`{}` of server `{}` is ignored", shorten(key), self.server.name);
        self.findings.warning(place, message, why);
    }

    fn misfit(&mut self, key: &str, node: &Node, wanted: &str) {
        let message = format!(
            "`{}` of server `{}` is ignored: expected {wanted}, found {}",
            shorten(key),
            self.server.name,
            node.kind()
        );
        self.findings.warning(node.place, message, "");
    }

    fn timeout(&mut self, which: &'static str, key: &str, node: &Node, factor: u64) {
        // Codex writes seconds as a decimal number.
        let number = node.as_scalar().and_then(|text| whole(text.strip_suffix(".0").unwrap_or(text)));
        match number.and_then(|number| number.checked_mul(factor)).filter(|millis| *millis > 0) {
            Some(millis) if millis % 1000 == 0 => self.server.timeout.push((which, format!("{}s", millis / 1000))),
            Some(millis) => self.server.timeout.push((which, format!("{millis}ms"))),
            None => self.misfit(key, node, "a whole number"),
        }
    }

    fn text(&mut self, key: &str, node: &Node) -> Option<String> {
        match node.as_scalar() {
            Some(text) => Some(self.rewrite(text, node.place)),
            None => {
                self.misfit(key, node, "text");
                None
            }
        }
    }

    fn texts(&mut self, key: &str, node: &Node) -> Vec<String> {
        match &node.value {
            Value::List(items) => items.iter().filter_map(|item| self.text(key, item)).collect(),
            _ => {
                self.misfit(key, node, "a list");
                Vec::new()
            }
        }
    }

    fn pairs(&mut self, key: &str, node: &Node) -> Vec<(String, String)> {
        let Some(map) = node.as_map() else {
            self.misfit(key, node, "a map");
            return Vec::new();
        };
        map.iter()
            // VS Code unsets a variable with null; a process here gets only what is set.
            .filter(|(_, entry)| !matches!(entry.node.value, Value::Null))
            .filter_map(|(name, entry)| Some((name.clone(), self.text(name, &entry.node)?)))
            .collect()
    }

    /// Tool names; those with arguments, as one client allows them, are not names.
    fn names(&mut self, key: &str, node: &Node) -> Vec<String> {
        let mut names = self.texts(key, node);
        names.retain(|name| {
            let plain = crate::Glob::new(name).is_ok() && !name.contains('(');
            if !plain {
                let message = format!("an entry of `{key}` of server `{}` is ignored", self.server.name);
                self.findings.warning(
                    node.place,
                    message,
                    "only names of tools and patterns with `*` and `?` are taken over",
                );
            }
            plain
        });
        names
    }

    /// A text with the client's references in our spelling.
    fn rewrite(&mut self, text: &str, place: Place) -> String {
        if !self.dialect.expands {
            return text.replace("${", "$${");
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(inner) = after.strip_prefix('{') {
                let Some(end) = inner.find('}') else {
                    out.push_str("$${");
                    rest = inner;
                    continue;
                };
                let rewritten = self.reference(&inner[..end], place);
                out.push_str(&rewritten);
                rest = &inner[end + 1..];
                continue;
            }
            let length = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            if self.dialect.shell_variables && is_variable(&after[..length]) {
                out.push_str(&format!("${{{}}}", &after[..length]));
            } else {
                out.push('$');
                out.push_str(&after[..length]);
            }
            rest = &after[length..];
        }
        out.push_str(rest);
        out
    }

    fn reference(&mut self, reference: &str, place: Place) -> String {
        if let Some(input) = reference.strip_prefix("input:") {
            let variable = variable_for(input);
            self.findings.warning(
                place,
                format!("`${{input:{}}}` asks a person, and nobody is there to answer", shorten(input)),
                format!("set the environment variable `{variable}`: the value is now `${{env:{variable}}}`"),
            );
            let note = format!("set {variable}: it replaces ${{input:{}}}", shorten(input));
            if !self.server.notes.contains(&note) {
                self.server.notes.push(note);
            }
            return format!("${{env:{variable}}}");
        }
        let directory = match reference {
            "userHome" => Some(self.dialect.home.clone()),
            "workspaceFolder" => self.dialect.workspace.clone(),
            "pathSeparator" | "/" => return "/".to_owned(),
            _ => None,
        };
        if let Some(directory) = directory {
            return directory.to_string_lossy().replace("${", "$${");
        }
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        let variable = name.strip_prefix("env:").unwrap_or(name);
        let known = !matches!(variable, "workspaceFolder" | "workspaceFolderBasename");
        if is_variable(variable) && known {
            return match default {
                Some(default) => format!("${{env:{variable}:-{default}}}"),
                None => format!("${{env:{variable}}}"),
            };
        }
        self.findings.warning(
            place,
            format!("`${{{}}}` means nothing outside the client and is taken as text", shorten(reference)),
            "write what it stands for",
        );
        format!("$${{{reference}}}")
    }
}

/// Whether the URL is one that a gateway with default settings serves: fronting it would be a loop.
fn is_gateway_url(url: &str) -> bool {
    crate::Url::parse(url).is_ok_and(|url| {
        url.port() == 8642 && matches!(url.host(), "127.0.0.1" | "localhost" | "[::1]") && !url.is_tls()
    })
}

fn is_gateway_command(command: &str, args: &[String]) -> bool {
    command.rsplit(['/', '\\']).next() == Some("fairlead") && args.first().is_some_and(|first| first == "stdio")
}
