//! skeleton
use std::sync::Arc;

use greylag_cluster::Mesh;
use greylag_config::{Limits, Timing};
use greylag_protocol::{Result, state::Role, statement::StatementService};

use crate::{
    NodeCtx,
    coordinator::port::BearerIssuer,
    edge::port::{ConnectorFactory, Secrets},
    planner::port::QueryEngine,
};

/// How role actors of different nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeersKind {
    /// ractor_cluster: one node in a process.
    Cluster,
    /// A stream per call: any number of nodes in a process.
    Stream,
}

/// What a node is put together from.
pub struct NodeParts {
    pub mesh: Mesh,
    pub engine: Arc<dyn QueryEngine>,
    pub connectors: Arc<dyn ConnectorFactory>,
    pub secrets: Arc<dyn Secrets>,
    pub bearer: Option<Arc<dyn BearerIssuer>>,
    pub limits: Limits,
    pub timing: Timing,
    pub peers: PeersKind,
}

pub struct Node {
    ctx: Arc<NodeCtx>,
}

impl Node {
    pub async fn start(_parts: NodeParts) -> Result<Self> {
        todo!()
    }
    pub fn ctx(&self) -> &Arc<NodeCtx> {
        &self.ctx
    }
    pub fn statements(&self) -> Arc<dyn StatementService> {
        todo!()
    }
    /// Waits until the actors of these roles run on this node.
    pub async fn wait_ready(&self, _roles: &[Role]) {
        todo!()
    }
    pub async fn shutdown(&self) {
        todo!()
    }
}
