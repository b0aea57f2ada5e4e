//! Which types may travel, and how a schema is read from its flatbuffer. Arrow's own conversion panics on widths,
//! units and child counts that it does not know, so it is not used.
//!
//! INVARIANT: a schema that `check` accepts can be written, read and validated without a panic anywhere in Arrow.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, TimeUnit};
use arrow_ipc::{self as fb, Endianness};

use super::{TYPE_DEPTH_MAX, malformed};
use crate::error::{ErrorCode, MeshError, Result};

/// GL3006 names the first column whose type cannot travel.
pub(super) fn check(schema: &Schema) -> Result<()> {
    schema.fields().iter().try_for_each(|field| {
        if travels(field.data_type(), 1) {
            return Ok(());
        }
        Err(MeshError::new(
            ErrorCode::UnsupportedType,
            format!("column `{}` has type `{}`, which cannot be sent", field.name(), field.data_type()),
        ))
    })
}

fn travels(data_type: &DataType, depth: usize) -> bool {
    use DataType::*;
    if depth > TYPE_DEPTH_MAX {
        return false;
    }
    match data_type {
        Null | Boolean | Binary | LargeBinary | BinaryView | Utf8 | LargeUtf8 | Utf8View => true,
        Decimal32(p, s) => decimal(*p, *s, 9),
        Decimal64(p, s) => decimal(*p, *s, 18),
        Decimal128(p, s) => decimal(*p, *s, 38),
        Decimal256(p, s) => decimal(*p, *s, 76),
        Time32(unit) => matches!(unit, TimeUnit::Second | TimeUnit::Millisecond),
        Time64(unit) => matches!(unit, TimeUnit::Microsecond | TimeUnit::Nanosecond),
        FixedSizeBinary(width) => *width > 0,
        List(item) | LargeList(item) => travels(item.data_type(), depth + 1),
        FixedSizeList(item, size) => *size > 0 && travels(item.data_type(), depth + 1),
        Struct(fields) => fields.iter().all(|f| travels(f.data_type(), depth + 1)),
        Map(entries, _) => map_entries(entries) && travels(entries.data_type(), depth + 1),
        primitive => primitive.primitive_width().is_some(),
    }
}

/// `scale` is the number of digits after the point; a negative one stands for trailing zeros.
fn decimal(precision: u8, scale: i8, precision_max: u8) -> bool {
    (1..=precision_max).contains(&precision) && scale <= precision as i8 && scale >= -(precision_max as i8)
}

fn map_entries(entries: &Field) -> bool {
    let DataType::Struct(pair) = entries.data_type() else { return false };
    !entries.is_nullable() && matches!(pair.iter().as_slice(), [key, _] if !key.is_nullable())
}

/// The schema of a verified message. The caller must still `check` it.
pub(super) fn read(schema: &fb::Schema<'_>) -> Result<Schema> {
    if schema.endianness() != Endianness::Little {
        return Err(malformed("a schema is not little endian"));
    }
    let fields = schema.fields().ok_or_else(|| malformed("a schema has no list of fields"))?;
    let fields = fields.iter().map(|f| read_field(&f)).collect::<Result<Vec<_>>>()?;
    Ok(Schema::new_with_metadata(fields, read_metadata(schema.custom_metadata())))
}

type Pairs<'a> = flatbuffers::Vector<'a, flatbuffers::ForwardsUOffset<fb::KeyValue<'a>>>;

fn read_metadata(pairs: Option<Pairs<'_>>) -> HashMap<String, String> {
    let pairs = pairs.iter().flat_map(|p| p.iter());
    pairs.filter_map(|kv| Some((kv.key()?.to_owned(), kv.value()?.to_owned()))).collect()
}

fn read_field(field: &fb::Field<'_>) -> Result<Field> {
    let name = field.name().unwrap_or_default();
    let data_type = match field.dictionary() {
        Some(_) => None,
        None => read_type(field)?,
    };
    let Some(data_type) = data_type else {
        let what = field.type_type().variant_name().unwrap_or("nameless");
        let dictionary = if field.dictionary().is_some() { "dictionary of " } else { "" };
        return Err(malformed(format!("column `{name}` has a type that cannot be read ({dictionary}{what})")));
    };
    Ok(Field::new(name, data_type, field.nullable()).with_metadata(read_metadata(field.custom_metadata())))
}

