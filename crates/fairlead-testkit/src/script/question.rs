//! What a server asks.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a server asks its client.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// `elicitation/create` with a form.
    Elicitation,
    /// `elicitation/create` with a URL.
    ElicitationUrl,
    /// `sampling/createMessage`.
    Sampling,
    /// `sampling/createMessage` with tools.
    SamplingTools,
    /// `roots/list`.
    Roots,
    /// `ping`.
    Ping,
}

impl Question {
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Elicitation | Self::ElicitationUrl => "elicitation/create",
            Self::Sampling | Self::SamplingTools => "sampling/createMessage",
            Self::Roots => "roots/list",
            Self::Ping => "ping",
        }
    }

    pub(crate) fn params(self) -> Value {
        match self {
            Self::Elicitation => json!({
                "mode": "form",
                "message": "What is your name?",
                "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            }),
            Self::ElicitationUrl => json!({
                "mode": "url",
                "message": "Please sign in.",
                "url": "https://example.com/sign-in",
                "elicitationId": "sign-in-1",
            }),
            Self::Sampling => json!({
                "messages": [{"role": "user", "content": {"type": "text", "text": "What is the capital of France?"}}],
                "maxTokens": 100,
            }),
            Self::SamplingTools => json!({
                "messages": [{"role": "user", "content": {"type": "text", "text": "How warm is it in Paris?"}}],
                "maxTokens": 100,
                "tools": [{"name": "weather", "inputSchema": {"type": "object"}}],
                "toolChoice": {"mode": "required"},
            }),
            Self::Roots | Self::Ping => json!({}),
        }
    }
}
