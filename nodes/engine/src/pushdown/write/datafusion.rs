//! The dialect of edges that read files with DataFusion: every expression that is pushed means there what it means here,
//! provided that literals keep their types, hence `arrow_cast` around all but the four types that a plain literal has.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::{Grammar, values};

pub(super) struct DataFusion;

impl Grammar for DataFusion {
    fn literal(&self, value: &ScalarValue) -> Option<String> {
        let data_type = value.data_type();
        if value.is_null() {
            return cast("NULL", &data_type);
        }
        match value {
            ScalarValue::Boolean(Some(value)) => Some(if *value { "TRUE" } else { "FALSE" }.into()),
            ScalarValue::Int64(Some(v)) if *v > i64::MIN => Some(v.to_string()),
            ScalarValue::Utf8(Some(text)) => Some(values::quoted(text, '\'')),
            ScalarValue::Date32(_) => values::date(value).map(|day| format!("DATE '{day}'")),
            _ => {
                let text = if let Some(text) = values::text(value) {
                    values::quoted(text, '\'')
                } else if let Some(bytes) = values::bytes(value) {
                    format!("X'{}'", values::hex(bytes))
                } else if let Some((time, zone)) = values::timestamp(value) {
                    if zone.is_some_and(|zone| !values::is_utc(zone)) {
                        return None;
                    }
                    let zone = if zone.is_some() { "Z" } else { "" };
                    format!("'{}{zone}'", time.replace(' ', "T"))
                } else {
                    let digits = values::integer(value).or_else(|| values::decimal(value)).or_else(|| match value {
                        ScalarValue::Float32(Some(v)) if v.is_finite() => Some(format!("{v:?}")),
                        _ => values::double(value).map(|v| format!("{v:?}")),
                    })?;
                    format!("'{digits}'")
                };
                cast(&text, &data_type)
            }
        }
    }

    fn cast(&self, scalar: &str, to: &DataType) -> Option<String> {
        cast(scalar, to)
    }

    fn try_cast(&self, scalar: &str, to: &DataType) -> Option<String> {
        Some(format!("arrow_try_cast({scalar}, {})", type_text(to)?))
    }

    fn like_text(&self, text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn is_datafusion(&self) -> bool {
        true
    }
}

fn cast(scalar: &str, to: &DataType) -> Option<String> {
    Some(format!("arrow_cast({scalar}, {})", type_text(to)?))
}

/// The type as a literal that `arrow_cast` reads back.
fn type_text(data_type: &DataType) -> Option<String> {
    let text = data_type.to_string();
    let back: DataType = text.parse().ok()?;
    (back == *data_type && !data_type.is_nested()).then(|| values::quoted(&text, '\''))
}
