//! The suite's tables, as Arrow batches.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch,
        StringArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};

/// Rows of [`Fixture::Many`]: with its text some 100 MB, so that nobody holds it by accident.
pub(crate) const MANY_ROWS: usize = 300_000;
/// Columns of [`Fixture::Wide`].
pub(crate) const WIDE_COLUMNS: usize = 300;
/// Rows of [`Fixture::Wide`].
pub(crate) const WIDE_ROWS: usize = 5;
/// Rows of a batch while loading.
const LOAD_ROWS: usize = 10_000;

/// One table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fixture {
    /// A column of each common type, with NULLs, extremes, and texts of many kinds. Key: `id`.
    Everything,
    /// The same columns and not a row.
    Empty,
    /// Many columns.
    Wide,
    /// `id` from 0 and a long text made of it.
    Many,
}

impl Fixture {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Empty => "empty",
            Self::Wide => "wide",
            Self::Many => "many",
        }
    }

    pub(crate) fn schema(self) -> SchemaRef {
        let fields = match self {
            Self::Everything | Self::Empty => vec![
                Field::new("id", DataType::Int64, false),
                Field::new("flag", DataType::Boolean, true),
                Field::new("whole", DataType::Int64, true),
                Field::new("real", DataType::Float64, true),
                Field::new("amount", DataType::Decimal128(15, 2), true),
                Field::new("day", DataType::Date32, true),
                Field::new("moment", DataType::Timestamp(TimeUnit::Microsecond, None), true),
                Field::new("words", DataType::Utf8, true),
                Field::new("bytes", DataType::Binary, true),
            ],
            Self::Wide => (0..WIDE_COLUMNS).map(|at| Field::new(format!("c{at}"), DataType::Int64, at > 0)).collect(),
            Self::Many => vec![Field::new("id", DataType::Int64, false), Field::new("words", DataType::Utf8, true)],
        };
        Arc::new(Schema::new(fields))
    }

    /// The rows, in order of the first column, which is the key.
    pub(crate) fn batches(self) -> Box<dyn Iterator<Item = RecordBatch> + Send> {
        match self {
            Self::Everything => Box::new(std::iter::once(everything())),
            Self::Empty => Box::new(std::iter::empty()),
            Self::Wide => Box::new(std::iter::once(wide())),
            Self::Many => Box::new((0..MANY_ROWS).step_by(LOAD_ROWS).map(many)),
        }
    }
}

/// Dates from 0001 to 9999 and what lies around the ends of eras, leap days and 1970.
fn everything() -> RecordBatch {
    let days = [None, Some(-719_162), Some(2_932_896), Some(0), Some(-1), Some(11_016), Some(19_782), Some(9_204)];
    // 0001-01-01 00:00:00, 9999-12-31 23:59:59.999999, and both sides of 1970 by a microsecond.
    let moments = [
        None,
        Some(-62_135_596_800_000_000),
        Some(253_402_300_799_999_999),
        Some(0),
        Some(-1),
        Some(1),
        Some(951_782_400_123_456),
        Some(795_225_600_000_000),
    ];
    let long = "Gänse fliegen in Formation. ".repeat(10_000);
    let words = [
        None,
        Some(""),
        Some(" lead and trail "),
        Some("it's \"quoted\", `so` \\ and % _ on"),
        Some("line\nbreak, tab\tand \r return"),
        Some("größe 雁 🪿 e\u{301} \u{7f} \u{fffd}"),
        Some(long.as_str()),
        Some("NULL"),
    ];
    let all_bytes: Vec<u8> = (0..=255).collect();
    let zeros = vec![0; 100_000];
    let bytes: [Option<&[u8]>; 8] = [
        None,
        Some(b""),
        Some(b"\0"),
        Some(&all_bytes),
        Some(b"\\x00 \\000"),
        Some(b"'"),
        Some(&zeros),
        Some(&[0xff, 0xfe]),
    ];
    let amounts = [
        None,
        Some(999_999_999_999_999),
        Some(-999_999_999_999_999),
        Some(0),
        Some(1),
        Some(-1),
        Some(17_366_547),
        Some(90_100),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(1..=8)),
        Arc::new(BooleanArray::from(vec![None, Some(true), Some(false), None, Some(true), None, None, Some(false)])),
        Arc::new(Int64Array::from(vec![
            None,
            Some(i64::MAX),
            Some(i64::MIN),
            Some(0),
            Some(-1),
            Some(1 << 53),
            Some((1 << 53) + 1),
            Some(42),
        ])),
        Arc::new(Float64Array::from(vec![
            None,
            Some(f64::MAX),
            Some(f64::MIN),
            Some(0.0),
            Some(f64::MIN_POSITIVE),
            Some(0.1 + 0.2),
            Some(-1.5e-10),
            Some(5e-324),
        ])),
        Arc::new(Decimal128Array::from(amounts.to_vec()).with_data_type(DataType::Decimal128(15, 2))),
        Arc::new(Date32Array::from(days.to_vec())),
        Arc::new(TimestampMicrosecondArray::from(moments.to_vec())),
        Arc::new(StringArray::from(words.to_vec())),
        Arc::new(BinaryArray::from(bytes.to_vec())),
    ];
    RecordBatch::try_new(Fixture::Everything.schema(), columns).unwrap()
}

fn wide() -> RecordBatch {
    let column = |at: usize| -> ArrayRef {
        let value = |row: usize| (at == 0 || !(row + at).is_multiple_of(7)).then_some((row * 1000 + at) as i64);
        Arc::new((0..WIDE_ROWS).map(value).collect::<Int64Array>())
    };
    RecordBatch::try_new(Fixture::Wide.schema(), (0..WIDE_COLUMNS).map(column).collect()).unwrap()
}

/// The text in [`Fixture::Many`] beside an id.
pub(crate) fn many_words(id: i64) -> String {
    format!("{id:>300}")
}

fn many(first: usize) -> RecordBatch {
    let ids = || (first..(first + LOAD_ROWS).min(MANY_ROWS)).map(|id| id as i64);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids())),
        Arc::new(StringArray::from_iter_values(ids().map(many_words))),
    ];
    RecordBatch::try_new(Fixture::Many.schema(), columns).unwrap()
}
