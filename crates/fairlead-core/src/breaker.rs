//! When to stop calling something that fails, and when to try it again: a state machine that is told what time it is.
//!
//! Closed, it watches what becomes of calls. After a run of failures, or when too many of the last calls failed, it
//! opens: calls are refused without being made. After a while it lets a few through (half-open); the first of them that
//! ends decides. An operator can hold it open or closed. Who waits for its answer does not move it: results of calls
//! that began in an earlier state are not counted.
//!
//! Times are measured from any fixed moment that the user of the machine chooses.

use std::time::Duration;

/// Results the share of failures is taken of, at most.
pub const MAX_WINDOW: u32 = 64;

/// How many times the open interval doubles before only the cap counts.
const MAX_DOUBLINGS: u32 = 16;

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub consecutive: u32,
    /// How many of the last results are looked at.
    pub window: u32,
    /// Percent of failures among them that opens it. It takes a full window.
    pub percent: u32,
    /// How long it stays open at first.
    pub open: Duration,
    /// How long it stays open at most: each time it opens again it doubles.
    pub max_open: Duration,
    /// Calls let through half-open.
    pub trials: u32,
    /// How long it waits half-open for one of them to end.
    pub half_open: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            consecutive: 5,
            window: 10,
            percent: 50,
            open: Duration::from_secs(30),
            max_open: Duration::from_secs(300),
            trials: 3,
            half_open: Duration::from_secs(60),
        }
    }
}

/// What one call said of what was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answered, whatever the answer.
    Good,
    /// It failed.
    Bad,
    /// Another one answered the same call sooner: so many in a row are as bad as failures, now and then it is nothing.
    Late,
    /// It wants to be left alone for so long.
    Busy(Duration),
}

/// What an operator wants of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Nothing is called.
    Open,
    /// Everything is called.
    Closed,
}

/// What a breaker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// Calls are refused.
    Open,
    /// A few calls are made, to see.
    HalfOpen,
}

impl BreakerState {
    /// Every state, for metrics.
    pub const WORDS: [&'static str; 3] = ["closed", "open", "half_open"];

    /// How it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// A picture of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerReading {
    /// What it is doing.
    pub state: BreakerState,
    /// What an operator made it do.
    pub forced: Option<Force>,
    /// Failures in a row, as of the last result.
    pub failures: u32,
    /// How long calls are refused, where they are and that is known.
    pub retry_after: Option<Duration>,
    /// How often it opened.
    pub opened: u64,
}

/// Leave to make one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    generation: u64,
    is_trial: bool,
}

impl Leave {
    /// Whether it is one of the few of a breaker that is half-open.
    #[must_use]
    pub fn is_trial(self) -> bool {
        self.is_trial
    }

    /// The leave of a closed breaker that is calm: it is the same for all calls of one generation.
    #[must_use]
    pub fn calm(generation: u64) -> Self {
        Self { generation, is_trial: false }
    }
}

