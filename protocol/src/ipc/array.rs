//! Arrays from nodes and buffers, directed by the schema alone. Buffers are cut to the exact size that a node's
//! length asks for before Arrow sees them, and Arrow then validates offsets, UTF-8 and NULL counts.

use arrow::{
    array::{ArrayData, RecordBatch, RecordBatchOptions, make_array},
    buffer::{BooleanBuffer, Buffer, NullBuffer},
    datatypes::{DataType, Field, SchemaRef},
    error::ArrowError,
};
use arrow_ipc::{FieldNode, RecordBatch as BatchHeader};

use super::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, body::Buffers, malformed};
use crate::error::Result;

/// Most values of one array within a batch: as many bits as a batch may have. Keeps arithmetic on lengths far
/// from overflow.
const VALUES_MAX: usize = BATCH_BYTES_MAX * 8;

/// The batch of a verified message. `body` must have passed `body::inflated_bytes`.
pub(super) fn read_batch(schema: &SchemaRef, header: &BatchHeader<'_>, body: Buffer) -> Result<RecordBatch> {
    let rows = usize::try_from(header.length()).ok().filter(|rows| *rows <= BATCH_ROWS_MAX);
    let rows = rows.ok_or_else(|| malformed(format!("a batch states {} rows", header.length())))?;
    let nodes = header.nodes().ok_or_else(|| malformed("a batch has no list of nodes"))?;
    let mut reader = Reader {
        nodes: nodes.iter(),
        buffers: Buffers::new(header, body)?,
        view_buffers: header.variadicBufferCounts().map(|counts| counts.iter()),
    };
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(make_array(reader.read(field)?));
    }
    reader.finish()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options).map_err(invalid)
}

struct Reader<'a> {
    nodes: flatbuffers::VectorIter<'a, FieldNode>,
    buffers: Buffers<'a>,
    /// Number of data buffers for each view array.
    view_buffers: Option<flatbuffers::VectorIter<'a, i64>>,
}

/// Length and NULLs of an array, checked.
struct Node {
    len: usize,
    nulls: usize,
}

