//! Arrow batches for tests: one of all types that may travel, and strategies for any. What is drawn depends on the
//! seed alone, so a failing case is met again by running the test again.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod messages;

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, make_array},
    buffer::{BooleanBuffer, Buffer, NullBuffer},
    compute::cast,
    datatypes::{DataType, Field, IntervalUnit, Schema, TimeUnit},
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};

/// A fixed number of cases from a fixed seed.
pub fn cases(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(0x6772_6579), failure_persistence: None, ..Config::default() }
}

/// xorshift64*: small, and the same everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.roll() as u8).collect()
    }
}

/// Every type without children.
pub fn plain_types() -> Vec<DataType> {
    use DataType::*;
    let units = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    let mut types = vec![
        Null,
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float16,
        Float32,
        Float64,
        Date32,
        Date64,
        Utf8,
        LargeUtf8,
        Utf8View,
        Binary,
        LargeBinary,
        BinaryView,
        FixedSizeBinary(16),
        FixedSizeBinary(1),
        Decimal32(9, 2),
        Decimal64(18, -3),
        Decimal128(38, 10),
        Decimal128(1, 0),
        Decimal256(76, 76),
        Time32(units[0]),
        Time32(units[1]),
        Time64(units[2]),
        Time64(units[3]),
        Interval(IntervalUnit::YearMonth),
        Interval(IntervalUnit::DayTime),
        Interval(IntervalUnit::MonthDayNano),
    ];
    for unit in units {
        types.extend([Duration(unit), Timestamp(unit, None), Timestamp(unit, Some("Europe/Oslo".into()))]);
    }
    types
}

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, true))
}

/// Types with children, around this one.
pub fn nested_types(inner: DataType) -> Vec<DataType> {
    use DataType::*;
    let pair = vec![Field::new("keys", Utf8, false), Field::new("values", inner.clone(), true)];
    vec![
        List(item(inner.clone())),
        LargeList(item(inner.clone())),
        FixedSizeList(item(inner.clone()), 3),
        Struct(vec![Field::new("a", inner.clone(), true), Field::new("b", Int8, false)].into()),
        Struct(vec![Field::new("only", List(item(inner)), true)].into()),
        Map(Arc::new(Field::new("entries", Struct(pair.into()), false)), false),
    ]
}

/// One column of random values. A field that is not nullable gets no NULL.
pub fn column(field: &Field, rows: usize, dice: &mut Dice) -> ArrayRef {
    let data_type = field.data_type();
    let nulls = (field.is_nullable() && dice.below(3) > 0 && *data_type != DataType::Null).then(|| {
        let bits: BooleanBuffer = (0..rows).map(|_| dice.below(4) > 0).collect();
        NullBuffer::new(bits)
    });
    let build = |buffers: Vec<Buffer>, children: Vec<ArrayData>| {
        let builder = ArrayData::builder(data_type.clone()).len(rows).nulls(nulls.clone());
        make_array(builder.buffers(buffers).child_data(children).align_buffers(true).build().unwrap())
    };
    match data_type {
        DataType::Null => build(vec![], vec![]),
        DataType::Boolean => build(vec![dice.bytes(rows.div_ceil(8)).into()], vec![]),
        DataType::FixedSizeBinary(width) => build(vec![dice.bytes(rows * *width as usize).into()], vec![]),
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => cast(&words(rows, nulls.as_ref(), dice), data_type).unwrap(),
        DataType::List(inner) | DataType::Map(inner, _) => {
            let offsets = offsets(rows, dice);
            let values = column(inner, *offsets.last().unwrap(), dice);
            let offsets: Vec<i32> = offsets.into_iter().map(|o| o as i32).collect();
            build(vec![Buffer::from_vec(offsets)], vec![values.to_data()])
        }
        DataType::LargeList(inner) => {
            let offsets = offsets(rows, dice);
            let values = column(inner, *offsets.last().unwrap(), dice);
            let offsets: Vec<i64> = offsets.into_iter().map(|o| o as i64).collect();
            build(vec![Buffer::from_vec(offsets)], vec![values.to_data()])
        }
        DataType::FixedSizeList(inner, size) => {
            build(vec![], vec![column(inner, rows * *size as usize, dice).to_data()])
        }
        DataType::Struct(fields) => build(vec![], fields.iter().map(|f| column(f, rows, dice).to_data()).collect()),
        other => build(vec![dice.bytes(rows * other.primitive_width().unwrap()).into()], vec![]),
    }
}

