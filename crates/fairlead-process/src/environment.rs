//! What a child inherits from the program's environment.
//!
//! A list of what may pass, never of what may not: the program's own variables hold keys and passwords of other servers,
//! and a list of secrets is never complete. What a server needs beyond this is written in its configuration.

/// Variables passed by their exact name: where things are, who runs, in which language, how to reach the network.
const NAMES: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "NODE_EXTRA_CA_CERTS",
];

/// Variables passed by the beginning of their name: locale, base directories, certificates and the settings of the
/// package runners that usually start a server.
const PREFIXES: &[&str] = &["LC_", "XDG_", "SSL_CERT_", "npm_config_", "NPM_CONFIG_", "UV_", "PIP_"];

/// The part of this process's environment that a child inherits, as `(name, value)`.
///
/// Passed are `PATH HOME USER LOGNAME SHELL LANG TZ TMPDIR`, the proxy variables in both spellings,
/// `NODE_EXTRA_CA_CERTS`, and everything that begins with `LC_ XDG_ SSL_CERT_ npm_config_ NPM_CONFIG_ UV_ PIP_`.
/// [`ChildSpec::env`](crate::ChildSpec::env) is set on top of it.
pub fn inherited_environment() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passes)).collect()
}

fn passes(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn only_what_is_listed_passes() {
        for name in ["PATH", "HOME", "LC_ALL", "XDG_CACHE_HOME", "https_proxy", "UV_CACHE_DIR", "npm_config_cache"] {
            assert!(passes(name), "{name}");
        }
        for name in ["FAIRLEAD_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "LD_PRELOAD", "PATHS", "MY_PATH", ""] {
            assert!(!passes(name), "{name}");
        }
    }
}
