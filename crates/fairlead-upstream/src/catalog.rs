//! What a server lists, kept as it came: each item is its raw bytes, found by its name or URI.

use crate::{
    exchange::{Exchange, Item, Outbound},
    http_client::Worker,
    link::{Link, Peer},
    view::Asks,
};
use bytes::Bytes;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind, tokens};
use fairlead_wire::{Era, Field, Kind, Method, header::ParamHeaders, list, message};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};
use tokio::time::Instant;

/// Pages of one list at most.
const MAX_PAGES: usize = 1_000;

/// The four lists of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListingKind {
    /// `tools/list`
    Tools,
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    Templates,
    /// `prompts/list`
    Prompts,
}

impl ListingKind {
    /// All of them, in the order they are kept.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Resources, Self::Templates, Self::Prompts];

    /// The method that lists.
    #[must_use]
    pub fn method(self) -> Method {
        match self {
            Self::Tools => Method::ToolsList,
            Self::Resources => Method::ResourcesList,
            Self::Templates => Method::TemplatesList,
            Self::Prompts => Method::PromptsList,
        }
    }

    /// The member of the result that holds the items.
    #[must_use]
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// The member of an item that identifies it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }

    /// The server capability that promises the list.
    #[must_use]
    pub fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources | Self::Templates => "resources",
            Self::Prompts => "prompts",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// One listed item.
#[derive(Debug)]
pub struct Entry {
    /// Its name or URI, decoded.
    pub key: Box<str>,
    /// The item as it came (a JSON object).
    pub raw: Bytes,
    /// For tools: which arguments travel in `Mcp-Param-*` headers.
    pub param_headers: Option<Box<ParamHeaders>>,
    /// For tools: whether the server says that calling twice does no harm
    /// (`readOnlyHint` or `idempotentHint`).
    pub repeatable: bool,
    /// For tools of a legacy server: whether they can only be called as a task (`execution.taskSupport`).
    pub needs_task: bool,
}

/// One list of a server, complete.
#[derive(Debug, Default)]
pub struct Listing {
    /// The items in the server's order.
    pub entries: Vec<Entry>,
    /// The result as it came, when it was a single page: what the transparent view answers.
    pub whole: Option<Bytes>,
    index: HashMap<Box<str>, usize>,
    /// Counted when somebody asks for the first time.
    tokens: OnceLock<usize>,
}

impl Listing {
    /// The item called `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.index.get(key).map(|at| &self.entries[*at])
    }

    /// Tokens of all items together, estimated.
    #[must_use]
    pub fn tokens(&self) -> usize {
        let count = |entry: &Entry| std::str::from_utf8(&entry.raw).map_or(0, tokens::estimate);
        *self.tokens.get_or_init(|| self.entries.iter().map(count).sum())
    }

    /// Bytes of all items together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.raw.len()).sum()
    }

    fn from_pages(kind: ListingKind, era: Era, pages: &[Bytes], whole: Option<Bytes>) -> Result<Self, list::ListError> {
        let mut listing = Self { whole, ..Self::default() };
        for page in pages {
            let text = std::str::from_utf8(page).map_err(|_| list::ListError::NotJson)?;
            for raw in list::items(text, kind.member())? {
                let Some(key) = list::string_member(raw, kind.key()) else {
                    tracing::warn!(list = kind.member(), "a listed item without `{}` is left out", kind.key());
                    // The exact page can no longer be what is shown.
                    listing.whole = None;
                    continue;
                };
                let start = raw.as_ptr() as usize - text.as_ptr() as usize;
                let (mut param_headers, mut repeatable, mut needs_task) = (None, false, false);
                if kind == ListingKind::Tools {
                    repeatable = is_repeatable(raw);
                    needs_task = era == Era::Legacy && is_task_only(raw);
                    match tool_headers(raw) {
                        Ok(headers) => param_headers = headers,
                        // A modern HTTP client must drop such a tool (SEP-2243).
                        Err(reason) if era == Era::Modern => {
                            tracing::warn!(
                                tool = &*key,
                                reason,
                                "a tool with unusable `x-mcp-header` annotations is left out"
                            );
                            listing.whole = None;
                            continue;
                        }
                        Err(_) => {}
                    }
                }
                let key: Box<str> = key.into();
                if listing.index.contains_key(&key) {
                    tracing::warn!(list = kind.member(), item = &*key, "listed twice; the first one counts");
                    listing.whole = None;
                    continue;
                }
                listing.index.insert(key.clone(), listing.entries.len());
                listing.entries.push(Entry {
                    key,
                    raw: page.slice(start..start + raw.len()),
                    param_headers,
                    repeatable,
                    needs_task,
                });
            }
        }
        Ok(listing)
    }
}

