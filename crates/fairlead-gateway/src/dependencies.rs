//! Which servers a tool needs, learned from calls: a call to a server that learns carries a token in its trace context
//! (`tracestate`), and whoever calls another server through the gateway with that token while the call is under way does
//! so on its behalf. Nothing is concluded from calls that only happen at the same time.
//!
//! What was seen is a share of the calls of one tool. It counts when it was seen often enough, and is forgotten when it was
//! not seen for long. Who needs what is then held back while what it needs is, as if an operator had declared it.

use crate::{call::Call, explain::Step, gateway::Gateway, guard::Guard, resolve::Target, snapshot::Upstream};
use aws_lc_rs::rand;
use fairlead_config::Config;
use fairlead_core::ServerName;
use fairlead_wire::{Field, Frame, edit::Edits, list, message};
use http::{HeaderName, HeaderValue};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Calls that can be under way with a token; further ones teach nothing.
const MAX_UNDER_WAY: usize = 10_000;
/// Tools that something is known of; of further ones nothing is.
const MAX_TOOLS: usize = 1000;
/// Servers that one tool is known to need.
const MAX_NEEDS: usize = 16;
/// Calls after which everything counts half: what is new counts more.
const MEMORY: u32 = 64;
/// How often a server has to be called on behalf of a tool, and in how many of a hundred of its calls, to be needed.
const ENOUGH: u32 = 5;
const ENOUGH_PERCENT: u32 = 50;
/// What was not seen for so long is forgotten.
const LIFE: Duration = Duration::from_secs(3600);
/// Longest trace state that is read.
const MAX_STATE: usize = 512;

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// Our member of the trace state.
const MEMBER: &str = "fairlead=";

/// What is known, of all servers. It outlives snapshots.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// Some server learns.
    is_on: AtomicBool,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    under_way: HashMap<u64, UnderWay>,
    tools: BTreeMap<ServerName, BTreeMap<Box<str>, Tool>>,
}

#[derive(Debug)]
struct UnderWay {
    server: ServerName,
    tool: Box<str>,
    needed: Vec<ServerName>,
}

#[derive(Debug, Default)]
struct Tool {
    calls: u32,
    needs: BTreeMap<ServerName, Need>,
}

#[derive(Debug)]
struct Need {
    calls: u32,
    seen: Instant,
}

/// What a tool was seen to need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedNeed {
    /// The tool, by its server's own name.
    pub tool: Box<str>,
    /// The server that was called on its behalf.
    pub server: ServerName,
    /// In so many of a hundred of its calls.
    pub percent: u32,
    /// Whether that is enough: calls of the tool are held back while those to the server are.
    pub counts: bool,
}

/// A call under way whose token others may bring back.
#[derive(Debug)]
pub(crate) struct Watched {
    learned: Arc<Learned>,
    server: ServerName,
    token: u64,
}

impl Learned {
    /// Whether anybody learns, by the configuration in force. What is known of servers that do not is forgotten.
    pub(crate) fn configure(&self, config: &Config) {
        let learns = |server: &ServerName| config.rules.get(server).is_some_and(|rules| rules.learns);
        self.keep(learns);
        self.is_on.store(config.servers.keys().any(learns), Ordering::Relaxed);
    }

    fn keep(&self, learns: impl Fn(&ServerName) -> bool) {
        self.table().tools.retain(|server, _| learns(server));
    }

    /// A call of a tool begins.
    fn begin(self: &Arc<Self>, server: &ServerName, tool: &str) -> Option<Watched> {
        let mut random = [0_u8; 8];
        rand::fill(&mut random).expect("invariant: the system has random numbers");
        let token = u64::from_ne_bytes(random);
        let mut table = self.table();
        if table.under_way.len() >= MAX_UNDER_WAY {
            return None;
        }
        let under_way = UnderWay { server: server.clone(), tool: tool.into(), needed: Vec::new() };
        table.under_way.insert(token, under_way);
        Some(Watched { learned: Arc::clone(self), server: server.clone(), token })
    }

    /// Somebody calls `server` with the token of a call.
    fn heard(&self, token: u64, server: &ServerName) {
        let mut table = self.table();
        let Some(call) = table.under_way.get_mut(&token) else { return };
        if call.server != *server && call.needed.len() < MAX_NEEDS && !call.needed.contains(server) {
            call.needed.push(server.clone());
        }
    }

    fn end(&self, token: u64) {
        let now = Instant::now();
        let mut table = self.table();
        let Some(call) = table.under_way.remove(&token) else { return };
        let known: usize = table.tools.values().map(BTreeMap::len).sum();
        let tools = table.tools.entry(call.server).or_default();
        if known >= MAX_TOOLS && !tools.contains_key(&call.tool) {
            return;
        }
        tools.entry(call.tool).or_default().note(call.needed, now);
    }

    /// What the tools of a server were seen to need.
    pub(crate) fn of(&self, server: &ServerName) -> Vec<LearnedNeed> {
        let now = Instant::now();
        let table = self.table();
        let tools = table.tools.get(server).into_iter().flatten();
        tools.flat_map(|(name, tool)| tool.read(name, now)).collect()
    }

