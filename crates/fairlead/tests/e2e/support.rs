//! A gateway as a process of its own, and waiting for what must come.
//!
//! Nothing here sleeps to synchronise: everything polls with a bound, and says what never came.

pub(crate) mod doors;
pub(crate) mod gate;
pub(crate) mod processes;
pub(crate) mod rows;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use fairlead_testkit::{McpClient, Script};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::process::Child;

/// How long anything may take that is over at once unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// One second.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// How much longer at most.
const MOST_RELAXED: f64 = 8.0;

/// A limit of time for a machine that may have more to do than it can: as much longer as there is more to do than
/// processors. What is idle is held to the limit itself.
pub(crate) fn relaxed(limit: Duration) -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse::<f64>().ok()).unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    limit.mul_f64((load / processors as f64).clamp(1.0, MOST_RELAXED))
}
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// The variable that marks the gateway and everything it starts. Of the gateway's environment only some variables
/// reach its children; those that begin so do.
pub(crate) const MARK: &str = "XDG_FAIRLEAD_TEST_MARK";
/// The legacy revisions served over Streamable HTTP, newest first.
pub(crate) const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
/// The newest legacy revision.
pub(crate) const NEWEST_LEGACY: &str = LEGACY[0];
/// The modern revision.
pub(crate) const MODERN: &str = "2026-07-28";

/// The program under test: the one of this build, or what `FAIRLEAD_PROGRAM` names.
pub(crate) fn program() -> &'static str {
    static PROGRAM: LazyLock<String> =
        LazyLock::new(|| std::env::var("FAIRLEAD_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_fairlead").into()));
    &PROGRAM
}

/// A running gateway with a directory of its own. Dropping it kills it and everything that carries its mark.
pub(crate) struct Gateway {
    child: Child,
    dir: Option<tempfile::TempDir>,
    mark: String,
    instance: Value,
    environment: Vec<(String, String)>,
}

