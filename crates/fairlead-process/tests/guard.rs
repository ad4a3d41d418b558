//! Real processes that behave badly, and the proof that none of them is left.
//!
//! Every process of a test carries a mark in its environment, so "left" is what `/proc` shows with that mark, however far
//! it ran from its parents. The guard carries it too.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fairlead_process::lines::{Line, LineReader, log_stderr};
use fairlead_process::{ChildSpec, GuardBinary, spawn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// For servers that will not use it.
const GRACE: Duration = Duration::from_millis(300);
/// For servers that end in it, also on a busy machine.
const CLEANUP_GRACE: Duration = Duration::from_millis(1500);
/// What the issue allows between the death of the program and that of its last process.
const GONE_LIMIT: Duration = Duration::from_secs(5);
/// A wait that is over long before unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a daemon: double fork, own session, deaf to TERM and HUP; says `daemon PID` when it is.
const DAEMON: &str = r#"(setsid sh -c 'trap "" TERM HUP INT; echo "daemon $$"; while :; do sleep 60; done' &)"#;

fn guard_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let guard = test.parent().unwrap().parent().unwrap().join("examples/guard");
    assert!(guard.exists(), "the example `guard` is built with the tests of this package: {}", guard.display());
    guard
}

/// A mark that no other process has, also not one of an earlier run.
fn new_mark() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed), started.as_nanos())
}

/// The mark and the specification of `sh -c script`.
fn shell(script: &str) -> (String, ChildSpec) {
    let mark = new_mark();
    let spec = ChildSpec {
        command: "sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("TEST_MARK".to_owned(), mark.clone())],
        cwd: None,
        stop_grace: GRACE,
        guard: GuardBinary::at(guard_binary()),
    };
    (mark, spec)
}

