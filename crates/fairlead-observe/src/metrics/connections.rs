//! The families about connections to servers reached over HTTP.

use super::{
    expose::{as_gauge, counter},
    gauges::{ConnectionGauges, GaugeSink},
};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use std::fmt;

/// Writes what the pools say.
pub(super) fn encode(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "fairlead_connections",
        "Connections to a server reached over HTTP by what they do",
        None,
        MetricType::Gauge,
    )?;
    for (server, pool) in &gauges.connections {
        for (state, count) in pool.states {
            let labels = [("mcp_server", server.as_str()), ("state", state)];
            family.encode_family(&labels)?.encode_gauge(&as_gauge(count as u64))?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_connection_waiters",
        "Calls that wait for a connection to their server",
        None,
        MetricType::Gauge,
    )?;
    for (server, pool) in &gauges.connections {
        family.encode_family(&[("mcp_server", server.as_str())])?.encode_gauge(&as_gauge(pool.waiting as u64))?;
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_connections_closed",
        "Connections to a server that were closed by the reason",
        None,
        MetricType::Counter,
    )?;
    for (server, pool) in &gauges.connections {
        for (why, count) in &pool.closed {
            counter(family.encode_family(&[("mcp_server", server.as_str()), ("reason", *why)])?, *count)?;
        }
    }
    let mut count = |name, help, read: fn(&ConnectionGauges) -> u64| -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (server, pool) in &gauges.connections {
            counter(family.encode_family(&[("mcp_server", server.as_str())])?, read(pool))?;
        }
        Ok(())
    };
    count("fairlead_connections_opened", "Connections to a server that were opened", |pool| pool.opened)?;
    count("fairlead_connections_failed", "Attempts to connect to a server that failed", |pool| pool.failed)?;
    let help = "Calls that waited longer for a connection than acquire_timeout";
    count("fairlead_connection_timeouts", help, |pool| pool.timed_out)
}
