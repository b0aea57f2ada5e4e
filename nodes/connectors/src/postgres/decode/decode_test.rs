//! The decoder against hand-made bytes: right ones, cut ones, hostile ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, types::Decimal128Type},
    datatypes::{Field, Schema},
};
use greylag_protocol::ErrorCode;
use proptest::prelude::*;

use super::*;
use crate::server::columns::BATCH_BYTES_MAX;

/// Every scalar type with a value in its binary format.
fn samples() -> Vec<(Scalar, Vec<u8>)> {
    vec![
        (Scalar::Bool, vec![1]),
        (Scalar::Int2, vec![255, 254]),
        (Scalar::Int4, vec![0, 0, 1, 0]),
        (Scalar::Int8, vec![0, 0, 0, 0, 0, 0, 1, 0]),
        (Scalar::Float4, 1.5f32.to_be_bytes().to_vec()),
        (Scalar::Float8, 1.5f64.to_be_bytes().to_vec()),
        (Scalar::Numeric, numeric(&[1, 2345], 0, 0, 4)),
        (Scalar::Text, b"text".to_vec()),
        (Scalar::Bpchar, b"pad  ".to_vec()),
        (Scalar::Char, b"c".to_vec()),
        (Scalar::Name, b"name".to_vec()),
        (Scalar::Bytea, vec![0, 255]),
        (Scalar::Date, vec![0, 0, 0, 0]),
        (Scalar::Time, vec![0; 8]),
        (Scalar::Timestamp, vec![0; 8]),
        (Scalar::Timestamptz, vec![0; 8]),
        (Scalar::Interval, vec![0; 16]),
        (Scalar::Uuid, (0..16).collect()),
        (Scalar::Json, b"{}".to_vec()),
        (Scalar::Jsonb, b"\x01{}".to_vec()),
        (Scalar::Enum, b"ok".to_vec()),
    ]
}

fn numeric(groups: &[u16], weight: i16, sign: u16, display_scale: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16::try_from(groups.len()).unwrap().to_be_bytes());
    bytes.extend(weight.to_be_bytes());
    bytes.extend(sign.to_be_bytes());
    bytes.extend(display_scale.to_be_bytes());
    bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
    bytes
}

fn row(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut bytes = u16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    for field in fields {
        match field {
            None => bytes.extend((-1i32).to_be_bytes()),
            Some(value) => {
                bytes.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                bytes.extend(*value);
            }
        }
    }
    bytes
}

