//! The features that calls can be made to pass, each configured alone, and what calls must bring for it.

use http::{HeaderMap, HeaderValue};

use crate::client::Manner;

/// Where calls go that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// The server alone.
    Server,
    /// Everything.
    All,
}

impl Door {
    /// The path of the endpoint.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Server => "/servers/bench/mcp",
            Self::All => "/mcp",
        }
    }

    /// What the echo tool is called there.
    pub(super) fn tool(self) -> &'static str {
        match self {
            Self::Server => "echo",
            Self::All => "bench__echo",
        }
    }
}

/// One feature.
pub(super) struct Feature {
    pub(super) name: &'static str,
    /// Top-level keys of the configuration.
    top: &'static str,
    /// Keys of the server beside its `url`.
    server: &'static str,
    pub(super) door: Door,
    /// The path, where it is not that of the door.
    path: Option<&'static str>,
    /// The tool, where it is called otherwise.
    tool: Option<&'static str>,
    headers: &'static [(&'static str, &'static str)],
    varies: bool,
    through: Option<&'static str>,
}

/// The guard against loops is on by default, so a plain call is one without it.
const PLAIN_LIMITS: &str = "limits: { identical: off }";

impl Feature {
    const fn of(name: &'static str, server: &'static str) -> Self {
        Self {
            name,
            top: PLAIN_LIMITS,
            server,
            door: Door::Server,
            path: None,
            tool: None,
            headers: &[],
            varies: false,
            through: None,
        }
    }

    const fn top(name: &'static str, top: &'static str) -> Self {
        Self { top, ..Self::of(name, "") }
    }

    /// Calls with nothing configured.
    pub(super) const fn plain(door: Door) -> Self {
        let name = match door {
            Door::Server => "nothing",
            Door::All => "nothing, at /mcp",
        };
        Self { door, ..Self::of(name, "") }
    }

    pub(super) fn path(&self) -> &'static str {
        self.path.unwrap_or(self.door.path())
    }

    pub(super) fn tool(&self) -> &'static str {
        self.tool.unwrap_or(self.door.tool())
    }

    /// What its calls differ in from plain ones.
    pub(super) fn manner(&self) -> Manner {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        Manner { headers, varies: self.varies, through: self.through }
    }

    /// The configuration for a server at `upstream`.
    pub(super) fn configuration(&self, upstream: std::net::SocketAddr) -> String {
        let more = if self.server.is_empty() { String::new() } else { format!(", {}", self.server) };
        let url = format!("http://{upstream}");
        let top =
            if self.top.contains("limits:") { self.top.to_owned() } else { format!("{PLAIN_LIMITS}\n{}", self.top) };
        let server = if self.server.contains("instances:") {
            format!("  bench: {{ {} }}\n", self.server)
        } else {
            format!("  bench: {{ url: \"{url}/mcp\"{more} }}\n")
        };
        format!("{top}\nservers:\n{server}  other: {{ url: \"{url}/other/mcp\" }}\n").replace("URL", &url)
    }
}

/// All of them.
pub(super) fn features() -> Vec<Feature> {
    let rule = |name, server| Feature::of(name, server);
    vec![
        Feature::of(
            "three instances",
            "instances: [{ name: a, url: \"URL/a/mcp\" }, { name: b, url: \"URL/b/mcp\" }, { name: c, url: \"URL/c/mcp\" }]",
        ),
        Feature::of("breaker", "breaker: {}"),
        Feature::of("retry", "retry: {}"),
        rule("hedge", "tools: { rules: { echo: { repeatable: true, hedge: 10s } } }"),
        Feature {
            headers: &[("fairlead-timeout-ms", "30000")],
            ..Feature::of("deadline of the client, passed on", "forward_deadline: true")
        },
        Feature::of("fallback", "fallback: [{ text: \"Later.\" }]"),
        Feature::top("limit per caller", "limits: { identical: off, caller: 1000000/s }"),
        Feature::top("limit per tool", "limits: { identical: off, tool: 1000000/s }"),
        Feature::top("limit per server", "limits: { identical: off, server: 1000000/s }"),
        Feature::top("limit per tenant", "limits: { identical: off, tenant: 1000000/s }"),
        Feature::top("limit of all calls", "limits: { identical: off, global: 1000000/s }"),
        Feature::top("limit per caller, sliding", "limits: { identical: off, caller: 1000000/s sliding }"),
        Feature::top("quota per caller", "limits: { identical: off, quotas: { caller: 1000000000/day } }"),
        Feature::top("guard against loops", "limits: { identical: 1000000/s }"),
        Feature::of("bulkhead", "bulkhead: batch"),
        Feature::top(
            "faults, none of which hits",
            "faults: { enabled: true, inject: [{ server: \"o*\", garbage: true }] }",
        ),
        Feature::top("overload (load and memory)", "overload: { max_calls: 100000, memory: 64GiB }"),
        Feature {
            varies: true,
            ..rule("cache, the answer is not there", "tools: { rules: { echo: { cache: { ttl: 1s } } } }")
        },
        Feature {
            varies: true,
            ..rule("coalescing", "tools: { rules: { echo: { repeatable: true, coalesce: true } } }")
        },
        Feature {
            // A server alone shows its own names.
            door: Door::All,
            tool: Some("bench__say"),
            ..rule("rename", "tools: { rules: { echo: { rename: say } } }")
        },
        rule("pinned argument", "tools: { rules: { echo: { pin: { lang: en } } } }"),
        rule("validation", "tools: { rules: { echo: { validate: true } } }"),
        rule("response filter: redact", "tools: { rules: { echo: { response: { redact: [\"secret-[0-9]+\"] } } } }"),
        rule("response filter: max_bytes", "tools: { rules: { echo: { response: { max_bytes: 1MiB } } } }"),
        Feature::top("request id made", "correlation: { make: true }"),
        Feature { headers: &[("fairlead-info", "1")], ..Feature::of("what became of the call told", "start: lazy") },
        Feature {
            door: Door::All,
            path: Some("/mcp/find"),
            through: Some("call_tool"),
            ..Feature::top("search toolset, through call_tool", "toolsets: { find: { mode: search } }")
        },
        Feature {
            door: Door::All,
            ..Feature::top(
                "route",
                "routes: [{ tool: [\"bench__*\"], arguments: { text: \"x*\" }, to: [{ server: bench, weight: 9 }, { server: other, weight: 1 }] }]",
            )
        },
    ]
}

/// A call whose answer is in the cache.
pub(super) const HIT: Feature = Feature::of("cache hit", "tools: { rules: { echo: { cache: { ttl: 1h } } } }");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        let upstream = "127.0.0.1:9".parse().unwrap();
        let plain = Feature::plain(Door::Server).configuration(upstream);
        assert!(
            plain.contains("bench: { url: \"http://127.0.0.1:9/mcp\" }") && plain.contains("identical: off"),
            "{plain}"
        );
        for feature in features() {
            let text = feature.configuration(upstream);
            assert_eq!(text.matches("limits:").count(), 1, "{}: {text}", feature.name);
            assert!(!text.contains("URL") && text != plain, "{}: {text}", feature.name);
        }
    }
}
