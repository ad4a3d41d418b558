//! What the program uses: validated, every default filled in, paths absolute or relative to the
//! process, references resolved. What people write is [`crate::file`].

use crate::{
    AnswerCompression, Cache, Connections, Correlation, FaultsConfig, Glob, Limits, Overload, Problem, Results, Route,
    Secret, ServerCompression, ServerRules, Tls, ToolVersions, Toolset, instances::Instances,
};
use fairlead_core::ServerName;
use indexmap::IndexMap;
use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The listener for MCP clients and its bounds.
    pub listen: Listen,
    /// The listener for operators.
    pub admin: Admin,
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// How exposed names are built.
    pub names: Names,
    /// Bounds and times of the merged catalog.
    pub catalog: Catalog,
    /// Bounds and times of client sessions.
    pub sessions: Sessions,
    /// Bounds and times of tasks.
    pub tasks: Tasks,
    /// How the two eras of the protocol are brought together.
    pub bridge: Bridge,
    /// Calls that wait for an answer of their modern client.
    pub park: Park,
    /// How often calls may be made, and how much may be used.
    pub limits: Limits,
    /// Bounds of what is kept of answers.
    pub cache: Cache,
    /// What gives way under load.
    pub overload: Overload,
    /// Faults that are injected on purpose.
    pub faults: FaultsConfig,
    /// What was cut off answers.
    pub results: Results,
    /// The id of a request.
    pub correlation: Correlation,
    /// Logging.
    pub log: Log,
    /// Worker threads.
    pub workers: usize,
    /// How long calls in flight may finish after a stop was asked for.
    pub drain: Duration,
    /// Servers in configuration order, disabled ones too.
    pub servers: IndexMap<ServerName, Arc<Server>>,
    /// What is done with the calls of servers, of those for which anything is said.
    pub rules: IndexMap<ServerName, Arc<ServerRules>>,
    /// Named selections of the catalog, served under `/mcp/{toolset}`.
    pub toolsets: IndexMap<String, Toolset>,
    /// Calls that go to other servers than their name says.
    pub routes: Vec<Route>,
    /// Versions of tools, by exposed names.
    pub versions: IndexMap<String, ToolVersions>,
    /// Files the configuration came from, in layer order. Referenced files are not listed.
    pub sources: Vec<PathBuf>,
    /// What is accepted but ignored or altered.
    pub warnings: Vec<Problem>,
}

/// The MCP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Address of the MCP listener.
    pub address: SocketAddr,
    /// TLS, where it is spoken.
    pub tls: Option<Tls>,
    /// `Host` names served besides the loopback names.
    pub hosts: Vec<String>,
    /// Browser origins served besides loopback ones.
    pub origins: Vec<String>,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// How long a request's head may take to arrive.
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// Largest request head, in bytes.
    pub max_header_bytes: usize,
    /// Open connections at most.
    pub max_connections: usize,
    /// How long an idle connection is kept open.
    pub idle_timeout: Duration,
    /// Interval of comments on open event streams.
    pub keep_alive: Duration,
    /// Interval of pings to WebSocket clients, and how long one may take to show that it is there.
    pub ws_ping: Duration,
    /// Whether answers to clients are compressed.
    pub compression: Option<AnswerCompression>,
}

impl Listen {
    /// What URLs of the listener begin with, where it is bound to `address`. With TLS the name is one the certificate
    /// may have, if there is any.
    #[must_use]
    pub fn origin(&self, address: SocketAddr) -> String {
        match (&self.tls, self.hosts.first()) {
            (None, _) => format!("http://{address}"),
            (Some(_), None) => format!("https://{address}"),
            (Some(_), Some(host)) => format!("https://{host}:{}", address.port()),
        }
    }
}

/// The operators' listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address, or `None` when it is switched off.
    pub address: Option<SocketAddr>,
}

/// How exposed names are built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Longest exposed name in characters, 16 to 128.
    pub max: usize,
    /// Whether a tool may be called without its server.
    pub any_server: bool,
}

/// Bounds and times of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// How long a first list waits for servers that were never seen.
    pub first_wait: Duration,
    /// Items per page of a list answer.
    pub page_size: usize,
    /// Items per server and kind at most.
    pub max_items: usize,
    /// Bytes of catalog per server at most.
    pub max_bytes: usize,
    /// Distinct client capability sets per server at most.
    pub max_capability_sets: usize,
    /// How often servers that do not announce changes are listed again.
    pub refresh: Duration,
}

/// Bounds and times of client sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// A session unused for this long is forgotten; its id stays good and brings it back until `max_age`.
    pub idle: Duration,
    /// A session older than this ends.
    pub max_age: Duration,
    /// Sessions at most.
    pub max: usize,
    /// Calls in flight per session at most.
    pub max_calls: usize,
    /// Open event streams at most, all sessions together.
    pub max_streams: usize,
    /// Messages waiting per stream at most.
    pub stream_queue: usize,
    /// `User-Agent`s of clients that never send their session id back.
    pub without_id: Vec<crate::Glob>,
    /// Events kept per stream, for when its client comes back; 0 keeps none.
    pub replay_events: usize,
    /// Bytes kept of all streams of one session.
    pub replay_bytes: usize,
}

