//! The one block `fairlead up` prints when it is ready.

use crate::{configuration::Origin, control::start};
use fairlead_config::Config;
use std::{fmt::Write as _, net::SocketAddr, path::Path};

/// What the block says.
pub(crate) struct Banner<'a> {
    pub(crate) config: &'a Config,
    pub(crate) origin: &'a Origin,
    pub(crate) mcp: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    /// This program, for clients that start it.
    pub(crate) program: &'a Path,
}

impl Banner<'_> {
    /// The block.
    pub(crate) fn render(&self) -> String {
        let mcp = self.config.listen.origin(self.mcp);
        let mut out = format!("Fairlead {} is ready.\n\n", env!("CARGO_PKG_VERSION"));
        let mut line = |what: &str, value: &str| {
            let _ = writeln!(out, "  {what:<15}{value}");
        };
        line("MCP endpoint", &format!("{mcp}/mcp"));
        line("one server", &format!("{mcp}/servers/{{name}}/mcp"));
        for name in self.config.toolsets.keys() {
            line("toolset", &format!("{mcp}/mcp/{name}"));
        }
        if let Some(admin) = self.admin {
            line("metrics", &format!("http://{admin}/metrics"));
            line("health", &format!("http://{admin}/health/ready?verbose"));
        }
        line("configuration", &self.origin.describe());
        line("data", &self.config.data_dir.display().to_string());

        out.push_str("\n  Servers\n");
        if self.config.servers.is_empty() {
            out.push_str("    none yet: add some under `servers`, or try `fairlead import --help`\n");
        }
        let width = self.config.servers.keys().map(|name| name.as_str().len()).max().unwrap_or(0);
        let ways = self.config.servers.values().map(|server| server.transport.word().len()).max().unwrap_or(0).max(5);
        for server in self.config.servers.values() {
            let how = if server.disabled { "disabled" } else { start(server.start) };
            let name = server.name.as_str();
            let _ = writeln!(out, "    {name:<width$}  {:<ways$}  {how}", server.transport.word());
        }

        let snippet =
            serde_json::json!({ "mcpServers": { "fairlead": { "type": "http", "url": format!("{mcp}/mcp") } } });
        let mut arguments = vec!["stdio".to_owned()];
        if let Origin::Files(files) = self.origin {
            for file in files {
                let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
                arguments.extend(["-c".to_owned(), file.display().to_string()]);
            }
        }
        let program = serde_json::json!({ "command": self.program.display().to_string(), "args": arguments });
        let _ = write!(
            out,
            "\n  Connect a client\n    claude mcp add --transport http fairlead {mcp}/mcp\n    or in its configuration: {snippet}\n    or, if it only starts programs: {program}\n\n  Ctrl-C stops it.\n"
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn the_block_says_where_what_and_how() {
        let config = fairlead_config::parse_str(
            "fairlead.yaml",
            "data_dir: /var/lib/fairlead\nservers:\n  files: { command: cat }\n  crm: { url: \"https://crm.example/mcp\", start: eager }\ntoolsets:\n  support: { include: [\"crm__*\"] }\n",
            Path::new("/etc/fairlead"),
            &|_| None,
        )
        .expect("valid");
        let banner = Banner {
            config: &config,
            origin: &Origin::Files(vec![PathBuf::from("/etc/fairlead/fairlead.yaml")]),
            mcp: SocketAddr::from(([127, 0, 0, 1], 8642)),
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 8643))),
            program: Path::new("/usr/bin/fairlead"),
        };
        insta::assert_snapshot!(banner.render().replace(env!("CARGO_PKG_VERSION"), "X"), @r#"
        Fairlead X is ready.

          MCP endpoint   http://127.0.0.1:8642/mcp
          one server     http://127.0.0.1:8642/servers/{name}/mcp
          toolset        http://127.0.0.1:8642/mcp/support
          metrics        http://127.0.0.1:8643/metrics
          health         http://127.0.0.1:8643/health/ready?verbose
          configuration  /etc/fairlead/fairlead.yaml
          data           /var/lib/fairlead

          Servers
            files  stdio  lazy
            crm    http   eager

          Connect a client
            claude mcp add --transport http fairlead http://127.0.0.1:8642/mcp
            or in its configuration: {"mcpServers":{"fairlead":{"type":"http","url":"http://127.0.0.1:8642/mcp"}}}
            or, if it only starts programs: {"args":["stdio","-c","/etc/fairlead/fairlead.yaml"],"command":"/usr/bin/fairlead"}

          Ctrl-C stops it.
        "#);
    }
}
