//! What keeps calls off a server that fails: the breakers of a server and of its tools, and the budget of its retries.
//!
//! They outlive snapshots: a reload that leaves a server's `breaker` and `retry` as they are leaves what they know.
//! A server without either has none of this.

mod gate;
mod operate;

pub(crate) use operate::explain;

use arc_swap::ArcSwap;
use fairlead_config::{BreakerRule, RetryRule};
use fairlead_core::{
    BreakerReading, BreakerState, Dice, Force, Outcome, RetryBudget, ServerName, UpstreamError, UpstreamErrorKind,
    Verdict, breaker::Refused, fault,
};
use fairlead_upstream::Witness;
use gate::{Gate, Permit};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Tools of one server with a breaker of their own. A tool gets one with its first failure.
const MAX_TOOLS: usize = 1000;

/// What one server has.
#[derive(Debug)]
pub(crate) struct Guard {
    server: ServerName,
    born: Instant,
    breakers: Option<Breakers>,
    retry: Option<Retries>,
    counts: Counts,
}

/// How often something happened, since the guard was made.
#[derive(Debug, Default)]
struct Counts {
    held_back: AtomicU64,
    retried: AtomicU64,
    hedged: AtomicU64,
    unaffordable: AtomicU64,
}

#[derive(Debug)]
struct Breakers {
    rule: BreakerRule,
    server: Arc<Gate>,
    tools: ArcSwap<HashMap<Box<str>, Arc<Gate>>>,
}

/// How calls of a server are made again.
#[derive(Debug)]
pub(crate) struct Retries {
    pub(crate) rule: RetryRule,
    budget: RetryBudget,
    dice: Mutex<Dice>,
}

/// A picture of one server's guard.
#[derive(Debug, Clone)]
pub struct GuardReading {
    /// The server's breaker.
    pub breaker: Option<BreakerReading>,
    /// Tools that failed, by name, with their breakers.
    pub tools: Vec<(Box<str>, BreakerReading)>,
    /// Retries that could be made now, where there is a budget.
    pub retries_left: Option<u64>,
    /// Calls that were held back.
    pub held_back: u64,
    /// Calls that were made again.
    pub retried: u64,
    /// Calls of which a second one was made before the first was answered.
    pub hedged: u64,
    /// Calls that were not made again because the budget was used up.
    pub unaffordable: u64,
}

impl Guard {
    fn new(server: &ServerName, breaker: Option<BreakerRule>, retry: Option<RetryRule>) -> Self {
        let breakers =
            breaker.map(|rule| Breakers { server: Gate::new(rule.settings), tools: ArcSwap::default(), rule });
        let seed = RandomState::new().hash_one(server.as_str());
        let retry = retry.map(|rule| Retries {
            budget: RetryBudget::new(rule.budget),
            dice: Mutex::new(Dice::new(seed)),
            rule,
        });
        Self { server: server.clone(), born: Instant::now(), breakers, retry, counts: Counts::default() }
    }

    /// Asks whether a call may be made, of a tool or of something else.
    pub(crate) fn admit(self: &Arc<Self>, tool: Option<&str>) -> Result<Option<Admission>, UpstreamError> {
        let Some(breakers) = &self.breakers else { return Ok(None) };
        let tool = tool.filter(|_| breakers.rule.tools);
        let of_tool = match tool.and_then(|tool| breakers.tools.load().get(tool).cloned()) {
            Some(gate) => Some(gate.admit().map_err(|refused| self.held_back("calls of this tool", refused))?),
            None => None,
        };
        let server = breakers.server.admit().map_err(|refused| self.held_back("calls to it", refused))?;
        Ok(Some(Admission {
            guard: Arc::clone(self),
            server: Some(server),
            of_tool,
            tool: tool.map(Into::into),
            until: None,
        }))
    }

    /// Whether calls to the server as a whole are refused, and for how long, where that is known.
    pub(crate) fn is_open(&self) -> Option<Option<Duration>> {
        let reading = self.breakers.as_ref()?.server.read();
        (reading.state == BreakerState::Open).then_some(reading.retry_after)
    }

