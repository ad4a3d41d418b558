//! MCP on the wire: envelopes, splices, eras, SSE, headers, names. No IO.
//!
//! The crate's one promise: **what is only forwarded stays the bytes it came as.** A [`Frame`] is a message plus where its
//! routed members are; [`edit::Edits`] replaces those and copies the rest. There is no tree of the message anywhere, so
//! number spelling, member order, unknown members and the difference between absent and `null` survive by construction.
//!
//! What it does not do: it opens no connection, spawns nothing, reads no clock, and knows neither callers nor servers. Whether
//! a message is *allowed* is decided above; whether it is *well formed* is decided here, once.

pub mod capability;
pub mod edit;
pub mod era;
pub mod frame;
pub mod fuzz;
pub mod header;
pub mod list;
pub mod message;
pub mod method;
pub mod name;
mod scan;
pub mod sse;

pub use capability::CapabilitySet;
pub use era::{Era, Revision};
pub use frame::{Field, Frame, FrameError, Incoming, Kind, Limits, Span};
pub use method::Method;
