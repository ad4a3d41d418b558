//! `notifications/tasks` for a modern client that listens for some of its tasks (`taskIds` in the filter of
//! `subscriptions/listen`). The gateway looks at the tasks as often as their servers ask for, whichever era they speak,
//! and tells what became another. A task that is gone is not looked at again, and none for longer than tasks are kept.

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
use fairlead_core::{UpstreamError, UpstreamErrorKind};
use fairlead_wire::{Era, Field, Frame, Method, header, list, message};
use futures_util::future::join_all;
use http::Response;
use std::time::Duration;
use tokio::time::Instant;

/// Tasks one listener may follow.
const MAX_FOLLOWED: usize = 100;
/// The longest time between two looks at a task whose server does not say how it is.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The code of an error that may pass.
const INTERNAL_ERROR: i64 = -32603;

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
    let until = Instant::now() + call.endpoint.config.tasks.ttl;
    let mut before = Shown { status: Status::Working, questions: Vec::new() };
    let mut wait = Duration::from_millis(object::POLL_MS);
    while Instant::now() < until {
        match look(call, task).await {
            Seen::Task(members) => {
                let whole = format!("{{{members}}}");
                wait = Duration::from_millis(object::poll_ms(&whole));
                let now = Shown::of(&whole);
                if now != before {
                    let params = format!("{{{members},\"_meta\":{}}}", tag(&outlet.id));
                    // What there is no room for is told the next time.
                    if outlet.say(message::notification(Method::TaskNotification.as_str(), Some(&params))) {
                        before = now;
                    }
                }
                if before.status.is_final() {
                    return;
                }
            }
            Seen::Gone => return,
            Seen::Nothing => wait = (wait * 2).min(MAX_WAIT),
        }
        tokio::time::sleep(wait).await;
    }
}

/// What a listener was told of a task, as far as a change of it is worth telling.
#[derive(PartialEq, Eq)]
struct Shown {
    status: Status,
    /// The names of its open questions, in order.
    questions: Vec<String>,
}

impl Shown {
    fn of(task: &str) -> Self {
        let questions = list::raw_member(task, "inputRequests").unwrap_or("{}");
        let names = list::entries(questions).unwrap_or_default().into_iter().map(|(name, _)| name.to_string());
        let mut questions: Vec<_> = names.collect();
        questions.sort_unstable();
        Self { status: Status::of(task), questions }
    }
}

/// What a look at a task showed.
enum Seen {
    /// Its members as `tasks/get` would bring them.
    Task(String),
    /// There is no such task (any more).
    Gone,
    /// The server cannot say now.
    Nothing,
}

impl Seen {
    fn failed(error: &UpstreamError) -> Self {
        if error.kind == UpstreamErrorKind::Gone { Self::Gone } else { Self::Nothing }
    }

    fn refused(error: &Frame) -> Self {
        if error.error_code() == Some(INTERNAL_ERROR) { Self::Nothing } else { Self::Gone }
    }
}

async fn look(call: &Call, task: &Followed) -> Seen {
    if task.handle.home == Home::Server(Era::Legacy) {
        return match to_legacy::members(call, &task.upstream, &task.id, &task.handle).await {
            Ok(Ok(members)) => Seen::Task(members),
            Ok(Err(refused)) => Seen::refused(&refused),
            Err(error) => Seen::failed(&error),
        };
    }
    // The listener's own words about itself are what every request of it carries.
    let meta = call.frame.raw(Field::Meta).map(|meta| format!(",\"_meta\":{meta}")).unwrap_or_default();
    let said = match ask(call, &task.upstream, &task.handle, Method::TasksGet, &meta).await {
        Ok(said) => said,
        Err(error) => return Seen::failed(&error),
    };
    let Some(result) = said.result() else { return Seen::refused(&said.frame) };
    let mut members = vec![format!("\"taskId\":{}", message::quote(&task.id))];
    for (key, raw) in list::entries(result).unwrap_or_default() {
        if !matches!(&*key, "taskId" | "resultType" | "_meta") {
            members.push(format!("{}:{raw}", message::quote(&key)));
        }
    }
    Seen::Task(members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_core::Outcome;

    #[test]
    fn another_question_is_a_change_and_another_order_is_none() {
        let shown =
            |questions: &str| Shown::of(&format!(r#"{{"status":"input_required","inputRequests":{questions}}}"#));
        assert!(shown(r#"{"a":{},"b":{}}"#) == shown(r#"{"b":{"x":1},"a":{}}"#));
        assert!(shown(r#"{"a":{}}"#) != shown(r#"{"b":{}}"#));
        assert!(Shown::of(r#"{"status":"input_required"}"#) != Shown::of(r#"{"status":"working"}"#));
    }

    #[test]
    fn only_what_may_pass_is_looked_at_again() {
        let refused =
            |code| Seen::refused(&crate::tasks::ask::parse(message::error(Some("1"), code, "no", None)).unwrap());
        assert!(matches!(refused(-32602), Seen::Gone));
        assert!(matches!(refused(INTERNAL_ERROR), Seen::Nothing));
        let failed = |kind| Seen::failed(&UpstreamError::new(kind, Outcome::NotMade, ""));
        assert!(matches!(failed(UpstreamErrorKind::Gone), Seen::Gone));
        assert!(matches!(failed(UpstreamErrorKind::Timeout), Seen::Nothing));
    }
}
