//! What of a call goes into the audit: its name, and the name of what it is about. Calls that change nothing are recorded
//! where they are denied, or give away the mesh's keys, or say what somebody else may see.
//!
//! INVARIANT: no secret and no statement's literal is in it.

use std::sync::Arc;

use greylag_governance::audit::{AuditRecord, ChangeRecord, Outcome, Who};
use greylag_protocol::{
    Epoch, ErrorCode,
    statement::{AdminCall, Session},
};

use crate::NodeCtx;

/// Whether the call is recorded only where it is denied.
pub(super) fn only_reads(call: &AdminCall) -> bool {
    match call {
        AdminCall::SaveSnapshot { from } => *from > 0,
        AdminCall::ListJoinTokens
        | AdminCall::ReadRegister { .. }
        | AdminCall::CheckPolicy { .. }
        | AdminCall::ListKeys { .. }
        | AdminCall::ShowResource { .. } => true,
        _ => false,
    }
}

/// Name of the call, and of what it is about.
pub(super) fn subject(call: &AdminCall) -> (&'static str, String) {
    match call {
        AdminCall::ApplySource { spec, .. } => ("apply source", spec.name.to_string()),
        AdminCall::DropSource { name } => ("drop source", name.to_string()),
        AdminCall::CreateJoinToken { uses, ttl_secs, .. } => {
            ("create join token", format!("{uses} uses, {ttl_secs} s"))
        }
        AdminCall::RevokeJoinToken { id } => ("revoke join token", id.clone()),
        AdminCall::RemoveNode { node } => ("remove node", node.to_string()),
        AdminCall::IssueBearer { principal, ttl_secs } => {
            ("issue bearer token", format!("for {} with roles {:?}, {ttl_secs} s", principal.id, principal.roles))
        }
        AdminCall::DrainNode { node } => ("drain node", node.to_string()),
        AdminCall::UndrainNode { node } => ("undrain node", node.to_string()),
        AdminCall::RotateAuthority { overlap_secs } => ("rotate authority", format!("{overlap_secs} s of overlap")),
        AdminCall::SaveSnapshot { .. } => ("save snapshot", "the control state with the mesh's keys".into()),
        AdminCall::PutPolicy { id, .. } => ("put policy", id.clone()),
        AdminCall::DropPolicy { id } => ("drop policy", id.clone()),
        AdminCall::PutTag { tag, .. } => ("put tag", tag.clone()),
        AdminCall::DeclareAttribute { name, .. } => ("declare attribute", name.clone()),
        AdminCall::PutSettings { .. } => ("put settings", "governance".into()),
        AdminCall::SetQuota { key, limit } => ("set quota", format!("{key}: {limit:?} micro-credits")),
        AdminCall::CreateKey { principal, .. } => ("create key", format!("for {}", principal.id)),
        AdminCall::RevokeKey { id } => ("revoke key", id.clone()),
        AdminCall::Why(request) => ("why", format!("as {}", request.principal.id)),
        AdminCall::ChangeRegister { name, .. } => ("change register", name.clone()),
        AdminCall::ListJoinTokens => ("list join tokens", String::new()),
        AdminCall::ReadRegister { name, .. } => ("read register", name.clone()),
        AdminCall::CheckPolicy { .. } => ("check policy", String::new()),
        AdminCall::ListKeys { .. } => ("list keys", String::new()),
        AdminCall::ShowResource { .. } => ("show resource", String::new()),
    }
}

/// The record of a call that has ended; `code` unless it is done.
pub(super) fn record(
    ctx: &Arc<NodeCtx>,
    session: &Session,
    (call, what): (&'static str, String),
    before: Epoch,
    code: Option<ErrorCode>,
) -> AuditRecord {
    AuditRecord::Change(Box::new(ChangeRecord {
        at_unix_ms: ctx.seams.clock.unix_ms(),
        who: Who::of(&session.principal),
        door: session.door.to_owned(),
        client: session.client.map(|client| client.to_string()),
        call: call.to_owned(),
        what,
        epoch_before: before.0,
        epoch_after: code.is_none().then(|| ctx.mesh.state().epoch.0),
        outcome: code.map_or(Outcome::Done, Outcome::of),
        code: code.map(|code| code.to_string()),
        cut: false,
    }))
}
