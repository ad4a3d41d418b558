//! When a call is made again, after how long, and at most how often. What may be repeated is in the error matrix
//! (`fault.rs` of `fairlead-core`); this is the rest: tries, time, and the budget of the server. It waits for nothing
//! itself, so that the simulation decides by the same lines.

use crate::{
    call::Call,
    guard::{Guard, Second},
    resolve::Target,
};
use fairlead_core::{Again, Outcome, UpstreamError, UpstreamErrorKind, fault};
use fairlead_upstream::Final;
use fairlead_wire::Method;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Further tries of a call that certainly was not sent, and the pause before the first of them.
const MAX_UNSENT: u32 = 3;
const UNSENT_PAUSE: Duration = Duration::from_millis(20);

/// Why a call may be made again, or may not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    again: Again,
    /// The call was certainly not made.
    is_unmade: bool,
    /// The server answered, and refused it: its siblings would too.
    is_refused: bool,
    /// Its connection or session was lost, and with what outcome.
    lost: Option<Outcome>,
    retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn of(error: &UpstreamError) -> Self {
        let is_lost = matches!(error.kind, UpstreamErrorKind::SessionLost | UpstreamErrorKind::Lost);
        let again = match error.outcome {
            // Turned away before anything was done, whatever the reason.
            Outcome::NotMade if error.fault().again == Again::IfRepeatable => Again::Always,
            // What was lost was under way already.
            Outcome::Unknown if error.fault().again == Again::Always => Again::IfRepeatable,
            _ => error.fault().again,
        };
        Self {
            again,
            is_unmade: error.outcome == Outcome::NotMade,
            is_refused: error.status.is_some(),
            lost: is_lost.then_some(error.outcome),
            retry_after: error.retry_after,
        }
    }

    /// Of an answer that came with a status that says that the server failed.
    pub(super) fn of_answer(answer: &Final) -> Option<Self> {
        Self::of_status(answer.status)
    }

    pub(crate) fn of_status(status: Option<u16>) -> Option<Self> {
        let status = status.filter(|status| *status == 429 || *status >= 500)?;
        debug_assert!(fault::answered(Some(status), None) != Some(fairlead_core::Verdict::Good));
        Some(Self { again: Again::IfRepeatable, is_unmade: false, is_refused: true, lost: None, retry_after: None })
    }
}

/// What the decision depends on beside the failure.
pub(crate) struct Case<'a> {
    /// The server's, where it has one.
    pub(crate) guard: Option<&'a Guard>,
    /// Whether the call may be made again when nobody knows whether it took effect.
    pub(crate) is_repeatable: &'a dyn Fn() -> bool,
    /// How often it was made again so far.
    pub(crate) retries: &'a AtomicU32,
    /// Whether it becomes a task, or asks for one: then only what is always made again is.
    pub(crate) is_task: bool,
    /// When its time is over.
    pub(crate) deadline: Instant,
}

/// The tries of one exchange.
#[derive(Debug)]
pub(crate) struct Tries {
    /// The try that costs nothing was not made yet.
    at_once: bool,
    unsent: u32,
}

impl Tries {
    pub(crate) fn new() -> Self {
        Self { at_once: true, unsent: 0 }
    }

    /// Tries of a call that was under way: only what is configured.
    pub(super) fn late() -> Self {
        Self { at_once: false, unsent: MAX_UNSENT }
    }

    /// Takes the one try that is made at once.
    pub(super) fn take_at_once(&mut self) -> bool {
        std::mem::take(&mut self.at_once)
    }

    /// How long to wait before the call is made again; `None` when it is not. `has_more` says whether there is an instance
    /// that it has not tried.
    pub(crate) fn next(&mut self, case: &Case, failure: Failure, has_more: impl FnOnce() -> bool) -> Option<Duration> {
        // What never reached one instance may go to another: each is tried once.
        let is_elsewhere = has_more();
        if failure.is_unmade && !failure.is_refused && is_elsewhere {
            return Some(Duration::ZERO);
        }
        let may = match failure.again {
            Again::Always => true,
            Again::IfRepeatable => (case.is_repeatable)(),
            Again::Never => false,
        };
        if !may {
            return None;
        }
        // What was under way counts as a retry where those are counted.
        let is_free =
            failure.lost == Some(Outcome::NotMade) || case.guard.is_none_or(|guard| guard.retries().is_none());
        if failure.lost.is_some() && is_free && self.take_at_once() {
            return Some(Duration::ZERO);
        }
        if failure.lost == Some(Outcome::NotMade) && self.unsent < MAX_UNSENT {
            // The link of the second try was going down with that of the first: its owner is about to notice.
            self.unsent += 1;
            return Some(UNSENT_PAUSE * self.unsent);
        }
        configured(case, failure, is_elsewhere)
    }
}

/// The tries that the configuration of the server allows.
fn configured(case: &Case, failure: Failure, is_elsewhere: bool) -> Option<Duration> {
    let guard = case.guard?;
    let retries = guard.retries()?;
    if case.is_task {
        return None;
    }
    let made = case.retries.load(Ordering::Relaxed);
    if made + 1 >= retries.rule.attempts {
        return None;
    }
    let wait = match failure.retry_after {
        // Nobody has to be left in peace.
        None if is_elsewhere => Duration::ZERO,
        said => retries.wait(made + 1, said),
    };
    let is_too_late = Instant::now().checked_add(wait).is_none_or(|at| at >= case.deadline);
    if is_too_late || !guard.afford(Second::Retry) {
        return None;
    }
    case.retries.store(made + 1, Ordering::Relaxed);
    Some(wait)
}

/// Whether a call may be made again when nobody knows whether it took effect.
pub(crate) fn is_repeatable(call: &Call, target: &Target) -> bool {
    match call.frame.method_class() {
        Method::ResourcesRead | Method::PromptsGet | Method::Complete => true,
        Method::ToolsCall => target.is_repeatable(call),
        _ => false,
    }
}
