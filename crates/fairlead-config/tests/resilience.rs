//! Breakers, retries, fallbacks and dependencies as they are written, and what of it does not go together.

use fairlead_config::{Config, Fallback, Problems, parse_str};
use fairlead_core::ServerName;
use std::time::Duration;

fn read(servers: &str) -> Result<Config, Problems> {
    parse_str("test.yaml", &format!("servers:\n{servers}"), std::path::Path::new("/nowhere"), &|_| None)
}

fn rules(servers: &str, name: &str) -> fairlead_config::ServerRules {
    let config = read(servers).unwrap_or_else(|problems| panic!("{problems:?}"));
    let name = ServerName::parse(name).expect("a name");
    config.rules.get(&name).map(|rules| (**rules).clone()).unwrap_or_default()
}

fn problem(servers: &str) -> String {
    let problems = read(servers).expect_err("it is wrong");
    problems.errors().map(|problem| problem.message.to_string()).collect::<Vec<_>>().join("; ")
}

#[test]
fn sections_have_defaults_and_off_is_off() {
    let on = rules("  a: { command: x, breaker: {}, retry: {} }\n", "a");
    let breaker = on.breaker.expect("it is on");
    assert_eq!((breaker.settings.consecutive, breaker.settings.window, breaker.settings.percent), (5, 10, 50));
    assert_eq!((breaker.settings.open, breaker.settings.half_open), (Duration::from_secs(30), Duration::from_secs(60)));
    assert_eq!((breaker.settings.trials, breaker.tools), (3, true));
    let retry = on.retry.expect("it is on");
    assert_eq!((retry.attempts, retry.budget), (3, 20));
    assert_eq!((retry.backoff.base, retry.backoff.max), (Duration::from_millis(100), Duration::from_secs(30)));
    assert!(rules("  a: { command: x, breaker: off, retry: off }\n", "a").is_empty());
    assert!(rules("  a: { command: x }\n", "a").is_empty());
    assert!(problem("  a: { command: x, retry: { attempts: 6 } }\n").contains("attempts"));
    assert!(problem("  a: { command: x, breaker: { percents: 6 } }\n").contains("percents"));
}

#[test]
fn tools_say_it_for_themselves() {
    let rules = rules(
        "  a:\n    command: x\n    fallback: [{ server: b }]\n    tools:\n      rules:\n        \"*\": { hedge: 200ms }\n        \
         find: { fallback: [{ text: no, structured: { known: false } }] }\n  b: { command: y }\n",
        "a",
    );
    let server = ServerName::parse("b").expect("a name");
    assert_eq!(rules.fallback.as_deref(), Some(&[Fallback::Server { server, tool: None }][..]));
    let find = rules.tool("find");
    assert_eq!(find.hedge, Some(Duration::from_millis(200)));
    let fixed = Fallback::Static { text: Some("no".into()), structured: Some("{\"known\":false}".into()) };
    assert_eq!(find.fallback.as_deref(), Some(&[fixed][..]));
    assert!(rules.tool("other").fallback.is_none());
}

#[test]
fn what_does_not_go_together() {
    for (servers, said) in [
        ("  a: { command: x, depends_on: [b] }\n", "there is no server `b`"),
        ("  a: { command: x, depends_on: [a] }\n", "`a` depends on itself"),
        ("  a: { command: x, depends_on: [b] }\n  b: { command: y, depends_on: [a] }\n", "depends on itself"),
        ("  a: { command: x, fallback: [{ server: c }] }\n", "there is no server `c`"),
        ("  a: { command: x, fallback: [{ server: a }] }\n", "names the server itself"),
        ("  a: { command: x, fallback: [{}] }\n", "exactly one thing"),
        ("  a: { command: x, fallback: [{ text: t, server: a }] }\n", "exactly one thing"),
    ] {
        assert!(problem(servers).contains(said), "{servers}: {}", problem(servers));
    }
}

#[test]
fn checks_that_can_never_pass_are_refused() {
    for (server, said) in [
        ("command: x, health: { readiness: { http: /health } }", "a path can only be asked"),
        ("tcp: \"127.0.0.1:1\", health: { readiness: { http: /health } }", "a path can only be asked"),
        ("command: x, health: { liveness: { tcp: instance } }", "a process has no address"),
    ] {
        let said_now = problem(&format!("  a: {{ {server} }}\n"));
        assert!(said_now.contains(said), "{server}: {said_now}");
    }
    for server in [
        "command: x, health: { readiness: { http: \"http://127.0.0.1:1/health\" } }",
        "url: \"http://127.0.0.1:1/mcp\", health: { readiness: { http: /health } }",
        "tcp: \"127.0.0.1:1\", health: { readiness: { tcp: instance } }",
        "command: x, health: { readiness: { tcp: \"127.0.0.1:1\" } }",
    ] {
        let read = read(&format!("  a: {{ {server} }}\n"));
        assert!(read.is_ok(), "{server}: {:?}", read.err());
    }
}
