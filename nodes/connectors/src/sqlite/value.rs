//! One stored value to one Arrow value, exactly or not at all.
//!
//! INVARIANT: what is accepted here is what `verify` accepts: both go through [`Column`].

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Decimal128Builder, LargeBinaryBuilder, LargeStringBuilder, NullArray,
        PrimitiveBuilder, StringBuilder,
    },
    datatypes::{
        ArrowTimestampType, DataType, Date32Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
        Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use greylag_protocol::{ErrorCode, MeshError, Result};
use rusqlite::types::ValueRef;

use crate::exact;

/// Values of one column on their way into an array.
pub(super) struct Column {
    name: String,
    data_type: DataType,
    nullable: bool,
    values: Values,
}

/// A builder for each type that can be read.
enum Values {
    Null(usize),
    Boolean(BooleanBuilder),
    Int8(PrimitiveBuilder<Int8Type>),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    UInt8(PrimitiveBuilder<UInt8Type>),
    UInt16(PrimitiveBuilder<UInt16Type>),
    UInt32(PrimitiveBuilder<UInt32Type>),
    UInt64(PrimitiveBuilder<UInt64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Text(StringBuilder),
    LargeText(LargeStringBuilder),
    Binary(BinaryBuilder),
    LargeBinary(LargeBinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Second(PrimitiveBuilder<TimestampSecondType>),
    Millisecond(PrimitiveBuilder<TimestampMillisecondType>),
    Microsecond(PrimitiveBuilder<TimestampMicrosecondType>),
    Nanosecond(PrimitiveBuilder<TimestampNanosecondType>),
    Decimal { builder: Decimal128Builder, precision: u8, scale: i8 },
}

/// The value has no meaning in the column's type.
struct Misfit;

impl Column {
    /// GL3006 for a type that no stored value can be read as.
    pub(super) fn new(field: &Field) -> Result<Self> {
        let values = match field.data_type() {
            DataType::Null => Values::Null(0),
            DataType::Boolean => Values::Boolean(BooleanBuilder::new()),
            DataType::Int8 => Values::Int8(PrimitiveBuilder::new()),
            DataType::Int16 => Values::Int16(PrimitiveBuilder::new()),
            DataType::Int32 => Values::Int32(PrimitiveBuilder::new()),
            DataType::Int64 => Values::Int64(PrimitiveBuilder::new()),
            DataType::UInt8 => Values::UInt8(PrimitiveBuilder::new()),
            DataType::UInt16 => Values::UInt16(PrimitiveBuilder::new()),
            DataType::UInt32 => Values::UInt32(PrimitiveBuilder::new()),
            DataType::UInt64 => Values::UInt64(PrimitiveBuilder::new()),
            DataType::Float32 => Values::Float32(PrimitiveBuilder::new()),
            DataType::Float64 => Values::Float64(PrimitiveBuilder::new()),
            DataType::Utf8 => Values::Text(StringBuilder::new()),
            DataType::LargeUtf8 => Values::LargeText(LargeStringBuilder::new()),
            DataType::Binary => Values::Binary(BinaryBuilder::new()),
            DataType::LargeBinary => Values::LargeBinary(LargeBinaryBuilder::new()),
            DataType::Date32 => Values::Date(PrimitiveBuilder::new()),
            DataType::Timestamp(TimeUnit::Second, None) => Values::Second(PrimitiveBuilder::new()),
            DataType::Timestamp(TimeUnit::Millisecond, None) => Values::Millisecond(PrimitiveBuilder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, None) => Values::Microsecond(PrimitiveBuilder::new()),
            DataType::Timestamp(TimeUnit::Nanosecond, None) => Values::Nanosecond(PrimitiveBuilder::new()),
            DataType::Decimal128(precision, scale) if *scale >= 0 => Values::Decimal {
                builder: Decimal128Builder::new().with_data_type(field.data_type().clone()),
                precision: *precision,
                scale: *scale,
            },
            other => {
                let message = format!("column `{}`: SQLite values cannot be read as `{other}`", field.name());
                return Err(MeshError::new(ErrorCode::UnsupportedType, message));
            }
        };
        Ok(Self {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            values,
        })
    }

    /// Adds one value and returns the bytes it takes; GL3011 naming the column if it does not fit.
    pub(super) fn append(&mut self, value: ValueRef<'_>) -> Result<usize> {
        if value == ValueRef::Null && !self.nullable {
            return Err(self.misfit(value));
        }
        match self.values.append(value) {
            Ok(bytes) => Ok(bytes),
            Err(Misfit) => Err(self.misfit(value)),
        }
    }

    /// As `append`, for a column that SQLite itself is to order: a decimal written as text fits its type, but SQLite
    /// compares it as text.
    pub(super) fn append_in_order(&mut self, value: ValueRef<'_>) -> Result<usize> {
        match (&self.values, value) {
            (Values::Decimal { .. }, ValueRef::Text(_)) => Err(self.misfit(value)),
            _ => self.append(value),
        }
    }

    /// Forgets what was added.
    pub(super) fn clear(&mut self) {
        self.values.finish();
    }

    /// The array of what was added since the last call.
    pub(super) fn finish(&mut self) -> ArrayRef {
        self.values.finish()
    }

    fn misfit(&self, value: ValueRef<'_>) -> MeshError {
        let stored = match value {
            ValueRef::Null => "a NULL",
            ValueRef::Integer(_) => "an INTEGER",
            ValueRef::Real(_) => "a REAL",
            ValueRef::Text(_) => "a TEXT",
            ValueRef::Blob(_) => "a BLOB",
        };
        let message = format!("column `{}` holds {stored} that does not fit its type `{}`", self.name, self.data_type);
        MeshError::new(ErrorCode::ValueOutOfRange, message)
    }
}

impl Values {
    fn append(&mut self, value: ValueRef<'_>) -> Result<usize, Misfit> {
        match self {
            Self::Null(count) => match value {
                ValueRef::Null => *count += 1,
                _ => return Err(Misfit),
            },
            Self::Boolean(b) => b.append_option(boolean(value)?),
            Self::Int8(b) => b.append_option(integer(value)?),
            Self::Int16(b) => b.append_option(integer(value)?),
            Self::Int32(b) => b.append_option(integer(value)?),
            Self::Int64(b) => b.append_option(integer(value)?),
            Self::UInt8(b) => b.append_option(integer(value)?),
            Self::UInt16(b) => b.append_option(integer(value)?),
            Self::UInt32(b) => b.append_option(integer(value)?),
            Self::UInt64(b) => b.append_option(integer(value)?),
            Self::Float32(b) => b.append_option(single(value)?),
            Self::Float64(b) => b.append_option(double(value)?),
            Self::Text(b) => {
                let text = text(value)?;
                b.append_option(text);
                return Ok(4 + text.map_or(0, str::len));
            }
            Self::LargeText(b) => {
                let text = text(value)?;
                b.append_option(text);
                return Ok(8 + text.map_or(0, str::len));
            }
            Self::Binary(b) => {
                let bytes = blob(value)?;
                b.append_option(bytes);
                return Ok(4 + bytes.map_or(0, <[u8]>::len));
            }
            Self::LargeBinary(b) => {
                let bytes = blob(value)?;
                b.append_option(bytes);
                return Ok(8 + bytes.map_or(0, <[u8]>::len));
            }
            Self::Date(b) => b.append_option(parsed(value, exact::date)?),
            Self::Second(b) => append_timestamp(b, value)?,
            Self::Millisecond(b) => append_timestamp(b, value)?,
            Self::Microsecond(b) => append_timestamp(b, value)?,
            Self::Nanosecond(b) => append_timestamp(b, value)?,
            Self::Decimal { builder, precision, scale } => {
                builder.append_option(decimal(value, *precision, *scale)?);
                return Ok(16);
            }
        }
        Ok(8)
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Null(count) => Arc::new(NullArray::new(std::mem::take(count))),
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Int8(b) => Arc::new(b.finish()),
            Self::Int16(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::UInt8(b) => Arc::new(b.finish()),
            Self::UInt16(b) => Arc::new(b.finish()),
            Self::UInt32(b) => Arc::new(b.finish()),
            Self::UInt64(b) => Arc::new(b.finish()),
            Self::Float32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::LargeText(b) => Arc::new(b.finish()),
            Self::Binary(b) => Arc::new(b.finish()),
            Self::LargeBinary(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Second(b) => Arc::new(b.finish()),
            Self::Millisecond(b) => Arc::new(b.finish()),
            Self::Microsecond(b) => Arc::new(b.finish()),
            Self::Nanosecond(b) => Arc::new(b.finish()),
            Self::Decimal { builder, .. } => Arc::new(builder.finish()),
        }
    }
}

fn boolean(value: ValueRef<'_>) -> Result<Option<bool>, Misfit> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(0) => Ok(Some(false)),
        ValueRef::Integer(1) => Ok(Some(true)),
        _ => Err(Misfit),
    }
}

fn integer<T: TryFrom<i64>>(value: ValueRef<'_>) -> Result<Option<T>, Misfit> {
    let integer = match value {
        ValueRef::Null => return Ok(None),
        ValueRef::Integer(integer) => integer,
        ValueRef::Real(real) => whole(real).ok_or(Misfit)?,
        ValueRef::Text(_) | ValueRef::Blob(_) => return Err(Misfit),
    };
    T::try_from(integer).map(Some).map_err(|_| Misfit)
}

/// The integer that SQLite holds equal to this double, if there is one.
fn whole(real: f64) -> Option<i64> {
    // -2^63 is a double, 2^63 - 1 is not.
    let fits = real.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&real);
    fits.then_some(real as i64)
}

fn double(value: ValueRef<'_>) -> Result<Option<f64>, Misfit> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Real(real) => Ok(Some(real)),
        ValueRef::Integer(integer) => {
            let real = integer as f64;
            if whole(real) == Some(integer) { Ok(Some(real)) } else { Err(Misfit) }
        }
        ValueRef::Text(_) | ValueRef::Blob(_) => Err(Misfit),
    }
}

fn single(value: ValueRef<'_>) -> Result<Option<f32>, Misfit> {
    let Some(real) = double(value)? else { return Ok(None) };
    let narrow = real as f32;
    if f64::from(narrow) == real { Ok(Some(narrow)) } else { Err(Misfit) }
}

fn text(value: ValueRef<'_>) -> Result<Option<&str>, Misfit> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|_| Misfit),
        _ => Err(Misfit),
    }
}

