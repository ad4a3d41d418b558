//! What the feature server lists, as data: the fixtures of the conformance suite and a few tools of our own.

use rmcp::model::{Prompt, Resource, ResourceTemplate, Tool};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A tool that only exists after `list_change` added it.
pub(super) const EXTRA_TOOL: &str = "extra_tool";
/// A prompt that only exists after `test_trigger_prompt_change` added it.
pub(super) const EXTRA_PROMPT: &str = "extra_prompt";
/// The resource that changes when `touch_resource` is called.
pub(super) const WATCHED: &str = "test://watched-resource";
/// A PNG of one red pixel, base64.
pub(super) const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/// A WAV file without samples, base64.
pub(super) const SILENCE: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

/// Everything listed, in listing order.
pub(super) struct Catalog {
    pub(super) tools: Vec<Tool>,
    pub(super) extra_tool: Tool,
    pub(super) resources: Vec<Resource>,
    pub(super) templates: Vec<ResourceTemplate>,
    pub(super) prompts: Vec<Prompt>,
    pub(super) extra_prompt: Prompt,
}

impl Catalog {
    /// Builds the catalog.
    ///
    /// # Errors
    /// A definition below that the library does not accept.
    pub(super) fn new() -> serde_json::Result<Self> {
        let mut tools: Vec<Tool> = Vec::new();
        for (name, description) in PLAIN_TOOLS {
            tools.push(tool(name, description, json!({"type": "object", "properties": {}}))?);
        }
        tools.extend(items::<Tool>(tools_with_arguments())?);
        Ok(Self {
            tools,
            extra_tool: tool(EXTRA_TOOL, "Exists since list_change added it", json!({"type": "object"}))?,
            resources: items(resources())?,
            templates: items(json!([{
                "uriTemplate": "test://template/{id}/data",
                "name": "template",
                "title": "Resource Template",
                "description": "A resource whose URI carries a parameter",
                "mimeType": "application/json",
            }]))?,
            prompts: items(prompts())?,
            extra_prompt: serde_json::from_value(json!({
                "name": EXTRA_PROMPT,
                "description": "Exists since test_trigger_prompt_change added it",
            }))?,
        })
    }
}

fn items<T: DeserializeOwned>(definitions: Value) -> serde_json::Result<Vec<T>> {
    serde_json::from_value(definitions)
}

fn tool(name: &str, description: &str, schema: Value) -> serde_json::Result<Tool> {
    serde_json::from_value(json!({"name": name, "description": description, "inputSchema": schema}))
}

const PLAIN_TOOLS: &[(&str, &str)] = &[
    ("test_simple_text", "Returns one text block"),
    ("test_image_content", "Returns one image block"),
    ("test_audio_content", "Returns one audio block"),
    ("test_embedded_resource", "Returns one embedded resource"),
    ("test_multiple_content_types", "Returns a text, an image and an embedded resource"),
    ("test_tool_with_logging", "Sends three log messages while it runs"),
    ("test_logging_tool", "Sends log messages, to a modern client only when the request asked for them"),
    ("test_tool_with_progress", "Reports progress three times when the request carries a token"),
    ("test_error_handling", "Always ends in a tool error"),
    ("test_elicitation_sep1034_defaults", "Asks with a form whose every field has a default"),
    ("test_elicitation_sep1330_enums", "Asks with a form of all five kinds of choices"),
    ("test_reconnection", "Hangs up on its own stream and delivers the answer to whoever comes back for it"),
    ("test_missing_capability", "Needs a client that declared sampling"),
    ("test_streaming_elicitation", "Reports progress, then asks"),
    ("test_trigger_tool_change", "Adds or removes a tool and announces it"),
    ("test_trigger_prompt_change", "Adds or removes a prompt and announces it"),
    ("test_input_required_result_elicitation", "Asks for a name"),
    ("test_input_required_result_sampling", "Asks the client's model a question"),
    ("test_input_required_result_list_roots", "Asks for the client's roots"),
    ("test_input_required_result_request_state", "Asks for a confirmation and checks the echoed state"),
    ("test_input_required_result_multiple_inputs", "Asks three questions of three kinds at once"),
    ("test_input_required_result_multi_round", "Asks twice, with a state that moves on"),
    ("test_input_required_result_tampered_state", "Refuses a state it has not sealed"),
    ("test_input_required_result_capabilities", "Asks only what the client declared"),
    ("test_tool_with_task", "Asks for a name, then continues as a task; needs the tasks extension"),
    ("failing_job", "A task that ends in a tool error; needs the tasks extension"),
    ("protocol_error_job", "A task that ends in a protocol error; needs the tasks extension"),
    ("multi_input", "A task that waits for two answers; needs the tasks extension"),
    ("count_calls", "How often each tool was called in this process, and how many calls were cancelled"),
    ("whoami_roots", "Lists the roots of the client that asks"),
    ("ask_url", "Asks the user to open a URL"),
    ("link", "Returns a link to a resource of this server"),
];

