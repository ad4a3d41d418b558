//! `subscriptions/listen` on endpoints the gateway answers itself: list changes of all its servers,
//! and updates of resources, whichever era their servers speak.

use crate::{
    answer::{comment, driven, event},
    body::Body,
    call::Call,
    list_page, resolve,
    response::{refuse_call, stream},
    tasks,
    watching::{self, Hearer, Held, Outlet, tag},
};
use bytes::Bytes;
use fairlead_core::{Code, Refusal};
use fairlead_upstream::WatchError;
use fairlead_wire::{Field, Method, list, message};
use futures_util::future::{BoxFuture, join_all};
use http::Response;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// How often what a listener watches and a server was not told of is tried again: first, and at most, since a resource
/// may have left the lists for good.
const MEND: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
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
    wanted: Vec<&'static str>,
    outlet: Arc<Outlet>,
}

impl Listeners {
    /// Tells whoever wants to know on the endpoints `concerns` names.
    pub(crate) fn lists_changed(&self, concerns: &mut dyn FnMut(&str) -> bool, changed: &[&'static str]) {
        let open = self.open.lock().expect("invariant: no panic under this lock");
        for listener in open.values().filter(|listener| concerns(&listener.path)) {
            for method in changed.iter().filter(|method| listener.wanted.contains(method)) {
                listener.outlet.say(list_changed(method, &listener.outlet.id));
            }
        }
    }
}

/// Takes the listener out when its stream ends.
struct Entered {
    call: Arc<Call>,
    key: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.call.gateway.0.listeners.open.lock().expect("invariant: no panic under this lock").remove(&self.key);
    }
}

fn list_changed(method: &str, id: &str) -> Bytes {
    message::notification(method, Some(&format!("{{\"_meta\":{}}}", tag(id))))
}

fn resource_updated(exposed: &str, id: &str) -> Bytes {
    let params = format!("{{\"uri\":{},\"_meta\":{}}}", message::quote(exposed), tag(id));
    message::notification(Method::ResourceUpdated.as_str(), Some(&params))
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
    if tasks::listens(&call) && !call.capabilities.has_task_extension() {
        return tasks::needs_extension(&call, "taskIds");
    }
    let lists: Vec<_> =
        LISTS.iter().filter(|(key, _)| list::raw_member(filter, key) == Some("true")).copied().collect();
    let resources = resources(filter);
    let followed = tasks::followed(&call, filter);
    let call = Arc::new(call);
    let (out, said) = mpsc::channel(call.endpoint.config.sessions.stream_queue);
    let outlet = Arc::new(Outlet::new(call.id(), out));
    let listeners = &call.gateway.0.listeners;
    let key = listeners.next.fetch_add(1, Ordering::Relaxed);
    let wanted = lists.iter().map(|(_, method)| *method).collect();
    let listener = Listener { path: call.endpoint.path.clone(), wanted, outlet: Arc::clone(&outlet) };
    listeners.open.lock().expect("invariant: no panic under this lock").insert(key, listener);
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let mut listening = Listening {
        entered: Entered { call: Arc::clone(&call), key },
        outlet: Arc::clone(&outlet),
        lists,
        resources,
        tasks: followed.iter().map(|task| task.id.clone()).collect(),
        held: HashMap::new(),
        said,
        chunks,
    };
    let telling = async move {
        let _counted = counted;
        // A client that does not read any more ends it.
        tokio::select! {
            _ = listening.run() => {}
            () = tasks::follow(&call, &followed, &outlet) => {}
        }
    };
    stream(Body::stream(driven(telling, receiver)))
}

/// Messages between a listener and its connection.
const CHUNKS: usize = 8;

/// The resources a filter names, each once.
fn resources(filter: &str) -> Vec<Box<str>> {
    let mut known = HashSet::new();
    let named = list::items(filter, "resourceSubscriptions").unwrap_or_default();
    named
        .into_iter()
        .filter_map(|raw| serde_json::from_str::<Box<str>>(raw).ok())
        .filter(|uri| known.insert(uri.clone()))
        .take(MAX_WATCHED)
        .collect()
}

/// An open listen stream.
struct Listening {
    entered: Entered,
    outlet: Arc<Outlet>,
    /// Member of the filter and notification of the lists it hears of.
    lists: Vec<(&'static str, &'static str)>,
    /// The resources it wants to watch; once it was acknowledged, those it does watch.
    resources: Vec<Box<str>>,
    /// The tasks it hears of.
    tasks: Vec<Box<str>>,
    held: HashMap<Box<str>, Held>,
    said: mpsc::Receiver<Bytes>,
    chunks: mpsc::Sender<Bytes>,
}

/// The connection is gone.
struct Gone;

/// What servers said to the resources that they were asked for.
type Asked = Vec<(Box<str>, Result<Held, WatchError>)>;

