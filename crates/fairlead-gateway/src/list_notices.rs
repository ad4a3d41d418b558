//! List changes on a `subscriptions/listen` that its server answers itself.
//!
//! The server tells this client and the gateway at the same moment, but lists are answered from the gateway's catalog:
//! a client that is told at once reads the old list and is never told of the new one. So a notice waits until the
//! catalog has the change. One that waited too long is passed on, and once more when the catalog has it after all.

use fairlead_upstream::{ListingKind, ServerEvent, ServerHandle};
use fairlead_wire::{Era, Frame, Method};
use std::{future::pending, time::Duration};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, sleep_until},
};

/// How long a notice waits: a list that was listed anew may be the same as before, and then nothing is said of it.
const WAIT: Duration = Duration::from_millis(900);

/// The notices of one stream.
#[derive(Debug)]
pub(crate) struct ListNotices {
    /// `None` when the server is not configured any more.
    events: Option<Receiver<ServerEvent>>,
    held: [Held; 3],
}

#[derive(Debug, Default)]
struct Held {
    /// The notice that waits, and until when.
    waiting: Option<(Frame, Instant)>,
    /// The notice that was passed on before the catalog had the change.
    early: Option<Frame>,
}

impl ListNotices {
    pub(crate) fn new(handle: &ServerHandle) -> Self {
        Self { events: Some(handle.events()), held: Default::default() }
    }

    /// Takes a notice that has to wait; gives any other message back.
    pub(crate) fn hold(&mut self, frame: Frame) -> Option<Frame> {
        let place = match frame.method_class() {
            Method::ToolsListChanged => 0,
            Method::ResourcesListChanged => 1,
            Method::PromptsListChanged => 2,
            _ => return Some(frame),
        };
        let held = &mut self.held[place];
        let until = held.waiting.take().map_or_else(|| Instant::now() + WAIT, |(_, until)| until);
        held.waiting = Some((frame, until));
        None
    }

    /// The next notice that has waited long enough.
    pub(crate) async fn next(&mut self) -> Frame {
        loop {
            let due = self.held.iter().filter_map(|held| held.waiting.as_ref()).map(|(_, until)| *until).min();
            let overdue = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let event = async {
                match &mut self.events {
                    Some(events) => events.recv().await,
                    None => pending().await,
                }
            };
            let place = tokio::select! {
                event = event => match event {
                    Ok(ServerEvent::ListChanged { kind, era: Era::Modern, .. }) => Some(place(kind)),
                    Ok(_) => None,
                    // What was missed is not known: what waits is passed on in time.
                    Err(RecvError::Lagged(_)) => None,
                    Err(RecvError::Closed) => {
                        self.events = None;
                        None
                    }
                },
                () = overdue => {
                    let now = Instant::now();
                    let held = self.held.iter_mut().find(|held| held.waiting.as_ref().is_some_and(|(_, due)| *due <= now));
                    if let Some((held, (notice, _))) = held.and_then(|held| held.waiting.take().map(|was| (held, was))) {
                        held.early = Some(notice.clone());
                        return notice;
                    }
                    None
                }
            };
            if let Some(held) = place.map(|place| &mut self.held[place]) {
                let early = held.early.take();
                if let Some(notice) = held.waiting.take().map(|(notice, _)| notice).or(early) {
                    return notice;
                }
            }
        }
    }
}

fn place(kind: ListingKind) -> usize {
    match kind {
        ListingKind::Tools => 0,
        ListingKind::Resources | ListingKind::Templates => 1,
        ListingKind::Prompts => 2,
    }
}
