//! Starting a child under its guard and ending it: the program's side.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::io::AsyncRead;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::guard::{self, GUARD_SUBCOMMAND, KILL_LIMIT, Order};
use crate::{environment, lookup, orphans};

/// How long after its own limits a guard may still be running before it is taken for stuck and killed.
const GUARD_MARGIN: Duration = Duration::from_secs(2);

/// The longest grace that is honoured; more would only keep a shutdown waiting.
const MAX_STOP_GRACE: Duration = Duration::from_secs(3600);

/// What to start and how to end it.
#[derive(Clone)]
pub struct ChildSpec {
    /// The program: a name looked up in `PATH` (the one in `env` if it is set there), or a path, relative to `cwd`.
    pub command: String,
    /// Arguments, passed as they are; no shell is involved.
    pub args: Vec<String>,
    /// Variables set on top of [`inherited_environment`](crate::inherited_environment); later entries win.
    pub env: Vec<(String, String)>,
    /// Working directory; the program's own when absent.
    pub cwd: Option<PathBuf>,
    /// How long each step of a stop may take: from the closed stdin to TERM, and from TERM to KILL.
    pub stop_grace: Duration,
    /// The binary that serves as guard.
    pub guard: GuardBinary,
}

impl std::fmt::Debug for ChildSpec {
    /// Leaves out arguments and values of variables: they may hold secrets.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ChildSpec")
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("cwd", &self.cwd)
            .field("stop_grace", &self.stop_grace)
            .field("guard", &self.guard)
            .finish()
    }
}

/// A binary whose `main` calls [`guard_main`](crate::guard_main) when its first argument is
/// [`GUARD_SUBCOMMAND`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardBinary {
    path: PathBuf,
}

impl GuardBinary {
    /// The running program itself. On Linux this is the very file that was started, also after an upgrade replaced it on
    /// disk, so that program and guard are always of one version.
    ///
    /// # Errors
    /// Elsewhere, when the system does not tell the program's path.
    pub fn current() -> io::Result<Self> {
        let path = if cfg!(target_os = "linux") { PathBuf::from("/proc/self/exe") } else { std::env::current_exe()? };
        Ok(Self { path })
    }

    /// Another binary that has the guard in it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

/// A running child: its three pipes and the process behind them.
///
/// The parts can be taken apart (`let Child { stdin, stdout, stderr, process } = child;`) and given to the tasks that use
/// them. Dropping [`Child::process`] ends the whole tree.
#[derive(Debug)]
pub struct Child {
    /// What the command reads. Closing it asks the command to finish.
    pub stdin: ChildStdin,
    /// What the command writes; see [`lines::LineReader`](crate::lines::LineReader).
    pub stdout: ChildStdout,
    /// What the command complains about; see [`lines::log_stderr`](crate::lines::log_stderr). A child whose stderr nobody
    /// reads stops when the pipe is full.
    pub stderr: ChildStderr,
    /// The guard and everything below it.
    pub process: Process,
}

/// The guard of one child, and with it everything the child ever started.
///
/// Dropping it closes the lifeline: the guard ends the tree by itself (TERM, at most two seconds, KILL), without anybody
/// waiting for it.
#[derive(Debug)]
pub struct Process {
    guard: tokio::process::Child,
    guard_pid: u32,
    lifeline: io::PipeWriter,
    stop_grace: Duration,
    ended: Option<ExitStatus>,
}

/// Starts `spec.command` under a guard. Needs a tokio runtime with IO enabled.
///
/// # Errors
/// `NotFound` when the command or the working directory does not exist, `PermissionDenied` when the command is no
/// executable file, `InvalidInput` when it is empty or something contains a NUL; else what the system says about starting
/// the guard. The message names the command, never arguments or variables. A command that exists but cannot be executed
/// (a script with a missing interpreter) starts and ends at once with status 126 or 127 and a line on stderr.
pub fn spawn(spec: &ChildSpec) -> io::Result<Child> {
    let directory = match &spec.cwd {
        Some(directory) => std::path::absolute(directory)?,
        None => std::env::current_dir()?,
    };
    lookup::check_directory(&directory)?;
    let configured_path = spec.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.into());
    let path = configured_path.or_else(|| std::env::var_os("PATH"));
    let program = lookup::find(&spec.command, path.as_deref(), &directory)?;
    let stop_grace = spec.stop_grace.min(MAX_STOP_GRACE);

