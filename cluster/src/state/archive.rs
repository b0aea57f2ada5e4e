//! The control state and the mesh's keys in one file, for the day when all nodes are lost.
//!
//! Layout: `greylag snapshot`, the version of the layout and that of the state (two bytes each, little endian), both in
//! the control codec, SHA-256 over all of that. A file that is cut, changed or of another version is refused and never guessed at.
//!
//! INVARIANT: no node id of the lost mesh is given again: those who held one are removed members of the new one, for
//! their certificates are good still.

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    messages::join::Authority,
    state::{ControlState, Member, STATE_VERSION},
    wire,
};
use serde::{Deserialize, Serialize};

use super::SNAPSHOT_BYTES_MAX;

const MAGIC: &[u8; 16] = b"greylag snapshot";
const ARCHIVE_VERSION: u16 = 1;
const DIGEST_BYTES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    pub state: ControlState,
    pub authority: Authority,
}

impl Archive {
    pub fn new(state: ControlState, authority: Authority) -> Self {
        Self { state, authority }
    }

    /// The same state and keys give the same bytes.
    pub fn pack(&self) -> Result<Vec<u8>> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([ARCHIVE_VERSION, STATE_VERSION].map(u16::to_le_bytes).as_flattened());
        bytes.extend(wire::encode(self, SNAPSHOT_BYTES_MAX)?);
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        bytes.extend(digest.as_ref());
        Ok(bytes)
    }

    /// GL6002 for what is no such file or is damaged, GL4009 for another version.
    pub fn unpack(bytes: &[u8]) -> Result<Self> {
        let damaged = |why: &str| MeshError::new(ErrorCode::InvalidResource, format!("the snapshot {why}"));
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("is no file that `greylag snapshot save` wrote"))?;
        let (versions, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("is cut short"))?;
        let [a, b, c, d] = *versions;
        for (what, version, known) in
            [("format", [a, b], ARCHIVE_VERSION), ("a state of version", [c, d], STATE_VERSION)]
        {
            let version = u16::from_le_bytes(version);
            if version != known {
                let message = format!("the snapshot has {what} {version}, this release reads {known}");
                return Err(MeshError::new(ErrorCode::ProtocolVersion, message));
            }
        }
        let Some(at) = rest.len().checked_sub(DIGEST_BYTES) else { return Err(damaged("is cut short")) };
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes[..bytes.len() - DIGEST_BYTES]);
        if digest.as_ref() != &rest[at..] {
            return Err(damaged("is damaged: its digest does not fit"));
        }
        wire::decode(&rest[..at], SNAPSHOT_BYTES_MAX)
    }

    /// The state of a new mesh with this one member, who takes the next id.
    pub fn reborn(&self, member: impl FnOnce(NodeId) -> Member) -> ControlState {
        let old = &self.state;
        let me = NodeId(old.next_node);
        ControlState {
            members: [(me, member(me))].into(),
            removed: old.removed.iter().chain(old.members.keys()).copied().collect(),
            next_node: old.next_node + 1,
            held: Default::default(),
            draining: Default::default(),
            resting: Default::default(),
            unreached: Default::default(),
            ..old.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use greylag_protocol::Epoch;

    use super::*;
    use crate::state::{apply, fixture};

    fn archive() -> Archive {
        let mut state = ControlState::default();
        apply(&mut state, &fixture::form([1, 2, 5]));
        Archive::new(state, Authority { ca_key: vec![1; 9], bearer_key: vec![2; 9] })
    }

    #[test]
    fn what_is_packed_is_unpacked_and_nothing_else_is() {
        let bytes = archive().pack().unwrap();
        assert_eq!(bytes, archive().pack().unwrap(), "the same bytes each time");
        assert_eq!(Archive::unpack(&bytes).unwrap(), archive());
        for at in [0, 15, 30, bytes.len() - 40, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Archive::unpack(&changed).unwrap_err().code, ErrorCode::InvalidResource, "{at}");
            assert_eq!(Archive::unpack(&bytes[..at]).unwrap_err().code, ErrorCode::InvalidResource, "{at}");
        }
        for at in [16, 18] {
            let mut newer = bytes.clone();
            newer[at] += 1;
            assert_eq!(Archive::unpack(&newer).unwrap_err().code, ErrorCode::ProtocolVersion);
        }
    }

    #[test]
    fn the_lost_members_are_removed_and_their_ids_stay_theirs() {
        let state = archive().reborn(|id| Member { id, ..fixture::member(77) });
        assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [NodeId(6)]);
        assert_eq!(state.removed, [1, 2, 5].map(NodeId).into());
        assert_eq!(state.next_node, 7);
        let mut fresh = ControlState::default();
        let restore = greylag_protocol::state::Command::Restore { state: Box::new(state.clone()) };
        apply(&mut fresh, &restore);
        assert_eq!(fresh, ControlState { epoch: Epoch(state.epoch.0 + 1), ..state });
        let once = fresh.clone();
        apply(&mut fresh, &restore);
        assert_eq!(fresh, once);
    }
}