fn blob(value: ValueRef<'_>) -> Result<Option<&[u8]>, Misfit> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => Ok(Some(bytes)),
        _ => Err(Misfit),
    }
}

fn parsed<T>(value: ValueRef<'_>, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, Misfit> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) => parse(bytes).map(Some).ok_or(Misfit),
        _ => Err(Misfit),
    }
}

fn append_timestamp<T: ArrowTimestampType>(
    builder: &mut PrimitiveBuilder<T>,
    value: ValueRef<'_>,
) -> Result<(), Misfit> {
    builder.append_option(parsed(value, |text| exact::timestamp(text, T::UNIT))?);
    Ok(())
}

fn decimal(value: ValueRef<'_>, precision: u8, scale: i8) -> Result<Option<i128>, Misfit> {
    let unscaled = match value {
        ValueRef::Null => return Ok(None),
        ValueRef::Integer(integer) => exact::decimal_from_integer(integer, precision, scale),
        ValueRef::Real(real) => exact::decimal_from_double(real, precision, scale),
        ValueRef::Text(text) => exact::decimal(text, precision, scale),
        ValueRef::Blob(_) => None,
    };
    unscaled.map(Some).ok_or(Misfit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::{
        array::{AsArray, Int64Array},
        datatypes::Decimal128Type,
    };

    use super::*;

    fn fits(data_type: &DataType, value: ValueRef<'_>) -> bool {
        Column::new(&Field::new("c", data_type.clone(), true)).unwrap().append(value).is_ok()
    }

    #[test]
    fn a_value_fits_its_type_exactly_or_not_at_all() {
        use DataType::{Binary, Boolean, Date32, Decimal128, Float32, Float64, Int8, Int64, UInt64, Utf8};
        let text = |text: &'static str| ValueRef::Text(text.as_bytes());
        for (data_type, value, expected) in [
            (Int64, ValueRef::Integer(i64::MIN), true),
            (Int64, ValueRef::Real(-9_223_372_036_854_775_808.0), true),
            (Int64, ValueRef::Real(9_223_372_036_854_775_808.0), false),
            (Int64, ValueRef::Real(1.5), false),
            (Int64, ValueRef::Real(f64::INFINITY), false),
            (Int64, text("1"), false),
            (Int8, ValueRef::Integer(-128), true),
            (Int8, ValueRef::Integer(128), false),
            (UInt64, ValueRef::Integer(-1), false),
            (Boolean, ValueRef::Integer(1), true),
            (Boolean, ValueRef::Integer(2), false),
            (Boolean, text("true"), false),
            (Float64, ValueRef::Integer(1 << 53), true),
            (Float64, ValueRef::Integer((1 << 53) + 1), false),
            (Float64, ValueRef::Integer(i64::MAX), false),
            (Float64, ValueRef::Real(f64::NEG_INFINITY), true),
            (Float64, text("1.5"), false),
            (Float32, ValueRef::Real(0.5), true),
            (Float32, ValueRef::Real(0.1), false),
            (Utf8, text("größe"), true),
            (Utf8, ValueRef::Text(&[0xff, 0xfe]), false),
            (Utf8, ValueRef::Integer(7), false),
            (Utf8, ValueRef::Blob(b"x"), false),
            (Binary, ValueRef::Blob(b""), true),
            (Binary, text("x"), false),
            (Date32, text("1995-03-15"), true),
            (Date32, text("1995-3-15"), false),
            (Date32, ValueRef::Integer(0), false),
            (Decimal128(15, 2), ValueRef::Real(173_665.47), true),
            (Decimal128(15, 2), ValueRef::Integer(901), true),
            (Decimal128(15, 2), text("-0.05"), true),
            (Decimal128(15, 2), text("0.055"), false),
            (Decimal128(15, 2), ValueRef::Real(0.055), false),
            (Decimal128(3, 2), ValueRef::Integer(10), false),
            (Decimal128(15, 2), text("abc"), false),
            (DataType::Null, ValueRef::Integer(1), false),
        ] {
            assert_eq!(fits(&data_type, value), expected, "{data_type}: {value:?}");
            assert!(fits(&data_type, ValueRef::Null), "{data_type}");
        }
    }

    #[test]
    fn arrays_come_out_as_values_went_in_and_begin_anew() {
        let mut column = Column::new(&Field::new("c", DataType::Int64, true)).unwrap();
        column.append(ValueRef::Integer(7)).unwrap();
        column.append(ValueRef::Null).unwrap();
        assert_eq!(column.finish().as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(7), None]));
        assert!(column.finish().is_empty());
        let mut column = Column::new(&Field::new("c", DataType::Decimal128(15, 2), true)).unwrap();
        column.append(ValueRef::Real(0.07)).unwrap();
        let array = column.finish();
        assert_eq!(array.data_type(), &DataType::Decimal128(15, 2));
        assert_eq!(array.as_primitive::<Decimal128Type>().value(0), 7);
    }

    #[test]
    fn a_misfit_names_its_column_and_not_its_value() {
        let mut column = Column::new(&Field::new("o_orderdate", DataType::Date32, false)).unwrap();
        let error = column.append(ValueRef::Text(b"hunter2")).unwrap_err();
        assert_eq!(error.code, ErrorCode::ValueOutOfRange);
        assert_eq!(error.message, "column `o_orderdate` holds a TEXT that does not fit its type `Date32`");
        assert!(column.append(ValueRef::Null).unwrap_err().message.contains("a NULL"));
        let error = Column::new(&Field::new("t", DataType::Time64(TimeUnit::Microsecond), true)).err().unwrap();
        assert_eq!(error.code, ErrorCode::UnsupportedType);
    }
}