async fn pending(asking: &mut Option<BoxFuture<'static, Asked>>) -> Asked {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

impl Listening {
    async fn run(&mut self) -> Result<(), Gone> {
        let first_wait = self.entered.call.endpoint.config.catalog.first_wait;
        let asked = self.ask(first_wait).await;
        // What no server promised within the time is not acknowledged, and not tried again either.
        self.take(asked);
        self.resources.retain(|exposed| self.held.contains_key(exposed));
        self.say(&self.acknowledgement()).await?;
        let keep_alive = self.entered.call.endpoint.config.listen.keep_alive;
        let mut drain = self.entered.call.gateway.drain_begins();
        let mut mend_at: Option<Instant> = None;
        let mut wait = MEND.0;
        let mut asking: Option<BoxFuture<'static, Asked>> = None;
        let outlet = Arc::clone(&self.outlet);
        loop {
            let mend = async {
                match mend_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(message) = self.said.recv() => {
                    outlet.taken(&message);
                    self.say(&message).await?;
                    if self.said.is_empty() && outlet.take_lagged() {
                        self.say_everything().await?;
                    }
                }
                () = outlet.lost.notified() => {
                    let call = &self.entered.call;
                    if !self.held.values().any(|held| held.is_lost(&call.gateway)) {
                        continue;
                    }
                    let snapshot = call.gateway.snapshot();
                    if !snapshot.endpoint(&call.endpoint.path).is_some_and(|now| Arc::ptr_eq(now, &call.endpoint)) {
                        // It began on another configuration; what there is now it hears of when it asks again.
                        return self.say(&end(call)).await;
                    }
                    self.held.retain(|_, held| !held.is_lost(&call.gateway));
                    (mend_at, wait) = (Some(Instant::now()), MEND.0);
                }
                () = mend, if asking.is_none() => {
                    mend_at = None;
                    asking = Some(self.ask(first_wait));
                }
                asked = pending(&mut asking), if asking.is_some() => {
                    asking = None;
                    if self.take(asked) {
                        // What was acknowledged is not so any more, which only a stream that ends can tell.
                        return self.say(&end(&self.entered.call)).await;
                    }
                    if self.held.len() < self.resources.len() && mend_at.is_none() {
                        mend_at = Some(Instant::now() + wait);
                        wait = (wait * 2).min(MEND.1);
                    }
                }
                () = crate::listener::turned(&mut drain) => return self.say(&end(&self.entered.call)).await,
                () = tokio::time::sleep(keep_alive) => self.send(comment()).await?,
            }
        }
    }

    async fn say(&self, message: &[u8]) -> Result<(), Gone> {
        self.send(event(message)).await
    }

    async fn send(&self, chunk: Bytes) -> Result<(), Gone> {
        self.chunks.send(chunk).await.map_err(|_| Gone)
    }

    /// Asks for what is wanted and not held, and borrows nothing: meanwhile the listener is told what there is.
    fn ask(&self, wait: Duration) -> BoxFuture<'static, Asked> {
        let (call, outlet) = (Arc::clone(&self.entered.call), Arc::clone(&self.outlet));
        let missing: Vec<_> =
            self.resources.iter().filter(|exposed| !self.held.contains_key(*exposed)).cloned().collect();
        Box::pin(async move {
            let (call, outlet) = (&call, &outlet);
            if missing.iter().any(|exposed| resolve::resource(call, exposed).is_err()) {
                // Clients that know their URIs from earlier listen without listing first.
                Box::pin(list_page::learn_what_is_new(call)).await;
            }
            let until = Instant::now() + wait;
            let asked = join_all(missing.into_iter().map(|exposed| async move {
                let target = resolve::resource(call, &exposed).ok()?;
                let hearer = Hearer::Listener(Arc::clone(outlet));
                let held = timeout_at(until, watching::hold(call, &target, &exposed, hearer)).await.ok()?;
                Some((exposed, held))
            }))
            .await;
            asked.into_iter().flatten().collect()
        })
    }

    /// Keeps what is watched now. True when a server refuses something.
    fn take(&mut self, asked: Asked) -> bool {
        let mut refused = false;
        for (exposed, held) in asked {
            match held {
                Ok(held) => {
                    self.held.insert(exposed, held);
                }
                Err(WatchError::Refused(_)) => refused = true,
                Err(error) => tracing::debug!(?error, "a listener's resource is not watched now"),
            }
        }
        refused
    }

    /// The first message: what of the filter holds. What the gateway does not know is not acknowledged.
    fn acknowledgement(&self) -> Bytes {
        let mut accepted: Vec<String> = self.lists.iter().map(|(key, _)| format!("\"{key}\":true")).collect();
        if !self.resources.is_empty() {
            let uris: Vec<_> = self.resources.iter().map(|exposed| message::quote(exposed)).collect();
            accepted.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        if !self.tasks.is_empty() {
            let ids: Vec<_> = self.tasks.iter().map(|id| message::quote(id)).collect();
            accepted.push(format!("\"taskIds\":[{}]", ids.join(",")));
        }
        let params = format!("{{\"notifications\":{{{}}},\"_meta\":{}}}", accepted.join(","), tag(&self.outlet.id));
        message::notification(Method::SubscriptionAcknowledged.as_str(), Some(&params))
    }

    /// Some of what was said had no room: everything it listens to may have changed.
    async fn say_everything(&self) -> Result<(), Gone> {
        for (_, method) in &self.lists {
            self.say(&list_changed(method, &self.outlet.id)).await?;
        }
        for exposed in &self.resources {
            self.say(&resource_updated(exposed, &self.outlet.id)).await?;
        }
        Ok(())
    }
}
