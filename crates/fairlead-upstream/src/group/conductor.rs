//! The task of a server with several instances, or with checks: makes one picture of theirs, passes on what they say,
//! moves what is watched to another one when its teller goes down, ejects those that do worse than their siblings, and
//! notes who came back. It is never on the path of a call.

use super::{Member, ServerHandle, Several};
use crate::{
    catalog::ListingKind,
    event::ServerEvent,
    health::probe::Checks,
    instance::Out,
    owner::{Command, Environment},
    roster::Review,
    view::{Asks, ServerView, State},
};
use fairlead_wire::Era;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::{
    sync::{
        broadcast::error::RecvError,
        mpsc::{self, Receiver, Sender},
    },
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

/// What instances say that waits for the task.
const QUEUE: usize = 1024;

/// What the task is told.
enum Told {
    /// An instance published another picture, or a check came to another result.
    Changed,
    /// An instance said something.
    Said(usize, ServerEvent),
    /// An instance said more than was listened to.
    Missed(usize),
}

struct Conductor {
    handle: ServerHandle,
    epoch: Arc<AtomicU64>,
    review: Review,
    /// What every instance is known to ask.
    asks: Asks,
}

/// Starts the task; none for a single instance that is not checked.
pub(super) fn start(handle: &ServerHandle, environment: &Environment) -> Option<JoinHandle<()>> {
    let several = handle.0.several.as_ref()?;
    let count = handle.0.members.len();
    let config = &handle.0.server.instances;
    let (sender, told) = mpsc::channel(QUEUE);
    let (mut listening, mut checking) = (JoinSet::new(), JoinSet::new());
    for place in 0..count {
        listening.spawn(listen(Arc::clone(&handle.0.members[place]), place, sender.clone()));
    }
    let checks = Checks::new(&config.health, environment);
    for member in &handle.0.members {
        let sender = sender.clone();
        checks.start(&mut checking, &member.own, move || {
            let _ = sender.try_send(Told::Changed);
        });
    }
    let conductor = Conductor {
        handle: handle.clone(),
        epoch: Arc::clone(&environment.epoch),
        review: Review::new(config.ejection.as_ref(), &several.roster, &*handle.0),
        asks: Asks::default(),
    };
    // Whoever has the handle sees a picture from the beginning.
    several.view.store(Arc::new(conductor.picture(several)));
    let mut conductor = conductor;
    Some(tokio::spawn(async move { conductor.run(told, listening, checking).await }))
}

/// Passes on what one instance says.
async fn listen(member: Arc<Member>, place: usize, sender: Sender<Told>) {
    let (mut changes, mut events) = (member.own.changes(), member.own.events());
    loop {
        let told = tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => Told::Changed,
                Err(_) => return,
            },
            event = events.recv() => match event {
                Ok(event) => Told::Said(place, event),
                Err(RecvError::Lagged(_)) => Told::Missed(place),
                Err(RecvError::Closed) => return,
            },
        };
        if sender.send(told).await.is_err() {
            return;
        }
    }
}

impl Conductor {
    async fn run(&mut self, mut told: Receiver<Told>, mut listening: JoinSet<()>, mut checking: JoinSet<()>) {
        let mut look = interval(self.review.interval());
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.update().await;
        loop {
            tokio::select! {
                told = told.recv() => match told {
                    Some(Told::Changed) if self.is_superseded() => {}
                    Some(Told::Changed) => self.update().await,
                    Some(Told::Said(place, event)) => self.said(place, event).await,
                    Some(Told::Missed(place)) => self.missed(place),
                    None => return,
                },
                _ = look.tick(), if !self.is_superseded() => {
                    // It may have been since the wait began.
                    if !self.is_superseded() {
                        self.look().await;
                    }
                }
                // Those who listen end with what they listen to, and a startup check when it has passed.
                Some(_) = listening.join_next(), if !listening.is_empty() => {}
                Some(_) = checking.join_next(), if !checking.is_empty() => {}
            }
            if self.is_superseded() {
                // Another configuration is in force: what is checked and compared is its business.
                checking.abort_all();
                return self.see_off(told).await;
            }
        }
    }