impl Gateway {
    /// Starts the program with this configuration (top-level YAML; `listen`, `admin`, `data_dir` and `log` are added
    /// where it has none: free ports of loopback, the directory `data`, debug logging of ours) and waits until it
    /// is ready.
    pub(crate) async fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &[]).await
    }

    /// The same with more environment variables.
    pub(crate) async fn start_with(yaml: &str, environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("fairlead-e2e-").tempdir().unwrap();
        fs::write(dir.path().join("fairlead.yaml"), complete(yaml)).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mark = new_mark();
        let child = spawn(dir.path(), &mark, &environment);
        let mut gateway = Self { child, dir: Some(dir), mark, instance: Value::Null, environment };
        gateway.wait_ready().await;
        gateway
    }

    /// Starts the program again in the same directory, after [`Gateway::stop`] or [`Gateway::kill`]. The URLs change.
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "the gateway still runs");
        self.child = spawn(self.dir(), &self.mark, &self.environment);
        self.wait_ready().await;
    }

    async fn wait_ready(&mut self) {
        let path = self.data_dir().join("instance.json");
        let start = Instant::now();
        loop {
            let instance = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            // What a killed one left there names another process.
            if let Some(instance) = instance.filter(|instance| instance["pid"] == self.pid()) {
                self.instance = instance;
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the gateway ended with {status} instead of starting:\n{}", self.log());
            }
            assert!(
                start.elapsed() < relaxed(PATIENCE),
                "the gateway is not ready after {PATIENCE:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The directory that holds `fairlead.yaml`, `gateway.log` and `data`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_ref().expect("invariant: the directory is there until the drop").path()
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// The configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir().join("fairlead.yaml")
    }

    /// The URL of a path on the MCP listener: `url("/servers/crm/mcp")`.
    pub(crate) fn url(&self, path: &str) -> String {
        let endpoint = self.instance["mcp_url"].as_str().unwrap();
        format!("{}{path}", endpoint.strip_suffix("/mcp").unwrap())
    }

    /// Where the MCP listener listens: `127.0.0.1:4711`.
    pub(crate) fn address(&self) -> String {
        self.url("").strip_prefix("http://").unwrap().to_owned()
    }

    /// The URL of a path on the admin listener: `admin_url("/metrics")`.
    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("{}{path}", self.instance["admin_url"].as_str().unwrap())
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The value of [`MARK`] in the environment of the gateway and of all its children.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// Everything it wrote to stderr so far, of all its starts.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir().join("gateway.log")).unwrap_or_default()).into_owned()
    }

    /// Waits until the log contains `text`.
    pub(crate) async fn logged(&self, text: &str) {
        eventually(PATIENCE, &format!("`{text}` in the log"), || self.log().contains(text)).await;
    }

    /// Waits until what it was told is in its database, as a gateway that is killed then needs it. What a request changes
    /// is on its way when the answer comes.
    pub(crate) async fn stored(&self) {
        eventually_some(PATIENCE, "nothing on its way to the database", async || {
            let (_, metrics) = get(&self.admin_url("/metrics")).await;
            metrics.lines().any(|line| line == "fairlead_unwritten_records 0").then_some(())
        })
        .await;
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        processes::resident_bytes(self.pid()).expect("invariant: the gateway runs")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Writes another configuration and sends SIGHUP; returns when the gateway has said what came of it.
    pub(crate) async fn reload(&self, yaml: &str) {
        let before = self.log().len();
        // At once: a reload that is still going on must not read half of it.
        let written = self.dir().join("fairlead.yaml.new");
        fs::write(&written, complete(yaml)).unwrap();
        fs::rename(&written, self.config_path()).unwrap();
        self.signal(Signal::SIGHUP);
        let outcomes = ["the configuration was applied", "nothing was changed"];
        eventually(PATIENCE, "the outcome of the reload in the log", || {
            let log = self.log();
            outcomes.iter().any(|outcome| log[before..].contains(outcome))
        })
        .await;
    }

    /// SIGTERM, and waits for the end. Returns the exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.ended(Duration::from_secs(30)).await
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Option<i32> {
        let status = tokio::time::timeout(relaxed(limit), self.child.wait()).await;
        status.unwrap_or_else(|_| panic!("the gateway still runs after {limit:?}:\n{}", self.log())).unwrap().code()
    }

    /// `kill -9`, and waits for the end of this one process.
    pub(crate) async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    /// A client of a path that has done the legacy handshake, without capabilities.
    pub(crate) async fn legacy(&self, path: &str, revision: &str) -> McpClient {
        let client = McpClient::new(&self.url(path)).limit(relaxed(PATIENCE));
        client.initialize(revision).await.unwrap();
        client
    }

    /// A modern client of a path, without capabilities.
    pub(crate) fn modern(&self, path: &str) -> McpClient {
        McpClient::new(&self.url(path)).limit(relaxed(PATIENCE)).modern(MODERN)
    }

    /// Runs a command of the program about this gateway: `cli(&["servers", "--json"])`.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Output {
        let config = self.config_path();
        let mut all = arguments.to_vec();
        all.extend(["-c", config.to_str().unwrap()]);
        cli(self.dir(), &all).await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.start_kill().ok();
        processes::kill_marked(&self.mark);
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            let log = self.dir_log(&dir);
            eprintln!("the gateway's directory is kept: {}\n--- end of its log ---\n{log}", dir.keep().display());
        }
    }
}

impl Gateway {
    fn dir_log(&self, dir: &tempfile::TempDir) -> String {
        /// Lines of the log that are shown.
        const SHOWN: usize = 60;
        let text = String::from_utf8_lossy(&fs::read(dir.path().join("gateway.log")).unwrap_or_default()).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }
}

