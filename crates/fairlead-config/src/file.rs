//! What people write. The types here are the one description of the file: the published JSON Schema
//! is made from them, files are checked against that schema, and then read into them. What the
//! program uses is [`crate::model`].

use crate::{
    compression::{ListenCompressionFile, ServerCompressionFile},
    connections::ConnectionsFile,
    correlation::CorrelationFile,
    faults::FaultsFile,
    instances::{BalanceFile, EjectionFile, HealthFile, InstanceFile},
    leaf::{AddressText, DurationText, HostPortText, PatternText, ScalarText, SecretText, SizeText, UrlText, WaitText},
    limits::{LimitsFile, ServerLimitsFile},
    overload::{BulkheadFile, OverloadFile},
    resilience::{BreakerFile, FallbackFile, RetryFile},
    reuse::{CacheFile, ServerCacheFile},
    routes::RouteFile,
    rules::ToolsFile,
    switch::OrOff,
    tls::TlsFile,
    tool_shape::ResultsFile,
    toolset::ToolsetFile,
    versions::ToolVersionsFile,
};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Duration};

/// The configuration of a Fairlead gateway.
///
/// Durations are written `500ms`, `30s`, `5m`, `2h`, `7d`; sizes `64KiB`, `16MiB`, `1MB`. Any text may
/// contain `${env:NAME}`, `${env:NAME:-default}`, `${NAME}` or `${file:path}`; `$${` is a literal `${`.
/// Relative paths are relative to the file they stand in. In a later layer, `null` removes a key.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Fairlead configuration")]
pub struct ConfigFile {
    /// URL or path of this schema, for editors; has no effect.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The listener for MCP clients.
    pub listen: ListenFile,
    /// The listener for operators (metrics, health), or `off`.
    pub admin: OrOff<AdminListenFile>,
    /// Where everything durable lives. Default: `.fairlead` beside the first file; without a file,
    /// `$XDG_STATE_HOME/fairlead` or `~/.local/state/fairlead`.
    pub data_dir: Option<String>,
    /// How exposed names are built.
    pub names: NamesFile,
    /// Bounds and times of the merged catalog.
    pub catalog: CatalogFile,
    /// Bounds and times of client sessions.
    pub sessions: SessionsFile,
    /// Bounds and times of tasks.
    pub tasks: TasksFile,
    /// How the two eras of the protocol are brought together.
    pub bridge: BridgeFile,
    /// Calls that wait for an answer of a client of revision 2026-07-28 to a server of an earlier one.
    pub park: ParkFile,
    /// How often calls may be made, and how much may be used; `off`, or the word `recommended`. The guard against
    /// identical calls is on in any case.
    pub limits: LimitsFile,
    /// Bounds of what is kept of answers.
    pub cache: CacheFile,
    /// Named pools of calls, each with bounds of its own. Servers, the tenant and priorities refer to them.
    pub bulkheads: IndexMap<String, BulkheadFile>,
    /// What gives way when there is too much of everything.
    pub overload: OverloadFile,
    /// Faults that are injected on purpose, to see what becomes of calls then.
    pub faults: FaultsFile,
    /// What was cut off answers (`response.max_bytes`) and can still be read.
    pub results: ResultsFile,
    /// The id of a request, in logs here and elsewhere.
    pub correlation: CorrelationFile,
    /// Logging.
    pub log: LogFile,
    /// Worker threads. Default: one per core.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<usize>,
    /// How long calls in flight may finish after a stop was asked for.
    pub drain: WaitText,
    /// The upstream servers by name. A name is lower case letters and digits with single `_` or `-`
    /// between them, begins with a letter, and has at most 24 characters. The first server in order
    /// keeps a resource URI that several claim.
    pub servers: IndexMap<String, ServerFile>,
    /// The same as `servers`, as client configuration files call it. Names are brought into form.
    #[serde(rename = "mcpServers", skip_serializing_if = "IndexMap::is_empty")]
    pub mcp_servers: IndexMap<String, ServerFile>,
    /// Named selections of the catalog, served under `/mcp/{toolset}`.
    pub toolsets: IndexMap<String, ToolsetFile>,
    /// Calls that go to other servers than their name says. The first rule that matches decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteFile>,
    /// Versions of tools, by exposed names.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub versions: IndexMap<String, ToolVersionsFile>,
}

