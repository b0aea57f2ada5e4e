//! Dates and times. MySQL keeps dates that do not exist (`0000-00-00`, `2024-00-10`, with some settings `2024-02-31`) and
//! times of more than a day: Arrow cannot say them, so they are GL3011.

use arrow::{
    array::types::{Date32Type, Time64MicrosecondType, TimestampMicrosecondType},
    datatypes::{DataType, TimeUnit},
};
use mysql_async::Value;

use super::ValueColumn;
use crate::{
    exact::{days_from_civil, days_in_month},
    server::columns::{Misfit, Primitive, Read},
};

const DAY_MICROS: i64 = 86_400_000_000;

struct Date;
struct Timestamp;
struct Time;

/// Days since 1970-01-01.
fn days(year: u16, month: u8, day: u8) -> Result<i64, Misfit> {
    let (year, month, day) = (i64::from(year), i64::from(month), i64::from(day));
    match (year, month, day) {
        (0, 0, 0) => Err(Misfit::Range("the zero date")),
        (_, 1..=12, 1..) if day <= days_in_month(year, month) => Ok(days_from_civil(year, month, day)),
        _ => Err(Misfit::Range("a date that does not exist")),
    }
}

/// Microseconds since midnight.
fn micros(hour: u8, minute: u8, second: u8, micros: u32) -> Result<i64, Misfit> {
    if hour > 23 || minute > 59 || second > 59 || micros > 999_999 {
        return Err(Misfit::Malformed);
    }
    let seconds = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    Ok(seconds * 1_000_000 + i64::from(micros))
}

impl Read<Date32Type, Value> for Date {
    fn read(&self, value: &Value) -> Result<i32, Misfit> {
        match value {
            Value::Date(year, month, day, 0, 0, 0, 0) => {
                i32::try_from(days(*year, *month, *day)?).map_err(|_| Misfit::Malformed)
            }
            _ => Err(Misfit::Malformed),
        }
    }
}

impl Read<TimestampMicrosecondType, Value> for Timestamp {
    fn read(&self, value: &Value) -> Result<i64, Misfit> {
        match value {
            Value::Date(year, month, day, hour, minute, second, micro) => {
                Ok(days(*year, *month, *day)? * DAY_MICROS + micros(*hour, *minute, *second, *micro)?)
            }
            _ => Err(Misfit::Malformed),
        }
    }
}

impl Read<Time64MicrosecondType, Value> for Time {
    fn read(&self, value: &Value) -> Result<i64, Misfit> {
        match value {
            Value::Time(false, 0, hour, minute, second, micro) => micros(*hour, *minute, *second, *micro),
            Value::Time(..) => Err(Misfit::Range("a time below zero or of more than a day")),
            _ => Err(Misfit::Malformed),
        }
    }
}

pub(super) fn date(rows: usize) -> Box<ValueColumn> {
    Primitive::boxed(Date, DataType::Date32, rows)
}

pub(super) fn timestamp(data_type: DataType, rows: usize) -> Box<ValueColumn> {
    Primitive::boxed(Timestamp, data_type, rows)
}

pub(super) fn time(rows: usize) -> Box<ValueColumn> {
    Primitive::boxed(Time, DataType::Time64(TimeUnit::Microsecond), rows)
}
