//! What clients do, good ones and others.

use std::{fmt, time::Duration};

use anyhow::{Context as _, bail, ensure};
use fairlead_testkit::{Answer, AnswerStream, Frame, McpClient, Reply};
use serde_json::{Value, json};

use super::{Dice, house::Place};
use crate::support::{Gateway, LEGACY, MODERN};

/// How long a client waits for anything.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a task is looked at, and how often at most.
const POLL: Duration = Duration::from_millis(50);
const POLLS: usize = 400;
const TASKS: &str = "io.modelcontextprotocol/tasks";
/// Every link a server may have is in use.
pub(super) const BUSY: &str = "FL-1305";
/// The gateway could not tell whom to ask.
pub(super) const DECLINED: &str = "declined with FL-1306";
const UPDATED: &str = "notifications/resources/updated";

/// The era of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClientEra {
    Legacy,
    Modern,
}

impl ClientEra {
    pub(super) const ALL: [Self; 2] = [Self::Legacy, Self::Modern];
}

/// One thing a client comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Behaviour {
    /// Lists and calls.
    Plain,
    /// A call that reports progress.
    Progress,
    /// A call that is asked twice, and answers.
    Answer,
    /// The same, asked on the session's own stream where there is one.
    AnswerAside,
    /// A call that is asked, and nobody ever answers.
    NeverAnswer,
    /// A call that is asked, and the client says that it has no answer.
    Refuse,
    /// Goes away in mid-call.
    Vanish,
    /// Cancels a call.
    Cancel,
    /// Watches a resource until it hears of it, and says goodbye.
    Subscribe,
    /// The same without a goodbye.
    SubscribeAndVanish,
    /// A task, and its result.
    Task,
    /// A task that nobody comes back for.
    TaskAndVanish,
    /// Loses the stream of a call and takes it up again.
    Resume,
    /// Begins a session and does nothing else.
    Idle,
}

impl Behaviour {
    pub(super) const ALL: [Self; 14] = [
        Self::Plain,
        Self::Progress,
        Self::Answer,
        Self::AnswerAside,
        Self::NeverAnswer,
        Self::Refuse,
        Self::Vanish,
        Self::Cancel,
        Self::Subscribe,
        Self::SubscribeAndVanish,
        Self::Task,
        Self::TaskAndVanish,
        Self::Resume,
        Self::Idle,
    ];
}

/// One client, once.
pub(super) struct Job {
    pub(super) behaviour: Behaviour,
    pub(super) client: ClientEra,
    pub(super) server: Place,
    revision: &'static str,
    /// Through `/mcp`, with prefixed names, or through the server's own endpoint.
    merged: bool,
    /// What nobody else says.
    nonce: u64,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.merged { "/mcp" } else { "its own endpoint" };
        write!(f, "{:?}, a client of {} at `{}` through {path}", self.behaviour, self.revision, self.server.name)
    }
}

impl Job {
    pub(super) fn choose(dice: &mut Dice, places: &[Place]) -> Self {
        let client = dice.pick(&ClientEra::ALL);
        let revision = if client == ClientEra::Legacy { dice.pick(&LEGACY) } else { MODERN };
        Self {
            behaviour: dice.pick(&Behaviour::ALL),
            client,
            server: dice.pick(places),
            revision,
            merged: dice.roll(2) == 0,
            nonce: dice.roll(usize::MAX) as u64,
        }
    }

    fn is_legacy(&self) -> bool {
        self.client == ClientEra::Legacy
    }

    /// Core tasks and streams that can be resumed came with the last legacy revision.
    fn is_newest(&self) -> bool {
        matches!(self.revision, "2025-11-25" | MODERN)
    }

    fn tool(&self, name: &str) -> String {
        if self.merged { format!("{}__{name}", self.server.name) } else { name.to_owned() }
    }

    fn uri(&self, number: u64) -> String {
        let uri = format!("test://resource/{number}");
        if self.merged { format!("fairlead+{}:{uri}", self.server.name) } else { uri }
    }

    fn arguments(&self) -> Value {
        json!({"nonce": self.nonce.to_string()})
    }

    fn params(&self, tool: &str) -> Value {
        json!({"name": self.tool(tool), "arguments": self.arguments()})
    }

