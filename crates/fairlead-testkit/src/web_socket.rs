//! One end of a WebSocket, with nothing done behind the test's back but what the RFC leaves no choice about: pings are
//! answered while somebody reads.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderName, HeaderValue};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use crate::tls::Trust;

/// How long opening and writing take at most.
const LIMIT: Duration = Duration::from_secs(15);

/// A connection, secured or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Said {
    /// A text frame.
    Text(String),
    /// A close frame: code and reason. Nothing follows.
    Close(u16, String),
    /// The connection is gone without a word.
    Gone,
}

/// An open WebSocket; dropping it breaks the connection.
pub struct WebSocket {
    stream: WebSocketStream<Box<dyn Stream>>,
    /// The subprotocol that was agreed on.
    pub subprotocol: Option<String>,
}

impl WebSocket {
    /// Opens `url` (`ws://` or `http://`) with these headers beside those of the handshake.
    ///
    /// # Errors
    /// The HTTP status of a server that refuses, in the inner result; else no connection, nothing in time.
    pub async fn open(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Result<Self, u16>> {
        Self::open_trusting(None, url, headers).await
    }

    /// The same over TLS, where `trust` says so (`wss://` or `https://`).
    ///
    /// # Errors
    /// As [`WebSocket::open`].
    pub async fn open_trusting(
        trust: Option<&Trust>,
        url: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Result<Self, u16>> {
        let url = url.replacen("http", "ws", 1);
        let mut request = url.into_client_request().context("the URL is malformed")?;
        for (name, value) in headers {
            let name: HeaderName = name.parse().context("the header has no valid name")?;
            request.headers_mut().insert(name, HeaderValue::from_str(value).context("the header has no valid value")?);
        }
        let address = request.uri().authority().context("the URL has no host")?.to_string();
        let host = request.uri().host().context("the URL has no host")?.to_owned();
        let opening = async {
            let stream = TcpStream::connect(address).await.context("cannot connect")?;
            stream.set_nodelay(true).ok();
            let stream: Box<dyn Stream> = match trust {
                Some(trust) => Box::new(trust.secure(stream, &host).await?),
                None => Box::new(stream),
            };
            match client_async(request, stream).await {
                Ok((stream, response)) => {
                    let agreed = response.headers().get("sec-websocket-protocol");
                    let subprotocol = agreed.and_then(|name| name.to_str().ok()).map(str::to_owned);
                    Ok(Ok(Self { stream, subprotocol }))
                }
                Err(Error::Http(response)) => Ok(Err(response.status().as_u16())),
                Err(error) => Err(error).context("no WebSocket"),
            }
        };
        tokio::time::timeout(LIMIT, opening).await.with_context(|| format!("no WebSocket within {LIMIT:?}"))?
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// A connection that breaks, or one that takes nothing for long.
    pub async fn send(&mut self, text: &str) -> anyhow::Result<()> {
        self.send_message(Message::text(text)).await
    }

    /// Sends a binary frame.
    ///
    /// # Errors
    /// As [`WebSocket::send`].
    pub async fn send_binary(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.send_message(Message::binary(Bytes::copy_from_slice(bytes))).await
    }

    async fn send_message(&mut self, message: Message) -> anyhow::Result<()> {
        let sending = self.stream.send(message);
        tokio::time::timeout(LIMIT, sending).await.with_context(|| format!("not sent within {LIMIT:?}"))??;
        Ok(())
    }

    /// What comes next. Cancel safe.
    pub async fn next(&mut self) -> Said {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return Said::Text(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                        (u16::from(frame.code), frame.reason.as_str().to_owned())
                    });
                    return Said::Close(code, reason);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Said::Gone,
            }
        }
    }

    /// Says goodbye properly.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(LIMIT, async {
            if self.stream.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        })
        .await;
    }
}
