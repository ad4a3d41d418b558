//! Tables over the states, and properties over random histories.

use super::*;
use crate::backoff::Dice;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Duration {
    SECOND * u32::try_from(seconds).expect("small")
}

fn breaker() -> Breaker {
    Breaker::new(BreakerSettings::default())
}

/// Makes a call that ends at once.
fn call(breaker: &mut Breaker, now: Duration, verdict: Verdict) {
    let leave = breaker.admit(now).expect("it is let through");
    breaker.report(now, leave, verdict);
}

fn state(breaker: &Breaker, now: Duration) -> BreakerState {
    breaker.read(now).state
}

/// Opens it at `now`.
fn opened(now: Duration) -> Breaker {
    let mut breaker = breaker();
    for _ in 0..5 {
        call(&mut breaker, now, Verdict::Bad);
    }
    breaker
}

#[test]
fn what_opens_it() {
    use Verdict::{Bad, Good};
    let table: &[(&str, &[Verdict], bool)] = &[
        ("nothing", &[], false),
        ("four in a row", &[Bad; 4], false),
        ("five in a row", &[Bad; 5], true),
        ("a success ends a run", &[Bad, Bad, Bad, Bad, Good, Bad, Bad, Bad, Bad], false),
        ("every second of ten", &[Bad, Good, Bad, Good, Bad, Good, Bad, Good, Bad, Good], true),
        ("four of ten", &[Bad, Good, Bad, Good, Bad, Good, Bad, Good, Good, Good], false),
        ("half, but of fewer than ten", &[Bad, Good, Bad, Good, Bad, Good, Bad, Good], false),
    ];
    for (name, history, opens) in table {
        let mut breaker = breaker();
        for verdict in *history {
            call(&mut breaker, at(1), *verdict);
        }
        assert_eq!(state(&breaker, at(1)) == BreakerState::Open, *opens, "{name}");
    }
}

#[test]
fn old_failures_are_forgotten() {
    let mut breaker = breaker();
    for _ in 0..4 {
        call(&mut breaker, at(1), Verdict::Bad);
    }
    for _ in 0..10 {
        call(&mut breaker, at(1), Verdict::Good);
    }
    assert!(breaker.is_calm(at(1)));
    for _ in 0..4 {
        call(&mut breaker, at(1), Verdict::Bad);
    }
    assert_eq!(state(&breaker, at(1)), BreakerState::Closed);
}

#[test]
fn it_opens_tries_and_closes() {
    let mut breaker = opened(at(10));
    assert_eq!(breaker.admit(at(11)), Err(Refused(Some(at(29)))));
    assert_eq!(state(&breaker, at(39)), BreakerState::Open);
    assert_eq!(state(&breaker, at(40)), BreakerState::HalfOpen);
    let leave = breaker.admit(at(40)).expect("a trial");
    assert!(breaker.admit(at(40)).is_ok() && breaker.admit(at(40)).is_ok());
    assert_eq!(breaker.admit(at(40)), Err(Refused(Some(at(60)))), "three trials and no more");
    assert!(breaker.report(at(41), leave, Verdict::Good));
    assert_eq!(state(&breaker, at(41)), BreakerState::Closed);
    assert!(breaker.admit(at(41)).is_ok());
}

#[test]
fn a_failed_trial_opens_it_for_longer_up_to_the_cap() {
    let mut breaker = opened(at(0));
    let mut now = at(0);
    for interval in [30, 60, 120, 240, 300, 300] {
        assert_eq!(breaker.admit(now), Err(Refused(Some(at(interval)))));
        now += at(interval);
        call(&mut breaker, now, Verdict::Bad);
    }
    assert_eq!(breaker.read(now).opened, 7);
}

#[test]
fn a_quiet_time_shortens_the_interval_again() {
    let mut breaker = opened(at(0));
    call(&mut breaker, at(30), Verdict::Bad);
    call(&mut breaker, at(90), Verdict::Good);
    let again = |breaker: &mut Breaker, now| {
        for _ in 0..5 {
            call(breaker, now, Verdict::Bad);
        }
        breaker.read(now).retry_after
    };
    let mut soon = breaker.clone();
    assert_eq!(again(&mut soon, at(91)), Some(at(120)), "it flaps");
    assert_eq!(again(&mut breaker, at(150)), Some(at(30)), "it was well for as long as it had been open");
}

#[test]
fn trials_that_hang_open_it_again_and_abandoned_ones_do_not() {
    let mut hung = opened(at(0));
    assert!(hung.admit(at(30)).is_ok());
    assert_eq!(state(&hung, at(89)), BreakerState::HalfOpen);
    assert_eq!(state(&hung, at(90)), BreakerState::Open);
    let mut unused = opened(at(0));
    let leave = unused.admit(at(30)).expect("a trial");
    unused.abandon(leave);
    assert_eq!(state(&unused, at(1000)), BreakerState::HalfOpen);
    for _ in 0..3 {
        assert!(unused.admit(at(1000)).is_ok(), "the abandoned trial was given back");
    }
    assert!(unused.admit(at(1000)).is_err());
}

