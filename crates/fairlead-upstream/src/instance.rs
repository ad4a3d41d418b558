//! One of the places a server runs at: what is known of it beyond its links, and who may still be sent there.
//!
//! A server has one instance unless the configuration names several. An [`Instance`] outlives the owner's links and
//! reloads that leave it as it is. What a call needs of it is read from atomics; the one lock is around a few numbers
//! and held for the time of an addition.

use crate::balance::{load::PeakEwma, report::Pressure};
use arc_swap::{ArcSwap, ArcSwapOption};
use fairlead_config::Labels;
use fairlead_core::{Outcome, UpstreamErrorKind};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How long an instance to which no connection could be made is left alone while there are others.
const UNREACHABLE: Duration = Duration::from_secs(1);
/// Buckets of the distribution of times: four to an octave, from a tenth of a millisecond to more than an hour.
pub(crate) const BUCKETS: usize = 104;
/// The shortest time that has a bucket of its own, in microseconds.
const SHORTEST_US: u64 = 100;

/// How an exchange with an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// With an answer, whatever it says: an error of a tool (`isError`) or one that refuses the request is an answer.
    Answered,
    /// With an answer that says that the server itself failed: JSON-RPC -32603, or HTTP 429 and 5xx.
    ServerError,
    /// Without a usable answer.
    Failed(UpstreamErrorKind, Outcome),
    /// Nobody waited for the answer any more.
    Abandoned,
    /// Nobody waited any more because a sibling that was asked later was faster.
    Outrun,
}

impl CallEnd {
    /// Whether it speaks against the instance.
    #[must_use]
    pub fn is_failure(self) -> bool {
        use UpstreamErrorKind as Kind;
        match self {
            Self::Answered | Self::Abandoned | Self::Outrun => false,
            Self::ServerError => true,
            Self::Failed(kind, _) => matches!(kind, Kind::Unavailable | Kind::Timeout | Kind::Lost | Kind::Garbage),
        }
    }

    /// Whether it says anything about the instance.
    #[must_use]
    pub fn counts(self) -> bool {
        self.is_failure() || matches!(self, Self::Answered | Self::Outrun)
    }
}

/// Something that keeps calls off an instance by rules of its own: a circuit breaker. Asked for every call, so it
/// should read atomics.
pub trait Gate: Send + Sync {
    /// Whether calls may be sent to the instance now.
    fn admits(&self) -> bool;
    /// How long it will not, where that is known.
    fn opens_in(&self) -> Option<Duration>;
    /// The instance was found to be well again, after it was found not to be.
    fn healed(&self);
}

/// Why an instance gets no new calls, as flags: several reasons may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Out(pub(crate) u8);

impl Out {
    /// An operator took it out.
    pub(crate) const DRAINED: Self = Self(1);
    /// It does worse than its siblings.
    pub(crate) const EJECTED: Self = Self(2);
    /// Its readiness check fails.
    pub(crate) const UNREADY: Self = Self(4);
    /// Its startup check has not passed yet.
    pub(crate) const NOT_STARTED: Self = Self(8);
    /// The configuration has it no more.
    pub(crate) const LEAVING: Self = Self(16);

    fn words(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (Self::DRAINED, "drained"),
            (Self::EJECTED, "ejected"),
            (Self::UNREADY, "not ready"),
            (Self::NOT_STARTED, "not started"),
            (Self::LEAVING, "leaving"),
        ];
        all.into_iter().filter(move |(flag, _)| self.0 & flag.0 != 0).map(|(_, word)| word)
    }
}

/// See the module.
pub struct Instance {
    id: u64,
    name: Box<str>,
    settings: ArcSwap<Settings>,
    born: Instant,
    in_flight: AtomicUsize,
    measured: AtomicBool,
    /// What it says of its own load is read.
    listens: AtomicBool,
    out: AtomicU8,
    /// Until when it is left alone because it could not be connected to, in milliseconds after it was born.
    unreachable_until_ms: AtomicU64,
    /// When it came back, in milliseconds after it was born, and one: from then on its share grows.
    back_since_ms: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    times: [AtomicU64; BUCKETS],
    figures: Mutex<Figures>,
    /// What the last check said, or why it is ejected.
    reason: ArcSwapOption<String>,
    gate: ArcSwapOption<Box<dyn Gate>>,
}

