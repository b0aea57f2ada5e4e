//! SQLite: strings have no escapes, dates are `YYYY-MM-DD` texts, numbers are integers or doubles. Floating point
//! literals are limited to those that any decimal reader turns into the one right double.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::{Grammar, values};

/// Significant digits, and the largest power of ten, with which a product or quotient of two exact doubles is the value.
const EXACT_DIGITS_MAX: usize = 15;
const EXACT_EXPONENT_MAX: i32 = 22;

pub(super) struct Sqlite;

impl Grammar for Sqlite {
    fn literal(&self, value: &ScalarValue) -> Option<String> {
        if let Some(text) = values::text(value) {
            return Some(text_literal(text));
        }
        if let Some(bytes) = values::bytes(value) {
            return Some(format!("X'{}'", values::hex(bytes)));
        }
        if let ScalarValue::UInt64(Some(v)) = value
            && i64::try_from(*v).is_err()
        {
            return None;
        }
        values::integer(value)
            .or_else(|| values::decimal(value).filter(|text| digits(text) <= EXACT_DIGITS_MAX))
            .or_else(|| values::date(value).map(|day| values::quoted(&day, '\'')))
            .or_else(|| values::double(value).and_then(exact_double))
    }

    fn cast(&self, scalar: &str, to: &DataType) -> Option<String> {
        match to {
            // Sums of integers are integers already, or an error.
            DataType::Int64 => Some(scalar.to_owned()),
            _ => None,
        }
    }

    fn like_text(&self, _: &str) -> Option<String> {
        None
    }

    fn contains(&self, text: &str, needle: &str) -> Option<String> {
        Some(format!("instr({text}, {}) > 0", text_literal(needle)))
    }
}

fn text_literal(text: &str) -> String {
    if text.contains('\0') {
        format!("CAST(X'{}' AS TEXT)", values::hex(text.as_bytes()))
    } else {
        values::quoted(text, '\'')
    }
}

fn digits(text: &str) -> usize {
    text.trim_start_matches(['-', '0', '.']).chars().filter(char::is_ascii_digit).count()
}

fn exact_double(value: f64) -> Option<String> {
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e')?;
    let count = digits(mantissa);
    // The number is an integer of `count` digits times a power of ten.
    let power = exponent.parse::<i32>().ok()? - i32::try_from(count.saturating_sub(1)).ok()?;
    (count <= EXACT_DIGITS_MAX && power.abs() <= EXACT_EXPONENT_MAX)
        .then(|| if mantissa.contains('.') { text.clone() } else { format!("{mantissa}.0e{exponent}") })
}
