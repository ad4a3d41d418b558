//! From counters to OpenMetrics families. Names and help texts stand here and in `docs/metrics.md`.

use super::{
    State, connections,
    gauges::{BulkheadReading, GaugeSink},
    histogram::Reading,
    process,
    server::ServerMetrics,
    status,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};
use std::{fmt, sync::Arc};

/// Writes everything at each scrape.
pub(super) struct Exposition(pub(super) Arc<State>);

type Servers = Vec<(String, Arc<ServerMetrics>)>;

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // Copied out, so that a slow scrape holds no lock.
        let servers: Servers =
            self.0.servers().iter().map(|(name, server)| (name.clone(), Arc::clone(server))).collect();
        let sources = self.0.gauges().clone();
        let mut gauges = GaugeSink::default();
        for source in &sources {
            source.read(&mut gauges);
        }
        requests(&mut encoder, &servers)?;
        tools(&mut encoder, &servers)?;
        questions(&mut encoder, &servers)?;
        reuse(&mut encoder, &servers, &gauges)?;
        self.refusals(&mut encoder)?;
        guards(&mut encoder, &gauges)?;
        states(&mut encoder, &gauges)?;
        connections::encode(&mut encoder, &gauges)?;
        instances(&mut encoder, &gauges)?;
        compressed(&mut encoder, &gauges)?;
        process_metrics(&mut encoder)
    }
}

fn requests(encoder: &mut DescriptorEncoder, servers: &Servers) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "mcp_requests",
        "Finished requests by server, method and outcome",
        None,
        MetricType::Counter,
    )?;
    for (name, server) in servers {
        for (method, counts, _) in server.methods() {
            for (index, count) in counts {
                let code = status::label(index);
                let labels = [("mcp_server", name.as_str()), ("method", method), ("status_code", &code)];
                counter(family.encode_family(&labels)?, count)?;
            }
        }
    }
    let mut family = encoder.encode_descriptor(
        "mcp_request_duration_seconds",
        "Time from the complete request to the last byte of the answer",
        None,
        MetricType::Histogram,
    )?;
    for (name, server) in servers {
        for (method, _, reading) in server.methods() {
            histogram(family.encode_family(&[("mcp_server", name.as_str()), ("method", method)])?, &reading)?;
        }
    }
    Ok(())
}

fn tools(encoder: &mut DescriptorEncoder, servers: &Servers) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "mcp_tool_duration_seconds",
        "Time of tool calls by tool and class of outcome",
        None,
        MetricType::Histogram,
    )?;
    for (name, server) in servers {
        server.tools(|tool, class, reading| {
            let labels = [("mcp_server", name.as_str()), ("tool_name", tool), ("status", class)];
            histogram(family.encode_family(&labels)?, &reading)
        })?;
    }
    Ok(())
}

fn questions(encoder: &mut DescriptorEncoder, servers: &Servers) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "fairlead_questions",
        "Questions of servers to their clients by what became of them",
        None,
        MetricType::Counter,
    )?;
    for (name, server) in servers {
        for (outcome, count) in server.questions() {
            counter(family.encode_family(&[("mcp_server", name.as_str()), ("outcome", outcome)])?, count)?;
        }
    }
    Ok(())
}

fn reuse(encoder: &mut DescriptorEncoder, servers: &Servers, gauges: &GaugeSink) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "fairlead_cache_requests",
        "Calls whose answers may be kept or shared by what was done with them",
        None,
        MetricType::Counter,
    )?;
    for (name, server) in servers {
        for (outcome, count) in server.reuse() {
            counter(family.encode_family(&[("mcp_server", name.as_str()), ("outcome", outcome)])?, count)?;
        }
    }
    let evictions = encoder.encode_descriptor(
        "fairlead_cache_evictions",
        "Answers that had to make room for others",
        None,
        MetricType::Counter,
    )?;
    counter(evictions, gauges.cache_evictions)?;
    gauge(encoder, "fairlead_cache_entries", "Answers that are kept", gauges.cache_entries)?;
    gauge(encoder, "fairlead_cache_bytes", "Bytes of answers that are kept", gauges.cache_bytes)
}

impl Exposition {
    fn refusals(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "fairlead_refusals",
            "Requests that the gateway itself refused by code",
            None,
            MetricType::Counter,
        )?;
        for (code, count) in self.0.refusals.counted() {
            counter(family.encode_family(&[("code", code.label())])?, count)?;
        }
        Ok(())
    }
}

