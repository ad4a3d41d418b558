//! Finding the gateway that runs on a data directory, and the socket it is found by.

use crate::reach::Reach;
use fairlead_store::Instance;
use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::net::{UnixListener, UnixStream};

/// The control socket in the data directory.
const SOCKET: &str = "control.sock";
/// What the address of a Unix socket holds on Linux; macOS has 103.
const MAX_SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// Nobody else may open the socket.
const OWNER_ONLY: u32 = 0o600;
const OWNER_ONLY_DIR: u32 = 0o700;

/// The gateway that runs on a data directory, if one does and answers.
pub(crate) async fn find(data_dir: &Path) -> Option<(Instance, Reach)> {
    let instance = fairlead_store::read_instance(data_dir).ok().flatten()?;
    // The process id may have been taken over by another program: only a connection proves it.
    UnixStream::connect(&instance.socket).await.ok()?;
    let reach = Reach::socket(&instance.socket);
    Some((instance, reach))
}

/// Opens the control socket of the data directory this process has locked. Where its path would be
/// too long for a socket, it goes to the runtime directory of the user under a name made of the path.
///
/// # Errors
/// When the file system refuses, or a directory for it belongs to somebody else.
pub(crate) fn bind(data_dir: &Path) -> io::Result<(PathBuf, UnixListener)> {
    let data_dir = std::path::absolute(data_dir)?;
    let mut path = data_dir.join(SOCKET);
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        path = elsewhere(&data_dir)?;
    }
    // What is left there is nobody's: the directory is locked by us.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody else can open it, not even before its mode is set.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(&path);
    nix::sys::stat::umask(before);
    let listener = bound?;
    fs::set_permissions(&path, fs::Permissions::from_mode(OWNER_ONLY))?;
    Ok((path, listener))
}

/// A short path for the socket of a directory whose own path is too long.
fn elsewhere(data_dir: &Path) -> io::Result<PathBuf> {
    // Only has to be the same for this process and be told apart from other directories: others read it in
    // `instance.json`.
    let mut hasher = DefaultHasher::new();
    data_dir.hash(&mut hasher);
    let name = format!("fairlead-{:016x}.sock", hasher.finish());
    let runtime = crate::configuration::environment("XDG_RUNTIME_DIR").map(PathBuf::from);
    if let Some(runtime) = runtime.filter(|path| path.is_absolute() && path.is_dir()) {
        let path = runtime.join(&name);
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(path);
        }
    }
    let user = nix::unistd::geteuid();
    let directory = PathBuf::from(format!("/tmp/fairlead-{user}"));
    fs::DirBuilder::new().recursive(true).mode(OWNER_ONLY_DIR).create(&directory)?;
    // Anybody can make directories there.
    let made = fs::symlink_metadata(&directory)?;
    if !made.is_dir() || made.uid() != user.as_raw() || made.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} belongs to somebody else or is open to others", directory.display()),
        ));
    }
    Ok(directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only_wherever_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let long = temp.path().join("x".repeat(60)).join("y".repeat(60));
        fs::create_dir_all(&long).unwrap();
        for directory in [temp.path(), &long] {
            let (path, _listener) = bind(directory).unwrap();
            assert!(path.as_os_str().len() <= MAX_SOCKET_PATH, "{}", path.display());
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(path.starts_with(directory), directory == temp.path());
            // A leftover is in nobody's way.
            let (again, _listener) = bind(directory).unwrap();
            assert_eq!(again, path);
            fs::remove_file(path).unwrap();
        }
        assert!(find(temp.path()).await.is_none());
    }
}
