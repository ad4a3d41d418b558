//! The guard: a small single-threaded process between the program and one command.
//!
//! It starts the command, waits for the command to end, for the program to end (end-of-file on the lifeline) or for an
//! order, and does not end before everything below it has. It has no runtime, allocates little, writes nothing once the
//! command runs (a full stderr must not stop it) and keeps no pipe of the command open.
//!
//! The command is started in two steps: the guard starts itself again (`--exec`), and that process asks for a
//! parent-death signal, takes back the blocked signals and becomes the command. Between fork and exec nothing of ours
//! could run without unsafe code; this way nothing has to.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid, setsid};

mod descendants;
mod signals;

use descendants::Descendants;
use signals::Signals;

/// The hidden first argument that makes a program a guard.
pub const GUARD_SUBCOMMAND: &str = "__guard";

/// The name of a guard in the process list. Not the program's own: who kills all processes of that name by force would
/// otherwise kill the guards too, and leave what they guard.
pub(crate) const PROCESS_NAME: &str = "child-guard";

/// Exit code of a guard that could not do its work.
pub(crate) const FAILED: u8 = 125;
/// Exit code for a command that exists and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit code for a command that does not exist.
const NOT_FOUND: u8 = 127;
/// Exit code when the command did not end even by KILL in time.
const UNKILLABLE: u8 = 128 + 9;

/// The longest grace after the command ended and left processes behind, or after the program died: nobody is there any
/// more to profit from a longer one.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// How long KILL is repeated before the guard gives up on processes that the kernel does not let go (they have the signal
/// and end when their system call does) or that are not ours to kill.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(3);

/// The longest sleep. Everything the guard waits for wakes it, except the end of the command when the program was started
/// with SIGCHLD ignored, which is inherited.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// The pause between two rounds of KILL, in which the killed are reaped.
const KILL_ROUND: Duration = Duration::from_millis(10);

/// What the program tells the guard: one byte on the lifeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// TERM, the grace, KILL.
    Terminate,
    /// KILL.
    Kill,
}

impl Order {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Terminate => b'T',
            Self::Kill => b'K',
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("the guard is not meant to be started by hand")]
    Usage,
    #[error("{doing}")]
    System { doing: &'static str, source: io::Error },
    #[error("cannot execute `{}`", .command.display())]
    Exec { command: OsString, source: io::Error },
}

impl GuardError {
    fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { doing, source: source.into() }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage | Self::System { .. } => FAILED,
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => NOT_FOUND,
            Self::Exec { .. } => NOT_EXECUTABLE,
        }
    }
}

/// The arguments after [`GUARD_SUBCOMMAND`], up to the command.
pub(crate) fn arguments(lifeline: &impl AsRawFd, grace: Duration) -> [String; 3] {
    [lifeline.as_raw_fd().to_string(), grace.as_millis().to_string(), "--".to_owned()]
}

/// The whole life of a guard. `args` is what follows [`GUARD_SUBCOMMAND`] on the command line.
///
/// To be called first thing in `main`, before any thread, runtime or open file: it closes every descriptor that it
/// inherited beyond stdin, stdout and stderr. Returns the exit code of the command as a shell would report it (128 + n for
/// signal n), 125 when the guard itself failed, 126 or 127 when the command could not be executed.
pub fn guard_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let outcome = match args.as_slice() {
        [exec, guard, dashes, command, args @ ..] if exec == "--exec" && dashes == "--" => {
            become_command(guard, command, args)
        }
        [lifeline, grace, dashes, command @ ..] if dashes == "--" && !command.is_empty() => {
            match (number(lifeline), number(grace)) {
                (Some(lifeline), Some(grace)) => supervise(lifeline, Duration::from_millis(grace), command),
                _ => Err(GuardError::Usage),
            }
        }
        _ => Err(GuardError::Usage),
    };
    ExitCode::from(outcome.unwrap_or_else(|error| {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(source) = cause {
            message.push_str(": ");
            message.push_str(&source.to_string());
            cause = source.source();
        }
        // Nobody listening does not change the outcome.
        let _ = io::Write::write_all(&mut io::stderr(), format!("{message}\n").as_bytes());
        error.exit_code()
    }))
}