    fn held_back(&self, what: &str, refused: Refused) -> UpstreamError {
        self.counts.held_back.fetch_add(1, Ordering::Relaxed);
        held_back(what, refused)
    }

    /// How its calls are made again, where that is configured.
    pub(crate) fn retries(&self) -> Option<&Retries> {
        self.retry.as_ref()
    }

    /// A call is made for the first time.
    pub(crate) fn deposit(&self) {
        if let Some(retry) = &self.retry {
            retry.budget.deposit(self.now_ms());
        }
    }

    /// A call is to be made once more: whether the budget allows it.
    pub(crate) fn afford(&self, why: Second) -> bool {
        let is_affordable = self.retry.as_ref().is_none_or(|retry| retry.budget.withdraw(self.now_ms()));
        let count = match why {
            _ if !is_affordable => &self.counts.unaffordable,
            Second::Retry => &self.counts.retried,
            Second::Hedge => &self.counts.hedged,
        };
        count.fetch_add(1, Ordering::Relaxed);
        is_affordable
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn read(&self) -> GuardReading {
        let tools = self.breakers.as_ref().map(|breakers| breakers.tools.load_full()).unwrap_or_default();
        let mut tools: Vec<_> = tools.iter().map(|(name, gate)| (name.clone(), gate.read())).collect();
        tools.sort_by(|one, other| one.0.cmp(&other.0));
        GuardReading {
            breaker: self.breakers.as_ref().map(|breakers| breakers.server.read()),
            tools,
            retries_left: self.retry.as_ref().map(|retry| retry.budget.left(self.now_ms())),
            held_back: self.counts.held_back.load(Ordering::Relaxed),
            retried: self.counts.retried.load(Ordering::Relaxed),
            hedged: self.counts.hedged.load(Ordering::Relaxed),
            unaffordable: self.counts.unaffordable.load(Ordering::Relaxed),
        }
    }

    /// Holds a breaker open or closed, or lets it work again: the server's, or of one tool. `false` where there is none.
    pub(crate) fn force(&self, tool: Option<&str>, force: Option<Force>) -> bool {
        let Some(breakers) = &self.breakers else { return false };
        match tool {
            None => breakers.server.force(force),
            Some(tool) => match breakers.of_tool(tool) {
                Some(gate) => gate.force(force),
                None => return false,
            },
        }
        if force.is_none() && tool.is_none() {
            for gate in breakers.tools.load().values() {
                gate.force(None);
            }
        }
        true
    }
}

impl Retries {
    /// How long to wait after so many failed tries; longer where the server said so.
    pub(crate) fn wait(&self, failed: u32, said: Option<Duration>) -> Duration {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        self.rule.backoff.wait(failed, &mut dice).max(said.unwrap_or_default())
    }
}

impl Breakers {
    /// The breaker of a tool, made when it is needed for the first time, while there is room.
    fn of_tool(&self, tool: &str) -> Option<Arc<Gate>> {
        if let Some(gate) = self.tools.load().get(tool) {
            return Some(Arc::clone(gate));
        }
        self.tools.rcu(|tools| {
            if tools.len() >= MAX_TOOLS || tools.contains_key(tool) {
                return Arc::clone(tools);
            }
            let mut grown = HashMap::clone(tools);
            grown.insert(tool.into(), Gate::new(self.rule.settings));
            Arc::new(grown)
        });
        self.tools.load().get(tool).cloned()
    }
}

/// The refusal of a call to a server that depends on another, which `guard` counts.
pub(crate) fn held_back_by(guard: Option<&Guard>, dependency: &ServerName, wait: Option<Duration>) -> UpstreamError {
    let what = format!("it depends on `{dependency}`, and calls to that");
    match guard {
        Some(guard) => guard.held_back(&what, Refused(wait)),
        None => held_back(&what, Refused(wait)),
    }
}

fn held_back(what: &str, Refused(wait): Refused) -> UpstreamError {
    let when = match wait {
        Some(wait) => format!("for {} ms more", wait.as_millis()),
        None => "until an operator says otherwise".to_owned(),
    };
    let message = format!("{what} are held back {when}");
    let mut error = UpstreamError::new(UpstreamErrorKind::HeldBack, Outcome::NotMade, message);
    error.retry_after = wait;
    error
}

/// Why a call is made a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    /// The first failed.
    Retry,
    /// The first takes long.
    Hedge,
}

