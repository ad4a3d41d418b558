//! How a pool connects to its one server: over TCP, with or without TLS, or by a Unix socket.

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::ClientConfig;
use std::{
    error::Error,
    future::Future,
    io::{self, IoSlice},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::{TcpStream, UnixStream};
use tower_service::Service;

/// Connects to the one server its pool is for.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    Net(HttpsConnector<HttpConnector>),
    Socket(Arc<Path>),
    #[cfg(test)]
    Memory(tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>),
}

impl Reach {
    /// The way to `server`, which may listen on a Unix `socket`.
    pub(super) fn new(socket: Option<&Path>, connect: Duration, tls: &ClientConfig) -> Self {
        if let Some(path) = socket {
            return Self::Socket(path.into());
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone())
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        Self::Net(connector)
    }
}

/// How often the system asks after a connection on which nothing is said.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Uri> for Reach {
    type Response = Io;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Reach::Net(connector) => connector.poll_ready(context),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        match self {
            Reach::Net(connector) => {
                let connecting = connector.call(server);
                Box::pin(async move { connecting.await.map(Io::Net) })
            }
            Reach::Socket(path) => {
                let path = Arc::clone(path);
                Box::pin(async move { Ok(Io::Socket(TokioIo::new(UnixStream::connect(&path).await?))) })
            }
            #[cfg(test)]
            Reach::Memory(server) => {
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                let sent = server.send(theirs).map_err(|_| BoxError::from("nobody listens"));
                Box::pin(async move { sent.map(|()| Io::Memory(TokioIo::new(ours))) })
            }
        }
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub(crate) enum Io {
    Net(MaybeHttpsStream<TokioIo<TcpStream>>),
    Socket(TokioIo<UnixStream>),
    #[cfg(test)]
    Memory(TokioIo<tokio::io::DuplexStream>),
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        match self {
            Io::Net(stream) => stream.connected(),
            _ => Connected::new(),
        }
    }
}

impl Read for Io {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Socket(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl Write for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Socket(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_flush(context),
            Io::Socket(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Socket(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Net(stream) => stream.is_write_vectored(),
            Io::Socket(stream) => stream.is_write_vectored(),
            #[cfg(test)]
            Io::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Io::Socket(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }
}
