//! What is recorded comes out under the names and labels that are documented.

use super::*;
use fairlead_wire::Method;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

struct Fixed;

impl Gauges for Fixed {
    fn read(&self, out: &mut GaugeSink) {
        out.sessions(3);
        out.streams(2);
        out.calls_in_flight(1);
        out.parked(6);
        out.replay_bytes(7);
        out.open_questions(7);
        out.subscriptions(8);
        out.tasks(9);
        out.unwritten_records(1);
        out.processes(4);
        out.compressed("zstd", 2, 9_000, 3_000);
        out.limit_keys(4);
        out.bulkhead("reports", BulkheadReading { running: 1, refused: 2, ..BulkheadReading::default() });
        out.shed("low", "memory", 3);
        out.faults("files", "latency", 2);
        out.tls(1_800_000_000, [("completed", 5), ("failed", 2), ("slow", 1), ("plain", 3)]);
        out.limit_refusals("server:files", "server", 2);
        out.server_state("files", "ready", &["starting", "ready", "down"]);
        out.breaker(("files", "1", "read"), "open", &["closed", "open"]);
        out.guard("files", GuardCounts { held_back: 1, retried: 2, hedged: 3, unaffordable: 4 });
        out.learned("files", "read", "disk", 50);
        out.links("files", 5);
        out.listing("files", "tools", 900, 200);
        out.connections(
            "files",
            ConnectionGauges {
                states: [("idle", 2), ("in_use", 1), ("connecting", 0)],
                waiting: 4,
                opened: 9,
                failed: 1,
                timed_out: 2,
                closed: vec![("idle", 5), ("lifetime", 1)],
            },
        );
        let one = InstanceGauges { share: 0.5, in_flight: 2, latency: Duration::from_millis(5), ended: 7, failed: 1 };
        out.instance("files", "10.0.0.4:3001", one);
    }
}

fn call(method: Method, status: CallStatus, ms: u64) -> CallRecord<'static> {
    CallRecord { method, tool: None, status, duration: Duration::from_millis(ms) }
}

fn tool(name: &str, status: CallStatus) -> CallRecord<'_> {
    CallRecord { method: Method::ToolsCall, tool: Some(name), status, duration: Duration::from_millis(2) }
}

/// Metrics with at least one sample of every family.
fn full() -> Metrics {
    let metrics = Metrics::new();
    metrics.register(Arc::new(Fixed));
    let files = metrics.server("files");
    files.record(&tool("read", CallStatus::Ok));
    files.record(&call(Method::ToolsList, CallStatus::Refused(Code::Draining), 0));
    files.question(QuestionOutcome::Declined);
    files.reused(ReuseOutcome::Hit);
    metrics
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|present| present == line), "no line `{line}` in\n{text}");
}

#[test]
fn calls_are_counted_by_method_and_outcome() {
    let metrics = Metrics::new();
    let files = metrics.server("files");
    for ms in [0, 1, 40, 70_000] {
        files.record(&call(Method::ToolsList, CallStatus::Ok, ms));
    }
    files.record(&call(Method::ToolsList, CallStatus::Cancelled, 40));
    files.record(&call(Method::Other, CallStatus::RpcError, 40));
    metrics.server("files").record(&call(Method::ResourcesRead, CallStatus::UpstreamFailed(Code::ServerTimeout), 5));
    let text = metrics.encode();
    has(&text, "mcp_requests_total{mcp_server=\"files\",method=\"tools/list\",status_code=\"ok\"} 4");
    has(&text, "mcp_requests_total{mcp_server=\"files\",method=\"tools/list\",status_code=\"cancelled\"} 1");
    has(&text, "mcp_requests_total{mcp_server=\"files\",method=\"other\",status_code=\"rpc_error\"} 1");
    has(&text, "mcp_requests_total{mcp_server=\"files\",method=\"resources/read\",status_code=\"FL-1302\"} 1");
    let duration = |rest: &str| {
        format!("mcp_request_duration_seconds{}", rest.replace('@', "mcp_server=\"files\",method=\"tools/list\""))
    };
    has(&text, &duration("_count{@} 5"));
    has(&text, &duration("_sum{@} 70.081"));
    for (bound, count) in [("0.0005", 1), ("0.001", 2), ("0.05", 4), ("60.0", 4), ("+Inf", 5)] {
        has(&text, &duration(&format!("_bucket{{le=\"{bound}\",@}} {count}")));
    }
    assert!(!text.contains("fairlead_refusals_total"), "a failed exchange is no refusal");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn refusals_are_counted_with_and_without_a_server() {
    let metrics = Metrics::new();
    metrics.refused(Code::UnknownName);
    metrics.server("a").record(&call(Method::ToolsCall, CallStatus::Refused(Code::UnknownName), 0));
    metrics.server("b").record(&call(Method::ToolsCall, CallStatus::Refused(Code::Draining), 0));
    let text = metrics.encode();
    has(&text, "fairlead_refusals_total{code=\"FL-1201\"} 2");
    has(&text, "fairlead_refusals_total{code=\"FL-1111\"} 1");
}

#[test]
fn tools_are_bounded_and_invented_names_earn_no_series() {
    let metrics = Metrics::new();
    let files = metrics.server("files");
    files.record(&tool("invented", CallStatus::RpcError));
    files.record(&tool("invented", CallStatus::Refused(Code::UnknownName)));
    for number in 0..250 {
        files.record(&tool(&format!("tool_{number:03}"), CallStatus::Ok));
    }
    files.record(&tool("tool_007", CallStatus::RpcError));
    files.record(&tool("tool_249", CallStatus::ToolError));
    let text = metrics.encode();
    let names: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.split_once("tool_name=\"")?.1.split_once('"').map(|(name, _)| name))
        .collect();
    assert_eq!(names.len(), 201);
    assert!(!names.contains("invented") && !names.contains("tool_249"));
    let count = |tool: &str, status: &str| {
        format!("mcp_tool_duration_seconds_count{{mcp_server=\"files\",tool_name=\"{tool}\",status=\"{status}\"}}")
    };
    has(&text, &format!("{} 50", count("other", "ok")));
    has(&text, &format!("{} 1", count("other", "tool_error")));
    has(&text, &format!("{} 1", count("other", "rpc_error")));
    has(&text, &format!("{} 1", count("other", "refused")));
    has(&text, &format!("{} 1", count("tool_007", "rpc_error")));
}

