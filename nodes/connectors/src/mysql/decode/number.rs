//! Numbers. MySQL widens integers and turns sums into decimals as it likes, so any integer type of Arrow may be asked
//! for; every value is checked against it.

use std::marker::PhantomData;

use arrow::{
    array::{
        ArrowPrimitiveType,
        types::{
            Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
            UInt32Type, UInt64Type,
        },
    },
    datatypes::DataType,
};
use mysql_async::Value;

use super::ValueColumn;
use crate::{
    exact,
    mysql::types::Wire,
    server::columns::{Booleans, Misfit, Primitive, Read},
};

const TOO_LARGE: Misfit = Misfit::Range("a number with too many digits");

/// What an integer can be read from.
trait Integral {
    fn integer(value: &Value) -> Result<i128, Misfit>;
}

struct Integers;
/// `BIT(n)`: big-endian bytes.
struct Bits;
/// Decimals without a fraction.
struct Wholes;

impl Integral for Integers {
    fn integer(value: &Value) -> Result<i128, Misfit> {
        match value {
            Value::Int(number) => Ok((*number).into()),
            Value::UInt(number) => Ok((*number).into()),
            _ => Err(Misfit::Malformed),
        }
    }
}

impl Integral for Bits {
    fn integer(value: &Value) -> Result<i128, Misfit> {
        match value {
            Value::Bytes(bytes) if bytes.len() <= 8 => {
                Ok(bytes.iter().fold(0, |number, byte| (number << 8) | i128::from(*byte)))
            }
            _ => Err(Misfit::Malformed),
        }
    }
}

impl Integral for Wholes {
    fn integer(value: &Value) -> Result<i128, Misfit> {
        match value {
            Value::Bytes(text) => exact::decimal(text, 38, 0).ok_or(Misfit::Range("a number that is not whole")),
            _ => Err(Misfit::Malformed),
        }
    }
}

/// An integer of Arrow's, checked.
struct Checked<I>(PhantomData<fn() -> I>);

impl<A, I> Read<A, Value> for Checked<I>
where
    A: ArrowPrimitiveType,
    A::Native: TryFrom<i128>,
    I: Integral + 'static,
{
    #[inline]
    fn read(&self, value: &Value) -> Result<A::Native, Misfit> {
        A::Native::try_from(I::integer(value)?).map_err(|_| TOO_LARGE)
    }
}

struct IntegerAsDecimal {
    unit: i128,
    bound: i128,
}

impl Read<Decimal128Type, Value> for IntegerAsDecimal {
    fn read(&self, value: &Value) -> Result<i128, Misfit> {
        let scaled = Integers::integer(value)?.checked_mul(self.unit).ok_or(TOO_LARGE)?;
        if scaled.unsigned_abs() < self.bound.unsigned_abs() { Ok(scaled) } else { Err(TOO_LARGE) }
    }
}

struct Decimal {
    precision: u8,
    scale: i8,
}

impl Read<Decimal128Type, Value> for Decimal {
    #[inline]
    fn read(&self, value: &Value) -> Result<i128, Misfit> {
        match value {
            Value::Bytes(text) => exact::decimal(text, self.precision, self.scale).ok_or(TOO_LARGE),
            _ => Err(Misfit::Malformed),
        }
    }
}

struct Single;
struct Double;

impl Read<Float32Type, Value> for Single {
    fn read(&self, value: &Value) -> Result<f32, Misfit> {
        match value {
            Value::Float(number) => Ok(*number),
            _ => Err(Misfit::Malformed),
        }
    }
}

impl Read<Float64Type, Value> for Double {
    fn read(&self, value: &Value) -> Result<f64, Misfit> {
        match value {
            Value::Float(number) => Ok((*number).into()),
            Value::Double(number) => Ok(*number),
            _ => Err(Misfit::Malformed),
        }
    }
}

fn checked<I: Integral + 'static>(data_type: &DataType, rows: usize) -> Option<Box<ValueColumn>> {
    fn column<A, I>(data_type: &DataType, rows: usize) -> Option<Box<ValueColumn>>
    where
        A: ArrowPrimitiveType,
        A::Native: TryFrom<i128>,
        I: Integral + 'static,
    {
        Some(Primitive::<A, _>::boxed(Checked::<I>(PhantomData), data_type.clone(), rows))
    }
    match data_type {
        DataType::Int8 => column::<Int8Type, I>(data_type, rows),
        DataType::Int16 => column::<Int16Type, I>(data_type, rows),
        DataType::Int32 => column::<Int32Type, I>(data_type, rows),
        DataType::Int64 => column::<Int64Type, I>(data_type, rows),
        DataType::UInt8 => column::<UInt8Type, I>(data_type, rows),
        DataType::UInt16 => column::<UInt16Type, I>(data_type, rows),
        DataType::UInt32 => column::<UInt32Type, I>(data_type, rows),
        DataType::UInt64 => column::<UInt64Type, I>(data_type, rows),
        _ => None,
    }
}

pub(super) fn integer(data_type: &DataType, rows: usize) -> Option<Box<ValueColumn>> {
    match data_type {
        // What comparisons return.
        DataType::Boolean => Some(Booleans::boxed(
            |value| match Integers::integer(value)? {
                0 => Ok(false),
                1 => Ok(true),
                _ => Err(Misfit::Range("a number other than 0 and 1")),
            },
            rows,
        )),
        DataType::Decimal128(precision, scale) => {
            let unit = 10i128.checked_pow(u32::try_from(*scale).ok()?)?;
            let bound = 10i128.checked_pow(u32::from(*precision))?;
            Some(Primitive::boxed(IntegerAsDecimal { unit, bound }, data_type.clone(), rows))
        }
        _ => checked::<Integers>(data_type, rows),
    }
}

pub(super) fn bit(data_type: &DataType, rows: usize) -> Option<Box<ValueColumn>> {
    checked::<Bits>(data_type, rows)
}

pub(super) fn decimal(data_type: &DataType, rows: usize) -> Option<Box<ValueColumn>> {
    match data_type {
        DataType::Decimal128(precision, scale) => {
            let reader = Decimal { precision: *precision, scale: *scale };
            Some(Primitive::boxed(reader, data_type.clone(), rows))
        }
        _ => checked::<Wholes>(data_type, rows),
    }
}

pub(super) fn float(wire: Wire, data_type: &DataType, rows: usize) -> Option<Box<ValueColumn>> {
    match (wire, data_type) {
        (Wire::Float, DataType::Float32) => Some(Primitive::boxed(Single, DataType::Float32, rows)),
        (Wire::Float | Wire::Double, DataType::Float64) => Some(Primitive::boxed(Double, DataType::Float64, rows)),
        _ => None,
    }
}
