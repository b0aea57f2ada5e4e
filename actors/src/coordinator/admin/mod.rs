//! Changes to resources, keys, tokens and membership, and questions about them. For principals with the role `admin`; what
//! is checked here is checked before anything is proposed to the log, and nothing secret is ever put into it but the
//! secrets of join tokens.

mod keys;
mod members;
mod policies;
mod recorded;
mod settings;
mod shown;
mod sources;
mod tokens;
mod why;

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    principal::Principal,
    state::{Command, GovernCommand, Outcome},
    statement::{AdminCall, AdminReply, Session},
};

use tokio::time::timeout;

use super::Coordinator;
use crate::NodeCtx;

pub(super) use keys::check_principal;

/// Longest time for which two authorities are trusted.
const OVERLAP_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Who may change the mesh and ask how it is governed.
fn check_manages(principal: &Principal) -> Result<()> {
    if principal.is_admin() {
        return Ok(());
    }
    let message = format!("principal `{}` does not hold the role `admin`", principal.id);
    Err(MeshError::new(ErrorCode::Denied, message))
}

/// Longest wait for what a call has changed to be known here too.
const KNOWN_MAX: Duration = Duration::from_millis(1_000);

/// Runs one call, and records it.
pub async fn run(coordinator: &Arc<Coordinator>, session: &Session, call: AdminCall) -> Result<AdminReply> {
    let ctx = &coordinator.ctx;
    let (subject, before) = (recorded::subject(&call), ctx.mesh.state().epoch);
    if recorded::only_reads(&call) {
        let outcome = carry_out(coordinator, session, call).await;
        if let Err(error) = &outcome
            && error.code == ErrorCode::Denied
        {
            ctx.audit.admit()?.record(recorded::record(ctx, session, subject, before, Some(error.code)));
        }
        return outcome;
    }
    let admission = ctx.audit.admit()?;
    let outcome = carry_out(coordinator, session, call).await;
    if outcome.is_ok() {
        // Without a leader the epoch in the record is the one known here.
        let _ = timeout(KNOWN_MAX, ctx.mesh.catch_up()).await;
    }
    let code = outcome.as_ref().err().map(|error| error.code);
    admission.record(recorded::record(ctx, session, subject, before, code));
    outcome
}

async fn carry_out(coordinator: &Arc<Coordinator>, session: &Session, call: AdminCall) -> Result<AdminReply> {
    check_manages(&session.principal)?;
    let ctx = &coordinator.ctx;
    match call {
        AdminCall::ApplySource { spec, expect_version } => {
            sources::check(ctx, &spec)?;
            done(ctx.mesh.propose(Command::ApplySource { spec, expect_version }).await?)
        }
        AdminCall::DropSource { name } => {
            if !ctx.mesh.state().sources.contains_key(&name) {
                return Err(MeshError::new(ErrorCode::UnknownSource, format!("no source is called `{name}`")));
            }
            done(ctx.mesh.propose(Command::DropSource { name }).await?)
        }
        AdminCall::CreateJoinToken { uses, ttl_secs, allowed } => tokens::create(ctx, uses, ttl_secs, allowed).await,
        AdminCall::ListJoinTokens => Ok(AdminReply::Tokens(tokens::list(ctx))),
        AdminCall::RevokeJoinToken { id } => done(ctx.mesh.propose(Command::RevokeGrant { id }).await?),
        AdminCall::RemoveNode { node } => {
            members::check(ctx, node)?;
            done(ctx.mesh.propose(Command::Remove { node }).await?)
        }
        AdminCall::DrainNode { node } => members::drain(ctx, node, true).await,
        AdminCall::UndrainNode { node } => members::drain(ctx, node, false).await,
        AdminCall::IssueBearer { principal, ttl_secs } => super::bearer::issue(ctx, principal, ttl_secs).await,
        AdminCall::RotateAuthority { overlap_secs } => {
            let overlap = Duration::from_millis(ttl_ms(overlap_secs, OVERLAP_MAX)?);
            ctx.mesh.rotate_authority(overlap).await.map(|()| AdminReply::Done)
        }
        AdminCall::SaveSnapshot { from } => members::save_snapshot(ctx, from).await,
        AdminCall::ReadRegister { name } => {
            let (version, value) = ctx.mesh.read_register(&name).await?.map(|r| (r.version, r.value)).unzip();
            Ok(AdminReply::Register { version: version.unwrap_or(0), value })
        }
        AdminCall::ChangeRegister { name, op, request } => done(ctx.mesh.change_register(&name, op, request).await?),
        governing => govern(coordinator, session, governing).await,
    }
}

/// Calls about who may do what. Each is checked against, and tells of, everything that was committed before it, at
/// whichever node: a policy is not let through because the tag that it does not fit was put at another one a moment ago.
async fn govern(coordinator: &Arc<Coordinator>, session: &Session, call: AdminCall) -> Result<AdminReply> {
    let ctx = &coordinator.ctx;
    ctx.mesh.catch_up().await?;
    match call {
        AdminCall::PutPolicy { id, text, expect_version } => {
            policies::put(coordinator, session, id, text, expect_version).await
        }
        AdminCall::CheckPolicy { id, text, beside } => policies::check(coordinator, id, text, beside).await,
        AdminCall::DropPolicy { id } => propose(ctx, GovernCommand::DropPolicy { id }).await,
        AdminCall::PutTag { tag, places, expect_version } => {
            policies::put_tag(coordinator, tag, places, expect_version).await
        }
        AdminCall::DeclareAttribute { name, kind } => policies::declare(coordinator, name, kind).await,
        AdminCall::PutSettings { settings, expect_version } => settings::put(ctx, settings, expect_version).await,
        AdminCall::SetQuota { key, limit } => settings::set_quota(ctx, key, limit).await,
        AdminCall::CreateKey { principal, scopes, networks, ttl_secs } => {
            keys::create(ctx, principal, scopes, networks, ttl_secs).await
        }
        AdminCall::ListKeys { after } => Ok(keys::list(ctx, after.as_deref())),
        AdminCall::RevokeKey { id } => keys::revoke(ctx, id).await,
        AdminCall::ShowResource { of } => Ok(AdminReply::Resource(shown::show(&ctx.mesh.state(), &of))),
        AdminCall::Why(request) => why::explain(coordinator, *request).await,
        other => Err(MeshError::new(ErrorCode::Unsupported, format!("this coordinator does not know {other:?}"))),
    }
}

async fn propose(ctx: &NodeCtx, command: GovernCommand) -> Result<AdminReply> {
    done(ctx.mesh.propose(Command::Govern(command)).await?)
}

fn done(outcome: Outcome) -> Result<AdminReply> {
    match outcome {
        Outcome::Refused(error) => Err(error),
        Outcome::Applied { version, changed } => Ok(AdminReply::Applied { version, changed }),
        Outcome::Register { version, value } => Ok(AdminReply::Register { version, value }),
        _ => Ok(AdminReply::Done),
    }
}

pub(super) fn ttl_ms(ttl_secs: u64, max: Duration) -> Result<u64> {
    if ttl_secs == 0 || ttl_secs > max.as_secs() {
        let message = format!("`ttl_secs` must be between 1 and {}", max.as_secs());
        return Err(MeshError::new(ErrorCode::InvalidResource, message));
    }
    Ok(ttl_secs * 1_000)
}
