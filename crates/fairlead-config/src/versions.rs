//! Versions of tools: which tool of which server is a version of an exposed tool. What people write and what the program
//! uses stand together here, because nothing else needs either.

use crate::{build::Builder, check::shorten};
use fairlead_core::ServerName;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name of a version.
const MAX_NAME: usize = 32;

/// The versions of one exposed tool.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolVersionsFile {
    /// The version that is called where none is asked for. Default: the tool that has the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The versions by their names: letters, digits, `.`, `-` and `_`, at most 32.
    pub versions: IndexMap<String, ToolVersionFile>,
}

/// One version of a tool.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolVersionFile {
    /// The server that has it. Default: the one that has the exposed name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The server's own name of the tool. Default: that of the exposed tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Why it should not be used any more, and what instead. Clients are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
}

/// The versions of one exposed tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolVersions {
    /// What is called where none is asked for.
    pub default: Option<Box<str>>,
    /// All, in the order they are written.
    pub versions: Vec<ToolVersion>,
}

/// One version of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolVersion {
    /// Its name.
    pub name: Box<str>,
    /// The server, if not that of the exposed tool.
    pub server: Option<ServerName>,
    /// The server's own name of the tool, if not that of the exposed tool.
    pub tool: Option<Box<str>>,
    /// Why it should not be used any more.
    pub deprecated: Option<Box<str>>,
}

impl ToolVersions {
    /// The version of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ToolVersion> {
        self.versions.iter().find(|version| *version.name == *name)
    }
}

impl Builder<'_> {
    /// `knows` says which servers there are.
    pub(crate) fn versions(
        &mut self,
        files: IndexMap<String, ToolVersionsFile>,
        knows: impl Fn(&ServerName) -> bool,
    ) -> IndexMap<String, ToolVersions> {
        files.into_iter().map(|(tool, file)| (tool.clone(), self.versions_of(&tool, file, &knows))).collect()
    }

    fn versions_of(
        &mut self,
        tool: &str,
        file: ToolVersionsFile,
        knows: &impl Fn(&ServerName) -> bool,
    ) -> ToolVersions {
        let mut versions = Vec::with_capacity(file.versions.len());
        for (name, version) in file.versions {
            let at = ["versions", tool, "versions", &*name];
            let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_sound) {
                let message = format!("`{}` cannot be the name of a version", shorten(&name));
                self.key_error(&at, message, "use letters, digits, `.`, `-` and `_`, at most 32 of them");
            }
            let server = version.server.as_deref().and_then(|written| match ServerName::parse(written) {
                Ok(server) if knows(&server) => Some(server),
                _ => {
                    let message = format!("no server is called `{}`", shorten(written));
                    self.error(&at, message, "a version names servers of `servers`");
                    None
                }
            });
            versions.push(ToolVersion {
                name: name.into(),
                server,
                tool: version.tool.map(Into::into),
                deprecated: version.deprecated.map(Into::into),
            });
        }
        let versions = ToolVersions { default: file.default.map(Into::into), versions };
        if let Some(default) = versions.default.as_deref().filter(|name| versions.get(name).is_none()) {
            let message = format!("there is no version `{}`", shorten(default));
            self.error(&["versions", tool, "default"], message, "name one of `versions`");
        }
        versions
    }
}