fn number<N: std::str::FromStr>(argument: &OsStr) -> Option<N> {
    argument.to_str()?.parse().ok()
}

/// The second step: this process, a child of the guard, becomes the command.
fn become_command(guard: &OsStr, command: &OsStr, args: &[OsString]) -> Result<u8, GuardError> {
    let guard: i32 = number(guard).ok_or(GuardError::Usage)?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(GuardError::system("cannot ask for a parent-death signal"))?;
    // A guard that died before the request would never send one.
    if getppid().as_raw() != guard {
        return Ok(FAILED);
    }
    SigSet::empty().thread_set_mask().map_err(GuardError::system("cannot unblock signals"))?;
    // `exec` also gives SIGPIPE back its default, which the start of a Rust program had taken.
    let source = Command::new(command).args(args).exec();
    Err(GuardError::Exec { command: command.to_owned(), source })
}

/// The first step: everything that must hold before the command exists, then the watch.
fn supervise(lifeline: i32, grace: Duration, command: &[OsString]) -> Result<u8, GuardError> {
    // The name comes before the session: a sweep by the program takes for an orphan what has the one without the other.
    #[cfg(target_os = "linux")]
    {
        let name = std::ffi::CString::new(PROCESS_NAME).expect("invariant: the name has no NUL");
        nix::sys::prctl::set_name(&name).map_err(GuardError::system("cannot set the name of the guard"))?;
        nix::sys::prctl::set_child_subreaper(true).map_err(GuardError::system("cannot become a subreaper"))?;
    }
    // Closes what is not its own, so it comes before anything else is opened.
    let lifeline = Lifeline::open(lifeline).map_err(GuardError::system("cannot open the lifeline"))?;
    let signals = Signals::block_all().map_err(GuardError::system("cannot take over signals"))?;
    // No controlling terminal: a command that would ask there fails instead of waiting for nobody, and Ctrl-C in the
    // program's terminal is the program's business.
    setsid().map_err(GuardError::system("cannot open a session"))?;

    let program = if cfg!(target_os = "linux") {
        "/proc/self/exe".into()
    } else {
        std::env::current_exe().map_err(GuardError::system("cannot find the guard's own binary"))?
    };
    let command = Command::new(program)
        .args([GUARD_SUBCOMMAND, "--exec", &getpid().to_string(), "--"])
        .args(command)
        .process_group(0)
        .spawn()
        .map_err(GuardError::system("cannot start the command"))?;
    let main = Pid::from_raw(i32::try_from(command.id()).expect("invariant: a process id is a positive i32"));
    release_pipes();
    Ok(Watch { main, grace, lifeline, signals, status: None, phase: Phase::Running }.run())
}

/// The guard's copies of the command's pipes go: the program must see end-of-file when the command's own are closed.
fn release_pipes() {
    // Without /dev/null the copies stay, and end-of-file comes when the guard ends.
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// The read end of the pipe whose write end only the program holds.
struct Lifeline {
    /// `None` after end-of-file.
    pipe: Option<std::fs::File>,
}

impl Lifeline {
    /// Opens the inherited `descriptor` anew, non-blocking and close-on-exec, then closes it together with all
    /// others that were inherited, so that the command gets none of them.
    fn open(descriptor: i32) -> io::Result<Self> {
        let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
        // On Linux this is a new description of the same pipe; elsewhere a duplicate, which needs the flag set.
        let pipe = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(format!("{directory}/{descriptor}"))?;
        nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let own = pipe.as_raw_fd();
        let inherited: Vec<i32> = std::fs::read_dir(directory)?
            .flatten()
            .filter_map(|entry| number(&entry.file_name()))
            .filter(|descriptor| *descriptor > 2 && *descriptor != own)
            .collect();
        for descriptor in inherited {
            // Among them is the closed one of the reading itself.
            let _ = nix::unistd::close(descriptor);
        }
        Ok(Self { pipe: Some(pipe) })
    }

    /// The most urgent of what has come in.
    fn read(&mut self) -> Option<Call> {
        let mut urgent = None;
        let mut bytes = [0; 16];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut bytes) {
                Ok(0) => {
                    self.pipe = None;
                    urgent = urgent.max(Some(Call::Orphaned));
                }
                Ok(length) if bytes[..length].contains(&Order::Kill.byte()) => urgent = Some(Call::Kill),
                Ok(_) => urgent = urgent.max(Some(Call::Terminate)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pipe that cannot be read is as good as closed.
                Err(_) => {
                    self.pipe = None;
                    urgent = urgent.max(Some(Call::Orphaned));
                }
            }
        }
        urgent
    }
}

