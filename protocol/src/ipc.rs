//! Arrow IPC as it travels in `Schema` and `Batch` frames: encapsulated messages of the IPC stream format, one for
//! each frame. Decoding trusts nothing: sizes are checked before anything is allocated, and Arrow validates data.

use arrow::{array::RecordBatch, datatypes::SchemaRef};

use crate::{error::Result, messages::edge::Compression};

/// Largest `Batch` frame, bytes, compressed or not, and most bytes that one compressed batch may inflate to.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Largest `Schema` frame, bytes.
pub const SCHEMA_BYTES_MAX: usize = 1 << 20;

/// Writes the frames' payloads of one stream: `schema()` first, then `batch()` for each batch.
pub struct Encoder {}

impl Encoder {
    /// Fails with GL3006 for a schema that cannot be sent.
    pub fn new(_schema: SchemaRef, _compression: Compression) -> Result<Self> {
        todo!()
    }
    /// Payload of the `Schema` frame.
    pub fn schema(&mut self) -> Result<Vec<u8>> {
        todo!()
    }
    /// Payload of one `Batch` frame. Fails with GL4012 over [`BATCH_BYTES_MAX`].
    pub fn batch(&mut self, _batch: &RecordBatch) -> Result<Vec<u8>> {
        todo!()
    }
}

/// Reads the frames' payloads of one stream.
pub struct Decoder {}

impl Decoder {
    /// From the payload of the `Schema` frame. GL4011 if it is not exactly one schema message.
    pub fn new(_schema: &[u8]) -> Result<Self> {
        todo!()
    }
    pub fn schema(&self) -> SchemaRef {
        todo!()
    }
    /// From the payload of a `Batch` frame. GL4011 if it is not exactly one batch of this schema.
    pub fn batch(&mut self, _payload: bytes::Bytes) -> Result<RecordBatch> {
        todo!()
    }
}

/// A schema alone, as an IPC message.
pub fn encode_schema(_schema: &SchemaRef) -> Result<Vec<u8>> {
    todo!()
}

pub fn decode_schema(_bytes: &[u8]) -> Result<SchemaRef> {
    todo!()
}