impl Default for ConfigFile {
    fn default() -> Self {
        Self {
            schema: None,
            listen: ListenFile::default(),
            admin: OrOff::On(AdminListenFile::default()),
            data_dir: None,
            names: NamesFile::default(),
            catalog: CatalogFile::default(),
            sessions: SessionsFile::default(),
            tasks: TasksFile::default(),
            bridge: BridgeFile::default(),
            park: ParkFile::default(),
            limits: LimitsFile::default(),
            cache: CacheFile::default(),
            bulkheads: IndexMap::new(),
            overload: OverloadFile::default(),
            faults: FaultsFile::default(),
            results: ResultsFile::default(),
            correlation: CorrelationFile::default(),
            log: LogFile::default(),
            workers: None,
            drain: WaitText(Duration::from_secs(10)),
            servers: IndexMap::new(),
            mcp_servers: IndexMap::new(),
            toolsets: IndexMap::new(),
            routes: Vec::new(),
            versions: IndexMap::new(),
        }
    }
}

/// The listener for MCP clients.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenFile {
    /// IP address and port.
    pub address: AddressText,
    /// TLS for MCP clients, or `off`: then they speak plain HTTP.
    pub tls: OrOff<TlsFile>,
    /// `Host` names served besides `localhost`, `127.0.0.1` and `[::1]`.
    pub hosts: Vec<String>,
    /// Browser origins served besides those of loopback, for example `https://app.example.com`.
    pub origins: Vec<String>,
    /// Largest request body.
    pub max_body: SizeText,
    /// How long a request's head may take to arrive.
    pub header_timeout: DurationText,
    /// How long a request's body may take to arrive.
    pub body_timeout: DurationText,
    /// Largest request head, at least `8KiB`.
    pub max_header_bytes: SizeText,
    /// Open connections at most.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: usize,
    /// How long an idle connection is kept open.
    pub idle_timeout: DurationText,
    /// Interval of comments on open event streams, which keep proxies from closing them.
    pub keep_alive: DurationText,
    /// Interval of pings to WebSocket clients. One that answers none until the next, or reads nothing of what it is told, is closed.
    pub ws_ping: DurationText,
    /// Compression towards clients.
    pub compression: ListenCompressionFile,
}

impl Default for ListenFile {
    fn default() -> Self {
        Self {
            address: AddressText(SocketAddr::from(([127, 0, 0, 1], 8642))),
            tls: OrOff::Off,
            hosts: Vec::new(),
            origins: Vec::new(),
            max_body: SizeText(16 << 20),
            header_timeout: DurationText(Duration::from_secs(10)),
            body_timeout: DurationText(Duration::from_secs(30)),
            max_header_bytes: SizeText(32 << 10),
            max_connections: 20_000,
            idle_timeout: DurationText(Duration::from_secs(75)),
            keep_alive: DurationText(Duration::from_secs(15)),
            ws_ping: DurationText(Duration::from_secs(30)),
            compression: ListenCompressionFile::default(),
        }
    }
}

/// The listener for operators.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminListenFile {
    /// IP address and port.
    pub address: AddressText,
}

impl Default for AdminListenFile {
    fn default() -> Self {
        Self { address: AddressText(SocketAddr::from(([127, 0, 0, 1], 8643))) }
    }
}

/// How exposed names are built.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NamesFile {
    /// Longest exposed name in characters. Clients put their own prefix before it and models allow 64.
    #[schemars(range(min = 16, max = 128))]
    pub max: usize,
    /// Whether a tool may be called by its own name without a server. The first server that has it and is not down is meant.
    pub any_server: bool,
}

impl Default for NamesFile {
    fn default() -> Self {
        Self { max: 48, any_server: false }
    }
}

