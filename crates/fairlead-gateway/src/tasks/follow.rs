//! `notifications/tasks` for a modern client that listens for some of its tasks (`taskIds` in the filter of
//! `subscriptions/listen`). The gateway looks at the tasks as often as their servers ask for, whichever era they speak,
//! and tells what became another.

use crate::{
    body::Body,
    call::Call,
    response::{json, modern_status},
    snapshot::Upstream,
    tasks::{
        EXTENSION,
        ask::ask,
        handle::{Handle, Home},
        object::{self, Status},
        to_legacy,
    },
    watching::{Outlet, tag},
};
use fairlead_wire::{Era, Field, Method, header, list, message};
use futures_util::future::join_all;
use http::Response;
use std::time::Duration;

/// Tasks one listener may follow.
const MAX_FOLLOWED: usize = 100;

/// A task that is followed.
pub(crate) struct Followed {
    /// The client's id of it.
    pub(crate) id: Box<str>,
    upstream: Upstream,
    handle: Handle,
}

/// Whether a listener wants to hear of tasks.
pub(crate) fn listens(call: &Call) -> bool {
    call.frame.raw(Field::ParamNotifications).is_some_and(|filter| list::raw_member(filter, "taskIds").is_some())
}

/// Says that a request needs the extension, which it did not declare.
pub(crate) fn needs_extension(call: &Call, what: &str) -> Response<Body> {
    let data = format!("{{\"requiredCapabilities\":{{\"extensions\":{{\"{EXTENSION}\":{{}}}}}}}}");
    let text = format!("`{what}` needs the tasks extension among the request's client capabilities");
    let bytes = message::error(Some(call.id()), header::MISSING_CAPABILITY, &text, Some(&data));
    json(modern_status(header::MISSING_CAPABILITY), bytes)
}

/// The tasks of a filter that are this caller's.
pub(crate) fn followed(call: &Call, filter: &str) -> Vec<Followed> {
    let named = list::items(filter, "taskIds").unwrap_or_default();
    let ids = named.into_iter().filter_map(|raw| serde_json::from_str::<Box<str>>(raw).ok()).take(MAX_FOLLOWED);
    ids.filter_map(|id| {
        let handle = Handle::of(call, &id).filter(|handle| handle.home != Home::Gateway)?;
        let servers = &call.endpoint.servers;
        let upstream = servers.iter().find(|server| server.handle.name().as_str() == &*handle.server)?.clone();
        Some(Followed { id, upstream, handle })
    })
    .collect()
}

/// Tells of these tasks until all are over; then for ever nothing.
pub(crate) async fn follow(call: &Call, followed: &[Followed], outlet: &Outlet) {
    join_all(followed.iter().map(|task| one(call, task, outlet))).await;
    std::future::pending().await
}

async fn one(call: &Call, task: &Followed, outlet: &Outlet) {
    let mut before = Status::Working;
    loop {
        let mut poll_ms = object::POLL_MS;
        if let Some(members) = look(call, task).await {
            let whole = format!("{{{members}}}");
            poll_ms = object::poll_ms(&whole);
            let status = Status::of(&whole);
            if status != before {
                let params = format!("{{{members},\"_meta\":{}}}", tag(&outlet.id));
                outlet.say(message::notification(Method::TaskNotification.as_str(), Some(&params)));
                before = status;
            }
            if status.is_final() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(poll_ms)).await;
    }
}

/// The members of a task as `tasks/get` would bring them.
async fn look(call: &Call, task: &Followed) -> Option<String> {
    if task.handle.home == Home::Server(Era::Legacy) {
        return to_legacy::members(call, &task.upstream, &task.id, &task.handle).await;
    }
    // The listener's own words about itself are what every request of it carries.
    let meta = call.frame.raw(Field::Meta).map(|meta| format!(",\"_meta\":{meta}")).unwrap_or_default();
    let said = ask(call, &task.upstream, &task.handle, Method::TasksGet, &meta).await.ok()?;
    let mut members = vec![format!("\"taskId\":{}", message::quote(&task.id))];
    for (key, raw) in list::entries(said.result()?).ok()? {
        if !matches!(&*key, "taskId" | "resultType" | "_meta") {
            members.push(format!("{}:{raw}", message::quote(&key)));
        }
    }
    Some(members.join(","))
}
