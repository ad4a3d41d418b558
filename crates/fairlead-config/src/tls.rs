//! TLS of the MCP listener: what people write, and what the program uses.
//!
//! Certificate and key are read, and tried on each other, when the configuration is: so that `fairlead check` finds
//! what is wrong with them, and a reload either has a pair that works or changes nothing.

use crate::{build::Builder, leaf::DurationText, load::read_bounded, reference::MAX_REFERENCED_FILE};
use fairlead_core::Code;
use rustls::{
    CertificateError, Error, InconsistentKeys, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How a private key that asks for a passphrase begins.
const ENCRYPTED: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";
/// The same in the older form.
const ENCRYPTED_OLD: &[u8] = b"Proc-Type: 4,ENCRYPTED";
/// A moment after every certificate, for asking until when one is good: the end of the year 9999 and a bit.
const AFTER_ALL: Duration = Duration::from_secs(400_000_000_000);

/// TLS for MCP clients: 1.2 and 1.3, with HTTP/2 and HTTP/1.1 as they agree.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFile {
    /// Path of the certificate, PEM, followed by those between it and the root. Read again when it changes.
    pub certificate: String,
    /// Path of its private key, PEM, without a passphrase.
    pub key: String,
    /// How long the handshake of a connection may take.
    pub handshake_timeout: DurationText,
    /// Handshakes under way at most; further ones wait their turn within `handshake_timeout`.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_handshakes: usize,
}

impl Default for TlsFile {
    fn default() -> Self {
        Self {
            certificate: String::new(),
            key: String::new(),
            handshake_timeout: DurationText(Duration::from_secs(5)),
            max_handshakes: 256,
        }
    }
}

/// TLS for MCP clients.
#[derive(Clone)]
pub struct Tls {
    /// The certificate with its key.
    pub identity: Arc<CertifiedKey>,
    /// The files both were read from.
    pub files: [PathBuf; 2],
    /// Until when the certificate is good, in seconds since 1970.
    pub expires: u64,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes under way at most.
    pub max_handshakes: usize,
}

impl PartialEq for Tls {
    /// A certificate has one key, so keys need not be compared.
    fn eq(&self, other: &Self) -> bool {
        self.identity.cert == other.identity.cert
            && self.files == other.files
            && self.handshake_timeout == other.handshake_timeout
            && self.max_handshakes == other.max_handshakes
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// What is wrong with a file: which of the two, what, and what to do.
struct Fault {
    key: &'static str,
    message: String,
    hint: &'static str,
}

impl Builder<'_> {
    /// Reads and tries what `listen.tls` names.
    pub(crate) fn tls(&mut self, file: TlsFile) -> Option<Tls> {
        let mut paths = Vec::new();
        for (key, path) in [("certificate", &file.certificate), ("key", &file.key)] {
            let at = ["listen", "tls", key];
            if path.is_empty() && !self.has(&at) {
                self.key_error(&at[..2], format!("`listen.tls` needs a `{key}`"), "name a file in PEM form");
            } else if let Some(path) = self.path(path, &at) {
                paths.push(path);
            }
        }
        let [certificate, key] = <[PathBuf; 2]>::try_from(paths).ok()?;
        match read(&certificate, &key, UnixTime::now()) {
            Ok((identity, expires)) => Some(Tls {
                identity: Arc::new(identity),
                files: [certificate, key],
                expires,
                handshake_timeout: file.handshake_timeout.0,
                max_handshakes: file.max_handshakes,
            }),
            Err(fault) => {
                self.coded_error(Code::BadCertificate, &["listen", "tls", fault.key], fault.message, fault.hint);
                None
            }
        }
    }
}

fn read(certificate: &Path, key: &Path, now: UnixTime) -> Result<(CertifiedKey, u64), Fault> {
    let text = |of: &'static str, path: &Path| {
        read_bounded(path, MAX_REFERENCED_FILE).map_err(|error| Fault {
            key: of,
            message: format!("cannot read `{}`: {error}", path.display()),
            hint: "the path is relative to this configuration file",
        })
    };
    let fault = |key: &'static str, message: &str, hint: &'static str| Fault { key, message: message.to_owned(), hint };
    let chain = CertificateDer::pem_slice_iter(&text("certificate", certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| {
            fault(
                "certificate",
                "there is no certificate in this file",
                "it holds `-----BEGIN CERTIFICATE-----`: the server's own first, then those between it and the root",
            )
        })?;
    let key = private_key(&text("key", key)?)?;
    let provider = default_provider();
    let key = provider.key_provider.load_private_key(key).map_err(|_| {
        fault(
            "key",
            "the private key is of a kind that TLS does not use",
            "take ECDSA, Ed25519, or RSA of 2048 bits or more",
        )
    })?;
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            return Err(fault(
                "key",
                "the private key does not belong to the certificate",
                "the certificate must come first in its file, before those of who signed it",
            ));
        }
        Err(_) => return Err(fault("certificate", "the certificate cannot be read", "it must be X.509, version 3")),
    }
    match times(&identity.cert[0], &provider, now) {
        Ok(expires) => Ok((identity, expires)),
        Err(Time::Over) => {
            Err(fault("certificate", "the certificate has expired", "get a new one; clients refuse this"))
        }
        Err(Time::ToCome) => {
            Err(fault("certificate", "the certificate is not valid yet", "look at the clock of this machine"))
        }
    }
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, Fault> {
    PrivateKeyDer::from_pem_slice(text).map_err(|_| {
        let is_encrypted =
            [ENCRYPTED, ENCRYPTED_OLD].iter().any(|mark| text.windows(mark.len()).any(|part| part == *mark));
        let (message, hint) = if is_encrypted {
            ("the private key asks for a passphrase", "nobody is there to type it: `openssl pkey` writes one without")
        } else {
            ("there is no private key in this file", "it holds `-----BEGIN PRIVATE KEY-----`")
        };
        Fault { key: "key", message: message.to_owned(), hint }
    })
}

enum Time {
    Over,
    ToCome,
}

/// Until when a certificate is good, unless that is over, or to come.
///
/// Asked of the verifier, which looks at the times first: what it says of who signed is for the clients to say.
fn times(certificate: &CertificateDer<'_>, provider: &CryptoProvider, now: UnixTime) -> Result<u64, Time> {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return Ok(u64::MAX) };
    let verdict = |now: UnixTime| {
        let roots = RootCertStore::empty();
        let algorithms = provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)
    };
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match verdict(now) {
        Err(Error::InvalidCertificate(Expired | ExpiredContext { .. })) => return Err(Time::Over),
        Err(Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. })) => return Err(Time::ToCome),
        _ => {}
    }
    match verdict(UnixTime::since_unix_epoch(AFTER_ALL)) {
        Err(Error::InvalidCertificate(ExpiredContext { not_after, .. })) => Ok(not_after.as_secs()),
        _ => Ok(u64::MAX),
    }
}
