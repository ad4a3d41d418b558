//! TOML, read by the `toml` crate's parser, which goes on after a mistake and so finds them all.

use super::Fault;
use crate::tree::{Entry, MAX_DEPTH, Map, Node, Place, Value};
use toml::de::{DeTable, DeValue};

pub(super) fn read(text: &str, source: usize) -> Result<Node, Vec<Fault>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|error| {
                let span = error.span().unwrap_or(0..0);
                let message = error.message().replace('\n', "; ");
                let hint = if message.contains("duplicate") { "keep one of the two" } else { "" };
                Fault { start: span.start, end: span.end, message, hint: hint.to_owned() }
            })
            .collect());
    }
    let map = self::table(table.into_inner(), source, 0).map_err(|fault| vec![fault])?;
    Ok(Node::new(Value::Map(map), Place { source, start: 0, end: 0 }))
}

fn table(table: DeTable<'_>, source: usize, depth: usize) -> Result<Map, Fault> {
    let mut entries: Vec<(String, Entry)> = Vec::with_capacity(table.len());
    for (key, value) in table {
        let place = Place { source, start: key.span().start, end: key.span().end };
        let span = value.span();
        let node = self::node(value.into_inner(), Place { source, start: span.start, end: span.end }, depth + 1)?;
        entries.push((key.into_inner().into_owned(), Entry { key: place, node }));
    }
    // The parser sorts by name; the order of servers is the order of the file.
    entries.sort_by_key(|(_, entry)| entry.key.start);
    Ok(entries.into_iter().collect())
}

fn node(value: DeValue<'_>, place: Place, depth: usize) -> Result<Node, Fault> {
    if depth > MAX_DEPTH {
        return Err(super::too_deep(place.start));
    }
    let value = match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Value::Number(number.as_str().to_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number.to_string()),
            Err(_) => return Err(fault(place, "the number is too large", "")),
        },
        DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(_) => {
            return Err(fault(place, "nothing in a configuration is a date", "quote it if it is text"));
        }
        DeValue::Array(items) => {
            let mut list = Vec::with_capacity(items.len());
            for item in items {
                let span = item.span();
                let place = Place { start: span.start, end: span.end, ..place };
                list.push(node(item.into_inner(), place, depth + 1)?);
            }
            Value::List(list)
        }
        DeValue::Table(inner) => Value::Map(table(inner, place.source, depth)?),
    };
    Ok(Node::new(value, place))
}

fn fault(place: Place, message: &str, hint: &str) -> Fault {
    Fault { start: place.start, end: place.end, message: message.to_owned(), hint: hint.to_owned() }
}
