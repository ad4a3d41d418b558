//! The table of tool groups. A group is one lock file and one directory of the cache.

/// How a group is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installer {
    /// `npm ci` of `tests/tools/npm/<group>/package-lock.json`, without install scripts.
    Npm,
    /// A virtual environment with `tests/tools/python/<group>/requirements.lock` and nothing else.
    Python,
}

/// One group of tools.
#[derive(Debug)]
pub(crate) struct Group {
    /// Name of the group, of its lock directory and of its cache directory.
    pub(crate) name: &'static str,
    /// How it is installed.
    pub(crate) installer: Installer,
    /// Variables of `--env` with what they point to, relative to the group's directory. Each must exist
    /// after the installation.
    pub(crate) provides: &'static [(&'static str, &'static str)],
}

/// Node 22, which the Inspector and the conformance suites need.
pub(crate) const NODE22: &str = "node22";
/// The conformance suite tagged as latest, for the revisions up to 2025-11-25.
pub(crate) const CONFORMANCE_OLD: &str = "conformance-old";
/// The conformance suite that knows 2026-07-28.
pub(crate) const CONFORMANCE_NEW: &str = "conformance-new";

/// Every group, in the order of installation.
pub(crate) const GROUPS: &[Group] = &[
    Group { name: NODE22, installer: Installer::Npm, provides: &[("FAIRLEAD_NODE22", "bin/node")] },
    Group {
        name: "servers-npm",
        installer: Installer::Npm,
        provides: &[
            ("FAIRLEAD_SERVER_EVERYTHING", "node_modules/.bin/mcp-server-everything"),
            ("FAIRLEAD_SERVER_FILESYSTEM", "node_modules/.bin/mcp-server-filesystem"),
            ("FAIRLEAD_SERVER_MEMORY", "node_modules/.bin/mcp-server-memory"),
            ("FAIRLEAD_SERVER_SEQUENTIAL_THINKING", "node_modules/.bin/mcp-server-sequential-thinking"),
        ],
    },
    Group {
        name: "servers-py",
        installer: Installer::Python,
        provides: &[("FAIRLEAD_SERVER_TIME", "bin/mcp-server-time"), ("FAIRLEAD_SERVER_GIT", "bin/mcp-server-git")],
    },
    Group { name: "client-py", installer: Installer::Python, provides: &[("FAIRLEAD_CLIENT_PYTHON", "bin/python")] },
    Group {
        name: "client-ts1",
        installer: Installer::Npm,
        provides: &[("FAIRLEAD_CLIENT_TS1", "node_modules/@modelcontextprotocol/sdk")],
    },
    Group {
        name: "client-ts2",
        installer: Installer::Npm,
        provides: &[("FAIRLEAD_CLIENT_TS2", "node_modules/@modelcontextprotocol/client")],
    },
    Group {
        name: "inspector",
        installer: Installer::Npm,
        provides: &[("FAIRLEAD_INSPECTOR", "node_modules/.bin/mcp-inspector")],
    },
    Group {
        name: CONFORMANCE_OLD,
        installer: Installer::Npm,
        provides: &[("FAIRLEAD_CONFORMANCE_OLD", "node_modules/.bin/conformance")],
    },
    Group {
        name: CONFORMANCE_NEW,
        installer: Installer::Npm,
        provides: &[("FAIRLEAD_CONFORMANCE_NEW", "node_modules/.bin/conformance")],
    },
];
