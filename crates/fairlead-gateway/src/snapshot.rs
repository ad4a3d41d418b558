//! The compiled configuration: immutable, swapped whole. A call finishes on the snapshot it began with.

use crate::{
    bulkhead::Bulkhead,
    limits::{Limits, ServerLimits},
    merged::Merged,
    overload::Overload,
    rules::Rules,
    shaping::{self, Shaping},
};
use arc_swap::ArcSwap;
use fairlead_config::{CallMany, Config, Toolset};
use fairlead_core::ServerName;
use fairlead_observe::ServerMetrics;
use fairlead_upstream::{ListingKind, ServerHandle};
use fairlead_wire::{CapabilitySet, Era};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Merged catalogs kept per endpoint: one per client capability set in use.
const MAX_MERGED: usize = 64;

/// A server as the data plane sees it.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) handle: ServerHandle,
    pub(crate) metrics: Arc<ServerMetrics>,
    pub(crate) rules: Arc<Rules>,
    /// The pool its calls pass, where it has one.
    pub(crate) bulkhead: Option<Arc<Bulkhead>>,
    /// How often it may be called, where that is limited.
    pub(crate) limits: Option<Arc<ServerLimits>>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.handle, f)
    }
}

/// Which part of the catalog an endpoint serves.
#[derive(Debug, Clone)]
pub(crate) enum View {
    /// Every server, names prefixed.
    All,
    /// A named selection of that.
    Toolset(Arc<Toolset>),
    /// One server, nothing renamed, nothing lost.
    Single,
}

/// One MCP endpoint.
pub(crate) struct Endpoint {
    /// Its path, which sessions are bound to.
    pub(crate) path: Box<str>,
    pub(crate) view: View,
    /// In configuration order.
    pub(crate) servers: Vec<Upstream>,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<ServerMetrics>,
    /// How often calls may be made.
    pub(crate) limits: Limits,
    /// What gives way under load, where anything does.
    pub(crate) overload: Option<Arc<Overload>>,
    /// For each server whether a toolset showed something of it when its lists changed last.
    shown: Vec<AtomicBool>,
    /// Whose skill is whose.
    pub(crate) skills: crate::skills::Roots,
    /// Where calls go that do not go where their name says.
    pub(crate) routing: Option<Box<crate::routing::Routing>>,
    /// The tool that makes several calls at once, where there is one.
    pub(crate) call_many: Option<CallMany>,
    /// Where tools are searched for instead of listed.
    pub(crate) finder: Option<Box<crate::search::Finder>>,
    merged: ArcSwap<HashMap<(Era, CapabilitySet), Arc<Merged>>>,
    /// What is said of single tools, where anything is.
    pub(crate) shaping: Option<Box<Shaping>>,
}

impl Endpoint {
    fn new(
        path: String,
        view: View,
        servers: Vec<Upstream>,
        config: Arc<Config>,
        metrics: Arc<ServerMetrics>,
        overload: &Option<Arc<Overload>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            call_many: if let View::Toolset(toolset) = &view { toolset.call_many } else { None },
            finder: crate::search::Finder::new(&view),
            shaping: Shaping::new(&view, &servers),
            routing: if matches!(view, View::Single) { None } else { crate::routing::Routing::new(&config, &servers) },
            view,
            shown: servers.iter().map(|_| AtomicBool::new(false)).collect(),
            servers,
            limits: Limits::new(&config.limits),
            overload: overload.clone(),
            config,
            metrics,
            skills: crate::skills::Roots::default(),
            merged: ArcSwap::default(),
        })
    }

    pub(crate) fn is_single(&self) -> bool {
        matches!(self.view, View::Single)
    }

    /// Whether the endpoint shows something of a server, or did when this was asked last: then a change of the
    /// server's lists concerns its clients.
    pub(crate) fn shows(&self, handle: &ServerHandle) -> bool {
        let Some(at) = self.servers.iter().position(|server| server.handle.name() == handle.name()) else {
            return false;
        };
        if !matches!(self.view, View::Toolset(_)) {
            return true;
        }
        let upstream = &self.servers[at];
        let is_shown =
            |kind: ListingKind, key: &str| shaping::standing(self, upstream, kind, key).is_selected(self, kind);
        let shows = handle.peek().catalogs.values().any(|catalog| {
            ListingKind::ALL
                .iter()
                .any(|kind| catalog.listing(*kind).entries.iter().any(|entry| is_shown(*kind, &entry.key)))
        });
        self.shown[at].swap(shows, Ordering::Relaxed) || shows
    }

    /// The catalog of this endpoint for clients of one era and capability set, as of `epoch`.
    pub(crate) fn merged(&self, era: Era, capabilities: CapabilitySet, epoch: u64) -> Arc<Merged> {
        let known = self.merged.load();
        // What modern servers list does not depend on what a client declares with its request.
        for key in [(era, CapabilitySet::BARE), (era, capabilities)] {
            if let Some(merged) = known.get(&key)
                && merged.epoch == epoch
                && (key.1 == capabilities || !merged.depends_on_capabilities)
            {
                return Arc::clone(merged);
            }
        }
        drop(known);
        let merged = Arc::new(Merged::build(self, era, capabilities, epoch));
        let key = (era, if merged.depends_on_capabilities { capabilities } else { CapabilitySet::BARE });
        self.merged.rcu(|all| {
            let mut all = HashMap::clone(all);
            if all.len() >= MAX_MERGED && !all.contains_key(&key) {
                // One that is outdated, else any.
                let old = all.iter().find(|(_, merged)| merged.epoch != epoch).or_else(|| all.iter().next());
                if let Some(old) = old.map(|(key, _)| *key) {
                    all.remove(&old);
                }
            }
            all.insert(key, Arc::clone(&merged));
            all
        });
        merged
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("path", &self.path).field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// What else than Streamable HTTP an endpoint is reached over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The stream of HTTP+SSE.
    Sse,
    /// What its client says.
    SsePost,
    /// WebSocket.
    WebSocket,
}

