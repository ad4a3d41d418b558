//! Metrics of the gateway, as OpenMetrics text.
//!
//! Two kinds, because they cost differently. What is counted per call lives in [`ServerMetrics`]: arrays of atomics that
//! are found by index, so that a call pays two relaxed additions. What is a state is not kept here at all:
//! a [`Gauges`] source is asked when a scrape comes.
//!
//! The histogram is ours: the one of `prometheus-client` takes a lock per observation. The text format, its escaping
//! and its order are the library's. `docs/metrics.md` lists every metric; a test compares.

mod connections;
mod expose;
mod gauges;
mod histogram;
mod process;
mod server;
mod status;

pub use gauges::{BulkheadReading, ConnectionGauges, GaugeSink, Gauges, GuardCounts, InstanceGauges};
pub use process::resident_bytes;
pub use server::{CallRecord, QuestionOutcome, ReuseOutcome, ServerMetrics};
pub use status::CallStatus;

use expose::Exposition;
use fairlead_core::Code;
use prometheus_client::{encoding::text, registry::Registry};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The media type of [`Metrics::encode`].
pub const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    state: Arc<State>,
    registry: Arc<Registry>,
}

/// What is counted, shared with the exposition.
struct State {
    servers: Mutex<BTreeMap<String, Arc<ServerMetrics>>>,
    gauges: Mutex<Vec<Arc<dyn Gauges>>>,
    refusals: Arc<status::Refusals>,
}

impl State {
    // Locks here are for setup and scrapes; no call takes one.
    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<ServerMetrics>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gauges(&self) -> MutexGuard<'_, Vec<Arc<dyn Gauges>>> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// Metrics with nothing counted.
    #[must_use]
    pub fn new() -> Self {
        let state = Arc::new(State {
            servers: Mutex::default(),
            gauges: Mutex::default(),
            refusals: Arc::new(status::Refusals::new()),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition(Arc::clone(&state))));
        Self { state, registry: Arc::new(registry) }
    }

    /// The handles of one server, to be resolved once and kept: the same name gives the same counters, also after a reload.
    #[must_use]
    pub fn server(&self, name: &str) -> Arc<ServerMetrics> {
        let mut servers = self.state.servers();
        if let Some(server) = servers.get(name) {
            return Arc::clone(server);
        }
        let server = Arc::new(ServerMetrics::new(Arc::clone(&self.state.refusals)));
        servers.insert(name.to_owned(), Arc::clone(&server));
        server
    }

    /// Stops exposing a server that is no longer configured.
    pub fn forget_server(&self, name: &str) {
        self.state.servers().remove(name);
    }

    /// Counts a refusal that happened before a server was known. Those of a [`CallRecord`] are counted with it.
    pub fn refused(&self, code: Code) {
        self.state.refusals.add(code);
    }

    /// Adds a source that is asked at every scrape, for as long as these metrics live. A source that itself holds
    /// [`Metrics`] should be a thin one with a weak reference, or neither is ever freed.
    pub fn register(&self, source: Arc<dyn Gauges>) {
        self.state.gauges().push(source);
    }

    /// Everything as OpenMetrics text, ending in `# EOF`.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("invariant: writing to a String does not fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("servers", &self.state.servers().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
