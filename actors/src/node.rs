//! A node without its doors: the mesh below, the roles that placement gives it above, everything in one supervision
//! tree. The binary adds doors to it, a simulation runs many of it in one process.
//!
//! ```text
//! node (rest for one)
//! ├── peers        calls between role actors
//! ├── edge-door    edge calls of other nodes
//! ├── roles        coordinator, planner, policy, edge/…: never gives up, only slows down
//! ├── placement    starts and stops what is under `roles`
//! ├── reach        whether this node reaches the sources of its edges
//! ├── rest         in which roles nothing runs any more, while this node drains
//! ├── quota        what this node may spend of the mesh's quotas
//! └── audit        writes the audit chain, and tells the mesh its head
//! ```
//!
//! INVARIANT: after `shutdown` nothing of the node runs or holds its context.

use std::{sync::Arc, time::Duration};

use greylag_cluster::Mesh;
use greylag_config::{Limits, Timing};
use greylag_protocol::{MeshError, Result, frame::StreamTag, state::Role, statement::StatementService};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{self, Audit, AuditParts, MeshHeads, WAITING_RECORDS_MAX},
    bounds::Bounds,
    context::{ActorHome, NodeCtx},
    coordinator::{
        self,
        port::{BearerIssuer, Hooks},
        spill::SpillSpace,
    },
    directory::RoleDirectory,
    edge::{
        self,
        parking::Parking,
        port::{ConnectorFactory, Secrets},
    },
    peers::{ClusterPeers, Peers, StreamPeers},
    placement::{ROLES, Reconciler, RoleSpecs},
    planner::{self, port::QueryEngine},
    policy,
    quota::{self, MeshLog, Quotas},
    reach,
    rest::{self, Work},
    supervision::{Budget, ChildSpec, Strategy, Supervisor, SupervisorRef},
};

/// Bytes of batches that all edges of a node keep, for coordinators whose connection dies.
const TAILS_BYTES_MAX: u64 = 256 << 20;

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
    pub hooks: Hooks,
    pub limits: Limits,
    pub timing: Timing,
    pub peers: PeersKind,
    pub audit: AuditParts,
}

/// A running node.
pub struct Node {
    ctx: Arc<NodeCtx>,
    root: SupervisorRef,
}

impl Node {
    /// Starts what every node has, and then whatever roles it holds. Returns before the roles run: see
    /// [`Self::wait_ready`]. Takes the mesh's streams of actors, control and data, so a mesh can be started on once.
    pub async fn start(parts: NodeParts) -> Result<Self> {
        let specs: RoleSpecs = Arc::new(|ctx, role| match role {
            Role::Coordinator => coordinator::child_spec(ctx),
            Role::Planner => planner::child_spec(ctx),
            Role::Policy => policy::child_spec(ctx),
            Role::Edge(source) => edge::child_spec(ctx, source.clone()),
        });
        let ctx = context(&parts);
        let streams = Arc::new(Mutex::new(ctx.mesh.serve(StreamTag::Data)?));
        let services = vec![edge::door_spec(&ctx, streams)];
        Self::assemble(ctx, parts.peers, services, specs).await
    }