fn guards(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("fairlead_held_back", "Calls that a breaker held back", None, MetricType::Counter)?;
    for (server, counts) in &gauges.guards {
        counter(family.encode_family(&[("mcp_server", server.as_str())])?, counts.held_back)?;
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_retries",
        "Calls that were made again, or not for want of budget",
        None,
        MetricType::Counter,
    )?;
    for (server, counts) in &gauges.guards {
        for (kind, count) in [("retry", counts.retried), ("hedge", counts.hedged), ("over_budget", counts.unaffordable)]
        {
            counter(family.encode_family(&[("mcp_server", server.as_str()), ("kind", kind)])?, count)?;
        }
    }
    let help = "Percent of the calls of a tool in which another server was called";
    let mut family = encoder.encode_descriptor("fairlead_learned_dependency_percent", help, None, MetricType::Gauge)?;
    for ((server, tool, needs), percent) in &gauges.learned {
        let labels = [("mcp_server", server.as_str()), ("tool_name", tool.as_str()), ("needs", needs.as_str())];
        family.encode_family(&labels)?.encode_gauge(&i64::from(*percent))?;
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_breaker_state",
        "1 for the state a breaker is in and 0 for the others",
        None,
        MetricType::Gauge,
    )?;
    for ((server, instance, tool), state) in &gauges.breakers {
        for word in state.all {
            let is_current = i64::from(*word == state.current);
            let mut labels = vec![("mcp_server", server.as_str()), ("tool_name", tool.as_str()), ("state", word)];
            if !instance.is_empty() {
                labels.insert(1, ("instance", instance.as_str()));
            }
            family.encode_family(&labels)?.encode_gauge(&is_current)?;
        }
    }
    Ok(())
}

fn compressed(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "fairlead_compressed_answers",
        "Answers that were compressed for clients by coding",
        None,
        MetricType::Counter,
    )?;
    for (coding, (answers, ..)) in &gauges.compressed {
        counter(family.encode_family(&[("coding", *coding)])?, *answers)?;
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_compressed_answer_bytes",
        "Bytes of those answers before and after",
        None,
        MetricType::Counter,
    )?;
    for (coding, (_, plain, sent)) in &gauges.compressed {
        for (form, bytes) in [("plain", plain), ("sent", sent)] {
            counter(family.encode_family(&[("coding", *coding), ("form", form)])?, *bytes)?;
        }
    }
    Ok(())
}

fn states(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    for (name, help, value) in [
        ("fairlead_sessions", "Sessions of legacy clients that are alive", gauges.sessions),
        ("fairlead_streams", "Open streams to clients", gauges.streams),
        ("fairlead_calls_in_flight", "Calls that have begun and not ended", gauges.calls_in_flight),
        ("fairlead_parked_calls", "Calls that wait for an answer of their client", gauges.parked),
        ("fairlead_replay_bytes", "Bytes of streams kept for clients that come back", gauges.replay_bytes),
        ("fairlead_open_questions", "Questions of servers that wait for an answer", gauges.questions),
        ("fairlead_subscriptions", "Resources that clients watch", gauges.subscriptions),
        ("fairlead_tasks", "Tasks that are remembered", gauges.tasks),
        ("fairlead_unwritten_records", "Records that are not in the database yet", gauges.unwritten_records),
        ("fairlead_limit_keys", "Callers and other keys that limits are counted for", gauges.limit_keys),
        ("fairlead_processes", "Server processes that run", gauges.processes),
    ] {
        gauge(encoder, name, help, value)?;
    }
    let mut family =
        encoder.encode_descriptor("fairlead_limit_refusals", "Calls refused by a limit", None, MetricType::Counter)?;
    for ((limit, level), count) in &gauges.limit_refusals {
        counter(family.encode_family(&[("limit", limit.as_str()), ("level", level)])?, *count)?;
    }
    bulkheads(encoder, gauges)?;
    faults(encoder, gauges)?;
    tls(encoder, gauges)?;
    let mut family = encoder.encode_descriptor(
        "fairlead_server_state",
        "1 for the state a server is in and 0 for the others",
        None,
        MetricType::Gauge,
    )?;
    for (server, state) in &gauges.states {
        for word in state.all {
            let is_current = i64::from(*word == state.current);
            family.encode_family(&[("mcp_server", server.as_str()), ("state", word)])?.encode_gauge(&is_current)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_links",
        "Open links to a server: connections, sessions or processes",
        None,
        MetricType::Gauge,
    )?;
    for (server, count) in &gauges.links {
        family.encode_family(&[("mcp_server", server.as_str())])?.encode_gauge(&as_gauge(*count))?;
    }
    listings(encoder, gauges)
}

fn listings(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    type Pick = fn(&(u64, u64)) -> u64;
    let families: [(&str, &str, Pick); 2] = [
        ("fairlead_listing_bytes", "Bytes of what a server lists", |size| size.0),
        ("fairlead_listing_tokens", "Tokens of what a server lists, estimated", |size| size.1),
    ];
    for (name, help, pick) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for ((server, list), size) in &gauges.listings {
            let labels = [("mcp_server", server.as_str()), ("list", list)];
            family.encode_family(&labels)?.encode_gauge(&as_gauge(pick(size)))?;
        }
    }
    Ok(())
}

