//! The data plane: listeners, sessions, and the life of a call.
//!
//! A request passes a fixed list of phases, one file each, in this order; `pipeline.rs` reads as the
//! story. What is not configured is not on the path.
//!
//! ```text
//! listen -> identify -> admit -> resolve -> dispatch -> shape -> record
//! ```
//!
//! This crate knows no storage engine, no admin API and no child processes: servers are handles of
//! `fairlead-upstream`, what must survive a restart goes through the ports of `fairlead-core`.

mod admit;
mod affinity;
mod answer;
mod body;
mod bridge;
mod bulkhead;
mod call;
mod call_many;
mod capabilities;
mod completions;
mod compress;
mod connections;
mod correlate;
mod deadline;
mod dependencies;
mod dispatch;
mod duplex;
mod explain;
mod fallback;
mod faults;
mod gateway;
mod guard;
mod hello;
mod identify;
mod inspect;
mod limits;
mod list_notices;
mod list_page;
mod listen;
pub mod listener;
mod listening;
mod merged;
mod older;
mod origin;
mod overload;
mod park;
mod pipeline;
mod questions;
mod quirks;
mod record;
mod relay;
mod replay;
mod resolve;
mod response;
mod response_filter;
mod results;
mod reuse;
mod roots;
mod routing;
mod rules;
mod seal;
mod search;
mod seen;
mod session;
mod session_state;
mod shape;
mod shaping;
#[cfg(test)]
mod simulation;
mod skills;
mod snapshot;
mod sse_door;
mod tasks;
mod tls;
mod versions;
mod voice;
mod watching;
mod ws_door;

pub use body::Body;
pub use bulkhead::BulkheadCounts;
pub use compress::Compressed;
pub use dependencies::LearnedNeed;
pub use explain::{Exposed, Step};
pub use faults::{FaultError, FaultReading};
pub use gateway::{Applied, Counts, Gateway, Options};
pub use guard::{GuardReading, PostReading};
pub use listen::Door;
pub use quirks::{QUIRKS, Quirk};
pub use reuse::CacheCounts;
pub use seal::KEY_LEN;
pub use tls::TlsCounts;
