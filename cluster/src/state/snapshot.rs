//! Snapshot format: two bytes of version (little endian), then the state in the control codec. A node refuses a version
//! that it does not know instead of guessing.

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    state::{ControlState, STATE_VERSION},
    wire,
};

/// Largest snapshot, bytes. The maxima of [`super`] keep the state well below it: 8 MiB of members, 16 MiB of sources
/// with 4 MiB of roles, 1 MiB of grants, 2 MiB of registers, 4 MiB of policies, 4 MiB of tags, 5 MiB of keys,
/// 10 MiB of quotas, and ten bytes for each node ever removed.
pub const SNAPSHOT_BYTES_MAX: usize = 60 << 20;

pub fn encode_snapshot(state: &ControlState) -> Result<Vec<u8>> {
    let body = wire::encode(state, SNAPSHOT_BYTES_MAX)?;
    let mut bytes = Vec::with_capacity(2 + body.len());
    bytes.extend_from_slice(&STATE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// GL4009 for another version, GL4011 for anything that does not parse.
pub fn decode_snapshot(bytes: &[u8]) -> Result<ControlState> {
    let Some((version, body)) = bytes.split_first_chunk::<2>() else {
        return Err(MeshError::new(ErrorCode::MalformedFrame, "a snapshot is shorter than its version"));
    };
    let version = u16::from_le_bytes(*version);
    if version != STATE_VERSION {
        return Err(MeshError::new(
            ErrorCode::ProtocolVersion,
            format!("a snapshot has format {version}, this node knows {STATE_VERSION}"),
        ));
    }
    wire::decode(body, SNAPSHOT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let state = ControlState { next_node: 7, ..ControlState::default() };
        let bytes = encode_snapshot(&state).unwrap();
        assert_eq!(decode_snapshot(&bytes).unwrap(), state);
        let mut newer = bytes.clone();
        newer[0] = newer[0].wrapping_add(1);
        assert_eq!(decode_snapshot(&newer).unwrap_err().code, ErrorCode::ProtocolVersion);
        assert_eq!(decode_snapshot(&bytes[..bytes.len() - 1]).unwrap_err().code, ErrorCode::MalformedFrame);
        assert_eq!(decode_snapshot(&[1]).unwrap_err().code, ErrorCode::MalformedFrame);
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(decode_snapshot(&longer).unwrap_err().code, ErrorCode::MalformedFrame);
    }
}
