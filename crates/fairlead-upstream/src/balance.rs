//! Which instance of a server a call goes to. No clock and no source of randomness of its own: both are given, and
//! what is known of the instances arrives as [`Facts`].
//!
//! Every strategy chooses among the instances that may have the call (a set of bits), and each gives one that came back
//! a growing share ([`ramp`]).

pub(crate) mod load;
pub(crate) mod report;

use fairlead_config::{Balance, Strategy};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// The share an instance begins with when it comes back.
const FIRST_SHARE: f64 = 0.1;
/// What is assumed of the load of an instance that reports none.
const UNKNOWN_PRESSURE: f64 = 0.5;
/// The smallest part of its weight an instance that reports to be full keeps: it has to be heard again.
const LEAST_ROOM: f64 = 0.02;

/// How often two others are drawn when neither takes part.
const DRAWS: usize = 4;

/// What a choice may depend on, of one instance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Calls in flight.
    pub(crate) in_flight: usize,
    /// Its configured weight.
    pub(crate) weight: f64,
    /// The part of its share it gets after it came back, 0 to 1.
    pub(crate) ramp: f64,
    /// Its smoothed latency in seconds; 0 while nothing is known.
    pub(crate) latency: f64,
    /// Share of its latest calls that did not fail.
    pub(crate) success: f64,
    /// What it reports of its load, 0 to 1.
    pub(crate) pressure: Option<f64>,
    /// What tells it from the others when keys are hashed.
    pub(crate) id: u64,
}

impl Facts {
    fn share(&self) -> f64 {
        self.weight * self.ramp
    }

    #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
    fn connections(&self) -> f64 {
        self.in_flight as f64 / self.weight
    }
}

/// The part of its share an instance gets that came back `back_for` ago.
pub(crate) fn ramp(back_for: Option<Duration>, slow_start: Duration) -> f64 {
    match back_for {
        Some(back) if back < slow_start => (back.as_secs_f64() / slow_start.as_secs_f64()).max(FIRST_SHARE),
        _ => 1.0,
    }
}

/// A set of instances by their places.
pub(crate) type Set = u64;

