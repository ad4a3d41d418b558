//! Starting and stopping a server with its instances. A changed configuration takes over the owners of instances that
//! stay as they are, with their links and what they know.

use super::{Group, Member, ServerHandle, Several, conductor};
use crate::{
    balance::mix,
    handle::InstanceHandle,
    instance::{Instance, Out},
    owner::{self, Beginning, Command, Environment},
    roster::Roster,
    view::ServerView,
};
use arc_swap::ArcSwap;
use fairlead_config::{Place, Server, Strategy};
use fairlead_core::ports::StoredCatalog;
use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{broadcast, oneshot, watch},
    task::{JoinHandle, JoinSet},
};

/// Events for the gateway that a slow listener may lag behind.
const BROADCAST: usize = 1024;

/// A server that runs. Dropping it aborts its owners and with them everything they hold, but not those that another
/// one took over.
#[derive(Debug)]
pub struct Running {
    handle: ServerHandle,
    conductor: Option<JoinHandle<()>>,
}

impl Running {
    /// The handle for calls.
    #[must_use]
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    fn own_members(&self) -> impl Iterator<Item = &Arc<Member>> {
        let id = self.handle.0.id;
        self.handle.0.members.iter().filter(move |member| member.is_of(id))
    }

    /// Calls in flight on instances that nobody took over.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.own_members().map(|member| member.own.in_flight()).sum()
    }

    /// Closes every link, gracefully and within bounds, and ends the owners.
    pub async fn stop(mut self) {
        if let Some(conductor) = self.conductor.take() {
            conductor.abort();
        }
        let mut stopping = JoinSet::new();
        for member in self.own_members() {
            let (commands, task) = (member.own.0.commands.clone(), member.take_task());
            stopping.spawn(async move {
                let (done, stopped) = oneshot::channel();
                if commands.send(Command::Stop { done }).await.is_ok() {
                    let _ = stopped.await;
                }
                if let Some(task) = task {
                    let _ = task.await;
                }
            });
        }
        while stopping.join_next().await.is_some() {}
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(conductor) = &self.conductor {
            conductor.abort();
        }
        for member in self.own_members() {
            if let Some(task) = member.take_task() {
                task.abort();
            }
        }
    }
}

/// A number no other group or instance of this process has, as far as chance allows.
fn number() -> u64 {
    RandomState::new().hash_one(()).max(1)
}