/// What the configuration says of it, and a reload may change.
#[derive(Debug, Default)]
struct Settings {
    weight: u32,
    labels: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Figures {
    ewma: PeakEwma,
    pressure: Option<(Pressure, Instant)>,
    /// Share of the latest calls that did not fail, 0 to 1.
    success: f64,
}

/// Weight of the latest call in the share of successes.
const SUCCESS_STEP: f64 = 0.05;
/// How long what an instance reports of its load is believed.
const PRESSURE_LIFE: Duration = Duration::from_secs(30);

impl Instance {
    /// One of which nothing is known yet. `id` is a number that no other instance of this process has.
    #[must_use]
    pub fn new(id: u64, name: &str, weight: u32, labels: BTreeMap<String, String>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            id,
            name: name.into(),
            settings: ArcSwap::from_pointee(Settings { weight, labels }),
            born: now,
            in_flight: AtomicUsize::new(0),
            measured: AtomicBool::new(false),
            listens: AtomicBool::new(false),
            out: AtomicU8::new(0),
            unreachable_until_ms: AtomicU64::new(0),
            back_since_ms: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            times: [const { AtomicU64::new(0) }; BUCKETS],
            figures: Mutex::new(Figures { ewma: PeakEwma::new(now), pressure: None, success: 1.0 }),
            reason: ArcSwapOption::empty(),
            gate: ArcSwapOption::empty(),
        })
    }

    /// A number that no other instance of this process has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the configuration calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its share of the calls beside its siblings.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.settings.load().weight
    }

    /// Whether it has a label with this value.
    #[must_use]
    pub fn has_label(&self, key: &str, value: &str) -> bool {
        self.settings.load().labels.get(key).is_some_and(|other| other == value)
    }

    /// Whether it has all these labels.
    #[must_use]
    pub fn is_labelled(&self, labels: &Labels) -> bool {
        labels.all.iter().all(|(key, value)| self.has_label(key, value))
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.settings.load().labels.clone()
    }

    pub(crate) fn settle(&self, weight: u32, labels: BTreeMap<String, String>) {
        self.settings.store(Arc::new(Settings { weight, labels }));
    }

    /// Calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a call; how many there were before.
    pub fn enter(&self) -> usize {
        self.in_flight.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts it out again.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Begins to measure what its calls come to: without a reader that would only cost.
    pub fn measure(&self) {
        self.measured.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_measured(&self) -> bool {
        self.measured.load(Ordering::Relaxed)
    }

    /// Puts a breaker before it, or takes it away.
    pub fn set_gate(&self, gate: Option<Box<dyn Gate>>) {
        self.gate.store(gate.map(Arc::new));
    }

    /// A check that failed passes again.
    pub(crate) fn healed(&self) {
        if let Some(gate) = &*self.gate.load() {
            gate.healed();
        }
    }

    /// Whether its breaker, if it has one, lets calls through.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.gate.load().as_ref().is_none_or(|gate| gate.admits())
    }

    /// How long its breaker lets no calls through, where that is known.
    pub(crate) fn opens_in(&self) -> Option<Duration> {
        self.gate.load().as_ref().and_then(|gate| gate.opens_in())
    }

    /// Says how one call ended. Called once for every exchange of a call, where the link knows it.
    pub fn report(&self, end: CallEnd, latency: Option<Duration>) {
        let now = Instant::now();
        if let CallEnd::Failed(UpstreamErrorKind::Unavailable, Outcome::NotMade) = end {
            self.unreachable_until_ms.store(self.ms(now + UNREACHABLE), Ordering::Relaxed);
        }
        if !end.counts() {
            return;
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
        let is_failure = end.is_failure();
        let mut figures = self.figures();
        figures.success += SUCCESS_STEP * (f64::from(u8::from(!is_failure)) - figures.success);
        if is_failure {
            self.failed.fetch_add(1, Ordering::Relaxed);
            figures.ewma.failed(now, latency.unwrap_or_default());
            return;
        }
        let is_outrun = end == CallEnd::Outrun;
        if is_outrun {
            // So long at least.
            figures.ewma.failed(now, latency.unwrap_or_default());
        } else {
            self.unreachable_until_ms.store(0, Ordering::Relaxed);
        }
        if let Some(latency) = latency {
            if !is_outrun {
                figures.ewma.observe(now, latency);
            }
            drop(figures);
            self.times[bucket(latency)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads from now on what the instance says of its own load, or no more.
    pub(crate) fn listen(&self, listens: bool) {
        self.listens.store(listens, Ordering::Relaxed);
    }

    pub(crate) fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    /// Notes what the instance says of its own load.
    pub(crate) fn press(&self, pressure: Pressure) {
        self.figures().pressure = Some((pressure, Instant::now()));
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The smoothed latency, with its peaks, as of `now`; zero before the first call.
    pub(crate) fn latency(&self, now: Instant) -> Duration {
        self.figures().ewma.read(now)
    }

    /// Share of the latest calls that did not fail, 0 to 1.
    pub(crate) fn success(&self) -> f64 {
        self.figures().success
    }

    /// What the instance said of its load, if it did lately: 0 idle, 1 full.
    pub(crate) fn pressure(&self, now: Instant) -> Option<f64> {
        let (pressure, said) = self.figures().pressure?;
        (now.saturating_duration_since(said) < PRESSURE_LIFE).then(|| pressure.worst())
    }

    /// Calls that ended, how many of them failed, and how long the others took, since the instance is measured.
    pub(crate) fn counted(&self) -> (u64, u64, [u64; BUCKETS]) {
        let times = std::array::from_fn(|index| self.times[index].load(Ordering::Relaxed));
        (self.ended.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed), times)
    }

    pub(crate) fn set_out(&self, why: Out, is_out: bool) {
        if is_out {
            self.out.fetch_or(why.0, Ordering::Relaxed);
        } else {
            self.out.fetch_and(!why.0, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_out_for(&self, why: Out) -> bool {
        self.out.load(Ordering::Relaxed) & why.0 != 0
    }

    /// Whether nobody but its siblings' absence may send it calls.
    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed) != 0
    }

    /// Whether it could not be connected to a moment ago.
    pub(crate) fn is_unreachable(&self, now: Instant) -> bool {
        let until = self.unreachable_until_ms.load(Ordering::Relaxed);
        until != 0 && self.ms(now) < until
    }

    /// The link to it works again.
    pub(crate) fn reached(&self) {
        self.unreachable_until_ms.store(0, Ordering::Relaxed);
    }

    /// It came back: its share of the calls grows from here on.
    pub(crate) fn came_back(&self, now: Instant) {
        self.back_since_ms.store(self.ms(now).saturating_add(1), Ordering::Relaxed);
        let mut figures = self.figures();
        figures.success = 1.0;
        // How it did before it went says nothing: beside its siblings it would get no calls to show how it does now.
        figures.ewma = PeakEwma::new(now);
    }

    /// How long ago it came back, if it ever was away.
    pub(crate) fn back_for(&self, now: Instant) -> Option<Duration> {
        let since = self.back_since_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.ms(now).saturating_sub(since)))
    }

    pub(crate) fn set_reason(&self, reason: Option<String>) {
        self.reason.store(reason.map(Arc::new));
    }

    /// Words for why it gets no new calls, with what a check said; `None` when it does.
    #[must_use]
    pub fn why_out(&self) -> Option<String> {
        let mut words: Vec<_> = Out(self.out.load(Ordering::Relaxed)).words().collect();
        if !self.is_admitted() {
            words.push("its breaker is open");
        }
        if self.is_unreachable(Instant::now()) {
            words.push("unreachable");
        }
        if words.is_empty() {
            return None;
        }
        let text = words.join(", ");
        Some(match &*self.reason.load() {
            Some(reason) => format!("{text}: {reason}"),
            None => text,
        })
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

/// The bucket of a time.
fn bucket(latency: Duration) -> usize {
    let units = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX) / SHORTEST_US;
    if units < 4 {
        return usize::try_from(units).unwrap_or(0);
    }
    // Four buckets to an octave: the position of the highest bit, and the two bits below it.
    let octave = units.ilog2();
    let quarter = (units >> (octave - 2)) & 3;
    usize::try_from(u64::from(octave - 1) * 4 + quarter).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The longest time that is in a bucket.
pub(crate) fn bucket_end(index: usize) -> Duration {
    let index = u64::try_from(index).unwrap_or(0);
    let units = if index < 4 {
        index + 1
    } else {
        let octave = index / 4 + 1;
        (1 << octave) + ((index % 4) + 1) * (1 << (octave - 2))
    };
    Duration::from_micros(units * SHORTEST_US)
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("name", &self.name).field("out", &self.out).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_bucket_that_ends_after_it() {
        let mut last = 0;
        for us in (0..2_000_000).step_by(37) {
            let latency = Duration::from_micros(us);
            let at = bucket(latency);
            assert!(at >= last && latency < bucket_end(at), "{us} us in {at}");
            assert!(at == 0 || latency >= bucket_end(at - 1), "{us} us in {at}");
            last = at;
        }
        assert_eq!(bucket(Duration::from_secs(1 << 40)), BUCKETS - 1);
    }

    #[test]
    fn what_speaks_against_an_instance() {
        use UpstreamErrorKind as Kind;
        for (end, is_failure) in [
            (CallEnd::Answered, false),
            (CallEnd::Abandoned, false),
            (CallEnd::Outrun, false),
            (CallEnd::ServerError, true),
            (CallEnd::Failed(Kind::Timeout, Outcome::Unknown), true),
            (CallEnd::Failed(Kind::Garbage, Outcome::Unknown), true),
            (CallEnd::Failed(Kind::SessionLost, Outcome::NotMade), false),
            (CallEnd::Failed(Kind::AtCapacity, Outcome::NotMade), false),
            (CallEnd::Failed(Kind::TooLarge, Outcome::Unknown), false),
        ] {
            assert_eq!(end.is_failure(), is_failure, "{end:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_connected_to_is_left_alone_for_a_moment() {
        let instance = Instance::new(1, "a", 1, BTreeMap::new());
        let lost = CallEnd::Failed(UpstreamErrorKind::Lost, Outcome::Unknown);
        instance.report(lost, None);
        assert!(!instance.is_unreachable(Instant::now()));
        instance.report(CallEnd::Failed(UpstreamErrorKind::Unavailable, Outcome::NotMade), None);
        assert!(instance.is_unreachable(Instant::now()));
        assert_eq!(instance.why_out().as_deref(), Some("unreachable"));
        tokio::time::advance(UNREACHABLE).await;
        assert!(!instance.is_unreachable(Instant::now()) && instance.why_out().is_none());
        assert!(instance.success() < 1.0);
    }
}
