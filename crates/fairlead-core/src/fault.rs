//! The error matrix: what kind of failure something is, whether it speaks against the server, and whether the call may
//! be made again. One table; `docs/resilience.md` shows it, and a test compares the two.
//!
//! "Not made" and "outcome unknown" are different things: what was certainly not made may always be made again, anything
//! else only where a second effect does no harm.

use crate::{
    breaker::Verdict,
    error::{Outcome, UpstreamError, UpstreamErrorKind},
};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultClass {
    /// It may be over the next time.
    Transient,
    /// The server says that it is too much now, and when it will do again.
    Busy,
    /// It will be the same the next time.
    Permanent,
    /// Something the server needs, or the server as a whole, is known to be down.
    Cascading,
    /// The limits of the gateway itself or the caller's own time.
    Local,
}

impl FaultClass {
    /// How the table calls it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Busy => "busy",
            Self::Permanent => "permanent",
            Self::Cascading => "cascading",
            Self::Local => "local",
        }
    }
}

/// Whether a call may be made again after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Always: nothing was done.
    Always,
    /// Where the call may be repeated: a read, or a tool that says so or of which the operator says so.
    IfRepeatable,
    /// Never.
    Never,
}

impl Again {
    /// How the table calls it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfRepeatable => "if repeatable",
            Self::Never => "never",
        }
    }
}

/// A row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub what: &'static str,
    /// What kind of failure it is.
    pub class: FaultClass,
    /// Whether it speaks against the server: breakers count it.
    pub counts: bool,
    /// Whether the call may be made again.
    pub again: Again,
}

macro_rules! rows {
    ($($name:ident $what:literal $class:ident $counts:literal $again:ident)*) => {
        $(const $name: Fault =
            Fault { what: $what, class: FaultClass::$class, counts: $counts, again: Again::$again };)*
        /// The matrix, in the order in which a failure is looked for.
        pub const FAULTS: &[Fault] = &[$($name),*];
    };
}

rows! {
    HELD_BACK "a breaker is open, of the server, the tool or something the server depends on" Cascading false Never
    NO_TIME "there is no time left to make the call" Local false Never
    FULL "the server has as many calls or sessions as it may have" Local false Never
    BUSY "HTTP 429, or 503 with `Retry-After`" Busy false IfRepeatable
    REFUSED "any other HTTP 4xx that is no message" Permanent false Never
    FAULTY "HTTP 5xx" Transient true IfRepeatable
    UNREACHABLE "no connection or process; nothing was sent" Transient true Always
    NOT_TAKEN "the server did not take the call in time" Transient true Always
    SILENT "no answer in time" Transient true IfRepeatable
    GONE_BEFORE "the connection was gone before the call was sent" Transient true Always
    GONE_WITHIN "the connection broke in mid-call" Transient true IfRepeatable
    FORGOTTEN "the server forgot the session" Transient false Always
    GARBAGE "an answer that is not MCP" Transient true IfRepeatable
    TOO_LARGE "an answer over `max_message`" Permanent false Never
    LOST_TASK "the task went with its connection" Permanent false Never
}

