//! What every actor of a node is given: the mesh, the ports, the limits, and the node's own names. One `Arc` per node;
//! nothing in it is global, so that several nodes can live in one process.
//!
//! INVARIANT: no actor gets its ractor name but through [`ActorHome::name`]: ractor's registry is one per process.

use std::sync::{Arc, OnceLock};

use greylag_cluster::{Mesh, Seams};
use greylag_config::{Limits, Timing};
use greylag_protocol::{ErrorCode, MeshError, NodeId, Result};
use ractor::ActorCell;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::Audit,
    bounds::{Bound, Bounds},
    coordinator::{
        port::{BearerIssuer, Hooks},
        spill::SpillSpace,
    },
    directory::RoleDirectory,
    edge::{
        parking::Parking,
        port::{ConnectorFactory, Secrets},
    },
    peers::Peers,
    planner::port::QueryEngine,
    quota::Quotas,
    rest::Work,
    tree::ActorTree,
};

/// Where an actor lives: what supervision needs to know of a node, and nothing of the mesh.
#[derive(Debug, Clone)]
pub struct ActorHome {
    pub node: NodeId,
    pub tree: ActorTree,
    /// Seed for jitter.
    pub seed: u64,
}

impl ActorHome {
    pub fn new(node: NodeId, seed: u64) -> Self {
        Self { node, tree: ActorTree::new(node), seed }
    }

    /// Name of an actor in this process: `edge/orders` becomes `n3/edge/orders`.
    pub fn name(&self, local: &str) -> String {
        format!("{}/{local}", self.node)
    }

    /// Name of an actor within its node: the reverse of [`Self::name`]. Empty for an actor without a name.
    pub fn local_name(&self, cell: &ActorCell) -> String {
        let name = cell.get_name().unwrap_or_default();
        name.strip_prefix(&format!("{}/", self.node)).unwrap_or(&name).to_owned()
    }
}

/// Everything a role needs.
pub struct NodeCtx {
    pub node: NodeId,
    pub mesh: Mesh,
    pub seams: Seams,
    pub limits: Limits,
    pub timing: Timing,
    pub engine: Arc<dyn QueryEngine>,
    pub connectors: Arc<dyn ConnectorFactory>,
    pub secrets: Arc<dyn Secrets>,
    /// Signs bearer tokens; `None` where no door's crate is plugged in.
    pub bearer: Option<Arc<dyn BearerIssuer>>,
    /// Steps of statements that somebody else fills.
    pub hooks: Hooks,
    pub directory: RoleDirectory,
    pub home: ActorHome,
    /// Named limits, and how full they are.
    pub bounds: Bounds,
    /// Memory for rows that wait, over all statements.
    pub held: Arc<Bound>,
    /// Disk for rows that wait, over all statements.
    pub spill: Arc<SpillSpace>,
    /// Answers of this node's edges that wait for their coordinators.
    pub parking: Arc<Parking>,
    /// The node's audit chain: what is recorded, and whether it can be.
    pub audit: Arc<Audit>,
    /// What statements may spend here, and what they have used.
    pub quota: Arc<Quotas>,
    /// What runs in the roles of this node.
    pub work: Work,
    /// Fires when the node shuts down. Tasks that are no actors end on it.
    pub stopping: CancellationToken,
    pub(crate) peers: OnceLock<Arc<dyn Peers>>,
}

impl NodeCtx {
    /// See [`ActorHome::name`].
    pub fn name(&self, local: &str) -> String {
        self.home.name(local)
    }

    /// The supervision tree as `system.actors` shows it.
    pub fn tree(&self) -> &ActorTree {
        &self.home.tree
    }

    /// Calls to role actors, on this node and on others. GL5005 before the node has started.
    pub fn peers(&self) -> Result<Arc<dyn Peers>> {
        self.peers
            .get()
            .cloned()
            .ok_or_else(|| MeshError::new(ErrorCode::ShuttingDown, "the node has not started yet").at_node(self.node))
    }
}

impl std::fmt::Debug for NodeCtx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeCtx").field("node", &self.node).finish_non_exhaustive()
    }
}
