//! Commands by which one authority takes over from another. The keys are never among them.

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    state::{ControlState, Rotation},
};

use super::{
    CERTIFICATE_BYTES_MAX,
    apply::{Change, refused},
    members::known,
};

pub(super) fn rotate(state: &mut ControlState, ca_certificate: &[u8], rotation: &Rotation) -> Result<Change> {
    let Some(facts) = &mut state.mesh else { return Err(refused("the mesh has not been formed yet")) };
    if facts.ca_certificate == ca_certificate {
        return Ok(Change::None);
    }
    if facts.ca_certificate != rotation.former_ca {
        let message = "another authority has taken over in the meantime";
        return Err(MeshError::new(ErrorCode::VersionConflict, message));
    }
    if state.rotation.is_some() {
        return Err(refused("an authority is taking over already: wait until the former is trusted no more"));
    }
    let all = [ca_certificate, &rotation.former_ca, &rotation.new_by_former, &rotation.former_by_new];
    if all.iter().any(|certificate| certificate.is_empty() || certificate.len() > CERTIFICATE_BYTES_MAX) {
        return Err(refused(format!("an authority's certificate has 1 to {CERTIFICATE_BYTES_MAX} bytes")));
    }
    facts.ca_certificate = ca_certificate.to_vec();
    state.rotation = Some(rotation.clone());
    Ok(Change::Made)
}

pub(super) fn certified(state: &mut ControlState, node: NodeId, authority: &[u8]) -> Result<Change> {
    known(state, node)?;
    if authority.len() != 32 {
        return Err(refused("an authority is named by its SHA-256"));
    }
    let Some(member) = state.members.get_mut(&node) else { return Ok(Change::None) };
    let changed = member.certified_by != authority;
    member.certified_by = authority.to_vec();
    Ok(Change::made_if(changed))
}

/// Of another rotation than the one under way it changes nothing.
pub(super) fn end_rotation(state: &mut ControlState, former_ca: &[u8]) -> Change {
    if state.rotation.as_ref().is_none_or(|rotation| rotation.former_ca != former_ca) {
        return Change::None;
    }
    state.rotation = None;
    Change::Made
}
