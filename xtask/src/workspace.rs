//! Where the workspace is and what belongs to it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Files larger than this are data, not text that a rule applies to.
const MAX_TEXT_BYTES: u64 = 4 * 1024 * 1024;

/// The checkout this program was built from.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

/// A text file of the checkout.
#[derive(Debug, Clone)]
pub(crate) struct TextFile {
    /// Path relative to the root, with `/`.
    pub(crate) path: String,
    /// The content.
    pub(crate) text: String,
}

impl Workspace {
    /// The workspace `cargo` runs in.
    pub(crate) fn find() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask has a parent directory")?.to_owned();
        Ok(Self { root })
    }

    /// The root directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `relative` as an absolute path.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where `cargo` puts what it builds.
    pub(crate) fn target_directory(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.root.join("target"), |directory| self.root.join(directory))
    }

    /// A `cargo` command in the root.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// Every text file that is tracked, or would be after `git add`.
    pub(crate) fn text_files(&self) -> Result<Vec<TextFile>> {
        let output = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(&self.root)
            .output()
            .context("git cannot be run")?;
        if !output.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let listing = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
        let mut paths: Vec<&str> = listing.split('\0').filter(|path| !path.is_empty()).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut files = Vec::new();
        for path in paths {
            let full = self.root.join(path);
            // Deleted but still tracked, a link, or not a text: no rule applies.
            let Ok(metadata) = full.symlink_metadata() else { continue };
            if !metadata.is_file() || metadata.len() > MAX_TEXT_BYTES {
                continue;
            }
            if let Ok(text) = String::from_utf8(std::fs::read(&full).with_context(|| path.to_owned())?) {
                files.push(TextFile { path: path.to_owned(), text });
            }
        }
        Ok(files)
    }
}
