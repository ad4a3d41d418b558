//! The frames of one stream, kept so that a client can hang up, come back and read on.

use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::watch;

/// Frames of one stream; a stream that reaches this ends.
const MAX_FRAMES: usize = 65_536;

/// How a stream ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// All was said.
    Clean,
    /// The connection is to break.
    Broken,
}

/// What comes next on a stream.
pub(crate) enum Next {
    Frame(Bytes),
    /// The reader is to leave; the stream goes on for whoever resumes it.
    HangUp {
        retry_ms: u64,
    },
    End(Ending),
}

#[derive(Default)]
struct State {
    frames: Vec<Bytes>,
    /// Position at which a reader is to leave, once.
    hang_up: Option<(usize, u64)>,
    ending: Option<Ending>,
}

/// See the module.
pub(crate) struct StreamLog {
    /// Name of the stream, the first part of its event ids.
    pub(crate) name: String,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl StreamLog {
    pub(crate) fn new(name: String) -> Self {
        Self { name, state: Mutex::default(), changed: watch::Sender::new(()) }
    }

    fn edit(&self, edit: impl FnOnce(&mut State)) {
        edit(&mut self.state.lock().expect("invariant: nobody panics while editing a stream"));
        self.changed.send_replace(());
    }

    /// Appends a frame; after the end it is dropped.
    pub(crate) fn push(&self, frame: impl Into<Bytes>) {
        let frame = frame.into();
        self.edit(|state| {
            if state.ending.is_none() {
                state.frames.push(frame);
                if state.frames.len() >= MAX_FRAMES {
                    state.ending = Some(Ending::Clean);
                }
            }
        });
    }

    pub(crate) fn end(&self, ending: Ending) {
        self.edit(|state| _ = state.ending.get_or_insert(ending));
    }

    /// Makes the reader leave after the frames that are there now.
    pub(crate) fn hang_up(&self, retry_ms: u64) {
        self.edit(|state| state.hang_up = Some((state.frames.len(), retry_ms)));
    }

    /// Waits for the frame at `position`, or for what comes instead.
    pub(crate) async fn next(&self, position: usize) -> Next {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            {
                let mut state = self.state.lock().expect("invariant: nobody panics while editing a stream");
                if let Some((at, retry_ms)) = state.hang_up
                    && position >= at
                {
                    state.hang_up = None;
                    return Next::HangUp { retry_ms };
                }
                if let Some(frame) = state.frames.get(position) {
                    return Next::Frame(frame.clone());
                }
                if let Some(ending) = state.ending {
                    return Next::End(ending);
                }
            }
            if changed.changed().await.is_err() {
                return Next::End(Ending::Clean);
            }
        }
    }

    /// Waits for the end and returns the last frame with it.
    pub(crate) async fn outcome(&self) -> (Option<Bytes>, Ending) {
        let mut position = 0;
        let mut last = None;
        loop {
            match self.next(position).await {
                Next::Frame(frame) => {
                    position += 1;
                    last = Some(frame);
                }
                Next::HangUp { .. } => {}
                Next::End(ending) => return (last, ending),
            }
        }
    }
}
