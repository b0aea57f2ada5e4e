//! Tables for the tests: TPC-H at scale 0.01, generated once, and small tables full of edge cases.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
        StringArray,
    },
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub key: Vec<String>,
    pub batches: Vec<RecordBatch>,
}

impl Table {
    pub fn new(name: &str, key: &[&str], batches: Vec<RecordBatch>) -> Self {
        Self { name: name.into(), key: key.iter().map(|k| (*k).into()).collect(), batches }
    }

    pub fn of(name: &str, key: &[&str], columns: Vec<(&str, ArrayRef)>) -> Self {
        let fields: Vec<Field> =
            columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true)).collect();
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        Self::new(name, key, vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()])
    }

    pub fn schema(&self) -> SchemaRef {
        self.batches[0].schema()
    }
}

const SCALE: f64 = 0.01;

fn plain<T>(iterator: impl Iterator<Item = Result<RecordBatch, T>>) -> Vec<RecordBatch>
where
    T: std::fmt::Debug,
{
    iterator.map(|batch| plain_text(&batch.unwrap())).collect()
}

fn plain_text(batch: &RecordBatch) -> RecordBatch {
    let text = |t: &DataType| if *t == DataType::Utf8View { DataType::Utf8 } else { t.clone() };
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|f| Field::new(f.name(), text(f.data_type()), f.is_nullable()));
    let columns = batch.columns().iter().map(|c| cast(c, &text(c.data_type())).unwrap()).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

static TPCH: LazyLock<Vec<Table>> = LazyLock::new(|| {
    vec![
        Table::new("region", &["r_regionkey"], plain(RegionArrow::new(RegionGenerator::new(SCALE, 1, 1)))),
        Table::new("nation", &["n_nationkey"], plain(NationArrow::new(NationGenerator::new(SCALE, 1, 1)))),
        Table::new("supplier", &["s_suppkey"], plain(SupplierArrow::new(SupplierGenerator::new(SCALE, 1, 1)))),
        Table::new("customer", &["c_custkey"], plain(CustomerArrow::new(CustomerGenerator::new(SCALE, 1, 1)))),
        Table::new("part", &["p_partkey"], plain(PartArrow::new(PartGenerator::new(SCALE, 1, 1)))),
        Table::new(
            "partsupp",
            &["ps_partkey", "ps_suppkey"],
            plain(PartSuppArrow::new(PartSuppGenerator::new(SCALE, 1, 1))),
        ),
        Table::new("orders", &["o_orderkey"], plain(OrderArrow::new(OrderGenerator::new(SCALE, 1, 1)))),
        Table::new(
            "lineitem",
            &["l_orderkey", "l_linenumber"],
            plain(LineItemArrow::new(LineItemGenerator::new(SCALE, 1, 1))),
        ),
    ]
});

/// Tables of TPC-H by name.
pub fn tpch(names: &[&str]) -> Vec<Table> {
    TPCH.iter().filter(|table| names.contains(&table.name.as_str())).cloned().collect()
}

pub const TPCH_NAMES: [&str; 8] =
    ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

