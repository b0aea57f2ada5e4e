//! Columns of text and of bytes, in any of Arrow's shapes. UTF-8 is checked once for a whole batch.

use std::{marker::PhantomData, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, BinaryArray, BinaryViewArray, StringArray, StringViewArray, builder::NullBufferBuilder},
    buffer::{Buffer, OffsetBuffer, ScalarBuffer},
    compute::cast,
    datatypes::DataType,
};

use super::{Column, Misfit};

/// Room for values of a fresh column, bytes per row.
const ROW_BYTES_GUESS: usize = 16;
const NOT_UTF8: Misfit = Misfit::Range("text that is not UTF-8");
const TOO_LONG: Misfit = Misfit::Range("more than 2 GiB in one batch");

/// How a value becomes the delivered bytes.
pub(crate) trait Spell<V: ?Sized>: Send + 'static {
    fn spell(value: &V, out: &mut Vec<u8>) -> Result<(), Misfit>;
}

/// Bytes delivered as they came.
pub(crate) struct Plain;

impl Spell<[u8]> for Plain {
    #[inline]
    fn spell(value: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
        out.extend_from_slice(value);
        Ok(())
    }
}

/// What the column is delivered as.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Utf8,
    LargeUtf8,
    Utf8View,
    Binary,
    LargeBinary,
    BinaryView,
}

struct Bytes<S> {
    shape: Shape,
    offsets: Vec<i32>,
    values: Vec<u8>,
    nulls: NullBufferBuilder,
    rows: usize,
    _spell: PhantomData<fn() -> S>,
}

/// A column of text spelled by `S`; `None` unless `data_type` is text.
pub(crate) fn text<V: ?Sized, S: Spell<V>>(data_type: &DataType, rows: usize) -> Option<Box<dyn Column<V>>> {
    Some(match data_type {
        DataType::Utf8 => Bytes::<S>::boxed(Shape::Utf8, rows),
        DataType::LargeUtf8 => Bytes::<S>::boxed(Shape::LargeUtf8, rows),
        DataType::Utf8View => Bytes::<S>::boxed(Shape::Utf8View, rows),
        _ => return None,
    })
}

/// A column of bytes spelled by `S`; `None` unless `data_type` is binary.
pub(crate) fn bytes<V: ?Sized, S: Spell<V>>(data_type: &DataType, rows: usize) -> Option<Box<dyn Column<V>>> {
    Some(match data_type {
        DataType::Binary => Bytes::<S>::boxed(Shape::Binary, rows),
        DataType::LargeBinary => Bytes::<S>::boxed(Shape::LargeBinary, rows),
        DataType::BinaryView => Bytes::<S>::boxed(Shape::BinaryView, rows),
        _ => return None,
    })
}

impl<S> Bytes<S> {
    fn boxed<V: ?Sized>(shape: Shape, rows: usize) -> Box<dyn Column<V>>
    where
        S: Spell<V>,
    {
        Box::new(Self {
            shape,
            offsets: fresh_offsets(rows),
            values: Vec::with_capacity(rows * ROW_BYTES_GUESS),
            nulls: NullBufferBuilder::new(rows),
            rows,
            _spell: PhantomData,
        })
    }
}

fn fresh_offsets(rows: usize) -> Vec<i32> {
    let mut offsets = Vec::with_capacity(rows + 1);
    offsets.push(0);
    offsets
}

impl<V: ?Sized, S: Spell<V>> Column<V> for Bytes<S> {
    #[inline]
    fn value(&mut self, value: &V) -> Result<(), Misfit> {
        S::spell(value, &mut self.values)?;
        self.offsets.push(i32::try_from(self.values.len()).map_err(|_| TOO_LONG)?);
        self.nulls.append_non_null();
        Ok(())
    }

    fn null(&mut self) {
        self.offsets.push(self.offsets.last().copied().unwrap_or_default());
        self.nulls.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, Misfit> {
        let offsets = std::mem::replace(&mut self.offsets, fresh_offsets(self.rows));
        // The next batch will be about as large, unless this one held something huge.
        let next = Vec::with_capacity(self.values.len().min(self.rows * ROW_BYTES_GUESS * 64));
        let values = Buffer::from_vec(std::mem::replace(&mut self.values, next));
        // Ascending by construction: each one is the length of `values` when it was pushed.
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let nulls = self.nulls.finish();
        match self.shape {
            Shape::Binary => Ok(Arc::new(BinaryArray::new(offsets, values, nulls))),
            Shape::LargeBinary => large(&BinaryArray::new(offsets, values, nulls), &DataType::LargeBinary),
            Shape::BinaryView => Ok(Arc::new(BinaryViewArray::from(&BinaryArray::new(offsets, values, nulls)))),
            Shape::Utf8 | Shape::LargeUtf8 | Shape::Utf8View => {
                let array = StringArray::try_new(offsets, values, nulls).map_err(|_| NOT_UTF8)?;
                match self.shape {
                    Shape::LargeUtf8 => large(&array, &DataType::LargeUtf8),
                    Shape::Utf8View => Ok(Arc::new(StringViewArray::from(&array))),
                    _ => Ok(Arc::new(array)),
                }
            }
        }
    }
}

fn large(array: &dyn Array, data_type: &DataType) -> Result<ArrayRef, Misfit> {
    cast(array, data_type).map_err(|_| TOO_LONG)
}
