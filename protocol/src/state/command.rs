//! Commands of the replicated log. Each is small, deterministic and compare-and-set where two writers could meet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{
    ControlState, GovernCommand, Grant, Member, MemberStatus, MeshFacts, QuotaCommand, QuotaOutcome, RegisterOp,
    RegisterRequest, Role, RoleWanted, Rotation, SourceSpec,
};
use crate::{
    error::MeshError,
    ids::{Epoch, NodeId, NodeUuid, SourceName},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The founder's first command: facts, founding members, roles wanted, the formation token.
    Form {
        facts: MeshFacts,
        members: Vec<Member>,
        wanted: BTreeMap<Role, RoleWanted>,
        grants: Vec<Grant>,
    },
    /// Spends one use of a grant and allocates an id, in one step. `member.id` is ignored.
    Admit {
        grant: String,
        member: Box<Member>,
        now_unix_ms: u64,
    },
    /// The first command of a mesh that is made anew from a snapshot: everything that it kept, and the one member.
    Restore {
        state: Box<ControlState>,
    },
    /// A node's own facts have changed (address, door, labels, name, key).
    Describe {
        node: NodeId,
        uuid: NodeUuid,
        name: String,
        address: String,
        door: Option<String>,
        labels: BTreeMap<String, String>,
        outbound_only: bool,
    },
    /// Only if the status still is `from`. Who comes back while it is to drain is `Draining` and not `Up`.
    SetStatus {
        node: NodeId,
        from: MemberStatus,
        to: MemberStatus,
        now_unix_ms: u64,
    },
    SetVoter {
        node: NodeId,
        voter: bool,
    },
    Remove {
        node: NodeId,
    },
    /// `expect_version`: `None` for any, `Some(0)` for "must not exist". An equal spec changes nothing.
    ApplySource {
        spec: SourceSpec,
        expect_version: Option<u64>,
    },
    DropSource {
        name: SourceName,
    },
    Want {
        role: Role,
        wanted: Option<RoleWanted>,
    },
    /// Placement's output, only if the epoch still is the one it was computed from.
    Assign {
        at: Epoch,
        changes: Vec<RoleChange>,
    },
    PutGrant {
        grant: Grant,
    },
    RevokeGrant {
        id: String,
    },
    /// Whether a member is to leave its roles to others. It holds through losses, until it is taken back. Draining the
    /// last member that is up is refused.
    SetDraining {
        node: NodeId,
        draining: bool,
        now_unix_ms: u64,
    },
    /// A node says whether it reaches a source whose edge it holds. `version` is the source's: what is said of another
    /// one changes nothing.
    Reach {
        node: NodeId,
        source: SourceName,
        version: u64,
        reached: bool,
        now_unix_ms: u64,
    },
    /// The back-off of a node that could not reach a source is over, if it still is the one after so many tries.
    Forgive {
        node: NodeId,
        source: SourceName,
        tries: u32,
    },
    /// A new authority takes over from `rotation.former_ca`, if that still is the mesh's.
    RotateAuthority {
        ca_certificate: Vec<u8>,
        rotation: Box<Rotation>,
    },
    /// Whose certificate a node shows now.
    Certified {
        node: NodeId,
        authority: Vec<u8>,
    },
    /// The authority that was rotated out is trusted no more.
    EndRotation {
        former_ca: Vec<u8>,
    },
    /// Changes a register, once for each request.
    Register {
        name: String,
        op: RegisterOp,
        request: RegisterRequest,
    },
    /// Changes who may do what.
    Govern(GovernCommand),
    /// Sets a quota, or a node's part of one.
    Quota(QuotaCommand),
    /// A node that drains says in which of its roles nothing runs any more: all of them, each time. It begins nothing
    /// in them while others hold them, so nobody has to wait before they are taken from it.
    Rest {
        node: NodeId,
        roles: BTreeSet<Role>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleChange {
    pub role: Role,
    pub node: NodeId,
    pub held: bool,
}

/// What applying a command came to. A refusal changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Done {
        epoch: Epoch,
    },
    Admitted {
        node: NodeId,
        epoch: Epoch,
    },
    Applied {
        version: u64,
        changed: bool,
    },
    /// Version that this change has made, and the value after it; `None` if there is none.
    Register {
        version: u64,
        value: Option<String>,
    },
    Quota(QuotaOutcome),
    Refused(MeshError),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Form { members, .. } => write!(f, "form a mesh of {}", members.len()),
            Command::Restore { .. } => f.write_str("restore a mesh"),
            Command::Admit { grant, .. } => write!(f, "admit by grant {grant}"),
            Command::Describe { node, .. } => write!(f, "describe {node}"),
            Command::SetStatus { node, to, .. } => write!(f, "set {node} {to:?}"),
            Command::SetVoter { node, voter } => write!(f, "set voter {node} {voter}"),
            Command::Remove { node } => write!(f, "remove {node}"),
            Command::ApplySource { spec, .. } => write!(f, "apply source {}", spec.name),
            Command::DropSource { name } => write!(f, "drop source {name}"),
            Command::Want { role, .. } => write!(f, "want {role}"),
            Command::Assign { at, changes } => write!(f, "assign {} changes at {at}", changes.len()),
            Command::PutGrant { grant } => write!(f, "put grant {}", grant.id),
            Command::RevokeGrant { id } => write!(f, "revoke grant {id}"),
            Command::SetDraining { node, draining: true, .. } => write!(f, "drain {node}"),
            Command::SetDraining { node, .. } => write!(f, "undrain {node}"),
            Command::Reach { node, source, reached: true, .. } => write!(f, "{node} reaches {source}"),
            Command::Reach { node, source, .. } => write!(f, "{node} does not reach {source}"),
            Command::Forgive { node, source, .. } => write!(f, "{node} may try {source} again"),
            Command::RotateAuthority { .. } => f.write_str("rotate the authority"),
            Command::Certified { node, .. } => write!(f, "{node} has a new certificate"),
            Command::EndRotation { .. } => f.write_str("end the rotation of the authority"),
            Command::Register { name, op, .. } => write!(f, "{op} register {name}"),
            Command::Govern(change) => change.fmt(f),
            Command::Quota(QuotaCommand::SetLimit { key, .. }) => write!(f, "set quota {key}"),
            Command::Quota(QuotaCommand::Lease { key, lease, .. }) => write!(f, "lease of {key} for {}", lease.node),
            Command::Quota(QuotaCommand::Report { key, lease, .. }) => write!(f, "use of {key} at {}", lease.node),
            Command::Rest { node, roles } => write!(f, "{node} rests in {} roles", roles.len()),
        }
    }
}
