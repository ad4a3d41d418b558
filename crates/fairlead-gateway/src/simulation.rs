//! The parts that decide about failing servers, put together as a call puts them together, before servers that are not
//! there: balancer, ejection, slow start, breakers, retries with their budget, bulkheads with their adaptive limit.
//!
//! Nothing is imitated but the servers and the links to them ([`world`]): the roster and its review are
//! `fairlead-upstream`'s, the guard, the tries and the pools those of this crate. Time is paused, so an hour takes
//! a moment; every choice comes from a seed, so what happened once happens again. A property that does not hold says with
//! which seed:
//!
//! ```text
//! FAIRLEAD_SIMULATION_SEED=17 cargo nextest run -p fairlead-gateway simulation::
//! ```
//!
//! `FAIRLEAD_SIMULATION_SEEDS=5000` tries that many instead of the usual number. Each property is also shown
//! to fail where what it is about is taken away.

mod balance;
mod breaking;
mod overload;
mod storms;
mod world;

use std::env;
use tokio::{runtime, task::LocalSet};
use world::{Setup, World};

/// Seeds a property is tried with, unless the environment says otherwise.
const SEEDS: u64 = 200;

/// What a property says of one run: `Err` says what was seen instead.
type Held = Result<(), String>;

/// Runs `story` in a world of its own, on paused time.
fn run<T>(setup: Setup, seed: u64, story: impl AsyncFnOnce(&World) -> T) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let world = World::new(setup, seed);
        story(&world).await
    })
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// The property holds with every seed. `cost` is how much longer than others it takes: so many times fewer are tried.
fn holds(cost: u64, property: impl Fn(u64) -> Held) {
    let seeds = match (number("FAIRLEAD_SIMULATION_SEED"), number("FAIRLEAD_SIMULATION_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..(seeds.unwrap_or(SEEDS) / cost).max(1),
    };
    for seed in seeds {
        if let Err(why) = property(seed) {
            panic!("seed {seed}: {why}\n\nagain: FAIRLEAD_SIMULATION_SEED={seed} and the name of this test");
        }
    }
}

/// The property does not hold where what it is about is taken away: not with one of a few seeds.
fn fails(property: impl Fn(u64) -> Held) {
    for seed in 0..5 {
        assert!(property(seed).is_err(), "seed {seed}: it holds all the same, so it proves nothing");
    }
}

/// The same seed is the same story, to the millisecond.
#[test]
fn a_seed_tells_one_story() {
    let story = |seed| {
        let mut setup = Setup::drawn(seed);
        setup.retry = None;
        run(setup, seed, async |world| {
            world.weather(20);
            world.offer(25.0, 20).await;
            (world.trace(), world.counts())
        })
    };
    let (trace, counts) = story(7);
    assert_eq!((trace, counts), story(7));
    assert_ne!(trace, story(8).0);
    assert!(counts.offered > 300 && counts.failed > 0, "{counts:?}");
}
