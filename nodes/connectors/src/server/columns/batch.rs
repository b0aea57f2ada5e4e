//! Rows collected into batches of a given schema.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};
use greylag_protocol::{ErrorCode, MeshError, Result};

use super::{Column, Misfit};

/// Bytes received after which a batch is closed early. Far below what a frame of the mesh may hold.
pub(crate) const BATCH_BYTES_MAX: usize = 8 << 20;

/// Columns of one result, and how many rows they hold.
pub(crate) struct BatchBuilder<V: ?Sized> {
    schema: SchemaRef,
    pub(crate) columns: Vec<Box<dyn Column<V>>>,
    rows: usize,
    bytes: usize,
    batch_rows: usize,
}

impl<V: ?Sized> BatchBuilder<V> {
    /// One column for each field, in order. `column` makes the one with this index, or `None` if the source's type
    /// `describe`s cannot be delivered as the field's: GL3006. GL3003 for another number of columns.
    pub(crate) fn new(
        schema: SchemaRef,
        count: usize,
        batch_rows: usize,
        column: impl Fn(usize) -> Option<Box<dyn Column<V>>>,
        describe: impl Fn(usize) -> String,
    ) -> Result<Self> {
        if count != schema.fields().len() {
            let message = format!("the source returned {count} columns instead of {}", schema.fields().len());
            return Err(MeshError::new(ErrorCode::SourceRefused, message));
        }
        let columns = schema.fields().iter().enumerate().map(|(index, field)| {
            column(index).ok_or_else(|| {
                let (name, wanted) = (field.name(), field.data_type());
                let message = format!("column `{name}` of type {} cannot be delivered as {wanted}", describe(index));
                MeshError::new(ErrorCode::UnsupportedType, message)
            })
        });
        let columns = columns.collect::<Result<_>>()?;
        Ok(Self { columns, schema, rows: 0, bytes: 0, batch_rows: batch_rows.max(1) })
    }

    /// Every column has got one more value; together they took `bytes`.
    #[inline]
    pub(crate) fn row_done(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }

    /// Whether what is collected should be sent on.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= self.batch_rows || self.bytes >= BATCH_BYTES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// What is collected, as a batch.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter_mut().enumerate() {
            let array = column.finish().map_err(|misfit| misfit_error(&self.schema, index, misfit))?;
            if !self.schema.field(index).is_nullable() && array.null_count() > 0 {
                return Err(misfit_error(&self.schema, index, Misfit::Range("NULL in a column that is NOT NULL")));
            }
            arrays.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| MeshError::internal(format!("decoded columns do not fit their schema: {error}")))
    }

    /// GL3011 naming the column, or GL3002 for what the protocol does not allow.
    #[cold]
    pub(crate) fn misfit(&self, index: usize, misfit: Misfit) -> MeshError {
        misfit_error(&self.schema, index, misfit)
    }
}

fn misfit_error(schema: &SchemaRef, index: usize, misfit: Misfit) -> MeshError {
    let field = schema.field(index);
    match misfit {
        Misfit::Malformed => MeshError::new(
            ErrorCode::SourceUnreachable,
            format!("the server broke its protocol: a value of column `{}`", field.name()),
        ),
        Misfit::Range(what) => MeshError::new(
            ErrorCode::ValueOutOfRange,
            format!("column `{}` holds {what}, which {} cannot", field.name(), field.data_type()),
        ),
    }
}