/// Bounds and times of tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tasks {
    /// Tasks that are remembered at most, those of all callers together. The oldest make room.
    pub max: usize,
    /// Tasks of one caller that are remembered at most.
    pub max_per_caller: usize,
    /// How long a task is remembered at most, and how long its result may be waited for.
    pub ttl: Duration,
}

/// How the two eras of the protocol are brought together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// How often a modern server may ask the client of one legacy call before it is given up.
    pub max_rounds: usize,
}

/// Calls of modern clients that wait for an answer to a question of a legacy server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Park {
    /// How long further questions are waited for after the first.
    pub gather: Duration,
    /// Waiting calls at most.
    pub max: usize,
    /// Bytes kept for waiting calls at most, all together.
    pub max_bytes: usize,
    /// How long a call waits for its answers.
    pub ttl: Duration,
    /// How long one call may be asked, from its first question on.
    pub max_age: Duration,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Level or filter directives, for example `info` or `info,fairlead_upstream=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// One upstream server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: ServerName,
    /// How it is reached; of several instances the first.
    pub transport: Transport,
    /// When it is started or connected.
    pub start: Start,
    /// Which callers share a session or process.
    pub share: Share,
    /// How long to wait for it.
    pub timeout: Timeouts,
    /// A lazily started process unused for this long is stopped.
    pub idle_stop: Duration,
    /// Upstream sessions or processes at most.
    pub max_sessions: usize,
    /// Calls in flight at most.
    pub max_calls: usize,
    /// Whether its tools and prompts are exposed as `server__name`.
    pub prefix: bool,
    /// How its resource URIs are exposed.
    pub resources: ResourceUris,
    /// Which of its tools are exposed.
    pub tools: Filter,
    /// Largest message it may send, in bytes.
    pub max_message: usize,
    /// Revision to speak instead of detecting one, for example `2025-06-18`.
    pub protocol: Option<String>,
    /// The connection pool, for servers reached over HTTP.
    pub connections: Connections,
    /// Where it runs, if not only where its transport says, and how calls are spread.
    pub instances: Instances,
    /// Compression, for servers reached over HTTP.
    pub compression: ServerCompression,
    /// Configured but not used.
    pub disabled: bool,
}

/// When a server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Once to learn its catalog, then by the first call; stopped when idle.
    Lazy,
    /// With the gateway, and kept running.
    Eager,
}

/// Which callers share an upstream session or process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Shared until the server shows that it asks its client for something.
    Auto,
    /// Shared by everybody.
    Shared,
    /// One per tenant.
    PerTenant,
    /// One per user.
    PerUser,
    /// One per client session.
    PerSession,
}

/// How long to wait for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection.
    pub connect: Duration,
    /// Handshake and first listing.
    pub start: Duration,
    /// Silence during a call; any message, progress too, resets it.
    pub idle: Duration,
    /// A whole call, whatever happens.
    pub call: Duration,
}

/// How resource URIs are exposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceUris {
    /// Unchanged; of two servers that claim one URI the first in configuration order keeps it.
    Keep,
    /// As `fairlead+<server>:<original>`.
    Prefix,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A child process on its standard streams.
    Stdio(Stdio),
    /// Streamable HTTP, or the HTTP+SSE of 2024-11-05.
    Http(Http),
    /// WebSocket, one message per text frame.
    WebSocket(WebSocket),
    /// A TCP connection, one message per line.
    Tcp(HostPort),
    /// A Unix socket, one message per line.
    Unix(PathBuf),
}

impl Transport {
    /// How people call it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Transport::Stdio(_) => "stdio",
            Transport::Http(Http { kind: HttpKind::Sse, .. }) => "sse",
            Transport::Http(_) => "http",
            Transport::WebSocket(_) => "websocket",
            Transport::Tcp(_) => "tcp",
            Transport::Unix(_) => "unix",
        }
    }

    /// Whether the server's certificate is checked when it is connected to.
    #[must_use]
    pub fn uses_tls(&self) -> bool {
        match self {
            Transport::Http(Http { url, .. }) | Transport::WebSocket(WebSocket { url, .. }) => url.is_tls(),
            Transport::Stdio(_) | Transport::Tcp(_) | Transport::Unix(_) => false,
        }
    }
}

/// A child process.
#[derive(Clone, PartialEq, Eq)]
pub struct Stdio {
    /// Program name or path.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables set for it, in order.
    pub env: Vec<(String, Secret)>,
    /// Its working directory; `None` is the gateway's.
    pub cwd: Option<PathBuf>,
    /// How long after closing its input it is told to terminate, and after that is killed.
    pub stop_grace: Duration,
}

impl fmt::Debug for Stdio {
    /// Arguments are counted, not shown: references may have put secrets into them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdio")
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env)
            .field("cwd", &self.cwd)
            .field("stop_grace", &self.stop_grace)
            .finish()
    }
}

/// A server reached over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The MCP endpoint, `http` or `https`.
    pub url: Url,
    /// Headers added to every request, in order.
    pub headers: Vec<(http::HeaderName, Secret)>,
    /// Which of the two HTTP transports it speaks.
    pub kind: HttpKind,
    /// The Unix socket it listens on, instead of the URL's host and port.
    pub socket: Option<PathBuf>,
}

/// Which of the two HTTP transports a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpKind {
    /// Streamable HTTP, or HTTP+SSE when it refuses that.
    Detect,
    /// Streamable HTTP and nothing else.
    Streamable,
    /// The HTTP+SSE of 2024-11-05.
    Sse,
}

/// A server reached over WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    /// The endpoint, `ws` or `wss`.
    pub url: Url,
    /// Headers of the handshake, in order.
    pub headers: Vec<(http::HeaderName, Secret)>,
}

/// A host and a port to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an IP address; an IPv6 address without its brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`, `[IPv6]:port` included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().ok().map(|_| inner)?,
            None => host,
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let good = !host.is_empty() && (host.chars().all(is_name) || text.starts_with('['));
        good.then(|| Self { host: host.into(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// An absolute `http`, `https`, `ws` or `wss` URL without user information or fragment. `Debug` and
/// `Display` hide the query: people put keys there.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    uri: http::Uri,
    text: Box<str>,
}

/// Why a text is not a usable URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL at all.
    #[error("this is not a URL")]
    Malformed,
    /// The scheme is none that a server is reached by.
    #[error("the URL must begin with `http://`, `https://`, `ws://` or `wss://`")]
    Scheme,
    /// There is no host.
    #[error("the URL names no host")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    /// There is a user name or password in it.
    #[error("user names and passwords do not belong into a URL")]
    UserInfo,
    /// There is a `#fragment`.
    #[error("a fragment (`#...`) has no meaning here")]
    Fragment,
}

impl Url {
    /// Checks and takes apart `text`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let uri: http::Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        if !matches!(uri.scheme_str(), Some("http" | "https" | "ws" | "wss")) {
            return Err(UrlError::Scheme);
        }
        let authority = uri.authority().ok_or(UrlError::Host)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        if authority.host().is_empty() {
            return Err(UrlError::Host);
        }
        if let Some(port) = authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'))
            && !port.parse::<u16>().is_ok_and(|port| port != 0)
        {
            return Err(UrlError::Port);
        }
        Ok(Self { text: uri.to_string().into(), uri })
    }

    /// Whether it is `https` or `wss`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.uri.scheme_str(), Some("https" | "wss"))
    }

    /// Whether it is `ws` or `wss`.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        matches!(self.uri.scheme_str(), Some("ws" | "wss"))
    }

    /// The host: a name, an IPv4 address, or an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// The port, that of the scheme if none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// What goes into the request line.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    /// The whole URL, query included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The whole URL as the HTTP crates want it.
    #[must_use]
    pub fn uri(&self) -> &http::Uri {
        &self.uri
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, query) = self.text.split_once('?').map_or((&*self.text, ""), |(before, _)| (before, "?***"));
        write!(f, "{before}{query}")
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which names are let through: those that match `allow` (everything when it is empty) and do not
/// match `deny`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Patterns of which one must match; none means everything.
    pub allow: Vec<Glob>,
    /// Patterns of which none may match.
    pub deny: Vec<Glob>,
}

