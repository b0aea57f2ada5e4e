//! Arrays of one dimension as Arrow lists. PostgreSQL's array types do not say how many dimensions a value has: one
//! with more is GL3011. Lower bounds are not kept.
//!
//! Layout: `array_send` in PostgreSQL's `arrayfuncs.c`: dimensions, a flag, the element type, for each dimension its
//! length and lower bound, then the elements like fields of a row.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, ListArray, builder::NullBufferBuilder},
    buffer::{OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, FieldRef},
};

use super::{BinaryColumn, scalar_column};
use crate::{
    postgres::types::Scalar,
    server::columns::{Column, Misfit},
};

struct List {
    field: FieldRef,
    element: Scalar,
    elements: Box<BinaryColumn>,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

pub(super) fn column(element: Scalar, data_type: &DataType, rows: usize) -> Option<Box<BinaryColumn>> {
    let DataType::List(field) = data_type else { return None };
    let elements = scalar_column(element, field.data_type(), rows)?;
    let (field, nulls) = (field.clone(), NullBufferBuilder::new(rows));
    Some(Box::new(List { field, element, elements, offsets: vec![0], nulls }))
}

impl List {
    fn last(&self) -> i32 {
        self.offsets.last().copied().unwrap_or_default()
    }

    fn elements(&mut self, mut rest: &[u8], length: i32) -> Result<(), Misfit> {
        for _ in 0..length {
            let (size, after) = rest.split_first_chunk::<4>().ok_or(Misfit::Malformed)?;
            rest = after;
            match i32::from_be_bytes(*size) {
                -1 => self.elements.null(),
                size => {
                    let size = usize::try_from(size).map_err(|_| Misfit::Malformed)?;
                    let (value, after) = rest.split_at_checked(size).ok_or(Misfit::Malformed)?;
                    rest = after;
                    self.elements.value(value)?;
                }
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(Misfit::Malformed) }
    }
}

impl Column<[u8]> for List {
    fn value(&mut self, bytes: &[u8]) -> Result<(), Misfit> {
        let (head, rest) = bytes.split_first_chunk::<12>().ok_or(Misfit::Malformed)?;
        let ([dimensions, _, element], []) = head.as_chunks::<4>() else { return Err(Misfit::Malformed) };
        if Scalar::of_oid(u32::from_be_bytes(*element)) != Some(self.element) {
            return Err(Misfit::Malformed);
        }
        let length = match i32::from_be_bytes(*dimensions) {
            0 if rest.is_empty() => 0,
            1 => {
                let (bounds, values) = rest.split_first_chunk::<8>().ok_or(Misfit::Malformed)?;
                let [l0, l1, l2, l3, ..] = *bounds;
                let length = i32::from_be_bytes([l0, l1, l2, l3]);
                if length < 0 {
                    return Err(Misfit::Malformed);
                }
                self.elements(values, length)?;
                length
            }
            dimensions if dimensions > 1 => return Err(Misfit::Range("an array of several dimensions")),
            _ => return Err(Misfit::Malformed),
        };
        let end = self.last().checked_add(length).ok_or(Misfit::Range("too many elements in one batch"))?;
        self.offsets.push(end);
        self.nulls.append_non_null();
        Ok(())
    }

    fn null(&mut self) {
        self.offsets.push(self.last());
        self.nulls.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, Misfit> {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let elements = self.elements.finish()?;
        let array = ListArray::try_new(self.field.clone(), offsets, elements, self.nulls.finish());
        Ok(Arc::new(array.map_err(|_| Misfit::Range("NULL in a list that allows none"))?))
    }
}
