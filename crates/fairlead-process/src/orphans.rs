//! Processes whose guard was killed.
//!
//! A guard cannot be ended by anything but KILL, so this is rare: somebody's `kill -9`, or the system out of memory. The
//! command itself then dies by its parent-death signal. What it had started becomes a child of the nearest subreaper,
//! which the program is after [`become_subreaper`], and is recognised by what only it can be: a child of this program
//! younger than this program, in a session that is not this program's (a guard leaves the session and takes everything
//! below it along), and no guard itself. A process that the program starts by other means and without `setsid` is never
//! touched.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use crate::{guard, table};

/// How long a sweep goes on before what is left is left to the next one.
const SWEEP_LIMIT: Duration = Duration::from_secs(3);

/// How long the killed are given before the table is read again.
const SWEEP_PAUSE: Duration = Duration::from_millis(10);

/// Makes this process the one that inherits what its guards leave behind when they are killed. To be called once, at the
/// start, before [`spawn`](crate::spawn). Without effect on systems other than Linux.
///
/// # Errors
/// When the kernel has no such thing (before Linux 3.4).
pub fn become_subreaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// Ends and reaps orphans that this process has inherited, with everything below them; returns how many were found.
/// Reads the process table and may take up to a few seconds when there are orphans: not for an async task.
///
/// Not for a program that lets others of its children have sessions of their own, nor for one that is process 1 of a
/// container in which other things run: they would look the same.
///
/// A [`Process`](crate::Process) does this by itself when it is waited for and its guard was killed. This is for the rest:
/// the guard of a process that nobody waited for, and orphans that died by themselves.
pub fn reap_orphans() -> usize {
    let own = getpid().as_raw();
    let Some(own) = table::read().into_iter().find(|entry| entry.pid == own) else { return 0 };
    sweep(|entry| {
        entry.parent == own.pid
            && entry.session != own.session
            && entry.started >= own.started
            && entry.name != guard::PROCESS_NAME
    })
}

/// [`reap_orphans`], and whatever still is in the session of the guard `guard_pid`, whoever inherited it.
pub(crate) fn sweep_session(guard_pid: u32) -> usize {
    let Ok(session) = i32::try_from(guard_pid) else { return 0 };
    sweep(|entry| entry.session == session && entry.pid != session) + reap_orphans()
}

/// Kills what `is_orphan` names, and all that is below, until the table shows none. Returns how many different processes
/// it named.
fn sweep(is_orphan: impl Fn(&table::Entry) -> bool) -> usize {
    let give_up = Instant::now() + SWEEP_LIMIT;
    let mut found = std::collections::BTreeSet::new();
    loop {
        let table = table::read();
        let orphans: Vec<i32> = table.iter().filter(|entry| is_orphan(entry)).map(|entry| entry.pid).collect();
        let mut left = false;
        for pid in table::with_descendants(&table, orphans) {
            found.insert(pid);
            let pid = Pid::from_raw(pid);
            // Gone already is as good as killed; one that may not be killed is left at the limit.
            let _ = kill(pid, Signal::SIGKILL);
            // Only these pids are waited for, so no status of anybody else's child is taken away.
            left |= matches!(
                waitpid(pid, Some(WaitPidFlag::WNOHANG)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD | Errno::EINTR)
            );
        }
        if !left || Instant::now() >= give_up {
            return found.len();
        }
        std::thread::sleep(SWEEP_PAUSE);
    }
}
