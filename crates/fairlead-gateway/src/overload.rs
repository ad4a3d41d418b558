//! What gives way when there is too much: how important a call is, what is shed, and the pools a call passes.
//!
//! A call is looked at once it is known what it calls, because how important it is can depend on that. Shed is by two
//! bounds, calls under way and resident memory, of which each priority may use its part; then come the pools of
//! its tenant and its priority. The pool of its server comes in dispatch, where the server is really called. A
//! subscription is shed but takes no place: it goes on for hours and does nothing.

use crate::{
    bulkhead::{Bulkhead, BulkheadCounts, Full, Place},
    call::Call,
    gateway::Gateway,
    resolve::Target,
    snapshot::Endpoint,
};
use fairlead_config::{Bulkhead as Bounds, Priority};
use fairlead_core::{Code, Refusal};
use fairlead_policy::{Shares, Signal};
use fairlead_wire::{Field, Frame, Method, list, message};
use http::HeaderMap;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The header a client says the priority of a request in.
const HEADER: &str = "x-fairlead-priority";
/// The same in `_meta`.
const META: &str = "fairlead/priority";
/// How long a look at the resident memory is good for.
const LOOK: Duration = Duration::from_millis(100);
/// Priorities, times reasons.
const SHED: usize = 4 * 2;

/// What lives as long as the gateway.
pub(crate) struct State {
    /// By name. Those that are configured no more stay while they have calls.
    bulkheads: Mutex<BTreeMap<Arc<str>, Arc<Bulkhead>>>,
    running: AtomicUsize,
    began: Instant,
    looked_ms: AtomicU64,
    resident: AtomicU64,
    shed: [AtomicU64; SHED],
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            bulkheads: Mutex::default(),
            running: AtomicUsize::new(0),
            began: Instant::now(),
            looked_ms: AtomicU64::new(0),
            resident: AtomicU64::new(0),
            shed: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The pool with these bounds: a known one of the name is resized.
    pub(crate) fn bulkhead(&self, bounds: &Bounds) -> Arc<Bulkhead> {
        let mut all = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&bounds.name) {
            known.configure(bounds);
            return Arc::clone(known);
        }
        // Nobody uses these any more.
        all.retain(|_, bulkhead| Arc::strong_count(bulkhead) > 1);
        let bulkhead = Bulkhead::new(bounds.clone());
        all.insert(Arc::clone(&bounds.name), Arc::clone(&bulkhead));
        bulkhead
    }

    pub(crate) fn bulkheads(&self) -> Vec<BulkheadCounts> {
        let all = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|bulkhead| bulkhead.counts()).collect()
    }

    /// Calls shed so far: priority, reason, how many.
    pub(crate) fn shed(&self) -> Vec<(&'static str, &'static str, u64)> {
        let count = |priority: Priority, why: Why| {
            let count = self.shed[priority as usize * 2 + why as usize].load(Ordering::Relaxed);
            (count > 0).then_some((priority.word(), why.word(), count))
        };
        Priority::ALL
            .iter()
            .flat_map(|priority| [count(*priority, Why::Load), count(*priority, Why::Memory)])
            .flatten()
            .collect()
    }

    /// Resident bytes, as of a moment ago. Where the system does not tell, none.
    fn resident(&self) -> u64 {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let looked = self.looked_ms.load(Ordering::Relaxed);
        let is_due = looked == 0 || now.saturating_sub(looked) >= u64::try_from(LOOK.as_millis()).unwrap_or(0);
        if is_due && self.looked_ms.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let resident = fairlead_observe::resident_bytes().unwrap_or(0);
            self.resident.store(resident, Ordering::Relaxed);
        }
        self.resident.load(Ordering::Relaxed)
    }
}

/// Why something is shed.
#[derive(Debug, Clone, Copy)]
enum Why {
    Load,
    Memory,
}

impl Why {
    fn word(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Memory => "memory",
        }
    }
}

/// The rules of an endpoint; `None` where nothing is configured.
pub(crate) struct Overload {
    config: fairlead_config::Overload,
    shares: Shares,
    tenant: Option<Arc<Bulkhead>>,
    priorities: [Option<Arc<Bulkhead>>; 4],
}

impl Overload {
    pub(crate) fn new(state: &State, config: &fairlead_config::Overload) -> Option<Arc<Self>> {
        if *config == fairlead_config::Overload::default() {
            return None;
        }
        let mut priorities: [Option<Arc<Bulkhead>>; 4] = std::array::from_fn(|_| None);
        for (priority, bounds) in &config.priorities {
            priorities[*priority as usize] = Some(state.bulkhead(bounds));
        }
        let tenant = config.tenant.as_ref().map(|bounds| state.bulkhead(bounds));
        Some(Arc::new(Self { config: config.clone(), shares: Shares::default(), tenant, priorities }))
    }

    /// What is in force, for people.
    pub(crate) fn explain(&self) -> Vec<String> {
        let calls = self.config.max_calls.map(|max| format!("sheds load above {max} calls under way"));
        let memory = self.config.memory.map(|max| format!("sheds load above {max} bytes of resident memory"));
        let pool = |pool: &Arc<Bulkhead>| described(&pool.counts());
        let pools = self.tenant.iter().chain(self.priorities.iter().flatten()).map(pool);
        calls.into_iter().chain(memory).chain(pools).collect()
    }

