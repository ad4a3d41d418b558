//! The adaptive limit finds what a server can do, and finds out when it can do more.

use super::{
    Held, fails, holds, run,
    world::{Mood, Setup, World},
};
use fairlead_config::{Bulkhead, Strategy};
use std::time::Duration;
use tokio::time::sleep;

/// Places in the pool.
const PLACES: usize = 40;
/// What the server can do when it can do little.
const LITTLE: usize = 12;

fn setup(adaptive: bool) -> Setup {
    let mut setup = Setup::of(1, Strategy::PeakEwma);
    (setup.breaker, setup.retry) = (None, None);
    setup.bulkhead = Some(Bulkhead {
        name: "crm".into(),
        concurrency: PLACES,
        queue: 1000,
        queue_time: Duration::from_secs(60),
        memory: usize::MAX,
        adaptive,
    });
    setup.latency = (20, 60);
    setup
}

fn limit(world: &World) -> usize {
    world.pool.as_ref().expect("it has one").counts().limit
}

/// The limit on the average of so many seconds.
async fn usual_limit(world: &World, seconds: u64) -> usize {
    let mut sum = 0;
    for _ in 0..seconds * 5 {
        sleep(Duration::from_millis(200)).await;
        sum += limit(world);
    }
    sum / usize::try_from(seconds * 5).expect("small")
}

/// Calm, it stays up, and a failure now and then is no reason to go far down. When the server can do less, it goes there
/// and not to its least; when it can do more again, it comes back.
fn finds_its_way(setup: Setup, seed: u64) -> Held {
    run(setup, seed, async |world| {
        let clients = world.clients(PLACES + 10);
        let calm = usual_limit(world, 3).await;
        world.set(0, Mood::Failing(1));
        let unlucky = usual_limit(world, 6).await;
        world.set(0, Mood::Well);
        world.capacity.set(LITTLE);
        sleep(Duration::from_secs(15)).await;
        let less = usual_limit(world, 10).await;
        world.capacity.set(usize::MAX);
        sleep(Duration::from_secs(4)).await;
        let again = usual_limit(world, 2).await;
        clients.iter().for_each(tokio::task::JoinHandle::abort);
        let is_so = calm == PLACES
            && unlucky > PLACES / 2
            && (LITTLE / 2..=LITTLE + LITTLE / 2).contains(&less)
            && again > PLACES * 9 / 10;
        if is_so { Ok(()) } else { Err(format!("calm {calm}, unlucky {unlucky}, less {less}, again {again}")) }
    })
}

#[test]
fn the_limit_finds_its_way() {
    holds(20, |seed| finds_its_way(setup(true), seed));
}

#[test]
fn one_that_is_fixed_does_not() {
    fails(|seed| finds_its_way(setup(false), seed));
}
