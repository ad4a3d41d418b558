//! Many calls of one tool as one call of another, where the configuration says which does for many what this one does for one.
//!
//! A call that is gathered waits for its answer like one that waits for an identical call (`flight.rs`); only that what leads
//! is the batch. So identical calls are one value, whoever leaves takes nobody along, and when the batch comes to nothing -
//! the server refuses it as a whole, asks something, the gateway stops - everybody calls for himself. Calls come together
//! only when they could have been made for one another: the same caller (or everybody, where answers are everybody's), the
//! same era, capabilities and roots.

use super::{
    flight::{Lead, Shared},
    keep,
    key::{self, Key},
    plan::Plan,
    refresh,
};
use crate::{call::Call, record, resolve::Target, session::CallControl};
use bytes::Bytes;
use fairlead_config::{Batch, Priority};
use fairlead_observe::ReuseOutcome;
use fairlead_upstream::Final;
use fairlead_wire::{Era, Field, Frame, Kind, Limits, list, message};
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{sync::Notify, time::Instant};

/// One value of a batch.
struct Member {
    /// As its caller wrote it.
    value: Box<str>,
    plan: Plan,
    lead: Lead,
}

/// Calls that are being gathered.
struct Group {
    members: Mutex<Vec<Member>>,
    full: Notify,
}

impl Group {
    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().expect("invariant: no panic under this lock")
    }
}

type Groups = HashMap<Key, Arc<Group>>;

/// All groups that are being gathered. Each has a call that waits, so there are as many as calls at most.
#[derive(Default)]
pub(crate) struct Batches(Mutex<Groups>);

impl Batches {
    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().expect("invariant: no panic under this lock")
    }
}

/// The value of a call that can be one of many; `None` when it cannot.
pub(super) fn value(call: &Call, target: &Target, batch: &Batch) -> Option<Box<str>> {
    // Who has less time than a batch is gathered for is not gathered.
    let is_hasty = Instant::now() + batch.wait >= call.deadline(target.timeouts().1);
    if call.task.is_some() || key::is_changed(call, target) || is_hasty {
        return None;
    }
    let arguments = call.frame.raw(Field::Arguments)?;
    let Some(from) = &batch.from else {
        return arguments.starts_with('{').then(|| arguments.into());
    };
    match list::entries(arguments).ok()?.as_slice() {
        [(name, raw)] if **name == **from => Some((*raw).into()),
        _ => None,
    }
}

/// Puts a value into the batch that is being gathered, or begins one.
pub(super) fn join(call: &Call, target: &Target, plan: &Plan, batch: &Arc<Batch>, value: Box<str>, lead: Lead) {
    let batches = &call.gateway.0.reuse.batches;
    // Dropped, the lead is one of those who wait: the call is made as it is.
    let Some(key) = Key::group(call, target, plan.together(), &batch.with) else { return };
    let ruled = target.rule.as_deref().and_then(|rule| rule.priority);
    let is_urgent = ruled.is_some_and(|priority| priority >= Priority::High);
    let member = Member { value, plan: plan.clone(), lead };
    let mut groups = batches.groups();
    if let Some(group) = groups.get(&key).cloned() {
        let count = {
            let mut members = group.members();
            members.push(member);
            members.len()
        };
        if count >= batch.max || is_urgent {
            groups.remove(&key);
            group.full.notify_one();
        }
        return;
    }
    let group = Arc::new(Group { members: Mutex::new(vec![member]), full: Notify::new() });
    if is_urgent {
        group.full.notify_one();
    }
    groups.insert(key.clone(), Arc::clone(&group));
    drop(groups);
    let (call, target, batch) = (call.aside(), target.clone(), Arc::clone(batch));
    let gateway = call.gateway.clone();
    gateway.serve_beside(async move {
        // Either way somebody took it out of the table, or it is taken out now.
        let _ = tokio::time::timeout(batch.wait, group.full.notified()).await;
        close(&call, &key, &group);
        let members = std::mem::take(&mut *group.members());
        send(call, &target, &batch, members).await;
    });
}

