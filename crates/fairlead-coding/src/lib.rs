//! Content codings of HTTP (RFC 9110, section 8.4): which one a peer takes, compressing a whole body, decoding a body
//! as it comes and within bounds, and putting a short beginning before what was compressed earlier.
//!
//! Knows bytes, no connections and no configuration.

mod accept;
mod decode;
mod prepared;

pub use accept::best;
pub use decode::{DecodeError, Decoder, STEP};
pub use prepared::Prepared;

use flate2::{Compression, write::GzEncoder};
use std::io::{self, Write};

/// Quality of gzip: what is sent once is not worth more.
const GZIP_LEVEL: Compression = Compression::new(5);
/// Quality of Brotli, of 11: above it, it takes several times as long.
const BROTLI_LEVEL: u32 = 4;
/// The window of Brotli, as a power of 2.
const BROTLI_WINDOW: u32 = 20;
/// Bytes the Brotli encoder takes at once.
const BROTLI_BUFFER: usize = 16 * 1024;
/// Quality of Zstandard.
const ZSTD_LEVEL: i32 = 3;

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Zstandard (RFC 8878).
    Zstd,
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
}

impl Coding {
    /// All, in the order we prefer them: the first costs least for what it saves.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Gzip, Self::Brotli];

    /// What a request says that takes all of them.
    pub const ACCEPT: &'static str = "zstd, gzip, br";

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
        }
    }

    /// The coding of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim();
        if name.eq_ignore_ascii_case("x-gzip") {
            return Some(Self::Gzip);
        }
        Self::ALL.into_iter().find(|coding| coding.name().eq_ignore_ascii_case(name))
    }

    /// Compresses a whole body.
    ///
    /// # Errors
    /// When the library fails, which for input in memory means that memory is short.
    pub fn compress(self, body: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), GZIP_LEVEL);
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Brotli => {
                let out = Vec::with_capacity(body.len() / 4);
                let mut encoder = brotli::CompressorWriter::new(out, BROTLI_BUFFER, BROTLI_LEVEL, BROTLI_WINDOW);
                encoder.write_all(body)?;
                encoder.flush()?;
                Ok(encoder.into_inner())
            }
            Self::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use bytes::Bytes;

    pub(crate) fn decoded(coding: Coding, body: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
        let mut decoder = Decoder::new(coding)?;
        let mut whole = Vec::new();
        // In pieces that end anywhere.
        for piece in body.chunks(7) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(part) = decoder.next()? {
                assert!(part.len() <= STEP);
                whole.extend_from_slice(&part);
                if whole.len() > limit {
                    return Err(DecodeError::Malformed);
                }
            }
        }
        decoder.finish()?;
        Ok(whole)
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| b"{\"name\":\"tool\",\"description\":\"something\"}"[(at * at / 7 + at) % 40]).collect()
    }

    #[test]
    fn what_is_compressed_is_smaller_and_comes_back() {
        for coding in Coding::ALL {
            for size in [0, 1, 1_000, 100_000, 1_000_000] {
                let body = text(size);
                let compressed = coding.compress(&body).unwrap();
                assert!(size < 1_000 || compressed.len() < size / 2, "{coding:?}: {} of {size}", compressed.len());
                assert_eq!(decoded(coding, &compressed, size).unwrap(), body, "{coding:?} {size}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_garbage_is_an_error_and_no_panic() {
        for coding in Coding::ALL {
            let whole = coding.compress(&text(10_000)).unwrap();
            for cut in [1, 5, whole.len() / 2, whole.len() - 1] {
                assert!(decoded(coding, &whole[..cut], usize::MAX).is_err(), "{coding:?} cut at {cut}");
            }
            for at in 0..whole.len().min(200) {
                let mut bent = whole.clone();
                bent[at] ^= 0x55;
                let _ = decoded(coding, &bent, 1 << 20);
            }
            assert!(decoded(coding, b"{\"jsonrpc\":\"2.0\"}", usize::MAX).is_err(), "{coding:?}");
            let mut more = whole.clone();
            more.extend_from_slice(b"and more");
            assert!(decoded(coding, &more, usize::MAX).is_err(), "{coding:?} with more after its end");
        }
    }

    #[test]
    fn a_bomb_is_noticed_step_by_step() {
        for coding in Coding::ALL {
            let bomb = coding.compress(&vec![b' '; 64 << 20]).unwrap();
            assert!(bomb.len() < 100_000, "{coding:?}: {}", bomb.len());
            let mut decoder = Decoder::new(coding).unwrap();
            decoder.push(Bytes::from(bomb));
            let mut so_far = 0;
            while so_far <= 1 << 20 {
                so_far += decoder.next().unwrap().expect("there is more").len();
            }
            assert!(so_far <= (1 << 20) + STEP, "{coding:?}");
        }
    }

    #[test]
    fn a_stream_comes_out_as_far_as_it_was_flushed() {
        // The first event of a stream that goes on, in each coding.
        let event = b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
        let mut gzip = GzEncoder::new(Vec::new(), GZIP_LEVEL);
        gzip.write_all(event).unwrap();
        gzip.flush().unwrap();
        let mut brotli = brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER, BROTLI_LEVEL, BROTLI_WINDOW);
        brotli.write_all(event).unwrap();
        brotli.flush().unwrap();
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL).unwrap();
        zstd.write_all(event).unwrap();
        zstd.flush().unwrap();
        let flushed = [
            (Coding::Gzip, gzip.get_ref().clone()),
            (Coding::Brotli, brotli.get_ref().clone()),
            (Coding::Zstd, zstd.get_ref().clone()),
        ];
        for (coding, sent) in flushed {
            let mut decoder = Decoder::new(coding).unwrap();
            decoder.push(Bytes::from(sent));
            let mut got = Vec::new();
            while let Some(part) = decoder.next().unwrap() {
                got.extend_from_slice(&part);
            }
            assert_eq!(got, event, "{coding:?}");
            assert!(decoder.finish().is_err(), "{coding:?}: it is not over");
        }
    }
}