fn schema(types: impl IntoIterator<Item = DataType>) -> SchemaRef {
    let fields = types.into_iter().enumerate().map(|(i, t)| Field::new(format!("c{i}"), t, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn decoder(types: &[PgType]) -> RowDecoder {
    let arrow: Vec<DataType> = types.iter().map(|pg_type| pg_type.arrow(crate::postgres::types::NO_MODIFIER)).collect();
    RowDecoder::new(schema(arrow), types, 16).unwrap()
}

/// One value as `Decimal128(precision, scale)`.
fn decimal(bytes: &[u8], precision: u8, scale: i8) -> Result<i128> {
    let types = schema([DataType::Decimal128(precision, scale)]);
    let mut decoder = RowDecoder::new(types, &[PgType::Scalar(Scalar::Numeric)], 1).unwrap();
    decoder.row(&row(&[Some(bytes)]))?;
    Ok(decoder.finish()?.column(0).as_primitive::<Decimal128Type>().value(0))
}

#[test]
fn rows_of_every_type_and_their_arrays_are_read() {
    let samples = samples();
    let scalars: Vec<PgType> = samples.iter().map(|(scalar, _)| PgType::Scalar(*scalar)).collect();
    let mut decoder = decoder(&scalars);
    let fields: Vec<Option<&[u8]>> = samples.iter().map(|(_, bytes)| Some(bytes.as_slice())).collect();
    for _ in 0..15 {
        decoder.row(&row(&fields)).unwrap();
        assert!(!decoder.is_full());
    }
    decoder.row(&row(&vec![None; fields.len()])).unwrap();
    assert!(decoder.is_full());
    let batch = decoder.finish().unwrap();
    assert_eq!(batch.num_rows(), 16);
    for column in batch.columns() {
        assert_eq!((column.len(), column.null_count()), (16, 1));
        assert!(column.is_null(15));
    }
    assert!(decoder.is_empty());
    assert_eq!(batch.column_by_name("c8").unwrap().as_string::<i32>().value(0), "pad");
    assert_eq!(
        batch.column_by_name("c17").unwrap().as_string::<i32>().value(0),
        "00010203-0405-0607-0809-0a0b0c0d0e0f"
    );
    // A second batch from the same decoder starts afresh.
    decoder.row(&row(&fields)).unwrap();
    assert_eq!(decoder.finish().unwrap().num_rows(), 1);
}

#[test]
fn a_row_cut_anywhere_is_an_error() {
    for (scalar, bytes) in samples() {
        let whole = row(&[Some(&bytes), Some(&bytes)]);
        let types = [PgType::Scalar(scalar), PgType::Scalar(scalar)];
        for cut in 0..whole.len() {
            let error = decoder(&types).row(&whole[..cut]).unwrap_err();
            assert_eq!(error.code, ErrorCode::SourceUnreachable, "{scalar:?} cut at {cut}");
        }
        let longer = [whole.as_slice(), &[0]].concat();
        assert!(decoder(&types).row(&longer).is_err(), "{scalar:?} with a byte after it");
    }
}

#[test]
fn values_of_a_wrong_width_are_errors() {
    use Scalar as S;
    let fixed = [
        S::Bool,
        S::Int2,
        S::Int4,
        S::Int8,
        S::Float4,
        S::Float8,
        S::Date,
        S::Time,
        S::Timestamp,
        S::Interval,
        S::Uuid,
    ];
    for scalar in fixed {
        for width in [0usize, 3, 5, 17] {
            assert!(
                decoder(&[PgType::Scalar(scalar)]).row(&row(&[Some(&vec![0; width])])).is_err(),
                "{scalar:?} of {width}"
            );
        }
    }
    for (scalar, bytes) in [
        (S::Bool, &[2u8][..]),
        (S::Char, b"ab"),
        (S::Char, b"\xff"),
        (S::Jsonb, b""),
        (S::Jsonb, b"\x02{}"),
        (S::Time, &[255; 8]),
        (S::Numeric, &[0; 7]),
    ] {
        assert!(decoder(&[PgType::Scalar(scalar)]).row(&row(&[Some(bytes)])).is_err(), "{scalar:?} {bytes:?}");
    }
}

#[test]
fn text_that_is_not_utf8_is_an_error_even_when_split_between_rows() {
    for values in [[&b"\xff"[..], b"x"], [b"\xc3", b"\xa4"], [b"a\xe2\x82", b"\xac"]] {
        let mut decoder = decoder(&[PgType::Scalar(Scalar::Text)]);
        for value in values {
            decoder.row(&row(&[Some(value)])).unwrap();
        }
        let error = decoder.finish().unwrap_err();
        assert_eq!(error.code, ErrorCode::ValueOutOfRange);
        assert!(error.message.contains("`c0` holds text that is not UTF-8"), "{error}");
    }
}

#[test]
fn heads_that_lie_are_errors() {
    let mut decoder = decoder(&[PgType::Scalar(Scalar::Text)]);
    for hostile in [
        &[][..],
        &[0],
        &[0, 0],
        &[0, 2, 255, 255, 255, 255, 255, 255, 255, 255],
        &[255, 255],
        &[0, 1, 127, 255, 255, 255, b'x'],
        &[0, 1, 255, 255, 255, 254],
        &[0, 1, 128, 0, 0, 0],
    ] {
        assert_eq!(decoder.row(hostile).unwrap_err().code, ErrorCode::SourceUnreachable, "{hostile:?}");
    }
}

#[test]
fn numeric_heads_that_lie_are_errors() {
    for hostile in [
        numeric(&[10_000], 0, 0, 0),
        numeric(&[1, 65_535], 0, 0, 0),
        numeric(&[1], 0, 0x1234, 0),
        [numeric(&[1], 0, 0, 0), vec![0]].concat(),
        [vec![255, 255], numeric(&[1], 0, 0, 0)[2..].to_vec()].concat(),
    ] {
        assert_eq!(decimal(&hostile, 38, 2).unwrap_err().code, ErrorCode::SourceUnreachable, "{hostile:?}");
    }
    for (bytes, fits) in [
        (numeric(&[], 0, 0, 0), true),
        (numeric(&[0, 0, 0], i16::MAX, 0, 0), true),
        (numeric(&[1], i16::MAX, 0, 0), false),
        (numeric(&[1], i16::MIN, 0, 0), false),
        (numeric(&[9999; 9], 8, 0, 0), true),
        (numeric(&[9999; 10], 9, 0, 0), false),
        (numeric(&[1; 1000], 0, 0, 0), false),
        (numeric(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5], 12, 0x4000, 0), true),
        (numeric(&[], 0, 0xC000, 0), false),
        (numeric(&[], 0, 0xD000, 0), false),
        (numeric(&[], 0, 0xF000, 0), false),
        (numeric(&[1200], -1, 0, 2), true),
        (numeric(&[1230], -1, 0, 3), false),
        (numeric(&[12], -1, 0, 4), false),
        (numeric(&[5, 1200], 0, 0, 2), true),
        (numeric(&[5, 1200, 0, 0], 0, 0, 10), true),
        (numeric(&[5, 1200, 0, 1], 0, 0, 12), false),
    ] {
        match decimal(&bytes, 38, 2) {
            Ok(_) => assert!(fits, "{bytes:?}"),
            Err(error) => assert!(!fits && error.code == ErrorCode::ValueOutOfRange, "{bytes:?}: {error}"),
        }
    }
    assert_eq!(decimal(&numeric(&[5, 1200], 0, 0x4000, 2), 15, 2).unwrap(), -512);
    assert_eq!(decimal(&numeric(&[0, 5], 1, 0, 0), 38, 2).unwrap(), 500);
}

#[test]
fn lists_that_lie_are_errors_and_take_no_memory() {
    let list = |head: &[i32], rest: &[u8]| -> Vec<u8> {
        head.iter().flat_map(|n| n.to_be_bytes()).chain(rest.iter().copied()).collect()
    };
    let good = list(&[1, 0, 23, 2, 1, 4, 7, -1], &[]);
    let read = |bytes: &[u8]| {
        let mut decoder = decoder(&[PgType::Array(Scalar::Int4)]);
        decoder.row(&row(&[Some(bytes)])).and_then(|()| decoder.finish())
    };
    let batch = read(&good).unwrap();
    assert_eq!(batch.column(0).as_list::<i32>().value(0).len(), 2);
    assert_eq!(batch.column(0).as_list::<i32>().value(0).null_count(), 1);
    assert_eq!(read(&list(&[0, 0, 23], &[])).unwrap().column(0).as_list::<i32>().value(0).len(), 0);
    for cut in 0..good.len() {
        assert!(read(&good[..cut]).is_err(), "cut at {cut}");
    }
    for hostile in [
        list(&[1, 0, 23, i32::MAX, 1], &[]),
        list(&[1, 0, 23, -1, 1], &[]),
        list(&[-1, 0, 23, 0, 1], &[]),
        list(&[2, 0, 23, 1, 1, 1, 1, 4, 7], &[]),
        list(&[1, 0, 25, 1, 1, 4, 7], &[]),
        list(&[1, 0, 23, 1, 1, -2], &[]),
        list(&[1, 0, 23, 1, 1, 4, 7], &[0]),
        list(&[0, 0, 23, 1], &[]),
    ] {
        assert!(read(&hostile).is_err(), "{hostile:?}");
    }
}

#[test]
fn large_rows_close_a_batch_early() {
    let mut decoder = decoder(&[PgType::Scalar(Scalar::Bytea)]);
    let large = vec![7; BATCH_BYTES_MAX / 2];
    decoder.row(&row(&[Some(&large)])).unwrap();
    assert!(!decoder.is_full());
    decoder.row(&row(&[Some(&large)])).unwrap();
    assert!(decoder.is_full());
}

/// `value * 10^-scale` as `numeric_send` writes it.
fn encode(value: i128, scale: u32) -> Vec<u8> {
    let mut digits = value.unsigned_abs().to_string();
    while digits.len() <= scale as usize {
        digits.insert(0, '0');
    }
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    let whole = format!("{whole:0>width$}", width = whole.len().div_ceil(4) * 4);
    let fraction = format!("{fraction:0<width$}", width = fraction.len().div_ceil(4) * 4);
    let mut groups: Vec<u16> = [whole.as_bytes(), fraction.as_bytes()]
        .concat()
        .chunks(4)
        .map(|c| std::str::from_utf8(c).unwrap().parse().unwrap())
        .collect();
    let mut weight = i16::try_from(whole.len() / 4).unwrap() - 1;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    numeric(&groups, weight, if value < 0 { 0x4000 } else { 0 }, u16::try_from(scale).unwrap())
}

proptest! {
    #[test]
    fn decimals_survive_the_binary_format(
        value in prop_oneof![any::<i128>(), (-1_000_000i128..1_000_000), any::<i64>().prop_map(i128::from)],
        scale in 0u32..=38,
        room in 0i8..=38,
    ) {
        let limit = 10i128.pow(38);
        let value = value % limit;
        let scale_i8 = i8::try_from(scale).unwrap();
        prop_assert_eq!(decimal(&encode(value, scale), 38, scale_i8).unwrap(), value);
        // At another scale it is exact or refused.
        let moved = match room.cmp(&scale_i8) {
            std::cmp::Ordering::Less => {
                let unit = 10i128.pow(u32::try_from(scale_i8 - room).unwrap());
                (value % unit == 0).then(|| value / unit)
            }
            _ => value.checked_mul(10i128.pow(u32::try_from(room - scale_i8).unwrap())).filter(|v| v.abs() < limit),
        };
        prop_assert_eq!(decimal(&encode(value, scale), 38, room).ok(), moved);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), which in 0usize..42) {
        let scalar = samples()[which / 2].0;
        let pg_type = if which % 2 == 0 { PgType::Scalar(scalar) } else { PgType::Array(scalar) };
        let mut whole = decoder(&[pg_type]);
        let _ = whole.row(&bytes).and_then(|()| whole.finish());
        let mut one = decoder(&[pg_type]);
        let _ = one.row(&row(&[Some(&bytes)])).and_then(|()| one.finish());
    }
}
