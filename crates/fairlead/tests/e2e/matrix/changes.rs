//! What is said outside of calls: changes of lists and of resources.

use std::{sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use futures_util::future::join_all;
use serde_json::json;

use super::{
    REVISIONS,
    client::Ear,
    feature::Outcome,
    house::{House, Row},
    lost,
};
use crate::support::relaxed;

/// Within that everybody hears of a change.
const SOON: Duration = Duration::from_secs(5);
/// Between two updates of a resource, until one is heard.
const AGAIN: Duration = Duration::from_millis(300);
/// How often a resource is updated until that is heard.
const TIMES: usize = 12;

const UPDATED: &str = "notifications/resources/updated";
const TOOLS_CHANGED: &str = "notifications/tools/list_changed";

/// The client hears of the resource it subscribed to, and of no other.
pub(super) async fn subscriptions(row: &Row) -> anyhow::Result<Outcome> {
    if row.capabilities["resources"]["subscribe"] != true {
        return Ok(Outcome::NotAdvertised);
    }
    let uri = row.uri(&row.own_resource());
    if !row.is_modern() {
        row.client.result("resources/subscribe", json!({"uri": uri})).await?;
    }
    let filter = json!({"resourceSubscriptions": [uri]});
    let (mut ear, accepted) = row.client.hear(filter.clone()).await?;
    ensure!(accepted == filter, "advertised, but only {accepted} was accepted");
    for _ in 0..TIMES {
        row.upstream().notify(UPDATED, &json!({"uri": row.own_resource()})).await;
        let Ok(message) = ear.next(UPDATED, AGAIN).await else { continue };
        ensure!(message["params"]["uri"] == uri, "subscribed to {uri}, told of {message}");
        drop(ear);
        if !row.is_modern() {
            row.client.result("resources/unsubscribe", json!({"uri": uri})).await?;
        }
        return Ok(Outcome::Passes);
    }
    bail!("no update came, although {TIMES} were sent")
}

/// All rows hear of a change of a list, each server in turn.
pub(super) async fn everybody_hears(house: &House, rows: &[Arc<Row>]) -> Vec<(Arc<Row>, Outcome)> {
    let opening = rows.iter().map(async |row| {
        let ear = row.client.hear(json!({"toolsListChanged": true})).await.map(|(ear, _)| ear);
        (Arc::clone(row), ear)
    });
    let mut open = join_all(opening).await;
    let mut outcomes = Vec::new();
    for server in 0..REVISIONS.len() {
        house.servers[server].change_list().await;
        let concerned = open.iter_mut().filter(|(row, _)| row.merged || row.server == server);
        let hearing = concerned.map(async |(row, ear)| {
            let outcome = match ear {
                Ok(ear) => hears(row, server, ear).await.unwrap_or_else(|error| lost(format!("{error:#}"))),
                Err(error) => lost(format!("no stream: {error:#}")),
            };
            (Arc::clone(row), outcome)
        });
        outcomes.extend(join_all(hearing).await.into_iter().filter(|(row, _)| row.server == server));
    }
    outcomes
}

/// The client is told, and the list it gets then has what is new.
async fn hears(row: &Row, server: usize, ear: &mut Ear) -> anyhow::Result<Outcome> {
    if row.capabilities["tools"]["listChanged"] != true {
        return Ok(Outcome::NotAdvertised);
    }
    let mut was_told = false;
    // What was heard first may be an older change at another server of the endpoint.
    loop {
        if let Err(error) = ear.next(TOOLS_CHANGED, relaxed(SOON)).await {
            let what = if was_told { "it was told before it was listed, and not again" } else { "it was not told" };
            return Err(error.context(what));
        }
        if row.server != server {
            return Ok(Outcome::Passes);
        }
        was_told = true;
        let tools = row.client.list("tools/list", "tools").await?;
        if tools.iter().any(|tool| tool["name"] == row.name("extra_tool")) {
            return Ok(Outcome::Passes);
        }
    }
}
