//! Commands about members: who is admitted, what they say of themselves, whether they are up, and who is taken out.
//!
//! INVARIANT: an id is given once. `next_node` only grows, and a removed id is remembered for ever. A member that is not
//! down is `Draining` if it is to drain, and `Up` if not. Only who drains and is not down rests, in roles that it holds.

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, NodeUuid, Result,
    state::{ControlState, Member, MemberStatus, Role},
};

use super::{
    MEMBER_BYTES_MAX, MEMBERS_MAX,
    apply::{Change, labels_bytes, refused, release},
    grants,
};

/// What a member may change about itself.
pub(super) struct Facts<'a> {
    pub uuid: NodeUuid,
    pub name: &'a str,
    pub address: &'a str,
    pub door: &'a Option<String>,
    pub labels: &'a BTreeMap<String, String>,
    pub outbound_only: bool,
}

/// Admits a node by a grant. A node that lost the reply asks again with the same uuid and key, and is given the id that
/// it already has without a second use of the grant.
pub(super) fn admit(state: &mut ControlState, grant: &str, member: &Member, now_unix_ms: u64) -> Result<Change> {
    let grant = grants::known(state, grant)?.clone();
    if let Some(known) = state.members.values().find(|m| m.uuid == member.uuid) {
        if known.public_key != member.public_key {
            return Err(refused(format!("node uuid {} is a member already, with another key", member.uuid)));
        }
        return Ok(Change::Admitted { node: known.id, new: false });
    }
    grants::check_usable(&grant, now_unix_ms)?;
    check_size(member)?;
    if state.members.len() >= MEMBERS_MAX {
        return Err(refused(format!("the mesh has {MEMBERS_MAX} members and takes no more")));
    }
    let id = NodeId(state.next_node);
    state.next_node += 1;
    grants::spend(state, &grant.id);
    let admitted = Member {
        id,
        voter: false,
        status: MemberStatus::Up,
        status_since_unix_ms: now_unix_ms,
        // Whatever the node that let it in has written here.
        allowed: grant.allowed.clone(),
        ..member.clone()
    };
    state.members.insert(id, admitted);
    Ok(Change::Admitted { node: id, new: true })
}

pub(super) fn describe(state: &mut ControlState, node: NodeId, facts: Facts<'_>) -> Result<Change> {
    let before = known(state, node)?;
    if before.uuid != facts.uuid {
        return Err(refused(format!("{node} has another uuid than {}", facts.uuid)));
    }
    let after = Member {
        name: facts.name.to_owned(),
        address: facts.address.to_owned(),
        door: facts.door.clone(),
        labels: facts.labels.clone(),
        outbound_only: facts.outbound_only,
        ..before.clone()
    };
    if &after == before {
        return Ok(Change::None);
    }
    check_size(&after)?;
    state.members.insert(node, after);
    Ok(Change::Made)
}

pub(super) fn set_status(
    state: &mut ControlState,
    node: NodeId,
    from: MemberStatus,
    to: MemberStatus,
    now_unix_ms: u64,
) -> Result<Change> {
    let status = known(state, node)?.status;
    let to = match (to, state.draining.contains(&node)) {
        (MemberStatus::Up, true) => MemberStatus::Draining,
        (MemberStatus::Draining, false) => return Err(refused(format!("{node} is not to drain"))),
        _ => to,
    };
    if status == to {
        return Ok(Change::None);
    }
    if status != from {
        return Err(MeshError::new(
            ErrorCode::VersionConflict,
            format!("{node} is {status:?} and not {from:?} any more"),
        ));
    }
    if let Some(member) = state.members.get_mut(&node) {
        member.status = to;
        member.status_since_unix_ms = now_unix_ms;
    }
    // What it has said is about a process that may be another when it is back.
    state.resting.remove(&node);
    Ok(Change::Made)
}

pub(super) fn set_draining(state: &mut ControlState, node: NodeId, draining: bool, now_unix_ms: u64) -> Result<Change> {
    known(state, node)?;
    if draining == state.draining.contains(&node) {
        return Ok(Change::None);
    }
    if draining {
        if !others_up(state, node) {
            return Err(refused(format!("{node} cannot be drained: no other member is up to take its roles")));
        }
        state.draining.insert(node);
    } else {
        state.draining.remove(&node);
        state.resting.remove(&node);
    }
    if let Some(member) = state.members.get_mut(&node).filter(|member| member.status != MemberStatus::Down) {
        member.status = if draining { MemberStatus::Draining } else { MemberStatus::Up };
        member.status_since_unix_ms = now_unix_ms;
    }
    Ok(Change::Made)
}

/// Of what is not so any more, or not yet, nothing is kept: who is told later says it again.
pub(super) fn rest(state: &mut ControlState, node: NodeId, roles: &BTreeSet<Role>) -> Result<Change> {
    let drains = known(state, node)?.status == MemberStatus::Draining;
    let roles: BTreeSet<Role> = roles.iter().filter(|role| drains && state.holds(node, role)).cloned().collect();
    let before = match roles.is_empty() {
        true => state.resting.remove(&node),
        false => state.resting.insert(node, roles),
    };
    Ok(Change::made_if(before.as_ref() != state.resting.get(&node)))
}

fn others_up(state: &ControlState, node: NodeId) -> bool {
    state.members.values().any(|m| m.id != node && m.status == MemberStatus::Up)
}

pub(super) fn set_voter(state: &mut ControlState, node: NodeId, voter: bool) -> Result<Change> {
    known(state, node)?;
    let Some(member) = state.members.get_mut(&node) else { return Ok(Change::None) };
    let changed = member.voter != voter;
    member.voter = voter;
    Ok(Change::made_if(changed))
}

pub(super) fn remove(state: &mut ControlState, node: NodeId) -> Result<Change> {
    if state.removed.contains(&node) {
        return Ok(Change::None);
    }
    known(state, node)?;
    if !others_up(state, node) {
        return Err(refused(format!("{node} cannot be removed: no other member is up")));
    }
    state.members.remove(&node);
    state.removed.insert(node);
    state.draining.remove(&node);
    state.resting.remove(&node);
    state.unreached.retain(|_, nodes| {
        nodes.remove(&node);
        !nodes.is_empty()
    });
    let roles: Vec<Role> = state.roles_of(node);
    for role in roles {
        release(state, &role, node);
    }
    Ok(Change::Made)
}

pub(super) fn known(state: &ControlState, node: NodeId) -> Result<&Member> {
    state.member(node).ok_or_else(|| MeshError::new(ErrorCode::NotAMember, format!("{node} is not a member")))
}

pub(super) fn check_size(member: &Member) -> Result<()> {
    let bytes = member.name.len()
        + member.address.len()
        + member.door.as_ref().map_or(0, String::len)
        + member.public_key.len()
        + labels_bytes(&member.labels);
    if bytes > MEMBER_BYTES_MAX {
        return Err(MeshError::new(
            ErrorCode::InvalidConfig,
            format!("name, addresses and labels of node `{}` are over {MEMBER_BYTES_MAX} bytes", member.name),
        ));
    }
    Ok(())
}
