//! Values written as text (CSV, NDJSON) to Arrow values, exactly or not at all, and the other way round: which type a
//! sample of texts has.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryBuilder, BooleanBuilder, Decimal128Builder, PrimitiveBuilder, StringBuilder},
    datatypes::{
        DataType, Date32Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimeUnit,
        TimestampMicrosecondType,
    },
};
use greylag_protocol::{ErrorCode, MeshError, Result};

use crate::exact;

/// Values of one column on their way into an array.
pub(super) enum TextColumn {
    Boolean(BooleanBuilder),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Text(StringBuilder),
    Binary(BinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>),
    Decimal { builder: Decimal128Builder, precision: u8, scale: i8 },
}

/// The text has no meaning in the column's type.
#[derive(Debug)]
pub(super) struct Misfit;

impl TextColumn {
    pub(super) fn new(field: &Field) -> Result<Self> {
        Ok(match field.data_type() {
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Int16 => Self::Int16(PrimitiveBuilder::new()),
            DataType::Int32 => Self::Int32(PrimitiveBuilder::new()),
            DataType::Int64 => Self::Int64(PrimitiveBuilder::new()),
            DataType::Float32 => Self::Float32(PrimitiveBuilder::new()),
            DataType::Float64 => Self::Float64(PrimitiveBuilder::new()),
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Binary => Self::Binary(BinaryBuilder::new()),
            DataType::Date32 => Self::Date(PrimitiveBuilder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, None) => Self::Timestamp(PrimitiveBuilder::new()),
            DataType::Decimal128(precision, scale) => Self::Decimal {
                builder: Decimal128Builder::new().with_data_type(field.data_type().clone()),
                precision: *precision,
                scale: *scale,
            },
            other => {
                let message = format!("column `{}`: text cannot be read as `{other}`", field.name());
                return Err(MeshError::new(ErrorCode::UnsupportedType, message));
            }
        })
    }

    /// Adds one value, `None` for NULL, and returns the bytes it takes.
    pub(super) fn append(&mut self, value: Option<&[u8]>) -> Result<usize, Misfit> {
        match self {
            Self::Boolean(b) => b.append_option(read(value, boolean)?),
            Self::Int16(b) => b.append_option(read(value, parsed)?),
            Self::Int32(b) => b.append_option(read(value, parsed)?),
            Self::Int64(b) => b.append_option(read(value, parsed)?),
            Self::Float32(b) => b.append_option(read(value, |text| double(text).and_then(|_| parsed(text)))?),
            Self::Float64(b) => b.append_option(read(value, double)?),
            Self::Text(b) => {
                let text = read(value, |text| std::str::from_utf8(text).ok())?;
                b.append_option(text);
                return Ok(4 + text.map_or(0, str::len));
            }
            Self::Binary(b) => {
                b.append_option(value);
                return Ok(4 + value.map_or(0, <[u8]>::len));
            }
            Self::Date(b) => b.append_option(read(value, exact::date)?),
            Self::Timestamp(b) => {
                b.append_option(read(value, |text| exact::timestamp(text, TimeUnit::Microsecond))?);
            }
            Self::Decimal { builder, precision, scale } => {
                builder.append_option(read(value, |text| exact::decimal(text, *precision, *scale))?);
                return Ok(16);
            }
        }
        Ok(8)
    }

    /// The array of what was added since the last call.
    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Int16(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::Float32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::Binary(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Decimal { builder, .. } => Arc::new(builder.finish()),
        }
    }
}

fn read<'a, T>(value: Option<&'a [u8]>, parse: impl Fn(&'a [u8]) -> Option<T>) -> Result<Option<T>, Misfit> {
    value.map(|text| parse(text).ok_or(Misfit)).transpose()
}

fn parsed<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case(b"true") => Some(true),
        _ if text.eq_ignore_ascii_case(b"false") => Some(false),
        _ => None,
    }
}

/// Digits with a sign, a point and an exponent; no words, which Rust's parser would take too.
fn double(text: &[u8]) -> Option<f64> {
    let digits = text.iter().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    let value: f64 = digits.then(|| parsed(text))??;
    value.is_finite().then_some(value)
}

