//! Guesses at sizes, to choose between plans that are all right. Nothing here may change an answer.

use arrow::datatypes::DataType;

use super::remote::Remote;

/// Bytes taken for a text or binary value.
const VARIABLE_BYTES: usize = 24;
/// Part of the rows of a whole that are groups, where nothing is known.
const GROUPS: f64 = 0.1;
/// Part of the rows that a semi-join keeps, where nothing is known.
pub(crate) const SEMI_SELECTIVITY: f64 = 0.5;

/// Bytes of one value.
pub(crate) fn width(data_type: &DataType) -> usize {
    match data_type {
        DataType::Boolean => 1,
        other => other.primitive_width().unwrap_or(VARIABLE_BYTES),
    }
}

/// Rows of an inner join in which each row of `many` meets at most one of `one`.
pub(crate) fn joined_rows(many: &Remote, one: &Remote) -> Option<f64> {
    let kept = match (one.rows, one.rows_whole) {
        (Some(rows), Some(whole)) if whole > 0.0 => (rows / whole).min(1.0),
        _ => 1.0,
    };
    many.rows.map(|rows| (rows * kept).max(1.0))
}

/// Whether joining at the source sends fewer bytes than sending both sides.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
pub(crate) fn join_pays(many: &Remote, one: &Remote) -> bool {
    let (Some(left), Some(right), Some(joined)) = (many.rows, one.rows, joined_rows(many, one)) else {
        // Nothing is known but whether the one side leaves something out.
        return !one.pushed.is_empty() || !one.semi.is_empty();
    };
    let (left_bytes, right_bytes) = (many.row_bytes() as f64, one.row_bytes() as f64);
    joined * (left_bytes + right_bytes) <= left * left_bytes + right * right_bytes
}

/// Groups by keys with these numbers of distinct values.
pub(crate) fn groups(rows: Option<f64>, distinct: &[Option<u64>]) -> Option<f64> {
    if distinct.is_empty() {
        return Some(1.0);
    }
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    let product: Option<f64> = distinct.iter().map(|d| d.map(|d| d.max(1) as f64)).product();
    match (rows, product) {
        (Some(rows), Some(product)) => Some(product.min(rows)),
        (Some(rows), None) => Some((rows * GROUPS).max(1.0)),
        (None, product) => product,
    }
}
