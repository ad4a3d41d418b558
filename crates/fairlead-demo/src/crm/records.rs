//! The records of the CRM: a few hundred, always the same, made by a seeded generator.

use serde::{Deserialize, Serialize};

/// The seed of the records; changing it changes every example in the documentation.
const SEED: u64 = 0x0046_6169_726c_6561;
const CUSTOMERS: usize = 120;
const DEALS: usize = 180;
const TICKETS: usize = 90;
/// Tickets that can exist at once; beyond that `create_ticket` refuses.
pub(super) const MAX_TICKETS: usize = 10_000;
/// Days since 1970-01-01 of the day these records are seen on, 2026-11-20.
const TODAY: u64 = 20_777;

/// A company.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Customer {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) industry: String,
    pub(super) country: String,
    pub(super) city: String,
    pub(super) segment: Segment,
    pub(super) owner: String,
    pub(super) since: String,
    pub(super) annual_revenue_eur: u64,
}

/// How large a customer is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Segment {
    Enterprise,
    MidMarket,
    Small,
}

/// A person at a customer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Contact {
    pub(super) id: String,
    pub(super) customer_id: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) email: String,
    pub(super) phone: String,
}

/// Something that may be sold.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Deal {
    pub(super) id: String,
    pub(super) customer_id: String,
    pub(super) title: String,
    pub(super) stage: Stage,
    pub(super) amount_eur: u64,
    pub(super) probability_percent: u8,
    pub(super) close_date: String,
    pub(super) owner: String,
}

/// Where a deal stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    Lead,
    Qualified,
    Proposal,
    Negotiation,
    Won,
    Lost,
}

impl Stage {
    pub(super) const ALL: [Self; 6] =
        [Self::Lead, Self::Qualified, Self::Proposal, Self::Negotiation, Self::Won, Self::Lost];

    /// The word used in arguments and results.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Lead => "lead",
            Self::Qualified => "qualified",
            Self::Proposal => "proposal",
            Self::Negotiation => "negotiation",
            Self::Won => "won",
            Self::Lost => "lost",
        }
    }

    pub(super) fn probability_percent(self) -> u8 {
        match self {
            Self::Lead => 10,
            Self::Qualified => 30,
            Self::Proposal => 50,
            Self::Negotiation => 75,
            Self::Won => 100,
            Self::Lost => 0,
        }
    }

    pub(super) fn is_closed(self) -> bool {
        matches!(self, Self::Won | Self::Lost)
    }
}

/// A request of a customer to support.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ticket {
    pub(super) id: String,
    pub(super) customer_id: String,
    pub(super) subject: String,
    pub(super) description: String,
    pub(super) priority: Priority,
    pub(super) status: Status,
    pub(super) opened: String,
}

/// How urgent a ticket is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Priority {
    Low,
    Normal,
    High,
    Urgent,
}

/// Where a ticket stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Open,
    Waiting,
    Solved,
}

/// Everything the server knows.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) customers: Vec<Customer>,
    pub(super) contacts: Vec<Contact>,
    pub(super) deals: Vec<Deal>,
    pub(super) tickets: Vec<Ticket>,
}

impl Records {
    /// The records of a new process.
    pub(super) fn generate() -> Self {
        let mut random = Random(SEED);
        let mut records = Self { customers: Vec::new(), contacts: Vec::new(), deals: Vec::new(), tickets: Vec::new() };
        for number in 1..=CUSTOMERS {
            let customer = random.customer(number);
            for _ in 0..=random.below(3) {
                let contact = random.contact(records.contacts.len() + 1, &customer);
                records.contacts.push(contact);
            }
            records.customers.push(customer);
        }
        for number in 1..=DEALS {
            let customer = &records.customers[random.below(CUSTOMERS)];
            records.deals.push(random.deal(number, customer));
        }
        for number in 1..=TICKETS {
            let customer = &records.customers[random.below(CUSTOMERS)];
            records.tickets.push(random.ticket(number, customer));
        }
        records
    }

