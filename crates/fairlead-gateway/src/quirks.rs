//! What real clients do that the specification does not expect, and what is done about it: one table.
//!
//! A quirk that can be served without harm is served for everybody, because not every client says who
//! it is. `docs/compatibility.md` has the same rows, and each row has a test of its name.

/// One habit of some clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirk {
    /// Its name, which is also that of its test.
    pub name: &'static str,
    /// Clients known for it: the name in `clientInfo`, or the `User-Agent` where only that tells.
    pub clients: &'static str,
    /// What they do.
    pub habit: &'static str,
    /// What is done about it, and for whom.
    pub remedy: &'static str,
}

/// Every quirk.
pub const QUIRKS: &[Quirk] = &[
    Quirk {
        name: "no_session_id",
        clients: "claude.ai connectors (`User-Agent: Claude-User`), and those named in `sessions.without_id`",
        habit: "never send `Mcp-Session-Id` back",
        remedy: "served without a session: no questions, subscriptions or GET stream; everybody else gets 400",
    },
    Quirk {
        name: "no_version_header",
        clients: "Gemini CLI",
        habit: "leave `MCP-Protocol-Version` out after `initialize`",
        remedy: "the session's revision counts, for everybody",
    },
    Quirk {
        name: "modern_initialize",
        clients: "rmcp, and programs built on it",
        habit: "ask in `initialize` for 2026-07-28, which has none",
        remedy: "answered with the newest revision that has, for everybody",
    },
    Quirk {
        name: "accept_order",
        clients: "Codex CLI",
        habit: "`Accept: text/event-stream, application/json`, or `*/*`",
        remedy: "order and wildcards do not matter, for everybody",
    },
    Quirk {
        name: "no_initialized",
        clients: "small scripts",
        habit: "never send `notifications/initialized`",
        remedy: "nothing waits for it, for everybody",
    },
    Quirk {
        name: "no_delete",
        clients: "TypeScript SDK, Inspector, Claude Code, Gemini CLI",
        habit: "never end their sessions",
        remedy: "a session that is idle leaves the memory (`sessions.idle`) and comes back when it is used",
    },
    Quirk {
        name: "session_per_call",
        clients: "LangChain, LlamaIndex, AutoGen",
        habit: "open a session for every operation",
        remedy: "sessions cost no connection to a server: links are shared",
    },
    Quirk {
        name: "hyphens_rewritten",
        clients: "CrewAI",
        habit: "call `get_env` where the tool is `get-env`",
        remedy: "a name nobody has leads to the one tool that differs from it in hyphens alone, for everybody",
    },
    Quirk {
        name: "long_names",
        clients: "Claude Code, Codex CLI, Cursor",
        habit: "put a prefix of their own before names, of which models take 64 characters",
        remedy: "exposed names have at most `names.max` characters, by default 48",
    },
    Quirk {
        name: "stale_lists",
        clients: "Claude Code",
        habit: "go on using a list that they were told has changed",
        remedy: "a tool that is gone is refused by name and nothing else suffers; one that is new is found without being listed",
    },
    Quirk {
        name: "no_arguments",
        clients: "the conformance suite",
        habit: "call tools without `arguments`",
        remedy: "passed on as it is: absent stays absent",
    },
    Quirk {
        name: "early_ping",
        clients: "Gemini CLI",
        habit: "`ping` before anything else",
        remedy: "answered by the gateway, whatever the servers do",
    },
];

#[cfg(test)]
mod tests {
    use super::QUIRKS;

    #[test]
    fn the_page_has_the_same_rows() {
        let page = include_str!("../../../docs/compatibility.md");
        for quirk in QUIRKS {
            let row = format!("| {} | {} | {} | {} |", quirk.name, quirk.clients, quirk.habit, quirk.remedy);
            assert!(page.contains(&row), "docs/compatibility.md lacks the row\n{row}");
        }
    }
}
