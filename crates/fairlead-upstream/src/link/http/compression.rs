//! Requests compressed for a server that is configured to take them so.

use bytes::Bytes;
use fairlead_coding::Coding;
use fairlead_config::{RequestCoding, ServerCompression};
use http::{HeaderValue, Request, header};
use http_body_util::Full;

/// How requests are compressed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestCompression {
    coding: Coding,
    min_size: usize,
}

impl RequestCompression {
    /// What the configuration says; `None` when requests go as they are.
    pub(crate) fn of(configured: &ServerCompression) -> Option<Self> {
        let coding = match configured.requests? {
            RequestCoding::Gzip => Coding::Gzip,
            RequestCoding::Br => Coding::Brotli,
            RequestCoding::Zstd => Coding::Zstd,
        };
        Some(Self { coding, min_size: configured.min_size })
    }

    /// Compresses the body of `request`, which is `plain`, if it is long enough and becomes shorter.
    pub(super) fn apply(self, request: &mut Request<Full<Bytes>>, plain: &Bytes) {
        if plain.len() < self.min_size {
            return;
        }
        let Ok(compressed) = self.coding.compress(plain) else { return };
        if compressed.len() < plain.len() {
            *request.body_mut() = Full::new(compressed.into());
            request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(self.coding.name()));
        }
    }
}
