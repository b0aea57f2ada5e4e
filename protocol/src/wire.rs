//! The one module that knows the codec of control messages: bincode 2 through serde, little endian, fixed-width
//! integers. bincode is unmaintained and pinned, so everything else calls these two functions and a successor is a
//! change of one file.
//!
//! INVARIANT: decoding never allocates more than twice the message (and 1 MiB, serde's own caution, for each level
//! of lists within lists), never panics and never accepts trailing bytes. Types that refer to themselves must not be
//! decoded here: there is no depth limit.
//!
//! Integers are fixed-width because bincode counts decoded bytes against its limit: only so is the limit of a
//! message its own length. Without a limit, a string that states 2^60 bytes is allocated and the process aborts.

use bincode::{
    config::{self, Config, Configuration, Fixint, LittleEndian},
    error::DecodeError,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{ErrorCode, MeshError, Result};

const CONFIG: Configuration<LittleEndian, Fixint> = config::standard().with_fixed_int_encoding();

/// Encodes a message. Fails with GL4012 when the encoding is longer than `limit` bytes.
pub fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>> {
    let bytes = bincode::serde::encode_to_vec(value, CONFIG)
        .map_err(|e| MeshError::internal(format!("a message could not be encoded: {e}")))?;
    if bytes.len() > limit {
        return Err(MeshError::new(
            ErrorCode::FrameTooLarge,
            format!("a message of {} bytes is over its limit of {limit}", bytes.len()),
        ));
    }
    Ok(bytes)
}

/// Decodes a message that must fill `bytes` exactly. GL4012 over the limit, GL4011 for anything that does not parse.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T> {
    if bytes.len() > limit {
        return Err(MeshError::new(
            ErrorCode::FrameTooLarge,
            format!("a message of {} bytes is over its limit of {limit}", bytes.len()),
        ));
    }
    let (value, used) = decode_limited(bytes)
        .map_err(|e| MeshError::new(ErrorCode::MalformedFrame, format!("a message could not be decoded: {e}")))?;
    if used != bytes.len() {
        return Err(MeshError::new(
            ErrorCode::MalformedFrame,
            format!("a message has {} trailing bytes", bytes.len() - used),
        ));
    }
    Ok(value)
}

/// bincode's limit is a constant of the type, so the smallest of these that holds the message is taken.
fn decode_limited<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    macro_rules! smallest {
        ($($limit:literal)*) => {
            match bytes.len() {
                $(len if len <= $limit << 10 => decode_with(bytes, CONFIG.with_limit::<{ $limit << 10 }>()),)*
                _ => Err(DecodeError::LimitExceeded),
            }
        };
    }
    smallest!(1 2 4 8 16 32 64 128 256 512 1_024 2_048 4_096 8_192 16_384 32_768 65_536)
}

fn decode_with<T: DeserializeOwned>(bytes: &[u8], config: impl Config) -> Result<(T, usize), DecodeError> {
    bincode::serde::decode_from_slice(bytes, config)
}
