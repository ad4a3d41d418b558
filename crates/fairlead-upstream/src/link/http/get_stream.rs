//! The GET stream of a legacy session: what the server says on it names no call, so it is found out here whose it
//! can only be.

use super::{SSE, STREAM_RETRY, Shared, is_sse};
use crate::{
    event::End,
    http_client::Worker,
    link::inbound::{AskedOf, Verdict, task_of},
};
use bytes::Bytes;
use fairlead_wire::{
    Frame, Kind, Limits, Method, header, message,
    sse::{SseLimits, SseParser},
};
use http::{HeaderValue, StatusCode, header as h};
use http_body_util::{BodyExt, Full};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Messages of the GET stream that wait for a caller who reads slowly.
const SIDE_QUEUE: usize = 32;

/// Calls a question or a log message on the GET stream may belong to. Kept only where the caller can
/// be asked or wants to hear.
#[derive(Default)]
pub(super) struct Calls {
    open: HashMap<u64, (mpsc::Sender<Frame>, Option<Box<str>>)>,
    /// One was given up without an answer: from then on no question can be told to be another's.
    pub(super) given_up: bool,
    asked: AskedOf,
}

/// A call's place among those that messages on the GET stream may belong to.
pub(super) struct Side {
    pub(super) messages: mpsc::Receiver<Frame>,
    shared: Arc<Shared>,
    id: u64,
    pub(super) answered: bool,
}

impl Side {
    /// Enters a call; `None` when it has to take another link.
    pub(super) fn enter(shared: &Arc<Shared>, id: u64, task: Option<Box<str>>) -> Option<Self> {
        let (sender, messages) = mpsc::channel(SIDE_QUEUE);
        // One that waits for a task may give up: what the task asks names the task.
        let answered = task.is_some();
        shared.enter(id, sender, task)?;
        Some(Self { messages, shared: Arc::clone(shared), id, answered })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let Ok(mut calls) = self.shared.calls.lock() else { return };
        calls.open.remove(&self.id);
        if !self.answered {
            calls.given_up = true;
        }
    }
}

impl Shared {
    /// Enters a call, unless the link became another client's own. (One that waits for a task is about what was made on
    /// this very link.)
    fn enter(&self, id: u64, call: mpsc::Sender<Frame>, task: Option<Box<str>>) -> Option<()> {
        let mut calls = self.calls.lock().expect("invariant: no panic under this lock");
        if self.inbound.is_rooted() && task.is_none() {
            return None;
        }
        calls.open.insert(id, (call, task));
        Some(())
    }

    /// Makes the link the own of the one client that has a call on it (this one, where the question says which), if
    /// there is no other call that could notice.
    pub(super) fn takes_root(&self, call: Option<u64>) -> bool {
        let calls = self.calls.lock().expect("invariant: no panic under this lock");
        let is_alone = calls.open.len() == 1
            && !calls.given_up
            && self.inbound.may_guess()
            && call.is_none_or(|call| calls.open.contains_key(&call));
        if is_alone {
            self.inbound.take_root();
        }
        is_alone
    }

    /// What comes on the GET stream names no call. With one call open, and none given up, it is that
    /// call's.
    fn sole_call(&self) -> Option<(u64, mpsc::Sender<Frame>)> {
        let calls = self.calls.lock().expect("invariant: no panic under this lock");
        if calls.open.len() == 1 && !calls.given_up {
            calls.open.iter().next().map(|(id, (call, _))| (*id, call.clone()))
        } else {
            None
        }
    }

    /// The call a question belongs to: of a task the one that waits for its result, else the only one there is.
    fn asker(&self, frame: &Frame) -> Option<(u64, mpsc::Sender<Frame>)> {
        match task_of(frame) {
            Some(task) => {
                let calls = self.calls.lock().expect("invariant: no panic under this lock");
                let waits = |awaited: &Option<Box<str>>| awaited.as_deref() == Some(&*task);
                let call = calls.open.iter().find(|(_, (_, awaited))| waits(awaited));
                call.map(|(id, (call, _))| (*id, call.clone()))
            }
            None => self.sole_call().filter(|_| self.inbound.may_guess()),
        }
    }

    fn untied_question(&self, frame: &Frame) {
        let sole = self.asker(frame);
        if sole.is_some() && self.inbound.is_for_first_roots(frame) {
            self.takes_root(None);
        }
        match self.inbound.question(frame, false, sole.is_some()) {
            Verdict::Answer(answer) => self.reply(answer),
            Verdict::Ask => {
                let asked = sole.filter(|(_, call)| call.try_send(frame.clone()).is_ok());
                if let Some((call, _)) = asked {
                    self.note_asked(frame, call);
                } else {
                    let id = frame.id().unwrap_or("null");
                    self.reply(message::error(Some(id), -32603, "the caller does not read", None));
                }
            }
        }
    }

