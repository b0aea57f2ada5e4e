//! Changes to resources, tokens and membership. For principals with the role `admin`; what is checked here is checked
//! before anything is proposed to the log, and nothing secret is ever put into it but the secrets of join tokens.

use std::{sync::Arc, time::Duration};

use greylag_cluster::identity::token;
use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    state::{AllowedRoles, Command, Grant, Outcome, SourceSpec},
    statement::{AdminCall, AdminReply, JoinTokenInfo, Session},
};

use crate::{NodeCtx, edge::port::SECRET_OPTIONS};

/// Longest validity of a join token.
pub const JOIN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Nodes that one join token may admit.
pub const JOIN_USES_MAX: u32 = 1_000;
/// Longest time for which two authorities are trusted.
const OVERLAP_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Bytes of a snapshot in one reply.
const SNAPSHOT_PIECE_BYTES: usize = 512 << 10;
/// Edges that one source may ask for.
pub const REPLICAS_MAX: u32 = 64;

/// Runs one call.
pub async fn run(ctx: &Arc<NodeCtx>, session: &Session, call: AdminCall) -> Result<AdminReply> {
    if !session.principal.is_admin() {
        let message = format!("principal `{}` does not hold the role `admin`", session.principal.id);
        return Err(MeshError::new(ErrorCode::Denied, message));
    }
    match call {
        AdminCall::ApplySource { spec, expect_version } => {
            check_source(ctx, &spec)?;
            match ctx.mesh.propose(Command::ApplySource { spec, expect_version }).await? {
                Outcome::Applied { version, changed } => Ok(AdminReply::Applied { version, changed }),
                other => done(other),
            }
        }
        AdminCall::DropSource { name } => {
            if !ctx.mesh.state().sources.contains_key(&name) {
                return Err(MeshError::new(ErrorCode::UnknownSource, format!("no source is called `{name}`")));
            }
            done(ctx.mesh.propose(Command::DropSource { name }).await?)
        }
        AdminCall::CreateJoinToken { uses, ttl_secs, allowed } => create_token(ctx, uses, ttl_secs, allowed).await,
        AdminCall::ListJoinTokens => Ok(AdminReply::Tokens(list_tokens(ctx))),
        AdminCall::RevokeJoinToken { id } => done(ctx.mesh.propose(Command::RevokeGrant { id }).await?),
        AdminCall::RemoveNode { node } => {
            check_member(ctx, node)?;
            done(ctx.mesh.propose(Command::Remove { node }).await?)
        }
        AdminCall::DrainNode { node } => drain(ctx, node, true).await,
        AdminCall::UndrainNode { node } => drain(ctx, node, false).await,
        AdminCall::IssueBearer { subject, roles, ttl_secs } => {
            super::bearer::issue(ctx, subject, roles, ttl_secs).await
        }
        AdminCall::RotateAuthority { overlap_secs } => {
            let overlap = Duration::from_millis(ttl_ms(overlap_secs, OVERLAP_MAX)?);
            ctx.mesh.rotate_authority(overlap).await.map(|()| AdminReply::Done)
        }
        AdminCall::SaveSnapshot { from } => save_snapshot(ctx, from).await,
        AdminCall::ReadRegister { name } => {
            let (version, value) = ctx.mesh.read_register(&name).await?.map(|r| (r.version, r.value)).unzip();
            Ok(AdminReply::Register { version: version.unwrap_or(0), value })
        }
        AdminCall::ChangeRegister { name, op, request } => done(ctx.mesh.change_register(&name, op, request).await?),
    }
}

async fn drain(ctx: &NodeCtx, node: NodeId, draining: bool) -> Result<AdminReply> {
    check_member(ctx, node)?;
    let now_unix_ms = ctx.seams.clock.unix_ms();
    done(ctx.mesh.propose(Command::SetDraining { node, draining, now_unix_ms }).await?)
}

fn check_member(ctx: &NodeCtx, node: NodeId) -> Result<()> {
    if ctx.mesh.state().member(node).is_none() {
        return Err(MeshError::new(ErrorCode::InvalidResource, format!("no member is `{node}`")));
    }
    Ok(())
}

fn done(outcome: Outcome) -> Result<AdminReply> {
    match outcome {
        Outcome::Refused(error) => Err(error),
        Outcome::Register { version, value } => Ok(AdminReply::Register { version, value }),
        _ => Ok(AdminReply::Done),
    }
}

fn check_source(ctx: &NodeCtx, spec: &SourceSpec) -> Result<()> {
    let invalid =
        |message: String| Err(MeshError::new(ErrorCode::InvalidResource, message).of_source(spec.name.clone()));
    if !ctx.connectors.kinds().contains(&spec.kind.as_str()) {
        let kinds = ctx.connectors.kinds().join("`, `");
        return invalid(format!("field `kind`: `{}` is none of `{kinds}`", spec.kind));
    }
    if !(1..=REPLICAS_MAX).contains(&spec.replicas) {
        return invalid(format!("field `replicas`: {} is not between 1 and {REPLICAS_MAX}", spec.replicas));
    }
    for name in SECRET_OPTIONS {
        let plain = |value: &String| !value.starts_with("env:") && !value.starts_with("file:");
        if spec.options.get(name).is_some_and(plain) {
            // The value itself is not repeated: it is a secret in the wrong place.
            return invalid(format!("option `{name}` must be a reference `env:NAME` or `file:/path`, not the value"));
        }
    }
    ctx.connectors.validate(spec)
}

async fn create_token(ctx: &NodeCtx, uses: u32, ttl_secs: u64, allowed: AllowedRoles) -> Result<AdminReply> {
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

/// A piece of the snapshot. Each call makes it anew; the digest tells whether it still is the same.
async fn save_snapshot(ctx: &NodeCtx, from: u64) -> Result<AdminReply> {
    let bytes = ctx.mesh.archive().await?.pack()?;
    let piece = bytes.get(from as usize..).unwrap_or_default();
    let piece = &piece[..piece.len().min(SNAPSHOT_PIECE_BYTES)];
    // It ends with the digest of all before.
    let digest = hex(&bytes[bytes.len().saturating_sub(32)..]);
    Ok(AdminReply::Snapshot { hex: hex(piece), bytes: bytes.len() as u64, digest })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list_tokens(ctx: &NodeCtx) -> Vec<JoinTokenInfo> {
    let shown = |grant: &Grant| JoinTokenInfo {
        id: grant.id.clone(),
        uses_left: grant.uses_left,
        expires_unix_ms: grant.expires_unix_ms,
        allowed: grant.allowed.clone(),
    };
    ctx.mesh.state().grants.values().map(shown).collect()
}

pub(super) fn ttl_ms(ttl_secs: u64, max: Duration) -> Result<u64> {
    if ttl_secs == 0 || ttl_secs > max.as_secs() {
        let message = format!("`ttl_secs` must be between 1 and {}", max.as_secs());
        return Err(MeshError::new(ErrorCode::InvalidResource, message));
    }
    Ok(ttl_secs * 1_000)
}