/// Adds what every test needs and this configuration does not say.
fn complete(yaml: &str) -> String {
    let defaults = [
        ("data_dir:", "data_dir: data"),
        ("listen:", "listen: { address: \"127.0.0.1:0\" }"),
        ("admin:", "admin: { address: \"127.0.0.1:0\" }"),
        ("log:", "log: { level: \"info,fairlead_upstream=debug,fairlead_gateway=debug\" }"),
    ];
    let mut text = String::new();
    for (key, line) in defaults {
        if !yaml.lines().any(|line| line.starts_with(key)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text + yaml
}

fn new_mark() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{}-{}-{now}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn spawn(dir: &Path, mark: &str, environment: &Vec<(String, String)>) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("gateway.log")).unwrap();
    let mut command = tokio::process::Command::new(program());
    command.args(["up", "-c"]).arg(dir.join("fairlead.yaml")).current_dir(dir);
    command.env_remove("FAIRLEAD_URL").env(MARK, mark).env("NO_COLOR", "1");
    for (name, value) in environment {
        command.env(name, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn().unwrap()
}

/// Runs a command of the program in a directory, at most a minute.
pub(crate) async fn cli(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program());
    command.args(arguments).current_dir(dir).env_remove("FAIRLEAD_URL").env("NO_COLOR", "1");
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(Duration::from_secs(60), output)
        .await
        .unwrap_or_else(|_| panic!("`fairlead {}` does not end", arguments.join(" ")))
        .unwrap()
}

/// Waits until `holds`, at most `limit`; fails with `what` otherwise.
pub(crate) async fn eventually(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < relaxed(limit), "never within {limit:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until `probe` brings something, at most `limit`; fails with `what` otherwise.
pub(crate) async fn eventually_some<T>(limit: Duration, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < relaxed(limit), "never within {limit:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A plain GET of a `http://` URL: status and body.
pub(crate) async fn get(url: &str) -> (u16, String) {
    let client = McpClient::new(url).limit(relaxed(PATIENCE));
    let answer = client.raw(http::Method::GET, "", &[("content-type", ""), ("accept", "*/*")]).await.unwrap();
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

/// The program that runs a [`Script`] over stdio. It belongs to the testkit: a run of all tests builds it, a run of
/// one package does not, so it is built here when it is missing or older than its sources.
pub(crate) fn scripted_program() -> PathBuf {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap();
    if let Some(path) = &*found {
        return path.clone();
    }
    let path = Path::new(env!("CARGO_BIN_EXE_fairlead")).with_file_name("scripted");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fairlead-testkit/src");
    let built = fs::metadata(&path).and_then(|metadata| metadata.modified());
    if built.is_ok_and(|built| newest(&sources) <= built) {
        return found.insert(path).clone();
    }
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "-p", "fairlead-testkit", "--bin", "scripted", "--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.is_ok_and(|status| status.success()) && path.exists(), "cannot build {}", path.display());
    found.insert(path).clone()
}

fn newest(dir: &Path) -> SystemTime {
    let mut newest = UNIX_EPOCH;
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        let time = if metadata.is_dir() { self::newest(&entry.path()) } else { metadata.modified().unwrap() };
        newest = newest.max(time);
    }
    newest
}

/// A scripted stdio server: the script's file, and what the configuration says to run it.
pub(crate) struct StdioServer {
    dir: tempfile::TempDir,
}

impl StdioServer {
    /// Writes the script to a directory that lives as long as this value. Every request line it gets is recorded.
    pub(crate) fn new(script: Script) -> Self {
        let dir = tempfile::Builder::new().prefix("fairlead-script-").tempdir().unwrap();
        let server = Self { dir };
        server.rewrite(script);
        server
    }

    /// Writes another script, for processes that start from now on.
    pub(crate) fn rewrite(&self, mut script: Script) {
        script.stdio.record.get_or_insert_with(|| self.dir.path().join("record"));
        script.stdio.pids.get_or_insert_with(|| self.dir.path().join("pids"));
        fs::write(self.dir.path().join("script.json"), script.to_json()).unwrap();
    }

    /// The members `command` and `args` as a YAML flow map without its braces, to be completed by the test:
    /// `format!("{{ {}, start: eager }}", server.yaml())`.
    pub(crate) fn yaml(&self) -> String {
        let script = self.dir.path().join("script.json");
        format!("command: \"{}\", args: [\"{}\"]", scripted_program().display(), script.display())
    }

    /// Every line it was sent, by all its processes, as JSON.
    pub(crate) fn received(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("record")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|record| serde_json::from_str(record["line"].as_str()?).ok()).collect()
    }

    /// The messages it was sent with this method.
    pub(crate) fn received_method(&self, method: &str) -> Vec<Value> {
        let mut received = self.received();
        received.retain(|message| message["method"] == method);
        received
    }

    /// Process ids of every process (and grandchild) it ever had.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.dir.path().join("pids")).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// Those of them that live.
    pub(crate) fn living(&self) -> Vec<u32> {
        self.pids().into_iter().filter(|pid| processes::is_alive(*pid)).collect()
    }
}
