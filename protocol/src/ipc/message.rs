//! The envelope of an IPC message: continuation marker, length of the metadata, metadata (a flatbuffer), body.
//!
//! INVARIANT: what is returned has been verified: every offset of the flatbuffer is in bounds, its tables and
//! strings, with sharing undone, are no larger than an honest writer's, and the body fills the rest exactly.

use arrow_ipc::{Message, MetadataVersion, root_as_message_with_opts};
use flatbuffers::VerifierOptions;

use super::{TYPE_DEPTH_MAX, malformed};
use crate::error::Result;

const CONTINUATION: [u8; 4] = [0xff; 4];

/// Message, schema, and two tables (field, type) for each level of a type.
const TABLES_DEEP_MAX: usize = 4 + 2 * TYPE_DEPTH_MAX;
/// A table takes four bytes for its vtable's offset and four where it is referred to. Sharing a table between
/// several parents would let a small message unfold into a huge schema; honest writers do not share.
const TABLE_BYTES_MIN: usize = 8;
/// The verifier counts a vtable for each table that uses it, and each length and offset besides what it leads to.
const APPARENT_FACTOR: usize = 6;

/// Message and body of a payload that is exactly one message.
pub(super) fn open(payload: &[u8]) -> Result<(Message<'_>, &[u8])> {
    let Some((prefix, rest)) = payload.split_first_chunk::<8>() else {
        return Err(malformed(format!("{} bytes are too few for a message", payload.len())));
    };
    let [c0, c1, c2, c3, l0, l1, l2, l3] = *prefix;
    if [c0, c1, c2, c3] != CONTINUATION {
        return Err(malformed("a message does not start with the continuation marker"));
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let Some((metadata, body)) = rest.split_at_checked(length) else {
        return Err(malformed(format!("metadata of {length} bytes do not fit in the {} that are there", rest.len())));
    };
    let options = VerifierOptions {
        max_depth: TABLES_DEEP_MAX,
        max_tables: length / TABLE_BYTES_MIN + 4,
        max_apparent_size: length * APPARENT_FACTOR + 256,
        ignore_missing_null_terminator: false,
    };
    let message = root_as_message_with_opts(&options, metadata)
        .map_err(|_| malformed("a message's metadata are not a valid flatbuffer"))?;
    if message.version() != MetadataVersion::V5 {
        return Err(malformed("a message is not of metadata version 5"));
    }
    if u64::try_from(message.bodyLength()) != Ok(body.len() as u64) {
        return Err(malformed(format!("a body of {} bytes is stated, {} are there", message.bodyLength(), body.len())));
    }
    Ok((message, body))
}
