//! What a node says of its own health and of whom it hears, asked for when somebody wants to know: soft state that is
//! never in the log. One request and one reply on a `Health` stream, each a `Control` frame.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// Version of this module. A node answers what it cannot speak with nothing.
pub const HEALTH_VERSION: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRequest {
    pub version: u16,
    /// Whose report is wanted: the node's that is asked, or of one that it has a link to, which it then asks.
    pub of: NodeId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthReply {
    Report(HealthReport),
    /// It has no link to the one asked for, or got no answer either.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    pub node: NodeId,
    /// Every other member, as this node sees it.
    pub peers: BTreeMap<NodeId, PeerSight>,
    /// The last time that the whole process stood still for longer than a connection lasts, if there was one.
    pub stall: Option<Stall>,
    pub disk: DiskReport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerSight {
    Linked,
    /// No link, though it tries to make one: what it sends arrives here.
    Heard {
        ago_ms: u64,
    },
    Silent,
}

/// A gap between two ticks of a monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    pub lasted_ms: u64,
    pub ended_ago_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Some of the last writes that must be durable took longer than `timing.slow_disk_ms`.
    pub slow: bool,
    /// The slowest of the last writes, or the one under way.
    pub slowest_ms: u64,
    /// Writes are refused for want of space, or less is free than `limits.disk_free_bytes_min`.
    pub full: bool,
    pub free_bytes: Option<u64>,
    /// What the disk said to the last write that it has refused and not taken since.
    pub refused: Option<String>,
}
