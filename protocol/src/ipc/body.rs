//! The buffers of a batch's body: where they are, and how compressed ones are inflated.
//!
//! A compressed buffer states its inflated length in its first eight bytes. That claim is what gets allocated, so
//! all claims are added up and compared with what the codec could at best achieve before anything is inflated, and
//! inflating stops at the claim. (Arrow's LZ4 reader ignores the claim and goes on to the end of the input.)

use std::io::Read;

use arrow::buffer::{Buffer, MutableBuffer};
use arrow_ipc::{CompressionType, RecordBatch as BatchHeader};

use super::malformed;
use crate::error::Result;

/// In place of a length: the rest is not compressed.
const NOT_COMPRESSED: i64 = -1;
const CLAIM_BYTES: usize = 8;
/// LZ4 block format: one byte of length stands for at most 255 bytes of output.
const LZ4_RATIO_MAX: usize = 255;
/// First bytes of an LZ4 frame. The legacy frame format has another magic, and is refused.
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Zstandard: a run-length block of 4 bytes stands for at most 128 KiB.
const ZSTD_RATIO_MAX: usize = (128 << 10) / 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Lz4,
    Zstd,
}

/// One buffer as the metadata describe it, checked against the body.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Plain { start: usize, len: usize },
    Compressed { codec: Codec, bytes: &'a [u8], inflated: usize },
}

/// Bytes that all buffers together will take. GL4011 for buffers outside the body or claims that no codec can keep.
pub(super) fn inflated_bytes(header: &BatchHeader<'_>, body: &[u8]) -> Result<usize> {
    let codec = codec(header)?;
    let mut total = 0usize;
    for buffer in header.buffers().iter().flat_map(|b| b.iter()) {
        let len = match piece(buffer, body, codec)? {
            Piece::Plain { len, .. } => len,
            Piece::Compressed { inflated, .. } => inflated,
        };
        total = total.checked_add(len).ok_or_else(|| malformed("the lengths of a batch's buffers overflow"))?;
    }
    Ok(total)
}

fn codec(header: &BatchHeader<'_>) -> Result<Option<Codec>> {
    match header.compression().map(|c| c.codec()) {
        None => Ok(None),
        Some(CompressionType::LZ4_FRAME) => Ok(Some(Codec::Lz4)),
        Some(CompressionType::ZSTD) => Ok(Some(Codec::Zstd)),
        Some(_) => Err(malformed("a batch is compressed by a codec that is not known")),
    }
}

fn piece<'a>(buffer: &arrow_ipc::Buffer, body: &'a [u8], codec: Option<Codec>) -> Result<Piece<'a>> {
    let outside = || malformed(format!("a buffer lies outside of its body of {} bytes", body.len()));
    let start = usize::try_from(buffer.offset()).map_err(|_| outside())?;
    let len = usize::try_from(buffer.length()).map_err(|_| outside())?;
    let end = start.checked_add(len).ok_or_else(outside)?;
    let bytes = body.get(start..end).ok_or_else(outside)?;
    let Some(codec) = codec.filter(|_| len > 0) else { return Ok(Piece::Plain { start, len }) };
    let Some((claim, bytes)) = bytes.split_first_chunk::<CLAIM_BYTES>() else {
        return Err(malformed("a compressed buffer is too short to state its length"));
    };
    let claim = i64::from_le_bytes(*claim);
    if claim == NOT_COMPRESSED {
        return Ok(Piece::Plain { start: start + CLAIM_BYTES, len: bytes.len() });
    }
    let ratio = if codec == Codec::Lz4 { LZ4_RATIO_MAX } else { ZSTD_RATIO_MAX };
    let inflated = usize::try_from(claim).ok().filter(|c| *c <= bytes.len().saturating_mul(ratio));
    let inflated =
        inflated.ok_or_else(|| malformed(format!("{} compressed bytes cannot inflate to {claim}", bytes.len())))?;
    Ok(Piece::Compressed { codec, bytes, inflated })
}

/// Hands out a body's buffers in order, inflated.
pub(super) struct Buffers<'a> {
    body: Buffer,
    pieces: flatbuffers::VectorIter<'a, arrow_ipc::Buffer>,
    codec: Option<Codec>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl<'a> Buffers<'a> {
    /// The header must have passed [`inflated_bytes`] with a total within the limit.
    pub(super) fn new(header: &BatchHeader<'a>, body: Buffer) -> Result<Self> {
        let pieces = header.buffers().ok_or_else(|| malformed("a batch has no list of buffers"))?;
        Ok(Self { body, pieces: pieces.iter(), codec: codec(header)?, zstd: None })
    }

    pub(super) fn next(&mut self) -> Result<Buffer> {
        let buffer = self.pieces.next().ok_or_else(|| malformed("a batch has too few buffers for its schema"))?;
        match piece(buffer, &self.body, self.codec)? {
            Piece::Plain { start, len } => Ok(self.body.slice_with_length(start, len)),
            Piece::Compressed { codec, bytes, inflated } => {
                let mut out = MutableBuffer::from_len_zeroed(inflated);
                let filled = match codec {
                    Codec::Lz4 => inflate_lz4(bytes, out.as_slice_mut()),
                    Codec::Zstd => inflate_zstd(&mut self.zstd, bytes, out.as_slice_mut()),
                };
                if !filled {
                    return Err(malformed(format!("a compressed buffer does not inflate to {inflated} bytes")));
                }
                Ok(out.into())
            }
        }
    }

    /// GL4011 if buffers are left over.
    pub(super) fn finish(mut self) -> Result<()> {
        match self.pieces.next() {
            Some(_) => Err(malformed("a batch has too many buffers for its schema")),
            None => Ok(()),
        }
    }
}

/// Whether the input is an LZ4 frame of exactly `out.len()` bytes, now in `out`.
fn inflate_lz4(bytes: &[u8], out: &mut [u8]) -> bool {
    if !bytes.starts_with(&LZ4_MAGIC) {
        return false;
    }
    let mut decoder = lz4_flex::frame::FrameDecoder::new(bytes);
    decoder.read_exact(out).is_ok() && matches!(decoder.read(&mut [0]), Ok(0)) && decoder.get_ref().is_empty()
}

/// Whether the input inflates to exactly `out.len()` bytes, now in `out`.
fn inflate_zstd(context: &mut Option<zstd::bulk::Decompressor<'static>>, bytes: &[u8], out: &mut [u8]) -> bool {
    let decompressor = match context {
        Some(decompressor) => decompressor,
        None => match zstd::bulk::Decompressor::new() {
            Ok(decompressor) => context.insert(decompressor),
            Err(_) => return false,
        },
    };
    decompressor.decompress_to_buffer(bytes, out).is_ok_and(|written| written == out.len())
}
