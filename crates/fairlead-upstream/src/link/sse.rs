//! The HTTP+SSE transport of 2024-11-05: one GET stream on which everything the server says arrives,
//! and a URL, named by the stream's first event, to which every message of ours is POSTed.
//!
//! The URL must be of the same origin as the configured one: the gateway's headers (credentials) go to
//! it, and what a server says must not make the gateway send them, or anything, elsewhere.
//!
//! The stream *is* the connection: when it ends the session is over. Messages are POSTed side by side,
//! as a server may answer a POST only when it is done with it. What has no answer (`initialized`, a
//! cancellation) is not overtaken by what comes after it.

use super::{
    connection::{ConnectionWire, Ended},
    duplex::{Outgoing, Sorter},
    http::{JSON, MAX_ERROR_BODY, REST_TIME, SSE, collect, is_sse, transport_error},
    inbound::Inbound,
    sse_endpoint::{self, EndpointError},
};
use crate::{
    event::End,
    http_client::{Body, HttpClients, PoolError, Worker},
};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::sse::{SseError, SseEvent, SseLimits, SseParser};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, Request, StatusCode, Uri, header as h};
use http_body_util::{BodyExt, Full};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

/// How long a server may take to name the URL for messages.
const ENDPOINT_WAIT: Duration = Duration::from_secs(5);
/// POSTs under way at the same time; more wait in the queue.
const MAX_POSTS: usize = 64;
/// How long what comes after a message without an answer waits for it to be taken.
const ORDER_WAIT: Duration = Duration::from_secs(1);
/// How long a server may take to answer a POST whose answer says nothing. That of a request it may answer when it is done
/// with it: as long as somebody waits for that, it has time.
const POST_TIME: Duration = Duration::from_secs(60);

/// What a server that was tried turned out not to be.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It does not speak HTTP+SSE at its URL.
    NotSpoken(UpstreamError),
    /// It does, or could not be asked, and something else is wrong.
    Failed(UpstreamError),
}

impl From<Refused> for UpstreamError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotSpoken(error) | Refused::Failed(error) => error,
        }
    }
}

/// Opens the stream of the server at `url` and learns where messages go.
pub(crate) async fn connect(
    clients: &HttpClients,
    url: &Uri,
    headers: &HeaderMap,
    deadline: Instant,
    inbound: Arc<Inbound>,
    max_message: usize,
) -> Result<ConnectionWire, Refused> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = clients.address().clone();
    request.headers_mut().clone_from(headers);
    request.headers_mut().insert(h::ACCEPT, SSE);
    let until = deadline.min(Instant::now() + ENDPOINT_WAIT);
    let answered = timeout_at(until, clients.listening(Worker::CONTROL).request(request)).await;
    let response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let error = transport_error(error);
            // Nothing of a call has been sent.
            return Err(Refused::Failed(UpstreamError { outcome: Outcome::NotMade, ..error }));
        }
        Err(_) => return Err(not_spoken("it does not answer a GET in time".to_owned())),
    };
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        let what = format!("it refuses the gateway's credentials (HTTP {})", status.as_u16());
        return Err(Refused::Failed(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, what)));
    }
    if status.is_server_error() {
        let what = format!("it answered with HTTP {}", status.as_u16());
        return Err(Refused::Failed(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, what)));
    }
    if !status.is_success() || !is_sse(&response) {
        let what = format!("it answers a GET with HTTP {} and no event stream", status.as_u16());
        return Err(not_spoken(what));
    }
    let mut stream =
        EventStream { body: response.into_body(), parser: SseParser::new(SseLimits { max_event: max_message }) };
    let endpoint = match timeout_at(until, first_endpoint(&mut stream)).await {
        Ok(Some(endpoint)) => endpoint,
        Ok(None) => return Err(not_spoken("its event stream ended before it named an `endpoint`".to_owned())),
        Err(_) => return Err(not_spoken("its event stream names no `endpoint`".to_owned())),
    };
    let path = sse_endpoint::resolve(url, &endpoint).map_err(|error| {
        let what = match error {
            EndpointError::Foreign => "the `endpoint` it names is of another origin than its URL, and is not used",
            EndpointError::Malformed => "the `endpoint` it names is not a URL",
        };
        Refused::Failed(UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::NotMade, what))
    })?;
    let mut headers = headers.clone();
    headers.insert(h::CONTENT_TYPE, JSON);
    let poster = Poster { clients: clients.clone(), address: clients.at(path), headers };
    Ok(ConnectionWire::start(inbound, |sorter, to_send| carry(stream, poster, sorter, to_send)))
}