    pub(super) fn note_asked(&self, frame: &Frame, call: u64) {
        self.calls.lock().expect("invariant: no panic under this lock").asked.note(frame, call);
    }

    /// The server withdraws a question: whoever was asked it hears of that.
    fn withdrawn(&self, notice: Frame) {
        let call = {
            let mut calls = self.calls.lock().expect("invariant: no panic under this lock");
            calls.asked.take(&notice).and_then(|call| calls.open.get(&call).map(|(call, _)| call.clone()))
        };
        if let Some(call) = call {
            let _ = call.try_send(notice);
        }
    }

    pub(super) async fn listen(&self) {
        let worker = Worker::CONTROL;
        // What the server asked for, and what is waited as long as it does not keep a stream open.
        let (mut asked, mut wait) = (STREAM_RETRY.0, STREAM_RETRY.0);
        let mut last_id: Option<HeaderValue> = None;
        let mut was_open = false;
        loop {
            let mut request = self.request(http::Method::GET, Full::default());
            request.headers_mut().insert(h::ACCEPT, SSE);
            if let Some(id) = &last_id {
                request.headers_mut().insert(header::LAST_EVENT_ID, id.clone());
            }
            match self.clients.listening(worker).request(request).await {
                Ok(response) if response.status().is_success() && is_sse(&response) => {
                    if std::mem::replace(&mut was_open, true) && last_id.is_none() {
                        // Without a place to go on from, what the server said meanwhile is lost.
                        self.inbound.lost_track();
                    }
                    let opened = Instant::now();
                    let mut body = response.into_body();
                    let mut parser = SseParser::new(SseLimits { max_event: self.max_message });
                    while let Some(Ok(chunk)) = body.frame().await {
                        let Ok(data) = chunk.into_data() else { continue };
                        parser.push(data);
                        loop {
                            match parser.next() {
                                Ok(Some(event)) => {
                                    if let Some(retry) = event.retry {
                                        asked = Duration::from_millis(retry).clamp(STREAM_RETRY.0, STREAM_RETRY.1);
                                    }
                                    wait = asked;
                                    if let Some(id) = event.id.as_deref().and_then(|id| HeaderValue::from_str(id).ok())
                                    {
                                        last_id = Some(id);
                                    }
                                    if !event.data.is_empty() {
                                        self.unrelated(event.data);
                                    }
                                }
                                Ok(None) => break,
                                Err(error) => {
                                    tracing::warn!(server = %self.inbound.server, %error, "the server's event stream is not valid");
                                    parser = SseParser::new(SseLimits { max_event: self.max_message });
                                    break;
                                }
                            }
                        }
                    }
                    // One that is closed at once each time is no reason to hurry.
                    if opened.elapsed() >= STREAM_RETRY.1 {
                        wait = asked;
                    }
                }
                // The stream before may not be over for the server yet, or it wants to be left alone.
                Ok(response) if was_open && is_for_now(response.status()) => {}
                // Of a stream that never was it only says that there is none: some frameworks answer so. One that
                // was there and is no longer had a session that is gone, whatever the server calls that.
                Ok(response) if was_open && response.status().is_client_error() => {
                    self.inbound.closed("the server forgot the session", End::Forgotten);
                    return;
                }
                Ok(response) if response.status().is_client_error() => return,
                Ok(_) => {}
                Err(error) => {
                    if error.is_connect() {
                        self.inbound.closed("the connection to the server broke", End::Died);
                        return;
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(STREAM_RETRY.1);
        }
    }

    /// Sorts a message of the GET stream.
    fn unrelated(&self, data: Bytes) {
        match Frame::parse(data, &Limits::default()) {
            Ok(frame) => match frame.kind() {
                Kind::Notification if frame.method_class() == Method::LogMessage => {
                    let told = self.sole_call().is_some_and(|(_, call)| call.try_send(frame.clone()).is_ok());
                    if !told {
                        self.inbound.notification(frame);
                    }
                }
                Kind::Notification if frame.method_class() == Method::Cancelled => self.withdrawn(frame),
                Kind::Notification => self.inbound.notification(frame),
                Kind::Request => self.untied_question(&frame),
                Kind::Result | Kind::Error => {}
            },
            Err(error) => {
                tracing::warn!(server = %self.inbound.server, %error, "not a message on the server's event stream")
            }
        }
    }
}

/// Whether a refusal says that it may be otherwise soon.
fn is_for_now(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS)
}
