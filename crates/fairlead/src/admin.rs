//! The admin listener: metrics, probes and injected faults for operators.
//!
//! It has no authentication, so it listens on loopback unless configured otherwise, and on loopback
//! it answers only to loopback names: a web page that points a foreign name at 127.0.0.1 learns nothing.

use crate::{control::server_rows, faults};
use bytes::Bytes;
use fairlead_core::{BreakerState, Code};
use fairlead_gateway::{Gateway, GuardReading};
use fairlead_observe::{
    BulkheadReading, ConnectionGauges, GaugeSink, Gauges, GuardCounts, InstanceGauges, Metrics,
    OPENMETRICS_CONTENT_TYPE,
};
use fairlead_store::Store;
use fairlead_upstream::{ListingKind, PoolStats, ServerHandle};
use fairlead_wire::{CapabilitySet, Era};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

/// Connections at most.
pub(crate) const MAX_CONNECTIONS: usize = 256;

/// What the admin listener shows.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) gateway: Gateway,
    pub(crate) metrics: Metrics,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Admin {
    /// Answers one request.
    pub(crate) async fn handle(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if self.address.ip().is_loopback() && !names_loopback(request.headers(), request.uri().host()) {
            let code = Code::ForeignOrigin.label();
            return text(StatusCode::FORBIDDEN, format!("this listener answers to loopback names only ({code})\n"));
        }
        let path = request.uri().path();
        if path == faults::ADMIN_PATH || path.starts_with("/faults/") {
            return faults::answer(faults::admin(&self.gateway, self.address.ip().is_loopback(), request).await);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n".to_owned());
        }
        let verbose =
            request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("verbose")));
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/health/live" => self.health(true, verbose),
            "/health/ready" => self.health(self.gateway.is_ready(), verbose),
            "/health/startup" => self.health(self.gateway.has_started(), verbose),
            _ => text(
                StatusCode::NOT_FOUND,
                format!(
                    "there is /metrics, /health/live, /health/ready, /health/startup and /faults ({})\n",
                    Code::UnknownPath.label()
                ),
            ),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut response = text(StatusCode::OK, self.metrics.encode());
        let kind = HeaderValue::from_static(OPENMETRICS_CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    fn health(&self, ok: bool, verbose: bool) -> Response<Full<Bytes>> {
        let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let word = if ok { "ok" } else { "unavailable" };
        if !verbose {
            return text(status, format!("{word}\n"));
        }
        let servers = server_rows(&self.gateway);
        let body = serde_json::json!({ "status": word, "version": env!("CARGO_PKG_VERSION"), "servers": servers });
        let mut response = text(status, format!("{body:#}\n"));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// The states a server can be in, for the metric that names them all.
const STATES: &[&str] = &["starting", "ready", "idle", "down", "stopped"];

/// What is measured when somebody looks. Emptied at the end, because the gateway itself holds the metrics that hold this.
#[derive(Default)]
pub(crate) struct Watched(Mutex<Option<(Gateway, Store)>>);

impl Watched {
    /// Begins, or ends, to look at a gateway and what it writes to.
    pub(crate) fn set(&self, house: Option<(Gateway, Store)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = house;
    }
}

impl Gauges for Watched {
    fn read(&self, out: &mut GaugeSink) {
        let Some((gateway, store)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        out.unwritten_records(store.unwritten());
        let counts = gateway.counts();
        out.sessions(counts.sessions);
        out.streams(counts.streams);
        out.calls_in_flight(counts.calls);
        out.parked(counts.parked);
        out.replay_bytes(counts.replay_bytes);
        out.open_questions(counts.questions);
        out.subscriptions(counts.subscriptions);
        out.tasks(counts.tasks);
        out.limit_keys(counts.limit_keys);
        for pool in gateway.bulkheads() {
            let reading = BulkheadReading {
                running: pool.running as u64,
                waiting: pool.waiting as u64,
                limit: pool.limit as u64,
                held_bytes: pool.held as u64,
                refused: pool.refused,
            };
            out.bulkhead(&pool.name, reading);
        }
        for (priority, reason, count) in gateway.shed() {
            out.shed(priority, reason, count);
        }
        for (limit, level, count) in gateway.limit_refusals() {
            out.limit_refusals(&limit, level, count);
        }
        for (server, kind, count) in gateway.faults_injected() {
            out.faults(&server, kind, count);
        }
        if let Some(tls) = gateway.tls_counts() {
            let outcomes =
                [("completed", tls.completed), ("failed", tls.failed), ("slow", tls.slow), ("plain", tls.plain)];
            out.tls(tls.expires, outcomes);
        }
        let cache = gateway.cache_counts();
        out.cache(cache.entries, cache.bytes, cache.evictions);
        for of in gateway.compressed().into_iter().filter(|of| of.answers > 0) {
            out.compressed(of.coding, of.answers, of.plain, of.sent);
        }
        for server in gateway.servers() {
            let links = server.links();
            let name = server.name().as_str();
            out.processes(links.iter().filter(|link| link.process_id().is_some()).count());
            out.links(name, links.len());
            let view = server.view();
            if let Some(catalog) = view.nearest_catalog(Era::Modern, CapabilitySet::BARE) {
                for kind in ListingKind::ALL {
                    let listing = catalog.listing(kind);
                    out.listing(name, kind.member(), listing.bytes(), listing.tokens());
                }
            }
            if let Some(pool) = server.connections() {
                out.connections(name, connections(&pool));
            }
            out.server_state(name, view.state.word(), STATES);
            if server.has_siblings() {
                instances(&server, out);
            }
            for need in gateway.learned_needs(server.name()) {
                out.learned(name, &need.tool, need.server.as_str(), need.percent);
            }
            if let Some(guard) = gateway.guard(name) {
                guarded(name, &guard, out);
            }
        }
    }
}

fn instances(server: &ServerHandle, out: &mut GaugeSink) {
    for one in server.instance_status() {
        let gauges = InstanceGauges {
            share: one.share,
            in_flight: one.instance.in_flight(),
            latency: one.latency,
            ended: one.counted.0,
            failed: one.counted.1,
        };
        out.instance(server.name().as_str(), one.instance.name(), gauges);
    }
}

fn guarded(server: &str, guard: &GuardReading, out: &mut GaugeSink) {
    let counts = GuardCounts {
        held_back: guard.held_back,
        retried: guard.retried,
        hedged: guard.hedged,
        unaffordable: guard.unaffordable,
    };
    out.guard(server, counts);
    let own = guard.breaker.iter().map(|breaker| ("", breaker, &guard.tools));
    let instances = guard.instances.iter().map(|one| (&*one.name, &one.breaker, &one.tools));
    for (instance, breaker, tools) in own.chain(instances) {
        out.breaker((server, instance, ""), breaker.state.word(), &BreakerState::WORDS);
        for (tool, breaker) in tools {
            out.breaker((server, instance, tool), breaker.state.word(), &BreakerState::WORDS);
        }
    }
}

/// What the metrics say of a server's connections.
fn connections(pool: &PoolStats) -> ConnectionGauges {
    ConnectionGauges {
        states: [("idle", pool.idle), ("in_use", pool.in_use()), ("connecting", pool.connecting)],
        waiting: pool.waiting,
        opened: pool.opened,
        failed: pool.failed,
        timed_out: pool.timed_out,
        closed: pool.closed().collect(),
    }
}

/// Whether the request is addressed to this machine by a loopback name.
fn names_loopback(headers: &HeaderMap, authority: Option<&str>) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, _) => authority,
        (Some(_), Some(_)) => None,
    };
    let Some(host) = host else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_answered() {
        for (host, ok) in [
            ("127.0.0.1:8643", true),
            ("127.1.2.3", true),
            ("localhost:1", true),
            ("LOCALHOST", true),
            ("[::1]:8643", true),
            ("evil.example:8643", false),
            ("10.0.0.1", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            assert_eq!(names_loopback(&headers, None), ok, "{host}");
        }
        assert!(!names_loopback(&HeaderMap::new(), None));
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("localhost"));
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(!names_loopback(&two, None));
    }
}