fn not_spoken(what: String) -> Refused {
    let what = format!("it does not speak HTTP+SSE: {what}");
    Refused::NotSpoken(UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::NotMade, what))
}

/// The server's stream, event by event.
struct EventStream {
    body: Body,
    parser: SseParser,
}

impl EventStream {
    /// `None` when the stream has ended.
    async fn next(&mut self) -> Result<Option<SseEvent>, Broken> {
        loop {
            match self.parser.next() {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(SseError::TooLarge { .. }) => return Err(Broken::TooLarge),
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.parser.push(data);
                    }
                }
                Some(Err(_)) => return Err(Broken::Connection),
                None => return Ok(None),
            }
        }
    }
}

enum Broken {
    TooLarge,
    Connection,
}

/// Comments and events of other kinds before it are tolerated.
async fn first_endpoint(stream: &mut EventStream) -> Option<String> {
    while let Ok(Some(event)) = stream.next().await {
        if event.event.as_deref() == Some("endpoint") {
            return Some(String::from_utf8_lossy(&event.data).into_owned());
        }
    }
    None
}

/// Sends messages.
struct Poster {
    clients: HttpClients,
    address: Uri,
    headers: HeaderMap,
}

/// What became of a POST.
struct Posted {
    call: Option<u64>,
    failure: Option<(UpstreamError, Seriousness)>,
}

/// What a failed POST says of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seriousness {
    /// Nothing: the next may be taken.
    Once,
    /// The server may be gone.
    Suspect,
    /// The session is over.
    Over,
}

type Posting = Pin<Box<dyn Future<Output = Posted> + Send>>;

impl Poster {
    fn post(&self, outgoing: Outgoing, sorter: &Arc<Sorter>) -> Posting {
        let mut request = Request::new(Full::new(outgoing.bytes));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.address.clone();
        request.headers_mut().clone_from(&self.headers);
        // An answer to the server, and what else is not waited for, does not queue behind calls for a connection.
        let pool = match outgoing.call {
            Some(_) => self.clients.of(Worker::CONTROL),
            None => self.clients.listening(Worker::CONTROL),
        };
        let mut answering = pool.request(request);
        let (call, sorter) = (outgoing.call, Arc::clone(sorter));
        Box::pin(async move {
            let is_wanted = || call.is_some_and(|call| sorter.is_waiting(call));
            let failure = match patiently(&mut answering, is_wanted).await {
                Some(Ok(response)) => {
                    let status = response.status();
                    // Read to the end so that the connection can be used again.
                    let _ = timeout(REST_TIME, collect(response.into_body(), MAX_ERROR_BODY)).await;
                    refusal(status)
                }
                // That all connections are in use says nothing of the server.
                Some(Err(error @ PoolError::AcquireTimeout(_))) => Some((transport_error(error), Seriousness::Once)),
                Some(Err(error)) => Some((transport_error(error), Seriousness::Suspect)),
                // Its answer came on the stream, or nobody waits for it any more.
                None if call.is_some() => None,
                None => {
                    let what = "the server does not take messages";
                    let error = UpstreamError::new(UpstreamErrorKind::Timeout, Outcome::Unknown, what);
                    Some((error, Seriousness::Suspect))
                }
            };
            Posted { call, failure }
        })
    }
}

/// Waits for [`POST_TIME`], and on as long as it is wanted.
async fn patiently<T>(mut answering: impl Future<Output = T> + Unpin, is_wanted: impl Fn() -> bool) -> Option<T> {
    loop {
        match timeout(POST_TIME, &mut answering).await {
            Ok(answer) => return Some(answer),
            Err(_) if is_wanted() => {}
            Err(_) => return None,
        }
    }
}