/// NULLs, duplicates, empty texts, trailing blanks, case, marks, extremes.
pub fn odd() -> Table {
    let text = [
        Some(""),
        None,
        Some("a"),
        Some("A"),
        Some("a "),
        Some("ab"),
        Some("aB"),
        Some("%"),
        Some("_"),
        Some("a%b"),
        Some("it's"),
        Some("back\\slash"),
        Some("ä"),
        Some("Ä"),
        Some("日本"),
        Some("z"),
        Some("\u{10FFFF}"),
        None,
        Some("a"),
        Some("new\nline"),
    ];
    let ints = [
        Some(0),
        Some(1),
        None,
        Some(-1),
        Some(i64::MAX),
        Some(i64::MIN),
        Some(1),
        Some(2),
        Some(3),
        None,
        Some(7),
        Some(7),
        Some(100),
        Some(-100),
        Some(5),
        Some(6),
        Some(0),
        Some(42),
        Some(1),
        Some(2),
    ];
    let small = [
        None,
        Some(1),
        Some(2),
        Some(3),
        None,
        Some(1),
        Some(2),
        Some(3),
        Some(4),
        Some(i32::MAX),
        Some(i32::MIN),
        Some(0),
        Some(-1),
        Some(1),
        Some(2),
        None,
        Some(9),
        Some(9),
        Some(8),
        Some(7),
    ];
    let doubles = [
        Some(0.0),
        // Not minus zero: SQLite stores it as zero, so the sources would not hold the same.
        Some(0.25),
        Some(1.5),
        Some(-1.5),
        None,
        Some(0.1),
        Some(1e15),
        Some(-1e15),
        Some(0.30000000000000004),
        Some(2.5),
        Some(1.0),
        Some(3.25),
        None,
        Some(100.0),
        Some(0.5),
        Some(-0.5),
        Some(7.0),
        Some(8.125),
        Some(f64::MAX),
        Some(f64::MIN),
    ];
    let money = [
        Some(0),
        Some(5),
        Some(-5),
        None,
        Some(100),
        Some(99_999_999),
        Some(-99_999_999),
        Some(1),
        Some(10),
        Some(101),
        Some(50),
        Some(5),
        None,
        Some(250),
        Some(333),
        Some(1000),
        Some(12345),
        Some(7),
        Some(70),
        Some(700),
    ];
    let days = [
        Some(0),
        Some(9204),
        None,
        Some(-1),
        Some(9204),
        Some(10000),
        Some(11016),
        Some(20000),
        Some(-10000),
        Some(1),
        None,
        Some(9205),
        Some(9203),
        Some(8000),
        Some(7000),
        Some(2),
        Some(3),
        Some(9204),
        Some(5),
        Some(6),
    ];
    let flags = [Some(true), Some(false), None];
    Table::of(
        "odd",
        &["id"],
        vec![
            ("id", Arc::new(Int64Array::from((0..20).collect::<Vec<_>>())) as ArrayRef),
            ("t", Arc::new(StringArray::from(text.to_vec()))),
            ("n", Arc::new(Int64Array::from(ints.to_vec()))),
            ("s", Arc::new(Int32Array::from(small.to_vec()))),
            ("f", Arc::new(Float64Array::from(doubles.to_vec()))),
            ("m", Arc::new(Decimal128Array::from(money.to_vec()).with_precision_and_scale(12, 2).unwrap())),
            ("d", Arc::new(Date32Array::from(days.to_vec()))),
            ("b", Arc::new(BooleanArray::from((0..20).map(|i| flags[i % 3]).collect::<Vec<_>>()))),
        ],
    )
}

/// Two tables for NULL logic: keys that are NULL, missing and doubled on both sides.
pub fn null_tables() -> Vec<Table> {
    let ints = |values: &[Option<i64>]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let texts = |values: &[Option<&str>]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    vec![
        Table::of(
            "l",
            &["id"],
            vec![
                ("id", ints(&[Some(1), Some(2), Some(3), Some(4), Some(5), Some(6)])),
                ("x", ints(&[Some(1), Some(2), None, Some(2), Some(3), None])),
                ("u", texts(&[Some("a"), None, Some(""), Some("A"), Some("a"), Some("b")])),
            ],
        ),
        Table::of(
            "r",
            &["k"],
            vec![
                ("k", ints(&[Some(1), Some(2), Some(4), Some(7)])),
                ("y", ints(&[None, Some(2), Some(9), Some(1)])),
                ("v", texts(&[Some("a"), Some("b"), None, Some("A")])),
            ],
        ),
        Table::of("empty", &["k"], vec![("k", ints(&[])), ("y", ints(&[])), ("v", texts(&[]))]),
    ]
}
