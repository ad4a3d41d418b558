//! [`ConfigFile`] to [`Config`]: what no schema can say. Every problem finds its place through the
//! tree the file was read from.

mod instances;
mod resilience;
mod transport;

use crate::{
    Config, Glob, Limits, Problem, Secret, ServerLimits,
    check::shorten,
    compression::{AnswerCompression, ServerCompression},
    connections::{Connections, ConnectionsFile},
    file::{ConfigFile, LogFormatFile, ProtocolFile, ResourcesFile, ServerFile, ShareFile, StartFile},
    leaf::{SecretText, globs},
    model::{
        Admin, Bridge, Catalog, Filter, Listen, Log, LogFormat, Names, Park, ResourceUris, Server, Sessions, Share,
        Start, Stdio, Tasks, Timeouts,
    },
    overload::{Bulkhead, BulkheadFile, Overload, Priority},
    reference::{is_variable, read_env_file},
    rules::{ServerRules, ToolRule, ToolRuleFile},
    switch::OrOff,
    tool_shape::{ToolShape, ToolShapeFile},
    tree::{Findings, Node},
};
use fairlead_core::{Code, ServerName};
use fairlead_wire::Revision;
use indexmap::IndexMap;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Smallest limit for a request's head: below it the HTTP engine cannot work.
const MIN_HEADER_BYTES: usize = 8 << 10;

/// Largest limits for a request's head and body and for a server's message: they are held in memory.
const MAX_HEADER_BYTES: usize = 1 << 20;
const MAX_BODY: usize = 1 << 30;

/// Headers that the protocol or the HTTP engine sets; a configured one would break the exchange.
pub(crate) const OWN_HEADERS: &[&str] = &[
    "accept",
    "connection",
    "content-length",
    "content-type",
    "keep-alive",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Builds the configuration. Without errors in `findings` the result is complete.
pub(crate) fn build(
    file: ConfigFile,
    tree: &Node,
    default_data_dir: PathBuf,
    sources: Vec<PathBuf>,
    findings: &mut Findings,
) -> Config {
    let mut builder = Builder { tree, findings };
    let data_dir = match &file.data_dir {
        Some(text) => builder.path(text, &["data_dir"]).unwrap_or_default(),
        None => default_data_dir,
    };
    let listen = builder.listen(&file);
    let admin = builder.admin(&file, &listen);
    builder.level(&file.log.level);
    let overload = builder.overload(&file);
    let correlation = builder.correlation(&file);
    let faults = builder.faults(file.faults);
    let mut servers = IndexMap::with_capacity(file.servers.len());
    let mut rules = IndexMap::new();
    for (name, mut server) in file.servers {
        let ruled = builder.rules(&name, &file.bulkheads, &mut server);
        if let Some(server) = builder.server(&name, server) {
            if !ruled.is_empty() {
                rules.insert(server.name.clone(), Arc::new(ruled));
            }
            servers.insert(server.name.clone(), Arc::new(server));
        }
    }
    resilience::check(&mut builder, &rules, &servers);
    let mut toolsets = IndexMap::with_capacity(file.toolsets.len());
    for (name, toolset) in file.toolsets {
        toolsets.insert(name.clone(), builder.toolset(name, toolset));
    }
    let routes = builder.routes(file.routes, |name| servers.contains_key(name));
    let versions = builder.versions(file.versions, |name| servers.contains_key(name));
    Config {
        listen,
        admin,
        data_dir,
        names: Names { max: file.names.max, any_server: file.names.any_server },
        catalog: Catalog {
            first_wait: file.catalog.first_wait.0,
            page_size: file.catalog.page_size,
            max_items: file.catalog.max_items,
            max_bytes: file.catalog.max_bytes.0,
            max_capability_sets: file.catalog.max_capability_sets,
            refresh: file.catalog.refresh.0,
        },
        sessions: Sessions {
            idle: file.sessions.idle.0,
            max_age: file.sessions.max_age.0,
            max: file.sessions.max,
            max_calls: file.sessions.max_calls,
            max_streams: file.sessions.max_streams,
            stream_queue: file.sessions.stream_queue,
            without_id: globs(file.sessions.without_id),
            replay_events: file.sessions.replay_events,
            replay_bytes: file.sessions.replay_bytes.0,
        },
        tasks: Tasks { max: file.tasks.max, max_per_caller: file.tasks.max_per_caller, ttl: file.tasks.ttl.0 },
        bridge: Bridge { max_rounds: file.bridge.max_rounds },
        park: Park {
            gather: file.park.gather.0,
            max: file.park.max,
            max_bytes: file.park.max_bytes.0,
            ttl: file.park.ttl.0,
            max_age: file.park.max_age.0,
        },
        limits: Limits::build(file.limits),
        cache: (&file.cache).into(),
        overload,
        faults,
        results: file.results.into(),
        correlation,
        log: Log {
            level: file.log.level,
            format: match file.log.format {
                LogFormatFile::Text => LogFormat::Text,
                LogFormatFile::Json => LogFormat::Json,
            },
        },
        workers: file.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        drain: file.drain.0,
        servers,
        rules,
        toolsets,
        routes,
        versions,
        sources,
        warnings: Vec::<Problem>::new(),
    }
}

pub(crate) struct Builder<'a> {
    tree: &'a Node,
    findings: &'a mut Findings,
}

