//! How a pooled client connects to its one server: over TCP, with or without TLS, or by a Unix socket.

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
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

/// Connects to the one server its client is for.
///
/// A client's pool looks its connections up by the scheme and authority of each request, hashed byte
/// by byte, and makes a `Host` header of them each time. Here there is one server per client, so
/// over plain HTTP requests are addressed to a name of one letter, the header is made once, and the
/// real address is known to this connector alone. Over TLS the address is part of the protocol and
/// stays what it is.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    Net { connector: HttpsConnector<HttpConnector>, server: Uri },
    Socket { path: Arc<Path>, connect: Duration },
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Uri> for Reach {
    type Response = Io;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Reach::Net { connector, .. } => connector.poll_ready(context),
            Reach::Socket { .. } => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        match self {
            Reach::Net { connector, server } => {
                let connecting = connector.call(server.clone());
                Box::pin(async move { connecting.await.map(Io::Net) })
            }
            Reach::Socket { path, connect } => {
                let (path, connect) = (Arc::clone(path), *connect);
                Box::pin(async move {
                    let stream = tokio::time::timeout(connect, UnixStream::connect(&path)).await??;
                    Ok(Io::Socket(TokioIo::new(stream)))
                })
            }
        }
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub(crate) enum Io {
    Net(MaybeHttpsStream<TokioIo<TcpStream>>),
    Socket(TokioIo<UnixStream>),
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        match self {
            Io::Net(stream) => stream.connected(),
            Io::Socket(_) => Connected::new(),
        }
    }
}

impl Read for Io {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Socket(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl Write for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Socket(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_flush(context),
            Io::Socket(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Net(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Socket(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Net(stream) => stream.is_write_vectored(),
            Io::Socket(stream) => stream.is_write_vectored(),
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
        }
    }
}
