//! The edge role.

pub mod port;

use std::sync::Arc;

use greylag_cluster::Incoming;
use greylag_protocol::SourceName;
use tokio::sync::{Mutex, mpsc};

use crate::{ChildSpec, NodeCtx};

/// The role's actor for one source, for the supervisor of roles.
pub fn child_spec(_ctx: &Arc<NodeCtx>, _source: SourceName) -> ChildSpec {
    todo!()
}

/// What takes the edge calls of other nodes and hands each to the edge it is for; one on every node, whatever its
/// roles. `streams` is `Mesh::serve(StreamTag::Data)`: it can be had only once, so it outlives the actor.
pub fn door_spec(_ctx: &Arc<NodeCtx>, _streams: Arc<Mutex<mpsc::Receiver<Incoming>>>) -> ChildSpec {
    todo!()
}