    // Both ends are close-on-exec. The read end is opened up for the guard; should another thread start a process in this
    // very moment, that process gets a read end too, which keeps nobody alive. The write end is never inherited.
    let (guard_end, lifeline) = io::pipe()?;
    fcntl(&guard_end, FcntlArg::F_SETFD(FdFlag::empty()))?;

    let mut command = Command::new(&spec.guard.path);
    command
        .arg0(guard::PROCESS_NAME)
        .arg(GUARD_SUBCOMMAND)
        .args(guard::arguments(&guard_end, stop_grace))
        .arg(program)
        .args(&spec.args)
        .env_clear()
        .envs(environment::inherited_environment())
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut guard = command.spawn()?;
    drop(guard_end);

    let (Some(stdin), Some(stdout), Some(stderr), Some(guard_pid)) =
        (guard.stdin.take(), guard.stdout.take(), guard.stderr.take(), guard.id())
    else {
        return Err(io::Error::other("the child was started without its pipes"));
    };
    let process = Process { guard, guard_pid, lifeline, stop_grace, ended: None };
    Ok(Child { stdin, stdout, stderr, process })
}

impl Child {
    /// See [`Process::pid`].
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// See [`Process::wait`].
    pub async fn wait(&mut self) -> ExitStatus {
        self.process.wait().await
    }

    /// Closes stdin and goes on as [`Process::stop`]. What the command still writes is read and thrown away, so that it
    /// can finish.
    pub async fn stop(self) -> ExitStatus {
        let Self { stdin, stdout, stderr, process } = self;
        drop(stdin);
        let discard_all = async {
            tokio::join!(discard(stdout), discard(stderr));
            std::future::pending().await
        };
        tokio::select! {
            status = process.stop() => status,
            status = discard_all => status,
        }
    }

    /// See [`Process::kill_now`].
    pub fn kill_now(&mut self) {
        self.process.kill_now();
    }
}

impl Process {
    /// The process id of the guard. The command runs below it, in a process group of its own.
    pub fn pid(&self) -> u32 {
        self.guard_pid
    }

    /// Waits until the command and everything it started are gone. Cancel safe; may be called again. Somebody should always
    /// be waiting: it is here that the death of a guard is noticed and made up for.
    ///
    /// The status is that of the command as a shell would report it: its exit code, or 128 + n when signal n ended it; 125
    /// when the guard could not work, 126 or 127 when the command could not be executed. A status that *is* a signal
    /// is the guard's own violent death.
    pub async fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        // The only possible error is that somebody else reaped the guard: it is gone, its status is lost.
        let status = self.guard.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(i32::from(guard::FAILED) << 8));
        if status.signal().is_some() {
            let guard_pid = self.guard_pid;
            let swept = tokio::task::spawn_blocking(move || orphans::sweep_session(guard_pid)).await.unwrap_or(0);
            tracing::warn!(
                guard = guard_pid,
                swept,
                "the guard of a child process was killed, its processes were ended"
            );
        }
        self.ended = Some(status);
        status
    }

    /// Ends the tree, step by step: waits `stop_grace` for the command to finish by itself (the caller has closed its
    /// stdin), then TERM to the whole tree, after another `stop_grace` KILL. Returns when everything is gone, or, should
    /// the system refuse to end a process, a few seconds after KILL.
    pub async fn stop(mut self) -> ExitStatus {
        if let Ok(status) = timeout(self.stop_grace, self.wait()).await {
            return status;
        }
        self.order(Order::Terminate);
        if let Ok(status) = timeout(self.stop_grace + KILL_LIMIT + GUARD_MARGIN, self.wait()).await {
            return status;
        }
        tracing::warn!(guard = self.guard_pid, "the guard of a child process did not finish, it is killed");
        // Failing means that it has ended in this moment.
        let _ = self.guard.start_kill();
        match timeout(GUARD_MARGIN, self.wait()).await {
            Ok(status) => status,
            Err(_) => ExitStatus::from_raw(nix::sys::signal::Signal::SIGKILL as i32),
        }
    }

    /// KILL to the whole tree, without a grace. Does not wait: [`Process::wait`] does.
    pub fn kill_now(&mut self) {
        self.order(Order::Kill);
    }

    fn order(&mut self, order: Order) {
        // A guard that does not listen any more has ended, and so has what it guarded.
        let _ = self.lifeline.write_all(&[order.byte()]);
    }
}

async fn discard(mut reader: impl AsyncRead + Unpin) {
    // An error ends the reading as end-of-file does.
    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
}
