//! Where a call goes when its name alone does not decide it: the configuration's `routes`, and names without a server.
//!
//! A route keeps the *name* of what is asked for and changes the *server*: each server it leads to has the tool, prompt or
//! resource under the same name of its own. Which of several it is follows from the call itself (a hash of its name, its
//! arguments and its caller), never from chance: a call that is made again, because its server asked its client
//! something or because somebody repeats it, goes where it went before. Two different calls are spread by their hashes, which
//! over many calls comes to the weights.
//!
//! A server that is down, or does not list the thing, is passed over, first for others of its priority, then for those of the
//! next. When nobody is left the best one of the rule is taken, so that its error is what is told.

pub(crate) mod mirror;

use crate::{call::Call, merged::Merged, shaping, snapshot::Upstream};
use fairlead_config::{Config, Destination, Labels, Mirror, Route as Rule};
use fairlead_upstream::{ListingKind, State};
use fairlead_wire::{Field, list, name};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The compiled routes of an endpoint.
#[derive(Debug)]
pub(crate) struct Routing(Vec<Compiled>);

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    /// The servers of `rule.to`, as places among the endpoint's.
    to: Vec<(usize, Destination)>,
    mirror: Option<(usize, Mirror, Arc<Semaphore>)>,
}

/// What a call asks for, as rules see it.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) kind: ListingKind,
    /// Its exposed name or URI.
    pub(crate) exposed: &'a str,
    /// The server's own name for it.
    pub(crate) original: &'a str,
}

impl Routing {
    /// `None` where there are no routes: then nothing is looked at.
    pub(crate) fn new(config: &Config, servers: &[Upstream]) -> Option<Box<Self>> {
        if config.routes.is_empty() {
            return None;
        }
        let place = |name: &fairlead_core::ServerName| servers.iter().position(|server| server.handle.name() == name);
        let compiled = config.routes.iter().map(|rule| Compiled {
            to: rule.to.iter().filter_map(|to| Some((place(&to.server)?, to.clone()))).collect(),
            mirror: rule.mirror.as_ref().and_then(|mirror| {
                Some((place(&mirror.server)?, mirror.clone(), Arc::new(Semaphore::new(mirror.max))))
            }),
            rule: rule.clone(),
        });
        Some(Box::new(Self(compiled.collect())))
    }

    /// The server of a call, and which of its instances: the one that has it by name, unless a route says another.
    pub(crate) fn server(&self, call: &Call, asked: Asked<'_>, owner: usize) -> (usize, Option<Arc<Labels>>) {
        let Some(route) = self.0.iter().find(|route| matches(&route.rule, call, asked)) else { return (owner, None) };
        if route.to.is_empty() {
            return (owner, None);
        }
        let servers = &call.endpoint.servers;
        // What a server's own rules keep back is not reached through a route either, not even for its error.
        let may = |at: &usize| is_permitted(&servers[*at], call, asked);
        let to: Vec<_> = route.to.iter().filter(|(at, _)| may(at)).cloned().collect();
        let is_up = |place: usize| {
            let (at, to) = &to[place];
            let required = to.labels.as_ref().filter(|labels| labels.required);
            is_there(&servers[*at], call, asked)
                && required.is_none_or(|labels| servers[*at].handle.has_labelled(labels))
        };
        let place = pick(&to, hash(call, asked, route.rule.by_caller), is_up);
        place.and_then(|place| to.get(place)).map_or((owner, None), |(at, to)| (*at, to.labels.clone()))
    }

    /// The server that gets a copy of a call, with the room for it.
    fn mirror(&self, call: &Call, asked: Asked<'_>) -> Option<&(usize, Mirror, Arc<Semaphore>)> {
        let route = self.0.iter().find(|route| matches(&route.rule, call, asked))?;
        let mirror = route.mirror.as_ref()?;
        // Another part of the hash than the one that splits, or one side of a split would be copied and the other not.
        let place = (hash(call, asked, false) >> 32) % 100;
        (place < u64::from(mirror.1.percent)).then_some(mirror)
    }
}

fn matches(rule: &Rule, call: &Call, asked: Asked<'_>) -> bool {
    let any = |globs: &[fairlead_config::Glob], text: &str| globs.iter().any(|glob| glob.matches(text));
    let of_kind = match asked.kind {
        ListingKind::Tools | ListingKind::Prompts => {
            any(&rule.tool, asked.exposed) || (rule.tool.is_empty() && rule.uri.is_empty())
        }
        ListingKind::Resources | ListingKind::Templates => any(&rule.uri, asked.exposed),
    };
    of_kind
        && (rule.caller.is_empty() || any(&rule.caller, call.caller.key().as_str()))
        && rule.arguments.iter().all(|(path, glob)| {
            argument(call.frame.raw(Field::Arguments), path).is_some_and(|value| glob.matches(&value))
        })
}

/// The argument at a path as text; `None` when it is not there, or no text, number or boolean.
fn argument(arguments: Option<&str>, path: &[String]) -> Option<String> {
    let mut value = arguments?;
    for step in path {
        value = list::raw_member(value, step)?;
    }
    match value.as_bytes().first()? {
        b'"' => serde_json::from_str(value).ok(),
        b'{' | b'[' => None,
        _ => Some(value.to_owned()),
    }
}

/// Whether a server's rules let its clients have what is asked for.
fn is_permitted(server: &Upstream, call: &Call, asked: Asked<'_>) -> bool {
    asked.kind != ListingKind::Tools
        || (server.handle.config().tools.permits(asked.original)
            && !shaping::standing(&call.endpoint, server, asked.kind, asked.original).is_hidden())
}

