//! A file of rows written as text, read once from front to back: [`csv`](super::csv) and [`ndjson`](super::ndjson).

use std::{fs::File, path::Path};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use greylag_protocol::{ErrorCode, MeshError, Result};

use super::{layout::unreachable, text_column::TextColumn};

/// A batch is handed over early once its values take this many bytes, so that wide rows stay within memory.
const BATCH_BYTES: usize = 4 << 20;

/// Where the next row's values come from.
pub(super) trait Rows {
    /// Moves on to the next row; false after the last.
    fn advance(&mut self) -> Result<bool>;
    /// Value of the row's column at this position of the wanted columns. `None` is NULL.
    fn value(&self, at: usize) -> Option<&[u8]>;
    /// For messages: the file and the place in it.
    fn place(&self) -> String;
}

/// Puts rows together to batches of a schema.
pub(super) struct Batches<R> {
    rows: R,
    schema: SchemaRef,
    columns: Vec<TextColumn>,
    batch_rows: usize,
}

impl<R: Rows> Batches<R> {
    /// `schema` has the wanted columns, in order.
    pub(super) fn new(rows: R, schema: SchemaRef, batch_rows: usize) -> Result<Self> {
        let columns = schema.fields().iter().map(|field| TextColumn::new(field)).collect::<Result<_>>()?;
        Ok(Self { rows, schema, columns, batch_rows: batch_rows.max(1) })
    }

    /// The next rows; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>> {
        let (mut count, mut bytes) = (0, 0);
        while count < self.batch_rows && bytes < BATCH_BYTES && self.rows.advance()? {
            for (at, column) in self.columns.iter_mut().enumerate() {
                let value = self.rows.value(at);
                bytes += column.append(value).map_err(|_| misfit(&self.rows, &self.schema, at))?;
            }
            count += 1;
        }
        if count == 0 {
            return Ok(None);
        }
        let arrays = self.columns.iter_mut().map(TextColumn::finish).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map(Some)
            .map_err(|error| MeshError::internal(format!("a batch of a file does not hold: {error}")))
    }
}

fn misfit(rows: &impl Rows, schema: &SchemaRef, at: usize) -> MeshError {
    let field = schema.field(at);
    let message = format!(
        "column `{}` holds a value that does not fit its type `{}` ({})",
        field.name(),
        field.data_type(),
        rows.place()
    );
    MeshError::new(ErrorCode::ValueOutOfRange, message)
}

pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| unreachable(path, &error))
}
