//! Which configuration a command means, and how its problems are shown.

use crate::{demo, failure::Failure};
use fairlead_config::{Config, Problems};
use std::{io::IsTerminal, path::PathBuf};

/// The file that is looked for in the working directory.
pub(crate) const DEFAULT_FILE: &str = "fairlead.yaml";

/// Where a configuration comes from; what is loaded again at a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// These files, as layers.
    Files(Vec<PathBuf>),
    /// There is none: the bundled servers.
    Demo,
}

impl Origin {
    /// What the files on the command line mean.
    pub(crate) fn of(files: &[PathBuf]) -> Self {
        if !files.is_empty() {
            return Self::Files(files.to_vec());
        }
        let default = PathBuf::from(DEFAULT_FILE);
        if default.exists() { Self::Files(vec![default]) } else { Self::Demo }
    }

    /// Loads it.
    ///
    /// # Errors
    /// Every problem found.
    pub(crate) fn load(&self) -> Result<Config, Problems> {
        match self {
            Self::Files(files) => fairlead_config::load(files, &environment),
            Self::Demo => demo::config(),
        }
    }

    /// How people call it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Files(files) => files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "),
            Self::Demo => format!("the bundled demo (there is no {DEFAULT_FILE} here)"),
        }
    }
}

/// The process environment, read at the edge and nowhere else.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Loads what the command line names; warnings go to stderr.
pub(crate) fn load(files: &[PathBuf]) -> Result<(Origin, Config), Failure> {
    let origin = Origin::of(files);
    let config = origin.load().map_err(|problems| Failure::report(render(&problems)))?;
    warn(&config);
    Ok((origin, config))
}

/// Shows the warnings of a configuration that is used nevertheless.
pub(crate) fn warn(config: &Config) {
    if !config.warnings.is_empty() {
        eprint!("{}", render(&Problems(config.warnings.clone())));
    }
}

/// Problems for stderr.
pub(crate) fn render(problems: &Problems) -> String {
    fairlead_config::report(problems, colour())
}

/// Whether stderr may be coloured: a terminal, and `NO_COLOR` is not set.
pub(crate) fn colour() -> bool {
    std::io::stderr().is_terminal() && environment("NO_COLOR").is_none_or(|value| value.is_empty())
}
