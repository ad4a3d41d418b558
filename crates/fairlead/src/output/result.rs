//! The result of a tool for a person: texts as they are, everything else described.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt::Write as _;

#[derive(Deserialize)]
struct ToolResult<'a> {
    #[serde(borrow, default)]
    content: Vec<Content<'a>>,
    #[serde(borrow, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(rename = "isError", default)]
    is_error: bool,
    #[serde(rename = "resultType")]
    result_type: Option<String>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(rename = "type", default)]
    kind: String,
    text: Option<String>,
    #[serde(default)]
    data: String,
    #[serde(rename = "mimeType")]
    mime_type: Option<String>,
    uri: Option<String>,
    #[serde(borrow)]
    resource: Option<Resource<'a>>,
}

#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(default)]
    uri: String,
    text: Option<String>,
    #[serde(borrow)]
    blob: Option<&'a RawValue>,
    #[serde(rename = "mimeType")]
    mime_type: Option<String>,
}

/// What a `tools/call` result says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// For stdout, with a line end unless empty.
    pub(crate) text: String,
    /// The tool reports an error.
    pub(crate) is_error: bool,
    /// `complete` unless the result says otherwise.
    pub(crate) result_type: String,
}

/// Reads a raw `tools/call` result.
///
/// # Errors
/// When it is not one.
pub(crate) fn read(raw: &str) -> Result<Said, serde_json::Error> {
    let result: ToolResult<'_> = serde_json::from_str(raw)?;
    let mut text = String::new();
    for content in &result.content {
        let media = content.mime_type.as_deref().unwrap_or("unknown type");
        match (content.kind.as_str(), &content.resource) {
            ("text", _) => text.push_str(content.text.as_deref().unwrap_or_default()),
            ("image" | "audio", _) => {
                let _ = write!(text, "[{} {media}, {} bytes]", content.kind, content.data.len() / 4 * 3);
            }
            ("resource_link", _) => {
                let _ = write!(text, "[resource {}]", content.uri.as_deref().unwrap_or("?"));
            }
            ("resource", Some(resource)) => match &resource.text {
                Some(inner) => text.push_str(inner),
                None => {
                    let media = resource.mime_type.as_deref().unwrap_or("unknown type");
                    let bytes = resource.blob.map_or(0, |blob| blob.get().len().saturating_sub(2) / 4 * 3);
                    let _ = write!(text, "[resource {} {media}, {bytes} bytes]", resource.uri);
                }
            },
            (kind, _) => {
                let _ = write!(text, "[{} content; --json shows it]", super::one_line(kind, 40));
            }
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    if result.content.is_empty()
        && let Some(structured) = result.structured
    {
        let _ = writeln!(text, "{}", structured.get());
    }
    let result_type = result.result_type.unwrap_or_else(|| "complete".to_owned());
    Ok(Said { text, is_error: result.is_error, result_type })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_for_people() {
        for (raw, text, is_error) in [
            (r#"{"content":[{"type":"text","text":"a\n"},{"type":"text","text":"b"}]}"#, "a\nb\n", false),
            (r#"{"content":[{"type":"text","text":"no"}],"isError":true}"#, "no\n", true),
            (
                r#"{"content":[{"type":"image","data":"AAAA","mimeType":"image/png"}]}"#,
                "[image image/png, 3 bytes]\n",
                false,
            ),
            (r#"{"content":[{"type":"resource","resource":{"uri":"a:b","text":"t"}}]}"#, "t\n", false),
            (r#"{"content":[{"type":"resource_link","uri":"a:b","name":"n"}]}"#, "[resource a:b]\n", false),
            (r#"{"content":[],"structuredContent":{"a":1.0}}"#, "{\"a\":1.0}\n", false),
            (r#"{"content":[{"type":"new"}]}"#, "[new content; --json shows it]\n", false),
        ] {
            assert_eq!(read(raw).expect(raw), Said { text: text.into(), is_error, result_type: "complete".into() });
        }
        assert!(read("[]").is_err());
        assert_eq!(read(r#"{"resultType":"task","taskId":"1"}"#).expect("valid").result_type, "task");
    }
}
