//! How a call ended, as a number: the index of its counters.

use fairlead_core::{Code, code::TABLE};
use std::sync::atomic::{AtomicU64, Ordering};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStatus {
    /// A result.
    Ok,
    /// A result of `tools/call` with `isError`.
    ToolError,
    /// A JSON-RPC error of the server.
    RpcError,
    /// The gateway said no.
    Refused(Code),
    /// The exchange with the server failed.
    UpstreamFailed(Code),
    /// The client cancelled it or went away.
    Cancelled,
}

/// Statuses without a code come first, then the codes in the order of their table.
const PLAIN: [&str; 4] = ["ok", "tool_error", "rpc_error", "cancelled"];
/// How many values the label `status_code` has.
pub(super) const STATUS_CODES: usize = PLAIN.len() + TABLE.len();
/// The values of the label `status` of tool durations: without single codes, because they multiply with tools and buckets.
pub(super) const CLASSES: [&str; 6] = ["ok", "tool_error", "rpc_error", "cancelled", "refused", "upstream_failed"];

const FIRST_CODE: usize = 1000;
const CODE_SPAN: usize = 1000;

/// From a code's number to its place in the table. Built when compiling, so that a code outside the span is a compile error.
static PLACES: [u8; CODE_SPAN] = {
    let mut places = [0; CODE_SPAN];
    let mut place = 0;
    while place < TABLE.len() {
        assert!(place <= u8::MAX as usize);
        places[TABLE[place].code as usize - FIRST_CODE] = place as u8;
        place += 1;
    }
    places
};

fn place(code: Code) -> usize {
    usize::from(PLACES[code as usize - FIRST_CODE])
}

impl CallStatus {
    /// The index of the label `status_code`.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Ok => 0,
            Self::ToolError => 1,
            Self::RpcError => 2,
            Self::Cancelled => 3,
            Self::Refused(code) | Self::UpstreamFailed(code) => PLAIN.len() + place(code),
        }
    }

    /// The index into [`CLASSES`].
    pub(super) fn class(self) -> usize {
        match self {
            Self::Refused(_) => 4,
            Self::UpstreamFailed(_) => 5,
            plain => plain.index(),
        }
    }
}

/// The label `status_code` of an index.
pub(super) fn label(index: usize) -> String {
    match PLAIN.get(index) {
        Some(plain) => (*plain).to_owned(),
        None => TABLE[index - PLAIN.len()].code.label(),
    }
}

/// Refusals by code.
pub(super) struct Refusals([AtomicU64; TABLE.len()]);

impl Refusals {
    pub(super) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; TABLE.len()])
    }

    pub(super) fn add(&self, code: Code) {
        self.0[place(code)].fetch_add(1, Ordering::Relaxed);
    }

    /// Every code that was refused at least once, with how often.
    pub(super) fn counted(&self) -> impl Iterator<Item = (Code, u64)> {
        TABLE
            .iter()
            .zip(&self.0)
            .map(|(info, count)| (info.code, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_index_and_label() {
        let mut seen = [false; STATUS_CODES];
        for status in [CallStatus::Ok, CallStatus::ToolError, CallStatus::RpcError, CallStatus::Cancelled] {
            assert!(!std::mem::replace(&mut seen[status.index()], true));
            assert_eq!(CLASSES[status.class()], label(status.index()));
        }
        for info in TABLE {
            let status = CallStatus::Refused(info.code);
            assert!(!std::mem::replace(&mut seen[status.index()], true), "{}", info.title);
            assert_eq!(label(status.index()), info.code.label());
            assert_eq!(CallStatus::UpstreamFailed(info.code).index(), status.index());
            assert_eq!(CLASSES[status.class()], "refused");
        }
        assert!(seen.iter().all(|seen| *seen));
    }
}
