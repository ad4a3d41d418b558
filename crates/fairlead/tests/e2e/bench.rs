//! `fairlead bench` against servers that are well, that fail now and then, and that are slow.

use std::{fs, time::Duration};

use fairlead_testkit::{Script, ScriptedServer, ToolScript};
use serde_json::{Value, json};

use crate::support::{Gateway, cli};

fn script() -> Script {
    Script::modern().tool(ToolScript::new("act"))
}

fn phase<'a>(report: &'a Value, name: &str) -> &'a Value {
    let phases = report["phases"].as_array().unwrap();
    phases.iter().find(|phase| phase["name"] == name).unwrap_or_else(|| panic!("no phase {name}: {report}"))
}

async fn bench(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut all = vec!["bench", "--json"];
    all.extend(arguments);
    let output = cli(dir.path(), &all).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {said}"));
    (output.status.code(), report, said)
}

#[tokio::test]
async fn as_many_calls_as_asked_for_in_both_eras() {
    let server = ScriptedServer::start(Script::dual().tool(ToolScript::new("act"))).await;
    let url = server.url();
    for (era, sessions) in [("modern", 0), ("legacy", 3), ("both", 3)] {
        let (sent, opened) = (server.received_method("tools/call").len(), server.received_method("initialize").len());
        let arguments = ["--url", &url, "--tool", "act", "--era", era, "--sessions", "3", "--rate", "50"];
        let (code, report, said) =
            bench(&[&arguments[..], &["--duration", "1s", "--phases", "baseline"]].concat()).await;
        assert_eq!(code, Some(0), "{said}");
        let phase = phase(&report, "baseline");
        assert_eq!((&phase["calls"], &phase["failed"]), (&json!(50), &json!(0)), "{era}: {report}");
        assert!(phase["p50_us"].as_u64() <= phase["p99_us"].as_u64() && phase["p999_us"].is_null(), "{report}");
        assert_eq!(server.received_method("tools/call").len() - sent, 50, "{era}");
        assert_eq!(server.received_method("initialize").len() - opened, sessions, "{era}");
    }
}

#[tokio::test]
async fn errors_are_counted_by_their_code_and_thresholds_fail() {
    let server = ScriptedServer::start(script()).await;
    let faults = "faults: { enabled: true, inject: [{ percent: 10, seed: 1, error: http 503 }] }";
    let gateway = Gateway::start(&format!("{faults}\nservers:\n  crm: {{ url: \"{}\" }}\n", server.url())).await;
    // The gateway of the configuration: its own code names what failed.
    let page = gateway.dir().join("report.html");
    let arguments = [
        "bench",
        "--tool",
        "crm__act",
        "--rate",
        "100",
        "--duration",
        "1s",
        "--phases",
        "baseline",
        "--max-error-rate",
        "2",
        "--html",
    ];
    let output = gateway.cli(&[&arguments[..], &[page.to_str().unwrap()]].concat()).await;
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(text.contains("FL-1301") && text.contains("baseline"), "{text}");
    assert!(said.contains("of the calls failed, more than 2 %"), "{said}");
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("<svg") && html.contains("FL-1301") && !html.contains("<script"), "{html}");

    // Which of the first 100 calls are hit is known.
    let (_, metrics) = crate::support::get(&gateway.admin_url("/metrics")).await;
    let start = "fairlead_faults_injected_total{mcp_server=\"crm\",kind=\"error\"} ";
    let hit = metrics.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{metrics}"));
    assert!((3..20).contains(&hit.parse::<u32>().unwrap()), "{hit} of 100");
    assert!(text.contains(&format!("{hit}  FL-1301")), "{text}");
    let allowed = [
        "bench",
        "--tool",
        "crm__act",
        "--concurrency",
        "2",
        "--duration",
        "1s",
        "--phases",
        "baseline",
        "--max-error-rate",
        "50",
    ];
    assert_eq!(gateway.cli(&allowed).await.status.code(), Some(0));
}

#[tokio::test]
async fn a_slow_server_is_slow_in_the_report() {
    let server = ScriptedServer::start(script()).await;
    let faults = "faults: { enabled: true, inject: [{ latency: 200ms }] }";
    let gateway = Gateway::start(&format!("{faults}\nservers:\n  crm: {{ url: \"{}\" }}\n", server.url())).await;
    let mix = gateway.dir().join("mix.json");
    fs::write(&mix, r#"[{"tool": "crm__act", "weight": 3}, {"method": "tools/list"}]"#).unwrap();
    let arguments =
        ["--url", &gateway.url("/mcp"), "--mix", mix.to_str().unwrap(), "--concurrency", "4", "--phases", "baseline"];
    let (code, report, said) = bench(&[&arguments[..], &["--duration", "2s", "--max-p99", "100ms"]].concat()).await;
    assert_eq!(code, Some(1), "{said}");
    let baseline = phase(&report, "baseline");
    assert!(baseline["p99_us"].as_u64().unwrap() >= 200_000, "{report}");
    assert!(said.contains("p99 is"), "{said}");
    assert!(report["points"].as_array().is_some_and(|points| points.len() > 2), "{report}");
}

#[tokio::test]
async fn who_cannot_be_reached_is_named_and_a_run_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let output = cli(
        dir.path(),
        &["bench", "--url", "http://127.0.0.1:1/mcp", "--duration", "1s", "--phases", "baseline", "--json"],
    )
    .await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(phase(&report, "baseline")["errors"]["no connection"], 20, "{report}");
    for wrong in [
        vec!["bench", "--url", "http://127.0.0.1:1/mcp", "--rate", "0"],
        vec!["bench", "--url", "http://127.0.0.1:1/mcp", "--rate", "1", "--concurrency", "1"],
        vec!["bench", "--url", "http://127.0.0.1:1/mcp", "--phases", "sprint"],
        vec!["bench", "--url", "http://127.0.0.1:1/mcp", "--arguments", "{}"],
        vec!["bench", "--url", "http://127.0.0.1:1/mcp", "--header", "x"],
    ] {
        assert_eq!(cli(dir.path(), &wrong).await.status.code(), Some(1), "{wrong:?}");
    }

    let server = ScriptedServer::start(script()).await;
    let child = tokio::process::Command::new(crate::support::program())
        .args(["bench", "--url", &server.url(), "--tool", "act", "--duration", "10m", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    crate::support::eventually(crate::support::PATIENCE, "calls arrive", || {
        server.received_method("tools/call").len() > 5
    })
    .await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["interrupted"], output.status.code()), (&json!(true), Some(0)), "{report}");
}
