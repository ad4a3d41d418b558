//! `fairlead bench`: loads an MCP endpoint, and says what it bears.
//!
//! When calls are made and what is counted is decided in `fairlead-load`; here is what a call is.

use crate::{
    call, cli, configuration,
    failure::{Exit, Failure},
    instance,
    mcp::{self, Answer, Client},
    output,
    reach::Reach,
};
use fairlead_core::Code;
use fairlead_load::{Pace, Plan, Report, Target, Thresholds};
use fairlead_observe::logging;
use fairlead_wire::{Method, list, message};
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    fs,
    io::{IsTerminal, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

/// Calls per second where nothing is said.
const RATE: f64 = 20.0;
/// Threads that make calls at most: the target may run on the same machine.
const MAX_THREADS: usize = 4;
/// Sessions that are opened at the same time.
const OPENED_AT_ONCE: usize = 32;
/// How long everything before the first call may take.
const PREPARE: Duration = Duration::from_secs(60);
/// How long all sessions together may take to end.
const CLOSE: Duration = Duration::from_secs(5);
/// Largest file of calls.
const MAX_MIX: u64 = 16 << 20;
/// Calls it can have.
const MAX_OPERATIONS: usize = 1000;

/// Runs it.
pub(crate) fn run(arguments: &cli::Bench) -> Result<Exit, Failure> {
    let _ = logging::init("error", false, configuration::colour());
    let pace = arguments.concurrency.map_or_else(|| Pace::Rate(arguments.rate.unwrap_or(RATE)), Pace::Concurrency);
    let plan = Plan::new(pace, &arguments.phases, arguments.duration, arguments.timeout, arguments.max_in_flight)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let thresholds =
        Thresholds { error_rate: arguments.max_error_rate.map(|most| most / 100.0), p99: arguments.max_p99 };
    let mix = Mix::new(arguments)?;
    let headers = arguments.headers.iter().map(|text| header(text)).collect::<Result<Vec<_>, _>>()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Internal, "cannot start the runtime").because(&error))?;
    let report = runtime.block_on(load(arguments, &plan, mix, headers))?;
    if let Some(path) = &arguments.html {
        let unwritable = |error| Failure::usage(format!("cannot write `{}`", path.display())).because(&error);
        fs::write(path, report.html()).map_err(unwritable)?;
    }
    if arguments.json {
        output::json(&report)?
    } else {
        output::print(&report.text())?
    };
    let breaches = report.breaches(&thresholds);
    if breaches.is_empty() {
        return Ok(Exit::Ok);
    }
    let all: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    Err(Failure::usage(all.join("; ")))
}

/// The endpoint: what was named, or that of the gateway of the configuration, which has to run.
async fn endpoint(which: &cli::Which) -> Result<String, Failure> {
    if let Some(url) = &which.url {
        return Ok(url.clone());
    }
    let (_, config) = configuration::load(&which.files.config)?;
    let found = instance::find(&config.data_dir).await;
    found.map(|(instance, _)| instance.mcp_url).filter(|url| !url.is_empty()).ok_or_else(|| {
        Failure::unreachable("no gateway of this configuration runs and listens")
            .hint("start it with `fairlead up`, or name an MCP endpoint with `--url`")
    })
}

