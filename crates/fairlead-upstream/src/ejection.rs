//! Passive outlier ejection: an instance that does worse than its siblings gets no calls for a while. It is compared
//! with them and never with an absolute time, because tools may take minutes. Time is given.

use crate::instance::{BUCKETS, bucket_end};
use fairlead_config::Ejection;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// How many parts the window has: so often it moves.
const STEPS: u32 = 10;
/// Latencies nearer than this are equal: below it machines differ, not instances.
const NOISE: Duration = Duration::from_millis(10);
/// The percentile of latency that is compared.
const PERCENTILE: u64 = 95;
/// How many times its siblings' share of failures an instance must have.
const WORSE: u64 = 2;
/// Doublings of the time out at most, before the configured cap.
const MAX_DOUBLINGS: u32 = 16;

/// What an instance has counted since it began.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Calls that ended.
    pub(crate) ended: u64,
    /// Those that failed.
    pub(crate) failed: u64,
    /// How long the others took.
    pub(crate) times: [u64; BUCKETS],
}

/// What becomes of an instance.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It gets no calls, and why.
    Out(String),
    /// It gets calls again.
    Back,
}

/// The calls of one window.
#[derive(Debug)]
struct Recent {
    ended: u64,
    failed: u64,
    measured: u64,
    p95: Duration,
}

#[derive(Debug, Default)]
struct Member {
    samples: VecDeque<(Instant, Sample)>,
    out_until: Option<Instant>,
    /// Ejections that are not made up for.
    strikes: u32,
    /// Since when it does well.
    well_since: Option<Instant>,
}

impl Member {
    fn recent(&self) -> Option<Recent> {
        let ((_, first), (_, last)) = (self.samples.front()?, self.samples.back()?);
        let times: [u64; BUCKETS] = std::array::from_fn(|at| last.times[at].saturating_sub(first.times[at]));
        let measured: u64 = times.iter().sum();
        let rank = (measured * PERCENTILE).div_ceil(100).max(1);
        let mut below = 0;
        let at = times.iter().position(|count| {
            below += count;
            below >= rank
        });
        Some(Recent {
            ended: last.ended.saturating_sub(first.ended),
            failed: last.failed.saturating_sub(first.failed),
            measured,
            p95: at.map_or(Duration::ZERO, bucket_end),
        })
    }
}

/// The state of all instances of one server.
#[derive(Debug)]
pub(crate) struct Ejector {
    config: Ejection,
    members: Vec<Member>,
}

impl Ejector {
    pub(crate) fn new(config: Ejection, instances: usize) -> Self {
        Self { config, members: (0..instances).map(|_| Member::default()).collect() }
    }

    /// How often to look.
    pub(crate) fn interval(&self) -> Duration {
        self.config.window / STEPS
    }