fn bulkheads(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    type Read = fn(&BulkheadReading) -> u64;
    let families: [(&str, &str, Read); 4] = [
        ("fairlead_bulkhead_running", "Calls under way in a bulkhead", |reading| reading.running),
        ("fairlead_bulkhead_waiting", "Calls that wait for a place in a bulkhead", |reading| reading.waiting),
        ("fairlead_bulkhead_limit", "Calls that may be under way in a bulkhead", |reading| reading.limit),
        ("fairlead_bulkhead_held_bytes", "Bytes of requests in a bulkhead", |reading| reading.held_bytes),
    ];
    for (name, help, read) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (bulkhead, reading) in &gauges.bulkheads {
            family.encode_family(&[("bulkhead", bulkhead.as_str())])?.encode_gauge(&as_gauge(read(reading)))?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_bulkhead_refusals",
        "Calls refused by a bulkhead",
        None,
        MetricType::Counter,
    )?;
    for (bulkhead, reading) in &gauges.bulkheads {
        counter(family.encode_family(&[("bulkhead", bulkhead.as_str())])?, reading.refused)?;
    }
    let mut family = encoder.encode_descriptor("fairlead_shed", "Calls shed under load", None, MetricType::Counter)?;
    for ((priority, reason), count) in &gauges.shed {
        counter(family.encode_family(&[("priority", *priority), ("reason", *reason)])?, *count)?;
    }
    Ok(())
}

fn faults(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    let what = "Faults injected on purpose, by server and kind";
    let mut family = encoder.encode_descriptor("fairlead_faults_injected", what, None, MetricType::Counter)?;
    for ((server, kind), count) in &gauges.faults {
        counter(family.encode_family(&[("mcp_server", server.as_str()), ("kind", *kind)])?, *count)?;
    }
    Ok(())
}

fn tls(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    let Some((expires, handshakes)) = &gauges.tls else { return Ok(()) };
    gauge(
        encoder,
        "fairlead_tls_certificate_expires_seconds",
        "Until when the certificate of the listener is good, in seconds since 1970",
        *expires,
    )?;
    let mut family = encoder.encode_descriptor(
        "fairlead_tls_handshakes",
        "Connections to the listener by what came of their TLS handshake",
        None,
        MetricType::Counter,
    )?;
    for (outcome, count) in handshakes {
        counter(family.encode_family(&[("outcome", *outcome)])?, *count)?;
    }
    Ok(())
}

fn instances(encoder: &mut DescriptorEncoder, gauges: &GaugeSink) -> fmt::Result {
    let labels = |key: &(String, String)| [("mcp_server", key.0.clone()), ("instance", key.1.clone())];
    let mut family = encoder.encode_descriptor(
        "fairlead_instance_share",
        "The part of its share of calls an instance gets",
        None,
        MetricType::Gauge,
    )?;
    for (key, one) in &gauges.instances {
        family.encode_family(&labels(key))?.encode_gauge(&one.share)?;
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_instance_calls_in_flight",
        "Calls in flight on an instance",
        None,
        MetricType::Gauge,
    )?;
    for (key, one) in &gauges.instances {
        family.encode_family(&labels(key))?.encode_gauge(&as_gauge(one.in_flight as u64))?;
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_instance_latency_seconds",
        "Smoothed latency of an instance, peaks counted",
        None,
        MetricType::Gauge,
    )?;
    for (key, one) in &gauges.instances {
        family.encode_family(&labels(key))?.encode_gauge(&one.latency.as_secs_f64())?;
    }
    let mut family = encoder.encode_descriptor(
        "fairlead_instance_calls",
        "Calls that ended on an instance",
        None,
        MetricType::Counter,
    )?;
    for ((server, instance), one) in &gauges.instances {
        for (result, count) in [("ok", one.ended.saturating_sub(one.failed)), ("failed", one.failed)] {
            let labels = [("mcp_server", server.as_str()), ("instance", instance.as_str()), ("result", result)];
            counter(family.encode_family(&labels)?, count)?;
        }
    }
    Ok(())
}

fn process_metrics(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("fairlead_build_info", "1 with the version that runs", None, MetricType::Gauge)?;
    family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?.encode_gauge(&1_i64)?;
    if let Some(bytes) = process::resident_bytes() {
        gauge(encoder, "process_resident_memory_bytes", "Resident memory of the gateway", bytes)?;
    }
    if let Some(count) = process::open_fds() {
        gauge(encoder, "process_open_fds", "Open file descriptors of the gateway", count)?;
    }
    Ok(())
}

pub(super) fn as_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&as_gauge(value))
}

pub(super) fn counter(mut encoder: MetricEncoder, value: u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

fn histogram(mut encoder: MetricEncoder, reading: &Reading) -> fmt::Result {
    encoder.encode_histogram::<NoLabelSet>(reading.sum(), reading.count(), &reading.buckets(), None)
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exposition")
    }
}