/// Starts the owners of `server` on the current runtime. `stored` are its records of earlier runs; `before` is the
/// server it takes over from, whose clients' subscriptions and log levels it keeps, and the owners of the instances
/// that are the same in both.
#[must_use]
pub fn start(
    server: Arc<Server>,
    stored: Vec<StoredCatalog>,
    before: Option<&ServerHandle>,
    environment: &Environment,
) -> Running {
    let parts = server.parts();
    let id = number();
    let several = parts.len() > 1 || !server.instances.health.is_empty();
    let watches = before.map_or_else(Arc::default, |before| Arc::clone(&before.0.watches));
    let remembered = before.map_or_else(Arc::default, |before| Arc::clone(&before.0.remembered));
    let mut taken = Taken::of(before);
    let adopted: Vec<_> = parts.iter().map(|(place, part)| taken.take(id, place, part)).collect();
    let lead = lead(&adopted, before);
    // All instances list the same, so what one of them listed is good for each.
    let identities: HashSet<String> = parts.iter().map(|(_, part)| part.identity()).collect();
    let known: Vec<_> = stored.into_iter().filter(|record| identities.contains(&record.identity)).collect();
    let mut members = Vec::with_capacity(parts.len());
    for (index, ((place, part), adopted)) in parts.into_iter().zip(adopted).enumerate() {
        let is_lead = index == lead;
        let member = match adopted {
            Some(member) => {
                if is_lead && !Arc::ptr_eq(&member.own.0.watches.load(), &watches) {
                    let _ = member.own.0.commands.try_send(Command::Watch { watches: Arc::clone(&watches) });
                }
                member
            }
            None => {
                let instance = Instance::new(number(), &place.name, place.weight, place.labels);
                if taken.any {
                    instance.came_back(tokio::time::Instant::now());
                }
                let identity = part.identity();
                let beginning = Beginning {
                    stored: known
                        .iter()
                        .map(|one| StoredCatalog { identity: identity.clone(), ..one.clone() })
                        .collect(),
                    remembered: Arc::clone(&remembered),
                    watches: if is_lead { Arc::clone(&watches) } else { Arc::default() },
                    instance,
                };
                let (shared, task) = owner::start(Arc::new(part), beginning, environment);
                let own = InstanceHandle(shared);
                Arc::new(Member { own, group: AtomicU64::new(id), task: Mutex::new(Some(task)) })
            }
        };
        if several {
            member.instance().measure();
            member.instance().listen(server.instances.balance.strategy == Strategy::Resource);
        }
        members.push(member);
    }
    taken.leave();
    let instances = || members.iter().map(|member: &Arc<Member>| Arc::clone(member.instance())).collect();
    let several = several.then(|| Several {
        roster: Roster::new(server.instances.balance.clone(), instances(), mix(id)),
        view: ArcSwap::from_pointee(ServerView::new()),
        changed: watch::channel(0).0,
        events: broadcast::channel(BROADCAST).0,
        best: AtomicUsize::new(0),
        lead: AtomicUsize::new(lead),
    });
    let group = Group { id, server, members: members.into(), watches, remembered, several };
    let handle = ServerHandle(Arc::new(group));
    let conductor = conductor::start(&handle, environment);
    Running { handle, conductor }
}

/// The place of the instance that tells of what is watched: the one that did so far, if it stays.
fn lead(adopted: &[Option<Arc<Member>>], before: Option<&ServerHandle>) -> usize {
    let was = before.and_then(|before| {
        let lead = before.0.several.as_ref().map_or(0, |several| several.lead.load(Ordering::Relaxed));
        before.0.members.get(lead)
    });
    let stays =
        |member: &Option<Arc<Member>>| matches!((member, was), (Some(member), Some(was)) if Arc::ptr_eq(member, was));
    let up = |member: &Option<Arc<Member>>| member.as_ref().is_some_and(|member| member.is_up());
    adopted.iter().position(stays).or_else(|| adopted.iter().position(up)).unwrap_or(0)
}

/// The members of the group before, for the next.
struct Taken {
    members: Vec<Arc<Member>>,
    /// Some were taken over.
    any: bool,
}

impl Taken {
    fn of(before: Option<&ServerHandle>) -> Self {
        let members = before.map_or_else(Vec::new, |before| {
            before.0.members.iter().filter(|member| member.is_of(before.0.id)).cloned().collect()
        });
        Self { members, any: false }
    }

    /// The member that runs just this, now one of the group `id`.
    fn take(&mut self, id: u64, place: &Place, part: &Server) -> Option<Arc<Member>> {
        let same = |member: &Arc<Member>| member.instance().name() == place.name && *member.own.0.server == *part;
        let at = self.members.iter().position(same)?;
        let member = self.members.swap_remove(at);
        member.group.store(id, Ordering::Release);
        let instance = member.instance();
        instance.settle(place.weight, place.labels.clone());
        // What was found out by checks and comparisons is found out anew.
        for why in [Out::EJECTED, Out::UNREADY, Out::NOT_STARTED] {
            instance.set_out(why, false);
        }
        instance.set_reason(None);
        self.any = true;
        Some(member)
    }

    /// What is left gets no new calls. Where others stay, one of those tells of what is watched.
    fn leave(self) {
        for member in self.members {
            member.instance().set_out(Out::LEAVING, true);
            if self.any {
                let _ = member.own.0.commands.try_send(Command::Watch { watches: Arc::default() });
            }
        }
    }
}
