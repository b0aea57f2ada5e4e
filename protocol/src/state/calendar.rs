//! Periods of time that quotas count in, in UTC. No clock: the moment comes in.
//!
//! Months are found by the civil calendar (H. Hinnant, "chrono-compatible low-level date algorithms").

use std::fmt;

use serde::{Deserialize, Serialize};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    Hour,
    Day,
    Month,
}

impl Period {
    /// First millisecond of the period that holds this moment, and the first after it.
    pub fn span(self, unix_ms: u64) -> (u64, u64) {
        let whole = |length: u64| {
            let start = unix_ms - unix_ms % length;
            (start, start.saturating_add(length))
        };
        match self {
            Period::Hour => whole(HOUR_MS),
            Period::Day => whole(DAY_MS),
            Period::Month => {
                let (year, month) = civil_month(unix_ms / DAY_MS);
                let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                let ms = |year, month| first_day(year, month).saturating_mul(DAY_MS);
                (ms(year, month), ms(next_year, next_month))
            }
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Month => "month",
        })
    }
}

/// A moment as people and programs read it, `2024-02-29T12:00:00Z`; parts of a second are left out.
pub fn utc_text(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / DAY_MS, unix_ms % DAY_MS / 1000);
    let (year, month) = civil_month(days);
    let day = days - first_day(year, month) + 1;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_SHIFT_DAYS: u64 = 719_468;
/// Days of 400 years.
const ERA_DAYS: u64 = 146_097;

/// Year and month (1-12) of a day since 1970-01-01.
fn civil_month(days: u64) -> (u64, u64) {
    let shifted = days + EPOCH_SHIFT_DAYS;
    let era = shifted / ERA_DAYS;
    let day_of_era = shifted % ERA_DAYS;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month)
}

/// First day of a month, since 1970-01-01.
fn first_day(year: u64, month: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let year_of_era = year % 400;
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march_month + 2) / 5;
    era * ERA_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - EPOCH_SHIFT_DAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        // 2024-02-29T12:00:00Z is in a leap February; 2100 is no leap year.
        let cases = [
            (0, 0, 31),
            (1_709_208_000_000, 19_754, 29),
            (1_735_689_599_999, 20_058, 31),
            (4_105_900_800_000, 47_513, 28),
        ];
        for (at, first_day, days) in cases {
            let (start, end) = Period::Month.span(at);
            assert_eq!((start / DAY_MS, (end - start) / DAY_MS), (first_day, days), "{at}");
        }
    }

    #[test]
    fn moments_are_written_by_the_calendar() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1_709_208_000_000, "2024-02-29T12:00:00Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ];
        for (at, text) in cases {
            assert_eq!(utc_text(at), text);
        }
    }

    #[test]
    fn periods_meet_without_gap() {
        for period in [Period::Hour, Period::Day, Period::Month] {
            let mut at = 0;
            for _ in 0..5000 {
                let (start, end) = period.span(at);
                assert_eq!(start, at, "{period}");
                assert_eq!(period.span(end - 1), (start, end));
                at = end;
            }
        }
    }
}
