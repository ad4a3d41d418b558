//! What goes to stdout: tables, JSON, results. And the one block `up` prints when it is ready.

pub(crate) mod banner;
pub(crate) mod result;
pub(crate) mod table;

use crate::failure::{Exit, Failure};
use fairlead_core::Code;
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Writes data to stdout. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<Exit, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Internal, "cannot write to stdout").because(&error))
        }
        _ => Ok(Exit::Ok),
    }
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<Exit, Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Code::Internal, "cannot write JSON").because(&error))?;
    print(&(text + "\n"))
}

/// `1 server`, `2 servers`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Text of a server for a terminal: one line, no control characters, at most `max` characters.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let mut line: String =
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(max + 1).collect();
    if line.chars().count() > max {
        line = line.chars().take(max.saturating_sub(3)).collect::<String>() + "...";
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_made_harmless() {
        assert_eq!(one_line("a\u{1b}[31mb\nc", 80), "a [31mb c");
        assert_eq!(one_line("abcdefgh", 6), "abc...");
        assert_eq!(count(1, "tool"), "1 tool");
        assert_eq!(count(0, "tool"), "0 tools");
    }
}
