//! What a scripted server does, as data: the same script drives a server over HTTP and one over stdio.
//!
//! The default script is a well-behaved legacy server with three echoing tools. Everything else is switched on, and
//! what is switched on adds up.

mod garbage;
mod question;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::{garbage::Garbage, question::Question};
use crate::rounds::Round;

/// The whole behaviour of one scripted server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// `serverInfo.name`.
    pub name: String,
    /// `instructions`, when there are any.
    pub instructions: Option<String>,
    /// Revisions the server speaks. With only modern ones it refuses `initialize`, with only legacy ones it refuses
    /// requests without a session.
    pub versions: Vec<String>,
    /// How requests over HTTP are answered when nothing but the answer is said.
    pub answers: Answers,
    /// Whether a legacy server hands out session ids (over HTTP).
    pub sessions: bool,
    /// Whether a legacy server opens a stream on GET; otherwise 405.
    pub get_stream: bool,
    /// Replaces the advertised capabilities.
    pub capabilities: Option<Value>,
    /// Number of generated tools, `{tool_prefix}0`, `{tool_prefix}1`, ..., each of which echoes.
    pub tools: usize,
    /// How generated tools are called.
    pub tool_prefix: String,
    /// Tools with a behaviour of their own, listed before the generated ones.
    pub scripted_tools: Vec<ToolScript>,
    /// Number of resources, `test://resource/0`, ...
    pub resources: usize,
    /// Number of prompts, `prompt_0`, ...
    pub prompts: usize,
    /// Items of one page of any list; 0 lists everything at once.
    pub page: usize,
    /// Whether the second page of a list is empty and yet has a cursor.
    pub empty_page: bool,
    /// Whether the cursor of the second page is the empty string.
    pub empty_cursor: bool,
    /// Whether every object carries members nobody knows.
    pub unknown_members: bool,
    /// A session is forgotten (404 from then on) after that many of its requests, `initialize` not counted.
    pub forget_after: Option<u64>,
    /// A session that is not known is answered with status 400 and no id, as one real server does, not with 404.
    pub forgotten_is_400: bool,
    /// Pause before anything is answered, milliseconds.
    pub delay_ms: u64,
    /// Methods that are answered once the script no longer names them.
    pub held: Vec<String>,
    /// Methods that are never answered.
    pub hang: Hang,
    /// Wrong answers by method.
    pub garbage: BTreeMap<String, Garbage>,
    /// Results by method, as JSON text that is sent byte for byte.
    pub results: BTreeMap<String, String>,
    /// Modern era: rounds of questions before `prompts/get` or `resources/read` is answered, by method.
    pub rounds: BTreeMap<String, Vec<Round>>,
    /// What a legacy server asks its client before it answers a method that is no call of a tool.
    pub asks: BTreeMap<String, Question>,
    /// A tool comes or goes, and everybody is told, every so many milliseconds.
    pub list_change_every_ms: Option<u64>,
    /// The resource `test://resource/0` is updated, and everybody is told, every so many milliseconds.
    pub update_every_ms: Option<u64>,
    /// URIs nobody may subscribe to: a legacy server refuses, a modern one does not acknowledge them.
    pub unwatchable: Vec<String>,
    /// The server tells of an update of what is subscribed to at once: a legacy one before it answers, a modern one
    /// right after it acknowledged.
    pub updates_at_once: bool,
    /// A modern server does not acknowledge a listen request that names this resource; it sends its updates all the same.
    pub unacknowledged: Option<String>,
    /// Whether calls run as tasks: in revision 2025-11-25 those with a `task` member, in 2026-07-28 those of tools
    /// that say so.
    pub tasks: bool,
    /// What only matters over stdio; `noise` and `exit_after` also where there is one connection per client.
    pub stdio: StdioScript,
    /// What only matters over HTTP+SSE, WebSocket and sockets.
    pub door: DoorScript,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            name: "scripted".to_owned(),
            instructions: None,
            versions: ["2025-11-25", "2025-06-18", "2025-03-26"].map(str::to_owned).to_vec(),
            answers: Answers::Json,
            sessions: true,
            get_stream: true,
            capabilities: None,
            tools: 3,
            tool_prefix: "tool_".to_owned(),
            scripted_tools: Vec::new(),
            resources: 0,
            prompts: 0,
            page: 0,
            empty_page: false,
            empty_cursor: false,
            unknown_members: false,
            forget_after: None,
            forgotten_is_400: false,
            delay_ms: 0,
            held: Vec::new(),
            hang: Hang::Nothing,
            garbage: BTreeMap::new(),
            results: BTreeMap::new(),
            rounds: BTreeMap::new(),
            asks: BTreeMap::new(),
            list_change_every_ms: None,
            update_every_ms: None,
            unwatchable: Vec::new(),
            updates_at_once: false,
            unacknowledged: None,
            tasks: false,
            stdio: StdioScript::default(),
            door: DoorScript::default(),
        }
    }
}