    /// A client that can be asked, with this kind of answer.
    async fn connect(&self, gateway: &Gateway, answers: Answers) -> anyhow::Result<McpClient> {
        let path = if self.merged { "/mcp".to_owned() } else { format!("/servers/{}/mcp", self.server.name) };
        let mut capabilities = json!({"elicitation": {"form": {}}, "sampling": {}});
        if matches!(self.behaviour, Behaviour::Task | Behaviour::TaskAndVanish) {
            capabilities["extensions"] = json!({TASKS: {}});
        }
        let nonce = self.nonce;
        let client =
            McpClient::new(&gateway.url(&path)).limit(LIMIT).capabilities(capabilities).answering(move |method, _| {
                match answers {
                    Answers::Well => Reply::Result(says(method, nonce)),
                    Answers::With32603 => Reply::Error(-32603, "nobody is there".to_owned()),
                    Answers::Never => Reply::Silence,
                }
            });
        if self.is_legacy() {
            client.initialize(self.revision).await.context("the handshake")?;
            return Ok(client);
        }
        Ok(client.modern(self.revision))
    }

    /// Does it.
    pub(super) async fn run(&self, gateway: &Gateway) -> anyhow::Result<()> {
        let answers = match self.behaviour {
            Behaviour::NeverAnswer => Answers::Never,
            Behaviour::Refuse => Answers::With32603,
            _ => Answers::Well,
        };
        let client = self.connect(gateway, answers).await?;
        match self.behaviour {
            Behaviour::Plain => self.plain(&client).await?,
            Behaviour::Progress => self.progress(&client).await?,
            Behaviour::Answer => self.answer(&client, "ask", 2).await?,
            Behaviour::AnswerAside => {
                let stream = if self.is_legacy() { Some(client.open_get(None).await?) } else { None };
                let answering = stream.map(|stream| tokio::spawn(keep_answering(stream)));
                let outcome = self.answer(&client, "ask_aside", 1).await;
                if let Some(answering) = answering {
                    answering.abort();
                }
                outcome?;
            }
            Behaviour::NeverAnswer => return self.never_answer(&client).await,
            Behaviour::Refuse => self.refuse(&client).await?,
            Behaviour::Vanish => {
                self.first_sign(&client, "long").await?.vanish();
                return Ok(());
            }
            Behaviour::Cancel => {
                let stream = self.first_sign(&client, "long").await?;
                if self.is_legacy() {
                    let id = stream.id().context("a request has an id")?.clone();
                    client.cancel(&id).await?;
                }
                drop(stream);
            }
            Behaviour::Subscribe | Behaviour::SubscribeAndVanish => return self.subscribe(&client).await,
            Behaviour::Task => self.task(&client).await?,
            Behaviour::TaskAndVanish => {
                self.begin_task(&client, "task_long").await?;
                return Ok(());
            }
            Behaviour::Resume => self.resume(&client).await?,
            Behaviour::Idle => return Ok(()),
        }
        // Most clients forget to say goodbye.
        if self.is_legacy() && self.nonce.is_multiple_of(3) {
            let status = client.delete().await?.status;
            ensure!(status < 300, "the goodbye was answered with status {status}");
        }
        Ok(())
    }

    /// The result is of this very call.
    fn check(&self, result: &Value) -> anyhow::Result<()> {
        ensure!(result["structuredContent"]["arguments"] == self.arguments(), "another call's result: {result}");
        Ok(())
    }

    async fn plain(&self, client: &McpClient) -> anyhow::Result<()> {
        let tools = client.list("tools/list", "tools").await?;
        let wanted = self.tool("work");
        ensure!(tools.iter().any(|tool| tool["name"] == wanted.as_str()), "`{wanted}` is not listed");
        for _ in 0..3 {
            self.check(&client.call(&self.tool("tool_0"), self.arguments()).await?)?;
        }
        let failed = client.call(&self.tool("fail"), self.arguments()).await?;
        ensure!(failed["isError"] == true, "a tool's own error: {failed}");
        let uri = self.uri(1);
        let read = client.result("resources/read", json!({"uri": uri})).await?;
        ensure!(read["contents"][0]["uri"] == uri.as_str(), "the resource: {read}");
        Ok(())
    }