#[test]
fn a_tool_called_other_makes_no_second_series() {
    let metrics = Metrics::new();
    metrics.server("a").record(&tool("other", CallStatus::Ok));
    metrics.server("a").record(&tool("new", CallStatus::RpcError));
    metrics.server("a").record(&tool("other", CallStatus::Ok));
    let text = metrics.encode();
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "twice: {line}");
    }
}

#[test]
fn names_of_tools_cannot_break_the_text() {
    let metrics = Metrics::new();
    metrics.server("a").record(&tool("x\"} 1\nevil\\", CallStatus::Ok));
    let text = metrics.encode();
    assert!(text.contains(r#"tool_name="x\"} 1\nevil\\","#), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("evil")));
}

#[test]
fn states_are_read_when_scraped_and_added_up() {
    let metrics = full();
    metrics.register(Arc::new(Fixed));
    let text = metrics.encode();
    has(&text, "fairlead_sessions 6");
    has(&text, "fairlead_open_questions 14");
    has(&text, "fairlead_subscriptions 16");
    has(&text, "fairlead_tasks 18");
    has(&text, "fairlead_unwritten_records 2");
    has(&text, "fairlead_processes 8");
    has(&text, "fairlead_listing_bytes{mcp_server=\"files\",list=\"tools\"} 900");
    has(&text, "fairlead_listing_tokens{mcp_server=\"files\",list=\"tools\"} 200");
    has(&text, "fairlead_replay_bytes 14");
    has(&text, "fairlead_links{mcp_server=\"files\"} 10");
    has(&text, "fairlead_server_state{mcp_server=\"files\",state=\"ready\"} 1");
    has(&text, "fairlead_server_state{mcp_server=\"files\",state=\"down\"} 0");
    has(&text, "fairlead_questions_total{mcp_server=\"files\",outcome=\"declined\"} 1");
    has(&text, "fairlead_questions_total{mcp_server=\"files\",outcome=\"answered\"} 0");
}

#[test]
fn a_forgotten_server_is_gone_and_a_known_one_keeps_its_counts() {
    let metrics = full();
    metrics.server("files").record(&tool("read", CallStatus::Ok));
    has(&metrics.encode(), "mcp_requests_total{mcp_server=\"files\",method=\"tools/call\",status_code=\"ok\"} 2");
    metrics.forget_server("files");
    assert!(!metrics.encode().contains("mcp_requests_total"));
}

#[test]
fn many_threads_lose_no_count() {
    let metrics = Metrics::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let metrics = &metrics;
            scope.spawn(move || {
                let server = metrics.server("a");
                for number in 0..2000 {
                    server.record(&tool(&format!("{thread}-{}", number % 100), CallStatus::Ok));
                }
            });
        }
    });
    let text = metrics.encode();
    has(&text, "mcp_requests_total{mcp_server=\"a\",method=\"tools/call\",status_code=\"ok\"} 8000");
    let counted = text.lines().filter(|line| line.starts_with("mcp_tool_duration_seconds_count"));
    let (mut series, mut sum) = (0, 0);
    for line in counted {
        series += 1;
        sum += line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
    }
    assert_eq!((series, sum), (201, 8000));
}

#[test]
fn every_method_has_a_place() {
    let server = Metrics::new().server("a");
    for method in Method::ALL.iter().copied().chain([Method::Other]) {
        server.record(&call(method, CallStatus::Ok, 1));
    }
    let labels: BTreeSet<_> = server.methods().map(|(label, ..)| label).collect();
    assert_eq!(labels.len(), Method::ALL.len() + 1);
    assert!(Method::ALL.iter().all(|method| labels.contains(method.as_str())));
}

/// Families of the text: name as it is scraped, to (type, label names).
fn exposed(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            families.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&current), "`{line}` under {current}");
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            families.get_mut(&current).unwrap().1.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// The rows ``| `name` | type | labels | meaning |`` of the page.
fn documented(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    page.lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, meaning] = cells[..] else { return None };
            let name = name.strip_prefix('`')?.strip_suffix('`')?;
            assert!(!meaning.is_empty(), "{name} has no meaning");
            let labels =
                labels.split(',').map(|label| label.trim().trim_matches('`')).filter(|label| !label.is_empty());
            Some((name.to_owned(), (kind.to_owned(), labels.map(str::to_owned).collect())))
        })
        .collect()
}

#[test]
fn the_page_lists_exactly_what_is_exposed() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md")).unwrap();
    let mut documented = documented(&page);
    if !cfg!(target_os = "linux") {
        documented.retain(|name, _| !name.starts_with("process_"));
    }
    assert_eq!(documented, exposed(&full().encode()));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured() {
    let (memory, fds) = (process::resident_bytes().unwrap(), process::open_fds().unwrap());
    assert!((100_000..100_000_000_000).contains(&memory), "{memory}");
    let more: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    // Other tests of the process open and close files too.
    assert!(process::open_fds().unwrap() + 50 > fds + more.len() as u64);
}
