//! The crate's promises, tested from outside.
#![allow(clippy::unwrap_used, reason = "the lint's exception for tests does not reach their shared functions")]

mod edits;
mod fidelity;
mod frames;
mod headers;
mod properties;
mod replay;