    async fn progress(&self, client: &McpClient) -> anyhow::Result<()> {
        let mut params = self.params("work");
        let token = format!("token-{}", self.nonce);
        params["_meta"] = json!({"progressToken": token});
        let answer = client.request("tools/call", params).await?;
        self.check(&answer.result()?)?;
        let reports = answer.notifications("notifications/progress");
        ensure!(!reports.is_empty(), "no progress was told");
        ensure!(reports.iter().all(|report| report["params"]["progressToken"] == token), "another call's progress");
        Ok(())
    }

    async fn answer(&self, client: &McpClient, tool: &str, questions: usize) -> anyhow::Result<()> {
        let result = client.call(&self.tool(tool), self.arguments()).await?;
        self.check(&result)?;
        let answers = result["structuredContent"]["answers"].to_string();
        let own = answers.matches(&self.nonce.to_string()).count();
        // A question that names no call is nobody's when two callers could be meant: declined, and never misdirected.
        ensure!(questions > 1 || !answers.contains("FL-1306"), "{DECLINED}");
        ensure!(own == questions, "{own} of {questions} answers are this client's: {answers}");
        Ok(())
    }

    async fn never_answer(&self, client: &McpClient) -> anyhow::Result<()> {
        if self.is_legacy() {
            let mut stream = client.start("tools/call", self.params("ask")).await?;
            stream.next_method("elicitation/create", LIMIT).await?;
            stream.vanish();
        } else {
            let asked = client.result("tools/call", self.params("ask")).await?;
            ensure!(asked["resultType"] == "input_required", "nothing was asked: {asked}");
        }
        Ok(())
    }

    /// A modern client has no words for it, so it declines.
    async fn refuse(&self, client: &McpClient) -> anyhow::Result<()> {
        let mut params = self.params("ask");
        if self.is_legacy() {
            // What the server makes of it is its own affair: it is over, one way or the other.
            return over(&client.request("tools/call", params).await?);
        }
        let asked = client.result("tools/call", params.clone()).await?;
        let requests = asked["inputRequests"].as_object().context("nothing was asked")?;
        let declined = requests.keys().map(|key| (key.clone(), json!({"action": "decline"})));
        params["inputResponses"] = declined.collect::<serde_json::Map<_, _>>().into();
        params["requestState"] = asked["requestState"].clone();
        over(&client.request("tools/call", params).await?)
    }

    /// Starts a call and waits for its first report.
    async fn first_sign(&self, client: &McpClient, tool: &str) -> anyhow::Result<AnswerStream> {
        let mut params = self.params(tool);
        params["_meta"] = json!({"progressToken": self.nonce.to_string()});
        let mut stream = client.start("tools/call", params).await?;
        loop {
            let frame = stream.next(LIMIT).await?.context("the stream ended before anything was said")?;
            let message = frame.json();
            if message["method"] == "notifications/progress" {
                return Ok(stream);
            }
            ensure!(!message["method"].is_null(), "it is over before it began: {message}");
        }
    }

    async fn subscribe(&self, client: &McpClient) -> anyhow::Result<()> {
        let uri = self.uri(self.nonce % 4);
        let says_goodbye = self.behaviour == Behaviour::Subscribe;
        let stream = if self.is_legacy() {
            let mut stream = client.open_get(None).await?;
            ensure!(stream.status == 200, "the stream was refused with status {}", stream.status);
            client.result("resources/subscribe", json!({"uri": uri})).await?;
            self.hear(&mut stream, &uri).await?;
            if says_goodbye {
                client.result("resources/unsubscribe", json!({"uri": uri})).await?;
            }
            stream
        } else {
            let filter = json!({"notifications": {"resourceSubscriptions": [uri], "toolsListChanged": true}});
            let mut stream = client.start("subscriptions/listen", filter).await?;
            let accepted = stream.next_method("notifications/subscriptions/acknowledged", LIMIT).await?;
            let accepted = &accepted["params"]["notifications"]["resourceSubscriptions"];
            // Where no link can be had the acknowledgement is silent about the resource.
            let is_accepted = accepted.as_array().is_some_and(|uris| uris.iter().any(|other| *other == uri.as_str()));
            ensure!(is_accepted, "not accepted, as by {BUSY}");
            self.hear(&mut stream, &uri).await?;
            stream
        };
        stream.vanish();
        if self.is_legacy() && says_goodbye {
            client.delete().await?;
        }
        Ok(())
    }

