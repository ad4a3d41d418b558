//! The admin listener, and the block at the start.

use super::fixture::{Fixture, demo, get};

#[test]
fn metrics_and_probes() {
    let fixture = Fixture::new(&format!("{}  dead: {{ command: /does/not/exist }}\n", demo("crm", "crm", "operators")));
    let up = fixture.up();
    fixture.servers();
    let instance = fixture.instance().expect("it runs");
    let admin = instance["admin_url"].as_str().expect("a URL");
    let ran = fixture.run(&["call", "crm__get_customer", r#"{"id":"C-0001"}"#]);
    assert_eq!(ran.code, 0, "{ran:?}");

    let (status, metrics) = get(admin, "/metrics", None);
    assert_eq!(status, 200);
    assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
    for wanted in [r#"server="crm""#, r#"server="dead""#, "processes", "sessions"] {
        assert!(metrics.contains(wanted), "{wanted} is missing:\n{metrics}");
    }
    assert!(!metrics.contains("C-0001"));

    for probe in ["live", "ready", "startup"] {
        assert_eq!(get(admin, &format!("/health/{probe}"), None).0, 200, "{probe}: a dead server is no reason");
        let mcp = instance["mcp_url"].as_str().expect("a URL");
        assert_eq!(get(mcp, &format!("/health/{probe}"), None).0, 200, "{probe}");
    }
    let (_, verbose) = get(admin, "/health/ready?verbose", None);
    assert!(verbose.contains("\"crm\"") && verbose.contains("\"down\""), "{verbose}");
    assert_eq!(get(admin, "/", None).0, 404);
    assert_eq!(get(admin, "/metrics", Some("evil.example")).0, 403);

    let log = up.log();
    for wanted in ["Fairlead ", " is ready.", "/mcp", "claude mcp add --transport http fairlead", "crm ", "dead"] {
        assert!(log.contains(wanted), "{wanted} is missing:\n{log}");
    }
}
