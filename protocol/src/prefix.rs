//! The beginning of a result, as a proof: how many canonical batches and rows there were, and a digest of what they
//! held. Whoever runs the same work again and finds the same prefix may leave those rows out and go on after them.
//!
//! The digest is BLAKE3 over values, not over frames, so it is the same on either side of a stream, compressed or not.
//!
//! INVARIANT: equal rows in equal batches give equal prefixes, whatever the arrays' offsets and spare bytes are. What
//! lies under a NULL counts: two runs that differ there are taken for different, never the other way round.

use std::{fmt, str::FromStr};

use arrow::{
    array::{Array, ArrayData, AsArray, RecordBatch},
    buffer::NullBuffer,
    datatypes::DataType,
};
use blake3::Hasher;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, MeshError, Result};

pub type Digest = [u8; 32];

/// The first `batches` batches of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prefix {
    pub batches: u64,
    pub rows: u64,
    pub digest: Digest,
}

impl Prefix {
    pub fn is_empty(&self) -> bool {
        self.batches == 0
    }

    /// Goes on by a batch of so many rows with this [`content`].
    pub fn extend(&mut self, rows: usize, content: Digest) {
        let mut hasher = Hasher::new();
        hasher.update(&self.digest);
        hasher.update(&content);
        self.digest = hasher.finalize().into();
        self.batches += 1;
        self.rows += rows as u64;
    }
}

/// `batches:rows:digest`, the digest in hex: how a client carries it.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.batches, self.rows, blake3::Hash::from_bytes(self.digest).to_hex())
    }
}

impl FromStr for Prefix {
    type Err = MeshError;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || MeshError::new(ErrorCode::MalformedFrame, "a prefix is `batches:rows:digest`");
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or_else(wrong);
        let (batches, rows, digest) = (part()?, part()?, part()?);
        Ok(Self {
            batches: batches.parse().map_err(|_| wrong())?,
            rows: rows.parse().map_err(|_| wrong())?,
            digest: blake3::Hash::from_hex(digest).map_err(|_| wrong())?.into(),
        })
    }
}

/// Drops the batches of a prefix from another run of the same work, proving on the way that they are the same.
#[derive(Debug, Clone)]
pub struct Replay {
    expected: Prefix,
    seen: Prefix,
}

impl Replay {
    pub fn new(expected: Prefix) -> Self {
        Self { expected, seen: Prefix::default() }
    }

    /// The batch, if it comes after the prefix. GL3012 as soon as the prefix has gone by and was another one.
    pub fn pass(&mut self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        if self.seen.batches >= self.expected.batches {
            return Ok(Some(batch));
        }
        self.seen.extend(batch.num_rows(), content(&batch));
        if self.seen.batches == self.expected.batches && self.seen != self.expected {
            return Err(self.differs());
        }
        Ok(None)
    }

    /// GL3012 if the run ended before its prefix did.
    pub fn finish(&self) -> Result<()> {
        if self.seen.batches < self.expected.batches { Err(self.differs()) } else { Ok(()) }
    }

    fn differs(&self) -> MeshError {
        let (seen, expected) = (self.seen, self.expected);
        MeshError::new(
            ErrorCode::ReplayDiffers,
            format!(
                "the first {} batches of another run ({} rows) are not those that were used ({} rows)",
                seen.batches, seen.rows, expected.rows
            ),
        )
    }
}

/// Digest of a batch's values, column by column.
pub fn content(batch: &RecordBatch) -> Digest {
    let mut hasher = Hasher::new();
    number(&mut hasher, batch.num_rows());
    batch.columns().iter().for_each(|column| values(&mut hasher, column.as_ref()));
    hasher.finalize().into()
}

fn number(hasher: &mut Hasher, number: usize) {
    hasher.update(&(number as u64).to_le_bytes());
}

