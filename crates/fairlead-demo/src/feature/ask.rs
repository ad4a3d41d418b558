//! Asking the client in the middle of a request, in the way of its era.
//!
//! A modern client gets `input_required` and comes back with the answers; a legacy client gets a request of its own
//! and answers it while the call waits. The tools see one function for both.
#![expect(deprecated, reason = "sampling and roots are deprecated by SEP-2577 and still have to be shown")]

use std::collections::BTreeMap;

use rmcp::{
    ErrorData, RoleServer,
    model::{
        ClientCapabilities, ElicitRequestParams, ElicitationCapability, InputRequest, InputRequiredResult,
        InputResponses, ProtocolVersion, RootsCapabilities, SamplingCapability,
    },
    service::RequestContext,
};
use serde_json::{Value, json};

/// What the client said, by the key of the question, or the result that asks it.
pub(super) enum Asked {
    /// Every question has an answer that is an object.
    Answered(BTreeMap<String, Value>),
    /// To be returned as it is.
    Pending(InputRequiredResult),
}

/// The questions of one round, built from their wire form.
pub(super) struct Questions(BTreeMap<String, InputRequest>);

impl Questions {
    /// One question under `key`; chain [`Questions::and`] for more.
    pub(super) fn one(key: &str, method: &str, params: Value) -> Self {
        Self(BTreeMap::new()).and(key, method, params)
    }

    /// Adds a question.
    pub(super) fn and(mut self, key: &str, method: &str, params: Value) -> Self {
        let request = serde_json::from_value(json!({"method": method, "params": params}))
            .expect("invariant: the questions of this crate are literals, and the tests build each of them");
        self.0.insert(key.to_owned(), request);
        self
    }

    /// A form with one required text field.
    pub(super) fn text(key: &str, message: &str, field: &str) -> Self {
        Self::one(key, "elicitation/create", text_form(message, field))
    }

    /// Drops what the client did not declare.
    pub(super) fn only_declared(mut self, context: &RequestContext<RoleServer>) -> Self {
        let declared = context.client_capabilities().unwrap_or_default();
        self.0.retain(|_, request| missing(&declared, request).is_none());
        self
    }

    /// The single request under `key`, for the tasks extension, which asks one at a time.
    pub(super) fn into_request(mut self, key: &str) -> Option<InputRequest> {
        self.0.remove(key)
    }
}

/// The parameters of a form elicitation with one required text field.
pub(super) fn text_form(message: &str, field: &str) -> Value {
    json!({
        "mode": "form",
        "message": message,
        "requestedSchema": {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]},
    })
}

/// Whether the request is of revision 2026-07-28 or later.
pub(super) fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

/// Asks the client.
///
/// Answers that are missing or not objects are asked for again; surplus ones are ignored. `state` is what a modern
/// client echoes with its answers.
///
/// # Errors
/// `-32021` (`-32600` toward a legacy client) when the client has not declared what a question needs; for a legacy
/// client also the failure of the request to it.
pub(super) async fn ask(
    context: &RequestContext<RoleServer>,
    questions: Questions,
    given: Option<&InputResponses>,
    state: Option<String>,
) -> Result<Asked, ErrorData> {
    let declared = context.client_capabilities().unwrap_or_default();
    if let Some(required) = questions.0.values().find_map(|request| missing(&declared, request)) {
        return Err(match is_modern(context) {
            true => ErrorData::missing_required_client_capability(required),
            false => ErrorData::invalid_request("the client did not declare the capability this needs", None),
        });
    }
    if is_modern(context) {
        let mut answers = BTreeMap::new();
        for (key, answer) in given.into_iter().flatten() {
            if answer.is_object() && questions.0.contains_key(key) {
                answers.insert(key.clone(), answer.clone());
            }
        }
        if answers.len() == questions.0.len() {
            return Ok(Asked::Answered(answers));
        }
        return Ok(Asked::Pending(InputRequiredResult::new(Some(questions.0), state)));
    }
    let mut answers = BTreeMap::new();
    for (key, request) in questions.0 {
        answers.insert(key, ask_legacy(context, request).await?);
    }
    Ok(Asked::Answered(answers))
}

async fn ask_legacy(context: &RequestContext<RoleServer>, request: InputRequest) -> Result<Value, ErrorData> {
    let peer = &context.peer;
    let answer = match request {
        InputRequest::CreateMessage(request) => peer.create_message(request.params).await.map(serde_json::to_value),
        InputRequest::Elicitation(request) => peer.create_elicitation(request.params).await.map(serde_json::to_value),
        InputRequest::ListRoots(_) => peer.list_roots().await.map(serde_json::to_value),
        _ => return Err(ErrorData::internal_error("a question of an unknown kind", None)),
    };
    answer
        .map_err(|error| ErrorData::internal_error(format!("the client did not answer: {error}"), None))?
        .map_err(|error| ErrorData::internal_error(format!("the client's answer cannot be read: {error}"), None))
}

/// The capability that `request` needs and `declared` lacks.
fn missing(declared: &ClientCapabilities, request: &InputRequest) -> Option<ClientCapabilities> {
    let mut required = ClientCapabilities::default();
    match request {
        InputRequest::CreateMessage(_) if declared.sampling.is_none() => {
            required.sampling = Some(SamplingCapability::default());
        }
        InputRequest::Elicitation(request) => {
            let url = matches!(request.params, ElicitRequestParams::UrlElicitationParams { .. });
            match &declared.elicitation {
                Some(elicitation) if !url || elicitation.url.is_some() => return None,
                _ => required.elicitation = Some(ElicitationCapability::default()),
            }
        }
        InputRequest::ListRoots(_) if declared.roots.is_none() => {
            required.roots = Some(RootsCapabilities::default());
        }
        _ => return None,
    }
    Some(required)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_keeps_its_wire_form() {
        let questions = Questions::text("user_name", "What is your name?", "name")
            .and("client_roots", "roots/list", json!({}))
            .and(
                "greeting",
                "sampling/createMessage",
                json!({"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}], "maxTokens": 50}),
            );
        let wire = serde_json::to_value(&questions.0).unwrap();
        assert_eq!(wire["user_name"]["method"], "elicitation/create");
        assert_eq!(wire["user_name"]["params"]["requestedSchema"]["required"], json!(["name"]));
        assert_eq!(wire["client_roots"]["method"], "roots/list");
        assert_eq!(wire["greeting"]["params"]["maxTokens"], 50);
    }

    #[test]
    fn a_url_question_needs_the_url_capability() {
        let url = Questions::one(
            "sign_in",
            "elicitation/create",
            json!({"mode": "url", "message": "Sign in", "url": "https://example.com/", "elicitationId": "1"}),
        );
        let form_only: ClientCapabilities = serde_json::from_value(json!({"elicitation": {"form": {}}})).unwrap();
        let both: ClientCapabilities = serde_json::from_value(json!({"elicitation": {"form": {}, "url": {}}})).unwrap();
        assert!(missing(&form_only, &url.0["sign_in"]).is_some());
        assert!(missing(&both, &url.0["sign_in"]).is_none());
    }
}
