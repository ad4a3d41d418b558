//! Installing one group. A group's directory is complete when it holds the fingerprint of its lock file;
//! anything else there is left from a run that was cut short and is removed first.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Cache, Outcome,
    group::{Group, Installer, NODE22, UV},
};
use crate::process;

/// The file that makes a group's directory complete.
const STAMP: &str = ".complete";
/// How long one command of an installation may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);
/// How often an installation is tried: package indexes have bad moments.
const ATTEMPTS: u32 = 2;
/// Raised when the way of installing changes, so that old directories are made anew.
const LAYOUT: &str = "1";
/// The program of the group `uv`, in the cache.
const UV_PROGRAM: &str = "uv/bin/uv";
/// Where `uv` keeps what it fetched, in the cache; the groups share its files.
const UV_FILES: &str = ".uv";

/// Installs `group` unless it is there.
pub(super) fn ensure(cache: &Cache, group: &Group) -> Outcome {
    match install(cache, group) {
        Ok(true) => Outcome::Installed,
        Ok(false) => Outcome::UpToDate,
        Err(error) => Outcome::Missing(error),
    }
}

/// Whether `group` is there and complete (for whatever lock file).
pub(super) fn is_installed(cache: &Cache, group: &Group) -> bool {
    cache.group(group).join(STAMP).is_file()
}

fn install(cache: &Cache, group: &Group) -> Result<bool> {
    let fingerprint = fingerprint(&lock_files(cache, group))?;
    let directory = cache.group(group);
    let stamp = directory.join(STAMP);
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == fingerprint) {
        return Ok(false);
    }
    let mut attempt = 1;
    loop {
        remove(&directory)?;
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let result = match group.installer {
            Installer::Npm => npm(cache, group, &directory),
            // The first attempt is the fast one. `pip` knows configurations that `uv` does not read.
            Installer::Python if attempt == 1 && cache.path(UV_PROGRAM).is_file() => {
                python_with_uv(cache, group, &directory)
            }
            Installer::Python => python(cache, group, &directory),
        };
        match result.and_then(|()| check(group, &directory)) {
            Ok(()) => break,
            Err(error) if attempt >= ATTEMPTS => {
                remove(&directory)?;
                return Err(error);
            }
            Err(error) => eprintln!("{:<22} tried again: {error:#}", group.name),
        }
        attempt += 1;
    }
    std::fs::write(&stamp, fingerprint).with_context(|| stamp.display().to_string())?;
    Ok(true)
}

fn lock_directory(cache: &Cache, group: &Group) -> PathBuf {
    cache
        .locks
        .join(match group.installer {
            Installer::Npm => "npm",
            Installer::Python => "python",
        })
        .join(group.name)
}

fn lock_files(cache: &Cache, group: &Group) -> Vec<PathBuf> {
    let directory = lock_directory(cache, group);
    match group.installer {
        Installer::Npm => vec![directory.join("package.json"), directory.join("package-lock.json")],
        Installer::Python => vec![directory.join("requirements.lock")],
    }
}

fn npm(cache: &Cache, group: &Group, directory: &Path) -> Result<()> {
    for file in lock_files(cache, group) {
        let name = file.file_name().context("a lock file has a name")?;
        std::fs::copy(&file, directory.join(name)).with_context(|| file.display().to_string())?;
    }
    process::run_logged(
        "npm ci",
        Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(directory),
        &directory.join("install.log"),
        COMMAND_LIMIT,
    )?;
    if group.name == NODE22 { link_node(directory) } else { Ok(()) }
}

/// Gives the one platform package that npm chose a fixed path, `bin/node`.
fn link_node(directory: &Path) -> Result<()> {
    let modules = directory.join("node_modules");
    for entry in std::fs::read_dir(&modules).with_context(|| modules.display().to_string())? {
        let package = entry?.path();
        let binary = package.join("bin/node");
        if binary.is_file() && !package.ends_with(".bin") {
            std::fs::create_dir_all(directory.join("bin"))?;
            std::os::unix::fs::symlink(&binary, directory.join("bin/node"))?;
            return Ok(());
        }
    }
    bail!("there is no Node 22 package for this platform")
}