/// Everything compiled from one configuration.
pub(crate) struct Snapshot {
    pub(crate) config: Arc<Config>,
    pub(crate) servers: Vec<Upstream>,
    all: Arc<Endpoint>,
    toolsets: HashMap<Box<str>, Arc<Endpoint>>,
    /// A tree: with the few names there are it is found sooner than by a hash.
    singles: BTreeMap<ServerName, Arc<Endpoint>>,
}

impl Snapshot {
    pub(crate) fn new(
        config: Arc<Config>,
        servers: Vec<Upstream>,
        gateway_metrics: &Arc<ServerMetrics>,
        overload: Option<Arc<Overload>>,
    ) -> Self {
        let all = Endpoint::new(
            "/mcp".to_owned(),
            View::All,
            servers.clone(),
            Arc::clone(&config),
            Arc::clone(gateway_metrics),
            &overload,
        );
        let toolsets = config
            .toolsets
            .iter()
            .map(|(name, toolset)| {
                let endpoint = Endpoint::new(
                    format!("/mcp/{name}"),
                    View::Toolset(Arc::new(toolset.clone())),
                    servers.clone(),
                    Arc::clone(&config),
                    Arc::clone(gateway_metrics),
                    &overload,
                );
                (name.as_str().into(), endpoint)
            })
            .collect();
        let singles = servers
            .iter()
            .map(|server| {
                let name = server.handle.name().clone();
                let endpoint = Endpoint::new(
                    format!("/servers/{name}/mcp"),
                    View::Single,
                    vec![server.clone()],
                    Arc::clone(&config),
                    Arc::clone(&server.metrics),
                    &overload,
                );
                (name, endpoint)
            })
            .collect();
        Self { config, servers, all, toolsets, singles }
    }

    /// The endpoint a path names.
    pub(crate) fn endpoint(&self, path: &str) -> Option<&Arc<Endpoint>> {
        let path = path.strip_suffix('/').unwrap_or(path);
        if path == "/mcp" {
            return Some(&self.all);
        }
        if let Some(toolset) = path.strip_prefix("/mcp/") {
            return self.toolsets.get(toolset);
        }
        let server = path.strip_prefix("/servers/")?.strip_suffix("/mcp")?;
        self.singles.get(server)
    }

    /// The endpoint a path of another transport belongs to: the last part of the path names the transport.
    pub(crate) fn door(&self, path: &str) -> Option<(&Arc<Endpoint>, Transport)> {
        let (before, last) = path.rsplit_once('/')?;
        let transport = match last {
            "sse" => Transport::Sse,
            "messages" => Transport::SsePost,
            "ws" => Transport::WebSocket,
            _ => return None,
        };
        let endpoint = if before.is_empty() {
            &self.all
        } else if let Some(toolset) = before.strip_prefix("/mcp/") {
            self.toolsets.get(toolset)?
        } else {
            self.singles.get(before.strip_prefix("/servers/")?)?
        };
        Some((endpoint, transport))
    }

    pub(crate) fn all(&self) -> &Arc<Endpoint> {
        &self.all
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("servers", &self.servers).finish_non_exhaustive()
    }
}