    /// The servers that a tool needs.
    fn needs(&self, server: &ServerName, tool: &str) -> Vec<ServerName> {
        let now = Instant::now();
        let table = self.table();
        let Some(tool) = table.tools.get(server).and_then(|tools| tools.get(tool)) else { return Vec::new() };
        tool.needs.iter().filter(|(_, need)| tool.counts(need, now)).map(|(name, _)| name.clone()).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gateway {
    /// What the tools of a server were seen to need, where that is learned.
    #[must_use]
    pub fn learned_needs(&self, server: &ServerName) -> Vec<LearnedNeed> {
        self.0.learned.of(server)
    }
}

impl Tool {
    /// One call ended, which needed these.
    fn note(&mut self, needed: Vec<ServerName>, now: Instant) {
        self.calls += 1;
        for server in needed {
            if let Some(need) = self.needs.get_mut(&server) {
                (need.calls, need.seen) = (need.calls + 1, now);
            } else if self.needs.len() < MAX_NEEDS {
                self.needs.insert(server, Need { calls: 1, seen: now });
            }
        }
        if self.calls >= MEMORY {
            self.calls /= 2;
            self.needs.values_mut().for_each(|need| need.calls /= 2);
        }
        self.needs.retain(|_, need| need.calls > 0 && now.saturating_duration_since(need.seen) < LIFE);
    }

    fn percent(&self, need: &Need) -> u32 {
        need.calls * 100 / self.calls.max(1)
    }

    fn counts(&self, need: &Need, now: Instant) -> bool {
        let is_fresh = now.saturating_duration_since(need.seen) < LIFE;
        is_fresh && need.calls >= ENOUGH && self.percent(need) >= ENOUGH_PERCENT
    }

    fn read(&self, name: &str, now: Instant) -> impl Iterator<Item = LearnedNeed> {
        let fresh = self.needs.iter().filter(move |(_, need)| now.saturating_duration_since(need.seen) < LIFE);
        fresh.map(move |(server, need)| LearnedNeed {
            tool: name.into(),
            server: server.clone(),
            percent: self.percent(need).min(100),
            counts: self.counts(need, now),
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.learned.end(self.token);
    }
}

impl Watched {
    /// Puts the token into the trace context of what is sent to the call's own server, making one where there is none.
    pub(crate) fn tell(
        &self,
        to: &ServerName,
        frame: &Frame,
        makes_meta: bool,
        headers: &mut Vec<(HeaderName, HeaderValue)>,
        edits: &mut Edits,
    ) {
        if *to != self.server {
            return;
        }
        let of_header = |name: &HeaderName, headers: &[(HeaderName, HeaderValue)]| {
            let found = headers.iter().find(|(other, _)| other == name)?;
            found.1.to_str().ok().map(str::to_owned)
        };
        let meta = frame.raw(Field::Meta);
        let parent =
            of_header(&PARENT, headers).or_else(|| meta_member(frame, "traceparent")).unwrap_or_else(|| self.parent());
        let given = of_header(&STATE, headers).or_else(|| meta_member(frame, "tracestate"));
        let state = with_member(self.token, given.as_deref());
        headers.retain(|(name, _)| *name != PARENT && *name != STATE);
        for (name, value) in [(PARENT, &parent), (STATE, &state)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.push((name, value));
            }
        }
        let members = [("traceparent", message::quote(&parent)), ("tracestate", message::quote(&state))];
        match (frame.span(Field::Meta), meta, frame.span(Field::Params)) {
            (Some(span), Some(raw), _) => {
                for (name, value) in members {
                    match list::member_span(raw, name) {
                        Some(member) => edits.replace(member.within(span), value),
                        None => edits.insert_first(span, name, &value),
                    }
                }
            }
            (_, _, Some(params)) if makes_meta => {
                let [(parent, parent_value), (state, state_value)] = members;
                let value = format!("{{\"{parent}\":{parent_value},\"{state}\":{state_value}}}");
                edits.insert_first(params, "_meta", &value);
            }
            _ => {}
        }
    }

    /// The beginning of a trace that nobody samples.
    fn parent(&self) -> String {
        format!("00-{:032x}-{:016x}-00", u128::from(self.token) << 64 | 1, self.token | 1)
    }
}

/// What the client says of the trace in the message itself.
fn meta_member(frame: &Frame, name: &str) -> Option<String> {
    list::string_member(frame.raw(Field::Meta)?, name).map(Cow::into_owned)
}

/// The trace state with our member first, in place of one that was there.
fn with_member(token: u64, given: Option<&str>) -> String {
    let mut state = format!("{MEMBER}{token:016x}");
    let others = given.unwrap_or_default().split(',').map(str::trim);
    for other in others.filter(|other| !other.is_empty() && !other.starts_with(MEMBER)) {
        state.push(',');
        state.push_str(other);
    }
    state
}

/// Our member of a trace state.
fn token(state: &str) -> Option<u64> {
    let state = Some(state).filter(|state| state.len() <= MAX_STATE)?;
    let value = state.split(',').find_map(|member| member.trim().strip_prefix(MEMBER))?;
    u64::from_str_radix(value, 16).ok()
}

/// A call begins: on whose behalf, and whether others may come of it.
pub(crate) fn begin(call: &Call, target: &Target) {
    let learned = &call.gateway.0.learned;
    if !learned.is_on.load(Ordering::Relaxed) {
        return;
    }
    let server = target.upstream.handle.name();
    let of_headers = call.along.as_ref().and_then(|along| {
        let (_, state) = along.headers.iter().find(|(name, _)| *name == STATE)?;
        token(state.to_str().ok()?)
    });
    let of_meta = || token(&meta_member(&call.frame, "tracestate")?);
    if let Some(token) = of_headers.or_else(of_meta) {
        learned.heard(token, server);
    }
    if let Some(tool) = target.name.as_deref().filter(|_| target.upstream.rules.learns())
        && call.watched.get().is_none()
        && call.frame.method_class() == fairlead_wire::Method::ToolsCall
        && let Some(watched) = learned.begin(server, tool)
    {
        let _ = call.watched.set(Box::new(watched));
    }
}

/// A server that the tool was seen to need and whose calls are held back, and for how long.
pub(crate) fn held_back(call: &Call, target: &Target, tool: &str) -> Option<(ServerName, Option<Duration>)> {
    if !target.upstream.rules.learns() {
        return None;
    }
    let needs = call.gateway.0.learned.needs(target.upstream.handle.name(), tool);
    if needs.is_empty() {
        return None;
    }
    let snapshot = call.gateway.snapshot();
    needs.into_iter().find_map(|name| {
        let upstream = snapshot.servers.iter().find(|upstream| *upstream.handle.name() == name)?;
        let wait = upstream.rules.guard.as_deref().and_then(Guard::is_open)?;
        Some((name, wait))
    })
}

/// What a tool was seen to need.
pub(crate) fn explain(gateway: &Gateway, upstream: &Upstream, tool: Option<&str>, steps: &mut Vec<Step>) {
    let needs = gateway.0.learned.of(upstream.handle.name());
    for need in needs.into_iter().filter(|need| tool.is_none_or(|tool| *need.tool == *tool)) {
        let seen = format!("`{}` was called in {} % of the calls of `{}`", need.server, need.percent, need.tool);
        let so =
            if need.counts { "so it depends on it" } else { "which is too seldom, or too few times, to depend on it" };
        steps.push(Step { phase: "learned", ok: None, text: format!("{seen}, {so}") });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName {
        ServerName::parse(text).expect("a name")
    }

    /// A call of `a`'s tool, in which these servers were called.
    fn call(learned: &Arc<Learned>, needed: &[&str]) {
        let watched = learned.begin(&name("a"), "x").expect("there is room");
        for server in needed {
            learned.heard(watched.token, &name(server));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_most_calls_need_counts_until_it_is_not_seen_any_more() {
        let learned = Arc::new(Learned::default());
        for _ in 0..4 {
            call(&learned, &["b", "b", "a"]);
        }
        assert_eq!(learned.needs(&name("a"), "x"), []);
        call(&learned, &["b", "c"]);
        assert_eq!(learned.needs(&name("a"), "x"), [name("b")]);
        assert_eq!(learned.needs(&name("a"), "y"), []);
        let percents: Vec<_> = learned.of(&name("a")).iter().map(|need| (need.percent, need.counts)).collect();
        assert_eq!(percents, [(100, true), (20, false)], "of itself nobody is");
        for _ in 0..6 {
            call(&learned, &[]);
        }
        assert_eq!(learned.needs(&name("a"), "x"), [], "most do without");
        for _ in 0..100 {
            call(&learned, &["b"]);
        }
        assert_eq!(learned.needs(&name("a"), "x"), [name("b")], "what is new counts more");
        tokio::time::advance(LIFE).await;
        assert_eq!((learned.needs(&name("a"), "x"), learned.of(&name("a"))), (vec![], vec![]));
        assert_eq!(learned.table().under_way.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_call_under_way_teaches() {
        let learned = Arc::new(Learned::default());
        let token = learned.begin(&name("a"), "x").expect("there is room").token;
        learned.heard(token, &name("b"));
        learned.heard(7, &name("b"));
        assert_eq!(learned.of(&name("a")), []);
        call(&learned, &["b"]);
        learned.keep(|server| *server == name("b"));
        assert_eq!(learned.of(&name("a")), [], "it learns no more");
    }

    #[test]
    fn tokens_in_trace_states() {
        assert_eq!(token(&with_member(0xab, Some("x=1, fairlead=77,y=2"))), Some(0xab));
        assert_eq!(with_member(0xab, Some("x=1, fairlead=77,y=2")), "fairlead=00000000000000ab,x=1,y=2");
        assert_eq!(with_member(1, None), "fairlead=0000000000000001");
        for bad in ["", "x=1", "fairlead=", "fairlead=g", "fairlead=11111111111111111"] {
            assert_eq!(token(bad), None, "{bad}");
        }
    }
}