    fn shed(&self, state: &State, priority: Priority, running: usize) -> Result<(), Refusal> {
        let (why, code, text) = match (self.config.max_calls, self.config.memory) {
            (Some(max), _) if !self.shares.admits(priority, running as u64, max as u64) => {
                (Why::Load, Code::Overloaded, "the gateway has more calls under way than it takes on of this priority")
            }
            (_, Some(max)) if !self.shares.admits(priority, state.resident(), max as u64) => {
                (Why::Memory, Code::LowMemory, "the gateway is short of memory")
            }
            _ => return Ok(()),
        };
        state.shed[priority as usize * 2 + why as usize].fetch_add(1, Ordering::Relaxed);
        let text = format!("{text}; the call (priority {}) was not made", priority.word());
        Err(Refusal::new(code, text)
            .with_data(data("overload", why.word(), priority, self.config.retry_after))
            .retry_after(self.config.retry_after))
    }
}

/// What a call holds until it ends.
pub(crate) struct Entered {
    gateway: Gateway,
    places: [Option<Place>; 2],
    priority: Priority,
}

impl Entered {
    fn has(&self, pool: &Arc<Bulkhead>) -> bool {
        self.places.iter().flatten().any(|place| place.is_in(pool))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.gateway.0.overload.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How important the client says that its request is. Looked for only where something depends on it.
pub(crate) fn asked(endpoint: &Endpoint, frame: &Frame, headers: &HeaderMap) -> Option<Priority> {
    endpoint.overload.as_ref()?;
    if let Some(said) = headers.get(HEADER) {
        return said.to_str().ok().and_then(Priority::parse);
    }
    let meta = frame.raw(Field::Meta)?;
    if !meta.contains(META) {
        return None;
    }
    Priority::parse(&list::string_member(meta, META)?)
}

/// How important the call is: what its tool's rule says, lowered as far as its client likes, raised as far as it may.
fn priority(call: &Call, target: &Target, raise_to: Option<Priority>) -> Priority {
    let ruled = target.rule.as_deref().and_then(|rule| rule.priority).unwrap_or_default();
    match call.asked {
        Some(asked) => asked.min(raise_to.map_or(ruled, |most| ruled.max(most))),
        None => ruled,
    }
}

/// Lets the call in, or says why not.
pub(crate) async fn enter(call: &mut Call, target: &Target) -> Result<(), Refusal> {
    let Some(overload) = call.endpoint.overload.clone() else { return Ok(()) };
    let priority = priority(call, target, overload.config.raise_to);
    let state = &call.gateway.0.overload;
    let running = state.running.fetch_add(1, Ordering::Relaxed);
    // From here on this counts it out again.
    let mut entered = Box::new(Entered { gateway: call.gateway.clone(), places: [None, None], priority });
    overload.shed(state, priority, running)?;
    if call.frame.method_class() == Method::Listen {
        // It goes on for hours and does nothing: it is not counted as a call under way.
        return Ok(());
    }
    let pools = [overload.tenant.as_ref(), overload.priorities[priority as usize].as_ref()];
    for (at, pool) in pools.into_iter().enumerate() {
        // Whoever has a place in a pool does not wait for another in the same.
        if let Some(pool) = pool.filter(|pool| !entered.has(pool)) {
            entered.places[at] = Some(take(pool, priority, call, target).await?);
        }
    }
    call.entered = Some(entered);
    Ok(())
}

/// A place in the server's pool, for as long as the call lasts.
pub(crate) async fn enter_server(call: &Call, target: &Target) -> Result<(), Refusal> {
    let Some(pool) = &target.upstream.bulkhead else { return Ok(()) };
    let has_one = || call.places.has(pool) || call.entered.as_ref().is_some_and(|entered| entered.has(pool));
    if call.frame.method_class() == Method::Listen || has_one() {
        return Ok(());
    }
    let priority = match &call.entered {
        Some(entered) => entered.priority,
        None => priority(call, target, None),
    };
    call.places.add(take(pool, priority, call, target).await?);
    Ok(())
}

async fn take(pool: &Arc<Bulkhead>, priority: Priority, call: &Call, target: &Target) -> Result<Place, Refusal> {
    let until = call.deadline(target.timeouts().1);
    let entered = pool.enter(priority, call.frame.bytes().len(), until).await;
    entered.map_err(|full| refusal(pool, full, priority, call))
}

fn refusal(pool: &Bulkhead, full: Full, priority: Priority, call: &Call) -> Refusal {
    if full == Full::NoTime {
        return Refusal::new(Code::NoTimeLeft, format!("{}; the call was not made", full.text()));
    }
    let after = call.endpoint.config.overload.retry_after;
    Refusal::new(
        Code::BulkheadFull,
        format!("the bulkhead `{}` is full: {}; the call was not made", pool.name(), full.text()),
    )
    .with_data(data("bulkhead", pool.name(), priority, after))
    .retry_after(after)
}

fn data(what: &str, name: &str, priority: Priority, after: Duration) -> String {
    format!(
        "{{\"{what}\":{},\"priority\":\"{}\",\"retryAfterMs\":{}}}",
        message::quote(name),
        priority.word(),
        after.as_millis()
    )
}

/// Whether another connection that stays can be taken on: not when there is no memory for anything.
pub(crate) fn connection(gateway: &Gateway) -> Result<(), Refusal> {
    let snapshot = gateway.snapshot();
    let Some(overload) = &snapshot.all().overload else { return Ok(()) };
    overload.shed(&gateway.0.overload, Priority::Critical, 0)
}

/// Notes how a call ended at a server.
pub(crate) fn note(call: &Call, target: &Target, signal: Signal) {
    let places = call.entered.iter().flat_map(|entered| entered.places.iter().flatten());
    places.for_each(|place| place.note(signal));
    if let Some(pool) = &target.upstream.bulkhead {
        call.places.note(pool, signal);
    }
}

/// A pool, for people.
pub(crate) fn described(counts: &BulkheadCounts) -> String {
    format!(
        "bulkhead `{}`: {} of {} calls under way, {} wait, {} refused so far",
        counts.name, counts.running, counts.limit, counts.waiting, counts.refused
    )
}
