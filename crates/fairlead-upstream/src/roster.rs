//! Which instance of a server a call goes to, and which of them get calls at all: the decisions, apart from the links
//! and tasks they are about. What is known of links arrives as [`Reach`], time is the runtime's, and the seed is given.
//! So the gateway and the simulation of it (`simulation` in `fairlead-gateway`) decide by the same lines.

mod review;

pub use review::Review;

use crate::{
    balance::{Balancer, Facts, Set, affinity, places, ramp},
    handle::{Avoid, LeaseError},
    instance::{Instance, Out},
};
use fairlead_config::Balance;
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use std::sync::Arc;
use tokio::time::Instant;

/// What is known of the links of instances, by their places.
pub trait Reach {
    /// Its links can be used or opened, as far as is known.
    fn is_up(&self, place: usize) -> bool;
    /// It could not be reached, and its next try is not due.
    fn is_down(&self, place: usize) -> bool;
}

/// The instances of one server, and how calls are spread over them.
#[derive(Debug)]
pub struct Roster {
    balancer: Balancer,
    instances: Box<[Arc<Instance>]>,
}

/// Where one try of a call was led to so far.
#[derive(Debug, Default)]
pub struct Search {
    tried: Set,
    failed: Option<LeaseError>,
}

impl Roster {
    /// The instances in the order of the configuration.
    #[must_use]
    pub fn new(balance: Balance, instances: Vec<Arc<Instance>>, seed: u64) -> Self {
        Self { balancer: Balancer::new(balance, instances.len(), seed), instances: instances.into() }
    }

    /// The instances.
    #[must_use]
    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// The place for a call; `key` is what keeps calls together.
    ///
    /// # Errors
    /// When there is no instance that it was not led to yet: why the last one could not be had.
    pub fn choose(
        &self,
        search: &mut Search,
        reach: &impl Reach,
        avoid: &Avoid,
        key: Option<u64>,
    ) -> Result<usize, LeaseError> {
        let eligible = self.eligible(reach, avoid) & !search.tried;
        self.pick(eligible, key).ok_or_else(|| search.failed.take().unwrap_or_else(|| self.nobody(avoid).into()))
    }

    fn nobody(&self, avoid: &Avoid) -> UpstreamError {
        let text = "none of its instances takes calls now";
        let held_back =
            || self.instances.iter().filter(|instance| !instance.is_admitted() && !avoid.excludes(instance));
        if held_back().next().is_none() {
            return UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, text);
        }
        let text = format!("{text}: calls to them are held back");
        let mut error = UpstreamError::new(UpstreamErrorKind::HeldBack, Outcome::NotMade, text);
        error.retry_after = held_back().filter_map(|instance| instance.opens_in()).min();
        error
    }

    fn pick(&self, eligible: Set, key: Option<u64>) -> Option<usize> {
        let now = Instant::now();
        let facts = |place: usize| {
            let instance = &self.instances[place];
            Facts {
                in_flight: instance.in_flight(),
                weight: f64::from(instance.weight()),
                ramp: self.ramp(instance, now),
                latency: instance.latency(now).as_secs_f64(),
                success: instance.success(),
                pressure: instance.pressure(now),
                id: affinity(instance.name().as_bytes()),
            }
        };
        self.balancer.pick(eligible, key, facts)
    }

    fn ramp(&self, instance: &Instance, now: Instant) -> f64 {
        ramp(instance.back_for(now), self.balancer.balance().slow_start)
    }

    /// The part of its share an instance gets now, 0 to 1: less while it comes back, nothing while it is out.
    #[must_use]
    pub fn share(&self, place: usize, reach: &impl Reach) -> f64 {
        if self.serves(place, reach) { self.ramp(&self.instances[place], Instant::now()) } else { 0.0 }
    }

    /// Whether the instance gets calls.
    pub(crate) fn serves(&self, place: usize, reach: &impl Reach) -> bool {
        let instance = &self.instances[place];
        reach.is_up(place) && !instance.is_out() && instance.is_admitted()
    }

    /// Whether there is an instance in order that a further try would not avoid.
    #[must_use]
    pub fn has_more(&self, reach: &impl Reach, avoid: &Avoid) -> bool {
        self.pickable(reach, avoid) != 0
    }

    /// The instances that are in order and that the call has not tried.
    fn pickable(&self, reach: &impl Reach, avoid: &Avoid) -> Set {
        let now = Instant::now();
        self.set(|place, instance| {
            let is_in_order = !instance.is_out() && !instance.is_unreachable(now) && instance.is_admitted();
            is_in_order && reach.is_up(place) && !avoid.has(instance) && !avoid.excludes(instance)
        })
    }

    /// The instances a call may go to: the best there are. One that is not in order is better than none, except where
    /// an operator or a breaker says no.
    fn eligible(&self, reach: &impl Reach, avoid: &Avoid) -> Set {
        let pickable = self.pickable(reach, avoid);
        if pickable != 0 {
            let preferred = avoid.preferred().map(|labels| self.set(|_, instance| instance.is_labelled(labels)));
            return preferred.map(|set| set & pickable).filter(|set| *set != 0).unwrap_or(pickable);
        }
        let allowed = |leaving: bool| {
            self.set(|_, instance| {
                let stays = leaving || !instance.is_out_for(Out::LEAVING);
                !instance.is_out_for(Out::DRAINED) && stays && instance.is_admitted() && !avoid.excludes(instance)
            })
        };
        // All leave when a reload changes the server: until calls find the new one, this one takes them.
        let allowed = Some(allowed(false)).filter(|set| *set != 0).unwrap_or_else(|| allowed(true));
        let fresh = allowed & self.set(|_, instance| !avoid.has(instance));
        let up = allowed & self.set(|place, _| reach.is_up(place));
        // Of those that are not up, one whose next try is not due fails at once.
        let starting = fresh & self.set(|place, _| !reach.is_down(place));
        [fresh & up, starting, up, fresh].into_iter().find(|set| *set != 0).unwrap_or(allowed)
    }

    pub(crate) fn set(&self, holds: impl Fn(usize, &Instance) -> bool) -> Set {
        let holding = self.instances.iter().enumerate().filter(|(place, instance)| holds(*place, instance));
        holding.fold(0, |set, (place, _)| set | 1 << place)
    }

    /// The first place in a set.
    pub(crate) fn first(set: Set) -> Option<usize> {
        places(set).next()
    }
}

impl Search {
    /// Notes why the instance at `place` could not be had: another is looked for while nothing was sent and there is
    /// time.
    ///
    /// # Errors
    /// When no other is looked for.
    pub fn failed(&mut self, place: usize, error: LeaseError, deadline: Instant) -> Result<(), LeaseError> {
        match error {
            LeaseError::Upstream(error) if error.outcome == Outcome::NotMade && Instant::now() < deadline => {
                self.tried |= 1 << place;
                self.failed = Some(LeaseError::Upstream(error));
                Ok(())
            }
            error => Err(error),
        }
    }
}
