//! Which instance a call goes to: the decision is [`Roster`]'s, here it meets the links.

use super::{Group, ServerHandle, Several};
use crate::{
    balance::affinity,
    handle::{Lease, LeaseError, Purpose, Want},
    owner::{link_tag, tag_of},
    roster::{Reach, Roster, Search},
    view::State,
};

impl Reach for Group {
    fn is_up(&self, place: usize) -> bool {
        self.members[place].is_up()
    }

    fn is_down(&self, place: usize) -> bool {
        matches!(self.members[place].own.0.view.load().state, State::Down { .. })
    }
}

impl ServerHandle {
    /// Picks an instance and takes a link of it; one that cannot be had is left for another, since nothing was sent yet.
    pub(super) async fn lease_of(&self, several: &Several, want: &Want) -> Result<Lease, LeaseError> {
        let members = &self.0.members;
        if let Purpose::Link(id) = want.purpose
            && let Some(place) = self.place_of(&several.roster, id)
        {
            return members[place].own.lease(want).await;
        }
        // What is kept apart for somebody is kept on one instance: a session each on all of them would help nobody.
        let key = want.affinity.or_else(|| want.share.as_ref().map(|share| affinity(share.as_bytes())));
        let mut search = Search::default();
        loop {
            let place = several.roster.choose(&mut search, &*self.0, &want.avoid, key)?;
            match members[place].own.lease(want).await {
                Ok(lease) => return Ok(lease),
                Err(error) => {
                    if let LeaseError::Upstream(error) = &error {
                        tracing::debug!(server = %self.name(), instance = members[place].instance().name(), %error, "no link of the instance can be had");
                    }
                    search.failed(place, error, want.deadline)?;
                }
            }
        }
    }

    /// The instance a link leads to, or led to: by the link while it is open, else by its number.
    fn place_of(&self, roster: &Roster, link: u64) -> Option<usize> {
        let members = &self.0.members;
        let has_it = |place: usize| members[place].own.links().iter().any(|open| open.id() == link);
        let tag = tag_of(link);
        let by_tag = || Roster::first(roster.set(|place, _| link_tag(&members[place].own.0.server.identity()) == tag));
        Roster::first(roster.set(|place, _| has_it(place))).or_else(by_tag)
    }
}
