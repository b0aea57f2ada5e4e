//! Spellings that several dialects share: quoted names and texts, hexadecimal bytes, calendar dates and times, decimal
//! digits.

use std::fmt::Write as _;

use arrow::datatypes::TimeUnit;
use datafusion::common::ScalarValue;

/// First and last year that every dialect spells with four digits.
const YEARS: std::ops::RangeInclusive<i64> = 1000..=9999;

/// In quotes, with quotes inside doubled.
pub(super) fn quoted(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        if c == quote {
            out.push(c);
        }
        out.push(c);
    }
    out.push(quote);
    out
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02X}");
        out
    })
}

/// The text of a text value.
pub(super) fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
            Some(text)
        }
        _ => None,
    }
}

pub(super) fn bytes(value: &ScalarValue) -> Option<&[u8]> {
    match value {
        ScalarValue::Binary(Some(bytes))
        | ScalarValue::LargeBinary(Some(bytes))
        | ScalarValue::BinaryView(Some(bytes)) => Some(bytes),
        _ => None,
    }
}

/// Digits of an integer of any width.
pub(super) fn integer(value: &ScalarValue) -> Option<String> {
    Some(match value {
        ScalarValue::Int8(Some(v)) => v.to_string(),
        ScalarValue::Int16(Some(v)) => v.to_string(),
        ScalarValue::Int32(Some(v)) => v.to_string(),
        ScalarValue::Int64(Some(v)) => v.to_string(),
        ScalarValue::UInt8(Some(v)) => v.to_string(),
        ScalarValue::UInt16(Some(v)) => v.to_string(),
        ScalarValue::UInt32(Some(v)) => v.to_string(),
        ScalarValue::UInt64(Some(v)) => v.to_string(),
        _ => return None,
    })
}

/// A finite floating point value. A single is exactly a double.
pub(super) fn double(value: &ScalarValue) -> Option<f64> {
    match value {
        ScalarValue::Float64(Some(v)) => Some(*v),
        ScalarValue::Float32(Some(v)) => Some(f64::from(*v)),
        _ => None,
    }
    .filter(|v| v.is_finite())
}

/// `-12.340` for an unscaled value of -12340 and a scale of 3.
pub(super) fn decimal(value: &ScalarValue) -> Option<String> {
    let ScalarValue::Decimal128(Some(unscaled), _, scale) = value else { return None };
    let scale = usize::try_from(*scale).ok()?;
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if *unscaled < 0 { "-" } else { "" };
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// `YYYY-MM-DD`.
pub(super) fn date(value: &ScalarValue) -> Option<String> {
    let ScalarValue::Date32(Some(days)) = value else { return None };
    day(i64::from(*days))
}

/// `YYYY-MM-DD HH:MM:SS.ffffff` with as many digits as the unit has, and the unit's zone.
pub(super) fn timestamp(value: &ScalarValue) -> Option<(String, Option<&str>)> {
    let (ticks, unit, zone) = match value {
        ScalarValue::TimestampSecond(Some(v), zone) => (*v, TimeUnit::Second, zone),
        ScalarValue::TimestampMillisecond(Some(v), zone) => (*v, TimeUnit::Millisecond, zone),
        ScalarValue::TimestampMicrosecond(Some(v), zone) => (*v, TimeUnit::Microsecond, zone),
        ScalarValue::TimestampNanosecond(Some(v), zone) => (*v, TimeUnit::Nanosecond, zone),
        _ => return None,
    };
    let (per_second, digits) = match unit {
        TimeUnit::Second => (1, 0),
        TimeUnit::Millisecond => (1_000, 3),
        TimeUnit::Microsecond => (1_000_000, 6),
        TimeUnit::Nanosecond => (1_000_000_000, 9),
    };
    let (seconds, fraction) = (ticks.div_euclid(per_second), ticks.rem_euclid(per_second));
    let (days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let mut out = day(days)?;
    let _ = write!(out, " {:02}:{:02}:{:02}", clock / 3600, clock / 60 % 60, clock % 60);
    if digits > 0 {
        let _ = write!(out, ".{fraction:0digits$}");
    }
    Some((out, zone.as_deref()))
}

/// Whether a zone is UTC, so that a time written without conversion is right.
pub(super) fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00" | "Z" | "Etc/UTC")
}

fn day(days: i64) -> Option<String> {
    let (year, month, day) = civil(days);
    YEARS.contains(&year).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// Year, month and day of a number of days since 1970-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        assert_eq!(quoted("it's", '\''), "'it''s'");
        assert_eq!(hex(&[0, 0xAB]), "00AB");
        let decimals = [
            (0, 2, "0.00"),
            (-5, 2, "-0.05"),
            (12340, 3, "12.340"),
            (7, 0, "7"),
            (i128::MIN + 1, 0, "-170141183460469231731687303715884105727"),
        ];
        for (unscaled, scale, expected) in decimals {
            assert_eq!(decimal(&ScalarValue::Decimal128(Some(unscaled), 38, scale)).as_deref(), Some(expected));
        }
        assert_eq!(decimal(&ScalarValue::Decimal128(Some(1), 5, -2)), None);
        let dates = [
            (0, Some("1970-01-01")),
            (-1, Some("1969-12-31")),
            (11_016, Some("2000-02-29")),
            (9_204, Some("1995-03-15")),
            (i32::MAX, None),
            (i32::MIN, None),
        ];
        for (days, expected) in dates {
            assert_eq!(date(&ScalarValue::Date32(Some(days))).as_deref(), expected, "{days}");
        }
        let before = ScalarValue::TimestampMicrosecond(Some(-1), None);
        assert_eq!(timestamp(&before), Some(("1969-12-31 23:59:59.999999".into(), None)));
        let second = ScalarValue::TimestampSecond(Some(951_782_400), Some("UTC".into()));
        assert_eq!(timestamp(&second), Some(("2000-02-29 00:00:00".into(), Some("UTC"))));
        assert_eq!(timestamp(&ScalarValue::TimestampSecond(Some(i64::MAX), None)), None);
    }
}