    fn several(&self) -> &Several {
        self.handle.0.several.as_ref().expect("invariant: without it there is no such task")
    }

    fn members(&self) -> &[Arc<Member>] {
        &self.handle.0.members
    }

    fn is_superseded(&self) -> bool {
        self.members().iter().any(|member| !member.is_of(self.handle.0.id))
    }

    /// Passes on what the instances say that are about to end, until they have.
    async fn see_off(&self, mut told: Receiver<Told>) {
        while let Some(told) = told.recv().await {
            if let Told::Said(place, event) = told
                && self.members()[place].is_of(self.handle.0.id)
                && !matches!(event, ServerEvent::ListChanged { .. })
            {
                let _ = self.several().events.send(event);
            }
        }
    }

    async fn said(&mut self, place: usize, event: ServerEvent) {
        match event {
            // Told once, when the picture for all is another.
            ServerEvent::ListChanged { .. } => self.update().await,
            event => {
                if self.members()[place].is_of(self.handle.0.id) {
                    let _ = self.several().events.send(event);
                }
            }
        }
    }

    /// Everybody looks at everything anew.
    fn missed(&self, place: usize) {
        tracing::warn!(server = %self.handle.name(), instance = self.members()[place].instance().name(), "an instance says more than can be passed on; clients are told to look at everything");
        for key in self.handle.0.watches.keys() {
            let _ = self.several().events.send(ServerEvent::Rewatched { key });
        }
        for era in [Era::Legacy, Era::Modern] {
            for kind in ListingKind::ALL {
                let _ = self.several().events.send(ServerEvent::ListChanged { kind, era, replaces: true });
            }
        }
    }

    /// Publishes what the instances come to, and looks who serves.
    async fn update(&mut self) {
        let several = self.several();
        let before = several.view.load_full();
        let mut view = self.picture(several);
        let lists_differ = !Arc::ptr_eq(&view.catalogs, &before.catalogs)
            || view.fresh != before.fresh
            || view.legacy_refused != before.legacy_refused
            || view.trouble() != before.trouble()
            || !same_peer(&view.modern, &before.modern)
            || !same_peer(&view.legacy, &before.legacy);
        view.version = before.version + 1;
        view.catalog_version = before.catalog_version + u64::from(lists_differ);
        let version = view.version;
        let changed = if lists_differ { changed_lists(&before, &view) } else { Vec::new() };
        // Counted before and after, as an owner does when it publishes.
        let outdate = || {
            if lists_differ {
                self.epoch.fetch_add(1, Ordering::AcqRel);
            }
        };
        outdate();
        several.view.store(Arc::new(view));
        outdate();
        several.changed.send_replace(version);
        for (kind, era) in changed {
            let replaces = !before.catalogs.is_empty();
            let _ = several.events.send(ServerEvent::ListChanged { kind, era, replaces });
        }
        self.share_asks().await;
        let group = Arc::clone(&self.handle.0);
        let several = group.several.as_ref().expect("invariant: without it there is no such task");
        self.review.note(&group.server.name, &several.roster, &*group);
        self.elect().await;
    }

    /// The picture for all: that of the best instance, in the best state of any.
    fn picture(&self, several: &Several) -> ServerView {
        let views: Vec<_> = self.members().iter().map(|member| member.own.view()).collect();
        let worth = |place: &usize| {
            let view = &views[*place];
            let is_up = matches!(view.state, State::Ready | State::Idle);
            (view.fresh && is_up, !view.catalogs.is_empty(), is_up, !self.members()[*place].instance().is_out())
        };
        let current = several.best.load(Ordering::Relaxed);
        let mut best = current;
        for place in 0..views.len() {
            if worth(&place) > worth(&best) {
                best = place;
            }
        }
        several.best.store(best, Ordering::Relaxed);
        let mut view = ServerView::clone(&views[best]);
        view.state = best_state(&views, best);
        for other in &views {
            view.asks.roots |= other.asks.roots;
            view.asks.untied |= other.asks.untied;
        }
        view
    }