/// Types that every value of a sample could have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampled {
    seen: bool,
    boolean: bool,
    integer: bool,
    double: bool,
    date: bool,
    timestamp: bool,
}

impl Default for Sampled {
    fn default() -> Self {
        Self { seen: false, boolean: true, integer: true, double: true, date: true, timestamp: true }
    }
}

impl Sampled {
    pub(super) fn add(&mut self, text: &[u8]) {
        self.seen = true;
        let number = !has_leading_zero(text);
        self.boolean &= boolean(text).is_some();
        self.integer &= number && parsed::<i64>(text).is_some() && text.first() != Some(&b'+');
        self.double &= number && double(text).is_some();
        self.date &= exact::date(text).is_some();
        self.timestamp &= text.len() > 10 && exact::timestamp(text, TimeUnit::Microsecond).is_some();
    }

    /// Text, where nothing narrower holds; nothing, where nothing was seen.
    pub(super) fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self { seen: false, .. } => return None,
            Self { boolean: true, .. } => DataType::Boolean,
            Self { integer: true, .. } => DataType::Int64,
            Self { double: true, .. } => DataType::Float64,
            Self { date: true, .. } => DataType::Date32,
            Self { timestamp: true, .. } => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => DataType::Utf8,
        })
    }
}

/// A number that is written `007` is a name: as a number it would not come back.
fn has_leading_zero(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    matches!(digits, [b'0', b'0'..=b'9', ..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sampled(texts: &[&str]) -> Option<DataType> {
        let mut sample = Sampled::default();
        texts.iter().for_each(|text| sample.add(text.as_bytes()));
        sample.data_type()
    }

    #[test]
    fn a_sample_has_the_narrowest_type_that_loses_nothing() {
        for (texts, expected) in [
            (&["1", "-2"][..], DataType::Int64),
            (&["9223372036854775808"], DataType::Float64),
            (&["1", "2.5"], DataType::Float64),
            (&["1e3"], DataType::Float64),
            (&["007", "8"], DataType::Utf8),
            (&["+49 30"], DataType::Utf8),
            (&["+49"], DataType::Float64),
            (&["inf"], DataType::Utf8),
            (&["true", "FALSE"], DataType::Boolean),
            (&["1995-03-15"], DataType::Date32),
            (&["1995-03-15 10:00:00"], DataType::Timestamp(TimeUnit::Microsecond, None)),
            (&["1995-03-15", "1995-03-15 10:00:00"], DataType::Utf8),
            (&["1995-3-15"], DataType::Utf8),
            (&["1", "x"], DataType::Utf8),
            (&[" 1"], DataType::Utf8),
        ] {
            assert_eq!(sampled(texts), Some(expected), "{texts:?}");
        }
        assert_eq!(sampled(&[]), None);
    }

    #[test]
    fn a_text_fits_its_type_exactly_or_not_at_all() {
        use DataType::{Boolean, Date32, Decimal128, Float64, Int16, Int64, Utf8};
        for (data_type, text, expected) in [
            (Int64, "9223372036854775807", true),
            (Int64, "9223372036854775808", false),
            (Int64, "1.0", false),
            (Int64, "", false),
            (Int64, " 1", false),
            (Int16, "40000", false),
            (Float64, "1e400", false),
            (Float64, "NaN", false),
            (Float64, "-1.5e-10", true),
            (Boolean, "True", true),
            (Boolean, "1", false),
            (Date32, "1995-03-15", true),
            (Date32, "1995-03-15 10:00", false),
            (Decimal128(5, 2), "123.45", true),
            (Decimal128(5, 2), "123.456", false),
            (Utf8, "", true),
        ] {
            let mut column = TextColumn::new(&Field::new("c", data_type.clone(), true)).unwrap();
            assert_eq!(column.append(Some(text.as_bytes())).is_ok(), expected, "{data_type}: {text}");
            assert!(column.append(None).is_ok());
        }
        let mut column = TextColumn::new(&Field::new("c", Utf8, true)).unwrap();
        assert!(column.append(Some(&[0xff])).is_err());
    }
}
