//! The one function that changes the replicated state: the same commands in the same order give the same state on every
//! node. It reads no clock (commands carry the leader's), draws no random number and iterates only ordered maps.
//!
//! INVARIANT: a refusal changes nothing, and the epoch is raised if and only if something has changed that is planned by:
//! not by registers, leases on quotas, uses of keys and audit heads. Every command may be proposed again after a lost reply: the second time it changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{
    Epoch, ErrorCode, MeshError, NodeId, Result,
    state::{Command, ControlState, Grant, Member, MeshFacts, Outcome, QuotaOutcome, Role, RoleChange, RoleWanted},
};

use super::{MEMBERS_MAX, WANTED_BYTES_MAX, authority, governance, grants, members, registers, sources};

/// What a command came to, before the epoch is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Made,
    Admitted { node: NodeId, new: bool },
    Source { version: u64, changed: bool },
    Register { version: u64, value: Option<String> },
    Quota(QuotaOutcome),
}

impl Change {
    /// `Made` if `changed`.
    pub(super) fn made_if(changed: bool) -> Self {
        if changed { Self::Made } else { Self::None }
    }
}

/// Applies one committed command.
pub fn apply(state: &mut ControlState, command: &Command) -> Outcome {
    let change = match change(state, command) {
        Ok(change) => change,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    let changed = match change {
        Change::None | Change::Register { .. } | Change::Quota(_) => false,
        Change::Made => true,
        Change::Admitted { new, .. } => new,
        Change::Source { changed, .. } => changed,
    };
    if changed {
        state.epoch = Epoch(state.epoch.0 + 1);
    }
    match change {
        Change::None | Change::Made => Outcome::Done { epoch: state.epoch },
        Change::Admitted { node, .. } => Outcome::Admitted { node, epoch: state.epoch },
        Change::Source { version, changed } => Outcome::Applied { version, changed },
        Change::Register { version, value } => Outcome::Register { version, value },
        Change::Quota(outcome) => Outcome::Quota(outcome),
    }
}

fn change(state: &mut ControlState, command: &Command) -> Result<Change> {
    if state.mesh.is_none() && !matches!(command, Command::Form { .. } | Command::Restore { .. }) {
        return Err(refused("the mesh has not been formed yet"));
    }
    match command {
        Command::Form { facts, members, wanted, grants } => form(state, facts, members, wanted, grants),
        Command::Restore { state: kept } => restore(state, kept),
        Command::Admit { grant, member, now_unix_ms } => members::admit(state, grant, member, *now_unix_ms),
        Command::Describe { node, uuid, name, address, door, labels, outbound_only } => {
            let facts = members::Facts { uuid: *uuid, name, address, door, labels, outbound_only: *outbound_only };
            members::describe(state, *node, facts)
        }
        Command::SetStatus { node, from, to, now_unix_ms } => {
            members::set_status(state, *node, *from, *to, *now_unix_ms)
        }
        Command::SetVoter { node, voter } => members::set_voter(state, *node, *voter),
        Command::Remove { node } => members::remove(state, *node),
        Command::ApplySource { spec, expect_version } => sources::apply_source(state, spec, *expect_version),
        Command::DropSource { name } => sources::drop_source(state, name),
        Command::Want { role, wanted } => want(state, role, wanted.as_ref()),
        Command::Assign { at, changes } => assign(state, *at, changes),
        Command::PutGrant { grant } => grants::put(state, grant),
        Command::RevokeGrant { id } => grants::revoke(state, id),
        Command::SetDraining { node, draining, now_unix_ms } => {
            members::set_draining(state, *node, *draining, *now_unix_ms)
        }
        Command::Reach { node, source, version, reached, now_unix_ms } => {
            sources::reach(state, *node, source, *version, *reached, *now_unix_ms)
        }
        Command::Forgive { node, source, tries } => Ok(sources::forgive(state, *node, source, *tries)),
        Command::RotateAuthority { ca_certificate, rotation } => authority::rotate(state, ca_certificate, rotation),
        Command::Certified { node, authority } => authority::certified(state, *node, authority),
        Command::EndRotation { former_ca } => Ok(authority::end_rotation(state, former_ca)),
        Command::Register { name, op, request } => registers::change(state, name, op, request),
        Command::Govern(command) => governance::govern(state, command),
        Command::Quota(command) => governance::quota(&mut state.governance.quotas, command).map(Change::Quota),
        Command::Rest { node, roles } => members::rest(state, *node, roles),
    }
}

fn form(
    state: &mut ControlState,
    facts: &MeshFacts,
    members: &[Member],
    wanted: &BTreeMap<Role, RoleWanted>,
    grants: &[Grant],
) -> Result<Change> {
    if let Some(known) = &state.mesh {
        // The founder lost the reply and asks again.
        return if known.id == facts.id { Ok(Change::None) } else { Err(refused("the mesh has been formed already")) };
    }
    let ids: BTreeSet<NodeId> = members.iter().map(|m| m.id).collect();
    let uuids: BTreeSet<_> = members.iter().map(|m| m.uuid).collect();
    if members.is_empty() || members.len() > MEMBERS_MAX {
        return Err(refused(format!("a mesh is formed of 1 to {MEMBERS_MAX} members, not {}", members.len())));
    }
    if ids.len() != members.len() || uuids.len() != members.len() || ids.contains(&NodeId(0)) {
        return Err(refused("founding members need ids from 1 and uuids, all different"));
    }
    for member in members {
        members::check_size(member)?;
    }
    for wanted in wanted.values() {
        check_wanted(wanted)?;
    }
    for grant in grants {
        grants::check_size(grant)?;
    }
    state.next_node = ids.iter().map(|id| id.0).max().unwrap_or(0) + 1;
    state.members = members.iter().map(|m| (m.id, m.clone())).collect();
    state.wanted = wanted.clone();
    state.grants = grants.iter().map(|g| (g.id.clone(), g.clone())).collect();
    state.governance = governance::founding();
    state.mesh = Some(facts.clone());
    Ok(Change::Made)
}

fn restore(state: &mut ControlState, kept: &ControlState) -> Result<Change> {
    let Some(facts) = &kept.mesh else { return Err(refused("what is to be restored is no mesh")) };
    if let Some(known) = &state.mesh {
        return if known.id == facts.id { Ok(Change::None) } else { Err(refused("the mesh has been formed already")) };
    }
    let ids_fit = kept.members.keys().all(|id| id.0 < kept.next_node && !kept.removed.contains(id));
    if kept.members.is_empty() || !ids_fit {
        return Err(refused("what is to be restored has no members, or ids that do not fit"));
    }
    *state = kept.clone();
    Ok(Change::Made)
}

fn want(state: &mut ControlState, role: &Role, wanted: Option<&RoleWanted>) -> Result<Change> {
    let Some(wanted) = wanted else {
        return Ok(Change::made_if(state.wanted.remove(role).is_some()));
    };
    check_wanted(wanted)?;
    if let Role::Edge(source) = role
        && !state.sources.contains_key(source)
    {
        return Err(sources::unknown(source));
    }
    let before = state.wanted.insert(role.clone(), wanted.clone());
    Ok(Change::made_if(before.as_ref() != Some(wanted)))
}

fn assign(state: &mut ControlState, at: Epoch, changes: &[RoleChange]) -> Result<Change> {
    if at != state.epoch {
        return Err(MeshError::new(
            ErrorCode::VersionConflict,
            format!("roles were placed at epoch {at}, the mesh is at {}", state.epoch),
        ));
    }
    for change in changes {
        if change.held {
            members::known(state, change.node)?;
        }
    }
    // Compared as a whole: one list may give a role and take it back.
    let before = state.held.clone();
    for RoleChange { role, node, held } in changes {
        if *held {
            state.held.entry(role.clone()).or_default().insert(*node);
        } else {
            release(state, role, *node);
        }
    }
    Ok(Change::made_if(state.held != before))
}

/// Takes a role from a node; a role that nobody holds has no entry.
pub(super) fn release(state: &mut ControlState, role: &Role, node: NodeId) {
    let Some(holders) = state.held.get_mut(role) else { return };
    holders.remove(&node);
    if holders.is_empty() {
        state.held.remove(role);
    }
    if let Some(resting) = state.resting.get_mut(&node) {
        resting.remove(role);
        if resting.is_empty() {
            state.resting.remove(&node);
        }
    }
}

fn check_wanted(wanted: &RoleWanted) -> Result<()> {
    if labels_bytes(&wanted.labels) > WANTED_BYTES_MAX {
        return Err(MeshError::new(
            ErrorCode::InvalidResource,
            format!("the labels of a wanted role are over {WANTED_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

pub(super) fn labels_bytes(labels: &BTreeMap<String, String>) -> usize {
    labels.iter().map(|(key, value)| key.len() + value.len()).sum()
}

pub(super) fn refused(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::ProposalRefused, message)
}
