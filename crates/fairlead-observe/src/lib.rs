//! Call records to metrics and logs.
//!
//! [`Metrics`] counts calls through handles that are resolved once per server, and asks everything that is a *state*
//! (sessions, links, server states) only when somebody scrapes. [`logging`] writes sentences with fields to standard error.
//!
//! This crate does not know how a call is routed, opens no listener, and never sees arguments or results.

pub mod logging;
pub mod metrics;

pub use metrics::{
    BulkheadReading, CallRecord, CallStatus, ConnectionGauges, GaugeSink, Gauges, GuardCounts, InstanceGauges, Metrics,
    OPENMETRICS_CONTENT_TYPE, QuestionOutcome, ReuseOutcome, ServerMetrics, resident_bytes,
};
