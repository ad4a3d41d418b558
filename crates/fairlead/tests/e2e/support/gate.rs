//! Calls that last as long as a test needs them.

use std::{fs, path::PathBuf};

use fairlead_testkit::ToolScript;

/// A gate before the end of calls, in whatever process they run. Closed until it is opened.
pub(crate) struct Gate {
    dir: tempfile::TempDir,
}

impl Gate {
    /// A closed one.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("fairlead-gate-").tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("open")
    }

    /// Has a tool wait here.
    pub(crate) fn before(&self, tool: ToolScript) -> ToolScript {
        tool.gate(&self.path())
    }

    /// A tool that does nothing but wait here.
    pub(crate) fn tool(&self, name: &str) -> ToolScript {
        self.before(ToolScript::new(name))
    }

    /// Lets everybody pass, from now on.
    pub(crate) fn open(&self) {
        fs::write(self.path(), "").unwrap();
    }
}