    pub(super) fn customer(&self, id: &str) -> Option<&Customer> {
        self.customers.iter().find(|customer| customer.id.eq_ignore_ascii_case(id))
    }
}

/// The day these records are seen on.
pub(super) fn today() -> String {
    date(TODAY)
}

/// The id of the `number`th ticket.
pub(super) fn ticket_id(number: usize) -> String {
    format!("T-{number:04}")
}

/// SplitMix64: small, fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("invariant: smaller than a usize")
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn customer(&mut self, number: usize) -> Customer {
        let (country, city) = PLACES[self.below(PLACES.len())];
        let (segment, largest) = match self.below(10) {
            0..=1 => (Segment::Enterprise, 900_000_000),
            2..=5 => (Segment::MidMarket, 60_000_000),
            _ => (Segment::Small, 5_000_000),
        };
        let industry = self.pick(INDUSTRIES);
        Customer {
            id: format!("C-{number:04}"),
            name: format!("{} {} {}", self.pick(FIRST_PARTS), self.pick(SECOND_PARTS), self.pick(FORMS)),
            industry: industry.to_owned(),
            country: country.to_owned(),
            city: city.to_owned(),
            segment,
            owner: self.pick(OWNERS).to_owned(),
            since: date(TODAY - 30 - self.below(3_000) as u64),
            annual_revenue_eur: (largest / 10 + self.next() % largest * 9 / 10) / 1_000 * 1_000,
        }
    }

    fn contact(&mut self, number: usize, customer: &Customer) -> Contact {
        let (first, last) = (self.pick(GIVEN_NAMES), self.pick(FAMILY_NAMES));
        let domain: String = customer.name.split(' ').take(2).collect::<String>().to_ascii_lowercase();
        Contact {
            id: format!("P-{number:04}"),
            customer_id: customer.id.clone(),
            name: format!("{first} {last}"),
            role: self.pick(ROLES).to_owned(),
            email: format!("{}.{}@{domain}.example", first.to_ascii_lowercase(), last.to_ascii_lowercase()),
            phone: format!("+00 555 {:04} {:03}", self.below(10_000), self.below(1_000)),
        }
    }

    fn deal(&mut self, number: usize, customer: &Customer) -> Deal {
        let stage = Stage::ALL[self.below(Stage::ALL.len())];
        let days = self.below(180) as u64;
        let scale = match customer.segment {
            Segment::Enterprise => 400_000,
            Segment::MidMarket => 80_000,
            Segment::Small => 15_000,
        };
        Deal {
            id: format!("D-{number:04}"),
            customer_id: customer.id.clone(),
            title: format!("{} {}", self.pick(PRODUCTS), self.pick(DEAL_KINDS)),
            stage,
            amount_eur: (scale / 5 + self.next() % scale) / 100 * 100,
            probability_percent: stage.probability_percent(),
            close_date: date(if stage.is_closed() { TODAY - days } else { TODAY + days + 1 }),
            owner: customer.owner.clone(),
        }
    }

    fn ticket(&mut self, number: usize, customer: &Customer) -> Ticket {
        let (subject, description) = PROBLEMS[self.below(PROBLEMS.len())];
        let priority = [Priority::Low, Priority::Normal, Priority::Normal, Priority::High, Priority::Urgent];
        let status = [Status::Open, Status::Waiting, Status::Solved];
        Ticket {
            id: ticket_id(number),
            customer_id: customer.id.clone(),
            subject: subject.to_owned(),
            description: description.to_owned(),
            priority: priority[self.below(priority.len())],
            status: status[self.below(status.len())],
            opened: date(TODAY - self.below(120) as u64),
        }
    }
}

/// `YYYY-MM-DD` of a day since 1970-01-01 (Howard Hinnant's civil calendar arithmetic).
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