impl Script {
    /// A server that speaks exactly one revision, whatever its era.
    pub fn speaking(version: &str) -> Self {
        Self { versions: vec![version.to_owned()], ..Self::default() }
    }

    /// A server of revision 2025-11-25 and older ones.
    pub fn legacy() -> Self {
        Self::default()
    }

    /// A server of revision 2026-07-28 only.
    pub fn modern() -> Self {
        Self::speaking("2026-07-28")
    }

    /// A server of both eras.
    pub fn dual() -> Self {
        let mut script = Self::default();
        script.versions.insert(0, "2026-07-28".to_owned());
        script
    }

    /// Sets `serverInfo.name`.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Answers with event streams even where JSON would do.
    pub fn sse(mut self) -> Self {
        self.answers = Answers::Sse;
        self
    }

    /// Lists `count` generated tools.
    pub fn tools(mut self, count: usize) -> Self {
        self.tools = count;
        self
    }

    /// Lists in pages of `items`; with `empty` the second page has no items.
    pub fn pages(mut self, items: usize, empty: bool) -> Self {
        (self.page, self.empty_page) = (items, empty);
        self
    }

    /// Calls the second page by the empty string.
    pub fn empty_cursor(mut self) -> Self {
        self.empty_cursor = true;
        self
    }

    /// Adds a tool with a behaviour.
    pub fn tool(mut self, tool: ToolScript) -> Self {
        self.scripted_tools.push(tool);
        self
    }

    /// Lists resources and prompts too.
    pub fn resources_and_prompts(mut self, resources: usize, prompts: usize) -> Self {
        (self.resources, self.prompts) = (resources, prompts);
        self
    }

    /// Puts unknown members everywhere.
    pub fn unknown_members(mut self) -> Self {
        self.unknown_members = true;
        self
    }

    /// Forgets a session after `requests` requests.
    pub fn forget_after(mut self, requests: u64) -> Self {
        self.forget_after = Some(requests);
        self
    }

    /// Answers a request of a session it does not know with status 400.
    pub fn forgotten_is_400(mut self) -> Self {
        self.forgotten_is_400 = true;
        self
    }

    /// Does not answer a method until [`ScriptedServer::change`](crate::ScriptedServer::change) takes it out of `held`.
    pub fn held(mut self, method: &str) -> Self {
        self.held.push(method.to_owned());
        self
    }

    /// Answers everything that much later.
    pub fn delay_ms(mut self, delay_ms: u64) -> Self {
        self.delay_ms = delay_ms;
        self
    }

    /// Never answers some requests.
    pub fn hang(mut self, hang: Hang) -> Self {
        self.hang = hang;
        self
    }

    /// Answers `method` wrongly.
    pub fn garbage(mut self, method: &str, garbage: Garbage) -> Self {
        self.garbage.insert(method.to_owned(), garbage);
        self
    }

    /// Answers `method` with exactly this result (JSON text).
    pub fn result(mut self, method: &str, json: &str) -> Self {
        self.results.insert(method.to_owned(), json.to_owned());
        self
    }

    /// Modern era: asks these rounds before it answers `method`.
    pub fn rounds(mut self, method: &str, rounds: Vec<Round>) -> Self {
        self.rounds.insert(method.to_owned(), rounds);
        self
    }

    /// Asks the client before it answers `method` (legacy).
    pub fn asks(mut self, method: &str, question: Question) -> Self {
        self.asks.insert(method.to_owned(), question);
        self
    }

    /// Changes the list of tools every so often.
    pub fn list_change_every_ms(mut self, every_ms: u64) -> Self {
        self.list_change_every_ms = Some(every_ms);
        self
    }

    /// Updates its first resource every so often; the member `number` of the notice counts them.
    pub fn update_every_ms(mut self, every_ms: u64) -> Self {
        self.update_every_ms = Some(every_ms);
        self
    }

    /// Lets nobody subscribe to this resource.
    pub fn unwatchable(mut self, uri: &str) -> Self {
        self.unwatchable.push(uri.to_owned());
        self
    }

    /// Tells of an update at once when a resource is subscribed to.
    pub fn updates_at_once(mut self) -> Self {
        self.updates_at_once = true;
        self
    }

    /// Runs calls as tasks: when asked to (2025-11-25), or by [`ToolScript::as_task`] (2026-07-28).
    pub fn tasks(mut self) -> Self {
        self.tasks = true;
        self
    }

