//! MySQL and MariaDB. Anything but plain ASCII is spelled in hexadecimal, so that neither `sql_mode` nor the connection's
//! character set changes it; text is compared by the bytes of its UTF-8.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::{Grammar, values};
use crate::pushdown::ir::OrderKey;

pub(super) struct MySql;

impl Grammar for MySql {
    fn quote(&self, name: &str) -> String {
        values::quoted(name, '`')
    }

    fn literal(&self, value: &ScalarValue) -> Option<String> {
        if let Some(text) = values::text(value) {
            return Some(text_literal(text));
        }
        if let Some(bytes) = values::bytes(value) {
            return Some(format!("X'{}'", values::hex(bytes)));
        }
        if let Some((time, zone)) = values::timestamp(value) {
            let fits = zone.is_none() && !matches!(value, ScalarValue::TimestampNanosecond(_, _));
            return fits.then(|| format!("TIMESTAMP '{time}'"));
        }
        match value {
            ScalarValue::Date32(_) => values::date(value).map(|day| format!("DATE '{day}'")),
            _ => values::integer(value)
                .or_else(|| values::decimal(value))
                .or_else(|| values::double(value).map(|v| format!("{v:e}"))),
        }
    }

    fn cast(&self, scalar: &str, to: &DataType) -> Option<String> {
        Some(match to {
            DataType::Int64 => format!("CAST({scalar} AS SIGNED)"),
            DataType::Decimal128(precision, scale) => format!("CAST({scalar} AS DECIMAL({precision},{scale}))"),
            _ => return None,
        })
    }

    fn bytewise(&self, text: &str) -> Option<String> {
        Some(format!("CAST(CONVERT({text} USING utf8mb4) AS BINARY)"))
    }

    fn bytewise_literal(&self, value: &ScalarValue) -> Option<String> {
        values::text(value).map(|text| format!("X'{}'", values::hex(text.as_bytes())))
    }

    fn bytes(&self, text: &str) -> Option<String> {
        self.bytewise(text)
    }

    fn bytes_literal(&self, value: &ScalarValue) -> Option<String> {
        self.bytewise_literal(value)
    }

    fn like_text(&self, text: &str) -> Option<String> {
        Some(format!("CONVERT({text} USING utf8mb4) COLLATE utf8mb4_bin"))
    }

    fn order(&self, scalar: &str, key: &OrderKey) -> String {
        let direction = if key.descending { " DESC" } else { "" };
        // NULLs sort as the smallest value, and nothing else can be said but by a key of their own.
        match (key.nulls_first, key.descending) {
            (true, false) | (false, true) => format!("{scalar}{direction}"),
            (true, true) => format!("({scalar} IS NULL) DESC, {scalar} DESC"),
            (false, false) => format!("({scalar} IS NULL), {scalar}"),
        }
    }
}

/// Whether every `sql_mode` and character set reads the text alike in plain quotes.
pub(super) fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'\\')
}

fn text_literal(text: &str) -> String {
    if is_plain(text) {
        values::quoted(text, '\'')
    } else if text.is_empty() {
        "''".into()
    } else {
        format!("_utf8mb4 X'{}'", values::hex(text.as_bytes()))
    }
}