fn values(hasher: &mut Hasher, array: &dyn Array) {
    number(hasher, array.len());
    validity(hasher, array.nulls());
    match array.data_type() {
        DataType::Boolean => bits(hasher, array.as_boolean().values().bit_chunks()),
        DataType::Utf8 => {
            texts(hasher, array.as_string::<i32>().value_offsets(), array.as_string::<i32>().value_data())
        }
        DataType::LargeUtf8 => {
            texts(hasher, array.as_string::<i64>().value_offsets(), array.as_string::<i64>().value_data());
        }
        DataType::Binary => {
            texts(hasher, array.as_binary::<i32>().value_offsets(), array.as_binary::<i32>().value_data());
        }
        DataType::LargeBinary => {
            texts(hasher, array.as_binary::<i64>().value_offsets(), array.as_binary::<i64>().value_data());
        }
        DataType::Utf8View => array.as_string_view().iter().for_each(|text| one(hasher, text.map(str::as_bytes))),
        DataType::BinaryView => array.as_binary_view().iter().for_each(|bytes| one(hasher, bytes)),
        DataType::Struct(_) => array.as_struct().columns().iter().for_each(|column| values(hasher, column.as_ref())),
        DataType::List(_) => lists(hasher, array.as_list::<i32>().value_offsets(), array.as_list::<i32>().values()),
        DataType::LargeList(_) => {
            lists(hasher, array.as_list::<i64>().value_offsets(), array.as_list::<i64>().values())
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: &dyn Array = map.entries();
            lengths(hasher, map.value_offsets());
            values(hasher, entries.slice(at(map.value_offsets(), 0), span(map.value_offsets())).as_ref());
        }
        DataType::FixedSizeList(_, width) => {
            let (list, width) = (array.as_fixed_size_list(), *width as usize);
            values(hasher, list.values().slice(list.offset() * width, list.len() * width).as_ref());
        }
        other => plain(hasher, &array.to_data(), other.primitive_width()),
    }
}

/// Values of a fixed width; of any other layout, all that there is.
fn plain(hasher: &mut Hasher, data: &ArrayData, width: Option<usize>) {
    let width = match data.data_type() {
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        _ => width,
    };
    match (width, data.buffers()) {
        (Some(width), [buffer]) => {
            hasher.update(&buffer.as_slice()[data.offset() * width..(data.offset() + data.len()) * width]);
        }
        (_, buffers) => {
            number(hasher, data.offset());
            for buffer in buffers {
                hasher.update(buffer.as_slice());
            }
            data.child_data().iter().for_each(|child| plain(hasher, child, child.data_type().primitive_width()));
        }
    }
}

fn validity(hasher: &mut Hasher, nulls: Option<&NullBuffer>) {
    match nulls.filter(|nulls| nulls.null_count() > 0) {
        Some(nulls) => bits(hasher, nulls.inner().bit_chunks()),
        None => number(hasher, usize::MAX),
    }
}

fn bits(hasher: &mut Hasher, chunks: arrow::util::bit_chunk_iterator::BitChunks<'_>) {
    chunks.iter().chain([chunks.remainder_bits()]).for_each(|word| number(hasher, word as usize));
}

fn one(hasher: &mut Hasher, bytes: Option<&[u8]>) {
    number(hasher, bytes.map_or(0, <[u8]>::len));
    hasher.update(bytes.unwrap_or_default());
}

/// Offsets are 32 or 64 bits wide, and never negative.
trait Offset: Copy {
    fn to_usize(self) -> usize;
}

impl Offset for i32 {
    fn to_usize(self) -> usize {
        self as usize
    }
}

impl Offset for i64 {
    fn to_usize(self) -> usize {
        self as usize
    }
}

fn at<O: Offset>(offsets: &[O], index: usize) -> usize {
    offsets.get(index).map_or(0, |offset| offset.to_usize())
}

/// From the first offset to the last.
fn span<O: Offset>(offsets: &[O]) -> usize {
    at(offsets, offsets.len().saturating_sub(1)) - at(offsets, 0)
}

fn lengths<O: Offset>(hasher: &mut Hasher, offsets: &[O]) {
    let first = at(offsets, 0);
    let ends: Vec<u8> = offsets.iter().flat_map(|offset| ((offset.to_usize() - first) as u64).to_le_bytes()).collect();
    hasher.update(&ends);
}

fn texts<O: Offset>(hasher: &mut Hasher, offsets: &[O], data: &[u8]) {
    lengths(hasher, offsets);
    let first = at(offsets, 0);
    hasher.update(&data[first..first + span(offsets)]);
}

fn lists<O: Offset>(hasher: &mut Hasher, offsets: &[O], items: &dyn Array) {
    lengths(hasher, offsets);
    values(hasher, items.slice(at(offsets, 0), span(offsets)).as_ref());
}