const FIRST_PARTS: &[&str] = &[
    "Alder",
    "Baltic",
    "Cedar",
    "Delta",
    "Ember",
    "Falcon",
    "Granite",
    "Harbor",
    "Indigo",
    "Juniper",
    "Kestrel",
    "Lumen",
    "Meridian",
    "Northwind",
    "Orchard",
    "Pioneer",
    "Quarry",
    "Riverside",
    "Summit",
    "Tidewater",
];
const SECOND_PARTS: &[&str] = &[
    "Analytics",
    "Biotech",
    "Components",
    "Dynamics",
    "Energy",
    "Foods",
    "Freight",
    "Instruments",
    "Logistics",
    "Materials",
    "Mobility",
    "Optics",
    "Packaging",
    "Robotics",
    "Systems",
    "Textiles",
];
const FORMS: &[&str] = &["AB", "AG", "BV", "GmbH", "Inc", "Ltd", "Oy", "SA", "SpA"];
const INDUSTRIES: &[&str] =
    &["energy", "finance", "food", "healthcare", "logistics", "manufacturing", "public sector", "retail", "software"];
const PLACES: &[(&str, &str)] = &[
    ("AT", "Graz"),
    ("BE", "Ghent"),
    ("CH", "Basel"),
    ("DE", "Hamburg"),
    ("DE", "Leipzig"),
    ("DK", "Aarhus"),
    ("ES", "Bilbao"),
    ("FI", "Tampere"),
    ("FR", "Lyon"),
    ("GB", "Leeds"),
    ("IE", "Cork"),
    ("IT", "Turin"),
    ("NL", "Utrecht"),
    ("NO", "Bergen"),
    ("PL", "Gdansk"),
    ("PT", "Porto"),
    ("SE", "Malmo"),
    ("US", "Portland"),
];
const OWNERS: &[&str] = &["Amara Osei", "Birgit Lund", "Carlos Vega", "Dana Kowalski", "Elif Aydin", "Finn Mercer"];
const GIVEN_NAMES: &[&str] = &[
    "Aisha", "Anton", "Beatriz", "Chidi", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas",
    "Kaito", "Leila", "Marta", "Nils", "Olga", "Pavel", "Rosa", "Samir", "Tove", "Wei", "Yara", "Zoltan",
];
const FAMILY_NAMES: &[&str] = &[
    "Abbott", "Bergman", "Costa", "Duarte", "Eriksen", "Fischer", "Grant", "Hassan", "Ivanov", "Jansen", "Keller",
    "Larsen", "Moreau", "Novak", "Okafor", "Petrov", "Quinn", "Rossi", "Sato", "Tanaka", "Ueda", "Virtanen", "Weber",
];
const ROLES: &[&str] =
    &["CFO", "CTO", "Head of Operations", "Head of Procurement", "IT Manager", "Plant Manager", "Product Owner"];
const PRODUCTS: &[&str] = &["Analytics", "Connect", "Fleet", "Insight", "Platform", "Sensor", "Service Desk", "Vision"];
const DEAL_KINDS: &[&str] = &["expansion", "pilot", "renewal", "rollout", "upgrade"];
const PROBLEMS: &[(&str, &str)] = &[
    ("Export stops after 10,000 rows", "The nightly export ends early and the file has no last line."),
    ("Invoice shows the wrong address", "Our billing address changed in spring; invoices still use the old one."),
    ("Login fails for new colleagues", "Accounts created this week get an error right after the password."),
    ("Dashboard loads slowly", "The overview takes more than twenty seconds since the last update."),
    ("Sensor readings are missing", "Two sensors at the second site have sent nothing since Monday."),
    ("Question about the contract", "Which notice period applies to the additional licences?"),
    ("Webhook is delivered twice", "Every change of an order reaches us two times."),
    ("Report in the wrong currency", "The quarterly report mixes euro and pound."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_are_the_same_every_time_and_hang_together() {
        let (records, again) = (Records::generate(), Records::generate());
        assert_eq!(format!("{records:?}"), format!("{again:?}"));
        assert!(records.contacts.len() >= CUSTOMERS);
        for deal in &records.deals {
            assert!(records.customer(&deal.customer_id).is_some());
        }
        assert!(records.contacts.iter().all(|contact| contact.email.is_ascii()));
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(today(), "2026-11-20");
    }
}
