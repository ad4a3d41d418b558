//! Which instance a call goes to.

use super::{Member, ServerHandle, Several};
use crate::{
    balance::{Facts, Set, affinity, places, ramp},
    handle::{Lease, LeaseError, Purpose, Want},
    instance::Out,
    owner::{link_tag, tag_of},
    view::State,
};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use tokio::time::Instant;

impl ServerHandle {
    /// Picks an instance and takes a link of it; one that cannot be had is left for another, since nothing was sent yet.
    pub(super) async fn lease_of(&self, several: &Several, want: &Want) -> Result<Lease, LeaseError> {
        if let Purpose::Link(id) = want.purpose
            && let Some(place) = self.place_of(id)
        {
            return self.0.members[place].own.lease(want).await;
        }
        let mut tried: Set = 0;
        let mut failed = None;
        loop {
            let eligible = self.eligible(want) & !tried;
            let Some(place) = self.pick(several, eligible, want) else {
                return Err(failed.unwrap_or_else(|| {
                    let text = "none of its instances takes calls now";
                    UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, text).into()
                }));
            };
            match self.0.members[place].own.lease(want).await {
                Err(LeaseError::Upstream(error)) if error.outcome == Outcome::NotMade => {
                    tracing::debug!(server = %self.name(), instance = self.0.members[place].instance().name(), %error, "another instance is tried");
                    tried |= 1 << place;
                    failed = Some(LeaseError::Upstream(error));
                    if Instant::now() >= want.deadline {
                        return Err(failed.expect("invariant: set above"));
                    }
                }
                leased => return leased,
            }
        }
    }

    fn pick(&self, several: &Several, eligible: Set, want: &Want) -> Option<usize> {
        let now = Instant::now();
        let balance = several.balancer.balance();
        let facts = |place: usize| {
            let instance = self.0.members[place].instance();
            Facts {
                in_flight: instance.in_flight(),
                weight: f64::from(instance.weight()),
                ramp: ramp(instance.back_for(now), balance.slow_start),
                latency: instance.latency(now).as_secs_f64(),
                success: instance.success(),
                pressure: instance.pressure(now),
                id: affinity(instance.name().as_bytes()),
            }
        };
        // What is kept apart for somebody is kept on one instance: a session each on all of them would help nobody.
        let kept_apart = want.share.as_ref().map(|share| affinity(share.as_bytes()));
        several.balancer.pick(eligible, want.affinity.or(kept_apart), facts)
    }

    /// The instances that are in order and that the call has not tried.
    pub(super) fn pickable(&self, want: &Want) -> Set {
        let now = Instant::now();
        self.set(|member| {
            let instance = member.instance();
            let is_in_order = !instance.is_out() && !instance.is_unreachable(now) && instance.is_admitted();
            is_in_order && member.is_up() && !want.avoid.has(instance)
        })
    }

    /// The instances a call may go to: the best there are. One that is not in order is better than none, except where
    /// an operator or a breaker says no.
    fn eligible(&self, want: &Want) -> Set {
        let pickable = self.pickable(want);
        if pickable != 0 {
            return pickable;
        }
        let allowed = |leaving: bool| {
            self.set(|member| {
                let instance = member.instance();
                let stays = leaving || !instance.is_out_for(Out::LEAVING);
                !instance.is_out_for(Out::DRAINED) && stays && instance.is_admitted()
            })
        };
        // All leave when a reload changes the server: until calls find the new one, this one takes them.
        let allowed = Some(allowed(false)).filter(|set| *set != 0).unwrap_or_else(|| allowed(true));
        let fresh = allowed & self.set(|member| !want.avoid.has(member.instance()));
        let up = allowed & self.set(|member| member.is_up());
        // Of those that are not up, one whose next try is not due fails at once.
        let starting = fresh & self.set(|member| !matches!(member.own.0.view.load().state, State::Down { .. }));
        [fresh & up, starting, up, fresh].into_iter().find(|set| *set != 0).unwrap_or(allowed)
    }

    fn set(&self, holds: impl Fn(&Member) -> bool) -> Set {
        self.0
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| holds(member))
            .fold(0, |set, (place, _)| set | 1 << place)
    }

    /// The instance a link leads to, or led to: by the link while it is open, else by its number.
    fn place_of(&self, link: u64) -> Option<usize> {
        let has_it = |member: &Member| member.own.links().iter().any(|open| open.id() == link);
        let open = places(self.set(has_it)).next();
        let tag = tag_of(link);
        let by_tag = || places(self.set(|member| link_tag(&member.own.0.server.identity()) == tag)).next();
        open.or_else(by_tag)
    }
}