#[test]
fn results_of_an_earlier_state_do_not_count() {
    let mut breaker = breaker();
    let early = breaker.admit(at(0)).expect("closed");
    for _ in 0..5 {
        call(&mut breaker, at(1), Verdict::Bad);
    }
    assert!(!breaker.report(at(2), early, Verdict::Good));
    assert_eq!(state(&breaker, at(2)), BreakerState::Open);
    assert!(breaker.admit(at(31)).is_ok());
    assert!(!breaker.report(at(31), early, Verdict::Bad));
    assert_eq!(state(&breaker, at(31)), BreakerState::HalfOpen);
}

#[test]
fn a_busy_server_is_left_alone_and_is_no_failure() {
    let mut breaker = breaker();
    call(&mut breaker, at(0), Verdict::Busy(at(7)));
    assert_eq!(breaker.admit(at(1)), Err(Refused(Some(at(6)))));
    assert_eq!(state(&breaker, at(1)), BreakerState::Open);
    assert!(breaker.admit(at(7)).is_ok());
    assert_eq!(breaker.read(at(7)).failures, 0);
    call(&mut breaker, at(8), Verdict::Busy(at(100_000)));
    assert_eq!(breaker.admit(at(8)), Err(Refused(Some(at(300)))), "nobody closes it for a day");
}

#[test]
fn operators_win() {
    let mut breaker = breaker();
    breaker.force(at(0), Some(Force::Open));
    assert_eq!(breaker.admit(at(100_000)), Err(Refused(None)));
    breaker.force(at(0), Some(Force::Closed));
    for _ in 0..50 {
        call(&mut breaker, at(1), Verdict::Bad);
        assert!(breaker.admit(at(1)).is_ok());
    }
    breaker.force(at(2), None);
    assert_eq!(state(&breaker, at(2)), BreakerState::Closed);
    for _ in 0..5 {
        call(&mut breaker, at(3), Verdict::Bad);
    }
    assert!(breaker.admit(at(3)).is_err());
    assert!(breaker.heal(at(4)));
    assert!(breaker.admit(at(4)).is_ok());
}

#[test]
fn late_ones_count_in_a_row_only() {
    let mut breaker = breaker();
    for _ in 0..100 {
        for _ in 0..4 {
            call(&mut breaker, at(0), Verdict::Late);
        }
        assert!(!breaker.is_calm(at(0)));
        call(&mut breaker, at(0), Verdict::Good);
    }
    assert!(breaker.is_calm(at(0)), "four of five were late, and none failed");
    for _ in 0..5 {
        call(&mut breaker, at(0), Verdict::Late);
    }
    assert_eq!(state(&breaker, at(0)), BreakerState::Open);
    assert_eq!(breaker.would_admit(at(0)), Err(Refused(Some(at(30)))));
    assert!(breaker.would_admit(at(30)).is_ok_and(Leave::is_trial));
    assert_eq!(state(&breaker, at(0)), BreakerState::Open, "who asks only changes nothing");
    call(&mut breaker, at(30), Verdict::Late);
    assert_eq!(state(&breaker, at(30)), BreakerState::Open, "a trial that is late has failed");
}

/// Whatever happens: refusals name a time after which a call is let through, no more trials are out than allowed, and
/// what works is called again within the cap.
#[test]
fn random_histories() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let settings = BreakerSettings::default();
        let mut breaker = Breaker::new(settings);
        let mut now = Duration::ZERO;
        let mut out: Vec<Leave> = Vec::new();
        for _ in 0..300 {
            now += Duration::from_millis(dice.below(8000));
            match breaker.admit(now) {
                Ok(leave) => out.push(leave),
                Err(Refused(wait)) => {
                    let wait = wait.expect("nobody forced it");
                    assert!(wait <= settings.max_open, "seed {seed}: {wait:?}");
                }
            }
            if !out.is_empty() && dice.below(3) > 0 {
                let at = usize::try_from(dice.below(out.len() as u64)).expect("small");
                let leave = out.swap_remove(at);
                match dice.below(8) {
                    0..=3 => drop(breaker.report(now, leave, Verdict::Bad)),
                    4 => breaker.abandon(leave),
                    5 => drop(breaker.report(now, leave, Verdict::Busy(SECOND))),
                    _ => drop(breaker.report(now, leave, Verdict::Good)),
                }
            }
            if let Phase::HalfOpen { out, .. } = breaker.phase {
                assert!(out <= settings.trials, "seed {seed}");
            }
        }
        // Everything that is out is given up, and from now on it works.
        for leave in out {
            breaker.abandon(leave);
        }
        now += settings.max_open + settings.half_open;
        let leave = breaker.admit(now).unwrap_or_else(|refused| panic!("seed {seed}: {refused:?}"));
        breaker.report(now, leave, Verdict::Good);
        assert!(breaker.admit(now).is_ok(), "seed {seed}");
    }
}
