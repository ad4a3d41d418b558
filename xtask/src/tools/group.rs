//! The table of tool groups. A group is one lock file and one directory of the cache.

/// How a group is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installer {
    /// `npm ci` of `tests/tools/npm/<group>/package-lock.json`, without install scripts.
    Npm,
    /// A virtual environment with `tests/tools/python/<group>/requirements.lock` and nothing else.
    Python,
}

/// Which runs need a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// `make test`, and therefore all.
    Usual,
    /// `make verify` only.
    Full,
}

/// One group of tools.
#[derive(Debug)]
pub(crate) struct Group {
    /// Name of the group, of its lock directory and of its cache directory.
    pub(crate) name: &'static str,
    /// How it is installed.
    pub(crate) installer: Installer,
    /// Which runs it is for.
    pub(crate) need: Need,
    /// Variables of `--env` with what they point to, relative to the group's directory. Each must exist
    /// after the installation.
    pub(crate) provides: &'static [(&'static str, &'static str)],
}

/// Node 22, which the Inspector and the conformance suites need.
pub(crate) const NODE22: &str = "node22";
/// `uv`, which installs the Python groups after it in a tenth of the time and lets them share files.
pub(crate) const UV: &str = "uv";
/// The conformance suite tagged as latest, for the revisions up to 2025-11-25.
pub(crate) const CONFORMANCE_OLD: &str = "conformance-old";
/// The conformance suite that knows 2026-07-28.
pub(crate) const CONFORMANCE_NEW: &str = "conformance-new";

/// Every group, in the order of installation.
pub(crate) const GROUPS: &[Group] = &[
    Group { name: NODE22, installer: Installer::Npm, need: Need::Usual, provides: &[("FAIRLEAD_NODE22", "bin/node")] },
    Group {
        name: "servers-npm",
        installer: Installer::Npm,
        need: Need::Usual,
        provides: &[
            ("FAIRLEAD_SERVER_EVERYTHING", "node_modules/.bin/mcp-server-everything"),
            ("FAIRLEAD_SERVER_FILESYSTEM", "node_modules/.bin/mcp-server-filesystem"),
            ("FAIRLEAD_SERVER_MEMORY", "node_modules/.bin/mcp-server-memory"),
            ("FAIRLEAD_SERVER_SEQUENTIAL_THINKING", "node_modules/.bin/mcp-server-sequential-thinking"),
        ],
    },
    Group { name: UV, installer: Installer::Python, need: Need::Usual, provides: &[("FAIRLEAD_UV", "bin/uv")] },
    Group {
        name: "servers-py",
        installer: Installer::Python,
        need: Need::Usual,
        provides: &[("FAIRLEAD_SERVER_TIME", "bin/mcp-server-time"), ("FAIRLEAD_SERVER_GIT", "bin/mcp-server-git")],
    },
    Group {
        name: "client-py",
        installer: Installer::Python,
        need: Need::Usual,
        provides: &[("FAIRLEAD_CLIENT_PYTHON", "bin/python")],
    },
    Group {
        name: "client-ts1",
        installer: Installer::Npm,
        need: Need::Usual,
        provides: &[("FAIRLEAD_CLIENT_TS1", "node_modules/@modelcontextprotocol/sdk")],
    },
    Group {
        name: "client-ts2",
        installer: Installer::Npm,
        need: Need::Usual,
        provides: &[("FAIRLEAD_CLIENT_TS2", "node_modules/@modelcontextprotocol/client")],
    },
    Group {
        name: "inspector",
        installer: Installer::Npm,
        need: Need::Usual,
        provides: &[("FAIRLEAD_INSPECTOR", "node_modules/.bin/mcp-inspector")],
    },
    Group {
        name: CONFORMANCE_OLD,
        installer: Installer::Npm,
        need: Need::Usual,
        provides: &[("FAIRLEAD_CONFORMANCE_OLD", "node_modules/.bin/conformance")],
    },
    Group {
        name: CONFORMANCE_NEW,
        installer: Installer::Npm,
        need: Need::Usual,
        provides: &[("FAIRLEAD_CONFORMANCE_NEW", "node_modules/.bin/conformance")],
    },
    framework("client-fastmcp", Need::Usual, &[("FAIRLEAD_CLIENT_FASTMCP", "bin/python")]),
    framework("client-langchain", Need::Usual, &[("FAIRLEAD_CLIENT_LANGCHAIN", "bin/python")]),
    framework("client-openai-agents", Need::Usual, &[("FAIRLEAD_CLIENT_OPENAI_AGENTS", "bin/python")]),
    framework("client-pydantic-ai", Need::Full, &[("FAIRLEAD_CLIENT_PYDANTIC_AI", "bin/python")]),
    framework("client-llamaindex", Need::Full, &[("FAIRLEAD_CLIENT_LLAMAINDEX", "bin/python")]),
    framework("client-semantic-kernel", Need::Full, &[("FAIRLEAD_CLIENT_SEMANTIC_KERNEL", "bin/python")]),
    framework("client-haystack", Need::Full, &[("FAIRLEAD_CLIENT_HAYSTACK", "bin/python")]),
    framework("client-autogen", Need::Full, &[("FAIRLEAD_CLIENT_AUTOGEN", "bin/python")]),
    framework("client-crewai", Need::Full, &[("FAIRLEAD_CLIENT_CREWAI", "bin/python")]),
];

/// The client of an agent framework.
const fn framework(name: &'static str, need: Need, provides: &'static [(&'static str, &'static str)]) -> Group {
    Group { name, installer: Installer::Python, need, provides }
}
