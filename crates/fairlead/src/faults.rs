//! Faults that are injected on purpose: `fairlead faults`, what answers it on the control socket, and `/faults` of the
//! admin listener.

use crate::{
    cli::{self, FaultsAction},
    control::{self, Answer, PREFIX},
    failure::{Exit, Failure},
    listing, output, private,
    reach::Reach,
    runtime,
};
use bytes::Bytes;
use fairlead_config::FaultFile;
use fairlead_core::Code;
use fairlead_gateway::{FaultError, FaultReading, Gateway};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

/// Largest description of a fault, in bytes.
const MAX_FAULT: usize = 16 << 10;
/// The path of the admin listener.
pub(crate) const ADMIN_PATH: &str = "/faults";

/// One fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FaultRow {
    pub(crate) name: String,
    /// Which calls are hit, and what happens to them.
    pub(crate) does: String,
    /// Whether the configuration has it.
    pub(crate) configured: bool,
    /// Milliseconds until it ends.
    pub(crate) ends_in_ms: Option<u64>,
    /// Calls it hit.
    pub(crate) hits: u64,
}

/// The faults of a gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FaultsRow {
    /// Whether the configuration allows for any.
    pub(crate) enabled: bool,
    pub(crate) faults: Vec<FaultRow>,
}

/// What setting one came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SetRow {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) fault: Option<FaultRow>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) problem: Option<String>,
}

/// What clearing came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClearedRow {
    pub(crate) cleared: usize,
}

impl From<&FaultReading> for FaultRow {
    fn from(reading: &FaultReading) -> Self {
        Self {
            name: reading.rule.name.to_string(),
            does: reading.rule.to_string(),
            configured: reading.is_configured,
            ends_in_ms: reading.ends_in.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            hits: reading.hits,
        }
    }
}

fn row(gateway: &Gateway) -> FaultsRow {
    FaultsRow { enabled: gateway.injects_faults(), faults: gateway.faults().iter().map(FaultRow::from).collect() }
}

fn set(gateway: &Gateway, json: &[u8]) -> Result<FaultRow, FaultError> {
    if !gateway.injects_faults() {
        return Err(FaultError::Disabled);
    }
    let file: FaultFile = serde_json::from_slice(json).map_err(|error| FaultError::Bad(error.to_string()))?;
    gateway.set_fault(file).map(|reading| (&reading).into())
}

/// Answers on the control socket; `None` where the path is none of faults.
pub(crate) fn control(gateway: &Gateway, method: &Method, path: &str, query: Option<&str>) -> Option<Response<Answer>> {
    let said = |name| control::parameter(query, name);
    Some(match (method, path) {
        (&Method::GET, "faults") => control::json(&row(gateway)),
        (&Method::POST, "faults/set") => {
            let outcome = set(gateway, said("fault").unwrap_or_default().as_bytes());
            let (fault, problem) = match outcome {
                Ok(fault) => (Some(fault), None),
                Err(error) => (None, Some(error.to_string())),
            };
            control::json(&SetRow { fault, problem })
        }
        (&Method::POST, "faults/clear") => {
            control::json(&ClearedRow { cleared: gateway.clear_faults(said("name").as_deref()) })
        }
        _ => return None,
    })
}

/// Answers on the admin listener, which is not authenticated: what changes something is only taken on loopback, and from
/// no web page (one cannot send JSON to another origin without asking first, and names its own).
pub(crate) async fn admin(
    gateway: &Gateway,
    is_loopback: bool,
    request: Request<Incoming>,
) -> (StatusCode, serde_json::Value) {
    let problem = |status: StatusCode, text: String| (status, serde_json::json!({ "problem": text }));
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::OK, serde_json::json!(row(gateway)));
    }
    if !is_loopback || request.headers().contains_key(header::ORIGIN) {
        let code = Code::ForeignOrigin.label();
        let text =
            format!("faults are changed over loopback and by no web page ({code}); `fairlead faults` does it too");
        return problem(StatusCode::FORBIDDEN, text);
    }
    let name = request.uri().path().strip_prefix(ADMIN_PATH).and_then(|rest| rest.strip_prefix('/'));
    match (request.method(), name) {
        (&Method::DELETE, name) => {
            let name = name.map(str::to_owned);
            (StatusCode::OK, serde_json::json!(ClearedRow { cleared: gateway.clear_faults(name.as_deref()) }))
        }
        (&Method::POST, None) => {
            let kind = request.headers().get(header::CONTENT_TYPE);
            if kind.is_none_or(|kind| !kind.as_bytes().starts_with(b"application/json")) {
                return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send `Content-Type: application/json`".to_owned());
            }
            let Ok(body) = Limited::new(request.into_body(), MAX_FAULT).collect().await else {
                return problem(StatusCode::PAYLOAD_TOO_LARGE, format!("a fault has at most {MAX_FAULT} bytes"));
            };
            match set(gateway, &body.to_bytes()) {
                Ok(fault) => (StatusCode::CREATED, serde_json::json!(SetRow { fault: Some(fault), problem: None })),
                Err(error @ FaultError::Disabled) => problem(StatusCode::FORBIDDEN, error.to_string()),
                Err(error) => problem(StatusCode::BAD_REQUEST, error.to_string()),
            }
        }
        _ => problem(StatusCode::METHOD_NOT_ALLOWED, "GET, POST and DELETE are served here".to_owned()),
    }
}

