//! `subscriptions/listen` on endpoints the gateway answers itself: list changes of all its servers,
//! and updates of resources that modern servers own.

use crate::{
    answer::{comment, driven, event},
    body::Body,
    call::Call,
    dispatch::{self, Begun},
    resolve,
    response::{refuse_call, stream},
};
use bytes::Bytes;
use fairlead_core::{Code, Refusal};
use fairlead_upstream::{Exchange, Item, State};
use fairlead_wire::{Era, Field, Frame, Kind, Limits, Method, edit::Edits, list, message};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Response;
use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// How long after the end of a server's stream another one is opened.
const REOPEN: Duration = Duration::from_secs(2);
/// Resources one listener may watch.
const MAX_WATCHED: usize = 1_000;

/// Everybody who listens.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    open: Mutex<HashMap<u64, Listener>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Listener {
    path: Box<str>,
    id: Box<str>,
    wanted: Vec<&'static str>,
    out: mpsc::Sender<Bytes>,
}

impl Listeners {
    /// Tells whoever wants to know on the endpoints `concerns` names.
    pub(crate) fn lists_changed(&self, concerns: &dyn Fn(&str) -> bool, changed: &[&'static str]) {
        let open = self.open.lock().expect("invariant: no panic under this lock");
        for listener in open.values().filter(|listener| concerns(&listener.path)) {
            for method in changed.iter().filter(|method| listener.wanted.contains(method)) {
                let params = format!("{{\"_meta\":{}}}", tag(&listener.id));
                let _ = listener.out.try_send(message::notification(method, Some(&params)));
            }
        }
    }
}

/// Takes the listener out when its stream ends.
struct Entered {
    call: Call,
    key: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.call.gateway.0.listeners.open.lock().expect("invariant: no panic under this lock").remove(&self.key);
    }
}

fn tag(id: &str) -> String {
    format!("{{\"io.modelcontextprotocol/subscriptionId\":{id}}}")
}

/// The graceful end of a listen stream: its result.
pub(crate) fn end(call: &Call) -> Bytes {
    let result = format!("{{\"resultType\":\"complete\",\"_meta\":{}}}", tag(call.id()));
    message::result(call.id(), &result)
}

const LISTS: [(&str, &str); 3] = [
    ("toolsListChanged", "notifications/tools/list_changed"),
    ("promptsListChanged", "notifications/prompts/list_changed"),
    ("resourcesListChanged", "notifications/resources/list_changed"),
];

/// Opens the stream.
pub(crate) fn answer(call: Call) -> Response<Body> {
    let Some(filter) = call.frame.raw(Field::ParamNotifications).filter(|raw| raw.starts_with('{')) else {
        return refuse_call(
            call.era,
            Some(call.id()),
            &Refusal::new(Code::BadParams, "`params.notifications` must be an object"),
        );
    };
    let Some(counted) = call.gateway.open_stream() else {
        let refusal =
            Refusal::new(Code::TooManySessions, "there are as many open streams as `sessions.max_streams` allows");
        return refuse_call(call.era, Some(call.id()), &refusal);
    };
    let lists: Vec<_> = LISTS.iter().filter(|(key, _)| list::raw_member(filter, key) == Some("true")).collect();
    let watched = watched(&call, filter);
    let mut accepted: Vec<String> = lists.iter().map(|(key, _)| format!("\"{key}\":true")).collect();
    if !watched.is_empty() {
        let uris: Vec<_> =
            watched.iter().flat_map(|(_, uris)| uris.iter().map(|(exposed, _)| message::quote(exposed))).collect();
        accepted.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
    }
    let (out, mut said) = mpsc::channel(call.endpoint.config.sessions.stream_queue);
    let listeners = &call.gateway.0.listeners;
    let key = listeners.next.fetch_add(1, Ordering::Relaxed);
    let listener = Listener {
        path: call.endpoint.path.clone(),
        id: call.id().into(),
        wanted: lists.iter().map(|(_, method)| *method).collect(),
        out,
    };
    listeners.open.lock().expect("invariant: no panic under this lock").insert(key, listener);
    let acknowledged = message::notification(
        Method::SubscriptionAcknowledged.as_str(),
        Some(&format!("{{\"notifications\":{{{}}},\"_meta\":{}}}", accepted.join(","), tag(call.id()))),
    );
    let keep_alive = call.endpoint.config.listen.keep_alive;
    let mut drain = call.gateway.drain_begins();
    let (chunks, receiver) = mpsc::channel(8);
    let entered = Entered { call, key };
    let telling = async move {
        let _counted = counted;
        if chunks.send(event(&acknowledged)).await.is_err() {
            return;
        }
        let call = &entered.call;
        let mut servers: FuturesUnordered<BoxFuture<'_, Heard>> =
            watched.iter().map(|(server, uris)| watch(call, *server, uris)).collect();
        loop {
            let chunk = tokio::select! {
                Some(message) = said.recv() => event(&message),
                Some(heard) = servers.next(), if !servers.is_empty() => match heard {
                    Heard::Said { exchange, frame, server } => {
                        servers.push(Box::pin(next(exchange, server)));
                        match tagged(call, &watched, server, &frame) {
                            Some(message) => event(&message),
                            None => continue,
                        }
                    }
                    Heard::Ended { server } => {
                        let again = watched.iter().find(|(other, _)| *other == server);
                        if let Some((server, uris)) = again {
                            servers.push(Box::pin(async {
                                tokio::time::sleep(REOPEN).await;
                                watch(call, *server, uris).await
                            }));
                        }
                        continue;
                    }
                    Heard::Refused => continue,
                },
                () = crate::listener::turned(&mut drain) => {
                    let _ = chunks.send(event(&end(call))).await;
                    return;
                }
                () = tokio::time::sleep(keep_alive) => comment(),
            };
            if chunks.send(chunk).await.is_err() {
                return;
            }
        }
    };
    stream(Body::stream(driven(telling, receiver)))
}

