//! The policy role: decides who may do what.
//!
//! Owns: the decision about each statement, at an epoch of the replicated state, and decisions already made.
//! Asks: nobody; policies are in the state, and the tables' columns in the question.
//! Is asked by: coordinators of any node, through `Peers`.
//! On restart it loses: decisions already made. A question under way is asked again elsewhere.
//! On restart it recovers from: the replicated state.

mod actor;
mod core;
pub mod port;

use std::sync::Arc;

use greylag_protocol::state::Role;

use crate::{ChildSpec, NodeCtx};

/// The role's actor, for the supervisor of roles. One on a node.
pub fn child_spec(ctx: &Arc<NodeCtx>) -> ChildSpec {
    let name = Role::Policy.to_string();
    let (full, ctx) = (ctx.name(&name), ctx.clone());
    ChildSpec::of(name, full, move || (actor::PolicyActor, ctx.clone()))
}
