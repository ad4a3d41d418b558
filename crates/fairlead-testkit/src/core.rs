//! What all clients of one scripted server share: the script, the record, the sessions, the listeners.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    conversation::Conversation,
    received::Recorder,
    script::{Finish, Script, ToolScript},
    session::{Outlet, Session},
    tasks::Tasks,
};

/// How long "never" lasts: longer than any test waits, but not for ever.
pub(crate) const NEVER: Duration = Duration::from_secs(600);

/// One open `subscriptions/listen`.
pub(crate) struct Listener {
    /// The request's id, as JSON text.
    pub(crate) id: String,
    pub(crate) filter: Value,
    pub(crate) outlet: Outlet,
}

/// See the module.
pub(crate) struct Core {
    script: Mutex<Arc<Script>>,
    pub(crate) recorder: Recorder,
    pub(crate) sessions: Mutex<HashMap<String, Arc<Session>>>,
    pub(crate) sessions_opened: AtomicU64,
    pub(crate) listeners: Mutex<Vec<Listener>>,
    /// How often the list of tools changed; odd means the extra tool is there.
    pub(crate) list_changes: AtomicU64,
    cancelled: Mutex<Vec<String>>,
    cancelled_calls: Mutex<Vec<Value>>,
    pub(crate) calls_finished: AtomicU64,
    /// How often a URL was required.
    pub(crate) urls_required: AtomicU64,
    /// Calls so far of tools whose first calls end otherwise.
    begun: Mutex<HashMap<String, usize>>,
    pub(crate) tasks: Tasks,
    /// Those whose messages come by themselves (HTTP+SSE), by session.
    conversations: Mutex<HashMap<String, Arc<Conversation>>>,
    work: Mutex<JoinSet<()>>,
}

impl Core {
    pub(crate) fn new(script: Script) -> Self {
        Self {
            script: Mutex::new(Arc::new(script)),
            recorder: Recorder::new(),
            sessions: Mutex::default(),
            sessions_opened: AtomicU64::new(0),
            listeners: Mutex::default(),
            list_changes: AtomicU64::new(0),
            cancelled: Mutex::default(),
            cancelled_calls: Mutex::default(),
            calls_finished: AtomicU64::new(0),
            urls_required: AtomicU64::new(0),
            begun: Mutex::default(),
            tasks: Tasks::default(),
            conversations: Mutex::default(),
            work: Mutex::default(),
        }
    }

    /// How this call of a tool ends.
    pub(crate) fn end_of(&self, tool: &ToolScript) -> Finish {
        if tool.first.is_empty() {
            return tool.finish.clone();
        }
        let mut begun = self.begun.lock().expect("invariant: nobody panics while counting");
        let before = begun.entry(tool.name.clone()).or_default();
        *before += 1;
        tool.first.get(*before - 1).unwrap_or(&tool.finish).clone()
    }

    pub(crate) fn script(&self) -> Arc<Script> {
        Arc::clone(&self.script.lock().expect("invariant: nobody panics while reading the script"))
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.script().as_ref().clone();
        change(&mut script);
        *self.script.lock().expect("invariant: nobody panics while reading the script") = Arc::new(script);
    }