/// Living processes with this mark, as `pid command`.
fn marked(mark: &str) -> Vec<String> {
    let wanted = format!("TEST_MARK={mark}\0").into_bytes();
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(environ) = std::fs::read(process.path().join("environ")) else { continue };
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid != own && environ.windows(wanted.len()).any(|window| window == wanted) {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            found.push(format!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// Waits until `least` processes with the mark are seen: one that is just executing something shows no environment.
fn assert_running(mark: &str, least: usize) {
    let start = Instant::now();
    while marked(mark).len() < least {
        assert!(start.elapsed() < PATIENCE, "fewer than {least}: {:#?}", marked(mark));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until no process with the mark is left, at most `limit`.
fn assert_gone_within(mark: &str, limit: Duration) {
    let start = Instant::now();
    loop {
        let left = marked(mark);
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < limit, "left after {limit:?}: {left:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn next_text(reader: &mut LineReader<impl tokio::io::AsyncRead + Unpin>) -> String {
    match timeout(PATIENCE, reader.next_line()).await.expect("a line in time").unwrap() {
        Some(Line::Text(text)) => String::from_utf8(text.to_vec()).unwrap(),
        other => panic!("expected a line, got {other:?}"),
    }
}

/// Starts `script`, waits until it has said `lines` lines, stops it and checks that nothing is left. Returns the status and
/// how long the stop took.
async fn stopped(script: &str, lines: usize, grace: Duration) -> (std::process::ExitStatus, Duration) {
    let (mark, mut spec) = shell(script);
    spec.stop_grace = grace;
    let mut child = spawn(&spec).unwrap();
    let mut reader = LineReader::new(&mut child.stdout, 1024);
    for _ in 0..lines {
        next_text(&mut reader).await;
    }
    let start = Instant::now();
    let status = timeout(PATIENCE, child.stop()).await.expect("a stop ends");
    let took = start.elapsed();
    assert_eq!(marked(&mark), [""; 0], "stop returns when nothing is left");
    (status, took)
}

#[tokio::test]
async fn data_passes_and_the_exit_code_arrives() {
    let (mark, spec) = shell("cat; echo complaint >&2; exit 7");
    let mut child = spawn(&spec).unwrap();
    let payload = b"0123456789abcde\n".repeat(64 * 1024);
    let (mut stdin, mut stdout) = (child.stdin, child.stdout);
    let write = async {
        stdin.write_all(&payload).await.unwrap();
        drop(stdin);
    };
    let read = async {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).await.unwrap();
        output
    };
    let ((), output) = timeout(PATIENCE, async { tokio::join!(write, read) }).await.unwrap();
    assert!(output == payload, "{} of {} bytes came back", output.len(), payload.len());
    let mut complaint = String::new();
    child.stderr.read_to_string(&mut complaint).await.unwrap();
    assert_eq!(complaint, "complaint\n");
    assert_eq!(timeout(PATIENCE, child.process.wait()).await.unwrap().code(), Some(7));
    assert_eq!(child.process.wait().await.code(), Some(7), "waiting twice is the same");
    assert_gone_within(&mark, Duration::ZERO);
}

#[tokio::test]
async fn a_death_by_signal_is_told_as_a_shell_does() {
    let (_, spec) = shell("kill -9 $$");
    assert_eq!(timeout(PATIENCE, spawn(&spec).unwrap().wait()).await.unwrap().code(), Some(128 + 9));
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error_that_names_it() {
    let (_, mut spec) = shell("");
    spec.args = vec!["--token=hunter2".to_owned()];
    let refused = |spec: &ChildSpec| spawn(spec).map(|_| ()).map_err(|error| (error.kind(), error.to_string()));
    spec.command = "no-such-server".to_owned();
    assert_eq!(
        refused(&spec),
        Err((std::io::ErrorKind::NotFound, "the command `no-such-server` was not found in PATH".to_owned()))
    );
    assert!(!format!("{spec:?}").contains("hunter2"));
    spec.command = "sh".to_owned();
    spec.env.push(("PATH".to_owned(), "/nonexistent".to_owned()));
    assert_eq!(
        refused(&spec),
        Err((std::io::ErrorKind::NotFound, "the command `sh` was not found in PATH".to_owned())),
        "the configured PATH counts"
    );
    spec.command = "/bin/sh".to_owned();
    spec.cwd = Some("/nonexistent".into());
    assert_eq!(
        refused(&spec),
        Err((std::io::ErrorKind::NotFound, "the working directory `/nonexistent` is not a directory".to_owned()))
    );
}

#[tokio::test]
async fn a_script_without_its_interpreter_ends_at_once_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("server");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (_, mut spec) = shell("");
    spec.cwd = Some(directory.path().to_owned());
    spec.command = "./server".to_owned();
    let mut child = spawn(&spec).unwrap();
    assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().code(), Some(127));
    let mut complaint = String::new();
    child.stderr.read_to_string(&mut complaint).await.unwrap();
    assert!(complaint.contains("cannot execute") && complaint.contains("server"), "{complaint}");
}

#[tokio::test]
async fn the_child_runs_in_its_directory_with_clean_signals_and_three_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    // Left open for children on purpose, as a careless library or the shell that started us might.
    let leak = std::fs::File::open("/dev/null").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let (_, sleeper) = shell("sleep 60");
    let _other = spawn(&sleeper).unwrap();

    // Not through a shell: it has descriptors of its own and cleans up signals by itself.
    let output = async |command: &str, args: &[&str]| {
        let (_, mut spec) = shell("");
        spec.cwd = Some(directory.path().to_owned());
        spec.command = command.to_owned();
        spec.args = args.iter().map(|&argument| argument.to_owned()).collect();
        let mut child = spawn(&spec).unwrap();
        let mut output = String::new();
        timeout(PATIENCE, child.stdout.read_to_string(&mut output)).await.unwrap().unwrap();
        output
    };
    assert_eq!(output("pwd", &["-P"]).await.trim(), directory.path().canonicalize().unwrap().to_str().unwrap());
    assert_eq!(output("ls", &["/proc/self/fd"]).await, "0\n1\n2\n3\n", "3 is the directory that is listed");
    let masks: Vec<u64> = output("grep", &["-E", "^Sig(Blk|Ign)", "/proc/self/status"])
        .await
        .lines()
        .map(|line| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap())
        .collect();
    assert_eq!(masks[0], 0, "blocked signals");
    assert_eq!(masks[1] & (1 << (Signal::SIGPIPE as u32 - 1)), 0, "SIGPIPE is not ignored");
}

#[tokio::test]
async fn a_closed_stdout_is_seen_while_the_server_lives() {
    let (mark, spec) = shell("exec 1>&- 2>&-; sleep 60; :");
    let mut child = spawn(&spec).unwrap();
    let mut output = String::new();
    timeout(PATIENCE, child.stdout.read_to_string(&mut output)).await.expect("end of stdout").unwrap();
    timeout(PATIENCE, child.stderr.read_to_string(&mut output)).await.expect("end of stderr").unwrap();
    assert_eq!(output, "");
    assert_running(&mark, 3);
}

#[tokio::test]
async fn a_closed_stdin_is_enough_for_a_polite_server() {
    let (status, took) = stopped("echo ready; cat; sleep 0.05; exit 4", 1, PATIENCE / 2).await;
    assert_eq!(status.code(), Some(4));
    assert!(took < PATIENCE / 2, "no signal was needed: {took:?}");
}

#[tokio::test]
async fn term_follows_and_a_server_can_clean_up() {
    let (status, took) =
        stopped("trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done", 1, CLEANUP_GRACE).await;
    assert_eq!(status.code(), Some(3));
    assert!(took >= CLEANUP_GRACE, "the closed stdin was given its time: {took:?}");
}

#[tokio::test]
async fn a_stubborn_server_is_killed_after_both_graces() {
    let (status, took) = stopped("trap '' TERM INT HUP; echo ready; while :; do sleep 60; done", 1, GRACE).await;
    assert_eq!(status.code(), Some(128 + 9));
    assert!(took >= 2 * GRACE && took < 2 * GRACE + GONE_LIMIT, "{took:?}");
}

#[tokio::test]
async fn a_stopped_server_is_woken_to_be_ended() {
    let (status, _) =
        stopped("trap 'exit 3' TERM; echo ready; kill -STOP $$; while :; do sleep 0.02; done", 1, CLEANUP_GRACE).await;
    assert_eq!(status.code(), Some(3));
}

#[tokio::test]
async fn grandchildren_behind_shells_end_too() {
    let script =
        r#"sh -c "sh -c 'trap \"\" TERM; echo deep; while :; do sleep 60; done' & sleep 60 & wait" & echo top; wait"#;
    stopped(script, 2, GRACE).await;
}

#[tokio::test]
async fn a_daemon_in_its_own_session_ends_too() {
    stopped(&format!("{DAEMON}; echo top; exec cat"), 2, GRACE).await;
}

#[tokio::test]
async fn a_server_that_renews_itself_all_the_time_is_caught() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("hydra");
    // One process at a time, with a new id, a new session and a dead parent every 10 ms.
    std::fs::write(&script, "trap '' TERM HUP\n[ -n \"$1\" ] && echo ready\nsleep 0.01\nsetsid sh \"$0\" &\n").unwrap();
    stopped(&format!("sh {} first; cat; sleep 60", script.display()), 1, GRACE).await;
}

#[tokio::test]
async fn what_the_server_leaves_behind_ends_with_it() {
    let (mark, spec) = shell(&format!("{DAEMON}; read line; exit 5"));
    let mut child = spawn(&spec).unwrap();
    let mut reader = LineReader::new(&mut child.stdout, 1024);
    assert!(next_text(&mut reader).await.starts_with("daemon "));
    drop(child.stdin);
    assert_eq!(timeout(PATIENCE, child.process.wait()).await.unwrap().code(), Some(5));
    assert_gone_within(&mark, Duration::ZERO);
}

#[tokio::test]
async fn kill_now_does_not_wait_for_anybody() {
    let (mark, mut spec) = shell(&format!("trap '' TERM; {DAEMON}; while :; do sleep 60; done"));
    spec.stop_grace = Duration::from_secs(60);
    let mut child = spawn(&spec).unwrap();
    next_text(&mut LineReader::new(&mut child.stdout, 1024)).await;
    let start = Instant::now();
    child.kill_now();
    assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().code(), Some(128 + 9));
    assert!(start.elapsed() < GONE_LIMIT, "{:?}", start.elapsed());
    assert_gone_within(&mark, Duration::ZERO);
}

#[tokio::test]
async fn dropping_the_child_ends_the_tree() {
    let (mark, mut spec) = shell(&format!("trap '' TERM; {DAEMON}; while :; do sleep 60; done"));
    spec.stop_grace = Duration::from_secs(60);
    let mut child = spawn(&spec).unwrap();
    next_text(&mut LineReader::new(&mut child.stdout, 1024)).await;
    assert_running(&mark, 3);
    drop(child);
    assert_gone_within(&mark, GONE_LIMIT);
}

#[tokio::test]
async fn term_to_the_guard_ends_the_tree() {
    let (mark, spec) = shell(&format!("{DAEMON}; cat"));
    let mut child = spawn(&spec).unwrap();
    next_text(&mut LineReader::new(&mut child.stdout, 1024)).await;
    let guard = Pid::from_raw(i32::try_from(child.pid()).unwrap());
    kill(guard, Signal::SIGUSR1).unwrap();
    kill(guard, Signal::SIGTERM).unwrap();
    assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().code(), Some(128 + 15));
    assert_gone_within(&mark, Duration::ZERO);
}

