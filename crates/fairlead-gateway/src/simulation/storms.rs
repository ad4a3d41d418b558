//! When everything fails, retries make it no worse.

use super::{
    Held, fails, holds, run,
    world::{Mood, Setup},
};
use fairlead_core::retry_budget::RESERVE;

/// How much more than it is offered a server gets at most.
const MOST: f64 = 1.2;

/// From one moment on every call fails, in one way or another. What reaches the instances stays under 1.2 times what is
/// offered, but for the reserve of each ten seconds. A connection that is refused counts.
fn no_storm(mut setup: Setup, seed: u64) -> Held {
    const SECONDS: u64 = 20;
    setup.breaker = setup.breaker.filter(|_| seed.is_multiple_of(2));
    run(setup, seed, async |world| {
        let mood = [Mood::Failing(100), Mood::Hung, Mood::Refusing][usize::try_from(seed % 3).expect("small")];
        world.offer(20.0, seed % 5).await;
        world.set_all(mood);
        world.offer(20.0, SECONDS).await;
        world.drained().await;
        let counts = world.counts();
        let reserve = (SECONDS / 10 + 1) * u64::from(RESERVE);
        #[expect(clippy::cast_precision_loss, reason = "calls are few")]
        let most = MOST * counts.offered as f64 + reserve as f64;
        #[expect(clippy::cast_precision_loss, reason = "calls are few")]
        if counts.made as f64 > most || counts.failed == 0 {
            return Err(format!("{mood:?}: {counts:?}, more than {most}"));
        }
        Ok(())
    })
}

fn with_retries(seed: u64) -> Setup {
    let mut setup = Setup::drawn(seed);
    setup.retry = Some(fairlead_config::RetryRule::default());
    setup
}

#[test]
fn retries_are_no_storm() {
    holds(1, |seed| no_storm(with_retries(seed), seed));
}

#[test]
fn without_a_budget_they_are() {
    fails(|seed| {
        let mut setup = with_retries(seed);
        setup.breaker = None;
        setup.retry = setup.retry.map(|rule| fairlead_config::RetryRule { budget: 1000, ..rule });
        no_storm(setup, seed * 3)
    });
}
