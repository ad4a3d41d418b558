//! Looks from time to time who does worse than its siblings and who came back.

use super::{Reach, Roster};
use crate::{
    ejection::{Ejector, Sample, Verdict},
    instance::Out,
};
use fairlead_config::Ejection;
use fairlead_core::ServerName;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked who serves.
const LOOK: Duration = Duration::from_secs(1);

/// What was found so far.
#[derive(Debug)]
pub struct Review {
    ejector: Option<Ejector>,
    /// Who served when it was looked last.
    serving: Vec<bool>,
    /// Who ever did.
    served: Vec<bool>,
}

impl Review {
    /// Begins with those that serve now. A single instance has no siblings to be compared with.
    #[must_use]
    pub fn new(ejection: Option<&Ejection>, roster: &Roster, reach: &impl Reach) -> Self {
        let count = roster.instances().len();
        let ejector = ejection.filter(|_| count > 1).map(|config| Ejector::new(config.clone(), count));
        let serving = who_serves(roster, reach);
        Self { ejector, served: serving.clone(), serving }
    }

    /// How often to look.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.ejector.as_ref().map_or(LOOK, |ejector| ejector.interval().min(LOOK))
    }

    /// Who served when it was noted last.
    #[must_use]
    pub fn serving(&self) -> &[bool] {
        &self.serving
    }

    /// Compares the instances: one that does worse than its siblings gets no calls for a while. Whether others serve now
    /// than when it was noted last.
    #[must_use]
    pub fn look(&mut self, roster: &Roster, reach: &impl Reach) -> bool {
        if let Some(ejector) = &mut self.ejector {
            let serving: Vec<_> =
                (0..self.serving.len()).map(|place| serves_but_for_ejection(roster, reach, place)).collect();
            let samples = roster.instances().iter().map(|instance| {
                let (ended, failed, times) = instance.counted();
                Sample { ended, failed, times }
            });
            for (place, verdict) in ejector.look(Instant::now(), samples, &serving) {
                let instance = &roster.instances()[place];
                instance.set_out(Out::EJECTED, matches!(verdict, Verdict::Out(_)));
                match verdict {
                    Verdict::Out(why) => instance.set_reason(Some(why)),
                    Verdict::Back => instance.set_reason(None),
                }
            }
        }
        who_serves(roster, reach) != self.serving
    }

    /// Notes who serves: one that serves again gets a growing share.
    pub fn note(&mut self, server: &ServerName, roster: &Roster, reach: &impl Reach) {
        let now = Instant::now();
        let serving = who_serves(roster, reach);
        for (place, (is, was)) in serving.iter().zip(&self.serving).enumerate() {
            let instance = &roster.instances()[place];
            if *is && !*was {
                instance.reached();
                if self.served[place] {
                    instance.came_back(now);
                    tracing::info!(%server, instance = instance.name(), "the instance serves again");
                }
            } else if !*is && *was {
                let why = instance.why_out().unwrap_or_else(|| "it cannot be reached".to_owned());
                tracing::warn!(%server, instance = instance.name(), "the instance gets no calls: {why}");
            }
        }
        for (served, is) in self.served.iter_mut().zip(&serving) {
            *served |= is;
        }
        self.serving = serving;
    }
}

fn who_serves(roster: &Roster, reach: &impl Reach) -> Vec<bool> {
    (0..roster.instances().len()).map(|place| roster.serves(place, reach)).collect()
}

fn serves_but_for_ejection(roster: &Roster, reach: &impl Reach, place: usize) -> bool {
    let instance = &roster.instances()[place];
    let others = [Out::DRAINED, Out::UNREADY, Out::NOT_STARTED, Out::LEAVING];
    reach.is_up(place) && instance.is_admitted() && others.iter().all(|why| !instance.is_out_for(*why))
}
