//! The transports that are one long connection to a server that runs by itself: TCP and Unix sockets,
//! WebSocket, HTTP+SSE. Each has a carrier, a task that moves messages between the connection and the
//! [`Duplex`]; this owns the task.
//!
//! When the connection ends, for whatever reason, the carrier ends, the calls on it fail with an
//! outcome that is not known, and the owner of the server opens another one after its back-off.
//! Nothing here connects again by itself.

use crate::{
    event::End,
    http_client::why_unreachable,
    link::{
        duplex::{Duplex, Outgoing, Sorter},
        inbound::Inbound,
        keeper::Keeper,
    },
};
use fairlead_core::{Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_process::lines::LineReader;
use std::{fmt, future::Future, io, path::Path, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long saying the last words and closing may take.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// How long a server may take to accept one message before its connection counts as dead.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(30);

/// Why a carrier ended by itself.
#[derive(Debug)]
pub(super) struct Ended {
    /// For people, without addresses.
    pub(super) reason: String,
    pub(super) end: End,
}

impl Ended {
    pub(super) fn died(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), end: End::Died }
    }
}

/// The transport of one connection.
pub(crate) struct ConnectionWire {
    pub(crate) duplex: Duplex,
    keeper: Keeper,
}

impl ConnectionWire {
    /// Starts `carrier`, which ends when the connection does. It ends by itself soon after
    /// [`Outgoing::is_end`]; it is dropped if not.
    pub(super) fn start<F>(
        inbound: Arc<Inbound>,
        carrier: impl FnOnce(Arc<Sorter>, mpsc::Receiver<Outgoing>) -> F,
    ) -> Self
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        let (duplex, sorter, to_send) = Duplex::new(inbound, "the connection to it ended");
        let sorter = Arc::new(sorter);
        let (stop, stopped) = oneshot::channel();
        let carrying = carrier(Arc::clone(&sorter), to_send);
        let keeper = tokio::spawn(async move {
            // The carrier is gone before its calls are told: none can be given to it in between.
            let ended = {
                let mut carrying = pin!(carrying);
                tokio::select! {
                    ended = &mut carrying => ended,
                    _ = stopped => {
                        let _ = timeout(CLOSE_TIME, carrying).await;
                        Ended::died("the gateway closed the connection")
                    }
                }
            };
            sorter.ended(ended.reason, ended.end);
        });
        Self { duplex, keeper: Keeper::new(stop, keeper) }
    }

    /// Ends the connection. Bounded in time.
    pub(crate) async fn close(&self) {
        self.duplex.last_words("the gateway closes the connection");
        self.keeper.stop().await;
    }
}

impl fmt::Debug for ConnectionWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionWire").field("junk", &self.duplex.junk_messages()).finish_non_exhaustive()
    }
}

/// Connects to a TCP server that takes lines.
pub(crate) async fn tcp(
    address: &fairlead_config::HostPort,
    connect: Duration,
    inbound: Arc<Inbound>,
    max_message: usize,
) -> Result<ConnectionWire, UpstreamError> {
    let stream = reached(timeout(connect, TcpStream::connect((&*address.host, address.port))).await)?;
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    let (reader, writer) = stream.into_split();
    Ok(ConnectionWire::start(inbound, |sorter, to_send| lines(reader, writer, sorter, to_send, max_message)))
}

/// Connects to a Unix socket whose server takes lines.
pub(crate) async fn unix(
    path: &Path,
    connect: Duration,
    inbound: Arc<Inbound>,
    max_message: usize,
) -> Result<ConnectionWire, UpstreamError> {
    let stream = reached(timeout(connect, UnixStream::connect(path)).await)?;
    let (reader, writer) = stream.into_split();
    Ok(ConnectionWire::start(inbound, |sorter, to_send| lines(reader, writer, sorter, to_send, max_message)))
}

/// Makes the system notice a peer that vanished while nothing is said. A connection on which that
/// cannot be set works without.
fn keep_alive(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    #[cfg(target_os = "linux")]
    {
        /// Seconds of silence before it asks, between two times it asks, and how often it does.
        const ASKS: (u32, u32, u32) = (30, 10, 3);
        let _ = setsockopt(stream, sockopt::TcpKeepIdle, &ASKS.0);
        let _ = setsockopt(stream, sockopt::TcpKeepInterval, &ASKS.1);
        let _ = setsockopt(stream, sockopt::TcpKeepCount, &ASKS.2);
    }
}

/// A connection, or why there is none.
pub(super) fn reached<T, E>(connected: Result<Result<T, E>, tokio::time::error::Elapsed>) -> Result<T, UpstreamError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let unreachable = |what| UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, what);
    match connected {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let error = error.into();
            Err(unreachable(why_unreachable(&*error)).because(error))
        }
        Err(_) => Err(unreachable("it does not accept the connection in time (`timeout.connect`)")),
    }
}

/// Carries messages as lines.
async fn lines(
    reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    sorter: Arc<Sorter>,
    mut to_send: mpsc::Receiver<Outgoing>,
    max_message: usize,
) -> Ended {
    let writing = async {
        while let Some(line) = to_send.recv().await {
            if line.is_end() {
                let _ = writer.shutdown().await;
                break;
            }
            let written = async {
                writer.write_all(&line.bytes).await?;
                writer.write_all(b"\n").await?;
                writer.flush().await
            };
            match timeout(WRITE_TIME, written).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return broke(&error),
                Err(_) => return Ended::died("it does not read what it is sent"),
            }
        }
        Ended::died("the gateway closed the connection")
    };
    let reading = async {
        match sorter.read_lines(LineReader::new(reader, max_message)).await {
            Ok(()) => Ended::died("the server closed the connection"),
            Err(error) => broke(&error),
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

/// A connection that ended with an error.
pub(super) fn broke(error: &io::Error) -> Ended {
    Ended::died(match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the server broke the connection",
        io::ErrorKind::TimedOut => "the server vanished from the network",
        _ => "the connection to the server broke",
    })
}
