//! The bundled servers: the configuration used when there is none, and `fairlead demo-server`.

use crate::{
    cli,
    configuration::environment,
    failure::{Exit, Failure},
    runtime,
};
use fairlead_config::{Config, Problem, Problems};
use fairlead_core::Code;
use std::path::Path;

/// The configuration of a gateway without one: the bundled servers as children of this program, everything durable
/// in the state directory of the user.
///
/// # Errors
/// When the program cannot find itself.
pub(crate) fn config() -> Result<Config, Problems> {
    let program = std::env::current_exe()
        .map_err(|error| Problem::error(format!("cannot find this program to start the bundled servers: {error}")))?;
    let data_dir = fairlead_config::default_data_dir(&environment);
    let servers: serde_json::Map<_, _> = fairlead_demo::NAMES
        .iter()
        .map(|name| {
            let server = serde_json::json!({ "command": literal(&program), "args": ["demo-server", name] });
            ((*name).to_owned(), server)
        })
        .collect();
    let file = serde_json::json!({ "data_dir": literal(&data_dir), "servers": servers });
    fairlead_config::parse_str("demo.json", &file.to_string(), Path::new("."), &environment)
}

/// A path as a literal of the configuration.
fn literal(path: &Path) -> String {
    path.to_string_lossy().replace("${", "$${")
}

/// `fairlead demo-server`.
pub(crate) fn serve(arguments: &cli::DemoServer) -> Result<Exit, Failure> {
    if !fairlead_demo::NAMES.contains(&arguments.name.as_str()) {
        return Err(Failure::usage(format!("there is no bundled server `{}`", arguments.name))
            .hint(format!("the bundled servers are {}", fairlead_demo::NAMES.join(" and "))));
    }
    if let Some(address) = arguments.http
        && !address.ip().is_loopback()
    {
        return Err(Failure::usage(format!("{address} is not a loopback address"))
            .hint("the bundled servers are for demonstrations and tests; use 127.0.0.1"));
    }
    runtime::control(async {
        let served = match arguments.http {
            None => fairlead_demo::serve_stdio(&arguments.name).await,
            Some(address) => {
                let name = &arguments.name;
                fairlead_demo::serve_http(name, address, |bound| {
                    eprintln!("demo server `{name}` listens on http://{bound}/mcp");
                })
                .await
            }
        };
        served.map_err(|error| {
            let code = if arguments.http.is_some() { Code::CannotListen } else { Code::Internal };
            Failure::new(code, format!("the demo server `{}` stopped", arguments.name)).because(error.as_ref())
        })?;
        Ok(Exit::Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_configuration_is_valid() {
        let config = config().expect("valid");
        assert_eq!(config.servers.len(), fairlead_demo::NAMES.len());
        assert!(config.warnings.is_empty());
        assert_eq!(literal(Path::new("/a/${HOME}/b")), "/a/$${HOME}/b");
    }
}
