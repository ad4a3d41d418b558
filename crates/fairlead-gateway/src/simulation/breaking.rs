//! Breakers open, try, and close; ejection leaves somebody; one bad instance costs its server little.

use super::{
    Held, fails, holds, run,
    world::{Mood, Setup, World},
};
use fairlead_config::Strategy;
use fairlead_core::BreakerState;
use std::time::Duration;
use tokio::time::sleep;

fn state(world: &World) -> BreakerState {
    let reading = world.guard.as_ref().expect("it has one").read();
    reading.breaker.expect("it has one").state
}

/// What reached the only instance while `story` went on.
async fn reached(world: &World, seconds: u64) -> u64 {
    world.served_in(sleep(Duration::from_secs(seconds))).await[0]
}

/// A server that fails is left alone for its time, tried with at most three calls, left alone for twice as long when
/// they hang, and called again when one is answered.
fn opens_and_closes(setup: Setup, seed: u64) -> Held {
    run(setup, seed, async |world| {
        world.keep_offering(30.0);
        sleep(Duration::from_secs(5)).await;
        let mood = [Mood::Failing(100), Mood::Hung][usize::try_from(seed % 2).expect("small")];
        world.set(0, mood);
        let before = world.served()[0];
        world.until(20, || state(world) == BreakerState::Open).await.map_err(|why| format!("{mood:?}: {why}"))?;
        // Those that hang until they are given up: thirty a second, for a second each.
        let until_open = world.served()[0] - before;
        if until_open > 80 {
            return Err(format!("{mood:?}: it took {until_open} calls to open"));
        }
        world.set(0, Mood::Hung);
        match reached(world, 28).await {
            0 => {}
            calls => return Err(format!("{calls} calls were made while it was open")),
        }
        world.until(5, || world.busy() > 0).await.map_err(|why| format!("no trial: {why}"))?;
        sleep(Duration::from_millis(300)).await;
        if world.busy() > 3 {
            return Err(format!("{} trials at once", world.busy()));
        }
        world.until(5, || state(world) == BreakerState::Open).await.map_err(|why| format!("after trials: {why}"))?;
        world.set(0, Mood::Well);
        match reached(world, 55).await {
            0 => {}
            calls => return Err(format!("{calls} calls were made while it was open again")),
        }
        world.until(10, || state(world) == BreakerState::Closed).await.map_err(|why| format!("well again: {why}"))?;
        let calls = reached(world, 10).await;
        if calls < 200 {
            return Err(format!("closed, and only {calls} of about 300 calls were made"));
        }
        Ok(())
    })
}

#[test]
fn a_breaker_opens_tries_and_closes() {
    holds(4, |seed| opens_and_closes(Setup::of(1, Strategy::PeakEwma), seed));
}

fn with_settings(change: impl Fn(&mut fairlead_core::BreakerSettings)) -> Setup {
    let mut setup = Setup::of(1, Strategy::PeakEwma);
    change(&mut setup.breaker.as_mut().expect("it has one").settings);
    setup
}

#[test]
fn with_other_settings_it_does_not() {
    fails(|seed| opens_and_closes(with_settings(|settings| settings.open = Duration::from_secs(1)), seed));
    fails(|seed| opens_and_closes(with_settings(|settings| settings.trials = 50), seed));
    fails(|seed| {
        opens_and_closes(with_settings(|settings| settings.consecutive = 1000), seed * 2 + 1).and_then(|()| {
            opens_and_closes(with_settings(|settings| (settings.consecutive, settings.percent) = (1000, 101)), seed)
        })
    });
}

/// In bad weather somebody always serves: of those that would serve but for it, ejection leaves one.
fn somebody_serves(most: Option<usize>, seed: u64) -> Held {
    run(Setup::drawn(seed), seed, async |world| {
        world.weather(40);
        world.offer(50.0, 40).await;
        let ejected = world.most_ejected()?;
        match most {
            Some(most) if ejected > most => Err(format!("{ejected} were ejected at once")),
            _ => Ok(()),
        }
    })
}

#[test]
fn ejection_leaves_somebody() {
    holds(2, |seed| somebody_serves(None, seed));
}

/// The weather is bad enough for it to matter.
#[test]
fn ejection_happens() {
    let ejected = (0..10).filter(|seed| somebody_serves(Some(0), *seed).is_err()).count();
    assert!(ejected >= 5, "in {ejected} of 10 runs");
}

/// While one of several instances fails, calls that may be repeated are answered by the others, and none is held back.
fn others_answer(setup: Setup, seed: u64) -> Held {
    run(setup, seed, async |world| {
        world.offer(50.0, 5).await;
        let mood = [Mood::Failing(100), Mood::Failing(60), Mood::Refusing][usize::try_from(seed % 3).expect("small")];
        world.set(0, mood);
        world.offer(50.0, 15).await;
        let before = world.counts();
        world.offer(50.0, 25).await;
        let (offered, failed) = (world.counts().offered - before.offered, world.counts().failed - before.failed);
        let held_back = world.counts().held_back;
        if failed * 100 > offered || held_back > 0 {
            return Err(format!("{mood:?}: {failed} of {offered} failed, {held_back} were held back in all"));
        }
        Ok(())
    })
}

#[test]
fn one_bad_instance_costs_its_server_little() {
    holds(2, |seed| {
        let strategy = Setup::drawn(seed).balance.strategy;
        let mut setup = Setup::of(usize::try_from(3 + seed % 3).expect("small"), strategy);
        // Breakers alone do it, too.
        setup.ejection = setup.ejection.filter(|_| seed.is_multiple_of(2));
        others_answer(setup, seed)
    });
}

#[test]
fn with_one_breaker_for_all_it_would() {
    fails(|seed| {
        let mut setup = Setup::of(2, Strategy::RoundRobin);
        (setup.apart, setup.ejection) = (false, None);
        others_answer(setup, seed * 3)
    });
}
