//! The one module that knows the codec of control messages: bincode 2 through serde, little endian, variable
//! integers. bincode is unmaintained and pinned, so everything else calls these two functions and a successor is a
//! change of one file.
//!
//! INVARIANT: decoding never allocates more than the limit, never panics and never accepts trailing bytes. Types
//! that refer to themselves must not be decoded here: there is no depth limit.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{ErrorCode, MeshError, Result};

/// Encodes a message. Fails with GL4012 when the encoding is longer than `limit` bytes.
pub fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>> {
    let bytes = bincode::serde::encode_to_vec(value, bincode::config::standard())
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
    let (value, used) = bincode::serde::decode_from_slice(bytes, bincode::config::standard())
        .map_err(|e| MeshError::new(ErrorCode::MalformedFrame, format!("a message could not be decoded: {e}")))?;
    if used != bytes.len() {
        return Err(MeshError::new(
            ErrorCode::MalformedFrame,
            format!("a message has {} trailing bytes", bytes.len() - used),
        ));
    }
    Ok(value)
}