/// Calls are refused for so long (`None`: until somebody decides otherwise).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub Option<Duration>);

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Duration },
    HalfOpen { since: Duration, out: u32 },
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: BreakerSettings,
    phase: Phase,
    forced: Option<Force>,
    /// Moves with every change of phase: what began before it is not counted.
    generation: u64,
    /// The last results, the newest lowest; a set bit is a failure.
    results: u64,
    seen: u32,
    in_row: u32,
    /// Openings without a quiet time in between.
    openings: u32,
    closed_at: Duration,
    last_interval: Duration,
    /// What was called asked for quiet until then.
    quiet_until: Duration,
    opened: u64,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        let settings = BreakerSettings {
            window: settings.window.clamp(1, MAX_WINDOW),
            consecutive: settings.consecutive.max(1),
            trials: settings.trials.max(1),
            ..settings
        };
        Self {
            settings,
            phase: Phase::Closed,
            forced: None,
            generation: 0,
            results: 0,
            seen: 0,
            in_row: 0,
            openings: 0,
            closed_at: Duration::ZERO,
            last_interval: Duration::ZERO,
            quiet_until: Duration::ZERO,
            opened: 0,
        }
    }

    /// Whether every call may be made and another good result would change nothing.
    #[must_use]
    pub fn is_calm(&self, now: Duration) -> bool {
        matches!(self.phase, Phase::Closed)
            && self.forced.is_none()
            && self.seen == self.settings.window
            && self.results == 0
            && self.in_row == 0
            && self.quiet_until <= now
    }

    /// A number that moves with every change of state.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Asks for one call.
    ///
    /// # Errors
    /// When it is not to be made, and for how long.
    pub fn admit(&mut self, now: Duration) -> Result<Leave, Refused> {
        match self.forced {
            Some(Force::Open) => return Err(Refused(None)),
            Some(Force::Closed) => return Ok(Leave { generation: self.generation, is_trial: false }),
            None => {}
        }
        if now < self.quiet_until {
            return Err(Refused(Some(self.quiet_until - now)));
        }
        self.advance(now);
        match &mut self.phase {
            Phase::Closed => Ok(Leave { generation: self.generation, is_trial: false }),
            Phase::Open { until } => Err(Refused(Some(*until - now))),
            Phase::HalfOpen { since, out } => {
                if *out < self.settings.trials {
                    if *out == 0 {
                        *since = now;
                    }
                    *out += 1;
                    return Ok(Leave { generation: self.generation, is_trial: true });
                }
                Err(Refused(Some((*since + self.settings.half_open).saturating_sub(now))))
            }
        }
    }

    /// What [`Breaker::admit`] would say, without asking for a call.
    ///
    /// # Errors
    /// As there.
    pub fn would_admit(&self, now: Duration) -> Result<Leave, Refused> {
        self.clone().admit(now)
    }

    /// What became of a call that was let through. `true` when the state changed.
    pub fn report(&mut self, now: Duration, leave: Leave, verdict: Verdict) -> bool {
        if let Verdict::Busy(quiet) = verdict {
            // Neither: it is there, and says when it will do again.
            self.quiet_until = self.quiet_until.max(now + quiet.min(self.settings.max_open));
            self.abandon(leave);
            return true;
        }
        self.advance(now);
        if leave.generation != self.generation {
            return false;
        }
        match self.phase {
            Phase::Closed => {
                match verdict {
                    Verdict::Late => self.in_row += 1,
                    verdict => self.note(verdict == Verdict::Bad),
                }
                if self.is_bad() {
                    self.open(now);
                    return true;
                }
                false
            }
            Phase::HalfOpen { .. } if verdict == Verdict::Good => {
                self.close(now);
                true
            }
            Phase::HalfOpen { .. } => {
                self.open(now);
                true
            }
            Phase::Open { .. } => false,
        }
    }

    /// A call that was let through says nothing: its caller gave it up, or it was never made.
    pub fn abandon(&mut self, leave: Leave) {
        if leave.is_trial
            && leave.generation == self.generation
            && let Phase::HalfOpen { out, .. } = &mut self.phase
        {
            *out = out.saturating_sub(1);
        }
    }

    /// Holds it open or closed, or lets it work again (closed, with nothing seen).
    pub fn force(&mut self, now: Duration, force: Option<Force>) {
        self.forced = force;
        self.quiet_until = Duration::ZERO;
        self.openings = 0;
        self.close(now);
    }

    /// Something else than a call found that what is called works (a health check): what is open closes.
    pub fn heal(&mut self, now: Duration) -> bool {
        if matches!(self.phase, Phase::Closed) {
            return false;
        }
        self.close(now);
        true
    }

    /// What it is doing.
    #[must_use]
    pub fn read(&self, now: Duration) -> BreakerReading {
        let mut seen = self.clone();
        seen.advance(now);
        let quiet = (now < seen.quiet_until).then(|| seen.quiet_until - now);
        let (state, retry_after) = match (seen.forced, seen.phase) {
            (Some(Force::Open), _) => (BreakerState::Open, None),
            (Some(Force::Closed), _) => (BreakerState::Closed, None),
            (None, _) if quiet.is_some() => (BreakerState::Open, quiet),
            (None, Phase::Closed) => (BreakerState::Closed, None),
            (None, Phase::Open { until }) => (BreakerState::Open, Some(until - now)),
            (None, Phase::HalfOpen { .. }) => (BreakerState::HalfOpen, None),
        };
        BreakerReading { state, forced: self.forced, failures: seen.in_row, retry_after, opened: seen.opened }
    }

    /// What time alone changes.
    fn advance(&mut self, now: Duration) {
        match self.phase {
            Phase::Open { until } if until <= now => {
                self.phase = Phase::HalfOpen { since: now, out: 0 };
                self.generation += 1;
            }
            // Trials were let through and none has ended: what hangs is not well. Where nobody called, nothing is known.
            Phase::HalfOpen { since, out } if out > 0 && since + self.settings.half_open <= now => self.open(now),
            _ => {}
        }
    }

    fn note(&mut self, bad: bool) {
        let window = self.settings.window;
        let mask = if window >= MAX_WINDOW { u64::MAX } else { (1 << window) - 1 };
        self.results = ((self.results << 1) | u64::from(bad)) & mask;
        self.seen = (self.seen + 1).min(window);
        self.in_row = if bad { self.in_row + 1 } else { 0 };
    }

    fn is_bad(&self) -> bool {
        self.in_row >= self.settings.consecutive
            || (self.seen == self.settings.window
                && self.results.count_ones() * 100 >= self.settings.percent * self.settings.window
                && self.results != 0)
    }

    fn open(&mut self, now: Duration) {
        let stayed_closed = matches!(self.phase, Phase::Closed)
            && now.saturating_sub(self.closed_at) >= self.last_interval
            && self.last_interval > Duration::ZERO;
        if stayed_closed {
            self.openings = 0;
        }
        let doublings = self.openings.min(MAX_DOUBLINGS);
        self.last_interval = self.settings.open.saturating_mul(1 << doublings).min(self.settings.max_open);
        self.openings = self.openings.saturating_add(1);
        self.opened += 1;
        self.phase = Phase::Open { until: now + self.last_interval };
        self.forget();
    }

    fn close(&mut self, now: Duration) {
        self.phase = Phase::Closed;
        self.closed_at = now;
        self.forget();
    }

    fn forget(&mut self) {
        self.generation += 1;
        self.results = 0;
        self.seen = 0;
        self.in_row = 0;
    }
}

#[cfg(test)]
mod tests;
