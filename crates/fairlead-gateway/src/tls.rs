//! TLS on the MCP listener: who may shake hands, for how long, and with which certificate.
//!
//! The certificate is the configuration's. When a reload brings another one, connections that are opened from then on
//! get it; those that are open keep what they have, as TLS shows a certificate only once.

use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{Ticketer, default_provider},
    server::{Acceptor, NoServerSessionStorage, ResolvesServerCert},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// HTTP/2 as ALPN names it (RFC 9113, section 3.3).
const HTTP2: &[u8] = b"h2";
/// HTTP/1.1 as ALPN names it (RFC 7301, section 6).
const HTTP1: &[u8] = b"http/1.1";
/// The first byte of a TLS connection: a record of the handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// What somebody reads who came with `http` instead of `https`.
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 49\r\nconnection: close\r\n\r\nthis listener speaks TLS: use https, or wss here\n";
/// How much of a plain request is taken before the connection is closed, so that its sender gets to read why.
const LEFTOVER: usize = 64 << 10;
/// How long that is waited for.
const LINGER: Duration = Duration::from_secs(1);

/// How connections got on, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsCounts {
    /// Handshakes that came to their end.
    pub completed: u64,
    /// Those that broke off or could not be agreed on.
    pub failed: u64,
    /// Connections whose handshake took too long.
    pub slow: u64,
    /// Connections that did not speak TLS.
    pub plain: u64,
    /// Until when the certificate is good, in seconds since 1970.
    pub expires: u64,
}

/// TLS as it is configured now.
#[derive(Default)]
pub(crate) struct Tls {
    ready: ArcSwapOption<Ready>,
    completed: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
    plain: AtomicU64,
}

/// What a handshake needs.
pub(crate) struct Ready {
    of: fairlead_config::Tls,
    config: Arc<ServerConfig>,
}

impl Ready {
    /// Handshakes under way at most, those of all workers together.
    pub(crate) fn max_handshakes(&self) -> usize {
        self.of.max_handshakes
    }
}

impl Tls {
    /// Takes over what is configured. Without a change what there is stays, and with it what clients resume by.
    pub(crate) fn configure(&self, tls: Option<&fairlead_config::Tls>) {
        if self.ready.load().as_deref().map(|ready| &ready.of) == tls {
            return;
        }
        let ready = tls.map(|tls| {
            let config = Arc::new(server_config(tls));
            Arc::new(Ready { of: tls.clone(), config })
        });
        self.ready.store(ready);
    }

    /// What connections begin with; `None` where they are plain.
    pub(crate) fn ready(&self) -> Option<Arc<Ready>> {
        self.ready.load_full()
    }

    /// How connections got on; `None` where they are plain.
    pub(crate) fn counts(&self) -> Option<TlsCounts> {
        let ready = self.ready.load();
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(TlsCounts {
            expires: ready.as_ref()?.of.expires,
            completed: of(&self.completed),
            failed: of(&self.failed),
            slow: of(&self.slow),
            plain: of(&self.plain),
        })
    }

    /// Shakes hands on a new connection, in turn with others: `slots` has the places of its worker. `None` when
    /// nothing came of it; that was logged and counted.
    pub(crate) async fn shake(&self, ready: &Ready, mut stream: TcpStream, slots: &Semaphore) -> Option<Secured> {
        let shaking = async {
            let mut first = [0];
            match stream.peek(&mut first).await? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ if first[0] != HANDSHAKE => Ok(Err(stream)),
                _ => {
                    // A place is for whoever has said hello: one that says nothing keeps none.
                    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
                    let _slot = slots.acquire().await.map_err(io::Error::other)?;
                    begun.into_stream(Arc::clone(&ready.config)).await.map(Ok)
                }
            }
        };
        let (count, error) = match timeout(ready.of.handshake_timeout, shaking).await {
            Ok(Ok(Ok(stream))) => {
                self.completed.fetch_add(1, Ordering::Relaxed);
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
                return Some(Secured { stream: Box::new(stream), is_http2 });
            }
            Ok(Ok(Err(plain))) => {
                stream = plain;
                let _ = timeout(LINGER, say_plainly(&mut stream)).await;
                (&self.plain, "it does not speak TLS".to_owned())
            }
            Ok(Err(error)) => (&self.failed, error.to_string()),
            Err(_) => (&self.slow, "it took longer than `listen.tls.handshake_timeout`".to_owned()),
        };
        count.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(error, "a connection came to no TLS handshake");
        None
    }
}

/// A connection after its handshake.
pub(crate) struct Secured {
    pub(crate) stream: Box<TlsStream<TcpStream>>,
    /// Whether HTTP/2 was agreed on; without any agreement it is HTTP/1.1.
    pub(crate) is_http2: bool,
}

fn server_config(tls: &fairlead_config::Tls) -> ServerConfig {
    let certificate: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(Arc::clone(&tls.identity)));
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("invariant: the provider has suites of both versions")
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    // Tickets instead of a table: what a client resumes by is kept by the client.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match Ticketer::new() {
        Ok(ticketer) => config.ticketer = ticketer,
        Err(error) => tracing::warn!(%error, "TLS sessions cannot be resumed"),
    }
    config
}

/// Tells a client that came without TLS what is wrong, if what it speaks looks like HTTP/1.
async fn say_plainly(stream: &mut TcpStream) -> io::Result<()> {
    let mut some = [0_u8; 4096];
    let mut read = stream.read(&mut some).await?;
    if !some[0].is_ascii_uppercase() || some.starts_with(b"PRI ") {
        return Ok(());
    }
    stream.write_all(PLAIN.as_bytes()).await?;
    stream.shutdown().await?;
    // What is unread at the close would take the answer with it.
    while read < LEFTOVER {
        match stream.read(&mut some).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_is_as_long_as_it_says() {
        let (head, body) = PLAIN.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