impl UpstreamError {
    /// The row of the matrix it falls under.
    #[must_use]
    pub fn fault(&self) -> &'static Fault {
        let is_made = self.outcome == Outcome::Unknown;
        match (self.kind, self.status) {
            (UpstreamErrorKind::HeldBack, _) => &HELD_BACK,
            (UpstreamErrorKind::NoTime, _) => &NO_TIME,
            (UpstreamErrorKind::AtCapacity | UpstreamErrorKind::NoConnection, _) => &FULL,
            (UpstreamErrorKind::SessionLost, _) => &FORGOTTEN,
            (_, Some(status)) if is_busy(status, self.retry_after.is_some()) => &BUSY,
            (_, Some(400..=499)) => &REFUSED,
            (_, Some(500..=599)) => &FAULTY,
            (UpstreamErrorKind::Unavailable, _) if is_made => &FAULTY,
            (UpstreamErrorKind::Unavailable, _) => &UNREACHABLE,
            (UpstreamErrorKind::Timeout, _) if is_made => &SILENT,
            (UpstreamErrorKind::Timeout, _) => &NOT_TAKEN,
            (UpstreamErrorKind::Lost, _) if is_made => &GONE_WITHIN,
            (UpstreamErrorKind::Lost, _) => &GONE_BEFORE,
            (UpstreamErrorKind::Garbage, _) => &GARBAGE,
            (UpstreamErrorKind::TooLarge, _) => &TOO_LARGE,
            (UpstreamErrorKind::Gone, _) => &LOST_TASK,
        }
    }

    /// What it says of the server, if anything.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let fault = self.fault();
        match (fault.class, self.retry_after) {
            (FaultClass::Busy, Some(wait)) => Some(Verdict::Busy(wait)),
            _ => fault.counts.then_some(Verdict::Bad),
        }
    }
}

/// What an answer says of the server by the HTTP status it came with: a tool error and an error about the request are
/// good answers. `Busy` needs the time the server names.
#[must_use]
pub fn answered(status: Option<u16>, retry_after: Option<std::time::Duration>) -> Option<Verdict> {
    match status {
        Some(status) if is_busy(status, retry_after.is_some()) => retry_after.map(Verdict::Busy),
        Some(500..=599) => Some(Verdict::Bad),
        _ => Some(Verdict::Good),
    }
}

fn is_busy(status: u16, says_when: bool) -> bool {
    status == 429 || (status == 503 && says_when)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn error(kind: UpstreamErrorKind, outcome: Outcome) -> UpstreamError {
        UpstreamError::new(kind, outcome, "")
    }

    #[test]
    fn what_was_not_made_may_be_made_and_what_may_have_been_only_if_repeatable() {
        use UpstreamErrorKind::{Garbage, Lost, Timeout, Unavailable};
        for kind in [Unavailable, Timeout, Lost] {
            assert_eq!(error(kind, Outcome::NotMade).fault().again, Again::Always, "{kind:?}");
        }
        for kind in [Unavailable, Timeout, Lost, Garbage] {
            assert_eq!(error(kind, Outcome::Unknown).fault().again, Again::IfRepeatable, "{kind:?}");
        }
    }

    #[test]
    fn statuses() {
        let with = |status, after: Option<u64>| {
            error(UpstreamErrorKind::Garbage, Outcome::Unknown).with_status(status, after.map(Duration::from_secs))
        };
        assert_eq!(with(429, Some(3)).verdict(), Some(Verdict::Busy(Duration::from_secs(3))));
        assert_eq!(with(503, Some(3)).verdict(), Some(Verdict::Busy(Duration::from_secs(3))));
        assert_eq!(with(429, None).verdict(), None);
        assert_eq!(with(503, None).verdict(), Some(Verdict::Bad));
        assert_eq!(with(400, None).verdict(), None);
        assert_eq!(with(401, None).fault().again, Again::Never);
        assert_eq!(answered(Some(500), None), Some(Verdict::Bad));
        assert_eq!(answered(Some(404), None), Some(Verdict::Good));
        assert_eq!(answered(None, None), Some(Verdict::Good));
    }

    /// The page that operators read says the same.
    #[test]
    fn the_documented_matrix_is_this_one() {
        let page = include_str!("../../../docs/resilience.md");
        let shown: Vec<&str> = page
            .lines()
            .skip_while(|line| !line.starts_with("| what happened |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .collect();
        let rows: Vec<String> = FAULTS
            .iter()
            .map(|fault| {
                let counts = if fault.counts { "yes" } else { "no" };
                format!("| {} | {} | {counts} | {} |", fault.what, fault.class.word(), fault.again.word())
            })
            .collect();
        assert_eq!(shown, rows, "write these rows into docs/resilience.md:\n{}", rows.join("\n"));
    }
}