/// Bounds and times of the merged catalog.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogFile {
    /// How long a first list waits for servers that were never seen.
    pub first_wait: WaitText,
    /// Items per page of a list answer.
    #[schemars(range(min = 1, max = 100_000))]
    pub page_size: usize,
    /// Items per server and kind (tools, prompts, resources, templates) at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_items: usize,
    /// Bytes of catalog per server at most.
    pub max_bytes: SizeText,
    /// Distinct client capability sets per server at most.
    #[schemars(range(min = 1, max = 256))]
    pub max_capability_sets: usize,
    /// How often servers that do not announce changes are listed again.
    pub refresh: DurationText,
}

impl Default for CatalogFile {
    fn default() -> Self {
        Self {
            first_wait: WaitText(Duration::from_secs(3)),
            page_size: 1000,
            max_items: 10_000,
            max_bytes: SizeText(32 << 20),
            max_capability_sets: 8,
            refresh: DurationText(Duration::from_secs(300)),
        }
    }
}

/// Bounds and times of client sessions.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SessionsFile {
    /// A session unused for this long is forgotten; its id stays good and brings it back until `max_age`.
    pub idle: DurationText,
    /// A session older than this ends.
    pub max_age: DurationText,
    /// Sessions at most.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max: usize,
    /// Calls in flight per session at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_calls: usize,
    /// Open event streams at most, all sessions together.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_streams: usize,
    /// Messages waiting per stream at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub stream_queue: usize,
    /// `User-Agent`s (`*` stands for anything) of clients that never send their session id back. Their
    /// requests are served without one, as far as they can be: no questions, no subscriptions.
    pub without_id: Vec<PatternText>,
    /// Events kept per stream of a legacy client, for when it comes back with `Last-Event-ID`; 0 keeps none, and a
    /// call then ends with the connection it came on.
    #[schemars(range(max = 1_000_000))]
    pub replay_events: usize,
    /// Bytes kept of all streams of one session.
    pub replay_bytes: SizeText,
}

impl Default for SessionsFile {
    fn default() -> Self {
        Self {
            idle: DurationText(Duration::from_secs(30 * 60)),
            max_age: DurationText(Duration::from_secs(7 * 24 * 3600)),
            max: 100_000,
            max_calls: 64,
            max_streams: 20_000,
            stream_queue: 256,
            without_id: vec![PatternText(crate::Glob::new("Claude-User*").expect("invariant: a pattern of our own"))],
            replay_events: 256,
            replay_bytes: SizeText(1 << 20),
        }
    }
}

/// Bounds and times of tasks.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TasksFile {
    /// Tasks that are remembered at most, those of all callers together. The oldest make room.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max: usize,
    /// Tasks of one caller that are remembered at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_per_caller: usize,
    /// How long a task is remembered at most, and how long its result may be waited for.
    pub ttl: DurationText,
}

impl Default for TasksFile {
    fn default() -> Self {
        Self { max: 10_000, max_per_caller: 1_000, ttl: DurationText(Duration::from_secs(3600)) }
    }
}

/// How the two eras of the protocol are brought together.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeFile {
    /// How often a modern server may ask the client of one legacy call before it is given up.
    #[schemars(range(min = 1, max = 1_000))]
    pub max_rounds: usize,
}

impl Default for BridgeFile {
    fn default() -> Self {
        Self { max_rounds: 16 }
    }
}

/// Calls that wait for an answer of a client of revision 2026-07-28 to a server of an earlier one.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ParkFile {
    /// How long further questions are waited for after the first, so that they are asked together.
    pub gather: WaitText,
    /// Waiting calls at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: usize,
    /// Bytes kept for waiting calls at most, all together.
    pub max_bytes: SizeText,
    /// How long a call waits for its answers.
    pub ttl: DurationText,
    /// How long one call may be asked, from its first question on.
    pub max_age: DurationText,
}

impl Default for ParkFile {
    fn default() -> Self {
        Self {
            gather: WaitText(Duration::from_millis(50)),
            max: 1000,
            max_bytes: SizeText(16 << 20),
            ttl: DurationText(Duration::from_secs(300)),
            max_age: DurationText(Duration::from_secs(3600)),
        }
    }
}

/// Logging.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogFile {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, also per module: `info,fairlead_upstream=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormatFile,
}

impl Default for LogFile {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormatFile::Text }
    }
}

