//! Decoding a body as it comes. No step makes more than [`STEP`] bytes, so that whoever reads can stop at his bound
//! long before a small body has become a large one.

use crate::Coding;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, HeapAlloc, HuffmanCode};
use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};
use std::fmt;
use zstd::{
    stream::raw::{self, Operation},
    zstd_safe::DParameter,
};

/// Bytes decoded at a time.
pub const STEP: usize = 32 * 1024;
/// The largest window of Zstandard, as a power of 2 (RFC 9659): it is memory.
const ZSTD_WINDOW: u32 = 23;
/// The window of gzip, as a power of 2.
const GZIP_WINDOW: u8 = 15;

/// Why a body cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not of its coding.
    #[error("the body is not of the content coding it is said to be")]
    Malformed,
    /// It ended in its middle.
    #[error("the compressed body is not complete")]
    Incomplete,
}

type BrotliEngine = BrotliState<HeapAlloc<u8>, HeapAlloc<u32>, HeapAlloc<HuffmanCode>>;

enum Engine {
    Gzip(Decompress),
    Zstd(raw::Decoder<'static>),
    Brotli(Box<BrotliEngine>),
}

/// Decodes one body.
pub struct Decoder {
    engine: Engine,
    input: Bytes,
    is_over: bool,
}

/// What one step did.
struct Progress {
    read: usize,
    written: usize,
    is_over: bool,
}

impl Decoder {
    /// A decoder for a body of `coding`.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(coding: Coding) -> Result<Self, DecodeError> {
        Ok(Self { engine: Engine::new(coding)?, input: Bytes::new(), is_over: false })
    }

    /// Takes the next piece. All of the one before must have been decoded.
    pub fn push(&mut self, input: Bytes) {
        if self.input.is_empty() {
            self.input = input;
        } else {
            let mut whole = Vec::with_capacity(self.input.len() + input.len());
            whole.extend_from_slice(&self.input);
            whole.extend_from_slice(&input);
            self.input = whole.into();
        }
    }

    /// The next bytes, at most [`STEP`]; `None` when more input is needed.
    ///
    /// # Errors
    /// When the input is not of the coding, or goes on after its end where it cannot.
    #[allow(clippy::should_implement_trait, reason = "it fails, and goes on after `None`")]
    pub fn next(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let mut out = vec![0; STEP];
        loop {
            if self.is_over {
                if self.input.is_empty() {
                    return Ok(None);
                }
                // Bodies of these may have several members (RFC 1952, section 2.2; RFC 8878, section 3).
                self.engine = match &self.engine {
                    Engine::Gzip(_) => Engine::new(Coding::Gzip)?,
                    Engine::Zstd(_) => Engine::new(Coding::Zstd)?,
                    Engine::Brotli(_) => return Err(DecodeError::Malformed),
                };
                self.is_over = false;
            }
            let progress = self.engine.step(&self.input, &mut out)?;
            self.input.advance(progress.read);
            self.is_over = progress.is_over;
            if progress.written > 0 {
                out.truncate(progress.written);
                return Ok(Some(out.into()));
            }
            if progress.read == 0 && !self.is_over {
                return Ok(None);
            }
        }
    }

    /// The input is over.
    ///
    /// # Errors
    /// When the body is not.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.is_over && self.input.is_empty() { Ok(()) } else { Err(DecodeError::Incomplete) }
    }
}

impl Engine {
    fn new(coding: Coding) -> Result<Self, DecodeError> {
        Ok(match coding {
            Coding::Gzip => Engine::Gzip(Decompress::new_gzip(GZIP_WINDOW)),
            Coding::Zstd => {
                let mut decoder = raw::Decoder::new().map_err(|_| DecodeError::Malformed)?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).map_err(|_| DecodeError::Malformed)?;
                Engine::Zstd(decoder)
            }
            Coding::Brotli => {
                let (bytes, words, codes) = (HeapAlloc::default(), HeapAlloc::default(), HeapAlloc::default());
                Engine::Brotli(Box::new(BrotliState::new_strict(bytes, words, codes)))
            }
        })
    }

    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Progress, DecodeError> {
        match self {
            Self::Gzip(engine) => gzip(engine, input, out),
            Self::Zstd(engine) => zstd(engine, input, out),
            Self::Brotli(engine) => brotli(engine, input, out),
        }
    }
}

fn gzip(engine: &mut Decompress, input: &[u8], out: &mut [u8]) -> Result<Progress, DecodeError> {
    let (read, written) = (engine.total_in(), engine.total_out());
    let status = engine.decompress(input, out, FlushDecompress::None).map_err(|_| DecodeError::Malformed)?;
    let since = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
    Ok(Progress {
        read: since(engine.total_in(), read),
        written: since(engine.total_out(), written),
        is_over: status == Status::StreamEnd,
    })
}

fn zstd(engine: &mut raw::Decoder<'static>, input: &[u8], out: &mut [u8]) -> Result<Progress, DecodeError> {
    let status = engine.run_on_buffers(input, out).map_err(|_| DecodeError::Malformed)?;
    // Nothing remaining is said before the first byte too.
    let is_over = status.remaining == 0 && status.bytes_read > 0;
    Ok(Progress { read: status.bytes_read, written: status.bytes_written, is_over })
}

fn brotli(engine: &mut BrotliEngine, input: &[u8], out: &mut [u8]) -> Result<Progress, DecodeError> {
    let (mut left, mut read, mut room, mut written, mut total) = (input.len(), 0, out.len(), 0, 0);
    let result = BrotliDecompressStream(&mut left, &mut read, input, &mut room, &mut written, out, &mut total, engine);
    match result {
        BrotliResult::ResultFailure => Err(DecodeError::Malformed),
        BrotliResult::ResultSuccess => Ok(Progress { read, written, is_over: true }),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(Progress { read, written, is_over: false }),
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}