/// Why the tree has to end, by rising urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Terminate,
    Orphaned,
    Kill,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Running,
    /// TERM was sent; KILL comes at `until`.
    Stopping {
        until: Instant,
    },
    /// KILL is sent every round; the guard gives up at `until`.
    Killing {
        until: Instant,
    },
}

struct Watch {
    main: Pid,
    grace: Duration,
    lifeline: Lifeline,
    signals: Signals,
    /// The exit code of the command, once it has ended.
    status: Option<u8>,
    phase: Phase,
}

impl Watch {
    /// Returns when nothing is left below the guard, or when even KILL did not help for [`KILL_LIMIT`].
    fn run(mut self) -> u8 {
        let descendants = Descendants::of(self.main);
        loop {
            let none_left = self.reap(&descendants);
            if none_left {
                // Without SIGCHLD the system throws the status away.
                return self.status.unwrap_or(FAILED);
            }
            self.advance(&descendants);
            if let Phase::Killing { until } = self.phase {
                if Instant::now() >= until {
                    return self.status.unwrap_or(UNKILLABLE);
                }
                descendants.kill();
            }
            self.sleep();
        }
    }

    /// Moves to the phase that the time, the command's end, a signal and the program call for; never back.
    fn advance(&mut self, descendants: &Descendants) {
        let signalled = self.signals.drain().then_some(Call::Terminate);
        let call = self.lifeline.read().max(signalled);
        let now = Instant::now();
        let orphan_grace = self.grace.min(ORPHAN_GRACE);
        let killing = Phase::Killing { until: now + KILL_LIMIT };
        self.phase = match (self.phase, call) {
            (Phase::Killing { until }, _) => Phase::Killing { until },
            (_, Some(Call::Kill)) => killing,
            (Phase::Running, call) => {
                let grace = match call {
                    // The command has ended by itself and left something behind.
                    None if self.status.is_some() => orphan_grace,
                    None => return,
                    Some(Call::Terminate) => self.grace,
                    Some(Call::Orphaned | Call::Kill) => orphan_grace,
                };
                descendants.terminate();
                Phase::Stopping { until: now + grace }
            }
            (Phase::Stopping { until }, _) if now >= until => killing,
            (Phase::Stopping { until }, Some(Call::Orphaned)) => {
                Phase::Stopping { until: until.min(now + orphan_grace) }
            }
            (Phase::Stopping { until }, _) => Phase::Stopping { until },
        };
    }

    /// Reaps every zombie; true when there is nothing left to wait for.
    fn reap(&mut self, descendants: &Descendants) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.main => self.status = Some((code & 0xff) as u8),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.main => self.status = Some(128 + signal as u8),
                Ok(WaitStatus::StillAlive) => return false,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return descendants.none_left(),
            }
        }
    }

    /// Until something happens or the phase is over.
    fn sleep(&self) {
        let timeout = match self.phase {
            Phase::Running => WATCH_INTERVAL,
            // Rounded up, so that the time is over when the wait is.
            Phase::Stopping { until } => (until.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
                .min(descendants::STOP_INTERVAL),
            Phase::Killing { .. } => KILL_ROUND,
        };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(pipe) = &self.lifeline.pipe {
            sources.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        // Whatever it says: everything is looked at again in the next turn.
        let _ = poll(&mut sources, timeout);
    }
}