impl Builder<'_> {
    pub(crate) fn error(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        self.findings.error(self.tree.place_of(path), message, hint);
    }

    /// An error that has a page of its own.
    pub(crate) fn coded_error(&mut self, code: Code, path: &[&str], message: impl Into<String>, hint: &str) {
        self.findings.coded_error(code, self.tree.place_of(path), message, hint);
    }

    pub(crate) fn key_error(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        self.findings.error(self.tree.key_place_of(path), message, hint);
    }

    pub(crate) fn key_warning(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        self.findings.warning(self.tree.key_place_of(path), message, hint);
    }

    pub(crate) fn has(&self, path: &[&str]) -> bool {
        self.tree.at(path).is_some()
    }

    /// A path in the file, relative to the file it stands in.
    pub(crate) fn path(&mut self, text: &str, at: &[&str]) -> Option<PathBuf> {
        if text.is_empty() || text.contains('\0') {
            self.error(at, "this is not a path", "");
            return None;
        }
        if text == "~" || text.starts_with("~/") {
            let rest = text.trim_start_matches('~');
            self.error(at, "`~` is not expanded here", format!("write `${{HOME}}{}`", shorten(rest)));
            return None;
        }
        Some(self.base(at).join(text))
    }

    fn base(&self, at: &[&str]) -> &Path {
        let place = self.tree.place_of(at);
        self.findings.sources.0.get(place.source).map_or(Path::new(""), |source| &source.base)
    }

    fn listen(&mut self, file: &ConfigFile) -> Listen {
        let listen = &file.listen;
        if !(MIN_HEADER_BYTES..=MAX_HEADER_BYTES).contains(&listen.max_header_bytes.0) {
            self.error(&["listen", "max_header_bytes"], "`listen.max_header_bytes` must be from `8KiB` to `1MiB`", "");
        }
        if listen.max_body.0 > MAX_BODY {
            self.error(&["listen", "max_body"], "`listen.max_body` must be at most `1GiB`", "");
        }
        for (index, host) in listen.hosts.iter().enumerate() {
            let wrong = host.is_empty() || host.contains("://") || host.contains(['/', '*', ' ', ',', '@']);
            if wrong {
                let at = ["listen", "hosts", &index.to_string()];
                self.error(
                    &at,
                    "this is not a host name",
                    "write it as clients send it, for example `mcp.example.com`",
                );
            }
        }
        for (index, origin) in listen.origins.iter().enumerate() {
            let good = origin.split_once("://").is_some_and(|(scheme, rest)| {
                !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', '*', ' ', ',', '@', '?', '#'])
            });
            if !good {
                let at = ["listen", "origins", &index.to_string()];
                self.error(
                    &at,
                    "this is not an origin",
                    "write scheme, host and port only, for example `https://app.example.com`",
                );
            }
        }
        Listen {
            address: listen.address.0,
            tls: listen.tls.clone().on().and_then(|tls| self.tls(tls)),
            hosts: listen.hosts.clone(),
            origins: listen.origins.clone(),
            max_body: listen.max_body.0,
            header_timeout: listen.header_timeout.0,
            body_timeout: listen.body_timeout.0,
            max_header_bytes: listen.max_header_bytes.0,
            max_connections: listen.max_connections,
            idle_timeout: listen.idle_timeout.0,
            keep_alive: listen.keep_alive.0,
            ws_ping: listen.ws_ping.0,
            compression: AnswerCompression::of(&listen.compression),
        }
    }

    fn admin(&mut self, file: &ConfigFile, listen: &Listen) -> Admin {
        let address = match &file.admin {
            OrOff::Off => None,
            OrOff::On(admin) => Some(admin.address.0),
        };
        if address.is_some_and(|address| address == listen.address && address.port() != 0) {
            let path: &[&str] =
                if self.has(&["admin", "address"]) { &["admin", "address"] } else { &["listen", "address"] };
            self.error(
                path,
                "both listeners have the same address",
                "give `listen` and `admin` different ports, or write `admin: off`",
            );
        }
        Admin { address }
    }

    fn level(&mut self, level: &str) {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let good = level.split(',').map(str::trim).all(|directive| match directive.rsplit_once('=') {
            Some((target, level)) => !target.is_empty() && LEVELS.contains(&level),
            None => LEVELS.contains(&directive),
        });
        if !good {
            let hint = "write `error`, `warn`, `info`, `debug`, `trace` or `off`, also per module: `info,fairlead_upstream=debug`";
            self.error(&["log", "level"], "`log.level` is not a level", hint);
        }
    }

    fn server(&mut self, name: &str, mut file: ServerFile) -> Option<Server> {
        let here = ["servers", name];
        let parsed = match ServerName::parse(name) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let hint = format!("write `{}`", ServerName::normalise(name));
                self.key_error(&here, format!("`{}`: {error}", shorten(name)), hint);
                None
            }
        };
        if file.max_message.0 > MAX_BODY {
            self.error(&["servers", name, "max_message"], "`max_message` must be at most `1GiB`", "");
        }
        let reached = instances::build(self, name, &mut file);
        let parsed = parsed?;
        let (transport, instances) = reached?;
        Some(Server {
            name: parsed,
            transport,
            instances,
            start: match file.start {
                StartFile::Lazy => Start::Lazy,
                StartFile::Eager => Start::Eager,
            },
            share: match file.share {
                ShareFile::Auto => Share::Auto,
                ShareFile::Shared => Share::Shared,
                ShareFile::PerTenant => Share::PerTenant,
                ShareFile::PerUser => Share::PerUser,
                ShareFile::PerSession => Share::PerSession,
            },
            timeout: Timeouts {
                connect: file.timeout.connect.0,
                start: file.timeout.start.0,
                idle: file.timeout.idle.0,
                call: file.timeout.call.0,
            },
            idle_stop: file.idle_stop.0,
            max_sessions: file.max_sessions,
            max_calls: file.max_calls,
            prefix: file.prefix,
            resources: match file.resources {
                ResourcesFile::Keep => ResourceUris::Keep,
                ResourcesFile::Prefix => ResourceUris::Prefix,
            },
            tools: Filter { allow: globs(file.tools.allow), deny: globs(file.tools.deny) },
            max_message: file.max_message.0,
            protocol: file.protocol.map(|written| revision(written).as_str().to_owned()),
            connections: self.connections(name, &file.connections),
            compression: ServerCompression::of(&file.compression),
            disabled: file.disabled,
        })
    }

    /// What gives way under load.
    fn overload(&mut self, file: &ConfigFile) -> Overload {
        let written = &file.overload;
        let nothing = Overload::default();
        let mut priorities = Vec::new();
        for (word, name) in &written.priorities {
            let at = ["overload", "priorities", word];
            match Priority::parse(word) {
                Some(priority) => {
                    let own = format!("priority:{word}");
                    priorities.extend(self.bulkhead(&at, name, &own, &file.bulkheads).map(|bounds| (priority, bounds)));
                }
                None => self.key_error(&at, "this is not a priority", "write `low`, `normal`, `high` or `critical`"),
            }
        }
        let tenant = written.tenant.as_ref();
        Overload {
            max_calls: written.max_calls,
            memory: written.memory.as_ref().map(|memory| memory.0),
            retry_after: written.retry_after.as_ref().map_or(nothing.retry_after, |after| after.0),
            raise_to: written.raise_to,
            tenant: tenant
                .and_then(|name| self.bulkhead(&["overload", "tenant"], name, "tenant:default", &file.bulkheads)),
            priorities,
        }
    }

    /// The bulkhead that is `written` at a place of the file.
    fn bulkhead(
        &mut self,
        at: &[&str],
        written: &str,
        own: &str,
        described: &IndexMap<String, BulkheadFile>,
    ) -> Option<Bulkhead> {
        let bounds = Bulkhead::named(written, own, described);
        if bounds.is_none() {
            let message = format!("no bulkhead is called `{}`", shorten(written));
            self.error(at, message, "write a name under `bulkheads`, or `critical`, `standard` or `batch`");
        }
        bounds
    }

    /// Takes out of what is written of a server what is done with its calls.
    fn rules(&mut self, name: &str, bulkheads: &IndexMap<String, BulkheadFile>, file: &mut ServerFile) -> ServerRules {
        let rules = std::mem::take(&mut file.tools.rules);
        ServerRules {
            limits: ServerLimits::build(std::mem::take(&mut file.limits)),
            bulkhead: file.bulkhead.take().and_then(|written| {
                self.bulkhead(&["servers", name, "bulkhead"], &written, &format!("server:{name}"), bulkheads)
            }),
            tools: rules.into_iter().filter_map(|(pattern, rule)| self.tool_rule(name, &pattern, rule)).collect(),
            cache: file.cache.take().map(|cache| Arc::new(cache.into())),
            ..resilience::of_server(self, name, file)
        }
    }

    fn tool_rule(&mut self, server: &str, pattern: &str, mut file: ToolRuleFile) -> Option<(Glob, ToolRule)> {
        let at = ["servers", server, "tools", "rules", pattern, "fallback"];
        let fallback = file.fallback.take().map(|written| resilience::fallbacks(self, &at, written));
        match Glob::new(pattern) {
            Ok(glob) => {
                let shape = self.shape(&["servers", server, "tools", "rules", pattern], file.take_shape());
                Some((glob, file.build(shape, fallback)))
            }
            Err(error) => {
                self.key_error(&["servers", server, "tools", "rules", pattern], error.to_string(), "");
                None
            }
        }
    }

    fn connections(&mut self, name: &str, file: &ConnectionsFile) -> Connections {
        let bound = file.max.map_or(file.max_idle, |max| max.min(file.max_idle));
        if file.min_idle > bound {
            let path = ["servers", name, "connections", "min_idle"];
            let hint = format!("write at most `{bound}`, or raise the other two");
            self.error(&path, "`min_idle` is more than `max_idle` or `max`", hint);
        }
        Connections::of(file)
    }

    /// How a tool is shown, checked and answered. The last part of `at` is the pattern of the tools.
    pub(crate) fn shape(&mut self, at: &[&str], file: ToolShapeFile) -> ToolShape {
        let mut faults = Vec::new();
        let shape = file.build(at.last().unwrap_or(&""), &mut faults);
        for fault in faults {
            let path: Vec<&str> = at.iter().copied().chain(fault.at.iter().map(String::as_str)).collect();
            self.error(&path, fault.message, fault.hint);
        }
        shape
    }

    fn correlation(&mut self, file: &ConfigFile) -> crate::Correlation {
        file.correlation.build().unwrap_or_else(|| {
            let hint = "write the name of a header that nothing else is said in, for example `x-request-id`";
            self.error(&["correlation", "request_id"], "this header cannot carry the id of a request", hint);
            crate::Correlation::default()
        })
    }

    fn without_effect(&mut self, name: &str, keys: &[&str], because: &str) {
        for key in keys {
            let path = ["servers", name, key];
            if self.has(&path) {
                self.key_warning(&path, format!("`{key}` has no effect on a server with a `{because}`"), "remove it");
            }
        }
    }

    fn stdio(&mut self, name: &str, command: &str, file: &ServerFile) -> Option<Stdio> {
        let at = ["servers", name, "command"];
        if command.trim().is_empty() || command.contains('\0') {
            self.error(&at, "the command is empty", "");
            return None;
        }
        let command = if command.starts_with('.') && command.contains('/') {
            self.base(&at).join(command).to_string_lossy().into_owned()
        } else if command.starts_with("~/") {
            self.path(command, &at)?.to_string_lossy().into_owned()
        } else {
            if command.contains(char::is_whitespace) && !command.contains('/') {
                self.error(
                    &at,
                    "the command contains a space",
                    "write the program alone, and its arguments as `args: [...]`",
                );
            }
            command.to_owned()
        };
        for (index, argument) in file.args.iter().enumerate() {
            if argument.0.contains('\0') {
                self.error(
                    &["servers", name, "args", &index.to_string()],
                    "an argument cannot contain a zero byte",
                    "",
                );
            }
        }
        let mut env: IndexMap<String, Secret> = IndexMap::new();
        if let Some(text) = &file.env_file {
            let at = ["servers", name, "envFile"];
            if let Some(path) = self.path(text, &at) {
                let place = self.tree.place_of(&at);
                env.extend(
                    read_env_file(&path, place, self.findings)
                        .into_iter()
                        .map(|(key, value)| (key, Secret::new(value))),
                );
            }
        }
        for (variable, SecretText(value)) in &file.env {
            let at = ["servers", name, "env", variable];
            if !is_variable(variable) && (variable.is_empty() || variable.contains(['=', '\0'])) {
                self.key_error(&at, "this is not the name of an environment variable", "");
            } else if value.expose().contains('\0') {
                self.error(&at, "the value contains a zero byte", "");
            } else {
                env.insert(variable.clone(), value.clone());
            }
        }
        let cwd = match &file.cwd {
            Some(text) => Some(self.path(text, &["servers", name, "cwd"])?),
            None => None,
        };
        Some(Stdio {
            command,
            args: file.args.iter().map(|argument| argument.0.clone()).collect(),
            env: env.into_iter().collect(),
            cwd,
            stop_grace: file.stop_grace.0,
        })
    }

    fn headers(&mut self, name: &str, written: &IndexMap<String, SecretText>) -> Vec<(http::HeaderName, Secret)> {
        let mut headers: Vec<(http::HeaderName, Secret)> = Vec::with_capacity(written.len());
        for (header, SecretText(value)) in written {
            let at = ["servers", name, "headers", header];
            let Ok(parsed) = http::HeaderName::try_from(header.as_str()) else {
                self.key_error(&at, "this is not the name of a header", "");
                continue;
            };
            if OWN_HEADERS.contains(&parsed.as_str()) {
                let message = format!("the header `{parsed}` is set by the gateway itself");
                self.key_error(&at, message, "remove it");
            } else if headers.iter().any(|(other, _)| *other == parsed) {
                self.key_error(
                    &at,
                    format!("the header `{parsed}` is written twice"),
                    "upper and lower case do not matter in header names",
                );
            } else if http::HeaderValue::from_str(value.expose()).is_err() {
                self.error(
                    &at,
                    "the value contains a character that no header may contain",
                    "a line break at its end is the usual cause",
                );
            } else {
                headers.push((parsed, value.clone()));
            }
        }
        headers
    }
}

fn revision(file: ProtocolFile) -> Revision {
    match file {
        ProtocolFile::V20241105 => Revision::V2024_11_05,
        ProtocolFile::V20250326 => Revision::V2025_03_26,
        ProtocolFile::V20250618 => Revision::V2025_06_18,
        ProtocolFile::V20251125 => Revision::V2025_11_25,
        ProtocolFile::V20260728 => Revision::V2026_07_28,
    }
}
