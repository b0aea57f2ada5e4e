//! Columns of Arrow primitives and of booleans, filled through a reader.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, PrimitiveArray, builder::NullBufferBuilder,
    },
    datatypes::DataType,
};

use super::{Column, Misfit};

/// Reads one value of Arrow type `A`.
pub(crate) trait Read<A: ArrowPrimitiveType, V: ?Sized>: Send + 'static {
    fn read(&self, value: &V) -> Result<A::Native, Misfit>;
}

/// A column of numbers, dates or times.
pub(crate) struct Primitive<A: ArrowPrimitiveType, R> {
    reader: R,
    data_type: DataType,
    values: Vec<A::Native>,
    nulls: NullBufferBuilder,
    rows: usize,
}

impl<A: ArrowPrimitiveType, R> Primitive<A, R> {
    /// `rows` is what a batch is expected to hold; `data_type` must be one of `A`'s.
    pub(crate) fn boxed<V: ?Sized>(reader: R, data_type: DataType, rows: usize) -> Box<dyn Column<V>>
    where
        R: Read<A, V>,
    {
        Box::new(Self {
            reader,
            data_type,
            values: Vec::with_capacity(rows),
            nulls: NullBufferBuilder::new(rows),
            rows,
        })
    }
}

impl<A: ArrowPrimitiveType, V: ?Sized, R: Read<A, V>> Column<V> for Primitive<A, R> {
    #[inline]
    fn value(&mut self, value: &V) -> Result<(), Misfit> {
        let value = self.reader.read(value)?;
        self.values.push(value);
        self.nulls.append_non_null();
        Ok(())
    }

    fn null(&mut self) {
        self.values.push(A::Native::default());
        self.nulls.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, Misfit> {
        let values = std::mem::replace(&mut self.values, Vec::with_capacity(self.rows));
        let array = PrimitiveArray::<A>::new(values.into(), self.nulls.finish());
        Ok(Arc::new(array.with_data_type(self.data_type.clone())))
    }
}

/// A column of booleans.
pub(crate) struct Booleans<V: ?Sized> {
    read: fn(&V) -> Result<bool, Misfit>,
    values: BooleanBufferBuilder,
    nulls: NullBufferBuilder,
}

impl<V: ?Sized + 'static> Booleans<V> {
    pub(crate) fn boxed(read: fn(&V) -> Result<bool, Misfit>, rows: usize) -> Box<dyn Column<V>> {
        Box::new(Self { read, values: BooleanBufferBuilder::new(rows), nulls: NullBufferBuilder::new(rows) })
    }
}

impl<V: ?Sized> Column<V> for Booleans<V> {
    fn value(&mut self, value: &V) -> Result<(), Misfit> {
        self.values.append((self.read)(value)?);
        self.nulls.append_non_null();
        Ok(())
    }

    fn null(&mut self) {
        self.values.append(false);
        self.nulls.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, Misfit> {
        Ok(Arc::new(BooleanArray::new(self.values.finish(), self.nulls.finish())))
    }
}