/// Whether a server is not down, and has what is asked for as far as is known.
fn is_there(server: &Upstream, call: &Call, asked: Asked<'_>) -> bool {
    let view = server.handle.peek();
    if matches!(view.state, State::Down { .. } | State::Stopped) {
        return false;
    }
    // What a template stands for is in no list.
    matches!(asked.kind, ListingKind::Resources | ListingKind::Templates)
        || view
            .nearest_catalog(call.era, call.capabilities)
            .is_none_or(|catalog| catalog.listing(asked.kind).get(asked.original).is_some())
}

/// The place in `to` for a hash: by weight among those that may be used of the first priority that has any; when nobody may, of
/// the first priority whoever it is.
fn pick(to: &[(usize, Destination)], hash: u64, may: impl Fn(usize) -> bool) -> Option<usize> {
    let mut priorities: Vec<u32> = to.iter().map(|(_, to)| to.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let weighed = |priority: u32, may: &dyn Fn(usize) -> bool| {
        let of_it = || {
            let places = to.iter().map(|(_, to)| to).enumerate();
            places.filter(|(place, to)| to.priority == priority && to.weight > 0 && may(*place))
        };
        let whole: u64 = of_it().map(|(_, to)| u64::from(to.weight)).sum();
        let mut left = hash.checked_rem(whole)?;
        of_it().find_map(|(place, to)| match left.checked_sub(u64::from(to.weight)) {
            None => Some(place),
            Some(rest) => {
                left = rest;
                None
            }
        })
    };
    let first = priorities.first().copied()?;
    priorities.iter().find_map(|priority| weighed(*priority, &may)).or_else(|| weighed(first, &|_| true))
}

/// What a call is split by: FNV-1a over its parts, stirred so that every bit depends on all of them.
fn hash(call: &Call, asked: Asked<'_>, by_caller: bool) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut part = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    part(call.caller.key().as_str().as_bytes());
    if by_caller {
        if let Some(session) = &call.session {
            part(&session.user.to_be_bytes());
        }
    } else {
        part(asked.exposed.as_bytes());
        part(call.frame.raw(Field::Arguments).unwrap_or_default().as_bytes());
    }
    stir(hash)
}

/// The finisher of splitmix64.
fn stir(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The exposed name that is meant by one that is not: `server.tool`, and where `names.any_server` allows it a tool's own
/// name without a server, which is that of the first server that has it and is not down.
pub(crate) fn meant(call: &Call, merged: &Merged, called: &str) -> Option<String> {
    let endpoint = &call.endpoint;
    let expose = |server: &str, own: &str| name::expose(server, own, endpoint.config.names.max);
    if let Some((server, own)) = called.split_once('.') {
        let exposed = expose(server, own);
        let is_there = endpoint.servers.iter().any(|upstream| upstream.handle.name().as_str() == server);
        if is_there && merged.tool(&exposed).is_some() {
            return Some(exposed);
        }
    }
    if !endpoint.config.names.any_server {
        return None;
    }
    let asked = Asked { kind: ListingKind::Tools, exposed: called, original: called };
    let named = |upstream: &Upstream| {
        let exposed = expose(upstream.handle.name().as_str(), called);
        merged.tool(&exposed).is_some().then_some(exposed)
    };
    let servers = &endpoint.servers;
    let is_eligible = |upstream: &&Upstream| is_permitted(upstream, call, asked) && is_there(upstream, call, asked);
    let eligible = servers.iter().filter(is_eligible).find_map(named);
    eligible.or_else(|| servers.iter().find_map(named))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

    use super::*;

    fn to(rows: &[(u32, u32)]) -> Vec<(usize, Destination)> {
        let server = fairlead_core::ServerName::parse("a").unwrap();
        rows.iter()
            .enumerate()
            .map(|(at, (weight, priority))| {
                (at, Destination { server: server.clone(), weight: *weight, priority: *priority, labels: None })
            })
            .collect()
    }

    #[test]
    fn calls_are_split_by_weight() {
        let to = to(&[(90, 0), (10, 0), (0, 0), (1, 1)]);
        let mut counts = [0; 4];
        for number in 0..10_000_u64 {
            counts[pick(&to, stir(number), |_| true).unwrap()] += 1;
        }
        assert!((8_800..9_200).contains(&counts[0]) && counts[0] + counts[1] == 10_000, "{counts:?}");
        assert_eq!(pick(&to, 7, |_| true), pick(&to, 7, |_| true));
    }

    #[test]
    fn the_next_priority_is_for_when_the_first_is_gone() {
        let to = to(&[(1, 5), (1, 0), (1, 0), (1, 9)]);
        for hash in 0..100 {
            let first = pick(&to, hash, |_| true).unwrap();
            assert!(first == 1 || first == 2);
            assert_eq!(pick(&to, hash, |at| at != 1), Some(2));
            assert_eq!(pick(&to, hash, |at| at != 1 && at != 2), Some(0));
            assert_eq!(pick(&to, hash, |at| at == 3), Some(3));
            // Nobody may: the error is that of the first.
            assert_eq!(pick(&to, hash, |_| false), Some(first));
        }
        assert_eq!(pick(&[], 1, |_| true), None);
        assert_eq!(pick(&self::to(&[(0, 0)]), 1, |_| true), None);
    }

    #[test]
    fn arguments_are_found_by_path() {
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let arguments = r#"{"region":"eu-1","n":1.50,"deep":{"b":true},"list":[1],"null":null}"#;
        for (at, expected) in [
            ("region", Some("eu-1")),
            ("n", Some("1.50")),
            ("deep.b", Some("true")),
            ("null", Some("null")),
            ("deep", None),
            ("list", None),
            ("gone.x", None),
        ] {
            assert_eq!(argument(Some(arguments), &path(at)).as_deref(), expected, "{at}");
        }
        assert_eq!(argument(None, &path("x")), None);
    }
}