async fn load(
    arguments: &cli::Bench,
    plan: &Plan,
    mut mix: Mix,
    headers: Vec<(HeaderName, HeaderValue)>,
) -> Result<Report, Failure> {
    let url = endpoint(&arguments.which).await?;
    let reach = Reach::url(&url)?;
    let prepare = async {
        let modern = matches!(arguments.era, cli::Era::Modern | cli::Era::Both);
        let modern = modern.then(|| Arc::new(Client::new(reach.clone()).with_headers(headers.clone())));
        let legacy = match arguments.era {
            cli::Era::Modern => Vec::new(),
            cli::Era::Legacy | cli::Era::Both => sessions(&reach, &headers, arguments.sessions).await?,
        };
        if let Some(client) = modern.as_ref().or(legacy.first()) {
            mix.learn(client).await?;
        }
        Ok::<_, Failure>((modern, legacy))
    };
    let (modern, legacy) = tokio::time::timeout(PREPARE, prepare).await.map_err(|_| {
        Failure::unreachable(format!("the endpoint was not ready for calls within {} s", PREPARE.as_secs()))
    })??;
    let first = plan.phases.first().map_or_else(String::new, |phase| phase.pace.to_string());
    let words = format!("{} at {first}, {}", mix.words, era_words(arguments));
    let shown = url.split(['?', '#']).next().unwrap_or_default().to_owned();
    let target = Endpoint { modern, legacy: legacy.clone(), mix };
    let stop = async {
        // Without a signal handler there is nothing that could stop it.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut progress = ProgressLine::new();
    let report = fairlead_load::run(plan, target, (shown, words), stop, |now| progress.show(now)).await;
    progress.clear();
    close(legacy).await;
    report.map_err(|error| Failure::new(Code::Internal, "cannot start the load").because(&error))
}

fn era_words(arguments: &cli::Bench) -> String {
    let sessions = output::count(arguments.sessions as usize, "legacy session");
    match arguments.era {
        cli::Era::Modern => "modern clients".to_owned(),
        cli::Era::Legacy => sessions,
        cli::Era::Both => format!("modern clients and {sessions} in turn"),
    }
}

async fn sessions(
    reach: &Reach,
    headers: &[(HeaderName, HeaderValue)],
    count: u32,
) -> Result<Vec<Arc<Client>>, Failure> {
    let mut open = Vec::new();
    let mut opening = JoinSet::new();
    for _ in 0..count {
        if opening.len() >= OPENED_AT_ONCE {
            open.extend(opened(&mut opening).await?);
        }
        let client = Client::new(reach.clone()).with_headers(headers.to_vec());
        opening.spawn(client.open_session());
    }
    while !opening.is_empty() {
        open.extend(opened(&mut opening).await?);
    }
    Ok(open)
}

async fn opened(opening: &mut JoinSet<Result<Client, Failure>>) -> Result<Option<Arc<Client>>, Failure> {
    match opening.join_next().await {
        None => Ok(None),
        Some(Ok(client)) => client.map(|client| Some(Arc::new(client))),
        Some(Err(error)) => Err(Failure::new(Code::Internal, "a session could not be opened").because(&error)),
    }
}

/// Ends the sessions: a server that keeps them would soon have as many as it may.
async fn close(clients: Vec<Arc<Client>>) {
    let mut closing = JoinSet::new();
    for client in clients {
        closing.spawn(async move { client.close_session().await });
    }
    let _ = tokio::time::timeout(CLOSE, async { while closing.join_next().await.is_some() {} }).await;
}

/// A header as it was written. Its value may be a secret and is in no message.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let wrong = || Failure::usage("a header is not `NAME: VALUE`");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name.trim().parse().map_err(|_| wrong())?, value))
}

/// One call, ready to be made.
#[derive(Debug)]
struct Operation {
    method: String,
    /// Members of `params`.
    members: Vec<String>,
    /// What `Mcp-Name` says.
    name: Option<String>,
    /// The arguments of a tool.
    arguments: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    weight: u64,
}

/// A call as people write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    tool: Option<String>,
    arguments: Option<Box<RawValue>>,
    method: Option<String>,
    params: Option<serde_json::Map<String, serde_json::Value>>,
    weight: Option<u32>,
}

/// The calls that are made.
#[derive(Debug)]
struct Mix {
    operations: Vec<Operation>,
    seed: u64,
    total: u64,
    /// What it is, in words.
    words: String,
}

impl Mix {
    fn new(arguments: &cli::Bench) -> Result<Self, Failure> {
        let (operations, words) = match (&arguments.tool, &arguments.mix) {
            (Some(tool), _) => {
                let object = call::object(arguments.arguments.as_deref())?;
                (vec![Operation::tool(tool, object, 1)], format!("tool `{tool}`"))
            }
            (None, Some(path)) => (read(path)?, format!("the mix of `{}`", path.display())),
            (None, None) => {
                (vec![Operation::plain(Method::ToolsList.as_str(), Vec::new(), None, 1)], "tools/list".to_owned())
            }
        };
        let total = operations.iter().map(|operation| operation.weight).sum();
        Ok(Self { operations, seed: arguments.seed, total, words })
    }

