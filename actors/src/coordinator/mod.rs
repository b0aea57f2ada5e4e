//! The coordinator role.

pub mod port;

use std::sync::Arc;

use greylag_protocol::statement::StatementService;

use crate::{ChildSpec, NodeCtx};

/// The role's actor, for the supervisor of roles. One on a node.
pub fn child_spec(_ctx: &Arc<NodeCtx>) -> ChildSpec {
    todo!()
}

/// The coordinator of this node as doors see it: it outlives the role's actor, and answers GL5005 while none runs.
pub fn statements(_ctx: &Arc<NodeCtx>) -> Arc<dyn StatementService> {
    todo!()
}
