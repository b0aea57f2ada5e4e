//! Commands about grants, and what a grant allows. A grant that is used up stays until its place is needed, so that its
//! bearer is told that it is used up and not that it never was.

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    state::{ControlState, Grant},
};

use super::{
    GRANT_BYTES_MAX, GRANTS_MAX,
    apply::{Change, refused},
};

/// A grant put twice keeps the uses it has left: a proposer that lost the reply gives nothing away by asking again.
pub(super) fn put(state: &mut ControlState, grant: &Grant) -> Result<Change> {
    if let Some(known) = state.grants.get(&grant.id) {
        let same = known.secret == grant.secret
            && known.expires_unix_ms == grant.expires_unix_ms
            && known.allowed == grant.allowed;
        return if same { Ok(Change::None) } else { Err(refused(format!("grant `{}` exists already", grant.id))) };
    }
    check_size(grant)?;
    if state.grants.len() >= GRANTS_MAX {
        state.grants.retain(|_, g| g.uses_left > 0);
    }
    if state.grants.len() >= GRANTS_MAX {
        return Err(refused(format!("the mesh has {GRANTS_MAX} grants and takes no more; revoke some")));
    }
    state.grants.insert(grant.id.clone(), grant.clone());
    Ok(Change::Made)
}

pub(super) fn revoke(state: &mut ControlState, id: &str) -> Result<Change> {
    match state.grants.remove(id) {
        Some(_) => Ok(Change::Made),
        None => Err(refused(format!("grant `{id}` is not known"))),
    }
}

/// GL4004 if there is no such grant.
pub(super) fn known<'a>(state: &'a ControlState, id: &str) -> Result<&'a Grant> {
    state
        .grants
        .get(id)
        .ok_or_else(|| MeshError::new(ErrorCode::JoinTokenWrong, format!("join token `{id}` is not known")))
}

/// GL4005 once expired, GL4006 once used up.
pub(super) fn check_usable(grant: &Grant, now_unix_ms: u64) -> Result<()> {
    if now_unix_ms >= grant.expires_unix_ms {
        return Err(MeshError::new(ErrorCode::JoinTokenExpired, format!("join token `{}` has expired", grant.id)));
    }
    if grant.uses_left == 0 {
        return Err(MeshError::new(ErrorCode::JoinTokenSpent, format!("join token `{}` has been used up", grant.id)));
    }
    Ok(())
}

/// Takes one use.
pub(super) fn spend(state: &mut ControlState, id: &str) {
    if let Some(grant) = state.grants.get_mut(id) {
        grant.uses_left = grant.uses_left.saturating_sub(1);
    }
}

pub(super) fn check_size(grant: &Grant) -> Result<()> {
    let allowed: usize = grant.allowed.iter().flatten().map(|role| role.to_string().len()).sum();
    if grant.id.len() + grant.secret.len() + allowed > GRANT_BYTES_MAX {
        return Err(refused(format!("id, secret and roles of a grant are over {GRANT_BYTES_MAX} bytes")));
    }
    Ok(())
}
