//! The replicated control state: what every node knows alike, and the commands that change it. How commands are
//! applied is in `cluster::state`; here are only the words.

mod access;
mod allowed;
mod calendar;
mod command;
mod governance;
mod quota;
mod register;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, MeshId, NodeId, NodeUuid, SourceName};

pub use access::{ApiKey, AuditHead, Network, Scope};
pub use allowed::{Allowed, AllowedRoles};
pub use calendar::{Period, utc_text};
pub use command::{Command, Outcome, RoleChange};
pub use governance::{
    AttributeKind, Budget, FOUNDING_POLICIES, GovernCommand, Governance, GovernanceSettings, MaskSalt, Prices,
    StoredPolicy, TagPlace, Versioned,
};
pub use quota::{Lease, LeaseId, PeriodUse, Quota, QuotaCommand, QuotaKey, QuotaLedger, QuotaOutcome};
pub use register::{RecentChange, Register, RegisterExpect, RegisterOp, RegisterRequest, Registers};

/// Version of the snapshot format.
pub const STATE_VERSION: u16 = 5;

/// Everything the log keeps. Ordered maps only: every node iterates alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    /// `None` until the founder's first command has been applied.
    pub mesh: Option<MeshFacts>,
    /// Raised by every command that changes anything but a register, a lease on a quota, the last use of a key or an
    /// audit head.
    pub epoch: Epoch,
    pub members: BTreeMap<NodeId, Member>,
    /// Members that were taken out. Their ids are never used again.
    pub removed: BTreeSet<NodeId>,
    /// Next id to give away.
    pub next_node: u64,
    pub wanted: BTreeMap<Role, RoleWanted>,
    /// Who holds which role, as the leader has assigned them.
    pub held: BTreeMap<Role, BTreeSet<NodeId>>,
    pub sources: BTreeMap<SourceName, Source>,
    pub grants: BTreeMap<String, Grant>,
    /// Members that are to leave their roles to others, up or down.
    pub draining: BTreeSet<NodeId>,
    /// Of those: roles that they hold and do nothing in any more, as they have said themselves.
    pub resting: BTreeMap<NodeId, BTreeSet<Role>>,
    /// While one authority takes over from another.
    pub rotation: Option<Rotation>,
    /// Nodes that have found that they cannot reach a source they were to serve.
    pub unreached: BTreeMap<SourceName, BTreeMap<NodeId, Unreached>>,
    /// Nothing is planned by them, so they leave the epoch alone.
    pub registers: Registers,
    pub governance: Governance,
}

/// Facts fixed at foundation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshFacts {
    pub id: MeshId,
    pub name: String,
    /// DER.
    pub ca_certificate: Vec<u8>,
    /// Raw Ed25519 public key (32 bytes) that bearer tokens are verified with.
    pub bearer_public_key: Vec<u8>,
    pub founded_unix_ms: u64,
    pub mask_salt: MaskSalt,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: NodeId,
    pub uuid: NodeUuid,
    /// For people; unique by habit, not by rule.
    pub name: String,
    /// `host:port` of the mesh endpoint.
    pub address: String,
    /// `host:port` of the Flight SQL door, if it opens one.
    pub door: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub outbound_only: bool,
    pub voter: bool,
    pub status: MemberStatus,
    /// Unix milliseconds of the last change of `status`, by the leader's clock.
    pub status_since_unix_ms: u64,
    /// Raw Ed25519 public key of the node's certificate (32 bytes).
    pub public_key: Vec<u8>,
    /// As the token said that admitted it.
    pub allowed: AllowedRoles,
    /// SHA-256 of the authority that has signed its certificate; said once one authority takes over from another.
    pub certified_by: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberStatus {
    Up,
    /// The leader has lost it. Its roles are moved where another node can take them.
    Down,
    /// Up and leaving: gets no new roles, and gives away those it has.
    Draining,
}

/// What a node may be asked to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    Coordinator,
    Planner,
    Policy,
    Edge(SourceName),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Role::Coordinator => f.write_str("coordinator"),
            Role::Planner => f.write_str("planner"),
            Role::Policy => f.write_str("policy"),
            Role::Edge(source) => write!(f, "edge/{source}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleWanted {
    pub count: RoleCount,
    /// Nodes must carry every one of these labels with this value. The label `node` always is the node's name.
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleCount {
    All,
    AtMost(u32),
}

/// A source as somebody declared it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    pub name: SourceName,
    /// Connector kind: `sqlite`, `files`, `postgres`, `mysql`.
    pub kind: String,
    /// Connector's own settings. Credentials only as references (`env:NAME`, `file:/path`), resolved on the edge.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels that a node must carry to serve it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Edges to run, on different nodes.
    #[serde(default = "one")]
    pub replicas: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub spec: SourceSpec,
    /// Raised at every change of `spec`, from 1.
    pub version: u64,
}

/// A new authority has taken over ([`MeshFacts::ca_certificate`]) and the former is trusted still. Each vouches for the
/// other, so that who trusts but one of them believes certificates of both. All DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    pub former_ca: Vec<u8>,
    /// The new authority's key, signed by the former.
    pub new_by_former: Vec<u8>,
    /// The former authority's key, signed by the new.
    pub former_by_new: Vec<u8>,
    /// The former is trusted at least until then, and until every member that is up has a certificate of the new.
    pub until_unix_ms: u64,
}

/// That a node could not reach a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    pub since_unix_ms: u64,
    /// Times in a row that it was given the edge and could not reach the source.
    pub tries: u32,
    /// Until its back-off is over, the edge goes to others that can take it.
    pub barred: bool,
}

/// Right to join, spent by the command that admits a node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub id: String,
    pub secret: Vec<u8>,
    pub uses_left: u32,
    pub expires_unix_ms: u64,
    /// What those that it admits may be asked to do.
    pub allowed: AllowedRoles,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("id", &self.id)
            .field("uses_left", &self.uses_left)
            .field("expires_unix_ms", &self.expires_unix_ms)
            .finish_non_exhaustive()
    }
}

impl ControlState {
    /// The member, unless it was removed or never was.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// Whether this node is left out where another can take this role.
    pub fn is_barred(&self, node: NodeId, role: &Role) -> bool {
        let Role::Edge(source) = role else { return false };
        self.unreached.get(source).and_then(|nodes| nodes.get(&node)).is_some_and(|unreached| unreached.barred)
    }

    /// Whether this node has been given this role.
    pub fn holds(&self, node: NodeId, role: &Role) -> bool {
        self.held.get(role).is_some_and(|nodes| nodes.contains(&node))
    }

    /// Whether somebody else is up who holds this role and is not to leave it.
    pub fn others_stay(&self, node: NodeId, role: &Role) -> bool {
        self.live_holders(role).iter().any(|other| *other != node && !self.draining.contains(other))
    }

    /// Roles of one node, in order.
    pub fn roles_of(&self, node: NodeId) -> Vec<Role> {
        self.held.iter().filter(|(_, nodes)| nodes.contains(&node)).map(|(role, _)| role.clone()).collect()
    }

    /// Holders of a role that are up, in order of id.
    pub fn live_holders(&self, role: &Role) -> Vec<NodeId> {
        let Some(nodes) = self.held.get(role) else { return Vec::new() };
        nodes.iter().copied().filter(|n| self.members.get(n).is_some_and(|m| m.status != MemberStatus::Down)).collect()
    }
}
