//! One message per line over a TCP or Unix connection.

use std::sync::Arc;

use http::HeaderMap;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::{Notify, mpsc},
};

use crate::{
    conversation::{Conversation, PENDING},
    core::{Core, NEVER},
    received::Received,
};

/// Serves one connection until either side ends it.
pub(super) async fn serve<S>(stream: S, core: Arc<Core>, number: u64)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let script = core.script();
    let (reader, mut writer) = tokio::io::split(stream);
    if script.door.deaf {
        return tokio::time::sleep(NEVER).await;
    }
    let (lines, mut written) = mpsc::channel::<String>(PENDING);
    let broken = Arc::new(Notify::new());
    let breaks = Arc::clone(&broken);
    let exit_after = script.stdio.exit_after;
    let conversation = Conversation::begin(&core, "line", lines, exit_after, move || breaks.notify_one());
    let noise = script.stdio.noise.clone();
    let writing = async {
        while let Some(line) = written.recv().await {
            let text: String = noise.iter().map(String::as_str).chain([&*line]).flat_map(|line| [line, "\n"]).collect();
            if writer.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    let reading = async {
        let mut input = BufReader::new(reader).lines();
        while let Ok(Some(line)) = input.next_line().await {
            core.recorder.add(note(&core, number, "LINE", line.clone().into_bytes()));
            conversation.take(line.as_bytes());
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        () = broken.notified() => {}
    }
    conversation.end();
}

/// A record of a message that came without HTTP.
pub(super) fn note(core: &Core, connection: u64, how: &str, body: Vec<u8>) -> Received {
    Received {
        at: core.recorder.at(),
        connection,
        http_method: how.to_owned(),
        path: String::new(),
        headers: HeaderMap::new(),
        body: body.into(),
    }
}
