//! Who gets how many calls: while all is well, while something comes back, and where calls belong together.

use super::{
    Held, fails, holds, run,
    world::{Mood, STRATEGIES, Setup, World, key},
};
use fairlead_config::Strategy;
use fairlead_core::Dice;
use std::{collections::HashMap, time::Duration};
use tokio::time::sleep;

/// Of its fair share an instance that is well gets at least this part.
const LEAST: f64 = 0.5;
/// One that is back has at least this part, one that is coming back at most that.
const WHOLE: f64 = 0.65;
const COMING: f64 = 0.75;

fn strategy(seed: u64) -> Strategy {
    STRATEGIES[usize::try_from(seed % STRATEGIES.len() as u64).expect("small")]
}

/// What each instance got, as parts of its fair share.
fn parts(served: &[u64], weights: &[u32]) -> Vec<f64> {
    let (all, whole) = (served.iter().sum::<u64>(), weights.iter().sum::<u32>());
    #[expect(clippy::cast_precision_loss, reason = "calls are few")]
    let part =
        |(served, weight): (&u64, &u32)| *served as f64 * f64::from(whole) / (all.max(1) as f64 * f64::from(*weight));
    served.iter().zip(weights).map(part).collect()
}

fn all_have(parts: &[f64], least: f64, what: &str) -> Held {
    if parts.iter().all(|part| *part >= least) { Ok(()) } else { Err(format!("{what}: {parts:.2?} of their shares")) }
}

/// Every instance that is well gets its share; also the one that failed a few calls a while ago, too few to be ejected.
fn nobody_starves(setup: Setup, seed: u64) -> Held {
    let (weights, strategy) = (setup.weights.clone(), setup.balance.strategy);
    run(setup, seed, async |world| {
        let served = world.served_in(world.offer(40.0, 15)).await;
        all_have(&parts(&served, &weights), LEAST, &format!("{strategy:?}, calm"))?;
        world.set(0, Mood::Failing(100));
        let before = world.served()[0];
        let _ = world.until(5, || world.served()[0] > before + 1).await;
        world.set(0, Mood::Well);
        world.offer(40.0, 40).await;
        let served = world.served_in(world.offer(40.0, 15)).await;
        all_have(&parts(&served, &weights), LEAST, &format!("{strategy:?}, after a few failures"))
    })
}

/// Instances of which some are larger, where the strategy goes by that alone.
fn starving(seed: u64) -> Setup {
    let mut dice = Dice::new(seed);
    let mut setup = Setup::of(usize::try_from(2 + dice.below(3)).expect("small"), strategy(seed));
    setup.breaker = None;
    let goes_by_weight = [Strategy::WeightedRoundRobin, Strategy::Random, Strategy::Resource, Strategy::Composite];
    if goes_by_weight.contains(&setup.balance.strategy) {
        setup.weights.iter_mut().for_each(|weight| *weight = u32::try_from(1 + dice.below(4)).expect("small"));
    }
    setup
}

#[test]
fn no_instance_starves() {
    holds(3, |seed| nobody_starves(starving(seed), seed));
}

#[test]
fn where_calls_have_one_key_all_but_one_do() {
    fails(|seed| {
        let setup = Setup::of(3, Strategy::Sticky);
        run(setup, seed, async |world| {
            let served = world.served_in(world.offer_with(10.0, 15, |_| Some(key(seed)))).await;
            all_have(&parts(&served, &[1; 3]), LEAST, "one key")
        })
    });
}

/// An instance that was bad and is well again gets a growing share from when it serves, and has all of it when its slow
/// start is over.
fn comes_back(setup: Setup, whole_after: Duration, seed: u64) -> Held {
    let (weights, strategy) = (setup.weights.clone(), setup.balance.strategy);
    run(setup, seed, async |world| {
        world.keep_offering(50.0);
        sleep(Duration::from_secs(5)).await;
        let mood = [Mood::Failing(100), Mood::Refusing, Mood::Hung][usize::try_from(seed / 7 % 3).expect("small")];
        let what = format!("{strategy:?} after {mood:?}");
        world.set(0, mood);
        world.until(60, || world.share(0) == 0.0).await.map_err(|_| format!("{what}: it was never left alone"))?;
        world.set(0, Mood::Well);
        world.until(60, || world.share(0) > 0.0).await.map_err(|_| format!("{what}: it was never tried again"))?;
        let third = whole_after / 3;
        let first = parts(&world.served_in(sleep(third)).await, &weights)[0];
        sleep(third).await;
        let last = parts(&world.served_in(sleep(third)).await, &weights)[0];
        let after = parts(&world.served_in(sleep(Duration::from_secs(15))).await, &weights)[0];
        if first > COMING || last < first || after < WHOLE {
            return Err(format!("{what}: {first:.2}, {last:.2}, then {after:.2} of its share"));
        }
        Ok(())
    })
}

fn coming_back(seed: u64) -> Setup {
    let mut setup = Setup::of(usize::try_from(2 + seed % 3).expect("small"), strategy(seed));
    setup.breaker = setup.breaker.filter(|_| seed.is_multiple_of(2));
    setup
}

#[test]
fn who_comes_back_is_back_within_its_slow_start() {
    holds(4, |seed| {
        let setup = coming_back(seed);
        let slow_start = setup.balance.slow_start;
        comes_back(setup, slow_start, seed)
    });
}

#[test]
fn with_a_longer_one_it_is_not() {
    fails(|seed| {
        let mut setup = coming_back(seed);
        let expected = setup.balance.slow_start;
        setup.balance.slow_start = Duration::from_secs(3600);
        comes_back(setup, expected, seed)
    });
}

/// Calls with the same key go to the same instance while nothing comes or goes; how many are elsewhere.
async fn strays(world: &World, homes: &mut HashMap<u64, usize>, keys: u64, rounds: u64) -> u64 {
    let mut strays = 0;
    for round in 0..rounds {
        for number in 0..keys {
            let at = world.call(Some(key(number))).await.expect("all is well");
            strays += u64::from(*homes.entry(number).or_insert(at) != at);
            if round % 8 == 0 {
                sleep(Duration::from_millis(world.below(400))).await;
            }
        }
    }
    strays
}

fn sticks(keyed: bool, seed: u64) -> Held {
    let mut setup = Setup::of(usize::try_from(2 + seed % 5).expect("small"), Strategy::Sticky);
    setup.latency = (1, 3);
    run(setup, seed, async |world| {
        let mut homes = HashMap::new();
        let strays_of = async |homes: &mut HashMap<u64, usize>| {
            if keyed {
                return strays(world, homes, 20, 6).await;
            }
            let mut strays = 0;
            for round in 0..60 {
                let at = world.call(None).await.expect("all is well");
                strays += u64::from(*homes.entry(round % 5).or_insert(at) != at);
            }
            strays
        };
        match strays_of(&mut homes).await {
            0 => {}
            strays => return Err(format!("{strays} calls were elsewhere, and nothing had changed")),
        }
        // One goes: only its own keys move.
        let gone = homes[&0];
        world.set(gone, Mood::Refusing);
        let stayed: Vec<_> = homes.iter().filter(|(_, at)| **at != gone).map(|(key, at)| (*key, *at)).collect();
        for (number, home) in stayed {
            let at = world.call(Some(key(number))).await.expect("others are well");
            if at != home {
                return Err(format!("key {number} moved from {home} to {at} because {gone} went"));
            }
        }
        Ok(())
    })
}

#[test]
fn what_belongs_together_stays_together() {
    holds(1, |seed| sticks(true, seed));
}

#[test]
fn without_a_key_it_does_not() {
    fails(|seed| sticks(false, seed));
}
