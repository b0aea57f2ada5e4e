//! `numeric` in binary: a count of base-10000 digits, the weight of the first, a sign, a display scale, the digits.
//! Delivered exactly or not at all: a value with more digits than the decimal has room for, on either side of the
//! point, is GL3011, and so are NaN and the infinities. Zeros beyond the decimal's scale are no digits.
//!
//! Layout: `numeric_send` in PostgreSQL's `numeric.c`.

use arrow::{
    array::types::{Decimal128Type, Int64Type},
    datatypes::DataType,
};

use super::BinaryColumn;
use crate::server::columns::{Misfit, Primitive, Read};

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;
/// Decimal digits in one digit of the format.
const GROUP: i32 = 4;
const TOO_LARGE: Misfit = Misfit::Range("a number with too many digits before the point");
const TOO_FINE: Misfit = Misfit::Range("a number with too many digits after the point");

/// Powers of ten that fit 128 bits.
const POWERS: [u128; 39] = {
    let mut powers = [1u128; 39];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

struct AsDecimal {
    scale: i32,
    /// `10^precision`.
    bound: u128,
}

/// A whole number delivered as an integer, such as the sum of a `bigint` column.
struct AsInteger;

pub(super) fn column(data_type: &DataType, rows: usize) -> Option<Box<BinaryColumn>> {
    match data_type {
        DataType::Decimal128(precision, scale) => {
            let bound = *POWERS.get(usize::from(*precision))?;
            let reader = AsDecimal { scale: i32::from(*scale), bound };
            Some(Primitive::<Decimal128Type, _>::boxed(reader, data_type.clone(), rows))
        }
        DataType::Int64 => Some(Primitive::<Int64Type, _>::boxed(AsInteger, data_type.clone(), rows)),
        _ => None,
    }
}

impl Read<Decimal128Type, [u8]> for AsDecimal {
    #[inline]
    fn read(&self, bytes: &[u8]) -> Result<i128, Misfit> {
        let (negative, magnitude) = read(bytes, self.scale)?;
        if magnitude >= self.bound {
            return Err(TOO_LARGE);
        }
        // The bound is at most 10^38, below 2^127.
        let value = magnitude.cast_signed();
        Ok(if negative { -value } else { value })
    }
}

impl Read<Int64Type, [u8]> for AsInteger {
    fn read(&self, bytes: &[u8]) -> Result<i64, Misfit> {
        let (negative, magnitude) = read(bytes, 0)?;
        let value = i128::try_from(magnitude).map_err(|_| TOO_LARGE)?;
        i64::try_from(if negative { -value } else { value }).map_err(|_| TOO_LARGE)
    }
}

/// Whether it is negative, and its magnitude in units of `10^-scale`.
#[inline]
fn read(bytes: &[u8], scale: i32) -> Result<(bool, u128), Misfit> {
    let (head, digits) = bytes.split_first_chunk::<8>().ok_or(Misfit::Malformed)?;
    let [c0, c1, w0, w1, s0, s1, _, _] = *head;
    let negative = match u16::from_be_bytes([s0, s1]) {
        POSITIVE => false,
        NEGATIVE => true,
        NAN => return Err(Misfit::Range("NaN")),
        INFINITY | MINUS_INFINITY => return Err(Misfit::Range("an infinity")),
        _ => return Err(Misfit::Malformed),
    };
    let (groups, []) = digits.as_chunks::<2>() else { return Err(Misfit::Malformed) };
    if groups.len() != usize::from(u16::from_be_bytes([c0, c1])) {
        return Err(Misfit::Malformed);
    }
    let weight = i32::from(i16::from_be_bytes([w0, w1]));
    Ok((negative, magnitude(groups, weight, scale)?))
}

/// Groups of four digits, the first worth `10000^weight`, as a multiple of `10^-scale`.
#[inline]
fn magnitude(mut groups: &[[u8; 2]], weight: i32, scale: i32) -> Result<u128, Misfit> {
    while let [rest @ .., [0, 0]] = groups {
        groups = rest;
    }
    let Some((last, leading)) = groups.split_last() else { return Ok(0) };
    let count = i32::try_from(groups.len()).map_err(|_| Misfit::Malformed)?;
    // The last group is worth 10^shift units.
    let shift = (weight - (count - 1)) * GROUP + scale;
    let last = group(*last)?;
    if shift >= 0 {
        let all = accumulate(leading)?.checked_mul(10_000).and_then(|n| n.checked_add(last)).ok_or(TOO_LARGE)?;
        let unit = usize::try_from(shift).ok().and_then(|shift| POWERS.get(shift)).ok_or(TOO_LARGE)?;
        return all.checked_mul(*unit).ok_or(TOO_LARGE);
    }
    // Part of the last group lies beyond the scale and must be zero.
    let beyond = usize::try_from(-shift).ok().filter(|beyond| *beyond < 4).ok_or(TOO_FINE)?;
    if last % POWERS[beyond] != 0 {
        return Err(TOO_FINE);
    }
    let room = POWERS[4 - beyond];
    accumulate(leading)?.checked_mul(room).and_then(|n| n.checked_add(last / POWERS[beyond])).ok_or(TOO_LARGE)
}

#[inline]
fn accumulate(groups: &[[u8; 2]]) -> Result<u128, Misfit> {
    // Four groups stay below 10^16: most numbers never leave 64 bits.
    if groups.len() <= 4 {
        let mut number = 0u64;
        for digits in groups {
            number = number * 10_000 + group(*digits)? as u64;
        }
        return Ok(u128::from(number));
    }
    let mut number = 0u128;
    for digits in groups {
        number = number.checked_mul(10_000).and_then(|n| n.checked_add(group(*digits).ok()?)).ok_or(TOO_LARGE)?;
    }
    Ok(number)
}

#[inline]
fn group(bytes: [u8; 2]) -> Result<u128, Misfit> {
    match u16::from_be_bytes(bytes) {
        digits @ 0..=9_999 => Ok(u128::from(digits)),
        _ => Err(Misfit::Malformed),
    }
}
