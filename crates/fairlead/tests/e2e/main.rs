//! The whole gateway, from outside: the real program on ports of its own, scripted servers behind it, scripted clients
//! before it. Each module is one promise; a test that fails keeps the directory of its gateway and says where it is.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod at_capacity;
mod bad_input;
mod batching;
mod bench;
mod bounds;
mod bridge_legacy;
mod bridge_modern;
mod broken;
mod compression;
mod connections;
mod dependencies;
mod extensions;
mod faults;
mod healing;
mod instances;
mod leaks;
mod limits;
mod matrix;
mod names;
mod overload;
mod protocol;
mod questions;
mod quirks;
mod real;
mod reload;
mod resilience;
mod resume;
mod reuse;
mod routing;
mod search;
mod sessions;
mod shaping;
mod soak;
mod subscriptions;
mod support;
mod tasks;
mod tls;
mod tool_rules;
mod transports;
mod under_load;
mod upstream_transports;
mod versions;
