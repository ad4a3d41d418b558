//! What the gateway says of its servers: the rows of `fairlead servers`, as the admin listener shows them.

use std::time::Duration;

use serde_json::Value;

use super::{Gateway, eventually_some, get};

/// The row of one server.
pub(crate) async fn row(gateway: &Gateway, server: &str) -> Value {
    let (status, body) = get(&gateway.admin_url("/health/live?verbose")).await;
    assert_eq!(status, 200, "{body}");
    let all: Value = serde_json::from_str(&body).unwrap();
    let rows = all["servers"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == server).unwrap_or_else(|| panic!("no server `{server}` in {all:#}")).clone()
}

/// Waits until the row of a server `holds`, and returns it.
pub(crate) async fn until(
    gateway: &Gateway,
    server: &str,
    limit: Duration,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    eventually_some(limit, &format!("server `{server}`: {what}"), async || {
        Some(row(gateway, server).await).filter(|row| holds(row))
    })
    .await
}

/// Waits until a server was listed by the running gateway.
pub(crate) async fn until_listed(gateway: &Gateway, server: &str) -> Value {
    until(gateway, server, super::PATIENCE, "listed", |row| row["tools"].is_u64() && row["stale"] == false).await
}

/// The process ids (of the guards) a server has now.
pub(crate) async fn processes(gateway: &Gateway, server: &str) -> Vec<u64> {
    row(gateway, server).await["processes"].as_array().unwrap().iter().filter_map(Value::as_u64).collect()
}
