//! The tools of the CRM: arguments in, structured content out, refusals as tool errors.

use std::{sync::Mutex, time::Duration};

use rmcp::{
    RoleServer,
    model::{CallToolResult, ContentBlock, JsonObject, ProgressNotificationParam},
    service::RequestContext,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::records::{MAX_TICKETS, Priority, Records, Segment, Stage, Status, Ticket, ticket_id, today};

/// Pause between two stages of the report, so that its progress can be seen.
const REPORT_BEAT: Duration = Duration::from_millis(40);
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
const SUBJECT_CHARS: std::ops::RangeInclusive<usize> = 5..=120;
const MAX_DESCRIPTION_CHARS: usize = 4_000;

/// A reason the model can act on.
type Refusal = String;

/// Runs a tool; `None` when there is none of that name.
pub(super) async fn call(
    records: &Mutex<Records>,
    name: &str,
    arguments: Option<JsonObject>,
    context: &RequestContext<RoleServer>,
) -> Option<CallToolResult> {
    let lock = || records.lock().expect("invariant: nobody panics while holding the records");
    let outcome = match name {
        "search_customers" => read(arguments).and_then(|query| search_customers(&lock(), &query)),
        "get_customer" => read(arguments).and_then(|ById { id }| get_customer(&lock(), &id)),
        "list_deals" => read(arguments).and_then(|query| list_deals(&lock(), &query)),
        "create_ticket" => read(arguments).and_then(|ticket| create_ticket(&mut lock(), ticket)),
        "update_deal_stage" => read(arguments).and_then(|update| update_deal_stage(&mut lock(), &update)),
        "pipeline_report" => match read(arguments) {
            Ok(query) => {
                let records = lock().clone();
                Ok(pipeline_report(&records, &query, context).await)
            }
            Err(refusal) => Err(refusal),
        },
        "delete_contact" => read(arguments).and_then(|contact| delete_contact(&mut lock(), &contact)),
        _ => return None,
    };
    Some(match outcome {
        Ok(value) => CallToolResult::structured(value),
        Err(refusal) => CallToolResult::error(vec![ContentBlock::text(refusal)]),
    })
}

fn read<T: DeserializeOwned>(arguments: Option<JsonObject>) -> Result<T, Refusal> {
    serde_json::from_value(Value::Object(arguments.unwrap_or_default()))
        .map_err(|error| format!("The arguments do not fit: {error}."))
}

/// One page of `items` under `name`.
fn page<T: Serialize>(name: &str, items: &[&T], offset: usize, limit: Option<usize>) -> Result<Value, Refusal> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(format!("`limit` must lie between 1 and {MAX_LIMIT}."));
    }
    let page: Vec<_> = items.iter().skip(offset).take(limit).collect();
    let next = offset.saturating_add(page.len());
    let next_offset = (next < items.len()).then_some(next);
    Ok(json!({name: page, "total": items.len(), "offset": offset, "next_offset": next_offset}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchCustomers {
    query: Option<String>,
    country: Option<String>,
    segment: Option<Segment>,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

fn search_customers(records: &Records, query: &SearchCustomers) -> Result<Value, Refusal> {
    let words = query.query.as_deref().unwrap_or_default().to_lowercase();
    let mut found = Vec::new();
    for customer in &records.customers {
        let text = format!("{} {} {}", customer.name, customer.city, customer.industry).to_lowercase();
        if words.split_whitespace().all(|word| text.contains(word))
            && query.country.as_ref().is_none_or(|country| *country == customer.country)
            && query.segment.is_none_or(|segment| segment == customer.segment)
        {
            found.push(customer);
        }
    }
    page("customers", &found, query.offset, query.limit)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ById {
    id: String,
}

/// A customer with everything that belongs to it.
pub(super) fn get_customer(records: &Records, id: &str) -> Result<Value, Refusal> {
    let customer = records.customer(id).ok_or_else(|| format!("There is no customer {id}."))?;
    let contacts: Vec<_> = records.contacts.iter().filter(|contact| contact.customer_id == customer.id).collect();
    let deals: Vec<_> = records.deals.iter().filter(|deal| deal.customer_id == customer.id).collect();
    let tickets: Vec<_> = records.tickets.iter().filter(|ticket| ticket.customer_id == customer.id).collect();
    Ok(json!({"customer": customer, "contacts": contacts, "deals": deals, "tickets": tickets}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListDeals {
    stage: Option<Stage>,
    owner: Option<String>,
    min_amount_eur: Option<u64>,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

fn list_deals(records: &Records, query: &ListDeals) -> Result<Value, Refusal> {
    let mut found: Vec<_> = records
        .deals
        .iter()
        .filter(|deal| query.stage.is_none_or(|stage| stage == deal.stage))
        .filter(|deal| query.owner.as_ref().is_none_or(|owner| *owner == deal.owner))
        .filter(|deal| query.min_amount_eur.is_none_or(|least| deal.amount_eur >= least))
        .collect();
    found.sort_by(|a, b| b.amount_eur.cmp(&a.amount_eur).then_with(|| a.id.cmp(&b.id)));
    page("deals", &found, query.offset, query.limit)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateTicket {
    customer_id: String,
    subject: String,
    #[serde(default)]
    description: String,
    priority: Option<Priority>,
}

fn create_ticket(records: &mut Records, wanted: CreateTicket) -> Result<Value, Refusal> {
    let customer_id = match records.customer(&wanted.customer_id) {
        Some(customer) => customer.id.clone(),
        None => return Err(format!("There is no customer {}.", wanted.customer_id)),
    };
    let subject = wanted.subject.trim();
    if !SUBJECT_CHARS.contains(&subject.chars().count()) {
        return Err(format!(
            "`subject` must have between {} and {} characters.",
            SUBJECT_CHARS.start(),
            SUBJECT_CHARS.end()
        ));
    }
    if wanted.description.chars().count() > MAX_DESCRIPTION_CHARS {
        return Err(format!("`description` must have at most {MAX_DESCRIPTION_CHARS} characters."));
    }
    if records.tickets.len() >= MAX_TICKETS {
        return Err(format!("There are {MAX_TICKETS} tickets already."));
    }
    let ticket = Ticket {
        id: ticket_id(records.tickets.len() + 1),
        customer_id,
        subject: subject.to_owned(),
        description: wanted.description,
        priority: wanted.priority.unwrap_or(Priority::Normal),
        status: Status::Open,
        opened: today(),
    };
    records.tickets.push(ticket.clone());
    Ok(json!({"ticket": ticket}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateDealStage {
    deal_id: String,
    stage: Stage,
}

fn update_deal_stage(records: &mut Records, update: &UpdateDealStage) -> Result<Value, Refusal> {
    let deal = records.deals.iter_mut().find(|deal| deal.id == update.deal_id);
    let deal = deal.ok_or_else(|| format!("There is no deal {}.", update.deal_id))?;
    let previous = deal.stage;
    if previous.is_closed() && previous != update.stage {
        return Err(format!("Deal {} is {} and stays so.", deal.id, previous.word()));
    }
    deal.stage = update.stage;
    deal.probability_percent = update.stage.probability_percent();
    Ok(json!({"deal": deal, "previous_stage": previous}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PipelineReport {
    owner: Option<String>,
}

async fn pipeline_report(records: &Records, query: &PipelineReport, context: &RequestContext<RoleServer>) -> Value {
    let mut stages = Vec::new();
    let mut open_weighted_eur = 0;
    for (done, stage) in Stage::ALL.into_iter().enumerate() {
        let (mut deals, mut amount, mut weighted) = (0_u64, 0_u64, 0_u64);
        for deal in &records.deals {
            if deal.stage == stage && query.owner.as_ref().is_none_or(|owner| *owner == deal.owner) {
                deals += 1;
                amount += deal.amount_eur;
                weighted += deal.amount_eur * u64::from(deal.probability_percent) / 100;
            }
        }
        if !stage.is_closed() {
            open_weighted_eur += weighted;
        }
        stages.push(json!({"stage": stage, "deals": deals, "amount_eur": amount, "weighted_eur": weighted}));
        if let Some(token) = context.meta.get_progress_token() {
            let report = ProgressNotificationParam::new(token, (done + 1) as f64)
                .with_total(Stage::ALL.len() as f64)
                .with_message(format!("Summed up `{}`", stage.word()));
            // A client that is gone is noticed by the call itself.
            context.peer.notify_progress(report).await.ok();
        }
        tokio::time::sleep(REPORT_BEAT).await;
    }
    json!({"as_of": today(), "stages": stages, "open_weighted_eur": open_weighted_eur})
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteContact {
    contact_id: String,
}

fn delete_contact(records: &mut Records, wanted: &DeleteContact) -> Result<Value, Refusal> {
    let position = records.contacts.iter().position(|contact| contact.id == wanted.contact_id);
    let position = position.ok_or_else(|| format!("There is no contact {}.", wanted.contact_id))?;
    Ok(json!({"deleted": records.contacts.remove(position)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Result<Value, Refusal>, expected: &str) {
        let said = outcome.err().unwrap_or_else(|| "accepted".to_owned());
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn bad_arguments_are_refused_with_a_reason() {
        let mut records = Records::generate();
        let ticket = |customer: &str, subject: &str| {
            read::<CreateTicket>(json!({"customer_id": customer, "subject": subject}).as_object().cloned()).unwrap()
        };
        check(create_ticket(&mut records, ticket("C-9999", "A subject")), "no customer C-9999");
        check(create_ticket(&mut records, ticket("C-0001", "abc")), "between 5 and 120");
        check(create_ticket(&mut records, ticket("C-0001", "A subject")), "accepted");
        let unknown = json!({"customer_id": "C-0001", "subject": "A subject", "colour": 1});
        assert!(read::<CreateTicket>(unknown.as_object().cloned()).is_err());
    }

    #[test]
    fn a_page_says_where_the_next_begins() {
        let records = Records::generate();
        let query = |arguments: Value| read::<ListDeals>(arguments.as_object().cloned()).unwrap();
        let first = list_deals(&records, &query(json!({"limit": 100}))).unwrap();
        assert_eq!(first["next_offset"], 100);
        let last = list_deals(&records, &query(json!({"limit": 100, "offset": 100}))).unwrap();
        assert_eq!(last["next_offset"], Value::Null);
        assert_eq!(last["deals"].as_array().unwrap().len(), 80);
        check(list_deals(&records, &query(json!({"limit": 101}))), "between 1 and 100");
    }

    #[test]
    fn a_closed_deal_does_not_move() {
        let mut records = Records::generate();
        let won = records.deals.iter().find(|deal| deal.stage == Stage::Won).unwrap().id.clone();
        check(update_deal_stage(&mut records, &UpdateDealStage { deal_id: won, stage: Stage::Lead }), "stays so");
    }
}
