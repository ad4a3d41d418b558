//! Every strategy over a seeded stream of calls.

use super::*;
use fairlead_config::{Instances, StickyBy};

const CALLS: usize = 10_000;

fn balance(strategy: Strategy) -> Balance {
    Balance { strategy, ..Instances::default().balance }
}

/// Instances that answer after a fixed number of further calls, or fail.
struct House {
    balancer: Balancer,
    facts: Vec<Facts>,
    /// For how many calls each keeps one of its own in flight.
    slow: Vec<usize>,
    ends: std::collections::VecDeque<(usize, usize)>,
    got: Vec<usize>,
    now: usize,
}

impl House {
    fn new(strategy: Strategy, weights: &[f64], seed: u64) -> Self {
        Self::with(balance(strategy), weights, seed)
    }

    fn with(balance: Balance, weights: &[f64], seed: u64) -> Self {
        let fact = |(place, weight): (usize, &f64)| Facts {
            in_flight: 0,
            weight: *weight,
            ramp: 1.0,
            latency: 0.0,
            success: 1.0,
            pressure: None,
            id: place as u64 + 100,
        };
        Self {
            balancer: Balancer::new(balance, weights.len(), seed),
            facts: weights.iter().enumerate().map(fact).collect(),
            slow: vec![1; weights.len()],
            ends: std::collections::VecDeque::new(),
            got: vec![0; weights.len()],
            now: 0,
        }
    }

    fn all(&self) -> Set {
        (1 << self.facts.len()) - 1
    }

    fn call(&mut self, eligible: Set, affinity: Option<u64>) -> usize {
        self.now += 1;
        let now = self.now;
        let facts = &mut self.facts;
        self.ends.retain(|(place, end)| {
            if *end <= now {
                facts[*place].in_flight -= 1;
            }
            *end > now
        });
        let place = self.balancer.pick(eligible, affinity, |place| self.facts[place]).unwrap();
        assert!(eligible & (1 << place) != 0, "only who may have it");
        self.facts[place].in_flight += 1;
        self.facts[place].latency = self.slow[place] as f64 / 1000.0;
        self.ends.push_back((place, now + self.slow[place]));
        self.got[place] += 1;
        place
    }

    fn run(&mut self, calls: usize) -> Vec<f64> {
        self.got.fill(0);
        for _ in 0..calls {
            let all = self.all();
            self.call(all, None);
        }
        self.got.iter().map(|got| *got as f64 / calls as f64).collect()
    }
}

fn near(got: &[f64], wanted: &[f64], by: f64) -> bool {
    got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() <= by)
}

const ALL: [Strategy; 8] = [
    Strategy::RoundRobin,
    Strategy::WeightedRoundRobin,
    Strategy::LeastConnections,
    Strategy::PeakEwma,
    Strategy::Random,
    Strategy::Sticky,
    Strategy::Resource,
    Strategy::Composite,
];

#[test]
fn equal_instances_get_equal_shares() {
    for seed in 0..5 {
        for strategy in ALL {
            let got = House::new(strategy, &[1.0; 3], seed).run(CALLS);
            assert!(near(&got, &[0.333; 3], 0.03), "{strategy:?} {seed}: {got:?}");
        }
    }
}

#[test]
fn weights_count_where_they_should() {
    let weights = [1.0, 2.0, 5.0];
    for (strategy, wanted) in [
        (Strategy::RoundRobin, [0.333, 0.333, 0.333]),
        (Strategy::WeightedRoundRobin, [0.125, 0.25, 0.625]),
        (Strategy::Random, [0.125, 0.25, 0.625]),
        (Strategy::Composite, [0.125, 0.25, 0.625]),
    ] {
        let got = House::new(strategy, &weights, 7).run(CALLS);
        assert!(near(&got, &wanted, 0.02), "{strategy:?}: {got:?}");
    }
    // With calls that stay, connections settle by weight.
    let mut house = House::new(Strategy::LeastConnections, &weights, 7);
    house.slow = vec![80; 3];
    let got = house.run(CALLS);
    assert!(near(&got, &[0.125, 0.25, 0.625], 0.03), "{got:?}");
}