/// The answer of the admin listener.
pub(crate) fn answer((status, value): (StatusCode, serde_json::Value)) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{value:#}\n"))));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// `fairlead faults`.
pub(crate) fn run(arguments: &cli::Faults) -> Result<Exit, Failure> {
    match &arguments.action {
        None => list(&arguments.listing),
        Some(FaultsAction::Set(action)) => inject(action),
        Some(FaultsAction::Clear(action)) => clear(action),
    }
}

fn list(arguments: &cli::Listing) -> Result<Exit, Failure> {
    let path = format!("{PREFIX}faults");
    let row = runtime::control(private::with_running(&arguments.which, async |reach: &Reach| {
        listing::local(reach, "faults")?;
        reach.control::<FaultsRow>(&path, listing::ANSWER).await
    }))?;
    if arguments.json {
        return output::json(&row);
    }
    if !row.enabled {
        eprintln!("note: {}", FaultError::Disabled);
    }
    output::print(&output::table::faults(&row.faults))
}

fn inject(arguments: &cli::SetFault) -> Result<Exit, Failure> {
    let fault = written(arguments);
    let path = format!("{PREFIX}faults/set?fault={}", control::percent(&fault.to_string()));
    let row = runtime::control(private::with_running(&arguments.listing.which, async |reach: &Reach| {
        listing::local(reach, "faults")?;
        reach.order::<SetRow>(&path, listing::ANSWER).await
    }))?;
    let Some(fault) = row.fault else {
        return Err(Failure::usage(row.problem.unwrap_or_else(|| "the fault was not set".to_owned())));
    };
    if arguments.listing.json {
        return output::json(&fault);
    }
    output::print(&output::table::faults(&[fault]))
}

/// What was written on the command line, as the configuration would have it.
fn written(arguments: &cli::SetFault) -> serde_json::Value {
    let texts = [
        ("name", &arguments.name),
        ("server", &arguments.server),
        ("instance", &arguments.instance),
        ("tool", &arguments.tool),
        ("caller", &arguments.caller),
        ("path", &arguments.path),
        ("for", &arguments.lasts),
        ("latency", &arguments.latency),
        ("slow_request", &arguments.slow_request),
        ("slow_answer", &arguments.slow_answer),
        ("error", &arguments.error),
        ("disconnect", &arguments.disconnect),
    ];
    let numbers = [("percent", arguments.percent.map(u64::from)), ("seed", arguments.seed)];
    let mut fault = serde_json::Map::new();
    fault.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text.as_deref()?.into()))));
    fault.extend(numbers.into_iter().filter_map(|(key, number)| Some((key.to_owned(), number?.into()))));
    if arguments.garbage {
        fault.insert("garbage".to_owned(), true.into());
    }
    serde_json::Value::Object(fault)
}

fn clear(arguments: &cli::ClearFaults) -> Result<Exit, Failure> {
    let name = arguments.name.as_deref();
    let path = format!(
        "{PREFIX}faults/clear{}",
        name.map(|name| format!("?name={}", control::percent(name))).unwrap_or_default()
    );
    let row = runtime::control(private::with_running(&arguments.listing.which, async |reach: &Reach| {
        listing::local(reach, "faults")?;
        reach.order::<ClearedRow>(&path, listing::ANSWER).await
    }))?;
    if let (Some(name), 0) = (name, row.cleared) {
        return Err(Failure::usage(format!("there is no fault `{}`", output::one_line(name, 64)))
            .hint("`fairlead faults` shows those there are"));
    }
    if arguments.listing.json {
        return output::json(&row);
    }
    output::print(&format!("{} cleared\n", output::count(row.cleared, "fault")))
}
