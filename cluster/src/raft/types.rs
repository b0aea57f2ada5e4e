//! The types that openraft is instantiated with, under short names.
//!
//! The runtime is plain tokio: election time-outs are drawn from `rand::rng()`, which a simulation makes deterministic
//! by giving the process its entropy. openraft's own seeded runtime would panic outside its scope in production.

use std::io;

use greylag_protocol::{
    MeshError,
    state::{Command, Outcome},
};
use openraft::alias;

openraft::declare_raft_types!(
    /// Commands in, outcomes out; nodes are numbered and carry the address they were added with.
    pub TypeConfig: D = Command, R = Outcome, NodeId = u64, Node = openraft::BasicNode
);

pub(super) type Entry = alias::EntryOf<TypeConfig>;
pub(super) type LogId = alias::LogIdOf<TypeConfig>;
pub(super) type Vote = alias::VoteOf<TypeConfig>;
pub(super) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot is the bytes of `state::encode_snapshot`.
pub(super) type SnapshotData = Vec<u8>;
pub(super) type Snapshot = alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Largest encoded log entry: the largest command that can be forwarded, and its frame.
pub(super) const ENTRY_BYTES_MAX: usize = greylag_protocol::frame::FORWARD_BYTES_MAX + 4096;

pub(super) fn to_io(error: MeshError) -> io::Error {
    io::Error::other(error)
}