fn refusal(status: StatusCode) -> Option<(UpstreamError, Seriousness)> {
    let error = |kind, outcome, what: String| Some(UpstreamError::new(kind, outcome, what));
    let number = status.as_u16();
    let (error, seriousness) = match status {
        status if status.is_success() => (None, Seriousness::Once),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            let what = "it forgot the session".to_owned();
            (error(UpstreamErrorKind::SessionLost, Outcome::NotMade, what), Seriousness::Over)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let what = format!("it refuses the gateway's credentials (HTTP {number})");
            (error(UpstreamErrorKind::Unavailable, Outcome::NotMade, what), Seriousness::Once)
        }
        status if status.is_server_error() => {
            let what = format!("it answered with HTTP {number}");
            (error(UpstreamErrorKind::Unavailable, Outcome::Unknown, what), Seriousness::Suspect)
        }
        _ => {
            let what = format!("it answered with HTTP {number}");
            (error(UpstreamErrorKind::Garbage, Outcome::Unknown, what), Seriousness::Once)
        }
    };
    error.map(|error| (error, seriousness))
}

/// Carries messages: in by the stream, out by POSTs.
async fn carry(
    mut stream: EventStream,
    poster: Poster,
    sorter: Arc<Sorter>,
    mut to_send: mpsc::Receiver<Outgoing>,
) -> Ended {
    let writing = async {
        let mut posts = FuturesUnordered::new();
        loop {
            tokio::select! {
                outgoing = to_send.recv(), if posts.len() < MAX_POSTS => match outgoing {
                    Some(outgoing) if !outgoing.is_end() => {
                        let ordered = outgoing.call.is_none();
                        let mut post = poster.post(outgoing, &sorter);
                        if !ordered {
                            posts.push(post);
                            continue;
                        }
                        // Only this one is waited for: the others may take as long as their calls.
                        match timeout(ORDER_WAIT, &mut post).await {
                            Ok(posted) => {
                                if let Some(ended) = settle(&sorter, posted) {
                                    return ended;
                                }
                            }
                            Err(_) => posts.push(post),
                        }
                    }
                    _ => {
                        while let Some(posted) = posts.next().await {
                            drop(posted);
                        }
                        return Ended::died("the gateway closed the connection");
                    }
                },
                Some(posted) = posts.next(), if !posts.is_empty() => {
                    if let Some(ended) = settle(&sorter, posted) {
                        return ended;
                    }
                }
            }
        }
    };
    let reading = async {
        loop {
            sorter.rest().await;
            match stream.next().await {
                Ok(Some(event)) => {
                    let is_message = event.event.as_deref().is_none_or(|name| name == "message");
                    if is_message && !event.data.is_empty() {
                        sorter.take(event.data);
                    }
                }
                Ok(None) => return Ended::died("the server ended its event stream"),
                Err(Broken::Connection) => return Ended::died("the server's event stream broke"),
                Err(Broken::TooLarge) => {
                    let what = "a message of the server is larger than `max_message`";
                    sorter.fail_all(UpstreamErrorKind::TooLarge, what);
                    return Ended::died("it sent a message that is larger than `max_message`");
                }
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

/// Notes how a POST ended; the end of the connection when it was that.
fn settle(sorter: &Sorter, posted: Posted) -> Option<Ended> {
    let (error, seriousness) = posted.failure?;
    tracing::debug!(server = %sorter.inbound().server, "the server did not take a message: {error}");
    if let Some(call) = posted.call {
        sorter.fail(call, error);
    }
    match seriousness {
        Seriousness::Once => None,
        Seriousness::Suspect => {
            sorter.suspect();
            None
        }
        Seriousness::Over => Some(Ended { reason: "the server forgot the session".to_owned(), end: End::Forgotten }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn a_call_has_more_time_than_a_post_that_says_nothing() {
        let late = || Box::pin(tokio::time::sleep(10 * POST_TIME));
        assert!(patiently(late(), || true).await.is_some());
        assert!(patiently(late(), || false).await.is_none());
        // Answered on the stream meanwhile.
        let looks = Cell::new(0);
        let is_wanted = || {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        assert!(patiently(late(), is_wanted).await.is_none());
        assert_eq!(looks.get(), 3);
    }
}