fn tools_with_arguments() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!([
        {
            "name": "test_sampling",
            "description": "Lets the client's model answer a prompt",
            "inputSchema": {
                "type": "object",
                "properties": {"prompt": text("What the model is asked")},
                "required": ["prompt"],
            },
        },
        {
            "name": "test_elicitation",
            "description": "Asks the user for a name and an address",
            "inputSchema": {
                "type": "object",
                "properties": {"message": text("What the user is shown")},
                "required": ["message"],
            },
        },
        {
            "name": "json_schema_2020_12_tool",
            "description": "Tool with JSON Schema 2020-12 features",
            "inputSchema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "$defs": {
                    "address": {
                        "$anchor": "addressDef",
                        "type": "object",
                        "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
                    },
                },
                "properties": {
                    "name": {"type": "string"},
                    "address": {"$ref": "#/$defs/address"},
                    "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                    "phone": {"type": "string"},
                    "email": {"type": "string"},
                },
                "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
                "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
                "then": {"required": ["phone"]},
                "else": {"required": ["email"]},
                "additionalProperties": false,
            },
        },
        {
            "name": "test_header_mirroring",
            "description": "Mirrors two arguments into request headers (SEP-2243)",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "region": {"type": "string", "x-mcp-header": "Region"},
                    "count": {"type": "integer", "x-mcp-header": "Count"},
                    "note": {"type": "string"},
                },
            },
        },
        {
            "name": "greet",
            "description": "Greets somebody, never as a task",
            "inputSchema": {"type": "object", "properties": {"name": text("Who is greeted")}},
        },
        {
            "name": "slow_compute",
            "description": "Computes for a while, as a task when the client can follow one",
            "inputSchema": {
                "type": "object",
                "properties": {"seconds": {"type": "number", "minimum": 0, "maximum": 3600}},
            },
        },
        {
            "name": "confirm_delete",
            "description": "A task that waits for a confirmation; needs the tasks extension",
            "inputSchema": {"type": "object", "properties": {"filename": text("What would be deleted")}},
        },
        {
            "name": "echo",
            "title": "Echo",
            "description": "Returns the message",
            "inputSchema": {
                "type": "object",
                "properties": {"message": text("Returned as it is")},
                "required": ["message"],
            },
            "annotations": {"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false},
        },
        {
            "name": "add",
            "title": "Add two numbers",
            "description": "Returns the sum, as text and as structured content",
            "inputSchema": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
            "outputSchema": {
                "type": "object",
                "properties": {"sum": {"type": "number"}},
                "required": ["sum"],
            },
            "annotations": {"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false},
        },
        {
            "name": "sleep",
            "description": "Waits, reports progress in tenths, stops when cancelled",
            "inputSchema": {
                "type": "object",
                "properties": {"ms": {"type": "integer", "minimum": 0, "maximum": 600_000}},
                "required": ["ms"],
            },
        },
        {
            "name": "big",
            "description": "Returns that many bytes of text",
            "inputSchema": {
                "type": "object",
                "properties": {"bytes": {"type": "integer", "minimum": 0, "maximum": 16_777_216}},
                "required": ["bytes"],
            },
        },
        {
            "name": "list_change",
            "description": "Adds or removes the tool `extra_tool` and tells everybody",
            "inputSchema": {
                "type": "object",
                "properties": {"action": {"type": "string", "enum": ["add", "remove", "toggle"]}},
            },
        },
        {
            "name": "touch_resource",
            "description": "Changes a resource and tells its subscribers",
            "inputSchema": {"type": "object", "properties": {"uri": text("test://watched-resource when absent")}},
        },
    ])
}

fn resources() -> Value {
    json!([
        {
            "uri": "test://static-text",
            "name": "static-text",
            "title": "Static Text Resource",
            "description": "A text that never changes",
            "mimeType": "text/plain",
        },
        {
            "uri": "test://static-binary",
            "name": "static-binary",
            "title": "Static Binary Resource",
            "description": "An image that never changes",
            "mimeType": "image/png",
        },
        {
            "uri": WATCHED,
            "name": "watched-resource",
            "title": "Watched Resource",
            "description": "A text that changes when touch_resource is called",
            "mimeType": "text/plain",
        },
    ])
}

fn prompts() -> Value {
    json!([
        {"name": "test_simple_prompt", "title": "Simple", "description": "A prompt without arguments"},
        {
            "name": "test_prompt_with_arguments",
            "title": "With arguments",
            "description": "A prompt with two arguments",
            "arguments": [
                {"name": "arg1", "description": "First argument", "required": true},
                {"name": "arg2", "description": "Second argument", "required": true},
            ],
        },
        {
            "name": "test_prompt_with_embedded_resource",
            "title": "With a resource",
            "description": "A prompt that embeds a resource",
            "arguments": [{"name": "resourceUri", "description": "URI of the resource to embed", "required": true}],
        },
        {"name": "test_prompt_with_image", "title": "With an image", "description": "A prompt that carries an image"},
        {
            "name": "test_input_required_result_prompt",
            "title": "Asks first",
            "description": "A prompt that needs an answer of the user",
        },
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_definition_is_accepted_and_named_once() {
        let catalog = Catalog::new().unwrap();
        let names: BTreeSet<_> = catalog.tools.iter().map(|tool| tool.name.as_ref()).collect();
        assert_eq!(names.len(), catalog.tools.len());
        assert!(!names.contains(EXTRA_TOOL));
        assert!(catalog.resources.iter().any(|resource| resource.uri == WATCHED));
        assert_eq!(catalog.prompts.len(), 5);
    }
}