/// How a log line looks: for people, or one JSON object per line.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum LogFormatFile {
    Text,
    Json,
}

/// One upstream server: a child process (`command`), an HTTP or WebSocket endpoint (`url`), a TCP port
/// (`tcp`) or a Unix socket (`unix`).
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerFile {
    /// Program to run as a child process that speaks MCP on its standard streams. A name is searched
    /// in `PATH`; a path that begins with `.` is relative to this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The program's arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<ScalarText>,
    /// Environment variables set for the program. Values are never shown.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub env: IndexMap<String, SecretText>,
    /// File with more variables, one `NAME=value` per line; `env` wins over it.
    #[serde(rename = "envFile", skip_serializing_if = "Option::is_none")]
    pub env_file: Option<String>,
    /// The program's working directory. Default: the gateway's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// How long after closing its input the program is told to terminate, and after that is killed.
    pub stop_grace: DurationText,
    /// URL of an HTTP endpoint (`http`, `https`), whose transport and protocol era are detected, or of a
    /// WebSocket endpoint (`ws`, `wss`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<UrlText>,
    /// The same as `url`, as some client configuration files call it.
    #[serde(rename = "serverUrl", skip_serializing_if = "Option::is_none")]
    pub server_url: Option<UrlText>,
    /// The same as `url`, as some client configuration files call it.
    #[serde(rename = "httpUrl", skip_serializing_if = "Option::is_none")]
    pub http_url: Option<UrlText>,
    /// Host and port of a server that takes newline-delimited JSON-RPC over TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<HostPortText>,
    /// Path of a Unix socket: of a server that takes newline-delimited JSON-RPC, or together with `url`
    /// of one that speaks HTTP there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
    /// Several instances of the server, instead of a `url` or the like of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceFile>,
    /// So many processes of the `command` share the calls.
    #[schemars(range(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<usize>,
    /// How calls are spread over instances.
    pub balance: BalanceFile,
    /// How each instance is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthFile>,
    /// How instances that do worse than their siblings lose their calls for a while.
    pub ejection: EjectionFile,
    /// Headers added to every request (of a WebSocket, to its handshake). Values are never shown.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, SecretText>,
    /// Which HTTP transport to speak instead of detecting it: Streamable HTTP, or the HTTP+SSE of 2024-11-05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<TransportFile>,
    /// The transport, as client configuration files name it; it follows from the other keys, except that
    /// `sse` is the same as `transport: sse`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<TypeFile>,
    /// When it is started: once to learn its catalog and then by the first call, or with the gateway.
    pub start: StartFile,
    /// Which callers share a session or process with it.
    pub share: ShareFile,
    /// How long to wait for it.
    pub timeout: TimeoutFile,
    /// A lazily started program unused for this long is stopped.
    pub idle_stop: DurationText,
    /// Upstream sessions or processes at most, of each instance.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_sessions: usize,
    /// Calls in flight at most, of each instance.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_calls: usize,
    /// Whether its tools and prompts are exposed as `server__name`. Without, where names clash the first
    /// server in the configuration has the name, and the clash is logged as an error (FL-1404).
    pub prefix: bool,
    /// How its resource URIs are exposed: unchanged, or as `fairlead+<server>:<original>`.
    pub resources: ResourcesFile,
    /// Which of its tools are exposed, and what is done with their calls.
    pub tools: ToolsFile,
    /// What of its answers is given again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<ServerCacheFile>,
    /// Largest message it may send.
    pub max_message: SizeText,
    /// Protocol revision to speak instead of detecting one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ProtocolFile>,
    /// The connection pool, for a server with a `url`.
    pub connections: ConnectionsFile,
    /// The bulkhead its calls pass: the name of one, or `critical`, `standard` or `batch` for one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<String>,
    /// How often it may be called, in place of what `limits` says of servers and tools.
    pub limits: ServerLimitsFile,
    /// When calls to it are held back because it fails, or `off`, which is the default.
    pub breaker: OrOff<BreakerFile>,
    /// How calls that failed are made again where that is safe, or `off`, which is the default.
    pub retry: OrOff<RetryFile>,
    /// What calls that failed are answered with, in the order they are tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<FallbackFile>,
    /// Servers it cannot work without: while calls to one of them are held back, calls to it are refused at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// Whether it is learned from calls which servers its tools need, and calls are refused as with `depends_on`.
    pub learn_dependencies: bool,
    /// Whether it is told how much time there is for a call.
    pub forward_deadline: bool,
    /// Compression, for a server with a `url`.
    pub compression: ServerCompressionFile,
    /// Configured but not used.
    pub disabled: bool,
}