/// Nobody joins any more.
fn close(call: &Call, key: &Key, group: &Arc<Group>) {
    let mut groups = call.gateway.0.reuse.batches.groups();
    if groups.get(key).is_some_and(|other| Arc::ptr_eq(other, group)) {
        groups.remove(key);
    }
}

/// Makes the call for all, and gives everybody his part.
async fn send(mut call: Box<Call>, target: &Target, batch: &Batch, mut members: Vec<Member>) {
    // Who waits for it no more is not asked for.
    members.retain(|member| member.lead.is_wanted());
    if members.len() < 2 {
        return part(members);
    }
    let Some(frame) = request(&call, batch, &members) else { return part(members) };
    call.frame = frame;
    call.param_headers = None;
    let control = Arc::new(CallControl::default());
    call.control = Some(Arc::clone(&control));
    let Some(mut many) = Target::at(&target.upstream, &batch.with, &call) else { return part(members) };
    many.labels.clone_from(&target.labels);
    let target = many;
    target.upstream.metrics.reused(ReuseOutcome::Batch);
    let fetched = tokio::select! {
        fetched = refresh::fetch(&call, &target) => fetched,
        // Said before it is dropped: then the server is told.
        () = async {
            all_gone(&members).await;
            control.cancel();
        } => return,
    };
    match fetched {
        Ok((answer, link)) => {
            record::call(&call, &target, record::status_of(&answer.frame));
            split(&call, batch, members, &answer, link);
        }
        Err(Some(error)) => {
            record::failure(&call, &target, &error);
            for member in members {
                member.lead.settle(Shared::failure(&error));
            }
        }
        Err(None) => part(members),
    }
}

/// Each value is called for by itself: of those who wait for the same one, the first does.
fn part(members: Vec<Member>) {
    drop(members);
}

async fn all_gone(members: &[Member]) {
    for member in members {
        member.lead.abandoned().await;
    }
}

fn request(call: &Call, batch: &Batch, members: &[Member]) -> Option<Frame> {
    let values: Vec<&str> = members.iter().map(|member| &*member.value).collect();
    let meta =
        call.frame.raw(Field::Meta).map(|meta| format!(",\"_meta\":{}", without_token(meta))).unwrap_or_default();
    let params = format!(
        "{{\"name\":{},\"arguments\":{{{}:[{}]}}{meta}}}",
        message::quote(&batch.with),
        message::quote(&batch.argument),
        values.join(",")
    );
    Frame::parse(message::request("0", "tools/call", Some(&params)), &Limits::default()).ok()
}

/// A call's `_meta` without what belongs to that call alone.
fn without_token(meta: &str) -> String {
    let members = list::entries(meta).unwrap_or_default();
    let kept = members.iter().filter(|(name, _)| name != "progressToken");
    let kept: Vec<_> = kept.map(|(name, raw)| format!("{}:{raw}", message::quote(name))).collect();
    format!("{{{}}}", kept.join(","))
}

fn split(call: &Call, batch: &Batch, members: Vec<Member>, answer: &Final, link: Era) {
    let result = answer.frame.raw(Field::Result);
    let failed = answer.frame.kind() == Kind::Error || answer.frame.raw(Field::ResultIsError) == Some("true");
    let Some(structured) = result.filter(|_| !failed).and_then(structured) else {
        // It was refused as a whole, maybe for the sake of one: that one is to find out by itself.
        return part(members);
    };
    let values: Vec<&str> = members.iter().map(|member| &*member.value).collect();
    let parts = parts(batch, &structured, &values);
    let frames: Vec<Option<Frame>> =
        (0..members.len()).map(|at| parts.get(at).copied().flatten().and_then(|part| one(batch, part, link))).collect();
    for (member, frame) in members.into_iter().zip(frames) {
        let Some(frame) = frame else { continue };
        let answer = Final { frame, status: None };
        keep(call, &member.plan, &answer, link, member.plan.since);
        member.lead.settle(Shared::answer(&answer, link));
    }
}

