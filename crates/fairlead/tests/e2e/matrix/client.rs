//! A client as the cells use it: over HTTP+SSE where its revision has nothing else, otherwise over Streamable HTTP.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use fairlead_testkit::{AnswerStream, AnyClient, AnyClientOptions, McpClient, Reply, Way};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Gateway, MODERN, PATIENCE};

/// The revision without Streamable HTTP.
const OLDEST: &str = "2024-11-05";
/// Between two looks at what has come.
const LOOK: Duration = Duration::from_millis(10);

type Answering = Arc<dyn Fn(&str, &Value) -> Reply + Send + Sync>;

/// See the module. Clones are the same client.
#[derive(Clone)]
pub(super) enum Client {
    Http(McpClient),
    Sse(AnyClient),
}

/// What a client heard between a request and its answer, and the answer.
pub(super) struct Heard {
    pub(super) answer: Value,
    pub(super) before: Vec<Value>,
}

impl Heard {
    fn of(messages: Vec<Value>, id: &Value) -> anyhow::Result<Self> {
        let is_answer = |message: &Value| message["id"] == *id && message["method"].is_null();
        let answer = messages.iter().find(|message| is_answer(message)).cloned().context("there is no answer")?;
        Ok(Self { answer, before: messages })
    }

    /// The result.
    pub(super) fn result(&self) -> anyhow::Result<Value> {
        match self.answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => bail!("the answer is {}", self.answer),
        }
    }

    /// The parameters of the notifications of this method.
    pub(super) fn told(&self, method: &str) -> Vec<Value> {
        let of = self.before.iter().filter(|message| message["method"] == method && message.get("id").is_none());
        of.map(|message| message["params"].clone()).collect()
    }
}

/// A request that is not waited for.
pub(super) struct Running {
    id: Value,
    posted: Option<JoinHandle<anyhow::Result<Heard>>>,
}

/// What a client hears apart from answers, from some moment on.
pub(super) enum Ear {
    Http(AnswerStream),
    /// How much of the one stream was heard.
    Sse(AnyClient, usize),
}