fn is_task_only(tool: &str) -> bool {
    // Most tools say nothing of tasks.
    tool.contains("taskSupport")
        && list::raw_member(tool, "execution")
            .is_some_and(|execution| list::raw_member(execution, "taskSupport") == Some("\"required\""))
}

fn is_repeatable(tool: &str) -> bool {
    list::raw_member(tool, "annotations").is_some_and(|annotations| {
        ["readOnlyHint", "idempotentHint"].iter().any(|hint| list::raw_member(annotations, hint) == Some("true"))
    })
}

fn tool_headers(tool: &str) -> Result<Option<Box<ParamHeaders>>, String> {
    // Without the annotation's name anywhere in the text there is nothing to compile.
    if !tool.contains("x-mcp-header") {
        return Ok(None);
    }
    let Some(schema) = list::raw_member(tool, "inputSchema") else { return Ok(None) };
    match ParamHeaders::from_schema(schema) {
        Ok(headers) if headers.is_empty() => Ok(None),
        Ok(headers) => Ok(Some(Box::new(headers))),
        Err(error) => Err(error.to_string()),
    }
}

/// Everything a server lists to clients of one capability set.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    listings: [Arc<Listing>; 4],
    /// Milliseconds since the Unix epoch.
    pub learned_ms: u64,
    /// Whether the running server said so in this run (not only the store).
    pub confirmed: bool,
    /// Lists that could not be had, with the reason; the older list is kept in their place.
    pub failed: Vec<(ListingKind, String)>,
}

impl Catalog {
    /// Whether another one lists the same.
    pub(crate) fn lists_same(&self, other: &Self, kind: ListingKind) -> bool {
        let (a, b) = (self.listing(kind), other.listing(kind));
        a.entries.len() == b.entries.len() && a.entries.iter().zip(&b.entries).all(|(a, b)| a.raw == b.raw)
    }

    /// One of the lists.
    #[must_use]
    pub fn listing(&self, kind: ListingKind) -> &Arc<Listing> {
        &self.listings[kind.index()]
    }

    /// The same lists, no longer sure to be current.
    #[must_use]
    pub fn unconfirmed(&self) -> Self {
        Self { confirmed: false, ..self.clone() }
    }
}

/// Bounds of what a server may list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) max_items: usize,
    pub(crate) max_bytes: usize,
}