/// The structured part of a result: JSON text.
fn structured(result: &str) -> Option<Cow<'_, str>> {
    if let Some(structured) = list::raw_member(result, "structuredContent") {
        return Some(Cow::Borrowed(structured));
    }
    let first = list::items(result, "content").ok()?.into_iter().next()?;
    let text = list::string_member(first, "text")?;
    // Only what is JSON can be taken apart.
    serde_json::from_str::<&RawValue>(&text).ok()?;
    Some(Cow::Owned(text.into_owned()))
}

/// The part of each value, in the order of the values; `None` where there is none.
fn parts<'a>(batch: &Batch, structured: &'a str, values: &[&str]) -> Vec<Option<&'a str>> {
    let mut held = Some(structured.trim());
    for step in batch.items.as_deref().into_iter().flat_map(|path| path.split('.')) {
        held = held.and_then(|held| list::raw_member(held, step));
    }
    let Some(held) = held else { return Vec::new() };
    // What says which part is whose: the value, or its member of that name where values are objects.
    let named = |value: &'_ str| match (&batch.from, &batch.key) {
        (None, Some(key)) => list::raw_member(value, key).map(|raw| plain(raw).into_owned()),
        _ => Some(plain(value).into_owned()),
    };
    // What goes by a name that two have could be either's, so nobody gets it.
    let mut names: Vec<Option<String>> = values.iter().map(|value| named(value)).collect();
    let mut times: HashMap<String, usize> = HashMap::new();
    names.iter().flatten().for_each(|name| *times.entry(name.clone()).or_default() += 1);
    names.iter_mut().for_each(|name| *name = name.take().filter(|name| times[name] == 1));
    if held.starts_with('{') {
        return names.iter().map(|name| list::raw_member(held, name.as_ref()?)).collect();
    }
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(held) else { return Vec::new() };
    match &batch.key {
        Some(key) => {
            let mut known: HashMap<Cow<'_, str>, Option<&str>> = HashMap::new();
            for item in items {
                if let Some(value) = list::raw_member(item.get(), key) {
                    known.entry(plain(value)).and_modify(|item| *item = None).or_insert(Some(item.get()));
                }
            }
            names.iter().map(|name| known.get(name.as_deref()?).copied().flatten()).collect()
        }
        // Nobody can say which is missing.
        None if items.len() != values.len() => Vec::new(),
        None => items.into_iter().map(|item| Some(item.get())).collect(),
    }
}

/// A value as text: `"7"` and `7` are the same here.
fn plain(raw: &str) -> Cow<'_, str> {
    if raw.starts_with('"') {
        serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(raw), Cow::Owned)
    } else {
        Cow::Borrowed(raw)
    }
}

