//! `servers`, `tools`, `resources`, `prompts`, `explain`: from a running gateway, a private one, and a URL.

use super::fixture::{Fixture, demo, marked};
use serde_json::Value;

fn rows(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("rows")
}

#[test]
fn a_running_gateway_is_asked() {
    let mark = "listing-running";
    let fixture = Fixture::new(&format!("{}  dead: {{ command: /does/not/exist }}\n", demo("crm", "crm", mark)));
    let _up = fixture.up();
    let servers = fixture.servers();
    assert_eq!(servers.len(), 2);
    assert_eq!(
        (&servers[0]["name"], &servers[0]["state"], &servers[0]["transport"]),
        (&"crm".into(), &"ready".into(), &"stdio".into())
    );
    assert!(servers[0]["tools"].as_u64() > Some(3) && servers[0]["bytes"].as_u64() > Some(1000), "{servers:?}");
    assert_eq!(servers[0]["processes"].as_array().map(Vec::len), Some(1));
    assert_eq!(servers[1]["state"], "down");
    assert!(servers[1]["error"].is_string());

    let ran = fixture.run(&["servers"]);
    assert!(
        ran.stdout.lines().all(|line| line.starts_with("NAME") || line.starts_with("crm") || line.starts_with("dead")),
        "{ran:?}"
    );
    let ran = fixture.run(&["tools"]);
    assert!(ran.stdout.contains("crm__search_customers") && ran.stderr.contains("tokens (estimated"), "{ran:?}");
    assert!(ran.stderr.contains("note: server `dead` is missing: "), "{ran:?}");
    let ran = fixture.run(&["resources", "--json"]);
    assert!(rows(&ran.stdout).iter().any(|row| row["kind"] == "template"), "{ran:?}");
    let ran = fixture.run(&["prompts", "--json"]);
    assert_eq!(rows(&ran.stdout)[0]["name"], "crm__account_brief");

    let ran = fixture.run(&["explain", "crm__get_customer", "--json"]);
    assert!(rows(&ran.stdout).iter().all(|row| row["ok"] != false), "{ran:?}");
    let ran = fixture.run(&["explain", "dead__anything"]);
    assert!(ran.stdout.contains("NO"), "{ran:?}");

    let url = fixture.instance().expect("it runs")["mcp_url"].as_str().expect("a URL").to_owned();
    let ran = fixture.run(&["tools", "--json", "--url", &url]);
    assert!(
        rows(&ran.stdout).iter().any(|row| row["name"] == "crm__get_customer" && row["server"] == "crm"),
        "{ran:?}"
    );
    let ran = fixture.run(&["servers", "--url", &url]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("hint: "), "{ran:?}");
}

#[test]
fn without_a_gateway_a_private_one_answers_and_leaves_nothing() {
    let mark = "listing-private";
    let fixture = Fixture::new(&demo("crm", "crm", mark));
    let ran = fixture.run(&["tools", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(rows(&ran.stdout).iter().any(|row| row["name"] == "crm__get_customer"));
    assert!(ran.stderr.contains("note: no gateway runs on"), "{ran:?}");
    assert_eq!(marked(mark), Vec::<u32>::new());
    let left: Vec<_> = std::fs::read_dir(fixture.path()).expect("a directory").filter_map(Result::ok).collect();
    assert_eq!(left.len(), 1, "only fairlead.yaml: {left:?}");
}

#[test]
fn what_is_filtered_out_is_listed_with_the_reason() {
    let fixture =
        Fixture::new(&format!("{}    tools: {{ deny: [\"delete_*\"] }}\n", demo("crm", "crm", "listing-hidden")));
    let _up = fixture.up();
    fixture.servers();
    let rows = rows(&fixture.run(&["tools", "--json"]).stdout);
    let hidden: Vec<_> = rows.iter().filter(|row| row["hidden"].is_string()).map(|row| &row["name"]).collect();
    assert_eq!(hidden, ["crm__delete_contact"]);
}