/// `None` for a type that is not known, or whose particulars make no sense.
fn read_type(field: &fb::Field<'_>) -> Result<Option<DataType>> {
    Ok(match field.type_type() {
        fb::Type::List => only_child(field)?.map(DataType::List),
        fb::Type::LargeList => only_child(field)?.map(DataType::LargeList),
        fb::Type::FixedSizeList => {
            let size = field.type_as_fixed_size_list().map(|t| t.listSize());
            only_child(field)?.zip(size).map(|(item, size)| DataType::FixedSizeList(item, size))
        }
        fb::Type::Map => {
            let sorted = field.type_as_map().map(|t| t.keysSorted());
            only_child(field)?.zip(sorted).map(|(entries, sorted)| DataType::Map(entries, sorted))
        }
        fb::Type::Struct_ => Some(DataType::Struct(children(field)?.into())),
        _ => read_plain(field),
    })
}

fn children(field: &fb::Field<'_>) -> Result<Vec<Field>> {
    field.children().iter().flat_map(|c| c.iter()).map(|c| read_field(&c)).collect()
}

fn only_child(field: &fb::Field<'_>) -> Result<Option<Arc<Field>>> {
    let [child] = <[Field; 1]>::try_from(children(field)?).map_err(|_| malformed("a list has not exactly one item"))?;
    Ok(Some(Arc::new(child)))
}

fn read_plain(field: &fb::Field<'_>) -> Option<DataType> {
    Some(match field.type_type() {
        fb::Type::Null => DataType::Null,
        fb::Type::Bool => DataType::Boolean,
        fb::Type::Int => read_int(&field.type_as_int()?)?,
        fb::Type::FloatingPoint => match field.type_as_floating_point()?.precision() {
            fb::Precision::HALF => DataType::Float16,
            fb::Precision::SINGLE => DataType::Float32,
            fb::Precision::DOUBLE => DataType::Float64,
            _ => return None,
        },
        fb::Type::Decimal => read_decimal(&field.type_as_decimal()?)?,
        fb::Type::Binary => DataType::Binary,
        fb::Type::LargeBinary => DataType::LargeBinary,
        fb::Type::BinaryView => DataType::BinaryView,
        fb::Type::Utf8 => DataType::Utf8,
        fb::Type::LargeUtf8 => DataType::LargeUtf8,
        fb::Type::Utf8View => DataType::Utf8View,
        fb::Type::FixedSizeBinary => DataType::FixedSizeBinary(field.type_as_fixed_size_binary()?.byteWidth()),
        fb::Type::Date => match field.type_as_date()?.unit() {
            fb::DateUnit::DAY => DataType::Date32,
            fb::DateUnit::MILLISECOND => DataType::Date64,
            _ => return None,
        },
        fb::Type::Time => {
            let time = field.type_as_time()?;
            match (time.bitWidth(), read_unit(time.unit())?) {
                (32, unit) => DataType::Time32(unit),
                (64, unit) => DataType::Time64(unit),
                _ => return None,
            }
        }
        fb::Type::Timestamp => {
            let timestamp = field.type_as_timestamp()?;
            DataType::Timestamp(read_unit(timestamp.unit())?, timestamp.timezone().map(Arc::from))
        }
        fb::Type::Duration => DataType::Duration(read_unit(field.type_as_duration()?.unit())?),
        fb::Type::Interval => DataType::Interval(match field.type_as_interval()?.unit() {
            fb::IntervalUnit::YEAR_MONTH => IntervalUnit::YearMonth,
            fb::IntervalUnit::DAY_TIME => IntervalUnit::DayTime,
            fb::IntervalUnit::MONTH_DAY_NANO => IntervalUnit::MonthDayNano,
            _ => return None,
        }),
        _ => return None,
    })
}

fn read_int(int: &fb::Int<'_>) -> Option<DataType> {
    Some(match (int.bitWidth(), int.is_signed()) {
        (8, true) => DataType::Int8,
        (8, false) => DataType::UInt8,
        (16, true) => DataType::Int16,
        (16, false) => DataType::UInt16,
        (32, true) => DataType::Int32,
        (32, false) => DataType::UInt32,
        (64, true) => DataType::Int64,
        (64, false) => DataType::UInt64,
        _ => return None,
    })
}

fn read_decimal(decimal: &fb::Decimal<'_>) -> Option<DataType> {
    let precision = u8::try_from(decimal.precision()).ok()?;
    let scale = i8::try_from(decimal.scale()).ok()?;
    Some(match decimal.bitWidth() {
        32 => DataType::Decimal32(precision, scale),
        64 => DataType::Decimal64(precision, scale),
        128 => DataType::Decimal128(precision, scale),
        256 => DataType::Decimal256(precision, scale),
        _ => return None,
    })
}

fn read_unit(unit: fb::TimeUnit) -> Option<TimeUnit> {
    Some(match unit {
        fb::TimeUnit::SECOND => TimeUnit::Second,
        fb::TimeUnit::MILLISECOND => TimeUnit::Millisecond,
        fb::TimeUnit::MICROSECOND => TimeUnit::Microsecond,
        fb::TimeUnit::NANOSECOND => TimeUnit::Nanosecond,
        _ => return None,
    })
}