impl Ear {
    /// The next message of this method.
    pub(super) async fn next(&mut self, method: &str, limit: Duration) -> anyhow::Result<Value> {
        let (client, heard) = match self {
            Self::Http(stream) => return stream.next_method(method, limit).await,
            Self::Sse(client, heard) => (client, heard),
        };
        let hearing = async {
            loop {
                for message in client.log().into_iter().skip(*heard) {
                    *heard += 1;
                    if message["method"] == method {
                        return message;
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, hearing).await.with_context(|| format!("no `{method}` within {limit:?}"))
    }
}

impl Client {
    /// Comes to an endpoint (`/mcp`, `/servers/{server}/mcp`) and does what a client does first; the second is what the
    /// endpoint says it can do.
    pub(super) async fn come(
        gateway: &Gateway,
        path: &str,
        revision: &str,
        capabilities: Value,
        answering: Answering,
    ) -> anyhow::Result<(Self, Value)> {
        if revision == OLDEST {
            let path = path.strip_suffix("mcp").context("an endpoint ends in mcp")?;
            let url = gateway.url(&format!("{path}sse"));
            let version = revision.to_owned();
            let options = AnyClientOptions { way: Way::Sse, url, version, capabilities, answering, trust: None };
            let client = AnyClient::connect(options).await?;
            let said = client.log().into_iter().find(|message| message["result"]["protocolVersion"] == revision);
            let said = said.context("another revision was negotiated")?;
            return Ok((Self::Sse(client), said["result"]["capabilities"].clone()));
        }
        let client = McpClient::new(&gateway.url(path)).limit(PATIENCE).capabilities(capabilities);
        let client = client.answering(move |method, params| answering(method, params));
        let (client, said) = if revision == MODERN {
            let client = client.modern(revision);
            let said = client.result("server/discover", json!({})).await?;
            (client, said)
        } else {
            let said = client.initialize(revision).await?;
            if said["protocolVersion"] != revision {
                bail!("another revision was negotiated: {said}");
            }
            (client, said)
        };
        Ok((Self::Http(client), said["capabilities"].clone()))
    }

    /// The result of a request.
    pub(super) async fn result(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        match self {
            Self::Http(client) => client.result(method, params).await,
            Self::Sse(client) => client.result(method, params).await,
        }
    }

    /// Every item of a list.
    pub(super) async fn list(&self, method: &str, member: &str) -> anyhow::Result<Vec<Value>> {
        match self {
            Self::Http(client) => client.list(method, member).await,
            Self::Sse(client) => {
                let mut items = Vec::new();
                let mut params = json!({});
                loop {
                    let result = client.result(method, params.clone()).await?;
                    items.extend(result[member].as_array().cloned().unwrap_or_default());
                    let Some(cursor) = result["nextCursor"].as_str() else { return Ok(items) };
                    params["cursor"] = json!(cursor);
                }
            }
        }
    }

    /// Calls a tool and answers what is asked meanwhile.
    pub(super) async fn call(&self, name: &str, arguments: Value) -> anyhow::Result<Value> {
        match self {
            Self::Http(client) => client.call(name, arguments).await,
            Self::Sse(client) => client.call(name, arguments).await,
        }
    }

    /// Sends a request and returns everything that comes until its answer.
    pub(super) async fn request(&self, method: &str, params: Value) -> anyhow::Result<Heard> {
        let running = self.begin(method, params).await?;
        self.finish(running).await
    }

    /// Sends a request.
    pub(super) async fn begin(&self, method: &str, params: Value) -> anyhow::Result<Running> {
        match self {
            Self::Http(client) => {
                let (client, message) = (client.clone(), client.message(method, params));
                let id = message["id"].clone();
                let own = id.clone();
                let posted = tokio::spawn(async move {
                    let answer = client.post(&message).await?.finish().await?;
                    Heard::of(answer.messages(), &own)
                });
                Ok(Running { id, posted: Some(posted) })
            }
            Self::Sse(client) => Ok(Running { id: client.start(method, params).await?, posted: None }),
        }
    }

    /// Waits for the answer.
    pub(super) async fn finish(&self, running: Running) -> anyhow::Result<Heard> {
        match (self, running.posted) {
            (_, Some(posted)) => posted.await?,
            (Self::Sse(client), None) => {
                client.answer(&running.id).await?;
                Heard::of(client.log(), &running.id)
            }
            (Self::Http(_), None) => bail!("it was not posted"),
        }
    }

    /// Cancels a request in the way of the client's era.
    pub(super) async fn cancel(&self, running: Running) -> anyhow::Result<()> {
        match (self, running.posted) {
            (Self::Http(client), Some(posted)) if client.version().as_deref() == Some(MODERN) => posted.abort(),
            (Self::Http(client), _) => _ = client.cancel(&running.id).await?,
            (Self::Sse(client), _) => client.cancel(&running.id).await?,
        }
        Ok(())
    }

    /// Sends a notification.
    pub(super) async fn notify(&self, method: &str, params: Value) -> anyhow::Result<()> {
        match self {
            Self::Http(client) => client.notify(method, params).await.map(drop),
            Self::Sse(client) => client.notify(method, params).await,
        }
    }

    /// Hears what comes apart from answers; a modern client says what of it, and gets what was accepted of that.
    pub(super) async fn hear(&self, filter: Value) -> anyhow::Result<(Ear, Value)> {
        match self {
            Self::Http(client) if client.version().as_deref() == Some(MODERN) => {
                let mut stream = client.start("subscriptions/listen", json!({"notifications": filter})).await?;
                let acknowledged = stream.next_method("notifications/subscriptions/acknowledged", PATIENCE).await?;
                Ok((Ear::Http(stream), acknowledged["params"]["notifications"].clone()))
            }
            Self::Http(client) => {
                let stream = client.open_get(None).await?;
                if stream.status != 200 {
                    bail!("GET is answered with status {}", stream.status);
                }
                Ok((Ear::Http(stream), filter))
            }
            Self::Sse(client) => Ok((Ear::Sse(client.clone(), client.log().len()), filter)),
        }
    }
}
