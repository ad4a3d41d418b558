//! Which calls a fault that is injected on purpose hits, and how long it lasts.
//!
//! Chance is a function of the fault's seed and of how many calls it was asked about, so the same calls in the same order
//! meet the same fate.

use fairlead_config::{FaultRule, Latency, faults::MAX_LATENCY};
use std::{
    f64::consts::TAU,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The quantile of the standard normal distribution for 99 of a hundred.
const Z_99: f64 = 2.326_347_874;

/// A call, as far as faults look at it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The server's name.
    pub server: &'a str,
    /// The name of the instance it goes to.
    pub instance: &'a str,
    /// The server's own name of the tool, of a call of one.
    pub tool: Option<&'a str>,
    /// The caller.
    pub caller: &'a str,
    /// The path of the endpoint.
    pub path: &'a str,
}

/// A fault that is being injected.
#[derive(Debug)]
pub struct ActiveFault {
    /// What it does, and to which calls.
    pub rule: Arc<FaultRule>,
    /// Whether the configuration has it; else somebody set it.
    pub is_configured: bool,
    /// When it ends.
    pub until: Option<Instant>,
    asked: AtomicU64,
    hit: AtomicU64,
}

impl ActiveFault {
    /// One that begins now.
    #[must_use]
    pub fn new(rule: Arc<FaultRule>, is_configured: bool, now: Instant) -> Self {
        let until = rule.lasts.and_then(|lasts| now.checked_add(lasts));
        Self { rule, is_configured, until, asked: AtomicU64::new(0), hit: AtomicU64::new(0) }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// Calls it hit.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hit.load(Ordering::Relaxed)
    }

    fn concerns(&self, call: &Asked<'_>) -> bool {
        let rule = &*self.rule;
        let fits =
            |glob: &Option<fairlead_config::Glob>, name: &str| glob.as_ref().is_none_or(|glob| glob.matches(name));
        fits(&rule.server, call.server)
            && fits(&rule.instance, call.instance)
            && rule.tool.as_ref().is_none_or(|glob| call.tool.is_some_and(|tool| glob.matches(tool)))
            && fits(&rule.caller, call.caller)
            && fits(&rule.path, call.path)
    }

    /// Whether the call is hit, and how much later what comes back of it then comes.
    #[must_use]
    pub fn draw(&self, call: &Asked<'_>, now: Instant) -> Option<Duration> {
        if self.is_over(now) || !self.concerns(call) {
            return None;
        }
        let ordinal = self.asked.fetch_add(1, Ordering::Relaxed);
        if roll(self.rule.seed, ordinal, 0) >= f64::from(self.rule.percent) / 100.0 {
            return None;
        }
        self.hit.fetch_add(1, Ordering::Relaxed);
        let rolls = (roll(self.rule.seed, ordinal, 1), roll(self.rule.seed, ordinal, 2));
        Some(self.rule.latency.map_or(Duration::ZERO, |latency| sample(latency, rolls)))
    }
}

/// A number from 0 to below 1 (SplitMix64).
fn roll(seed: u64, ordinal: u64, which: u64) -> f64 {
    let mut x = seed.wrapping_add((ordinal.wrapping_mul(3).wrapping_add(which)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    // 53 bits are what a double holds exactly.
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

/// One value of a distribution.
fn sample(latency: Latency, (one, other): (f64, f64)) -> Duration {
    match latency {
        Latency::Fixed(time) => time,
        Latency::Between(least, most) => least + most.saturating_sub(least).mul_f64(one),
        Latency::Skewed(median, p99) => {
            let spread = (p99.as_secs_f64() / median.as_secs_f64()).ln() / Z_99;
            // Box-Muller.
            let normal = (-2.0 * (1.0 - one).ln()).sqrt() * (TAU * other).cos();
            let seconds = median.as_secs_f64() * (spread * normal).exp();
            Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LATENCY).min(MAX_LATENCY)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::FaultFile;

    const CALL: Asked<'static> =
        Asked { server: "crm", instance: "a", tool: Some("get_x"), caller: "anonymous", path: "/mcp" };

    fn fault(json: serde_json::Value) -> (ActiveFault, Instant) {
        let file: FaultFile = serde_json::from_value(json).expect("a fault");
        let now = Instant::now();
        (ActiveFault::new(Arc::new(file.build(1, 0).expect("a fault")), false, now), now)
    }

    #[test]
    fn only_calls_that_match_are_hit() {
        for (json, hits) in [
            (serde_json::json!({"garbage": true}), true),
            (
                serde_json::json!({"garbage": true, "server": "c*", "instance": "a", "tool": "get_*", "path": "/mcp"}),
                true,
            ),
            (serde_json::json!({"garbage": true, "server": "x"}), false),
            (serde_json::json!({"garbage": true, "instance": "b"}), false),
            (serde_json::json!({"garbage": true, "tool": "put_*"}), false),
            (serde_json::json!({"garbage": true, "caller": "me"}), false),
            (serde_json::json!({"garbage": true, "path": "/mcp/*"}), false),
        ] {
            let (fault, now) = fault(json.clone());
            assert_eq!(fault.draw(&CALL, now).is_some(), hits, "{json}");
            assert_eq!(fault.hits(), u64::from(hits));
        }
        // What is no call of a tool is only hit where no tool is named.
        let other = Asked { tool: None, ..CALL };
        let (tool, now) = fault(serde_json::json!({"garbage": true, "tool": "*"}));
        assert!(tool.draw(&other, now).is_none());
        let (any, now) = fault(serde_json::json!({"garbage": true}));
        assert!(any.draw(&other, now).is_some());
    }

    #[test]
    fn it_ends() {
        let (fault, now) = fault(serde_json::json!({"garbage": true, "for": "10s"}));
        assert!(fault.draw(&CALL, now + Duration::from_millis(9_999)).is_some());
        assert!(fault.draw(&CALL, now + Duration::from_secs(10)).is_none());
        assert!(fault.is_over(now + Duration::from_secs(10)));
    }

    #[test]
    fn the_same_seed_hits_the_same_calls_and_about_as_many_as_it_says() {
        let draws = |seed: u64| -> Vec<bool> {
            let (fault, now) = fault(serde_json::json!({"garbage": true, "percent": 30, "seed": seed}));
            (0..10_000).map(|_| fault.draw(&CALL, now).is_some()).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        for seed in 1..5 {
            let hits = draws(seed).into_iter().filter(|hit| *hit).count();
            assert!((2_800..3_200).contains(&hits), "{hits}");
        }
    }

    #[test]
    fn latencies_follow_their_distribution() {
        let times = |text: &str| -> Vec<u128> {
            let (fault, now) = fault(serde_json::json!({"latency": text, "seed": 5}));
            let mut times: Vec<_> = (0..10_000).map(|_| fault.draw(&CALL, now).expect("a hit").as_millis()).collect();
            times.sort_unstable();
            times
        };
        assert!(times("200ms").into_iter().all(|time| time == 200));
        let between = times("100ms..200ms");
        assert!(between[0] >= 100 && between[9_999] <= 200 && between[0] < 102 && between[9_999] > 197);
        let skewed = times("50ms p99 1s");
        assert!((45..55).contains(&skewed[5_000]), "{}", skewed[5_000]);
        assert!((850..1_150).contains(&skewed[9_900]), "{}", skewed[9_900]);
        assert!(
            sample(Latency::Skewed(Duration::from_millis(1), MAX_LATENCY), (1.0 - f64::EPSILON, 0.0)) <= MAX_LATENCY
        );
    }
}
