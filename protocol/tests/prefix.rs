//! Prefixes: equal for equal rows however they are laid out, different for anything else.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Decimal128Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
        StringViewArray, StructArray,
    },
    compute::concat_batches,
    datatypes::{DataType, Field, Int32Type},
};
use greylag_protocol::{
    ErrorCode,
    prefix::{Prefix, Replay, content},
};

fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
    let named = columns.into_iter().enumerate().map(|(at, column)| (format!("c{at}"), column, true));
    RecordBatch::try_from_iter_with_nullable(named).unwrap()
}

/// A column of each layout, with NULLs.
fn rows(from: i64, count: i64) -> RecordBatch {
    let some = |i: i64| i % 5 != 0;
    let whole: Int64Array = (from..from + count).map(|i| some(i).then_some(i)).collect();
    let text: StringArray = (from..from + count).map(|i| some(i + 1).then(|| format!("text {i}"))).collect();
    let view: StringViewArray =
        (from..from + count).map(|i| some(i + 2).then(|| format!("a longer text {i}"))).collect();
    let flag: BooleanArray = (from..from + count).map(|i| some(i + 3).then_some(i % 2 == 0)).collect();
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(
        (from..from + count).map(|i| some(i).then(|| (0..i as i32 % 4).map(Some).collect::<Vec<_>>())),
    );
    let amount = Decimal128Array::from_iter_values((from..from + count).map(i128::from));
    let inner: ArrayRef = Arc::new(Int32Array::from_iter_values((from..from + count).map(|i| i as i32)));
    let pair = StructArray::from(vec![(Arc::new(Field::new("x", DataType::Int32, true)), inner)]);
    batch(vec![
        Arc::new(whole),
        Arc::new(text),
        Arc::new(view),
        Arc::new(flag),
        Arc::new(list),
        Arc::new(amount),
        Arc::new(pair),
    ])
}

fn prefix(batches: &[RecordBatch]) -> Prefix {
    let mut prefix = Prefix::default();
    batches.iter().for_each(|batch| prefix.extend(batch.num_rows(), content(batch)));
    prefix
}

#[test]
fn a_slice_holds_what_a_batch_of_its_own_holds() {
    let whole = rows(0, 1000);
    for (from, count) in [(0, 1000), (1, 7), (63, 130), (64, 64), (999, 1), (500, 0)] {
        let slice = whole.slice(from as usize, count as usize);
        assert_eq!(content(&slice), content(&rows(from, count)), "{count} rows from {from}");
    }
    let parts = [rows(0, 3), rows(3, 60), rows(63, 937)];
    assert_eq!(content(&concat_batches(&whole.schema(), &parts).unwrap()), content(&whole));
}

#[test]
fn whatever_differs_is_told_apart() {
    let text = |values: Vec<Option<&str>>| content(&batch(vec![Arc::new(StringArray::from(values))]));
    let different = [
        text(vec![Some("ab"), Some("c")]),
        text(vec![Some("a"), Some("bc")]),
        text(vec![Some("abc"), Some("")]),
        text(vec![Some("abc"), None]),
        text(vec![None, Some("abc")]),
        text(vec![Some("abc")]),
        text(vec![]),
        content(&rows(0, 10)),
        content(&rows(1, 10)),
        content(&rows(0, 11)),
        content(&batch(vec![Arc::new(Int64Array::from(vec![1, 2]))])),
        content(&batch(vec![Arc::new(Int64Array::from(vec![2, 1]))])),
    ];
    for (at, one) in different.iter().enumerate() {
        for other in &different[at + 1..] {
            assert_ne!(one, other, "at {at}");
        }
    }
    // The same rows in other batches, or in another order, are another prefix.
    assert_ne!(prefix(&[rows(0, 10)]), prefix(&[rows(0, 5), rows(5, 5)]));
    assert_ne!(prefix(&[rows(0, 5), rows(5, 5)]), prefix(&[rows(5, 5), rows(0, 5)]));
}

#[test]
fn a_prefix_is_carried_as_text() {
    let carried = prefix(&[rows(0, 10), rows(10, 3)]);
    assert_eq!(carried.to_string().parse(), Ok(carried));
    for wrong in ["", "1", "1:2", "1:2:", "1:2:xyz", "-1:2:00", "1:2:3:4", "1:2:00"] {
        assert_eq!(wrong.parse::<Prefix>().unwrap_err().code, ErrorCode::MalformedFrame, "{wrong}");
    }
}

#[test]
fn a_replay_lets_through_what_comes_after_the_same_beginning() {
    let all = [rows(0, 8), rows(8, 8), rows(16, 3)];
    for used in 0..=all.len() {
        let mut replay = Replay::new(prefix(&all[..used]));
        let passed: Vec<RecordBatch> = all.iter().filter_map(|batch| replay.pass(batch.clone()).unwrap()).collect();
        assert_eq!(passed, all[used..], "{used} used");
        replay.finish().unwrap();
    }
}

#[test]
fn a_replay_that_differs_or_ends_early_lets_nothing_through() {
    let used = prefix(&[rows(0, 8), rows(8, 8)]);
    let mut replay = Replay::new(used);
    assert_eq!(replay.pass(rows(0, 8)), Ok(None));
    assert_eq!(replay.pass(rows(9, 8)).unwrap_err().code, ErrorCode::ReplayDiffers);
    let mut replay = Replay::new(used);
    assert_eq!(replay.pass(rows(0, 8)), Ok(None));
    assert_eq!(replay.finish().unwrap_err().code, ErrorCode::ReplayDiffers);
}