    /// Looks at what was counted. `serving` says which instances could get calls but for this.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        samples: impl Iterator<Item = Sample>,
        serving: &[bool],
    ) -> Vec<(usize, Verdict)> {
        let mut verdicts = Vec::new();
        for (place, sample) in samples.enumerate().take(self.members.len()) {
            let member = &mut self.members[place];
            if member.out_until.is_some_and(|until| until <= now) {
                // What it did before says nothing of what it does now.
                *member = Member { strikes: member.strikes, ..Member::default() };
                verdicts.push((place, Verdict::Back));
            }
            member.samples.push_back((now, sample));
            while member.samples.len() > 2 && now.saturating_duration_since(member.samples[1].0) >= self.config.window {
                member.samples.pop_front();
            }
        }
        let recent: Vec<_> = self.members.iter().map(Member::recent).collect();
        let mut guilty: Vec<_> = (0..self.members.len())
            .filter(|place| self.serves(*place, serving))
            .filter_map(|place| Some((place, self.charge(place, &recent, serving)?)))
            .collect();
        for place in 0..self.members.len() {
            self.forgive(place, now, guilty.iter().any(|(other, _)| *other == place));
        }
        // The worst goes first; one always stays.
        guilty.sort_by_key(|(place, _)| std::cmp::Reverse(recent[*place].as_ref().map_or(0, |recent| recent.failed)));
        for (place, why) in guilty {
            let left = (0..self.members.len()).filter(|place| self.serves(*place, serving)).count();
            if left > 1 {
                self.eject(place, now);
                verdicts.push((place, Verdict::Out(why)));
            }
        }
        verdicts
    }

    fn serves(&self, place: usize, serving: &[bool]) -> bool {
        self.members[place].out_until.is_none() && serving.get(place).copied().unwrap_or(false)
    }

    /// What speaks against an instance, compared with its siblings.
    fn charge(&self, place: usize, recent: &[Option<Recent>], serving: &[bool]) -> Option<String> {
        let least = u64::from(self.config.min_calls);
        let mine = recent[place].as_ref().filter(|mine| mine.ended >= least)?;
        let siblings = || {
            let others = (0..recent.len()).filter(|other| *other != place && self.serves(*other, serving));
            others.filter_map(|other| recent[other].as_ref())
        };
        let (ended, failed) = siblings().fold((0, 0), |(ended, failed), one| (ended + one.ended, failed + one.failed));
        let percent = u64::from(self.config.error_percent);
        if ended >= least
            && mine.failed * 100 > percent * mine.ended
            && mine.failed * ended > WORSE * failed * mine.ended
        {
            return Some(format!("{} of its last {} calls failed", mine.failed, mine.ended));
        }
        let mut usual: Vec<_> = siblings().filter(|one| one.measured >= least).map(|one| one.p95).collect();
        usual.sort();
        let median = *usual.get(usual.len().saturating_sub(1) / 2)?;
        let slow = median * self.config.latency_percent / 100;
        if mine.measured >= least && mine.p95 > slow && mine.p95 > median + NOISE {
            return Some(format!("95 % of its calls take up to {:?}, those of its siblings {median:?}", mine.p95));
        }
        None
    }

    fn eject(&mut self, place: usize, now: Instant) {
        let member = &mut self.members[place];
        let time = self.config.time * (1 << member.strikes.min(MAX_DOUBLINGS));
        member.strikes = member.strikes.saturating_add(1);
        member.well_since = None;
        member.out_until = Some(now + time.min(self.config.max_time));
    }

    /// Doing well for as long as an ejection takes makes up for one.
    fn forgive(&mut self, place: usize, now: Instant, is_guilty: bool) {
        let member = &mut self.members[place];
        if member.out_until.is_some() || is_guilty {
            member.well_since = None;
            return;
        }
        let since = *member.well_since.get_or_insert(now);
        if member.strikes > 0 && now.saturating_duration_since(since) >= self.config.max_time {
            member.strikes -= 1;
            member.well_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_config::Instances;

    struct House {
        ejector: Ejector,
        samples: Vec<Sample>,
        now: Instant,
        serving: Vec<bool>,
    }

    impl House {
        fn new(instances: usize) -> Self {
            let ejector = Ejector::new(Instances::default().ejection.unwrap(), instances);
            let none = Sample { ended: 0, failed: 0, times: [0; BUCKETS] };
            Self { ejector, samples: vec![none; instances], now: Instant::now(), serving: vec![true; instances] }
        }

        /// A second, in which each instance ended so many calls, of which so many failed, the others in this bucket.
        fn second(&mut self, did: &[(u64, u64, usize)]) -> Vec<(usize, Verdict)> {
            for (sample, (ended, failed, bucket)) in self.samples.iter_mut().zip(did) {
                sample.ended += ended;
                sample.failed += failed;
                sample.times[*bucket] += ended - failed;
            }
            self.now += Duration::from_secs(1);
            self.ejector.look(self.now, self.samples.iter().cloned(), &self.serving)
        }

        fn out(&mut self, did: &[(u64, u64, usize)], seconds: usize) -> Vec<usize> {
            let mut out = Vec::new();
            for _ in 0..seconds {
                for (place, verdict) in self.second(did) {
                    if matches!(verdict, Verdict::Out(_)) {
                        out.push(place)
                    }
                }
            }
            out
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_fails_goes_and_comes_back() {
        let mut house = House::new(3);
        assert_eq!(
            house.out(&[(50, 0, 20), (50, 1, 20), (50, 0, 20)], 20),
            Vec::<usize>::new(),
            "a few failures are nothing"
        );
        assert_eq!(house.out(&[(50, 0, 20), (50, 25, 20), (50, 0, 20)], 3), [1]);
        let mut back = 0;
        while !house.second(&[(50, 0, 20), (0, 0, 20), (50, 0, 20)]).contains(&(1, Verdict::Back)) {
            back += 1;
            assert!(back < 11);
        }
        assert!(back >= 7, "{back}");
        assert_eq!(house.out(&[(50, 0, 20), (50, 0, 20), (50, 0, 20)], 20), Vec::<usize>::new(), "it does well now");
    }

    #[tokio::test(start_paused = true)]
    async fn what_all_do_is_nobodys_fault() {
        let mut house = House::new(3);
        assert_eq!(house.out(&[(50, 25, 20); 3], 20), Vec::<usize>::new());
        assert_eq!(house.out(&[(50, 0, 80); 3], 20), Vec::<usize>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn few_calls_prove_nothing() {
        let mut house = House::new(2);
        assert_eq!(house.out(&[(50, 0, 20), (1, 1, 20)], 20), Vec::<usize>::new());
        let mut house = House::new(2);
        assert_eq!(
            house.out(&[(1, 0, 20), (50, 50, 20)], 15),
            Vec::<usize>::new(),
            "a sibling nobody asked is no measure"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_slow_one_is_measured_by_its_siblings() {
        // Bucket 60 ends at 6.5 s, bucket 52 at 1.6 s, bucket 10 at 1.4 ms, bucket 0 at 0.1 ms.
        let mut house = House::new(3);
        assert_eq!(
            house.out(&[(50, 0, 52), (50, 0, 52), (50, 0, 60)], 5),
            Vec::<usize>::new(),
            "four times is not far"
        );
        assert_eq!(house.out(&[(50, 0, 10), (50, 0, 10), (50, 0, 60)], 15), [2]);
        let mut house = House::new(3);
        assert_eq!(
            house.out(&[(50, 0, 0), (50, 0, 0), (50, 0, 10)], 15),
            Vec::<usize>::new(),
            "a millisecond is noise"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_stays() {
        let mut house = House::new(2);
        house.serving[0] = false;
        assert_eq!(house.out(&[(50, 0, 20), (50, 50, 20)], 15), Vec::<usize>::new(), "its sibling cannot serve");
        let mut house = House::new(3);
        let out = house.out(&[(50, 0, 20), (50, 50, 20), (50, 40, 20)], 4);
        assert!(!out.contains(&0) && out.len() <= 2, "{out:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn each_time_it_takes_longer_up_to_the_cap() {
        let mut house = House::new(2);
        let mut times = Vec::new();
        for _ in 0..8 {
            let bad = [(50, 0, 20), (50, 50, 20)];
            while house.second(&bad).iter().all(|(_, verdict)| *verdict == Verdict::Back) {}
            let since = house.now;
            while !house.second(&[(50, 0, 20), (0, 0, 20)]).contains(&(1, Verdict::Back)) {}
            times.push((house.now - since).as_secs());
        }
        assert_eq!(times, [10, 20, 40, 80, 160, 300, 300, 300]);
    }
}