    /// What one instance was seen to ask, its siblings will ask as well.
    async fn share_asks(&mut self) {
        let asks = self.several().view.load().asks;
        if asks != self.asks {
            self.asks = asks;
            for place in 0..self.members().len() {
                if self.members()[place].own.peek().asks != asks {
                    self.handle.tell(place, Command::Asks { asks }).await;
                }
            }
        }
    }

    /// Sees to it that what is watched is told of by an instance that is there.
    async fn elect(&self) {
        let several = self.several();
        let lead = several.lead.load(Ordering::Relaxed);
        let gone = |place: usize| {
            let member = &self.members()[place];
            matches!(member.own.peek().state, State::Down { .. } | State::Stopped)
                || member.instance().is_out_for(Out::DRAINED)
        };
        if !gone(lead) {
            return;
        }
        let Some(next) = self.review.serving().iter().position(|serves| *serves) else { return };
        if next == lead {
            return;
        }
        several.lead.store(next, Ordering::Relaxed);
        tracing::info!(server = %self.handle.name(), instance = self.members()[next].instance().name(), "the instance tells of what is watched from now on");
        self.handle.tell(lead, Command::Watch { watches: Arc::default() }).await;
        self.handle.tell(next, Command::Watch { watches: Arc::clone(&self.handle.0.watches) }).await;
    }

    /// Compares the instances, and looks who serves.
    async fn look(&mut self) {
        let group = Arc::clone(&self.handle.0);
        let several = group.several.as_ref().expect("invariant: without it there is no such task");
        if self.review.look(&several.roster, &*group) {
            self.update().await;
        }
    }
}

/// The state of the whole: as good as that of the best.
fn best_state(views: &[Arc<ServerView>], best: usize) -> State {
    let any = |wanted: fn(&State) -> bool| views.iter().map(|view| &view.state).find(|state| wanted(state)).cloned();
    let soonest = || {
        let down = views.iter().map(|view| &view.state).filter_map(|state| match state {
            State::Down { retry_at, .. } => Some((*retry_at, state)),
            _ => None,
        });
        down.min_by_key(|(at, _)| *at).map(|(_, state)| state.clone())
    };
    any(|state| matches!(state, State::Ready))
        .or_else(|| any(|state| matches!(state, State::Idle)))
        .or_else(|| any(|state| matches!(state, State::Starting)))
        .or_else(soonest)
        .unwrap_or_else(|| views[best].state.clone())
}

fn same_peer(a: &Option<Arc<crate::Peer>>, b: &Option<Arc<crate::Peer>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.answer == b.answer,
        (None, None) => true,
        _ => false,
    }
}

/// The lists in which clients see something else than before, by the era they are served in.
fn changed_lists(before: &ServerView, after: &ServerView) -> Vec<(ListingKind, Era)> {
    let mut changed = Vec::new();
    for (key, catalog) in after.catalogs.iter() {
        let shown = before.nearest_catalog(key.era, key.capabilities);
        for kind in ListingKind::ALL {
            let is_same = shown.is_some_and(|shown| Arc::ptr_eq(shown, catalog) || shown.lists_same(catalog, kind));
            if !is_same && !changed.contains(&(kind, key.era)) {
                changed.push((kind, key.era));
            }
        }
    }
    if before.legacy_refused != after.legacy_refused {
        for kind in ListingKind::ALL {
            if !changed.contains(&(kind, Era::Modern)) {
                changed.push((kind, Era::Modern));
            }
        }
    }
    changed
}
