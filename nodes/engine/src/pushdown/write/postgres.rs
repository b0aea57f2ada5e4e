//! PostgreSQL. Text is compared by bytes under `COLLATE "C"`; literals are spelled so that neither
//! `standard_conforming_strings` nor the session's time zone or date style changes them.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::{Grammar, values};
use crate::pushdown::ir::OrderKey;

pub(super) struct Postgres;

impl Grammar for Postgres {
    fn literal(&self, value: &ScalarValue) -> Option<String> {
        if let Some(text) = values::text(value) {
            return text_literal(text);
        }
        if let Some(bytes) = values::bytes(value) {
            return Some(bytes_literal(bytes));
        }
        if let Some((time, zone)) = values::timestamp(value) {
            return match (value, zone) {
                (ScalarValue::TimestampNanosecond(_, _), _) => None,
                (_, None) => Some(format!("TIMESTAMP '{time}'")),
                (_, Some(zone)) if values::is_utc(zone) => Some(format!("TIMESTAMPTZ '{time}+00:00'")),
                (_, Some(_)) => None,
            };
        }
        match value {
            ScalarValue::Boolean(Some(value)) => Some(if *value { "TRUE" } else { "FALSE" }.into()),
            ScalarValue::Int64(Some(i64::MIN)) => Some(format!("CAST('{}' AS bigint)", i64::MIN)),
            ScalarValue::Date32(_) => values::date(value).map(|day| format!("DATE '{day}'")),
            _ => values::integer(value).or_else(|| values::decimal(value)).or_else(|| {
                let double = values::double(value)?;
                Some(format!("CAST('{double:e}' AS double precision)"))
            }),
        }
    }

    fn one(&self) -> &'static str {
        "CAST(1 AS bigint)"
    }

    fn cast(&self, scalar: &str, to: &DataType) -> Option<String> {
        Some(match to {
            DataType::Int64 => format!("CAST({scalar} AS bigint)"),
            DataType::Decimal128(precision, scale) => format!("CAST({scalar} AS numeric({precision},{scale}))"),
            _ => return None,
        })
    }

    fn bytewise(&self, text: &str) -> Option<String> {
        Some(format!("({text} COLLATE \"C\")"))
    }

    /// `COLLATE "C"` would order by the bytes of the server's encoding.
    fn bytes(&self, text: &str) -> Option<String> {
        Some(format!("convert_to({text}, 'UTF8')"))
    }

    fn bytes_literal(&self, value: &ScalarValue) -> Option<String> {
        values::text(value).map(|text| bytes_literal(text.as_bytes()))
    }

    fn like_text(&self, text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn order(&self, scalar: &str, key: &OrderKey) -> String {
        let direction = if key.descending { " DESC" } else { "" };
        // NULLs sort as the largest value unless something else is said.
        let nulls = match (key.nulls_first, key.descending) {
            (true, true) | (false, false) => "",
            (true, false) => " NULLS FIRST",
            (false, true) => " NULLS LAST",
        };
        format!("{scalar}{direction}{nulls}")
    }
}

fn bytes_literal(bytes: &[u8]) -> String {
    format!("decode('{}', 'hex')", values::hex(bytes))
}

fn text_literal(text: &str) -> Option<String> {
    if text.contains('\0') {
        None
    } else if text.contains('\\') {
        Some(format!("E{}", values::quoted(&text.replace('\\', "\\\\"), '\'')))
    } else {
        Some(values::quoted(text, '\''))
    }
}
