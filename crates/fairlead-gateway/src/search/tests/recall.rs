//! How often the search finds what was asked for: `tests/search` has tools of real servers, what people ask, and which
//! tools are right. `docs/search.md` says how they were made and what other designs came to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

use crate::search::{
    catalog::{Catalog, Kept},
    found,
};
use bytes::Bytes;
use fairlead_config::Find;
use fairlead_core::tokens;
use serde_json::Value;
use std::{collections::HashSet, fs, path::PathBuf, sync::Arc};

/// Of a hundred questions, those that are answered at least (right tool among five, within 2,000 tokens).
const FLOOR: f64 = 83.0;

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/search").join(name);
    fs::read_to_string(path).unwrap()
}

fn tools() -> (Arc<Catalog>, Vec<(usize, usize)>) {
    let (mut items, mut owners, mut counts) = (Vec::<Bytes>::new(), Vec::<(usize, Box<str>)>::new(), Vec::new());
    for line in read("tools.jsonl").lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let server = row["server"].as_str().unwrap();
        // The exposed name takes the place of the server's own, as in a list.
        let raw = &line[line.find("\"tool\":").unwrap() + 7..line.len() - 1];
        let name = row["tool"]["name"].as_str().unwrap();
        counts.push((tokens::estimate(raw), usize::try_from(row["o200k"].as_u64().unwrap()).unwrap()));
        items.push(raw.replacen(&format!("\"name\":\"{name}\""), &format!("\"name\":\"{server}__{name}\""), 1).into());
        match owners.last_mut() {
            Some((end, owner)) if **owner == *server => *end = items.len(),
            _ => owners.push((items.len(), server.into())),
        }
    }
    (Kept::default().catalog(&items, &owners), counts)
}

#[tokio::test]
async fn what_is_asked_for_is_found() {
    let (catalog, _) = tools();
    assert!(catalog.tools.len() >= 1_000);
    let index = catalog.index().await;
    let find = Find { tokens: 2_000, tools: 5 };
    let queries = read("queries.tsv");
    let (mut found, mut named, mut all, mut most) = (0, 0, 0, 0);
    let mut halves = [(0, 0); 2];
    let mut missed = String::new();
    for line in queries.lines().filter(|line| !line.starts_with('#')) {
        let (query, right) = line.split_once('\t').unwrap();
        let right: HashSet<String> = right.split(' ').map(|name| name.replacen('/', "__", 1)).collect();
        assert!(right.iter().all(|name| catalog.get(name).is_some()), "{line}");
        let asked = found::Asked { query: query.to_owned(), ..found::Asked::default() };
        let text = found::search(&catalog, &index, find, &asked);
        most = most.max(tokens::estimate(&text));
        let answer: Value = serde_json::from_str(&text).unwrap();
        let names = answer["tools"].as_array().unwrap();
        assert!(names.len() <= 5);
        let is_found = names.iter().any(|tool| right.contains(tool["name"].as_str().unwrap()));
        let also = answer["also"].as_array().into_iter().flatten();
        let is_named =
            is_found || also.into_iter().any(|line| right.contains(line.as_str().unwrap().split(':').next().unwrap()));
        all += 1;
        found += usize::from(is_found);
        named += usize::from(is_named);
        halves[all % 2].0 += usize::from(is_found);
        halves[all % 2].1 += 1;
        if !is_found {
            missed.push_str(query);
            missed.push('\n');
        }
    }
    let share = |found: usize, all: usize| 100.0 * found as f64 / all as f64;
    println!("missed:\n{missed}");
    println!(
        "{} tools, {all} queries: {:.1} % among five (tuned on {:.1} %, kept aside {:.1} %), {:.1} % named, at most {most} tokens",
        catalog.tools.len(),
        share(found, all),
        share(halves[1].0, halves[1].1),
        share(halves[0].0, halves[0].1),
        share(named, all),
    );
    assert!(most <= find.tokens, "{most}");
    assert!(share(found, all) >= FLOOR, "{:.1} %", share(found, all));
}

#[test]
fn estimates_meet_a_real_tokenizer() {
    let (_, counts) = tools();
    let (estimated, counted) = counts.iter().fold((0, 0), |(a, b), (one, other)| (a + one, b + other));
    let share = estimated as f64 / counted as f64;
    assert!((0.97..1.03).contains(&share), "{share}");
    let mut errors: Vec<f64> =
        counts.iter().map(|(one, other)| (*one as f64 - *other as f64).abs() / *other as f64).collect();
    errors.sort_by(f64::total_cmp);
    let at = |share: f64| errors[(errors.len() as f64 * share) as usize];
    println!("sum {share:.3}, median error {:.3}, 95th {:.3}", at(0.5), at(0.95));
    assert!(at(0.5) < 0.04 && at(0.95) < 0.1, "{} {}", at(0.5), at(0.95));
}
