//! What the gateway says it holds, from `/metrics`.

use std::fmt;

use super::highest;
use crate::support::{Gateway, get, processes};

/// The states that are watched: what they are called in the table, and in the metrics.
const STATES: [(&str, &str); 10] = [
    ("sessions", "fairlead_sessions"),
    ("streams", "fairlead_streams"),
    ("calls in flight", "fairlead_calls_in_flight"),
    ("parked calls", "fairlead_parked_calls"),
    ("open questions", "fairlead_open_questions"),
    ("subscriptions", "fairlead_subscriptions"),
    ("tasks", "fairlead_tasks"),
    ("replay bytes", "fairlead_replay_bytes"),
    ("links", "fairlead_links"),
    ("processes", "fairlead_processes"),
];

/// One look, or a bound for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gauges {
    states: [u64; STATES.len()],
    /// Bytes.
    pub(super) resident: u64,
    pub(super) files: u64,
}

impl Gauges {
    async fn of(gateway: &Gateway) -> Self {
        let (status, text) = get(&gateway.admin_url("/metrics")).await;
        assert_eq!(status, 200);
        let sum = |name: &str| {
            let of_name = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
            of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
        };
        for (_, name) in STATES {
            assert!(text.contains(&format!("# TYPE {name} gauge")), "there is no `{name}`");
        }
        Self {
            states: STATES.map(|(_, name)| sum(name)),
            resident: gateway.resident_bytes(),
            files: processes::open_files(gateway.pid()).unwrap_or_default() as u64,
        }
    }

    /// Bounds: zero, except for these.
    pub(super) fn bounds(of: &[(&str, u64)], resident: u64, files: u64) -> Self {
        let mut states = [0; STATES.len()];
        for (name, bound) in of {
            let at = STATES.iter().position(|(known, _)| known == name).expect("invariant: a state that is watched");
            states[at] = *bound;
        }
        Self { states, resident, files }
    }

    pub(super) fn zip(&self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let mut states = self.states;
        for (state, other) in states.iter_mut().zip(other.states) {
            *state = with(*state, other);
        }
        Self { states, resident: with(self.resident, other.resident), files: with(self.files, other.files) }
    }

    fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let states = STATES.iter().zip(self.states).map(|((name, _), value)| (*name, value));
        states.chain([("open files", self.files), ("resident KiB", self.resident / 1024)])
    }

    /// What is above its bound.
    pub(super) fn beyond(&self, bounds: &Self) -> Option<String> {
        let beyond: Vec<_> = self
            .rows()
            .zip(bounds.rows())
            .filter(|((_, value), (_, bound))| value > bound)
            .map(|((name, value), (_, bound))| format!("{value} {name} (at most {bound})"))
            .collect();
        (!beyond.is_empty()).then(|| beyond.join(", "))
    }
}

impl fmt::Display for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.rows().map(|(name, value)| format!("{value} {name}")).collect();
        f.write_str(&rows.join(", "))
    }
}

/// Looks, and remembers the highest.
pub(super) struct Watcher {
    peak: Gauges,
}

impl Watcher {
    pub(super) fn new() -> Self {
        Self { peak: Gauges::default() }
    }

    pub(super) async fn look(&mut self, gateway: &Gateway) -> Gauges {
        let now = Gauges::of(gateway).await;
        self.peak = highest(std::mem::take(&mut self.peak), &now);
        now
    }

    pub(super) fn print(&self, last: &Gauges, bounds: &Gauges) {
        println!("{:<16}{:>10}{:>10}{:>10}", "", "highest", "after", "bound");
        for (((name, peak), (_, last)), (_, bound)) in self.peak.rows().zip(last.rows()).zip(bounds.rows()) {
            println!("{name:<16}{peak:>10}{last:>10}{bound:>10}");
        }
    }
}
