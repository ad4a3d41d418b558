//! The official conformance suites through the gateway.
