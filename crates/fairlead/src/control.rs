//! The control socket: what commands on this machine ask a running gateway.
//!
//! A Unix socket (mode 0600) in the data directory. It serves the whole data plane (so that
//! `fairlead call` and `fairlead stdio` are ordinary clients of it) and a few paths of its own
//! below `/control/v1/`. Its types are an agreement between one program and itself: both sides are
//! this binary, and nothing outside may rely on them.

use crate::{
    breaker::{self, GuardRow, NeedRow},
    cache, faults,
    instances::{self, InstanceRow},
    linger::{Attached, Hold},
};
use bytes::Bytes;
use fairlead_config::Start;
use fairlead_gateway::{Door, Gateway};
use fairlead_upstream::{ListingKind, PoolStats, ServerHandle, State, Worker};
use fairlead_wire::{CapabilitySet, Era, list};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

/// Where the paths that are not the data plane's begin.
pub(crate) const PREFIX: &str = "/control/v1/";
/// Connections at most: clients on standard streams have a few each.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tools,
    Resources,
    Prompts,
}

impl Kind {
    /// The word in paths and headings.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Prompts => "prompts",
        }
    }

    /// The protocol's lists it is made of.
    pub(crate) fn listings(self) -> &'static [ListingKind] {
        match self {
            Self::Tools => &[ListingKind::Tools],
            Self::Resources => &[ListingKind::Resources, ListingKind::Templates],
            Self::Prompts => &[ListingKind::Prompts],
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Tools, Self::Resources, Self::Prompts].into_iter().find(|kind| kind.word() == word)
    }
}

/// One server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerRow {
    pub(crate) name: String,
    /// `stdio` or `http`.
    pub(crate) transport: String,
    /// `lazy` or `eager`.
    pub(crate) start: String,
    /// `starting`, `ready`, `idle`, `down`, `stopped`.
    pub(crate) state: String,
    /// Milliseconds until a server that is down is tried again.
    pub(crate) retry_ms: Option<u64>,
    /// `legacy` or `modern`, once known.
    pub(crate) era: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) tools: Option<usize>,
    pub(crate) resources: Option<usize>,
    pub(crate) templates: Option<usize>,
    pub(crate) prompts: Option<usize>,
    /// Size of everything it lists.
    pub(crate) bytes: Option<usize>,
    /// The same in tokens, estimated.
    pub(crate) tokens: Option<usize>,
    /// The lists come from an earlier run, or from before a failure.
    pub(crate) stale: bool,
    /// Open sessions or processes.
    pub(crate) links: usize,
    pub(crate) calls: usize,
    /// Process ids.
    pub(crate) processes: Vec<u32>,
    /// The pool of connections, for a server reached over HTTP.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) connections: Option<ConnectionsRow>,
    /// What keeps calls off it, where anything is configured.
    pub(crate) guard: Option<GuardRow>,
    /// What its tools were seen to need, where that is learned.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) learned: Vec<NeedRow>,
    /// What is wrong: the server as a whole, or one of its lists.
    pub(crate) error: Option<String>,
    /// Where several are.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) instances: Vec<InstanceRow>,
}

/// The connections to one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConnectionsRow {
    pub(crate) open: usize,
    pub(crate) idle: usize,
    pub(crate) in_use: usize,
    pub(crate) connecting: usize,
    /// Calls that wait for one.
    pub(crate) waiting: usize,
    /// Ever opened.
    pub(crate) opened: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    /// Calls that waited longer than `acquire_timeout`.
    pub(crate) timed_out: u64,
    /// Ever closed, by the reason.
    pub(crate) closed: BTreeMap<String, u64>,
}

impl From<PoolStats> for ConnectionsRow {
    fn from(stats: PoolStats) -> Self {
        Self {
            open: stats.open,
            idle: stats.idle,
            in_use: stats.in_use(),
            connecting: stats.connecting,
            waiting: stats.waiting,
            opened: stats.opened,
            failed: stats.failed,
            timed_out: stats.timed_out,
            closed: stats.closed().map(|(why, count)| (why.to_owned(), count)).collect(),
        }
    }
}

/// One tool, resource, template or prompt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ItemRow {
    /// As clients see it.
    pub(crate) name: String,
    /// As the server calls it.
    pub(crate) original: String,
    /// Unknown where only a URL is asked.
    pub(crate) server: Option<String>,
    /// `tool`, `resource`, `template`, `prompt`.
    pub(crate) kind: String,
    pub(crate) bytes: usize,
    /// Estimated.
    pub(crate) tokens: usize,
    pub(crate) stale: bool,
    /// Why clients do not see it.
    pub(crate) hidden: Option<String>,
    /// The definition as listed; only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) definition: Option<Box<serde_json::value::RawValue>>,
}

/// One step of an explanation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StepRow {
    pub(crate) phase: String,
    pub(crate) ok: Option<bool>,
    pub(crate) text: String,
}

/// Tokens of an item, estimated.
fn tokens(raw: &[u8]) -> usize {
    std::str::from_utf8(raw).map_or(0, fairlead_core::tokens::estimate)
}