    /// Runs `work` until it ends or the server stops.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut all = self.work.lock().expect("invariant: nobody panics while starting work");
        while all.try_join_next().is_some() {}
        all.spawn(work);
    }

    /// Ends everything that runs and forgets every client.
    pub(crate) fn forget_everything(&self) {
        self.work.lock().expect("invariant: nobody panics while starting work").abort_all();
        self.forget_sessions();
        self.listeners.lock().expect("invariant: nobody panics while holding the listeners").clear();
    }

    pub(crate) fn forget_sessions(&self) {
        self.sessions.lock().expect("invariant: nobody panics while holding the sessions").clear();
        self.conversations.lock().expect("invariant: nobody panics while holding the conversations").clear();
    }

    pub(crate) fn keep_conversation(&self, conversation: &Arc<Conversation>) {
        let mut all = self.conversations.lock().expect("invariant: nobody panics while holding the conversations");
        all.insert(conversation.session.id.clone(), Arc::clone(conversation));
    }

    pub(crate) fn conversation(&self, session: &str) -> Option<Arc<Conversation>> {
        let all = self.conversations.lock().expect("invariant: nobody panics while holding the conversations");
        all.get(session).cloned()
    }

    pub(crate) fn end_conversation(&self, session: &str) {
        self.conversations.lock().expect("invariant: nobody panics while holding the conversations").remove(session);
    }

    pub(crate) fn open_session(&self, session: Arc<Session>) {
        self.sessions_opened.fetch_add(1, Ordering::Relaxed);
        let mut sessions = self.sessions.lock().expect("invariant: nobody panics while holding the sessions");
        sessions.insert(session.id.clone(), session);
    }

    pub(crate) fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions.lock().expect("invariant: nobody panics while holding the sessions").get(id).cloned()
    }

    pub(crate) fn close_session(&self, id: &str) -> bool {
        let mut sessions = self.sessions.lock().expect("invariant: nobody panics while holding the sessions");
        sessions.remove(id).is_some()
    }

    pub(crate) fn note_cancelled(&self, id: &str) {
        self.cancelled.lock().expect("invariant: nobody panics while noting").push(id.to_owned());
    }

    /// Notes the parameters of a call that was cancelled while it ran.
    pub(crate) fn note_cancelled_call(&self, params: &Value) {
        self.cancelled_calls.lock().expect("invariant: nobody panics while noting").push(params.clone());
    }

    pub(crate) fn cancelled_calls(&self) -> Vec<Value> {
        self.cancelled_calls.lock().expect("invariant: nobody panics while noting").clone()
    }

    pub(crate) fn cancelled(&self) -> Vec<String> {
        self.cancelled.lock().expect("invariant: nobody panics while noting").clone()
    }

    /// Sends a notification to every session's unrelated stream and to every listener that asked for it.
    pub(crate) async fn notify(&self, method: &str, params: &Value) {
        let sides: Vec<Outlet> = {
            let sessions = self.sessions.lock().expect("invariant: nobody panics while holding the sessions");
            let initialized = |session: &&Arc<Session>| {
                !session.version.lock().expect("invariant: nobody panics while holding a version").is_empty()
            };
            // The extension's notifications are for those who listen alone.
            let told = sessions.values().filter(initialized).filter(|_| method != "notifications/tasks");
            told.map(|session| session.side.clone()).collect()
        };
        let frame = notification(method, params);
        for side in sides {
            side.send(frame.clone()).await;
        }
        let told: Vec<(String, Outlet)> = {
            let listeners = self.listeners.lock().expect("invariant: nobody panics while holding the listeners");
            listeners
                .iter()
                .filter(|listener| wants(&listener.filter, method, params))
                .map(|listener| (listener.id.clone(), listener.outlet.clone()))
                .collect()
        };
        for (id, outlet) in told {
            outlet.send(tagged_notification(method, params, &id)).await;
        }
    }

    /// Adds or removes the extra tool and tells everybody.
    pub(crate) async fn change_list(&self) {
        self.list_changes.fetch_add(1, Ordering::Relaxed);
        self.notify("notifications/tools/list_changed", &json!({})).await;
    }

    /// Changes the list and updates a resource as often as the script says, for as long as it says so.
    pub(crate) async fn keep_changing(&self) {
        tokio::join!(self.keep_changing_lists(), self.keep_updating());
    }

    async fn keep_updating(&self) {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        let mut number = 0_u64;
        loop {
            match self.script().update_every_ms {
                Some(every_ms) => {
                    tokio::time::sleep(Duration::from_millis(every_ms.max(1))).await;
                    number += 1;
                    let params = json!({"uri": "test://resource/0", "number": number});
                    self.notify("notifications/resources/updated", &params).await;
                }
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn keep_changing_lists(&self) {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        loop {
            match self.script().list_change_every_ms {
                Some(every_ms) => {
                    tokio::time::sleep(Duration::from_millis(every_ms.max(1))).await;
                    self.change_list().await;
                }
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

/// A notification as JSON text.
pub(crate) fn notification(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()
}

/// A notification that names the subscription it belongs to; `id` is JSON text.
pub(crate) fn tagged_notification(method: &str, params: &Value, id: &str) -> String {
    let mut params = params.clone();
    params["_meta"]["io.modelcontextprotocol/subscriptionId"] = serde_json::from_str(id).unwrap_or_default();
    notification(method, &params)
}

/// Whether the filter of a `subscriptions/listen` covers a notification.
fn wants(filter: &Value, method: &str, params: &Value) -> bool {
    match method {
        "notifications/tools/list_changed" => filter["toolsListChanged"] == true,
        "notifications/prompts/list_changed" => filter["promptsListChanged"] == true,
        "notifications/resources/list_changed" => filter["resourcesListChanged"] == true,
        "notifications/resources/updated" => {
            filter["resourceSubscriptions"].as_array().is_some_and(|uris| uris.contains(&params["uri"]))
        }
        "notifications/tasks" => filter["taskIds"].as_array().is_some_and(|ids| ids.contains(&params["taskId"])),
        _ => true,
    }
}