impl Reader<'_> {
    fn read(&mut self, field: &Field) -> Result<ArrayData> {
        use DataType::*;
        let node = self.node()?;
        let data_type = field.data_type();
        match data_type {
            Null => {
                if node.nulls != node.len {
                    return Err(malformed("an array of NULLs has values"));
                }
                build(data_type, node.len, None, vec![], vec![])
            }
            Boolean => self.flat(data_type, node, |len| len.div_ceil(8)),
            FixedSizeBinary(width) => {
                let width = usize::try_from(*width).map_err(|_| malformed("a width is negative"))?;
                self.flat(data_type, node, |len| len.saturating_mul(width))
            }
            Binary | Utf8 => self.bytes(data_type, node, 4),
            LargeBinary | LargeUtf8 => self.bytes(data_type, node, 8),
            BinaryView | Utf8View => self.views(data_type, node),
            List(item) => self.list(data_type, node, 4, item),
            Map(entries, _) => self.list(data_type, node, 4, entries),
            LargeList(item) => self.list(data_type, node, 8, item),
            FixedSizeList(item, size) => {
                let nulls = self.validity(&node)?;
                let child = self.read(item)?;
                if usize::try_from(*size).ok().and_then(|size| size.checked_mul(node.len)) != Some(child.len()) {
                    return Err(malformed("a fixed-size list has not the values that its length asks for"));
                }
                build(data_type, node.len, nulls, vec![], vec![child])
            }
            Struct(fields) => {
                let nulls = self.validity(&node)?;
                let mut children = Vec::with_capacity(fields.len());
                for field in fields {
                    let child = self.read(field)?;
                    if child.len() != node.len {
                        return Err(malformed("a struct's fields differ in length"));
                    }
                    children.push(child);
                }
                build(data_type, node.len, nulls, vec![], children)
            }
            _ => match data_type.primitive_width() {
                Some(width) => self.flat(data_type, node, |len| len.saturating_mul(width)),
                None => Err(malformed(format!("type `{data_type}` cannot be read"))),
            },
        }
    }

    /// Validity and one buffer of values.
    fn flat(&mut self, data_type: &DataType, node: Node, bytes: impl Fn(usize) -> usize) -> Result<ArrayData> {
        let nulls = self.validity(&node)?;
        let values = exactly(self.buffers.next()?, bytes(node.len))?;
        build(data_type, node.len, nulls, vec![values], vec![])
    }

    /// Validity, offsets and bytes.
    fn bytes(&mut self, data_type: &DataType, node: Node, offset_bytes: usize) -> Result<ArrayData> {
        let nulls = self.validity(&node)?;
        let offsets = self.offsets(node.len, offset_bytes)?;
        let values = self.buffers.next()?;
        build(data_type, node.len, nulls, vec![offsets, values], vec![])
    }

    /// Validity, views and any number of data buffers.
    fn views(&mut self, data_type: &DataType, node: Node) -> Result<ArrayData> {
        let counts = self.view_buffers.as_mut();
        let count = counts.and_then(|c| c.next()).ok_or_else(|| malformed("a view array has no count of buffers"))?;
        let nulls = self.validity(&node)?;
        let mut buffers = vec![exactly(self.buffers.next()?, node.len.saturating_mul(size_of::<u128>()))?];
        // A count beyond the buffers that are there ends at the first that is missing.
        for _ in 0..u64::try_from(count).map_err(|_| malformed("a count of buffers is negative"))? {
            buffers.push(self.buffers.next()?);
        }
        build(data_type, node.len, nulls, buffers, vec![])
    }

    /// Validity, offsets and the items' array.
    fn list(&mut self, data_type: &DataType, node: Node, offset_bytes: usize, item: &Field) -> Result<ArrayData> {
        let nulls = self.validity(&node)?;
        let offsets = self.offsets(node.len, offset_bytes)?;
        let child = self.read(item)?;
        build(data_type, node.len, nulls, vec![offsets], vec![child])
    }

    fn node(&mut self) -> Result<Node> {
        let node = self.nodes.next().ok_or_else(|| malformed("a batch has too few nodes for its schema"))?;
        let len = usize::try_from(node.length()).ok().filter(|len| *len <= VALUES_MAX);
        let nulls = usize::try_from(node.null_count()).ok();
        match (len, nulls) {
            (Some(len), Some(nulls)) if nulls <= len => Ok(Node { len, nulls }),
            _ => Err(malformed(format!("a node states {} values, {} NULLs", node.length(), node.null_count()))),
        }
    }

    fn validity(&mut self, node: &Node) -> Result<Option<NullBuffer>> {
        let bits = self.buffers.next()?;
        if node.nulls == 0 {
            return Ok(None);
        }
        let bits = exactly(bits, node.len.div_ceil(8))?;
        let nulls = NullBuffer::new(BooleanBuffer::new(bits, 0, node.len));
        if nulls.null_count() != node.nulls {
            return Err(malformed(format!("{} NULLs are stated, {} are there", node.nulls, nulls.null_count())));
        }
        Ok(Some(nulls))
    }

    /// An empty array may leave its offsets out.
    fn offsets(&mut self, len: usize, offset_bytes: usize) -> Result<Buffer> {
        let offsets = self.buffers.next()?;
        if len == 0 && offsets.is_empty() {
            return Ok(Buffer::from_vec(vec![0i64]).slice_with_length(0, offset_bytes));
        }
        exactly(offsets, (len + 1).saturating_mul(offset_bytes))
    }

    /// GL4011 if anything is left over.
    fn finish(mut self) -> Result<()> {
        self.buffers.finish()?;
        if self.nodes.next().is_some() || self.view_buffers.is_some_and(|mut counts| counts.next().is_some()) {
            return Err(malformed("a batch has too many nodes for its schema"));
        }
        Ok(())
    }
}

/// The first `bytes` of a buffer, which may be padded.
fn exactly(buffer: Buffer, bytes: usize) -> Result<Buffer> {
    if buffer.len() < bytes {
        return Err(malformed(format!("a buffer of {} bytes is shorter than {bytes}", buffer.len())));
    }
    Ok(buffer.slice_with_length(0, bytes))
}

fn build(
    data_type: &DataType,
    len: usize,
    nulls: Option<NullBuffer>,
    buffers: Vec<Buffer>,
    children: Vec<ArrayData>,
) -> Result<ArrayData> {
    let builder = ArrayData::builder(data_type.clone()).len(len).nulls(nulls).buffers(buffers).child_data(children);
    builder.align_buffers(true).build().map_err(invalid)
}

/// Arrow's messages may quote values: only what kind of fault it is goes on.
fn invalid(error: ArrowError) -> crate::error::MeshError {
    let fault = match error {
        ArrowError::InvalidArgumentError(_) => "an array does not keep Arrow's rules",
        _ => "a batch could not be read",
    };
    malformed(fault)
}
