//! The planner role: turns permitted statements into plans.
//!
//! Owns: the turn of planning on this node (so many at once) and the engine's use for it.
//! Asks: nobody; the engine is a library.
//! Is asked by: the coordinator of its own node, because plans are values in memory.
//! On restart it loses: plans being made. Their statements fail with GL4013 and can be run again.
//! On restart it recovers from: nothing, it keeps nothing.

mod actor;
pub mod port;

use std::sync::Arc;

use greylag_protocol::state::Role;

use crate::{ChildSpec, NodeCtx};

/// The role's actor, for the supervisor of roles. One on a node.
pub fn child_spec(ctx: &Arc<NodeCtx>) -> ChildSpec {
    let name = Role::Planner.to_string();
    let (full, ctx) = (ctx.name(&name), ctx.clone());
    ChildSpec::of(name, full, move || (actor::PlannerActor, ctx.clone()))
}
