//! A body that is compressed once and sent many times, each time with another short beginning and end: a list, in an
//! answer that carries the id of its request.
//!
//! Both formats used allow bytes that are not compressed: the beginning and the end are written as they are, around
//! the blocks that were made earlier. Nothing in those refers to what stands before them.

use crate::{Coding, GZIP_LEVEL, ZSTD_LEVEL};
use bytes::Bytes;
use flate2::{Compress, Crc, FlushCompress};
use std::{
    io::{self, Write},
    sync::OnceLock,
};

/// Bytes of one block that is not compressed, at most: the smaller of what the two formats allow.
const MAX_STORED: usize = 60_000;
/// The largest block of Zstandard, and the least its window must be for it.
const ZSTD_BLOCK: usize = 128 * 1024;
/// The header of gzip: deflate, no flags, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The header of Zstandard: a window of 8 MiB, no checksum, no size.
const ZSTD_HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68];
/// The window that says.
const ZSTD_WINDOW: usize = 8 << 20;

/// The middle of a body, in the forms it was asked for.
#[derive(Debug, Default)]
pub struct Prepared {
    gzip: OnceLock<Option<(Bytes, Crc)>>,
    zstd: OnceLock<Option<Bytes>>,
}

impl Prepared {
    /// The whole body in `coding`: `before`, `middle` (the same each time) and `after`. `None` where the middle cannot
    /// be kept in that coding.
    #[must_use]
    pub fn body(&self, coding: Coding, before: &[u8], middle: &[u8], after: &[u8]) -> Option<Vec<u8>> {
        if before.len() > MAX_STORED || after.len() > MAX_STORED {
            return None;
        }
        match coding {
            Coding::Gzip => {
                let (blocks, sum) = self.gzip.get_or_init(|| deflated(middle).ok()).as_ref()?;
                Some(gzip(before, blocks, sum, after))
            }
            Coding::Zstd => {
                let blocks = self.zstd.get_or_init(|| zstd_blocks(middle).ok().flatten()).as_ref()?;
                Some(zstd(before, blocks, after))
            }
            Coding::Brotli => None,
        }
    }
}

/// Deflate blocks that end at a whole byte, the last of which is not the last of its stream.
fn deflated(middle: &[u8]) -> io::Result<(Bytes, Crc)> {
    let mut engine = Compress::new(GZIP_LEVEL, false);
    let mut blocks = Vec::with_capacity(middle.len() / 4 + 64);
    loop {
        let read = usize::try_from(engine.total_in()).map_err(io::Error::other)?;
        engine.compress_vec(&middle[read..], &mut blocks, FlushCompress::Sync).map_err(io::Error::other)?;
        let is_read = engine.total_in() == middle.len() as u64;
        // Room that is left says that everything was written.
        if is_read && blocks.len() < blocks.capacity() {
            break;
        }
        blocks.reserve(middle.len() / 4 + 64);
    }
    let mut sum = Crc::new();
    sum.update(middle);
    Ok((blocks.into(), sum))
}

fn gzip(before: &[u8], blocks: &[u8], middle: &Crc, after: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(before.len() + blocks.len() + after.len() + 32);
    body.extend_from_slice(&GZIP_HEADER);
    stored(&mut body, before, false);
    body.extend_from_slice(blocks);
    stored(&mut body, after, true);
    let mut sum = Crc::new();
    sum.update(before);
    sum.combine(middle);
    let mut end = Crc::new();
    end.update(after);
    sum.combine(&end);
    body.extend_from_slice(&sum.sum().to_le_bytes());
    body.extend_from_slice(&sum.amount().to_le_bytes());
    body
}

/// A block of deflate that is not compressed.
fn stored(body: &mut Vec<u8>, bytes: &[u8], is_last: bool) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    body.push(u8::from(is_last));
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&(!length).to_le_bytes());
    body.extend_from_slice(bytes);
}

/// The blocks of a Zstandard frame, none of which is its last. `None` when they need another window than we say.
fn zstd_blocks(middle: &[u8]) -> io::Result<Option<Bytes>> {
    if middle.len() > ZSTD_WINDOW - ZSTD_BLOCK {
        return Ok(None);
    }
    if middle.is_empty() {
        return Ok(Some(Bytes::new()));
    }
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    encoder.include_contentsize(false)?;
    encoder.include_checksum(false)?;
    encoder.write_all(middle)?;
    // Flushed and not finished: the block that would end the frame is not there.
    encoder.flush()?;
    let frame = encoder.get_ref();
    // Magic number, descriptor, window.
    let is_as_asked = frame.get(..4) == Some(&ZSTD_HEADER[..4]) && frame.get(4) == Some(&ZSTD_HEADER[4]);
    Ok(is_as_asked.then(|| Bytes::copy_from_slice(&frame[ZSTD_HEADER.len()..])))
}

fn zstd(before: &[u8], blocks: &[u8], after: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(before.len() + blocks.len() + after.len() + 16);
    body.extend_from_slice(&ZSTD_HEADER);
    raw(&mut body, before, false);
    body.extend_from_slice(blocks);
    raw(&mut body, after, true);
    body
}

/// A block of Zstandard that is not compressed.
fn raw(body: &mut Vec<u8>, bytes: &[u8], is_last: bool) {
    let header = u32::try_from(bytes.len()).unwrap_or(0) << 3 | u32::from(is_last);
    body.extend_from_slice(&header.to_le_bytes()[..3]);
    body.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::tests::decoded;

    #[test]
    fn the_beginning_and_the_end_are_put_around_what_was_compressed_once() {
        for size in [0_usize, 1, 1_000, 65_536, 131_072, 300_000, 2_000_000] {
            let middle: Vec<u8> = (0..size).map(|at| b"{\"name\":\"a tool\"},"[(at * at / 5 + at) % 18]).collect();
            let prepared = Prepared::default();
            for id in ["1", "22", "\"a rather long id of a client that likes long ids\""] {
                let before = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":");
                let whole = [before.as_bytes(), &middle, b"}"].concat();
                for coding in [Coding::Gzip, Coding::Zstd] {
                    let body = prepared.body(coding, before.as_bytes(), &middle, b"}").unwrap();
                    assert_eq!(decoded(coding, &body, usize::MAX).unwrap(), whole, "{coding:?} {size} {id}");
                    assert!(size < 1_000 || body.len() < size / 2, "{coding:?}: {} of {size}", body.len());
                }
                assert!(prepared.body(Coding::Brotli, b"{", &middle, b"}").is_none());
            }
        }
    }

    #[test]
    fn other_decoders_read_it_too() {
        let middle = b"[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]".repeat(50);
        let prepared = Prepared::default();
        let whole = [b"{".as_slice(), &middle, b"}"].concat();
        let gzip = prepared.body(Coding::Gzip, b"{", &middle, b"}").unwrap();
        let mut got = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gzip[..]), &mut got).unwrap();
        assert_eq!(got, whole);
        let frame = prepared.body(Coding::Zstd, b"{", &middle, b"}").unwrap();
        assert_eq!(zstd::stream::decode_all(&frame[..]).unwrap(), whole);
    }
}
