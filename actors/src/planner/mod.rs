//! The planner role.

pub mod port;

use std::sync::Arc;

use crate::{ChildSpec, NodeCtx};

/// The role's actor, for the supervisor of roles. One on a node.
pub fn child_spec(_ctx: &Arc<NodeCtx>) -> ChildSpec {
    todo!()
}
