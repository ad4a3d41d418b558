//! One message per text frame over a WebSocket on `/ws`.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, combinators::UnsyncBoxBody};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt as _,
    sync::{Notify, mpsc},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, Utf8Bytes, handshake::derive_accept_key, protocol::Role},
};

use super::lines::note;
use crate::{
    conversation::{Conversation, PENDING},
    core::{Core, NEVER},
};

/// Answers the handshake, and serves the connection once it is made.
pub(super) fn upgrade<B>(
    core: &Arc<Core>,
    number: u64,
    mut request: Request<B>,
) -> Option<Response<UnsyncBoxBody<Bytes, io::Error>>>
where
    B: Send + 'static,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY)?.clone();
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).cloned();
    let upgrading = hyper::upgrade::on(&mut request);
    let mut handshake = note(core, number, "UPGRADE", Vec::new());
    handshake.path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    handshake.headers = request.headers().clone();
    core.recorder.add(handshake);
    let serving = Arc::clone(core);
    core.spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            serve(TokioIo::new(upgraded), serving, number).await;
        }
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(offered) = offered.filter(|offered| offered == "mcp" && !core.script().door.no_subprotocol) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
    }
    Some(response)
}

async fn serve(stream: TokioIo<hyper::upgrade::Upgraded>, core: Arc<Core>, number: u64) {
    let script = core.script();
    if script.door.deaf {
        return tokio::time::sleep(NEVER).await;
    }
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let (lines, mut written) = mpsc::channel::<String>(PENDING);
    let broken = Arc::new(Notify::new());
    let breaks = Arc::clone(&broken);
    let exit_after = script.stdio.exit_after;
    let conversation = Conversation::begin(&core, "frame", lines, exit_after, move || breaks.notify_one());
    loop {
        tokio::select! {
            line = written.recv() => {
                let Some(line) = line else { break };
                let mut frames: Vec<Message> = script.stdio.noise.iter().map(|noise| Message::text(&**noise)).collect();
                frames.push(match script.door.binary {
                    true => Message::Binary(line.into()),
                    false => Message::Text(Utf8Bytes::from(line)),
                });
                for frame in frames {
                    if socket.send(frame).await.is_err() {
                        break;
                    }
                }
            }
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    core.recorder.add(note(&core, number, "FRAME", text.as_bytes().to_vec()));
                    conversation.take(text.as_bytes());
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
            () = broken.notified() => {
                // Without a closing handshake.
                socket.get_mut().shutdown().await.ok();
                break;
            }
        }
    }
    conversation.end();
}
