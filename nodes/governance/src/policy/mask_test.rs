//! Masks: what is written, what is shown, and which is stronger.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn text(s: &str) -> Option<FilterValue> {
    Some(FilterValue::Text(s.into()))
}

#[test]
fn what_is_written_comes_back() {
    for written in ["null", "full", "hash", "redact:x:y", "partial:2*4", "partial:0#0", "date:quarter"] {
        assert_eq!(parse(written).unwrap().to_string(), written);
    }
    assert_eq!(parse("redact").unwrap(), Mask::Redact("[redacted]".into()));
    assert_eq!(parse("partial:*4").unwrap(), Mask::Partial { first: 0, last: 4, fill: '*' });
    for wrong in
        ["", "Full", "partial", "partial:", "partial:12", "partial:99*1", "partial:1*2*3", "date:week", "null:1"]
    {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_shown() {
    let salt = b"of this mesh";
    for (mask, value, shown) in [
        ("null", text("ada"), None),
        ("redact", None, text("[redacted]")),
        ("full", text("ådä"), text("***")),
        ("full", None, None),
        ("full", Some(FilterValue::Integer(4)), None),
        ("partial:1*2", text("lovelace"), text("l*****ce")),
        ("partial:1*2", text("ada"), text("***")),
        ("partial:1*2", text(""), text("")),
        ("hash", Some(FilterValue::Bool(true)), None),
        ("date:hour", text("2020"), None),
    ] {
        assert_eq!(apply(&parse(mask).unwrap(), value.clone(), salt), shown, "{mask} of {value:?}");
    }
    let hashed = |value, salt: &[u8]| apply(&Mask::Hash, value, salt);
    assert_eq!(hashed(text("ada"), salt), hashed(text("ada"), salt));
    assert_ne!(hashed(text("ada"), salt), hashed(text("ada"), b"of another"));
    assert_ne!(hashed(text("ada"), salt), hashed(text("adb"), salt));
    let Some(FilterValue::Integer(integer)) = hashed(Some(FilterValue::Integer(7)), salt) else { panic!("an integer") };
    assert!(integer >= 0);
}

#[test]
fn dates_are_cut_to_their_unit() {
    let day = |days: i64| days * DAY_MS;
    // 2024-02-29T13:45:10.5 is day 19,782.
    let leap = day(19_782) + 13 * HOUR_MS + 45 * 60_000 + 10_500;
    for (unit, ms, expected) in [
        (DateUnit::Hour, leap, day(19_782) + 13 * HOUR_MS),
        (DateUnit::Day, leap, day(19_782)),
        (DateUnit::Month, leap, day(19_754)),
        (DateUnit::Quarter, leap, day(19_723)),
        (DateUnit::Year, leap, day(19_723)),
        (DateUnit::Year, -1, day(-365)),
        (DateUnit::Month, day(-1), day(-31)),
        (DateUnit::Hour, -1, -HOUR_MS),
        (DateUnit::Month, day(31 + 27), day(31)),
    ] {
        assert_eq!(truncated(ms, unit), expected, "{unit} of {ms}");
    }
    for day in (-200_000..200_000).step_by(7) {
        let (year, month) = month_of(day);
        let first = first_of(year, month);
        assert!(first <= day && day - first < 31, "{day} is in {year}-{month}");
        assert_eq!(month_of(first), (year, month));
    }
}

#[test]
fn the_order_is_total() {
    let weakest_first = [
        "date:hour",
        "date:day",
        "date:month",
        "date:quarter",
        "date:year",
        "partial:4*4",
        "partial:4*3",
        "partial:3*4",
        "partial:1*1",
        "partial:1x1",
        "partial:*",
        "hash",
        "full",
        "redact:a",
        "redact:b",
        "null",
    ];
    let masks: Vec<Mask> = weakest_first.iter().map(|written| parse(written).unwrap()).collect();
    assert!(masks.windows(2).all(|pair| pair[0].strength() < pair[1].strength()));
}
