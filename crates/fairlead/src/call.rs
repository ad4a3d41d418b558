//! `fairlead call`.

use crate::{
    cli,
    failure::{Exit, Failure},
    mcp::{self, Answer},
    output, private,
    reach::Reach,
    runtime,
};
use fairlead_core::Code;
use fairlead_wire::{Field, Frame, Method, header::HEADER_MISMATCH, list, message, name};
use serde_json::value::RawValue;
use std::io::Read as _;

/// Largest arguments that are read from a file or from stdin.
const MAX_ARGUMENTS: u64 = 64 << 20;

/// Calls a tool.
pub(crate) fn run(arguments: &cli::Call) -> Result<Exit, Failure> {
    let object = object(arguments.arguments.as_deref())?;
    let server = name::split(&arguments.name).map(|(server, _)| server);
    let answer = runtime::control(private::with_gateway(&arguments.which, server, async |reach: &Reach| {
        let call = call(reach, &arguments.name, &object);
        tokio::time::timeout(arguments.timeout, call).await.map_err(|_| {
            let message = format!("no result within {:?}; whether the call took effect is unknown", arguments.timeout);
            Failure::new(Code::ServerTimeout, message).exit(Exit::Unreachable).hint("`--timeout` allows for more")
        })?
    }))?;
    let raw = match answer {
        Answer::Result(raw) => raw,
        Answer::Error(code, text) => {
            let failure = mcp::refused(code, &text);
            let unknown = failure.exit == Exit::Failed;
            return Err(if unknown { failure.hint(hint(&arguments.name)) } else { failure });
        }
    };
    let said = output::result::read(&raw).map_err(|error| {
        Failure::new(Code::ServerGarbage, "the result is not one of a tool").because(&error).exit(Exit::Unreachable)
    })?;
    if arguments.json {
        output::print(&format!("{raw}\n"))?;
    } else {
        output::print(&said.text)?;
    }
    match said.result_type.as_str() {
        _ if said.is_error => Ok(Exit::ToolError),
        "complete" => Ok(Exit::Ok),
        other => Err(Failure::usage(format!("the tool did not finish: its result is of type `{other}`"))
            .hint("call it from a client that can answer its questions")),
    }
}

fn hint(name: &str) -> String {
    format!("`fairlead explain {name}` says what became of it, `fairlead tools` what there is")
}

async fn call(reach: &Reach, tool: &str, arguments: &str) -> Result<Answer, Failure> {
    let client = mcp::Client::new(reach.clone());
    let method = Method::ToolsCall.as_str();
    let members = [format!(r#""name":{}"#, message::quote(tool)), format!(r#""arguments":{arguments}"#)];
    let answer = client.request(method, &members, Some(tool), Vec::new(), &mut progress).await?;
    if !matches!(answer, Answer::Error(HEADER_MISMATCH, _)) {
        return Ok(answer);
    }
    // Nothing was called: the tool wants some of its arguments in headers, and only its definition says which.
    let tools = client.list(Method::ToolsList.as_str(), "tools").await?;
    let Some(definition) = tools.iter().find(|raw| list::string_member(raw, "name").is_some_and(|name| name == tool))
    else {
        return Ok(answer);
    };
    let headers = mcp::param_headers(definition, arguments)?;
    client.request(method, &members, Some(tool), headers, &mut progress).await
}

/// Shows progress on stderr.
fn progress(notification: &Frame) {
    if notification.method_class() != Method::Progress {
        return;
    }
    let Some(params) = notification.raw(Field::Params) else { return };
    let number = |key| list::raw_member(params, key).unwrap_or_default();
    let total = match number("total") {
        "" => String::new(),
        total => format!("/{total}"),
    };
    let text = list::string_member(params, "message").unwrap_or_default();
    eprintln!("progress: {}{total} {}", number("progress"), output::one_line(&text, 200));
}

/// The arguments as a JSON object, wherever they stand.
pub(crate) fn object(written: Option<&str>) -> Result<String, Failure> {
    let text = match written {
        None => return Ok("{}".to_owned()),
        Some("-") => read("stdin", std::io::stdin().lock())?,
        Some(written) => match written.strip_prefix('@') {
            None => written.to_owned(),
            Some(path) => {
                let file = std::fs::File::open(path)
                    .map_err(|error| Failure::usage(format!("cannot read `{path}`")).because(&error))?;
                read(path, file)?
            }
        },
    };
    let hint = r#"write a JSON object like '{"query": "acme"}', `@FILE`, or `-` for stdin"#;
    let value: &RawValue = serde_json::from_str(&text)
        .map_err(|error| Failure::usage("the arguments are not JSON").because(&error).hint(hint))?;
    if !value.get().starts_with('{') {
        return Err(Failure::usage("the arguments are not a JSON object").hint(hint));
    }
    Ok(value.get().to_owned())
}

fn read(what: &str, from: impl std::io::Read) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(MAX_ARGUMENTS + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("cannot read the arguments from {what}")).because(&error))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_ARGUMENTS {
        return Err(Failure::usage(format!("the arguments are larger than {MAX_ARGUMENTS} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_object_kept_as_written() {
        assert_eq!(object(None).unwrap(), "{}");
        assert_eq!(object(Some(r#" {"a": 1.0, "b":1e2} "#)).unwrap(), r#"{"a": 1.0, "b":1e2}"#);
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("a.json");
        std::fs::write(&file, "{\"x\":true}\n").unwrap();
        assert_eq!(object(Some(&format!("@{}", file.display()))).unwrap(), "{\"x\":true}");
        for wrong in ["[]", "1", "{", "", "@/does/not/exist"] {
            assert_eq!(object(Some(wrong)).unwrap_err().exit, Exit::Failed, "{wrong}");
        }
    }
}
