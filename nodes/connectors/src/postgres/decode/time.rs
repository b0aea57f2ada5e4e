//! Dates and times. PostgreSQL counts from 2000-01-01 in days and microseconds, Arrow from 1970-01-01 in the same units,
//! so every value is exact; infinities and what leaves Arrow's range are GL3011.

use arrow::{
    array::types::{
        Date32Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
    },
    datatypes::{DataType, IntervalUnit, TimeUnit},
};

use super::{BinaryColumn, fixed::exactly};
use crate::server::columns::{Misfit, Primitive, Read};

/// From 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * DAY_MICROS;
const DAY_MICROS: i64 = 86_400_000_000;
const INFINITE: Misfit = Misfit::Range("an infinity");
const OUT_OF_RANGE: Misfit = Misfit::Range("a time out of range");

struct Date;
struct Time;
struct Timestamp;
struct Interval;

impl Read<Date32Type, [u8]> for Date {
    #[inline]
    fn read(&self, bytes: &[u8]) -> Result<i32, Misfit> {
        match i32::from_be_bytes(exactly(bytes)?) {
            i32::MIN | i32::MAX => Err(INFINITE),
            days => days.checked_add(EPOCH_DAYS).ok_or(OUT_OF_RANGE),
        }
    }
}

impl Read<Time64MicrosecondType, [u8]> for Time {
    fn read(&self, bytes: &[u8]) -> Result<i64, Misfit> {
        match i64::from_be_bytes(exactly(bytes)?) {
            micros @ 0..DAY_MICROS => Ok(micros),
            DAY_MICROS => Err(Misfit::Range("the time 24:00:00")),
            _ => Err(Misfit::Malformed),
        }
    }
}

impl Read<TimestampMicrosecondType, [u8]> for Timestamp {
    #[inline]
    fn read(&self, bytes: &[u8]) -> Result<i64, Misfit> {
        match i64::from_be_bytes(exactly(bytes)?) {
            i64::MIN | i64::MAX => Err(INFINITE),
            micros => micros.checked_add(EPOCH_MICROS).ok_or(OUT_OF_RANGE),
        }
    }
}

/// Microseconds, days, months.
impl Read<IntervalMonthDayNanoType, [u8]> for Interval {
    fn read(&self, bytes: &[u8]) -> Result<IntervalMonthDayNano, Misfit> {
        let bytes: [u8; 16] = exactly(bytes)?;
        let (micros, rest) = bytes.split_first_chunk::<8>().ok_or(Misfit::Malformed)?;
        let (days, months) = rest.split_first_chunk::<4>().ok_or(Misfit::Malformed)?;
        let (micros, days) = (i64::from_be_bytes(*micros), i32::from_be_bytes(*days));
        let months = i32::from_be_bytes(exactly(months)?);
        if matches!((micros, days, months), (i64::MIN, i32::MIN, i32::MIN) | (i64::MAX, i32::MAX, i32::MAX)) {
            return Err(INFINITE);
        }
        let nanoseconds = micros.checked_mul(1_000).ok_or(OUT_OF_RANGE)?;
        Ok(IntervalMonthDayNano { months, days, nanoseconds })
    }
}

pub(super) fn date(rows: usize) -> Box<BinaryColumn> {
    Primitive::boxed(Date, DataType::Date32, rows)
}

pub(super) fn time(rows: usize) -> Box<BinaryColumn> {
    Primitive::boxed(Time, DataType::Time64(TimeUnit::Microsecond), rows)
}

pub(super) fn timestamp(data_type: DataType, rows: usize) -> Box<BinaryColumn> {
    Primitive::boxed(Timestamp, data_type, rows)
}

pub(super) fn interval(rows: usize) -> Box<BinaryColumn> {
    Primitive::boxed(Interval, DataType::Interval(IntervalUnit::MonthDayNano), rows)
}
