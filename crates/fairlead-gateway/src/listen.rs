//! listen: from bytes on a connection to a message of a known era on a known endpoint. Everything
//! that can be said without knowing the caller is said here, and nothing is parsed twice.

use crate::{
    body::Body,
    compress,
    correlate::Along,
    duplex::Opened,
    gateway::Gateway,
    identify, origin, pipeline, replay,
    response::{self, empty, json, refuse},
    seen::{Once, Seen},
    snapshot::{Snapshot, Transport},
    sse_door, ws_door,
};
use bytes::{Bytes, BytesMut};
use fairlead_config::AnswerCompression;
use fairlead_core::{Code, Refusal};
use fairlead_upstream::Worker;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use std::{net::IpAddr, time::Duration};

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A network listener, with the address of the other side.
    Public(IpAddr),
    /// The Unix socket in the data directory: its permissions are the check.
    Control,
}

/// What was found out about a request that its answer needs, whatever becomes of it.
#[derive(Default)]
struct Answering {
    /// The header it gets with its id.
    request_id: Option<(HeaderName, HeaderValue)>,
    compression: Option<AnswerCompression>,
}

/// Answers one HTTP request.
pub(crate) async fn serve(gateway: &Gateway, worker: Worker, door: Door, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut answering = Answering::default();
    let mut response = match route(gateway, worker, door, &head, body, &mut answering).await {
        Ok(response) => response,
        Err(refusal) => {
            gateway.metrics().refused(refusal.code);
            refuse(None, &refusal)
        }
    };
    if let Some((name, id)) = answering.request_id {
        response.headers_mut().insert(name, id);
    }
    if let Some(rule) = answering.compression
        && response.body().whole_len() > compress::WORTH_A_LOOK
    {
        response = Box::pin(compress::answer(&gateway.0.compression, response, &head.headers, rule.min_size)).await;
    }
    response::finished(response, head.headers)
}

async fn route(
    gateway: &Gateway,
    worker: Worker,
    door: Door,
    head: &Parts,
    body: Incoming,
    answering: &mut Answering,
) -> Result<Response<Body>, Refusal> {
    let snapshot = gateway.snapshot();
    let mut seen = Seen::of(&head.headers);
    seen.along = Along::of(&head.headers, &seen, &snapshot.config.correlation);
    if let Some(id) = seen.along.as_ref().and_then(|along| along.request_id.clone()) {
        answering.request_id = Some((snapshot.config.correlation.request_id.clone(), id));
    }
    if matches!(door, Door::Public(_)) {
        answering.compression = snapshot.config.listen.compression;
        origin::check(&seen, &head.uri, &snapshot.config.listen)?;
    }
    let path = head.uri.path();
    let Some(endpoint) = snapshot.endpoint(path) else {
        if let Some(health) = path.strip_prefix("/health/") {
            return health_answer(gateway, &head.method, health);
        }
        return Box::pin(other_transport(gateway, worker, door, &snapshot, head, body)).await;
    };
    let caller = identify::caller(&head.headers, door);
    match head.method {
        Method::POST => {
            check_media(&head.headers, &seen)?;
            let listen = &snapshot.config.listen;
            let mut bytes = read_body(body, listen.max_body, listen.body_timeout).await?;
            if let Some(coding) = seen.content_encoding {
                bytes = Box::pin(compress::expand(coding, bytes, listen.max_body)).await?;
            }
            pipeline::post(gateway, worker, endpoint, caller, &head.headers, &seen, bytes).await
        }
        Method::GET => {
            Box::pin(pipeline::get(gateway, worker, endpoint, caller, &head.headers, &seen, replay::Held::Http)).await
        }
        Method::DELETE => Box::pin(pipeline::delete(gateway, endpoint, &caller, &seen)).await,
        _ => Err(Refusal::new(Code::HttpMethod, "MCP uses POST, GET and DELETE")),
    }
}

