//! What may be asked for how often, and what gives way when there is too much of it.
//!
//! Rules and the state they are decided by; no IO, no runtime, no clock: the time comes with every question. The
//! crate knows neither servers nor stores. What counts is behind a port ([`Limiter`]), of which [`Ledger`] is the
//! one that counts in this process; one that counts for several replicas implements the same.

mod adaptive;
mod bucket;
mod calendar;
mod faults;
mod ledger;
mod limiter;
mod repeat;
mod shed;
mod tighten;
mod window;

pub use adaptive::{AdaptiveLimit, Bounds, Signal};
pub use faults::{ActiveFault, Asked};
pub use ledger::Ledger;
pub use limiter::{Ask, Denied, Level, Limit, Limiter, Measure, Moment, Verdict};
pub use repeat::{CallHash, Repeats};
pub use shed::Shares;
pub use tighten::Tightening;
