//! Exact conversions from text and binary floating point to dates, timestamps and decimals, for sources that keep such
//! values in another form. A value either has exactly one meaning in the target type, or there is none.
//!
//! These do not round, truncate, guess formats or wrap around, which is why they stand here and Arrow's own parsers are
//! not used: those drop surplus fraction digits and the time of day without a word.

use arrow::datatypes::TimeUnit;

/// Most significant decimal digits that every binary double keeps apart.
pub(crate) const DOUBLE_DIGITS: u8 = 15;

/// Days since 1970-01-01 of `YYYY-MM-DD`, years 0000 to 9999 of the proleptic Gregorian calendar, nothing else.
///
/// Only this form is taken, so that equal dates are equal texts and texts sort as their dates do.
pub(crate) fn date(text: &[u8]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = digits(&[*y1, *y2, *y3, *y4])?;
    let (month, day) = (digits(&[*m1, *m2])?, digits(&[*d1, *d2])?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    i32::try_from(days_from_civil(year, month, day)).ok()
}

/// Ticks since 1970-01-01 00:00:00 of `YYYY-MM-DD[( |T)HH:MM[:SS[.fraction]][Z|(+|-)HH[:MM]]]`. A zone is applied; no
/// zone means UTC. Fraction digits that the unit cannot hold must be zero.
pub(crate) fn timestamp(text: &[u8], unit: TimeUnit) -> Option<i64> {
    let (day, rest) = text.split_at_checked(10)?;
    let mut seconds = i64::from(date(day)?) * 86_400;
    let (mut fraction, digits_kept): (i64, u32) = match unit {
        TimeUnit::Second => (0, 0),
        TimeUnit::Millisecond => (0, 3),
        TimeUnit::Microsecond => (0, 6),
        TimeUnit::Nanosecond => (0, 9),
    };
    if let Some((b' ' | b'T', clock)) = rest.split_first() {
        let (hour, rest) = two_digits(clock, 23)?;
        let (minute, mut rest) = two_digits(rest.strip_prefix(b":")?, 59)?;
        seconds += hour * 3600 + minute * 60;
        if let Some(after) = rest.strip_prefix(b":") {
            let (second, after) = two_digits(after, 59)?;
            seconds += second;
            rest = after;
            if let Some(after) = rest.strip_prefix(b".") {
                let length = after.iter().take_while(|b| b.is_ascii_digit()).count();
                fraction = exact_fraction(&after[..length], digits_kept)?;
                rest = &after[length..];
            }
        }
        seconds -= zone(rest)?;
    } else if !rest.is_empty() {
        return None;
    }
    seconds.checked_mul(10i64.pow(digits_kept))?.checked_add(fraction)
}

/// Unscaled value of `[+|-]digits[.digits]` as a decimal of `precision` digits, `scale` of them after the point.
pub(crate) fn decimal(text: &[u8], precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let point = digits.iter().position(|b| *b == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &digits[digits.len()..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = usize::try_from(scale).ok()?;
    let (kept, surplus) = fraction.split_at(scale.min(fraction.len()));
    if surplus.iter().any(|b| *b != b'0') {
        return None;
    }
    let padding = std::iter::repeat_n(&b'0', scale - kept.len());
    let mut value: i128 = 0;
    for byte in whole.iter().chain(kept).chain(padding) {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
    }
    within(if negative { -value } else { value }, precision)
}

/// Unscaled value of a whole number.
pub(crate) fn decimal_from_integer(value: i64, precision: u8, scale: i8) -> Option<i128> {
    let factor = 10i128.checked_pow(u32::try_from(scale).ok()?)?;
    within(i128::from(value).checked_mul(factor)?, precision)
}

/// Unscaled value of the shortest decimal that names this double; none if that has more than `scale` fraction digits.
/// A decimal of up to [`DOUBLE_DIGITS`] digits that was stored as a double comes back as it was.
pub(crate) fn decimal_from_double(value: f64, precision: u8, scale: i8) -> Option<i128> {
    const EXACT_POWER_MAX: i8 = 22;
    if !value.is_finite() {
        return None;
    }
    if (0..=EXACT_POWER_MAX).contains(&scale) {
        // Quotients of two exact doubles are rounded correctly, and up to 15 digits no two decimals share a double:
        // if the quotient is this double, the candidate is its decimal.
        let power = 10f64.powi(i32::from(scale));
        let candidate = (value * power).round();
        if candidate.abs() < 1e15 && candidate / power == value {
            return within(candidate as i128, precision);
        }
    }
    decimal(value.to_string().as_bytes(), precision, scale)
}

fn within(value: i128, precision: u8) -> Option<i128> {
    let bound = 10u128.checked_pow(u32::from(precision))?;
    (value.unsigned_abs() < bound).then_some(value)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0i64, |value, b| b.is_ascii_digit().then(|| value * 10 + i64::from(b - b'0')))
}

fn two_digits(text: &[u8], max: i64) -> Option<(i64, &[u8])> {
    let (number, rest) = text.split_at_checked(2)?;
    digits(number).filter(|value| *value <= max).map(|value| (value, rest))
}

/// At least one digit; those past `kept` must be zero.
fn exact_fraction(text: &[u8], kept: u32) -> Option<i64> {
    let length = kept as usize;
    if text.is_empty() || text.iter().skip(length).any(|b| *b != b'0') {
        return None;
    }
    let taken = text.len().min(length);
    Some(digits(&text[..taken])? * 10i64.pow(kept - u32::try_from(taken).ok()?))
}

/// Seconds that local time is ahead of UTC.
fn zone(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        [] | [b'Z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = two_digits(rest, 23)?;
    let minutes = match rest.strip_prefix(b":").unwrap_or(rest) {
        [] if rest.is_empty() => 0,
        minutes => two_digits(minutes, 59).filter(|(_, rest)| rest.is_empty())?.0,
    };
    Some(sign * (hours * 3600 + minutes * 60))
}

pub(crate) fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01, counting years from March so that leap days come last.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let leap_days = shifted_year.div_euclid(4) - shifted_year.div_euclid(100) + shifted_year.div_euclid(400);
    shifted_year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::{
        compute::kernels::cast_utils::Parser,
        datatypes::{Date32Type, TimestampMicrosecondType},
    };

    use super::*;

    #[test]
    fn every_day_of_ten_thousand_years_is_one_after_the_last() {
        let mut expected = date(b"0000-01-01").unwrap();
        assert_eq!(expected, -719_528);
        for year in 0..=9999 {
            for month in 1..=12 {
                for day in 1..=31 {
                    let text = format!("{year:04}-{month:02}-{day:02}");
                    if let Some(days) = date(text.as_bytes()) {
                        assert_eq!(days, expected, "{text}");
                        expected += 1;
                    } else {
                        assert!(day > 28 && day > days_in_month(year, month), "{text}");
                    }
                }
            }
        }
        assert_eq!(date(b"1970-01-01"), Some(0));
        assert_eq!(date(b"9999-12-31"), Date32Type::parse("9999-12-31"));
    }

    #[test]
    fn only_the_canonical_form_is_a_date() {
        for text in
            ["", "1995-3-15", "1995-03-15 ", " 1995-03-15", "19950315", "1995-13-01", "1995-00-01", "1995-02-29"]
        {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
        assert_eq!(date(b"1995-03-15 00:00:00"), None);
        assert_eq!(date("१९९५-०३-१५".as_bytes()), None);
    }

    #[test]
    fn timestamps_are_exact_in_their_unit() {
        let us = |text: &str| timestamp(text.as_bytes(), TimeUnit::Microsecond);
        for text in ["2024-02-29 23:59:59.999999", "1969-12-31T23:59:59.000001", "1700-03-01 12:30:00"] {
            assert_eq!(us(text), TimestampMicrosecondType::parse(text), "{text}");
            assert!(us(text).is_some());
        }
        assert_eq!(us("0001-01-01 00:00:00"), Some(-62_135_596_800_000_000));
        assert_eq!(us("9999-12-31 23:59:59.999999"), Some(253_402_300_799_999_999));
        assert_eq!(us("1970-01-01"), Some(0));
        assert_eq!(us("1970-01-01 00:01"), Some(60_000_000));
        assert_eq!(us("1970-01-01 01:00:00+01:00"), Some(0));
        assert_eq!(us("1970-01-01 01:00:00.5Z"), Some(3_600_500_000));
        assert_eq!(us("1969-12-31 23:30:00-0030"), Some(0));
        assert_eq!(us("1970-01-01 00:00:00.1234560"), Some(123_456));
        assert_eq!(us("1970-01-01 00:00:00.1234567"), None);
        assert_eq!(timestamp(b"1970-01-01 00:00:00.5", TimeUnit::Second), None);
        assert_eq!(timestamp(b"1970-01-01 00:00:00.000", TimeUnit::Second), Some(0));
        assert_eq!(timestamp(b"2500-01-01", TimeUnit::Nanosecond), None);
        for text in [
            "1970-01-01 24:00:00",
            "1970-01-01 00:00:60",
            "1970-01-01x",
            "1970-01-01 00:00:00.",
            "1970-01-01 00:00:00+1",
        ] {
            assert_eq!(us(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_keep_every_digit_or_are_refused() {
        let d = |text: &str| decimal(text.as_bytes(), 5, 2);
        assert_eq!(d("123.45"), Some(12_345));
        assert_eq!(d("-0.1"), Some(-10));
        assert_eq!(d("+7"), Some(700));
        assert_eq!(d(".5"), Some(50));
        assert_eq!(d("5."), Some(500));
        assert_eq!(d("000999.9900"), Some(99_999));
        for text in ["", ".", "-", "1000", "1.234", "1e2", "1,0", " 1", "--1", "1.2.3", "0x1"] {
            assert_eq!(d(text), None, "{text}");
        }
        let widest = "9".repeat(38);
        assert_eq!(decimal(widest.as_bytes(), 38, 0), Some(10i128.pow(38) - 1));
        assert_eq!(decimal(format!("1{widest}").as_bytes(), 38, 0), None);
        assert_eq!(decimal_from_integer(-7, 3, 2), Some(-700));
        assert_eq!(decimal_from_integer(10, 3, 2), None);
        assert_eq!(decimal_from_integer(i64::MIN, 38, 19), Some(i128::from(i64::MIN) * 10i128.pow(19)));
        assert_eq!(decimal_from_integer(i64::MIN, 38, 20), None);
    }

    #[test]
    fn a_decimal_of_fifteen_digits_survives_being_a_double() {
        // A fixed walk over the whole range stands for it: steps are coprime to it.
        let mut unscaled: i128 = 1;
        for _ in 0..200_000 {
            unscaled = (unscaled * 1_000_003 + 977_777_777_777_777) % 1_000_000_000_000_000;
            for scale in [0, 2, 7, 15] {
                let value = if unscaled % 2 == 0 { unscaled } else { -unscaled };
                let text = arrow::datatypes::Decimal128Type::format(value, scale);
                assert_eq!(decimal_from_double(text.parse().unwrap(), 15, scale), Some(value), "{text}");
            }
        }
        assert_eq!(decimal_from_double(0.1 + 0.2, 15, 2), None);
        assert_eq!(decimal_from_double(1e15, 15, 0), None);
        assert_eq!(decimal_from_double(1e15, 16, 0), Some(10i128.pow(15)));
        assert_eq!(decimal_from_double(f64::NAN, 15, 2), None);
        assert_eq!(decimal_from_double(f64::INFINITY, 15, 2), None);
        assert_eq!(decimal_from_double(-0.0, 15, 2), Some(0));
        assert_eq!(decimal_from_double(1e-30, 38, 30), Some(1));
    }

    trait Format {
        fn format(value: i128, scale: i8) -> String;
    }
    impl Format for arrow::datatypes::Decimal128Type {
        fn format(value: i128, scale: i8) -> String {
            <Self as arrow::datatypes::DecimalType>::format_decimal(value, 38, scale)
        }
    }
}