    /// Learns of the tools which of their arguments they want in headers.
    async fn learn(&mut self, client: &Client) -> Result<(), Failure> {
        if self.operations.iter().all(|operation| operation.arguments.is_none()) {
            return Ok(());
        }
        let tools = client.list(Method::ToolsList.as_str(), "tools").await?;
        for operation in &mut self.operations {
            let (Some(name), Some(arguments)) = (&operation.name, &operation.arguments) else { continue };
            let named = |raw: &&String| list::string_member(raw, "name").is_some_and(|other| other == *name);
            match tools.iter().find(named) {
                Some(definition) => operation.headers = mcp::param_headers(definition, arguments)?,
                None => eprintln!("note: no tool is listed as `{}`", output::one_line(name, 100)),
            }
        }
        Ok(())
    }

    /// The same calls in the same order for the same seed.
    fn pick(&self, ordinal: u64) -> &Operation {
        let mut at = mixed(self.seed, ordinal) % self.total.max(1);
        for operation in &self.operations {
            match at.checked_sub(operation.weight) {
                Some(rest) => at = rest,
                None => return operation,
            }
        }
        &self.operations[0]
    }
}

/// A number that looks like chance (SplitMix64).
fn mixed(seed: u64, ordinal: u64) -> u64 {
    let mut x = seed.wrapping_add(ordinal.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Operation {
    fn plain(method: &str, members: Vec<String>, name: Option<String>, weight: u32) -> Self {
        let (method, weight) = (method.to_owned(), u64::from(weight));
        Self { method, members, name, arguments: None, headers: Vec::new(), weight }
    }

    fn tool(name: &str, arguments: String, weight: u32) -> Self {
        let members = vec![format!(r#""name":{}"#, message::quote(name)), format!(r#""arguments":{arguments}"#)];
        let operation = Self::plain(Method::ToolsCall.as_str(), members, Some(name.to_owned()), weight);
        Self { arguments: Some(arguments), ..operation }
    }
}

fn read(path: &Path) -> Result<Vec<Operation>, Failure> {
    let shown = path.display();
    let unreadable = |error| Failure::usage(format!("cannot read `{shown}`")).because(&error);
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_MIX {
        return Err(Failure::usage(format!("`{shown}` is larger than {MAX_MIX} bytes")));
    }
    operations(&fs::read_to_string(path).map_err(unreadable)?)
}

fn operations(text: &str) -> Result<Vec<Operation>, Failure> {
    let hint = r#"write a list like [{"tool": "crm__search", "arguments": {"query": "acme"}, "weight": 3}, {"method": "tools/list"}]"#;
    let wrong = |text: String| Failure::usage(text).hint(hint);
    let items: Vec<Item> =
        serde_json::from_str(text).map_err(|error| wrong(String::from("the mix is not one")).because(&error))?;
    if items.is_empty() || items.len() > MAX_OPERATIONS {
        return Err(wrong(format!("a mix has 1 to {MAX_OPERATIONS} calls")));
    }
    let build = |item: Item| {
        let weight = item.weight.unwrap_or(1);
        if weight == 0 {
            return Err(wrong("a call of the mix has no weight".to_owned()));
        }
        match (item.tool, item.arguments, item.method, item.params) {
            (Some(tool), arguments, None, None) => {
                let arguments = arguments.map_or_else(|| "{}".to_owned(), |raw| raw.get().to_owned());
                if !arguments.starts_with('{') {
                    return Err(wrong(format!("the arguments of `{tool}` are not a JSON object")));
                }
                Ok(Operation::tool(&tool, arguments, weight))
            }
            (None, None, Some(method), params) => {
                let params = params.unwrap_or_default();
                let named = params.get("name").or_else(|| params.get("uri")).and_then(|name| name.as_str());
                let name = named.map(str::to_owned);
                let members = params.iter().map(|(key, value)| format!("{}:{value}", message::quote(key))).collect();
                Ok(Operation::plain(&method, members, name, weight))
            }
            _ => Err(wrong("a call of the mix has either a `tool` or a `method`".to_owned())),
        }
    };
    items.into_iter().map(build).collect()
}

/// What is called: the clients, and what they call.
struct Endpoint {
    modern: Option<Arc<Client>>,
    legacy: Vec<Arc<Client>>,
    mix: Mix,
}

impl Endpoint {
    /// The clients take turns; where there are modern and legacy ones, they alternate.
    fn client(&self, ordinal: u64) -> &Client {
        let at = |ordinal: u64| &self.legacy[usize::try_from(ordinal % self.legacy.len() as u64).unwrap_or(0)];
        match &self.modern {
            Some(client) if self.legacy.is_empty() || ordinal.is_multiple_of(2) => client,
            Some(_) => at(ordinal / 2),
            None => at(ordinal),
        }
    }
}

impl Target for Endpoint {
    async fn call(&self, ordinal: u64) -> Result<(), String> {
        let operation = self.mix.pick(ordinal);
        let (name, headers) = (operation.name.as_deref(), operation.headers.clone());
        let answer = self.client(ordinal).ask(&operation.method, &operation.members, name, headers, &mut |_| {}).await;
        match answer {
            Ok(Answer::Result(raw)) => judge(&operation.method, &raw),
            Ok(Answer::Error(code, text)) => Err(error_words(code, &text)),
            Err(none) => Err(none.words),
        }
    }
}

/// Whether a result is what was wanted.
fn judge(method: &str, raw: &str) -> Result<(), String> {
    if let Some(kind) = list::string_member(raw, "resultType").filter(|kind| kind != "complete") {
        return Err(format!("result of type `{}`", output::one_line(&kind, 40)));
    }
    if method == Method::ToolsCall.as_str() && list::raw_member(raw, "isError") == Some("true") {
        return Err("tool error".to_owned());
    }
    Ok(())
}

/// The gateway's own code where there is one, else that of JSON-RPC.
fn error_words(code: i64, text: &str) -> String {
    const DIGITS: usize = 4;
    let label = text.rsplit_once("(FL-").map(|(_, rest)| rest).filter(|rest| {
        rest.len() > DIGITS
            && rest.as_bytes()[..DIGITS].iter().all(u8::is_ascii_digit)
            && rest.as_bytes()[DIGITS] == b')'
    });
    match label {
        Some(rest) => format!("FL-{}", &rest[..DIGITS]),
        None => format!("JSON-RPC {code}"),
    }
}

/// A line on a terminal that is written over.
struct ProgressLine {
    is_terminal: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, now: &fairlead_load::Progress) {
        if !self.is_terminal {
            return;
        }
        let (at, of) = now.position;
        let p99 = now.p99.map_or_else(String::new, |p99| format!(", p99 {:.1} ms", p99.as_secs_f64() * 1e3));
        let left = now.left.as_secs();
        let mut stderr = std::io::stderr().lock();
        let _ = write!(
            stderr,
            "\r\x1b[K{at}/{of} {}: {} calls, {} failed{p99}; {left} s left",
            now.phase, now.calls, now.failed
        );
        let _ = stderr.flush();
    }

    fn clear(&mut self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read_and_its_weights_count() {
        let text = r#"[{"tool": "a", "arguments": {"x": 1.0}, "weight": 3}, {"method": "resources/read", "params": {"uri": "u:1"}}]"#;
        let operations = operations(text).unwrap();
        assert_eq!(operations[0].members, [r#""name":"a""#, r#""arguments":{"x": 1.0}"#]);
        assert_eq!((operations[1].method.as_str(), operations[1].name.as_deref()), ("resources/read", Some("u:1")));
        let mix = Mix { operations, seed: 1, total: 4, words: String::new() };
        let first = (0..4000).filter(|ordinal| mix.pick(*ordinal).name.as_deref() == Some("a")).count();
        assert!((2850..3150).contains(&first), "{first}");
        for wrong in [
            "[]",
            "{}",
            r#"[{"tool": "a", "method": "b"}]"#,
            r#"[{"tool": "a", "arguments": []}]"#,
            r#"[{"weight": 1}]"#,
            r#"[{"tool": "a", "weight": 0}]"#,
            r#"[{"tool": "a", "extra": 0}]"#,
        ] {
            assert!(super::operations(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn failures_are_named_by_their_code() {
        assert_eq!(error_words(-31502, "server `crm`: gone; unknown (FL-1303)"), "FL-1303");
        assert_eq!(error_words(-32602, "no (FL-x)"), "JSON-RPC -32602");
        assert_eq!(error_words(-32602, "no (FL-"), "JSON-RPC -32602");
        assert_eq!(judge("tools/call", r#"{"isError":true}"#), Err("tool error".to_owned()));
        assert_eq!(judge("prompts/get", r#"{"isError":true}"#), Ok(()));
        assert!(judge("tools/call", r#"{"resultType":"input_required"}"#).is_err());
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        let (name, value) = header("Authorization: Bearer a:b").unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("authorization", &b"Bearer a:b"[..]));
        assert!(value.is_sensitive());
        for wrong in ["", "a", "a b: c", ": x"] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
    }
}
