//! Exact under concurrency, nobody pays for another, bounded.

use super::*;
use crate::{Level, Limit};
use fairlead_config::{Period, Quota, Rate};

fn rate(name: &str, count: u32, shape: Shape) -> Limit {
    let rate = Rate { count, per: Duration::from_secs(60), burst: count, shape };
    Limit { name: name.into(), level: Level::Caller, measure: Measure::Rate(rate) }
}

fn quota(units: u64, per: Period) -> Limit {
    Limit { name: "quota".into(), level: Level::Tenant, measure: Measure::Quota(Quota { units, per }) }
}

fn of_level(level: Level, limit: Limit) -> Limit {
    Limit { level, ..limit }
}

fn at(seconds: u64) -> Moment {
    Moment { since: Duration::from_secs(seconds), unix_ms: seconds * 1000 }
}

fn ask<'a>(limit: &'a Limit, key: &'a str, cost: u32) -> Ask<'a> {
    Ask { limit, key, cost, permille: 1000 }
}

fn take(ledger: &Ledger, asks: &[Ask<'_>], at: Moment) -> Result<(), Denied> {
    match ledger.take(asks, at) {
        Verdict::Now(result) => result,
        Verdict::Later(_) => panic!("it is decided here"),
    }
}

#[test]
fn exactly_the_allowed_number_passes_however_many_ask_at_once() {
    let limits = [rate("bucket", 1000, Shape::Bucket), rate("window", 1000, Shape::Window), quota(1000, Period::Day)];
    for limit in limits {
        let (ledger, limit) = (Arc::new(Ledger::new(100)), Arc::new(limit));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (ledger, limit) = (Arc::clone(&ledger), Arc::clone(&limit));
                std::thread::spawn(move || {
                    (0..500).filter(|_| take(&ledger, &[ask(&limit, "a", 1)], at(1)).is_ok()).count()
                })
            })
            .collect();
        let passed: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!(passed, 1000, "{}", limit.name);
    }
}

#[test]
fn callers_do_not_pay_for_each_other() {
    let (ledger, limit) = (Ledger::new(100), rate("caller", 2, Shape::Bucket));
    for _ in 0..2 {
        take(&ledger, &[ask(&limit, "a", 1)], at(0)).unwrap();
    }
    assert!(take(&ledger, &[ask(&limit, "a", 1)], at(0)).is_err());
    take(&ledger, &[ask(&limit, "b", 1)], at(0)).unwrap();
}

#[test]
fn what_one_limit_denies_no_other_charges() {
    let ledger = Ledger::new(100);
    for shape in [Shape::Bucket, Shape::Window] {
        let (wide, narrow) = (rate(&format!("wide {shape:?}"), 3, shape), rate(&format!("narrow {shape:?}"), 1, shape));
        take(&ledger, &[ask(&wide, "a", 1), ask(&narrow, "", 1)], at(0)).unwrap();
        for _ in 0..10 {
            let denied = take(&ledger, &[ask(&wide, "a", 1), ask(&narrow, "", 1)], at(0)).unwrap_err();
            assert_eq!(denied.index, 1);
        }
        take(&ledger, &[ask(&wide, "a", 1)], at(0)).unwrap();
        take(&ledger, &[ask(&wide, "a", 1)], at(0)).unwrap();
        assert!(take(&ledger, &[ask(&wide, "a", 1)], at(0)).is_err());
    }
}

#[test]
fn quotas_count_units_and_begin_anew_with_the_day() {
    let (ledger, limit, hour) = (Ledger::new(100), quota(10, Period::Day), 3600);
    take(&ledger, &[ask(&limit, "a", 7)], at(20 * hour)).unwrap();
    let denied = take(&ledger, &[ask(&limit, "a", 4)], at(20 * hour)).unwrap_err();
    assert_eq!(denied.retry_after, Duration::from_secs(4 * hour));
    take(&ledger, &[ask(&limit, "a", 3)], at(20 * hour)).unwrap();
    take(&ledger, &[ask(&limit, "a", 10)], at(24 * hour)).unwrap();
    assert!(take(&ledger, &[ask(&limit, "a", 1)], at(23 * hour)).is_err(), "a clock set back gives nothing");
}

