//! `tasks/list` of 2025-11-25: a client's own tasks out of the gateway's table. What a server would list are the tasks of
//! everybody who shares its session.

use crate::{
    answer,
    body::Body,
    call::Call,
    tasks::{
        ask::ask,
        handle::{Handle, Home},
        object::{self, Status},
        owner, refused,
        shape::with_id,
        table::{Bounds, Entry, Place},
    },
};
use fairlead_core::{Code, Refusal};
use fairlead_wire::{Era, Field, Method, message};
use http::Response;
use std::{sync::Arc, time::Duration};

/// Tasks on a page.
const PAGE: usize = 50;
/// How long servers may take to say how their tasks are; what is late is shown as it was.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// Answers `tasks/list`.
pub(crate) async fn list(call: &Call) -> Response<Body> {
    let after = match call.frame.str(Field::Cursor) {
        None => None,
        Some(cursor) => match Place::from_text(&cursor) {
            Some(place) => Some(place),
            None => return refused(call, &Refusal::new(Code::BadCursor, "the cursor was not issued for this list")),
        },
    };
    let Some(owner) = owner(call) else { return answer::own(call, "{\"tasks\":[]}") };
    let table = &call.gateway.0.task_state.table;
    table.recall(&owner, Bounds::of(&call.endpoint.config.tasks)).await;
    let (page, next) = table.page(&owner, after.as_ref(), PAGE);
    let views = futures_util::future::join_all(page.iter().map(|(id, entry)| look(call, id, entry))).await;
    let next = next.map(|next| format!(",\"nextCursor\":{}", message::quote(&next.to_text()))).unwrap_or_default();
    answer::own(call, &format!("{{\"tasks\":[{}]{next}}}", views.join(",")))
}

/// The task as it is now, or as it was seen last.
async fn look(call: &Call, id: &Arc<str>, entry: &Entry) -> String {
    let before = entry.view.to_string();
    if Status::of(&before).is_final() || entry.outcome.is_some() {
        return before;
    }
    let Some(handle) = Handle::of(call, id).filter(|handle| handle.home != Home::Gateway) else { return before };
    let server = call.endpoint.servers.iter().find(|server| server.handle.name().as_str() == &*handle.server);
    let Some(server) = server else { return before };
    let asked = tokio::time::timeout(LOOK_TIME, ask(call, server, &handle, Method::TasksGet, "")).await;
    let Ok(Ok(said)) = asked else { return before };
    let Some(task) = said.result() else { return before };
    let view = match said.link {
        Era::Legacy => with_id(task, id),
        Era::Modern => object::legacy(task, id),
    };
    call.gateway.0.task_state.table.saw(id, &view);
    view
}
