//! What a member asks of the leader on a `Forward` stream: one request and one reply, each a `Forward` frame.

use serde::{Deserialize, Serialize};

use crate::{
    error::MeshError,
    ids::NodeId,
    state::{Command, Outcome},
};

/// Version of this module. A node refuses what it cannot speak with GL4009.
pub const FORWARD_VERSION: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRequest {
    pub version: u16,
    pub body: ForwardBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardBody {
    /// Commit this.
    Propose(Box<Command>),
    /// Up to where must I have applied the log to have seen everything committed by now?
    ReadIndex,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardReply {
    Committed(Outcome),
    ReadIndex(u64),
    /// I do not lead, and nothing was written; this one may, if it is known.
    NotLeader(Option<NodeId>),
    Failed(MeshError),
}
