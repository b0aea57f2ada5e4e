//! The decoder against values as the driver hands them over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, types::*},
    datatypes::{Field, Schema},
};
use greylag_protocol::ErrorCode;
use mysql_async::consts::{ColumnFlags, ColumnType};
use proptest::prelude::*;

use super::*;

fn sent(column_type: ColumnType) -> WireColumn {
    WireColumn::new(column_type).with_character_set(45).with_flags(ColumnFlags::empty())
}

fn read(column_type: ColumnType, data_type: &DataType, values: &[Value]) -> Result<ArrayRef> {
    let schema = Arc::new(Schema::new(vec![Field::new("c", data_type.clone(), true)]));
    let mut decoder = RowDecoder::new(schema, &[sent(column_type)], values.len())?;
    for value in values {
        decoder.values(|_| Some(value))?;
    }
    assert!(decoder.is_full());
    Ok(decoder.finish()?.column(0).clone())
}

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().to_vec())
}

#[test]
fn integers_of_any_width_are_checked() {
    use ColumnType::MYSQL_TYPE_LONGLONG as BIG;
    let array = read(BIG, &DataType::Int8, &[Value::Int(-128), Value::NULL, Value::Int(127)]).unwrap();
    assert_eq!(array.as_primitive::<Int8Type>().iter().collect::<Vec<_>>(), [Some(-128), None, Some(127)]);
    let array = read(BIG, &DataType::UInt64, &[Value::UInt(u64::MAX), Value::Int(1)]).unwrap();
    assert_eq!(array.as_primitive::<UInt64Type>().value(0), u64::MAX);
    let array = read(BIG, &DataType::Decimal128(21, 1), &[Value::UInt(u64::MAX)]).unwrap();
    assert_eq!(array.as_primitive::<Decimal128Type>().value(0), i128::from(u64::MAX) * 10);
    let array = read(BIG, &DataType::Boolean, &[Value::Int(0), Value::Int(1)]).unwrap();
    assert_eq!(array.as_boolean().iter().collect::<Vec<_>>(), [Some(false), Some(true)]);
    for (data_type, value) in [
        (DataType::Int8, Value::Int(128)),
        (DataType::UInt8, Value::Int(-1)),
        (DataType::Int64, Value::UInt(u64::MAX)),
        (DataType::Boolean, Value::Int(2)),
        (DataType::Decimal128(3, 1), Value::Int(100)),
    ] {
        let error = read(BIG, &data_type, &[value]).unwrap_err();
        assert_eq!(error.code, ErrorCode::ValueOutOfRange, "{data_type}");
        assert!(error.message.contains("`c`"), "{error}");
    }
}

#[test]
fn bits_and_decimals_are_exact() {
    use ColumnType::{MYSQL_TYPE_BIT as BIT, MYSQL_TYPE_NEWDECIMAL as DECIMAL};
    let array = read(BIT, &DataType::UInt64, &[Value::Bytes(vec![1, 0]), Value::Bytes(vec![255; 8])]).unwrap();
    assert_eq!(array.as_primitive::<UInt64Type>().values(), &[256, u64::MAX]);
    let array =
        read(DECIMAL, &DataType::Decimal128(15, 2), &[text("-1234567890123.45"), text("0.1"), text("7")]).unwrap();
    assert_eq!(array.as_primitive::<Decimal128Type>().values(), &[-123_456_789_012_345, 10, 700]);
    let array = read(DECIMAL, &DataType::Int64, &[text("-7.000")]).unwrap();
    assert_eq!(array.as_primitive::<Int64Type>().value(0), -7);
    for (data_type, value) in [
        (DataType::Decimal128(15, 2), "0.001"),
        (DataType::Decimal128(4, 2), "100"),
        (DataType::Int64, "0.5"),
        (DataType::Int64, "9223372036854775808"),
    ] {
        assert_eq!(read(DECIMAL, &data_type, &[text(value)]).unwrap_err().code, ErrorCode::ValueOutOfRange, "{value}");
    }
}

