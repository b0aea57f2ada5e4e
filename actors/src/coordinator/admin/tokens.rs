//! Join tokens. Their secrets are in the log, since every node must be able to check them; nobody is shown one again.

use std::time::Duration;

use greylag_cluster::identity::token;
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    state::{AllowedRoles, Command, Grant, Outcome},
    statement::{AdminReply, JoinTokenInfo},
};

use super::ttl_ms;
use crate::NodeCtx;

/// Longest validity of a join token.
const JOIN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Nodes that one join token may admit.
const JOIN_USES_MAX: u32 = 1_000;

pub(super) async fn create(ctx: &NodeCtx, uses: u32, ttl_secs: u64, allowed: AllowedRoles) -> Result<AdminReply> {
    if allowed.as_ref().is_some_and(|allowed| allowed.is_empty()) {
        return Err(MeshError::new(ErrorCode::InvalidResource, "`allowed` names no role: leave it out to allow all"));
    }
    if !(1..=JOIN_USES_MAX).contains(&uses) {
        let message = format!("`uses` must be between 1 and {JOIN_USES_MAX}");
        return Err(MeshError::new(ErrorCode::InvalidResource, message));
    }
    let ttl_ms = ttl_ms(ttl_secs, JOIN_TTL_MAX)?;
    let state = ctx.mesh.state();
    let facts = state.mesh.as_ref().ok_or_else(|| MeshError::internal("the mesh has not been founded"))?;
    let (minted, grant) = token::mint(&facts.ca_certificate, uses, ctx.seams.clock.unix_ms() + ttl_ms, allowed)?;
    match ctx.mesh.propose(Command::PutGrant { grant }).await? {
        Outcome::Refused(error) => Err(error),
        _ => Ok(AdminReply::Token { token: token::format(&minted) }),
    }
}

pub(super) fn list(ctx: &NodeCtx) -> Vec<JoinTokenInfo> {
    let shown = |grant: &Grant| JoinTokenInfo {
        id: grant.id.clone(),
        uses_left: grant.uses_left,
        expires_unix_ms: grant.expires_unix_ms,
        allowed: grant.allowed.clone(),
    };
    ctx.mesh.state().grants.values().map(shown).collect()
}