fn offsets(rows: usize, dice: &mut Dice) -> Vec<usize> {
    let steps: Vec<usize> = (0..rows).map(|_| dice.below(4)).collect();
    std::iter::once(0)
        .chain(steps.iter().scan(0, |at, step| {
            *at += step;
            Some(*at)
        }))
        .collect()
}

fn words(rows: usize, nulls: Option<&NullBuffer>, dice: &mut Dice) -> StringArray {
    let word = |dice: &mut Dice| match dice.below(4) {
        0 => String::new(),
        1 => "grågås 雁".to_owned(),
        2 => format!("{:x}", dice.roll()),
        _ => format!("too long to be kept within a view: {:x}", dice.roll()),
    };
    (0..rows)
        .map(|i| {
            let word = word(dice);
            nulls.is_none_or(|n| n.is_valid(i)).then_some(word)
        })
        .collect()
}

pub fn batch(schema: &Arc<Schema>, rows: usize, seed: u64) -> RecordBatch {
    let mut dice = Dice::new(seed);
    let columns = schema.fields().iter().map(|f| column(f, rows, &mut dice)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).unwrap()
}

/// A column of every plain type, nullable and not, and of every nested type around a few.
pub fn batch_of_all_types(rows: usize) -> RecordBatch {
    let nested = [DataType::Int32, DataType::Utf8, DataType::Utf8View, DataType::Decimal128(12, 2), DataType::Null];
    let nested = nested.into_iter().flat_map(nested_types);
    let deeper = nested_types(DataType::Int16).into_iter().flat_map(nested_types);
    let mut fields: Vec<Field> = Vec::new();
    for data_type in plain_types().into_iter().chain(nested).chain(deeper) {
        let strict = data_type != DataType::Null;
        fields.push(Field::new(format!("maybe {data_type}"), data_type.clone(), true));
        if strict {
            fields.push(Field::new(format!("always {data_type}"), data_type, false));
        }
    }
    batch(&Arc::new(Schema::new(fields)), rows, rows as u64)
}

/// A few columns of any types.
pub fn column_types(dice: &mut Dice) -> Vec<Field> {
    let types = plain_types();
    let field = |i, dice: &mut Dice| Field::new(format!("c{i}"), types[dice.below(types.len())].clone(), true);
    (0..dice.below(4)).map(|i| field(i, dice)).collect()
}

pub fn any_type() -> impl Strategy<Value = DataType> {
    let plain = prop::sample::select(plain_types());
    plain.prop_recursive(3, 8, 1, |inner| inner.prop_flat_map(|t| prop::sample::select(nested_types(t))))
}

pub fn any_schema() -> impl Strategy<Value = Schema> {
    let metadata = || prop::collection::hash_map("[a-z]{0,5}", "[^\0]{0,9}", 0..3);
    let field =
        (any::<String>(), any_type(), any::<bool>(), metadata()).prop_map(|(name, data_type, nullable, metadata)| {
            let nullable = nullable || data_type == DataType::Null;
            Field::new(name, data_type, nullable).with_metadata(metadata)
        });
    (prop::collection::vec(field, 0..6), metadata())
        .prop_map(|(fields, metadata): (Vec<Field>, HashMap<_, _>)| Schema::new_with_metadata(fields, metadata))
}

pub fn any_batch() -> impl Strategy<Value = RecordBatch> {
    (any_schema(), 0usize..70, any::<u64>()).prop_map(|(schema, rows, seed)| batch(&Arc::new(schema), rows, seed))
}
