//! The instances of a server: each a way to reach it, under a name of its own.

use super::Builder;
use crate::{
    HostPort,
    check::shorten,
    file::ServerFile,
    instances::{AskFile, Check, CheckFile, Health, Instances, MAX_INSTANCES, MAX_NAME, Place, Probe, ejection},
    model::Transport,
};
use std::{collections::HashSet, time::Duration};

/// Keys that say where a server is, and that its instances say in its place.
const PLACES: [&str; 6] = ["url", "serverUrl", "httpUrl", "tcp", "unix", "command"];

/// The server's transport (of several instances: that of the first) and its instances. `None` when something is wrong
/// with them, which was reported.
pub(super) fn build(builder: &mut Builder<'_>, name: &str, file: &mut ServerFile) -> Option<(Transport, Instances)> {
    let listed = std::mem::take(&mut file.instances);
    let written = builder.has(&["servers", name, "instances"]);
    let list = match (written, file.replicas) {
        (true, Some(_)) => {
            let message = "the server has both `instances` and `replicas`";
            builder.key_error(&["servers", name, "replicas"], message, "keep one of the two");
            return None;
        }
        (true, None) => places(builder, name, file, listed)?,
        (false, Some(count)) => replicas(builder, name, file, count)?,
        (false, None) => Vec::new(),
    };
    let transport = match list.first() {
        Some(place) => place.transport.clone(),
        None => super::transport::build(builder, name, file)?,
    };
    let ways: Vec<&Transport> = match &list[..] {
        [] => vec![&transport],
        list => list.iter().map(|place| &place.transport).collect(),
    };
    let health = health(builder, name, file, &ways)?;
    if list.len() < 2 {
        for key in ["balance", "ejection"] {
            if builder.has(&["servers", name, key]) {
                let message = format!("`{key}` has no effect on a server with a single instance");
                builder.key_warning(&["servers", name, key], message, "list its `instances`, or remove it");
            }
        }
    }
    let balance = file.balance.0.clone();
    if balance.argument.is_some() && !matches!(balance.by, crate::instances::StickyFile::Argument) {
        let at = ["servers", name, "balance", "argument"];
        builder.key_error(&at, "`argument` goes with `by: argument`", "write `by: argument`");
        return None;
    }
    if balance.health + balance.latency == 0 {
        let at = ["servers", name, "balance", "health"];
        builder.error(&at, "`health` and `latency` cannot both be zero", "");
        return None;
    }
    let ejection = ejection(file.ejection.clone());
    Some((transport, Instances { list, balance: balance.into(), ejection, health }))
}

fn places(
    builder: &mut Builder<'_>,
    server: &str,
    file: &ServerFile,
    listed: Vec<crate::instances::InstanceFile>,
) -> Option<Vec<Place>> {
    for key in PLACES {
        if builder.has(&["servers", server, key]) {
            let message = format!("the server has both `instances` and `{key}`");
            builder.key_error(&["servers", server, key], message, "move it into `instances`");
            return None;
        }
    }
    let at = ["servers", server, "instances"];
    if listed.is_empty() || listed.len() > MAX_INSTANCES {
        let message = format!("a server has from 1 to {MAX_INSTANCES} instances");
        builder.error(&at, message, "write `instances: [{ url: ... }, { url: ... }]`");
        return None;
    }
    let mut names = HashSet::new();
    let mut places = Vec::with_capacity(listed.len());
    for (index, one) in listed.into_iter().enumerate() {
        let number = index.to_string();
        let here = ["servers", server, "instances", &number];
        if one.url.is_none() && one.unix.is_none() && one.tcp.is_none() {
            builder.error(&here, "the instance has none of `url`, `tcp` and `unix`", "write `url: ...`");
            return None;
        }
        if one.tcp.is_some() && (one.url.is_some() || one.unix.is_some()) {
            builder.error(&here, "the instance has `tcp` and another way to reach it", "keep one of the two");
            return None;
        }
        let alone = ServerFile { url: one.url, tcp: one.tcp, unix: one.unix, ..file.clone() };
        let transport = super::transport::build(builder, server, &alone)?;
        let name = one.name.unwrap_or_else(|| Place::usual_name(&transport));
        if name.is_empty()
            || name.chars().count() > MAX_NAME
            || name.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            let message = format!("`{}` cannot be the name of an instance", shorten(&name));
            let hint = format!("at most {MAX_NAME} characters without blanks");
            builder.error(&[here[0], here[1], here[2], here[3], "name"], message, hint);
            return None;
        }
        if !names.insert(name.clone()) {
            let message = format!("two instances are called `{}`", shorten(&name));
            builder.error(&here, message, "give each a `name` of its own");
            return None;
        }
        let labels = one.labels.into_iter().map(|(key, value)| (key, value.0)).collect();
        places.push(Place { name, transport, weight: one.weight, labels });
    }
    Some(places)
}