/// The picture of every server.
pub(crate) fn server_rows(gateway: &Gateway) -> Vec<ServerRow> {
    gateway.servers().iter().map(|handle| server_row(gateway, handle)).collect()
}

/// The picture of one server.
fn server_row(gateway: &Gateway, handle: &ServerHandle) -> ServerRow {
    let view = handle.view();
    let config = handle.config();
    let catalog = view.nearest_catalog(Era::Modern, CapabilitySet::BARE);
    let count = |kind| catalog.map(|catalog| catalog.listing(kind).entries.len());
    let bytes = catalog.map(|catalog| ListingKind::ALL.iter().map(|kind| catalog.listing(*kind).bytes()).sum());
    let links = handle.links();
    let retry_ms = match &view.state {
        State::Down { retry_at, .. } => {
            let left = retry_at.saturating_duration_since(Instant::now());
            Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
        }
        _ => None,
    };
    let unlisted = || {
        let failed = &catalog?.failed;
        let said: Vec<String> = failed.iter().map(|(kind, reason)| format!("{}: {reason}", kind.member())).collect();
        (!said.is_empty()).then(|| said.join("; "))
    };
    let down = match &view.state {
        State::Down { reason, .. } => Some(reason.to_string()),
        _ => None,
    };
    ServerRow {
        name: handle.name().to_string(),
        transport: config.transport.word().to_owned(),
        start: start(config.start).to_owned(),
        state: view.state.word().to_owned(),
        retry_ms,
        era: match (&view.modern, &view.legacy) {
            (Some(_), Some(_)) => Some("both".to_owned()),
            (Some(_), _) => Some("modern".to_owned()),
            (None, Some(_)) => Some("legacy".to_owned()),
            (None, None) => None,
        },
        revision: view.any_peer().map(|peer| peer.revision.as_str().to_owned()),
        tools: count(ListingKind::Tools),
        resources: count(ListingKind::Resources),
        templates: count(ListingKind::Templates),
        prompts: count(ListingKind::Prompts),
        bytes,
        tokens: catalog.map(|catalog| ListingKind::ALL.iter().map(|kind| catalog.listing(*kind).tokens()).sum()),
        stale: catalog.is_some() && !view.fresh,
        links: links.len(),
        calls: handle.in_flight(),
        processes: links.iter().filter_map(|link| link.process_id()).collect(),
        connections: handle.connections().map(ConnectionsRow::from),
        error: down
            .or_else(unlisted)
            .or_else(|| view.unlisted.as_deref().map(|why| format!("it cannot be listed: {why}")))
            .or_else(|| instances::why_out(handle)),
        learned: gateway.learned_needs(handle.name()).iter().map(Into::into).collect(),
        guard: gateway.guard(handle.name().as_str()).map(|reading| (&reading).into()),
        instances: instances::rows(handle),
    }
}

/// How the configuration writes it.
pub(crate) fn start(start: Start) -> &'static str {
    match start {
        Start::Lazy => "lazy",
        Start::Eager => "eager",
    }
}

/// What clients see of one kind, server by server, with what they do not see and why.
fn item_rows(gateway: &Gateway, kind: Kind, wanted: Option<&str>) -> Vec<ItemRow> {
    let mut rows = Vec::new();
    for server in gateway.servers() {
        let stale = !server.peek().fresh;
        for &listing in kind.listings() {
            for item in gateway.exposed(&server, listing) {
                if wanted.is_some_and(|wanted| wanted != item.name) {
                    continue;
                }
                let definition = wanted.and_then(|_| raw(&item.raw));
                rows.push(ItemRow {
                    name: item.name,
                    original: item.original,
                    server: Some(server.name().to_string()),
                    kind: noun(listing).to_owned(),
                    bytes: item.raw.len(),
                    tokens: tokens(&item.raw),
                    stale,
                    hidden: item.reason_hidden,
                    definition,
                });
            }
        }
    }
    rows
}

fn raw(bytes: &Bytes) -> Option<Box<serde_json::value::RawValue>> {
    serde_json::value::RawValue::from_string(std::str::from_utf8(bytes).ok()?.to_owned()).ok()
}

/// One item of a list.
pub(crate) fn noun(kind: ListingKind) -> &'static str {
    match kind {
        ListingKind::Tools => "tool",
        ListingKind::Resources => "resource",
        ListingKind::Templates => "template",
        ListingKind::Prompts => "prompt",
    }
}

/// Rows for the items of a plain MCP list, where there is no control socket to ask.
pub(crate) fn listed_row(kind: ListingKind, raw: &str) -> Option<ItemRow> {
    let name = list::string_member(raw, kind.key())?.into_owned();
    let server = fairlead_wire::name::split(&name).map(|(server, _)| server.to_owned());
    Some(ItemRow {
        original: name.clone(),
        name,
        server,
        kind: noun(kind).to_owned(),
        bytes: raw.len(),
        tokens: tokens(raw.as_bytes()),
        stale: false,
        hidden: None,
        definition: None,
    })
}

/// The path that asks for the servers.
pub(crate) fn servers_path() -> String {
    format!("{PREFIX}servers")
}