/// Leave for one call, and who is told how it ended. Dropped untold, nobody knows.
#[derive(Debug)]
pub(crate) struct Admission {
    guard: Arc<Guard>,
    server: Option<Permit>,
    of_tool: Option<Permit>,
    tool: Option<Box<str>>,
    /// Until when the caller himself waits, where that is shorter than what the server is given.
    until: Option<Instant>,
}

impl Admission {
    /// Notes that the caller waits no longer than that.
    pub(crate) fn waits_until(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    fn tell(&mut self, verdict: Verdict, of_tool_alone: bool) {
        let Some(breakers) = &self.guard.breakers else { return };
        let permit = match (self.of_tool.take(), &self.tool) {
            (Some(permit), _) => Some(permit),
            // The first failure of a tool makes its breaker.
            (None, Some(tool)) if verdict != Verdict::Good => breakers.of_tool(tool).and_then(|gate| gate.admit().ok()),
            (None, _) => None,
        };
        if let Some(changed) = permit.and_then(|permit| permit.report(verdict)) {
            self.say(self.tool.as_deref(), &changed);
        }
        let busy = matches!(verdict, Verdict::Busy(_));
        if busy && of_tool_alone && self.tool.is_some() {
            self.server = None;
            return;
        }
        if let Some(changed) = self.server.take().and_then(|permit| permit.report(verdict)) {
            self.say(None, &changed);
        }
    }

    fn say(&self, tool: Option<&str>, reading: &BreakerReading) {
        let (server, state) = (&self.guard.server, reading.state.word());
        match reading.retry_after {
            Some(wait) => tracing::warn!(%server, tool, state, for_ms = wait.as_millis(), "calls are held back"),
            None => tracing::info!(%server, tool, state, "calls are made again"),
        }
    }
}

impl Witness for Admission {
    fn answered(&mut self, status: Option<u16>, retry_after: Option<Duration>) {
        match fault::answered(status, retry_after) {
            Some(verdict) => self.tell(verdict, status == Some(429)),
            None => (self.server, self.of_tool) = (None, None),
        }
    }

    fn failed(&mut self, error: &UpstreamError) {
        // Who waits for a moment only learns nothing of the server.
        let gave_up =
            error.kind == UpstreamErrorKind::Timeout && self.until.is_some_and(|until| until <= Instant::now());
        match error.verdict().filter(|_| !gave_up) {
            Some(verdict) => self.tell(verdict, error.status == Some(429)),
            None => (self.server, self.of_tool) = (None, None),
        }
    }
}

/// The guards of all servers, kept from one configuration to the next.
#[derive(Debug, Default)]
pub(crate) struct Guards(Mutex<HashMap<ServerName, Arc<Guard>>>);

impl Guards {
    /// The guard of a server whose configuration is that; the one it had, where nothing changed.
    pub(crate) fn of(
        &self,
        server: &ServerName,
        breaker: Option<BreakerRule>,
        retry: Option<RetryRule>,
    ) -> Option<Arc<Guard>> {
        let mut guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if breaker.is_none() && retry.is_none() {
            guards.remove(server);
            return None;
        }
        if let Some(guard) = guards.get(server)
            && guard.breakers.as_ref().map(|breakers| breakers.rule) == breaker
            && guard.retry.as_ref().map(|retry| retry.rule) == retry
        {
            return Some(Arc::clone(guard));
        }
        let guard = Arc::new(Guard::new(server, breaker, retry));
        guards.insert(server.clone(), Arc::clone(&guard));
        Some(guard)
    }

    /// Forgets servers that are gone.
    pub(crate) fn keep(&self, is_there: impl Fn(&ServerName) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| is_there(name));
    }
}

#[cfg(test)]
mod tests;
