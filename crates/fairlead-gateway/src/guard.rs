//! What keeps calls off a server that fails: the breakers of a server, its instances and tools, and the budget of its
//! retries.
//!
//! A server at several places has breakers at each: what one instance does says nothing of its siblings. Its own
//! breaker then only hears of calls for which no instance could be had, and of those that were answered.
//!
//! They outlive snapshots: a reload that leaves a server's `breaker` and `retry` as they are leaves what they know.
//! A server without either has none of this.

mod gate;
mod operate;
mod post;

pub(crate) use operate::explain;
pub use post::PostReading;

use arc_swap::ArcSwap;
use fairlead_config::{BreakerRule, RetryRule};
use fairlead_core::{
    BreakerReading, Dice, Force, Outcome, RetryBudget, ServerName, UpstreamError, UpstreamErrorKind, Verdict,
    breaker::Refused, fault,
};
use fairlead_upstream::{Avoid, Instance, ServerHandle, Witness};
use post::{Passed, Post};
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
    server: Arc<Post>,
    /// Where there are several, by their numbers.
    instances: ArcSwap<Vec<(u64, Arc<Post>)>>,
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
    /// Its instances, where there are several.
    pub instances: Vec<PostReading>,
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
    /// The seed is that of the waits between tries.
    pub(crate) fn new(server: &ServerName, breaker: Option<BreakerRule>, retry: Option<RetryRule>, seed: u64) -> Self {
        let breakers =
            breaker.map(|rule| Breakers { server: Post::new("", rule), instances: ArcSwap::default(), rule });
        let retry = retry.map(|rule| Retries {
            budget: RetryBudget::new(rule.budget),
            dice: Mutex::new(Dice::new(seed)),
            rule,
        });
        Self { server: server.clone(), born: Instant::now(), breakers, retry, counts: Counts::default() }
    }

    /// The instances there are now, of a server that has several: each has breakers, which those that stay keep.
    pub(crate) fn settle<'a>(&self, instances: impl Iterator<Item = &'a Arc<Instance>>) {
        let Some(breakers) = &self.breakers else { return };
        let known = breakers.instances.load();
        let mut settled = Vec::new();
        for instance in instances {
            let post = known.iter().find(|(id, _)| *id == instance.id()).map(|(_, post)| Arc::clone(post));
            let post = post.unwrap_or_else(|| Post::new(instance.name(), breakers.rule));
            instance.set_gate(Some(Box::new(post.door())));
            settled.push((instance.id(), post));
        }
        breakers.instances.store(Arc::new(settled));
    }

    /// Asks whether a call may be made, of a tool or of something else.
    pub(crate) fn admit(self: &Arc<Self>, tool: Option<&str>) -> Result<Option<Admission>, UpstreamError> {
        let Some(breakers) = &self.breakers else { return Ok(None) };
        let tool = tool.filter(|_| breakers.rule.tools);
        let passed =
            breakers.server.admit(tool).map_err(|(what, refused)| self.held_back(what.of_server(), refused))?;
        Ok(Some(Admission {
            guard: Arc::clone(self),
            server: Some(passed),
            instance: None,
            tool: tool.map(Into::into),
            until: None,
        }))
    }

    /// The instances at which a call would be one of the few that are let through to see, where there are several.
    pub(crate) fn trying(&self, tool: Option<&str>, trying: &mut Avoid) {
        let Some(breakers) = &self.breakers else { return };
        let tool = tool.filter(|_| breakers.rule.tools);
        for (id, post) in breakers.instances.load().iter() {
            if post.is_trying(tool) {
                trying.add_id(*id);
            }
        }
    }

    /// Whether calls to the server as a whole are refused, and for how long, where that is known.
    pub(crate) fn is_open(&self) -> Option<Option<Duration>> {
        let breakers = self.breakers.as_ref()?;
        if let Some(refused) = breakers.server.is_open() {
            return Some(refused);
        }
        let instances = breakers.instances.load();
        let waits: Vec<_> = instances.iter().map_while(|(_, post)| post.is_open()).collect();
        (!waits.is_empty() && waits.len() == instances.len()).then(|| waits.into_iter().flatten().min())
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
        let server = self.breakers.as_ref().map(|breakers| breakers.server.read());
        let instances = self.breakers.as_ref().map(|breakers| breakers.instances.load_full()).unwrap_or_default();
        let (breaker, tools) = server.map(|read| (read.breaker, read.tools)).unzip();
        GuardReading {
            breaker,
            tools: tools.unwrap_or_default(),
            instances: instances.iter().map(|(_, post)| post.read()).collect(),
            retries_left: self.retry.as_ref().map(|retry| retry.budget.left(self.now_ms())),
            held_back: self.counts.held_back.load(Ordering::Relaxed),
            retried: self.counts.retried.load(Ordering::Relaxed),
            hedged: self.counts.hedged.load(Ordering::Relaxed),
            unaffordable: self.counts.unaffordable.load(Ordering::Relaxed),
        }
    }

    /// Holds a breaker open or closed, or lets it work again: of the server or an instance, as a whole or of one tool.
    /// `false` where there is none.
    pub(crate) fn force(&self, instance: Option<&str>, tool: Option<&str>, force: Option<Force>) -> bool {
        let Some(breakers) = &self.breakers else { return false };
        let instances = breakers.instances.load();
        let mut posts = instances.iter().map(|(_, post)| post);
        match instance {
            Some(name) => posts.find(|post| post.name() == name).is_some_and(|post| post.force(tool, force)),
            None => {
                if force.is_none() {
                    posts.for_each(|post| _ = post.force(tool, None));
                }
                breakers.server.force(tool, force)
            }
        }
    }
}

