//! Servers that are not there, and calls to them: what stands for the network. The calls decide as `dispatch.rs`
//! does, by the same functions in the same order.

use crate::{
    bulkhead::Bulkhead,
    dispatch::retry::{Case, Failure, Tries},
    guard::{Admission, Guard},
};
use fairlead_config::{Balance, BreakerRule, Bulkhead as Bounds, Ejection, Instances, Priority, RetryRule, Strategy};
use fairlead_core::{BreakerSettings, Dice, Outcome, ServerName, UpstreamError, UpstreamErrorKind};
use fairlead_policy::Signal;
use fairlead_upstream::{Avoid, CallEnd, Instance, LeaseError, Reach, Review, Roster, Search, Witness, affinity};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};
use tokio::{
    task::{self, JoinHandle},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

/// How long a call may take, and a server be silent.
const WHOLE: Duration = Duration::from_secs(4);
const IDLE: Duration = Duration::from_secs(1);
/// After this long the owner of an instance that refuses connections tries it again.
const OWNER: Duration = Duration::from_millis(500);
/// The tool that is called.
const TOOL: &str = "search";

/// What is configured.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// The weight of each instance.
    pub(super) weights: Vec<u32>,
    pub(super) balance: Balance,
    pub(super) ejection: Option<Ejection>,
    pub(super) breaker: Option<BreakerRule>,
    pub(super) retry: Option<RetryRule>,
    pub(super) bulkhead: Option<Bounds>,
    /// Whether each instance has breakers of its own, as it has.
    pub(super) apart: bool,
    pub(super) repeatable: bool,
    /// Milliseconds a call takes, at least and at most.
    pub(super) latency: (u64, u64),
}

impl Setup {
    /// So many instances, everything at its default.
    pub(super) fn of(instances: usize, strategy: Strategy) -> Self {
        let defaults = Instances::default();
        Self {
            weights: vec![1; instances],
            balance: Balance { strategy, ..defaults.balance },
            ejection: defaults.ejection,
            breaker: Some(BreakerRule { settings: BreakerSettings::default(), tools: true }),
            retry: Some(RetryRule::default()),
            bulkhead: None,
            apart: true,
            repeatable: true,
            latency: (5, 40),
        }
    }

    /// One that depends on the seed.
    pub(super) fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5e70);
        let mut setup = Self::of(2 + at(&mut dice, 5), STRATEGIES[at(&mut dice, STRATEGIES.len())]);
        if dice.below(3) == 0 {
            setup.breaker = None;
        }
        if dice.below(4) == 0 {
            setup.retry = None;
        }
        setup
    }
}

/// Every strategy that spreads calls that have nothing in common.
pub(super) const STRATEGIES: [Strategy; 7] = [
    Strategy::PeakEwma,
    Strategy::RoundRobin,
    Strategy::WeightedRoundRobin,
    Strategy::LeastConnections,
    Strategy::Random,
    Strategy::Resource,
    Strategy::Composite,
];

fn at(dice: &mut Dice, below: usize) -> usize {
    usize::try_from(dice.below(below as u64)).expect("small")
}

/// How an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Answers so many percent of calls with HTTP 500.
    Failing(u64),
    /// Never answers.
    Hung,
    /// Takes so many times as long.
    Slow(u64),
    /// Takes no connections.
    Refusing,
}

/// An instance, the link to it, and what reached it.
struct Place {
    instance: Arc<Instance>,
    mood: Cell<Mood>,
    is_up: Cell<bool>,
    /// Calls that reached it, and those of them that are under way.
    served: Cell<u64>,
    busy: Cell<usize>,
}

/// What came of the calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Calls of clients.
    pub(super) offered: u64,
    /// Calls that clients saw fail.
    pub(super) failed: u64,
    /// Of those, the ones that a breaker held back.
    pub(super) held_back: u64,
    /// Of those, the ones that found no place in the pool.
    pub(super) no_place: u64,
    /// What reached the instances, or tried to.
    pub(super) made: u64,
}

/// See the module.
#[derive(Clone)]
pub(super) struct World(Rc<Inner>);

pub(super) struct Inner {
    setup: Setup,
    name: ServerName,
    places: Vec<Place>,
    roster: Roster,
    review: RefCell<Review>,
    pub(super) guard: Option<Arc<Guard>>,
    pub(super) pool: Option<Arc<Bulkhead>>,
    dice: RefCell<Dice>,
    counts: Cell<Counts>,
    trace: Cell<u64>,
    born: Instant,
    /// Calls an instance can do at once; above that it does not answer in time.
    pub(super) capacity: Cell<usize>,
    /// The most instances that were ejected of those that would serve, and what was wrong with that if anything was.
    most_ejected: Cell<usize>,
    wrong: RefCell<Option<String>>,
}