fn python(cache: &Cache, group: &Group, directory: &Path) -> Result<()> {
    // The log cannot lie in a directory that `venv` clears.
    let log = cache.path(&format!("{}.log", group.name));
    process::run_logged(
        "python3 -m venv",
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(directory),
        &log,
        COMMAND_LIMIT,
    )?;
    check_version(directory, &log)?;
    process::run_logged(
        "pip install",
        Command::new(directory.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
            .arg("--requirement")
            .arg(lock_directory(cache, group).join("requirements.lock")),
        &log,
        COMMAND_LIMIT,
    )
}

/// The lock files are made for this Python.
fn check_version(directory: &Path, log: &Path) -> Result<()> {
    let check = "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'Python 3.11 or newer is needed')";
    let mut python = Command::new(directory.join("bin/python"));
    process::run_logged("python version", python.args(["-c", check]), log, COMMAND_LIMIT)
}

/// The same with `uv`: seconds instead of minutes, and a file that several groups have is on the disk once.
fn python_with_uv(cache: &Cache, group: &Group, directory: &Path) -> Result<()> {
    debug_assert_ne!(group.name, UV, "it does not install itself");
    let log = cache.path(&format!("{}.log", group.name));
    let uv = |arguments: &[&str]| {
        let mut command = Command::new(cache.path(UV_PROGRAM));
        // A Python that is here: none is fetched.
        command.args(arguments).args(["--quiet", "--no-python-downloads", "--cache-dir"]);
        command.arg(cache.path(UV_FILES)).env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX");
        command
    };
    let mut create = uv(&["venv", "--clear", "--python", "python3"]);
    process::run_logged("uv venv", create.arg(directory), &log, COMMAND_LIMIT)?;
    check_version(directory, &log)?;
    let mut install = uv(&["pip", "install", "--no-deps"]);
    install.arg("--python").arg(directory.join("bin/python"));
    install.arg("--requirement").arg(lock_directory(cache, group).join("requirements.lock"));
    process::run_logged("uv pip install", &mut install, &log, COMMAND_LIMIT)
}

fn check(group: &Group, directory: &Path) -> Result<()> {
    for (_, path) in group.provides {
        if !directory.join(path).exists() {
            bail!("the installation has no {path}");
        }
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| directory.display().to_string())
        }
        _ => Ok(()),
    }
}

/// FNV-1a over the files: it tells versions apart and protects against nothing; npm checks integrity itself.
fn fingerprint(files: &[PathBuf]) -> Result<String> {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    feed(LAYOUT.as_bytes());
    for file in files {
        feed(&std::fs::read(file).with_context(|| file.display().to_string())?);
        feed(&[0]);
    }
    Ok(format!("{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::group::{GROUPS, Need};

    #[test]
    fn the_fingerprint_follows_content_and_order() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&first, "one").unwrap();
        std::fs::write(&second, "two").unwrap();
        let both = fingerprint(&[first.clone(), second.clone()]).unwrap();
        assert_eq!(both, fingerprint(&[first.clone(), second.clone()]).unwrap());
        assert_ne!(both, fingerprint(&[second.clone(), first.clone()]).unwrap());
        std::fs::write(&second, "twO").unwrap();
        assert_ne!(both, fingerprint(&[first, second]).unwrap());
        assert!(fingerprint(&[directory.path().join("absent")]).is_err());
    }

    #[test]
    fn every_group_has_its_lock_files_and_no_host_in_them() {
        let locks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools");
        let cache = Cache { root: PathBuf::new(), locks };
        for group in GROUPS {
            for file in lock_files(&cache, group) {
                let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                assert!(!text.contains("\"resolved\"") && !text.contains("--hash"), "{}", file.display());
                if group.installer == Installer::Python {
                    assert!(text.lines().all(|line| line.contains("==")), "{}", file.display());
                }
            }
        }
    }

    #[test]
    fn a_complete_directory_is_left_alone_and_a_stale_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache { root: directory.path().join("cache"), locks: directory.path().join("locks") };
        let group = Group { name: "tiny", installer: Installer::Npm, need: Need::Usual, provides: &[] };
        let locks = lock_directory(&cache, &group);
        std::fs::create_dir_all(&locks).unwrap();
        // No dependencies: npm has nothing to fetch.
        std::fs::write(locks.join("package.json"), r#"{"name":"tiny","private":true}"#).unwrap();
        let lock = r#"{"name":"tiny","lockfileVersion":3,"requires":true,"packages":{"":{"name":"tiny"}}}"#;
        std::fs::write(locks.join("package-lock.json"), lock).unwrap();
        let fingerprint = fingerprint(&lock_files(&cache, &group)).unwrap();
        std::fs::create_dir_all(cache.group(&group)).unwrap();
        std::fs::write(cache.group(&group).join(STAMP), &fingerprint).unwrap();
        std::fs::write(cache.group(&group).join("kept"), "").unwrap();
        assert!(!install(&cache, &group).unwrap());
        assert!(cache.group(&group).join("kept").exists());
        assert!(is_installed(&cache, &group));
        // A group whose lock file is gone is reported, not taken from the cache.
        std::fs::remove_file(locks.join("package.json")).unwrap();
        assert!(matches!(ensure(&cache, &group), Outcome::Missing(_)));
    }
}
