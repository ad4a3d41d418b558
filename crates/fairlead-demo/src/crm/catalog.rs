//! What the CRM lists.

use rmcp::model::{Prompt, Resource, ResourceTemplate, Tool};
use serde_json::{Value, json};

use super::records::{Records, Stage};

/// Customers that are listed as resources; the others are reached through the template.
const LISTED_CUSTOMERS: usize = 5;
pub(super) const CUSTOMER_URI: &str = "crm://customers/";
pub(super) const HANDBOOK_URI: &str = "crm://handbook/stages";

pub(super) struct Catalog {
    pub(super) tools: Vec<Tool>,
    pub(super) resources: Vec<Resource>,
    pub(super) templates: Vec<ResourceTemplate>,
    pub(super) prompts: Vec<Prompt>,
}

impl Catalog {
    pub(super) fn new(records: &Records) -> Self {
        let mut resources = vec![
            Resource::new(HANDBOOK_URI, "stages")
                .with_title("What the stages of a deal mean")
                .with_mime_type("text/markdown"),
        ];
        for customer in records.customers.iter().take(LISTED_CUSTOMERS) {
            resources.push(
                Resource::new(format!("{CUSTOMER_URI}{}", customer.id), customer.id.clone())
                    .with_title(customer.name.clone())
                    .with_description(format!("{} in {}, {}", customer.industry, customer.city, customer.country))
                    .with_mime_type("application/json"),
            );
        }
        Self {
            tools: serde_json::from_value(tools())
                .expect("invariant: the definitions are literals, and a test builds them"),
            resources,
            templates: vec![
                ResourceTemplate::new(format!("{CUSTOMER_URI}{{id}}"), "customer")
                    .with_title("A customer with contacts, deals and tickets")
                    .with_mime_type("application/json"),
            ],
            prompts: serde_json::from_value(json!([{
                "name": "account_brief",
                "title": "Account brief",
                "description": "Prepares a meeting with a customer",
                "arguments": [
                    {"name": "customer_id", "description": "Id of the customer, such as C-0001", "required": true},
                    {"name": "focus", "description": "What the meeting is about", "required": false},
                ],
            }]))
            .expect("invariant: the definition is a literal, and a test builds it"),
        }
    }
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn tools() -> Value {
    let stages: Vec<_> = Stage::ALL.iter().map(|stage| stage.word()).collect();
    let string = json!({"type": "string"});
    let count = json!({"type": "integer", "minimum": 0});
    let customer_properties = json!({
        "id": string, "name": string, "industry": string, "country": string, "city": string,
        "segment": {"type": "string", "enum": ["enterprise", "mid_market", "small"]},
        "owner": string, "since": {"type": "string", "format": "date"}, "annual_revenue_eur": count,
    });
    let customer_required =
        ["id", "name", "industry", "country", "city", "segment", "owner", "since", "annual_revenue_eur"];
    let customer = object(customer_properties.clone(), &customer_required);
    let contact = object(
        json!({"id": string, "customer_id": string, "name": string, "role": string, "email": string, "phone": string}),
        &["id", "customer_id", "name", "role", "email", "phone"],
    );
    let deal = object(
        json!({
            "id": string, "customer_id": string, "title": string,
            "stage": {"type": "string", "enum": stages}, "amount_eur": count,
            "probability_percent": {"type": "integer", "minimum": 0, "maximum": 100},
            "close_date": {"type": "string", "format": "date"}, "owner": string,
        }),
        &["id", "customer_id", "title", "stage", "amount_eur", "probability_percent", "close_date", "owner"],
    );
    let priorities = json!(["low", "normal", "high", "urgent"]);
    let ticket = object(
        json!({
            "id": string, "customer_id": string, "subject": string, "description": string,
            "priority": {"type": "string", "enum": priorities},
            "status": {"type": "string", "enum": ["open", "waiting", "solved"]},
            "opened": {"type": "string", "format": "date"},
        }),
        &["id", "customer_id", "subject", "description", "priority", "status", "opened"],
    );
    let id = |what: &str, pattern: &str| json!({"type": "string", "description": what, "pattern": pattern});
    let paging = json!({
        "offset": {"type": "integer", "minimum": 0, "default": 0, "description": "Records to skip"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20, "description": "Records to return"},
    });
    let page = |name: &str, item: &Value| {
        object(
            json!({
                name: {"type": "array", "items": item}, "total": count, "offset": count,
                "next_offset": {"type": ["integer", "null"]},
            }),
            &[name, "total", "offset", "next_offset"],
        )
    };
    let with_paging = |mut properties: Value| {
        if let (Some(properties), Some(paging)) = (properties.as_object_mut(), paging.as_object()) {
            properties.extend(paging.clone());
        }
        properties
    };
    let reads = json!({"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false});
    json!([
        {
            "name": "search_customers",
            "title": "Search customers",
            "description": "Finds customers by words in their name, city or industry, by country and by segment.",
            "inputSchema": object(with_paging(json!({
                "query": {"type": "string", "description": "Words that must all occur", "maxLength": 200},
                "country": {"type": "string", "description": "ISO 3166-1 alpha-2", "pattern": "^[A-Z]{2}$"},
                "segment": {"type": "string", "enum": ["enterprise", "mid_market", "small"]},
            })), &[]),
            "outputSchema": page("customers", &customer),
            "annotations": reads,
        },
        {
            "name": "get_customer",
            "title": "Get a customer",
            "description": "Returns one customer with contacts, deals and tickets.",
            "inputSchema": object(json!({"id": id("Id of the customer, such as C-0001", "^C-[0-9]{4}$")}), &["id"]),
            "outputSchema": object(json!({
                "customer": customer,
                "contacts": {"type": "array", "items": contact},
                "deals": {"type": "array", "items": deal},
                "tickets": {"type": "array", "items": ticket},
            }), &["customer", "contacts", "deals", "tickets"]),
            "annotations": reads,
        },
        {
            "name": "list_deals",
            "title": "List deals",
            "description": "Lists deals, the largest first.",
            "inputSchema": object(with_paging(json!({
                "stage": {"type": "string", "enum": stages},
                "owner": {"type": "string", "description": "Full name of the account manager"},
                "min_amount_eur": count,
            })), &[]),
            "outputSchema": page("deals", &deal),
            "annotations": reads,
        },
        {
            "name": "create_ticket",
            "title": "Create a ticket",
            "description": "Opens a support ticket for a customer.",
            "inputSchema": object(json!({
                "customer_id": id("Id of the customer", "^C-[0-9]{4}$"),
                "subject": {"type": "string", "minLength": 5, "maxLength": 120},
                "description": {"type": "string", "maxLength": 4000},
                "priority": {"type": "string", "enum": priorities, "default": "normal"},
            }), &["customer_id", "subject"]),
            "outputSchema": object(json!({"ticket": ticket}), &["ticket"]),
            "annotations": {"readOnlyHint": false, "destructiveHint": false, "idempotentHint": false, "openWorldHint": false},
        },
        {
            "name": "update_deal_stage",
            "title": "Move a deal",
            "description": "Moves an open deal to another stage. A deal that is won or lost stays where it is.",
            "inputSchema": object(json!({
                "deal_id": id("Id of the deal, such as D-0001", "^D-[0-9]{4}$"),
                "stage": {"type": "string", "enum": stages},
            }), &["deal_id", "stage"]),
            "outputSchema": object(json!({"deal": deal, "previous_stage": string}), &["deal", "previous_stage"]),
            "annotations": {"readOnlyHint": false, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false},
        },
        {
            "name": "pipeline_report",
            "title": "Pipeline report",
            "description": "Sums up all deals by stage, with progress while it computes.",
            "inputSchema": object(json!({"owner": {"type": "string", "description": "Only this account manager"}}), &[]),
            "outputSchema": object(json!({
                "as_of": {"type": "string", "format": "date"},
                "stages": {"type": "array", "items": object(json!({
                    "stage": string, "deals": count, "amount_eur": count, "weighted_eur": count,
                }), &["stage", "deals", "amount_eur", "weighted_eur"])},
                "open_weighted_eur": count,
            }), &["as_of", "stages", "open_weighted_eur"]),
            "annotations": reads,
        },
        {
            "name": "delete_contact",
            "title": "Delete a contact",
            "description": "Deletes a person for good.",
            "inputSchema": object(json!({"contact_id": id("Id of the contact, such as P-0001", "^P-[0-9]{4}$")}), &["contact_id"]),
            "outputSchema": object(json!({"deleted": contact}), &["deleted"]),
            "annotations": {"readOnlyHint": false, "destructiveHint": true, "idempotentHint": true, "openWorldHint": false},
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_a_title_annotations_and_both_schemas() {
        let catalog = Catalog::new(&Records::generate());
        assert_eq!(catalog.tools.len(), 7);
        for tool in &catalog.tools {
            assert!(
                tool.title.is_some() && tool.annotations.is_some() && tool.output_schema.is_some(),
                "{}",
                tool.name
            );
            assert_eq!(tool.input_schema["type"], "object");
        }
        assert!(catalog.resources.len() > LISTED_CUSTOMERS);
    }
}
