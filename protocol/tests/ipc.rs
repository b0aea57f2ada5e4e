//! Batches of every type that may travel come back equal, however they were sliced, nested or compressed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod generate;

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, DictionaryArray, Int32Array, RecordBatch, RecordBatchOptions, StringArray,
        StringViewArray, UInt32Array,
    },
    datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, UnionFields, UnionMode},
};
use generate::{any_batch, any_schema, batch_of_all_types, cases};
use greylag_protocol::{
    ErrorCode,
    ipc::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Decoder, Encoder, TYPE_DEPTH_MAX, decode_schema, encode_schema},
    messages::edge::Compression,
};
use proptest::prelude::*;

const CODECS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

fn round_trip(batches: &[RecordBatch], compression: Compression) {
    let mut encoder = Encoder::new(batches[0].schema(), compression).unwrap();
    let mut decoder = Decoder::new(&encoder.schema().unwrap()).unwrap();
    assert_eq!(decoder.schema(), batches[0].schema());
    for batch in batches {
        let payload = encoder.batch(batch).unwrap();
        assert_eq!(encoder.batch(batch).unwrap(), payload, "encoding must be repeatable: digests depend on it");
        let decoded = decoder.batch(payload.clone().into()).unwrap();
        assert_eq!(&decoded, batch);
        // A payload that does not start where the allocator likes is copied, not refused.
        let shifted: bytes::Bytes = [vec![0], payload].concat().into();
        assert_eq!(&decoder.batch(shifted.slice(1..)).unwrap(), batch);
    }
}

#[test]
fn every_type_comes_back_equal() {
    for compression in CODECS {
        for rows in [0, 1, 7, 64, 1000] {
            let batch = batch_of_all_types(rows);
            let slices = [batch.slice(0, rows / 2), batch.slice(rows / 3, rows - rows / 3), batch.clone()];
            round_trip(&slices, compression);
        }
    }
}

#[test]
fn rows_without_columns_are_counted() {
    let schema: SchemaRef = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(4321));
    let batch = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
    round_trip(&[batch], Compression::Lz4);
}

#[test]
fn views_are_cut_down_to_what_they_use() {
    let long: Vec<String> =
        (0..5000).map(|i| format!("a string that is longer than twelve bytes, number {i}")).collect();
    let all =
        RecordBatch::try_from_iter([("s", Arc::new(StringViewArray::from_iter_values(&long)) as ArrayRef)]).unwrap();
    let few = all.slice(4000, 3);
    let mut encoder = Encoder::new(all.schema(), Compression::None).unwrap();
    let payload = encoder.batch(&few).unwrap();
    assert!(payload.len() < 2048, "{} bytes for three strings", payload.len());
    let decoded = Decoder::new(&encoder.schema().unwrap()).unwrap().batch(payload.into()).unwrap();
    assert_eq!(decoded.column(0).as_string_view().value(2), long[4002]);
}

#[test]
fn uncompressed_batches_are_not_copied() {
    let column = Arc::new(Int32Array::from_iter_values(0..10_000)) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
    let mut encoder = Encoder::new(batch.schema(), Compression::None).unwrap();
    let payload: bytes::Bytes = encoder.batch(&batch).unwrap().into();
    let (from, to) = (payload.as_ptr() as usize, payload.as_ptr() as usize + payload.len());
    let decoded = Decoder::new(&encoder.schema().unwrap()).unwrap().batch(payload).unwrap();
    let values = decoded.column(0).as_primitive::<Int32Type>().values().as_ptr() as usize;
    assert!((from..to).contains(&values));
}

#[test]
fn types_that_cannot_travel_are_refused_by_name() {
    let dictionary: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    let item = |data_type| Arc::new(Field::new("item", data_type, true));
    let deep = (0..TYPE_DEPTH_MAX).fold(DataType::Int8, |inner, _| DataType::List(item(inner)));
    let run_ends = Arc::new(Field::new("run_ends", DataType::Int32, false));
    let refused = [
        dictionary.data_type().clone(),
        DataType::List(item(dictionary.data_type().clone())),
        DataType::RunEndEncoded(run_ends, item(DataType::Int8)),
        DataType::ListView(item(DataType::Int8)),
        DataType::Union(UnionFields::empty(), UnionMode::Sparse),
        DataType::FixedSizeBinary(0),
        DataType::Decimal128(39, 0),
        DataType::Decimal128(5, 6),
        deep,
    ];
    for data_type in refused {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("odd", data_type.clone(), true)]));
        let error = encode_schema(&schema).unwrap_err();
        assert_eq!(error.code, ErrorCode::UnsupportedType, "{data_type}");
        assert!(error.message.contains("`odd`"), "{error}");
    }
}