/// The places in a set.
pub(crate) fn places(set: Set) -> impl Iterator<Item = usize> {
    (0..Set::BITS as usize).filter(move |place| set & (1 << place) != 0)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Balancer {
    balance: Balance,
    turn: AtomicUsize,
    /// What each instance has saved up, of the smooth weighted round.
    turns: Mutex<Vec<f64>>,
    random: AtomicU64,
}

impl Balancer {
    /// A balancer for so many instances.
    pub(crate) fn new(balance: Balance, instances: usize, seed: u64) -> Self {
        Self {
            balance,
            turn: AtomicUsize::new(0),
            turns: Mutex::new(vec![0.0; instances]),
            random: AtomicU64::new(seed),
        }
    }

    /// How calls are spread.
    pub(crate) fn balance(&self) -> &Balance {
        &self.balance
    }

    /// The place of the instance for a call: one of `eligible`. `affinity` is the hash of what keeps calls together.
    pub(crate) fn pick(&self, eligible: Set, affinity: Option<u64>, facts: impl Fn(usize) -> Facts) -> Option<usize> {
        if eligible.count_ones() < 2 {
            return places(eligible).next();
        }
        // What belongs together stays together, however the rest is spread.
        if let Some(key) = affinity {
            return self.sticky(eligible, key, &facts);
        }
        match self.balance.strategy {
            Strategy::RoundRobin => self.in_turn(eligible, &facts),
            Strategy::WeightedRoundRobin => self.smooth(eligible, |place| facts(place).share()),
            Strategy::LeastConnections => self.least(eligible, &facts),
            Strategy::PeakEwma | Strategy::Sticky => self.better_of_two(eligible, &facts),
            Strategy::Random => self.weighted(eligible, &facts),
            Strategy::Resource => self.smooth(eligible, |place| room(&facts(place))),
            Strategy::Composite => self.composite(eligible, &facts),
        }
    }

    /// SplitMix64.
    fn next(&self) -> u64 {
        mix(self.random.fetch_add(GOLDEN, Ordering::Relaxed))
    }

    /// From 0 to below 1.
    fn fraction(&self) -> f64 {
        unit(self.next())
    }

    fn any(&self, eligible: Set) -> Option<usize> {
        let count = u64::from(eligible.count_ones());
        let nth = usize::try_from(self.next() % count.max(1)).unwrap_or(0);
        places(eligible).nth(nth)
    }

    fn in_turn(&self, eligible: Set, facts: &impl Fn(usize) -> Facts) -> Option<usize> {
        let count = eligible.count_ones() as usize;
        let mut chosen = None;
        for _ in 0..count {
            chosen = places(eligible).nth(self.turn.fetch_add(1, Ordering::Relaxed) % count);
            if self.takes_part(&facts(chosen?)) {
                break;
            }
        }
        chosen
    }

    /// Smooth weighted round robin: everybody saves up its weight, the richest is chosen and pays for all.
    fn smooth(&self, eligible: Set, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut richest, mut total): (Option<(usize, f64)>, f64) = (None, 0.0);
        for place in places(eligible) {
            let weight = weight(place);
            let saved = turns.get_mut(place)?;
            *saved += weight;
            total += weight;
            if richest.is_none_or(|(_, most)| *saved > most) {
                richest = Some((place, *saved));
            }
        }
        let (place, _) = richest?;
        turns[place] -= total;
        // What is out neither saves up nor owes.
        for (place, saved) in turns.iter_mut().enumerate() {
            if eligible & (1 << place) == 0 {
                *saved = 0.0;
            }
        }
        Some(place)
    }

    /// Whether it is its turn: one that came back lets some pass, so that its share grows whatever it would be.
    fn takes_part(&self, facts: &Facts) -> bool {
        facts.ramp >= 1.0 || self.fraction() < facts.ramp
    }

    /// The one with the fewest calls for its weight; of equals any, by weight.
    fn least(&self, eligible: Set, facts: &impl Fn(usize) -> Facts) -> Option<usize> {
        let (mut fewest, mut equals, mut weights) = (f64::INFINITY, 0, 0.0);
        for turns_pass in [true, false] {
            for place in places(eligible) {
                let facts = facts(place);
                if turns_pass && !self.takes_part(&facts) {
                    continue;
                }
                let calls = facts.connections();
                if calls < fewest {
                    (fewest, equals, weights) = (calls, 0, 0.0);
                }
                if calls <= fewest {
                    (equals, weights) = (equals | 1 << place, weights + facts.weight);
                }
            }
            if equals != 0 {
                break;
            }
        }
        let mut left = self.fraction() * weights;
        let mut chosen = places(equals);
        let by_weight = chosen.find(|place| {
            left -= facts(*place).weight;
            left < 0.0
        });
        by_weight.or_else(|| places(equals).next())
    }

    /// Power of two choices: the quicker of two at random.
    fn better_of_two(&self, eligible: Set, facts: &impl Fn(usize) -> Facts) -> Option<usize> {
        let mut drawn = None;
        for _ in 0..DRAWS {
            let one = self.any(eligible)?;
            let other = self.any(eligible & !(1 << one))?;
            let (a, b) = (facts(one), facts(other));
            let better = if quicker(&a, &b) { one } else { other };
            match (self.takes_part(&a), self.takes_part(&b)) {
                (true, true) => return Some(better),
                (true, false) => return Some(one),
                (false, true) => return Some(other),
                (false, false) => drawn = Some(better),
            }
        }
        drawn
    }

    fn weighted(&self, eligible: Set, facts: &impl Fn(usize) -> Facts) -> Option<usize> {
        let total: f64 = places(eligible).map(|place| facts(place).share()).sum();
        let mut left = self.fraction() * total;
        let mut last = None;
        for place in places(eligible) {
            left -= facts(place).share();
            last = Some(place);
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// Weighted rendezvous hashing with bounded loads: every key has an order of instances of its own, and goes to the
    /// first that is not too full compared with all. An instance that goes or comes moves only the keys it has or gets.
    fn sticky(&self, eligible: Set, key: u64, facts: &impl Fn(usize) -> Facts) -> Option<usize> {
        let (mut calls, mut shares) = (1.0, 0.0);
        let mut best: Option<(usize, f64)> = None;
        let mut roomy: Option<(usize, f64)> = None;
        #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
        for place in places(eligible) {
            let facts = facts(place);
            calls += facts.in_flight as f64;
            shares += facts.share();
        }
        let bound = f64::from(self.balance.bound) / 100.0;
        for place in places(eligible) {
            let facts = facts(place);
            let score = facts.share() / -unit(mix(key ^ mix(facts.id))).max(f64::MIN_POSITIVE).ln();
            if best.is_none_or(|(_, most)| score > most) {
                best = Some((place, score));
            }
            #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
            let has_room = facts.in_flight as f64 + 1.0 <= (bound * calls * facts.share() / shares).ceil();
            if has_room && roomy.is_none_or(|(_, most)| score > most) {
                roomy = Some((place, score));
            }
        }
        roomy.or(best).map(|(place, _)| place)
    }

    fn composite(&self, eligible: Set, facts: &impl Fn(usize) -> Facts) -> Option<usize> {
        let known = places(eligible).map(|place| facts(place).latency).filter(|latency| *latency > 0.0);
        let fastest = known.fold(f64::INFINITY, f64::min);
        let (health, latency) = (f64::from(self.balance.health), f64::from(self.balance.latency));
        self.smooth(eligible, |place| {
            let facts = facts(place);
            let quickness = if facts.latency > 0.0 { fastest / facts.latency } else { 1.0 };
            facts.share() * (health * facts.success + latency * quickness) / (health + latency)
        })
    }
}

/// Whether calls end sooner at `a`: latency with the calls that wait there. While one was never heard of, latency says
/// nothing.
fn quicker(a: &Facts, b: &Facts) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
    let calls = |facts: &Facts| (facts.in_flight as f64 + 1.0) / facts.weight;
    let (one, other) = (calls(a), calls(b));
    if a.latency > 0.0 && b.latency > 0.0 { one * a.latency <= other * b.latency } else { one <= other }
}

/// What is left of an instance's share by what it reports.
fn room(facts: &Facts) -> f64 {
    facts.share() * (1.0 - facts.pressure.unwrap_or(UNKNOWN_PRESSURE)).max(LEAST_ROOM)
}

/// The step of SplitMix64: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finish of SplitMix64: every bit depends on every bit.
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(GOLDEN);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hash of what keeps calls together; the same in every process.
#[must_use]
pub fn affinity(of: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(of.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// From 0 to below 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit(number: u64) -> f64 {
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
