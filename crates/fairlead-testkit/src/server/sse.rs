//! The HTTP+SSE transport of 2024-11-05: a stream on `/sse` that begins by naming where messages are POSTed.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use tokio::sync::{Notify, mpsc};

use crate::{
    conversation::{Conversation, PENDING},
    core::Core,
};

/// What the stream carries from event to event. Its end ends the session.
struct Reader {
    core: Arc<Core>,
    conversation: Arc<Conversation>,
    written: mpsc::Receiver<String>,
    broken: Arc<Notify>,
    start: Option<String>,
    done: bool,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.conversation.end();
        self.core.end_conversation(&self.conversation.session.id);
    }
}

/// Opens a session and its stream.
pub(super) fn open(core: &Arc<Core>) -> Response<UnsyncBoxBody<Bytes, io::Error>> {
    let script = core.script();
    let (lines, written) = mpsc::channel::<String>(PENDING);
    let broken = Arc::new(Notify::new());
    let breaks = Arc::clone(&broken);
    let conversation = Conversation::begin(core, "sse", lines, script.stdio.exit_after, move || breaks.notify_one());
    core.keep_conversation(&conversation);
    let session = &conversation.session.id;
    let endpoint = script.door.endpoint.clone().unwrap_or_else(|| format!("/messages?session={session}"));
    let start = match script.door.no_endpoint {
        true => ": nothing\n\n".to_owned(),
        false => format!(": hello\n\nevent: endpoint\ndata: {endpoint}\n\n"),
    };
    let reader = Reader { core: Arc::clone(core), conversation, written, broken, start: Some(start), done: false };
    let frames = stream::unfold(reader, async |mut reader| {
        if reader.done {
            return None;
        }
        if let Some(start) = reader.start.take() {
            return Some((Ok(Frame::data(Bytes::from(start))), reader));
        }
        let line = tokio::select! {
            line = reader.written.recv() => line?,
            () = reader.broken.notified() => {
                reader.done = true;
                return Some((Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the script says so")), reader));
            }
        };
        // Comments keep real streams alive; here they are to be tolerated.
        let mut event = String::from(": ping\n\nevent: message\n");
        for line in line.split('\n') {
            event.push_str(&format!("data: {line}\n"));
        }
        event.push('\n');
        Some((Ok(Frame::data(Bytes::from(event))), reader))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}
