//! Numbers of a fixed width and booleans.
//!
//! An integer may be delivered as a wider integer or as a decimal, a `real` as a double: never as anything narrower.

use std::marker::PhantomData;

use arrow::{
    array::{
        ArrowPrimitiveType,
        types::{Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type},
    },
    datatypes::DataType,
};

use super::BinaryColumn;
use crate::{
    postgres::types::Scalar,
    server::columns::{Booleans, Misfit, Primitive, Read},
};

#[inline]
pub(super) fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Misfit> {
    bytes.try_into().map_err(|_| Misfit::Malformed)
}

pub(super) fn boolean(rows: usize) -> Box<BinaryColumn> {
    let read = |bytes: &[u8]| match bytes {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Misfit::Malformed),
    };
    Booleans::boxed(read, rows)
}

/// A big-endian number of `N` bytes.
trait BigEndian<const N: usize> {
    fn from_be(bytes: [u8; N]) -> Self;
}

macro_rules! big_endian {
    ($($number:ty: $bytes:literal),*) => {
        $(impl BigEndian<$bytes> for $number {
            #[inline]
            fn from_be(bytes: [u8; $bytes]) -> Self { Self::from_be_bytes(bytes) }
        })*
    };
}
big_endian!(i16: 2, i32: 4, i64: 8, f32: 4, f64: 8);

/// A number sent as `S`, delivered as the same or a wider type.
struct Widened<S, const N: usize>(PhantomData<fn() -> S>);

impl<A, S, const N: usize> Read<A, [u8]> for Widened<S, N>
where
    A: ArrowPrimitiveType,
    S: BigEndian<N> + Into<A::Native> + 'static,
{
    #[inline]
    fn read(&self, bytes: &[u8]) -> Result<A::Native, Misfit> {
        Ok(S::from_be(exactly(bytes)?).into())
    }
}

/// An integer delivered as a decimal.
struct IntegerAsDecimal {
    /// `10^scale`.
    unit: i128,
    /// `10^precision`.
    bound: i128,
}

impl Read<Decimal128Type, [u8]> for IntegerAsDecimal {
    fn read(&self, bytes: &[u8]) -> Result<i128, Misfit> {
        let value = match bytes.len() {
            2 => i16::from_be_bytes(exactly(bytes)?).into(),
            4 => i32::from_be_bytes(exactly(bytes)?).into(),
            8 => i64::from_be_bytes(exactly(bytes)?).into(),
            _ => return Err(Misfit::Malformed),
        };
        match i128::checked_mul(value, self.unit) {
            Some(scaled) if scaled.unsigned_abs() < self.bound.unsigned_abs() => Ok(scaled),
            _ => Err(Misfit::Range("an integer with too many digits")),
        }
    }
}

pub(super) fn integer(scalar: Scalar, data_type: &DataType, rows: usize) -> Option<Box<BinaryColumn>> {
    fn widened<A, S, const N: usize>(data_type: &DataType, rows: usize) -> Option<Box<BinaryColumn>>
    where
        A: ArrowPrimitiveType,
        S: BigEndian<N> + Into<A::Native> + 'static,
    {
        Some(Primitive::<A, _>::boxed(Widened::<S, N>(PhantomData), data_type.clone(), rows))
    }
    match (scalar, data_type) {
        (Scalar::Int2, DataType::Int16) => widened::<Int16Type, i16, 2>(data_type, rows),
        (Scalar::Int2, DataType::Int32) => widened::<Int32Type, i16, 2>(data_type, rows),
        (Scalar::Int2, DataType::Int64) => widened::<Int64Type, i16, 2>(data_type, rows),
        (Scalar::Int4, DataType::Int32) => widened::<Int32Type, i32, 4>(data_type, rows),
        (Scalar::Int4, DataType::Int64) => widened::<Int64Type, i32, 4>(data_type, rows),
        (Scalar::Int8, DataType::Int64) => widened::<Int64Type, i64, 8>(data_type, rows),
        (Scalar::Int2 | Scalar::Int4 | Scalar::Int8, DataType::Decimal128(precision, scale)) => {
            let reader = IntegerAsDecimal {
                unit: 10i128.checked_pow(u32::try_from(*scale).ok()?)?,
                bound: 10i128.checked_pow(u32::from(*precision))?,
            };
            Some(Primitive::boxed(reader, data_type.clone(), rows))
        }
        _ => None,
    }
}

pub(super) fn float(scalar: Scalar, data_type: &DataType, rows: usize) -> Option<Box<BinaryColumn>> {
    Some(match (scalar, data_type) {
        (Scalar::Float4, DataType::Float32) => {
            Primitive::<Float32Type, _>::boxed(Widened::<f32, 4>(PhantomData), data_type.clone(), rows)
        }
        (Scalar::Float4, DataType::Float64) => {
            Primitive::<Float64Type, _>::boxed(Widened::<f32, 4>(PhantomData), data_type.clone(), rows)
        }
        (Scalar::Float8, DataType::Float64) => {
            Primitive::<Float64Type, _>::boxed(Widened::<f64, 8>(PhantomData), data_type.clone(), rows)
        }
        _ => return None,
    })
}
