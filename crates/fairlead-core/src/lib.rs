//! The words the whole house shares: who calls, what a server is called, how a refusal looks.
//!
//! Everything here is plain data. This crate does no IO, knows no transport and no storage engine;
//! what it needs from outside (a store, a clock) it declares as a port and the binary wires it.

pub mod backoff;
pub mod breaker;
pub mod caller;
pub mod clock;
pub mod code;
pub mod error;
pub mod fault;
pub mod ports;
pub mod retry_budget;
pub mod server_name;
pub mod tokens;

pub use backoff::{Backoff, Dice};
pub use breaker::{Breaker, BreakerReading, BreakerSettings, BreakerState, Force, Verdict};
pub use caller::{Caller, CallerKey};
pub use clock::Clock;
pub use code::{Code, CodeInfo};
pub use error::{Blame, Outcome, Refusal, UpstreamError, UpstreamErrorKind};
pub use fault::{Again, Fault, FaultClass};
pub use retry_budget::RetryBudget;
pub use server_name::{ServerName, ServerNameError};
