//! Signals as something to read: all are blocked, the few that matter come through a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};

/// Signals that ask the guard to end, and so the tree.
const TERMINATING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

fn watched() -> SigSet {
    TERMINATING.into_iter().chain([Signal::SIGCHLD]).collect()
}

/// The guard's signals. Those that are not watched stay blocked: only KILL and STOP reach it.
#[derive(Debug)]
pub(super) struct Signals {
    #[cfg(target_os = "linux")]
    source: nix::sys::signalfd::SignalFd,
    #[cfg(not(target_os = "linux"))]
    source: std::io::PipeReader,
}

#[cfg(target_os = "linux")]
impl Signals {
    pub(super) fn block_all() -> io::Result<Self> {
        use nix::sys::signalfd::{SfdFlags, SignalFd};
        SigSet::all().thread_set_mask()?;
        let source = SignalFd::with_flags(&watched(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { source })
    }

    /// Takes what has come in; true when one of them asks to end.
    pub(super) fn drain(&mut self) -> bool {
        let mut terminating = false;
        while let Ok(Some(signal)) = self.source.read_signal() {
            terminating |= TERMINATING.iter().any(|known| *known as u32 == signal.ssi_signo);
        }
        terminating
    }
}

#[cfg(not(target_os = "linux"))]
impl Signals {
    pub(super) fn block_all() -> io::Result<Self> {
        use std::io::Write;
        SigSet::all().thread_set_mask()?;
        let (source, mut sink) = io::pipe()?;
        nix::fcntl::fcntl(&source, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        // Ends with the process; it holds nothing but the pipe.
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while let Ok(signal) = watched().wait() {
                if sink.write_all(&[signal as u8]).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { source })
    }

    /// Takes what has come in; true when one of them asks to end.
    pub(super) fn drain(&mut self) -> bool {
        use std::io::Read;
        let mut terminating = false;
        let mut bytes = [0; 16];
        while let Ok(length @ 1..) = self.source.read(&mut bytes) {
            terminating |= bytes[..length].iter().any(|byte| TERMINATING.iter().any(|known| *known as u8 == *byte));
        }
        terminating
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}
