//! What the leader does about the mesh: notices who is gone and who is back, brings members into the log, keeps enough
//! voters, and has roles placed. Every node runs it; it acts only while the node leads.

use std::{collections::BTreeMap, sync::Arc};

use greylag_config::Timing;
use greylag_protocol::NodeId;
use tokio::sync::watch;

use super::RaftNode;
use crate::{mesh::LinkState, seams::Clock};

/// Runs until the node's Raft has stopped. Dropping the future stops it at once, which is safe at any point.
pub async fn lead(
    _raft: RaftNode,
    _links: watch::Receiver<BTreeMap<NodeId, LinkState>>,
    _clock: Arc<dyn Clock>,
    _timing: Timing,
) {
    todo!()
}
