//! The data directory: one owner, readable by nobody else.
//!
//! Ownership is a lock on the file `lock`, which the operating system drops with the process: nothing goes stale after
//! `kill -9`. `instance.json` says where the owner listens; it is a hint for people and commands, never the lock itself.

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const LOCK_FILE: &str = "lock";
const INSTANCE_FILE: &str = "instance.json";
/// What `instance.json` may hold; ours is well under 1 KiB.
const MAX_INSTANCE_BYTES: u64 = 64 * 1024;
/// What a key file may be asked to hold.
const MAX_KEY_BYTES: usize = 4096;
const OWNER_ONLY_DIR: u32 = 0o700;
const OWNER_ONLY_FILE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// Where the running instance of a data directory can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Process id of the gateway.
    pub pid: u32,
    /// Unix socket for commands of this machine.
    pub socket: PathBuf,
    /// URL of the MCP endpoint.
    pub mcp_url: String,
    /// Base URL of the admin listener.
    pub admin_url: String,
    /// Start, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Version of the program.
    pub version: String,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another instance runs on it.
    #[error("another instance{} already uses the data directory {}", holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(), path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The holder, if `instance.json` names a live process.
        holder: Option<u32>,
    },
    /// The directory cannot be created.
    #[error("cannot create the data directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// The lock file cannot be opened or locked.
    #[error("cannot lock the data directory {}", path.display())]
    Lock {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
}

/// A data directory that this process owns until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock; closing it gives the directory free.
    _lock: File,
}

impl DataDir {
    /// Creates the directory (mode 0700) if needed and takes its lock.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] if another instance has it; the others if the file system refuses.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        create_private_dir(path).map_err(|cause| DataDirError::Create { path: path.to_owned(), cause })?;
        let refused = |cause| DataDirError::Lock { path: path.to_owned(), cause };
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(OWNER_ONLY_FILE)
            .open(path.join(LOCK_FILE))
            .map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let holder = read_instance(path).ok().flatten().map(|instance| instance.pid);
                Err(DataDirError::Locked { path: path.to_owned(), holder })
            }
            Err(TryLockError::Error(cause)) => Err(refused(cause)),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Publishes where this instance listens. Removed when the directory is given free in an orderly way.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_instance(&self, instance: &Instance) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(instance)?;
        text.push(b'\n');
        replace_private_file(&self.path.join(INSTANCE_FILE), &text)
    }

    /// The key kept under `name`: `len` random bytes, made on first use and the same ever after (`NAME.key`, mode 0600).
    ///
    /// # Errors
    /// `PermissionDenied` if others can read the file, `InvalidData` if it has another length, `InvalidInput` for a name
    /// outside `[a-z0-9_-]` or a length that is zero or over the limit; else what the file system says.
    pub fn secret_key(&self, name: &str, len: usize) -> io::Result<Vec<u8>> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(plain) || len == 0 || len > MAX_KEY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name and length for a key file"));
        }
        let path = self.path.join(format!("{name}.key"));
        match File::open(&path) {
            Ok(file) => read_key(file, &path, len),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = vec![0; len];
                aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("the system gave no random bytes"))?;
                replace_private_file(&path, &key)?;
                Ok(key)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Ours by the lock; a failure leaves a file whose dead pid readers recognise.
        let _ = fs::remove_file(self.path.join(INSTANCE_FILE));
    }
}

/// The running instance of the data directory `dir`: `None` without one, or when the process it names is gone.
///
/// # Errors
/// When the file exists but cannot be read or is not what [`DataDir::write_instance`] wrote.
pub fn read_instance(dir: &Path) -> io::Result<Option<Instance>> {
    let file = match File::open(dir.join(INSTANCE_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_INSTANCE_BYTES).read_to_end(&mut text)?;
    let instance: Instance = serde_json::from_slice(&text)?;
    Ok(is_alive(instance.pid).then_some(instance))
}

fn is_alive(pid: u32) -> bool {
    match i32::try_from(pid) {
        // Zero and negative numbers address process groups.
        Ok(pid) if pid > 0 => !matches!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH)),
        _ => false,
    }
}

