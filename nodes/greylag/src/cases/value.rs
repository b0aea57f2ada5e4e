//! Values as a test's file writes them, as policies see them, and as people read them.

use anyhow::{Context, bail};
use arrow::{
    compute::kernels::cast_utils::string_to_timestamp_nanos,
    datatypes::{DataType, Field, TimeUnit},
};
use greylag_governance::policy::ValueKind;
use greylag_protocol::filter::{DECIMAL_SCALE, FilterValue};
use serde_json::Value;

const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;
const NANOS_OF_MS: i64 = 1_000_000;

/// A column's type, by the words in `document.rs`.
pub fn field(name: &str, words: &str) -> anyhow::Result<Field> {
    let lower = words.trim().to_ascii_lowercase();
    let (of_type, nullable) = match lower.strip_suffix("not null") {
        Some(of_type) => (of_type.trim(), false),
        None => (lower.as_str(), true),
    };
    let data_type = match of_type {
        "bool" => DataType::Boolean,
        "integer" => DataType::Int64,
        "integer32" => DataType::Int32,
        "float" => DataType::Float64,
        "text" => DataType::Utf8,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Millisecond, None),
        "bytes" => DataType::Binary,
        other => decimal(other).with_context(|| format!("column `{name}`: `{words}` is not a type"))?,
    };
    Ok(Field::new(name, data_type, nullable))
}

/// `decimal(10,2)`.
fn decimal(text: &str) -> Option<DataType> {
    let (precision, scale) = text.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let is_valid = (1..=38).contains(&precision) && scale >= 0 && i16::from(scale) <= i16::from(precision);
    is_valid.then_some(DataType::Decimal128(precision, scale))
}

/// A value of this kind; what no policy can look at is kept as its text. `None` is NULL.
pub fn read(kind: Option<ValueKind>, value: &Value) -> anyhow::Result<Option<FilterValue>> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Array(_) | Value::Object(_) => bail!("`{value}` is no single value"),
        other => other.to_string(),
    };
    let read = match kind {
        None | Some(ValueKind::Text) => Some(FilterValue::Text(text.clone())),
        Some(ValueKind::Bool) => text.parse().ok().map(FilterValue::Bool),
        Some(ValueKind::Integer) => text.parse().ok().map(FilterValue::Integer),
        Some(ValueKind::Decimal) => units(&text).map(FilterValue::Decimal),
        Some(ValueKind::Instant) => instant(&text, 0).map(FilterValue::Instant),
    };
    match read {
        Some(value) => Ok(Some(value)),
        None => bail!("`{text}` is not of the type {kind:?}"),
    }
}

/// Units of 10^-4 of a decimal number.
fn units(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(part) || part.len() > DECIMAL_SCALE as usize {
        return None;
    }
    let units: i64 = format!("{whole}{part:0<width$}", width = DECIMAL_SCALE as usize).parse().ok()?;
    Some(if negative { -units } else { units })
}

/// Unix milliseconds of `2026-03-02`, `2026-03-02T10:00`, with or without seconds. Without `Z` or an offset it is local
/// time, so many minutes east of UTC.
pub fn instant(text: &str, utc_offset_minutes: i32) -> Option<i64> {
    let text = text.trim();
    let Some((date, time)) = text.split_once(['T', ' ']) else {
        return Some(utc(&format!("{text}T00:00:00"))? - i64::from(utc_offset_minutes) * MINUTE_MS);
    };
    let zone_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone_at);
    let offset = if zone.is_empty() { utc_offset_minutes } else { greylag_config::parse_utc_offset(zone)? };
    let seconds = if time.matches(':').count() == 1 { ":00" } else { "" };
    Some(utc(&format!("{date}T{time}{seconds}"))? - i64::from(offset) * MINUTE_MS)
}

fn utc(text: &str) -> Option<i64> {
    Some(string_to_timestamp_nanos(text).ok()?.div_euclid(NANOS_OF_MS))
}

/// As people read it.
pub fn show(value: Option<&FilterValue>) -> String {
    match value {
        None => "NULL".into(),
        Some(FilterValue::Instant(ms)) => {
            let at = arrow::temporal_conversions::timestamp_ms_to_datetime(*ms);
            let format = if ms.rem_euclid(DAY_MS) == 0 { "%Y-%m-%d" } else { "%Y-%m-%dT%H:%M:%S%.f" };
            at.map_or_else(|| format!("instant {ms}"), |at| at.format(format).to_string())
        }
        Some(FilterValue::Text(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_local_unless_they_say_otherwise() {
        let noon = instant("2026-03-02T12:00Z", 0).unwrap();
        assert_eq!(noon.rem_euclid(DAY_MS), DAY_MS / 2);
        for (text, offset, hours) in [
            ("2026-03-02T12:00", 0, 0),
            ("2026-03-02T12:00:00", 120, -2),
            ("2026-03-02 12:00+01:00", 120, -1),
            ("2026-03-02T12:00Z", 120, 0),
            ("2026-03-02", 0, -12),
        ] {
            assert_eq!(instant(text, offset), Some(noon + hours * 60 * MINUTE_MS), "{text}");
        }
        for wrong in ["", "noon", "2026-13-02", "2026-03-02T25:00", "2026-03-02T12:00+1"] {
            assert_eq!(instant(wrong, 0), None, "{wrong}");
        }
    }

    #[test]
    fn decimals_are_exact() {
        for (text, expected) in [("12.5", Some(125_000)), ("-0.0001", Some(-1)), ("3", Some(30_000)), ("1.23456", None)]
        {
            assert_eq!(units(text), expected, "{text}");
        }
        for wrong in ["", ".5", "1e3", "--1"] {
            assert_eq!(units(wrong), None, "{wrong}");
        }
    }
}
