//! Constants that policies name and rows hold: the same ones, their neighbours, and extremes.

use super::dice::Dice;

pub const TEXTS: [&str; 16] =
    ["", "a", "A", "a ", "ab", "aab", "*", "a*b", "%", "_", "it's", "q\"\\", "ä", "日本", "\u{10FFFF}", "line\nend"];

/// Patterns of `like`, where a star that is meant has a backslash before it.
pub const PATTERNS: [&str; 13] =
    ["", "*", "a*", "*a", "*a*", "a*b", "\\*", "*\\**", "a\\*b", "%*", "*本", "*\\\"*", "a*a*b"];

pub const LONGS: [i64; 14] = [0, 1, -1, 2, 7, 8, 100, 127, -128, 255, i32::MAX as i64, 1 << 40, i64::MAX, i64::MIN];

/// In units of 10^-4.
pub const DECIMALS: [i64; 10] = [0, 1, -1, 500, -500, 10_000, 999_900, 12_345, i64::MAX, i64::MIN];

/// As Cedar reads them, and in milliseconds since 1970.
pub const INSTANTS: [(&str, i64); 9] = [
    ("1970-01-01", 0),
    ("1970-01-02", 86_400_000),
    ("1969-12-31T23:59:59.999Z", -1),
    ("2024-02-29", 1_709_164_800_000),
    ("2024-02-29T13:45:10Z", 1_709_214_310_000),
    ("2024-02-29T13:45:10.500Z", 1_709_214_310_500),
    ("2024-02-29T02:00:00+0200", 1_709_164_800_000),
    ("0001-01-01", -62_135_596_800_000),
    ("9999-12-31", 253_402_214_400_000),
];

/// A text in Cedar's quotes. In a pattern, `*` stays and backslashes before stars do.
pub fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A pattern is written as it is, but for quotes.
pub fn quoted_pattern(pattern: &str) -> String {
    format!("\"{pattern}\"")
}

pub fn decimal(units: i64) -> String {
    let sign = if units < 0 { "-" } else { "" };
    let (whole, fraction) = (units.unsigned_abs() / 10_000, format!("{:04}", units.unsigned_abs() % 10_000));
    // At least one digit after the point, and no more than there must be.
    let fraction = fraction.trim_end_matches('0');
    format!("{sign}{whole}.{}", if fraction.is_empty() { "0" } else { fraction })
}

pub fn near(dice: &mut Dice, value: i64) -> i64 {
    match dice.below(6) {
        0 => value.saturating_add(1),
        1 => value.saturating_sub(1),
        _ => value,
    }
}