/// Creates `path` for its owner alone; one that exists keeps its mode, since it may be the user's own.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(OWNER_ONLY_DIR).create(path)
}

/// Makes sure `path` exists and only its owner can open it.
pub(crate) fn ensure_private_file(path: &Path) -> io::Result<()> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(OWNER_ONLY_FILE).open(path)?;
    let mut permissions = file.metadata()?.permissions();
    if std::os::unix::fs::PermissionsExt::mode(&permissions) & OTHERS != 0 {
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, OWNER_ONLY_FILE);
        file.set_permissions(permissions)?;
    }
    Ok(())
}

fn read_key(file: File, path: &Path, len: usize) -> io::Result<Vec<u8>> {
    let mode = file.metadata()?.mode() & 0o777;
    if mode & OTHERS != 0 {
        let path = path.display();
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "the key file {path} is open to others (mode {mode:04o}): run `chmod 600 {path}`, or remove it to get a new key"
            ),
        ));
    }
    let mut key = Vec::with_capacity(len);
    file.take(MAX_KEY_BYTES as u64 + 1).read_to_end(&mut key)?;
    if key.len() == len {
        return Ok(key);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the key file {} does not hold {len} bytes: remove it to get a new key", path.display()),
    ))
}

/// Readers see the old file or the new one, never a part; the bytes are on disk before the name is.
fn replace_private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    // A leftover of a crash may have any mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY_FILE).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn instance(pid: u32) -> Instance {
        Instance {
            pid,
            socket: PathBuf::from("/run/fairlead.sock"),
            mcp_url: "http://127.0.0.1:8642/mcp".to_owned(),
            admin_url: "http://127.0.0.1:8643".to_owned(),
            started_ms: 1_700_000_000_000,
            version: "0.1.0".to_owned(),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn second_instance_is_refused_with_the_holder_and_a_free_directory_can_be_taken() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/data");
        let first = DataDir::lock(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(LOCK_FILE)), 0o600);

        let error = DataDir::lock(&path).unwrap_err();
        assert!(matches!(error, DataDirError::Locked { holder: None, .. }), "{error:?}");

        first.write_instance(&instance(std::process::id())).unwrap();
        assert_eq!(mode(&path.join(INSTANCE_FILE)), 0o600);
        let error = DataDir::lock(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
        assert!(read_instance(&path).unwrap().is_some(), "a refused instance leaves the holder's file alone");

        drop(first);
        assert_eq!(read_instance(&path).unwrap(), None);
        DataDir::lock(&path).unwrap();
    }

    #[test]
    fn instance_is_read_back_and_ignored_when_its_process_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(temp.path()).unwrap();
        assert_eq!(read_instance(temp.path()).unwrap(), None);

        let ours = instance(std::process::id());
        dir.write_instance(&ours).unwrap();
        assert_eq!(read_instance(temp.path()).unwrap(), Some(ours));

        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        for gone in [child.id(), 0, u32::MAX] {
            dir.write_instance(&instance(gone)).unwrap();
            assert_eq!(read_instance(temp.path()).unwrap(), None, "pid {gone}");
        }

        fs::write(temp.path().join(INSTANCE_FILE), "{").unwrap();
        read_instance(temp.path()).unwrap_err();
    }

    #[test]
    fn keys_are_random_stable_and_private() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(temp.path()).unwrap();
        let session = dir.secret_key("session", 32).unwrap();
        let cursor = dir.secret_key("cursor", 32).unwrap();
        assert_eq!(session.len(), 32);
        assert_ne!(session, cursor);
        assert_ne!(session, vec![0; 32]);
        assert_eq!(dir.secret_key("session", 32).unwrap(), session);
        assert_eq!(mode(&temp.path().join("session.key")), 0o600);

        assert_eq!(dir.secret_key("session", 16).unwrap_err().kind(), io::ErrorKind::InvalidData);
        for name in ["", "../x", "A", "a.b"] {
            assert_eq!(dir.secret_key(name, 32).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_way_out() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(temp.path()).unwrap();
        let key = dir.secret_key("session", 32).unwrap();
        let path = temp.path().join("session.key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = dir.secret_key("session", 32).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("mode 0640") && error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(dir.secret_key("session", 32).unwrap(), key);
    }
}
