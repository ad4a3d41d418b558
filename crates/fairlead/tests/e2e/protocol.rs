//! What the protocol has, through the gateway: what comes out is what a direct connection would have shown.

use fairlead_testkit::{Script, ScriptedServer};

use crate::support::{Gateway, NEWEST_LEGACY, StdioServer};

#[tokio::test]
async fn smoke() {
    let http = ScriptedServer::start(Script::legacy()).await;
    let stdio = StdioServer::new(Script::legacy());
    let gateway =
        Gateway::start(&format!("servers:\n  web: {{ url: \"{}\" }}\n  child: {{ {} }}\n", http.url(), stdio.yaml()))
            .await;
    let client = gateway.legacy("/mcp", NEWEST_LEGACY).await;
    let tools = client.list("tools/list", "tools").await.unwrap();
    assert_eq!(tools.len(), 6, "{tools:?}");
}