impl Retries {
    /// How long to wait after so many failed tries; longer where the server said so.
    pub(crate) fn wait(&self, failed: u32, said: Option<Duration>) -> Duration {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        self.rule.backoff.wait(failed, &mut dice).max(said.unwrap_or_default())
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

/// Gives the instances of a server their breakers, where it has several and breakers are configured.
pub(crate) fn settle(guard: Option<&Arc<Guard>>, server: &ServerHandle) {
    let guard = guard.filter(|guard| guard.breakers.is_some());
    match guard.filter(|_| server.has_siblings()) {
        Some(guard) => guard.settle(server.instances()),
        None => {
            server.instances().for_each(|instance| instance.set_gate(None));
            if let Some(guard) = guard {
                guard.settle(std::iter::empty());
            }
        }
    }
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
    server: Option<Passed>,
    /// Of the instance it goes to, where there are several.
    instance: Option<Passed>,
    tool: Option<Box<str>>,
    /// Until when the caller himself waits, where that is shorter than what the server is given.
    until: Option<Instant>,
}

impl Admission {
    /// Notes that the caller waits no longer than that.
    pub(crate) fn waits_until(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    /// The call goes to that instance, if nothing holds it back there.
    pub(crate) fn goes_to(&mut self, instance: &Instance) -> Result<(), UpstreamError> {
        let Some(breakers) = &self.guard.breakers else { return Ok(()) };
        let instances = breakers.instances.load();
        let Some((_, post)) = instances.iter().find(|(id, _)| *id == instance.id()) else { return Ok(()) };
        let passed = post.admit(self.tool.as_deref());
        let refuse = |(what, refused): (post::What, _)| self.guard.held_back(what.of_instance(), refused);
        self.instance = Some(passed.map_err(refuse)?);
        Ok(())
    }

    fn tell(&mut self, verdict: Verdict, of_tool_alone: bool) {
        let of_tool_alone = of_tool_alone && self.tool.is_some() && matches!(verdict, Verdict::Busy(_));
        let name = &self.guard.server;
        if let Some(instance) = self.instance.take() {
            instance.tell(name, self.tool.as_deref(), verdict, of_tool_alone);
            if verdict != Verdict::Good {
                // Its siblings may do better.
                self.server = None;
            }
        }
        if let Some(server) = self.server.take() {
            server.tell(name, self.tool.as_deref(), verdict, of_tool_alone);
        }
    }

    fn forget(&mut self) {
        (self.server, self.instance) = (None, None);
    }
}

impl Witness for Admission {
    fn answered(&mut self, status: Option<u16>, retry_after: Option<Duration>) {
        match fault::answered(status, retry_after) {
            Some(verdict) => self.tell(verdict, status == Some(429)),
            None => self.forget(),
        }
    }

    fn failed(&mut self, error: &UpstreamError) {
        if error.kind == UpstreamErrorKind::HeldBack {
            self.guard.counts.held_back.fetch_add(1, Ordering::Relaxed);
        }
        // Who waits for a moment only learns nothing of the server.
        let gave_up =
            error.kind == UpstreamErrorKind::Timeout && self.until.is_some_and(|until| until <= Instant::now());
        match error.verdict().filter(|_| !gave_up) {
            Some(verdict) => self.tell(verdict, error.status == Some(429)),
            None => self.forget(),
        }
    }

    fn outrun(&mut self) {
        // Compared with siblings, never with a time: the last that is left cannot be late.
        let has_other = self.guard.breakers.as_ref().zip(self.instance.as_ref()).is_some_and(|(breakers, mine)| {
            breakers.instances.load().iter().any(|(_, post)| !mine.is_of(post) && post.is_well())
        });
        if has_other {
            self.tell(Verdict::Late, false);
        }
        self.forget();
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
        let seed = RandomState::new().hash_one(server.as_str());
        let guard = Arc::new(Guard::new(server, breaker, retry, seed));
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