/// So many processes of one command.
fn replicas(builder: &mut Builder<'_>, server: &str, file: &ServerFile, count: usize) -> Option<Vec<Place>> {
    if file.command.is_none() {
        let at = ["servers", server, "replicas"];
        builder.key_error(&at, "`replicas` are processes of a `command`", "list `instances` of anything else");
        return None;
    }
    let transport = super::transport::build(builder, server, file)?;
    let one = |number: usize| Place {
        name: number.to_string(),
        transport: transport.clone(),
        weight: 1,
        labels: std::collections::BTreeMap::new(),
    };
    Some((1..=count).map(one).collect())
}

/// The checks of instances that are reached in `ways`. Several that say nothing of it are asked for a sign of life.
fn health(builder: &mut Builder<'_>, server: &str, file: &ServerFile, ways: &[&Transport]) -> Option<Health> {
    let Some(written) = &file.health else {
        let usual = check(builder, server, "readiness", &CheckFile::default(), ways)?;
        return Some(Health { readiness: (ways.len() > 1).then_some(usual), ..Health::default() });
    };
    let mut one = |key: &str, file: &Option<CheckFile>| match file {
        Some(file) => check(builder, server, key, file, ways).map(Some),
        None => Some(None),
    };
    Some(Health {
        startup: one("startup", &written.startup)?,
        readiness: one("readiness", &written.readiness)?,
        liveness: one("liveness", &written.liveness)?,
    })
}

fn check(builder: &mut Builder<'_>, server: &str, key: &str, file: &CheckFile, ways: &[&Transport]) -> Option<Check> {
    let at = ["servers", server, "health", key];
    let written = [file.mcp.is_some(), file.http.is_some(), file.tcp.is_some(), !file.command.is_empty()];
    if written.iter().filter(|way| **way).count() > 1 {
        builder.error(&at, "a check is one of `mcp`, `http`, `tcp` and `command`", "keep one of them");
        return None;
    }
    let probe = if let Some(target) = &file.http {
        let is_url = crate::Url::parse(target).is_ok_and(|url| !url.is_websocket());
        let is_path = target.starts_with('/') && target.parse::<http::uri::PathAndQuery>().is_ok();
        if !is_url && !is_path {
            let at = ["servers", server, "health", key, "http"];
            builder.error(&at, "this is neither a path nor a URL", "write `http: /health`");
            return None;
        }
        if is_path && ways.iter().any(|way| !matches!(way, Transport::Http(_))) {
            let at = ["servers", server, "health", key, "http"];
            builder.error(&at, "a path can only be asked of a server reached over HTTP", "write a whole URL");
            return None;
        }
        Probe::Http(target.clone())
    } else if let Some(address) = &file.tcp {
        let other = HostPort::parse(address);
        if other.is_none() && address != "instance" {
            let at = ["servers", server, "health", key, "tcp"];
            builder.error(&at, "this is not an address to connect to", "write `instance`, or a host and a port");
            return None;
        }
        if other.is_none() && ways.iter().any(|way| matches!(way, Transport::Stdio(_))) {
            let at = ["servers", server, "health", key, "tcp"];
            builder.error(&at, "a process has no address to connect to", "write `mcp: ping`, or a host and a port");
            return None;
        }
        Probe::Tcp(other)
    } else if !file.command.is_empty() {
        Probe::Command(file.command.iter().map(|part| part.0.clone()).collect())
    } else {
        match file.mcp {
            None | Some(AskFile::Ping) => Probe::Ping,
            Some(AskFile::List) => Probe::List,
        }
    };
    let (interval, timeout) = match &probe {
        Probe::Http(_) => (10, 5),
        Probe::Tcp(_) => (30, 3),
        Probe::Ping | Probe::List | Probe::Command(_) => (30, 5),
    };
    Some(Check {
        probe,
        interval: file.interval.as_ref().map_or(Duration::from_secs(interval), |interval| interval.0),
        timeout: file.timeout.as_ref().map_or(Duration::from_secs(timeout), |timeout| timeout.0),
        unhealthy_after: file.unhealthy_after,
        healthy_after: file.healthy_after,
    })
}