#[test]
fn keys_are_bounded_and_those_with_something_to_lose_stay() {
    let (ledger, limit) = (Ledger::new(160), rate("caller", 2, Shape::Bucket));
    let month = of_level(Level::Caller, quota(1, Period::Month));
    take(&ledger, &[ask(&month, "kept", 1)], at(0)).unwrap();
    for number in 0..5000 {
        take(&ledger, &[ask(&limit, &number.to_string(), 1)], at(number)).unwrap();
        assert!(ledger.keys() <= 160);
    }
    assert!(take(&ledger, &[ask(&month, "kept", 1)], at(5000)).is_err());
    ledger.forget("quota");
    take(&ledger, &[ask(&month, "kept", 1)], at(5000)).unwrap();
}

#[test]
fn a_reloaded_rate_goes_on_with_what_was_counted() {
    let (ledger, wide) = (Ledger::new(100), rate("caller", 10, Shape::Bucket));
    for _ in 0..10 {
        take(&ledger, &[ask(&wide, "a", 1)], at(0)).unwrap();
    }
    let narrow = rate("caller", 5, Shape::Bucket);
    assert!(take(&ledger, &[ask(&narrow, "a", 1)], at(0)).is_err());
    let other = rate("caller", 5, Shape::Window);
    take(&ledger, &[ask(&other, "a", 1)], at(0)).expect("another shape begins anew");
}

#[test]
fn invented_callers_do_not_evict_what_is_configured() {
    let invented = of_level(Level::Caller, quota(1, Period::Month));
    for level in [Level::Global, Level::Tenant, Level::Server] {
        for shape in [Shape::Bucket, Shape::Window] {
            let (ledger, limit) = (Ledger::new(160), of_level(level, rate("shared", 1, shape)));
            take(&ledger, &[ask(&limit, "", 1)], at(0)).unwrap();
            for number in 0..5000 {
                take(&ledger, &[ask(&invented, &number.to_string(), 1)], at(0)).unwrap();
            }
            assert!(take(&ledger, &[ask(&limit, "", 1)], at(0)).is_err(), "{level:?} {shape:?}");
            assert!(ledger.keys() <= 161, "{}", ledger.keys());
            ledger.forget("shared");
            take(&ledger, &[ask(&limit, "", 1)], at(0)).expect("it was forgotten");
        }
    }
}

#[test]
fn a_refused_call_leaves_nothing_that_is_remembered() {
    let (ledger, narrow) = (Ledger::new(100), of_level(Level::Global, rate("narrow", 1, Shape::Bucket)));
    take(&ledger, &[ask(&narrow, "", 1)], at(0)).unwrap();
    for shape in [Shape::Bucket, Shape::Window] {
        let wide = rate(&format!("wide {shape:?}"), 3, shape);
        take(&ledger, &[ask(&wide, "a", 1), ask(&narrow, "", 1)], at(0)).unwrap_err();
        let mut shard = ledger.shard(&ask(&wide, "a", 1));
        let count = &shard.counts_of(wide.level)[&Key(&wide.name, "a")];
        assert_eq!(count.remembers_for(at(0)), 0, "{shape:?}");
    }
}

#[test]
fn a_quota_of_another_period_begins_anew() {
    let ledger = Ledger::new(100);
    for (before, after) in [(Period::Month, Period::Day), (Period::Day, Period::Month)] {
        ledger.forget("quota");
        let (before, after) = (quota(10, before), quota(10, after));
        // 2023-11-14, when months and days have very different numbers.
        let (now, tomorrow) = (at(1_700_000_000), at(1_700_000_000 + 24 * 3600));
        take(&ledger, &[ask(&before, "a", 10)], now).unwrap();
        take(&ledger, &[ask(&after, "a", 10)], now).expect("another period begins anew");
        let is_denied = take(&ledger, &[ask(&after, "a", 1)], tomorrow).is_err();
        assert_eq!(is_denied, after.measure == quota(10, Period::Month).measure, "and goes on by its own calendar");
    }
}