#[tokio::test]
async fn a_killed_guard_takes_the_command_and_its_session_along() {
    let (mark, spec) = shell("sh -c 'trap \"\" TERM; echo below; while :; do sleep 60; done' & cat");
    let mut child = spawn(&spec).unwrap();
    next_text(&mut LineReader::new(&mut child.stdout, 1024)).await;
    kill(Pid::from_raw(i32::try_from(child.pid()).unwrap()), Signal::SIGKILL).unwrap();
    let status = timeout(PATIENCE, child.wait()).await.unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "the guard's own death is visible");
    assert_gone_within(&mark, Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_at_once_start_and_end() {
    let children: Vec<_> = (0..20)
        .map(|_| shell(&format!("trap '' TERM; {DAEMON}; while :; do sleep 60; done")))
        .map(|(mark, spec)| {
            tokio::spawn(async move {
                let mut child = spawn(&spec).unwrap();
                next_text(&mut LineReader::new(&mut child.stdout, 1024)).await;
                (mark, child)
            })
        })
        .collect();
    let mut running = Vec::new();
    for child in children {
        running.push(timeout(PATIENCE, child).await.unwrap().unwrap());
    }
    for (mark, _) in &running {
        assert_running(mark, 3);
    }
    let start = Instant::now();
    let stops: Vec<_> = running
        .into_iter()
        .map(|(mark, child)| tokio::spawn(async move { (mark, timeout(PATIENCE, child.stop()).await.is_ok()) }))
        .collect();
    for stop in stops {
        let (mark, ended) = stop.await.unwrap();
        assert!(ended);
        assert_eq!(marked(&mark), [""; 0]);
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

/// The stand-in gateway, killed if the test ends early.
struct StandIn {
    process: std::process::Child,
    output: std::io::Lines<BufReader<std::process::ChildStdout>>,
    mark: String,
    guard: Pid,
}

impl StandIn {
    fn start(role: &str, script: &str) -> Self {
        let mut command = Command::new(guard_binary());
        command.args([role, "sh", "-c", script]);
        Self::start_as(command)
    }

    fn start_as(mut command: Command) -> Self {
        let mark = new_mark();
        let mut process = command
            .env("TEST_MARK", &mark)
            .env("FAIRLEAD_SECRET", "hunter2")
            .env("LC_TEST", "passes")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = output.next().unwrap().unwrap();
        let guard = Pid::from_raw(first.strip_prefix("guard ").unwrap().parse().unwrap());
        Self { process, output, mark, guard }
    }

    /// The next line; the stand-in ends by itself, so this ends too.
    fn line(&mut self) -> String {
        self.output.next().unwrap().unwrap()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn kill_9_of_the_program_leaves_nothing() {
    for script in [
        "echo ready; exec cat".to_owned(),
        "trap '' TERM INT HUP; echo ready; while :; do sleep 60; done".to_owned(),
        format!("trap '' TERM; (sh -c 'sh -c \"sleep 60; :\" & wait' & wait) & {DAEMON}; while :; do sleep 60; done"),
    ] {
        let mut gateway = StandIn::start("gateway", &script);
        gateway.line();
        assert_running(&gateway.mark, 3);
        gateway.process.kill().unwrap();
        gateway.process.wait().unwrap();
        assert_gone_within(&gateway.mark, GONE_LIMIT);
    }
}

#[test]
fn kill_9_of_the_guard_leaves_nothing_to_a_subreaper() {
    let mut gateway = StandIn::start("subreaper", &format!("{DAEMON}; exec cat"));
    assert!(gateway.line().starts_with("daemon "));
    assert_running(&gateway.mark, 4);
    kill(gateway.guard, Signal::SIGKILL).unwrap();
    let status = gateway.line();
    assert!(status.starts_with("status "), "{status}");
    let left = marked(&gateway.mark);
    assert_eq!(left.len(), 1, "only the stand-in itself: {left:?}");
    let pid = gateway.process.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(children, "", "no zombies either");
}

#[test]
fn kill_9_of_guard_and_program_together_still_ends_the_command() {
    let mut gateway = StandIn::start("gateway", "trap '' TERM HUP; echo ready; exec sleep 60");
    gateway.line();
    kill(gateway.guard, Signal::SIGKILL).unwrap();
    gateway.process.kill().unwrap();
    gateway.process.wait().unwrap();
    assert_gone_within(&gateway.mark, GONE_LIMIT);
}

/// Some programs start others with SIGCHLD ignored: then no end of a child is signalled and no status is kept.
#[test]
fn an_ignored_sigchld_does_not_hide_the_end() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' CHLD; exec \"$0\" gateway sh -c 'echo ready; exit 0'"]).arg(guard_binary());
    let mut gateway = StandIn::start_as(command);
    assert_eq!(gateway.line(), "ready");
    let start = Instant::now();
    assert!(gateway.line().starts_with("status "));
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn the_program_s_own_variables_do_not_reach_the_child() {
    let mut gateway = StandIn::start("gateway", "env; echo END; exec cat");
    let mut names = Vec::new();
    loop {
        let line = gateway.line();
        if line == "END" {
            break;
        }
        names.extend(line.split_once('=').map(|(name, _)| name.to_owned()));
    }
    for name in ["PATH", "LC_TEST", "TEST_MARK"] {
        assert!(names.iter().any(|known| known == name), "{name} is missing from {names:?}");
    }
    for name in ["FAIRLEAD_SECRET", "CARGO_MANIFEST_DIR"] {
        assert!(!names.iter().any(|known| known == name), "{name} is in {names:?}");
    }
}

/// Counts what is logged for servers, and checks how.
struct Counter {
    lines: Arc<AtomicUsize>,
    suppressed: Arc<AtomicUsize>,
}

impl tracing::Subscriber for Counter {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "fairlead::server"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(Option<String>, usize);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                if field.name() == "server" {
                    self.0 = Some(value.to_owned());
                }
            }
            fn record_u64(&mut self, _: &tracing::field::Field, value: u64) {
                self.1 = usize::try_from(value).unwrap();
            }
        }
        let mut fields = Fields(None, 0);
        event.record(&mut fields);
        assert_eq!(fields.0.as_deref(), Some("noisy"));
        if fields.1 == 0 {
            self.lines.fetch_add(1, Ordering::Relaxed);
        } else {
            self.suppressed.fetch_add(fields.1, Ordering::Relaxed);
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_flood_on_stderr_is_logged_within_its_limit_and_does_not_stop_the_server() {
    let (lines, suppressed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let _guard =
        tracing::subscriber::set_default(Counter { lines: Arc::clone(&lines), suppressed: Arc::clone(&suppressed) });
    let (mark, spec) = shell("yes 'the same complaint again' | head -n 300000 >&2; echo done; cat");
    let mut child = spawn(&spec).unwrap();
    let start = Instant::now();
    let mut reader = LineReader::new(&mut child.stdout, 1024);
    let limit = 50;
    let server = async {
        assert_eq!(next_text(&mut reader).await, "done");
        drop(child.stdin);
    };
    timeout(PATIENCE, async { tokio::join!(server, log_stderr(&mut child.stderr, "noisy", limit)) }).await.unwrap();
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    let (lines, suppressed) = (lines.load(Ordering::Relaxed), suppressed.load(Ordering::Relaxed));
    assert!(lines >= 50 && lines <= 50 * seconds, "{lines} lines in {seconds} s");
    assert_eq!(lines + suppressed, 300_000, "every line is logged or counted");
    assert_eq!(timeout(PATIENCE, child.process.wait()).await.unwrap().code(), Some(0));
    assert_gone_within(&mark, Duration::ZERO);
}