    pub(crate) async fn assemble(
        ctx: Arc<NodeCtx>,
        peers: PeersKind,
        services: Vec<ChildSpec>,
        specs: RoleSpecs,
    ) -> Result<Self> {
        let (port, peers_spec): (Arc<dyn Peers>, ChildSpec) = match peers {
            PeersKind::Cluster => {
                let (port, spec) = ClusterPeers::new(&ctx)?;
                (port, spec)
            }
            PeersKind::Stream => {
                let (port, spec) = StreamPeers::new(&ctx)?;
                (port, spec)
            }
        };
        if ctx.peers.set(port).is_err() {
            return Err(MeshError::internal("a node was started twice"));
        }
        let roles = Supervisor::child_spec(&ctx.home, ROLES, Strategy::OneForOne, Budget::endless(), Vec::new);
        let reconciler = Reconciler::new(ctx.clone(), specs);
        let placement = ChildSpec::task(&ctx.home, "placement", move || reconciler.clone().run());
        let looking = ctx.clone();
        let reach = ChildSpec::task(&ctx.home, "reach", move || reach::watch(looking.clone()));
        let resting = ctx.clone();
        let rest = ChildSpec::task(&ctx.home, "rest", move || rest::watch(resting.clone()));
        let spending = ctx.quota.clone();
        let quota = ChildSpec::task(&ctx.home, "quota", move || quota::drive(spending.clone()));
        // Before anybody can ask for something that has to be recorded.
        ctx.audit.open().await;
        let recording = ctx.audit.clone();
        let audit = ChildSpec::task(&ctx.home, "audit", move || audit::drive(recording.clone()));
        let children = [vec![peers_spec], services, vec![roles, placement, reach, rest, quota, audit]].concat();
        let root =
            Supervisor::spawn(&ctx.home, "node", Strategy::RestForOne, Budget::endless(), children, None).await?;
        Ok(Self { ctx, root })
    }

    pub fn ctx(&self) -> &Arc<NodeCtx> {
        &self.ctx
    }

    /// Statements, by way of the coordinator of this node, looked up at each call: see [`coordinator::statements`].
    pub fn statements(&self) -> Arc<dyn StatementService> {
        coordinator::statements(&self.ctx)
    }

    /// Waits until the actors of these roles run on this node; for as long as it takes.
    pub async fn wait_ready(&self, roles: &[Role]) {
        let mut changes = self.ctx.directory.watch();
        loop {
            changes.borrow_and_update();
            let running = self.ctx.directory.roles();
            if roles.iter().all(|role| running.contains(role)) || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Stops everything, roles first; the mesh is left to whoever started it. Queries under way fail.
    pub async fn shutdown(&self) {
        self.ctx.stopping.cancel();
        self.root.stop().await;
        // Not before the last statement has ended.
        self.ctx.quota.give_back().await;
        self.ctx.audit.close().await;
    }
}

impl Drop for Node {
    /// A node that is dropped without `shutdown` stops too, though nobody waits for it.
    fn drop(&mut self) {
        self.ctx.stopping.cancel();
        self.root.cell().stop(None);
    }
}

/// The context of a node that is about to start.
pub(crate) fn context(parts: &NodeParts) -> Arc<NodeCtx> {
    let (mesh, node) = (parts.mesh.clone(), parts.mesh.node());
    let seams = mesh.seams().clone();
    let bounds = Bounds::default();
    let spill = bounds.open("limits.spill_bytes_max", "", parts.limits.spill_bytes_max);
    let patience = Duration::from_millis(parts.timing.call_timeout_ms);
    let quota = Arc::new(Quotas::new(Arc::new(MeshLog(mesh.clone())), patience));
    let heads = Arc::new(MeshHeads(mesh.clone()));
    let audit = Audit::new(&parts.audit, heads, bounds.open("audit.waiting_records_max", "", WAITING_RECORDS_MAX));
    Arc::new(NodeCtx {
        audit: Arc::new(audit),
        node,
        home: ActorHome::new(node, seams.seed),
        mesh,
        held: bounds.open("limits.node_memory_bytes_max", "", parts.limits.node_memory_bytes_max),
        spill: SpillSpace::new(seams.scratch.clone(), seams.blocking.clone(), spill),
        parking: Parking::new(bounds.open("edge.tail_bytes_max", "", TAILS_BYTES_MAX)),
        bounds,
        seams,
        limits: parts.limits.clone(),
        timing: parts.timing.clone(),
        engine: parts.engine.clone(),
        connectors: parts.connectors.clone(),
        secrets: parts.secrets.clone(),
        bearer: parts.bearer.clone(),
        hooks: parts.hooks.clone(),
        directory: RoleDirectory::new(),
        quota,
        work: Work::default(),
        stopping: CancellationToken::new(),
        peers: std::sync::OnceLock::new(),
    })
}
