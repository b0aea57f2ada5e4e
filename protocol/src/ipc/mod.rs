//! Arrow IPC as it travels in `Schema` and `Batch` frames: encapsulated messages of the IPC stream format (metadata
//! V5, little endian), exactly one for each frame.
//!
//! Writing is Arrow's; reading is ours, because Arrow's reader trusts lengths that a peer states. Dictionary,
//! run-end, union and list-view types are refused by name (GL3006): an edge casts them to plain values first, so a
//! stream needs no state beyond its schema and any batch of it can be checked, dropped or replayed alone.
//!
//! INVARIANT: no bytes make a decoder panic, and none make it allocate more than a small multiple of what was
//! received plus what the (bounded) claims of compressed buffers can truly inflate to.

mod array;
mod body;
mod message;
mod schema;

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions},
    buffer::Buffer,
    datatypes::{BinaryViewType, ByteViewType, DataType, Schema, SchemaRef, StringViewType},
    error::ArrowError,
};
use arrow_ipc::{
    CompressionType, MessageHeader,
    writer::{IpcWriteOptions, StreamWriter},
};

use crate::{
    error::{ErrorCode, MeshError, Result},
    messages::edge::Compression,
};

/// Largest `Batch` frame, bytes, compressed or not, and most bytes that one compressed batch may inflate to.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Largest `Schema` frame, bytes.
pub const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Most rows of a batch. Bytes alone do not bound them: a batch without columns has rows too.
pub const BATCH_ROWS_MAX: usize = 1 << 24;
/// Deepest nesting of a column's type: a plain column is 1.
pub const TYPE_DEPTH_MAX: usize = 16;

/// Writes the frames' payloads of one stream: `schema()` first, then `batch()` for each batch.
pub struct Encoder {
    schema: SchemaRef,
    schema_payload: Vec<u8>,
    compressed: bool,
    writer: StreamWriter<Vec<u8>>,
}

impl Encoder {
    /// Fails with GL3006 for a schema that cannot be sent, GL4012 for one that is too large.
    pub fn new(schema: SchemaRef, compression: Compression) -> Result<Self> {
        schema::check(&schema)?;
        let codec = match compression {
            Compression::None => None,
            Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
            Compression::Zstd => Some(CompressionType::ZSTD),
        };
        let options = IpcWriteOptions::default().try_with_compression(codec).map_err(cannot_encode)?;
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options).map_err(cannot_encode)?;
        let schema_payload = std::mem::take(writer.get_mut());
        within(schema_payload.len(), SCHEMA_BYTES_MAX, "a schema")?;
        Ok(Self { schema, schema_payload, compressed: codec.is_some(), writer })
    }

    /// Payload of the `Schema` frame.
    pub fn schema(&mut self) -> Result<Vec<u8>> {
        Ok(self.schema_payload.clone())
    }

    /// Payload of one `Batch` frame. Fails with GL4012 over [`BATCH_BYTES_MAX`] or [`BATCH_ROWS_MAX`].
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        if batch.num_rows() > BATCH_ROWS_MAX {
            return Err(MeshError::new(
                ErrorCode::FrameTooLarge,
                format!("a batch of {} rows is over the limit of {BATCH_ROWS_MAX}", batch.num_rows()),
            ));
        }
        let batch = self.conform(batch)?;
        let written = self.writer.write(&batch);
        let payload = std::mem::take(self.writer.get_mut());
        written.map_err(cannot_encode)?;
        within(payload.len(), BATCH_BYTES_MAX, "a batch")?;
        if self.compressed {
            let (message, body) = message::open(&payload)?;
            let batch = message.header_as_record_batch().ok_or_else(|| malformed("a message is not a batch"))?;
            within(body::inflated_bytes(&batch, body)?, BATCH_BYTES_MAX, "an inflated batch")?;
        }
        Ok(payload)
    }

    /// The batch under the stream's schema, with string views cut down to the bytes that they use.
    fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = batch.columns().iter().map(compact).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|e| MeshError::internal(format!("a batch does not fit its stream's schema: {e}")))
    }
}

/// A view array drags all its data buffers along, whatever few of their bytes its views still name.
fn compact(column: &ArrayRef) -> ArrayRef {
    fn cut<T: ByteViewType>(column: &ArrayRef) -> ArrayRef {
        let views = column.as_byte_view::<T>();
        let held: usize = views.data_buffers().iter().map(Buffer::len).sum();
        if views.total_buffer_bytes_used() < held { Arc::new(views.gc()) } else { Arc::clone(column) }
    }
    match column.data_type() {
        DataType::Utf8View => cut::<StringViewType>(column),
        DataType::BinaryView => cut::<BinaryViewType>(column),
        _ => Arc::clone(column),
    }
}

/// Reads the frames' payloads of one stream.
#[derive(Debug)]
pub struct Decoder {
    schema: SchemaRef,
}

impl Decoder {
    /// From the payload of the `Schema` frame. GL4011 if it is not exactly one schema message.
    pub fn new(schema: &[u8]) -> Result<Self> {
        Ok(Self { schema: decode_schema(schema)? })
    }

    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// From the payload of a `Batch` frame. GL4011 if it is not exactly one batch of this schema.
    ///
    /// Nothing is copied where the payload is aligned to 16 bytes and not compressed: the batch keeps it alive.
    pub fn batch(&mut self, payload: bytes::Bytes) -> Result<RecordBatch> {
        within(payload.len(), BATCH_BYTES_MAX, "a batch")?;
        let payload = Buffer::from(payload);
        let (message, body) = message::open(&payload)?;
        let Some(header) = message.header_as_record_batch() else {
            return Err(malformed(format!("a {} message came in place of a batch", kind(message.header_type()))));
        };
        within(body::inflated_bytes(&header, body)?, BATCH_BYTES_MAX, "an inflated batch")?;
        let body = payload.slice(payload.len() - body.len());
        array::read_batch(&self.schema, &header, body)
    }
}

/// A schema alone, as an IPC message. GL3006 for types that cannot be sent.
pub fn encode_schema(schema: &SchemaRef) -> Result<Vec<u8>> {
    Ok(Encoder::new(Arc::clone(schema), Compression::None)?.schema_payload)
}

/// GL4011 unless the bytes are exactly one schema message.
pub fn decode_schema(bytes: &[u8]) -> Result<SchemaRef> {
    within(bytes.len(), SCHEMA_BYTES_MAX, "a schema")?;
    let (message, body) = message::open(bytes)?;
    let Some(header) = message.header_as_schema() else {
        return Err(malformed(format!("a {} message came in place of a schema", kind(message.header_type()))));
    };
    if !body.is_empty() {
        return Err(malformed(format!("a schema is followed by {} bytes", body.len())));
    }
    let schema: Schema = schema::read(&header)?;
    schema::check(&schema)?;
    Ok(Arc::new(schema))
}

fn kind(header: MessageHeader) -> &'static str {
    header.variant_name().unwrap_or("nameless")
}

fn within(bytes: usize, limit: usize, what: &str) -> Result<()> {
    if bytes > limit {
        return Err(MeshError::new(
            ErrorCode::FrameTooLarge,
            format!("{what} of {bytes} bytes is over its limit of {limit}"),
        ));
    }
    Ok(())
}

fn malformed(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::MalformedFrame, message)
}

fn cannot_encode(error: ArrowError) -> MeshError {
    MeshError::internal(format!("a batch could not be encoded: {error}"))
}
