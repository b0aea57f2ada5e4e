//! Text, and what people read as text: `uuid`, `json`, enum labels.
//!
//! `character(n)` is delivered without its padding, as PostgreSQL's own cast to `text` does; `uuid` comes in the usual 36
//! lower-case characters.

use arrow::datatypes::DataType;

use super::BinaryColumn;
use crate::{
    postgres::types::Scalar,
    server::columns::{self, Misfit, Plain, Spell},
};

struct Unpadded;
struct SingleChar;
struct Jsonb;
struct Uuid;

impl Spell<[u8]> for Unpadded {
    #[inline]
    fn spell(mut value: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
        while let [rest @ .., b' '] = value {
            value = rest;
        }
        out.extend_from_slice(value);
        Ok(())
    }
}

/// The internal type `"char"`: one byte, of which zero stands for the empty string.
impl Spell<[u8]> for SingleChar {
    fn spell(value: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
        match value {
            [] | [0] => Ok(()),
            [byte @ 1..=127] => {
                out.push(*byte);
                Ok(())
            }
            [_] => Err(Misfit::Range("a \"char\" that is not ASCII")),
            _ => Err(Misfit::Malformed),
        }
    }
}

/// A version byte, then the text.
impl Spell<[u8]> for Jsonb {
    fn spell(value: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
        match value {
            [1, text @ ..] => {
                out.extend_from_slice(text);
                Ok(())
            }
            _ => Err(Misfit::Malformed),
        }
    }
}

impl Spell<[u8]> for Uuid {
    fn spell(value: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let value: &[u8; 16] = value.try_into().map_err(|_| Misfit::Malformed)?;
        for (index, byte) in value.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                out.push(b'-');
            }
            out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        Ok(())
    }
}

pub(super) fn text(scalar: Scalar, data_type: &DataType, rows: usize) -> Option<Box<BinaryColumn>> {
    match scalar {
        Scalar::Text | Scalar::Name | Scalar::Json | Scalar::Enum => columns::text::<_, Plain>(data_type, rows),
        Scalar::Bpchar => columns::text::<_, Unpadded>(data_type, rows),
        Scalar::Char => columns::text::<_, SingleChar>(data_type, rows),
        Scalar::Jsonb => columns::text::<_, Jsonb>(data_type, rows),
        Scalar::Uuid => columns::text::<_, Uuid>(data_type, rows),
        _ => None,
    }
}