#[test]
fn dates_that_do_not_exist_are_refused() {
    use ColumnType::{MYSQL_TYPE_DATE as DATE, MYSQL_TYPE_DATETIME as DATETIME, MYSQL_TYPE_TIME as TIME};
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let array =
        read(DATE, &DataType::Date32, &[Value::Date(1969, 12, 31, 0, 0, 0, 0), Value::Date(2024, 2, 29, 0, 0, 0, 0)]);
    assert_eq!(array.unwrap().as_primitive::<Date32Type>().values(), &[-1, 19_782]);
    let array = read(DATETIME, &timestamp, &[Value::Date(1970, 1, 1, 0, 0, 1, 5)]).unwrap();
    assert_eq!(array.as_primitive::<TimestampMicrosecondType>().value(0), 1_000_005);
    for (year, month, day) in [(0, 0, 0), (2024, 0, 10), (2024, 1, 0), (2023, 2, 29), (2024, 13, 1), (0, 0, 1)] {
        for (column_type, data_type) in [(DATE, &DataType::Date32), (DATETIME, &timestamp)] {
            let error = read(column_type, data_type, &[Value::Date(year, month, day, 0, 0, 0, 0)]).unwrap_err();
            assert_eq!(error.code, ErrorCode::ValueOutOfRange, "{year}-{month}-{day}");
        }
    }
    let time = DataType::Time64(TimeUnit::Microsecond);
    let array = read(TIME, &time, &[Value::Time(false, 0, 23, 59, 59, 999_999)]).unwrap();
    assert_eq!(array.as_primitive::<Time64MicrosecondType>().value(0), 86_399_999_999);
    for value in [Value::Time(true, 0, 0, 0, 1, 0), Value::Time(false, 1, 0, 0, 0, 0)] {
        assert_eq!(read(TIME, &time, &[value]).unwrap_err().code, ErrorCode::ValueOutOfRange);
    }
}

#[test]
fn pairs_of_types_without_a_decoder_are_refused() {
    use ColumnType as T;
    for (column_type, data_type) in [
        (T::MYSQL_TYPE_LONG, DataType::Utf8),
        (T::MYSQL_TYPE_LONG, DataType::Float64),
        (T::MYSQL_TYPE_DOUBLE, DataType::Float32),
        (T::MYSQL_TYPE_VAR_STRING, DataType::Int64),
        (T::MYSQL_TYPE_VAR_STRING, DataType::Binary),
        (T::MYSQL_TYPE_GEOMETRY, DataType::Binary),
        (T::MYSQL_TYPE_DATETIME, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        (T::MYSQL_TYPE_TIMESTAMP, DataType::Timestamp(TimeUnit::Microsecond, None)),
        (T::MYSQL_TYPE_DATETIME, DataType::Timestamp(TimeUnit::Nanosecond, None)),
    ] {
        let error = read(column_type, &data_type, &[]).unwrap_err();
        assert_eq!(error.code, ErrorCode::UnsupportedType, "{column_type:?} as {data_type}");
    }
}

#[test]
fn null_may_have_any_type_and_text_must_be_utf8() {
    use ColumnType::{MYSQL_TYPE_NULL as NULL, MYSQL_TYPE_VAR_STRING as TEXT};
    assert_eq!(read(NULL, &DataType::Date32, &[Value::NULL, Value::NULL]).unwrap().null_count(), 2);
    let array = read(TEXT, &DataType::Utf8, &[text("größe"), Value::NULL]).unwrap();
    assert_eq!(array.as_string::<i32>().value(0), "größe");
    assert_eq!(read(TEXT, &DataType::Utf8, &[Value::Bytes(vec![255])]).unwrap_err().code, ErrorCode::ValueOutOfRange);
}

proptest! {
    #[test]
    fn values_of_the_wrong_kind_never_panic(which in 0usize..9, number in any::<i64>(), bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
        use ColumnType as T;
        let columns = [T::MYSQL_TYPE_LONG, T::MYSQL_TYPE_DOUBLE, T::MYSQL_TYPE_NEWDECIMAL, T::MYSQL_TYPE_DATE, T::MYSQL_TYPE_DATETIME,
            T::MYSQL_TYPE_TIME, T::MYSQL_TYPE_BIT, T::MYSQL_TYPE_VAR_STRING, T::MYSQL_TYPE_NULL];
        let types = [DataType::Int32, DataType::Float64, DataType::Decimal128(9, 3), DataType::Date32,
            DataType::Timestamp(TimeUnit::Microsecond, None), DataType::Time64(TimeUnit::Microsecond), DataType::UInt64, DataType::Utf8, DataType::Int8];
        let [a, b, c, ..] = number.to_le_bytes();
        for value in [Value::Int(number), Value::Bytes(bytes), Value::Double(1.0), Value::Date(u16::from(a), b, c, a, b, c, 7), Value::Time(false, 0, a, b, c, 7)] {
            let _ = read(columns[which], &types[which], &[value]);
        }
    }
}
