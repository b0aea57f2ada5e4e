//! The driver's rows, decoded into Arrow columns.
//!
//! INVARIANT: a column is filled only by a decoder made for both what the server sends and its Arrow type. Whatever does
//! not fit, be it a pair of types or one value, is an error that names the column; nothing is rounded or cut.

mod number;
mod time;

use arrow::{
    array::{ArrayRef, RecordBatch, new_null_array},
    datatypes::{DataType, SchemaRef, TimeUnit},
};
use greylag_protocol::{MeshError, Result};
use mysql_async::{Column as WireColumn, Row, Value};

use super::types::Wire;
use crate::server::columns::{self, BatchBuilder, Column, Misfit, Spell};

/// Bytes that a value of fixed width counts as.
const FIXED_BYTES: usize = 8;

/// A column filled from the driver's values.
type ValueColumn = dyn Column<Value>;

/// Decodes rows of one result.
pub(super) struct RowDecoder(BatchBuilder<Value>);

impl RowDecoder {
    /// GL3003 for another number of columns; GL3006 for a column whose type cannot be delivered as its Arrow type.
    pub(super) fn new(schema: SchemaRef, sent: &[WireColumn], batch_rows: usize) -> Result<Self> {
        let fields = schema.fields().clone();
        let column = |index: usize| column(Wire::of(sent.get(index)?)?, fields[index].data_type(), batch_rows);
        let describe = |index: usize| sent.get(index).map(|c| format!("{:?}", c.column_type())).unwrap_or_default();
        BatchBuilder::new(schema, sent.len(), batch_rows, column, describe).map(Self)
    }

    pub(super) fn row(&mut self, row: &Row) -> Result<()> {
        self.values(|index| row.as_ref(index))
    }

    fn values<'a>(&mut self, value: impl Fn(usize) -> Option<&'a Value>) -> Result<()> {
        let mut bytes = 0;
        for (index, column) in self.0.columns.iter_mut().enumerate() {
            let taken = match value(index) {
                Some(Value::NULL) => {
                    column.null();
                    Ok(())
                }
                Some(value) => {
                    bytes += if let Value::Bytes(text) = value { text.len() } else { FIXED_BYTES };
                    column.value(value)
                }
                None => return Err(MeshError::internal("a row has fewer values than columns")),
            };
            if let Err(misfit) = taken {
                return Err(self.0.misfit(index, misfit));
            }
        }
        self.0.row_done(bytes);
        Ok(())
    }

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
fn column(wire: Wire, data_type: &DataType, rows: usize) -> Option<Box<ValueColumn>> {
    match (wire, data_type) {
        (Wire::Integer, _) => number::integer(data_type, rows),
        (Wire::Bit, _) => number::bit(data_type, rows),
        (Wire::Float | Wire::Double, _) => number::float(wire, data_type, rows),
        (Wire::Decimal, _) => number::decimal(data_type, rows),
        (Wire::Date, DataType::Date32) => Some(time::date(rows)),
        (Wire::Datetime, DataType::Timestamp(TimeUnit::Microsecond, None))
        | (Wire::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, Some(_))) => {
            Some(time::timestamp(data_type.clone(), rows))
        }
        (Wire::Time, DataType::Time64(TimeUnit::Microsecond)) => Some(time::time(rows)),
        (Wire::Text, _) => columns::text::<_, Bytes>(data_type, rows),
        (Wire::Bytes, _) => columns::bytes::<_, Bytes>(data_type, rows),
        (Wire::Null, _) => Some(Box::new(Nothing { data_type: data_type.clone(), rows: 0 })),
        _ => None,
    }
}

struct Bytes;

impl Spell<Value> for Bytes {
    fn spell(value: &Value, out: &mut Vec<u8>) -> Result<(), Misfit> {
        match value {
            Value::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            _ => Err(Misfit::Malformed),
        }
    }
}

/// The literal NULL, as any type.
struct Nothing {
    data_type: DataType,
    rows: usize,
}

impl Column<Value> for Nothing {
    fn value(&mut self, _value: &Value) -> Result<(), Misfit> {
        Err(Misfit::Malformed)
    }

    fn null(&mut self) {
        self.rows += 1;
    }

    fn finish(&mut self) -> Result<ArrayRef, Misfit> {
        Ok(new_null_array(&self.data_type, std::mem::take(&mut self.rows)))
    }
}

#[cfg(test)]
mod decode_test;
