//! `feature`: every feature of the protocol in both eras, and the fixture of the official conformance suite.
//!
//! What the suite prescribes carries its names (`test_*`, `test://*`, the tasks fixtures); `echo`, `add`, `sleep`,
//! `big`, `count_calls`, `whoami_roots`, `list_change`, `touch_resource`, `ask_url` and `link` are ours. State that the
//! protocol keeps per session (log level, subscriptions) lives in [`Feature`], everything else in [`Shared`].
#![expect(deprecated, reason = "logging and resources/subscribe are deprecated and still have to be shown")]

mod ask;
mod catalog;
mod changes;
mod prompts;
mod tasks;
mod tools;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams, CompleteResult,
        GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, LoggingLevel, PaginatedRequestParams,
        ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, RequestStateCodec, ResourceContents,
        ServerCapabilities, ServerConfig, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, Tool,
        UnsubscribeRequestParams, UpdateTaskParams,
    },
    service::{NotificationContext, RequestContext, SubscriptionContext},
    task_manager::TaskManager,
};
use serde_json::json;

use self::{
    catalog::{Catalog, WATCHED},
    changes::{Change, Changes, MAX_SUBSCRIPTIONS, Subscriptions},
};

/// How long lists and resources may be cached: long enough to be seen, short enough for tests.
const TTL_MS: u64 = 5_000;

/// What all sessions of one process have in common.
pub(crate) struct Shared {
    catalog: Catalog,
    has_extra_tool: AtomicBool,
    has_extra_prompt: AtomicBool,
    /// Calls by tool name; only names of the catalog are counted, so the table is bounded by it.
    calls: Mutex<BTreeMap<String, u64>>,
    cancelled_calls: AtomicU64,
    touches: AtomicU64,
    changes: Changes,
    tasks: TaskManager,
    seal: RequestStateCodec,
}

impl Shared {
    /// The state of a new process.
    ///
    /// # Errors
    /// A definition of the catalog that the library refuses.
    pub(crate) fn new() -> anyhow::Result<Arc<Self>> {
        let key: Vec<u8> = (0_u8..4).flat_map(|part| RandomState::new().hash_one(part).to_le_bytes()).collect();
        Ok(Arc::new(Self {
            catalog: Catalog::new().context("the catalog of the feature server is malformed")?,
            has_extra_tool: AtomicBool::new(false),
            has_extra_prompt: AtomicBool::new(false),
            calls: Mutex::default(),
            cancelled_calls: AtomicU64::new(0),
            touches: AtomicU64::new(0),
            changes: Changes::new(),
            tasks: TaskManager::new(),
            seal: RequestStateCodec::try_new(key).context("the key for request states is refused")?,
        }))
    }

    /// The handler of one session, or of one stateless request.
    pub(crate) fn connect(self: &Arc<Self>) -> Feature {
        Feature {
            shared: Arc::clone(self),
            level: Arc::new(Mutex::new(LoggingLevel::Info)),
            subscriptions: Subscriptions::default(),
        }
    }
}

/// One session's view of the server.
#[derive(Clone)]
pub(crate) struct Feature {
    shared: Arc<Shared>,
    level: Arc<Mutex<LoggingLevel>>,
    subscriptions: Subscriptions,
}

impl Feature {
    fn tools(&self) -> Vec<Tool> {
        let mut tools = self.shared.catalog.tools.clone();
        if self.shared.has_extra_tool.load(Ordering::Relaxed) {
            tools.push(self.shared.catalog.extra_tool.clone());
        }
        tools
    }

    fn count(&self, name: &str) {
        if self.shared.catalog.tools.iter().any(|tool| tool.name == name) {
            let mut calls = self.shared.calls.lock().expect("invariant: nobody panics while counting");
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
}

impl ServerHandler for Feature {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(
            ServerCapabilities::builder()
                .enable_logging()
                .enable_completions()
                .enable_prompts()
                .enable_prompts_list_changed()
                .enable_resources()
                .enable_resources_list_changed()
                .enable_resources_subscribe()
                .enable_tools()
                .enable_tool_list_changed()
                .enable_tasks()
                .build(),
        )
        .with_server_info(
            Implementation::new("fairlead-feature", env!("CARGO_PKG_VERSION")).with_title("Fairlead feature server"),
        )
        .with_instructions("Shows every feature of the protocol. `echo` and `add` are the simplest tools.")
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        self.shared.changes.enroll(context.peer, Arc::clone(&self.subscriptions));
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools()).with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools().into_iter().find(|tool| tool.name == name)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.count(&request.name);
        tools::call(self, request, context).await
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(self.shared.catalog.resources.clone())
            .with_ttl_ms(TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(self.shared.catalog.templates.clone())
            .with_ttl_ms(TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        let contents = match uri.as_str() {
            "test://static-text" => {
                ResourceContents::text("This is the content of the static text resource.", uri.clone())
            }
            "test://static-binary" => ResourceContents::blob(catalog::PIXEL, uri.clone()).with_mime_type("image/png"),
            WATCHED => {
                let touches = self.shared.touches.load(Ordering::Relaxed);
                ResourceContents::text(format!("Touched {touches} times."), uri.clone())
            }
            other => {
                let id = other.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
                let Some(id) = id.filter(|id| !id.is_empty() && !id.contains('/')) else {
                    return Err(ErrorData::resource_not_found("there is no such resource", Some(json!({"uri": uri}))));
                };
                let text = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")}).to_string();
                ResourceContents::text(text, uri.clone()).with_mime_type("application/json")
            }
        };
        let ttl_ms = if uri == WATCHED { 0 } else { TTL_MS };
        Ok(ReadResourceResult::new(vec![contents]).with_ttl_ms(ttl_ms).with_cache_scope(CacheScope::Public).into())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let mut subscriptions = self.subscriptions.lock().expect("invariant: nobody panics while holding it");
        if subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(ErrorData::invalid_params(format!("at most {MAX_SUBSCRIPTIONS} subscriptions"), None));
        }
        subscriptions.insert(request.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscriptions.lock().expect("invariant: nobody panics while holding it").remove(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        self.shared.changes.listen(context).await;
        Ok(())
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let mut prompts = self.shared.catalog.prompts.clone();
        if self.shared.has_extra_prompt.load(Ordering::Relaxed) {
            prompts.push(self.shared.catalog.extra_prompt.clone());
        }
        Ok(ListPromptsResult::with_all_items(prompts).with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        prompts::get(self, request, context).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        prompts::complete(&request)
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        *self.level.lock().expect("invariant: nobody panics while setting a level") = request.level;
        Ok(())
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.shared.tasks.get_task(&request.task_id).map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.shared.tasks.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.shared.tasks.cancel_task(&request.task_id)
    }
}
