//! A breaker that many threads ask at once. While all is well, asking it and telling it costs one load each; everything
//! else is a few numbers behind a lock that is held for the time of an addition.

use fairlead_core::breaker::{Breaker, BreakerReading, BreakerSettings, Force, Leave, Refused, Verdict};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;
use tokio::time::Instant;

/// What `calm` holds while there is something to look at.
const NOT_CALM: u64 = 0;

/// One breaker.
#[derive(Debug)]
pub(crate) struct Gate {
    born: Instant,
    machine: Mutex<Breaker>,
    /// The generation in which every call may be made and a good answer changes nothing, plus one.
    calm: AtomicU64,
}

/// Leave to make one call; whoever drops it untold gave the call up.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    leave: Option<Leave>,
}

impl Gate {
    pub(crate) fn new(settings: BreakerSettings) -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            machine: Mutex::new(Breaker::new(settings)),
            calm: AtomicU64::new(NOT_CALM),
        })
    }

    /// Asks for one call.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Permit, Refused> {
        let leave = match self.calm.load(Ordering::Acquire) {
            NOT_CALM => self.machine().admit(self.now())?,
            calm => Leave::calm(calm - 1),
        };
        Ok(Permit { gate: Arc::clone(self), leave: Some(leave) })
    }

    /// Whether a call would be let through now, and if not, for how long.
    pub(crate) fn would_admit(&self) -> Result<(), Refused> {
        if self.calm.load(Ordering::Acquire) != NOT_CALM {
            return Ok(());
        }
        self.machine().would_admit(self.now()).map(drop)
    }

    /// Whether a call would be one of the few that are let through to see.
    pub(crate) fn is_trying(&self) -> bool {
        self.calm.load(Ordering::Acquire) == NOT_CALM
            && self.machine().would_admit(self.now()).is_ok_and(Leave::is_trial)
    }

    /// What is behind it was found to be well.
    pub(crate) fn heal(&self) {
        let now = self.now();
        let mut machine = self.machine();
        machine.heal(now);
        self.note(&machine, now);
    }

    pub(crate) fn read(&self) -> BreakerReading {
        self.machine().read(self.now())
    }

    pub(crate) fn force(&self, force: Option<Force>) {
        let now = self.now();
        let mut machine = self.machine();
        machine.force(now, force);
        self.note(&machine, now);
    }

    fn report(&self, leave: Leave, verdict: Verdict) -> Option<BreakerReading> {
        let calm = self.calm.load(Ordering::Acquire);
        if verdict == Verdict::Good && calm != NOT_CALM && leave == Leave::calm(calm - 1) {
            return None;
        }
        let now = self.now();
        let mut machine = self.machine();
        let has_changed = machine.report(now, leave, verdict);
        self.note(&machine, now);
        has_changed.then(|| machine.read(now))
    }

    fn note(&self, machine: &Breaker, now: Duration) {
        let calm = if machine.is_calm(now) { machine.generation() + 1 } else { NOT_CALM };
        self.calm.store(calm, Ordering::Release);
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn machine(&self) -> MutexGuard<'_, Breaker> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// What became of the call. The new picture where the breaker changed its state.
    pub(crate) fn report(mut self, verdict: Verdict) -> Option<BreakerReading> {
        let leave = self.leave.take()?;
        self.gate.report(leave, verdict)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take()
            && self.gate.calm.load(Ordering::Acquire) == NOT_CALM
        {
            self.gate.machine().abandon(leave);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_core::BreakerState;

    fn call(gate: &Arc<Gate>, verdict: Verdict) {
        gate.admit().expect("it is let through").report(verdict);
    }

    #[tokio::test(start_paused = true)]
    async fn a_calm_gate_opens_and_becomes_calm_again() {
        let gate = Gate::new(BreakerSettings::default());
        for _ in 0..10 {
            call(&gate, Verdict::Good);
        }
        assert_ne!(gate.calm.load(Ordering::Relaxed), NOT_CALM);
        let late = gate.admit().expect("calm");
        for _ in 0..5 {
            call(&gate, Verdict::Bad);
        }
        assert!(gate.admit().is_err());
        assert!(late.report(Verdict::Good).is_none(), "it began before");
        assert!(gate.admit().is_err());
        tokio::time::advance(Duration::from_secs(30)).await;
        drop(gate.admit().expect("a trial"));
        assert_eq!(gate.read().state, BreakerState::HalfOpen);
        for _ in 0..11 {
            call(&gate, Verdict::Good);
        }
        assert_ne!(gate.calm.load(Ordering::Relaxed), NOT_CALM);
        gate.force(Some(Force::Open));
        assert!(gate.admit().is_err());
        gate.force(None);
        assert!(gate.admit().is_ok());
    }
}
