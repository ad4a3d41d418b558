//! Finding the program before anything is started, so that a typing error is an error and not a dead child.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a child cannot be started. Reaches the caller as the inner error of an [`io::Error`]; names the command and the
/// directory, never arguments or variables, which may hold secrets.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("the command is empty")]
    Empty,
    #[error("the command `{0}` was not found in PATH")]
    NotInPath(String),
    #[error("the command `{0}` does not exist")]
    NoSuchFile(String),
    #[error("the command `{0}` is not an executable file")]
    NotExecutable(String),
    #[error("the working directory `{}` is not a directory", .0.display())]
    NoDirectory(PathBuf),
}

impl From<LookupError> for io::Error {
    fn from(error: LookupError) -> Self {
        let kind = match error {
            LookupError::Empty => io::ErrorKind::InvalidInput,
            LookupError::NotInPath(_) | LookupError::NoSuchFile(_) | LookupError::NoDirectory(_) => {
                io::ErrorKind::NotFound
            }
            LookupError::NotExecutable(_) => io::ErrorKind::PermissionDenied,
        };
        io::Error::new(kind, error)
    }
}

/// Checks the working directory. A missing one would otherwise look like a missing command.
pub(crate) fn check_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() { Ok(()) } else { Err(LookupError::NoDirectory(directory.to_owned()).into()) }
}

/// The absolute path of `command`: relative to `directory` when it has a slash, else the first executable file of that
/// name in `path`. Entries of `path` that are empty or relative are passed over: which program runs must not depend on
/// where the gateway was started.
pub(crate) fn find(command: &str, path: Option<&OsStr>, directory: &Path) -> io::Result<PathBuf> {
    if command.is_empty() {
        return Err(LookupError::Empty.into());
    }
    if command.contains('/') {
        let file = directory.join(command);
        return match (file.is_file(), is_executable(&file)) {
            (true, true) => std::path::absolute(file),
            (true, false) => Err(LookupError::NotExecutable(command.to_owned()).into()),
            (false, _) if file.exists() => Err(LookupError::NotExecutable(command.to_owned()).into()),
            (false, _) => Err(LookupError::NoSuchFile(command.to_owned()).into()),
        };
    }
    let mut found = None;
    for entry in path.into_iter().flat_map(std::env::split_paths).filter(|entry| entry.is_absolute()) {
        let file = entry.join(command);
        if is_executable(&file) {
            return Ok(file);
        }
        if found.is_none() && file.is_file() {
            found = Some(file);
        }
    }
    match found {
        Some(_) => Err(LookupError::NotExecutable(command.to_owned()).into()),
        None => Err(LookupError::NotInPath(command.to_owned()).into()),
    }
}

/// Any execute bit on a regular file; whether it is *ours* to execute is the kernel's answer at exec.
fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_or_named() {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for (name, mode) in [("good", 0o755), ("plain", 0o644)] {
            std::fs::write(bin.join(name), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = std::env::join_paths([Path::new("relative"), directory.path(), &bin]).unwrap();
        let find = |command: &str| find(command, Some(&path), directory.path()).map_err(|error| error.to_string());
        assert_eq!(find("good"), Ok(bin.join("good")));
        assert_eq!(find("bin/good"), Ok(bin.join("good")));
        assert_eq!(find("missing"), Err("the command `missing` was not found in PATH".to_owned()));
        assert_eq!(find("plain"), Err("the command `plain` is not an executable file".to_owned()));
        assert_eq!(find("./missing"), Err("the command `./missing` does not exist".to_owned()));
        assert_eq!(find("./bin"), Err("the command `./bin` is not an executable file".to_owned()));
        assert_eq!(find(""), Err("the command is empty".to_owned()));
    }
}