#[test]
fn smooth_rounds_never_cluster() {
    let mut house = House::new(Strategy::WeightedRoundRobin, &[5.0, 1.0, 1.0], 0);
    let round: Vec<_> = (0..7).map(|_| house.call(0b111, None)).collect();
    assert_eq!(round, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn a_slow_instance_gets_less_and_never_nothing() {
    for strategy in [Strategy::PeakEwma, Strategy::LeastConnections, Strategy::Composite] {
        let mut house = House::new(strategy, &[1.0; 3], 3);
        house.slow = vec![2, 2, 60];
        let got = house.run(CALLS);
        assert!(got[2] < 0.3 && got[2] > 0.0, "{strategy:?}: {got:?}");
        assert!((got[0] - got[1]).abs() < 0.05, "{strategy:?}: {got:?}");
    }
}

#[test]
fn health_counts_seventy_and_latency_thirty() {
    let mut house = House::new(Strategy::Composite, &[1.0; 2], 3);
    house.facts[1].success = 0.0;
    let got = house.run(CALLS);
    // 1 against 0.3.
    assert!(near(&got, &[0.769, 0.231], 0.01), "{got:?}");
    let mut house = House::new(Strategy::Composite, &[1.0; 2], 3);
    house.slow = vec![1, 10];
    let got = house.run(CALLS);
    // 1 against 0.7 + 0.03.
    assert!(near(&got, &[0.578, 0.422], 0.01), "{got:?}");
}

#[test]
fn the_instance_that_says_it_is_full_gets_little() {
    let mut house = House::new(Strategy::Resource, &[1.0; 3], 3);
    house.slow = vec![20; 3];
    house.facts[0].pressure = Some(0.1);
    house.facts[1].pressure = Some(0.1);
    house.facts[2].pressure = Some(0.95);
    let got = house.run(CALLS);
    assert!(got[2] < 0.06 && got[2] > 0.0, "{got:?}");
}

#[test]
fn one_that_came_back_gets_a_growing_share() {
    assert_eq!(ramp(None, Duration::from_secs(30)), 1.0);
    assert_eq!(ramp(Some(Duration::ZERO), Duration::from_secs(30)), FIRST_SHARE);
    assert_eq!(ramp(Some(Duration::from_secs(15)), Duration::from_secs(30)), 0.5);
    assert_eq!(ramp(Some(Duration::from_secs(30)), Duration::from_secs(30)), 1.0);
    assert_eq!(ramp(Some(Duration::ZERO), Duration::ZERO), 1.0, "switched off");
    for strategy in ALL {
        let mut last = 0.0;
        for ramp in [0.1, 0.5, 1.0] {
            let mut house = House::new(strategy, &[1.0; 3], 11);
            house.slow = vec![20; 3];
            house.facts[0].ramp = ramp;
            let share = house.run(CALLS)[0];
            assert!(share > last, "{strategy:?} at {ramp}: {share} after {last}");
            assert!(ramp >= 1.0 || share < 0.30, "{strategy:?} at {ramp}: {share}");
            last = share;
        }
        assert!(last > 0.3, "{strategy:?}: {last}");
    }
}

#[test]
fn one_that_is_out_gets_nothing_and_owes_nothing() {
    for strategy in ALL {
        let mut house = House::new(strategy, &[1.0; 3], 5);
        for _ in 0..1000 {
            assert_ne!(house.call(0b101, None), 1, "{strategy:?}");
        }
        let got = house.run(CALLS);
        assert!(near(&got, &[0.333; 3], 0.03), "{strategy:?}: {got:?}");
        assert_eq!(house.call(0b010, None), 1);
        assert_eq!(house.balancer.pick(0, None, |_| unreachable!()), None);
    }
}

#[test]
fn keys_stay_where_they_are() {
    let by = StickyBy::Argument(None);
    let mut house = House::with(Balance { by, ..balance(Strategy::Sticky) }, &[1.0; 4], 5);
    let keys: Vec<u64> = (0..2000_u64).map(|key| affinity(&key.to_le_bytes())).collect();
    house.slow = vec![1; 4];
    let home: Vec<_> = keys.iter().map(|key| house.call(0b1111, Some(*key))).collect();
    let count = |place| home.iter().filter(|home| **home == place).count();
    assert!((0..4).all(|place| (400..600).contains(&count(place))), "spread over all");
    for (key, home) in keys.iter().zip(&home) {
        assert_eq!(house.call(0b1111, Some(*key)), *home, "always the same");
        if *home != 2 {
            assert_eq!(house.call(0b1011, Some(*key)), *home, "another one that goes moves nobody else's");
        }
    }
}

#[test]
fn a_hot_key_overflows_instead_of_drowning_its_instance() {
    let mut house = House::new(Strategy::Sticky, &[1.0; 4], 5);
    house.slow = vec![100; 4];
    let key = affinity(b"hot");
    let mut most = 0;
    for _ in 0..1000 {
        house.call(0b1111, Some(key));
        most = most.max(house.facts.iter().map(|facts| facts.in_flight).max().unwrap());
    }
    // 100 in flight over four: 25 each, and a quarter more.
    assert!(most <= 32, "{most}");
}

#[test]
fn what_belongs_together_stays_together_under_every_strategy() {
    for strategy in ALL {
        let mut house = House::new(strategy, &[1.0; 3], 5);
        let first = house.call(0b111, Some(42));
        for _ in 0..50 {
            assert_eq!(house.call(0b111, Some(42)), first, "{strategy:?}");
        }
    }
}