/// The path that asks for items: all of a kind, or one with its definition.
pub(crate) fn items_path(kind: Kind, name: Option<&str>) -> String {
    let kind = kind.word();
    name.map_or_else(
        || format!("{PREFIX}items?kind={kind}"),
        |name| format!("{PREFIX}items?kind={kind}&name={}", percent(name)),
    )
}

/// The path that asks why.
pub(crate) fn explain_path(name: &str) -> String {
    format!("{PREFIX}explain?name={}", percent(name))
}

/// The path, to be POSTed to, that takes instances out of service or brings them back.
pub(crate) fn drain_path(target: &str, is_out: bool) -> String {
    let word = if is_out { "drain" } else { "undrain" };
    format!("{PREFIX}{word}?name={}", percent(target))
}

/// The path whose answer never ends: see [`crate::linger`].
pub(crate) fn attach_path() -> String {
    format!("{PREFIX}attach")
}

/// The path that asks what is kept of answers.
pub(crate) fn cache_path() -> String {
    format!("{PREFIX}cache")
}

/// The path that drops what is kept of answers; parameters that are not given leave it open.
pub(crate) fn purge_path(parameters: [(&str, Option<&str>); 3]) -> String {
    let given = parameters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", percent(value?))));
    format!("{PREFIX}cache/purge?{}", given.collect::<Vec<_>>().join("&"))
}

/// Everything but unreserved characters, percent-encoded (RFC 3986).
pub(crate) fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn unpercent(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// One parameter of a query string.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == name { unpercent(value) } else { None }
    })
}

/// The body of an answer on the control socket.
pub(crate) enum Answer {
    /// Of the data plane, or a whole text.
    Plain(fairlead_gateway::Body),
    /// Nothing, for as long as the client stays.
    Attached { _hold: Hold },
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Plain(body) => Pin::new(body).poll_frame(context),
            Self::Attached { .. } => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(body) => body.is_end_stream(),
            Self::Attached { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(body) => body.size_hint(),
            Self::Attached { .. } => SizeHint::default(),
        }
    }
}

/// Answers one request on the control socket.
pub(crate) async fn handle(gateway: Gateway, attached: Attached, request: Request<Incoming>) -> Response<Answer> {
    let Some(path) = request.uri().path().strip_prefix(PREFIX) else {
        return gateway.handle(Worker::CONTROL, Door::Control, request).await.map(Answer::Plain);
    };
    let query = request.uri().query();
    if let Some(response) = faults::control(&gateway, request.method(), path, query) {
        return response;
    }
    if request.method() == Method::POST && path == "cache/purge" {
        return cache::purge(&gateway, query);
    }
    if request.method() == Method::POST && path == "breaker" {
        return json(&breaker::set(&gateway, query));
    }
    if matches!(path, "drain" | "undrain") {
        return match (request.method() == Method::POST, parameter(query, "name")) {
            (true, Some(name)) => json(&instances::set(&gateway, &name, path == "drain")),
            (false, _) => text(StatusCode::METHOD_NOT_ALLOWED, "only POST is served here\n"),
            (_, None) => text(StatusCode::BAD_REQUEST, "`name` is missing\n"),
        };
    }
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
    }
    match path {
        "servers" => json(&server_rows(&gateway)),
        "items" => match parameter(query, "kind").as_deref().and_then(Kind::parse) {
            Some(kind) => json(&item_rows(&gateway, kind, parameter(query, "name").as_deref())),
            None => text(StatusCode::BAD_REQUEST, "`kind` must be tools, resources or prompts\n"),
        },
        "explain" => match parameter(query, "name") {
            Some(name) => {
                let row = |step: fairlead_gateway::Step| StepRow {
                    phase: step.phase.to_owned(),
                    ok: step.ok,
                    text: step.text,
                };
                json(&gateway.explain(&name).into_iter().map(row).collect::<Vec<_>>())
            }
            None => text(StatusCode::BAD_REQUEST, "`name` is missing\n"),
        },
        "cache" => json(&cache::row(&gateway)),
        "attach" => Response::new(Answer::Attached { _hold: attached.hold() }),
        _ => text(StatusCode::NOT_FOUND, "there is no such path\n"),
    }
}

pub(crate) fn json(value: &impl Serialize) -> Response<Answer> {
    let Ok(body) = serde_json::to_vec(value) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written\n");
    };
    let mut response = Response::new(Answer::Plain(fairlead_gateway::Body::whole(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn text(status: StatusCode, text: &'static str) -> Response<Answer> {
    let mut response = Response::new(Answer::Plain(fairlead_gateway::Body::whole(text)));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_travel_in_queries() {
        for name in ["crm__search", "fairlead+a:file:///x y?z=1&b", "ünï%41", ""] {
            let path = explain_path(name);
            let uri: http::Uri = path.parse().expect("a path");
            assert_eq!(parameter(uri.query(), "name").as_deref(), Some(name));
        }
        assert_eq!(parameter(Some("name=%zz"), "name"), None);
        assert_eq!(parameter(Some("name=%4"), "name"), None);
        assert_eq!(parameter(Some("other=1"), "name"), None);
    }
}
