//! States, asked for when somebody scrapes.

use std::{collections::BTreeMap, time::Duration};

/// Something that knows a state worth exposing.
///
/// Called at every scrape, on the scraping task: it should read counters, not wait.
pub trait Gauges: Send + Sync {
    /// Says the current values. What several sources say of the same thing is added up.
    fn read(&self, out: &mut GaugeSink);
}

/// Takes the values of one scrape.
#[derive(Debug, Default)]
pub struct GaugeSink {
    pub(super) sessions: u64,
    pub(super) streams: u64,
    pub(super) calls_in_flight: u64,
    pub(super) parked: u64,
    pub(super) replay_bytes: u64,
    pub(super) questions: u64,
    pub(super) subscriptions: u64,
    pub(super) tasks: u64,
    pub(super) unwritten_records: u64,
    pub(super) processes: u64,
    pub(super) limit_keys: u64,
    pub(super) limit_refusals: BTreeMap<(String, &'static str), u64>,
    pub(super) cache_entries: u64,
    pub(super) cache_bytes: u64,
    pub(super) cache_evictions: u64,
    pub(super) bulkheads: BTreeMap<String, BulkheadReading>,
    pub(super) shed: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) faults: BTreeMap<(String, &'static str), u64>,
    pub(super) states: BTreeMap<String, ServerState>,
    pub(super) links: BTreeMap<String, u64>,
    /// Bytes and tokens by server and list.
    pub(super) listings: BTreeMap<(String, &'static str), (u64, u64)>,
    pub(super) connections: BTreeMap<String, ConnectionGauges>,
    pub(super) breakers: BTreeMap<(String, String, String), ServerState>,
    pub(super) learned: BTreeMap<(String, String, String), u32>,
    pub(super) guards: BTreeMap<String, GuardCounts>,
    pub(super) instances: BTreeMap<(String, String), InstanceGauges>,
    /// Answers, their bytes, and the bytes sent for them, by coding.
    pub(super) compressed: BTreeMap<&'static str, (u64, u64, u64)>,
    /// Until when the certificate is good, and handshakes by how they ended.
    pub(super) tls: Option<(u64, [(&'static str, u64); 4])>,
}

/// The connections to a server reached over HTTP.
#[derive(Debug, Clone)]
pub struct ConnectionGauges {
    /// Connections by what they do.
    pub states: [(&'static str, usize); 3],
    /// Calls that wait for one.
    pub waiting: usize,
    /// Connections ever opened.
    pub opened: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Calls that waited too long.
    pub timed_out: u64,
    /// Connections ever closed, by the reason.
    pub closed: Vec<(&'static str, u64)>,
}

/// What a bulkhead is doing.
#[derive(Debug, Clone, Copy, Default)]
pub struct BulkheadReading {
    /// Calls under way.
    pub running: u64,
    /// Calls that wait.
    pub waiting: u64,
    /// Calls that may be under way now.
    pub limit: u64,
    /// Bytes of their requests.
    pub held_bytes: u64,
    /// Calls refused so far.
    pub refused: u64,
}

/// How often calls of one server were held back or made again.
#[derive(Debug, Clone, Copy, Default)]
pub struct GuardCounts {
    /// Held back.
    pub held_back: u64,
    /// Made again after a failure.
    pub retried: u64,
    /// Made a second time because the first took long.
    pub hedged: u64,
    /// Not made again because the budget was used up.
    pub unaffordable: u64,
}

/// What is measured of one instance of a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct InstanceGauges {
    /// The part of its share of calls it gets, 0 to 1.
    pub share: f64,
    /// Calls in flight.
    pub in_flight: usize,
    /// Its smoothed latency.
    pub latency: Duration,
    /// Calls that ended.
    pub ended: u64,
    /// Those that failed.
    pub failed: u64,
}

/// The state of a server, among all it could be in.
#[derive(Debug)]
pub(super) struct ServerState {
    pub(super) current: &'static str,
    pub(super) all: &'static [&'static str],
}

impl GaugeSink {
    /// Sessions of legacy clients that are alive.
    pub fn sessions(&mut self, count: usize) {
        self.sessions += count as u64;
    }

    /// Open streams to clients.
    pub fn streams(&mut self, count: usize) {
        self.streams += count as u64;
    }

    /// Calls that have begun and not ended.
    pub fn calls_in_flight(&mut self, count: usize) {
        self.calls_in_flight += count as u64;
    }

    /// Calls that wait for an answer of their client to a question of their server.
    pub fn parked(&mut self, count: usize) {
        self.parked += count as u64;
    }

    /// Bytes of streams kept for clients that come back.
    pub fn replay_bytes(&mut self, bytes: usize) {
        self.replay_bytes += bytes as u64;
    }

    /// Questions of servers that wait for the answer of a client.
    pub fn open_questions(&mut self, count: usize) {
        self.questions += count as u64;
    }

    /// Resources that clients watch, each once per client.
    pub fn subscriptions(&mut self, count: usize) {
        self.subscriptions += count as u64;
    }

    /// Tasks that are remembered.
    pub fn tasks(&mut self, count: usize) {
        self.tasks += count as u64;
    }

    /// Records of sessions and tasks that are not in the database yet.
    pub fn unwritten_records(&mut self, count: usize) {
        self.unwritten_records += count as u64;
    }

    /// Answers that are kept, what they take, and how many had to make room so far.
    pub fn cache(&mut self, entries: u64, bytes: u64, evictions: u64) {
        self.cache_entries += entries;
        self.cache_bytes += bytes;
        self.cache_evictions += evictions;
    }

    /// Answers compressed for clients so far in one coding: how many, their bytes before and after.
    pub fn compressed(&mut self, coding: &'static str, answers: u64, plain: u64, sent: u64) {
        self.compressed.insert(coding, (answers, plain, sent));
    }

    /// Server processes that run.
    pub fn processes(&mut self, count: usize) {
        self.processes += count as u64;
    }

    /// Callers and other keys that limits are counted for.
    pub fn limit_keys(&mut self, count: usize) {
        self.limit_keys += count as u64;
    }

    /// Calls refused by a limit so far, by its name and level.
    pub fn limit_refusals(&mut self, limit: &str, level: &'static str, count: u64) {
        *self.limit_refusals.entry((limit.to_owned(), level)).or_default() += count;
    }

    /// What a bulkhead is doing.
    pub fn bulkhead(&mut self, name: &str, reading: BulkheadReading) {
        self.bulkheads.insert(name.to_owned(), reading);
    }

    /// TLS on the listener: until when the certificate is good (seconds since 1970), and handshakes by how they ended.
    pub fn tls(&mut self, expires: u64, handshakes: [(&'static str, u64); 4]) {
        self.tls = Some((expires, handshakes));
    }

    /// Calls shed so far, by their priority and the reason.
    pub fn shed(&mut self, priority: &'static str, reason: &'static str, count: u64) {
        *self.shed.entry((priority, reason)).or_default() += count;
    }

    /// Faults injected so far into calls of a server, by their kind.
    pub fn faults(&mut self, server: &str, kind: &'static str, count: u64) {
        *self.faults.entry((server.to_owned(), kind)).or_default() += count;
    }

    /// The state of a server as one word of `all`.
    pub fn server_state(&mut self, server: &str, current: &'static str, all: &'static [&'static str]) {
        self.states.insert(server.to_owned(), ServerState { current, all });
    }

    /// What is measured of one instance of a server that has several.
    pub fn instance(&mut self, server: &str, instance: &str, gauges: InstanceGauges) {
        self.instances.insert((server.to_owned(), instance.to_owned()), gauges);
    }

    /// Open links (connections, sessions or processes) to a server.
    pub fn links(&mut self, server: &str, count: usize) {
        *self.links.entry(server.to_owned()).or_default() += count as u64;
    }

    /// What one list of a server takes: bytes, and tokens as far as they can be estimated.
    pub fn listing(&mut self, server: &str, list: &'static str, bytes: usize, tokens: usize) {
        self.listings.insert((server.to_owned(), list), (bytes as u64, tokens as u64));
    }

    /// The connections to a server reached over HTTP.
    pub fn connections(&mut self, server: &str, connections: ConnectionGauges) {
        self.connections.insert(server.to_owned(), connections);
    }

    /// The state of a breaker as one word of `all`: of a server, an instance of it, or a tool of either.
    pub fn breaker(&mut self, of: (&str, &str, &str), current: &'static str, all: &'static [&'static str]) {
        let (server, instance, tool) = of;
        let key = (server.to_owned(), instance.to_owned(), tool.to_owned());
        self.breakers.insert(key, ServerState { current, all });
    }

    /// In how many of a hundred of its calls a tool needed another server.
    pub fn learned(&mut self, server: &str, tool: &str, needs: &str, percent: u32) {
        self.learned.insert((server.to_owned(), tool.to_owned(), needs.to_owned()), percent);
    }

    /// How often calls of a server were held back or made again.
    pub fn guard(&mut self, server: &str, counts: GuardCounts) {
        self.guards.insert(server.to_owned(), counts);
    }
}
