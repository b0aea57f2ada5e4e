//! Every supported type with its awkward values, and every refusal.

use std::{fmt::Write, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
        Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, RecordBatch, StringArray,
        Time64MicrosecondArray, TimestampMicrosecondArray,
    },
    compute::concat_batches,
    datatypes::{DataType, Int32Type, IntervalMonthDayNano, Schema, TimeUnit},
};
use greylag_protocol::ErrorCode;
use proptest::prelude::*;

use super::{Fixture, failure, query, schema_of};

/// Columns of the torture table: PostgreSQL type, values as SQL, and what must be delivered.
fn torture() -> Vec<(&'static str, [&'static str; 3], ArrayRef)> {
    let micros = |values: [Option<i64>; 3]| TimestampMicrosecondArray::from(values.to_vec());
    let text = |values: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let decimal = |values: [Option<i128>; 3], p, s| -> ArrayRef {
        Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(p, s).unwrap())
    };
    let nines = 10i128.pow(38) - 1;
    vec![
        ("boolean", ["true", "false", "NULL"], Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        (
            "smallint",
            ["-32768", "32767", "NULL"],
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None])),
        ),
        (
            "integer",
            ["-2147483648", "2147483647", "NULL"],
            Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
        ),
        (
            "bigint",
            ["-9223372036854775808", "9223372036854775807", "NULL"],
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
        ),
        ("real", ["'NaN'", "1.1", "'-Infinity'"], Arc::new(Float32Array::from(vec![f32::NAN, 1.1, f32::NEG_INFINITY]))),
        (
            "double precision",
            ["'-0'", "1.7976931348623157e308", "5e-324"],
            Arc::new(Float64Array::from(vec![-0.0, f64::MAX, 5e-324])),
        ),
        (
            "numeric(15,2)",
            ["-9999999999999.99", "0.01", "NULL"],
            decimal([Some(-999_999_999_999_999), Some(1), None], 15, 2),
        ),
        (
            "numeric(38,0)",
            ["-99999999999999999999999999999999999999", "99999999999999999999999999999999999999", "0"],
            decimal([Some(-nines), Some(nines), Some(0)], 38, 0),
        ),
        (
            "numeric(38,38)",
            ["-0.99999999999999999999999999999999999999", "0.00000000000000000000000000000000000001", "0"],
            decimal([Some(-nines), Some(1), Some(0)], 38, 38),
        ),
        ("numeric(2,-3)", ["99000", "-1000", "499"], decimal([Some(99_000), Some(-1000), Some(0)], 5, 0)),
        ("numeric(3,5)", ["0.00999", "-0.00001", "NULL"], decimal([Some(999), Some(-1), None], 5, 5)),
        ("numeric", ["1234567890123456789012345678.0123456789", "-1", "1.50"], {
            decimal(
                [Some(12_345_678_901_234_567_890_123_456_780_123_456_789), Some(-10_000_000_000), Some(15_000_000_000)],
                38,
                10,
            )
        }),
        ("text", ["''", "E'tab\\tquote''\\\\ \u{1F986} e\u{301}'", "NULL"], {
            text([Some(""), Some("tab\tquote'\\ \u{1F986} e\u{301}"), None])
        }),
        ("varchar(5)", ["'abc  '", "'     '", "''"], text([Some("abc  "), Some("     "), Some("")])),
        ("char(5)", ["'abc  '", "' x'", "''"], text([Some("abc"), Some(" x"), Some("")])),
        ("\"char\"", ["'x'", "''", "NULL"], text([Some("x"), Some(""), None])),
        ("name", ["'n'", "'a b'", "NULL"], text([Some("n"), Some("a b"), None])),
        ("bytea", ["'\\x00ff5c'", "''", "NULL"], {
            Arc::new(BinaryArray::from(vec![Some(&[0u8, 255, 0x5c][..]), Some(&[][..]), None]))
        }),
        (
            "date",
            ["'1969-12-31'", "'4713-01-01 BC'", "'5874897-12-31'"],
            Arc::new(Date32Array::from(vec![-1, -2_440_550, 2_145_042_905])),
        ),
        ("time", ["'00:00:00'", "'23:59:59.999999'", "NULL"], {
            Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None]))
        }),
        (
            "timestamp",
            ["'1969-12-31 23:59:59.999999'", "'0001-01-01 00:00:00 BC'", "'294247-01-10 04:00:54.775807'"],
            Arc::new(micros([Some(-1), Some(-62_167_219_200_000_000), Some(i64::MAX)])),
        ),
        (
            "timestamptz",
            ["'2024-02-29 12:00:00+05:30'", "'2300-01-01 00:00:00+00'", "NULL"],
            Arc::new(micros([Some(1_709_188_200_000_000), Some(10_413_792_000_000_000), None]).with_timezone("UTC")),
        ),
        ("interval", ["'1 year 2 mons -3 days 04:05:06.000007'", "'-00:00:00.000001'", "NULL"], {
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(IntervalMonthDayNano::new(14, -3, 14_706_000_007_000)),
                Some(IntervalMonthDayNano::new(0, 0, -1000)),
                None,
            ]))
        }),
        (
            "uuid",
            ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'00000000-0000-0000-0000-000000000000'", "NULL"],
            text([Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), Some("00000000-0000-0000-0000-000000000000"), None]),
        ),
        (
            "json",
            ["'{\"b\": 1,  \"a\":2}'", "'null'", "NULL"],
            text([Some("{\"b\": 1,  \"a\":2}"), Some("null"), None]),
        ),
        ("jsonb", ["'{\"b\": 1,  \"a\":2}'", "'[]'", "NULL"], text([Some("{\"a\": 2, \"b\": 1}"), Some("[]"), None])),
        ("mood", ["'sad'", "'ok'", "NULL"], text([Some("sad"), Some("ok"), None])),
        ("price", ["1.5", "2.25", "NULL"], decimal([Some(150), Some(225), None], 9, 2)),
        ("integer[]", ["'{1,NULL,3}'", "'{}'", "NULL"], {
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
                Some(vec![Some(1), None, Some(3)]),
                Some(vec![]),
                None,
            ]))
        }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_is_delivered_exactly() {
    let columns = torture();
    let mut setup =
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN money2 AS numeric(9,2); CREATE DOMAIN price AS money2 CHECK (value > 0);
         CREATE TABLE torture (".to_owned();
    let list: Vec<String> = columns.iter().enumerate().map(|(i, (t, ..))| format!("c{i} {t}")).collect();
    write!(setup, "{});", list.join(", ")).unwrap();
    for row in 0..3 {
        let values: Vec<&str> = columns.iter().map(|(_, values, _)| values[row]).collect();
        write!(setup, "INSERT INTO torture VALUES ({});", values.join(", ")).unwrap();
    }
    let Some(fixture) = Fixture::new("torture", &setup).await else { return };

    let schema = fixture.connector.schema().await.unwrap();
    let table = schema.tables.iter().find(|t| t.name == "torture").unwrap();
    assert!(table.unsupported.is_empty(), "{:?}", table.unsupported);
    let sql = format!("SELECT * FROM {}.torture ORDER BY ctid", fixture.schema);
    let batches = fixture.rows(&sql, table.columns.0.clone()).await.unwrap();
    let batch = concat_batches(&table.columns.0, &batches).unwrap();
    for (i, (pg_type, _, expected)) in columns.iter().enumerate() {
        assert_eq!(table.columns.0.field(i).data_type(), expected.data_type(), "{pg_type}");
        assert_eq!(batch.column(i).to_data(), expected.to_data(), "{pg_type}");
    }
    // The other shapes of text and bytes hold the same.
    let shapes = [DataType::LargeUtf8, DataType::Utf8View, DataType::LargeBinary, DataType::BinaryView];
    let schema = schema_of(&shapes);
    let batches = fixture.rows("SELECT 'a'::text, 'b'::text, 'c'::bytea, 'd'::bytea", schema.clone()).await.unwrap();
    let batch = concat_batches(&schema, &batches).unwrap();
    for (index, expected) in ["a", "b", "c", "d"].iter().enumerate() {
        let plain = arrow::compute::cast(batch.column(index), &DataType::Utf8).unwrap();
        assert_eq!(plain.as_any().downcast_ref::<StringArray>().unwrap().value(0), *expected);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let Some(fixture) = Fixture::new("misfits", "").await else { return };
    let decimal = DataType::Decimal128(10, 2);
    for (sql, data_type) in [
        ("'NaN'::numeric", decimal.clone()),
        ("'Infinity'::numeric", decimal.clone()),
        ("'-Infinity'::numeric", decimal.clone()),
        ("1.005::numeric", decimal.clone()),
        ("100000000::numeric", decimal.clone()),
        ("-100000000::numeric", decimal.clone()),
        ("1e500::numeric", decimal.clone()),
        ("1e-500::numeric", decimal.clone()),
        ("0.5::numeric", DataType::Int64),
        ("9223372036854775808::numeric", DataType::Int64),
        ("2147483647::int", DataType::Decimal128(9, 0)),
        ("'infinity'::date", DataType::Date32),
        ("'-infinity'::date", DataType::Date32),
        ("'infinity'::timestamp", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("'294276-12-31'::timestamp", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("'-infinity'::timestamptz", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        ("'24:00:00'::time", DataType::Time64(TimeUnit::Microsecond)),
        ("'100000000 hours'::interval", DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano)),
        ("'{{1,2},{3,4}}'::int[]", DataType::new_list(DataType::Int32, true)),
    ] {
        let error =
            failure(&fixture.connector, query(&format!("SELECT 1, {sql}"), schema_of(&[DataType::Int32, data_type])))
                .await;
        assert_eq!(error.code, ErrorCode::ValueOutOfRange, "{sql}: {error}");
        assert!(error.message.contains("`c1`"), "{sql}: {error}");
    }
    let not_null = Arc::new(Schema::new(vec![arrow::datatypes::Field::new("n", DataType::Int32, false)]));
    let error = failure(&fixture.connector, query("SELECT NULL::int", not_null)).await;
    assert_eq!(error.code, ErrorCode::ValueOutOfRange);
    assert!(error.message.contains("`n` holds NULL"), "{error}");
}

#[tokio::test]
async fn types_that_differ_are_refused_before_the_first_row() {
    let Some(fixture) = Fixture::new("mismatch", "").await else { return };
    for (sql, data_type) in [
        ("1::int8", DataType::Int32),
        ("1::float8", DataType::Float32),
        ("'1'::text", DataType::Int64),
        ("1::int", DataType::Utf8),
        ("now()", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("now()::timestamp", DataType::Timestamp(TimeUnit::Nanosecond, None)),
        ("'(1,2)'::point", DataType::Utf8),
        ("1::money", DataType::Decimal128(10, 2)),
        ("'x'::text", DataType::Binary),
    ] {
        let sql = format!("SELECT {sql}");
        let error = fixture.connector.query(query(&sql, schema_of(&[data_type]))).await.err().expect(&sql);
        assert_eq!(error.code, ErrorCode::UnsupportedType, "{sql}: {error}");
    }
    let two = fixture.connector.query(query("SELECT 1", schema_of(&[DataType::Int32, DataType::Int32]))).await;
    assert_eq!(two.err().unwrap().code, ErrorCode::SourceRefused);
    // Wider integers, and whole numerics as integers, are no difference.
    let schema =
        schema_of(&[DataType::Int64, DataType::Int64, DataType::Decimal128(12, 2), DataType::Float64, DataType::Int64]);
    let sql = "SELECT 7::int2, 7::int4, 7::int8, 0.5::float4, sum(x) FROM (VALUES (3::int8), (4::int8)) v(x)";
    let batches = fixture.rows(sql, schema).await.unwrap();
    assert_eq!(batches[0].column(4).as_any().downcast_ref::<Int64Array>().unwrap().value(0), 7);
    // No columns, but rows.
    let batches = fixture.rows("SELECT FROM generate_series(1, 3000)", schema_of(&[])).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3000);
}

/// A number as a person would write it: sign, up to 40 digits before and after the point, an exponent now and then.
fn number() -> impl Strategy<Value = String> {
    let digits = |max: usize| {
        proptest::collection::vec(prop_oneof![4 => Just(b'0'), 6 => b'0'..=b'9', 2 => Just(b'9')], 0..=max)
    };
    (any::<bool>(), digits(40), digits(12), prop_oneof![6 => Just(0i32), 1 => -12..12i32]).prop_map(
        |(negative, whole, fraction, exponent)| {
            let text = |digits: Vec<u8>| String::from_utf8(digits).unwrap();
            let sign = if negative { "-" } else { "" };
            format!("{sign}0{}.{}0e{exponent}", text(whole), text(fraction))
        },
    )
}

#[test]
fn numerics_agree_with_the_servers_own_text() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(fixture) = runtime.block_on(Fixture::new("numerics", "")) else { return };
    let decimals = [(38i8, 10i8), (15, 2), (38, 0), (38, 38), (9, 4)];
    let cases = ProptestConfig { cases: 40, ..ProptestConfig::default() };
    proptest!(cases, |(numbers in proptest::collection::vec(number(), 200), which in 0..decimals.len())| {
        let (precision, scale) = decimals[which];
        let data_type = DataType::Decimal128(precision.cast_unsigned(), scale);
        runtime.block_on(async {
            let list = numbers.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(",");
            let from = format!("FROM unnest(ARRAY[{list}]::numeric[]) WITH ORDINALITY u(n, i)");
            // The server says which of them fit, in its own arithmetic, and how they read.
            let fits = format!("abs(n) < 1e{}::numeric AND n = round(n, {scale})", precision - scale);
            let sql = format!("SELECT n, round(n, {scale})::text {from} WHERE {fits} ORDER BY i");
            let schema = schema_of(&[data_type.clone(), DataType::Utf8]);
            for batch in fixture.rows(&sql, schema).await.unwrap() {
                let values = batch.column(0).as_any().downcast_ref::<Decimal128Array>().unwrap();
                let texts = batch.column(1).as_any().downcast_ref::<StringArray>().unwrap();
                for row in 0..batch.num_rows() {
                    assert_eq!(values.value_as_string(row), texts.value(row));
                }
            }
            let sql = format!("SELECT n::text {from} WHERE NOT ({fits}) ORDER BY i LIMIT 5");
            for batch in fixture.rows(&sql, schema_of(&[DataType::Utf8])).await.unwrap() {
                let texts = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap();
                for text in texts.iter().flatten() {
                    let sql = format!("SELECT {text}::numeric");
                    let error = failure(&fixture.connector, query(&sql, schema_of(std::slice::from_ref(&data_type)))).await;
                    assert_eq!(error.code, ErrorCode::ValueOutOfRange, "{text} as {data_type}");
                }
            }
        });
    });
}
