//! Rows in PostgreSQL's binary format, decoded straight into Arrow columns. The same layout stands in `DataRow` messages
//! and in `COPY ... (FORMAT BINARY)`: a count of fields, then for each its length (-1 for NULL) and its bytes.
//!
//! One file for each concern: `fixed` (numbers of a fixed width), `numeric`, `text` (text and bytes), `time`, `list`.
//!
//! INVARIANT: a column is filled only by a decoder made for both its PostgreSQL type and its Arrow type. Whatever does
//! not fit, be it a pair of types or one value, is an error that names the column; nothing is rounded or cut.

mod fixed;
mod list;
mod numeric;
mod text;
mod time;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, IntervalUnit, SchemaRef, TimeUnit},
};
use greylag_protocol::Result;

use super::{
    errors,
    types::{PgType, Scalar},
};
use crate::server::columns::{self, BatchBuilder, Column};

/// A column filled from values in binary format.
type BinaryColumn = dyn Column<[u8]>;

/// Decodes rows of one result.
pub(super) struct RowDecoder(BatchBuilder<[u8]>);

impl RowDecoder {
    /// GL3003 for another number of columns; GL3006 for a column whose PostgreSQL type cannot be delivered as its Arrow
    /// type.
    pub(super) fn new(schema: SchemaRef, types: &[PgType], batch_rows: usize) -> Result<Self> {
        let fields = schema.fields().clone();
        let column = |index: usize| column(*types.get(index)?, fields[index].data_type(), batch_rows);
        let describe = |index: usize| types.get(index).map(PgType::to_string).unwrap_or_default();
        BatchBuilder::new(schema, types.len(), batch_rows, column, describe).map(Self)
    }

    /// Takes one row: the body of a `DataRow`.
    #[inline]
    pub(super) fn row(&mut self, body: &[u8]) -> Result<()> {
        let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(|| errors::malformed("a row's head"))?;
        if usize::from(u16::from_be_bytes(*count)) != self.0.columns.len() {
            return Err(errors::malformed("a row's number of fields"));
        }
        for (index, column) in self.0.columns.iter_mut().enumerate() {
            let (length, after) = rest.split_first_chunk::<4>().ok_or_else(|| errors::malformed("a field's length"))?;
            rest = after;
            match i32::from_be_bytes(*length) {
                -1 => column.null(),
                length => {
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    let (value, after) =
                        rest.split_at_checked(length).ok_or_else(|| errors::malformed("a field's length"))?;
                    rest = after;
                    if let Err(misfit) = column.value(value) {
                        return Err(self.0.misfit(index, misfit));
                    }
                }
            }
        }
        if !rest.is_empty() {
            return Err(errors::malformed("bytes after a row"));
        }
        self.0.row_done(body.len());
        Ok(())
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.0.is_full()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn finish(&mut self) -> Result<RecordBatch> {
        self.0.finish()
    }
}

/// The decoder for one pair of types, if there is one.
fn column(pg_type: PgType, data_type: &DataType, rows: usize) -> Option<Box<BinaryColumn>> {
    match pg_type {
        PgType::Scalar(scalar) => scalar_column(scalar, data_type, rows),
        PgType::Array(element) => list::column(element, data_type, rows),
    }
}

fn scalar_column(scalar: Scalar, data_type: &DataType, rows: usize) -> Option<Box<BinaryColumn>> {
    use DataType as D;
    Some(match (scalar, data_type) {
        (Scalar::Bool, D::Boolean) => fixed::boolean(rows),
        (Scalar::Int2 | Scalar::Int4 | Scalar::Int8, _) => return fixed::integer(scalar, data_type, rows),
        (Scalar::Float4 | Scalar::Float8, _) => return fixed::float(scalar, data_type, rows),
        (Scalar::Numeric, _) => return numeric::column(data_type, rows),
        (Scalar::Date, D::Date32) => time::date(rows),
        (Scalar::Time, D::Time64(TimeUnit::Microsecond)) => time::time(rows),
        (Scalar::Timestamp, D::Timestamp(TimeUnit::Microsecond, None)) => time::timestamp(data_type.clone(), rows),
        (Scalar::Timestamptz, D::Timestamp(TimeUnit::Microsecond, Some(_))) => time::timestamp(data_type.clone(), rows),
        (Scalar::Interval, D::Interval(IntervalUnit::MonthDayNano)) => time::interval(rows),
        (Scalar::Bytea, _) => return columns::bytes::<_, columns::Plain>(data_type, rows),
        (
            Scalar::Text
            | Scalar::Bpchar
            | Scalar::Char
            | Scalar::Name
            | Scalar::Json
            | Scalar::Jsonb
            | Scalar::Uuid
            | Scalar::Enum,
            _,
        ) => return text::text(scalar, data_type, rows),
        _ => return None,
    })
}

#[cfg(test)]
mod decode_test;