    /// Sets what matters over stdio.
    pub fn stdio(mut self, stdio: StdioScript) -> Self {
        self.stdio = stdio;
        self
    }

    /// Sets what matters over HTTP+SSE, WebSocket and sockets.
    pub fn door(mut self, door: DoorScript) -> Self {
        self.door = door;
        self
    }

    /// The script as JSON, for `scripted SCRIPT.json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("invariant: a script has only string keys")
    }

    pub(crate) fn is_modern(&self) -> bool {
        self.versions.iter().any(|version| is_modern_version(version))
    }

    pub(crate) fn is_legacy(&self) -> bool {
        self.versions.iter().any(|version| !is_modern_version(version))
    }

    /// The version an `initialize` for `wanted` gets.
    pub(crate) fn negotiate(&self, wanted: &str) -> String {
        let mut legacy = self.versions.iter().filter(|version| !is_modern_version(version));
        let newest = legacy.next().cloned().unwrap_or_else(|| "2025-11-25".to_owned());
        if newest == wanted || legacy.any(|version| version == wanted) { wanted.to_owned() } else { newest }
    }
}

/// Whether a revision is one without handshake.
pub(crate) fn is_modern_version(version: &str) -> bool {
    version >= "2026-07-28"
}

/// How a request over HTTP is answered.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// `application/json`, or an event stream when more than the answer is said.
    #[default]
    Json,
    /// Always `text/event-stream`.
    Sse,
}

/// What is never answered.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hang {
    /// Everything is answered.
    #[default]
    Nothing,
    /// Nothing is answered; connections are accepted and requests read.
    Everything,
    /// Only `initialize`, `notifications/initialized` and `server/discover` are answered.
    AfterInitialize,
    /// These methods are not answered.
    Methods(Vec<String>),
}

impl Hang {
    pub(crate) fn covers(&self, method: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::AfterInitialize => !matches!(method, "initialize" | "notifications/initialized" | "server/discover"),
            Self::Methods(methods) => methods.iter().any(|hung| hung == method),
        }
    }
}

/// One tool with a behaviour.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ToolScript {
    /// The tool's name.
    pub name: String,
    /// Members of the listed tool beside `name`; `inputSchema` is added when missing.
    #[serde(default)]
    pub definition: Value,
    /// Lists the tool only to legacy clients that declared this capability.
    #[serde(default)]
    pub needs: Option<String>,
    /// What happens before the end, in order.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Modern era: asked before anything else happens, one `input_required` each.
    #[serde(default)]
    pub rounds: Vec<Round>,
    /// Modern era: the first of `rounds` is asked for ever.
    #[serde(default)]
    pub endless: bool,
    /// Modern era over HTTP: a call without this header is refused with -32020.
    #[serde(default)]
    pub needs_header: Option<String>,
    /// How the first calls end, one each, of all clients together.
    #[serde(default)]
    pub first: Vec<Finish>,
    /// How the call ends.
    #[serde(default)]
    pub finish: Finish,
    /// Whether the server makes a task of a modern client's call, when that client can follow one.
    #[serde(default)]
    pub as_task: bool,
}

impl ToolScript {
    /// A tool that echoes.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            definition: json!({}),
            needs: None,
            steps: Vec::new(),
            rounds: Vec::new(),
            endless: false,
            needs_header: None,
            first: Vec::new(),
            finish: Finish::Echo,
            as_task: false,
        }
    }

    /// Modern era: asks this round, after those that were added before.
    pub fn round(mut self, round: Round) -> Self {
        self.rounds.push(round);
        self
    }

    /// Modern era: asks the first round for ever.
    pub fn endless(mut self) -> Self {
        self.endless = true;
        self
    }

    /// Modern era over HTTP: refuses a call without this header with -32020.
    pub fn needs_header(mut self, name: &str) -> Self {
        self.needs_header = Some(name.to_owned());
        self
    }

    /// Makes a task of a modern client's call, when that client can follow one.
    pub fn as_task(mut self) -> Self {
        self.as_task = true;
        self
    }

    /// Sets the members of the listed tool.
    pub fn definition(mut self, definition: Value) -> Self {
        self.definition = definition;
        self
    }

    /// Lists it only to legacy clients that declared this capability.
    pub fn needs(mut self, capability: &str) -> Self {
        self.needs = Some(capability.to_owned());
        self
    }

    /// Adds a step.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Waits.
    pub fn sleep(self, ms: u64) -> Self {
        self.step(Step::Sleep { ms })
    }

    /// Waits until there is a file with this path.
    pub fn gate(self, path: &Path) -> Self {
        self.step(Step::Gate { path: path.to_owned() })
    }

    /// Reports progress `times` times; 30 times every 1,000 ms is the usual long call.
    pub fn progress(self, times: u64, every_ms: u64) -> Self {
        self.step(Step::Progress { times, every_ms })
    }

    /// Asks the client.
    pub fn ask(self, question: Question, via: Via) -> Self {
        self.step(Step::Ask { question, via })
    }

    /// Has the next of the first calls end otherwise.
    pub fn first(mut self, finish: Finish) -> Self {
        self.first.push(finish);
        self
    }

    /// Sets how the call ends.
    pub fn finish(mut self, finish: Finish) -> Self {
        self.finish = finish;
        self
    }

    /// Ends with exactly this result (JSON text, sent byte for byte).
    pub fn result(self, json: &str) -> Self {
        self.finish(Finish::Result { json: json.to_owned() })
    }
}

