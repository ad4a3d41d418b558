//! A directory of its own, a gateway in it, and commands against it.

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_fairlead");
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(40);

/// A directory with a configuration, and a home of its own.
pub(crate) struct Fixture {
    temp: tempfile::TempDir,
}

impl Fixture {
    /// A directory with `servers` (the block below `servers:`) in `fairlead.yaml`; all ports are free ones.
    pub(crate) fn new(servers: &str) -> Self {
        let fixture = Self { temp: tempfile::tempdir().expect("a directory") };
        fixture.configure(servers);
        fixture
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path().join(".fairlead")
    }

    /// Writes another configuration, the way editors do.
    pub(crate) fn configure(&self, servers: &str) {
        let text = format!(
            "listen: {{ address: 127.0.0.1:0 }}\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\nservers:\n{servers}"
        );
        self.write("fairlead.yaml.new", &text);
        fs::rename(self.path().join("fairlead.yaml.new"), self.path().join("fairlead.yaml")).expect("rename");
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, text).expect("write");
    }

    /// The program in this directory, with nothing of the surroundings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path().join("home"))
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("TMPDIR", self.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments))
    }

    /// The running instance, as the file in the data directory says.
    pub(crate) fn instance(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.data_dir().join("instance.json")).ok()?).ok()
    }

    /// Starts `fairlead up` and waits until it is ready.
    pub(crate) fn up(&self) -> Up {
        let log = self.path().join("up.log");
        let file = fs::OpenOptions::new().append(true).create(true).open(&log).expect("a log");
        let child = self.command(&["up"]).stderr(file).spawn().expect("it starts");
        let pid = child.id();
        let mut up = Up { child, log };
        eventually("the gateway is ready", || {
            if let Some(status) = up.child.try_wait().expect("a child") {
                panic!("it ended with {status}:\n{}", up.log());
            }
            self.instance().is_some_and(|instance| instance["pid"] == pid)
        });
        up
    }

    /// Rows of `fairlead servers --json`, once every server was tried.
    pub(crate) fn servers(&self) -> Vec<Value> {
        let mut rows: Vec<Value> = Vec::new();
        eventually("every server was tried", || {
            let ran = self.run(&["servers", "--json"]);
            assert_eq!(ran.code, 0, "{ran:?}");
            rows = serde_json::from_str(&ran.stdout).expect("rows");
            rows.iter()
                .all(|row| row["state"] != "starting" && (row["error"] != Value::Null || !row["tools"].is_null()))
        });
        rows
    }
}

/// A bundled server as a child process, with a mark by which its processes are found.
pub(crate) fn demo(name: &str, bundled: &str, mark: &str) -> String {
    format!(
        "  {name}:\n    command: {PROGRAM}\n    args: [demo-server, {bundled}]\n    start: eager\n    stop_grace: 500ms\n    env: {{ FAIRLEAD_TEST_MARK: {mark} }}\n"
    )
}

/// A gateway that runs; ends with the test.
pub(crate) struct Up {
    child: Child,
    log: PathBuf,
}

impl Up {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        send(self.pid(), signal);
    }

    /// Waits for its end; the exit code, or `None` after a signal.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the gateway ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- log of the gateway\n{}", self.log());
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Runs it to its end, which must come.
    pub(crate) fn of(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        finish(child)
    }
}

/// Waits for a child with piped output.
pub(crate) fn finish(child: Child) -> Ran {
    let pid = child.id();
    let waiting = thread::spawn(move || child.wait_with_output());
    let until = Instant::now() + LIMIT;
    while !waiting.is_finished() {
        if Instant::now() >= until {
            send(pid, nix::sys::signal::Signal::SIGKILL);
            panic!("the command did not end: {:?}", waiting.join());
        }
        thread::sleep(Duration::from_millis(5));
    }
    let Output { status, stdout, stderr } = waiting.join().expect("no panic").expect("output");
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).expect("UTF-8"),
        stderr: String::from_utf8(stderr).expect("UTF-8"),
    }
}

/// Sends a signal to a process this test started.
pub(crate) fn send(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let _ = nix::sys::signal::kill(pid, signal);
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < until, "not so in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The processes whose environment carries a mark.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let wanted = format!("FAIRLEAD_TEST_MARK={mark}");
    let entries = fs::read_dir("/proc").expect("a process table");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|text| text.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()))
    };
    pids.filter(has).collect()
}

/// One HTTP request over a connection of its own: status and body.
pub(crate) fn get(base: &str, path: &str, host: Option<&str>) -> (u16, String) {
    let address = base.strip_prefix("http://").expect("a URL").split('/').next().expect("an authority");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let host = host.unwrap_or(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}
