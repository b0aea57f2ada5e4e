//! Cuts a stream of batches into canonical ones: exactly N rows each but the last. So the batches, and with them the
//! digest, are a function of the rows alone and not of how the source happened to hand them over.

use arrow::{array::RecordBatch, compute::BatchCoalescer, datatypes::SchemaRef};
use greylag_protocol::{ErrorCode, MeshError, Result};

pub struct Recutter {
    schema: SchemaRef,
    rows: usize,
    coalescer: BatchCoalescer,
}

impl Recutter {
    pub fn new(schema: SchemaRef, rows: usize) -> Self {
        let rows = rows.max(1);
        Self { coalescer: BatchCoalescer::new(schema.clone(), rows), schema, rows }
    }

    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Takes a batch; canonical ones that are full come out of [`Self::next`]. GL3006 for a batch of other types.
    pub fn push(&mut self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        let batch = self.conform(batch)?;
        // What is canonical already needs no copy.
        if batch.num_rows() == self.rows && self.coalescer.is_empty() {
            return Ok(Some(batch));
        }
        self.coalescer.push_batch(batch).map_err(broken)?;
        Ok(None)
    }

    /// A full batch, if there is one.
    pub fn next(&mut self) -> Option<RecordBatch> {
        self.coalescer.next_completed_batch()
    }

    /// The last batch, of at least one row, once [`Self::next`] has given out all full ones.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>> {
        self.coalescer.finish_buffered_batch().map_err(broken)?;
        Ok(self.coalescer.next_completed_batch())
    }

    /// The same columns under exactly the promised schema.
    fn conform(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if batch.num_columns() != self.schema.fields().len() {
            return Err(MeshError::new(
                ErrorCode::UnsupportedType,
                format!("{} columns came instead of {}", batch.num_columns(), self.schema.fields().len()),
            ));
        }
        for (column, field) in batch.columns().iter().zip(self.schema.fields()) {
            if column.data_type() != field.data_type() {
                return Err(MeshError::new(
                    ErrorCode::UnsupportedType,
                    format!(
                        "column `{}` came as {} instead of {}",
                        field.name(),
                        column.data_type(),
                        field.data_type()
                    ),
                ));
            }
            if !field.is_nullable() && column.logical_null_count() > 0 {
                return Err(MeshError::new(
                    ErrorCode::ValueOutOfRange,
                    format!("column `{}` holds NULL although it is declared that it cannot", field.name()),
                ));
            }
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), batch.columns().to_vec(), &options).map_err(broken)
    }
}

fn broken(error: arrow::error::ArrowError) -> MeshError {
    MeshError::internal(format!("batches could not be cut: {error}"))
}

/// Bytes that a batch's own rows take, whatever larger buffers it is a slice of.
pub(crate) fn bytes_of(batch: &RecordBatch) -> u64 {
    let of = |column: &arrow::array::ArrayRef| {
        let data = column.to_data();
        data.get_slice_memory_size().unwrap_or_else(|_| data.get_buffer_memory_size()) as u64
    };
    batch.columns().iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::{
        array::{Array, AsArray, Int64Array, StringArray},
        datatypes::{DataType, Field, Int64Type, Schema},
    };

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false), Field::new("v", DataType::Utf8, true)]))
    }

    fn batch(from: i64, rows: i64) -> RecordBatch {
        let k = Int64Array::from_iter_values(from..from + rows);
        let v: StringArray = (from..from + rows).map(|i| (i % 3 != 0).then(|| format!("v{i}"))).collect();
        RecordBatch::try_new(schema(), vec![Arc::new(k), Arc::new(v)]).unwrap()
    }

    fn cut(sizes: &[i64], rows: usize) -> Vec<RecordBatch> {
        let mut recutter = Recutter::new(schema(), rows);
        let mut out = Vec::new();
        let mut from = 0;
        for size in sizes {
            out.extend(recutter.push(batch(from, *size)).unwrap());
            while let Some(full) = recutter.next() {
                out.push(full);
            }
            from += size;
        }
        out.extend(recutter.finish().unwrap());
        assert!(recutter.finish().unwrap().is_none());
        out
    }

    #[test]
    fn every_cut_gives_the_same_batches() {
        let whole = cut(&[100], 8);
        assert_eq!(whole.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [vec![8; 12], vec![4]].concat());
        let keys: Vec<i64> =
            whole.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(keys, (0..100).collect::<Vec<_>>());
        for sizes in [vec![8; 12], vec![1; 100], vec![0, 7, 9, 0, 60, 24], vec![99, 1], vec![8, 3, 8, 8, 73]] {
            let mut sizes = sizes;
            let sum: i64 = sizes.iter().sum();
            sizes.push(100 - sum);
            assert_eq!(cut(&sizes, 8), whole, "{sizes:?}");
        }
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(cut(&[], 8).is_empty());
        assert!(cut(&[0, 0], 8).is_empty());
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let empty: SchemaRef = Arc::new(Schema::empty());
        let rows = |n| {
            let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(n));
            RecordBatch::try_new_with_options(empty.clone(), vec![], &options).unwrap()
        };
        let mut recutter = Recutter::new(empty.clone(), 8);
        assert!(recutter.push(rows(11)).unwrap().is_none());
        assert_eq!(recutter.next().unwrap().num_rows(), 8);
        assert!(recutter.push(rows(1)).unwrap().is_none());
        assert_eq!(recutter.finish().unwrap().unwrap().num_rows(), 4);
    }

    #[test]
    fn other_types_and_forbidden_nulls_are_refused() {
        let mut recutter = Recutter::new(schema(), 8);
        let nullable =
            Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new("v", DataType::Utf8, true)]));
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(Int64Array::from(vec![Some(1), None])), Arc::new(StringArray::from(vec!["a", "b"]))];
        let nulls = RecordBatch::try_new(nullable, columns).unwrap();
        assert_eq!(recutter.push(nulls).unwrap_err().code, ErrorCode::ValueOutOfRange);
        let one = RecordBatch::try_new(
            Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false)])),
            vec![Arc::new(Int64Array::from(vec![1]))],
        );
        assert_eq!(recutter.push(one.unwrap()).unwrap_err().code, ErrorCode::UnsupportedType);
    }
}
