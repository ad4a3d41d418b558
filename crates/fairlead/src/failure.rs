//! How a command ends: exit codes, and errors as people see them.

use fairlead_core::Code;
use std::{fmt::Write as _, process::ExitCode};

/// The exit codes of every command. They are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Wrong usage, an invalid configuration, or any failure without a code of its own.
    Failed = 1,
    /// The gateway refused the caller (HTTP 401 or 403).
    NotAuthorised = 3,
    /// The gateway, or the server behind it, cannot be reached or did not answer.
    Unreachable = 4,
    /// The tool ran and reported an error.
    ToolError = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    code: Option<Code>,
    message: String,
    hint: Option<String>,
    /// A rendered report that is shown instead of the message.
    report: Option<String>,
}

impl Failure {
    /// One line: what failed. The code is added to it.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, code: Some(code), message: message.into(), hint: None, report: None }
    }

    /// A mistake in how the command was called; there is no code to look up.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, code: None, message: message.into(), hint: None, report: None }
    }

    /// A sentence that brings its own code along.
    pub(crate) fn coded(message: impl Into<String>) -> Self {
        Self::usage(message)
    }

    /// Problems of a configuration, already rendered.
    pub(crate) fn report(report: String) -> Self {
        Self { report: Some(report), ..Self::new(Code::BadConfig, String::new()) }
    }

    /// The gateway cannot be reached.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Code::ServerUnavailable, message).exit(Exit::Unreachable)
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Adds what an error says, and what its causes say.
    pub(crate) fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let _ = write!(self.message, ": {}", chain(error));
        self
    }

    /// The text for stderr, with a line end.
    pub(crate) fn render(&self) -> String {
        if let Some(report) = &self.report {
            return report.clone();
        }
        let mut text = format!("error: {}", self.message);
        if let Some(code) = self.code {
            let _ = write!(text, " ({})", code.label());
        }
        text.push('\n');
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }

    pub(crate) fn print(&self) {
        eprint!("{}", self.render());
    }
}

/// An error and its causes, on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some engines repeat their source in their own text.
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_code_and_a_hint() {
        let io = std::io::Error::new(std::io::ErrorKind::AddrInUse, "address in use");
        let failure = Failure::new(Code::CannotListen, "cannot listen on 127.0.0.1:1").because(&io).hint("stop it");
        assert_eq!(failure.render(), "error: cannot listen on 127.0.0.1:1: address in use (FL-1405)\nhint: stop it\n");
        assert_eq!(Failure::usage("no").render(), "error: no\n");
    }
}