impl Default for ServerFile {
    fn default() -> Self {
        Self {
            command: None,
            args: Vec::new(),
            env: IndexMap::new(),
            env_file: None,
            cwd: None,
            stop_grace: DurationText(Duration::from_secs(3)),
            url: None,
            server_url: None,
            http_url: None,
            tcp: None,
            unix: None,
            instances: Vec::new(),
            replicas: None,
            balance: BalanceFile::default(),
            health: None,
            ejection: EjectionFile::default(),
            headers: IndexMap::new(),
            transport: None,
            kind: None,
            start: StartFile::Lazy,
            share: ShareFile::Auto,
            timeout: TimeoutFile::default(),
            idle_stop: DurationText(Duration::from_secs(600)),
            max_sessions: 16,
            max_calls: 256,
            prefix: true,
            resources: ResourcesFile::Keep,
            tools: ToolsFile::default(),
            cache: None,
            max_message: SizeText(16 << 20),
            protocol: None,
            connections: ConnectionsFile::default(),
            bulkhead: None,
            limits: ServerLimitsFile::default(),
            breaker: OrOff::Off,
            retry: OrOff::Off,
            fallback: Vec::new(),
            depends_on: Vec::new(),
            learn_dependencies: false,
            forward_deadline: false,
            compression: ServerCompressionFile::default(),
            disabled: false,
        }
    }
}

/// The transport, as client configuration files name it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum TypeFile {
    #[serde(rename = "stdio")]
    Stdio,
    #[serde(rename = "http")]
    Http,
    #[serde(rename = "streamable-http")]
    StreamableHttp,
    #[serde(rename = "streamableHttp")]
    StreamableHttpCamel,
    #[serde(rename = "streamable_http")]
    StreamableHttpSnake,
    #[serde(rename = "sse")]
    Sse,
    #[serde(rename = "ws")]
    Ws,
    #[serde(rename = "websocket")]
    WebSocket,
}

/// One of the two HTTP transports.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum TransportFile {
    #[serde(rename = "streamable-http")]
    StreamableHttp,
    #[serde(rename = "sse")]
    Sse,
}

/// When a server is started.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum StartFile {
    Lazy,
    Eager,
}

/// Which callers share a session or process with a server. `auto`: everybody, until the server shows
/// that it asks its client for something.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum ShareFile {
    Auto,
    Shared,
    PerTenant,
    PerUser,
    PerSession,
}

/// How resource URIs are exposed.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum ResourcesFile {
    Keep,
    Prefix,
}

/// A protocol revision.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum ProtocolFile {
    #[serde(rename = "2024-11-05")]
    V20241105,
    #[serde(rename = "2025-03-26")]
    V20250326,
    #[serde(rename = "2025-06-18")]
    V20250618,
    #[serde(rename = "2025-11-25")]
    V20251125,
    #[serde(rename = "2026-07-28")]
    V20260728,
}

/// How long to wait for a server.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutFile {
    /// A connection.
    pub connect: DurationText,
    /// Handshake and first listing.
    pub start: DurationText,
    /// Silence during a call; any message, progress too, resets it.
    pub idle: DurationText,
    /// A whole call, whatever happens.
    pub call: DurationText,
}

impl Default for TimeoutFile {
    fn default() -> Self {
        Self {
            connect: DurationText(Duration::from_secs(5)),
            start: DurationText(Duration::from_secs(30)),
            idle: DurationText(Duration::from_secs(60)),
            call: DurationText(Duration::from_secs(600)),
        }
    }
}

/// The JSON Schema (2020-12) of [`ConfigFile`], with descriptions, defaults and examples.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .for_deserialize()
        .into_generator()
        .into_root_schema_for::<ConfigFile>()
        .to_value()
}