    async fn hear(&self, stream: &mut AnswerStream, uri: &str) -> anyhow::Result<()> {
        // Only servers over HTTP are made to say something.
        if !self.server.http {
            return Ok(());
        }
        let updated = stream.next_method(UPDATED, LIMIT).await?;
        ensure!(updated["params"]["uri"] == uri, "another's resource: {updated}");
        Ok(())
    }

    async fn begin_task(&self, client: &McpClient, tool: &str) -> anyhow::Result<Option<Value>> {
        let mut params = self.params(tool);
        if self.is_legacy() {
            if !self.is_newest() {
                return Ok(None);
            }
            params["task"] = json!({"ttl": 5_000});
        }
        let begun = client.result("tools/call", params).await?;
        let task = if self.is_legacy() { &begun["task"] } else { &begun };
        ensure!(task["taskId"].is_string(), "no task: {begun}");
        Ok(Some(task["taskId"].clone()))
    }

    async fn task(&self, client: &McpClient) -> anyhow::Result<()> {
        let Some(id) = self.begin_task(client, "task").await? else { return Ok(()) };
        if self.is_legacy() {
            return self.check(&client.result("tasks/result", json!({"taskId": id})).await?);
        }
        for _ in 0..POLLS {
            let task = client.result("tasks/get", json!({"taskId": id})).await?;
            match task["status"].as_str() {
                Some("completed") => return self.check(&task["result"]),
                Some("working") => tokio::time::sleep(POLL).await,
                _ => bail!("the task is {task}"),
            }
        }
        bail!("the task is never over")
    }

    /// The rest of a call comes with a GET that names the last event.
    async fn resume(&self, client: &McpClient) -> anyhow::Result<()> {
        if !self.is_legacy() || !self.is_newest() {
            // There is nothing to resume: the call ends with its stream.
            return self.progress(client).await;
        }
        let mut params = self.params("work");
        params["_meta"] = json!({"progressToken": self.nonce.to_string()});
        let mut stream = client.start("tools/call", params).await?;
        let id = stream.id().context("a request has an id")?.clone();
        let first = stream.next(LIMIT).await?.context("the stream ended at once")?;
        let Some(event) = first.id.clone() else {
            // Streams without ids are read to their end.
            return self.check(&stream.finish().await?.result()?);
        };
        stream.vanish();
        let mut resumed = client.open_get(Some(&event)).await?;
        ensure!(resumed.status == 200, "the resume was refused with status {}", resumed.status);
        let is_end = |frame: &Frame| {
            let message = frame.json();
            message["id"] == id && message["method"].is_null()
        };
        loop {
            let frame = resumed.next(LIMIT).await?.context("the stream ended before the result")?;
            if is_end(&frame) {
                return self.check(&frame.json()["result"]);
            }
        }
    }
}

/// One call that is asked on the session's own stream, by a client that is alone.
pub(super) async fn ask_aside_once(url: &str) -> anyhow::Result<()> {
    let client = McpClient::new(url)
        .limit(LIMIT)
        .capabilities(json!({"elicitation": {"form": {}}, "sampling": {}}))
        .answering(|method, _| Reply::Result(says(method, 0)));
    client.initialize(LEGACY[0]).await?;
    let answering = tokio::spawn(keep_answering(client.open_get(None).await?));
    let result = client.call("ask_aside", json!({})).await;
    answering.abort();
    result.map(|_| ())
}

/// What a client says to questions.
#[derive(Clone, Copy)]
enum Answers {
    Well,
    With32603,
    Never,
}

fn says(method: &str, nonce: u64) -> Value {
    match method {
        "elicitation/create" => json!({"action": "accept", "content": {"name": nonce.to_string()}}),
        _ => json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": nonce.to_string()}}),
    }
}

/// A result, the server's error, or that the client would not answer (FL-1306), but no other refusal.
fn over(answer: &Answer) -> anyhow::Result<()> {
    let error = answer.error().to_string();
    ensure!(!error.contains("FL-") || error.contains("FL-1306"), "{error}");
    Ok(())
}

/// Answers what comes on a stream until it ends.
async fn keep_answering(mut stream: AnswerStream) {
    while stream.next_method("elicitation/create", LIMIT).await.is_ok() {}
}
