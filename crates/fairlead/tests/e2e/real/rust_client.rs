//! The official Rust client, which runs in this process and describes what it sees as the programs do.

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
};

use rmcp::{
    ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient, ServiceError,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, GetPromptRequestParams, Implementation,
        ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams,
    },
    service::{NotificationContext, RunningService},
    transport::StreamableHttpClientTransport,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    clients::{Mode, Target},
    servers::Operation,
};

/// Remembers what arrives beside the answers.
#[derive(Debug, Clone, Default)]
struct Observer {
    progress: Arc<Mutex<Vec<Value>>>,
}

impl ClientHandler for Observer {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(ClientCapabilities::default(), Implementation::new("fairlead-test-rust", "1"))
    }

    async fn on_progress(&self, params: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        let mut step = plain(&params);
        step.as_object_mut().unwrap().remove("progressToken");
        self.progress.lock().unwrap().push(step);
    }
}

fn plain(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// Connects, does what it is told, and says what it saw; or why it did not come so far.
pub(crate) async fn observe(mode: Mode, target: Target<'_>, operations: Vec<Operation>) -> Result<Value, String> {
    let observer = Observer::default();
    let lifecycle = match mode {
        Mode::Legacy => ClientLifecycleMode::Initialize,
        Mode::Modern => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
        Mode::Auto => {
            ClientLifecycleMode::Auto { preferred_versions: vec![ProtocolVersion::V_2026_07_28], legacy_version: None }
        }
    };
    match target {
        Target::Url(url) => {
            let transport = StreamableHttpClientTransport::from_uri(url);
            let client = observer.clone().serve_with_lifecycle(transport, lifecycle).await;
            describe(client.map_err(|error| error.to_string())?, &observer, operations).await
        }
        Target::Secured { .. } => unreachable!("what it trusts is this process's, and not changed for one test"),
        Target::Stdio(command) => {
            let mut child = tokio::process::Command::new(&command[0])
                .args(&command[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| error.to_string())?;
            let transport = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
            let client = observer.clone().serve_with_lifecycle(transport, lifecycle).await;
            describe(client.map_err(|error| error.to_string())?, &observer, operations).await
        }
    }
}

async fn describe(
    client: RunningService<RoleClient, Observer>,
    observer: &Observer,
    operations: Vec<Operation>,
) -> Result<Value, String> {
    let text = |error: ServiceError| error.to_string();
    let peer = plain(&*client.peer_info().ok_or("the server said nothing of itself")?);
    let has = |capability: &str| !peer["capabilities"][capability].is_null();
    let mut document = json!({
        "protocol_version": peer["protocolVersion"],
        "server_info": peer["serverInfo"],
        "capabilities": peer["capabilities"],
        "instructions": peer["instructions"],
        "tools": [], "resources": [], "templates": [], "prompts": [],
    });
    if has("tools") {
        document["tools"] = plain(&client.list_all_tools().await.map_err(text)?);
    }
    if has("resources") {
        document["resources"] = plain(&client.list_all_resources().await.map_err(text)?);
        document["templates"] = plain(&client.list_all_resource_templates().await.map_err(text)?);
    }
    if has("prompts") {
        document["prompts"] = plain(&client.list_all_prompts().await.map_err(text)?);
    }
    let mut results = Vec::new();
    for operation in operations {
        observer.progress.lock().unwrap().clear();
        let (kind, name, outcome) = match operation {
            Operation::Call(name, arguments) => {
                let params = CallToolRequestParams::new(name.clone()).with_arguments(object(arguments));
                ("call", name, client.call_tool(params).await.map(|result| plain(&result)))
            }
            Operation::Read(uri) => {
                let params = ReadResourceRequestParams::new(uri.clone());
                ("read", uri, client.read_resource(params).await.map(|result| plain(&result)))
            }
            Operation::Prompt(name, arguments) => {
                let params = GetPromptRequestParams::new(name.clone()).with_arguments(object(arguments));
                ("prompt", name, client.get_prompt(params).await.map(|result| plain(&result)))
            }
        };
        let progress = std::mem::take(&mut *observer.progress.lock().unwrap());
        results.push(match outcome {
            Ok(result) => json!({"operation": kind, "name": name, "progress": progress, "result": result}),
            Err(ServiceError::McpError(error)) => {
                let error: &ErrorData = &error;
                json!({"operation": kind, "name": name, "progress": progress, "error": plain(error)})
            }
            Err(error) => return Err(format!("{name}: {error}")),
        });
    }
    document["results"] = results.into();
    let _ = client.cancel().await;
    Ok(document)
}

fn object(value: Value) -> serde_json::Map<String, Value> {
    let Value::Object(members) = value else { panic!("arguments are an object") };
    members
}