impl std::ops::Deref for World {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Where links stand, as far as their owners know.
struct Links<'a>(&'a [Place]);

impl Reach for Links<'_> {
    fn is_up(&self, place: usize) -> bool {
        self.0[place].is_up.get()
    }
    fn is_down(&self, place: usize) -> bool {
        !self.0[place].is_up.get()
    }
}

impl World {
    pub(super) fn new(setup: Setup, seed: u64) -> Self {
        let instance = |(id, weight): (usize, &u32)| {
            let instance = Instance::new(id as u64 + 1, &format!("10.0.0.{id}:80"), *weight, BTreeMap::new());
            instance.measure();
            Place {
                instance,
                mood: Cell::new(Mood::Well),
                is_up: Cell::new(true),
                served: Cell::new(0),
                busy: Cell::new(0),
            }
        };
        let places: Vec<_> = setup.weights.iter().enumerate().map(instance).collect();
        let instances: Vec<_> = places.iter().map(|place| Arc::clone(&place.instance)).collect();
        let roster = Roster::new(setup.balance.clone(), instances, seed);
        let name = ServerName::parse("crm").expect("a name");
        let has_guard = setup.breaker.is_some() || setup.retry.is_some();
        let guard = has_guard.then(|| Arc::new(Guard::new(&name, setup.breaker, setup.retry, seed)));
        if let Some(guard) = guard.as_ref().filter(|_| setup.apart && places.len() > 1) {
            guard.settle(roster.instances().iter());
        }
        let review = RefCell::new(Review::new(setup.ejection.as_ref(), &roster, &Links(&places)));
        let world = Self(Rc::new(Inner {
            pool: setup.bulkhead.clone().map(Bulkhead::new),
            name,
            places,
            roster,
            review,
            guard,
            dice: RefCell::new(Dice::new(seed)),
            counts: Cell::default(),
            trace: Cell::new(seed),
            born: Instant::now(),
            capacity: Cell::new(usize::MAX),
            most_ejected: Cell::new(0),
            wrong: RefCell::new(None),
            setup,
        }));
        let looking = world.clone();
        task::spawn_local(async move { looking.look().await });
        world
    }

