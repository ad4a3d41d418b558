//! Load in phases, honestly measured, and the report of it.
//!
//! What is called is somebody else's ([`Target`]); this crate decides when, counts, and says what it came to. At a given rate
//! the latency of a call counts from when it should have begun, so a server that stalls is charged for all the calls that
//! had to wait, and not only for those it happened to hold (no *coordinated omission*).

mod html;
mod pacer;
mod plan;
mod plot;
mod recorder;
mod report;
mod run;
mod text;

pub use plan::{Kind, MAX_CONCURRENCY, MAX_RATE, MAX_TOTAL, Pace, Phase, Plan, PlanError};
pub use report::{Breach, PhaseReport, Point, Report, Thresholds, Verdict};
pub use run::{Progress, Target, run};