/// Lists `kinds` anew over `link`; what cannot be had is taken from `before`.
pub(crate) async fn learn(
    link: &Arc<Link>,
    kinds: &[ListingKind],
    before: Option<&Catalog>,
    bounds: Bounds,
    now_ms: u64,
    deadline: Instant,
) -> Result<Catalog, UpstreamError> {
    let mut catalog = before.cloned().unwrap_or_default();
    catalog.failed.retain(|(kind, _)| !kinds.contains(kind));
    catalog.learned_ms = now_ms;
    catalog.confirmed = true;
    let mut listed = false;
    for &kind in kinds {
        if list::raw_member(&link.peer().capabilities, kind.capability()).is_none() {
            catalog.listings[kind.index()] = Arc::default();
            continue;
        }
        match list_all(link, kind, bounds, deadline).await {
            Ok(listing) => {
                catalog.listings[kind.index()] = Arc::new(listing);
                listed = true;
            }
            // A server that hangs over one list is not worth less for the others.
            Err(error)
                if matches!(error.kind, UpstreamErrorKind::Garbage | UpstreamErrorKind::TooLarge)
                    || (listed && error.kind == UpstreamErrorKind::Timeout) =>
            {
                tracing::warn!(server = %link.inbound.server, list = kind.member(), %error, "a list of the server is not usable");
                catalog.failed.push((kind, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(catalog)
}

async fn list_all(
    link: &Arc<Link>,
    kind: ListingKind,
    bounds: Bounds,
    deadline: Instant,
) -> Result<Listing, UpstreamError> {
    let mut pages: Vec<Bytes> = Vec::new();
    let (mut cursor, mut bytes, mut items): (Option<Box<str>>, usize, usize) = (None, 0, 0);
    let mut seen = std::collections::HashSet::new();
    let era = link.peer().revision.era();
    loop {
        let params = list_params(era, cursor.as_deref());
        let frame = ask(link, kind.method().as_str(), params.as_deref(), deadline).await?;
        if frame.kind() == Kind::Error {
            // Some servers declare a capability and lack one of its methods (templates, mostly).
            if frame.error_code() == Some(-32601) {
                return Ok(Listing::default());
            }
            return Err(garbage(format!("it refuses to list its {}", kind.member())));
        }
        let next = frame.str(Field::NextCursor).map(|cursor| Box::<str>::from(&*cursor));
        let page = frame.slice(Field::Result).unwrap_or_default();
        bytes += page.len();
        items += std::str::from_utf8(&page)
            .ok()
            .and_then(|text| list::items(text, kind.member()).ok())
            .map_or(0, |all| all.len());
        if bytes > bounds.max_bytes || items > bounds.max_items || pages.len() >= MAX_PAGES {
            return Err(UpstreamError::new(
                UpstreamErrorKind::TooLarge,
                Outcome::NotMade,
                format!("its list of {} is over the limit ({items} items, {bytes} bytes)", kind.member()),
            ));
        }
        pages.push(page);
        match next {
            None => break,
            Some(next) => {
                if !seen.insert(next.clone()) {
                    return Err(garbage(format!("its list of {} repeats a cursor", kind.member())));
                }
                cursor = Some(next);
            }
        }
    }
    let whole = if pages.len() == 1 { pages.first().cloned() } else { None };
    Listing::from_pages(kind, era, &pages, whole)
        .map_err(|error| garbage(format!("its list of {} is not valid", kind.member())).because(error))
}

fn garbage(message: String) -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::NotMade, message)
}

/// The `_meta` every request to a modern server carries, here with nothing the client can be asked.
pub(crate) fn own_meta() -> String {
    format!(
        "{{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\"io.modelcontextprotocol/clientCapabilities\":{{}},\
         \"io.modelcontextprotocol/clientInfo\":{{\"name\":\"fairlead\",\"version\":\"{}\"}}}}",
        env!("CARGO_PKG_VERSION")
    )
}

fn list_params(era: Era, cursor: Option<&str>) -> Option<String> {
    let cursor = cursor.map(|cursor| format!("\"cursor\":{}", message::quote(cursor)));
    match (era, cursor) {
        (Era::Legacy, None) => None,
        (Era::Legacy, Some(cursor)) => Some(format!("{{{cursor}}}")),
        (Era::Modern, None) => Some(format!("{{\"_meta\":{}}}", own_meta())),
        (Era::Modern, Some(cursor)) => Some(format!("{{{cursor},\"_meta\":{}}}", own_meta())),
    }
}

/// A request of the owner's own; what the server says besides is none of ours.
pub(crate) async fn ask(
    link: &Arc<Link>,
    method: &str,
    params: Option<&str>,
    deadline: Instant,
) -> Result<fairlead_wire::Frame, UpstreamError> {
    let outbound = Outbound::own(method, params, deadline);
    let mut exchange = Exchange::start(Arc::clone(link), None, Worker::CONTROL, outbound).begun().await?;
    loop {
        match exchange.next().await? {
            Item::Final(answer) => return Ok(answer.frame),
            Item::Message(frame) => {
                if frame.kind() == Kind::Request
                    && let Some(id) = frame.id()
                {
                    let no = message::error(Some(id), -32601, "nobody to ask while listing", None);
                    link.push(Worker::CONTROL, no).await?;
                }
            }
        }
    }
}

/// What is stored of a catalog.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredBody {
    pub(crate) peer: Peer,
    pub(crate) asks: Asks,
    /// It was learned over HTTP+SSE, which had to be found out.
    #[serde(default)]
    pub(crate) over_sse: bool,
    lists: Vec<StoredList>,
}

#[derive(Serialize, Deserialize)]
struct StoredList {
    list: String,
    whole: bool,
    result: Box<RawValue>,
}

impl StoredBody {
    pub(crate) fn new(peer: &Peer, asks: Asks, over_sse: bool, catalog: &Catalog) -> Self {
        let lists = ListingKind::ALL
            .iter()
            .filter_map(|&kind| {
                let listing = catalog.listing(kind);
                let text = match &listing.whole {
                    Some(whole) => std::str::from_utf8(whole).ok()?.to_owned(),
                    None => {
                        let items: Vec<&str> =
                            listing.entries.iter().filter_map(|entry| std::str::from_utf8(&entry.raw).ok()).collect();
                        format!("{{\"{}\":[{}]}}", kind.member(), items.join(","))
                    }
                };
                let result = RawValue::from_string(text).ok()?;
                Some(StoredList { list: kind.member().to_owned(), whole: listing.whole.is_some(), result })
            })
            .collect();
        Self { peer: peer.clone(), asks, over_sse, lists }
    }

    pub(crate) fn catalog(&self, learned_ms: u64) -> Catalog {
        let mut catalog = Catalog { learned_ms, ..Catalog::default() };
        for stored in &self.lists {
            let Some(kind) = ListingKind::ALL.into_iter().find(|kind| kind.member() == stored.list) else { continue };
            let page = Bytes::copy_from_slice(stored.result.get().as_bytes());
            let whole = stored.whole.then(|| page.clone());
            match Listing::from_pages(kind, self.peer.revision.era(), &[page], whole) {
                Ok(listing) => catalog.listings[kind.index()] = Arc::new(listing),
                Err(error) => tracing::warn!(list = stored.list, %error, "a stored list is not usable"),
            }
        }
        catalog
    }
}
