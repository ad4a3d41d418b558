//! `crm`: a small business server with customers, contacts, deals and tickets.
//!
//! It is what a newcomer sees first, so its tools look like those of a real one: titles, annotations, input and output
//! schemas, structured content, refusals that say what to do. What is changed lives as long as the process.

mod catalog;
mod records;
mod tools;

use std::sync::{Arc, Mutex};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult, CompletionInfo,
        GetPromptRequestParams, GetPromptResponse, GetPromptResult, Implementation, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams, PromptMessage,
        ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ResourceContents, Role,
        ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use serde_json::{Value, json};

use self::{
    catalog::{CUSTOMER_URI, Catalog, HANDBOOK_URI},
    records::Records,
};

/// How long the lists, which never change, may be cached.
const LIST_TTL_MS: u64 = 60_000;
/// Values a completion may return (specification, completion).
const MAX_COMPLETIONS: usize = 100;
const HANDBOOK: &str = "# Stages of a deal\n\n\
    * **lead** - somebody showed interest\n* **qualified** - there is a need and a budget\n\
    * **proposal** - an offer was sent\n* **negotiation** - terms are discussed\n\
    * **won** / **lost** - final, the deal does not move any more\n";

/// The server; clones share the records.
#[derive(Clone)]
pub(crate) struct Crm {
    records: Arc<Mutex<Records>>,
    catalog: Arc<Catalog>,
}

impl Crm {
    /// A server with fresh records.
    pub(crate) fn new() -> Self {
        let records = Records::generate();
        let catalog = Arc::new(Catalog::new(&records));
        Self { records: Arc::new(Mutex::new(records)), catalog }
    }

    fn customer(&self, id: &str) -> Option<Value> {
        let records = self.records.lock().expect("invariant: nobody panics while holding the records");
        tools::get_customer(&records, id).ok()
    }
}

impl ServerHandler for Crm {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(
            ServerCapabilities::builder()
                .enable_completions()
                .enable_prompts()
                .enable_resources()
                .enable_tools()
                .build(),
        )
        .with_server_info(Implementation::new("fairlead-crm", env!("CARGO_PKG_VERSION")).with_title("Demo CRM"))
        .with_instructions("Customers have ids such as C-0001, contacts P-0001, deals D-0001, tickets T-0001.")
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.catalog.tools.clone())
            .with_ttl_ms(LIST_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.catalog.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match tools::call(&self.records, &request.name, request.arguments, &context).await {
            Some(result) => Ok(result.into()),
            None => Err(ErrorData::invalid_params(format!("there is no tool `{}`", request.name), None)),
        }
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(self.catalog.resources.clone())
            .with_ttl_ms(LIST_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(self.catalog.templates.clone())
            .with_ttl_ms(LIST_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        let contents = if uri == HANDBOOK_URI {
            ResourceContents::text(HANDBOOK, uri).with_mime_type("text/markdown")
        } else if let Some(customer) = uri.strip_prefix(CUSTOMER_URI).and_then(|id| self.customer(id)) {
            ResourceContents::text(customer.to_string(), uri).with_mime_type("application/json")
        } else {
            return Err(ErrorData::resource_not_found("there is no such resource", Some(json!({"uri": uri}))));
        };
        Ok(ReadResourceResult::new(vec![contents]).with_ttl_ms(0).with_cache_scope(CacheScope::Private).into())
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(self.catalog.prompts.clone())
            .with_ttl_ms(LIST_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name != "account_brief" {
            return Err(ErrorData::invalid_params(format!("there is no prompt `{}`", request.name), None));
        }
        let arguments = request.arguments.unwrap_or_default();
        let id = arguments.get("customer_id").and_then(Value::as_str).unwrap_or_default();
        let Some(customer) = self.customer(id) else {
            return Err(ErrorData::invalid_params(format!("there is no customer `{id}`"), None));
        };
        let focus = arguments.get("focus").and_then(Value::as_str).unwrap_or("the current state of the account");
        let text = format!(
            "Prepare me for a meeting with {} about {focus}. One page: who they are, open deals, open tickets, and \
             three questions I should ask. This is what we know:\n\n{customer:#}",
            customer["customer"]["name"].as_str().unwrap_or(id),
        );
        Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)])
            .with_description("Prepares a meeting with a customer")
            .into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let records = self.records.lock().expect("invariant: nobody panics while holding the records");
        let wanted = request.argument.value.to_lowercase();
        let ids: Vec<String> = match request.argument.name.as_str() {
            "id" | "customer_id" => records
                .customers
                .iter()
                .filter(|customer| {
                    customer.id.to_lowercase().starts_with(&wanted) || customer.name.to_lowercase().starts_with(&wanted)
                })
                .map(|customer| customer.id.clone())
                .collect(),
            _ => Vec::new(),
        };
        let total = u32::try_from(ids.len()).ok();
        let has_more = ids.len() > MAX_COMPLETIONS;
        let info = CompletionInfo::with_pagination(ids.into_iter().take(MAX_COMPLETIONS).collect(), total, has_more)
            .map_err(|error| ErrorData::internal_error(error, None))?;
        Ok(CompleteResult::new(info))
    }
}
