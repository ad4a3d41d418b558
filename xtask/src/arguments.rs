//! Command-line arguments of a task: flags, options with a value, and nothing left over.

use anyhow::{Result, bail};

/// What is left of the command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    rest: Vec<String>,
}

impl Arguments {
    /// The arguments of this process.
    pub(crate) fn from_environment() -> Self {
        Self { rest: std::env::args().skip(1).collect() }
    }

    /// No arguments.
    pub(crate) fn none() -> Self {
        Self { rest: Vec::new() }
    }

    #[cfg(test)]
    pub(crate) fn of(words: &[&str]) -> Self {
        Self { rest: words.iter().map(|word| (*word).to_owned()).collect() }
    }

    /// Takes the first word.
    pub(crate) fn word(&mut self) -> Option<String> {
        if self.rest.is_empty() { None } else { Some(self.rest.remove(0)) }
    }

    /// Takes `name` if it is there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.rest.iter().position(|word| word == name) {
            Some(index) => {
                self.rest.remove(index);
                true
            }
            None => false,
        }
    }

    /// Takes `name VALUE` or `name=VALUE` if it is there.
    pub(crate) fn option(&mut self, name: &str) -> Result<Option<String>> {
        let joined = format!("{name}=");
        if let Some(index) = self.rest.iter().position(|word| word.starts_with(&joined)) {
            return Ok(Some(self.rest.remove(index)[joined.len()..].to_owned()));
        }
        let Some(index) = self.rest.iter().position(|word| word == name) else {
            return Ok(None);
        };
        self.rest.remove(index);
        if index < self.rest.len() { Ok(Some(self.rest.remove(index))) } else { bail!("{name} needs a value") }
    }

    /// Fails if anything was not understood.
    pub(crate) fn end(self) -> Result<()> {
        match self.rest.first() {
            None => Ok(()),
            Some(word) => bail!("not understood: {word} (see `cargo xtask help`)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_in_both_spellings_and_nothing_is_left_over() {
        let mut arguments = Arguments::of(&["test", "--full", "--stage", "fmt", "--only=a=b"]);
        assert_eq!(arguments.word().as_deref(), Some("test"));
        assert!(arguments.flag("--full"));
        assert!(!arguments.flag("--full"));
        assert_eq!(arguments.option("--stage").unwrap().as_deref(), Some("fmt"));
        assert_eq!(arguments.option("--only").unwrap().as_deref(), Some("a=b"));
        assert_eq!(arguments.option("--url").unwrap(), None);
        arguments.end().unwrap();
    }

    #[test]
    fn a_missing_value_and_an_unknown_word_are_errors() {
        assert!(Arguments::of(&["--stage"]).option("--stage").is_err());
        assert!(Arguments::of(&["--quik"]).end().unwrap_err().to_string().contains("--quik"));
    }
}