/// A request that opens or belongs to a connection of another transport than Streamable HTTP.
async fn other_transport(
    gateway: &Gateway,
    worker: Worker,
    door: Door,
    snapshot: &Snapshot,
    head: &Parts,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    let Some((endpoint, transport)) = snapshot.door(head.uri.path()) else {
        return Err(Refusal::new(
            Code::UnknownPath,
            "no such path; MCP is served on /mcp, /mcp/{toolset} and /servers/{server}/mcp",
        ));
    };
    let caller = identify::caller(&head.headers, door);
    let opened =
        |caller| Opened { gateway: gateway.clone(), worker, path: endpoint.path.clone(), caller, counted: false };
    match (transport, head.method.clone()) {
        (Transport::Sse, Method::GET) => sse_door::open(opened(caller), &head.headers),
        (Transport::SsePost, Method::POST) => {
            let found = sse_door::find(gateway, endpoint, &caller, &head.uri)?;
            check_json(&Seen::of(&head.headers))?;
            let listen = &snapshot.config.listen;
            let mut bytes = read_body(body, listen.max_body, listen.body_timeout).await?;
            if let Some(coding) = head.headers.get(header::CONTENT_ENCODING) {
                bytes = compress::expand(coding, bytes, listen.max_body).await?;
            }
            found.take(&bytes).await
        }
        // What comes over the Unix socket is carried by HTTP alone.
        (Transport::WebSocket, _) if matches!(door, Door::Public(_)) => ws_door::handshake(opened(caller), head),
        (Transport::WebSocket, _) => Err(Refusal::new(Code::UnknownPath, "there is no WebSocket on this socket")),
        _ => Err(Refusal::new(Code::HttpMethod, "HTTP+SSE is a GET of its stream and POSTs to where that says")),
    }
}

fn health_answer(gateway: &Gateway, method: &Method, which: &str) -> Result<Response<Body>, Refusal> {
    if *method != Method::GET && *method != Method::HEAD {
        return Err(Refusal::new(Code::HttpMethod, "health is asked with GET"));
    }
    let well = match which {
        "live" => true,
        "ready" => gateway.is_ready(),
        "startup" => gateway.has_started(),
        _ => return Err(Refusal::new(Code::UnknownPath, "health is /health/live, /health/ready and /health/startup")),
    };
    let (status, text) = if well {
        (StatusCode::OK, "{\"status\":\"ok\"}")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"not ready\"}")
    };
    Ok(json(status, text))
}

/// POST carries JSON and takes JSON or an event stream.
fn check_media(headers: &HeaderMap, seen: &Seen<'_>) -> Result<(), Refusal> {
    // What nearly every client sends, to the letter.
    if let (Some(sent), Once::Present(taken)) = (seen.content_type, seen.accept)
        && sent == "application/json"
        && taken == "application/json, text/event-stream"
    {
        return Ok(());
    }
    check_json(seen)?;
    let (mut any, mut json, mut events) = (false, false, false);
    for value in headers.get_all(header::ACCEPT) {
        any = true;
        for part in value.to_str().unwrap_or_default().split(',') {
            let part = media_type(part);
            let is = |name: &str| part.eq_ignore_ascii_case(name);
            json |= is("application/json") || is("*/*") || is("application/*");
            events |= is("text/event-stream") || is("*/*") || is("text/*");
        }
    }
    if any && !(json && events) {
        return Err(Refusal::new(Code::MediaType, "`Accept` must list application/json and text/event-stream"));
    }
    Ok(())
}

/// What is posted is JSON.
fn check_json(seen: &Seen<'_>) -> Result<(), Refusal> {
    let is_json = seen
        .content_type
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| media_type(value).eq_ignore_ascii_case("application/json"));
    if is_json { Ok(()) } else { Err(Refusal::new(Code::MediaType, "`Content-Type` must be application/json")) }
}

fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

/// Whether a GET asks for an event stream.
pub(crate) fn accepts_events(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value.to_str().unwrap_or_default().split(',').any(|part| {
            matches!(media_type(part).to_ascii_lowercase().as_str(), "text/event-stream" | "*/*" | "text/*")
        })
    })
}

async fn read_body(mut body: Incoming, limit: usize, within: Duration) -> Result<Bytes, Refusal> {
    let too_large =
        || Refusal::new(Code::BodyTooLarge, format!("the body is larger than {limit} bytes (`listen.max_body`)"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let data =
                frame.map_err(|_| Refusal::new(Code::NotJson, "the body broke off"))?.into_data().unwrap_or_default();
            let so_far = rest.len() + first.as_ref().map_or(0, Bytes::len);
            if so_far + data.len() > limit {
                return Err(too_large());
            }
            // One chunk, the usual case, is used as it is.
            match first.take() {
                None if rest.is_empty() => first = Some(data),
                None => rest.extend_from_slice(&data),
                Some(earlier) => {
                    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(0);
                    rest.reserve(so_far + data.len() + announced.min(limit));
                    rest.extend_from_slice(&earlier);
                    rest.extend_from_slice(&data);
                }
            }
        }
        Ok(first.unwrap_or_else(|| rest.freeze()))
    };
    tokio::select! {
        biased;
        read = read => read,
        // A timer is only made for a body that is not there yet.
        () = async { tokio::time::sleep(within).await } => {
            Err(Refusal::new(Code::BodyTooSlow, "the body did not arrive in time (`listen.body_timeout`)"))
        }
    }
}

/// The answer to an accepted notification or answer.
pub(crate) fn accepted() -> Response<Body> {
    empty(StatusCode::ACCEPTED)
}