#[test]
fn wide_schemas_fit_their_own_limits() {
    for name in ["", "a", "a column with a rather long name, as reports have them"] {
        let fields: Vec<Field> = (0..2000).map(|_| Field::new(name, DataType::Int64, true)).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        assert_eq!(decode_schema(&encode_schema(&schema).unwrap()).unwrap(), schema);
    }
    let item = |data_type| Arc::new(Field::new("", data_type, true));
    let deep = (1..TYPE_DEPTH_MAX).fold(DataType::Int8, |inner, _| DataType::List(item(inner)));
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("deep", deep, true)]));
    assert_eq!(decode_schema(&encode_schema(&schema).unwrap()).unwrap(), schema);
}

#[test]
fn batches_over_the_limits_are_refused() {
    let zeros = Arc::new(UInt32Array::from(vec![0; BATCH_BYTES_MAX / 4 + 1])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("n", zeros)]).unwrap().slice(0, BATCH_ROWS_MAX);
    for compression in CODECS {
        let mut encoder = Encoder::new(batch.schema(), compression).unwrap();
        let two = RecordBatch::try_from_iter([("n", batch.column(0).clone()), ("m", batch.column(0).clone())]).unwrap();
        let mut both = Encoder::new(two.schema(), compression).unwrap();
        assert_eq!(both.batch(&two).unwrap_err().code, ErrorCode::FrameTooLarge, "{compression:?}");
        if compression != Compression::None {
            assert_eq!(encoder.batch(&batch).map(|p| p.len() < 1 << 20), Ok(true));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(BATCH_ROWS_MAX + 1));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    let mut encoder = Encoder::new(rows.schema(), Compression::None).unwrap();
    assert_eq!(encoder.batch(&rows).unwrap_err().code, ErrorCode::FrameTooLarge);
}

#[test]
fn a_batch_of_another_schema_is_not_written() {
    let numbers = RecordBatch::try_from_iter([("n", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
    let words = RecordBatch::try_from_iter([("n", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    let mut encoder = Encoder::new(numbers.schema(), Compression::None).unwrap();
    assert_eq!(encoder.batch(&words).unwrap_err().code, ErrorCode::Internal);
    assert_eq!(encoder.batch(&numbers).map(|p| p.is_empty()), Ok(false), "the encoder goes on working");
}

#[test]
fn a_message_of_the_wrong_kind_is_refused() {
    let batch = batch_of_all_types(3);
    let mut encoder = Encoder::new(batch.schema(), Compression::None).unwrap();
    let (schema, payload) = (encoder.schema().unwrap(), encoder.batch(&batch).unwrap());
    assert_eq!(Decoder::new(&payload).unwrap_err().code, ErrorCode::MalformedFrame);
    let mut decoder = Decoder::new(&schema).unwrap();
    assert_eq!(decoder.batch(schema.clone().into()).unwrap_err().code, ErrorCode::MalformedFrame);
    for twice in [[schema.clone(), schema.clone()].concat(), [schema, payload.clone()].concat()] {
        assert_eq!(decode_schema(&twice).unwrap_err().code, ErrorCode::MalformedFrame);
    }
    let twice = [payload.clone(), payload].concat();
    assert_eq!(decoder.batch(twice.into()).unwrap_err().code, ErrorCode::MalformedFrame);
}

#[test]
fn a_batch_of_another_schema_is_refused() {
    let wide = batch_of_all_types(5);
    let mut encoder = Encoder::new(wide.schema(), Compression::None).unwrap();
    let payload = bytes::Bytes::from(encoder.batch(&wide).unwrap());
    for take in [0, 1, wide.num_columns() - 1] {
        let narrow = wide.project(&(0..take).collect::<Vec<_>>()).unwrap();
        let schema = encode_schema(&narrow.schema()).unwrap();
        let error = Decoder::new(&schema).unwrap().batch(payload.clone()).unwrap_err();
        assert_eq!(error.code, ErrorCode::MalformedFrame, "{take}");
    }
}

#[test]
fn nulls_under_a_not_null_column_are_refused() {
    let batch =
        RecordBatch::try_from_iter([("n", Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef)]).unwrap();
    let mut encoder = Encoder::new(batch.schema(), Compression::None).unwrap();
    let payload = encoder.batch(&batch).unwrap();
    let strict: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, false)]));
    let mut decoder = Decoder::new(&encode_schema(&strict).unwrap()).unwrap();
    assert_eq!(decoder.batch(payload.into()).unwrap_err().code, ErrorCode::MalformedFrame);
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn any_batch_comes_back_equal(batch in any_batch(), offset in 0usize..20, len in 0usize..40, codec in 0usize..3) {
        let offset = offset.min(batch.num_rows());
        let slice = batch.slice(offset, len.min(batch.num_rows() - offset));
        round_trip(&[batch, slice], CODECS[codec]);
    }

    #[test]
    fn any_schema_comes_back_equal(schema in any_schema()) {
        let schema: SchemaRef = Arc::new(schema);
        prop_assert_eq!(decode_schema(&encode_schema(&schema).unwrap()).unwrap(), schema);
    }
}
