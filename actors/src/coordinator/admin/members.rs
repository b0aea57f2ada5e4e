//! Members: draining, and the snapshot of the control state that only they can give.

use greylag_protocol::{ErrorCode, MeshError, NodeId, Result, state::Command, statement::AdminReply};

use super::done;
use crate::NodeCtx;

/// Bytes of a snapshot in one reply.
const SNAPSHOT_PIECE_BYTES: usize = 512 << 10;

pub(super) async fn drain(ctx: &NodeCtx, node: NodeId, draining: bool) -> Result<AdminReply> {
    check(ctx, node)?;
    let now_unix_ms = ctx.seams.clock.unix_ms();
    done(ctx.mesh.propose(Command::SetDraining { node, draining, now_unix_ms }).await?)
}

pub(super) fn check(ctx: &NodeCtx, node: NodeId) -> Result<()> {
    if ctx.mesh.state().member(node).is_none() {
        return Err(MeshError::new(ErrorCode::InvalidResource, format!("no member is `{node}`")));
    }
    Ok(())
}

/// A piece of the snapshot. Each call makes it anew; the digest tells whether it still is the same.
pub(super) async fn save_snapshot(ctx: &NodeCtx, from: u64) -> Result<AdminReply> {
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