    /// What the conductor does.
    async fn look(&self) {
        let mut look = interval(self.review.borrow().interval());
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let changed = self.review.borrow_mut().look(&self.roster, &Links(&self.places));
            if changed {
                self.note();
            }
            self.check_ejections();
        }
    }

    fn note(&self) {
        self.review.borrow_mut().note(&self.name, &self.roster, &Links(&self.places));
    }

    /// One of those that would serve but for it is never ejected.
    fn check_ejections(&self) {
        let ejected = |place: &Place| place.instance.why_out().is_some_and(|why| why.contains("ejected"));
        let out = self.places.iter().filter(|place| ejected(place)).count();
        self.most_ejected.set(self.most_ejected.get().max(out));
        if out == self.places.len() {
            *self.wrong.borrow_mut() = Some(format!("all {out} instances are ejected"));
        }
    }

    /// The most instances that were ejected at once; `Err` when it was all of them.
    pub(super) fn most_ejected(&self) -> Result<usize, String> {
        self.wrong.borrow().clone().map_or(Ok(self.most_ejected.get()), Err)
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.get()
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        count(&mut counts);
        self.counts.set(counts);
    }

    /// Everything that happened, as one number.
    pub(super) fn trace(&self) -> u64 {
        self.trace.get()
    }

    fn happened(&self, what: u64) {
        let now = u64::try_from(self.born.elapsed().as_millis()).expect("not for ever");
        self.trace.set(Dice::new(self.trace.get() ^ what.rotate_left(32) ^ now).next_u64());
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.dice.borrow_mut().below(bound)
    }

    pub(super) fn set(&self, place: usize, mood: Mood) {
        self.places[place].mood.set(mood);
    }

    pub(super) fn set_all(&self, mood: Mood) {
        self.places.iter().for_each(|place| place.mood.set(mood));
    }

    /// What reached each instance so far.
    pub(super) fn served(&self) -> Vec<u64> {
        self.places.iter().map(|place| place.served.get()).collect()
    }

    /// What reached each instance while `story` went on.
    pub(super) async fn served_in(&self, story: impl Future<Output = ()>) -> Vec<u64> {
        let before = self.served();
        story.await;
        self.served().iter().zip(before).map(|(after, before)| after - before).collect()
    }

    /// Calls under way at all instances.
    pub(super) fn busy(&self) -> usize {
        self.places.iter().map(|place| place.busy.get()).sum()
    }

    /// The part of its share an instance gets.
    pub(super) fn share(&self, place: usize) -> f64 {
        self.roster.share(place, &Links(&self.places))
    }

    /// Waits until something is so, at most for so many seconds.
    pub(super) async fn until(&self, seconds: u64, is_so: impl Fn() -> bool) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(seconds);
        while !is_so() {
            if Instant::now() >= until {
                return Err(format!("what was waited for did not come in {seconds} s"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits for the calls under way.
    pub(super) async fn drained(&self) {
        sleep(WHOLE * 2).await;
    }

    /// Offers calls until the story is over.
    pub(super) fn keep_offering(&self, per_second: f64) {
        let world = self.clone();
        task::spawn_local(async move { world.offer(per_second, 24 * 3600).await });
    }

    /// So many calls a second on the average for so long, of clients who do not wait for each other.
    pub(super) async fn offer(&self, per_second: f64, seconds: u64) {
        self.offer_with(per_second, seconds, |_| None).await;
    }

    /// The same; `key` says what a call has in common with others.
    pub(super) async fn offer_with(&self, per_second: f64, seconds: u64, key: impl Fn(&Self) -> Option<u64>) {
        let until = Instant::now() + Duration::from_secs(seconds);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        let gap = (2e6 / per_second) as u64;
        let mut next = Instant::now();
        loop {
            next += Duration::from_micros(self.below(gap + 1));
            if next >= until {
                return sleep_until(until).await;
            }
            sleep_until(next).await;
            let (world, key) = (self.clone(), key(self));
            task::spawn_local(async move { _ = world.call(key).await });
        }
    }

    /// So many clients who call again as soon as they are answered.
    pub(super) fn clients(&self, count: usize) -> Vec<JoinHandle<()>> {
        let client = |_| {
            let world = self.clone();
            task::spawn_local(async move {
                loop {
                    let _ = world.call(None).await;
                    // Nobody calls again in no time at all.
                    sleep(Duration::from_millis(1 + world.below(3))).await;
                }
            })
        };
        (0..count).map(client).collect()
    }

    /// Something is wrong with one instance or another all the time, but never with the last.
    pub(super) fn weather(&self, seconds: u64) {
        let until = Instant::now() + Duration::from_secs(seconds);
        for place in 0..self.places.len() - 1 {
            let world = self.clone();
            task::spawn_local(async move {
                while Instant::now() < until {
                    sleep(Duration::from_millis(world.below(8_000))).await;
                    let moods = [Mood::Failing(50), Mood::Failing(100), Mood::Hung, Mood::Slow(20), Mood::Refusing];
                    world.set(place, moods[at(&mut world.dice.borrow_mut(), moods.len())]);
                    sleep(Duration::from_millis(world.below(4_000))).await;
                    world.set(place, Mood::Well);
                }
            });
        }
    }

    /// One call: `Err` says that its client saw it fail.
    pub(super) async fn call(&self, key: Option<u64>) -> Result<usize, UpstreamError> {
        self.count(|counts| counts.offered += 1);
        let place = match &self.pool {
            Some(pool) => match pool.enter(Priority::Normal, 100, Instant::now() + WHOLE).await {
                Ok(place) => Some(place),
                Err(full) => {
                    self.count(|counts| (counts.failed, counts.no_place) = (counts.failed + 1, counts.no_place + 1));
                    return Err(failure(UpstreamErrorKind::AtCapacity, Outcome::NotMade, full.text()));
                }
            },
            None => None,
        };
        let ended = self.begin(key).await;
        if let Some(place) = &place {
            place.note(if ended.is_ok() { Signal::Answered } else { Signal::Overloaded });
        }
        match &ended {
            Ok(place) => self.happened(*place as u64),
            Err(error) => {
                let held_back = u64::from(error.kind == UpstreamErrorKind::HeldBack);
                self.happened(100 + held_back);
                self.count(|counts| {
                    (counts.failed, counts.held_back) = (counts.failed + 1, counts.held_back + held_back)
                });
            }
        }
        ended
    }

    /// As `dispatch::begin_with`.
    async fn begin(&self, key: Option<u64>) -> Result<usize, UpstreamError> {
        let deadline = Instant::now() + WHOLE;
        let (retries, mut tries, mut avoid) = (AtomicU32::new(0), Tries::new(), Avoid::default());
        if let Some(guard) = &self.guard {
            guard.deposit();
        }
        loop {
            let mut at = None;
            let tried = self.once(key, deadline, &avoid, &mut at).await;
            let (failure, ended) = match tried {
                Ok(200) => return Ok(at.expect("it was answered")),
                Ok(status) => {
                    let error = failure(UpstreamErrorKind::Garbage, Outcome::Unknown, "HTTP 500");
                    (Failure::of_status(Some(status)).expect("it is a failure"), error)
                }
                Err(error) => (Failure::of(&error), error),
            };
            let is_new = at.is_some_and(|place| avoid.add(&self.places[place].instance));
            let case = Case {
                guard: self.guard.as_deref(),
                is_repeatable: &|| self.setup.repeatable,
                retries: &retries,
                is_task: false,
                deadline,
            };
            let has_more = || is_new && self.roster.has_more(&Links(&self.places), &avoid);
            let Some(wait) = tries.next(&case, failure, has_more) else { return Err(ended) };
            if !wait.is_zero() {
                sleep(wait).await;
            }
        }
    }

    /// As `dispatch::once`: the HTTP status of the answer.
    async fn once(
        &self,
        key: Option<u64>,
        deadline: Instant,
        avoid: &Avoid,
        at: &mut Option<usize>,
    ) -> Result<u16, UpstreamError> {
        let mut admission = match &self.guard {
            Some(guard) => guard.admit(Some(TOOL))?,
            None => None,
        };
        let place = match self.lease(key, deadline, avoid) {
            Ok(place) => place,
            Err(error) => {
                if let Some(admission) = &mut admission {
                    admission.failed(&error);
                }
                return Err(error);
            }
        };
        *at = Some(place);
        let instance = &self.places[place].instance;
        if let Some(admission) = &mut admission {
            admission.goes_to(instance)?;
        }
        instance.enter();
        let began = Instant::now();
        let answer = self.serve(place, deadline).await;
        instance.leave();
        self.witness(place, began, admission, &answer);
        answer
    }

    fn lease(&self, key: Option<u64>, deadline: Instant, avoid: &Avoid) -> Result<usize, UpstreamError> {
        let of = |error| match error {
            LeaseError::Upstream(error) => error,
            LeaseError::NeedsRoots => unreachable!("nobody follows roots here"),
        };
        let mut search = Search::default();
        loop {
            let place = self.roster.choose(&mut search, &Links(&self.places), avoid, key).map_err(of)?;
            if self.places[place].is_up.get() {
                return Ok(place);
            }
            let error = failure(UpstreamErrorKind::Unavailable, Outcome::NotMade, "it is down");
            search.failed(place, error.into(), deadline).map_err(of)?;
        }
    }

    /// What an exchange tells of its end.
    fn witness(&self, place: usize, began: Instant, admission: Option<Admission>, answer: &Result<u16, UpstreamError>) {
        let end = match answer {
            Ok(200) => CallEnd::Answered,
            Ok(_) => CallEnd::ServerError,
            Err(error) => CallEnd::Failed(error.kind, error.outcome),
        };
        self.places[place].instance.report(end, Some(began.elapsed()));
        match (admission, answer) {
            (Some(mut admission), Ok(status)) => admission.answered(Some(*status), None),
            (Some(mut admission), Err(error)) => admission.failed(error),
            (None, _) => {}
        }
    }

    /// The server: its status, or that it does not answer.
    async fn serve(&self, at: usize, deadline: Instant) -> Result<u16, UpstreamError> {
        let place = &self.places[at];
        self.count(|counts| counts.made += 1);
        self.happened(200 + at as u64);
        let until = deadline.min(Instant::now() + IDLE);
        if place.mood.get() == Mood::Refusing {
            self.refused(at);
            return Err(failure(UpstreamErrorKind::Unavailable, Outcome::NotMade, "connection refused"));
        }
        place.served.set(place.served.get() + 1);
        place.busy.set(place.busy.get() + 1);
        let ended = self.work(at, until).await;
        place.busy.set(place.busy.get() - 1);
        ended
    }

    async fn work(&self, at: usize, until: Instant) -> Result<u16, UpstreamError> {
        let (least, most) = self.setup.latency;
        let place = &self.places[at];
        let took = Duration::from_millis(least + self.below(most - least + 1));
        let (took, status) = match place.mood.get() {
            Mood::Hung => (WHOLE, 200),
            _ if place.busy.get() > self.capacity.get() => (WHOLE, 200),
            Mood::Slow(times) => (took * u32::try_from(times).expect("small"), 200),
            Mood::Failing(percent) if self.below(100) < percent => (took / 4, 500),
            _ => (took, 200),
        };
        let done = Instant::now() + took;
        if done > until {
            sleep_until(until).await;
            return Err(failure(UpstreamErrorKind::Timeout, Outcome::Unknown, "it did not answer"));
        }
        sleep_until(done).await;
        Ok(status)
    }

    /// Its owner notices, and tries until it takes connections again.
    fn refused(&self, at: usize) {
        if !self.places[at].is_up.replace(false) {
            return;
        }
        self.note();
        let world = self.clone();
        task::spawn_local(async move {
            while world.places[at].mood.get() == Mood::Refusing {
                sleep(OWNER).await;
            }
            world.places[at].is_up.set(true);
            world.note();
        });
    }
}

fn failure(kind: UpstreamErrorKind, outcome: Outcome, text: &'static str) -> UpstreamError {
    UpstreamError::new(kind, outcome, text)
}

/// A key that calls have in common.
pub(super) fn key(number: u64) -> u64 {
    affinity(&number.to_le_bytes())
}