impl Filter {
    /// Whether `name` is let through.
    #[must_use]
    pub fn permits(&self, name: &str) -> bool {
        (self.allow.is_empty() || self.allow.iter().any(|glob| glob.matches(name)))
            && !self.deny.iter().any(|glob| glob.matches(name))
    }

    /// Whether everything is let through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.deny.is_empty() && (self.allow.is_empty() || self.allow.iter().any(|glob| glob.as_str() == "*"))
    }
}

impl Server {
    /// A digest of what the server *is*: command, arguments and working directory, or URL or address. Headers,
    /// environment and tuning have no part in it, so it stays while those change. 16 hexadecimal
    /// digits (FNV-1a, 64 bits), the same in every build; not a secure hash.
    #[must_use]
    pub fn identity(&self) -> String {
        let mut digest = Fnv::new();
        match &self.transport {
            Transport::Stdio(stdio) => {
                digest.part("stdio");
                digest.part(&stdio.command);
                digest.part(&stdio.args.len().to_string());
                for argument in &stdio.args {
                    digest.part(argument);
                }
                digest.part(stdio.cwd.as_ref().map(|cwd| cwd.to_string_lossy()).as_deref().unwrap_or_default());
            }
            Transport::Http(http) => {
                digest.part("http");
                digest.part(http.url.as_str());
                if let Some(socket) = &http.socket {
                    digest.part(&socket.to_string_lossy());
                }
            }
            Transport::WebSocket(socket) => {
                digest.part("websocket");
                digest.part(socket.url.as_str());
            }
            Transport::Tcp(address) => {
                digest.part("tcp");
                digest.part(&address.to_string());
            }
            Transport::Unix(path) => {
                digest.part("unix");
                digest.part(&path.to_string_lossy());
            }
        }
        format!("{:016x}", digest.0)
    }
}

struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds the text and an end mark that no text contains, so that parts cannot flow together.
    fn part(&mut self, text: &str) {
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
