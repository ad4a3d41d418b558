//! What servers ask their clients.

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use super::{feature::Outcome, house::Row};
use crate::support::{PATIENCE, eventually_some};

/// What the server got to hear, from the result of an asking tool.
fn heard(result: &Value) -> &Value {
    &result["structuredContent"]["answers"][0]
}

/// The question reaches the client, and what it says the server.
pub(super) async fn asked(row: &Row, tool: &str) -> anyhow::Result<Outcome> {
    let before = row.asked().len();
    let result = row.call(tool, json!({})).await?;
    let asked = row.asked().split_off(before);
    let heard = &heard(&result)["result"];
    let own = json!(format!("row {}", row.number));
    let (method, right) = match tool {
        "form" => ("elicitation/create", heard["content"]["name"] == own),
        "url" => ("elicitation/create", heard["action"] == "accept"),
        "sampling" => ("sampling/createMessage", heard["model"] == own),
        "sampling_tools" => ("sampling/createMessage", heard["model"] == own && heard["content"]["name"] == "weather"),
        other => bail!("no such question: {other}"),
    };
    ensure!(right, "the server heard {result}");
    let [(asked, params)] = asked.as_slice() else { bail!("the client was asked {asked:?}") };
    ensure!(asked == method, "the client was asked for {asked}");
    match tool {
        "form" => ensure!(params["requestedSchema"]["required"] == json!(["name"]), "the form is {params}"),
        "url" => {
            ensure!(params["url"] == "https://example.com/sign-in", "the elicitation is {params}");
            ensure!(row.is_modern() || params["elicitationId"].is_string(), "it has no id: {params}");
        }
        "sampling_tools" => ensure!(params["toolChoice"]["mode"] == "required", "the sampling is {params}"),
        _ => {}
    }
    Ok(Outcome::Passes)
}

/// The client's roots reach the server that asks for them.
pub(super) async fn roots(row: &Row) -> anyhow::Result<Outcome> {
    let result = row.call_rooted().await?;
    ensure!(heard(&result)["result"]["roots"][0]["uri"] == row.root(), "the server heard {result}");
    // Nobody can be asked for anything in the middle of this.
    let params = json!({
        "ref": {"type": "ref/prompt", "name": row.rooted("prompt_0")},
        "argument": {"name": "who", "value": "v"},
    });
    let result = row.rooted.result("completion/complete", params).await?;
    ensure!(result["completion"]["values"][0] == "v1", "the completion is {result}");
    Ok(Outcome::Passes)
}

/// The client does not have the feature: it is not asked, and whoever waits for an answer is told.
pub(super) async fn refused(row: &Row, tool: &str) -> anyhow::Result<()> {
    let before = row.asked().len();
    let answer = row.client.request("tools/call", json!({"name": row.name(tool), "arguments": {}})).await?;
    ensure!(row.asked().len() == before, "the client was asked {:?}", row.asked().last());
    match answer.result() {
        // A server of a session is answered with an error.
        Ok(result) => ensure!(heard(&result)["error"]["code"].is_i64(), "the server heard {result}"),
        // The call that a modern server does not finish is.
        Err(error) => ensure!(answer.answer["error"]["code"].is_i64(), "{error:#}"),
    }
    Ok(())
}

/// `notifications/elicitation/complete` reaches the client on the stream of its call.
pub(super) async fn complete_notice(row: &Row) -> anyhow::Result<Outcome> {
    let call = json!({"name": row.name("url"), "arguments": {}});
    let answer = row.client.request("tools/call", call).await?;
    answer.result()?;
    let notices = answer.told("notifications/elicitation/complete");
    let asked = row.asked().pop().map(|(_, params)| params["elicitationId"].clone()).unwrap_or_default();
    ensure!(notices.len() == 1 && notices[0]["elicitationId"] == asked, "of {asked}: {notices:?}");
    Ok(Outcome::Passes)
}

/// A server that asks after the client said that its roots changed gets the new ones.
pub(super) async fn roots_changed(row: &Row) -> anyhow::Result<Outcome> {
    row.call_rooted().await?;
    let root = format!("file:///row/{}/changed", row.number);
    row.set_root(&root);
    row.rooted.notify("notifications/roots/list_changed", json!({})).await?;
    eventually_some(PATIENCE, "the changed roots at the server", async || {
        let result = row.call_rooted().await.ok()?;
        (heard(&result)["result"]["roots"][0]["uri"] == root).then_some(())
    })
    .await;
    Ok(Outcome::Passes)
}
