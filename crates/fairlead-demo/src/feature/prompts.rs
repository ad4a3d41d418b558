//! The prompts of the feature server and the values it completes.

use rmcp::{
    ErrorData, RoleServer,
    model::{
        CompleteRequestParams, CompleteResult, CompletionInfo, ContentBlock, GetPromptRequestParams, GetPromptResponse,
        GetPromptResult, JsonObject, PromptMessage, Reference, ResourceContents, Role,
    },
    service::RequestContext,
};
use serde_json::Value;

use super::{
    Feature, Ordering,
    ask::{Asked, Questions, ask},
    catalog::{EXTRA_PROMPT, PIXEL},
};

/// Values offered for the first argument of `test_prompt_with_arguments`, and for template ids.
const WORDS: &[&str] = &["paris", "park", "party", "test", "testing", "tokyo"];
const IDS: &[&str] = &["1", "12", "123", "2", "42"];

pub(super) async fn get(
    server: &Feature,
    request: GetPromptRequestParams,
    context: RequestContext<RoleServer>,
) -> Result<GetPromptResponse, ErrorData> {
    let arguments = request.arguments.unwrap_or_default();
    let text = |text: String| PromptMessage::new_text(Role::User, text);
    let (description, messages) = match request.name.as_str() {
        "test_simple_prompt" => {
            ("A prompt without arguments", vec![text("This is a simple prompt for testing.".to_owned())])
        }
        "test_prompt_with_arguments" => {
            let (first, second) = (required(&arguments, "arg1")?, required(&arguments, "arg2")?);
            let message = format!("Prompt with arguments: arg1='{first}', arg2='{second}'");
            ("A prompt with two arguments", vec![text(message)])
        }
        "test_prompt_with_embedded_resource" => {
            let uri = required(&arguments, "resourceUri")?;
            let resource = ResourceContents::text("Embedded resource content for testing.", uri);
            let messages = vec![
                PromptMessage::new(Role::User, ContentBlock::resource(resource)),
                text("Please process the embedded resource above.".to_owned()),
            ];
            ("A prompt that embeds a resource", messages)
        }
        "test_prompt_with_image" => {
            let messages = vec![
                PromptMessage::new(Role::User, ContentBlock::image(PIXEL, "image/png")),
                text("Please analyze the image above.".to_owned()),
            ];
            ("A prompt that carries an image", messages)
        }
        "test_input_required_result_prompt" => {
            let questions = Questions::text("user_context", "What context should the prompt use?", "context");
            match ask(&context, questions, request.input_responses.as_ref(), None).await? {
                Asked::Pending(result) => return Ok(result.into()),
                Asked::Answered(answers) => {
                    let chosen = answers["user_context"]["content"]["context"].as_str().unwrap_or("none").to_owned();
                    ("A prompt that asked first", vec![text(format!("Use this context: {chosen}"))])
                }
            }
        }
        EXTRA_PROMPT if server.shared.has_extra_prompt.load(Ordering::Relaxed) => {
            ("Added by a tool", vec![text("I was not here before.".to_owned())])
        }
        other => return Err(ErrorData::invalid_params(format!("there is no prompt `{other}`"), None)),
    };
    Ok(GetPromptResult::new(messages).with_description(description).into())
}

fn required<'a>(arguments: &'a JsonObject, name: &str) -> Result<&'a str, ErrorData> {
    arguments
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| ErrorData::invalid_params(format!("the argument `{name}` is required"), None))
}

pub(super) fn complete(request: &CompleteRequestParams) -> Result<CompleteResult, ErrorData> {
    let known: &[&str] = match (&request.r#ref, request.argument.name.as_str()) {
        (Reference::Prompt(prompt), "arg1" | "arg2") if prompt.name == "test_prompt_with_arguments" => WORDS,
        (Reference::Resource(_), "id") => IDS,
        _ => &[],
    };
    let values = known.iter().filter(|value| value.starts_with(&request.argument.value)).map(|value| (*value).into());
    let info =
        CompletionInfo::with_all_values(values.collect()).map_err(|error| ErrorData::internal_error(error, None))?;
    Ok(CompleteResult::new(info))
}