/// Something that happens during a call.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Waits.
    Sleep {
        /// Milliseconds.
        ms: u64,
    },
    /// Waits until a file exists: a call that goes on for as long as a test needs it, in whatever process.
    Gate {
        /// The file.
        path: PathBuf,
    },
    /// Sends `notifications/progress` when the request carries a token.
    Progress {
        /// How often.
        times: u64,
        /// Pause before each, milliseconds.
        every_ms: u64,
    },
    /// Sends `notifications/message`; to a modern client whether it asked or not.
    Log {
        /// The level.
        level: String,
        /// The data.
        text: String,
    },
    /// Asks the client: a request of its own in the legacy era, `input_required` in the modern one.
    Ask {
        /// What is asked.
        question: Question,
        /// On which stream (legacy over HTTP).
        via: Via,
    },
    /// Asks the client several things at once, and waits for all answers (legacy).
    AskTogether {
        /// What is asked.
        questions: Vec<Question>,
        /// On which stream (over HTTP).
        via: Via,
    },
    /// Sends any notification.
    Notify {
        /// Its method.
        method: String,
        /// Its parameters.
        params: Value,
        /// On which stream.
        via: Via,
    },
    /// Sends this text as a frame, whatever it is.
    Raw {
        /// The frame.
        text: String,
    },
    /// Ends the stream but not the call; the rest is there for a GET with `Last-Event-ID` (2025-11-25).
    HangUp {
        /// The `retry` sent before, milliseconds.
        retry_ms: u64,
    },
}

/// The end of a call.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A result whose text is the JSON of `{"tool", "arguments", "answers"}`.
    #[default]
    Echo,
    /// Exactly this result.
    Result {
        /// JSON text.
        json: String,
    },
    /// A JSON-RPC error.
    Error {
        /// The code.
        code: i64,
        /// The message.
        message: String,
    },
    /// Error -32042 with this URL to open, that many times; then as [`Finish::Echo`].
    UrlRequired {
        /// How often, all clients together.
        times: u64,
    },
    /// A tool error.
    ToolError {
        /// The text.
        text: String,
    },
    /// No end.
    Hang,
    /// The connection breaks; over stdio the process ends.
    Die,
    /// A wrong answer.
    Garbage(Garbage),
}

/// The stream something is sent on; over stdio there is only one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The stream of the call.
    #[default]
    Call,
    /// The GET stream of the session.
    Get,
}

/// What only matters over stdio.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StdioScript {
    /// Every line from the client is appended to this file as `{"at_ms", "line"}`.
    pub record: Option<PathBuf>,
    /// Process ids of the server and its grandchildren are appended to this file, one per line.
    pub pids: Option<PathBuf>,
    /// Ignores SIGTERM and goes on when stdin is closed.
    pub stubborn: bool,
    /// Processes the server starts; stubborn when it is.
    pub grandchildren: usize,
    /// Written to stdout before every answer.
    pub noise: Vec<String>,
    /// Written to stderr at the start, that many lines.
    pub stderr_lines: usize,
    /// Exits with that code right away.
    pub exit_at_start: Option<i32>,
    /// Exits with code 1 after that many requests.
    pub exit_after: Option<u64>,
}

/// What only matters over HTTP+SSE, WebSocket and sockets.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DoorScript {
    /// Accepts connections and never reads what is sent on them.
    pub deaf: bool,
    /// What the `endpoint` event of HTTP+SSE says instead of the truth.
    pub endpoint: Option<String>,
    /// The stream of HTTP+SSE begins without an `endpoint` event.
    pub no_endpoint: bool,
    /// A POST of HTTP+SSE with a request is answered only when the request was.
    pub late_posts: bool,
    /// Sends binary frames instead of text frames.
    pub binary: bool,
    /// Picks no WebSocket subprotocol.
    pub no_subprotocol: bool,
}
