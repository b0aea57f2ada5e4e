//! Masks as policies write them, as they fit a column, and as they are defined: [`apply`] is the reference that the
//! engine's own expressions must match.
//!
//! INVARIANT: a mask that does not fit a column's type becomes the strongest, [`Mask::Null`], never none.

use greylag_protocol::{
    filter::FilterValue,
    obligation::{DateUnit, Mask},
};
use sha2::{Digest, Sha256};

use super::catalog::{ColumnFacts, ValueKind};

/// Longest text of `redact:`, and most characters that `partial:` shows at one end.
const MASK_CHARACTERS_MAX: usize = 64;

/// What `redact` alone shows.
const REDACTED: &str = "[redacted]";

/// Reads the value of `@mask`. The error says what was expected.
pub fn parse(text: &str) -> Result<Mask, String> {
    let (kind, argument) = match text.split_once(':') {
        Some((kind, argument)) => (kind, Some(argument)),
        None => (text, None),
    };
    match (kind, argument) {
        ("null", None) => Ok(Mask::Null),
        ("full", None) => Ok(Mask::Full),
        ("hash", None) => Ok(Mask::Hash),
        ("redact", None) => Ok(Mask::Redact(REDACTED.into())),
        ("redact", Some(shown)) if shown.chars().count() <= MASK_CHARACTERS_MAX => Ok(Mask::Redact(shown.into())),
        ("partial", Some(pattern)) => partial(pattern).ok_or_else(|| {
            format!("`{pattern}` is not a pattern such as `2*4`: first characters, filler, last characters")
        }),
        ("date", Some(unit)) => match unit {
            "hour" => Ok(Mask::Truncate(DateUnit::Hour)),
            "day" => Ok(Mask::Truncate(DateUnit::Day)),
            "month" => Ok(Mask::Truncate(DateUnit::Month)),
            "quarter" => Ok(Mask::Truncate(DateUnit::Quarter)),
            "year" => Ok(Mask::Truncate(DateUnit::Year)),
            _ => Err(format!("`{unit}` is not one of hour, day, month, quarter, year")),
        },
        _ => Err(format!(
            "`{text}` is not a mask: null, redact, redact:<text>, full, hash, partial:<first><filler><last>, date:<unit>"
        )),
    }
}

fn partial(pattern: &str) -> Option<Mask> {
    let at = pattern.find(|c: char| !c.is_ascii_digit())?;
    let fill = pattern[at..].chars().next()?;
    let count = |digits: &str| match digits {
        "" => Some(0),
        digits => digits.parse::<u32>().ok().filter(|n| *n as usize <= MASK_CHARACTERS_MAX),
    };
    let (first, last) = (count(&pattern[..at])?, count(&pattern[at + fill.len_utf8()..])?);
    Some(Mask::Partial { first, last, fill })
}

/// The mask for this column.
pub fn fitting(mask: &Mask, column: &ColumnFacts) -> Mask {
    let fits = match mask {
        Mask::Null => true,
        Mask::Redact(_) | Mask::Full | Mask::Partial { .. } => column.kind == Some(ValueKind::Text),
        Mask::Hash => column.kind == Some(ValueKind::Text) || column.is_int64,
        Mask::Truncate(_) => column.kind == Some(ValueKind::Instant),
    };
    if fits { mask.clone() } else { Mask::Null }
}

/// What is shown in place of a value. `None` is NULL. A value of a type that the mask does not fit becomes NULL.
pub fn apply(mask: &Mask, value: Option<FilterValue>, salt: &[u8]) -> Option<FilterValue> {
    match (mask, value) {
        (Mask::Null, _) => None,
        (Mask::Redact(text), Some(FilterValue::Text(_)) | None) => Some(FilterValue::Text(text.clone())),
        (_, None) => None,
        (Mask::Full, Some(FilterValue::Text(text))) => Some(FilterValue::Text("*".repeat(text.chars().count()))),
        (Mask::Partial { first, last, fill }, Some(FilterValue::Text(text))) => {
            Some(FilterValue::Text(partly(&text, *first as usize, *last as usize, *fill)))
        }
        (Mask::Hash, Some(FilterValue::Text(text))) => {
            let digest = salted(salt, b"text", text.as_bytes());
            Some(FilterValue::Text(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()))
        }
        (Mask::Hash, Some(FilterValue::Integer(integer))) => {
            let digest = salted(salt, b"int8", &integer.to_be_bytes());
            let bits = digest[..8].iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            Some(FilterValue::Integer((bits >> 1) as i64))
        }
        (Mask::Truncate(unit), Some(FilterValue::Instant(ms))) => Some(FilterValue::Instant(truncated(ms, *unit))),
        _ => None,
    }
}

/// SHA-256 of salt, four bytes that tell the types apart, and the value.
fn salted(salt: &[u8], kind: &[u8; 4], value: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(kind).chain_update(value).finalize().into()
}

fn partly(text: &str, first: usize, last: usize, fill: char) -> String {
    let length = text.chars().count();
    let shown = |at: usize| length > first + last && (at < first || at >= length - last);
    text.chars().enumerate().map(|(at, c)| if shown(at) { c } else { fill }).collect()
}

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn truncated(ms: i64, unit: DateUnit) -> i64 {
    let days = ms.div_euclid(DAY_MS);
    let (year, month) = month_of(days);
    match unit {
        DateUnit::Hour => ms.div_euclid(HOUR_MS).saturating_mul(HOUR_MS),
        DateUnit::Day => days.saturating_mul(DAY_MS),
        DateUnit::Month => first_of(year, month).saturating_mul(DAY_MS),
        DateUnit::Quarter => first_of(year, (month - 1) / 3 * 3 + 1).saturating_mul(DAY_MS),
        DateUnit::Year => first_of(year, 1).saturating_mul(DAY_MS),
    }
}

/// Year and month (1 to 12) of a day since 1970, proleptic Gregorian: years begin in March inside, so that the leap day
/// is the last (Hinnant, "chrono-compatible low-level date algorithms").
fn month_of(days: i64) -> (i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month)
}

/// Day since 1970 on which a month begins.
fn first_of(year: i64, month: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = (month + 9) % 12;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * from_march + 2) / 5;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
#[path = "mask_test.rs"]
mod tests;