/// Exposed URI and the server's own, of one server.
type Uris = Vec<(String, String)>;

/// The resources the client wants to watch, by modern server.
fn watched(call: &Call, filter: &str) -> Vec<(usize, Uris)> {
    let mut by_server: Vec<(usize, Uris)> = Vec::new();
    let uris = list::items(filter, "resourceSubscriptions").unwrap_or_default();
    for raw in uris.into_iter().take(MAX_WATCHED) {
        let Ok(exposed) = serde_json::from_str::<String>(raw) else { continue };
        let Ok(target) = resolve::resource(call, &exposed) else { continue };
        if target.upstream.handle.peek().era_for(Era::Modern) != Some(Era::Modern) {
            continue;
        }
        let Some(server) =
            call.endpoint.servers.iter().position(|server| server.handle.name() == target.upstream.handle.name())
        else {
            continue;
        };
        let own = target.name.as_deref().unwrap_or(&exposed).to_owned();
        match by_server.iter_mut().find(|(other, _)| *other == server) {
            Some((_, uris)) => uris.push((exposed, own)),
            None => by_server.push((server, vec![(exposed, own)])),
        }
    }
    by_server
}

enum Heard {
    Said {
        exchange: Box<Exchange>,
        frame: Frame,
        server: usize,
    },
    /// The stream is over or could not be opened now.
    Ended {
        server: usize,
    },
    /// The server does not want to be listened to, or is gone for good.
    Refused,
}

/// Opens a listen stream to one server for the resources of this client.
fn watch<'a>(call: &'a Call, server: usize, uris: &'a Uris) -> BoxFuture<'a, Heard> {
    Box::pin(async move {
        let own: Vec<_> = uris.iter().map(|(_, own)| message::quote(own)).collect();
        let meta = call.frame.raw(Field::Meta).unwrap_or("{}");
        let params =
            format!("{{\"notifications\":{{\"resourceSubscriptions\":[{}]}},\"_meta\":{meta}}}", own.join(","));
        let request = message::request(call.id(), Method::Listen.as_str(), Some(&params));
        let Ok(frame) = Frame::parse(request, &Limits::default()) else { return Heard::Refused };
        let target = resolve::Target::plain(&call.endpoint.servers[server]);
        match dispatch::begin_with(call, &target, frame, Instant::now() + call.endpoint.config.catalog.first_wait).await
        {
            Begun::Spoke { exchange, .. } | Begun::Quiet { exchange } => next(exchange, server).await,
            Begun::Answered { answer, .. } if answer.frame.kind() == Kind::Error => Heard::Refused,
            // Its configuration changed or went: the client has to ask again what there is.
            _ if matches!(target.upstream.handle.peek().state, State::Stopped) => Heard::Refused,
            _ => Heard::Ended { server },
        }
    })
}

async fn next(mut exchange: Box<Exchange>, server: usize) -> Heard {
    match exchange.next().await {
        Ok(Item::Message(frame)) => Heard::Said { exchange, frame, server },
        _ => Heard::Ended { server },
    }
}

/// An update under the client's own subscription id and URI.
fn tagged(call: &Call, watched: &[(usize, Uris)], server: usize, frame: &Frame) -> Option<Bytes> {
    if frame.method_class() != Method::ResourceUpdated {
        return None;
    }
    let own = frame.str(Field::Uri)?;
    let (exposed, _) = watched.iter().find(|(other, _)| *other == server)?.1.iter().find(|(_, uri)| *uri == *own)?;
    let mut edits = Edits::new();
    edits.replace(frame.span(Field::Uri)?, message::quote(exposed));
    match frame.span(Field::MetaSubscriptionId) {
        Some(span) => edits.replace(span, Bytes::copy_from_slice(call.id().as_bytes())),
        None => edits.insert_first(frame.span(Field::Params)?, "_meta", &tag(call.id())),
    }
    Some(edits.apply(frame.bytes()))
}