/// The answer of one call, made of its part.
fn one(batch: &Batch, part: &str, link: Era) -> Option<Frame> {
    let error = batch.error.as_deref().and_then(|member| list::raw_member(part, member));
    let error = error.filter(|raw| !matches!(*raw, "null" | "false"));
    let kind = if link == Era::Modern { "\"resultType\":\"complete\"," } else { "" };
    let text = message::quote(&plain(error.unwrap_or(part)));
    let rest = match error {
        Some(_) => ",\"isError\":true".to_owned(),
        None if part.starts_with('{') => format!(",\"structuredContent\":{part}"),
        None => String::new(),
    };
    let result = format!("{{{kind}\"content\":[{{\"type\":\"text\",\"text\":{text}}}]{rest}}}");
    let bytes: Bytes = message::result("0", &result);
    Frame::parse(bytes, &Limits::default()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn batch(from: Option<&str>, items: Option<&str>, key: Option<&str>) -> Batch {
        Batch {
            with: "many".into(),
            argument: "ids".into(),
            from: from.map(Into::into),
            max: 50,
            wait: Duration::from_millis(1),
            items: items.map(Into::into),
            key: key.map(Into::into),
            error: Some("error".into()),
        }
    }

    #[test]
    fn results_are_split_by_key_by_name_and_by_place() {
        let values = ["7", "\"b\"", "9"];
        for (items, key, structured, expected) in [
            (None, Some("id"), r#"[{"id":"b"},{"id":7}]"#, [Some(r#"{"id":7}"#), Some(r#"{"id":"b"}"#), None]),
            (Some("rows"), Some("id"), r#"{"rows":[{"id":9,"x":1}]}"#, [None, None, Some(r#"{"id":9,"x":1}"#)]),
            (Some("a.b"), None, r#"{"a":{"b":[1,2,3]}}"#, [Some("1"), Some("2"), Some("3")]),
            (None, None, r#"{"7":1,"b":"two"}"#, [Some("1"), Some("\"two\""), None]),
            (None, None, "[1,[2],null]", [Some("1"), Some("[2]"), Some("null")]),
        ] {
            assert_eq!(parts(&batch(Some("id"), items, key), structured, &values), expected, "{structured}");
        }
        // Without keys nobody can say which one is missing.
        assert!(parts(&batch(Some("id"), None, None), "[1,2]", &values).is_empty());
        assert!(parts(&batch(Some("id"), Some("rows"), None), "{}", &values).is_empty());
        assert!(parts(&batch(Some("id"), None, None), "7", &values).is_empty());
    }

    #[test]
    fn where_the_values_are_objects_the_key_is_a_member_of_theirs_too() {
        let values = [r#"{"id":"x","n":1}"#, r#"{"id":2}"#, r#"{"n":3}"#];
        let batch = batch(None, None, Some("id"));
        let got = parts(&batch, r#"[{"id":2,"is":"two"},{"id":"x","is":"ex"}]"#, &values);
        assert_eq!(got, [Some(r#"{"id":"x","is":"ex"}"#), Some(r#"{"id":2,"is":"two"}"#), None]);
    }

    #[test]
    fn what_could_be_the_answer_of_two_is_nobodys() {
        let objects = batch(None, None, Some("id"));
        let years = [r#"{"id":"c7","year":1}"#, r#"{"id":"c7","year":2}"#, r#"{"id":"c8"}"#];
        let got = parts(&objects, r#"[{"id":"c7","of":1},{"id":"c8","of":3}]"#, &years);
        assert_eq!(got, [None, None, Some(r#"{"id":"c8","of":3}"#)]);
        assert_eq!(
            parts(&batch(Some("id"), None, None), r#"{"7":1,"8":2}"#, &["7", "\"7\"", "8"]),
            [None, None, Some("2")]
        );
        let twice = parts(&batch(Some("id"), None, Some("id")), r#"[{"id":1,"a":1},{"id":1,"a":2}]"#, &["1", "2"]);
        assert_eq!(twice, [None, None]);
    }

    #[test]
    fn a_part_becomes_the_answer_of_a_call() {
        let batch = batch(None, None, None);
        let text = |given: &str, link| {
            let frame = one(&batch, given, link).expect("a message");
            frame.raw(Field::Result).expect("a result").to_owned()
        };
        assert_eq!(
            text(r#"{"a":1}"#, Era::Legacy),
            r#"{"content":[{"type":"text","text":"{\"a\":1}"}],"structuredContent":{"a":1}}"#
        );
        assert_eq!(
            text("\"plain\"", Era::Modern),
            r#"{"resultType":"complete","content":[{"type":"text","text":"plain"}]}"#
        );
        assert_eq!(
            text(r#"{"error":"no such"}"#, Era::Legacy),
            r#"{"content":[{"type":"text","text":"no such"}],"isError":true}"#
        );
        assert!(!text(r#"{"error":null}"#, Era::Legacy).contains("isError"));
    }

    #[test]
    fn a_progress_token_stays_behind() {
        assert_eq!(without_token(r#"{"progressToken":1,"x/y":{"a":[1]}}"#), r#"{"x/y":{"a":[1]}}"#);
        assert_eq!(without_token(r#"{"progressToken":1}"#), "{}");
    }
}
