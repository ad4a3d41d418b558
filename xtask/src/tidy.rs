//! Checks of style that a program can make: file shape, dependency direction, documented error codes
//! and dependencies, nothing that belongs to one machine. What the compiler and clippy check already
//! is not repeated here, except where their reach ends (a `#[allow]`, a file that no target includes).

mod codes;
mod manifests;
mod source;
mod strays;

use std::fmt;

use anyhow::{Result, bail};

use crate::{arguments::Arguments, workspace::Workspace};

/// Something that is not as it should be, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    path: String,
    line: Option<usize>,
    message: String,
}

impl Problem {
    fn in_file(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: None, message: message.into() }
    }

    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: Some(line), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}: {}", self.path, self.message),
            None => write!(formatter, "{}: {}", self.path, self.message),
        }
    }
}

/// `cargo xtask tidy`.
pub(crate) fn run(workspace: &Workspace, arguments: Arguments) -> Result<()> {
    arguments.end()?;
    let problems = problems(workspace)?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        count => bail!("tidy: {count} to put right"),
    }
}

/// Everything that is not as it should be, in the order of the checks.
fn problems(workspace: &Workspace) -> Result<Vec<Problem>> {
    let files = workspace.text_files()?;
    let metadata = manifests::Packages::load(workspace)?;
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| source::is_rust(&file.path)) {
        problems.extend(source::module_docs(file));
        problems.extend(source::module_file_name(file));
        problems.extend(source::size(file));
        problems.extend(source::unfinished(file));
        problems.extend(source::ignored_tests(file));
        problems.extend(source::unwraps(file));
    }
    problems.extend(manifests::direction(&metadata));
    problems.extend(manifests::confined(&metadata));
    problems.extend(manifests::banned(&files, &metadata));
    problems.extend(manifests::reasons(&files));
    problems.extend(codes::documented(&files));
    for file in &files {
        problems.extend(strays::find(file));
    }
    Ok(problems)
}
