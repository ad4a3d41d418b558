//! Certificates of the moment, and connections secured by them.
//!
//! An [`Authority`] is made for a test, signs what the test needs, and is trusted by nobody else.

use std::{io::Write as _, net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// A certificate and its private key, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Identity {
    /// Writes both into `directory` as `server.pem` and `server.key`, each at once: whoever reads never finds half.
    ///
    /// # Panics
    /// When it cannot be written there.
    pub fn write(&self, directory: &Path) {
        for (name, text) in [("server.pem", &self.certificate), ("server.key", &self.key)] {
            let mut file = tempfile(directory, name);
            file.1.write_all(text.as_bytes()).expect("invariant: a test's directory can be written to");
            std::fs::rename(file.0, directory.join(name)).expect("invariant: a file can be moved within its directory");
        }
    }
}

fn tempfile(directory: &Path, name: &str) -> (std::path::PathBuf, std::fs::File) {
    let path = directory.join(format!("{name}.new"));
    let file = std::fs::File::create(&path).expect("invariant: a test's directory can be written to");
    (path, file)
}

/// How long a certificate is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Good {
    /// Now.
    Now,
    /// Not any more.
    Past,
    /// Not yet.
    Future,
}

/// Who signs certificates, and what clients trust.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// When the machine has no randomness.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "Fairlead testkit");
        let key = KeyPair::generate().expect("invariant: keys can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("invariant: a certificate can be signed");
        Self { issuer }
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate of `names` (host names and addresses).
    ///
    /// # Panics
    /// When a name is none.
    pub fn sign(&self, names: &[&str], good: Good) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("invariant: tests name hosts");
        (params.not_before, params.not_after) = match good {
            Good::Now => (date_time_ymd(2000, 1, 1), date_time_ymd(4000, 1, 1)),
            Good::Past => (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1)),
            Good::Future => (date_time_ymd(3999, 1, 1), date_time_ymd(4000, 1, 1)),
        };
        let key = KeyPair::generate().expect("invariant: keys can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("invariant: a certificate can be signed");
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// What a client needs that trusts this authority alone.
    pub fn trust(&self) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("invariant: the authority's certificate is one");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("invariant: the provider has suites of both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Trust(config)
    }
}

/// What a client trusts, and how it shakes hands.
#[derive(Clone, Debug)]
pub struct Trust(ClientConfig);

impl Trust {
    /// Offers these protocols.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.0.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Shakes hands on a connection to a server of this name.
    ///
    /// # Errors
    /// When nothing comes of it.
    pub async fn secure(&self, stream: TcpStream, name: &str) -> anyhow::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).context("the host has no valid name")?;
        TlsConnector::from(Arc::new(self.0.clone())).connect(name, stream).await.context("no TLS")
    }

    /// Connects to `address` and shakes hands with a server of this name.
    ///
    /// # Errors
    /// No connection, or no handshake.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> anyhow::Result<TlsStream<TcpStream>> {
        self.secure(TcpStream::connect(address).await.context("cannot connect")?, name).await
    }
}

/// What a server shows.
pub(crate) fn acceptor(identity: &Identity) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes());
    let (certificate, key) =
        certificate.and_then(|certificate| Ok((certificate, key?))).expect("invariant: PEM of ours");
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("invariant: the provider has suites of both versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("invariant: the key is the certificate's");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
