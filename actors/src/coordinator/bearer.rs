//! Bearer tokens are signed with the mesh's own key, which voters keep: a coordinator on another node asks one of theirs.
//!
//! INVARIANT: who asks for somebody holds the coordinator role by the replicated state and has signed the request, and a
//! request is good for a moment and for one node.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    messages::control::{BearerClaim, BearerRequest, ControlReply, ControlRequest},
    principal::Principal,
    state::{MemberStatus, Role},
    statement::AdminReply,
};

use super::admin::{check_principal, ttl_ms};
use crate::NodeCtx;

/// Longest validity of a bearer token.
pub const BEARER_TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
/// How far the clocks of two nodes, and the time that a request takes, may lie apart.
const CLAIM_AGE_MAX: Duration = Duration::from_secs(60);
/// Coordinators asked, one after another.
const ASKED_MAX: usize = 5;

pub(super) async fn issue(ctx: &Arc<NodeCtx>, principal: Principal, ttl_secs: u64) -> Result<AdminReply> {
    check(&principal, ttl_secs)?;
    if ctx.mesh.authority().is_some() {
        return sign(ctx, &principal, ttl_secs).map(|token| AdminReply::Token { token });
    }
    let (peers, within) = (ctx.peers()?, Duration::from_millis(ctx.timing.call_timeout_ms));
    let message = "this node does not keep the mesh's authority, and no coordinator that does can be reached";
    let mut last = MeshError::new(ErrorCode::PeerUnreachable, message).at_node(ctx.node);
    for keeper in keepers(ctx) {
        let claim = BearerClaim {
            asker: ctx.node,
            keeper,
            asked_unix_ms: ctx.seams.clock.unix_ms(),
            principal: principal.clone(),
            ttl_secs,
        };
        let signature = ctx.mesh.sign(&claim.signed_bytes()?);
        let request = ControlRequest::IssueBearer(BearerRequest { claim, signature });
        match peers.call(keeper, &Role::Coordinator, request, within).await {
            Ok(ControlReply::Bearer(token)) => return Ok(AdminReply::Token { token }),
            Ok(ControlReply::Error(error)) | Err(error) => last = error,
            Ok(_) => {}
        }
    }
    Err(last)
}

/// Answers another coordinator.
pub(super) fn answer(ctx: &NodeCtx, request: &BearerRequest) -> ControlReply {
    let claim = &request.claim;
    let answered = check_claim(ctx, request)
        .and_then(|()| check(&claim.principal, claim.ttl_secs))
        .and_then(|()| sign(ctx, &claim.principal, claim.ttl_secs));
    answered.map_or_else(ControlReply::Error, ControlReply::Bearer)
}

fn check_claim(ctx: &NodeCtx, BearerRequest { claim, signature }: &BearerRequest) -> Result<()> {
    let denied = |message: String| Err(MeshError::new(ErrorCode::Denied, message).at_node(ctx.node));
    ctx.mesh.verify(claim.asker, &claim.signed_bytes()?, signature)?;
    if !ctx.mesh.state().holds(claim.asker, &Role::Coordinator) {
        return denied(format!("{} does not coordinate", claim.asker));
    }
    let age = ctx.seams.clock.unix_ms().abs_diff(claim.asked_unix_ms);
    if claim.keeper != ctx.node || u128::from(age) > CLAIM_AGE_MAX.as_millis() {
        return denied("the request is old, or was meant for another node".to_owned());
    }
    Ok(())
}

fn check(principal: &Principal, ttl_secs: u64) -> Result<()> {
    check_principal(principal)?;
    ttl_ms(ttl_secs, BEARER_TTL_MAX).map(|_| ())
}

fn sign(ctx: &NodeCtx, principal: &Principal, ttl_secs: u64) -> Result<String> {
    let missing = |message: &str| MeshError::new(ErrorCode::Unsupported, message).at_node(ctx.node);
    let authority = ctx.mesh.authority().ok_or_else(|| missing("this node does not keep the mesh's authority"))?;
    let issuer = ctx.bearer.as_ref().ok_or_else(|| missing("this node has no door that issues bearer tokens"))?;
    issuer.issue(&authority, principal, ttl_secs, ctx.seams.clock.unix_ms())
}

/// Other coordinators that vote and are there: voters keep the authority.
fn keepers(ctx: &NodeCtx) -> Vec<NodeId> {
    let state = ctx.mesh.state();
    let keeps = |node: &NodeId| state.member(*node).is_some_and(|m| m.voter && m.status != MemberStatus::Down);
    let all = state.live_holders(&Role::Coordinator);
    all.into_iter().filter(|node| *node != ctx.node).filter(keeps).take(ASKED_MAX).collect()
}
