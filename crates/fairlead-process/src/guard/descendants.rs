//! Everything below the guard, and how to end it.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// The longest sleep while descendants are being stopped. Under a subreaper the end of the last one is signalled; elsewhere
/// only that of direct children is.
pub(super) const STOP_INTERVAL: Duration =
    if cfg!(target_os = "linux") { Duration::from_secs(5) } else { Duration::from_millis(50) };

/// What the guard answers for.
#[derive(Debug)]
pub(super) struct Descendants {
    main: Pid,
}

impl Descendants {
    pub(super) fn of(main: Pid) -> Self {
        Self { main }
    }

    /// Asks everything to end; what is stopped is woken, to hear it.
    pub(super) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
    }

    /// One round of KILL. Everything is halted first, so that nothing can fork faster than it is found.
    pub(super) fn kill(&self) {
        self.signal(Signal::SIGSTOP);
        self.signal(Signal::SIGKILL);
    }
}

#[cfg(target_os = "linux")]
impl Descendants {
    /// To be asked when the guard has no children: as a subreaper it then has no descendants either.
    pub(super) fn none_left(&self) -> bool {
        true
    }

    fn signal(&self, signal: Signal) {
        let guard = nix::unistd::getpid().as_raw();
        let table = crate::table::read();
        if table.is_empty() {
            // Without /proc the command's group can still be reached.
            let _ = nix::sys::signal::killpg(self.main, signal);
        }
        for pid in crate::table::with_descendants(&table, [guard]) {
            if pid != guard {
                // It may be gone; a new one of the same id cannot have come in the instant since the reading.
                let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Descendants {
    /// To be asked when the guard has no children: then the command's group may still have members.
    pub(super) fn none_left(&self) -> bool {
        nix::sys::signal::killpg(self.main, None).is_err()
    }

    fn signal(&self, signal: Signal) {
        // An error means that the group is empty.
        let _ = nix::sys::signal::killpg(self.main, signal);
    }
}
