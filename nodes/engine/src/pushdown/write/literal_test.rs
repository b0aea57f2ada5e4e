//! Literals read back by the engines that they are written for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use datafusion::common::ScalarValue;
use greylag_protocol::schema::Dialect;
use proptest::prelude::*;

use super::literal;
use crate::session::reference;

fn text(text: &str) -> ScalarValue {
    ScalarValue::from(text)
}

/// Values of every kind that can be written for DataFusion.
fn values() -> Vec<ScalarValue> {
    let utc = || Some("UTC".into());
    vec![
        text(""),
        text("it's"),
        text("back\\slash \"quoted\" `tick` -- comment /* */ ; $1 ?"),
        text("日本\u{10FFFF}\n\t\r"),
        text("nul\0inside"),
        ScalarValue::Utf8View(Some("view".into())),
        ScalarValue::LargeUtf8(Some("large".into())),
        ScalarValue::Binary(Some(vec![0, 255, 39, 92])),
        ScalarValue::BinaryView(Some(vec![])),
        ScalarValue::Boolean(Some(true)),
        ScalarValue::Boolean(Some(false)),
        ScalarValue::Int8(Some(i8::MIN)),
        ScalarValue::Int16(Some(-7)),
        ScalarValue::Int32(Some(i32::MIN)),
        ScalarValue::Int64(Some(i64::MIN)),
        ScalarValue::Int64(Some(i64::MAX)),
        ScalarValue::Int64(Some(-1)),
        ScalarValue::UInt8(Some(255)),
        ScalarValue::UInt64(Some(u64::MAX)),
        ScalarValue::Float64(Some(-0.0)),
        ScalarValue::Float64(Some(0.1)),
        ScalarValue::Float64(Some(f64::MAX)),
        ScalarValue::Float64(Some(5e-324)),
        ScalarValue::Float32(Some(0.1)),
        ScalarValue::Decimal128(Some(-5), 15, 2),
        ScalarValue::Decimal128(Some(10_i128.pow(38) - 1), 38, 10),
        ScalarValue::Decimal128(Some(7), 9, 0),
        ScalarValue::Date32(Some(9204)),
        ScalarValue::TimestampSecond(Some(-1), None),
        ScalarValue::TimestampMillisecond(Some(1), None),
        ScalarValue::TimestampMicrosecond(Some(-1), utc()),
        ScalarValue::TimestampNanosecond(Some(1_234_567_890_123_456_789), None),
        ScalarValue::TimestampNanosecond(Some(-1), utc()),
        ScalarValue::Int32(None),
        ScalarValue::Utf8(None),
        ScalarValue::Decimal128(None, 12, 3),
    ]
}

async fn read_back(sql: &str) -> ScalarValue {
    let frame = reference().sql(&format!("SELECT {sql} AS v")).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
    let batches = frame.collect().await.unwrap_or_else(|e| panic!("{e}: {sql}"));
    ScalarValue::try_from_array(batches[0].column(0), 0).unwrap()
}

#[tokio::test]
async fn datafusion_reads_back_value_and_type() {
    for value in values() {
        let sql = literal(Dialect::DataFusion, &value).unwrap_or_else(|| panic!("{value:?} cannot be written"));
        let back = read_back(&sql).await;
        assert_eq!((back.data_type(), &back), (value.data_type(), &value), "{sql}");
    }
}

#[test]
fn what_has_no_literal_is_not_written() {
    let none: [(Dialect, ScalarValue); 12] = [
        (Dialect::DataFusion, ScalarValue::Float64(Some(f64::NAN))),
        (Dialect::DataFusion, ScalarValue::Date32(Some(i32::MAX))),
        (Dialect::DataFusion, ScalarValue::TimestampSecond(Some(0), Some("Europe/Zurich".into()))),
        (Dialect::Postgres, text("nul\0inside")),
        (Dialect::Postgres, ScalarValue::TimestampNanosecond(Some(1), None)),
        (Dialect::Postgres, ScalarValue::Float64(Some(f64::INFINITY))),
        (Dialect::MySql, ScalarValue::Boolean(Some(true))),
        (Dialect::MySql, ScalarValue::TimestampMicrosecond(Some(0), Some("UTC".into()))),
        (Dialect::Sqlite, ScalarValue::UInt64(Some(u64::MAX))),
        (Dialect::Sqlite, ScalarValue::Float64(Some(0.1 + 0.2))),
        (Dialect::Sqlite, ScalarValue::Decimal128(Some(10_i128.pow(15) + 1), 16, 2)),
        (Dialect::Sqlite, ScalarValue::Utf8(None)),
    ];
    for (dialect, value) in none {
        assert_eq!(literal(dialect, &value), None, "{dialect:?} {value:?}");
    }
}

fn sqlite(sql: &str) -> rusqlite::types::Value {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    connection.query_row(&format!("SELECT {sql}"), [], |row| row.get(0)).unwrap_or_else(|e| panic!("{e}: {sql}"))
}

proptest! {
    #[test]
    fn sqlite_reads_back_texts(value in any::<String>()) {
        let sql = literal(Dialect::Sqlite, &text(&value)).unwrap();
        prop_assert_eq!(sqlite(&sql), rusqlite::types::Value::Text(value));
    }

    #[test]
    fn sqlite_reads_back_integers(value in any::<i64>()) {
        let sql = literal(Dialect::Sqlite, &ScalarValue::Int64(Some(value))).unwrap();
        prop_assert_eq!(sqlite(&sql), rusqlite::types::Value::Integer(value));
    }

    #[test]
    fn sqlite_reads_back_the_doubles_that_are_written(
        digits in -999_999_999_999_999_i64..=999_999_999_999_999,
        power in -30_i32..30,
    ) {
        let value: f64 = format!("{digits}e{power}").parse().unwrap();
        if let Some(sql) = literal(Dialect::Sqlite, &ScalarValue::Float64(Some(value))) {
            prop_assert_eq!(sqlite(&sql), rusqlite::types::Value::Real(value));
        }
    }

    #[test]
    fn sqlite_reads_decimals_as_their_nearest_doubles(
        unscaled in -999_999_999_999_999_i128..=999_999_999_999_999,
        scale in 0_i8..10,
    ) {
        let value = ScalarValue::Decimal128(Some(unscaled), 15, scale);
        let sql = literal(Dialect::Sqlite, &value).unwrap();
        let nearest: f64 = sql.parse().unwrap();
        #[allow(clippy::cast_precision_loss, reason = "fifteen digits fit")]
        let back = match sqlite(&sql) {
            rusqlite::types::Value::Integer(v) => v as f64,
            rusqlite::types::Value::Real(v) => v,
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(back, nearest);
    }

    #[test]
    fn mysql_texts_are_plain_ascii(value in any::<String>()) {
        let sql = literal(Dialect::MySql, &text(&value)).unwrap();
        prop_assert!(sql.is_ascii() && !sql.contains('\\'), "{}", sql);
        prop_assert_eq!(sql.matches('\'').count() % 2, 0);
    }
}

#[test]
fn sqlite_reads_back_nul_and_bytes() {
    let sql = literal(Dialect::Sqlite, &text("a\0b")).unwrap();
    assert_eq!(sqlite(&sql), rusqlite::types::Value::Text("a\0b".into()));
    let sql = literal(Dialect::Sqlite, &ScalarValue::Binary(Some(vec![0, 255]))).unwrap();
    assert_eq!(sqlite(&sql), rusqlite::types::Value::Blob(vec![0, 255]));
}
